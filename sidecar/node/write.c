/* Client writes on the primary, from node_write to the answer.
 *
 * A write waits in `pending`, in index order, from its DO_APPEND on. It is answered when it is committed by enough
 * members (DO_ANSWER), stored (its outcome is then known), and applied by this node's engine, or apply_wait has passed:
 * then with "applied":"pending" (DESIGN 4.2). A retry of a pending one joins it (PROTOCOL Q2); a retry of a finished
 * one gets the remembered outcome (Q1). When the replica stops being primary, what is pending has an unknown outcome.
 */
#include "sidecar/node/node_internal.h"

#include "sidecar/io/clock.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>

static void finish_later(struct later *l)
{
    struct write *w = (struct write *)((char *)l - offsetof(struct write, later));

    if (w->cb != NULL) {
        w->result.message = w->message;
        w->cb(w->data, &w->result);
    }
    free(w);
}

static void count(struct shard *s, const struct write *w, int status)
{
    if (w->cb == NULL) {
        return;
    }
    if (status != 0) {
        node_metrics_refused(&s->node->metrics, status);
        return;
    }
    s->metrics.writes_total++;
    s->node->metrics.node.writes_apply_pending_total += w->result.applied_pending;
}

void write_drop_body(struct shard *s, struct write *w)
{
    if (w->body_own) {
        s->node->held_bytes -= w->body_bytes;
        free((void *)(uintptr_t)w->body);
        w->body_own = false;
    }
    w->body = NULL;
}

static void finish(struct shard *s, struct write *w, int status, const char *message)
{
    write_drop_body(s, w);
    count(s, w, status);
    if (w->admitted) {
        admit_end(s, NODE_OP_WRITE, w->body_bytes);
        w->admitted = false;
    }
    w->result.status = status;
    w->result.position = w->position;
    w->result.outcome = w->outcome;
    snprintf(w->message, sizeof w->message, "%s", message);
    later_run(s->node, &w->later, finish_later);
}

void write_appended(struct shard *s, struct write *w, struct otr_position position)
{
    w->position = position;
    write_drop_body(s, w); /* the journal has it */
    w->next = NULL;
    *s->pending_tail = w;
    s->pending_tail = &w->next;
}

void write_replied(struct shard *s, const struct replica_action *a, struct write *w)
{
    assert(w != NULL);
    w->position = (struct otr_position){a->reply.epoch, a->reply.index};
    switch (a->reply.reply) {
    case REPLICA_REPLY_DUPLICATE:
        w->outcome = a->reply.outcome;
        s->metrics.duplicate_writes_total++;
        finish(s, w, 0, "");
        return;
    case REPLICA_REPLY_JOIN:
        w->outcome = a->reply.outcome; /* known when the entry is in the store and only its answer is held (A6) */
        s->metrics.duplicate_writes_total++;
        if (a->reply.index <= s->answerable) { /* mode async: it was, and grants are out by now (PROTOCOL A7) */
            s->answerable = a->reply.index - 1;
        }
        write_drop_body(s, w);
        w->next = s->joined;
        s->joined = w;
        return;
    case REPLICA_REPLY_REFUSED:
        w->position = (struct otr_position){0, 0};
        if (a->reply.status != OTR_UNAVAIL || !held_keep(s, w, clock_now_ms())) {
            finish(s, w, a->reply.status, otr_strerror(a->reply.status));
        }
        return;
    }
}

/* Takes out of both lists what `from` says, ending it with `status`. */
static void end_from(struct shard *s, uint64_t from, int status, const char *message)
{
    struct write **p = &s->pending_head;

    while (*p != NULL) {
        struct write *w = *p;
        if (w->position.index >= from) {
            *p = w->next;
            if (s->pending_uncommitted == &w->next) {
                s->pending_uncommitted = p;
            }
            finish(s, w, status, message);
        } else {
            p = &w->next;
        }
    }
    s->pending_tail = p;
    for (p = &s->joined; *p != NULL;) {
        struct write *w = *p;
        if (w->position.index >= from) {
            *p = w->next;
            finish(s, w, status, message);
        } else {
            p = &w->next;
        }
    }
}

void write_abandon(struct shard *s, uint64_t from_index)
{
    end_from(s, from_index, OTR_UNKNOWN, "the primary changed before the write was committed");
}

void write_cut(struct shard *s, uint64_t index)
{
    end_from(s, index, OTR_UNKNOWN, "the primary changed before the write was committed");
}

