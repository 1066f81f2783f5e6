/* The values, one line each here (DESIGN 3.2). H is a string of 16 hex digits (random 64 bits), D a decimal string (64
 * bits that count), the rest JSON numbers, all whole.
 *
 *   config       {"shards", "replication_factor", "min_in_sync", "generation": D, and as far as they are not the
 *                defaults: "beacon_ms", "grant_ms", "replica_timeout_ms", "suspect_timeout_ms", "session_ttl_ms",
 *                "read_lag_ms", "apply_wait_ms", "request_timeout_ms", "mode": "async", "max_lag_entries",
 * "max_lag_ms", "compression": "zstd"; an algorithm that is not known here means none, so that a later version may add
 * one} nodes/N      {"zone", "state": "active" | "draining"}; parsing sets registered live/N       {"client": {"host",
 * "port", "tls": true if so}, "peer": the same, "incarnation": H, "session", "version"}; parsing sets live shards/S
 * {"id", "range": [first, last], "generation": D, "version": D, "epoch": D, "primary": null | {"node", "incarnation":
 * H}, "in_sync": [{"node", "log": H}], "replicas": [node], "learners": [node], "state": "active", "position": {"epoch":
 * D, "index": D}, "mode": "sync" | "async", "min_in_sync", "grant_ms", "lossy": [{"epoch": D, "index": D, "last_epoch":
 * D}] if epochs began without acknowledged entries}; learners are the replicas not in sync, there for people to read
 * leases/S
 * {"node", "incarnation": H, "epoch": D}; parsing sets present, and leaves revision and session collections/C {"id": H,
 * "dimension", "metric": RuVector's name, "partition": "xxh3", "options": {...} if any}; parsing leaves name and
 * revision
 *
 * "state" of a shard and "partition" have one value so far. A program that meets another one must not go on as if it
 * understood: the value is refused. */
#include "sidecar/coord/values.h"

#include "sidecar/coord/fields.h"
#include "sidecar/core/score.h"

#include <stddef.h>

enum { DAY_MS = 24 * 60 * 60 * 1000 };

/* --- config ------------------------------------------------------------------------------------------------------- */

static const struct {
    const char *name;
    size_t offset;
} timings[] = {
    {"beacon_ms", offsetof(struct topology_config, beacon_ms)},
    {"grant_ms", offsetof(struct topology_config, grant_ms)},
    {"replica_timeout_ms", offsetof(struct topology_config, replica_timeout_ms)},
    {"suspect_timeout_ms", offsetof(struct topology_config, suspect_timeout_ms)},
    {"session_ttl_ms", offsetof(struct topology_config, session_ttl_ms)},
    {"read_lag_ms", offsetof(struct topology_config, read_lag_ms)},
    {"apply_wait_ms", offsetof(struct topology_config, apply_wait_ms)},
    {"request_timeout_ms", offsetof(struct topology_config, request_timeout_ms)},
    {"max_lag_ms", offsetof(struct topology_config, max_lag_ms)},
};
enum { TIMINGS_COUNT = sizeof timings / sizeof timings[0] };

static uint32_t timing_get(const struct topology_config *c, size_t number)
{
    uint32_t v;

    memcpy(&v, (const char *)c + timings[number].offset, sizeof v);
    return v;
}

static const char *const compressions[] = {[TOPOLOGY_COMPRESSION_NONE] = "none", [TOPOLOGY_COMPRESSION_ZSTD] = "zstd"};

const char *value_compression_name(enum topology_compression compression)
{
    return compressions[compression];
}

bool value_compression_find(const char *name, enum topology_compression *out)
{
    for (size_t i = 0; i < sizeof compressions / sizeof compressions[0]; i++) {
        if (strcmp(name, compressions[i]) == 0) {
            *out = (enum topology_compression)i;
            return true;
        }
    }
    return false;
}

const char *value_mode_name(enum replica_mode mode)
{
    return mode == REPLICA_ASYNC ? "async" : "sync";
}

bool value_mode_find(const char *name, enum replica_mode *out)
{
    *out = strcmp(name, "async") == 0 ? REPLICA_ASYNC : REPLICA_SYNC;
    return *out == REPLICA_ASYNC || strcmp(name, "sync") == 0;
}

