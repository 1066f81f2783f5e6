#include "lab.h"

#include "lab_backend.h"
#include "sidecar/coord/keys.h"
#include "sidecar/coord/values.h"
#include "sidecar/core/placement.h"
#include "sidecar/io/clock.h"
#include "sidecar/io/log.h"
#include "sidecar/io/random.h"
#include "sidecar/node/node_internal.h"
#include "tests/lib/fake_backend.h"
#include "tests/lib/fake_engine.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static const char *const names[LAB_NODES] = {"n1", "n2", "n3"};
static const char *const engines[LAB_NODES] = {"fake:1", "fake:2", "fake:3"};

static void lab_fatal(void *data, const char *why)
{
    (void)data;
    cr_assert(false, "a node wants to die: %s", why);
}

void lab_until(struct lab *lab, bool (*holds)(struct lab *lab, void *data), void *data, const char *what)
{
    uint64_t deadline = clock_now_ms() + 10000;

    while (!holds(lab, data)) {
        cr_assert(clock_now_ms() < deadline, "not within 10 s: %s", what);
        uv_run(&lab->loop, UV_RUN_ONCE); /* nodes tick every 10 ms: never blocks for long */
    }
}

/* --- nodes
 * -------------------------------------------------------------------------------------------------------------- */

void lab_start(struct lab *lab, int i)
{
    struct otr_errmsg msg = {0};
    char dir[96];
    struct node_config config = {
        .loop = &lab->loop,
        .cluster = "lab",
        .node = names[i],
        .data_dir = dir,
        .client = {"127.0.0.1", 1},
        .peer = {"127.0.0.1", lab->ports[i]},
        .peer_listen_host = "127.0.0.1",
        .peer_listen_port = lab->ports[i],
        .backend = &lab_backend_ops,
        .backend_config = {.endpoints = fake_coordinator_endpoint(lab->coordinator)},
        .engine = &otr_engine_fake,
        .engine_config = {.url = engines[i]},
        .session_ttl_ms = 3000,
        .compression = lab->compression[i],
        .scrub_bytes_per_s = lab->scrubs ? 1 << 30 : 0,
        .compaction = {.segment_bytes = lab->segment_bytes, .retain_bytes = lab->segment_bytes != 0 ? 1 << 30 : 0},
        .on_fatal = lab_fatal,
    };
    int rv;

    snprintf(dir, sizeof dir, "%s/%s", lab->dir, names[i]);
    rv = node_new(&lab->nodes[i], &config, &msg);
    cr_assert(eq(int, rv, 0), "%s", msg.text);
}

static void on_stopped(void *data)
{
    *(bool *)data = true;
}

static bool is_set(struct lab *lab, void *data)
{
    (void)lab;
    return *(bool *)data;
}

void lab_stop(struct lab *lab, int i)
{
    bool closed = false;

    node_close(lab->nodes[i], on_stopped, &closed);
    lab->nodes[i] = NULL;
    lab_until(lab, is_set, &closed, "a node closes");
}

void lab_crash(struct lab *lab, int i)
{
    lab->nodes[i]->dying = true;
    lab_stop(lab, i);
}

void lab_wipe(struct lab *lab, int i)
{
    char command[160];

    snprintf(command, sizeof command, "rm -rf %s/%s", lab->dir, names[i]);
    cr_assert(eq(int, system(command), 0));
}

static bool damage_file(const char *path, const char *text, bool all)
{
    static char bytes[1 << 20];
    size_t length = strlen(text);
    FILE *f = fopen(path, "r+b");
    bool found = false;
    size_t count;

    cr_assert(f != NULL);
    count = fread(bytes, 1, sizeof bytes, f);
    for (size_t i = 0; i + length <= count && (all || !found); i++) {
        if (memcmp(bytes + i, text, length) == 0) {
            found = true;
            cr_assert(eq(int, fseek(f, (long)i, SEEK_SET), 0));
            cr_assert(eq(int, fputc(bytes[i] ^ 1, f) >= 0, 1));
        }
    }
    fclose(f);
    return found;
}

bool lab_damage(struct lab *lab, int i, const char *text, bool all)
{
    bool found = false;
    char path[128];
    char next[128];

    for (int number = 1; all || !found; number++) {
        snprintf(path, sizeof path, "%s/%s/%08d.log", lab->dir, names[i], number);
        snprintf(next, sizeof next, "%s/%s/%08d.log", lab->dir, names[i], number + 1);
        if (access(next, F_OK) != 0) {
            break;
        }
        found = damage_file(path, text, all) || found;
    }
    return found;
}

