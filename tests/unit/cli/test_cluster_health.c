#include "sidecar/cli/cluster_health.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <stdlib.h>

/* Two shards of three replicas on a, b and c; a leads both. */
static const char sound[] =
    "{\"cluster\":\"k\",\"node\":\"a\",\"shards\":["
    "{\"id\":0,\"range\":[0,2147483647],\"epoch\":7,\"primary\":\"a\",\"in_sync\":[\"a\",\"b\",\"c\"],"
    "\"replicas\":[\"a\",\"b\",\"c\"],\"min_in_sync\":2},"
    "{\"id\":1,\"range\":[2147483648,4294967295],\"epoch\":3,\"primary\":\"a\",\"in_sync\":[\"a\",\"b\",\"c\"],"
    "\"replicas\":[\"a\",\"b\",\"c\"],\"min_in_sync\":2}],"
    "\"nodes\":[{\"id\":\"a\",\"state\":\"active\",\"live\":true,\"client\":\"127.0.0.1:1\"},"
    "{\"id\":\"b\",\"state\":\"active\",\"live\":true,\"client\":\"127.0.0.1:2\"},"
    "{\"id\":\"c\",\"state\":\"active\",\"live\":true,\"client\":\"127.0.0.1:3\"}]}";

static const char well[] =
    "{\"not_ready\":\"\",\"coordinator_why\":\"\",\"engine\":\"up\",\"coordinator\":\"reachable\","
    "\"disk_full\":false,\"stopping\":false}";

struct ward {
    struct cluster_view v;
    struct node_figures figures[4];
    uint32_t *order;
    struct health h;
};

static void tells(struct ward *w, int node, const char *json)
{
    cJSON_Delete(w->figures[node].json);
    w->figures[node].json = json != NULL ? cJSON_Parse(json) : NULL;
    cr_assert(json == NULL || w->figures[node].json != NULL);
}

static void ward_open(struct ward *w, const char *answer)
{
    struct otr_errmsg msg = {0};

    *w = (struct ward){.order = NULL};
    cr_assert(zero(int, cluster_view_from_json(&w->v, answer, &msg)), "%s", msg.text);
    cr_assert(le(u32, w->v.nodes_count, 4));
    for (uint32_t i = 0; i < w->v.nodes_count; i++) {
        tells(w, (int)i, well);
    }
    w->order = cluster_nodes_order(&w->v);
}

static void look(struct ward *w)
{
    cluster_health_close(&w->h);
    cr_assert(zero(int, cluster_health_find(&w->h, &w->v, w->figures, w->order)));
}

static void ward_close(struct ward *w)
{
    cluster_health_close(&w->h);
    for (int i = 0; i < 4; i++) {
        cJSON_Delete(w->figures[i].json);
    }
    free(w->order);
    cluster_view_close(&w->v);
}

static bool says(const struct ward *w, uint32_t problem, const char *words)
{
    return problem < w->h.count && strstr(w->h.problems[problem].what, words) != NULL &&
           w->h.problems[problem].action[0] != '\0';
}

Test(cluster_health, nothing_is_wrong)
{
    struct ward w;

    ward_open(&w, sound);
    look(&w);
    cr_assert(eq(u32, w.h.count, 0));
    cr_assert(w.h.writable);
    ward_close(&w);
}

/* Each thing that a sidecar says of itself. */
Test(cluster_health, what_a_sidecar_says_of_itself)
{
    static const struct {
        const char *json, *words;
    } cases[] = {
        {"{\"coordinator\":\"unreachable\",\"coordinator_why\":\"etcd: refused\"}", "coordinator: etcd: refused"},
        {"{\"coordinator\":\"reachable\",\"coordinator_why\":\"permission denied\"}", "permission denied"},
        {"{\"engine\":\"down\",\"not_ready\":\"the engine is not up\"}", "its engine is down"},
        {"{\"engine\":\"up\",\"disk_full\":true}", "its disk is full"},
        {"{\"engine\":\"up\",\"damaged_shards\":2}", "2 of its replicas do not read as they were written"},
        {"{\"stopping\":true,\"not_ready\":\"stopping\"}", "is stopping"},
        {"{\"not_ready\":\"shard 1: no primary known\"}", "is not ready: shard 1: no primary known"},
    };
    struct ward w;

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        ward_open(&w, sound);
        tells(&w, 1, cases[i].json);
        look(&w);
        cr_assert(eq(u32, w.h.count, 1), "%s", cases[i].words);
        cr_assert(says(&w, 0, cases[i].words), "%s", w.h.problems[0].what);
        cr_assert(eq(int, w.h.problems[0].node, 1));
        cr_assert(w.h.writable);
        ward_close(&w);
    }
}

