#include "sidecar/io/random.h"

#include <criterion/criterion.h>
#include <string.h>

Test(random, fills_all_of_it)
{
    unsigned char seen[1000] = {0};
    unsigned char bytes[1002];

    /* A byte stays 0 in 20 rounds with probability 2^-160. */
    for (int round = 0; round < 20; round++) {
        memset(bytes, 0, sizeof bytes);
        cr_assert(random_bytes(bytes + 1, 1000) == 0);
        cr_assert(bytes[0] == 0 && bytes[1001] == 0, "and nothing else");
        for (int i = 0; i < 1000; i++) {
            seen[i] |= bytes[1 + i];
        }
    }
    cr_assert(memchr(seen, 0, sizeof seen) == NULL);
}

Test(random, numbers_differ)
{
    uint64_t any = 0;

    for (int i = 0; i < 1000; i++) {
        uint64_t a = random_u64();

        cr_assert(a != 0 && a != random_u64());
        any |= a;
    }
    cr_assert(any == UINT64_MAX, "every bit is used");
}
