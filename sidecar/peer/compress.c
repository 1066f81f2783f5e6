#include "sidecar/peer/compress.h"

#include "sidecar/core/codec.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <uv.h>
#include <zstd.h>

enum {
    SIZE_BYTES = 4,  /* before the frame */
    COUNT_BYTES = 4, /* of pieces */
    PIECE_BYTES = 8,
    /* At the worst every vector has one float: 8 bytes of description for 4. */
    CONTENT_BYTES_MAX = COUNT_BYTES + 3 * COMPRESS_BYTES_MAX,
    IDLE_MAX = 8, /* contexts kept: as many as threads that compress */
};

/* --- contexts ----------------------------------------------------------------------------------------------------- */

struct buffer {
    uint8_t *data;
    size_t room;
};

struct context {
    ZSTD_CCtx *compressor; /* made when first needed */
    ZSTD_DCtx *decompressor;
    struct buffer content; /* taken apart, in encoding 2 */
    struct buffer pieces;  /* their description */
};

struct compress_pool {
    uv_mutex_t mutex;
    struct context *idle[IDLE_MAX];
    unsigned idle_count;
};

static void context_free(struct context *c)
{
    ZSTD_freeCCtx(c->compressor);
    ZSTD_freeDCtx(c->decompressor);
    free(c->content.data);
    free(c->pieces.data);
    free(c);
}

struct compress_pool *compress_pool_new(void)
{
    struct compress_pool *pool = calloc(1, sizeof *pool);

    if (pool != NULL && uv_mutex_init(&pool->mutex) != 0) {
        free(pool);
        pool = NULL;
    }
    return pool;
}

void compress_pool_free(struct compress_pool *pool)
{
    if (pool == NULL) {
        return;
    }
    while (pool->idle_count > 0) {
        context_free(pool->idle[--pool->idle_count]);
    }
    uv_mutex_destroy(&pool->mutex);
    free(pool);
}

static struct context *context_take(struct compress_pool *pool)
{
    struct context *c = NULL;

    uv_mutex_lock(&pool->mutex);
    if (pool->idle_count > 0) {
        c = pool->idle[--pool->idle_count];
    }
    uv_mutex_unlock(&pool->mutex);
    return c != NULL ? c : calloc(1, sizeof *c);
}

static void context_return(struct compress_pool *pool, struct context *c)
{
    uv_mutex_lock(&pool->mutex);
    if (pool->idle_count < IDLE_MAX) {
        pool->idle[pool->idle_count++] = c;
        c = NULL;
    }
    uv_mutex_unlock(&pool->mutex);
    if (c != NULL) {
        context_free(c);
    }
}

/* What the buffer held is lost. */
static int buffer_reserve(struct buffer *b, size_t bytes)
{
    uint8_t *data;

    if (bytes <= b->room) {
        return 0;
    }
    data = malloc(bytes);
    if (data == NULL) {
        return OTR_NOMEM;
    }
    free(b->data);
    b->data = data;
    b->room = bytes;
    return 0;
}

/* --- taking apart ------------------------------------------------------------------------------------------------- */

static void put_u32(uint8_t *out, uint32_t v)
{
    memcpy(out, &v, sizeof v); /* little-endian, as all that we run on */
}

static uint32_t get_u32(const uint8_t *in)
{
    uint32_t v;

    memcpy(&v, in, sizeof v);
    return v;
}

/* Where the vectors are. */
struct pieces {
    struct buffer *buffer;
    uint32_t count;
    size_t described;    /* bytes of the original in the pieces so far */
    size_t vector_bytes; /* of them */
    int status;
};

static void add_piece(struct pieces *p, size_t vector_at, size_t vector_bytes)
{
    size_t used = (size_t)p->count * PIECE_BYTES;

    if (used + PIECE_BYTES > p->buffer->room) {
        size_t room = p->buffer->room * 2 + (size_t)64 * PIECE_BYTES;
        uint8_t *grown = realloc(p->buffer->data, room);

        if (grown == NULL) {
            p->status = OTR_NOMEM;
            return;
        }
        p->buffer->data = grown;
        p->buffer->room = room;
    }
    put_u32(p->buffer->data + used, (uint32_t)(vector_at - p->described));
    put_u32(p->buffer->data + used + 4, (uint32_t)vector_bytes);
    p->count++;
    p->described = vector_at + vector_bytes;
    p->vector_bytes += vector_bytes;
}

