#include "sidecar/cli/cluster.h"

#include "sidecar/coord/keys.h"
#include "sidecar/coord/values.h"
#include "sidecar/core/placement.h"
#include "sidecar/io/clock.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>

enum {
    REPLICATION_FACTOR_DEFAULT = 3,
    SHARDS_DEFAULT = 16,
    POLL_MS = 200,
    TEXT_MAX = 512,
    /* A batch compares `config`, `import` and each shard's key with absent and puts each shard; the last one puts
     * `config` too. */
    BATCH_SHARDS = (OTR_TXN_MAX - 3) / 2,
};

struct init {
    struct coord_client *c;
    const struct cluster_plan *plan;
    void (*progress)(void *data, const char *text);
    void *data;
    uint64_t deadline_ms; /* CLOCK_BOOTTIME; 0: none */
    char told[TEXT_MAX];  /* the last progress */
};

static void tell(struct init *in, const char *text)
{
    if (in->progress != NULL && strcmp(in->told, text) != 0) {
        snprintf(in->told, sizeof in->told, "%s", text);
        in->progress(in->data, text);
    }
}

static void tell_trouble(struct init *in, const struct otr_errmsg *msg)
{
    char text[TEXT_MAX];

    snprintf(text, sizeof text, "waiting for the coordinator: %.450s", msg->text);
    tell(in, text);
}

/* Waits a moment before the next look; OTR_TIMEOUT when the time is over. */
static int pause_a_moment(struct init *in, struct otr_errmsg *msg)
{
    int rv;

    if (in->deadline_ms != 0 && clock_now_ms() >= in->deadline_ms) {
        otr_errmsg_set(msg, "gave up after %u ms: %s", in->plan->timeout_ms, in->told);
        return OTR_TIMEOUT;
    }
    rv = loop_wait(in->c->loop, NULL, POLL_MS);
    return rv == OTR_TIMEOUT ? 0 : rv;
}

/* --- what is asked for and what exists ---------------------------------------------------------------------------- */

static struct topology_config wanted_config(const struct cluster_plan *plan)
{
    struct topology_config config;
    uint32_t most = plan->nodes < REPLICATION_FACTOR_DEFAULT ? plan->nodes : REPLICATION_FACTOR_DEFAULT;

    topology_config_defaults(&config);
    config.known = true;
    config.shards_count = plan->shards != 0 ? plan->shards : SHARDS_DEFAULT;
    config.replication_factor = plan->replication_factor != 0 ? plan->replication_factor : most;
    config.min_in_sync = plan->min_in_sync;
    if (config.min_in_sync == 0) { /* DESIGN 4.2 */
        config.min_in_sync = config.replication_factor >= 3 ? 2 : 1;
    }
    return config;
}

static int check_one(const char *what, uint32_t asked, uint32_t exists, struct otr_errmsg *msg)
{
    if (asked == 0 || asked == exists) {
        return 0;
    }
    otr_errmsg_set(msg, "the cluster exists already, with %s %u instead of %u; nothing was changed", what, exists,
                   asked);
    return OTR_EXISTS;
}

static int check_existing(const struct cluster_plan *plan, const struct topology_config *config, struct otr_errmsg *msg)
{
    int rv;

    rv = check_one("shards", plan->shards, config->shards_count, msg);
    rv = rv != 0 ? rv : check_one("replication factor", plan->replication_factor, config->replication_factor, msg);
    rv = rv != 0 ? rv : check_one("min_in_sync", plan->min_in_sync, config->min_in_sync, msg);
    return rv;
}

/* Descriptors without `config` are what an interrupted run left behind. They stay if they are what we would write,
 * up to the choice of nodes. */
static int check_leftovers(struct topology *t, const struct topology_config *config, const struct descriptor *wanted,
                           struct otr_errmsg *msg)
{
    for (otr_shard s = 0; s < topology_shards_count(t); s++) {
        const struct topology_shard *shard = topology_shard(t, s);

        if (shard == NULL || !shard->known) {
            continue;
        }
        if (s >= config->shards_count || shard->descriptor.hash_first != wanted[s].hash_first ||
            shard->descriptor.hash_last != wanted[s].hash_last ||
            shard->descriptor.replicas_count != config->replication_factor ||
            shard->descriptor.min_in_sync != config->min_in_sync) {
            uint64_t width = (uint64_t)shard->descriptor.hash_last - shard->descriptor.hash_first + 1;

            otr_errmsg_set(msg,
                           "an interrupted init left shard %u behind, one of about %u shards with %u replicas and "
                           "min_in_sync %u: finish it with these settings",
                           s, (unsigned)((UINT64_C(1) << 32) / width), shard->descriptor.replicas_count,
                           shard->descriptor.min_in_sync);
            return OTR_EXISTS;
        }
    }
    return 0;
}

