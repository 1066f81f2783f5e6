/* Transactions of backend.h in the verbs of Consul's /v1/txn, and what its refusals mean. Pure.
 *
 * A key that a session holds stays with that session whatever writes to it: "set" and "cas" do not detach it, "lock" by
 * another is refused. Only "unlock" by the session's id detaches, and must name the right one. Hence a plan is made
 * with what is known of the holders, and one that was refused because a key turned out to be held is made anew:
 *
 *   OTR_OP_PUT        absent compared: cas 0; holder known: unlock; unmodified compared: check-session "" (a guard) and
 *                     cas; else: set, whose result says whether the key was held: then the caller detaches it
 *   OTR_OP_PUT_BOUND  lock; where another is known to hold it: unlock and lock
 *   OTR_OP_DELETE     delete, behind its compares
 *
 * Nothing but a write tells the index at which a transaction took place, so one that only deletes also sets the first
 * of its keys before deleting it, if there is room for one step more. A number that changes with every transaction goes
 * into each key's flags: Consul takes a write that changes nothing for none. */
#ifndef OUTRIGGER_BACKENDS_CONSUL_PLAN_H
#define OUTRIGGER_BACKENDS_CONSUL_PLAN_H

#include "backends/consul/consul_codec.h"

enum consul_step_type {
    CONSUL_STEP_COMPARE = 1, /* refused: a compare failed */
    CONSUL_STEP_GUARD,       /* refused: the key is held by another than we thought */
    CONSUL_STEP_LOCK,        /* refused: held by another, or my session is dead */
    CONSUL_STEP_WRITE,
};

enum { CONSUL_OP_NONE = OTR_TXN_MAX };

struct consul_step {
    enum consul_step_type type;
    size_t op; /* of the transaction, or CONSUL_OP_NONE */
    bool set;  /* a put that detaches nothing */
};

struct consul_plan {
    struct json_text body;
    struct consul_step steps[OTR_TXN_MAX];
    size_t steps_count;
    bool writes;
    bool blind; /* it deletes and nothing tells when */
};

/* holders[i]: the session that holds the key of ops[i], "" for none, NULL when unknown. `flags` is below 2^53. 0,
 * OTR_TOOBIG (more steps than Consul takes), OTR_NOMEM. The plan is to be closed in every case. */
int consul_plan_make(struct consul_plan *plan, const struct otr_txn *txn, const char *const *holders, uint64_t flags);
void consul_plan_close(struct consul_plan *plan);

/* What an answer of HTTP status 409 says: OTR_CONFLICT, OTR_SESSION, OTR_DENIED, OTR_INVALID; or OTR_INUSE: only
 * because of keys held by others than we thought, held[i] is set for each such operation. OTR_PROTO: it says nothing.
 * *what is the first complaint's text, lent by `json`, never NULL. */
int consul_plan_refusal(const struct consul_plan *plan, const cJSON *json, bool held[OTR_TXN_MAX], const char **what);

/* What an answer of status 200 says: *revision (0 of a blind one); and for each put that left its key with a session,
 * holders[i] (lent by `json`), else NULL. OTR_PROTO when it does not match the plan. */
int consul_plan_result(const struct consul_plan *plan, const cJSON *json, uint64_t *revision,
                       const char *holders[OTR_TXN_MAX]);

#endif
