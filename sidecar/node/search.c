/* Verified search in one replica (DESIGN 5, "verified answers").
 *
 *   wait (as read.c) -> ask the engine for k and a few more -> look every hit up in the store: what is dead drops out,
 * the living are read from the log and scored anew -> page full, or everything was seen? -> answer
 *                                             \-> too short (holes, a selective filter), or no engine: scan all live
 * points
 *
 * How many more than k are asked for is learned from how many fall out. The scan reads in pieces off the loop.
 *
 * An engine that is behind by more than the read may be is asked all the same; what it lacks, the tail of the log, is
 * scanned beside it. */
#include "sidecar/node/node_internal.h"

#include "sidecar/core/merge.h"
#include "sidecar/core/score.h"
#include "sidecar/io/clock.h"
#include "sidecar/io/parse_json.h"

#include <cjson/cJSON.h>
#include <stdlib.h>

enum {
    SCAN_POINTS = 2048, /* of one piece */
    EXTRA_FIRST = 8,
    EXTRA_MAX = 2000,
    SEARCH_K_MAX = 10000,
    CANDIDATES_MAX = 4,
    ENGINE_WAIT_MS = 50, /* an engine that is no older will soon be level: cheaper than a scan */
};

struct search {
    struct read_wait wait;
    struct node_work work;
    struct otr_engine_req engine_req;
    struct shard *shard;
    struct node_search ask;
    node_search_cb cb;
    void *data;
    uint64_t need_index; /* stored, and in the engine, up to here before looking */
    bool anchored;
    bool shown;
    enum otr_metric metric;
    cJSON *filter;
    struct merge_top top;
    size_t kept_bytes; /* of the hits in `top` */
    uint32_t asked;    /* of the engine */
    uint64_t started_ns, asked_ns;
    size_t live; /* of them */
    bool scanning;
    journal_place tail; /* the engine lacks what stands from there on; 0: it need not have it */
    struct journal_reader *reader;
    uint64_t log_id; /* that its places belong to */
    int *numbers;
    size_t numbers_count;
    struct store_snapshot *snapshot;
    struct journal_pin *pin; /* of what the snapshot's places are in */
    size_t snapshot_next;
    int status;
    struct otr_errmsg msg;
};

/* A kept hit: one block that holds what p points at. */
struct kept {
    size_t bytes;
    struct otr_point p;
};

static void search_go(struct search *x);

/* --- keeping hits (any thread; one at a time)
 * ----------------------------------------------------------------------------- */

static bool filter_matches(const cJSON *filter, const struct otr_point *p)
{
    cJSON *metadata;
    bool matches = true;

    if (filter == NULL) {
        return true;
    }
    metadata = p->metadata_bytes > 0 ? parse_json(p->metadata, p->metadata_bytes) : NULL;
    for (const cJSON *want = filter->child; want != NULL && matches; want = want->next) {
        const cJSON *have = metadata != NULL ? cJSON_GetObjectItemCaseSensitive(metadata, want->string) : NULL;
        matches = have != NULL && cJSON_Compare(have, want, true);
    }
    cJSON_Delete(metadata);
    return matches;
}

/* NULL, and x->status says why: no memory, or more hits than a search, or all of them, may hold. */
static struct kept *kept_new(struct search *x, const struct otr_point *p)
{
    struct node *n = x->shard->node;
    size_t vector_bytes = x->ask.with_vector ? (size_t)p->dimension * sizeof(float) : 0;
    size_t bytes = sizeof(struct kept) + vector_bytes + p->id_bytes + p->metadata_bytes;
    struct kept *k = NULL;
    char *at;

    if (x->kept_bytes + bytes > n->hits.one_max) {
        x->status = OTR_TOOBIG;
        otr_errmsg_set(&x->msg, "the hits of shard %u take more than %zu MiB: ask for fewer, or without vectors",
                       x->shard->id, n->hits.one_max >> 20);
        return NULL;
    }
    if (atomic_fetch_add(&n->hits.bytes, bytes) + bytes > n->hits.all_max) {
        x->status = OTR_BUSY;
        otr_errmsg_set(&x->msg, "the searches under way at node %s have found too much together: try again", n->name);
    } else if ((k = malloc(bytes)) == NULL) {
        x->status = OTR_NOMEM;
    }
    if (k == NULL) {
        atomic_fetch_sub(&n->hits.bytes, bytes);
        return NULL;
    }
    x->kept_bytes += bytes;
    k->bytes = bytes;
    at = (char *)(k + 1);
    k->p = *p;
    k->p.vector = x->ask.with_vector ? memcpy(at, p->vector, vector_bytes) : NULL;
    k->p.id = memcpy(at + vector_bytes, p->id, p->id_bytes);
    k->p.metadata = NULL;
    if (p->metadata_bytes > 0) {
        k->p.metadata = memcpy(at + vector_bytes + p->id_bytes, p->metadata, p->metadata_bytes);
    }
    return k;
}

