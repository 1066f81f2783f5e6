/* An engine in memory behind engine.h: flat, exact. Any number of "processes" by URL ("fake:1"); a test can take one
 * down, bring it up again with or without its data. Answers come in a later turn of the loop. */
#ifndef OUTRIGGER_TESTS_FAKE_ENGINE_H
#define OUTRIGGER_TESTS_FAKE_ENGINE_H

#include "outrigger/engine.h"

extern const struct otr_engine_ops otr_engine_fake;

/* down: calls end with OTR_UNREACHABLE. Up again: with the old data, or empty under another data_id. */
void fake_engine_down(const char *url);
void fake_engine_up(const char *url, bool keep_data);
/* Points in a collection, 0 when there is none. */
size_t fake_engine_count(const char *url, const char *collection);
/* Puts a point there behind the sidecar's back: a ghost. */
void fake_engine_ghost(const char *url, const char *collection, const char *id, const float *vector,
                       uint32_t dimension);
/* Makes an empty collection of another dimension and metric there. */
void fake_engine_stranger(const char *url, const char *collection);
/* Forgets everything, between tests. */
void fake_engine_reset(void);

#endif
