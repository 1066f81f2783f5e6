/* The REST calls over real sockets, with a fake node behind the door. */
#include "sidecar/api/api.h"
#include "sidecar/io/clock.h"
#include "tests/unit/api/client.h"
#include "tests/unit/api/fake_node.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <stdio.h>
#include <stdlib.h>

struct fixture {
    uv_loop_t loop;
    struct fake_world *w;
    struct api *api;
    struct client client;
    struct answer answer;
};

static struct fixture f;

static void open_world(void)
{
    struct api_config config = {.listen_host = "127.0.0.1"};
    struct otr_errmsg msg = {0};

    uv_loop_init(&f.loop);
    f.w = fake_world_new(&f.loop);
    config.node = fake_node(f.w, 1);
    cr_assert(eq(int, api_new(&f.api, &config, &msg), 0), "%s", msg.text);
    client_open(&f.client, &f.loop, api_port(f.api));
}

static void on_closed(void *data)
{
    *(bool *)data = true;
}

static void close_world(void)
{
    bool closed = false;

    answer_free(&f.answer);
    client_close(&f.client);
    api_close(f.api, on_closed, &closed);
    while (!closed) {
        uv_run(&f.loop, UV_RUN_ONCE);
    }
    fake_release(f.w, OTR_CANCELED);
    run_for(&f.loop, 5);
    fake_world_free(f.w);
    uv_run(&f.loop, UV_RUN_DEFAULT);
    cr_assert(eq(int, uv_loop_close(&f.loop), 0)); /* Nothing is left open. */
}

TestSuite(rest, .init = open_world, .fini = close_world, .timeout = 60);

/* One request; the status. `headers`: further lines with CRLF. */
static int ask_bytes(const char *method, const char *path, const char *headers, const char *body, size_t body_bytes)
{
    char head[4096];

    answer_free(&f.answer);
    snprintf(head, sizeof head, "%s %s HTTP/1.1\r\nHost: x\r\n%sContent-Length: %zu\r\n\r\n", method, path,
             headers != NULL ? headers : "", body_bytes);
    client_puts(&f.client, head);
    client_send(&f.client, body, body_bytes);
    cr_assert(client_answer(&f.client, &f.answer, 20000), "no answer to %s %s", method, path);
    return f.answer.status;
}

static int ask(const char *method, const char *path, const char *body)
{
    return ask_bytes(method, path, NULL, body, strlen(body));
}

static bool says(const char *words)
{
    return strstr(f.answer.body, words) != NULL;
}

static int put_point(const char *id, const char *vector)
{
    char body[1024];

    snprintf(body, sizeof body, "{\"points\":[{\"id\":\"%s\",\"vector\":%s}]}", id, vector);
    return ask("PUT", "/collections/c/points", body);
}

/* --- what works ----------------------------------------------------------------------------------------------------
 */

Test(rest, a_point_is_put_found_searched_and_deleted)
{
    cr_assert(eq(int,
                 ask("PUT", "/collections/c/points",
                     "{\"points\":[{\"id\":\"a\",\"vector\":[1,0,0.1],\"metadata\":{\"k\": [1, {\"x\":null}]}}]}"),
                 200));
    cr_assert(eq(str, f.answer.body, "{\"ids\":[\"a\"]}\n"));
    cr_assert(answer_header(&f.answer, "Outrigger-Position") != NULL);
    cr_assert(eq(sz, strlen(answer_header(&f.answer, "Outrigger-Request-Id")), 32));

    cr_assert(eq(int, ask("GET", "/collections/c/points/a", ""), 200));
    cr_assert(eq(str, f.answer.body, "{\"id\":\"a\",\"vector\":[1,0,0.1],\"metadata\":{\"k\": [1, {\"x\":null}]}}\n"));

    cr_assert(eq(int, put_point("b", "[0,1,0]"), 200));
    cr_assert(eq(int, ask("POST", "/collections/c/points/search", "{\"vector\":[0,1,0],\"k\":5}"), 200));
    cr_assert(eq(str, f.answer.body,
                 "{\"results\":[{\"id\":\"b\",\"score\":0},"
                 "{\"id\":\"a\",\"score\":1,\"metadata\":{\"k\": [1, {\"x\":null}]}}]}\n"));
    cr_assert(
        eq(int, ask("POST", "/collections/c/points/search", "{\"vector\":[0,1,0],\"k\":1,\"with_vector\":true}"), 200));
    cr_assert(eq(str, f.answer.body, "{\"results\":[{\"id\":\"b\",\"score\":0,\"vector\":[0,1,0]}]}\n"));

    cr_assert(eq(int, ask("GET", "/collections/c", ""), 200));
    cr_assert(eq(str, f.answer.body, "{\"name\":\"c\",\"dimension\":3,\"metric\":\"Cosine\",\"points\":2}\n"));

    cr_assert(eq(int, ask("DELETE", "/collections/c/points/a", ""), 200));
    cr_assert(eq(str, f.answer.body, "{\"deleted\":1}\n"));
    cr_assert(eq(int, ask("GET", "/collections/c/points/a", ""), 404));
    cr_assert(says("\"code\":\"not_found\""));
    cr_assert(eq(int, ask("POST", "/collections/c/points/delete", "{\"ids\":[\"a\",\"b\"]}"), 200));
    cr_assert(eq(str, f.answer.body, "{\"deleted\":1}\n"));
    cr_assert(eq(uint, fake_points(f.w), 0));
}

Test(rest, strange_ids_survive_the_path)
{
    static const struct {
        const char *json, *path;
    } ids[] = {{"a/b", "a%2Fb"},      {"..", ".."},
               {".", "%2E"},          {"x\\u00e4\\ud83d\\ude00", "x%C3%A4%F0%9F%98%80"},
               {"a b+c", "a%20b+c"},  {"search", "search"},
               {"delete", "delete"},  {"%2F", "%252F"},
               {"\\\"\\\\", "%22%5C"}};

    for (size_t i = 0; i < sizeof ids / sizeof ids[0]; i++) {
        char path[128];

        cr_assert(eq(int, put_point(ids[i].json, "[1,2,3]"), 200), "%s", ids[i].json);
        snprintf(path, sizeof path, "/collections/c/points/%s", ids[i].path);
        cr_assert(eq(int, ask("GET", path, ""), 200), "%s: %s", path, f.answer.body);
        cr_assert(eq(int, ask("DELETE", path, ""), 200));
        cr_assert(says("\"deleted\":1"), "%s", path);
    }
}

