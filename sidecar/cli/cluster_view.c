#include "sidecar/cli/cluster_view.h"

#include "sidecar/cli/fetch.h"
#include "sidecar/coord/fields.h"
#include "sidecar/coord/keys.h"

#include <stdio.h>
#include <stdlib.h>

enum { ASK_TIMEOUT_MS = 1000, SIDECAR_TIMEOUT_MS = 5000, NODES_ROOM_FIRST = 8 };

static int nomem(struct otr_errmsg *msg)
{
    otr_errmsg_set(msg, "%s", otr_strerror(OTR_NOMEM));
    return OTR_NOMEM;
}

void cluster_view_close(struct cluster_view *v)
{
    for (uint32_t i = 0; i < v->nodes_count; i++) {
        free(v->nodes[i].own);
    }
    free(v->nodes);
    free(v->shards);
    *v = (struct cluster_view){.shards = NULL};
}

int cluster_view_node(struct cluster_view *v, const char *name)
{
    struct cluster_view_node *grown;

    for (uint32_t i = 0; i < v->nodes_count; i++) {
        if (strcmp(v->nodes[i].name, name) == 0) {
            return (int)i;
        }
    }
    grown = realloc(v->nodes, (v->nodes_count + 1) * sizeof *grown);
    if (grown == NULL) {
        return -1;
    }
    v->nodes = grown;
    v->nodes[v->nodes_count] = (struct cluster_view_node){.known = false};
    snprintf(v->nodes[v->nodes_count].name, sizeof v->nodes[0].name, "%s", name);
    return (int)v->nodes_count++;
}

/* --- from the coordinator ----------------------------------------------------------------------------------------- */

static void print_address(char out[CLUSTER_VIEW_TEXT_MAX], const struct topology_address *a)
{
    if (a->port == 0) {
        out[0] = '\0';
    } else {
        snprintf(out, CLUSTER_VIEW_TEXT_MAX, strchr(a->host, ':') != NULL ? "%s[%s]:%u" : "%s%s:%u",
                 a->tls ? "https://" : "", a->host, a->port);
    }
}

static int take_topology_nodes(struct cluster_view *v, struct topology *t)
{
    for (otr_node n = 1; n <= topology_nodes_count(t); n++) {
        const struct topology_node *from = topology_node(t, n);
        int number = cluster_view_node(v, from->name);

        if (number < 0) {
            return OTR_NOMEM;
        }
        v->nodes[number].known = from->registered || from->live;
        v->nodes[number].draining = from->draining;
        v->nodes[number].live = from->live;
        print_address(v->nodes[number].client, &from->client);
        print_address(v->nodes[number].peer, &from->peer);
    }
    return 0;
}

/* Numbers of the view are those of the topology minus one: both were given in the same order. */
static void take_descriptor(struct cluster_view_shard *to, struct topology *t, const struct descriptor *d)
{
    const struct topology_node *primary = topology_node(t, d->primary);

    *to = (struct cluster_view_shard){.id = d->shard,
                                      .hash_first = d->hash_first,
                                      .hash_last = d->hash_last,
                                      .epoch = d->epoch,
                                      .primary = (int)d->primary - 1,
                                      .in_sync_count = d->in_sync_count,
                                      .replicas_count = d->replicas_count,
                                      .min_in_sync = d->min_in_sync};
    if (primary != NULL && primary->live && primary->incarnation != d->incarnation) {
        to->primary = -1; /* Another process of that node: it does not lead (PROTOCOL E1). */
    }
    for (uint32_t i = 0; i < d->in_sync_count; i++) {
        to->in_sync[i] = (int)d->in_sync[i].node - 1;
    }
    for (uint32_t i = 0; i < d->replicas_count; i++) {
        to->replicas[i] = (int)d->replicas[i] - 1;
    }
}

int cluster_view_from_topology(struct cluster_view *v, struct topology *t)
{
    int rv;

    rv = take_topology_nodes(v, t);
    if (rv != 0) {
        return rv;
    }
    v->shards = calloc(topology_shards_count(t) + 1, sizeof *v->shards);
    if (v->shards == NULL) {
        return OTR_NOMEM;
    }
    for (otr_shard s = 0; s < topology_shards_count(t); s++) {
        const struct topology_shard *shard = topology_shard(t, s);

        if (shard != NULL && shard->known) {
            take_descriptor(&v->shards[v->shards_count++], t, &shard->descriptor);
        }
    }
    return 0;
}

