/* cluster set-mode: when a write is acknowledged. A setting of the whole cluster, in the coordinator's key `config`;
 * each shard's primary brings its descriptor in line, to mode sync once all members hold everything. */
#include "sidecar/cli/cluster.h"
#include "sidecar/cli/cluster_config.h"
#include "sidecar/coord/values.h"

#include <stdio.h>
#include <stdlib.h>

struct settings {
    struct coord_client_settings coordinator;
    const char *mode;
    uint32_t max_lag_entries;
    uint32_t max_lag_ms;
    bool json;
};

static const struct option options[] = {
    COORD_CLIENT_OPTIONS(struct settings, coordinator),
    {"mode", OPTION_TEXT, offsetof(struct settings, mode), "NAME", NULL, true, 0, 0, "sync or async"},
    {"max-lag-entries", OPTION_NUMBER, offsetof(struct settings, max_lag_entries), "N", NULL, false, 1, UINT32_MAX,
     "async: most entries that a replica in sync may lack (default: as before, at first 1000)"},
    {"max-lag", OPTION_MS, offsetof(struct settings, max_lag_ms), "TIME", NULL, false, 1, 3600000,
     "async: oldest entry that a replica in sync may lack (default: as before, at first 1s)"},
    {"json", OPTION_FLAG, offsetof(struct settings, json), NULL, NULL, false, 0, 0, "print the result as JSON"},
};

/* --- changing ----------------------------------------------------------------------------------------------------- */

static int change(void *data, const char *value, const struct topology_config *now, char **changed,
                  struct otr_errmsg *msg)
{
    struct cluster_mode *m = data;
    struct topology_config wanted = *now;

    m->before = now->mode;
    wanted.mode = m->mode;
    wanted.max_lag_entries = m->max_lag_entries != 0 ? m->max_lag_entries : now->max_lag_entries;
    wanted.max_lag_ms = m->max_lag_ms != 0 ? m->max_lag_ms : now->max_lag_ms;
    m->changed = wanted.mode != now->mode || wanted.max_lag_entries != now->max_lag_entries ||
                 wanted.max_lag_ms != now->max_lag_ms;
    m->max_lag_entries = wanted.max_lag_entries;
    m->max_lag_ms = wanted.max_lag_ms;
    if (!m->changed) {
        return 0;
    }
    *changed = value_config_with_mode(value, &wanted, msg);
    return *changed != NULL ? 0 : msg->text[0] != '\0' ? OTR_PROTO : OTR_NOMEM;
}

int cluster_mode_set(struct coord_client *c, struct cluster_mode *m, struct otr_errmsg *msg)
{
    return cluster_config_change(c, change, m, msg);
}

/* --- the command -------------------------------------------------------------------------------------------------- */

static void print_result(const struct settings *s, const struct cluster_mode *m)
{
    if (s->json) {
        printf("{\"cluster\":\"%s\",\"mode\":\"%s\",\"before\":\"%s\",\"max_lag_entries\":%u,\"max_lag_ms\":%u,"
               "\"changed\":%s}\n",
               s->coordinator.cluster, value_mode_name(m->mode), value_mode_name(m->before), m->max_lag_entries,
               m->max_lag_ms, m->changed ? "true" : "false");
        return;
    }
    if (!m->changed) {
        printf("cluster %s: mode is %s already; nothing was changed\n", s->coordinator.cluster,
               value_mode_name(m->mode));
    } else {
        printf("cluster %s: mode was %s, is %s; the primaries follow at once\n", s->coordinator.cluster,
               value_mode_name(m->before), value_mode_name(m->mode));
    }
    if (m->mode == REPLICA_ASYNC) {
        printf("A failover may lose what its new primary lacks: of each shard at most %u acknowledged entries, none\n"
               "acknowledged more than %u ms before. 'outrigger cluster loss-report' lists them.\n",
               m->max_lag_entries, m->max_lag_ms);
    }
}

static int set_mode(const struct settings *s, struct cluster_mode *m, struct otr_errmsg *msg)
{
    struct coord_client c;
    struct loop loop;
    int rv = loop_init(&loop, msg);

    if (rv != 0) {
        return rv;
    }
    rv = coord_client_open(&c, &loop, &s->coordinator, msg);
    if (rv == 0) {
        rv = cluster_mode_set(&c, m, msg);
        if (rv == 0) {
            print_result(s, m);
        }
        coord_client_close(&c);
    }
    loop_close(&loop);
    return rv;
}

static int run(const struct command *command, int argc, char **argv)
{
    struct settings s = {.json = false};
    struct options_memory memory = {0};
    struct cluster_mode m = {0};
    struct otr_errmsg msg = {0};
    int exit_code;

    if (!options_read(command, argc, argv, &s, &memory, &exit_code)) {
        return exit_code;
    }
    m.max_lag_entries = s.max_lag_entries;
    m.max_lag_ms = s.max_lag_ms;
    if (!value_mode_find(s.mode, &m.mode)) {
        otr_errmsg_set(&msg, "--mode: \"%s\" is none of sync, async; nothing was changed", s.mode);
        exit_code = EXIT_USAGE;
    } else {
        int rv = set_mode(&s, &m, &msg);

        if (rv != 0 && msg.text[0] == '\0') {
            otr_errmsg_set(&msg, "%s", otr_strerror(rv));
        }
        exit_code = rv == 0 ? EXIT_OK : EXIT_FAILED;
    }
    if (exit_code != EXIT_OK) {
        fprintf(stderr, "outrigger %s: %s\n", command->name, msg.text);
    }
    options_memory_close(&memory);
    return exit_code;
}

const struct command cluster_set_mode_command = {
    .name = "cluster set-mode",
    .about =
        "says when a write is acknowledged; at once, without a restart.\n\n"
        "sync: when every replica in sync has it on disk; no failover loses it. async: when the primary has it on\n"
        "disk; replicas in sync may lag behind by max-lag, beyond which writes wait until the replica has caught up\n"
        "or left the set. A failover may then lose acknowledged writes, at most so many. Never do two primaries take\n"
        "writes. Exits 1 when the coordinator cannot be asked, 2 when the mode is not known; then nothing has changed.",
    .examples = "  outrigger cluster set-mode --mode async --max-lag-entries 500 --max-lag 200ms\n"
                "  outrigger cluster set-mode --mode sync --endpoints http://10.0.0.5:2379\n",
    .options = options,
    .options_count = sizeof options / sizeof options[0],
    .run = run,
};
