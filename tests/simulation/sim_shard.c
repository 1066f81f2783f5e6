#include "tests/simulation/sim.h"

#include <stdio.h>
#include <stdlib.h>

enum { SHARD_APPEND_ENTRIES = 24 };

/* --- what the simulator keeps of a log ---------------------------------------------------------------------------- */

/* "key k12", metadata "value" in entries, "value:index" in seeds. */
size_t shard_value_body(uint8_t *out, uint32_t key, const char *metadata)
{
    static const float vector[2] = {1.0F, 2.0F};
    char id[16];
    struct otr_point p = {.id = id, .dimension = 2, .vector = vector, .metadata = metadata};

    p.id_bytes = (uint32_t)snprintf(id, sizeof id, "k%u", key);
    p.metadata_bytes = (uint32_t)strlen(metadata);
    put_body_write(out, 1, &p, 1);
    return put_body_bytes(&p, 1);
}

static bool point_values(const struct otr_point *p, uint32_t *key, struct sim_value *v)
{
    char text[64] = {0};
    unsigned k;

    if (p->id_bytes >= sizeof text || p->metadata_bytes >= sizeof text) {
        return false;
    }
    memcpy(text, p->id, p->id_bytes);
    if (sscanf(text, "k%u", &k) != 1 || k >= SIM_KEYS) {
        return false;
    }
    *key = k;
    memset(text, 0, sizeof text);
    memcpy(text, p->metadata, p->metadata_bytes);
    *v = (struct sim_value){0};
    return sscanf(text, "%" SCNu64 ":%" SCNu64, &v->value, &v->index) >= 1;
}

void shard_take_entry(struct sim_shard *sh, const struct record_header *h, const uint8_t *body)
{
    struct sim_entry *e;

    sh->entries = sim_grow(sh->entries, &sh->entries_capacity, sh->entries_count, sizeof *sh->entries);
    e = &sh->entries[sh->entries_count++];
    *e = (struct sim_entry){.position = {.epoch = h->epoch, .index = h->index},
                            .time_ms = h->time_ms,
                            .id = h->request_id,
                            .hash = h->checksum,
                            .kind = h->kind};
    if (h->index != sh->base.index + sh->entries_count) {
        sim_fail(sh->sim, "journal: node %d shard %u: entry %" PRIu64 " follows %" PRIu64, sh->node->id, sh->id,
                 h->index, sh->base.index + sh->entries_count - 1);
    }
    if (h->kind == RECORD_PUT) {
        struct body_iter it;
        struct otr_point p;
        struct sim_value v;

        if (body_iter_init(&it, RECORD_PUT, body, h->body_bytes) != 0 || body_next(&it, &p) != 0 ||
            !point_values(&p, &e->key, &v)) {
            sim_fail(sh->sim, "journal: node %d shard %u: entry %" PRIu64 " has a damaged body", sh->node->id, sh->id,
                     h->index);
            return;
        }
        e->value = v.value;
    }
}

void shard_seed_read(struct sim_shard *sh, const uint8_t *body, size_t bytes)
{
    struct body_iter it;
    struct otr_point p;
    struct sim_value v;
    uint32_t key;

    if (body_iter_init(&it, RECORD_PUT, body, bytes) != 0) {
        sim_fail(sh->sim, "journal: node %d shard %u: damaged seed", sh->node->id, sh->id);
        return;
    }
    while (body_next(&it, &p) == 0) {
        if (!point_values(&p, &key, &v)) {
            sim_fail(sh->sim, "journal: node %d shard %u: damaged point in a seed", sh->node->id, sh->id);
            return;
        }
        sh->values[key] = v;
    }
}

const struct sim_entry *shard_entry(const struct sim_shard *sh, uint64_t index)
{
    if (index <= sh->base.index || index > sh->base.index + sh->entries_count) {
        return NULL;
    }
    return &sh->entries[index - sh->base.index - 1];
}

