/* A YAML file of settings: one mapping of names to scalars or to lists of scalars, which are joined with commas. */
#ifndef OUTRIGGER_CLI_CONFIG_FILE_H
#define OUTRIGGER_CLI_CONFIG_FILE_H

#include "outrigger/err.h"

enum { CONFIG_FILE_BYTES_MAX = 1 << 20 };

struct config_pair {
    char *key; /* as written; both malloc'd */
    char *value;
    size_t line; /* from 1 */
};

/* On success *pairs is the caller's, to be freed with config_file_free. OTR_INVALID with words that name file and line;
 * OTR_IO when the file cannot be read. */
int config_file_read(const char *path, struct config_pair **pairs, size_t *count, struct otr_errmsg *msg);
/* The same of a text; `name` is for complaints. */
int config_file_parse(const char *name, const char *text, size_t bytes, struct config_pair **pairs, size_t *count,
                      struct otr_errmsg *msg);
void config_file_free(struct config_pair *pairs, size_t count);

#endif