void write_outcome(struct shard *s, uint64_t index, uint32_t outcome)
{
    for (struct write *w = s->pending_head; w != NULL && w->position.index <= index; w = w->next) {
        if (w->position.index == index) {
            w->outcome = outcome;
            w->outcome_known = true;
        }
    }
    for (struct write *w = s->joined; w != NULL; w = w->next) {
        if (w->position.index == index) {
            w->outcome = outcome;
            w->outcome_known = true;
        }
    }
}

/* Notes since when w could be answered, were it not for the engine; false: it cannot. */
static bool note_committed(struct shard *s, struct write *w)
{
    if (w->position.index > s->answerable || w->position.index > s->stored) {
        return false;
    }
    if (w->committed_ns == 0) {
        w->committed_ns = clock_now_ns();
        if (w->cb != NULL) {
            metrics_observe_us(&s->node->metrics.node.write_commit_seconds, (w->committed_ns - w->started_ns) / 1000);
        }
    }
    return true;
}

/* Whether w may be answered. */
static bool answerable(struct shard *s, struct write *w, uint64_t now_ms)
{
    if (!note_committed(s, w)) {
        return false;
    }
    if (feeder_applied(s->feeder) >= w->position.index) {
        if (w->cb != NULL) {
            metrics_observe_since_ns(&s->node->metrics.node.write_apply_seconds, w->committed_ns);
        }
        return true;
    }
    if (now_ms < w->committed_ns / 1000000 + s->node->apply_wait_ms) {
        return false;
    }
    w->result.applied_pending = true;
    return true;
}

/* What this write says about the load. Waiting for an engine that stands still or is fed everything again is no sign of
 * it: writes must go on then (DESIGN 4.2). */
static void sample(struct shard *s, const struct write *w, uint64_t now_ms)
{
    bool moving = feeder_current(s->feeder) && feeder_behind_ms(s->feeder, now_ms) <= s->node->read_lag_ms;

    if (w->admitted) {
        admit_sample(s, NODE_OP_WRITE, w->started_ns, moving ? now_ms * 1000000 : w->committed_ns);
    }
}

void write_answer(struct shard *s, uint64_t now_ms)
{
    /* All at once: a write behind others that wait for the engine has its own apply_wait, not one after theirs. */
    while (*s->pending_uncommitted != NULL && note_committed(s, *s->pending_uncommitted)) {
        s->pending_uncommitted = &(*s->pending_uncommitted)->next;
    }
    while (s->pending_head != NULL && answerable(s, s->pending_head, now_ms)) {
        struct write *w = s->pending_head;
        s->pending_head = w->next;
        if (w->next == NULL) {
            s->pending_tail = &s->pending_head;
        }
        if (s->pending_uncommitted == &w->next) {
            s->pending_uncommitted = &s->pending_head;
        }
        sample(s, w, now_ms);
        finish(s, w, 0, "");
    }
    for (struct write **p = &s->joined; *p != NULL;) {
        struct write *w = *p;
        if (answerable(s, w, now_ms)) {
            *p = w->next;
            finish(s, w, 0, "");
        } else {
            p = &w->next;
        }
    }
}

void write_free_all(struct shard *s)
{
    struct write *lists[2] = {s->pending_head, s->joined};

    for (int i = 0; i < 2; i++) {
        for (struct write *w = lists[i], *next; w != NULL; w = next) {
            next = w->next;
            free(w);
        }
    }
    s->pending_head = NULL;
    s->joined = NULL;
}

/* --- the way in -----------------------------------------------------------------------------------------------------
 */

/* Every point belongs to this shard and fits its collection. What an engine could refuse is refused here, before
 * commit. */
static int check_body(struct shard *s, enum record_kind kind, const uint8_t *body, size_t body_bytes, char *why,
                      size_t why_bytes)
{
    const struct topology_collection *c;
    struct topology_shard *known = topology_shard(s->node->topology, s->id);
    struct body_iter it;
    struct otr_point p;
    int rv = body_iter_init(&it, (uint16_t)kind, body, body_bytes);

    if (rv != 0) {
        snprintf(why, why_bytes, "malformed body");
        return OTR_INVALID;
    }
    c = topology_collection_by_id(s->node->topology, it.collection);
    if (c == NULL) {
        snprintf(why, why_bytes, "no such collection");
        return OTR_NOTFOUND;
    }
    while ((rv = body_next(&it, &p)) == 0) {
        uint32_t place = (uint32_t)point_hash(p.id, p.id_bytes);
        if (known == NULL || !known->known || place < known->descriptor.hash_first ||
            place > known->descriptor.hash_last) {
            snprintf(why, why_bytes, "a point of another shard");
            return OTR_INVALID;
        }
        if (kind == RECORD_PUT && p.dimension != c->dimension) {
            snprintf(why, why_bytes, "dimension %u, collection %s has %u", p.dimension, c->name, c->dimension);
            return OTR_INVALID;
        }
    }
    if (rv != OTR_NOTFOUND) {
        snprintf(why, why_bytes, "malformed body");
        return OTR_INVALID;
    }
    return 0;
}