void shard_clear(struct sim_shard *sh, struct otr_position base)
{
    sh->base = base;
    sh->entries_count = 0;
    sh->durable_index = base.index;
    sh->truly_durable = sh->flush_covers = base.index;
    sh->commit = base.index;
    sh->answerable = base.index;
    sh->seed_ids_count = 0;
    memset(sh->values, 0, sizeof sh->values);
}

void shard_apply_to(struct sim_shard *sh, uint64_t index)
{
    struct replica_status status;

    replica_status(sh->replica, node_now_ms(sh->sim, sh->node), &status);
    for (uint64_t i = sh->commit + 1; i <= index; i++) {
        const struct sim_entry *e = shard_entry(sh, i);
        uint32_t outcome = 0;

        if (!check_apply(sh, i, &status)) {
            return;
        }
        if (e->kind == RECORD_PUT) {
            outcome = (uint32_t)sh->values[e->key].index; /* depends on all that came before */
            sh->values[e->key] = (struct sim_value){.value = e->value, .index = i};
            check_outcome(sh, e->position, outcome, "applied");
        }
        replica_outcome(sh->replica, i, outcome);
        sh->commit = i;
        check_digest(sh);
    }
}

/* --- metas -------------------------------------------------------------------------------------------------------- */

static void take_meta(struct sim_shard *sh, const struct replica_meta *meta)
{
    sh->meta.log_id = meta->log_id;
    sh->meta.promised = meta->promised;
    sh->meta.seen_generation = meta->seen_generation;
    sh->meta.seen_epoch = meta->seen_epoch;
    sh->meta.seen_version = meta->seen_version;
    sh->meta.grant_ms_max = meta->grant_ms_max;
    sh->meta.committed_index = sh->commit;
}

static void do_meta(struct sim_shard *sh, uint64_t seq, const struct replica_meta *meta)
{
    check_log_id(sh, meta->log_id);
    take_meta(sh, meta);
    if (journal_meta_write(sh->node->journal, sh->id, &sh->meta) != 0) {
        return; /* the disk has failed; the event is on its way */
    }
    if (sh->metas_count == SIM_METAS_MAX) {
        sh->metas_count--;
    }
    sh->metas[sh->metas_count].seq = seq;
    sh->metas[sh->metas_count].number = journal_metas_written(sh->node->journal, sh->id);
    sh->metas_count++;
}

void shard_durable(struct sim_shard *sh, uint64_t durable_index, uint64_t metas_durable)
{
    uint64_t seq = 0;
    uint32_t done = 0;

    while (done < sh->metas_count && sh->metas[done].number <= metas_durable) {
        seq = sh->metas[done++].seq;
    }
    if (done > 0) {
        sh->metas_count -= done;
        memmove(sh->metas, sh->metas + done, sh->metas_count * sizeof sh->metas[0]);
        shard_step(sh, &(struct replica_event){.type = REPLICA_EV_META_SYNCED, .meta_synced = {.seq = seq}});
    }
    if (sh->seed_in != 0 && sh->seed_accepted) {
        if (sh->seed_ending && metas_durable >= sh->seed_number) {
            int from = sh->seed_from;

            sh->seed_in = 0;
            sh->durable_index = sh->seed_position.index;
            shard_step(sh, &(struct replica_event){.type = REPLICA_EV_SEED_DONE,
                                                   .seed_done = {.ok = true, .position = sh->seed_position}});
            seed_reply(sh, from, true);
        }
        return;
    }
    check_flush_reported(sh, durable_index);
    sh->durable_index = durable_index;
    shard_step(sh, &(struct replica_event){.type = REPLICA_EV_LOG_SYNCED, .log_synced = {.index = durable_index}});
}

/* --- writes ------------------------------------------------------------------------------------------------------- */

static void pending_add(struct sim_shard *sh, uint64_t ticket, uint64_t index)
{
    struct sim_pending *p = sim_alloc(sizeof *p);

    *p = (struct sim_pending){.ticket = ticket,
                              .index = index,
                              .client = (uint32_t)(ticket & 0xff),
                              .attempt = (uint32_t)(ticket >> 8),
                              .next = sh->pending};
    sh->pending = p;
}

