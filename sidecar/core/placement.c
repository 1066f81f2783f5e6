/* Shard by shard, greedily: the next replica goes where the shard has fewest replicas in that zone, then to the node
 * with fewest replicas, then to one that shares fewest shards with those chosen (so that a dead node's load spreads
 * over many), then by order. Afterwards the first replicas are evened out: as long as one node has two more than
 * another that can be reached over shards which both ends of a step hold, they are passed on along that way. */
#include "sidecar/core/placement.h"

#include <assert.h>
#include <stdlib.h>

struct plan {
    const struct placement_node *nodes;
    uint32_t nodes_count;
    uint32_t replicas_count;
    uint32_t shards_count;
    uint32_t *load;   /* by node: replicas */
    uint32_t *firsts; /* by node: first replicas */
    uint32_t *from;   /* by node: search for a way; the node before, plus 1 */
    uint32_t *via;    /* by node: the shard that leads here from the node before */
    uint32_t *queue;
    uint16_t *shared; /* by pair of nodes: shards that both hold */
    uint32_t *chosen; /* by shard and place: number in `nodes` */
};

static void plan_close(struct plan *p)
{
    free(p->load);
    free(p->firsts);
    free(p->from);
    free(p->via);
    free(p->queue);
    free(p->shared);
    free(p->chosen);
}

static int plan_init(struct plan *p)
{
    size_t n = p->nodes_count;

    p->load = calloc(n, sizeof *p->load);
    p->firsts = calloc(n, sizeof *p->firsts);
    p->from = calloc(n, sizeof *p->from);
    p->via = calloc(n, sizeof *p->via);
    p->queue = calloc(n, sizeof *p->queue);
    p->shared = calloc(n * n, sizeof *p->shared);
    p->chosen = calloc((size_t)p->shards_count * p->replicas_count, sizeof *p->chosen);
    if (p->load == NULL || p->firsts == NULL || p->from == NULL || p->via == NULL || p->queue == NULL ||
        p->shared == NULL || p->chosen == NULL) {
        plan_close(p);
        return OTR_NOMEM;
    }
    return 0;
}

static uint32_t *chosen_of(const struct plan *p, uint32_t shard)
{
    return p->chosen + (size_t)shard * p->replicas_count;
}

/* What speaks against a node, weightiest first; UINT64_MAX for one that the shard has already. */
static uint64_t objections(const struct plan *p, const uint32_t *chosen, uint32_t count, uint32_t candidate)
{
    const char *zone = p->nodes[candidate].zone;
    uint64_t in_zone = 0;
    uint64_t shared = 0;

    for (uint32_t i = 0; i < count; i++) {
        if (chosen[i] == candidate) {
            return UINT64_MAX;
        }
        in_zone += zone[0] != '\0' && strcmp(zone, p->nodes[chosen[i]].zone) == 0;
        shared += p->shared[(size_t)candidate * p->nodes_count + chosen[i]];
    }
    return in_zone << 56 | (uint64_t)p->load[candidate] << 28 | shared;
}

static void plan_shard(struct plan *p, uint32_t shard)
{
    uint32_t *chosen = chosen_of(p, shard);

    for (uint32_t i = 0; i < p->replicas_count; i++) {
        uint64_t least = UINT64_MAX;
        uint32_t best = 0;

        for (uint32_t n = 0; n < p->nodes_count; n++) {
            uint64_t against = objections(p, chosen, i, n);

            if (against < least) {
                least = against;
                best = n;
            }
        }
        assert(least != UINT64_MAX);
        chosen[i] = best;
        p->load[best]++;
        for (uint32_t j = 0; j < i; j++) {
            p->shared[(size_t)best * p->nodes_count + chosen[j]]++;
            p->shared[(size_t)chosen[j] * p->nodes_count + best]++;
        }
    }
    p->firsts[chosen[0]]++;
}

/* Makes `node` the first of the shard; the others move up behind it. */
static void make_first(struct plan *p, uint32_t shard, uint32_t node)
{
    uint32_t *chosen = chosen_of(p, shard);
    uint32_t at = 0;

    while (chosen[at] != node) {
        at++;
    }
    p->firsts[chosen[0]]--;
    p->firsts[node]++;
    memmove(chosen + 1, chosen, at * sizeof chosen[0]);
    chosen[0] = node;
}

