/* Everything hangs on arrays of pointers, so that an entry stays where it is when the arrays grow. Names are found
 * through an open hash table that is twice as large as the most names there can be; shards by number; the shard of a
 * hash through a table of ranges, sorted by their first hash; collections through two arrays, by name and by id. */
#include "sidecar/core/topology.h"

#include <assert.h>
#include <stdlib.h>

enum { SLOTS = 2 * OTR_NODES_MAX, COLLECTIONS_ROOM_FIRST = 16 };
static_assert((SLOTS & (SLOTS - 1)) == 0, "slots are chosen with a mask");

struct range {
    uint32_t first, last;
    otr_shard shard;
};

struct topology {
    struct topology_config config;
    struct topology_node *nodes[OTR_NODES_MAX]; /* by number - 1 */
    uint32_t nodes_count;
    otr_node slots[SLOTS]; /* by hash of the name, probing onwards; OTR_NODE_NONE: free */
    struct topology_shard *shards[OTR_SHARDS_MAX];
    uint32_t shards_count;
    struct range ranges[OTR_SHARDS_MAX]; /* of the known shards, by (first, shard) */
    uint32_t ranges_count;
    struct topology_collection **by_name;
    struct topology_collection **by_id;
    uint32_t collections_count;
    uint32_t collections_room;
    bool starved;
};

void topology_config_defaults(struct topology_config *c)
{
    *c = (struct topology_config){
        .generation = 1,
        .beacon_ms = 30,
        .grant_ms = 120,
        .replica_timeout_ms = 400,
        .suspect_timeout_ms = 1000,
        .session_ttl_ms = 3000,
        .read_lag_ms = 500,
        .apply_wait_ms = 1000,
        .request_timeout_ms = 10000,
        .mode = REPLICA_SYNC,
        .max_lag_entries = 1000,
        .max_lag_ms = 1000,
    };
}

struct topology *topology_new(void)
{
    return calloc(1, sizeof(struct topology));
}

void topology_free(struct topology *t)
{
    if (t == NULL) {
        return;
    }
    for (uint32_t i = 0; i < t->nodes_count; i++) {
        free(t->nodes[i]);
    }
    for (uint32_t i = 0; i < OTR_SHARDS_MAX; i++) {
        free(t->shards[i]);
    }
    for (uint32_t i = 0; i < t->collections_count; i++) {
        free(t->by_name[i]);
    }
    free(t->by_name);
    free(t->by_id);
    free(t);
}

/* --- nodes -------------------------------------------------------------------------------------------------------- */

/* The slot that holds the name, or the free one where it belongs (FNV-1a). */
static otr_node *slot_of(struct topology *t, const char *name)
{
    uint32_t hash = 2166136261U;
    otr_node *slot;

    for (const char *c = name; *c != '\0'; c++) {
        hash = (hash ^ (unsigned char)*c) * 16777619U;
    }
    for (;; hash++) {
        slot = &t->slots[hash & (SLOTS - 1)];
        if (*slot == OTR_NODE_NONE || strcmp(t->nodes[*slot - 1]->name, name) == 0) {
            return slot;
        }
    }
}

otr_node topology_intern(struct topology *t, const char *name)
{
    otr_node *slot = slot_of(t, name);
    struct topology_node *node;

    assert(strlen(name) <= OTR_NAME_MAX);
    if (*slot != OTR_NODE_NONE) {
        return *slot;
    }
    if (t->nodes_count == OTR_NODES_MAX) {
        return OTR_NODE_NONE;
    }
    node = calloc(1, sizeof *node);
    if (node == NULL) {
        t->starved = true;
        return OTR_NODE_NONE;
    }
    strcpy(node->name, name);
    t->nodes[t->nodes_count++] = node;
    *slot = t->nodes_count;
    return *slot;
}

bool topology_starved(const struct topology *t)
{
    return t->starved;
}

const char *topology_name(const struct topology *t, otr_node node)
{
    return node != OTR_NODE_NONE && node <= t->nodes_count ? t->nodes[node - 1]->name : "?";
}

