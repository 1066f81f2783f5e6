/* gRPC's own services: for anybody who may connect, small, and bounded. */
#include "fixture.h"
#include "raw.h"
#include "stranger.h"

#include "sidecar/peer/conn.h"
#include "sidecar/peer/descriptors.h"
#include "sidecar/peer/grpc.h"

#include "grpc/health/v1/health.pb-c.h"
#include "grpc/reflection/v1/reflection.pb-c.h"

TestSuite(public, .init = loop_begin, .fini = loop_end, .timeout = 60);

struct health {
    unsigned count;
    int status;
    int serving;
    char text[OTR_ERRMSG_MAX];
};

static void on_health(void *data, int status, const ProtobufCMessage *message, const struct otr_errmsg *msg)
{
    struct health *h = data;

    h->count++;
    h->status = status;
    h->serving = message != NULL ? (int)((const Grpc__Health__V1__HealthCheckResponse *)message)->status : -1;
    snprintf(h->text, sizeof h->text, "%s", msg->text);
}

static struct health check(struct peer_link *link, const char *service)
{
    Grpc__Health__V1__HealthCheckRequest request = GRPC__HEALTH__V1__HEALTH_CHECK_REQUEST__INIT;
    struct health h = {0};

    request.service = (char *)(uintptr_t)service;
    cr_assert(zero(int, peer_link_call(link, PEER_HEALTH_CHECK, &request.base, 5000, on_health, &h)));
    RUN_UNTIL(h.count == 1);
    return h;
}

/* Not serving until told so; each service by itself. */
Test(public, check_says_what_was_set)
{
    struct node a, b;
    struct peer_link *link = pair_open(&a, &b);
    struct health h;

    cr_assert(eq(int, check(link, "").serving, GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__NOT_SERVING));
    peer_hub_serving(b.hub, PEER_SERVICE_PEER, true);
    cr_assert(eq(int, check(link, "").serving, GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__NOT_SERVING));
    cr_assert(eq(int, check(link, "outrigger.v1.Peer").serving,
                 GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__SERVING));
    peer_hub_serving(b.hub, PEER_SERVICE_NODE, true);
    cr_assert(eq(int, check(link, "").serving, GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__SERVING));
    peer_hub_serving(b.hub, PEER_SERVICE_PEER, false);
    cr_assert(eq(int, check(link, "outrigger.v1.Peer").serving,
                 GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__NOT_SERVING));
    h = check(link, "outrigger.v1.Other");
    cr_assert(ne(int, h.status, 0));
    cr_assert(ne(ptr, strstr(h.text, "gRPC status 5:"), NULL), "%s", h.text);
    node_close(&a);
    node_close(&b);
}

static int without_metadata(uint16_t port, const char *path, size_t body_bytes, char *text, size_t room)
{
    static uint8_t body[8192];
    struct raw_header headers[RAW_HEADERS_MAX];
    struct bytes out = {.count = 0};
    size_t kept = 0;

    raw_call_headers(headers, path);
    for (size_t i = 0; headers[i].name != NULL; i++) {
        if (strncmp(headers[i].name, "outrigger-", 10) != 0) {
            headers[kept++] = headers[i];
        }
    }
    headers[kept].name = NULL;
    raw_preface(&out);
    raw_headers(&out, headers, false);
    raw_message(&out, 0, body, body_bytes, true);
    return raw_exchange(port, &out, 5000, text, room);
}

