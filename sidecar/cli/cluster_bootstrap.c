/* cluster bootstrap --from-survivors: the coordinator's durable keys again, out of what the sidecars know, after it was
 * emptied or replaced. They serve on meanwhile and obey it again once its settings show a higher generation.
 *
 * Sidecars are asked (GET /cluster/survivor; those that the coordinator shows as live, or that --sidecar and its peers
 * name), core/rebuild.c makes each shard's descriptor or says why that could lose data, it is all printed and
 * confirmed, then written: nodes, collections and shards first, `config` last; each transaction demands that `config`
 * is absent, so that an interrupted run is simply run again. */
#include "sidecar/cli/cluster.h"
#include "sidecar/cli/cluster_view.h"
#include "sidecar/cli/fetch.h"
#include "sidecar/coord/fields.h"
#include "sidecar/coord/keys.h"
#include "sidecar/coord/values.h"
#include "sidecar/core/rebuild.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum { ASK_TIMEOUT_MS = 3000, BATCH_KEYS = 40 };

struct settings {
    struct cluster_view_settings view;
    bool from_survivors;
    bool accept_data_loss;
    bool yes;
    bool json;
};

static const struct option options[] = {
    CLUSTER_VIEW_OPTIONS(struct settings, view),
    {"from-survivors", OPTION_FLAG, offsetof(struct settings, from_survivors), NULL, NULL, false, 0, 0,
     "out of what the sidecars know; there is no other way yet"},
    {"accept-data-loss", OPTION_FLAG, offsetof(struct settings, accept_data_loss), NULL, NULL, false, 0, 0,
     "although a replica is missing that may know of later writes"},
    {"yes", OPTION_FLAG, offsetof(struct settings, yes), NULL, NULL, false, 0, 0, "do not ask before it is written"},
    {"json", OPTION_FLAG, offsetof(struct settings, json), NULL, NULL, false, 0, 0, "print the result as JSON"},
};

/* All that the survivors say. */
struct survey {
    struct topology *names; /* only names are in it */
    cJSON *answers[OTR_NODES_MAX];
    size_t answers_count;
    struct topology_config config;
    uint64_t generation;            /* the highest anybody saw */
    struct descriptor *descriptors; /* to be written */
    uint32_t shards_count;
    uint32_t members_lead; /* shards whose primary serves on */
};

/* --- asking ------------------------------------------------------------------------------------------------------- */

static int ask_all(const struct cluster_view *v, struct fetch_client *f, struct survey *s, struct otr_errmsg *msg)
{
    for (uint32_t i = 0; i < v->nodes_count && s->answers_count < OTR_NODES_MAX; i++) {
        const struct cluster_view_node *n = &v->nodes[i];
        struct fetch fetch = {.data = NULL};
        cJSON *json = NULL;

        if (!n->live && n->client[0] == '\0') {
            continue;
        }
        snprintf(fetch.url, sizeof fetch.url, "%s%s/cluster/survivor",
                 strstr(n->client, "://") != NULL ? "" : "http://", n->client);
        fetch_all(f, &fetch, 1, ASK_TIMEOUT_MS);
        if (fetch.status == 0 && fetch.http_status != 200) {
            fetch_refusal(&fetch, msg);
            otr_errmsg_wrap(msg, "%s", n->name);
            fetch_clear(&fetch, 1);
            return OTR_UNAVAIL;
        }
        json = fetch.status == 0 ? field_object(fetch.body, msg) : NULL;
        if (json != NULL) {
            s->answers[s->answers_count++] = json;
        } else {
            fprintf(stderr, "%s at %s: %s\n", n->name, n->client,
                    fetch.status != 0 ? fetch.msg.text : "not the answer of a sidecar");
        }
        fetch_clear(&fetch, 1);
    }
    if (s->answers_count == 0) {
        otr_errmsg_set(msg, "no sidecar answers: name one with --sidecar");
        return OTR_UNAVAIL;
    }
    return 0;
}

/* --- reading the answers ------------------------------------------------------------------------------------------ */

