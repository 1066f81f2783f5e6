/* Entries that a replica of ours is about to give up although they may have been acknowledged (PROTOCOL A7, V7): which
 * ones they are is written to a file of its own and synced, before the core lets go of them; /cluster/losses shows it.
 *
 * <data>/losses/<shard>-<epoch>-<log id>.json, one JSON object:
 *   {"node", "shard", "log": H, "epoch": the one that began without them, "first", "last": indexes, "noted_ms",
 *    "entries": [{"epoch", "index", "time_ms", "request_id": 32 hex digits, "kind": "put" | "delete" | "drop",
 *                 "collection": H, "name": of the collection if it is known, "ids": [...]}, ...],
 *    "unlisted": [{"first", "last"}] of those that cannot be listed: compaction took them, or they came as a seed}
 * Counters are decimal strings where they may exceed 2^53 (epochs, indexes). Entries without points (the beginnings of
 * epochs) are left out.
 *
 * Happy path: entries are read in pieces off the loop, made into text on it (the collections' names are the view's),
 * written off it; then sync, rename, sync of the directory. Failures: the core hears it, waits a second and asks again;
 * the half-written file has another name. A second attempt writes the same file. */
#include "sidecar/node/node_internal.h"

#include "sidecar/io/log.h"

#include <cjson/cJSON.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { LOSS_CHUNK_BYTES = 256 << 10, LOSS_PATH_MAX = 700, LOSS_FILES_BYTES_MAX = 32 << 20 };

/* --- writing ------------------------------------------------------------------------------------------------------ */

struct loss_job {
    struct node_work work;
    struct shard *shard;
    uint64_t first, next, last, epoch;
    uint64_t unlisted_first, unlisted; /* of these none can be listed; 0: all can */
    char directory[LOSS_PATH_MAX], path[LOSS_PATH_MAX + 80], partial[LOSS_PATH_MAX + 88];
    int fd; /* -1: not open yet */
    struct journal_reader *reader;
    char *text; /* to be written */
    size_t text_bytes, text_capacity;
    bool ending;
    bool any; /* an entry was written */
    int status;
    struct otr_errmsg msg;
};

static void text_add(struct loss_job *j, const char *text)
{
    size_t bytes = strlen(text);

    if (j->text_bytes + bytes > j->text_capacity) {
        size_t capacity = (j->text_bytes + bytes) * 2;
        char *grown = realloc(j->text, capacity);

        if (grown == NULL) {
            j->status = OTR_NOMEM;
            return;
        }
        j->text = grown;
        j->text_capacity = capacity;
    }
    memcpy(j->text + j->text_bytes, text, bytes);
    j->text_bytes += bytes;
}

static bool add_text(cJSON *json, const char *name, const char *format, unsigned long long v)
{
    char text[40];

    snprintf(text, sizeof text, format, v);
    return cJSON_AddStringToObject(json, name, text) != NULL;
}

static bool add_ids(cJSON *json, const struct record_header *h, const uint8_t *body, uint64_t *collection)
{
    cJSON *ids = cJSON_AddArrayToObject(json, "ids");
    struct body_iter it;
    struct otr_point p;

    if (ids == NULL || body_iter_init(&it, h->kind, body, h->body_bytes) != 0) {
        return false;
    }
    *collection = it.collection;
    while (body_next(&it, &p) == 0) {
        char id[OTR_POINT_ID_MAX + 1];
        cJSON *item;

        if (p.id_bytes > OTR_POINT_ID_MAX) {
            return false;
        }
        memcpy(id, p.id, p.id_bytes);
        id[p.id_bytes] = '\0';
        item = cJSON_CreateString(id);
        if (item == NULL || !cJSON_AddItemToArray(ids, item)) {
            return false;
        }
    }
    return true;
}

static const char *kind_name(uint16_t kind)
{
    return kind == RECORD_PUT ? "put" : kind == RECORD_DELETE ? "delete" : "drop";
}