/* A stranger may ask these, and nothing else; and not with much. */
Test(public, no_metadata_is_needed_and_requests_are_small)
{
    static const char *const paths[] = {"/grpc.health.v1.Health/Check",
                                        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
                                        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"};
    struct node a;
    char text[256];

    node_open(&a, "a", "c", 1, 0);
    for (size_t i = 0; i < sizeof paths / sizeof paths[0]; i++) {
        cr_assert(eq(int, without_metadata(peer_hub_port(a.hub), paths[i], 0, text, sizeof text), GRPC_OK), "%s: %s",
                  paths[i], text);
        cr_assert(
            eq(int, without_metadata(peer_hub_port(a.hub), paths[i], 5000, text, sizeof text), GRPC_RESOURCE_EXHAUSTED),
            "%s: %s", paths[i], text);
    }
    cr_assert(eq(int, without_metadata(peer_hub_port(a.hub), "/grpc.health.v1.Health/Watch", 5000, text, sizeof text),
                 GRPC_RESOURCE_EXHAUSTED));
    cr_assert(eq(int, without_metadata(peer_hub_port(a.hub), "/outrigger.v1.Peer/Forward", 0, text, sizeof text),
                 GRPC_FAILED_PRECONDITION));
    cr_assert(eq(int, without_metadata(peer_hub_port(a.hub), "/grpc.health.v1.Health/List", 0, text, sizeof text),
                 GRPC_UNIMPLEMENTED));
    node_close(&a);
}

/* --- as a stranger sees it ---------------------------------------------------------------------------------------- */

static struct stranger stranger;
static struct stranger_call calls[1040];

enum {
    UNKNOWN_SERVICE = GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__SERVICE_UNKNOWN,
    SERVING = GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__SERVING,
    NOT_SERVING = GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__NOT_SERVING,
};

static void ask_health(struct stranger_call *call, const char *method, const char *service)
{
    Grpc__Health__V1__HealthCheckRequest request = GRPC__HEALTH__V1__HEALTH_CHECK_REQUEST__INIT;
    char path[64];

    snprintf(path, sizeof path, "/grpc.health.v1.Health/%s", method);
    request.service = (char *)(uintptr_t)service;
    stranger_start(&stranger, call, path);
    stranger_pack(call, &request.base, true);
}

/* The next status that a watch tells; -1: none within a moment. */
static int told(struct stranger_call *call)
{
    ProtobufCMessage *m = stranger_next(call, &grpc__health__v1__health_check_response__descriptor);
    int status = -1;

    for (int turn = 0; m == NULL && turn < 20; turn++) {
        stranger_turn(&stranger);
        m = stranger_next(call, &grpc__health__v1__health_check_response__descriptor);
    }
    if (m != NULL) {
        status = (int)((Grpc__Health__V1__HealthCheckResponse *)m)->status;
        protobuf_c_message_free_unpacked(m, NULL);
    }
    return status;
}

static void end_as(struct stranger_call *call, int status, const char *words)
{
    STRANGER_UNTIL(&stranger, call->status != -1);
    cr_assert(eq(int, call->status, status), "%s", call->text);
    cr_assert(ne(ptr, strstr(call->text, words), NULL), "%s", call->text);
    free(call->in);
    free(call->out);
}

Test(public, watchers_are_told_what_changes_and_no_more)
{
    struct node a;

    node_open(&a, "a", "c", 1, 0);
    stranger_open(&stranger, peer_hub_port(a.hub));
    ask_health(&calls[0], "Watch", "");
    ask_health(&calls[1], "Watch", "outrigger.v1.Other"); /* There is no such service, but there could come one. */
    cr_assert(eq(int, told(&calls[0]), NOT_SERVING));
    cr_assert(eq(int, told(&calls[1]), UNKNOWN_SERVICE));
    peer_hub_serving(a.hub, PEER_SERVICE_NODE, true);
    cr_assert(eq(int, told(&calls[0]), SERVING));
    peer_hub_serving(a.hub, PEER_SERVICE_NODE, true);
    peer_hub_serving(a.hub, PEER_SERVICE_PEER, true);
    cr_assert(eq(int, told(&calls[0]), -1));
    /* What comes while an answer is on its way is told afterwards, and only what holds then. */
    peer_hub_serving(a.hub, PEER_SERVICE_NODE, false);
    peer_hub_serving(a.hub, PEER_SERVICE_NODE, true);
    peer_hub_serving(a.hub, PEER_SERVICE_NODE, false);
    peer_hub_serving(a.hub, PEER_SERVICE_NODE, true);
    cr_assert(eq(int, told(&calls[0]), NOT_SERVING));
    cr_assert(eq(int, told(&calls[0]), SERVING));
    cr_assert(eq(int, told(&calls[0]), -1));
    cr_assert(eq(int, told(&calls[1]), -1));
    cr_assert(eq(int, calls[0].status, -1));
    /* The end: not serving any more, then the watch ends in order. */
    peer_hub_close(a.hub, NULL, NULL);
    cr_assert(eq(int, told(&calls[0]), NOT_SERVING));
    end_as(&calls[0], GRPC_OK, "");
    end_as(&calls[1], GRPC_OK, "");
    stranger_close(&stranger);
    run_for_ms(50);
}

Test(public, health_asks_for_one_message)
{
    struct node a;

    node_open(&a, "a", "c", 1, 0);
    stranger_open(&stranger, peer_hub_port(a.hub));
    stranger_start(&stranger, &calls[0], "/grpc.health.v1.Health/Check");
    stranger_send(&calls[0], "\x0a\x7f", 2, true); /* a name of 127 bytes that are not there */
    end_as(&calls[0], GRPC_INVALID_ARGUMENT, "cannot be parsed");
    stranger_start(&stranger, &calls[1], "/grpc.health.v1.Health/Check");
    stranger_finish(&calls[1]);
    end_as(&calls[1], GRPC_INVALID_ARGUMENT, "no message");
    stranger_start(&stranger, &calls[2], "/grpc.health.v1.Health/Watch");
    stranger_send(&calls[2], "", 0, false);
    stranger_send(&calls[2], "", 0, true);
    end_as(&calls[2], GRPC_INVALID_ARGUMENT, "more than one message");
    /* A watcher who goes away is forgotten: what changes next is told to nobody. */
    ask_health(&calls[3], "Watch", "");
    cr_assert(eq(int, told(&calls[3]), NOT_SERVING));
    nghttp2_submit_rst_stream(stranger.session, NGHTTP2_FLAG_NONE, calls[3].id, NGHTTP2_CANCEL);
    STRANGER_UNTIL(&stranger, a.hub->public_count == 0);
    cr_assert(list_empty(&a.hub->watchers));
    peer_hub_serving(a.hub, PEER_SERVICE_NODE, true);
    free(calls[3].in);
    free(calls[3].out);
    stranger_close(&stranger);
    node_close(&a);
}

Test(public, so_many_calls_at_once_and_no_more)
{
    enum { MOST = 1024 };
    struct node a;

    node_open(&a, "a", "c", 1, 0);
    stranger_open(&stranger, peer_hub_port(a.hub));
    ask_health(&calls[0], "Watch", ""); /* The first answer brings how many streams the server allows. */
    cr_assert(eq(int, told(&calls[0]), NOT_SERVING));
    for (int i = 1; i <= MOST; i++) {
        ask_health(&calls[i], "Watch", "");
    }
    end_as(&calls[MOST], GRPC_RESOURCE_EXHAUSTED, "too many calls");
    cr_assert(eq(uint, a.hub->public_count, MOST));
    stranger_close(&stranger); /* All of them at once. */
    RUN_UNTIL(a.hub->public_count == 0);
    for (int i = 0; i < MOST; i++) {
        free(calls[i].in);
        free(calls[i].out);
    }
    stranger_open(&stranger, peer_hub_port(a.hub));
    ask_health(&calls[0], "Check", "");
    cr_assert(eq(int, told(&calls[0]), NOT_SERVING));
    end_as(&calls[0], GRPC_OK, "");
    stranger_close(&stranger);
    node_close(&a);
}

/* Connections of strangers are bounded, too. */
Test(public, so_many_connections_and_no_more)
{
    struct node a;

    node_open(&a, "a", "c", 1, 0);
    a.hub->incoming_count += HUB_CONNECTIONS_MAX; /* others' */
    stranger_open(&stranger, peer_hub_port(a.hub));
    ask_health(&calls[0], "Check", "");
    STRANGER_UNTIL(&stranger, stranger.closed);
    cr_assert(eq(int, calls[0].status, -1));
    stranger_close(&stranger);
    a.hub->incoming_count -= HUB_CONNECTIONS_MAX;
    stranger_open(&stranger, peer_hub_port(a.hub));
    ask_health(&calls[1], "Check", "");
    cr_assert(eq(int, told(&calls[1]), NOT_SERVING));
    end_as(&calls[1], GRPC_OK, "");
    stranger_close(&stranger);
    free(calls[0].out);
    node_close(&a);
}

/* --- reflection --------------------------------------------------------------------------------------------------- */

typedef Grpc__Reflection__V1__ServerReflectionRequest reflection_request;
typedef Grpc__Reflection__V1__ServerReflectionResponse reflection_response;

static reflection_request ask_for(int what, const char *name)
{
    reflection_request request = GRPC__REFLECTION__V1__SERVER_REFLECTION_REQUEST__INIT;

    request.host = "somewhere";
    request.message_request_case = (Grpc__Reflection__V1__ServerReflectionRequest__MessageRequestCase)what;
    request.file_by_filename = (char *)(uintptr_t)name; /* The strings of the union lie in one place. */
    return request;
}

static reflection_response *reflected(struct stranger_call *call)
{
    ProtobufCMessage *m = NULL;

    STRANGER_UNTIL(&stranger,
                   (m = stranger_next(call, &grpc__reflection__v1__server_reflection_response__descriptor)) != NULL);
    return (reflection_response *)m;
}

enum {
    BY_NAME = GRPC__REFLECTION__V1__SERVER_REFLECTION_REQUEST__MESSAGE_REQUEST_FILE_BY_FILENAME,
    BY_SYMBOL = GRPC__REFLECTION__V1__SERVER_REFLECTION_REQUEST__MESSAGE_REQUEST_FILE_CONTAINING_SYMBOL,
    EXTENSIONS = GRPC__REFLECTION__V1__SERVER_REFLECTION_REQUEST__MESSAGE_REQUEST_ALL_EXTENSION_NUMBERS_OF_TYPE,
    LIST = GRPC__REFLECTION__V1__SERVER_REFLECTION_REQUEST__MESSAGE_REQUEST_LIST_SERVICES,
};

/* What a tool asks, one after the other on one stream; each answer says what it answers. */
Test(public, reflection_shows_services_and_files)
{
    static const struct {
        int what;
        const char *name;
        const char *file; /* that is shown */
        int error;
    } cases[] = {
        {LIST, "", NULL, 0},
        {BY_NAME, "outrigger.proto", "outrigger.proto", 0},
        {BY_NAME, "grpc/health/v1/health.proto", "grpc/health/v1/health.proto", 0},
        {BY_NAME, "passwd", NULL, GRPC_NOT_FOUND},
        {BY_SYMBOL, "outrigger.v1.Peer.Replicate", "outrigger.proto", 0},
        {BY_SYMBOL, "outrigger.v1.Pear", NULL, GRPC_NOT_FOUND},
        {EXTENSIONS, "outrigger.v1.Peer", NULL, GRPC_UNIMPLEMENTED},
    };
    struct node a;

    node_open(&a, "a", "c", 1, 0);
    stranger_open(&stranger, peer_hub_port(a.hub));
    stranger_start(&stranger, &calls[0], "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo");
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        reflection_request request = ask_for(cases[i].what, cases[i].name);
        reflection_response *r;

        stranger_pack(&calls[0], &request.base, false);
        r = reflected(&calls[0]);
        cr_assert(eq(str, r->valid_host, "somewhere"));
        cr_assert(eq(int, (int)r->original_request->message_request_case, cases[i].what));
        cr_assert(eq(str, r->original_request->file_by_filename, (char *)cases[i].name));
        if (cases[i].error != 0) {
            cr_assert(eq(int, (int)r->message_response_case,
                         GRPC__REFLECTION__V1__SERVER_REFLECTION_RESPONSE__MESSAGE_RESPONSE_ERROR_RESPONSE));
            cr_assert(eq(int, r->error_response->error_code, cases[i].error));
            cr_assert(gt(sz, strlen(r->error_response->error_message), 0));
        } else if (cases[i].what == LIST) {
            cr_assert(eq(sz, r->list_services_response->n_service, 4));
            cr_assert(eq(str, r->list_services_response->service[0]->name, "outrigger.v1.Peer"));
            cr_assert(eq(str, r->list_services_response->service[3]->name, "grpc.reflection.v1alpha.ServerReflection"));
        } else {
            struct descriptors file;

            cr_assert(descriptors_file(&descriptors_own, cases[i].file, &file));
            cr_assert(eq(sz, r->file_descriptor_response->n_file_descriptor_proto, 1));
            cr_assert(eq(sz, r->file_descriptor_response->file_descriptor_proto[0].len, file.bytes));
            cr_assert(
                zero(int, memcmp(r->file_descriptor_response->file_descriptor_proto[0].data, file.data, file.bytes)));
        }
        protobuf_c_message_free_unpacked(&r->base, NULL);
    }
    stranger_finish(&calls[0]);
    end_as(&calls[0], GRPC_OK, "");
    stranger_start(&stranger, &calls[1], "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo");
    stranger_send(&calls[1], "\x1a\x7f", 2, false);
    end_as(&calls[1], GRPC_INVALID_ARGUMENT, "cannot be parsed");
    cr_assert(zero(uint, a.hub->public_count));
    stranger_close(&stranger);
    node_close(&a);
}

