/* What the files of the replica share. Nobody else includes it.
 *
 *   replica.c         lifetime, dispatch of events, roles, metas, status
 *   replica_view.c    what is known of the coordinator: descriptor, lease, session
 *   replica_follow.c  the follower's half of appending, grants given, seeds taken
 *   replica_lead.c    the primary's half: writes, sending, acknowledgements, commit, grants held, seeds sent
 *   replica_set.c     changes of the in-sync set, and the lease
 *   replica_elect.c   suspicion, questions to the other members, candidacy, takeover
 *   replica_handoff.c handing over, leaving
 *   replica_force.c   an election that gives up acknowledged entries, on an operator's word
 *   replica_loss.c    entries of ours that such an election gave up
 *   replica_change.c  transactions whose outcome may stay unknown for long
 *
 * A step reserves everything it can need, then cannot fail. After the event itself was handled, `progress` of each file
 * brings everything that depends on it up to date: handlers only note what they learned. */
#ifndef OUTRIGGER_CORE_REPLICA_INTERNAL_H
#define OUTRIGGER_CORE_REPLICA_INTERNAL_H

#include "sidecar/core/dedup.h"
#include "sidecar/core/epochs.h"
#include "sidecar/core/lag_clock.h"
#include "sidecar/core/replica.h"

#include <assert.h>

enum {
    REPLICA_PEERS_MAX = 2 * OTR_REPLICAS_MAX,         /* in-sync set and replicas, should they have nothing in common */
    REPLICA_ACTIONS_MAX = 32 + 8 * REPLICA_PEERS_MAX, /* of one step */
    REPLICA_PAUSE_MIN_MS = 50,                        /* before a failed transaction or read is tried again... */
    REPLICA_PAUSE_MAX_MS = 1000,                      /* ...doubling up to this */
    REPLICA_SEED_RETRY_MS = 1000,                     /* after a seed broke off */
    REPLICA_SEED_RETRY_DAMAGED_MS = 30000,            /* the same when it may have been our own damage */
    REPLICA_JOIN_LAG = 256, /* entries; a learner closer than this is counted, and joins when level (J2) */
    REPLICA_DRIFT_PERCENT = 5,
    REPLICA_HANDOFF_TIMEOUT_MS = 2000,       /* unless the configuration says otherwise */
    REPLICA_GRANT_MS_MAX = 24 * 3600 * 1000, /* no longer is granted, whoever asks */
};

/* A node's connection, as the shell last reported it. It is the one that we dialled; what the node tells us comes on
 * another. So a node that is heard after its evident death is not dead: something refuses connections in its name. */
struct replica_link {
    otr_node node;
    enum replica_peer_state state;
    uint64_t incarnation;
    uint64_t since_ms;
    bool contradicted;
};

/* Another replica of the shard. */
struct replica_peer {
    otr_node node;
    uint64_t log_id; /* as it named it last; 0 while unknown */
    /* while we lead */
    uint64_t acked;       /* durable there, in our epoch, under log_id (A2) */
    uint64_t next;        /* index of the next entry to send */
    bool probing;         /* next is a guess: empty appends until the predecessor is confirmed */
    bool probe_now;       /* the guess changed: ask again without waiting for a heartbeat */
    bool sending;         /* a DO_SEND_APPEND is outstanding */
    bool sending_void;    /* ... and what it achieves no longer counts */
    uint64_t token;       /* ... its token */
    uint64_t commit_sent; /* commit index of the last append */
    uint64_t sent_ms;     /* time of the last append */
    uint64_t heard_ms;    /* last sign that it follows us */
    uint64_t progress_ms; /* last time it was level, or came closer */
    bool joining;         /* counted from J2 on, not yet published */
    uint64_t join_index;  /* ... must have acknowledged this before it is */
    bool needs_seed, seeding;
    uint64_t seed_retry_ms;
    uint64_t leaving; /* incarnation that is about to stop; 0: none */
    /* ... and are about to hand over */
    bool ready_answered, ready_able;
    uint64_t ready_log_id;
    struct otr_position ready_last;
    bool granted; /* a grant was received in our epoch (G1) */
    uint64_t grant_sent_ms;
    uint32_t grant_ms; /* how long it lasts */
    uint64_t grant_log_id;
    /* while we suspect the primary (V3) */
    bool answered;
    uint64_t answer_ms;
    uint64_t answer_log_id;
    struct otr_position answer_last;
    uint64_t answer_commit;
    bool answer_hears, answer_silent;
};

