#include "tls_lab.h"

static uv_loop_t the_loop;
uv_loop_t *tls_lab_loop = &the_loop;
struct temp_dir dir;
struct test_cert ca, ca2;

void tls_lab_begin(void)
{
    uv_loop_init(tls_lab_loop);
    temp_dir_init(&dir);
    ca = test_ca("the CA");
    ca2 = test_ca("another CA");
}

void tls_lab_finish(void)
{
    test_cert_free(&ca);
    test_cert_free(&ca2);
    temp_dir_close(&dir);
    uv_run(tls_lab_loop, UV_RUN_DEFAULT);
    cr_assert(eq(int, uv_loop_close(tls_lab_loop), 0));
}

const struct tls_name any_node_of_test = {.cluster = "test", .kind = TLS_KIND_NODE};

void identity_paths(struct identity *i, const char *name)
{
    memset(i, 0, sizeof *i);
    snprintf(i->ca, sizeof i->ca, "%s/%s-ca.pem", dir.path, name);
    snprintf(i->cert, sizeof i->cert, "%s/%s.pem", dir.path, name);
    snprintf(i->key, sizeof i->key, "%s/%s.key", dir.path, name);
}

int identity_try(struct identity *i, const struct tls_name *self, struct otr_errmsg *msg)
{
    const struct tls_config config = {
        .label = "test",
        .ca_file = i->ca,
        .cert_file = i->cert,
        .key_file = i->key,
        .alpn = "h2",
        .peer_required = true,
        .self = self,
        .check_ms = 10,
    };

    return tls_new(&i->tls, tls_lab_loop, &config, msg);
}

/* Writes the files and loads them. */
void identity_open(struct identity *i, const char *name, const struct test_cert *cert)
{
    struct otr_errmsg msg = {0};

    identity_paths(i, name);
    test_ca_write(i->ca, &ca, NULL);
    test_cert_write(cert, i->cert, i->key);
    cr_assert(zero(int, identity_try(i, NULL, &msg)), "%s", msg.text);
}

static void on_closed(void *data)
{
    ((struct identity *)data)->closed = true;
}

void identity_close(struct identity *i)
{
    tls_close(i->tls, on_closed, i);
    while (!i->closed) {
        uv_run(tls_lab_loop, UV_RUN_ONCE);
    }
}

void node_identity(struct identity *i, const char *node)
{
    struct test_cert cert = test_node_cert(&ca, "test", node);

    identity_open(i, node, &cert);
    test_cert_free(&cert);
}

void end_open(struct end *e, struct identity *i, enum tls_role role, const struct tls_name *expect)
{
    memset(e, 0, sizeof *e);
    cr_assert(zero(int, tls_session_new(&e->s, i->tls, role, expect, &e->msg)), "%s", e->msg.text);
}

void end_close(struct end *e)
{
    tls_session_free(e->s);
    free(e->got);
}

bool end_take(void *data, const uint8_t *bytes, size_t count)
{
    struct end *e = data;

    e->got = realloc(e->got, e->got_bytes + count);
    memcpy(e->got + e->got_bytes, bytes, count);
    e->got_bytes += count;
    return true;
}

void end_feed(struct end *e, const void *bytes, size_t count)
{
    struct otr_errmsg msg = {0};
    int rv = tls_session_feed(e->s, bytes, count, end_take, e, &msg);

    if (rv != 0 && e->rv == 0) {
        e->rv = rv;
        e->msg = msg;
    }
}

/* Moves what waits at `from` to `to`, in pieces. */
static size_t move(struct end *from, struct end *to, size_t piece)
{
    uv_buf_t buf;
    size_t moved = 0;

    while (tls_session_out(from->s, &buf)) {
        for (size_t at = 0; at < buf.len; at += piece) {
            end_feed(to, buf.base + at, buf.len - at < piece ? buf.len - at : piece);
        }
        moved += buf.len;
        tls_session_sent(from->s);
    }
    return moved;
}

/* Until nothing moves any more. */
void pump(struct end *a, struct end *b, size_t piece)
{
    while (move(a, b, piece) + move(b, a, piece) > 0) {
        ;
    }
}

void end_write(struct end *e, const void *bytes, size_t count)
{
    uv_buf_t buf = uv_buf_init((char *)(uintptr_t)bytes, (unsigned)count);
    struct otr_errmsg msg = {0};

    cr_assert(zero(int, tls_session_write(e->s, &buf, 1, &msg)), "%s", msg.text);
}

bool end_has(const struct end *e, const char *text)
{
    return e->got_bytes == strlen(text) && memcmp(e->got, text, e->got_bytes) == 0;
}

void pair_open(struct pair *p)
{
    node_identity(&p->a, "a");
    node_identity(&p->b, "b");
    end_open(&p->client, &p->a, TLS_CLIENT, &any_node_of_test);
    end_open(&p->server, &p->b, TLS_SERVER, &any_node_of_test);
    pump(&p->client, &p->server, SIZE_MAX / 2);
    cr_assert(tls_session_ready(p->client.s), "%s", p->client.msg.text);
    cr_assert(tls_session_ready(p->server.s), "%s", p->server.msg.text);
}

void pair_close(struct pair *p)
{
    end_close(&p->client);
    end_close(&p->server);
    identity_close(&p->a);
    identity_close(&p->b);
}

static void on_waker(uv_timer_t *timer)
{
    (void)timer;
}

/* Some turns of the tls_lab_loop, of 5 ms each at most. */
void run_turns(unsigned turns)
{
    uv_timer_t waker;

    uv_timer_init(tls_lab_loop, &waker);
    while (turns-- > 0) {
        uv_timer_start(&waker, on_waker, 5, 0);
        uv_run(tls_lab_loop, UV_RUN_ONCE);
    }
    uv_close((uv_handle_t *)&waker, NULL);
    uv_run(tls_lab_loop, UV_RUN_NOWAIT);
}

void run_until_stats(const struct identity *i, uint64_t reloads, uint64_t failed)
{
    uint64_t until = uv_hrtime() + 10000000000ULL;

    while (tls_stats(i->tls).reloads != reloads || tls_stats(i->tls).reloads_failed != failed) {
        cr_assert(uv_hrtime() < until, "%llu reloads, %llu failed", (unsigned long long)tls_stats(i->tls).reloads,
                  (unsigned long long)tls_stats(i->tls).reloads_failed);
        run_turns(1);
    }
}
