#include "fixture.h"

#include <stdio.h>
#include <unistd.h>

uv_loop_t *loop;
struct test_cert ca;
struct temp_dir dir;
bool secure;
static uv_loop_t the_loop;
static uv_timer_t waker;

static void copy_text(char *out, size_t room, const char *text)
{
    size_t bytes = strnlen(text, room - 1);

    memcpy(out, text, bytes);
    out[bytes] = '\0';
}

/* --- handlers ----------------------------------------------------------------------------------------------------- */

static void on_link(void *data, struct peer_link *link, enum peer_link_state state, uint64_t incarnation,
                    const struct otr_errmsg *why)
{
    struct node *n = data;
    struct link_event *e = &n->events[n->events_count++ % EVENTS_MAX];

    (void)link;
    e->state = state;
    e->incarnation = incarnation;
    e->at_ns = uv_hrtime();
    copy_text(e->why, sizeof e->why, why->text);
}

static void on_drain(void *data, struct peer_link *link, enum peer_lane lane)
{
    struct node *n = data;

    (void)link;
    (void)lane;
    n->drained++;
}

static void on_replicate(void *data, const struct peer_from *from, const Outrigger__V1__ReplicateFrame *frame)
{
    struct node *n = data;

    copy_text(n->from_node, sizeof n->from_node, from->node);
    n->from_incarnation = from->incarnation;
    for (size_t i = 0; i < frame->n_messages; i++) {
        const Outrigger__V1__ReplicaMessage *m = frame->messages[i];

        n->out_of_order += m->last_index != n->replicate_count;
        n->replicate_count++;
        n->replicate_bytes += m->entries.len;
        for (size_t b = 0; b < m->entries.len; b += 4099) {
            n->out_of_order += m->entries.data[b] != (uint8_t)(m->last_index + b);
        }
    }
}

static void on_beacon(void *data, const struct peer_from *from, const Outrigger__V1__BeaconFrame *frame)
{
    struct node *n = data;

    (void)from;
    for (size_t i = 0; i < frame->n_messages; i++) {
        uint64_t took_ns = uv_hrtime() - frame->messages[i]->sent_ms;

        n->out_of_order += frame->messages[i]->nonce != n->beacon_count;
        n->beacon_count++;
        n->beacon_ns_max = took_ns > n->beacon_ns_max ? took_ns : n->beacon_ns_max;
        n->beacon_behind = n->replicate_count;
    }
}

static void answer_forward(struct node *n, struct peer_call *call, const Outrigger__V1__ForwardRequest *request)
{
    Outrigger__V1__ForwardReply reply = OUTRIGGER__V1__FORWARD_REPLY__INIT;
    char *message = calloc(1, n->reply_bytes + 1);

    memset(message, 'x', n->reply_bytes);
    reply.outcome = (uint32_t)request->body.len;
    reply.message = message;
    peer_call_reply(call, &reply.base);
    free(message);
}

static void on_call(void *data, struct peer_call *call, enum peer_method method, const struct peer_from *from,
                    const ProtobufCMessage *request)
{
    struct node *n = data;

    (void)from;
    n->calls_count++;
    if (n->hold) {
        n->held = n->held_all[(n->calls_count - 1) % 16] = call;
        peer_call_set_data(call, n);
        return;
    }
    if (method == PEER_FORWARD) {
        answer_forward(n, call, (const Outrigger__V1__ForwardRequest *)request);
    } else {
        peer_call_fail(call, 9, "not today: 100% \xc3\xa4");
    }
}

static void on_seed(void *data, struct peer_call *call, const struct peer_from *from,
                    const Outrigger__V1__SeedFrame *frame)
{
    struct node *n = data;
    Outrigger__V1__SeedReply reply = OUTRIGGER__V1__SEED_REPLY__INIT;

    (void)from;
    if (frame == NULL) {
        n->seed_broken++;
        n->seed_call = NULL;
        return;
    }
    if (frame->points != NULL) {
        uint64_t number;

        memcpy(&number, frame->points->body.data, sizeof number);
        n->out_of_order += number != n->seed_frames;
        n->seed_frames++;
        n->seed_bytes += frame->points->body.len;
    }
    if (frame->end != NULL) {
        reply.ok = true;
        reply.log_id = n->seed_frames;
        peer_call_reply(call, &reply.base);
        return;
    }
    n->seed_call = call;
    if (!n->seed_stall) {
        peer_call_next(call);
    }
}

