/* Replicas compared with their primary, and repaired where they differ (DESIGN 5).
 *
 *   primary                                       replica
 *     |-- DIGEST index, sum ------------------------>|  when it stands at that very index: equal, or
 *     |<---------------------------- WANT_DIGESTS ---|
 *     |-- DIGEST index, one digest for each range -->|  at that index: which ranges differ; nothing more is applied
 *     |<---------------- WANT_RANGE range, index C --|  (acknowledged all the same) behind index C, where it stands
 *     |-- RANGE index X >= C, points --------------->|  journalled; applied up to X, and there, in one step, what the
 *     |                                              |  replica has in the range becomes what came; then the next one
 *
 * Replicas apply the same entries, so a difference is a bug of ours or memory that failed: it is told loudly. The
 * primary is right by protocol, unless its own copy is known to be damaged: then it compares nothing.
 *
 * The store is derived from the log, which is left as it is, log id and all. Crash-safe: REPAIR_POINTS records say what
 * a range held at an index; recovery applies entries and, at that index, those ranges of which all records are there.
 * What was not finished is found again by the next comparison. A repair that does not go on is given up after a while.
 */
#include "sidecar/node/node_internal.h"

#include "sidecar/io/clock.h"
#include "sidecar/io/log.h"

#include <stdlib.h>

enum {
    DIGEST_EVERY_MS = 1000,
    DIGEST_PATIENCE_MS = 3000,     /* for the answer in a repair */
    DIGEST_PART_BYTES = 1 << 20,   /* of a range's points in one message, about; a point may be larger */
    DIGEST_RANGE_BYTES = 12 << 20, /* of a range: more does not fit into a lane, and the replica is seeded instead */
};

typedef Outrigger__V1__Digest message;

/* A range as it is to be from `index` on. */
struct digest_repair {
    struct digest_repair *next;
    uint64_t index;
    uint32_t range;
    bool complete;
    struct store *points;
};

/* --- sending ------------------------------------------------------------------------------------------------------ */

static int digest_send(struct shard *s, otr_node to, message *m)
{
    struct peer_link *link = node_link(s->node, to);
    Outrigger__V1__ReplicateFrame frame = OUTRIGGER__V1__REPLICATE_FRAME__INIT;

    m->shard = s->id;
    m->epoch = s->epoch;
    frame.digests = &m;
    frame.n_digests = 1;
    return link == NULL ? OTR_UNREACHABLE : peer_link_send(link, PEER_LANE_REPLICATE, &frame.base);
}

static void send_digest(struct shard *s, otr_node to, bool ranges)
{
    message m = OUTRIGGER__V1__DIGEST__INIT;

    m.kind = OUTRIGGER__V1__DIGEST__KIND__DIGEST;
    m.index = s->stored;
    m.sum = store_digest(s->store);
    if (ranges) {
        m.n_ranges = STORE_RANGES;
        m.ranges = (uint64_t *)(uintptr_t)store_digests(s->store);
    }
    (void)digest_send(s, to, &m); /* the next one comes soon */
}

static void ask_range(struct shard *s, otr_node to)
{
    message m = OUTRIGGER__V1__DIGEST__INIT;

    m.kind = OUTRIGGER__V1__DIGEST__KIND__WANT_RANGE;
    m.index = s->digest.hold;
    m.range = s->digest.range;
    s->digest.patience_ms = clock_now_ms() + DIGEST_PATIENCE_MS;
    (void)digest_send(s, to, &m);
}

/* --- the primary: one range --------------------------------------------------------------------------------------- */

struct range_read {
    struct node_work work;
    struct shard *shard;
    otr_node to;
    uint64_t epoch, log_id, index;
    uint32_t range;
    struct store_snapshot *snapshot;
    struct journal_reader *reader;
    int status;
};

static void range_free(struct range_read *r)
{
    store_snapshot_free(r->snapshot);
    journal_reader_free(r->reader);
    free(r);
}

static void range_run(struct node_work *w)
{
    struct range_read *r = (struct range_read *)w;

    r->status = journal_reader_run(r->reader, NULL);
}

