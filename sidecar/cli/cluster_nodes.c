/* list-nodes: who is there; with --with-stats also what each sidecar says of itself. One that does not answer is shown
 * as such: that is what the command is for. */
#include "sidecar/cli/cluster_nodes.h"

#include "sidecar/cli/cluster.h"
#include "sidecar/cli/fetch.h"
#include "sidecar/cli/table.h"
#include "sidecar/coord/fields.h"
#include "sidecar/coord/keys.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

enum { STATS_TIMEOUT_MS = 2000, CELL_SHORT = 32 };

struct settings {
    struct cluster_view_settings view;
    bool with_stats;
    bool json;
};

static const struct option options[] = {
    CLUSTER_VIEW_OPTIONS(struct settings, view),
    {"with-stats", OPTION_FLAG, offsetof(struct settings, with_stats), NULL, NULL, false, 0, 0,
     "ask each sidecar for its figures"},
    {"json", OPTION_FLAG, offsetof(struct settings, json), NULL, NULL, false, 0, 0, "print JSON"},
};

/* --- order -------------------------------------------------------------------------------------------------------- */

/* node-2 before node-10: digits compare as numbers. */
static int compare_names(const char *a, const char *b)
{
    return strverscmp(a, b);
}

uint32_t *cluster_nodes_order(const struct cluster_view *v)
{
    uint32_t *order = calloc(v->nodes_count + 1, sizeof *order);

    for (uint32_t i = 0; order != NULL && i < v->nodes_count; i++) {
        uint32_t at = i;

        while (at > 0 && compare_names(v->nodes[order[at - 1]].name, v->nodes[i].name) > 0) {
            order[at] = order[at - 1];
            at--;
        }
        order[at] = i;
    }
    return order;
}

/* --- asking for figures ------------------------------------------------------------------------------------------- */

static double number_of(const cJSON *json, const char *field)
{
    const cJSON *item = field_find(json, field);

    return cJSON_IsNumber(item) ? item->valuedouble : 0;
}

static const char *text_of(const cJSON *json, const char *field)
{
    const char *text = cJSON_GetStringValue(field_find(json, field));

    return text != NULL ? text : "?";
}

static void take_answer(const struct fetch *fetch, const char *name, struct node_figures *out)
{
    if (fetch->status != 0) {
        out->why = fetch->msg;
        return;
    }
    if (fetch->http_status != 200) {
        fetch_refusal(fetch, &out->why);
        out->http_status = fetch->http_status;
        return;
    }
    out->json = field_object(fetch->body, &out->why);
    if (out->json != NULL && strcmp(text_of(out->json, "node"), name) != 0) {
        /* An address may have passed to another node meanwhile. */
        otr_errmsg_set(&out->why, "node %.*s answers there", OTR_NAME_MAX, text_of(out->json, "node"));
        cJSON_Delete(out->json);
        out->json = NULL;
    }
}

/* The highest commit index that anybody told of the shard. */
static double committed_of(const struct node_figures *all, uint32_t count, double shard)
{
    double most = 0;
    const cJSON *item;

    for (uint32_t i = 0; i < count; i++) {
        cJSON_ArrayForEach(item, field_find(all[i].json, "shards"))
        {
            if (number_of(item, "id") == shard && number_of(item, "committed") > most) {
                most = number_of(item, "committed");
            }
        }
    }
    return most;
}

static void sum_up(struct node_figures *all, uint32_t count)
{
    const cJSON *item;

    for (uint32_t i = 0; i < count; i++) {
        struct node_figures *f = &all[i];

        cJSON_ArrayForEach(item, field_find(f->json, "shards"))
        {
            double lag = committed_of(all, count, number_of(item, "id")) - number_of(item, "committed");
            double engine_lag = number_of(item, "engine_lag");

            f->shards++;
            f->primaries += strcmp(text_of(item, "role"), "primary") == 0;
            f->in_sync += cJSON_IsTrue(field_find(item, "in_sync")) ? 1 : 0;
            f->points += number_of(item, "points");
            f->lag = lag > f->lag ? lag : f->lag;
            f->engine_lag = engine_lag > f->engine_lag ? engine_lag : f->engine_lag;
        }
    }
}

static void put_url(struct fetch *fetch, const char *address)
{
    size_t bytes = strlen(address);

    bytes -= bytes > 0 && address[bytes - 1] == '/';
    snprintf(fetch->url, sizeof fetch->url, "%s%.*s/cluster/stats", strstr(address, "://") != NULL ? "" : "http://",
             (int)bytes, address);
}