/* Answers what lies in [from, to]. */
static void pending_answer(struct sim_shard *sh, uint64_t from, uint64_t to, int status)
{
    struct sim_pending **link = &sh->pending;

    while (*link != NULL) {
        struct sim_pending *p = *link;

        if (p->index < from || p->index > to) {
            link = &p->next;
            continue;
        }
        *link = p->next;
        if (status == 0) {
            check_acked(sh, check_position(sh, p->index));
        }
        clients_reply(sh->sim, p->client, p->attempt, status, p->index, sh->node->id);
        free(p);
    }
}

static void do_append(struct sim_shard *sh, const struct replica_action *a)
{
    uint8_t body[256] __attribute__((aligned(8)));
    struct record_header h = {.shard = sh->id,
                              .epoch = a->append.position.epoch,
                              .kind = RECORD_EPOCH,
                              .index = a->append.position.index,
                              .time_ms = a->append.time_ms,
                              .request_id = a->append.request_id};

    if (a->append.ticket != 0) {
        char metadata[32];

        snprintf(metadata, sizeof metadata, "%" PRIu64, sh->write_value);
        h.kind = RECORD_PUT;
        h.body_bytes = (uint32_t)shard_value_body(body, (uint32_t)sh->write_key, metadata);
        pending_add(sh, a->append.ticket, h.index);
    }
    if (journal_append(sh->node->journal, &h, body, NULL) == 0) {
        shard_take_entry(sh, &h, body);
    }
}

static void do_reply(struct sim_shard *sh, const struct replica_action *a)
{
    uint32_t client = (uint32_t)(a->reply.ticket & 0xff), attempt = (uint32_t)(a->reply.ticket >> 8);

    switch (a->reply.reply) {
    case REPLICA_REPLY_REFUSED:
        clients_reply(sh->sim, client, attempt, a->reply.status, 0, sh->node->id);
        break;
    case REPLICA_REPLY_DUPLICATE:
        sh->sim->counts.duplicates++;
        check_outcome(sh, (struct otr_position){a->reply.epoch, a->reply.index}, a->reply.outcome,
                      "answered to a duplicate");
        check_acked(sh, (struct otr_position){a->reply.epoch, a->reply.index});
        clients_reply(sh->sim, client, attempt, 0, a->reply.index, sh->node->id);
        break;
    case REPLICA_REPLY_JOIN:
        /* In mode async it is asked for anew while grants are out (A7). */
        if (a->reply.index <= sh->answerable && !sh->sim->modes) {
            sim_fail(sh->sim, "Q2: node %d shard %u: told to wait for entry %" PRIu64 ", which is answerable",
                     sh->node->id, sh->id, a->reply.index);
        }
        pending_add(sh, a->reply.ticket, a->reply.index);
        break;
    }
}

/* --- appends in and out ------------------------------------------------------------------------------------------- */

static void do_append_raw(struct sim_shard *sh, const struct replica_action *a)
{
    const struct sim_msg *in = sh->incoming;
    struct record_header h;
    size_t start = 0, at = 0;
    int rv;

    for (at = 0; at < in->bytes_count; at += record_bytes(h.body_bytes)) {
        if (record_read(in->bytes + at, in->bytes_count - at, &h) != 0) {
            sim_fail(sh->sim, "journal: damaged records in a message");
            return;
        }
        if (h.index == a->append_raw.first) {
            start = at;
        }
    }
    rv = journal_append_raw(sh->node->journal, sh->id, in->bytes + start, in->bytes_count - start);
    if (rv != 0) {
        if (!journal_failed(sh->node->journal)) {
            sim_fail(sh->sim, "journal: node %d shard %u: journal_append_raw: %s", sh->node->id, sh->id,
                     otr_strerror(rv));
        }
        return;
    }
    for (at = start; at < in->bytes_count; at += record_bytes(h.body_bytes)) {
        if (record_header_read(in->bytes + at, &h) != 0) {
            abort(); /* they were read above */
        }
        shard_take_entry(sh, &h, in->bytes + at + RECORD_HEADER_BYTES);
    }
}

