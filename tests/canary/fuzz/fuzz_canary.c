/* A fuzz target with two bugs: it reads a byte too far of an input that begins with 'o', and what it states does not
 * hold for one that begins with 'c'. test_canary.py expects that replaying such an input fails. */
#include "tests/fuzz/fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    char *copy = fuzz_copy(data, bytes, 0);

    if (bytes > 0 && copy[0] == 'o') {
        fprintf(stderr, "%d\n", copy[bytes]);
    }
    FUZZ_CHECK(bytes == 0 || copy[0] != 'c');
    free(copy);
    return 0;
}
