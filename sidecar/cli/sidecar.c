/* Happy path: settings, addresses, data directory, node, API, loop. SIGTERM or SIGINT: the node hands its shards over
 * and leaves the in-sync sets while the API still serves (and says that it is not ready), the API answers what is under
 * way and closes, then the node (it ends its session, so that others need not wait for it), the loop runs empty, exit
 * 0. SIGQUIT: the same without handing over, for when the whole cluster stops. A second signal ends the process at
 * once. What only stopping can answer (on_fatal) closes at once, with exit 1.
 */
#include "sidecar/cli/sidecar.h"

#include "sidecar/api/api.h"
#include "sidecar/cli/coord_access.h"
#include "sidecar/io/log.h"
#include "sidecar/node/node.h"

#include <errno.h>
#include <netdb.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

struct settings {
    const char *cluster;
    const char *node;
    struct topology_address listen, peer_listen;
    const char *peer_ca, *peer_cert, *peer_key;
    const char *advertise;
    const char *backend;
    const char *endpoints;
    struct coord_access coordinator;
    const char *engine;
    const char *engine_url;
    const char *data;
    const char *zone;
    uint32_t session_ttl_ms;
    uint32_t request_timeout_ms;
    uint32_t connections_max, writes_max, gets_max, searches_max, delay_max_ms;
    uint32_t handoff_timeout_ms;
    const char *tokens;
    bool metrics_open;
    const char *tls_cert, *tls_key, *tls_client_ca;
    const char *compression;
    uint32_t compact_live_percent, compact_rate_mb, retain_mb, retain_ms, segment_mb;
    uint32_t scrub_rate_mb, scrub_every_ms;
    const char *log_level;
};

