/* Every allocation and every other call fails once below certificates and settings: an error has words and leaves the
 * files as they were. */
#include "sidecar/cli/certs_files.h"
#include "sidecar/cli/certs_make.h"
#include "sidecar/cli/config_file.h"
#include "sidecar/cli/credentials.h"
#include "tests/lib/fail_calls.h"
#include "tests/lib/temp_dir.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <openssl/x509.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

TestSuite(failing, .timeout = 200);

struct fixture {
    struct temp_dir dir;
    struct certs_pair ca;
};

static void expect_words(int rv, const struct otr_errmsg *msg)
{
    cr_assert(rv == 0 || fail_calls_name()[0] != '\0', "%s: %s", otr_errname(rv), msg->text);
    cr_assert(eq(int, rv != 0, msg->text[0] != '\0'), "%s without words after %s failed", otr_errname(rv),
              fail_calls_name());
}

/* The pair in the files fits together, nothing failing. */
static bool whole_pair(const struct fixture *f)
{
    struct certs_pair pair = {0};
    struct otr_errmsg msg = {0};
    bool whole;

    fail_calls_pause(true);
    whole = certs_files_read_pair(f->dir.path, "n", &pair, &msg) == 0 &&
            X509_check_private_key(sk_X509_value(pair.chain, 0), pair.key) == 1;
    certs_pair_close(&pair);
    fail_calls_pause(false);
    return whole;
}

static void renew(void *data)
{
    struct fixture *f = data;
    struct certs_wish wish = {.kind = CERTS_NODE,
                              .cluster = "prod",
                              .name = "node-1",
                              .hosts = "a.example,10.0.0.1",
                              .loopback = true,
                              .days = 10,
                              .now_s = (int64_t)time(NULL)};
    struct certs_pair pair = {0};
    struct certs_pair back = {0};
    struct otr_errmsg msg = {0};
    int rv = certs_pair_make(&pair, &wish, &f->ca, &msg);

    expect_words(rv, &msg);
    if (rv == 0) {
        rv = certs_files_write_pair(f->dir.path, "n", &pair, true, &msg);
        expect_words(rv, &msg);
        /* Between the two moves the disk may fail: an old certificate with a new key. */
        cr_assert(whole_pair(f) || strcmp(fail_calls_name(), "rename") == 0, "after %s failed: %s", fail_calls_name(),
                  msg.text);
    }
    if (rv == 0) {
        rv = certs_files_read_pair(f->dir.path, "n", &back, &msg);
        expect_words(rv, &msg);
    }
    certs_pair_close(&back);
    certs_pair_close(&pair);
}

Test(failing, certificates)
{
    struct certs_wish wish = {.kind = CERTS_CA, .cluster = "prod", .days = 100, .now_s = (int64_t)time(NULL)};
    struct otr_errmsg msg = {0};
    struct fixture f = {.ca = {0}};

    temp_dir_init(&f.dir);
    cr_assert(eq(int, certs_pair_make(&f.ca, &wish, NULL, &msg), 0), "%s", msg.text);
    renew(&f);
    cr_assert(gt(uint, fail_each(renew, &f), 20));
    certs_pair_close(&f.ca);
    temp_dir_close(&f.dir);
}

static void config(void *data)
{
    struct config_pair *pairs = NULL;
    size_t count = 0;
    struct otr_errmsg msg = {0};
    int rv = config_file_read(data, &pairs, &count, &msg);

    expect_words(rv, &msg);
    if (rv == 0) {
        cr_assert(eq(sz, count, 2));
        cr_assert(eq(str, pairs[1].value, "http://a:2379,http://b:2379"));
        config_file_free(pairs, count);
    }
}

static void credentials(void *data)
{
    struct credentials_settings settings = {.token_file = data};
    struct otr_errmsg msg = {0};
    char header[CREDENTIALS_HEADER_BYTES];
    int rv = credentials_header(&settings, header, &msg);

    expect_words(rv, &msg);
    cr_assert(rv != 0 || strcmp(header, "Authorization: Bearer secret") == 0);
}

static void write_file(const char *path, const char *text)
{
    FILE *file = fopen(path, "we");

    cr_assert(file != NULL && fputs(text, file) >= 0 && fclose(file) == 0);
}

Test(failing, settings_and_tokens)
{
    struct temp_dir dir;
    char path[300];

    temp_dir_init(&dir);
    snprintf(path, sizeof path, "%s/config", dir.path);
    write_file(path, "data: /var/lib/outrigger\nendpoints: [http://a:2379, http://b:2379]\n");
    cr_assert(gt(uint, fail_each(config, path), 5));
    snprintf(path, sizeof path, "%s/token", dir.path);
    write_file(path, "secret\n");
    cr_assert(gt(uint, fail_each(credentials, path), 0));
    temp_dir_close(&dir);
}