Test(rest, a_missing_id_draws_the_same_uuid_for_the_same_request)
{
    const char *header = "Outrigger-Request-Id: 000102030405060708090a0b0c0d0e0F\r\n";
    const char *body = "{\"points\":[{\"vector\":[1,2,3]},{\"vector\":[3,2,1],\"id\":null}]}";
    char first[256];

    cr_assert(eq(int, ask_bytes("PUT", "/collections/c/points", header, body, strlen(body)), 200));
    snprintf(first, sizeof first, "%s", f.answer.body);
    cr_assert(eq(sz, strlen(first), strlen("{\"ids\":[\"\",\"\"]}\n") + 72));
    cr_assert(eq(chr, first[23], '4')); /* Version 4: the 15th character of the id. */
    cr_assert(eq(int, ask_bytes("PUT", "/collections/c/points", header, body, strlen(body)), 200));
    cr_assert(eq(str, f.answer.body, first));
    cr_assert(eq(uint, fake_points(f.w), 2)); /* The retry took effect once. */
    cr_assert(eq(str, (char *)answer_header(&f.answer, "Outrigger-Request-Id"), "000102030405060708090a0b0c0d0e0f"));
}

Test(rest, collections_are_made_listed_and_deleted)
{
    cr_assert(eq(int, ask("POST", "/collections", "{\"name\":\"d\",\"dimension\":2,\"metric\":\"DotProduct\"}"), 201));
    cr_assert(eq(str, f.answer.body, "{\"name\":\"d\",\"dimension\":2,\"metric\":\"DotProduct\"}\n"));
    cr_assert(eq(int, ask("POST", "/collections", "{\"name\":\"e\",\"dimension\":2}"), 201));
    cr_assert(says("\"metric\":\"Cosine\""));
    cr_assert(eq(int, ask("POST", "/collections", "{\"name\":\"d\",\"dimension\":2}"), 409));
    cr_assert(eq(int, ask("GET", "/collections", ""), 200));
    cr_assert(eq(str, f.answer.body, "{\"collections\":[\"c\",\"d\",\"e\"]}\n"));
    cr_assert(eq(int, ask("DELETE", "/collections/d", ""), 204));
    cr_assert(eq(int, ask("DELETE", "/collections/d", ""), 404));
}

Test(rest, a_collection_made_elsewhere_is_found)
{
    cr_assert(eq(int, ask("GET", "/collections/far", ""), 200));
    cr_assert(says("\"metric\":\"Euclidean\""));
    cr_assert(eq(int, ask("GET", "/collections/nowhere", ""), 404));
    /* Whether it exists cannot be known while the coordinator is away. */
    fake_coordinator(f.w, OTR_UNREACHABLE);
    cr_assert(eq(int, ask("GET", "/collections/nowhere", ""), 503));
    cr_assert(eq(int, ask("POST", "/collections", "{\"name\":\"d\",\"dimension\":2}"), 503));
    cr_assert(says("\"applied\":false"));
    fake_coordinator(f.w, OTR_UNKNOWN);
    cr_assert(eq(int, ask("POST", "/collections", "{\"name\":\"d\",\"dimension\":2}"), 503));
    cr_assert(says("\"applied\":\"unknown\""));
}

Test(rest, a_coordinator_that_never_answers_costs_the_deadline)
{
    uint64_t start_ms = clock_now_ms();

    fake_coordinator(f.w, -1);
    cr_assert(eq(int, ask_bytes("GET", "/collections/nowhere", "Outrigger-Timeout: 100ms\r\n", "", 0), 503));
    cr_assert(lt(u64, clock_now_ms() - start_ms, 1000));
    cr_assert(eq(int, ask_bytes("GET", "/collections/nowhere", "Outrigger-Timeout: 1s\r\n", "", 0), 503));
    cr_assert(ge(u64, clock_now_ms() - start_ms, 1100));
    cr_assert(says("\"code\":\"timeout\""));
    fake_release(f.w, OTR_NOTFOUND); /* Late: nobody is there any more. */
    run_for(&f.loop, 5);
    cr_assert(eq(int, ask("GET", "/healthz", ""), 200));
}

Test(rest, health_readiness_and_head)
{
    cr_assert(eq(int, ask("GET", "/healthz", ""), 200));
    cr_assert(eq(int, ask("GET", "/readyz", ""), 200));
    fake_ready(f.w, false);
    cr_assert(eq(int, ask("GET", "/readyz", ""), 503));
    cr_assert(says("shard 3 follows nobody"));
    client_puts(&f.client, "HEAD /healthz HTTP/1.1\r\nHost: x\r\n\r\n");
    answer_free(&f.answer);
    cr_assert(client_head_answer(&f.client, &f.answer, 5000));
    cr_assert(eq(int, f.answer.status, 200));
    cr_assert(eq(str, (char *)answer_header(&f.answer, "Content-Length"), "21"));
    cr_assert(eq(int, ask("GET", "/healthz", ""), 200)); /* No body was left in the stream. */
}

/* --- metrics ----------------------------------------------------------------------------------------------------- */

Test(rest, metrics_are_text_of_the_node_the_server_and_the_process)
{
    cr_assert(eq(int, ask("GET", "/metrics", ""), 200));
    cr_assert(eq(str, (char *)answer_header(&f.answer, "Content-Type"), "text/plain; version=0.0.4; charset=utf-8"));
    cr_assert(strstr(strstr(f.answer.head, "Content-Type") + 1, "Content-Type") == NULL);
    cr_assert(says("fake_node 1\n"));
    cr_assert(says("# TYPE outrigger_http_connections gauge\noutrigger_http_connections 1\n"));
    cr_assert(says("\noutrigger_http_connections_total 1\n"));
    cr_assert(says("\noutrigger_http_requests_in_flight 1\n")); /* this one */
    cr_assert(says("\nprocess_resident_memory_bytes "));
    cr_assert(eq(int, ask("GET", "/healthz", ""), 200));
    cr_assert(eq(str, (char *)answer_header(&f.answer, "Content-Type"), "application/json"));
}

