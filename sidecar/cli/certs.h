/* `outrigger certs`: a certificate authority and certificates for a first secure cluster. */
#ifndef OUTRIGGER_CLI_CERTS_H
#define OUTRIGGER_CLI_CERTS_H

#include "sidecar/cli/options.h"

extern const struct command certs_ca_command;
extern const struct command certs_node_command;
extern const struct command certs_client_command;
extern const struct command certs_all_command;
extern const struct command certs_show_command;

#endif
