/* Compressed replication and seeding: the same logs, byte for byte, whoever understands what. */
#include "lab.h"

#include "sidecar/io/random.h"
#include "sidecar/node/node_internal.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

TestSuite(compression, .timeout = 90);

enum { BATCH = 200, METADATA = 100 };

struct asked {
    bool answered;
    int status;
};

static void on_written(void *data, const struct node_write_result *result)
{
    struct asked *a = data;

    a->answered = true;
    a->status = result->status;
}

static bool was_answered(struct lab *lab, void *data)
{
    (void)lab;
    return ((struct asked *)data)->answered;
}

/* One entry of `count` points "<name>0".. with vectors of many numbers. */
static void put_batch(struct lab *lab, uint64_t collection, const char *name, unsigned count)
{
    static float vectors[BATCH][LAB_DIMENSION];
    static char ids[BATCH][32], metadata[BATCH][METADATA + 1];
    struct otr_point points[BATCH];
    struct asked asked = {0};
    struct otr_request_id id;
    uint8_t *body;

    for (unsigned i = 0; i < count; i++) {
        for (unsigned d = 0; d < LAB_DIMENSION; d++) {
            vectors[i][d] = sinf((float)(i * 131 + d * 17 + (unsigned)name[0])) / 8;
        }
        snprintf(ids[i], sizeof ids[i], "%s%u", name, i);
        snprintf(metadata[i], sizeof metadata[i], "{\"number\":%u,\"text\":\"%-70s\"}", i, name);
        points[i] = (struct otr_point){.id = ids[i],
                                       .id_bytes = (uint32_t)strlen(ids[i]),
                                       .dimension = LAB_DIMENSION,
                                       .vector = vectors[i],
                                       .metadata = metadata[i],
                                       .metadata_bytes = (uint32_t)strlen(metadata[i])};
    }
    body = malloc(put_body_bytes(points, count));
    put_body_write(body, collection, points, count);
    random_bytes(id.bytes, sizeof id.bytes);
    lab_until(lab, lab_writable, NULL, "writable");
    cr_assert(zero(int, node_write(lab->nodes[lab_primary(lab, 0)], 0, &id, RECORD_PUT, body,
                                   put_body_bytes(points, count), on_written, &asked)));
    lab_until(lab, was_answered, &asked, "a batch is answered");
    cr_assert(zero(int, asked.status));
    free(body);
}

static const struct node_metrics *metrics(const struct lab *lab, int i)
{
    return &lab->nodes[i]->metrics.node;
}

static bool is_level(struct lab *lab, void *data)
{
    uint64_t last = UINT64_MAX;

    (void)data;
    for (int i = 0; i < LAB_NODES; i++) {
        const struct shard *s = node_shard(lab->nodes[i], 0);

        if (s == NULL || (last != UINT64_MAX && s->stored != last)) {
            return false;
        }
        last = s->stored;
    }
    return lab_in_sync(lab, NULL);
}

/* All entries that node i retains from `first` on; to be freed. A reader ends where files end and memory begins. */
static struct journal_bytes entries_of(struct lab *lab, int i, uint64_t first)
{
    struct node *n = lab->nodes[i];
    struct journal_bytes all = {.last = first - 1};

    while (all.last < n->shards[0]->stored) {
        struct journal_reader *reader = journal_reader_new(n->journal);
        const struct journal_bytes *part;

        cr_assert(zero(int, journal_reader_entries(reader, 0, all.last + 1, n->shards[0]->stored, SIZE_MAX / 2)));
        cr_assert(zero(int, journal_reader_run(reader, NULL)));
        part = journal_reader_result(reader);
        all.data = realloc(all.data, all.bytes + part->bytes);
        memcpy(all.data + all.bytes, part->data, part->bytes);
        all.bytes += part->bytes;
        all.last = part->last;
        journal_reader_free(reader);
    }
    return all;
}

static void check_same_logs(struct lab *lab, uint64_t first)
{
    struct journal_bytes one, other;

    lab_until(lab, is_level, NULL, "all have everything");
    one = entries_of(lab, 0, first);
    for (int i = 1; i < LAB_NODES; i++) {
        other = entries_of(lab, i, first);
        cr_assert(eq(sz, one.bytes, other.bytes));
        cr_assert(zero(int, memcmp(one.data, other.data, one.bytes)), "the logs of n1 and n%d differ", i + 1);
        free(other.data);
    }
    free(one.data);
}