static void kept_free(struct search *x, struct kept *k)
{
    if (k != NULL) {
        atomic_fetch_sub(&x->shard->node->hits.bytes, k->bytes);
        x->kept_bytes -= k->bytes;
        free(k);
    }
}

static void consider(struct search *x, const struct otr_point *p)
{
    struct merge_hit hit;
    struct merge_hit dropped = {0};
    struct kept *k;

    if (p->dimension != x->ask.dimension || !filter_matches(x->filter, p)) {
        return;
    }
    hit = (struct merge_hit){.score = score_distance(x->metric, x->ask.vector, p->vector, p->dimension),
                             .id = p->id,
                             .id_bytes = p->id_bytes};
    if (x->ask.with_threshold && hit.score > x->ask.threshold) {
        return;
    }
    if (x->top.count == x->top.k && merge_compare(&hit, &x->top.hits[x->top.count - 1]) >= 0) {
        return; /* no copy for what falls out at once */
    }
    k = kept_new(x, p);
    if (k == NULL) {
        return;
    }
    hit.id = k->p.id;
    hit.data = k;
    if (!merge_top_add(&x->top, &hit, &dropped)) {
        kept_free(x, k);
    } else {
        kept_free(x, dropped.data);
    }
}

static void forget_hits(struct search *x)
{
    for (uint32_t i = 0; i < x->top.count; i++) {
        kept_free(x, x->top.hits[i].data);
    }
    x->top.count = 0;
}

/* --- the end
 * ---------------------------------------------------------------------------------------------------------------- */

static void forget_reader(struct search *x)
{
    if (x->reader != NULL) {
        journal_reader_free(x->reader);
        x->reader = NULL;
    }
}

static void search_end(struct search *x, int status)
{
    struct node_hit *hits = NULL;
    bool need;

    if (status == 0 && !x->shown) {
        status = read_right(x->shard, x->ask.consistency, clock_now_ms(), &need); /* again, after the work */
    }
    if (status == 0) {
        hits = calloc((size_t)x->top.count + 1, sizeof *hits);
        status = hits == NULL ? OTR_NOMEM : 0;
    }
    for (uint32_t i = 0; hits != NULL && i < x->top.count; i++) {
        const struct kept *k = x->top.hits[i].data;
        hits[i].point = k->p;
        hits[i].score = x->top.hits[i].score;
    }
    metrics_observe_since_ns(&x->shard->node->metrics.node.search_seconds, x->started_ns);
    admit_end(x->shard, NODE_OP_SEARCH, 0);
    if (status == 0) {
        admit_sample(x->shard, NODE_OP_SEARCH, x->started_ns, clock_now_ns());
    }
    x->cb(x->data, status, hits, status == 0 ? x->top.count : 0, &x->msg);
    free(hits);
    forget_hits(x);
    free(x->top.hits);
    forget_reader(x);
    free(x->numbers);
    store_snapshot_free(x->snapshot);
    journal_pin_free(x->pin);
    cJSON_Delete(x->filter);
    free(x);
}

/* --- the exact scan
 * ------------------------------------------------------------------------------------------------------------ */

static void read_run(struct node_work *w)
{
    struct search *x = (struct search *)((char *)w - offsetof(struct search, work));
    int rv = journal_reader_run(x->reader, &x->msg);

    if (rv != 0) {
        x->status = rv;
    }
    for (size_t i = 0; i < x->numbers_count && x->status == 0; i++) {
        struct otr_point p;
        rv = journal_reader_point_result(x->reader, x->numbers[i], &p);
        if (rv != 0) {
            otr_errmsg_set(&x->msg, "shard %u: a point is damaged in the journal of node %s", x->shard->id,
                           x->shard->node->name);
            x->status = rv;
        } else {
            consider(x, &p);
        }
    }
}