static void on_never(uv_stream_t *stream, int status)
{
    (void)stream;
    (void)status;
}

/* Below the ports that connections are given, so that nobody else's takes it before we listen; each process looks
 * elsewhere first. */
static uint16_t free_port(uv_loop_t *loop)
{
    static uint16_t next;
    struct sockaddr_in address;
    bool taken = true;

    next = next != 0 ? next : (uint16_t)(10000 + (unsigned)getpid() * 37U % 20000);
    while (taken) {
        uv_tcp_t tcp;

        next = next < 31000 ? (uint16_t)(next + 1) : 10000;
        uv_tcp_init(loop, &tcp);
        uv_ip4_addr("127.0.0.1", next, &address);
        /* libuv tells of a port in use when it listens. */
        taken = uv_tcp_bind(&tcp, (const struct sockaddr *)&address, 0) != 0 ||
                uv_listen((uv_stream_t *)&tcp, 1, on_never) != 0;
        uv_close((uv_handle_t *)&tcp, NULL);
        uv_run(loop, UV_RUN_NOWAIT);
    }
    return next;
}

/* --- setting up
 * -------------------------------------------------------------------------------------------------------------- */

struct put_all {
    bool done;
    int status;
};

static void on_put_all(struct otr_txn_req *req, int status, uint64_t revision, const struct otr_errmsg *msg)
{
    struct put_all *p = req->data;

    (void)revision;
    (void)msg;
    p->done = true;
    p->status = status;
}

static void put_key(struct lab *lab, const char *key, char *value)
{
    struct put_all p = {0};
    struct otr_txn_req req = {.data = &p};
    struct otr_op op = {.type = OTR_OP_PUT, .key = key, .value = value, .value_bytes = strlen(value)};
    struct otr_backend *b = node_backend(lab->nodes[0]);
    int rv = b->ops->txn(b, &req, &(struct otr_txn){.ops = &op, .ops_count = 1}, on_put_all);

    cr_assert(eq(int, rv, 0));
    lab_until(lab, is_set, &p.done, "a key is put");
    cr_assert(eq(int, p.status, 0));
    free(value);
}

static void init_cluster(struct lab *lab)
{
    struct topology *t = topology_new();
    struct placement_node nodes[LAB_NODES];
    struct topology_config config = {0};
    struct descriptor d[16];
    char key[KEY_MAX];

    for (int i = 0; i < LAB_NODES; i++) {
        nodes[i] = (struct placement_node){.node = topology_intern(t, names[i]), .zone = ""};
    }
    topology_config_defaults(&config);
    config.shards_count = lab->shards;
    config.replication_factor = 3;
    config.min_in_sync = 2;
    config.compression = lab->compressed ? TOPOLOGY_COMPRESSION_ZSTD : TOPOLOGY_COMPRESSION_NONE;
    cr_assert(eq(int, placement_initial(nodes, LAB_NODES, 3, lab->shards, 2, config.grant_ms, 1, d, NULL), 0));
    for (uint32_t i = 0; i < lab->shards; i++) {
        key_shard(key, "lab", i);
        put_key(lab, key, value_descriptor_print(t, &d[i]));
    }
    key_config(key, "lab");
    put_key(lab, key, value_config_print(&config));
    topology_free(t);
}

static void open_all(struct lab *lab)
{
    if (getenv("LAB_VERBOSE") == NULL) {
        log_set_level(LOG_ERROR);
    }
    cr_assert(eq(int, uv_loop_init(&lab->loop), 0));
    lab->coordinator = fake_coordinator_new(&lab->loop);
    snprintf(lab->dir, sizeof lab->dir, "/tmp/outrigger-lab-XXXXXX");
    cr_assert(mkdtemp(lab->dir) != NULL);
    for (int i = 0; i < LAB_NODES; i++) {
        lab->ports[i] = free_port(&lab->loop);
    }
    for (int i = 0; i < LAB_NODES; i++) {
        lab_start(lab, i);
    }
    init_cluster(lab);
    lab_until(lab, lab_writable, NULL, "all shards are writable");
}

void lab_open(struct lab *lab, uint32_t shards)
{
    *lab = (struct lab){.shards = shards};
    open_all(lab);
}

void lab_open_compressed(struct lab *lab, uint32_t shards, const enum node_compression modes[LAB_NODES])
{
    *lab = (struct lab){.shards = shards, .compressed = true};
    memcpy(lab->compression, modes, sizeof lab->compression);
    open_all(lab);
}

