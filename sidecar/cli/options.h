/* Settings of a command, by one table: each is a flag `--x-y VALUE` (or `--x-y=VALUE`), an environment variable
 * `OUTRIGGER_X_Y` and, for commands that take `--config FILE`, a key `x_y` of that YAML file. A flag goes before the
 * environment, the environment before the file, the file before the default. An empty environment variable counts as
 * unset. What is not in the table is refused, with the name that comes closest. */
#ifndef OUTRIGGER_CLI_OPTIONS_H
#define OUTRIGGER_CLI_OPTIONS_H

#include "outrigger/err.h"
#include "outrigger/types.h"

#include <stdio.h>

enum option_type {
    OPTION_TEXT = 1, /* const char *: lives as long as argv, the environment and the struct options_memory */
    OPTION_NAME,     /* const char *: a legal name of a cluster, node or collection */
    OPTION_NUMBER,   /* uint32_t from `least` to `most` */
    OPTION_MS,       /* uint32_t, milliseconds from `least` to `most`: "250ms", "3s", "5min"; a bare number is ms */
    OPTION_FLAG,     /* bool: on the command line without a value, elsewhere "true" or "false" */
    OPTION_ADDRESS,  /* struct topology_address: "HOST:PORT", "[IPv6]:PORT" */
};

struct option {
    const char *name; /* "session-ttl" */
    enum option_type type;
    size_t offset;        /* of the member in the command's settings */
    const char *value;    /* how help calls the value: "URL,URL" */
    const char *fallback; /* as text, read like a given value; NULL: the member is left as it is */
    bool required;
    uint32_t least, most;
    const char *help;
};

struct command {
    const char *name;  /* "cluster init" */
    const char *about; /* what it does; lines of at most 100 characters */
    const char *examples;
    const struct option *options;
    size_t options_count;
    bool config_file; /* takes --config FILE */
    /* argv[0] is the first argument. Returns the exit code. */
    int (*run)(const struct command *command, int argc, char **argv);
};

/* Exit codes (DESIGN 6.2). */
enum { EXIT_OK = 0, EXIT_FAILED = 1, EXIT_USAGE = 2 };

/* Owns the text of the config file, into which settings may point. Caller-owned; zero-initialise. */
struct options_memory {
    struct config_pair *pairs;
    size_t pairs_count;
};
void options_memory_close(struct options_memory *memory);

/* Fills the members of `settings` that the table names. 0; OTR_EXISTS when --help or -h was given; OTR_INVALID with
 * words. `memory` needs closing in every case. */
int options_parse(const struct command *command, int argc, char **argv, void *settings, struct options_memory *memory,
                  struct otr_errmsg *msg);

/* The same, and says what has to be said: help on standard output, complaints on standard error. True when the command
 * may go on; else *exit_code is to be returned, and memory is closed. */
bool options_read(const struct command *command, int argc, char **argv, void *settings, struct options_memory *memory,
                  int *exit_code);

void options_help(const struct command *command, FILE *out);

/* Of `names`, the one that a mistyped text probably meant, or NULL. */
const char *options_suggest(const char *text, const char *const *names, size_t count);

/* "HOST:PORT" or "[IPv6]:PORT". */
struct topology_address;
int options_address(const char *text, struct topology_address *out, struct otr_errmsg *msg);

#endif
