/* A whole cluster in one process: real nodes, journals and peer connections on one loop, a fake coordinator and fake
 * engines. Everything is awaited: lab_until turns the loop until a condition holds, and fails the test when it does not
 * within 10 s. */
#ifndef OUTRIGGER_TESTS_LAB_H
#define OUTRIGGER_TESTS_LAB_H

#include "sidecar/node/node.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>

struct fake_coordinator;

enum { LAB_NODES = 3, LAB_DIMENSION = 4 };

struct lab {
    uv_loop_t loop;
    struct fake_coordinator *coordinator;
    struct node *nodes[LAB_NODES];
    char dir[64];
    uint32_t shards;
    uint16_t ports[LAB_NODES];
    bool closed;
    enum node_compression compression[LAB_NODES];
    bool compressed; /* the cluster's setting */
    uint64_t segment_bytes;
    bool scrubs;
};

/* Nodes "n1".."n3", started and initialised with so many shards, three replicas each; returns when all are writable. */
void lab_open(struct lab *lab, uint32_t shards);
/* The same, with compression switched on and these modes of the nodes. */
void lab_open_compressed(struct lab *lab, uint32_t shards, const enum node_compression modes[LAB_NODES]);
/* The same, with small files of the log, which are read again all the time if `scrubs`. */
void lab_open_small(struct lab *lab, uint32_t shards, bool scrubs);
void lab_close(struct lab *lab);
void lab_start(struct lab *lab, int i);
/* Orderly; the data directory stays. */
void lab_stop(struct lab *lab, int i);
/* Like a crash: nothing is noted or flushed any more. */
void lab_crash(struct lab *lab, int i);
/* Damages bytes of a node's log: those of the first place where `text` stands in a sealed segment, or all of them.
 * False: it is in none. */
bool lab_damage(struct lab *lab, int i, const char *text, bool all);
/* Empties the data directory of a stopped node. */
void lab_wipe(struct lab *lab, int i);

void lab_until(struct lab *lab, bool (*holds)(struct lab *lab, void *data), void *data, const char *what);
/* Every running node has its replicas, whatever their roles. */
bool lab_opened(struct lab *lab, void *data);
bool lab_writable(struct lab *lab, void *data);
/* Every running node is in the in-sync set of every shard. */
bool lab_in_sync(struct lab *lab, void *data);
/* Number of the running node that is the shard's primary, -1: none. */
int lab_primary(struct lab *lab, otr_shard shard);

uint64_t lab_collection(struct lab *lab, const char *name);
void lab_drop(struct lab *lab, const char *name);
/* Writes a point whose vector is (x, 1, 0, 0) through its shard's primary; retried like a client until certain. */
struct node_write_result lab_put(struct lab *lab, uint64_t collection, const char *id, float x);
struct node_write_result lab_delete(struct lab *lab, uint64_t collection, const char *id);
/* x of the point as node i has it; NAN: not there. */
float lab_get(struct lab *lab, int i, uint64_t collection, const char *id, enum node_consistency c, int *status);
/* Ids of the k nearest to (x, 1, 0, 0) in one shard of node i, space-separated. */
void lab_search(struct lab *lab, int i, otr_shard shard, uint64_t collection, float x, uint32_t k,
                enum node_consistency c, char *out, size_t bytes);
otr_shard lab_shard_of(struct lab *lab, const char *id);

#endif