static uint64_t decimal_at(const cJSON *list, int at)
{
    const char *text = cJSON_GetStringValue(cJSON_GetArrayItem(list, at));

    return text != NULL ? strtoull(text, NULL, 10) : 0;
}

static int read_replica(struct survey *s, const cJSON *answer, const cJSON *from, struct rebuild_replica *out,
                        struct otr_errmsg *msg)
{
    const cJSON *seen = field_find(from, "seen");
    const cJSON *last = field_find(from, "last");
    const char *name = NULL;
    int rv = field_get_name(field_find(answer, "node"), "node", &name, msg);

    rv = rv != 0 ? rv : field_get_decimal(from, "promised", &out->promised, msg);
    rv = rv != 0 ? rv : field_get_hex(from, "log", &out->log_id, msg);
    rv = rv != 0 ? rv : field_get_hex(answer, "incarnation", &out->incarnation, msg);
    if (rv != 0) {
        return rv;
    }
    out->node = topology_intern(s->names, name);
    out->leads = cJSON_IsTrue(field_find(from, "leads"));
    out->seen_generation = decimal_at(seen, 0);
    out->seen_epoch = decimal_at(seen, 1);
    out->seen_version = decimal_at(seen, 2);
    out->last = (struct otr_position){.epoch = decimal_at(last, 0), .index = decimal_at(last, 1)};
    if (out->seen_generation > s->generation) {
        s->generation = out->seen_generation;
    }
    return out->node != OTR_NODE_NONE ? 0 : OTR_NOMEM;
}

static int read_config(struct survey *s, const cJSON *answer, struct otr_errmsg *msg)
{
    const char *text = cJSON_GetStringValue(field_find(answer, "config"));
    struct topology_config config;
    int rv;

    if (text == NULL) {
        return 0; /* started since, and knows nothing */
    }
    rv = value_config_parse(text, &config, msg);
    if (rv == 0 && (!s->config.known || config.generation > s->config.generation)) {
        s->config = config;
    }
    if (rv == 0 && config.generation > s->generation) {
        s->generation = config.generation;
    }
    return rv;
}

/* What all say of one shard. */
struct shard_survey {
    struct descriptor shown[OTR_NODES_MAX];
    size_t shown_count;
    struct rebuild_replica replicas[OTR_NODES_MAX];
    size_t replicas_count;
};

static int take_answer(struct survey *s, const cJSON *answer, otr_shard shard, struct shard_survey *out,
                       struct otr_errmsg *msg)
{
    const cJSON *item;
    int rv = 0;

    cJSON_ArrayForEach(item, field_find(answer, "shards"))
    {
        struct descriptor *d = &out->shown[out->shown_count];

        if (rv == 0 && cJSON_IsString(item)) {
            rv = value_descriptor_parse(s->names, item->valuestring, d, msg);
            out->shown_count += rv == 0 && d->shard == shard;
        }
    }
    cJSON_ArrayForEach(item, field_find(answer, "replicas"))
    {
        const cJSON *id = field_find(item, "shard");

        if (rv == 0 && cJSON_IsNumber(id) && id->valuedouble == (double)shard) {
            rv = read_replica(s, answer, item, &out->replicas[out->replicas_count], msg);
            out->replicas_count += rv == 0;
        }
    }
    return rv;
}

static int rebuild(struct survey *s, otr_shard shard, struct shard_survey *all, uint64_t generation, bool accept_loss,
                   struct otr_errmsg *msg)
{
    struct descriptor *d = &s->descriptors[shard];
    int rv = 0;

