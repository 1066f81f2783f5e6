#!/bin/sh
# Unpacks Debian's etcd under $BUILD/servers, for tests and `outrigger dev`. Nothing is installed and no service is
# started. Does nothing when it has been done before.
#
#   fetch-etcd.sh        this system's: $BUILD/servers/etcd/usr/bin/etcd and etcdctl (Debian 12: 3.4)
#   fetch-etcd.sh 3.5    Debian 13's, for tests: $BUILD/servers/etcd-3.5/usr/bin/etcd (statically linked, runs on both)
#
# Debian 13's package comes from the mirror that this system takes its own packages from, by a configuration and package
# lists of their own under $BUILD: what apt knows of this system stays as it is.
set -eu

build=$(mkdir -p "${BUILD:-build}" && cd "${BUILD:-build}" && pwd)
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
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

mkdir -p "$build/servers"
work=$(mktemp -d "$build/servers/etcd.XXXXXX")
trap 'rm -rf "$work"' EXIT
mkdir "$work/root"

# Debian 13 beside this system: sources, lists and cache of its own.
use_trixie() {
    # The mirror of this very release: the line without a "-updates" or "-security" behind its name.
    release=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
    mirror=$(apt-get indextargets --format '$(RELEASE) $(REPO_URI)' 'Identifier: Packages' |
        awk -v release="$release" '$1 == release && !found { print $2; found = 1 }')
    [ -n "$mirror" ] || fail "apt names no mirror for \"$release\": no etcd 3.5"
    [ -e "$keyring" ] || fail "$keyring is missing: no etcd 3.5"
    mkdir -p "$work/apt/lists/partial" "$work/apt/cache/archives/partial"
    echo "deb [signed-by=$keyring] $mirror trixie main" >"$work/apt/sources.list"
    cat >"$work/apt/apt.conf" <<EOF
Dir::Etc::SourceList "$work/apt/sources.list";
Dir::Etc::SourceParts "/dev/null";
Dir::Etc::Preferences "/dev/null";
Dir::Etc::PreferencesParts "/dev/null";
Dir::State::Lists "$work/apt/lists";
Dir::Cache "$work/apt/cache";
Acquire::Languages "none";
EOF
    export APT_CONFIG="$work/apt/apt.conf"
    apt-get -q -o APT::Sandbox::User=root update >"$work/log" 2>&1 && ! grep -q '^[EW]:' "$work/log" || {
        cat "$work/log" >&2
        fail "cannot read Debian 13's package list from this system's mirror: no etcd 3.5"
    }
}

[ -z "$version" ] || use_trixie

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
