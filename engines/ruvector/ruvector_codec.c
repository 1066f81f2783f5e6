#include "engines/ruvector/ruvector_codec.h"

#include "sidecar/io/parse_json.h"

#include <assert.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the bodies are little-endian, and so are floats in memory");
static_assert(sizeof(float) == 4 && sizeof(double) == 8, "IEEE 754");

enum {
    MAGIC = 0x5652544f, /* "OTRV" */
    VERSION = 1,
    KIND_UPSERT = 1,
    KIND_DELETE = 2,
    KIND_SEARCH = 3,
    KIND_HITS = 4,
    KIND_DONE = 5,
    COUNT_MAX = 1 << 20, /* points of one body: far more than a caller sends, far less than overflows below */
};

struct header {
    uint32_t magic;
    uint16_t version;
    uint16_t kind;
    uint32_t count;
    uint32_t dimension;
};
static_assert(sizeof(struct header) == 16, "this is the format");

static const char *const metric_names[] = {
    [OTR_METRIC_COSINE] = "Cosine",
    [OTR_METRIC_EUCLIDEAN] = "Euclidean",
    [OTR_METRIC_DOT] = "DotProduct",
    [OTR_METRIC_MANHATTAN] = "Manhattan",
};
enum { METRICS_END = sizeof metric_names / sizeof metric_names[0] };

/* --- binary bodies ------------------------------------------------------------------------------------------------ */

static uint8_t *put(uint8_t *at, const void *data, size_t bytes)
{
    if (bytes > 0) {
        memcpy(at, data, bytes);
    }
    return at + bytes;
}

/* Room for a body of `bytes`, its header written. Returns where the rest goes, NULL when out of memory. */
static uint8_t *body_new(struct ruvector_body *body, size_t bytes, uint16_t kind, uint32_t count, uint32_t dimension)
{
    struct header header = {.magic = MAGIC, .version = VERSION, .kind = kind, .count = count, .dimension = dimension};

    body->data = malloc(bytes);
    if (body->data == NULL) {
        return NULL;
    }
    body->bytes = bytes;
    return put(body->data, &header, sizeof header);
}

static int check_ids(const struct otr_point *points, size_t count)
{
    if (count > COUNT_MAX) {
        return OTR_TOOBIG;
    }
    for (size_t i = 0; i < count; i++) {
        if (points[i].id_bytes == 0 || points[i].id_bytes > OTR_POINT_ID_MAX) {
            return OTR_INVALID;
        }
    }
    return 0;
}

int ruvector_codec_upsert(const struct otr_point *points, size_t count, struct ruvector_body *body)
{
    uint32_t dimension = count > 0 ? points[0].dimension : 0;
    size_t bytes = sizeof(struct header);
    uint8_t *at;
    int rv = check_ids(points, count);

    if (rv != 0) {
        return rv;
    }
    for (size_t i = 0; i < count; i++) {
        if (points[i].dimension != dimension || dimension > OTR_DIMENSION_MAX) {
            return OTR_INVALID;
        }
        bytes += 8 + (size_t)dimension * 4 + points[i].id_bytes + points[i].metadata_bytes;
    }
    if (bytes > OTR_BODY_MAX) {
        return OTR_TOOBIG;
    }
    at = body_new(body, bytes, KIND_UPSERT, (uint32_t)count, dimension);
    if (at == NULL) {
        return OTR_NOMEM;
    }
    for (size_t i = 0; i < count; i++) {
        at = put(at, &points[i].id_bytes, 4);
        at = put(at, &points[i].metadata_bytes, 4);
    }
    for (size_t i = 0; i < count; i++) {
        at = put(at, points[i].vector, (size_t)dimension * 4);
    }
    for (size_t i = 0; i < count; i++) {
        at = put(at, points[i].id, points[i].id_bytes);
    }
    for (size_t i = 0; i < count; i++) {
        at = put(at, points[i].metadata, points[i].metadata_bytes);
    }
    assert(at == (uint8_t *)body->data + bytes);
    return 0;
}

int ruvector_codec_erase(const struct otr_point *points, size_t count, struct ruvector_body *body)
{
    size_t bytes = sizeof(struct header);
    uint8_t *at;
    int rv = check_ids(points, count);

    if (rv != 0) {
        return rv;
    }
    for (size_t i = 0; i < count; i++) {
        bytes += 4 + points[i].id_bytes;
    }
    if (bytes > OTR_BODY_MAX) {
        return OTR_TOOBIG;
    }
    at = body_new(body, bytes, KIND_DELETE, (uint32_t)count, 0);
    if (at == NULL) {
        return OTR_NOMEM;
    }
    for (size_t i = 0; i < count; i++) {
        at = put(at, &points[i].id_bytes, 4);
    }
    for (size_t i = 0; i < count; i++) {
        at = put(at, points[i].id, points[i].id_bytes);
    }
    assert(at == (uint8_t *)body->data + bytes);
    return 0;
}

