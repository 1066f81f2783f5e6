#include "sidecar/coord/fields.h"

#include "sidecar/coord/keys.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* --- fields ------------------------------------------------------------------------------------------------------- */

int field_refuse(struct otr_errmsg *msg, const char *field, const char *what)
{
    otr_errmsg_set(msg, "field \"%s\" %s", field, what);
    return OTR_PROTO;
}

cJSON *field_object(const char *text, struct otr_errmsg *msg)
{
    cJSON *json = cJSON_ParseWithOpts(text, NULL, 1);

    if (json == NULL) { /* It does not tell want of memory from bad JSON; only bad JSON stays bad. */
        json = cJSON_ParseWithOpts(text, NULL, 1);
    }
    if (json == NULL || !cJSON_IsObject(json)) {
        otr_errmsg_set(msg, json == NULL ? "not JSON" : "not a JSON object");
        cJSON_Delete(json);
        return NULL;
    }
    return json;
}

const cJSON *field_find(const cJSON *object, const char *name)
{
    return cJSON_GetObjectItemCaseSensitive(object, name);
}

int field_get_number(const cJSON *object, const char *name, uint32_t least, uint32_t most, uint32_t *out,
                     struct otr_errmsg *msg)
{
    const cJSON *item = field_find(object, name);
    double v;

    if (!cJSON_IsNumber(item)) {
        return field_refuse(msg, name, "is missing or not a number");
    }
    v = item->valuedouble;
    if (!(v >= least && v <= most) || v != (double)(uint32_t)v) {
        otr_errmsg_set(msg, "field \"%s\" is not a whole number from %u to %u", name, least, most);
        return OTR_PROTO;
    }
    *out = (uint32_t)v;
    return 0;
}

int field_get_decimal(const cJSON *object, const char *name, uint64_t *out, struct otr_errmsg *msg)
{
    const char *text = cJSON_GetStringValue(field_find(object, name));
    uint64_t v = 0;

    if (text == NULL || text[0] == '\0') {
        return field_refuse(msg, name, "is missing or not a decimal string");
    }
    for (const char *c = text; *c != '\0'; c++) {
        if (*c < '0' || *c > '9' || __builtin_mul_overflow(v, 10, &v) ||
            __builtin_add_overflow(v, (uint64_t)(*c - '0'), &v)) {
            return field_refuse(msg, name, "is not a decimal string of at most 64 bits");
        }
    }
    *out = v;
    return 0;
}

int field_get_hex(const cJSON *object, const char *name, uint64_t *out, struct otr_errmsg *msg)
{
    const char *text = cJSON_GetStringValue(field_find(object, name));

    if (text == NULL || strlen(text) != 16 || strspn(text, "0123456789abcdefABCDEF") != 16) {
        return field_refuse(msg, name, "is missing or not a string of 16 hex digits");
    }
    *out = strtoull(text, NULL, 16);
    return 0;
}

/* Text of at most `room` - 1 bytes; an absent one is "" when `optional`. */
int field_get_text(const cJSON *object, const char *name, bool optional, char *out, size_t room, struct otr_errmsg *msg)
{
    const char *text = cJSON_GetStringValue(field_find(object, name));

    if (text == NULL && optional && field_find(object, name) == NULL) {
        text = "";
    }
    if (text == NULL || strlen(text) >= room) {
        return field_refuse(msg, name, text == NULL ? "is missing or not a string" : "is too long");
    }
    strcpy(out, text);
    return 0;
}

int field_get_name(const cJSON *item, const char *name, const char **out, struct otr_errmsg *msg)
{
    const char *text = cJSON_GetStringValue(item);

    if (text == NULL || !key_name_valid(text)) {
        return field_refuse(msg, name, "is missing or not a node's name");
    }
    *out = text;
    return 0;
}

/* An array, and the number of its items. */
int field_get_array(const cJSON *object, const char *name, uint32_t most, const cJSON **out, uint32_t *count,
                    struct otr_errmsg *msg)
{
    const cJSON *item = field_find(object, name);

    if (!cJSON_IsArray(item) || cJSON_GetArraySize(item) > (int)most) {
        otr_errmsg_set(msg, "field \"%s\" is missing or not a list of at most %u", name, most);
        return OTR_PROTO;
    }
    *out = item;
    *count = (uint32_t)cJSON_GetArraySize(item);
    return 0;
}

/* --- printing ----------------------------------------------------------------------------------------------------- */

bool field_add_hex(cJSON *object, const char *name, uint64_t v)
{
    char text[17];

    snprintf(text, sizeof text, "%016" PRIx64, v);
    return cJSON_AddStringToObject(object, name, text) != NULL;
}

bool field_add_decimal(cJSON *object, const char *name, uint64_t v)
{
    char text[24];

    snprintf(text, sizeof text, "%" PRIu64, v);
    return cJSON_AddStringToObject(object, name, text) != NULL;
}

bool field_add_number(cJSON *object, const char *name, uint32_t v)
{
    return cJSON_AddNumberToObject(object, name, v) != NULL;
}

bool field_add_text(cJSON *object, const char *name, const char *text)
{
    return cJSON_AddStringToObject(object, name, text) != NULL;
}

/* Gives the new item to the list; false when there is no memory for one or the other. */
bool field_append(cJSON *list, cJSON *item)
{
    if (item == NULL || !cJSON_AddItemToArray(list, item)) {
        cJSON_Delete(item);
        return false;
    }
    return true;
}

/* Ends every _print: text of what was put together, or NULL. */
char *field_finish(cJSON *json, bool ok)
{
    char *text = ok ? cJSON_PrintUnformatted(json) : NULL;

    cJSON_Delete(json);
    return text;
}
