/* Compaction.
 *
 * WHAT STAYS. Old segments leave the log first: a segment whose entries are all committed, in the store, durable and
 * acknowledged by every in-sync replica (PROTOCOL A3, I2) and that retention does not hold leaves together with them,
 * oldest first. From then on the shards' logs begin behind their last entries in it (shard_log.base), as after a seed:
 * whoever asks for older entries is told OTR_GONE and is seeded. Of a segment that has left, these are still needed:
 * the points that are live; deletions, as long as a file in front may hold what they deleted; request ids of the dedup
 * window (PROTOCOL Q1); how far the log had come. METAs are not: the newest segment, which never leaves, has them all.
 *
 * KEPT FILES. What is needed of one segment or of some neighbours is written to a new file that takes their place in
 * the order of the journal, so recovery still meets everything in the order in which it was appended. Layout:
 *
 *   kept = KEPT_HEAD record record ...
 *
 *   KEPT_HEAD     h.index: the file's number, 2^23 or more. u32 format (1), u32 number, u64 journal id, u32 first and
 *                 last segment that it stands for, u64 length of the segment in front of them (all ones: not told),
 *                 u64 numbers of their first and last batch, u64 length of the file, u64 offset of the first record
 *                 behind the head, u32 length of the identity, u32 count of lines, the lines, the identity.
 *     a line      u32 shard, u32 flags (1 reset, 2 unfinished, 4 cut only), u64 before, u64 epoch and u64 index of
 *                 `after`, u64 clean: see struct kept_line.
 *   KEPT_DELETES, KEPT_DROP   the body of a DELETE or DROP: concern what stands in front of them
 *   KEPT_POINTS   a PUT's body: points that were live when the file was written
 *   KEPT_IDS      request ids, as in SEED_END
 *
 * Nothing of it is an entry: it has no index of its own, and is never replicated.
 *
 * HAPPY PATH. Segments are picked (compactor_pick.c) -> they are read a piece at a time, each piece judged by the
 * stores (is this place the newest version's?) and what is live written to "<number>.new" -> request ids -> head, sync
 * -> the stores' places are moved to the new file -> no store needs the old files any more (asserted by counting) ->
 * rename to
 * "<number>.kept", sync of the directory -> the old files are removed once no reader and no pin holds them. A point
 * that dies while it is copied is copied for nothing.
 *
 * A CRASH before the rename is durable leaves a file that is no kept file, which the next start removes; one behind it
 * leaves old files that a kept file stands for, which the next start ignores, and removes once the directory is synced.
 * Numbers of kept files are never used twice, and of two that overlap the newer stands for all of the older.
 *
 * FAILURES. Nothing here is acknowledged to anybody, so a failed write or sync only means that the new file is thrown
 * away; the old ones are still there. After the stores were moved there is no way back, since they point into the new
 * file: when its rename fails then, both stay as they are, and compaction halts until the next start.
 *
 * WHAT WAS CUT. A segment that has left may have begun with entries that were cut later, whose first ones stood in
 * segments that are gone. So behind a kept file recovery takes the shard's log as `loose`: entries and cuts that do not
 * follow it are passed over until one does.
 *
 * A FULL DISK is when compaction is needed most, and it needs room to make room. The file RESERVE holds some blocks: it
 * is renamed and overwritten in place, so appends that wait for space do not get them first. */
#include "sidecar/log/compactor_internal.h"

#include <assert.h>
#include <stdlib.h>

enum {
    LOOK_EVERY_MS = 1000, /* it looks at all segments, for all shards */
    RETRY_MS = 5000,
    YIELD_PENDING_BYTES = 4 << 20, /* appended and not durable, above which appends go first */
    YIELD_MS_MAX = 500,            /* but not for ever */
    BYTES_MAX_DEFAULT = 256 << 20,
};

int compactor_new(struct compactor **out, const struct compactor_config *config)
{
    struct compactor *c = calloc(1, sizeof *c);

    if (c == NULL) {
        return OTR_NOMEM;
    }
    c->config = *config;
    if (c->config.bytes_max == 0) {
        c->config.bytes_max = BYTES_MAX_DEFAULT;
    }
    if (c->config.piece_bytes == 0) {
        c->config.piece_bytes = COMPACTOR_PIECE_BYTES;
    }
    c->phase = COMPACTOR_IDLE;
    *out = c;
    return 0;
}

