/* User and password: tokens, one for each endpoint.
 *
 * Happy path: the first request to an endpoint waits for a login there (/v3/auth/authenticate), all others that come
 * meanwhile wait for the same one; then each carries the token. Logins are costly for etcd (bcrypt, a write), so there
 * is never more than one under way at an endpoint, and after one that was refused a pause.
 *
 * A token ends without notice: five minutes after its last use at that member, with a restart of it, with any change
 * of users or roles (JWT), with a new password. etcd then refuses the request before it does anything: the token is
 * forgotten, the password file read anew, and the request sent again with the next token, once.
 *
 * A simple token ends in an index of raft's log, and a member that is not so far waits before it judges the token. One
 * from a cluster that was replaced or restored therefore gets no answer, neither for a watch nor for a request: a token
 * goes after a time-out too.
 *
 * A running watch outlives its token. Keep-alives need none (both versions answer them without looking), so sessions
 * live on while a password is being changed. A member with authentication switched off refuses the login with
 * "failed precondition": then requests go without a token, until it asks for one. */
#include "backends/etcd/etcd.h"

#include "sidecar/io/clock.h"
#include "sidecar/io/log.h"
#include "sidecar/io/secret_file.h"

#include <stdlib.h>
#include <string.h>

struct etcd_login {
    struct etcd *etcd;
    unsigned endpoint;
    struct etcd_call *call;
    bool only_wait; /* asks nobody: the last refusal is too fresh */
};

/* --- settings --------------------------------------------------------------------------------------------------- */

static int copy(char **to, const char *text, struct otr_errmsg *msg)
{
    *to = text != NULL ? strdup(text) : NULL;
    if (text != NULL && *to == NULL) {
        otr_errmsg_set(msg, "%s", otr_strerror(OTR_NOMEM));
        return OTR_NOMEM;
    }
    return 0;
}

static int settings_check(const struct otr_backend_config *config, struct otr_errmsg *msg)
{
    char password[SECRET_FILE_BYTES_MAX];
    int rv = 0;

    if (config->token_file != NULL) {
        otr_errmsg_set(msg, "etcd knows users and passwords, not tokens");
        return OTR_INVALID;
    }
    if (config->user == NULL && (config->password != NULL || config->password_file != NULL)) {
        otr_errmsg_set(msg, "a password without a user");
        return OTR_INVALID;
    }
    if (config->user != NULL && config->password == NULL && config->password_file == NULL) {
        otr_errmsg_set(msg, "user %s without a password", config->user);
        return OTR_INVALID;
    }
    if (config->password_file != NULL) {
        rv = secret_file_read(config->password_file, "password", password, msg);
        explicit_bzero(password, sizeof password);
    }
    return rv;
}

int etcd_auth_init(struct etcd *etcd, const struct otr_backend_config *config, struct otr_errmsg *msg)
{
    int rv = settings_check(config, msg);

    rv = rv != 0 ? rv : copy(&etcd->user, config->user, msg);
    rv = rv != 0 ? rv : copy(&etcd->password, config->password, msg);
    rv = rv != 0 ? rv : copy(&etcd->password_file, config->password_file, msg);
    if (rv == 0 && etcd->user != NULL) {
        endpoints_warn_of_plain_text(&etcd->endpoints, "etcd", "the password");
    }
    return rv;
}

void etcd_auth_close(struct etcd *etcd)
{
    for (unsigned i = 0; i < etcd->endpoints.count; i++) {
        free(etcd->tokens[i].text);
    }
    if (etcd->password != NULL) {
        explicit_bzero(etcd->password, strlen(etcd->password));
    }
    free(etcd->user);
    free(etcd->password);
    free(etcd->password_file);
}

/* --- tokens ----------------------------------------------------------------------------------------------------- */

bool etcd_auth_is_refusal(int code)
{
    return code == ETCD_CODE_UNAUTHENTICATED || code == ETCD_CODE_INVALID_ARGUMENT;
}

void etcd_auth_refused(struct etcd *etcd, unsigned endpoint, uint64_t number)
{
    struct etcd_token *token = &etcd->tokens[endpoint];

    if (token->text != NULL && token->number == number) {
        free(token->text);
        token->text = NULL;
    }
}

static int token_set(struct etcd *etcd, struct etcd_token *token, const char *text, struct otr_errmsg *msg)
{
    /* It goes into a header: nothing that could end the line. */
    for (const char *c = text; *c != '\0'; c++) {
        if (*c <= ' ' || *c > '~') {
            otr_errmsg_set(msg, "unusable token");
            return OTR_UNREACHABLE;
        }
    }
    if (strlen(text) > ETCD_TOKEN_BYTES_MAX) {
        otr_errmsg_set(msg, "a token longer than %d bytes", ETCD_TOKEN_BYTES_MAX);
        return OTR_UNREACHABLE;
    }
    free(token->text);
    token->text = strdup(text);
    token->number = ++etcd->tokens_count;
    if (token->text == NULL) {
        otr_errmsg_set(msg, "%s", otr_strerror(OTR_NOMEM));
        return OTR_NOMEM;
    }
    return 0;
}

/* --- waiting ---------------------------------------------------------------------------------------------------- */

void etcd_auth_wait_stop(struct etcd_auth_wait *wait)
{
    if (wait->token == NULL) {
        return;
    }
    if (wait->prev != NULL) {
        wait->prev->next = wait->next;
    } else {
        wait->token->waits = wait->next;
    }
    if (wait->next != NULL) {
        wait->next->prev = wait->prev;
    }
    wait->token = NULL;
}

