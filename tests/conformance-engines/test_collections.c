/* Collections: made once, dropped, made anew; what is asked of one that does not exist. */
#include "tests/conformance-engines/world.h"

#include <criterion/new/assert.h>

static const float X[3] = {1, 0, 0};

static struct result r;

/* Making twice is fine as long as the wish is the same; a dropped collection comes back empty, with any dimension. */
CASE(collections_are_made_once_and_anew)
{
    static const float five[5] = {1, 2, 3, 4, 5};
    struct otr_point p3 = point("x", X, 3, NULL);
    struct otr_point p5 = point("y", five, 5, NULL);

    cr_assert(zero(int, make(w, "c", 3, OTR_METRIC_COSINE)));
    cr_assert(zero(int, upsert(w, "c", &p3, 1, NULL)));
    cr_assert(zero(int, make(w, "c", 3, OTR_METRIC_COSINE)));
    cr_assert(eq(u64, count(w, "c"), 1));
    cr_assert(eq(int, make(w, "c", 4, OTR_METRIC_COSINE), OTR_EXISTS));
    cr_assert(eq(int, make(w, "c", 3, OTR_METRIC_EUCLIDEAN), OTR_EXISTS));
    cr_assert(eq(u64, count(w, "c"), 1));

    cr_assert(zero(int, drop(w, "c")));
    cr_assert(zero(int, drop(w, "c")));
    cr_assert(zero(int, make(w, "c", 5, OTR_METRIC_EUCLIDEAN)));
    cr_assert(eq(u64, count(w, "c"), 0));
    cr_assert(zero(int, upsert(w, "c", &p5, 1, NULL)));
    cr_assert(zero(int, search(w, "c", five, 5, 5, &r)));
    cr_assert(eq(sz, r.hits_count, 1));
    cr_assert(eq(str, r.ids[0], "y"));
}

CASE(a_missing_collection_is_not_found)
{
    struct otr_point p = point("x", X, 3, NULL);

    cr_assert(eq(int, upsert(w, "none", &p, 1, &r), OTR_NOTFOUND));
    cr_assert(eq(int, erase(w, "none", &p, 1, &r), OTR_NOTFOUND));
    cr_assert(eq(int, search(w, "none", X, 3, 1, &r), OTR_NOTFOUND));
    cr_assert(zero(int, start_count(w, &r, "none")));
    AWAIT(w, r.calls_count == 1);
    cr_assert(eq(int, r.status, OTR_NOTFOUND));
    cr_assert(zero(int, drop(w, "none")));
    cr_assert(is_up(w), "a refusal is no death");
}

/* Names go into paths and files: they may look like anything, and none is taken for another. */
CASE(odd_collection_names_survive)
{
    static char longest[OTR_ENGINE_COLLECTION_MAX + 1];
    const char *names[] = {"products__3", "Products__3", "a/b", "..", ".", "%41", "A", "\xc3\xa4?#", "points", longest};
    struct otr_point p = point("x", X, 3, NULL);

    memset(longest, 'n', OTR_ENGINE_COLLECTION_MAX);
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        cr_assert(zero(int, make(w, names[i], 3, OTR_METRIC_COSINE)), "%s", names[i]);
    }
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        cr_assert(eq(u64, count(w, names[i]), 0), "%s", names[i]);
        cr_assert(zero(int, upsert(w, names[i], &p, 1, NULL)));
        cr_assert(eq(u64, count(w, names[i]), 1));
        cr_assert(zero(int, drop(w, names[i])));
    }
}

/* Calls that can be seen to be wrong fail at once, and their callbacks never fire. */
CASE(impossible_calls_are_refused_at_once)
{
    static const float two[2] = {1, 2};
    static char long_name[OTR_ENGINE_COLLECTION_MAX + 2];
    struct otr_point mixed[] = {point("a", X, 3, NULL), point("b", two, 2, NULL)};
    struct otr_point empty_id = point("", X, 3, NULL);

    memset(long_name, 'n', OTR_ENGINE_COLLECTION_MAX + 1);
    cr_assert(zero(int, make(w, "c", 3, OTR_METRIC_COSINE)));
    cr_assert(eq(int, start_upsert(w, &r, "c", mixed, 2), OTR_INVALID));
    cr_assert(eq(int, start_upsert(w, &r, "c", &empty_id, 1), OTR_INVALID));
    cr_assert(eq(int, start_erase(w, &r, "c", &empty_id, 1), OTR_INVALID));
    cr_assert(eq(int, start_search(w, &r, "c", X, 3, 0), OTR_INVALID));
    cr_assert(eq(int, start_make(w, &r, long_name, 3, OTR_METRIC_COSINE), OTR_INVALID));
    cr_assert(eq(int, start_make(w, &r, "", 3, OTR_METRIC_COSINE), OTR_INVALID));
    cr_assert(eq(int, start_make(w, &r, "d", 3, (enum otr_metric)99), OTR_INVALID));
    world_pass(w, 50);
    cr_assert(eq(u32, r.calls_count, 0));
    cr_assert(eq(u64, count(w, "c"), 0));
}
