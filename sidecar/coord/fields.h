/* Fields of the coordinator's JSON values: reading them with complaints that name the field, and writing them. What
 * values.c is made of. The field_get_ functions return 0 or OTR_PROTO and then leave *out alone. The field_add_
 * functions are false when out of memory, also when the object is NULL for that reason. */
#ifndef OUTRIGGER_COORD_FIELDS_H
#define OUTRIGGER_COORD_FIELDS_H

#include "outrigger/err.h"
#include "outrigger/types.h"

#include <cjson/cJSON.h>

/* Sets `field "..." <what>`; returns OTR_PROTO. */
int field_refuse(struct otr_errmsg *msg, const char *field, const char *what);
/* Parses a text that is one JSON object and nothing else; NULL with words. The caller's to cJSON_Delete. */
cJSON *field_object(const char *text, struct otr_errmsg *msg);
const cJSON *field_find(const cJSON *object, const char *name);

int field_get_number(const cJSON *object, const char *name, uint32_t least, uint32_t most, uint32_t *out,
                     struct otr_errmsg *msg);
int field_get_decimal(const cJSON *object, const char *name, uint64_t *out, struct otr_errmsg *msg);
int field_get_hex(const cJSON *object, const char *name, uint64_t *out, struct otr_errmsg *msg);
/* Of at most room - 1 bytes; an absent one is "" when `optional`. */
int field_get_text(const cJSON *object, const char *name, bool optional, char *out, size_t room,
                   struct otr_errmsg *msg);
/* The item itself as a node's name, lent by it; `name` is for the complaint. */
int field_get_name(const cJSON *item, const char *name, const char **out, struct otr_errmsg *msg);
int field_get_array(const cJSON *object, const char *name, uint32_t most, const cJSON **out, uint32_t *count,
                    struct otr_errmsg *msg);

bool field_add_hex(cJSON *object, const char *name, uint64_t v);
bool field_add_decimal(cJSON *object, const char *name, uint64_t v);
bool field_add_number(cJSON *object, const char *name, uint32_t v);
bool field_add_text(cJSON *object, const char *name, const char *text);
/* Gives the new item to the list. */
bool field_append(cJSON *list, cJSON *item);
/* Ends a _print: malloc'd text of `json`, NULL unless `ok`. Deletes json. */
char *field_finish(cJSON *json, bool ok);

#endif
