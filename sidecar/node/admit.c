/* How much may be under way on the shards here (sidecar/core/admission.h): of all doors together, each of which has
 * bounds of its own. No shard takes all the room. What replicas tell each other does not come by here. */
#include "sidecar/node/node_internal.h"

#include "sidecar/io/clock.h"

/* A search counts once a shard. */
static const struct admission_limits limits[NODE_OPS] = {
    [NODE_OP_WRITE] = {.count_min = 64, .count_max = 8192, .bytes_max = 128 << 20},
    [NODE_OP_GET] = {.count_min = 256, .count_max = 16384, .bytes_max = UINT64_MAX},
    [NODE_OP_SEARCH] = {.count_min = 64, .count_max = 4096, .bytes_max = UINT64_MAX},
};

void admit_init(struct node *n, uint32_t delay_max_ms)
{
    for (int op = 0; op < NODE_OPS; op++) {
        struct admission_limits own = limits[op];

        /* More patient than the doors: a request is refused most cheaply where it comes in. */
        own.delay_max_ms = (delay_max_ms != 0 ? delay_max_ms : NODE_DELAY_MAX_MS) / 2 * 3;
        admission_init(&n->admissions[op], &own, n->started_ms);
    }
}

const struct admission *node_admission(const struct node *n, enum node_operation op)
{
    return &n->admissions[op];
}

int admit_begin(struct shard *s, enum node_operation op, size_t bytes)
{
    struct admission *a = &s->node->admissions[op];

    if (admission_begin(a, bytes, clock_now_ms()) != ADMISSION_OK) {
        return OTR_BUSY;
    }
    if (!admission_share(a, s->under_way[op], s->bytes_under_way[op])) {
        admission_end(a, bytes);
        return OTR_BUSY;
    }
    s->under_way[op]++;
    s->bytes_under_way[op] += bytes;
    return 0;
}

void admit_end(struct shard *s, enum node_operation op, size_t bytes)
{
    s->under_way[op]--;
    s->bytes_under_way[op] -= bytes;
    admission_end(&s->node->admissions[op], bytes);
}

void admit_sample(struct shard *s, enum node_operation op, uint64_t started_ns, uint64_t end_ns)
{
    admission_sample(&s->node->admissions[op], end_ns > started_ns ? (end_ns - started_ns) / 1000000 : 0,
                     clock_now_ms());
}
