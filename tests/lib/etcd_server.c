#include "tests/lib/etcd_server.h"
#include "tests/lib/free_port.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { READY_MS = 15000, POLL_MS = 20 };

static void fail(const char *format, ...) __attribute__((noreturn, format(printf, 1, 2)));
static void fail(const char *format, ...)
{
    va_list args;

    va_start(args, format);
    fprintf(stderr, "etcd_server: ");
    vfprintf(stderr, format, args);
    fprintf(stderr, "\n");
    va_end(args);
    abort();
}

static void pause_ms(long ms)
{
    nanosleep(&(struct timespec){.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000}, NULL);
}

/* One HTTP exchange; false when there is no complete answer. `answer` gets its beginning. */
static bool http(uint16_t port, const char *request, char *answer, size_t room)
{
    struct sockaddr_in address = {
        .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK), .sin_port = htons(port)};
    struct timeval patience = {.tv_sec = 2};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    size_t used = 0;
    ssize_t got = -1;

    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    if (connect(fd, (struct sockaddr *)&address, sizeof address) == 0 &&
        send(fd, request, strlen(request), MSG_NOSIGNAL) == (ssize_t)strlen(request)) {
        while (used + 1 < room && (got = recv(fd, answer + used, room - used - 1, 0)) > 0) {
            used += (size_t)got;
        }
    }
    close(fd);
    answer[used] = '\0';
    return got == 0 && used > 0;
}

static bool healthy(const struct etcd_member *member)
{
    char answer[1024];

    return http(member->health_port, "GET /health HTTP/1.1\r\nHost: etcd\r\nConnection: close\r\n\r\n", answer,
                sizeof answer) &&
           strncmp(answer, "HTTP/1.1 200", 12) == 0;
}

static void run(struct etcd_server *server, unsigned index)
{
    struct etcd_member *member = &server->members[index];
    const char *program = getenv("ETCD") != NULL ? getenv("ETCD") : "build/servers/etcd/usr/bin/etcd";
    char name[16], data[280], log[280], peer[64], health[64], ttl[16], cluster[256] = "";
    char cert[300], key[300], ca[300];
    pid_t parent = getpid();
    int fd;

    snprintf(name, sizeof name, "m%u", index);
    snprintf(data, sizeof data, "%s/%s", server->dir, name);
    snprintf(log, sizeof log, "%s/%s.log", server->dir, name);
    snprintf(peer, sizeof peer, "http://127.0.0.1:%u", member->peer_port);
    for (unsigned i = 0; i < server->members_count; i++) {
        size_t used = strlen(cluster);

        snprintf(cluster + used, sizeof cluster - used, "%sm%u=http://127.0.0.1:%u", i > 0 ? "," : "", i,
                 server->members[i].peer_port);
    }
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
    snprintf(health, sizeof health, "http://127.0.0.1:%u", member->health_port);
    snprintf(ttl, sizeof ttl, "%u", server->token_ttl_s != 0 ? server->token_ttl_s : 300);
    snprintf(cert, sizeof cert, "%s/server.crt", server->certs != NULL ? server->certs : "");
    snprintf(key, sizeof key, "%s/server.key", server->certs != NULL ? server->certs : "");
    snprintf(ca, sizeof ca, "%s/ca.crt", server->certs != NULL ? server->certs : "");
    execl(program, "etcd", "--name", name, "--data-dir", data, "--listen-client-urls", member->url,
          "--advertise-client-urls", member->url, "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer,
          "--initial-cluster", cluster, "--initial-cluster-token", server->dir, "--heartbeat-interval", "50",
          "--election-timeout", "500", "--logger", "zap", "--log-level", "error", "--bcrypt-cost", "4",
          "--auth-token-ttl", ttl, "--listen-metrics-urls", health,
          server->certs != NULL ? "--client-cert-auth" : (char *)NULL, "--cert-file", cert, "--key-file", key,
          "--trusted-ca-file", ca, (char *)NULL);
    dprintf(STDERR_FILENO, "cannot run %s: %s\n", program, strerror(errno));
    _exit(127);
}

static void show_logs(const struct etcd_server *server)
{
    char command[320];

    snprintf(command, sizeof command, "tail -n 5 %s/*.log >&2", server->dir);
    if (system(command) != 0) {
        fprintf(stderr, "etcd_server: no logs\n");
    }
}

void etcd_server_init(struct etcd_server *server, unsigned members_count)
{
    *server = (struct etcd_server){.members_count = members_count};
    snprintf(server->dir, sizeof server->dir, "%.180s/outrigger-etcd-XXXXXX",
             getenv("TMPDIR") != NULL ? getenv("TMPDIR") : "/tmp");
    if (mkdtemp(server->dir) == NULL) {
        fail("cannot make a directory: %s", strerror(errno));
    }
    for (unsigned i = 0; i < members_count; i++) {
        server->members[i].client_port = free_port();
        server->members[i].peer_port = free_port();
        server->members[i].health_port = free_port();
        if (server->members[i].client_port == 0 || server->members[i].peer_port == 0 ||
            server->members[i].health_port == 0) {
            fail("no free port");
        }
        snprintf(server->members[i].url, sizeof server->members[i].url, "http://127.0.0.1:%u",
                 server->members[i].client_port);
    }
}