/* Whoever asks on and on and reads nothing is not read from, so what waits for him stays small; later he gets it all.
 */
Test(public, reflection_waits_for_who_does_not_read)
{
    enum { ASKED = 200, UNREAD_MAX = 128 << 10 };
    reflection_request request = ask_for(BY_NAME, "outrigger.proto");
    struct node a;
    struct conn *c;

    node_open(&a, "a", "c", 1, 0);
    stranger_open(&stranger, peer_hub_port(a.hub));
    stranger_start(&stranger, &calls[0], "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo");
    stranger_pack(&calls[0], &request.base, false);
    protobuf_c_message_free_unpacked(&reflected(&calls[0])->base, NULL);
    stranger.deaf = true;
    for (int i = 1; i < ASKED; i++) {
        stranger_pack(&calls[0], &request.base, i + 1 == ASKED);
    }
    c = list_item(a.hub->incoming.next, struct conn, node);
    for (int turn = 0; turn < 30; turn++) {
        stranger_turn(&stranger);
        cr_assert(le(sz, c->out_bytes, UNREAD_MAX));
    }
    cr_assert(gt(sz, c->out_bytes, 0));
    stranger.deaf = false;
    for (int i = 1; i < ASKED; i++) {
        protobuf_c_message_free_unpacked(&reflected(&calls[0])->base, NULL);
    }
    end_as(&calls[0], GRPC_OK, "");
    stranger_close(&stranger);
    node_close(&a);
}

