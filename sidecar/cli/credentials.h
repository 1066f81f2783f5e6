/* What commands show to sidecars, and whom they believe: a token, a CA, a client certificate. A token comes from a file
 * or from the environment variable OUTRIGGER_TOKEN, never from an argument, which every user of the host could read. */
#ifndef OUTRIGGER_CLI_CREDENTIALS_H
#define OUTRIGGER_CLI_CREDENTIALS_H

#include "sidecar/cli/options.h"
#include "sidecar/io/http_client.h"

enum { CREDENTIALS_TOKEN_MAX = 1024, CREDENTIALS_HEADER_BYTES = CREDENTIALS_TOKEN_MAX + 32 };

struct credentials_settings {
    const char *ca, *cert, *key;
    const char *token_file;
};

/* Their entries in a command's table of options. NOLINTBEGIN(bugprone-macro-parentheses): offsetof takes none. */
#define CREDENTIALS_OPTIONS(type, member)                                                                            \
    {"ca",   OPTION_TEXT, offsetof(type, member.ca),                                                                 \
     "FILE", NULL,        false,                                                                                     \
     0,      0,           "whom to believe about https:// sidecars: PEM (default: the system's CAs)"},               \
        {"cert", OPTION_TEXT, offsetof(type, member.cert),                                                           \
         "FILE", NULL,        false,                                                                                 \
         0,      0,           "client certificate for sidecars that want one: PEM"},                                 \
        {"key", OPTION_TEXT, offsetof(type, member.key), "FILE", NULL, false, 0, 0, "its key: PEM"},                 \
    {                                                                                                                \
        "token-file", OPTION_TEXT, offsetof(type, member.token_file), "FILE", NULL, false, 0, 0,                     \
            "holds the token for sidecars that want one (default: the environment variable OUTRIGGER_TOKEN, if set)" \
    }
/* NOLINTEND(bugprone-macro-parentheses) */

/* "Authorization: Bearer TOKEN", or "" without a token. OTR_IO, OTR_INVALID with words that do not quote it. A file
 * that others may read is complained about on standard error. */
OTR_MUST_CHECK int credentials_header(const struct credentials_settings *s, char out[CREDENTIALS_HEADER_BYTES],
                                      struct otr_errmsg *msg);

/* For the HTTP client; checks that the files can be read, as curl's own words about them are poor. */
OTR_MUST_CHECK int credentials_http(const struct credentials_settings *s, struct http_client_config *config,
                                    struct otr_errmsg *msg);

#endif
