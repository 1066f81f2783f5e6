/* Messages of peers: what is packed comes out the same, and what cannot be is refused. */
#include "sidecar/node/node_internal.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <stdlib.h>

struct wire_lab {
    struct node *node;
};

static struct wire_lab wire_open(void)
{
    struct wire_lab lab = {calloc(1, sizeof(struct node))};

    lab.node->topology = topology_new();
    return lab;
}

static void wire_close(struct wire_lab *lab)
{
    compression_stop(lab->node);
    topology_free(lab->node->topology);
    free(lab->node);
}

static size_t entry(uint8_t *out, otr_shard shard, uint64_t epoch, uint64_t index)
{
    struct record_header h = {.shard = shard, .epoch = epoch, .index = index, .kind = RECORD_EPOCH, .time_ms = 7};

    h.request_id.bytes[3] = (uint8_t)index;
    record_seal(out, &h);
    return record_bytes(0);
}

/* Through bytes and back, as over a connection. */
static int pass(struct wire_lab *lab, const struct replica_msg *msg, const uint8_t *entries, size_t bytes,
                struct incoming *in, struct otr_errmsg *why, Outrigger__V1__ReplicaMessage **unpacked)
{
    Outrigger__V1__ReplicaMessage out;
    Outrigger__V1__Position position;
    uint8_t *packed;
    size_t size;

    wire_pack(lab->node, 3, msg, &out, &position);
    out.entries.data = (uint8_t *)entries;
    out.entries.len = bytes;
    size = outrigger__v1__replica_message__get_packed_size(&out);
    packed = malloc(size);
    outrigger__v1__replica_message__pack(&out, packed);
    *unpacked = outrigger__v1__replica_message__unpack(NULL, size, packed);
    free(packed);
    return wire_unpack(lab->node, *unpacked, in, why);
}

Test(wire, append_with_entries)
{
    struct wire_lab lab = wire_open();
    struct replica_msg msg = {.type = REPLICA_MSG_APPEND, .generation = 1, .epoch = 5};
    _Alignas(8) uint8_t entries[256];
    size_t bytes = entry(entries, 3, 4, 11);
    Outrigger__V1__ReplicaMessage *held;
    struct otr_errmsg why = {0};
    struct incoming in;

    bytes += entry(entries + bytes, 3, 5, 12);
    msg.append.prev = (struct otr_position){4, 10};
    msg.append.last_index = 12;
    msg.append.commit = 9;
    msg.append.incarnation = 77;
    cr_assert(eq(int, pass(&lab, &msg, entries, bytes, &in, &why, &held), 0), "%s", why.text);
    cr_assert(eq(sz, in.count, 2));
    cr_assert(eq(u64, in.msg.append.entries[1].position.epoch, 5));
    cr_assert(eq(u64, in.msg.append.entries[1].position.index, 12));
    cr_assert(eq(u64, in.msg.append.commit, 9));
    cr_assert(eq(u64, in.msg.append.incarnation, 77));
    cr_assert(eq(sz, in.offsets[2], bytes));
    wire_free(&in);
    outrigger__v1__replica_message__free_unpacked(held, NULL);
    wire_close(&lab);
}