/* The sidecar that was asked for everything may not be live: one that does not reach the coordinator. */
static void take_asked(struct cluster_view *v, const struct fetch *fetch, struct node_figures *all)
{
    struct node_figures f = {0};
    const char *name;
    int number;

    if (fetch->status != 0 || fetch->http_status != 200) {
        return;
    }
    f.json = field_object(fetch->body, &f.why);
    name = cJSON_GetStringValue(field_find(f.json, "node"));
    number = name != NULL && key_name_valid(name) ? cluster_view_node(v, name) : -1;
    if (number < 0 || all[number].json != NULL) {
        cJSON_Delete(f.json);
        return;
    }
    v->nodes[number].known = true;
    all[number] = f;
}

static void ask_live(struct cluster_view *v, struct fetch_client *f, const char *sidecar, struct fetch *fetches,
                     uint32_t *asked, struct node_figures *all)
{
    size_t count = 0;

    for (uint32_t i = 0; i < v->nodes_count; i++) {
        const char *client = v->nodes[i].client;

        otr_errmsg_set(&all[i].why, "not live");
        if (v->nodes[i].known && v->nodes[i].live && client[0] != '\0') {
            put_url(&fetches[count], client);
            asked[count++] = i;
        }
    }
    if (sidecar != NULL) {
        put_url(&fetches[count], sidecar);
    }
    fetch_all(f, fetches, count + (sidecar != NULL), STATS_TIMEOUT_MS);
    for (size_t i = 0; i < count; i++) {
        take_answer(&fetches[i], v->nodes[asked[i]].name, &all[asked[i]]);
    }
    if (sidecar != NULL) {
        take_asked(v, &fetches[count], all);
    }
    fetch_clear(fetches, count + (sidecar != NULL));
}

struct node_figures *cluster_nodes_ask(struct cluster_view *v, struct loop *loop,
                                       const struct cluster_view_settings *settings, struct otr_errmsg *msg)
{
    struct node_figures *all = calloc(v->nodes_count + 2, sizeof *all);
    struct fetch *fetches = calloc(v->nodes_count + 2, sizeof *fetches);
    uint32_t *asked = calloc(v->nodes_count + 1, sizeof *asked);
    struct fetch_client f;

    if (all == NULL || fetches == NULL || asked == NULL || fetch_open(&f, loop, &settings->credentials, msg) != 0) {
        free(all);
        all = NULL;
        goto out;
    }
    ask_live(v, &f, settings->sidecar, fetches, asked, all);
    sum_up(all, v->nodes_count);
    fetch_close(&f);
out:
    free(fetches);
    free(asked);
    return all;
}

void cluster_nodes_forget(struct node_figures *all, uint32_t count)
{
    for (uint32_t i = 0; all != NULL && i < count; i++) {
        cJSON_Delete(all[i].json);
    }
    free(all);
}

/* --- JSON --------------------------------------------------------------------------------------------------------- */

static void add_address(cJSON *json, const char *name, const char *address)
{
    cJSON_AddItemToObject(json, name, address[0] != '\0' ? cJSON_CreateString(address) : cJSON_CreateNull());
}

static cJSON *json_figures(const struct node_figures *f)
{
    static const char *const copied[] = {"version",     "uptime_s",  "stopping",      "engine",
                                         "coordinator", "disk_full", "journal_bytes", "memory_bytes"};
    cJSON *json = cJSON_CreateObject();

    if (f->json == NULL) {
        cJSON_AddStringToObject(json, "error", f->why.text);
        return json;
    }
    for (size_t i = 0; i < sizeof copied / sizeof copied[0]; i++) {
        const cJSON *item = field_find(f->json, copied[i]);
        cJSON_AddItemToObject(json, copied[i], item != NULL ? cJSON_Duplicate(item, true) : cJSON_CreateNull());
    }
    cJSON_AddNumberToObject(json, "primaries", f->primaries);
    cJSON_AddNumberToObject(json, "in_sync", f->in_sync);
    cJSON_AddNumberToObject(json, "lag", f->lag);
    cJSON_AddNumberToObject(json, "engine_lag", f->engine_lag);
    cJSON_AddNumberToObject(json, "points", f->points);
    return json;
}

static cJSON *json_node(const struct cluster_view *v, const struct cluster_view_node *n)
{
    cJSON *json = cJSON_CreateObject();
    cJSON *committed;
    char shard[16];

    cJSON_AddStringToObject(json, "id", n->name);
    cJSON_AddStringToObject(json, "state", n->draining ? "draining" : "active");
    cJSON_AddBoolToObject(json, "live", n->live);
    add_address(json, "client", n->client);
    add_address(json, "peer", n->peer);
    cJSON_AddNumberToObject(json, "shards", n->shards);
    cJSON_AddNumberToObject(json, "primaries", n->primaries);
    if (n->answered) {
        committed = cJSON_AddObjectToObject(json, "committed");
        for (uint32_t i = 0; i < v->shards_count; i++) {
            if (n->own[i].known) {
                snprintf(shard, sizeof shard, "%u", v->shards[i].id);
                cJSON_AddNumberToObject(committed, shard, (double)n->own[i].committed);
            }
        }
    }
    return json;
}

