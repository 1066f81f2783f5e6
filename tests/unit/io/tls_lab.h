/* What the tests of TLS share: identities in files of their own, two ends of a connection, and moving bytes between
 * them. */
#ifndef TESTS_UNIT_IO_TLS_LAB_H
#define TESTS_UNIT_IO_TLS_LAB_H

#include "sidecar/io/tls.h"

#include "tests/lib/temp_dir.h"
#include "tests/lib/test_certs.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

extern uv_loop_t *tls_lab_loop;
extern struct temp_dir dir;
extern struct test_cert ca, ca2;
extern const struct tls_name any_node_of_test;

/* One identity's files and its object. */
struct identity {
    char ca[300], cert[300], key[300];
    struct tls *tls;
    bool closed;
};

/* One end of a connection. */
struct end {
    struct tls_session *s;
    uint8_t *got;
    size_t got_bytes;
    int rv; /* of feed: the first failure */
    struct otr_errmsg msg;
};

/* A client and a server, ready. */
struct pair {
    struct identity a, b;
    struct end client, server;
};

void tls_lab_begin(void);
void tls_lab_finish(void);
void identity_paths(struct identity *i, const char *name);
/* Loads what the files have. */
int identity_try(struct identity *i, const struct tls_name *self, struct otr_errmsg *msg);
/* Writes the files and loads them. */
void identity_open(struct identity *i, const char *name, const struct test_cert *cert);
void identity_close(struct identity *i);
/* With a good certificate of that node of cluster "test". */
void node_identity(struct identity *i, const char *node);
void end_open(struct end *e, struct identity *i, enum tls_role role, const struct tls_name *expect);
void end_close(struct end *e);
/* The callback of tls_session_feed that keeps what comes, at a struct end. */
bool end_take(void *data, const uint8_t *bytes, size_t count);
/* Keeps what comes out, and the first failure. */
void end_feed(struct end *e, const void *bytes, size_t count);
/* Moves what waits at both ends, in pieces, until nothing moves any more. */
void pump(struct end *a, struct end *b, size_t piece);
void end_write(struct end *e, const void *bytes, size_t count);
bool end_has(const struct end *e, const char *text);
/* "a" is the client, "b" the server. */
void pair_open(struct pair *p);
void pair_close(struct pair *p);
/* Some turns of the loop, of 5 ms each at most. */
void run_turns(unsigned turns);
/* Until so many reloads have worked, and failed. */
void run_until_stats(const struct identity *i, uint64_t reloads, uint64_t failed);

#endif
