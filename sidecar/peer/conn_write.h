/* How a connection's frames reach its socket: one batch at a time, gathered from nghttp2 and the streams' queues.
 * conn_flush, in conn.h, does it. */
#ifndef OUTRIGGER_PEER_CONN_WRITE_H
#define OUTRIGGER_PEER_CONN_WRITE_H

#include "sidecar/peer/conn.h"

/* Forgets the batch, and lets go of its messages. */
void conn_write_release(struct conn *c);
/* What a failed TLS session leaves to say. False: nothing, or it cannot be written at once. */
bool conn_write_alert(struct conn *c);
/* TLS: close_notify, if the socket takes it at once. */
void conn_write_goodbye(struct conn *c);
/* nghttp2's send_data callback. One DATA frame: its header and the next `length` bytes of the stream's queue. */
int conn_write_data(nghttp2_session *session, nghttp2_frame *frame, const uint8_t *header, size_t length,
                    nghttp2_data_source *source, void *data);

#endif
