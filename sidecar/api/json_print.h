/* JSON out: strings and numbers. Pure; any thread. */
#ifndef OUTRIGGER_API_JSON_PRINT_H
#define OUTRIGGER_API_JSON_PRINT_H

#include "sidecar/api/text.h"

/* Quoted and escaped; bytes that are not UTF-8 become U+FFFD, so that an answer is JSON whatever came in. */
void json_print_string(struct text *t, const char *string, size_t bytes);
/* The shortest decimal that reads back (as double, then float32) as the same float; f is finite. */
void json_print_float(struct text *t, float f);
/* [f, f, ...] */
void json_print_floats(struct text *t, const float *f, size_t count);
/* The shortest of %.15g .. %.17g that reads back as the same double; null when it is not finite. */
void json_print_double(struct text *t, double d);

#endif
