#include "sidecar/cli/cluster_document.h"

#include "sidecar/io/random.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { BATCH_KEYS = OTR_TXN_MAX - 4, BATCH_BYTES = OTR_TXN_BYTES_MAX - 8192 };

/* The part of a key below the cluster's prefix. */
static const char *relative(const struct coord_client *c, const char *key)
{
    char prefix[KEY_MAX];
    size_t bytes;

    key_prefix(prefix, c->cluster);
    bytes = strlen(prefix);
    return strncmp(key, prefix, bytes) == 0 ? key + bytes : key;
}

/* --- out ---------------------------------------------------------------------------------------------------------- */

struct exporting {
    struct coord_client *c;
    struct document *d;
    struct cluster_exported *e;
};

static int export_key(void *data, const struct otr_kv *kv, struct otr_errmsg *msg)
{
    struct exporting *x = data;
    const char *name = relative(x->c, kv->key);
    struct key key;

    key_parse(x->c->cluster, kv->key, &key);
    if (key.kind == KEY_IMPORT) {
        otr_errmsg_set(msg, "an import of cluster %s was interrupted there: run it again", x->c->cluster);
        return OTR_CONFLICT;
    }
    if (key.kind == KEY_LIVE) {
        x->e->live++;
    }
    if (kv->session[0] != '\0' || key.kind == KEY_LIVE || key.kind == KEY_LEASE || key.kind == KEY_CONTROLLER ||
        key.kind == KEY_SERVICE) {
        return 0;
    }
    if (!document_key_valid(name)) {
        x->e->skipped++;
        snprintf(x->e->skipped_name, sizeof x->e->skipped_name, "%s", name);
        return 0;
    }
    return document_add(x->d, name, kv->value, msg);
}

int cluster_export(struct coord_client *c, struct document *d, struct cluster_exported *e, struct otr_errmsg *msg)
{
    struct exporting x = {.c = c, .d = d, .e = e};
    int rv;

    *e = (struct cluster_exported){.live = 0};
    snprintf(d->cluster, sizeof d->cluster, "%s", c->cluster);
    rv = coord_client_visit(c, export_key, &x, msg);
    if (rv == 0 && document_find(d, "config") == NULL) {
        otr_errmsg_set(msg, "there is no cluster %s", c->cluster);
        rv = OTR_NOTFOUND;
    }
    rv = rv != 0 ? rv : document_sort(d, msg);
    return rv != 0 ? rv : document_check(d, msg);
}

/* --- in: what is there -------------------------------------------------------------------------------------------- */

/* The keys below the prefix before we begin. */
struct survey {
    struct coord_client *c;
    bool cluster; /* `config` is there */
    uint32_t live;
    char live_name[OTR_NAME_MAX + 1];
    uint64_t marker; /* revision of `import`; 0: there is none */
    char **left;     /* other keys, whole */
    size_t left_count, left_room;
    uint32_t strange; /* ... that are no nodes/, which sidecars put before there is a cluster */
    char strange_name[128];
};

static void survey_close(struct survey *s)
{
    for (size_t i = 0; i < s->left_count; i++) {
        free(s->left[i]);
    }
    free(s->left);
}

static int survey_keep(struct survey *s, const char *key)
{
    if (s->left_count == s->left_room) {
        size_t room = s->left_room == 0 ? 64 : s->left_room * 2;
        char **left = realloc(s->left, room * sizeof *left);

        if (left == NULL) {
            return OTR_NOMEM;
        }
        s->left = left;
        s->left_room = room;
    }
    s->left[s->left_count] = strdup(key);
    return s->left[s->left_count] != NULL ? (s->left_count++, 0) : OTR_NOMEM;
}

static int survey_key(void *data, const struct otr_kv *kv, struct otr_errmsg *msg)
{
    struct survey *s = data;
    struct key key;
    int rv;

    key_parse(s->c->cluster, kv->key, &key);
    if (key.kind == KEY_CONFIG) {
        s->cluster = true;
    } else if (key.kind == KEY_LIVE) {
        s->live++;
        snprintf(s->live_name, sizeof s->live_name, "%s", key.name);
    } else if (key.kind == KEY_IMPORT) {
        s->marker = kv->revision;
    } else if (kv->session[0] == '\0') {
        if (key.kind != KEY_NODE) {
            s->strange++;
            snprintf(s->strange_name, sizeof s->strange_name, "%s", relative(s->c, kv->key));
        }
        rv = survey_keep(s, kv->key);
        if (rv != 0) {
            otr_errmsg_set(msg, "%s", otr_strerror(rv));
            return rv;
        }
    }
    return 0;
}

