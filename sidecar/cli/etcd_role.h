/* `outrigger cluster etcd-role`: the shipped role, as commands for a shell. */
#ifndef OUTRIGGER_CLI_ETCD_ROLE_H
#define OUTRIGGER_CLI_ETCD_ROLE_H

#include <stdio.h>

/* password_file NULL: etcdctl asks for the password. No password is ever in a command line. */
void etcd_role_print(FILE *out, const char *cluster, const char *user, const char *password_file);

#endif
