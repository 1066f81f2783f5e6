/* When compressing pays: given figures, expected verdicts. */
#include "sidecar/core/compress_gate.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>

/* A connection and a loop as the gate sees them. */
struct world {
    struct compress_gate gate;
    struct compress_view view;
};

/* Lets `ms` pass, in which the link took so many bytes a second and was blocked for so many thousandths of the time;
 * asked all the while. Returns the last verdict. */
static enum compress_verdict pass(struct world *w, uint64_t ms, uint64_t bytes_a_second, uint64_t blocked_permille)
{
    enum compress_verdict verdict = COMPRESS_VERDICTS;

    for (uint64_t i = 0; i < ms; i += 10) {
        w->view.now_ms += 10;
        w->view.sent_bytes += bytes_a_second / 100;
        w->view.blocked_ns += blocked_permille * 10000;
        verdict = compress_gate_ask(&w->gate, &w->view);
    }
    return verdict;
}

/* A batch of 1 MB whose compressing takes 1.2 ms. */
static void batch(struct world *w, double ratio)
{
    compress_gate_learn(&w->gate, w->view.now_ms, 1000000, (size_t)(1000000 / ratio), 1200000);
}

enum { MBIT_100 = 12500000 };

static struct world slow_link(void)
{
    struct world w = {.view = {.now_ms = 5000, .loop_busy_permille = 200}};

    cr_assert(eq(int, (int)pass(&w, 500, MBIT_100, 950), (int)COMPRESS_PAYS));
    batch(&w, 1.28);
    return w;
}

Test(compress_gate, off_at_first_and_while_nothing_waits)
{
    struct world w = {.view = {.now_ms = 5000}};

    cr_assert(eq(int, (int)compress_gate_ask(&w.gate, &w.view), (int)COMPRESS_NET_FAST));
    cr_assert(eq(int, (int)pass(&w, 10000, MBIT_100, 0), (int)COMPRESS_NET_FAST));
    cr_assert(eq(int, (int)pass(&w, 10000, MBIT_100, 150), (int)COMPRESS_NET_FAST));
}

Test(compress_gate, on_over_a_slow_link)
{
    struct world w = slow_link();

    cr_assert(eq(int, (int)pass(&w, 5000, MBIT_100, 950), (int)COMPRESS_PAYS));
}

/* Loopback: 1.5 GB/s even while it is blocked. Waiting for it is waiting for the receiver, and no less for fewer bytes.
 */
Test(compress_gate, off_where_the_network_is_faster_than_compressing)
{
    struct world w = {.view = {.now_ms = 5000}};

    cr_assert(eq(int, (int)pass(&w, 5000, 1500000000, 900), (int)COMPRESS_NET_FAST));
    /* 10 Gbit/s: 0.8 ns a byte, of which a fifth may be saved. */
    cr_assert(eq(int, (int)pass(&w, 5000, 1250000000, 990), (int)COMPRESS_NET_FAST));
}

/* The measured cost decides: a slow processor gives up on a link that a fast one would help. */
Test(compress_gate, dear_compressing_needs_a_slower_link)
{
    struct world w = slow_link();

    cr_assert(eq(int, (int)pass(&w, 500, 2 * MBIT_100, 950), (int)COMPRESS_PAYS)); /* 38 ns a byte, 8 of them saved */
    for (int i = 0; i < 30; i++) {
        compress_gate_learn(&w.gate, w.view.now_ms, 1000000, 780000, 9000000);
    }
    cr_assert(eq(int, (int)pass(&w, 500, 2 * MBIT_100, 950), (int)COMPRESS_NET_FAST));
    cr_assert(eq(int, (int)pass(&w, 500, MBIT_100 / 4, 950), (int)COMPRESS_PAYS));
}

/* Compressing unblocks the link. Were it then off at once, it would be on again at once. */
Test(compress_gate, stays_on_while_it_helps)
{
    struct world w = slow_link();

    cr_assert(eq(int, (int)pass(&w, 2000, MBIT_100, 100), (int)COMPRESS_PAYS));
    cr_assert(eq(int, (int)pass(&w, 2000, MBIT_100 / 50, 20), (int)COMPRESS_NET_FAST));
    cr_assert(eq(int, (int)pass(&w, 2000, MBIT_100, 100), (int)COMPRESS_NET_FAST));
}

