/* Seed streams: order, backpressure, breaking off. */
#include "fixture.h"

TestSuite(seed, .init = loop_begin, .fini = loop_end, .timeout = 60);

struct sender {
    struct peer_stream *stream;
    uint64_t frames;
    uint64_t sent;
    size_t frame_bytes;
    bool no_end;
    unsigned rooms;
    struct reply reply;
};

static int send_points(struct sender *s)
{
    Outrigger__V1__SeedFrame frame = OUTRIGGER__V1__SEED_FRAME__INIT;
    Outrigger__V1__SeedFrame__Points points = OUTRIGGER__V1__SEED_FRAME__POINTS__INIT;
    int rv;

    points.body.data = calloc(1, s->frame_bytes);
    points.body.len = s->frame_bytes;
    memcpy(points.body.data, &s->sent, sizeof s->sent);
    frame.points = &points;
    rv = peer_seed_send(s->stream, &frame);
    free(points.body.data);
    return rv;
}

static int send_end(struct sender *s)
{
    Outrigger__V1__SeedFrame frame = OUTRIGGER__V1__SEED_FRAME__INIT;
    Outrigger__V1__SeedFrame__End end = OUTRIGGER__V1__SEED_FRAME__END__INIT;

    frame.end = &end;
    return s->no_end ? 0 : peer_seed_send(s->stream, &frame);
}

static void on_room(void *data, struct peer_stream *stream)
{
    struct sender *s = data;
    int rv = 0;

    cr_assert(eq(ptr, stream, s->stream));
    s->rooms++;
    while (s->sent < s->frames && (rv = send_points(s)) == 0) {
        s->sent++;
    }
    if (rv == 0) {
        rv = send_end(s);
    }
    if (rv == 0) {
        peer_seed_finish(stream);
    }
    cr_assert(rv == 0 || rv == OTR_BUSY);
}

static void on_done(void *data, int status, const ProtobufCMessage *reply, const struct otr_errmsg *msg)
{
    on_reply(&((struct sender *)data)->reply, status, reply, msg);
}

static void sender_open(struct sender *s, struct peer_link *link)
{
    cr_assert(zero(int, peer_seed_open(link, &s->stream, on_room, on_done, s)));
    cr_assert(zero(uint, s->rooms));
}

/* Every frame arrives once, in order, then the reply. */
Test(seed, frames_then_reply)
{
    struct node a, b;
    struct peer_link *link = pair_open(&a, &b);
    struct sender s = {.frames = 20000, .frame_bytes = 2000};

    sender_open(&s, link);
    RUN_UNTIL(s.reply.count == 1);
    cr_assert(eq(int, s.reply.status, 0), "%s", s.reply.text);
    cr_assert(eq(uint, s.reply.value, 20000));
    cr_assert(eq(u64, b.seed_frames, 20000));
    cr_assert(zero(u64, b.out_of_order));
    cr_assert(gt(uint, s.rooms, 10)); /* The queue filled and drained again and again. */
    cr_assert(zero(uint, b.seed_broken));
    node_close(&a);
    node_close(&b);
}

/* Frames far larger than the windows. */
Test(seed, large_frames)
{
    struct node a, b;
    struct peer_link *link = pair_open(&a, &b);
    struct sender s = {.frames = 4, .frame_bytes = 40 << 20};

    sender_open(&s, link);
    RUN_UNTIL(s.reply.count == 1);
    cr_assert(eq(int, s.reply.status, 0), "%s", s.reply.text);
    cr_assert(eq(u64, b.seed_bytes, 4ULL * (40 << 20)));
    node_close(&a);
    node_close(&b);
}

/* A receiver that does not ask for the next frame stops the sender, while other streams of the connection go on. */
Test(seed, backpressure)
{
    struct node a, b;
    struct peer_link *link = pair_open(&a, &b);
    struct sender s = {.frames = 100000, .frame_bytes = 1000};
    struct reply reply = {0};
    uint64_t sent;

    b.seed_stall = true;
    sender_open(&s, link);
    RUN_UNTIL(b.seed_frames == 1);
    do {
        sent = s.sent;
        run_for_ms(200);
    } while (s.sent != sent);
    cr_assert(eq(u64, b.seed_frames, 1));
    cr_assert(le(u64, sent, 20 << 10)); /* A window of 16 MiB, the sender's queue, the socket. */
    for (unsigned i = 0; i < 20; i++) {
        (void)send_append(link, i, 1 << 20); /* A few may be refused. */
    }
    RUN_UNTIL(b.replicate_count >= 15);
    cr_assert(zero(int, call_forward(link, 10 << 20, 5000, &reply)));
    RUN_UNTIL(reply.count == 1);
    cr_assert(zero(int, reply.status));
    b.seed_stall = false;
    peer_call_next(b.seed_call);
    RUN_UNTIL(s.reply.count == 1);
    cr_assert(zero(int, s.reply.status));
    cr_assert(eq(u64, b.seed_frames, 100000));
    cr_assert(zero(u64, b.out_of_order));
    node_close(&a);
    node_close(&b);
}

