/* How many requests this sidecar works on at the same time, by what they cost (sidecar/core/admission.h): writes, gets,
 * searches, and what concerns collections and the cluster. Each has its own bounds, so that searches do not starve
 * writes and gets survive both. Probes and /metrics are never refused: who looks at an overloaded cluster must see it.
 *
 * A request is refused with 429 before its body is parsed; a large one before its body is read. */
#include "sidecar/api/rest.h"

#include "sidecar/io/clock.h"

#include <stdlib.h>

static const struct admission_limits defaults[REST_KINDS] = {
    [NODE_OP_WRITE] = {.count_min = 64, .count_max = 4096, .bytes_max = 64 << 20},
    [NODE_OP_GET] = {.count_min = 256, .count_max = 8192, .bytes_max = UINT64_MAX},
    [NODE_OP_SEARCH] = {.count_min = 32, .count_max = 1024, .bytes_max = 16 << 20},
    [REST_ADMIN] = {.count_min = 64, .count_max = 64, .bytes_max = 16 << 20},
};

void rest_admission_init(struct api *a, const struct api_config *config)
{
    const uint32_t counts[REST_KINDS] = {
        [NODE_OP_WRITE] = config->writes_max,
        [NODE_OP_GET] = config->gets_max,
        [NODE_OP_SEARCH] = config->searches_max,
    };
    uint64_t now_ms = clock_now_ms();

    for (int kind = 0; kind < REST_KINDS; kind++) {
        struct admission_limits limits = defaults[kind];

        limits.count_max = counts[kind] != 0 ? counts[kind] : limits.count_max;
        limits.count_min = limits.count_min < limits.count_max ? limits.count_min : limits.count_max;
        limits.delay_max_ms = config->delay_max_ms != 0 ? config->delay_max_ms : NODE_DELAY_MAX_MS;
        admission_init(&a->admissions[kind], &limits, now_ms);
    }
}

/* REST_KINDS: nothing bounds it. */
static int kind_of(rest_step handler)
{
    if (handler == rest_points_put || handler == rest_points_delete || handler == rest_point_delete) {
        return NODE_OP_WRITE;
    }
    if (handler == rest_point_get) {
        return NODE_OP_GET;
    }
    if (handler == rest_points_search) {
        return NODE_OP_SEARCH;
    }
    return handler == rest_healthz || handler == rest_readyz || handler == rest_metrics ? REST_KINDS : REST_ADMIN;
}

static const char *words(enum admission_verdict verdict)
{
    switch (verdict) {
    case ADMISSION_BYTES:
        return "the requests under way here are too large together: try again";
    case ADMISSION_DELAY:
        return "the requests under way here wait too long already: try again";
    case ADMISSION_COUNT:
    default:
        return "too many requests are under way here: try again";
    }
}

/* Of the body, also of one that is not there (yet): digits, http_guard has seen them. */
static uint64_t announced_bytes(const struct http_exchange *x)
{
    const struct http_field *length = http_field_find(x, "Content-Length", NULL);

    if (length != NULL) {
        return strtoull(length->value, NULL, 10);
    }
    return http_field_find(x, "Transfer-Encoding", NULL) != NULL ? HTTP_LARGE_BYTES + 1 : 0;
}

bool rest_admit(struct rest_request *r, rest_step handler)
{
    int kind = kind_of(handler);
    enum admission_verdict verdict;

    if (kind == REST_KINDS) {
        return true;
    }
    r->admission_bytes = r->body != NULL ? r->body_bytes : announced_bytes(r->x);
    verdict = admission_begin(&r->api->admissions[kind], r->admission_bytes, clock_now_ms());
    if (verdict != ADMISSION_OK) {
        rest_error(r, OTR_BUSY, words(verdict));
        return false;
    }
    r->admission = &r->api->admissions[kind];
    r->ticket.room = r->admission;
    r->ticket.room_bytes = r->admission_bytes;
    return true;
}

void rest_admission_end(struct rest_request *r, int status)
{
    uint64_t now_ns = clock_now_ns();

    if (r->admission == NULL) {
        return;
    }
    admission_end(r->admission, r->admission_bytes);
    /* Refusals are quick and failures are slow for other reasons: neither says how long work takes. */
    if (!r->unsampled && (status < 300 || status == 404)) {
        admission_sample(r->admission, (now_ns - r->started_ns) / 1000000, now_ns / 1000000);
    }
    r->admission = NULL;
}

static bool ends_with(const struct http_exchange *x, const char *end)
{
    size_t bytes = strlen(end);

    return x->target_bytes >= bytes && memcmp(x->target + x->target_bytes - bytes, end, bytes) == 0;
}

bool rest_admission_head(struct api *a, const struct http_exchange *x)
{
    uint64_t bytes = announced_bytes(x);
    int kind = ends_with(x, "/points") || ends_with(x, "/points/delete") ? NODE_OP_WRITE
               : ends_with(x, "/points/search")                          ? NODE_OP_SEARCH
                                                                         : REST_KINDS;

    /* A small body is cheaper to read than a new connection is to make. */
    return bytes <= HTTP_LARGE_BYTES || kind == REST_KINDS ||
           admission_ask(&a->admissions[kind], bytes, clock_now_ms()) == ADMISSION_OK;
}

void rest_on_gone(void *data, struct http_exchange *x)
{
    struct rest_request *r = x->data;

    (void)data;
    if (r != NULL) {
        r->gone = true;
        door_cancel(&r->ticket);
    }
}

bool rest_still_wanted(const struct rest_request *r)
{
    return !r->gone && clock_now_ms() < r->deadline_ms;
}
