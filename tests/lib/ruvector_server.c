#include "tests/lib/ruvector_server.h"

#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <dirent.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define SERVER_JS "engines/ruvector/node/server.js"
#define MODULE    "engines/ruvector/node/node_modules/@ruvector/core/package.json"

enum { START_MS = 20000 };

void ruvector_server_dir(struct ruvector_server *s)
{
    strcpy(s->dir, "/tmp/outrigger-ruvector-XXXXXX");
    cr_assert_not_null(mkdtemp(s->dir), "mkdtemp: %s", strerror(errno));
}

void ruvector_server_dir_empty(struct ruvector_server *s)
{
    DIR *dir = opendir(s->dir);
    struct dirent *entry;

    cr_assert_not_null(dir);
    while ((entry = readdir(dir)) != NULL) {
        unlinkat(dirfd(dir), entry->d_name, 0);
    }
    closedir(dir);
}

static void server_exec(const struct ruvector_server *s, int port, int out, pid_t parent)
{
    char port_text[16];

    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent) {
        _exit(1);
    }
    dup2(out, 1);
    snprintf(port_text, sizeof port_text, "%d", port);
    execlp("node", "node", SERVER_JS, "--data", s->dir, "--port", port_text, (char *)NULL);
    _exit(127);
}

/* Reads the server's output up to its first newline. */
static void read_line(int fd, char *line, size_t line_bytes)
{
    size_t used = 0;

    while (used + 1 < line_bytes) {
        struct pollfd p = {.fd = fd, .events = POLLIN};

        cr_assert(poll(&p, 1, START_MS) == 1, "the server did not say that it listens");
        cr_assert(read(fd, line + used, 1) == 1, "the server ended before it listened");
        if (line[used] == '\n') {
            break;
        }
        used++;
    }
    line[used] = '\0';
}

void ruvector_server_start(struct ruvector_server *s, int port)
{
    pid_t parent = getpid();
    char line[256];
    const char *at;
    int out[2];

    cr_assert(access(MODULE, R_OK) == 0, "RuVector is not installed here: run scripts/fetch-ruvector.sh");
    cr_assert(pipe(out) == 0);
    s->pid = fork();
    cr_assert(s->pid >= 0);
    if (s->pid == 0) {
        server_exec(s, port, out[1], parent);
    }
    close(out[1]);
    read_line(out[0], line, sizeof line);
    close(out[0]);
    at = strstr(line, "http://127.0.0.1:");
    cr_assert_not_null(at, "unexpected first line of the server: %s", line);
    s->port = atoi(at + strlen("http://127.0.0.1:"));
}

void ruvector_server_kill(struct ruvector_server *s)
{
    kill(s->pid, SIGKILL);
    cr_assert(waitpid(s->pid, NULL, 0) == s->pid);
    s->pid = 0;
}

int ruvector_server_free_port(void)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t bytes = sizeof address;
    int fd = socket(AF_INET, SOCK_STREAM, 0);

    cr_assert(fd >= 0 && bind(fd, (struct sockaddr *)&address, sizeof address) == 0);
    cr_assert(getsockname(fd, (struct sockaddr *)&address, &bytes) == 0);
    close(fd);
    return ntohs(address.sin_port);
}
