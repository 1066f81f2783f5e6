#include "sidecar/io/secret_file.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

int secret_file_read(const char *path, const char *what, char secret[SECRET_FILE_BYTES_MAX], struct otr_errmsg *msg)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t bytes = fd >= 0 ? read(fd, secret, SECRET_FILE_BYTES_MAX) : -1;
    int why = errno;

    if (fd >= 0) {
        close(fd);
    }
    if (bytes < 0) {
        otr_errmsg_set(msg, "cannot read the %s file %s: %s", what, path, strerror(why));
        return OTR_INVALID;
    }
    if (bytes == SECRET_FILE_BYTES_MAX) {
        otr_errmsg_set(msg, "the %s file %s has more than %d bytes", what, path, SECRET_FILE_BYTES_MAX - 1);
        return OTR_INVALID;
    }
    secret[bytes] = '\0';
    secret[strcspn(secret, "\r\n")] = '\0';
    if (secret[0] == '\0') {
        otr_errmsg_set(msg, "the %s file %s begins with an empty line", what, path);
        return OTR_INVALID;
    }
    return 0;
}
