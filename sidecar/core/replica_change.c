#include "sidecar/core/replica_internal.h"

static void pause_next(struct replica *r)
{
    r->pause_ms = r->pause_ms * 2 > REPLICA_PAUSE_MAX_MS ? REPLICA_PAUSE_MAX_MS : r->pause_ms * 2;
}

bool change_possible(const struct replica *r)
{
    /* D2, D4. After a conflict the view is old: a change on it could only fail again. */
    return r->change.kind == REPLICA_CHANGE_NONE && !r->txn_outstanding && !r->read_wanted && !r->read_outstanding &&
           r->descriptor_known && r->reachable && !replica_regressed(r) && r->now_ms >= r->change_not_before_ms;
}

/* V5: absent, or unmodified as last seen. What was last seen is of somebody found dead, of the doubted primary, or our
 * own: whoever took the lease meanwhile also changed its revision. */
static void lease_op(const struct replica *r, struct replica_action *a)
{
    if (r->change.kind == REPLICA_CHANGE_SET) {
        a->txn.lease = REPLICA_LEASE_KEEP;
    } else if (r->lease.known && r->lease.present) {
        a->txn.lease = REPLICA_LEASE_IF_REVISION;
        a->txn.lease_revision = r->lease.revision;
    } else {
        a->txn.lease = REPLICA_LEASE_IF_ABSENT;
    }
}

static void attempt(struct replica *r, struct replica_actions *out)
{
    struct replica_action *a = replica_emit(out, REPLICA_DO_TXN);

    r->txn_outstanding = true;
    r->txn++;
    a->txn.txn = r->txn;
    a->txn.change_descriptor = r->change.kind != REPLICA_CHANGE_LEASE;
    a->txn.compare_revision = r->change.compare_revision;
    a->txn.descriptor = r->change.descriptor;
    lease_op(r, a);
}

void change_start(struct replica *r, enum replica_change_kind kind, const struct descriptor *d,
                  struct replica_actions *out)
{
    assert(change_possible(r));
    r->change = (struct replica_change){.kind = kind, .compare_revision = r->descriptor_revision, .descriptor = *d};
    attempt(r, out);
}

bool change_settle(struct replica *r, uint64_t revision)
{
    if (r->change.kind == REPLICA_CHANGE_NONE || revision == r->change.compare_revision) {
        return false;
    }
    r->change.kind = REPLICA_CHANGE_NONE;
    return true;
}

/* No attempt of it can take effect any more. */
static void certainly_failed(struct replica *r)
{
    r->change.kind = REPLICA_CHANGE_NONE;
    if (r->role == REPLICA_CANDIDATE) {
        replica_become(r, REPLICA_FOLLOWER, "the transaction has failed");
    }
}

static void succeeded(struct replica *r, uint64_t revision, struct replica_actions *out)
{
    struct descriptor d = r->change.descriptor;
    enum replica_change_kind kind = r->change.kind;

    if (kind != REPLICA_CHANGE_SET) {
        r->lease = (struct replica_lease){.known = true,
                                          .present = true,
                                          .mine = r->session_open,
                                          .node = r->config.self,
                                          .incarnation = r->config.incarnation,
                                          .epoch = d.epoch,
                                          .revision = revision};
    }
    if (kind == REPLICA_CHANGE_LEASE) {
        r->change.kind = REPLICA_CHANGE_NONE;
    } else {
        view_shown(r, &d, revision, out); /* settles it */
    }
}

void change_on_txn_done(struct replica *r, const struct replica_event *ev, struct replica_actions *out)
{
    if (!r->txn_outstanding || ev->txn_done.txn != r->txn) {
        return;
    }
    r->txn_outstanding = false;
    if (r->change.kind == REPLICA_CHANGE_NONE) {
        return; /* the watch was faster */
    }
    switch (ev->txn_done.status) {
    case 0:
        r->pause_ms = REPLICA_PAUSE_MIN_MS;
        succeeded(r, ev->txn_done.revision, out);
        return;
    case OTR_CONFLICT:
        /* Of an earlier attempt with unknown outcome this may be the first sign: only the descriptor tells (D3). */
        if (!r->change.unknown || r->change.kind == REPLICA_CHANGE_LEASE) {
            certainly_failed(r);
        }
        change_want_read(r);
        return;
    case OTR_SESSION:
    case OTR_UNREACHABLE:
    case OTR_DENIED:
    case OTR_INVALID:
    case OTR_TOOBIG:
    case OTR_NOSPACE: /* nothing was done */
        if (!r->change.unknown) {
            certainly_failed(r);
        }
        break;
    default:
        r->change.unknown = true;
        if (r->change.kind == REPLICA_CHANGE_LEASE) {
            r->change.kind = REPLICA_CHANGE_NONE; /* harmless whenever it takes effect; tried again while needed */
        }
        break;
    }
    r->change.retry_ms = r->now_ms + r->pause_ms;
    r->change_not_before_ms = r->now_ms + r->pause_ms;
    pause_next(r);
}

void change_want_read(struct replica *r)
{
    r->read_wanted = true;
}

void change_on_read(struct replica *r, uint64_t read, bool answered)
{
    if (!r->read_outstanding || read != r->read) {
        return;
    }
    r->read_outstanding = false;
    *(answered ? &r->read_answered : &r->read_failed) = read;
    if (!answered) {
        r->read_retry_ms = r->now_ms + r->pause_ms;
        pause_next(r);
        return;
    }
    r->read_wanted = false;
    r->read_retry_ms = r->now_ms + REPLICA_PAUSE_MIN_MS;
    /* Still the revision compared with: the lease was in the way. The same change again, with the lease as it is now;
     * should an earlier attempt take effect after all, then one of the two fails and both say the same (D3). */
    r->change.retry_ms = r->now_ms;
}

void change_progress(struct replica *r, struct replica_actions *out)
{
    if (r->read_wanted && !r->read_outstanding && r->now_ms >= r->read_retry_ms) {
        r->read_outstanding = true;
        r->read++;
        replica_emit(out, REPLICA_DO_READ)->read.read = r->read;
    }
    if (r->change.kind != REPLICA_CHANGE_NONE && !r->txn_outstanding && !r->read_wanted && !r->read_outstanding &&
        r->now_ms >= r->change.retry_ms && !replica_regressed(r)) {
        attempt(r, out);
    }
}