/* Of a PUT's body at data + from. What cannot be read has no vectors: it travels as it is. */
static void find_in_body(struct pieces *p, const uint8_t *data, size_t from, size_t bytes)
{
    struct body_iter it;
    struct otr_point point;
    int rv = body_iter_init(&it, RECORD_PUT, data + from, bytes);

    while (rv == 0 && p->status == 0 && (rv = body_next(&it, &point)) == 0) {
        if (point.dimension > 0) {
            add_piece(p, (size_t)((const uint8_t *)point.vector - data), (size_t)point.dimension * 4);
        }
    }
}

static void find_in_records(struct pieces *p, const uint8_t *data, size_t bytes)
{
    size_t at = 0;

    while (bytes - at >= RECORD_HEADER_BYTES && p->status == 0) {
        struct record_header h;

        if (record_header_read(data + at, &h) != 0 || record_bytes(h.body_bytes) > bytes - at) {
            return;
        }
        if (h.kind == RECORD_PUT) {
            find_in_body(p, data, at + RECORD_HEADER_BYTES, h.body_bytes);
        }
        at += record_bytes(h.body_bytes);
    }
}

static void shuffle(uint8_t *const planes[4], size_t at, const uint8_t *vector, size_t floats)
{
    for (size_t i = 0; i < floats; i++) {
        uint32_t v = get_u32(vector + 4 * i);

        planes[0][at + i] = (uint8_t)v;
        planes[1][at + i] = (uint8_t)(v >> 8);
        planes[2][at + i] = (uint8_t)(v >> 16);
        planes[3][at + i] = (uint8_t)(v >> 24);
    }
}

static void unshuffle(uint8_t *vector, const uint8_t *const planes[4], size_t at, size_t floats)
{
    for (size_t i = 0; i < floats; i++) {
        put_u32(vector + 4 * i, (uint32_t)planes[0][at + i] | (uint32_t)planes[1][at + i] << 8 |
                                    (uint32_t)planes[2][at + i] << 16 | (uint32_t)planes[3][at + i] << 24);
    }
}

/* *content and *content_bytes: what goes into the frame of encoding 2. */
static int take_apart(struct context *c, const struct pieces *p, const uint8_t *data, size_t bytes,
                      size_t *content_bytes)
{
    size_t table = COUNT_BYTES + (size_t)p->count * PIECE_BYTES;
    size_t floats = p->vector_bytes / 4;
    size_t from = 0;
    size_t at = 0;
    uint8_t *plain;
    uint8_t *planes[4];

    *content_bytes = table + bytes;
    if (buffer_reserve(&c->content, *content_bytes) != 0) {
        return OTR_NOMEM;
    }
    put_u32(c->content.data, p->count);
    memcpy(c->content.data + COUNT_BYTES, c->pieces.data, table - COUNT_BYTES);
    plain = c->content.data + table;
    for (size_t i = 0; i < 4; i++) {
        planes[i] = plain + (bytes - p->vector_bytes) + i * floats;
    }
    for (uint32_t i = 0; i < p->count; i++) {
        const uint8_t *piece = c->pieces.data + (size_t)i * PIECE_BYTES;
        uint32_t before = get_u32(piece);
        uint32_t vector = get_u32(piece + 4);

        memcpy(plain, data + from, before);
        shuffle(planes, at, data + from + before, vector / 4);
        plain += before;
        at += vector / 4;
        from += (size_t)before + vector;
    }
    memcpy(plain, data + from, bytes - from);
    return 0;
}

/* --- compressing -------------------------------------------------------------------------------------------------- */

