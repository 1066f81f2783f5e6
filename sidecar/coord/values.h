/* The coordinator's values as JSON, to and from the structs of sidecar/core/topology.h. 64-bit numbers that may exceed
 * 2^53 (incarnations, log ids, collection ids, generations, epochs, versions, indexes) are strings of 16 hex digits or
 * decimal strings as each field says at the head of values.c, so that no JSON reader rounds them.
 *
 * *_print: malloc'd text, the caller frees it; NULL when out of memory. *_parse: 0, or OTR_PROTO with words that name
 * the field; nothing is changed then. Unknown fields are ignored. Node names become numbers through the topology. */
#ifndef OUTRIGGER_COORD_VALUES_H
#define OUTRIGGER_COORD_VALUES_H

#include "sidecar/core/topology.h"

char *value_config_print(const struct topology_config *c);
int value_config_parse(const char *text, struct topology_config *c, struct otr_errmsg *msg);

/* The value `text` of `config` with this one setting changed; fields that we do not know stay. malloc'd; NULL with
 * words when it is no object, without when out of memory. */
char *value_config_with_compression(const char *text, enum topology_compression compression, struct otr_errmsg *msg);
/* The same with mode, max_lag_entries and max_lag_ms of `wanted`. */
char *value_config_with_mode(const char *text, const struct topology_config *wanted, struct otr_errmsg *msg);
/* "sync", "async" */
const char *value_mode_name(enum replica_mode mode);
bool value_mode_find(const char *name, enum replica_mode *out);
/* "none", "zstd" */
const char *value_compression_name(enum topology_compression compression);
bool value_compression_find(const char *name, enum topology_compression *out);

/* nodes/<node>: zone, state */
char *value_node_print(const struct topology_node *n);
int value_node_parse(const char *text, struct topology_node *n, struct otr_errmsg *msg);

/* live/<node>: addresses, incarnation, session, version */
char *value_live_print(const struct topology_node *n);
int value_live_parse(const char *text, struct topology_node *n, struct otr_errmsg *msg);

char *value_descriptor_print(const struct topology *t, const struct descriptor *d);
int value_descriptor_parse(struct topology *t, const char *text, struct descriptor *d, struct otr_errmsg *msg);

char *value_lease_print(const struct topology *t, const struct topology_lease *l);
int value_lease_parse(struct topology *t, const char *text, struct topology_lease *l, struct otr_errmsg *msg);

/* id, dimension, metric, options; the name is the key's. */
char *value_collection_print(const struct topology_collection *c);
int value_collection_parse(const char *text, struct topology_collection *c, struct otr_errmsg *msg);

#endif