static int survey_judge(const struct survey *s, struct otr_errmsg *msg)
{
    if (s->cluster) {
        otr_errmsg_set(msg, "the coordinator has a cluster %s: nothing was changed", s->c->cluster);
        return OTR_EXISTS;
    }
    if (s->live > 0) {
        otr_errmsg_set(msg,
                       "%u sidecars of cluster %s run on that coordinator, %s among them: stop them first. Nothing "
                       "was changed. (If it forgot the cluster while they served, 'outrigger cluster bootstrap "
                       "--from-survivors' knows more than a document)",
                       s->live, s->c->cluster, s->live_name);
        return OTR_INUSE;
    }
    if (s->strange > 0 && s->marker == 0) {
        otr_errmsg_set(msg,
                       "below /outrigger/%s/ there are %u keys already, %s among them, and no settings: left by an "
                       "interrupted init or by somebody else. Nothing was changed; delete them first",
                       s->c->cluster, s->strange, s->strange_name);
        return OTR_EXISTS;
    }
    return 0;
}

/* --- in: transactions --------------------------------------------------------------------------------------------- */

struct importing {
    struct coord_client *c;
    const struct document *d;
    char config_key[KEY_MAX], import_key[KEY_MAX];
    uint64_t marker; /* revision of our `import` */
    /* the batch */
    struct otr_op ops[BATCH_KEYS];
    char keys[BATCH_KEYS][KEY_MAX];
    size_t count, bytes;
};

static int came_first(const struct importing *in, struct otr_errmsg *msg)
{
    otr_errmsg_set(msg,
                   "somebody else makes cluster %s in that coordinator, too; this import gave up, and nothing of it "
                   "counts",
                   in->c->cluster);
    return OTR_CONFLICT;
}

/* Carries out what is gathered, while there are no settings and `import` is ours. */
static int batch_send(struct importing *in, struct otr_errmsg *msg)
{
    const struct otr_compare compares[] = {
        {.type = OTR_COMPARE_ABSENT, .key = in->config_key},
        {.type = OTR_COMPARE_UNMODIFIED, .key = in->import_key, .revision = in->marker},
    };
    int rv = coord_client_txn(
        in->c, &(struct otr_txn){.compares = compares, .compares_count = 2, .ops = in->ops, .ops_count = in->count},
        msg);

    in->count = 0;
    in->bytes = 0;
    if (rv == OTR_CONFLICT) {
        rv = came_first(in, msg);
    } else if (rv == OTR_UNKNOWN || rv == OTR_CANCELED) {
        otr_errmsg_wrap(msg, "interrupted, and no sidecar sees anything of it: run this again");
    }
    return rv;
}

/* `key` is whole; `value` is lent until it is sent, NULL deletes. Sends when the batch is full. */
static int batch_add(struct importing *in, const char *key, const char *value, struct otr_errmsg *msg)
{
    size_t bytes = strlen(key) + (value != NULL ? strlen(value) : 0);
    int rv = 0;

    if (in->count == BATCH_KEYS || (in->count > 0 && in->bytes + bytes > BATCH_BYTES)) {
        rv = batch_send(in, msg);
    }
    if (rv == 0) {
        snprintf(in->keys[in->count], KEY_MAX, "%s", key);
        in->ops[in->count] = (struct otr_op){.type = value != NULL ? OTR_OP_PUT : OTR_OP_DELETE,
                                             .key = in->keys[in->count],
                                             .value = value,
                                             .value_bytes = value != NULL ? strlen(value) : 0};
        in->count++;
        in->bytes += bytes;
    }
    return rv;
}

static int whole_key(const struct importing *in, const char *name, char out[KEY_MAX], struct otr_errmsg *msg)
{
    size_t bytes;

    key_prefix(out, in->c->cluster);
    bytes = strlen(out);
    if (bytes + strlen(name) >= KEY_MAX) {
        otr_errmsg_set(msg, "key \"%.100s\" is too long", name);
        return OTR_TOOBIG;
    }
    memcpy(out + bytes, name, strlen(name) + 1);
    return 0;
}

/* --- in: the steps ------------------------------------------------------------------------------------------------ */

/* Puts `import`, in place of an interrupted run's; what stands there afterwards tells whether it is ours. */
static int claim(struct importing *in, uint64_t old, struct otr_errmsg *msg)
{
    const struct otr_compare compares[] = {
        {.type = OTR_COMPARE_ABSENT, .key = in->config_key},
        {.type = old == 0 ? OTR_COMPARE_ABSENT : OTR_COMPARE_UNMODIFIED, .key = in->import_key, .revision = old},
    };
    char value[64];
    char *stands = NULL;
    int rv;

    snprintf(value, sizeof value, "{\"id\":\"%016" PRIx64 "\"}", random_u64());
    rv = coord_client_txn(in->c,
                          &(struct otr_txn){.compares = compares,
                                            .compares_count = 2,
                                            .ops = &(struct otr_op){.type = OTR_OP_PUT,
                                                                    .key = in->import_key,
                                                                    .value = value,
                                                                    .value_bytes = strlen(value)},
                                            .ops_count = 1},
                          msg);
    if (rv == OTR_CONFLICT) {
        return came_first(in, msg);
    }
    if (rv != 0 && rv != OTR_UNKNOWN) {
        return rv;
    }
    rv = coord_client_get(in->c, in->import_key, &stands, &in->marker, msg);
    if (rv == OTR_NOTFOUND) {
        otr_errmsg_set(msg, "interrupted before anything was written: run this again");
        rv = OTR_UNKNOWN;
    } else if (rv == 0 && strcmp(stands, value) != 0) {
        rv = came_first(in, msg);
    }
    free(stands);
    return rv;
}

