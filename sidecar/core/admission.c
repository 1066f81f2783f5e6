#include "sidecar/core/admission.h"

#include <assert.h>

enum { SLOW_WINDOWS = 2 };

void admission_init(struct admission *a, const struct admission_limits *limits, uint64_t now_ms)
{
    assert(limits->count_min > 0 && limits->count_min <= limits->count_max);
    *a = (struct admission){
        .limits = *limits, .limit = limits->count_max, .window_ms = now_ms, .quickest_ms = UINT32_MAX};
}

static void grow(struct admission *a)
{
    uint32_t more = a->limit / 4 + 1;

    a->limit = a->limits.count_max - a->limit > more ? a->limit + more : a->limits.count_max;
}

/* From what was under way, not from the limit: a limit far above it would take many windows to be felt. */
static void shrink(struct admission *a)
{
    uint32_t from = a->most < a->limit ? a->most : a->limit;
    uint32_t to = from - from / 4;

    a->limit = to > a->limits.count_min ? to : a->limits.count_min;
}

static void window_end(struct admission *a, uint64_t now_ms)
{
    if (a->quickest_ms == UINT32_MAX) {
        if (a->count == 0) {
            a->slow = 0;
            a->delay_ms = 0;
            grow(a);
        }
    } else {
        a->delay_ms = a->quickest_ms;
        a->slow = a->quickest_ms > a->limits.delay_max_ms ? a->slow + 1 : 0;
        if (a->slow >= SLOW_WINDOWS) {
            shrink(a);
        } else if (a->quickest_ms < a->limits.delay_max_ms / 2) {
            grow(a);
        }
    }
    a->window_ms = now_ms;
    a->quickest_ms = UINT32_MAX;
    a->most = a->count;
}

static void advance(struct admission *a, uint64_t now_ms)
{
    uint64_t windows = (now_ms - a->window_ms) / ADMISSION_WINDOW_MS;

    if (windows == 0) {
        return;
    }
    window_end(a, now_ms);
    /* Nobody came or went meanwhile: the further windows are all alike. */
    for (uint64_t i = 1; i < windows && a->count == 0 && a->limit < a->limits.count_max; i++) {
        window_end(a, now_ms);
    }
}

enum admission_verdict admission_ask(struct admission *a, uint64_t bytes, uint64_t now_ms)
{
    advance(a, now_ms);
    if (a->count >= a->limit) {
        return a->limit < a->limits.count_max ? ADMISSION_DELAY : ADMISSION_COUNT;
    }
    return a->count > 0 && a->bytes + bytes > a->limits.bytes_max ? ADMISSION_BYTES : ADMISSION_OK;
}

enum admission_verdict admission_begin(struct admission *a, uint64_t bytes, uint64_t now_ms)
{
    enum admission_verdict verdict = admission_ask(a, bytes, now_ms);

    if (verdict != ADMISSION_OK) {
        a->refused[verdict]++;
        return verdict;
    }
    a->count++;
    a->bytes += bytes;
    a->most = a->count > a->most ? a->count : a->most;
    return ADMISSION_OK;
}

/* Without products: there may be no bound. */
static bool within_share(uint64_t own, uint64_t max, uint64_t under_way, uint64_t always)
{
    uint64_t free = max > under_way ? max - under_way : 0;

    return own < always || (own - always) / ADMISSION_SHARE_TIMES < free;
}

bool admission_share(struct admission *a, uint32_t own, uint64_t own_bytes)
{
    if (within_share(own, a->limit, a->count, ADMISSION_SHARE_MIN) &&
        within_share(own_bytes, a->limits.bytes_max, a->bytes, ADMISSION_SHARE_BYTES_MIN)) {
        return true;
    }
    a->refused[ADMISSION_SHARE]++;
    return false;
}

void admission_end(struct admission *a, uint64_t bytes)
{
    assert(a->count > 0 && a->bytes >= bytes);
    a->count--;
    a->bytes -= bytes;
}

void admission_sample(struct admission *a, uint64_t delay_ms, uint64_t now_ms)
{
    advance(a, now_ms);
    if (delay_ms < a->quickest_ms) {
        a->quickest_ms = (uint32_t)delay_ms;
    }
}
