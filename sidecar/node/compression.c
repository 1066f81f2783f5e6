/* Compressing for peers: whether (the cluster's setting, what the peer understands, and compress_gate.h, which decides
 * by figures measured here), and counting what it gains and costs.
 *
 * Where it runs: a batch of up to COMPRESSION_INLINE_BYTES on the loop, for some 40 us; a larger one on the thread pool
 * (links.c; seeds are read there anyway). Compressing takes 1.1 ms a MB, which times two replicas and all shards would
 * hold up beacons. Restoring is done on the loop: 0.4 ms a MB, no more than checking and appending the entries, in
 * their order, takes anyway; COMPRESS_BYTES_MAX bounds it. `make bench-compress` measures both. */
#include "sidecar/node/node_internal.h"

#include "sidecar/io/clock.h"

#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

enum { SMALL_BYTES = 512 /* rather a header than a batch */ };

/* --- how busy the loop is ----------------------------------------------------------------------------------------- */

void compression_start(struct node *n, enum node_compression mode)
{
    n->compression.mode = mode;
    /* Fails where libuv cannot tell: then the loop never seems to wait, and compression stays off. */
    (void)uv_loop_configure(n->loop, UV_METRICS_IDLE_TIME);
}

/* For how long this thread was ready to run and had no processor, so far. Such a loop waits for nothing, though libuv
 * takes the time between an event and its return from epoll for idle. 0 where the kernel does not tell. */
static uint64_t starved_ns(void)
{
    unsigned long long ran;
    unsigned long long delayed = 0;
    char text[96];
    ssize_t bytes = 0;
    int fd = open("/proc/thread-self/schedstat", O_RDONLY | O_CLOEXEC);

    if (fd >= 0) {
        bytes = read(fd, text, sizeof text - 1);
        close(fd);
    }
    text[bytes > 0 ? bytes : 0] = '\0';
    return sscanf(text, "%llu %llu", &ran, &delayed) == 2 ? delayed : 0;
}

void compression_tick(struct node *n)
{
    uint64_t now_ns = clock_now_ns();
    uint64_t waited_ns = uv_metrics_idle_time(n->loop);
    uint64_t starving_ns = starved_ns();
    uint64_t passed_ns = now_ns - n->compression.looked_ns;

    if (n->compression.looked_ns != 0 && passed_ns > 0) {
        uint64_t idle_ns = waited_ns - n->compression.waited_ns;
        uint64_t delay_ns = starving_ns - n->compression.starved_ns;
        uint64_t free_ns = idle_ns > delay_ns ? idle_ns - delay_ns : 0;
        uint64_t busy = free_ns < passed_ns ? (passed_ns - free_ns) * 1000 / passed_ns : 0;

        /* Averaged over the last half second or so. */
        n->compression.loop_busy_permille = (uint32_t)(((uint64_t)n->compression.loop_busy_permille * 3 + busy) / 4);
    }
    n->compression.looked_ns = now_ns;
    n->compression.waited_ns = waited_ns;
    n->compression.starved_ns = starving_ns;
}

/* --- sending ------------------------------------------------------------------------------------------------------ */

static struct compress_pool *pool_of(struct node *n)
{
    if (n->compression.pool == NULL) {
        n->compression.pool = compress_pool_new();
    }
    return n->compression.pool;
}

void compression_stop(struct node *n)
{
    compress_pool_free(n->compression.pool);
    n->compression.pool = NULL;
}

static bool allowed(struct node *n, const struct node_peer *p)
{
    return n->compression.mode != NODE_COMPRESSION_NEVER &&
           topology_config(n->topology)->compression == TOPOLOGY_COMPRESSION_ZSTD && p->link != NULL &&
           (peer_link_encodings(p->link) & COMPRESS_UNDERSTOOD) != 0;
}

bool compression_on(struct node *n, const struct node_peer *p)
{
    return allowed(n, p) && (n->compression.mode == NODE_COMPRESSION_ALWAYS ||
                             (p->gate.verdict == COMPRESS_PAYS && p->gate.window_begun));
}

