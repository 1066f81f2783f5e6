/* What the system says of this process, under the names that Prometheus' clients use. */
#ifndef OUTRIGGER_IO_PROCESS_H
#define OUTRIGGER_IO_PROCESS_H

#include "sidecar/io/metrics.h"

/* clang-format off */
#define PROCESS_METRICS(X, S)                                                                     \
    X(S, cpu_seconds_total, COUNTER_MS, "User and system CPU time spent")                         \
    X(S, resident_memory_bytes, GAUGE, "Resident memory")                                         \
    X(S, open_fds, GAUGE, "Open file descriptors")                                                \
    X(S, max_fds, GAUGE, "Most file descriptors that may be open")                                \
    X(S, start_time_seconds, GAUGE_MS, "When the process started, in seconds since 1970")
/* clang-format on */

METRICS_STRUCT(process_metrics, PROCESS_METRICS);

/* Reads /proc: some microseconds, and one a descriptor on kernels before 6.2. What cannot be read is 0. */
void process_metrics_read(struct process_metrics *m);
void process_metrics_print(const struct metrics_out *out);

#endif
