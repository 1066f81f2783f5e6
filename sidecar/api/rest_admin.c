/* What operators do to the cluster through any sidecar; the table of routes says who may. */
#include "sidecar/api/json.h"
#include "sidecar/api/json_print.h"
#include "sidecar/api/rest.h"
#include "sidecar/coord/keys.h"
#include "sidecar/io/clock.h"

#include <stdlib.h>

enum { FAILOVER_TIMEOUT_DEFAULT_MS = 2000, FAILOVER_TIMEOUT_MAX_MS = 600000 };

/* --- POST /cluster/shards/:shard/failover ------------------------------------------------------------------------- */

static void print_name(struct text *t, const char *name)
{
    if (name[0] == '\0') {
        text_puts(t, "null");
    } else {
        json_print_string(t, name, strlen(name));
    }
}

static void failover_done(void *data, const struct door_handoff_result *result)
{
    struct rest_request *r = data;
    struct text body;

    if (!rest_returned(r)) {
        return;
    }
    if (result->status != 0) {
        rest_error_more(r, result->status, result->message, result->status == OTR_UNKNOWN ? "\"unknown\"" : "false",
                        NULL, NULL);
        return;
    }
    text_init(&body, REST_ANSWER_MAX);
    text_printf(&body, "{\"shard\":%u,\"from\":", result->shard);
    print_name(&body, result->from);
    text_puts(&body, ",\"to\":");
    print_name(&body, result->to);
    text_printf(&body, ",\"epoch\":%llu,\"pause_ms\":", (unsigned long long)result->epoch);
    if (result->pause_us != 0) {
        text_printf(&body, "%.3f}\n", (double)result->pause_us / 1000);
    } else {
        text_puts(&body, "null}\n");
    }
    rest_reply(r, 200, NULL, &body);
}

/* --- ... with accept_data_loss: this very node's replica shall lead ------------------------------------------------
 */

static void forced_done(void *data, const struct node_force_result *result)
{
    struct rest_request *r = data;
    struct text body;

    if (!rest_returned(r)) {
        return;
    }
    if (result->status != 0) {
        rest_error_more(r, result->status, result->message, result->status == OTR_UNKNOWN ? "\"unknown\"" : "false",
                        NULL, NULL);
        return;
    }
    text_init(&body, REST_ANSWER_MAX);
    text_puts(&body, "{\"to\":");
    print_name(&body, node_name(r->api->node));
    text_printf(&body, ",\"epoch\":%llu}\n", (unsigned long long)result->epoch);
    rest_reply(r, 200, NULL, &body);
}

struct failover {
    struct door_handoff handoff;
    bool forced;
    uint64_t accepted;
};

static int force(struct rest_request *r, const struct failover *f)
{
    struct node *n = r->api->node;

    if (f->handoff.to[0] != '\0' && strcmp(f->handoff.to, node_name(n)) != 0) {
        otr_errmsg_set(&r->msg, "this is %s: with accept_data_loss, %s itself is to be asked", node_name(n),
                       f->handoff.to);
        return OTR_CONFLICT;
    }
    return node_force(n, f->handoff.shard, f->accepted, f->handoff.timeout_ms, forced_done, r, &r->msg);
}

/* --- reading the request ------------------------------------------------------------------------------------------ */

static bool key_is(const char *key, size_t bytes, const char *word)
{
    return strlen(word) == bytes && memcmp(key, word, bytes) == 0;
}