#define OPTION(member) offsetof(struct settings, member)
static const struct option options[] = {
    {"cluster", OPTION_NAME, OPTION(cluster), "NAME", "outrigger", false, 0, 0, "the cluster's name"},
    {"node", OPTION_NAME, OPTION(node), "NAME", NULL, true, 0, 0, "this node's name, the same after a restart"},
    {"listen", OPTION_ADDRESS, OPTION(listen), "IP:PORT", "127.0.0.1:7700", false, 0, 0, "for clients"},
    {"peer-listen", OPTION_ADDRESS, OPTION(peer_listen), "IP:PORT", "127.0.0.1:7701", false, 0, 0,
     "for the other sidecars"},
    {"peer-ca", OPTION_TEXT, OPTION(peer_ca), "FILE", NULL, false, 0, 0,
     "with the next two: mutual TLS between sidecars, which show certificates of this CA"},
    {"peer-cert", OPTION_TEXT, OPTION(peer_cert), "FILE", NULL, false, 0, 0,
     "this node's certificate, for outrigger://CLUSTER/node/NODE; read again when it changes"},
    {"peer-key", OPTION_TEXT, OPTION(peer_key), "FILE", NULL, false, 0, 0, "the key of --peer-cert"},
    {"advertise", OPTION_TEXT, OPTION(advertise), "HOST", NULL, false, 0, 0,
     "how others reach this host (default: the address of --listen, or the host's name)"},
    {"backend", OPTION_TEXT, OPTION(backend), "NAME", "etcd", false, 0, 0, "the coordinator: etcd or consul"},
    {"endpoints", OPTION_TEXT, OPTION(endpoints), "URL,URL", "http://127.0.0.1:2379", false, 0, 0,
     "where the coordinator is"},
    COORD_ACCESS_OPTIONS(struct settings, coordinator),
    {"engine", OPTION_TEXT, OPTION(engine), "NAME", "ruvector", false, 0, 0, "the vector engine: ruvector"},
    {"engine-url", OPTION_TEXT, OPTION(engine_url), "URL", "http://127.0.0.1:6333", false, 0, 0,
     "where the engine is; it need not run yet"},
    {"data", OPTION_TEXT, OPTION(data), "DIR", NULL, true, 0, 0, "where this node keeps its log; made if missing"},
    {"zone", OPTION_NAME, OPTION(zone), "NAME", NULL, false, 0, 0, "replicas go to different zones where possible"},
    {"session-ttl", OPTION_MS, OPTION(session_ttl_ms), "TIME", "3s", false, 1000, 600000,
     "how long the coordinator waits for a silent node"},
    {"request-timeout", OPTION_MS, OPTION(request_timeout_ms), "TIME", "10s", false, 1, 3600000,
     "how long a client's request is held through a failover"},
    {"connections-max", OPTION_NUMBER, OPTION(connections_max), "N", "10000", false, 1, 1000000,
     "of clients; at most three quarters of the file descriptors (ulimit -n)"},
    {"writes-max", OPTION_NUMBER, OPTION(writes_max), "N", "4096", false, 1, 1000000,
     "writes under way here; more are refused with 429"},
    {"gets-max", OPTION_NUMBER, OPTION(gets_max), "N", "8192", false, 1, 1000000, "the same for reads by id"},
    {"searches-max", OPTION_NUMBER, OPTION(searches_max), "N", "1024", false, 1, 1000000, "the same for searches"},
    {"delay-max", OPTION_MS, OPTION(delay_max_ms), "TIME", "500ms", false, 10, 3600000,
     "when even the quickest requests take longer, fewer are let in"},
    {"tokens", OPTION_TEXT, OPTION(tokens), "FILE", NULL, false, 0, 0,
     "who may call: lines that 'outrigger token' writes; read again when it changes (default: everybody)"},
    {"metrics-open", OPTION_FLAG, OPTION(metrics_open), "", NULL, false, 0, 0,
     "with --tokens: /metrics needs none even so"},
    {"handoff-timeout", OPTION_MS, OPTION(handoff_timeout_ms), "TIME", "2s", false, 1, 3600000,
     "how long a sidecar that stops tries to hand its shards over"},
    {"tls-cert", OPTION_TEXT, OPTION(tls_cert), "FILE", NULL, false, 0, 0,
     "certificate for clients, PEM: --listen speaks HTTPS; loaded again when it changes"},
    {"tls-key", OPTION_TEXT, OPTION(tls_key), "FILE", NULL, false, 0, 0, "its key, PEM"},
    {"tls-client-ca", OPTION_TEXT, OPTION(tls_client_ca), "FILE", NULL, false, 0, 0,
     "clients must show a certificate of this CA, PEM"},
    {"compression", OPTION_TEXT, OPTION(compression), "WHEN", "auto", false, 0, 0,
     "for peers, if the cluster's setting allows it: auto (while it pays), always (each byte costs) or never"},
    {"journal-retain", OPTION_NUMBER, OPTION(retain_mb), "MB", "1024", false, 0, 1 << 30,
     "of the newest writes stay in the log for replicas that lag; those further behind are copied whole"},
    {"journal-retain-time", OPTION_MS, OPTION(retain_ms), "TIME", "5min", false, 0, 604800000,
     "and writes younger than this, whatever their size"},
    {"journal-segment", OPTION_NUMBER, OPTION(segment_mb), "MB", "256", false, 1, 4096, "size of the log's files"},
    {"compact-live", OPTION_NUMBER, OPTION(compact_live_percent), "PERCENT", "50", false, 1, 95,
     "files of the log that have left it are rewritten when no more of them is needed"},
    {"compact-rate", OPTION_NUMBER, OPTION(compact_rate_mb), "MB", "32", false, 0, 1 << 20,
     "read and written a second by that; 0: no limit"},
    {"scrub-rate", OPTION_NUMBER, OPTION(scrub_rate_mb), "MB", "8", false, 0, 1 << 20,
     "full files of the log are read again at this rate a second, to find what the disk has lost; 0: never"},
    {"scrub-every", OPTION_MS, OPTION(scrub_every_ms), "TIME", "60min", false, 0, 604800000,
     "all of them so often at most"},
    {"log-level", OPTION_TEXT, OPTION(log_level), "LEVEL", "info", false, 0, 0, "error, warn, info or debug"},
};