/* Small entries on the loop, large ones on the pool, ones that are no points; and a replica that was away. */
Test(compression, logs_are_the_same)
{
    static const enum node_compression modes[LAB_NODES] = {NODE_COMPRESSION_ALWAYS, NODE_COMPRESSION_ALWAYS,
                                                           NODE_COMPRESSION_ALWAYS};
    struct lab lab;
    const struct node_metrics *m;
    uint64_t c;
    int p, q;

    lab_open_compressed(&lab, 1, modes);
    lab_until(&lab, lab_in_sync, NULL, "all in sync");
    c = lab_collection(&lab, "things");
    for (int i = 0; i < 30; i++) {
        char name[16];

        snprintf(name, sizeof name, "%d-", i);
        put_batch(&lab, c, name, i % 3 == 0 ? BATCH : (unsigned)i % 7 + 1);
        lab_delete(&lab, c, "0-3");
    }
    check_same_logs(&lab, 1);
    p = lab_primary(&lab, 0);
    m = metrics(&lab, p);
    cr_assert(gt(u64, metrics_count(&m->compress_seconds), 20));
    cr_assert(lt(u64, m->compress_output_bytes_total, m->compress_input_bytes_total * 10 / 11));
    q = (p + 1) % LAB_NODES;
    m = metrics(&lab, q);
    cr_assert(gt(u64, metrics_count(&m->decompress_seconds), 20));
    cr_assert(gt(u64, m->decompress_output_bytes_total, m->decompress_input_bytes_total));

    lab_stop(&lab, q);
    for (int i = 0; i < 10; i++) {
        char name[16];

        snprintf(name, sizeof name, "away%d-", i);
        put_batch(&lab, c, name, BATCH);
    }
    lab_start(&lab, q);
    check_same_logs(&lab, 1);
    cr_assert(gt(u64, metrics_count(&metrics(&lab, q)->decompress_seconds), 0));
    lab_close(&lab);
}

/* An empty disk is filled by a compressed seed. */
Test(compression, seeds_are_compressed)
{
    static const enum node_compression modes[LAB_NODES] = {NODE_COMPRESSION_ALWAYS, NODE_COMPRESSION_ALWAYS,
                                                           NODE_COMPRESSION_ALWAYS};
    struct lab lab;
    const struct node_metrics *m;
    uint64_t c, restored;
    int q;

    lab_open_compressed(&lab, 1, modes);
    c = lab_collection(&lab, "things");
    for (int i = 0; i < 10; i++) {
        char name[16];

        snprintf(name, sizeof name, "%d-", i);
        put_batch(&lab, c, name, BATCH);
    }
    for (int i = 0; i < 1600; i++) { /* more than replica_timings.seed_entries */
        lab_put(&lab, c, "often", (float)i);
    }
    q = (lab_primary(&lab, 0) + 1) % LAB_NODES;
    lab_stop(&lab, q);
    lab_wipe(&lab, q);
    lab_until(&lab, lab_in_sync, NULL, "it is out of the set"); /* members are not seeded */
    lab_start(&lab, q);
    lab_until(&lab, is_level, NULL, "it is seeded and in sync");
    m = metrics(&lab, q);
    restored = m->decompress_output_bytes_total;
    cr_assert(gt(u64, restored, 10 * BATCH * 80), "%llu bytes", (unsigned long long)restored);
    cr_assert(lt(u64, m->decompress_input_bytes_total, restored * 10 / 11));
    for (int i = 0; i < 10; i++) {
        char id[16];

        snprintf(id, sizeof id, "%d-%d", i, BATCH - 1 - i);
        cr_assert(eq(flt, lab_get(&lab, q, c, id, NODE_EVENTUAL, NULL),
                     lab_get(&lab, lab_primary(&lab, 0), c, id, NODE_EVENTUAL, NULL)));
    }
    cr_assert(eq(flt, lab_get(&lab, q, c, "often", NODE_EVENTUAL, NULL), 1599));
    lab_close(&lab);
}

/* A rolling upgrade: who understands no compression is sent none, the others are. */
Test(compression, old_versions_get_plain_entries)
{
    static const enum node_compression modes[LAB_NODES] = {NODE_COMPRESSION_ALWAYS, NODE_COMPRESSION_NEVER,
                                                           NODE_COMPRESSION_ALWAYS};
    struct lab lab;
    uint64_t c;
    int p;

    lab_open_compressed(&lab, 1, modes);
    lab_until(&lab, lab_in_sync, NULL, "all in sync");
    c = lab_collection(&lab, "things");
    for (int i = 0; i < 10; i++) {
        put_batch(&lab, c, "p", BATCH);
    }
    check_same_logs(&lab, 1);
    p = lab_primary(&lab, 0);
    for (int i = 0; i < LAB_NODES; i++) {
        bool sent = metrics_count(&metrics(&lab, i)->compress_seconds) > 0;
        bool got = metrics_count(&metrics(&lab, i)->decompress_seconds) > 0;

        cr_assert(eq(int, sent, i == p && modes[i] == NODE_COMPRESSION_ALWAYS), "n%d", i + 1);
        cr_assert(eq(int, got, i != p && modes[i] == NODE_COMPRESSION_ALWAYS && modes[p] == NODE_COMPRESSION_ALWAYS),
                  "n%d", i + 1);
    }
    lab_close(&lab);
}

/* The cluster's setting is off: nobody compresses, whatever the mode. */
Test(compression, off_is_off)
{
    struct lab lab;
    uint64_t c;

    lab_open(&lab, 1);
    for (int i = 0; i < LAB_NODES; i++) {
        lab.nodes[i]->compression.mode = NODE_COMPRESSION_ALWAYS;
    }
    c = lab_collection(&lab, "things");
    for (int i = 0; i < 5; i++) {
        put_batch(&lab, c, "p", BATCH);
    }
    check_same_logs(&lab, 1);
    for (int i = 0; i < LAB_NODES; i++) {
        cr_assert(zero(u64, metrics_count(&metrics(&lab, i)->compress_seconds)));
        cr_assert(zero(u64, metrics_count(&metrics(&lab, i)->decompress_seconds)));
    }
    lab_close(&lab);
}
