/* Who is let in, and how the limit follows the delay. */
#include "sidecar/core/admission.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <signal.h>

enum { MIN = 8, MAX = 100, DELAY_MS = 500 };

static const struct admission_limits limits = {
    .count_min = MIN, .count_max = MAX, .bytes_max = 1000, .delay_max_ms = DELAY_MS};

static struct admission a;
static uint64_t now_ms;

static void open_admission(void)
{
    now_ms = 1000000;
    admission_init(&a, &limits, now_ms);
}

TestSuite(admission, .init = open_admission);

/* Lets in as many as come; how many were. */
static unsigned fill(unsigned wanted)
{
    unsigned in = 0;

    while (in < wanted && admission_begin(&a, 1, now_ms) == ADMISSION_OK) {
        in++;
    }
    return in;
}

static void empty(void)
{
    while (a.count > 0) {
        admission_end(&a, 1);
    }
}

/* Windows in which the quickest answer took delay_ms, as long as something is under way. */
static void windows(unsigned count, uint64_t delay_ms)
{
    for (unsigned i = 0; i < count; i++) {
        admission_sample(&a, delay_ms, now_ms);
        admission_sample(&a, delay_ms + 700, now_ms);
        now_ms += ADMISSION_WINDOW_MS;
    }
    (void)admission_ask(&a, 0, now_ms);
}

Test(admission, lets_in_up_to_the_count)
{
    cr_assert(eq(uint, fill(MAX + 10), MAX));
    cr_assert(eq(int, admission_begin(&a, 1, now_ms), ADMISSION_COUNT));
    cr_assert(eq(ulong, a.refused[ADMISSION_COUNT], 2));
    admission_end(&a, 1);
    cr_assert(eq(int, admission_begin(&a, 1, now_ms), ADMISSION_OK));
}

Test(admission, lets_in_up_to_the_bytes)
{
    cr_assert(eq(int, admission_begin(&a, 600, now_ms), ADMISSION_OK));
    cr_assert(eq(int, admission_begin(&a, 401, now_ms), ADMISSION_BYTES));
    cr_assert(eq(int, admission_begin(&a, 400, now_ms), ADMISSION_OK));
    admission_end(&a, 600);
    cr_assert(eq(int, admission_begin(&a, 600, now_ms), ADMISSION_OK));
    cr_assert(eq(ulong, a.refused[ADMISSION_BYTES], 1));
}

Test(admission, one_alone_may_be_larger)
{
    cr_assert(eq(int, admission_begin(&a, 5000, now_ms), ADMISSION_OK));
    cr_assert(eq(int, admission_begin(&a, 1, now_ms), ADMISSION_BYTES));
    admission_end(&a, 5000);
    cr_assert(eq(int, admission_begin(&a, 1, now_ms), ADMISSION_OK));
}

Test(admission, asking_counts_nothing)
{
    fill(MAX);
    cr_assert(eq(int, admission_ask(&a, 1, now_ms), ADMISSION_COUNT));
    cr_assert(eq(ulong, a.refused[ADMISSION_COUNT], 0));
    cr_assert(eq(uint, a.count, MAX));
}

Test(admission, a_standing_queue_lowers_the_limit)
{
    cr_assert(eq(uint, fill(80), 80));
    windows(2, DELAY_MS + 1);
    cr_assert(eq(uint, a.limit, 60)); /* three quarters of what was under way, not of what might have been */
    cr_assert(eq(int, admission_begin(&a, 1, now_ms), ADMISSION_DELAY));
    cr_assert(eq(ulong, a.refused[ADMISSION_DELAY], 1));
    cr_assert(eq(uint, a.delay_ms, DELAY_MS + 1));
}

Test(admission, the_limit_stays_above_the_minimum)
{
    fill(80);
    windows(50, 20000);
    cr_assert(eq(uint, a.limit, MIN));
    empty();
    cr_assert(eq(uint, fill(MAX), MIN));
}

Test(admission, one_slow_window_is_no_overload)
{
    /* A failover: nothing for a while, then everything late, then quick again. */
    fill(80);
    now_ms += 3000;
    (void)admission_ask(&a, 0, now_ms);
    cr_assert(eq(uint, a.limit, MAX));
    windows(1, 3000);
    windows(1, 5);
    windows(1, 3000);
    cr_assert(eq(uint, a.limit, MAX));
}

Test(admission, quick_answers_beside_slow_ones_are_no_overload)
{
    fill(80);
    for (unsigned i = 0; i < 20; i++) {
        admission_sample(&a, 4000, now_ms);
        admission_sample(&a, 3, now_ms + 1);
        now_ms += ADMISSION_WINDOW_MS;
    }
    cr_assert(eq(int, admission_ask(&a, 0, now_ms), ADMISSION_OK));
    cr_assert(eq(uint, a.limit, MAX));
}

Test(admission, holds_between_half_the_delay_and_all_of_it)
{
    fill(80);
    windows(2, DELAY_MS + 1);
    windows(20, DELAY_MS - 50);
    cr_assert(eq(uint, a.limit, 60));
}

Test(admission, grows_again_when_answers_are_quick)
{
    fill(80);
    windows(50, 20000);
    windows(20, 10);
    cr_assert(eq(uint, a.limit, MAX));
}

