#include "sidecar/cli/exec_child.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

enum { EXIT_CANNOT = 127 };

int exec_child_run(int argc, char **argv)
{
    if (argc < 3 || strcmp(argv[1], "--") != 0) {
        fprintf(stderr, "usage: outrigger exec-child PPID -- PROGRAM ARGUMENTS\n");
        return EXIT_CANNOT;
    }
    if (prctl(PR_SET_PDEATHSIG, SIGKILL) != 0) {
        fprintf(stderr, "outrigger exec-child: prctl: %s\n", strerror(errno));
        return EXIT_CANNOT;
    }
    /* The parent may have died before the request was made. */
    if (getppid() != (pid_t)strtol(argv[0], NULL, 10)) {
        return EXIT_CANNOT;
    }
    /* curl opens its sockets without close-on-exec: the parent's connections are not the child's. */
    if (close_range(STDERR_FILENO + 1, ~0U, 0) != 0) {
        fprintf(stderr, "outrigger exec-child: close_range: %s\n", strerror(errno));
        return EXIT_CANNOT;
    }
    execvp(argv[2], argv + 2);
    fprintf(stderr, "cannot run %s: %s\n", argv[2], strerror(errno));
    return EXIT_CANNOT;
}
