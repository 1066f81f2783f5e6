/* Links: up, down, refused; who may talk to whom. */
#include "fixture.h"

TestSuite(link, .init = loop_begin, .fini = loop_end, .timeout = 30);

/* A link is UP once the expected node has answered Hello, and says which incarnation did. */
Test(link, up_with_the_incarnation_of_the_peer)
{
    struct node a, b;
    struct peer_link *link = pair_open(&a, &b);

    cr_assert(eq(uint, a.events_count, 1));
    cr_assert(eq(int, a.events[0].state, PEER_LINK_UP));
    cr_assert(eq(u64, a.events[0].incarnation, 22));
    cr_assert(eq(str, (char *)peer_link_node(link), "b"));
    node_close(&a);
    node_close(&b);
}
