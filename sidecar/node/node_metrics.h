/* The node's metrics: one table a kind of object; struct and /metrics follow (sidecar/io/metrics.h). Counters and
 * histograms are counted where things happen, on the loop thread; the members under "read when asked" are filled in by
 * node_metrics_print. docs/operations.md tells operators what they mean. */
#ifndef OUTRIGGER_NODE_NODE_METRICS_H
#define OUTRIGGER_NODE_NODE_METRICS_H

#include "sidecar/io/metrics.h"

struct node;

/* clang-format off */
/* outrigger_... */
#define NODE_METRICS(X, S)                                                                                             \
    X(S, write_commit_seconds, HISTOGRAM, "From a client's write at its primary until the in-sync set holds it")       \
    X(S, write_apply_seconds, HISTOGRAM, "From the commit of a client's write until this node's engine has it")        \
    X(S, writes_apply_pending_total, COUNTER, "Writes acknowledged before the engine had them, after apply_wait")      \
    X(S, get_seconds, HISTOGRAM, "Points read by id out of one replica")                                               \
    X(S, search_seconds, HISTOGRAM, "Verified searches of one shard")                                                  \
    X(S, exact_scans_total, COUNTER, "Searches that scanned all live points of a shard")                               \
    X(S, takeover_seconds, HISTOGRAM, "From standing for election until serving as primary")                           \
    X(S, engine_write_seconds, HISTOGRAM, "Calls that write to the engine")                                            \
    X(S, engine_search_seconds, HISTOGRAM, "Searches asked of the engine")                                             \
    X(S, engine_errors_total, COUNTER, "Calls of the engine that failed")                                              \
    X(S, engine_rebuilds_total, COUNTER, "Times a shard's part of the engine was built anew because it refused an entry") \
    X(S, engine_hits_total, COUNTER, "Hits that the engine returned")                                                  \
    X(S, engine_hits_dropped_total, COUNTER, "Hits of the engine that the log says are dead or doubled")               \
    X(S, journal_flushes_total, COUNTER, "Batches written and synced")                                                 \
    X(S, journal_flushed_bytes_total, COUNTER, "Bytes written and synced")                                             \
    X(S, journal_flush_seconds, HISTOGRAM, "Writing and syncing one batch")                                            \
    X(S, journal_compacted_segments_total, COUNTER, "Journal files that compaction replaced")                          \
    X(S, journal_compaction_read_bytes_total, COUNTER, "Bytes that compaction read")                                   \
    X(S, journal_compaction_copied_bytes_total, COUNTER, "Bytes that compaction wrote")                                \
    X(S, journal_compaction_seconds_total, COUNTER_MS, "Time that compaction spent reading and writing")               \
    X(S, journal_compaction_failures_total, COUNTER, "Compactions that came to nothing and are tried again")           \
    X(S, scrubbed_bytes_total, COUNTER, "Bytes of sealed segments read again")                                            \
    X(S, scrub_passes_total, COUNTER, "Times that all sealed segments were read again")                                \
    X(S, coordinator_sessions_lost_total, COUNTER, "Sessions that the coordinator ended")                              \
    X(S, compress_seconds, HISTOGRAM, "Compressing one batch of entries or points for a peer")                         \
    X(S, compress_cpu_seconds_total, COUNTER_MS, "Processor time spent compressing for peers")                         \
    X(S, compress_input_bytes_total, COUNTER, "Bytes of entries and points before they were compressed")               \
    X(S, compress_output_bytes_total, COUNTER, "The same bytes as they were sent")                                     \
    X(S, compress_useless_total, COUNTER, "Batches compressed in vain: sent plain, for they hardly shrank")            \
    X(S, compress_skipped_fast_total, COUNTER, "Batches sent plain because the network was faster than compressing")   \
    X(S, compress_skipped_busy_total, COUNTER, "Batches sent plain because the processor was the bound")               \
    X(S, compress_skipped_poor_total, COUNTER, "Batches sent plain because those before hardly shrank")                \
    X(S, decompress_seconds, HISTOGRAM, "Restoring one batch of entries or points of a peer")                          \
    X(S, decompress_cpu_seconds_total, COUNTER_MS, "Processor time spent restoring what peers compressed")             \
    X(S, decompress_input_bytes_total, COUNTER, "Compressed bytes received from peers")                                \
    X(S, decompress_output_bytes_total, COUNTER, "The same bytes restored")                                            \
    /* read when asked */                                                                                              \
    X(S, ready, GAUGE, "1 while /readyz says so")                                                                      \
    X(S, engine_up, GAUGE, "1 while the engine answers")                                                               \
    X(S, coordinator_reachable, GAUGE, "1 while the coordinator can be reached")                                       \
    X(S, coordinator_session_open, GAUGE, "1 while this node has a session")                                           \
    X(S, compression_enabled, GAUGE, "1 while the cluster's settings allow compression")                               \
    X(S, loop_busy_ratio, GAUGE_RATIO, "Share of the last half second in which the loop had no spare time")            \
    X(S, disk_full, GAUGE, "1 while writes are refused for want of space")                                             \
    X(S, disk_free_bytes, GAUGE, "Free where the journal is, as of the last second")                                   \
    X(S, journal_pending_bytes, GAUGE, "Appended and not yet durable")                                                 \
    X(S, held_write_bytes, GAUGE, "Writes held for a moment because their shard has no primary")                       \
    X(S, peer_incoming_bytes, GAUGE, "Calls of peers that are half read or not yet answered")                          \
    X(S, journal_tail_bytes, GAUGE, "Newest part of the journal that is kept in memory")                               \
    X(S, journal_segments, GAUGE, "Segment files")                                                                     \
    X(S, journal_bytes, GAUGE, "Disk space that the journal takes")                                                    \
    X(S, journal_old_live_bytes, GAUGE, "Of what has left the log: needed, by estimate")                               \
    X(S, journal_old_dead_bytes, GAUGE, "Of what has left the log: not needed, and to be given back")

