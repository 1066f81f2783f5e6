/* The HTTP/2 session of a connection: what nghttp2 says of frames and streams, passed on to streams and their owner. */
#ifndef OUTRIGGER_PEER_CONN_SESSION_H
#define OUTRIGGER_PEER_CONN_SESSION_H

#include "sidecar/peer/conn.h"

/* Makes c->session in the role of c->server. An error of nghttp2, and then there is none. */
int conn_session_new(struct conn *c);

#endif
