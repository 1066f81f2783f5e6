#include "sidecar/cli/config_file.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <yaml.h>

void config_file_free(struct config_pair *pairs, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        free(pairs[i].key);
        free(pairs[i].value);
    }
    free(pairs);
}

static int nomem(struct otr_errmsg *msg)
{
    otr_errmsg_set(msg, "%s", otr_strerror(OTR_NOMEM));
    return OTR_NOMEM;
}

/* A scalar without NUL, which no setting has. */
static bool is_text(const yaml_node_t *node)
{
    return node != NULL && node->type == YAML_SCALAR_NODE &&
           memchr(node->data.scalar.value, '\0', node->data.scalar.length) == NULL;
}

static const char *text_of(const yaml_node_t *node)
{
    return (const char *)node->data.scalar.value;
}

/* "a,b,c" of a list of scalars; NULL and *bad when an item is something else. */
static char *join(yaml_document_t *document, const yaml_node_t *list, bool *bad)
{
    char *text = calloc(1, 1);

    for (yaml_node_item_t *item = list->data.sequence.items.start; item < list->data.sequence.items.top; item++) {
        const yaml_node_t *node = yaml_document_get_node(document, *item);
        char *longer = NULL;

        *bad = !is_text(node);
        if (*bad || text == NULL || asprintf(&longer, "%s%s%s", text, text[0] != '\0' ? "," : "", text_of(node)) < 0) {
            free(text);
            return NULL;
        }
        free(text);
        text = longer;
    }
    return text;
}

static int add_pair(const char *name, yaml_document_t *document, const yaml_node_pair_t *from,
                    struct config_pair *pairs, size_t *count, struct otr_errmsg *msg)
{
    const yaml_node_t *key = yaml_document_get_node(document, from->key);
    const yaml_node_t *value = yaml_document_get_node(document, from->value);
    size_t line = key->start_mark.line + 1;
    struct config_pair *pair = &pairs[*count];
    bool bad = !is_text(value);

    if (!is_text(key)) {
        otr_errmsg_set(msg, "%s:%zu: the name of a setting is not a plain text", name, line);
        return OTR_INVALID;
    }
    for (size_t i = 0; i < *count; i++) {
        if (strcmp(pairs[i].key, text_of(key)) == 0) {
            otr_errmsg_set(msg, "%s:%zu: %s stands there twice, first in line %zu", name, line, text_of(key),
                           pairs[i].line);
            return OTR_INVALID;
        }
    }
    *pair = (struct config_pair){.line = line, .key = strdup(text_of(key))};
    if (value != NULL && value->type == YAML_SEQUENCE_NODE) {
        bad = false;
        pair->value = join(document, value, &bad);
    } else if (!bad) {
        pair->value = strdup(text_of(value));
    }
    (*count)++;
    if (bad) {
        otr_errmsg_set(msg, "%s:%zu: the value of %s is neither a plain value nor a list of such", name, line,
                       text_of(key));
        return OTR_INVALID;
    }
    return pair->key != NULL && pair->value != NULL ? 0 : nomem(msg);
}

static int add_pairs(const char *name, yaml_document_t *document, struct config_pair **pairs, size_t *count,
                     struct otr_errmsg *msg)
{
    const yaml_node_t *root = yaml_document_get_root_node(document);
    size_t room;
    int rv = 0;

    if (root == NULL) {
        return 0; /* Empty, or comments only. */
    }
    if (root->type != YAML_MAPPING_NODE) {
        otr_errmsg_set(msg, "%s:%zu: expected lines of the form \"name: value\"", name, root->start_mark.line + 1);
        return OTR_INVALID;
    }
    room = (size_t)(root->data.mapping.pairs.top - root->data.mapping.pairs.start);
    *pairs = calloc(room + 1, sizeof **pairs);
    if (*pairs == NULL) {
        return nomem(msg);
    }
    for (size_t i = 0; rv == 0 && i < room; i++) {
        rv = add_pair(name, document, root->data.mapping.pairs.start + i, *pairs, count, msg);
    }
    return rv;
}

static int load(const char *name, yaml_parser_t *parser, yaml_document_t *document, struct otr_errmsg *msg)
{
    if (yaml_parser_load(parser, document)) {
        return 0;
    }
    if (parser->error == YAML_MEMORY_ERROR) {
        return nomem(msg);
    }
    otr_errmsg_set(msg, "%s:%zu: not YAML: %s", name, parser->problem_mark.line + 1,
                   parser->problem != NULL ? parser->problem : "malformed");
    return OTR_INVALID;
}

int config_file_parse(const char *name, const char *text, size_t bytes, struct config_pair **pairs, size_t *count,
                      struct otr_errmsg *msg)
{
    yaml_parser_t parser;
    yaml_document_t document;
    int rv;

    *pairs = NULL;
    *count = 0;
    if (!yaml_parser_initialize(&parser)) {
        return nomem(msg);
    }
    yaml_parser_set_input_string(&parser, (const unsigned char *)text, bytes);
    rv = load(name, &parser, &document, msg);
    if (rv == 0) {
        rv = add_pairs(name, &document, pairs, count, msg);
        yaml_document_delete(&document);
    }
    if (rv == 0 && *pairs != NULL) {
        rv = load(name, &parser, &document, msg);
        if (rv == 0 && yaml_document_get_root_node(&document) != NULL) {
            otr_errmsg_set(msg, "%s:%zu: a second document begins here", name,
                           yaml_document_get_root_node(&document)->start_mark.line + 1);
            rv = OTR_INVALID;
        }
        yaml_document_delete(&document);
    }
    yaml_parser_delete(&parser);
    if (rv != 0) {
        config_file_free(*pairs, *count);
        *pairs = NULL;
        *count = 0;
    }
    return rv;
}

int config_file_read(const char *path, struct config_pair **pairs, size_t *count, struct otr_errmsg *msg)
{
    FILE *file = fopen(path, "re");
    char *text = malloc(CONFIG_FILE_BYTES_MAX + 1);
    size_t bytes;
    int rv = OTR_IO;

    *pairs = NULL;
    *count = 0;
    if (file == NULL || text == NULL) {
        otr_errmsg_set(msg, "cannot open %s: %s", path, strerror(errno));
        goto out;
    }
    bytes = fread(text, 1, CONFIG_FILE_BYTES_MAX + 1, file);
    if (ferror(file)) {
        otr_errmsg_set(msg, "cannot read %s: %s", path, strerror(errno));
    } else if (bytes > CONFIG_FILE_BYTES_MAX) {
        otr_errmsg_set(msg, "%s is larger than %d bytes", path, CONFIG_FILE_BYTES_MAX);
        rv = OTR_INVALID;
    } else {
        rv = config_file_parse(path, text, bytes, pairs, count, msg);
    }
out:
    if (file != NULL) {
        fclose(file);
    }
    free(text);
    return rv;
}
