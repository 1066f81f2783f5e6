#include "sidecar/cli/token.h"

#include "sidecar/api/tokens.h"
#include "sidecar/io/random.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

struct settings {
    const char *role;
    const char *name;
    const char *file;
};

#define OPTION(member) offsetof(struct settings, member)
static const struct option options[] = {
    {"role", OPTION_TEXT, OPTION(role), "ROLE", NULL, true, 0, 0,
     "read, write or admin; each may do what the last may"},
    {"name", OPTION_TEXT, OPTION(name), "NAME", NULL, false, 0, 0, "whose it is, for the sidecars' logs"},
    {"file", OPTION_TEXT, OPTION(file), "FILE", NULL, false, 0, 0,
     "add its line to this file, made if missing (default: the line goes to standard error)"},
};

/* A last line without its end would swallow ours. */
static bool ends_inside_a_line(int fd, off_t bytes)
{
    char last = '\n';

    return bytes > 0 && pread(fd, &last, 1, bytes - 1) == 1 && last != '\n';
}

/* In one write, and on the disk before anybody is told the token. */
static int append(const char *path, const char *line, struct otr_errmsg *msg)
{
    char text[TOKENS_LINE_BYTES + 1];
    int fd = open(path, O_RDWR | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
    struct stat st;
    int bytes;
    int rv = OTR_IO;

    if (fd < 0 || fstat(fd, &st) != 0) {
        otr_errmsg_set(msg, "cannot open %s: %s", path, strerror(errno));
        goto out;
    }
    bytes = snprintf(text, sizeof text, "%s%s", ends_inside_a_line(fd, st.st_size) ? "\n" : "", line);
    errno = 0;
    if (write(fd, text, (size_t)bytes) != bytes || (fsync(fd) != 0 && errno != EINVAL)) {
        otr_errmsg_set(msg, "cannot write to %s: %s", path, errno != 0 ? strerror(errno) : "not all of it was taken");
        goto out;
    }
    rv = 0;
out:
    if (fd >= 0) {
        close(fd);
    }
    return rv;
}

static int draw(const struct settings *s, struct otr_errmsg *msg)
{
    enum token_role role = token_role_parse(s->role, strlen(s->role));
    const char *name = s->name != NULL ? s->name : "";
    uint8_t bits[TOKENS_RANDOM_BYTES];
    char token[TOKENS_TEXT_BYTES];
    char line[TOKENS_LINE_BYTES];
    int rv = 0;

    if (role == TOKEN_NONE) {
        otr_errmsg_set(msg, "--role: \"%s\" is none of read, write, admin", s->role);
        return OTR_INVALID;
    }
    if (name[0] != '\0' && !token_name_valid(name, strlen(name))) {
        otr_errmsg_set(msg, "--name: 1 to %d of A-Z a-z 0-9 _ . - @", TOKENS_NAME_MAX);
        return OTR_INVALID;
    }
    random_bytes(bits, sizeof bits);
    tokens_draw(bits, role, name, token, line);
    if (s->file != NULL) {
        rv = append(s->file, line, msg);
    } else {
        fprintf(stderr, "Add this line to the file of --tokens:\n%s", line);
    }
    if (rv == 0 && (printf("%s\n", token) < 0 || fflush(stdout) != 0)) {
        otr_errmsg_set(msg, "cannot write the token: %s", strerror(errno));
        rv = OTR_IO;
    }
    explicit_bzero(bits, sizeof bits);
    explicit_bzero(token, sizeof token);
    return rv;
}

static int run(const struct command *command, int argc, char **argv)
{
    struct settings s = {.role = NULL};
    struct options_memory memory = {0};
    struct otr_errmsg msg = {0};
    int exit_code;
    int rv;

    if (!options_read(command, argc, argv, &s, &memory, &exit_code)) {
        return exit_code;
    }
    rv = draw(&s, &msg);
    if (rv != 0) {
        fprintf(stderr, "outrigger token: %s\n", msg.text);
    }
    options_memory_close(&memory);
    return rv == 0 ? EXIT_OK : rv == OTR_INVALID ? EXIT_USAGE : EXIT_FAILED;
}

const struct command token_command = {
    .name = "token",
    .about = "draws a token for clients or operators.\n\n"
             "The token goes to standard output, this once: it is stored nowhere. What sidecars need to know of it,\n"
             "its SHA-256, is one line of the file that they are given with --tokens; they read it again when it\n"
             "changes. Clients send 'Authorization: Bearer TOKEN'; the commands here take --token-file.",
    .examples = "  outrigger token --role admin --name ops --file /etc/outrigger/tokens > ~/.outrigger-token\n"
                "  outrigger sidecar --tokens /etc/outrigger/tokens ...\n"
                "  outrigger cluster status --sidecar http://10.0.0.1:7700 --token-file ~/.outrigger-token\n",
    .options = options,
    .options_count = sizeof options / sizeof options[0],
    .run = run,
};