void lab_open_small(struct lab *lab, uint32_t shards, bool scrubs)
{
    *lab = (struct lab){.shards = shards, .segment_bytes = 8192, .scrubs = scrubs};
    open_all(lab);
}

void lab_close(struct lab *lab)
{
    char command[160];

    for (int i = 0; i < LAB_NODES; i++) {
        if (lab->nodes[i] != NULL) {
            lab_stop(lab, i);
        }
    }
    fake_coordinator_close(lab->coordinator);
    uv_run(&lab->loop, UV_RUN_DEFAULT);
    cr_assert(eq(int, uv_loop_close(&lab->loop), 0));
    fake_engine_reset();
    snprintf(command, sizeof command, "rm -rf %s", lab->dir);
    cr_assert(eq(int, system(command), 0));
}

/* --- conditions
 * -------------------------------------------------------------------------------------------------------------- */

int lab_primary(struct lab *lab, otr_shard shard)
{
    for (int i = 0; i < LAB_NODES; i++) {
        struct replica_status status;
        if (lab->nodes[i] != NULL && node_shard_status(lab->nodes[i], shard, &status) &&
            status.role == REPLICA_PRIMARY && status.writable) {
            return i;
        }
    }
    return -1;
}

bool lab_opened(struct lab *lab, void *data)
{
    (void)data;
    for (int i = 0; i < LAB_NODES; i++) {
        for (otr_shard s = 0; lab->nodes[i] != NULL && s < lab->shards; s++) {
            struct replica_status status;
            uint64_t count;
            if (!node_shard_status(lab->nodes[i], s, &status) || !node_count(lab->nodes[i], s, 0, &count)) {
                return false;
            }
        }
    }
    return true;
}

bool lab_writable(struct lab *lab, void *data)
{
    (void)data;
    for (otr_shard s = 0; s < lab->shards; s++) {
        if (lab_primary(lab, s) < 0) {
            return false;
        }
    }
    return true;
}

bool lab_in_sync(struct lab *lab, void *data)
{
    uint32_t running = 0;

    (void)data;
    for (int i = 0; i < LAB_NODES; i++) {
        running += lab->nodes[i] != NULL;
    }
    for (otr_shard s = 0; s < lab->shards; s++) {
        struct replica_status status;
        int p = lab_primary(lab, s);
        if (p < 0 || !node_shard_status(lab->nodes[p], s, &status) || status.descriptor->in_sync_count != running) {
            return false;
        }
    }
    return true;
}

otr_shard lab_shard_of(struct lab *lab, const char *id)
{
    otr_shard shard = 0;

    for (int i = 0; i < LAB_NODES; i++) {
        if (lab->nodes[i] != NULL) {
            cr_assert(topology_route(node_topology(lab->nodes[i]), point_hash(id, strlen(id)), &shard));
            break;
        }
    }
    return shard;
}

/* --- operations
 * -------------------------------------------------------------------------------------------------------------- */

struct called {
    bool done;
    int status;
    struct node_write_result result;
    float x;
    char *ids;
    size_t ids_bytes;
};

static void on_status(void *data, int status, const struct otr_errmsg *msg)
{
    struct called *c = data;

    (void)msg;
    c->done = true;
    c->status = status;
}

static int any_node(struct lab *lab)
{
    for (int i = 0; i < LAB_NODES; i++) {
        if (lab->nodes[i] != NULL) {
            return i;
        }
    }
    return -1;
}

struct seen {
    uint64_t id;
    bool wanted;
};

static bool all_see(struct lab *lab, void *data)
{
    struct seen *seen = data;

    for (int i = 0; i < LAB_NODES; i++) {
        if (lab->nodes[i] != NULL &&
            (topology_collection_by_id(node_topology(lab->nodes[i]), seen->id) != NULL) != seen->wanted) {
            return false;
        }
    }
    return true;
}

uint64_t lab_collection(struct lab *lab, const char *name)
{
    struct topology_collection c = {.id = random_u64(), .dimension = LAB_DIMENSION, .metric = OTR_METRIC_EUCLIDEAN};
    struct called called = {0};
    struct seen seen = {.id = c.id, .wanted = true};

    snprintf(c.name, sizeof c.name, "%s", name);
    cr_assert(eq(int, node_collection_create(lab->nodes[any_node(lab)], &c, on_status, &called), 0));
    lab_until(lab, is_set, &called.done, "a collection is made");
    cr_assert(eq(int, called.status, 0));
    lab_until(lab, all_see, &seen, "all nodes see the collection");
    return c.id;
}

