#define XXH_INLINE_ALL
#include "sidecar/api/json_points.h"

#include "sidecar/api/json.h"
#include "sidecar/api/utf8.h"
#include "sidecar/core/score.h"

#include <stdlib.h>
#include <xxhash.h>

enum { UUID_BYTES = 36, FILTER_BYTES_MAX = OTR_METADATA_MAX };

/* A member of an object by name: its number in `names`, which ends with NULL. */
static int find_name(const char *const *names, const char *key, size_t key_bytes)
{
    for (int i = 0; names[i] != NULL; i++) {
        if (strlen(names[i]) == key_bytes && memcmp(names[i], key, key_bytes) == 0) {
            return i;
        }
    }
    return -1;
}

/* The next member of an object whose members are `names`; *which is -1 behind the last. `seen` is a set of bits. */
static int next_member(struct json *j, const char *const *names, unsigned *seen, bool first, int *which)
{
    char *key;
    size_t key_bytes;
    int rv;

    rv = json_object_next(j, first, &key, &key_bytes);
    if (rv != 0 || key == NULL) {
        *which = -1;
        return rv;
    }
    *which = find_name(names, key, key_bytes);
    if (*which < 0) {
        otr_errmsg_set(j->msg, "unknown key \"%.*s\"", key_bytes > 40 ? 40 : (int)key_bytes, key);
        return OTR_INVALID;
    }
    if ((*seen & (1U << *which)) != 0) {
        otr_errmsg_set(j->msg, "the key \"%s\" comes twice", names[*which]);
        return OTR_INVALID;
    }
    *seen |= 1U << *which;
    return 0;
}

/* Reads the value of the member with that number. */
typedef int (*member_cb)(struct json *j, void *data, int which);

/* The whole text: one object of these members; those of the bits `needed` must be there. */
static int read_whole(struct json *j, const char *const *names, unsigned needed, member_cb read, void *data)
{
    unsigned seen = 0;
    int which;
    int rv = json_object_begin(j);

    for (bool first = true; rv == 0; first = false) {
        rv = next_member(j, names, &seen, first, &which);
        if (rv != 0 || which < 0) {
            break;
        }
        rv = read(j, data, which);
    }
    for (which = 0; rv == 0 && names[which] != NULL; which++) {
        if ((needed & ~seen & (1U << which)) != 0) {
            otr_errmsg_set(j->msg, "no \"%s\"", names[which]);
            rv = OTR_INVALID;
        }
    }
    return rv == 0 ? json_end(j) : rv;
}

static bool take_null(struct json *j)
{
    return json_peek(j) == 'n' && json_null(j) == 0;
}

/* --- parts -------------------------------------------------------------------------------------------------------- */

const char *json_id_fault(const char *id, size_t bytes)
{
    if (bytes == 0) {
        return "an id must not be empty";
    }
    if (bytes > OTR_POINT_ID_MAX) {
        return "an id has at most 512 bytes";
    }
    if (memchr(id, 0, bytes) != NULL) {
        return "an id must not contain NUL";
    }
    return utf8_valid(id, bytes) ? NULL : "an id must be UTF-8";
}

static int read_id(struct json *j, struct otr_point *p)
{
    char *id;
    size_t bytes;
    const char *fault;
    int rv;

    rv = json_string(j, &id, &bytes);
    if (rv != 0) {
        return rv;
    }
    fault = json_id_fault(id, bytes);
    if (fault != NULL) {
        otr_errmsg_set(j->msg, "%s", fault);
        return OTR_INVALID;
    }
    p->id = id;
    p->id_bytes = (uint32_t)bytes;
    return 0;
}

