/* Exact distances, as every answer states them (DESIGN 6.1): smaller is better. Accumulated in double. Pure; any
 * thread. */
#ifndef OUTRIGGER_CORE_SCORE_H
#define OUTRIGGER_CORE_SCORE_H

#include "outrigger/types.h"

/* Cosine of a zero vector counts as distance 1. */
double score_distance(enum otr_metric metric, const float *a, const float *b, uint32_t dimension);
/* "cosine", "euclidean", "dot", "manhattan" and RuVector's "Cosine", "Euclidean", "DotProduct", "Manhattan";
 * case-insensitive. */
bool score_metric_parse(const char *text, enum otr_metric *metric);
/* RuVector's spelling. */
const char *score_metric_name(enum otr_metric metric);

#endif
