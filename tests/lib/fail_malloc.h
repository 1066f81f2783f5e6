/* Makes an allocation fail. For programs linked with -Wl,--wrap=malloc,--wrap=calloc,--wrap=realloc: what is in their
 * objects and static libraries is concerned, shared libraries are not. Threads: the counter is shared; use it while one
 * thread runs. */
#ifndef OUTRIGGER_TESTS_LIB_FAIL_MALLOC_H
#define OUTRIGGER_TESTS_LIB_FAIL_MALLOC_H

#include <stdbool.h>
#include <stdint.h>

/* The nth allocation from now (1 is the next) returns NULL, once. 0: none. */
void fail_malloc_at(uint64_t nth);
/* True while the allocation that is to fail has not come: ends loops over n. */
bool fail_malloc_pending(void);

/* Takes the order back and returns what was left of it, for fail_malloc_at() to go on with. */
uint64_t fail_malloc_hold(void);

#endif