static void add_entry(struct loss_job *j, const struct record_header *h, const uint8_t *body)
{
    static const char digits[] = "0123456789abcdef";
    char request[2 * sizeof h->request_id + 1];
    cJSON *json = cJSON_CreateObject();
    uint64_t collection = 0;
    const char *name;
    char *text = NULL;
    bool ok;

    for (size_t i = 0; i < sizeof h->request_id; i++) {
        uint8_t byte = ((const uint8_t *)&h->request_id)[i];

        request[2 * i] = digits[byte >> 4];
        request[2 * i + 1] = digits[byte & 15];
    }
    request[sizeof request - 1] = '\0';
    ok = add_text(json, "epoch", "%llu", h->epoch) && add_text(json, "index", "%llu", h->index) &&
         cJSON_AddNumberToObject(json, "time_ms", (double)h->time_ms) != NULL &&
         cJSON_AddStringToObject(json, "request_id", request) != NULL &&
         cJSON_AddStringToObject(json, "kind", kind_name(h->kind)) != NULL && add_ids(json, h, body, &collection) &&
         add_text(json, "collection", "%016llx", collection);
    name = collections_name(j->shard->node, collection);
    if (ok && name != NULL) {
        ok = cJSON_AddStringToObject(json, "name", name) != NULL;
    }
    text = ok ? cJSON_PrintUnformatted(json) : NULL;
    if (text == NULL) {
        j->status = OTR_NOMEM;
    } else {
        text_add(j, j->any ? ",\n" : "\n");
        text_add(j, text);
        j->any = true;
    }
    cJSON_free(text);
    cJSON_Delete(json);
}

static void add_entries(struct loss_job *j, const struct journal_bytes *entries)
{
    size_t offset = 0;

    while (j->status == 0 && offset < entries->bytes) {
        struct record_header h;

        j->status = record_read(entries->data + offset, entries->bytes - offset, &h);
        if (j->status == 0 && h.kind != RECORD_EPOCH) {
            add_entry(j, &h, entries->data + offset + RECORD_HEADER_BYTES);
        }
        offset += record_bytes(h.body_bytes);
    }
}

static void add_head(struct loss_job *j)
{
    const struct shard *s = j->shard;
    struct timespec now;
    char text[400];

    clock_gettime(CLOCK_REALTIME, &now);
    snprintf(text, sizeof text,
             "{\"node\":\"%s\",\"shard\":%u,\"log\":\"%016llx\",\"epoch\":\"%llu\",\"first\":\"%llu\","
             "\"last\":\"%llu\",\"noted_ms\":%lld,\"entries\":[",
             s->node->name, s->id, (unsigned long long)s->meta.log_id, (unsigned long long)j->epoch,
             (unsigned long long)j->first, (unsigned long long)j->last,
             (long long)now.tv_sec * 1000 + now.tv_nsec / 1000000);
    text_add(j, text);
}

static void add_end(struct loss_job *j)
{
    char text[100] = "\n],\"unlisted\":[]}\n";

    if (j->unlisted != 0) {
        snprintf(text, sizeof text, "\n],\"unlisted\":[{\"first\":\"%llu\",\"last\":\"%llu\"}]}\n",
                 (unsigned long long)j->unlisted_first, (unsigned long long)j->unlisted);
    }
    text_add(j, text);
}

static int failed(struct loss_job *j, const char *what)
{
    j->status = errno == ENOSPC ? OTR_NOSPACE : OTR_IO;
    otr_errmsg_set(&j->msg, "%s %s: %s", what, j->partial, strerror(errno));
    return j->status;
}

static int sync_directory(struct loss_job *j, const char *path)
{
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    if (fd < 0 || fsync(fd) != 0) {
        (void)failed(j, "sync the directory of");
    }
    if (fd >= 0) {
        close(fd);
    }
    return j->status;
}