/* --- the nodes ---------------------------------------------------------------------------------------------------- */

static const struct topology *sorting;

static int by_name(const void *a, const void *b)
{
    return strcmp(topology_name(sorting, ((const struct placement_node *)a)->node),
                  topology_name(sorting, ((const struct placement_node *)b)->node));
}

/* Those that are live, by name, so that equal runs place alike. */
static size_t live_nodes(struct topology *t, struct placement_node *nodes)
{
    size_t count = 0;

    for (otr_node n = 1; n <= topology_nodes_count(t); n++) {
        const struct topology_node *node = topology_node(t, n);

        if (node->live) {
            nodes[count++] = (struct placement_node){.node = n, .zone = node->zone};
        }
    }
    sorting = t;
    qsort(nodes, count, sizeof nodes[0], by_name);
    return count;
}

static void tell_waiting(struct init *in, const struct topology *t, const struct placement_node *nodes, size_t count)
{
    char text[TEXT_MAX];
    int used = snprintf(text, sizeof text, "waiting for %u nodes, %zu live", in->plan->nodes, count);

    for (size_t i = 0; i < count && used < (int)sizeof text; i++) {
        used += snprintf(text + used, sizeof text - (size_t)used, "%s%s", i == 0 ? ": " : ", ",
                         topology_name(t, nodes[i].node));
    }
    tell(in, text);
}

/* --- writing ------------------------------------------------------------------------------------------------------ */

struct batch {
    struct otr_compare compares[OTR_TXN_MAX];
    struct otr_op ops[OTR_TXN_MAX];
    char keys[OTR_TXN_MAX][KEY_MAX]; /* of ops */
    char *values[OTR_TXN_MAX];
    size_t ops_count;
    char config_key[KEY_MAX];
    char import_key[KEY_MAX];
};

/* The key is written in place by the caller: keys[ops_count]. Takes over `value`. */
static int batch_put(struct batch *b, char *value)
{
    size_t i = b->ops_count;

    if (value == NULL) {
        return OTR_NOMEM;
    }
    b->values[i] = value;
    b->ops[i] =
        (struct otr_op){.type = OTR_OP_PUT, .key = b->keys[i], .value = b->values[i], .value_bytes = strlen(value)};
    b->compares[i] = (struct otr_compare){.type = OTR_COMPARE_ABSENT, .key = b->keys[i]};
    b->ops_count++;
    return 0;
}

static int batch_send(struct init *in, struct batch *b, bool with_config, struct otr_errmsg *msg)
{
    struct otr_txn txn = {.compares = b->compares, .compares_count = b->ops_count, .ops = b->ops};

    if (!with_config) {
        b->compares[txn.compares_count++] = (struct otr_compare){.type = OTR_COMPARE_ABSENT, .key = b->config_key};
    }
    b->compares[txn.compares_count++] = (struct otr_compare){.type = OTR_COMPARE_ABSENT, .key = b->import_key};
    txn.ops_count = b->ops_count;
    assert(txn.compares_count + txn.ops_count <= OTR_TXN_MAX);
    return coord_client_txn(in->c, &txn, msg);
}

static void batch_clear(struct batch *b)
{
    for (size_t i = 0; i < b->ops_count; i++) {
        free(b->values[i]);
    }
    b->ops_count = 0;
}

/* Puts the shards that are missing, then `config`. OTR_CONFLICT: somebody else did something; look again. */
static int write_all(struct init *in, struct topology *t, const struct topology_config *config,
                     const struct descriptor *wanted, struct otr_errmsg *msg)
{
    struct batch *b = calloc(1, sizeof *b);
    otr_shard s = 0;
    bool last = false;
    int rv = b != NULL ? 0 : OTR_NOMEM;

    if (b != NULL) {
        key_config(b->config_key, in->c->cluster);
        key_import(b->import_key, in->c->cluster);
    }
    while (rv == 0 && !last) {
        for (; rv == 0 && s < config->shards_count && b->ops_count < BATCH_SHARDS; s++) {
            const struct topology_shard *exists = topology_shard(t, s);

            if (exists == NULL || !exists->known) {
                key_shard(b->keys[b->ops_count], in->c->cluster, s);
                rv = batch_put(b, value_descriptor_print(t, &wanted[s]));
            }
        }
        last = s == config->shards_count;
        if (rv == 0 && last) {
            key_config(b->keys[b->ops_count], in->c->cluster);
            rv = batch_put(b, value_config_print(config));
        }
        rv = rv != 0 ? rv : batch_send(in, b, last, msg);
        batch_clear(b);
    }
    free(b);
    return rv;
}