static bool add_mode(cJSON *json, const struct topology_config *c, const struct topology_config *defaults)
{
    return (c->mode != REPLICA_ASYNC || field_add_text(json, "mode", value_mode_name(c->mode))) &&
           (c->max_lag_entries == defaults->max_lag_entries ||
            field_add_number(json, "max_lag_entries", c->max_lag_entries));
}

static int parse_mode(const cJSON *json, struct topology_config *v, struct otr_errmsg *msg)
{
    char mode[8] = "";
    int rv = field_get_text(json, "mode", true, mode, sizeof mode, msg);

    if (rv == 0 && mode[0] != '\0' && !value_mode_find(mode, &v->mode)) {
        rv = field_refuse(msg, "mode", "is neither \"sync\" nor \"async\"");
    }
    if (rv == 0 && field_find(json, "max_lag_entries") != NULL) {
        rv = field_get_number(json, "max_lag_entries", 1, UINT32_MAX, &v->max_lag_entries, msg);
    }
    return rv;
}

char *value_config_with_mode(const char *text, const struct topology_config *wanted, struct otr_errmsg *msg)
{
    struct topology_config defaults;
    cJSON *json = field_object(text, msg);
    bool ok;

    if (json == NULL) {
        return NULL;
    }
    topology_config_defaults(&defaults);
    cJSON_DeleteItemFromObjectCaseSensitive(json, "mode");
    cJSON_DeleteItemFromObjectCaseSensitive(json, "max_lag_entries");
    cJSON_DeleteItemFromObjectCaseSensitive(json, "max_lag_ms");
    ok = add_mode(json, wanted, &defaults) &&
         (wanted->max_lag_ms == defaults.max_lag_ms || field_add_number(json, "max_lag_ms", wanted->max_lag_ms));
    return field_finish(json, ok);
}

char *value_config_with_compression(const char *text, enum topology_compression compression, struct otr_errmsg *msg)
{
    cJSON *json = field_object(text, msg);
    bool ok = json != NULL;

    if (json == NULL) {
        return NULL;
    }
    cJSON_DeleteItemFromObjectCaseSensitive(json, "compression");
    if (compression != TOPOLOGY_COMPRESSION_NONE) {
        ok = field_add_text(json, "compression", compressions[compression]);
    }
    return field_finish(json, ok);
}

char *value_config_print(const struct topology_config *c)
{
    struct topology_config defaults;
    cJSON *json = cJSON_CreateObject();
    bool ok = field_add_number(json, "shards", c->shards_count);

    topology_config_defaults(&defaults);
    ok = ok && field_add_number(json, "replication_factor", c->replication_factor);
    ok = ok && field_add_number(json, "min_in_sync", c->min_in_sync);
    ok = ok && field_add_decimal(json, "generation", c->generation);
    for (size_t i = 0; i < TIMINGS_COUNT; i++) {
        if (timing_get(c, i) != timing_get(&defaults, i)) {
            ok = ok && field_add_number(json, timings[i].name, timing_get(c, i));
        }
    }
    ok = ok && add_mode(json, c, &defaults);
    if (c->compression != TOPOLOGY_COMPRESSION_NONE) {
        ok = ok && field_add_text(json, "compression", compressions[c->compression]);
    }
    return field_finish(json, ok);
}

int value_config_parse(const char *text, struct topology_config *c, struct otr_errmsg *msg)
{
    struct topology_config v;
    char compression[32] = "";
    cJSON *json = field_object(text, msg);
    int rv = json != NULL ? 0 : OTR_PROTO;

    topology_config_defaults(&v);
    rv = rv != 0 ? rv : field_get_number(json, "shards", 1, OTR_SHARDS_MAX, &v.shards_count, msg);
    rv = rv != 0 ? rv : field_get_number(json, "replication_factor", 1, OTR_REPLICAS_MAX, &v.replication_factor, msg);
    rv = rv != 0 ? rv : field_get_number(json, "min_in_sync", 1, v.replication_factor, &v.min_in_sync, msg);
    rv = rv != 0 ? rv : field_get_decimal(json, "generation", &v.generation, msg);
    for (size_t i = 0; rv == 0 && i < TIMINGS_COUNT; i++) {
        uint32_t ms;

        if (field_find(json, timings[i].name) != NULL) {
            rv = field_get_number(json, timings[i].name, 1, DAY_MS, &ms, msg);
            if (rv == 0) {
                memcpy((char *)&v + timings[i].offset, &ms, sizeof ms);
            }
        }
    }
    rv = rv != 0 ? rv : parse_mode(json, &v, msg);
    rv = rv != 0 ? rv : field_get_text(json, "compression", true, compression, sizeof compression, msg);
    if (rv == 0 && !value_compression_find(compression, &v.compression)) {
        v.compression = TOPOLOGY_COMPRESSION_NONE;
    }
    cJSON_Delete(json);
    if (rv == 0) {
        v.known = true;
        *c = v;
    }
    return rv;
}