Test(rest, requests_are_counted_by_route_and_class)
{
    cr_assert(eq(int, put_point("a", "[0,1,0]"), 200));
    cr_assert(eq(int, put_point("b", "[0,1,0]"), 200));
    cr_assert(eq(int, put_point("b", "[0,1]"), 400));
    cr_assert(eq(int, ask("GET", "/collections/c/points/none", ""), 404));
    cr_assert(eq(int, ask("GET", "/nowhere", ""), 404));
    cr_assert(eq(int, ask("GET", "/metrics", ""), 200));
    cr_assert(says("{method=\"PUT\",route=\"/collections/*/points\",code=\"2xx\"} 2\n"));
    cr_assert(says("{method=\"PUT\",route=\"/collections/*/points\",code=\"4xx\"} 1\n"));
    cr_assert(says("{method=\"PUT\",route=\"/collections/*/points\",code=\"5xx\"} 0\n"));
    cr_assert(says("{method=\"GET\",route=\"/collections/*/points/*\",code=\"4xx\"} 1\n"));
    cr_assert(says("{method=\"other\",route=\"other\",code=\"4xx\"} 1\n"));
    cr_assert(says("_bucket{method=\"PUT\",route=\"/collections/*/points\",le=\"+Inf\"} 3\n"));
    cr_assert(says("_count{method=\"PUT\",route=\"/collections/*/points\"} 3\n"));
    cr_assert(says("{method=\"GET\",route=\"/metrics\",code=\"2xx\"} 0\n")); /* not this one yet */
    cr_assert(says("outrigger_http_requests_in_flight 1\n"));
    cr_assert(says("outrigger_http_refused_total 0\n"));
    client_puts(&f.client, "GET /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n");
    answer_free(&f.answer);
    cr_assert(client_answer(&f.client, &f.answer, 5000));
    cr_assert(eq(int, f.answer.status, 400));
    client_close(&f.client);
    client_open(&f.client, &f.loop, api_port(f.api));
    cr_assert(eq(int, ask("GET", "/metrics", ""), 200));
    cr_assert(says("outrigger_http_refused_total 1\n"));
    cr_assert(says("outrigger_http_connections_total 2\n"));
}

Test(rest, metrics_that_cannot_be_collected_are_an_error)
{
    fake_ready(f.w, false);
    cr_assert(eq(int, ask("GET", "/metrics", ""), 503));
    cr_assert(says("out_of_memory"));
}

Test(rest, the_cluster_is_described)
{
    cr_assert(eq(int, ask("GET", "/cluster", ""), 200));
    cr_assert(
        says("{\"cluster\":\"test\",\"node\":\"node-1\",\"shards\":[{\"id\":0,\"range\":[0,1073741823],\"epoch\":7,"
             "\"version\":1,\"primary\":\"node-1\",\"in_sync\":[\"node-1\",\"node-2\",\"node-3\"],"
             "\"replicas\":[\"node-1\",\"node-2\",\"node-3\"],\"learners\":[],\"min_in_sync\":2,\"index\":0}"));
    cr_assert(says("\"range\":[3221225472,4294967295]"));
    cr_assert(says("\"nodes\":[{\"id\":\"node-1\",\"state\":\"active\",\"live\":true,\"client\":null,\"peer\":null,"
                   "\"shards\":4,\"primaries\":2}"));
    cr_assert(says("\"collections\":[\"c\"],\"self\":{\"incarnation\":\"000000000000abc1\",\"shards\":[{\"id\":0,"
                   "\"role\":\"primary\",\"epoch\":7,\"last\":0,\"durable\":0,\"committed\":0,\"applied\":0,"
                   "\"in_sync\":true,\"last_epoch\":"));
    cr_assert(says(",\"eligible\":false,\"known\":0,\"kept\":0,\"damaged\":false}"));
    cr_assert(says(",\"eligible\":false,\"known\":0,\"kept\":0,\"damaged\":true}]"));
}

Test(rest, applied_pending_is_told)
{
    char id[16];
    unsigned n = 0;

    fake_plan(f.w, 1, 0, FAKE_PENDING, 0);
    cr_assert(eq(int, put_point(fake_id_in(f.w, 0, &n, id), "[1,2,3]"), 200));
    cr_assert(says("\"applied\":\"pending\""));
}

Test(rest, positions_filters_and_thresholds_reach_every_shard)
{
    const char *header = "Outrigger-Position: 1:7:41, 0:7:5,1:7:42\r\n";
    const char *search = "{\"vector\":[1,0,0],\"filter\":{\"k\": [1,\"\\u00e4\"]},\"score_threshold\":-0.25}";
    char path[64];
    char id[16];
    unsigned n = 0;

    cr_assert(eq(
        int, ask_bytes("POST", "/collections/c/points/search?consistency=linearizable", header, search, strlen(search)),
        200));
    for (otr_shard s = 0; s < FAKE_SHARDS; s++) { /* Shards 1 and 2 were asked over links. */
        cr_assert(eq(u64, fake_after(f.w, s).index, s == 0 ? 5 : s == 1 ? 42 : 0));
    }
    cr_assert(eq(str, (char *)fake_filter(f.w), "{\"k\": [1,\"\\u00e4\"]}"));
    cr_assert(eq(dbl, fake_threshold(f.w), -0.25));
    cr_assert(eq(uint, fake_calls(f.w, 2), 1));
    header = "Outrigger-Position: 1:7:43\r\n";
    snprintf(path, sizeof path, "/collections/c/points/%s", fake_id_in(f.w, 1, &n, id));
    cr_assert(eq(int, ask_bytes("GET", path, header, "", 0), 404)); /* Over the link, */
    cr_assert(eq(u64, fake_after(f.w, 1).index, 43));
    header = "Outrigger-Position: 1:8:44\r\n";
    strcat(path, "?consistency=eventual");
    cr_assert(eq(int, ask_bytes("GET", path, header, "", 0), 404)); /* and out of our own replica. */
    cr_assert(eq(u64, fake_after(f.w, 1).index, 44));
    cr_assert(eq(u64, fake_after(f.w, 1).epoch, 8));
    cr_assert(eq(uint, fake_calls(f.w, 2), 2));
}

