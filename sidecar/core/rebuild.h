/* A shard's descriptor again, from what the surviving nodes know, after the coordinator lost it (PROTOCOL D4). Pure. */
#ifndef OUTRIGGER_CORE_REBUILD_H
#define OUTRIGGER_CORE_REBUILD_H

#include "sidecar/core/topology.h"

/* What a node says of its own replica. */
struct rebuild_replica {
    otr_node node;
    uint64_t incarnation;
    bool leads; /* ... `promised` */
    uint64_t promised, log_id;
    uint64_t seen_generation, seen_epoch, seen_version; /* newest descriptor it ever saw */
    struct otr_position last;
};

/* The descriptor to be published, of the given generation, which is above every one seen, and in an epoch above
 * everything promised: the newest of `shown`, its set unchanged, for whoever counted before is in it. It names the
 * primary that leads now, if one does; else members elect. OTR_NOTFOUND: nobody shows one. OTR_CONFLICT, with words:
 * acknowledged entries could be lost, unless `accept_loss`. OTR_CORRUPT: two that should be equal differ. */
int rebuild_descriptor(const struct topology *names, const struct descriptor *shown, size_t shown_count,
                       const struct rebuild_replica *replicas, size_t replicas_count, uint64_t generation,
                       bool accept_loss, struct descriptor *out, struct otr_errmsg *msg);

#endif
