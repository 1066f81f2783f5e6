/* A fake of sidecar/node/node.h and of the peers' links: a world of three nodes and four shards in memory, so that the
 * door and the API are tested against what they call and nothing behind it. Every node has a replica of every shard;
 * all replicas of a shard are one store. Messages between nodes are packed and unpacked as on the wire, and arrive at
 * door_on_call of the other node.
 *
 * What a node or a link does next is planned by the test: see fake_plan_*. Callbacks come from the loop, later. */
#ifndef OUTRIGGER_TESTS_FAKE_NODE_H
#define OUTRIGGER_TESTS_FAKE_NODE_H

#include "sidecar/node/door.h"

enum { FAKE_NODES = 3, FAKE_SHARDS = 4 };

struct fake_world;

/* topology: all shards known, primaries node-1, node-2, node-3, node-1; collection "c" of dimension 3, Cosine, and
 * "far", Euclidean, which only the coordinator knows (a refresh brings it). */
struct fake_world *fake_world_new(uv_loop_t *loop);
/* Nothing may be outstanding. */
void fake_world_free(struct fake_world *w);
struct node *fake_node(struct fake_world *w, unsigned number); /* from 1 */

/* Moves the shard to another primary (0: none), without telling; fake_change tells those who wait. */
void fake_primary(struct fake_world *w, otr_shard shard, unsigned number);
void fake_change(struct fake_world *w);
/* Takes a shard out of the topology, or puts it back. */
void fake_shard_known(struct fake_world *w, otr_shard shard, bool known);
void fake_link_up(struct fake_world *w, unsigned number, bool up);

enum fake_fate {
    FAKE_REFUSE = 1, /* ends with `status`, nothing is done */
    FAKE_LOSE,       /* is done, but the answer is `status` */
    FAKE_HANG,       /* is not done and never answered, until fake_release */
    FAKE_PENDING,    /* is done, "applied pending" */
};
/* The next operation (write, get, search, handoff) of that node on that shard. Plans of one pair queue up. */
void fake_plan(struct fake_world *w, unsigned number, otr_shard shard, enum fake_fate fate, int status);
/* The same for ever (until fake_plan_always(.., 0, 0)). */
void fake_plan_always(struct fake_world *w, unsigned number, otr_shard shard, enum fake_fate fate, int status);
/* The next call over the link to that node: its answer is lost on the way (`status` is what the caller is told). */
void fake_plan_link(struct fake_world *w, unsigned number, int status);
/* What hangs ends with this status. */
void fake_release(struct fake_world *w, int status);
/* The coordinator answers refreshes, creates and deletes with this status (0: works; -1: never). */
void fake_coordinator(struct fake_world *w, int status);
void fake_ready(struct fake_world *w, bool ready);

/* What was asked of the nodes so far. */
unsigned fake_writes(const struct fake_world *w); /* node_write calls */
unsigned fake_gets(const struct fake_world *w);
unsigned fake_searches(const struct fake_world *w);
unsigned fake_calls(const struct fake_world *w, unsigned number); /* over the link to it */
/* Of the newest get or search on that shard: the position it was to wait for, the filter (""), the threshold (NAN). */
struct otr_position fake_after(const struct fake_world *w, otr_shard shard);
const char *fake_filter(const struct fake_world *w);
double fake_threshold(const struct fake_world *w);
/* Writes that took effect, and points there are. */
unsigned fake_entries(const struct fake_world *w);
unsigned fake_points(const struct fake_world *w);
const struct otr_point *fake_find(const struct fake_world *w, const char *id);
/* An id that lives in that shard: "p<n>" with the smallest n >= *n; *n moves behind it. */
const char *fake_id_in(struct fake_world *w, otr_shard shard, unsigned *n, char out[16]);

#endif
