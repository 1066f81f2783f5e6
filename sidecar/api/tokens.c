#include "sidecar/api/tokens.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <openssl/crypto.h>
#include <openssl/sha.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

#define HASH_PREFIX "sha256:"
enum { HASH_PREFIX_BYTES = sizeof HASH_PREFIX - 1, ENTRIES_ROOM_FIRST = 16 };

static_assert((int)TOKENS_HASH_BYTES == (int)SHA256_DIGEST_LENGTH, "the hash is SHA-256");

static const char *const role_names[] = {
    [TOKEN_NONE] = "none", [TOKEN_READ] = "read", [TOKEN_WRITE] = "write", [TOKEN_ADMIN] = "admin"};

const char *token_role_name(enum token_role role)
{
    return role_names[role];
}

enum token_role token_role_parse(const char *text, size_t bytes)
{
    for (enum token_role role = TOKEN_READ; role <= TOKEN_ADMIN; role++) {
        if (strlen(role_names[role]) == bytes && memcmp(role_names[role], text, bytes) == 0) {
            return role;
        }
    }
    return TOKEN_NONE;
}

static bool is_alnum(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
}

static bool is_blank(char c)
{
    return c == ' ' || c == '\t' || c == '\r';
}

static bool is_one_of(char c, const char *set)
{
    return c != '\0' && strchr(set, c) != NULL;
}

bool token_name_valid(const char *text, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++) {
        if (!is_alnum(text[i]) && !is_one_of(text[i], "_.-@")) {
            return false;
        }
    }
    return bytes >= 1 && bytes <= TOKENS_NAME_MAX;
}

/* --- the file ----------------------------------------------------------------------------------------------------- */

struct word {
    const char *text;
    size_t bytes;
};

/* The next word of a line; empty at its end and at a comment. */
static struct word next_word(const char **at, const char *end)
{
    struct word w;

    while (*at < end && is_blank(**at)) {
        (*at)++;
    }
    w.text = *at;
    while (*at < end && !is_blank(**at) && !(**at == '#' && *at == w.text)) {
        (*at)++;
    }
    w.bytes = (size_t)(*at - w.text);
    return w;
}

