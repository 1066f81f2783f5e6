/* E3: what is discarded, rebuilt or reseeded gets another log id, which nobody had before. */
#include "tests/simulation/sim.h"

void check_log_replaced(struct sim_shard *sh, uint64_t log_id)
{
    if (log_id == sh->meta.log_id || log_id == 0) {
        sim_fail(sh->sim, "E3: node %d shard %u: a seed replaces log %" PRIu64 " and keeps its id", sh->node->id,
                 sh->id, log_id);
    }
}

/* `untrusted`: the process started on a log that does not count any more, under this id. */
void check_log_id(struct sim_shard *sh, uint64_t log_id)
{
    if (sh->untrusted_log != 0 && log_id == sh->untrusted_log) {
        sim_fail(sh->sim, "E3: node %d shard %u: log %" PRIu64 " was damaged and keeps its id", sh->node->id, sh->id,
                 log_id);
    }
}