void etcd_server_use_tls(struct etcd_server *server, const char *certs)
{
    server->certs = certs;
    for (unsigned i = 0; i < server->members_count; i++) {
        snprintf(server->members[i].url, sizeof server->members[i].url, "https://127.0.0.1:%u",
                 server->members[i].client_port);
    }
}

void etcd_server_start(struct etcd_server *server)
{
    int waited_ms = 0;

    for (unsigned i = 0; i < server->members_count; i++) {
        if (server->members[i].pid == 0) {
            run(server, i);
        }
    }
    for (unsigned i = 0; i < server->members_count; i++) {
        while (!healthy(&server->members[i])) {
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

unsigned etcd_server_leader(const struct etcd_server *server)
{
    static const char request[] = "POST /v3/maintenance/status HTTP/1.1\r\nHost: etcd\r\nConnection: close\r\n"
                                  "Content-Length: 2\r\n\r\n{}";
    char answer[2048];

    for (int waited_ms = 0; waited_ms < READY_MS; waited_ms += POLL_MS) {
        for (unsigned i = 0; i < server->members_count; i++) {
            const char *self, *leader;

            if (server->members[i].pid != 0 && http(server->members[i].client_port, request, answer, sizeof answer) &&
                (self = strstr(answer, "\"member_id\":")) != NULL && (leader = strstr(answer, "\"leader\":")) != NULL &&
                strtoull(self + strcspn(self, "0123456789"), NULL, 10) ==
                    strtoull(leader + strcspn(leader, "0123456789"), NULL, 10)) {
                return i;
            }
        }
        pause_ms(POLL_MS);
    }
    fail("no leader");
}

void etcd_server_ctl(const struct etcd_server *server, const char *command)
{
    const char *program = getenv("ETCDCTL") != NULL ? getenv("ETCDCTL") : "build/servers/etcd/usr/bin/etcdctl";
    char tls[900] = "", line[4096];

    if (server->certs != NULL) {
        snprintf(tls, sizeof tls,
                 "export ETCDCTL_CACERT=%s/ca.crt ETCDCTL_CERT=%s/client.crt ETCDCTL_KEY=%s/client.key;", server->certs,
                 server->certs, server->certs);
    }
    snprintf(
        line, sizeof line,
        "export ETCDCTL_API=3 ETCDCTL_ENDPOINTS=%s PATH=\"$(realpath \"$(dirname '%s')\"):$PATH\"; %s %s set -e; %s",
        server->members[0].url, program, server->auth ? "export ETCDCTL_USER=root ETCDCTL_PASSWORD=root;" : "", tls,
        command);
    if (system(line) != 0) {
        fail("failed: %s", command);
    }
}

void etcd_server_kill(struct etcd_server *server, unsigned member)
{
    pid_t pid = server->members[member].pid;

    if (pid > 0) {
        kill(pid, SIGKILL);
        waitpid(pid, NULL, 0);
    }
    server->members[member].pid = 0;
}

void etcd_server_freeze(struct etcd_server *server, unsigned member)
{
    int status;

    kill(server->members[member].pid, SIGSTOP);
    if (waitpid(server->members[member].pid, &status, WUNTRACED) < 0 || !WIFSTOPPED(status)) {
        fail("member %u did not stop", member);
    }
}

void etcd_server_thaw(struct etcd_server *server, unsigned member)
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

void etcd_server_wipe(struct etcd_server *server)
{
    char dir[sizeof server->dir];

    remove_below(server->dir, "/m?");
    /* The directory's name is the cluster's token, from which etcd computes the cluster's id. */
    memcpy(dir, server->dir, sizeof dir);
    strcpy(strrchr(server->dir, '-'), "-XXXXXX");
    if (mkdtemp(server->dir) == NULL) {
        fail("cannot make a directory: %s", strerror(errno));
    }
    remove_below(dir, "");
}

void etcd_server_compact(struct etcd_server *server)
{
    static const char whole[] = "{\"key\":\"AA==\",\"range_end\":\"AA==\",\"count_only\":true}";
    const char *found;
    char request[512], answer[2048], body[128];

    snprintf(request, sizeof request,
             "POST /v3/kv/range HTTP/1.1\r\nHost: etcd\r\nConnection: close\r\nContent-Length: %zu\r\n\r\n%s",
             strlen(whole), whole);
    if (!http(server->members[0].client_port, request, answer, sizeof answer) ||
        (found = strstr(answer, "\"revision\":")) == NULL) {
        fail("cannot read the revision: %s", answer);
    }
    snprintf(body, sizeof body, "{\"revision\":\"%llu\",\"physical\":true}",
             strtoull(found + strcspn(found, "0123456789"), NULL, 10));
    snprintf(request, sizeof request,
             "POST /v3/kv/compaction HTTP/1.1\r\nHost: etcd\r\nConnection: close\r\nContent-Length: %zu\r\n\r\n%s",
             strlen(body), body);
    if (!http(server->members[0].client_port, request, answer, sizeof answer) ||
        strncmp(answer, "HTTP/1.1 200", 12) != 0) {
        fail("cannot compact: %s", answer);
    }
}

void etcd_server_close(struct etcd_server *server)
{
    for (unsigned i = 0; i < server->members_count; i++) {
        etcd_server_kill(server, i);
    }
    remove_below(server->dir, "");
}
