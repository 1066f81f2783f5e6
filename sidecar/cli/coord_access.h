/* Settings by which the coordinator is reached safely: TLS files, user and password, token. The same ones for the
 * sidecar and for all commands that ask the coordinator.
 *
 * A password or token never is an argument, for those are seen by everybody on the machine: it comes from a file or
 * from the environment variables OUTRIGGER_COORDINATOR_PASSWORD and OUTRIGGER_COORDINATOR_TOKEN. */
#ifndef OUTRIGGER_CLI_COORD_ACCESS_H
#define OUTRIGGER_CLI_COORD_ACCESS_H

#include "outrigger/backend.h"

struct coord_access {
    const char *user;
    const char *password_file;
    const char *token_file;
    const char *ca_file;
    const char *cert_file;
    const char *key_file;
};

/* Their entries in a command's table of options. NOLINTBEGIN(bugprone-macro-parentheses): offsetof takes none. */
#define COORD_ACCESS_OPTIONS(type, member)                                                                       \
    {"coordinator-user",                                                                                         \
     OPTION_TEXT,                                                                                                \
     offsetof(type, member.user),                                                                                \
     "NAME",                                                                                                     \
     NULL,                                                                                                       \
     false,                                                                                                      \
     0,                                                                                                          \
     0,                                                                                                          \
     "who we are for the coordinator"},                                                                          \
        {"coordinator-password-file",                                                                            \
         OPTION_TEXT,                                                                                            \
         offsetof(type, member.password_file),                                                                   \
         "FILE",                                                                                                 \
         NULL,                                                                                                   \
         false,                                                                                                  \
         0,                                                                                                      \
         0,                                                                                                      \
         "its first line; or set OUTRIGGER_COORDINATOR_PASSWORD"},                                               \
        {"coordinator-token-file",                                                                               \
         OPTION_TEXT,                                                                                            \
         offsetof(type, member.token_file),                                                                      \
         "FILE",                                                                                                 \
         NULL,                                                                                                   \
         false,                                                                                                  \
         0,                                                                                                      \
         0,                                                                                                      \
         "our Consul token: its first line; or set OUTRIGGER_COORDINATOR_TOKEN"},                                \
        {"coordinator-ca",                                                                                       \
         OPTION_TEXT,                                                                                            \
         offsetof(type, member.ca_file),                                                                         \
         "FILE",                                                                                                 \
         NULL,                                                                                                   \
         false,                                                                                                  \
         0,                                                                                                      \
         0,                                                                                                      \
         "who signs its certificate, for https endpoints (default: this system's CAs)"},                         \
        {"coordinator-cert",           OPTION_TEXT, offsetof(type, member.cert_file), "FILE", NULL, false, 0, 0, \
         "our certificate for it, PEM"},                                                                         \
    {                                                                                                            \
        "coordinator-key", OPTION_TEXT, offsetof(type, member.key_file), "FILE", NULL, false, 0, 0,              \
            "the certificate's key (default: in the certificate's file)"                                         \
    }
/* NOLINTEND(bugprone-macro-parentheses) */

/* Fills the members of `config` that say who we are; they point into `access` and the environment. OTR_INVALID with
 * words that name the setting. */
int coord_access_apply(const struct coord_access *access, struct otr_backend_config *config, struct otr_errmsg *msg);

#endif
