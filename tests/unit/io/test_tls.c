/* TLS sessions against each other, and identities that reload themselves. */
#include "tls_lab.h"

#include <unistd.h>

TestSuite(tls, .init = tls_lab_begin, .fini = tls_lab_finish, .timeout = 60);

/* --- sessions ----------------------------------------------------------------------------------------------------- */

/* Both sides know whom they talk to, by TLS 1.3 and the protocol asked for. */
Test(tls, handshake)
{
    struct pair p;

    pair_open(&p);
    cr_assert(eq(str, (char *)tls_session_name(p.client.s)->name, "b"));
    cr_assert(eq(str, (char *)tls_session_name(p.server.s)->name, "a"));
    cr_assert(eq(str, (char *)tls_session_name(p.server.s)->cluster, "test"));
    cr_assert(eq(int, tls_session_name(p.server.s)->kind, TLS_KIND_NODE));
    cr_assert(tls_session_verified(p.server.s));
    cr_assert(strstr(tls_session_describe(p.client.s), "TLSv1.3") != NULL);
    cr_assert(strstr(tls_session_describe(p.server.s), ", h2") != NULL);
    cr_assert(eq(u64, tls_stats(p.a.tls).handshakes, 1));
    cr_assert(eq(u64, tls_stats(p.b.tls).handshakes, 1));
    pair_close(&p);
}

/* TCP may cut the bytes anywhere. */
Test(tls, every_fragmentation)
{
    static const size_t pieces[] = {1, 2, 3, 5, 7, 64, 1000, 16389};
    struct identity a, b;

    node_identity(&a, "a");
    node_identity(&b, "b");
    for (size_t i = 0; i < sizeof pieces / sizeof pieces[0]; i++) {
        struct end client, server;

        end_open(&client, &a, TLS_CLIENT, NULL);
        end_open(&server, &b, TLS_SERVER, NULL);
        pump(&client, &server, pieces[i]);
        cr_assert(tls_session_ready(client.s) && tls_session_ready(server.s), "pieces of %zu", pieces[i]);
        end_write(&client, "ping", 4);
        end_write(&server, "pong", 4);
        pump(&client, &server, pieces[i]);
        cr_assert(end_has(&server, "ping") && end_has(&client, "pong"), "pieces of %zu", pieces[i]);
        end_close(&client);
        end_close(&server);
    }
    identity_close(&a);
    identity_close(&b);
}

/* Much data both ways, in buffers of every size, arrives whole and in order; and what waits is bounded. */
Test(tls, large_transfers_both_ways)
{
    enum { BYTES = 3 << 20, BUFS = 97 };
    struct pair p;
    uint8_t *bytes = malloc(BYTES);
    size_t sent = 0;

    for (size_t i = 0; i < BYTES; i++) {
        bytes[i] = (uint8_t)(i * 2654435761U >> 13);
    }
    pair_open(&p);
    while (sent < BYTES) {
        uv_buf_t bufs[BUFS];
        unsigned count = 0;
        size_t total = 0;
        struct otr_errmsg msg = {0};

        while (count < BUFS && sent < BYTES) {
            size_t take = (sent * 7919) % 20000 + 1;

            take = take < BYTES - sent ? take : BYTES - sent;
            if (total + take > TLS_WRITE_BYTES_MAX) {
                break;
            }
            bufs[count++] = uv_buf_init((char *)bytes + sent, (unsigned)take);
            sent += take;
            total += take;
        }
        cr_assert(zero(int, tls_session_write(p.client.s, bufs, count, &msg)), "%s", msg.text);
        cr_assert(zero(int, tls_session_write(p.server.s, bufs, count, &msg)), "%s", msg.text);
        cr_assert(le(sz, tls_session_waiting(p.client.s), total + (total / 16384 + 2 * count + 2) * 64));
        pump(&p.client, &p.server, 65536);
    }
    cr_assert(eq(sz, p.server.got_bytes, BYTES));
    cr_assert(eq(sz, p.client.got_bytes, BYTES));
    cr_assert(zero(int, memcmp(p.server.got, bytes, BYTES)));
    cr_assert(zero(int, memcmp(p.client.got, bytes, BYTES)));
    cr_assert(zero(sz, tls_session_waiting(p.client.s)));
    free(bytes);
    pair_close(&p);
}

/* Small buffers share records: 1,000 buffers of 9 bytes cost one record's overhead, not 1,000. */
Test(tls, small_buffers_share_records)
{
    uv_buf_t bufs[1000];
    struct otr_errmsg msg = {0};
    struct pair p;

    pair_open(&p);
    for (size_t i = 0; i < 1000; i++) {
        bufs[i] = uv_buf_init((char *)(uintptr_t) "123456789", 9);
    }
    cr_assert(zero(int, tls_session_write(p.client.s, bufs, 1000, &msg)));
    cr_assert(le(sz, tls_session_waiting(p.client.s), 9000 + 64));
    pump(&p.client, &p.server, 65536);
    cr_assert(eq(sz, p.server.got_bytes, 9000));
    pair_close(&p);
}