static void was_read(struct search *x)
{
    if (damage_is(x->shard, x->status)) {
        damage_met(x->shard, x->log_id, "a point that was searched does not read as it was written");
    }
    forget_reader(x);
    search_go(x);
}

static void read_done(struct node_work *w)
{
    was_read((struct search *)((char *)w - offsetof(struct search, work)));
}

/* Reads the candidates: here when they are in memory and few, else off the loop. */
static void read_start(struct search *x)
{
    if (x->numbers_count <= 64 && journal_reader_in_memory(x->reader)) {
        read_run(&x->work);
        was_read(x);
    } else {
        node_work_start(x->shard->node, &x->work, read_run, read_done);
    }
}

static int reader_reset(struct search *x, size_t max)
{
    int *grown = realloc(x->numbers, (max + 1) * sizeof *grown);

    if (grown == NULL) {
        return OTR_NOMEM;
    }
    x->numbers = grown;
    x->numbers_count = 0;
    x->log_id = x->shard->meta.log_id;
    x->reader = journal_reader_new(x->shard->node->journal);
    return x->reader == NULL ? OTR_NOMEM : 0;
}

static int reader_add(struct search *x, journal_place place)
{
    int number = journal_reader_point(x->reader, place, 0);

    if (number < 0) {
        return OTR_NOMEM;
    }
    x->numbers[x->numbers_count++] = number;
    return 0;
}

/* The snapshot is read over several turns: what its places are in must stay. */
static int pin_snapshot(struct search *x)
{
    journal_pin_free(x->pin);
    x->pin = journal_pin_new(x->shard->node->journal);
    return x->snapshot == NULL || x->pin == NULL ? OTR_NOMEM : 0;
}

static int scan_start(struct search *x)
{
    forget_hits(x);
    x->shard->node->metrics.node.exact_scans_total++;
    x->scanning = true;
    x->snapshot_next = 0;
    store_snapshot_free(x->snapshot);
    x->snapshot = store_snapshot_by_place(x->shard->store, x->ask.collection);
    return pin_snapshot(x);
}

static void scan_piece(struct search *x)
{
    int rv = reader_reset(x, SCAN_POINTS);

    for (size_t i = 0; rv == 0 && i < SCAN_POINTS && x->snapshot_next < x->snapshot->count; i++) {
        rv = reader_add(x, x->snapshot->slots[x->snapshot_next++].place);
    }
    if (rv != 0) {
        search_end(x, rv);
        return;
    }
    node_work_start(x->shard->node, &x->work, read_run, read_done);
}

/* --- the engine's hits
 * ---------------------------------------------------------------------------------------------------------- */

static int compare_places(const void *a, const void *b)
{
    journal_place x = *(const journal_place *)a;
    journal_place y = *(const journal_place *)b;

    return x < y ? -1 : x > y;
}

/* Looks the hits up. An id that comes twice (RuVector's HNSW does that) is one place, read once. What was overwritten
 * since is found in the tail. */
static int look_up(struct search *x, const struct otr_engine_hit *hits, size_t count)
{
    journal_place *places = calloc(count * CANDIDATES_MAX + 1, sizeof *places);
    size_t found = 0;
    int rv = places == NULL ? OTR_NOMEM : reader_reset(x, count * CANDIDATES_MAX);

    for (size_t i = 0; rv == 0 && i < count; i++) {
        found += store_find(x->shard->store, x->ask.collection, hits[i].id, hits[i].id_bytes, places + found,
                            CANDIDATES_MAX);
    }
    if (found > 0) {
        qsort(places, found, sizeof *places, compare_places);
    }
    for (size_t i = 0; rv == 0 && i < found; i++) {
        if ((i == 0 || places[i] != places[i - 1]) && (x->tail == 0 || journal_place_before(places[i], x->tail))) {
            rv = reader_add(x, places[i]);
        }
    }
    free(places);
    return rv;
}

/* Scans what the engine lacks besides what it found. Taken after its answer: nothing falls between the two. */
static int tail_start(struct search *x)
{
    x->snapshot = store_snapshot_since(x->shard->store, x->ask.collection, x->tail);
    return pin_snapshot(x);
}