void lab_drop(struct lab *lab, const char *name)
{
    struct called called = {0};
    const struct topology_collection *c = topology_collection(node_topology(lab->nodes[any_node(lab)]), name);
    struct seen seen = {.id = c->id, .wanted = false};

    cr_assert(eq(int, node_collection_delete(lab->nodes[any_node(lab)], name, on_status, &called), 0));
    lab_until(lab, is_set, &called.done, "a collection is deleted");
    cr_assert(eq(int, called.status, 0));
    lab_until(lab, all_see, &seen, "all nodes see the deletion");
}

static void on_written(void *data, const struct node_write_result *result)
{
    struct called *c = data;

    c->done = true;
    c->result = *result;
}

static struct node_write_result write_point(struct lab *lab, enum record_kind kind, const uint8_t *body, size_t bytes,
                                            const char *id)
{
    otr_shard shard = lab_shard_of(lab, id);
    struct otr_request_id request;

    random_bytes(request.bytes, sizeof request.bytes);
    for (;;) {
        struct called called = {0};
        int p;
        lab_until(lab, lab_writable, NULL, "writable");
        p = lab_primary(lab, shard);
        cr_assert(eq(int, node_write(lab->nodes[p], shard, &request, kind, body, bytes, on_written, &called), 0));
        lab_until(lab, is_set, &called.done, "a write is answered");
        if (called.result.status == 0 || called.result.status == OTR_INVALID || called.result.status == OTR_NOTFOUND) {
            return called.result;
        }
    }
}

struct node_write_result lab_put(struct lab *lab, uint64_t collection, const char *id, float x)
{
    float vector[LAB_DIMENSION] = {x, 1, 0, 0};
    struct otr_point p = {.id = id, .id_bytes = (uint32_t)strlen(id), .dimension = LAB_DIMENSION, .vector = vector};
    _Alignas(8) uint8_t body[512];

    put_body_write(body, collection, &p, 1);
    return write_point(lab, RECORD_PUT, body, put_body_bytes(&p, 1), id);
}

struct node_write_result lab_delete(struct lab *lab, uint64_t collection, const char *id)
{
    struct otr_point p = {.id = id, .id_bytes = (uint32_t)strlen(id)};
    _Alignas(8) uint8_t body[512];

    delete_body_write(body, collection, &p, 1);
    return write_point(lab, RECORD_DELETE, body, delete_body_bytes(&p, 1), id);
}

static void on_got(void *data, int status, const struct otr_point *points, size_t count, const struct otr_errmsg *msg)
{
    struct called *c = data;

    (void)msg;
    c->done = true;
    c->status = status;
    c->x = count == 1 ? points[0].vector[0] : NAN;
}

float lab_get(struct lab *lab, int i, uint64_t collection, const char *id, enum node_consistency consistency,
              int *status)
{
    struct otr_point p = {.id = id, .id_bytes = (uint32_t)strlen(id)};
    struct called called = {0};
    struct node_get get = {
        .shard = lab_shard_of(lab, id),
        .collection = collection,
        .ids = &p,
        .ids_count = 1,
        .consistency = consistency,
        .timeout_ms = 5000,
    };

    cr_assert(eq(int, node_get(lab->nodes[i], &get, on_got, &called), 0));
    lab_until(lab, is_set, &called.done, "a get is answered");
    if (status != NULL) {
        *status = called.status;
    }
    return called.x;
}

static void on_searched(void *data, int status, const struct node_hit *hits, size_t count, const struct otr_errmsg *msg)
{
    struct called *c = data;
    size_t used = 0;

    c->done = true;
    c->status = status;
    cr_assert(eq(int, status, 0), "%s", msg->text);
    c->ids[0] = '\0';
    for (size_t i = 0; i < count; i++) {
        used += (size_t)snprintf(c->ids + used, c->ids_bytes - used, "%s%.*s", i > 0 ? " " : "",
                                 (int)hits[i].point.id_bytes, hits[i].point.id);
    }
}

void lab_search(struct lab *lab, int i, otr_shard shard, uint64_t collection, float x, uint32_t k,
                enum node_consistency c, char *out, size_t bytes)
{
    float vector[LAB_DIMENSION] = {x, 1, 0, 0};
    struct called called = {.ids = out, .ids_bytes = bytes};
    struct node_search search = {
        .shard = shard,
        .collection = collection,
        .vector = vector,
        .dimension = LAB_DIMENSION,
        .k = k,
        .consistency = c,
        .timeout_ms = 5000,
    };

    cr_assert(eq(int, node_search(lab->nodes[i], &search, on_searched, &called), 0));
    lab_until(lab, is_set, &called.done, "a search is answered");
}
