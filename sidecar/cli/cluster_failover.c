/* cluster failover: a planned change of one shard's primary. Asks a sidecar, any: --sidecar, or one that the
 * coordinator knows, the shard's primary first; the next one when it cannot be reached at all. With --accept-data-loss
 * it is no handoff: see cluster_force.h. */
#include "sidecar/cli/cluster.h"
#include "sidecar/cli/cluster_force.h"
#include "sidecar/cli/cluster_view.h"
#include "sidecar/cli/fetch.h"
#include "sidecar/coord/fields.h"
#include "sidecar/coord/keys.h"

#include <stdio.h>
#include <stdlib.h>

enum { ANSWER_GRACE_MS = 3000, BODY_MAX = 256 };

struct settings {
    struct cluster_view_settings view;
    uint32_t shard;
    const char *to_replica;
    uint32_t timeout_ms;
    bool json;
    bool accept_data_loss;
    bool yes;
    const char *confirm;
};

static const struct option options[] = {
    CLUSTER_VIEW_OPTIONS(struct settings, view),
    {"shard", OPTION_NUMBER, offsetof(struct settings, shard), "N", NULL, true, 0, OTR_SHARDS_MAX - 1,
     "whose primary is to change"},
    {"to-replica", OPTION_NAME, offsetof(struct settings, to_replica), "NODE", NULL, false, 0, 0,
     "who is to lead it: a replica in sync (default: the best)"},
    {"accept-data-loss", OPTION_FLAG, offsetof(struct settings, accept_data_loss), NULL, NULL, false, 0, 0,
     "when nobody in sync is left alive: let one that is not lead, and lose what it lacks"},
    {"confirm", OPTION_TEXT, offsetof(struct settings, confirm), "N", NULL, false, 0, 0,
     "with --accept-data-loss: so many entries may be lost, as printed before (default: asks)"},
    {"yes", OPTION_FLAG, offsetof(struct settings, yes), NULL, NULL, false, 0, 0,
     "with --accept-data-loss: whatever the number is"},
    {"timeout", OPTION_MS, offsetof(struct settings, timeout_ms), "TIME", "2s", false, 1, 600000,
     "how long the present primary tries"},
    {"json", OPTION_FLAG, offsetof(struct settings, json), NULL, NULL, false, 0, 0, "print JSON"},
};

/* --- asking ------------------------------------------------------------------------------------------------------- */

/* True when this sidecar has decided it, one way or the other; false: nothing was sent, another one may be asked. */
static bool ask(struct fetch_client *f, const struct settings *s, const char *base, struct fetch *fetch)
{
    char body[BODY_MAX];
    size_t bytes = strlen(base);

    bytes -= bytes > 0 && base[bytes - 1] == '/';
    snprintf(body, sizeof body, "{\"timeout_ms\":%u%s%s%s}", s->timeout_ms,
             s->to_replica != NULL ? ",\"to_replica\":\"" : "", s->to_replica != NULL ? s->to_replica : "",
             s->to_replica != NULL ? "\"" : "");
    *fetch = (struct fetch){.method = "POST", .send = body};
    snprintf(fetch->url, sizeof fetch->url, "%s%.*s/cluster/shards/%u/failover",
             strstr(base, "://") != NULL ? "" : "http://", (int)bytes, base, s->shard);
    fetch_all(f, fetch, 1, 2 * s->timeout_ms + ANSWER_GRACE_MS);
    return fetch->status != OTR_UNREACHABLE;
}

static int ask_one_of(struct fetch_client *f, const struct settings *s, const struct cluster_view *v,
                      struct fetch *fetch, struct otr_errmsg *msg)
{
    int first = -1;

    for (uint32_t i = 0; i < v->shards_count; i++) {
        first = v->shards[i].id == s->shard ? v->shards[i].primary : first;
    }
    for (int round = 0; round < 2; round++) {
        for (uint32_t i = 0; i < v->nodes_count; i++) {
            bool is_first = (int)i == first;

            if (is_first == (round == 0) && v->nodes[i].live && v->nodes[i].client[0] != '\0') {
                fetch_clear(fetch, 1);
                if (ask(f, s, v->nodes[i].client, fetch)) {
                    return 0;
                }
            }
        }
    }
    otr_errmsg_set(msg, "no sidecar of cluster %s can be reached%s%s", v->cluster,
                   fetch->msg.text[0] != '\0' ? "; the last one: " : "", fetch->msg.text);
    return OTR_UNREACHABLE;
}

static int ask_through_coordinator(struct fetch_client *f, struct loop *loop, const struct settings *s,
                                   struct fetch *fetch, struct otr_errmsg *msg)
{
    struct cluster_view v = {.shards = NULL};
    int rv = cluster_view_read(&v, loop, &s->view, msg);

