#include "backends/etcd/etcd_codec.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char base64_digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/* --- text ------------------------------------------------------------------------------------------------------- */

static bool text_reserve(struct etcd_text *text, size_t bytes)
{
    size_t room = text->room != 0 ? text->room : 256;
    char *grown;

    if (text->failed) {
        return false;
    }
    while (room - text->bytes <= bytes) { /* one more for the NUL */
        room *= 2;
    }
    if (room != text->room) {
        grown = realloc(text->data, room);
        if (grown == NULL) {
            text->failed = true;
            return false;
        }
        text->data = grown;
        text->room = room;
    }
    return true;
}

void etcd_text_add_raw(struct etcd_text *text, const char *data, size_t bytes)
{
    if (!text_reserve(text, bytes)) {
        return;
    }
    memcpy(text->data + text->bytes, data, bytes);
    text->bytes += bytes;
    text->data[text->bytes] = '\0';
}

void etcd_text_add(struct etcd_text *text, const char *format, ...)
{
    char piece[256]; /* Long things are base64 or raw: what is formatted here are names and numbers. */
    va_list args;
    int bytes;

    va_start(args, format);
    bytes = vsnprintf(piece, sizeof piece, format, args);
    va_end(args);
    if (bytes < 0 || (size_t)bytes >= sizeof piece) {
        text->failed = true;
        return;
    }
    etcd_text_add_raw(text, piece, (size_t)bytes);
}

void etcd_text_add_base64(struct etcd_text *text, const void *data, size_t bytes)
{
    const uint8_t *in = data;
    char *out;

    if (!text_reserve(text, (bytes + 2) / 3 * 4)) {
        return;
    }
    out = text->data + text->bytes;
    for (size_t i = 0; i < bytes; i += 3) {
        uint32_t group = (uint32_t)in[i] << 16;

        group |= i + 1 < bytes ? (uint32_t)in[i + 1] << 8 : 0;
        group |= i + 2 < bytes ? in[i + 2] : 0;
        *out++ = base64_digits[group >> 18];
        *out++ = base64_digits[group >> 12 & 63];
        *out++ = i + 1 < bytes ? base64_digits[group >> 6 & 63] : '=';
        *out++ = i + 2 < bytes ? base64_digits[group & 63] : '=';
    }
    *out = '\0';
    text->bytes = (size_t)(out - text->data);
}

void etcd_text_close(struct etcd_text *text)
{
    free(text->data);
    *text = (struct etcd_text){0};
}

void etcd_text_add_range(struct etcd_text *text, const char *prefix, const struct etcd_text *after)
{
    size_t bytes = strlen(prefix);
    char last;

    etcd_text_add(text, "\"key\":\"");
    if (after->bytes > 0) {
        etcd_text_add_base64(text, after->data, after->bytes + 1); /* With its NUL it is the next key. */
    } else {
        /* The key "\0" stands for the lowest key here, and below for the end of everything. */
        etcd_text_add_base64(text, prefix, bytes > 0 ? bytes : 1);
    }
    etcd_text_add(text, "\",\"range_end\":\"");
    while (bytes > 0 && (uint8_t)prefix[bytes - 1] == 0xFF) {
        bytes--;
    }
    if (bytes == 0) {
        etcd_text_add_base64(text, "", 1);
    } else {
        struct etcd_text end = {0};

        last = (char)(prefix[bytes - 1] + 1);
        etcd_text_add_raw(&end, prefix, bytes - 1);
        etcd_text_add_raw(&end, &last, 1);
        if (end.failed) {
            text->failed = true;
        } else {
            etcd_text_add_base64(text, end.data, end.bytes);
        }
        etcd_text_close(&end);
    }
    etcd_text_add(text, "\"");
}

/* --- fields ----------------------------------------------------------------------------------------------------- */

static bool decimal_u64(const char *text, uint64_t *value)
{
    char *end;

    if (!isdigit((unsigned char)text[0])) { /* strtoull would take signs and spaces. */
        return false;
    }
    errno = 0;
    *value = strtoull(text, &end, 10);
    return errno == 0 && *end == '\0';
}

uint64_t etcd_json_u64(const cJSON *object, const char *name)
{
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(object, name);
    uint64_t value;

    if (cJSON_IsString(item)) {
        return decimal_u64(item->valuestring, &value) ? value : 0;
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

    return decimal_u64(text, &id) && id <= INT64_MAX ? id : 0;
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

static int digit_value(char c)
{
    const char *found = c != '\0' ? strchr(base64_digits, c) : NULL;

    return found != NULL ? (int)(found - base64_digits) : -1;
}

/* Writes at most strlen(text) / 4 * 3 bytes. */
static bool base64_decode(const char *text, char *out, size_t *bytes)
{
    size_t length = strlen(text);
    size_t used = 0;

    if (length % 4 != 0) {
        return false;
    }
    for (size_t i = 0; i < length; i += 4) {
        bool last = i + 4 == length;
        int padding = last ? (text[i + 3] == '=') + (text[i + 3] == '=' && text[i + 2] == '=') : 0;
        uint32_t group = 0;

        for (int j = 0; j < 4; j++) {
            int value = j < 4 - padding ? digit_value(text[i + (size_t)j]) : 0;

            if (value < 0) {
                return false;
            }
            group = group << 6 | (uint32_t)value;
        }
        out[used++] = (char)(group >> 16);
        if (padding < 2) {
            out[used++] = (char)(group >> 8 & 0xFF);
        }
        if (padding < 1) {
            out[used++] = (char)(group & 0xFF);
        }
    }
    *bytes = used;
    return true;
}

bool etcd_key_decode(const cJSON *json, struct etcd_text *key)
{
    const char *text = etcd_json_text(json, "key");

    key->bytes = 0;
    if (!text_reserve(key, strlen(text) / 4 * 3) || !base64_decode(text, key->data, &key->bytes)) {
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
    if (key_text[0] == '\0' || !base64_decode(key_text, memory, &key_bytes) ||
        !base64_decode(value_text, memory + key_room, &kv->value_bytes)) {
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

void etcd_kv_close(struct otr_kv *kv)
{
    free((void *)(uintptr_t)kv->key);
    *kv = (struct otr_kv){0};
}

int etcd_kvs_add(struct etcd_kvs *kvs, struct otr_kv *kv)
{
    if (kvs->count == kvs->room) {
        size_t room = kvs->room != 0 ? kvs->room * 2 : 16;
        struct otr_kv *grown = realloc(kvs->list, room * sizeof *grown);

        if (grown == NULL) {
            return OTR_NOMEM;
        }
        kvs->list = grown;
        kvs->room = room;
    }
    kvs->list[kvs->count++] = *kv;
    return 0;
}

void etcd_kvs_close(struct etcd_kvs *kvs)
{
    for (size_t i = 0; i < kvs->count; i++) {
        etcd_kv_close(&kvs->list[i]);
    }
    free(kvs->list);
    *kvs = (struct etcd_kvs){0};
}