static int pack(struct context *c, const uint8_t *content, size_t content_bytes, size_t original_bytes,
                struct compressed *out)
{
    /* A gain below a tenth is none: what does not fit was not worth it. */
    size_t room = original_bytes - original_bytes / 11;
    size_t packed;

    if (c->compressor == NULL) {
        c->compressor = ZSTD_createCCtx();
    }
    out->data = malloc(room + SIZE_BYTES);
    if (c->compressor == NULL || out->data == NULL) {
        free(out->data);
        out->data = NULL;
        return OTR_NOMEM;
    }
    packed = ZSTD_compressCCtx(c->compressor, out->data + SIZE_BYTES, room, content, content_bytes, COMPRESS_LEVEL);
    if (ZSTD_isError(packed)) {
        free(out->data);
        out->data = NULL;
        out->encoding = COMPRESS_PLAIN;
        return 0;
    }
    put_u32(out->data, (uint32_t)original_bytes);
    out->bytes = SIZE_BYTES + packed;
    return 0;
}

static int compress(struct compress_pool *pool, uint32_t allowed, bool records, const uint8_t *data, size_t bytes,
                    struct compressed *out)
{
    struct context *c;
    struct pieces pieces = {0};
    size_t content_bytes;
    int rv = 0;

    *out = (struct compressed){.encoding = COMPRESS_PLAIN};
    if (bytes == 0 || bytes > COMPRESS_BYTES_MAX || (allowed & COMPRESS_UNDERSTOOD) == 0) {
        return 0;
    }
    c = context_take(pool);
    if (c == NULL) {
        return OTR_NOMEM;
    }
    pieces.buffer = &c->pieces;
    if ((allowed & 1 << COMPRESS_SHUFFLED) != 0 && records) {
        find_in_records(&pieces, data, bytes);
    } else if ((allowed & 1 << COMPRESS_SHUFFLED) != 0) {
        find_in_body(&pieces, data, 0, bytes);
    }
    rv = pieces.status;
    if (rv == 0 && pieces.count > 0) {
        out->encoding = COMPRESS_SHUFFLED;
        rv = take_apart(c, &pieces, data, bytes, &content_bytes);
        rv = rv != 0 ? rv : pack(c, c->content.data, content_bytes, bytes, out);
    } else if (rv == 0 && (allowed & 1 << COMPRESS_ZSTD) != 0) {
        out->encoding = COMPRESS_ZSTD;
        rv = pack(c, data, bytes, bytes, out);
    }
    if (rv != 0) {
        out->encoding = COMPRESS_PLAIN;
    }
    context_return(pool, c);
    return rv;
}

int compress_records(struct compress_pool *pool, uint32_t allowed, const uint8_t *data, size_t bytes,
                     struct compressed *out)
{
    return compress(pool, allowed, true, data, bytes, out);
}

int compress_points(struct compress_pool *pool, uint32_t allowed, const uint8_t *data, size_t bytes,
                    struct compressed *out)
{
    return compress(pool, allowed, false, data, bytes, out);
}

/* --- restoring ---------------------------------------------------------------------------------------------------- */

/* One frame, whole, of exactly so many bytes, and nothing behind it. */
static int unpack(struct context *c, const uint8_t *frame, size_t bytes, uint8_t *out, size_t out_bytes)
{
    size_t got;

    if (c->decompressor == NULL) {
        c->decompressor = ZSTD_createDCtx();
    }
    if (c->decompressor == NULL) {
        return OTR_NOMEM;
    }
    got = ZSTD_decompressDCtx(c->decompressor, out, out_bytes, frame, bytes);
    return !ZSTD_isError(got) && got == out_bytes ? 0 : OTR_PROTO;
}