/* Sends points[0..count), all of one collection. */
static int send_part(struct range_read *r, uint64_t collection, const struct otr_point *points, size_t count, bool more)
{
    message m = OUTRIGGER__V1__DIGEST__INIT;
    int rv;

    m.kind = OUTRIGGER__V1__DIGEST__KIND__RANGE;
    m.index = r->index;
    m.range = r->range;
    m.more = more;
    m.points.len = put_body_bytes(points, count);
    m.points.data = malloc(m.points.len);
    if (m.points.data == NULL) {
        return OTR_NOMEM;
    }
    put_body_write(m.points.data, collection, points, count);
    rv = digest_send(r->shard, r->to, &m);
    free(m.points.data);
    return rv;
}

static int send_points(struct range_read *r, const struct otr_point *points)
{
    const struct store_snapshot *snap = r->snapshot;
    size_t first = 0;
    int rv = snap->count == 0 ? send_part(r, 0, points, 0, false) : 0;

    while (rv == 0 && first < snap->count) {
        size_t bytes = 0;
        size_t i = first;
        while (i < snap->count && snap->collections[i] == snap->collections[first] && bytes < DIGEST_PART_BYTES) {
            bytes += point_bytes(points[i].dimension, points[i].id_bytes, points[i].metadata_bytes);
            i++;
        }
        rv = send_part(r, snap->collections[first], points + first, i - first, i < snap->count);
        first = i;
    }
    return rv;
}

static void range_send(struct range_read *r)
{
    size_t count = r->snapshot->count;
    struct otr_point *points = calloc(count + 1, sizeof *points);
    size_t bytes = 0;
    int rv = points == NULL ? OTR_NOMEM : r->status;

    for (size_t i = 0; rv == 0 && i < count; i++) {
        rv = journal_reader_point_result(r->reader, (int)i, &points[i]);
        bytes += rv == 0 ? point_bytes(points[i].dimension, points[i].id_bytes, points[i].metadata_bytes) : 0;
    }
    if (rv == 0 && bytes > DIGEST_RANGE_BYTES) {
        message m = OUTRIGGER__V1__DIGEST__INIT;
        m.kind = OUTRIGGER__V1__DIGEST__KIND__TOO_LARGE;
        m.range = r->range;
        rv = digest_send(r->shard, r->to, &m);
    } else if (rv == 0) {
        rv = send_points(r, points);
    }
    if (damage_is(r->shard, rv)) {
        damage_met(r->shard, r->log_id, "points for a repair do not read as they were written");
    }
    free(points);
}

static void range_done(struct node_work *w)
{
    struct range_read *r = (struct range_read *)w;

    if (!r->shard->node->closing && r->shard->role == REPLICA_PRIMARY && r->shard->epoch == r->epoch) {
        range_send(r);
    }
    range_free(r);
}

static void range_start(struct shard *s, otr_node to, uint32_t range)
{
    struct range_read *r = calloc(1, sizeof *r);
    struct store_ranges ranges = {{0}};

    if (r == NULL) {
        return;
    }
    store_ranges_add(&ranges, range);
    r->shard = s;
    r->to = to;
    r->epoch = s->epoch;
    r->log_id = s->meta.log_id;
    r->index = s->stored;
    r->range = range;
    r->snapshot = store_snapshot_ranges(s->store, &ranges);
    r->reader = journal_reader_new(s->node->journal);
    for (size_t i = 0; r->snapshot != NULL && r->reader != NULL && i < r->snapshot->count; i++) {
        if (journal_reader_point(r->reader, r->snapshot->slots[i].place, 0) < 0) {
            range_free(r);
            return;
        }
    }
    if (r->snapshot == NULL || r->reader == NULL) {
        range_free(r);
        return;
    }
    node_work_start(s->node, &r->work, range_run, range_done);
}

/* --- the replica: repairs ----------------------------------------------------------------------------------------- */

static void repair_free(struct digest_repair *r)
{
    store_free(r->points);
    free(r);
}

void digest_forget(struct shard *s)
{
    while (s->digest.repairs != NULL) {
        struct digest_repair *r = s->digest.repairs;
        s->digest.repairs = r->next;
        repair_free(r);
    }
    free(s->digest.expected);
    s->digest.expected = NULL;
    s->digest.holding = false;
}

/* The repair of this range as of this index that lacks parts, made when there is none. */
static struct digest_repair *repair_open(struct shard *s, uint64_t index, uint32_t range)
{
    struct digest_repair **end = &s->digest.repairs;
    struct digest_repair *r;

    for (; *end != NULL; end = &(*end)->next) {
        if ((*end)->index == index && (*end)->range == range && !(*end)->complete) {
            return *end;
        }
    }
    r = calloc(1, sizeof *r);
    if (r == NULL || (r->points = store_new_like(s->store)) == NULL) {
        free(r);
        return NULL;
    }
    r->index = index;
    r->range = range;
    *end = r;
    return r;
}

