/* Random bits from the kernel, for ids that must never repeat: incarnations, log ids, lease ids, request ids. Where the
 * kernel has none to give, the process stops with a message: ids that repeat would break what rests on them. Any
 * thread. */
#ifndef OUTRIGGER_IO_RANDOM_H
#define OUTRIGGER_IO_RANDOM_H

#include <stddef.h>
#include <stdint.h>

/* Fills `out`. Returns 0, always. */
int random_bytes(void *out, size_t bytes);

/* Never 0, which means "none" in most places. */
uint64_t random_u64(void);

#endif
