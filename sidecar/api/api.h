/* What clients and operators reach: HTTP/1.1 with the REST calls of DESIGN 6.1, /healthz, /readyz, and /cluster (the
 * topology and this node's shards as JSON, which `outrigger cluster status --sidecar` reads). Loop thread only. */
#ifndef OUTRIGGER_API_API_H
#define OUTRIGGER_API_API_H

#include "sidecar/node/door.h"

struct api;

struct api_config {
    struct node *node;
    const char *listen_host; /* numeric address */
    uint16_t listen_port;
    uint32_t request_timeout_ms; /* 0: 10000 */
    uint32_t connections_max;    /* 0: 10000 */
    /* Requests under way, and how long they may wait before new ones are refused; 0: the default, rest_admission.c. */
    uint32_t writes_max, gets_max, searches_max, delay_max_ms;
    const char *tokens_path;        /* sidecar/api/tokens.h; NULL: everybody may call */
    bool metrics_open;              /* /metrics needs no token even so */
    const char *tls_cert, *tls_key; /* PEM files: HTTPS; NULL: plain HTTP */
    const char *tls_client_ca;      /* PEM file: clients must show a certificate of its; NULL: none is asked for */
};

/* OTR_INUSE, OTR_INVALID with words that name the address; as tokens_read; as tls_new. */
int api_new(struct api **out, const struct api_config *config, struct otr_errmsg *msg);
uint16_t api_port(const struct api *a);
/* The process is going to stop: serving goes on, but every answer ends its connection. */
void api_leave(struct api *a);
/* No new connections; answers what is under way, for timeout_ms at most, then closes as api_close does. */
void api_finish(struct api *a, uint32_t timeout_ms, void (*cb)(void *data), void *data);
/* Stops listening, answers what is under way with 503, closes, then cb. */
void api_close(struct api *a, void (*cb)(void *data), void *data);

#endif
