/* A real engine server as child process and a driver opened on it, for the tests of this folder.
 *
 * The loop is run only while something is awaited; an await that takes longer than AWAIT_MS fails the test. */
#ifndef OUTRIGGER_TESTS_UNIT_RUVECTOR_FIXTURE_H
#define OUTRIGGER_TESTS_UNIT_RUVECTOR_FIXTURE_H

#include "outrigger/engine.h"
#include "tests/lib/ruvector_server.h"

#include <uv.h>

enum { AWAIT_MS = 20000, HITS_MAX = 256, STATUSES_MAX = 64 };

/* How one call ended. */
struct result {
    struct otr_engine_req req;
    bool done;
    int status;
    uint64_t count;
    size_t hits_count;
    char ids[HITS_MAX][OTR_POINT_ID_MAX + 1];
    double scores[HITS_MAX];
    struct otr_errmsg msg;
    unsigned order; /* 1: the first callback of this fixture */
};

struct fixture {
    struct ruvector_server server;
    uv_loop_t loop;
    struct otr_engine *engine;
    struct otr_engine_status statuses[STATUSES_MAX]; /* every report, in order */
    size_t statuses_count;
    struct otr_errmsg status_msg; /* of the last */
    bool closed;
    unsigned callbacks;
};

/* Server and driver; returns when the driver has reported the engine up. */
void fixture_open(struct fixture *f);
/* Driver alone, on any URL; waits for nothing. */
void fixture_open_url(struct fixture *f, const char *url, const char *options);
void fixture_close(struct fixture *f);

/* Runs the loop until *flag. */
void await(struct fixture *f, const bool *flag);
/* Runs the loop until the newest status report is up (or not) and, if asked, evidently dead. */
void await_up(struct fixture *f);
void await_dead(struct fixture *f);
const struct otr_engine_status *last_status(const struct fixture *f);

/* Callbacks that fill a struct result. */
void result_cb(struct otr_engine_req *req, int status, const struct otr_errmsg *msg);
void result_search_cb(struct otr_engine_req *req, int status, const struct otr_engine_hit *hits, size_t hits_count,
                      const struct otr_errmsg *msg);
void result_count_cb(struct otr_engine_req *req, int status, uint64_t count, const struct otr_errmsg *msg);
/* Prepares r for a call. */
struct otr_engine_req *result_begin(struct fixture *f, struct result *r);

/* Calls that wait for their end and give back its status. r may be NULL. */
int make(struct fixture *f, const char *name, uint32_t dimension, enum otr_metric metric);
int drop(struct fixture *f, const char *name);
int upsert(struct fixture *f, const char *name, const struct otr_point *points, size_t count, struct result *r);
int erase(struct fixture *f, const char *name, const struct otr_point *points, size_t count, struct result *r);
int search(struct fixture *f, const char *name, const float *vector, uint32_t dimension, uint32_t k, struct result *r);
/* The number of points; fails the test when the call does. */
uint64_t count(struct fixture *f, const char *name);

/* A point with a NUL-terminated id and metadata (NULL: none). */
struct otr_point point(const char *id, const float *vector, uint32_t dimension, const char *metadata);

/* One plain HTTP request to the server, without the driver; gives back the status. `answer` takes the whole answer,
 * headers too. */
int http_get(const struct ruvector_server *s, const char *path, char *answer, size_t answer_bytes);

#endif
