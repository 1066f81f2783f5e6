/* Feeder: one shard's committed entries into the engine; see feeder.c. Loop thread only. */
#ifndef OUTRIGGER_NODE_FEEDER_H
#define OUTRIGGER_NODE_FEEDER_H

#include "sidecar/core/topology.h"

struct shard;
struct feeder;

/* `applied`: entries already in the engine's data `engine_data_id`. NULL: out of memory. */
struct feeder *feeder_new(struct shard *s, uint64_t applied, const char *engine_data_id);
/* Also while an engine call is under way. */
void feeder_free(struct feeder *f);
/* Goes on if there is something to do: after new entries, and with every tick. */
void feeder_kick(struct feeder *f);
/* The engine came up, went away or changed its data. */
void feeder_engine(struct feeder *f);
/* The store was replaced: what the engine holds is worthless. */
void feeder_reset(struct feeder *f);
/* Entries up to it are in the engine; 0 while everything is being replayed. */
uint64_t feeder_applied(const struct feeder *f);
/* Which engine data feeder_applied speaks of. */
const char *feeder_data_id(const struct feeder *f);
/* The engine is up and holds what feeder_applied says: its hits are worth asking for. */
bool feeder_current(const struct feeder *f);
/* Age of the oldest entry of the store that the engine lacks, ms; 0: it lacks none. */
uint64_t feeder_behind_ms(const struct feeder *f, uint64_t now_ms);
/* Name of a collection in the engine: "<collection>__<shard>". */
void feeder_collection_name(char *out, size_t bytes, const char *collection, otr_shard shard);

#endif
