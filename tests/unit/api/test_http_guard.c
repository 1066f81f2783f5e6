/* Framing that two readers could read differently is refused, byte by byte as well as in one piece. */
#include "sidecar/api/http_guard.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <string.h>

TestSuite(http_guard, .timeout = 10);

#define GET "GET / HTTP/1.1\r\nHost: x\r\n"

static const struct {
    int status;
    const char *head;
} heads[] = {
    {HTTP_GUARD_DONE, GET "\r\n"},
    {HTTP_GUARD_DONE, "GET / HTTP/1.0\r\n\r\n"},
    {HTTP_GUARD_DONE, GET "Content-Length: 5\r\n\r\n"},
    {HTTP_GUARD_DONE, GET "Content-Length: \t5 \r\n\r\n"},
    {HTTP_GUARD_DONE, GET "transfer-encoding: CHUNKED\r\n\r\n"},
    {HTTP_GUARD_DONE, GET "X: \xC3\xA4\r\nEmpty:\r\n\r\n"},
    {HTTP_GUARD_DONE, GET "Expect: 100-continue\r\nContent-Length: 1\r\n\r\n"},
    {HTTP_GUARD_MORE, GET},
    {HTTP_GUARD_MORE, ""},
    {HTTP_GUARD_MORE, GET "Content-Length: 5\r\n\r"},
    /* line ends */
    {400, "GET / HTTP/1.1\nHost: x\n\n"},
    {400, GET "X: y\n\r\n"},
    {400, GET "\n"},
    {400, GET "X: a\rb\r\n\r\n"},
    {400, GET "X: y\r\r\n\r\n"},
    {400, "\r\n"},
    /* request line */
    {400, "GET  / HTTP/1.1\r\nHost: x\r\n\r\n"},
    {400, "GET /a b HTTP/1.1\r\nHost: x\r\n\r\n"},
    {400, "GET /\x01 HTTP/1.1\r\nHost: x\r\n\r\n"},
    {400, "GET / HTTP/1.1 \r\nHost: x\r\n\r\n"},
    {400, "GET /\r\nHost: x\r\n\r\n"},
    {400, "G(T / HTTP/1.1\r\nHost: x\r\n\r\n"},
    {400, " GET / HTTP/1.1\r\nHost: x\r\n\r\n"},
    {400, "GET / HTTP/11\r\nHost: x\r\n\r\n"},
    {400, "GET / http/1.1\r\nHost: x\r\n\r\n"},
    {505, "GET / HTTP/2.0\r\nHost: x\r\n\r\n"},
    {505, "GET / HTTP/1.2\r\nHost: x\r\n\r\n"},
    /* header lines */
    {400, GET " folded: x\r\n\r\n"},
    {400, GET "X: y\r\n folded\r\n\r\n"},
    {400, GET "X: y\r\n\tfolded\r\n\r\n"},
    {400, GET "Content-Length : 5\r\n\r\n"},
    {400, GET "Content-Length\t: 5\r\n\r\n"},
    {400, GET "X Y: 5\r\n\r\n"},
    {400, GET ": 5\r\n\r\n"},
    {400, GET "no colon\r\n\r\n"},
    {400, GET "X\x80: 5\r\n\r\n"},
    {400, GET "X: a\x7F\r\n\r\n"},
    {400, GET "X: a\x01\r\n\r\n"},
    {400, "GET / HTTP/1.1\r\n\r\n"},
    {400, GET "host: y\r\n\r\n"},
    /* lengths */
    {400, GET "Content-Length: 5\r\nContent-Length: 5\r\n\r\n"},
    {400, GET "Content-Length: 5\r\ncontent-length: 6\r\n\r\n"},
    {400, GET "Content-Length: 5, 5\r\n\r\n"},
    {400, GET "Content-Length: +5\r\n\r\n"},
    {400, GET "Content-Length: -5\r\n\r\n"},
    {400, GET "Content-Length: 0x5\r\n\r\n"},
    {400, GET "Content-Length: 5 5\r\n\r\n"},
    {400, GET "Content-Length:\r\n\r\n"},
    {400, GET "Content-Length: 99999999999999999999\r\n\r\n"},
    {400, GET "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n"},
    {400, GET "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n"},
    {400, GET "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n"},
    {501, GET "Transfer-Encoding: gzip, chunked\r\n\r\n"},
    {501, GET "Transfer-Encoding: chunked, identity\r\n\r\n"},
    {501, GET "Transfer-Encoding: identity\r\n\r\n"},
    {501, GET "Transfer-Encoding: xchunked\r\n\r\n"},
    {501, GET "Transfer-Encoding: \x0B"
              "chunked\r\n\r\n"},
    {400, "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n"},
    {417, GET "Expect: a-miracle\r\n\r\n"},
};

