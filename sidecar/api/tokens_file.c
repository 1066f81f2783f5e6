#include "sidecar/api/tokens_file.h"

#include "sidecar/io/log.h"

#include <stdlib.h>
#include <string.h>

struct tokens_file {
    uv_loop_t *loop;
    uv_timer_t timer;
    uv_work_t work;
    char *path;
    struct tokens *current;
    uint8_t digest[TOKENS_HASH_BYTES]; /* of the file that `current` was read from */
    char complaint[OTR_ERRMSG_MAX];    /* about the file now, "": none */
    uint64_t reloads;
    bool reading;
    bool timer_closed;
    bool closing;
    void (*close_cb)(void *data);
    void *close_data;
    /* The thread pool's while `reading`. */
    struct tokens *found;
    uint8_t found_digest[TOKENS_HASH_BYTES];
    int found_status;
    struct otr_errmsg found_msg;
};

static void finish(struct tokens_file *f)
{
    void (*cb)(void *data) = f->close_cb;
    void *data = f->close_data;

    if (!f->closing || f->reading || !f->timer_closed) {
        return;
    }
    free(f->current);
    free(f->path);
    free(f);
    cb(data);
}

static void on_work(uv_work_t *work)
{
    struct tokens_file *f = work->data;

    f->found_msg = (struct otr_errmsg){0};
    f->found_status = tokens_read(f->path, &f->found, f->found_digest, &f->found_msg);
}

static void complain(struct tokens_file *f)
{
    const char *why = f->found_msg.text[0] != '\0' ? f->found_msg.text : otr_strerror(f->found_status);

    if (strcmp(f->complaint, why) != 0) {
        snprintf(f->complaint, sizeof f->complaint, "%s", why);
        log_error("", "tokens: %s; the %zu tokens read before stay in force", why, f->current->count);
    }
}

static void take(struct tokens_file *f)
{
    bool changed = memcmp(f->digest, f->found_digest, sizeof f->digest) != 0;

    if (changed) {
        free(f->current);
        f->current = f->found;
        memcpy(f->digest, f->found_digest, sizeof f->digest);
        f->reloads++;
        log_info("", "tokens: %s changed: %zu tokens are in force now", f->path, f->current->count);
    } else {
        free(f->found);
        if (f->complaint[0] != '\0') {
            log_info("", "tokens: %s is as it was again", f->path);
        }
    }
    f->complaint[0] = '\0';
}

static void on_read(uv_work_t *work, int status)
{
    struct tokens_file *f = work->data;

    f->reading = false;
    if (status != 0) { /* Cancelled: on_work never ran. */
        finish(f);
        return;
    }
    if (f->closing && f->found_status == 0) {
        free(f->found);
    } else if (f->found_status == 0) {
        take(f);
    } else if (!f->closing) {
        complain(f);
    }
    f->found = NULL;
    finish(f);
}

static void on_timer(uv_timer_t *timer)
{
    struct tokens_file *f = timer->data;

    if (!f->reading) {
        f->reading = uv_queue_work(f->loop, &f->work, on_work, on_read) == 0;
    }
}

int tokens_file_open(struct tokens_file **out, uv_loop_t *loop, const char *path, struct otr_errmsg *msg)
{
    struct tokens_file *f = calloc(1, sizeof *f);
    int rv = OTR_NOMEM;

    if (f == NULL) {
        return OTR_NOMEM;
    }
    f->loop = loop;
    f->work.data = f;
    f->timer.data = f;
    f->path = strdup(path);
    if (f->path == NULL) {
        goto err;
    }
    rv = tokens_read(path, &f->current, f->digest, msg);
    if (rv != 0) {
        goto err;
    }
    uv_timer_init(loop, &f->timer);
    uv_timer_start(&f->timer, on_timer, TOKENS_FILE_INTERVAL_MS, TOKENS_FILE_INTERVAL_MS);
    *out = f;
    return 0;

err:
    free(f->path);
    free(f);
    return rv;
}

const struct tokens *tokens_file_current(const struct tokens_file *f)
{
    return f->current;
}

bool tokens_file_fresh(const struct tokens_file *f)
{
    return f->complaint[0] == '\0';
}

uint64_t tokens_file_reloads(const struct tokens_file *f)
{
    return f->reloads;
}

static void on_timer_closed(uv_handle_t *handle)
{
    struct tokens_file *f = handle->data;

    f->timer_closed = true;
    finish(f);
}

void tokens_file_close(struct tokens_file *f, void (*cb)(void *data), void *data)
{
    f->closing = true;
    f->close_cb = cb;
    f->close_data = data;
    if (f->reading) {
        (void)uv_cancel((uv_req_t *)&f->work); /* EBUSY: it runs, and ends soon. */
    }
    uv_close((uv_handle_t *)&f->timer, on_timer_closed);
}