    all->shown_count = 0;
    all->replicas_count = 0;
    for (size_t i = 0; rv == 0 && i < s->answers_count; i++) {
        rv = take_answer(s, s->answers[i], shard, all, msg);
    }
    rv = rv != 0 ? rv
                 : rebuild_descriptor(s->names, all->shown, all->shown_count, all->replicas, all->replicas_count,
                                      generation, accept_loss, d, msg);
    if (rv == OTR_NOTFOUND) {
        otr_errmsg_set(msg, "shard %u: no sidecar knows its descriptor", shard);
    } else if (rv == OTR_CONFLICT) {
        otr_errmsg_wrap(msg, "refused, for acknowledged writes could be lost (--accept-data-loss goes on)");
    }
    for (size_t i = 0; rv == 0 && i < all->replicas_count; i++) {
        const struct rebuild_replica *r = &all->replicas[i];

        s->members_lead += r->leads && r->node == d->primary && r->incarnation == d->incarnation;
    }
    return rv;
}

static int rebuild_all(struct survey *s, bool accept_loss, struct otr_errmsg *msg)
{
    struct shard_survey *all = calloc(1, sizeof *all);
    uint64_t generation;
    int rv = all != NULL ? 0 : OTR_NOMEM;

    for (size_t i = 0; rv == 0 && i < s->answers_count; i++) {
        const cJSON *item;

        rv = read_config(s, s->answers[i], msg);
        cJSON_ArrayForEach(item, field_find(s->answers[i], "replicas"))
        {
            struct rebuild_replica r;

            rv = rv != 0 ? rv : read_replica(s, s->answers[i], item, &r, msg);
        }
    }
    if (rv == 0 && !s->config.known) {
        otr_errmsg_set(msg, "no sidecar knows the cluster's settings");
        rv = OTR_NOTFOUND;
    }
    generation = s->generation + 1;
    s->config.generation = generation;
    s->shards_count = s->config.shards_count;
    s->descriptors = rv == 0 ? calloc(s->shards_count, sizeof *s->descriptors) : NULL;
    rv = rv == 0 && s->descriptors == NULL ? OTR_NOMEM : rv;
    for (otr_shard i = 0; rv == 0 && i < s->shards_count; i++) {
        rv = rebuild(s, i, all, generation, accept_loss, msg);
    }
    free(all);
    return rv;
}

/* --- writing ------------------------------------------------------------------------------------------------------ */

struct batch {
    struct coord_client *c;
    char config_key[KEY_MAX];
    char import_key[KEY_MAX];
    char keys[BATCH_KEYS][KEY_MAX];
    char *values[BATCH_KEYS];
    size_t count;
};

static int batch_send(struct batch *b, struct otr_errmsg *msg)
{
    struct otr_compare compares[] = {{.type = OTR_COMPARE_ABSENT, .key = b->config_key},
                                     {.type = OTR_COMPARE_ABSENT, .key = b->import_key}};
    struct otr_op ops[BATCH_KEYS];
    int rv;

    for (size_t i = 0; i < b->count; i++) {
        ops[i] = (struct otr_op){
            .type = OTR_OP_PUT, .key = b->keys[i], .value = b->values[i], .value_bytes = strlen(b->values[i])};
    }
    rv = coord_client_txn(
        b->c, &(struct otr_txn){.compares = compares, .compares_count = 2, .ops = ops, .ops_count = b->count}, msg);
    if (rv == OTR_CONFLICT) {
        otr_errmsg_set(msg,
                       "the coordinator has settings of this cluster meanwhile, or those of an import that is not "
                       "complete (key %s, to be deleted first): somebody else came first",
                       b->import_key);
    } else if (rv == OTR_UNKNOWN || rv == OTR_CANCELED) {
        otr_errmsg_wrap(msg, "whether all is written is not known: run this again");
    }
    for (size_t i = 0; i < b->count; i++) {
        free(b->values[i]);
    }
    b->count = 0;
    return rv;
}

/* Takes over `value`. */
static int put(struct batch *b, const char *key, char *value, struct otr_errmsg *msg)
{
    if (value == NULL) {
        return OTR_NOMEM;
    }
    snprintf(b->keys[b->count], KEY_MAX, "%s", key);
    b->values[b->count++] = value;
    return b->count == BATCH_KEYS ? batch_send(b, msg) : 0;
}

