/* `cluster enable-compression`: one setting of the coordinator's, among others that stay. */
#include "sidecar/cli/cluster.h"
#include "sidecar/coord/keys.h"
#include "tests/lib/fake_backend.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <stdlib.h>

TestSuite(cluster_compression, .timeout = 60);

static const char plain[] =
    "{\"shards\":4,\"replication_factor\":3,\"min_in_sync\":2,\"generation\":\"1\",\"later\":[1]}";
static const char zstd[] = "{\"shards\":4,\"replication_factor\":3,\"min_in_sync\":2,\"generation\":\"1\",\"later\":[1]"
                           ",\"compression\":\"zstd\"}";

struct fixture {
    struct loop loop;
    struct fake_coordinator *fake;
    struct coord_client c;
    struct otr_errmsg msg;
    char key[KEY_MAX];
};

static void open_fixture(struct fixture *f)
{
    struct otr_backend_config config = {.loop = &f->loop.uv};

    memset(f, 0, sizeof *f);
    cr_assert(zero(int, loop_init(&f->loop, &f->msg)));
    f->fake = fake_coordinator_new(&f->loop.uv);
    f->c = (struct coord_client){.loop = &f->loop, .ops = &otr_backend_fake, .cluster = "c"};
    config.endpoints = fake_coordinator_endpoint(f->fake);
    cr_assert(zero(int, otr_backend_fake.open(&f->c.backend, &config, &f->msg)));
    key_config(f->key, "c");
}

static void close_fixture(struct fixture *f)
{
    coord_client_close(&f->c);
    fake_coordinator_close(f->fake);
    loop_close(&f->loop);
}

static void put(struct fixture *f, const char *key, const char *value)
{
    const struct otr_op op = {.type = OTR_OP_PUT, .key = key, .value = value, .value_bytes = strlen(value)};

    cr_assert(zero(int, coord_client_txn(&f->c, &(struct otr_txn){.ops = &op, .ops_count = 1}, &f->msg)));
}

/* Its revision. */
static uint64_t assert_holds(struct fixture *f, const char *expected)
{
    uint64_t revision;
    char *value;

    cr_assert(zero(int, coord_client_get(&f->c, f->key, &value, &revision, &f->msg)), "%s", f->msg.text);
    cr_assert(eq(str, value, (char *)expected));
    free(value);
    return revision;
}

static void set(struct fixture *f, enum topology_compression wanted, enum topology_compression expected_before)
{
    enum topology_compression before;

    cr_assert(zero(int, cluster_compression_set(&f->c, wanted, &before, &f->msg)), "%s", f->msg.text);
    cr_assert(eq(int, (int)before, (int)expected_before));
}

Test(cluster_compression, on_and_off_leave_other_settings_alone)
{
    struct fixture f;

    open_fixture(&f);
    put(&f, f.key, plain);
    set(&f, TOPOLOGY_COMPRESSION_ZSTD, TOPOLOGY_COMPRESSION_NONE);
    assert_holds(&f, zstd);
    set(&f, TOPOLOGY_COMPRESSION_NONE, TOPOLOGY_COMPRESSION_ZSTD);
    assert_holds(&f, plain);
    close_fixture(&f);
}

Test(cluster_compression, what_is_so_already_is_not_written)
{
    struct fixture f;
    uint64_t revision;

    open_fixture(&f);
    put(&f, f.key, zstd);
    revision = assert_holds(&f, zstd);
    set(&f, TOPOLOGY_COMPRESSION_ZSTD, TOPOLOGY_COMPRESSION_ZSTD);
    cr_assert(eq(u64, assert_holds(&f, zstd), revision));
    close_fixture(&f);
}

/* A key that only begins like ours is none, and a cluster is not made by the way. */
Test(cluster_compression, no_cluster)
{
    enum topology_compression before;
    struct fixture f;
    uint64_t revision;
    char *value;

    open_fixture(&f);
    put(&f, "/outrigger/c/config-of-others", plain);
    cr_assert(eq(int, cluster_compression_set(&f.c, TOPOLOGY_COMPRESSION_ZSTD, &before, &f.msg), OTR_NOTFOUND));
    cr_assert(ne(ptr, strstr(f.msg.text, "cluster init"), NULL), "%s", f.msg.text);
    cr_assert(eq(int, coord_client_get(&f.c, f.key, &value, &revision, &f.msg), OTR_NOTFOUND));
    close_fixture(&f);
}

Test(cluster_compression, settings_that_cannot_be_read_stay)
{
    enum topology_compression before;
    struct fixture f;

    open_fixture(&f);
    put(&f, f.key, "{}");
    cr_assert(eq(int, cluster_compression_set(&f.c, TOPOLOGY_COMPRESSION_ZSTD, &before, &f.msg), OTR_PROTO));
    assert_holds(&f, "{}");
    close_fixture(&f);
}

/* --- somebody else changes the settings between our look and our change --------------------------------------------
 */

static int meddlings; /* still to come */
static struct otr_txn_req meddler_req;

static void meddled(struct otr_txn_req *req, int status, uint64_t revision, const struct otr_errmsg *msg)
{
    (void)req;
    (void)revision;
    (void)msg;
    cr_assert(zero(int, status));
}

static int meddling_txn(struct otr_backend *b, struct otr_txn_req *req, const struct otr_txn *txn, otr_txn_cb cb)
{
    if (meddlings > 0) {
        const struct otr_op op = {
            .type = OTR_OP_PUT, .key = txn->ops[0].key, .value = plain, .value_bytes = strlen(plain)};

        meddlings--;
        cr_assert(
            zero(int, otr_backend_fake.txn(b, &meddler_req, &(struct otr_txn){.ops = &op, .ops_count = 1}, meddled)));
    }
    return otr_backend_fake.txn(b, req, txn, cb);
}

Test(cluster_compression, meddling_is_outlived_or_told)
{
    struct otr_backend_ops meddling = otr_backend_fake;
    enum topology_compression before;
    struct fixture f;

    open_fixture(&f);
    put(&f, f.key, plain);
    meddling.txn = meddling_txn;
    f.c.ops = &meddling;
    meddlings = 2;
    set(&f, TOPOLOGY_COMPRESSION_ZSTD, TOPOLOGY_COMPRESSION_NONE);
    cr_assert(zero(int, meddlings));
    assert_holds(&f, zstd);
    put(&f, f.key, plain);
    meddlings = 1000;
    cr_assert(eq(int, cluster_compression_set(&f.c, TOPOLOGY_COMPRESSION_ZSTD, &before, &f.msg), OTR_CONFLICT));
    meddlings = 0;
    assert_holds(&f, plain);
    f.c.ops = &otr_backend_fake;
    close_fixture(&f);
}