/* --- one look after the other ------------------------------------------------------------------------------------- */

enum { LOOK_AGAIN = -1 };

static int place(struct init *in, struct topology *t, const struct placement_node *nodes, size_t count,
                 struct otr_errmsg *msg)
{
    struct topology_config config = wanted_config(in->plan);
    struct descriptor *wanted = NULL;
    int rv = 0;

    if (config.shards_count > OTR_SHARDS_MAX) {
        otr_errmsg_set(msg, "%u shards are more than %d", config.shards_count, OTR_SHARDS_MAX);
        return OTR_INVALID;
    }
    wanted = calloc(config.shards_count, sizeof *wanted);
    if (wanted == NULL) {
        otr_errmsg_set(msg, "%s", otr_strerror(OTR_NOMEM));
        return OTR_NOMEM;
    }
    rv = placement_initial(nodes, count, config.replication_factor, config.shards_count, config.min_in_sync,
                           config.grant_ms, config.generation, wanted, msg);
    rv = rv != 0 ? rv : check_leftovers(t, &config, wanted, msg);
    rv = rv != 0 ? rv : write_all(in, t, &config, wanted, msg);
    free(wanted);
    if (rv == OTR_UNKNOWN || rv == OTR_UNREACHABLE) {
        tell_trouble(in, msg);
        return LOOK_AGAIN;
    }
    return rv == OTR_CONFLICT ? LOOK_AGAIN : rv;
}

/* OTR_EXISTS: the keys of an import are there, and more of them are to come. */
static int check_import(struct init *in, struct otr_errmsg *msg)
{
    char key[KEY_MAX];
    uint64_t revision;
    char *value;
    int rv;

    key_import(key, in->c->cluster);
    rv = coord_client_get(in->c, key, &value, &revision, msg);
    if (rv == 0) {
        free(value);
        otr_errmsg_set(msg,
                       "an import of cluster %s is under way, or was interrupted: run 'outrigger cluster import' "
                       "again",
                       in->c->cluster);
        return OTR_EXISTS;
    }
    return rv == OTR_NOTFOUND ? 0 : rv;
}

/* 0: it is there, made says how; LOOK_AGAIN; or an error. */
static int look(struct init *in, bool *written, struct cluster_made *made, struct otr_errmsg *msg)
{
    struct placement_node *nodes = NULL;
    struct topology *t = NULL;
    const struct topology_config *config;
    size_t count;
    int rv;

    rv = check_import(in, msg);
    rv = rv != 0 ? rv : coord_client_read(in->c, &t, msg);
    if (rv == OTR_UNREACHABLE || rv == OTR_TIMEOUT) {
        tell_trouble(in, msg);
        return LOOK_AGAIN;
    }
    if (rv != 0) {
        return rv;
    }
    config = topology_config(t);
    if (config->known) {
        *made = (struct cluster_made){.created = *written,
                                      .shards = config->shards_count,
                                      .replication_factor = config->replication_factor,
                                      .min_in_sync = config->min_in_sync};
        rv = check_existing(in->plan, config, msg);
        goto out;
    }
    nodes = calloc(OTR_NODES_MAX, sizeof *nodes);
    if (nodes == NULL) {
        otr_errmsg_set(msg, "%s", otr_strerror(OTR_NOMEM));
        rv = OTR_NOMEM;
        goto out;
    }
    count = live_nodes(t, nodes);
    if (count < in->plan->nodes) {
        tell_waiting(in, t, nodes, count);
        rv = LOOK_AGAIN;
        goto out;
    }
    rv = place(in, t, nodes, count, msg);
    if (rv == 0) {
        *written = true;
        rv = LOOK_AGAIN; /* Reads back what is there now. */
    }
out:
    free(nodes);
    topology_free(t);
    return rv;
}

int cluster_init(struct coord_client *c, const struct cluster_plan *plan, struct cluster_made *made,
                 void (*progress)(void *data, const char *text), void *data, struct otr_errmsg *msg)
{
    struct init in = {.c = c, .plan = plan, .progress = progress, .data = data};
    bool written = false;
    int rv;

    if (plan->timeout_ms != 0) {
        in.deadline_ms = clock_now_ms() + plan->timeout_ms;
    }
    for (;;) {
        bool before = written;

        rv = look(&in, &written, made, msg);
        if (rv != LOOK_AGAIN) {
            return rv;
        }
        rv = written && !before ? 0 : pause_a_moment(&in, msg);
        if (rv != 0) {
            return rv;
        }
    }
}