static int admit(struct shard *s, enum record_kind kind, const uint8_t *body, size_t body_bytes, char *why,
                 size_t why_bytes)
{
    struct node *n = s->node;

    why[0] = '\0';
    if (s->role != REPLICA_PRIMARY) {
        return s->role == REPLICA_TAKEOVER ? OTR_UNAVAIL : OTR_NOTPRIMARY;
    }
    if (n->disk_full) {
        snprintf(why, why_bytes, "the disk of node %s is full", n->name);
        return OTR_NOSPACE;
    }
    if (journal_pending_bytes(n->journal) > NODE_PENDING_OWN_BYTES) {
        return OTR_BUSY;
    }
    return kind == RECORD_DROP ? 0 : check_body(s, kind, body, body_bytes, why, why_bytes);
}

static void feed_write(struct shard *s, struct write *w)
{
    s->current_write = w;
    shard_feed(s, &(struct replica_event){
                      .type = REPLICA_EV_WRITE,
                      .write = {.ticket = 1, .time_ms = clock_wall_ms(), .request_id = w->id},
                  });
    if (s->current_write != NULL) { /* the process is dying */
        s->current_write = NULL;
        finish(s, w, OTR_UNAVAIL, "the node is stopping");
    }
}

void write_again(struct shard *s, struct write *w)
{
    char why[sizeof w->message] = "";
    int rv = 0;

    /* Q1: a retry of what stands in the log is told so, whatever would keep a new write out now. */
    if (s->role != REPLICA_PRIMARY || !replica_knows(s->replica, &w->id)) {
        rv = admit(s, w->kind, w->body, w->body_bytes, why, sizeof why);
    }
    if (rv == 0) {
        feed_write(s, w);
    } else if (rv != OTR_UNAVAIL || !held_keep(s, w, clock_now_ms())) {
        finish(s, w, rv, why[0] != '\0' ? why : otr_strerror(rv));
    }
}

void write_refuse(struct shard *s, struct write *w, int status, const char *message)
{
    finish(s, w, status, message);
}

int node_write(struct node *n, otr_shard shard, const struct otr_request_id *id, enum record_kind kind,
               const uint8_t *body, size_t body_bytes, node_write_cb cb, void *data)
{
    struct shard *s = node_shard(n, shard);
    struct write *w;

    if (s == NULL) {
        return OTR_NOTPRIMARY;
    }
    w = calloc(1, sizeof *w);
    if (w == NULL) {
        return OTR_NOMEM;
    }
    w->cb = cb;
    w->data = data;
    w->started_ns = clock_now_ns();
    w->id = *id;
    w->kind = kind;
    w->body = body;
    w->body_bytes = body_bytes;
    /* A retry of what stands in the log takes no room (Q1), and what is not ours to do is refused for that reason. */
    if (s->role == REPLICA_PRIMARY && !replica_knows(s->replica, id)) {
        w->admitted = admit_begin(s, NODE_OP_WRITE, body_bytes) == 0;
        if (!w->admitted) {
            finish(s, w, OTR_BUSY, "the shard's primary has too much to do");
            return 0;
        }
    }
    write_again(s, w);
    return 0;
}

int write_internal(struct shard *s, enum record_kind kind, const uint8_t *body, size_t body_bytes)
{
    char why[160];
    struct write *w;
    int rv = s->stepping ? OTR_UNAVAIL : admit(s, kind, body, body_bytes, why, sizeof why);

    if (rv != 0) {
        return rv;
    }
    w = calloc(1, sizeof *w);
    if (w == NULL) {
        return OTR_NOMEM;
    }
    w->started_ns = clock_now_ns();
    w->kind = kind;
    w->body = body;
    w->body_bytes = body_bytes;
    feed_write(s, w);
    return 0;
}
