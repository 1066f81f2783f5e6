/* Links: up, down, refused; who may talk to whom; time. */
#include "fixture.h"

#include <arpa/inet.h>
#include <signal.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

TestSuite(link, .init = loop_begin, .fini = loop_end, .timeout = 30);

/* --- helpers ------------------------------------------------------------------------------------------------------ */

/* A socket that holds a port; listening or not. */
static int hold_port(uint16_t *port, int backlog)
{
    struct sockaddr_in address = {.sin_family = AF_INET};
    socklen_t length = sizeof address;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    int one = 1;

    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    cr_assert(zero(int, bind(fd, (struct sockaddr *)&address, sizeof address)));
    if (backlog >= 0) {
        cr_assert(zero(int, listen(fd, backlog)));
    }
    getsockname(fd, (struct sockaddr *)&address, &length);
    *port = ntohs(address.sin_port);
    return fd;
}

/* Node "b" in a process of its own, until it is killed. */
static pid_t child_node(uint16_t *port)
{
    int ends[2];
    pid_t pid;

    cr_assert(zero(int, pipe(ends)));
    pid = fork();
    if (pid == 0) {
        uv_loop_t own;
        struct node b;

        prctl(PR_SET_PDEATHSIG, SIGKILL); /* Not to outlive a test that fails. */
        uv_loop_init(&own);
        loop = &own;
        node_open(&b, "b", "test", 22, 0);
        *port = peer_hub_port(b.hub);
        (void)!write(ends[1], port, sizeof *port);
        uv_run(&own, UV_RUN_DEFAULT);
        _exit(0);
    }
    cr_assert(eq(sz, (size_t)read(ends[0], port, sizeof *port), sizeof *port));
    close(ends[0]);
    close(ends[1]);
    return pid;
}

static struct peer_link *dial_port(struct node *a, uint16_t port)
{
    struct peer_link *link = peer_link_open(a->hub, "b", "127.0.0.1", port, a);

    cr_assert(link != NULL);
    return link;
}

static unsigned count_events(const struct node *n, enum peer_link_state state)
{
    unsigned count = 0;

    for (unsigned i = 0; i < n->events_count; i++) {
        count += n->events[i].state == state;
    }
    return count;
}

static size_t resident_bytes(void)
{
    FILE *f = fopen("/proc/self/statm", "r");
    unsigned long total, resident;

    cr_assert(eq(int, fscanf(f, "%lu %lu", &total, &resident), 2));
    fclose(f);
    return resident * 4096;
}

/* --- up and down -------------------------------------------------------------------------------------------------- */

/* A link is UP once the expected node has answered Hello, and says which incarnation did. */
Test(link, up_with_the_incarnation_of_the_peer)
{
    struct node a, b;
    struct peer_link *link = pair_open(&a, &b);

    cr_assert(eq(uint, a.events_count, 1));
    cr_assert(eq(int, a.events[0].state, PEER_LINK_UP));
    cr_assert(eq(u64, a.events[0].incarnation, 22));
    cr_assert(eq(str, (char *)peer_link_node(link), "b"));
    cr_assert(eq(ptr, peer_link_data(link), &a));
    node_close(&a);
    node_close(&b);
}

/* Each side says what it understands; who does not say so understands nothing. */
Test(link, encodings_are_what_the_peer_said)
{
    struct node a, b;
    struct peer_link *link, *back;

    node_open(&a, "a", "test", 11, 0);
    node_open(&b, "b", "test", 22, 0);
    link = node_dial(&a, "b", &b);
    cr_assert(zero(u32, peer_link_encodings(link)));
    back = node_dial(&b, "a", &a);
    RUN_UNTIL(peer_link_up(link) && peer_link_up(back));
    cr_assert(eq(u32, peer_link_encodings(link), 44));
    cr_assert(eq(u32, peer_link_encodings(back), 22));
    node_close(&b);
    cr_assert(zero(u32, peer_link_encodings(link)));
    node_close(&a);
}

