/* gRPC on a stream: message framing fed whole and in pieces must give the same messages; names of methods, timeouts and
 * status texts as they stand in headers.
 *
 * Covers: sidecar/peer/grpc.c */
#include "sidecar/peer/grpc.h"
#include "tests/fuzz/fuzz.h"

static struct fuzz_log read_all(const uint8_t *data, size_t bytes, bool whole)
{
    struct grpc_reader reader = {0};
    struct fuzz_log log = {0};
    uint64_t random = fuzz_seed(data, bytes);
    size_t at = 0;
    int rv = 0;

    while (at < bytes && rv == 0) {
        size_t piece = whole ? bytes - at : fuzz_piece(&random, bytes - at);
        uint8_t *copy = (uint8_t *)fuzz_copy(data + at, piece, 0);
        const uint8_t *next = copy;
        size_t left = piece;

        while (left > 0 && rv == 0) {
            const uint8_t *message = NULL;
            size_t message_bytes = 0;
            size_t before = left;

            rv = grpc_reader_feed(&reader, &next, &left, &message, &message_bytes);
            FUZZ_CHECK(rv != 0 || message != NULL || left == 0);
            FUZZ_CHECK(rv != 0 || left < before);
            if (rv == 0 && message != NULL) {
                fuzz_log_add(&log, "message of %zu: ", message_bytes);
                fuzz_log_raw(&log, message, message_bytes);
                FUZZ_CHECK(!grpc_reader_partial(&reader));
            }
        }
        free(copy);
        at += piece;
    }
    fuzz_log_add(&log, "\nend %d, partial %d", rv, rv == 0 && grpc_reader_partial(&reader));
    grpc_reader_close(&reader);
    return log;
}

static void headers(const char *text, size_t bytes)
{
    char copy[256], encoded[3 * sizeof copy + 4], decoded[sizeof copy];
    uint64_t timeout_ms = 0;
    int method = grpc_method_find(text, bytes);
    size_t n;

    FUZZ_CHECK(method >= -1 && method < GRPC_METHODS);
    if (grpc_timeout_parse(text, bytes, &timeout_ms)) {
        FUZZ_CHECK(timeout_ms <= 366ULL * 24 * 3600 * 1000);
    }
    n = grpc_text_decode(copy, sizeof copy, text, bytes);
    FUZZ_CHECK(n < sizeof copy && copy[n] == '\0');
    n = grpc_text_encode(encoded, sizeof encoded, copy);
    FUZZ_CHECK(n < sizeof encoded && encoded[n] == '\0');
    for (size_t i = 0; i < n; i++) {
        FUZZ_CHECK(encoded[i] >= 0x20 && encoded[i] <= 0x7E);
    }
    grpc_text_decode(decoded, sizeof decoded, encoded, n);
    FUZZ_CHECK(strcmp(decoded, copy) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    struct fuzz_log whole = read_all(data, bytes, true);
    struct fuzz_log pieces = read_all(data, bytes, false);
    char *text = fuzz_copy(data, bytes, 0);

    fuzz_log_same(&whole, &pieces, "the messages depend on how their bytes arrive");
    headers(text, bytes);
    free(text);
    return 0;
}
