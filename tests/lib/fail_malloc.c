#include "tests/lib/fail_malloc.h"

#include <stddef.h>

/* The linker's names: a call of malloc() becomes __wrap_malloc(), and __real_malloc() is the C library's. */
void *__real_malloc(size_t bytes);
void *__real_calloc(size_t count, size_t bytes);
void *__real_realloc(void *p, size_t bytes);
void *__wrap_malloc(size_t bytes);
void *__wrap_calloc(size_t count, size_t bytes);
void *__wrap_realloc(void *p, size_t bytes);

static uint64_t fail_in;

void fail_malloc_at(uint64_t nth)
{
    fail_in = nth;
}

bool fail_malloc_pending(void)
{
    return fail_in != 0;
}

uint64_t fail_malloc_hold(void)
{
    uint64_t left = fail_in;

    fail_in = 0;
    return left;
}

static bool must_fail(void)
{
    return fail_in != 0 && --fail_in == 0;
}

void *__wrap_malloc(size_t bytes)
{
    return must_fail() ? NULL : __real_malloc(bytes);
}

void *__wrap_calloc(size_t count, size_t bytes)
{
    return must_fail() ? NULL : __real_calloc(count, bytes);
}

void *__wrap_realloc(void *p, size_t bytes)
{
    return must_fail() ? NULL : __real_realloc(p, bytes);
}