int digest_take_part(struct shard *s, uint64_t index, uint32_t range, bool more, const uint8_t *body, size_t bytes,
                     journal_place place)
{
    struct digest_repair *r = repair_open(s, index, range);
    int rv = r == NULL ? OTR_NOMEM : store_apply_seed(r->points, body, bytes, place, apply_same_id, s);

    if (rv == 0) {
        r->complete = !more;
    }
    return rv;
}

/* Repairs as of the index where the store stands come into force. */
static int install_due(struct shard *s)
{
    int rv = 0;

    for (struct digest_repair **p = &s->digest.repairs; *p != NULL && rv == 0;) {
        struct digest_repair *r = *p;
        struct store_ranges ranges = {{0}};

        if (r->index > s->stored || (r->index == s->stored && !r->complete)) {
            p = &r->next;
            continue;
        }
        store_ranges_add(&ranges, r->range);
        if (r->index == s->stored) {
            rv = store_replace(s->store, &ranges, r->points);
        }
        if (rv == 0) {
            *p = r->next;
            repair_free(r);
        }
    }
    return rv;
}

static void give_up(struct shard *s)
{
    digest_forget(s);
    apply_advance(s);
}

/* The next range to be asked for, or the end. */
static void go_on(struct shard *s, otr_node primary)
{
    while (s->digest.range < STORE_RANGES && !store_ranges_has(&s->digest.differing, s->digest.range)) {
        s->digest.range++;
    }
    s->digest.hold = s->stored;
    if (s->digest.range < STORE_RANGES) {
        ask_range(s, primary);
        return;
    }
    log_warn(s->subject, "repaired: the ranges that differed are the primary's now, as of entry %llu",
             (unsigned long long)s->stored);
    s->digest.holding = false;
    feeder_reset(s->feeder); /* whatever the engine made of what was wrong */
    feeder_kick(s->feeder);
    apply_advance(s);
}

/* --- the replica: comparing --------------------------------------------------------------------------------------- */

struct digest_expected {
    otr_node from;
    uint64_t index, epoch, sum;
    bool with_ranges;
    uint64_t ranges[STORE_RANGES];
};

static void differs(struct shard *s, const struct digest_expected *e)
{
    size_t count = 0;

    if (!e->with_ranges) {
        s->metrics.digest_mismatches_total++;
        message m = OUTRIGGER__V1__DIGEST__INIT;
        LOG_LIMITED(LOG_ERROR, s->subject,
                    "this replica differs from its primary at entry %llu: memory failed, or this is a bug; please "
                    "report it. What differs is repaired from the primary",
                    (unsigned long long)e->index);
        m.kind = OUTRIGGER__V1__DIGEST__KIND__WANT_DIGESTS;
        (void)digest_send(s, e->from, &m);
        return;
    }
    s->digest.differing = (struct store_ranges){{0}};
    for (size_t i = 0; i < STORE_RANGES; i++) {
        if (store_digests(s->store)[i] != e->ranges[i]) {
            store_ranges_add(&s->digest.differing, i);
            count++;
        }
    }
    if (count == 0) {
        return; /* the primary contradicts itself */
    }
    LOG_LIMITED(LOG_ERROR, s->subject, "%zu of %d ranges differ from the primary's", count, STORE_RANGES);
    s->digest.holding = true;
    s->digest.range = 0;
    go_on(s, e->from);
}

int digest_applied(struct shard *s)
{
    struct digest_expected *e = s->digest.expected;
    int rv = s->digest.repairs != NULL ? install_due(s) : 0;

    if (e != NULL && e->index <= s->stored && rv == 0) {
        bool counts = e->index == s->stored && !s->digest.holding && e->epoch == s->epoch && !s->damaged;
        s->digest.expected = NULL;
        s->metrics.digests_compared_total += counts;
        if (counts && store_digest(s->store) != e->sum) {
            differs(s, e);
        }
        free(e);
    }
    return rv;
}

bool digest_holds(const struct shard *s)
{
    return s->digest.holding && s->stored >= s->digest.hold;
}

