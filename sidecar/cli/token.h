/* `outrigger token`: draws a token for clients or operators. */
#ifndef OUTRIGGER_CLI_TOKEN_H
#define OUTRIGGER_CLI_TOKEN_H

#include "sidecar/cli/options.h"

extern const struct command token_command;

#endif
