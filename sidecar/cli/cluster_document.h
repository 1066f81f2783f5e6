/* A cluster's durable state out of a coordinator and into another one, as a document (coord/document.h). */
#ifndef OUTRIGGER_CLI_CLUSTER_DOCUMENT_H
#define OUTRIGGER_CLI_CLUSTER_DOCUMENT_H

#include "sidecar/cli/coord_client.h"
#include "sidecar/coord/document.h"

struct cluster_exported {
    uint32_t live;          /* sidecars that run: what they change from now on is not in it */
    uint32_t skipped;       /* durable keys that are none of a cluster's */
    char skipped_name[128]; /* one of them */
};

/* Fills an empty document, from one linearizable answer, and checks it. OTR_NOTFOUND: there is no such cluster;
 * OTR_CONFLICT: what is there is an import that is not complete; OTR_PROTO: a key that cannot be read; else as
 * coord_client_read. The document is the caller's to close in every case. */
int cluster_export(struct coord_client *c, struct document *d, struct cluster_exported *e, struct otr_errmsg *msg);

struct cluster_imported {
    size_t keys;
    size_t removed; /* that an interrupted import had left */
};

/* Writes a checked document below an empty prefix.
 *
 * Sidecars serve, and `cluster init` and `bootstrap` go on, only by the key `config`, so that it makes the import
 * atomic: first the key `import` is put, with an id of this run; then, some at a time, all keys but `config`; in the
 * end, after a look at everything, `config` is put and `import` deleted in one transaction. Each transaction demands
 * that `config` is absent and that `import` is still this run's. An interrupted run leaves `import`, and keys that mean
 * nothing; the next one, of whatever document, takes `import` over, by which an older one that still ran fails, deletes
 * what does not belong, and goes on.
 *
 * OTR_EXISTS: there is a cluster, or keys of something else; OTR_INUSE: sidecars run there; OTR_INVALID: the document
 * is another cluster's; OTR_CONFLICT: somebody else came first; OTR_UNKNOWN: run it again; else as coord_client_.
 * Unless 0 no sidecar sees anything. */
int cluster_import(struct coord_client *c, const struct document *d, struct cluster_imported *done,
                   struct otr_errmsg *msg);

#endif
