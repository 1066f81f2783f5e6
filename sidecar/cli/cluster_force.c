/* What may be lost is what somebody knows to be committed and the candidate's log lacks. More may have been committed
 * by a primary that then took everybody else with it: nobody left knows, and the text says so. */
#include "sidecar/cli/cluster_force.h"

#include "sidecar/coord/fields.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum { ANSWER_GRACE_MS = 3000, BODY_MAX = 256, LIST_MAX = OTR_REPLICAS_MAX * (OTR_NAME_MAX + 2) };

/* --- candidates --------------------------------------------------------------------------------------------------- */

static const struct cluster_view_shard *find_shard(const struct cluster_view *v, otr_shard shard,
                                                   struct otr_errmsg *msg)
{
    for (uint32_t i = 0; i < v->shards_count; i++) {
        if (v->shards[i].id == shard) {
            return &v->shards[i];
        }
    }
    otr_errmsg_set(msg, "there is no shard %u", shard);
    return NULL;
}

static const struct cluster_view_own *own_of(const struct cluster_view *v, const struct cluster_view_shard *s, int node)
{
    const struct cluster_view_node *n = &v->nodes[node];

    return n->answered && n->own[s - v->shards].known ? &n->own[s - v->shards] : NULL;
}

/* Less lost first, then the longer log. */
static bool better(const struct cluster_view *v, const struct cluster_view_shard *s,
                   const struct cluster_force_candidate *a, const struct cluster_force_candidate *b)
{
    const struct cluster_view_own *log_a = own_of(v, s, a->node);
    const struct cluster_view_own *log_b = own_of(v, s, b->node);

    if (a->loss != b->loss) {
        return a->loss < b->loss;
    }
    if (log_a == NULL || log_b == NULL) { /* No candidate is without. */
        return log_a != NULL;
    }
    return log_a->last_epoch != log_b->last_epoch ? log_a->last_epoch > log_b->last_epoch : log_a->last > log_b->last;
}

