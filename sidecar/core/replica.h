/* One shard's replica: replication, changes of the in-sync set, election, grants and request ids by the rules of
 * PROTOCOL.md. No sockets, files, clock or dice: time comes with each event, work goes out as actions.
 *
 * The core never sees a write's bytes. It orders them: a write gets an index, the shell puts the bytes into the journal
 * and sends journal bytes to peers when told to. What the core keeps of the log is its last position, how far it is
 * durable, its epoch boundaries and the request ids of the dedup window.
 *
 *             descriptor names me          evidence (V2, V3)            transaction done
 *   IDLE ----------------------> FOLLOWER ------------------> CANDIDATE -----------------> TAKEOVER
 *                                 ^  ^  ^---- certain failure -----'                          |
 *                                 |  '------ a higher epoch ---------------------------------'| epoch-start entry
 *                                 '--------- a higher epoch, or the log failed ----- PRIMARY <-' committed, grants out
 *                                            or handed over (G5)
 *
 * Handoff, by default a matter of milliseconds in which nothing expires:
 *
 *   primary                                             member
 *     |-- OFFER ------------------------------------------>|  one read of the descriptor that begins now: whoever
 * cannot
 *     |<------------------------------------ READY (able) -|  reach the coordinator, or has no engine, is not able
 *     |   new writes are refused with OTR_UNAVAIL; what is logged commits, and the successor acknowledges all of it
 *     |-- HANDOFF (from here on it serves nothing, G5) --->|  stands at once, waits for no grant to the old primary
 *     |<----------------- APPEND of the next epoch --------|
 *
 * Until HANDOFF leaves nothing has changed: whatever goes wrong, the primary serves on. After it nobody serves until
 * somebody is elected; if nobody is within the timeout, the old primary stands like anybody else. A primary starts a
 * handoff when asked to, and by itself while its engine is down, its disk full, while it has been without coordinator
 * or session for half a second, while `replicas` no longer names it, and while its process is about to stop.
 *
 * A FOLLOWER is in the in-sync set or a learner; what it does is the same. Deterministic: equal events give equal
 * actions. Not thread-safe. */
#ifndef OUTRIGGER_CORE_REPLICA_H
#define OUTRIGGER_CORE_REPLICA_H

#include "outrigger/err.h"
#include "outrigger/types.h"
#include "sidecar/core/epochs.h"

/* --- the descriptor: shards/<shard> (PROTOCOL D1) ----------------------------------------------------------------- */

struct member {
    otr_node node;
    uint64_t log_id; /* 0 while unknown */
};

enum replica_mode { REPLICA_SYNC = 1, REPLICA_ASYNC };

enum { DESCRIPTOR_LOSSY_MAX = 8 };

struct descriptor {
    otr_shard shard;
    uint32_t hash_first, hash_last; /* both included */
    uint64_t generation;
    uint64_t version; /* every change raises it */
    uint64_t epoch;   /* 0: just created, nobody ever led it, in_sync is empty; any replica named may take epoch 1 */
    otr_node primary; /* OTR_NODE_NONE at epoch 0 */
    uint64_t incarnation;
    struct member in_sync[OTR_REPLICAS_MAX];
    uint32_t in_sync_count;
    otr_node replicas[OTR_REPLICAS_MAX]; /* in order of preference; those not in in_sync are learners */
    uint32_t replicas_count;
    struct otr_position position; /* commit position at the last change (E4) */
    /* Epochs that may have begun without acknowledged entries (V7, A7), ascending, each with the position at which its
     * leader's log ended before. Of too many the oldest are told as one. */
    struct descriptor_lossy {
        uint64_t epoch;
        struct otr_position ended;
    } lossy[DESCRIPTOR_LOSSY_MAX];
    uint32_t lossy_count;
    enum replica_mode mode;
    uint32_t min_in_sync;
    uint32_t grant_ms;
};