/* --- what settings mean ------------------------------------------------------------------------------------------- */

/* Host names become numbers: a listening socket is bound to one address, known before anything is opened. */
static int resolve(const char *option, struct topology_address *a, struct otr_errmsg *msg)
{
    const struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE};
    char numeric[NI_MAXHOST];
    struct addrinfo *found;
    int rv;

    rv = getaddrinfo(a->host, NULL, &hints, &found);
    if (rv != 0) {
        otr_errmsg_set(msg, "--%s: \"%s\" is no address of this host: %s", option, a->host, gai_strerror(rv));
        return OTR_INVALID;
    }
    rv = getnameinfo(found->ai_addr, found->ai_addrlen, numeric, sizeof numeric, NULL, 0, NI_NUMERICHOST);
    freeaddrinfo(found);
    if (rv != 0 || strlen(numeric) > TOPOLOGY_HOST_MAX) {
        otr_errmsg_set(msg, "--%s: the address of \"%s\" cannot be written", option, a->host);
        return OTR_INVALID;
    }
    strcpy(a->host, numeric);
    return 0;
}

/* What others are told: --advertise, else the address listened on; "any address" tells nobody anything, so then it is
 * the host's name. */
static int advertised(const struct settings *s, const struct topology_address *listen, struct topology_address *out,
                      struct otr_errmsg *msg)
{
    char name[TOPOLOGY_HOST_MAX + 1];
    const char *host = s->advertise != NULL ? s->advertise : listen->host;

    if (s->advertise == NULL && (strcmp(host, "0.0.0.0") == 0 || strcmp(host, "::") == 0)) {
        if (gethostname(name, sizeof name) != 0) {
            otr_errmsg_set(msg, "this host has no name: give --advertise");
            return OTR_INVALID;
        }
        name[sizeof name - 1] = '\0';
        host = name;
    }
    if (host[0] == '\0' || strlen(host) > TOPOLOGY_HOST_MAX || strpbrk(host, " /[]\"") != NULL) {
        otr_errmsg_set(msg, "--advertise: \"%s\" is not a host", host);
        return OTR_INVALID;
    }
    strcpy(out->host, host);
    out->port = listen->port;
    return 0;
}

static bool compression_parse(const char *text, enum node_compression *out)
{
    static const char *const names[] = {
        [NODE_COMPRESSION_AUTO] = "auto", [NODE_COMPRESSION_ALWAYS] = "always", [NODE_COMPRESSION_NEVER] = "never"};

    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        if (strcmp(text, names[i]) == 0) {
            *out = (enum node_compression)i;
            return true;
        }
    }
    return false;
}

/* Makes the directory itself, not those above it: a path mistyped or a disk not mounted is no place for data. */
static int prepare_data(const char *path, struct otr_errmsg *msg)
{
    struct stat st;

    if (mkdir(path, 0700) != 0 && errno != EEXIST) {
        otr_errmsg_set(msg, "--data: cannot make the directory %s: %s%s", path, strerror(errno),
                       errno == ENOENT ? "; the directory above it must exist" : "");
        return errno == EACCES ? OTR_DENIED : OTR_IO;
    }
    if (stat(path, &st) != 0 || !S_ISDIR(st.st_mode)) {
        otr_errmsg_set(msg, "--data: %s is not a directory", path);
        return OTR_INVALID;
    }
    if (access(path, R_OK | W_OK | X_OK) != 0) {
        otr_errmsg_set(msg, "--data: cannot write in %s: %s", path, strerror(errno));
        return OTR_DENIED;
    }
    return 0;
}

