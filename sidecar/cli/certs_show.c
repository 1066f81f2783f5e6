/* `outrigger certs show`: what certificates say, and how long they still do. */
#include "sidecar/cli/certs.h"

#include "sidecar/cli/certs_files.h"

#include <arpa/inet.h>
#include <cjson/cJSON.h>
#include <openssl/x509v3.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { DAY_S = 86400, NAME_TEXT_MAX = 256, TIME_TEXT_MAX = 32, FILES_MAX = 1024, DAYS_MAX = 36500 };

struct settings {
    bool json;
    uint32_t warn_days;
};

/* --- parts of a certificate, as text ------------------------------------------------------------------------------ */

static void print_subject(const X509_NAME *name, char out[NAME_TEXT_MAX])
{
    BIO *bio = BIO_new(BIO_s_mem());
    char *text;
    long bytes;

    out[0] = '\0';
    if (bio != NULL && X509_NAME_print_ex(bio, name, 0, XN_FLAG_ONELINE & ~ASN1_STRFLGS_ESC_MSB) >= 0) {
        bytes = BIO_get_mem_data(bio, &text);
        snprintf(out, NAME_TEXT_MAX, "%.*s", (int)bytes, text);
    }
    BIO_free(bio);
}

static void print_time(const ASN1_TIME *time, char out[TIME_TEXT_MAX])
{
    struct tm tm = {0};

    if (ASN1_TIME_to_tm(time, &tm) != 1 || strftime(out, TIME_TEXT_MAX, "%Y-%m-%dT%H:%M:%SZ", &tm) == 0) {
        snprintf(out, TIME_TEXT_MAX, "unreadable");
    }
}

static void print_general_name(const GENERAL_NAME *name, char out[NAME_TEXT_MAX])
{
    const ASN1_STRING *value;

    if (name->type == GEN_IPADD) {
        const unsigned char *bytes = ASN1_STRING_get0_data(name->d.iPAddress);
        int count = ASN1_STRING_length(name->d.iPAddress);
        char address[INET6_ADDRSTRLEN] = "unreadable";

        if (count == (int)sizeof(struct in_addr)) {
            inet_ntop(AF_INET, bytes, address, sizeof address);
        } else if (count == (int)sizeof(struct in6_addr)) {
            inet_ntop(AF_INET6, bytes, address, sizeof address);
        }
        snprintf(out, NAME_TEXT_MAX, "%s", address);
        return;
    }
    if (name->type != GEN_URI && name->type != GEN_DNS && name->type != GEN_EMAIL) {
        snprintf(out, NAME_TEXT_MAX, "(a name of another kind)");
        return;
    }
    value = name->d.ia5;
    snprintf(out, NAME_TEXT_MAX, "%.*s", ASN1_STRING_length(value), (const char *)ASN1_STRING_get0_data(value));
    for (char *c = out; *c != '\0'; c++) { /* Whoever made the certificate may have put escape codes there. */
        *c = *c >= ' ' && *c <= '~' ? *c : '?';
    }
}

static const char *purpose(X509 *cert)
{
    uint32_t use = X509_get_extended_key_usage(cert);

    if (X509_check_ca(cert) == 1) {
        return "authority";
    }
    if (use == UINT32_MAX) {
        return "any";
    }
    if ((use & (XKU_SSL_SERVER | XKU_SSL_CLIENT)) == (XKU_SSL_SERVER | XKU_SSL_CLIENT)) {
        return "server and client";
    }
    return (use & XKU_SSL_SERVER) != 0 ? "server" : (use & XKU_SSL_CLIENT) != 0 ? "client" : "other";
}

/* --- one certificate ---------------------------------------------------------------------------------------------- */

/* Whole days until its end, rounded down, negative when it is over; whether it has begun. */
static int64_t days_left(X509 *cert, time_t now, bool *begun)
{
    time_t copy = now;
    ASN1_TIME *today = ASN1_TIME_set(NULL, now);
    int days = 0;
    int seconds = 0;

    *begun = X509_cmp_time(X509_get0_notBefore(cert), &copy) < 0;
    if (today == NULL || ASN1_TIME_diff(&days, &seconds, today, X509_get0_notAfter(cert)) != 1) {
        days = -1;
    }
    ASN1_TIME_free(today);
    return seconds < 0 ? days - 1 : days;
}

/* What is wrong with it, or NULL. */
static const char *complaint(int64_t days, bool begun, uint32_t warn_days)
{
    return !begun ? "is not valid yet" : days < 0 ? "is over" : days < (int64_t)warn_days ? "ends soon" : NULL;
}

