/* Damage: what the disk has lost, found by reading sealed segments again in the background or by whoever meets it, and
 * what follows for the shards (PROTOCOL E3).
 *
 * Scrubbing: every tick adds to an allowance of bytes; once it is enough for a piece, one is read on the thread pool. A
 * pass over all sealed segments begins at most every scrub_every_ms.
 *
 * Whoever meets damage calls damage_met: the core then has the replica leave the in-sync set until it was seeded, a
 * primary after it has handed over. A read that met it fails, and is asked of another replica (door_get.c, door_fan.c).
 */
#include "sidecar/node/node_internal.h"

#include "sidecar/io/clock.h"
#include "sidecar/io/log.h"

#include <stdlib.h>

enum {
    SCRUB_PIECE_BYTES = 1 << 20,
    READ_FAILURES = 3,        /* so many failed reads, */
    READ_AGAIN_MS = 200,      /* over so long at least, */
    READ_FORGIVEN_MS = 60000, /* and within this, are damage */
};

struct scrub {
    struct node_work work;
    struct journal_scrub *journal;
    bool reading;
    bool passing;
    uint64_t pass_began_ms; /* 0: none yet */
    uint64_t ticked_ms;
    uint64_t allowance_bytes;
};

/* --- damage ------------------------------------------------------------------------------------------------------- */

/* A read that failed once (OTR_IO) may have failed for the moment: everybody tries again. What failed again and again
 * is lost, as when a sector cannot be read. Reads that succeed meanwhile were of other places, and prove nothing. */
bool damage_is(struct shard *s, int status)
{
    uint64_t now_ms = clock_now_ms();

    if (status != OTR_IO) {
        return status == OTR_CORRUPT;
    }
    if (s->read_failures == 0 || now_ms - s->read_failed_ms > READ_FORGIVEN_MS) {
        s->read_failed_ms = now_ms;
        s->read_failures = 0;
    }
    s->read_failures++;
    return s->read_failures >= READ_FAILURES && now_ms - s->read_failed_ms >= READ_AGAIN_MS;
}

void damage_met(struct shard *s, uint64_t log_id, const char *where)
{
    if (s->node->closing || s->node->dying || log_id != s->meta.log_id || log_id == 0) {
        return; /* what was read belongs to a log that was given up meanwhile */
    }
    s->metrics.damage_found_total++;
    LOG_LIMITED(LOG_ERROR, s->subject, "damage: %s. Check this disk: the copy is replaced from another replica", where);
    s->damaged = true;
    shard_feed(s, &(struct replica_event){.type = REPLICA_EV_LOG_DAMAGED});
    node_changed(s->node);
}

void damage_gone(struct shard *s)
{
    s->damaged = false;
    s->read_failures = 0;
}

/* --- scrubbing ---------------------------------------------------------------------------------------------------- */

static void on_damage(void *data, otr_shard shard, journal_place place)
{
    struct node *n = data;
    struct shard *s = node_shard(n, shard);
    char where[120];

    if (s == NULL || s->damaged) {
        return; /* told already */
    }
    snprintf(where, sizeof where, "segment %u of the log does not read as it was written, from byte %llu on",
             (unsigned)(place >> 40), (unsigned long long)(place & ((1ULL << 40) - 1)) * 8);
    damage_met(s, s->meta.log_id, where);
}

static void piece_run(struct node_work *w)
{
    journal_scrub_run(((struct scrub *)w)->journal);
}

static void piece_done(struct node_work *w)
{
    struct scrub *scrub = (struct scrub *)w;
    struct node *n = w->node;
    uint64_t bytes = journal_scrub_end(scrub->journal, on_damage, n);

    scrub->reading = false;
    scrub->allowance_bytes -= bytes < scrub->allowance_bytes ? bytes : scrub->allowance_bytes;
    n->metrics.node.scrubbed_bytes_total += bytes;
}

void scrub_tick(struct node *n, uint64_t now_ms)
{
    struct scrub *s = n->scrub;
    uint64_t elapsed_ms;

    if (s == NULL || s->reading) {
        return;
    }
    elapsed_ms = now_ms - s->ticked_ms;
    s->ticked_ms = now_ms;
    if (!s->passing && s->pass_began_ms != 0 && now_ms - s->pass_began_ms < n->scrub_every_ms) {
        return;
    }
    s->allowance_bytes += n->scrub_bytes_per_s * (elapsed_ms < 1000 ? elapsed_ms : 1000) / 1000;
    if (s->allowance_bytes < SCRUB_PIECE_BYTES) {
        return;
    }
    if (!journal_scrub_begin(s->journal, SCRUB_PIECE_BYTES)) {
        n->metrics.node.scrub_passes_total += s->passing;
        s->passing = false;
        s->pass_began_ms = now_ms; /* when there was nothing to read, too */
        s->allowance_bytes = SCRUB_PIECE_BYTES;
        return;
    }
    if (!s->passing) {
        s->passing = true;
        s->pass_began_ms = now_ms;
    }
    s->reading = true;
    node_work_start(n, &s->work, piece_run, piece_done);
}

int scrub_start(struct node *n, const struct node_config *config)
{
    struct scrub *s;

    n->scrub_bytes_per_s = config->scrub_bytes_per_s;
    n->scrub_every_ms = config->scrub_every_ms;
    if (config->scrub_bytes_per_s == 0) {
        return 0;
    }
    s = calloc(1, sizeof *s);
    if (s == NULL || (s->journal = journal_scrub_new(n->journal)) == NULL) {
        free(s);
        return OTR_NOMEM;
    }
    s->ticked_ms = clock_now_ms();
    n->scrub = s;
    return 0;
}

void scrub_stop(struct node *n)
{
    if (n->scrub != NULL) {
        journal_scrub_free(n->scrub->journal);
        free(n->scrub);
    }
}
