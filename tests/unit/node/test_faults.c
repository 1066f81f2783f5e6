/* Disks that are full or fail, callers that are quick, nodes that close in the middle of things. */
#include "lab.h"
#include "sidecar/io/random.h"
#include "sidecar/node/node_internal.h"
#include "tests/lib/fake_engine.h"

#include <math.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

TestSuite(faults, .timeout = 60);

struct asked {
    struct lab *lab;
    uint64_t collection;
    unsigned answered;
    int status;
    uint32_t outcome;
};

static bool was_answered(struct lab *lab, void *data)
{
    (void)lab;
    return ((struct asked *)data)->answered > 0;
}

static void on_written(void *data, const struct node_write_result *result)
{
    struct asked *a = data;

    a->answered++;
    a->status = result->status;
    a->outcome = result->outcome;
}

static void turn(struct lab *lab, unsigned ms)
{
    uint64_t until = uv_hrtime() + ms * 1000000ULL;

    while (uv_hrtime() < until) {
        uv_run(&lab->loop, UV_RUN_ONCE);
    }
}

/* --- a disk that does as it is told, below one node
 * -------------------------------------------------------------------------------------------------------------- */

static struct file_ops bad_disk;
static const struct file_ops *good_disk;
static atomic_bool full, stuck;
static atomic_uint failing_reads;

static int bad_write(struct file *f, uint64_t offset, const void *data, size_t bytes, struct otr_errmsg *msg)
{
    while (stuck) {
        usleep(1000);
    }
    return full ? OTR_NOSPACE : good_disk->write(f, offset, data, bytes, msg);
}

static int bad_read(struct file *f, uint64_t offset, void *data, size_t bytes, size_t *got, struct otr_errmsg *msg)
{
    if (failing_reads > 0) {
        failing_reads--;
        return OTR_IO;
    }
    return good_disk->read(f, offset, data, bytes, got, msg);
}

static void put_bad_disk_below(struct node *n)
{
    if (good_disk == NULL) { /* the same below every node */
        good_disk = n->fs->ops;
        bad_disk = *good_disk;
        bad_disk.write = bad_write;
        bad_disk.read = bad_read;
    }
    n->fs->ops = &bad_disk;
}

static void put_bad_disks(struct lab *lab)
{
    for (int i = 0; i < LAB_NODES; i++) {
        put_bad_disk_below(lab->nodes[i]);
    }
}

/* --- callers
 * -------------------------------------------------------------------------------------------------------------- */

static void put_one(struct lab *lab, uint64_t collection, const char *id, const struct otr_request_id *request,
                    struct asked *a)
{
    float vector[LAB_DIMENSION] = {1, 1, 0, 0};
    struct otr_point p = {.id = id, .id_bytes = (uint32_t)strlen(id), .dimension = LAB_DIMENSION, .vector = vector};
    _Alignas(8) uint8_t body[512];

    put_body_write(body, collection, &p, 1);
    cr_assert(eq(
        int,
        node_write(lab->nodes[lab_primary(lab, 0)], 0, request, RECORD_PUT, body, put_body_bytes(&p, 1), on_written, a),
        0));
}

static void on_got_then_write(void *data, int status, const struct otr_point *points, size_t count,
                              const struct otr_errmsg *msg)
{
    struct asked *a = data;
    struct otr_request_id id;

    (void)points;
    (void)count;
    (void)msg;
    cr_assert(eq(int, status, 0));
    random_bytes(id.bytes, sizeof id.bytes);
    put_one(a->lab, a->collection, "c", &id, a);
}

/* A client sends its write behind a read that waits: the write comes when the read is answered, whatever answered it.
 */
Test(faults, a_write_out_of_the_answer_to_a_read)
{
    struct lab lab;
    struct asked a = {.lab = &lab};
    struct otr_point id = {.id = "b", .id_bytes = 1};
    struct node_get get = {.ids = &id, .ids_count = 1, .consistency = NODE_LINEARIZABLE, .timeout_ms = 5000};
    struct node_write_result r;

    lab_open(&lab, 1);
    a.collection = get.collection = lab_collection(&lab, "things");
    r = lab_put(&lab, a.collection, "a", 1);
    get.after = (struct otr_position){r.position.epoch, r.position.index + 1};
    cr_assert(eq(int, node_get(lab.nodes[lab_primary(&lab, 0)], &get, on_got_then_write, &a), 0));
    turn(&lab, 30);
    lab_put(&lab, a.collection, "b", 1);
    lab_until(&lab, was_answered, &a, "the write is answered");
    cr_assert(eq(int, a.status, 0));
    lab_close(&lab);
}

