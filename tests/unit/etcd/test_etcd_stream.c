#include "backends/etcd/etcd_stream.h"

#include <criterion/criterion.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct seen {
    char text[4096]; /* what came, as words */
    int stop_at;     /* the item at which the callback says stop; 0: never */
    int items_count;
};

static int on_item(void *data, const struct etcd_stream_item *item)
{
    static const char *const names[] = {"", "created", "events", "progress", "gone", "denied", "refused", "broken"};
    struct seen *seen = data;
    size_t used = strlen(seen->text);

    used += (size_t)snprintf(seen->text + used, sizeof seen->text - used, "%s", names[item->type]);
    for (size_t i = 0; i < item->events_count; i++) {
        const struct otr_watch_event *event = &item->events[i];

        used += (size_t)snprintf(seen->text + used, sizeof seen->text - used, " %s%s=%s@%" PRIu64,
                                 event->type == OTR_WATCH_DELETE ? "-" : "+", event->kv.key, event->kv.value,
                                 event->revision);
    }
    if (item->revision != 0) {
        used += (size_t)snprintf(seen->text + used, sizeof seen->text - used, " to %" PRIu64, item->revision);
    }
    snprintf(seen->text + used, sizeof seen->text - used, "; ");
    return ++seen->items_count == seen->stop_at;
}

static void expect_pieces(const char *input, const char *expected, size_t piece)
{
    struct etcd_stream stream;
    struct seen seen = {0};
    size_t length = strlen(input);
    int rv = 0;

    etcd_stream_init(&stream, on_item, &seen);
    for (size_t i = 0; i < length && rv == 0; i += piece) {
        rv = etcd_stream_feed(&stream, input + i, piece < length - i ? piece : length - i);
    }
    cr_assert(rv == 0);
    etcd_stream_end(&stream);
    cr_assert_str_eq(seen.text, expected);
    etcd_stream_close(&stream);
}

/* The same items come out however the bytes are cut. */
static void expect(const char *input, const char *expected)
{
    for (size_t piece = 1; piece < 20; piece++) {
        expect_pieces(input, expected, piece);
    }
    expect_pieces(input, expected, strlen(input));
}

#define HEADER   "\"header\":{\"cluster_id\":\"17121211910768078140\",\"revision\":\"20\"}"
#define PUT(rev) "{\"kv\":{\"key\":\"YQ==\",\"value\":\"MQ==\",\"mod_revision\":\"" rev "\"}}"
#define DEL(rev) "{\"type\":\"DELETE\",\"kv\":{\"key\":\"Yg==\",\"mod_revision\":\"" rev "\"}}"

Test(etcd_stream, created_events_progress)
{
    expect("{\"result\":{" HEADER ",\"created\":true}}\n"
           "{\"result\":{" HEADER ",\"events\":[" PUT("19") "," DEL("20") "]}}\n"
                                                                          "{\"result\":{" HEADER "}}\n",
           "created; events +a=1@19 -b=@20 to 20; progress to 20; ");
}

/* The last line may come without newline, and empty lines mean nothing. */
Test(etcd_stream, last_line_without_newline)
{
    expect("{\"result\":{" HEADER ",\"created\":true}}\n\n\n{\"result\":{" HEADER ",\"events\":[" PUT("19") "]}}",
           "created; events +a=1@19 to 19; ");
}

/* Fragments of one revision come out as one item. */
Test(etcd_stream, fragments_are_put_together)
{
    expect("{\"result\":{" HEADER ",\"fragment\":true,\"events\":[" PUT(
               "19") "]}}\n"
                     "{\"result\":{" HEADER ",\"fragment\":true,\"events\":[" DEL(
                         "19") "]}}\n"
                               "{\"result\":{" HEADER ",\"events\":[" PUT("20") "]}}\n"
                                                                                "{\"result\":{" HEADER
                                                                                ",\"events\":[" PUT("21") "]}}\n",
           "events +a=1@19 -b=@19 +a=1@20 to 20; events +a=1@21 to 21; ");
    expect("{\"result\":{" HEADER ",\"fragment\":true,\"events\":[" PUT("19") "]}}\n", "");
}

Test(etcd_stream, compacted)
{
    expect("{\"result\":{" HEADER ",\"created\":true}}\n"
           "{\"result\":{" HEADER ",\"canceled\":true,\"compact_revision\":\"21\"}}\n",
           "created; gone; ");
}

Test(etcd_stream, canceled_and_denied)
{
    expect("{\"result\":{" HEADER ",\"created\":true,\"canceled\":true,\"watch_id\":\"-1\","
           "\"cancel_reason\":\"rpc error: code = PermissionDenied desc = etcdserver: permission denied\"}}\n",
           "denied; ");
    expect("{\"result\":{" HEADER ",\"canceled\":true,\"cancel_reason\":\"rpc error: code = Unauthenticated desc = "
           "etcdserver: invalid auth token\"}}\n",
           "refused; ");
    expect("{\"result\":{" HEADER ",\"canceled\":true}}\n", "broken; ");
}

/* Errors inside the stream, in both dialects; the older one ends without newline. */
Test(etcd_stream, errors)
{
    expect("{\"error\":{\"grpc_code\":14,\"http_code\":503,\"message\":\"no leader\",\"http_status\":\"x\"}}",
           "broken; ");
    expect("{\"error\":{\"code\":14, \"message\":\"no leader\"}}\n", "broken; ");
    expect("{\"error\":{\"code\":7, \"message\":\"denied\"}}\n", "denied; ");
    expect("{\"error\":{\"code\":16, \"message\":\"token\"}}\n", "refused; ");
    expect("{\"error\":{\"code\":11, \"message\":\"compacted\"}}\n", "gone; ");
    expect("{\"error\":\"no user\",\"message\":\"no user\",\"code\":3}", "refused; ");
}

