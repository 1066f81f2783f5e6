/* Between the core's messages and the wire's (outrigger.proto). Everything that comes in may be anything: it is checked
 * here, entries byte for byte, before the core sees it. */
#include "sidecar/node/node_internal.h"

#include <stdlib.h>

static void pack_append(const struct replica_msg *msg, Outrigger__V1__ReplicaMessage *out,
                        Outrigger__V1__Position *position)
{
    out->incarnation = msg->append.incarnation;
    position->epoch = msg->append.prev.epoch;
    position->index = msg->append.prev.index;
    out->position = position;
    out->last_index = msg->append.last_index;
    out->commit = msg->append.commit;
    out->lossy_epoch = msg->append.lossy_epoch;
}

static void pack_handoff(const struct replica_msg *msg, Outrigger__V1__ReplicaMessage *out,
                         Outrigger__V1__Position *position)
{
    if (msg->type == REPLICA_MSG_OFFER) {
        out->nonce = msg->offer.nonce;
        out->incarnation = msg->offer.incarnation;
    } else if (msg->type == REPLICA_MSG_READY) {
        out->nonce = msg->ready.nonce;
        out->log_id = msg->ready.log_id;
        position->epoch = msg->ready.last.epoch;
        position->index = msg->ready.last.index;
        out->position = position;
        out->able = msg->ready.able;
    } else if (msg->type == REPLICA_MSG_HANDOFF) {
        out->incarnation = msg->handoff.incarnation;
        out->sent_ms = msg->handoff.sent_ms;
        out->commit = msg->handoff.commit;
    } else {
        out->incarnation = msg->leave.incarnation;
        out->log_id = msg->leave.log_id;
    }
}

void wire_pack(const struct node *n, otr_shard shard, const struct replica_msg *msg, Outrigger__V1__ReplicaMessage *out,
               Outrigger__V1__Position *position)
{
    outrigger__v1__replica_message__init(out);
    outrigger__v1__position__init(position);
    out->type = (Outrigger__V1__ReplicaMessage__Type)msg->type;
    out->shard = shard;
    out->generation = msg->generation;
    out->epoch = msg->epoch;
    switch (msg->type) {
    case REPLICA_MSG_APPEND:
        pack_append(msg, out, position);
        break;
    case REPLICA_MSG_ACK:
        out->log_id = msg->ack.log_id;
        position->epoch = msg->ack.verified.epoch;
        position->index = msg->ack.verified.index;
        out->position = position;
        break;
    case REPLICA_MSG_REFUSE:
        out->log_id = msg->refuse.log_id;
        out->reason = msg->refuse.reason;
        position->epoch = msg->refuse.position.epoch;
        position->index = msg->refuse.position.index;
        out->position = position;
        out->promised = msg->refuse.promised;
        break;
    case REPLICA_MSG_BEACON:
        out->incarnation = msg->beacon.incarnation;
        out->sent_ms = msg->beacon.sent_ms;
        out->grant_ms = msg->beacon.grant_ms;
        break;
    case REPLICA_MSG_GRANT:
        out->incarnation = msg->grant.incarnation;
        out->sent_ms = msg->grant.sent_ms;
        out->log_id = msg->grant.log_id;
        out->granted = msg->grant.granted;
        out->grant_ms = msg->grant.grant_ms;
        break;
    case REPLICA_MSG_ASK:
        out->nonce = msg->ask.nonce;
        out->primary = (char *)topology_name(n->topology, msg->ask.primary);
        out->incarnation = msg->ask.incarnation;
        break;
    case REPLICA_MSG_ANSWER:
        out->nonce = msg->answer.nonce;
        out->log_id = msg->answer.log_id;
        position->epoch = msg->answer.last.epoch;
        position->index = msg->answer.last.index;
        out->position = position;
        out->commit = msg->answer.commit;
        out->hears_primary = msg->answer.hears_primary;
        out->silent = msg->answer.silent;
        break;
    case REPLICA_MSG_OFFER:
    case REPLICA_MSG_READY:
    case REPLICA_MSG_HANDOFF:
    case REPLICA_MSG_LEAVE:
        pack_handoff(msg, out, position);
        break;
    }
}

/* Entries: consecutive from prev on, of this shard, whole and sound. */
static int check_entries(const Outrigger__V1__ReplicaMessage *in, const uint8_t *bytes, size_t available,
                         struct incoming *out, struct otr_errmsg *msg)
{
    uint64_t first = out->msg.append.prev.index + 1;
    uint64_t count = in->last_index >= first ? in->last_index - first + 1 : 0;
    struct replica_entry *entries;
    size_t offset = 0;

    if (count > available / RECORD_HEADER_BYTES) {
        otr_errmsg_set(msg, "append of entries %llu..%llu in %zu bytes", (unsigned long long)first,
                       (unsigned long long)in->last_index, available);
        return OTR_PROTO;
    }
    entries = calloc((size_t)count + 1, sizeof *entries);
    out->offsets = calloc((size_t)count + 1, sizeof *out->offsets);
    out->msg.append.entries = entries;
    if (entries == NULL || out->offsets == NULL) {
        return OTR_NOMEM;
    }
    for (uint64_t i = 0; i < count; i++) {
        struct record_header h;
        int rv = record_read(bytes + offset, available - offset, &h);
        if (rv != 0 || h.shard != in->shard || h.index != first + i || h.kind >= RECORD_LOCAL_FIRST ||
            h.epoch > in->epoch) {
            otr_errmsg_set(msg, "append: entry %llu is damaged or misplaced", (unsigned long long)first + i);
            return OTR_PROTO;
        }
        entries[i].position = (struct otr_position){h.epoch, h.index};
        entries[i].time_ms = h.time_ms;
        entries[i].request_id = h.request_id;
        out->offsets[i] = offset;
        offset += record_bytes(h.body_bytes);
    }
    if (offset != available) {
        otr_errmsg_set(msg, "append: %zu bytes after the last entry", available - offset);
        return OTR_PROTO;
    }
    out->offsets[count] = offset;
    out->bytes = bytes;
    out->count = (size_t)count;
    return 0;
}

