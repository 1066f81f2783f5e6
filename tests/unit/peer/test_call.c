/* Unary calls: answers, refusals, time, and what a lost connection means. */
#include "fixture.h"

TestSuite(call, .init = loop_begin, .fini = loop_end, .timeout = 60);

/* A call is answered. */
Test(call, request_and_reply)
{
    struct node a, b;
    struct peer_link *link = pair_open(&a, &b);
    struct reply reply = {0};

    cr_assert(eq(int, call_forward(link, 1000, 1000, &reply), 0));
    cr_assert(zero(uint, reply.count));
    RUN_UNTIL(reply.count == 1);
    cr_assert(eq(int, reply.status, 0));
    cr_assert(eq(uint, reply.value, 1000));
    node_close(&a);
    node_close(&b);
}
