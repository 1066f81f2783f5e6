/* What both sides of seeding share. */
#ifndef OUTRIGGER_NODE_SEED_H
#define OUTRIGGER_NODE_SEED_H

#include "sidecar/node/node_internal.h"

/* One remembered request id in a seed: little-endian, 48 bytes (seed_send.c). */
struct seed_request_id {
    uint64_t epoch, index, time_ms;
    struct otr_request_id id;
    uint32_t outcome, zero;
};
_Static_assert(sizeof(struct seed_request_id) == 48, "this is the wire format");

#endif