/* Newer by (generation, epoch, version): <0, 0, >0 (PROTOCOL D4). */
int descriptor_compare(const struct descriptor *a, const struct descriptor *b);
/* Index in in_sync, or -1. */
int descriptor_in_sync(const struct descriptor *d, otr_node node);
bool descriptor_has_replica(const struct descriptor *d, otr_node node);
/* The newest epoch that may have begun without acknowledged entries; 0: none did. */
uint64_t descriptor_lossy_epoch(const struct descriptor *d);
/* Epoch `epoch` may, after a log that ended there. Of too many the oldest two are told as one: as if the newer of them
 * had begun after the shorter and the older of both logs. */
void descriptor_mark_lossy(struct descriptor *d, uint64_t epoch, struct otr_position ended);
/* From this index on the entries of a log are lost that ends at `last` and has these epochs; UINT64_MAX: none are. */
uint64_t descriptor_lost_from(const struct descriptor *d, const struct epochs *epochs, struct otr_position last);
/* So many of the committed entries are certainly in a log that ends at `last` and knows its first `committed` entries
 * to be committed. `position` is the descriptor's: a log whose last epoch is older may differ from what was committed
 * wherever it was not told. */
uint64_t descriptor_kept(struct otr_position position, struct otr_position last, uint64_t committed);

/* --- messages between replicas of a shard ------------------------------------------------------------------------- */

enum replica_msg_type {
    REPLICA_MSG_APPEND = 1, /* primary -> replica; entries may be none (carries the commit index) */
    REPLICA_MSG_ACK,        /* replica -> primary: durable and verified up to (A2) */
    REPLICA_MSG_REFUSE,     /* replica -> primary: predecessor lacking, or an epoch below promised */
    REPLICA_MSG_BEACON,     /* primary -> replica (G1) */
    REPLICA_MSG_GRANT,      /* replica -> primary: answer to exactly one beacon */
    REPLICA_MSG_ASK,        /* candidate -> members (V3) */
    REPLICA_MSG_ANSWER,
    REPLICA_MSG_OFFER,   /* primary -> member: could you lead on? Nothing is given away yet */
    REPLICA_MSG_READY,   /* member -> primary: answer to exactly one offer */
    REPLICA_MSG_HANDOFF, /* primary -> chosen member: my grants are returned, stand (G5); true for ever, so repeatable
                          */
    REPLICA_MSG_LEAVE,   /* replica -> primary: this process is about to stop, take me out of the set */
};

enum replica_refusal {
    REPLICA_REFUSE_GAP = 1, /* lacks the predecessor; `position` says where to look */
    REPLICA_REFUSE_FENCED,  /* follows or wants a higher epoch; `promised` says which, 0 from a candidate (V4) */
    REPLICA_REFUSE_SEED,    /* its log holds nothing that counts: only a seed helps (E3, E4) */
};

/* What the core knows of an entry that came from a peer; the bytes stay in the shell. */
struct replica_entry {
    struct otr_position position;
    uint64_t time_ms;
    struct otr_request_id request_id;
};

