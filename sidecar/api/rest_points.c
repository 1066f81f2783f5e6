#include "sidecar/api/json_print.h"
#include "sidecar/api/rest.h"

#include <stdlib.h>

/* --- the answer to a write ---------------------------------------------------------------------------------------- */

/* Outrigger-Position and Outrigger-Request-Id, ended by a NUL. */
static void print_write_headers(struct text *t, const struct rest_request *r, const struct door_write_result *result)
{
    bool any = false;

    for (size_t i = 0; i < result->parts_count; i++) {
        const struct door_write_part *part = &result->parts[i];

        if (part->applied == DOOR_APPLIED) {
            text_printf(t, "%s%u:%llu:%llu", any ? "," : "Outrigger-Position: ", part->shard,
                        (unsigned long long)part->position.epoch, (unsigned long long)part->position.index);
            any = true;
        }
    }
    text_puts(t, any ? "\r\n" : "");
    text_puts(t, "Outrigger-Request-Id: ");
    for (size_t i = 0; i < sizeof r->request_id.bytes; i++) {
        text_printf(t, "%02x", r->request_id.bytes[i]);
    }
    text_put(t, "\r\n", 3);
}

/* ,"outcomes":{"applied":[ids],"not_applied":[ids],"unknown":[ids]}, ended by a NUL */
static void print_outcomes(struct text *t, const struct rest_request *r, const struct door_write_result *result)
{
    static const char *const names[] = {
        [DOOR_APPLIED] = "applied", [DOOR_NOT_APPLIED] = "not_applied", [DOOR_APPLIED_UNKNOWN] = "unknown"};

    text_puts(t, ",\"outcomes\":{");
    for (int applied = DOOR_APPLIED; applied <= DOOR_APPLIED_UNKNOWN; applied++) {
        bool any = false;

        text_printf(t, "%s\"%s\":[", applied != DOOR_APPLIED ? "," : "", names[applied]);
        for (size_t i = 0; i < r->points.count; i++) {
            if ((int)result->parts[result->part_of_point[i]].applied == applied) {
                text_puts(t, any ? "," : "");
                json_print_string(t, r->points.points[i].id, r->points.points[i].id_bytes);
                any = true;
            }
        }
        text_puts(t, "]");
    }
    text_put(t, "}", 2);
}

static void write_failed(struct rest_request *r, const struct door_write_result *result, const char *headers)
{
    const struct door_write_part *worst = &result->parts[0];
    bool mixed = false;
    bool none = true;
    struct text more;
    struct otr_errmsg words;

    for (size_t i = 0; i < result->parts_count; i++) {
        const struct door_write_part *part = &result->parts[i];

        mixed = mixed || part->applied != result->parts[0].applied;
        none = none && part->applied == DOOR_NOT_APPLIED;
        worst = part->status == result->status && worst->status != result->status ? part : worst;
    }
    text_init(&more, REST_ANSWER_MAX);
    if (mixed) {
        print_outcomes(&more, r, result);
    }
    otr_errmsg_set(&words, "shard %u: %s", worst->shard, worst->message);
    rest_error_more(r, result->status, words.text, none ? "false" : "\"unknown\"", headers,
                    more.failed == 0 ? more.bytes : NULL);
    text_close(&more);
}

static void write_done(void *data, const struct door_write_result *result)
{
    struct rest_request *r = data;
    struct text body;
    struct text headers;
    uint64_t deleted = 0;
    bool pending = false;
    bool put = r->points.points[0].vector != NULL;

    if (!rest_returned(r)) {
        return;
    }
    text_init(&headers, REST_ANSWER_MAX);
    print_write_headers(&headers, r, result);
    if (result->status != 0) {
        write_failed(r, result, headers.failed == 0 ? headers.bytes : NULL);
        text_close(&headers);
        return;
    }
    for (size_t i = 0; i < result->parts_count; i++) {
        deleted += result->parts[i].outcome;
        pending = pending || result->parts[i].pending;
    }
    text_init(&body, REST_ANSWER_MAX);
    if (put) {
        text_puts(&body, "{\"ids\":[");
        for (size_t i = 0; i < r->points.count; i++) {
            text_puts(&body, i != 0 ? "," : "");
            json_print_string(&body, r->points.points[i].id, r->points.points[i].id_bytes);
        }
        text_puts(&body, "]");
    } else {
        text_printf(&body, "{\"deleted\":%llu", (unsigned long long)deleted);
    }
    r->unsampled = pending; /* It waited for an engine: the shard's primary judges that. */
    text_puts(&body, pending ? ",\"applied\":\"pending\"}\n" : "}\n");
    body.failed = body.failed != 0 ? body.failed : headers.failed; /* Without its position it would be no answer. */
    rest_reply(r, 200, headers.bytes, &body);
    text_close(&headers);
}

