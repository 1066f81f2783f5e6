#include "sidecar/core/txn_check.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>

static struct otr_session session = {.id = "7"};
static struct otr_session unopened;

static int check_op(struct otr_op op)
{
    return txn_check(&(struct otr_txn){.ops = &op, .ops_count = 1});
}

static int check_compare(struct otr_compare compare)
{
    return txn_check(&(struct otr_txn){.compares = &compare, .compares_count = 1});
}

Test(txn_check, well_formed)
{
    cr_assert(txn_check(&(struct otr_txn){0}) == 0);
    cr_assert(check_op((struct otr_op){.type = OTR_OP_PUT, .key = "k", .value = "v", .value_bytes = 1}) == 0);
    cr_assert(check_op((struct otr_op){.type = OTR_OP_PUT, .key = "k"}) == 0, "an empty value");
    cr_assert(check_op((struct otr_op){.type = OTR_OP_DELETE, .key = "k"}) == 0);
    cr_assert(check_op((struct otr_op){.type = OTR_OP_PUT_BOUND, .key = "k", .session = &session}) == 0);
    cr_assert(check_compare((struct otr_compare){.type = OTR_COMPARE_ABSENT, .key = "k"}) == 0);
    cr_assert(check_compare((struct otr_compare){.type = OTR_COMPARE_UNMODIFIED, .key = "k", .revision = 1}) == 0);
    cr_assert(check_compare((struct otr_compare){.type = OTR_COMPARE_SESSION, .key = "k", .session = "7"}) == 0);
}

Test(txn_check, malformed)
{
    struct otr_op twice[] = {{.type = OTR_OP_PUT, .key = "k"}, {.type = OTR_OP_DELETE, .key = "k"}};

    cr_assert(txn_check(&(struct otr_txn){.ops = twice, .ops_count = 2}) == OTR_INVALID);
    cr_assert(check_op((struct otr_op){.type = OTR_OP_PUT, .key = ""}) == OTR_INVALID);
    cr_assert(check_op((struct otr_op){.type = OTR_OP_PUT}) == OTR_INVALID);
    cr_assert(check_op((struct otr_op){.type = 0, .key = "k"}) == OTR_INVALID);
    cr_assert(check_op((struct otr_op){.type = OTR_OP_PUT, .key = "k", .value_bytes = 1}) == OTR_INVALID);
    cr_assert(check_op((struct otr_op){.type = OTR_OP_PUT_BOUND, .key = "k"}) == OTR_INVALID);
    cr_assert(check_op((struct otr_op){.type = OTR_OP_PUT_BOUND, .key = "k", .session = &unopened}) == OTR_SESSION);
    cr_assert(check_compare((struct otr_compare){.type = OTR_COMPARE_ABSENT, .key = ""}) == OTR_INVALID);
    cr_assert(check_compare((struct otr_compare){.type = 0, .key = "k"}) == OTR_INVALID);
    cr_assert(check_compare((struct otr_compare){.type = OTR_COMPARE_SESSION, .key = "k"}) == OTR_INVALID);
    cr_assert(check_compare((struct otr_compare){.type = OTR_COMPARE_SESSION, .key = "k", .session = ""}) ==
              OTR_INVALID);
}

Test(txn_check, limits)
{
    static struct otr_op ops[OTR_TXN_MAX + 1];
    static struct otr_compare compares[OTR_TXN_MAX + 1];
    static char keys[OTR_TXN_MAX + 1][8];
    struct otr_txn txn = {.compares = compares, .ops = ops};

    for (int i = 0; i <= OTR_TXN_MAX; i++) {
        snprintf(keys[i], sizeof keys[i], "%03d", i);
        ops[i] = (struct otr_op){.type = OTR_OP_DELETE, .key = keys[i]};
        compares[i] = (struct otr_compare){.type = OTR_COMPARE_ABSENT, .key = keys[i]};
    }
    for (size_t compares_count = 0; compares_count <= OTR_TXN_MAX; compares_count++) {
        txn.compares_count = compares_count;
        txn.ops_count = OTR_TXN_MAX - compares_count;
        cr_assert(txn_check(&txn) == 0);
        txn.ops_count++;
        cr_assert(txn_check(&txn) == OTR_TOOBIG);
    }
    txn.compares_count = SIZE_MAX;
    cr_assert(txn_check(&txn) == OTR_TOOBIG);
    txn = (struct otr_txn){.ops = ops, .ops_count = 2};
    ops[0] = (struct otr_op){.type = OTR_OP_PUT, .key = "a", .value = "", .value_bytes = OTR_TXN_BYTES_MAX - 4};
    cr_assert(txn_check(&txn) == 0);
    ops[0].value_bytes++;
    cr_assert(txn_check(&txn) == OTR_TOOBIG);
    ops[0].value_bytes = SIZE_MAX;
    cr_assert(txn_check(&txn) == OTR_TOOBIG);
}
