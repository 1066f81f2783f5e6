#include "sidecar/cli/cluster_health.h"

#include "sidecar/cli/cluster.h"
#include "sidecar/coord/fields.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

/* --- finding ------------------------------------------------------------------------------------------------------ */

static int add(struct health *h, int node, int shard, const char *action, const char *format, ...)
    __attribute__((format(printf, 5, 6)));

static int add(struct health *h, int node, int shard, const char *action, const char *format, ...)
{
    struct health_problem *p;
    va_list arguments;

    if (h->count == h->capacity) {
        struct health_problem *grown = realloc(h->problems, (h->capacity * 2 + 8) * sizeof *grown);
        if (grown == NULL) {
            return OTR_NOMEM;
        }
        h->problems = grown;
        h->capacity = h->capacity * 2 + 8;
    }
    p = &h->problems[h->count++];
    *p = (struct health_problem){.node = node, .shard = shard, .action = action};
    va_start(arguments, format);
    vsnprintf(p->what, sizeof p->what, format, arguments);
    va_end(arguments);
    return 0;
}

static const char *text_of(const struct node_figures *f, const char *field)
{
    const char *text = cJSON_GetStringValue(field_find(f->json, field));

    return text != NULL ? text : "";
}

static bool flag_of(const struct node_figures *f, const char *field)
{
    return cJSON_IsTrue(field_find(f->json, field)) != 0;
}

static bool says_unreachable(const struct node_figures *f)
{
    return strcmp(text_of(f, "coordinator"), "unreachable") == 0;
}

static int find_whole(struct health *h, const struct cluster_view *v, const struct node_figures *figures)
{
    if (v->shards_count > 0) {
        return 0;
    }
    h->writable = false;
    for (uint32_t i = 0; i < v->nodes_count; i++) {
        if (says_unreachable(&figures[i])) {
            return 0; /* it was asked, and does not know */
        }
    }
    return add(h, -1, -1, "'outrigger cluster init' makes its settings and shards", "is not initialised");
}

static int find_shards(struct health *h, const struct cluster_view *v)
{
    int rv = 0;

    for (uint32_t i = 0; i < v->shards_count && rv == 0; i++) {
        const struct cluster_view_shard *s = &v->shards[i];
        const char *problem = cluster_view_problem(s);
        char members[256] = "nobody";
        uint32_t live = 0;
        size_t used = 0;

        for (uint32_t k = 0; k < s->in_sync_count && used < sizeof members; k++) {
            const struct cluster_view_node *n = &v->nodes[s->in_sync[k]];

            live += n->live;
            used += (size_t)snprintf(members + used, sizeof members - used, "%s%s%s", used > 0 ? ", " : "", n->name,
                                     n->live ? "" : " (away)");
        }
        if (problem == NULL) {
            continue;
        }
        h->writable = false;
        rv = add(h, -1, (int)s->id,
                 s->primary < 0 && live > 0
                     ? "wait some seconds: one that is in sync takes over; if none does, their logs say why"
                 : s->primary < 0 ? "start the sidecars of those in sync again: they have every acknowledged write"
                                  : "start the sidecars that are away again: they catch up and join by themselves",
                 "cannot be written: %s (%u needed; in sync: %s)", problem, s->min_in_sync, members);
    }
    return rv;
}

struct behind {
    uint32_t replicas, out; /* not in sync */
    uint64_t most;          /* entries, as far as is known */
};

static struct behind behind(const struct cluster_view *v, int node)
{
    struct behind b = {0};

    for (uint32_t i = 0; i < v->shards_count; i++) {
        const struct cluster_view_shard *s = &v->shards[i];
        const struct cluster_view_node *n = &v->nodes[node];
        bool in_sync = false;

        for (uint32_t k = 0; k < s->in_sync_count; k++) {
            in_sync = in_sync || s->in_sync[k] == node;
        }
        for (uint32_t k = 0; k < s->replicas_count; k++) {
            if (s->replicas[k] != node) {
                continue;
            }
            b.replicas++;
            b.out += !in_sync;
            if (!in_sync && n->answered && n->own[i].known && s->index_known && s->index > n->own[i].committed) {
                uint64_t entries = s->index - n->own[i].committed;
                b.most = entries > b.most ? entries : b.most;
            }
        }
    }
    return b;
}

