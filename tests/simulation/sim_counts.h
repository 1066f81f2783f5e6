/* What a soak counts: named situations that runs get into, and which fault struck whom. A situation that a soak never
 * reaches, or a role that some fault never struck, means that the simulator no longer tests what it is believed to
 * test: `simulate --complete` fails then. Plain numbers, so that the counts of several runs can be added. */
#ifndef OUTRIGGER_TESTS_SIMULATION_SIM_COUNTS_H
#define OUTRIGGER_TESTS_SIMULATION_SIM_COUNTS_H

#include <stdbool.h>
#include <stdint.h>

/* Whom a fault can strike. A node that is struck counts for its role in every shard. */
#define SIM_ROLES(X)          \
    X(PRIMARY, "primary")     \
    X(TAKEOVER, "takeover")   \
    X(CANDIDATE, "candidate") \
    X(MEMBER, "member")       \
    X(LEARNER, "learner")     \
    X(COORDINATOR, "coord")   \
    X(CLIENT, "client")

enum {
    SIM_STRIKES_NODES = 1, /* every role of a node must be struck */
    SIM_STRIKES_COORDINATOR,
    SIM_STRIKES_CLIENTS,
};

/* name, whom it strikes, what happens. The first ones are rates, the others events that a seed draws by weight. */
#define SIM_FAULTS(X)                                                                   \
    X(LOSS, NODES, "a message is lost and sent again, late")                            \
    X(DOUBLE, NODES, "a message arrives twice, the second time late")                   \
    X(SLOW_SYNC, NODES, "a flush takes up to 800 ms longer")                            \
    X(SLOW_WATCH, NODES, "an event of the coordinator comes up to 2 s late")            \
    X(DOUBLE_WATCH, NODES, "events of the coordinator come twice")                      \
    X(KILL, NODES, "the process is killed")                                             \
    X(KILL_PRIMARY, NODES, "a primary's process is killed")                             \
    X(POWER, NODES, "the machine fails, and unsynced bytes with it")                    \
    X(PAUSE, NODES, "the process stands still for a while")                             \
    X(CLOCK, NODES, "the clock runs at another rate")                                   \
    X(ONE_WAY, NODES, "nothing that a node says reaches another")                       \
    X(PAIR, NODES, "two nodes do not hear each other")                                  \
    X(ISOLATE, NODES, "a node is cut off from the others")                              \
    X(ISOLATE_PRIMARY, NODES, "a primary's node is cut off from the others")            \
    X(REFUSE, NODES, "a node's connections to another are reset")                       \
    X(REFUSE_NODE, NODES, "all connections from and to a node are reset")               \
    X(BREAK, NODES, "a connection ends")                                                \
    X(DELAY, NODES, "what a node says takes much longer")                               \
    X(COUP, NODES, "a primary looks dead while a member begins anew")                   \
    X(COORD_CUT_OFF, NODES, "a node and the coordinator do not hear each other")        \
    X(COORD_CUT_PRIMARY, NODES, "... a primary's")                                      \
    X(COORD_DEAF, NODES, "the coordinator hears a node, its answers do not arrive")     \
    X(COORD_RESET, NODES, "connections to the coordinator are refused")                 \
    X(SESSION, NODES, "the coordinator loses a session")                                \
    X(COMPACT, NODES, "history is compacted: a watch begins anew with what there is")   \
    X(WIPE, NODES, "the machine fails and comes back with an empty disk")               \
    X(SYNC_FAILS, NODES, "an fdatasync fails")                                          \
    X(CALL_FAILS, NODES, "a write, truncation, creation, directory sync or read fails") \
    X(DISK_FULL, NODES, "the disk is full")                                             \
    X(BIT_FLIP, NODES, "a bit of a sealed segment flips")                               \
    X(ENGINE, NODES, "the engine fails")                                                \
    X(STOP, NODES, "the process is told to stop")                                       \
    X(HANDOFF, NODES, "a shard shall be handed over")                                   \
    X(RESTART_ALL, NODES, "all processes fail at once")                                 \
    X(COORD_DOWN, COORDINATOR, "the coordinator is away")                               \
    X(COORD_FLAKY, COORDINATOR, "answers get lost, transactions are applied late")      \
    X(ROLLBACK, COORDINATOR, "the coordinator goes back to an older state")             \
    X(TOUCH, COORDINATOR, "somebody else raises a descriptor's version")                \
    X(MOVE, COORDINATOR, "a replica is to be elsewhere")                                \
    X(RESIZE, COORDINATOR, "a shard is to have more or fewer replicas")                 \
    X(SETTINGS, COORDINATOR, "min_in_sync or grant_ms change")                          \
    X(MODE, COORDINATOR, "the cluster's mode or max_lag changes")                       \
    X(CLIENT_CUT, CLIENTS, "a client and a node do not hear each other")                \
    X(CLIENT_DEAF, CLIENTS, "a node's answers do not reach a client")                   \
    X(CLIENT_RESET, CLIENTS, "a client's connections to a node are reset")

