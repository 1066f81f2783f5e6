#include "sidecar/io/log.h"

#include "sidecar/io/clock.h"

#include <poll.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { LINE_BYTES_MAX = 2048, LIMIT_INTERVAL_MS = 1000 };

static _Atomic enum log_level level_max = LOG_INFO;
static _Atomic uint64_t dropped;
static pthread_mutex_t writing = PTHREAD_MUTEX_INITIALIZER;

static const char *const level_names[] = {
    [LOG_ERROR] = "error",
    [LOG_WARN] = "warn",
    [LOG_INFO] = "info",
    [LOG_DEBUG] = "debug",
};
static const char *const level_tags[] = {
    [LOG_ERROR] = "ERROR",
    [LOG_WARN] = "WARN ",
    [LOG_INFO] = "INFO ",
    [LOG_DEBUG] = "DEBUG",
};

void log_set_level(enum log_level level)
{
    level_max = level;
}

bool log_level_parse(const char *text, enum log_level *level)
{
    for (enum log_level l = LOG_ERROR; l <= LOG_DEBUG; l++) {
        if (strcmp(text, level_names[l]) == 0) {
            *level = l;
            return true;
        }
    }
    return false;
}

bool log_enabled(enum log_level level)
{
    return level <= level_max;
}

static size_t put_time(char *out, size_t bytes)
{
    uint64_t now_ms = clock_wall_ms();
    time_t seconds = (time_t)(now_ms / 1000);
    struct tm utc;
    size_t used;

    gmtime_r(&seconds, &utc);
    used = strftime(out, bytes, "%Y-%m-%dT%H:%M:%S", &utc);
    used += (size_t)snprintf(out + used, bytes - used, ".%03uZ ", (unsigned)(now_ms % 1000));
    return used;
}

/* What came from outside must not forge lines or drive the reader's terminal. */
static void tame(char *text, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++) {
        unsigned char c = (unsigned char)text[i];

        if (c < 0x20 || c == 0x7F) {
            text[i] = ' ';
        }
    }
}

/* One write a line, so that lines of several threads and processes do not mix. A full or closed standard error is no
 * reason to stop serving: a pipe that nobody reads would hold the loop for ever. */
static void write_line(const char *line, size_t bytes)
{
    struct pollfd room = {.fd = STDERR_FILENO, .events = POLLOUT};

    pthread_mutex_lock(&writing); /* What one thread finds free is not another's. */
    if (poll(&room, 1, 0) != 1 || (room.revents & POLLOUT) == 0 || write(STDERR_FILENO, line, bytes) < 0) {
        dropped++;
    }
    pthread_mutex_unlock(&writing);
}

uint64_t log_dropped(void)
{
    return dropped;
}

void log_write(enum log_level level, const char *subject, const char *format, ...)
{
    char line[LINE_BYTES_MAX];
    size_t room = sizeof line - 1; /* one for the newline */
    size_t used;
    int wanted;
    va_list args;

    if (!log_enabled(level)) {
        return;
    }
    used = put_time(line, room);
    wanted = snprintf(line + used, room - used, "%s %s%s", level_tags[level], subject, subject[0] != '\0' ? ": " : "");
    used += wanted < 0 ? 0 : (size_t)wanted < room - used ? (size_t)wanted : room - used - 1;
    va_start(args, format);
    wanted = vsnprintf(line + used, room - used, format, args);
    va_end(args);
    used += wanted < 0 ? 0 : (size_t)wanted < room - used ? (size_t)wanted : room - used - 1;
    tame(line, used);
    line[used++] = '\n';
    write_line(line, used);
}

bool log_limit_pass(struct log_limit *limit, uint64_t *suppressed)
{
    uint64_t now_ms = clock_now_ms();

    if (limit->printed_ms != 0 && now_ms - limit->printed_ms < LIMIT_INTERVAL_MS) {
        limit->suppressed++;
        return false;
    }
    *suppressed = limit->suppressed;
    limit->suppressed = 0;
    limit->printed_ms = now_ms;
    return true;
}
