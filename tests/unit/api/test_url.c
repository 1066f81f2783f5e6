#include "sidecar/api/url.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <string.h>

TestSuite(url, .timeout = 10);

static int parse(struct url *u, const char *target)
{
    struct otr_errmsg msg = {0};
    int rv = url_parse(u, target, strlen(target), &msg);

    cr_assert(rv == 0 || strlen(msg.text) > 0);
    return rv;
}

Test(url, segments_are_cut_before_they_are_decoded)
{
    struct url u;

    cr_assert(eq(int, parse(&u, "/collections/a%2Fb/points/..%00x?a=1&b&c=%3D%26&"), 0));
    cr_assert(eq(sz, u.segments_count, 4));
    cr_assert(eq(str, (char *)u.segments[1].text, "a/b"));
    cr_assert(eq(sz, u.segments[3].bytes, 4));
    cr_assert(eq(int, memcmp(u.segments[3].text, "..\0x", 4), 0));
    cr_assert(eq(sz, u.params_count, 3));
    cr_assert(eq(str, (char *)u.params[0].value.text, "1"));
    cr_assert(eq(str, (char *)u.params[1].value.text, ""));
    cr_assert(eq(str, (char *)u.params[2].value.text, "=&"));
    url_close(&u);
}

Test(url, odd_targets)
{
    struct url u;

    cr_assert(eq(int, parse(&u, "/"), 0));
    cr_assert(eq(sz, u.segments_count, 1));
    cr_assert(eq(sz, u.segments[0].bytes, 0));
    url_close(&u);
    cr_assert(eq(int, parse(&u, "/a//b/"), 0));
    cr_assert(eq(sz, u.segments_count, 4));
    url_close(&u);
    cr_assert(eq(int, parse(&u, "http://host:80/a?x=y"), 0));
    cr_assert(eq(str, (char *)u.segments[0].text, "a"));
    url_close(&u);
    cr_assert(eq(int, parse(&u, "/1/2/3/4/5/6/7/8"), 0));
    cr_assert(gt(sz, u.segments_count, URL_SEGMENTS_MAX));
    url_close(&u);
    cr_assert(eq(int, parse(&u, "/?"), 0));
    url_close(&u);
}

Test(url, malformed_targets)
{
    static const char *const bad[] = {
        "",     "*",    "a",  "http://host",         "/%", "/%1", "/%g0", "/%0g", "/a?x=%",
        "/a?%", "/%+1", "?a", "/a?1&2&3&4&5&6&7&8&9"};

    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        struct url u;
        cr_assert(eq(int, parse(&u, bad[i]), OTR_INVALID), "%s", bad[i]);
    }
}
