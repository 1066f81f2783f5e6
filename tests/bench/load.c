/* Load on a cluster: load --endpoints HOST:PORT,... --collection C [...]; prints one line of JSON.
 *
 *   --op put|get|search   what to do (put)
 *   --clients N           each a thread with one connection, to the endpoints in turn (16)
 *   --batch N             points of a put (1)
 *   --dimension N         (256)
 *   --seconds S           how long (5); or --total N: so many points in all, each id once
 *   --keys N              ids of each client, used in turn (1000)
 *   --shards N            puts of one point: client i writes to shard i mod N only, so that one shard's failover stops
 *                         nobody else; which id lies where is learned from the answers first
 *   --timeline FILE       one line per acknowledged put: microseconds of CLOCK_MONOTONIC, shard, microseconds it took
 *
 * A request whose connection breaks, or that is answered 503 or 429, goes to the next endpoint with the same request
 * id: "broken" and "refused" count these. "failed" are other answers than 200. Times are those of whole calls, retries
 * included. One blocking socket a thread and no parsing but of status, length and position: it must cost less than what
 * it measures. */
#include <arpa/inet.h>
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum {
    ENDPOINTS_MAX = 16,
    VECTORS = 512, /* different ones; enough that no two neighbours are alike */
    SAMPLES_MAX = 1 << 20,
    ANSWER_MAX = 1 << 20,
    OWN_KEYS = 50, /* ids that a client of --shards uses */
    ANSWER_S = 20,
};

enum op { OP_PUT, OP_GET, OP_SEARCH };

static struct {
    struct sockaddr_in endpoints[ENDPOINTS_MAX];
    unsigned endpoints_count;
    const char *collection;
    enum op op;
    unsigned clients, batch, dimension, shards, keys;
    uint64_t total;
    double seconds;
    FILE *timeline;
} settings = {.clients = 16, .batch = 1, .dimension = 256, .keys = 1000, .seconds = 5};

static char *vectors[VECTORS];
static atomic_ullong points_taken;
static atomic_bool learned_all; /* --shards: every client knows its ids */
static atomic_uint learners;
static pthread_mutex_t timeline_mutex = PTHREAD_MUTEX_INITIALIZER;

struct client {
    pthread_t thread;
    unsigned number, endpoint;
    int fd;
    uint64_t dice;
    char *request, *answer;
    size_t request_room, request_bytes;
    int shard; /* of the last answer's position */
    uint64_t own[OWN_KEYS];
    unsigned own_count;
    uint32_t *samples_us;
    size_t samples_count;
    uint64_t calls, points, broken, refused, failed;
    int64_t first_us, last_us;
    char failure[200];
};