static void on_intruder(void *data, const struct peer_from *from, const char *cluster)
{
    struct node *n = data;

    (void)from;
    n->intruders++;
    copy_text(n->intruder_cluster, sizeof n->intruder_cluster, cluster);
}

/* --- nodes -------------------------------------------------------------------------------------------------------- */

void secure_begin(void)
{
    if (!secure) {
        ca = test_ca("the CA");
        temp_dir_init(&dir);
        secure = true;
    }
}

static void secure_end(void)
{
    if (secure) {
        test_cert_free(&ca);
        temp_dir_close(&dir);
        secure = false;
    }
}

/* The files of node `name`, made if missing. */
static void good_files(struct peer_config *config, char paths[3][300])
{
    struct test_cert cert;

    snprintf(paths[0], 300, "%s/%s-ca.pem", dir.path, config->node);
    snprintf(paths[1], 300, "%s/%s.pem", dir.path, config->node);
    snprintf(paths[2], 300, "%s/%s.key", dir.path, config->node);
    config->ca_file = paths[0];
    config->cert_file = paths[1];
    config->key_file = paths[2];
    if (access(paths[0], F_OK) != 0) {
        cert = test_node_cert(&ca, config->cluster, config->node);
        test_ca_write(paths[0], &ca, NULL);
        test_cert_write(&cert, paths[1], paths[2]);
        test_cert_free(&cert);
    }
}

int node_try(struct node *n, const char *name, const char *cluster, uint64_t incarnation, uint16_t port,
             struct otr_errmsg *msg)
{
    struct peer_config config = {
        .loop = loop,
        .cluster = cluster,
        .node = name,
        .version = "test",
        .incarnation = incarnation,
        .encodings = (uint32_t)incarnation * 2,
        .listen_host = "127.0.0.1",
        .listen_port = port,
        .handlers = {on_link, on_drain, on_replicate, on_beacon, on_call, on_seed, on_intruder},
        .data = n,
    };
    char paths[3][300];

    memset(n, 0, sizeof *n);
    n->incarnation = incarnation;
    if (secure) {
        good_files(&config, paths);
    }
    return peer_hub_new(&n->hub, &config, msg);
}

void node_open(struct node *n, const char *name, const char *cluster, uint64_t incarnation, uint16_t port)
{
    struct otr_errmsg msg = {0};
    int rv = node_try(n, name, cluster, incarnation, port, &msg);

    cr_assert(eq(int, rv, 0), "%s", msg.text);
}

static void on_hub_closed(void *data)
{
    ((struct node *)data)->closed = true;
}

void node_close(struct node *n)
{
    peer_hub_close(n->hub, on_hub_closed, n);
    RUN_UNTIL(n->closed);
}

struct peer_link *node_dial(struct node *from, const char *to_name, const struct node *to)
{
    struct peer_link *link = peer_link_open(from->hub, to_name, "127.0.0.1", peer_hub_port(to->hub), from);

    cr_assert(link != NULL);
    return link;
}

struct peer_link *pair_open(struct node *a, struct node *b)
{
    struct peer_link *link;

    node_open(a, "a", "test", 11, 0);
    node_open(b, "b", "test", 22, 0);
    link = node_dial(a, "b", b);
    RUN_UNTIL(peer_link_up(link));
    return link;
}

/* --- the loop ----------------------------------------------------------------------------------------------------- */

static void on_waker(uv_timer_t *timer)
{
    (void)timer;
}

void loop_begin(void)
{
    loop = &the_loop;
    uv_loop_init(loop);
    uv_timer_init(loop, &waker);
    if (getenv("PEER_TLS") != NULL) {
        secure_begin();
    }
}

