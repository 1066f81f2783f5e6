#include "tests/lib/fail_calls.h"

#include <dirent.h>
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

enum { EACH_MAX = 20000 };

static const char *const kinds[] = {[FAIL_MEMORY] = "memory", [FAIL_CALL] = "call"};

static atomic_uint_fast64_t counts[2];
static atomic_uint_fast64_t fail_at[2]; /* 0: never */
static atomic_bool paused;
static atomic_bool loud; /* says what fails */
static _Atomic(const char *) last = "";
static _Atomic(const char *) one; /* the only one that counts, and its errno; NULL: all do */
static atomic_int one_errno;
static const char *awaited; /* a file, from which on it fails once; NULL: none */

static void print_counts(void)
{
    fprintf(stderr, "fail_calls: %llu memory, %llu call\n", (unsigned long long)counts[FAIL_MEMORY],
            (unsigned long long)counts[FAIL_CALL]);
}

__attribute__((constructor)) static void read_environment(void)
{
    const char *text = getenv("OUTRIGGER_FAIL");

    for (int k = FAIL_MEMORY; text != NULL && k <= FAIL_CALL; k++) {
        size_t bytes = strlen(kinds[k]);
        if (strncmp(text, kinds[k], bytes) == 0 && text[bytes] == ':') {
            fail_at[k] = strtoull(text + bytes + 1, NULL, 10);
        }
    }
    if (text != NULL && strchr(text, '@') != NULL) {
        char *name = strdup(text); /* for good */

        *strchr(name, '@') = '\0';
        awaited = strchr(text, '@') + 1;
        one_errno = EIO;
        one = name;
    }
    loud = text != NULL;
    if (text != NULL && strcmp(text, "count") == 0) {
        atexit(print_counts);
    }
}

void fail_calls_at(enum fail_kind kind, uint64_t nth)
{
    fail_at[FAIL_MEMORY] = 0;
    fail_at[FAIL_CALL] = 0;
    last = "";
    one = NULL;
    fail_at[kind] = nth != 0 ? counts[kind] + nth : 0;
}

void fail_calls_one(const char *name, uint64_t nth, int err)
{
    fail_calls_at(FAIL_CALL, nth);
    one_errno = err;
    one = nth != 0 ? name : NULL;
}

int fail_calls_errno(int usual)
{
    return one != NULL ? one_errno : usual;
}

bool fail_calls_pending(void)
{
    return fail_at[FAIL_MEMORY] > counts[FAIL_MEMORY] || fail_at[FAIL_CALL] > counts[FAIL_CALL];
}

void fail_calls_pause(bool pause)
{
    paused = pause;
}

const char *fail_calls_name(void)
{
    return last;
}

static unsigned fail_each_kind(enum fail_kind kind, void (*run)(void *data), void *data)
{
    for (unsigned n = 1; n < EACH_MAX; n++) {
        bool pending;

        fail_calls_at(kind, n);
        run(data);
        pending = fail_calls_pending();
        fail_calls_at(kind, 0);
        if (pending) {
            return n - 1;
        }
    }
    fprintf(stderr, "fail_calls: %d runs, and no end\n", EACH_MAX);
    abort();
}

unsigned fail_each(void (*run)(void *data), void *data)
{
    return fail_each_kind(FAIL_MEMORY, run, data) + fail_each_kind(FAIL_CALL, run, data);
}

/* There is one in programs with AddressSanitizer. */
__attribute__((weak)) void __sanitizer_print_stack_trace(void);

bool fail_calls_fails(enum fail_kind kind, const char *name)
{
    const char *only = one;
    bool counts_not = paused || (only != NULL && strcmp(only, name) != 0);
    uint64_t number = counts_not ? 0 : atomic_fetch_add(&counts[kind], 1) + 1;
    char text[128];
    int bytes;

    if (number != 0 && awaited != NULL && unlink(awaited) == 0) {
        fail_at[kind] = number;
    }
    if (number == 0 || number != fail_at[kind]) {
        return false;
    }
    last = name;
    if (kind == FAIL_MEMORY) {
        errno = ENOMEM;
    }
    if (getenv("OUTRIGGER_FAIL_TRACE") != NULL && __sanitizer_print_stack_trace != NULL) {
        __sanitizer_print_stack_trace();
    }
    if (!loud) {
        return true;
    }
    bytes =
        snprintf(text, sizeof text, "fail_calls: %s %llu (%s) fails\n", kinds[kind], (unsigned long long)number, name);
    return write(STDERR_FILENO, text, (size_t)bytes) == bytes;
}