    if (rv == 0) {
        rv = ask_one_of(f, s, &v, fetch, msg);
    } else {
        otr_errmsg_wrap(msg, "without the coordinator ask a sidecar (--sidecar URL)");
    }
    cluster_view_close(&v);
    return rv;
}

/* --- telling ------------------------------------------------------------------------------------------------------ */

static const char *text_of(const cJSON *json, const char *field)
{
    const char *text = cJSON_GetStringValue(field_find(json, field));

    return text != NULL ? text : "?";
}

static int tell(const struct settings *s, const struct fetch *fetch, struct otr_errmsg *msg)
{
    cJSON *json;
    const cJSON *pause;

    if (fetch->http_status != 200) {
        fetch_refusal(fetch, msg);
        return OTR_UNAVAIL;
    }
    json = field_object(fetch->body, msg);
    if (json == NULL) {
        return OTR_PROTO;
    }
    pause = field_find(json, "pause_ms");
    if (s->json) {
        size_t bytes = strlen(fetch->body);
        printf("%s%s", fetch->body, bytes > 0 && fetch->body[bytes - 1] == '\n' ? "" : "\n");
    } else {
        printf("shard %u: primary was %s, is %s in epoch %.0f", s->shard, text_of(json, "from"), text_of(json, "to"),
               cJSON_GetNumberValue(field_find(json, "epoch")));
        if (cJSON_IsNumber(pause)) {
            printf("; writes paused for %.1f ms\n", pause->valuedouble);
        } else {
            printf("; how long writes paused is not known\n");
        }
    }
    cJSON_Delete(json);
    return 0;
}

static int force(struct fetch_client *f, struct loop *loop, const struct settings *s, struct otr_errmsg *msg)
{
    const struct cluster_force how = {.shard = s->shard,
                                      .to_replica = s->to_replica,
                                      .yes = s->yes,
                                      .confirm = s->confirm,
                                      .timeout_ms = s->timeout_ms,
                                      .json = s->json};
    struct cluster_view v = {.shards = NULL};
    int rv = cluster_view_read(&v, loop, &s->view, msg);

    rv = rv != 0 ? rv : cluster_force_run(&how, &v, f, msg);
    cluster_view_close(&v);
    return rv;
}

static int failover(const struct settings *s, struct otr_errmsg *msg)
{
    struct fetch fetch = {.data = NULL};
    struct fetch_client f;
    struct loop loop;
    int rv;

    rv = loop_init(&loop, msg);
    if (rv != 0) {
        return rv;
    }
    rv = fetch_open(&f, &loop, &s->view.credentials, msg);
    if (rv == 0 && s->accept_data_loss) {
        rv = force(&f, &loop, s, msg);
        fetch_close(&f);
    } else if (rv == 0) {
        if (s->view.sidecar == NULL) {
            rv = ask_through_coordinator(&f, &loop, s, &fetch, msg);
        } else {
            (void)ask(&f, s, s->view.sidecar, &fetch);
        }
        if (rv == 0 && fetch.status != 0) {
            rv = fetch.status;
            otr_errmsg_set(msg, "%s", fetch.msg.text);
        }
        rv = rv == 0 ? tell(s, &fetch, msg) : rv;
        fetch_clear(&fetch, 1);
        fetch_close(&f);
    }
    loop_close(&loop);
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
    if (!s.accept_data_loss && (s.yes || s.confirm != NULL)) {
        fprintf(stderr, "outrigger %s: --yes and --confirm belong to --accept-data-loss\n", command->name);
        options_memory_close(&memory);
        return EXIT_USAGE;
    }
    rv = failover(&s, &msg);
    if (rv != 0) {
        fprintf(stderr, "outrigger %s: %s\n", command->name, msg.text[0] != '\0' ? msg.text : otr_strerror(rv));
    }
    options_memory_close(&memory);
    return rv == 0 ? EXIT_OK : EXIT_FAILED;
}

const struct command cluster_failover_command = {
    .name = "cluster failover",
    .about =
        "changes the primary of one shard, in order: nothing expires, no request fails.\n\n"
        "The present primary lets the other one catch up, stops taking writes, and gives its rights back; the\n"
        "other one takes over. Writes meanwhile wait inside, for some milliseconds. Only a replica in sync can\n"
        "take over, whose engine works and who reaches the coordinator. Exits 1 when nothing has changed.\n\n"
        "When nobody in sync is left alive, --accept-data-loss lets a replica lead that is not in sync. It prints\n"
        "how many entries may be lost with each, and wants the number confirmed: typed, or given to --confirm.\n"
        "It refuses while somebody in sync lives.",
    .examples = "  outrigger cluster failover --shard 2 --sidecar http://10.0.0.1:7700\n"
                "  outrigger cluster failover --shard 2 --to-replica node-3 --endpoints http://10.0.0.5:2379\n"
                "  outrigger cluster failover --shard 2 --accept-data-loss --confirm 118\n",
    .options = options,
    .options_count = sizeof options / sizeof options[0],
    .run = run,
};
