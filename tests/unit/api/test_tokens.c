/* The file of tokens and the Authorization header. */
#include "sidecar/api/tokens.h"
#include "tests/lib/temp_dir.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <openssl/crypto.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* SHA-256 of "alpha", "beta" and "gamma" (printf %s alpha | sha256sum). */
#define ALPHA "8ed3f6ad685b959ead7022518e1af76cd816f8e8ec7ccdda1ed4018e8f2223f8"
#define BETA  "f44e64e75f3948e9f73f8dfa94721c4ce8cbb4f265c4790c702b2d41cfbf2753"
#define GAMMA "9e9a6a9b9ad3bb2a2f5b3ddd1c5a2ba2d3f7ff6a1ef4d1a0ea3ad6a3a1a9ff4c" /* of nothing in particular */

static unsigned compared;

/* Every comparison of the program goes through here (--wrap). */
int __real_CRYPTO_memcmp(const void *a, const void *b, size_t bytes);
int __wrap_CRYPTO_memcmp(const void *a, const void *b, size_t bytes);
int __wrap_CRYPTO_memcmp(const void *a, const void *b, size_t bytes)
{
    compared += bytes == TOKENS_HASH_BYTES;
    return __real_CRYPTO_memcmp(a, b, bytes);
}

static struct tokens *parse(const char *text)
{
    struct tokens *t = NULL;
    struct otr_errmsg msg = {0};

    cr_assert(eq(int, tokens_parse("f", text, strlen(text), &t, &msg), 0), "%s", msg.text);
    return t;
}

static const struct tokens_entry *find(const struct tokens *t, const char *token)
{
    return tokens_find(t, token, strlen(token));
}

Test(tokens, a_file_gives_roles_names_and_lines)
{
    struct tokens *t = parse("# who may call\n\nread sha256:" ALPHA " shop\n"
                             "  admin\tsha256:" BETA "\r\n"
                             "write sha256:" GAMMA " ci@host_1.a-b # of the builds");

    cr_assert(eq(sz, t->count, 3));
    cr_assert(eq(int, find(t, "alpha")->role, TOKEN_READ));
    cr_assert(eq(str, (char *)find(t, "alpha")->name, "shop"));
    cr_assert(eq(sz, find(t, "alpha")->line, 3));
    cr_assert(eq(int, find(t, "beta")->role, TOKEN_ADMIN));
    cr_assert(eq(str, (char *)find(t, "beta")->name, ""));
    cr_assert(eq(str, t->entries[2].name, "ci@host_1.a-b"));
    cr_assert(zero(ptr, (void *)find(t, "gamma")));
    cr_assert(zero(ptr, (void *)find(t, "")));
    cr_assert(zero(ptr, (void *)find(t, ALPHA))); /* The hash is no token. */
    free(t);
}

Test(tokens, hex_digits_may_be_capitals)
{
    char text[200] = "read sha256:" ALPHA "\n";
    struct tokens *t;

    for (char *c = text + strlen("read sha256:"); *c != '\0'; c++) {
        *c = *c >= 'a' && *c <= 'f' ? (char)(*c - 'a' + 'A') : *c;
    }
    t = parse(text);
    cr_assert(not(zero(ptr, (void *)find(t, "alpha"))));
    free(t);
}

