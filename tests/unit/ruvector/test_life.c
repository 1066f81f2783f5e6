/* The driver and an engine that dies, comes back, loses its data, is silent or is something else. */
#include "tests/unit/ruvector/fixture.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <errno.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

TestSuite(ruvector_life, .timeout = 90);

static struct fixture f;
static struct result r;
static const float X[3] = {1, 0, 0};

/* --- death and return
 * ------------------------------------------------------------------------------------------------- */

/* SIGKILL loses nothing that was acknowledged: the data id stays, the boot id is another one. */
Test(ruvector_life, a_killed_engine_keeps_its_data)
{
    struct otr_point p[] = {point("a", X, 3, "{\"n\":1}"), point("b", X, 3, NULL)};
    struct otr_engine_status before;
    char answer[4096];

    fixture_open(&f);
    before = *last_status(&f);
    cr_assert(zero(int, make(&f, "c", 3, OTR_METRIC_COSINE)));
    cr_assert(zero(int, upsert(&f, "c", p, 2, NULL)));
    cr_assert(zero(int, erase(&f, "c", p + 1, 1, NULL)));

    ruvector_server_kill(&f.server);
    await_dead(&f);
    cr_assert(eq(str, (char *)last_status(&f)->data_id, before.data_id), "what it was is remembered");

    ruvector_server_start(&f.server, f.server.port);
    await_up(&f);
    cr_assert(eq(str, (char *)last_status(&f)->data_id, before.data_id));
    cr_assert(ne(str, (char *)last_status(&f)->boot_id, before.boot_id));
    cr_assert(eq(u64, count(&f, "c"), 1));
    cr_assert(zero(int, search(&f, "c", X, 3, 5, &r)));
    cr_assert(eq(sz, r.hits_count, 1));
    cr_assert(eq(str, r.ids[0], "a"));
    cr_assert(eq(int, http_get(&f.server, "/health", answer, sizeof answer), 200));
    cr_assert_not_null(strstr(answer, "\"kept\":true"), "%s", answer);
    fixture_close(&f);
}

Test(ruvector_life, an_emptied_directory_is_another_engine)
{
    struct otr_point p = point("a", X, 3, NULL);
    struct otr_engine_status before;
    char answer[4096];

    fixture_open(&f);
    before = *last_status(&f);
    cr_assert(zero(int, make(&f, "c", 3, OTR_METRIC_COSINE)));
    ruvector_server_kill(&f.server);
    ruvector_server_dir_empty(&f.server);
    await_dead(&f);
    ruvector_server_start(&f.server, f.server.port);
    await_up(&f);
    cr_assert(ne(str, (char *)last_status(&f)->data_id, before.data_id));
    cr_assert(eq(int, upsert(&f, "c", &p, 1, NULL), OTR_NOTFOUND));
    cr_assert(eq(int, http_get(&f.server, "/health", answer, sizeof answer), 200));
    cr_assert_not_null(strstr(answer, "\"kept\":false"), "%s", answer);
    fixture_close(&f);
}

/* A single lost file breaks the promise as well: the id changes, and so everything is replayed. */
Test(ruvector_life, a_lost_file_is_another_engine)
{
    struct otr_engine_status before;
    char path[128];

    fixture_open(&f);
    before = *last_status(&f);
    cr_assert(zero(int, make(&f, "c", 3, OTR_METRIC_COSINE)));
    cr_assert(zero(int, make(&f, "d", 3, OTR_METRIC_COSINE)));
    ruvector_server_kill(&f.server);
    snprintf(path, sizeof path, "%s/1.redb", f.server.dir);
    cr_assert(zero(int, unlink(path)));
    await_dead(&f);
    ruvector_server_start(&f.server, f.server.port);
    await_up(&f);
    cr_assert(ne(str, (char *)last_status(&f)->data_id, before.data_id));
    cr_assert(zero(int, make(&f, "c", 4, OTR_METRIC_COSINE)), "the lost collection is gone and can be made anew");
    cr_assert(eq(u64, count(&f, "d"), 0));
    fixture_close(&f);
}