static int unpack_entries(struct node *n, const Outrigger__V1__ReplicaMessage *in, struct incoming *out,
                          struct otr_errmsg *msg)
{
    size_t bytes;
    int rv;

    if (in->encoding == COMPRESS_PLAIN) {
        return check_entries(in, in->entries.data, in->entries.len, out, msg);
    }
    rv = compression_restore(n, in->encoding, in->entries.data, in->entries.len, &out->restored, &bytes, msg);
    return rv != 0 ? OTR_PROTO : check_entries(in, out->restored, bytes, out, msg);
}

int wire_unpack(struct node *n, const Outrigger__V1__ReplicaMessage *in, struct incoming *out, struct otr_errmsg *msg)
{
    struct replica_msg *m = &out->msg;
    struct otr_position position = {0, 0};

    *out = (struct incoming){0};
    if (in->position != NULL) {
        position = (struct otr_position){in->position->epoch, in->position->index};
    }
    m->type = (enum replica_msg_type)in->type;
    m->generation = in->generation;
    m->epoch = in->epoch;
    switch (in->type) {
    case OUTRIGGER__V1__REPLICA_MESSAGE__TYPE__APPEND:
        m->append.incarnation = in->incarnation;
        m->append.prev = position;
        m->append.last_index = in->last_index;
        m->append.commit = in->commit;
        m->append.lossy_epoch = in->lossy_epoch;
        return unpack_entries(n, in, out, msg);
    case OUTRIGGER__V1__REPLICA_MESSAGE__TYPE__ACK:
        m->ack.log_id = in->log_id;
        m->ack.verified = position;
        return 0;
    case OUTRIGGER__V1__REPLICA_MESSAGE__TYPE__REFUSE:
        m->refuse.log_id = in->log_id;
        m->refuse.reason = (enum replica_refusal)in->reason;
        m->refuse.position = position;
        m->refuse.promised = in->promised;
        if (in->reason != REPLICA_REFUSE_GAP && in->reason != REPLICA_REFUSE_FENCED &&
            in->reason != REPLICA_REFUSE_SEED) {
            break;
        }
        return 0;
    case OUTRIGGER__V1__REPLICA_MESSAGE__TYPE__BEACON:
        m->beacon.incarnation = in->incarnation;
        m->beacon.sent_ms = in->sent_ms;
        m->beacon.grant_ms = in->grant_ms;
        return 0;
    case OUTRIGGER__V1__REPLICA_MESSAGE__TYPE__GRANT:
        m->grant.incarnation = in->incarnation;
        m->grant.sent_ms = in->sent_ms;
        m->grant.log_id = in->log_id;
        m->grant.granted = in->granted;
        m->grant.grant_ms = in->grant_ms;
        return 0;
    case OUTRIGGER__V1__REPLICA_MESSAGE__TYPE__ASK:
        if (strlen(in->primary) > OTR_NAME_MAX) {
            otr_errmsg_set(msg, "question about a node with a name of %zu bytes", strlen(in->primary));
            return OTR_PROTO;
        }
        m->ask.nonce = in->nonce;
        m->ask.primary = topology_intern(n->topology, in->primary);
        m->ask.incarnation = in->incarnation;
        return 0;
    case OUTRIGGER__V1__REPLICA_MESSAGE__TYPE__ANSWER:
        m->answer.nonce = in->nonce;
        m->answer.log_id = in->log_id;
        m->answer.last = position;
        m->answer.commit = in->commit;
        m->answer.hears_primary = in->hears_primary;
        m->answer.silent = in->silent;
        return 0;
    case OUTRIGGER__V1__REPLICA_MESSAGE__TYPE__OFFER:
        m->offer.nonce = in->nonce;
        m->offer.incarnation = in->incarnation;
        return 0;
    case OUTRIGGER__V1__REPLICA_MESSAGE__TYPE__READY:
        m->ready.nonce = in->nonce;
        m->ready.log_id = in->log_id;
        m->ready.last = position;
        m->ready.able = in->able;
        return 0;
    case OUTRIGGER__V1__REPLICA_MESSAGE__TYPE__HANDOFF:
        m->handoff.incarnation = in->incarnation;
        m->handoff.sent_ms = in->sent_ms;
        m->handoff.commit = in->commit;
        return 0;
    case OUTRIGGER__V1__REPLICA_MESSAGE__TYPE__LEAVE:
        m->leave.incarnation = in->incarnation;
        m->leave.log_id = in->log_id;
        return 0;
    default:
        break;
    }
    otr_errmsg_set(msg, "message of unknown type %d", (int)in->type);
    return OTR_PROTO;
}

void wire_free(struct incoming *in)
{
    if (in->msg.type == REPLICA_MSG_APPEND) {
        free((void *)in->msg.append.entries);
    }
    free(in->offsets);
    free(in->restored);
    *in = (struct incoming){0};
}
