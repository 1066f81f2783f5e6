/* status: every shard, as the view has it. */
#include "sidecar/cli/cluster.h"
#include "sidecar/cli/cluster_nodes.h"
#include "sidecar/cli/cluster_view.h"
#include "sidecar/cli/table.h"

#include <cjson/cJSON.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

struct settings {
    struct cluster_view_settings view;
    bool json;
};

static const struct option options[] = {
    CLUSTER_VIEW_OPTIONS(struct settings, view),
    {"json", OPTION_FLAG, offsetof(struct settings, json), NULL, NULL, false, 0, 0, "print JSON"},
};

/* --- JSON --------------------------------------------------------------------------------------------------------- */

static cJSON *json_names(const struct cluster_view *v, const int *nodes, uint32_t count)
{
    cJSON *list = cJSON_CreateArray();

    for (uint32_t i = 0; i < count; i++) {
        cJSON_AddItemToArray(list, cJSON_CreateString(v->nodes[nodes[i]].name));
    }
    return list;
}

static bool is_damaged(const struct cluster_view *v, const struct cluster_view_shard *s, int node)
{
    return v->nodes[node].answered && v->nodes[node].own[s - v->shards].damaged;
}

static cJSON *json_damaged(const struct cluster_view *v, const struct cluster_view_shard *s)
{
    cJSON *list = cJSON_CreateArray();

    for (uint32_t i = 0; i < s->replicas_count; i++) {
        if (is_damaged(v, s, s->replicas[i])) {
            cJSON_AddItemToArray(list, cJSON_CreateString(v->nodes[s->replicas[i]].name));
        }
    }
    return list;
}

static cJSON *json_shard(const struct cluster_view *v, const struct cluster_view_shard *s)
{
    cJSON *json = cJSON_CreateObject();
    cJSON *range = cJSON_CreateArray();

    cJSON_AddNumberToObject(json, "id", s->id);
    cJSON_AddItemToArray(range, cJSON_CreateNumber(s->hash_first));
    cJSON_AddItemToArray(range, cJSON_CreateNumber(s->hash_last));
    cJSON_AddItemToObject(json, "range", range);
    cJSON_AddNumberToObject(json, "epoch", (double)s->epoch);
    cJSON_AddItemToObject(json, "primary",
                          s->primary >= 0 ? cJSON_CreateString(v->nodes[s->primary].name) : cJSON_CreateNull());
    cJSON_AddItemToObject(json, "in_sync", json_names(v, s->in_sync, s->in_sync_count));
    cJSON_AddItemToObject(json, "replicas", json_names(v, s->replicas, s->replicas_count));
    cJSON_AddItemToObject(json, "damaged", json_damaged(v, s));
    cJSON_AddItemToObject(json, "index", s->index_known ? cJSON_CreateNumber((double)s->index) : cJSON_CreateNull());
    return json;
}

static void print_json(cJSON *json)
{
    char *text = cJSON_PrintUnformatted(json);

    printf("%s\n", text != NULL ? text : "null");
    free(text);
    cJSON_Delete(json);
}

/* --- tables ------------------------------------------------------------------------------------------------------- */

static void print_in_sync(char out[TABLE_CELL_MAX], const struct cluster_view *v, const struct cluster_view_shard *s)
{
    size_t used = 0;

    out[0] = '\0';
    for (uint32_t i = 0; i < s->in_sync_count && used < TABLE_CELL_MAX; i++) {
        used += (size_t)snprintf(out + used, TABLE_CELL_MAX - used, "%s%s", i == 0 ? "" : " ",
                                 v->nodes[s->in_sync[i]].name);
    }
}

static bool is_in_sync(const struct cluster_view_shard *s, int node)
{
    for (uint32_t i = 0; i < s->in_sync_count; i++) {
        if (s->in_sync[i] == node) {
            return true;
        }
    }
    return false;
}

/* "node-3 (120 behind)", "node-3 (silent)" */
static void print_learners(char out[TABLE_CELL_MAX], const struct cluster_view *v, const struct cluster_view_shard *s)
{
    uint32_t number = (uint32_t)(s - v->shards);
    size_t used = 0;

    snprintf(out, TABLE_CELL_MAX, "-");
    for (uint32_t i = 0; i < s->replicas_count && used < TABLE_CELL_MAX; i++) {
        const struct cluster_view_node *n = &v->nodes[s->replicas[i]];

        if (is_in_sync(s, s->replicas[i])) {
            continue;
        }
        if (n->answered && n->own[number].known && s->index_known) {
            used += (size_t)snprintf(out + used, TABLE_CELL_MAX - used, "%s%s (%" PRIu64 " behind)",
                                     used > 0 ? " " : "", n->name, s->index - n->own[number].committed);
        } else {
            used += (size_t)snprintf(out + used, TABLE_CELL_MAX - used, "%s%s (silent)", used > 0 ? " " : "", n->name);
        }
    }
}

