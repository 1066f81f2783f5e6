/* gRPC's own services: for anybody who may connect, small, and bounded. */
#include "fixture.h"
#include "raw.h"

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
