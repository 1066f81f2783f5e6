/* Messages of peers: the first byte chooses the method, the rest is its request (or reply), in protobuf's encoding.
 * What unpacks packs to something that unpacks to the same; replicas' messages go on to wire_unpack, and what that
 * accepts wire_pack gives back.
 *
 * Covers: sidecar/peer/message.c sidecar/node/wire.c */
#include "sidecar/node/node_internal.h"
#include "sidecar/peer/grpc.h"
#include "tests/fuzz/fuzz.h"

enum { MUTATE_BYTES_MAX = 8192 };

static uint8_t *pack(const ProtobufCMessage *m, size_t *bytes)
{
    uint8_t *packed;

    *bytes = protobuf_c_message_get_packed_size(m);
    packed = (uint8_t *)fuzz_copy("", 0, *bytes);
    FUZZ_CHECK(protobuf_c_message_pack(m, packed) == *bytes);
    return packed;
}

/* There are no links here: nothing is sent. */
uint32_t peer_link_encodings(const struct peer_link *link)
{
    (void)link;
    return 0;
}

void peer_link_pace(const struct peer_link *link, uint64_t *sent_bytes, uint64_t *blocked_ns)
{
    (void)link;
    *sent_bytes = *blocked_ns = 0;
}

/* The entries of an append are what the head says: consecutive, whole, none missing. */
static void check_append(const Outrigger__V1__ReplicaMessage *m, const struct incoming *in)
{
    uint64_t prev = in->msg.append.prev.index;

    FUZZ_CHECK((in->restored != NULL) == (m->encoding != COMPRESS_PLAIN));
    FUZZ_CHECK(in->bytes == (in->restored != NULL ? in->restored : m->entries.data));

    FUZZ_CHECK(in->count == (in->msg.append.last_index > prev ? in->msg.append.last_index - prev : 0));
    FUZZ_CHECK(in->restored != NULL || in->offsets[in->count] == m->entries.len);
    for (size_t i = 0; i < in->count; i++) {
        struct record_header h;

        FUZZ_CHECK(record_read(in->bytes + in->offsets[i], in->offsets[i + 1] - in->offsets[i], &h) == 0);
        FUZZ_CHECK(h.shard == m->shard && h.index == prev + 1 + i && h.index != 0 && h.epoch <= m->epoch);
        FUZZ_CHECK(in->msg.append.entries[i].position.index == h.index);
    }
}

static void through_wire(struct node *n, const Outrigger__V1__ReplicaMessage *m)
{
    Outrigger__V1__ReplicaMessage out;
    Outrigger__V1__Position position;
    struct otr_errmsg msg = {0};
    struct incoming in, again;
    int rv = wire_unpack(n, m, &in, &msg);

    if (rv != 0) {
        FUZZ_CHECK(rv == OTR_PROTO && msg.text[0] != '\0');
        wire_free(&in);
        return;
    }
    if (in.msg.type == REPLICA_MSG_APPEND) {
        check_append(m, &in);
    }
    wire_pack(n, m->shard, &in.msg, &out, &position);
    out.entries = m->entries;
    out.encoding = m->encoding;
    FUZZ_CHECK(wire_unpack(n, &out, &again, &msg) == 0);
    FUZZ_CHECK(again.msg.type == in.msg.type && again.msg.epoch == in.msg.epoch && again.count == in.count);
    FUZZ_CHECK(again.msg.generation == in.msg.generation);
    if (in.msg.type == REPLICA_MSG_ASK) {
        FUZZ_CHECK(again.msg.ask.primary == in.msg.ask.primary);
    }
    wire_free(&again);
    wire_free(&in);
}

static void through_bytes(const ProtobufCMessageDescriptor *descriptor, const ProtobufCMessage *m)
{
    size_t bytes, bytes_again;
    uint8_t *packed = pack(m, &bytes);
    ProtobufCMessage *again = protobuf_c_message_unpack(descriptor, NULL, bytes, packed);
    uint8_t *packed_again;

    if (again == NULL) {
        free(packed);
        return; /* protobuf-c writes unknown fields back in ways that it does not always read. Nobody passes them on. */
    }
    packed_again = pack(again, &bytes_again);
    FUZZ_CHECK(bytes == bytes_again && memcmp(packed, packed_again, bytes) == 0);
    free(packed_again);
    free(packed);
    protobuf_c_message_free_unpacked(again, NULL);
}

