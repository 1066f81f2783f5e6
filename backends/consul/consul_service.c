/* The service that stands for a session at its agent.
 *
 * A session is bound to a TTL check, a check to a service: a check of its own would make the whole machine look ill
 * when it lapses, and Consul removes only those of services by itself. Until the node registers, the service has
 * another name, under which nobody looks for it; registering the same id again changes what others see and leaves check
 * and session alone. Health is a second check, which no session depends on. */
#include "backends/consul/consul.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define SESSION_SERVICE "outrigger-session"
#define ALIVE           ":alive"
#define HEALTH          ":health"

void consul_service_add(struct json_text *body, const struct consul_service *service)
{
    const char *definition = service->definition;

    json_text_add(body, "{\"ID\":\"%s\"", service->id);
    if (definition != NULL) {
        json_text_add_raw(body, definition, strlen(definition));
    } else {
        json_text_add(body, ",\"Name\":\"" SESSION_SERVICE "\"");
    }
    json_text_add(
        body, ",\"Checks\":[{\"CheckID\":\"%s" ALIVE "\",\"Name\":\"kept by the sidecar\",\"TTL\":\"%" PRIu32 "ms\",",
        service->id, service->ttl_ms);
    json_text_add(body, "\"Status\":\"passing\",\"DeregisterCriticalServiceAfter\":\"1m\"}");
    if (definition != NULL) {
        json_text_add(body, ",{\"CheckID\":\"%s" HEALTH "\",\"Name\":\"as the sidecar sees itself\",", service->id);
        json_text_add(body, "\"TTL\":\"8760h\",\"Status\":\"passing\"}");
    }
    json_text_add(body, "]}");
}

void consul_service_add_path(struct json_text *path, const char *call, const struct consul_service *service,
                             const char *check)
{
    json_text_add(path, "%s%s%s", call, service->id, check);
}

static void forgotten(void *data, const struct consul_reply *reply)
{
    (void)data;
    (void)reply; /* What is left over at the agent is critical and goes after a minute. */
}

void consul_service_forget(struct consul *consul, const struct consul_service *service, unsigned endpoint)
{
    struct consul_call_spec spec = {
        .method = "PUT",
        .lane = CONSUL_LANE_SESSION,
        .endpoint = (int)endpoint,
        .done = forgotten,
    };
    struct json_text path = {0};

    consul_service_add_path(&path, "/v1/agent/service/deregister/", service, "");
    (void)consul_call_start(consul, &spec, &path, NULL, NULL);
}

/* --- registering ------------------------------------------------------------------------------------------------ */

struct registration {
    struct consul *consul;
    struct otr_simple_req *req;
    otr_simple_cb cb;
    enum otr_health health;
    char id[sizeof((struct consul_service *)0)->id];
    unsigned endpoint;
    bool health_said;
};

/* ,"Name":..,"Address":..,"Port":..,"Tags":[..],"Meta":{"node":..} */
static char *definition_print(const struct otr_service *service)
{
    struct json_text text = {0};

    json_text_add(&text, ",\"Name\":");
    json_text_add_string(&text, service->name);
    json_text_add(&text, ",\"Address\":");
    json_text_add_string(&text, service->address);
    json_text_add(&text, ",\"Port\":%u,\"Tags\":[", (unsigned)service->port);
    for (size_t i = 0; i < service->tags_count; i++) {
        json_text_add(&text, "%s", i > 0 ? "," : "");
        json_text_add_string(&text, service->tags[i]);
    }
    json_text_add(&text, "],\"Meta\":{\"node\":");
    json_text_add_string(&text, service->id);
    json_text_add(&text, "}");
    if (text.failed) {
        json_text_close(&text);
    }
    return text.data;
}

static void registration_finish(struct registration *r, int status, struct otr_errmsg *msg)
{
    struct consul *consul = r->consul;

    if (status != 0) {
        otr_errmsg_wrap(msg, "register the service");
    }
    r->req->internal = NULL;
    r->cb(r->req, status, msg);
    free(r);
    consul_object_gone(consul);
}

static void registration_done(void *data, const struct consul_reply *reply);

static int registration_say_health(struct registration *r)
{
    static const char *const healths[] = {
        [OTR_HEALTH_PASSING] = "passing",
        [OTR_HEALTH_WARNING] = "warning",
        [OTR_HEALTH_CRITICAL] = "critical",
    };
    struct consul_call_spec spec = {
        .method = "PUT",
        .lane = CONSUL_LANE_REQUEST,
        .endpoint = (int)r->endpoint,
        .done = registration_done,
        .data = r,
    };
    struct json_text path = {0};
    struct json_text body = {0};

    r->health_said = true;
    json_text_add(&path, "/v1/agent/check/update/%s" HEALTH, r->id);
    json_text_add(&body, "{\"Status\":\"%s\"}", healths[r->health]);
    return consul_call_start(r->consul, &spec, &path, &body, NULL);
}

static void registration_done(void *data, const struct consul_reply *reply)
{
    struct registration *r = data;
    int status = reply->status;

    if (status != 0 && status != OTR_CANCELED && status != OTR_DENIED && status != OTR_NOMEM) {
        status = reply->certain ? OTR_UNREACHABLE : OTR_UNKNOWN;
    }
    if (status == 0 && !r->health_said) {
        status = registration_say_health(r);
        if (status == 0) {
            return;
        }
        otr_errmsg_set(reply->msg, "consul: %s", otr_strerror(status));
    }
    registration_finish(r, status, reply->msg);
}

int consul_service_register(struct otr_backend *b, struct otr_session *s, const struct otr_service *service,
                            enum otr_health health, struct otr_simple_req *req, otr_simple_cb cb)
{
    struct consul_call_spec spec = {.method = "PUT", .lane = CONSUL_LANE_REQUEST, .done = registration_done};
    struct json_text path = {0};
    struct json_text body = {0};
    struct registration *r;
    struct consul_service *own;
    unsigned endpoint;
    char *definition;
    int rv;

    if (health < OTR_HEALTH_PASSING || health > OTR_HEALTH_CRITICAL) {
        return OTR_INVALID;
    }
    own = s->id[0] != '\0' ? consul_session_registration(s, &endpoint) : NULL;
    if (own == NULL) {
        return OTR_SESSION;
    }
    definition = definition_print(service);
    r = definition != NULL ? calloc(1, sizeof *r) : NULL;
    if (r == NULL) {
        free(definition);
        return OTR_NOMEM;
    }
    *r = (struct registration){.consul = consul_of(b), .req = req, .cb = cb, .health = health, .endpoint = endpoint};
    memcpy(r->id, own->id, sizeof r->id);
    free(own->definition);
    own->definition = definition; /* For an agent that has forgotten it. */
    spec.endpoint = (int)endpoint;
    spec.data = r;
    json_text_add(&path, "/v1/agent/service/register");
    consul_service_add(&body, own);
    rv = consul_call_start(r->consul, &spec, &path, &body, NULL);
    if (rv != 0) {
        free(r);
        return rv;
    }
    consul_object_made(r->consul);
    return 0;
}
