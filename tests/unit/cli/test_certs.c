#include "sidecar/cli/certs_files.h"
#include "sidecar/cli/certs_make.h"
#include "tests/lib/temp_dir.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <openssl/x509v3.h>
#include <stdio.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { DAY_S = 86400 };

struct fixture {
    struct temp_dir dir;
    struct certs_pair ca, pair;
    struct otr_errmsg msg;
    int64_t now_s;
};

static void setup(struct fixture *f)
{
    struct certs_wish wish = {.kind = CERTS_CA, .cluster = "prod", .days = 100};

    *f = (struct fixture){.now_s = (int64_t)time(NULL)};
    temp_dir_init(&f->dir);
    wish.now_s = f->now_s;
    cr_assert(eq(int, certs_pair_make(&f->ca, &wish, NULL, &f->msg), 0), "%s", f->msg.text);
}

static void close_all(struct fixture *f)
{
    certs_pair_close(&f->pair);
    certs_pair_close(&f->ca);
    temp_dir_close(&f->dir);
}

static struct certs_wish node_wish(const struct fixture *f)
{
    return (struct certs_wish){.kind = CERTS_NODE, .cluster = "prod", .name = "node-1", .days = 10, .now_s = f->now_s};
}

static int make(struct fixture *f, const struct certs_wish *wish)
{
    certs_pair_close(&f->pair);
    f->msg.text[0] = '\0';
    return certs_pair_make(&f->pair, wish, &f->ca, &f->msg);
}

static X509 *cert_of(const struct certs_pair *pair)
{
    return sk_X509_value(pair->chain, 0);
}

/* X509_V_OK, or what is wrong with it for that purpose at that time. */
static int verify(const struct fixture *f, int purpose, int64_t now_s)
{
    X509_STORE *store = X509_STORE_new();
    X509_STORE_CTX *context = X509_STORE_CTX_new();
    int error;

    X509_STORE_add_cert(store, cert_of(&f->ca));
    X509_STORE_CTX_init(context, store, cert_of(&f->pair), f->pair.chain);
    X509_STORE_CTX_set_purpose(context, purpose);
    X509_VERIFY_PARAM_set_flags(X509_STORE_CTX_get0_param(context), X509_V_FLAG_X509_STRICT);
    X509_VERIFY_PARAM_set_time(X509_STORE_CTX_get0_param(context), (time_t)now_s);
    X509_verify_cert(context);
    error = X509_STORE_CTX_get_error(context);
    X509_STORE_CTX_free(context);
    X509_STORE_free(store);
    return error;
}

/* A node serves and calls, a client only calls, the authority's signature is on both, from five minutes ago on. */
Test(certs, are_good_for_what_they_are_made_for)
{
    struct fixture f;
    struct certs_wish wish;
    char uri[CERTS_URI_MAX];
    char cluster[OTR_NAME_MAX + 1];

    setup(&f);
    wish = node_wish(&f);
    cr_assert(eq(int, make(&f, &wish), 0), "%s", f.msg.text);
    cr_assert(eq(int, verify(&f, X509_PURPOSE_SSL_SERVER, f.now_s - CERTS_CLOCK_SKEW_S), X509_V_OK));
    cr_assert(eq(int, verify(&f, X509_PURPOSE_SSL_CLIENT, f.now_s + 10 * DAY_S - 1), X509_V_OK));
    cr_assert(
        eq(int, verify(&f, X509_PURPOSE_SSL_CLIENT, f.now_s - CERTS_CLOCK_SKEW_S - 1), X509_V_ERR_CERT_NOT_YET_VALID));
    cr_assert(eq(int, verify(&f, X509_PURPOSE_SSL_CLIENT, f.now_s + 10 * DAY_S + 1), X509_V_ERR_CERT_HAS_EXPIRED));
    cr_assert(certs_uri(cert_of(&f.pair), uri));
    cr_assert(eq(str, uri, "outrigger://prod/node/node-1"));
    cr_assert(certs_uri_cluster(uri, cluster));
    cr_assert(eq(str, cluster, "prod"));

    wish.kind = CERTS_CLIENT;
    cr_assert(eq(int, make(&f, &wish), 0), "%s", f.msg.text);
    cr_assert(eq(int, verify(&f, X509_PURPOSE_SSL_CLIENT, f.now_s), X509_V_OK));
    cr_assert(eq(int, verify(&f, X509_PURPOSE_SSL_SERVER, f.now_s), X509_V_ERR_INVALID_PURPOSE));
    cr_assert(certs_uri(cert_of(&f.pair), uri));
    cr_assert(eq(str, uri, "outrigger://prod/client/node-1"));
    close_all(&f);
}

