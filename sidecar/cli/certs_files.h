/* Keys and certificates in files, as PEM. Keys are not encrypted: their protection is the file's mode, 0600.
 *
 * A pair is two files, NAME.key and NAME.crt in one directory. Both are written beside their places first, made
 * durable, then moved there at one go each, the key before the certificate: whoever reads meanwhile finds the old pair,
 * the new one, or for a moment an old certificate with the new key, never half a file. */
#ifndef OUTRIGGER_CLI_CERTS_FILES_H
#define OUTRIGGER_CLI_CERTS_FILES_H

#include "sidecar/cli/certs_make.h"

/* Makes the directory (mode 0700) unless it exists. */
int certs_files_directory(const char *dir, struct otr_errmsg *msg);

/* All certificates of a PEM file, at least one. OTR_NOTFOUND, OTR_IO, OTR_INVALID with words. */
int certs_files_read_chain(const char *path, STACK_OF(X509) * *chain, struct otr_errmsg *msg);

/* OTR_NOTFOUND when one of the files is missing. */
int certs_files_read_pair(const char *dir, const char *name, struct certs_pair *pair, struct otr_errmsg *msg);

/* Whether NAME.key or NAME.crt is there. */
bool certs_files_exist(const char *dir, const char *name);

/* OTR_EXISTS when one of the files exists, unless `replace`. On failure nothing has changed, but for the case that the
 * disk fails between the two moves. */
int certs_files_write_pair(const char *dir, const char *name, const struct certs_pair *pair, bool replace,
                           struct otr_errmsg *msg);

#endif
