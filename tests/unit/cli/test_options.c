#include "sidecar/cli/config_file.h"
#include "sidecar/cli/options.h"
#include "sidecar/core/topology.h"
#include "tests/lib/fail_calls.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <criterion/redirect.h>
#include <stdlib.h>
#include <unistd.h>

struct settings {
    const char *data_dir;
    const char *node;
    uint32_t count;
    uint32_t session_ttl_ms;
    bool json;
    struct topology_address listen;
};

static const struct option table[] = {
    {"data-dir", OPTION_TEXT, offsetof(struct settings, data_dir), "DIR", NULL, false, 0, 0, "where"},
    {"node", OPTION_NAME, offsetof(struct settings, node), "NAME", NULL, false, 0, 0, "who"},
    {"count", OPTION_NUMBER, offsetof(struct settings, count), "N", "3", false, 1, 10, "how many"},
    {"session-ttl", OPTION_MS, offsetof(struct settings, session_ttl_ms), "TIME", "3s", false, 1000, 600000,
     "how long"},
    {"json", OPTION_FLAG, offsetof(struct settings, json), NULL, NULL, false, 0, 0, "JSON"},
    {"listen", OPTION_ADDRESS, offsetof(struct settings, listen), "IP:PORT", "127.0.0.1:7700", false, 0, 0, "where"},
};

static const struct command command = {.name = "test",
                                       .about = "a test.",
                                       .examples = "  none\n",
                                       .options = table,
                                       .options_count = sizeof table / sizeof table[0],
                                       .config_file = true};

enum { WORDS_MAX = 12 };

struct fixture {
    struct settings s;
    struct options_memory memory;
    struct otr_errmsg msg;
    char words[512];
};

/* Parses a command line; words are separated by blanks. */
static int parse(struct fixture *f, const char *line)
{
    char *argv[WORDS_MAX];
    int argc = 0;
    char *save;

    options_memory_close(&f->memory);
    f->s = (struct settings){.count = 0};
    f->msg.text[0] = '\0';
    snprintf(f->words, sizeof f->words, "%s", line);
    for (char *word = strtok_r(f->words, " ", &save); word != NULL; word = strtok_r(NULL, " ", &save)) {
        argv[argc++] = word;
    }
    return options_parse(&command, argc, argv, &f->s, &f->memory, &f->msg);
}

/* A file with this text; its path. */
static const char *config_with(const char *text)
{
    static char path[] = "/tmp/outrigger-options-XXXXXX";
    static bool made;
    FILE *file;

    if (!made) {
        int fd = mkstemp(path);

        cr_assert(ge(int, fd, 0));
        close(fd);
        made = true;
    }
    file = fopen(path, "w");
    fputs(text, file);
    fclose(file);
    return path;
}

static int parse_with_config(struct fixture *f, const char *text)
{
    char line[256];
    const char *path = config_with(text);
    int rv;

    snprintf(line, sizeof line, "--config %s", path);
    rv = parse(f, line);
    unlink(path);
    return rv;
}

Test(options, defaults)
{
    struct fixture f = {0};

    cr_assert(zero(int, parse(&f, "")));
    cr_assert(eq(u32, f.s.count, 3));
    cr_assert(eq(u32, f.s.session_ttl_ms, 3000));
    cr_assert(eq(str, f.s.listen.host, "127.0.0.1"));
    cr_assert(eq(int, f.s.listen.port, 7700));
    cr_assert(zero(ptr, (void *)f.s.data_dir));
    cr_assert(not(f.s.json));
}

Test(options, flags_in_both_spellings)
{
    struct fixture f = {0};

    cr_assert(zero(int, parse(&f, "--data-dir /d --count=7 --json --session-ttl 250s --listen [::1]:80")));
    cr_assert(eq(str, (char *)f.s.data_dir, "/d"));
    cr_assert(eq(u32, f.s.count, 7));
    cr_assert(eq(u32, f.s.session_ttl_ms, 250000));
    cr_assert(f.s.json);
    cr_assert(eq(str, f.s.listen.host, "::1"));
    cr_assert(zero(int, parse(&f, "--data-dir= --json=false --count 1 --count 2")));
    cr_assert(eq(str, (char *)f.s.data_dir, ""));
    cr_assert(not(f.s.json));
    cr_assert(eq(u32, f.s.count, 2));
}

