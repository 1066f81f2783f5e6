#include "sidecar/node/node_metrics.h"

#include "sidecar/io/clock.h"
#include "sidecar/node/coordinator.h"

#include <stdlib.h>

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

static const struct metrics_family node_families[] = METRICS_FAMILIES(node_metrics, NODE_METRICS);
static const struct metrics_family shard_families[] = METRICS_FAMILIES(shard_metrics, SHARD_METRICS);
static const struct metrics_family replica_families[] = METRICS_FAMILIES(replica_metrics, REPLICA_METRICS);
static const struct metrics_family peer_families[] = METRICS_FAMILIES(peer_metrics, PEER_METRICS);
static const struct metrics_family peer_tls_families[] = METRICS_FAMILIES(peer_tls_metrics, PEER_TLS_METRICS);
static const struct metrics_family coordinator_families[] = METRICS_FAMILIES(coordinator_metrics, COORDINATOR_METRICS);
static const struct metrics_family refusal_families[] = METRICS_FAMILIES(refusal_metrics, REFUSAL_METRICS);

void node_metrics_refused(struct node_metrics_all *m, int status)
{
    enum node_refusal reason = NODE_REFUSED_OTHER;

    switch (status) {
    case OTR_NOTPRIMARY:
    case OTR_FENCED:
        reason = NODE_REFUSED_NOT_PRIMARY;
        break;
    case OTR_UNAVAIL:
        reason = NODE_REFUSED_UNAVAILABLE;
        break;
    case OTR_FEW:
        reason = NODE_REFUSED_FEW_IN_SYNC;
        break;
    case OTR_BUSY:
        reason = NODE_REFUSED_BUSY;
        break;
    case OTR_NOSPACE:
        reason = NODE_REFUSED_NO_SPACE;
        break;
    case OTR_NOTFOUND:
        reason = NODE_REFUSED_NOT_FOUND;
        break;
    case OTR_INVALID:
        reason = NODE_REFUSED_INVALID;
        break;
    case OTR_UNKNOWN:
        reason = NODE_REFUSED_UNKNOWN;
        break;
    default:
        break;
    }
    m->refused[reason].writes_refused_total++;
}

/* --- what is read when asked -------------------------------------------------------------------------------------- */

static void read_node(struct node *n)
{
    struct node_metrics *m = &n->metrics.node;
    struct otr_errmsg why;
    struct journal_stats journal;

    journal_stats(n->journal, &journal);
    m->ready = node_ready(n, &why);
    m->engine_up = n->engine_status.up;
    m->coordinator_reachable = n->coordinator->reachable;
    m->coordinator_session_open = n->coordinator->session_open;
    m->disk_full = n->disk_full;
    m->disk_free_bytes = n->disk_free_bytes;
    m->compression_enabled = topology_config(n->topology)->compression != TOPOLOGY_COMPRESSION_NONE;
    m->compress_cpu_seconds_total = n->compression.cpu_ns / 1000000;
    m->decompress_cpu_seconds_total = n->compression.restore_cpu_ns / 1000000;
    m->loop_busy_ratio = n->compression.loop_busy_permille;
    m->journal_pending_bytes = journal.pending_bytes;
    m->held_write_bytes = n->held_bytes;
    m->peer_incoming_bytes = peer_hub_incoming(n->hub);
    m->journal_tail_bytes = journal.tail_bytes;
    m->journal_segments = journal.segments;
    m->journal_bytes = journal.bytes;
    compaction_metrics(n);
}

