/* Peers: one link to every other node of the cluster, evidence of death from it, the replicas' messages over it.
 *
 * Evidence (PROTOCOL V2): the link's connection to an incarnation ended and a new one was refused, or the peer's
 * address answers with another incarnation. A link that is merely silent or down is none. */
#include "sidecar/node/node_internal.h"

#include "sidecar/io/clock.h"
#include "sidecar/io/log.h"

#include <assert.h>
#include <stdlib.h>

/* --- states
 * ------------------------------------------------------------------------------------------------------------ */

static void tell_shard(struct shard *s, otr_node peer, enum replica_peer_state state, uint64_t incarnation)
{
    shard_feed(s, &(struct replica_event){
                      .type = REPLICA_EV_PEER,
                      .peer = {.node = peer, .state = state, .incarnation = incarnation},
                  });
}

static void tell_all(struct node *n, otr_node peer, enum replica_peer_state state, uint64_t incarnation)
{
    for (otr_shard i = 0; i < n->shards_top; i++) {
        struct shard *s = n->shards[i];
        if (s == NULL || s->replica == NULL) {
            continue;
        }
        if (state != REPLICA_PEER_UP) {
            links_drop_append(s, peer);
        }
        tell_shard(s, peer, state, incarnation);
    }
    node_changed(n);
}

static void on_link(void *data, struct peer_link *link, enum peer_link_state state, uint64_t incarnation,
                    const struct otr_errmsg *why)
{
    struct node *n = data;
    otr_node peer = (otr_node)(uintptr_t)peer_link_data(link);
    struct node_peer *p = &n->peers[peer];

    (void)why; /* the hub has said it */
    if (n->closing || n->dying) {
        return;
    }
    switch (state) {
    case PEER_LINK_UP:
        p->up = true;
        p->refused = false;
        p->incarnation = incarnation;
        tell_all(n, peer, REPLICA_PEER_UP, incarnation);
        return;
    case PEER_LINK_DOWN:
        p->metrics.links_lost_total += p->up;
        p->up = false;
        p->refused = false;
        tell_all(n, peer, REPLICA_PEER_DOWN, p->incarnation);
        return;
    case PEER_LINK_REFUSED:
        p->metrics.links_lost_total += p->up;
        p->up = false;
        p->refused = true;
        if (p->incarnation == 0) {
            /* Never met: the process that announced this address is not there. */
            p->incarnation = topology_node(n->topology, peer)->incarnation;
        }
        log_info("", "peer %s: refuses connections: its process is dead", topology_name(n->topology, peer));
        tell_all(n, peer, REPLICA_PEER_DEAD, p->incarnation);
        return;
    }
}

void links_brief(struct shard *s)
{
    struct node *n = s->node;

    for (otr_node peer = 1; peer <= topology_nodes_count(n->topology); peer++) {
        if (n->peers[peer].up) {
            tell_shard(s, peer, REPLICA_PEER_UP, n->peers[peer].incarnation);
        } else if (n->peers[peer].refused) {
            tell_shard(s, peer, REPLICA_PEER_DEAD, n->peers[peer].incarnation);
        }
    }
}

static bool address_equal(const struct topology_address *a, const struct topology_address *b)
{
    return a->port == b->port && a->tls == b->tls && strcmp(a->host, b->host) == 0;
}

void links_update(struct node *n, otr_node peer)
{
    const struct topology_node *t = topology_node(n->topology, peer);
    struct node_peer *p = &n->peers[peer];

    if (t == NULL || peer == n->self || t->peer.port == 0 || n->closing) {
        return;
    }
    if (p->link == NULL) {
        p->link = peer_link_open(n->hub, t->name, t->peer.host, t->peer.port, (void *)(uintptr_t)peer);
        if (p->link == NULL) {
            LOG_LIMITED(LOG_WARN, "", "peer %s: no link: out of memory; trying again", t->name);
            return;
        }
    } else if (!address_equal(&p->address, &t->peer)) {
        (void)peer_link_address(p->link, t->peer.host, t->peer.port);
    }
    p->address = t->peer;
}

void links_tick(struct node *n)
{
    for (otr_node peer = 1; peer <= topology_nodes_count(n->topology); peer++) {
        if (n->peers[peer].link == NULL && topology_node(n->topology, peer)->live) {
            links_update(n, peer);
        }
    }
}

struct peer_link *node_link(struct node *n, otr_node peer)
{
    return peer != OTR_NODE_NONE && peer <= OTR_NODES_MAX && n->peers[peer].up ? n->peers[peer].link : NULL;
}

/* --- out
 * --------------------------------------------------------------------------------------------------------------- */

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

void links_send(struct shard *s, otr_node to, const struct replica_msg *msg)
{
    s->metrics.fenced_appends_total += msg->type == REPLICA_MSG_REFUSE && msg->refuse.reason == REPLICA_REFUSE_FENCED;
    (void)send_one(s, to, msg,
                   &(struct payload){.data = NULL}); /* losing it is allowed; the core repeats what matters */
}

/* --- appends: one outstanding per peer
 * ---------------------------------------------------------------------------------- */

