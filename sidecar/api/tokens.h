/* Tokens of clients and operators: the file that lists them, and the header that carries one.
 *
 * The file has one line a token,
 *
 *     read|write|admin sha256:<64 hex digits> [name]
 *
 * and empty lines and comments (#). It holds hashes, so that whoever reads it can use none of them; a token has 256
 * random bits, so a plain hash is enough. `outrigger token` draws tokens and writes such lines. Each role may do what
 * the ones before it may. Pure; any thread. */
#ifndef OUTRIGGER_API_TOKENS_H
#define OUTRIGGER_API_TOKENS_H

#include "outrigger/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    TOKENS_HASH_BYTES = 32,
    TOKENS_NAME_MAX = 63,
    TOKENS_MAX = 1000,               /* entries of a file */
    TOKENS_FILE_BYTES_MAX = 1 << 20, /* larger ones are refused */
    TOKENS_TEXT_BYTES = 48,          /* a drawn token with its NUL: "otr_" and 43 characters */
    TOKENS_LINE_BYTES = 160,         /* a line of the file with its newline and NUL */
    TOKENS_RANDOM_BYTES = 32,
};

enum token_role { TOKEN_NONE = 0, TOKEN_READ, TOKEN_WRITE, TOKEN_ADMIN };

struct tokens_entry {
    enum token_role role;
    uint8_t hash[TOKENS_HASH_BYTES];
    char name[TOKENS_NAME_MAX + 1]; /* "" when the file gives none: messages then say "line 7" */
    size_t line;                    /* from 1 */
};

struct tokens {
    size_t count;
    struct tokens_entry entries[];
};

const char *token_role_name(enum token_role role);
/* TOKEN_NONE: there is no such role. */
enum token_role token_role_parse(const char *text, size_t bytes);
/* 1 to TOKENS_NAME_MAX of A-Z a-z 0-9 _ . - @ */
bool token_name_valid(const char *text, size_t bytes);

/* The text of a file; `name` is for complaints. On success *out is the caller's, to be freed with free(). OTR_INVALID
 * with words that name file and line, and never quote what may be a token; a file without any entry is refused too.
 * OTR_NOMEM. */
OTR_MUST_CHECK int tokens_parse(const char *name, const char *text, size_t bytes, struct tokens **out,
                                struct otr_errmsg *msg);
/* The same of the file at `path`; blocks. `digest`: of its content, to tell whether it changed; set when it could be
 * read, whatever it holds. OTR_IO when it cannot be read; OTR_DENIED when every user of the host may write it. */
OTR_MUST_CHECK int tokens_read(const char *path, struct tokens **out, uint8_t digest[TOKENS_HASH_BYTES],
                               struct otr_errmsg *msg);

/* The entry of a token, or NULL. Compares with every entry, in a time that depends on their number alone. */
const struct tokens_entry *tokens_find(const struct tokens *t, const char *token, size_t bytes);

/* The token in the value of an Authorization header: "Bearer", in any case, spaces, and the characters that RFC 6750
 * allows. False when it is anything else. */
bool tokens_bearer(const char *value, size_t bytes, const char **token, size_t *token_bytes);

/* A token of these random bits, and the line for the file. `name` valid or "". */
void tokens_draw(const uint8_t random[TOKENS_RANDOM_BYTES], enum token_role role, const char *name,
                 char token[TOKENS_TEXT_BYTES], char line[TOKENS_LINE_BYTES]);

#endif
