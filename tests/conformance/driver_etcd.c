#include "tests/conformance/secure.h"
#include "tests/lib/etcd_server.h"
#include "tests/lib/relay.h"

#include <stdio.h>
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

static void driver_init_secure(struct world *w)
{
    struct etcd_server *server = malloc(sizeof *server);

    etcd_server_init(server, 1);
    secure_certs();
    etcd_server_use_tls(server, secure_path(""));
    server->token_ttl_s = 1;
    strcpy(w->endpoints, server->members[0].url);
    w->coordinator = server;
    secure_access(w);
}

static void driver_start(struct world *w)
{
    etcd_server_start(w->coordinator);
}

/* The first start also makes users. */
static void driver_start_secure(struct world *w)
{
    struct etcd_server *server = w->coordinator;

    etcd_server_start(server);
    if (!server->auth) {
        secure_auth(server);
    }
}

static void driver_kill(struct world *w)
{
    struct etcd_server *server = w->coordinator;

    for (unsigned i = 0; i < server->members_count; i++) {
        etcd_server_kill(server, i);
    }
}

static void driver_freeze(struct world *w)
{
    struct etcd_server *server = w->coordinator;

    for (unsigned i = 0; i < server->members_count; i++) {
        etcd_server_freeze(server, i);
    }
}

static void driver_thaw(struct world *w)
{
    struct etcd_server *server = w->coordinator;

    for (unsigned i = 0; i < server->members_count; i++) {
        etcd_server_thaw(server, i);
    }
}

static void driver_compact(struct world *w)
{
    etcd_server_compact(w->coordinator);
}

/* By etcdctl: the server wants a certificate and a user. */
static void driver_compact_secure(struct world *w)
{
    char command[80];

    snprintf(command, sizeof command, "etcdctl compaction --physical %llu >/dev/null",
             (unsigned long long)revision_now(w));
    etcd_server_ctl(w->coordinator, command);
}

static void driver_wipe(struct world *w)
{
    etcd_server_wipe(w->coordinator);
}

/* Another cluster has no users yet. */
static void driver_wipe_secure(struct world *w)
{
    struct etcd_server *server = w->coordinator;

    etcd_server_wipe(server);
    server->auth = false;
}

static void driver_far_open(struct world *w)
{
    const struct etcd_server *server = w->coordinator;
    char url[40];

    w->relay = relay_new(&w->loop, server->members[0].client_port);
    snprintf(url, sizeof url, "%s://127.0.0.1:%u", server->certs != NULL ? "https" : "http", relay_port(w->relay));
    w->far = world_open(w, url);
}

static void driver_close(struct world *w)
{
    if (w->relay != NULL) {
        relay_close(w->relay);
    }
    etcd_server_close(w->coordinator);
    free(w->coordinator);
}

static void driver_close_secure(struct world *w)
{
    driver_close(w);
    secure_close();
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
    .far_open = driver_far_open,
    .far_link = world_relay_link,
    .service = world_service_in_key,
    .no_session = "4711",
    .close = driver_close,
};

const struct world_driver world_etcd_secure = {
    .ops = &otr_backend_etcd,
    .init = driver_init_secure,
    .start = driver_start_secure,
    .kill = driver_kill,
    .freeze = driver_freeze,
    .thaw = driver_thaw,
    .compact = driver_compact_secure,
    .wipe = driver_wipe_secure,
    .far_open = driver_far_open,
    .far_link = world_relay_link,
    .service = world_service_in_key,
    .no_session = "4711",
    .close = driver_close_secure,
};

const struct world_driver world_etcd_cluster = {
    .ops = &otr_backend_etcd,
    .init = driver_init_cluster,
    .start = driver_start,
    .kill = driver_kill,
    .freeze = driver_freeze,
    .thaw = driver_thaw,
    .compact = driver_compact,
    .wipe = driver_wipe,
    .far_open = driver_far_open,
    .far_link = world_relay_link,
    .service = world_service_in_key,
    .no_session = "4711",
    .close = driver_close,
};
