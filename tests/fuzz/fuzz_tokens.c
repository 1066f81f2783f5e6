/* The file of tokens and the Authorization header. A first byte 'h': a header's value, a newline, and a file; else a
 * file. What is refused is refused with words that do not repeat what may be a secret; what is accepted means the same
 * when it is written again, and lets in exactly the tokens that it names.
 *
 * Covers: sidecar/api/tokens.c */
#include "sidecar/api/tokens.h"
#include "tests/fuzz/fuzz.h"

/* The file again, as `outrigger token` would have written it. */
static char *written(const struct tokens *t)
{
    char *text = malloc(t->count * TOKENS_LINE_BYTES + 1);
    size_t used = 0;

    FUZZ_CHECK(text != NULL);
    for (size_t i = 0; i < t->count; i++) {
        const struct tokens_entry *e = &t->entries[i];

        used += (size_t)sprintf(text + used, "%s sha256:", token_role_name(e->role));
        for (size_t b = 0; b < sizeof e->hash; b++) {
            used += (size_t)sprintf(text + used, "%02x", e->hash[b]);
        }
        used += (size_t)sprintf(text + used, " %s\n", e->name);
    }
    return text;
}

static void check_same(const struct tokens *a, const struct tokens *b)
{
    FUZZ_CHECK(a->count == b->count);
    for (size_t i = 0; i < a->count; i++) {
        FUZZ_CHECK(a->entries[i].role == b->entries[i].role);
        FUZZ_CHECK(memcmp(a->entries[i].hash, b->entries[i].hash, TOKENS_HASH_BYTES) == 0);
        FUZZ_CHECK(strcmp(a->entries[i].name, b->entries[i].name) == 0);
    }
}

static struct tokens *file(const char *data, size_t bytes)
{
    char *text = fuzz_copy(data, bytes, 0);
    struct otr_errmsg msg = {0};
    struct tokens *t = NULL;
    struct tokens *again = NULL;
    char *copy;
    int rv = tokens_parse("f", text, bytes, &t, &msg);

    free(text);
    FUZZ_CHECK(rv == 0 || (rv == OTR_INVALID && t == NULL && strncmp(msg.text, "f:", 2) == 0));
    if (rv != 0) {
        return NULL;
    }
    FUZZ_CHECK(t->count >= 1 && t->count <= TOKENS_MAX);
    for (size_t i = 0; i < t->count; i++) {
        const struct tokens_entry *e = &t->entries[i];

        FUZZ_CHECK(e->role >= TOKEN_READ && e->role <= TOKEN_ADMIN && e->line >= 1);
        FUZZ_CHECK(e->name[0] == '\0' || token_name_valid(e->name, strlen(e->name)));
    }
    copy = written(t);
    FUZZ_CHECK(tokens_parse("f", copy, strlen(copy), &again, &msg) == 0);
    check_same(t, again);
    free(again);
    free(copy);
    return t;
}

/* A token is one piece of the value, of characters that stand for themselves, and lets nobody in whose hash is not
 * there. */
static void header(const char *data, size_t bytes, const struct tokens *t)
{
    char *value = fuzz_copy(data, bytes, 0);
    const char *token;
    size_t count;

    if (tokens_bearer(value, bytes, &token, &count)) {
        FUZZ_CHECK(count >= 1 && token >= value + 7 && token + count == value + bytes);
        for (size_t i = 0; i < count; i++) {
            FUZZ_CHECK((unsigned char)token[i] > 0x20 && (unsigned char)token[i] < 0x7F && token[i] != ',');
        }
        if (t != NULL) {
            (void)tokens_find(t, token, count);
        }
    }
    free(value);
}

/* What is drawn from these bytes is found by its line, and by nothing else. */
static void draw(const uint8_t *data, size_t bytes)
{
    uint8_t bits[TOKENS_RANDOM_BYTES] = {0};
    char token[TOKENS_TEXT_BYTES];
    char line[TOKENS_LINE_BYTES];
    struct tokens *t;

    memcpy(bits, data, bytes < sizeof bits ? bytes : sizeof bits);
    tokens_draw(bits, TOKEN_READ, "", token, line);
    t = file(line, strlen(line));
    FUZZ_CHECK(t != NULL && t->count == 1 && tokens_find(t, token, strlen(token)) == &t->entries[0]);
    FUZZ_CHECK(tokens_find(t, token, strlen(token) - 1) == NULL);
    free(t);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    const char *text = (const char *)data;
    const char *lf;
    struct tokens *t;

    if (bytes == 0) {
        return 0;
    }
    if (data[0] != 'h') {
        free(file(text, bytes));
        draw(data, bytes);
        return 0;
    }
    lf = memchr(text, '\n', bytes);
    lf = lf != NULL ? lf : text + bytes - 1;
    t = file(lf + 1, (size_t)(text + bytes - lf - 1));
    header(text + 1, lf > text ? (size_t)(lf - text - 1) : 0, t);
    free(t);
    return 0;
}
