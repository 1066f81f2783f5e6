/* cluster enable-compression: one setting of the whole cluster, in the coordinator's key `config`. The sidecars watch
 * that key and follow; none restarts, and no request notices. */
#include "sidecar/cli/cluster.h"
#include "sidecar/cli/cluster_config.h"
#include "sidecar/coord/values.h"

#include <stdio.h>
#include <stdlib.h>

/* --- changing ----------------------------------------------------------------------------------------------------- */

struct wish {
    enum topology_compression wanted;
    enum topology_compression *before;
};

static int change(void *data, const char *value, const struct topology_config *now, char **changed,
                  struct otr_errmsg *msg)
{
    const struct wish *w = data;

    *w->before = now->compression;
    if (now->compression == w->wanted) {
        return 0;
    }
    *changed = value_config_with_compression(value, w->wanted, msg);
    return *changed != NULL ? 0 : msg->text[0] != '\0' ? OTR_PROTO : OTR_NOMEM;
}

int cluster_compression_set(struct coord_client *c, enum topology_compression wanted, enum topology_compression *before,
                            struct otr_errmsg *msg)
{
    return cluster_config_change(c, change, &(struct wish){.wanted = wanted, .before = before}, msg);
}

/* --- the command -------------------------------------------------------------------------------------------------- */

struct settings {
    struct coord_client_settings coordinator;
    const char *algorithm;
    bool json;
};

static const struct option options[] = {
    COORD_CLIENT_OPTIONS(struct settings, coordinator),
    {"algorithm", OPTION_TEXT, offsetof(struct settings, algorithm), "NAME", NULL, true, 0, 0,
     "zstd, or none to switch it off"},
    {"json", OPTION_FLAG, offsetof(struct settings, json), NULL, NULL, false, 0, 0, "print the result as JSON"},
};

static void print_result(const struct settings *s, enum topology_compression wanted, enum topology_compression before)
{
    if (s->json) {
        printf("{\"cluster\":\"%s\",\"compression\":\"%s\",\"before\":\"%s\",\"changed\":%s}\n", s->coordinator.cluster,
               s->algorithm, value_compression_name(before), before != wanted ? "true" : "false");
        return;
    }
    if (before == wanted) {
        printf("cluster %s: compression is %s already; nothing was changed\n", s->coordinator.cluster, s->algorithm);
    } else {
        printf("cluster %s: compression was %s, is %s; the sidecars follow at once\n", s->coordinator.cluster,
               value_compression_name(before), s->algorithm);
    }
    if (wanted != TOPOLOGY_COMPRESSION_NONE) {
        printf(
            "Each sidecar compresses for a peer while that pays: while the network, not the processor, is the bound.\n"
            "Its /metrics show it: outrigger_peer_compressing, outrigger_peer_compress_ratio,\n"
            "outrigger_compress_cpu_seconds_total, and why not: outrigger_compress_skipped_*_total.\n");
    }
}

static int enable(const struct settings *s, enum topology_compression wanted, struct otr_errmsg *msg)
{
    enum topology_compression before;
    struct coord_client c;
    struct loop loop;
    int rv;

    rv = loop_init(&loop, msg);
    if (rv != 0) {
        return rv;
    }
    rv = coord_client_open(&c, &loop, &s->coordinator, msg);
    if (rv == 0) {
        rv = cluster_compression_set(&c, wanted, &before, msg);
        if (rv == 0) {
            print_result(s, wanted, before);
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
    enum topology_compression wanted;
    struct otr_errmsg msg = {0};
    int exit_code;

    if (!options_read(command, argc, argv, &s, &memory, &exit_code)) {
        return exit_code;
    }
    if (!value_compression_find(s.algorithm, &wanted)) {
        otr_errmsg_set(&msg, "--algorithm: \"%s\" is none of zstd, none; nothing was changed", s.algorithm);
        exit_code = EXIT_USAGE;
    } else {
        int rv = enable(&s, wanted, &msg);

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

const struct command cluster_enable_compression_command = {
    .name = "cluster enable-compression",
    .about = "lets sidecars compress what they send each other, or stops it; at once, without a restart.\n\n"
             "With zstd, log entries and seeds are compressed, vectors with their bytes sorted by significance. Each\n"
             "sidecar decides for each peer whether it pays: it does while the network is the bound. It stops by\n"
             "itself while the processor is, on fast networks, and for data that hardly shrinks. A sidecar that does\n"
             "not understand it is sent plain entries. Exits 1 when the coordinator cannot be asked, 2 when the\n"
             "algorithm is not known; then nothing has changed.",
    .examples = "  outrigger cluster enable-compression --algorithm zstd --endpoints http://10.0.0.5:2379\n"
                "  outrigger cluster enable-compression --algorithm none --cluster photos\n",
    .options = options,
    .options_count = sizeof options / sizeof options[0],
    .run = run,
};
