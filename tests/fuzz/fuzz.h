/* What the fuzz targets share. Each target is one file with LLVMFuzzerTestOneInput; `make fuzz-NAME` runs it on its
 * corpus and on what libFuzzer makes of it, `make fuzz-replay` on the corpus alone.
 *
 * A target must not only survive: it states with FUZZ_CHECK what holds for every input. Inputs lie in memory of exactly
 * their size, so that AddressSanitizer sees the first byte read too far. */
#ifndef OUTRIGGER_TESTS_FUZZ_FUZZ_H
#define OUTRIGGER_TESTS_FUZZ_FUZZ_H

#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FUZZ_CHECK(condition)                                                              \
    do {                                                                                   \
        if (!(condition)) {                                                                \
            fprintf(stderr, "%s:%d: does not hold: %s\n", __FILE__, __LINE__, #condition); \
            abort();                                                                       \
        }                                                                                  \
    } while (0)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);
/* libFuzzer's own mutations, for a target's LLVMFuzzerCustomMutator. */
size_t LLVMFuzzerMutate(uint8_t *data, size_t bytes, size_t bytes_max);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t bytes, size_t bytes_max, unsigned seed);

/* A copy with `slack` zeros behind; never NULL. */
static inline char *fuzz_copy(const void *data, size_t bytes, size_t slack)
{
    char *copy = malloc(bytes + slack + (bytes + slack == 0));

    FUZZ_CHECK(copy != NULL);
    if (bytes != 0) {
        memcpy(copy, data, bytes);
    }
    memset(copy + bytes, 0, slack);
    return copy;
}

/* splitmix64 */
static inline uint64_t fuzz_random(uint64_t *state)
{
    uint64_t z = *state += 0x9E3779B97F4A7C15ULL;

    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9ULL;
    z = (z ^ z >> 27) * 0x94D049BB133111EBULL;
    return z ^ z >> 31;
}

/* Randomness that depends on the input alone (FNV-1a), so that a reproducer reproduces. */
static inline uint64_t fuzz_seed(const uint8_t *data, size_t bytes)
{
    uint64_t seed = 0xCBF29CE484222325ULL;

    for (size_t i = 0; i < bytes; i++) {
        seed = (seed ^ data[i]) * 0x100000001B3ULL;
    }
    return seed;
}

/* How many of the `left` bytes come in the next piece: mostly few, sometimes all. */
static inline size_t fuzz_piece(uint64_t *state, size_t left)
{
    uint64_t r = fuzz_random(state);
    size_t most = r % 4 == 0 ? left : r % 4 == 1 ? 64 : 3;

    return 1 + (size_t)(r >> 8) % (most < left ? most : left);
}

/* What a parser said about an input, as text: the same input fed otherwise must give the same. {0} is empty. */
struct fuzz_log {
    char *text;
    size_t bytes;
    size_t room;
};

static inline void fuzz_log_raw(struct fuzz_log *log, const void *data, size_t bytes)
{
    if (log->bytes + bytes > log->room) {
        log->room = 2 * (log->bytes + bytes) + 256;
        log->text = realloc(log->text, log->room);
        FUZZ_CHECK(log->text != NULL);
    }
    if (bytes != 0) {
        memcpy(log->text + log->bytes, data, bytes);
    }
    log->bytes += bytes;
}

static inline void __attribute__((format(printf, 2, 3))) fuzz_log_add(struct fuzz_log *log, const char *format, ...)
{
    char line[512];
    va_list args;
    int bytes;

    va_start(args, format);
    bytes = vsnprintf(line, sizeof line, format, args);
    va_end(args);
    FUZZ_CHECK(bytes >= 0 && (size_t)bytes < sizeof line);
    fuzz_log_raw(log, line, (size_t)bytes);
}

/* Ends the program with both logs when they differ. Frees them. */
static inline void fuzz_log_same(struct fuzz_log *a, struct fuzz_log *b, const char *what)
{
    if (a->bytes != b->bytes || (a->bytes != 0 && memcmp(a->text, b->text, a->bytes) != 0)) {
        fprintf(stderr, "%s\n--- one\n%.*s\n--- other\n%.*s\n", what, (int)a->bytes, a->text, (int)b->bytes, b->text);
        abort();
    }
    free(a->text);
    free(b->text);
}

#endif
