/* Every allocation and every other call fails once: links come up again, each call and each seed ends once, what is
 * reported as never sent was not received, and nothing is left over. */
#include "fixture.h"
#include "tests/lib/fail_calls.h"

TestSuite(failing, .init = loop_begin, .fini = loop_end, .timeout = 300);

struct seeding {
    struct peer_stream *stream;
    uint64_t sent;
    bool ended;
    struct reply reply;
};

static void on_seed_room(void *data, struct peer_stream *stream)
{
    struct seeding *s = data;
    Outrigger__V1__SeedFrame frame = OUTRIGGER__V1__SEED_FRAME__INIT;
    Outrigger__V1__SeedFrame__Points points = OUTRIGGER__V1__SEED_FRAME__POINTS__INIT;
    Outrigger__V1__SeedFrame__End end = OUTRIGGER__V1__SEED_FRAME__END__INIT;
    uint8_t body[3000] = {0};
    int rv = 0;

    points.body.data = body;
    points.body.len = sizeof body;
    frame.points = &points;
    while (s->sent < 3 && rv == 0) {
        memcpy(body, &s->sent, sizeof s->sent);
        rv = peer_seed_send(stream, &frame);
        s->sent += rv == 0;
    }
    frame.points = NULL;
    frame.end = &end;
    rv = rv == 0 && !s->ended ? peer_seed_send(stream, &frame) : rv;
    if (rv == 0 && !s->ended) {
        s->ended = true;
        peer_seed_finish(stream);
    } else if (rv == OTR_NOMEM) {
        peer_seed_cancel(stream);
    }
}

static void on_seed_done(void *data, int status, const ProtobufCMessage *reply, const struct otr_errmsg *msg)
{
    struct seeding *s = data;

    on_reply(&s->reply, status, reply, msg);
}

/* Waits for the link, however often it is lost. */
static void wait_up(struct peer_link *link)
{
    uint64_t until = uv_hrtime() + 10000000000ULL;

    while (!peer_link_up(link)) {
        cr_assert(lt(u64, uv_hrtime(), until), "the link never came up after %s failed", fail_calls_name());
        run_once();
    }
}

static void talk(struct peer_link *link, struct node *b)
{
    struct reply small = {0};
    struct reply large = {0};
    struct seeding seeding = {0};
    unsigned calls = b->calls_count;
    int rv;

    wait_up(link);
    for (uint64_t i = 0; i < 3; i++) {
        rv = send_append(link, i, 5000);
        cr_assert(rv == 0 || rv == OTR_NOMEM || rv == OTR_UNREACHABLE);
    }
    (void)send_beacon(link, 0);
    rv = call_forward(link, 10, 5000, &small);
    cr_assert(rv == 0 || rv == OTR_NOMEM);
    if (rv == 0) {
        RUN_UNTIL(small.count > 0);
        cr_assert(not(small.status == OTR_UNREACHABLE && b->calls_count != calls), "processed after all: %s",
                  small.text);
        cr_assert(small.status != 0 || b->calls_count == calls + 1);
    }
    wait_up(link);
    b->reply_bytes = 100000;
    rv = call_forward(link, 100000, 5000, &large);
    if (rv == 0) {
        RUN_UNTIL(large.count > 0);
        cr_assert(large.status != 0 || large.body_bytes == 100000);
    }
    wait_up(link);
    rv = peer_seed_open(link, &seeding.stream, on_seed_room, on_seed_done, &seeding);
    cr_assert(rv == 0 || rv == OTR_NOMEM || rv == OTR_UNREACHABLE);
    if (rv == 0) {
        RUN_UNTIL(seeding.reply.count > 0);
        cr_assert(seeding.reply.status != 0 || (b->seed_frames == 3 && seeding.reply.value == 3));
    }
    cr_assert(eq(uint, small.count > 1 || large.count > 1 || seeding.reply.count > 1, 0));
    /* What waits in a lane when its link is lost is lost with it. */
    cr_assert(fail_calls_name()[0] != '\0' ||
              (b->replicate_count == 3 && b->beacon_count == 1 && b->out_of_order == 0));
}

static void life(void *data)
{
    static struct node a, b;
    struct peer_link *link;
    struct otr_errmsg msg = {0};
    int rv = node_try(&a, "a", "test", 11, 0, &msg);

    (void)data;
    cr_assert(eq(int, rv != 0, msg.text[0] != '\0'));
    if (rv != 0) {
        return;
    }
    rv = node_try(&b, "b", "test", 22, 0, &msg);
    cr_assert(eq(int, rv != 0, msg.text[0] != '\0'));
    if (rv == 0) {
        link = peer_link_open(a.hub, "b", "127.0.0.1", peer_hub_port(b.hub), &a);
        if (link != NULL) {
            talk(link, &b);
        }
        node_close(&b);
    }
    node_close(&a);
}

Test(failing, two_hubs)
{
    cr_assert(gt(uint, fail_each(life, NULL), 100));
}

Test(failing, two_hubs_with_tls)
{
    secure_begin();
    cr_assert(gt(uint, fail_each(life, NULL), 100));
}
