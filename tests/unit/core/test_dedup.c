#include "sidecar/core/dedup.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>

static struct otr_request_id id(uint32_t n)
{
    struct otr_request_id request = {{0}};

    memcpy(request.bytes, &n, sizeof n);
    request.bytes[15] = 1;
    return request;
}

static void add(struct dedup *d, uint32_t n, uint64_t index, uint64_t time_ms)
{
    cr_assert(eq(int, dedup_reserve(d, 1), 0));
    dedup_add(d, &(struct dedup_entry){.request_id = id(n), .position = {1, index}, .time_ms = time_ms});
}

static uint64_t index_of(const struct dedup *d, uint32_t n)
{
    struct otr_request_id request = id(n);
    const struct dedup_entry *e = dedup_find(d, &request);

    return e == NULL ? 0 : e->position.index;
}

Test(dedup, empty_table_knows_nothing)
{
    struct dedup d = {0};

    cr_assert(eq(u64, index_of(&d, 1), 0));
    dedup_cut(&d, 1);
    dedup_outcome(&d, 1, 2);
    dedup_prune(&d, 10, 10, 0, 0);
    dedup_close(&d);
}

Test(dedup, keeps_what_was_added_while_it_grows)
{
    struct dedup d = {0};

    for (uint32_t n = 1; n <= 5000; n++) {
        add(&d, n, n * 2, n);
    }
    for (uint32_t n = 1; n <= 5000; n++) {
        cr_assert(eq(u64, index_of(&d, n), n * 2));
    }
    cr_assert(eq(u64, index_of(&d, 5001), 0));
    dedup_close(&d);
}

Test(dedup, an_id_of_zeros_is_not_kept)
{
    struct dedup d = {0};
    struct otr_request_id none = {{0}};

    cr_assert(eq(int, dedup_reserve(&d, 1), 0));
    dedup_add(&d, &(struct dedup_entry){.request_id = none, .position = {1, 1}});
    cr_assert(eq(sz, d.count, 0));
    cr_assert(eq(ptr, (void *)dedup_find(&d, &none), NULL));
    dedup_close(&d);
}

Test(dedup, outcome_belongs_to_its_entry)
{
    struct dedup d = {0};
    struct otr_request_id request = id(2);

    add(&d, 1, 10, 0);
    add(&d, 2, 20, 0);
    add(&d, 3, 30, 0);
    dedup_outcome(&d, 20, 7);
    dedup_outcome(&d, 21, 8);
    cr_assert(dedup_find(&d, &request)->has_outcome);
    cr_assert(eq(u32, dedup_find(&d, &request)->outcome, 7));
    request = id(3);
    cr_assert(not(dedup_find(&d, &request)->has_outcome));
    dedup_close(&d);
}

Test(dedup, a_cut_forgets_the_tail)
{
    struct dedup d = {0};

    for (uint32_t n = 1; n <= 100; n++) {
        add(&d, n, n, 0);
    }
    dedup_cut(&d, 51);
    for (uint32_t n = 1; n <= 100; n++) {
        cr_assert(eq(u64, index_of(&d, n), n <= 50 ? n : 0));
    }
    add(&d, 70, 51, 0);
    cr_assert(eq(u64, index_of(&d, 70), 51));
    dedup_close(&d);
}

/* PROTOCOL Q1: at least so long and at least so many; what is not committed stays. */
Test(dedup, prune_needs_age_number_and_commit)
{
    struct dedup d = {0};

    for (uint32_t n = 1; n <= 100; n++) {
        add(&d, n, n, n * 10);
    }
    dedup_prune(&d, 100, 1000, 500, 80);
    cr_assert(eq(sz, d.count, 80), "the number is kept");
    dedup_prune(&d, 100, 1000, 500, 10);
    cr_assert(eq(sz, dedup_at(&d, 0)->position.index, 50), "and what is young enough");
    dedup_prune(&d, 60, 100000, 500, 10);
    cr_assert(eq(sz, dedup_at(&d, 0)->position.index, 61), "and what is not committed");
    cr_assert(eq(u64, index_of(&d, 60), 0));
    cr_assert(eq(u64, index_of(&d, 61), 61));
    dedup_close(&d);
}

/* An id that comes again after its window stands for the newer entry, also when the older one leaves. */
Test(dedup, a_second_entry_of_an_id_takes_its_place)
{
    struct dedup d = {0};

    add(&d, 1, 1, 0);
    add(&d, 2, 2, 0);
    add(&d, 1, 3, 1000);
    cr_assert(eq(u64, index_of(&d, 1), 3));
    dedup_prune(&d, 3, 1000, 10, 1);
    cr_assert(eq(sz, d.count, 1));
    cr_assert(eq(u64, index_of(&d, 1), 3));
    dedup_clear(&d);
    cr_assert(eq(u64, index_of(&d, 1), 0));
    dedup_close(&d);
}

/* Long mixed use against a plain array. */
Test(dedup, agrees_with_a_model)
{
    static uint64_t model[512];
    struct dedup d = {0};
    uint64_t rng = 1, next = 1, first = 1;

    for (int i = 0; i < 20000; i++) {
        rng = rng * 6364136223846793005 + 1442695040888963407;
        if ((rng >> 33) % 10 < 7) {
            uint32_t n = (uint32_t)((rng >> 40) % 512);

            if (model[n] == 0) {
                add(&d, n + 1, next, next);
                model[n] = next++;
            }
        } else if ((rng >> 33) % 10 < 9) {
            dedup_prune(&d, next, next, (rng >> 40) % 200, 0);
            first = d.count == 0 ? next : dedup_at(&d, 0)->position.index;
        } else {
            uint64_t from = next > 5 ? next - (rng >> 40) % 5 : next;

            dedup_cut(&d, from);
            next = from > 0 ? from : 1;
            first = first > next ? next : first;
        }
        for (size_t k = 0; k < 512; k++) {
            if (model[k] != 0 && (model[k] < first || model[k] >= next)) {
                model[k] = 0;
            }
        }
        cr_assert(eq(u64, index_of(&d, (uint32_t)((rng >> 20) % 512) + 1), model[(rng >> 20) % 512]), "step %d", i);
    }
    dedup_close(&d);
}