Test(compress_gate, off_while_the_processor_is_the_bound)
{
    struct world w = slow_link();

    w.view.loop_busy_permille = 900;
    cr_assert(eq(int, (int)pass(&w, 10, MBIT_100, 950), (int)COMPRESS_CPU_BUSY));
    w.view.loop_busy_permille = 750; /* less, but it was without compressing */
    cr_assert(eq(int, (int)pass(&w, 1000, MBIT_100, 950), (int)COMPRESS_CPU_BUSY));
    w.view.loop_busy_permille = 600;
    cr_assert(eq(int, (int)pass(&w, 10, MBIT_100, 950), (int)COMPRESS_PAYS));
    w.view.loop_busy_permille = 840;
    cr_assert(eq(int, (int)pass(&w, 1000, MBIT_100, 950), (int)COMPRESS_PAYS));
}

/* How long it stays off from now, in ms. */
static uint64_t off_for(struct world *w)
{
    uint64_t began = w->view.now_ms;

    while (pass(w, 10, MBIT_100, 950) == COMPRESS_POOR) {
        cr_assert(lt(u64, w->view.now_ms - began, 200000));
    }
    return w->view.now_ms - began;
}

Test(compress_gate, poor_data_is_tried_again_ever_more_rarely)
{
    static const uint64_t expected_ms[] = {1000, 2000, 4000, 8000, 16000, 32000, 60000, 60000};
    struct world w = {.view = {.now_ms = 5000}};

    cr_assert(eq(int, (int)pass(&w, 500, MBIT_100, 950), (int)COMPRESS_PAYS));
    for (size_t i = 0; i < sizeof expected_ms / sizeof expected_ms[0]; i++) {
        batch(&w, 1.0);
        cr_assert(eq(u64, off_for(&w), expected_ms[i]));
        cr_assert(eq(int, (int)w.gate.verdict, (int)COMPRESS_PAYS));
    }
    /* It takes a while until the average believes in better data; then all is forgotten. */
    for (int i = 0; i < 20; i++) {
        batch(&w, 1.3);
    }
    cr_assert(eq(int, (int)pass(&w, 100000, MBIT_100, 950), (int)COMPRESS_PAYS));
    for (int i = 0; i < 20 && w.gate.verdict == COMPRESS_PAYS; i++) {
        batch(&w, 1.0);
        (void)pass(&w, 10, MBIT_100, 950);
    }
    cr_assert(eq(u64, off_for(&w) + 10, 1000));
}

/* One bad batch among good ones changes nothing. */
Test(compress_gate, one_poor_batch_is_forgiven)
{
    struct world w = slow_link();

    for (int i = 0; i < 5; i++) {
        batch(&w, 1.28);
    }
    batch(&w, 1.0);
    cr_assert(eq(int, (int)pass(&w, 10, MBIT_100, 950), (int)COMPRESS_PAYS));
}

/* A new connection counts from 0: no window spans two of them. */
Test(compress_gate, figures_that_begin_again)
{
    struct world w = slow_link();

    w.view.sent_bytes = 0;
    w.view.blocked_ns = 0;
    cr_assert(eq(int, (int)pass(&w, 10, MBIT_100, 950), (int)COMPRESS_PAYS));
    cr_assert(eq(int, (int)pass(&w, 3000, MBIT_100, 0), (int)COMPRESS_NET_FAST));
    compress_gate_learn(&w.gate, w.view.now_ms, 0, 0, 0);
    compress_gate_learn(&w.gate, w.view.now_ms, 10, 0, 5);
}

/* A link so slow that in a whole window it took nothing. */
Test(compress_gate, a_link_that_takes_nothing)
{
    struct world w = {.view = {.now_ms = 5000}};

    cr_assert(eq(int, (int)pass(&w, 500, 0, 1000), (int)COMPRESS_PAYS));
}
