/* A peer for interop.js. Prints its port and then serves: Forward answers with the length of its body, Count fails with
 * words and turns the health of outrigger.v1.Peer over, Search never answers, Get tells how many frames the lanes got,
 * Seed counts points. With a port as argument it also dials node "js" there, and says on standard output what came of
 * it. Ends when standard input does. */
#include "sidecar/peer/peer.h"

#include <stdio.h>
#include <stdlib.h>

struct app {
    struct peer_hub *hub;
    struct peer_link *link;
    struct peer_call *unanswered;
    struct peer_stream *seed;
    unsigned replicate_count;
    unsigned beacon_count;
    unsigned points;
    unsigned seed_sent;
    unsigned intruders;
    bool serving;
};

static void say(const char *what, int status, uint64_t number, const char *text)
{
    printf("%s %d %llu %s\n", what, status, (unsigned long long)number, text);
    fflush(stdout);
}

/* --- what we ask of the other side
 * -------------------------------------------------------------------------------------- */

static void on_forward(void *data, int status, const ProtobufCMessage *reply, const struct otr_errmsg *msg)
{
    (void)data;
    say("forward", status, status == 0 ? ((const Outrigger__V1__ForwardReply *)reply)->outcome : 0, msg->text);
}

static void on_count(void *data, int status, const ProtobufCMessage *reply, const struct otr_errmsg *msg)
{
    (void)data;
    (void)reply;
    say("count", status, 0, msg->text);
}

static void on_search(void *data, int status, const ProtobufCMessage *reply, const struct otr_errmsg *msg)
{
    (void)data;
    (void)reply;
    say("search", status, 0, msg->text);
}

static void on_seeded(void *data, int status, const ProtobufCMessage *reply, const struct otr_errmsg *msg)
{
    (void)data;
    say("seed", status, status == 0 ? ((const Outrigger__V1__SeedReply *)reply)->log_id : 0, msg->text);
}

static void on_room(void *data, struct peer_stream *stream)
{
    struct app *app = data;
    static uint8_t body[10000];
    Outrigger__V1__SeedFrame__Points points = OUTRIGGER__V1__SEED_FRAME__POINTS__INIT;
    Outrigger__V1__SeedFrame frame = OUTRIGGER__V1__SEED_FRAME__INIT;

    points.body = (ProtobufCBinaryData){.data = body, .len = sizeof body};
    frame.points = &points;
    while (app->seed_sent < 1000) {
        if (peer_seed_send(stream, &frame) != 0) {
            return;
        }
        app->seed_sent++;
    }
    peer_seed_finish(stream);
}

static void send_frames(struct app *app)
{
    Outrigger__V1__ReplicaMessage message = OUTRIGGER__V1__REPLICA_MESSAGE__INIT;
    Outrigger__V1__ReplicaMessage *messages[] = {&message};
    Outrigger__V1__ReplicateFrame replicate = OUTRIGGER__V1__REPLICATE_FRAME__INIT;
    Outrigger__V1__BeaconFrame beacon = OUTRIGGER__V1__BEACON_FRAME__INIT;
    static uint8_t entries[100000];

    beacon.n_messages = replicate.n_messages = 1;
    beacon.messages = replicate.messages = messages;
    for (unsigned i = 0; i < 100; i++) {
        message.last_index = i;
        message.entries = (ProtobufCBinaryData){.data = entries, .len = sizeof entries};
        (void)peer_link_send(app->link, PEER_LANE_REPLICATE, &replicate.base);
        message.entries.len = 0;
        (void)peer_link_send(app->link, PEER_LANE_BEACON, &beacon.base);
    }
}

static void on_link(void *data, struct peer_link *link, enum peer_link_state state, uint64_t incarnation,
                    const struct otr_errmsg *why)
{
    struct app *app = data;
    Outrigger__V1__ForwardRequest forward = OUTRIGGER__V1__FORWARD_REQUEST__INIT;
    Outrigger__V1__CountRequest count = OUTRIGGER__V1__COUNT_REQUEST__INIT;
    Outrigger__V1__SearchRequest search = OUTRIGGER__V1__SEARCH_REQUEST__INIT;
    static uint8_t body[3000000];

    say("link", (int)state, incarnation, why->text);
    if (state != PEER_LINK_UP) {
        return;
    }
    forward.body = (ProtobufCBinaryData){.data = body, .len = sizeof body};
    (void)peer_link_call(link, PEER_FORWARD, &forward.base, 5000, on_forward, app);
    (void)peer_link_call(link, PEER_COUNT, &count.base, 5000, on_count, app);
    (void)peer_link_call(link, PEER_SEARCH, &search.base, 200, on_search, app);
    (void)peer_seed_open(link, &app->seed, on_room, on_seeded, app);
    send_frames(app);
}