struct replica_leader {
    otr_node node; /* OTR_NODE_NONE: unknown */
    uint64_t incarnation;
    uint64_t epoch;
    uint64_t heard_ms; /* or when we learned of it */
    bool heard;        /* at all */
};

struct replica_lease {
    bool known, present, mine;
    otr_node node;
    uint64_t incarnation, epoch, revision;
};

enum replica_change_kind {
    REPLICA_CHANGE_NONE = 0,
    REPLICA_CHANGE_ELECT,
    REPLICA_CHANGE_SET,
    REPLICA_CHANGE_LEASE,
};

/* The one change under way (D2). It ends when the descriptor's revision is seen to have moved past the one compared
 * with, or when every attempt is certain to have failed (D3). */
struct replica_change {
    enum replica_change_kind kind;
    bool unknown; /* an attempt may still take effect */
    uint64_t compare_revision;
    struct descriptor descriptor;
    uint64_t retry_ms;
};

enum replica_handoff_phase {
    HANDOFF_NONE = 0,
    HANDOFF_OFFERING, /* asking who could lead on; we serve as ever */
    HANDOFF_FROZEN,   /* `to` will; no new writes, until it has all that we have */
    HANDOFF_RETURNED, /* our reign is over (G5), `to` has been told; or it ended otherwise, and `to` is nobody */
};

struct replica_handoff {
    enum replica_handoff_phase phase;
    bool asked; /* by EV_HANDOFF: somebody waits for DO_HANDED */
    bool alone; /* a member reached the coordinator while we, trying for long enough, did not */
    otr_node wanted, to;
    uint32_t timeout_ms;
    uint64_t deadline_ms;
    uint64_t epoch;         /* handed over */
    uint64_t beacon_ms;     /* ... with the grants up to this beacon */
    uint64_t nonce;         /* of the present round of offers; grows */
    uint64_t sent_ms;       /* the last OFFER or HANDOFF; 0: none yet */
    uint64_t able_ms;       /* first able answer of the round; 0: none yet */
    uint64_t read_answered; /* what it was then */
    uint64_t frozen_ms;
};

/* A primary's offer that we have not answered, or answered last. */
struct replica_offer {
    bool pending, confirmed;
    otr_node from;
    uint64_t epoch, incarnation, nonce;
    uint64_t read; /* the first DO_READ that begins after it arrived */
};

/* An operator's wish, under way (V7). */
struct replica_force {
    bool active;
    bool standing; /* the transaction was sent */
    uint64_t since_ms, deadline_ms;
    uint64_t asked_ms;
    uint64_t nonce; /* of its questions; grows, never one of a suspicion's */
    uint64_t read;  /* the first DO_READ that begins after it came */
    uint64_t accepted;
};

/* Entries that another epoch began without, and that stand in our log. */
struct replica_loss {
    enum { LOSS_NONE = 0, LOSS_NOTING, LOSS_NOTED } phase;
    uint64_t first;    /* from here on */
    uint64_t retry_ms; /* not again before */
};

struct replica {
    struct replica_config config;
    uint64_t fresh_log_id;
    uint64_t now_ms; /* of the present event */
    bool tick;       /* the present event is a TICK */

    enum replica_role role;
    const char *why; /* of the newest change of role */
    struct {
        enum replica_role role;
        uint64_t epoch;
        otr_node primary;
    } told;            /* the last DO_ROLE */
    const char *alarm; /* told last */

    /* durable facts: as written last; how far they are durable */
    struct replica_meta meta;
    bool meta_dirty;
    bool meta_binding; /* what is dirty must be durable before we acknowledge or grant (E2, E3, G4) */
    uint64_t meta_seq, meta_synced, meta_needed;

    /* the log */
    struct otr_position base, last;
    uint64_t durable_index, committed_index, answered_index;
    uint64_t newest_time_ms; /* wall clock, of entries */
    struct epochs epochs;
    struct dedup dedup;
    bool untrusted;         /* holds nothing that counts: to be seeded (E3, E4) */
    bool damaged;           /* something of it does not read any more: given up as soon as another holds all of it */
    bool failed;            /* the log, or an invariant: takes part in nothing any more */
    bool seeding;           /* a seed is coming in */
    uint64_t seed_meta_seq; /* number of the meta that the seed began with */