int ruvector_codec_search(const float *vector, uint32_t dimension, uint32_t k, struct ruvector_body *body)
{
    uint8_t *at;

    if (dimension > OTR_DIMENSION_MAX) {
        return OTR_INVALID;
    }
    at = body_new(body, sizeof(struct header) + (size_t)dimension * 4, KIND_SEARCH, k, dimension);
    if (at == NULL) {
        return OTR_NOMEM;
    }
    put(at, vector, (size_t)dimension * 4);
    return 0;
}

static int read_header(const void *data, size_t bytes, uint16_t kind, struct header *header, struct otr_errmsg *msg)
{
    if (bytes < sizeof *header) {
        otr_errmsg_set(msg, "an answer of %zu bytes, shorter than its header", bytes);
        return OTR_INVALID;
    }
    memcpy(header, data, sizeof *header);
    if (header->magic != MAGIC || header->version != VERSION || header->kind != kind) {
        otr_errmsg_set(msg, "an answer that is not of this protocol");
        return OTR_INVALID;
    }
    return 0;
}

int ruvector_codec_hits(const void *data, size_t bytes, struct otr_engine_hit **hits, size_t *hits_count,
                        struct otr_errmsg *msg)
{
    const uint8_t *scores;
    const uint8_t *lengths;
    struct header header;
    size_t at;
    size_t kept = 0;
    int rv = read_header(data, bytes, KIND_HITS, &header, msg);

    if (rv != 0) {
        return rv;
    }
    if (header.count > (bytes - sizeof header) / 12) {
        otr_errmsg_set(msg, "an answer of %zu bytes cannot hold its %u hits", bytes, header.count);
        return OTR_INVALID;
    }
    *hits = calloc((size_t)header.count + 1, sizeof **hits);
    if (*hits == NULL) {
        return OTR_NOMEM;
    }
    scores = (const uint8_t *)data + sizeof header;
    lengths = scores + (size_t)header.count * 8;
    at = sizeof header + (size_t)header.count * 12;
    for (uint32_t i = 0; i < header.count; i++) {
        struct otr_engine_hit hit = {.id = (const char *)data + at};

        memcpy(&hit.score, scores + (size_t)i * 8, 8);
        memcpy(&hit.id_bytes, lengths + (size_t)i * 4, 4);
        if (hit.id_bytes > bytes - at) {
            break;
        }
        at += hit.id_bytes;
        if (hit.id_bytes > 0 && hit.id_bytes <= OTR_POINT_ID_MAX && !isnan(hit.score)) {
            (*hits)[kept++] = hit;
        }
        if (i + 1 == header.count && at == bytes) {
            *hits_count = kept;
            return 0;
        }
    }
    if (header.count == 0 && at == bytes) {
        *hits_count = 0;
        return 0;
    }
    free(*hits);
    *hits = NULL;
    otr_errmsg_set(msg, "an answer whose ids do not end where it ends");
    return OTR_INVALID;
}

int ruvector_codec_done(const void *data, size_t bytes, struct otr_errmsg *msg)
{
    struct header header;

    return read_header(data, bytes, KIND_DONE, &header, msg);
}

/* --- JSON -----------------------------------------------------------------------------------------------------------
 */

/* Hands the text over as a body and frees the tree. */
static int body_from_json(cJSON *json, struct ruvector_body *body)
{
    char *text = json != NULL ? cJSON_PrintUnformatted(json) : NULL;

    cJSON_Delete(json);
    if (text == NULL) {
        return OTR_NOMEM;
    }
    body->data = text;
    body->bytes = strlen(text);
    return 0;
}

int ruvector_codec_make(const char *name, uint32_t dimension, enum otr_metric metric, const char *hnsw,
                        struct ruvector_body *body)
{
    cJSON *json;

    if ((unsigned)metric >= METRICS_END || metric_names[metric] == NULL) {
        return OTR_INVALID;
    }
    json = cJSON_CreateObject();
    if (json == NULL) {
        return OTR_NOMEM;
    }
    if (cJSON_AddStringToObject(json, "name", name) == NULL ||
        cJSON_AddNumberToObject(json, "dimension", dimension) == NULL ||
        cJSON_AddStringToObject(json, "metric", metric_names[metric]) == NULL ||
        (hnsw != NULL && cJSON_AddRawToObject(json, "hnsw", hnsw) == NULL)) {
        cJSON_Delete(json);
        return OTR_NOMEM;
    }
    return body_from_json(json, body);
}

int ruvector_codec_options(const char *options, char **hnsw, struct otr_errmsg *msg)
{
    const cJSON *member;
    cJSON *json;
    int rv = 0;

    *hnsw = NULL;
    if (options == NULL) {
        return 0;
    }
    json = cJSON_ParseWithOpts(options, NULL, true);
    if (!cJSON_IsObject(json)) {
        otr_errmsg_set(msg, "engine options must be a JSON object: %.200s", options);
        cJSON_Delete(json);
        return OTR_INVALID;
    }
    cJSON_ArrayForEach(member, json)
    {
        if (strcmp(member->string, "hnsw") != 0 || !(cJSON_IsObject(member) || cJSON_IsNull(member)) || *hnsw != NULL) {
            otr_errmsg_set(
                msg, "engine option \"%.100s\" is not understood; there is \"hnsw\": {m, efConstruction, efSearch}",
                member->string);
            rv = OTR_INVALID;
            break;
        }
        if (cJSON_IsObject(member)) {
            *hnsw = cJSON_PrintUnformatted(member);
            if (*hnsw == NULL) {
                rv = OTR_NOMEM;
                break;
            }
        }
    }
    if (rv != 0) {
        free(*hnsw);
        *hnsw = NULL;
    }
    cJSON_Delete(json);
    return rv;
}

