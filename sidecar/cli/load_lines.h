/* Lines of a JSONL file as batches: each line one point, checked only so far that lines cannot run into each other. */
#ifndef OUTRIGGER_CLI_LOAD_LINES_H
#define OUTRIGGER_CLI_LOAD_LINES_H

#include "outrigger/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

enum { LOAD_LINES_BYTES_MAX = 8 << 20 }; /* a batch ends above it */

/* A batch: the lines' texts, one after the other with commas between. Caller-owned; zero-initialise. */
struct load_lines {
    char *text;
    size_t bytes;
    size_t room;
    size_t *offsets;   /* by line of the batch: where its text begins */
    uint64_t *numbers; /* by line of the batch: its number in the file, from 1 */
    uint32_t count;
    uint32_t lines_room;
};

struct load_reader {
    FILE *file;
    uint64_t line;
    uint64_t bytes; /* read so far */
    char *buffer;   /* getline's */
    size_t buffer_room;
};

/* Whether a line is one JSON object, as far as brackets and strings tell. *has_id: it has a member "id". */
bool load_lines_check(const char *line, size_t bytes, bool *has_id);

/* Reads the next lines into an emptied batch, at most `count`; empty lines are passed over. 0, also at the end of the
 * file (then the batch holds what was left, maybe nothing). OTR_INVALID: the line reader->line is not a JSON object;
 * it was passed over, and the batch holds those before it. OTR_IO, OTR_NOMEM. A point without id gets one (a UUID), for
 * a repeated request must name the same points. */
int load_lines_read(struct load_reader *reader, struct load_lines *batch, uint32_t count, struct otr_errmsg *msg);

/* {"points":[lines first..last-1]}, malloc'd. */
char *load_lines_body(const struct load_lines *batch, uint32_t first, uint32_t last, size_t *bytes);

void load_lines_close(struct load_lines *batch);

#endif
