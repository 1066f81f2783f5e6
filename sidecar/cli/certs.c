/* The commands that make certificates. `certs all` is the others in a row. */
#include "sidecar/cli/certs.h"

#include "sidecar/cli/certs_files.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#define CA_DAYS_DEFAULT   "3650"
#define LEAF_DAYS_DEFAULT "365"
enum { DAYS_MAX = 36500, LIST_MAX = 8192 };

struct settings {
    const char *dir;
    const char *cluster; /* NULL: that of the authority */
    const char *name;
    const char *nodes;
    const char *clients;
    const char *hosts;
    bool loopback;
    bool force;
    uint32_t days;
    uint32_t ca_days;
};

#define OPTION(member) offsetof(struct settings, member)
#define OPTION_DIR                                                                                          \
    {                                                                                                       \
        "dir", OPTION_TEXT, OPTION(dir), "DIR", NULL, true, 0, 0, "where ca.crt, ca.key and all others are" \
    }
#define OPTION_HOST                                                       \
    {                                                                     \
        "host", OPTION_TEXT, OPTION(hosts), "HOST,IP", NULL, false, 0, 0, \
            "names and addresses under which clients reach it"            \
    }
#define OPTION_LOOPBACK                                                                                            \
    {                                                                                                              \
        "loopback", OPTION_FLAG, OPTION(loopback), NULL, NULL, false, 0, 0, "localhost, 127.0.0.1 and ::1 as well" \
    }
#define OPTION_FORCE(what)                                                 \
    {                                                                      \
        "force", OPTION_FLAG, OPTION(force), NULL, NULL, false, 0, 0, what \
    }
#define OPTION_DAYS                                                                                             \
    {                                                                                                           \
        "days", OPTION_NUMBER, OPTION(days), "N", LEAF_DAYS_DEFAULT, false, 1, DAYS_MAX, "how long it is valid" \
    }
#define OPTION_CLUSTER                                                      \
    {                                                                       \
        "cluster", OPTION_NAME, OPTION(cluster), "NAME", NULL, false, 0, 0, \
            "only for an authority that names no cluster"                   \
    }

/* --- one certificate ---------------------------------------------------------------------------------------------- */

static const char *file_name(const struct certs_wish *wish)
{
    return wish->kind == CERTS_CA ? "ca" : wish->name;
}

static void report(const char *dir, const struct certs_wish *wish, const struct certs_pair *pair)
{
    X509 *cert = sk_X509_value(pair->chain, 0);
    char uri[CERTS_URI_MAX] = "";
    struct tm until = {0};

    certs_uri(cert, uri);
    ASN1_TIME_to_tm(X509_get0_notAfter(cert), &until);
    printf("%s/%s.crt and .key: %s until %04d-%02d-%02d\n", dir, file_name(wish), uri, until.tm_year + 1900,
           until.tm_mon + 1, until.tm_mday);
}

/* A node and a client of one name would share their files, and so would anything called "ca" and the authority. */
static int check_place(const char *dir, const struct certs_wish *wish, bool force, struct otr_errmsg *msg)
{
    const char *name = file_name(wish);
    struct certs_pair old = {0};
    char uri[CERTS_URI_MAX] = "";
    char cluster[OTR_NAME_MAX + 1];
    const char *kind = wish->kind == CERTS_NODE ? "node" : "client";
    char path[CERTS_URI_MAX];
    int rv = 0;

    if (wish->kind != CERTS_CA && strcmp(name, "ca") == 0) {
        otr_errmsg_set(msg, "no node or client can be called \"ca\": the authority's files have that name");
        return OTR_INVALID;
    }
    if (!certs_files_exist(dir, name)) {
        return 0;
    }
    if (!force) {
        otr_errmsg_set(msg, "%s/%s.key or .crt exists; --force replaces both", dir, name);
        return OTR_EXISTS;
    }
    if (wish->kind != CERTS_CA && certs_files_read_pair(dir, name, &old, NULL) == 0 &&
        certs_uri(sk_X509_value(old.chain, 0), uri) && certs_uri_cluster(uri, cluster)) {
        snprintf(path, sizeof path, "/%s/%s", kind, name);
        if (strcmp(uri + strlen("outrigger://") + strlen(cluster), path) != 0) {
            otr_errmsg_set(msg, "%s/%s.crt is %s, not a %s: choose another name or another directory", dir, name, uri,
                           kind);
            rv = OTR_EXISTS;
        }
    }
    certs_pair_close(&old);
    return rv;
}