/* --- nodes and live ----------------------------------------------------------------------------------------------- */

char *value_node_print(const struct topology_node *n)
{
    cJSON *json = cJSON_CreateObject();
    bool ok =
        field_add_text(json, "zone", n->zone) && field_add_text(json, "state", n->draining ? "draining" : "active");

    return field_finish(json, ok);
}

int value_node_parse(const char *text, struct topology_node *n, struct otr_errmsg *msg)
{
    char zone[sizeof n->zone];
    char state[16] = "";
    cJSON *json = field_object(text, msg);
    int rv = json != NULL ? 0 : OTR_PROTO;

    rv = rv != 0 ? rv : field_get_text(json, "zone", true, zone, sizeof zone, msg);
    rv = rv != 0 ? rv : field_get_text(json, "state", false, state, sizeof state, msg);
    if (rv == 0 && strcmp(state, "active") != 0 && strcmp(state, "draining") != 0) {
        rv = field_refuse(msg, "state", "is neither \"active\" nor \"draining\"");
    }
    cJSON_Delete(json);
    if (rv == 0) {
        strcpy(n->zone, zone);
        n->draining = strcmp(state, "draining") == 0;
        n->registered = true;
    }
    return rv;
}

static bool add_address(cJSON *object, const char *name, const struct topology_address *a)
{
    cJSON *json = cJSON_AddObjectToObject(object, name);

    return field_add_text(json, "host", a->host) && field_add_number(json, "port", a->port) &&
           (!a->tls || cJSON_AddTrueToObject(json, "tls") != NULL);
}

static int get_address(const cJSON *object, const char *name, struct topology_address *out, struct otr_errmsg *msg)
{
    const cJSON *json = field_find(object, name);
    uint32_t port = 0;
    int rv;

    if (!cJSON_IsObject(json)) {
        return field_refuse(msg, name, "is missing or not an object");
    }
    rv = field_get_text(json, "host", false, out->host, sizeof out->host, msg);
    if (rv == 0) {
        rv = field_get_number(json, "port", 0, UINT16_MAX, &port, msg);
    }
    if (rv != 0) {
        otr_errmsg_wrap(msg, "field \"%s\"", name);
        return rv;
    }
    out->port = (uint16_t)port;
    out->tls = cJSON_IsTrue(field_find(json, "tls"));
    return 0;
}

char *value_live_print(const struct topology_node *n)
{
    cJSON *json = cJSON_CreateObject();
    bool ok = add_address(json, "client", &n->client) && add_address(json, "peer", &n->peer);

    ok = ok && field_add_hex(json, "incarnation", n->incarnation);
    ok = ok && field_add_text(json, "session", n->session) && field_add_text(json, "version", n->version);
    return field_finish(json, ok);
}

int value_live_parse(const char *text, struct topology_node *n, struct otr_errmsg *msg)
{
    struct topology_node v = {0};
    cJSON *json = field_object(text, msg);
    int rv = json != NULL ? 0 : OTR_PROTO;

    rv = rv != 0 ? rv : get_address(json, "client", &v.client, msg);
    rv = rv != 0 ? rv : get_address(json, "peer", &v.peer, msg);
    rv = rv != 0 ? rv : field_get_hex(json, "incarnation", &v.incarnation, msg);
    rv = rv != 0 ? rv : field_get_text(json, "session", true, v.session, sizeof v.session, msg);
    rv = rv != 0 ? rv : field_get_text(json, "version", true, v.version, sizeof v.version, msg);
    cJSON_Delete(json);
    if (rv == 0) {
        n->client = v.client;
        n->peer = v.peer;
        n->incarnation = v.incarnation;
        strcpy(n->session, v.session);
        strcpy(n->version, v.version);
        n->live = true;
    }
    return rv;
}

