#include "sidecar/cli/credentials.h"

#include "sidecar/api/tokens.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

static bool is_space(char c)
{
    return c == ' ' || c == '\t' || c == '\r' || c == '\n';
}

/* White space around it is no part of it: editors and shells end a file with a newline. */
static int header_of(const char *source, const char *text, size_t bytes, char out[CREDENTIALS_HEADER_BYTES],
                     struct otr_errmsg *msg)
{
    static const char prefix[] = "Authorization: ";
    const char *token;
    size_t token_bytes;

    while (bytes > 0 && is_space(text[bytes - 1])) {
        bytes--;
    }
    while (bytes > 0 && is_space(text[0])) {
        text++;
        bytes--;
    }
    if (bytes == 0 || bytes > CREDENTIALS_TOKEN_MAX) {
        otr_errmsg_set(msg, "%s: %s", source, bytes == 0 ? "no token in it" : "too long for a token");
        return OTR_INVALID;
    }
    snprintf(out, CREDENTIALS_HEADER_BYTES, "%sBearer %.*s", prefix, (int)bytes, text);
    if (memchr(text, '\0', bytes) != NULL ||
        !tokens_bearer(out + sizeof prefix - 1, strlen(out + sizeof prefix - 1), &token, &token_bytes)) {
        explicit_bzero(out, CREDENTIALS_HEADER_BYTES);
        otr_errmsg_set(msg, "%s: that is no token: one word of A-Z a-z 0-9 - . _ ~ + / is", source);
        return OTR_INVALID;
    }
    return 0;
}

static int read_file(const char *path, char text[CREDENTIALS_TOKEN_MAX + 3], size_t *bytes, struct otr_errmsg *msg)
{
    FILE *file = fopen(path, "re");
    struct stat st;
    int rv = 0;

    if (file == NULL || fstat(fileno(file), &st) != 0) {
        otr_errmsg_set(msg, "--token-file: cannot open %s: %s", path, strerror(errno));
        rv = OTR_IO;
    } else {
        setvbuf(file, NULL, _IONBF, 0); /* No second copy of the token in memory. */
        *bytes = fread(text, 1, CREDENTIALS_TOKEN_MAX + 3, file);
        if (ferror(file)) {
            otr_errmsg_set(msg, "--token-file: cannot read %s: %s", path, strerror(errno));
            rv = OTR_IO;
        } else if (S_ISREG(st.st_mode) && (st.st_mode & (S_IRGRP | S_IROTH)) != 0) {
            fprintf(stderr, "outrigger: other users of this host may read the token in %s: chmod 600 %s\n", path, path);
        }
    }
    if (file != NULL) {
        fclose(file);
    }
    return rv;
}

int credentials_header(const struct credentials_settings *s, char out[CREDENTIALS_HEADER_BYTES], struct otr_errmsg *msg)
{
    const char *variable = getenv("OUTRIGGER_TOKEN");
    char text[CREDENTIALS_TOKEN_MAX + 3];
    size_t bytes;
    int rv;

    out[0] = '\0';
    if (s->token_file != NULL) {
        rv = read_file(s->token_file, text, &bytes, msg);
        rv = rv != 0 ? rv : header_of(s->token_file, text, bytes, out, msg);
        explicit_bzero(text, sizeof text);
        return rv;
    }
    return variable != NULL && variable[0] != '\0' ? header_of("OUTRIGGER_TOKEN", variable, strlen(variable), out, msg)
                                                   : 0;
}

static int check_file(const char *option, const char *path, struct otr_errmsg *msg)
{
    if (path != NULL && access(path, R_OK) != 0) {
        otr_errmsg_set(msg, "--%s: cannot read %s: %s", option, path, strerror(errno));
        return OTR_IO;
    }
    return 0;
}

int credentials_http(const struct credentials_settings *s, struct http_client_config *config, struct otr_errmsg *msg)
{
    int rv = check_file("ca", s->ca, msg);

    rv = rv != 0 ? rv : check_file("cert", s->cert, msg);
    rv = rv != 0 ? rv : check_file("key", s->key, msg);
    if (rv == 0 && (s->cert != NULL) != (s->key != NULL)) {
        otr_errmsg_set(msg, "--cert and --key: one does not go without the other");
        rv = OTR_INVALID;
    }
    config->ca_file = s->ca;
    config->cert_file = s->cert;
    config->key_file = s->key;
    return rv;
}