static int read_coordinator(struct cluster_view *v, struct loop *loop, const struct coord_client_settings *settings,
                            struct otr_errmsg *msg)
{
    struct coord_client c;
    struct topology *t = NULL;
    int rv;

    snprintf(v->cluster, sizeof v->cluster, "%s", settings->cluster);
    rv = coord_client_open(&c, loop, settings, msg);
    if (rv != 0) {
        return rv;
    }
    rv = coord_client_read(&c, &t, msg);
    coord_client_close(&c);
    if (rv != 0) {
        otr_errmsg_wrap(msg, "the coordinator at %s", settings->endpoints);
        return rv;
    }
    rv = cluster_view_from_topology(v, t);
    topology_free(t);
    return rv != 0 ? nomem(msg) : 0;
}

/* --- from a sidecar ----------------------------------------------------------------------------------------------- */

/* A list of node names as numbers; false when it is none, or too long. */
static bool get_names(struct cluster_view *v, const cJSON *object, const char *field, int *out, uint32_t *count)
{
    const cJSON *list = field_find(object, field);
    const cJSON *item;

    *count = 0;
    if (!cJSON_IsArray(list) || cJSON_GetArraySize(list) > OTR_REPLICAS_MAX) {
        return false;
    }
    cJSON_ArrayForEach(item, list)
    {
        if (!cJSON_IsString(item) || !key_name_valid(item->valuestring)) {
            return false;
        }
        out[*count] = cluster_view_node(v, item->valuestring);
        if (out[(*count)++] < 0) {
            return false;
        }
    }
    return true;
}

static bool get_whole(const cJSON *object, const char *field, double most, uint64_t *out)
{
    const cJSON *item = field_find(object, field);

    if (!cJSON_IsNumber(item) || !(item->valuedouble >= 0 && item->valuedouble <= most)) {
        return false;
    }
    *out = (uint64_t)item->valuedouble;
    return true;
}

/* Counters travel as JSON numbers here; beyond 2^53 they are rounded, which is good enough to look at. */
#define COUNTER_MAX 1e18

static int take_json_shard(struct cluster_view *v, const cJSON *from)
{
    struct cluster_view_shard *to = &v->shards[v->shards_count];
    const cJSON *range = field_find(from, "range");
    const cJSON *primary = field_find(from, "primary");
    uint64_t id;
    uint64_t min_in_sync = 0;

    if (!get_whole(from, "id", OTR_SHARDS_MAX - 1, &id) || !get_whole(from, "epoch", COUNTER_MAX, &to->epoch) ||
        cJSON_GetArraySize(range) != 2 || !cJSON_IsNumber(cJSON_GetArrayItem(range, 0)) ||
        !cJSON_IsNumber(cJSON_GetArrayItem(range, 1)) ||
        !get_names(v, from, "in_sync", to->in_sync, &to->in_sync_count) ||
        !get_names(v, from, "replicas", to->replicas, &to->replicas_count)) {
        return OTR_PROTO;
    }
    to->id = (otr_shard)id;
    to->hash_first = (uint32_t)cJSON_GetArrayItem(range, 0)->valuedouble;
    to->hash_last = (uint32_t)cJSON_GetArrayItem(range, 1)->valuedouble;
    to->primary = -1;
    if (cJSON_IsString(primary) && key_name_valid(primary->valuestring)) {
        to->primary = cluster_view_node(v, primary->valuestring);
    }
    /* Sidecars of the first version do not say it: then the default. */
    to->min_in_sync = to->replicas_count >= 3 ? 2 : 1;
    if (get_whole(from, "min_in_sync", OTR_REPLICAS_MAX, &min_in_sync)) {
        to->min_in_sync = (uint32_t)min_in_sync;
    }
    v->shards_count++;
    return 0;
}

static void get_address(const cJSON *object, const char *field, char out[CLUSTER_VIEW_TEXT_MAX])
{
    const char *text = cJSON_GetStringValue(field_find(object, field));

    snprintf(out, CLUSTER_VIEW_TEXT_MAX, "%s", text != NULL ? text : "");
}