/* --- descriptors -------------------------------------------------------------------------------------------------- */

static bool declares(const char *symbol, const char *file)
{
    struct descriptors by_symbol, by_name;

    cr_assert(descriptors_file(&descriptors_own, file, &by_name), "%s", file);
    return descriptors_symbol(&descriptors_own, symbol, &by_symbol) && by_symbol.data == by_name.data &&
           by_symbol.bytes == by_name.bytes;
}

Test(descriptors, symbols_lead_to_their_files)
{
    struct descriptors file;

    cr_assert(declares("outrigger.v1.Peer", "outrigger.proto"));
    cr_assert(declares("outrigger.v1.Peer.Replicate", "outrigger.proto"));
    cr_assert(declares("outrigger.v1.SeedFrame.Begin", "outrigger.proto"));
    cr_assert(declares("outrigger.v1.SeedFrame.Begin.points", "outrigger.proto"));
    cr_assert(declares("outrigger.v1.ReplicaMessage.Type", "outrigger.proto"));
    cr_assert(declares("outrigger.v1.Consistency", "outrigger.proto"));
    cr_assert(declares("grpc.health.v1.Health", "grpc/health/v1/health.proto"));
    cr_assert(declares("grpc.reflection.v1.ServerReflection", "grpc/reflection/v1/reflection.proto"));
    cr_assert(declares("grpc.reflection.v1alpha.ServerReflection", "grpc/reflection/v1alpha/reflection.proto"));
    static const char *const none[] = {"",
                                       ".",
                                       "outrigger",
                                       "outrigger.v1",
                                       "outrigger.v1.",
                                       "outrigger.v1.Pee",
                                       "outrigger.v1.Peers",
                                       "outrigger.v1.Peer.",
                                       "outrigger.v1.Peer.Replicat",
                                       "outrigger.v1.Peer.Replicate.x",
                                       "utrigger.v1.Peer"};
    for (size_t i = 0; i < sizeof none / sizeof none[0]; i++) {
        cr_assert(not(descriptors_symbol(&descriptors_own, none[i], &file)), "%s", none[i]);
    }
    cr_assert(not(descriptors_file(&descriptors_own, "outrigger", &file)));
}