struct replica_msg {
    enum replica_msg_type type;
    uint64_t generation;
    uint64_t epoch; /* the sender's: of APPEND, BEACON and OFFER the one led, of HANDOFF the one given back, of LEAVE
                     * the one followed, of answers the one answered; ASK, ANSWER: promised */
    union {
        struct {
            uint64_t incarnation;
            struct otr_position prev;
            uint64_t last_index; /* entries are prev.index + 1 .. last_index */
            uint64_t commit;
            uint64_t lossy_epoch;                /* of the sender's descriptor */
            const struct replica_entry *entries; /* incoming only, last_index - prev.index of them; lent. Outgoing: the
                                                  * shell fetches the bytes */
        } append;
        struct {
            uint64_t log_id;
            struct otr_position verified;
        } ack;
        struct {
            uint64_t log_id;
            enum replica_refusal reason;
            struct otr_position position;
            uint64_t promised;
        } refuse;
        struct {
            uint64_t incarnation;
            uint64_t sent_ms;  /* the sender's clock; comes back in the GRANT */
            uint32_t grant_ms; /* how long the grant shall last, by the sender's descriptor: the receiver's may be
                                  another */
        } beacon;
        struct {
            uint64_t incarnation;
            uint64_t sent_ms;
            uint64_t log_id;
            bool granted;
            uint32_t grant_ms; /* as the beacon asked */
        } grant;
        struct {
            uint64_t nonce;
            otr_node primary; /* whose reign is doubted; the wire carries its name */
            uint64_t incarnation;
        } ask;
        struct {
            uint64_t nonce;
            uint64_t log_id;
            struct otr_position last; /* of its log, durable part */
            uint64_t commit;          /* index up to which it knows entries to be committed */
            bool hears_primary;       /* heard that incarnation within a grant */
            bool silent;              /* did not hear it for suspect_timeout */
        } answer;
        struct {
            uint64_t nonce;
            uint64_t incarnation;
        } offer;
        struct {
            uint64_t nonce;
            uint64_t log_id;
            struct otr_position last; /* of its log, durable part */
            bool able;
        } ready;
        struct {
            uint64_t incarnation;
            uint64_t sent_ms; /* of the last beacon covered: that one and all before it; 0: none was sent */
            uint64_t commit;
        } handoff;
        struct {
            uint64_t incarnation; /* the process that stops */
            uint64_t log_id;
        } leave;
    };
};

/* --- events ------------------------------------------------------------------------------------------------------- */

/* Of the cluster, in force at once; a primary brings the descriptor in line (D1). */
struct replica_settings {
    enum replica_mode mode; /* 0: whatever the descriptor says */
    /* In mode async no write is answered while a member lacks more entries than this, or one that is older. */
    uint64_t max_lag_entries;
    uint32_t max_lag_ms;
};

enum replica_event_type {
    REPLICA_EV_TICK = 1,    /* Time passed. Every 10 ms or so. */
    REPLICA_EV_WRITE,       /* A client's write. */
    REPLICA_EV_LOG_SYNCED,  /* Our log is durable up to index. */
    REPLICA_EV_META_SYNCED, /* The meta of DO_META number `seq` is durable (and all before it). */
    REPLICA_EV_LOG_DAMAGED, /* A record of the log, or a point, does not read any more (E3). See replica.c. */
    REPLICA_EV_LOG_FAILED,  /* fdatasync or write failed for good (E4): stop leading; nothing is durable any more. */
    REPLICA_EV_MSG,         /* From a peer's replica. */
    REPLICA_EV_SENT,        /* The answer to DO_SEND_APPEND. */
    REPLICA_EV_PEER,        /* A node's connection or process changed. */
    REPLICA_EV_DESCRIPTOR,  /* The coordinator shows this descriptor: from the watch, or as the answer to DO_READ. */
    REPLICA_EV_LEASE,       /* The coordinator shows this lease key, or its absence. */
    REPLICA_EV_READ_FAILED, /* DO_READ got no answer. */
    REPLICA_EV_COORDINATOR, /* Session or reachability changed, or the coordinator is not the one it was (D4). */
    REPLICA_EV_TXN_DONE,    /* The answer to DO_TXN. */
    REPLICA_EV_SEED_SENT,   /* The answer to DO_SEED: the peer has it all, durably, up to `position`; or it failed. */
    REPLICA_EV_SEED_BEGIN,  /* A primary wants to seed us. Accepted when DO_SEED_ACCEPT comes out of the step. */
    REPLICA_EV_SEED_DONE,   /* Seed installed durably; or broken off (ok false): the log is empty. */
    REPLICA_EV_HANDOFF,     /* The primary shall hand over. Answered by exactly one DO_HANDED, unless freed before. */
    REPLICA_EV_FITNESS,     /* This node's engine and disk work, or do not. Until told they are taken to work. */
    REPLICA_EV_LEAVE, /* This process is about to stop: it stands for nothing and wants to be in no set. Final; to be
                       * told to replicas made later, too. */
    REPLICA_EV_FORCE, /* An operator accepts the loss of acknowledged entries: this replica, not in sync, shall lead
                       * (V7). Answered by exactly one DO_FORCED, unless freed before. */
    REPLICA_EV_LOSS_NOTED, /* The answer to DO_NOTE_LOSS. */
    REPLICA_EV_SETTINGS,   /* The cluster's settings changed. */
};

