#include "sidecar/log/journal_format.h"

#include <assert.h>
#include <stdio.h>

static void put32(uint8_t **out, uint32_t v)
{
    memcpy(*out, &v, sizeof v);
    *out += sizeof v;
}

static void put64(uint8_t **out, uint64_t v)
{
    memcpy(*out, &v, sizeof v);
    *out += sizeof v;
}

static uint32_t get32(const uint8_t **in)
{
    uint32_t v;
    memcpy(&v, *in, sizeof v);
    *in += sizeof v;
    return v;
}

static uint64_t get64(const uint8_t **in)
{
    uint64_t v;
    memcpy(&v, *in, sizeof v);
    *in += sizeof v;
    return v;
}

void segment_name(char name[SEGMENT_NAME_BYTES], uint32_t number)
{
    assert(number >= 1 && number <= SEGMENT_NUMBER_MAX);
    snprintf(name, SEGMENT_NAME_BYTES, "%08u.log", number);
}

uint32_t segment_number_of(const char *name)
{
    uint32_t number = 0;

    if (strlen(name) != 12 || strcmp(name + 8, ".log") != 0) {
        return 0;
    }
    for (size_t i = 0; i < 8; i++) {
        if (name[i] < '0' || name[i] > '9') {
            return 0;
        }
        number = number * 10 + (uint32_t)(name[i] - '0');
    }
    return number <= SEGMENT_NUMBER_MAX ? number : 0;
}

void kept_name(char name[KEPT_NAME_BYTES], uint32_t number, bool finished)
{
    assert(number >= KEPT_NUMBER_FIRST && number <= KEPT_NUMBER_MAX);
    snprintf(name, KEPT_NAME_BYTES, "%08u.%s", number, finished ? "kept" : "new");
}

uint32_t kept_number_of(const char *name, bool *finished)
{
    uint32_t number = 0;

    if (strlen(name) < 12 || (strcmp(name + 8, ".kept") != 0 && strcmp(name + 8, ".new") != 0)) {
        return 0;
    }
    for (size_t i = 0; i < 8; i++) {
        if (name[i] < '0' || name[i] > '9') {
            return 0;
        }
        number = number * 10 + (uint32_t)(name[i] - '0');
    }
    *finished = name[9] == 'k';
    return number >= KEPT_NUMBER_FIRST && number <= KEPT_NUMBER_MAX ? number : 0;
}

/* --- SEGMENT ------------------------------------------------------------------------------------------------------ */

static size_t segment_body_bytes(const struct segment_head *head)
{
    return SEGMENT_BODY_BYTES + head->damages_count * sizeof(journal_place) + head->identity_bytes;
}

size_t segment_head_bytes(const struct segment_head *head)
{
    return record_bytes(segment_body_bytes(head));
}

void segment_head_write(uint8_t *out, const struct segment_head *head)
{
    struct record_header h = {
        .kind = RECORD_SEGMENT, .index = head->number, .body_bytes = (uint32_t)segment_body_bytes(head)};
    uint8_t *at = out + RECORD_HEADER_BYTES;

    put32(&at, JOURNAL_FORMAT);
    put32(&at, head->number);
    put64(&at, head->journal_id);
    put64(&at, head->previous_bytes);
    put32(&at, head->identity_bytes);
    put32(&at, head->damages_count);
    for (uint32_t i = 0; i < head->damages_count; i++) {
        put64(&at, head->damages[i]);
    }
    memcpy(at, head->identity, head->identity_bytes);
    record_seal(out, &h);
}

int segment_head_read(const uint8_t *body, size_t bytes, struct segment_head *head)
{
    if (bytes < SEGMENT_BODY_BYTES) {
        return OTR_CORRUPT;
    }
    head->format = get32(&body);
    head->number = get32(&body);
    head->journal_id = get64(&body);
    head->previous_bytes = get64(&body);
    head->identity_bytes = get32(&body);
    head->damages_count = get32(&body);
    if (head->identity_bytes > IDENTITY_BYTES_MAX || head->damages_count > SEGMENT_DAMAGES_MAX ||
        bytes != segment_body_bytes(head)) {
        return OTR_CORRUPT;
    }
    head->damages = (const journal_place *)(const void *)body; /* Bodies are aligned to 8. */
    head->identity = (const char *)body + head->damages_count * sizeof(journal_place);
    return 0;
}

/* --- BATCH -------------------------------------------------------------------------------------------------------- */

void batch_head_write(uint8_t *out, const struct batch_head *head, journal_place place)
{
    struct record_header h = {.kind = RECORD_BATCH, .index = head->number, .body_bytes = BATCH_BODY_BYTES};
    uint8_t *at = out + RECORD_HEADER_BYTES;

    put64(&at, head->journal_id);
    put64(&at, place);
    put64(&at, head->number);
    put64(&at, head->bytes);
    put64(&at, head->shards);
    put64(&at, head->durable);
    record_seal(out, &h);
}

int batch_head_read(const uint8_t *bytes, size_t available, journal_place place, struct batch_head *head)
{
    const uint8_t *at = bytes + RECORD_HEADER_BYTES;
    struct record_header h;

    if (available < BATCH_BYTES || record_header_read(bytes, &h) != 0 || h.kind != RECORD_BATCH ||
        h.body_bytes != BATCH_BODY_BYTES || record_read(bytes, BATCH_BYTES, &h) != 0) {
        return OTR_CORRUPT;
    }
    head->journal_id = get64(&at);
    if (get64(&at) != place) {
        return OTR_CORRUPT;
    }
    head->number = get64(&at);
    head->bytes = get64(&at);
    head->shards = get64(&at);
    head->durable = get64(&at);
    if (head->number == 0 || head->bytes < BATCH_BYTES || head->bytes % 8 != 0 || head->bytes > 1ULL << 40) {
        return OTR_CORRUPT;
    }
    return 0;
}

