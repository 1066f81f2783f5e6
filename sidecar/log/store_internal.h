/* What store.c and its tests share. */
#ifndef OUTRIGGER_LOG_STORE_INTERNAL_H
#define OUTRIGGER_LOG_STORE_INTERNAL_H

#include "sidecar/log/store.h"

/* A store with another hash: tests make different ids collide. */
typedef uint64_t (*store_hash_fn)(const char *id, size_t id_bytes);
struct store *store_new_with_hash(store_hash_fn hash);

#endif