/* --- descriptors -------------------------------------------------------------------------------------------------- */

static bool add_primary(cJSON *json, const struct topology *t, const struct descriptor *d)
{
    cJSON *primary;

    if (d->primary == OTR_NODE_NONE) {
        return cJSON_AddNullToObject(json, "primary") != NULL;
    }
    primary = cJSON_AddObjectToObject(json, "primary");
    return field_add_text(primary, "node", topology_name(t, d->primary)) &&
           field_add_hex(primary, "incarnation", d->incarnation);
}

static bool add_members(cJSON *json, const struct topology *t, const struct descriptor *d)
{
    cJSON *in_sync = cJSON_AddArrayToObject(json, "in_sync");
    cJSON *replicas = cJSON_AddArrayToObject(json, "replicas");
    cJSON *learners = cJSON_AddArrayToObject(json, "learners");
    bool ok = in_sync != NULL && replicas != NULL && learners != NULL;

    for (uint32_t i = 0; ok && i < d->in_sync_count; i++) {
        cJSON *member = cJSON_CreateObject();

        ok = field_add_text(member, "node", topology_name(t, d->in_sync[i].node)) &&
             field_add_hex(member, "log", d->in_sync[i].log_id);
        ok = field_append(in_sync, member) && ok;
    }
    for (uint32_t i = 0; ok && i < d->replicas_count; i++) {
        const char *name = topology_name(t, d->replicas[i]);

        ok = field_append(replicas, cJSON_CreateString(name));
        ok = ok && (descriptor_in_sync(d, d->replicas[i]) >= 0 || field_append(learners, cJSON_CreateString(name)));
    }
    return ok;
}

char *value_descriptor_print(const struct topology *t, const struct descriptor *d)
{
    cJSON *json = cJSON_CreateObject();
    cJSON *range;
    cJSON *position;
    bool ok = field_add_number(json, "id", d->shard);

    range = cJSON_AddArrayToObject(json, "range");
    ok = ok && field_append(range, cJSON_CreateNumber(d->hash_first)) &&
         field_append(range, cJSON_CreateNumber(d->hash_last));
    ok = ok && field_add_decimal(json, "generation", d->generation) && field_add_decimal(json, "version", d->version);
    ok = ok && field_add_decimal(json, "epoch", d->epoch) && add_primary(json, t, d) && add_members(json, t, d);
    ok = ok && field_add_text(json, "state", "active");
    position = cJSON_AddObjectToObject(json, "position");
    ok = ok && field_add_decimal(position, "epoch", d->position.epoch) &&
         field_add_decimal(position, "index", d->position.index);
    ok = ok && field_add_text(json, "mode", d->mode == REPLICA_ASYNC ? "async" : "sync");
    ok = ok && field_add_number(json, "min_in_sync", d->min_in_sync) && field_add_number(json, "grant_ms", d->grant_ms);
    if (d->lossy_count > 0) {
        cJSON *lossy = cJSON_AddArrayToObject(json, "lossy");

        for (uint32_t i = 0; ok && i < d->lossy_count; i++) {
            cJSON *item = cJSON_CreateObject();

            ok = field_add_decimal(item, "epoch", d->lossy[i].epoch) &&
                 field_add_decimal(item, "index", d->lossy[i].ended.index) &&
                 field_add_decimal(item, "last_epoch", d->lossy[i].ended.epoch);
            ok = field_append(lossy, item) && ok;
        }
    }
    return field_finish(json, ok);
}

/* The names in a descriptor, before they become numbers: those of a value that is refused must not use any up. */
struct names {
    const char *primary;
    const char *in_sync[OTR_REPLICAS_MAX];
    const char *replicas[OTR_REPLICAS_MAX];
};

static int find(const char *const *names, uint32_t count, const char *name)
{
    for (uint32_t i = 0; i < count; i++) {
        if (strcmp(names[i], name) == 0) {
            return (int)i;
        }
    }
    return -1;
}

