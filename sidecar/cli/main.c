/* The program: finds the subcommand and lets it run. */
#include "sidecar/cli/certs.h"
#include "sidecar/cli/cluster.h"
#include "sidecar/cli/dev.h"
#include "sidecar/cli/exec_child.h"
#include "sidecar/cli/load.h"
#include "sidecar/cli/sidecar.h"
#include "sidecar/cli/token.h"

#include <stdio.h>

static const struct command *const commands[] = {
    &dev_command,
    &load_command,
    &cluster_init_command,
    &cluster_status_command,
    &cluster_list_nodes_command,
    &cluster_health_command,
    &cluster_etcd_role_command,
    &cluster_failover_command,
    &cluster_loss_report_command,
    &cluster_set_mode_command,
    &cluster_bootstrap_command,
    &cluster_export_command,
    &cluster_import_command,
    &cluster_enable_compression_command,
    &sidecar_command,
    &token_command,
    &certs_ca_command,
    &certs_node_command,
    &certs_client_command,
    &certs_all_command,
    &certs_show_command,
};
enum { COMMANDS_COUNT = sizeof commands / sizeof commands[0] };

static void print_usage(FILE *out)
{
    fprintf(out, "outrigger: makes a replicated, sharded cluster out of single-node vector engines.\n\n"
                 "usage: outrigger COMMAND [settings]\n\n"
                 "  dev                 a whole cluster on this machine, for a first look\n"
                 "  sidecar             serves one node, beside its engine\n"
                 "  cluster init        creates a cluster's settings and shards, once\n"
                 "  cluster status      shards, their primaries and replicas\n"
                 "  cluster list-nodes  nodes, their addresses and loads\n"
                 "  cluster health      what is wrong and what to do; exit code 0 when nothing is\n"
                 "  cluster failover    changes the primary of a shard, in order\n"
                 "  cluster bootstrap   writes the coordinator's keys again, from what sidecars know\n"
                 "  cluster export      prints a cluster's durable state as one JSON document\n"
                 "  cluster import      writes an exported cluster into another coordinator\n"
                 "  cluster set-mode    whether writes wait for the replicas: sync or async\n"
                 "  cluster loss-report  lists acknowledged entries that are lost\n"
                 "  cluster enable-compression  lets sidecars compress what they send each other\n"
                 "  cluster etcd-role   prints how to make etcd's user and role for a cluster\n"
                 "  certs ca            makes a certificate authority for a cluster\n"
                 "  certs node          makes or renews a node's certificate\n"
                 "  certs client        makes or renews a client's certificate\n"
                 "  certs all           makes an authority and all certificates of a cluster\n"
                 "  certs show          whom certificates name, when they end\n"
                 "  load                puts points from a file into a collection\n"
                 "  token               draws a token for clients or operators\n"
                 "  version             the program's version\n"
                 "  help [COMMAND]      what a command does, its settings, examples\n\n"
                 "Exit codes: 0 done, 1 failed, 2 wrong usage.\n");
}

/* Commands of two words, by their first one. */
static const struct group {
    const char *name;
    const char *commands; /* as help shows them */
} groups[] = {
    {"cluster", "  init        creates a cluster's settings and shards, once\n"
                "  status      shards, their primaries and replicas\n"
                "  list-nodes  nodes, their addresses and loads\n"
                "  health      what is wrong and what to do; exit code 0 when nothing is\n"
                "  failover    changes the primary of a shard, in order\n"
                "  bootstrap   writes the coordinator's keys again, from what sidecars know\n"
                "  export      prints a cluster's durable state as one JSON document\n"
                "  import      writes an exported cluster into another coordinator\n"
                "  set-mode    whether writes wait for the replicas: sync or async\n"
                "  loss-report lists acknowledged entries that are lost\n"
                "  enable-compression  lets sidecars compress what they send each other\n"
                "  etcd-role   prints how to make etcd's user and role for a cluster\n"},
    {"certs", "  ca          makes a certificate authority for a cluster\n"
              "  node        makes or renews a node's certificate\n"
              "  client      makes or renews a client's certificate\n"
              "  all         makes an authority and all certificates of a cluster\n"
              "  show        whom certificates name, when they end\n"},
};
enum { GROUPS_COUNT = sizeof groups / sizeof groups[0] };

