/* Tests that pass although they do what the sanitizers and valgrind exist to find. Criterion sees nothing: only the
 * reports tell. test_canary.py runs them as tests/run.py runs every suite, and expects that it notices. */
#include <criterion/criterion.h>

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void *volatile seen;

Test(clean, frees_what_it_takes)
{
    seen = malloc(100);
    free(seen);
}

/* Not inlined, and the pointer overwritten: no register or stack slot may still hold it at the end. */
__attribute__((noinline)) static void lose(void)
{
    seen = malloc(1000);
    memset(seen, 1, 1000);
    seen = NULL;
}

Test(leak, loses_a_thousand_bytes)
{
    lose();
}

Test(undefined, overflows_an_int)
{
    volatile int big = INT_MAX;

    big = big + 1;
}

Test(uninitialised, branches_on_what_nobody_wrote)
{
    volatile unsigned char *bytes;

    seen = malloc(16);
    bytes = seen;
    if (bytes[3] == 7) {
        fputs("seven\n", stderr);
    }
    free(seen);
}
