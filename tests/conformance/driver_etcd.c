#include "tests/conformance/world.h"
#include "tests/lib/etcd_server.h"

#include <stdlib.h>
#include <string.h>

static void init(struct world *w, unsigned members_count)
{
    struct etcd_server *server = malloc(sizeof *server);

    etcd_server_init(server, members_count);
    for (unsigned i = 0; i < members_count; i++) {
        strcat(strcat(w->endpoints, i > 0 ? "," : ""), server->members[i].url);
    }
    w->coordinator = server;
}

static void driver_init(struct world *w)
{
    init(w, 1);
}

static void driver_init_cluster(struct world *w)
{
    init(w, 3);
}

static void driver_start(struct world *w)
{
    etcd_server_start(w->coordinator);
}

static void driver_kill(struct world *w)
{
    etcd_server_kill(w->coordinator, 0);
}

static void driver_freeze(struct world *w)
{
    etcd_server_freeze(w->coordinator, 0);
}

static void driver_thaw(struct world *w)
{
    etcd_server_thaw(w->coordinator, 0);
}

static void driver_compact(struct world *w)
{
    etcd_server_compact(w->coordinator);
}

static void driver_wipe(struct world *w)
{
    etcd_server_wipe(w->coordinator);
}

static void driver_close(struct world *w)
{
    etcd_server_close(w->coordinator);
    free(w->coordinator);
}

const struct world_driver world_etcd = {
    .ops = &otr_backend_etcd,
    .init = driver_init,
    .start = driver_start,
    .kill = driver_kill,
    .freeze = driver_freeze,
    .thaw = driver_thaw,
    .compact = driver_compact,
    .wipe = driver_wipe,
    .close = driver_close,
};

/* Three members; which one a fault concerns is for the test to choose. */
const struct world_driver world_etcd_cluster = {
    .ops = &otr_backend_etcd,
    .init = driver_init_cluster,
    .start = driver_start,
    .close = driver_close,
};