/* Breadth-first from `start` to a node with at least two first replicas fewer; true when one was passed on to it. */
static bool pass_on(struct plan *p, uint32_t start)
{
    uint32_t head = 0;
    uint32_t tail = 0;
    uint32_t least = UINT32_MAX;

    for (uint32_t n = 0; n < p->nodes_count; n++) {
        least = p->firsts[n] < least ? p->firsts[n] : least;
    }
    if (p->firsts[start] < least + 2) {
        return false;
    }
    memset(p->from, 0, p->nodes_count * sizeof p->from[0]);
    p->from[start] = start + 1;
    p->queue[tail++] = start;
    while (head < tail) {
        uint32_t node = p->queue[head++];

        if (p->firsts[node] + 2 <= p->firsts[start]) {
            for (; node != start; node = p->from[node] - 1) {
                make_first(p, p->via[node], node);
            }
            return true;
        }
        for (uint32_t s = 0; s < p->shards_count; s++) {
            const uint32_t *chosen = chosen_of(p, s);

            for (uint32_t i = 1; chosen[0] == node && i < p->replicas_count; i++) {
                if (p->from[chosen[i]] == 0) {
                    p->from[chosen[i]] = node + 1;
                    p->via[chosen[i]] = s;
                    p->queue[tail++] = chosen[i];
                }
            }
        }
    }
    return false;
}

static void even_out_firsts(struct plan *p)
{
    bool changed;

    do {
        changed = false;
        for (uint32_t n = 0; n < p->nodes_count; n++) {
            while (pass_on(p, n)) {
                changed = true;
            }
        }
    } while (changed);
}

static int check(const struct placement_node *nodes, size_t nodes_count, uint32_t replication_factor,
                 uint32_t shards_count, uint32_t min_in_sync, uint32_t grant_ms, struct otr_errmsg *msg)
{
    if (replication_factor < 1 || replication_factor > OTR_REPLICAS_MAX) {
        otr_errmsg_set(msg, "the replication factor is %u, not from 1 to %d", replication_factor, OTR_REPLICAS_MAX);
    } else if (shards_count < 1 || shards_count > OTR_SHARDS_MAX) {
        otr_errmsg_set(msg, "the number of shards is %u, not from 1 to %d", shards_count, OTR_SHARDS_MAX);
    } else if (min_in_sync < 1 || min_in_sync > replication_factor) {
        otr_errmsg_set(msg, "min_in_sync is %u, not from 1 to the replication factor %u", min_in_sync,
                       replication_factor);
    } else if (nodes_count < replication_factor || nodes_count > OTR_NODES_MAX) {
        otr_errmsg_set(msg, "%u replicas of each shard need at least as many nodes, and at most %d; there are %zu",
                       replication_factor, OTR_NODES_MAX, nodes_count);
    } else if (grant_ms < 1) {
        otr_errmsg_set(msg, "grant_ms is 0");
    } else {
        for (size_t i = 0; i < nodes_count; i++) {
            for (size_t j = 0; j < i; j++) {
                assert(nodes[i].node != nodes[j].node);
            }
        }
        return 0;
    }
    return OTR_INVALID;
}

static void fill(const struct plan *p, uint32_t shard, uint32_t min_in_sync, uint32_t grant_ms, uint64_t generation,
                 struct descriptor *d)
{
    uint64_t space = UINT64_C(1) << 32;

    *d = (struct descriptor){
        .shard = shard,
        .hash_first = (uint32_t)(shard * space / p->shards_count),
        .hash_last = (uint32_t)((shard + 1) * space / p->shards_count - 1),
        .generation = generation,
        .version = 1,
        .replicas_count = p->replicas_count,
        .mode = REPLICA_SYNC,
        .min_in_sync = min_in_sync,
        .grant_ms = grant_ms,
    };
    for (uint32_t i = 0; i < p->replicas_count; i++) {
        d->replicas[i] = p->nodes[chosen_of(p, shard)[i]].node;
    }
}

int placement_initial(const struct placement_node *nodes, size_t nodes_count, uint32_t replication_factor,
                      uint32_t shards_count, uint32_t min_in_sync, uint32_t grant_ms, uint64_t generation,
                      struct descriptor *out, struct otr_errmsg *msg)
{
    struct plan p = {.nodes = nodes,
                     .nodes_count = (uint32_t)nodes_count,
                     .replicas_count = replication_factor,
                     .shards_count = shards_count};
    int rv;

    rv = check(nodes, nodes_count, replication_factor, shards_count, min_in_sync, grant_ms, msg);
    if (rv != 0) {
        return rv;
    }
    rv = plan_init(&p);
    if (rv != 0) {
        otr_errmsg_set(msg, "%s", otr_strerror(rv));
        return rv;
    }
    for (uint32_t s = 0; s < shards_count; s++) {
        plan_shard(&p, s);
    }
    even_out_firsts(&p);
    for (uint32_t s = 0; s < shards_count; s++) {
        fill(&p, s, min_in_sync, grant_ms, generation, &out[s]);
    }
    plan_close(&p);
    return 0;
}
