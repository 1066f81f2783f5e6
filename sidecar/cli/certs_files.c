#include "sidecar/cli/certs_files.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

enum { KEY_MODE = 0600, CERT_MODE = 0644, DIR_MODE = 0700 };

static int failed(struct otr_errmsg *msg, const char *what, const char *path)
{
    int error = errno;

    otr_errmsg_set(msg, "cannot %s %s: %s", what, path, strerror(error));
    return error == ENOENT ? OTR_NOTFOUND : error == EACCES ? OTR_DENIED : error == ENOSPC ? OTR_NOSPACE : OTR_IO;
}

static int print_path(char out[PATH_MAX], const char *dir, const char *name, const char *end, struct otr_errmsg *msg)
{
    if (snprintf(out, PATH_MAX, "%s/%s%s", dir, name, end) >= PATH_MAX) {
        otr_errmsg_set(msg, "the path %.100s... is too long", dir);
        return OTR_INVALID;
    }
    return 0;
}

int certs_files_directory(const char *dir, struct otr_errmsg *msg)
{
    struct stat st;

    if (mkdir(dir, DIR_MODE) != 0 && errno != EEXIST) {
        return failed(msg, "make the directory", dir);
    }
    if (stat(dir, &st) != 0 || !S_ISDIR(st.st_mode)) {
        otr_errmsg_set(msg, "%s is not a directory", dir);
        return OTR_INVALID;
    }
    return 0;
}

/* --- reading ------------------------------------------------------------------------------------------------------ */

int certs_files_read_chain(const char *path, STACK_OF(X509) * *chain, struct otr_errmsg *msg)
{
    FILE *file = fopen(path, "re");
    STACK_OF(X509) *found = sk_X509_new_null();
    X509 *cert = NULL;
    int rv = 0;

    if (file == NULL) {
        rv = failed(msg, "read", path);
        goto err;
    }
    while (rv == 0 && (cert = PEM_read_X509(file, NULL, NULL, NULL)) != NULL) {
        if (sk_X509_push(found, cert) <= 0) {
            X509_free(cert);
            rv = OTR_NOMEM;
        }
    }
    /* The end of the file reads as "no start line". */
    if (rv == 0 && (sk_X509_num(found) <= 0 || ERR_GET_REASON(ERR_peek_last_error()) != PEM_R_NO_START_LINE)) {
        rv = OTR_INVALID;
        otr_errmsg_set(msg, "%s: certificate %d in it cannot be read: it is damaged or not in PEM", path,
                       sk_X509_num(found) + 1);
    }
    ERR_clear_error();
    fclose(file);
    if (rv != 0) {
        goto err;
    }
    *chain = found;
    return 0;

err:
    sk_X509_pop_free(found, X509_free);
    return rv;
}

/* Without it OpenSSL would ask at the terminal. */
static int no_password(char *buf, int bytes, int writing, void *data)
{
    (void)buf, (void)bytes, (void)writing, (void)data;
    return -1;
}

static int read_key(const char *path, EVP_PKEY **key, struct otr_errmsg *msg)
{
    FILE *file = fopen(path, "re");

    if (file == NULL) {
        return failed(msg, "read", path);
    }
    *key = PEM_read_PrivateKey(file, NULL, no_password, NULL);
    fclose(file);
    ERR_clear_error();
    if (*key == NULL) {
        otr_errmsg_set(msg, "%s holds no private key in PEM, or one with a password", path);
        return OTR_INVALID;
    }
    return 0;
}

int certs_files_read_pair(const char *dir, const char *name, struct certs_pair *pair, struct otr_errmsg *msg)
{
    char path[PATH_MAX];
    int rv;

    rv = print_path(path, dir, name, ".crt", msg);
    rv = rv != 0 ? rv : certs_files_read_chain(path, &pair->chain, msg);
    rv = rv != 0 ? rv : print_path(path, dir, name, ".key", msg);
    rv = rv != 0 ? rv : read_key(path, &pair->key, msg);
    if (rv != 0) {
        certs_pair_close(pair);
    }
    return rv;
}

bool certs_files_exist(const char *dir, const char *name)
{
    char path[PATH_MAX];

    return (print_path(path, dir, name, ".key", NULL) == 0 && access(path, F_OK) == 0) ||
           (print_path(path, dir, name, ".crt", NULL) == 0 && access(path, F_OK) == 0);
}

