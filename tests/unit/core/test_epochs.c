#include "sidecar/core/epochs.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <signal.h>

/* Entries 1..4 of epoch 1, 5..6 of epoch 3, 7..9 of epoch 6. */
static struct epochs three(void)
{
    struct epochs e = {0};

    cr_assert(eq(int, epochs_reserve(&e, 3), 0));
    epochs_append(&e, 1, 1);
    epochs_append(&e, 1, 2);
    epochs_append(&e, 3, 5);
    epochs_append(&e, 6, 7);
    return e;
}

Test(epochs, each_index_has_the_epoch_of_the_boundary_before_it)
{
    static const uint64_t want[] = {0, 1, 1, 1, 1, 3, 3, 6, 6, 6};
    struct epochs e = three();

    for (uint64_t i = 0; i < sizeof want / sizeof want[0]; i++) {
        cr_assert(eq(u64, epochs_at(&e, i), want[i]), "index %lu", (unsigned long)i);
    }
    epochs_close(&e);
}

Test(epochs, below_a_base_nothing_is_known)
{
    struct epochs e = {0};

    cr_assert(eq(int, epochs_reserve(&e, 1), 0));
    epochs_append(&e, 4, 100);
    cr_assert(eq(u64, epochs_at(&e, 99), 0));
    cr_assert(eq(u64, epochs_at(&e, 100), 4));
    cr_assert(eq(u64, epochs_floor(&e, (struct otr_position){9, 99}, 120), 0));
    epochs_close(&e);
}

/* The hint of a refusal (PROTOCOL A1): both index and epoch bound it. */
Test(epochs, floor_is_bounded_by_index_and_epoch)
{
    static const struct {
        struct otr_position p;
        uint64_t want;
    } cases[] = {
        {{6, 9}, 9}, {{6, 20}, 9}, {{9, 8}, 8}, {{5, 9}, 6}, {{3, 9}, 6}, {{2, 9}, 4},
        {{1, 3}, 3}, {{0, 9}, 0},  {{6, 0}, 0}, {{3, 5}, 5}, {{6, 6}, 6},
    };
    struct epochs e = three();

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        cr_assert(eq(u64, epochs_floor(&e, cases[i].p, 9), cases[i].want), "case %zu", i);
    }
    epochs_close(&e);
}

Test(epochs, a_cut_takes_the_boundaries_behind_it)
{
    struct epochs e = three();

    epochs_cut(&e, 7);
    cr_assert(eq(sz, e.count, 2));
    epochs_cut(&e, 6);
    cr_assert(eq(sz, e.count, 2));
    epochs_append(&e, 8, 6);
    cr_assert(eq(u64, epochs_at(&e, 5), 3));
    cr_assert(eq(u64, epochs_at(&e, 6), 8));
    epochs_cut(&e, 1);
    cr_assert(eq(sz, e.count, 0));
    epochs_close(&e);
}

Test(epochs, grow_beyond_their_first_room)
{
    struct epochs e = {0};

    for (uint64_t i = 1; i <= 100; i++) {
        cr_assert(eq(int, epochs_reserve(&e, 1), 0));
        epochs_append(&e, i, i * 10);
    }
    for (uint64_t i = 1; i <= 100; i++) {
        cr_assert(eq(u64, epochs_at(&e, i * 10 + 9), i));
    }
    epochs_close(&e);
}

Test(epochs, never_fall, .signal = SIGABRT)
{
    struct epochs e = three();

    epochs_append(&e, 2, 10);
}