    /* the coordinator */
    struct descriptor descriptor;
    uint64_t descriptor_revision;
    bool descriptor_known;
    uint64_t descriptor_seen_ms; /* when it was first shown */
    struct replica_lease lease;
    bool session_open, reachable, regressed_coordinator, regressed_descriptor;
    struct replica_change change;
    bool txn_outstanding;
    uint64_t txn;
    uint64_t change_not_before_ms;
    uint32_t pause_ms;
    bool read_wanted, read_outstanding;
    uint64_t read, read_retry_ms;
    uint64_t read_answered, read_failed; /* numbers of the newest ones */

    /* peers */
    struct replica_link *links;
    size_t links_count, links_capacity;
    struct replica_peer peers[REPLICA_PEERS_MAX];
    uint32_t peers_count;
    uint64_t token;

    /* following */
    struct replica_leader leader;
    uint64_t verified;    /* index verified in the promised epoch (A2) */
    uint64_t commit_told; /* largest commit index that the primary sent in it */
    uint64_t ack_sent;    /* last position acknowledged in it */
    bool ack_due;         /* a duplicate or empty append wants an answer */
    bool beacon_due;      /* a beacon waits for the meta to be durable */
    uint64_t beacon_sent_ms;
    uint32_t beacon_grant_ms;
    /* Own clock, drift included: by then every grant has run out that we gave (G4) to the leader of the promised epoch;
     * to leaders of lower ones. */
    uint64_t granted_until_ms, granted_before_ms;
    uint64_t granted_sent_ms; /* the newest beacon granted to the leader; its clock */
    uint64_t returned_epoch;  /* its primary gave our grants back (G5): it never serves in it again */
    uint64_t fresh_ms, fresh_pending_ms, fresh_pending_commit;

    /* leading */
    uint64_t epoch; /* led while TAKEOVER or PRIMARY */
    uint64_t start_index;
    uint64_t commit_from_ms;
    uint64_t beacon_ms;
    struct lag_clock lag;     /* of our log's end */
    uint64_t abdicated_epoch; /* led once by this incarnation, never again */

    /* suspecting */
    uint64_t suspect_since_ms; /* 0: no suspicion */
    uint64_t ask_ms, ask_nonce;

    /* handing over, leaving */
    bool engine_down;
    bool disk_full;               /* nothing of ours becomes durable: an epoch could not begin here */
    bool disk_low;                /* ... or so it may be soon */
    uint64_t coordinator_lost_ms; /* since when there is no session or no coordinator; 0: there is */
    struct replica_handoff handoff;
    uint64_t handoff_not_before_ms; /* by itself */
    uint32_t handoff_pause_ms;
    struct replica_offer offer;
    bool leaving;
    uint64_t leaving_ms;            /* since */
    uint64_t leave_epoch, leave_ms; /* whose leader was told, and when */

    /* losing */
    uint64_t commit_heard; /* the largest commit index that any primary told */
    struct replica_force force;
    struct replica_loss loss;
};

/* --- replica.c ---------------------------------------------------------------------------------------------------- */