/* What is lent stays in place while more is written; nothing grows beyond the bound. */
Test(tls, output_is_lent_and_bounded)
{
    struct pair p;
    struct otr_errmsg msg = {0};
    char *block = calloc(1, TLS_WRITE_BYTES_MAX);
    uv_buf_t plain = uv_buf_init(block, TLS_WRITE_BYTES_MAX);
    uv_buf_t lent, none;
    char *copy;

    pair_open(&p);
    cr_assert(zero(int, tls_session_write(p.client.s, &plain, 1, &msg)));
    cr_assert(tls_session_out(p.client.s, &lent));
    copy = malloc(lent.len);
    memcpy(copy, lent.base, lent.len);
    plain.len = 300 << 10;
    cr_assert(zero(int, tls_session_write(p.client.s, &plain, 1, &msg)));
    cr_assert(eq(int, tls_session_write(p.client.s, &plain, 1, &msg), OTR_BUSY));
    cr_assert(not(tls_session_out(p.client.s, &none)));
    cr_assert(zero(int, memcmp(copy, lent.base, lent.len)));
    end_feed(&p.server, lent.base, lent.len);
    tls_session_sent(p.client.s);
    pump(&p.client, &p.server, 65536);
    cr_assert(eq(sz, p.server.got_bytes, TLS_WRITE_BYTES_MAX + (300 << 10)));
    free(copy);
    free(block);
    pair_close(&p);
}

/* close_notify is an end; a bare FIN is not, for what came may have been cut. */
Test(tls, close_notify_is_told_from_a_cut)
{
    struct pair p;
    struct otr_errmsg msg = {0};
    uv_buf_t buf = uv_buf_init((char *)(uintptr_t) "x", 1);

    pair_open(&p);
    end_write(&p.client, "last words", 10);
    tls_session_close(p.client.s);
    cr_assert(eq(int, tls_session_write(p.client.s, &buf, 1, &msg), OTR_UNAVAIL));
    pump(&p.client, &p.server, 1);
    cr_assert(end_has(&p.server, "last words"));
    cr_assert(tls_session_ended(p.server.s));
    cr_assert(zero(int, tls_session_eof(p.server.s, &msg)));
    pair_close(&p);

    pair_open(&p);
    end_write(&p.client, "last words", 10);
    pump(&p.client, &p.server, 1);
    cr_assert(not(tls_session_ended(p.server.s)));
    cr_assert(eq(int, tls_session_eof(p.server.s, &msg), OTR_PROTO));
    cr_assert(strstr(msg.text, "without TLS's close_notify") != NULL, "%s", msg.text);
    pair_close(&p);
}

/* After the other side said close_notify it may still be answered (half-close). */
Test(tls, half_close)
{
    struct pair p;

    pair_open(&p);
    end_write(&p.client, "question", 8);
    tls_session_close(p.client.s);
    pump(&p.client, &p.server, 65536);
    cr_assert(tls_session_ended(p.server.s));
    end_write(&p.server, "answer", 6);
    tls_session_close(p.server.s);
    pump(&p.client, &p.server, 65536);
    cr_assert(end_has(&p.client, "answer"));
    cr_assert(zero(int, tls_session_eof(p.client.s, &p.client.msg)));
    pair_close(&p);
}

static bool on_plain_stop(void *data, const uint8_t *bytes, size_t count)
{
    end_take(data, bytes, count);
    return false;
}

/* Whoever wants no more gets no more. */
Test(tls, the_receiver_may_stop)
{
    struct pair p;
    uv_buf_t buf;

    pair_open(&p);
    end_write(&p.client, "one", 3);
    end_write(&p.client, "two", 3);
    cr_assert(tls_session_out(p.client.s, &buf));
    cr_assert(zero(int, tls_session_feed(p.server.s, buf.base, buf.len, on_plain_stop, &p.server, &p.server.msg)));
    cr_assert(end_has(&p.server, "one"));
    pair_close(&p);
}

/* A flipped bit anywhere ends the session; none of what it touched is delivered. */
Test(tls, damaged_ciphertext)
{
    for (size_t at = 0; at < 90; at += 7) {
        struct pair p;
        uv_buf_t buf;

        pair_open(&p);
        end_write(&p.client, "something that nobody may change under way, not a bit of it, not at all", 70);
        cr_assert(tls_session_out(p.client.s, &buf));
        cr_assert(lt(sz, at, buf.len));
        buf.base[at] ^= 0x10;
        end_feed(&p.server, buf.base, buf.len);
        if (at != 3) { /* A length that grew waits for more. */
            cr_assert(eq(int, p.server.rv, OTR_PROTO), "byte %zu", at);
        }
        cr_assert(zero(sz, p.server.got_bytes));
        cr_assert(at == 3 || !tls_session_ready(p.server.s));
        pair_close(&p);
    }
}

