/* The limits and the well-formedness of a portable transaction (include/outrigger/backend.h), the same for every
 * coordination backend: what passes here passes on all of them. Pure. */
#ifndef OUTRIGGER_CORE_TXN_CHECK_H
#define OUTRIGGER_CORE_TXN_CHECK_H

#include "outrigger/backend.h"

/* 0; OTR_TOOBIG: more than OTR_TXN_MAX compares and operations or OTR_TXN_BYTES_MAX bytes of keys and values;
 * OTR_INVALID: an empty key, a key in two operations, an unknown type, a missing value or session;
 * OTR_SESSION: an operation names a session that was never open. */
int txn_check(const struct otr_txn *txn);

#endif