static int read_authority(const char *dir, struct certs_pair *ca, struct otr_errmsg *msg)
{
    char why[OTR_ERRMSG_MAX];
    int rv = certs_files_read_pair(dir, "ca", ca, msg);

    if (rv == OTR_NOTFOUND) {
        snprintf(why, sizeof why, "%s", msg->text);
        otr_errmsg_set(msg, "there is no authority: %.300s. 'outrigger certs ca --dir %.100s' makes one", why, dir);
    }
    return rv;
}

/* The cluster that the authority is for, unless one was given, which then must be the same. */
static int settle_cluster(const struct certs_pair *ca, struct certs_wish *wish, char memory[OTR_NAME_MAX + 1],
                          struct otr_errmsg *msg)
{
    char uri[CERTS_URI_MAX];

    if (!certs_uri(sk_X509_value(ca->chain, 0), uri) || !certs_uri_cluster(uri, memory)) {
        if (wish->cluster == NULL) {
            otr_errmsg_set(msg, "the authority names no cluster; give --cluster");
            return OTR_INVALID;
        }
        return 0;
    }
    if (wish->cluster != NULL && strcmp(wish->cluster, memory) != 0) {
        otr_errmsg_set(msg, "the authority is that of cluster %s, not %s", memory, wish->cluster);
        return OTR_INVALID;
    }
    wish->cluster = memory;
    return 0;
}

/* Makes one pair and says so. */
static int issue(const char *dir, struct certs_wish wish, bool force, struct otr_errmsg *msg)
{
    struct certs_pair ca = {0};
    struct certs_pair pair = {0};
    char cluster[OTR_NAME_MAX + 1];
    int rv;

    wish.now_s = (int64_t)time(NULL);
    rv = check_place(dir, &wish, force, msg);
    if (rv == 0 && wish.kind != CERTS_CA) {
        rv = read_authority(dir, &ca, msg);
        rv = rv != 0 ? rv : settle_cluster(&ca, &wish, cluster, msg);
    }
    rv = rv != 0 ? rv : certs_pair_make(&pair, &wish, wish.kind == CERTS_CA ? NULL : &ca, msg);
    rv = rv != 0 ? rv : certs_files_write_pair(dir, file_name(&wish), &pair, force, msg);
    if (rv == 0) {
        report(dir, &wish, &pair);
    }
    certs_pair_close(&pair);
    certs_pair_close(&ca);
    return rv;
}

static int finish(const struct command *command, struct options_memory *memory, int rv, const struct otr_errmsg *msg)
{
    if (rv != 0) {
        fprintf(stderr, "outrigger %s: %s\n", command->name, msg->text[0] != '\0' ? msg->text : otr_strerror(rv));
    }
    options_memory_close(memory);
    return rv == 0 ? EXIT_OK : EXIT_FAILED;
}

/* --- ca, node, client --------------------------------------------------------------------------------------------- */

static int run_ca(const struct command *command, int argc, char **argv)
{
    struct settings s = {0};
    struct options_memory memory = {0};
    struct otr_errmsg msg = {0};
    int code;
    int rv;

    if (!options_read(command, argc, argv, &s, &memory, &code)) {
        return code;
    }
    rv = certs_files_directory(s.dir, &msg);
    if (rv == 0) {
        rv = issue(s.dir, (struct certs_wish){.kind = CERTS_CA, .cluster = s.cluster, .days = s.days}, s.force, &msg);
    }
    return finish(command, &memory, rv, &msg);
}

static int run_one(const struct command *command, int argc, char **argv)
{
    struct settings s = {0};
    struct options_memory memory = {0};
    struct otr_errmsg msg = {0};
    struct certs_wish wish;
    int code;

    if (!options_read(command, argc, argv, &s, &memory, &code)) {
        return code;
    }
    wish = (struct certs_wish){.kind = command == &certs_node_command ? CERTS_NODE : CERTS_CLIENT,
                               .cluster = s.cluster,
                               .name = s.name,
                               .hosts = s.hosts,
                               .loopback = s.loopback,
                               .days = s.days};
    return finish(command, &memory, issue(s.dir, wish, s.force, &msg), &msg);
}

