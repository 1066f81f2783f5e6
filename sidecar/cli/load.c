/* Happy path: `concurrency` slots each take the next lines of the file, send them as one PUT and take the next. The
 * loop is ours alone, so the file is read on it.
 *
 * Failures: a broken connection, a timeout or a 5xx is tried again at the next endpoint with the same request id, so
 * that it takes effect once; for at most RETRY_MS. A batch that is refused for good (4xx) is halved until the lines are
 * found that it was refused for; nothing of a refused request was applied, so its halves are new requests. */
#include "sidecar/cli/load.h"

#include "sidecar/cli/credentials.h"
#include "sidecar/cli/load_lines.h"
#include "sidecar/cli/loop.h"
#include "sidecar/coord/fields.h"
#include "sidecar/core/score.h"
#include "sidecar/io/clock.h"
#include "sidecar/io/http_client.h"
#include "sidecar/io/random.h"

#include <assert.h>
#include <inttypes.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
    ENDPOINTS_MAX = 64,
    CONCURRENCY_MAX = 256,
    HALVES_MAX = 32,
    URL_MAX = 512,
    REQUEST_TIMEOUT_MS = 30000,
    RETRY_MS = 60000,
    BACKOFF_MS_FIRST = 20,
    BACKOFF_MS_MAX = 1000,
    FAILURES_SHOWN = 20,
    FAILURES_MAX = 1000, /* so many lines refused: the rest will be no better */
    TICK_MS = 250,
    BAR_WIDTH = 30,
};

struct settings {
    const char *collection;
    const char *file;
    const char *endpoint;
    uint32_t batch;
    uint32_t concurrency;
    uint32_t create_dimension;
    const char *metric;
    struct credentials_settings credentials;
};

/* Lines first..last-1 of the slot's batch, still to be sent. */
struct part {
    uint32_t first, last;
};

struct slot {
    struct load *load;
    struct load_lines batch;
    struct part parts[HALVES_MAX]; /* a stack; the top one is under way */
    uint32_t parts_count;
    bool busy;
    uint32_t endpoint;
    uint64_t began_ms;
    uint32_t backoff_ms;
    char url[URL_MAX];
    char id_header[64];
    const char *headers[4];
    char *body;
    struct http_request request;
    uv_timer_t retry;
};

struct load {
    const struct settings *settings;
    struct loop loop;
    struct http_client *http;
    char authorization[CREDENTIALS_HEADER_BYTES]; /* a header line, or "" */
    char *endpoints[ENDPOINTS_MAX];
    uint32_t endpoints_count;
    struct load_reader reader;
    uint64_t file_bytes; /* 0: unknown */
    struct slot *slots;
    uint32_t busy_count;
    bool at_end;
    bool done;
    int fatal; /* why nothing more is read: OTR_... */
    uint64_t began_ms;
    uint64_t points, failures, retries;
    uv_timer_t tick;
    bool terminal;
};

static void slot_next(struct slot *s);

/* --- telling ------------------------------------------------------------------------------------------------------ */

static void print_progress(struct load *l)
{
    uint64_t ms = clock_now_ms() - l->began_ms + 1;
    double part = l->file_bytes != 0 ? (double)l->reader.bytes / (double)l->file_bytes : 0;
    char bar[BAR_WIDTH + 1];

    if (!l->terminal) {
        return;
    }
    part = part > 1 ? 1 : part;
    memset(bar, '.', BAR_WIDTH);
    memset(bar, '#', (size_t)(part * BAR_WIDTH));
    bar[BAR_WIDTH] = '\0';
    if (l->file_bytes != 0) {
        fprintf(stderr, "\r[%s] %3.0f%%", bar, part * 100);
    } else {
        fprintf(stderr, "\r");
    }
    fprintf(stderr, "  %" PRIu64 " points  %.0f/s  %" PRIu64 " retries \x1b[K", l->points,
            (double)l->points * 1000 / (double)ms, l->retries);
}

static void on_tick(uv_timer_t *timer)
{
    print_progress(timer->data);
}

static void clear_progress(const struct load *l)
{
    if (l->terminal) {
        fprintf(stderr, "\r\x1b[K");
    }
}

static void fail_line(struct load *l, uint64_t line, const char *why)
{
    l->failures++;
    if (l->failures <= FAILURES_SHOWN) {
        clear_progress(l);
        fprintf(stderr, "%s:%" PRIu64 ": %s\n", l->settings->file, line, why);
    } else if (l->failures == FAILURES_SHOWN + 1) {
        clear_progress(l);
        fprintf(stderr, "more failures are only counted\n");
    }
    if (l->failures == FAILURES_MAX && l->fatal == 0) {
        fprintf(stderr, "%d lines failed: reading no further\n", FAILURES_MAX);
        l->fatal = OTR_INVALID;
    }
}