static enum compress_verdict ask(struct node *n, struct node_peer *p)
{
    struct compress_view view = {.now_ms = clock_now_ms(), .loop_busy_permille = n->compression.loop_busy_permille};
    enum compress_verdict verdict;

    peer_link_pace(p->link, &view.sent_bytes, &view.blocked_ns);
    verdict = compress_gate_ask(&p->gate, &view);
    return n->compression.mode == NODE_COMPRESSION_ALWAYS ? COMPRESS_PAYS : verdict;
}

bool compression_wanted(struct node *n, otr_node to, size_t bytes, struct compression_job *job)
{
    struct node_metrics *m = &n->metrics.node;
    struct node_peer *p = &n->peers[to];

    *job = (struct compression_job){.plain_bytes = bytes};
    if (bytes < SMALL_BYTES || bytes > COMPRESS_BYTES_MAX || !allowed(n, p)) {
        return false;
    }
    switch (ask(n, p)) {
    case COMPRESS_NET_FAST:
        m->compress_skipped_fast_total++;
        return false;
    case COMPRESS_CPU_BUSY:
        m->compress_skipped_busy_total++;
        return false;
    case COMPRESS_POOR:
        m->compress_skipped_poor_total++;
        return false;
    default:
        break;
    }
    job->pool = pool_of(n);
    job->allowed = peer_link_encodings(p->link);
    return job->pool != NULL;
}

void compression_run_records(struct compression_job *job, const uint8_t *data, size_t bytes)
{
    uint64_t start_ns = clock_now_ns();
    uint64_t start_cpu_ns = clock_thread_cpu_ns();

    (void)compress_records(job->pool, job->allowed, data, bytes, &job->out);
    job->plain_bytes = bytes;
    job->ns = clock_now_ns() - start_ns;
    job->cpu_ns = clock_thread_cpu_ns() - start_cpu_ns;
}

void compression_run_points(struct compression_job *job, const uint8_t *data, size_t bytes)
{
    uint64_t start_ns = clock_now_ns();
    uint64_t start_cpu_ns = clock_thread_cpu_ns();

    (void)compress_points(job->pool, job->allowed, data, bytes, &job->out);
    job->plain_bytes = bytes;
    job->ns = clock_now_ns() - start_ns;
    job->cpu_ns = clock_thread_cpu_ns() - start_cpu_ns;
}

void compression_ran(struct node *n, otr_node to, const struct compression_job *job)
{
    struct node_metrics *m = &n->metrics.node;
    size_t packed_bytes = job->out.data != NULL ? job->out.bytes : job->plain_bytes;

    metrics_observe_us(&m->compress_seconds, job->ns / 1000);
    n->compression.cpu_ns += job->cpu_ns;
    m->compress_input_bytes_total += job->plain_bytes;
    m->compress_output_bytes_total += packed_bytes;
    m->compress_useless_total += job->out.data == NULL;
    compress_gate_learn(&n->peers[to].gate, clock_now_ms(), job->plain_bytes, packed_bytes, job->ns);
}

/* --- receiving ---------------------------------------------------------------------------------------------------- */

int compression_restore(struct node *n, uint32_t encoding, const uint8_t *data, size_t bytes, uint8_t **out,
                        size_t *out_bytes, struct otr_errmsg *msg)
{
    struct compress_pool *pool = pool_of(n);
    uint64_t start_ns = clock_now_ns();
    uint64_t start_cpu_ns = clock_thread_cpu_ns();
    int rv = pool != NULL ? compress_restore(pool, encoding, data, bytes, out, out_bytes) : OTR_NOMEM;

    if (rv != 0) {
        otr_errmsg_set(msg, "%zu bytes in encoding %u cannot be restored: %s", bytes, encoding, otr_strerror(rv));
        return rv;
    }
    metrics_observe_since_ns(&n->metrics.node.decompress_seconds, start_ns);
    n->compression.restore_cpu_ns += clock_thread_cpu_ns() - start_cpu_ns;
    n->metrics.node.decompress_input_bytes_total += bytes;
    n->metrics.node.decompress_output_bytes_total += *out_bytes;
    return 0;
}
