/* HTTP GETs as commands use them: several at once, waited for together. */
#ifndef OUTRIGGER_CLI_FETCH_H
#define OUTRIGGER_CLI_FETCH_H

#include "sidecar/cli/loop.h"
#include "sidecar/io/http_client.h"

struct fetch {
    char url[512]; /* the caller's */
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
};

int fetch_open(struct fetch_client *f, struct loop *loop, struct otr_errmsg *msg);
/* Sends all and waits for all; each ends within timeout_ms. */
void fetch_all(struct fetch_client *f, struct fetch *fetches, size_t count, uint32_t timeout_ms);
void fetch_clear(struct fetch *fetches, size_t count);
void fetch_close(struct fetch_client *f);

#endif