static void take_digest(struct shard *s, otr_node from, const message *m)
{
    struct digest_expected *e;

    if (s->digest.holding || m->index < s->stored || (m->n_ranges != 0 && m->n_ranges != STORE_RANGES)) {
        return;
    }
    e = s->digest.expected != NULL ? s->digest.expected : malloc(sizeof *e);
    if (e == NULL) {
        return;
    }
    *e = (struct digest_expected){
        .from = from, .index = m->index, .epoch = m->epoch, .sum = m->sum, .with_ranges = m->n_ranges != 0};
    if (m->n_ranges != 0) { /* none are a NULL pointer */
        memcpy(e->ranges, m->ranges, m->n_ranges * sizeof *m->ranges);
    }
    s->digest.expected = e;
    (void)digest_applied(s);
}

/* Damaged points are refused by the store; then the repair is given up, and begins anew. */
static void take_range(struct shard *s, otr_node from, const message *m)
{
    journal_place place = 0;
    int rv;

    if (!s->digest.holding || m->range != s->digest.range || m->index < s->stored || m->points.len > OTR_BODY_MAX ||
        journal_pending_bytes(s->node->journal) > NODE_PENDING_BYTES_MAX) {
        return;
    }
    rv = journal_repair_points(s->node->journal, s->id, m->index, m->range, m->more, m->points.data, m->points.len,
                               &place);
    if (rv == 0) {
        rv = digest_take_part(s, m->index, m->range, m->more, m->points.data, m->points.len, place);
    }
    if (rv != 0) {
        log_error(s->subject, "the repair broke off: %s", otr_strerror(rv));
        give_up(s);
        return;
    }
    s->metrics.repair_bytes_total += m->points.len;
    s->digest.patience_ms = clock_now_ms() + DIGEST_PATIENCE_MS;
    if (m->more) {
        return;
    }
    s->digest.primary = from;
    s->digest.hold = m->index;
    s->digest.installing = true;
    apply_advance(s);
    digest_tick(s, clock_now_ms());
}

void digest_receive(struct node *n, otr_node from, const Outrigger__V1__Digest *m)
{
    struct shard *s = node_shard(n, m->shard);
    bool leads;
    struct replica_status status;

    if (s == NULL || m->epoch != s->epoch || s->seed_in != NULL || m->range >= STORE_RANGES) {
        return;
    }
    leads = s->role == REPLICA_PRIMARY && !s->damaged;
    node_shard_status(n, m->shard, &status);
    if (leads && m->kind == OUTRIGGER__V1__DIGEST__KIND__WANT_DIGESTS) {
        send_digest(s, from, true);
    } else if (leads && m->kind == OUTRIGGER__V1__DIGEST__KIND__WANT_RANGE && m->index <= s->stored) {
        range_start(s, from, m->range);
    } else if (s->role == REPLICA_FOLLOWER && status.primary == from && status.trusted && !s->damaged) {
        if (m->kind == OUTRIGGER__V1__DIGEST__KIND__DIGEST) {
            take_digest(s, from, m);
        } else if (m->kind == OUTRIGGER__V1__DIGEST__KIND__RANGE) {
            take_range(s, from, m);
        } else if (m->kind == OUTRIGGER__V1__DIGEST__KIND__TOO_LARGE && s->digest.holding) {
            give_up(s);
            damage_met(s, s->meta.log_id, "a range that differs from the primary's is too large to be exchanged");
        }
    }
}

static void tell_replicas(struct shard *s, uint64_t now_ms)
{
    struct replica_status status;

    if (s->role != REPLICA_PRIMARY || s->damaged || now_ms - s->digest.told_ms < DIGEST_EVERY_MS) {
        return;
    }
    s->digest.told_ms = now_ms;
    node_shard_status(s->node, s->id, &status);
    for (uint32_t i = 0; i < status.peers_count; i++) {
        if (!status.peers[i].seeding) {
            send_digest(s, status.peers[i].node, false);
        }
    }
}

void digest_tick(struct shard *s, uint64_t now_ms)
{
    tell_replicas(s, now_ms);
    if (s->digest.holding && s->role != REPLICA_FOLLOWER) {
        give_up(s); /* whoever leads applies what is committed */
    } else if (s->digest.holding && s->digest.installing && s->stored == s->digest.hold) {
        s->digest.installing = false;
        if (install_due(s) == 0) {
            s->metrics.ranges_repaired_total++;
            s->digest.range++;
            go_on(s, s->digest.primary);
        }
    } else if (s->digest.holding && now_ms >= s->digest.patience_ms) {
        log_warn(s->subject, "the repair did not go on: given up for now");
        give_up(s);
    }
}
