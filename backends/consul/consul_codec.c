#include "backends/consul/consul_codec.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

enum { NUMBER_BYTES_MAX = 20 };

/* --- keys ------------------------------------------------------------------------------------------------------- */

/* Bytes of the character that starts here, 0 when there is none: not UTF-8, overlong, a surrogate, or a control. */
static size_t character_bytes(const unsigned char *s)
{
    uint32_t code;
    size_t bytes;

    if (s[0] < 0x80) {
        return s[0] >= ' ' && s[0] != 0x7F ? 1 : 0;
    }
    bytes = s[0] >= 0xF0 && s[0] < 0xF5 ? 4 : s[0] >= 0xE0 && s[0] < 0xF0 ? 3 : s[0] >= 0xC2 && s[0] < 0xE0 ? 2 : 0;
    code = bytes == 4 ? s[0] & 7U : bytes == 3 ? s[0] & 15U : s[0] & 31U;
    for (size_t i = 1; i < bytes; i++) {
        if ((s[i] & 0xC0) != 0x80) {
            return 0;
        }
        code = code << 6 | (s[i] & 63U);
    }
    if ((bytes == 3 && (code < 0x800 || (code >= 0xD800 && code < 0xE000))) ||
        (bytes == 4 && (code < 0x10000 || code > 0x10FFFF)) || (bytes == 2 && code < 0xA0)) {
        return 0;
    }
    return bytes;
}

static bool segment_is_dots(const char *segment, size_t bytes)
{
    return (bytes == 1 && segment[0] == '.') || (bytes == 2 && segment[0] == '.' && segment[1] == '.');
}

const char *consul_key_inside(const char *key)
{
    return key[0] == '/' ? key + 1 : key;
}

bool consul_key_valid(const char *key)
{
    const char *segment = consul_key_inside(key);
    const char *at = segment;

    while (true) {
        if (*at == '/' || *at == '\0') {
            size_t bytes = (size_t)(at - segment);

            if (segment_is_dots(segment, bytes) || (bytes == 0 && *at == '/')) {
                return false;
            }
            if (*at == '\0') {
                return true;
            }
            segment = ++at;
        } else {
            size_t bytes = character_bytes((const unsigned char *)at);

            if (bytes == 0) {
                return false;
            }
            at += bytes;
        }
    }
}

void consul_add_path(struct json_text *url, const char *key)
{
    static const char plain[] = "-_.~/";

    for (const char *c = consul_key_inside(key); *c != '\0'; c++) {
        if (isalnum((unsigned char)*c) || strchr(plain, *c) != NULL) {
            json_text_add_raw(url, c, 1);
        } else {
            json_text_add(url, "%%%02X", (unsigned)(unsigned char)*c);
        }
    }
}

/* --- fields ----------------------------------------------------------------------------------------------------- */

uint64_t consul_json_u64(const cJSON *object, const char *name)
{
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(object, name);

    /* Whole numbers up to 2^53 are exact in a double; Raft's index stays below for ever. */
    if (cJSON_IsNumber(item) && item->valuedouble >= 0 && item->valuedouble <= 9007199254740992.0) {
        return (uint64_t)item->valuedouble;
    }
    return 0;
}

const char *consul_json_text(const cJSON *object, const char *name)
{
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(object, name);

    return cJSON_IsString(item) ? item->valuestring : "";
}

uint64_t consul_index_parse(const char *text)
{
    uint64_t value;

    return strlen(text) <= NUMBER_BYTES_MAX && json_text_u64(text, &value) ? value : 0;
}

bool consul_session_id_valid(const char *id)
{
    size_t bytes = strspn(id, "0123456789abcdefABCDEF-");

    return bytes == 36 && id[bytes] == '\0';
}

/* --- key-values ------------------------------------------------------------------------------------------------- */

static int kv_decode(const cJSON *json, bool slash, struct otr_kv *kv)
{
    const char *key = consul_json_text(json, "Key");
    const char *value = consul_json_text(json, "Value");
    const char *session = consul_json_text(json, "Session");
    size_t key_room = strlen(key) + 2;
    size_t value_room = strlen(value) / 4 * 3 + 1;
    size_t session_room = strlen(session) + 1;
    char *memory;

    kv->revision = consul_json_u64(json, "ModifyIndex");
    kv->create_revision = consul_json_u64(json, "CreateIndex");
    if (key[0] == '\0' || kv->revision == 0 || kv->create_revision == 0 || session_room > OTR_SESSION_ID_MAX) {
        return OTR_PROTO;
    }
    memory = malloc(key_room + value_room + session_room);
    if (memory == NULL) {
        return OTR_NOMEM;
    }
    if (!json_text_base64_decode(value, memory + key_room, &kv->value_bytes)) {
        free(memory);
        return OTR_PROTO;
    }
    memory[0] = '/';
    strcpy(memory + (slash ? 1 : 0), key);
    memory[key_room + kv->value_bytes] = '\0';
    strcpy(memory + key_room + value_room, session);
    kv->key = memory;
    kv->value = memory + key_room;
    kv->session = memory + key_room + value_room;
    return 0;
}

int consul_kvs_decode(const cJSON *json, bool slash, struct kv_list *kvs)
{
    const cJSON *item;
    int rv;

    if (!cJSON_IsArray(json)) {
        return OTR_PROTO;
    }
    cJSON_ArrayForEach(item, json)
    {
        struct otr_kv kv = {0};

        rv = kv_decode(item, slash, &kv);
        if (rv != 0) {
            return rv;
        }
        rv = kv_list_add(kvs, &kv);
        if (rv != 0) {
            kv_close(&kv);
            return rv;
        }
        /* The differences between two lists are found by walking both: order is relied upon. */
        if (kvs->count > 1 && strcmp(kvs->list[kvs->count - 2].key, kvs->list[kvs->count - 1].key) >= 0) {
            return OTR_PROTO;
        }
    }
    return 0;
}