enum replica_peer_state {
    REPLICA_PEER_UP = 1, /* connected; `incarnation` is the process that answered */
    REPLICA_PEER_DOWN,   /* not connected: no evidence of anything */
    REPLICA_PEER_DEAD,   /* evidently dead (V2): the connection to `incarnation` ended and a new one was refused */
};

struct replica_event {
    enum replica_event_type type;
    uint64_t now_ms; /* CLOCK_BOOTTIME, sampled after the event's bytes were read (G3) */
    union {
        struct {
            uint64_t ticket;  /* the caller's, comes back in the actions */
            uint64_t time_ms; /* wall clock, for the entry */
            struct otr_request_id request_id;
        } write;
        struct {
            uint64_t index;
        } log_synced;
        struct {
            uint64_t seq;
        } meta_synced;
        struct {
            otr_node from;
            const struct replica_msg *msg;
        } msg;
        struct {
            otr_node to;
            uint64_t token;      /* of the DO_SEND_APPEND */
            uint64_t last_index; /* up to here it was handed to the connection; may be less than asked for */
            int status;          /* 0; OTR_GONE: no longer retained, seed instead; anything else: connection trouble */
        } sent;
        struct {
            otr_node node;
            enum replica_peer_state state;
            uint64_t incarnation;
        } peer;
        struct {
            const struct descriptor *descriptor; /* NULL: the key does not exist */
            uint64_t revision;
            uint64_t read; /* number of the DO_READ it answers (linearizable), 0: from the watch */
        } descriptor;
        struct {
            bool present;
            otr_node node;
            uint64_t incarnation;
            uint64_t epoch;
            uint64_t revision;
            bool mine; /* bound to my present session */
        } lease;
        struct {
            uint64_t read;
        } read_failed;
        struct {
            bool session_open; /* leases can be bound */
            bool reachable;
            bool regressed; /* its identity changed or its revision fell (D4); stays until a restart with a new
                               generation */
        } coordinator;
        struct {
            uint64_t txn;
            int status; /* 0, OTR_CONFLICT, OTR_UNREACHABLE, OTR_SESSION: certain; OTR_UNKNOWN: anything may be (D3) */
            uint64_t revision;
        } txn_done;
        struct {
            otr_node to;
            bool ok;
            uint64_t log_id; /* the peer's new one */
            struct otr_position position;
        } seed_sent;
        struct {
            otr_node from;
            uint64_t epoch;
            uint64_t incarnation;
            uint64_t new_log_id; /* drawn by the shell */
        } seed_begin;
        struct {
            bool ok;
            struct otr_position position;
        } seed_done;
        struct {
            otr_node to;         /* OTR_NODE_NONE: the best */
            bool stopping;       /* this process is about to stop: includes EV_LEAVE, whatever comes of the handoff */
            uint32_t timeout_ms; /* 0: handoff_timeout_ms. Bounds first the time until the grants are returned, then,
                                  * anew, the time until somebody takes over: HANDED comes within twice this. */
        } handoff;
        struct {
            bool engine_up;
            bool disk_full; /* nothing more becomes durable */
            bool disk_low;  /* soon nothing may: takes over only when it must */
        } fitness;
        struct {
            uint64_t accepted;   /* so many entries may be lost */
            uint32_t timeout_ms; /* FORCED comes within it, or soon after */
        } force;
        struct {
            uint64_t first;
            bool ok; /* durable */
        } loss_noted;
        struct replica_settings settings;
    };
};