static void write_points(struct rest_request *r, enum record_kind kind)
{
    struct door_write w = {
        .collection = r->collection.id,
        .kind = kind,
        .points = r->points.points,
        .points_count = r->points.count,
        .request_id = r->request_id,
        .timeout_ms = rest_left_ms(r),
        .ticket = &r->ticket,
    };
    struct text body;
    int rv;

    if (r->points.count == 0) {
        text_init(&body, REST_ANSWER_MAX);
        text_puts(&body, kind == RECORD_PUT ? "{\"ids\":[]}\n" : "{\"deleted\":0}\n");
        rest_reply(r, 200, NULL, &body);
        return;
    }
    r->writes = true;
    rest_pending(r);
    rv = door_write(r->api->door, &w, write_done, r);
    if (rv != 0) {
        r->pending--;
        rest_error(r, rv, rv == OTR_TOOBIG ? "the points take more than 64 MiB: send fewer at once" : otr_strerror(rv));
    }
}

/* --- bodies ------------------------------------------------------------------------------------------------------- */

static void parsed(struct rest_request *r)
{
    if (r->parsed != 0) {
        rest_error(r, r->parsed, r->msg.text);
    } else if (!rest_still_wanted(r)) {
        rest_error(r, OTR_TIMEOUT, "the time was over before the work began");
    } else {
        r->after_parsing(r);
    }
}

static void parse_done(uv_work_t *work, int status)
{
    (void)status;
    if (rest_returned(work->data)) {
        parsed(work->data);
    }
}

/* Large bodies are parsed on the thread pool: the loop thread has beacons to answer meanwhile (PROTOCOL G2). */
static void parse(struct rest_request *r, void (*work)(uv_work_t *), rest_step next)
{
    if (r->body == NULL) {
        rest_error(r, OTR_INVALID, "no body");
        return;
    }
    r->work.data = r;
    r->after_parsing = next;
    if (r->body_bytes > REST_INLINE_BYTES) {
        rest_pending(r);
        if (uv_queue_work(r->api->loop, &r->work, work, parse_done) == 0) {
            return;
        }
        r->pending--;
    }
    work(&r->work);
    parsed(r);
}

/* --- PUT points --------------------------------------------------------------------------------------------------- */

static void put_parsed(struct rest_request *r)
{
    write_points(r, RECORD_PUT);
}

static void put_work(uv_work_t *work)
{
    struct rest_request *r = work->data;
    struct json_vector_rules rules = {.dimension = r->collection.dimension, .metric = r->collection.metric};

    r->parsed = json_points_read(&r->points, &rules, &r->request_id, r->body, r->body_bytes, &r->msg);
}

static void put_found(struct rest_request *r)
{
    parse(r, put_work, put_parsed);
}

void rest_points_put(struct rest_request *r)
{
    rest_with_collection(r, put_found);
}

/* --- deletes ------------------------------------------------------------------------------------------------------ */

static void delete_parsed(struct rest_request *r)
{
    write_points(r, RECORD_DELETE);
}

static void delete_work(uv_work_t *work)
{
    struct rest_request *r = work->data;

    r->parsed = json_ids_read(&r->points, r->body, r->body_bytes, &r->msg);
}

static void delete_found(struct rest_request *r)
{
    parse(r, delete_work, delete_parsed);
}

void rest_points_delete(struct rest_request *r)
{
    rest_with_collection(r, delete_found);
}

/* The id in the path; false: answered. */
static bool path_id(struct rest_request *r, const char **id, size_t *bytes)
{
    const char *fault = json_id_fault(r->url.segments[3].text, r->url.segments[3].bytes);

    if (fault != NULL) {
        rest_error(r, OTR_INVALID, fault);
        return false;
    }
    *id = r->url.segments[3].text;
    *bytes = r->url.segments[3].bytes;
    return true;
}

static void point_delete_found(struct rest_request *r)
{
    struct otr_point *point = calloc(1, sizeof *point);
    size_t bytes;

    if (point == NULL) {
        rest_error(r, OTR_NOMEM, "");
        return;
    }
    if (!path_id(r, &point->id, &bytes)) {
        free(point);
        return;
    }
    point->id_bytes = (uint32_t)bytes;
    r->points.points = point;
    r->points.count = 1;
    write_points(r, RECORD_DELETE);
}

void rest_point_delete(struct rest_request *r)
{
    rest_with_collection(r, point_delete_found);
}

