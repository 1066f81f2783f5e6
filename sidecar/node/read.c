/* Reads of points by id out of one replica.
 *
 * The way: wait until enough is visible (stored up to what is committed now, and up to the position asked for) and, for
 * linearizable reads, until the right to answer is there (PROTOCOL G2) -> look the ids up -> read their points, off the
 * loop when they are not in memory -> check the right again after the work -> answer. */
#include "sidecar/node/node_internal.h"

#include "sidecar/io/clock.h"

#include <stdlib.h>

/* --- waiting
 * ----------------------------------------------------------------------------------------------------------- */

static void check_later(struct shard *s)
{
    if (!s->waits_queued) {
        s->waits_queued = true;
        later_run(s->node, &s->waits_later, read_wait_later);
    }
}

void read_wait_start(struct shard *s, struct read_wait *w)
{
    w->shard = s;
    w->next = s->waits;
    s->waits = w;
    check_later(s);
}

void read_wait_check(struct shard *s, uint64_t now_ms)
{
    struct read_wait *ended = NULL;

    if (s->stepping) { /* whoever is answered may write to this shard at once */
        if (s->waits != NULL) {
            check_later(s);
        }
        return;
    }
    for (struct read_wait **p = &s->waits; *p != NULL;) {
        struct read_wait *w = *p;
        int rv = w->ready(w, now_ms);

        if (rv == OTR_UNAVAIL && now_ms >= w->deadline_ms) {
            rv = OTR_TIMEOUT;
        }
        if (rv == OTR_UNAVAIL) {
            p = &w->next;
            continue;
        }
        *p = w->next;
        w->status = rv;
        w->next = ended;
        ended = w;
    }
    while (ended != NULL) {
        struct read_wait *next = ended->next;
        ended->done(ended, ended->status);
        ended = next;
    }
}

void read_wait_later(struct later *l)
{
    struct shard *s = (struct shard *)((char *)l - offsetof(struct shard, waits_later));

    s->waits_queued = false;
    read_wait_check(s, clock_now_ms());
}

void read_wait_end(struct shard *s, int status)
{
    while (s->waits != NULL) {
        struct read_wait *w = s->waits;
        s->waits = w->next;
        w->done(w, status);
    }
}

int read_right(struct shard *s, enum node_consistency c, uint64_t now_ms, bool *need_descriptor)
{
    struct replica_status status;

    *need_descriptor = false;
    if (c == NODE_LINEARIZABLE) {
        switch (replica_read_right(s->replica, now_ms)) {
        case REPLICA_READ_OK:
            return 0;
        case REPLICA_READ_NEED_DESCRIPTOR:
            *need_descriptor = true;
            return OTR_UNAVAIL;
        case REPLICA_READ_WAIT:
            return OTR_UNAVAIL;
        case REPLICA_READ_NOT_PRIMARY:
            return OTR_NOTPRIMARY;
        }
    }
    if (c == NODE_BOUNDED && s->digest.holding) {
        return OTR_NOTPRIMARY; /* nothing is applied while a repair is under way */
    }
    if (c == NODE_BOUNDED) {
        replica_status(s->replica, now_ms, &status);
        if (now_ms <= status.fresh_ms + s->node->read_lag_ms) {
            return 0;
        }
        *need_descriptor = status.role == REPLICA_PRIMARY; /* the coordinator tells whether it still is one */
        return *need_descriptor ? OTR_UNAVAIL : OTR_NOTPRIMARY;
    }
    return 0;
}

/* What a linearizable read must see: all that was committed when the right to answer was first there. A replica that
 * takes over learns only then how far the entries it inherited are committed, and the store follows later. */
void read_anchor(struct shard *s, enum node_consistency c, bool *anchored, uint64_t *need_index)
{
    if (c == NODE_LINEARIZABLE && !*anchored) {
        *anchored = true;
        *need_index = s->commit > *need_index ? s->commit : *need_index;
    }
}

/* --- get
 * --------------------------------------------------------------------------------------------------------------- */

enum { CANDIDATES_MAX = 8 };

struct get {
    struct read_wait wait;
    struct node_work work;
    struct later later;
    struct shard *shard;
    struct node_get ask;
    node_get_cb cb;
    void *data;
    uint64_t need_index; /* stored up to here before looking */
    bool anchored;
    bool shown; /* the right came from reading the descriptor */
    uint64_t started_ns;
    uint64_t log_id; /* that the places belong to */
    struct journal_reader *reader;
    int *numbers;  /* reader numbers of the candidates */
    size_t *owner; /* whose candidate it is */
    size_t candidates;
    int status;
    struct otr_errmsg msg;
};

static void get_end(struct get *g, int status, const struct otr_point *points, size_t count)
{
    metrics_observe_since_ns(&g->shard->node->metrics.node.get_seconds, g->started_ns);
    admit_end(g->shard, NODE_OP_GET, 0);
    if (status == 0) {
        admit_sample(g->shard, NODE_OP_GET, g->started_ns, clock_now_ns());
    }
    g->cb(g->data, status, points, count, &g->msg);
    if (g->reader != NULL) {
        journal_reader_free(g->reader);
    }
    free(g->numbers);
    free(g->owner);
    free(g);
}

