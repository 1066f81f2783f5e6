#include "sidecar/cli/options.h"

#include "sidecar/cli/config_file.h"
#include "sidecar/coord/keys.h"
#include "sidecar/core/topology.h"

#include <assert.h>
#include <stdlib.h>
#include <strings.h>

enum { OPTIONS_MAX = 64, NAME_BYTES_MAX = 64, SECOND_MS = 1000, MINUTE_MS = 60000 };

/* --- suggestions -------------------------------------------------------------------------------------------------- */

static size_t least_of(size_t a, size_t b, size_t c)
{
    size_t least = a < b ? a : b;

    return least < c ? least : c;
}

/* Letters to add, take away or change until one text is the other. */
static size_t edit_distance(const char *a, const char *b)
{
    size_t row[NAME_BYTES_MAX + 1];
    size_t b_bytes = strlen(b);

    assert(b_bytes <= NAME_BYTES_MAX);
    for (size_t j = 0; j <= b_bytes; j++) {
        row[j] = j;
    }
    for (size_t i = 0; a[i] != '\0'; i++) {
        size_t diagonal = row[0];

        row[0] = i + 1;
        for (size_t j = 0; j < b_bytes; j++) {
            size_t above = row[j + 1];

            row[j + 1] = least_of(above + 1, row[j] + 1, diagonal + (a[i] != b[j]));
            diagonal = above;
        }
    }
    return row[b_bytes];
}

const char *options_suggest(const char *text, const char *const *names, size_t count)
{
    const char *best = NULL;
    size_t least = SIZE_MAX;

    if (strlen(text) > NAME_BYTES_MAX) {
        return NULL;
    }
    for (size_t i = 0; i < count; i++) {
        size_t distance = edit_distance(text, names[i]);

        if (strlen(text) > 2 && strncmp(names[i], text, strlen(text)) == 0) {
            distance = 1; /* The beginning of a name is nearly the name. */
        }
        if (distance < least) {
            least = distance;
            best = names[i];
        }
    }
    return least <= 1 + strlen(text) / 4 ? best : NULL;
}

static int refuse_unknown(const struct command *command, const char *what, const char *text, const char *prefix,
                          struct otr_errmsg *msg)
{
    const char *names[OPTIONS_MAX + 1];
    const char *meant;

    for (size_t i = 0; i < command->options_count; i++) {
        names[i] = command->options[i].name;
    }
    if (strcmp(text, "token") == 0) {
        otr_errmsg_set(msg,
                       "there is no %stoken: every user of this host can read arguments. Commands take --token-file "
                       "FILE, or the environment variable OUTRIGGER_TOKEN; a sidecar takes --tokens FILE, with hashes",
                       prefix);
        return OTR_INVALID;
    }
    names[command->options_count] = "config";
    meant = options_suggest(text, names, command->options_count + (command->config_file ? 1 : 0));
    if (meant != NULL) {
        otr_errmsg_set(msg, "unknown %s %s%s; did you mean %s%s?", what, prefix, text, prefix, meant);
    } else {
        otr_errmsg_set(msg, "unknown %s %s%s", what, prefix, text);
    }
    return OTR_INVALID;
}

/* --- values ------------------------------------------------------------------------------------------------------- */

static int parse_number(const char *text, const char *end, uint32_t *out)
{
    uint32_t v = 0;

    if (text == end) {
        return OTR_INVALID;
    }
    for (; text < end; text++) {
        if (*text < '0' || *text > '9' || __builtin_mul_overflow(v, 10U, &v) ||
            __builtin_add_overflow(v, (uint32_t)(*text - '0'), &v)) {
            return OTR_INVALID;
        }
    }
    *out = v;
    return 0;
}

static int parse_ms(const char *text, uint32_t *out)
{
    const char *unit = text + strspn(text, "0123456789");
    uint32_t factor;
    uint32_t v;

    if (*unit == '\0' || strcmp(unit, "ms") == 0) {
        factor = 1;
    } else if (strcmp(unit, "s") == 0) {
        factor = SECOND_MS;
    } else if (strcmp(unit, "min") == 0) {
        factor = MINUTE_MS;
    } else {
        return OTR_INVALID;
    }
    if (parse_number(text, unit, &v) != 0 || __builtin_mul_overflow(v, factor, &v)) {
        return OTR_INVALID;
    }
    *out = v;
    return 0;
}

