#include "sidecar/cli/fetch.h"

#include "sidecar/coord/fields.h"

#include <stdlib.h>
#include <string.h>

struct fetch_batch {
    size_t left;
    bool done;
};

int fetch_open(struct fetch_client *f, struct loop *loop, const struct credentials_settings *credentials,
               struct otr_errmsg *msg)
{
    static const struct credentials_settings none;
    struct http_client_config config = {.connect_timeout_ms = 0};
    int rv;

    credentials = credentials != NULL ? credentials : &none;
    *f = (struct fetch_client){.loop = loop};
    rv = credentials_http(credentials, &config, msg);
    rv = rv != 0 ? rv : credentials_header(credentials, f->authorization, msg);
    f->headers[0] = f->authorization[0] != '\0' ? f->authorization : NULL;
    return rv != 0 ? rv : http_client_new(&f->http, &loop->uv, &config, msg);
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
    explicit_bzero(f->authorization, sizeof f->authorization);
}

void fetch_refusal(const struct fetch *fetch, struct otr_errmsg *msg)
{
    cJSON *json = cJSON_Parse(fetch->body != NULL ? fetch->body : "");
    const char *words = cJSON_GetStringValue(field_find(field_find(json, "error"), "message"));

    otr_errmsg_set(msg, "%s%s%ld%s", words != NULL ? words : "", words != NULL ? " (HTTP status " : "HTTP status ",
                   fetch->http_status, words != NULL ? ")" : "");
    cJSON_Delete(json);
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
        fetch->request = (struct http_request){
            .method = fetch->method != NULL ? fetch->method : "GET",
            .url = fetch->url,
            .headers = f->headers,
            .body = fetch->send,
            .body_bytes = fetch->send != NULL ? strlen(fetch->send) : 0,
            .timeout_ms = timeout_ms,
            .data = fetch,
        };
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
