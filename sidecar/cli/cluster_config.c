#include "sidecar/cli/cluster_config.h"

#include "sidecar/coord/keys.h"
#include "sidecar/coord/values.h"

#include <stdlib.h>

enum { TRIES = 5 /* against others who change the settings at the same time */ };

static int replace(struct coord_client *c, const char *key, const char *changed, uint64_t revision,
                   struct otr_errmsg *msg)
{
    int rv = coord_client_txn(
        c,
        &(struct otr_txn){
            .compares = &(struct otr_compare){.type = OTR_COMPARE_UNMODIFIED, .key = key, .revision = revision},
            .compares_count = 1,
            .ops = &(struct otr_op){.type = OTR_OP_PUT, .key = key, .value = changed, .value_bytes = strlen(changed)},
            .ops_count = 1,
        },
        msg);

    if (rv == OTR_UNKNOWN || rv == OTR_CANCELED) {
        otr_errmsg_wrap(msg, "whether the setting has changed is not known: run this again");
    }
    return rv;
}

/* Looks, and changes it if that is needed. OTR_CONFLICT: somebody else came first. */
static int change_once(struct coord_client *c, cluster_config_cb cb, void *data, struct otr_errmsg *msg)
{
    struct topology_config config;
    char *changed = NULL;
    char key[KEY_MAX];
    uint64_t revision;
    char *value;
    int rv;

    key_config(key, c->cluster);
    rv = coord_client_get(c, key, &value, &revision, msg);
    if (rv == OTR_NOTFOUND) {
        otr_errmsg_set(msg, "there is no cluster %s; 'outrigger cluster init' makes one", c->cluster);
    }
    if (rv != 0) {
        return rv;
    }
    rv = value_config_parse(value, &config, msg);
    if (rv == 0) {
        rv = cb(data, value, &config, &changed, msg);
    } else {
        otr_errmsg_wrap(msg, "key %s", key);
    }
    if (rv == 0 && changed != NULL) {
        rv = replace(c, key, changed, revision, msg);
    }
    free(changed);
    free(value);
    return rv;
}

int cluster_config_change(struct coord_client *c, cluster_config_cb cb, void *data, struct otr_errmsg *msg)
{
    int rv = OTR_CONFLICT;

    for (int i = 0; i < TRIES && rv == OTR_CONFLICT; i++) {
        rv = change_once(c, cb, data, msg);
    }
    return rv;
}