/* --- actions ------------------------------------------------------------------------------------------------------ */

enum replica_action_type {
    REPLICA_DO_APPEND = 1,  /* Put this entry into the journal; ticket 0: an epoch-start entry. */
    REPLICA_DO_APPEND_RAW,  /* Put entries `first`..`last` of the incoming APPEND into the journal. */
    REPLICA_DO_CUT,         /* Journal entries from `index` on are gone; forget pending ones. */
    REPLICA_DO_META,        /* Make this durable, then EV_META_SYNCED with seq. */
    REPLICA_DO_SEND,        /* Send msg (all types but APPEND); losing it is allowed. */
    REPLICA_DO_SEND_APPEND, /* Send msg with the entries' bytes; as many as fit. Answer with EV_SENT, once, with its
                             * token, when the connection can take more. At most one is outstanding per peer. */
    REPLICA_DO_COMMIT,      /* Entries up to index are committed: apply them to the store, then the engine. */
    REPLICA_DO_ANSWER,      /* Writes up to index may be answered (A6): they are committed by enough members. */
    REPLICA_DO_REPLY,       /* A ticket that got no entry: refused, or a duplicate. */
    REPLICA_DO_ABANDON,     /* No longer primary: pending writes from index on have an unknown outcome. */
    REPLICA_DO_TXN,         /* Carry out this transaction, answer with EV_TXN_DONE. One is outstanding at most (D2). */
    REPLICA_DO_READ,        /* Read descriptor and lease linearizably, answer with EV_LEASE, then EV_DESCRIPTOR. */
    REPLICA_DO_SEED,        /* Stream all live points as of the commit index to the peer; EV_SEED_SENT. */
    REPLICA_DO_SEED_ACCEPT, /* journal_seed_begin with this meta, take the points, end, EV_SEED_DONE. */
    REPLICA_DO_ROLE,        /* Role, epoch or primary changed: for routing, logs and metrics. */
    REPLICA_DO_ALARM,       /* An operator must act; text says what (lent, static). */
    REPLICA_DO_FATAL,       /* A7: a cut below the commit index. The process stops and says so. */
    REPLICA_DO_HANDED,      /* The outcome of EV_HANDOFF. */
    REPLICA_DO_FORCED,      /* The outcome of EV_FORCE. */
    REPLICA_DO_NOTE_LOSS, /* Entries `first`..`last` of the log are to be given up, and may have been acknowledged: make
                           * durable which ones they are, then EV_LOSS_NOTED. One is outstanding at most. */
};

enum replica_reply {
    REPLICA_REPLY_REFUSED =
        1, /* `status`: OTR_NOTPRIMARY, OTR_UNAVAIL (taking or handing over), OTR_FEW, OTR_FENCED. Not logged. */
    REPLICA_REPLY_DUPLICATE, /* Took effect already: answer with the outcome of `index`. */
    REPLICA_REPLY_JOIN,      /* Its entry `index` is logged and not yet answerable: wait for it (Q2). */
};

enum replica_lease_op { REPLICA_LEASE_KEEP = 0, REPLICA_LEASE_IF_ABSENT, REPLICA_LEASE_IF_REVISION };

struct replica_meta {
    uint64_t log_id;
    uint64_t promised;
    uint64_t seen_generation, seen_epoch, seen_version;
    uint64_t grant_ms_max;
};

enum replica_role { REPLICA_IDLE = 1, REPLICA_FOLLOWER, REPLICA_CANDIDATE, REPLICA_TAKEOVER, REPLICA_PRIMARY };