static int write_keys(struct importing *in, const struct survey *before, struct cluster_imported *done,
                      struct otr_errmsg *msg)
{
    char key[KEY_MAX];
    int rv = 0;

    for (size_t i = 0; rv == 0 && i < before->left_count; i++) {
        if (document_find(in->d, relative(in->c, before->left[i])) == NULL) {
            rv = batch_add(in, before->left[i], NULL, msg);
            done->removed++;
        }
    }
    for (size_t i = 0; rv == 0 && i < in->d->count; i++) {
        const struct document_entry *e = &in->d->entries[i];

        rv = whole_key(in, e->key, key, msg);
        if (rv == 0 && strcmp(e->key, "config") != 0) {
            rv = batch_add(in, key, e->value, msg);
        }
    }
    return rv == 0 && in->count > 0 ? batch_send(in, msg) : rv;
}

struct looking {
    struct importing *in;
    size_t same;
};

static int look_at(void *data, const struct otr_kv *kv, struct otr_errmsg *msg)
{
    struct looking *l = data;
    const char *wanted = document_find(l->in->d, relative(l->in->c, kv->key));
    struct key key;

    key_parse(l->in->c->cluster, kv->key, &key);
    if (key.kind == KEY_IMPORT || kv->session[0] != '\0') {
        return 0;
    }
    if (wanted != NULL ? strcmp(wanted, kv->value) != 0 : key.kind != KEY_NODE) {
        otr_errmsg_set(msg,
                       "key %s is not what this import wrote: somebody else writes there. It gave up, and nothing of "
                       "it counts",
                       kv->key);
        return OTR_CONFLICT;
    }
    l->same += wanted != NULL;
    return 0;
}

/* Everything stands as the document has it, and nothing else, but for nodes/ of sidecars that wait. */
static int look(struct importing *in, struct otr_errmsg *msg)
{
    struct looking l = {.in = in};
    int rv = coord_client_visit(in->c, look_at, &l, msg);

    if (rv == 0 && l.same + 1 != in->d->count) {
        otr_errmsg_set(msg, "of %zu keys that were written %zu are there: somebody deletes them. Run this again",
                       in->d->count - 1, l.same);
        rv = OTR_CONFLICT;
    }
    return rv;
}

/* `config` for `import`. An unknown outcome is looked up: settings that are there are these ones, for others would have
 * needed `import` to be gone. */
static int finish(struct importing *in, struct otr_errmsg *msg)
{
    const char *config = document_find(in->d, "config");
    struct otr_errmsg why = {0};
    uint64_t revision;
    char *value;
    int rv;

    rv = batch_add(in, in->config_key, config, msg);
    rv = rv != 0 ? rv : batch_add(in, in->import_key, NULL, msg);
    rv = rv != 0 ? rv : batch_send(in, msg);
    if (rv == OTR_UNKNOWN && coord_client_get(in->c, in->config_key, &value, &revision, &why) == 0) {
        rv = strcmp(value, config) == 0 ? 0 : came_first(in, msg);
        free(value);
    }
    return rv;
}

int cluster_import(struct coord_client *c, const struct document *d, struct cluster_imported *done,
                   struct otr_errmsg *msg)
{
    struct survey before = {.c = c};
    struct importing *in;
    int rv;

    *done = (struct cluster_imported){.keys = d->count};
    if (strcmp(d->cluster, c->cluster) != 0) {
        otr_errmsg_set(msg, "the document is of cluster %s, not of %s (--cluster): nothing was changed", d->cluster,
                       c->cluster);
        return OTR_INVALID;
    }
    in = calloc(1, sizeof *in);
    if (in == NULL) {
        otr_errmsg_set(msg, "%s", otr_strerror(OTR_NOMEM));
        return OTR_NOMEM;
    }
    in->c = c;
    in->d = d;
    key_config(in->config_key, c->cluster);
    key_import(in->import_key, c->cluster);
    rv = document_check(d, msg);
    rv = rv != 0 ? rv : coord_client_visit(c, survey_key, &before, msg);
    rv = rv != 0 ? rv : survey_judge(&before, msg);
    rv = rv != 0 ? rv : claim(in, before.marker, msg);
    rv = rv != 0 ? rv : write_keys(in, &before, done, msg);
    rv = rv != 0 ? rv : look(in, msg);
    rv = rv != 0 ? rv : finish(in, msg);
    survey_close(&before);
    free(in);
    return rv;
}
