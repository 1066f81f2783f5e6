/* A cluster's durable keys as one JSON document (`outrigger cluster export`), for people to read and compare and for
 * `outrigger cluster import` to write again, into either backend:
 *
 *   {
 *     "format": "outrigger cluster export",
 *     "version": 1,
 *     "cluster": "photos",
 *     "keys": {
 *       "collections/docs": {"id":"00000000000000aa","dimension":128,...},
 *       "config": {...},
 *       "nodes/node-1": {...},
 *       "shards/0": {...}
 *     }
 *   }
 *
 * One line a key, as it is called below /outrigger/<cluster>/, sorted with numbers by their value, so that equal states
 * are equal bytes and `diff` shows what changed. A value is the coordinator's own, on one line, fields that this
 * version does not know included. What hangs on sessions (live, leases, services) is not in it. Pure. */
#ifndef OUTRIGGER_COORD_DOCUMENT_H
#define OUTRIGGER_COORD_DOCUMENT_H

#include "sidecar/coord/keys.h"

enum {
    DOCUMENT_VERSION = 1,
    DOCUMENT_VALUE_MAX = 200000,   /* bytes of a value: with its key it fits into any transaction (OTR_TXN_BYTES_MAX) */
    DOCUMENT_BYTES_MAX = 64 << 20, /* of a whole document that is read */
};

struct document_entry {
    char key[KEY_MAX]; /* "shards/0" */
    char *value;       /* one line of JSON */
};

/* Caller-owned; {0} is empty. */
struct document {
    char cluster[OTR_NAME_MAX + 1];
    struct document_entry *entries;
    size_t count;
    size_t room;
};

void document_close(struct document *d);

/* Whether a key ("shards/0") is one of the durable ones that a document has. */
bool document_key_valid(const char *key);

/* Adds one key with its value as the coordinator has it. OTR_PROTO: the value is no JSON object; OTR_TOOBIG;
 * OTR_INVALID: no such key; OTR_NOMEM. Words name the key. document_sort when all are there. */
int document_add(struct document *d, const char *key, const char *value, struct otr_errmsg *msg);

/* Sorts the keys. OTR_PROTO: one is there twice. */
int document_sort(struct document *d, struct otr_errmsg *msg);

/* Whether these keys make one whole cluster: settings, all its shards, which cover the hash space once, every value one
 * that a sidecar understands. OTR_PROTO with words that name the key; OTR_NOMEM. */
int document_check(const struct document *d, struct otr_errmsg *msg);

/* malloc'd text; NULL when out of memory. */
char *document_print(const struct document *d);

/* Reads what _print writes, into an empty one, sorted. OTR_PROTO with words; OTR_UNSUPPORTED: a later version's;
 * OTR_NOMEM. `d` stays empty unless 0. What it says is not checked: document_check. */
int document_parse(const char *text, struct document *d, struct otr_errmsg *msg);

/* Its value, lent; NULL: there is none. */
const char *document_find(const struct document *d, const char *key);

#endif