uint32_t topology_nodes_count(const struct topology *t)
{
    return t->nodes_count;
}

struct topology_node *topology_node(struct topology *t, otr_node node)
{
    return node != OTR_NODE_NONE && node <= t->nodes_count ? t->nodes[node - 1] : NULL;
}

struct topology_config *topology_config(struct topology *t)
{
    return &t->config;
}

/* --- shards ------------------------------------------------------------------------------------------------------- */

uint32_t topology_shards_count(const struct topology *t)
{
    return t->shards_count;
}

struct topology_shard *topology_shard(struct topology *t, otr_shard shard)
{
    return shard < OTR_SHARDS_MAX ? t->shards[shard] : NULL;
}

static int shard_make(struct topology *t, otr_shard shard)
{
    if (shard >= OTR_SHARDS_MAX) {
        return OTR_INVALID;
    }
    if (t->shards[shard] == NULL) {
        t->shards[shard] = calloc(1, sizeof *t->shards[shard]);
    }
    return t->shards[shard] != NULL ? 0 : OTR_NOMEM;
}

/* Number of ranges that begin at or before this hash. */
static uint32_t ranges_up_to(const struct topology *t, uint32_t hash)
{
    uint32_t low = 0;
    uint32_t high = t->ranges_count;

    while (low < high) {
        uint32_t middle = low + (high - low) / 2;

        if (t->ranges[middle].first <= hash) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low;
}

static void range_remove(struct topology *t, otr_shard shard)
{
    for (uint32_t i = 0; i < t->ranges_count; i++) {
        if (t->ranges[i].shard == shard) {
            t->ranges_count--;
            memmove(&t->ranges[i], &t->ranges[i + 1], (t->ranges_count - i) * sizeof t->ranges[0]);
            return;
        }
    }
}

static void range_add(struct topology *t, const struct descriptor *d)
{
    uint32_t at = ranges_up_to(t, d->hash_first);

    while (at > 0 && t->ranges[at - 1].first == d->hash_first && t->ranges[at - 1].shard > d->shard) {
        at--;
    }
    memmove(&t->ranges[at + 1], &t->ranges[at], (t->ranges_count - at) * sizeof t->ranges[0]);
    t->ranges[at] = (struct range){.first = d->hash_first, .last = d->hash_last, .shard = d->shard};
    t->ranges_count++;
}

int topology_shard_set(struct topology *t, const struct descriptor *d, uint64_t revision)
{
    struct topology_shard *s;
    int rv;

    rv = shard_make(t, d->shard);
    if (rv != 0) {
        return rv;
    }
    s = t->shards[d->shard];
    if (!s->known || s->descriptor.hash_first != d->hash_first || s->descriptor.hash_last != d->hash_last) {
        if (s->known) {
            range_remove(t, d->shard);
        }
        range_add(t, d);
    }
    s->known = true;
    s->descriptor = *d;
    s->revision = revision;
    if (d->shard >= t->shards_count) {
        t->shards_count = d->shard + 1;
    }
    return 0;
}

void topology_shard_forget(struct topology *t, otr_shard shard)
{
    struct topology_shard *s = topology_shard(t, shard);

    if (s == NULL || !s->known) {
        return;
    }
    range_remove(t, shard);
    s->known = false;
    while (t->shards_count > 0 && (t->shards[t->shards_count - 1] == NULL || !t->shards[t->shards_count - 1]->known)) {
        t->shards_count--;
    }
}

int topology_lease_set(struct topology *t, otr_shard shard, const struct topology_lease *lease)
{
    int rv;

    rv = shard_make(t, shard);
    if (rv == 0) {
        t->shards[shard]->lease = *lease;
    }
    return rv;
}

bool topology_route(const struct topology *t, uint64_t point_hash, otr_shard *shard)
{
    uint32_t hash = (uint32_t)point_hash;

    /* Ranges follow each other without overlap but for the moment in which a change is seen half: then a range that
     * begins earlier may be the one that covers. */
    for (uint32_t i = ranges_up_to(t, hash); i > 0; i--) {
        if (t->ranges[i - 1].last >= hash) {
            *shard = t->ranges[i - 1].shard;
            return true;
        }
    }
    return false;
}

/* --- collections -------------------------------------------------------------------------------------------------- */

/* Number of collections that come before this name, or before this id. */
static uint32_t place_by_name(const struct topology *t, const char *name)
{
    uint32_t low = 0;
    uint32_t high = t->collections_count;

    while (low < high) {
        uint32_t middle = low + (high - low) / 2;

        if (strcmp(t->by_name[middle]->name, name) < 0) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low;
}

static uint32_t place_by_id(const struct topology *t, uint64_t id)
{
    uint32_t low = 0;
    uint32_t high = t->collections_count;

    while (low < high) {
        uint32_t middle = low + (high - low) / 2;

        if (t->by_id[middle]->id < id) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low;
}

const struct topology_collection *topology_collection(const struct topology *t, const char *name)
{
    uint32_t at = place_by_name(t, name);

    return at < t->collections_count && strcmp(t->by_name[at]->name, name) == 0 ? t->by_name[at] : NULL;
}

const struct topology_collection *topology_collection_by_id(const struct topology *t, uint64_t id)
{
    uint32_t at = place_by_id(t, id);

    return at < t->collections_count && t->by_id[at]->id == id ? t->by_id[at] : NULL;
}

uint32_t topology_collections_count(const struct topology *t)
{
    return t->collections_count;
}

const struct topology_collection *topology_collection_at(const struct topology *t, uint32_t number)
{
    return number < t->collections_count ? t->by_name[number] : NULL;
}

static int collections_reserve(struct topology *t)
{
    uint32_t room = t->collections_room != 0 ? 2 * t->collections_room : COLLECTIONS_ROOM_FIRST;
    struct topology_collection **grown;

    if (t->collections_count < t->collections_room) {
        return 0;
    }
    grown = realloc(t->by_name, room * sizeof(struct topology_collection *));
    if (grown == NULL) {
        return OTR_NOMEM;
    }
    t->by_name = grown;
    grown = realloc(t->by_id, room * sizeof(struct topology_collection *));
    if (grown == NULL) {
        return OTR_NOMEM;
    }
    t->by_id = grown;
    t->collections_room = room;
    return 0;
}

static void insert_at(struct topology_collection **list, uint32_t count, uint32_t at, struct topology_collection *c)
{
    memmove(list + at + 1, list + at, (count - at) * sizeof(struct topology_collection *));
    list[at] = c;
}

static void remove_at(struct topology_collection **list, uint32_t count, uint32_t at)
{
    memmove(list + at, list + at + 1, (count - at - 1) * sizeof(struct topology_collection *));
}

int topology_collection_set(struct topology *t, const struct topology_collection *c)
{
    const struct topology_collection *same = topology_collection(t, c->name);
    struct topology_collection *copy;

    /* An id belongs to one name; two names with one id can only be damage from outside. */
    if (topology_collection_by_id(t, c->id) != same && topology_collection_by_id(t, c->id) != NULL) {
        return OTR_EXISTS;
    }
    if (same != NULL && same->id == c->id) {
        *t->by_name[place_by_name(t, c->name)] = *c;
        return 0;
    }
    copy = malloc(sizeof *copy);
    if (copy == NULL || collections_reserve(t) != 0) {
        free(copy);
        return OTR_NOMEM;
    }
    *copy = *c;
    topology_collection_forget(t, c->name);
    insert_at(t->by_name, t->collections_count, place_by_name(t, c->name), copy);
    insert_at(t->by_id, t->collections_count, place_by_id(t, c->id), copy);
    t->collections_count++;
    return 0;
}

void topology_collection_forget(struct topology *t, const char *name)
{
    uint32_t at = place_by_name(t, name);
    struct topology_collection *c;

    if (topology_collection(t, name) == NULL) {
        return;
    }
    c = t->by_name[at];
    remove_at(t->by_id, t->collections_count, place_by_id(t, c->id));
    remove_at(t->by_name, t->collections_count, at);
    t->collections_count--;
    free(c);
}
