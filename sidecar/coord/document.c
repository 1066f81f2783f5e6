#include "sidecar/coord/document.h"

#include "sidecar/coord/fields.h"
#include "sidecar/coord/values.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char format_name[] = "outrigger cluster export";

void document_close(struct document *d)
{
    for (size_t i = 0; i < d->count; i++) {
        free(d->entries[i].value);
    }
    free(d->entries);
    *d = (struct document){.count = 0};
}

/* --- keys --------------------------------------------------------------------------------------------------------- */

/* Folders of durable keys that carry over although nothing here reads them. */
static bool in_other_folder(const char *key)
{
    static const char *const folders[] = {"jobs/", "history/"};

    for (size_t i = 0; i < sizeof folders / sizeof folders[0]; i++) {
        size_t bytes = strlen(folders[i]);

        if (strncmp(key, folders[i], bytes) == 0) {
            return key_name_valid(key + bytes);
        }
    }
    return false;
}

/* What a relative key stands for. */
static void parse_key(const char *key, struct key *out)
{
    char whole[2 * KEY_MAX];

    key_prefix(whole, "c");
    snprintf(whole + strlen(whole), KEY_MAX, "%s", key);
    key_parse("c", whole, out);
}

bool document_key_valid(const char *key)
{
    struct key k;

    if (strlen(key) > (size_t)2 * OTR_NAME_MAX) {
        return false;
    }
    parse_key(key, &k);
    switch (k.kind) {
    case KEY_CONFIG:
    case KEY_NODE:
    case KEY_SHARD:
    case KEY_COLLECTION:
        return true;
    case KEY_OTHER:
        return in_other_folder(key);
    default:
        return false;
    }
}

/* --- entries ------------------------------------------------------------------------------------------------------ */

static int no_memory(struct otr_errmsg *msg)
{
    otr_errmsg_set(msg, "%s", otr_strerror(OTR_NOMEM));
    return OTR_NOMEM;
}

static int grow(struct document *d, struct otr_errmsg *msg)
{
    size_t room = d->room == 0 ? 64 : d->room * 2;
    struct document_entry *entries;

    if (d->count < d->room) {
        return 0;
    }
    entries = realloc(d->entries, room * sizeof *entries);
    if (entries == NULL) {
        return no_memory(msg);
    }
    d->entries = entries;
    d->room = room;
    return 0;
}

static int add_json(struct document *d, const char *key, const cJSON *json, struct otr_errmsg *msg)
{
    struct document_entry *e;
    char *value;
    int rv;

    if (!document_key_valid(key)) {
        otr_errmsg_set(msg, "key \"%.100s\": none of a cluster's durable keys that this version knows", key);
        return OTR_INVALID;
    }
    if (!cJSON_IsObject(json)) {
        otr_errmsg_set(msg, "key \"%s\": its value is not a JSON object", key);
        return OTR_PROTO;
    }
    rv = grow(d, msg);
    value = rv == 0 ? cJSON_PrintUnformatted(json) : NULL;
    if (value == NULL) {
        return no_memory(msg);
    }
    if (strlen(value) > DOCUMENT_VALUE_MAX) {
        otr_errmsg_set(msg, "key \"%s\": its value has %zu bytes, more than %d", key, strlen(value),
                       DOCUMENT_VALUE_MAX);
        free(value);
        return OTR_TOOBIG;
    }
    e = &d->entries[d->count++];
    snprintf(e->key, sizeof e->key, "%s", key);
    e->value = value;
    return 0;
}

int document_add(struct document *d, const char *key, const char *value, struct otr_errmsg *msg)
{
    cJSON *json = field_object(value, msg);
    int rv;

    if (json == NULL) {
        otr_errmsg_wrap(msg, "key \"%.100s\"", key);
        return OTR_PROTO;
    }
    rv = add_json(d, key, json, msg);
    cJSON_Delete(json);
    return rv;
}

static int by_key(const void *a, const void *b)
{
    return strverscmp(((const struct document_entry *)a)->key, ((const struct document_entry *)b)->key);
}

int document_sort(struct document *d, struct otr_errmsg *msg)
{
    if (d->count > 0) {
        qsort(d->entries, d->count, sizeof d->entries[0], by_key);
    }
    for (size_t i = 1; i < d->count; i++) {
        if (strcmp(d->entries[i - 1].key, d->entries[i].key) == 0) {
            otr_errmsg_set(msg, "key \"%s\" is there twice", d->entries[i].key);
            return OTR_PROTO;
        }
    }
    return 0;
}