/* The job is over, however it went. */
static void job_end(struct compactor *c)
{
    for (size_t i = 0; i < c->victims_count; i++) {
        journal_segment_release(c->victims[i]);
    }
    free(c->victims);
    c->victims = NULL;
    c->victims_count = 0;
    if (c->made != NULL && c->made != c->config.j->staged) {
        journal_segment_release(c->made);
    }
    c->made = NULL;
    if (c->scanning) {
        segment_scan_close(&c->scan);
        c->scanning = false;
    }
    free(c->shards);
    c->shards = NULL;
    c->shards_count = c->shards_capacity = 0;
    free(c->piece.bytes);
    free(c->piece.items);
    c->piece = (struct compactor_piece){0};
    free(c->out);
    c->out = NULL;
    c->out_used = c->out_capacity = 0;
    free(c->moves);
    c->moves = NULL;
    c->moves_count = c->moves_capacity = c->moved = 0;
    free(c->groups);
    c->groups = NULL;
    c->groups_count = c->groups_capacity = 0;
    free(c->ids);
    c->ids = NULL;
    c->victim = 0;
    c->read_all = false;
    c->written = c->synced = 0;
    c->ids_shard = 0;
    c->phase = COMPACTOR_IDLE;
}

void compactor_free(struct compactor *c)
{
    if (c == NULL) {
        return;
    }
    assert(!c->running);
    job_end(c);
    journal_segment_release(c->reaped);
    if (c->reserve != NULL) {
        c->reserve->fs->ops->close(c->reserve);
    }
    free(c);
}

void compactor_stats(const struct compactor *c, struct compactor_stats *stats)
{
    *stats = c->stats;
}

/* --- on the loop: what comes next --------------------------------------------------------------------------------- */

/* Files that are gone and that only the journal holds still. */
static bool reap(struct compactor *c)
{
    struct segment_list *gone = &c->config.j->gone;

    for (size_t i = 0; i < gone->count; i++) {
        if (gone->list[i]->refs == 1) {
            c->reaped = gone->list[i];
            segment_list_remove(gone, i, 1);
            c->phase = COMPACTOR_REAP;
            return true;
        }
    }
    return false;
}

static bool wants_reserve(const struct compactor *c)
{
    const struct journal *j = c->config.j;

    return c->config.reserve_bytes > 0 && !j->reserve && j->segments.count > 1 &&
           (j->segments.list[0]->kept || j->segments.list[0]->left);
}

/* Nothing is under way. */
static bool look(struct compactor *c, bool pressed)
{
    if (reap(c)) {
        return true;
    }
    if (c->now_ms < c->not_before_ms || c->now_ms - c->looked_ms < LOOK_EVERY_MS) {
        return false;
    }
    c->looked_ms = c->now_ms;
    c->use_reserve = pressed && c->config.j->reserve;
    if (compactor_pick(c, pressed)) {
        c->began_ms = c->now_ms;
        c->phase = COMPACTOR_COPY;
        return true;
    }
    job_end(c);
    if (!pressed && wants_reserve(c)) {
        c->phase = COMPACTOR_FILL;
        return true;
    }
    return false;
}

/* All of the victims is read and written. */
static void copied(struct compactor *c)
{
    compactor_lines_settle(c);
    c->ids_shard = 0;
    c->phase = COMPACTOR_IDS;
}

static void abort_job(struct compactor *c, int status, const char *text)
{
    c->stats.failed_total++;
    c->not_before_ms = c->now_ms + RETRY_MS;
    c->status = status;
    if (text != NULL) {
        otr_errmsg_set(&c->msg, "%s", text);
    }
    c->phase = COMPACTOR_ABORT;
}

