#include "sidecar/api/json_print.h"
#include "sidecar/api/rest.h"
#include "sidecar/coord/keys.h"
#include "sidecar/core/score.h"
#include "sidecar/io/random.h"

#include <stdlib.h>

static void print_collection(struct text *t, const char *name, uint32_t dimension, enum otr_metric metric)
{
    text_puts(t, "{\"name\":");
    json_print_string(t, name, strlen(name));
    text_printf(t, ",\"dimension\":%u,\"metric\":\"%s\"", dimension, score_metric_name(metric));
}

/* --- POST /collections -------------------------------------------------------------------------------------------- */

static void create_done(void *data, int status, const struct otr_errmsg *msg)
{
    struct rest_request *r = data;
    struct otr_errmsg words;
    struct text body;

    if (!rest_returned(r)) {
        return;
    }
    if (status == OTR_EXISTS) {
        otr_errmsg_set(&words, "there is a collection \"%s\" already", r->made->name);
        rest_error(r, status, words.text);
    } else if (status != 0) {
        rest_error_more(r, status, msg != NULL ? msg->text : "", status == OTR_UNKNOWN ? "\"unknown\"" : "false", NULL,
                        NULL);
    } else {
        text_init(&body, REST_ANSWER_MAX);
        print_collection(&body, r->made->name, r->made->dimension, r->made->metric);
        text_puts(&body, "}\n");
        rest_reply(r, 201, NULL, &body);
    }
}

void rest_collection_create(struct rest_request *r)
{
    struct json_collection wanted;
    int rv;

    if (r->body == NULL) {
        rest_error(r, OTR_INVALID, "no body");
        return;
    }
    rv = json_collection_read(&wanted, r->body, r->body_bytes, &r->msg);
    if (rv == 0 && !key_name_valid(wanted.name)) {
        otr_errmsg_set(&r->msg, "name: 1 to %d of A-Z a-z 0-9 _ . -, the first a letter or digit, no \"__\"",
                       OTR_NAME_MAX);
        rv = OTR_INVALID;
    }
    if (rv == 0) {
        r->made = calloc(1, sizeof *r->made);
        rv = r->made == NULL ? OTR_NOMEM : 0;
    }
    if (rv != 0) {
        rest_error(r, rv, r->msg.text);
        return;
    }
    memcpy(r->made->name, wanted.name, sizeof r->made->name);
    r->made->id = random_u64();
    r->made->dimension = wanted.dimension;
    r->made->metric = wanted.metric;
    r->writes = true;
    rest_pending(r);
    rv = node_collection_create(r->api->node, r->made, create_done, r);
    if (rv != 0) {
        r->pending--;
        rest_error(r, rv, otr_strerror(rv));
    }
}

/* --- GET /collections, GET and DELETE /collections/:c ------------------------------------------------------------- */

void rest_collection_list(struct rest_request *r)
{
    struct topology *t = node_topology(r->api->node);
    struct text body;

    text_init(&body, REST_ANSWER_MAX);
    text_puts(&body, "{\"collections\":[");
    for (uint32_t i = 0; i < topology_collections_count(t); i++) {
        const char *name = topology_collection_at(t, i)->name;

        text_puts(&body, i != 0 ? "," : "");
        json_print_string(&body, name, strlen(name));
    }
    text_puts(&body, "]}\n");
    rest_reply(r, 200, NULL, &body);
}

static void count_done(void *data, int status, uint64_t count, const struct otr_errmsg *msg)
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
    print_collection(&body, r->url.segments[1].text, r->collection.dimension, r->collection.metric);
    text_printf(&body, ",\"points\":%llu}\n", (unsigned long long)count);
    rest_reply(r, 200, NULL, &body);
}

static void collection_get_found(struct rest_request *r)
{
    int rv;

    rest_pending(r);
    rv = door_count(r->api->door, r->collection.id, rest_left_ms(r), count_done, r);
    if (rv != 0) {
        r->pending--;
        rest_error(r, rv, otr_strerror(rv));
    }
}

void rest_collection_get(struct rest_request *r)
{
    rest_with_collection(r, collection_get_found);
}

static void delete_done(void *data, int status, const struct otr_errmsg *msg)
{
    struct rest_request *r = data;

    if (!rest_returned(r)) {
        return;
    }
    if (status != 0) {
        rest_error_more(r, status, msg != NULL ? msg->text : "", status == OTR_UNKNOWN ? "\"unknown\"" : "false", NULL,
                        NULL);
    } else {
        rest_reply(r, 204, NULL, NULL);
    }
}

static void collection_delete_found(struct rest_request *r)
{
    int rv;

    r->writes = true;
    rest_pending(r);
    rv = node_collection_delete(r->api->node, r->url.segments[1].text, delete_done, r);
    if (rv != 0) {
        r->pending--;
        rest_error(r, rv, otr_strerror(rv));
    }
}

void rest_collection_delete(struct rest_request *r)
{
    rest_with_collection(r, collection_delete_found);
}