static int read_vector(struct json *j, const struct json_vector_rules *rules, struct arena *arena, float **out)
{
    float *vector = arena_alloc(arena, rules->dimension * sizeof *vector);
    size_t count;
    bool zero = true;
    int rv;

    if (vector == NULL) {
        return OTR_NOMEM;
    }
    rv = json_floats(j, vector, rules->dimension, &count);
    if (rv != 0) {
        return rv;
    }
    if (count != rules->dimension) {
        otr_errmsg_set(j->msg, "%zu numbers, but the collection's dimension is %u", count, rules->dimension);
        return OTR_INVALID;
    }
    for (size_t i = 0; i < count && zero; i++) {
        zero = vector[i] == 0;
    }
    if (zero && rules->metric == OTR_METRIC_COSINE) {
        otr_errmsg_set(j->msg, "a zero vector has no direction, which the metric Cosine needs");
        return OTR_INVALID;
    }
    *out = vector;
    return 0;
}

static int read_object(struct json *j, const char *what, size_t limit, const char **text, size_t *bytes)
{
    int rv;

    if (json_peek(j) != '{') {
        otr_errmsg_set(j->msg, "expected an object");
        return OTR_INVALID;
    }
    rv = json_skip(j, text, bytes);
    if (rv == 0 && *bytes > limit) {
        otr_errmsg_set(j->msg, "%zu bytes; %s has at most %zu", *bytes, what, limit);
        rv = OTR_INVALID;
    }
    return rv;
}

/* --- points ------------------------------------------------------------------------------------------------------- */

void json_points_close(struct json_points *p)
{
    free(p->points);
    arena_close(&p->arena);
    *p = (struct json_points){0};
}

static int push_point(struct json_points *out, size_t *capacity, struct otr_errmsg *msg)
{
    if (out->count == JSON_POINTS_MAX) {
        otr_errmsg_set(msg, "more than %d in one request", JSON_POINTS_MAX);
        return OTR_TOOBIG;
    }
    if (out->count == *capacity) {
        size_t grown = *capacity == 0 ? 16 : *capacity * 2;
        struct otr_point *points = realloc(out->points, grown * sizeof *points);

        if (points == NULL) {
            return OTR_NOMEM;
        }
        out->points = points;
        *capacity = grown;
    }
    out->points[out->count] = (struct otr_point){0};
    return 0;
}

static int draw_uuid(struct arena *arena, const struct otr_request_id *request_id, uint32_t number, struct otr_point *p)
{
    static const char hex[] = "0123456789abcdef";
    uint8_t seed[sizeof request_id->bytes + sizeof number];
    uint8_t bits[16];
    XXH128_canonical_t canonical;
    char *id = arena_alloc(arena, UUID_BYTES);
    size_t used = 0;

    if (id == NULL) {
        return OTR_NOMEM;
    }
    memcpy(seed, request_id->bytes, sizeof request_id->bytes);
    memcpy(seed + sizeof request_id->bytes, &number, sizeof number);
    XXH128_canonicalFromHash(&canonical, XXH3_128bits(seed, sizeof seed));
    memcpy(bits, canonical.digest, sizeof bits);
    bits[6] = (uint8_t)((bits[6] & 0x0F) | 0x40);
    bits[8] = (uint8_t)((bits[8] & 0x3F) | 0x80);
    for (size_t i = 0; i < sizeof bits; i++) {
        if (i == 4 || i == 6 || i == 8 || i == 10) {
            id[used++] = '-';
        }
        id[used++] = hex[bits[i] >> 4];
        id[used++] = hex[bits[i] & 15];
    }
    p->id = id;
    p->id_bytes = UUID_BYTES;
    return 0;
}

static int read_point(struct json *j, const struct json_vector_rules *rules, struct arena *arena, struct otr_point *p,
                      const char **where)
{
    static const char *const names[] = {"id", "vector", "metadata", NULL};
    unsigned seen = 0;
    int which = 0;
    int rv;

    *where = NULL;
    rv = json_object_begin(j);
    for (bool first = true; rv == 0; first = false) {
        float *vector;
        size_t bytes = 0;

        *where = NULL;
        rv = next_member(j, names, &seen, first, &which);
        if (rv != 0 || which < 0) {
            break;
        }
        *where = names[which];
        if (which == 0) {
            rv = take_null(j) ? 0 : read_id(j, p);
        } else if (which == 1) {
            rv = read_vector(j, rules, arena, &vector);
            if (rv == 0) {
                p->vector = vector;
                p->dimension = rules->dimension;
            }
        } else if (!take_null(j)) {
            rv = read_object(j, "metadata", OTR_METADATA_MAX, &p->metadata, &bytes);
            p->metadata_bytes = (uint32_t)bytes;
        }
    }
    if (rv == 0 && p->vector == NULL) {
        otr_errmsg_set(j->msg, "no vector");
        rv = OTR_INVALID;
    }
    return rv;
}