Test(options, flag_goes_before_environment_before_file_before_default)
{
    struct fixture f = {0};
    char line[256];
    const char *path = config_with("count: 4\ndata_dir: /file\nsession-ttl: 5s\n");

    setenv("OUTRIGGER_COUNT", "5", 1);
    setenv("OUTRIGGER_DATA_DIR", "/env", 1);
    snprintf(line, sizeof line, "--count 6 --config %s", path);
    cr_assert(zero(int, parse(&f, line)), "%s", f.msg.text);
    cr_assert(eq(u32, f.s.count, 6));
    cr_assert(eq(str, (char *)f.s.data_dir, "/env"));
    cr_assert(eq(u32, f.s.session_ttl_ms, 5000));
    cr_assert(eq(int, f.s.listen.port, 7700));
    unsetenv("OUTRIGGER_DATA_DIR");
    setenv("OUTRIGGER_CONFIG", path, 1);
    setenv("OUTRIGGER_COUNT", "", 1); /* as compose files leave it: unset */
    cr_assert(zero(int, parse(&f, "")), "%s", f.msg.text);
    cr_assert(eq(u32, f.s.count, 4));
    cr_assert(eq(str, (char *)f.s.data_dir, "/file"));
    options_memory_close(&f.memory);
    unlink(path);
}

Test(options, what_is_wrong_is_refused_with_words)
{
    static const struct {
        const char *line;
        const char *words;
    } cases[] = {
        {"--cuont 3", "unknown option --cuont; did you mean --count?"},
        {"--data-dri=/d", "did you mean --data-dir?"},
        {"--data_dir /d", "did you mean --data-dir?"},
        {"--session 3s", "did you mean --session-ttl?"},
        {"--confg f", "did you mean --config?"},
        {"--zzz 1", "unknown option --zzz"},
        {"--count", "--count needs a value"},
        {"count 3", "unexpected argument \"count\""},
        {"--json yes", "unexpected argument \"yes\""},
        {"-x", "unexpected argument \"-x\""},
        {"--", "unexpected argument \"--\""},
        {"--count 0", "not a number from 1 to 10"},
        {"--count 11", "not a number from 1 to 10"},
        {"--count -1", "not a number"},
        {"--count 1x", "not a number"},
        {"--count 4294967297", "not a number"},
        {"--count=", "not a number"},
        {"--session-ttl 1h", "not a time"},
        {"--session-ttl 999", "not a time from 1000ms"},
        {"--session-ttl s", "not a time"},
        {"--session-ttl 4294968s", "not a time"},
        {"--node a__b", "\"a__b\" is not a name"},
        {"--node a/b", "is not a name"},
        {"--listen 127.0.0.1", "does not end in a colon and a port"},
        {"--listen 127.0.0.1:0", "port from 1 to 65535"},
        {"--listen 127.0.0.1:65536", "port from 1 to 65535"},
        {"--listen :80", "has no host"},
        {"--listen ::1:80", "in brackets"},
        {"--listen []:80", "in brackets"},
        {"--json=maybe", "neither true nor false"},
        {"--config /nowhere/at/all", "cannot open /nowhere/at/all"},
    };
    struct fixture f = {0};

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        cr_assert(ne(int, parse(&f, cases[i].line), 0), "%s", cases[i].line);
        cr_assert(strstr(f.msg.text, cases[i].words) != NULL, "%s: %s", cases[i].line, f.msg.text);
    }
    options_memory_close(&f.memory);
}

Test(options, suggestions_only_for_what_is_near)
{
    static const char *const names[] = {"nodes", "shards"};

    cr_assert(eq(str, (char *)options_suggest("node", names, 2), "nodes"));
    cr_assert(eq(str, (char *)options_suggest("shrads", names, 2), "shards"));
    cr_assert(zero(ptr, (void *)options_suggest("port", names, 2)));
    cr_assert(zero(ptr, (void *)options_suggest("", names, 2)));
}