static void do_cut(struct sim_shard *sh, uint64_t index)
{
    if (index <= sh->commit) {
        sim_fail(sh->sim, "I3: node %d shard %u cuts at %" PRIu64 ", committed is %" PRIu64, sh->node->id, sh->id,
                 index, sh->commit);
        return;
    }
    check_given_up(sh, index);
    sim_reached(sh->sim, SIM_TAIL_CUT);
    if (check_dead_find(sh->sim, sh->id, check_position(sh, index)) != NULL) {
        sim_reached(sh->sim, SIM_LOSS_CUT);
    }
    if (sh->base.index + sh->entries_count > index) {
        sim_reached(sh->sim, SIM_TAIL_CUT_LONG);
    }
    if (sh->durable_index >= index) {
        sim_reached(sh->sim, SIM_TAIL_CUT_DURABLE);
    }
    if (shard_entry(sh, index)->kind == RECORD_PUT) {
        sim_reached(sh->sim, SIM_TAIL_CUT_REQUEST);
    }
    pending_answer(sh, index, UINT64_MAX, OTR_UNKNOWN);
    (void)journal_cut(sh->node->journal, sh->id, index);
    check_flush_cut(sh, index);
    sh->entries_count = (size_t)(index - sh->base.index - 1);
    if (sh->durable_index >= index) {
        sh->durable_index = index - 1;
    }
}

struct append_job {
    otr_shard shard;
    otr_node to;
    uint64_t token;
    struct replica_msg msg;
};

static void job_drop(struct sim *s, struct sim_event *e)
{
    (void)s;
    free(e->p);
    e->p = NULL;
}

/* The entries' bytes as they stand in the journal: 0, OTR_GONE, or what the journal says. */
static int read_entries(struct sim *s, struct sim_node *n, const struct append_job *job, struct sim_msg *msg,
                        uint64_t *last)
{
    uint64_t first = job->msg.append.prev.index + 1;
    uint64_t most = first + sim_below(s, SHARD_APPEND_ENTRIES);
    struct journal_bytes bytes = {0};
    struct journal_reader *reader;
    int rv;

    *last = job->msg.append.last_index < most ? job->msg.append.last_index : most;
    if (*last < first) {
        *last = first - 1;
        return 0;
    }
    rv = journal_read(n->journal, job->shard, first, *last, 1 << 20, &bytes);
    if (rv == 0) {
        msg->bytes = bytes.data;
        msg->bytes_count = bytes.bytes;
        *last = bytes.last;
        return 0;
    }
    if (rv != OTR_UNAVAIL) {
        return rv;
    }
    sim_reached(s, SIM_ENTRIES_FROM_FILES);
    reader = journal_reader_new(n->journal);
    rv = journal_reader_entries(reader, job->shard, first, *last, 1 << 20);
    if (rv == 0) {
        rv = journal_reader_run(reader, NULL);
    }
    if (rv == 0) {
        const struct journal_bytes *got = journal_reader_result(reader);

        msg->bytes = sim_alloc(got->bytes);
        memcpy(msg->bytes, got->data, got->bytes);
        msg->bytes_count = got->bytes;
        *last = got->last;
    }
    journal_reader_free(reader);
    if (rv != 0) {
        sim_reached(s, SIM_DISK_READ_FAILED);
        rv = OTR_IO;
    }
    return rv;
}

static void job_fire(struct sim *s, struct sim_event *e)
{
    struct append_job *job = e->p;
    struct sim_node *n = &s->nodes[e->node];
    struct sim_msg *msg = sim_alloc(sizeof *msg);
    uint64_t last = job->msg.append.prev.index;
    int rv = OTR_UNREACHABLE;

    if (n->shards[job->shard] == NULL) {
        net_msg_free(msg);
        return;
    }
    msg->kind = SIM_MSG_REPLICA;
    msg->shard = job->shard;
    msg->msg = job->msg;
    if (net_up(s, n->id, (int)job->to)) {
        rv = read_entries(s, n, job, msg, &last);
    }
    msg->msg.append.last_index = last;
    if (rv == 0) {
        (void)net_send(s, n->id, (int)job->to, msg);
    } else {
        net_msg_free(msg);
    }
    shard_step(n->shards[job->shard],
               &(struct replica_event){
                   .type = REPLICA_EV_SENT,
                   .sent = {.to = job->to, .token = job->token, .last_index = last, .status = rv},
               });
}

