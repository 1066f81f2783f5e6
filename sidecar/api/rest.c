#include "sidecar/api/rest.h"

#include "sidecar/api/json.h"
#include "sidecar/api/json_print.h"
#include "sidecar/coord/keys.h"
#include "sidecar/io/clock.h"
#include "sidecar/io/random.h"

#include <assert.h>
#include <stdlib.h>
#include <strings.h>

static_assert((int)HTTP_BODY_SLACK >= (int)JSON_SLACK, "the JSON reader looks that far behind a body");

enum { NO_CONSISTENCY = -1, TIMEOUT_DIGITS_MAX = 7, NUMBER_DIGITS_MAX = 19 };

/* --- a request's life --------------------------------------------------------------------------------------------- */

static void request_free(struct rest_request *r)
{
    json_points_close(&r->points);
    json_search_close(&r->search);
    http_body_free(r->api != NULL ? r->api->http : NULL, r->body);
    url_close(&r->url);
    free(r->after.items);
    free(r->made);
    free(r);
}

void rest_pending(struct rest_request *r)
{
    r->pending++;
}

bool rest_returned(struct rest_request *r)
{
    r->pending--;
    if (r->x != NULL) {
        return true;
    }
    if (r->pending == 0) {
        request_free(r);
    }
    return false;
}

uint32_t rest_left_ms(const struct rest_request *r)
{
    uint64_t now_ms = clock_now_ms();

    return r->deadline_ms > now_ms ? (uint32_t)(r->deadline_ms - now_ms) : 1;
}

static void count(struct rest_request *r, int status)
{
    struct api *a = r->api;

    a->metrics.requests_in_flight--;
    metrics_observe_since_ns(&a->routes[r->route].request_duration_seconds, r->started_ns);
    a->codes[r->route][status / 100 - 2].requests_total++;
    rest_admission_end(r, status);
}

void rest_reply(struct rest_request *r, int status, const char *headers, struct text *body)
{
    struct http_exchange *x = r->x;

    if (body != NULL && body->failed != 0) {
        int err = body->failed;

        text_close(body);
        rest_error_more(r, err,
                        err == OTR_TOOBIG ? "the answer is larger than 64 MiB: ask for less" : otr_strerror(err),
                        r->writes ? "\"unknown\"" : "false", NULL, NULL); /* Done, but there is no room to say what. */
        return;
    }
    count(r, status);
    r->x = NULL;
    *r->link = r->next;
    if (r->next != NULL) {
        r->next->link = r->link;
    }
    if (r->pending != 0) {
        /* What comes back later may find the API gone. */
        http_body_detach(r->api->http, r->body);
        r->api = NULL;
    }
    http_reply(x, status, headers, body);
    if (r->pending == 0) {
        request_free(r);
    }
}

/* --- errors ------------------------------------------------------------------------------------------------------- */

static const struct {
    int err;
    int status;
    const char *code;
} errors[] = {
    {OTR_INVALID, 400, "invalid"},    {OTR_UNSUPPORTED, 400, "unsupported"}, {OTR_NOTFOUND, 404, "not_found"},
    {OTR_EXISTS, 409, "exists"},      {OTR_CONFLICT, 409, "conflict"},       {OTR_TOOBIG, 413, "too_large"},
    {OTR_BUSY, 429, "busy"},          {OTR_NOSPACE, 507, "no_space"},        {OTR_UNKNOWN, 503, "outcome_unknown"},
    {OTR_TIMEOUT, 503, "timeout"},    {OTR_UNAVAIL, 503, "unavailable"},     {OTR_NOTPRIMARY, 503, "unavailable"},
    {OTR_FENCED, 503, "unavailable"}, {OTR_SESSION, 503, "unavailable"},     {OTR_UNREACHABLE, 503, "unavailable"},
    {OTR_FEW, 503, "few_in_sync"},    {OTR_CANCELED, 503, "shutting_down"},  {OTR_NOMEM, 503, "out_of_memory"},
    {OTR_CORRUPT, 500, "corrupt"},
};