void loop_end(void)
{
    uint64_t until = uv_hrtime() + 2000000000ULL;

    /* After a failed test much is left, and would keep the loop going. */
    while (uv_loop_alive(loop) && uv_hrtime() < until) {
        run_once();
    }
    uv_close((uv_handle_t *)&waker, NULL);
    uv_run(loop, UV_RUN_NOWAIT);
    secure_end();
    cr_assert(eq(int, uv_loop_close(loop), 0));
}

void run_once(void)
{
    uv_timer_start(&waker, on_waker, 20, 0);
    uv_run(loop, UV_RUN_ONCE);
    uv_timer_stop(&waker);
}

void run_for_ms(unsigned ms)
{
    uint64_t until = uv_hrtime() + ms * 1000000ULL;

    while (uv_hrtime() < until) {
        run_once();
    }
}

const struct link_event *last_event(const struct node *n)
{
    return &n->events[(n->events_count - 1) % EVENTS_MAX];
}

/* --- messages ----------------------------------------------------------------------------------------------------- */

int send_append(struct peer_link *link, uint64_t number, size_t bytes)
{
    Outrigger__V1__ReplicaMessage message = OUTRIGGER__V1__REPLICA_MESSAGE__INIT;
    Outrigger__V1__ReplicaMessage *messages[] = {&message};
    Outrigger__V1__ReplicateFrame frame = OUTRIGGER__V1__REPLICATE_FRAME__INIT;
    uint8_t *body = malloc(bytes + 1);
    int rv;

    for (size_t i = 0; i < bytes; i++) {
        body[i] = (uint8_t)(number + i);
    }
    message.type = OUTRIGGER__V1__REPLICA_MESSAGE__TYPE__APPEND;
    message.last_index = number;
    message.entries.data = body;
    message.entries.len = bytes;
    frame.n_messages = 1;
    frame.messages = messages;
    rv = peer_link_send(link, PEER_LANE_REPLICATE, &frame.base);
    free(body);
    return rv;
}

int send_beacon(struct peer_link *link, uint64_t number)
{
    Outrigger__V1__ReplicaMessage message = OUTRIGGER__V1__REPLICA_MESSAGE__INIT;
    Outrigger__V1__ReplicaMessage *messages[] = {&message};
    Outrigger__V1__BeaconFrame frame = OUTRIGGER__V1__BEACON_FRAME__INIT;

    message.type = OUTRIGGER__V1__REPLICA_MESSAGE__TYPE__BEACON;
    message.nonce = number;
    message.sent_ms = uv_hrtime();
    frame.n_messages = 1;
    frame.messages = messages;
    return peer_link_send(link, PEER_LANE_BEACON, &frame.base);
}

void on_reply(void *data, int status, const ProtobufCMessage *message, const struct otr_errmsg *msg)
{
    struct reply *reply = data;

    reply->count++;
    reply->status = status;
    copy_text(reply->text, sizeof reply->text, msg->text);
    if (status == 0 && message->descriptor == &outrigger__v1__forward_reply__descriptor) {
        const Outrigger__V1__ForwardReply *forward = (const Outrigger__V1__ForwardReply *)message;

        reply->body_bytes = strlen(forward->message);
        reply->value = forward->outcome;
    }
    if (status == 0 && message->descriptor == &outrigger__v1__seed_reply__descriptor) {
        reply->value = (uint32_t)((const Outrigger__V1__SeedReply *)message)->log_id;
    }
}

int call_forward(struct peer_link *link, size_t bytes, uint32_t timeout_ms, struct reply *reply)
{
    Outrigger__V1__ForwardRequest request = OUTRIGGER__V1__FORWARD_REQUEST__INIT;
    uint8_t *body = calloc(1, bytes + 1);
    int rv;

    request.body.data = body;
    request.body.len = bytes;
    rv = peer_link_call(link, PEER_FORWARD, &request.base, timeout_ms, on_reply, reply);
    free(body);
    return rv;
}
