/* Real Consul servers for tests: child processes on free loopback ports with a data directory of their own. They die
 * with the test, however it ends. All calls block; whatever goes wrong ends the test with a message.
 *
 * Directories are made in $TMPDIR, or /tmp; those of tests that fail stay there. The program is $CONSUL, or
 * build/servers/consul/usr/bin/consul. */
#ifndef OUTRIGGER_TESTS_CONSUL_SERVER_H
#define OUTRIGGER_TESTS_CONSUL_SERVER_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

enum { CONSUL_SERVERS_MAX = 3 };

struct consul_member {
    pid_t pid;                      /* 0: not running */
    uint16_t http_port, https_port; /* of 127.0.0.1 */
    char address[16];               /* of its own, for what servers tell each other */
    char url[40];                   /* for clients: https with TLS */
};

struct consul_server {
    char dir[256];
    struct consul_member members[CONSUL_SERVERS_MAX];
    unsigned members_count;
    const char *certs; /* directory with ca.crt, server.crt, server.key; NULL: no TLS */
    bool acl;          /* deny by default; the management token is CONSUL_SERVER_ROOT */
};

#define CONSUL_SERVER_ROOT "5b1e0000-0000-4000-8000-00000000000a"

/* Chooses directory and ports. Nothing runs yet. */
void consul_server_init(struct consul_server *server, unsigned members_count);
/* Before the first start: clients need certificates of the CA, and tokens. */
void consul_server_secure(struct consul_server *server, const char *certs);
/* Starts the members that do not run and waits until each answers consistent reads. */
void consul_server_start(struct consul_server *server);
void consul_server_kill(struct consul_server *server, unsigned member);
void consul_server_stop(struct consul_server *server, unsigned member); /* SIGTERM, waited for */
void consul_server_freeze(struct consul_server *server, unsigned member);
void consul_server_thaw(struct consul_server *server, unsigned member);
/* None runs: the next start makes another cluster on the same ports. */
void consul_server_wipe(struct consul_server *server);
/* Which member leads. */
unsigned consul_server_leader(const struct consul_server *server);
/* A request as root to a member's plain port; the answer's body is the caller's to free; *status may be NULL. */
char *consul_server_ask(const struct consul_server *server, unsigned member, const char *method, const char *path,
                        const char *body, long *status);
void consul_server_close(struct consul_server *server);

#endif
