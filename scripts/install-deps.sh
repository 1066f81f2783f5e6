#!/bin/bash
# Installs what is missing, from Debian's packages, as root: `scripts/install-deps.sh build demo test`.
# Does nothing (and needs no root) when everything is there. Servers for tests are not installed but unpacked under build/
# (scripts/fetch-etcd.sh); Node.js comes from Debian only when there is no `node`, since packages of two vendors conflict.
set -euo pipefail

build="gcc make pkg-config libuv1-dev libcurl4-openssl-dev libcjson-dev libzstd-dev libnghttp2-dev libprotobuf-c-dev
       protobuf-c-compiler libhttp-parser-dev libxxhash-dev libyaml-dev libssl-dev ca-certificates"
demo="python3 python3-sklearn python3-numpy"
test="curl jq openssl libcriterion-dev clang clang-format clang-tidy cppcheck gcovr valgrind python3 libclang-rt-14-dev
      curl jq iproute2 iptables e2fsprogs"

want=""
for set in "$@"; do
    case $set in
    build) want="$want $build" ;;
    demo) want="$want $demo" ;;
    test) want="$want $test" ;;
    *) echo "install-deps.sh: unknown set '$set' (build, demo, test)" >&2; exit 2 ;;
    esac
done
command -v node >/dev/null || want="$want nodejs"
command -v npm >/dev/null || want="$want npm"

missing=""
for package in $want; do
    dpkg-query -W -f='${db:Status-Status}\n' "$package" 2>/dev/null | grep -qx installed || missing="$missing $package"
done
[ -z "$missing" ] && exit 0

if [ "$(id -u)" != 0 ]; then
    echo "install-deps.sh: these packages are missing and only root can install them:$missing" >&2
    exit 1
fi
echo "installing:$missing"
export DEBIAN_FRONTEND=noninteractive
apt-get -qq update || echo "install-deps.sh: apt-get update failed; trying with the lists at hand" >&2
# shellcheck disable=SC2086
if ! apt-get -qq install -y --no-install-recommends $missing >/tmp/outrigger-apt.$$ 2>&1; then
    tail -20 /tmp/outrigger-apt.$$ >&2
    rm -f /tmp/outrigger-apt.$$
    echo "install-deps.sh: apt-get install failed (above); install these by hand:$missing" >&2
    exit 1
fi
rm -f /tmp/outrigger-apt.$$
