#include "backends/etcd/etcd_stream.h"

#include <stdlib.h>
#include <string.h>

static void events_clear(struct etcd_stream *stream)
{
    for (size_t i = 0; i < stream->events_count; i++) {
        kv_close(&stream->events[i].kv);
    }
    stream->events_count = 0;
    stream->pending_bytes = 0;
}

static int emit(struct etcd_stream *stream, enum etcd_stream_item_type type, uint64_t revision, uint64_t identity,
                const char *text)
{
    return stream->cb(stream->data, &(struct etcd_stream_item){
                                        .type = type,
                                        .revision = revision,
                                        .identity = identity,
                                        .text = text,
                                    });
}

static int events_add(struct etcd_stream *stream, const struct otr_watch_event *event)
{
    if (stream->events_count == stream->events_room) {
        size_t room = stream->events_room != 0 ? stream->events_room * 2 : 16;
        struct otr_watch_event *grown = realloc(stream->events, room * sizeof *grown);

        if (grown == NULL) {
            return OTR_NOMEM;
        }
        stream->events = grown;
        stream->events_room = room;
    }
    stream->events[stream->events_count++] = *event;
    return 0;
}

static int event_read(struct etcd_stream *stream, const cJSON *json)
{
    struct otr_watch_event event = {
        .type = strcmp(etcd_json_text(json, "type"), "DELETE") == 0 ? OTR_WATCH_DELETE : OTR_WATCH_PUT,
    };
    int rv = etcd_kv_decode(etcd_json_object(json, "kv"), &event.kv);

    if (rv == OTR_UNSUPPORTED) {
        return 0; /* Not a key of ours. */
    }
    if (rv != 0) {
        return rv;
    }
    event.revision = event.kv.revision;
    /* Revisions grow; anything else would make us drop events as already delivered. */
    rv = event.revision != 0 && event.revision >= stream->revision ? events_add(stream, &event) : OTR_PROTO;
    if (rv != 0) {
        kv_close(&event.kv);
        return rv;
    }
    stream->revision = event.revision;
    return 0;
}

static int events_read(struct etcd_stream *stream, const cJSON *result, const cJSON *events, uint64_t identity)
{
    const cJSON *item;
    int rv;

    cJSON_ArrayForEach(item, events)
    {
        rv = event_read(stream, item);
        if (rv != 0) {
            return emit(stream, ETCD_STREAM_BROKEN, 0, identity, rv == OTR_NOMEM ? "out of memory" : "unusable event");
        }
    }
    stream->pending_bytes += stream->line.bytes;
    if (stream->pending_bytes > ETCD_STREAM_PENDING_MAX) {
        return emit(stream, ETCD_STREAM_GONE, 0, identity, "more events at once than we hold");
    }
    if (etcd_json_true(result, "fragment")) {
        return 0;
    }
    rv = stream->cb(stream->data, &(struct etcd_stream_item){
                                      .type = ETCD_STREAM_EVENTS,
                                      .events = stream->events,
                                      .events_count = stream->events_count,
                                      .revision = stream->revision,
                                      .identity = identity,
                                      .text = "",
                                  });
    events_clear(stream);
    return rv;
}

static int canceled_read(struct etcd_stream *stream, const cJSON *result, uint64_t identity)
{
    const char *reason = etcd_json_text(result, "cancel_reason");
    enum etcd_stream_item_type type = ETCD_STREAM_BROKEN;

    if (etcd_json_u64(result, "compact_revision") != 0) {
        return emit(stream, ETCD_STREAM_GONE, 0, identity, "history is compacted");
    }
    /* The one place where etcd gives no code. */
    if (strstr(reason, "PermissionDenied") != NULL) {
        type = ETCD_STREAM_DENIED;
    } else if (strstr(reason, "Unauthenticated") != NULL || strstr(reason, "InvalidArgument") != NULL) {
        type = ETCD_STREAM_REFUSED;
    }
    return emit(stream, type, 0, identity, reason[0] != '\0' ? reason : "canceled without a reason");
}

static int error_read(struct etcd_stream *stream, int code, const char *text)
{
    switch (code) {
    case ETCD_CODE_OUT_OF_RANGE:
        return emit(stream, ETCD_STREAM_GONE, 0, 0, text);
    case ETCD_CODE_PERMISSION_DENIED:
        return emit(stream, ETCD_STREAM_DENIED, 0, 0, text);
    case ETCD_CODE_INVALID_ARGUMENT: /* Authentication is on, and we did not say who we are. */
    case ETCD_CODE_UNAUTHENTICATED:
        return emit(stream, ETCD_STREAM_REFUSED, 0, 0, text);
    default:
        return emit(stream, ETCD_STREAM_BROKEN, 0, 0, text);
    }
}

static int object_read(struct etcd_stream *stream, const cJSON *json)
{
    const cJSON *result = etcd_json_object(json, "result");
    const cJSON *header = etcd_json_object(result, "header");
    const cJSON *events = cJSON_GetObjectItemCaseSensitive(result, "events");
    uint64_t identity = etcd_json_u64(header, "cluster_id");
    const char *text;
    int code = etcd_error_code(json, &text);

    if (code != ETCD_CODE_NONE) {
        return error_read(stream, code, text);
    }
    if (header == NULL) {
        return emit(stream, ETCD_STREAM_BROKEN, 0, 0, "unusable line");
    }
    if (etcd_json_true(result, "canceled")) {
        return canceled_read(stream, result, identity);
    }
    if (etcd_json_true(result, "created")) {
        return emit(stream, ETCD_STREAM_CREATED, 0, identity, "");
    }
    if (cJSON_GetArraySize(events) > 0 || stream->events_count > 0) {
        return events_read(stream, result, events, identity);
    }
    return emit(stream, ETCD_STREAM_PROGRESS, etcd_json_u64(header, "revision"), identity, "");
}

static int line_read(struct etcd_stream *stream)
{
    cJSON *json;
    int rv;

    if (stream->line.failed) {
        return emit(stream, ETCD_STREAM_BROKEN, 0, 0, "out of memory");
    }
    if (stream->line.bytes == 0) {
        return 0;
    }
    json = cJSON_ParseWithLength(stream->line.data, stream->line.bytes);
    rv = object_read(stream, json);
    cJSON_Delete(json);
    stream->line.bytes = 0;
    return rv;
}

void etcd_stream_init(struct etcd_stream *stream, etcd_stream_cb cb, void *data)
{
    *stream = (struct etcd_stream){.cb = cb, .data = data};
}

int etcd_stream_feed(struct etcd_stream *stream, const char *data, size_t bytes)
{
    const char *end = data + bytes;
    const char *newline;
    int rv;

    while (data < end) {
        newline = memchr(data, '\n', (size_t)(end - data));
        bytes = (size_t)((newline != NULL ? newline : end) - data);
        if (bytes > ETCD_STREAM_LINE_MAX - stream->line.bytes) {
            return emit(stream, ETCD_STREAM_GONE, 0, 0, "a line longer than we hold");
        }
        json_text_add_raw(&stream->line, data, bytes);
        data += bytes;
        if (newline != NULL) {
            data++;
            rv = line_read(stream);
            if (rv != 0) {
                return rv;
            }
        }
    }
    return 0;
}

int etcd_stream_end(struct etcd_stream *stream)
{
    return line_read(stream);
}

void etcd_stream_close(struct etcd_stream *stream)
{
    events_clear(stream);
    free(stream->events);
    stream->events = NULL;
    stream->events_room = 0;
    json_text_close(&stream->line);
}
