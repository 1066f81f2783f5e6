/* Answers come from outside: whatever they hold, the worst is an error. */
#include "engines/ruvector/ruvector_codec.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <math.h>
#include <stdlib.h>

static struct otr_errmsg msg;

/* Two hits, "a" at 0.5 and "bc" at 1.5. */
static const uint8_t hits_good[] = {
    'O', 'T', 'R', 'V', 1, 0, 4,    0,    2,   0,   0,   0, 0, 0, 0, 0, /* header */
    0,   0,   0,   0,   0, 0, 0xe0, 0x3f,                               /* 0.5 */
    0,   0,   0,   0,   0, 0, 0xf8, 0x3f,                               /* 1.5 */
    1,   0,   0,   0,   2, 0, 0,    0,    'a', 'b', 'c',
};

Test(ruvector_codec, hits_are_read)
{
    struct otr_engine_hit *hits = NULL;
    size_t hits_count = 0;

    cr_assert(zero(int, ruvector_codec_hits(hits_good, sizeof hits_good, &hits, &hits_count, &msg)));
    cr_assert(eq(sz, hits_count, 2));
    cr_assert(eq(dbl, hits[1].score, 1.5));
    cr_assert(eq(u32, hits[1].id_bytes, 2));
    cr_assert(zero(int, memcmp(hits[1].id, "bc", 2)));
    free(hits);
}

/* Every byte cut off, added or changed: an error or some hits that lie within the answer, never anything else. */
Test(ruvector_codec, damaged_hits_are_refused_or_harmless)
{
    struct otr_engine_hit *hits;
    size_t hits_count;

    for (size_t bytes = 0; bytes < sizeof hits_good; bytes++) {
        uint8_t *copy = malloc(bytes + 1);

        memcpy(copy, hits_good, bytes);
        cr_assert(eq(int, ruvector_codec_hits(copy, bytes, &hits, &hits_count, &msg), OTR_INVALID));
        free(copy);
    }
    for (size_t at = 0; at < sizeof hits_good; at++) {
        for (unsigned value = 0; value < 256; value += 15) {
            uint8_t *copy = malloc(sizeof hits_good);

            memcpy(copy, hits_good, sizeof hits_good);
            copy[at] = (uint8_t)value;
            if (ruvector_codec_hits(copy, sizeof hits_good, &hits, &hits_count, &msg) == 0) {
                cr_assert(le(sz, hits_count, 2));
                for (size_t i = 0; i < hits_count; i++) {
                    cr_assert(not(isnan(hits[i].score)));
                    cr_assert(le(ptr, (void *)(hits[i].id + hits[i].id_bytes), (void *)(copy + sizeof hits_good)));
                }
                free(hits);
            }
            free(copy);
        }
    }
}

Test(ruvector_codec, longer_than_it_says_is_refused)
{
    uint8_t longer[sizeof hits_good + 1] = {0};
    struct otr_engine_hit *hits;
    size_t hits_count;

    memcpy(longer, hits_good, sizeof hits_good);
    cr_assert(eq(int, ruvector_codec_hits(longer, sizeof longer, &hits, &hits_count, &msg), OTR_INVALID));
}

Test(ruvector_codec, an_answer_without_a_body_is_refused)
{
    struct otr_engine_hit *hits;
    size_t hits_count;

    cr_assert(eq(int, ruvector_codec_hits(NULL, 0, &hits, &hits_count, &msg), OTR_INVALID));
}

Test(ruvector_codec, options_are_hnsw_or_nothing)
{
    static const char *const bad[] = {
        "", "[]", "{\"hsnw\":{}}", "{\"hnsw\":1}", "{\"hnsw\":{}} x", "{\"hnsw\":{},\"hnsw\":{}}"};
    char *hnsw;

    cr_assert(zero(int, ruvector_codec_options(NULL, &hnsw, &msg)));
    cr_assert_null(hnsw);
    cr_assert(zero(int, ruvector_codec_options("{}", &hnsw, &msg)));
    cr_assert_null(hnsw);
    cr_assert(zero(int, ruvector_codec_options(" {\"hnsw\": {\"m\": 8}} ", &hnsw, &msg)));
    cr_assert(eq(str, hnsw, "{\"m\":8}"));
    free(hnsw);
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        cr_assert(eq(int, ruvector_codec_options(bad[i], &hnsw, &msg), OTR_INVALID), "%s", bad[i]);
        cr_assert_null(hnsw);
    }
}

