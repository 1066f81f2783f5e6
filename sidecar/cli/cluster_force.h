/* cluster failover --accept-data-loss: when nobody who is in sync is left alive. */
#ifndef OUTRIGGER_CLI_CLUSTER_FORCE_H
#define OUTRIGGER_CLI_CLUSTER_FORCE_H

#include "sidecar/cli/cluster_view.h"
#include "sidecar/cli/fetch.h"

struct cluster_force {
    otr_shard shard;
    const char *to_replica; /* NULL: whoever loses least */
    bool yes;
    const char *confirm; /* NULL: asks, if somebody is there to answer */
    uint32_t timeout_ms;
    bool json;
};

/* Prints what each candidate would lose, has it confirmed, and lets one lead. Errors with words; then nothing was done,
 * but for OTR_UNKNOWN. */
int cluster_force_run(const struct cluster_force *s, const struct cluster_view *v, struct fetch_client *f,
                      struct otr_errmsg *msg);

/* --- for tests ---------------------------------------------------------------------------------------------------- */

struct cluster_force_candidate {
    int node; /* its number in the view */
    uint64_t loss;
};
/* The candidates, best first; *count 0 with an error and its words: nobody, or somebody in sync lives. `out` has room
 * for OTR_REPLICAS_MAX. */
int cluster_force_candidates(const struct cluster_view *v, otr_shard shard, struct cluster_force_candidate *out,
                             uint32_t *count, struct otr_errmsg *msg);

#endif
