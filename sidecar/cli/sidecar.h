/* `outrigger sidecar`: the daemon. */
#ifndef OUTRIGGER_CLI_SIDECAR_H
#define OUTRIGGER_CLI_SIDECAR_H

#include "sidecar/cli/options.h"

extern const struct command sidecar_command;

#endif