static const struct group *group_find(const char *name)
{
    for (size_t i = 0; i < GROUPS_COUNT; i++) {
        if (strcmp(groups[i].name, name) == 0) {
            return &groups[i];
        }
    }
    return NULL;
}

static void print_group_usage(FILE *out, const struct group *group)
{
    fprintf(out, "usage: outrigger %s COMMAND [settings]\n\n%s\n'outrigger %s COMMAND --help' says more.\n",
            group->name, group->commands, group->name);
}

/* The command that the arguments begin with; *words is how many of them name it. */
static const struct command *find(int argc, char **argv, int *words)
{
    char name[64];

    *words = argc > 1 && group_find(argv[0]) != NULL ? 2 : 1;
    if (snprintf(name, sizeof name, *words == 2 ? "%s %s" : "%s", argv[0], *words == 2 ? argv[1] : "") >=
        (int)sizeof name) {
        return NULL;
    }
    for (size_t i = 0; i < COMMANDS_COUNT; i++) {
        if (strcmp(commands[i]->name, name) == 0) {
            return commands[i];
        }
    }
    return NULL;
}

static int unknown(int argc, char **argv)
{
    static const char *const others[] = {"version", "help"};
    const char *names[COMMANDS_COUNT + GROUPS_COUNT + 2];
    const struct group *group = group_find(argv[0]);
    const char *given = group != NULL ? argv[1] : argv[0];
    size_t count = 0;
    const char *meant;

    if (group != NULL && (argc < 2 || given[0] == '-')) {
        print_group_usage(argc < 2 ? stderr : stdout, group);
        return argc < 2 ? EXIT_USAGE : EXIT_OK;
    }
    for (size_t i = 0; i < COMMANDS_COUNT; i++) {
        const char *space = strchr(commands[i]->name, ' ');
        size_t first = space != NULL ? (size_t)(space - commands[i]->name) : 0;

        if (group == NULL ? space == NULL
                          : strlen(group->name) == first && memcmp(commands[i]->name, group->name, first) == 0) {
            names[count++] = group == NULL ? commands[i]->name : space + 1;
        }
    }
    for (size_t i = 0; group == NULL && i < GROUPS_COUNT; i++) {
        names[count++] = groups[i].name;
    }
    for (size_t i = 0; group == NULL && i < 2; i++) {
        names[count++] = others[i];
    }
    meant = options_suggest(given, names, count);
    fprintf(stderr, "outrigger: unknown command \"%s%s%s\"%s%s%s\n", group != NULL ? group->name : "",
            group != NULL ? " " : "", given, meant != NULL ? "; did you mean \"" : "", meant != NULL ? meant : "",
            meant != NULL ? "\"?" : "");
    fprintf(stderr, "Try 'outrigger help'.\n");
    return EXIT_USAGE;
}

static int help(int argc, char **argv)
{
    const struct command *command;
    int words;

    if (argc == 0) {
        print_usage(stdout);
        return EXIT_OK;
    }
    command = find(argc, argv, &words);
    if (command != NULL) {
        options_help(command, stdout);
        return EXIT_OK;
    }
    if (argc == 1 && group_find(argv[0]) != NULL) {
        print_group_usage(stdout, group_find(argv[0]));
        return EXIT_OK;
    }
    return unknown(argc, argv);
}

int main(int argc, char **argv)
{
    const struct command *command;
    int words;

    if (argc < 2) {
        print_usage(stderr);
        return EXIT_USAGE;
    }
    if (strcmp(argv[1], "help") == 0 || strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0) {
        return help(argc - 2, argv + 2);
    }
    if (strcmp(argv[1], "version") == 0 || strcmp(argv[1], "--version") == 0) {
        printf("outrigger %s\n", OTR_VERSION);
        return EXIT_OK;
    }
    if (strcmp(argv[1], "exec-child") == 0) {
        return exec_child_run(argc - 2, argv + 2);
    }
    command = find(argc - 1, argv + 1, &words);
    if (command == NULL) {
        return unknown(argc - 1, argv + 1);
    }
    return command->run(command, argc - 1 - words, argv + 1 + words);
}
