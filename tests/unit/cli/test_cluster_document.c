/* `cluster export` and `cluster import` against a coordinator that does what the test wants: a round trip, refusals
 * that change nothing, interruptions at each step, others who write at the same time. */
#include "sidecar/cli/cluster.h"
#include "sidecar/cli/cluster_document.h"
#include "tests/lib/fake_backend.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <stdio.h>
#include <stdlib.h>

TestSuite(cluster_document, .timeout = 60);

enum { SHARDS = 100 };

struct fixture {
    struct loop loop;
    struct fake_coordinator *fake;
    struct coord_client c;
    struct otr_errmsg msg;
    struct document d;
};

static void add(struct document *d, const char *key, const char *value)
{
    struct otr_errmsg msg = {0};

    cr_assert(zero(int, document_add(d, key, value, &msg)), "%s", msg.text);
}

/* A cluster of more keys than a transaction takes. */
static void make_document(struct document *d)
{
    uint64_t width = (UINT64_C(1) << 32) / SHARDS;
    char key[64], value[512];

    *d = (struct document){.cluster = "c"};
    snprintf(value, sizeof value,
             "{\"shards\":%d,\"replication_factor\":1,\"min_in_sync\":1,\"generation\":\"1\",\"later\":7}", SHARDS);
    add(d, "config", value);
    add(d, "nodes/n1", "{\"zone\":\"z\",\"state\":\"active\"}");
    add(d, "collections/docs", "{\"id\":\"00000000000000c1\",\"dimension\":3,\"metric\":\"cosine\"}");
    for (unsigned i = 0; i < SHARDS; i++) {
        snprintf(key, sizeof key, "shards/%u", i);
        snprintf(value, sizeof value,
                 "{\"id\":%u,\"range\":[%llu,%llu],\"generation\":\"1\",\"version\":\"0\",\"epoch\":\"0\",\"primary\":"
                 "null,\"in_sync\":[],\"replicas\":[\"n1\"],\"learners\":[],\"state\":\"active\",\"position\":"
                 "{\"epoch\":\"0\",\"index\":\"0\"},\"mode\":\"sync\",\"min_in_sync\":1,\"grant_ms\":120}",
                 i, (unsigned long long)(i * width),
                 (unsigned long long)(i + 1 < SHARDS ? (i + 1) * width - 1 : UINT32_MAX));
        add(d, key, value);
    }
    cr_assert(zero(int, document_sort(d, NULL)));
}

static void open_fixture(struct fixture *f)
{
    struct otr_backend_config config = {.loop = &f->loop.uv};

    memset(f, 0, sizeof *f);
    cr_assert(zero(int, loop_init(&f->loop, &f->msg)));
    f->fake = fake_coordinator_new(&f->loop.uv);
    f->c = (struct coord_client){.loop = &f->loop, .ops = &otr_backend_fake, .cluster = "c"};
    config.endpoints = fake_coordinator_endpoint(f->fake);
    cr_assert(zero(int, otr_backend_fake.open(&f->c.backend, &config, &f->msg)));
    make_document(&f->d);
}

static void close_fixture(struct fixture *f)
{
    document_close(&f->d);
    f->c.ops = &otr_backend_fake;
    coord_client_close(&f->c);
    fake_coordinator_close(f->fake);
    loop_close(&f->loop);
}

static void change(struct fixture *f, enum otr_op_type type, const char *key, const char *value)
{
    const struct otr_op op = {
        .type = type, .key = key, .value = value, .value_bytes = value != NULL ? strlen(value) : 0};

    cr_assert(zero(int, coord_client_txn(&f->c, &(struct otr_txn){.ops = &op, .ops_count = 1}, &f->msg)));
}

static void put(struct fixture *f, const char *key, const char *value)
{
    change(f, OTR_OP_PUT, key, value);
}

static int count_key(void *data, const struct otr_kv *kv, struct otr_errmsg *msg)
{
    (void)kv;
    (void)msg;
    ++*(unsigned *)data;
    return 0;
}

static unsigned keys_count(struct fixture *f)
{
    unsigned count = 0;

    cr_assert(zero(int, coord_client_visit(&f->c, count_key, &count, &f->msg)));
    return count;
}

static bool stands(struct fixture *f, const char *key)
{
    struct otr_errmsg msg = {0};
    uint64_t revision;
    char *value;
    int rv = coord_client_get(&f->c, key, &value, &revision, &msg);

    if (rv == 0) {
        free(value);
    }
    cr_assert(rv == 0 || rv == OTR_NOTFOUND);
    return rv == 0;
}

