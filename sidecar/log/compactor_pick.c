/* What leaves the log, and which segments are worth rewriting. Loop thread. */
#include "sidecar/log/compactor_internal.h"

#include <assert.h>
#include <stdlib.h>

enum { BYTES_MAX_PRESSED = 1 << 20 }; /* to be written on a full disk without a reserve: next to nothing */

/* --- entries that leave the log ----------------------------------------------------------------------------------- */

/* The last entry of the shard's log that stands in the segment; 0: none does. Entries stand in the order of their
 * indexes, and all segments in front have left already. */
static uint64_t last_entry_in(const struct shard_log *l, uint32_t segment)
{
    size_t low = 0;
    size_t high = l->count;

    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (place_segment(l->places[middle]) <= segment) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low == 0 ? 0 : l->base.index + low;
}

static bool may_leave(const struct compactor *c, const struct segment *s)
{
    const struct journal *j = c->config.j;

    for (otr_shard i = 0; i < OTR_SHARDS_MAX; i++) {
        const struct journal_shard *shard = j->shards[i];
        uint64_t last = shard == NULL ? 0 : last_entry_in(&shard->log, s->number);
        if (last > 0 && (last > shard->durable_index || last > c->config.keep(c->config.data, i))) {
            return false;
        }
    }
    return true;
}

static int leave(struct compactor *c, struct segment *s)
{
    struct journal *j = c->config.j;

    for (otr_shard i = 0; i < OTR_SHARDS_MAX; i++) {
        struct journal_shard *shard = j->shards[i];
        uint64_t last = shard == NULL ? 0 : last_entry_in(&shard->log, s->number);
        if (last > 0 && journal_settle(j, shard, last) != 0) {
            return OTR_NOMEM;
        }
    }
    s->left = true;
    return 0;
}

/* While a shard is damaged nothing is touched: what it lost must look the same at the next start. */
static bool none_damaged(const struct journal *j)
{
    for (otr_shard i = 0; i < OTR_SHARDS_MAX; i++) {
        if (j->shards[i] != NULL && j->shards[i]->damaged) {
            return false;
        }
    }
    return true;
}

/* The oldest segments leave the log as far as retention lets them. The one that is written to never does: it has a META
 * of every shard. */
static void shorten_log(struct compactor *c, bool pressed)
{
    struct journal *j = c->config.j;
    uint64_t newer = 0; /* bytes in segments behind */

    for (size_t i = 0; i < j->segments.count; i++) {
        struct segment *s = j->segments.list[i];
        newer += s->kept || s->left ? 0 : s->bytes;
        if (s->began_ms == 0) {
            s->began_ms = c->now_ms;
        }
    }
    for (size_t i = 0; i + 1 < j->segments.count; i++) {
        struct segment *s = j->segments.list[i];
        /* The age of its last entry: when the next segment was begun. */
        uint64_t age_ms = c->now_ms - j->segments.list[i + 1]->began_ms;

        if (s->kept || s->left) {
            continue;
        }
        newer -= s->bytes;
        if ((!pressed && (newer < c->config.retain_bytes || age_ms < c->config.retain_ms)) || !may_leave(c, s) ||
            leave(c, s) != 0) {
            return;
        }
    }
}

/* --- what a segment is worth -------------------------------------------------------------------------------------- */

struct worth {
    uint64_t live_bytes;
    uint64_t tomb_bytes;
};

/* Of a segment as it was appended points and deletions are needed; what compaction wrote is needed but for the points
 * that died since. */
static struct worth worth_of(const struct compactor *c, const struct segment *s, bool first)
{
    struct worth w = {0, 0};
    uint64_t dead = 0;

    for (otr_shard i = 0; i < OTR_SHARDS_MAX; i++) {
        struct store *store = c->config.j->shards[i] == NULL ? NULL : c->config.store(c->config.data, i);
        struct store_usage u;
        uint64_t live;
        if (store == NULL) {
            continue;
        }
        store_usage(store, s->number, &u);
        live = u.points > 0 ? (uint64_t)((double)u.points_bytes * (double)u.live / (double)u.points) : 0;
        w.live_bytes += live;
        dead += u.points_bytes - live;
        w.tomb_bytes += u.deletes_bytes;
    }
    if (s->kept) {
        dead += w.tomb_bytes;
        w.live_bytes = s->bytes > dead ? s->bytes - dead : 0;
    }
    w.live_bytes = w.live_bytes < s->bytes ? w.live_bytes : s->bytes;
    if (first) {
        w.tomb_bytes = 0;
    }
    return w;
}

