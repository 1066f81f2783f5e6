/* What goes over the wire to etcd's v3 JSON gateway and back (coordination through HTTP, both dialects of the gateway).
 *
 * int64 and uint64 travel as strings, bytes as base64, and fields with a default value are left out. Errors are
 * recognised by their gRPC code, never by text or HTTP status. Everything parsed here comes from outside: garbage
 * gives OTR_PROTO or "absent", never more. */
#ifndef OUTRIGGER_BACKENDS_ETCD_CODEC_H
#define OUTRIGGER_BACKENDS_ETCD_CODEC_H

#include "outrigger/backend.h"

#include "sidecar/io/json_text.h"
#include "sidecar/io/kv_list.h"

#include <cjson/cJSON.h>

/* The codes of gRPC that we tell apart. */
enum etcd_code {
    ETCD_CODE_NONE = -1, /* no code in the answer */
    ETCD_CODE_INVALID_ARGUMENT = 3,
    ETCD_CODE_DEADLINE_EXCEEDED = 4,
    ETCD_CODE_NOT_FOUND = 5,
    ETCD_CODE_ALREADY_EXISTS = 6,
    ETCD_CODE_PERMISSION_DENIED = 7,
    ETCD_CODE_RESOURCE_EXHAUSTED = 8,
    ETCD_CODE_FAILED_PRECONDITION = 9,
    ETCD_CODE_OUT_OF_RANGE = 11,
    ETCD_CODE_UNIMPLEMENTED = 12,
    ETCD_CODE_UNAVAILABLE = 14,
    ETCD_CODE_UNAUTHENTICATED = 16,
};

/* Adds `"key":"..","range_end":".."` for all keys that start with `prefix` and come after the key whose bytes are in
 * `after` (empty: all). */
void etcd_add_range(struct json_text *text, const char *prefix, const struct json_text *after);
/* The bytes of a key-value's key, which may be any, replace what was in `key`. False when they cannot be read. */
bool etcd_key_decode(const cJSON *json, struct json_text *key);

/* Fields of an object; 0, false, "" or NULL when absent, of another type, or out of range. */
uint64_t etcd_json_u64(const cJSON *object, const char *name);
bool etcd_json_true(const cJSON *object, const char *name);
const char *etcd_json_text(const cJSON *object, const char *name);
const cJSON *etcd_json_object(const cJSON *object, const char *name);

/* If `json` is an error of either dialect, unary or inside a stream: its code, and *message its text (lent, never
 * NULL). Otherwise ETCD_CODE_NONE. An error without a sensible code is ETCD_CODE_UNAVAILABLE. */
int etcd_error_code(const cJSON *json, const char **message);

/* Whether the complaint is that nobody said who asks. Only the text tells it from other invalid arguments; it decides
 * the words of an error, nothing else. */
bool etcd_error_wants_user(int code, const char *message);

/* Our code for one of gRPC. *certain says whether etcd did certainly nothing. */
int etcd_code_status(int code, bool *certain);

/* A key-value of an answer. On success *kv owns one piece of memory, freed by kv_close. Errors: OTR_NOMEM;
 * OTR_PROTO; OTR_UNSUPPORTED: the key contains a NUL byte, so it is none of ours. */
int etcd_kv_decode(const cJSON *json, struct otr_kv *kv);

/* Lease ids are positive int64 in decimal. 0 when it is none. */
uint64_t etcd_lease_parse(const char *text);

#endif
