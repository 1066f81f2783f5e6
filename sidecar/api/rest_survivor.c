/* GET /cluster/survivor: what this node knows of the coordinator's keys, and of its own replicas, for
 * `outrigger cluster bootstrap --from-survivors`. Values are texts, as they stand in the coordinator:
 *
 *   {"node", "cluster", "incarnation": H, "config": text, "nodes": {name: text}, "collections": {name: text},
 *    "shards": [text of a descriptor], "replicas": [{"shard", "leads", "promised": D, "log": H, "seen": [D, D, D],
 *    "last": [D, D]}]}          D: decimal strings, H: 16 hex digits */
#include "sidecar/api/json_print.h"
#include "sidecar/api/rest.h"
#include "sidecar/coord/values.h"

#include <stdlib.h>

/* Frees `value`. False: there was no memory for it. */
static bool put_value(struct text *t, char *value)
{
    if (value == NULL) {
        return false;
    }
    json_print_string(t, value, strlen(value));
    free(value);
    return true;
}

static bool put_named(struct text *t, const char *name, bool *any, char *value)
{
    text_puts(t, *any ? "," : "");
    json_print_string(t, name, strlen(name));
    text_puts(t, ":");
    *any = true;
    return put_value(t, value);
}

static bool put_nodes(struct text *t, struct topology *topology)
{
    bool any = false;
    bool ok = true;

    text_puts(t, ",\"nodes\":{");
    for (otr_node i = 1; ok && i <= topology_nodes_count(topology); i++) {
        const struct topology_node *n = topology_node(topology, i);

        if (n != NULL && n->registered) {
            ok = put_named(t, n->name, &any, value_node_print(n));
        }
    }
    any = false;
    text_puts(t, "},\"collections\":{");
    for (uint32_t i = 0; ok && i < topology_collections_count(topology); i++) {
        const struct topology_collection *c = topology_collection_at(topology, i);

        ok = put_named(t, c->name, &any, value_collection_print(c));
    }
    text_puts(t, "}");
    return ok;
}

static bool put_shards(struct text *t, struct node *n)
{
    struct topology *topology = node_topology(n);
    bool any = false;
    bool ok = true;

    text_puts(t, ",\"shards\":[");
    for (otr_shard i = 0; ok && i < topology_shards_count(topology); i++) {
        const struct topology_shard *known = topology_shard(topology, i);
        struct replica_status status;
        const struct descriptor *d = known != NULL && known->known ? &known->descriptor : NULL;

        /* Our own replica may have been told of a newer one by its own transaction. */
        if (node_shard_status(n, i, &status) && status.descriptor != NULL &&
            (d == NULL || descriptor_compare(status.descriptor, d) > 0)) {
            d = status.descriptor;
        }
        if (d != NULL) {
            text_puts(t, any ? "," : "");
            any = true;
            ok = put_value(t, value_descriptor_print(topology, d));
        }
    }
    text_puts(t, "]");
    return ok;
}

static void put_replicas(struct text *t, struct node *n)
{
    bool any = false;

    text_puts(t, ",\"replicas\":[");
    for (otr_shard i = 0; i < OTR_SHARDS_MAX; i++) {
        struct node_survivor s;

        if (!node_survivor(n, i, &s)) {
            continue;
        }
        text_printf(
            t,
            "%s{\"shard\":%u,\"leads\":%s,\"promised\":\"%llu\",\"log\":\"%016llx\",\"seen\":[\"%llu\",\"%llu\","
            "\"%llu\"],\"last\":[\"%llu\",\"%llu\"]}",
            any ? "," : "", i, s.leads ? "true" : "false", (unsigned long long)s.promised, (unsigned long long)s.log_id,
            (unsigned long long)s.seen_generation, (unsigned long long)s.seen_epoch, (unsigned long long)s.seen_version,
            (unsigned long long)s.last.epoch, (unsigned long long)s.last.index);
        any = true;
    }
    text_puts(t, "]");
}

void rest_survivor(struct rest_request *r)
{
    struct node *n = r->api->node;
    const struct topology_config *config = topology_config(node_topology(n));
    struct text body;
    bool ok = true;

    text_init(&body, REST_ANSWER_MAX);
    text_puts(&body, "{\"node\":");
    json_print_string(&body, node_name(n), strlen(node_name(n)));
    text_puts(&body, ",\"cluster\":");
    json_print_string(&body, node_cluster(n), strlen(node_cluster(n)));
    text_printf(&body, ",\"incarnation\":\"%016llx\",\"config\":", (unsigned long long)node_incarnation(n));
    if (config->known) {
        ok = put_value(&body, value_config_print(config));
    } else {
        text_puts(&body, "null");
    }
    ok = ok && put_nodes(&body, node_topology(n)) && put_shards(&body, n);
    put_replicas(&body, n);
    text_puts(&body, "}\n");
    if (!ok) {
        text_close(&body);
        rest_error(r, OTR_NOMEM, otr_strerror(OTR_NOMEM));
        return;
    }
    rest_reply(r, 200, NULL, &body);
}