/* Each connection is a descriptor, and so is each segment of the journal. */
static void raise_descriptors(void)
{
    struct rlimit limit;

    if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < limit.rlim_max) {
        limit.rlim_cur = limit.rlim_max;
        setrlimit(RLIMIT_NOFILE, &limit);
    }
}

/* --- the process -------------------------------------------------------------------------------------------------- */

/* What is under way when the shards are gone has so long; requests are rarely longer. */
enum { FINISH_MS = 1000 };

struct daemon {
    uv_loop_t loop;
    uv_signal_t sigterm, sigint, sigquit;
    uint32_t handoff_timeout_ms;
    struct node *node;
    struct api *api;
    bool stopping; /* asked to */
    bool closing;  /* no longer serving */
    bool failed;
};

static void on_node_closed(void *data)
{
    struct daemon *d = data;

    d->node = NULL;
    uv_close((uv_handle_t *)&d->sigterm, NULL);
    uv_close((uv_handle_t *)&d->sigint, NULL);
    uv_close((uv_handle_t *)&d->sigquit, NULL);
}

static void on_api_closed(void *data)
{
    struct daemon *d = data;

    d->api = NULL;
    node_close(d->node, on_node_closed, d);
}

/* The shards are with others, or the time is over. */
static void on_left(void *data)
{
    struct daemon *d = data;

    if (!d->closing) {
        d->closing = true;
        api_finish(d->api, FINISH_MS, on_api_closed, d);
    }
}

/* At once, or behind what is closing already. */
static void stop(struct daemon *d)
{
    d->stopping = true;
    if (d->closing) {
        return;
    }
    d->closing = true;
    if (d->api != NULL) {
        api_close(d->api, on_api_closed, d);
    } else {
        on_api_closed(d);
    }
}

static void on_signal(uv_signal_t *handle, int number)
{
    struct daemon *d = handle->data;

    if (d->stopping) {
        log_warn("", "stop: %s again, leaving at once", strsignal(number));
        _exit(EXIT_FAILED);
    }
    log_info("", "stop: %s", strsignal(number));
    if (number == SIGQUIT || d->api == NULL) {
        stop(d);
        return;
    }
    d->stopping = true;
    api_leave(d->api);
    node_leave(d->node, d->handoff_timeout_ms, on_left, d);
}

static void on_fatal(void *data, const char *why)
{
    struct daemon *d = data;

    log_error("", "stop: %s", why);
    d->failed = true;
    if (!d->closing && d->node != NULL) {
        stop(d);
    }
}

static int daemon_init(struct daemon *d, struct otr_errmsg *msg)
{
    int rv;

    rv = uv_loop_init(&d->loop);
    rv = rv != 0 ? rv : uv_signal_init(&d->loop, &d->sigterm);
    rv = rv != 0 ? rv : uv_signal_init(&d->loop, &d->sigint);
    rv = rv != 0 ? rv : uv_signal_init(&d->loop, &d->sigquit);
    d->sigterm.data = d;
    d->sigint.data = d;
    d->sigquit.data = d;
    rv = rv != 0 ? rv : uv_signal_start(&d->sigterm, on_signal, SIGTERM);
    rv = rv != 0 ? rv : uv_signal_start(&d->sigint, on_signal, SIGINT);
    rv = rv != 0 ? rv : uv_signal_start(&d->sigquit, on_signal, SIGQUIT);
    if (rv != 0) {
        otr_errmsg_set(msg, "cannot start an event loop: %s", uv_strerror(rv));
        return OTR_IO;
    }
    return 0;
}

