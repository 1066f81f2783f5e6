/* cluster loss-report: what each live sidecar noted of entries that it gave up (sidecar/node/loss.c), one after the
 * other. A node that is down may have noted more, or may yet have to: it is named. */
#include "sidecar/cli/cluster.h"
#include "sidecar/cli/cluster_view.h"
#include "sidecar/cli/fetch.h"
#include "sidecar/coord/fields.h"

#include <stdio.h>
#include <stdlib.h>

enum { ASK_TIMEOUT_MS = 10000 };

struct settings {
    struct cluster_view_settings view;
    uint32_t shard;
    bool json;
};

static const struct option options[] = {
    CLUSTER_VIEW_OPTIONS(struct settings, view),
    {"shard", OPTION_NUMBER, offsetof(struct settings, shard), "N", NULL, false, 0, OTR_SHARDS_MAX - 1,
     "only this shard"},
    {"json", OPTION_FLAG, offsetof(struct settings, json), NULL, NULL, false, 0, 0, "print JSON"},
};

/* --- collecting --------------------------------------------------------------------------------------------------- */

/* What one sidecar said, into `all`. */
static int take(const struct settings *s, const struct fetch *fetch, cJSON *all, struct otr_errmsg *msg)
{
    cJSON *json;
    cJSON *list;

    if (fetch->http_status != 200) {
        fetch_refusal(fetch, msg);
        return OTR_UNAVAIL;
    }
    json = field_object(fetch->body, msg);
    list = cJSON_DetachItemFromObjectCaseSensitive(json, "losses");
    cJSON_Delete(json);
    if (!cJSON_IsArray(list)) {
        cJSON_Delete(list);
        otr_errmsg_set(msg, "%s: not the answer of a sidecar", fetch->url);
        return OTR_PROTO;
    }
    while (cJSON_GetArraySize(list) > 0) {
        cJSON *record = cJSON_DetachItemFromArray(list, 0);
        const cJSON *shard = field_find(record, "shard");

        if (s->shard != UINT32_MAX && (!cJSON_IsNumber(shard) || shard->valuedouble != (double)s->shard)) {
            cJSON_Delete(record);
        } else {
            (void)cJSON_AddItemToArray(all, record);
        }
    }
    cJSON_Delete(list);
    return 0;
}

static int collect(const struct settings *s, const struct cluster_view *v, struct fetch_client *f, cJSON *all,
                   cJSON *missing, struct otr_errmsg *msg)
{
    int rv = 0;

    for (uint32_t i = 0; i < v->nodes_count && rv == 0; i++) {
        const struct cluster_view_node *n = &v->nodes[i];
        struct fetch fetch = {.data = NULL};

        if (!n->live || n->client[0] == '\0') {
            (void)cJSON_AddItemToArray(missing, cJSON_CreateString(n->name));
            continue;
        }
        snprintf(fetch.url, sizeof fetch.url, "%s%s/cluster/losses", strstr(n->client, "://") != NULL ? "" : "http://",
                 n->client);
        fetch_all(f, &fetch, 1, ASK_TIMEOUT_MS);
        if (fetch.status != 0) {
            (void)cJSON_AddItemToArray(missing, cJSON_CreateString(n->name));
        } else {
            rv = take(s, &fetch, all, msg);
        }
        fetch_clear(&fetch, 1);
    }
    return rv;
}

/* --- telling ------------------------------------------------------------------------------------------------------ */

static const char *text_of(const cJSON *json, const char *field)
{
    const char *text = cJSON_GetStringValue(field_find(json, field));

    return text != NULL ? text : "?";
}

static void print_record(const cJSON *record)
{
    const cJSON *entry;

    printf("shard %.0f: epoch %s began without entries %s to %s of %s's log\n",
           cJSON_GetNumberValue(field_find(record, "shard")), text_of(record, "epoch"), text_of(record, "first"),
           text_of(record, "last"), text_of(record, "node"));
    cJSON_ArrayForEach(entry, field_find(record, "entries"))
    {
        const cJSON *ids = field_find(entry, "ids");
        const cJSON *id;
        const char *name = cJSON_GetStringValue(field_find(entry, "name"));

        printf("  %s:%s  request %s  %s %s:", text_of(entry, "epoch"), text_of(entry, "index"),
               text_of(entry, "request_id"), text_of(entry, "kind"),
               name != NULL ? name : text_of(entry, "collection"));
        cJSON_ArrayForEach(id, ids)
        {
            printf(" %s", cJSON_IsString(id) ? id->valuestring : "?");
        }
        printf("\n");
    }
    cJSON_ArrayForEach(entry, field_find(record, "unlisted"))
    {
        printf("  entries %s to %s cannot be listed: the log had been compacted\n", text_of(entry, "first"),
               text_of(entry, "last"));
    }
}