/* --- what we answer
 * ----------------------------------------------------------------------------------------------------- */

static void on_drain(void *data, struct peer_link *link, enum peer_lane lane)
{
    (void)data;
    (void)link;
    (void)lane;
}

static void on_replicate(void *data, const struct peer_from *from, const Outrigger__V1__ReplicateFrame *frame)
{
    (void)from;
    ((struct app *)data)->replicate_count += (unsigned)frame->n_messages;
}

static void on_beacon(void *data, const struct peer_from *from, const Outrigger__V1__BeaconFrame *frame)
{
    (void)from;
    ((struct app *)data)->beacon_count += (unsigned)frame->n_messages;
}

static void on_call(void *data, struct peer_call *call, enum peer_method method, const struct peer_from *from,
                    const ProtobufCMessage *request)
{
    struct app *app = data;
    Outrigger__V1__ForwardReply forward = OUTRIGGER__V1__FORWARD_REPLY__INIT;
    Outrigger__V1__GetReply get = OUTRIGGER__V1__GET_REPLY__INIT;
    char text[100];

    switch (method) {
    case PEER_FORWARD:
        forward.outcome = (uint32_t)((const Outrigger__V1__ForwardRequest *)request)->body.len;
        forward.message = (char *)(uintptr_t)from->node;
        peer_call_reply(call, &forward.base);
        break;
    case PEER_GET:
        snprintf(text, sizeof text, "%u %u", app->replicate_count, app->beacon_count);
        get.message = text;
        peer_call_reply(call, &get.base);
        break;
    case PEER_SEARCH:
        app->unanswered = call;
        break;
    default:
        app->serving = !app->serving;
        peer_hub_serving(app->hub, PEER_SERVICE_PEER, app->serving);
        peer_call_fail(call, 9, "not today: 100% \xc3\xa4");
        break;
    }
}

static void on_seed(void *data, struct peer_call *call, const struct peer_from *from,
                    const Outrigger__V1__SeedFrame *frame)
{
    struct app *app = data;
    Outrigger__V1__SeedReply reply = OUTRIGGER__V1__SEED_REPLY__INIT;

    (void)from;
    if (frame == NULL) {
        return;
    }
    if (frame->end == NULL) {
        app->points++;
        peer_call_next(call);
        return;
    }
    reply.ok = true;
    reply.log_id = app->points;
    peer_call_reply(call, &reply.base);
}

static void on_intruder(void *data, const struct peer_from *from, const char *cluster)
{
    (void)from;
    (void)cluster;
    ((struct app *)data)->intruders++;
}

/* --- life
 * --------------------------------------------------------------------------------------------------------------- */

static void on_hub_closed(void *data)
{
    struct app *app = data;
    Outrigger__V1__SearchReply late = OUTRIGGER__V1__SEARCH_REPLY__INIT;

    if (app->unanswered != NULL) {
        peer_call_reply(app->unanswered, &late.base);
    }
}

static void on_input(uv_poll_t *poll, int status, int events)
{
    struct app *app = poll->data;
    char c;

    (void)status;
    (void)events;
    if (fread(&c, 1, 1, stdin) == 0) {
        uv_close((uv_handle_t *)poll, NULL);
        peer_hub_close(app->hub, on_hub_closed, app);
    }
}

int main(int argc, char **argv)
{
    struct app app = {0};
    struct peer_config config = {
        .loop = uv_default_loop(),
        .cluster = "interop",
        .node = "c",
        .version = "test",
        .incarnation = 7,
        .listen_host = "127.0.0.1",
        .handlers = {on_link, on_drain, on_replicate, on_beacon, on_call, on_seed, on_intruder},
        .data = &app,
    };
    struct otr_errmsg msg;
    uv_poll_t input;

    if (peer_hub_new(&app.hub, &config, &msg) != 0) {
        fprintf(stderr, "%s\n", msg.text);
        return 1;
    }
    printf("%u\n", peer_hub_port(app.hub));
    fflush(stdout);
    if (argc > 1) {
        app.link = peer_link_open(app.hub, "js", "127.0.0.1", (uint16_t)atoi(argv[1]), NULL);
    }
    uv_poll_init(config.loop, &input, 0);
    input.data = &app;
    uv_poll_start(&input, UV_READABLE | UV_DISCONNECT, on_input);
    uv_run(config.loop, UV_RUN_DEFAULT);
    return uv_loop_close(config.loop) == 0 ? 0 : 1;
}