/* A whole number in a JSON answer; false when it is none or out of range. */
static bool get_whole(const cJSON *json, const char *name, double max, uint64_t *value)
{
    const cJSON *member = cJSON_GetObjectItemCaseSensitive(json, name);

    if (!cJSON_IsNumber(member) || !(member->valuedouble >= 0) || member->valuedouble > max ||
        floor(member->valuedouble) != member->valuedouble) {
        return false;
    }
    *value = (uint64_t)member->valuedouble;
    return true;
}

static bool get_metric(const cJSON *json, enum otr_metric *metric)
{
    const char *name = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(json, "metric"));

    for (unsigned i = 0; name != NULL && i < METRICS_END; i++) {
        if (metric_names[i] != NULL && strcmp(metric_names[i], name) == 0) {
            *metric = (enum otr_metric)i;
            return true;
        }
    }
    return false;
}

int ruvector_codec_info(const char *data, size_t bytes, struct ruvector_collection_info *info, struct otr_errmsg *msg)
{
    cJSON *json = parse_json(data, bytes);
    uint64_t dimension = 0;
    bool ok;

    ok = get_whole(json, "dimension", UINT32_MAX, &dimension) && get_whole(json, "count", 1e15, &info->count) &&
         get_metric(json, &info->metric);
    info->dimension = (uint32_t)dimension;
    cJSON_Delete(json);
    if (!ok) {
        otr_errmsg_set(msg, "an answer without dimension, metric and count");
        return OTR_INVALID;
    }
    return 0;
}

/* Copies a string of 1 to OTR_ENGINE_ID_MAX - 1 bytes. */
static bool get_id(const cJSON *json, const char *name, char id[OTR_ENGINE_ID_MAX])
{
    const char *text = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(json, name));
    size_t bytes = text != NULL ? strlen(text) : 0;

    if (bytes == 0 || bytes >= OTR_ENGINE_ID_MAX) {
        return false;
    }
    memset(id, 0, OTR_ENGINE_ID_MAX); /* so that two of them compare as memory */
    memcpy(id, text, bytes + 1);
    return true;
}

int ruvector_codec_health(const char *data, size_t bytes, struct otr_engine_status *status, struct otr_errmsg *msg)
{
    cJSON *json = parse_json(data, bytes);
    const char *text = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(json, "status"));
    struct otr_engine_status found = *status;
    int rv = OTR_INVALID;

    if (text == NULL) {
        otr_errmsg_set(msg, "/health answers something else than a RuVector server");
    } else if (strcmp(text, "healthy") != 0) {
        otr_errmsg_set(msg, "the engine says that it is %.50s", text);
    } else if (!get_id(json, "data_id", found.data_id) || !get_id(json, "boot_id", found.boot_id)) {
        otr_errmsg_set(msg, "/health names no data_id and boot_id: this is not the server of engines/ruvector/node");
    } else {
        *status = found;
        rv = 0;
    }
    cJSON_Delete(json);
    return rv;
}

void ruvector_codec_error_text(const char *data, size_t bytes, char *text, size_t text_bytes)
{
    cJSON *json = parse_json(data, bytes);
    const char *error = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(json, "error"));
    size_t used = 0;

    if (error != NULL) {
        data = error;
        bytes = strlen(error);
    }
    while (used < bytes && used + 1 < text_bytes && data[used] != '\0') {
        unsigned char c = (unsigned char)data[used];

        text[used++] = (char)(c < 0x20 || c == 0x7f || (error == NULL && c >= 0x80) ? '?' : c);
    }
    text[used] = '\0';
    cJSON_Delete(json);
}

/* --- paths ----------------------------------------------------------------------------------------------------------
 */

char *ruvector_codec_url(const char *base, const char *name, const char *suffix)
{
    static const char plain[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_~";
    size_t room = strlen(base) + sizeof "/collections/" + (name != NULL ? strlen(name) * 3 : 0) + strlen(suffix);
    char *url = malloc(room);
    size_t at;

    if (url == NULL) {
        return NULL;
    }
    at = (size_t)snprintf(url, room, "%s/collections%s", base, name != NULL ? "/" : "");
    for (const char *c = name; c != NULL && *c != '\0'; c++) {
        /* Dots too: nobody on the way may take "." or ".." for a step. */
        if (strchr(plain, *c) != NULL) {
            url[at++] = *c;
        } else {
            at += (size_t)snprintf(url + at, room - at, "%%%02X", (unsigned char)*c);
        }
    }
    snprintf(url + at, room - at, "%s", suffix);
    return url;
}
