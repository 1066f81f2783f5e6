/* Whether the next batch for one peer is worth compressing: a decision, from figures that the caller measures.
 * Compression trades processor time for bytes, so it pays only where bytes are what one waits for. Pure; no clock.
 *
 * It is on when all of this holds:
 *   - the connection was blocked for a fifth of the last window: the socket took no more, so the network is the bound
 *     (once on, it stays on while that is a thirtieth: compressing itself unblocks it);
 *   - the time on the wire that a batch is likely to save is one and a half times what compressing it costs, both as
 *     measured. This rules out loopback and fast networks, where a blocked socket only means a busy receiver;
 *   - the loop is less than 85 % busy: then the processor is the bound, and the other end's loop, which restores, will
 *     hardly be idle either (once off for that reason, until it is below 70 %);
 *   - recent batches shrank to less than 1/1.1. Data that does not is tried again now and then: after one second, then
 *     twice as long each time, at most a minute. */
#ifndef OUTRIGGER_CORE_COMPRESS_GATE_H
#define OUTRIGGER_CORE_COMPRESS_GATE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum compress_verdict {
    COMPRESS_PAYS,
    COMPRESS_NET_FAST, /* the network takes all at once, or faster than compressing */
    COMPRESS_CPU_BUSY,
    COMPRESS_POOR, /* the data hardly shrinks */
    COMPRESS_VERDICTS
};

struct compress_gate { /* zeroed is new */
    /* The window under way began here. */
    uint64_t window_ms;
    uint64_t window_bytes, window_blocked_ns;
    bool window_begun;
    /* Of the last whole window. */
    bool blocked;          /* for long enough */
    double wire_ns_a_byte; /* when it was the bound last */
    bool busy;
    /* Of recent batches. */
    double cost_ns_a_byte; /* 0: never measured */
    double ratio;          /* 0: never measured */
    uint64_t retry_ms;     /* POOR until then */
    uint32_t retry_after_ms;
    enum compress_verdict verdict; /* the last */
};

struct compress_view {
    uint64_t now_ms;
    uint64_t sent_bytes; /* that the connection took so far */
    uint64_t blocked_ns; /* for which it took none, while there were some, so far */
    uint32_t loop_busy_permille;
};

/* A batch is about to be sent. A new connection's figures begin at 0 again. */
enum compress_verdict compress_gate_ask(struct compress_gate *g, const struct compress_view *view);
/* One was compressed, to as much as packed_bytes (the same as plain_bytes: it did not get smaller). */
void compress_gate_learn(struct compress_gate *g, uint64_t now_ms, size_t plain_bytes, size_t packed_bytes,
                         uint64_t ns);

#endif