static int file_open(struct loss_job *j)
{
    if (mkdir(j->directory, 0700) == 0) {
        if (sync_directory(j, j->shard->node->data_dir) != 0) {
            return j->status;
        }
    } else if (errno != EEXIST) {
        return failed(j, "make the directory of");
    }
    j->fd = open(j->partial, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    return j->fd < 0 ? failed(j, "open") : 0;
}

static void file_write(struct loss_job *j)
{
    size_t done = 0;

    while (done < j->text_bytes) {
        ssize_t got = write(j->fd, j->text + done, j->text_bytes - done);

        if (got < 0 && errno == EINTR) {
            continue;
        }
        if (got <= 0) {
            (void)failed(j, "write");
            return;
        }
        done += (size_t)got;
    }
    j->text_bytes = 0;
}

static void loss_run(struct node_work *w)
{
    struct loss_job *j = (struct loss_job *)w;

    if (j->fd < 0 && file_open(j) != 0) {
        return;
    }
    file_write(j);
    if (j->status == 0 && j->reader != NULL) {
        j->status = journal_reader_run(j->reader, &j->msg);
    }
    if (j->status == 0 && j->ending) {
        if (fdatasync(j->fd) != 0) {
            (void)failed(j, "sync");
        } else if (rename(j->partial, j->path) != 0) {
            (void)failed(j, "rename");
        } else {
            (void)sync_directory(j, j->directory);
        }
    }
}

static void loss_end(struct loss_job *j)
{
    struct shard *s = j->shard;
    struct replica_event ev = {.type = REPLICA_EV_LOSS_NOTED, .loss_noted = {.first = j->first, .ok = j->status == 0}};

    if (j->status != 0) {
        log_error(s->subject, "cannot note which entries are lost: %s; trying on",
                  j->msg.text[0] != '\0' ? j->msg.text : otr_strerror(j->status));
    } else {
        log_warn(s->subject, "entries %llu to %llu are lost, epoch %llu began without them: %s lists them",
                 (unsigned long long)j->first, (unsigned long long)j->last, (unsigned long long)j->epoch, j->path);
    }
    if (j->fd >= 0) {
        close(j->fd);
    }
    if (j->reader != NULL) {
        journal_reader_free(j->reader);
    }
    free(j->text);
    free(j);
    shard_feed(s, &ev);
}

static void loss_done(struct node_work *w);

/* What compaction has taken, or came as a seed, cannot be listed; the rest is. */
static bool skip_compacted(struct loss_job *j)
{
    struct journal_shard_state state;
    uint64_t first = j->last + 1;

    if (journal_shard(j->shard->node->journal, j->shard->id, &state) == 0 ||
        (state.first.index != 0 && state.first.index <= j->next)) {
        return false;
    }
    if (state.first.index != 0 && state.first.index < first) {
        first = state.first.index;
    }
    log_warn(j->shard->subject, "of the entries that are lost %llu to %llu are compacted and cannot be listed",
             (unsigned long long)j->next, (unsigned long long)first - 1);
    j->unlisted_first = j->unlisted == 0 ? j->next : j->unlisted_first;
    j->unlisted = first - 1;
    j->next = first;
    return true;
}

static void loss_go(struct loss_job *j)
{
    struct node *n = j->shard->node;

    if (j->status == 0 && j->next <= j->last) {
        struct journal_bytes entries = {0};

        j->status = journal_read(n->journal, j->shard->id, j->next, j->last, LOSS_CHUNK_BYTES, &entries);
        if (j->status == OTR_GONE && skip_compacted(j)) {
            j->status = 0;
            loss_go(j);
            return;
        }
        if (j->status == 0) {
            add_entries(j, &entries);
            j->next = entries.last + 1;
            free(entries.data);
        } else if (j->status == OTR_UNAVAIL) {
            j->reader = journal_reader_new(n->journal);
            j->status = j->reader == NULL
                            ? OTR_NOMEM
                            : journal_reader_entries(j->reader, j->shard->id, j->next, j->last, LOSS_CHUNK_BYTES);
        }
    } else if (j->status == 0) {
        j->ending = true;
        add_end(j);
    }
    if (j->status != 0) {
        loss_end(j);
        return;
    }
    node_work_start(n, &j->work, loss_run, loss_done);
}

static void loss_done(struct node_work *w)
{
    struct loss_job *j = (struct loss_job *)w;

    if (j->status == 0 && j->reader != NULL) {
        const struct journal_bytes *entries = journal_reader_result(j->reader);

        add_entries(j, entries);
        j->next = entries->last + 1;
        journal_reader_free(j->reader);
        j->reader = NULL;
    }
    if (j->status != 0 || j->ending || j->shard->node->closing) {
        j->status = j->status == 0 && !j->ending ? OTR_CANCELED : j->status;
        loss_end(j);
        return;
    }
    loss_go(j);
}

void loss_note(struct shard *s, const struct replica_action *a)
{
    struct loss_job *j = calloc(1, sizeof *j);

    if (j == NULL) {
        node_fatal(s->node, "shard %u: out of memory", s->id);
        return;
    }
    *j = (struct loss_job){.shard = s,
                           .first = a->note_loss.first,
                           .next = a->note_loss.first,
                           .last = a->note_loss.last,
                           .epoch = a->note_loss.epoch,
                           .fd = -1};
    snprintf(j->directory, sizeof j->directory, "%s/losses", s->node->data_dir);
    snprintf(j->path, sizeof j->path, "%s/%u-%llu-%016llx.json", j->directory, s->id, (unsigned long long)j->epoch,
             (unsigned long long)s->meta.log_id);
    snprintf(j->partial, sizeof j->partial, "%s.partial", j->path);
    add_head(j);
    loss_go(j);
}

/* --- reading ------------------------------------------------------------------------------------------------------ */

struct losses_job {
    struct node_work work;
    struct node *node;
    char *text;
    size_t bytes;
    int status;
    node_losses_cb cb;
    void *data;
};

static int take_file(struct losses_job *j, const char *path)
{
    FILE *file = fopen(path, "re");
    struct stat st;
    char *grown;
    size_t got;

    if (file == NULL || fstat(fileno(file), &st) != 0 || st.st_size > LOSS_FILES_BYTES_MAX ||
        j->bytes + (size_t)st.st_size > LOSS_FILES_BYTES_MAX) {
        if (file != NULL) {
            fclose(file);
        }
        return file != NULL ? OTR_TOOBIG : OTR_IO;
    }
    grown = realloc(j->text, j->bytes + (size_t)st.st_size + 2);
    if (grown == NULL) {
        fclose(file);
        return OTR_NOMEM;
    }
    j->text = grown;
    if (j->bytes > 0) {
        j->text[j->bytes++] = ',';
    }
    got = fread(j->text + j->bytes, 1, (size_t)st.st_size, file);
    j->bytes += got;
    j->text[j->bytes] = '\0';
    fclose(file);
    return got == (size_t)st.st_size ? 0 : OTR_IO;
}

static int is_record(const struct dirent *entry)
{
    size_t bytes = strlen(entry->d_name);

    return bytes > 5 && strcmp(entry->d_name + bytes - 5, ".json") == 0;
}

static void losses_run(struct node_work *w)
{
    struct losses_job *j = (struct losses_job *)w;
    char path[LOSS_PATH_MAX + 300];
    struct dirent **names = NULL;
    int count;

    snprintf(path, sizeof path, "%s/losses", j->node->data_dir);
    count = scandir(path, &names, is_record, alphasort);
    if (count < 0) {
        j->status = errno == ENOENT ? 0 : OTR_IO;
        return;
    }
    for (int i = 0; i < count; i++) {
        snprintf(path, sizeof path, "%s/losses/%s", j->node->data_dir, names[i]->d_name);
        j->status = j->status != 0 ? j->status : take_file(j, path);
        free(names[i]);
    }
    free(names);
}

static void losses_done(struct node_work *w)
{
    struct losses_job *j = (struct losses_job *)w;

    j->cb(j->data, j->status, j->text != NULL ? j->text : "");
    free(j->text);
    free(j);
}

int node_losses(struct node *n, node_losses_cb cb, void *data)
{
    struct losses_job *j = calloc(1, sizeof *j);

    if (j == NULL) {
        return OTR_NOMEM;
    }
    *j = (struct losses_job){.node = n, .cb = cb, .data = data};
    node_work_start(n, &j->work, losses_run, losses_done);
    return 0;
}