Test(descriptors, services_are_all_there)
{
    char names[8][128];
    size_t count = 0;

    while (descriptors_service(&descriptors_own, count, names[count], sizeof names[0])) {
        count++;
    }
    cr_assert(eq(sz, count, 4));
    cr_assert(eq(str, names[0], "outrigger.v1.Peer"));
    cr_assert(eq(str, names[1], "grpc.health.v1.Health"));
    cr_assert(eq(str, names[2], "grpc.reflection.v1.ServerReflection"));
    cr_assert(eq(str, names[3], "grpc.reflection.v1alpha.ServerReflection"));
}

/* Bytes that are no set: nothing is found, nothing read behind the end (the sanitizers look). */
Test(descriptors, damaged_sets_are_harmless)
{
    for (size_t cut = 0; cut < descriptors_own.bytes; cut += 7) {
        uint8_t *copy = malloc(cut + 1);
        struct descriptors set = {copy, cut}, file;
        char name[128];

        memcpy(copy, descriptors_own.data, cut);
        for (size_t at = cut % 97; at < cut; at += 97) {
            copy[at] ^= 0xFF;
        }
        (void)descriptors_file(&set, "outrigger.proto", &file);
        (void)descriptors_symbol(&set, "outrigger.v1.SeedFrame.Begin.points", &file);
        (void)descriptors_service(&set, 3, name, sizeof name);
        free(copy);
    }
}
