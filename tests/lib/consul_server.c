#include "tests/lib/consul_server.h"
#include "tests/lib/free_port.h"

#include <curl/curl.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>

enum { READY_MS = 40000, POLL_MS = 50, SERF_PORT = 8301, RPC_PORT = 8300 };

static void fail(const char *format, ...) __attribute__((noreturn, format(printf, 1, 2)));
static void fail(const char *format, ...)
{
    va_list args;

    va_start(args, format);
    fprintf(stderr, "consul_server: ");
    vfprintf(stderr, format, args);
    fprintf(stderr, "\n");
    va_end(args);
    abort();
}

static void pause_ms(long ms)
{
    nanosleep(&(struct timespec){.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000}, NULL);
}

static size_t on_body(char *data, size_t size, size_t count, void *file)
{
    return fwrite(data, size, count, file) * size;
}

char *consul_server_ask(const struct consul_server *server, unsigned member, const char *method, const char *path,
                        const char *body, long *status)
{
    CURL *curl = curl_easy_init();
    struct curl_slist *headers = curl_slist_append(NULL, "X-Consul-Token: " CONSUL_SERVER_ROOT);
    char url[512], *answer = NULL;
    size_t bytes;
    FILE *file = open_memstream(&answer, &bytes);
    long code = 0;

    snprintf(url, sizeof url, "http://127.0.0.1:%u%s", server->members[member].http_port, path);
    curl_easy_setopt(curl, CURLOPT_URL, url);
    curl_easy_setopt(curl, CURLOPT_CUSTOMREQUEST, method);
    curl_easy_setopt(curl, CURLOPT_TIMEOUT_MS, 3000L);
    curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, on_body);
    curl_easy_setopt(curl, CURLOPT_WRITEDATA, file);
    if (server->acl) {
        curl_easy_setopt(curl, CURLOPT_HTTPHEADER, headers);
    }
    if (body != NULL) {
        curl_easy_setopt(curl, CURLOPT_POSTFIELDS, body);
    }
    if (curl_easy_perform(curl) == CURLE_OK) {
        curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &code);
    }
    fclose(file);
    curl_slist_free_all(headers);
    curl_easy_cleanup(curl);
    if (status != NULL) {
        *status = code;
    }
    return answer;
}

static bool ready(const struct consul_server *server, unsigned member)
{
    char node[80];
    char *answer;
    long status;
    bool known;

    answer = consul_server_ask(server, member, "GET", "/v1/kv/no-such-key?consistent", NULL, &status);
    free(answer);
    if (status != 404) {
        return false;
    }
    /* Sessions need the node in the catalog. */
    snprintf(node, sizeof node, "/v1/health/node/m%u?consistent", member);
    answer = consul_server_ask(server, member, "GET", node, NULL, &status);
    known = status == 200 && strstr(answer, "serfHealth") != NULL;
    free(answer);
    return known;
}

static void write_config(const struct consul_server *server, unsigned index)
{
    const struct consul_member *member = &server->members[index];
    char path[280];
    FILE *file;

    snprintf(path, sizeof path, "%s/m%u.json", server->dir, index);
    file = fopen(path, "we");
    if (file == NULL) {
        fail("cannot write %s: %s", path, strerror(errno));
    }
    fprintf(file,
            "{\"server\":true,\"bootstrap_expect\":%u,\"node_name\":\"m%u\",\"data_dir\":\"%s/m%u\","
            "\"bind_addr\":\"%s\",\"client_addr\":\"127.0.0.1\",\"disable_update_check\":true,"
            "\"log_level\":\"ERR\",\"performance\":{\"raft_multiplier\":1},\"leave_on_terminate\":false,",
            server->members_count, index, server->dir, index, member->address);
    fprintf(
        file,
        "\"ports\":{\"http\":%u,\"https\":%d,\"dns\":-1,\"grpc\":-1,\"serf_lan\":%d,\"serf_wan\":-1,\"server\":%d},",
        member->http_port, server->certs != NULL ? member->https_port : -1, SERF_PORT, RPC_PORT);
    if (server->certs != NULL) {
        fprintf(file,
                "\"ca_file\":\"%s/ca.crt\",\"cert_file\":\"%s/server.crt\",\"key_file\":\"%s/server.key\","
                "\"verify_incoming_https\":true,",
                server->certs, server->certs, server->certs);
    }
    if (server->acl) {
        fprintf(
            file,
            "\"acl\":{\"enabled\":true,\"default_policy\":\"deny\",\"tokens\":{\"master\":\"%s\",\"agent\":\"%s\"}},",
            CONSUL_SERVER_ROOT, CONSUL_SERVER_ROOT);
    }
    fprintf(file, "\"retry_interval\":\"1s\",\"retry_join\":[");
    for (unsigned i = 0; i < server->members_count; i++) {
        fprintf(file, "%s\"%s:%d\"", i > 0 ? "," : "", server->members[i].address, SERF_PORT);
    }
    fprintf(file, "]}\n");
    fclose(file);
}