static int parse_replicas(const cJSON *json, struct names *names, struct descriptor *d, struct otr_errmsg *msg)
{
    const cJSON *list = NULL;
    const cJSON *item;
    uint32_t count = 0;
    int rv;

    rv = field_get_array(json, "replicas", OTR_REPLICAS_MAX, &list, &count, msg);
    if (rv != 0) {
        return rv;
    }
    cJSON_ArrayForEach(item, list)
    {
        const char **name = &names->replicas[d->replicas_count];

        rv = field_get_name(item, "replicas", name, msg);
        if (rv == 0 && find(names->replicas, d->replicas_count, *name) >= 0) {
            rv = field_refuse(msg, "replicas", "names a node twice");
        }
        if (rv != 0) {
            return rv;
        }
        d->replicas_count++;
    }
    return count > 0 ? 0 : field_refuse(msg, "replicas", "is empty");
}

static int parse_in_sync(const cJSON *json, struct names *names, struct descriptor *d, struct otr_errmsg *msg)
{
    const cJSON *list = NULL;
    const cJSON *item;
    uint32_t count = 0;
    int rv;

    rv = field_get_array(json, "in_sync", OTR_REPLICAS_MAX, &list, &count, msg);
    if (rv != 0) {
        return rv;
    }
    cJSON_ArrayForEach(item, list)
    {
        const char **name = &names->in_sync[d->in_sync_count];

        rv = field_get_name(field_find(item, "node"), "in_sync.node", name, msg);
        rv = rv != 0 ? rv : field_get_hex(item, "log", &d->in_sync[d->in_sync_count].log_id, msg);
        if (rv == 0 && find(names->in_sync, d->in_sync_count, *name) >= 0) {
            rv = field_refuse(msg, "in_sync", "names a node twice");
        }
        if (rv == 0 && find(names->replicas, d->replicas_count, *name) < 0) {
            rv = field_refuse(msg, "in_sync", "names a node that is not in \"replicas\"");
        }
        if (rv != 0) {
            return rv;
        }
        d->in_sync_count++;
    }
    return 0;
}

/* Epoch 0 has neither primary nor in-sync set (replica.h); later ones have a primary that is in it (PROTOCOL V5). */
static int parse_primary(const cJSON *json, struct names *names, struct descriptor *d, struct otr_errmsg *msg)
{
    const cJSON *primary = field_find(json, "primary");
    int rv;

    if (d->epoch == 0) {
        return cJSON_IsNull(primary) && d->in_sync_count == 0
                   ? 0
                   : field_refuse(msg, "primary", "or \"in_sync\" is set, but the epoch is 0");
    }
    if (!cJSON_IsObject(primary)) {
        return field_refuse(msg, "primary", "is missing or not an object");
    }
    rv = field_get_name(field_find(primary, "node"), "primary.node", &names->primary, msg);
    rv = rv != 0 ? rv : field_get_hex(primary, "incarnation", &d->incarnation, msg);
    if (rv == 0 && find(names->in_sync, d->in_sync_count, names->primary) < 0) {
        rv = field_refuse(msg, "primary", "names a node that is not in \"in_sync\"");
    }
    return rv;
}

static int parse_range(const cJSON *json, struct descriptor *d, struct otr_errmsg *msg)
{
    const cJSON *range = NULL;
    uint32_t count = 0;
    double first;
    double last;
    int rv;

    rv = field_get_array(json, "range", 2, &range, &count, msg);
    if (rv != 0) {
        return rv;
    }
    if (count != 2 || !cJSON_IsNumber(range->child) || !cJSON_IsNumber(range->child->next)) {
        return field_refuse(msg, "range", "is not a pair of numbers");
    }
    first = range->child->valuedouble;
    last = range->child->next->valuedouble;
    if (!(first >= 0 && first <= last && last <= UINT32_MAX) || first != (double)(uint32_t)first ||
        last != (double)(uint32_t)last) {
        return field_refuse(msg, "range", "is not a range of 32-bit hashes");
    }
    d->hash_first = (uint32_t)first;
    d->hash_last = (uint32_t)last;
    return 0;
}