/* outrigger_shard_..., of each replica here */
#define SHARD_METRICS(X, S)                                                                                            \
    X(S, writes_total, COUNTER, "Writes of clients acknowledged by this node as primary, duplicates included")         \
    X(S, duplicate_writes_total, COUNTER, "Writes whose request id had been seen before")                              \
    X(S, elections_won_total, COUNTER, "Times this replica became primary")                                            \
    X(S, fenced_appends_total, COUNTER, "Appends refused because they came from an old epoch")                         \
    X(S, digests_compared_total, COUNTER, "Comparisons of this replica with its primary at equal index")               \
    X(S, digest_mismatches_total, COUNTER, "Of them: different")                                                      \
    X(S, ranges_repaired_total, COUNTER, "Ranges of hashes replaced by the primary's")                                 \
    X(S, repair_bytes_total, COUNTER, "Bytes of points received for that")                                             \
    X(S, damage_found_total, COUNTER, "Times that something here did not read as it was written")                      \
    /* read when asked */                                                                                              \
    X(S, damaged, GAUGE, "1 from then on until this replica was seeded anew")                                         \
    X(S, reseeding, GAUGE, "1 while this replica is being seeded")                                                    \
    X(S, role, GAUGE, "1 idle, 2 follower, 3 candidate, 4 taking over, 5 primary")                                     \
    X(S, primary, GAUGE, "1 while this replica is the primary and serves")                                             \
    X(S, in_sync, GAUGE, "1 while this replica is in the published in-sync set")                                       \
    X(S, writable, GAUGE, "1 while this primary has enough in-sync members for writes")                                \
    X(S, epoch, GAUGE, "Epoch that this replica follows")                                                              \
    X(S, in_sync_replicas, GAUGE, "Members of the newest in-sync set known here")                                      \
    X(S, min_in_sync_replicas, GAUGE, "Members needed for writes")                                                     \
    X(S, first_index, GAUGE, "Oldest entry that the log still has: who lacks older ones is seeded")                    \
    X(S, last_index, GAUGE, "Newest entry in the log")                                                                 \
    X(S, durable_index, GAUGE, "Newest entry on disk")                                                                 \
    X(S, committed_index, GAUGE, "Newest entry known to be committed")                                                 \
    X(S, stored_index, GAUGE, "Newest entry in the store")                                                             \
    X(S, applied_index, GAUGE, "Newest entry in the engine; 0 while the engine is fed everything again")               \
    X(S, uncommitted_entries, GAUGE, "Entries in the log that are not committed as far as known here")                 \
    X(S, engine_lag_entries, GAUGE, "Entries in the store that the engine lacks")                                      \
    X(S, engine_lag_seconds, GAUGE_MS, "Age of the oldest entry in the store that the engine lacks")                    \
    X(S, staleness_seconds, GAUGE_MS, "Age of the newest proof that what is committed here is current")                \
    X(S, points, GAUGE, "Live points")

