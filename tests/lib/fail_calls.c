/* Makes a call of the C library, libuv, libcurl or nghttp2 fail in a program that knows nothing of it: such calls as
 * can fail in earnest. The Makefile links such a program with -Wl,--wrap=NAME for every name below (it reads them from
 * this file), so that what its objects and static libraries call goes through here; what shared libraries call among
 * themselves does not. The environment says what fails:
 *
 *     OUTRIGGER_FAIL=memory:17    the 17th allocation of the process returns NULL, once
 *     OUTRIGGER_FAIL=call:17      the 17th other call fails, once, in the way it does in earnest
 *     OUTRIGGER_FAIL=count        none; the end of the process says how many there were
 *
 * What fails is said on standard error before it does; with OUTRIGGER_FAIL_TRACE set and AddressSanitizer, where it was
 * called from, too. All threads count together. */
#include <curl/curl.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <nghttp2/nghttp2.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>
#include <uv.h>

enum kind { MEMORY, CALL };
static const char *const kinds[] = {[MEMORY] = "memory", [CALL] = "call"};

static atomic_uint_fast64_t counts[2];
static uint64_t fail_at[2];

static void print_counts(void)
{
    fprintf(stderr, "fail_calls: %llu memory, %llu call\n", (unsigned long long)counts[MEMORY],
            (unsigned long long)counts[CALL]);
}

__attribute__((constructor)) static void read_environment(void)
{
    const char *text = getenv("OUTRIGGER_FAIL");

    for (int k = MEMORY; text != NULL && k <= CALL; k++) {
        size_t bytes = strlen(kinds[k]);
        if (strncmp(text, kinds[k], bytes) == 0 && text[bytes] == ':') {
            fail_at[k] = strtoull(text + bytes + 1, NULL, 10);
        }
    }
    if (text != NULL && strcmp(text, "count") == 0) {
        atexit(print_counts);
    }
}

/* There is one in programs with AddressSanitizer. */
__attribute__((weak)) void __sanitizer_print_stack_trace(void);