/* Clients that check whom they reached find every host, whatever form it was given in. */
Test(certs, name_the_hosts)
{
    struct fixture f;
    struct certs_wish wish;

    setup(&f);
    wish = node_wish(&f);
    wish.hosts = "10.0.0.1,a.example.com,fd00::1,*.b.example.com,a.example.com,under_score";
    cr_assert(eq(int, make(&f, &wish), 0), "%s", f.msg.text);
    cr_assert(eq(int, X509_check_ip_asc(cert_of(&f.pair), "10.0.0.1", 0), 1));
    cr_assert(eq(int, X509_check_ip_asc(cert_of(&f.pair), "fd00::1", 0), 1));
    cr_assert(eq(int, X509_check_ip_asc(cert_of(&f.pair), "127.0.0.1", 0), 0));
    cr_assert(eq(int, X509_check_host(cert_of(&f.pair), "a.example.com", 0, 0, NULL), 1));
    cr_assert(eq(int, X509_check_host(cert_of(&f.pair), "x.b.example.com", 0, 0, NULL), 1));
    cr_assert(eq(int, X509_check_host(cert_of(&f.pair), "node-1", 0, 0, NULL), 1));
    cr_assert(eq(int, X509_check_host(cert_of(&f.pair), "node-2", 0, 0, NULL), 0));
    wish.loopback = true;
    cr_assert(eq(int, make(&f, &wish), 0), "%s", f.msg.text);
    cr_assert(eq(int, X509_check_ip_asc(cert_of(&f.pair), "127.0.0.1", 0), 1));
    cr_assert(eq(int, X509_check_host(cert_of(&f.pair), "localhost", 0, 0, NULL), 1));
    close_all(&f);
}

Test(certs, refuse_names_that_no_certificate_can_carry)
{
    static const char *const hosts[] = {"",           "a,",           ",a",     "a b",       "a..b",
                                        "10.0.0.300", "1.2.3.4:7700", "a/b.de", "http://a.", "a.*.b",
                                        "[fd00::]",   ".a",           "a.",     "b\xc3\xbc"};
    static const char *const clusters[] = {"a.", "a..b", "a/b", "", "a b", "-a"};
    struct fixture f;
    struct certs_wish wish;

    setup(&f);
    for (size_t i = 0; i < sizeof hosts / sizeof hosts[0]; i++) {
        wish = node_wish(&f);
        wish.hosts = hosts[i];
        cr_assert(eq(int, make(&f, &wish), OTR_INVALID), "\"%s\"", hosts[i]);
        cr_assert(f.msg.text[0] != '\0');
    }
    for (size_t i = 0; i < sizeof clusters / sizeof clusters[0]; i++) {
        wish = node_wish(&f);
        wish.cluster = clusters[i];
        cr_assert(eq(int, make(&f, &wish), OTR_INVALID), "\"%s\"", clusters[i]);
    }
    wish = node_wish(&f);
    wish.name = "a/b";
    cr_assert(eq(int, make(&f, &wish), OTR_INVALID));
    close_all(&f);
}

/* No certificate outlives its authority, and one that is over, or is none, signs nothing. */
Test(certs, depend_on_their_authority)
{
    struct fixture f;
    struct certs_wish wish;
    struct certs_pair other = {0};

    setup(&f);
    wish = node_wish(&f);
    wish.days = 5000;
    cr_assert(eq(int, make(&f, &wish), 0), "%s", f.msg.text);
    cr_assert(eq(int, ASN1_TIME_compare(X509_get0_notAfter(cert_of(&f.pair)), X509_get0_notAfter(cert_of(&f.ca))), 0));
    wish.now_s += 101 * DAY_S;
    cr_assert(eq(int, make(&f, &wish), OTR_INVALID));
    cr_assert(strstr(f.msg.text, "is over") != NULL, "%s", f.msg.text);
    wish = node_wish(&f);
    cr_assert(eq(int, certs_pair_make(&other, &wish, &f.ca, &f.msg), 0));
    cr_assert(eq(int, certs_pair_make(&f.pair, &wish, &other, &f.msg), OTR_INVALID));
    cr_assert(strstr(f.msg.text, "may not sign") != NULL, "%s", f.msg.text);
    certs_pair_close(&other);

    wish.kind = CERTS_CA;
    cr_assert(eq(int, certs_pair_make(&other, &wish, NULL, &f.msg), 0));
    EVP_PKEY_free(f.ca.key);
    f.ca.key = other.key;
    other.key = NULL;
    wish = node_wish(&f);
    cr_assert(eq(int, make(&f, &wish), OTR_INVALID));
    cr_assert(strstr(f.msg.text, "not that of its certificate") != NULL, "%s", f.msg.text);
    certs_pair_close(&other);
    close_all(&f);
}

Test(certs, have_serial_numbers_and_keys_of_their_own)
{
    struct fixture f;
    struct certs_wish wish;
    struct certs_pair first = {0};

    setup(&f);
    wish = node_wish(&f);
    cr_assert(eq(int, certs_pair_make(&first, &wish, &f.ca, &f.msg), 0));
    cr_assert(eq(int, make(&f, &wish), 0));
    cr_assert(ne(
        int, ASN1_INTEGER_cmp(X509_get0_serialNumber(cert_of(&first)), X509_get0_serialNumber(cert_of(&f.pair))), 0));
    cr_assert(ne(int, EVP_PKEY_eq(first.key, f.pair.key), 1));
    certs_pair_close(&first);
    close_all(&f);
}