/* outrigger_replica_..., of each other replica of a shard led here */
#define REPLICA_METRICS(X, S)                                                                                          \
    X(S, lag_entries, GAUGE, "Entries of the primary's log that this replica has not acknowledged")                    \
    X(S, lag_seconds, GAUGE_MS, "Age of the oldest of them, as the primary has seen it")                               \
    X(S, counted, GAUGE, "1 while commits wait for this replica")                                                      \
    X(S, seeding, GAUGE, "1 while this replica is sent all live points")

/* outrigger_peer_... */
#define PEER_METRICS(X, S)                                                                                             \
    X(S, messages_sent_total, COUNTER, "Replication messages and beacons handed to the link")                          \
    X(S, messages_refused_total, COUNTER, "Messages that the link did not take: down, or its queue full")              \
    X(S, messages_received_total, COUNTER, "Replication messages and beacons received")                                \
    X(S, entry_bytes_sent_total, COUNTER, "Bytes of log entries handed to the link")                                   \
    X(S, links_lost_total, COUNTER, "Times the link went down")                                                        \
    /* read when asked */                                                                                              \
    X(S, up, GAUGE, "1 while the link is up")                                                                          \
    X(S, calls, GAUGE, "Calls of the peer that wait for its answer")                                                   \
    X(S, calls_queued_bytes, GAUGE, "Of them, bytes that are not yet written")                                         \
    X(S, queued_bytes, GAUGE, "Queued for the peer and not yet written")                                               \
    X(S, compressing, GAUGE, "1 while batches for the peer are compressed")                                            \
    X(S, compress_ratio, GAUGE_RATIO, "Bytes before by bytes after, of recent batches compressed for it; 0: none")     \
    X(S, blocked_seconds, GAUGE_MS, "For how long this connection took no more bytes although there were some")

/* outrigger_peer_tls_..., where peers use TLS; read when asked */
#define PEER_TLS_METRICS(X, S)                                                                                         \
    X(S, handshakes_total, COUNTER, "TLS handshakes with peers that were completed")                                   \
    X(S, handshakes_failed_total, COUNTER, "TLS handshakes with peers, or their calls, refused by either side")        \
    X(S, reloads_total, COUNTER, "Times that changed certificate files were put in force")                             \
    X(S, reloads_failed_total, COUNTER, "Times that changed certificate files were refused")                           \
    X(S, certificate_expires_seconds, GAUGE, "End of this node's certificate, in seconds since 1970")

/* outrigger_coordinator_..., by the call's kind */
#define COORDINATOR_METRICS(X, S)                                                                                      \
    X(S, call_seconds, HISTOGRAM, "Calls of the coordinator that were answered, or failed after they began")           \
    X(S, failures_total, COUNTER, "Calls of the coordinator that failed; a lost race (conflict) is none")

/* outrigger_..., by the reason */
#define REFUSAL_METRICS(X, S)                                                                                          \
    X(S, writes_refused_total, COUNTER, "Client writes at this node's replicas that were answered with an error")
/* clang-format on */

METRICS_STRUCT(node_metrics, NODE_METRICS);
METRICS_STRUCT(shard_metrics, SHARD_METRICS);
METRICS_STRUCT(replica_metrics, REPLICA_METRICS);
METRICS_STRUCT(peer_metrics, PEER_METRICS);
METRICS_STRUCT(peer_tls_metrics, PEER_TLS_METRICS);
METRICS_STRUCT(coordinator_metrics, COORDINATOR_METRICS);
METRICS_STRUCT(refusal_metrics, REFUSAL_METRICS);

enum node_call { NODE_CALL_GET, NODE_CALL_TXN, NODE_CALL_SESSION, NODE_CALL_SERVICE, NODE_CALLS };

/* Why a write was answered with an error; NODE_REFUSED_UNKNOWN: it may have taken effect. */
enum node_refusal {
    NODE_REFUSED_NOT_PRIMARY,
    NODE_REFUSED_UNAVAILABLE,
    NODE_REFUSED_FEW_IN_SYNC,
    NODE_REFUSED_BUSY,
    NODE_REFUSED_NO_SPACE,
    NODE_REFUSED_NOT_FOUND,
    NODE_REFUSED_INVALID,
    NODE_REFUSED_UNKNOWN,
    NODE_REFUSED_OTHER,
    NODE_REFUSALS
};

struct node_metrics_all {
    struct node_metrics node;
    struct coordinator_metrics coordinator[NODE_CALLS];
    struct refusal_metrics refused[NODE_REFUSALS];
};

/* A client's write was answered with this error. */
void node_metrics_refused(struct node_metrics_all *m, int status);

/* Everything above, in Prometheus' text format. OTR_NOMEM. */
int node_metrics_print(struct node *n, const struct metrics_out *out);

#endif
