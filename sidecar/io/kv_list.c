#include "sidecar/io/kv_list.h"

#include <stdint.h>
#include <stdlib.h>

void kv_close(struct otr_kv *kv)
{
    free((void *)(uintptr_t)kv->key);
    *kv = (struct otr_kv){0};
}

int kv_list_add(struct kv_list *kvs, struct otr_kv *kv)
{
    if (kvs->count == kvs->room) {
        size_t room = kvs->room != 0 ? kvs->room * 2 : 16;
        struct otr_kv *grown = realloc(kvs->list, room * sizeof *grown);

        if (grown == NULL) {
            return OTR_NOMEM;
        }
        kvs->list = grown;
        kvs->room = room;
    }
    kvs->list[kvs->count++] = *kv;
    return 0;
}

void kv_list_close(struct kv_list *kvs)
{
    for (size_t i = 0; i < kvs->count; i++) {
        kv_close(&kvs->list[i]);
    }
    free(kvs->list);
    *kvs = (struct kv_list){0};
}
