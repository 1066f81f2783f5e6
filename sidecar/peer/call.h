/* Incoming calls: who may call, what is called, and the answer. The public part is in peer.h. */
#ifndef OUTRIGGER_PEER_CALL_H
#define OUTRIGGER_PEER_CALL_H

#include "sidecar/peer/conn.h"

/* A request's headers are complete. */
void call_begin(struct conn *c, struct stream *s);
/* The hub goes away: calls not answered yet become the handlers' own, to be answered into the void. */
void call_orphan_all(struct peer_hub *hub);

#endif
