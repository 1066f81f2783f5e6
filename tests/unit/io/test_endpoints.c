#include "sidecar/io/endpoints.h"
#include "sidecar/io/secret_file.h"

#include "tests/lib/temp_dir.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

Test(endpoints, parsed)
{
    struct endpoints e;
    struct otr_errmsg msg = {0};

    cr_assert(endpoints_parse(&e, " http://a:1/ ,,https://b:2, http://[::1]:3,", &msg) == 0, "%s", msg.text);
    cr_assert(e.count == 3 && e.now == 0);
    cr_assert_str_eq(e.urls[0], "http://a:1");
    cr_assert_str_eq(e.urls[1], "https://b:2");
    cr_assert_str_eq(e.urls[2], "http://[::1]:3");
    endpoints_close(&e);
}

Test(endpoints, refused_with_a_reason)
{
    static const char *const bad[] = {"",           NULL,         ",",          "a:1",        "ftp://a:1", "http://",
                                      "http://a/b", "http://a?b", "http://a#b", "http://u@a", "http://a b"};
    static char many[ENDPOINTS_MAX * 16 + 32];
    static char longest[ENDPOINTS_URL_MAX + 8] = "http://";
    struct endpoints e;
    struct otr_errmsg msg;

    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        msg.text[0] = '\0';
        cr_assert(endpoints_parse(&e, bad[i], &msg) == OTR_INVALID && msg.text[0] != '\0', "%s", bad[i]);
        endpoints_close(&e);
    }
    for (int i = 0; i < ENDPOINTS_MAX + 1; i++) {
        strcat(many, "http://a:1,");
    }
    cr_assert(endpoints_parse(&e, many, &msg) == OTR_INVALID && strstr(msg.text, "more than") != NULL);
    endpoints_close(&e);
    memset(longest + 7, 'a', sizeof longest - 8);
    cr_assert(endpoints_parse(&e, longest, &msg) == OTR_INVALID);
    endpoints_close(&e);
}

/* Only the one that is used now is left, and the round ends where it began. */
Test(endpoints, rotate)
{
    struct endpoints e;
    struct otr_errmsg msg;

    cr_assert(endpoints_parse(&e, "http://a:1,http://b:1", &msg) == 0);
    endpoints_failed(&e, 1);
    cr_assert(e.now == 0);
    endpoints_failed(&e, 0);
    cr_assert(e.now == 1 && endpoints_next(&e, 1) == 0);
    endpoints_failed(&e, 1);
    cr_assert(e.now == 0);
    endpoints_warn_of_plain_text(&e, "test", "the secret");
    endpoints_close(&e);
}

/* Short within a round of all endpoints, growing from round to round, never beyond the limit by more than half. */
Test(endpoints, pauses)
{
    struct endpoints e;
    struct otr_errmsg msg;
    uint32_t backoff_ms = 0;
    uint32_t pause_ms = 0;

    cr_assert(endpoints_parse(&e, "http://a:1,http://b:1", &msg) == 0);
    for (unsigned i = 1; i <= 40; i++) {
        pause_ms = endpoints_backoff_round(&e, i, &backoff_ms);
        cr_assert(pause_ms <= ENDPOINTS_BACKOFF_MS_MAX * 3 / 2);
        cr_assert(i % 2 == 0 || pause_ms <= ENDPOINTS_BACKOFF_MS_MIN * 3 / 2);
    }
    cr_assert(pause_ms >= ENDPOINTS_BACKOFF_MS_MAX / 2 && backoff_ms == ENDPOINTS_BACKOFF_MS_MAX);
    endpoints_close(&e);
}

static int read_secret(const char *content, char secret[SECRET_FILE_BYTES_MAX])
{
    struct temp_dir dir;
    struct otr_errmsg msg = {0};
    char path[400];
    FILE *file;
    int rv;

    temp_dir_init(&dir);
    snprintf(path, sizeof path, "%s/secret", dir.path);
    if (content != NULL) {
        file = fopen(path, "we");
        cr_assert(file != NULL && fputs(content, file) >= 0 && fclose(file) == 0);
    }
    rv = secret_file_read(path, "token", secret, &msg);
    cr_assert((rv == 0) == (msg.text[0] == '\0'));
    cr_assert(rv == 0 || (strstr(msg.text, "token") != NULL && strstr(msg.text, path) != NULL), "%s", msg.text);
    temp_dir_close(&dir);
    return rv;
}

Test(secret_file, its_first_line)
{
    static char longest[SECRET_FILE_BYTES_MAX + 1];
    char secret[SECRET_FILE_BYTES_MAX];

    cr_assert(read_secret("s3cret", secret) == 0);
    cr_assert_str_eq(secret, "s3cret");
    cr_assert(read_secret("first\r\nsecond\n", secret) == 0);
    cr_assert_str_eq(secret, "first");
    cr_assert(read_secret("", secret) == OTR_INVALID && read_secret("\nx", secret) == OTR_INVALID);
    cr_assert(read_secret(NULL, secret) == OTR_INVALID);
    memset(longest, 'x', sizeof longest - 1);
    cr_assert(read_secret(longest, secret) == OTR_INVALID);
}
