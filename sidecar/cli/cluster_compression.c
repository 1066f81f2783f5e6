/* cluster enable-compression: one setting of the whole cluster, in the coordinator's key `config`. The sidecars watch
 * that key and follow; none restarts, and no request notices. */
#include "sidecar/cli/cluster.h"
#include "sidecar/coord/keys.h"
#include "sidecar/coord/values.h"

#include <stdio.h>
#include <stdlib.h>

enum { TRIES = 5 /* against others who change the settings at the same time */ };

/* --- changing ----------------------------------------------------------------------------------------------------- */

static int replace(struct coord_client *c, const char *key, const char *value, uint64_t revision,
                   enum topology_compression wanted, struct otr_errmsg *msg)
{
    char *changed = value_config_with_compression(value, wanted, msg);
    int rv;

    if (changed == NULL) {
        return msg->text[0] != '\0' ? OTR_PROTO : OTR_NOMEM;
    }
    rv = coord_client_txn(
        c,
        &(struct otr_txn){
            .compares = &(struct otr_compare){.type = OTR_COMPARE_UNMODIFIED, .key = key, .revision = revision},
            .compares_count = 1,
            .ops = &(struct otr_op){.type = OTR_OP_PUT, .key = key, .value = changed, .value_bytes = strlen(changed)},
            .ops_count = 1,
        },
        msg);
    free(changed);
    if (rv == OTR_UNKNOWN || rv == OTR_CANCELED) {
        otr_errmsg_wrap(msg, "whether the setting has changed is not known: run this again");
    }
    return rv;
}

/* Looks, and changes it if that is needed. OTR_CONFLICT: somebody else came first. */
static int set_once(struct coord_client *c, enum topology_compression wanted, enum topology_compression *before,
                    struct otr_errmsg *msg)
{
    struct topology_config config;
    char key[KEY_MAX];
    uint64_t revision;
    char *value;
    int rv;

    key_config(key, c->cluster);
    rv = coord_client_get(c, key, &value, &revision, msg);
    if (rv == OTR_NOTFOUND) {
        otr_errmsg_set(msg, "there is no cluster %s; 'outrigger cluster init' makes one", c->cluster);
    }
    if (rv != 0) {
        return rv;
    }
    rv = value_config_parse(value, &config, msg);
    if (rv == 0) {
        *before = config.compression;
        rv = config.compression != wanted ? replace(c, key, value, revision, wanted, msg) : 0;
    } else {
        otr_errmsg_wrap(msg, "key %s", key);
    }
    free(value);
    return rv;
}

int cluster_compression_set(struct coord_client *c, enum topology_compression wanted, enum topology_compression *before,
                            struct otr_errmsg *msg)
{
    int rv = OTR_CONFLICT;

    for (int i = 0; i < TRIES && rv == OTR_CONFLICT; i++) {
        rv = set_once(c, wanted, before, msg);
    }
    return rv;
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