static int64_t now_us(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

static uint64_t roll(uint64_t *dice)
{
    *dice ^= *dice << 13;
    *dice ^= *dice >> 7;
    *dice ^= *dice << 17;
    return *dice;
}

static void die(const char *what)
{
    fprintf(stderr, "load: %s: %s\n", what, strerror(errno));
    exit(1);
}

/* --- requests ----------------------------------------------------------------------------------------------------- */

static void make_vectors(void)
{
    uint64_t dice = 88172645463325252u;

    for (unsigned i = 0; i < VECTORS; i++) {
        size_t used = 0;

        vectors[i] = malloc(settings.dimension * 10 + 2);
        for (unsigned d = 0; d < settings.dimension; d++) {
            used += (size_t)sprintf(vectors[i] + used, "%s%.5f", d != 0 ? "," : "",
                                    (double)(roll(&dice) % 200001) / 100000 - 1);
        }
    }
}

static void put_key(char *out, uint64_t client, uint64_t key)
{
    sprintf(out, "k%" PRIu64 "-%" PRIu64, client, key);
}

/* Head and body in one piece. `first`: number of the first key. */
static void make_request(struct client *c, uint64_t first, unsigned batch)
{
    char *body = c->request + 512; /* the head goes before it, once its length is known */
    char head[512];
    char key[48];
    size_t used = 0;
    int bytes;

    if (settings.op == OP_GET) {
        put_key(key, c->number, first);
        bytes =
            sprintf(c->request, "GET /collections/%s/points/%s HTTP/1.1\r\nHost: x\r\n\r\n", settings.collection, key);
        c->request_bytes = (size_t)bytes;
        return;
    }
    if (settings.op == OP_SEARCH) {
        used = (size_t)sprintf(body, "{\"vector\":[%s],\"k\":10}", vectors[roll(&c->dice) % VECTORS]);
        bytes = sprintf(head,
                        "POST /collections/%s/points/search HTTP/1.1\r\nHost: x\r\nContent-Length: %zu\r\n"
                        "Content-Type: application/json\r\n\r\n",
                        settings.collection, used);
    } else {
        used = (size_t)sprintf(body, "{\"points\":[");
        for (unsigned i = 0; i < batch; i++) {
            put_key(key, c->number, first + i);
            used += (size_t)sprintf(body + used, "%s{\"id\":\"%s\",\"vector\":[%s]}", i != 0 ? "," : "", key,
                                    vectors[roll(&c->dice) % VECTORS]);
        }
        used += (size_t)sprintf(body + used, "]}");
        bytes = sprintf(head,
                        "PUT /collections/%s/points HTTP/1.1\r\nHost: x\r\nContent-Length: %zu\r\n"
                        "Content-Type: application/json\r\nOutrigger-Request-Id: %016" PRIx64 "%016" PRIx64 "\r\n\r\n",
                        settings.collection, used, roll(&c->dice), roll(&c->dice));
    }
    memmove(c->request + bytes, body, used);
    memcpy(c->request, head, (size_t)bytes);
    c->request_bytes = (size_t)bytes + used;
}

/* --- one exchange ------------------------------------------------------------------------------------------------- */

static bool dial(struct client *c)
{
    struct timeval timeout = {.tv_sec = ANSWER_S};
    int one = 1;

    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    setsockopt(c->fd, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof timeout);
    return connect(c->fd, (struct sockaddr *)&settings.endpoints[c->endpoint], sizeof settings.endpoints[0]) == 0;
}

static void hang_up(struct client *c)
{
    close(c->fd);
    c->fd = -1;
}

static bool send_all(struct client *c)
{
    for (size_t sent = 0; sent < c->request_bytes;) {
        ssize_t rv = send(c->fd, c->request + sent, c->request_bytes - sent, MSG_NOSIGNAL);

        if (rv <= 0) {
            return false;
        }
        sent += (size_t)rv;
    }
    return true;
}

/* The status; 0: the connection broke. */
static int receive(struct client *c)
{
    size_t got = 0;
    char *end = NULL;
    char *field;
    size_t length, whole = 0;

    for (;;) {
        ssize_t rv;

        if (end == NULL && got > 0) {
            c->answer[got] = '\0';
            end = strstr(c->answer, "\r\n\r\n");
            if (end != NULL) {
                field = strstr(c->answer, "Content-Length: ");
                length = field != NULL && field < end ? strtoul(field + 16, NULL, 10) : 0;
                whole = (size_t)(end - c->answer) + 4 + length;
            }
        }
        if (end != NULL && got >= whole) {
            break;
        }
        rv = recv(c->fd, c->answer + got, ANSWER_MAX - 1 - got, 0);
        if (rv <= 0) {
            return 0;
        }
        got += (size_t)rv;
    }
    field = strstr(c->answer, "Outrigger-Position: ");
    c->shard = field != NULL && field < end ? atoi(field + 20) : -1;
    return atoi(c->answer + 9);
}

/* Until it is answered for good. */
static int call(struct client *c)
{
    for (;;) {
        int status = 0;

        if (c->fd >= 0 || dial(c)) {
            status = send_all(c) ? receive(c) : 0;
        }
        if (status != 0 && status != 503 && status != 429) {
            return status;
        }
        if (status == 0) {
            c->broken++;
        } else {
            c->refused++;
        }
        hang_up(c);
        c->endpoint = (c->endpoint + 1) % settings.endpoints_count;
        if ((c->broken + c->refused) % settings.endpoints_count == 0) {
            usleep(1000);
        }
    }
}

static void note(struct client *c, int status, int64_t began_us, unsigned batch)
{
    int64_t ended_us = now_us();

    c->calls++;
    if (status != 200) {
        if (c->failed++ == 0) {
            snprintf(c->failure, sizeof c->failure, "%.199s", strstr(c->answer, "\r\n\r\n") + 4);
        }
        return;
    }
    c->points += batch;
    c->last_us = ended_us;
    if (c->samples_count < SAMPLES_MAX) {
        c->samples_us[c->samples_count++] = (uint32_t)(ended_us - began_us);
    }
    if (settings.timeline != NULL) {
        pthread_mutex_lock(&timeline_mutex);
        fprintf(settings.timeline, "%" PRId64 " %d %" PRId64 "\n", ended_us, c->shard, ended_us - began_us);
        pthread_mutex_unlock(&timeline_mutex);
    }
}

/* --- clients ------------------------------------------------------------------------------------------------------ */

/* Writes until it has ids enough that lie in its shard. */
static void learn(struct client *c)
{
    for (uint64_t key = 0; c->own_count < OWN_KEYS; key++) {
        make_request(c, key, 1);
        if (call(c) == 200 && c->shard == (int)(c->number % settings.shards)) {
            c->own[c->own_count++] = key;
        }
    }
    if (atomic_fetch_sub(&learners, 1) == 1) {
        atomic_store(&learned_all, true);
    }
    while (!atomic_load(&learned_all)) {
        usleep(1000);
    }
}

static void *client_run(void *data)
{
    struct client *c = data;
    int64_t end_us;

    if (settings.shards != 0) {
        learn(c);
    }
    c->first_us = now_us();
    end_us = c->first_us + (int64_t)(settings.seconds * 1e6);
    for (uint64_t turn = 0;; turn++) {
        unsigned batch = settings.op == OP_PUT ? settings.batch : 1;
        uint64_t first = turn * batch % settings.keys;
        int64_t began_us = now_us();

        if (settings.total != 0) {
            first = atomic_fetch_add(&points_taken, batch);
            if (first >= settings.total) {
                break;
            }
            batch = first + batch > settings.total ? (unsigned)(settings.total - first) : batch;
        } else if (began_us >= end_us) {
            break;
        }
        if (settings.shards != 0) {
            first = c->own[turn % OWN_KEYS];
        }
        make_request(c, first, batch);
        began_us = now_us();
        note(c, call(c), began_us, batch);
    }
    return NULL;
}

static void client_init(struct client *c, unsigned number)
{
    c->number = settings.total != 0 ? 0 : number;
    c->endpoint = number % settings.endpoints_count;
    c->fd = -1;
    /* Request ids come from here: no two runs may draw the same. */
    if (getentropy(&c->dice, sizeof c->dice) != 0) {
        die("getentropy");
    }
    c->dice |= 1;
    c->request_room = 1024 + (size_t)settings.batch * (settings.dimension * 10 + 100);
    c->request = malloc(c->request_room);
    c->answer = malloc(ANSWER_MAX);
    c->samples_us = malloc(SAMPLES_MAX * sizeof *c->samples_us);
    if (c->request == NULL || c->answer == NULL || c->samples_us == NULL) {
        die("malloc");
    }
}

/* --- results ------------------------------------------------------------------------------------------------------ */

static int by_size(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

    return (x > y) - (x < y);
}

static void report(struct client *clients)
{
    struct client sum = {.first_us = INT64_MAX};
    uint32_t *all;
    size_t count = 0;
    double seconds;

    for (unsigned i = 0; i < settings.clients; i++) {
        count += clients[i].samples_count;
    }
    all = malloc((count + 1) * sizeof *all);
    count = 0;
    for (unsigned i = 0; i < settings.clients; i++) {
        const struct client *c = &clients[i];

        memcpy(all + count, c->samples_us, c->samples_count * sizeof *all);
        count += c->samples_count;
        sum.calls += c->calls;
        sum.points += c->points;
        sum.broken += c->broken;
        sum.refused += c->refused;
        sum.failed += c->failed;
        sum.first_us = c->first_us < sum.first_us ? c->first_us : sum.first_us;
        sum.last_us = c->last_us > sum.last_us ? c->last_us : sum.last_us;
        if (c->failed > 0) {
            fprintf(stderr, "load: client %u: %s\n", i, c->failure);
        }
    }
    qsort(all, count, sizeof *all, by_size);
    seconds = count > 0 ? (double)(sum.last_us - sum.first_us) / 1e6 : 1;
    all[count] = 0;
    printf("{\"calls\":%" PRIu64 ",\"points\":%" PRIu64 ",\"seconds\":%.3f,\"calls_per_s\":%.1f,\"points_per_s\":%.1f,"
           "\"p50_ms\":%.3f,\"p99_ms\":%.3f,\"max_ms\":%.3f,\"broken\":%" PRIu64 ",\"refused\":%" PRIu64
           ",\"failed\":%" PRIu64 "}\n",
           sum.calls, sum.points, seconds, (double)sum.calls / seconds, (double)sum.points / seconds,
           all[count / 2] / 1e3, all[count * 99 / 100] / 1e3, count > 0 ? all[count - 1] / 1e3 : 0, sum.broken,
           sum.refused, sum.failed);
    free(all);
}

/* --- settings ----------------------------------------------------------------------------------------------------- */

static void read_endpoints(char *text)
{
    for (char *one = strtok(text, ","); one != NULL; one = strtok(NULL, ",")) {
        struct sockaddr_in *a = &settings.endpoints[settings.endpoints_count];
        char *colon = strrchr(one, ':');

        if (colon == NULL || settings.endpoints_count == ENDPOINTS_MAX) {
            errno = EINVAL;
            die("--endpoints");
        }
        *colon = '\0';
        a->sin_family = AF_INET;
        a->sin_port = htons((uint16_t)atoi(colon + 1));
        if (inet_pton(AF_INET, one, &a->sin_addr) != 1) {
            errno = EINVAL;
            die(one);
        }
        settings.endpoints_count++;
    }
}

static void read_settings(int argc, char **argv)
{
    static const struct option options[] = {
        {"endpoints", 1, NULL, 'e'}, {"collection", 1, NULL, 'c'}, {"op", 1, NULL, 'o'},
        {"clients", 1, NULL, 'n'},   {"batch", 1, NULL, 'b'},      {"dimension", 1, NULL, 'd'},
        {"seconds", 1, NULL, 's'},   {"total", 1, NULL, 't'},      {"keys", 1, NULL, 'k'},
        {"shards", 1, NULL, 'h'},    {"timeline", 1, NULL, 'l'},   {NULL, 0, NULL, 0}};
    int which;

    while ((which = getopt_long(argc, argv, "", options, NULL)) != -1) {
        switch (which) {
        case 'e':
            read_endpoints(optarg);
            break;
        case 'c':
            settings.collection = optarg;
            break;
        case 'o':
            settings.op = optarg[0] == 'g' ? OP_GET : optarg[0] == 's' ? OP_SEARCH : OP_PUT;
            break;
        case 'n':
            settings.clients = (unsigned)atoi(optarg);
            break;
        case 'b':
            settings.batch = (unsigned)atoi(optarg);
            break;
        case 'd':
            settings.dimension = (unsigned)atoi(optarg);
            break;
        case 's':
            settings.seconds = atof(optarg);
            break;
        case 't':
            settings.total = strtoull(optarg, NULL, 10);
            break;
        case 'k':
            settings.keys = (unsigned)atoi(optarg);
            break;
        case 'h':
            settings.shards = (unsigned)atoi(optarg);
            break;
        case 'l':
            settings.timeline = fopen(optarg, "w");
            if (settings.timeline == NULL) {
                die(optarg);
            }
            setlinebuf(settings.timeline);
            break;
        default:
            exit(2);
        }
    }
    if (settings.endpoints_count == 0 || settings.collection == NULL || settings.clients == 0 || settings.batch == 0 ||
        settings.dimension == 0 || settings.keys == 0) {
        fprintf(stderr, "usage: load --endpoints HOST:PORT,... --collection C [settings: see the head of load.c]\n");
        exit(2);
    }
}

int main(int argc, char **argv)
{
    struct client *clients;

    read_settings(argc, argv);
    make_vectors();
    atomic_store(&learners, settings.clients);
    clients = calloc(settings.clients, sizeof *clients);
    for (unsigned i = 0; i < settings.clients; i++) {
        client_init(&clients[i], i);
    }
    for (unsigned i = 0; i < settings.clients; i++) {
        if (pthread_create(&clients[i].thread, NULL, client_run, &clients[i]) != 0) {
            die("pthread_create");
        }
    }
    for (unsigned i = 0; i < settings.clients; i++) {
        pthread_join(clients[i].thread, NULL);
    }
    report(clients);
    return 0;
}
