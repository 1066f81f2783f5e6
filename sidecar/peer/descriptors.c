#include "sidecar/peer/descriptors.h"

#include <stdio.h>
#include <string.h>

/* --- protobuf's encoding, as far as descriptors use it ------------------------------------------------------------ */

struct field {
    uint64_t number;
    struct descriptors value; /* of a field with a length; others have none */
};

static bool read_varint(struct descriptors *in, uint64_t *out)
{
    *out = 0;
    for (unsigned shift = 0; shift < 64 && in->bytes > 0; shift += 7) {
        uint8_t byte = *in->data++;

        in->bytes--;
        *out |= (uint64_t)(byte & 0x7F) << shift;
        if ((byte & 0x80) == 0) {
            return true;
        }
    }
    return false;
}

static bool skip(struct descriptors *in, uint64_t bytes)
{
    if (bytes > in->bytes) {
        return false;
    }
    in->data += bytes;
    in->bytes -= (size_t)bytes;
    return true;
}

/* Takes the next field from the front; false at the end, and for what is no message. */
static bool next_field(struct descriptors *in, struct field *f)
{
    uint64_t tag;
    uint64_t length;

    *f = (struct field){0};
    if (!read_varint(in, &tag)) {
        return false;
    }
    f->number = tag >> 3;
    switch (tag & 7) {
    case 0:
        return read_varint(in, &length);
    case 1:
        return skip(in, 8);
    case 2:
        if (!read_varint(in, &length)) {
            return false;
        }
        f->value = (struct descriptors){in->data, (size_t)length};
        return skip(in, length);
    case 5:
        return skip(in, 4);
    default:
        return false;
    }
}

static struct descriptors find_field(struct descriptors message, uint64_t number)
{
    struct field f;

    while (next_field(&message, &f)) {
        if (f.number == number) {
            return f.value;
        }
    }
    return (struct descriptors){NULL, 0};
}

/* --- names -------------------------------------------------------------------------------------------------------- */

enum { NAME = 1, FILE_PACKAGE = 2, FILE_SERVICE = 6, SET_FILE = 1 };

enum kind { KIND_FILE, KIND_MESSAGE, KIND_ENUM, KIND_SERVICE, KIND_LEAF };

/* Which fields hold named things. */
static const struct {
    enum kind in;
    uint64_t number;
    enum kind is;
} children[] = {
    {KIND_FILE, 4, KIND_MESSAGE},
    {KIND_FILE, 5, KIND_ENUM},
    {KIND_FILE, 6, KIND_SERVICE},
    {KIND_MESSAGE, 2, KIND_LEAF /* field */},
    {KIND_MESSAGE, 3, KIND_MESSAGE},
    {KIND_MESSAGE, 4, KIND_ENUM},
    {KIND_SERVICE, 2, KIND_LEAF /* method */},
};

/* What is left of a dotted path behind its first part, when that is `name`: "" when it is all. NULL: it is not. */
static const char *behind(const char *path, struct descriptors name)
{
    if (name.bytes == 0 || strncmp(path, (const char *)name.data, name.bytes) != 0) {
        return NULL;
    }
    path += name.bytes;
    return *path == '\0' ? path : path[0] == '.' && path[1] != '\0' ? path + 1 : NULL;
}

static bool declares(struct descriptors message, enum kind kind, const char *path)
{
    struct field f;

    while (next_field(&message, &f)) {
        for (size_t i = 0; i < sizeof children / sizeof children[0]; i++) {
            const char *rest;

            if (children[i].in != kind || children[i].number != f.number) {
                continue;
            }
            rest = behind(path, find_field(f.value, NAME));
            if (rest != NULL && (*rest == '\0' || declares(f.value, children[i].is, rest))) {
                return true;
            }
        }
    }
    return false;
}

bool descriptors_file(const struct descriptors *set, const char *name, struct descriptors *file)
{
    struct descriptors left = *set;
    struct field f;

    while (next_field(&left, &f)) {
        struct descriptors its = find_field(f.value, NAME);

        if (f.number == SET_FILE && its.bytes == strlen(name) && memcmp(its.data, name, its.bytes) == 0) {
            *file = f.value;
            return true;
        }
    }
    return false;
}

bool descriptors_symbol(const struct descriptors *set, const char *symbol, struct descriptors *file)
{
    struct descriptors left = *set;
    struct field f;

    while (next_field(&left, &f)) {
        const char *path = behind(symbol, find_field(f.value, FILE_PACKAGE));

        if (f.number == SET_FILE && path != NULL && *path != '\0' && declares(f.value, KIND_FILE, path)) {
            *file = f.value;
            return true;
        }
    }
    return false;
}

bool descriptors_service(const struct descriptors *set, size_t number, char *out, size_t room)
{
    struct descriptors files = *set;
    struct field file;
    struct field f;

    while (next_field(&files, &file)) {
        struct descriptors package = find_field(file.value, FILE_PACKAGE);
        struct descriptors left = file.value;

        while (next_field(&left, &f)) {
            struct descriptors name = find_field(f.value, NAME);

            if (f.number == FILE_SERVICE && number-- == 0) {
                int length = snprintf(out, room, "%.*s.%.*s", (int)package.bytes, (const char *)package.data,
                                      (int)name.bytes, (const char *)name.data);

                return length > 0 && (size_t)length < room;
            }
        }
    }
    return false;
}