Test(ruvector_codec, health_is_believed_only_when_whole)
{
    static const char good[] = "{\"status\":\"healthy\",\"data_id\":\"d\",\"boot_id\":\"b\",\"kept\":true}";
    static const char *const bad[] = {
        "",
        "null",
        "[]",
        "{\"status\":1}",
        "{\"status\":\"starting\",\"data_id\":null,\"boot_id\":\"b\"}",
        "{\"status\":\"healthy\"}",
        "{\"status\":\"healthy\",\"data_id\":\"\",\"boot_id\":\"b\"}",
        "{\"status\":\"healthy\",\"data_id\":7,\"boot_id\":\"b\"}",
        "{\"status\":\"healthy\",\"data_id\":\"d\",\"boot_id\":"
        "\"0123456789012345678901234567890123456789012345678901234567890123\"}",
    };
    struct otr_engine_status status = {.data_id = "old"};

    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        cr_assert(eq(int, ruvector_codec_health(bad[i], strlen(bad[i]), &status, &msg), OTR_INVALID), "%s", bad[i]);
        cr_assert(eq(str, status.data_id, "old"));
    }
    cr_assert(zero(int, ruvector_codec_health(good, strlen(good), &status, &msg)));
    cr_assert(eq(str, status.data_id, "d"));
    cr_assert(eq(str, status.boot_id, "b"));
}

Test(ruvector_codec, collection_info_is_believed_only_when_whole)
{
    static const char good[] = "{\"dimension\":3,\"metric\":\"Manhattan\",\"count\":7}";
    static const char *const bad[] = {
        "{}",
        "{\"dimension\":3,\"metric\":\"Manhattan\"}",
        "{\"dimension\":3,\"metric\":\"manhattan\",\"count\":7}",
        "{\"dimension\":-3,\"metric\":\"Manhattan\",\"count\":7}",
        "{\"dimension\":1e99,\"metric\":\"Manhattan\",\"count\":7}",
        "{\"dimension\":3,\"metric\":\"Manhattan\",\"count\":0.5}",
        "{\"dimension\":\"3\",\"metric\":\"Manhattan\",\"count\":7}",
    };
    struct ruvector_collection_info info;

    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        cr_assert(eq(int, ruvector_codec_info(bad[i], strlen(bad[i]), &info, &msg), OTR_INVALID), "%s", bad[i]);
    }
    cr_assert(zero(int, ruvector_codec_info(good, strlen(good), &info, &msg)));
    cr_assert(eq(u32, info.dimension, 3));
    cr_assert(eq(int, info.metric, OTR_METRIC_MANHATTAN));
    cr_assert(eq(u64, info.count, 7));
}

Test(ruvector_codec, error_texts_are_printable_and_cut)
{
    char text[12];

    ruvector_codec_error_text("{\"error\":\"no\\nsuch thing at all\",\"status\":404}", 46, text, sizeof text);
    cr_assert(eq(str, text, "no?such thi"));
    ruvector_codec_error_text("\x1b[31m\xff", 6, text, sizeof text);
    cr_assert(eq(str, text, "?[31m?"));
    ruvector_codec_error_text("", 0, text, sizeof text);
    cr_assert(eq(str, text, ""));
}

Test(ruvector_codec, paths_are_encoded)
{
    char *url = ruvector_codec_url("http://h:1", "a/b..__\xc3\xa4", "/points");

    cr_assert(eq(str, url, "http://h:1/collections/a%2Fb%2E%2E__%C3%A4/points"));
    free(url);
    url = ruvector_codec_url("http://h:1", NULL, "");
    cr_assert(eq(str, url, "http://h:1/collections"));
    free(url);
}

Test(ruvector_codec, bodies_have_limits)
{
    static float vector[OTR_DIMENSION_MAX];
    enum { COUNT = 1025 }; /* of 64 KiB each */
    static struct otr_point points[COUNT];
    struct ruvector_body body;

    for (int i = 0; i < COUNT; i++) {
        points[i] = (struct otr_point){.id = "x", .id_bytes = 1, .dimension = OTR_DIMENSION_MAX, .vector = vector};
    }
    cr_assert(eq(int, ruvector_codec_upsert(points, COUNT, &body), OTR_TOOBIG));
    cr_assert(zero(int, ruvector_codec_upsert(points, 2, &body)));
    cr_assert(eq(sz, body.bytes, 16 + 2 * (8 + 4 * OTR_DIMENSION_MAX + 1)));
    free(body.data);
}
