/* Seeding, the learner's side. Nothing of it counts before all of it is durable (PROTOCOL E3): a new log id is drawn
 * first, then everything the shard held is forgotten, points come in, and with the end the log goes on from the seed's
 * position.
 *
 * The stream goes on only as fast as the disk takes what came: its next frame is asked for when little is pending.
 *
 * begin -> EV_SEED_BEGIN -> DO_SEED_ACCEPT (or the call is refused) -> points ... -> end -> durable -> EV_SEED_DONE,
 * reply */
#include "sidecar/node/seed.h"

#include "sidecar/io/log.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>

enum { SEED_PENDING_BYTES = 8 << 20 }; /* appended and not yet durable, above which the stream waits */

struct seed_in {
    struct shard *shard;
    struct peer_call *call; /* NULL: it broke off */
    uint64_t log_id;
    bool accepted;
    bool ending;
    bool waiting;         /* for the disk */
    uint64_t wait_number; /* journal meta that must be durable at the end */
    struct otr_position position;
    uint64_t points;
};

static void reply(struct peer_call *call, bool ok, uint64_t log_id, struct otr_position position, const char *message)
{
    Outrigger__V1__SeedReply r = OUTRIGGER__V1__SEED_REPLY__INIT;
    Outrigger__V1__Position p = OUTRIGGER__V1__POSITION__INIT;

    p.epoch = position.epoch;
    p.index = position.index;
    r.ok = ok;
    r.log_id = log_id;
    r.position = &p;
    r.message = (char *)message;
    peer_call_reply(call, &r.base);
}

/* Ends the seeding; the core hears it when it had accepted. */
static void in_end(struct seed_in *in, bool ok, const char *why)
{
    struct shard *s = in->shard;
    bool accepted = in->accepted;

    if (in->call != NULL) {
        peer_call_set_data(in->call, NULL);
        reply(in->call, ok, ok ? in->log_id : 0, in->position, why);
    }
    if (!ok) {
        log_warn(s->subject, "seeding broke off after %llu points: %s", (unsigned long long)in->points, why);
    } else {
        log_info(s->subject, "seeded with %llu points; the log goes on after entry %llu",
                 (unsigned long long)in->points, (unsigned long long)in->position.index);
    }
    s->seed_in = NULL;
    if (accepted && !ok) { /* half a seed is nothing */
        store_clear(s->store);
        feeder_reset(s->feeder);
    }
    if (accepted) {
        shard_feed(s, &(struct replica_event){
                          .type = REPLICA_EV_SEED_DONE,
                          .seed_done = {.ok = ok, .position = ok ? in->position : (struct otr_position){0, 0}},
                      });
        feeder_kick(s->feeder);
    }
    free(in);
}

void seed_receive_accepted(struct shard *s, const struct replica_meta *meta)
{
    struct seed_in *in = s->seed_in;
    int rv;

    assert(in != NULL && !in->accepted);
    in->accepted = true;
    in->log_id = meta->log_id;
    /* What the engine holds of the old log says nothing about the new one's indexes. */
    s->meta.applied_index = 0;
    memset(s->meta.engine_data_id, 0, sizeof s->meta.engine_data_id);
    rv = journal_seed_begin(s->node->journal, s->id, &s->meta);
    if (rv != 0) {
        node_fatal(s->node, "shard %u: cannot begin the seed: %s", s->id, otr_strerror(rv));
        return;
    }
    damage_gone(s);
    digest_forget(s);
    s->apply_stuck = false;
    store_clear(s->store);
    s->stored = 0;
    s->commit = 0;
    s->answerable = 0;
    feeder_reset(s->feeder);
}

static void take_begin(struct node *n, struct peer_call *call, const struct peer_from *from,
                       const Outrigger__V1__SeedFrame__Begin *begin)
{
    struct shard *s = node_shard(n, begin->shard);
    struct seed_in *in;

    if (s == NULL || s->seed_in != NULL) {
        reply(call, false, 0, (struct otr_position){0, 0},
              s == NULL ? "no replica of this shard here" : "being seeded");
        return;
    }
    in = calloc(1, sizeof *in);
    if (in == NULL) {
        reply(call, false, 0, (struct otr_position){0, 0}, "out of memory");
        return;
    }
    in->shard = s;
    in->call = call;
    s->seed_in = in;
    peer_call_set_data(call, in);
    shard_feed(s, &(struct replica_event){
                      .type = REPLICA_EV_SEED_BEGIN,
                      .seed_begin = {.from = topology_intern(n->topology, from->node),
                                     .epoch = begin->epoch,
                                     .incarnation = begin->incarnation,
                                     .new_log_id = shard_fresh_log_id()},
                  });
    if (!in->accepted) {
        in_end(in, false, "not wanted: not a learner of this epoch");
        return;
    }
    peer_call_next(call);
}

