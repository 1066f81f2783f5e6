/* The engines that the suite runs on: the fake in this process, RuVector's real server as a child, with its exact index
 * and with its graph. */
#include "tests/conformance-engines/world.h"
#include "tests/lib/fake_engine.h"
#include "tests/lib/ruvector_server.h"

#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

/* --- fake --------------------------------------------------------------------------------------------------------- */

static void fake_init(struct world *w)
{
    snprintf(w->url, sizeof w->url, "fake:1");
    fake_engine_down(w->url);
}

static void fake_start(struct world *w)
{
    fake_engine_up(w->url, true);
}

static void fake_kill(struct world *w)
{
    fake_engine_down(w->url);
}

static void fake_wipe(struct world *w)
{
    fake_engine_up(w->url, false);
    fake_engine_down(w->url);
}

static void fake_freeze(struct world *w)
{
    fake_engine_freeze(w->url);
}

static void fake_thaw(struct world *w)
{
    fake_engine_thaw(w->url);
}

static void fake_close(struct world *w)
{
    (void)w;
    fake_engine_reset();
}

const struct world_driver world_fake = {
    .ops = &otr_engine_fake,
    .init = fake_init,
    .start = fake_start,
    .kill = fake_kill,
    .wipe = fake_wipe,
    .freeze = fake_freeze,
    .thaw = fake_thaw,
    .close = fake_close,
};

/* --- ruvector ----------------------------------------------------------------------------------------------------- */

static void ruvector_init(struct world *w)
{
    struct ruvector_server *s = calloc(1, sizeof *s);

    ruvector_server_dir(s);
    s->port = ruvector_server_free_port();
    snprintf(w->url, sizeof w->url, "http://127.0.0.1:%d", s->port);
    w->process = s;
}

static void ruvector_start(struct world *w)
{
    struct ruvector_server *s = w->process;

    ruvector_server_start(s, s->port);
}

static void ruvector_kill(struct world *w)
{
    ruvector_server_kill(w->process);
}

static void ruvector_wipe(struct world *w)
{
    ruvector_server_dir_empty(w->process);
}

static void ruvector_freeze(struct world *w)
{
    kill(((struct ruvector_server *)w->process)->pid, SIGSTOP);
}

static void ruvector_thaw(struct world *w)
{
    kill(((struct ruvector_server *)w->process)->pid, SIGCONT);
}

static void ruvector_close(struct world *w)
{
    struct ruvector_server *s = w->process;

    if (s->pid != 0) {
        ruvector_server_kill(s);
    }
    ruvector_server_dir_empty(s);
    rmdir(s->dir);
    free(s);
}

#define RUVECTOR                                                                                        \
    .ops = &otr_engine_ruvector, .init = ruvector_init, .start = ruvector_start, .kill = ruvector_kill, \
    .wipe = ruvector_wipe, .freeze = ruvector_freeze, .thaw = ruvector_thaw, .close = ruvector_close

const struct world_driver world_ruvector_flat = {RUVECTOR, .options = NULL};
const struct world_driver world_ruvector_hnsw = {RUVECTOR, .options = "{\"hnsw\":{\"m\":16}}"};
