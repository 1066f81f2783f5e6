#!/bin/bash
# The program is position independent, its tables are read-only once it runs, its stacks are guarded and not executable, and
# _FORTIFY_SOURCE is in effect: read from the program itself. `tests/hardening.sh [PROGRAM]`.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1
program=${1:-${BUILD:-build}/outrigger}

# Prints what PROGRAM lacks; nothing when it lacks nothing.
lacks() {
    local headers dynamic symbols
    headers=$(readelf -hlW "$1") && dynamic=$(readelf -dW "$1") && symbols=$(readelf --dyn-syms -W "$1") || {
        echo "readelf cannot read it"
        return
    }
    grep -q 'Type: *DYN' <<<"$headers" || echo "not position independent (PIE)"
    grep -q 'GNU_RELRO' <<<"$headers" || echo "no read-only relocations (RELRO)"
    grep -Eq 'BIND_NOW|FLAGS_1.*NOW' <<<"$dynamic" || echo "symbols are bound late (-z now)"
    grep -Eq 'GNU_STACK .* RW +0x' <<<"$headers" || echo "the stack is executable"
    grep -Eq 'LOAD .* RWE ' <<<"$headers" && echo "a segment is writable and executable"
    grep -q '__stack_chk_fail' <<<"$symbols" || echo "no stack protector"
    grep -Eq '__(memcpy|snprintf|vsnprintf|strcpy|read)_chk' <<<"$symbols" || echo "no _FORTIFY_SOURCE"
    grep -Eq '\((RPATH|RUNPATH)\)' <<<"$dynamic" && echo "looks for libraries in a path of its own"
    return 0
}

found=$(lacks "$program")
if [ -n "$found" ]; then
    printf '%s:\n%s\n' "$program" "$found"
    exit 1
fi

# A program made without all that must be found out, or the above proves nothing.
scratch=$(mktemp -d) || exit 1
trap 'rm -rf "$scratch"' EXIT
echo 'int main(void) { return 0; }' >"$scratch/bare.c"
${CC:-gcc} -O0 -fno-stack-protector -no-pie -Wl,-z,norelro,-z,lazy,-z,execstack,-rpath,/nowhere -o "$scratch/bare" "$scratch/bare.c" \
    2>/dev/null || exit 1
missed=$(lacks "$scratch/bare" | wc -l)
if [ "$missed" -lt 7 ]; then
    echo "of a program without any hardening only $missed lacks were found:"
    lacks "$scratch/bare"
    exit 1
fi
echo "$program lacks nothing; a bare program lacks $missed things"
