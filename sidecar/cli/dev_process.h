/* A child process of `outrigger dev`: started through exec-child, so that it dies with us whatever becomes of us, in a
 * session of its own, so that Ctrl-C reaches us alone, with its output in a log file. */
#ifndef OUTRIGGER_CLI_DEV_PROCESS_H
#define OUTRIGGER_CLI_DEV_PROCESS_H

#include "sidecar/cli/loop.h"

#include <limits.h>

enum { DEV_PROCESS_ARGS_MAX = 40, DEV_PROCESS_NAME_MAX = 80 };

struct dev_process {
    char name[DEV_PROCESS_NAME_MAX];
    char log_path[PATH_MAX + DEV_PROCESS_NAME_MAX + 16];
    char *start[DEV_PROCESS_ARGS_MAX + 1]; /* the plain command, NULL-terminated; malloc'd */
    size_t start_count;
    struct loop *loop;
    const char *self;                       /* our own program */
    void (*on_exit)(struct dev_process *p); /* after it ended and may be started again */
    void *data;                             /* the caller's */
    int pid;                                /* of the newest start */
    bool running;
    bool stopping; /* we asked it to end */
    int64_t exit_code;
    int exit_signal;
    uv_process_t handle;
};

/* Adds one argument to `start`; false when out of memory. */
bool dev_process_arg(struct dev_process *p, const char *format, ...) __attribute__((format(printf, 2, 3)));
int dev_process_start(struct dev_process *p, struct otr_errmsg *msg);
void dev_process_kill(struct dev_process *p, int number);
/* "exit code 1", "signal 9 (Killed)" */
void dev_process_end_text(const struct dev_process *p, char *out, size_t bytes);
/* The last lines of its log go to standard error. */
void dev_process_print_log_tail(const struct dev_process *p);
/* It must have ended. */
void dev_process_free(struct dev_process *p);

#endif