static void run(struct consul_server *server, unsigned index)
{
    struct consul_member *member = &server->members[index];
    const char *program = getenv("CONSUL") != NULL ? getenv("CONSUL") : "build/servers/consul/usr/bin/consul";
    char config[280], log[280];
    pid_t parent = getpid();
    int fd;

    write_config(server, index);
    snprintf(config, sizeof config, "%s/m%u.json", server->dir, index);
    snprintf(log, sizeof log, "%s/m%u.log", server->dir, index);
    member->pid = fork();
    if (member->pid != 0) {
        return;
    }
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    fd = open(log, O_WRONLY | O_CREAT | O_APPEND, 0600);
    if (getppid() != parent || fd < 0) {
        _exit(1);
    }
    dup2(fd, STDOUT_FILENO);
    dup2(fd, STDERR_FILENO);
    execl(program, "consul", "agent", "-config-file", config, (char *)NULL);
    dprintf(STDERR_FILENO, "cannot run %s: %s\n", program, strerror(errno));
    _exit(127);
}

static void show_logs(const struct consul_server *server)
{
    char command[320];

    snprintf(command, sizeof command, "tail -n 5 %s/*.log >&2", server->dir);
    if (system(command) != 0) {
        fprintf(stderr, "consul_server: no logs\n");
    }
}

void consul_server_init(struct consul_server *server, unsigned members_count)
{
    *server = (struct consul_server){.members_count = members_count};
    snprintf(server->dir, sizeof server->dir, "%.180s/outrigger-consul-XXXXXX",
             getenv("TMPDIR") != NULL ? getenv("TMPDIR") : "/tmp");
    if (mkdtemp(server->dir) == NULL) {
        fail("cannot make a directory: %s", strerror(errno));
    }
    for (unsigned i = 0; i < members_count; i++) {
        struct consul_member *member = &server->members[i];
        unsigned char random[3];

        member->http_port = free_port();
        member->https_port = free_port();
        if (member->http_port == 0 || member->https_port == 0 ||
            getrandom(random, sizeof random, 0) != (ssize_t)sizeof random) {
            fail("no free port");
        }
        snprintf(member->address, sizeof member->address, "127.%u.%u.%u", 1 + random[0] % 250, random[1],
                 1 + random[2] % 250);
        snprintf(member->url, sizeof member->url, "http://127.0.0.1:%u", member->http_port);
    }
}

void consul_server_secure(struct consul_server *server, const char *certs)
{
    server->certs = certs;
    server->acl = true;
    for (unsigned i = 0; i < server->members_count; i++) {
        snprintf(server->members[i].url, sizeof server->members[i].url, "https://127.0.0.1:%u",
                 server->members[i].https_port);
    }
}

void consul_server_start(struct consul_server *server)
{
    int waited_ms = 0;

    for (unsigned i = 0; i < server->members_count; i++) {
        if (server->members[i].pid == 0) {
            run(server, i);
        }
    }
    for (unsigned i = 0; i < server->members_count; i++) {
        while (!ready(server, i)) {
            int status;

            if (waitpid(server->members[i].pid, &status, WNOHANG) != 0 || waited_ms > READY_MS) {
                show_logs(server);
                fail("member %u did not come up", i);
            }
            pause_ms(POLL_MS);
            waited_ms += POLL_MS;
        }
    }
}

unsigned consul_server_leader(const struct consul_server *server)
{
    char address[64];

    for (int waited_ms = 0; waited_ms < READY_MS; waited_ms += POLL_MS) {
        for (unsigned i = 0; i < server->members_count; i++) {
            char *answer = consul_server_ask(server, i, "GET", "/v1/status/leader", NULL, NULL);

            for (unsigned j = 0; j < server->members_count; j++) {
                snprintf(address, sizeof address, "\"%s:%d\"", server->members[j].address, RPC_PORT);
                if (strcmp(answer, address) == 0) {
                    free(answer);
                    return j;
                }
            }
            free(answer);
        }
        pause_ms(POLL_MS);
    }
    fail("no leader");
}

static void end(struct consul_server *server, unsigned member, int signal)
{
    pid_t pid = server->members[member].pid;

    if (pid > 0) {
        kill(pid, signal);
        waitpid(pid, NULL, 0);
    }
    server->members[member].pid = 0;
}

void consul_server_kill(struct consul_server *server, unsigned member)
{
    end(server, member, SIGKILL);
}

void consul_server_stop(struct consul_server *server, unsigned member)
{
    end(server, member, SIGTERM);
}

void consul_server_freeze(struct consul_server *server, unsigned member)
{
    int status;

    kill(server->members[member].pid, SIGSTOP);
    if (waitpid(server->members[member].pid, &status, WUNTRACED) < 0 || !WIFSTOPPED(status)) {
        fail("member %u did not stop", member);
    }
}

void consul_server_thaw(struct consul_server *server, unsigned member)
{
    kill(server->members[member].pid, SIGCONT);
}

static void remove_below(const char *dir, const char *what)
{
    char command[320];

    snprintf(command, sizeof command, "rm -rf %s%s", dir, what);
    if (system(command) != 0) {
        fail("cannot remove %s", dir);
    }
}

void consul_server_wipe(struct consul_server *server)
{
    remove_below(server->dir, "/m?");
}

void consul_server_close(struct consul_server *server)
{
    for (unsigned i = 0; i < server->members_count; i++) {
        consul_server_kill(server, i);
    }
    remove_below(server->dir, "");
}
