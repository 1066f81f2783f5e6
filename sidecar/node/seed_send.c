/* Seeding, the primary's side: all live points of a shard as of one index, then the request ids of the dedup window, so
 * that the log goes on from there (PROTOCOL E3, Q1).
 *
 * The snapshot is a copy of the store's places at `stored`: exact, for the store holds committed entries only. Points
 * are read in pieces off the loop, one piece ahead of what the stream takes.
 *
 * Request ids, little-endian, one after the other: u64 epoch, u64 index, u64 time, 16 bytes id, u32 outcome, u32 0.
 * They travel in one frame and are one record at the other side: of more than fit, the newest. */
#include "sidecar/node/seed.h"

#include "sidecar/io/log.h"

#include <stdlib.h>

enum {
    SEED_PIECE_POINTS = 512,
    SEED_PIECE_BYTES = 1 << 20, /* about; one point may be larger */
    SEED_IDS_MAX = (32 << 20) / sizeof(struct seed_request_id)
};

struct seed_out {
    struct node_work work;
    struct shard *shard; /* NULL: the shard is gone */
    struct seed_out *next;
    otr_node to;
    struct peer_stream *stream;
    struct store_snapshot *snapshot;
    struct journal_pin *pin; /* of what the snapshot's places are in */
    size_t at;               /* next slot */
    struct otr_position position;
    uint8_t *request_ids;
    size_t request_ids_bytes;
    struct journal_reader *reader;
    bool reading;
    bool begun, ended;
    uint8_t *piece; /* a PUT's body ready to go, in this encoding */
    size_t piece_bytes;
    enum compress_encoding piece_encoding;
    bool compress;
    struct compression_job compression;
    uint64_t piece_collection;
    int numbers_first;
    size_t numbers_count;
    uint64_t log_id;    /* that the snapshot belongs to */
    bool checking;      /* our copy is damaged: whether all points can be read is found out before any is sent */
    size_t points_next; /* of the next piece: follows how large they are */
    int status;
};

static void out_free(struct seed_out *o)
{
    store_snapshot_free(o->snapshot);
    journal_pin_free(o->pin);
    if (o->reader != NULL) {
        journal_reader_free(o->reader);
    }
    free(o->request_ids);
    free(o->piece);
    free(o);
}

static void unlink_out(struct seed_out *o)
{
    struct seed_out **p;

    if (o->shard == NULL) {
        return;
    }
    for (p = &o->shard->seeds_out; *p != o; p = &(*p)->next) {
    }
    *p = o->next;
}

/* Reports to the core and goes away, as soon as no work is under way. */
static void out_end(struct seed_out *o, bool ok, uint64_t log_id, struct otr_position position)
{
    struct shard *s = o->shard;
    otr_node to = o->to;

    unlink_out(o);
    o->shard = NULL;
    o->stream = NULL;
    if (!o->reading) {
        out_free(o);
    }
    if (s != NULL) {
        shard_feed(s, &(struct replica_event){
                          .type = REPLICA_EV_SEED_SENT,
                          .seed_sent = {.to = to, .ok = ok, .log_id = log_id, .position = position},
                      });
    }
}

static void on_done(void *data, int status, const ProtobufCMessage *reply, const struct otr_errmsg *msg)
{
    struct seed_out *o = data;
    const Outrigger__V1__SeedReply *r = (const Outrigger__V1__SeedReply *)reply;
    struct otr_position position = {0, 0};
    bool ok = status == 0 && r->ok && r->position != NULL;

    if (ok) {
        position = (struct otr_position){r->position->epoch, r->position->index};
    }
    if (o->shard != NULL && !o->shard->node->closing) {
        if (ok) {
            log_info(o->shard->subject, "seeded %s with %zu points up to entry %llu",
                     topology_name(o->shard->node->topology, o->to), o->snapshot->count,
                     (unsigned long long)position.index);
        } else {
            log_warn(o->shard->subject, "seeding %s broke off: %s", topology_name(o->shard->node->topology, o->to),
                     status != 0 ? (msg != NULL ? msg->text : otr_strerror(status)) : r->message);
        }
    }
    out_end(o, ok, ok ? r->log_id : 0, position);
}

/* --- pieces
 * ------------------------------------------------------------------------------------------------------------ */

/* As many as make a piece. */
static size_t piece_count(const struct otr_point *points, size_t count)
{
    size_t bytes = 0;
    size_t n = 0;

    do {
        bytes += (size_t)points[n].dimension * sizeof(float) + points[n].id_bytes + points[n].metadata_bytes;
        n++;
    } while (n < count && bytes < SEED_PIECE_BYTES);
    return n;
}

