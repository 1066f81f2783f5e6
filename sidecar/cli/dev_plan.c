#include "sidecar/cli/dev_plan.h"

#include <cjson/cJSON.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
    NODE_PORTS = 10, /* from one node's client port to the next one's */
    PORTS_MAX = 3 * DEV_PLAN_NODES_MAX + 2,
    PORT_OFFSET_PEER = 1,
    PORT_OFFSET_ENGINE = 2,
    PORT_OFFSET_ETCD = 3,
    PORT_OFFSET_ETCD_PEER = 4,
};

/* --- dev.json ----------------------------------------------------------------------------------------------------- */

static bool add_start(cJSON *object, const char *name, const struct dev_process *p)
{
    cJSON *list = cJSON_AddArrayToObject(object, name);

    for (size_t i = 0; i < p->start_count; i++) {
        if (!cJSON_AddItemToArray(list, cJSON_CreateString(p->start[i]))) {
            return false;
        }
    }
    return list != NULL;
}

static bool add_address(cJSON *object, const char *name, uint16_t port)
{
    char text[32];

    snprintf(text, sizeof text, "127.0.0.1:%u", port);
    return cJSON_AddStringToObject(object, name, text) != NULL;
}

static bool add_node(cJSON *list, const struct dev_plan_node *n)
{
    cJSON *item = cJSON_CreateObject();
    bool ok = cJSON_AddItemToArray(list, item);

    ok = ok && cJSON_AddStringToObject(item, "id", n->name) != NULL;
    ok = ok && cJSON_AddNumberToObject(item, "pid", n->sidecar.pid) != NULL;
    ok = ok && cJSON_AddNumberToObject(item, "engine_pid", n->engine.pid) != NULL;
    ok = ok && add_address(item, "client", n->client) && add_address(item, "peer", n->peer);
    return ok && add_start(item, "start", &n->sidecar) && add_start(item, "engine_start", &n->engine);
}

int dev_plan_write_json(struct dev_plan *d, struct otr_errmsg *msg)
{
    cJSON *json = cJSON_CreateObject();
    cJSON *coordinator;
    cJSON *item = cJSON_CreateObject();
    cJSON *nodes;
    char path[PATH_MAX + 16];
    char *text = NULL;
    bool ok;
    int rv = OTR_NOMEM;

    ok = cJSON_AddStringToObject(json, "backend", d->settings->backend) != NULL;
    coordinator = cJSON_AddArrayToObject(json, "coordinator");
    ok = cJSON_AddItemToArray(coordinator, item) && ok;
    ok = ok && cJSON_AddNumberToObject(item, "pid", d->coordinator.pid) != NULL;
    ok = ok && cJSON_AddStringToObject(item, "url", d->coordinator_url) != NULL &&
         add_start(item, "start", &d->coordinator);
    nodes = cJSON_AddArrayToObject(json, "nodes");
    for (uint32_t i = 0; ok && i < d->shape.nodes; i++) {
        ok = add_node(nodes, &d->nodes[i]);
    }
    text = ok ? cJSON_Print(json) : NULL;
    snprintf(path, sizeof path, "%s/dev.json", d->path);
    if (text != NULL) {
        rv = dev_files_write(path, text, msg);
    }
    free(text);
    cJSON_Delete(json);
    return rv;
}

size_t dev_plan_processes(struct dev_plan *d, struct dev_process *out[DEV_PLAN_PROCESSES_MAX])
{
    size_t n = d->shape.nodes;

    for (size_t i = 0; i < n; i++) {
        out[i] = &d->nodes[i].sidecar;
        out[n + i] = &d->nodes[i].engine;
    }
    out[2 * n] = &d->coordinator;
    return 2 * n + 1;
}

/* --- commands -------------------------------------------------------------------------------------------------------
 */

/* `role` is how people know it, "node-1's engine"; `log` ends its log's name. */
static void process_init(struct dev_plan *d, struct dev_process *p, const char *name, const char *role, const char *log)
{
    p->self = d->programs.self;
    snprintf(p->name, sizeof p->name, "%s%s", name, role);
    snprintf(p->log_path, sizeof p->log_path, "%s/log/%s%s.log", d->path, name, log);
}