/* Nobody listens: REFUSED once, however often it is dialled; UP soon after somebody does. */
Test(link, refused_at_first_then_up)
{
    struct node a, b;
    uint16_t port;
    int fd = hold_port(&port, -1);
    struct peer_link *link;

    node_open(&a, "a", "test", 11, 0);
    link = dial_port(&a, port);
    RUN_UNTIL(a.events_count == 1);
    cr_assert(eq(int, a.events[0].state, PEER_LINK_REFUSED));
    cr_assert(eq(u64, a.events[0].incarnation, 0));
    run_for_ms(300);
    cr_assert(eq(uint, a.events_count, 1));
    cr_assert(not(peer_link_up(link)));
    close(fd);
    node_open(&b, "b", "test", 22, port);
    RUN_UNTIL(peer_link_up(link));
    cr_assert(eq(int, last_event(&a)->state, PEER_LINK_UP));
    node_close(&a);
    node_close(&b);
}

/* A killed process is evident at once: DOWN, then REFUSED, within milliseconds (PROTOCOL V2). */
Test(link, a_killed_peer_is_refused_at_once)
{
    struct node a;
    uint16_t port;
    pid_t pid = child_node(&port);
    struct peer_link *link;
    uint64_t killed_ns;

    node_open(&a, "a", "test", 11, 0);
    link = dial_port(&a, port);
    RUN_UNTIL(peer_link_up(link));
    killed_ns = uv_hrtime();
    kill(pid, SIGKILL);
    RUN_UNTIL(a.events_count == 3);
    cr_assert(eq(int, a.events[1].state, PEER_LINK_DOWN));
    cr_assert(eq(int, a.events[2].state, PEER_LINK_REFUSED));
    cr_assert(eq(u64, a.events[2].incarnation, 22));
    cr_assert(le(u64, a.events[2].at_ns - a.events[1].at_ns, 20000000));
    cr_log_info("DOWN %.2f ms and REFUSED %.2f ms after SIGKILL", (a.events[1].at_ns - killed_ns) / 1e6,
                (a.events[2].at_ns - killed_ns) / 1e6);
    waitpid(pid, NULL, 0);
    node_close(&a);
}

/* A restarted peer answers with another incarnation: DOWN first, then UP with the new one. */
Test(link, restart_with_another_incarnation)
{
    struct node a, b;
    struct peer_link *link = pair_open(&a, &b);
    uint16_t port = peer_hub_port(b.hub);

    node_close(&b);
    RUN_UNTIL(!peer_link_up(link));
    node_open(&b, "b", "test", 23, port);
    RUN_UNTIL(peer_link_up(link));
    cr_assert(eq(uint, count_events(&a, PEER_LINK_UP), 2));
    cr_assert(eq(uint, count_events(&a, PEER_LINK_DOWN), 1));
    cr_assert(eq(int, a.events[1].state, PEER_LINK_DOWN));
    cr_assert(eq(int, last_event(&a)->state, PEER_LINK_UP));
    cr_assert(eq(u64, last_event(&a)->incarnation, 23));
    node_close(&a);
    node_close(&b);
}

/* Another address is dialled at once; the same one changes nothing. */
Test(link, another_address)
{
    struct node a, b, c;
    struct peer_link *link = pair_open(&a, &b);

    node_open(&c, "b", "test", 33, 0);
    cr_assert(zero(int, peer_link_address(link, "127.0.0.1", peer_hub_port(b.hub))));
    run_for_ms(50);
    cr_assert(eq(uint, a.events_count, 1));
    cr_assert(zero(int, peer_link_address(link, "127.0.0.1", peer_hub_port(c.hub))));
    RUN_UNTIL(a.events_count == 3);
    cr_assert(eq(int, a.events[1].state, PEER_LINK_DOWN));
    cr_assert(eq(int, a.events[2].state, PEER_LINK_UP));
    cr_assert(eq(u64, a.events[2].incarnation, 33));
    node_close(&a);
    node_close(&b);
    node_close(&c);
}

/* Hosts may be names; one that does not exist is DOWN with words. */
Test(link, names_are_resolved)
{
    struct node a, b;
    struct peer_link *link, *nowhere;

    node_open(&a, "a", "test", 11, 0);
    node_open(&b, "b", "test", 22, 0);
    link = peer_link_open(a.hub, "b", "localhost", peer_hub_port(b.hub), NULL);
    RUN_UNTIL(peer_link_up(link));
    cr_assert(eq(uint, a.events_count, 1));
    nowhere = peer_link_open(a.hub, "c", "no.such.host.invalid", 1, NULL);
    RUN_UNTIL(a.events_count == 2);
    cr_assert(eq(int, a.events[1].state, PEER_LINK_DOWN));
    peer_link_close(nowhere);
    node_close(&a);
    node_close(&b);
}

