/* A real etcd with everything that secures it: TLS with client certificates, authentication, and a user who has the
 * role that `outrigger cluster etcd-role` prints. */
#ifndef OUTRIGGER_TESTS_CONFORMANCE_SECURE_H
#define OUTRIGGER_TESTS_CONFORMANCE_SECURE_H

#include "tests/conformance/world.h"
#include "tests/lib/etcd_server.h"

#define SECURE_PASSWORD "pass-of-the-suite"

/* Writes certificates into a directory of this process, good ones and bad ones: ca, server, client (without common
 * name), client2 (another good one), named (with one), stranger (by another CA: stranger-ca), expired, server-only.
 * Each is NAME.crt and NAME.key. */
void secure_certs(void);
/* Path of a file in that directory, "" the directory itself. */
const char *secure_path(const char *file);
void secure_write_line(const char *path, const char *text);
/* Removes it. */
void secure_close(void);
/* w->access: the good CA and client certificate, the user, her password's file. */
void secure_access(struct world *w);
/* Makes root, the role and the user, and switches authentication on. */
void secure_auth(struct etcd_server *server);

#endif