void rest_error_more(struct rest_request *r, int err, const char *message, const char *applied, const char *headers,
                     const char *more)
{
    struct text body;
    struct text lines;
    int status = 500;
    const char *code = "internal";

    for (size_t i = 0; i < sizeof errors / sizeof errors[0]; i++) {
        if (errors[i].err == err) {
            status = errors[i].status;
            code = errors[i].code;
        }
    }
    text_init(&body, REST_ANSWER_MAX);
    http_error_text(&body, code, message[0] != '\0' ? message : otr_strerror(err), applied, more);
    text_init(&lines, REST_ANSWER_MAX);
    text_puts(&lines, headers != NULL ? headers : "");
    if (status == 503 || status == 429) {
        text_puts(&lines, "Retry-After: 1\r\n");
    }
    text_put(&lines, "", 1);
    if (body.failed != 0) {
        text_close(&body); /* The status says enough. */
    }
    rest_reply(r, status, lines.failed == 0 ? lines.bytes : NULL, &body);
    text_close(&lines);
}

void rest_error(struct rest_request *r, int err, const char *message)
{
    rest_error_more(r, err, message, "false", NULL, NULL);
}

void rest_cancel_all(struct api *a)
{
    while (a->requests != NULL) {
        struct rest_request *r = a->requests;

        rest_error_more(r, OTR_CANCELED, "this sidecar is shutting down", r->writes ? "\"unknown\"" : "false", NULL,
                        NULL);
    }
}

void rest_tick(struct api *a)
{
    uint64_t now_ms = clock_now_ms();
    struct rest_request *next;

    for (struct rest_request *r = a->requests; r != NULL; r = next) {
        next = r->next;
        if (r->give_up_ms != 0 && now_ms >= r->give_up_ms) {
            rest_error_more(r, r->writes ? OTR_UNKNOWN : OTR_TIMEOUT, "no answer in time",
                            r->writes ? "\"unknown\"" : "false", NULL, NULL);
        }
    }
}

/* --- headers ------------------------------------------------------------------------------------------------------ */

/* The header's value; *present false without it. OTR_INVALID when it comes twice. */
static int find_header(struct rest_request *r, const char *name, struct url_text *value, bool *present)
{
    bool twice;
    const struct http_field *field = http_field_find(r->x, name, &twice);

    *present = field != NULL;
    if (twice) {
        otr_errmsg_set(&r->msg, "%s comes twice", name);
        return OTR_INVALID;
    }
    if (field != NULL) {
        *value = (struct url_text){.text = field->value, .bytes = field->value_bytes};
    }
    return 0;
}

