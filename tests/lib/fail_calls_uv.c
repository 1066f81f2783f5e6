/* The calls of programs that have a loop; see fail_calls.h. */
#include "tests/lib/fail_calls.h"

#include <cjson/cJSON.h>
#include <curl/curl.h>
#include <nghttp2/nghttp2.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <uv.h>

void *__wrap_malloc(size_t bytes); /* fail_calls.c */

/* Not in the whole program: there a cluster's JSON would be all that ever fails. */
__attribute__((constructor)) static void count_json(void)
{
    cJSON_Hooks hooks = {.malloc_fn = __wrap_malloc, .free_fn = free};

    if (getenv("OUTRIGGER_FAIL") == NULL) {
        cJSON_InitHooks(&hooks);
    }
}

/* One that listens already only gets its callback. */
static bool listens(uv_stream_t *stream)
{
    int yes = 0;
    socklen_t bytes = sizeof yes;
    uv_os_fd_t fd;

    return uv_fileno((uv_handle_t *)stream, &fd) == 0 && getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &yes, &bytes) == 0 &&
           yes != 0;
}

/* clang-format off */
WRAP(uv_async_init, FAIL_CALL, int, (uv_loop_t *l, uv_async_t *h, uv_async_cb cb), (l, h, cb), return UV_EMFILE)
WRAP(uv_tcp_bind, FAIL_CALL, int, (uv_tcp_t *h, const struct sockaddr *a, unsigned f), (h, a, f), return UV_EADDRINUSE)
WRAP(uv_listen, FAIL_CALL, int, (uv_stream_t *h, int n, uv_connection_cb cb), (h, n, cb), if (!listens(h)) return UV_EADDRINUSE)
WRAP(uv_tcp_connect, FAIL_CALL, int, (uv_connect_t *r, uv_tcp_t *h, const struct sockaddr *a, uv_connect_cb cb), (r, h, a, cb), return UV_EMFILE)
WRAP(uv_tcp_nodelay, FAIL_CALL, int, (uv_tcp_t *h, int on), (h, on), return UV_EINVAL)
WRAP(uv_read_start, FAIL_CALL, int, (uv_stream_t *h, uv_alloc_cb a, uv_read_cb r), (h, a, r), return UV_ENOTCONN)
WRAP(uv_write, FAIL_CALL, int, (uv_write_t *r, uv_stream_t *h, const uv_buf_t *b, unsigned n, uv_write_cb cb), (r, h, b, n, cb), return UV_ENOMEM)
WRAP(uv_try_write, FAIL_CALL, int, (uv_stream_t *h, const uv_buf_t *b, unsigned n), (h, b, n), return UV_EAGAIN)
WRAP(uv_shutdown, FAIL_CALL, int, (uv_shutdown_t *r, uv_stream_t *h, uv_shutdown_cb cb), (r, h, cb), return UV_ENOTCONN)
WRAP(uv_getaddrinfo, FAIL_CALL, int, (uv_loop_t *l, uv_getaddrinfo_t *r, uv_getaddrinfo_cb cb, const char *n, const char *s, const struct addrinfo *h), (l, r, cb, n, s, h), return UV_ENOMEM)
WRAP(uv_poll_init_socket, FAIL_CALL, int, (uv_loop_t *l, uv_poll_t *h, uv_os_sock_t s), (l, h, s), return UV_ENOMEM)
WRAP(uv_poll_start, FAIL_CALL, int, (uv_poll_t *h, int events, uv_poll_cb cb), (h, events, cb), return UV_EBADF)
WRAP(curl_easy_init, FAIL_CALL, CURL *, (void), (), return NULL)
WRAP(curl_multi_init, FAIL_CALL, CURLM *, (void), (), return NULL)
WRAP(curl_multi_add_handle, FAIL_CALL, CURLMcode, (CURLM *m, CURL *e), (m, e), return CURLM_OUT_OF_MEMORY)
WRAP(curl_slist_append, FAIL_CALL, struct curl_slist *, (struct curl_slist *l, const char *s), (l, s), return NULL)
WRAP(nghttp2_session_mem_send, FAIL_CALL, ssize_t, (nghttp2_session *s, const uint8_t **data), (s, data), return NGHTTP2_ERR_NOMEM)
WRAP(nghttp2_session_mem_recv, FAIL_CALL, ssize_t, (nghttp2_session *s, const uint8_t *data, size_t n), (s, data, n), return NGHTTP2_ERR_NOMEM)
WRAP(nghttp2_submit_request, FAIL_CALL, int32_t, (nghttp2_session *s, const nghttp2_priority_spec *p, const nghttp2_nv *v, size_t n, const nghttp2_data_provider *d, void *u), (s, p, v, n, d, u), return NGHTTP2_ERR_NOMEM)
WRAP(nghttp2_submit_response, FAIL_CALL, int, (nghttp2_session *s, int32_t id, const nghttp2_nv *v, size_t n, const nghttp2_data_provider *d), (s, id, v, n, d), return NGHTTP2_ERR_NOMEM)
WRAP(nghttp2_submit_ping, FAIL_CALL, int, (nghttp2_session *s, uint8_t f, const uint8_t *o), (s, f, o), return NGHTTP2_ERR_NOMEM)
WRAP(nghttp2_session_resume_data, FAIL_CALL, int, (nghttp2_session *s, int32_t id), (s, id), return NGHTTP2_ERR_NOMEM)
WRAP(uv_loop_init, FAIL_CALL, int, (uv_loop_t *l), (l), return UV_EMFILE)
WRAP(nghttp2_session_client_new2, FAIL_CALL, int, (nghttp2_session **s, const nghttp2_session_callbacks *c, void *d, const nghttp2_option *o), (s, c, d, o), return NGHTTP2_ERR_NOMEM)
WRAP(nghttp2_session_server_new2, FAIL_CALL, int, (nghttp2_session **s, const nghttp2_session_callbacks *c, void *d, const nghttp2_option *o), (s, c, d, o), return NGHTTP2_ERR_NOMEM)
WRAP(nghttp2_submit_settings, FAIL_CALL, int, (nghttp2_session *s, uint8_t f, const nghttp2_settings_entry *e, size_t n), (s, f, e, n), return NGHTTP2_ERR_NOMEM)
WRAP(nghttp2_submit_trailer, FAIL_CALL, int, (nghttp2_session *s, int32_t id, const nghttp2_nv *v, size_t n), (s, id, v, n), return NGHTTP2_ERR_NOMEM)
WRAP(nghttp2_submit_rst_stream, FAIL_CALL, int, (nghttp2_session *s, uint8_t f, int32_t id, uint32_t e), (s, f, id, e), return NGHTTP2_ERR_NOMEM)
WRAP(SSL_CTX_new, FAIL_CALL, SSL_CTX *, (const SSL_METHOD *m), (m), return NULL)
WRAP(SSL_new, FAIL_CALL, SSL *, (SSL_CTX *c), (c), return NULL)
WRAP(BIO_new, FAIL_CALL, BIO *, (const BIO_METHOD *m), (m), return NULL)
WRAP(X509_new, FAIL_CALL, X509 *, (void), (), return NULL)
WRAP(X509_sign, FAIL_CALL, int, (X509 *x, EVP_PKEY *k, const EVP_MD *d), (x, k, d), return 0)
WRAP(X509_add1_ext_i2d, FAIL_CALL, int, (X509 *x, int n, void *v, int c, unsigned long f), (x, n, v, c, f), return 0)
WRAP(X509V3_EXT_conf_nid, FAIL_CALL, X509_EXTENSION *, (LHASH_OF(CONF_VALUE) *c, X509V3_CTX *x, int n, const char *v), (c, x, n, v), return NULL)
WRAP(BN_new, FAIL_CALL, BIGNUM *, (void), (), return NULL)
WRAP(PEM_write_X509, FAIL_CALL, int, (FILE *f, const X509 *x), (f, x), return 0)
WRAP(PEM_write_PKCS8PrivateKey, FAIL_CALL, int, (FILE *f, const EVP_PKEY *k, const EVP_CIPHER *e, const char *s, int n, pem_password_cb *cb, void *u), (f, k, e, s, n, cb, u), return 0)
/* clang-format on */