static int nibble(char c)
{
    if (c >= '0' && c <= '9') {
        return c - '0';
    }
    c = (char)(c | 0x20);
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static bool parse_hash(const struct word *w, uint8_t hash[TOKENS_HASH_BYTES])
{
    const char *digits = w->text + HASH_PREFIX_BYTES;

    if (w->bytes != HASH_PREFIX_BYTES + 2 * TOKENS_HASH_BYTES || memcmp(w->text, HASH_PREFIX, HASH_PREFIX_BYTES) != 0) {
        return false;
    }
    for (size_t i = 0; i < TOKENS_HASH_BYTES; i++) {
        int high = nibble(digits[2 * i]);
        int low = nibble(digits[2 * i + 1]);

        if (high < 0 || low < 0) {
            return false;
        }
        hash[i] = (uint8_t)(high << 4 | low);
    }
    return true;
}

/* What stands in a bad line may be a secret: complaints do not quote it. */
static int refuse(struct otr_errmsg *msg, const char *name, size_t line, const char *why)
{
    otr_errmsg_set(msg, "%s:%zu: %s", name, line, why);
    return OTR_INVALID;
}

/* One line; *any false when there is nothing in it. */
static int parse_line(const char *name, size_t number, const char *at, const char *end, struct tokens_entry *e,
                      bool *any, struct otr_errmsg *msg)
{
    struct word role = next_word(&at, end);
    struct word hash = next_word(&at, end);
    struct word label = next_word(&at, end);
    struct word more = next_word(&at, end);

    *any = role.bytes != 0;
    if (!*any) {
        return 0;
    }
    *e = (struct tokens_entry){.role = token_role_parse(role.text, role.bytes), .line = number};
    if (e->role == TOKEN_NONE) {
        return refuse(msg, name, number, "the first word is no role; there are: read, write, admin");
    }
    if (hash.bytes == 0) {
        return refuse(msg, name, number, "no hash behind the role; a line is: ROLE sha256:HEX [NAME]");
    }
    if (hash.bytes < HASH_PREFIX_BYTES || memcmp(hash.text, HASH_PREFIX, HASH_PREFIX_BYTES) != 0) {
        return refuse(msg, name, number,
                      "the second word is no hash. Tokens themselves do not belong in this file, only sha256: and "
                      "their SHA-256 in hex: 'outrigger token --role read --file FILE' draws a token and adds its "
                      "line; take one that stood here for known to others");
    }
    if (!parse_hash(&hash, e->hash)) {
        return refuse(msg, name, number, "sha256: is not followed by exactly 64 hex digits");
    }
    if (label.bytes != 0 && !token_name_valid(label.text, label.bytes)) {
        return refuse(msg, name, number, "the name is not 1 to 63 of A-Z a-z 0-9 _ . - @");
    }
    if (more.bytes != 0) {
        return refuse(msg, name, number, "more than a role, a hash and a name");
    }
    memcpy(e->name, label.text, label.bytes);
    return 0;
}

static int add_entry(const char *name, struct tokens **t, size_t *room, const struct tokens_entry *e,
                     struct otr_errmsg *msg)
{
    struct tokens *grown;

    for (size_t i = 0; i < (*t)->count; i++) {
        if (memcmp((*t)->entries[i].hash, e->hash, sizeof e->hash) == 0) {
            otr_errmsg_set(msg, "%s:%zu: the same token as in line %zu", name, e->line, (*t)->entries[i].line);
            return OTR_INVALID;
        }
    }
    if ((*t)->count == TOKENS_MAX) {
        otr_errmsg_set(msg, "%s:%zu: more than %d tokens", name, e->line, TOKENS_MAX);
        return OTR_INVALID;
    }
    if ((*t)->count == *room) {
        grown = realloc(*t, sizeof **t + 2 * *room * sizeof *e);
        if (grown == NULL) {
            return OTR_NOMEM;
        }
        *t = grown;
        *room *= 2;
    }
    (*t)->entries[(*t)->count++] = *e;
    return 0;
}

int tokens_parse(const char *name, const char *text, size_t bytes, struct tokens **out, struct otr_errmsg *msg)
{
    size_t room = ENTRIES_ROOM_FIRST;
    struct tokens *t = malloc(sizeof *t + room * sizeof t->entries[0]);
    const char *end = text + bytes;
    size_t number = 0;
    int rv = t != NULL ? 0 : OTR_NOMEM;

    if (t != NULL) {
        t->count = 0;
    }
    while (rv == 0 && text < end) {
        const char *lf = memchr(text, '\n', (size_t)(end - text));
        const char *line_end = lf != NULL ? lf : end;
        struct tokens_entry e;
        bool any = false;

        number++;
        rv = parse_line(name, number, text, line_end, &e, &any, msg);
        if (rv == 0 && any) {
            rv = add_entry(name, &t, &room, &e, msg);
        }
        text = line_end + (lf != NULL);
    }
    if (rv == 0 && t->count == 0) {
        otr_errmsg_set(
            msg, "%s: no token in it: nobody could call; 'outrigger token --role admin --file FILE' adds one", name);
        rv = OTR_INVALID;
    }
    if (rv != 0) {
        free(t);
        return rv;
    }
    *out = t;
    return 0;
}

static int read_all(int fd, const char *path, char *text, size_t *bytes, struct otr_errmsg *msg)
{
    ssize_t got;

    *bytes = 0;
    do {
        got = read(fd, text + *bytes, TOKENS_FILE_BYTES_MAX + 1 - *bytes);
        if (got < 0 && errno != EINTR) {
            otr_errmsg_set(msg, "cannot read %s: %s", path, strerror(errno));
            return OTR_IO;
        }
        *bytes += got > 0 ? (size_t)got : 0;
    } while (got != 0 && *bytes <= TOKENS_FILE_BYTES_MAX);
    if (*bytes > TOKENS_FILE_BYTES_MAX) {
        otr_errmsg_set(msg, "%s is larger than %d bytes", path, TOKENS_FILE_BYTES_MAX);
        return OTR_INVALID;
    }
    return 0;
}

int tokens_read(const char *path, struct tokens **out, uint8_t digest[TOKENS_HASH_BYTES], struct otr_errmsg *msg)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* A FIFO must not hold us. */
    struct stat st;
    char *text = NULL;
    size_t bytes;
    int rv = OTR_IO;

    if (fd < 0 || fstat(fd, &st) != 0) {
        otr_errmsg_set(msg, "cannot open %s: %s", path, strerror(errno));
        goto out;
    }
    if (!S_ISREG(st.st_mode)) {
        otr_errmsg_set(msg, "%s is not a file", path);
        goto out;
    }
    if ((st.st_mode & S_IWOTH) != 0) {
        otr_errmsg_set(msg, "%s can be written by every user of this host: chmod o-w", path);
        rv = OTR_DENIED;
        goto out;
    }
    text = malloc(TOKENS_FILE_BYTES_MAX + 1);
    rv = text != NULL ? read_all(fd, path, text, &bytes, msg) : OTR_NOMEM;
    if (rv == 0) {
        SHA256((const unsigned char *)text, bytes, digest);
        rv = tokens_parse(path, text, bytes, out, msg);
    }
out:
    if (fd >= 0) {
        close(fd);
    }
    free(text);
    return rv;
}

