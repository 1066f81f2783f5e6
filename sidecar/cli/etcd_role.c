/* The shipped role: exactly what Outrigger needs of an etcd with authentication. Leases need no permission of their
 * own: etcd lets any user grant and renew them, and revoke those whose keys he may write. */
#include "sidecar/cli/etcd_role.h"
#include "sidecar/cli/cluster.h"
#include "sidecar/coord/keys.h"

#include <stdio.h>
#include <string.h>

/* In single quotes for the shell, which takes everything in them as it is, but for the quote. */
static void print_quoted(FILE *out, const char *text)
{
    fputc('\'', out);
    for (; *text != '\0'; text++) {
        if (*text == '\'') {
            fputs("'\\''", out);
        } else {
            fputc(*text, out);
        }
    }
    fputc('\'', out);
}

static void print_grants(FILE *out, const char *cluster, const char *user)
{
    char prefix[KEY_MAX];

    key_prefix(prefix, cluster);
    fprintf(out, "etcdctl role add 'outrigger-%s'\n", cluster);
    fprintf(out, "etcdctl role grant-permission 'outrigger-%s' readwrite --prefix=true '%s'\n", cluster, prefix);
    fprintf(out, "etcdctl user grant-role ");
    print_quoted(out, user);
    fprintf(out, " 'outrigger-%s'\n", cluster);
}

void etcd_role_print(FILE *out, const char *cluster, const char *user, const char *password_file)
{
    fprintf(out,
            "# A user of etcd for Outrigger's cluster %s, and a role with all that it needs. Run this where etcdctl\n",
            cluster);
    fprintf(out, "# reaches etcd as root: ETCDCTL_API=3, ETCDCTL_ENDPOINTS, ETCDCTL_USER=root, ETCDCTL_PASSWORD, and\n"
                 "# for TLS ETCDCTL_CACERT, ETCDCTL_CERT, ETCDCTL_KEY. Leases need no permission of their own.\n"
                 "set -e\n");
    fprintf(out, "etcdctl user add ");
    print_quoted(out, user);
    if (password_file != NULL) {
        fprintf(out, " --interactive=false <");
        print_quoted(out, password_file);
        fprintf(out, " # its first word\n");
    } else {
        fprintf(out, " # asks for the new user's password\n");
    }
    print_grants(out, cluster, user);
}

struct settings {
    const char *cluster;
    const char *user;
    const char *password_file;
};

#define OPTION(member) offsetof(struct settings, member)
static const struct option options[] = {
    {"cluster", OPTION_NAME, OPTION(cluster), "NAME", "outrigger", false, 0, 0, "the cluster's name"},
    {"user", OPTION_TEXT, OPTION(user), "NAME", "outrigger", false, 0, 0, "the user to make"},
    {"user-password-file", OPTION_TEXT, OPTION(password_file), "FILE", NULL, false, 0, 0,
     "where etcdctl reads its password (default: it asks)"},
};

static int run(const struct command *command, int argc, char **argv)
{
    struct settings s = {.cluster = NULL};
    struct options_memory memory = {0};
    int exit_code;

    if (!options_read(command, argc, argv, &s, &memory, &exit_code)) {
        return exit_code;
    }
    if (s.user[0] == '\0' || strpbrk(s.user, " \t\n:") != NULL) {
        fprintf(stderr, "outrigger cluster etcd-role: --user: \"%s\" is not a name for etcdctl: no blanks, no colons\n",
                s.user);
        exit_code = EXIT_USAGE;
    } else {
        etcd_role_print(stdout, s.cluster, s.user, s.password_file);
        exit_code = fflush(stdout) == 0 ? EXIT_OK : EXIT_FAILED;
    }
    options_memory_close(&memory);
    return exit_code;
}

const struct command cluster_etcd_role_command = {
    .name = "cluster etcd-role",
    .about =
        "prints the etcdctl commands that make a user for this cluster and the role it needs.\n\n"
        "The role reads and writes the keys below /outrigger/CLUSTER/ and nothing else. Sidecars and commands then\n"
        "take --coordinator-user and --coordinator-password-file. Nothing is changed by printing.",
    .examples = "  outrigger cluster etcd-role --cluster shop --user shop | less\n"
                "  outrigger cluster etcd-role --cluster shop --user shop --user-password-file /run/pw >role.sh\n"
                "      (then, with root's name and password in ETCDCTL_USER and ETCDCTL_PASSWORD:  sh role.sh)\n",
    .options = options,
    .options_count = sizeof options / sizeof options[0],
    .run = run,
};
