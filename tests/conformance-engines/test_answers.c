/* RuVector's driver and answers that are cut off, late, in pieces or of another kind, at every place: each call ends
 * once, and never with success when something is missing. */
#include "tests/conformance-engines/world.h"
#include "tests/lib/http_stub.h"

#include <criterion/new/assert.h>
#include <stdlib.h>

static const float X[3] = {1, 0, 0};

static struct result r;

/* What the stub answers to the call under test; probes of /health get the truth. */
struct script {
    struct http_stub *stub;
    const char *bytes;
    size_t count;   /* so many of them */
    bool hangs_up;  /* then */
    bool resets;    /* then, harder */
    unsigned asked; /* how often the call came */
};

static const char health[] = "{\"status\":\"healthy\",\"data_id\":\"d1\",\"boot_id\":\"b1\",\"kept\":true}";

static void on_request(void *data, struct http_stub_conn *conn, const struct http_stub_request *req)
{
    struct script *s = data;

    if (strcmp(req->path, "/health") == 0) {
        http_stub_answer(conn, 200, health);
        return;
    }
    s->asked++;
    if (s->count > 0) {
        http_stub_raw(conn, s->bytes, s->count);
    }
    if (s->resets) {
        http_stub_reset(conn);
    } else if (s->hangs_up) {
        http_stub_hang_up(conn);
    }
}

static void stub_init(struct world *w)
{
    struct script *s = calloc(1, sizeof *s);

    s->stub = http_stub_new(&w->loop, on_request, s);
    w->process = s;
    snprintf(w->url, sizeof w->url, "%s", http_stub_url(s->stub));
}

static void stub_start(struct world *w)
{
    (void)w;
}

static void stub_close(struct world *w)
{
    struct script *s = w->process;

    http_stub_close(s->stub);
    free(s);
}

static const struct world_driver world_ruvector_stub = {
    .ops = &otr_engine_ruvector, .init = stub_init, .start = stub_start, .close = stub_close};

#define STUB_CASE(name)                       \
    static void case_##name(struct world *w); \
    CASE_ON(ruvector_stub, name)              \
    static void case_##name(struct world *w)

/* A whole answer with two hits, "a" at 0.5 and "bc" at 1.5, as ruvector_codec.h has it. */
static size_t hits_answer(char *out)
{
    static const char body[] = "OTRV\x01\0\x04\0\x02\0\0\0\0\0\0\0"
                               "\0\0\0\0\0\0\xe0\x3f\0\0\0\0\0\0\xf8\x3f"
                               "\x01\0\0\0\x02\0\0\0"
                               "abc";
    size_t used =
        (size_t)sprintf(out, "HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nContent-Length: %zu\r\n\r\n",
                        sizeof body - 1);

    memcpy(out + used, body, sizeof body - 1);
    return used + sizeof body - 1;
}

STUB_CASE(a_whole_answer_is_understood)
{
    char answer[256];
    struct script *s = w->process;

    s->bytes = answer;
    s->count = hits_answer(answer);
    cr_assert(zero(int, search(w, "c", X, 3, 5, &r)), "%s", r.text);
    cr_assert(eq(sz, r.hits_count, 2));
    cr_assert(eq(str, r.ids[1], "bc"));
}

STUB_CASE(an_answer_that_is_cut_off_anywhere_is_none)
{
    char answer[256];
    struct script *s = w->process;
    size_t whole = hits_answer(answer);

    s->bytes = answer;
    s->hangs_up = true;
    for (size_t cut = 0; cut < whole; cut++) {
        s->count = cut;
        cr_assert(eq(int, search(w, "c", X, 3, 5, &r), OTR_UNREACHABLE), "cut at %zu: %s", cut, r.text);
    }
    cr_assert(ge(u32, s->asked, whole));
}

STUB_CASE(an_answer_that_ends_in_a_reset_is_none)
{
    char answer[256];
    struct script *s = w->process;
    size_t whole = hits_answer(answer);

    s->bytes = answer;
    s->resets = true;
    for (size_t cut = 0; cut < whole; cut += 5) {
        s->count = cut;
        cr_assert(eq(int, search(w, "c", X, 3, 5, &r), OTR_UNREACHABLE), "cut at %zu: %s", cut, r.text);
    }
}

/* One byte changed anywhere: refused, or two hits that the caller verifies; never a crash, never more. */
STUB_CASE(an_answer_that_is_damaged_anywhere_does_no_harm)
{
    char answer[256];
    struct script *s = w->process;
    size_t whole = hits_answer(answer);

    s->bytes = answer;
    s->count = whole;
    s->hangs_up = true;
    w->lies = true;
    for (size_t at = 0; at < whole; at++) {
        answer[at] = (char)(answer[at] ^ 0x15);
        if (search(w, "c", X, 3, 5, &r) == 0) {
            cr_assert(le(sz, r.hits_count, 2));
        }
        answer[at] = (char)(answer[at] ^ 0x15);
    }
    cr_assert(is_up(w));
}

/* What each status means to the caller: a refusal that stays one, or something to repeat. */
STUB_CASE(every_status_has_a_meaning)
{
    static const struct {
        int status;
        int upsert, drop;
    } cases[] = {
        {400, OTR_INVALID, OTR_INVALID},
        {401, OTR_INVALID, OTR_INVALID},
        {404, OTR_NOTFOUND, 0},
        {408, OTR_UNREACHABLE, OTR_UNREACHABLE},
        {413, OTR_INVALID, OTR_INVALID},
        {429, OTR_UNREACHABLE, OTR_UNREACHABLE},
        {500, OTR_INVALID, OTR_INVALID},
        {502, OTR_UNREACHABLE, OTR_UNREACHABLE},
        {503, OTR_UNREACHABLE, OTR_UNREACHABLE},
        {507, OTR_UNREACHABLE, OTR_UNREACHABLE},
    };
    struct otr_point p = point("a", X, 3, NULL);
    struct script *s = w->process;
    char answer[256];

    s->bytes = answer;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        s->count = (size_t)sprintf(answer, "HTTP/1.1 %d Word\r\nContent-Length: 14\r\n\r\n{\"error\":\"so\"}",
                                   cases[i].status);
        cr_assert(eq(int, upsert(w, "c", &p, 1, &r), cases[i].upsert), "status %d", cases[i].status);
        cr_assert(strstr(r.text, "so") != NULL, "the engine's own words: %s", r.text);
        cr_assert(eq(int, drop(w, "c"), cases[i].drop), "status %d", cases[i].status);
    }
}

/* No answer at all: the call ends by its timeout, and calls on other connections are not held up. */
STUB_CASE(silence_ends_by_the_timeout)
{
    struct otr_point p = point("a", X, 3, NULL);
    static struct result slow;
    struct script *s = w->process;
    char answer[256];

    cr_assert(zero(int, start_upsert(w, &slow, "c", &p, 1)));
    AWAIT(w, s->asked == 1);
    s->bytes = answer;
    s->count = hits_answer(answer);
    cr_assert(zero(int, search(w, "c", X, 3, 5, &r)), "%s", r.text);
    cr_assert(eq(u32, slow.calls_count, 0), "the write is still waited for");
    AWAIT(w, slow.calls_count == 1);
    cr_assert(eq(int, slow.status, OTR_TIMEOUT), "%s", slow.text);
    cr_assert(is_up(w), "its probes are answered");
}
