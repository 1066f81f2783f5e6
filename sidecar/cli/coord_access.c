#include "sidecar/cli/coord_access.h"

#include <stdlib.h>
#include <string.h>

/* An empty text is as good as none, as in the environment. */
static const char *given(const char *text)
{
    return text != NULL && text[0] != '\0' ? text : NULL;
}

static int check(const struct otr_backend_config *config, struct otr_errmsg *msg)
{
    if (config->key_file != NULL && config->cert_file == NULL) {
        otr_errmsg_set(msg, "--coordinator-key needs --coordinator-cert");
        return OTR_INVALID;
    }
    if ((config->ca_file != NULL || config->cert_file != NULL) && strstr(config->endpoints, "https://") == NULL) {
        otr_errmsg_set(msg, "--coordinator-%s is of no use without an https:// endpoint: --endpoints %s",
                       config->ca_file != NULL ? "ca" : "cert", config->endpoints);
        return OTR_INVALID;
    }
    if (config->user == NULL && config->password_file != NULL) {
        otr_errmsg_set(msg, "--coordinator-password-file needs --coordinator-user");
        return OTR_INVALID;
    }
    if (config->user != NULL && config->password == NULL && config->password_file == NULL) {
        otr_errmsg_set(msg, "--coordinator-user needs a password: --coordinator-password-file, or "
                            "OUTRIGGER_COORDINATOR_PASSWORD in the environment");
        return OTR_INVALID;
    }
    return 0;
}

int coord_access_apply(const struct coord_access *access, struct otr_backend_config *config, struct otr_errmsg *msg)
{
    config->user = given(access->user);
    config->password_file = given(access->password_file);
    config->token_file = given(access->token_file);
    config->ca_file = given(access->ca_file);
    config->cert_file = given(access->cert_file);
    config->key_file = given(access->key_file);
    /* Left set for nobody to use, the variables harm nobody: one means something with a user, one for Consul. */
    config->password = config->user != NULL ? given(getenv("OUTRIGGER_COORDINATOR_PASSWORD")) : NULL;
    config->token = config->token_file == NULL ? given(getenv("OUTRIGGER_COORDINATOR_TOKEN")) : NULL;
    return check(config, msg);
}
