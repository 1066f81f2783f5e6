/* Lanes: order, bounds, urgency. */
#include "fixture.h"

TestSuite(lane, .init = loop_begin, .fini = loop_end, .timeout = 60);

/* What is sent on a lane arrives in order, with the sender's name. */
Test(lane, frames_arrive_in_order)
{
    struct node a, b;
    struct peer_link *link = pair_open(&a, &b);

    for (unsigned i = 0; i < 10000; i++) {
        cr_assert(eq(int, send_append(link, i, i % 200), 0));
    }
    RUN_UNTIL(b.replicate_count == 10000);
    cr_assert(eq(u64, b.out_of_order, 0));
    cr_assert(eq(str, b.from_node, "a"));
    cr_assert(eq(u64, b.from_incarnation, 11));
    cr_assert(zero(sz, peer_link_queued(link, PEER_LANE_REPLICATE)));
    node_close(&a);
    node_close(&b);
}

/* Sizes around every buffer's edge, and one far above the lane's bound, which may be alone in the queue. */
Test(lane, all_sizes)
{
    static const size_t sizes[] = {0,        1,
                                   2047,     2048,
                                   2049,     16383,
                                   16384,    65531,
                                   65535,    65536,
                                   65537,    (256 << 10) - 9,
                                   1 << 20,  (1 << 20) + 1,
                                   16 << 20, 32u << 20,
                                   64u << 20};
    struct node a, b;
    struct peer_link *link = pair_open(&a, &b);
    uint64_t total = 0;

    for (unsigned i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        RUN_UNTIL(peer_link_queued(link, PEER_LANE_REPLICATE) == 0);
        cr_assert(eq(int, send_append(link, i, sizes[i]), 0));
        total += sizes[i];
    }
    RUN_UNTIL(b.replicate_count == sizeof sizes / sizeof sizes[0]);
    cr_assert(eq(u64, b.replicate_bytes, total));
    cr_assert(zero(u64, b.out_of_order));
    cr_assert(eq(int, send_append(link, 0, PEER_MESSAGE_MAX), OTR_TOOBIG));
    node_close(&a);
    node_close(&b);
}

/* A full lane says OTR_BUSY, keeps its bound, and tells when there is room. */
Test(lane, busy_then_drain)
{
    struct node a, b;
    struct peer_link *link = pair_open(&a, &b);
    uint64_t number = 0;

    for (unsigned round = 1; round <= 3; round++) {
        while (send_append(link, number, 1 << 20) == 0) {
            number++;
        }
        cr_assert(eq(int, send_append(link, number, 1 << 20), OTR_BUSY));
        cr_assert(le(sz, peer_link_queued(link, PEER_LANE_REPLICATE), PEER_LANE_BYTES));
        cr_assert(lt(uint, a.drained, round));
        RUN_UNTIL(a.drained == round);
        cr_assert(eq(int, send_append(link, number, 1 << 20), 0));
        number++;
    }
    RUN_UNTIL(b.replicate_count == number);
    cr_assert(zero(u64, b.out_of_order));
    node_close(&a);
    node_close(&b);
}

/* Of what one loop turn queued, the beacon goes out first. */
Test(lane, beacon_first_of_a_turn)
{
    struct node a, b;
    struct peer_link *link = pair_open(&a, &b);
    uint64_t number = 1;

    cr_assert(zero(int, send_append(link, 0, 1000)));
    RUN_UNTIL(b.replicate_count == 1); /* Both lanes are open by now. */
    while (send_append(link, number, 1000) == 0) {
        number++;
    }
    cr_assert(zero(int, send_beacon(link, 0)));
    RUN_UNTIL(b.beacon_count == 1);
    cr_assert(eq(u64, b.beacon_behind, 1));
    RUN_UNTIL(b.replicate_count == number);
    node_close(&a);
    node_close(&b);
}

/* Nor does it wait behind what a lane has queued before: only behind what the sockets hold already. */
Test(lane, beacons_overtake_a_bulk_transfer)
{
    struct node a, b;
    struct peer_link *link = pair_open(&a, &b);
    uint64_t number = 0;
    uint64_t beacons = 0;
    uint64_t overtaken_least = UINT64_MAX;

    while (number < 300) {
        while (send_append(link, number, 1 << 20) == 0) {
            number++;
        }
        cr_assert(zero(int, send_beacon(link, beacons++)));
        RUN_UNTIL(b.beacon_count == beacons);
        overtaken_least = number - b.beacon_behind < overtaken_least ? number - b.beacon_behind : overtaken_least;
    }
    RUN_UNTIL(b.replicate_count == number);
    cr_assert(zero(u64, b.out_of_order));
    cr_log_info("%lu beacons, each overtook %lu MiB or more of 16; the slowest took %.2f ms", (unsigned long)beacons,
                (unsigned long)overtaken_least, b.beacon_ns_max / 1e6);
    cr_assert(ge(u64, beacons, 10));
    cr_assert(ge(u64, overtaken_least, 6));
    node_close(&a);
    node_close(&b);
}

/* Before a link is UP, and after, sending fails at once. */
Test(lane, unreachable_when_not_up)
{
    struct node a, b;
    struct peer_link *link;

    node_open(&a, "a", "test", 11, 0);
    node_open(&b, "b", "test", 22, 0);
    link = node_dial(&a, "b", &b);
    cr_assert(eq(int, send_append(link, 0, 1), OTR_UNREACHABLE));
    RUN_UNTIL(peer_link_up(link));
    cr_assert(eq(int, send_append(link, 0, 1), 0));
    node_close(&b);
    RUN_UNTIL(!peer_link_up(link));
    cr_assert(eq(int, send_append(link, 1, 1), OTR_UNREACHABLE));
    cr_assert(zero(sz, peer_link_queued(link, PEER_LANE_REPLICATE)));
    node_close(&a);
}
