#include "tests/conformance/secure.h"
#include "tests/lib/temp_dir.h"
#include "tests/lib/test_certs.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct temp_dir dir; /* each test is a process */

const char *secure_path(const char *file)
{
    static char paths[24][320];
    static unsigned count;

    if (dir.path[0] == '\0') {
        temp_dir_init(&dir);
    }
    if (file[0] == '\0') {
        return dir.path;
    }
    for (unsigned i = 0; i < count; i++) {
        if (strcmp(strrchr(paths[i], '/') + 1, file) == 0) {
            return paths[i];
        }
    }
    cr_assert(count < sizeof paths / sizeof paths[0]);
    snprintf(paths[count], sizeof paths[count], "%s/%s", dir.path, file);
    return paths[count++];
}

void secure_close(void)
{
    temp_dir_close(&dir);
}

static void make(const struct test_cert *ca, const char *file, struct test_cert_spec spec)
{
    char cert[32], key[32];
    struct test_cert made;

    spec.issuer = ca;
    made = test_cert_make(&spec);
    snprintf(cert, sizeof cert, "%s.crt", file);
    snprintf(key, sizeof key, "%s.key", file);
    test_cert_write(&made, secure_path(cert), secure_path(key));
    test_cert_free(&made);
}

void secure_certs(void)
{
    struct test_cert ca = test_ca("the suite's CA");
    struct test_cert stranger = test_ca("another CA");
    const struct test_cert_spec client = {.name = "", .dns = "client"};

    test_cert_write(&ca, secure_path("ca.crt"), NULL);
    test_cert_write(&stranger, secure_path("stranger-ca.crt"), NULL);
    make(&ca, "server", (struct test_cert_spec){.name = "", .dns = "etcd.example,IP:127.0.0.1"});
    make(&ca, "client", client);
    make(&ca, "client2", client);
    make(&ca, "named", (struct test_cert_spec){.name = "suite", .dns = "client"});
    make(&stranger, "stranger", client);
    make(&ca, "expired", (struct test_cert_spec){.name = "", .dns = "client", .begins_s = -200, .ends_s = -100});
    make(&ca, "server-only", (struct test_cert_spec){.name = "", .dns = "client", .usage = "serverAuth"});
    test_cert_free(&ca);
    test_cert_free(&stranger);
}

void secure_write_line(const char *path, const char *text)
{
    FILE *file = fopen(path, "we");

    cr_assert(file != NULL && fprintf(file, "%s\n", text) > 0 && fclose(file) == 0);
}

void secure_access(struct world *w)
{
    const struct etcd_server *server = w->coordinator;

    w->access.user = "suite";
    w->access.password_file = secure_path("password");
    if (server->certs != NULL) {
        w->access.ca_file = secure_path("ca.crt");
        w->access.cert_file = secure_path("client.crt");
        w->access.key_file = secure_path("client.key");
    }
}

void secure_auth(struct etcd_server *server)
{
    const char *program = getenv("OUTRIGGER") != NULL ? getenv("OUTRIGGER") : "build/outrigger";
    char command[1800];

    secure_write_line(secure_path("password"), SECURE_PASSWORD);
    snprintf(command, sizeof command,
             "(%s cluster etcd-role --cluster suite --user suite --user-password-file %s >%s/role.sh;"
             " etcdctl role add root; etcdctl user add root:root; etcdctl user grant-role root root; sh %s/role.sh;"
             " etcdctl auth enable) >%s/setup.log",
             program, secure_path("password"), dir.path, dir.path, dir.path);
    etcd_server_ctl(server, command);
    server->auth = true;
}