const char *document_find(const struct document *d, const char *key)
{
    for (size_t i = 0; i < d->count; i++) {
        if (strcmp(d->entries[i].key, key) == 0) {
            return d->entries[i].value;
        }
    }
    return NULL;
}

/* --- checking ----------------------------------------------------------------------------------------------------- */

struct check {
    struct topology *t;
    struct topology_config config;
    struct descriptor *shards; /* config.shards_count */
    bool *found;
};

static int refuse_shard(const struct descriptor *d, struct otr_errmsg *msg, const char *what)
{
    otr_errmsg_set(msg, "key \"shards/%u\": %s", d->shard, what);
    return OTR_PROTO;
}

static int check_shard(struct check *c, const struct key *key, const char *value, struct otr_errmsg *msg)
{
    struct descriptor d;
    int rv = value_descriptor_parse(c->t, value, &d, msg);

    if (rv != 0) {
        return rv;
    }
    if (d.shard != key->shard) {
        otr_errmsg_set(msg, "its value is that of shard %u", d.shard);
        return OTR_PROTO;
    }
    if (d.shard >= c->config.shards_count) {
        otr_errmsg_set(msg, "the settings name %u shards", c->config.shards_count);
        return OTR_PROTO;
    }
    if (d.generation > c->config.generation) {
        otr_errmsg_set(msg, "its generation is %llu, above the settings' %llu", (unsigned long long)d.generation,
                       (unsigned long long)c->config.generation);
        return OTR_PROTO;
    }
    c->shards[d.shard] = d;
    c->found[d.shard] = true;
    return 0;
}

static int check_collection(struct check *c, const struct key *key, const char *value, struct otr_errmsg *msg)
{
    struct topology_collection collection = {.revision = 1};
    const struct topology_collection *other;
    int rv = value_collection_parse(value, &collection, msg);

    if (rv != 0) {
        return rv;
    }
    snprintf(collection.name, sizeof collection.name, "%s", key->name);
    other = topology_collection_by_id(c->t, collection.id);
    if (other != NULL) {
        otr_errmsg_set(msg, "it has the id of collection %s", other->name);
        return OTR_PROTO;
    }
    return topology_collection_set(c->t, &collection);
}

static int check_entry(struct check *c, const struct document_entry *e, struct otr_errmsg *msg)
{
    struct topology_node node = {.registered = false};
    struct key key;
    int rv = 0;

    parse_key(e->key, &key);
    if (key.kind == KEY_SHARD) {
        rv = check_shard(c, &key, e->value, msg);
    } else if (key.kind == KEY_NODE) {
        rv = value_node_parse(e->value, &node, msg);
        if (rv == 0 && topology_intern(c->t, key.name) == OTR_NODE_NONE) {
            otr_errmsg_set(msg, "more than %d nodes", OTR_NODES_MAX);
            rv = OTR_PROTO;
        }
    } else if (key.kind == KEY_COLLECTION) {
        rv = check_collection(c, &key, e->value, msg);
    }
    if (rv != 0) {
        otr_errmsg_wrap(msg, "key \"%s\"", e->key);
    }
    return rv;
}

static int by_range(const void *a, const void *b)
{
    const struct descriptor *x = a;
    const struct descriptor *y = b;

    return (x->hash_first > y->hash_first) - (x->hash_first < y->hash_first);
}

/* All shards are there, and each hash is one's. */
static int check_shards(struct check *c, struct otr_errmsg *msg)
{
    uint64_t next = 0;

    for (otr_shard i = 0; i < c->config.shards_count; i++) {
        if (!c->found[i]) {
            otr_errmsg_set(msg, "key \"shards/%u\" is missing: the settings name %u shards", i, c->config.shards_count);
            return OTR_PROTO;
        }
    }
    qsort(c->shards, c->config.shards_count, sizeof c->shards[0], by_range);
    for (otr_shard i = 0; i < c->config.shards_count; i++) {
        if (c->shards[i].hash_first != next) {
            return refuse_shard(&c->shards[i], msg,
                                c->shards[i].hash_first < next ? "its range overlaps another shard's"
                                                               : "no shard has the hashes just below its range");
        }
        next = (uint64_t)c->shards[i].hash_last + 1;
    }
    return next == UINT64_C(1) << 32
               ? 0
               : refuse_shard(&c->shards[c->config.shards_count - 1], msg, "no shard has the hashes above its range");
}