/* "message (code)" of an error answer, or what there is of it. */
static void error_text(const struct http_response *response, char *out, size_t bytes)
{
    cJSON *json = cJSON_Parse(response->body);
    const cJSON *error = field_find(json, "error");
    const char *message = cJSON_GetStringValue(field_find(error, "message"));

    snprintf(out, bytes, "%s (HTTP status %ld)", message != NULL ? message : "refused", response->status);
    cJSON_Delete(json);
}

/* --- sending ------------------------------------------------------------------------------------------------------ */

static void new_request_id(struct slot *s)
{
    uint64_t high = random_u64();
    uint64_t low = random_u64();

    snprintf(s->id_header, sizeof s->id_header, "Outrigger-Request-Id: %016" PRIx64 "%016" PRIx64, high, low);
    s->began_ms = clock_now_ms();
    s->backoff_ms = BACKOFF_MS_FIRST;
}

static void slot_idle(struct slot *s)
{
    struct load *l = s->load;

    if (s->busy) {
        s->busy = false;
        l->busy_count--;
    }
    l->done = l->busy_count == 0 && (l->at_end || l->fatal != 0);
}

static void put_done(struct http_request *req, int status, const struct http_response *response,
                     const struct otr_errmsg *msg);

static int slot_send(struct slot *s)
{
    struct load *l = s->load;
    const struct part *part = &s->parts[s->parts_count - 1];

    if (s->body == NULL) {
        s->body = load_lines_body(&s->batch, part->first, part->last, &s->request.body_bytes);
        if (s->body == NULL) {
            return OTR_NOMEM;
        }
    }
    snprintf(s->url, sizeof s->url, "%s/collections/%s/points", l->endpoints[s->endpoint], l->settings->collection);
    s->headers[0] = "Content-Type: application/json";
    s->headers[1] = s->id_header;
    s->headers[2] = l->authorization[0] != '\0' ? l->authorization : NULL;
    s->request.method = "PUT";
    s->request.url = s->url;
    s->request.headers = s->headers;
    s->request.body = s->body;
    s->request.body_borrowed = true;
    s->request.timeout_ms = REQUEST_TIMEOUT_MS;
    s->request.data = s;
    return http_client_start(l->http, &s->request, put_done);
}

static void part_drop(struct slot *s)
{
    free(s->body);
    s->body = NULL;
    s->parts_count--;
    if (s->parts_count > 0) {
        new_request_id(s);
    }
}

static void part_drop_failed(struct slot *s, const char *why)
{
    struct part part = s->parts[s->parts_count - 1];

    for (uint32_t i = part.first; i < part.last; i++) {
        fail_line(s->load, s->batch.numbers[i], why);
    }
    part_drop(s);
}

/* The part on top is over: the next one, or the next batch. */
static void part_over(struct slot *s)
{
    part_drop(s);
    slot_next(s);
}

static void part_failed(struct slot *s, const char *why)
{
    part_drop_failed(s, why);
    slot_next(s);
}

static void on_retry(uv_timer_t *timer)
{
    slot_next(timer->data);
}

static void try_again(struct slot *s, const char *why)
{
    struct load *l = s->load;

    if (l->loop.interrupted != 0 || clock_now_ms() - s->began_ms > RETRY_MS) {
        part_failed(s, why);
        return;
    }
    l->retries++;
    s->endpoint = (s->endpoint + 1) % l->endpoints_count;
    uv_timer_start(&s->retry, on_retry, s->backoff_ms, 0);
    s->backoff_ms = s->backoff_ms * 2 < BACKOFF_MS_MAX ? s->backoff_ms * 2 : BACKOFF_MS_MAX;
}

static void halve(struct slot *s)
{
    struct part *part = &s->parts[s->parts_count - 1];
    uint32_t middle = part->first + (part->last - part->first) / 2;

    assert(s->parts_count < HALVES_MAX);
    s->parts[s->parts_count++] = (struct part){.first = part->first, .last = middle};
    part->first = middle;
    free(s->body);
    s->body = NULL;
    new_request_id(s);
    slot_next(s);
}