cJSON *cluster_nodes_json(const struct cluster_view *v, const uint32_t *order, const struct node_figures *figures)
{
    cJSON *list = cJSON_CreateArray();

    for (uint32_t i = 0; i < v->nodes_count; i++) {
        if (v->nodes[order[i]].known) {
            cJSON *node = json_node(v, &v->nodes[order[i]]);
            if (figures != NULL) {
                cJSON_AddItemToObject(node, "stats", json_figures(&figures[order[i]]));
            }
            cJSON_AddItemToArray(list, node);
        }
    }
    return list;
}

static void print_json(const struct cluster_view *v, const uint32_t *order, const struct node_figures *figures)
{
    cJSON *json = cJSON_CreateObject();
    char *text;

    cJSON_AddStringToObject(json, "cluster", v->cluster);
    cJSON_AddItemToObject(json, "nodes", cluster_nodes_json(v, order, figures));
    text = cJSON_PrintUnformatted(json);
    printf("%s\n", text != NULL ? text : "null");
    free(text);
    cJSON_Delete(json);
}

/* --- tables ------------------------------------------------------------------------------------------------------- */

static void print_nodes(const struct cluster_view *v, const uint32_t *order)
{
    static const char *const titles[] = {"NODE", "STATE", "LIVE", "CLIENT", "PEER", "SHARDS", "PRIMARIES"};
    struct table t = {.columns = 7};

    for (size_t i = 0; i < t.columns; i++) {
        table_cell(&t, "%s", titles[i]);
    }
    for (uint32_t i = 0; i < v->nodes_count; i++) {
        const struct cluster_view_node *n = &v->nodes[order[i]];

        if (!n->known) {
            continue;
        }
        table_cell(&t, "%s", n->name);
        table_cell(&t, "%s", n->draining ? "draining" : "active");
        table_cell(&t, "%s", n->live ? "yes" : "no");
        table_cell(&t, "%s", n->client[0] != '\0' ? n->client : "-");
        table_cell(&t, "%s", n->peer[0] != '\0' ? n->peer : "-");
        table_cell(&t, "%u", n->shards);
        table_cell(&t, "%u", n->primaries);
    }
    table_print(&t);
}

static void print_size(char out[CELL_SHORT], double bytes)
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
    size_t unit = 0;

    while (bytes >= 1024 && unit + 1 < sizeof units / sizeof units[0]) {
        bytes /= 1024;
        unit++;
    }
    snprintf(out, CELL_SHORT, unit == 0 || bytes >= 100 ? "%.0f %s" : "%.1f %s", bytes, units[unit]);
}

static void print_duration(char out[CELL_SHORT], double seconds)
{
    uint64_t s = seconds > 0 ? (uint64_t)seconds : 0;

    if (s >= 86400) {
        snprintf(out, CELL_SHORT, "%" PRIu64 "d %" PRIu64 "h", s / 86400, s % 86400 / 3600);
    } else if (s >= 3600) {
        snprintf(out, CELL_SHORT, "%" PRIu64 "h %" PRIu64 "min", s / 3600, s % 3600 / 60);
    } else if (s >= 60) {
        snprintf(out, CELL_SHORT, "%" PRIu64 "min %" PRIu64 "s", s / 60, s % 60);
    } else {
        snprintf(out, CELL_SHORT, "%" PRIu64 "s", s);
    }
}

static void add_figures(struct table *t, const struct node_figures *f)
{
    char text[CELL_SHORT];

    table_cell(t, "%u/%u/%u", f->primaries, f->in_sync, f->shards);
    table_cell(t, "%.0f", f->lag);
    table_cell(t, "%.0f", f->engine_lag);
    table_cell(t, "%.0f", f->points);
    table_cell(t, "%s", text_of(f->json, "engine"));
    print_size(text, number_of(f->json, "journal_bytes"));
    table_cell(t, "%s", text);
    print_size(text, number_of(f->json, "memory_bytes"));
    table_cell(t, "%s", text);
    print_duration(text, number_of(f->json, "uptime_s"));
    table_cell(t, "%s", text);
    table_cell(t, "%s", text_of(f->json, "version"));
}