static int find_silent(struct health *h, const struct cluster_view *v, int node, const struct node_figures *f)
{
    const struct cluster_view_node *n = &v->nodes[node];

    if (!n->live) {
        static const char action[] =
            "start its sidecar again; if it runs, its /readyz and its log say why it is not in the cluster";
        struct behind b = behind(v, node);

        if (b.out == 0) {
            return add(h, node, -1, action, "is away, or does not reach the coordinator");
        }
        return add(h, node, -1, action, "is away: %u of its %u replicas are not in sync", b.out, b.replicas);
    }
    if (f->http_status == 401 || f->http_status == 403) {
        return add(h, node, -1, "give a token that may read: --token-file FILE, or OUTRIGGER_TOKEN",
                   "tells nothing: %s", f->why.text);
    }
    return add(h, node, -1, "see whether its sidecar runs or hangs, and whether this host reaches it",
               "does not answer at %s: %s", n->client, f->why.text);
}

/* What it says of itself. */
static int find_told(struct health *h, const struct cluster_view *v, int node, const struct node_figures *f)
{
    uint32_t before = h->count;
    struct behind b = behind(v, node);
    int rv = 0;

    if (says_unreachable(f) || text_of(f, "coordinator_why")[0] != '\0') {
        rv = add(h, node, -1,
                 "see whether the coordinator runs, and whether that host reaches it; what is led there is handed to "
                 "those who do",
                 "cannot use the coordinator: %s", text_of(f, "coordinator_why"));
    }
    if (rv == 0 && strcmp(text_of(f, "engine"), "down") == 0) {
        rv = add(h, node, -1, "start its engine again: it is filled from the log", "its engine is down");
    }
    if (rv == 0 && flag_of(f, "disk_full")) {
        rv = add(h, node, -1, "make room: it goes on by itself", "its disk is full");
    }
    if (rv == 0 && cJSON_GetNumberValue(field_find(f->json, "damaged_shards")) > 0) {
        rv = add(h, node, -1, "check its disk; they are copied anew from another replica if there is one",
                 "%.0f of its replicas do not read as they were written",
                 cJSON_GetNumberValue(field_find(f->json, "damaged_shards")));
    }
    if (rv == 0 && flag_of(f, "stopping")) {
        rv = add(h, node, -1, "wait: it hands its shards over and ends", "is stopping");
    }
    if (rv == 0 && h->count == before && text_of(f, "not_ready")[0] != '\0') {
        rv = add(h, node, -1, "wait some seconds; if it lasts, its log says more", "is not ready: %s",
                 text_of(f, "not_ready"));
    }
    if (rv == 0 && b.out > 0) {
        rv =
            add(h, node, -1, "wait: they catch up and join by themselves",
                "%u of its %u replicas are not in sync, %" PRIu64 " entries behind at most", b.out, b.replicas, b.most);
    }
    return rv;
}

int cluster_health_find(struct health *h, const struct cluster_view *v, const struct node_figures *figures,
                        const uint32_t *order)
{
    int rv;

    *h = (struct health){.writable = true};
    rv = find_whole(h, v, figures);
    if (rv == 0) {
        rv = find_shards(h, v);
    }
    for (uint32_t i = 0; i < v->nodes_count && rv == 0; i++) {
        int node = (int)order[i];

        if (v->nodes[node].known) {
            rv = figures[node].json != NULL ? find_told(h, v, node, &figures[node])
                                            : find_silent(h, v, node, &figures[node]);
        }
    }
    return rv;
}

void cluster_health_close(struct health *h)
{
    free(h->problems);
    *h = (struct health){0};
}

/* --- showing ------------------------------------------------------------------------------------------------------ */

static void print_json(const struct health *h, const struct cluster_view *v)
{
    cJSON *all = cJSON_CreateObject();
    cJSON *list;
    char *text;

    cJSON_AddStringToObject(all, "cluster", v->cluster);
    cJSON_AddBoolToObject(all, "healthy", h->count == 0);
    cJSON_AddBoolToObject(all, "writable", h->writable);
    list = cJSON_AddArrayToObject(all, "problems");
    for (uint32_t i = 0; i < h->count; i++) {
        const struct health_problem *p = &h->problems[i];
        cJSON *item = cJSON_CreateObject();

        if (p->node >= 0) {
            cJSON_AddStringToObject(item, "node", v->nodes[p->node].name);
        } else if (p->shard >= 0) {
            cJSON_AddNumberToObject(item, "shard", p->shard);
        }
        cJSON_AddStringToObject(item, "problem", p->what);
        cJSON_AddStringToObject(item, "action", p->action);
        cJSON_AddItemToArray(list, item);
    }
    text = cJSON_PrintUnformatted(all);
    printf("%s\n", text != NULL ? text : "null");
    free(text);
    cJSON_Delete(all);
}