/* Complaints name the line, say what to do, and never repeat what may be a secret. */
Test(tokens, a_bad_file_is_refused_with_its_line)
{
    static const struct {
        const char *text, *words;
    } cases[] = {
        {"", "no token in it"},
        {"\n# nothing\n", "no token in it"},
        {"root sha256:" ALPHA, "f:1: the first word is no role"},
        {"READ sha256:" ALPHA, "no role"},
        {"sha256:" ALPHA, "no role"},
        {"\n\nread", "f:3: no hash"},
        {"read s3cr3t-s3cr3t", "outrigger token"},
        {"read otr_s3cr3t", "do not belong in this file"},
        {"read " ALPHA, "no hash"},
        {"read sha256:", "64 hex digits"},
        {"read sha256:s3cr3t", "64 hex digits"},
        {"read sha256:" ALPHA "0", "64 hex digits"},
        {"read sha256:g" ALPHA, "64 hex digits"},
        {"read SHA256:" ALPHA, "no hash"},
        {"read sha256:" ALPHA " s3cr3t/s3cr3t", "the name"},
        {"read sha256:" ALPHA " a b", "more than"},
        {"read sha256:" ALPHA "\nadmin sha256:" ALPHA, "f:2: the same token as in line 1"},
        {"read sha256:" ALPHA " 0123456789012345678901234567890123456789012345678901234567890123", "the name"},
    };

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct tokens *t = NULL;
        struct otr_errmsg msg = {0};

        cr_assert(eq(int, tokens_parse("f", cases[i].text, strlen(cases[i].text), &t, &msg), OTR_INVALID), "%s",
                  cases[i].text);
        cr_assert(strstr(msg.text, cases[i].words) != NULL, "%s: %s", cases[i].text, msg.text);
        cr_assert(strstr(msg.text, "s3cr3t") == NULL, "%s", msg.text);
        cr_assert(zero(ptr, t));
    }
}

Test(tokens, a_nul_is_no_space)
{
    static const char text[] = "read sha256:" ALPHA "\0x";
    struct tokens *t = NULL;
    struct otr_errmsg msg = {0};

    cr_assert(eq(int, tokens_parse("f", text, sizeof text - 1, &t, &msg), OTR_INVALID));
}

static struct tokens *many(unsigned count, struct otr_errmsg *msg)
{
    char *text = malloc(100 * (size_t)count);
    struct tokens *t = NULL;
    size_t used = 0;

    for (unsigned i = 0; i < count; i++) {
        used += (size_t)sprintf(text + used, "read sha256:%064x t%u\n", i, i);
    }
    (void)!tokens_parse("f", text, used, &t, msg);
    free(text);
    return t;
}

Test(tokens, there_may_be_a_thousand)
{
    struct otr_errmsg msg = {0};
    struct tokens *t = many(TOKENS_MAX, &msg);

    cr_assert(eq(sz, t->count, TOKENS_MAX));
    cr_assert(eq(str, t->entries[TOKENS_MAX - 1].name, "t999"));
    free(t);
    cr_assert(zero(ptr, many(TOKENS_MAX + 1, &msg)));
    cr_assert(strstr(msg.text, "f:1001: more than 1000 tokens") != NULL, "%s", msg.text);
}

/* Whichever entry it is, and if it is none: as many comparisons in constant time as there are entries. */
Test(tokens, a_token_is_compared_with_every_entry)
{
    struct tokens *t = parse("read sha256:" ALPHA "\nread sha256:" GAMMA "\nadmin sha256:" BETA "\n");
    static const char *const asked[] = {"alpha", "beta", "neither", ""};

    for (size_t i = 0; i < sizeof asked / sizeof asked[0]; i++) {
        compared = 0;
        find(t, asked[i]);
        cr_assert(eq(uint, compared, 3), "%s", asked[i]);
    }
    free(t);
}

Test(tokens, the_bearer_header)
{
    static const struct {
        const char *value, *token; /* NULL: refused */
    } cases[] = {
        {"Bearer abc", "abc"},
        {"bearer abc", "abc"},
        {"BEARER   abc", "abc"},
        {"bEaReR a.b-c_d~e+f/g==", "a.b-c_d~e+f/g=="},
        {"Bearer", NULL},
        {"Bearer ", NULL},
        {"Bearer\tabc", NULL},
        {"Bearerabc", NULL},
        {"Bearer abc def", NULL},
        {"Bearer abc,def", NULL},
        {"Bearer abc, Bearer def", NULL},
        {"Bearer =abc", NULL},
        {"Bearer a=b", NULL},
        {"Bearer \"abc\"", NULL},
        {"Bearer ab\xff", NULL},
        {"Basic YWRtaW46YWRtaW4=", NULL},
        {"Token abc", NULL},
        {"abc", NULL},
        {"", NULL},
        {"Bearer token=abc", NULL},
    };

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const char *token;
        size_t bytes;
        bool taken = tokens_bearer(cases[i].value, strlen(cases[i].value), &token, &bytes);

        cr_assert(eq(int, taken, cases[i].token != NULL), "%s", cases[i].value);
        if (taken) {
            cr_assert(eq(sz, bytes, strlen(cases[i].token)));
            cr_assert(memcmp(token, cases[i].token, bytes) == 0, "%s", cases[i].value);
        }
    }
}

