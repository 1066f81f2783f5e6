/* What a node finds in its data directory. Blocking; before the loop runs. */
#ifndef OUTRIGGER_NODE_RECOVER_H
#define OUTRIGGER_NODE_RECOVER_H

#include "sidecar/node/node_internal.h"

/* A request id as recovered, until the replica is made. */
struct recovered_id {
    struct replica_entry entry;
    uint32_t outcome;
    bool has_outcome;
};

/* Locks the directory, opens the journal, rebuilds the stores of all its shards. */
int recover_node(struct node *n, uint64_t segment_bytes, struct otr_errmsg *msg);
/* Hands what was recovered of the request ids to the replica. */
int recover_requests(struct shard *s);
/* The outcome of an entry, before there is a replica to tell. */
void recover_outcome(struct shard *s, uint64_t index, uint32_t outcome);

#endif
