/* Real etcd servers for tests: child processes on free loopback ports with a data directory of their own. They die with
 * the test, however it ends. All calls block; whatever goes wrong ends the test with a message.
 *
 * Directories are made in $TMPDIR, or /tmp; those of tests that fail stay there. The program is $ETCD, or
 * build/servers/etcd/usr/bin/etcd (scripts/fetch-etcd.sh). */
#ifndef OUTRIGGER_TESTS_ETCD_SERVER_H
#define OUTRIGGER_TESTS_ETCD_SERVER_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

enum { ETCD_MEMBERS_MAX = 3 };

struct etcd_member {
    pid_t pid; /* 0: not running */
    uint16_t client_port;
    uint16_t peer_port;
    uint16_t health_port; /* plain HTTP also with TLS; only for etcd_server_start */
    char url[40];
};

struct etcd_server {
    char dir[256];
    struct etcd_member members[ETCD_MEMBERS_MAX];
    unsigned members_count;
    const char *certs;    /* NULL: plain HTTP. A directory with ca.crt, server.crt and .key, client.crt and .key */
    bool auth;            /* authentication is on: root's password is "root" */
    unsigned token_ttl_s; /* 0: etcd's default */
};

/* Chooses ports and a directory; nothing runs yet, so endpoints can be tried before they exist. Smallest TTL: 1 s. */
void etcd_server_init(struct etcd_server *server, unsigned members_count);
/* Before the first start: TLS, with client certificates, by the files in that directory. Changes the URLs. */
void etcd_server_use_tls(struct etcd_server *server, const char *certs);
/* Runs a command of the shell with etcdctl in its PATH, which is told where the first member is and who root is. */
void etcd_server_ctl(const struct etcd_server *server, const char *command);
/* The member that leads now; waits until there is one. */
unsigned etcd_server_leader(const struct etcd_server *server);
/* Starts all members that do not run (for a restart too: data and ports stay) and waits until they serve. */
void etcd_server_start(struct etcd_server *server);
/* SIGKILL; returns when the process is gone. */
void etcd_server_kill(struct etcd_server *server, unsigned member);
/* Stops and goes on (SIGSTOP, SIGCONT): connections stay open, nothing answers. */
void etcd_server_freeze(struct etcd_server *server, unsigned member);
void etcd_server_thaw(struct etcd_server *server, unsigned member);
/* Throws away the data of members that do not run: a restart makes another cluster. */
void etcd_server_wipe(struct etcd_server *server);
/* Forgets history before the newest revision. */
void etcd_server_compact(struct etcd_server *server);
/* Kills everything and removes the directory. */
void etcd_server_close(struct etcd_server *server);

#endif
