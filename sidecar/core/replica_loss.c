/* Entries of ours that another epoch began without, after an election that an operator forced (V7), or in async mode
 * (A7): clients may have been told that they are safe. Which ones they were is noted, durably, before they are given
 * up; until then the replica stays as it is, acknowledges nothing, and stands for nothing, for its log will not be
 * kept: unless nobody is heard any more who wants them gone. */
#include "sidecar/core/replica_internal.h"

enum { LOSS_RETRY_MS = 1000, LOSS_SILENCE_PATIENT = 3 /* times suspect_timeout */ };

bool loss_noted(struct replica *r, uint64_t first, uint64_t lossy_epoch, struct replica_actions *out)
{
    struct replica_action *a;

    if (r->loss.phase == LOSS_NOTED && r->loss.first <= first) {
        return true;
    }
    if (r->loss.phase == LOSS_NOTING || r->now_ms < r->loss.retry_ms) {
        return false;
    }
    r->loss = (struct replica_loss){.phase = LOSS_NOTING, .first = first};
    a = replica_emit(out, REPLICA_DO_NOTE_LOSS);
    a->note_loss.first = first;
    a->note_loss.last = r->last.index;
    a->note_loss.epoch = lossy_epoch;
    return false;
}

/* Who began without our entries may have lost its own log since: then ours is perhaps the last one that counts, and it
 * counts again. Should he come back, they are noted anew. */
void loss_progress(struct replica *r)
{
    if (r->loss.phase == LOSS_NOTED &&
        r->now_ms - r->leader.heard_ms >= LOSS_SILENCE_PATIENT * (uint64_t)r->config.timings.suspect_timeout_ms) {
        r->loss.phase = LOSS_NONE;
    }
}

void loss_mark(const struct replica *r, struct descriptor *d)
{
    /* Earlier ones stay, even if all replicas have been in sync since: one that is to be a replica again after it was
     * none for a while has not heard of them. */
    descriptor_mark_lossy(d, d->epoch, r->last);
}

void loss_on_noted(struct replica *r, const struct replica_event *ev)
{
    if (r->loss.phase != LOSS_NOTING || r->loss.first != ev->loss_noted.first) {
        return;
    }
    r->loss.phase = ev->loss_noted.ok ? LOSS_NOTED : LOSS_NONE;
    r->loss.retry_ms = ev->loss_noted.ok ? 0 : r->now_ms + LOSS_RETRY_MS;
}
