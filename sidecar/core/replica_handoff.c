/* Handing over (PROTOCOL G5, V5), and leaving the set before the process stops. */
#include "sidecar/core/replica_internal.h"

static void handed(const struct replica *r, int status, const char *why, struct replica_actions *out)
{
    struct replica_action *a = replica_emit(out, REPLICA_DO_HANDED);

    a->handed.status = status;
    a->handed.to = OTR_NODE_NONE;
    a->handed.epoch = r->meta.promised;
    a->handed.why = why;
}

void handoff_on_event(struct replica *r, const struct replica_event *ev, struct replica_actions *out)
{
    (void)ev;
    if (replica_leads(r)) {
        handed(r, OTR_UNAVAIL, "no member is able to lead", out);
    } else {
        handed(r, OTR_NOTPRIMARY, "this replica does not lead", out);
    }
}
