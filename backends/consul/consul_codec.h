/* What goes over the wire to Consul's HTTP API and back: keys in URLs, key-values, answers of transactions.
 *
 * Consul's keys are URL paths without a slash in front; ours may have one, which is taken off on the way out and put
 * back on the way in. Numbers are JSON numbers, values base64 or null. Everything parsed here comes from outside:
 * garbage gives OTR_PROTO or "absent", never more. */
#ifndef OUTRIGGER_BACKENDS_CONSUL_CODEC_H
#define OUTRIGGER_BACKENDS_CONSUL_CODEC_H

#include "outrigger/backend.h"

#include "sidecar/io/json_text.h"
#include "sidecar/io/kv_list.h"

#include <cjson/cJSON.h>
#include <stdbool.h>

/* Whether Consul can hold the key, or list the prefix: printable UTF-8 (Consul's JSON replaces what is none, and URLs
 * refuse control characters) without "//", "." or ".." between slashes, which HTTP servers tidy away. */
bool consul_key_valid(const char *key);
/* Without the slash in front. */
const char *consul_key_inside(const char *key);

/* Adds the key to a URL's path. */
void consul_add_path(struct json_text *url, const char *key);

/* Fields of an object; 0, "" when absent, of another type, or out of range. */
uint64_t consul_json_u64(const cJSON *object, const char *name);
const char *consul_json_text(const cJSON *object, const char *name);

/* A number that is a whole header; 0 when it is none. */
uint64_t consul_index_parse(const char *text);

/* Session ids are UUIDs: 36 digits and dashes. */
bool consul_session_id_valid(const char *id);

/* The list of a prefix, in its order. `slash`: whether keys get one in front. OTR_NOMEM, OTR_PROTO; what `kvs` holds
 * then is to be closed all the same. */
int consul_kvs_decode(const cJSON *json, bool slash, struct kv_list *kvs);

#endif
