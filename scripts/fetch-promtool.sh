#!/bin/sh
# Unpacks Debian's promtool (it checks /metrics) under $BUILD/servers/promtool, for tests. Nothing is installed and no
# service is started. Does nothing when it has been done before.
set -eu

build=${BUILD:-build}
target=$build/servers/promtool
stamp=$target/.unpacked

fail() {
    echo "fetch-promtool: $*" >&2
    exit 1
}

if [ -e "$stamp" ] && [ -x "$target/promtool" ]; then
    exit 0
fi
command -v apt-get >/dev/null && command -v dpkg >/dev/null || fail "needs apt-get and dpkg (Debian or a relative of it)"

mkdir -p "$build/servers"
work=$(mktemp -d "$build/servers/promtool.XXXXXX")
trap 'rm -rf "$work"' EXIT
mkdir "$work/root" "$work/target"

# apt fetches as the user _apt if it can; that needs a directory which that user may write to, else it warns.
(cd "$work" && apt-get download -q -o APT::Sandbox::User=root prometheus) >"$work/log" 2>&1 || {
    cat "$work/log" >&2
    fail "cannot download prometheus; is the network there, and the package index (apt-get update)?"
}
dpkg -x "$work"/prometheus_*.deb "$work/root" || fail "cannot unpack prometheus"
mv "$work/root/usr/bin/promtool" "$work/target/promtool" # the server itself, larger than all else, is not needed
"$work/target/promtool" --version >/dev/null 2>&1 || fail "the unpacked promtool does not run on this machine"

# Whole or not at all, also when two of us run at once: the later one gives way.
rm -rf "$target"
touch "$work/target/.unpacked"
mv -T "$work/target" "$target" 2>/dev/null || [ -e "$stamp" ] || fail "cannot move promtool to $target"