/* --- silence ------------------------------------------------------------------------------------------------------ */

/* SYNs that nobody answers: DOWN after the connect timeout. */
Test(link, no_answer_to_connecting)
{
    struct node a;
    uint16_t port;
    int fd = hold_port(&port, 0);
    int fill[8];
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
    uint64_t begun_ns;

    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    for (unsigned i = 0; i < 8; i++) { /* A full backlog drops what comes next. */
        fill[i] = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
        (void)!connect(fill[i], (struct sockaddr *)&address, sizeof address);
    }
    node_open(&a, "a", "test", 11, 0);
    begun_ns = uv_hrtime();
    dial_port(&a, port);
    RUN_UNTIL(a.events_count == 1);
    cr_assert(eq(int, a.events[0].state, PEER_LINK_DOWN));
    cr_assert(ge(u64, a.events[0].at_ns - begun_ns, 450000000));
    cr_assert(le(u64, a.events[0].at_ns - begun_ns, 1500000000));
    for (unsigned i = 0; i < 8; i++) {
        close(fill[i]);
    }
    close(fd);
    node_close(&a);
}

/* A socket that accepts and says nothing is DOWN after three seconds, never REFUSED. */
Test(link, accepts_but_never_answers)
{
    struct node a;
    uint16_t port;
    int fd = hold_port(&port, 16);

    node_open(&a, "a", "test", 11, 0);
    dial_port(&a, port);
    RUN_UNTIL(a.events_count == 1);
    cr_assert(eq(int, a.events[0].state, PEER_LINK_DOWN));
    cr_assert(zero(uint, count_events(&a, PEER_LINK_REFUSED)));
    close(fd);
    node_close(&a);
}

/* A stopped process is DOWN after about three seconds of silence, not REFUSED; what is sent meanwhile is bounded; and
 * when it goes on, so does the link. */
Test(link, stopped_peer_costs_bounded_memory)
{
    struct node a;
    uint16_t port;
    pid_t pid = child_node(&port);
    struct peer_link *link;
    struct reply reply = {0};
    size_t resident = resident_bytes();
    uint64_t number = 0;
    uint64_t stopped_ns;
    uint64_t sent_bytes, blocked_ns;
    int rv;

    node_open(&a, "a", "test", 11, 0);
    link = dial_port(&a, port);
    RUN_UNTIL(peer_link_up(link));
    kill(pid, SIGSTOP);
    stopped_ns = uv_hrtime();
    cr_assert(zero(int, call_forward(link, 100, 0, &reply)));
    while (peer_link_up(link)) {
        do {
            rv = send_append(link, number++, 64 << 10);
        } while (rv == 0);
        cr_assert(rv == OTR_BUSY || rv == OTR_UNREACHABLE);
        cr_assert(le(sz, peer_link_queued(link, PEER_LANE_REPLICATE), PEER_LANE_BYTES));
        peer_link_pace(link, &sent_bytes, &blocked_ns);
        run_once();
    }
    cr_assert(gt(u64, blocked_ns, 1500000000)); /* Its socket was full for nearly all of the time. */
    cr_assert(gt(u64, sent_bytes, 1000));
#ifndef __SANITIZE_ADDRESS__ /* It keeps what was freed. */
    cr_assert(le(sz, resident_bytes(), resident + 2 * PEER_LANE_BYTES));
#endif
    cr_assert(gt(sz, resident, 0));
    cr_assert(eq(int, last_event(&a)->state, PEER_LINK_DOWN));
    cr_assert(ge(u64, last_event(&a)->at_ns - stopped_ns, 2500000000));
    cr_assert(eq(int, reply.status, OTR_UNKNOWN));
    run_for_ms(200);
    cr_assert(zero(uint, count_events(&a, PEER_LINK_REFUSED)));
    kill(pid, SIGCONT);
    RUN_UNTIL(peer_link_up(link));
    peer_link_pace(link, &sent_bytes, &blocked_ns);
    cr_assert(lt(u64, blocked_ns, 1000000000)); /* A new connection. */
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    node_close(&a);
}