/* Arguments are seen by everybody on the host, and so is what complaints repeat of them. */
Test(options, a_token_is_no_argument)
{
    struct fixture f = {.s.count = 0};

    cr_assert(eq(int, parse(&f, "--token s3cr3t"), OTR_INVALID));
    cr_assert(strstr(f.msg.text, "--token-file") != NULL && strstr(f.msg.text, "OUTRIGGER_TOKEN") != NULL);
    cr_assert(strstr(f.msg.text, "s3cr3t") == NULL);
    cr_assert(eq(int, parse(&f, "--token=s3cr3t"), OTR_INVALID));
    cr_assert(strstr(f.msg.text, "--token-file") != NULL && strstr(f.msg.text, "s3cr3t") == NULL);
}

Test(options, help_is_no_error_and_names_everything)
{
    struct fixture f = {0};
    char *text;
    size_t bytes;
    FILE *out = open_memstream(&text, &bytes);

    cr_assert(eq(int, parse(&f, "--help"), OTR_EXISTS));
    cr_assert(eq(int, parse(&f, "--count 3 -h"), OTR_EXISTS));
    options_help(&command, out);
    fclose(out);
    for (size_t i = 0; i < command.options_count; i++) {
        cr_assert(strstr(text, table[i].name) != NULL, "%s", table[i].name);
    }
    cr_assert(strstr(text, "(default 3s)") != NULL && strstr(text, "--config FILE") != NULL);
    free(text);
}

Test(options, a_required_one_is_asked_for)
{
    static const struct option required[] = {
        {"node", OPTION_NAME, offsetof(struct settings, node), "NAME", NULL, true, 0, 0, "who"}};
    struct command c = command;
    struct settings s = {0};
    struct options_memory memory = {0};
    struct otr_errmsg msg = {0};

    c.options = required;
    c.options_count = 1;
    cr_assert(eq(int, options_parse(&c, 0, NULL, &s, &memory, &msg), OTR_INVALID));
    cr_assert(strstr(msg.text, "--node is missing (or OUTRIGGER_NODE") != NULL, "%s", msg.text);
}

/* What a command does with its words: what is wrong goes to standard error with the way to the help, and help that was
 * asked for to standard output. */
Test(options, a_command_ends_with_help_or_with_what_is_wrong)
{
    char *wrong[] = {"--count", "0"};
    char *help[] = {"--help"};
    char *right[] = {"--count", "4"};
    struct options_memory memory = {0};
    struct settings s = {0};
    char text[4096] = "";
    int code = -1;

    cr_redirect_stdout();
    cr_redirect_stderr();
    cr_assert(options_read(&command, 2, right, &s, &memory, &code));
    cr_assert(eq(u32, s.count, 4));
    cr_assert(eq(int, code, -1)); /* only of a command that ends */
    options_memory_close(&memory);
    cr_assert(not(options_read(&command, 2, wrong, &s, &memory, &code)));
    cr_assert(eq(int, code, EXIT_USAGE));
    cr_assert(not(options_read(&command, 1, help, &s, &memory, &code)));
    cr_assert(eq(int, code, EXIT_OK));
    cr_assert(zero(ptr, memory.pairs));
    fflush(stdout);
    fflush(stderr);
    cr_assert(gt(sz, fread(text, 1, sizeof text - 1, cr_get_redirected_stderr()), 0));
    cr_assert(
        eq(str, text, "outrigger test: --count: \"0\" is not a number from 1 to 10\nTry 'outrigger test --help'.\n"));
    memset(text, 0, sizeof text);
    cr_assert(gt(sz, fread(text, 1, sizeof text - 1, cr_get_redirected_stdout()), 0));
    cr_assert(strstr(text, "--session-ttl TIME") != NULL, "%s", text);
}

Test(config_file, without_memory_nothing_is_kept)
{
    static const char text[] = "node: n1\ndata_dir: [a, b, c]\ncount: 4\n";
    struct config_pair *pairs;
    size_t count;
    int failed = 0;

    for (uint64_t nth = 1;; nth++) {
        struct otr_errmsg msg = {0};
        int rv;

        fail_calls_at(FAIL_MEMORY, nth);
        rv = config_file_parse("f", text, sizeof text - 1, &pairs, &count, &msg);
        if (fail_calls_pending()) {
            cr_assert(zero(int, rv), "%s", msg.text);
            break;
        }
        failed++;
        cr_assert(eq(int, rv, OTR_NOMEM), "allocation %d", failed);
        cr_assert(eq(str, msg.text, "out of memory"));
        cr_assert(zero(ptr, pairs));
        cr_assert(zero(sz, count));
    }
    fail_calls_at(FAIL_MEMORY, 0);
    cr_assert(ge(int, failed, 7)); /* the list of pairs, three names, three values */
    cr_assert(eq(sz, count, 3));
    cr_assert(eq(str, pairs[1].value, "a,b,c"));
    config_file_free(pairs, count);
}