/* Every bit of an entry counts; so do its shard, its index and its length. */
Test(wire, damaged_entries_are_refused)
{
    struct wire_lab lab = wire_open();
    struct replica_msg msg = {.type = REPLICA_MSG_APPEND, .generation = 1, .epoch = 5};
    _Alignas(8) uint8_t entries[256], damaged[256];
    size_t bytes = entry(entries, 3, 4, 11);
    Outrigger__V1__ReplicaMessage *held;
    struct otr_errmsg why;
    struct incoming in;

    msg.append.prev = (struct otr_position){4, 10};
    msg.append.last_index = 11;
    for (size_t bit = 0; bit < bytes * 8; bit++) {
        memcpy(damaged, entries, bytes);
        damaged[bit / 8] ^= (uint8_t)(1 << bit % 8);
        cr_assert(eq(int, pass(&lab, &msg, damaged, bytes, &in, &why, &held), OTR_PROTO), "bit %zu", bit);
        wire_free(&in);
        outrigger__v1__replica_message__free_unpacked(held, NULL);
    }
    for (size_t cut = 0; cut < bytes; cut++) {
        cr_assert(eq(int, pass(&lab, &msg, entries, cut, &in, &why, &held), OTR_PROTO), "cut at %zu", cut);
        wire_free(&in);
        outrigger__v1__replica_message__free_unpacked(held, NULL);
    }
    entry(damaged, 4, 4, 11); /* another shard's */
    cr_assert(eq(int, pass(&lab, &msg, damaged, bytes, &in, &why, &held), OTR_PROTO));
    wire_free(&in);
    outrigger__v1__replica_message__free_unpacked(held, NULL);
    entry(damaged, 3, 6, 11); /* of an epoch above the sender's */
    cr_assert(eq(int, pass(&lab, &msg, damaged, bytes, &in, &why, &held), OTR_PROTO));
    wire_free(&in);
    outrigger__v1__replica_message__free_unpacked(held, NULL);
    msg.append.last_index = UINT64_MAX; /* a count that no message can hold */
    cr_assert(eq(int, pass(&lab, &msg, entries, bytes, &in, &why, &held), OTR_PROTO));
    wire_free(&in);
    outrigger__v1__replica_message__free_unpacked(held, NULL);
    wire_close(&lab);
}

/* Compressed or not, the same entries; a wrong encoding, and bytes that are none, are refused. */
Test(wire, compressed_entries)
{
    struct wire_lab lab = wire_open();
    Outrigger__V1__ReplicaMessage m = OUTRIGGER__V1__REPLICA_MESSAGE__INIT;
    Outrigger__V1__Position position = OUTRIGGER__V1__POSITION__INIT;
    struct compress_pool *pool = compress_pool_new();
    static _Alignas(8) uint8_t entries[20 * RECORD_HEADER_BYTES];
    struct compressed packed;
    struct otr_errmsg why = {0};
    struct incoming in;
    size_t bytes = 0;

    for (uint64_t i = 1; i <= 20; i++) {
        bytes += entry(entries + bytes, 3, 5, 10 + i);
    }
    cr_assert(zero(int, compress_records(pool, COMPRESS_UNDERSTOOD, entries, bytes, &packed)));
    cr_assert(eq(int, (int)packed.encoding, (int)COMPRESS_ZSTD));
    m.type = OUTRIGGER__V1__REPLICA_MESSAGE__TYPE__APPEND;
    m.shard = 3;
    m.epoch = 5;
    position.epoch = 5;
    position.index = 10;
    m.position = &position;
    m.last_index = 30;
    m.entries = (ProtobufCBinaryData){.data = packed.data, .len = packed.bytes};
    m.encoding = packed.encoding;
    cr_assert(zero(int, wire_unpack(lab.node, &m, &in, &why)), "%s", why.text);
    cr_assert(eq(sz, in.count, 20));
    cr_assert(zero(int, memcmp(in.bytes, entries, bytes)));
    wire_free(&in);
    for (uint32_t encoding = 0; encoding < 5; encoding++) {
        m.encoding = encoding;
        if (encoding != (uint32_t)packed.encoding) {
            cr_assert(eq(int, wire_unpack(lab.node, &m, &in, &why), OTR_PROTO), "encoding %u", encoding);
            wire_free(&in);
        }
    }
    m.encoding = packed.encoding;
    m.entries.len--;
    cr_assert(eq(int, wire_unpack(lab.node, &m, &in, &why), OTR_PROTO));
    wire_free(&in);
    free(packed.data);
    compress_pool_free(pool);
    wire_close(&lab);
}

