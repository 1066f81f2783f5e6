#include "sidecar/peer/public.h"

#include "sidecar/peer/descriptors.h"

#include "grpc/health/v1/health.pb-c.h"
#include "grpc/reflection/v1/reflection.pb-c.h"

#include <stdio.h>
#include <stdlib.h>

enum {
    CALLS_MAX = 1024,
    REQUEST_BYTES_MAX = 4096,
    UNREAD_BYTES_MAX = 32 << 10, /* of answers to reflection */
    SERVICES_MAX = 16,
};

typedef Grpc__Health__V1__HealthCheckRequest health_request;
typedef Grpc__Health__V1__HealthCheckResponse health_response;
typedef Grpc__Health__V1__HealthCheckResponse__ServingStatus health_status;
typedef Grpc__Reflection__V1__ServerReflectionRequest reflection_request;
typedef Grpc__Reflection__V1__ServerReflectionResponse reflection_response;

/* Lives as long as its stream has it as owner. */
struct public_call {
    struct list node; /* hub->watchers, of a Watch that was answered; else alone */
    struct hub_task task;
    struct peer_hub *hub;
    struct stream *stream;
    enum peer_method method;
    bool asked;         /* health: the request came */
    int service;        /* Watch: enum peer_service, or -1: not here */
    health_status sent; /* Watch */
};

static void call_free(struct public_call *call)
{
    list_remove(&call->node);
    hub_task_cancel(&call->task);
    call->hub->public_count--;
    free(call);
}

static void call_end(struct public_call *call, int grpc_status, const char *text)
{
    stream_end(call->stream, grpc_status, text);
    call_free(call);
}

static bool call_send(struct public_call *call, const ProtobufCMessage *reply)
{
    struct message *message;

    if (message_pack(&message, reply, SIZE_MAX) != 0) {
        call_end(call, GRPC_RESOURCE_EXHAUSTED, "out of memory");
        return false;
    }
    stream_respond(call->stream);
    stream_send(call->stream, message);
    return true;
}

static void on_closed(struct stream *s, bool lost, uint32_t error)
{
    (void)lost;
    (void)error;
    call_free(s->owner);
}

/* --- health ------------------------------------------------------------------------------------------------------- */

/* enum peer_service, or -1. */
static int service_find(const char *name)
{
    static const char *const names[PEER_SERVICES] = {
        [PEER_SERVICE_NODE] = "", [PEER_SERVICE_PEER] = "outrigger.v1.Peer"};

    for (int i = 0; i < PEER_SERVICES; i++) {
        if (strcmp(names[i], name) == 0) {
            return i;
        }
    }
    return -1;
}

static health_status status_of(const struct peer_hub *hub, int service)
{
    if (service < 0) {
        return GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__SERVICE_UNKNOWN;
    }
    return hub->serving[service] ? GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__SERVING
                                 : GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__NOT_SERVING;
}

static bool status_send(struct public_call *call)
{
    health_response reply = GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__INIT;

    reply.status = call->sent = status_of(call->hub, call->service);
    return call_send(call, &reply.base);
}

/* The newest status, once the one before it has left. */
static void watch_update(struct public_call *call)
{
    if (call->stream->out_bytes == 0 && call->sent != status_of(call->hub, call->service)) {
        (void)status_send(call);
    }
}

static void run_watch(struct hub_task *task)
{
    watch_update(list_item(task, struct public_call, task));
}

static void health_message(struct stream *s, const uint8_t *data, size_t bytes)
{
    struct public_call *call = s->owner;
    health_request *request = grpc__health__v1__health_check_request__unpack(NULL, bytes, data);

    if (request == NULL || call->asked) {
        call_end(call, GRPC_INVALID_ARGUMENT,
                 request == NULL ? "the message cannot be parsed" : "more than one message");
    } else {
        call->asked = true;
        call->service = service_find(request->service);
    }
    if (request != NULL) {
        grpc__health__v1__health_check_request__free_unpacked(request, NULL);
    }
}