static uint64_t known_anywhere(const struct cluster_view *v, const struct cluster_view_shard *s)
{
    uint64_t known = 0;

    for (uint32_t i = 0; i < s->replicas_count; i++) {
        const struct cluster_view_own *own = own_of(v, s, s->replicas[i]);

        known = own != NULL && own->seen > known ? own->seen : known;
    }
    return known;
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

int cluster_force_candidates(const struct cluster_view *v, otr_shard shard, struct cluster_force_candidate *out,
                             uint32_t *count, struct otr_errmsg *msg)
{
    const struct cluster_view_shard *s = find_shard(v, shard, msg);
    uint64_t known;

    *count = 0;
    if (s == NULL) {
        return OTR_NOTFOUND;
    }
    known = known_anywhere(v, s);
    for (uint32_t i = 0; i < s->replicas_count; i++) {
        const struct cluster_view_node *n = &v->nodes[s->replicas[i]];
        const struct cluster_view_own *own = own_of(v, s, s->replicas[i]);
        struct cluster_force_candidate c = {.node = s->replicas[i]};
        uint32_t at = *count;

        if (own != NULL && (own->leads || own->eligible)) {
            otr_errmsg_set(msg, "shard %u: %s is in sync and lives%s: nothing needs to be lost", shard, n->name,
                           own->leads ? " (it is the primary)" : "");
            *count = 0;
            return OTR_CONFLICT;
        }
        if (own == NULL && n->live && is_in_sync(s, s->replicas[i])) {
            otr_errmsg_set(
                msg,
                "shard %u: %s is in sync and does not answer, but has a session in the coordinator: it lives, "
                "or died less than session_ttl ago",
                shard, n->name);
            *count = 0;
            return OTR_CONFLICT;
        }
        if (own == NULL) {
            continue;
        }
        c.loss = known > own->kept ? known - own->kept : 0;
        while (at > 0 && better(v, s, &c, &out[at - 1])) {
            out[at] = out[at - 1];
            at--;
        }
        out[at] = c;
        (*count)++;
    }
    if (*count == 0) {
        otr_errmsg_set(msg, "shard %u: no replica answers: nobody could lead it", shard);
    }
    return *count == 0 ? OTR_UNAVAIL : 0;
}

/* --- telling ------------------------------------------------------------------------------------------------------ */

/* Names of the members that do not answer. */
static uint32_t list_missing(const struct cluster_view *v, const struct cluster_view_shard *s, char out[LIST_MAX])
{
    uint32_t count = 0;
    size_t used = 0;

    out[0] = '\0';
    for (uint32_t i = 0; i < s->in_sync_count; i++) {
        if (own_of(v, s, s->in_sync[i]) == NULL) {
            used += (size_t)snprintf(out + used, LIST_MAX - used, "%s%s", count > 0 ? ", " : "",
                                     v->nodes[s->in_sync[i]].name);
            count++;
        }
    }
    return count;
}

static void print_plan(FILE *out, const struct cluster_view *v, const struct cluster_view_shard *s,
                       const struct cluster_force_candidate *c, uint32_t count,
                       const struct cluster_force_candidate *to)
{
    char missing[LIST_MAX];

    fprintf(out,
            "shard %u: nobody who is in sync is alive. Of the %" PRIu64 " entries known to be committed, lost are "
            "with\n",
            s->id, known_anywhere(v, s));
    for (uint32_t i = 0; i < count; i++) {
        fprintf(out, "  %-20s %" PRIu64 " entries\n", v->nodes[c[i].node].name, c[i].loss);
    }
    fprintf(out, "and whatever was acknowledged that no replica left alive has heard of.\n");
    if (list_missing(v, s, missing) > 0) {
        fprintf(out,
                "%s must be stopped, and may be started again only afterwards: running, cut off from here, it\n"
                "would go on taking writes. Whoever confirms says that it is.\n",
                missing);
    }
    fprintf(out, "%s is to lead: %" PRIu64 " entries may be lost.\n", v->nodes[to->node].name, to->loss);
}

/* What was typed, or given, is the very number. */
static bool is_number(const char *text, uint64_t wanted)
{
    char number[24];
    size_t bytes = strcspn(text, "\r\n");

    snprintf(number, sizeof number, "%" PRIu64, wanted);
    return strlen(number) == bytes && memcmp(text, number, bytes) == 0;
}

static int confirm(const struct cluster_force *s, uint64_t loss, struct otr_errmsg *msg)
{
    char line[64];

    if (s->yes || (s->confirm != NULL && is_number(s->confirm, loss))) {
        return 0;
    }
    if (s->confirm != NULL) {
        otr_errmsg_set(msg, "%" PRIu64 " entries may be lost, not %s; nothing was done", loss, s->confirm);
        return OTR_CONFLICT;
    }
    if (!isatty(STDIN_FILENO)) {
        otr_errmsg_set(msg, "nothing was done: to go on add --confirm %" PRIu64, loss);
        return OTR_DENIED;
    }
    fprintf(stderr, "Type the number of entries that may be lost to go on: ");
    if (fgets(line, sizeof line, stdin) != NULL && is_number(line, loss)) {
        return 0;
    }
    otr_errmsg_set(msg, "not confirmed; nothing was done");
    return OTR_DENIED;
}

/* --- doing -------------------------------------------------------------------------------------------------------- */

static int ask(const struct cluster_force *s, const char *base, uint64_t loss, struct fetch_client *f,
               struct fetch *fetch, struct otr_errmsg *msg)
{
    char body[BODY_MAX];
    int rv;

    snprintf(body, sizeof body, "{\"accept_data_loss\":%" PRIu64 ",\"timeout_ms\":%u}", loss, s->timeout_ms);
    *fetch = (struct fetch){.method = "POST", .send = body};
    snprintf(fetch->url, sizeof fetch->url, "%s%s/cluster/shards/%u/failover",
             strstr(base, "://") != NULL ? "" : "http://", base, s->shard);
    fetch_all(f, fetch, 1, 2 * s->timeout_ms + ANSWER_GRACE_MS);
    rv = fetch->status;
    if (rv != 0) {
        otr_errmsg_set(msg, "%s", fetch->msg.text);
    } else if (fetch->http_status != 200) {
        fetch_refusal(fetch, msg);
        rv = OTR_UNAVAIL;
    }
    return rv;
}

static int tell(const struct cluster_force *s, const struct cluster_view *v, const struct cluster_force_candidate *to,
                const struct fetch *fetch, struct otr_errmsg *msg)
{
    cJSON *json = field_object(fetch->body, msg);
    double epoch = cJSON_GetNumberValue(field_find(json, "epoch"));

    if (json == NULL) {
        return OTR_PROTO;
    }
    printf(s->json ? "{\"shard\":%u,\"to\":\"%s\",\"epoch\":%.0f,\"may_be_lost\":%" PRIu64 "}\n"
                   : "shard %u: %s leads, in epoch %.0f; %" PRIu64
                     " entries may be lost. Members of before note what they\n"
                     "give up when they come back: 'outrigger cluster loss-report' lists it.\n",
           s->shard, v->nodes[to->node].name, epoch, to->loss);
    cJSON_Delete(json);
    return 0;
}

static const struct cluster_force_candidate *choose(const struct cluster_force *s, const struct cluster_view *v,
                                                    const struct cluster_force_candidate *c, uint32_t count,
                                                    struct otr_errmsg *msg)
{
    for (uint32_t i = 0; i < count; i++) {
        if (s->to_replica == NULL || strcmp(v->nodes[c[i].node].name, s->to_replica) == 0) {
            return &c[i];
        }
    }
    otr_errmsg_set(msg, "shard %u: %s has no replica of it, or does not answer", s->shard, s->to_replica);
    return NULL;
}

int cluster_force_run(const struct cluster_force *s, const struct cluster_view *v, struct fetch_client *f,
                      struct otr_errmsg *msg)
{
    struct cluster_force_candidate candidates[OTR_REPLICAS_MAX];
    const struct cluster_force_candidate *to;
    struct fetch fetch = {.data = NULL};
    uint32_t count;
    int rv = cluster_force_candidates(v, s->shard, candidates, &count, msg);

    if (rv != 0) {
        return rv;
    }
    to = choose(s, v, candidates, count, msg);
    if (to == NULL) {
        return OTR_NOTFOUND;
    }
    print_plan(s->json ? stderr : stdout, v, find_shard(v, s->shard, msg), candidates, count, to);
    fflush(stdout);
    rv = confirm(s, to->loss, msg);
    rv = rv != 0 ? rv : ask(s, v->nodes[to->node].client, to->loss, f, &fetch, msg);
    rv = rv != 0 ? rv : tell(s, v, to, &fetch, msg);
    fetch_clear(&fetch, 1);
    return rv;
}