static int parse_lossy(const cJSON *json, struct descriptor *d, struct otr_errmsg *msg)
{
    const cJSON *list = NULL;
    const cJSON *item;
    uint32_t count = 0;
    uint64_t before = 0;
    int rv;

    if (field_find(json, "lossy") == NULL) {
        return 0;
    }
    rv = field_get_array(json, "lossy", DESCRIPTOR_LOSSY_MAX, &list, &count, msg);
    if (rv != 0) {
        return rv;
    }
    cJSON_ArrayForEach(item, list)
    {
        struct descriptor_lossy *p = &d->lossy[d->lossy_count];

        rv = field_get_decimal(item, "epoch", &p->epoch, msg);
        rv = rv != 0 ? rv : field_get_decimal(item, "index", &p->ended.index, msg);
        rv = rv != 0 ? rv : field_get_decimal(item, "last_epoch", &p->ended.epoch, msg);
        if (rv == 0 && (p->epoch <= before || p->epoch > d->epoch || p->ended.epoch >= p->epoch)) {
            rv = field_refuse(msg, "lossy", "names epochs out of order, or to come");
        }
        if (rv != 0) {
            return rv;
        }
        before = p->epoch;
        d->lossy_count++;
    }
    return 0;
}

static int parse_settings(const cJSON *json, struct descriptor *d, struct otr_errmsg *msg)
{
    const cJSON *position = field_find(json, "position");
    char mode[8] = "";
    char state[32] = "";
    int rv;

    rv = field_get_text(json, "state", true, state, sizeof state, msg);
    if (rv == 0 && state[0] != '\0' && strcmp(state, "active") != 0) {
        rv = field_refuse(msg, "state", "is none that this version knows");
    }
    rv = rv != 0 ? rv : field_get_text(json, "mode", false, mode, sizeof mode, msg);
    if (rv == 0 && strcmp(mode, "sync") != 0 && strcmp(mode, "async") != 0) {
        rv = field_refuse(msg, "mode", "is neither \"sync\" nor \"async\"");
    }
    d->mode = strcmp(mode, "async") == 0 ? REPLICA_ASYNC : REPLICA_SYNC;
    if (rv == 0 && !cJSON_IsObject(position)) {
        rv = field_refuse(msg, "position", "is missing or not an object");
    }
    rv = rv != 0 ? rv : field_get_decimal(position, "epoch", &d->position.epoch, msg);
    rv = rv != 0 ? rv : field_get_decimal(position, "index", &d->position.index, msg);
    rv = rv != 0 ? rv : field_get_number(json, "min_in_sync", 1, OTR_REPLICAS_MAX, &d->min_in_sync, msg);
    rv = rv != 0 ? rv : field_get_number(json, "grant_ms", 1, DAY_MS, &d->grant_ms, msg);
    return rv;
}

static int intern(struct topology *t, const char *name, otr_node *node, struct otr_errmsg *msg)
{
    *node = topology_intern(t, name);
    if (*node == OTR_NODE_NONE) {
        otr_errmsg_set(msg, "node %s is one more than the %d that a process can tell apart", name, OTR_NODES_MAX);
        return OTR_NOMEM;
    }
    return 0;
}

static int intern_names(struct topology *t, const struct names *names, struct descriptor *d, struct otr_errmsg *msg)
{
    int rv = 0;

    for (uint32_t i = 0; rv == 0 && i < d->replicas_count; i++) {
        rv = intern(t, names->replicas[i], &d->replicas[i], msg);
    }
    for (uint32_t i = 0; rv == 0 && i < d->in_sync_count; i++) {
        d->in_sync[i].node = d->replicas[find(names->replicas, d->replicas_count, names->in_sync[i])];
    }
    if (rv == 0 && names->primary != NULL) {
        d->primary = d->replicas[find(names->replicas, d->replicas_count, names->primary)];
    }
    return rv;
}

int value_descriptor_parse(struct topology *t, const char *text, struct descriptor *d, struct otr_errmsg *msg)
{
    struct descriptor v = {.primary = OTR_NODE_NONE};
    struct names names = {.primary = NULL};
    cJSON *json = field_object(text, msg);
    int rv = json != NULL ? 0 : OTR_PROTO;

    rv = rv != 0 ? rv : field_get_number(json, "id", 0, OTR_SHARDS_MAX - 1, &v.shard, msg);
    rv = rv != 0 ? rv : parse_range(json, &v, msg);
    rv = rv != 0 ? rv : field_get_decimal(json, "generation", &v.generation, msg);
    rv = rv != 0 ? rv : field_get_decimal(json, "version", &v.version, msg);
    rv = rv != 0 ? rv : field_get_decimal(json, "epoch", &v.epoch, msg);
    rv = rv != 0 ? rv : parse_replicas(json, &names, &v, msg);
    rv = rv != 0 ? rv : parse_in_sync(json, &names, &v, msg);
    rv = rv != 0 ? rv : parse_primary(json, &names, &v, msg);
    rv = rv != 0 ? rv : parse_settings(json, &v, msg);
    rv = rv != 0 ? rv : parse_lossy(json, &v, msg);
    rv = rv != 0 ? rv : intern_names(t, &names, &v, msg);
    cJSON_Delete(json);
    if (rv == 0) {
        *d = v;
    }
    return rv;
}