#define SIM_SITUATIONS(X)                                                                  \
    /* replication */                                                                      \
    X(APPEND_FENCED, "an append of an old epoch is refused")                               \
    X(APPEND_TO_CANDIDATE, "a candidate refuses an append without naming an epoch")        \
    X(APPEND_GAP, "a follower lacks an append's predecessor")                              \
    X(APPEND_GAP_AGAIN, "backing up takes more than one round")                            \
    X(APPEND_NEEDS_SEED, "a follower without a log asks for a seed")                       \
    X(APPEND_KNOWN, "an append brings nothing new")                                        \
    X(APPEND_OVERLAPS, "an append brings some entries that are there already")             \
    X(TAIL_CUT, "a conflicting tail is cut")                                               \
    X(TAIL_CUT_LONG, "... of several entries")                                             \
    X(TAIL_CUT_DURABLE, "... that was durable")                                            \
    X(TAIL_CUT_REQUEST, "... with a client's request in it")                               \
    X(TAIL_INHERITED, "a new primary commits entries of an earlier epoch")                 \
    X(ACK_STALE, "an acknowledgement of another epoch arrives")                            \
    X(GRANT_STALE, "a grant of another epoch arrives")                                     \
    X(GRANT_REFUSED, "a beacon is answered without a grant")                               \
    X(COMMIT_HELD, "a committed write waits for min_in_sync members")                      \
    X(COMMIT_RELEASED, "... and is answered when one has joined")                          \
    X(ENTRIES_FROM_FILES, "entries for a follower are read from segment files")            \
    X(SEED_DONE, "a replica is caught up by a seed")                                       \
    X(SEED_BROKEN, "a seed breaks off")                                                    \
    X(SEED_REFUSED, "a replica does not take a seed")                                      \
    X(SEED_ON, "a log that began with a seed seeds another")                               \
    X(SEED_TORN, "a start finds a seed that never ended")                                  \
    /* clients */                                                                          \
    X(WRITE_NOT_PRIMARY, "a write is refused by a replica that does not lead")             \
    X(WRITE_FEW, "a write is refused for want of members")                                 \
    X(WRITE_TAKING_OVER, "a write is refused during a takeover")                           \
    X(WRITE_HANDING_OVER, "a write is refused during a handoff")                           \
    X(WRITE_DUPLICATE, "a write that took effect is answered again")                       \
    X(WRITE_DUPLICATE_NEW_REIGN, "... by a later primary")                                 \
    X(WRITE_DUPLICATE_SEEDED, "... from a table that came with a seed")                    \
    X(WRITE_DUPLICATE_GHOST, "... long after the client was done")                         \
    X(WRITE_JOINS, "a retry waits for the entry that is under way")                        \
    X(WRITE_ABANDONED, "a primary that is replaced tells of unknown outcomes")             \
    X(WRITE_UNANSWERED, "a client never learns what became of a write")                    \
    X(WRITE_REFUSED_FOR_GOOD, "all attempts of a write were certainly refused")            \
    X(READ_BY_GRANTS, "a read by grants")                                                  \
    X(READ_BY_DESCRIPTOR, "a read by the descriptor")                                      \
    X(READ_DENIED, "the descriptor no longer shows the reader's epoch")                    \
    X(READ_WAITS, "a read comes during a takeover")                                        \
    X(SERVED_WITHOUT_COORDINATOR, "a write is acknowledged while the coordinator is away") \
    X(SERVED_WHILE_ROLLED_BACK, "... or shows the past")                                   \
    X(SERVED_WITH_FULL_DISK, "a read is answered by a node whose disk is full")            \
    /* elections */                                                                        \
    X(ELECT_FIRST, "a shard gets its first primary")                                       \
    X(ELECT_LEASE_GONE, "a candidate finds no lease")                                      \
    X(ELECT_LEASE_TAKEN, "a candidate takes another's lease")                              \
    X(ELECT_SUCCESSOR, "a successor stands because the primary handed over")               \
    X(ELECT_LATE, "a victory is noticed by the watch, or late")                            \
    X(ELECT_CONFLICT, "a candidate's transaction fails")                                   \
    X(ELECT_UNKNOWN, "the outcome of a candidacy is unknown")                              \
    X(ELECT_OVERTAKEN, "a candidate follows somebody who was faster")                      \
    X(ELECT_SELF, "a restarted process is elected after its own earlier one")              \
    X(ELECT_UNPUBLISHED, "an election ends a reign with an unpublished set change")        \
    X(DEPOSED_BY_FOLLOWER, "a primary learns from a refusal that it was replaced")         \
    X(DEPOSED_BY_PRIMARY, "... from the new primary")                                      \
    X(DEPOSED_BY_DESCRIPTOR, "... from the descriptor")                                    \
    X(DEPOSED_BY_DISK, "... or its disk failed")                                           \
    X(LEASE_RETAKEN, "a primary takes its lost lease again in the same epoch")             \
    /* the set */                                                                          \
    X(SET_JOINED, "a replica joins")                                                       \
    X(SET_REMOVED, "a member is removed")                                                  \
    X(SET_SWAPPED, "a node joins under another log id than before")                        \
    X(SET_SINGLE, "a set of one member")                                                   \
    X(SET_BELOW_MIN, "a set below min_in_sync")                                            \
    X(SET_UNKNOWN, "the outcome of a change of the set is unknown")                        \
    X(SET_CONFLICT, "a change of the set fails")                                           \
    X(SET_LATE, "a forgotten change of the set is applied after all")                      \
    X(ELECT_FORGOTTEN, "a forgotten candidacy is applied after all")                       \
    X(LATE_FAILED, "a forgotten transaction fails")                                        \
    X(REPLICA_ADDED, "the replication factor rises")                                       \
    X(REPLICA_DROPPED, "the replication factor falls")                                     \
    X(REPLICA_LEFT, "a replica sees that its node is no longer named")                     \
    X(GRANT_MS_RAISED, "grants become longer")                                             \
    X(GRANT_MS_LOWERED, "grants become shorter")                                           \
    /* mode async */                                                                       \
    X(MODE_ASYNC, "a shard goes over to mode async")                                       \
    X(MODE_SYNC, "... and back to sync")                                                   \
    X(ASYNC_ANSWERED_ALONE, "a write is answered that a member lacks")                     \
    X(ASYNC_HELD, "a committed write waits: a member lacks too much, or a grant")          \
    X(LOSSY_PUBLISHED, "an epoch may begin without acknowledged entries")                  \
    X(LOSSY_LOST_NOTHING, "... and has them all")                                          \
    X(LOSSY_LOST_ACKED, "... and lacks some")                                              \
    X(LOSS_NOTED, "what a replica gives up is noted")                                      \
    X(LOSS_NOT_NOTED, "... which fails at first")                                          \
    X(LOSS_CUT, "a tail is cut that another epoch began without")                          \
    X(LOSS_RESEEDED, "... or was committed, and the replica is seeded anew")               \
    /* handing over */                                                                     \
    X(HANDED_OVER, "a handoff that was asked for is done")                                 \
    X(HANDOFF_UNAVAILABLE, "nobody is able to take over")                                  \
    X(HANDOFF_LATE, "a handoff runs out of time")                                          \
    X(HANDOFF_BUSY, "a second handoff is asked for")                                       \
    X(HANDOFF_NOT_PRIMARY, "a handoff is asked of a replica that does not lead")           \
    X(REIGN_RETURNED, "a reign is given back")                                             \
    X(REIGN_RETURNED_FULL, "... while its primary's disk is full")                         \
    X(REIGN_TAKEN_UP, "a primary that gave its reign back is elected anew")                \
    X(LEFT_IN_ORDER, "a process stops, in no set any more")                                \
    /* disks */                                                                            \
    X(DISK_LOST_UNSYNCED, "a crash loses entries that were not durable")                   \
    X(DISK_TORN, "a start cuts bytes off the last segment")                                \
    X(DISK_DAMAGED, "a start finds damage below what was durable")                         \
    X(DISK_DISTRUSTED, "a start finds the mark of a failed sync")                          \
    X(DISK_FULL_WAITS, "a batch waits for space")                                          \
    X(DISK_FULL_GOES_ON, "... and is written when there is some")                          \
    X(DISK_SEGMENTS, "a journal of several segments is recovered")                         \
    X(DISK_READ_FAILED, "reading entries for a follower fails")                            \
    X(START_FAILED, "a process cannot start for its disk")                                 \
    /* the coordinator */                                                                  \
    X(SESSION_EXPIRED, "a session ends for want of a sign of life")                        \
    X(WATCH_RESYNC, "a watch begins anew")                                                 \
    X(PAST_REFUSED, "a replica sees that the coordinator shows the past")                  \
    X(PAST_NOTICED, "a node sees that the coordinator's revision fell")                    \
    X(PAST_OVER, "... and the present again")

