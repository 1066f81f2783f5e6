/* cluster export: a cluster's durable state as a JSON document, on standard output or in a file. */
#include "sidecar/cli/cluster.h"
#include "sidecar/cli/cluster_document.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct settings {
    struct coord_client_settings coordinator;
    const char *file;
};

static const struct option options[] = {
    COORD_CLIENT_OPTIONS(struct settings, coordinator),
    {"file", OPTION_TEXT, offsetof(struct settings, file), "FILE", "-", false, 0, 0,
     "write it there, in one step (default: standard output)"},
};

static int write_text(int fd, const char *text)
{
    size_t left = strlen(text);

    while (left > 0) {
        ssize_t n = write(fd, text, left);

        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n <= 0) {
            return OTR_IO;
        }
        text += n;
        left -= (size_t)n;
    }
    return 0;
}

/* A file is there whole or as it was. */
static int write_file(const char *path, const char *text, struct otr_errmsg *msg)
{
    char temporary[4096];
    int fd;
    int rv;

    if (snprintf(temporary, sizeof temporary, "%s.XXXXXX", path) >= (int)sizeof temporary) {
        otr_errmsg_set(msg, "--file: the name is too long");
        return OTR_INVALID;
    }
    fd = mkostemp(temporary, O_CLOEXEC);
    if (fd < 0) {
        otr_errmsg_set(msg, "%s: %s", path, strerror(errno));
        return OTR_IO;
    }
    rv = write_text(fd, text);
    if (rv == 0 && fsync(fd) != 0) {
        rv = OTR_IO;
    }
    if (close(fd) != 0 || (rv == 0 && rename(temporary, path) != 0)) {
        rv = OTR_IO;
    }
    if (rv != 0) {
        otr_errmsg_set(msg, "%s: %s", path, strerror(errno));
        unlink(temporary);
    }
    return rv;
}

static int put_out(const char *path, const struct document *d, struct otr_errmsg *msg)
{
    char *text = document_print(d);
    int rv;

    if (text == NULL) {
        otr_errmsg_set(msg, "%s", otr_strerror(OTR_NOMEM));
        return OTR_NOMEM;
    }
    if (strcmp(path, "-") != 0) {
        rv = write_file(path, text, msg);
    } else if ((rv = write_text(STDOUT_FILENO, text)) != 0) {
        otr_errmsg_set(msg, "standard output: %s", strerror(errno));
    }
    free(text);
    return rv;
}

static void tell(const struct settings *s, const struct document *d, const struct cluster_exported *e)
{
    if (e->skipped > 0) {
        fprintf(stderr, "%u keys are left out, for they are none of a cluster's: %s%s\n", e->skipped, e->skipped_name,
                e->skipped > 1 ? ", ..." : "");
    }
    if (e->live > 0) {
        fprintf(stderr,
                "%u sidecars run: what they change from now on is not in it. To move the cluster, stop them first\n",
                e->live);
    }
    fprintf(stderr, "cluster %s: %zu keys%s%s\n", s->coordinator.cluster, d->count,
            strcmp(s->file, "-") != 0 ? " in " : "", strcmp(s->file, "-") != 0 ? s->file : "");
}

static int run(const struct command *command, int argc, char **argv)
{
    struct settings s = {.file = NULL};
    struct options_memory memory = {0};
    struct document d = {.count = 0};
    struct cluster_exported e;
    struct otr_errmsg msg = {0};
    struct coord_client c;
    struct loop loop;
    int exit_code;
    int rv;

    if (!options_read(command, argc, argv, &s, &memory, &exit_code)) {
        return exit_code;
    }
    rv = loop_init(&loop, &msg);
    if (rv != 0) {
        goto out;
    }
    rv = coord_client_open(&c, &loop, &s.coordinator, &msg);
    if (rv == 0) {
        rv = cluster_export(&c, &d, &e, &msg);
        coord_client_close(&c);
    }
    loop_close(&loop);
    rv = rv != 0 ? rv : put_out(s.file, &d, &msg);
    if (rv == 0) {
        tell(&s, &d, &e);
    }
    document_close(&d);
out:
    options_memory_close(&memory);
    if (rv != 0) {
        fprintf(stderr, "outrigger %s: %s\n", command->name, msg.text[0] != '\0' ? msg.text : otr_strerror(rv));
    }
    return rv == 0 ? EXIT_OK : EXIT_FAILED;
}

const struct command cluster_export_command = {
    .name = "cluster export",
    .about = "prints a cluster's durable state as one JSON document.\n\n"
             "Settings, shards with their replicas, collections, nodes: what 'outrigger cluster import' writes into\n"
             "another coordinator, of either kind, when the cluster moves there. One line a key, in a fixed order, so\n"
             "that diff shows what has changed between two of them. No points: those are in the nodes' directories.",
    .examples = "  outrigger cluster export --endpoints http://10.0.0.5:2379 --file photos.json\n"
                "  outrigger cluster export --backend consul --endpoints http://127.0.0.1:8500 | diff photos.json -\n",
    .options = options,
    .options_count = sizeof options / sizeof options[0],
    .run = run,
};