/* --- leases ------------------------------------------------------------------------------------------------------- */

char *value_lease_print(const struct topology *t, const struct topology_lease *l)
{
    cJSON *json = cJSON_CreateObject();
    bool ok = field_add_text(json, "node", topology_name(t, l->node)) &&
              field_add_hex(json, "incarnation", l->incarnation) && field_add_decimal(json, "epoch", l->epoch);

    return field_finish(json, ok);
}

int value_lease_parse(struct topology *t, const char *text, struct topology_lease *l, struct otr_errmsg *msg)
{
    struct topology_lease v = *l;
    const char *name = NULL;
    cJSON *json = field_object(text, msg);
    int rv = json != NULL ? 0 : OTR_PROTO;

    rv = rv != 0 ? rv : field_get_name(field_find(json, "node"), "node", &name, msg);
    rv = rv != 0 ? rv : field_get_hex(json, "incarnation", &v.incarnation, msg);
    rv = rv != 0 ? rv : field_get_decimal(json, "epoch", &v.epoch, msg);
    rv = rv != 0 ? rv : intern(t, name, &v.node, msg);
    cJSON_Delete(json);
    if (rv == 0) {
        v.present = true;
        *l = v;
    }
    return rv;
}

/* --- collections -------------------------------------------------------------------------------------------------- */

char *value_collection_print(const struct topology_collection *c)
{
    cJSON *json = cJSON_CreateObject();
    bool ok = field_add_hex(json, "id", c->id) && field_add_number(json, "dimension", c->dimension);

    ok =
        ok && field_add_text(json, "metric", score_metric_name(c->metric)) && field_add_text(json, "partition", "xxh3");
    if (c->options[0] != '\0') {
        ok = ok && cJSON_AddRawToObject(json, "options", c->options) != NULL;
    }
    return field_finish(json, ok);
}

static int parse_options(const cJSON *json, char *out, size_t room, struct otr_errmsg *msg)
{
    const cJSON *options = field_find(json, "options");

    if (options == NULL) {
        out[0] = '\0';
        return 0;
    }
    if (!cJSON_IsObject(options)) {
        return field_refuse(msg, "options", "is not an object");
    }
    /* cJSON wants a few bytes more than it writes. */
    if (!cJSON_PrintPreallocated((cJSON *)(uintptr_t)options, out, (int)room, 0)) {
        return field_refuse(msg, "options", "is too long");
    }
    return 0;
}

int value_collection_parse(const char *text, struct topology_collection *c, struct otr_errmsg *msg)
{
    struct topology_collection v = *c;
    char options[TOPOLOGY_OPTIONS_MAX + 8];
    char metric[16] = "";
    char partition[16] = "";
    cJSON *json = field_object(text, msg);
    int rv = json != NULL ? 0 : OTR_PROTO;

    rv = rv != 0 ? rv : field_get_hex(json, "id", &v.id, msg);
    rv = rv != 0 ? rv : field_get_number(json, "dimension", 1, OTR_DIMENSION_MAX, &v.dimension, msg);
    rv = rv != 0 ? rv : field_get_text(json, "metric", false, metric, sizeof metric, msg);
    if (rv == 0 && !score_metric_parse(metric, &v.metric)) {
        rv = field_refuse(msg, "metric", "is none that this version knows");
    }
    rv = rv != 0 ? rv : field_get_text(json, "partition", true, partition, sizeof partition, msg);
    if (rv == 0 && partition[0] != '\0' && strcmp(partition, "xxh3") != 0) {
        rv = field_refuse(msg, "partition", "is none that this version knows");
    }
    rv = rv != 0 ? rv : parse_options(json, options, sizeof options, msg);
    if (rv == 0 && strlen(options) >= sizeof v.options) {
        rv = field_refuse(msg, "options", "is too long");
    }
    cJSON_Delete(json);
    if (rv == 0) {
        strcpy(v.options, options);
        *c = v;
    }
    return rv;
}