static int print_all(const struct settings *s, cJSON *all, cJSON *missing)
{
    const cJSON *item;

    if (s->json) {
        cJSON *json = cJSON_CreateObject();
        char *text = NULL;

        if (cJSON_AddItemReferenceToObject(json, "losses", all) &&
            cJSON_AddItemReferenceToObject(json, "not_asked", missing)) {
            text = cJSON_PrintUnformatted(json);
        }
        if (text != NULL) {
            printf("%s\n", text);
        }
        cJSON_free(text);
        cJSON_Delete(json);
        return text != NULL ? 0 : OTR_NOMEM;
    }
    cJSON_ArrayForEach(item, all)
    {
        print_record(item);
    }
    if (cJSON_GetArraySize(all) == 0) {
        printf("no entries that may have been acknowledged are known to be lost\n");
    }
    cJSON_ArrayForEach(item, missing)
    {
        printf("%s could not be asked: what only it had is noted when it comes back\n",
               cJSON_IsString(item) ? item->valuestring : "?");
    }
    return 0;
}

static int report(const struct settings *s, struct loop *loop, struct otr_errmsg *msg)
{
    struct cluster_view v = {.shards = NULL};
    cJSON *all = cJSON_CreateArray();
    cJSON *missing = cJSON_CreateArray();
    struct fetch_client f;
    int rv = all != NULL && missing != NULL ? 0 : OTR_NOMEM;

    rv = rv != 0 ? rv : cluster_view_read(&v, loop, &s->view, msg);
    if (rv == 0) {
        rv = fetch_open(&f, loop, &s->view.credentials, msg);
        if (rv == 0) {
            rv = collect(s, &v, &f, all, missing, msg);
            fetch_close(&f);
        }
    }
    rv = rv != 0 ? rv : print_all(s, all, missing);
    if (rv == 0 && cJSON_GetArraySize(missing) > 0) {
        otr_errmsg_set(msg, "the report may be incomplete: %d of %u nodes could not be asked",
                       cJSON_GetArraySize(missing), v.nodes_count);
        rv = OTR_UNAVAIL;
    }
    cluster_view_close(&v);
    cJSON_Delete(missing);
    cJSON_Delete(all);
    return rv;
}

static int run(const struct command *command, int argc, char **argv)
{
    struct settings s = {.shard = UINT32_MAX};
    struct options_memory memory = {0};
    struct otr_errmsg msg = {0};
    struct loop loop;
    int exit_code;
    int rv;

    if (!options_read(command, argc, argv, &s, &memory, &exit_code)) {
        return exit_code;
    }
    rv = loop_init(&loop, &msg);
    if (rv == 0) {
        rv = report(&s, &loop, &msg);
        loop_close(&loop);
    }
    if (rv != 0) {
        fprintf(stderr, "outrigger %s: %s\n", command->name, msg.text[0] != '\0' ? msg.text : otr_strerror(rv));
    }
    options_memory_close(&memory);
    return rv == 0 ? EXIT_OK : EXIT_FAILED;
}

const struct command cluster_loss_report_command = {
    .name = "cluster loss-report",
    .about =
        "lists entries that are lost although clients may have been told that they are safe.\n\n"
        "That happens after 'cluster failover --accept-data-loss', and after a failover in mode async. A replica that\n"
        "finds such entries in its log notes them before it gives them up: what was written, by which request. The\n"
        "log does not say whether the client was answered, so some of them may never have been acknowledged.\n\n"
        "Exits 1 when a node could not be asked, for the report may be incomplete then; it is printed all the same.",
    .examples = "  outrigger cluster loss-report --sidecar http://10.0.0.1:7700\n"
                "  outrigger cluster loss-report --shard 2 --json\n",
    .options = options,
    .options_count = sizeof options / sizeof options[0],
    .run = run,
};
