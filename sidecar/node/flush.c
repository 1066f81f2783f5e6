/* Group commit: at the end of each loop turn everything appended goes to the flusher's thread as one batch, unless one
 * is under way; then it goes when that is done. One fdatasync commits everything in flight. */
#include "sidecar/node/node_internal.h"

#include "sidecar/io/clock.h"
#include "sidecar/io/log.h"

#include <stdlib.h>

static void on_durable(void *data, otr_shard shard, uint64_t durable_index, uint64_t metas_durable)
{
    struct node *n = data;
    struct shard *s = node_shard(n, shard);

    if (s != NULL && !n->closing) {
        shard_durable(s, durable_index, metas_durable);
    }
}

static void fail_all(struct node *n, const struct otr_errmsg *msg)
{
    for (otr_shard i = 0; i < n->shards_top; i++) {
        struct shard *s = node_shard(n, i);
        if (s != NULL) {
            shard_feed(s, &(struct replica_event){.type = REPLICA_EV_LOG_FAILED});
        }
    }
    node_fatal(n, "the journal failed and is not to be trusted before it is read again: %s", msg->text);
}

static void disk_full(struct node *n, bool full)
{
    if (n->disk_full != full) {
        n->disk_full = full;
        handoff_brief_all(n);
    }
}

static void collect(struct node *n)
{
    struct otr_errmsg msg = {0};
    struct journal_batch *batch = flusher_collect(n->flusher);
    uint64_t bytes;
    int rv;

    if (batch == NULL) {
        return;
    }
    n->flushing = false;
    bytes = journal_batch_bytes(batch);
    rv = journal_flush_end(n->journal, batch, on_durable, n, &msg);
    if (rv == OTR_NOSPACE) {
        if (!n->disk_full) {
            log_error("", "the disk is full: writes are refused until there is room: %s", msg.text);
        }
        disk_full(n, true);
        n->flush_not_before_ms = clock_now_ms() + NODE_FULL_RETRY_MS; /* the tick wakes the loop */
        return;
    }
    if (rv != 0) {
        fail_all(n, &msg);
        return;
    }
    n->metrics.node.journal_flushes_total++;
    n->metrics.node.journal_flushed_bytes_total += bytes;
    metrics_observe_us(&n->metrics.node.journal_flush_seconds, flusher_took_ns(n->flusher) / 1000);
    if (n->disk_full) {
        log_info("", "the disk has room again");
        disk_full(n, false);
    }
}

static void on_flushed(uv_async_t *async)
{
    struct node *n = async->data;

    if (!n->shutting_down) {
        collect(n);
    }
}

static void notify(void *data)
{
    struct node *n = data;

    uv_async_send(&n->flushed);
}

void flush_turn(struct node *n)
{
    struct journal_batch *batch;

    if (n->flushing || n->closing || n->dying || (n->disk_full && clock_now_ms() < n->flush_not_before_ms)) {
        return;
    }
    batch = journal_flush_begin(n->journal);
    if (batch == NULL) {
        return;
    }
    n->flushing = true;
    flusher_submit(n->flusher, batch);
}

int flush_start(struct node *n, struct otr_errmsg *msg)
{
    int rv = uv_async_init(n->loop, &n->flushed, on_flushed);

    if (rv != 0) {
        otr_errmsg_set(msg, "uv_async_init: %s", uv_strerror(rv));
        return OTR_NOMEM;
    }
    n->flushed.data = n;
    n->handles_open++;
    return flusher_start(&n->flusher, notify, n, msg);
}

void flush_stop(struct node *n)
{
    struct journal_batch *batch;

    if (n->flusher == NULL) {
        return;
    }
    batch = flusher_stop(n->flusher); /* waits for the batch under way */
    n->flusher = NULL;
    if (batch != NULL) {
        (void)journal_flush_end(n->journal, batch, on_durable, n, NULL);
    }
}
