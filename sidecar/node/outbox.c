/* What replicas send: their messages as frames, and appends with their entries, read from memory or, on the thread
 * pool, from files, compressed where that pays. One append is outstanding for each shard and peer: entries wait in the
 * log, not in queues. */
#include "sidecar/node/node_internal.h"

#include <assert.h>
#include <stdlib.h>

/* Entries as they travel. */
struct payload {
    const uint8_t *data;
    size_t bytes;
    enum compress_encoding encoding;
};

static int hand_over(struct shard *s, otr_node to, const struct replica_msg *msg, const struct payload *entries)
{
    struct node *n = s->node;
    struct peer_link *link = node_link(n, to);
    Outrigger__V1__ReplicaMessage wire;
    Outrigger__V1__ReplicaMessage *wires[1] = {&wire};
    Outrigger__V1__Position position;

    if (link == NULL) {
        return OTR_UNREACHABLE;
    }
    wire_pack(n, s->id, msg, &wire, &position);
    wire.entries.data = (uint8_t *)entries->data;
    wire.entries.len = entries->bytes;
    wire.encoding = entries->encoding;
    if (msg->type == REPLICA_MSG_APPEND || msg->type == REPLICA_MSG_ACK || msg->type == REPLICA_MSG_REFUSE) {
        Outrigger__V1__ReplicateFrame frame = OUTRIGGER__V1__REPLICATE_FRAME__INIT;
        frame.messages = wires;
        frame.n_messages = 1;
        return peer_link_send(link, PEER_LANE_REPLICATE, &frame.base);
    }
    Outrigger__V1__BeaconFrame frame = OUTRIGGER__V1__BEACON_FRAME__INIT;
    frame.messages = wires;
    frame.n_messages = 1;
    return peer_link_send(link, PEER_LANE_BEACON, &frame.base);
}

static int send_one(struct shard *s, otr_node to, const struct replica_msg *msg, const struct payload *entries)
{
    struct peer_metrics *m = &s->node->peers[to].metrics;
    int rv = hand_over(s, to, msg, entries);

    if (rv == 0) {
        m->messages_sent_total++;
        m->entry_bytes_sent_total += entries->bytes;
    } else {
        m->messages_refused_total++;
    }
    return rv;
}

void outbox_send(struct shard *s, otr_node to, const struct replica_msg *msg)
{
    s->metrics.fenced_appends_total += msg->type == REPLICA_MSG_REFUSE && msg->refuse.reason == REPLICA_REFUSE_FENCED;
    (void)send_one(s, to, msg,
                   &(struct payload){.data = NULL}); /* losing it is allowed; the core repeats what matters */
}

/* --- appends: one outstanding per peer ------------------------------------------------------------------------------
 */

enum { COMPRESSION_INLINE_BYTES = 32 << 10 }; /* compressed on the loop: some 40 us */

/* What an append needs from another thread: its entries read, or compressed, or both. */
struct append_work {
    struct node_work work;
    struct shard *shard;
    otr_node to;
    uint64_t token;
    uint64_t log_id;
    struct journal_reader *reader; /* NULL: `entries` are there already, and ours */
    struct journal_bytes entries;
    bool compress;
    struct compression_job compression;
    int status;
};

static struct append_job *append_find(struct shard *s, otr_node to)
{
    for (size_t i = 0; i < OTR_REPLICAS_MAX; i++) {
        if (s->appends[i].active && s->appends[i].to == to) {
            return &s->appends[i];
        }
    }
    return NULL;
}

static void append_end(struct shard *s, struct append_job *job, uint64_t last_index, int status)
{
    struct replica_event ev = {
        .type = REPLICA_EV_SENT,
        .sent = {.to = job->to, .token = job->token, .last_index = last_index, .status = status},
    };

    job->active = false;
    shard_feed(s, &ev);
}

static void append_send(struct shard *s, struct append_job *job, const struct payload *entries, uint64_t last_index)
{
    struct replica_msg msg = job->msg;
    int rv;

    msg.append.last_index = last_index;
    rv = send_one(s, job->to, &msg, entries);
    if (rv == OTR_BUSY) {
        job->waiting = true; /* read again when there is room: the bytes may be many */
        return;
    }
    append_end(s, job, last_index, rv);
}

/* Sends what a compression made of the entries, or them. */
static void append_send_compressed(struct shard *s, struct append_job *job, const struct compression_job *c,
                                   const struct journal_bytes *entries)
{
    bool smaller = c->out.data != NULL;
    struct payload payload = {.data = smaller ? c->out.data : entries->data,
                              .bytes = smaller ? c->out.bytes : entries->bytes,
                              .encoding = smaller ? c->out.encoding : COMPRESS_PLAIN};

    append_send(s, job, &payload, entries->last);
}

static void append_work_free(struct append_work *w)
{
    if (w->reader != NULL) {
        journal_reader_free(w->reader);
    } else {
        free(w->entries.data);
    }
    free(w->compression.out.data);
    free(w);
}

static void append_work_run(struct node_work *work)
{
    struct append_work *w = (struct append_work *)work;

    if (w->reader != NULL) {
        w->status = journal_reader_run(w->reader, NULL);
        if (w->status == 0) {
            w->entries = *journal_reader_result(w->reader);
        }
    }
    if (w->status == 0 && w->compress) {
        compression_run_records(&w->compression, w->entries.data, w->entries.bytes);
    }
}