static void put_done(struct http_request *req, int status, const struct http_response *response,
                     const struct otr_errmsg *msg)
{
    struct slot *s = req->data;
    struct load *l = s->load;
    struct part part = s->parts[s->parts_count - 1];
    char why[OTR_ERRMSG_MAX];

    if (status != 0) {
        try_again(s, msg->text[0] != '\0' ? msg->text : otr_strerror(status));
        return;
    }
    if (response->status == 200) {
        l->points += part.last - part.first;
        part_over(s);
        return;
    }
    error_text(response, why, sizeof why);
    if (response->status >= 500 || response->status == 429 || response->status == 408) {
        try_again(s, why);
    } else if (response->status == 404 || response->status == 401 || response->status == 403) {
        /* The collection or the token: each line would be told the same. */
        if (l->fatal == 0) {
            clear_progress(l);
            fprintf(stderr, "outrigger load: collection %s: %s%s\n", l->settings->collection, why,
                    response->status == 404 ? "; --create-dimension makes it" : "");
        }
        l->fatal = response->status == 404 ? OTR_NOTFOUND : OTR_DENIED;
        l->failures += part.last - part.first;
        part_over(s);
    } else if (part.last - part.first > 1) {
        halve(s);
    } else {
        part_failed(s, why);
    }
}

/* The next lines; false when there are none. */
static bool read_batch(struct slot *s)
{
    struct load *l = s->load;
    struct otr_errmsg msg = {0};
    int rv = OTR_INVALID;

    while (rv == OTR_INVALID && l->fatal == 0) {
        rv = load_lines_read(&l->reader, &s->batch, l->settings->batch, &msg);
        if (rv == OTR_INVALID) {
            fail_line(l, l->reader.line, msg.text);
            if (s->batch.count > 0) {
                return true;
            }
        }
    }
    if (rv != 0 && rv != OTR_INVALID) {
        fail_line(l, l->reader.line + 1, msg.text);
        l->fatal = rv;
    }
    return rv == 0 && s->batch.count > 0;
}

/* Sends the part on top, or the next batch. A loop, as each of many batches may fail to be sent. */
static void slot_next(struct slot *s)
{
    struct load *l = s->load;
    int rv;

    do {
        if (s->parts_count == 0) {
            if (l->fatal != 0 || l->loop.interrupted != 0 || !read_batch(s)) {
                l->at_end = true;
                slot_idle(s);
                return;
            }
            s->parts[s->parts_count++] = (struct part){.first = 0, .last = s->batch.count};
            new_request_id(s);
        }
        rv = slot_send(s);
        if (rv != 0) {
            part_drop_failed(s, otr_strerror(rv));
        }
    } while (rv != 0);
}

/* --- the collection ----------------------------------------------------------------------------------------------- */

struct making {
    bool done;
    int status;
    long http_status;
    char why[OTR_ERRMSG_MAX];
};

static void make_done(struct http_request *req, int status, const struct http_response *response,
                      const struct otr_errmsg *msg)
{
    struct making *m = req->data;

    m->done = true;
    m->status = status;
    m->http_status = response->status;
    if (status != 0) {
        snprintf(m->why, sizeof m->why, "%s", msg->text[0] != '\0' ? msg->text : otr_strerror(status));
    } else {
        error_text(response, m->why, sizeof m->why);
    }
}

/* One attempt at each endpoint, until one answers. That it exists already is as good. */
static int make_collection(struct load *l, struct otr_errmsg *msg)
{
    const struct settings *s = l->settings;
    const char *const headers[] = {"Content-Type: application/json",
                                   l->authorization[0] != '\0' ? l->authorization : NULL, NULL};
    struct making m = {.status = OTR_UNREACHABLE};
    char url[URL_MAX];
    char body[256];
    int rv;

    snprintf(body, sizeof body, "{\"name\":\"%s\",\"dimension\":%u,\"metric\":\"%s\"}", s->collection,
             s->create_dimension, s->metric);
    for (uint32_t i = 0; i < l->endpoints_count; i++) {
        struct http_request request = {.method = "POST",
                                       .url = url,
                                       .headers = headers,
                                       .body = body,
                                       .body_bytes = strlen(body),
                                       .timeout_ms = REQUEST_TIMEOUT_MS,
                                       .data = &m};

        m.done = false;
        snprintf(url, sizeof url, "%s/collections", l->endpoints[i]);
        rv = http_client_start(l->http, &request, make_done);
        if (rv != 0) {
            otr_errmsg_set(msg, "%s: %s", url, otr_strerror(rv));
            return rv;
        }
        loop_finish(&l->loop, &m.done, 0);
        if (m.status == 0 && m.http_status < 500) {
            break;
        }
    }
    if (m.status == 0 && (m.http_status == 201 || m.http_status == 200 || m.http_status == 409)) {
        return 0;
    }
    otr_errmsg_set(msg, "cannot make the collection %s: %s", s->collection, m.why);
    return OTR_UNREACHABLE;
}

