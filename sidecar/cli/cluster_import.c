/* cluster import: writes what `cluster export` printed below an empty prefix of a coordinator. */
#include "sidecar/cli/cluster.h"
#include "sidecar/cli/cluster_document.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct settings {
    struct coord_client_settings coordinator;
    const char *file;
    bool json;
};

static const struct option options[] = {
    COORD_CLIENT_OPTIONS(struct settings, coordinator),
    {"file", OPTION_TEXT, offsetof(struct settings, file), "FILE", NULL, true, 0, 0,
     "the document; - reads standard input"},
    {"json", OPTION_FLAG, offsetof(struct settings, json), NULL, NULL, false, 0, 0, "print the result as JSON"},
};

/* malloc'd text of what is left in `file`. */
static char *read_text(FILE *file, struct otr_errmsg *msg)
{
    size_t room = 1 << 16;
    size_t used = 0;
    char *text = malloc(room);

    while (text != NULL) {
        used += fread(text + used, 1, room - 1 - used, file);
        if (used < room - 1) {
            break;
        }
        room *= 2;
        char *grown = room <= DOCUMENT_BYTES_MAX ? realloc(text, room) : NULL;

        if (grown == NULL) {
            free(text);
            otr_errmsg_set(msg, "%s", room > DOCUMENT_BYTES_MAX ? "more than a document has" : otr_strerror(OTR_NOMEM));
            return NULL;
        }
        text = grown;
    }
    if (text == NULL || ferror(file) || memchr(text, '\0', used) != NULL) {
        otr_errmsg_set(msg, "%s", text == NULL ? otr_strerror(OTR_NOMEM) : ferror(file) ? strerror(errno) : "not text");
        free(text);
        return NULL;
    }
    text[used] = '\0';
    return text;
}

static int read_document(const char *path, struct document *d, struct otr_errmsg *msg)
{
    bool standard = strcmp(path, "-") == 0;
    FILE *file = standard ? stdin : fopen(path, "re");
    char *text = NULL;
    int rv = OTR_IO;

    if (file == NULL) {
        otr_errmsg_set(msg, "%s", strerror(errno));
    } else {
        text = read_text(file, msg);
    }
    if (text != NULL) {
        rv = document_parse(text, d, msg);
    }
    free(text);
    if (file != NULL && !standard) {
        fclose(file);
    }
    if (rv != 0) {
        otr_errmsg_wrap(msg, "%s", standard ? "standard input" : path);
    }
    return rv;
}

static void tell(const struct settings *s, const struct cluster_imported *done)
{
    if (s->json) {
        printf("{\"cluster\":\"%s\",\"keys\":%zu,\"removed\":%zu}\n", s->coordinator.cluster, done->keys,
               done->removed);
        return;
    }
    if (done->removed > 0) {
        printf("removed %zu keys that were left from before\n", done->removed);
    }
    printf("cluster %s is written, %zu keys: its sidecars may be started with --backend %s\n", s->coordinator.cluster,
           done->keys, s->coordinator.backend);
}

static int run(const struct command *command, int argc, char **argv)
{
    struct settings s = {.file = NULL};
    struct options_memory memory = {0};
    struct document d = {.count = 0};
    struct cluster_imported done;
    struct otr_errmsg msg = {0};
    struct coord_client c;
    struct loop loop;
    int exit_code;
    int rv;

    if (!options_read(command, argc, argv, &s, &memory, &exit_code)) {
        return exit_code;
    }
    rv = read_document(s.file, &d, &msg);
    if (rv != 0 || (rv = loop_init(&loop, &msg)) != 0) {
        goto out;
    }
    rv = coord_client_open(&c, &loop, &s.coordinator, &msg);
    if (rv == 0) {
        rv = cluster_import(&c, &d, &done, &msg);
        coord_client_close(&c);
    }
    loop_close(&loop);
    if (rv == 0) {
        tell(&s, &done);
    }
out:
    document_close(&d);
    options_memory_close(&memory);
    if (rv != 0) {
        fprintf(stderr, "outrigger %s: %s\n", command->name, msg.text[0] != '\0' ? msg.text : otr_strerror(rv));
    }
    return rv == 0 ? EXIT_OK : EXIT_FAILED;
}

const struct command cluster_import_command = {
    .name = "cluster import",
    .about = "writes an exported cluster into a coordinator that does not have it.\n\n"
             "The document is checked whole before anything is written, and refused when it is not one whole cluster,\n"
             "or another one's. So is a coordinator that has the cluster, keys of something else in its place, or its\n"
             "sidecars running. Sidecars and other commands see all of it at once or nothing; an interrupted run is\n"
             "simply run again, with this document or another one.",
    .examples = "  outrigger cluster import --backend consul --endpoints http://127.0.0.1:8500 --file photos.json\n",
    .options = options,
    .options_count = sizeof options / sizeof options[0],
    .run = run,
};