static void delete_one(struct lab *lab, int p, uint64_t collection, const char *id,
                       const struct otr_request_id *request, struct asked *a)
{
    struct otr_point point = {.id = id, .id_bytes = (uint32_t)strlen(id)};
    _Alignas(8) uint8_t body[512];

    delete_body_write(body, collection, &point, 1);
    cr_assert(
        eq(int, node_write(lab->nodes[p], 0, request, RECORD_DELETE, body, delete_body_bytes(&point, 1), on_written, a),
           0));
}

static bool is_deleted(struct lab *lab, void *data)
{
    struct asked *a = data;
    uint64_t count = 1;

    for (int i = 0; i < LAB_NODES; i++) {
        if (lab->nodes[i] != NULL && node_count(lab->nodes[i], 0, a->collection, &count)) {
            return count == 0;
        }
    }
    return false;
}

/* PROTOCOL A6, Q1. A deletion is committed by fewer than min_in_sync and held; its retry says as much as it does. */
Test(faults, a_retry_of_a_held_write_has_its_outcome)
{
    struct lab lab;
    struct asked first = {0}, retry = {0};
    struct otr_request_id id;
    int p;

    lab_open(&lab, 1);
    lab_until(&lab, lab_in_sync, NULL, "all in sync");
    first.collection = lab_collection(&lab, "things");
    lab_put(&lab, first.collection, "a", 1);
    p = lab_primary(&lab, 0);
    lab_stop(&lab, (p + 1) % LAB_NODES);
    lab_until(&lab, lab_in_sync, NULL, "two in sync");
    lab_stop(&lab, (p + 2) % LAB_NODES);
    random_bytes(id.bytes, sizeof id.bytes);
    delete_one(&lab, p, first.collection, "a", &id, &first);
    lab_until(&lab, is_deleted, &first, "the deletion is committed");
    cr_assert(eq(uint, first.answered, 0));
    delete_one(&lab, p, first.collection, "a", &id, &retry);
    lab_start(&lab, (p + 1) % LAB_NODES);
    lab_until(&lab, was_answered, &first, "the first is answered");
    lab_until(&lab, was_answered, &retry, "the retry is answered");
    cr_assert(eq(int, retry.status, 0));
    cr_assert(eq(u32, first.outcome, 1));
    cr_assert(eq(u32, retry.outcome, 1));
    lab_close(&lab);
}

static bool engine_has_all(struct lab *lab, void *data)
{
    (void)lab;
    return fake_engine_count(data, "things__0") >= 400;
}

/* An engine that lost its data is fed again out of files; a read that fails leaves no hole. */
Test(faults, a_failed_read_leaves_no_hole_in_the_engine)
{
    static const char *const urls[] = {"fake:1", "fake:2", "fake:3"};
    struct lab lab;
    uint64_t c;

    lab_open(&lab, 1);
    c = lab_collection(&lab, "things");
    for (int i = 0; i < 400; i++) {
        char id[16];
        snprintf(id, sizeof id, "p%03d", i);
        lab_put(&lab, c, id, (float)i);
    }
    for (int i = 0; i < LAB_NODES; i++) {
        lab_stop(&lab, i);
    }
    fake_engine_down(urls[0]);
    for (int i = 0; i < LAB_NODES; i++) {
        lab_start(&lab, i);
    }
    lab_until(&lab, lab_writable, NULL, "writable");
    put_bad_disk_below(lab.nodes[0]);
    turn(&lab, 50);
    failing_reads = 2;
    fake_engine_up(urls[0], false);
    lab_until(&lab, engine_has_all, (void *)(uintptr_t)urls[0], "the engine has all points");
    cr_assert(eq(uint, failing_reads, 0));
    lab_close(&lab);
}

