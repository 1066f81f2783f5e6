#include "sidecar/coord/keys.h"

#include <assert.h>
#include <stdio.h>

static_assert(sizeof "/outrigger//collections/" + (size_t)2 * OTR_NAME_MAX <= KEY_MAX, "every key fits");

static const char root[] = "/outrigger/";

static const struct {
    const char *folder; /* with its slash */
    enum key_kind kind;
} folders[] = {
    {"nodes/", KEY_NODE},
    {"live/", KEY_LIVE},
    {"shards/", KEY_SHARD},
    {"leases/", KEY_LEASE},
    {"collections/", KEY_COLLECTION},
    {"services/", KEY_SERVICE},
};

static bool is_letter_or_digit(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
}

bool key_name_valid(const char *name)
{
    size_t bytes = 0;

    if (!is_letter_or_digit(name[0])) {
        return false;
    }
    for (; name[bytes] != '\0'; bytes++) {
        if (bytes >= OTR_NAME_MAX || (!is_letter_or_digit(name[bytes]) && strchr("_.-", name[bytes]) == NULL)) {
            return false;
        }
    }
    /* "__" parts collection and shard in an engine's collection name. */
    return strstr(name, "__") == NULL;
}

static void print(char out[KEY_MAX], const char *cluster, const char *folder, const char *name)
{
    int bytes = snprintf(out, KEY_MAX, "%s%s/%s%s", root, cluster, folder, name);

    assert(bytes > 0 && bytes < KEY_MAX);
}

static void print_number(char out[KEY_MAX], const char *cluster, const char *folder, otr_shard shard)
{
    char number[16];

    snprintf(number, sizeof number, "%u", shard);
    print(out, cluster, folder, number);
}

void key_prefix(char out[KEY_MAX], const char *cluster)
{
    print(out, cluster, "", "");
}

void key_config(char out[KEY_MAX], const char *cluster)
{
    print(out, cluster, "config", "");
}

void key_node(char out[KEY_MAX], const char *cluster, const char *node)
{
    print(out, cluster, "nodes/", node);
}

void key_live(char out[KEY_MAX], const char *cluster, const char *node)
{
    print(out, cluster, "live/", node);
}

void key_shard(char out[KEY_MAX], const char *cluster, otr_shard shard)
{
    print_number(out, cluster, "shards/", shard);
}

void key_lease(char out[KEY_MAX], const char *cluster, otr_shard shard)
{
    print_number(out, cluster, "leases/", shard);
}

void key_collection(char out[KEY_MAX], const char *cluster, const char *name)
{
    print(out, cluster, "collections/", name);
}

void key_import(char out[KEY_MAX], const char *cluster)
{
    print(out, cluster, "import", "");
}

void key_service(char out[KEY_MAX], const char *cluster, const char *node)
{
    print(out, cluster, "services/", node);
}

/* Decimal without sign, padding or anything behind it: a shard has one key. */
static bool parse_shard(const char *text, otr_shard *shard)
{
    uint32_t number = 0;
    size_t digits = 0;

    for (; text[digits] >= '0' && text[digits] <= '9'; digits++) {
        number = number * 10 + (uint32_t)(text[digits] - '0');
        if (number >= OTR_SHARDS_MAX) {
            return false;
        }
    }
    *shard = number;
    return digits > 0 && text[digits] == '\0' && (text[0] != '0' || digits == 1);
}

void key_parse(const char *cluster, const char *text, struct key *out)
{
    char prefix[KEY_MAX];
    size_t bytes;

    *out = (struct key){.kind = KEY_OTHER};
    key_prefix(prefix, cluster);
    bytes = strlen(prefix);
    if (strncmp(text, prefix, bytes) != 0) {
        return;
    }
    text += bytes;
    if (strcmp(text, "config") == 0) {
        out->kind = KEY_CONFIG;
        return;
    }
    if (strcmp(text, "import") == 0) {
        out->kind = KEY_IMPORT;
        return;
    }
    if (strcmp(text, "leases/controller") == 0) {
        out->kind = KEY_CONTROLLER;
        return;
    }
    for (size_t i = 0; i < sizeof folders / sizeof folders[0]; i++) {
        bytes = strlen(folders[i].folder);
        if (strncmp(text, folders[i].folder, bytes) != 0) {
            continue;
        }
        if (folders[i].kind == KEY_SHARD || folders[i].kind == KEY_LEASE) {
            out->kind = parse_shard(text + bytes, &out->shard) ? folders[i].kind : KEY_OTHER;
        } else if (key_name_valid(text + bytes)) {
            out->kind = folders[i].kind;
            strcpy(out->name, text + bytes);
        }
        return;
    }
}
