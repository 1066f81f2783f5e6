/* Committed entries into the store, in index order (invariant 5), then handed to the engine's feeder.
 *
 * Usually the entries are still in the journal's memory; after a restart or a long lag they are read off the loop
 * first. */
#include "sidecar/node/node_internal.h"

#include "sidecar/io/clock.h"
#include "sidecar/io/log.h"
#include "sidecar/node/recover.h"

#include <assert.h>
#include <stdlib.h>

enum { APPLY_BYTES = 4 << 20, APPLY_AGAIN_MS = 100 };

struct apply_read {
    struct node_work work;
    struct shard *shard;
    struct journal_reader *reader;
    uint64_t first;  /* index of the first entry read */
    uint64_t log_id; /* of the log that it belongs to */
    int status;
    struct otr_errmsg msg;
};

/* Asked only when two ids may share a 64-bit hash: almost never, so a short read on the loop is worth its simplicity.
 */
bool apply_same_id(void *data, journal_place place, const char *id, size_t id_bytes)
{
    struct shard *s = data;
    struct journal_reader *r;
    struct otr_point p;
    bool same = true;

    if (s->node->journal == NULL) {
        return true; /* while the journal is being read: both hashes are equal, and that must do */
    }
    r = journal_reader_new(s->node->journal);
    if (r == NULL) {
        return true;
    }
    int number = journal_reader_point(r, place, 0);
    if (number >= 0 && journal_reader_run(r, NULL) == 0 && journal_reader_point_result(r, number, &p) == 0) {
        same = p.id_bytes == id_bytes && memcmp(p.id, id, id_bytes) == 0;
    }
    journal_reader_free(r);
    return same;
}

static int apply_bytes(struct shard *s, const struct journal_bytes *entries)
{
    size_t offset = 0;

    while (offset < entries->bytes && !digest_holds(s)) {
        const uint8_t *record = entries->data + offset;
        struct record_header h;
        uint32_t outcome = 0;
        int rv = record_read(record, entries->bytes - offset, &h);

        if (rv == 0) {
            assert(h.index == s->stored + 1);
            rv = store_apply(s->store, &h, record + RECORD_HEADER_BYTES,
                             journal_place_of(s->node->journal, s->id, h.index), apply_same_id, s, &outcome);
        }
        if (rv != 0) {
            return rv;
        }
        s->stored = h.index;
        if (s->replica == NULL) {
            recover_outcome(s, h.index, outcome);
        } else {
            replica_outcome(s->replica, h.index, outcome);
            write_outcome(s, h.index, outcome);
        }
        rv = digest_applied(s);
        if (rv != 0) {
            return rv;
        }
        offset += record_bytes(h.body_bytes);
    }
    return 0;
}

static void failed(struct shard *s, int rv)
{
    node_fatal(s->node, "shard %u: cannot apply entry %llu to the store: %s", s->id, (unsigned long long)s->stored + 1,
               otr_strerror(rv));
}

static void progressed(struct shard *s)
{
    uint64_t now = clock_now_ms();

    feeder_kick(s->feeder);
    write_answer(s, now);
    read_wait_check(s, now);
}

static void read_run(struct node_work *w)
{
    struct apply_read *a = (struct apply_read *)w;

    a->status = journal_reader_run(a->reader, &a->msg);
}

static void read_done(struct node_work *w)
{
    struct apply_read *a = (struct apply_read *)w;
    struct shard *s = a->shard;
    const struct journal_bytes *entries = journal_reader_result(a->reader);
    int rv = a->status;

    s->apply_reading = false;
    /* A seed may have replaced the log meanwhile: what was read then belongs to the old one. */
    if (rv == 0 && !s->node->closing && s->seed_in == NULL && a->log_id == s->meta.log_id &&
        a->first == s->stored + 1) {
        rv = apply_bytes(s, entries);
    }
    journal_reader_free(a->reader);
    if (s->node->closing) {
        free(a);
        return;
    }
    if (damage_is(s, rv)) {
        /* Nothing more goes into the store: it is about to be replaced, or another leads on. */
        s->apply_stuck = a->log_id == s->meta.log_id;
        otr_errmsg_wrap(&a->msg, "entries for the store");
        damage_met(s, a->log_id, a->msg.text);
    } else if (rv == OTR_IO) {
        LOG_LIMITED(LOG_WARN, s->subject, "entries are read again: %s", a->msg.text);
        s->apply_again_ms = clock_now_ms() + APPLY_AGAIN_MS;
    } else if (rv != 0) {
        log_error(s->subject, "%s", a->msg.text);
        failed(s, rv);
    } else {
        progressed(s);
        apply_advance(s);
    }
    free(a);
}

static int read_entries(struct shard *s)
{
    struct apply_read *a = calloc(1, sizeof *a);
    int rv;

    if (a == NULL || (a->reader = journal_reader_new(s->node->journal)) == NULL) {
        free(a);
        return OTR_NOMEM;
    }
    a->shard = s;
    a->first = s->stored + 1;
    a->log_id = s->meta.log_id;
    rv = journal_reader_entries(a->reader, s->id, s->stored + 1, s->commit, APPLY_BYTES);
    if (rv != 0) {
        journal_reader_free(a->reader);
        free(a);
        return rv;
    }
    s->apply_reading = true;
    node_work_start(s->node, &a->work, read_run, read_done);
    return 0;
}

void apply_advance(struct shard *s)
{
    bool moved = false;
    int rv = 0;

    while (rv == 0 && s->stored < s->commit && !s->apply_reading && !s->apply_stuck && !digest_holds(s) &&
           s->apply_again_ms == 0 && s->seed_in == NULL) {
        struct journal_bytes entries = {0};

        rv = journal_read(s->node->journal, s->id, s->stored + 1, s->commit, APPLY_BYTES, &entries);
        if (rv == OTR_UNAVAIL) {
            rv = read_entries(s);
            break;
        }
        if (rv == 0) {
            rv = apply_bytes(s, &entries);
            free(entries.data);
            moved = true;
        }
    }
    if (rv != 0) {
        failed(s, rv);
        return;
    }
    if (moved) {
        progressed(s);
    }
}

void apply_tick(struct shard *s, uint64_t now_ms)
{
    if (s->apply_again_ms != 0 && now_ms >= s->apply_again_ms) {
        s->apply_again_ms = 0;
        apply_advance(s);
    }
}

int apply_recover(struct shard *s, uint64_t committed, struct otr_errmsg *msg)
{
    int rv = 0;

    while (rv == 0 && s->stored < committed) {
        struct journal_reader *r = journal_reader_new(s->node->journal);
        if (r == NULL) {
            return OTR_NOMEM;
        }
        rv = journal_reader_entries(r, s->id, s->stored + 1, committed, 16 << 20);
        if (rv == 0) {
            rv = journal_reader_run(r, msg);
        }
        if (rv == 0) {
            rv = apply_bytes(s, journal_reader_result(r));
        }
        journal_reader_free(r);
    }
    if (rv != 0) {
        otr_errmsg_wrap(msg, "shard %u: rebuild the store from entry %llu on: %s", s->id,
                        (unsigned long long)s->stored + 1, otr_strerror(rv));
    }
    return rv;
}
