/* TLS sessions: what a connection may bring before and after the handshake. The first byte of the input says which:
 * junk to a server or to a client; or a whole handshake between two of ours and some messages, of which the input flips
 * bits on the way. Whatever comes: no plaintext that was not written, bounded output, and an error is final. OpenSSL's
 * own random bits make no two runs of the second kind equal; what is checked holds for all.
 *
 * Covers: sidecar/io/tls_session.c */
#include "sidecar/io/tls.h"
#include "tests/fuzz/fuzz.h"
#include "tests/lib/temp_dir.h"
#include "tests/lib/test_certs.h"

#include "sidecar/io/log.h"

static struct tls *tls;
static uv_loop_t loop;

/* One identity for all inputs; its certificate is good for both sides. */
static void prepare(void)
{
    struct test_cert ca = test_ca("fuzz");
    struct test_cert cert = test_node_cert(&ca, "test", "a");
    struct tls_config config = {.label = "fuzz", .alpn = "h2", .peer_required = true};
    struct otr_errmsg msg;
    struct temp_dir dir;
    char paths[3][300];

    log_set_level(LOG_ERROR);
    temp_dir_init(&dir);
    snprintf(paths[0], sizeof paths[0], "%s/ca", dir.path);
    snprintf(paths[1], sizeof paths[1], "%s/cert", dir.path);
    snprintf(paths[2], sizeof paths[2], "%s/key", dir.path);
    test_ca_write(paths[0], &ca, NULL);
    test_cert_write(&cert, paths[1], paths[2]);
    config.ca_file = paths[0];
    config.cert_file = paths[1];
    config.key_file = paths[2];
    uv_loop_init(&loop);
    FUZZ_CHECK(tls_new(&tls, &loop, &config, &msg) == 0); /* The loop never runs: nothing is looked at again. */
    temp_dir_close(&dir);
    test_cert_free(&cert);
    test_cert_free(&ca);
}

struct end {
    struct tls_session *s;
    size_t got_bytes;
    size_t may_get; /* plaintext that the other side wrote */
    int rv;
};

static bool on_plain(void *data, const uint8_t *bytes, size_t count)
{
    struct end *e = data;

    FUZZ_CHECK(count > 0 && e->rv == 0);
    for (size_t i = 0; i < count; i++) {
        FUZZ_CHECK(bytes[i] == (uint8_t)(e->got_bytes + i));
    }
    e->got_bytes += count;
    FUZZ_CHECK(e->got_bytes <= e->may_get);
    return true;
}

static void feed(struct end *e, const uint8_t *bytes, size_t count)
{
    char *copy = fuzz_copy(bytes, count, 0);
    struct otr_errmsg msg = {.text = ""};
    int rv = tls_session_feed(e->s, copy, count, on_plain, e, &msg);

    free(copy);
    FUZZ_CHECK(e->rv == 0 || rv != 0);
    FUZZ_CHECK(rv == 0 || (msg.text[0] != '\0' && !tls_session_ready(e->s)));
    FUZZ_CHECK(tls_session_waiting(e->s) < TLS_OUT_BYTES_MAX);
    e->rv = rv;
}

static void open_end(struct end *e, enum tls_role role)
{
    static const struct tls_name expect = {.cluster = "test", .kind = TLS_KIND_NODE, .name = "a"};
    struct otr_errmsg msg;

    *e = (struct end){.may_get = 0};
    FUZZ_CHECK(tls_session_new(&e->s, tls, role, &expect, &msg) == 0);
}

static void junk(enum tls_role role, const uint8_t *data, size_t bytes)
{
    uint64_t state = fuzz_seed(data, bytes);
    struct otr_errmsg msg;
    struct end e;

    open_end(&e, role);
    while (bytes > 0) {
        size_t piece = fuzz_piece(&state, bytes);

        feed(&e, data, piece);
        data += piece;
        bytes -= piece;
    }
    FUZZ_CHECK(!tls_session_ready(e.s) && e.got_bytes == 0);
    FUZZ_CHECK(tls_session_name(e.s) == NULL);
    FUZZ_CHECK(tls_session_eof(e.s, &msg) != 0);
    tls_session_free(e.s);
}

/* Three bytes of input are one change: how many bytes pass before it, and what is flipped. */
struct changes {
    const uint8_t *data;
    size_t bytes;
    size_t passed;
};

static bool move(struct end *from, struct end *to, struct changes *changes)
{
    uv_buf_t buf;
    size_t at = 0;

    if (!tls_session_out(from->s, &buf)) {
        return false;
    }
    while (changes->bytes >= 3) {
        size_t gap = changes->data[0] | (size_t)changes->data[1] << 8;

        if (changes->passed + buf.len - at <= gap) {
            break;
        }
        at += gap - changes->passed;
        buf.base[at] ^= (char)changes->data[2];
        changes->passed = 0;
        changes->data += 3;
        changes->bytes -= 3;
    }
    changes->passed += buf.len - at;
    feed(to, (const uint8_t *)buf.base, buf.len);
    tls_session_sent(from->s);
    return true;
}

static void say(struct end *from, struct end *to, size_t count)
{
    struct otr_errmsg msg;
    uint8_t text[4096];
    uv_buf_t buf = uv_buf_init((char *)text, (unsigned)count);

    for (size_t i = 0; i < count; i++) {
        text[i] = (uint8_t)(to->may_get + i);
    }
    if (tls_session_write(from->s, &buf, 1, &msg) == 0) {
        to->may_get += count;
    }
}

static void handshake(const uint8_t *data, size_t bytes)
{
    struct changes changes = {.data = data, .bytes = bytes};
    struct end client, server;

    open_end(&client, TLS_CLIENT);
    open_end(&server, TLS_SERVER);
    for (unsigned turn = 0; turn < 8; turn++) {
        bool a = move(&client, &server, &changes);
        bool b = move(&server, &client, &changes);

        say(&client, &server, 1 + turn * 100);
        say(&server, &client, 4000);
        if (!a && !b && tls_session_waiting(client.s) + tls_session_waiting(server.s) == 0) {
            break;
        }
    }
    if (bytes < 3) {
        FUZZ_CHECK(server.got_bytes > 0 && client.got_bytes > 0); /* Undisturbed they understand each other. */
    }
    tls_session_free(client.s);
    tls_session_free(server.s);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    if (tls == NULL) {
        prepare();
    }
    if (bytes == 0) {
        return 0;
    }
    switch (data[0] % 3) {
    case 0:
        junk(TLS_SERVER, data + 1, bytes - 1);
        break;
    case 1:
        junk(TLS_CLIENT, data + 1, bytes - 1);
        break;
    default:
        handshake(data + 1, bytes - 1);
        break;
    }
    return 0;
}
