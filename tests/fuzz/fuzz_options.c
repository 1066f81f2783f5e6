/* What users of the program write. A first byte 'y': a YAML file of settings; 'l': a line of a JSONL file to load; else
 * flags, one a line. Values that are accepted are within what the table allows.
 *
 * Covers: sidecar/cli/options.c sidecar/cli/config_file.c sidecar/cli/load_lines.c sidecar/core/topology.c */
#include "sidecar/api/json.h"
#include "sidecar/cli/config_file.h"
#include "sidecar/cli/load_lines.h"
#include "sidecar/cli/options.h"
#include "sidecar/coord/keys.h"
#include "sidecar/core/topology.h"
#include "tests/fuzz/fuzz.h"

struct settings {
    const char *data_dir;
    const char *node;
    uint32_t shards;
    uint32_t ttl_ms;
    bool json;
    struct topology_address listen;
};

static const struct option table[] = {
    {.name = "data-dir", .type = OPTION_TEXT, .offset = offsetof(struct settings, data_dir), .fallback = "/var"},
    {.name = "node", .type = OPTION_NAME, .offset = offsetof(struct settings, node), .required = true},
    {.name = "shards",
     .type = OPTION_NUMBER,
     .offset = offsetof(struct settings, shards),
     .fallback = "16",
     .least = 1,
     .most = 4096},
    {.name = "session-ttl",
     .type = OPTION_MS,
     .offset = offsetof(struct settings, ttl_ms),
     .fallback = "3s",
     .least = 500,
     .most = 60000},
    {.name = "json", .type = OPTION_FLAG, .offset = offsetof(struct settings, json)},
    {.name = "listen",
     .type = OPTION_ADDRESS,
     .offset = offsetof(struct settings, listen),
     .fallback = "127.0.0.1:7700"},
};
/* Without --config: a flag must not make the fuzzer open files. */
static const struct command command = {
    .name = "fuzz", .about = "", .examples = "", .options = table, .options_count = sizeof table / sizeof table[0]};

static void flags(const char *data, size_t bytes)
{
    char *text = fuzz_copy(data, bytes, 1);
    struct options_memory memory = {0};
    struct otr_errmsg msg = {0};
    struct settings s = {0};
    char *argv[32];
    char *rest = text;
    int argc = 0;
    int rv;

    while (argc < 32 && (argv[argc] = strsep(&rest, "\n")) != NULL) {
        argc++;
    }
    rv = options_parse(&command, argc, argv, &s, &memory, &msg);
    FUZZ_CHECK(rv == 0 || rv == OTR_EXISTS || (rv == OTR_INVALID && msg.text[0] != '\0'));
    if (rv == 0) {
        FUZZ_CHECK(s.data_dir != NULL && key_name_valid(s.node));
        FUZZ_CHECK(s.shards >= 1 && s.shards <= 4096 && s.ttl_ms >= 500 && s.ttl_ms <= 60000);
        FUZZ_CHECK(s.listen.port != 0 && s.listen.host[0] != '\0');
    }
    options_memory_close(&memory);
    free(text);
}

static void yaml(const char *data, size_t bytes)
{
    char *text = fuzz_copy(data, bytes, 0);
    struct otr_errmsg msg = {0};
    struct config_pair *pairs;
    size_t count;

    if (config_file_parse("f.yaml", text, bytes, &pairs, &count, &msg) != 0) {
        FUZZ_CHECK(msg.text[0] != '\0' && pairs == NULL && count == 0);
    }
    for (size_t i = 0; i < count; i++) {
        FUZZ_CHECK(pairs[i].key != NULL && pairs[i].value != NULL && pairs[i].line >= 1);
        for (size_t j = 0; j < i; j++) {
            FUZZ_CHECK(strcmp(pairs[i].key, pairs[j].key) != 0);
        }
    }
    config_file_free(pairs, count);
    free(text);
}

/* Every line that is a JSON object is taken for one. */
static void line(const char *data, size_t bytes)
{
    char *text = fuzz_copy(data, bytes, JSON_SLACK);
    char *exact = fuzz_copy(data, bytes, 0);
    struct otr_errmsg msg = {0};
    const char *value;
    size_t value_bytes;
    struct json j;
    bool has_id;
    bool taken = load_lines_check(exact, bytes, &has_id);

    json_init(&j, text, bytes, &msg);
    if (json_peek(&j) == '{' && json_skip(&j, &value, &value_bytes) == 0 && json_end(&j) == 0 && value == text) {
        FUZZ_CHECK(taken);
    }
    json_close(&j);
    free(exact);
    free(text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    const char *text = (const char *)data + 1;

    if (bytes == 0) {
        return 0;
    }
    if (data[0] == 'y') {
        yaml(text, bytes - 1);
    } else if (data[0] == 'l') {
        line(text, bytes - 1);
    } else {
        flags((const char *)data, bytes);
    }
    return 0;
}