/* Puts the place before the words. */
static void blame(struct json *j, const char *list, size_t number, const char *member)
{
    if (member == NULL) {
        otr_errmsg_wrap(j->msg, "%s[%zu]", list, number);
    } else if (j->element == JSON_NO_ELEMENT) {
        otr_errmsg_wrap(j->msg, "%s[%zu].%s", list, number, member);
    } else {
        otr_errmsg_wrap(j->msg, "%s[%zu].%s[%zu]", list, number, member, j->element);
    }
}

struct id_order {
    uint64_t hash;
    const struct otr_point *point;
};

static int compare_ids(const void *a, const void *b)
{
    const struct id_order *x = a;
    const struct id_order *y = b;
    int order;

    if (x->hash != y->hash) {
        return x->hash < y->hash ? -1 : 1;
    }
    if (x->point->id_bytes != y->point->id_bytes) {
        return x->point->id_bytes < y->point->id_bytes ? -1 : 1;
    }
    order = memcmp(x->point->id, y->point->id, x->point->id_bytes);
    if (order != 0) {
        return order;
    }
    return x->point < y->point ? -1 : x->point > y->point;
}

/* The same id twice in a batch has no order that a client could rely on. */
static int refuse_twins(const struct json_points *p, const char *list, struct otr_errmsg *msg)
{
    struct id_order *order;

    if (p->count < 2) {
        return 0;
    }
    order = malloc(p->count * sizeof *order);
    if (order == NULL) {
        return OTR_NOMEM;
    }
    for (size_t i = 0; i < p->count; i++) {
        order[i] =
            (struct id_order){.hash = XXH3_64bits(p->points[i].id, p->points[i].id_bytes), .point = &p->points[i]};
    }
    qsort(order, p->count, sizeof *order, compare_ids);
    for (size_t i = 1; i < p->count; i++) {
        const struct otr_point *a = order[i - 1].point;
        const struct otr_point *b = order[i].point;

        if (a->id_bytes == b->id_bytes && memcmp(a->id, b->id, a->id_bytes) == 0) {
            otr_errmsg_set(msg, "%s[%zu] and %s[%zu] have the same id", list, (size_t)(a - p->points), list,
                           (size_t)(b - p->points));
            free(order);
            return OTR_INVALID;
        }
    }
    free(order);
    return 0;
}

static int read_points(struct json *j, struct json_points *out, const struct json_vector_rules *rules,
                       const struct otr_request_id *request_id)
{
    size_t capacity = 0;
    int rv;

    rv = json_array_begin(j);
    if (rv != 0) {
        otr_errmsg_wrap(j->msg, "points");
        return rv;
    }
    for (bool first = true;; first = false) {
        const char *member;
        struct otr_point *p;
        bool more;

        rv = json_array_next(j, first, &more);
        if (rv != 0 || !more) {
            return rv;
        }
        rv = push_point(out, &capacity, j->msg);
        if (rv != 0) {
            otr_errmsg_wrap(j->msg, "points");
            return rv;
        }
        p = &out->points[out->count];
        rv = read_point(j, rules, &out->arena, p, &member);
        if (rv != 0) {
            blame(j, "points", out->count, member);
            return rv;
        }
        if (p->id == NULL) {
            rv = draw_uuid(&out->arena, request_id, (uint32_t)out->count, p);
            if (rv != 0) {
                return rv;
            }
        }
        out->count++;
    }
}

