/* Key-values that a backend has decoded: each owns one piece of memory, which `key` points to. Any thread. */
#ifndef OUTRIGGER_IO_KV_LIST_H
#define OUTRIGGER_IO_KV_LIST_H

#include "outrigger/backend.h"

void kv_close(struct otr_kv *kv);

/* A growing list of key-values that it owns. {0} is empty. */
struct kv_list {
    struct otr_kv *list;
    size_t count;
    size_t room;
};
/* On success takes over *kv. */
int kv_list_add(struct kv_list *kvs, struct otr_kv *kv);
void kv_list_close(struct kv_list *kvs);

#endif