static int parse_flag(const char *text, bool *out)
{
    static const char *const yes[] = {"true", "yes", "on", "1"};
    static const char *const no[] = {"false", "no", "off", "0"};

    for (size_t i = 0; i < sizeof yes / sizeof yes[0]; i++) {
        if (strcasecmp(text, yes[i]) == 0 || strcasecmp(text, no[i]) == 0) {
            *out = strcasecmp(text, yes[i]) == 0;
            return 0;
        }
    }
    return OTR_INVALID;
}

int options_address(const char *text, struct topology_address *out, struct otr_errmsg *msg)
{
    const char *colon = strrchr(text, ':');
    const char *host = text;
    size_t host_bytes = colon != NULL ? (size_t)(colon - text) : 0;
    uint32_t port;

    if (colon == NULL || parse_number(colon + 1, colon + strlen(colon), &port) != 0 || port < 1 || port > UINT16_MAX) {
        otr_errmsg_set(msg, "\"%s\" does not end in a colon and a port from 1 to 65535", text);
        return OTR_INVALID;
    }
    if (host_bytes > 2 && host[0] == '[' && host[host_bytes - 1] == ']') {
        host++;
        host_bytes -= 2;
    } else if (memchr(host, ':', host_bytes) != NULL || memchr(host, '[', host_bytes) != NULL) {
        otr_errmsg_set(msg, "\"%s\": an IPv6 address goes in brackets: [::1]:7700", text);
        return OTR_INVALID;
    }
    if (host_bytes == 0 || host_bytes > TOPOLOGY_HOST_MAX) {
        otr_errmsg_set(msg, "\"%s\" has no host before the colon", text);
        return OTR_INVALID;
    }
    memcpy(out->host, host, host_bytes);
    out->host[host_bytes] = '\0';
    out->port = (uint16_t)port;
    return 0;
}

/* Reads one value into its member. `source` is how the user knows it: "--nodes", "OUTRIGGER_NODES", "f.yaml:3: nodes".
 */
static int set_value(const struct option *o, const char *source, const char *text, void *settings,
                     struct otr_errmsg *msg)
{
    char *member = (char *)settings + o->offset;
    uint32_t number;
    bool flag;
    int rv;

    switch (o->type) {
    case OPTION_TEXT:
        memcpy(member, &text, sizeof text);
        return 0;
    case OPTION_NAME:
        if (!key_name_valid(text)) {
            otr_errmsg_set(msg,
                           "%s: \"%s\" is not a name: letters, digits, dots, underscores (not two in a row) and "
                           "hyphens, beginning with a letter or digit, at most %d",
                           source, text, OTR_NAME_MAX);
            return OTR_INVALID;
        }
        memcpy(member, &text, sizeof text);
        return 0;
    case OPTION_NUMBER:
    case OPTION_MS:
        rv = o->type == OPTION_MS ? parse_ms(text, &number) : parse_number(text, text + strlen(text), &number);
        if (rv != 0 || number < o->least || number > o->most) {
            otr_errmsg_set(msg, "%s: \"%s\" is not a %s from %u%s to %u%s", source, text,
                           o->type == OPTION_MS ? "time" : "number", o->least, o->type == OPTION_MS ? "ms" : "",
                           o->most, o->type == OPTION_MS ? "ms (like 250ms, 3s, 5min)" : "");
            return OTR_INVALID;
        }
        memcpy(member, &number, sizeof number);
        return 0;
    case OPTION_FLAG:
        if (parse_flag(text, &flag) != 0) {
            otr_errmsg_set(msg, "%s: \"%s\" is neither true nor false", source, text);
            return OTR_INVALID;
        }
        memcpy(member, &flag, sizeof flag);
        return 0;
    case OPTION_ADDRESS:
        rv = options_address(text, (struct topology_address *)(void *)member, msg);
        if (rv != 0) {
            otr_errmsg_wrap(msg, "%s", source);
        }
        return rv;
    }
    assert(false && "every type of option has a case");
    return OTR_INVALID;
}

