#include "sidecar/core/merge.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <stdio.h>
#include <stdlib.h>

static struct merge_hit hit(double score, const char *id)
{
    return (struct merge_hit){.score = score, .id = id, .id_bytes = (uint32_t)strlen(id)};
}

/* The ids in order, as one text. */
static const char *ids(const struct merge_top *top)
{
    static char text[256];

    text[0] = '\0';
    for (uint32_t i = 0; i < top->count; i++) {
        strncat(text, top->hits[i].id, top->hits[i].id_bytes);
        strcat(text, " ");
    }
    return text;
}

static bool add(struct merge_top *top, double score, const char *id, struct merge_hit *dropped)
{
    struct merge_hit h = hit(score, id);

    return merge_top_add(top, &h, dropped);
}

Test(merge, order_is_score_then_id_as_bytes)
{
    const struct merge_hit sorted[] = {hit(-1, "z"), hit(0, "A"),    hit(0, "AB"),
                                       hit(0, "B"),  hit(0, "\xC3"), hit(1, "A")};

    for (int i = 0; i < 6; i++) {
        for (int j = 0; j < 6; j++) {
            int order = merge_compare(&sorted[i], &sorted[j]);

            cr_assert(eq(int, (order > 0) - (order < 0), (i > j) - (i < j)), "%d and %d", i, j);
        }
    }
}

Test(merge, keeps_the_k_best_in_order)
{
    struct merge_hit hits[3];
    struct merge_top top = {.hits = hits, .k = 3};
    struct merge_hit dropped;

    cr_assert(add(&top, 5, "e", &dropped));
    cr_assert(zero(ptr, (void *)dropped.id));
    cr_assert(add(&top, 1, "a", NULL));
    cr_assert(add(&top, 3, "c", NULL));
    cr_assert(eq(str, (char *)ids(&top), "a c e "));
    cr_assert(not(add(&top, 6, "f", &dropped)));
    cr_assert(add(&top, 2, "b", &dropped));
    cr_assert(eq(str, (char *)dropped.id, "e"));
    cr_assert(eq(str, (char *)ids(&top), "a b c "));
}

Test(merge, a_tie_at_the_end_goes_to_the_smaller_id)
{
    struct merge_hit hits[1];
    struct merge_top top = {.hits = hits, .k = 1};
    struct merge_hit dropped;

    cr_assert(add(&top, 1, "m", NULL));
    cr_assert(not(add(&top, 1, "n", NULL)));
    cr_assert(add(&top, 1, "l", &dropped));
    cr_assert(eq(str, (char *)dropped.id, "m"));
}

Test(merge, an_id_is_kept_once_with_its_best_score)
{
    struct merge_hit hits[3];
    struct merge_top top = {.hits = hits, .k = 3};
    struct merge_hit dropped;

    cr_assert(add(&top, 2, "x", NULL));
    cr_assert(not(add(&top, 2, "x", NULL)));
    cr_assert(not(add(&top, 3, "x", NULL)));
    cr_assert(add(&top, 1, "a", NULL));
    cr_assert(add(&top, 0.5, "x", &dropped));
    cr_assert(dropped.score == 2);
    cr_assert(eq(str, (char *)ids(&top), "x a "));
    /* Also when the list is full and the same id stands before its end. */
    cr_assert(add(&top, 4, "z", NULL));
    cr_assert(add(&top, 0.7, "z", &dropped));
    cr_assert(dropped.score == 4);
    cr_assert(eq(str, (char *)ids(&top), "x z a "));
}

Test(merge, k_of_0_takes_nothing)
{
    struct merge_top top = {.hits = NULL, .k = 0};

    cr_assert(not(add(&top, 1, "a", NULL)));
}

static int by_order(const void *a, const void *b)
{
    return merge_compare(a, b);
}

/* Against sorting everything. */
Test(merge, same_as_sorting)
{
    enum { COUNT = 500, K = 37 };
    static char names[COUNT][8];
    struct merge_hit all[COUNT];
    struct merge_hit hits[K];
    struct merge_top top = {.hits = hits, .k = K};
    uint32_t state = 3;

    for (uint32_t i = 0; i < COUNT; i++) {
        state = state * 1664525U + 1013904223U;
        snprintf(names[i], sizeof names[i], "%u", i);
        all[i] = hit((state >> 16) % 50, names[i]);
        merge_top_add(&top, &all[i], NULL);
    }
    qsort(all, COUNT, sizeof all[0], by_order);
    cr_assert(eq(u32, top.count, K));
    for (int i = 0; i < K; i++) {
        cr_assert(zero(int, merge_compare(&all[i], &hits[i])));
    }
}
