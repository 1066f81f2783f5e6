/* Happy path: directory, ports, coordinator and engines at once, sidecars when the coordinator answers, `cluster init`
 * in this process, waiting until every shard can be written, dev.json, then waiting for a signal. Each step looks every
 * few milliseconds and ends early when a process that it needs has ended; then the end of that one's log is shown.
 *
 * Stopping: sidecars first, for they end their sessions, then engines and the coordinator; who is slow is killed.
 * Should we be killed ourselves, the kernel kills them all (exec_child.h). */
#include "sidecar/cli/dev.h"

#include "sidecar/cli/cluster.h"
#include "sidecar/cli/dev_plan.h"
#include "sidecar/cli/fetch.h"
#include "sidecar/io/clock.h"

#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

enum {
    POLL_MS = 20,
    PROBE_TIMEOUT_MS = 1000,
    START_TIMEOUT_MS = 60000,
    STOP_SIDECARS_MS = 5000,
    STOP_OTHERS_MS = 3000,
    RESTART_MS = 500,
};

struct settings {
    struct dev_plan_settings plan;
    bool supervise;
};

struct dev {
    struct loop loop;
    struct dev_plan plan;
    struct fetch_client fetch;
    bool supervise;
    bool ready;
    bool changed;       /* some process ended */
    uv_timer_t restart; /* --supervise: starts what is down */
};

/* --- processes that end ---------------------------------------------------------------------------------------------
 */

static void on_restart(uv_timer_t *timer)
{
    struct dev *d = timer->data;
    struct otr_errmsg msg = {0};
    struct dev_process *all[DEV_PLAN_PROCESSES_MAX];
    size_t count = dev_plan_processes(&d->plan, all);
    int rv = 0;

    for (size_t i = 0; rv == 0 && i < count; i++) {
        if (!all[i]->running) {
            rv = dev_process_start(all[i], &msg);
        }
    }
    rv = rv != 0 ? rv : dev_plan_write_json(&d->plan, &msg);
    if (rv != 0) {
        fprintf(stderr, "outrigger dev: %s\n", msg.text);
    }
}

static void on_exit_of(struct dev_process *p)
{
    struct dev *d = p->data;
    char how[64];

    d->changed = true;
    if (p->stopping || !d->ready) {
        return;
    }
    dev_process_end_text(p, how, sizeof how);
    printf("%s ended: %s%s\n", p->name, how, d->supervise ? "; starting it again" : "");
    if (d->supervise) {
        uv_timer_start(&d->restart, on_restart, RESTART_MS, 0);
    }
}

/* --- starting -------------------------------------------------------------------------------------------------------
 */

/* A moment, unless something that is needed has ended or the user interrupts. */
static int wait_a_moment(struct dev *d, uint64_t began_ms, const char *what, struct otr_errmsg *msg)
{
    struct dev_process *all[DEV_PLAN_PROCESSES_MAX];
    size_t count = dev_plan_processes(&d->plan, all);
    char how[64];
    int rv;

    for (size_t i = 0; i < count; i++) {
        if (all[i]->pid != 0 && !all[i]->running) {
            dev_process_end_text(all[i], how, sizeof how);
            dev_process_print_log_tail(all[i]);
            otr_errmsg_set(msg, "%s ended at its start: %s", all[i]->name, how);
            return OTR_IO;
        }
    }
    if (clock_now_ms() - began_ms > START_TIMEOUT_MS) {
        otr_errmsg_set(msg, "waited %d s for %s; see %s/log", START_TIMEOUT_MS / 1000, what, d->plan.path);
        return OTR_TIMEOUT;
    }
    rv = loop_wait(&d->loop, NULL, POLL_MS);
    return rv == OTR_TIMEOUT ? 0 : rv;
}

/* Until this GET is answered with 200. */
static int await_url(struct dev *d, const char *url, const char *what, struct otr_errmsg *msg)
{
    uint64_t began_ms = clock_now_ms();
    struct fetch fetch = {.data = NULL};
    bool up;
    int rv = 0;

    snprintf(fetch.url, sizeof fetch.url, "%s", url);
    for (;;) {
        fetch_all(&d->fetch, &fetch, 1, PROBE_TIMEOUT_MS);
        up = fetch.status == 0 && fetch.http_status == 200;
        fetch_clear(&fetch, 1);
        if (up) {
            return 0;
        }
        rv = wait_a_moment(d, began_ms, what, msg);
        if (rv != 0) {
            return rv;
        }
    }
}

