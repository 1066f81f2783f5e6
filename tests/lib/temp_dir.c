#include "tests/lib/temp_dir.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

void temp_dir_init(struct temp_dir *d)
{
    const char *base = getenv("TMPDIR");

    snprintf(d->path, sizeof d->path, "%s/outrigger-test-XXXXXX", base != NULL ? base : "/tmp");
    if (mkdtemp(d->path) == NULL) {
        perror(d->path);
        abort();
    }
}

void temp_dir_close(struct temp_dir *d)
{
    DIR *dir = opendir(d->path);
    const struct dirent *entry;

    while (dir != NULL && (entry = readdir(dir)) != NULL) {
        unlinkat(dirfd(dir), entry->d_name, 0);
    }
    if (dir != NULL) {
        closedir(dir);
    }
    rmdir(d->path);
}