Test(admission, grows_again_with_nothing_to_do)
{
    fill(80);
    windows(50, 20000);
    empty();
    now_ms += 2000;
    cr_assert(eq(int, admission_ask(&a, 0, now_ms), ADMISSION_OK));
    cr_assert(eq(uint, a.limit, MAX));
    cr_assert(eq(uint, a.delay_ms, 0));
}

Test(admission, silence_with_something_under_way_changes_nothing)
{
    fill(80);
    windows(2, DELAY_MS + 1);
    now_ms += 60000;
    cr_assert(eq(int, admission_ask(&a, 0, now_ms), ADMISSION_DELAY));
    cr_assert(eq(uint, a.limit, 60));
}

/* One shard that stands still cannot keep the others out, and the others may use all that it leaves. */
Test(admission, one_of_many_leaves_room_to_the_others)
{
    static const struct admission_limits wide = {
        .count_min = 1, .count_max = 1000, .bytes_max = 1 << 20, .delay_max_ms = DELAY_MS};
    uint32_t own[3] = {0};

    admission_init(&a, &wide, now_ms);
    for (int shard = 0; shard < 3; shard++) {
        while (admission_begin(&a, 0, now_ms) == ADMISSION_OK) {
            if (!admission_share(&a, own[shard], 0)) {
                admission_end(&a, 0);
                break;
            }
            own[shard]++;
        }
    }
    cr_assert(ge(uint, own[0], 745));
    cr_assert(le(uint, own[0], 760));
    cr_assert(ge(uint, own[1], 180));
    cr_assert(ge(uint, own[2], 40));
    cr_assert(eq(ulong, a.refused[ADMISSION_SHARE], 3));
}

Test(admission, few_are_nobodys_share)
{
    static const struct admission_limits narrow = {
        .count_min = 1, .count_max = ADMISSION_SHARE_MIN, .bytes_max = 1 << 20, .delay_max_ms = DELAY_MS};

    admission_init(&a, &narrow, now_ms);
    for (uint32_t own = 0; own < ADMISSION_SHARE_MIN; own++) {
        cr_assert(eq(int, admission_begin(&a, 0, now_ms), ADMISSION_OK));
        cr_assert(admission_share(&a, own, 0));
    }
}

/* The same by size: a few large requests to a shard that stands still do not keep out small ones to the others. */
Test(admission, one_of_many_leaves_bytes_to_the_others)
{
    enum { MB = 1 << 20 };
    static const struct admission_limits wide = {
        .count_min = 1, .count_max = 1000, .bytes_max = 64 * MB, .delay_max_ms = DELAY_MS};
    uint64_t own = 0;

    admission_init(&a, &wide, now_ms);
    while (admission_begin(&a, 2 * MB, now_ms) == ADMISSION_OK && admission_share(&a, a.count - 1, own)) {
        own += 2 * MB;
    }
    cr_assert(eq(u64, a.refused[ADMISSION_SHARE], 1));
    cr_assert(zero(u64, a.refused[ADMISSION_BYTES]));
    cr_assert(eq(u64, own, 48 * MB)); /* three quarters */
    admission_end(&a, 2 * MB);
    cr_assert(eq(int, admission_begin(&a, 16 * MB, now_ms), ADMISSION_OK));
    cr_assert(admission_share(&a, 0, 0)); /* another shard's, which fills the room */
    /* Alone with one that is larger than everything, and without any bound. */
    admission_init(&a, &wide, now_ms);
    cr_assert(eq(int, admission_begin(&a, 100 * MB, now_ms), ADMISSION_OK));
    cr_assert(admission_share(&a, 0, 0));
    admission_init(&a, &(struct admission_limits){1, 10, UINT64_MAX, DELAY_MS}, now_ms);
    cr_assert(eq(int, admission_begin(&a, UINT64_MAX / 2, now_ms), ADMISSION_OK));
    cr_assert(admission_share(&a, 5, UINT64_MAX / 2));
}

Test(admission, ending_what_never_began_is_a_bug, .signal = SIGABRT)
{
    admission_end(&a, 0);
}

/* A server that works off 200 requests a second while 1000 come: what it answers is never much later than wanted, and
 * nothing of its work is lost. */
Test(admission, keeps_the_delay_of_an_overloaded_server)
{
    static const struct admission_limits wide = {
        .count_min = MIN, .count_max = 10000, .bytes_max = 1 << 20, .delay_max_ms = DELAY_MS};
    static uint64_t came_ms[1 << 16];
    unsigned head = 0;
    unsigned tail = 0;
    unsigned answered = 0;
    uint64_t worst_ms = 0;

    admission_init(&a, &wide, now_ms);
    for (unsigned ms = 0; ms < 20000; ms++, now_ms++) {
        if (admission_begin(&a, 1, now_ms) == ADMISSION_OK) {
            came_ms[tail++] = now_ms;
        }
        if (ms % 5 == 0 && head < tail) {
            uint64_t delay_ms = now_ms - came_ms[head++];

            admission_end(&a, 1);
            admission_sample(&a, delay_ms, now_ms);
            answered++;
            worst_ms = ms > 8000 && delay_ms > worst_ms ? delay_ms : worst_ms;
        }
    }
    cr_assert(ge(uint, answered, 3990)); /* never idle */
    cr_assert(le(ulong, worst_ms, 2 * DELAY_MS));
}