static bool is_damaged(struct lab *lab, void *data)
{
    return node_shard(lab->nodes[*(int *)data], 0)->damaged;
}

static bool is_whole(struct lab *lab, void *data)
{
    return !is_damaged(lab, data) && lab_in_sync(lab, NULL);
}

/* All nodes anew, so that nothing that was written is in memory any more. */
static uint64_t start_from_disk(struct lab *lab)
{
    uint64_t c;

    lab_open_small(lab, 1, false);
    c = lab_collection(lab, "things");
    for (int i = 0; i < 120; i++) {
        char id[16];
        snprintf(id, sizeof id, "p%03d", i);
        lab_put(lab, c, id, (float)i);
    }
    for (int i = 0; i < LAB_NODES; i++) {
        lab_stop(lab, i);
    }
    for (int i = 0; i < LAB_NODES; i++) {
        lab_start(lab, i);
    }
    lab_until(lab, lab_opened, NULL, "all are back");
    lab_until(lab, lab_in_sync, NULL, "all are in sync");
    return c;
}

static void bad_sectors(struct lab *lab, int node)
{
    put_bad_disk_below(lab->nodes[node]);
    failing_reads = UINT_MAX / 2;
}

static void damaged_and_healed(struct lab *lab, int node, uint64_t c)
{
    int status;

    lab_until(lab, is_damaged, &node, "it is damaged");
    failing_reads = 0;
    lab_until(lab, is_whole, &node, "it was seeded anew");
    cr_assert(eq(flt, lab_get(lab, node, c, "p007", NODE_EVENTUAL, &status), 7));
    lab_close(lab);
}

/* One read that fails is no damage; reads that fail again and again are, for whoever makes them. */
Test(faults, sectors_that_cannot_be_read_met_by_clients)
{
    struct lab lab;
    uint64_t c = start_from_disk(&lab);
    int q = (lab_primary(&lab, 0) + 1) % LAB_NODES;
    int status;

    put_bad_disk_below(lab.nodes[q]);
    failing_reads = 1;
    cr_assert(isnan(lab_get(&lab, q, c, "p007", NODE_EVENTUAL, &status)));
    cr_assert(eq(int, status, OTR_IO));
    turn(&lab, 250);
    cr_assert(eq(flt, lab_get(&lab, q, c, "p007", NODE_EVENTUAL, &status), 7));
    bad_sectors(&lab, q);
    for (int i = 0; i < 3 && !is_damaged(&lab, &q); i++) {
        cr_assert(isnan(lab_get(&lab, q, c, "p007", NODE_EVENTUAL, &status)));
    }
    damaged_and_healed(&lab, q, c);
}

Test(faults, sectors_that_cannot_be_read_met_by_the_node_itself)
{
    struct lab lab;
    uint64_t c = start_from_disk(&lab);
    int q = (lab_primary(&lab, 0) + 1) % LAB_NODES;
    int p;

    lab_stop(&lab, q);
    for (int i = 0; i < 50; i++) {
        lab_put(&lab, c, "more", (float)i);
    }
    for (int i = 0; i < LAB_NODES; i++) { /* what it is to be sent is in files alone */
        if (i != q) {
            lab_stop(&lab, i);
            lab_start(&lab, i);
            lab_until(&lab, lab_writable, NULL, "writable");
            lab_until(&lab, lab_in_sync, NULL, "in sync");
        }
    }
    p = lab_primary(&lab, 0);
    bad_sectors(&lab, p);
    lab_start(&lab, q);
    damaged_and_healed(&lab, p, c);
}

static bool a_disk_is_full(struct lab *lab, void *data)
{
    return lab->nodes[*(int *)data]->disk_full;
}

static bool disk_is_full(struct lab *lab, void *data)
{
    (void)data;
    return lab->nodes[lab_primary(lab, 0)]->disk_full;
}

