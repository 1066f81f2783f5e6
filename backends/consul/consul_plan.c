#include "backends/consul/consul_plan.h"

#include <inttypes.h>
#include <string.h>

/* --- making ----------------------------------------------------------------------------------------------------- */

struct maker {
    struct consul_plan *plan;
    const struct otr_txn *txn;
    uint64_t flags;
    bool taken[OTR_TXN_MAX]; /* compares that are part of another step */
    bool full;
};

struct compares {
    const struct otr_compare *absent, *unmodified, *session;
};

/* Begins an operation; the caller adds fields and ends it. */
static void step_begin(struct maker *m, struct consul_step step, const char *verb, const char *key)
{
    struct json_text *body = &m->plan->body;

    if (m->plan->steps_count == OTR_TXN_MAX) {
        m->full = true;
        return;
    }
    json_text_add(body, "%s{\"KV\":{\"Verb\":\"%s\",\"Key\":", m->plan->steps_count > 0 ? "," : "[", verb);
    json_text_add_string(body, consul_key_inside(key));
    m->plan->steps[m->plan->steps_count++] = step;
}

static void add_index(struct maker *m, uint64_t index)
{
    json_text_add(&m->plan->body, ",\"Index\":%" PRIu64, index);
}

static void add_session(struct maker *m, const char *session)
{
    json_text_add(&m->plan->body, ",\"Session\":\"%s\"", session);
}

static void add_value(struct maker *m, const struct otr_op *op)
{
    m->plan->writes = true;
    json_text_add(&m->plan->body, ",\"Flags\":%" PRIu64 ",\"Value\":\"", m->flags);
    if (op != NULL && op->value_bytes > 0) {
        json_text_add_base64(&m->plan->body, op->value, op->value_bytes);
    }
    json_text_add(&m->plan->body, "\"");
}

static void step_end(struct maker *m)
{
    json_text_add(&m->plan->body, "}}");
}

static void add_compare(struct maker *m, const struct otr_compare *compare)
{
    static const char *const verbs[] = {
        [OTR_COMPARE_ABSENT] = "check-not-exists",
        [OTR_COMPARE_UNMODIFIED] = "check-index",
        [OTR_COMPARE_SESSION] = "check-session",
    };

    step_begin(m, (struct consul_step){.type = CONSUL_STEP_COMPARE, .op = CONSUL_OP_NONE}, verbs[compare->type],
               compare->key);
    if (compare->type == OTR_COMPARE_UNMODIFIED) {
        add_index(m, compare->revision);
    } else if (compare->type == OTR_COMPARE_SESSION) {
        add_session(m, compare->session);
    }
    step_end(m);
}

static struct compares compares_of(const struct maker *m, const char *key)
{
    struct compares found = {0};

    for (size_t i = 0; i < m->txn->compares_count; i++) {
        const struct otr_compare *compare = &m->txn->compares[i];

        if (strcmp(compare->key, key) != 0) {
            continue;
        }
        if (compare->type == OTR_COMPARE_ABSENT) {
            found.absent = compare;
        } else if (compare->type == OTR_COMPARE_UNMODIFIED) {
            found.unmodified = compare;
        } else {
            found.session = compare;
        }
    }
    return found;
}

static void take(struct maker *m, const struct otr_compare *compare)
{
    m->taken[compare - m->txn->compares] = true;
}

/* The session that has to be named to detach the key; NULL: nobody is known to hold it. */
static const char *holder_of(const struct compares *c, const char *learnt)
{
    return c->session != NULL ? c->session->session : learnt != NULL && learnt[0] != '\0' ? learnt : NULL;
}

/* Compares that the step of an operation contains need none of their own. To be decided before any step is written. */
static void take_compares(struct maker *m, const struct otr_op *op, const char *learnt)
{
    struct compares c = compares_of(m, op->key);
    const char *holder = holder_of(&c, learnt);
    bool bound = op->type == OTR_OP_PUT_BOUND;

    if (op->type == OTR_OP_PUT && c.absent != NULL) {
        take(m, c.absent);
    } else if (c.session != NULL && op->type != OTR_OP_DELETE && !(bound && strcmp(holder, op->session->id) == 0)) {
        take(m, c.session);
    } else if (op->type == OTR_OP_PUT && holder == NULL && c.unmodified != NULL) {
        take(m, c.unmodified);
    }
}