/* Gathers the next request ids; true when there are some to be written, or when all are. */
static bool gather_ids(struct compactor *c)
{
    while (c->ids_shard < c->shards_count) {
        struct compactor_shard *s = &c->shards[c->ids_shard];
        int rv;

        if (s->line.unfinished || s->line.cut_only || s->ids_from >= s->line.after.index) {
            c->ids_shard++;
            continue;
        }
        free(c->ids);
        c->ids = NULL;
        c->ids_of = s->line.shard;
        rv = c->config.ids(c->config.data, s->line.shard, &s->ids_from, s->line.after.index, &c->ids, &c->ids_bytes);
        if (rv != 0) {
            abort_job(c, rv == OTR_BUSY ? 0 : rv, otr_strerror(rv));
            return true;
        }
        if (c->ids != NULL) {
            return true;
        }
        return false; /* the next ones in the next turn */
    }
    c->phase = COMPACTOR_FINISH;
    return true;
}

static void halt(struct compactor *c, const char *text)
{
    c->stats.halted = true;
    c->stats.failed_total++;
    otr_errmsg_set(&c->msg, "%s; nothing is lost, but no space is given back before the next start", text);
    c->status = OTR_IO;
}

/* Some of the stores' places. True when that was all. */
static bool move_some(struct compactor *c)
{
    size_t end = c->moves_count - c->moved < COMPACTOR_MOVES ? c->moves_count : c->moved + COMPACTOR_MOVES;

    for (; c->moved < end; c->moved++) {
        const struct compactor_move *m = &c->moves[c->moved];
        const struct compactor_group *g = &c->groups[m->group];
        struct store *store = c->config.store(c->config.data, g->shard);
        journal_place to = place_make(c->made->number, (uint64_t)m->to * 8);

        if (store != NULL && store_move(store, g->collection, m->hash, m->from, to, m->bytes) != 0) {
            return false; /* out of memory: again in the next turn */
        }
    }
    return c->moved == c->moves_count;
}

/* Whether any store still finds points in the victims. */
static bool still_needed(const struct compactor *c)
{
    for (otr_shard i = 0; i < OTR_SHARDS_MAX; i++) {
        const struct store *store = c->config.j->shards[i] == NULL ? NULL : c->config.store(c->config.data, i);
        for (size_t k = 0; store != NULL && k < c->victims_count; k++) {
            struct store_usage u;
            store_usage(store, c->victims[k]->number, &u);
            if (u.live > 0) {
                return true;
            }
        }
    }
    return false;
}

static bool may_go_on(struct compactor *c)
{
    uint64_t rate = c->config.bytes_per_s;
    int64_t most = (int64_t)(rate / 4 > COMPACTOR_PIECE_BYTES ? rate / 4 : COMPACTOR_PIECE_BYTES);

    if (journal_pending_bytes(c->config.j) > YIELD_PENDING_BYTES) {
        c->yielded_ms = c->yielded_ms == 0 ? c->now_ms : c->yielded_ms;
        if (c->now_ms - c->yielded_ms < YIELD_MS_MAX) {
            return false;
        }
    }
    if (rate > 0) {
        c->budget += (int64_t)((c->now_ms - c->budget_ms) * rate / 1000);
        c->budget = c->budget < most ? c->budget : most;
        c->budget_ms = c->now_ms;
        if (c->budget <= 0) {
            return false;
        }
    }
    c->yielded_ms = 0;
    return true;
}

bool compactor_turn(struct compactor *c, uint64_t now_ms, bool pressed)
{
    bool ready = true;

    if (c->running || c->stats.halted || c->config.j->failed) {
        return false;
    }
    c->now_ms = now_ms;
    switch (c->phase) {
    case COMPACTOR_IDLE:
        ready = look(c, pressed);
        break;
    case COMPACTOR_IDS:
        ready = may_go_on(c) && gather_ids(c);
        break;
    case COMPACTOR_COPY:
    case COMPACTOR_FILL:
        ready = may_go_on(c);
        break;
    case COMPACTOR_MOVE:
        ready = move_some(c);
        if (ready && still_needed(c)) {
            halt(c, "a segment holds live points that were not found in it");
        } else if (ready) {
            c->phase = COMPACTOR_COMMIT;
        }
        ready = ready && !c->stats.halted;
        break;
    default:
        break;
    }
    c->running = ready;
    return ready;
}

