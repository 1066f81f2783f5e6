/* What happened between two states of a prefix: Consul shows states, watches tell changes. Pure.
 *
 * Several changes of a key between the two are one, a key that came and went between them is none. A deletion shows by
 * absence alone: its revision is that of the whole newer state, an upper bound. A key that was deleted and made again
 * shows by its CreateIndex: a deletion and a put. */
#ifndef OUTRIGGER_BACKENDS_CONSUL_DIFF_H
#define OUTRIGGER_BACKENDS_CONSUL_DIFF_H

#include "outrigger/backend.h"

#include "sidecar/io/kv_list.h"

#include <stdbool.h>

struct consul_mark {
    char *key;
    uint64_t revision;
    uint64_t create_revision;
};
/* What is remembered of a state, sorted by key. {0} is the empty one. */
struct consul_state {
    struct consul_mark *marks;
    size_t count;
};
/* Replaces what was remembered; on OTR_NOMEM it stays. */
int consul_state_set(struct consul_state *state, const struct otr_kv *kvs, size_t kvs_count);
void consul_state_close(struct consul_state *state);

struct consul_changes {
    struct otr_watch_event *events; /* by revision; strings are those of the two states */
    size_t count;
    size_t deleted_count; /* of keys that are not there any more */
    bool regressed;       /* a key is older than it was: the coordinator was restored */
};
/* `revision` is that of the newer state. OTR_NOMEM. */
int consul_diff(const struct consul_state *before, const struct kv_list *now, uint64_t revision,
                struct consul_changes *changes);
void consul_changes_close(struct consul_changes *changes);

#endif
