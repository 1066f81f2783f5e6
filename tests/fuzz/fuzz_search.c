/* The other bodies of the REST calls: searches, lists of ids, collections. The first byte chooses which, and a search's
 * dimension and metric. What is accepted is within its bounds and says the same when it is printed and read again.
 *
 * Covers: sidecar/api/json_points.c */
#include "sidecar/api/json.h"
#include "sidecar/api/json_points.h"
#include "sidecar/api/json_print.h"
#include "sidecar/core/score.h"
#include "tests/fuzz/fuzz.h"

#include <math.h>

static void print_search(struct text *t, const struct json_search *s, uint32_t dimension)
{
    text_puts(t, "{\"vector\":");
    json_print_floats(t, s->vector, dimension);
    text_printf(t, ",\"k\":%u,\"with_vector\":%s", s->k, s->with_vector ? "true" : "false");
    if (s->with_threshold) {
        text_puts(t, ",\"score_threshold\":");
        json_print_double(t, s->threshold);
    }
    if (s->filter != NULL) {
        text_printf(t, ",\"filter\":%s", s->filter);
    }
    text_puts(t, "}");
    FUZZ_CHECK(t->failed == 0);
}

static void search(uint8_t choice, char *body, size_t bytes)
{
    struct json_vector_rules rules = {.dimension = 1 + (choice & 3),
                                      .metric = (enum otr_metric)(OTR_METRIC_COSINE + (choice >> 2 & 3))};
    struct otr_errmsg msg = {0};
    struct json_search s, again;
    struct text t;
    char *held;

    if (json_search_read(&s, &rules, body, bytes, &msg) != 0) {
        FUZZ_CHECK(msg.text[0] != '\0' && s.vector == NULL);
        return;
    }
    FUZZ_CHECK(s.k >= 1 && s.k <= JSON_SEARCH_K_MAX && (!s.with_threshold || isfinite(s.threshold)));
    text_init(&t, 1 << 20);
    print_search(&t, &s, rules.dimension);
    held = fuzz_copy(t.bytes, t.used, JSON_SLACK);
    FUZZ_CHECK(json_search_read(&again, &rules, held, t.used, &msg) == 0);
    FUZZ_CHECK(memcmp(s.vector, again.vector, rules.dimension * sizeof(float)) == 0 && s.k == again.k);
    FUZZ_CHECK(s.with_threshold == again.with_threshold && (!s.with_threshold || !(s.threshold != again.threshold)));
    FUZZ_CHECK((s.filter == NULL) == (again.filter == NULL) && s.with_vector == again.with_vector);
    FUZZ_CHECK(s.filter == NULL || strcmp(s.filter, again.filter) == 0);
    free(held);
    text_close(&t);
    json_search_close(&again);
    json_search_close(&s);
}

static void ids(char *body, size_t bytes)
{
    struct otr_errmsg msg = {0};
    struct json_points p, again;
    struct text t;
    char *held;

    if (json_ids_read(&p, body, bytes, &msg) != 0) {
        FUZZ_CHECK(msg.text[0] != '\0' && p.points == NULL);
        return;
    }
    text_init(&t, 1 << 20);
    text_puts(&t, "{\"ids\":[");
    for (size_t i = 0; i < p.count; i++) {
        FUZZ_CHECK(json_id_fault(p.points[i].id, p.points[i].id_bytes) == NULL);
        text_puts(&t, i == 0 ? "" : ",");
        json_print_string(&t, p.points[i].id, p.points[i].id_bytes);
    }
    text_puts(&t, "]}");
    held = fuzz_copy(t.bytes, t.used, JSON_SLACK);
    FUZZ_CHECK(json_ids_read(&again, held, t.used, &msg) == 0 && again.count == p.count);
    for (size_t i = 0; i < p.count; i++) {
        FUZZ_CHECK(p.points[i].id_bytes == again.points[i].id_bytes);
        FUZZ_CHECK(memcmp(p.points[i].id, again.points[i].id, p.points[i].id_bytes) == 0);
    }
    free(held);
    text_close(&t);
    json_points_close(&again);
    json_points_close(&p);
}

static void collection(char *body, size_t bytes)
{
    struct otr_errmsg msg = {0};
    struct json_collection c;

    if (json_collection_read(&c, body, bytes, &msg) != 0) {
        FUZZ_CHECK(msg.text[0] != '\0');
        return;
    }
    FUZZ_CHECK(c.name[0] != '\0' && memchr(c.name, 0, sizeof c.name) != NULL);
    FUZZ_CHECK(c.dimension >= 1 && c.dimension <= OTR_DIMENSION_MAX && score_metric_name(c.metric) != NULL);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    char *body;

    if (bytes == 0) {
        return 0;
    }
    body = fuzz_copy(data + 1, bytes - 1, JSON_SLACK);
    if (data[0] == 'i') {
        ids(body, bytes - 1);
    } else if (data[0] == 'c') {
        collection(body, bytes - 1);
    } else {
        search(data[0], body, bytes - 1);
    }
    free(body);
    return 0;
}
