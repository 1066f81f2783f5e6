#include "sidecar/io/random.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

int random_bytes(void *out, size_t bytes)
{
    uint8_t *next = out;

    while (bytes > 0) {
        ssize_t got = getrandom(next, bytes, 0);

        if (got < 0 && errno == EINTR) {
            continue;
        }
        if (got <= 0) {
            fprintf(stderr, "outrigger: no random bits from the kernel: getrandom: %s\n", strerror(errno));
            abort();
        }
        next += got;
        bytes -= (size_t)got;
    }
    return 0;
}

uint64_t random_u64(void)
{
    uint64_t value = 0;

    while (value == 0) {
        random_bytes(&value, sizeof value);
    }
    return value;
}