static void piece_run(struct node_work *w)
{
    struct seed_out *o = (struct seed_out *)w;
    struct otr_point *points = calloc(o->numbers_count + 1, sizeof *points);
    size_t count = o->numbers_count;

    o->status = points == NULL ? OTR_NOMEM : journal_reader_run(o->reader, NULL);
    for (size_t i = 0; o->status == 0 && i < o->numbers_count; i++) {
        o->status = journal_reader_point_result(o->reader, o->numbers_first + (int)i, &points[i]);
    }
    if (o->status == 0) {
        o->numbers_count = piece_count(points, count);
        o->piece_bytes = put_body_bytes(points, o->numbers_count);
        o->piece = malloc(o->piece_bytes);
        o->status = o->piece == NULL ? OTR_NOMEM : 0;
    }
    if (o->status == 0) {
        put_body_write(o->piece, o->piece_collection, points, o->numbers_count);
    }
    if (o->status == 0 && o->compress) {
        compression_run_points(&o->compression, o->piece, o->piece_bytes);
    }
    free(points);
}

static void go_on(struct seed_out *o);

static void take_compressed(struct seed_out *o)
{
    struct compressed *c = &o->compression.out;

    o->piece_encoding = COMPRESS_PLAIN;
    if (o->status == 0 && o->compress && o->shard != NULL) {
        compression_ran(o->shard->node, o->to, &o->compression);
    }
    if (c->data != NULL) {
        free(o->piece);
        o->piece = c->data;
        o->piece_bytes = c->bytes;
        o->piece_encoding = c->encoding;
        c->data = NULL;
    }
}

static void piece_done(struct node_work *w)
{
    struct seed_out *o = (struct seed_out *)w;

    o->reading = false;
    journal_reader_free(o->reader);
    o->reader = NULL;
    take_compressed(o);
    if (o->shard == NULL) {
        if (o->stream == NULL) { /* else on_done comes, and frees */
            out_free(o);
        }
        return;
    }
    o->at += o->numbers_count;
    o->points_next = 2 * o->numbers_count < SEED_PIECE_POINTS ? 2 * o->numbers_count : SEED_PIECE_POINTS;
    if (o->status != 0) {
        log_error(o->shard->subject, "seeding: cannot read the points: %s", otr_strerror(o->status));
        peer_seed_cancel(o->stream); /* ends in on_done */
        if (damage_is(o->shard, o->status)) {
            damage_met(o->shard, o->log_id, "points for a replica do not read as they were written");
        }
        return;
    }
    if (o->checking) {
        free(o->piece);
        o->piece = NULL;
        o->checking = o->at < o->snapshot->count;
        o->at = o->checking ? o->at : 0;
    }
    go_on(o);
}

static void piece_start(struct seed_out *o)
{
    const struct store_snapshot *snap = o->snapshot;

    o->reader = journal_reader_new(o->shard->node->journal);
    o->piece_collection = snap->collections[o->at];
    o->numbers_count = 0;
    for (size_t i = o->at; o->reader != NULL && i < snap->count && o->numbers_count < o->points_next &&
                           snap->collections[i] == o->piece_collection;
         i++) {
        int number = journal_reader_point(o->reader, snap->slots[i].place, 0);
        if (number < 0) {
            break;
        }
        if (o->numbers_count == 0) {
            o->numbers_first = number;
        }
        o->numbers_count++;
    }
    if (o->numbers_count == 0) {
        peer_seed_cancel(o->stream);
        return;
    }
    o->compress = !o->checking && compression_wanted(o->shard->node, o->to, SEED_PIECE_BYTES, &o->compression);
    o->reading = true;
    node_work_start(o->shard->node, &o->work, piece_run, piece_done);
}

/* --- frames
 * ------------------------------------------------------------------------------------------------------------ */

static int send_begin(struct seed_out *o)
{
    struct replica_status status;
    Outrigger__V1__SeedFrame frame = OUTRIGGER__V1__SEED_FRAME__INIT;
    Outrigger__V1__SeedFrame__Begin begin = OUTRIGGER__V1__SEED_FRAME__BEGIN__INIT;

    replica_status(o->shard->replica, 0, &status);
    begin.shard = o->shard->id;
    begin.generation = status.descriptor != NULL ? status.descriptor->generation : 0;
    begin.epoch = status.epoch;
    begin.incarnation = o->shard->node->incarnation;
    begin.points = o->snapshot->count;
    frame.begin = &begin;
    return peer_seed_send(o->stream, &frame);
}

static int send_piece(struct seed_out *o)
{
    Outrigger__V1__SeedFrame frame = OUTRIGGER__V1__SEED_FRAME__INIT;
    Outrigger__V1__SeedFrame__Points points = OUTRIGGER__V1__SEED_FRAME__POINTS__INIT;

    points.body.data = o->piece;
    points.body.len = o->piece_bytes;
    points.encoding = o->piece_encoding;
    frame.points = &points;
    return peer_seed_send(o->stream, &frame);
}

