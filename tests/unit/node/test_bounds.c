/* What waits in a node has a bound, and who meets it is told so; nothing else is in his way. */
#include "lab.h"
#include "sidecar/io/clock.h"
#include "sidecar/node/node_internal.h"

#include <stdio.h>
#include <stdlib.h>

TestSuite(bounds, .timeout = 60);

enum { MB = 1 << 20, POINTS = 128, METADATA_BYTES = 64 << 10 };

struct answers {
    unsigned count;
    unsigned committed;
    unsigned busy;
    unsigned wanted;
};

static void on_written(void *data, const struct node_write_result *result)
{
    struct answers *a = data;

    a->count++;
    a->committed += result->status == 0;
    a->busy += result->status == OTR_BUSY;
}

static bool all_answered(struct lab *lab, void *data)
{
    const struct answers *a = data;

    (void)lab;
    return a->count == a->wanted;
}

/* A body of some 8 MiB. */
static uint8_t *large_body(uint64_t collection, size_t *bytes)
{
    static const float vector[LAB_DIMENSION] = {1, 1, 0, 0};
    static char ids[POINTS][8];
    struct otr_point points[POINTS];
    char *metadata = malloc(METADATA_BYTES);
    uint8_t *body;

    memset(metadata, ' ', METADATA_BYTES);
    metadata[0] = '{';
    metadata[METADATA_BYTES - 1] = '}';
    for (int i = 0; i < POINTS; i++) {
        snprintf(ids[i], sizeof ids[i], "p%d", i);
        points[i] = (struct otr_point){.id = ids[i],
                                       .id_bytes = (uint32_t)strlen(ids[i]),
                                       .dimension = LAB_DIMENSION,
                                       .vector = vector,
                                       .metadata = metadata,
                                       .metadata_bytes = METADATA_BYTES};
    }
    *bytes = put_body_bytes(points, POINTS);
    body = malloc(*bytes);
    put_body_write(body, collection, points, POINTS);
    free(metadata);
    return body;
}

/* Writes that come faster than the disk takes them: so much waits for it, the rest is refused. */
Test(bounds, the_journal_takes_so_much_that_is_not_on_disk)
{
    struct lab lab;
    struct answers a = {.wanted = 8};
    uint8_t *body;
    size_t bytes;
    uint64_t c;
    int p;

    lab_open(&lab, 1);
    c = lab_collection(&lab, "large");
    body = large_body(c, &bytes);
    p = lab_primary(&lab, 0);
    for (uint8_t i = 0; i < a.wanted; i++) { /* in one turn of the loop: nothing is flushed meanwhile */
        struct otr_request_id id = {{42, i}};

        cr_assert(zero(int, node_write(lab.nodes[p], 0, &id, RECORD_PUT, body, bytes, on_written, &a)));
    }
    cr_assert(le(sz, journal_pending_bytes(lab.nodes[p]->journal), NODE_PENDING_OWN_BYTES + bytes + MB));
    lab_until(&lab, all_answered, &a, "all are answered");
    cr_assert(eq(uint, a.committed + a.busy, a.wanted));
    cr_assert(eq(uint, a.committed, NODE_PENDING_OWN_BYTES / bytes + 1));
    cr_assert(zero(int, lab_put(&lab, c, "later", 1).status));
    free(body);
    lab_close(&lab);
}

/* Held while nobody leads are so many bytes, of all shards together. */
Test(bounds, so_much_is_held)
{
    static const uint8_t body[100] = {1};
    struct lab lab;
    struct answers a = {.wanted = 1};
    struct write *w = calloc(1, sizeof *w);
    struct node *n;
    struct shard *s;

    lab_open(&lab, 1);
    n = lab.nodes[0];
    s = n->shards[0];
    *w = (struct write){
        .cb = on_written, .data = &a, .body = body, .body_bytes = sizeof body, .started_ns = clock_now_ns()};
    n->held_bytes += NODE_HELD_BYTES_MAX - sizeof body + 1;
    cr_assert(not(held_keep(s, w, clock_now_ms())));
    n->held_bytes--;
    cr_assert(held_keep(s, w, clock_now_ms()));
    cr_assert(eq(sz, n->held_bytes, NODE_HELD_BYTES_MAX));
    n->held_bytes -= NODE_HELD_BYTES_MAX - sizeof body;
    held_end(s);
    lab_until(&lab, all_answered, &a, "it is answered");
    cr_assert(zero(sz, n->held_bytes));
    lab_close(&lab);
}

/* A shard with many bytes under way is refused more, while others still get in. */
Test(bounds, no_shard_takes_all_the_room)
{
    struct lab lab;
    struct shard *s;
    struct shard *other;

    lab_open(&lab, 2);
    s = lab.nodes[0]->shards[0];
    other = lab.nodes[0]->shards[1];
    cr_assert(zero(int, admit_begin(s, NODE_OP_WRITE, 100 * MB)));
    cr_assert(eq(int, admit_begin(s, NODE_OP_WRITE, 20 * MB), OTR_BUSY));
    cr_assert(zero(int, admit_begin(other, NODE_OP_WRITE, 20 * MB)));
    admit_end(other, NODE_OP_WRITE, 20 * MB);
    admit_end(s, NODE_OP_WRITE, 100 * MB);
    cr_assert(zero(int, admit_begin(s, NODE_OP_WRITE, 20 * MB))); /* nothing is left of the refusal */
    admit_end(s, NODE_OP_WRITE, 20 * MB);
    cr_assert(zero(u64, s->bytes_under_way[NODE_OP_WRITE]));
    lab_close(&lab);
}
