#include "sidecar/cli/dev_process.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { EXTRA_ARGS = 4, LOG_TAIL_BYTES = 2000 };

bool dev_process_arg(struct dev_process *p, const char *format, ...)
{
    va_list args;
    int rv;

    assert(p->start_count < DEV_PROCESS_ARGS_MAX);
    va_start(args, format);
    rv = vasprintf(&p->start[p->start_count], format, args);
    va_end(args);
    if (rv < 0) {
        p->start[p->start_count] = NULL;
        return false;
    }
    p->start_count++;
    return true;
}

static void on_closed(uv_handle_t *handle)
{
    struct dev_process *p = handle->data;

    p->running = false;
    p->on_exit(p);
}

static void on_process_exit(uv_process_t *handle, int64_t exit_code, int exit_signal)
{
    struct dev_process *p = handle->data;

    p->exit_code = exit_code;
    p->exit_signal = exit_signal;
    uv_close((uv_handle_t *)handle, on_closed);
}

int dev_process_start(struct dev_process *p, struct otr_errmsg *msg)
{
    char *args[DEV_PROCESS_ARGS_MAX + EXTRA_ARGS + 1];
    char self[PATH_MAX];
    char command[] = "exec-child";
    char dashes[] = "--";
    char parent[16];
    uv_stdio_container_t stdio[3];
    uv_process_options_t options = {.exit_cb = on_process_exit, .file = p->self, .args = args};
    int log;
    int rv;

    assert(!p->running && p->start_count > 0);
    log = open(p->log_path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (log < 0) {
        otr_errmsg_set(msg, "cannot open %s: %s", p->log_path, strerror(errno));
        return OTR_IO;
    }
    snprintf(self, sizeof self, "%s", p->self);
    snprintf(parent, sizeof parent, "%d", (int)getpid());
    args[0] = self;
    args[1] = command;
    args[2] = parent;
    args[3] = dashes;
    memcpy(args + EXTRA_ARGS, p->start, (p->start_count + 1) * sizeof p->start[0]);
    stdio[0].flags = UV_IGNORE;
    stdio[1].flags = UV_INHERIT_FD;
    stdio[1].data.fd = log;
    stdio[2] = stdio[1];
    options.stdio = stdio;
    options.stdio_count = 3;
    options.flags = UV_PROCESS_DETACHED;
    p->handle.data = p;
    rv = uv_spawn(&p->loop->uv, &p->handle, &options);
    close(log);
    if (rv != 0) {
        uv_close((uv_handle_t *)&p->handle, NULL);
        otr_errmsg_set(msg, "cannot start %s: %s", p->start[0], uv_strerror(rv));
        return OTR_IO;
    }
    p->pid = p->handle.pid;
    p->running = true;
    p->stopping = false;
    return 0;
}

void dev_process_kill(struct dev_process *p, int number)
{
    if (p->running && !uv_is_closing((uv_handle_t *)&p->handle)) {
        p->stopping = true;
        uv_process_kill(&p->handle, number);
    }
}

void dev_process_end_text(const struct dev_process *p, char *out, size_t bytes)
{
    if (p->exit_signal != 0) {
        snprintf(out, bytes, "signal %d (%s)", p->exit_signal, strsignal(p->exit_signal));
    } else {
        snprintf(out, bytes, "exit code %d", (int)p->exit_code);
    }
}

void dev_process_print_log_tail(const struct dev_process *p)
{
    char text[LOG_TAIL_BYTES + 1];
    FILE *file = fopen(p->log_path, "re");
    const char *from;
    size_t bytes;

    if (file == NULL) {
        return;
    }
    if (fseek(file, -LOG_TAIL_BYTES, SEEK_END) != 0) {
        rewind(file);
    }
    bytes = fread(text, 1, LOG_TAIL_BYTES, file);
    text[bytes] = '\0';
    fclose(file);
    /* Full lines only, unless there is but one. */
    from = bytes == LOG_TAIL_BYTES ? strchr(text, '\n') : NULL;
    fprintf(stderr, "--- the end of %s\n%s---\n", p->log_path, from != NULL ? from + 1 : text);
}

void dev_process_free(struct dev_process *p)
{
    assert(!p->running);
    for (size_t i = 0; i < p->start_count; i++) {
        free(p->start[i]);
    }
    p->start_count = 0;
}