/* A quiet link stays up: both sides ping. */
Test(link, a_quiet_link_stays_up)
{
    struct node a, b;

    pair_open(&a, &b);
    run_for_ms(6500);
    cr_assert(eq(uint, a.events_count, 1));
    node_close(&a);
    node_close(&b);
}

/* --- who may talk to whom ----------------------------------------------------------------------------------------- */

/* Clusters do not mix: the caller is refused and learns why, the called one hears of an intruder. */
Test(link, another_cluster_is_refused)
{
    struct node a, b;
    struct peer_link *link;

    node_open(&a, "a", "one", 11, 0);
    node_open(&b, "b", "other", 22, 0);
    link = node_dial(&a, "b", &b);
    RUN_UNTIL(a.events_count == 1);
    cr_assert(eq(int, a.events[0].state, PEER_LINK_DOWN));
    cr_assert(strstr(a.events[0].why, "another cluster") != NULL, "%s", a.events[0].why);
    cr_assert(eq(uint, b.intruders, 1));
    cr_assert(eq(str, b.intruder_cluster, "one"));
    run_for_ms(500); /* Tried again slowly, and reported once. */
    cr_assert(eq(uint, a.events_count, 1));
    cr_assert(eq(uint, b.intruders, 1));
    cr_assert(not(peer_link_up(link)));
    node_close(&a);
    node_close(&b);
}

/* The address belongs to another node by now: not UP. */
Test(link, another_node_answers)
{
    struct node a, b;

    node_open(&a, "a", "test", 11, 0);
    node_open(&b, "b", "test", 22, 0);
    node_dial(&a, "c", &b);
    RUN_UNTIL(a.events_count == 1);
    cr_assert(eq(int, a.events[0].state, PEER_LINK_DOWN));
    cr_assert(strstr(a.events[0].why, "node b answers instead of c") != NULL, "%s", a.events[0].why);
    cr_assert(zero(uint, b.intruders));
    node_close(&a);
    node_close(&b);
}

/* Somebody with our own name and another incarnation is refused loudly (PROTOCOL E5). */
Test(link, own_name_is_refused)
{
    struct node a, b;

    node_open(&a, "b", "test", 11, 0);
    node_open(&b, "b", "test", 22, 0);
    node_dial(&a, "b", &b);
    RUN_UNTIL(a.events_count == 1);
    cr_assert(eq(int, a.events[0].state, PEER_LINK_DOWN));
    cr_assert(eq(uint, b.intruders, 1));
    cr_assert(eq(str, b.intruder_cluster, "test"));
    node_close(&a);
    node_close(&b);
}

/* --- hubs --------------------------------------------------------------------------------------------------------- */

/* A port in use, and a host that is no address, are refused with words. */
Test(link, listening_fails_with_words)
{
    struct node a;
    struct peer_config config = {
        .loop = loop, .cluster = "test", .node = "x", .version = "", .incarnation = 1, .listen_host = "127.0.0.1"};
    struct peer_hub *hub;
    struct otr_errmsg msg = {0};

    node_open(&a, "a", "test", 11, 0);
    config.listen_port = peer_hub_port(a.hub);
    cr_assert(eq(int, peer_hub_new(&hub, &config, &msg), OTR_INUSE));
    cr_assert(strstr(msg.text, "127.0.0.1:") != NULL && strstr(msg.text, "in use") != NULL, "%s", msg.text);
    config.listen_host = "here";
    cr_assert(eq(int, peer_hub_new(&hub, &config, &msg), OTR_INVALID));
    cr_assert(strstr(msg.text, "here:") != NULL, "%s", msg.text);
    node_close(&a);
}

/* Closing in every phase of dialling leaves nothing behind. */
Test(link, close_at_any_time)
{
    for (unsigned turns = 0; turns < 8; turns++) {
        struct node a, b;
        struct peer_link *link;

        node_open(&a, "a", "test", 11, 0);
        node_open(&b, "b", "test", 22, 0);
        link = peer_link_open(a.hub, "b", turns % 2 == 0 ? "127.0.0.1" : "localhost", peer_hub_port(b.hub), NULL);
        for (unsigned i = 0; i < turns; i++) {
            run_once();
        }
        if (turns % 3 == 0) {
            peer_link_close(link);
        }
        node_close(&a);
        node_close(&b);
    }
}
