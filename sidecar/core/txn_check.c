#include "sidecar/core/txn_check.h"

#include <string.h>

static int compare_check(const struct otr_compare *compare)
{
    if (compare->key == NULL || compare->key[0] == '\0') {
        return OTR_INVALID;
    }
    switch (compare->type) {
    case OTR_COMPARE_ABSENT:
    case OTR_COMPARE_UNMODIFIED:
        return 0;
    case OTR_COMPARE_SESSION:
        return compare->session != NULL && compare->session[0] != '\0' ? 0 : OTR_INVALID;
    }
    return OTR_INVALID;
}

static int op_check(const struct otr_op *op)
{
    if (op->key == NULL || op->key[0] == '\0') {
        return OTR_INVALID;
    }
    switch (op->type) {
    case OTR_OP_DELETE:
        return 0;
    case OTR_OP_PUT:
        return op->value != NULL || op->value_bytes == 0 ? 0 : OTR_INVALID;
    case OTR_OP_PUT_BOUND:
        if (op->session == NULL || (op->value == NULL && op->value_bytes > 0)) {
            return OTR_INVALID;
        }
        return op->session->id[0] != '\0' ? 0 : OTR_SESSION;
    }
    return OTR_INVALID;
}

static size_t op_bytes(const struct otr_op *op)
{
    size_t value_bytes = op->type != OTR_OP_DELETE ? op->value_bytes : 0;

    /* Cut off, so that a sum of OTR_TXN_MAX of them cannot overflow. */
    return strlen(op->key) + (value_bytes < OTR_TXN_BYTES_MAX ? value_bytes : OTR_TXN_BYTES_MAX + 1);
}

int txn_check(const struct otr_txn *txn)
{
    size_t bytes = 0;
    int rv;

    if (txn->compares_count > OTR_TXN_MAX || txn->ops_count > OTR_TXN_MAX - txn->compares_count) {
        return OTR_TOOBIG;
    }
    for (size_t i = 0; i < txn->compares_count; i++) {
        rv = compare_check(&txn->compares[i]);
        if (rv != 0) {
            return rv;
        }
        bytes += strlen(txn->compares[i].key);
    }
    for (size_t i = 0; i < txn->ops_count; i++) {
        rv = op_check(&txn->ops[i]);
        if (rv != 0) {
            return rv;
        }
        for (size_t j = 0; j < i; j++) {
            if (strcmp(txn->ops[i].key, txn->ops[j].key) == 0) {
                return OTR_INVALID;
            }
        }
        bytes += op_bytes(&txn->ops[i]);
    }
    return bytes <= OTR_TXN_BYTES_MAX ? 0 : OTR_TOOBIG;
}