static void read_shard(struct shard *s, uint64_t now_ms, const struct replica_status *status)
{
    struct shard_metrics *m = &s->metrics;
    struct journal_shard_state log = {0};

    (void)journal_shard(s->node->journal, s->id, &log); /* unknown: nothing was written yet */
    m->role = (uint64_t)status->role;
    m->primary = status->role == REPLICA_PRIMARY;
    m->damaged = s->damaged;
    m->reseeding = status->seeding;
    m->in_sync = status->in_sync;
    m->writable = status->writable;
    m->epoch = status->epoch;
    m->in_sync_replicas = status->descriptor != NULL ? status->descriptor->in_sync_count : 0;
    m->min_in_sync_replicas = status->descriptor != NULL ? status->descriptor->min_in_sync : 0;
    m->first_index = log.base.index + 1;
    m->last_index = status->last.index;
    m->durable_index = status->durable_index;
    m->committed_index = status->committed_index;
    m->stored_index = s->stored;
    m->applied_index = feeder_applied(s->feeder);
    m->uncommitted_entries = m->last_index > m->committed_index ? m->last_index - m->committed_index : 0;
    m->engine_lag_entries = m->stored_index > m->applied_index ? m->stored_index - m->applied_index : 0;
    m->engine_lag_seconds = feeder_behind_ms(s->feeder, now_ms);
    m->staleness_seconds = now_ms > status->fresh_ms ? now_ms - status->fresh_ms : 0;
    m->points = store_count_all(s->store);
}

static void read_peer(struct node *n, struct node_peer *p)
{
    uint64_t sent_bytes;
    uint64_t blocked_ns;

    peer_link_pace(p->link, &sent_bytes, &blocked_ns);
    p->metrics.up = p->up;
    p->metrics.compressing = compression_on(n, p);
    p->metrics.compress_ratio = (uint64_t)(p->gate.ratio * 1000);
    p->metrics.blocked_seconds = blocked_ns / 1000000;
    peer_link_calls(p->link, &p->metrics.calls, &p->metrics.calls_queued_bytes);
    p->metrics.queued_bytes =
        peer_link_queued(p->link, PEER_LANE_REPLICATE) + peer_link_queued(p->link, PEER_LANE_BEACON);
}

/* --- printing ----------------------------------------------------------------------------------------------------- */

static void print_info(struct node *n, const struct metrics_out *out)
{
    static const struct metrics_family family = {"node_info", METRICS_GAUGE, "Which node this is; always 1", 0};
    static const uint64_t one = 1;
    struct metrics_object object = {.values = &one};

    metrics_label(&object.labels, "cluster", n->cluster);
    metrics_label(&object.labels, "node", n->name);
    metrics_print(out, "outrigger_", &family, 1, &object, 1);
}

static void print_node(struct node *n, const struct metrics_out *out)
{
    struct metrics_object object = {.values = &n->metrics.node};

    read_node(n);
    metrics_print(out, "outrigger_", node_families, COUNT(node_families), &object, 1);
}

static void print_refused(struct node *n, const struct metrics_out *out)
{
    static const char *const names[NODE_REFUSALS] = {"not_primary", "unavailable", "few_in_sync", "busy", "no_space",
                                                     "not_found",   "invalid",     "unknown",     "other"};
    struct metrics_object objects[NODE_REFUSALS] = {0};

    for (size_t i = 0; i < NODE_REFUSALS; i++) {
        metrics_label(&objects[i].labels, "reason", names[i]);
        objects[i].values = &n->metrics.refused[i];
    }
    metrics_print(out, "outrigger_", refusal_families, COUNT(refusal_families), objects, NODE_REFUSALS);
}

static void print_coordinator(struct node *n, const struct metrics_out *out)
{
    static const char *const names[NODE_CALLS] = {"get", "txn", "session", "service"};
    struct metrics_object objects[NODE_CALLS] = {0};

    for (size_t i = 0; i < NODE_CALLS; i++) {
        metrics_label(&objects[i].labels, "call", names[i]);
        objects[i].values = &n->metrics.coordinator[i];
    }
    metrics_print(out, "outrigger_coordinator_", coordinator_families, COUNT(coordinator_families), objects,
                  NODE_CALLS);
}

static int print_peers(struct node *n, const struct metrics_out *out)
{
    otr_node nodes = topology_nodes_count(n->topology);
    struct metrics_object *objects = calloc((size_t)nodes + 1, sizeof *objects);
    size_t count = 0;

    if (objects == NULL) {
        return OTR_NOMEM;
    }
    for (otr_node node = 1; node <= nodes; node++) {
        struct node_peer *p = &n->peers[node];

        if (p->link != NULL) {
            read_peer(n, p);
            metrics_label(&objects[count].labels, "peer", topology_name(n->topology, node));
            objects[count++].values = &p->metrics;
        }
    }
    metrics_print(out, "outrigger_peer_", peer_families, COUNT(peer_families), objects, count);
    free(objects);
    return 0;
}