static const ProtobufCMessageDescriptor *descriptor_of(uint8_t choice)
{
    const struct grpc_method *method = &grpc_methods[(choice & 0x7F) % GRPC_METHODS];

    return choice & 0x80 ? method->reply : method->request;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    const ProtobufCMessageDescriptor *descriptor;
    ProtobufCMessage *m;
    uint8_t *copy;

    if (bytes == 0) {
        return 0;
    }
    descriptor = descriptor_of(data[0]);
    copy = (uint8_t *)fuzz_copy(data + 1, bytes - 1, 0);
    m = protobuf_c_message_unpack(descriptor, NULL, bytes - 1, copy);
    free(copy);
    if (m == NULL) {
        return 0;
    }
    through_bytes(descriptor, m);
    if (descriptor == &outrigger__v1__replicate_frame__descriptor) {
        Outrigger__V1__ReplicateFrame *frame = (Outrigger__V1__ReplicateFrame *)m;
        struct node *n = calloc(1, sizeof *n);

        FUZZ_CHECK(n != NULL);
        n->topology = topology_new();
        for (size_t i = 0; i < frame->n_messages; i++) {
            through_wire(n, frame->messages[i]);
        }
        compression_stop(n);
        topology_free(n->topology);
        free(n);
    }
    protobuf_c_message_free_unpacked(m, NULL);
    return 0;
}

/* --- mutations that keep the entries' checksums right ---------------------------------------------------------------
 */

/* Seals the records in `entries` anew: shard and numbers as the message says, or (now and then) as they stand. */
static void reseal(Outrigger__V1__ReplicaMessage *m, uint64_t *random)
{
    uint64_t index = (m->position != NULL ? m->position->index : 0) + 1;
    bool consecutive = fuzz_random(random) % 4 != 0;
    struct record_header h;

    for (size_t at = 0; at + RECORD_HEADER_BYTES <= m->entries.len; at += record_bytes(h.body_bytes)) {
        if (record_header_read(m->entries.data + at, &h) != 0) {
            h.kind = RECORD_PUT;
        }
        if (h.body_bytes > m->entries.len - at - RECORD_HEADER_BYTES ||
            record_bytes(h.body_bytes) > m->entries.len - at) {
            h.body_bytes = (uint32_t)((m->entries.len - at - RECORD_HEADER_BYTES) & ~(size_t)7);
        }
        if (consecutive) {
            h.index = index++;
            h.shard = m->shard;
            m->last_index = h.index;
        }
        record_seal(m->entries.data + at, &h);
    }
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t bytes, size_t bytes_max, unsigned seed)
{
    uint64_t random = seed;
    Outrigger__V1__ReplicateFrame *frame;
    uint8_t *packed;
    size_t packed_bytes;

    bytes = LLVMFuzzerMutate(data, bytes, bytes_max);
    if (bytes == 0 || seed % 4 == 0 || descriptor_of(data[0]) != &outrigger__v1__replicate_frame__descriptor) {
        return bytes;
    }
    frame = outrigger__v1__replicate_frame__unpack(NULL, bytes - 1, data + 1);
    if (frame == NULL) {
        return bytes;
    }
    for (size_t i = 0; i < frame->n_messages; i++) {
        Outrigger__V1__ReplicaMessage *m = frame->messages[i];

        if (m->entries.len > 0 && m->entries.len <= MUTATE_BYTES_MAX) {
            reseal(m, &random);
        }
    }
    packed = pack(&frame->base, &packed_bytes);
    if (packed_bytes + 1 <= bytes_max) {
        memcpy(data + 1, packed, packed_bytes);
        bytes = packed_bytes + 1;
    }
    free(packed);
    outrigger__v1__replicate_frame__free_unpacked(frame, NULL);
    return bytes;
}
