#!/bin/sh
# Unpacks Debian's etcd under $BUILD/servers, for tests and `outrigger dev`. Nothing is installed and no service is
# started. Does nothing when it has been done before.
#
#   fetch-etcd.sh        this system's: $BUILD/servers/etcd/usr/bin/etcd and etcdctl (Debian 12: 3.4)
#   fetch-etcd.sh 3.5    Debian 13's, for tests: $BUILD/servers/etcd-3.5/usr/bin/etcd (statically linked, runs on both)
set -eu

build=$(mkdir -p "${BUILD:-build}" && cd "${BUILD:-build}" && pwd)
version=${1:-}
target=$build/servers/etcd${version:+-$version}
stamp=$target/.unpacked

fail() {
    echo "fetch-etcd: $*" >&2
    exit 1
}

case $version in
'') packages="etcd-server etcd-client" ;;
3.5) packages=etcd-server ;;
*) fail "there is no version $version, only 3.5 and, without a word, this system's" ;;
esac
if [ -e "$stamp" ] && [ -x "$target/usr/bin/etcd" ]; then
    exit 0
fi
command -v apt-get >/dev/null && command -v dpkg >/dev/null || fail "needs apt-get and dpkg (Debian or a relative of it)"
. "$(dirname "$0")/other-release.sh"

mkdir -p "$build/servers"
work=$(mktemp -d "$build/servers/etcd.XXXXXX")
trap 'rm -rf "$work"' EXIT
mkdir "$work/root"

[ -z "$version" ] || use_release trixie "$work/apt" "etcd $version"

# apt fetches as the user _apt if it can; that needs a directory which that user may write to, else it warns.
for package in $packages; do
    (cd "$work" && apt-get download -q -o APT::Sandbox::User=root "$package") >"$work/log" 2>&1 || {
        cat "$work/log" >&2
        fail "cannot download $package; is the network there, and the package index (apt-get update)?"
    }
done
for deb in "$work"/*.deb; do
    dpkg -x "$deb" "$work/root" || fail "cannot unpack ${deb##*/}"
done
"$work/root/usr/bin/etcd" --version >"$work/log" || fail "the unpacked etcd does not run on this machine"
[ -z "$version" ] || grep -q "^etcd Version: $version\." "$work/log" || fail "not $version: $(head -n 1 "$work/log")"

# Whole or not at all, also when two of us run at once: the later one gives way.
rm -rf "$target"
touch "$work/root/.unpacked"
mv -T "$work/root" "$target" 2>/dev/null || [ -e "$stamp" ] || fail "cannot move etcd to $target"