/* --- bad input: a clear error, nothing applied, others undisturbed ---------------------------------------------------
 */

struct bad {
    const char *body;
    const char *words;
};

static void refuse_all(const char *method, const char *path, const struct bad *bad, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        cr_assert(eq(int, ask(method, path, bad[i].body), 400), "%s -> %s", bad[i].body, f.answer.body);
        cr_assert(says(bad[i].words), "%s -> %s", bad[i].body, f.answer.body);
        cr_assert(says("\"applied\":false"));
    }
    cr_assert(eq(uint, fake_writes(f.w), 0));
    cr_assert(eq(uint, fake_searches(f.w), 0));
    cr_assert(eq(int, put_point("after", "[1,2,3]"), 200)); /* The same connection goes on. */
}

#define DEEP "[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[["

Test(rest, bad_points_are_refused)
{
    static const struct bad bad[] = {
        {"", "no body"},
        {"{", "the body ends"},
        {"nonsense", "expected an object"},
        {"{\"points\":[{\"id\":\"a\",\"vector\":[1,2,3]}]", "the body ends"},
        {"{\"points\":[{\"id\":\"a\",\"vector\":[1,2,3]}]}x", "nothing behind the JSON value"},
        {"{\"points\":[{\"id\":\"a\",\"vector\":[1,2,3]}]}{}", "nothing behind the JSON value"},
        {"{\"points\":[{\"id\":\"a\",\"id\":\"a\",\"vector\":[1,2,3]}]}", "points[0]: the key \\\"id\\\" comes twice"},
        {"{\"points\":[],\"points\":[]}", "the key \\\"points\\\" comes twice"},
        {"{\"points\":[{\"id\":\"a\",\"vector\":[1,2,3],\"metadata\":{\"k\":1,\"\\u006b\":2}}]}",
         "points[0].metadata: the key"},
        {"{\"points\":[{\"id\":\"a\",\"vector\":[1,2,3],\"metadata\":" DEEP "}]}", "expected an object"},
        {"{\"points\":[{\"id\":\"a\",\"vector\":[1,2,3],\"metadata\":{\"k\":" DEEP "}}]}", "nested too deeply"},
        {"{\"points\":[{\"id\":\"a\",\"vector\":" DEEP "}]}", "points[0].vector[0]: expected a number"},
        {"{\"points\":[{\"id\":\"a\",\"vector\":[1,2]}]}",
         "points[0].vector: 2 numbers, but the collection's dimension is 3"},
        {"{\"points\":[{\"id\":\"a\",\"vector\":[1,2,3,4,5]}]}", "points[0].vector: 5 numbers"},
        {"{\"points\":[{\"id\":\"a\",\"vector\":[]}]}", "points[0].vector: 0 numbers"},
        {"{\"points\":[{\"id\":\"a\",\"vector\":[1,NaN,3]}]}", "points[0].vector[1]: expected a number"},
        {"{\"points\":[{\"id\":\"a\",\"vector\":[1,2,Infinity]}]}", "points[0].vector[2]: expected a number"},
        {"{\"points\":[{\"id\":\"a\",\"vector\":[-Infinity,2,3]}]}", "points[0].vector[0]: expected a number"},
        {"{\"points\":[{\"id\":\"a\",\"vector\":[null,2,3]}]}", "points[0].vector[0]: expected a number"},
        {"{\"points\":[{\"id\":\"a\",\"vector\":[1,2,3]},{\"id\":\"b\",\"vector\":[1,1e39,3]}]}",
         "points[1].vector[1]: not finite in float32"},
        {"{\"points\":[{\"id\":\"a\",\"vector\":[1,-1e999,3]}]}", "points[0].vector[1]: not finite in float32"},
        {"{\"points\":[{\"id\":\"a\",\"vector\":[0,0,-0.0]}]}", "points[0].vector: a zero vector"},
        {"{\"points\":[{\"id\":\"a\",\"vector\":[1e-60,0,0]}]}", "points[0].vector: a zero vector"},
        {"{\"points\":[{\"id\":\"a\",\"vector\":[01,2,3]}]}", "leading zero"},
        {"{\"points\":[{\"id\":\"a\",\"vector\":[1.,2,3]}]}", "without digits behind its point"},
        {"{\"points\":[{\"id\":\"a\",\"vector\":[+1,2,3]}]}", "expected a number, found '+'"},
        {"{\"points\":[{\"id\":\"a\",\"vector\":[1,2,3,]}]}", "expected a number, found ']'"},
        {"{\"points\":[{\"id\":\"a\",\"vector\":\"1,2,3\"}]}", "points[0].vector: expected an array of numbers"},
        {"{\"points\":[{\"id\":\"a\"}]}", "points[0]: no vector"},
        {"{\"points\":[{\"id\":\"\",\"vector\":[1,2,3]}]}", "points[0].id: an id must not be empty"},
        {"{\"points\":[{\"id\":\"a\\u0000b\",\"vector\":[1,2,3]}]}", "points[0].id: an id must not contain NUL"},
        {"{\"points\":[{\"id\":\"a\xFF\",\"vector\":[1,2,3]}]}", "not UTF-8"},
        {"{\"points\":[{\"id\":\"\xED\xA0\x80\",\"vector\":[1,2,3]}]}", "not UTF-8"},
        {"{\"points\":[{\"id\":\"\\ud800\",\"vector\":[1,2,3]}]}", "surrogate"},
        {"{\"points\":[{\"id\":7,\"vector\":[1,2,3]}]}", "points[0].id: expected a string"},
        {"{\"points\":[{\"id\":\"a\",\"vector\":[1,2,3]},{\"id\":\"b\",\"vector\":[1,2,3]},{\"id\":\"a\","
         "\"vector\":[1,2,3]}]}",
         "points[0] and points[2] have the same id"},
        {"{\"points\":[{\"id\":\"a\",\"vector\":[1,2,3],\"metdata\":{}}]}", "points[0]: unknown key \\\"metdata\\\""},
        {"{\"points\":[{\"id\":\"a\",\"vector\":[1,2,3],\"metadata\":\"x\"}]}",
         "points[0].metadata: expected an object"},
        {"{\"pts\":[]}", "unknown key \\\"pts\\\""},
        {"{}", "no \\\"points\\\""},
        {"[]", "expected an object"},
        {"{\"points\":{}}", "points: expected an array"},
    };

    refuse_all("PUT", "/collections/c/points", bad, sizeof bad / sizeof bad[0]);
}