/* Candidates are told apart by their ids. */
static void get_collect(struct get *g)
{
    struct otr_point *found = calloc(g->ask.ids_count + 1, sizeof *found);
    size_t count = 0;
    bool need;

    if (found == NULL) {
        get_end(g, OTR_NOMEM, NULL, 0);
        return;
    }
    for (size_t i = 0; i < g->candidates && g->status == 0; i++) {
        const struct otr_point *id = &g->ask.ids[g->owner[i]];
        struct otr_point p;
        int rv = journal_reader_point_result(g->reader, g->numbers[i], &p);

        if (rv != 0) {
            otr_errmsg_set(&g->msg, "shard %u: a point is damaged in the journal of node %s", g->shard->id,
                           g->shard->node->name);
            g->status = rv;
        } else if (p.id_bytes == id->id_bytes && memcmp(p.id, id->id, p.id_bytes) == 0) {
            found[count++] = p;
        }
    }
    if (damage_is(g->shard, g->status)) {
        damage_met(g->shard, g->log_id, "a point that was read does not read as it was written");
    }
    /* Checked again after the work, before the answer leaves (DESIGN 4.5). */
    if (g->status == 0 && !g->shown) {
        g->status = read_right(g->shard, g->ask.consistency, clock_now_ms(), &need);
    }
    get_end(g, g->status, g->status == 0 ? found : NULL, g->status == 0 ? count : 0);
    free(found);
}

static void get_run(struct node_work *w)
{
    struct get *g = (struct get *)((char *)w - offsetof(struct get, work));

    g->status = journal_reader_run(g->reader, &g->msg);
}

static void get_run_done(struct node_work *w)
{
    get_collect((struct get *)((char *)w - offsetof(struct get, work)));
}

static void get_look_up(struct get *g)
{
    struct shard *s = g->shard;
    size_t max = g->ask.ids_count * CANDIDATES_MAX;

    g->log_id = s->meta.log_id;
    g->reader = journal_reader_new(s->node->journal);
    g->numbers = calloc(max + 1, sizeof *g->numbers);
    g->owner = calloc(max + 1, sizeof *g->owner);
    if (g->reader == NULL || g->numbers == NULL || g->owner == NULL) {
        get_end(g, OTR_NOMEM, NULL, 0);
        return;
    }
    for (size_t i = 0; i < g->ask.ids_count; i++) {
        journal_place places[CANDIDATES_MAX];
        size_t count =
            store_find(s->store, g->ask.collection, g->ask.ids[i].id, g->ask.ids[i].id_bytes, places, CANDIDATES_MAX);
        for (size_t k = 0; k < count; k++) {
            int number = journal_reader_point(g->reader, places[k], 0);
            if (number < 0) {
                get_end(g, OTR_NOMEM, NULL, 0);
                return;
            }
            g->numbers[g->candidates] = number;
            g->owner[g->candidates++] = i;
        }
    }
    if (journal_reader_in_memory(g->reader)) {
        g->status = journal_reader_run(g->reader, &g->msg);
        get_collect(g);
    } else {
        node_work_start(s->node, &g->work, get_run, get_run_done);
    }
}

static void get_shown(void *data, const struct descriptor *shown)
{
    struct get *g = data;

    if (shown == NULL || g->shard->node->closing) {
        otr_errmsg_set(&g->msg, "shard %u: neither grants nor the coordinator confirm the primary", g->shard->id);
        get_end(g, OTR_UNAVAIL, NULL, 0);
    } else if (!replica_read_confirmed(g->shard->replica, shown)) {
        get_end(g, OTR_NOTPRIMARY, NULL, 0);
    } else {
        g->shown = true;
        get_look_up(g);
    }
}

static int get_ready(struct read_wait *w, uint64_t now_ms)
{
    struct get *g = (struct get *)((char *)w - offsetof(struct get, wait));
    bool need = false;
    int rv = read_right(g->shard, g->ask.consistency, now_ms, &need);

    if (rv != 0 && !need) {
        return rv;
    }
    read_anchor(g->shard, g->ask.consistency, &g->anchored, &g->need_index);
    return g->shard->stored >= g->need_index ? 0 : OTR_UNAVAIL;
}

static void get_waited(struct read_wait *w, int status)
{
    struct get *g = (struct get *)((char *)w - offsetof(struct get, wait));
    bool need = false;

    if (status == 0) {
        status = read_right(g->shard, g->ask.consistency, clock_now_ms(), &need);
    }
    if (need) {
        coordinator_show(g->shard, get_shown, g);
    } else if (status != 0) {
        get_end(g, status, NULL, 0);
    } else {
        get_look_up(g);
    }
}

int node_get(struct node *n, const struct node_get *get, node_get_cb cb, void *data)
{
    struct shard *s = node_shard(n, get->shard);
    struct get *g;

    if (s == NULL || n->closing) {
        return OTR_NOTPRIMARY;
    }
    if (admit_begin(s, NODE_OP_GET, 0) != 0) {
        return OTR_BUSY;
    }
    g = calloc(1, sizeof *g);
    if (g == NULL) {
        admit_end(s, NODE_OP_GET, 0);
        return OTR_NOMEM;
    }
    g->shard = s;
    g->ask = *get;
    g->cb = cb;
    g->data = data;
    g->started_ns = clock_now_ns();
    g->need_index = get->after.index;
    g->wait.deadline_ms = clock_now_ms() + get->timeout_ms;
    g->wait.ready = get_ready;
    g->wait.done = get_waited;
    read_wait_start(s, &g->wait);
    return 0;
}

bool node_count(struct node *n, otr_shard shard, uint64_t collection, uint64_t *count)
{
    struct shard *s = node_shard(n, shard);

    if (s == NULL || s->stored < s->commit || s->role == REPLICA_TAKEOVER || s->role == REPLICA_CANDIDATE) {
        return false;
    }
    *count = store_count(s->store, collection);
    return true;
}
