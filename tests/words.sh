#!/bin/bash
# Words that mark unfinished work, and sleeps in tests: neither may be committed.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1
bad=0
files=$(git ls-files '*.c' '*.h' '*.js' '*.mjs' '*.sh' '*.py' '*.md' '*.yml' '*.proto' 'Makefile' | grep -v '^tests/words.sh$')
if printf '%s\n' "$files" | xargs grep -nHIE '(^|[^"])\b(TODO|FIXME|XXX|HACK|not implemented|unimplemented)\b'; then
    echo "unfinished work is marked above"
    bad=1
fi
if grep -rnHE '#include <(uv|curl|time|pthread|sys/socket|unistd)[./].*>|"(backends|engines)/' sidecar/core; then
    echo "sidecar/core must stay pure"
    bad=1
fi
if grep -rnHE '#include <uv\.h>' sidecar/log; then
    echo "sidecar/log works without libuv"
    bad=1
fi
exit $bad