Test(rest, ids_that_are_too_long_are_refused)
{
    char id[514];
    char path[1024];

    memset(id, 'x', 513);
    id[513] = '\0';
    cr_assert(eq(int, put_point(id, "[1,2,3]"), 400));
    cr_assert(says("points[0].id: an id has at most 512 bytes"));
    snprintf(path, sizeof path, "/collections/c/points/%s", id);
    cr_assert(eq(int, ask("GET", path, ""), 400));
    cr_assert(eq(int, ask("DELETE", path, ""), 400));
    cr_assert(eq(uint, fake_writes(f.w), 0));
    id[512] = '\0';
    cr_assert(eq(int, put_point(id, "[1,2,3]"), 200));
    snprintf(path, sizeof path, "/collections/c/points/%s", id);
    cr_assert(eq(int, ask("GET", path, ""), 200));
}

Test(rest, bad_ids_in_paths_are_refused)
{
    static const char *const ids[] = {"", "a%00b", "%FF", "%ED%A0%80", "%", "%2", "%zz", "a%2"};

    for (size_t i = 0; i < sizeof ids / sizeof ids[0]; i++) {
        char path[128];

        snprintf(path, sizeof path, "/collections/c/points/%s", ids[i]);
        cr_assert(eq(int, ask("GET", path, ""), 400), "%s", path);
        cr_assert(eq(int, ask("DELETE", path, ""), 400), "%s", path);
    }
    cr_assert(eq(uint, fake_writes(f.w), 0));
    cr_assert(eq(uint, fake_gets(f.w), 0));
}

Test(rest, bad_deletes_are_refused)
{
    static const struct bad bad[] = {
        {"{\"ids\":[\"a\",\"b\",\"a\"]}", "ids[0] and ids[2] have the same id"},
        {"{\"ids\":[\"\"]}", "ids[0]: an id must not be empty"},
        {"{\"ids\":[1]}", "ids[0]: expected a string"},
        {"{\"ids\":\"a\"}", "ids: expected an array"},
        {"{\"ids\":[\"a\"],\"x\":1}", "unknown key"},
        {"{\"ids\":[\"a\"]}\n\n!", "nothing behind"},
        {"{\"ids\":[\"a\",]}", "expected a string"},
    };

    refuse_all("POST", "/collections/c/points/delete", bad, sizeof bad / sizeof bad[0]);
}

Test(rest, bad_searches_are_refused)
{
    static const struct bad bad[] = {
        {"{\"vector\":[1,2,3],\"k\":0}", "k: must be an integer from 1 to 10000"},
        {"{\"vector\":[1,2,3],\"k\":-1}", "k: must be an integer"},
        {"{\"vector\":[1,2,3],\"k\":2147483648}", "k: must be an integer"},
        {"{\"vector\":[1,2,3],\"k\":10001}", "k: must be an integer"},
        {"{\"vector\":[1,2,3],\"k\":1.5}", "k: must be an integer"},
        {"{\"vector\":[1,2,3],\"k\":1e1}", "k: must be an integer"},
        {"{\"vector\":[1,2,3],\"k\":99999999999999999999999}", "k: must be an integer"},
        {"{\"vector\":[1,2,3],\"k\":\"3\"}", "k: must be an integer"},
        {"{\"vector\":[1,2]}", "vector: 2 numbers"},
        {"{\"vector\":[0,0,0]}", "vector: a zero vector"},
        {"{\"vector\":[1,2,1e39]}", "vector[2]: not finite"},
        {"{\"k\":3}", "no \\\"vector\\\""},
        {"{\"vector\":[1,2,3],\"filter\":[1]}", "filter: expected an object"},
        {"{\"vector\":[1,2,3],\"filter\":{\"a\":1,\"a\":2}}", "filter: the key \\\"a\\\" comes twice"},
        {"{\"vector\":[1,2,3],\"with_vector\":1}", "with_vector: expected true or false"},
        {"{\"vector\":[1,2,3],\"score_threshold\":\"x\"}", "score_threshold: expected a number"},
        {"{\"vector\":[1,2,3],\"limit\":5}", "unknown key \\\"limit\\\""},
        {"", "no body"},
    };

    refuse_all("POST", "/collections/c/points/search", bad, sizeof bad / sizeof bad[0]);
}

Test(rest, bad_collections_are_refused)
{
    static const struct bad bad[] = {
        {"{\"name\":\"\",\"dimension\":3}", "name: 1 to 63"},
        {"{\"name\":\"a/b\",\"dimension\":3}", "name: 1 to 63 of"},
        {"{\"name\":\"a__b\",\"dimension\":3}", "name: 1 to 63 of"},
        {"{\"name\":\"a\",\"dimension\":0}", "dimension: must be an integer from 1 to 16384"},
        {"{\"name\":\"a\",\"dimension\":16385}", "dimension: must be"},
        {"{\"name\":\"a\",\"dimension\":\"3\"}", "dimension: must be"},
        {"{\"name\":\"a\",\"dimension\":3,\"metric\":\"hamming\"}", "metric: must be Cosine"},
        {"{\"name\":\"a\"}", "no \\\"dimension\\\""},
        {"{\"dimension\":3}", "no \\\"name\\\""},
        {"{\"name\":\"a\",\"dimension\":3,\"shards\":3}", "unknown key"},
    };

    refuse_all("POST", "/collections", bad, sizeof bad / sizeof bad[0]);
}