static int send_end(struct seed_out *o)
{
    Outrigger__V1__SeedFrame frame = OUTRIGGER__V1__SEED_FRAME__INIT;
    Outrigger__V1__SeedFrame__End end = OUTRIGGER__V1__SEED_FRAME__END__INIT;
    Outrigger__V1__Position position = OUTRIGGER__V1__POSITION__INIT;

    position.epoch = o->position.epoch;
    position.index = o->position.index;
    end.position = &position;
    end.request_ids.data = o->request_ids;
    end.request_ids.len = o->request_ids_bytes;
    frame.end = &end;
    return peer_seed_send(o->stream, &frame);
}

/* Whatever is ready goes; OTR_BUSY waits for on_room; anything else ends in on_done. */
static void go_on(struct seed_out *o)
{
    int rv = 0;

    while (rv == 0 && !o->ended && !o->reading && o->stream != NULL) {
        if (o->checking && o->snapshot->count > 0) {
            piece_start(o);
            return;
        }
        if (!o->begun) {
            rv = send_begin(o);
            o->begun = rv == 0;
        } else if (o->piece != NULL) {
            rv = send_piece(o);
            if (rv == 0) {
                free(o->piece);
                o->piece = NULL;
            }
        } else if (o->at < o->snapshot->count) {
            piece_start(o);
            return;
        } else {
            rv = send_end(o);
            if (rv == 0) {
                o->ended = true;
                peer_seed_finish(o->stream);
            }
        }
    }
    if (rv != 0 && rv != OTR_BUSY && o->stream != NULL) {
        peer_seed_cancel(o->stream);
    }
}

static void on_room(void *data, struct peer_stream *stream)
{
    struct seed_out *o = data;

    (void)stream;
    if (o->shard != NULL) {
        go_on(o);
    }
}

/* --- request ids
 * --------------------------------------------------------------------------------------------------------- */

struct ids {
    uint8_t *bytes;
    size_t used, capacity;
    uint64_t upto;
    bool failed;
};

static void add_id(const struct replica_entry *e, uint32_t outcome, void *data)
{
    struct ids *ids = data;
    struct seed_request_id out = {.epoch = e->position.epoch,
                                  .index = e->position.index,
                                  .time_ms = e->time_ms,
                                  .id = e->request_id,
                                  .outcome = outcome};

    if (e->position.index > ids->upto || ids->failed) {
        return;
    }
    if (ids->used + sizeof out > ids->capacity) {
        size_t capacity = ids->capacity == 0 ? 4096 : ids->capacity * 2;
        uint8_t *grown = realloc(ids->bytes, capacity);
        if (grown == NULL) {
            ids->failed = true;
            return;
        }
        ids->bytes = grown;
        ids->capacity = capacity;
    }
    memcpy(ids->bytes + ids->used, &out, sizeof out);
    ids->used += sizeof out;
}

static void keep_newest(struct ids *ids)
{
    size_t max = SEED_IDS_MAX * sizeof(struct seed_request_id);

    if (ids->used > max) {
        memmove(ids->bytes, ids->bytes + ids->used - max, max);
        ids->used = max;
    }
}

static void fail_at_start(struct shard *s, otr_node to)
{
    shard_feed(s, &(struct replica_event){.type = REPLICA_EV_SEED_SENT, .seed_sent = {.to = to, .ok = false}});
}

void seed_send_start(struct shard *s, otr_node to)
{
    struct node *n = s->node;
    struct peer_link *link = node_link(n, to);
    struct ids ids = {.upto = s->stored};
    struct seed_out *o = link != NULL ? calloc(1, sizeof *o) : NULL;

    if (o == NULL) {
        fail_at_start(s, to);
        return;
    }
    o->shard = s;
    o->to = to;
    o->log_id = s->meta.log_id;
    o->checking = s->damaged;
    o->points_next = SEED_PIECE_POINTS / 8;
    o->position = (struct otr_position){journal_epoch_at(n->journal, s->id, s->stored), s->stored};
    o->snapshot = store_snapshot_by_place(s->store, 0);
    o->pin = journal_pin_new(n->journal);
    replica_requests(s->replica, add_id, &ids);
    keep_newest(&ids);
    o->request_ids = ids.bytes;
    o->request_ids_bytes = ids.used;
    if (o->snapshot == NULL || o->pin == NULL || ids.failed ||
        peer_seed_open(link, &o->stream, on_room, on_done, o) != 0) {
        out_free(o);
        fail_at_start(s, to);
        return;
    }
    o->next = s->seeds_out;
    s->seeds_out = o;
    log_info(s->subject, "seeding %s: %zu points as of entry %llu", topology_name(n->topology, to), o->snapshot->count,
             (unsigned long long)o->position.index);
}

void seed_send_stop(struct shard *s)
{
    while (s->seeds_out != NULL) {
        struct seed_out *o = s->seeds_out;
        s->seeds_out = o->next;
        o->shard = NULL; /* freed by on_done, which comes when the hub closes, and by piece_done */
    }
}
