/* A raw HTTP client on the test's own thread: it runs the server's loop while it waits. */
#ifndef OUTRIGGER_TESTS_CLIENT_H
#define OUTRIGGER_TESTS_CLIENT_H

#include <openssl/ssl.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <uv.h>

/* How clients that are opened speak; NULL: without TLS. */
extern SSL_CTX *client_tls;

struct client {
    uv_loop_t *loop;
    int fd;
    SSL *ssl;            /* its handshake is made with the first byte sent */
    char tls_wrong[256]; /* why the server or OpenSSL ended it, "": they did not */
    char *in;            /* received, not yet taken */
    size_t in_bytes;
    size_t in_room; /* allocated at `in` */
    bool eof;
};

struct answer {
    int status;
    char head[8192];
    char *body; /* NUL-terminated; free with answer_free */
    size_t body_bytes;
};

void client_open(struct client *c, uv_loop_t *loop, uint16_t port);
void client_close(struct client *c);
/* Sends all, running the loop. */
void client_send(struct client *c, const char *bytes, size_t count);
void client_puts(struct client *c, const char *text);
/* Ends our side. */
void client_end(struct client *c);
/* Waits for one complete answer; false when none came within the time or the connection ended. */
bool client_answer(struct client *c, struct answer *a, unsigned timeout_ms);
/* An answer without body (to HEAD). */
bool client_head_answer(struct client *c, struct answer *a, unsigned timeout_ms);
/* Waits until the server ends the connection. */
bool client_ended(struct client *c, unsigned timeout_ms);
void answer_free(struct answer *a);
/* The header's value in a static buffer, NULL: none. */
const char *answer_header(const struct answer *a, const char *name);
/* Runs the loop for about so long. */
void run_for(uv_loop_t *loop, unsigned ms);

#endif
