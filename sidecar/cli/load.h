/* `outrigger load`: puts points from a file into a collection. */
#ifndef OUTRIGGER_CLI_LOAD_H
#define OUTRIGGER_CLI_LOAD_H

#include "sidecar/cli/options.h"

extern const struct command load_command;

#endif