static int start_processes(struct dev *d, struct otr_errmsg *msg)
{
    char url[96];
    int rv;

    rv = dev_process_start(&d->plan.coordinator, msg);
    for (uint32_t i = 0; rv == 0 && i < d->plan.shape.nodes; i++) {
        rv = dev_process_start(&d->plan.nodes[i].engine, msg);
    }
    if (rv != 0) {
        return rv;
    }
    snprintf(url, sizeof url, "%s%s", d->plan.coordinator_url,
             strcmp(d->plan.settings->backend, "consul") == 0 ? "/v1/catalog/nodes?consistent" : "/health");
    rv = await_url(d, url, d->plan.settings->backend, msg);
    if (rv != 0) {
        return rv;
    }
    printf("%-8s %s\n", d->plan.settings->backend, d->plan.coordinator_url);
    for (uint32_t i = 0; rv == 0 && i < d->plan.shape.nodes; i++) {
        rv = dev_process_start(&d->plan.nodes[i].sidecar, msg);
    }
    for (uint32_t i = 0; rv == 0 && i < d->plan.shape.nodes; i++) {
        snprintf(url, sizeof url, "http://127.0.0.1:%u/healthz", d->plan.nodes[i].client);
        rv = await_url(d, url, d->plan.nodes[i].sidecar.name, msg);
        if (rv == 0) {
            printf("%-8s http://127.0.0.1:%u  (engine http://127.0.0.1:%u)\n", d->plan.nodes[i].name,
                   d->plan.nodes[i].client, d->plan.nodes[i].engine_port);
        }
    }
    return rv;
}

/* Every shard is led by a process that lives now, with enough members in sync. */
static bool all_led(struct topology *t)
{
    const struct topology_config *config = topology_config(t);

    for (otr_shard s = 0; s < config->shards_count; s++) {
        const struct topology_shard *shard = topology_shard(t, s);
        const struct topology_node *primary;

        if (shard == NULL || !shard->known) {
            return false;
        }
        primary = topology_node(t, shard->descriptor.primary);
        if (primary == NULL || !primary->live || primary->incarnation != shard->descriptor.incarnation ||
            shard->descriptor.in_sync_count < shard->descriptor.min_in_sync) {
            return false;
        }
    }
    return config->known;
}

static int await_writable(struct dev *d, struct coord_client *c, struct otr_errmsg *msg)
{
    uint64_t began_ms = clock_now_ms();
    struct topology *t;
    char url[96];
    bool led = false;
    int rv;

    while (!led) {
        rv = coord_client_read(c, &t, msg);
        if (rv != 0) {
            return rv;
        }
        led = all_led(t);
        topology_free(t);
        rv = led ? 0 : wait_a_moment(d, began_ms, "every shard to have a primary", msg);
        if (rv != 0) {
            return rv;
        }
    }
    for (uint32_t i = 0; i < d->plan.shape.nodes; i++) {
        snprintf(url, sizeof url, "http://127.0.0.1:%u/readyz", d->plan.nodes[i].client);
        rv = await_url(d, url, "every node to be ready", msg);
        if (rv != 0) {
            return rv;
        }
    }
    return 0;
}

static int start(struct dev *d, struct otr_errmsg *msg)
{
    const struct coord_client_settings coordinator = {
        .cluster = DEV_PLAN_CLUSTER, .backend = d->plan.settings->backend, .endpoints = d->plan.coordinator_url};
    const struct cluster_plan plan = {.nodes = d->plan.shape.nodes,
                                      .replication_factor = d->plan.shape.replicas,
                                      .shards = d->plan.shape.shards,
                                      .timeout_ms = START_TIMEOUT_MS};
    struct cluster_made made;
    struct coord_client c;
    int rv;

    rv = start_processes(d, msg);
    if (rv != 0) {
        return rv;
    }
    rv = coord_client_open(&c, &d->loop, &coordinator, msg);
    if (rv != 0) {
        return rv;
    }
    rv = cluster_init(&c, &plan, &made, NULL, NULL, msg);
    rv = rv != 0 ? rv : await_writable(d, &c, msg);
    coord_client_close(&c);
    return rv != 0 ? rv : dev_plan_write_json(&d->plan, msg);
}

/* --- stopping -------------------------------------------------------------------------------------------------------
 */

