/* Consul only: who may and who may not, and one of three servers that fails. */
#include "tests/conformance/secure.h"
#include "tests/lib/consul_server.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define IN(where, suite, name)                \
    static void case_##name(struct world *w); \
    Test(suite, name, .timeout = 90)          \
    {                                         \
        world_run(&(where), case_##name);     \
    }                                         \
    static void case_##name(struct world *w)
#define SECURE(name) IN(world_consul_secure, consul_access, name)
#define THREE(name)  IN(world_consul_three, consul_cluster, name)

/* --- tokens ----------------------------------------------------------------------------------------------------- */

static void must(struct world *w, const char *method, const char *path, const char *body)
{
    long status;
    char *answer = consul_server_ask(w->coordinator, 0, method, path, body, &status);

    cr_assert(status == 200, "%s: %ld %s", path, status, answer);
    free(answer);
}

/* The id of the suite's policy, in a path. */
static const char *policy_path(struct world *w)
{
    static char path[80];
    char *answer = consul_server_ask(w->coordinator, 0, "GET", "/v1/acl/policy/name/suite", NULL, NULL);
    const char *id = strstr(answer, "\"ID\":");

    cr_assert(id != NULL);
    id += strcspn(id + 5, "\"") + 6;
    snprintf(path, sizeof path, "/v1/acl/policy/%.36s", id);
    free(answer);
    return path;
}

/* Lists that are filtered look like mass death. The watch ends with a word, and without a deletion. */
SECURE(permission_lost_is_no_deletion)
{
    struct watch watch = {0};
    struct get get;

    put(w, "a/1", "1");
    put(w, "a/2", "1");
    watch_start(w, &watch, w->b, "a/", revision_now(w));
    watch_settle(w);
    must(w, "PUT", policy_path(w),
         "{\"Name\":\"suite\",\"Rules\":\"key \\\"outrigger-identity\\\" { policy = \\\"read\\\" }\"}");
    AWAIT_MS(w, watch.final_count == 1, 30000);
    cr_assert(watch.final_status == OTR_DENIED && watch.seen_count == 0);
    get_start(w, &get, w->b, "a/");
    AWAIT(w, get.calls_count == 1);
    cr_assert(get.status == OTR_DENIED, "%s", otr_errname(get.status));
    watch_close(&watch);
}

/* A token that Consul does not know: told in words, which do not quote it; mended by another in the file. */
SECURE(token_unknown_then_replaced)
{
    static const char stranger[] = "5b1e0000-0000-4000-8000-00000000dead";
    struct otr_backend *b;
    struct session session;
    struct get get;
    char good[64] = "";
    FILE *file = fopen(w->access.token_file, "re");

    cr_assert(file != NULL && fgets(good, sizeof good, file) != NULL);
    fclose(file);
    good[strcspn(good, "\n")] = '\0';
    secure_write_line(w->access.token_file, stranger);
    b = world_open(w, w->endpoints);
    get_start(w, &get, b, "a/");
    AWAIT(w, get.calls_count == 1);
    cr_assert(get.status == OTR_DENIED, "%s", otr_errname(get.status));
    session_start(w, &session, b, 2000);
    AWAIT(w, session.unreachable_count == 1);
    cr_assert(strstr(session.text, "403") != NULL && strstr(session.text, stranger) == NULL, "%s", session.text);
    secure_write_line(w->access.token_file, good);
    AWAIT(w, session.open_count == 1);
    get_start(w, &get, b, "a/");
    AWAIT(w, get.calls_count == 1);
    cr_assert(get.status == 0);
    get_close(&get);
    world_close_backend(w, b);
}

/* The token in use is replaced and then removed, under a session and a watch that go on. */
SECURE(token_rotated)
{
    static const char next[] = "5b1e0000-0000-4000-8000-00000000000c";
    struct watch watch = {0};
    struct session session;
    char body[160];

    session_await(w, &session, 3000);
    put_bound(w, "a/bound", "1", &session.s);
    watch_start(w, &watch, w->b, "a/", revision_now(w));
    watch_settle(w);
    snprintf(body, sizeof body, "{\"SecretID\":\"%s\",\"Policies\":[{\"Name\":\"suite\"}]}", next);
    must(w, "PUT", "/v1/acl/token", body);
    secure_write_line(w->access.token_file, next);
    must(w, "DELETE", "/v1/acl/token/5b1e0000-0000-4000-8000-0000000000b1", NULL);
    world_pass(w, 4000); /* Longer than the session lives without renewals, and some rounds of probes. */
    put(w, "a/after", "1");
    AWAIT(w, watch_holds(&watch, "a/after", "1"));
    cr_assert(session.lost_count == 0 && watch.resyncs_count == 0 && watch.final_count == 0);
    watch_close(&watch);
}

/* --- one of three ----------------------------------------------------------------------------------------------- */

/* Returns how often the key may have been put: an attempt of unknown outcome may have taken effect. */
static unsigned expect_service_goes_on(struct world *w, struct watch *watch, const char *key)
{
    struct txn txn = {0};
    unsigned puts = 0;
    int rv;

    do { /* Until there is a leader again. */
        txn_put(&txn, key, key);
        rv = txn_await(w, &txn);
        puts += rv == 0 || rv == OTR_UNKNOWN;
    } while (rv != 0);
    AWAIT_MS(w, watch_holds(watch, key, key), 20000);
    return puts;
}

/* Another server dies, the leader if it is another: the session stays, the watch goes on where it was. */
THREE(member_killed)
{
    struct consul_server *server = w->coordinator;
    unsigned leader = consul_server_leader(server);
    unsigned victim = leader != 0 ? leader : 1;
    struct watch watch = {0};
    struct session session;
    unsigned puts;

    session_await(w, &session, 3000);
    put_bound(w, "a/bound", "1", &session.s);
    watch_start(w, &watch, w->b, "a/", revision_now(w));
    watch_settle(w);
    consul_server_kill(server, victim);
    puts = expect_service_goes_on(w, &watch, "a/1");
    cr_assert_str_eq(value_now(w, "a/bound"), "1");
    AWAIT(w, session.unreachable_count == session.confirmed_count);
    cr_assert(session.lost_count == 0, "the session was lost");
    cr_assert(watch.resyncs_count == 0, "%u resyncs", watch.resyncs_count);
    cr_assert(watch.seen_count >= 1 && watch.seen_count <= puts, "%zu events of %u puts", watch.seen_count, puts);
    watch_close(&watch);
}

/* The server that has the session's check dies: the session ends with it, which another server tells; the next one is
 * elsewhere, and the watch goes on there. */
THREE(home_killed)
{
    struct consul_server *server = w->coordinator;
    struct watch watch = {0};
    struct session session;

    session_await(w, &session, 3000);
    put_bound(w, "a/bound", "1", &session.s);
    watch_start(w, &watch, w->b, "a/", revision_now(w));
    watch_settle(w);
    consul_server_kill(server, 0);
    expect_service_goes_on(w, &watch, "a/1");
    AWAIT_MS(w, session.lost_count == 1, 40000);
    AWAIT(w, watch_dropped(&watch, "a/bound"));
    session_await(w, &session, 3000);
    put_bound(w, "a/bound", "2", &session.s);
    AWAIT(w, watch_holds(&watch, "a/bound", "2"));
    cr_assert(watch.resyncs_count == 0);
    watch_close(&watch);
}

/* Most of them are gone: nothing is believed and nothing is lost; then it goes on. */
THREE(quorum_lost)
{
    struct consul_server *server = w->coordinator;
    struct watch watch = {0};
    struct get get;

    put(w, "a/1", "1");
    watch_start(w, &watch, w->b, "a/", revision_now(w));
    watch_settle(w);
    consul_server_freeze(server, 1);
    consul_server_freeze(server, 2);
    AWAIT(w, watch.silent_count == 1);
    get_start(w, &get, w->b, "a/");
    AWAIT(w, get.calls_count == 1);
    cr_assert(get.status == OTR_UNREACHABLE || get.status == OTR_TIMEOUT, "%s", otr_errname(get.status));
    consul_server_thaw(server, 1);
    consul_server_thaw(server, 2);
    expect_service_goes_on(w, &watch, "a/2");
    AWAIT(w, watch.alive_count == 1);
    cr_assert(watch.resyncs_count == 0 && watch.seen_count == 1);
    watch_close(&watch);
}
