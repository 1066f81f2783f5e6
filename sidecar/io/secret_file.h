/* A password or a token in a file: its first line. Any thread. */
#ifndef OUTRIGGER_IO_SECRET_FILE_H
#define OUTRIGGER_IO_SECRET_FILE_H

#include "outrigger/err.h"

enum { SECRET_FILE_BYTES_MAX = 1024 };

/* The line without its end; `what` it is ("password") stands in the message. OTR_INVALID with words: cannot be read,
 * too long, an empty line. */
OTR_MUST_CHECK int secret_file_read(const char *path, const char *what, char secret[SECRET_FILE_BYTES_MAX],
                                    struct otr_errmsg *msg);

#endif