/* An earlier answer has it, too. */
static bool said_before(const struct survey *s, size_t answer, const char *field, const cJSON *item)
{
    for (size_t i = 0; i < answer; i++) {
        if (field_find(field_find(s->answers[i], field), item->string) != NULL) {
            return true;
        }
    }
    return false;
}

static int put_named(struct batch *b, const struct survey *s, const char *field,
                     void (*name_key)(char[KEY_MAX], const char *, const char *), struct otr_errmsg *msg)
{
    const cJSON *item;
    int rv = 0;

    for (size_t i = 0; i < s->answers_count; i++) {
        cJSON_ArrayForEach(item, field_find(s->answers[i], field))
        {
            char key[KEY_MAX];

            if (rv == 0 && cJSON_IsString(item) && key_name_valid(item->string) && !said_before(s, i, field, item)) {
                name_key(key, b->c->cluster, item->string);
                rv = put(b, key, strdup(item->valuestring), msg);
            }
        }
    }
    return rv;
}

static int write_all(struct coord_client *c, const struct survey *s, struct otr_errmsg *msg)
{
    struct batch *b = calloc(1, sizeof *b);
    char key[KEY_MAX];
    int rv;

    if (b == NULL) {
        return OTR_NOMEM;
    }
    b->c = c;
    key_config(b->config_key, c->cluster);
    key_import(b->import_key, c->cluster);
    rv = put_named(b, s, "nodes", key_node, msg);
    rv = rv != 0 ? rv : put_named(b, s, "collections", key_collection, msg);
    for (otr_shard i = 0; rv == 0 && i < s->shards_count; i++) {
        key_shard(key, c->cluster, i);
        rv = put(b, key, value_descriptor_print(s->names, &s->descriptors[i]), msg);
    }
    if (rv == 0 && b->count > 0) {
        rv = batch_send(b, msg);
    }
    rv = rv != 0 ? rv : put(b, b->config_key, value_config_print(&s->config), msg);
    rv = rv != 0 ? rv : batch_send(b, msg);
    for (size_t i = 0; i < b->count; i++) {
        free(b->values[i]);
    }
    free(b);
    return rv;
}

/* --- the command -------------------------------------------------------------------------------------------------- */

static void print_plan(FILE *out, const struct survey *s, const char *cluster)
{
    fprintf(out,
            "cluster %s, out of what %zu sidecars know: %u shards in generation %llu; %u of them have a primary\n"
            "that serves on, the others elect one.\n",
            cluster, s->answers_count, s->shards_count, (unsigned long long)s->config.generation, s->members_lead);
    for (otr_shard i = 0; i < s->shards_count; i++) {
        const struct descriptor *d = &s->descriptors[i];

        fprintf(out, "  shard %-4u epoch %-8llu primary %-16s in sync", i, (unsigned long long)d->epoch,
                d->primary != OTR_NODE_NONE ? topology_name(s->names, d->primary) : "none");
        for (uint32_t m = 0; m < d->in_sync_count; m++) {
            fprintf(out, "%s %s", m > 0 ? "," : "", topology_name(s->names, d->in_sync[m].node));
        }
        fprintf(out, "\n");
    }
    fflush(out);
}

static int confirm(const struct settings *s, struct otr_errmsg *msg)
{
    char line[16];

    if (s->yes) {
        return 0;
    }
    if (!isatty(STDIN_FILENO)) {
        otr_errmsg_set(msg, "nothing was written: to go on add --yes");
        return OTR_DENIED;
    }
    fprintf(stderr, "Type yes to write this: ");
    if (fgets(line, sizeof line, stdin) != NULL && strcmp(line, "yes\n") == 0) {
        return 0;
    }
    otr_errmsg_set(msg, "not confirmed; nothing was written");
    return OTR_DENIED;
}

/* Only what has no settings is set up anew. */
static int check_empty(struct coord_client *c, struct otr_errmsg *msg)
{
    char key[KEY_MAX];
    uint64_t revision;
    char *value;
    int rv;

    key_config(key, c->cluster);
    rv = coord_client_get(c, key, &value, &revision, msg);
    if (rv == OTR_NOTFOUND) {
        return 0;
    }
    if (rv == 0) {
        free(value);
        otr_errmsg_set(msg, "the coordinator has cluster %s: nothing is to be set up anew", c->cluster);
        rv = OTR_EXISTS;
    }
    return rv;
}

