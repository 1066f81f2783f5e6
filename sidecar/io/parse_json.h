/* cJSON's parser does not tell want of memory from bad JSON. What it refuses is given to it once more: good JSON is not
 * taken for bad because one allocation failed. As cJSON_ParseWithLength. Any thread. */
#ifndef OUTRIGGER_IO_PARSE_JSON_H
#define OUTRIGGER_IO_PARSE_JSON_H

#include <cjson/cJSON.h>
#include <stddef.h>

static inline cJSON *parse_json(const char *text, size_t bytes)
{
    cJSON *json = cJSON_ParseWithLength(text, bytes);

    return json != NULL ? json : cJSON_ParseWithLength(text, bytes);
}

#endif
