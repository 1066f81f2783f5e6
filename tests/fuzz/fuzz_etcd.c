/* etcd's answers. A first byte 'w': a watch's stream, fed whole and in pieces, which must give the same items. Else a
 * unary answer: errors, key-values, numbers.
 *
 * Covers: backends/etcd/etcd_stream.c backends/etcd/etcd_codec.c sidecar/io/json_text.c */
#include "backends/etcd/etcd_stream.h"
#include "tests/fuzz/fuzz.h"

/* --- streams ------------------------------------------------------------------------------------------------------ */

static void log_kv(struct fuzz_log *log, const struct otr_kv *kv)
{
    FUZZ_CHECK(kv->key[0] != '\0' && kv->value[kv->value_bytes] == '\0');
    fuzz_log_raw(log, kv->key, strlen(kv->key));
    fuzz_log_raw(log, kv->value, kv->value_bytes);
    fuzz_log_add(log, " rev %llu created %llu session \"%s\"\n", (unsigned long long)kv->revision,
                 (unsigned long long)kv->create_revision, kv->session);
}

static int on_item(void *data, const struct etcd_stream_item *item)
{
    struct fuzz_log *log = data;
    uint64_t revision = 0;

    FUZZ_CHECK(item->text != NULL);
    fuzz_log_add(log, "item %d to %llu of %llu, %zu events: ", item->type, (unsigned long long)item->revision,
                 (unsigned long long)item->identity, item->events_count);
    fuzz_log_raw(log, item->text, strlen(item->text));
    for (size_t i = 0; i < item->events_count; i++) {
        FUZZ_CHECK(item->events[i].revision >= revision && item->events[i].revision <= item->revision);
        revision = item->events[i].revision;
        log_kv(log, &item->events[i].kv);
    }
    return item->type == ETCD_STREAM_GONE || item->type >= ETCD_STREAM_DENIED;
}

static struct fuzz_log stream(const uint8_t *data, size_t bytes, bool whole)
{
    uint64_t random = fuzz_seed(data, bytes);
    struct fuzz_log log = {0};
    struct etcd_stream s;
    size_t at = 0;
    int rv = 0;

    etcd_stream_init(&s, on_item, &log);
    while (at < bytes && rv == 0) {
        size_t piece = whole ? bytes - at : fuzz_piece(&random, bytes - at);
        char *copy = fuzz_copy(data + at, piece, 0);

        rv = etcd_stream_feed(&s, copy, piece);
        free(copy);
        at += piece;
    }
    if (rv == 0) {
        etcd_stream_end(&s);
    }
    etcd_stream_close(&s);
    return log;
}

/* --- unary answers ------------------------------------------------------------------------------------------------ */

/* A value that was base64 is the same when it is made base64 and decoded again. */
static void check_kv(const struct otr_kv *kv)
{
    struct json_text text = {0};
    struct otr_kv again = {0};
    cJSON *json;

    json_text_add(&text, "{\"key\":\"");
    json_text_add_base64(&text, kv->key, strlen(kv->key));
    json_text_add(&text, "\",\"value\":\"");
    json_text_add_base64(&text, kv->value, kv->value_bytes);
    json_text_add(&text, "\"}");
    FUZZ_CHECK(!text.failed);
    json = cJSON_ParseWithLength(text.data, text.bytes);
    FUZZ_CHECK(etcd_kv_decode(json, &again) == 0);
    FUZZ_CHECK(strcmp(again.key, kv->key) == 0 && again.value_bytes == kv->value_bytes);
    FUZZ_CHECK(memcmp(again.value, kv->value, kv->value_bytes) == 0);
    kv_close(&again);
    cJSON_Delete(json);
    json_text_close(&text);
}

static void unary(const char *data, size_t bytes)
{
    cJSON *json = cJSON_ParseWithLength(data, bytes);
    const cJSON *item;
    const char *message = NULL;
    struct json_text key = {0};
    struct kv_list kvs = {0};
    bool certain;
    int code = etcd_error_code(json, &message);

    FUZZ_CHECK(message != NULL);
    FUZZ_CHECK(code == ETCD_CODE_NONE || etcd_code_status(code, &certain) != 0);
    (void)etcd_json_u64(etcd_json_object(json, "header"), "revision");
    FUZZ_CHECK(etcd_lease_parse(etcd_json_text(json, "ID")) <= INT64_MAX);
    cJSON_ArrayForEach(item, cJSON_GetObjectItemCaseSensitive(json, "kvs"))
    {
        struct otr_kv kv = {0};
        int rv = etcd_kv_decode(item, &kv);

        if (rv == 0) {
            check_kv(&kv);
            FUZZ_CHECK(kv_list_add(&kvs, &kv) == 0);
        }
        if (etcd_key_decode(item, &key)) {
            FUZZ_CHECK(key.data[key.bytes] == '\0');
        }
    }
    json_text_close(&key);
    kv_list_close(&kvs);
    cJSON_Delete(json);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    if (bytes == 0) {
        return 0;
    }
    if (data[0] == 'w') {
        struct fuzz_log whole = stream(data + 1, bytes - 1, true);
        struct fuzz_log pieces = stream(data + 1, bytes - 1, false);

        fuzz_log_same(&whole, &pieces, "the items depend on how their bytes arrive");
    } else {
        char *copy = fuzz_copy(data + 1, bytes - 1, 0);

        unary(copy, bytes - 1);
        free(copy);
    }
    return 0;
}