/* --- files -------------------------------------------------------------------------------------------------------- */

static void path_of(const struct fixture *f, const char *name, char out[320])
{
    snprintf(out, 320, "%s/%s", f->dir.path, name);
}

static unsigned mode_of(const struct fixture *f, const char *name)
{
    char path[320];
    struct stat st;

    path_of(f, name, path);
    return stat(path, &st) == 0 ? st.st_mode & 07777 : 0;
}

static void write_text(const struct fixture *f, const char *name, const char *text)
{
    char path[320];
    FILE *file;

    path_of(f, name, path);
    file = fopen(path, "w");
    cr_assert(file != NULL);
    fputs(text, file);
    fclose(file);
}

/* Keys are for their owner alone, whatever the umask says; nothing is replaced unasked, and nothing lies about. */
Test(certs_files, are_written_whole_and_never_over_others)
{
    struct fixture f;
    struct certs_pair back = {0};

    umask(0);
    setup(&f);
    cr_assert(not(certs_files_exist(f.dir.path, "ca")));
    cr_assert(eq(int, certs_files_write_pair(f.dir.path, "ca", &f.ca, false, &f.msg), 0), "%s", f.msg.text);
    cr_assert(eq(u32, mode_of(&f, "ca.key"), 0600));
    cr_assert(certs_files_exist(f.dir.path, "ca"));
    cr_assert(eq(int, certs_files_read_pair(f.dir.path, "ca", &back, &f.msg), 0), "%s", f.msg.text);
    cr_assert(eq(int, EVP_PKEY_eq(back.key, f.ca.key), 1));
    cr_assert(eq(int, X509_cmp(cert_of(&back), cert_of(&f.ca)), 0));
    certs_pair_close(&back);

    cr_assert(eq(int, certs_files_write_pair(f.dir.path, "ca", &f.ca, false, &f.msg), OTR_EXISTS));
    cr_assert(eq(int, certs_files_write_pair(f.dir.path, "ca", &f.ca, true, &f.msg), 0), "%s", f.msg.text);
    /* A certificate without its key, as a user may have copied it: no key is put beside it. */
    write_text(&f, "half.crt", "mine");
    cr_assert(eq(int, certs_files_write_pair(f.dir.path, "half", &f.ca, false, &f.msg), OTR_EXISTS));
    cr_assert(eq(u32, mode_of(&f, "half.key"), 0));
    write_text(&f, "other.key", "mine");
    cr_assert(eq(int, certs_files_write_pair(f.dir.path, "other", &f.ca, false, &f.msg), OTR_EXISTS));
    cr_assert(eq(u32, mode_of(&f, "other.crt"), 0));
    close_all(&f);
    cr_assert(ne(int, access(f.dir.path, F_OK), 0), "only what close removes was there");
}

/* What cannot be used is refused with the file's name. */
Test(certs_files, that_are_damaged_are_named)
{
    struct fixture f;
    struct certs_pair back = {0};
    STACK_OF(X509) *chain = NULL;
    char path[320];
    FILE *file;

    setup(&f);
    cr_assert(eq(int, certs_files_read_pair(f.dir.path, "ca", &back, &f.msg), OTR_NOTFOUND));
    cr_assert(strstr(f.msg.text, "ca.crt") != NULL, "%s", f.msg.text);
    cr_assert(eq(int, certs_files_write_pair(f.dir.path, "ca", &f.ca, false, &f.msg), 0));
    write_text(&f, "ca.key", "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n");
    cr_assert(eq(int, certs_files_read_pair(f.dir.path, "ca", &back, &f.msg), OTR_INVALID));
    cr_assert(strstr(f.msg.text, "ca.key") != NULL, "%s", f.msg.text);
    path_of(&f, "ca.crt", path);
    file = fopen(path, "a");
    fputs("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", file);
    fclose(file);
    cr_assert(eq(int, certs_files_read_chain(path, &chain, &f.msg), OTR_INVALID));
    cr_assert(strstr(f.msg.text, "certificate 2") != NULL, "%s", f.msg.text);
    write_text(&f, "ca.crt", "nothing");
    cr_assert(eq(int, certs_files_read_chain(path, &chain, &f.msg), OTR_INVALID));
    cr_assert(eq(int, certs_files_read_chain("/nowhere/x", &chain, &f.msg), OTR_NOTFOUND));
    close_all(&f);
}

/* A directory that cannot be written to: nothing is left behind. (Root may write anywhere, so it is a missing one.) */
Test(certs_files, without_a_directory_are_refused)
{
    struct fixture f;

    setup(&f);
    cr_assert(eq(int, certs_files_write_pair("/nowhere/x", "ca", &f.ca, false, &f.msg), OTR_NOTFOUND));
    cr_assert(strstr(f.msg.text, "/nowhere/x") != NULL, "%s", f.msg.text);
    write_text(&f, "file", "");
    {
        char path[320];

        path_of(&f, "file", path);
        cr_assert(eq(int, certs_files_directory(path, &f.msg), OTR_INVALID));
    }
    close_all(&f);
}