static void stop_group(struct dev *d, struct dev_process **group, size_t count, int number, uint32_t timeout_ms)
{
    uint64_t deadline_ms = clock_now_ms() + timeout_ms;
    bool killed = false;

    for (size_t i = 0; i < count; i++) {
        dev_process_kill(group[i], number);
    }
    for (;;) {
        uint64_t now_ms = clock_now_ms();
        size_t running = 0;

        for (size_t i = 0; i < count; i++) {
            running += group[i]->running;
            if (now_ms >= deadline_ms && !killed) {
                dev_process_kill(group[i], SIGKILL);
            }
        }
        killed = killed || now_ms >= deadline_ms;
        if (running == 0) {
            return;
        }
        d->changed = false;
        loop_finish(&d->loop, &d->changed, killed ? 0 : deadline_ms - now_ms);
    }
}

static void stop(struct dev *d)
{
    struct dev_process *all[DEV_PLAN_PROCESSES_MAX];
    size_t count = dev_plan_processes(&d->plan, all);
    char path[PATH_MAX + 16];

    uv_timer_stop(&d->restart);
    /* SIGQUIT: handing over to one another would be pointless now. */
    stop_group(d, all, d->plan.shape.nodes, SIGQUIT, STOP_SIDECARS_MS);
    stop_group(d, all + d->plan.shape.nodes, count - d->plan.shape.nodes, SIGTERM, STOP_OTHERS_MS);
    snprintf(path, sizeof path, "%s/dev.json", d->plan.path);
    unlink(path);
}

/* --- the command ----------------------------------------------------------------------------------------------------
 */

static void print_ready(const struct dev *d, uint64_t took_ms)
{
    const struct dev_plan_node *first = &d->plan.nodes[0];
    const struct dev_plan_node *other = &d->plan.nodes[d->plan.shape.nodes > 1 ? 1 : 0];

    printf("\nReady after %.1f s: %u nodes, %u shards, %u replicas of each%s. Data and logs: %s\n\n"
           "Any node answers for the whole cluster:\n\n",
           (double)took_ms / 1000, d->plan.shape.nodes, d->plan.shape.shards, d->plan.shape.replicas,
           d->plan.existed ? ", with the data of the last run" : "", d->plan.path);
    printf(
        "  curl -X POST http://127.0.0.1:%u/collections -d '{\"name\":\"colours\",\"dimension\":3}'\n"
        "  curl -X PUT http://127.0.0.1:%u/collections/colours/points \\\n"
        "    -d '{\"points\":[{\"id\":\"red\",\"vector\":[1,0,0]},{\"id\":\"pink\",\"vector\":[1,0.6,0.7]},"
        "{\"id\":\"blue\",\"vector\":[0,0,1]}]}'\n"
        "  curl -X POST http://127.0.0.1:%u/collections/colours/points/search -d '{\"vector\":[1,0.1,0.1],\"k\":2}'\n"
        "  curl http://127.0.0.1:%u/collections/colours/points/blue\n"
        "  %s cluster status --sidecar http://127.0.0.1:%u\n",
        first->client, first->client, other->client, other->client, d->plan.programs.self, first->client);
    printf("\nKill something and go on: kill -9 %d %d takes the sidecar and the engine of %s.\n"
           "Ctrl-C stops everything; the data stays.\n",
           other->sidecar.pid, other->engine.pid, other->name);
}

static int run_cluster(struct dev *d, struct otr_errmsg *msg)
{
    uint64_t began_ms = clock_now_ms();
    int rv;

    rv = start(d, msg);
    if (rv == 0) {
        d->ready = true;
        print_ready(d, clock_now_ms() - began_ms);
        rv = loop_wait(&d->loop, NULL, 0);
    }
    if (rv == OTR_CANCELED && d->loop.interrupted != 0) {
        printf("stopping\n");
        rv = 0;
    }
    stop(d);
    return rv;
}

static int open_and_run(struct dev *d, const struct dev_plan_settings *settings, struct otr_errmsg *msg)
{
    struct dev_process *all[DEV_PLAN_PROCESSES_MAX];
    size_t count;
    int rv;

    rv = dev_plan_open(&d->plan, settings, msg);
    if (rv != 0) {
        return rv;
    }
    count = dev_plan_processes(&d->plan, all);
    for (size_t i = 0; i < count; i++) {
        all[i]->loop = &d->loop;
        all[i]->on_exit = on_exit_of;
        all[i]->data = d;
    }
    rv = loop_init(&d->loop, msg);
    if (rv != 0) {
        goto out;
    }
    uv_timer_init(&d->loop.uv, &d->restart);
    d->restart.data = d;
    rv = fetch_open(&d->fetch, &d->loop, NULL, msg);
    if (rv == 0) {
        rv = run_cluster(d, msg);
        fetch_close(&d->fetch);
    }
    uv_close((uv_handle_t *)&d->restart, NULL);
    loop_close(&d->loop);
out:
    dev_plan_close(&d->plan);
    return rv;
}