static void add_unlock(struct maker *m, size_t op, const struct compares *c, const char *holder,
                       const struct otr_op *as)
{
    step_begin(m, (struct consul_step){.type = c->session != NULL ? CONSUL_STEP_COMPARE : CONSUL_STEP_GUARD, .op = op},
               "unlock", m->txn->ops[op].key);
    add_session(m, holder);
    add_value(m, as);
    step_end(m);
}

static void add_put(struct maker *m, size_t i, const char *learnt)
{
    const struct otr_op *op = &m->txn->ops[i];
    struct compares c = compares_of(m, op->key);
    const char *holder = holder_of(&c, learnt);

    if (c.absent == NULL && holder != NULL) {
        add_unlock(m, i, &c, holder, op);
        return;
    }
    if (c.absent != NULL || c.unmodified != NULL) {
        if (c.absent == NULL) {
            step_begin(m, (struct consul_step){.type = CONSUL_STEP_GUARD, .op = i}, "check-session", op->key);
            add_session(m, "");
            step_end(m);
        }
        step_begin(m, (struct consul_step){.type = CONSUL_STEP_COMPARE, .op = i}, "cas", op->key);
        add_index(m, c.absent != NULL ? 0 : c.unmodified->revision);
    } else {
        step_begin(m, (struct consul_step){.type = CONSUL_STEP_WRITE, .op = i, .set = true}, "set", op->key);
    }
    add_value(m, op);
    step_end(m);
}

static void add_put_bound(struct maker *m, size_t i, const char *learnt)
{
    const struct otr_op *op = &m->txn->ops[i];
    struct compares c = compares_of(m, op->key);
    const char *holder = holder_of(&c, learnt);

    if (holder != NULL && strcmp(holder, op->session->id) != 0) {
        add_unlock(m, i, &c, holder, NULL);
    }
    step_begin(m, (struct consul_step){.type = CONSUL_STEP_LOCK, .op = i}, "lock", op->key);
    add_session(m, op->session->id);
    add_value(m, op);
    step_end(m);
}

static void add_delete(struct maker *m, size_t i)
{
    step_begin(m, (struct consul_step){.type = CONSUL_STEP_WRITE, .op = i}, "delete", m->txn->ops[i].key);
    step_end(m);
}

int consul_plan_make(struct consul_plan *plan, const struct otr_txn *txn, const char *const *holders, uint64_t flags)
{
    struct maker m = {.plan = plan, .txn = txn, .flags = flags};

    *plan = (struct consul_plan){0};
    for (size_t i = 0; i < txn->ops_count; i++) {
        take_compares(&m, &txn->ops[i], holders[i]);
    }
    for (size_t i = 0; i < txn->compares_count; i++) {
        if (!m.taken[i]) {
            add_compare(&m, &txn->compares[i]);
        }
    }
    for (size_t i = 0; i < txn->ops_count; i++) {
        if (txn->ops[i].type == OTR_OP_PUT) {
            add_put(&m, i, holders[i]);
        } else if (txn->ops[i].type == OTR_OP_PUT_BOUND) {
            add_put_bound(&m, i, holders[i]);
        }
    }
    for (size_t i = 0; i < txn->ops_count; i++) {
        if (txn->ops[i].type == OTR_OP_DELETE) {
            if (!plan->writes && plan->steps_count + txn->ops_count == OTR_TXN_MAX) {
                plan->blind = true;
                plan->writes = true;
            } else if (!plan->writes) {
                step_begin(&m, (struct consul_step){.type = CONSUL_STEP_WRITE, .op = CONSUL_OP_NONE}, "set",
                           txn->ops[i].key);
                add_value(&m, NULL);
                step_end(&m);
            }
            add_delete(&m, i);
        }
    }
    json_text_add(&plan->body, plan->steps_count > 0 ? "]" : "[]");
    return m.full ? OTR_TOOBIG : plan->body.failed ? OTR_NOMEM : 0;
}

