/* What compressing entries gains and costs: bench_compress [FILE of float32 vectors of 256 dimensions]. Batches of
 * records of one point each, as a primary sends them, about 1 MiB: plain zstd against byte-shuffled vectors, at several
 * levels; the codec itself as the sidecar uses it comes last. Best of several runs; MB are those of the original. */
#include "sidecar/core/codec.h"
#include "sidecar/peer/compress.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <zstd.h>

enum { DIMENSION = 256, BATCH_BYTES = 1 << 20, RUNS = 15 };

static double now_s(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void random_vector(float *v)
{
    double length = 0;

    for (int d = 0; d < DIMENSION; d++) {
        double u1 = (rand() + 1.0) / (RAND_MAX + 2.0), u2 = (rand() + 1.0) / (RAND_MAX + 2.0);

        v[d] = (float)(sqrt(-2 * log(u1)) * cos(6.283185307 * u2));
        length += v[d] * v[d];
    }
    for (int d = 0; d < DIMENSION; d++) {
        v[d] = (float)(v[d] / sqrt(length));
    }
}

/* vectors NULL: random ones. */
static size_t make_batch(uint8_t *out, const float *vectors, size_t count)
{
    size_t used = 0;

    for (unsigned i = 0;; i++) {
        float vector[DIMENSION];
        char id[32], metadata[96];
        struct record_header h = {
            .kind = RECORD_PUT, .shard = 3, .epoch = 2, .index = 1000 + i, .time_ms = 1790000000000 + i};
        struct otr_point p = {.vector = vector, .dimension = DIMENSION, .id = id, .metadata = metadata};

        if (vectors != NULL) {
            memcpy(vector, vectors + (size_t)(i % count) * DIMENSION, sizeof vector);
        } else {
            random_vector(vector);
        }
        p.id_bytes = (uint16_t)snprintf(id, sizeof id, "package-%u", i);
        p.metadata_bytes =
            (uint32_t)snprintf(metadata, sizeof metadata, "{\"section\":\"libs\",\"size\":%d}", rand() % 100000);
        for (unsigned b = 0; b < 16; b++) {
            h.request_id.bytes[b] = (uint8_t)rand();
        }
        h.body_bytes = (uint32_t)put_body_bytes(&p, 1);
        if (used + record_bytes(h.body_bytes) > BATCH_BYTES) {
            return used;
        }
        put_body_write(out + used + RECORD_HEADER_BYTES, 77, &p, 1);
        record_seal(out + used, &h);
        used += record_bytes(h.body_bytes);
    }
}

static void line(const char *what, size_t bytes, size_t packed, double pack_s, double unpack_s)
{
    printf("  %-26s %7zu -> %7zu  ratio %.3f  compress %5.2f ms/MB (%4.0f MB/s)  restore %5.2f ms/MB\n", what, bytes,
           packed, (double)bytes / (double)packed, pack_s * 1e9 / (double)bytes, (double)bytes / pack_s / 1e6,
           unpack_s * 1e9 / (double)bytes);
}

static double best(double a, double b)
{
    return a == 0 || b < a ? b : a;
}

static void plain_zstd(const uint8_t *data, size_t bytes, int level)
{
    static uint8_t packed[BATCH_BYTES * 2], back[BATCH_BYTES];
    ZSTD_CCtx *c = ZSTD_createCCtx();
    ZSTD_DCtx *d = ZSTD_createDCtx();
    double pack_s = 0, unpack_s = 0;
    size_t size = 0;
    char what[32];

    for (int i = 0; i < RUNS; i++) {
        double t0 = now_s(), t1;

        size = ZSTD_compressCCtx(c, packed, sizeof packed, data, bytes, level);
        t1 = now_s();
        ZSTD_decompressDCtx(d, back, sizeof back, packed, size);
        unpack_s = best(unpack_s, now_s() - t1);
        pack_s = best(pack_s, t1 - t0);
    }
    snprintf(what, sizeof what, "zstd, level %d", level);
    line(what, bytes, size, pack_s, unpack_s);
    ZSTD_freeCCtx(c);
    ZSTD_freeDCtx(d);
}

static void codec(const char *what, uint32_t allowed, const uint8_t *data, size_t bytes)
{
    struct compress_pool *pool = compress_pool_new();
    double pack_s = 0, unpack_s = 0;
    struct compressed out;
    size_t size = 0;

    for (int i = 0; i < RUNS; i++) {
        double t0 = now_s(), t1;
        uint8_t *back;
        size_t back_bytes;

        if (compress_records(pool, allowed, data, bytes, &out) != 0) {
            abort();
        }
        t1 = now_s();
        pack_s = best(pack_s, t1 - t0);
        if (out.data == NULL) {
            continue;
        }
        size = out.bytes;
        t1 = now_s();
        if (compress_restore(pool, out.encoding, out.data, out.bytes, &back, &back_bytes) != 0 || back_bytes != bytes ||
            memcmp(back, data, bytes) != 0) {
            abort();
        }
        unpack_s = best(unpack_s, now_s() - t1);
        free(back);
        free(out.data);
    }
    if (size == 0) {
        printf("  %-26s %7zu    stays plain: a gain below a tenth; compress %5.2f ms/MB\n", what, bytes,
               pack_s * 1e9 / (double)bytes);
    } else {
        line(what, bytes, size, pack_s, unpack_s);
    }
    compress_pool_free(pool);
}

static void all(const char *title, const float *vectors, size_t count)
{
    uint8_t *data = malloc(BATCH_BYTES);
    size_t bytes = make_batch(data, vectors, count);

    printf("%s\n", title);
    for (int level = -3; level <= 3; level += 2) {
        plain_zstd(data, bytes, level);
    }
    codec("sidecar, not shuffled", 1 << COMPRESS_ZSTD, data, bytes);
    codec("sidecar, shuffled", COMPRESS_UNDERSTOOD, data, bytes);
    codec("the same, 16 KiB", COMPRESS_UNDERSTOOD, data, bytes / 64);
    free(data);
}

int main(int argc, char **argv)
{
    FILE *file = argc > 1 ? fopen(argv[1], "rb") : NULL;
    float *vectors;
    size_t count;

    all("random directions, 256 dimensions", NULL, 0);
    if (file != NULL) {
        vectors = malloc((size_t)1000 * DIMENSION * sizeof(float));
        count = fread(vectors, DIMENSION * sizeof(float), 1000, file);
        fclose(file);
        all("vectors of the demo (package descriptions, rounded to five decimals)", vectors, count);
        free(vectors);
    }
    return 0;
}