static void do_send_append(struct sim_shard *sh, const struct replica_action *a)
{
    struct append_job *job = sim_alloc(sizeof *job);
    struct sim_event *e = sim_after(sh->sim, sim_below(sh->sim, 400), sh->node->id, job_fire);

    *job = (struct append_job){.shard = sh->id, .to = a->send.to, .token = a->send.token, .msg = a->send.msg};
    e->p = job;
    e->drop = job_drop;
}

static void deliver_replica(struct sim_shard *sh, int from, const struct sim_msg *msg)
{
    struct replica_msg m = msg->msg;
    struct replica_entry *entries = NULL;
    size_t count = 0, capacity = 0;

    for (size_t at = 0; at < msg->bytes_count;) {
        struct record_header h;

        if (record_read(msg->bytes + at, msg->bytes_count - at, &h) != 0) {
            sim_fail(sh->sim, "journal: damaged records in a message");
            break;
        }
        entries = sim_grow(entries, &capacity, count, sizeof *entries);
        entries[count++] = (struct replica_entry){
            .position = {.epoch = h.epoch, .index = h.index}, .time_ms = h.time_ms, .request_id = h.request_id};
        at += record_bytes(h.body_bytes);
    }
    if (m.type == REPLICA_MSG_APPEND) {
        m.append.entries = entries;
    }
    if (m.type == REPLICA_MSG_OFFER) {
        check_offer(sh, &m);
    }
    observe_message(sh, from, &m);
    sh->incoming = msg;
    shard_step(sh, &(struct replica_event){.type = REPLICA_EV_MSG, .msg = {.from = (otr_node)from, .msg = &m}});
    sh->incoming = NULL;
    free(entries);
}

void shard_deliver(struct sim_shard *sh, int from, const struct sim_msg *msg)
{
    switch (msg->kind) {
    case SIM_MSG_REPLICA:
        deliver_replica(sh, from, msg);
        break;
    case SIM_MSG_SEED_BEGIN:
        seed_take_begin(sh, from, msg);
        break;
    case SIM_MSG_SEED_REST:
        seed_take_rest(sh, from, msg);
        break;
    case SIM_MSG_SEED_REPLY:
        if (sh->seed_out[from] != 0) {
            seed_out_end(sh, from, msg->ok, msg->log_id, msg->position);
        }
        break;
    }
}

/* --- actions ------------------------------------------------------------------------------------------------------ */

static void do_send(struct sim_shard *sh, const struct replica_action *a)
{
    struct sim_msg *msg = sim_alloc(sizeof *msg);

    msg->kind = SIM_MSG_REPLICA;
    msg->shard = sh->id;
    msg->msg = a->send.msg;
    (void)net_send(sh->sim, sh->node->id, (int)a->send.to, msg);
}

static void do_role(struct sim_shard *sh, const struct replica_action *a)
{
    static const char *const names[] = {"?", "idle", "follower", "candidate", "takeover", "primary"};

    sh->role = a->role.role;
    sh->epoch = a->role.epoch;
    sh->sim->roles_told++;
    if (sh->role == REPLICA_PRIMARY && sh->sim->excused[sh->id]) {
        sh->sim->excused[sh->id] = false;
        sh->sim->excused_us[sh->id] = sh->sim->now_us;
    }
    sim_trace(sh->sim, "node %d shard %u: %s, epoch %" PRIu64 ", primary %u: %s", sh->node->id, sh->id, names[sh->role],
              sh->epoch, a->role.primary, a->role.why);
    check_role(sh);
    faults_ambush(sh);
}