/* --- the command -------------------------------------------------------------------------------------------------- */

struct settings {
    struct coord_client_settings coordinator;
    struct cluster_plan plan;
    bool json;
};

static const struct option options[] = {
    COORD_CLIENT_OPTIONS(struct settings, coordinator),
    {"nodes", OPTION_NUMBER, offsetof(struct settings, plan.nodes), "N", "3", false, 1, OTR_NODES_MAX,
     "wait until so many nodes are live"},
    {"replication-factor", OPTION_NUMBER, offsetof(struct settings, plan.replication_factor), "N", NULL, false, 1,
     OTR_REPLICAS_MAX, "replicas of each shard (default 3, or the number of nodes if smaller)"},
    {"shards", OPTION_NUMBER, offsetof(struct settings, plan.shards), "N", NULL, false, 1, OTR_SHARDS_MAX,
     "shards of the cluster (default 16)"},
    {"min-in-sync", OPTION_NUMBER, offsetof(struct settings, plan.min_in_sync), "N", NULL, false, 1, OTR_REPLICAS_MAX,
     "replicas that must hold a write (default 2 of three or more, else 1)"},
    {"timeout", OPTION_MS, offsetof(struct settings, plan.timeout_ms), "TIME", NULL, false, 1, UINT32_MAX,
     "give up after so long (default: never)"},
    {"json", OPTION_FLAG, offsetof(struct settings, json), NULL, NULL, false, 0, 0, "print the result as JSON"},
};

static void print_progress(void *data, const char *text)
{
    (void)data;
    fprintf(stderr, "%s\n", text);
}

static void print_made(const struct settings *s, const struct cluster_made *made)
{
    if (s->json) {
        printf("{\"cluster\":\"%s\",\"created\":%s,\"shards\":%u,\"replication_factor\":%u,\"min_in_sync\":%u}\n",
               s->coordinator.cluster, made->created ? "true" : "false", made->shards, made->replication_factor,
               made->min_in_sync);
        return;
    }
    printf("cluster %s %s: %u shards, %u replicas each, writes need %u in sync%s\n", s->coordinator.cluster,
           made->created ? "is initialised" : "exists already", made->shards, made->replication_factor,
           made->min_in_sync, made->created ? "" : "; nothing was changed");
}

static int run(const struct command *command, int argc, char **argv)
{
    struct settings s = {.json = false};
    struct options_memory memory = {0};
    struct cluster_made made;
    struct coord_client c;
    struct loop loop;
    struct otr_errmsg msg = {0};
    int exit_code;
    int rv;

    if (!options_read(command, argc, argv, &s, &memory, &exit_code)) {
        return exit_code;
    }
    rv = loop_init(&loop, &msg);
    if (rv != 0) {
        goto out;
    }
    rv = coord_client_open(&c, &loop, &s.coordinator, &msg);
    if (rv != 0) {
        goto out_after_loop;
    }
    rv = cluster_init(&c, &s.plan, &made, print_progress, NULL, &msg);
    if (rv == 0) {
        print_made(&s, &made);
    }
    coord_client_close(&c);
out_after_loop:
    if (loop.interrupted != 0) {
        otr_errmsg_set(&msg, "interrupted; a later run goes on from here");
    }
    loop_close(&loop);
out:
    options_memory_close(&memory);
    if (rv != 0) {
        fprintf(stderr, "outrigger cluster init: %s\n", msg.text[0] != '\0' ? msg.text : otr_strerror(rv));
    }
    return rv != 0 ? EXIT_FAILED : EXIT_OK;
}

const struct command cluster_init_command = {
    .name = "cluster init",
    .about = "creates a cluster's settings and shards, once.\n\n"
             "Waits until the sidecars of the cluster have registered with the coordinator, then divides the hash\n"
             "space of point ids into shards and gives each shard its replicas, spread evenly over the nodes and\n"
             "their zones. The sidecars, which have been waiting for this, then elect primaries and serve.\n"
             "A second run changes nothing; it fails if it asks for other settings than the cluster has.",
    .examples = "  outrigger cluster init --endpoints http://10.0.0.5:2379 --nodes 3 --replication-factor 3\n"
                "  outrigger cluster init --cluster photos --nodes 5 --shards 64 --timeout 2min\n",
    .options = options,
    .options_count = sizeof options / sizeof options[0],
    .run = run,
};