Test(rest, unknown_collections_paths_methods_and_parameters)
{
    cr_assert(eq(int, ask("PUT", "/collections/nowhere/points", "{\"points\":[]}"), 404));
    cr_assert(eq(int, ask("POST", "/collections/nowhere/points/search", "{\"vector\":[1]}"), 404));
    cr_assert(eq(int, ask("GET", "/collections/no%2Fsuch", ""), 404));
    cr_assert(eq(int, ask("GET", "/collections/a%00b", ""), 404));
    cr_assert(eq(int, ask("GET", "/", ""), 404));
    cr_assert(eq(int, ask("GET", "/collections/c/points/a/b", ""), 404));
    cr_assert(says("%2F"));
    cr_assert(eq(int, ask("GET", "/a/b/c/d/e/f/g/h/i", ""), 404));
    cr_assert(eq(int, ask("POST", "/collections/c/points", "{}"), 405));
    cr_assert(eq(str, (char *)answer_header(&f.answer, "Allow"), "PUT"));
    cr_assert(eq(int, ask("PUT", "/collections/c/points/a", "{}"), 405));
    cr_assert(eq(str, (char *)answer_header(&f.answer, "Allow"), "GET, HEAD, DELETE"));
    cr_assert(eq(int, ask("PATCH", "/collections", ""), 405));
    cr_assert(eq(str, (char *)answer_header(&f.answer, "Allow"), "GET, HEAD, POST"));
    cr_assert(eq(int, ask("GET", "/collections/c/points/a?consistency=strong", ""), 400));
    cr_assert(eq(int, ask("GET", "/collections/c/points/a?consistency=bounded&consistency=bounded", ""), 400));
    cr_assert(eq(int, ask("GET", "/collections/c/points/a?wait=true", ""), 400));
    cr_assert(says("unknown query parameter \\\"wait\\\""));
    cr_assert(eq(int, ask("PUT", "/collections/c/points?consistency=bounded", "{\"points\":[]}"), 400));
    cr_assert(eq(int, ask("GET", "/collections/c/points/a?consistency=eventual", ""), 404));
}

Test(rest, bad_headers_are_refused)
{
    static const char *const bad[] = {
        "Outrigger-Request-Id: 123\r\n",
        "Outrigger-Request-Id: 00000000000000000000000000000000\r\n",
        "Outrigger-Request-Id: 0001020304050607080900010203040g\r\n",
        "Outrigger-Request-Id: 000102030405060708090a0b0c0d0e0f\r\nOutrigger-Request-Id: "
        "000102030405060708090a0b0c0d0e0f\r\n",
        "Outrigger-Timeout: 5\r\n",
        "Outrigger-Timeout: 0ms\r\n",
        "Outrigger-Timeout: -1s\r\n",
        "Outrigger-Timeout: 10m\r\n",
        "Outrigger-Timeout: 99999999999s\r\n",
        "Outrigger-Position: 1:2\r\n",
        "Outrigger-Position: 1:2:3,\r\n",
        "Outrigger-Position: 4096:2:3\r\n",
        "Outrigger-Position: a:b:c\r\n",
        "Outrigger-Position: 1:2:3;4:5:6\r\n",
    };
    const char *body = "{\"points\":[{\"id\":\"a\",\"vector\":[1,2,3]}]}";

    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        cr_assert(eq(int, ask_bytes("PUT", "/collections/c/points", bad[i], body, strlen(body)), 400), "%s", bad[i]);
    }
    cr_assert(eq(uint, fake_writes(f.w), 0));
    cr_assert(eq(int,
                 ask_bytes("PUT", "/collections/c/points", "Outrigger-Position: 1:2:3, 2:7:9\r\n", body, strlen(body)),
                 200));
}

/* Requests damaged at random: each gets some answer or a closed connection, and the server goes on. */
Test(rest, damaged_requests_harm_nobody)
{
    static const char text[] = "PUT /collections/c/points HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
                               "33\r\n{\"points\":[{\"id\":\"a\",\"vector\":[1,2,3],\"metadata\":\r\n"
                               "e\r\n{\"k\":[true]}}]}\r\n0\r\n\r\n";

    srand(1);
    for (int i = 0; i < 2000; i++) {
        char damaged[sizeof text];
        struct client c;

        memcpy(damaged, text, sizeof text);
        for (int k = rand() % 3; k >= 0; k--) {
            static const char bytes[] = "\r\n\0 \t:;0{}[],\"\\\xFF\xC3"
                                        "x";
            damaged[(size_t)rand() % (sizeof text - 1)] = bytes[(size_t)rand() % (sizeof bytes - 1)];
        }
        client_open(&c, &f.loop, api_port(f.api));
        client_send(&c, damaged, sizeof text - 1 - (size_t)(rand() % 4 == 0 ? rand() % 40 : 0));
        client_end(&c);
        cr_assert(client_ended(&c, 5000), "%.*s", (int)sizeof text - 1, damaged);
        client_close(&c);
    }
    cr_assert(eq(int, ask("GET", "/healthz", ""), 200));
}

/* --- sizes ----------------------------------------------------------------------------------------------------------
 */

static char *many_points(size_t count, size_t *bytes)
{
    char *body = malloc(count * 64 + 64);
    size_t used = (size_t)sprintf(body, "{\"points\":[");

    for (size_t i = 0; i < count; i++) {
        used +=
            (size_t)sprintf(body + used, "%s{\"id\":\"p%zu\",\"vector\":[1.5,2.25,%zu]}", i != 0 ? "," : "", i, i + 1);
    }
    used += (size_t)sprintf(body + used, "]}");
    *bytes = used;
    return body;
}

Test(rest, a_large_batch_is_parsed_on_the_side_and_spread_over_shards)
{
    size_t bytes;
    char *body = many_points(5000, &bytes);

    cr_assert(gt(sz, bytes, 128 << 10));
    cr_assert(eq(int, ask_bytes("PUT", "/collections/c/points", NULL, body, bytes), 200));
    cr_assert(eq(uint, fake_points(f.w), 5000));
    cr_assert(eq(uint, fake_entries(f.w), 4)); /* One entry a shard. */
    cr_assert(eq(int, ask("GET", "/collections/c/points/p4999", ""), 200));
    cr_assert(says("\"vector\":[1.5,2.25,5000]"));
    /* An error in it is found there as well. */
    body[bytes - 3] = 'x';
    cr_assert(eq(int, ask_bytes("PUT", "/collections/c/points", NULL, body, bytes), 400));
    cr_assert(says("points[4999]"));
    free(body);
}

