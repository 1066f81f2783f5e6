/* RuVector's answers, and the engine options that users write. The first byte chooses which; what is accepted is within
 * its bounds, and what is refused has words and leaves nothing behind. An answer without a body is a NULL pointer.
 *
 * Covers: engines/ruvector/ruvector_codec.c */
#include "engines/ruvector/ruvector_codec.h"
#include "tests/fuzz/fuzz.h"

static void hits(const char *data, size_t bytes)
{
    struct otr_engine_hit *list = NULL;
    struct otr_errmsg msg = {0};
    size_t count = 0;

    if (ruvector_codec_hits(data, bytes, &list, &count, &msg) != 0) {
        FUZZ_CHECK(msg.text[0] != '\0' && list == NULL);
        return;
    }
    for (size_t i = 0; i < count; i++) {
        FUZZ_CHECK(list[i].id_bytes >= 1 && list[i].id_bytes <= OTR_POINT_ID_MAX);
        FUZZ_CHECK(list[i].id >= data && list[i].id + list[i].id_bytes <= data + bytes);
        FUZZ_CHECK(!__builtin_isnan(list[i].score));
    }
    free(list);
}

static void health(const char *data, size_t bytes)
{
    struct otr_engine_status status, before;
    struct otr_errmsg msg = {0};

    memset(&status, 0x5A, sizeof status);
    status.up = false;
    before = status;
    if (ruvector_codec_health(data, bytes, &status, &msg) != 0) {
        FUZZ_CHECK(msg.text[0] != '\0');
        FUZZ_CHECK(memcmp(status.data_id, before.data_id, sizeof before.data_id) == 0);
        FUZZ_CHECK(memcmp(status.boot_id, before.boot_id, sizeof before.boot_id) == 0);
        return;
    }
    FUZZ_CHECK(status.data_id[0] != '\0' && memchr(status.data_id, 0, sizeof status.data_id) != NULL);
    FUZZ_CHECK(status.boot_id[0] != '\0' && memchr(status.boot_id, 0, sizeof status.boot_id) != NULL);
}

static void error_text(const char *data, size_t bytes)
{
    char text[40];

    memset(text, 0x5A, sizeof text);
    ruvector_codec_error_text(data, bytes, text, sizeof text);
    FUZZ_CHECK(memchr(text, 0, sizeof text) != NULL);
    for (const char *c = text; *c != '\0'; c++) {
        FUZZ_CHECK((unsigned char)*c >= 0x20 && *c != 0x7F);
    }
}

static void options(const char *data, size_t bytes)
{
    char *text = fuzz_copy(data, bytes, 1);
    struct otr_errmsg msg = {0};
    struct ruvector_body body;
    char *hnsw = NULL;
    char *url;

    if (ruvector_codec_options(text, &hnsw, &msg) != 0) {
        FUZZ_CHECK(msg.text[0] != '\0' && hnsw == NULL);
    } else {
        FUZZ_CHECK(ruvector_codec_make("c__0", 3, OTR_METRIC_COSINE, hnsw, &body) == 0);
        free(body.data);
    }
    url = ruvector_codec_url("http://e", text, "");
    FUZZ_CHECK(url != NULL && strlen(url) <= strlen("http://e/collections/") + 3 * strlen(text));
    for (const char *c = url; *c != '\0'; c++) {
        FUZZ_CHECK(*c > 0x20 && *c < 0x7F && *c != '?' && *c != '#');
    }
    free(url);
    free(hnsw);
    free(text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    struct ruvector_collection_info info;
    struct otr_errmsg msg = {0};
    char *body;

    if (bytes == 0) {
        return 0;
    }
    body = bytes > 1 ? fuzz_copy(data + 1, bytes - 1, 0) : NULL;
    bytes--;
    switch (data[0]) {
    case 'h':
        hits(body, bytes);
        break;
    case 'd':
        FUZZ_CHECK(ruvector_codec_done(body, bytes, &msg) == 0 || msg.text[0] != '\0');
        break;
    case 'i':
        FUZZ_CHECK(ruvector_codec_info(body, bytes, &info, &msg) == 0 || msg.text[0] != '\0');
        break;
    case 's':
        health(body, bytes);
        break;
    case 'o':
        options(body, bytes);
        break;
    default:
        error_text(body, bytes);
        break;
    }
    free(body);
    return 0;
}