/* --- opening and closing ------------------------------------------------------------------------------------------ */

/* "URL,URL"; a missing scheme is http. */
static int split_endpoints(struct load *l, const char *text, struct otr_errmsg *msg)
{
    while (*text != '\0') {
        size_t bytes = strcspn(text, ",");
        size_t kept = bytes;
        char *url;

        for (; kept > 0 && text[kept - 1] == '/'; kept--) {
        }
        if (kept == 0 || kept > URL_MAX / 2 || l->endpoints_count == ENDPOINTS_MAX) {
            otr_errmsg_set(msg, "--endpoint: expected 1 to %d URLs with commas between", ENDPOINTS_MAX);
            return OTR_INVALID;
        }
        if (asprintf(&url, "%s%.*s", memmem(text, bytes, "://", 3) != NULL ? "" : "http://", (int)kept, text) < 0) {
            return OTR_NOMEM;
        }
        l->endpoints[l->endpoints_count++] = url;
        text += bytes + (text[bytes] == ',');
    }
    return l->endpoints_count > 0 ? 0 : OTR_INVALID;
}

static int open_file(struct load *l, struct otr_errmsg *msg)
{
    struct stat st;

    l->reader.file = strcmp(l->settings->file, "-") == 0 ? stdin : fopen(l->settings->file, "re");
    if (l->reader.file == NULL || fstat(fileno(l->reader.file), &st) != 0 || S_ISDIR(st.st_mode)) {
        otr_errmsg_set(msg, "cannot read %s", l->settings->file);
        return OTR_IO;
    }
    l->file_bytes = S_ISREG(st.st_mode) ? (uint64_t)st.st_size : 0;
    return 0;
}

static int open_slots(struct load *l)
{
    l->slots = calloc(l->settings->concurrency, sizeof *l->slots);
    if (l->slots == NULL) {
        return OTR_NOMEM;
    }
    for (uint32_t i = 0; i < l->settings->concurrency; i++) {
        struct slot *s = &l->slots[i];

        s->load = l;
        s->endpoint = i % l->endpoints_count; /* Every sidecar gets its share. */
        uv_timer_init(&l->loop.uv, &s->retry);
        s->retry.data = s;
    }
    return 0;
}

static void close_done(void *data)
{
    *(bool *)data = true;
}

static void close_all(struct load *l)
{
    bool done = false;

    http_client_close(l->http, close_done, &done);
    loop_finish(&l->loop, &done, 0);
    for (uint32_t i = 0; l->slots != NULL && i < l->settings->concurrency; i++) {
        uv_close((uv_handle_t *)&l->slots[i].retry, NULL);
        load_lines_close(&l->slots[i].batch);
        free(l->slots[i].body);
    }
    uv_close((uv_handle_t *)&l->tick, NULL);
    loop_close(&l->loop);
    free(l->slots);
    free(l->reader.buffer);
}

static void print_summary(const struct load *l)
{
    uint64_t ms = clock_now_ms() - l->began_ms + 1;

    clear_progress(l);
    printf("%s: %" PRIu64 " points in %.1f s (%.0f/s), %" PRIu64 " retries, %" PRIu64 " failed%s\n",
           l->settings->collection, l->points, (double)ms / 1000, (double)l->points * 1000 / (double)ms, l->retries,
           l->failures, l->loop.interrupted != 0 ? "; interrupted" : "");
}

/* An interruption lets what is under way end: the loop is turned once more until then, and nothing new is begun. */
static int transfer(struct load *l)
{
    l->began_ms = clock_now_ms();
    uv_timer_start(&l->tick, on_tick, TICK_MS, TICK_MS);
    l->busy_count = l->settings->concurrency;
    for (uint32_t i = 0; i < l->settings->concurrency; i++) {
        l->slots[i].busy = true;
    }
    for (uint32_t i = 0; i < l->settings->concurrency; i++) {
        slot_next(&l->slots[i]);
    }
    if (loop_wait(&l->loop, &l->done, 0) != 0) {
        loop_finish(&l->loop, &l->done, REQUEST_TIMEOUT_MS);
    }
    print_summary(l);
    return l->failures > 0 || l->fatal != 0 || l->loop.interrupted != 0 ? OTR_INVALID : 0;
}