Test(config_file, one_that_cannot_be_read_is_named)
{
    struct config_pair *pairs;
    struct otr_errmsg msg = {0};
    const char *path;
    char *large = malloc(CONFIG_FILE_BYTES_MAX + 2);
    size_t count;

    cr_assert(eq(int, config_file_read("/nowhere/at/all", &pairs, &count, &msg), OTR_IO));
    cr_assert(eq(str, msg.text, "cannot open /nowhere/at/all: No such file or directory"));
    cr_assert(eq(int, config_file_read("/", &pairs, &count, &msg), OTR_IO));
    cr_assert(eq(str, msg.text, "cannot read /: Is a directory"));
    memset(large, '#', CONFIG_FILE_BYTES_MAX + 1);
    large[CONFIG_FILE_BYTES_MAX + 1] = '\0';
    path = config_with(large);
    cr_assert(eq(int, config_file_read(path, &pairs, &count, &msg), OTR_INVALID));
    cr_assert(strstr(msg.text, "is larger than") != NULL, "%s", msg.text);
    large[CONFIG_FILE_BYTES_MAX] = '\0'; /* The limit itself is allowed. */
    path = config_with(large);
    cr_assert(zero(int, config_file_read(path, &pairs, &count, &msg)), "%s", msg.text);
    cr_assert(zero(sz, count));
    fail_calls_at(FAIL_MEMORY, 1);
    cr_assert(eq(int, config_file_read(path, &pairs, &count, &msg), OTR_IO));
    cr_assert(strstr(msg.text, ": Cannot allocate memory") != NULL, "%s", msg.text);
    unlink(path);
    free(large);
}

Test(config_file, values_and_lists)
{
    struct fixture f = {0};

    cr_assert(zero(int, parse_with_config(&f, "# where\ndata_dir: [a, \"b c\", 'd']\ncount: \"9\"\njson: true\n")),
              "%s", f.msg.text);
    cr_assert(eq(str, (char *)f.s.data_dir, "a,b c,d"));
    cr_assert(eq(u32, f.s.count, 9));
    cr_assert(f.s.json);
    cr_assert(zero(int, parse_with_config(&f, "")), "%s", f.msg.text);
    cr_assert(zero(int, parse_with_config(&f, "# nothing\n")), "%s", f.msg.text);
    cr_assert(zero(int, parse_with_config(&f, "---\ncount: 2\n...\n")), "%s", f.msg.text);
    options_memory_close(&f.memory);
}

Test(config_file, what_is_wrong_is_refused_with_its_line)
{
    static const struct {
        const char *text;
        const char *words;
    } cases[] = {
        {"count: 3\n\ncuont: 4\n", ":3: unknown setting cuont; did you mean count?"},
        {"count: 3\ncount: 4\n", ":2: count stands there twice, first in line 1"},
        {"count: 11\n", ":1: count: \"11\" is not a number"},
        {"count: {a: 1}\n", ":1: the value of count is neither"},
        {"count: [[1]]\n", ":1: the value of count is neither"},
        {"count: &a [*a]\n", "count"},
        {"[count]: 3\n", ":1: the name of a setting"},
        {"- count\n", ":1: expected lines of the form"},
        {"count 3\n", ":1: expected lines of the form"},
        {"count: [3\n", "not YAML"},
        {"\tcount: 3\n", ":1: not YAML"},
        {"count: 3\n---\ncount: 4\n", "a second document"},
        {"count: \"\\0\"\n", ":1: the value of count is neither"},
        {"data_dir: \xFF\n", "not YAML"},
        {"config: x\n", ":1: unknown setting config"},
    };
    struct fixture f = {0};

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        cr_assert(ne(int, parse_with_config(&f, cases[i].text), 0), "%s", cases[i].text);
        cr_assert(strstr(f.msg.text, cases[i].words) != NULL, "%s: %s", cases[i].text, f.msg.text);
    }
    options_memory_close(&f.memory);
}