static uint32_t print_problems(const struct cluster_view *v, FILE *out)
{
    uint32_t problems = 0;

    for (uint32_t i = 0; i < v->shards_count; i++) {
        const struct cluster_view_shard *s = &v->shards[i];
        const char *problem = cluster_view_problem(s);

        for (uint32_t k = 0; k < s->replicas_count; k++) {
            if (is_damaged(v, s, s->replicas[k])) {
                fprintf(out, "shard %u: what %s holds does not read as it was written: check its disk\n", s->id,
                        v->nodes[s->replicas[k]].name);
            }
        }
        if (problem != NULL) {
            fprintf(out, "shard %u cannot be written: %s (in sync: %u, needed: %u)\n", v->shards[i].id, problem,
                    v->shards[i].in_sync_count, v->shards[i].min_in_sync);
            problems++;
        }
    }
    return problems;
}

static void print_table(const struct cluster_view *v)
{
    struct table t = {.columns = 7};
    char in_sync[TABLE_CELL_MAX];
    char learners[TABLE_CELL_MAX];
    uint32_t known = 0;
    uint32_t live = 0;

    for (uint32_t i = 0; i < v->nodes_count; i++) {
        known += v->nodes[i].known;
        live += v->nodes[i].live;
    }
    printf("cluster %s: %u shards, %u nodes, %u of them live\n\n", v->cluster, v->shards_count, known, live);
    if (v->shards_count == 0) {
        printf("not initialised yet: 'outrigger cluster init' does it\n");
        return;
    }
    for (size_t i = 0; i < t.columns; i++) {
        static const char *const titles[] = {"SHARD", "RANGE", "EPOCH", "PRIMARY", "IN SYNC", "LEARNERS", "INDEX"};

        table_cell(&t, "%s", titles[i]);
    }
    for (uint32_t i = 0; i < v->shards_count; i++) {
        const struct cluster_view_shard *s = &v->shards[i];

        print_in_sync(in_sync, v, s);
        print_learners(learners, v, s);
        table_cell(&t, "%u", s->id);
        table_cell(&t, "%08x-%08x", s->hash_first, s->hash_last);
        table_cell(&t, "%" PRIu64, s->epoch);
        table_cell(&t, "%s", s->primary >= 0 ? v->nodes[s->primary].name : "none!");
        table_cell(&t, "%s%s", in_sync, s->in_sync_count < s->min_in_sync ? "!" : "");
        table_cell(&t, "%s", learners);
        if (s->index_known) {
            table_cell(&t, "%" PRIu64, s->index);
        } else {
            table_cell(&t, "?");
        }
    }
    table_print(&t);
    printf("\n");
    if (print_problems(v, stdout) == 0) {
        printf("every shard can be written\n");
    }
}

/* --- the command -------------------------------------------------------------------------------------------------- */

static int show_status(const struct cluster_view *v, const uint32_t *order, bool json)
{
    cJSON *all;
    cJSON *shards;

    if (!json) {
        print_table(v);
        return EXIT_OK;
    }
    all = cJSON_CreateObject();
    cJSON_AddStringToObject(all, "cluster", v->cluster);
    shards = cJSON_AddArrayToObject(all, "shards");
    for (uint32_t i = 0; i < v->shards_count; i++) {
        cJSON_AddItemToArray(shards, json_shard(v, &v->shards[i]));
    }
    cJSON_AddItemToObject(all, "nodes", cluster_nodes_json(v, order, NULL));
    print_json(all);
    return EXIT_OK;
}

static int run(const struct command *command, int argc, char **argv)
{
    struct settings s = {.json = false};
    struct options_memory memory = {0};
    struct cluster_view view = {.shards = NULL};
    struct otr_errmsg msg = {0};
    struct loop loop;
    uint32_t *order;
    int exit_code;
    int rv;

    if (!options_read(command, argc, argv, &s, &memory, &exit_code)) {
        return exit_code;
    }
    exit_code = EXIT_FAILED;
    rv = loop_init(&loop, &msg);
    if (rv == 0) {
        rv = cluster_view_read(&view, &loop, &s.view, &msg);
        loop_close(&loop);
    }
    if (rv == 0) {
        if (view.note.text[0] != '\0') {
            fprintf(stderr, "outrigger %s: %s\n", command->name, view.note.text);
        }
        order = cluster_nodes_order(&view);
        exit_code = order != NULL ? show_status(&view, order, s.json) : EXIT_FAILED;
        free(order);
    } else {
        fprintf(stderr, "outrigger %s: %s\n", command->name, msg.text[0] != '\0' ? msg.text : otr_strerror(rv));
    }
    cluster_view_close(&view);
    options_memory_close(&memory);
    return exit_code;
}

const struct command cluster_status_command = {
    .name = "cluster status",
    .about = "shows every shard: who leads it, who holds it, how far.\n\n"
             "EPOCH grows with every change of primary. IN SYNC are the replicas that have every acknowledged write;\n"
             "only they can take over. LEARNERS are catching up. INDEX is the number of writes committed. Positions\n"
             "are asked of the sidecars themselves; who does not answer within a second is left out.",
    .examples = "  outrigger cluster status --sidecar http://10.0.0.1:7700\n"
                "  outrigger cluster status --endpoints http://10.0.0.5:2379 --json\n",
    .options = options,
    .options_count = sizeof options / sizeof options[0],
    .run = run,
};
