/* etcd only: who may and who may not. Certificates, passwords, permissions: refused with words that say what is wrong,
 * and taken up again when they are changed under a running backend. */
#include "tests/conformance/secure.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SECURE(name)                                \
    static void case_##name(struct world *w);       \
    Test(etcd_access, name, .timeout = 60)          \
    {                                               \
        world_run(&world_etcd_secure, case_##name); \
    }                                               \
    static void case_##name(struct world *w)

/* --- certificates ----------------------------------------------------------------------------------------------- */

struct refusal {
    const char *what;
    const char *ca, *cert; /* files without suffix; NULL: none */
    const char *url;       /* NULL: the world's */
    const char *words[3];  /* one of them is in the message: curl's differ by the moment of the refusal */
};

static void expect_refused(struct world *w, const struct refusal *refusal)
{
    const struct otr_backend_config good = w->access;
    struct otr_backend *b;
    struct session session;
    struct get get;
    char cert[64], key[64], ca[64];
    bool said = false;

    snprintf(ca, sizeof ca, "%s.crt", refusal->ca != NULL ? refusal->ca : "");
    snprintf(cert, sizeof cert, "%s.crt", refusal->cert != NULL ? refusal->cert : "");
    snprintf(key, sizeof key, "%s.key", refusal->cert != NULL ? refusal->cert : "");
    w->access.ca_file = refusal->ca != NULL ? secure_path(ca) : NULL;
    w->access.cert_file = refusal->cert != NULL ? secure_path(cert) : NULL;
    w->access.key_file = refusal->cert != NULL ? secure_path(key) : NULL;
    b = world_open(w, refusal->url != NULL ? refusal->url : w->endpoints);
    w->access = good;
    get_start(w, &get, b, "a/");
    AWAIT(w, get.calls_count == 1);
    cr_assert(get.status == OTR_UNREACHABLE || get.status == OTR_DENIED, "%s: %s", refusal->what,
              otr_errname(get.status));
    session_start(w, &session, b, 2000);
    AWAIT(w, session.unreachable_count == 1);
    for (size_t i = 0; i < 3 && refusal->words[i] != NULL; i++) {
        said = said || strstr(session.text, refusal->words[i]) != NULL;
    }
    cr_assert(said, "%s: %s", refusal->what, session.text);
    cr_assert(strstr(session.text, SECURE_PASSWORD) == NULL);
    world_close_backend(w, b);
}

/* A wrong certificate, on either side, is told from an etcd that is down. */
SECURE(certificates_refused)
{
    char by_name[64], plain[64];
    const struct refusal refusals[] = {
        {"no CA of ours", NULL, "client", NULL, {"certificate"}},
        {"another CA", "stranger-ca", "client", NULL, {"certificate"}},
        {"no client certificate", "ca", NULL, NULL, {"alert", "may have refused our certificate"}},
        {"a client certificate of another CA", "ca", "stranger", NULL, {"alert", "may have refused our certificate"}},
        {"an expired client certificate", "ca", "expired", NULL, {"alert", "may have refused our certificate"}},
        {"a certificate that is not for clients",
         "ca",
         "server-only",
         NULL,
         {"alert", "may have refused our certificate"}},
        {"a common name", "ca", "named", NULL, {"common name"}},
        {"another host's name", "ca", "client", by_name, {"does not match", "subject name", "no alternative"}},
        {"plain HTTP", "ca", "client", plain, {"HTTP 400", "Empty reply", "reset by peer"}},
    };
    const struct etcd_server *server = w->coordinator;

    snprintf(by_name, sizeof by_name, "https://localhost:%u", server->members[0].client_port);
    snprintf(plain, sizeof plain, "http://127.0.0.1:%u", server->members[0].client_port);
    for (size_t i = 0; i < sizeof refusals / sizeof refusals[0]; i++) {
        expect_refused(w, &refusals[i]);
    }
    put(w, "a/a", "1");
}

static void copy_file(const char *from, const char *to)
{
    char command[800];

    snprintf(command, sizeof command, "cp '%s' '%s.new' && mv '%s.new' '%s'", from, to, to, to);
    cr_assert(system(command) == 0);
}

/* Certificates are replaced under a running backend: bad ones show within seconds, although connections are kept; good
 * ones cure it. No session and no event is lost. */
SECURE(certificates_rotated)
{
    struct session session;
    struct watch watch = {0};
    struct get get;

    copy_file(secure_path("client.crt"), secure_path("now.crt"));
    copy_file(secure_path("client.key"), secure_path("now.key"));
    world_close_backend(w, w->b);
    w->access.cert_file = secure_path("now.crt");
    w->access.key_file = secure_path("now.key");
    w->b = world_open(w, w->endpoints);
    session_await(w, &session, 30000);
    put_bound(w, "a/bound", "1", &session.s);
    watch_start(w, &watch, w->b, "a/", revision_now(w));
    put(w, "a/1", "1");
    AWAIT(w, watch.seen_count == 1);
    copy_file(secure_path("stranger.crt"), secure_path("now.crt"));
    copy_file(secure_path("stranger.key"), secure_path("now.key"));
    do {
        world_pass(w, 100);
        get_start(w, &get, w->b, "a/");
        AWAIT(w, get.calls_count == 1);
        get_close(&get);
    } while (get.status == 0);
    cr_assert(get.status == OTR_UNREACHABLE, "%s", otr_errname(get.status));
    copy_file(secure_path("client2.crt"), secure_path("now.crt"));
    copy_file(secure_path("client2.key"), secure_path("now.key"));
    do {
        world_pass(w, 100);
        get_start(w, &get, w->b, "a/");
        AWAIT(w, get.calls_count == 1);
        get_close(&get);
    } while (get.status != 0);
    put(w, "a/2", "1");
    AWAIT(w, watch.seen_count == 2 && session.unreachable_count == session.confirmed_count);
    cr_assert(session.lost_count == 0 && watch.resyncs_count == 0);
    cr_assert_str_eq(value_now(w, "a/bound"), "1");
    watch_close(&watch);
}

/* --- passwords -------------------------------------------------------------------------------------------------- */

static void write_password(const char *password)
{
    FILE *file = fopen(secure_path("password"), "we");

    cr_assert(file != NULL && fprintf(file, "%s\n", password) > 0 && fclose(file) == 0);
}

/* Wrong ones: reads and writes are denied, certainly; a session and a watch say why and go on trying. */
SECURE(credentials_refused)
{
    static const char *const users[] = {"suite", "nobody"};
    struct otr_backend *b;
    struct session session;
    struct watch watch = {0};
    struct txn txn = {0};
    struct get get;

    for (int i = 0; i < 2; i++) {
        w->access.user = users[i];
        w->access.password = "wrong";
        w->access.password_file = NULL;
        b = world_open(w, w->endpoints);
        get_start(w, &get, b, "a/");
        session_start(w, &session, b, 2000);
        watch_start(w, &watch, b, "a/", 1);
        txn_put(&txn, "a/a", "1");
        cr_assert(txn_start(w, &txn, b) == 0);
        AWAIT(w, get.calls_count == 1 && txn.calls_count == 1);
        cr_assert(get.status == OTR_DENIED && txn.status == OTR_DENIED, "%s", otr_errname(get.status));
        cr_assert(strstr(txn.text, users[i]) != NULL && strstr(txn.text, "wrong") == NULL, "%s", txn.text);
        AWAIT(w, session.unreachable_count == 1 && watch.silent_count == 1);
        cr_assert(strstr(session.text, "authentication failed") != NULL, "%s", session.text);
        cr_assert(watch.final_count == 0);
        watch_close(&watch);
        world_close_backend(w, b);
    }
    cr_assert(value_now(w, "a/a") == NULL);
}

/* No user where one is asked for. */
SECURE(no_credentials)
{
    const struct otr_backend_config good = w->access;
    struct otr_backend *b;
    struct watch watch = {0};
    struct txn txn = {0};
    struct get get;

    w->access.user = NULL;
    w->access.password_file = NULL;
    b = world_open(w, w->endpoints);
    w->access = good;
    get_start(w, &get, b, "a/");
    watch_start(w, &watch, b, "a/", 1);
    txn_put(&txn, "a/a", "1");
    cr_assert(txn_start(w, &txn, b) == 0);
    AWAIT(w, get.calls_count == 1 && txn.calls_count == 1 && watch.final_count == 1);
    cr_assert(get.status == OTR_DENIED && txn.status == OTR_DENIED && watch.final_status == OTR_DENIED);
    cr_assert(strstr(txn.text, "user name is empty") != NULL, "%s", txn.text);
    watch_close(&watch);
    world_close_backend(w, b);
}

/* The password is changed in etcd, and some time later in the file: sessions live on, the watch misses nothing, and
 * what was refused meanwhile certainly was not done. */
SECURE(password_rotated)
{
    struct session session;
    struct watch watch = {0};
    struct txn txn = {0};

    session_await(w, &session, 2000);
    put_bound(w, "a/bound", "1", &session.s);
    watch_start(w, &watch, w->b, "a/", revision_now(w));
    put(w, "a/1", "1");
    etcd_server_ctl(w->coordinator, "echo other | etcdctl user passwd suite --interactive=false >/dev/null");
    do { /* A moment may pass before tokens of the old password end: 3.5 keeps them. */
        txn_put(&txn, "a/2", "1");
        world_pass(w, 100);
    } while (txn_await(w, &txn) == 0);
    cr_assert(txn.status == OTR_DENIED, "%s: %s", otr_errname(txn.status), txn.text);
    world_pass(w, 3000);
    cr_assert(session.lost_count == 0, "longer than its TTL");
    write_password("other");
    do {
        txn_put(&txn, "a/3", "1");
    } while (txn_await(w, &txn) == OTR_DENIED);
    cr_assert(txn.status == 0, "%s", txn.text);
    AWAIT(w, watch_holds(&watch, "a/3", "1"));
    cr_assert(watch.final_count == 0 && watch.resyncs_count == 0);
    cr_assert(session.lost_count == 0);
    cr_assert_str_eq(value_now(w, "a/bound"), "1");
    watch_close(&watch);
}

/* Authentication is switched off and on again under a running backend. */
SECURE(authentication_switched_off_and_on)
{
    struct session session;
    struct watch watch = {0};

    session_await(w, &session, 2000);
    watch_start(w, &watch, w->b, "a/", revision_now(w));
    put(w, "a/1", "1");
    etcd_server_ctl(w->coordinator, "etcdctl auth disable >/dev/null");
    put(w, "a/2", "1");
    etcd_server_ctl(w->coordinator, "unset ETCDCTL_USER ETCDCTL_PASSWORD; etcdctl auth enable >/dev/null");
    put(w, "a/3", "1");
    AWAIT(w, watch.seen_count == 3);
    cr_assert(session.lost_count == 0 && watch.resyncs_count == 0);
    watch_close(&watch);
}

/* --- permissions ------------------------------------------------------------------------------------------------ */

struct rights {
    bool get, put, put_if_absent, watch;
};

static void txn_done_now(struct otr_txn_req *req, int status, uint64_t revision, const struct otr_errmsg *msg)
{
    int *result = req->data;

    (void)revision;
    (void)msg;
    *result = status;
}

/* What one key below and one beside the prefix can be used for. */
static int txn_on(struct world *w, const char *key, bool compare)
{
    struct otr_compare absent = {.type = OTR_COMPARE_ABSENT, .key = key};
    struct otr_op op = {.type = OTR_OP_PUT, .key = key, .value = "1", .value_bytes = 1};
    struct otr_txn txn = {.compares = &absent, .compares_count = compare ? 1 : 0, .ops = &op, .ops_count = 1};
    int result = -1;
    struct otr_txn_req req = {.data = &result};

    cr_assert(w->ops->txn(w->b, &req, &txn, txn_done_now) == 0);
    AWAIT(w, result >= 0);
    return result;
}

static void expect_rights(struct world *w, const char *role_change, struct rights rights)
{
    struct get get;
    struct watch watch = {0};
    uint64_t revision;
    int rv;

    etcd_server_ctl(w->coordinator, role_change);
    get_start(w, &get, w->b, "p/");
    AWAIT(w, get.calls_count == 1);
    cr_assert(get.status == (rights.get ? 0 : OTR_DENIED), "%s: get: %s", role_change, otr_errname(get.status));
    revision = get.revision;
    get_close(&get);
    rv = txn_on(w, WORLD_PREFIX "p/b", false);
    cr_assert(rv == (rights.put ? 0 : OTR_DENIED), "%s: put: %s", role_change, otr_errname(rv));
    rv = txn_on(w, WORLD_PREFIX "p/c", true);
    cr_assert((rv != OTR_DENIED) == rights.put_if_absent, "%s: compare and put: %s", role_change, otr_errname(rv));
    watch_start(w, &watch, w->b, "p/", revision);
    if (rights.watch) {
        world_pass(w, 300);
        cr_assert(watch.final_count == 0);
    } else {
        AWAIT(w, watch.final_count == 1);
        cr_assert(watch.final_status == OTR_DENIED);
    }
    watch_close(&watch);
}

/* The shipped role allows everything below the prefix; with one permission less something fails. */
SECURE(role_is_the_smallest)
{
    struct session session;

    expect_rights(w, ":", (struct rights){.get = true, .put = true, .put_if_absent = true, .watch = true});
    expect_rights(w,
                  "etcdctl role revoke-permission --prefix=true outrigger-suite " WORLD_PREFIX " >/dev/null; "
                  "etcdctl role grant-permission outrigger-suite read --prefix=true " WORLD_PREFIX " >/dev/null",
                  (struct rights){.get = true, .watch = true});
    expect_rights(w,
                  "etcdctl role revoke-permission --prefix=true outrigger-suite " WORLD_PREFIX " >/dev/null; "
                  "etcdctl role grant-permission outrigger-suite write --prefix=true " WORLD_PREFIX " >/dev/null",
                  (struct rights){.put = true});
    expect_rights(w,
                  "etcdctl role revoke-permission --prefix=true outrigger-suite " WORLD_PREFIX " >/dev/null; "
                  "etcdctl role grant-permission outrigger-suite readwrite " WORLD_PREFIX "p/ " WORLD_PREFIX
                  "p/c >/dev/null",
                  (struct rights){.put = true}); /* p/b, but neither p/c nor the whole of p/ */
    /* Leases need none of it. */
    session_await(w, &session, 2000);
    world_pass(w, 2500);
    cr_assert(session.lost_count == 0 && session.unreachable_count == 0);
}

/* Beside the prefix nothing is allowed, nor to another cluster's keys; nor to end sessions whose keys are others'. */
SECURE(keys_outside_the_prefix)
{
    static const char *const keys[] = {
        "/outrigger/suite", "/outrigger/suite0", "/outrigger/other/config", "a", "/", "\xff"};
    struct get get;
    int rv;

    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++) {
        get = (struct get){.w = w, .req.data = &get, .status = -1};
        rv = txn_on(w, keys[i], false);
        cr_assert(rv == OTR_DENIED, "%s: %s", keys[i], otr_errname(rv));
    }
    etcd_server_ctl(w->coordinator,
                    "l=$(etcdctl lease grant 60 | cut -d' ' -f2); etcdctl put --lease=$l /outrigger/other/live 1 "
                    ">/dev/null; printf %d 0x$l >$(dirname $ETCDCTL_CERT)/lease");
    {
        char id[32] = "";
        FILE *file = fopen(secure_path("lease"), "re");

        cr_assert(file != NULL && fgets(id, sizeof id, file) != NULL && fclose(file) == 0);
        rv = session_revoke(w, id);
        cr_assert(rv == OTR_DENIED, "%s", otr_errname(rv));
    }
    put(w, "a/a", "1");
}
