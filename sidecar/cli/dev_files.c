#include "sidecar/cli/dev_files.h"

#include <arpa/inet.h>
#include <cjson/cJSON.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
    NODES_DEFAULT = 3,
    SHARDS_DEFAULT = 4,
    REPLICAS_DEFAULT = 3,
    PORT_SEARCH_FIRST = 20000,
    PORT_SEARCH_LAST = 32000,
    SETTINGS_BYTES_MAX = 4096,
};

/* --- programs ----------------------------------------------------------------------------------------------------- */

/* Joins into PATH_MAX bytes; false when they do not suffice. */
static bool join(char out[PATH_MAX], const char *directory, const char *name)
{
    return snprintf(out, PATH_MAX, "%s/%s", directory, name) < PATH_MAX;
}

static bool find_in_path(const char *program, char out[PATH_MAX])
{
    const char *path = getenv("PATH");
    char directory[PATH_MAX];

    while (path != NULL && *path != '\0') {
        size_t bytes = strcspn(path, ":");

        if (bytes > 0 && bytes < sizeof directory) {
            memcpy(directory, path, bytes);
            directory[bytes] = '\0';
            if (join(out, directory, program) && access(out, X_OK) == 0) {
                return true;
            }
        }
        path += bytes + (path[bytes] == ':');
    }
    return false;
}

static int find_self(struct dev_programs *p, char directory[PATH_MAX], struct otr_errmsg *msg)
{
    ssize_t bytes = readlink("/proc/self/exe", p->self, sizeof p->self - 1);

    if (bytes < 0) {
        otr_errmsg_set(msg, "cannot read /proc/self/exe: %s", strerror(errno));
        return OTR_NOTFOUND;
    }
    p->self[bytes] = '\0';
    strcpy(directory, p->self);
    *strrchr(directory, '/') = '\0';
    return 0;
}

/* `backend` is the program's name, too, and that of the script that fetches it. */
static int find_coordinator(struct dev_programs *p, const char *backend, const char *given, const char *directory,
                            struct otr_errmsg *msg)
{
    char usual[64];

    if (given != NULL) {
        if (realpath(given, p->coordinator) != NULL && access(p->coordinator, X_OK) == 0) {
            return 0;
        }
        otr_errmsg_set(msg, "--%s %s is not a program that can be run", backend, given);
        return OTR_NOTFOUND;
    }
    snprintf(usual, sizeof usual, "servers/%s/usr/bin/%s", backend, backend);
    if ((join(p->coordinator, directory, usual) && access(p->coordinator, X_OK) == 0) ||
        find_in_path(backend, p->coordinator)) {
        return 0;
    }
    otr_errmsg_set(msg,
                   "%s was not found: run scripts/fetch-%s.sh, which unpacks it without installing it, or give --%s "
                   "PROGRAM",
                   backend, backend, backend);
    return OTR_NOTFOUND;
}

static int find_server(struct dev_programs *p, const char *given, const char *directory, struct otr_errmsg *msg)
{
    char path[PATH_MAX];
    char *name;

    if (given == NULL && !join(path, directory, "../engines/ruvector/node/server.js")) {
        path[0] = '\0';
    }
    if (realpath(given != NULL ? given : path, p->server) == NULL) {
        otr_errmsg_set(msg, "the RuVector server %s was not found: give --ruvector with the path of its server.js",
                       given != NULL ? given : path);
        return OTR_NOTFOUND;
    }
    strcpy(path, p->server);
    name = strrchr(path, '/');
    *name = '\0';
    if (strlen(path) + sizeof "/node_modules" > sizeof path || access(strcat(path, "/node_modules"), R_OK) != 0) {
        otr_errmsg_set(msg, "RuVector is not installed beside %s: run scripts/fetch-ruvector.sh", p->server);
        return OTR_NOTFOUND;
    }
    if (!find_in_path("node", p->node)) {
        otr_errmsg_set(msg, "Node.js (\"node\") was not found in PATH: RuVector runs on it");
        return OTR_NOTFOUND;
    }
    return 0;
}

int dev_files_programs(struct dev_programs *p, const char *backend, const char *coordinator, const char *server,
                       struct otr_errmsg *msg)
{
    char directory[PATH_MAX];
    int rv;

    rv = find_self(p, directory, msg);
    rv = rv != 0 ? rv : find_coordinator(p, backend, coordinator, directory, msg);
    rv = rv != 0 ? rv : find_server(p, server, directory, msg);
    return rv;
}

/* --- the directory ------------------------------------------------------------------------------------------------ */

int dev_files_write(const char *path, const char *text, struct otr_errmsg *msg)
{
    char temporary[PATH_MAX];
    size_t bytes = strlen(text);
    int fd = -1;

    if (snprintf(temporary, sizeof temporary, "%s.new", path) < (int)sizeof temporary) {
        fd = open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    }
    if (fd < 0 || write(fd, text, bytes) != (ssize_t)bytes || fsync(fd) != 0 || rename(temporary, path) != 0) {
        otr_errmsg_set(msg, "cannot write %s: %s", path, strerror(errno));
        if (fd >= 0) {
            close(fd);
        }
        return OTR_IO;
    }
    close(fd);
    return 0;
}

