/* A directory of a test's own, for files that must be real. */
#ifndef OUTRIGGER_TESTS_LIB_TEMP_DIR_H
#define OUTRIGGER_TESTS_LIB_TEMP_DIR_H

struct temp_dir {
    char path[256];
};

/* Below $TMPDIR or /tmp. Aborts when it cannot be made. */
void temp_dir_init(struct temp_dir *d);
/* Removes it with the files (not directories) in it. */
void temp_dir_close(struct temp_dir *d);

#endif
