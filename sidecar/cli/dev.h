/* `outrigger dev`: a whole cluster on this machine (DESIGN 6.5). */
#ifndef OUTRIGGER_CLI_DEV_H
#define OUTRIGGER_CLI_DEV_H

#include "sidecar/cli/options.h"

extern const struct command dev_command;

#endif