static int lock_directory(const char *path, int *lock, struct otr_errmsg *msg)
{
    char name[PATH_MAX];

    if (!join(name, path, "lock")) {
        otr_errmsg_set(msg, "the path %s is too long", path);
        return OTR_INVALID;
    }
    *lock = open(name, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (*lock < 0) {
        otr_errmsg_set(msg, "cannot write in %s: %s", path, strerror(errno));
        return OTR_DENIED;
    }
    if (flock(*lock, LOCK_EX | LOCK_NB) != 0) {
        otr_errmsg_set(msg, "another 'outrigger dev' uses %s", path);
        close(*lock);
        return OTR_INUSE;
    }
    return 0;
}

static uint32_t number_of(const cJSON *json, const char *name)
{
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(json, name);

    return cJSON_IsNumber(item) && item->valueint > 0 ? (uint32_t)item->valueint : 0;
}

/* The settings file of an earlier run; *existed is false when there is none. */
static int read_shape(const char *path, struct dev_shape *shape, bool *existed, struct otr_errmsg *msg)
{
    char text[SETTINGS_BYTES_MAX];
    FILE *file = fopen(path, "re");
    size_t bytes;
    cJSON *json;

    *existed = file != NULL;
    if (file == NULL) {
        return 0;
    }
    bytes = fread(text, 1, sizeof text - 1, file);
    fclose(file);
    text[bytes] = '\0';
    json = cJSON_Parse(text);
    *shape = (struct dev_shape){.nodes = number_of(json, "nodes"),
                                .shards = number_of(json, "shards"),
                                .replicas = number_of(json, "replicas")};
    cJSON_Delete(json);
    if (shape->nodes == 0 || shape->shards == 0 || shape->replicas == 0) {
        otr_errmsg_set(msg, "%s is damaged; remove the directory to begin anew", path);
        return OTR_CORRUPT;
    }
    return 0;
}

static int agree(const char *option, uint32_t *asked, uint32_t exists, const char *path, struct otr_errmsg *msg)
{
    if (*asked != 0 && *asked != exists) {
        otr_errmsg_set(msg, "%s holds a cluster with --%s %u; leave the option away, or take another --dir", path,
                       option, exists);
        return OTR_EXISTS;
    }
    *asked = exists;
    return 0;
}

static int settle_shape(const char *path, struct dev_shape *shape, bool *existed, struct otr_errmsg *msg)
{
    char file[PATH_MAX];
    char text[128];
    struct dev_shape had;
    uint32_t replicas = REPLICAS_DEFAULT;
    int rv;

    if (!join(file, path, "cluster.json")) {
        otr_errmsg_set(msg, "the path %s is too long", path);
        return OTR_INVALID;
    }
    rv = read_shape(file, &had, existed, msg);
    if (rv != 0) {
        return rv;
    }
    if (*existed) {
        rv = agree("nodes", &shape->nodes, had.nodes, path, msg);
        rv = rv != 0 ? rv : agree("shards", &shape->shards, had.shards, path, msg);
        rv = rv != 0 ? rv : agree("replicas", &shape->replicas, had.replicas, path, msg);
        return rv;
    }
    shape->nodes = shape->nodes != 0 ? shape->nodes : NODES_DEFAULT;
    shape->shards = shape->shards != 0 ? shape->shards : SHARDS_DEFAULT;
    replicas = replicas < shape->nodes ? replicas : shape->nodes;
    shape->replicas = shape->replicas != 0 ? shape->replicas : replicas;
    if (shape->replicas > shape->nodes) {
        otr_errmsg_set(msg, "%u replicas of each shard need at least as many nodes, not %u", shape->replicas,
                       shape->nodes);
        return OTR_INVALID;
    }
    snprintf(text, sizeof text, "{\"nodes\":%u,\"shards\":%u,\"replicas\":%u}\n", shape->nodes, shape->shards,
             shape->replicas);
    return dev_files_write(file, text, msg);
}

int dev_files_open(const char *directory, char *path, struct dev_shape *shape, bool *existed, int *lock,
                   struct otr_errmsg *msg)
{
    char name[PATH_MAX];
    int rv;

    if ((mkdir(directory, 0700) != 0 && errno != EEXIST) || realpath(directory, path) == NULL) {
        otr_errmsg_set(msg, "cannot make the directory %s: %s", directory, strerror(errno));
        return OTR_IO;
    }
    rv = lock_directory(path, lock, msg);
    if (rv != 0) {
        return rv;
    }
    rv = settle_shape(path, shape, existed, msg);
    if (rv == 0 && (!join(name, path, "log") || (mkdir(name, 0700) != 0 && errno != EEXIST))) {
        otr_errmsg_set(msg, "cannot make the directory %s: %s", name, strerror(errno));
        rv = OTR_IO;
    }
    if (rv == 0 && join(name, path, "dev.json")) {
        unlink(name);
    }
    if (rv != 0) {
        close(*lock);
    }
    return rv;
}

/* --- ports -------------------------------------------------------------------------------------------------------- */

bool dev_files_port_free(uint16_t port)
{
    const struct sockaddr_in address = {
        .sin_family = AF_INET, .sin_port = htons(port), .sin_addr = {.s_addr = htonl(INADDR_LOOPBACK)}};
    int on = 1;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    bool ok;

    if (fd < 0) {
        return false;
    }
    /* As the servers do: connections of an earlier run that linger do not matter. */
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    ok = bind(fd, (const struct sockaddr *)&address, sizeof address) == 0 && listen(fd, 1) == 0;
    close(fd);
    return ok;
}

static bool contains(const uint16_t *ports, size_t count, uint32_t port)
{
    for (size_t i = 0; i < count; i++) {
        if (ports[i] == port) {
            return true;
        }
    }
    return false;
}

uint16_t dev_files_port(uint16_t preferred, const uint16_t *taken, size_t taken_count)
{
    if (!contains(taken, taken_count, preferred) && dev_files_port_free(preferred)) {
        return preferred;
    }
    for (uint32_t port = PORT_SEARCH_FIRST; port <= PORT_SEARCH_LAST; port++) {
        if (!contains(taken, taken_count, port) && dev_files_port_free((uint16_t)port)) {
            return (uint16_t)port;
        }
    }
    return 0;
}
