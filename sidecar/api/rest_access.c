/* Who may call what: the role that a route needs against the token that came with the request.
 *
 * With tokens, everything but what is open to all needs one, paths that do not exist included. Without, calls are open
 * as they always were, but what changes the cluster itself is taken from this host only: the socket's address says so,
 * headers do not count. */
#include "sidecar/api/rest.h"
#include "sidecar/io/log.h"

enum { PATTERN_BYTES = 100 };

/* The entry of the request's token, or NULL and why not. */
static const struct tokens_entry *entry_of(const struct api *a, const struct http_exchange *x, const char **why)
{
    const struct http_field *field = http_field_find(x, "Authorization", NULL); /* http_guard refuses two. */
    const struct tokens_entry *entry;
    const char *token;
    size_t bytes;

    *why = "a token is needed: send it as 'Authorization: Bearer TOKEN'";
    if (field == NULL) {
        return NULL;
    }
    *why = "the Authorization header is not of the form 'Bearer TOKEN'";
    if (!tokens_bearer(field->value, field->value_bytes, &token, &bytes)) {
        return NULL;
    }
    entry = tokens_find(tokens_file_current(a->tokens), token, bytes);
    *why = entry == NULL ? "the token is not known here" : "";
    return entry;
}

bool rest_on_head(void *data, const struct http_exchange *x)
{
    struct api *a = data;
    const char *why;

    return (a->tokens == NULL || entry_of(a, x, &why) != NULL) && rest_admission_head(a, x);
}

/* "POST /collections/:c/points/search": what stands in the path itself is the client's, and not for the log. */
static void call_text(const struct rest_request *r, char out[PATTERN_BYTES + 16])
{
    char path[PATTERN_BYTES] = "(unknown path)";
    const char *method = r->x->method;

    (void)rest_route(r->route, &method, path, sizeof path);
    snprintf(out, PATTERN_BYTES + 16, "%s %s", method, path);
}

static void refuse(struct rest_request *r, int status, const char *header, const char *message)
{
    struct text body;

    r->api->metrics.denied_total++;
    text_init(&body, REST_ANSWER_MAX);
    http_error_text(&body, status == 401 ? "unauthorized" : "forbidden", message, "false", NULL);
    rest_reply(r, status, header, &body);
}

static void refuse_unknown(struct rest_request *r, const char *why)
{
    bool sent = http_field_find(r->x, "Authorization", NULL) != NULL;
    char call[PATTERN_BYTES + 16];
    char from[HTTP_PEER_BYTES];

    call_text(r, call);
    http_peer_text(r->x, from);
    LOG_LIMITED(LOG_WARN, "", "api: %s from %s refused: %s", call, from, why);
    refuse(r, 401,
           sent ? "WWW-Authenticate: Bearer realm=\"outrigger\", error=\"invalid_token\"\r\n"
                : "WWW-Authenticate: Bearer realm=\"outrigger\"\r\n",
           why);
}

static void refuse_role(struct rest_request *r, const struct tokens_entry *entry, enum token_role needs)
{
    struct otr_errmsg words;
    char call[PATTERN_BYTES + 16];
    char from[HTTP_PEER_BYTES];
    char name[TOKENS_NAME_MAX + 1];

    call_text(r, call);
    http_peer_text(r->x, from);
    snprintf(name, sizeof name, entry->name[0] != '\0' ? "%s" : "%s(line %zu)", entry->name, entry->line);
    LOG_LIMITED(LOG_WARN, "", "api: %s from %s refused: token %s has the role %s, %s is needed", call, from, name,
                token_role_name(entry->role), token_role_name(needs));
    otr_errmsg_set(&words, "this call needs a token of role %s; the one sent has the role %s", token_role_name(needs),
                   token_role_name(entry->role));
    refuse(r, 403, "WWW-Authenticate: Bearer realm=\"outrigger\", error=\"insufficient_scope\"\r\n", words.text);
}

/* Without tokens. */
static bool from_here(struct rest_request *r)
{
    char call[PATTERN_BYTES + 16];
    char from[HTTP_PEER_BYTES];

    if (http_peer_is_loopback(r->x)) {
        return true;
    }
    call_text(r, call);
    http_peer_text(r->x, from);
    LOG_LIMITED(LOG_WARN, "", "api: %s from %s refused: no tokens are configured, and it is not this host", call, from);
    refuse(r, 403, NULL,
           "this sidecar has no tokens, so it takes this call from its own host only: call it there at 127.0.0.1, or "
           "start it with --tokens FILE ('outrigger token --role admin --file FILE' makes one)");
    return false;
}

bool rest_allowed(struct rest_request *r)
{
    enum token_role needs = rest_route_role(r->route);
    const struct tokens_entry *entry;
    const char *why;

    if (needs == TOKEN_NONE || (r->api->metrics_open && rest_route_is_metrics(r->route))) {
        return true;
    }
    if (r->api->tokens == NULL) {
        return !rest_route_changes_cluster(r->route) || from_here(r);
    }
    entry = entry_of(r->api, r->x, &why);
    if (entry == NULL) {
        refuse_unknown(r, why);
        return false;
    }
    if (entry->role < needs) {
        refuse_role(r, entry, needs);
        return false;
    }
    return true;
}
