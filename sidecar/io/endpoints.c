#include "sidecar/io/endpoints.h"

#include "sidecar/io/log.h"
#include "sidecar/io/random.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

unsigned endpoints_next(const struct endpoints *e, unsigned endpoint)
{
    return (endpoint + 1) % e->count;
}

void endpoints_failed(struct endpoints *e, unsigned endpoint)
{
    if (e->now == endpoint) {
        e->now = endpoints_next(e, endpoint);
    }
}

uint32_t endpoints_backoff_next(uint32_t *backoff_ms)
{
    uint32_t now_ms = *backoff_ms != 0 ? *backoff_ms : ENDPOINTS_BACKOFF_MS_MIN;

    *backoff_ms = now_ms * 2 < ENDPOINTS_BACKOFF_MS_MAX ? now_ms * 2 : ENDPOINTS_BACKOFF_MS_MAX;
    return now_ms / 2 + (uint32_t)(random_u64() % (now_ms + 1));
}

uint32_t endpoints_backoff_round(const struct endpoints *e, unsigned failures_count, uint32_t *backoff_ms)
{
    uint32_t within_ms = 0;

    return endpoints_backoff_next(failures_count % e->count == 0 ? backoff_ms : &within_ms);
}

/* "http://host:port", nothing behind it. What curl refuses otherwise it refuses with each request. */
static int url_check(const char *url, struct otr_errmsg *msg)
{
    const char *host = strncmp(url, "http://", 7) == 0 ? url + 7 : strncmp(url, "https://", 8) == 0 ? url + 8 : NULL;

    if (host == NULL) {
        otr_errmsg_set(msg, "endpoint \"%s\" does not start with http:// or https://", url);
        return OTR_INVALID;
    }
    if (*host == '\0' || strpbrk(host, "/?#@ \t\\\"") != NULL || strlen(url) > ENDPOINTS_URL_MAX) {
        otr_errmsg_set(msg, "endpoint \"%.200s\" is not of the form http://host:port", url);
        return OTR_INVALID;
    }
    return 0;
}

static int url_add(struct endpoints *e, const char *text, size_t bytes, struct otr_errmsg *msg)
{
    char *url;
    int rv;

    while (bytes > 0 && isspace((unsigned char)text[0])) {
        text++;
        bytes--;
    }
    while (bytes > 0 && (isspace((unsigned char)text[bytes - 1]) || text[bytes - 1] == '/')) {
        bytes--;
    }
    if (bytes == 0) {
        return 0; /* "a,,b" and "a," name no endpoint too many. */
    }
    if (e->count == ENDPOINTS_MAX) {
        otr_errmsg_set(msg, "more than %d endpoints", ENDPOINTS_MAX);
        return OTR_INVALID;
    }
    url = strndup(text, bytes);
    if (url == NULL) {
        return OTR_NOMEM;
    }
    rv = url_check(url, msg);
    if (rv != 0) {
        free(url);
        return rv;
    }
    e->urls[e->count++] = url;
    return 0;
}

int endpoints_parse(struct endpoints *e, const char *text, struct otr_errmsg *msg)
{
    size_t bytes;
    int rv;

    *e = (struct endpoints){0};
    while (text != NULL && *text != '\0') {
        bytes = strcspn(text, ",");
        rv = url_add(e, text, bytes, msg);
        if (rv != 0) {
            return rv;
        }
        text += bytes + (text[bytes] == ',' ? 1 : 0);
    }
    if (e->count == 0) {
        otr_errmsg_set(msg, "no endpoint given");
        return OTR_INVALID;
    }
    return 0;
}

void endpoints_close(struct endpoints *e)
{
    for (unsigned i = 0; i < e->count; i++) {
        free(e->urls[i]);
    }
    *e = (struct endpoints){0};
}

void endpoints_warn_of_plain_text(const struct endpoints *e, const char *backend, const char *secret)
{
    for (unsigned i = 0; i < e->count; i++) {
        const char *url = e->urls[i];

        if (strncmp(url, "http:", 5) == 0 && strncmp(url + 7, "127.", 4) != 0 && strncmp(url + 7, "[::1]", 5) != 0 &&
            strncmp(url + 7, "localhost", 9) != 0) {
            log_warn(backend, "%s goes to %s in plain text: use https there", secret, url);
        }
    }
}
