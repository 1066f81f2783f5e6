/* More requests than the API lets in: what is refused, what never is, and that room comes back. */
#include "sidecar/api/api.h"
#include "tests/unit/api/client.h"
#include "tests/unit/api/fake_node.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>

enum { WRITES_MAX = 2, CLIENTS = 4 };

struct fixture {
    uv_loop_t loop;
    struct fake_world *w;
    struct api *api;
    struct client clients[CLIENTS];
    struct answer answer;
    char id[16]; /* of shard 0, whose primary is here */
};

static struct fixture f;

static void open_world(void)
{
    struct api_config config = {.listen_host = "127.0.0.1", .writes_max = WRITES_MAX, .gets_max = 1, .searches_max = 1};
    struct otr_errmsg msg = {0};
    unsigned n = 0;

    uv_loop_init(&f.loop);
    f.w = fake_world_new(&f.loop);
    config.node = fake_node(f.w, 1);
    cr_assert(eq(int, api_new(&f.api, &config, &msg), 0), "%s", msg.text);
    for (int i = 0; i < CLIENTS; i++) {
        client_open(&f.clients[i], &f.loop, api_port(f.api));
    }
    fake_id_in(f.w, 0, &n, f.id);
}

static void on_closed(void *data)
{
    *(bool *)data = true;
}

static void close_world(void)
{
    bool closed = false;

    answer_free(&f.answer);
    for (int i = 0; i < CLIENTS; i++) {
        client_close(&f.clients[i]);
    }
    api_close(f.api, on_closed, &closed);
    while (!closed) {
        uv_run(&f.loop, UV_RUN_ONCE);
    }
    fake_release(f.w, OTR_CANCELED);
    run_for(&f.loop, 5);
    fake_world_free(f.w);
    uv_run(&f.loop, UV_RUN_DEFAULT);
    cr_assert(eq(int, uv_loop_close(&f.loop), 0));
}

TestSuite(admission, .init = open_world, .fini = close_world, .timeout = 60);

static void send_put(int client)
{
    char body[128], text[256];

    snprintf(body, sizeof body, "{\"points\":[{\"id\":\"%s\",\"vector\":[1,2,3]}]}", f.id);
    snprintf(text, sizeof text, "PUT /collections/c/points HTTP/1.1\r\nHost: x\r\nContent-Length: %zu\r\n\r\n%s",
             strlen(body), body);
    client_puts(&f.clients[client], text);
}

static int answer(int client)
{
    answer_free(&f.answer);
    cr_assert(client_answer(&f.clients[client], &f.answer, 5000), "no answer");
    return f.answer.status;
}

static int ask(int client, const char *head_and_body)
{
    client_puts(&f.clients[client], head_and_body);
    return answer(client);
}

static bool says(const char *words)
{
    return strstr(f.answer.body, words) != NULL;
}

static void wait_for(unsigned (*asked)(const struct fake_world *w), unsigned count)
{
    for (int i = 0; asked(f.w) < count; i++) {
        cr_assert(lt(int, i, 5000));
        run_for(&f.loop, 1);
    }
}

/* Writes that nobody answers, as many as are let in. */
static void fill(void)
{
    for (int i = 0; i < WRITES_MAX; i++) {
        fake_plan(f.w, 1, 0, FAKE_HANG, 0);
        send_put(i);
    }
    wait_for(fake_writes, WRITES_MAX);
}

static const char get_metrics[] = "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n";

Test(admission, too_many_writes_are_refused_and_nothing_else)
{
    char get[128];

    fill();
    send_put(2);
    cr_assert(eq(int, answer(2), 429));
    cr_assert(says("\"code\":\"busy\""));
    cr_assert(says("\"applied\":false"));
    cr_assert(eq(str, (char *)answer_header(&f.answer, "Retry-After"), "1"));
    cr_assert(eq(uint, fake_writes(f.w), WRITES_MAX), "the node was not even asked");
    /* What looks at an overloaded sidecar sees it, and other kinds of requests have room of their own. */
    cr_assert(eq(int, ask(2, "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"), 200));
    cr_assert(eq(int, ask(2, "GET /collections/c HTTP/1.1\r\nHost: x\r\n\r\n"), 200));
    snprintf(get, sizeof get, "GET /collections/c/points/%s HTTP/1.1\r\nHost: x\r\n\r\n", f.id);
    cr_assert(eq(int, ask(2, get), 404));
    cr_assert(eq(int, ask(2, get_metrics), 200));
    cr_assert(says("outrigger_admission_under_way{at=\"door\",operation=\"write\"} 2\n"));
    cr_assert(says("outrigger_admission_limit{at=\"door\",operation=\"write\"} 2\n"));
    cr_assert(says("outrigger_admission_refused_total{at=\"door\",operation=\"write\",reason=\"count\"} 1\n"));
    cr_assert(says("outrigger_admission_refused_total{at=\"door\",operation=\"search\",reason=\"count\"} 0\n"));
    fake_release(f.w, OTR_NOSPACE);
    cr_assert(eq(int, answer(0), 507));
    cr_assert(eq(int, answer(1), 507));
    send_put(2);
    cr_assert(eq(int, answer(2), 200));
}

