/* A real RuVector server as child process of a test; it dies with the test. Any failure fails the test. */
#ifndef OUTRIGGER_TESTS_LIB_RUVECTOR_SERVER_H
#define OUTRIGGER_TESTS_LIB_RUVECTOR_SERVER_H

#include <sys/types.h>

struct ruvector_server {
    pid_t pid;
    int port;
    char dir[64]; /* data directory, made by ruvector_server_dir */
};

/* Draws a new, empty data directory. */
void ruvector_server_dir(struct ruvector_server *s);
/* Removes what is in it, keeps the directory. */
void ruvector_server_dir_empty(struct ruvector_server *s);
/* Starts node on s->dir; port 0 takes a free one, which s->port then names. Returns when the server serves. */
void ruvector_server_start(struct ruvector_server *s, int port);
/* SIGKILL, and waits until it is gone. */
void ruvector_server_kill(struct ruvector_server *s);
/* A TCP port that nobody listens on, just now. */
int ruvector_server_free_port(void);

#endif
