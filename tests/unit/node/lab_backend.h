/* The fake coordinator as a node of the lab sees it, with what a test does to the way between them. It also watches
 * the contract: a request that is under way and is handed over again fails the test. */
#ifndef OUTRIGGER_TESTS_LAB_BACKEND_H
#define OUTRIGGER_TESTS_LAB_BACKEND_H

#include "outrigger/backend.h"
#include "tests/lib/fake_backend.h"

extern const struct otr_backend_ops lab_backend_ops;

/* Answers to reads of exactly this key or prefix are held back, as they are, until lab_release_gets. NULL: no more. */
void lab_hold_gets(const char *prefix);
unsigned lab_held_gets(void);
void lab_release_gets(void);
/* The next so many reads are refused at once with OTR_NOMEM. */
void lab_refuse_gets(unsigned count);
/* The coordinator is out of reach in this way for node i, in the order in which the nodes were first started. */
void lab_link(unsigned i, enum fake_link link);
/* Answers to transactions are held back. */
void lab_hold_txns(bool hold);
unsigned lab_held_txns(void);
void lab_release_txns(void);

#endif