static const char *state_of(const struct cluster_view_node *n, const struct node_figures *f)
{
    if (f->json == NULL) {
        return n->live ? "no answer" : "away";
    }
    if (!n->live) {
        return "cut off"; /* from the coordinator */
    }
    if (cJSON_IsTrue(field_find(f->json, "stopping"))) {
        return "stopping";
    }
    return n->draining ? "draining" : "active";
}

static void print_figures(const struct cluster_view *v, const uint32_t *order, const struct node_figures *figures)
{
    static const char *const titles[] = {"NODE",   "STATE",   "LED/IN SYNC/ALL", "LAG",    "ENGINE LAG", "POINTS",
                                         "ENGINE", "JOURNAL", "MEMORY",          "UPTIME", "VERSION"};
    struct table t = {.columns = sizeof titles / sizeof titles[0]};

    for (size_t i = 0; i < t.columns; i++) {
        table_cell(&t, "%s", titles[i]);
    }
    for (uint32_t i = 0; i < v->nodes_count; i++) {
        const struct cluster_view_node *n = &v->nodes[order[i]];
        const struct node_figures *f = &figures[order[i]];

        if (!n->known) {
            continue;
        }
        table_cell(&t, "%s", n->name);
        table_cell(&t, "%s", state_of(n, f));
        if (f->json != NULL) {
            add_figures(&t, f);
            continue;
        }
        for (size_t column = 2; column < t.columns; column++) {
            table_cell(&t, "-");
        }
    }
    table_print(&t);
    for (uint32_t i = 0; i < v->nodes_count; i++) {
        if (v->nodes[order[i]].live && v->nodes[order[i]].known && figures[order[i]].json == NULL) {
            printf("%s: %s\n", v->nodes[order[i]].name, figures[order[i]].why.text);
        }
    }
}

/* --- the command -------------------------------------------------------------------------------------------------- */

static void show(const struct cluster_view *v, const uint32_t *order, const struct settings *s,
                 const struct node_figures *figures)
{
    if (s->json) {
        print_json(v, order, figures);
    } else if (figures != NULL) {
        print_figures(v, order, figures);
    } else {
        print_nodes(v, order);
    }
}

static int list(const struct command *command, const struct settings *s, struct otr_errmsg *msg)
{
    struct cluster_view view = {.shards = NULL};
    struct node_figures *figures = NULL;
    uint32_t *order = NULL;
    struct loop loop;
    int rv;

    rv = loop_init(&loop, msg);
    if (rv != 0) {
        return rv;
    }
    rv = cluster_view_read(&view, &loop, &s->view, msg);
    if (rv == 0 && view.note.text[0] != '\0') {
        fprintf(stderr, "outrigger %s: %s\n", command->name, view.note.text);
    }
    if (rv == 0 && s->with_stats) {
        figures = cluster_nodes_ask(&view, &loop, &s->view, msg);
        rv = figures != NULL ? 0 : OTR_NOMEM;
    }
    loop_close(&loop);
    if (rv == 0) {
        order = cluster_nodes_order(&view);
        rv = order != NULL ? 0 : OTR_NOMEM;
    }
    if (rv == 0) {
        show(&view, order, s, figures);
    }
    free(order);
    cluster_nodes_forget(figures, view.nodes_count);
    cluster_view_close(&view);
    return rv;
}

static int run(const struct command *command, int argc, char **argv)
{
    struct settings s = {.json = false};
    struct options_memory memory = {0};
    struct otr_errmsg msg = {0};
    int exit_code;
    int rv;

    if (!options_read(command, argc, argv, &s, &memory, &exit_code)) {
        return exit_code;
    }
    rv = list(command, &s, &msg);
    if (rv != 0) {
        fprintf(stderr, "outrigger %s: %s\n", command->name, msg.text[0] != '\0' ? msg.text : otr_strerror(rv));
    }
    options_memory_close(&memory);
    return rv == 0 ? EXIT_OK : EXIT_FAILED;
}

const struct command cluster_list_nodes_command = {
    .name = "cluster list-nodes",
    .about = "shows every node: whether it is live, its addresses, how many shards it holds and leads.\n\n"
             "--with-stats asks each sidecar: shards led, in sync and held; how many entries its log and its engine\n"
             "are behind (of the shard that is furthest behind); points, the engine's state, the journal's size,\n"
             "memory, time since its start. Who does not answer within two seconds is shown as such.",
    .examples = "  outrigger cluster list-nodes --sidecar http://10.0.0.1:7700\n"
                "  outrigger cluster list-nodes --with-stats --endpoints http://10.0.0.5:2379\n",
    .options = options,
    .options_count = sizeof options / sizeof options[0],
    .run = run,
};