static int open_and_run(struct load *l, struct otr_errmsg *msg)
{
    struct http_client_config config = {.connect_timeout_ms = 0};
    int rv;

    rv = open_file(l, msg);
    rv = rv != 0 ? rv : credentials_http(&l->settings->credentials, &config, msg);
    rv = rv != 0 ? rv : credentials_header(&l->settings->credentials, l->authorization, msg);
    rv = rv != 0 ? rv : split_endpoints(l, l->settings->endpoint, msg);
    rv = rv != 0 ? rv : loop_init(&l->loop, msg);
    if (rv != 0) {
        return rv;
    }
    if (l->file_bytes == 0) { /* Reading a pipe may block for ever, and then nobody looks at signals. */
        uv_signal_stop(&l->loop.sigint);
        uv_signal_stop(&l->loop.sigterm);
    }
    uv_timer_init(&l->loop.uv, &l->tick);
    l->tick.data = l;
    rv = http_client_new(&l->http, &l->loop.uv, &config, msg);
    if (rv != 0) {
        uv_close((uv_handle_t *)&l->tick, NULL);
        loop_close(&l->loop);
        return rv;
    }
    rv = open_slots(l);
    if (rv == 0 && l->settings->create_dimension != 0) {
        rv = make_collection(l, msg);
    }
    rv = rv != 0 ? rv : transfer(l);
    close_all(l);
    return rv;
}

/* --- the command -------------------------------------------------------------------------------------------------- */

#define OPTION(member) offsetof(struct settings, member)
static const struct option options[] = {
    {"collection", OPTION_NAME, OPTION(collection), "NAME", NULL, true, 0, 0, "where the points go"},
    {"file", OPTION_TEXT, OPTION(file), "FILE", NULL, true, 0, 0, "one point per line, as JSON; - for standard input"},
    {"endpoint", OPTION_TEXT, OPTION(endpoint), "URL,URL", "http://127.0.0.1:7700", false, 0, 0,
     "sidecars to send to; more than one to go on when one dies"},
    {"batch", OPTION_NUMBER, OPTION(batch), "N", "100", false, 1, 10000, "points of one request"},
    {"concurrency", OPTION_NUMBER, OPTION(concurrency), "N", "8", false, 1, CONCURRENCY_MAX, "requests at a time"},
    {"create-dimension", OPTION_NUMBER, OPTION(create_dimension), "N", NULL, false, 1, OTR_DIMENSION_MAX,
     "make the collection, with so many dimensions, unless it exists"},
    {"metric", OPTION_TEXT, OPTION(metric), "NAME", "Cosine", false, 0, 0,
     "of the collection made: Cosine, Euclidean, DotProduct or Manhattan"},
    CREDENTIALS_OPTIONS(struct settings, credentials),
};

static int run(const struct command *command, int argc, char **argv)
{
    struct settings s = {.file = NULL};
    struct options_memory memory = {0};
    struct otr_errmsg msg = {0};
    struct load load = {.settings = &s};
    enum otr_metric metric;
    int exit_code;
    int rv;

    if (!options_read(command, argc, argv, &s, &memory, &exit_code)) {
        return exit_code;
    }
    if (!score_metric_parse(s.metric, &metric)) {
        fprintf(stderr, "outrigger load: --metric: there is no \"%s\"\n", s.metric);
        options_memory_close(&memory);
        return EXIT_USAGE;
    }
    load.terminal = isatty(STDERR_FILENO) == 1;
    rv = open_and_run(&load, &msg);
    if (msg.text[0] != '\0') {
        fprintf(stderr, "outrigger load: %s\n", msg.text);
    }
    for (uint32_t i = 0; i < load.endpoints_count; i++) {
        free(load.endpoints[i]);
    }
    if (load.reader.file != NULL && load.reader.file != stdin) {
        fclose(load.reader.file);
    }
    options_memory_close(&memory);
    return rv != 0 ? EXIT_FAILED : EXIT_OK;
}

const struct command load_command = {
    .name = "load",
    .about =
        "puts points from a file into a collection.\n\n"
        "Each line of the file is one point: {\"id\": \"a\", \"vector\": [0.1, ...], \"metadata\": {...}}. A point\n"
        "without id gets one. Lines are sent in batches over several connections; a broken connection is tried\n"
        "again at the next endpoint, and takes effect once. Lines that are refused are named, the others loaded.",
    .examples = "  outrigger load --collection photos --file photos.jsonl --create-dimension 256\n"
                "  zcat all.jsonl.gz | outrigger load --collection photos --file - --batch 500 \\\n"
                "      --endpoint http://10.0.0.1:7700,http://10.0.0.2:7700,http://10.0.0.3:7700\n",
    .options = options,
    .options_count = sizeof options / sizeof options[0],
    .run = run,
};
