/* Makes a call of the C library, libuv, libcurl, nghttp2 or OpenSSL fail in code that knows nothing of it: such calls
 * as can fail in earnest. The Makefile makes copies of the rooms' libraries in which each name that stands in a WRAP
 * below is
 * __wrap_NAME (it reads them from fail_calls.c and fail_calls_uv.c): so calls of the code under test go through here,
 * those of tests and those that shared libraries make among themselves do not. cJSON's allocations count, too, in unit
 * tests.
 *
 * In the whole program the environment says what fails:
 *
 *     OUTRIGGER_FAIL=memory:17    the 17th allocation of the process returns NULL, once
 *     OUTRIGGER_FAIL=call:17      the 17th other call fails, once, in the way it does in earnest
 *     OUTRIGGER_FAIL=fdatasync@F  the next call of that name, once there is a file F, which is removed
 *     OUTRIGGER_FAIL=count        none; the end of the process says how many there were
 *
 * and what fails is said on standard error before it does; with OUTRIGGER_FAIL_TRACE set and AddressSanitizer, where it
 * was called from, too. A unit test says it by the functions below. All threads count together. */
#ifndef OUTRIGGER_TESTS_LIB_FAIL_CALLS_H
#define OUTRIGGER_TESTS_LIB_FAIL_CALLS_H

#include <stdbool.h>
#include <stdint.h>

enum fail_kind { FAIL_MEMORY, FAIL_CALL };

/* The nth allocation or call from now (1 is the next) fails, once. 0: none. */
void fail_calls_at(enum fail_kind kind, uint64_t nth);
/* The nth call of `name` alone fails, with this errno (which pthread_create returns), or does a part: with
 * FAIL_CALLS_SHORT pread and pwrite do one byte of what they were asked for. 0: none. */
enum { FAIL_CALLS_SHORT = -1 };
void fail_calls_one(const char *name, uint64_t nth, int err);
/* True while what is to fail has not come. */
bool fail_calls_pending(void);
/* From now on nothing counts or fails, or all of it again: for what a test does through the code under test. */
void fail_calls_pause(bool pause);
/* What failed last, for messages: "malloc". */
const char *fail_calls_name(void);

/* Runs `run` with the first allocation failing, with the second one, and so on until a run has met none; the same with
 * other calls; and once with none. The run asserts that it ended in success or in a clean error. Returns how many
 * failed. */
unsigned fail_each(void (*run)(void *data), void *data);

/* For the wrappers: whether this call is the one. */
bool fail_calls_fails(enum fail_kind kind, const char *name);
/* With which errno: that of fail_calls_one, else the usual one. */
int fail_calls_errno(int usual);

/* WRAP(name, kind, type, (parameters), (arguments), what a failure does). A call of malloc() has become one of
 * __wrap_malloc(), and __real_malloc becomes the library's malloc(). */
#define WRAP(name, kind, type, parameters, arguments, ...) \
    type __real_##name parameters;                         \
    type __wrap_##name parameters;                         \
    type __wrap_##name parameters                          \
    {                                                      \
        if (fail_calls_fails(kind, #name)) {               \
            __VA_ARGS__;                                   \
        }                                                  \
        return __real_##name arguments;                    \
    }

#endif