static bool etcd_command(struct dev_plan *d)
{
    struct dev_process *p = &d->coordinator;
    bool ok = dev_process_arg(p, "%s", d->programs.coordinator) && dev_process_arg(p, "--name=dev");

    ok = ok && dev_process_arg(p, "--data-dir=%s/etcd", d->path);
    ok = ok && dev_process_arg(p, "--listen-client-urls=%s", d->coordinator_url);
    ok = ok && dev_process_arg(p, "--advertise-client-urls=%s", d->coordinator_url);
    ok = ok && dev_process_arg(p, "--listen-peer-urls=http://127.0.0.1:%u", d->coordinator_peer_port);
    ok = ok && dev_process_arg(p, "--initial-advertise-peer-urls=http://127.0.0.1:%u", d->coordinator_peer_port);
    ok = ok && dev_process_arg(p, "--initial-cluster=dev=http://127.0.0.1:%u", d->coordinator_peer_port);
    /* Without it the history of keys grows until etcd refuses writes. */
    ok = ok && dev_process_arg(p, "--auto-compaction-mode=revision") &&
         dev_process_arg(p, "--auto-compaction-retention=1000");
    return ok && dev_process_arg(p, "--log-level=warn");
}

/* One server, which keeps its data; quick to find that it leads. */
static bool consul_command(struct dev_plan *d)
{
    struct dev_process *p = &d->coordinator;
    bool ok = dev_process_arg(p, "%s", d->programs.coordinator) && dev_process_arg(p, "agent");

    ok = ok && dev_process_arg(p, "-server") && dev_process_arg(p, "-bootstrap-expect=1");
    ok = ok && dev_process_arg(p, "-node=dev") && dev_process_arg(p, "-data-dir=%s/consul", d->path);
    ok = ok && dev_process_arg(p, "-bind=127.0.0.1") && dev_process_arg(p, "-client=127.0.0.1");
    ok = ok && dev_process_arg(p, "-http-port=%u", d->coordinator_port);
    ok = ok && dev_process_arg(p, "-server-port=%u", d->coordinator_peer_port);
    ok = ok && dev_process_arg(p, "-serf-lan-port=%u", d->coordinator_gossip_port);
    ok = ok && dev_process_arg(p, "-serf-wan-port=-1") && dev_process_arg(p, "-dns-port=-1");
    ok = ok && dev_process_arg(p, "-hcl=performance { raft_multiplier = 1 } disable_update_check = true");
    return ok && dev_process_arg(p, "-log-level=warn");
}

static bool engine_command(struct dev_plan *d, struct dev_plan_node *n)
{
    struct dev_process *p = &n->engine;
    bool ok = dev_process_arg(p, "%s", d->programs.node) && dev_process_arg(p, "%s", d->programs.server);

    ok = ok && dev_process_arg(p, "--data") && dev_process_arg(p, "%s/%s/engine", d->path, n->name);
    ok = ok && dev_process_arg(p, "--port") && dev_process_arg(p, "%u", n->engine_port);
    return ok && dev_process_arg(p, "--host") && dev_process_arg(p, "127.0.0.1");
}

static bool sidecar_command_of(struct dev_plan *d, struct dev_plan_node *n)
{
    struct dev_process *p = &n->sidecar;
    bool ok = dev_process_arg(p, "%s", d->programs.self) && dev_process_arg(p, "sidecar");

    ok = ok && dev_process_arg(p, "--cluster") && dev_process_arg(p, "%s", DEV_PLAN_CLUSTER);
    ok = ok && dev_process_arg(p, "--node") && dev_process_arg(p, "%s", n->name);
    ok = ok && dev_process_arg(p, "--listen") && dev_process_arg(p, "127.0.0.1:%u", n->client);
    ok = ok && dev_process_arg(p, "--peer-listen") && dev_process_arg(p, "127.0.0.1:%u", n->peer);
    ok = ok && dev_process_arg(p, "--backend") && dev_process_arg(p, "%s", d->settings->backend);
    ok = ok && dev_process_arg(p, "--endpoints") && dev_process_arg(p, "%s", d->coordinator_url);
    ok = ok && dev_process_arg(p, "--engine") && dev_process_arg(p, "%s", d->settings->engine);
    ok = ok && dev_process_arg(p, "--engine-url") && dev_process_arg(p, "http://127.0.0.1:%u", n->engine_port);
    ok = ok && dev_process_arg(p, "--data") && dev_process_arg(p, "%s/%s/sidecar", d->path, n->name);
    return ok && dev_process_arg(p, "--session-ttl") && dev_process_arg(p, "%ums", d->settings->session_ttl_ms);
}

/* --- before anything runs -------------------------------------------------------------------------------------------
 */

static int choose_port(struct dev_plan *d, uint32_t preferred, uint16_t *taken, size_t *count, uint16_t *out,
                       struct otr_errmsg *msg)
{
    *out = dev_files_port((uint16_t)preferred, taken, *count);
    if (*out == 0) {
        otr_errmsg_set(msg, "no free port was found for %s", d->path);
        return OTR_INUSE;
    }
    taken[(*count)++] = *out;
    return 0;
}

