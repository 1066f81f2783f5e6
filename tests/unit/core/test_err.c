#include "outrigger/err.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

Test(err, every_code_has_name_and_text)
{
    for (int code = 0; code < OTR_ERR_MAX_; code++) {
        cr_assert(strlen(otr_strerror(code)) > 3);
        cr_assert(strncmp(otr_errname(code), "OTR_", 4) == 0);
    }
    cr_assert_str_eq(otr_errname(OTR_UNKNOWN), "OTR_UNKNOWN");
    cr_assert_str_eq(otr_strerror(OTR_NOMEM), "out of memory");
    cr_assert(otr_strerror(-1) != NULL && otr_strerror(OTR_ERR_MAX_) != NULL && otr_errname(1 << 30) != NULL);
}

Test(err, layers_prefix_their_words)
{
    struct otr_errmsg msg = {0};

    otr_errmsg_wrap(&msg, "open %s", "0003.log");
    cr_assert_str_eq(msg.text, "open 0003.log", "there is nothing yet to prefix");
    otr_errmsg_set(&msg, "record at %d", 8192);
    otr_errmsg_wrap(&msg, "open %s", "0003.log");
    otr_errmsg_wrap(&msg, "open shard %d", 7);
    cr_assert_str_eq(msg.text, "open shard 7: open 0003.log: record at 8192");
    otr_errmsg_set(&msg, "again: %s", msg.text);
    cr_assert_str_eq(msg.text, "again: open shard 7: open 0003.log: record at 8192");
    otr_errmsg_set(NULL, "%s", "nothing happens");
    otr_errmsg_wrap(NULL, "%s", "nothing happens");
}

/* Cut at the end, and never inside a character. */
Test(err, long_texts_are_cut_between_characters)
{
    static const char *const characters[] = {"a", "\xc3\xa4", "\xe2\x82\xac", "\xf0\x9f\x9b\xb6"};

    for (size_t i = 0; i < 4; i++) {
        for (size_t shift = 0; shift < 4; shift++) {
            char text[3 * OTR_ERRMSG_MAX] = "";
            struct otr_errmsg msg = {0};
            size_t width = strlen(characters[i]);

            memset(text, 'x', shift);
            while (strlen(text) < 2 * OTR_ERRMSG_MAX) {
                strcat(text, characters[i]);
            }
            otr_errmsg_set(&msg, "%s", text);
            cr_assert(strlen(msg.text) < OTR_ERRMSG_MAX && strlen(msg.text) + width >= OTR_ERRMSG_MAX);
            cr_assert((strlen(msg.text) - shift) % width == 0, "cut inside a character of %zu bytes", width);
            cr_assert(strncmp(text, msg.text, strlen(msg.text)) == 0);
            otr_errmsg_wrap(&msg, "layer");
            cr_assert((strlen(msg.text) - strlen("layer: ") - shift) % width == 0);
        }
    }
}

/* Bytes that are no UTF-8 at all are kept as far as they fit. */
Test(err, garbage_is_cut_too)
{
    char text[2 * OTR_ERRMSG_MAX];
    struct otr_errmsg msg;

    memset(text, 0x80, sizeof text);
    text[sizeof text - 1] = '\0';
    otr_errmsg_set(&msg, "%s", text);
    cr_assert(strlen(msg.text) >= OTR_ERRMSG_MAX - 5 && strlen(msg.text) < OTR_ERRMSG_MAX);
}