static int take_json_node(struct cluster_view *v, const cJSON *from)
{
    const char *name = cJSON_GetStringValue(field_find(from, "id"));
    const char *state = cJSON_GetStringValue(field_find(from, "state"));
    int number;

    if (name == NULL || !key_name_valid(name)) {
        return OTR_PROTO;
    }
    number = cluster_view_node(v, name);
    if (number < 0) {
        return OTR_NOMEM;
    }
    v->nodes[number].known = true;
    v->nodes[number].draining = state != NULL && strcmp(state, "draining") == 0;
    v->nodes[number].live = cJSON_IsTrue(field_find(from, "live"));
    get_address(from, "client", v->nodes[number].client);
    get_address(from, "peer", v->nodes[number].peer);
    return 0;
}

int cluster_view_from_json(struct cluster_view *v, const char *text, struct otr_errmsg *msg)
{
    cJSON *json = field_object(text, msg);
    const cJSON *shards = field_find(json, "shards");
    const cJSON *item;
    const char *cluster = cJSON_GetStringValue(field_find(json, "cluster"));
    int rv = json != NULL && cluster != NULL ? 0 : OTR_PROTO;

    if (rv == 0) {
        snprintf(v->cluster, sizeof v->cluster, "%s", cluster);
        v->shards = calloc((size_t)cJSON_GetArraySize(shards) + 1, sizeof *v->shards);
        rv = v->shards != NULL ? 0 : OTR_NOMEM;
    }
    cJSON_ArrayForEach(item, shards)
    {
        rv = rv != 0 ? rv : take_json_shard(v, item);
    }
    cJSON_ArrayForEach(item, field_find(json, "nodes"))
    {
        rv = rv != 0 ? rv : take_json_node(v, item);
    }
    cJSON_Delete(json);
    if (rv == OTR_PROTO) {
        otr_errmsg_set(msg, "the answer is not that of a sidecar's /cluster");
    }
    return rv;
}

/* A missing scheme is http. */
static void put_url(struct fetch *fetch, const char *address, size_t bytes)
{
    snprintf(fetch->url, sizeof fetch->url, "%s%.*s/cluster", strstr(address, "://") != NULL ? "" : "http://",
             (int)bytes, address);
}

static int read_sidecar(struct cluster_view *v, struct fetch_client *f, const char *url, struct otr_errmsg *msg)
{
    struct fetch fetch = {.data = NULL};
    size_t bytes = strlen(url);
    int rv;

    bytes -= bytes > 0 && url[bytes - 1] == '/';
    put_url(&fetch, url, bytes);
    fetch_all(f, &fetch, 1, SIDECAR_TIMEOUT_MS);
    rv = fetch.status;
    if (rv != 0) {
        otr_errmsg_set(msg, "%s", fetch.msg.text);
    } else if (fetch.http_status != 200) {
        fetch_refusal(&fetch, msg);
        rv = OTR_PROTO;
    } else {
        rv = cluster_view_from_json(v, fetch.body, msg);
    }
    fetch_clear(&fetch, 1);
    if (rv != 0) {
        otr_errmsg_wrap(msg, "the sidecar at %s", url);
    }
    return rv;
}

/* --- what each sidecar says of its own ---------------------------------------------------------------------------- */

static struct cluster_view_shard *find_shard(struct cluster_view *v, uint64_t id)
{
    for (uint32_t i = 0; i < v->shards_count; i++) {
        if (v->shards[i].id == id) {
            return &v->shards[i];
        }
    }
    return NULL;
}

/* Sidecars of earlier versions do not say it. */
static void take_log(struct cluster_view_own *own, const cJSON *from)
{
    (void)get_whole(from, "last_epoch", COUNTER_MAX, &own->last_epoch);
    (void)get_whole(from, "last", COUNTER_MAX, &own->last);
    (void)get_whole(from, "known", COUNTER_MAX, &own->seen);
    (void)get_whole(from, "kept", COUNTER_MAX, &own->kept);
}