/* What is there is the document, to the byte. */
static void assert_written(struct fixture *f)
{
    struct document back = {.count = 0};
    struct cluster_exported e;
    char *text, *wanted;

    cr_assert(zero(int, cluster_export(&f->c, &back, &e, &f->msg)), "%s", f->msg.text);
    text = document_print(&back);
    wanted = document_print(&f->d);
    cr_assert(eq(str, text, wanted));
    cr_assert(not(stands(f, "/outrigger/c/import")));
    free(text);
    free(wanted);
    document_close(&back);
}

static void import(struct fixture *f, size_t removed)
{
    struct cluster_imported done;

    cr_assert(zero(int, cluster_import(&f->c, &f->d, &done, &f->msg)), "%s", f->msg.text);
    cr_assert(eq(sz, done.keys, f->d.count));
    cr_assert(eq(sz, done.removed, removed));
    assert_written(f);
}

static void refused(struct fixture *f, int expected, const char *words)
{
    struct cluster_imported done;
    int rv = cluster_import(&f->c, &f->d, &done, &f->msg);

    cr_assert(eq(int, rv, expected), "%s: %s", otr_errname(rv), f->msg.text);
    cr_assert(ne(ptr, strstr(f->msg.text, words), NULL), "%s", f->msg.text);
}

Test(cluster_document, out_and_in_again)
{
    struct fixture f;

    open_fixture(&f);
    import(&f, 0);
    refused(&f, OTR_EXISTS, "has a cluster c");
    assert_written(&f);
    close_fixture(&f);
}

static void opened(struct otr_session *s, enum otr_session_state state, const struct otr_errmsg *msg)
{
    (void)msg;
    if (state == OTR_SESSION_OPEN) {
        *(bool *)s->data = true;
    }
}

static void put_bound(struct fixture *f, struct otr_session *s, const char *key, const char *value)
{
    const struct otr_op op = {
        .type = OTR_OP_PUT_BOUND, .key = key, .value = value, .value_bytes = strlen(value), .session = s};

    cr_assert(zero(int, coord_client_txn(&f->c, &(struct otr_txn){.ops = &op, .ops_count = 1}, &f->msg)));
}

/* What hangs on sessions is left out and counted; so is what is nobody's. */
Test(cluster_document, export_has_durable_keys_only)
{
    struct document back = {.count = 0};
    struct cluster_exported e;
    struct otr_session s = {0};
    bool done = false;
    struct fixture f;

    open_fixture(&f);
    import(&f, 0);
    s.data = &done;
    cr_assert(zero(int, f.c.ops->session_open(f.c.backend, &s, 5000, opened)));
    cr_assert(zero(int, loop_finish(&f.loop, &done, 0)));
    put_bound(&f, &s, "/outrigger/c/live/n1", "{}");
    put_bound(&f, &s, "/outrigger/c/leases/0", "{}");
    put_bound(&f, &s, "/outrigger/c/other", "{}");
    put(&f, "/outrigger/c/leases/1", "{}");
    put(&f, "/outrigger/c/strange", "not JSON");
    put(&f, "/outrigger/c2/config", "{}");
    cr_assert(zero(int, cluster_export(&f.c, &back, &e, &f.msg)), "%s", f.msg.text);
    cr_assert(eq(sz, back.count, f.d.count));
    cr_assert(eq(u32, e.live, 1));
    cr_assert(eq(u32, e.skipped, 1));
    cr_assert(eq(str, e.skipped_name, "strange"));
    document_close(&back);
    close_fixture(&f);
}

Test(cluster_document, export_of_what_is_no_whole_cluster)
{
    struct document back = {.count = 0};
    struct cluster_exported e;
    struct fixture f;

    open_fixture(&f);
    cr_assert(eq(int, cluster_export(&f.c, &back, &e, &f.msg), OTR_NOTFOUND));
    document_close(&back);
    put(&f, "/outrigger/c/import", "{}");
    cr_assert(eq(int, cluster_export(&f.c, &back, &e, &f.msg), OTR_CONFLICT));
    document_close(&back);
    change(&f, OTR_OP_DELETE, "/outrigger/c/import", NULL);
    import(&f, 0);
    change(&f, OTR_OP_DELETE, "/outrigger/c/shards/7", NULL);
    cr_assert(eq(int, cluster_export(&f.c, &back, &e, &f.msg), OTR_PROTO));
    cr_assert(ne(ptr, strstr(f.msg.text, "shards/7"), NULL), "%s", f.msg.text);
    document_close(&back);
    put(&f, "/outrigger/c/shards/7", "{");
    cr_assert(eq(int, cluster_export(&f.c, &back, &e, &f.msg), OTR_PROTO));
    cr_assert(ne(ptr, strstr(f.msg.text, "shards/7"), NULL), "%s", f.msg.text);
    document_close(&back);
    close_fixture(&f);
}

