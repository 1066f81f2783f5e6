/* What our .proto files declare, as reflection tells it: google.protobuf.FileDescriptorSet, made by protoc when we are
 * built and kept in the program. Pure; any thread.
 *
 * Of that format only what is needed is read here: a set is a list of files (field 1); a file has a name (1), a package
 * (2), messages (4), enums (5) and services (6); each of these, and what they contain, has its name in field 1. */
#ifndef OUTRIGGER_PEER_DESCRIPTORS_H
#define OUTRIGGER_PEER_DESCRIPTORS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct descriptors {
    const uint8_t *data;
    size_t bytes;
};

/* The program's own set; build/gen/descriptor_set.c. */
extern const struct descriptors descriptors_own;

/* The FileDescriptorProto of a name such as "outrigger.proto", or the one that declares a symbol: package.Service,
 * package.Service.Method, package.Type, package.Type.field. *file points into the set. */
bool descriptors_file(const struct descriptors *set, const char *name, struct descriptors *file);
bool descriptors_symbol(const struct descriptors *set, const char *symbol, struct descriptors *file);
/* "package.Service" of the number-th service of all files; false: there are no more, or it does not fit. */
bool descriptors_service(const struct descriptors *set, size_t number, char *out, size_t room);

#endif