Test(cluster_health, a_node_that_is_away_or_silent)
{
    struct ward w;

    ward_open(&w, sound);
    tells(&w, 2, NULL);
    otr_errmsg_set(&w.figures[2].why, "connection refused");
    look(&w);
    cr_assert(says(&w, 0, "does not answer at 127.0.0.1:3: connection refused"));
    w.figures[2].http_status = 401;
    look(&w);
    cr_assert(says(&w, 0, "tells nothing: connection refused"));
    cr_assert(strstr(w.h.problems[0].action, "--token-file") != NULL);
    w.v.nodes[2].live = false;
    w.v.shards[0].in_sync_count = 2;
    look(&w);
    cr_assert(says(&w, 0, "is away: 1 of its 2 replicas are not in sync"));
    cr_assert(eq(u32, w.h.count, 1)); /* that its replica lags needs no words of its own */
    ward_close(&w);
}

Test(cluster_health, replicas_that_catch_up)
{
    struct cluster_view_own own[2] = {{.known = true, .committed = 90}, {.known = true, .committed = 7}};
    struct ward w;

    ward_open(&w, sound);
    for (int i = 0; i < 2; i++) {
        w.v.shards[i].in_sync_count = 2;
        w.v.shards[i].index_known = true;
        w.v.shards[i].index = 100;
    }
    w.v.nodes[2].answered = true;
    w.v.nodes[2].own = own;
    look(&w);
    cr_assert(says(&w, 0, "2 of its 2 replicas are not in sync, 93 entries behind at most"), "%s",
              w.h.problems[0].what);
    cr_assert(w.h.writable);
    w.v.nodes[2].own = NULL;
    ward_close(&w);
}

/* What cannot be written comes first, with who could help. */
Test(cluster_health, shards_that_cannot_be_written)
{
    struct ward w;

    ward_open(&w, sound);
    w.v.shards[1].primary = -1;
    w.v.shards[1].in_sync_count = 2;
    look(&w);
    cr_assert(not(w.h.writable));
    cr_assert(eq(int, w.h.problems[0].shard, 1));
    cr_assert(says(&w, 0, "no primary (2 needed; in sync: a, b)"), "%s", w.h.problems[0].what);
    cr_assert(strstr(w.h.problems[0].action, "takes over") != NULL);
    w.v.nodes[0].live = w.v.nodes[1].live = false;
    look(&w);
    cr_assert(says(&w, 0, "in sync: a (away), b (away)"));
    cr_assert(strstr(w.h.problems[0].action, "start the sidecars of those in sync") != NULL);
    w.v.shards[1].primary = 0;
    w.v.shards[1].in_sync_count = 1;
    look(&w);
    cr_assert(says(&w, 0, "too few in sync (2 needed; in sync: a (away))"), "%s", w.h.problems[0].what);
    ward_close(&w);
}

/* A sidecar that has never reached the coordinator knows of no shards: that is not to say that there are none. */
Test(cluster_health, nothing_is_known)
{
    struct ward w;

    ward_open(&w, "{\"cluster\":\"k\",\"node\":\"a\",\"shards\":[],\"nodes\":[{\"id\":\"a\",\"live\":true}]}");
    look(&w);
    cr_assert(says(&w, 0, "is not initialised"));
    cr_assert(eq(int, w.h.problems[0].node, -1));
    cr_assert(not(w.h.writable));
    tells(&w, 0, "{\"coordinator\":\"unreachable\",\"coordinator_why\":\"no answer yet\"}");
    look(&w);
    cr_assert(eq(u32, w.h.count, 1));
    cr_assert(says(&w, 0, "cannot use the coordinator: no answer yet"));
    cr_assert(not(w.h.writable));
    ward_close(&w);
}