/* PROTOCOL Q1. A full disk keeps new writes out; the retry of one that took effect is told that it did. */
Test(faults, a_full_disk_and_the_retry_of_an_earlier_write)
{
    struct lab lab;
    struct asked first = {0}, pending = {0}, refused = {0}, retry = {0};
    struct otr_request_id ids[3];
    uint64_t c;

    lab_open(&lab, 1);
    lab_until(&lab, lab_in_sync, NULL, "all in sync");
    c = lab_collection(&lab, "things");
    random_bytes(ids, sizeof ids);
    put_one(&lab, c, "a", &ids[0], &first);
    lab_until(&lab, was_answered, &first, "the first is answered");
    put_bad_disks(&lab); /* where one had room it would lead */
    full = true;
    put_one(&lab, c, "b", &ids[1], &pending);
    lab_until(&lab, disk_is_full, NULL, "the disk is full");
    put_one(&lab, c, "c", &ids[2], &refused);
    lab_until(&lab, was_answered, &refused, "a new one is answered");
    cr_assert(eq(int, refused.status, OTR_NOSPACE));
    put_one(&lab, c, "a", &ids[0], &retry);
    lab_until(&lab, was_answered, &retry, "the retry is answered");
    cr_assert(eq(int, retry.status, 0));
    cr_assert(eq(uint, pending.answered, 0));
    full = false;
    lab_until(&lab, was_answered, &pending, "there is room again");
    cr_assert(eq(int, pending.status, 0));
    lab_close(&lab);
}

/* --- seeding
 * -------------------------------------------------------------------------------------------------------------- */

/* `count` points with so many bytes of metadata each, in batches. */
static void put_large(struct lab *lab, uint64_t collection, unsigned count, uint32_t metadata_bytes)
{
    enum { BATCH = 50 };
    char *metadata = malloc(metadata_bytes);
    float vector[LAB_DIMENSION] = {1, 1, 0, 0};

    memset(metadata, ' ', metadata_bytes);
    metadata[0] = '{';
    metadata[metadata_bytes - 1] = '}';
    for (unsigned i = 0; i < count; i += BATCH) {
        struct otr_point points[BATCH];
        char ids[BATCH][16];
        struct asked a = {0};
        struct otr_request_id id;
        uint8_t *body;
        for (unsigned k = 0; k < BATCH; k++) {
            snprintf(ids[k], sizeof ids[k], "p%u", i + k);
            points[k] = (struct otr_point){.id = ids[k],
                                           .id_bytes = (uint32_t)strlen(ids[k]),
                                           .dimension = LAB_DIMENSION,
                                           .vector = vector,
                                           .metadata = metadata,
                                           .metadata_bytes = metadata_bytes};
        }
        body = malloc(put_body_bytes(points, BATCH));
        put_body_write(body, collection, points, BATCH);
        random_bytes(id.bytes, sizeof id.bytes);
        cr_assert(eq(int,
                     node_write(lab->nodes[lab_primary(lab, 0)], 0, &id, RECORD_PUT, body,
                                put_body_bytes(points, BATCH), on_written, &a),
                     0));
        lab_until(lab, was_answered, &a, "a batch is answered");
        cr_assert(eq(int, a.status, 0));
        free(body);
    }
    free(metadata);
}

static bool leads_elsewhere(struct lab *lab, void *data)
{
    int p = lab_primary(lab, 0);

    return p >= 0 && p != *(int *)data;
}

static bool has_room(struct lab *lab, void *data)
{
    return !lab->nodes[*(int *)data]->disk_full;
}

/* The primary's disk is full, and others have room: one of them leads at once and takes writes. What was on its way
 * is not lost, reads go on everywhere, and the one without room is whole again when there is some. */
Test(faults, a_full_disk_of_the_primary_alone)
{
    struct lab lab;
    struct asked a = {0};
    struct otr_request_id id;
    uint64_t c;
    int p;
    int status;

    lab_open(&lab, 1);
    lab_until(&lab, lab_in_sync, NULL, "all in sync");
    c = lab_collection(&lab, "things");
    lab_put(&lab, c, "a", 1);
    p = lab_primary(&lab, 0);
    put_bad_disk_below(lab.nodes[p]);
    full = true;
    random_bytes(&id, sizeof id);
    put_one(&lab, c, "b", &id, &a);
    lab_until(&lab, leads_elsewhere, &p, "one that has room leads");
    lab_put(&lab, c, "c", 3);
    cr_assert(not(has_room(&lab, &p)));
    lab_until(&lab, was_answered, &a, "what was on its way is answered");
    cr_assert(a.status == 0 || a.status == OTR_UNKNOWN);
    cr_assert(eq(flt, lab_get(&lab, p, c, "a", NODE_EVENTUAL, &status), 1));
    cr_assert(eq(flt, lab_get(&lab, lab_primary(&lab, 0), c, "b", NODE_LINEARIZABLE, &status), 1));
    full = false;
    lab_until(&lab, lab_in_sync, NULL, "all in sync");
    lab_close(&lab);
}