static bool eligible(const struct segment *s)
{
    return (s->kept || s->left) && !s->spoilt;
}

struct choice {
    size_t first, count;
    uint64_t garbage;
};

/* The run of neighbours that frees most, among those worth it and small enough. */
static void choose_by_garbage(const struct compactor *c, const struct worth *w, uint64_t bytes_max, bool pressed,
                              struct choice *best)
{
    const struct segment_list *l = &c->config.j->segments;

    for (size_t i = 0; i < l->count; i++) {
        uint64_t bytes = 0;
        uint64_t needed = 0;

        for (size_t k = i; k < l->count && eligible(l->list[k]); k++) {
            bytes += l->list[k]->bytes;
            needed += w[k].live_bytes + w[k].tomb_bytes;
            if (needed > bytes_max && (k > i || pressed)) {
                break;
            }
            if (needed * 100 <= bytes * c->config.live_percent && bytes - needed > best->garbage) {
                *best = (struct choice){.first = i, .count = k - i + 1, .garbage = bytes - needed};
            }
        }
    }
}

/* Many small files make one. */
static void choose_small(const struct compactor *c, const struct worth *w, uint64_t bytes_max, struct choice *best)
{
    const struct segment_list *l = &c->config.j->segments;
    uint64_t needed = 0;
    size_t first = 0;

    for (size_t i = 0; i < l->count; i++) {
        uint64_t bytes = w[i].live_bytes + w[i].tomb_bytes;
        if (!eligible(l->list[i]) || bytes > bytes_max / COMPACTOR_FILES_MIN || needed + bytes > bytes_max) {
            needed = 0;
            first = i + 1;
            continue;
        }
        needed += bytes;
        if (i + 1 - first > best->count && i + 1 - first >= COMPACTOR_FILES_MIN) {
            *best = (struct choice){.first = first, .count = i + 1 - first, .garbage = 1};
        }
    }
}

/* Deletions are needed as long as a file in front may hold a point that they deleted. When they have piled up, all
 * files are rewritten from the front on, so that no dead point is left, and then no deletion is needed. */
static void choose_sweep(struct compactor *c, const struct worth *w, struct choice *best)
{
    const struct segment_list *l = &c->config.j->segments;
    uint64_t live = 0;
    uint64_t tombs = 0;

    for (size_t i = 0; i < l->count; i++) {
        live += eligible(l->list[i]) ? w[i].live_bytes : 0;
        tombs += eligible(l->list[i]) ? w[i].tomb_bytes : 0;
    }
    if (c->sweep == 0 && tombs > live / 4 + (4U << 20) + 2 * c->sweep_left) {
        c->sweep = 1;
    }
    for (size_t i = 0; c->sweep > 0 && i < l->count; i++) {
        if (l->list[i]->first >= c->sweep && eligible(l->list[i])) {
            c->sweep = l->list[i]->last + 1;
            *best = (struct choice){.first = i, .count = 1, .garbage = 1};
            return;
        }
    }
    if (c->sweep > 0) {
        c->sweep = 0;
        c->sweep_left = tombs; /* these could not be helped: the next sweep waits for more */
    }
}

/* --- the job ------------------------------------------------------------------------------------------------------ */

/* The last entry of the shard that stands in one of the segments; 0: none does. */
static uint64_t last_entry_of(const struct segment_list *l, const struct choice *choice, otr_shard shard)
{
    uint64_t last = 0;

    for (size_t i = choice->first; i < choice->first + choice->count; i++) {
        const struct segment *s = l->list[i];
        for (size_t k = 0; k < s->runs_count; k++) {
            last = s->runs[k].shard == shard && s->runs[k].last > last ? s->runs[k].last : last;
        }
        for (uint32_t k = 0; k < s->lines_count; k++) {
            last = s->lines[k].shard == shard && s->lines[k].after.index > last ? s->lines[k].after.index : last;
        }
    }
    return last;
}

