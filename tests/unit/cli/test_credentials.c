#include "sidecar/cli/credentials.h"
#include "tests/lib/temp_dir.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static struct temp_dir dir;
static char path[512];

static void make_dir(void)
{
    unsetenv("OUTRIGGER_TOKEN");
    temp_dir_init(&dir);
    snprintf(path, sizeof path, "%s/token", dir.path);
}

static void remove_dir(void)
{
    temp_dir_close(&dir);
}

TestSuite(credentials, .init = make_dir, .fini = remove_dir);

static void write_file(const char *bytes, size_t count)
{
    FILE *file = fopen(path, "w");

    fwrite(bytes, 1, count, file);
    fclose(file);
    chmod(path, 0600);
}

Test(credentials, a_token_from_a_file_or_the_environment)
{
    struct credentials_settings s = {.ca = NULL};
    char header[CREDENTIALS_HEADER_BYTES];
    struct otr_errmsg msg = {0};

    cr_assert(zero(int, credentials_header(&s, header, &msg)));
    cr_assert(eq(str, header, ""));
    setenv("OUTRIGGER_TOKEN", "", 1);
    cr_assert(zero(int, credentials_header(&s, header, &msg)));
    cr_assert(eq(str, header, ""));
    setenv("OUTRIGGER_TOKEN", "otr_env", 1);
    cr_assert(zero(int, credentials_header(&s, header, &msg)));
    cr_assert(eq(str, header, "Authorization: Bearer otr_env"));
    write_file(" \notr_file\r\n", 12);
    s.token_file = path; /* What was said in so many words goes first. */
    cr_assert(zero(int, credentials_header(&s, header, &msg)), "%s", msg.text);
    cr_assert(eq(str, header, "Authorization: Bearer otr_file"));
}

/* A token with a line break in it would be further header lines. */
Test(credentials, what_is_no_token_is_refused_and_not_quoted)
{
    static const struct {
        const char *text;
        size_t bytes;
    } cases[] = {
        {"", 0},
        {"\n", 1},
        {"s3cr3t\nX: y", 11},
        {"s3cr3t\r\nOutrigger-Timeout: 1ms", 30},
        {"s3cr3t s3cr3t", 13},
        {"s3cr3t\0", 7},
        {"\0s3cr3t", 7},
        {"s3cr3t\xff", 7},
        {"Bearer s3cr3t", 13},
    };
    struct credentials_settings s = {.token_file = path};
    char header[CREDENTIALS_HEADER_BYTES];
    char large[CREDENTIALS_TOKEN_MAX + 2];

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct otr_errmsg msg = {0};

        write_file(cases[i].text, cases[i].bytes);
        cr_assert(eq(int, credentials_header(&s, header, &msg), OTR_INVALID), "case %zu", i);
        cr_assert(strstr(msg.text, path) != NULL && strstr(msg.text, "s3cr3t") == NULL, "%s", msg.text);
        cr_assert(eq(str, header, ""));
    }
    memset(large, 'a', sizeof large);
    write_file(large, CREDENTIALS_TOKEN_MAX);
    cr_assert(zero(int, credentials_header(&s, header, NULL)));
    write_file(large, CREDENTIALS_TOKEN_MAX + 1);
    cr_assert(eq(int, credentials_header(&s, header, NULL), OTR_INVALID));
    remove(path);
    cr_assert(eq(int, credentials_header(&s, header, NULL), OTR_IO));
}

Test(credentials, files_are_looked_at_before_anything_is_sent)
{
    struct credentials_settings s = {.ca = path};
    struct http_client_config config = {.connect_timeout_ms = 0};
    struct otr_errmsg msg = {0};

    cr_assert(eq(int, credentials_http(&s, &config, &msg), OTR_IO));
    cr_assert(strstr(msg.text, "--ca: cannot read ") != NULL, "%s", msg.text);
    write_file("x", 1);
    cr_assert(zero(int, credentials_http(&s, &config, &msg)));
    cr_assert(eq(str, (char *)config.ca_file, path));
    s.cert = path;
    cr_assert(eq(int, credentials_http(&s, &config, &msg), OTR_INVALID));
    s.key = path;
    cr_assert(zero(int, credentials_http(&s, &config, &msg)));
}