static const struct option ca_options[] = {
    OPTION_DIR,
    {"cluster", OPTION_NAME, OPTION(cluster), "NAME", "outrigger", false, 0, 0, "the cluster that it is for"},
    {"days", OPTION_NUMBER, OPTION(days), "N", CA_DAYS_DEFAULT, false, 1, DAYS_MAX, "how long it is valid"},
    OPTION_FORCE("replaces an authority; all its certificates end with it"),
};

const struct command certs_ca_command = {
    .name = "certs ca",
    .about = "makes a certificate authority for one cluster: DIR/ca.crt and DIR/ca.key.\n\n"
             "ca.crt goes to every node and client. Whoever has ca.key can become any of them: keep it off the nodes.",
    .examples = "  outrigger certs ca --dir certs --cluster prod\n",
    .options = ca_options,
    .options_count = sizeof ca_options / sizeof ca_options[0],
    .run = run_ca,
};

static const struct option node_options[] = {
    OPTION_DIR,
    {"node", OPTION_NAME, OPTION(name), "NAME", NULL, true, 0, 0, "the node's name, as 'outrigger sidecar' has it"},
    OPTION_HOST,
    OPTION_LOOPBACK,
    OPTION_DAYS,
    OPTION_CLUSTER,
    OPTION_FORCE("renews it: a new key and certificate, from the same authority"),
};

const struct command certs_node_command = {
    .name = "certs node",
    .about = "makes a node's certificate: DIR/NAME.crt and DIR/NAME.key.\n\n"
             "It says which node of which cluster holds it, to other nodes, and serves clients who check one of the\n"
             "hosts (the node's own name is one of them). It suits an etcd server and its clients too.",
    .examples = "  outrigger certs node --dir certs --node node-1 --host 10.0.0.1,node-1.example.com\n"
                "  outrigger certs node --dir certs --node node-1 --host 10.0.0.1 --force   # renew\n"
                "  outrigger certs node --dir certs --node etcd-1 --host 10.0.0.9 --loopback\n",
    .options = node_options,
    .options_count = sizeof node_options / sizeof node_options[0],
    .run = run_one,
};

static const struct option client_options[] = {
    OPTION_DIR,     {"name", OPTION_NAME, OPTION(name), "NAME", NULL, true, 0, 0, "the client's name"}, OPTION_DAYS,
    OPTION_CLUSTER, OPTION_FORCE("renews it: a new key and certificate, from the same authority"),
};

const struct command certs_client_command = {
    .name = "certs client",
    .about = "makes a client's certificate: DIR/NAME.crt and DIR/NAME.key.\n\n"
             "etcd takes NAME as the user, when it is told to authenticate by certificates.",
    .examples = "  outrigger certs client --dir certs --name app-1\n",
    .options = client_options,
    .options_count = sizeof client_options / sizeof client_options[0],
    .run = run_one,
};

/* --- all ---------------------------------------------------------------------------------------------------------- */

/* One item of a list "NAME" or "NAME=HOST". `memory` takes the name and, for the node, its hosts. */
static int issue_item(const struct settings *s, enum certs_kind kind, const char *item, size_t bytes,
                      struct otr_errmsg *msg)
{
    struct certs_wish wish = {.kind = kind, .cluster = NULL, .days = s->days};
    const char *equals = kind == CERTS_NODE ? memchr(item, '=', bytes) : NULL;
    size_t name_bytes = equals != NULL ? (size_t)(equals - item) : bytes;
    const char *hosts = s->hosts != NULL ? s->hosts : "";
    char name[OTR_NAME_MAX + 2];
    char all_hosts[LIST_MAX];