/* Every acknowledged write is there after SIGKILL in the middle of writing, and the server's list of ids is right. */
Test(ruvector_life, no_acknowledged_write_is_lost)
{
    enum { ROUNDS = 3, BATCHES = 15, BATCH = 20 };
    static char ids[BATCH][32];
    static struct result writes[BATCHES];
    static char answer[64 * 1024];
    struct otr_point points[BATCH];
    uint64_t acknowledged = 0;
    uint64_t stored;

    fixture_open(&f);
    cr_assert(zero(int, make(&f, "c", 3, OTR_METRIC_EUCLIDEAN)));
    for (int round = 0; round < ROUNDS; round++) {
        for (int b = 0; b < BATCHES; b++) {
            for (int i = 0; i < BATCH; i++) {
                snprintf(ids[i], sizeof ids[i], "%d-%d-%d", round, b, i);
                points[i] = point(ids[i], X, 3, NULL);
            }
            cr_assert(zero(int, otr_engine_ruvector.upsert(f.engine, result_begin(&f, &writes[b]), "c", points, BATCH,
                                                           result_cb)));
        }
        await(&f, &writes[round].done); /* some are on their way */
        ruvector_server_kill(&f.server);
        for (int b = 0; b < BATCHES; b++) {
            await(&f, &writes[b].done);
            cr_assert(writes[b].status == 0 || writes[b].status == OTR_UNREACHABLE, "%s", writes[b].msg.text);
            acknowledged += writes[b].status == 0 ? BATCH : 0;
        }
        await_dead(&f);
        ruvector_server_start(&f.server, f.server.port);
        await_up(&f);
        stored = count(&f, "c");
        cr_assert(ge(u64, stored, acknowledged));
        cr_assert(zero(u64, stored % BATCH), "a batch is all or nothing");
        acknowledged = stored;
    }
    cr_assert(eq(int, http_get(&f.server, "/ready", answer, sizeof answer), 200));
    fixture_close(&f);
}

/* --- nobody there
 * ----------------------------------------------------------------------------------------------------- */

Test(ruvector_life, a_refused_connection_is_evident_death)
{
    struct otr_point p = point("a", X, 3, NULL);
    char url[64];

    snprintf(url, sizeof url, "http://127.0.0.1:%d/", ruvector_server_free_port());
    fixture_open_url(&f, url, NULL);
    await_dead(&f);
    cr_assert(eq(sz, f.statuses_count, 1));
    cr_assert(eq(str, (char *)last_status(&f)->data_id, ""));
    cr_assert_not_null(strstr(f.status_msg.text, "127.0.0.1"), "%s", f.status_msg.text);
    cr_assert(eq(int, upsert(&f, "c", &p, 1, &r), OTR_UNREACHABLE));
    cr_assert_not_null(strstr(r.msg.text, "upsert into c"), "%s", r.msg.text);
    cr_assert(eq(int, search(&f, "c", X, 3, 1, &r), OTR_UNREACHABLE));
    cr_assert(eq(int, make(&f, "c", 3, OTR_METRIC_COSINE), OTR_UNREACHABLE));
    cr_assert(eq(int, drop(&f, "c"), OTR_UNREACHABLE));
    cr_assert(eq(sz, f.statuses_count, 1), "nothing changed, so nothing was reported");
    fixture_close(&f);
}

/* A stopped process accepts connections and never answers: not up, but no evidence of death either. */
Test(ruvector_life, a_silent_engine_is_not_up)
{
    size_t before;

    fixture_open(&f);
    before = f.statuses_count;
    kill(f.server.pid, SIGSTOP);
    while (f.statuses_count == before) {
        uv_run(&f.loop, UV_RUN_ONCE);
    }
    cr_assert(not(last_status(&f)->up));
    cr_assert(not(last_status(&f)->evidently_dead));
    kill(f.server.pid, SIGCONT);
    await_up(&f);
    cr_assert(eq(sz, f.statuses_count, before + 2));
    fixture_close(&f);
}

static void on_pause(uv_timer_t *timer)
{
    *(bool *)timer->data = true;
}

/* Outstanding calls end, in no particular order, each once, with OTR_CANCELED; then the close callback. */
Test(ruvector_life, closing_ends_what_is_outstanding)
{
    enum { CALLS = 6 };
    static struct result calls[CALLS];
    struct otr_point p = point("a", X, 3, NULL);
    uv_timer_t pause;
    bool paused = false;
    size_t reports;

    fixture_open(&f);
    cr_assert(zero(int, make(&f, "c", 3, OTR_METRIC_COSINE)));
    kill(f.server.pid, SIGSTOP);
    otr_engine_ruvector.upsert(f.engine, result_begin(&f, &calls[0]), "c", &p, 1, result_cb);
    otr_engine_ruvector.erase(f.engine, result_begin(&f, &calls[1]), "c", &p, 1, result_cb);
    otr_engine_ruvector.search(f.engine, result_begin(&f, &calls[2]), "c", X, 3, 1, result_search_cb);
    otr_engine_ruvector.count(f.engine, result_begin(&f, &calls[3]), "c", result_count_cb);
    otr_engine_ruvector.collection_make(f.engine, result_begin(&f, &calls[4]), "d", 3, OTR_METRIC_COSINE, NULL,
                                        result_cb);
    otr_engine_ruvector.collection_drop(f.engine, result_begin(&f, &calls[5]), "c", result_cb);
    /* Long enough for the requests to leave and for a probe to be under way, too. */
    uv_timer_init(&f.loop, &pause);
    pause.data = &paused;
    uv_timer_start(&pause, on_pause, 600, 0);
    await(&f, &paused);
    uv_close((uv_handle_t *)&pause, NULL);
    reports = f.statuses_count;
    fixture_close(&f);
    for (int i = 0; i < CALLS; i++) {
        cr_assert(calls[i].done, "call %d", i);
        cr_assert(eq(int, calls[i].status, OTR_CANCELED), "call %d: %s", i, calls[i].msg.text);
    }
    cr_assert(eq(sz, f.statuses_count, reports), "a closed engine reports nothing");
}