enum { COMPRESSION_INLINE_BYTES = 32 << 10 }; /* compressed on the loop: some 40 us */

/* What an append needs from another thread: its entries read, or compressed, or both. */
struct append_work {
    struct node_work work;
    struct shard *shard;
    otr_node to;
    uint64_t token;
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
        if (w->status != 0) {
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

void links_send_append(struct shard *s, const struct replica_action *a)
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

void links_drop_append(struct shard *s, otr_node to)
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

static void on_drain(void *data, struct peer_link *link, enum peer_lane lane)
{
    struct node *n = data;
    otr_node peer = (otr_node)(uintptr_t)peer_link_data(link);

    for (otr_shard i = 0; lane == PEER_LANE_REPLICATE && i < n->shards_top && !n->closing; i++) {
        struct shard *s = n->shards[i];
        struct append_job *job = s != NULL ? append_find(s, peer) : NULL;
        if (job != NULL && job->waiting && still_leads(s, job)) {
            append_go(s, job);
        } else if (job != NULL && job->waiting) {
            append_end(s, job, job->msg.append.prev.index, OTR_UNREACHABLE);
        }
    }
}

/* --- in
 * ---------------------------------------------------------------------------------------------------------------- */

static void take_message(struct node *n, otr_node from, const Outrigger__V1__ReplicaMessage *wire)
{
    struct shard *s = node_shard(n, wire->shard);
    struct incoming in;
    struct otr_errmsg msg = {0};

    if (s == NULL || from == OTR_NODE_NONE) {
        return; /* not (yet) a replica of it: the sender goes on trying */
    }
    if (wire_unpack(n, wire, &in, &msg) != 0) {
        LOG_LIMITED(LOG_WARN, s->subject, "from %s: %s", topology_name(n->topology, from), msg.text);
        wire_free(&in);
        return;
    }
    if (in.count > 0 && (n->disk_full || journal_pending_bytes(n->journal) > NODE_PENDING_BYTES_MAX)) {
        wire_free(&in); /* as if it were lost: the primary finds the gap and sends again */
        return;
    }
    s->incoming = &in;
    shard_feed(s, &(struct replica_event){.type = REPLICA_EV_MSG, .msg = {.from = from, .msg = &in.msg}});
    s->incoming = NULL;
    wire_free(&in);
}

static void take_messages(struct node *n, const struct peer_from *from, Outrigger__V1__ReplicaMessage **messages,
                          size_t count)
{
    otr_node node = topology_intern(n->topology, from->node);

    if (node != OTR_NODE_NONE) {
        n->peers[node].metrics.messages_received_total += count;
    }
    for (size_t i = 0; i < count && !n->closing && !n->dying; i++) {
        take_message(n, node, messages[i]);
    }
}

static void on_replicate(void *data, const struct peer_from *from, const Outrigger__V1__ReplicateFrame *frame)
{
    take_messages(data, from, frame->messages, frame->n_messages);
}

static void on_beacon(void *data, const struct peer_from *from, const Outrigger__V1__BeaconFrame *frame)
{
    take_messages(data, from, frame->messages, frame->n_messages);
}

static void on_seed(void *data, struct peer_call *call, const struct peer_from *from,
                    const Outrigger__V1__SeedFrame *frame)
{
    seed_receive_frame(data, call, from, frame);
}

static void on_call(void *data, struct peer_call *call, enum peer_method method, const struct peer_from *from,
                    const ProtobufCMessage *request)
{
    struct node *n = data;

    if (n->on_call != NULL && !n->closing) {
        n->on_call(n, call, method, from, request);
    } else {
        peer_call_fail(call, 14, "starting or stopping");
    }
}

static void on_intruder(void *data, const struct peer_from *from, const char *cluster)
{
    struct node *n = data;

    if (strcmp(cluster, n->cluster) == 0 && strcmp(from->node, n->name) == 0) {
        LOG_LIMITED(LOG_ERROR, "",
                    "another process calls itself %s of cluster %s (incarnation %016llx): stop one of them", n->name,
                    n->cluster, (unsigned long long)from->incarnation);
    } else {
        LOG_LIMITED(LOG_WARN, "", "refused a call from node %s of cluster %s; this is cluster %s", from->node, cluster,
                    n->cluster);
    }
}

int links_start(struct node *n, const struct node_config *config, struct otr_errmsg *msg)
{
    struct peer_config peer = {
        .loop = n->loop,
        .cluster = n->cluster,
        .node = n->name,
        .version = "1",
        .incarnation = n->incarnation,
        .encodings = n->compression.mode == NODE_COMPRESSION_NEVER ? 0 : COMPRESS_UNDERSTOOD,
        .listen_host = config->peer_listen_host,
        .listen_port = config->peer_listen_port,
        .ca_file = config->peer_ca,
        .cert_file = config->peer_cert,
        .key_file = config->peer_key,
        .handlers =
            {
                .on_link = on_link,
                .on_drain = on_drain,
                .on_replicate = on_replicate,
                .on_beacon = on_beacon,
                .on_call = on_call,
                .on_seed = on_seed,
                .on_intruder = on_intruder,
            },
        .data = n,
    };

    return peer_hub_new(&n->hub, &peer, msg);
}