/* Learns how many hits fall out. */
static void learn(struct shard *s, size_t hits, size_t live)
{
    uint32_t dead = (uint32_t)(hits - live);

    if (dead * 2 > s->search_extra) {
        s->search_extra = dead * 2 < EXTRA_MAX ? dead * 2 : EXTRA_MAX;
    } else if (s->search_extra > EXTRA_FIRST && dead * 8 < s->search_extra) {
        s->search_extra--;
    }
}

static void on_hits(struct otr_engine_req *req, int status, const struct otr_engine_hit *hits, size_t count,
                    const struct otr_errmsg *msg)
{
    struct search *x = req->data;
    struct node_metrics *m = &x->shard->node->metrics.node;
    int rv;

    (void)msg;
    metrics_observe_since_ns(&m->engine_search_seconds, x->asked_ns);
    if (x->shard->node->closing) {
        search_end(x, OTR_CANCELED);
        return;
    }
    if (status != 0) { /* no engine, no matter: the log has everything */
        m->engine_errors_total++;
        rv = scan_start(x);
    } else {
        rv = look_up(x, hits, count);
        if (rv == 0 && x->tail != 0) {
            rv = tail_start(x);
        }
        x->live = x->numbers_count;
        m->engine_hits_total += count;
        m->engine_hits_dropped_total += x->live < count ? count - x->live : 0;
        learn(x->shard, count, x->live < count ? x->live : count);
    }
    if (rv != 0) {
        search_end(x, rv);
    } else if (x->scanning) {
        search_go(x);
    } else {
        read_start(x);
    }
}

static bool ask_engine(struct search *x, const struct topology_collection *c)
{
    struct shard *s = x->shard;
    struct node *n = s->node;
    char name[OTR_ENGINE_COLLECTION_MAX];
    uint32_t extra;

    if (s->search_extra == 0) {
        s->search_extra = EXTRA_FIRST;
    }
    extra = s->search_extra + (x->filter != NULL ? 3 * x->ask.k + 32 : 0);
    x->asked = x->ask.k + extra;
    x->engine_req.data = x;
    x->asked_ns = clock_now_ns();
    feeder_collection_name(name, sizeof name, c->name, s->id);
    return n->engine_ops->search(n->engine, &x->engine_req, name, x->ask.vector, x->ask.dimension, x->asked, on_hits) ==
           0;
}

/* Whether the engine's page is the whole answer, as far as the engine has it. Without a filter k living hits are
 * enough, even when a threshold takes some of them away: nothing nearer is missing. */
static bool page_complete(const struct search *x)
{
    size_t tail = x->snapshot != NULL ? x->snapshot->count : 0;

    return x->top.count >= x->top.k || (x->filter == NULL && x->live >= x->ask.k) ||
           x->live + tail >= store_count(x->shard->store, x->ask.collection);
}

/* Whether this search must see what the engine lacks. */
static bool tail_needed(const struct search *x, uint64_t now_ms)
{
    const struct shard *s = x->shard;
    uint64_t applied = feeder_applied(s->feeder);

    return applied < s->stored &&
           (applied < x->need_index || feeder_behind_ms(s->feeder, now_ms) > s->node->read_lag_ms);
}

static void search_begin(struct search *x)
{
    struct shard *s = x->shard;
    const struct topology_collection *c = topology_collection_by_id(s->node->topology, x->ask.collection);
    int rv = 0;

    if (c == NULL || store_count(s->store, x->ask.collection) == 0) {
        search_end(x, c == NULL ? OTR_NOTFOUND : 0);
        return;
    }
    x->metric = c->metric;
    if (c->dimension != x->ask.dimension) {
        otr_errmsg_set(&x->msg, "dimension %u, collection %s has %u", x->ask.dimension, c->name, c->dimension);
        search_end(x, OTR_INVALID);
        return;
    }
    if (feeder_current(s->feeder)) {
        bool whole = !tail_needed(x, clock_now_ms());

        x->tail = whole ? 0 : journal_place_of(s->node->journal, s->id, feeder_applied(s->feeder) + 1);
        if ((whole || x->tail != 0) && ask_engine(x, c)) {
            return;
        }
    }
    rv = scan_start(x);
    if (rv != 0) {
        search_end(x, rv);
    } else {
        search_go(x);
    }
}