/* Adds one certificate to the list. */
static void describe(cJSON *list, const char *path, X509 *cert, uint32_t warn_days)
{
    cJSON *item = cJSON_CreateObject();
    GENERAL_NAMES *names = X509_get_ext_d2i(cert, NID_subject_alt_name, NULL, NULL);
    cJSON *array;
    char text[NAME_TEXT_MAX];
    char when[TIME_TEXT_MAX];
    bool begun;
    int64_t days = days_left(cert, time(NULL), &begun);
    const char *warning = complaint(days, begun, warn_days);

    cJSON_AddStringToObject(item, "file", path);
    print_subject(X509_get_subject_name(cert), text);
    cJSON_AddStringToObject(item, "subject", text);
    print_subject(X509_get_issuer_name(cert), text);
    cJSON_AddStringToObject(item, "issuer", text);
    array = cJSON_AddArrayToObject(item, "names");
    for (int i = 0; i < sk_GENERAL_NAME_num(names); i++) {
        print_general_name(sk_GENERAL_NAME_value(names, i), text);
        cJSON_AddItemToArray(array, cJSON_CreateString(text));
    }
    GENERAL_NAMES_free(names);
    cJSON_AddStringToObject(item, "use", purpose(cert));
    print_time(X509_get0_notBefore(cert), when);
    cJSON_AddStringToObject(item, "not_before", when);
    print_time(X509_get0_notAfter(cert), when);
    cJSON_AddStringToObject(item, "not_after", when);
    cJSON_AddNumberToObject(item, "days_left", (double)days);
    if (warning != NULL) {
        cJSON_AddStringToObject(item, "warning", warning);
    }
    cJSON_AddItemToArray(list, item);
}

static const char *text_of(const cJSON *item, const char *name)
{
    const char *text = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(item, name));

    return text != NULL ? text : "";
}

static void print_item(const cJSON *item, bool first)
{
    const cJSON *name;
    const char *warning = text_of(item, "warning");
    long days = (long)cJSON_GetNumberValue(cJSON_GetObjectItemCaseSensitive(item, "days_left"));

    printf("%s%s\n  subject   %s\n  issuer    %s\n", first ? "" : "\n", text_of(item, "file"), text_of(item, "subject"),
           text_of(item, "issuer"));
    cJSON_ArrayForEach(name, cJSON_GetObjectItemCaseSensitive(item, "names"))
    {
        printf("  name      %s\n", cJSON_GetStringValue(name));
    }
    printf("  use       %s\n  valid     %s to %s, %ld days left\n", text_of(item, "use"), text_of(item, "not_before"),
           text_of(item, "not_after"), days);
    if (*warning != '\0') {
        printf("  WARNING   %s\n", warning);
    }
}

/* --- the command -------------------------------------------------------------------------------------------------- */

/* Exit code: 1 when a file cannot be read or a certificate is complained of. */
static int show(char **paths, int count, const struct settings *s)
{
    cJSON *list = cJSON_CreateArray();
    const cJSON *item;
    int code = EXIT_OK;
    bool first = true;
    char *text;

    for (int i = 0; i < count; i++) {
        STACK_OF(X509) *chain = NULL;
        struct otr_errmsg msg = {0};

        if (certs_files_read_chain(paths[i], &chain, &msg) != 0) {
            fprintf(stderr, "outrigger certs show: %s\n", msg.text);
            code = EXIT_FAILED;
            continue;
        }
        for (int j = 0; j < sk_X509_num(chain); j++) {
            describe(list, paths[i], sk_X509_value(chain, j), s->warn_days);
        }
        sk_X509_pop_free(chain, X509_free);
    }
    cJSON_ArrayForEach(item, list)
    {
        code = cJSON_HasObjectItem(item, "warning") ? EXIT_FAILED : code;
        if (!s->json) {
            print_item(item, first);
        }
        first = false;
    }
    if (s->json) {
        text = cJSON_Print(list);
        printf("%s\n", text != NULL ? text : "[]");
        cJSON_free(text);
    }
    cJSON_Delete(list);
    return code;
}

static int run(const struct command *command, int argc, char **argv)
{
    struct settings s = {0};
    struct options_memory memory = {0};
    int files = 0;
    int code;

    while (files < argc && argv[files][0] != '-') {
        files++;
    }
    if (!options_read(command, argc - files, argv + files, &s, &memory, &code)) {
        return code;
    }
    options_memory_close(&memory);
    if (files == 0) {
        fprintf(stderr, "outrigger certs show: which file? 'outrigger certs show FILE ... [settings]'\n");
        return EXIT_USAGE;
    }
    return show(argv, files, &s);
}

static const struct option options[] = {
    {"warn-days", OPTION_NUMBER, offsetof(struct settings, warn_days), "N", "30", false, 0, DAYS_MAX,
     "warns of what ends within so many days"},
    {"json", OPTION_FLAG, offsetof(struct settings, json), NULL, NULL, false, 0, 0, "JSON for programs"},
};

const struct command certs_show_command = {
    .name = "certs show",
    .about = "shows whom certificates name and when they end: 'certs show FILE ... [settings]'.\n\n"
             "Exit code 1 when one is over, not valid yet, or ends within --warn-days: fit for a daily job.",
    .examples = "  outrigger certs show certs/*.crt\n"
                "  outrigger certs show /etc/outrigger/node-1.crt --warn-days 14 --json\n",
    .options = options,
    .options_count = sizeof options / sizeof options[0],
    .run = run,
};