static void on_closed(struct otr_engine *engine, void *data)
{
    (void)engine;
    ((struct fixture *)data)->closed = true;
}

Test(ruvector_life, after_close_nothing_starts)
{
    fixture_open(&f);
    otr_engine_ruvector.close(f.engine, on_closed, &f);
    cr_assert(eq(int, otr_engine_ruvector.search(f.engine, result_begin(&f, &r), "c", X, 3, 1, result_search_cb),
                 OTR_CANCELED));
    await(&f, &f.closed);
    cr_assert(not(r.done));
    fixture_close(&f);
}

Test(ruvector_life, bad_settings_are_refused)
{
    static const struct {
        const char *url, *options, *text;
    } cases[] = {
        {"127.0.0.1:6333", NULL, "http://"},
        {"", NULL, "http://"},
        {NULL, NULL, "http://"},
        {"http://127.0.0.1:1", "{\"nonsense\":1}", "nonsense"},
    };
    uv_loop_t loop;
    struct otr_engine *engine;

    cr_assert(zero(int, uv_loop_init(&loop)));
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct otr_errmsg msg = {0};
        struct otr_engine_config config = {.loop = &loop, .url = cases[i].url, .options = cases[i].options};

        cr_assert(eq(int, otr_engine_ruvector.open(&engine, &config, &msg), OTR_INVALID));
        cr_assert_not_null(strstr(msg.text, cases[i].text), "%s", msg.text);
    }
    cr_assert(zero(int, uv_loop_close(&loop)));
}

/* --- something else is there
 * ------------------------------------------------------------------------------------------ */

/* A process that answers every request with the same bytes and closes. */
static pid_t stranger_start(const char *answer, int *port)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t bytes = sizeof address;
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    pid_t pid;

    cr_assert(fd >= 0 && bind(fd, (struct sockaddr *)&address, sizeof address) == 0 && listen(fd, 16) == 0);
    cr_assert(getsockname(fd, (struct sockaddr *)&address, &bytes) == 0);
    *port = ntohs(address.sin_port);
    pid = fork();
    cr_assert(pid >= 0);
    if (pid != 0) {
        close(fd);
        return pid;
    }
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    for (;;) {
        char request[65536];
        int connection = accept(fd, NULL, NULL);

        if (read(connection, request, sizeof request) > 0 && answer[0] != '\0') {
            (void)!write(connection, answer, strlen(answer));
        }
        close(connection);
    }
}

Test(ruvector_life, garbage_is_survived)
{
    static const char *const answers[] = {
        "",
        "SSH-2.0-OpenSSH_9.2\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nContent-Length: 500\r\nConnection: close\r\n\r\ncut short",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}",
        "HTTP/1.1 500 Oh\r\nContent-Length: 16\r\nConnection: close\r\n\r\n{\"error\":[[[[[]]",
        "HTTP/1.1 409 Oh\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
        "HTTP/1.1 301 Go\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
    };
    struct otr_point p = point("a", X, 3, NULL);

    for (size_t i = 0; i < sizeof answers / sizeof answers[0]; i++) {
        char url[64];
        int port;
        pid_t pid = stranger_start(answers[i], &port);

        memset(&f, 0, sizeof f);
        snprintf(url, sizeof url, "http://127.0.0.1:%d", port);
        fixture_open_url(&f, url, NULL);
        cr_assert(ne(int, upsert(&f, "c", &p, 1, &r), 0), "answer %zu", i);
        cr_assert(ne(int, r.msg.text[0], 0));
        cr_assert(ne(int, search(&f, "c", X, 3, 1, &r), 0), "answer %zu", i);
        otr_engine_ruvector.count(f.engine, result_begin(&f, &r), "c", result_count_cb);
        await(&f, &r.done);
        cr_assert(ne(int, r.status, 0), "answer %zu", i);
        while (f.statuses_count == 0) {
            uv_run(&f.loop, UV_RUN_ONCE);
        }
        cr_assert(not(last_status(&f)->up));
        fixture_close(&f);
        kill(pid, SIGKILL);
        waitpid(pid, NULL, 0);
    }
}
