/* The clocks. CLOCK_BOOTTIME counts while a machine is suspended, which grants and leases need (PROTOCOL G3); it is
 * read when asked, never taken from the loop's cache. Any thread. */
#ifndef OUTRIGGER_IO_CLOCK_H
#define OUTRIGGER_IO_CLOCK_H

#include <stdint.h>

/* Milliseconds of CLOCK_BOOTTIME: for every decision about time. */
uint64_t clock_now_ms(void);

/* Nanoseconds of CLOCK_BOOTTIME: for measuring. */
uint64_t clock_now_ns(void);

/* Milliseconds since 1970: for people and for entry timestamps, never for decisions about who may serve. */
uint64_t clock_wall_ms(void);
/* Processor time that the calling thread has used, in nanoseconds. */
uint64_t clock_thread_cpu_ns(void);

#endif
