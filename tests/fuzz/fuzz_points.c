/* Bodies of PUT points: the first byte chooses dimension and metric, the rest is the body. What is accepted says the
 * same when it is printed and read again, and survives the journal's encoding bit by bit.
 *
 * Covers: sidecar/api/json_points.c */
#include "sidecar/api/json.h"
#include "sidecar/api/json_points.h"
#include "sidecar/api/json_print.h"
#include "sidecar/core/codec.h"
#include "tests/fuzz/fuzz.h"

#include <math.h>

static const struct otr_request_id request_id = {{1, 2, 3}};

static int read_copy(struct json_points *out, const struct json_vector_rules *rules, const char *text, size_t bytes,
                     char **held)
{
    struct otr_errmsg msg = {0};
    int rv;

    *held = fuzz_copy(text, bytes, JSON_SLACK);
    rv = json_points_read(out, rules, &request_id, *held, bytes, &msg);
    FUZZ_CHECK(rv == 0 || msg.text[0] != '\0');
    FUZZ_CHECK(rv == 0 || (out->points == NULL && out->count == 0));
    return rv;
}

static void check_point(const struct otr_point *p, const struct json_vector_rules *rules)
{
    FUZZ_CHECK(json_id_fault(p->id, p->id_bytes) == NULL);
    FUZZ_CHECK(p->dimension == rules->dimension && p->metadata_bytes <= OTR_METADATA_MAX);
    for (uint32_t i = 0; i < p->dimension; i++) {
        FUZZ_CHECK(isfinite(p->vector[i]));
    }
}

static void check_same(const struct otr_point *a, const struct otr_point *b)
{
    FUZZ_CHECK(a->id_bytes == b->id_bytes && memcmp(a->id, b->id, a->id_bytes) == 0);
    FUZZ_CHECK(a->dimension == b->dimension && memcmp(a->vector, b->vector, a->dimension * sizeof(float)) == 0);
    FUZZ_CHECK(a->metadata_bytes == b->metadata_bytes);
    FUZZ_CHECK(a->metadata_bytes == 0 || memcmp(a->metadata, b->metadata, a->metadata_bytes) == 0);
}

static void print(struct text *t, const struct json_points *p)
{
    text_init(t, 64 << 20);
    text_puts(t, "{\"points\":[");
    for (size_t i = 0; i < p->count; i++) {
        text_puts(t, i == 0 ? "{\"id\":" : ",{\"id\":");
        json_print_string(t, p->points[i].id, p->points[i].id_bytes);
        text_puts(t, ",\"vector\":");
        json_print_floats(t, p->points[i].vector, p->points[i].dimension);
        if (p->points[i].metadata_bytes != 0) {
            text_puts(t, ",\"metadata\":");
            text_put(t, p->points[i].metadata, p->points[i].metadata_bytes);
        }
        text_puts(t, "}");
    }
    text_puts(t, "]}");
    FUZZ_CHECK(t->failed == 0);
}

static void through_text(const struct json_points *p, const struct json_vector_rules *rules)
{
    struct json_points again;
    struct text t;
    char *held;

    print(&t, p);
    FUZZ_CHECK(read_copy(&again, rules, t.bytes, t.used, &held) == 0 && again.count == p->count);
    for (size_t i = 0; i < p->count; i++) {
        check_same(&p->points[i], &again.points[i]);
    }
    json_points_close(&again);
    free(held);
    text_close(&t);
}

static void through_journal(const struct json_points *p)
{
    size_t bytes = put_body_bytes(p->points, p->count);
    uint8_t *body = malloc(bytes);
    struct otr_point point;
    struct body_iter it;

    FUZZ_CHECK(body != NULL);
    put_body_write(body, 7, p->points, p->count);
    FUZZ_CHECK(body_iter_init(&it, RECORD_PUT, body, bytes) == 0 && it.collection == 7);
    for (size_t i = 0; i < p->count; i++) {
        FUZZ_CHECK(body_next(&it, &point) == 0);
        check_same(&p->points[i], &point);
    }
    FUZZ_CHECK(body_next(&it, &point) == OTR_NOTFOUND);
    free(body);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    struct json_vector_rules rules;
    struct json_points points;
    char *held;

    if (bytes == 0) {
        return 0;
    }
    rules = (struct json_vector_rules){.dimension = 1 + (data[0] & 3),
                                       .metric = (enum otr_metric)(OTR_METRIC_COSINE + (data[0] >> 2 & 3))};
    if (read_copy(&points, &rules, (const char *)data + 1, bytes - 1, &held) == 0) {
        for (size_t i = 0; i < points.count; i++) {
            check_point(&points.points[i], &rules);
        }
        through_text(&points, &rules);
        through_journal(&points);
        json_points_close(&points);
    }
    free(held);
    return 0;
}
