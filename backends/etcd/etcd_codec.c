#include "backends/etcd/etcd_codec.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void etcd_add_range(struct json_text *text, const char *prefix, const struct json_text *after)
{
    size_t bytes = strlen(prefix);
    char last;

    json_text_add(text, "\"key\":\"");
    if (after->bytes > 0) {
        json_text_add_base64(text, after->data, after->bytes + 1); /* With its NUL it is the next key. */
    } else {
        /* The key "\0" stands for the lowest key here, and below for the end of everything. */
        json_text_add_base64(text, prefix, bytes > 0 ? bytes : 1);
    }
    json_text_add(text, "\",\"range_end\":\"");
    while (bytes > 0 && (uint8_t)prefix[bytes - 1] == 0xFF) {
        bytes--;
    }
    if (bytes == 0) {
        json_text_add_base64(text, "", 1);
    } else {
        struct json_text end = {0};

        last = (char)(prefix[bytes - 1] + 1);
        json_text_add_raw(&end, prefix, bytes - 1);
        json_text_add_raw(&end, &last, 1);
        if (end.failed) {
            text->failed = true;
        } else {
            json_text_add_base64(text, end.data, end.bytes);
        }
        json_text_close(&end);
    }
    json_text_add(text, "\"");
}

/* --- fields ----------------------------------------------------------------------------------------------------- */

uint64_t etcd_json_u64(const cJSON *object, const char *name)
{
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(object, name);
    uint64_t value;

    if (cJSON_IsString(item)) {
        return json_text_u64(item->valuestring, &value) ? value : 0;
    }
    /* Whole numbers up to 2^53 are exact in a double. */
    if (cJSON_IsNumber(item) && item->valuedouble >= 0 && item->valuedouble <= 9007199254740992.0) {
        return (uint64_t)item->valuedouble;
    }
    return 0;
}

bool etcd_json_true(const cJSON *object, const char *name)
{
    return cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(object, name));
}

const char *etcd_json_text(const cJSON *object, const char *name)
{
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(object, name);

    return cJSON_IsString(item) ? item->valuestring : "";
}

const cJSON *etcd_json_object(const cJSON *object, const char *name)
{
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(object, name);

    return cJSON_IsObject(item) ? item : NULL;
}

uint64_t etcd_lease_parse(const char *text)
{
    uint64_t id;

    return json_text_u64(text, &id) && id <= INT64_MAX ? id : 0;
}

/* --- errors ----------------------------------------------------------------------------------------------------- */

static int code_field(const cJSON *object, const char *name)
{
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(object, name);

    if (!cJSON_IsNumber(item) || !(item->valuedouble > 0 && item->valuedouble < 100)) {
        return ETCD_CODE_NONE;
    }
    return (int)item->valuedouble;
}

int etcd_error_code(const cJSON *json, const char **message)
{
    const cJSON *error = cJSON_GetObjectItemCaseSensitive(json, "error");
    const cJSON *details = cJSON_IsObject(error) ? error : json;
    int code = code_field(details, "code");

    if (code == ETCD_CODE_NONE) {
        code = code_field(details, "grpc_code");
    }
    *message = etcd_json_text(details, "message");
    if ((*message)[0] == '\0' && cJSON_IsString(error)) {
        *message = error->valuestring;
    }
    if (code != ETCD_CODE_NONE) {
        return code;
    }
    return cJSON_IsObject(error) || (cJSON_IsString(error) && error->valuestring[0] != '\0') ? ETCD_CODE_UNAVAILABLE
                                                                                             : ETCD_CODE_NONE;
}

bool etcd_error_wants_user(int code, const char *message)
{
    return code == ETCD_CODE_INVALID_ARGUMENT && strstr(message, "user name is empty") != NULL;
}

int etcd_code_status(int code, bool *certain)
{
    *certain = true;
    switch (code) {
    case ETCD_CODE_INVALID_ARGUMENT:
        return OTR_INVALID;
    case ETCD_CODE_NOT_FOUND:
        return OTR_NOTFOUND;
    case ETCD_CODE_ALREADY_EXISTS:
    case ETCD_CODE_FAILED_PRECONDITION:
        return OTR_EXISTS;
    case ETCD_CODE_PERMISSION_DENIED:
    case ETCD_CODE_UNAUTHENTICATED:
        return OTR_DENIED;
    case ETCD_CODE_RESOURCE_EXHAUSTED:
        return OTR_NOSPACE;
    case ETCD_CODE_OUT_OF_RANGE:
        return OTR_GONE;
    case ETCD_CODE_UNIMPLEMENTED:
        return OTR_UNSUPPORTED;
    default:
        /* Also UNAVAILABLE: "request timed out" was seen applied 14 s after that answer. */
        *certain = false;
        return code == ETCD_CODE_DEADLINE_EXCEEDED ? OTR_TIMEOUT : OTR_UNAVAIL;
    }
}

/* --- key-values ------------------------------------------------------------------------------------------------- */

bool etcd_key_decode(const cJSON *json, struct json_text *key)
{
    const char *text = etcd_json_text(json, "key");

    key->bytes = 0;
    if (!json_text_reserve(key, strlen(text) / 4 * 3) || !json_text_base64_decode(text, key->data, &key->bytes)) {
        return false;
    }
    key->data[key->bytes] = '\0';
    return true;
}

int etcd_kv_decode(const cJSON *json, struct otr_kv *kv)
{
    const char *key_text = etcd_json_text(json, "key");
    const char *value_text = etcd_json_text(json, "value");
    uint64_t lease = etcd_json_u64(json, "lease");
    size_t key_room = strlen(key_text) / 4 * 3 + 1;
    size_t value_room = strlen(value_text) / 4 * 3 + 1;
    char *memory = malloc(key_room + value_room + OTR_SESSION_ID_MAX);
    char *session;
    size_t key_bytes;

    if (memory == NULL) {
        return OTR_NOMEM;
    }
    if (key_text[0] == '\0' || !json_text_base64_decode(key_text, memory, &key_bytes) ||
        !json_text_base64_decode(value_text, memory + key_room, &kv->value_bytes)) {
        free(memory);
        return OTR_PROTO;
    }
    if (memchr(memory, '\0', key_bytes) != NULL) {
        free(memory);
        return OTR_UNSUPPORTED;
    }
    memory[key_bytes] = '\0';
    memory[key_room + kv->value_bytes] = '\0';
    session = memory + key_room + value_room;
    session[0] = '\0';
    if (lease != 0) {
        snprintf(session, OTR_SESSION_ID_MAX, "%" PRIu64, lease);
    }
    kv->key = memory;
    kv->value = memory + key_room;
    kv->session = session;
    kv->revision = etcd_json_u64(json, "mod_revision");
    kv->create_revision = etcd_json_u64(json, "create_revision");
    return 0;
}