/* Junk, plain HTTP, an SSLv2 hello: refused with words, at once. */
Test(tls, those_who_speak_no_tls)
{
    static const char *const junk[] = {"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "GET / HTTP/1.1\r\n\r\n", "\x80\x2e\x01\x03",
                                       "\x16\x03\x01\xff\xff\xff\xff"};
    struct identity a;

    node_identity(&a, "a");
    for (size_t i = 0; i < 4; i++) {
        struct end server;

        end_open(&server, &a, TLS_SERVER, NULL);
        end_feed(&server, junk[i], strlen(junk[i]));
        cr_assert(eq(int, server.rv, OTR_PROTO), "%zu: %s", i, server.msg.text);
        cr_assert(i == 3 || strstr(server.msg.text, "speaks no TLS") != NULL, "%zu: %s", i, server.msg.text);
        end_feed(&server, "more", 4);
        end_close(&server);
    }
    cr_assert(eq(u64, tls_stats(a.tls).handshakes_failed, 4));
    identity_close(&a);
}

/* --- reloading ---------------------------------------------------------------------------------------------------- */

/* New connections get the new certificate, existing ones go on. */
Test(tls, reload_while_connected)
{
    struct pair p;
    struct end client, server;
    struct test_cert renamed = test_node_cert(&ca, "test", "renamed");

    pair_open(&p);
    test_cert_write(&renamed, p.b.cert, p.b.key);
    run_until_stats(&p.b, 1, 0);
    end_write(&p.client, "still here", 10);
    pump(&p.client, &p.server, 65536);
    cr_assert(end_has(&p.server, "still here"));
    end_open(&client, &p.a, TLS_CLIENT, NULL);
    end_open(&server, &p.b, TLS_SERVER, NULL);
    pump(&client, &server, 65536);
    cr_assert(tls_session_ready(client.s));
    cr_assert(eq(str, (char *)tls_session_name(client.s)->name, "renamed"));
    end_close(&client);
    end_close(&server);
    test_cert_free(&renamed);
    pair_close(&p);
}

static void append(const char *path, const char *text)
{
    FILE *f = fopen(path, "a");

    fputs(text, f);
    fclose(f);
}

static void overwrite(const char *path, const char *text)
{
    FILE *f = fopen(path, "w");

    fputs(text, f);
    fclose(f);
}

/* Files that cannot be used are refused once each, and the old identity stays in force. */
Test(tls, bad_reload_keeps_the_old)
{
    struct pair p;
    struct end client, server;
    struct test_cert other = test_node_cert(&ca, "test", "other");
    struct test_cert expired = test_cert_make(
        &(struct test_cert_spec){.name = "b", .uri = "outrigger://test/node/b", .ends_s = -60, .issuer = &ca});
    uint64_t expires_s;

    pair_open(&p);
    expires_s = tls_stats(p.b.tls).expires_s;
    cr_assert(gt(u64, expires_s, (uint64_t)time(NULL) + 80000));
    test_cert_write(&other, p.b.cert, NULL); /* The key is still the old one's. */
    run_until_stats(&p.b, 0, 1);
    overwrite(p.b.cert, "-----BEGIN CERTIFICATE-----\nMIIB");
    run_until_stats(&p.b, 0, 2);
    unlink(p.b.key);
    run_until_stats(&p.b, 0, 3);
    test_cert_write(&expired, p.b.cert, p.b.key);
    run_until_stats(&p.b, 0, 4);
    overwrite(p.b.ca, "");
    run_until_stats(&p.b, 0, 5);
    cr_assert(eq(u64, tls_stats(p.b.tls).expires_s, expires_s));
    end_open(&client, &p.a, TLS_CLIENT, NULL);
    end_open(&server, &p.b, TLS_SERVER, NULL);
    pump(&client, &server, 65536);
    cr_assert(tls_session_ready(client.s), "%s", client.msg.text);
    cr_assert(eq(str, (char *)tls_session_name(client.s)->name, "b"));
    end_close(&client);
    end_close(&server);
    test_ca_write(p.b.ca, &ca, NULL);
    test_cert_write(&other, p.b.cert, p.b.key);
    run_until_stats(&p.b, 1, 5);
    test_cert_free(&other);
    test_cert_free(&expired);
    pair_close(&p);
}

/* A file that is still being written is left alone: only what stood still for one look is tried. */
Test(tls, half_written_files_are_waited_for)
{
    struct pair p;
    struct test_cert other = test_node_cert(&ca, "test", "other");

    pair_open(&p);
    unlink(p.b.key);
    for (int i = 0; i < 40; i++) {
        append(p.b.cert, "# still writing\n");
        run_turns(1);
    }
    test_cert_write(&other, p.b.cert, p.b.key);
    run_until_stats(&p.b, 1, 0);
    test_cert_free(&other);
    pair_close(&p);
}
