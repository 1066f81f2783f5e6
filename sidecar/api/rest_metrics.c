/* GET /metrics: the node's, the HTTP server's and the process' metrics in Prometheus' text format. */
#include "sidecar/api/rest.h"

#include "sidecar/io/process.h"
#include "sidecar/node/node_metrics.h"

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

enum { ROUTE_BYTES = 100 };

static void put(void *data, const char *bytes, size_t count)
{
    text_put(data, bytes, count);
}

static void label_route(struct metrics_labels *l, size_t number)
{
    char path[ROUTE_BYTES] = "other";
    const char *method = "other";

    (void)rest_route(number, &method, path, sizeof path);
    metrics_label(l, "method", method);
    metrics_label(l, "route", path);
}

static bool route_shown(size_t number)
{
    char path[ROUTE_BYTES];
    const char *method;

    return number == REST_ROUTES_MAX || rest_route(number, &method, path, sizeof path);
}

static void print_routes(const struct api *a, const struct metrics_out *out)
{
    static const struct metrics_family families[] = METRICS_FAMILIES(route_metrics, ROUTE_METRICS);
    struct metrics_object objects[REST_ROUTES_MAX + 1] = {0};
    size_t count = 0;

    for (size_t i = 0; i <= REST_ROUTES_MAX; i++) {
        if (route_shown(i)) {
            label_route(&objects[count].labels, i);
            objects[count++].values = &a->routes[i];
        }
    }
    metrics_print(out, "outrigger_http_", families, COUNT(families), objects, count);
}

static void print_codes(const struct api *a, const struct metrics_out *out)
{
    static const char *const names[REST_CLASSES] = {"2xx", "3xx", "4xx", "5xx"};
    static const struct metrics_family families[] = METRICS_FAMILIES(code_metrics, CODE_METRICS);
    struct metrics_object objects[(REST_ROUTES_MAX + 1) * REST_CLASSES] = {0};
    size_t count = 0;

    for (size_t i = 0; i < (REST_ROUTES_MAX + 1) * (size_t)REST_CLASSES; i++) {
        if (route_shown(i / REST_CLASSES)) {
            label_route(&objects[count].labels, i / REST_CLASSES);
            metrics_label(&objects[count].labels, "code", names[i % REST_CLASSES]);
            objects[count++].values = &a->codes[i / REST_CLASSES][i % REST_CLASSES];
        }
    }
    metrics_print(out, "outrigger_http_", families, COUNT(families), objects, count);
}

/* Of the door and of the shards here, by operation. */
static void print_admission(const struct api *a, const struct metrics_out *out)
{
    static const char *const operations[REST_KINDS] = {"write", "get", "search", "admin"};
    static const char *const reasons[ADMISSION_VERDICTS] = {"", "count", "bytes", "delay", "share"};
    static const struct metrics_family families[] = METRICS_FAMILIES(admission_metrics, ADMISSION_METRICS);
    static const struct metrics_family refused_family = {"refused_total", METRICS_COUNTER,
                                                         "Requests refused because there was too much to do", 0};
    struct admission_metrics values[REST_KINDS + NODE_OPS];
    struct metrics_object objects[REST_KINDS + NODE_OPS] = {0};
    struct metrics_object refused[(REST_KINDS + NODE_OPS) * ADMISSION_VERDICTS] = {0};
    size_t refused_count = 0;

    for (int i = 0; i < REST_KINDS + NODE_OPS; i++) {
        bool door = i < REST_KINDS;
        const char *operation = operations[door ? i : i - REST_KINDS];
        const struct admission *from =
            door ? &a->admissions[i] : node_admission(a->node, (enum node_operation)(i - REST_KINDS));

        values[i] = (struct admission_metrics){
            .under_way = from->count, .bytes = from->bytes, .limit = from->limit, .delay_seconds = from->delay_ms};
        metrics_label(&objects[i].labels, "at", door ? "door" : "shards");
        metrics_label(&objects[i].labels, "operation", operation);
        objects[i].values = &values[i];
        for (int reason = ADMISSION_COUNT; reason < ADMISSION_VERDICTS; reason++) {
            struct metrics_object *r = &refused[refused_count++];

            metrics_label(&r->labels, "at", door ? "door" : "shards");
            metrics_label(&r->labels, "operation", operation);
            metrics_label(&r->labels, "reason", reasons[reason]);
            r->values = &from->refused[reason];
        }
    }
    metrics_print(out, "outrigger_admission_", families, COUNT(families), objects, REST_KINDS + NODE_OPS);
    metrics_print(out, "outrigger_admission_", &refused_family, 1, refused, refused_count);
}

static void print_http(struct api *a, const struct metrics_out *out)
{
    static const struct metrics_family server_families[] = METRICS_FAMILIES(http_metrics, HTTP_METRICS);
    static const struct metrics_family rest_families[] = METRICS_FAMILIES(rest_metrics, REST_METRICS);
    struct metrics_object server = {.values = http_server_metrics(a->http)};
    struct metrics_object rest = {.values = &a->metrics};

    if (a->tokens != NULL) {
        a->metrics.tokens = tokens_file_current(a->tokens)->count;
        a->metrics.tokens_file_bad = tokens_file_fresh(a->tokens) ? 0 : 1;
    }
    metrics_print(out, "outrigger_http_", server_families, COUNT(server_families), &server, 1);
    metrics_print(out, "outrigger_http_", rest_families, COUNT(rest_families), &rest, 1);
    print_admission(a, out);
    print_routes(a, out);
    print_codes(a, out);
}

void rest_metrics(struct rest_request *r)
{
    struct text body;
    struct metrics_out out = {.put = put, .data = &body};
    int rv;

    text_init(&body, REST_ANSWER_MAX);
    rv = node_metrics_print(r->api->node, &out);
    if (rv != 0) {
        text_close(&body);
        rest_error(r, rv, "");
        return;
    }
    print_http(r->api, &out);
    process_metrics_print(&out);
    rest_reply(r, 200, "Content-Type: text/plain; version=0.0.4; charset=utf-8\r\n", &body);
}