#define ERRNO(number)                   \
    errno = fail_calls_errno((number)); \
    return -1
/* A part of what was asked for, if that is the order. */
#define PART(name, n, part, number)                           \
    if ((n) > 0 && fail_calls_errno(0) == FAIL_CALLS_SHORT) { \
        return __real_##name part;                            \
    }                                                         \
    ERRNO(number)

/* clang-format off */
WRAP(malloc, FAIL_MEMORY, void *, (size_t n), (n), return NULL)
WRAP(calloc, FAIL_MEMORY, void *, (size_t n, size_t bytes), (n, bytes), return NULL)
WRAP(realloc, FAIL_MEMORY, void *, (void *p, size_t n), (p, n), return NULL)
WRAP(strdup, FAIL_MEMORY, char *, (const char *s), (s), return NULL)
WRAP(strndup, FAIL_MEMORY, char *, (const char *s, size_t n), (s, n), return NULL)
WRAP(open, FAIL_CALL, int, (const char *path, int flags, mode_t mode), (path, flags, mode), ERRNO(EMFILE))
WRAP(openat, FAIL_CALL, int, (int dir, const char *path, int flags, mode_t mode), (dir, path, flags, mode), ERRNO(EMFILE))
WRAP(pread, FAIL_CALL, ssize_t, (int fd, void *buf, size_t n, off_t at), (fd, buf, n, at), PART(pread, n, (fd, buf, 1, at), EIO))
WRAP(pwrite, FAIL_CALL, ssize_t, (int fd, const void *buf, size_t n, off_t at), (fd, buf, n, at), PART(pwrite, n, (fd, buf, 1, at), ENOSPC))
WRAP(fdatasync, FAIL_CALL, int, (int fd), (fd), ERRNO(EIO))
WRAP(fsync, FAIL_CALL, int, (int fd), (fd), ERRNO(EIO))
WRAP(ftruncate, FAIL_CALL, int, (int fd, off_t n), (fd, n), ERRNO(EIO))
WRAP(fstat, FAIL_CALL, int, (int fd, struct stat *st), (fd, st), ERRNO(EIO))
WRAP(renameat, FAIL_CALL, int, (int a, const char *from, int b, const char *to), (a, from, b, to), ERRNO(EIO))
WRAP(unlinkat, FAIL_CALL, int, (int dir, const char *path, int flags), (dir, path, flags), ERRNO(EIO))
WRAP(rename, FAIL_CALL, int, (const char *from, const char *to), (from, to), ERRNO(EIO))
WRAP(mkdir, FAIL_CALL, int, (const char *path, mode_t mode), (path, mode), ERRNO(ENOSPC))
WRAP(fopen, FAIL_CALL, FILE *, (const char *path, const char *mode), (path, mode), errno = EMFILE; return NULL)
WRAP(fdopen, FAIL_CALL, FILE *, (int fd, const char *mode), (fd, mode), errno = ENOMEM; return NULL)
WRAP(fdopendir, FAIL_CALL, DIR *, (int fd), (fd), errno = fail_calls_errno(ENOMEM); return NULL)
WRAP(readdir, FAIL_CALL, struct dirent *, (DIR *dir), (dir), errno = fail_calls_errno(EIO); return NULL)
WRAP(flock, FAIL_CALL, int, (int fd, int op), (fd, op), ERRNO(ENOLCK))
WRAP(getrandom, FAIL_CALL, ssize_t, (void *buf, size_t n, unsigned flags), (buf, n, flags), ERRNO(EINTR))
WRAP(pthread_create, FAIL_CALL, int, (pthread_t *t, const pthread_attr_t *a, void *(*f)(void *), void *p), (t, a, f, p), return fail_calls_errno(EAGAIN))
/* clang-format on */