/* --- GET point ---------------------------------------------------------------------------------------------------- */

static void print_metadata(struct text *t, const struct otr_point *p)
{
    if (p->metadata_bytes != 0) {
        text_put(t, p->metadata, p->metadata_bytes);
    } else {
        text_puts(t, "null");
    }
}

static void get_done(void *data, int status, const struct otr_point *point, const struct otr_errmsg *msg)
{
    struct rest_request *r = data;
    struct text body;

    if (!rest_returned(r)) {
        return;
    }
    if (status != 0) {
        rest_error(r, status, msg != NULL ? msg->text : "");
        return;
    }
    if (point == NULL) {
        rest_error(r, OTR_NOTFOUND, "no point of that id");
        return;
    }
    text_init(&body, REST_ANSWER_MAX);
    text_puts(&body, "{\"id\":");
    json_print_string(&body, point->id, point->id_bytes);
    text_puts(&body, ",\"vector\":");
    json_print_floats(&body, point->vector, point->dimension);
    text_puts(&body, ",\"metadata\":");
    print_metadata(&body, point);
    text_puts(&body, "}\n");
    rest_reply(r, 200, NULL, &body);
}

static void point_get_found(struct rest_request *r)
{
    struct door_get g = {.collection = r->collection.id,
                         .consistency = r->consistency,
                         .after = r->after.count != 0 ? &r->after : NULL,
                         .timeout_ms = rest_left_ms(r),
                         .ticket = &r->ticket};
    int rv;

    if (!path_id(r, &g.id, &g.id_bytes)) {
        return;
    }
    rest_pending(r);
    rv = door_get(r->api->door, &g, get_done, r);
    if (rv != 0) {
        r->pending--;
        rest_error(r, rv, otr_strerror(rv));
    }
}

void rest_point_get(struct rest_request *r)
{
    rest_with_collection(r, point_get_found);
}

/* --- search ------------------------------------------------------------------------------------------------------- */

static void search_done(void *data, int status, const struct node_hit *hits, size_t count, const struct otr_errmsg *msg)
{
    struct rest_request *r = data;
    struct text body;

    if (!rest_returned(r)) {
        return;
    }
    if (status != 0) {
        rest_error(r, status, msg != NULL ? msg->text : "");
        return;
    }
    text_init(&body, REST_ANSWER_MAX);
    text_puts(&body, "{\"results\":[");
    for (size_t i = 0; i < count; i++) {
        const struct otr_point *p = &hits[i].point;

        text_puts(&body, i != 0 ? ",{\"id\":" : "{\"id\":");
        json_print_string(&body, p->id, p->id_bytes);
        text_puts(&body, ",\"score\":");
        json_print_double(&body, hits[i].score);
        if (p->metadata_bytes != 0) {
            text_puts(&body, ",\"metadata\":");
            print_metadata(&body, p);
        }
        if (r->search.with_vector && p->vector != NULL) {
            text_puts(&body, ",\"vector\":");
            json_print_floats(&body, p->vector, p->dimension);
        }
        text_puts(&body, "}");
    }
    text_puts(&body, "]}\n");
    rest_reply(r, 200, NULL, &body);
}

static void search_parsed(struct rest_request *r)
{
    struct door_search s = {
        .collection = r->collection.id,
        .vector = r->search.vector,
        .dimension = r->collection.dimension,
        .k = r->search.k,
        .with_threshold = r->search.with_threshold,
        .threshold = r->search.threshold,
        .filter = r->search.filter,
        .with_vector = r->search.with_vector,
        .consistency = r->consistency,
        .after = r->after.count != 0 ? &r->after : NULL,
        .timeout_ms = rest_left_ms(r),
        .ticket = &r->ticket,
    };
    int rv;

    if (s.with_vector && (uint64_t)s.k * s.dimension > REST_VECTORS_MAX) {
        rest_error(r, OTR_INVALID, "with_vector: k times the dimension must not exceed 1048576");
        return;
    }
    rest_pending(r);
    rv = door_search(r->api->door, &s, search_done, r);
    if (rv != 0) {
        r->pending--;
        rest_error(r, rv, otr_strerror(rv));
    }
}

static void search_work(uv_work_t *work)
{
    struct rest_request *r = work->data;
    struct json_vector_rules rules = {.dimension = r->collection.dimension, .metric = r->collection.metric};

    r->parsed = json_search_read(&r->search, &rules, r->body, r->body_bytes, &r->msg);
}

static void search_found(struct rest_request *r)
{
    parse(r, search_work, search_parsed);
}

void rest_points_search(struct rest_request *r)
{
    rest_with_collection(r, search_found);
}
