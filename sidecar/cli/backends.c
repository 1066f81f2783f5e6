#include "outrigger/backend.h"

static const struct otr_backend_ops *const backends[] = {&otr_backend_etcd, &otr_backend_consul};

const struct otr_backend_ops *otr_backend_find(const char *name)
{
    for (size_t i = 0; i < sizeof backends / sizeof backends[0]; i++) {
        if (strcmp(backends[i]->name, name) == 0) {
            return backends[i];
        }
    }
    return NULL;
}