static void print_peer_tls(struct node *n, const struct metrics_out *out)
{
    struct peer_tls_metrics m;
    const struct metrics_object object = {.values = &m};
    struct tls_stats stats;

    if (!peer_hub_tls_stats(n->hub, &stats)) {
        return;
    }
    m.handshakes_total = stats.handshakes;
    m.handshakes_failed_total = stats.handshakes_failed;
    m.reloads_total = stats.reloads;
    m.reloads_failed_total = stats.reloads_failed;
    m.certificate_expires_seconds = stats.expires_s;
    metrics_print(out, "outrigger_peer_tls_", peer_tls_families, COUNT(peer_tls_families), &object, 1);
}

struct shards_printed {
    struct metrics_object *shards;
    size_t shards_count;
    struct metrics_object *replicas;
    struct replica_metrics *values; /* of the replicas */
    size_t replicas_count;
};

/* The primary's view of the others. */
static void add_replicas(struct shards_printed *p, const struct shard *s, uint64_t now_ms,
                         const struct replica_status *status)
{
    for (uint32_t i = 0; i < status->peers_count && status->role == REPLICA_PRIMARY; i++) {
        struct metrics_object *object = &p->replicas[p->replicas_count];
        struct replica_metrics *m = &p->values[p->replicas_count++];

        m->lag_entries =
            status->last.index > status->peers[i].acked_index ? status->last.index - status->peers[i].acked_index : 0;
        m->lag_seconds = lag_clock_age(&s->lag, now_ms, status->peers[i].acked_index);
        m->counted = status->peers[i].counted;
        m->seeding = status->peers[i].seeding;
        object->values = m;
        metrics_label_number(&object->labels, "shard", s->id);
        metrics_label(&object->labels, "peer", topology_name(s->node->topology, status->peers[i].node));
    }
}

static void add_shards(struct shards_printed *p, struct node *n, uint64_t now_ms)
{
    for (otr_shard i = 0; i < n->shards_top; i++) {
        struct shard *s = node_shard(n, i);
        struct replica_status status;

        if (s == NULL) {
            continue;
        }
        replica_status(s->replica, now_ms, &status);
        read_shard(s, now_ms, &status);
        metrics_label_number(&p->shards[p->shards_count].labels, "shard", s->id);
        p->shards[p->shards_count++].values = &s->metrics;
        add_replicas(p, s, now_ms, &status);
    }
}

static int print_shards(struct node *n, const struct metrics_out *out)
{
    size_t max = n->shards_top;
    struct shards_printed p = {
        .shards = calloc(max + 1, sizeof *p.shards),
        .replicas = calloc(max * OTR_REPLICAS_MAX + 1, sizeof *p.replicas),
        .values = calloc(max * OTR_REPLICAS_MAX + 1, sizeof *p.values),
    };
    int rv = OTR_NOMEM;

    if (p.shards != NULL && p.replicas != NULL && p.values != NULL) {
        add_shards(&p, n, clock_now_ms());
        metrics_print(out, "outrigger_shard_", shard_families, COUNT(shard_families), p.shards, p.shards_count);
        metrics_print(out, "outrigger_replica_", replica_families, COUNT(replica_families), p.replicas,
                      p.replicas_count);
        rv = 0;
    }
    free(p.shards);
    free(p.replicas);
    free(p.values);
    return rv;
}

int node_metrics_print(struct node *n, const struct metrics_out *out)
{
    int rv;

    print_info(n, out);
    print_node(n, out);
    print_refused(n, out);
    print_coordinator(n, out);
    print_peer_tls(n, out);
    rv = print_peers(n, out);
    return rv != 0 ? rv : print_shards(n, out);
}