/* The next frame, as soon as the disk keeps up. */
static void ask_next(struct seed_in *in)
{
    in->waiting = journal_pending_bytes(in->shard->node->journal) > SEED_PENDING_BYTES;
    if (!in->waiting) {
        peer_call_next(in->call);
    }
}

void seed_receive_tick(struct shard *s)
{
    if (s->seed_in != NULL && s->seed_in->waiting && s->seed_in->call != NULL) {
        ask_next(s->seed_in);
    }
}

void seed_receive_stop(struct shard *s)
{
    free(s->seed_in); /* its call went with the hub */
    s->seed_in = NULL;
}

static void take_body(struct seed_in *in, const uint8_t *body, size_t bytes)
{
    struct shard *s = in->shard;
    struct body_iter it;
    struct otr_point p;
    journal_place place;
    int rv = bytes > OTR_BODY_MAX ? OTR_TOOBIG : body_iter_init(&it, RECORD_PUT, body, bytes);

    while (rv == 0 && (rv = body_next(&it, &p)) == 0) {
        in->points++;
    }
    if (rv != OTR_NOTFOUND) {
        in_end(in, false, "damaged points");
        return;
    }
    rv = journal_seed_points(s->node->journal, s->id, body, bytes, &place);
    if (rv == 0) {
        rv = store_apply_seed(s->store, body, bytes, place, apply_same_id, s);
    }
    if (rv != 0) {
        in_end(in, false, otr_strerror(rv));
        return;
    }
    ask_next(in);
}

static void take_points(struct seed_in *in, const Outrigger__V1__SeedFrame__Points *points)
{
    struct otr_errmsg msg = {0};
    uint8_t *restored;
    size_t bytes;

    if (points->encoding == COMPRESS_PLAIN) {
        take_body(in, points->body.data, points->body.len);
        return;
    }
    if (compression_restore(in->shard->node, points->encoding, points->body.data, points->body.len, &restored, &bytes,
                            &msg) != 0) {
        in_end(in, false, msg.text);
        return;
    }
    take_body(in, restored, bytes);
    free(restored);
}

static bool restore_ids(struct shard *s, const uint8_t *bytes, size_t count)
{
    for (size_t i = 0; i + sizeof(struct seed_request_id) <= count; i += sizeof(struct seed_request_id)) {
        struct seed_request_id id;
        memcpy(&id, bytes + i, sizeof id);
        if (replica_restore_request(
                s->replica,
                &(struct replica_entry){.position = {id.epoch, id.index}, .time_ms = id.time_ms, .request_id = id.id},
                id.outcome, true) != 0) {
            return false;
        }
    }
    return count % sizeof(struct seed_request_id) == 0;
}

static void take_end(struct seed_in *in, const Outrigger__V1__SeedFrame__End *end)
{
    struct shard *s = in->shard;
    int rv;

    if (end->position == NULL || end->request_ids.len > OTR_BODY_MAX ||
        !restore_ids(s, end->request_ids.data, end->request_ids.len)) {
        in_end(in, false, "damaged end of seed");
        return;
    }
    in->position = (struct otr_position){end->position->epoch, end->position->index};
    rv = journal_seed_end(s->node->journal, s->id, in->position, end->request_ids.data, end->request_ids.len);
    if (rv == 0) {
        s->stored = in->position.index;
        s->commit = in->position.index;
        s->meta.committed_index = in->position.index;
        /* A meta behind it in the journal: durable only when all of the seed is. */
        rv = journal_meta_write(s->node->journal, s->id, &s->meta);
    }
    if (rv != 0) {
        in_end(in, false, otr_strerror(rv));
        return;
    }
    in->ending = true;
    in->wait_number = journal_metas_written(s->node->journal, s->id);
}

void seed_receive_durable(struct shard *s, uint64_t metas_durable)
{
    struct seed_in *in = s->seed_in;

    seed_receive_tick(s);
    if (in->ending && metas_durable >= in->wait_number) {
        in_end(in, true, "");
    }
}

void seed_receive_frame(struct node *n, struct peer_call *call, const struct peer_from *from,
                        const Outrigger__V1__SeedFrame *frame)
{
    struct seed_in *in = peer_call_data(call);

    if (n->closing) {
        return;
    }
    if (frame == NULL) {
        if (in != NULL) {
            in->call = NULL;
            if (!in->ending) {
                in_end(in, false, "the stream ended");
            }
        }
    } else if (frame->begin != NULL && in == NULL) {
        take_begin(n, call, from, frame->begin);
    } else if (in == NULL || !in->accepted || in->ending) {
        if (in != NULL) {
            in->call = NULL; /* gone with this; what was complete is still installed */
        }
        peer_call_fail(call, 3, "a seed begins with its begin and ends with its end");
    } else if (frame->points != NULL) {
        take_points(in, frame->points);
    } else if (frame->end != NULL) {
        take_end(in, frame->end);
    } else {
        in_end(in, false, "empty frame");
    }
}