/* More waits for the disk than the journal takes while there is no room, and the primary dies. The one without room
 * refuses what it cannot keep, leads nothing, lives, and is whole again when there is room. */
Test(faults, a_full_disk_and_a_new_epoch)
{
    struct lab lab;
    struct replica_status status;
    uint64_t c;
    int p;
    int q;

    lab_open(&lab, 1);
    lab_until(&lab, lab_in_sync, NULL, "all in sync");
    c = lab_collection(&lab, "things");
    p = lab_primary(&lab, 0);
    q = (p + 1) % LAB_NODES; /* the first in line to lead */
    put_bad_disk_below(lab.nodes[q]);
    stuck = true;
    put_large(&lab, c, 1500, 16 << 10);
    cr_assert(gt(sz, journal_pending_bytes(lab.nodes[q]->journal), 17 << 20));
    full = true;
    stuck = false;
    lab_until(&lab, a_disk_is_full, &q, "its disk is full");
    lab_stop(&lab, p);
    lab_start(&lab, p);
    lab_until(&lab, leads_elsewhere, &q, "one that has room leads");
    lab_put(&lab, c, "later", 1);
    cr_assert(node_shard_status(lab.nodes[q], 0, &status));
    cr_assert(not(status.in_sync));
    cr_assert(not(has_room(&lab, &q)));
    full = false;
    lab_until(&lab, has_room, &q, "there is room");
    lab_until(&lab, lab_in_sync, NULL, "all in sync");
    lab_close(&lab);
}

/* All that is left of the set has no room: nothing is written, nothing is lost, and it leads as soon as there is. */
Test(faults, a_full_disk_and_nobody_else)
{
    struct lab lab;
    struct asked a = {0};
    struct otr_request_id id;
    uint64_t c;
    int p;
    int status;

    lab_open(&lab, 1);
    lab_until(&lab, lab_in_sync, NULL, "all in sync");
    c = lab_collection(&lab, "things");
    lab_put(&lab, c, "a", 1);
    p = lab_primary(&lab, 0);
    put_bad_disks(&lab);
    full = true;
    random_bytes(&id, sizeof id);
    put_one(&lab, c, "b", &id, &a);
    for (int i = 0; i < LAB_NODES; i++) {
        lab_until(&lab, a_disk_is_full, &i, "a disk is full");
    }
    lab_stop(&lab, p);
    turn(&lab, 1500);
    cr_assert(eq(int, lab_primary(&lab, 0), -1));
    full = false;
    lab_until(&lab, lab_writable, NULL, "there is room, and somebody leads");
    lab_put(&lab, c, "c", 3);
    cr_assert(eq(flt, lab_get(&lab, lab_primary(&lab, 0), c, "a", NODE_LINEARIZABLE, &status), 1));
    lab_start(&lab, p);
    lab_until(&lab, lab_in_sync, NULL, "all in sync");
    lab_close(&lab);
}

/* So many entries that an empty log is seeded, not sent all of them. */
static void put_many(struct lab *lab, uint64_t collection)
{
    for (int i = 0; i < 1600; i++) {
        lab_put(lab, collection, "many", (float)i);
    }
}

static bool is_seeding(struct lab *lab, void *data)
{
    (void)data;
    for (int i = 0; i < LAB_NODES; i++) {
        struct shard *s = lab->nodes[i] != NULL ? node_shard(lab->nodes[i], 0) : NULL;
        if (s != NULL && s->seed_in != NULL) {
            return true;
        }
    }
    return false;
}

static int empty_a_disk(struct lab *lab, uint64_t collection)
{
    int q = (lab_primary(lab, 0) + 1) % LAB_NODES;

    lab_stop(lab, q);
    lab_wipe(lab, q);
    lab_until(lab, lab_in_sync, NULL, "it is out of the set"); /* members are not seeded */
    put_many(lab, collection);
    lab_start(lab, q);
    return q;
}