int document_check(const struct document *d, struct otr_errmsg *msg)
{
    const char *config = document_find(d, "config");
    struct check c = {.t = topology_new()};
    int rv = c.t != NULL ? 0 : no_memory(msg);

    if (rv == 0 && config == NULL) {
        otr_errmsg_set(msg, "key \"config\" is missing: there is no cluster without its settings");
        rv = OTR_PROTO;
    } else if (rv == 0 && (rv = value_config_parse(config, &c.config, msg)) != 0) {
        otr_errmsg_wrap(msg, "key \"config\"");
    }
    if (rv == 0) {
        c.shards = calloc(c.config.shards_count, sizeof *c.shards);
        c.found = calloc(c.config.shards_count, sizeof *c.found);
        rv = c.shards != NULL && c.found != NULL ? 0 : no_memory(msg);
    }
    for (size_t i = 0; rv == 0 && i < d->count; i++) {
        rv = check_entry(&c, &d->entries[i], msg);
    }
    rv = rv != 0 ? rv : check_shards(&c, msg);
    free(c.shards);
    free(c.found);
    topology_free(c.t);
    return rv;
}

/* --- text --------------------------------------------------------------------------------------------------------- */

char *document_print(const struct document *d)
{
    size_t room = 256 + strlen(d->cluster);
    size_t used;
    char *text;

    for (size_t i = 0; i < d->count; i++) {
        room += strlen(d->entries[i].key) + strlen(d->entries[i].value) + 16;
    }
    text = malloc(room);
    if (text == NULL) {
        return NULL;
    }
    used = (size_t)snprintf(text, room, "{\n  \"format\": \"%s\",\n  \"version\": %d,\n  \"cluster\": \"%s\",\n",
                            format_name, DOCUMENT_VERSION, d->cluster);
    used += (size_t)snprintf(text + used, room - used, "  \"keys\": {\n");
    for (size_t i = 0; i < d->count; i++) {
        used += (size_t)snprintf(text + used, room - used, "    \"%s\": %s%s\n", d->entries[i].key, d->entries[i].value,
                                 i + 1 < d->count ? "," : "");
    }
    snprintf(text + used, room - used, "  }\n}\n");
    return text;
}

static int parse_head(const cJSON *json, struct document *d, struct otr_errmsg *msg)
{
    static const char *const known[] = {"format", "version", "cluster", "keys"};
    const char *format = cJSON_GetStringValue(field_find(json, "format"));
    uint32_t version = 0;
    const cJSON *item;
    int rv;

    if (format == NULL || strcmp(format, format_name) != 0) {
        otr_errmsg_set(msg, "field \"format\" is not \"%s\": this is none", format_name);
        return OTR_PROTO;
    }
    rv = field_get_number(json, "version", 1, UINT32_MAX, &version, msg);
    if (rv == 0 && version > DOCUMENT_VERSION) {
        otr_errmsg_set(msg, "it is of version %u, and this program reads up to %d: take the one that wrote it", version,
                       DOCUMENT_VERSION);
        return OTR_UNSUPPORTED;
    }
    rv = rv != 0 ? rv : field_get_text(json, "cluster", false, d->cluster, sizeof d->cluster, msg);
    if (rv == 0 && !key_name_valid(d->cluster)) {
        rv = field_refuse(msg, "cluster", "is not a cluster's name");
    }
    cJSON_ArrayForEach(item, json)
    {
        size_t same = 0;

        for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) {
            same += strcmp(item->string, known[i]) == 0;
        }
        if (rv == 0 && (same == 0 || field_find(json, item->string) != item)) {
            otr_errmsg_set(msg, "field \"%.100s\" is %s", item->string, same == 0 ? "not known" : "there twice");
            rv = OTR_PROTO;
        }
    }
    return rv;
}

int document_parse(const char *text, struct document *d, struct otr_errmsg *msg)
{
    cJSON *json = field_object(text, msg);
    const cJSON *keys = field_find(json, "keys");
    const cJSON *item;
    int rv = json != NULL ? parse_head(json, d, msg) : OTR_PROTO;

    if (rv == 0 && !cJSON_IsObject(keys)) {
        rv = field_refuse(msg, "keys", "is missing or not an object");
    }
    cJSON_ArrayForEach(item, keys)
    {
        rv = rv != 0 ? rv : add_json(d, item->string, item, msg);
    }
    rv = rv == OTR_INVALID || rv == OTR_TOOBIG ? OTR_PROTO : rv;
    rv = rv != 0 ? rv : document_sort(d, msg);
    cJSON_Delete(json);
    if (rv != 0) {
        document_close(d);
    }
    return rv;
}