static int read_member(struct json *j, const char *key, size_t key_bytes, struct failover *f)
{
    struct door_handoff *h = &f->handoff;
    int64_t number;
    size_t bytes;
    char *text;
    int rv;

    if (key_is(key, key_bytes, "to_replica")) {
        rv = json_string(j, &text, &bytes);
        if (rv != 0) {
            return rv;
        }
        if (bytes <= OTR_NAME_MAX) {
            memcpy(h->to, text, bytes);
            h->to[bytes] = '\0';
        }
        if (bytes > OTR_NAME_MAX || strlen(h->to) != bytes || !key_name_valid(h->to)) {
            otr_errmsg_set(j->msg, "to_replica: not the name of a node");
            return OTR_INVALID;
        }
        return 0;
    }
    if (key_is(key, key_bytes, "timeout_ms")) {
        rv = json_integer(j, &number);
        if (rv == 0 && (number < 1 || number > FAILOVER_TIMEOUT_MAX_MS)) {
            otr_errmsg_set(j->msg, "timeout_ms: 1 to %d", FAILOVER_TIMEOUT_MAX_MS);
            rv = OTR_INVALID;
        }
        if (rv == 0) {
            h->timeout_ms = (uint32_t)number;
        }
        return rv;
    }
    if (key_is(key, key_bytes, "accept_data_loss")) {
        rv = json_integer(j, &number);
        if (rv == 0 && number < 0) {
            otr_errmsg_set(j->msg, "accept_data_loss: a number of entries");
            rv = OTR_INVALID;
        }
        f->forced = true;
        f->accepted = rv == 0 ? (uint64_t)number : 0;
        return rv;
    }
    otr_errmsg_set(j->msg, "unknown member \"%.*s\"; there are to_replica, timeout_ms and accept_data_loss",
                   key_bytes < 40 ? (int)key_bytes : 40, key);
    return OTR_INVALID;
}

/* {"to_replica"?: name, "timeout_ms"?: number, "accept_data_loss"?: number}, or no body at all. */
static int read_failover(struct rest_request *r, struct failover *f)
{
    struct json j;
    char *key;
    size_t bytes;
    int rv;

    if (r->body == NULL || r->body_bytes == 0) {
        return 0;
    }
    json_init(&j, r->body, r->body_bytes, &r->msg);
    rv = json_object_begin(&j);
    for (bool first = true; rv == 0; first = false) {
        rv = json_object_next(&j, first, &key, &bytes);
        if (rv != 0 || key == NULL) {
            break;
        }
        rv = read_member(&j, key, bytes, f);
    }
    rv = rv == 0 ? json_end(&j) : rv;
    json_close(&j);
    return rv;
}

/* The shard that the path names. */
static int read_shard(struct rest_request *r, otr_shard *shard)
{
    const struct url_text *text = &r->url.segments[2];
    unsigned long number = 0;

    for (size_t i = 0; i < text->bytes; i++) {
        if (text->text[i] < '0' || text->text[i] > '9' || text->bytes > 4) {
            number = OTR_SHARDS_MAX;
            break;
        }
        number = number * 10 + (unsigned long)(text->text[i] - '0');
    }
    if (text->bytes == 0 || number >= OTR_SHARDS_MAX) {
        otr_errmsg_set(&r->msg, "\"%.40s\" is not the number of a shard", text->text);
        return OTR_NOTFOUND;
    }
    *shard = (otr_shard)number;
    return 0;
}

void rest_failover(struct rest_request *r)
{
    struct failover f = {.handoff = {.timeout_ms = FAILOVER_TIMEOUT_DEFAULT_MS}};
    int rv = read_shard(r, &f.handoff.shard);

    rv = rv == 0 ? read_failover(r, &f) : rv;
    if (rv != 0) {
        rest_error(r, rv, r->msg.text);
        return;
    }
    r->writes = true;
    r->give_up_ms = clock_now_ms() + 2ULL * f.handoff.timeout_ms + REST_GRACE_MS;
    rest_pending(r);
    rv = f.forced ? force(r, &f) : door_handoff(r->api->door, &f.handoff, failover_done, r, &r->msg);
    if (rv != 0) {
        r->pending--;
        rest_error(r, rv, r->msg.text[0] != '\0' ? r->msg.text : otr_strerror(rv));
    }
}

/* --- GET /cluster/losses ------------------------------------------------------------------------------------------ */

static void losses_done(void *data, int status, const char *records)
{
    struct rest_request *r = data;
    struct text body;

    if (!rest_returned(r)) {
        return;
    }
    if (status != 0) {
        rest_error(r, status, "what this node noted of entries that were lost cannot be read");
        return;
    }
    text_init(&body, REST_ANSWER_MAX);
    text_puts(&body, "{\"node\":");
    print_name(&body, node_name(r->api->node));
    text_puts(&body, ",\"losses\":[");
    text_puts(&body, records);
    text_puts(&body, "]}\n");
    rest_reply(r, 200, NULL, &body);
}

void rest_losses(struct rest_request *r)
{
    int rv;

    rest_pending(r);
    rv = node_losses(r->api->node, losses_done, r);
    if (rv != 0) {
        r->pending--;
        rest_error(r, rv, otr_strerror(rv));
    }
}