/* --- writing ------------------------------------------------------------------------------------------------------ */

/* One file on its way to its place. */
struct draft {
    char path[PATH_MAX];
    char temporary[PATH_MAX]; /* "": there is none */
};

static void draft_drop(struct draft *d)
{
    if (d->temporary[0] != '\0') {
        unlink(d->temporary);
        d->temporary[0] = '\0';
    }
}

static bool print_pem(FILE *file, const struct certs_pair *pair, bool is_key)
{
    if (is_key) {
        return PEM_write_PKCS8PrivateKey(file, pair->key, NULL, NULL, 0, NULL, NULL) == 1;
    }
    for (int i = 0; i < sk_X509_num(pair->chain); i++) {
        if (PEM_write_X509(file, sk_X509_value(pair->chain, i)) != 1) {
            return false;
        }
    }
    return true;
}

/* Writes the temporary file and makes it durable. */
static int draft_write(struct draft *d, const char *dir, const char *name, const struct certs_pair *pair, bool is_key,
                       struct otr_errmsg *msg)
{
    char end[64];
    FILE *file = NULL;
    bool ok;
    int rv;
    int fd;

    snprintf(end, sizeof end, "%s.%d.new", is_key ? ".key" : ".crt", (int)getpid());
    rv = print_path(d->path, dir, name, is_key ? ".key" : ".crt", msg);
    rv = rv != 0 ? rv : print_path(d->temporary, dir, name, end, msg);
    if (rv != 0) {
        d->temporary[0] = '\0';
        return rv;
    }
    unlink(d->temporary); /* Of a process that was killed and had our number. */
    fd = open(d->temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, is_key ? KEY_MODE : CERT_MODE);
    if (fd < 0) {
        rv = failed(msg, "write", d->temporary);
        d->temporary[0] = '\0';
        return rv;
    }
    file = fdopen(fd, "w");
    ok = file != NULL && print_pem(file, pair, is_key) && fflush(file) == 0 && fsync(fd) == 0;
    rv = ok ? 0 : failed(msg, "write", d->temporary);
    if (file != NULL) {
        fclose(file);
    } else {
        close(fd);
    }
    ERR_clear_error();
    return rv;
}

/* Moves the file to its place; without `replace` nothing that stands there is touched. */
static int draft_publish(struct draft *d, bool replace, struct otr_errmsg *msg)
{
    if (replace) {
        if (rename(d->temporary, d->path) != 0) {
            return failed(msg, "write", d->path);
        }
        d->temporary[0] = '\0';
        return 0;
    }
    if (link(d->temporary, d->path) != 0) {
        if (errno == EEXIST) {
            otr_errmsg_set(msg, "%s exists; --force replaces it", d->path);
            return OTR_EXISTS;
        }
        return failed(msg, "write", d->path);
    }
    draft_drop(d);
    return 0;
}

static int sync_directory(const char *dir, struct otr_errmsg *msg)
{
    int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int rv = 0;

    if (fd < 0 || fsync(fd) != 0) {
        rv = failed(msg, "make durable", dir);
    }
    if (fd >= 0) {
        close(fd);
    }
    return rv;
}

int certs_files_write_pair(const char *dir, const char *name, const struct certs_pair *pair, bool replace,
                           struct otr_errmsg *msg)
{
    struct draft key = {.temporary = ""};
    struct draft cert = {.temporary = ""};
    int rv;

    rv = draft_write(&key, dir, name, pair, true, msg);
    rv = rv != 0 ? rv : draft_write(&cert, dir, name, pair, false, msg);
    if (rv == 0 && !replace && access(cert.path, F_OK) == 0) {
        otr_errmsg_set(msg, "%s exists; --force replaces it", cert.path);
        rv = OTR_EXISTS;
    }
    rv = rv != 0 ? rv : draft_publish(&key, replace, msg);
    if (rv == 0) {
        rv = draft_publish(&cert, replace, msg);
        if (rv != 0 && !replace) {
            unlink(key.path);
        }
    }
    draft_drop(&key);
    draft_drop(&cert);
    return rv != 0 ? rv : sync_directory(dir, msg);
}
