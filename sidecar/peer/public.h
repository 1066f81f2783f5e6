/* gRPC's own services on the peers' port, grpc.health.v1.Health and grpc.reflection (v1 and v1alpha). They are for
 * anybody who may connect: a health checker knows no cluster, so no metadata is asked for, and nothing is told that is
 * not public: whether we serve, and what our .proto files say.
 *
 * Bounds: so many such calls at once, small requests, and a caller who does not read is not read from either. A Watch
 * has at most one answer queued; what changes meanwhile is told when that one is gone. */
#ifndef OUTRIGGER_PEER_PUBLIC_H
#define OUTRIGGER_PEER_PUBLIC_H

#include "sidecar/peer/conn.h"

/* A request for one of these methods, its headers complete and well-formed. */
void public_begin(struct conn *c, struct stream *s);
/* hub->serving changed: tells who watches. */
void public_changed(struct peer_hub *hub);
/* The hub closes: ends what is watched. In order, for gRPC clients forget what came last before an error. */
void public_close(struct peer_hub *hub);

#endif