struct replica_action {
    enum replica_action_type type;
    union {
        struct {
            uint64_t ticket;
            struct otr_position position;
            uint64_t time_ms;
            struct otr_request_id request_id;
        } append;
        struct {
            uint64_t first, last;
        } append_raw;
        struct {
            uint64_t index;
        } cut;
        struct {
            uint64_t seq;
            struct replica_meta meta;
        } meta;
        struct {
            otr_node to;
            uint64_t token; /* DO_SEND_APPEND only */
            struct replica_msg msg;
        } send;
        struct {
            uint64_t index;
        } commit, answer, abandon;
        struct {
            uint64_t ticket;
            enum replica_reply reply;
            int status;
            uint64_t index;
            uint64_t epoch;
            uint32_t outcome;
        } reply;
        struct {
            uint64_t txn;
            bool change_descriptor; /* else only the lease is taken, still comparing the descriptor's revision */
            uint64_t compare_revision;
            struct descriptor descriptor; /* the new value */
            enum replica_lease_op
                lease; /* not KEEP: put leases/<shard> = {me, incarnation, epoch}, bound to my session */
            uint64_t lease_revision;
        } txn;
        struct {
            uint64_t read;
        } read;
        struct {
            otr_node to;
        } seed;
        struct {
            struct replica_meta meta;
        } seed_accept;
        struct {
            enum replica_role role;
            uint64_t epoch;
            otr_node primary;
            const char *why; /* static text */
        } role;
        struct {
            const char *text;
        } alarm, fatal;
        struct {
            int status;  /* 0: `to` leads `epoch`, which is newer. OTR_NOTPRIMARY: we do not lead. OTR_BUSY: a handoff
                          * is under way. OTR_UNAVAIL: no member is able, or not the wanted one; we lead on.
                          * OTR_TIMEOUT: the successor did not catch up, and we lead on; or it did not take over. */
            otr_node to; /* who leads, else who was meant to; OTR_NODE_NONE: nobody */
            uint64_t epoch;  /* newest known */
            const char *why; /* static text */
        } handed;
        struct {
            int status;     /* 0: we lead `epoch`. OTR_UNKNOWN: the transaction's outcome is not known. Else nothing was
                             * done: OTR_EXISTS, OTR_BUSY, OTR_CONFLICT, OTR_UNAVAIL, OTR_TIMEOUT */
            otr_node other; /* whom `why` is about; OTR_NODE_NONE: nobody */
            uint64_t epoch;
            const char *why; /* static text */
        } forced;
        struct {
            uint64_t first, last;
            uint64_t epoch; /* the one that began without them */
        } note_loss;
    };
};

/* Caller-owned; zero-initialise, free with replica_actions_close. */
struct replica_actions {
    struct replica_action *items;
    size_t count;
    size_t capacity;
};
void replica_actions_close(struct replica_actions *out);

/* --- the replica -------------------------------------------------------------------------------------------------- */

struct replica_timings { /* DESIGN 4.7; milliseconds */
    uint32_t beacon_ms;
    uint32_t replica_timeout_ms;
    uint32_t suspect_timeout_ms;
    uint32_t patience_ms;        /* V3, V6: waited once per missing member, and per better candidate; default 50 */
    uint32_t heartbeat_ms;       /* an idle primary sends an empty append this often; default 100 */
    uint32_t dedup_window_ms;    /* default 600,000 */
    uint32_t dedup_ids_min;      /* default 100,000 */
    uint32_t seed_entries;       /* an empty learner that lacks at least so many entries is seeded; default 1,000 */
    uint32_t handoff_timeout_ms; /* 0: 2,000 */
};

struct replica_config {
    otr_shard shard;
    otr_node self;
    uint64_t incarnation;
    uint64_t process_start_ms; /* CLOCK_BOOTTIME (G4) */
    struct replica_timings timings;
    struct replica_settings settings; /* at first */
};

/* What the journal recovered. */
struct replica_durable {
    struct replica_meta
        meta; /* log_id 0: no replica yet; the core draws none: `fresh_log_id` is used when it needs one */
    uint64_t fresh_log_id;
    struct otr_position base; /* the seed's, {0,0} without */
    struct otr_position last;
    uint64_t committed_index; /* lower bound */
    bool untrusted;           /* damaged or an unfinished seed: the log does not count until joined anew (E3, E4) */
};

struct replica;