struct replica_action *replica_emit(struct replica_actions *out, enum replica_action_type type);
static inline bool replica_leads(const struct replica *r)
{
    return r->role == REPLICA_TAKEOVER || r->role == REPLICA_PRIMARY;
}
static inline uint64_t replica_generation(const struct replica *r)
{
    return r->descriptor_known ? r->descriptor.generation : r->meta.seen_generation;
}
/* What must be durable before acknowledgements, grants and candidacies is (E2, E3, G4). */
static inline bool replica_meta_settled(const struct replica *r)
{
    return !r->meta_dirty && r->meta_synced >= r->meta_needed;
}
/* The shown past must not be acted on (D4). */
static inline bool replica_regressed(const struct replica *r)
{
    return r->regressed_coordinator || r->regressed_descriptor;
}
struct otr_position replica_position(const struct replica *r, uint64_t index);
struct replica_peer *replica_peer_find(struct replica *r, otr_node node);
const struct replica_link *replica_link_find(const struct replica *r, otr_node node);
/* Something came from the node: late enough, it contradicts evidence of its death. */
void replica_heard(struct replica *r, otr_node node);
bool replica_connected(const struct replica *r, otr_node node);
/* Follows this epoch from now on (E2). */
void replica_promise(struct replica *r, uint64_t epoch);
void replica_set_leader(struct replica *r, otr_node node, uint64_t incarnation, uint64_t epoch);
void replica_become(struct replica *r, enum replica_role role, const char *why);
/* Leaves TAKEOVER or PRIMARY for good (E1). */
void replica_abdicate(struct replica *r, struct replica_actions *out, const char *why);
void replica_meta_changed(struct replica *r, bool binding);
void replica_take_log_id(struct replica *r, uint64_t log_id);
void replica_log_clear(struct replica *r, struct otr_position base);
void replica_alarm(struct replica *r, struct replica_actions *out, const char *text);
void replica_fatal(struct replica *r, struct replica_actions *out, const char *text);
void replica_send(struct replica *r, struct replica_actions *out, otr_node to, const struct replica_msg *msg);

/* --- replica_view.c ----------------------------------------------------------------------------------------------- */

/* The coordinator shows this descriptor; NULL: none. */
void view_shown(struct replica *r, const struct descriptor *d, uint64_t revision, struct replica_actions *out);
void view_on_lease(struct replica *r, const struct replica_event *ev);
void view_on_coordinator(struct replica *r, const struct replica_event *ev, struct replica_actions *out);

/* --- replica_follow.c --------------------------------------------------------------------------------------------- */

void follow_on_append(struct replica *r, otr_node from, const struct replica_msg *msg, struct replica_actions *out);
void follow_on_beacon(struct replica *r, otr_node from, const struct replica_msg *msg, struct replica_actions *out);
void follow_on_seed_begin(struct replica *r, const struct replica_event *ev, struct replica_actions *out);
void follow_on_seed_done(struct replica *r, const struct replica_event *ev);
void follow_progress(struct replica *r, struct replica_actions *out);

/* --- replica_lead.c ----------------------------------------------------------------------------------------------- */

void lead_on_write(struct replica *r, const struct replica_event *ev, struct replica_actions *out);
void lead_on_ack(struct replica *r, otr_node from, const struct replica_msg *msg);
void lead_on_refuse(struct replica *r, otr_node from, const struct replica_msg *msg, struct replica_actions *out);
void lead_on_grant(struct replica *r, otr_node from, const struct replica_msg *msg);
void lead_on_sent(struct replica *r, const struct replica_event *ev);
/* another: it is up, and another process than before. */
void lead_on_link(struct replica *r, const struct replica_link *link, bool another);
void lead_on_seed_sent(struct replica *r, const struct replica_event *ev);
void lead_progress(struct replica *r, struct replica_actions *out);
/* Begins the epoch: every peer from scratch, then the epoch-start entry. */
void lead_start(struct replica *r, struct replica_actions *out);
/* Size of the smaller of the published and the proposed set (A6). */
uint32_t lead_members_min(const struct replica *r);
/* Entries commit with our own disk (A7). Not from the moment on in which mode sync is wanted. */
bool lead_async(const struct replica *r);
/* So much every member of d holds, as far as it is committed. */
uint64_t lead_held(struct replica *r, const struct descriptor *d);
/* So old is what this member lacks, ms. */
uint64_t lead_lag_ms(const struct replica *r, const struct replica_peer *p);
/* By then our reign was not over: no member that counts had stopped granting it. */
uint64_t lead_fresh_ms(const struct replica *r, uint64_t now_ms);
/* Commit and grants need this peer (A4). */
bool lead_counted(const struct replica *r, const struct replica_peer *p);

/* --- replica_set.c ------------------------------------------------------------------------------------------------ */

void set_progress(struct replica *r, struct replica_actions *out);

/* --- replica_elect.c ---------------------------------------------------------------------------------------------- */

