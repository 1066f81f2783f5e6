/* HTTP calls as commands use them: several at once, waited for together. All carry the user's token, if there is one.
 */
#ifndef OUTRIGGER_CLI_FETCH_H
#define OUTRIGGER_CLI_FETCH_H

#include "sidecar/cli/credentials.h"
#include "sidecar/cli/loop.h"

struct fetch {
    char url[512];      /* the caller's; so is what follows */
    const char *method; /* NULL: GET */
    const char *send;   /* a JSON body, NULL: none; lent until the answer */
    void *data;
    int status;       /* as http_done_cb */
    long http_status; /* 0: no answer */
    char *body;       /* malloc'd, NUL-terminated; NULL without a complete answer. fetch_clear frees it */
    struct otr_errmsg msg;
    struct http_request request; /* the rest is fetch's own */
    struct fetch_batch *batch;
};

struct fetch_client {
    struct loop *loop;
    struct http_client *http;
    char authorization[CREDENTIALS_HEADER_BYTES]; /* a header line, or "" */
    const char *headers[2];                       /* that line, if any, and NULL */
};

/* credentials NULL: none. */
int fetch_open(struct fetch_client *f, struct loop *loop, const struct credentials_settings *credentials,
               struct otr_errmsg *msg);
/* Sends all and waits for all; each ends within timeout_ms. */
void fetch_all(struct fetch_client *f, struct fetch *fetches, size_t count, uint32_t timeout_ms);
/* Why an answer is not what was asked for: the sidecar's own words, and the HTTP status. */
void fetch_refusal(const struct fetch *fetch, struct otr_errmsg *msg);
void fetch_clear(struct fetch *fetches, size_t count);
void fetch_close(struct fetch_client *f);

#endif