static int read_ids(struct json *j, struct json_points *out)
{
    size_t capacity = 0;
    int rv;

    rv = json_array_begin(j);
    if (rv != 0) {
        otr_errmsg_wrap(j->msg, "ids");
        return rv;
    }
    for (bool first = true;; first = false) {
        bool more;

        rv = json_array_next(j, first, &more);
        if (rv != 0 || !more) {
            return rv;
        }
        rv = push_point(out, &capacity, j->msg);
        if (rv != 0) {
            otr_errmsg_wrap(j->msg, "ids");
            return rv;
        }
        rv = read_id(j, &out->points[out->count]);
        if (rv != 0) {
            blame(j, "ids", out->count, NULL);
            return rv;
        }
        out->count++;
    }
}

struct list {
    struct json_points *out;
    const struct json_vector_rules *rules;
    const struct otr_request_id *request_id;
};

static int read_list_member(struct json *j, void *data, int which)
{
    const struct list *l = data;

    (void)which;
    return l->rules != NULL ? read_points(j, l->out, l->rules, l->request_id) : read_ids(j, l->out);
}

/* An object with the one member `name`, whose value is read by read_points or (rules NULL) read_ids. */
static int read_list(struct json_points *out, const char *name, const struct json_vector_rules *rules,
                     const struct otr_request_id *request_id, char *text, size_t bytes, struct otr_errmsg *msg)
{
    const char *const names[] = {name, NULL};
    struct list list = {out, rules, request_id};
    struct json j;
    int rv;

    *out = (struct json_points){0};
    json_init(&j, text, bytes, msg);
    rv = read_whole(&j, names, 1, read_list_member, &list);
    if (rv == 0) {
        rv = refuse_twins(out, name, msg);
    }
    json_close(&j);
    if (rv != 0) {
        json_points_close(out);
    }
    return rv;
}

int json_points_read(struct json_points *out, const struct json_vector_rules *rules,
                     const struct otr_request_id *request_id, char *text, size_t bytes, struct otr_errmsg *msg)
{
    return read_list(out, "points", rules, request_id, text, bytes, msg);
}

int json_ids_read(struct json_points *out, char *text, size_t bytes, struct otr_errmsg *msg)
{
    return read_list(out, "ids", NULL, NULL, text, bytes, msg);
}

/* --- search ------------------------------------------------------------------------------------------------------- */

void json_search_close(struct json_search *s)
{
    arena_close(&s->arena);
    *s = (struct json_search){0};
}

static int read_k(struct json *j, uint32_t *k)
{
    int64_t value;
    int rv = json_peek(j) == '0' ? json_integer(j, &value) : OTR_INVALID;

    if (rv != 0 || value < 1 || value > JSON_SEARCH_K_MAX) {
        otr_errmsg_set(j->msg, "must be an integer from 1 to %d", JSON_SEARCH_K_MAX);
        return OTR_INVALID;
    }
    *k = (uint32_t)value;
    return 0;
}

static int read_filter(struct json *j, struct json_search *out)
{
    const char *text;
    size_t bytes;
    int rv = read_object(j, "a filter", FILTER_BYTES_MAX, &text, &bytes);

    if (rv != 0) {
        return rv;
    }
    out->filter = arena_copy(&out->arena, text, bytes);
    return out->filter == NULL ? OTR_NOMEM : 0;
}

enum search_member { SEARCH_VECTOR, SEARCH_K, SEARCH_THRESHOLD, SEARCH_FILTER, SEARCH_WITH_VECTOR };
static const char *const search_names[] = {"vector", "k", "score_threshold", "filter", "with_vector", NULL};

struct search {
    struct json_search *out;
    const struct json_vector_rules *rules;
};