/* What was opened is closed by the loop that the caller runs in any case. */
static int daemon_open(struct daemon *d, const struct settings *s, struct otr_errmsg *msg)
{
    struct node_config config = {
        .loop = &d->loop,
        .cluster = s->cluster,
        .node = s->node,
        .zone = s->zone != NULL ? s->zone : "",
        .data_dir = s->data,
        .peer_listen_host = s->peer_listen.host,
        .peer_listen_port = s->peer_listen.port,
        .peer_ca = s->peer_ca,
        .peer_cert = s->peer_cert,
        .peer_key = s->peer_key,
        .backend = otr_backend_find(s->backend),
        .backend_config = {.endpoints = s->endpoints},
        .engine = otr_engine_find(s->engine),
        .engine_config = {.url = s->engine_url},
        .session_ttl_ms = s->session_ttl_ms,
        .delay_max_ms = s->delay_max_ms,
        .compaction = {.retain_bytes = (uint64_t)s->retain_mb << 20,
                       .retain_ms = s->retain_ms,
                       .live_percent = s->compact_live_percent,
                       .bytes_per_s = (uint64_t)s->compact_rate_mb << 20,
                       .segment_bytes = (uint64_t)s->segment_mb << 20},
        .scrub_bytes_per_s = (uint64_t)s->scrub_rate_mb << 20,
        .scrub_every_ms = s->scrub_every_ms,
        .on_fatal = on_fatal,
        .data = d,
        .on_call = door_on_call,
    };
    struct api_config api_config = {.listen_host = s->listen.host,
                                    .listen_port = s->listen.port,
                                    .request_timeout_ms = s->request_timeout_ms,
                                    .connections_max = s->connections_max,
                                    .writes_max = s->writes_max,
                                    .gets_max = s->gets_max,
                                    .searches_max = s->searches_max,
                                    .delay_max_ms = s->delay_max_ms,
                                    .tokens_path = s->tokens,
                                    .metrics_open = s->metrics_open,
                                    .tls_cert = s->tls_cert,
                                    .tls_key = s->tls_key,
                                    .tls_client_ca = s->tls_client_ca};
    int rv;

    (void)compression_parse(s->compression, &config.compression); /* check() has refused other words */
    rv = coord_access_apply(&s->coordinator, &config.backend_config, msg);
    rv = rv != 0 ? rv : advertised(s, &s->listen, &config.client, msg);
    config.client.tls = s->tls_cert != NULL;
    rv = rv != 0 ? rv : advertised(s, &s->peer_listen, &config.peer, msg);
    rv = rv != 0 ? rv : node_new(&d->node, &config, msg);
    if (rv != 0) {
        uv_close((uv_handle_t *)&d->sigterm, NULL);
        uv_close((uv_handle_t *)&d->sigint, NULL);
        uv_close((uv_handle_t *)&d->sigquit, NULL);
        return rv;
    }
    api_config.node = d->node;
    rv = api_new(&d->api, &api_config, msg);
    if (rv != 0) {
        d->api = NULL;
        stop(d);
    } else if (d->failed) { /* before there was anything to stop */
        stop(d);
    }
    return rv;
}

/* Settings whose words only this command knows. */
static int check(struct settings *s, struct otr_errmsg *msg)
{
    enum node_compression compression;
    enum log_level level;
    int rv;

    if (!log_level_parse(s->log_level, &level)) {
        otr_errmsg_set(msg, "--log-level: \"%s\" is none of error, warn, info, debug", s->log_level);
        return OTR_INVALID;
    }
    log_set_level(level);
    if (!compression_parse(s->compression, &compression)) {
        otr_errmsg_set(msg, "--compression: \"%s\" is none of auto, always, never", s->compression);
        return OTR_INVALID;
    }
    if (otr_backend_find(s->backend) == NULL) {
        otr_errmsg_set(msg, "--backend: there is no \"%s\"; this version has: etcd, consul", s->backend);
        return OTR_INVALID;
    }
    if (otr_engine_find(s->engine) == NULL) {
        otr_errmsg_set(msg, "--engine: there is no \"%s\"; this version has: ruvector", s->engine);
        return OTR_INVALID;
    }
    if ((s->tls_cert != NULL) != (s->tls_key != NULL) || (s->tls_client_ca != NULL && s->tls_cert == NULL)) {
        otr_errmsg_set(msg, "--tls-cert and --tls-key: one does not go without the other, nor --tls-client-ca without "
                            "both");
        return OTR_INVALID;
    }
    if ((s->peer_ca == NULL) != (s->peer_cert == NULL) || (s->peer_ca == NULL) != (s->peer_key == NULL)) {
        otr_errmsg_set(msg, "--peer-ca, --peer-cert and --peer-key: all three are needed, or none; --%s is missing",
                       s->peer_ca == NULL     ? "peer-ca"
                       : s->peer_cert == NULL ? "peer-cert"
                                              : "peer-key");
        return OTR_INVALID;
    }
    rv = resolve("listen", &s->listen, msg);
    rv = rv != 0 ? rv : resolve("peer-listen", &s->peer_listen, msg);
    return rv;
}