/* --- any thread --------------------------------------------------------------------------------------------------- */

static int commit(struct compactor *c)
{
    struct file_system *fs = c->config.j->fs;
    char from[KEPT_NAME_BYTES];
    char to[KEPT_NAME_BYTES];
    int rv;

    kept_name(from, c->made->number, false);
    kept_name(to, c->made->number, true);
    rv = fs->ops->rename(fs, from, to, &c->msg);
    return rv == 0 ? fs->ops->sync_dir(fs, &c->msg) : rv;
}

/* Removes the new file, or makes it the reserve again. What fails is put right by the next start. */
static void throw_away(struct compactor *c)
{
    struct file_system *fs = c->config.j->fs;
    char name[KEPT_NAME_BYTES];

    if (c->made->file == NULL) {
        return;
    }
    kept_name(name, c->made->number, false);
    fs->ops->close(c->made->file);
    c->made->file = NULL;
    if (c->from_reserve) {
        (void)fs->ops->rename(fs, name, JOURNAL_RESERVE_NAME, NULL);
    } else {
        (void)fs->ops->remove(fs, name, NULL);
    }
}

static void remove_reaped(struct compactor *c)
{
    struct file_system *fs = c->config.j->fs;
    char name[SEGMENT_NAME_BYTES];

    if (c->reaped->kept) {
        kept_name(name, c->reaped->number, true);
    } else {
        segment_name(name, c->reaped->number);
    }
    fs->ops->close(c->reaped->file);
    c->reaped->file = NULL;
    (void)fs->ops->remove(fs, name, NULL); /* else the next start does */
}

/* Some more zeros for the reserve; *done when it is complete and durable. */
static int fill_reserve(struct compactor *c)
{
    struct file_system *fs = c->config.j->fs;
    uint8_t *zeros;
    int rv = 0;

    if (c->reserve == NULL) {
        (void)fs->ops->remove(fs, JOURNAL_RESERVE_PART, NULL); /* of a process that ended meanwhile */
        rv = fs->ops->open(fs, JOURNAL_RESERVE_PART, FILE_CREATE, &c->reserve, &c->msg);
        if (rv != 0) {
            c->reserve = NULL;
            return rv;
        }
    }
    zeros = calloc(1, COMPACTOR_PIECE_BYTES);
    rv = zeros == NULL ? OTR_NOMEM : fs->ops->write(c->reserve, c->written, zeros, COMPACTOR_PIECE_BYTES, &c->msg);
    free(zeros);
    c->written += COMPACTOR_PIECE_BYTES;
    c->run_bytes += COMPACTOR_PIECE_BYTES;
    if (rv == 0 && c->written >= c->config.reserve_bytes) {
        rv = fs->ops->sync(c->reserve, &c->msg);
        rv = rv == 0 ? fs->ops->rename(fs, JOURNAL_RESERVE_PART, JOURNAL_RESERVE_NAME, &c->msg) : rv;
        rv = rv == 0 ? fs->ops->sync_dir(fs, &c->msg) : rv;
    }
    if (rv != 0 || c->written >= c->config.reserve_bytes) {
        fs->ops->close(c->reserve);
        c->reserve = NULL;
        if (rv != 0) {
            (void)fs->ops->remove(fs, JOURNAL_RESERVE_PART, NULL);
            (void)fs->ops->remove(fs, JOURNAL_RESERVE_NAME, NULL);
        }
    }
    return rv;
}

void compactor_run(struct compactor *c)
{
    c->run_bytes = 0;
    c->status = 0;
    c->msg = (struct otr_errmsg){0};
    switch (c->phase) {
    case COMPACTOR_COPY:
        c->status = c->made->file == NULL ? compactor_begin(c) : 0;
        c->status = c->status == 0 ? compactor_copy(c) : c->status;
        break;
    case COMPACTOR_IDS:
        c->status = compactor_write_ids(c);
        break;
    case COMPACTOR_FINISH:
        c->status = compactor_finish(c);
        break;
    case COMPACTOR_COMMIT:
        c->status = commit(c);
        break;
    case COMPACTOR_ABORT:
        throw_away(c);
        break;
    case COMPACTOR_REAP:
        remove_reaped(c);
        break;
    case COMPACTOR_FILL:
        c->status = fill_reserve(c);
        break;
    default:
        break;
    }
}

