#!/bin/sh
# Unpacks Debian 11's consul, which Debian 12 does not have and which runs there, as $BUILD/servers/consul/usr/bin/consul,
# for tests and `outrigger dev`. Nothing is installed and no service is started. Does nothing when it has been done before.
set -eu

build=$(mkdir -p "${BUILD:-build}" && cd "${BUILD:-build}" && pwd)
target=$build/servers/consul
stamp=$target/.unpacked

fail() {
    echo "fetch-consul: $*" >&2
    exit 1
}

if [ -e "$stamp" ] && [ -x "$target/usr/bin/consul" ]; then
    exit 0
fi
command -v apt-get >/dev/null && command -v dpkg >/dev/null || fail "needs apt-get and dpkg (Debian or a relative of it)"
. "$(dirname "$0")/other-release.sh"

mkdir -p "$build/servers"
work=$(mktemp -d "$build/servers/consul.XXXXXX")
trap 'rm -rf "$work"' EXIT
mkdir "$work/root"

use_release bullseye "$work/apt" Consul
(cd "$work" && apt-get download -q -o APT::Sandbox::User=root consul) >"$work/log" 2>&1 || {
    cat "$work/log" >&2
    fail "cannot download consul from this system's mirror"
}
dpkg -x "$work"/consul_*.deb "$work/root" || fail "cannot unpack the package"
"$work/root/usr/bin/consul" version >"$work/log" 2>&1 || fail "the unpacked consul does not run on this machine"
grep -q '^Consul v1\.' "$work/log" || fail "not what was expected: $(head -n 1 "$work/log")"

# Whole or not at all, also when two of us run at once: the later one gives way.
rm -rf "$target"
touch "$work/root/.unpacked"
mv -T "$work/root" "$target" 2>/dev/null || [ -e "$stamp" ] || fail "cannot move consul to $target"