Test(rest, too_many_points_are_refused)
{
    size_t bytes;
    char *body = many_points(100001, &bytes);

    cr_assert(eq(int, ask_bytes("PUT", "/collections/c/points", NULL, body, bytes), 413));
    cr_assert(says("points: more than 100000 in one request"));
    cr_assert(eq(uint, fake_writes(f.w), 0));
    free(body);
}

Test(rest, metadata_has_a_limit)
{
    size_t room = 70000;
    char *body = malloc(room + 200);
    size_t used = (size_t)sprintf(body, "{\"points\":[{\"id\":\"a\",\"vector\":[1,2,3],\"metadata\":{\"k\":\"");

    memset(body + used, 'x', 65536);
    used += 65536;
    used += (size_t)sprintf(body + used, "\"}}]}");
    cr_assert(eq(int, ask_bytes("PUT", "/collections/c/points", NULL, body, used), 400));
    cr_assert(says("points[0].metadata: 65544 bytes; metadata has at most 65536"));
    free(body);
}

Test(rest, a_body_over_64_mib_is_refused_before_it_is_read)
{
    client_puts(&f.client, "PUT /collections/c/points HTTP/1.1\r\nHost: x\r\nContent-Length: 67108865\r\n\r\n");
    cr_assert(client_answer(&f.client, &f.answer, 5000));
    cr_assert(eq(int, f.answer.status, 413));
    cr_assert(says("\"code\":\"too_large\""));
    cr_assert(says("\"applied\":false"));
    cr_assert(eq(str, (char *)answer_header(&f.answer, "Connection"), "close"));
    client_end(&f.client);
    cr_assert(client_ended(&f.client, 5000));
}

Test(rest, half_a_body_applies_nothing)
{
    client_puts(&f.client, "PUT /collections/c/points HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n"
                           "{\"points\":[{\"id\":\"a\",\"vector\":[1,2,3]}]}");
    client_end(&f.client);
    cr_assert(client_answer(&f.client, &f.answer, 5000));
    cr_assert(eq(int, f.answer.status, 400));
    cr_assert(says("ended inside a body"));
    cr_assert(eq(uint, fake_writes(f.w), 0));
}

/* --- failures
 * --------------------------------------------------------------------------------------------------------- */

Test(rest, a_partial_failure_names_the_ids_per_outcome)
{
    char ids[3][16];
    char body[512];
    unsigned n = 0;

    for (otr_shard s = 0; s < 3; s++) {
        n = 0;
        fake_id_in(f.w, s, &n, ids[s]);
    }
    fake_plan(f.w, 2, 1, FAKE_REFUSE, OTR_NOSPACE);
    fake_plan_always(f.w, 3, 2, FAKE_LOSE, OTR_UNKNOWN);
    snprintf(body, sizeof body,
             "{\"points\":[{\"id\":\"%s\",\"vector\":[1,2,3]},{\"id\":\"%s\",\"vector\":[1,2,3]},{\"id\":\"%s\","
             "\"vector\":[1,2,3]}]}",
             ids[0], ids[1], ids[2]);
    cr_assert(
        eq(int, ask_bytes("PUT", "/collections/c/points", "Outrigger-Timeout: 200ms\r\n", body, strlen(body)), 503));
    snprintf(body, sizeof body, "\"outcomes\":{\"applied\":[\"%s\"],\"not_applied\":[\"%s\"],\"unknown\":[\"%s\"]}",
             ids[0], ids[1], ids[2]);
    cr_assert(says(body), "%s", f.answer.body);
    cr_assert(says("\"applied\":\"unknown\""));
    cr_assert(answer_header(&f.answer, "Outrigger-Position") != NULL); /* Of what was applied. */
}

/* A planned change of primary, and every way to ask for it wrongly: nothing is changed then. */
Test(rest, failover_of_a_shard)
{
    static const struct {
        const char *path, *body, *words;
        int status;
    } cases[] = {
        {"/cluster/shards/1/failover", "{\"to_replica\":7}", "expected a string", 400},
        {"/cluster/shards/1/failover", "{\"to_replica\":\"a/b\"}", "to_replica: not the name of a node", 400},
        {"/cluster/shards/1/failover", "{\"timeout_ms\":0}", "timeout_ms: 1 to", 400},
        {"/cluster/shards/1/failover", "{\"timeout_ms\":\"2s\"}", "expected a number", 400},
        {"/cluster/shards/1/failover", "{\"to\":\"node-3\"}", "unknown member \\\"to\\\"", 400},
        {"/cluster/shards/1/failover", "[]", "", 400},
        {"/cluster/shards/1/failover", "{\"to_replica\":\"node-3\"} x", "", 400},
        {"/cluster/shards/1/failover", "{\"to_replica\":\"node-9\"}", "there is no node \\\"node-9\\\"", 404},
        {"/cluster/shards/4/failover", "", "there is no shard 4: they are numbered 0 to 3", 404},
        {"/cluster/shards/-1/failover", "", "is not the number of a shard", 404},
        {"/cluster/shards/99999/failover", "", "is not the number of a shard", 404},
        {"/cluster/shards/1/failover", "{\"to_replica\":\"node-2\"}", "", 409},
    };

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        cr_assert(eq(int, ask("POST", cases[i].path, cases[i].body), cases[i].status), "%s %s: %s", cases[i].path,
                  cases[i].body, f.answer.body);
        cr_assert(says(cases[i].words), "%s", f.answer.body);
    }
    cr_assert(
        eq(int, ask("POST", "/cluster/shards/1/failover", "{\"to_replica\":\"node-3\",\"timeout_ms\":500}"), 200));
    cr_assert(eq(str, f.answer.body,
                 "{\"shard\":1,\"from\":\"node-2\",\"to\":\"node-3\",\"epoch\":8,\"pause_ms\":12.345}\n"));
    cr_assert(eq(int, ask("POST", "/cluster/shards/1/failover", ""), 200));
    cr_assert(says("\"from\":\"node-3\",\"to\":\"node-1\""));
    fake_plan(f.w, 1, 1, FAKE_REFUSE, OTR_UNAVAIL);
    cr_assert(eq(int, ask("POST", "/cluster/shards/1/failover", ""), 503));
    cr_assert(says("\"applied\":false"));
}