void elect_on_ask(struct replica *r, otr_node from, const struct replica_msg *msg, struct replica_actions *out);
void elect_on_answer(struct replica *r, otr_node from, const struct replica_msg *msg);
void elect_progress(struct replica *r, struct replica_actions *out);
/* The primary that we follow is evidently dead (V2). */
bool elect_evidence(const struct replica *r);
/* The descriptor names this incarnation as the primary of a new epoch: reign. */
void elect_takeover(struct replica *r, struct replica_actions *out);
uint64_t elect_grant_ms(const struct replica *r);
/* May take part in an election: its log is the one that the published set counts on, and whole (E3, E4). */
bool elect_eligible(const struct replica *r);
/* Place in `replicas`; smaller is preferred (V6). */
uint32_t elect_preference(const struct replica *r, otr_node node);

/* --- replica_handoff.c -------------------------------------------------------------------------------------------- */

void handoff_on_event(struct replica *r, const struct replica_event *ev, struct replica_actions *out);
void handoff_on_offer(struct replica *r, otr_node from, const struct replica_msg *msg, struct replica_actions *out);
void handoff_on_ready(struct replica *r, otr_node from, const struct replica_msg *msg);
void handoff_on_handoff(struct replica *r, otr_node from, const struct replica_msg *msg);
void handoff_on_leave(struct replica *r, otr_node from, const struct replica_msg *msg);
/* The log failed: whoever waits for a handoff is told. */
void handoff_on_failure(struct replica *r, struct replica_actions *out);
/* This process is about to stop. */
void handoff_leave(struct replica *r);
/* A member's half: before the reads and elections of this step; a primary's: after its commits. */
void handoff_progress_member(struct replica *r, struct replica_actions *out);
void handoff_progress(struct replica *r, struct replica_actions *out);
/* New writes are held back. */
static inline bool handoff_frozen(const struct replica *r)
{
    return r->handoff.phase == HANDOFF_FROZEN;
}
/* Gave its reign to somebody who has time to take it up. */
static inline bool handoff_waits(const struct replica *r)
{
    return r->handoff.phase == HANDOFF_RETURNED && r->handoff.to != OTR_NODE_NONE;
}
/* The primary that we follow has given its reign up. */
static inline bool handoff_received(const struct replica *r)
{
    return r->returned_epoch != 0 && r->returned_epoch == r->leader.epoch && r->leader.epoch == r->meta.promised;
}

/* --- replica_force.c ---------------------------------------------------------------------------------------------- */

void force_on_event(struct replica *r, const struct replica_event *ev, struct replica_actions *out);
/* True: it was the answer to a question of ours. */
bool force_on_answer(struct replica *r, otr_node from, const struct replica_msg *msg, struct replica_actions *out);
/* The log failed: whoever waits is told. */
void force_on_failure(struct replica *r, struct replica_actions *out);
void force_progress(struct replica *r, struct replica_actions *out);
uint64_t force_known(const struct replica *r);
uint64_t force_kept(const struct replica *r);

/* --- replica_loss.c ----------------------------------------------------------------------------------------------- */

/* The leader of an epoch that began without acknowledged entries has other entries from `first` on than we: true once
 * ours are noted, and may be given up. */
bool loss_noted(struct replica *r, uint64_t first, uint64_t lossy_epoch, struct replica_actions *out);
/* The entries from index on belong to epochs before such a one. */
static inline bool loss_possible(const struct replica *r, uint64_t lossy_epoch)
{
    return lossy_epoch > r->last.epoch;
}
/* Our epoch, proposed as d, may begin without acknowledged entries. */
void loss_mark(const struct replica *r, struct descriptor *d);
void loss_progress(struct replica *r);
void loss_on_noted(struct replica *r, const struct replica_event *ev);

/* --- replica_change.c --------------------------------------------------------------------------------------------- */

/* Nothing is under way and the view is recent: a change may start. */
bool change_possible(const struct replica *r);
void change_start(struct replica *r, enum replica_change_kind kind, const struct descriptor *d,
                  struct replica_actions *out);
void change_on_txn_done(struct replica *r, const struct replica_event *ev, struct replica_actions *out);
/* The coordinator's state at `revision` is known: settles a change that compared with an older one. True when it did.
 */
bool change_settle(struct replica *r, uint64_t revision);
/* DO_READ number `read` was answered (or got no answer). */
void change_on_read(struct replica *r, uint64_t read, bool answered);
/* The view of the descriptor or the lease may be old. */
void change_want_read(struct replica *r);
void change_progress(struct replica *r, struct replica_actions *out);

#endif