/* Clients' ports are as the user was told; the others are what is free. */
static int choose_ports(struct dev_plan *d, struct otr_errmsg *msg)
{
    uint16_t taken[PORTS_MAX];
    size_t count = 0;
    uint32_t base = d->settings->port;
    int rv = 0;

    if (base + NODE_PORTS * (d->shape.nodes - 1) > UINT16_MAX - NODE_PORTS) {
        otr_errmsg_set(msg, "--port %u leaves no room for %u nodes below 65536", base, d->shape.nodes);
        return OTR_INVALID;
    }
    for (uint32_t i = 0; i < d->shape.nodes; i++) {
        d->nodes[i].client = (uint16_t)(base + NODE_PORTS * i);
        taken[count++] = d->nodes[i].client;
        if (!dev_files_port_free(d->nodes[i].client)) {
            otr_errmsg_set(msg, "port %u of 127.0.0.1 is in use; give another --port", d->nodes[i].client);
            return OTR_INUSE;
        }
    }
    for (uint32_t i = 0; rv == 0 && i < d->shape.nodes; i++) {
        struct dev_plan_node *n = &d->nodes[i];

        rv = choose_port(d, n->client + PORT_OFFSET_PEER, taken, &count, &n->peer, msg);
        rv = rv != 0 ? rv : choose_port(d, n->client + PORT_OFFSET_ENGINE, taken, &count, &n->engine_port, msg);
    }
    rv = rv != 0 ? rv : choose_port(d, base + PORT_OFFSET_ETCD, taken, &count, &d->coordinator_port, msg);
    rv = rv != 0 ? rv : choose_port(d, base + PORT_OFFSET_ETCD_PEER, taken, &count, &d->coordinator_peer_port, msg);
    rv = rv != 0 ? rv
                 : choose_port(d, base + PORT_OFFSET_ETCD_PEER + 1, taken, &count, &d->coordinator_gossip_port, msg);
    snprintf(d->coordinator_url, sizeof d->coordinator_url, "http://127.0.0.1:%u", d->coordinator_port);
    return rv;
}

static int prepare_commands(struct dev_plan *d, struct otr_errmsg *msg)
{
    char path[PATH_MAX + OTR_NAME_MAX + 2];
    char name[sizeof d->nodes[0].name];
    bool ok;

    process_init(d, &d->coordinator, d->settings->backend, "", "");
    ok = strcmp(d->settings->backend, "consul") == 0 ? consul_command(d) : etcd_command(d);
    for (uint32_t i = 0; ok && i < d->shape.nodes; i++) {
        struct dev_plan_node *n = &d->nodes[i];

        snprintf(path, sizeof path, "%s/%s", d->path, n->name);
        if (mkdir(path, 0700) != 0 && errno != EEXIST) {
            otr_errmsg_set(msg, "cannot make the directory %s: %s", path, strerror(errno));
            return OTR_IO;
        }
        memcpy(name, n->name, sizeof name); /* gcc takes n->name for a part of what is printed into */
        process_init(d, &n->engine, name, "'s engine", "-engine");
        process_init(d, &n->sidecar, name, "'s sidecar", "");
        ok = engine_command(d, n) && sidecar_command_of(d, n);
    }
    if (!ok) {
        otr_errmsg_set(msg, "%s", otr_strerror(OTR_NOMEM));
    }
    return ok ? 0 : OTR_NOMEM;
}

void dev_plan_close(struct dev_plan *d)
{
    struct dev_process *all[DEV_PLAN_PROCESSES_MAX];
    size_t count = dev_plan_processes(d, all);

    for (size_t i = 0; i < count; i++) {
        dev_process_free(all[i]);
    }
    close(d->lock);
}

int dev_plan_open(struct dev_plan *d, const struct dev_plan_settings *settings, struct otr_errmsg *msg)
{
    int rv;

    if (strlen(settings->dir) > PATH_MAX / 2) {
        otr_errmsg_set(msg, "--dir is too long");
        return OTR_INVALID;
    }
    rv = dev_files_programs(&d->programs, settings->backend,
                            strcmp(settings->backend, "consul") == 0 ? settings->consul : settings->etcd,
                            settings->ruvector, msg);
    if (rv != 0) {
        return rv;
    }
    d->settings = settings;
    d->shape = settings->shape;
    rv = dev_files_open(settings->dir, d->path, &d->shape, &d->existed, &d->lock, msg);
    if (rv != 0) {
        return rv;
    }
    for (uint32_t i = 0; i < d->shape.nodes; i++) {
        snprintf(d->nodes[i].name, sizeof d->nodes[i].name, "node-%u", i + 1);
    }
    rv = choose_ports(d, msg);
    rv = rv != 0 ? rv : prepare_commands(d, msg);
    if (rv != 0) {
        dev_plan_close(d);
    }
    return rv;
}
