/* Peers: one link to every other node of the cluster, evidence of death from it, what comes over it.
 *
 * Evidence (PROTOCOL V2): the link's connection to an incarnation ended and a new one was refused, or the peer's
 * address answers with another incarnation. A link that is merely silent or down is none. */
#include "sidecar/node/node_internal.h"

#include "sidecar/io/log.h"

/* --- states ------------------------------------------------------------------------------------------------------- */

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
            outbox_drop(s, peer);
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

/* --- in ----------------------------------------------------------------------------------------------------------- */

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

static void on_drain(void *data, struct peer_link *link, enum peer_lane lane)
{
    if (lane == PEER_LANE_REPLICATE) {
        outbox_drained(data, (otr_node)(uintptr_t)peer_link_data(link));
    }
}

static void on_replicate(void *data, const struct peer_from *from, const Outrigger__V1__ReplicateFrame *frame)
{
    struct node *n = data;
    otr_node node = topology_intern(n->topology, from->node);

    take_messages(n, from, frame->messages, frame->n_messages);
    for (size_t i = 0; i < frame->n_digests && node != OTR_NODE_NONE && !n->closing && !n->dying; i++) {
        digest_receive(n, node, frame->digests[i]);
    }
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
