#include "sidecar/api/json_print.h"
#include "sidecar/api/rest.h"
#include "sidecar/io/process.h"

void rest_healthz(struct rest_request *r)
{
    struct text body;

    text_init(&body, REST_ANSWER_MAX);
    text_puts(&body, "{\"status\":\"healthy\"}\n");
    rest_reply(r, 200, NULL, &body);
}

void rest_readyz(struct rest_request *r)
{
    struct otr_errmsg why = {0};
    struct text body;

    if (!node_ready(r->api->node, &why)) {
        rest_error(r, OTR_UNAVAIL, why.text);
        return;
    }
    text_init(&body, REST_ANSWER_MAX);
    text_puts(&body, "{\"status\":\"ready\"}\n");
    rest_reply(r, 200, NULL, &body);
}

/* --- GET /cluster ------------------------------------------------------------------------------------------------- */

static void print_text(struct text *t, const char *string)
{
    json_print_string(t, string, strlen(string));
}

static void print_node(struct text *t, const struct topology *topology, otr_node node)
{
    if (node == OTR_NODE_NONE) {
        text_puts(t, "null");
    } else {
        print_text(t, topology_name(topology, node));
    }
}

static void print_shard(struct text *t, struct node *n, const struct descriptor *d)
{
    const struct topology *topology = node_topology(n);
    struct replica_status status;
    bool any = false;

    text_printf(t, "{\"id\":%u,\"range\":[%u,%u],\"epoch\":%llu,\"version\":%llu,\"primary\":", d->shard, d->hash_first,
                d->hash_last, (unsigned long long)d->epoch, (unsigned long long)d->version);
    print_node(t, topology, d->primary);
    text_puts(t, ",\"in_sync\":[");
    for (uint32_t i = 0; i < d->in_sync_count; i++) {
        text_puts(t, i != 0 ? "," : "");
        print_node(t, topology, d->in_sync[i].node);
    }
    text_puts(t, "],\"replicas\":[");
    for (uint32_t i = 0; i < d->replicas_count; i++) {
        text_puts(t, i != 0 ? "," : "");
        print_node(t, topology, d->replicas[i]);
    }
    text_puts(t, "],\"learners\":[");
    for (uint32_t i = 0; i < d->replicas_count; i++) {
        if (descriptor_in_sync(d, d->replicas[i]) < 0) {
            text_puts(t, any ? "," : "");
            print_node(t, topology, d->replicas[i]);
            any = true;
        }
    }
    text_printf(t, "],\"min_in_sync\":%u,\"index\":", d->min_in_sync);
    if (node_shard_status(n, d->shard, &status)) {
        text_printf(t, "%llu}", (unsigned long long)status.committed_index);
    } else {
        text_puts(t, "null}");
    }
}

static void print_shards(struct text *t, struct node *n)
{
    struct topology *topology = node_topology(n);
    bool any = false;

    text_puts(t, "\"shards\":[");
    for (otr_shard shard = 0; shard < topology_shards_count(topology); shard++) {
        const struct topology_shard *known = topology_shard(topology, shard);

        if (known != NULL && known->known) {
            text_puts(t, any ? "," : "");
            print_shard(t, n, &known->descriptor);
            any = true;
        }
    }
    text_puts(t, "]");
}

static void count_shards(struct topology *t, otr_node node, unsigned *shards, unsigned *primaries)
{
    *shards = 0;
    *primaries = 0;
    for (otr_shard shard = 0; shard < topology_shards_count(t); shard++) {
        const struct topology_shard *known = topology_shard(t, shard);

        if (known != NULL && known->known) {
            *shards += descriptor_has_replica(&known->descriptor, node);
            *primaries += known->descriptor.primary == node;
        }
    }
}

static void print_address(struct text *t, const struct topology_address *a)
{
    char text[TOPOLOGY_HOST_MAX + 24];

    if (a->port == 0) {
        text_puts(t, "null");
        return;
    }
    snprintf(text, sizeof text, strchr(a->host, ':') != NULL ? "%s[%s]:%u" : "%s%s:%u", a->tls ? "https://" : "",
             a->host, a->port);
    print_text(t, text);
}

static void print_nodes(struct text *t, struct node *n)
{
    struct topology *topology = node_topology(n);
    bool any = false;

    text_puts(t, "\"nodes\":[");
    for (otr_node node = 1; node <= topology_nodes_count(topology); node++) {
        const struct topology_node *known = topology_node(topology, node);
        unsigned shards;
        unsigned primaries;

        if (known == NULL || (!known->registered && !known->live)) {
            continue;
        }
        count_shards(topology, node, &shards, &primaries);
        text_puts(t, any ? ",{\"id\":" : "{\"id\":");
        print_text(t, known->name);
        text_printf(t, ",\"state\":\"%s\",\"live\":%s,\"client\":", known->draining ? "draining" : "active",
                    known->live ? "true" : "false");
        print_address(t, &known->client);
        text_puts(t, ",\"peer\":");
        print_address(t, &known->peer);
        text_printf(t, ",\"shards\":%u,\"primaries\":%u}", shards, primaries);
        any = true;
    }
    text_puts(t, "]");
}

static void print_collections(struct text *t, struct node *n)
{
    struct topology *topology = node_topology(n);

    text_puts(t, "\"collections\":[");
    for (uint32_t i = 0; i < topology_collections_count(topology); i++) {
        text_puts(t, i != 0 ? "," : "");
        print_text(t, topology_collection_at(topology, i)->name);
    }
    text_puts(t, "]");
}