Test(admission, a_large_body_is_refused_before_it_is_read)
{
    fill();
    cr_assert(eq(int, ask(2, "PUT /collections/c/points HTTP/1.1\r\nHost: x\r\nContent-Length: 5000000\r\n\r\n"), 429));
    cr_assert(says("\"applied\":false"));
    cr_assert(eq(str, (char *)answer_header(&f.answer, "Connection"), "close"));
    cr_assert(
        eq(int, ask(3, "PUT /collections/c/points HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"), 429));
    fake_release(f.w, OTR_NOSPACE);
}

/* A write of that shard with so many bytes, most of them blanks. */
static void send_large_put(int client, otr_shard shard, size_t bytes)
{
    char *text = malloc(bytes + 256);
    char id[16];
    unsigned n = 0;
    size_t head;
    int used;

    fake_id_in(f.w, shard, &n, id);
    head = (size_t)sprintf(text, "PUT /collections/c/points HTTP/1.1\r\nHost: x\r\nContent-Length: %zu\r\n\r\n", bytes);
    used = sprintf(text + head, "{\"points\":[{\"id\":\"%s\",\"vector\":[1,2,3]}]", id);
    memset(text + head + used, ' ', bytes - (size_t)used - 1);
    text[head + bytes - 1] = '}';
    text[head + bytes] = '\0';
    client_puts(&f.clients[client], text);
    free(text);
}

/* A shard that stands still does not take all the bytes: its second large write is refused, that of another is not. */
Test(admission, a_shard_has_its_share_of_the_bytes)
{
    enum { MB = 1 << 20 };

    fake_plan(f.w, 1, 0, FAKE_HANG, 0);
    send_large_put(0, 0, 50 * MB);
    wait_for(fake_writes, 1);
    send_large_put(1, 0, 10 * MB);
    cr_assert(eq(int, answer(1), 429), "%s", f.answer.body);
    cr_assert(says("a shard has too much under way"));
    cr_assert(eq(int, ask(2, get_metrics), 200));
    cr_assert(says("outrigger_admission_refused_total{at=\"door\",operation=\"write\",reason=\"share\"} 1\n"));
    send_large_put(1, 1, 10 * MB);
    cr_assert(eq(int, answer(1), 200), "%s", f.answer.body);
    fake_release(f.w, OTR_NOSPACE);
    cr_assert(eq(int, answer(0), 507));
}

Test(admission, gets_and_searches_have_bounds_of_their_own)
{
    static const char search[] = "POST /collections/c/points/search HTTP/1.1\r\nHost: x\r\nContent-Length: "
                                 "25\r\n\r\n{\"vector\":[0,1,0],\"k\":5}\n";
    char get[128];

    snprintf(get, sizeof get, "GET /collections/c/points/%s HTTP/1.1\r\nHost: x\r\n\r\n", f.id);
    fake_plan(f.w, 1, 0, FAKE_HANG, 0);
    client_puts(&f.clients[0], get);
    wait_for(fake_gets, 1);
    cr_assert(eq(int, ask(1, get), 429));
    fake_plan(f.w, 1, 0, FAKE_HANG, 0);
    client_puts(&f.clients[2], search);
    wait_for(fake_searches, 1);
    cr_assert(eq(int, ask(3, search), 429));
    send_put(1);
    cr_assert(eq(int, answer(1), 200));
    fake_release(f.w, OTR_INVALID);
}

/* Else clients that give up and come again would keep out those that wait. */
Test(admission, whoever_is_gone_leaves_room)
{
    struct linger reset = {.l_onoff = 1};

    fill();
    for (int i = 0; i < WRITES_MAX; i++) {
        setsockopt(f.clients[i].fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
        client_close(&f.clients[i]);
    }
    for (int status = 429, tries = 0; status == 429; tries++) {
        cr_assert(lt(int, tries, 200));
        run_for(&f.loop, 10);
        send_put(2);
        status = answer(2);
    }
    cr_assert(eq(int, f.answer.status, 200));
    fake_release(f.w, OTR_NOSPACE);
}