/* --- sources ------------------------------------------------------------------------------------------------------ */

/* Number of an option by its name, in which '_' may stand for '-'; -1: none. */
static int find_option(const struct command *command, const char *name, size_t bytes)
{
    for (size_t i = 0; i < command->options_count; i++) {
        const char *known = command->options[i].name;
        size_t j = 0;

        while (j < bytes && known[j] != '\0' && (known[j] == name[j] || (known[j] == '-' && name[j] == '_'))) {
            j++;
        }
        if (j == bytes && known[j] == '\0') {
            return (int)i;
        }
    }
    return -1;
}

static void env_name(const char *option, char out[NAME_BYTES_MAX + 16])
{
    char *c;

    snprintf(out, NAME_BYTES_MAX + 16, "OUTRIGGER_%s", option);
    for (c = out; *c != '\0'; c++) {
        *c = *c == '-' ? '_' : *c >= 'a' && *c <= 'z' ? (char)(*c - 'a' + 'A') : *c;
    }
}

static const char *env_value(const char *option)
{
    char name[NAME_BYTES_MAX + 16];
    const char *value;

    env_name(option, name);
    value = getenv(name);
    return value != NULL && value[0] != '\0' ? value : NULL;
}

/* Where each option's value comes from, by its number. */
struct given {
    const char *text[OPTIONS_MAX]; /* NULL: not given */
    size_t line[OPTIONS_MAX];      /* of the config file, 0: elsewhere */
    bool flag[OPTIONS_MAX];        /* on the command line */
    const char *config_path;
};

static int read_flags(const struct command *command, int argc, char **argv, struct given *given, struct otr_errmsg *msg)
{
    for (int i = 0; i < argc; i++) {
        const char *name = argv[i] + 2;
        size_t bytes;
        const char *value;
        bool is_config;
        int number;

        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) {
            return OTR_EXISTS;
        }
        if (strncmp(argv[i], "--", 2) != 0 || *name == '\0') {
            otr_errmsg_set(msg, "unexpected argument \"%s\"; settings have the form --name value", argv[i]);
            return OTR_INVALID;
        }
        bytes = strcspn(name, "=");
        value = name[bytes] == '=' ? name + bytes + 1 : NULL;
        is_config = command->config_file && bytes == 6 && strncmp(name, "config", 6) == 0;
        /* Flags are spelt with hyphens only: one way to write each. */
        number = memchr(name, '_', bytes) == NULL ? find_option(command, name, bytes) : -1;
        if (number < 0 && !is_config) {
            char text[NAME_BYTES_MAX + 1];

            snprintf(text, sizeof text, "%.*s", (int)bytes, name);
            return refuse_unknown(command, "option", text, "--", msg);
        }
        if (value == NULL && !is_config && command->options[number].type == OPTION_FLAG) {
            value = "true";
        } else if (value == NULL && ++i < argc) {
            value = argv[i];
        }
        if (value == NULL) {
            otr_errmsg_set(msg, "--%s needs a value", is_config ? "config" : command->options[number].name);
            return OTR_INVALID;
        }
        if (is_config) {
            given->config_path = value;
        } else {
            given->text[number] = value;
            given->flag[number] = true;
        }
    }
    return 0;
}

static int read_config_file(const struct command *command, struct given *given, struct options_memory *memory,
                            struct otr_errmsg *msg)
{
    int rv;

    rv = config_file_read(given->config_path, &memory->pairs, &memory->pairs_count, msg);
    for (size_t i = 0; rv == 0 && i < memory->pairs_count; i++) {
        const struct config_pair *pair = &memory->pairs[i];
        int number = find_option(command, pair->key, strlen(pair->key));

        if (number < 0) {
            rv = refuse_unknown(command, "setting", pair->key, "", msg);
            otr_errmsg_wrap(msg, "%s:%zu", given->config_path, pair->line);
        } else if (given->text[number] == NULL) {
            given->text[number] = pair->value;
            given->line[number] = pair->line;
        }
    }
    return rv;
}

static int read_sources(const struct command *command, int argc, char **argv, struct given *given,
                        struct options_memory *memory, struct otr_errmsg *msg)
{
    int rv;

