/* One suite of cases for every engine driver: CASE(name) { ... } becomes a test per engine. What engines do differently
 * under faults is behind struct world_driver; a case never asks which engine it has, only for what caps() says.
 *
 * The world notes when a member of the vtable runs and fails the test when a callback fires inside, or twice. */
#ifndef OUTRIGGER_TESTS_CONFORMANCE_ENGINES_WORLD_H
#define OUTRIGGER_TESTS_CONFORMANCE_ENGINES_WORLD_H

#include "outrigger/engine.h"

#include <criterion/criterion.h>
#include <uv.h>

struct world;

struct world_driver {
    const struct otr_engine_ops *ops;
    const char *options;             /* of the engine */
    void (*init)(struct world *w);   /* sets w->url; nothing runs yet */
    void (*start)(struct world *w);  /* serves when it returns; with the data of before, if there were any */
    void (*kill)(struct world *w);   /* at once; connections are refused afterwards */
    void (*wipe)(struct world *w);   /* after kill: its data are gone */
    void (*freeze)(struct world *w); /* nobody answers, connections stay */
    void (*thaw)(struct world *w);
    void (*close)(struct world *w);
};
extern const struct world_driver world_fake;
extern const struct world_driver world_ruvector_flat;
extern const struct world_driver world_ruvector_hnsw;

enum { STATUSES_MAX = 64, HITS_MAX = 512, TIMEOUT_MS = 3000 };

struct world {
    uv_loop_t loop;
    const struct world_driver *driver;
    const struct otr_engine_ops *ops;
    struct otr_engine *e;
    struct otr_engine_caps caps;
    char url[64];
    void *process; /* the driver's */
    uv_timer_t ticker;
    bool in_call; /* a member of the vtable runs: no callback may fire */
    bool closed;
    bool lies;                                       /* the engine does: hits in any order are its right */
    struct otr_engine_status statuses[STATUSES_MAX]; /* every report, in order */
    size_t statuses_count;
};

#define CASE_ON(suite, name)                    \
    Test(suite, name, .timeout = 90)            \
    {                                           \
        world_run(&world_##suite, case_##name); \
    }
#define CASE(name)                            \
    static void case_##name(struct world *w); \
    CASE_ON(fake, name)                       \
    CASE_ON(ruvector_flat, name)              \
    CASE_ON(ruvector_hnsw, name)              \
    static void case_##name(struct world *w)

/* Runs a case in a world whose engine runs and is reported up; afterwards everything is closed and nothing is left on
 * the loop. */
void world_run(const struct world_driver *driver, void (*body)(struct world *w));
/* Opens the driver on w->url, or closes it; world_run does both. */
void world_open(struct world *w);
void world_close_engine(struct world *w);

/* Runs the loop until `condition` holds. */
#define AWAIT(w, condition)                                                       \
    do {                                                                          \
        uint64_t end_ = uv_hrtime() + UINT64_C(20000000000);                      \
        while (!(condition)) {                                                    \
            cr_assert(uv_hrtime() < end_, "this did not happen: %s", #condition); \
            uv_run(&(w)->loop, UV_RUN_ONCE);                                      \
        }                                                                         \
    } while (0)

/* Lets that much time pass, for what must not happen. */
void world_pass(struct world *w, unsigned ms);

const struct otr_engine_status *last_status(const struct world *w);
bool is_up(const struct world *w);
bool is_dead(const struct world *w); /* evidently */

/* --- calls -------------------------------------------------------------------------------------------------------- */

struct result {
    struct otr_engine_req req;
    struct world *w;
    unsigned calls_count; /* of the callback */
    int status;
    uint64_t count;
    size_t hits_count;
    char ids[HITS_MAX][OTR_POINT_ID_MAX + 1];
    double scores[HITS_MAX];
    char text[OTR_ERRMSG_MAX];
};

/* They start a call and return what the member returned. */
int start_make(struct world *w, struct result *r, const char *name, uint32_t dimension, enum otr_metric metric);
int start_drop(struct world *w, struct result *r, const char *name);
int start_upsert(struct world *w, struct result *r, const char *name, const struct otr_point *points, size_t count);
int start_erase(struct world *w, struct result *r, const char *name, const struct otr_point *points, size_t count);
int start_search(struct world *w, struct result *r, const char *name, const float *vector, uint32_t dimension,
                 uint32_t k);
int start_count(struct world *w, struct result *r, const char *name);

/* They wait as well; the status, whether it came at once or by callback. r may be NULL but for a search. */
int make(struct world *w, const char *name, uint32_t dimension, enum otr_metric metric);
int drop(struct world *w, const char *name);
int upsert(struct world *w, const char *name, const struct otr_point *points, size_t count, struct result *r);
int erase(struct world *w, const char *name, const struct otr_point *points, size_t count, struct result *r);
int search(struct world *w, const char *name, const float *vector, uint32_t dimension, uint32_t k, struct result *r);
/* Must succeed. */
uint64_t count(struct world *w, const char *name);

/* A point with a NUL-terminated id and metadata (NULL: none). */
struct otr_point point(const char *id, const float *vector, uint32_t dimension, const char *metadata);

#endif
