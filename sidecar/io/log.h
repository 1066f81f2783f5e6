/* Logging to standard error: "2026-01-31T12:00:00.000Z INFO  shard=3 role=primary epoch=8: step down: ...".
 *
 * A line gives the decision, its reason and the numbers compared. Error: an operator must act. Warn: wanted in the
 * post-mortem. Info: topology and roles. Debug: per request. What a client can trigger in a loop goes through
 * LOG_LIMITED, which prints at most once a second and counts what it left out. Any thread. */
#ifndef OUTRIGGER_IO_LOG_H
#define OUTRIGGER_IO_LOG_H

#include <stdbool.h>
#include <stdint.h>

enum log_level { LOG_ERROR = 1, LOG_WARN, LOG_INFO, LOG_DEBUG };

/* Default LOG_INFO. */
void log_set_level(enum log_level level);
/* "error", "warn", "info", "debug"; false when it is none of them. */
bool log_level_parse(const char *text, enum log_level *level);
bool log_enabled(enum log_level level);

/* `subject` is the object's prefix, e.g. "shard=3 role=primary epoch=8", or "" for the process. */
void log_write(enum log_level level, const char *subject, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* Lines left out because standard error took none. */
uint64_t log_dropped(void);

#define log_error(subject, ...) log_write(LOG_ERROR, subject, __VA_ARGS__)
#define log_warn(subject, ...)  log_write(LOG_WARN, subject, __VA_ARGS__)
#define log_info(subject, ...)  log_write(LOG_INFO, subject, __VA_ARGS__)
#define log_debug(subject, ...) (log_enabled(LOG_DEBUG) ? log_write(LOG_DEBUG, subject, __VA_ARGS__) : (void)0)

/* At most one line a second per place in the code; loop thread only. */
struct log_limit {
    uint64_t printed_ms;
    uint64_t suppressed;
};
/* True when the line may be printed now; *suppressed says how many were left out since the last. */
bool log_limit_pass(struct log_limit *limit, uint64_t *suppressed);
#define LOG_LIMITED(level, subject, format, ...)                                    \
    do {                                                                            \
        static struct log_limit log_limit_;                                         \
        uint64_t log_suppressed_;                                                   \
        if (log_limit_pass(&log_limit_, &log_suppressed_)) {                        \
            log_write(level, subject, format " (%llu alike left out)", __VA_ARGS__, \
                      (unsigned long long)log_suppressed_);                         \
        }                                                                           \
    } while (0)

#endif