static int read_search_value(struct json *j, const struct search *s, int which)
{
    struct json_search *out = s->out;

    if (which == SEARCH_VECTOR) {
        return read_vector(j, s->rules, &out->arena, &out->vector);
    }
    if (take_null(j)) {
        return 0;
    }
    switch ((enum search_member)which) {
    case SEARCH_K:
        return read_k(j, &out->k);
    case SEARCH_THRESHOLD:
        out->with_threshold = true;
        return json_double(j, &out->threshold);
    case SEARCH_FILTER:
        return read_filter(j, out);
    case SEARCH_WITH_VECTOR:
    default:
        return json_bool(j, &out->with_vector);
    }
}

static int read_search_member(struct json *j, void *data, int which)
{
    int rv = read_search_value(j, data, which);

    if (rv != 0 && j->element == JSON_NO_ELEMENT) {
        otr_errmsg_wrap(j->msg, "%s", search_names[which]);
    } else if (rv != 0) {
        otr_errmsg_wrap(j->msg, "%s[%zu]", search_names[which], j->element);
    }
    return rv;
}

int json_search_read(struct json_search *out, const struct json_vector_rules *rules, char *text, size_t bytes,
                     struct otr_errmsg *msg)
{
    struct search search = {out, rules};
    struct json j;
    int rv;

    *out = (struct json_search){.k = JSON_SEARCH_K_DEFAULT};
    json_init(&j, text, bytes, msg);
    rv = read_whole(&j, search_names, 1U << SEARCH_VECTOR, read_search_member, &search);
    json_close(&j);
    if (rv != 0) {
        json_search_close(out);
    }
    return rv;
}

/* --- collections -------------------------------------------------------------------------------------------------- */

static int read_name(struct json *j, char name[OTR_NAME_MAX + 1])
{
    char *text;
    size_t bytes;
    int rv = json_string(j, &text, &bytes);

    if (rv != 0) {
        return rv;
    }
    if (bytes == 0 || bytes > OTR_NAME_MAX || memchr(text, 0, bytes) != NULL) {
        otr_errmsg_set(j->msg, "1 to %d characters", OTR_NAME_MAX);
        return OTR_INVALID;
    }
    memcpy(name, text, bytes);
    name[bytes] = '\0';
    return 0;
}

static int read_dimension(struct json *j, uint32_t *dimension)
{
    int64_t value;
    int rv = json_peek(j) == '0' ? json_integer(j, &value) : OTR_INVALID;

    if (rv != 0 || value < 1 || value > OTR_DIMENSION_MAX) {
        otr_errmsg_set(j->msg, "must be an integer from 1 to %d", OTR_DIMENSION_MAX);
        return OTR_INVALID;
    }
    *dimension = (uint32_t)value;
    return 0;
}

static int read_metric(struct json *j, enum otr_metric *metric)
{
    char text[OTR_NAME_MAX + 1];
    int rv;

    if (take_null(j)) {
        return 0;
    }
    rv = read_name(j, text);
    if (rv == 0 && !score_metric_parse(text, metric)) {
        otr_errmsg_set(j->msg, "must be Cosine, Euclidean, DotProduct or Manhattan");
        rv = OTR_INVALID;
    }
    return rv;
}

enum collection_member { COLLECTION_NAME, COLLECTION_DIMENSION, COLLECTION_METRIC };
static const char *const collection_names[] = {"name", "dimension", "metric", NULL};

static int read_collection_member(struct json *j, void *data, int which)
{
    struct json_collection *out = data;
    int rv = which == COLLECTION_NAME        ? read_name(j, out->name)
             : which == COLLECTION_DIMENSION ? read_dimension(j, &out->dimension)
                                             : read_metric(j, &out->metric);

    if (rv != 0) {
        otr_errmsg_wrap(j->msg, "%s", collection_names[which]);
    }
    return rv;
}

int json_collection_read(struct json_collection *out, char *text, size_t bytes, struct otr_errmsg *msg)
{
    struct json j;
    int rv;

    *out = (struct json_collection){.metric = OTR_METRIC_COSINE};
    json_init(&j, text, bytes, msg);
    rv = read_whole(&j, collection_names, 1U << COLLECTION_NAME | 1U << COLLECTION_DIMENSION, read_collection_member,
                    out);
    json_close(&j);
    return rv;
}
