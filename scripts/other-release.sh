# For scripts that source it: packages of another release of Debian beside this system's own. They come from the mirror
# that this system takes its packages from, by a configuration and package lists of their own: what apt knows of this
# system stays as it is. Uses the caller's fail().

# use_release CODENAME DIRECTORY NAME: from here on apt-get is of that release, with what it keeps in the directory; NAME
# is what will be lacking if that fails.
use_release() {
    keyring=/usr/share/keyrings/debian-archive-keyring.gpg
    [ -e "$keyring" ] || fail "$keyring is missing (package debian-archive-keyring), so nothing could be verified: no $3"
    # The mirror of this very release: the line without a "-updates" or "-security" behind its name.
    release=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
    mirror=$(apt-get indextargets --format '$(RELEASE) $(REPO_URI)' 'Identifier: Packages' |
        awk -v release="$release" '$1 == release && !found { print $2; found = 1 }')
    [ -n "$mirror" ] || fail "apt names no mirror for \"$release\": no $3"
    mkdir -p "$2/lists/partial" "$2/cache/archives/partial"
    echo "deb [signed-by=$keyring] $mirror $1 main" >"$2/sources.list"
    cat >"$2/apt.conf" <<EOF
Dir::Etc::SourceList "$2/sources.list";
Dir::Etc::SourceParts "/dev/null";
Dir::Etc::Preferences "/dev/null";
Dir::Etc::PreferencesParts "/dev/null";
Dir::State::Lists "$2/lists";
Dir::Cache "$2/cache";
Acquire::Languages "none";
EOF
    export APT_CONFIG="$2/apt.conf"
    apt-get -q -o APT::Sandbox::User=root update >"$2/log" 2>&1 && ! grep -q '^[EW]:' "$2/log" || {
        cat "$2/log" >&2
        fail "cannot read the package list of $1 from this system's mirror: no $3"
    }
}
