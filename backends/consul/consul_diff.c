#include "backends/consul/consul_diff.h"

#include <stdlib.h>
#include <string.h>

static void marks_free(struct consul_mark *marks, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        free(marks[i].key);
    }
    free(marks);
}

int consul_state_set(struct consul_state *state, const struct otr_kv *kvs, size_t kvs_count)
{
    struct consul_mark *marks = calloc(kvs_count + 1, sizeof *marks);

    if (marks == NULL) {
        return OTR_NOMEM;
    }
    for (size_t i = 0; i < kvs_count; i++) {
        marks[i] = (struct consul_mark){
            .key = strdup(kvs[i].key), .revision = kvs[i].revision, .create_revision = kvs[i].create_revision};
        if (marks[i].key == NULL) {
            marks_free(marks, i);
            return OTR_NOMEM;
        }
    }
    consul_state_close(state);
    state->marks = marks;
    state->count = kvs_count;
    return 0;
}

void consul_state_close(struct consul_state *state)
{
    marks_free(state->marks, state->count);
    *state = (struct consul_state){0};
}

/* Of one revision, deletions come first: a key that was made again in it must end up there. */
static int by_revision(const void *a, const void *b)
{
    const struct otr_watch_event *x = a;
    const struct otr_watch_event *y = b;

    if (x->revision != y->revision) {
        return x->revision < y->revision ? -1 : 1;
    }
    if (x->type != y->type) {
        return x->type == OTR_WATCH_DELETE ? -1 : 1;
    }
    return strcmp(x->kv.key, y->kv.key);
}

static void add_delete(struct consul_changes *changes, const char *key, uint64_t revision)
{
    changes->events[changes->count++] = (struct otr_watch_event){
        .type = OTR_WATCH_DELETE,
        .kv = {.key = key, .value = "", .session = "", .revision = revision},
        .revision = revision,
    };
}

static void add_put(struct consul_changes *changes, const struct otr_kv *kv)
{
    changes->events[changes->count++] =
        (struct otr_watch_event){.type = OTR_WATCH_PUT, .kv = *kv, .revision = kv->revision};
}

static void compare(struct consul_changes *changes, const struct consul_mark *before, const struct otr_kv *now)
{
    changes->regressed =
        changes->regressed || now->revision < before->revision || now->create_revision < before->create_revision;
    if (now->create_revision != before->create_revision) {
        add_delete(changes, before->key, now->create_revision);
        add_put(changes, now);
    } else if (now->revision != before->revision) {
        add_put(changes, now);
    }
}

int consul_diff(const struct consul_state *before, const struct kv_list *now, uint64_t revision,
                struct consul_changes *changes)
{
    size_t b = 0;
    size_t n = 0;

    *changes = (struct consul_changes){.events = calloc(before->count + 2 * now->count + 1, sizeof *changes->events)};
    if (changes->events == NULL) {
        return OTR_NOMEM;
    }
    while (b < before->count || n < now->count) {
        int order = b == before->count ? 1 : n == now->count ? -1 : strcmp(before->marks[b].key, now->list[n].key);

        if (order < 0) {
            add_delete(changes, before->marks[b++].key, revision);
            changes->deleted_count++;
        } else if (order > 0) {
            add_put(changes, &now->list[n++]);
        } else {
            compare(changes, &before->marks[b++], &now->list[n++]);
        }
    }
    qsort(changes->events, changes->count, sizeof *changes->events, by_revision);
    return 0;
}

void consul_changes_close(struct consul_changes *changes)
{
    free(changes->events);
    *changes = (struct consul_changes){0};
}