static int serve(const struct settings *s, struct otr_errmsg *msg)
{
    struct daemon d = {.handoff_timeout_ms = s->handoff_timeout_ms};
    int rv;

    signal(SIGPIPE, SIG_IGN);
    raise_descriptors();
    rv = prepare_data(s->data, msg);
    rv = rv != 0 ? rv : daemon_init(&d, msg);
    if (rv != 0) {
        return rv;
    }
    rv = daemon_open(&d, s, msg);
    if (rv == 0) {
        log_info("", "serve: cluster %s node %s clients %s:%u peers %s:%u data %s", s->cluster, s->node, s->listen.host,
                 s->listen.port, s->peer_listen.host, s->peer_listen.port, s->data);
    }
    uv_run(&d.loop, UV_RUN_DEFAULT);
    uv_loop_close(&d.loop);
    if (rv == 0 && d.failed) {
        otr_errmsg_set(msg, "stopped for the reason above");
        rv = OTR_IO;
    }
    return rv;
}

static int run(const struct command *command, int argc, char **argv)
{
    struct settings s = {.cluster = NULL};
    struct options_memory memory = {0};
    struct otr_errmsg msg = {0};
    int exit_code;
    int rv;

    if (!options_read(command, argc, argv, &s, &memory, &exit_code)) {
        return exit_code;
    }
    exit_code = EXIT_OK;
    rv = check(&s, &msg);
    if (rv != 0) {
        exit_code = EXIT_USAGE;
    } else {
        rv = serve(&s, &msg);
        exit_code = rv == 0 ? EXIT_OK : EXIT_FAILED;
    }
    if (rv != 0) {
        fprintf(stderr, "outrigger sidecar: %s\n", msg.text[0] != '\0' ? msg.text : otr_strerror(rv));
    }
    options_memory_close(&memory);
    return exit_code;
}

const struct command sidecar_command = {
    .name = "sidecar",
    .about = "serves one node of a cluster, beside its vector engine.\n\n"
             "Runs in the foreground and logs to standard error. Any sidecar answers clients for the whole cluster.\n"
             "Neither the engine nor the coordinator needs to be there at the start: the sidecar waits for them, and\n"
             "for 'outrigger cluster init'. SIGTERM hands its shards over and stops in order; a second\n"
             "signal stops it at once. SIGQUIT stops in order without handing over, for the end of the whole cluster.",
    .examples = "  outrigger sidecar --node node-1 --data /var/lib/outrigger --endpoints http://10.0.0.5:2379 \\\n"
                "      --listen 10.0.0.1:7700 --peer-listen 10.0.0.1:7701 --engine-url http://127.0.0.1:6333\n"
                "  OUTRIGGER_NODE=node-1 outrigger sidecar --config /etc/outrigger.yaml\n"
                "      (with lines like  data: /var/lib/outrigger  and  endpoints: [http://a:2379, http://b:2379])\n",
    .options = options,
    .options_count = sizeof options / sizeof options[0],
    .config_file = true,
    .run = run,
};
