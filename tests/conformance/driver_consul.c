#include "tests/conformance/secure.h"
#include "tests/lib/consul_server.h"
#include "tests/lib/relay.h"

#include <cjson/cJSON.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SUITE_TOKEN "5b1e0000-0000-4000-8000-00000000000b"

static void init(struct world *w, unsigned members_count)
{
    struct consul_server *server = malloc(sizeof *server);

    consul_server_init(server, members_count);
    w->coordinator = server;
}

static void name_endpoints(struct world *w)
{
    const struct consul_server *server = w->coordinator;

    for (unsigned i = 0; i < server->members_count; i++) {
        strcat(strcat(w->endpoints, i > 0 ? "," : ""), server->members[i].url);
    }
}

static void driver_init(struct world *w)
{
    init(w, 1);
    name_endpoints(w);
}

static void driver_init_three(struct world *w)
{
    init(w, 3);
    name_endpoints(w);
}

static void driver_init_secure(struct world *w)
{
    init(w, 1);
    secure_certs();
    consul_server_secure(w->coordinator, secure_path(""));
    name_endpoints(w);
    w->access.ca_file = secure_path("ca.crt");
    w->access.cert_file = secure_path("client.crt");
    w->access.key_file = secure_path("client.key");
    secure_write_line(secure_path("token"), SUITE_TOKEN);
    w->access.token_file = secure_path("token");
}

static void must(struct consul_server *server, const char *path, const char *body)
{
    long status;
    char *answer = consul_server_ask(server, 0, "PUT", path, body, &status);

    cr_assert(status == 200, "%s: %ld %s", path, status, answer);
    free(answer);
}

/* What docs/consul.md gives a sidecar, and no more. */
static void make_token(struct consul_server *server)
{
    static const char policy[] =
        "{\"Name\":\"suite\",\"Rules\":\"key_prefix \\\"outrigger/suite/\\\" { policy = \\\"write\\\" } "
        "key \\\"outrigger-identity\\\" { policy = \\\"write\\\" } "
        "service_prefix \\\"outrigger\\\" { policy = \\\"write\\\" } "
        "session_prefix \\\"\\\" { policy = \\\"write\\\" }\"}";

    must(server, "/v1/acl/policy", policy);
    must(server, "/v1/acl/token",
         "{\"AccessorID\":\"5b1e0000-0000-4000-8000-0000000000b1\",\"SecretID\":\"" SUITE_TOKEN
         "\",\"Policies\":[{\"Name\":\"suite\"}]}");
}

/* A coordinator that has been used before: it has an identity. */
static void make_identity(struct consul_server *server)
{
    char *answer, text[24];
    FILE *random = fopen("/dev/urandom", "re");
    unsigned number = 0;

    cr_assert(random != NULL && fread(&number, sizeof number, 1, random) == 1);
    fclose(random);
    snprintf(text, sizeof text, "%u", number | 1);
    answer = consul_server_ask(server, 0, "PUT", "/v1/kv/outrigger-identity?cas=0", text, NULL);
    free(answer);
}

static void driver_start(struct world *w)
{
    consul_server_start(w->coordinator);
    make_identity(w->coordinator);
}

static void driver_start_secure(struct world *w)
{
    struct consul_server *server = w->coordinator;
    char *answer;
    long status;

    consul_server_start(server);
    answer = consul_server_ask(server, 0, "GET", "/v1/acl/policy/name/suite", NULL, &status);
    free(answer);
    if (status != 200) {
        make_token(server);
    }
    make_identity(server);
}

static void each(struct world *w, void (*act)(struct consul_server *server, unsigned member))
{
    struct consul_server *server = w->coordinator;

    for (unsigned i = 0; i < server->members_count; i++) {
        act(server, i);
    }
}

static void driver_kill(struct world *w)
{
    each(w, consul_server_kill);
}

static void driver_freeze(struct world *w)
{
    each(w, consul_server_freeze);
}

static void driver_thaw(struct world *w)
{
    each(w, consul_server_thaw);
}

/* There is no history that could be forgotten. */
static void driver_compact(struct world *w)
{
    (void)w;
}

static void driver_wipe(struct world *w)
{
    consul_server_wipe(w->coordinator);
}

static void driver_far_open(struct world *w)
{
    const struct consul_server *server = w->coordinator;
    const struct consul_member *member = &server->members[0];
    bool tls = server->certs != NULL;
    char url[40];

    w->relay = relay_new(&w->loop, tls ? member->https_port : member->http_port);
    snprintf(url, sizeof url, "%s://127.0.0.1:%u", tls ? "https" : "http", relay_port(w->relay));
    w->far = world_open(w, url);
}

/* As everybody sees it in the catalog. */
static const char *driver_service(struct world *w, const char *id)
{
    static char health[16];
    char *answer = consul_server_ask(w->coordinator, 0, "GET", "/v1/health/service/outrigger?consistent", NULL, NULL);
    cJSON *json = cJSON_Parse(answer);
    const cJSON *item, *check;

    strcpy(health, "");
    cJSON_ArrayForEach(item, json)
    {
        const cJSON *service = cJSON_GetObjectItem(item, "Service");
        const cJSON *node = cJSON_GetObjectItem(cJSON_GetObjectItem(service, "Meta"), "node");

        if (!cJSON_IsString(node) || strcmp(node->valuestring, id) != 0) {
            continue;
        }
        strcpy(health, "passing");
        cJSON_ArrayForEach(check, cJSON_GetObjectItem(item, "Checks"))
        {
            const char *status = cJSON_GetStringValue(cJSON_GetObjectItem(check, "Status"));

            if (strcmp(status, "passing") != 0) {
                snprintf(health, sizeof health, "%s", status);
            }
        }
    }
    cJSON_Delete(json);
    free(answer);
    return health;
}

static void driver_close(struct world *w)
{
    if (w->relay != NULL) {
        relay_close(w->relay);
    }
    consul_server_close(w->coordinator);
    free(w->coordinator);
}

static void driver_close_secure(struct world *w)
{
    driver_close(w);
    secure_close();
}

#define COMMON                                                                                                 \
    .ops = &otr_backend_consul, .kill = driver_kill, .freeze = driver_freeze, .thaw = driver_thaw,             \
    .compact = driver_compact, .wipe = driver_wipe, .far_open = driver_far_open, .far_link = world_relay_link, \
    .service = driver_service, .no_session = "01234567-89ab-cdef-0123-456789abcdef", .states = true

const struct world_driver world_consul = {
    COMMON,
    .init = driver_init,
    .start = driver_start,
    .close = driver_close,
};

const struct world_driver world_consul_three = {
    COMMON,
    .init = driver_init_three,
    .start = driver_start,
    .close = driver_close,
};

const struct world_driver world_consul_secure = {
    COMMON,
    .init = driver_init_secure,
    .start = driver_start_secure,
    .close = driver_close_secure,
};
