/* Every allocation and every other call fails once below the REST calls: each request is answered or its connection
 * ends, what an answer promises is so, and nothing is left over. */
#include "sidecar/api/api.h"
#include "sidecar/api/tokens.h"
#include "sidecar/api/tokens_file.h"
#include "tests/lib/fail_calls.h"
#include "tests/lib/temp_dir.h"
#include "tests/unit/api/client.h"
#include "tests/unit/api/fake_node.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

TestSuite(failing, .timeout = 120);

struct world {
    uv_loop_t loop;
    struct fake_world *w;
    struct api *api;
};

/* On a connection of its own. The status, 0: the connection ended without an answer. */
static int ask(struct world *w, const char *method, const char *path, const char *body, struct answer *a)
{
    struct client c;
    char head[512];
    bool answered;

    snprintf(head, sizeof head, "%s %s HTTP/1.1\r\nHost: x\r\nOutrigger-Timeout: 2s\r\nContent-Length: %zu\r\n\r\n",
             method, path, strlen(body));
    *a = (struct answer){0};
    client_open(&c, &w->loop, api_port(w->api));
    client_puts(&c, head);
    client_puts(&c, body);
    answered = client_answer(&c, a, 10000);
    cr_assert(answered || c.eof, "%s %s waits for ever after %s failed", method, path, fail_calls_name());
    client_close(&c);
    cr_assert(not(answered && a->body_bytes != 0 && a->status >= 500 && strstr(a->body, "\"applied\":") == NULL), "%s",
              a->body);
    return answered ? a->status : 0;
}

static bool promised_nothing(const struct answer *a)
{
    return a->body != NULL && strstr(a->body, "\"applied\":false") != NULL;
}

static void write_and_read(struct world *w)
{
    struct answer a;
    int put = ask(
        w, "PUT", "/collections/c/points",
        "{\"points\":[{\"id\":\"a\",\"vector\":[1,0,0.1],\"metadata\":{\"k\":1}},{\"id\":\"b\",\"vector\":[0,1,0]}]}",
        &a);

    cr_assert(put == 0 || put == 200 || put >= 500, "%d %s", put, a.body);
    cr_assert(put != 200 || (fake_find(w->w, "a") != NULL && fake_find(w->w, "b") != NULL));
    cr_assert(not(promised_nothing(&a) && fake_points(w->w) != 0), "after %s failed: %s", fail_calls_name(), a.body);
    answer_free(&a);
    if (put == 200) {
        int got = ask(w, "GET", "/collections/c/points/a", "", &a);
        cr_assert(got == 200 || got == 0 || got >= 500, "%d %s", got, a.body);
        answer_free(&a);
        got = ask(w, "POST", "/collections/c/points/search", "{\"vector\":[0,1,0],\"k\":5,\"filter\":{\"k\":1}}", &a);
        cr_assert(got == 200 || got == 0 || got >= 500, "%d %s", got, a.body);
        cr_assert(got != 200 || strstr(a.body, "\"id\":\"") != NULL, "a page without what is there: %s", a.body);
        answer_free(&a);
        got = ask(w, "POST", "/collections/c/points/delete", "{\"ids\":[\"a\",\"b\"]}", &a);
        cr_assert(got == 200 || got == 0 || got >= 500, "%d %s", got, a.body);
        cr_assert(got != 200 || fake_points(w->w) == 0);
        cr_assert(not(promised_nothing(&a) && fake_points(w->w) != 2), "after %s failed: %s", fail_calls_name(),
                  a.body);
        answer_free(&a);
    }
}

static void look(struct world *w)
{
    static const char *const paths[] = {"/collections", "/collections/c", "/cluster",
                                        "/metrics",     "/readyz",        "/nothing"};
    struct answer a;

    for (size_t i = 0; i < sizeof paths / sizeof paths[0]; i++) {
        int got = ask(w, "GET", paths[i], "", &a);
        cr_assert(got == 200 || got == 404 || got == 0 || got >= 500, "%s: %d %s", paths[i], got, a.body);
        answer_free(&a);
    }
    ask(w, "POST", "/collections", "{\"name\":\"d\",\"dimension\":8}", &a);
    answer_free(&a);
}

static void set_true(void *data)
{
    *(bool *)data = true;
}

static void rest_life(void *data)
{
    void (*use)(struct world * w) = *(void (**)(struct world * w)) data;
    struct api_config config = {.listen_host = "127.0.0.1"};
    struct otr_errmsg msg = {0};
    struct world w;
    bool closed = false;
    int rv;

    fail_calls_pause(true);
    uv_loop_init(&w.loop);
    w.w = fake_world_new(&w.loop);
    fail_calls_pause(false);
    config.node = fake_node(w.w, 1);
    rv = api_new(&w.api, &config, &msg);
    cr_assert(rv == 0 || fail_calls_name()[0] != '\0');
    if (rv == 0) {
        use(&w);
        api_close(w.api, set_true, &closed);
        while (!closed) {
            uv_run(&w.loop, UV_RUN_ONCE);
        }
    }
    fail_calls_pause(true);
    fake_release(w.w, OTR_CANCELED);
    run_for(&w.loop, 2);
    fake_world_free(w.w);
    uv_run(&w.loop, UV_RUN_DEFAULT);
    cr_assert(eq(int, uv_loop_close(&w.loop), 0), "something is left on the loop after %s failed", fail_calls_name());
    fail_calls_pause(false);
}

Test(failing, writes_and_reads)
{
    void (*use)(struct world * w) = write_and_read;

    cr_assert(gt(uint, fail_each(rest_life, (void *)&use), 40));
}

Test(failing, everything_else)
{
    void (*use)(struct world * w) = look;

    cr_assert(gt(uint, fail_each(rest_life, (void *)&use), 20));
}

/* --- parts ----------------------------------------------------------------------------------------------------------
 */

static void tokens_life(void *data)
{
    const char *path = data;
    struct tokens_file *file = NULL;
    struct otr_errmsg msg = {0};
    bool closed = false;
    uv_loop_t loop;
    int rv;

    uv_loop_init(&loop);
    rv = tokens_file_open(&file, &loop, path, &msg);
    cr_assert(eq(int, rv != 0, fail_calls_name()[0] != '\0'), "%s: %s", otr_strerror(rv), msg.text);
    if (rv == 0) {
        cr_assert(tokens_find(tokens_file_current(file), "alpha", 5) != NULL);
        run_for(&loop, 3);
        tokens_file_close(file, set_true, &closed);
        while (!closed) {
            uv_run(&loop, UV_RUN_ONCE);
        }
    }
    cr_assert(eq(int, uv_loop_close(&loop), 0));
}

Test(failing, tokens)
{
    struct temp_dir dir;
    char path[300];
    FILE *file;

    temp_dir_init(&dir);
    snprintf(path, sizeof path, "%s/tokens", dir.path);
    file = fopen(path, "w");
    fputs("admin sha256:8ed3f6ad685b959ead7022518e1af76cd816f8e8ec7ccdda1ed4018e8f2223f8 shop\n", file);
    fclose(file);
    cr_assert(gt(uint, fail_each(tokens_life, path), 2));
    temp_dir_close(&dir);
}