static void perform(struct sim_shard *sh, const struct replica_action *a)
{
    switch (a->type) {
    case REPLICA_DO_APPEND:
        do_append(sh, a);
        break;
    case REPLICA_DO_APPEND_RAW:
        do_append_raw(sh, a);
        break;
    case REPLICA_DO_CUT:
        do_cut(sh, a->cut.index);
        break;
    case REPLICA_DO_META:
        do_meta(sh, a->meta.seq, &a->meta.meta);
        break;
    case REPLICA_DO_SEND:
        do_send(sh, a);
        break;
    case REPLICA_DO_SEND_APPEND:
        do_send_append(sh, a);
        break;
    case REPLICA_DO_COMMIT:
        shard_apply_to(sh, a->commit.index);
        break;
    case REPLICA_DO_ANSWER:
        sh->answerable = a->answer.index;
        pending_answer(sh, 0, a->answer.index, 0);
        break;
    case REPLICA_DO_REPLY:
        do_reply(sh, a);
        break;
    case REPLICA_DO_ABANDON:
        pending_answer(sh, a->abandon.index, UINT64_MAX, OTR_UNKNOWN);
        break;
    case REPLICA_DO_TXN:
        coord_txn(sh, a);
        break;
    case REPLICA_DO_READ:
        coord_read(sh, a->read.read);
        break;
    case REPLICA_DO_SEED:
        seed_start(sh, a->seed.to);
        break;
    case REPLICA_DO_SEED_ACCEPT:
        sh->seed_accepted = true;
        check_log_replaced(sh, a->seed_accept.meta.log_id);
        check_given_up(sh, 1);
        if (sh->entries_count > 0 && check_dead(sh->sim, sh->id, check_position(sh, sh->commit))) {
            sim_reached(sh->sim, SIM_LOSS_RESEEDED);
        }
        shard_clear(sh, (struct otr_position){0});
        take_meta(sh, &a->seed_accept.meta);
        (void)journal_seed_begin(sh->node->journal, sh->id, &sh->meta);
        break;
    case REPLICA_DO_ROLE:
        do_role(sh, a);
        break;
    case REPLICA_DO_ALARM:
        sim_trace(sh->sim, "node %d shard %u: ALARM %s", sh->node->id, sh->id, a->alarm.text);
        break;
    case REPLICA_DO_FATAL:
        sim_fail(sh->sim, "A7: node %d shard %u: %s", sh->node->id, sh->id, a->fatal.text);
        break;
    case REPLICA_DO_HANDED:
        handoff_done(sh, a);
        break;
    case REPLICA_DO_FORCED:
        sim_fail(sh->sim, "V7: node %d shard %u gives up entries, and nobody asked for that", sh->node->id, sh->id);
        break;
    case REPLICA_DO_NOTE_LOSS:
        mode_note_loss(sh, a);
        break;
    }
}

void shard_step(struct sim_shard *sh, struct replica_event *ev)
{
    struct sim_node *n = sh->node;

    if (!n->alive || sh->sim->failed) {
        return;
    }
    ev->now_ms = node_now_ms(sh->sim, n);
    sh->sim->counts.steps++;
    sh->stepping = ev->type;
    if (replica_step(sh->replica, ev, &sh->actions) != 0) {
        abort();
    }
    for (size_t i = 0; i < sh->actions.count && n->alive && !sh->sim->failed; i++) {
        struct replica_action a = sh->actions.items[i];

        check_action(sh, &a);
        observe_action(sh, &a);
        perform(sh, &a);
    }
    if (n->alive && !sh->sim->failed) {
        observe_step(sh, ev);
    }
    if (n->alive && sh->role == REPLICA_PRIMARY) {
        check_rights(sh);
    }
}

void shard_free(struct sim_shard *sh)
{
    while (sh->pending != NULL) {
        struct sim_pending *p = sh->pending;

        sh->pending = p->next;
        free(p);
    }
    replica_free(sh->replica);
    replica_actions_close(&sh->actions);
    free(sh->entries);
    free(sh->seed_ids);
    free(sh);
}
