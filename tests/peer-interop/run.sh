#!/bin/bash
# An independent gRPC implementation, grpc-js, against our peer service, both ways. BUILD: build folder, as for make.
# Its packages are installed under the build folder. Exit 77: they cannot be fetched.
set -euo pipefail
cd "$(dirname "$0")/../.."
build=${BUILD:-build}
work=$build/peer-interop
mkdir -p "$work"
if ! cmp -s tests/peer-interop/package-lock.json "$work/node_modules/.installed"; then
    cp tests/peer-interop/package.json tests/peer-interop/package-lock.json "$work"
    if ! (cd "$work" && npm ci --no-audit --no-fund) > "$work/npm.log" 2>&1; then
        cat "$work/npm.log" >&2
        echo "peer-interop: skipped: npm ci failed" >&2
        exit 77
    fi
    cp tests/peer-interop/package-lock.json "$work/node_modules/.installed"
fi
make -s BUILD="$build" "$build/bin/peer-echo" all "$build/servers/etcd/.unpacked"
timeout 110 node tests/peer-interop/interop.js "$work" "$build/bin/peer-echo" "$build/outrigger" \
    "$build/servers/etcd/usr/bin/etcd" "$build/gen"
