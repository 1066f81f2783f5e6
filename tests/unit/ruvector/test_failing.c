/* Every allocation (those of JSON included) and every other call of the driver fails once, against a real server: each
 * call is called back once, the engine is up in the end, and nothing is left over. */
#include "tests/lib/fail_calls.h"
#include "tests/unit/ruvector/fixture.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

struct driver {
    struct fixture f; /* its server belongs to the test */
    bool up;
};

static void on_status(struct otr_engine *engine, const struct otr_engine_status *status, const struct otr_errmsg *msg,
                      void *data)
{
    struct driver *d = data;

    (void)engine;
    (void)msg;
    d->up = status->up;
}

static void on_closed(struct otr_engine *engine, void *data)
{
    (void)engine;
    *(bool *)data = true;
}

static void expect(int status, const char *what)
{
    cr_assert(status == 0 || fail_calls_name()[0] != '\0', "%s: %s", what, otr_errname(status));
    cr_assert(status == 0 || status == OTR_NOMEM || status == OTR_UNREACHABLE || status == OTR_TIMEOUT ||
                  status == OTR_PROTO,
              "%s: %s after %s failed", what, otr_errname(status), fail_calls_name());
}

static void use(struct driver *d)
{
    static const float unit[3] = {1, 0, 0};
    const struct otr_point points[2] = {point("a", unit, 3, "{\"k\":1}"), point("b", unit, 3, NULL)};
    struct result r;
    int made = make(&d->f, "failing", 3, OTR_METRIC_COSINE);
    int put;

    expect(made, "make");
    put = made == 0 ? upsert(&d->f, "failing", points, 2, NULL) : made;
    expect(put, "upsert");
    if (put == 0) {
        int rv = search(&d->f, "failing", unit, 3, 5, &r);
        expect(rv, "search");
        cr_assert(rv != 0 || r.hits_count == 2);
        rv = erase(&d->f, "failing", points, 1, NULL);
        expect(rv, "erase");
        /* Began and ended; what it counts is for other tests. */
        rv = otr_engine_ruvector.count(d->f.engine, result_begin(&d->f, &r), "failing", result_count_cb);
        if (rv == 0) {
            await(&d->f, &r.done);
        }
        expect(rv != 0 ? rv : r.status, "count");
    }
    fail_calls_pause(true);
    drop(&d->f, "failing"); /* the next run begins anew */
    fail_calls_pause(false);
}

static void life(void *data)
{
    struct driver d = {.up = false};
    struct otr_engine_config config = {.loop = &d.f.loop, .url = data, .on_status = on_status, .data = &d};
    struct otr_errmsg msg = {0};
    bool closed = false;
    int rv;

    uv_loop_init(&d.f.loop);
    rv = otr_engine_ruvector.open(&d.f.engine, &config, &msg);
    cr_assert(eq(int, rv != 0, msg.text[0] != '\0'));
    if (rv == 0) {
        await(&d.f, &d.up);
        use(&d);
        otr_engine_ruvector.close(d.f.engine, on_closed, &closed);
        await(&d.f, &closed);
    }
    uv_run(&d.f.loop, UV_RUN_DEFAULT);
    cr_assert(eq(int, uv_loop_close(&d.f.loop), 0), "something is left on the loop after %s failed", fail_calls_name());
}

Test(failing, driver, .timeout = 200)
{
    struct ruvector_server server = {0};
    char url[64];

    ruvector_server_dir(&server);
    ruvector_server_start(&server, 0);
    snprintf(url, sizeof url, "http://127.0.0.1:%d", server.port);
    life(url);
    cr_assert(gt(uint, fail_each(life, url), 60));
    ruvector_server_kill(&server);
    ruvector_server_dir_empty(&server);
    rmdir(server.dir);
}