static void health_finished(struct stream *s)
{
    struct public_call *call = s->owner;

    if (!call->asked) {
        call_end(call, GRPC_INVALID_ARGUMENT, "no message");
    } else if (call->method == PEER_HEALTH_WATCH) {
        if (status_send(call)) {
            list_push(&call->hub->watchers, &call->node);
        }
    } else if (call->service < 0) {
        call_end(call, GRPC_NOT_FOUND, "no such service");
    } else if (status_send(call)) {
        call_end(call, GRPC_OK, NULL);
    }
}

static void health_written(struct stream *s)
{
    struct public_call *call = s->owner;

    if (s->out_bytes == 0 && !list_empty(&call->node)) {
        hub_defer(call->hub, &call->task);
    }
}

static const struct stream_ops health_ops = {
    .on_message = health_message,
    .on_finished = health_finished,
    .on_written = health_written,
    .on_closed = on_closed,
};

void public_changed(struct peer_hub *hub)
{
    struct list watchers;

    list_take(&watchers, &hub->watchers);
    while (!list_empty(&watchers)) {
        struct public_call *call = list_item(watchers.next, struct public_call, node);

        list_remove(&call->node);
        list_push(&hub->watchers, &call->node);
        watch_update(call);
    }
}

void public_close(struct peer_hub *hub)
{
    struct list *node = hub->watchers.next;

    while (node != &hub->watchers) {
        struct list *next = node->next; /* call_end frees what the node is part of */

        call_end(list_item(node, struct public_call, node), GRPC_OK, NULL);
        node = next;
    }
}

/* --- reflection --------------------------------------------------------------------------------------------------- */

static reflection_response reply_init(reflection_request *request)
{
    reflection_response reply = GRPC__REFLECTION__V1__SERVER_REFLECTION_RESPONSE__INIT;

    reply.valid_host = request->host;
    reply.original_request = request;
    return reply;
}

static bool reply_services(struct public_call *call, reflection_request *request)
{
    reflection_response reply = reply_init(request);
    Grpc__Reflection__V1__ListServiceResponse list = GRPC__REFLECTION__V1__LIST_SERVICE_RESPONSE__INIT;
    Grpc__Reflection__V1__ServiceResponse services[SERVICES_MAX];
    Grpc__Reflection__V1__ServiceResponse *pointers[SERVICES_MAX];
    char names[SERVICES_MAX][128];
    size_t count = 0;

    while (count < SERVICES_MAX && descriptors_service(&descriptors_own, count, names[count], sizeof names[0])) {
        grpc__reflection__v1__service_response__init(&services[count]);
        services[count].name = names[count];
        pointers[count] = &services[count];
        count++;
    }
    list.service = pointers;
    list.n_service = count;
    reply.message_response_case =
        GRPC__REFLECTION__V1__SERVER_REFLECTION_RESPONSE__MESSAGE_RESPONSE_LIST_SERVICES_RESPONSE;
    reply.list_services_response = &list;
    return call_send(call, &reply.base);
}

static bool reply_file(struct public_call *call, reflection_request *request, const struct descriptors *file)
{
    reflection_response reply = reply_init(request);
    Grpc__Reflection__V1__FileDescriptorResponse files = GRPC__REFLECTION__V1__FILE_DESCRIPTOR_RESPONSE__INIT;
    ProtobufCBinaryData bytes = {.data = (uint8_t *)(uintptr_t)file->data, .len = file->bytes};

    files.file_descriptor_proto = &bytes;
    files.n_file_descriptor_proto = 1;
    reply.message_response_case =
        GRPC__REFLECTION__V1__SERVER_REFLECTION_RESPONSE__MESSAGE_RESPONSE_FILE_DESCRIPTOR_RESPONSE;
    reply.file_descriptor_response = &files;
    return call_send(call, &reply.base);
}

