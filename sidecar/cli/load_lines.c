#include "sidecar/cli/load_lines.h"

#include "sidecar/io/random.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { ID_BYTES = 64 };

static bool is_space(char c)
{
    return c == ' ' || c == '\t' || c == '\r' || c == '\n';
}

/* The byte behind a string that begins at text[i] with its quote; `bytes` when it does not end. */
static size_t skip_string(const char *text, size_t bytes, size_t i)
{
    for (i++; i < bytes && text[i] != '"'; i++) {
        if (text[i] == '\\') {
            i++;
        }
    }
    return i < bytes ? i + 1 : bytes;
}

static bool is_id_member(const char *text, size_t bytes, size_t from, size_t to)
{
    while (to < bytes && is_space(text[to])) {
        to++;
    }
    return to < bytes && text[to] == ':' && memcmp(text + from, "\"id\"", 4) == 0;
}

bool load_lines_check(const char *line, size_t bytes, bool *has_id)
{
    size_t depth = 0;

    *has_id = false;
    for (size_t i = 0; i < bytes;) {
        char c = line[i];

        if (depth == 0 && (i == 0 ? c != '{' : !is_space(c))) {
            return false;
        }
        if (c == '"') {
            size_t end = skip_string(line, bytes, i);

            if (depth == 1 && end - i == 4 && is_id_member(line, bytes, i, end)) {
                *has_id = true;
            }
            i = end;
            continue;
        }
        depth += c == '{' || c == '[';
        depth -= c == '}' || c == ']';
        i++;
    }
    return bytes > 0 && depth == 0;
}

/* Room for one more line of so many bytes. */
static int reserve(struct load_lines *batch, size_t bytes)
{
    size_t wanted = batch->bytes + bytes + 1;

    if (batch->count == batch->lines_room) {
        uint32_t room = batch->lines_room != 0 ? 2 * batch->lines_room : 128;
        size_t *offsets = realloc(batch->offsets, room * sizeof *offsets);
        uint64_t *numbers;

        if (offsets == NULL) {
            return OTR_NOMEM;
        }
        batch->offsets = offsets;
        numbers = realloc(batch->numbers, room * sizeof *numbers);
        if (numbers == NULL) {
            return OTR_NOMEM;
        }
        batch->numbers = numbers;
        batch->lines_room = room;
    }
    if (wanted > batch->room) {
        char *text = realloc(batch->text, 2 * wanted);

        if (text == NULL) {
            return OTR_NOMEM;
        }
        batch->text = text;
        batch->room = 2 * wanted;
    }
    return 0;
}

static size_t draw_id(char out[ID_BYTES])
{
    uint8_t b[16];

    random_bytes(b, sizeof b);
    b[6] = (uint8_t)((b[6] & 0x0F) | 0x40); /* a random UUID */
    b[8] = (uint8_t)((b[8] & 0x3F) | 0x80);
    return (size_t)snprintf(
        out, ID_BYTES, "\"id\":\"%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x\"", b[0], b[1],
        b[2], b[3], b[4], b[5], b[6], b[7], b[8], b[9], b[10], b[11], b[12], b[13], b[14], b[15]);
}

static bool is_empty_object(const char *line, size_t bytes)
{
    size_t i = 1;

    while (i < bytes && is_space(line[i])) {
        i++;
    }
    return i < bytes && line[i] == '}';
}

static int add_line(struct load_lines *batch, const char *line, size_t bytes, bool has_id, uint64_t number)
{
    char id[ID_BYTES];
    size_t id_bytes = has_id ? 0 : draw_id(id);
    char *out;

    if (reserve(batch, bytes + id_bytes + 2) != 0) {
        return OTR_NOMEM;
    }
    out = batch->text + batch->bytes;
    if (batch->count > 0) {
        *out++ = ',';
    }
    batch->offsets[batch->count] = (size_t)(out - batch->text);
    batch->numbers[batch->count] = number;
    batch->count++;
    *out++ = '{';
    memcpy(out, id, id_bytes);
    out += id_bytes;
    if (id_bytes > 0 && !is_empty_object(line, bytes)) {
        *out++ = ',';
    }
    memcpy(out, line + 1, bytes - 1);
    batch->bytes = (size_t)(out - batch->text) + bytes - 1;
    return 0;
}

int load_lines_read(struct load_reader *reader, struct load_lines *batch, uint32_t count, struct otr_errmsg *msg)
{
    batch->bytes = 0;
    batch->count = 0;
    while (batch->count < count && batch->bytes < LOAD_LINES_BYTES_MAX) {
        ssize_t got = getline(&reader->buffer, &reader->buffer_room, reader->file);
        const char *line = reader->buffer;
        size_t bytes = got > 0 ? (size_t)got : 0;
        bool has_id;

        if (got < 0) {
            if (ferror(reader->file)) {
                otr_errmsg_set(msg, "cannot read on: %s", strerror(errno));
                return OTR_IO;
            }
            return 0;
        }
        reader->line++;
        reader->bytes += bytes;
        while (bytes > 0 && is_space(line[bytes - 1])) {
            bytes--;
        }
        for (; bytes > 0 && is_space(*line); bytes--) {
            line++;
        }
        if (bytes == 0) {
            continue;
        }
        if (!load_lines_check(line, bytes, &has_id)) {
            otr_errmsg_set(msg, "is not one JSON object");
            return OTR_INVALID;
        }
        if (add_line(batch, line, bytes, has_id, reader->line) != 0) {
            otr_errmsg_set(msg, "%s", otr_strerror(OTR_NOMEM));
            return OTR_NOMEM;
        }
    }
    return 0;
}

char *load_lines_body(const struct load_lines *batch, uint32_t first, uint32_t last, size_t *bytes)
{
    static const char head[] = "{\"points\":[";
    static const char tail[] = "]}";
    size_t from = batch->offsets[first];
    size_t to = last < batch->count ? batch->offsets[last] - 1 : batch->bytes;
    char *body = malloc(sizeof head + sizeof tail + (to - from));

    if (body == NULL) {
        return NULL;
    }
    memcpy(body, head, sizeof head - 1);
    memcpy(body + sizeof head - 1, batch->text + from, to - from);
    memcpy(body + sizeof head - 1 + (to - from), tail, sizeof tail);
    *bytes = sizeof head - 1 + (to - from) + sizeof tail - 1;
    return body;
}

void load_lines_close(struct load_lines *batch)
{
    free(batch->text);
    free(batch->offsets);
    free(batch->numbers);
    *batch = (struct load_lines){0};
}
