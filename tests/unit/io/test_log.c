#include "sidecar/io/clock.h"
#include "sidecar/io/log.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char output[8192];
static int saved_stderr;
static int pipe_fds[2];

static void capture(void)
{
    cr_assert(pipe(pipe_fds) == 0);
    saved_stderr = dup(STDERR_FILENO);
    dup2(pipe_fds[1], STDERR_FILENO);
}

static const char *captured(void)
{
    ssize_t bytes;

    dup2(saved_stderr, STDERR_FILENO);
    close(pipe_fds[1]);
    bytes = read(pipe_fds[0], output, sizeof output - 1);
    output[bytes > 0 ? bytes : 0] = '\0';
    return output;
}

Test(log, a_line_has_time_level_subject_and_text)
{
    int year, month, day, hour, minute, second, ms, used = 0;

    capture();
    log_info("shard=3 role=primary", "step down: config has epoch %d, ours is %d", 9, 8);
    captured();
    cr_assert(sscanf(output, "%4d-%2d-%2dT%2d:%2d:%2d.%3dZ %n", &year, &month, &day, &hour, &minute, &second, &ms,
                     &used) == 7);
    cr_assert(year >= 2024 && used == 25);
    cr_assert_str_eq(output + used, "INFO  shard=3 role=primary: step down: config has epoch 9, ours is 8\n");
}

Test(log, without_subject)
{
    capture();
    log_error("", "port in use");
    cr_assert_str_eq(captured() + 25, "ERROR port in use\n");
}

Test(log, levels)
{
    enum log_level level;

    capture();
    log_debug("a", "hidden");
    log_set_level(LOG_DEBUG);
    log_debug("a", "shown");
    log_set_level(LOG_ERROR);
    log_warn("a", "hidden");
    captured();
    cr_assert(strstr(output, "DEBUG a: shown\n") != NULL && strstr(output, "hidden") == NULL);
    cr_assert(log_level_parse("warn", &level) && level == LOG_WARN);
    cr_assert(log_level_parse("debug", &level) && level == LOG_DEBUG);
    cr_assert(!log_level_parse("WARN", &level) && !log_level_parse("", &level) && !log_level_parse("warning", &level));
}

/* Text from outside can neither begin a line of its own nor send escape sequences to a terminal. */
Test(log, one_line_whatever_the_text)
{
    capture();
    log_warn("evil\nsubject", "id \"%s\"", "a\r\n2026-01-01T00:00:00.000Z ERROR forged\x1b[2J\x7f");
    captured();
    cr_assert(strchr(output, '\n') == output + strlen(output) - 1);
    cr_assert(strpbrk(output, "\r\x1b\x7f") == NULL);
}

Test(log, long_lines_are_cut)
{
    static char text[10000];

    memset(text, 'x', sizeof text - 1);
    capture();
    log_warn("s", "%s", text);
    log_warn(text, "%s", "t");
    captured();
    cr_assert(strlen(output) <= 2 * 2048);
    cr_assert(output[strlen(output) - 1] == '\n');
    cr_assert(strstr(output, "x\n") != NULL);
}

/* At most one line a second; the next one tells how many were left out. */
/* Whoever reads the log has stopped reading: serving goes on. */
Test(log, a_full_pipe_holds_nobody_up, .timeout = 20)
{
    static char rest[1 << 21];
    ssize_t bytes;
    uint64_t before = log_dropped();

    capture();
    for (int i = 0; i < 2000; i++) {
        log_info("a", "%0200d", i);
    }
    dup2(saved_stderr, STDERR_FILENO);
    close(pipe_fds[1]);
    cr_assert(log_dropped() > before + 1000);
    bytes = read(pipe_fds[0], rest, sizeof rest);
    cr_assert(bytes > 0 && rest[bytes - 1] == '\n'); /* whole lines */
}

Test(log, limited)
{
    struct log_limit limit = {0};
    uint64_t suppressed = 99;

    cr_assert(log_limit_pass(&limit, &suppressed) && suppressed == 0);
    for (int i = 0; i < 5; i++) {
        cr_assert(!log_limit_pass(&limit, &suppressed));
    }
    limit.printed_ms -= 1000; /* As if a second had passed. */
    cr_assert(log_limit_pass(&limit, &suppressed) && suppressed == 5);
    capture();
    for (int i = 0; i < 5; i++) {
        LOG_LIMITED(LOG_WARN, "s", "refused %d", i);
    }
    cr_assert_str_eq(captured() + 25, "WARN  s: refused 0 (0 alike left out)\n");
}