static void append_work_done(struct node_work *work)
{
    struct append_work *w = (struct append_work *)work;
    struct shard *s = w->shard;
    struct append_job *job = s->node->closing ? NULL : append_find(s, w->to);

    if (w->status == 0 && w->compress) {
        compression_ran(s->node, w->to, &w->compression);
    }
    if (job != NULL && job->token == w->token && job->reading) {
        job->reading = false;
        if (damage_is(s, w->status)) {
            damage_met(s, w->log_id, "entries for a replica do not read as they were written");
            append_end(s, job, job->msg.append.prev.index, OTR_GONE); /* the live points may all be there */
        } else if (w->status != 0) {
            append_end(s, job, job->msg.append.prev.index, OTR_IO);
        } else {
            append_send_compressed(s, job, &w->compression, &w->entries);
        }
    }
    append_work_free(w);
}

static struct append_work *append_work_new(struct shard *s, const struct append_job *job)
{
    struct append_work *w = calloc(1, sizeof *w);

    if (w != NULL) {
        w->shard = s;
        w->to = job->to;
        w->token = job->token;
        w->log_id = s->meta.log_id;
    }
    return w;
}

static void append_work_start(struct append_work *w, struct append_job *job)
{
    job->reading = true;
    node_work_start(w->shard->node, &w->work, append_work_run, append_work_done);
}

static int append_read(struct shard *s, struct append_job *job)
{
    struct append_work *w = append_work_new(s, job);
    int rv;

    if (w == NULL || (w->reader = journal_reader_new(s->node->journal)) == NULL) {
        free(w);
        return OTR_NOMEM;
    }
    rv = journal_reader_entries(w->reader, s->id, job->msg.append.prev.index + 1, job->msg.append.last_index,
                                NODE_APPEND_BYTES_MAX);
    if (rv != 0) {
        append_work_free(w);
        return rv;
    }
    w->compress = compression_wanted(s->node, job->to, NODE_APPEND_BYTES_MAX, &w->compression);
    append_work_start(w, job);
    return 0;
}

/* Entries that are in memory: takes them over. */
static void append_entries(struct shard *s, struct append_job *job, struct journal_bytes *entries)
{
    struct compression_job compression;
    struct append_work *w;

    if (!compression_wanted(s->node, job->to, entries->bytes, &compression)) {
        append_send(s, job, &(struct payload){entries->data, entries->bytes, COMPRESS_PLAIN}, entries->last);
        free(entries->data);
        return;
    }
    w = entries->bytes > COMPRESSION_INLINE_BYTES ? append_work_new(s, job) : NULL;
    if (w != NULL) {
        w->entries = *entries;
        w->compress = true;
        w->compression = compression;
        append_work_start(w, job);
        return;
    }
    compression_run_records(&compression, entries->data, entries->bytes);
    compression_ran(s->node, job->to, &compression);
    append_send_compressed(s, job, &compression, entries);
    free(compression.out.data);
    free(entries->data);
}

static void append_go(struct shard *s, struct append_job *job)
{
    uint64_t first = job->msg.append.prev.index + 1;
    uint64_t last = job->msg.append.last_index;
    struct journal_bytes entries = {0};
    int rv;

    job->waiting = false;
    if (last < first) {
        append_send(s, job, &(struct payload){.data = NULL}, first - 1);
        return;
    }
    rv = journal_read(s->node->journal, s->id, first, last, NODE_APPEND_BYTES_MAX, &entries);
    if (rv == OTR_UNAVAIL) {
        rv = append_read(s, job);
        if (rv == 0) {
            return;
        }
    }
    if (rv != 0) {
        append_end(s, job, first - 1, rv);
        return;
    }
    append_entries(s, job, &entries);
}

void outbox_append(struct shard *s, const struct replica_action *a)
{
    struct append_job *job = append_find(s, a->send.to);

    for (size_t i = 0; job == NULL && i < OTR_REPLICAS_MAX; i++) {
        if (!s->appends[i].active) {
            job = &s->appends[i];
        }
    }
    assert(job != NULL);
    *job = (struct append_job){.active = true, .to = a->send.to, .token = a->send.token, .msg = a->send.msg};
    append_go(s, job);
}

void outbox_drop(struct shard *s, otr_node to)
{
    struct append_job *job = append_find(s, to);

    if (job != NULL) {
        append_end(s, job, job->msg.append.prev.index, OTR_UNREACHABLE);
    }
}

/* An append of a reign that ended while it waited must not be read now: the log may have been cut since, and hold
 * another reign's entries. */
static bool still_leads(const struct shard *s, const struct append_job *job)
{
    return (s->role == REPLICA_PRIMARY || s->role == REPLICA_TAKEOVER) && s->epoch == job->msg.epoch;
}

void outbox_drained(struct node *n, otr_node peer)
{
    for (otr_shard i = 0; i < n->shards_top && !n->closing; i++) {
        struct shard *s = n->shards[i];
        struct append_job *job = s != NULL ? append_find(s, peer) : NULL;
        if (job != NULL && job->waiting && still_leads(s, job)) {
            append_go(s, job);
        } else if (job != NULL && job->waiting) {
            append_end(s, job, job->msg.append.prev.index, OTR_UNREACHABLE);
        }
    }
}