static bool reply_error(struct public_call *call, reflection_request *request, int grpc_status, const char *text)
{
    reflection_response reply = reply_init(request);
    Grpc__Reflection__V1__ErrorResponse error = GRPC__REFLECTION__V1__ERROR_RESPONSE__INIT;

    error.error_code = grpc_status;
    error.error_message = (char *)(uintptr_t)text;
    reply.message_response_case = GRPC__REFLECTION__V1__SERVER_REFLECTION_RESPONSE__MESSAGE_RESPONSE_ERROR_RESPONSE;
    reply.error_response = &error;
    return call_send(call, &reply.base);
}

/* False: the call is gone. */
static bool reflect(struct public_call *call, reflection_request *request)
{
    struct descriptors file;

    switch (request->message_request_case) {
    case GRPC__REFLECTION__V1__SERVER_REFLECTION_REQUEST__MESSAGE_REQUEST_LIST_SERVICES:
        return reply_services(call, request);
    case GRPC__REFLECTION__V1__SERVER_REFLECTION_REQUEST__MESSAGE_REQUEST_FILE_BY_FILENAME:
        if (!descriptors_file(&descriptors_own, request->file_by_filename, &file)) {
            return reply_error(call, request, GRPC_NOT_FOUND, "no such file");
        }
        return reply_file(call, request, &file);
    case GRPC__REFLECTION__V1__SERVER_REFLECTION_REQUEST__MESSAGE_REQUEST_FILE_CONTAINING_SYMBOL:
        if (!descriptors_symbol(&descriptors_own, request->file_containing_symbol, &file)) {
            return reply_error(call, request, GRPC_NOT_FOUND, "no such symbol");
        }
        return reply_file(call, request, &file);
    default: /* Our files are proto3: there are no extensions. */
        return reply_error(call, request, GRPC_UNIMPLEMENTED,
                           "list_services, file_by_filename, file_containing_symbol");
    }
}

static void reflection_message(struct stream *s, const uint8_t *data, size_t bytes)
{
    struct public_call *call = s->owner;
    reflection_request *request = grpc__reflection__v1__server_reflection_request__unpack(NULL, bytes, data);

    if (request == NULL) {
        call_end(call, GRPC_INVALID_ARGUMENT, "the message cannot be parsed");
        return;
    }
    if (reflect(call, request)) {
        s->paused = s->out_bytes > UNREAD_BYTES_MAX;
    }
    grpc__reflection__v1__server_reflection_request__free_unpacked(request, NULL);
}

static void reflection_finished(struct stream *s)
{
    stream_respond(s);
    call_end(s->owner, GRPC_OK, NULL);
}

static void run_resume(struct hub_task *task)
{
    struct public_call *call = list_item(task, struct public_call, task);

    if (call->stream->paused) {
        stream_resume(call->stream);
    }
}

static void reflection_written(struct stream *s)
{
    struct public_call *call = s->owner;

    if (s->paused && s->out_bytes <= UNREAD_BYTES_MAX) {
        hub_defer(call->hub, &call->task);
    }
}

static const struct stream_ops reflection_ops = {
    .on_message = reflection_message,
    .on_finished = reflection_finished,
    .on_written = reflection_written,
    .on_closed = on_closed,
};

/* --- both --------------------------------------------------------------------------------------------------------- */

void public_begin(struct conn *c, struct stream *s)
{
    bool health = s->method == PEER_HEALTH_CHECK || s->method == PEER_HEALTH_WATCH;
    struct public_call *call;

    if (c->hub->public_count >= CALLS_MAX) {
        stream_end(s, GRPC_RESOURCE_EXHAUSTED, "too many calls at once");
        return;
    }
    call = calloc(1, sizeof *call);
    if (call == NULL) {
        stream_end(s, GRPC_RESOURCE_EXHAUSTED, "out of memory");
        return;
    }
    list_init(&call->node);
    hub_task_init(&call->task, health ? run_watch : run_resume);
    call->hub = c->hub;
    call->stream = s;
    call->method = (enum peer_method)s->method;
    c->hub->public_count++;
    s->owner = call;
    s->ops = health ? &health_ops : &reflection_ops;
    s->accountable = true;
    s->reader.limit = REQUEST_BYTES_MAX;
}