Test(http_guard, heads)
{
    for (size_t i = 0; i < sizeof heads / sizeof heads[0]; i++) {
        size_t bytes = strlen(heads[i].head);
        struct http_guard g;
        size_t end = 0;
        int whole;
        int piecewise = HTTP_GUARD_MORE;
        int expected = heads[i].status;

        http_guard_init(&g);
        whole = http_guard_head(&g, heads[i].head, bytes, &end);
        /* A vertical tab is a control character before it is an unknown encoding. */
        expected = strstr(heads[i].head, "\x0B") != NULL ? 400 : expected;
        cr_assert(eq(int, whole, expected), "%s", heads[i].head);
        cr_assert(whole < 400 || strlen(g.why) > 0);
        if (whole == HTTP_GUARD_DONE) {
            cr_assert(eq(sz, end, bytes));
        }
        http_guard_init(&g);
        for (size_t n = 0; n <= bytes && piecewise == HTTP_GUARD_MORE; n++) {
            piecewise = http_guard_head(&g, heads[i].head, n, &end);
        }
        cr_assert(eq(int, piecewise, expected), "piecewise: %s", heads[i].head);
    }
}

Test(http_guard, what_follows_a_head_is_not_looked_at)
{
    static const char text[] = GET "\r\n\n\n garbage";
    struct http_guard g;
    size_t end = 0;

    http_guard_init(&g);
    cr_assert(eq(int, http_guard_head(&g, text, sizeof text - 1, &end), HTTP_GUARD_DONE));
    cr_assert(eq(sz, end, sizeof GET - 1 + 2));
}

Test(http_guard, a_nul_is_refused)
{
    static const char text[] = GET "X: a\0b\r\n\r\n";
    struct http_guard g;
    size_t end = 0;

    http_guard_init(&g);
    cr_assert(eq(int, http_guard_head(&g, text, sizeof text - 1, &end), 400));
}

static const struct {
    int status;
    const char *body;
    size_t rest; /* bytes behind the message */
} bodies[] = {
    {HTTP_GUARD_DONE, "0\r\n\r\n", 0},
    {HTTP_GUARD_DONE, "5\r\nhello\r\n0\r\n\r\n", 0},
    {HTTP_GUARD_DONE, "5\r\nhello\r\n000\r\n\r\nGET /", 5},
    {HTTP_GUARD_DONE, "1;a=b\r\nx\r\n0;c\r\n\r\n", 0},
    {HTTP_GUARD_DONE, "1\r\nx\r\nA\r\n0123456789\r\n0\r\n\r\n", 0},
    {HTTP_GUARD_MORE, "5\r\nhel", 0},
    {HTTP_GUARD_MORE, "5\r\nhello\r\n0\r\n\r", 0},
    {400, "5\nhello\r\n0\r\n\r\n", 0},
    {400, "5\r\nhello\n0\r\n\r\n", 0},
    {400, "5\r\nhelloX\r\n0\r\n\r\n", 0},
    {400, "5\r\nhello\rX0\r\n\r\n", 0},
    {400, " 5\r\nhello\r\n0\r\n\r\n", 0},
    {400, "5 \r\nhello\r\n0\r\n\r\n", 0},
    {400, "+5\r\nhello\r\n0\r\n\r\n", 0},
    {400, "-1\r\nhello\r\n0\r\n\r\n", 0},
    {400, "0x5\r\nhello\r\n0\r\n\r\n", 0},
    {400, "g\r\nhello\r\n0\r\n\r\n", 0},
    {400, "\r\nhello\r\n0\r\n\r\n", 0},
    {400, ";a\r\n\r\n", 0},
    {400, "000000005\r\nhello\r\n0\r\n\r\n", 0},
    {400, "ffffffffffffffff0\r\n", 0},
    {400, "5\rXhello\r\n0\r\n\r\n", 0},
    {400, "1;a\nb\r\nx\r\n0\r\n\r\n", 0},
    {400, "0\r\nTrailer: x\r\n\r\n", 0},
    {400, "0\r\nContent-Length: 4\r\n\r\n", 0},
    {400, "0\r\n\rX", 0},
    {413, "65\r\n", 0},
    {413, "ffffffff\r\n", 0},
    {413,
     "64\r\n" /* 100 bytes */
     "0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789"
     "\r\n1\r\n",
     0},
};

Test(http_guard, chunked_bodies)
{
    for (size_t i = 0; i < sizeof bodies / sizeof bodies[0]; i++) {
        size_t bytes = strlen(bodies[i].body);
        struct http_guard g;
        size_t used = 0;
        size_t sum = 0;
        int rv;

        http_guard_init(&g);
        rv = http_guard_chunks(&g, bodies[i].body, bytes, 100, &used);
        cr_assert(eq(int, rv, bodies[i].status), "%s", bodies[i].body);
        if (rv < 400) {
            cr_assert(eq(sz, used, bytes - bodies[i].rest), "%s", bodies[i].body);
        }
        http_guard_init(&g);
        rv = HTTP_GUARD_MORE;
        for (size_t at = 0; at < bytes && rv == HTTP_GUARD_MORE; at++) {
            rv = http_guard_chunks(&g, bodies[i].body + at, 1, 100, &used);
            sum += used;
        }
        cr_assert(eq(int, rv, bodies[i].status), "piecewise: %s", bodies[i].body);
        if (rv < 400) {
            cr_assert(eq(sz, sum, bytes - bodies[i].rest));
        }
    }
}

Test(http_guard, a_chunk_extension_has_a_limit)
{
    char text[600] = "1;";
    struct http_guard g;
    size_t used;

    memset(text + 2, 'a', 500);
    http_guard_init(&g);
    cr_assert(eq(int, http_guard_chunks(&g, text, 502, 100, &used), 400));
}