/* --- KEPT_HEAD ---------------------------------------------------------------------------------------------------- */

static size_t kept_body_bytes(uint32_t lines_count, uint32_t identity_bytes)
{
    return KEPT_BODY_BYTES + (size_t)lines_count * KEPT_LINE_BYTES + identity_bytes;
}

size_t kept_head_bytes(uint32_t lines_count, uint32_t identity_bytes)
{
    return record_bytes(kept_body_bytes(lines_count, identity_bytes));
}

void kept_head_write(uint8_t *out, const struct kept_head *head, const struct kept_line *lines)
{
    struct record_header h = {.kind = RECORD_KEPT_HEAD,
                              .index = head->number,
                              .body_bytes = (uint32_t)kept_body_bytes(head->lines_count, head->identity_bytes)};
    uint8_t *at = out + RECORD_HEADER_BYTES;

    put32(&at, JOURNAL_FORMAT);
    put32(&at, head->number);
    put64(&at, head->journal_id);
    put32(&at, head->first);
    put32(&at, head->last);
    put64(&at, head->previous_bytes);
    put64(&at, head->batch_first);
    put64(&at, head->batch_number);
    put64(&at, head->bytes);
    put64(&at, head->records);
    put32(&at, head->identity_bytes);
    put32(&at, head->lines_count);
    for (uint32_t i = 0; i < head->lines_count; i++) {
        put32(&at, lines[i].shard);
        put32(&at, (lines[i].reset ? 1U : 0U) | (lines[i].unfinished ? 2U : 0U) | (lines[i].cut_only ? 4U : 0U));
        put64(&at, lines[i].before);
        put64(&at, lines[i].after.epoch);
        put64(&at, lines[i].after.index);
        put64(&at, lines[i].clean);
    }
    memcpy(at, head->identity, head->identity_bytes);
    record_seal(out, &h);
}

int kept_head_read(const uint8_t *body, size_t bytes, struct kept_head *head)
{
    const uint8_t *at = body;

    if (bytes < KEPT_BODY_BYTES) {
        return OTR_CORRUPT;
    }
    head->format = get32(&at);
    head->number = get32(&at);
    head->journal_id = get64(&at);
    head->first = get32(&at);
    head->last = get32(&at);
    head->previous_bytes = get64(&at);
    head->batch_first = get64(&at);
    head->batch_number = get64(&at);
    head->bytes = get64(&at);
    head->records = get64(&at);
    head->identity_bytes = get32(&at);
    head->lines_count = get32(&at);
    if (head->identity_bytes > IDENTITY_BYTES_MAX || head->lines_count > OTR_SHARDS_MAX || head->first == 0 ||
        head->first > head->last || head->records % 8 != 0 || head->records < record_bytes(bytes) ||
        head->last > SEGMENT_NUMBER_MAX || bytes != kept_body_bytes(head->lines_count, head->identity_bytes)) {
        return OTR_CORRUPT;
    }
    for (uint32_t i = 0; i < head->lines_count; i++) {
        struct kept_line line;
        kept_line_read(body, i, &line);
        if (line.shard >= OTR_SHARDS_MAX) {
            return OTR_CORRUPT;
        }
    }
    head->identity = (const char *)body + KEPT_BODY_BYTES + (size_t)head->lines_count * KEPT_LINE_BYTES;
    return 0;
}

void kept_line_read(const uint8_t *body, uint32_t number, struct kept_line *line)
{
    const uint8_t *at = body + KEPT_BODY_BYTES + (size_t)number * KEPT_LINE_BYTES;
    uint32_t flags;

    *line = (struct kept_line){.shard = get32(&at)};
    flags = get32(&at);
    line->reset = (flags & 1) != 0;
    line->unfinished = (flags & 2) != 0;
    line->cut_only = (flags & 4) != 0;
    line->before = get64(&at);
    line->after.epoch = get64(&at);
    line->after.index = get64(&at);
    line->clean = get64(&at);
}

/* --- META --------------------------------------------------------------------------------------------------------- */

void meta_write(uint8_t *body, const struct journal_meta *meta, bool damaged)
{
    put64(&body, meta->log_id);
    put64(&body, meta->promised);
    put64(&body, meta->seen_generation);
    put64(&body, meta->seen_epoch);
    put64(&body, meta->seen_version);
    put64(&body, meta->grant_ms_max);
    put64(&body, meta->committed_index);
    put64(&body, meta->applied_index);
    memcpy(body, meta->engine_data_id, sizeof meta->engine_data_id);
    body += sizeof meta->engine_data_id;
    put64(&body, damaged ? 1 : 0);
}

int meta_read(const uint8_t *body, size_t bytes, struct journal_meta *meta, bool *damaged)
{
    uint64_t flags;

    if (bytes != META_BODY_BYTES) {
        return OTR_CORRUPT;
    }
    meta->log_id = get64(&body);
    meta->promised = get64(&body);
    meta->seen_generation = get64(&body);
    meta->seen_epoch = get64(&body);
    meta->seen_version = get64(&body);
    meta->grant_ms_max = get64(&body);
    meta->committed_index = get64(&body);
    meta->applied_index = get64(&body);
    memcpy(meta->engine_data_id, body, sizeof meta->engine_data_id);
    body += sizeof meta->engine_data_id;
    flags = get64(&body);
    *damaged = (flags & 1) != 0;
    return flags > 1 ? OTR_CORRUPT : 0;
}