int replica_new(struct replica **out, const struct replica_config *config, const struct replica_durable *durable);
void replica_free(struct replica *r);
/* After new, before the first event: the epoch boundaries ascending, and the entries' request ids ascending. While a
 * seed comes in (between DO_SEED_ACCEPT and EV_SEED_DONE): the request ids that came with it. OTR_INVALID when out of
 * order. */
int replica_restore_epoch(struct replica *r, uint64_t epoch, uint64_t first_index);
int replica_restore_request(struct replica *r, const struct replica_entry *entry, uint32_t outcome, bool has_outcome);

/* Feed one event. On return `out` lists what to do, in the order to do it: what must be durable comes before what
 * relies on it. `out` is emptied first. Errors: OTR_NOMEM, and then nothing has changed. */
OTR_MUST_CHECK int replica_step(struct replica *r, const struct replica_event *ev, struct replica_actions *out);

/* The outcome of a committed entry as computed when it was applied to the store (Q1). */
void replica_outcome(struct replica *r, uint64_t index, uint32_t outcome);
/* Whether a write with this id would get no entry: it has one (Q1, Q2). */
bool replica_knows(const struct replica *r, const struct otr_request_id *id);
/* Walks the dedup window (for seeding): calls cb ascending. */
void replica_requests(const struct replica *r, void (*cb)(const struct replica_entry *e, uint32_t outcome, void *data),
                      void *data);

/* The same for entries behind `after`, up to `upto`, at most `max`: for compaction. */
void replica_requests_between(const struct replica *r, uint64_t after, uint64_t upto, size_t max,
                              void (*cb)(const struct replica_entry *e, uint32_t outcome, void *data), void *data);

/* The right to answer linearizable reads now (G2). NEED_DESCRIPTOR: by one linearizable read of the descriptor that
 * begins now and shows (generation, epoch); check again afterwards with replica_read_confirmed. */
enum replica_right { REPLICA_READ_OK = 1, REPLICA_READ_NEED_DESCRIPTOR, REPLICA_READ_WAIT, REPLICA_READ_NOT_PRIMARY };
enum replica_right replica_read_right(const struct replica *r, uint64_t now_ms);
bool replica_read_confirmed(const struct replica *r, const struct descriptor *shown);

struct replica_status {
    enum replica_role role;
    bool in_sync;         /* named in the published set, under our log id */
    bool eligible;        /* ... and its log is whole: may be elected without loss */
    uint64_t known_index; /* so much is known to be committed somewhere */
    uint64_t kept_index;  /* so much of it is in our log: EV_FORCE would give up the rest */
    bool writable;        /* primary, at least min_in_sync members are counted, and no handoff holds writes back */
    bool handing;         /* a handoff is under way, asked for or not */
    bool leaving; /* after EV_LEAVE (or HANDOFF with stopping): gone is the replica once neither in_sync nor leading */
    bool damaged; /* something of its copy does not read any more */
    bool seeding; /* it is being seeded */
    bool trusted; /* its log may count: false from the moment a damaged one is given up until it was seeded */
    uint64_t epoch, promised, log_id;
    otr_node primary; /* whom we follow; OTR_NODE_NONE while unknown */
    struct otr_position last;
    uint64_t durable_index, committed_index, answered_index;
    uint64_t fresh_ms; /* then (CLOCK_BOOTTIME) our committed prefix was current, as far as known; primaries: when the
                        * oldest of the grants was asked for that it needs */
    const struct descriptor *descriptor; /* newest known, NULL: none; lent until the next step */
    uint64_t descriptor_revision;
    struct {
        otr_node node;
        uint64_t acked_index; /* primary's view */
        bool counted;
        bool seeding;
    } peers[OTR_REPLICAS_MAX];
    uint32_t peers_count;
};
void replica_status(const struct replica *r, uint64_t now_ms, struct replica_status *status);
/* Where the log ends; as status.last, for those who ask often. */
uint64_t replica_last_index(const struct replica *r);

#endif