static void on_losses(void *data, int status, const char *text)
{
    cr_assert(eq(int, status, 0));
    snprintf(data, 8000, "losses: %s", text);
}

static bool is_told(struct lab *lab, void *data)
{
    (void)lab;
    return ((const char *)data)[0] != '\0';
}

static bool is_noted(struct lab *lab, void *data)
{
    const int *q = data;
    static char text[8000];

    text[0] = '\0';
    cr_assert(eq(int, node_losses(lab->nodes[*q], on_losses, text), 0));
    lab_until(lab, is_told, text, "the losses are told");
    return strstr(text, "unlisted") != NULL;
}

/* Entries that are given up, of which the log no longer has the first ones: those are told by their positions. */
Test(faults, lost_entries_that_cannot_be_listed)
{
    static char text[8000];
    char unlisted[100];
    struct lab lab;
    struct journal_shard_state log;
    struct replica_action a = {.type = REPLICA_DO_NOTE_LOSS};
    uint64_t c;
    int q;

    lab_open(&lab, 1);
    lab_until(&lab, lab_in_sync, NULL, "all in sync");
    c = lab_collection(&lab, "things");
    q = empty_a_disk(&lab, c);
    lab_until(&lab, lab_in_sync, NULL, "it was seeded");
    lab_put(&lab, c, "one", 1);
    lab_put(&lab, c, "two", 2);
    cr_assert(eq(int, journal_shard(lab.nodes[q]->journal, 0, &log), 1));
    cr_assert(gt(u64, log.base.index, 10));
    a.note_loss.first = log.base.index - 4;
    a.note_loss.last = log.last.index;
    a.note_loss.epoch = 99;
    loss_note(node_shard(lab.nodes[q], 0), &a);
    lab_until(&lab, is_noted, &q, "the loss is noted");
    cr_assert(eq(int, node_losses(lab.nodes[q], on_losses, text), 0));
    lab_until(&lab, is_told, text, "the losses are told");
    snprintf(unlisted, sizeof unlisted, "\"unlisted\":[{\"first\":\"%llu\",\"last\":\"%llu\"}]",
             (unsigned long long)a.note_loss.first, (unsigned long long)log.base.index);
    cr_assert(strstr(text, unlisted) != NULL, "%s lacks %s", text, unlisted);
    cr_assert(strstr(text, "[\"two\"]") != NULL, "%s", text);
    lab_close(&lab);
}

/* Both ends of a seed may close in the middle of it. */
Test(faults, nodes_close_while_seeding)
{
    struct lab lab;
    uint64_t c;
    int q;

    lab_open(&lab, 1);
    c = lab_collection(&lab, "things");
    put_large(&lab, c, 1500, 16 << 10);
    q = empty_a_disk(&lab, c);
    lab_until(&lab, is_seeding, NULL, "it is being seeded");
    lab_stop(&lab, q);
    lab_start(&lab, q);
    lab_until(&lab, is_seeding, NULL, "it is being seeded again");
    lab_stop(&lab, lab_primary(&lab, 0));
    lab_close(&lab);
}

/* A learner's disk is full while it is being seeded: the stream waits, and goes on. */
Test(faults, a_seed_waits_for_room_on_the_disk)
{
    struct lab lab;
    struct replica_status before, after;
    uint64_t c;
    int q;

    lab_open(&lab, 1);
    c = lab_collection(&lab, "things");
    put_large(&lab, c, 1500, 32 << 10);
    q = empty_a_disk(&lab, c);
    put_bad_disk_below(lab.nodes[q]);
    lab_until(&lab, is_seeding, NULL, "it is being seeded");
    full = true;
    turn(&lab, 1000);
    cr_assert(is_seeding(&lab, NULL), "the seed broke off");
    cr_assert(node_shard_status(lab.nodes[q], 0, &before));
    full = false;
    lab_until(&lab, lab_in_sync, NULL, "it is in sync");
    cr_assert(node_shard_status(lab.nodes[q], 0, &after));
    cr_assert(eq(u64, before.log_id, after.log_id), "it was seeded twice");
    lab_close(&lab);
}
