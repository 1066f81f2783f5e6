/* Admission: how many requests of one kind may be under way, so that those let in are answered in time and the others
 * are refused at once, cheaply. Pure: time comes with each call; not thread-safe.
 *
 * A request is refused when `limit` are under way, or when their bytes would exceed `bytes_max` (one that is alone may
 * be larger). `limit` moves between count_min and count_max with the delay, as CoDel looks at it: the delay of a window
 * of ADMISSION_WINDOW_MS is that of its *quickest* answer. A burst leaves some answers quick; a standing queue leaves
 * none.
 *
 *   two windows in a row above delay_max_ms    limit falls by a quarter, from what is under way; never below count_min
 *   a window below half of it, or nothing to do     limit grows by a quarter, up to count_max
 *
 * One slow window alone is no overload: after a failover everything that waited is answered late, and what comes next
 * is quick again. Windows without an answer while something is under way (a failover, a stop) change nothing. */
#ifndef OUTRIGGER_CORE_ADMISSION_H
#define OUTRIGGER_CORE_ADMISSION_H

#include <stdbool.h>
#include <stdint.h>

enum {
    ADMISSION_WINDOW_MS = 100,
    ADMISSION_SHARE_TIMES = 3,
    ADMISSION_SHARE_MIN = 16,
    ADMISSION_SHARE_BYTES_MIN = 1 << 20
};

enum admission_verdict {
    ADMISSION_OK = 0,
    ADMISSION_COUNT, /* count_max are under way */
    ADMISSION_BYTES, /* their bytes are too many */
    ADMISSION_DELAY, /* those under way wait too long already */
    ADMISSION_SHARE, /* one of those who share the room would have too much of it */
    ADMISSION_VERDICTS
};

struct admission_limits {
    uint32_t count_min; /* so many are let in, however slow they are */
    uint32_t count_max;
    uint64_t bytes_max;
    uint32_t delay_max_ms;
};

/* Caller-owned, no memory of its own. */
struct admission {
    struct admission_limits limits;
    uint32_t limit; /* count_min..count_max */
    uint32_t count; /* under way */
    uint64_t bytes;
    uint32_t delay_ms; /* of the newest window that had answers */
    uint64_t refused[ADMISSION_VERDICTS];
    /* The window under way. */
    uint64_t window_ms;   /* its begin */
    uint32_t quickest_ms; /* UINT32_MAX: no answer yet */
    uint32_t most;        /* under way at the same time */
    unsigned slow;        /* windows in a row that were too slow */
};

void admission_init(struct admission *a, const struct admission_limits *limits, uint64_t now_ms);
/* What admission_begin would say; counts nothing. */
enum admission_verdict admission_ask(struct admission *a, uint64_t bytes, uint64_t now_ms);
/* ADMISSION_OK: it is under way until admission_end, with the same bytes. Else counted as refused. */
enum admission_verdict admission_begin(struct admission *a, uint64_t bytes, uint64_t now_ms);
/* Several share the room: shards, one of which may stand still. Whether one of them with `own` requests of `own_bytes`
 * under way may have one more (which is under way already): of either it may have three times what is free, and
 * ADMISSION_SHARE_MIN always; so one alone leaves a quarter of the room to the others. False: counted as refused, to be
 * ended. */
bool admission_share(struct admission *a, uint32_t own, uint64_t own_bytes);
void admission_end(struct admission *a, uint64_t bytes);
/* It was answered this long after it had come. Not told of what failed, or waited for another reason than load. */
void admission_sample(struct admission *a, uint64_t delay_ms, uint64_t now_ms);

#endif
