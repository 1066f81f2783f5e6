#include "outrigger/err.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static const char *const err_texts[] = {[OTR_OK] = "success",
#define X(code, text) [code] = (text),
                                        OTR_ERR_MAP(X)
#undef X
};

static const char *const err_names[] = {[OTR_OK] = "OTR_OK",
#define X(code, text) [code] = #code,
                                        OTR_ERR_MAP(X)
#undef X
};

const char *otr_strerror(int err)
{
    return err >= 0 && err < OTR_ERR_MAX_ ? err_texts[err] : "unknown error";
}

const char *otr_errname(int err)
{
    return err >= 0 && err < OTR_ERR_MAX_ ? err_names[err] : "OTR_?";
}

/* Cuts `text`, which was truncated to `bytes`, back to the start of a character whose end is missing: half a character
 * makes a whole log line or JSON answer invalid UTF-8. Bytes that are not UTF-8 anyway are left alone. */
static void cut_partial_character(char *text, size_t bytes)
{
    size_t start = bytes;
    size_t need;
    unsigned char lead;

    while (start > 0 && bytes - start < 4 && ((unsigned char)text[start - 1] & 0xC0) == 0x80) {
        start--;
    }
    if (start == 0) {
        return;
    }
    lead = (unsigned char)text[start - 1];
    need = lead >= 0xF0 ? 4 : lead >= 0xE0 ? 3 : lead >= 0xC0 ? 2 : 1;
    if (bytes - (start - 1) < need) {
        text[start - 1] = '\0';
    }
}

/* Ends `text` where it was cut, if it was: `wanted` is what printf would have liked to write. */
static void finish(char *text, int wanted)
{
    if (wanted < 0) {
        text[0] = '\0'; /* An encoding error of %ls: nothing sensible was written. */
    } else if ((size_t)wanted >= OTR_ERRMSG_MAX) {
        cut_partial_character(text, OTR_ERRMSG_MAX - 1);
    }
}

void otr_errmsg_set(struct otr_errmsg *msg, const char *format, ...)
{
    char text[OTR_ERRMSG_MAX]; /* The arguments may point into *msg. */
    va_list args;
    int wanted;

    if (msg == NULL) {
        return;
    }
    va_start(args, format);
    wanted = vsnprintf(text, sizeof text, format, args);
    va_end(args);
    finish(text, wanted);
    memcpy(msg->text, text, strlen(text) + 1);
}

void otr_errmsg_wrap(struct otr_errmsg *msg, const char *format, ...)
{
    char words[OTR_ERRMSG_MAX];
    char text[OTR_ERRMSG_MAX];
    va_list args;
    int wanted;

    if (msg == NULL) {
        return;
    }
    va_start(args, format);
    wanted = vsnprintf(words, sizeof words, format, args);
    va_end(args);
    finish(words, wanted);
    wanted = snprintf(text, sizeof text, msg->text[0] != '\0' ? "%s: %s" : "%s", words, msg->text);
    finish(text, wanted);
    memcpy(msg->text, text, strlen(text) + 1);
}