static int bootstrap(const struct settings *s, struct loop *loop, struct survey *found, struct otr_errmsg *msg)
{
    struct cluster_view v = {.shards = NULL};
    struct coord_client c;
    struct fetch_client f;
    int rv = coord_client_open(&c, loop, &s->view.coordinator, msg);

    if (rv != 0) {
        return rv;
    }
    rv = check_empty(&c, msg);
    rv = rv != 0 ? rv : cluster_view_read(&v, loop, &s->view, msg);
    if (rv == 0 && (rv = fetch_open(&f, loop, &s->view.credentials, msg)) == 0) {
        rv = ask_all(&v, &f, found, msg);
        fetch_close(&f);
    }
    rv = rv != 0 ? rv : rebuild_all(found, s->accept_data_loss, msg);
    if (rv == 0) {
        print_plan(s->json ? stderr : stdout, found, c.cluster);
        rv = confirm(s, msg);
    }
    rv = rv != 0 ? rv : write_all(&c, found, msg);
    if (rv == 0) {
        printf(s->json ? "{\"cluster\":\"%s\",\"generation\":%llu,\"shards\":%u}\n"
                       : "cluster %s is written, generation %llu, %u shards; the sidecars follow within a second\n",
               c.cluster, (unsigned long long)found->config.generation, found->shards_count);
    }
    cluster_view_close(&v);
    coord_client_close(&c);
    return rv;
}

static int run(const struct command *command, int argc, char **argv)
{
    struct settings s = {.json = false};
    struct survey found = {.names = NULL};
    struct options_memory memory = {0};
    struct otr_errmsg msg = {0};
    struct loop loop;
    int exit_code;
    int rv;

    if (!options_read(command, argc, argv, &s, &memory, &exit_code)) {
        return exit_code;
    }
    if (!s.from_survivors) {
        fprintf(stderr, "outrigger %s: --from-survivors is needed; 'outrigger cluster init' makes a new cluster\n",
                command->name);
        options_memory_close(&memory);
        return EXIT_USAGE;
    }
    rv = loop_init(&loop, &msg);
    if (rv == 0) {
        found.names = topology_new();
        rv = found.names != NULL ? bootstrap(&s, &loop, &found, &msg) : OTR_NOMEM;
        loop_close(&loop);
    }
    if (rv != 0) {
        fprintf(stderr, "outrigger %s: %s\n", command->name, msg.text[0] != '\0' ? msg.text : otr_strerror(rv));
    }
    for (size_t i = 0; i < found.answers_count; i++) {
        cJSON_Delete(found.answers[i]);
    }
    free(found.descriptors);
    topology_free(found.names);
    options_memory_close(&memory);
    return rv == 0 ? EXIT_OK : EXIT_FAILED;
}

const struct command cluster_bootstrap_command = {
    .name = "cluster bootstrap",
    .about =
        "writes the coordinator's keys again, out of what the sidecars know, after it was emptied or replaced.\n\n"
        "The sidecars serve on meanwhile, and do not obey a coordinator that forgot the cluster. This asks all of "
        "them,\n"
        "makes each shard's descriptor from the newest that any knows, in a new generation and a higher epoch, prints\n"
        "it all and wants it confirmed. It refuses when the coordinator has the cluster's settings, and when "
        "acknowledged\n"
        "writes could be lost: a replica does not answer, or has seen a newer descriptor than anybody can show. An\n"
        "interrupted run is simply run again.",
    .examples = "  outrigger cluster bootstrap --from-survivors --endpoints http://10.0.0.5:2379\n"
                "  outrigger cluster bootstrap --from-survivors --sidecar http://10.0.0.1:7700 --yes\n",
    .options = options,
    .options_count = sizeof options / sizeof options[0],
    .run = run,
};