void consul_plan_close(struct consul_plan *plan)
{
    json_text_close(&plan->body);
}

/* --- answers ---------------------------------------------------------------------------------------------------- */

/* The status code alone says nothing, a number of the operation and a text are all there is (1.8). */
static int complaint_status(const struct consul_step *step, const char *what)
{
    if (strstr(what, "ermission denied") != NULL || strstr(what, "ACL not found") != NULL) {
        return OTR_DENIED;
    }
    switch (step->type) {
    case CONSUL_STEP_COMPARE:
        return OTR_CONFLICT;
    case CONSUL_STEP_GUARD:
        return OTR_INUSE;
    case CONSUL_STEP_LOCK:
        if (strstr(what, "invalid session") != NULL) {
            return OTR_SESSION;
        }
        return strstr(what, "lock delay") != NULL ? OTR_CONFLICT : OTR_INUSE;
    case CONSUL_STEP_WRITE:
        break;
    }
    return OTR_INVALID;
}

/* Of several complaints the one that says most: who may not does not learn what would have conflicted; a compare that
 * failed comes before all that would have been done if it had not. */
static int worse(int a, int b)
{
    static const int order[] = {OTR_DENIED, OTR_CONFLICT, OTR_SESSION, OTR_INVALID, OTR_INUSE};

    for (size_t i = 0; i < sizeof order / sizeof order[0]; i++) {
        if (a == order[i] || b == order[i]) {
            return order[i];
        }
    }
    return OTR_PROTO;
}

int consul_plan_refusal(const struct consul_plan *plan, const cJSON *json, bool held[OTR_TXN_MAX], const char **what)
{
    const cJSON *errors = cJSON_GetObjectItemCaseSensitive(json, "Errors");
    const cJSON *item;
    int status = OTR_PROTO;
    int before;

    *what = "";
    memset(held, 0, OTR_TXN_MAX * sizeof held[0]);
    cJSON_ArrayForEach(item, errors)
    {
        uint64_t index = consul_json_u64(item, "OpIndex");
        const struct consul_step *step = index < plan->steps_count ? &plan->steps[index] : NULL;
        const char *text = consul_json_text(item, "What");
        int said;

        if (step == NULL) {
            continue;
        }
        said = complaint_status(step, text);
        before = status;
        status = status == OTR_PROTO ? said : worse(status, said);
        if (status != before) {
            *what = text;
        }
        if (said == OTR_INUSE && step->op != CONSUL_OP_NONE) {
            held[step->op] = true;
        }
    }
    return status;
}

int consul_plan_result(const struct consul_plan *plan, const cJSON *json, uint64_t *revision,
                       const char *holders[OTR_TXN_MAX])
{
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(json, "Results");
    size_t step = 0;

    *revision = 0;
    memset(holders, 0, OTR_TXN_MAX * sizeof(holders[0]));
    if (item == NULL || cJSON_GetArraySize(cJSON_GetObjectItemCaseSensitive(json, "Errors")) > 0) {
        return OTR_PROTO;
    }
    /* Deletions give no result, checks and writes one each, in their order; deletions come last. */
    for (item = item->child; item != NULL && step < plan->steps_count; item = item->next, step++) {
        const cJSON *kv = cJSON_GetObjectItemCaseSensitive(item, "KV");
        const char *session = consul_json_text(kv, "Session");
        uint64_t index = consul_json_u64(kv, "ModifyIndex");

        *revision = index > *revision ? index : *revision;
        if (plan->steps[step].set && session[0] != '\0') {
            holders[plan->steps[step].op] = session;
        }
    }
    return plan->writes && !plan->blind && *revision == 0 ? OTR_PROTO : 0;
}