/* Between the pieces: what comes next? */
static void search_go(struct search *x)
{
    if (x->shard->node->closing) {
        search_end(x, OTR_CANCELED);
    } else if (x->status != 0) {
        search_end(x, x->status);
    } else if (clock_now_ms() >= x->wait.deadline_ms) {
        search_end(x, OTR_TIMEOUT); /* Nobody waits for the rest of a scan. */
    } else if (x->scanning) {
        if (x->snapshot_next < x->snapshot->count) {
            scan_piece(x);
        } else {
            search_end(x, 0);
        }
    } else if (page_complete(x)) {
        x->scanning = true; /* of the tail, if there is one */
        if (x->snapshot == NULL || x->snapshot->count == 0) {
            search_end(x, 0);
        } else {
            scan_piece(x);
        }
    } else {
        int rv = scan_start(x);
        if (rv != 0) {
            search_end(x, rv);
        } else {
            search_go(x);
        }
    }
}

/* --- the way in
 * ------------------------------------------------------------------------------------------------------------------ */

static void search_shown(void *data, const struct descriptor *shown)
{
    struct search *x = data;

    if (shown == NULL || x->shard->node->closing) {
        otr_errmsg_set(&x->msg, "shard %u: neither grants nor the coordinator confirm the primary", x->shard->id);
        search_end(x, OTR_UNAVAIL);
    } else if (!replica_read_confirmed(x->shard->replica, shown)) {
        search_end(x, OTR_NOTPRIMARY);
    } else {
        x->shown = true;
        search_begin(x);
    }
}

static int search_ready(struct read_wait *w, uint64_t now_ms)
{
    struct search *x = (struct search *)((char *)w - offsetof(struct search, wait));
    struct shard *s = x->shard;
    bool need = false;
    int rv = read_right(s, x->ask.consistency, now_ms, &need);

    if (rv != 0 && !need) {
        return rv;
    }
    read_anchor(s, x->ask.consistency, &x->anchored, &x->need_index);
    if (s->stored < x->need_index) {
        return OTR_UNAVAIL;
    }
    /* The engine shows what the log holds only once it is fed; a scan shows it at once. */
    return !feeder_current(s->feeder) || feeder_applied(s->feeder) >= x->need_index ||
                   feeder_behind_ms(s->feeder, now_ms) > ENGINE_WAIT_MS
               ? 0
               : OTR_UNAVAIL;
}

static void search_waited(struct read_wait *w, int status)
{
    struct search *x = (struct search *)((char *)w - offsetof(struct search, wait));
    bool need = false;

    if (status == 0) {
        status = read_right(x->shard, x->ask.consistency, clock_now_ms(), &need);
    }
    if (need) {
        coordinator_show(x->shard, search_shown, x);
    } else if (status != 0) {
        search_end(x, status);
    } else {
        search_begin(x);
    }
}

int node_search(struct node *n, const struct node_search *search, node_search_cb cb, void *data)
{
    struct shard *s = node_shard(n, search->shard);
    struct search *x;

    if (s == NULL || n->closing) {
        return OTR_NOTPRIMARY;
    }
    if (search->k == 0 || search->k > SEARCH_K_MAX) {
        return OTR_INVALID;
    }
    if (admit_begin(s, NODE_OP_SEARCH, 0) != 0) {
        return OTR_BUSY;
    }
    x = calloc(1, sizeof *x);
    if (x == NULL) {
        admit_end(s, NODE_OP_SEARCH, 0);
        return OTR_NOMEM;
    }
    x->top.hits = calloc(search->k, sizeof *x->top.hits);
    if (search->filter != NULL) {
        x->filter = parse_json(search->filter, strlen(search->filter));
    }
    if (x->top.hits == NULL || (search->filter != NULL && !cJSON_IsObject(x->filter))) {
        int rv = x->top.hits == NULL ? OTR_NOMEM : OTR_INVALID;
        cJSON_Delete(x->filter);
        free(x->top.hits);
        free(x);
        admit_end(s, NODE_OP_SEARCH, 0);
        return rv;
    }
    x->top.k = search->k;
    x->shard = s;
    x->ask = *search;
    x->cb = cb;
    x->data = data;
    x->started_ns = clock_now_ns();
    x->need_index = search->after.index;
    x->wait.deadline_ms = clock_now_ms() + search->timeout_ms;
    x->wait.ready = search_ready;
    x->wait.done = search_waited;
    read_wait_start(s, &x->wait);
    return 0;
}
