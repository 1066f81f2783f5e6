#include "sidecar/cli/fetch.h"

#include <stdlib.h>
#include <string.h>

struct fetch_batch {
    size_t left;
    bool done;
};

int fetch_open(struct fetch_client *f, struct loop *loop, struct otr_errmsg *msg)
{
    const struct http_client_config config = {.connect_timeout_ms = 0};

    f->loop = loop;
    return http_client_new(&f->http, &loop->uv, &config, msg);
}

static void close_done(void *data)
{
    *(bool *)data = true;
}

void fetch_close(struct fetch_client *f)
{
    bool done = false;

    http_client_close(f->http, close_done, &done);
    loop_finish(f->loop, &done, 0);
}

static void request_done(struct http_request *req, int status, const struct http_response *response,
                         const struct otr_errmsg *msg)
{
    struct fetch *fetch = req->data;

    fetch->status = status;
    if (status == 0) {
        fetch->http_status = response->status;
        fetch->body = strdup(response->body);
        fetch->status = fetch->body != NULL ? 0 : OTR_NOMEM;
    } else {
        otr_errmsg_set(&fetch->msg, "%s", msg != NULL && msg->text[0] != '\0' ? msg->text : otr_strerror(status));
    }
    fetch->batch->left--;
    fetch->batch->done = fetch->batch->left == 0;
}

void fetch_all(struct fetch_client *f, struct fetch *fetches, size_t count, uint32_t timeout_ms)
{
    struct fetch_batch batch = {.left = count, .done = count == 0};

    for (size_t i = 0; i < count; i++) {
        struct fetch *fetch = &fetches[i];

        fetch->batch = &batch;
        fetch->http_status = 0;
        fetch->body = NULL;
        fetch->request =
            (struct http_request){.method = "GET", .url = fetch->url, .timeout_ms = timeout_ms, .data = fetch};
        fetch->status = http_client_start(f->http, &fetch->request, request_done);
        if (fetch->status != 0) {
            otr_errmsg_set(&fetch->msg, "%s: %s", fetch->url, otr_strerror(fetch->status));
            batch.left--;
            batch.done = batch.left == 0;
        }
    }
    loop_finish(f->loop, &batch.done, 0);
}

void fetch_clear(struct fetch *fetches, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        free(fetches[i].body);
        fetches[i].body = NULL;
    }
}