Test(cluster_document, import_is_refused_with_nothing_changed)
{
    struct fixture f;

    open_fixture(&f);
    strcpy(f.d.cluster, "another");
    refused(&f, OTR_INVALID, "of cluster another, not of c");
    strcpy(f.d.cluster, "c");

    put(&f, "/outrigger/c/live/n9", "{}");
    refused(&f, OTR_INUSE, "n9 among them");
    change(&f, OTR_OP_DELETE, "/outrigger/c/live/n9", NULL);

    put(&f, "/outrigger/c/shards/0", "{}");
    refused(&f, OTR_EXISTS, "shards/0 among them");
    change(&f, OTR_OP_DELETE, "/outrigger/c/shards/0", NULL);

    cr_assert(eq(u32, keys_count(&f), 0));
    add(&f.d, "shards/100", "{}");
    refused(&f, OTR_PROTO, "shards/100");
    cr_assert(eq(u32, keys_count(&f), 0));
    close_fixture(&f);
}

/* Sidecars that were started too early have left their names. */
Test(cluster_document, nodes_that_waited)
{
    struct fixture f;

    open_fixture(&f);
    put(&f, "/outrigger/c/nodes/n1", "{\"zone\":\"old\",\"state\":\"active\"}");
    put(&f, "/outrigger/c/nodes/n7", "{\"zone\":\"\",\"state\":\"active\"}");
    import(&f, 1);
    close_fixture(&f);
}

/* --- interruptions ------------------------------------------------------------------------------------------------ */

static unsigned txns;     /* sent so far */
static unsigned spoil_at; /* this one, from 1 on ... */
static void (*spoil)(struct otr_backend *b);
static enum fake_outcome outcome; /* ... or it has this outcome */
static struct fake_coordinator *fake;

static int spoiled_txn(struct otr_backend *b, struct otr_txn_req *req, const struct otr_txn *txn, otr_txn_cb cb)
{
    if (++txns == spoil_at) {
        if (spoil != NULL) {
            spoil(b);
        } else {
            fake_next_txn(fake, outcome);
        }
    }
    return otr_backend_fake.txn(b, req, txn, cb);
}

static struct otr_backend_ops spoiling;

static void begin_spoiling(struct fixture *f, unsigned at, enum fake_outcome what, void (*by)(struct otr_backend *))
{
    spoiling = otr_backend_fake;
    spoiling.txn = spoiled_txn;
    f->c.ops = &spoiling;
    fake = f->fake;
    txns = 0;
    spoil_at = at;
    outcome = what;
    spoil = by;
}

/* Each transaction gets lost, or is carried out and its answer lost: without `config` nothing counts, and the next run
 * makes it whole. */
Test(cluster_document, interrupted_at_each_transaction)
{
    static const enum fake_outcome outcomes[] = {FAKE_OUTCOME_LOST, FAKE_OUTCOME_APPLIED};
    unsigned all = 0;

    for (unsigned at = 1; at <= 4; at++) {
        for (size_t o = 0; o < 2; o++) {
            struct cluster_imported done;
            struct fixture f;
            int rv;

            open_fixture(&f);
            begin_spoiling(&f, at, outcomes[o], NULL);
            rv = cluster_import(&f.c, &f.d, &done, &f.msg);
            all = txns;
            f.c.ops = &otr_backend_fake;
            /* Answers of the first and the last are looked up. */
            if (rv == 0) {
                cr_assert(outcomes[o] == FAKE_OUTCOME_APPLIED && (at == 1 || at == 4), "%u", at);
                assert_written(&f);
            } else {
                cr_assert(eq(int, rv, OTR_UNKNOWN), "%u: %s", at, f.msg.text);
                cr_assert(not(stands(&f, "/outrigger/c/config")));
                cr_assert(zero(int, cluster_import(&f.c, &f.d, &done, &f.msg)), "%u: %s", at, f.msg.text);
                assert_written(&f);
            }
            close_fixture(&f);
        }
    }
    cr_assert(eq(u32, all, 4), "an import of %d keys takes 4 transactions", SHARDS + 3);
}