/* The pieces are what they say they are: they lie within the original, and the rest of the content is as long as it. */
static int check_pieces(const uint8_t *content, size_t content_bytes, size_t original_bytes, uint32_t *count,
                        size_t *vector_bytes)
{
    size_t described = 0;

    *count = get_u32(content);
    *vector_bytes = 0;
    if (*count > (content_bytes - COUNT_BYTES) / PIECE_BYTES ||
        content_bytes - COUNT_BYTES - (size_t)*count * PIECE_BYTES != original_bytes) {
        return OTR_PROTO;
    }
    for (uint32_t i = 0; i < *count; i++) {
        const uint8_t *piece = content + COUNT_BYTES + (size_t)i * PIECE_BYTES;
        size_t vector = get_u32(piece + 4);

        described += (size_t)get_u32(piece) + vector;
        if (vector == 0 || vector % 4 != 0 || described > original_bytes) {
            return OTR_PROTO;
        }
        *vector_bytes += vector;
    }
    return 0;
}

static int put_together(const uint8_t *content, size_t content_bytes, uint8_t *out, size_t bytes)
{
    const uint8_t *plain;
    const uint8_t *planes[4];
    size_t vector_bytes;
    size_t at = 0;
    size_t to = 0;
    uint32_t count;
    int rv = check_pieces(content, content_bytes, bytes, &count, &vector_bytes);

    if (rv != 0) {
        return rv;
    }
    plain = content + COUNT_BYTES + (size_t)count * PIECE_BYTES;
    for (size_t i = 0; i < 4; i++) {
        planes[i] = plain + (bytes - vector_bytes) + i * (vector_bytes / 4);
    }
    for (uint32_t i = 0; i < count; i++) {
        const uint8_t *piece = content + COUNT_BYTES + (size_t)i * PIECE_BYTES;
        uint32_t before = get_u32(piece);
        uint32_t vector = get_u32(piece + 4);

        memcpy(out + to, plain, before);
        unshuffle(out + to + before, planes, at, vector / 4);
        plain += before;
        at += vector / 4;
        to += (size_t)before + vector;
    }
    memcpy(out + to, plain, bytes - to);
    return 0;
}

static int restore(struct context *c, uint32_t encoding, const uint8_t *frame, size_t frame_bytes, size_t content_bytes,
                   uint8_t *out, size_t out_bytes)
{
    int rv;

    if (encoding == COMPRESS_ZSTD) {
        return unpack(c, frame, frame_bytes, out, out_bytes);
    }
    rv = buffer_reserve(&c->content, content_bytes);
    rv = rv != 0 ? rv : unpack(c, frame, frame_bytes, c->content.data, content_bytes);
    return rv != 0 ? rv : put_together(c->content.data, content_bytes, out, out_bytes);
}

int compress_restore(struct compress_pool *pool, uint32_t encoding, const uint8_t *data, size_t bytes, uint8_t **out,
                     size_t *out_bytes)
{
    unsigned long long content_bytes;
    struct context *c;
    size_t original;
    int rv;

    if (encoding != COMPRESS_ZSTD && encoding != COMPRESS_SHUFFLED) {
        return OTR_UNSUPPORTED;
    }
    if (bytes <= SIZE_BYTES) {
        return OTR_PROTO;
    }
    original = get_u32(data);
    if (original > COMPRESS_BYTES_MAX) {
        return OTR_TOOBIG;
    }
    /* Errors and "unknown" are very large numbers. */
    content_bytes = ZSTD_getFrameContentSize(data + SIZE_BYTES, bytes - SIZE_BYTES);
    if (original == 0 || content_bytes > CONTENT_BYTES_MAX ||
        (encoding == COMPRESS_ZSTD
             ? content_bytes != original
             : content_bytes < COUNT_BYTES + original || content_bytes > COUNT_BYTES + 3 * original)) {
        return OTR_PROTO;
    }
    c = context_take(pool);
    *out = c != NULL ? malloc(original) : NULL;
    if (*out == NULL) {
        rv = OTR_NOMEM;
    } else {
        rv = restore(c, encoding, data + SIZE_BYTES, bytes - SIZE_BYTES, (size_t)content_bytes, *out, original);
    }
    if (c != NULL) {
        context_return(pool, c);
    }
    if (rv != 0) {
        free(*out);
        *out = NULL;
        return rv;
    }
    *out_bytes = original;
    return 0;
}