static int nibble(char c)
{
    if (c >= '0' && c <= '9') {
        return c - '0';
    }
    c = (char)(c | 0x20);
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static int read_request_id(struct rest_request *r)
{
    struct url_text value;
    bool present;
    int rv = find_header(r, "Outrigger-Request-Id", &value, &present);

    if (rv != 0) {
        return rv;
    }
    if (!present) {
        random_bytes(r->request_id.bytes, sizeof r->request_id.bytes);
        return 0;
    }
    rv = value.bytes == 2 * sizeof r->request_id.bytes ? 0 : OTR_INVALID;
    for (size_t i = 0; i < sizeof r->request_id.bytes && rv == 0; i++) {
        int high = nibble(value.text[2 * i]);
        int low = nibble(value.text[2 * i + 1]);

        if (high < 0 || low < 0) {
            rv = OTR_INVALID;
        } else {
            r->request_id.bytes[i] = (uint8_t)(high << 4 | low);
        }
    }
    if (rv != 0 || otr_request_id_is_none(&r->request_id)) {
        otr_errmsg_set(&r->msg, "Outrigger-Request-Id must be 32 hex digits, not all of them 0");
        return OTR_INVALID;
    }
    return 0;
}

/* Digits at *at, which moves behind them. */
static bool take_number(const char **at, const char *end, unsigned digits_max, uint64_t *value)
{
    const char *start = *at;

    *value = 0;
    while (*at < end && **at >= '0' && **at <= '9') {
        if ((unsigned)(*at - start) == digits_max) {
            return false;
        }
        *value = *value * 10 + (uint64_t)(**at - '0');
        (*at)++;
    }
    return *at > start;
}

/* "250ms", "2s" */
static int read_timeout(struct rest_request *r)
{
    struct url_text value = {NULL, 0};
    bool present;
    int rv = find_header(r, "Outrigger-Timeout", &value, &present);
    const char *at = value.text;
    const char *end;
    uint64_t number;

    r->timeout_ms = r->api->request_timeout_ms;
    if (rv != 0 || !present) {
        return rv;
    }
    end = at + value.bytes;
    if (!take_number(&at, end, TIMEOUT_DIGITS_MAX, &number) || number == 0 ||
        !((end - at == 2 && memcmp(at, "ms", 2) == 0) || (end - at == 1 && *at == 's'))) {
        otr_errmsg_set(&r->msg, "Outrigger-Timeout must be like 250ms or 2s");
        return OTR_INVALID;
    }
    number *= *at == 's' ? 1000 : 1;
    r->timeout_ms = number < r->timeout_ms ? (uint32_t)number : r->timeout_ms;
    return 0;
}

/* "shard:epoch:index[,...]" */
static int read_positions(struct rest_request *r)
{
    struct url_text value = {NULL, 0};
    bool present;
    int rv = find_header(r, "Outrigger-Position", &value, &present);
    const char *at = value.text;
    const char *end;
    size_t room = 1;

    if (rv != 0 || !present) {
        return rv;
    }
    end = at + value.bytes;
    for (const char *p = at; p < end; p++) {
        room += *p == ',';
    }
    r->after.items = calloc(room, sizeof *r->after.items);
    if (r->after.items == NULL) {
        return OTR_NOMEM;
    }
    for (;;) {
        uint64_t n[3];

        for (int i = 0; i < 3; i++) {
            if (!take_number(&at, end, NUMBER_DIGITS_MAX, &n[i]) || (i < 2 && (at == end || *at++ != ':'))) {
                goto malformed;
            }
        }
        if (n[0] >= OTR_SHARDS_MAX) {
            goto malformed;
        }
        r->after.items[r->after.count].shard = (otr_shard)n[0];
        r->after.items[r->after.count++].position = (struct otr_position){.epoch = n[1], .index = n[2]};
        if (at == end) {
            return 0;
        }
        if (*at++ != ',') {
            goto malformed;
        }
        while (at < end && *at == ' ') {
            at++;
        }
    }
malformed:
    otr_errmsg_set(&r->msg, "Outrigger-Position must be shard:epoch:index[,shard:epoch:index...]");
    return OTR_INVALID;
}

/* --- routing ------------------------------------------------------------------------------------------------------ */

struct route {
    const char *method;
    const char *path[URL_SEGMENTS_MAX]; /* "*": anything; ends with NULL */
    rest_step handler;
    int consistency;       /* the default, or NO_CONSISTENCY: no such parameter */
    enum token_role needs; /* TOKEN_NONE: open to all */
};

/* The one table of what can be called and by whom; docs/security.md shows it, tests/unit/api/test_access.c walks it.
 */
static const struct route routes[] = {
    {"GET", {"healthz"}, rest_healthz, NO_CONSISTENCY, TOKEN_NONE},
    {"GET", {"readyz"}, rest_readyz, NO_CONSISTENCY, TOKEN_NONE},
    {"GET", {"cluster"}, rest_cluster, NO_CONSISTENCY, TOKEN_READ},
    {"GET", {"cluster", "stats"}, rest_stats, NO_CONSISTENCY, TOKEN_READ},
    {"GET", {"cluster", "survivor"}, rest_survivor, NO_CONSISTENCY, TOKEN_ADMIN},
    {"GET", {"cluster", "losses"}, rest_losses, NO_CONSISTENCY, TOKEN_ADMIN},
    {"POST", {"cluster", "shards", "*", "failover"}, rest_failover, NO_CONSISTENCY, TOKEN_ADMIN},
    {"GET", {"metrics"}, rest_metrics, NO_CONSISTENCY, TOKEN_READ},
    {"GET", {"collections"}, rest_collection_list, NO_CONSISTENCY, TOKEN_READ},
    {"POST", {"collections"}, rest_collection_create, NO_CONSISTENCY, TOKEN_WRITE},
    {"GET", {"collections", "*"}, rest_collection_get, NO_CONSISTENCY, TOKEN_READ},
    {"DELETE", {"collections", "*"}, rest_collection_delete, NO_CONSISTENCY, TOKEN_ADMIN},
    {"PUT", {"collections", "*", "points"}, rest_points_put, NO_CONSISTENCY, TOKEN_WRITE},
    {"POST", {"collections", "*", "points", "search"}, rest_points_search, NODE_BOUNDED, TOKEN_READ},
    {"POST", {"collections", "*", "points", "delete"}, rest_points_delete, NO_CONSISTENCY, TOKEN_WRITE},
    {"GET", {"collections", "*", "points", "*"}, rest_point_get, NODE_LINEARIZABLE, TOKEN_READ},
    {"DELETE", {"collections", "*", "points", "*"}, rest_point_delete, NO_CONSISTENCY, TOKEN_WRITE},
};

static_assert(sizeof routes / sizeof routes[0] <= REST_ROUTES_MAX, "every route has its metrics");

bool rest_route(size_t number, const char **method, char *path, size_t path_bytes)
{
    size_t used = 0;

    if (number >= sizeof routes / sizeof routes[0]) {
        return false;
    }
    *method = routes[number].method;
    for (size_t i = 0; i < URL_SEGMENTS_MAX && routes[number].path[i] != NULL; i++) {
        used += (size_t)snprintf(path + used, path_bytes - used, "/%s", routes[number].path[i]);
        assert(used < path_bytes);
    }
    return true;
}

enum token_role rest_route_role(size_t number)
{
    return number < sizeof routes / sizeof routes[0] ? routes[number].needs : TOKEN_READ;
}

bool rest_route_changes_cluster(size_t number)
{
    return number < sizeof routes / sizeof routes[0] && strcmp(routes[number].path[0], "cluster") == 0 &&
           strcmp(routes[number].method, "GET") != 0;
}

bool rest_route_is_metrics(size_t number)
{
    return number < sizeof routes / sizeof routes[0] && routes[number].handler == rest_metrics;
}

static bool path_matches(const struct route *route, const struct url *url)
{
    size_t i;

    for (i = 0; i < URL_SEGMENTS_MAX && route->path[i] != NULL; i++) {
        if (i >= url->segments_count) {
            return false;
        }
        if (route->path[i][0] != '*' && (strlen(route->path[i]) != url->segments[i].bytes ||
                                         memcmp(route->path[i], url->segments[i].text, url->segments[i].bytes) != 0)) {
            return false;
        }
    }
    return i == url->segments_count;
}

/* 404, or 405 with the methods that the path has. */
static void no_route(struct rest_request *r)
{
    char allow[128] = "Allow: ";
    size_t used = strlen(allow);
    bool any = false;
    struct text body;

    for (size_t i = 0; i < sizeof routes / sizeof routes[0]; i++) {
        if (path_matches(&routes[i], &r->url) && strstr(allow, routes[i].method) == NULL) {
            used += (size_t)snprintf(allow + used, sizeof allow - used, "%s%s%s", any ? ", " : "", routes[i].method,
                                     strcmp(routes[i].method, "GET") == 0 ? ", HEAD" : "");
            any = true;
        }
    }
    if (!any) {
        rest_error(r, OTR_NOTFOUND,
                   r->url.segments_count > 4 ? "no such resource; a '/' inside an id is written %2F"
                                             : "no such resource");
        return;
    }
    snprintf(allow + used, sizeof allow - used, "\r\n");
    text_init(&body, REST_ANSWER_MAX);
    http_error_text(&body, "method_not_allowed", "the resource has no such method", "false", NULL);
    rest_reply(r, 405, allow, &body);
}

static bool text_is(const struct url_text *t, const char *word)
{
    return t->bytes == strlen(word) && memcmp(t->text, word, t->bytes) == 0;
}

static int read_query(struct rest_request *r, const struct route *route)
{
    static const char *const names[] = {
        [NODE_EVENTUAL] = "eventual", [NODE_BOUNDED] = "bounded", [NODE_LINEARIZABLE] = "linearizable"};
    bool seen = false;

    r->consistency = (enum node_consistency)(route->consistency == NO_CONSISTENCY ? 0 : route->consistency);
    for (size_t i = 0; i < r->url.params_count; i++) {
        int which = -1;

        if (route->consistency == NO_CONSISTENCY || !text_is(&r->url.params[i].name, "consistency")) {
            otr_errmsg_set(&r->msg, "unknown query parameter \"%.40s\"", r->url.params[i].name.text);
            return OTR_INVALID;
        }
        for (int c = NODE_EVENTUAL; c <= NODE_LINEARIZABLE; c++) {
            which = text_is(&r->url.params[i].value, names[c]) ? c : which;
        }
        if (which < 0 || seen) {
            otr_errmsg_set(&r->msg,
                           seen ? "consistency comes twice" : "consistency must be linearizable, bounded or eventual");
            return OTR_INVALID;
        }
        seen = true;
        r->consistency = (enum node_consistency)which;
    }
    return 0;
}

void rest_on_request(void *data, struct http_exchange *x)
{
    struct api *a = data;
    struct rest_request *r = calloc(1, sizeof *r);
    const struct route *route = NULL;
    int rv;

    if (r == NULL) {
        struct text body;

        text_init(&body, 4096);
        http_error_text(&body, "unavailable", "out of memory: try again", "false", NULL);
        http_reply(x, 503, "Retry-After: 1\r\n", &body);
        return;
    }
    r->api = a;
    r->x = x;
    r->next = a->requests;
    r->link = &a->requests;
    if (r->next != NULL) {
        r->next->link = &r->next;
    }
    a->requests = r;
    a->metrics.requests_in_flight++;
    r->route = REST_ROUTES_MAX;
    r->started_ns = clock_now_ns();
    r->body_bytes = x->body_bytes;
    r->body = http_body_take(x);
    x->data = r;
    rv = url_parse(&r->url, x->target, x->target_bytes, &r->msg);
    for (size_t i = 0; rv == 0 && i < sizeof routes / sizeof routes[0] && route == NULL; i++) {
        if (strcmp(routes[i].method, x->method) == 0 && path_matches(&routes[i], &r->url)) {
            route = &routes[i];
            r->route = i;
        }
    }
    if (!rest_allowed(r)) {
        return;
    }
    rv = rv == 0 ? read_timeout(r) : rv;
    if (rv != 0) {
        rest_error(r, rv, r->msg.text);
        return;
    }
    if (route == NULL) {
        no_route(r);
        return;
    }
    rv = read_query(r, route);
    rv = rv == 0 ? read_request_id(r) : rv;
    rv = rv == 0 ? read_positions(r) : rv;
    if (rv != 0) {
        rest_error(r, rv, r->msg.text);
        return;
    }
    r->deadline_ms = clock_now_ms() + r->timeout_ms;
    r->give_up_ms = r->deadline_ms + REST_GRACE_MS;
    if (rest_admit(r, route->handler)) {
        route->handler(r);
    }
}

/* --- collections by name ------------------------------------------------------------------------------------------ */

static bool find_collection(struct rest_request *r)
{
    const struct topology_collection *c = topology_collection(node_topology(r->api->node), r->url.segments[1].text);

    if (c == NULL) {
        return false;
    }
    r->collection.id = c->id;
    r->collection.dimension = c->dimension;
    r->collection.metric = c->metric;
    return true;
}

static void no_collection(struct rest_request *r)
{
    struct otr_errmsg msg;

    otr_errmsg_set(&msg, "no collection \"%.*s\"", OTR_NAME_MAX, r->url.segments[1].text);
    rest_error(r, OTR_NOTFOUND, msg.text);
}

static void refresh_done(void *data, int status, const struct otr_errmsg *msg)
{
    struct rest_request *r = data;

    if (!rest_returned(r)) {
        return;
    }
    r->give_up_ms = r->deadline_ms + REST_GRACE_MS;
    if (status == OTR_NOTFOUND || (status == 0 && !find_collection(r))) {
        no_collection(r);
    } else if (status != 0) {
        rest_error(r, status, msg != NULL ? msg->text : "");
    } else {
        r->found(r);
    }
}

void rest_with_collection(struct rest_request *r, rest_step found)
{
    const char *name = r->url.segments[1].text;
    int rv;

    if (strlen(name) != r->url.segments[1].bytes || !key_name_valid(name)) {
        no_collection(r);
        return;
    }
    if (find_collection(r)) {
        found(r);
        return;
    }
    /* This node's view may be behind: somebody may just have made it. */
    r->found = found;
    r->give_up_ms = r->deadline_ms;
    rest_pending(r);
    rv = node_collection_refresh(r->api->node, name, refresh_done, r);
    if (rv != 0) {
        r->pending--;
        rest_error(r, rv, otr_strerror(rv));
    }
}