/* Whether a file in front may hold points of the shard that entries up to `index` have deleted. */
static bool older_points(const struct compactor *c, size_t first, otr_shard shard, uint64_t index)
{
    const struct store *store = c->config.store(c->config.data, shard);

    for (size_t i = 0; i < first && store != NULL; i++) {
        const struct segment *s = c->config.j->segments.list[i];
        struct store_usage u;
        bool clean = false;

        store_usage(store, s->number, &u);
        for (uint32_t k = 0; k < s->lines_count; k++) {
            clean = clean || (s->lines[k].shard == shard && s->lines[k].clean >= index);
        }
        if (u.points > 0 && !clean) {
            return true;
        }
    }
    return false;
}

/* Every shard that the victims may have deletions of. */
static int note_tombs(struct compactor *c, const struct choice *choice)
{
    for (otr_shard i = 0; i < OTR_SHARDS_MAX; i++) {
        const struct journal_shard *s = c->config.j->shards[i];
        struct compactor_shard *line;

        if (s == NULL) {
            continue;
        }
        line = compactor_shard(c, i);
        if (line == NULL) {
            return OTR_NOMEM;
        }
        /* What is dead by now is not copied, and all of the victims' entries are in the store. */
        line->line.clean = s->log.base.index;
        line->tombs = older_points(c, choice->first, i, last_entry_of(&c->config.j->segments, choice, i));
    }
    return 0;
}

static bool job_make(struct compactor *c, const struct choice *choice)
{
    struct journal *j = c->config.j;
    const struct segment *in_front = choice->first > 0 ? j->segments.list[choice->first - 1] : NULL;

    if (j->kept_number == KEPT_NUMBER_MAX || segment_list_reserve(&j->gone, choice->count) != 0) {
        return false;
    }
    c->victims = malloc(choice->count * sizeof(struct segment *));
    c->made = journal_segment_new(j, ++j->kept_number);
    if (c->victims == NULL || c->made == NULL || note_tombs(c, choice) != 0) {
        return false;
    }
    for (size_t i = 0; i < choice->count; i++) {
        c->victims[i] = j->segments.list[choice->first + i];
        c->victims[i]->refs++;
        c->victims_count++;
    }
    c->made->kept = true;
    c->made->first = c->victims[0]->first;
    c->made->last = c->victims[choice->count - 1]->last;
    c->made->batch_number = c->victims[choice->count - 1]->batch_number;
    c->made->batch_first = in_front != NULL ? in_front->batch_number + 1 : 1;
    c->made->previous_bytes = c->victims[0]->previous_bytes;
    return true;
}

bool compactor_pick(struct compactor *c, bool pressed)
{
    const struct segment_list *l = &c->config.j->segments;
    uint64_t bytes_max = c->config.bytes_max;
    struct choice best = {0, 0, 0};
    struct worth *worths;

    c->stats.live_bytes = 0;
    c->stats.dead_bytes = 0;
    if (!none_damaged(c->config.j)) {
        return false;
    }
    shorten_log(c, pressed);
    worths = malloc(l->count * sizeof *worths + 1);
    if (worths == NULL) {
        return false;
    }
    for (size_t i = 0; i < l->count; i++) {
        const struct segment *s = l->list[i];
        worths[i] = (struct worth){0, 0};
        if (s->kept || s->left) {
            worths[i] = worth_of(c, s, i == 0);
            c->stats.live_bytes += worths[i].live_bytes + worths[i].tomb_bytes;
            c->stats.dead_bytes += s->bytes > worths[i].live_bytes + worths[i].tomb_bytes
                                       ? s->bytes - worths[i].live_bytes - worths[i].tomb_bytes
                                       : 0;
        }
    }
    if (pressed) {
        bytes_max = c->use_reserve ? c->config.reserve_bytes / 10 * 9 : BYTES_MAX_PRESSED;
    }
    choose_by_garbage(c, worths, bytes_max, pressed, &best);
    if (best.count == 0 && !pressed) {
        choose_small(c, worths, bytes_max, &best);
    }
    if (best.count == 0 && !pressed) {
        choose_sweep(c, worths, &best);
    }
    free(worths);
    return best.count > 0 && job_make(c, &best);
}