Test(tokens, a_drawn_token_is_found_by_its_line)
{
    uint8_t bits[TOKENS_RANDOM_BYTES];
    char token[TOKENS_TEXT_BYTES], other[TOKENS_TEXT_BYTES];
    char line[TOKENS_LINE_BYTES], other_line[TOKENS_LINE_BYTES];
    char value[100];
    const char *sent;
    size_t bytes;
    struct tokens *t;

    for (size_t i = 0; i < sizeof bits; i++) {
        bits[i] = (uint8_t)(7 * i + 1);
    }
    tokens_draw(bits, TOKEN_WRITE, "shop", token, line);
    cr_assert(eq(sz, strlen(token), 47));
    t = parse(line);
    cr_assert(eq(int, find(t, token)->role, TOKEN_WRITE));
    cr_assert(eq(str, (char *)find(t, token)->name, "shop"));
    snprintf(value, sizeof value, "Bearer %s", token);
    cr_assert(tokens_bearer(value, strlen(value), &sent, &bytes) && bytes == strlen(token));
    /* Each of the 256 bits counts. */
    for (size_t i = 0; i < 8 * sizeof bits; i++) {
        bits[i / 8] ^= (uint8_t)(1U << i % 8);
        tokens_draw(bits, TOKEN_WRITE, "", other, other_line);
        cr_assert(ne(str, other, token), "bit %zu", i);
        bits[i / 8] ^= (uint8_t)(1U << i % 8);
    }
    free(t);
}

static void write_file(const char *path, const char *text, mode_t mode)
{
    FILE *file = fopen(path, "w");

    fputs(text, file);
    fclose(file);
    chmod(path, mode);
}

Test(tokens, files_that_cannot_be_used)
{
    struct temp_dir dir;
    char path[512];
    uint8_t digest[TOKENS_HASH_BYTES];
    struct tokens *t = NULL;
    struct otr_errmsg msg = {0};
    FILE *file;

    temp_dir_init(&dir);
    snprintf(path, sizeof path, "%s/tokens", dir.path);
    cr_assert(eq(int, tokens_read(path, &t, digest, &msg), OTR_IO));
    cr_assert(strstr(msg.text, path) != NULL && strstr(msg.text, "No such file") != NULL, "%s", msg.text);
    cr_assert(eq(int, tokens_read(dir.path, &t, digest, &msg), OTR_IO));
    cr_assert(strstr(msg.text, "is not a file") != NULL, "%s", msg.text);
    write_file(path, "read sha256:" ALPHA "\n", 0666);
    cr_assert(eq(int, tokens_read(path, &t, digest, &msg), OTR_DENIED));
    cr_assert(strstr(msg.text, "chmod o-w") != NULL, "%s", msg.text);
    write_file(path, "read sha256:" ALPHA "\n", 0640);
    cr_assert(eq(int, tokens_read(path, &t, digest, &msg), 0), "%s", msg.text);
    free(t);
    file = fopen(path, "a");
    for (unsigned i = 0; i < TOKENS_FILE_BYTES_MAX / 16 + 1; i++) {
        fputs("# a long comment\n", file);
    }
    fclose(file);
    cr_assert(eq(int, tokens_read(path, &t, digest, &msg), OTR_INVALID));
    cr_assert(strstr(msg.text, "larger than") != NULL, "%s", msg.text);
    temp_dir_close(&dir);
}