static bool fails(enum kind kind, const char *name)
{
    uint64_t number = atomic_fetch_add(&counts[kind], 1) + 1;
    char text[128];
    int bytes;

    if (number != fail_at[kind]) {
        return false;
    }
    bytes =
        snprintf(text, sizeof text, "fail_calls: %s %llu (%s) fails\n", kinds[kind], (unsigned long long)number, name);
    if (getenv("OUTRIGGER_FAIL_TRACE") != NULL && __sanitizer_print_stack_trace != NULL) {
        __sanitizer_print_stack_trace();
    }
    return write(STDERR_FILENO, text, (size_t)bytes) == bytes;
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

/* WRAP(name, kind, type, (parameters), (arguments), what a failure does). The linker's names: a call of malloc()
 * becomes
 * __wrap_malloc(), and __real_malloc() is the library's. */
#define WRAP(name, kind, type, parameters, arguments, ...) \
    type __real_##name parameters;                         \
    type __wrap_##name parameters;                         \
    type __wrap_##name parameters                          \
    {                                                      \
        if (fails(kind, #name)) {                          \
            __VA_ARGS__;                                   \
        }                                                  \
        return __real_##name arguments;                    \
    }
#define ERRNO(number) \
    errno = (number); \
    return -1

/* clang-format off */
WRAP(malloc, MEMORY, void *, (size_t n), (n), return NULL)
WRAP(calloc, MEMORY, void *, (size_t n, size_t bytes), (n, bytes), return NULL)
WRAP(realloc, MEMORY, void *, (void *p, size_t n), (p, n), return NULL)
WRAP(strdup, MEMORY, char *, (const char *s), (s), return NULL)
WRAP(strndup, MEMORY, char *, (const char *s, size_t n), (s, n), return NULL)

WRAP(openat, CALL, int, (int dir, const char *path, int flags, mode_t mode), (dir, path, flags, mode), ERRNO(EMFILE))
WRAP(pread, CALL, ssize_t, (int fd, void *buf, size_t n, off_t at), (fd, buf, n, at), ERRNO(EIO))
WRAP(pwrite, CALL, ssize_t, (int fd, const void *buf, size_t n, off_t at), (fd, buf, n, at), ERRNO(ENOSPC))
WRAP(fdatasync, CALL, int, (int fd), (fd), ERRNO(EIO))
WRAP(fsync, CALL, int, (int fd), (fd), ERRNO(EIO))
WRAP(ftruncate, CALL, int, (int fd, off_t n), (fd, n), ERRNO(EIO))
WRAP(fstat, CALL, int, (int fd, struct stat *st), (fd, st), ERRNO(EIO))
WRAP(renameat, CALL, int, (int a, const char *from, int b, const char *to), (a, from, b, to), ERRNO(EIO))
WRAP(unlinkat, CALL, int, (int dir, const char *path, int flags), (dir, path, flags), ERRNO(EIO))
WRAP(flock, CALL, int, (int fd, int op), (fd, op), ERRNO(ENOLCK))
WRAP(getrandom, CALL, ssize_t, (void *buf, size_t n, unsigned flags), (buf, n, flags), ERRNO(EINTR))
WRAP(pthread_create, CALL, int, (pthread_t *t, const pthread_attr_t *a, void *(*f)(void *), void *p), (t, a, f, p), return EAGAIN)

WRAP(uv_async_init, CALL, int, (uv_loop_t *l, uv_async_t *h, uv_async_cb cb), (l, h, cb), return UV_EMFILE)
WRAP(uv_tcp_bind, CALL, int, (uv_tcp_t *h, const struct sockaddr *a, unsigned f), (h, a, f), return UV_EADDRINUSE)
WRAP(uv_listen, CALL, int, (uv_stream_t *h, int n, uv_connection_cb cb), (h, n, cb), if (!listens(h)) return UV_EADDRINUSE)
WRAP(uv_tcp_connect, CALL, int, (uv_connect_t *r, uv_tcp_t *h, const struct sockaddr *a, uv_connect_cb cb), (r, h, a, cb), return UV_EMFILE)
WRAP(uv_tcp_nodelay, CALL, int, (uv_tcp_t *h, int on), (h, on), return UV_EINVAL)
WRAP(uv_read_start, CALL, int, (uv_stream_t *h, uv_alloc_cb a, uv_read_cb r), (h, a, r), return UV_ENOTCONN)
WRAP(uv_write, CALL, int, (uv_write_t *r, uv_stream_t *h, const uv_buf_t *b, unsigned n, uv_write_cb cb), (r, h, b, n, cb), return UV_ENOMEM)
WRAP(uv_shutdown, CALL, int, (uv_shutdown_t *r, uv_stream_t *h, uv_shutdown_cb cb), (r, h, cb), return UV_ENOTCONN)
WRAP(uv_getaddrinfo, CALL, int, (uv_loop_t *l, uv_getaddrinfo_t *r, uv_getaddrinfo_cb cb, const char *n, const char *s, const struct addrinfo *h), (l, r, cb, n, s, h), return UV_ENOMEM)
WRAP(uv_poll_init_socket, CALL, int, (uv_loop_t *l, uv_poll_t *h, uv_os_sock_t s), (l, h, s), return UV_ENOMEM)
WRAP(uv_poll_start, CALL, int, (uv_poll_t *h, int events, uv_poll_cb cb), (h, events, cb), return UV_EBADF)

WRAP(curl_easy_init, CALL, CURL *, (void), (), return NULL)
WRAP(curl_multi_init, CALL, CURLM *, (void), (), return NULL)
WRAP(curl_multi_add_handle, CALL, CURLMcode, (CURLM *m, CURL *e), (m, e), return CURLM_OUT_OF_MEMORY)
WRAP(curl_slist_append, CALL, struct curl_slist *, (struct curl_slist *l, const char *s), (l, s), return NULL)

WRAP(nghttp2_session_mem_send, CALL, ssize_t, (nghttp2_session *s, const uint8_t **data), (s, data), return NGHTTP2_ERR_NOMEM)
WRAP(nghttp2_session_mem_recv, CALL, ssize_t, (nghttp2_session *s, const uint8_t *data, size_t n), (s, data, n), return NGHTTP2_ERR_NOMEM)
WRAP(nghttp2_submit_request, CALL, int32_t, (nghttp2_session *s, const nghttp2_priority_spec *p, const nghttp2_nv *v, size_t n, const nghttp2_data_provider *d, void *u), (s, p, v, n, d, u), return NGHTTP2_ERR_NOMEM)
WRAP(nghttp2_submit_response, CALL, int, (nghttp2_session *s, int32_t id, const nghttp2_nv *v, size_t n, const nghttp2_data_provider *d), (s, id, v, n, d), return NGHTTP2_ERR_NOMEM)
WRAP(nghttp2_submit_ping, CALL, int, (nghttp2_session *s, uint8_t f, const uint8_t *o), (s, f, o), return NGHTTP2_ERR_NOMEM)
WRAP(nghttp2_session_resume_data, CALL, int, (nghttp2_session *s, int32_t id), (s, id), return NGHTTP2_ERR_NOMEM)
/* clang-format on */