/* --- a token ------------------------------------------------------------------------------------------------------ */

const struct tokens_entry *tokens_find(const struct tokens *t, const char *token, size_t bytes)
{
    uint8_t hash[TOKENS_HASH_BYTES];
    const struct tokens_entry *found = NULL;

    SHA256((const unsigned char *)token, bytes, hash);
    for (size_t i = 0; i < t->count; i++) {
        /* Without an early end: how long it takes tells nothing about which entries there are. */
        found = CRYPTO_memcmp(hash, t->entries[i].hash, sizeof hash) == 0 ? &t->entries[i] : found;
    }
    return found;
}

bool tokens_bearer(const char *value, size_t bytes, const char **token, size_t *token_bytes)
{
    static const char scheme[] = "Bearer";
    size_t at = sizeof scheme - 1;
    size_t start;

    if (bytes <= at || strncasecmp(value, scheme, at) != 0 || value[at] != ' ') {
        return false;
    }
    while (at < bytes && value[at] == ' ') {
        at++;
    }
    start = at;
    while (at < bytes && (is_alnum(value[at]) || is_one_of(value[at], "-._~+/"))) {
        at++;
    }
    if (at == start) {
        return false;
    }
    while (at < bytes && value[at] == '=') {
        at++;
    }
    *token = value + start;
    *token_bytes = at - start;
    return at == bytes;
}

void tokens_draw(const uint8_t random[TOKENS_RANDOM_BYTES], enum token_role role, const char *name,
                 char token[TOKENS_TEXT_BYTES], char line[TOKENS_LINE_BYTES])
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    uint8_t hash[TOKENS_HASH_BYTES];
    size_t used = 4;

    memcpy(token, "otr_", used);
    for (size_t bit = 0; bit < 8 * (size_t)TOKENS_RANDOM_BYTES; bit += 6) {
        size_t byte = bit / 8;
        unsigned two = (unsigned)random[byte] << 8 | (byte + 1 < TOKENS_RANDOM_BYTES ? random[byte + 1] : 0U);

        token[used++] = digits[two >> (10 - bit % 8) & 63];
    }
    token[used] = '\0';
    SHA256((const unsigned char *)token, used, hash);
    used = (size_t)snprintf(line, TOKENS_LINE_BYTES, "%s " HASH_PREFIX, token_role_name(role));
    for (size_t i = 0; i < sizeof hash; i++) {
        used += (size_t)snprintf(line + used, TOKENS_LINE_BYTES - used, "%02x", hash[i]);
    }
    snprintf(line + used, TOKENS_LINE_BYTES - used, "%s%s\n", name[0] != '\0' ? " " : "", name);
}