    snprintf(name, sizeof name, "%.*s", (int)name_bytes, item);
    wish.name = name;
    if (kind == CERTS_NODE) {
        int used = snprintf(all_hosts, sizeof all_hosts, "%.*s%s%s", equals != NULL ? (int)(bytes - name_bytes - 1) : 0,
                            equals != NULL ? equals + 1 : "", equals != NULL && *hosts != '\0' ? "," : "", hosts);

        if (used >= (int)sizeof all_hosts) {
            otr_errmsg_set(msg, "--host is longer than %d bytes", LIST_MAX);
            return OTR_TOOBIG;
        }
        wish.hosts = used > 0 ? all_hosts : NULL;
        wish.loopback = s->loopback;
    }
    if (!s->force && certs_files_exist(s->dir, name)) {
        printf("%s/%s.crt and .key: kept\n", s->dir, name);
        return 0;
    }
    return issue(s->dir, wish, s->force, msg);
}

static int issue_list(const struct settings *s, enum certs_kind kind, const char *list, struct otr_errmsg *msg)
{
    int rv = 0;

    while (rv == 0 && list != NULL && *list != '\0') {
        size_t bytes = strcspn(list, ",");

        rv = issue_item(s, kind, list, bytes, msg);
        otr_errmsg_wrap(rv != 0 ? msg : NULL, "%.*s", (int)(bytes < OTR_NAME_MAX ? bytes : OTR_NAME_MAX), list);
        list = list[bytes] == ',' ? list + bytes + 1 : NULL;
    }
    return rv;
}

/* The authority, unless there is one, which must then be this cluster's. */
static int issue_authority(const struct settings *s, struct otr_errmsg *msg)
{
    struct certs_wish wish = {.kind = CERTS_CA, .cluster = s->cluster, .days = s->ca_days};
    struct certs_pair ca = {0};
    char cluster[OTR_NAME_MAX + 1];
    int rv;

    if (!certs_files_exist(s->dir, "ca")) {
        return issue(s->dir, wish, false, msg);
    }
    rv = read_authority(s->dir, &ca, msg);
    rv = rv != 0 ? rv : settle_cluster(&ca, &wish, cluster, msg);
    if (rv == 0) {
        printf("%s/ca.crt and .key: kept\n", s->dir);
    }
    certs_pair_close(&ca);
    return rv;
}

static int run_all(const struct command *command, int argc, char **argv)
{
    struct settings s = {0};
    struct options_memory memory = {0};
    struct otr_errmsg msg = {0};
    int code;
    int rv;

    if (!options_read(command, argc, argv, &s, &memory, &code)) {
        return code;
    }
    rv = certs_files_directory(s.dir, &msg);
    rv = rv != 0 ? rv : issue_authority(&s, &msg);
    rv = rv != 0 ? rv : issue_list(&s, CERTS_NODE, s.nodes, &msg);
    rv = rv != 0 ? rv : issue_list(&s, CERTS_CLIENT, s.clients, &msg);
    return finish(command, &memory, rv, &msg);
}

static const struct option all_options[] = {
    OPTION_DIR,
    {"cluster", OPTION_NAME, OPTION(cluster), "NAME", "outrigger", false, 0, 0, "the cluster that they are for"},
    {"nodes", OPTION_TEXT, OPTION(nodes), "NAME[=HOST],...", NULL, true, 0, 0, "the nodes, each with its own host"},
    {"clients", OPTION_TEXT, OPTION(clients), "NAME,NAME", "admin", false, 0, 0, "the clients"},
    {"host", OPTION_TEXT, OPTION(hosts), "HOST,IP", NULL, false, 0, 0, "further hosts, the same for all nodes"},
    OPTION_LOOPBACK,
    OPTION_DAYS,
    {"ca-days", OPTION_NUMBER, OPTION(ca_days), "N", CA_DAYS_DEFAULT, false, 1, DAYS_MAX, "the same of the authority"},
    OPTION_FORCE("renews nodes and clients; the authority stays"),
};

const struct command certs_all_command = {
    .name = "certs all",
    .about = "makes an authority and the certificates of a cluster's nodes and clients.\n\n"
             "What exists is kept, so that it can be repeated with one more node.",
    .examples = "  outrigger certs all --dir certs --nodes node-1=10.0.0.1,node-2=10.0.0.2,node-3=10.0.0.3\n"
                "  outrigger certs all --dir certs --nodes node-1,node-2,node-3 --loopback --clients admin,app\n",
    .options = all_options,
    .options_count = sizeof all_options / sizeof all_options[0],
    .run = run_all,
};
