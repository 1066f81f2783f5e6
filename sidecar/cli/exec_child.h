/* `outrigger exec-child PPID -- PROGRAM ARGUMENTS`: becomes the program, after having asked the kernel to kill it when
 * its parent dies. `outrigger dev` starts everything through it, so that nothing outlives a dev that was killed. The
 * request must come from the child itself, after the fork and before the exec, and libuv has no place for it there. */
#ifndef OUTRIGGER_CLI_EXEC_CHILD_H
#define OUTRIGGER_CLI_EXEC_CHILD_H

/* Returns only when it failed: the exit code. */
int exec_child_run(int argc, char **argv);

#endif