#define OPTION(member) offsetof(struct settings, member)
static const struct option options[] = {
    {"nodes", OPTION_NUMBER, OPTION(plan.shape.nodes), "N", NULL, false, 1, DEV_PLAN_NODES_MAX, "nodes (default 3)"},
    {"shards", OPTION_NUMBER, OPTION(plan.shape.shards), "N", NULL, false, 1, OTR_SHARDS_MAX, "shards (default 4)"},
    {"replicas", OPTION_NUMBER, OPTION(plan.shape.replicas), "N", NULL, false, 1, OTR_REPLICAS_MAX,
     "replicas of each shard (default 3, or the number of nodes)"},
    {"dir", OPTION_TEXT, OPTION(plan.dir), "DIR", "outrigger-dev", false, 0, 0,
     "data and logs; an existing one goes on"},
    {"port", OPTION_NUMBER, OPTION(plan.port), "N", "7700", false, 1024, 65000,
     "node 1's port for clients; node 2 has 10 more"},
    {"backend", OPTION_TEXT, OPTION(plan.backend), "NAME", "etcd", false, 0, 0, "the coordinator: etcd or consul"},
    {"engine", OPTION_TEXT, OPTION(plan.engine), "NAME", "ruvector", false, 0, 0, "the vector engine: ruvector"},
    {"session-ttl", OPTION_MS, OPTION(plan.session_ttl_ms), "TIME", "3s", false, 1000, 600000,
     "how long the coordinator waits for a silent node"},
    {"supervise", OPTION_FLAG, OPTION(supervise), NULL, NULL, false, 0, 0, "start again what dies"},
    {"etcd", OPTION_TEXT, OPTION(plan.etcd), "PROGRAM", NULL, false, 0, 0,
     "(default: what scripts/fetch-etcd.sh unpacked, or PATH)"},
    {"consul", OPTION_TEXT, OPTION(plan.consul), "PROGRAM", NULL, false, 0, 0,
     "(default: what scripts/fetch-consul.sh unpacked, or PATH)"},
    {"ruvector", OPTION_TEXT, OPTION(plan.ruvector), "FILE", NULL, false, 0, 0,
     "its server.js (default: engines/ruvector/node of this tree)"},
};

static int run(const struct command *command, int argc, char **argv)
{
    struct settings s = {.supervise = false};
    struct options_memory memory = {0};
    struct otr_errmsg msg = {0};
    struct dev *d;
    int exit_code;
    int rv;

    if (!options_read(command, argc, argv, &s, &memory, &exit_code)) {
        return exit_code;
    }
    if ((strcmp(s.plan.backend, "etcd") != 0 && strcmp(s.plan.backend, "consul") != 0) ||
        strcmp(s.plan.engine, "ruvector") != 0) {
        fprintf(stderr, "outrigger dev: this version starts --backend etcd or consul, and --engine ruvector only\n");
        return EXIT_USAGE;
    }
    setvbuf(stdout, NULL, _IOLBF, 0); /* Also when it goes to a file that somebody watches. */
    d = calloc(1, sizeof *d);
    rv = d != NULL ? 0 : OTR_NOMEM;
    if (d != NULL) {
        d->supervise = s.supervise;
        rv = open_and_run(d, &s.plan, &msg);
        free(d);
    }
    if (rv != 0) {
        fprintf(stderr, "outrigger dev: %s\n", msg.text[0] != '\0' ? msg.text : otr_strerror(rv));
    }
    options_memory_close(&memory);
    return rv != 0 ? EXIT_FAILED : EXIT_OK;
}

const struct command dev_command = {
    .name = "dev",
    .about = "runs a whole cluster on this machine, for a first look and for tests.\n\n"
             "Starts etcd (or Consul), vector engines and sidecars on 127.0.0.1, waits until the cluster can be "
             "written and says\n"
             "how to try it. DIR/dev.json then names every process with the command that starts it again. Ctrl-C\n"
             "stops everything; the next run with the same DIR goes on with its data.",
    .examples = "  outrigger dev\n"
                "  outrigger dev --nodes 5 --shards 16 --dir /tmp/five --port 8800\n"
                "  outrigger dev --nodes 1 --replicas 1        (the smallest)\n",
    .options = options,
    .options_count = sizeof options / sizeof options[0],
    .run = run,
};
