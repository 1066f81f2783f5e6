#include "sidecar/core/compress_gate.h"

enum {
    WINDOW_MS = 200,
    BLOCKED_ON_PERMILLE = 200,
    BLOCKED_OFF_PERMILLE = 33,
    BUSY_ON_PERMILLE = 850,
    BUSY_OFF_PERMILLE = 700,
    RETRY_MS_MIN = 1000,
    RETRY_MS_MAX = 60000,
};

/* What is assumed of data never seen: a guess at embeddings, only to begin with. */
static const double cost_guess = 2.0, ratio_guess = 1.25;
static const double ratio_least = 1.1, gain_least = 1.5;
static const double weight = 0.2; /* of the newest batch in an average */

static void window_begin(struct compress_gate *g, const struct compress_view *view)
{
    g->window_begun = true;
    g->window_ms = view->now_ms;
    g->window_bytes = view->sent_bytes;
    g->window_blocked_ns = view->blocked_ns;
}

static void window_end(struct compress_gate *g, const struct compress_view *view)
{
    uint64_t ms = view->now_ms - g->window_ms;
    uint64_t blocked_ns = view->blocked_ns - g->window_blocked_ns;
    uint64_t bytes = view->sent_bytes - g->window_bytes;
    uint64_t permille = blocked_ns / 1000 / ms;

    g->blocked = permille >= (g->blocked ? BLOCKED_OFF_PERMILLE : BLOCKED_ON_PERMILLE);
    if (permille >= BLOCKED_ON_PERMILLE) { /* Seldom blocked, it says little about what the link can do. */
        g->wire_ns_a_byte = (double)blocked_ns / (double)(bytes > 0 ? bytes : 1);
    }
    window_begin(g, view);
}

/* Time saved on the wire against time spent. */
static bool gains(const struct compress_gate *g)
{
    double cost = g->cost_ns_a_byte > 0 ? g->cost_ns_a_byte : cost_guess;
    /* Data that was poor is judged as if unknown: else it would never be tried again. */
    double ratio = g->ratio >= ratio_least ? g->ratio : ratio_guess;

    return g->wire_ns_a_byte * (1 - 1 / ratio) > gain_least * cost;
}

static enum compress_verdict decide(const struct compress_gate *g, uint64_t now_ms)
{
    if (!g->blocked || !gains(g)) {
        return COMPRESS_NET_FAST;
    }
    if (g->busy) {
        return COMPRESS_CPU_BUSY;
    }
    return now_ms < g->retry_ms ? COMPRESS_POOR : COMPRESS_PAYS;
}

enum compress_verdict compress_gate_ask(struct compress_gate *g, const struct compress_view *view)
{
    if (!g->window_begun || view->sent_bytes < g->window_bytes || view->blocked_ns < g->window_blocked_ns ||
        view->now_ms < g->window_ms) {
        window_begin(g, view);
    } else if (view->now_ms - g->window_ms >= WINDOW_MS) {
        window_end(g, view);
    }
    g->busy = view->loop_busy_permille >= (g->busy ? BUSY_OFF_PERMILLE : BUSY_ON_PERMILLE);
    g->verdict = decide(g, view->now_ms);
    return g->verdict;
}

static void average(double *of, double newest)
{
    *of = *of > 0 ? *of + weight * (newest - *of) : newest;
}

void compress_gate_learn(struct compress_gate *g, uint64_t now_ms, size_t plain_bytes, size_t packed_bytes, uint64_t ns)
{
    if (plain_bytes == 0 || packed_bytes == 0) {
        return;
    }
    average(&g->cost_ns_a_byte, (double)ns / (double)plain_bytes);
    average(&g->ratio, (double)plain_bytes / (double)packed_bytes);
    if (g->ratio >= ratio_least) {
        g->retry_after_ms = 0;
        return;
    }
    g->retry_after_ms = g->retry_after_ms == 0                  ? RETRY_MS_MIN
                        : g->retry_after_ms >= RETRY_MS_MAX / 2 ? RETRY_MS_MAX
                                                                : g->retry_after_ms * 2;
    g->retry_ms = now_ms + g->retry_after_ms;
}