/* The node that is asked leads itself, or nothing is done. The fake one has 5 entries to lose. */
Test(rest, failover_that_accepts_a_loss)
{
    static const struct {
        const char *body, *words;
        int status;
    } cases[] = {
        {"{\"accept_data_loss\":-1}", "accept_data_loss: a number of entries", 400},
        {"{\"accept_data_loss\":\"all\"}", "expected a number", 400},
        {"{\"accept_data_loss\":true}", "expected a number", 400},
        {"{\"accept_data_loss\":4}", "5 entries may be lost", 409},
        {"{\"accept_data_loss\":5,\"to_replica\":\"node-2\"}", "node-2 itself is to be asked", 409},
    };

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        cr_assert(eq(int, ask("POST", "/cluster/shards/1/failover", cases[i].body), cases[i].status), "%s: %s",
                  cases[i].body, f.answer.body);
        cr_assert(says(cases[i].words), "%s", f.answer.body);
        cr_assert(says("\"applied\":false"));
    }
    cr_assert(
        eq(int, ask("POST", "/cluster/shards/1/failover", "{\"accept_data_loss\":5,\"to_replica\":\"node-1\"}"), 200));
    cr_assert(eq(str, f.answer.body, "{\"to\":\"node-1\",\"epoch\":9}\n"));
    fake_plan(f.w, 1, 1, FAKE_LOSE, OTR_UNKNOWN);
    cr_assert(eq(int, ask("POST", "/cluster/shards/1/failover", "{\"accept_data_loss\":5}"), 503));
    cr_assert(says("\"applied\":\"unknown\""));
}

Test(rest, a_survivor_tells_what_it_knows)
{
    cr_assert(eq(int, ask("GET", "/cluster/survivor", ""), 200));
    cr_assert(says("{\"node\":\"node-1\",\"cluster\":\"test\",\"incarnation\":\"000000000000abc1\",\"config\":"));
    cr_assert(says("\"collections\":{\"c\":\"{\\\"id\\\":"));
    cr_assert(says("\"shards\":[\"{\\\"id\\\":0,\\\"range\\\":[0,1073741823]"));
    cr_assert(says("\"replicas\":[{\"shard\":0,\"leads\":true,\"promised\":\"7\",\"log\":\"0000000000000001\","
                   "\"seen\":[\"1\",\"7\",\"2\"],\"last\":[\"7\",\"0\"]},{\"shard\":1,\"leads\":false,"));
}

Test(rest, what_was_lost_is_told)
{
    cr_assert(eq(int, ask("GET", "/cluster/losses", ""), 200));
    cr_assert(eq(str, f.answer.body, "{\"node\":\"node-1\",\"losses\":[{\"shard\":1},{\"shard\":2}]}\n"));
}

Test(rest, a_full_disk_is_507_and_a_lost_quorum_503)
{
    char id[16];
    unsigned n = 0;
    const char *body = "{\"points\":[{\"id\":\"%s\",\"vector\":[1,2,3]}]}";
    char text[256];

    snprintf(text, sizeof text, body, fake_id_in(f.w, 0, &n, id));
    fake_plan(f.w, 1, 0, FAKE_REFUSE, OTR_NOSPACE);
    cr_assert(eq(int, ask("PUT", "/collections/c/points", text), 507));
    cr_assert(says("\"applied\":false"));
    fake_plan_always(f.w, 1, 0, FAKE_REFUSE, OTR_FEW);
    cr_assert(
        eq(int, ask_bytes("PUT", "/collections/c/points", "Outrigger-Timeout: 100ms\r\n", text, strlen(text)), 503));
    cr_assert(says("\"code\":\"few_in_sync\""));
    cr_assert(says("\"applied\":false"));
    cr_assert(eq(str, (char *)answer_header(&f.answer, "Retry-After"), "1"));
}

Test(rest, closing_answers_what_is_under_way)
{
    bool closed = false;
    struct api_config config = {.listen_host = "127.0.0.1", .node = fake_node(f.w, 1)};
    struct client second;
    char id[16];
    unsigned n = 0;
    char body[128];
    char text[256];

    client_open(&second, &f.loop, api_port(f.api));
    fake_plan(f.w, 1, 0, FAKE_HANG, 0);
    snprintf(body, sizeof body, "{\"points\":[{\"id\":\"%s\",\"vector\":[1,2,3]}]}", fake_id_in(f.w, 0, &n, id));
    snprintf(text, sizeof text, "PUT /collections/c/points HTTP/1.1\r\nHost: x\r\nContent-Length: %zu\r\n\r\n%s",
             strlen(body), body);
    client_puts(&f.client, text);
    fake_coordinator(f.w, -1);
    client_puts(&second, "GET /collections/nowhere HTTP/1.1\r\nHost: x\r\n\r\n");
    while (fake_writes(f.w) == 0) {
        run_for(&f.loop, 1);
    }
    run_for(&f.loop, 20);
    api_close(f.api, on_closed, &closed);
    cr_assert(client_answer(&f.client, &f.answer, 5000));
    cr_assert(eq(int, f.answer.status, 503));
    cr_assert(says("\"applied\":\"unknown\""));
    answer_free(&f.answer);
    cr_assert(client_answer(&second, &f.answer, 5000));
    cr_assert(eq(int, f.answer.status, 503));
    client_close(&second);
    client_end(&f.client);
    while (!closed) {
        uv_run(&f.loop, UV_RUN_ONCE);
    }
    fake_release(f.w, 0); /* Callbacks that come after the end. */
    run_for(&f.loop, 5);
    cr_assert(eq(int, api_new(&f.api, &config, NULL), 0));
}

Test(rest, the_port_in_use_is_named)
{
    struct api_config config = {.listen_host = "127.0.0.1", .listen_port = api_port(f.api), .node = fake_node(f.w, 1)};
    struct otr_errmsg msg = {0};
    struct api *second;

    cr_assert(eq(int, api_new(&second, &config, &msg), OTR_INUSE));
    cr_assert(strstr(msg.text, "listen on 127.0.0.1:") != NULL, "%s", msg.text);
    config.listen_host = "localhost";
    cr_assert(eq(int, api_new(&second, &config, &msg), OTR_INVALID));
}