/* In their order. Those who begin to wait in a callback of this wait for the next login. */
static void waits_finish(struct etcd *etcd, struct etcd_token *token, int status, const struct otr_errmsg *msg)
{
    uint64_t last = etcd->waits_count;
    struct etcd_auth_wait *wait;

    while ((wait = token->waits) != NULL && wait->number <= last) {
        struct otr_errmsg copied = *msg;

        etcd_auth_wait_stop(wait);
        wait->done(wait->data, status, &copied);
    }
}

/* --- logins ----------------------------------------------------------------------------------------------------- */

static int login_read(struct etcd_login *login, const struct etcd_reply *reply)
{
    struct etcd *etcd = login->etcd;
    struct etcd_token *token = &etcd->tokens[login->endpoint];
    const char *text = etcd_json_text(reply->json, "token");

    if (reply->status == OTR_CANCELED || reply->status == OTR_NOMEM) {
        return reply->status;
    }
    if (reply->status == 0 && text[0] != '\0') {
        return token_set(etcd, token, text, reply->msg);
    }
    if (reply->code == ETCD_CODE_FAILED_PRECONDITION) {
        LOG_LIMITED(LOG_WARN, "etcd", "%s: authentication is switched off there: user %s is not needed",
                    etcd->endpoints.urls[login->endpoint], etcd->user);
        return token_set(etcd, token, "", reply->msg);
    }
    if (reply->status == 0) {
        otr_errmsg_set(reply->msg, "etcd: unusable answer");
    }
    return reply->status == OTR_INVALID || reply->status == OTR_DENIED ? OTR_DENIED : OTR_UNREACHABLE;
}

static void login_done(void *data, const struct etcd_reply *reply)
{
    struct etcd_login *login = data;
    struct etcd *etcd = login->etcd;
    struct etcd_token *token = &etcd->tokens[login->endpoint];
    struct otr_errmsg msg;
    int status;

    token->login = NULL;
    if (login->only_wait && reply->status == 0) {
        status = OTR_DENIED;
        msg = token->refusal;
    } else {
        status = login_read(login, reply);
        if (status != 0) {
            otr_errmsg_wrap(reply->msg, "log in as %s", etcd->user);
        }
        msg = *reply->msg;
        token->refused_ms = status == OTR_DENIED ? clock_now_ms() : 0;
        token->refusal = msg;
    }
    free(login);
    waits_finish(etcd, token, status, &msg);
}

/* The request's body. */
static int credentials(const struct etcd *etcd, struct json_text *body, struct otr_errmsg *msg)
{
    char from_file[SECRET_FILE_BYTES_MAX];
    const char *password = etcd->password;
    cJSON *json;
    char *text = NULL;
    int rv = 0;

    if (etcd->password_file != NULL) {
        rv = secret_file_read(etcd->password_file, "password", from_file, msg);
        password = from_file;
    }
    if (rv != 0) {
        return rv;
    }
    json = cJSON_CreateObject();
    if (cJSON_AddStringToObject(json, "name", etcd->user) != NULL &&
        cJSON_AddStringToObject(json, "password", password) != NULL) {
        text = cJSON_PrintUnformatted(json);
    }
    cJSON_Delete(json);
    explicit_bzero(from_file, sizeof from_file);
    if (text == NULL) {
        otr_errmsg_set(msg, "%s", otr_strerror(OTR_NOMEM));
        return OTR_NOMEM;
    }
    json_text_add_raw(body, text, strlen(text));
    cJSON_free(text);
    return 0;
}

static int login_start(struct etcd *etcd, unsigned endpoint)
{
    struct etcd_token *token = &etcd->tokens[endpoint];
    struct etcd_login *login = calloc(1, sizeof *login);
    struct etcd_call_spec spec = {
        .path = "/v3/auth/authenticate",
        .lane = ETCD_LANE_REQUEST,
        .endpoint = (int)endpoint,
        .token = ETCD_TOKEN_NONE,
        .done = login_done,
        .data = login,
    };
    struct json_text body = {0};
    int rv;

    if (login == NULL) {
        return OTR_NOMEM;
    }
    login->etcd = etcd;
    login->endpoint = endpoint;
    login->only_wait = token->refused_ms != 0 && clock_now_ms() - token->refused_ms < ETCD_LOGIN_PAUSE_MS;
    if (!login->only_wait && credentials(etcd, &body, &token->refusal) != 0) {
        otr_errmsg_wrap(&token->refusal, "etcd");
        login->only_wait = true;
        token->refused_ms = clock_now_ms();
    }
    spec.path = login->only_wait ? NULL : spec.path;
    rv = etcd_call_start(etcd, &spec, &body, &login->call);
    if (rv != 0) {
        free(login);
        return rv;
    }
    token->login = login;
    return 0;
}

int etcd_auth_wait_start(struct etcd *etcd, unsigned endpoint, struct etcd_auth_wait *wait)
{
    struct etcd_token *token = &etcd->tokens[endpoint];
    struct etcd_auth_wait **end = &token->waits;
    int rv = token->login != NULL ? 0 : login_start(etcd, endpoint);

    if (rv != 0) {
        return rv;
    }
    wait->token = token;
    wait->number = ++etcd->waits_count;
    wait->prev = NULL;
    wait->next = NULL;
    while (*end != NULL) {
        wait->prev = *end;
        end = &(*end)->next;
    }
    *end = wait;
    return 0;
}
