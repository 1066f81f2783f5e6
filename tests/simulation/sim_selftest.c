/* check_linear.c against a search by the definition, on many small histories drawn at random: both must agree on each.
 *
 * The search is Wing and Gong's ("Testing and Verifying Concurrent Objects", Journal of Parallel and Distributed
 * Computing 17, 1993): take any operation that begins before all others that are left have ended, see whether the
 * register allows it, go on with the rest. */
#include "tests/simulation/sim.h"

#include <stdio.h>

enum { SELFTEST_HISTORIES = 300000, SELFTEST_OPS_MAX = 7, SELFTEST_TIMES = 12 };

/* `left`: operations not yet placed. A write that was never answered may stay out for ever. */
static bool search(const struct sim_seen *seen, size_t count, uint32_t left, uint64_t value)
{
    uint64_t first_end = UINT64_MAX;
    bool done = true;

    for (size_t i = 0; i < count; i++) {
        if ((left >> i & 1) != 0) {
            first_end = seen[i].end_us < first_end ? seen[i].end_us : first_end;
            done = done && seen[i].end_us == UINT64_MAX;
        }
    }
    if (done) {
        return true;
    }
    for (size_t i = 0; i < count; i++) {
        if ((left >> i & 1) == 0 || seen[i].begin_us > first_end || (!seen[i].write && seen[i].value != value)) {
            continue;
        }
        if (search(seen, count, left & ~(1U << i), seen[i].write ? seen[i].value : value)) {
            return true;
        }
    }
    return false;
}

static size_t draw(uint64_t *rng, struct sim_seen *seen)
{
    size_t count = 1 + fake_disk_random(rng) % SELFTEST_OPS_MAX;
    uint64_t written = 0;

    for (size_t i = 0; i < count; i++) {
        uint64_t begin = fake_disk_random(rng) % SELFTEST_TIMES;

        seen[i] = (struct sim_seen){.write = fake_disk_random(rng) % 2 == 0,
                                    .begin_us = begin,
                                    .end_us = begin + 1 + fake_disk_random(rng) % SELFTEST_TIMES};
        seen[i].value = seen[i].write ? ++written : 0;
        if (seen[i].write && fake_disk_random(rng) % 4 == 0) {
            seen[i].end_us = UINT64_MAX;
        }
    }
    for (size_t i = 0; i < count; i++) {
        seen[i].value = seen[i].write ? seen[i].value : fake_disk_random(rng) % (written + 1);
    }
    return count;
}

bool selftest(void)
{
    uint64_t rng = 1, fine = 0;

    for (int n = 0; n < SELFTEST_HISTORIES; n++) {
        struct sim_seen seen[SELFTEST_OPS_MAX];
        size_t count = draw(&rng, seen);
        bool expected = search(seen, count, (1U << count) - 1, 0);

        fine += expected;
        if (expected == (check_linear_history(seen, count) == 0)) {
            continue;
        }
        printf("history %d is %slinearizable, and the checker says otherwise:\n", n, expected ? "" : "not ");
        for (size_t i = 0; i < count; i++) {
            printf("  %s %" PRIu64 " from %" PRIu64 " to %" PRIu64 "\n", seen[i].write ? "write" : "read",
                   seen[i].value, seen[i].begin_us, seen[i].end_us);
        }
        return false;
    }
    printf("%d histories, %" PRIu64 " of them linearizable: the checker agrees with the search\n", SELFTEST_HISTORIES,
           fine);
    return fine > SELFTEST_HISTORIES / 10 && fine < SELFTEST_HISTORIES * 9 / 10;
}
