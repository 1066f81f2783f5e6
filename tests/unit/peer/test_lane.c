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
