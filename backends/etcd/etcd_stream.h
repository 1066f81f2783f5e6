/* Decoder of a watch's answer: pieces of bytes in, whole items out. Pure; the bytes may be anything.
 *
 * The answer is one JSON object per line, the last one perhaps without newline. Lines are not pieces. One revision's
 * events may be spread over several lines, all but the last marked "fragment"; they come out as one item. */
#ifndef OUTRIGGER_BACKENDS_ETCD_STREAM_H
#define OUTRIGGER_BACKENDS_ETCD_STREAM_H

#include "backends/etcd/etcd_codec.h"

enum etcd_stream_item_type {
    ETCD_STREAM_CREATED = 1, /* the watch stands */
    ETCD_STREAM_EVENTS,      /* `events`, all up to and including `revision` */
    ETCD_STREAM_PROGRESS,    /* nothing happened up to `revision` */
    ETCD_STREAM_GONE,        /* history is compacted, or more than we want to hold: read everything instead */
    ETCD_STREAM_DENIED,      /* not allowed, `text` */
    ETCD_STREAM_REFUSED,     /* who we are was not said, or not accepted, `text` */
    ETCD_STREAM_BROKEN,      /* ended or unusable, `text`: connect again */
};
struct etcd_stream_item {
    enum etcd_stream_item_type type;
    const struct otr_watch_event *events; /* lent */
    size_t events_count;
    uint64_t revision;
    uint64_t identity; /* cluster_id, 0 when absent */
    const char *text;  /* never NULL */
};
/* Non-zero: take nothing more. */
typedef int (*etcd_stream_cb)(void *data, const struct etcd_stream_item *item);

enum {
    ETCD_STREAM_LINE_MAX = 64 << 20,     /* bytes of a line */
    ETCD_STREAM_PENDING_MAX = 256 << 20, /* bytes of the lines of one item */
};

struct etcd_stream {
    etcd_stream_cb cb;
    void *data;
    struct json_text line; /* what came since the last newline */
    struct otr_watch_event *events;
    size_t events_count;
    size_t events_room;
    size_t pending_bytes; /* of the lines that `events` came from */
    uint64_t revision;    /* of the newest event in them */
};

void etcd_stream_init(struct etcd_stream *stream, etcd_stream_cb cb, void *data);
/* 0, or what the callback returned. After that, and after GONE, DENIED, REFUSED or BROKEN, nothing more may be fed. */
int etcd_stream_feed(struct etcd_stream *stream, const char *data, size_t bytes);
/* The end of the answer: a last line without newline counts. */
int etcd_stream_end(struct etcd_stream *stream);
void etcd_stream_close(struct etcd_stream *stream);

#endif
