/* Outgoing unary calls. The public part is in peer.h. */
#ifndef OUTRIGGER_PEER_REQUEST_H
#define OUTRIGGER_PEER_REQUEST_H

#include "sidecar/peer/link.h"

/* As peer_link_call, on the link's connection, UP or not (for Hello); conn NULL: fails soon with OTR_UNREACHABLE. */
int request_start(struct peer_link *link, struct conn *conn, enum peer_method method, const ProtobufCMessage *content,
                  uint32_t timeout_ms, peer_reply_cb cb, void *data);
/* Ends the link's calls that wait for their failure to be told. */
void request_cancel_all(struct peer_link *link);
/* What a closed stream means to the caller: 0 or OTR_*, with words. */
int request_outcome(const struct peer_link *link, const struct stream *s, bool replied, bool lost, uint32_t error,
                    struct otr_errmsg *msg);

#endif
