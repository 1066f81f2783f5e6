#!/bin/sh
# Installs RuVector's npm packages beside our server around them: engines/ruvector/node/node_modules, exactly as
# package-lock.json says. Does nothing when they are there already. Prints the directory.
#
#   usage: scripts/fetch-ruvector.sh
set -eu

fail() {
    echo "fetch-ruvector: $*" >&2
    exit 1
}

here=$(cd "$(dirname "$0")/.." && pwd)
server=$here/engines/ruvector/node
modules=$server/node_modules
stamp=$modules/.outrigger-stamp

# Two runs at once would install over each other.
exec 9< "$server/package.json"
flock 9

wanted=$(sha256sum < "$server/package-lock.json" | cut -d' ' -f1)
if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ]; then
    echo "$modules"
    exit 0
fi

command -v node > /dev/null || fail "node is missing: install Debian's nodejs (18 or later)"
command -v npm > /dev/null || fail "npm is missing: install Debian's npm"
major=$(node -p 'process.versions.node.split(".")[0]')
[ "$major" -ge 18 ] || fail "node $(node --version) is too old: 18 or later is needed"
[ "$(uname -m)" = x86_64 ] || fail "the packages are pinned for x86_64, this machine is $(uname -m)"

# Aside and then in place: servers that run meanwhile never see half of it.
work=$(mktemp -d "$server/.fetch.XXXXXX")
trap 'rm -rf "$work"' EXIT
cp "$server/package.json" "$server/package-lock.json" "$server/.npmrc" "$work"
if ! (cd "$work" && npm ci --omit=dev --no-audit --no-fund) > "$work/log" 2>&1; then
    cat "$work/log" >&2
    fail "npm ci failed: is the package registry reachable?"
fi
# What was installed must load here: a C library that is too old shows only now.
(cd "$work" && node -e 'require("@ruvector/core").version()') || fail "RuVector was installed but does not load"
echo "$wanted" > "$work/node_modules/.outrigger-stamp"
rm -rf "$modules"
mv "$work/node_modules" "$modules"
echo "$modules"