static const char *const roles[] = {[REPLICA_IDLE] = "idle",
                                    [REPLICA_FOLLOWER] = "follower",
                                    [REPLICA_CANDIDATE] = "candidate",
                                    [REPLICA_TAKEOVER] = "takeover",
                                    [REPLICA_PRIMARY] = "primary"};

static void print_self(struct text *t, struct node *n)
{
    bool any = false;

    /* An incarnation needs all 64 bits, which a JSON number does not give every reader. */
    text_printf(t, "\"self\":{\"incarnation\":\"%016llx\",\"shards\":[", (unsigned long long)node_incarnation(n));
    for (otr_shard shard = 0; shard < topology_shards_count(node_topology(n)); shard++) {
        struct replica_status s;

        if (!node_shard_status(n, shard, &s)) {
            continue;
        }
        text_printf(t,
                    "%s{\"id\":%u,\"role\":\"%s\",\"epoch\":%llu,\"last\":%llu,\"durable\":%llu,\"committed\":%llu,"
                    "\"applied\":%llu,\"in_sync\":%s,\"last_epoch\":%llu,\"eligible\":%s,\"known\":%llu,\"kept\":%llu,"
                    "\"damaged\":%s}",
                    any ? "," : "", shard, roles[s.role], (unsigned long long)s.epoch, (unsigned long long)s.last.index,
                    (unsigned long long)s.durable_index, (unsigned long long)s.committed_index,
                    (unsigned long long)node_shard_applied(n, shard), s.in_sync ? "true" : "false",
                    (unsigned long long)s.last.epoch, s.eligible ? "true" : "false", (unsigned long long)s.known_index,
                    (unsigned long long)s.kept_index, node_shard_damaged(n, shard) ? "true" : "false");
        any = true;
    }
    text_puts(t, "]}");
}

void rest_cluster(struct rest_request *r)
{
    struct node *n = r->api->node;
    struct text body;

    text_init(&body, REST_ANSWER_MAX);
    text_puts(&body, "{\"cluster\":");
    print_text(&body, node_cluster(n));
    text_puts(&body, ",\"node\":");
    print_text(&body, node_name(n));
    text_puts(&body, ",");
    print_shards(&body, n);
    text_puts(&body, ",");
    print_nodes(&body, n);
    text_puts(&body, ",");
    print_collections(&body, n);
    text_puts(&body, ",");
    print_self(&body, n);
    text_puts(&body, "}\n");
    rest_reply(r, 200, NULL, &body);
}

/* --- GET /cluster/stats ------------------------------------------------------------------------------------------- */

static void print_shard_stats(struct text *t, struct node *n, bool first, const struct replica_status *s,
                              otr_shard shard)
{
    uint64_t applied = node_shard_applied(n, shard);
    uint64_t stored = 0;
    uint64_t points = 0;

    (void)node_shard_stored(n, shard, &stored, &points);
    text_printf(t,
                "%s{\"id\":%u,\"role\":\"%s\",\"in_sync\":%s,\"epoch\":%llu,\"last\":%llu,\"committed\":%llu,"
                "\"engine_lag\":%llu,\"points\":%llu}",
                first ? "" : ",", shard, roles[s->role], s->in_sync ? "true" : "false", (unsigned long long)s->epoch,
                (unsigned long long)s->last.index, (unsigned long long)s->committed_index,
                (unsigned long long)(stored > applied ? stored - applied : 0), (unsigned long long)points);
}

/* This node as `outrigger cluster list-nodes --with-stats` shows it. */
void rest_stats(struct rest_request *r)
{
    struct node *n = r->api->node;
    struct otr_errmsg not_ready = {0};
    struct process_metrics process;
    struct node_stats stats;
    struct text body;
    bool first = true;

    process_metrics_read(&process);
    node_stats(n, &stats);
    text_init(&body, REST_ANSWER_MAX);
    text_puts(&body, "{\"node\":");
    print_text(&body, node_name(n));
    (void)node_ready(n, &not_ready);
    text_puts(&body, ",\"not_ready\":"); /* "": ready */
    print_text(&body, not_ready.text);
    text_puts(&body, ",\"coordinator_why\":");
    print_text(&body, stats.coordinator_why);
    text_printf(&body,
                ",\"version\":\"%s\",\"uptime_s\":%.1f,\"stopping\":%s,\"engine\":\"%s\",\"coordinator\":\"%s\","
                "\"disk_full\":%s,\"damaged_shards\":%u,\"journal_bytes\":%llu,\"memory_bytes\":%llu,\"shards\":[",
                OTR_VERSION, (double)stats.uptime_ms / 1000, stats.leaving ? "true" : "false",
                stats.engine_up ? "up" : "down", stats.coordinator_reachable ? "reachable" : "unreachable",
                stats.disk_full ? "true" : "false", stats.damaged_shards, (unsigned long long)stats.journal_bytes,
                (unsigned long long)process.resident_memory_bytes);
    for (otr_shard shard = 0; shard < topology_shards_count(node_topology(n)); shard++) {
        struct replica_status s;

        if (node_shard_status(n, shard, &s)) {
            print_shard_stats(&body, n, first, &s, shard);
            first = false;
        }
    }
    text_puts(&body, "]}\n");
    rest_reply(r, 200, NULL, &body);
}
