#!/bin/sh
# Unpacks Debian 11's consul, which Debian 12 does not have and which runs there, as $BUILD/servers/consul/usr/bin/consul,
# for tests and `outrigger dev`. Nothing is installed and no service is started. Does nothing when it has been done before.
#
# The package comes from the mirror that this system takes its own packages from, by a configuration and package lists of
# their own under $BUILD: what apt knows of this system stays as it is.
set -eu

build=$(mkdir -p "${BUILD:-build}" && cd "${BUILD:-build}" && pwd)
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
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
[ -e "$keyring" ] || fail "$keyring is missing (package debian-archive-keyring): what is fetched could not be verified"

mkdir -p "$build/servers"
work=$(mktemp -d "$build/servers/consul.XXXXXX")
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/root" "$work/apt/lists/partial" "$work/apt/cache/archives/partial"

# The mirror of this very release: the line without a "-updates" or "-security" behind its name.
release=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
mirror=$(apt-get indextargets --format '$(RELEASE) $(REPO_URI)' 'Identifier: Packages' |
    awk -v release="$release" '$1 == release && !found { print $2; found = 1 }')
[ -n "$mirror" ] || fail "apt names no mirror for \"$release\""
echo "deb [signed-by=$keyring] $mirror bullseye main" >"$work/apt/sources.list"
cat >"$work/apt/apt.conf" <<EOC
Dir::Etc::SourceList "$work/apt/sources.list";
Dir::Etc::SourceParts "/dev/null";
Dir::Etc::Preferences "/dev/null";
Dir::Etc::PreferencesParts "/dev/null";
Dir::State::Lists "$work/apt/lists";
Dir::Cache "$work/apt/cache";
Acquire::Languages "none";
EOC
export APT_CONFIG="$work/apt/apt.conf"
apt-get -q -o APT::Sandbox::User=root update >"$work/log" 2>&1 && ! grep -q '^[EW]:' "$work/log" || {
    cat "$work/log" >&2
    fail "cannot read Debian 11's package list from this system's mirror: no Consul"
}
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