/* --- back on the loop --------------------------------------------------------------------------------------------- */

static void judge(struct compactor *c)
{
    for (size_t i = 0; i < c->piece.count; i++) {
        struct compactor_item *item = &c->piece.items[i];
        const struct store *store = c->config.store(c->config.data, item->shard);

        if (item->kind == RECORD_KEPT_POINTS) {
            item->keep = store != NULL && store_is_live(store, item->collection, item->hash, item->place);
        }
    }
}

/* The new file has its name, and the stores its places: it takes the place of the victims. */
static void take_place(struct compactor *c)
{
    struct journal *j = c->config.j;
    size_t at = 0;

    while (j->segments.list[at] != c->victims[0]) {
        at++;
    }
    for (size_t i = 0; i < c->victims_count; i++) {
        struct segment *s = j->segments.list[at + i];
        assert(s == c->victims[i]);
        s->gone = true;
        j->gone.list[j->gone.count++] = s;
        c->stats.segments_total++;
    }
    segment_list_remove(&j->segments, at, c->victims_count - 1);
    j->segments.list[at] = c->made;
    j->staged = NULL;
    for (otr_shard i = 0; i < OTR_SHARDS_MAX; i++) {
        struct store *store = j->shards[i] == NULL ? NULL : c->config.store(c->config.data, i);
        for (size_t k = 0; store != NULL && k < c->victims_count; k++) {
            store_usage_forget(store, c->victims[k]->number);
        }
        for (size_t k = 0; store != NULL && k < c->shards_count; k++) {
            if (c->shards[k].line.shard == i && c->shards[k].tombs_bytes > 0) {
                store_usage_deletes(store, c->made->number, c->shards[k].tombs_bytes);
            }
        }
    }
    c->made = NULL; /* the journal's now */
}

static void succeeded(struct compactor *c)
{
    switch (c->phase) {
    case COMPACTOR_COPY:
        if (c->from_reserve) {
            c->config.j->reserve = false;
        }
        judge(c);
        if (c->read_all && c->piece.count == 0) {
            copied(c);
        }
        break;
    case COMPACTOR_FINISH:
        c->config.j->staged = c->made;
        c->phase = COMPACTOR_MOVE;
        break;
    case COMPACTOR_COMMIT:
        take_place(c);
        job_end(c);
        c->looked_ms = 0;
        break;
    case COMPACTOR_ABORT:
        if (c->from_reserve) {
            c->config.j->reserve = true;
        }
        job_end(c);
        break;
    case COMPACTOR_REAP:
        journal_segment_release(c->reaped);
        c->reaped = NULL;
        c->phase = COMPACTOR_IDLE;
        break;
    case COMPACTOR_FILL:
        if (c->reserve == NULL) {
            c->config.j->reserve = true;
            job_end(c);
        }
        break;
    default:
        break;
    }
}

int compactor_ran(struct compactor *c, uint64_t now_ms, struct otr_errmsg *msg)
{
    int status = c->status;

    assert(c->running);
    c->running = false;
    c->stats.busy_ms_total += now_ms - c->now_ms;
    c->now_ms = now_ms;
    c->budget -= (int64_t)c->run_bytes;
    if (status == 0) {
        succeeded(c);
    } else if (c->phase == COMPACTOR_COMMIT) {
        halt(c, "the new file could not be given its name");
    } else if (c->phase == COMPACTOR_FILL) {
        c->stats.failed_total++;
        c->not_before_ms = now_ms + RETRY_MS;
        job_end(c);
    } else {
        abort_job(c, status, NULL);
    }
    if (status != 0) {
        otr_errmsg_set(msg, "%s", c->msg.text[0] != '\0' ? c->msg.text : otr_strerror(status));
    }
    return status;
}