#define X(name, ...) SIM_ROLE_##name,
enum sim_role { SIM_ROLES(X) SIM_ROLES_COUNT };
#undef X
#define X(name, ...) FAULT_##name,
enum fault { SIM_FAULTS(X) FAULTS_COUNT, FAULT_FIRST_EVENT = FAULT_KILL };
#undef X
#define X(name, ...) SIM_##name,
enum sim_situation { SIM_SITUATIONS(X) SIM_SITUATIONS_COUNT };
#undef X

struct sim_counts {
    uint64_t seeds, failed;
    uint64_t virtual_ms, events, steps, faults;
    uint64_t operations, acks, reads, duplicates, elections, crashes, seeds_sent, txns_unknown, lost_shards;
    uint64_t hash; /* of all traces: equal for equal seeds, whatever the number of jobs */
    uint64_t hits[FAULTS_COUNT][SIM_ROLES_COUNT];
    uint64_t situations[SIM_SITUATIONS_COUNT];
};

/* All but the hash, which is xored. */
void counts_add(struct sim_counts *to, const struct sim_counts *from);
/* Tables of all of it. */
void counts_print(const struct sim_counts *c);
/* Prints what was never reached or struck; false when there is any. */
bool counts_complete(const struct sim_counts *c);
const char *counts_fault_name(enum fault f);
/* Draws it in a seed at all, with which weight at most; see sim_faults.c. */
int counts_strikes(enum fault f);

#endif