Test(wire, small_messages)
{
    struct wire_lab lab = wire_open();
    otr_node n2 = topology_intern(lab.node->topology, "n2");
    struct replica_msg msgs[] = {
        {.type = REPLICA_MSG_ACK, .epoch = 3, .ack = {.log_id = 9, .verified = {2, 8}}},
        {.type = REPLICA_MSG_REFUSE, .epoch = 3, .refuse = {.log_id = 9, .reason = REPLICA_REFUSE_GAP, .promised = 4}},
        {.type = REPLICA_MSG_BEACON, .epoch = 3, .beacon = {.incarnation = 5, .sent_ms = 6, .grant_ms = 7}},
        {.type = REPLICA_MSG_GRANT,
         .epoch = 3,
         .grant = {.incarnation = 5, .sent_ms = 6, .log_id = 7, .granted = true, .grant_ms = 8}},
        {.type = REPLICA_MSG_ASK, .epoch = 3, .ask = {.nonce = 1, .primary = n2, .incarnation = 8}},
        {.type = REPLICA_MSG_ANSWER,
         .epoch = 3,
         .answer = {.nonce = 1, .last = {3, 4}, .commit = 3, .hears_primary = true}},
        {.type = REPLICA_MSG_OFFER, .epoch = 3, .offer = {.nonce = 1, .incarnation = 8}},
        {.type = REPLICA_MSG_READY, .epoch = 3, .ready = {.nonce = 1, .log_id = 2, .last = {3, 4}, .able = true}},
        {.type = REPLICA_MSG_HANDOFF, .epoch = 3, .handoff = {.incarnation = 8, .sent_ms = 6, .commit = 5}},
        {.type = REPLICA_MSG_LEAVE, .epoch = 3, .leave = {.incarnation = 8, .log_id = 2}},
    };

    for (size_t i = 0; i < sizeof msgs / sizeof msgs[0]; i++) {
        Outrigger__V1__ReplicaMessage *held;
        struct otr_errmsg why;
        struct incoming in;

        cr_assert(eq(int, pass(&lab, &msgs[i], NULL, 0, &in, &why, &held), 0), "message %zu", i);
        cr_assert(eq(int, memcmp(&in.msg, &msgs[i], sizeof in.msg), 0), "message %zu", i);
        wire_free(&in);
        outrigger__v1__replica_message__free_unpacked(held, NULL);
    }
    wire_close(&lab);
}

Test(wire, unknown_kinds_are_refused)
{
    struct wire_lab lab = wire_open();
    Outrigger__V1__ReplicaMessage m = OUTRIGGER__V1__REPLICA_MESSAGE__INIT;
    struct otr_errmsg why;
    struct incoming in;

    cr_assert(eq(int, wire_unpack(lab.node, &m, &in, &why), OTR_PROTO));
    m.type = (Outrigger__V1__ReplicaMessage__Type)99;
    cr_assert(eq(int, wire_unpack(lab.node, &m, &in, &why), OTR_PROTO));
    m.type = OUTRIGGER__V1__REPLICA_MESSAGE__TYPE__REFUSE;
    m.reason = 42;
    cr_assert(eq(int, wire_unpack(lab.node, &m, &in, &why), OTR_PROTO));
    wire_close(&lab);
}

/* The topology asserts what names may be; a peer's bytes must not get that far. */
Test(wire, a_question_about_an_impossible_name_is_refused)
{
    struct wire_lab lab = wire_open();
    Outrigger__V1__ReplicaMessage m = OUTRIGGER__V1__REPLICA_MESSAGE__INIT;
    char name[OTR_NAME_MAX + 2];
    struct otr_errmsg why;
    struct incoming in;

    memset(name, 'n', sizeof name);
    name[OTR_NAME_MAX + 1] = '\0';
    m.type = OUTRIGGER__V1__REPLICA_MESSAGE__TYPE__ASK;
    m.primary = name;
    cr_assert(eq(int, wire_unpack(lab.node, &m, &in, &why), OTR_PROTO));
    cr_assert(eq(u32, topology_nodes_count(lab.node->topology), 0));
    m.primary = name + 1;
    cr_assert(eq(int, wire_unpack(lab.node, &m, &in, &why), 0));
    wire_close(&lab);
}