Test(etcd_stream, garbage)
{
    static const char *const bad[] = {
        "404 page not found",
        "{",
        "{}",
        "[]",
        "null",
        "{\"result\":7}",
        "{\"result\":{}}",
        "{\"result\":{\"header\":[]}}",
        "{\"result\":{" HEADER ",\"events\":[7]}}",
        "{\"result\":{" HEADER ",\"events\":[{}]}}",
        "{\"result\":{" HEADER ",\"events\":[{\"kv\":{\"key\":\"YQ==\"}}]}}", /* no revision */
        "{\"result\":{" HEADER ",\"events\":[" PUT("20") "," PUT("19") "]}}", /* backwards */
    };

    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        expect(bad[i], "broken; ");
    }
}

/* Somebody else's key with a NUL byte is skipped; its revision does not stop the others. */
Test(etcd_stream, keys_that_are_none_of_ours)
{
    expect("{\"result\":{" HEADER ",\"events\":[" PUT("19") ",{\"kv\":{\"key\":\"YQBi\",\"mod_revision\":\"19\"}}]}}\n",
           "events +a=1@19 to 19; ");
}

/* Deeply nested JSON ends in an error, not in a stack overflow. */
Test(etcd_stream, deep_nesting)
{
    static char deep[200001];

    memset(deep, '[', sizeof deep - 1);
    expect_pieces(deep, "broken; ", 4096);
}

/* After "stop" nothing more comes. */
Test(etcd_stream, stops_when_told)
{
    static const char input[] = "{\"result\":{" HEADER ",\"created\":true}}\n{\"result\":{" HEADER "}}\n";
    struct etcd_stream stream;
    struct seen seen = {.stop_at = 1};

    etcd_stream_init(&stream, on_item, &seen);
    cr_assert(etcd_stream_feed(&stream, input, sizeof input - 1) != 0);
    cr_assert_str_eq(seen.text, "created; ");
    etcd_stream_close(&stream);
}

/* A line that never ends is given up before it eats the memory. */
Test(etcd_stream, endless_line)
{
    static char piece[1 << 20];
    struct etcd_stream stream;
    struct seen seen = {.stop_at = 1};
    int i = 0;

    memset(piece, ' ', sizeof piece);
    etcd_stream_init(&stream, on_item, &seen);
    while (etcd_stream_feed(&stream, piece, sizeof piece) == 0) {
        i++;
    }
    cr_assert(i == ETCD_STREAM_LINE_MAX >> 20);
    cr_assert_str_eq(seen.text, "gone; ");
    etcd_stream_close(&stream);
}

/* Valid lines with bytes changed, taken out and put in, from a fixed seed: whatever comes out, events are complete and
 * their revisions grow. (ASan and UBSan look at the rest.) */
static int on_fuzzed(void *data, const struct etcd_stream_item *item)
{
    uint64_t revision = 0;

    (void)data;
    for (size_t i = 0; i < item->events_count; i++) {
        const struct otr_watch_event *event = &item->events[i];

        cr_assert(event->kv.key[0] != '\0' && event->kv.value[event->kv.value_bytes] == '\0');
        cr_assert(event->revision != 0 && event->revision >= revision && event->revision <= item->revision);
        revision = event->revision;
    }
    cr_assert(item->text != NULL);
    return item->type >= ETCD_STREAM_GONE;
}

Test(etcd_stream, mutated_bytes)
{
    static const char valid[] =
        "{\"result\":{" HEADER ",\"created\":true}}\n"
        "{\"result\":{" HEADER ",\"fragment\":true,\"events\":[" PUT("19") "," DEL(
            "20") "]}}\n"
                  "{\"result\":{" HEADER
                  ",\"events\":[" PUT("20") "," PUT("21") "]}}\n"
                                                          "{\"result\":{" HEADER
                                                          "}}\n{\"error\":{\"grpc_code\":14,\"message\":\"m\"}}\n";
    static const char interesting[] = "{}[]\":,=\n\\0129AQ\xff";
    uint64_t dice = 88172645463325252u;
    char input[sizeof valid + 16];

    for (int round = 0; round < 50000; round++) {
        struct etcd_stream stream;
        size_t bytes = sizeof valid - 1;

        memcpy(input, valid, bytes);
        for (int change = 0; change < 1 + round % 6; change++) {
            size_t place;

            dice ^= dice << 13;
            dice ^= dice >> 7;
            dice ^= dice << 17;
            place = dice % bytes;
            switch (dice >> 32 & 3) {
            case 0:
                memmove(input + place, input + place + 1, bytes - place - 1);
                bytes--;
                break;
            case 1:
                memmove(input + place + 1, input + place, bytes - place);
                bytes++;
                break;
            default:
                input[place] = interesting[(dice >> 40) % (sizeof interesting - 1)];
            }
        }
        etcd_stream_init(&stream, on_fuzzed, NULL);
        if (etcd_stream_feed(&stream, input, bytes) == 0) {
            etcd_stream_end(&stream);
        }
        etcd_stream_close(&stream);
    }
}
