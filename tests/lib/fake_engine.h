/* An engine in memory behind engine.h: flat, exact. Any number of "processes" by URL ("fake:1"); a test can take one
 * down, bring it up again with or without its data, freeze it, damage it. Answers come in a later turn of the loop. */
#ifndef OUTRIGGER_TESTS_FAKE_ENGINE_H
#define OUTRIGGER_TESTS_FAKE_ENGINE_H

#include "outrigger/engine.h"

extern const struct otr_engine_ops otr_engine_fake;

/* down: calls end with OTR_UNREACHABLE. Up again: with the old data, or empty under another data_id. */
void fake_engine_down(const char *url);
void fake_engine_up(const char *url, bool keep_data);
/* Frozen: no call is answered before its timeout or the thaw. */
void fake_engine_freeze(const char *url);
void fake_engine_thaw(const char *url);
/* Held: writes are carried out, but answered only as they are let: so many of those that wait. Searches are answered.
 */
void fake_engine_hold_writes(const char *url);
void fake_engine_let_writes(const char *url, unsigned count);
/* Refuses every write into the collection (OTR_INVALID) as long as it is the one that stands there now: one that is
 * dropped and made anew is sound. `also_anew`: that one is not either. */
void fake_engine_damage(const char *url, const char *collection, bool also_anew);
void fake_engine_mend(const char *url);
/* Points in a collection, 0 when there is none. */
size_t fake_engine_count(const char *url, const char *collection);
/* Takes a whole collection away behind the sidecar's back. */
void fake_engine_drop(const char *url, const char *collection);
/* Takes a point away behind the sidecar's back. */
void fake_engine_lose(const char *url, const char *collection, const char *id);
/* Puts a point there behind the sidecar's back: a ghost. */
void fake_engine_ghost(const char *url, const char *collection, const char *id, const float *vector,
                       uint32_t dimension);
/* Makes an empty collection of another dimension and metric there. */
void fake_engine_stranger(const char *url, const char *collection);
/* Forgets everything, between tests. */
void fake_engine_reset(void);

#endif