static void print_words(const struct health *h, const struct cluster_view *v)
{
    if (h->count == 0) {
        printf("cluster %s is healthy: each of its %u shards can be written and has all its replicas\n", v->cluster,
               v->shards_count);
        return;
    }
    printf("cluster %s: %u problem%s; %s\n", v->cluster, h->count, h->count == 1 ? "" : "s",
           h->writable ? "every shard can be written" : "not everything can be written");
    for (uint32_t i = 0; i < h->count; i++) {
        const struct health_problem *p = &h->problems[i];

        if (p->node >= 0) {
            printf("  node %s ", v->nodes[p->node].name);
        } else if (p->shard >= 0) {
            printf("  shard %d ", p->shard);
        } else {
            printf("  it ");
        }
        printf("%s\n      -> %s\n", p->what, p->action);
    }
}

/* --- the command -------------------------------------------------------------------------------------------------- */

struct settings {
    struct cluster_view_settings view;
    bool json;
};

static const struct option options[] = {
    CLUSTER_VIEW_OPTIONS(struct settings, view),
    {"json", OPTION_FLAG, offsetof(struct settings, json), NULL, NULL, false, 0, 0, "print JSON"},
};

static int read_all(struct cluster_view *v, struct node_figures **figures, const struct settings *s,
                    struct otr_errmsg *msg)
{
    struct loop loop;
    int rv = loop_init(&loop, msg);

    if (rv != 0) {
        return rv;
    }
    rv = cluster_view_read(v, &loop, &s->view, msg);
    if (rv == 0) {
        *figures = cluster_nodes_ask(v, &loop, &s->view, msg);
        rv = *figures != NULL ? 0 : OTR_NOMEM;
    } else if (s->view.sidecar == NULL) {
        otr_errmsg_wrap(msg, "without the coordinator ask a sidecar (--sidecar URL)");
    }
    loop_close(&loop);
    return rv;
}

static int check(const struct settings *s, bool *healthy, struct otr_errmsg *msg)
{
    struct cluster_view view = {.shards = NULL};
    struct node_figures *figures = NULL;
    struct health health = {0};
    uint32_t *order = NULL;
    int rv;

    rv = read_all(&view, &figures, s, msg);
    if (rv == 0) {
        order = cluster_nodes_order(&view);
        rv = order != NULL ? cluster_health_find(&health, &view, figures, order) : OTR_NOMEM;
    }
    if (rv == 0) {
        *healthy = health.count == 0;
        (s->json ? print_json : print_words)(&health, &view);
    }
    cluster_health_close(&health);
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
    bool healthy = false;
    int exit_code;
    int rv;

    if (!options_read(command, argc, argv, &s, &memory, &exit_code)) {
        return exit_code;
    }
    rv = check(&s, &healthy, &msg);
    if (rv != 0) {
        fprintf(stderr, "outrigger %s: %s\n", command->name, msg.text[0] != '\0' ? msg.text : otr_strerror(rv));
    }
    options_memory_close(&memory);
    return rv == 0 && healthy ? EXIT_OK : EXIT_FAILED;
}

const struct command cluster_health_command = {
    .name = "cluster health",
    .about =
        "tells what is wrong: where, what, and what to do; exits 1 when anything is.\n\n"
        "Looked at are: whether every shard has a primary and as many replicas in sync as the cluster demands\n"
        "(else it cannot be written), whether all its replicas are in sync, and of each node whether it is there,\n"
        "answers, reaches the coordinator, has its engine, and has room on its disk. In JSON \"writable\" is\n"
        "whether clients can write everything now, \"healthy\" whether nothing at all is wrong.",
    .examples = "  outrigger cluster health --sidecar http://10.0.0.1:7700 || echo trouble\n"
                "  until outrigger cluster health --endpoints http://10.0.0.5:2379; do sleep 1; done\n",
    .options = options,
    .options_count = sizeof options / sizeof options[0],
    .run = run,
};