/* After an interrupted run another document may be imported: nothing of the first one stays. */
Test(cluster_document, another_document_after_an_interrupted_one)
{
    struct cluster_imported done;
    struct fixture f;

    open_fixture(&f);
    add(&f.d, "collections/gone", "{\"id\":\"00000000000000c2\",\"dimension\":3,\"metric\":\"cosine\"}");
    cr_assert(zero(int, document_sort(&f.d, NULL)));
    begin_spoiling(&f, 3, FAKE_OUTCOME_APPLIED, NULL);
    cr_assert(eq(int, cluster_import(&f.c, &f.d, &done, &f.msg), OTR_UNKNOWN));
    f.c.ops = &otr_backend_fake;
    cr_assert(stands(&f, "/outrigger/c/collections/gone"));
    document_close(&f.d);
    make_document(&f.d);
    import(&f, 1);
    close_fixture(&f);
}

/* A transaction of an interrupted run that arrives late finds `import` changed, and does nothing. */
Test(cluster_document, late_transaction_of_an_interrupted_run)
{
    struct cluster_imported done;
    struct fixture f;

    open_fixture(&f);
    begin_spoiling(&f, 2, FAKE_OUTCOME_LATE, NULL);
    cr_assert(eq(int, cluster_import(&f.c, &f.d, &done, &f.msg), OTR_UNKNOWN));
    f.c.ops = &otr_backend_fake;
    import(&f, 0);
    cr_assert(zero(u32, fake_release_late(f.fake)));
    assert_written(&f);
    close_fixture(&f);
}

/* --- others at the same time -------------------------------------------------------------------------------------- */

static struct otr_txn_req meddler_req;
static const char *meddler_key;
static const char *meddler_value;

static void meddled(struct otr_txn_req *req, int status, uint64_t revision, const struct otr_errmsg *msg)
{
    (void)req;
    (void)revision;
    (void)msg;
    cr_assert(zero(int, status));
}

static void meddle(struct otr_backend *b)
{
    const struct otr_op op = {
        .type = OTR_OP_PUT, .key = meddler_key, .value = meddler_value, .value_bytes = strlen(meddler_value)};

    cr_assert(zero(int, otr_backend_fake.txn(b, &meddler_req, &(struct otr_txn){.ops = &op, .ops_count = 1}, meddled)));
}

Test(cluster_document, somebody_else_at_each_step)
{
    static const struct {
        const char *key;
        unsigned first, last; /* of the transactions before which it stops the import */
    } cases[] = {
        {"/outrigger/c/config", 1, 4},
        {"/outrigger/c/import", 1, 4},
        {"/outrigger/c/shards/200", 1, 3},
    };

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        for (unsigned at = cases[i].first; at <= cases[i].last; at++) {
            struct cluster_imported done;
            struct fixture f;

            open_fixture(&f);
            meddler_key = cases[i].key;
            meddler_value = "{\"by\":\"another\"}";
            begin_spoiling(&f, at, FAKE_OUTCOME_NORMAL, meddle);
            cr_assert(eq(int, cluster_import(&f.c, &f.d, &done, &f.msg), OTR_CONFLICT), "%s before %u: %s", meddler_key,
                      at, f.msg.text);
            f.c.ops = &otr_backend_fake;
            cr_assert(eq(int, stands(&f, "/outrigger/c/config"), i == 0));
            close_fixture(&f);
        }
    }
}

/* `cluster init` does not make a whole out of the parts of an import. */
Test(cluster_document, init_during_an_import)
{
    const struct cluster_plan plan = {.nodes = 1};
    struct cluster_made made;
    struct fixture f;

    open_fixture(&f);
    put(&f, "/outrigger/c/import", "{}");
    cr_assert(eq(int, cluster_init(&f.c, &plan, &made, NULL, NULL, &f.msg), OTR_EXISTS));
    cr_assert(ne(ptr, strstr(f.msg.text, "import"), NULL), "%s", f.msg.text);
    cr_assert(eq(u32, keys_count(&f), 1));
    close_fixture(&f);
}

Test(cluster_document, coordinator_away)
{
    struct cluster_exported e;
    struct fixture f;
    struct document d = {.count = 0};

    open_fixture(&f);
    fake_set_reach(f.fake, FAKE_DOWN);
    refused(&f, OTR_UNREACHABLE, "");
    cr_assert(eq(int, cluster_export(&f.c, &d, &e, &f.msg), OTR_UNREACHABLE));
    document_close(&d);
    close_fixture(&f);
}