/* The sender gives up: the receiver is told once, the sender's done says canceled. */
Test(seed, canceled_by_the_sender)
{
    struct node a, b;
    struct peer_link *link = pair_open(&a, &b);
    struct sender s = {.frames = 100000, .frame_bytes = 1000};

    b.seed_stall = true;
    sender_open(&s, link);
    RUN_UNTIL(b.seed_frames == 1);
    peer_seed_cancel(s.stream);
    cr_assert(zero(uint, s.reply.count));
    RUN_UNTIL(s.reply.count == 1 && b.seed_broken == 1);
    cr_assert(eq(int, s.reply.status, OTR_CANCELED));
    cr_assert(peer_link_up(link));
    node_close(&a);
    node_close(&b);
    cr_assert(eq(uint, b.seed_broken, 1));
}

/* The receiver refuses in the middle: the sender hears why. */
Test(seed, refused_by_the_receiver)
{
    struct node a, b;
    struct peer_link *link = pair_open(&a, &b);
    struct sender s = {.frames = 100000, .frame_bytes = 1000};

    b.seed_stall = true;
    sender_open(&s, link);
    RUN_UNTIL(b.seed_frames == 1);
    peer_call_fail(b.seed_call, 9, "no such shard");
    RUN_UNTIL(s.reply.count == 1);
    cr_assert(eq(int, s.reply.status, OTR_PROTO));
    cr_assert(strstr(s.reply.text, "no such shard") != NULL, "%s", s.reply.text);
    run_for_ms(50);
    cr_assert(zero(uint, b.seed_broken));
    cr_assert(peer_link_up(link));
    node_close(&a);
    node_close(&b);
}

/* A stream that ends without its last frame broke off, for both. */
Test(seed, ends_too_early)
{
    struct node a, b;
    struct peer_link *link = pair_open(&a, &b);
    struct sender s = {.frames = 10, .frame_bytes = 1000, .no_end = true};

    sender_open(&s, link);
    RUN_UNTIL(s.reply.count == 1 && b.seed_broken == 1);
    cr_assert(eq(int, s.reply.status, OTR_PROTO), "%s", s.reply.text);
    cr_assert(eq(u64, b.seed_frames, 10));
    node_close(&a);
    node_close(&b);
}

/* The connection ends in the middle. */
Test(seed, connection_lost)
{
    struct node a, b;
    struct peer_link *link = pair_open(&a, &b);
    struct sender s = {.frames = 100000, .frame_bytes = 1000};

    b.seed_stall = true;
    sender_open(&s, link);
    RUN_UNTIL(b.seed_frames == 1);
    node_close(&b);
    cr_assert(eq(uint, b.seed_broken, 1));
    RUN_UNTIL(s.reply.count == 1);
    cr_assert(eq(int, s.reply.status, OTR_UNKNOWN));
    cr_assert(eq(int, peer_seed_open(link, &s.stream, on_room, on_done, &s), OTR_UNREACHABLE));
    node_close(&a);
}

/* Hubs close with everything under way: every callback comes once, nothing is left (run under ASan). */
Test(seed, close_with_everything_in_flight)
{
    for (unsigned turns = 0; turns < 12; turns++) {
        struct node a, b;
        struct peer_link *link = pair_open(&a, &b);
        struct peer_link *back = node_dial(&b, "a", &a);
        struct sender s = {.frames = 100000, .frame_bytes = 1000};
        struct reply replies[50] = {0};

        b.seed_stall = turns % 2 == 0;
        RUN_UNTIL(peer_link_up(back));
        sender_open(&s, link);
        for (unsigned i = 0; i < 50; i++) {
            cr_assert(zero(int, call_forward(i % 2 == 0 ? link : back, i * 10000, 5000, &replies[i])));
            cr_assert(zero(int, send_append(link, i, 100000)));
            cr_assert(zero(int, send_append(back, i, 100000)));
            cr_assert(zero(int, send_beacon(link, i)));
        }
        for (unsigned i = 0; i < turns; i++) {
            run_once();
        }
        if (turns % 3 == 0) {
            peer_seed_cancel(s.stream);
        }
        if (turns % 4 == 1) {
            peer_hub_close(b.hub, NULL, NULL);
        }
        node_close(&a);
        cr_assert(eq(uint, s.reply.count, 1));
        if (turns % 4 != 1) {
            node_close(&b);
        }
        run_for_ms(20);
        for (unsigned i = 0; i < 50; i++) {
            cr_assert(eq(uint, replies[i].count, 1));
        }
    }
}