    rv = read_flags(command, argc, argv, given, msg);
    if (rv != 0) {
        return rv;
    }
    for (size_t i = 0; i < command->options_count; i++) {
        if (given->text[i] == NULL) {
            given->text[i] = env_value(command->options[i].name);
        }
    }
    if (command->config_file && given->config_path == NULL) {
        given->config_path = env_value("config");
    }
    return given->config_path != NULL ? read_config_file(command, given, memory, msg) : 0;
}

static int apply(const struct command *command, const struct given *given, size_t number, void *settings,
                 struct otr_errmsg *msg)
{
    const struct option *o = &command->options[number];
    char source[OTR_ERRMSG_MAX];

    if (given->text[number] == NULL) {
        if (o->required) {
            env_name(o->name, source);
            otr_errmsg_set(msg, "--%s is missing (or %s%s)", o->name, source,
                           command->config_file ? ", or a line in the file of --config" : "");
            return OTR_INVALID;
        }
        return o->fallback == NULL ? 0 : set_value(o, o->name, o->fallback, settings, msg);
    }
    if (given->line[number] != 0) {
        snprintf(source, sizeof source, "%s:%zu: %s", given->config_path, given->line[number], o->name);
    } else if (given->flag[number]) {
        snprintf(source, sizeof source, "--%s", o->name);
    } else {
        env_name(o->name, source);
    }
    return set_value(o, source, given->text[number], settings, msg);
}

int options_parse(const struct command *command, int argc, char **argv, void *settings, struct options_memory *memory,
                  struct otr_errmsg *msg)
{
    struct given given = {.config_path = NULL};
    int rv;

    assert(command->options_count <= OPTIONS_MAX);
    rv = read_sources(command, argc, argv, &given, memory, msg);
    for (size_t i = 0; rv == 0 && i < command->options_count; i++) {
        rv = apply(command, &given, i, settings, msg);
    }
    return rv;
}

void options_memory_close(struct options_memory *memory)
{
    config_file_free(memory->pairs, memory->pairs_count);
    *memory = (struct options_memory){0};
}

bool options_read(const struct command *command, int argc, char **argv, void *settings, struct options_memory *memory,
                  int *exit_code)
{
    struct otr_errmsg msg = {0};
    int rv;

    rv = options_parse(command, argc, argv, settings, memory, &msg);
    if (rv == 0) {
        return true;
    }
    options_memory_close(memory);
    if (rv == OTR_EXISTS) {
        options_help(command, stdout);
        *exit_code = EXIT_OK;
        return false;
    }
    fprintf(stderr, "outrigger %s: %s\nTry 'outrigger %s --help'.\n", command->name, msg.text, command->name);
    *exit_code = EXIT_USAGE;
    return false;
}

/* --- help --------------------------------------------------------------------------------------------------------- */

static void help_line(FILE *out, const char *name, const char *value, const char *help, const char *fallback,
                      bool required)
{
    int used = fprintf(out, "  --%s%s%s", name, value != NULL ? " " : "", value != NULL ? value : "");

    fprintf(out, "%*s%s", used < 32 ? 32 - used : 2, "", help);
    if (required) {
        fprintf(out, " (required)");
    } else if (fallback != NULL) {
        fprintf(out, " (default %s)", fallback);
    }
    fprintf(out, "\n");
}

void options_help(const struct command *command, FILE *out)
{
    fprintf(out, "outrigger %s: %s\n\nSettings:\n", command->name, command->about);
    for (size_t i = 0; i < command->options_count; i++) {
        const struct option *o = &command->options[i];

        help_line(out, o->name, o->type == OPTION_FLAG ? NULL : o->value, o->help, o->fallback, o->required);
    }
    if (command->config_file) {
        help_line(out, "config", "FILE", "YAML file with lines \"name: value\", named as here with _ for -", NULL,
                  false);
    }
    fprintf(out, "  --help                        this text\n\n");
    fprintf(out,
            "Each setting can also be given as environment variable: OUTRIGGER_ and its name in capitals, with _ "
            "for -.\nA flag goes before the environment%s.\n",
            command->config_file ? ", the environment before the file" : "");
    fprintf(out, "\nExamples:\n%s", command->examples);
}
