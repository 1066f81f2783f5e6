/* Handing shards over, as the node sees it: an operator's wish, a process that is about to stop, an engine that died.
 * Loop thread only. */
#ifndef OUTRIGGER_NODE_HANDOFF_H
#define OUTRIGGER_NODE_HANDOFF_H

#include "sidecar/core/replica.h"

struct node;
struct shard;

/* The core's answer to EV_HANDOFF. */
void handoff_handed(struct shard *s, const struct replica_action *a);
/* After every step: notes when writes began to be refused, and goes on with a node that leaves. */
void handoff_stepped(struct shard *s);
/* Tells the core whether the engine works, and whether the disk has room. */
void handoff_brief(struct shard *s);
void handoff_brief_all(struct node *n);
/* The node closes: whoever waits is told so. */
void handoff_end(struct shard *s);
/* While the node leaves: whether it is done with it. */
void handoff_tick(struct node *n, uint64_t now_ms);

#endif