void cluster_view_take_own(struct cluster_view *v, uint32_t node, const char *text)
{
    struct cluster_view_node *n = &v->nodes[node];
    cJSON *json = cJSON_Parse(text);
    const char *name = cJSON_GetStringValue(field_find(json, "node"));
    const cJSON *item;

    /* An address may have passed to another node meanwhile. */
    if (name == NULL || strcmp(name, n->name) != 0) {
        cJSON_Delete(json);
        return;
    }
    n->own = calloc(v->shards_count + 1, sizeof *n->own);
    n->answered = n->own != NULL;
    cJSON_ArrayForEach(item, field_find(field_find(json, "self"), "shards"))
    {
        const char *role = cJSON_GetStringValue(field_find(item, "role"));
        struct cluster_view_shard *shard;
        uint64_t id;
        uint64_t committed;

        if (n->own == NULL || !get_whole(item, "id", OTR_SHARDS_MAX - 1, &id) ||
            !get_whole(item, "committed", COUNTER_MAX, &committed) || (shard = find_shard(v, id)) == NULL) {
            continue;
        }
        n->own[shard - v->shards] = (struct cluster_view_own){.known = true,
                                                              .leads = role != NULL && strcmp(role, "primary") == 0,
                                                              .committed = committed,
                                                              .damaged = cJSON_IsTrue(field_find(item, "damaged")),
                                                              .eligible = cJSON_IsTrue(field_find(item, "eligible")),
                                                              .seen = committed};
        take_log(&n->own[shard - v->shards], item);
    }
    cJSON_Delete(json);
}

static int ask_all(struct cluster_view *v, struct fetch_client *f, struct otr_errmsg *msg)
{
    struct fetch *fetches = calloc(v->nodes_count + 1, sizeof *fetches);
    uint32_t *asked = calloc(v->nodes_count + 1, sizeof *asked);
    size_t count = 0;
    int rv = fetches != NULL && asked != NULL ? 0 : nomem(msg);

    for (uint32_t i = 0; rv == 0 && i < v->nodes_count; i++) {
        if (v->nodes[i].live && v->nodes[i].client[0] != '\0') {
            put_url(&fetches[count], v->nodes[i].client, strlen(v->nodes[i].client));
            asked[count++] = i;
        }
    }
    if (rv == 0) {
        fetch_all(f, fetches, count, ASK_TIMEOUT_MS);
    }
    for (size_t i = 0; i < count; i++) {
        if (fetches[i].status == 0 && fetches[i].http_status == 200) {
            cluster_view_take_own(v, asked[i], fetches[i].body);
        } else if (fetches[i].status == 0) {
            fetch_refusal(&fetches[i], &v->note);
            otr_errmsg_wrap(&v->note, "%s does not tell its positions", v->nodes[asked[i]].name);
        }
    }
    if (fetches != NULL) {
        fetch_clear(fetches, count);
    }
    free(fetches);
    free(asked);
    return rv;
}

/* --- the whole ---------------------------------------------------------------------------------------------------- */

static void settle_shard(struct cluster_view *v, uint32_t number)
{
    struct cluster_view_shard *s = &v->shards[number];

    /* A sidecar knows best whether it leads; of one that does not answer, its session must do. */
    if (s->primary >= 0) {
        const struct cluster_view_node *n = &v->nodes[s->primary];

        if (n->answered ? !n->own[number].leads : !n->live) {
            s->primary = -1;
        }
    }
    for (uint32_t i = 0; i < s->replicas_count; i++) {
        const struct cluster_view_node *n = &v->nodes[s->replicas[i]];

        if (n->answered && n->own[number].known && (!s->index_known || n->own[number].committed > s->index)) {
            s->index_known = true;
            s->index = n->own[number].committed;
        }
        v->nodes[s->replicas[i]].shards++;
    }
    if (s->primary >= 0) {
        v->nodes[s->primary].primaries++;
    }
}

void cluster_view_settle(struct cluster_view *v)
{
    for (uint32_t i = 0; i < v->shards_count; i++) {
        settle_shard(v, i);
    }
}

const char *cluster_view_problem(const struct cluster_view_shard *shard)
{
    if (shard->primary < 0) {
        return "no primary";
    }
    return shard->in_sync_count < shard->min_in_sync ? "too few in sync" : NULL;
}

int cluster_view_read(struct cluster_view *v, struct loop *loop, const struct cluster_view_settings *settings,
                      struct otr_errmsg *msg)
{
    struct fetch_client f;
    int rv;

    rv = fetch_open(&f, loop, &settings->credentials, msg);
    if (rv != 0) {
        return rv;
    }
    rv = settings->sidecar != NULL ? read_sidecar(v, &f, settings->sidecar, msg)
                                   : read_coordinator(v, loop, &settings->coordinator, msg);
    rv = rv != 0 ? rv : ask_all(v, &f, msg);
    fetch_close(&f);
    if (rv == 0) {
        cluster_view_settle(v);
    }
    return rv;
}
