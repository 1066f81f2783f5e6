#include "outrigger/engine.h"

static const struct otr_engine_ops *const engines[] = {&otr_engine_ruvector};

const struct otr_engine_ops *otr_engine_find(const char *name)
{
    for (size_t i = 0; i < sizeof engines / sizeof engines[0]; i++) {
        if (strcmp(engines[i]->name, name) == 0) {
            return engines[i];
        }
    }
    return NULL;
}
