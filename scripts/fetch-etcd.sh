#!/bin/sh
# Unpacks Debian's etcd under $BUILD/servers/etcd, for tests and `outrigger dev`: $BUILD/servers/etcd/usr/bin/etcd and
# etcdctl. Nothing is installed and no service is started. Does nothing when it has been done before.
set -eu

build=${BUILD:-build}
target=$build/servers/etcd
stamp=$target/.unpacked

fail() {
    echo "fetch-etcd: $*" >&2
    exit 1
}

if [ -e "$stamp" ] && [ -x "$target/usr/bin/etcd" ]; then
    exit 0
fi
command -v apt-get >/dev/null && command -v dpkg >/dev/null || fail "needs apt-get and dpkg (Debian or a relative of it)"

mkdir -p "$build/servers"
work=$(mktemp -d "$build/servers/etcd.XXXXXX")
trap 'rm -rf "$work"' EXIT
mkdir "$work/root"

# apt fetches as the user _apt if it can; that needs a directory which that user may write to, else it warns.
for package in etcd-server etcd-client; do
    (cd "$work" && apt-get download -q -o APT::Sandbox::User=root "$package") >"$work/log" 2>&1 || {
        cat "$work/log" >&2
        fail "cannot download $package; is the network there, and the package index (apt-get update)?"
    }
done
for deb in "$work"/*.deb; do
    dpkg -x "$deb" "$work/root" || fail "cannot unpack ${deb##*/}"
done
"$work/root/usr/bin/etcd" --version >/dev/null || fail "the unpacked etcd does not run on this machine"

# Whole or not at all, also when two of us run at once: the later one gives way.
rm -rf "$target"
touch "$work/root/.unpacked"
mv -T "$work/root" "$target" 2>/dev/null || [ -e "$stamp" ] || fail "cannot move etcd to $target"
