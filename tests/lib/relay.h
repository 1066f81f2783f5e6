/* A TCP relay on a loop, between a client and a server of this host, that a test can cut in the ways in which networks
 * fail. It needs no privileges and touches neither end. */
#ifndef OUTRIGGER_TESTS_RELAY_H
#define OUTRIGGER_TESTS_RELAY_H

#include <stdint.h>
#include <uv.h>

enum relay_link {
    RELAY_WHOLE = 1,
    RELAY_REFUSED,     /* connections are reset, new ones refused: a firewall that rejects */
    RELAY_SILENT,      /* nothing passes, nothing is said: a broken cable, a firewall that drops */
    RELAY_NO_REQUESTS, /* one way: what the client sends does not arrive */
    RELAY_NO_ANSWERS,  /* one way: what the server sends does not arrive */
};

struct relay;

/* To 127.0.0.1:port; starts WHOLE. Ends the test when that fails. */
struct relay *relay_new(uv_loop_t *loop, uint16_t port);
/* Where to connect. */
uint16_t relay_port(const struct relay *relay);
/* What was held back, and is still wanted by both ends' kernels, goes on when its direction is open again: as with TCP
 * over a network that comes back. */
void relay_set(struct relay *relay, enum relay_link link);
/* The memory is freed by the loop: run it to its end. */
void relay_close(struct relay *relay);

#endif
