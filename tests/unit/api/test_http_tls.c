/* All of test_http.c once more, over TLS: requests, limits and bounds are the same; but not what fails below TLS. */
#include "sidecar/api/http.h"
#include "tests/lib/temp_dir.h"
#include "tests/lib/test_certs.h"
#include "tests/unit/api/client.h"

#include <assert.h>
#include <stdio.h>

static struct tls *identity;
static struct temp_dir dir;

static void open_identity(uv_loop_t *loop)
{
    struct test_cert ca = test_ca("ca");
    struct test_cert cert = test_cert_make(&(struct test_cert_spec){.name = "api", .issuer = &ca, .dns = "localhost"});
    struct otr_errmsg msg = {0};
    struct tls_config config = {.label = "api", .alpn = "http/1.1"};
    char cert_path[512];
    char key_path[512];

    temp_dir_init(&dir);
    snprintf(cert_path, sizeof cert_path, "%s/cert", dir.path);
    snprintf(key_path, sizeof key_path, "%s/key", dir.path);
    test_cert_write(&cert, cert_path, key_path);
    test_cert_free(&cert);
    test_cert_free(&ca);
    config.cert_file = cert_path;
    config.key_file = key_path;
    assert(tls_new(&identity, loop, &config, &msg) == 0);
    client_tls = test_ssl_ctx(NULL, NULL);
}

static int server_new(struct http_server **out, const struct http_server_config *config, struct otr_errmsg *msg)
{
    struct http_server_config with_tls = *config;

    if (identity == NULL) {
        open_identity(config->loop);
    }
    with_tls.tls = identity;
    return http_server_new(out, &with_tls, msg);
}

static void nothing(void *data)
{
    (void)data;
}

static void server_close(struct http_server *s, void (*cb)(void *data), void *data)
{
    http_server_close(s, cb, data);
    tls_close(identity, nothing, NULL);
    identity = NULL;
    temp_dir_close(&dir);
    SSL_CTX_free(client_tls);
}

#define http_server_new   server_new
#define http_server_close server_close
#define http              http_tls
#define WITH_TLS          1
#include "tests/unit/api/test_http.c"
