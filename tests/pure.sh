#!/bin/bash
# The core and the journal need neither libuv nor curl nor any other library: all of their objects link with libc, libm and
# threads alone. A stray call into the event loop would be an undefined symbol here.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1
lib=${BUILD:-build}/lib
scratch=$(mktemp -d) || exit 1
trap 'rm -rf "$scratch"' EXIT
echo 'int main(void) { return 0; }' >"$scratch/main.c"

# Every object of the archives, wanted or not.
links() {
    ${CC:-gcc} -o "$scratch/main" "$scratch/main.c" -Wl,--whole-archive "$@" -Wl,--no-whole-archive -lm -lpthread 2>"$scratch/errors"
}

if ! links "$lib/libcore.a" "$lib/liblog.a"; then
    echo "libcore.a and liblog.a do not link by themselves:"
    grep -o 'undefined reference to .*' "$scratch/errors" | sort | uniq -c
    exit 1
fi
if ! links "$lib/libcore.a"; then
    echo "libcore.a does not link by itself, without liblog.a:"
    grep -o 'undefined reference to .*' "$scratch/errors" | sort | uniq -c
    exit 1
fi

# A room that does use them must fail, or the above proves nothing.
if links "$lib/libcore.a" "$lib/libio.a" || ! grep -q 'undefined reference to `uv_' "$scratch/errors" ||
    ! grep -q 'undefined reference to `curl_' "$scratch/errors"; then
    echo "libio.a, which uses libuv and curl, links without them: this test notices nothing"
    exit 1
fi
echo "libcore.a and liblog.a are pure"
