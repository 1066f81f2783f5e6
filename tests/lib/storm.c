/* More connections and requests than a cluster can take, from one thread: storm MODE --endpoints HOST:PORT,... [...]
 *
 *   closed   --connections N, each sends its next put when the last one was answered
 *   open     --rate R puts a second come, whatever becomes of those before; each takes a free connection of at most
 *            --connections N ("skipped": none was free)
 *   idle     --connections N that ask one thing each and then are kept open
 *   slow     --connections N: a third sends a head a byte at a time, a third a body, a third asks for /metrics over and
 *            over and never reads an answer
 *
 * closed and open last --seconds S and put single points of --dimension N into --collection C under ids
 * "<--prefix>-<number>". idle and slow last until standard input ends. Then one line of JSON is printed: what was
 * answered how often, times of the acknowledged from when they were due, and whether a refusal was one by the rules:
 * "improper" counts answers other than 200 and (429 or 503 with "applied":false). --ids FILE: a line "<outcome>
 * <number>" each, with acknowledged, refused, unknown. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum {
    ENDPOINTS_MAX = 16,
    VECTORS = 64,
    SAMPLES_MAX = 1 << 21,
    ANSWER_MAX = 4096, /* kept of an answer; what is longer is counted, not kept */
    EVENTS = 512,
    SETTLE_S = 15,       /* after the end, for what is still under way */
    DIALS_PER_TURN = 50, /* a listener's backlog is finite */
    SLOW_BYTE_MS = 500,
};

enum mode { CLOSED, OPEN, IDLE, SLOW };

static struct {
    enum mode mode;
    struct sockaddr_in endpoints[ENDPOINTS_MAX];
    unsigned endpoints_count;
    const char *collection, *prefix;
    unsigned connections, dimension;
    double rate, seconds;
    FILE *ids;
} settings = {.collection = "c", .prefix = "s", .connections = 64, .dimension = 64, .rate = 100, .seconds = 5};

enum state { UNUSED, CONNECTING, FREE, SENDING, RECEIVING };

struct conn {
    int fd;
    enum state state;
    unsigned number;
    uint64_t id; /* of the point under way */
    int64_t due_us, sent_us;
    char *request;
    size_t request_bytes, sent;
    char answer[ANSWER_MAX + 1];
    size_t got;   /* of the answer, kept or not */
    size_t whole; /* 0: not known yet */
    struct conn *next_free;
};

static struct {
    uint64_t acknowledged, refused, improper, broken, skipped, timeouts, offered, dial_failed;
    uint64_t status_429, status_503, open_at_end;
    char example[300];
    uint32_t *samples_us;
    size_t samples_count;
    int64_t refused_max_us;
} sum;

static struct conn *conns;
static struct conn *free_conns;
static unsigned under_way;
static uint64_t next_id;
static char *vectors[VECTORS];
static int epoll_fd;
static bool over; /* no new requests */

static int64_t now_us(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

static void die(const char *what)
{
    fprintf(stderr, "storm: %s: %s\n", what, strerror(errno));
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
            dice = dice * 6364136223846793005u + 1442695040888963407u;
            used += (size_t)sprintf(vectors[i] + used, "%s%.5f", d != 0 ? "," : "",
                                    (double)((dice >> 33) % 200001) / 100000 - 1);
        }
    }
}

static void make_put(struct conn *c)
{
    char body[64 + 16 * 1024];
    int bytes = snprintf(body, sizeof body, "{\"points\":[{\"id\":\"%s-%" PRIu64 "\",\"vector\":[%s]}]}",
                         settings.prefix, c->id, vectors[c->id % VECTORS]);

    c->request_bytes =
        (size_t)sprintf(c->request, "PUT /collections/%s/points HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s",
                        settings.collection, bytes, body);
}

static void make_slow(struct conn *c)
{
    static const char *const texts[3] = {
        "PUT /collections/c/points HTTP/1.1\r\nHost: storm\r\nX-Slow: "
        "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
        "PUT /collections/c/points HTTP/1.1\r\nHost: storm\r\nContent-Length: 60000000\r\n\r\n{\"points\":[          "
        "                                                                                                          ",
        "GET /metrics HTTP/1.1\r\nHost: storm\r\n\r\n"};

    strcpy(c->request, texts[c->number % 3]);
    c->request_bytes = strlen(c->request);
}

/* --- connections -------------------------------------------------------------------------------------------------- */

static void watch(struct conn *c, uint32_t events, int how)
{
    struct epoll_event ev = {.events = events, .data.ptr = c};

    if (epoll_ctl(epoll_fd, how, c->fd, &ev) != 0) {
        die("epoll_ctl");
    }
}

static void set_free(struct conn *c)
{
    c->state = FREE;
    c->next_free = free_conns;
    free_conns = c;
}

static void note_id(const char *outcome, uint64_t id)
{
    if (settings.ids != NULL) {
        fprintf(settings.ids, "%s %" PRIu64 "\n", outcome, id);
    }
}

/* The connection is gone; what it had under way has an unknown outcome. */
static void hang_up(struct conn *c, bool ours)
{
    if (settings.mode != SLOW && (c->state == SENDING || c->state == RECEIVING)) {
        under_way--;
        if (settings.mode <= OPEN) {
            note_id("unknown", c->id);
        }
    }
    if (!ours) {
        sum.broken++;
    }
    if (c->state == FREE) {
        for (struct conn **p = &free_conns; *p != NULL; p = &(*p)->next_free) {
            if (*p == c) {
                *p = c->next_free;
                break;
            }
        }
    }
    close(c->fd);
    c->fd = -1;
    c->state = UNUSED;
}

static bool dial(struct conn *c)
{
    int one = 1;

    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (c->fd < 0) {
        die("socket");
    }
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (settings.mode == SLOW) {
        int room = 4096;
        setsockopt(c->fd, SOL_SOCKET, SO_RCVBUF, &room, sizeof room);
    }
    if (connect(c->fd, (struct sockaddr *)&settings.endpoints[c->number % settings.endpoints_count],
                sizeof settings.endpoints[0]) != 0 &&
        errno != EINPROGRESS) {
        sum.dial_failed++;
        close(c->fd);
        c->fd = -1;
        return false;
    }
    c->state = CONNECTING;
    watch(c, EPOLLOUT, EPOLL_CTL_ADD);
    return true;
}

static void send_more(struct conn *c)
{
    while (c->sent < c->request_bytes) {
        ssize_t rv = send(c->fd, c->request + c->sent, c->request_bytes - c->sent, MSG_NOSIGNAL);

        if (rv < 0 && errno == EAGAIN) {
            watch(c, EPOLLOUT, EPOLL_CTL_MOD);
            return;
        }
        if (rv <= 0) {
            hang_up(c, false);
            return;
        }
        c->sent += (size_t)rv;
    }
    c->state = RECEIVING;
    watch(c, EPOLLIN, EPOLL_CTL_MOD);
}

static void begin(struct conn *c, int64_t due_us)
{
    c->due_us = due_us;
    c->sent_us = now_us();
    c->sent = c->got = c->whole = 0;
    if (settings.mode == IDLE) {
        c->request_bytes = (size_t)sprintf(c->request, "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n");
    } else {
        c->id = next_id++;
        sum.offered++;
        make_put(c);
    }
    c->state = SENDING;
    under_way++;
    send_more(c);
}

/* --- answers ------------------------------------------------------------------------------------------------------ */

static void take_status(struct conn *c, int status, bool not_applied)
{
    int64_t ended_us = now_us();

    if (status == 200) {
        sum.acknowledged++;
        note_id("acknowledged", c->id);
        if (sum.samples_count < SAMPLES_MAX) {
            sum.samples_us[sum.samples_count++] = (uint32_t)(ended_us - c->due_us);
        }
        return;
    }
    sum.status_429 += status == 429;
    sum.status_503 += status == 503;
    if ((status == 429 || status == 503) && not_applied) {
        sum.refused++;
        sum.refused_max_us = ended_us - c->sent_us > sum.refused_max_us ? ended_us - c->sent_us : sum.refused_max_us;
        note_id("refused", c->id);
        return;
    }
    note_id("unknown", c->id);
    if (sum.improper++ == 0) {
        snprintf(sum.example, sizeof sum.example, "%.290s", c->answer);
    }
}

static void answered(struct conn *c)
{
    bool closes = strstr(c->answer, "\r\nConnection: close") != NULL;

    under_way--;
    if (settings.mode <= OPEN) {
        take_status(c, atoi(c->answer + 9), strstr(c->answer, "\"applied\":false") != NULL);
    }
    c->state = FREE;
    if (closes) {
        close(c->fd);
        c->fd = -1;
        c->state = UNUSED;
    } else if (settings.mode == CLOSED && !over) {
        begin(c, now_us());
    } else {
        set_free(c);
    }
}

static void receive(struct conn *c)
{
    char waste[4096];
    bool keep = c->got < ANSWER_MAX;
    ssize_t rv =
        recv(c->fd, keep ? c->answer + c->got : waste, keep ? ANSWER_MAX - c->got : sizeof waste, MSG_DONTWAIT);
    const char *end;

    if (rv < 0 && errno == EAGAIN) {
        return;
    }
    if (rv <= 0 || c->state != RECEIVING) {
        hang_up(c, false);
        return;
    }
    if (keep) {
        c->answer[c->got + (size_t)rv] = '\0';
    }
    c->got += (size_t)rv;
    if (c->whole == 0 && (end = strstr(c->answer, "\r\n\r\n")) != NULL) {
        const char *length = strstr(c->answer, "Content-Length: ");

        c->whole =
            (size_t)(end - c->answer) + 4 + (length != NULL && length < end ? strtoul(length + 16, NULL, 10) : 0);
    }
    if (c->whole != 0 && c->got >= c->whole) {
        answered(c);
    }
}

static void on_event(struct conn *c, uint32_t events)
{
    int error = 0;
    socklen_t bytes = sizeof error;

    if (c->state == UNUSED) {
        return;
    }
    if (c->state == CONNECTING) {
        getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &bytes);
        if (error != 0) {
            sum.dial_failed++;
            close(c->fd);
            c->fd = -1;
            c->state = UNUSED;
            return;
        }
        if (settings.mode == SLOW) {
            make_slow(c);
            c->state = SENDING;
            c->sent = 0;
            watch(c, 0, EPOLL_CTL_MOD);
        } else {
            watch(c, EPOLLIN, EPOLL_CTL_MOD);
            if (settings.mode == OPEN) {
                set_free(c);
            } else if (!over) {
                begin(c, now_us());
            }
        }
        return;
    }
    if (settings.mode == SLOW) {
        hang_up(c, false); /* only errors are watched for */
    } else if (c->state == SENDING && (events & EPOLLOUT) != 0) {
        send_more(c);
    } else {
        receive(c);
    }
}

/* --- the loop ----------------------------------------------------------------------------------------------------- */

/* Connections that are to be there and are not. */
static void dial_missing(unsigned wanted)
{
    static unsigned at;
    unsigned dials = 0;

    for (unsigned i = 0; i < wanted && dials < DIALS_PER_TURN; i++) {
        struct conn *c = &conns[at % wanted];

        at++;
        if (c->state == UNUSED) {
            dials++;
            if (c->request == NULL) {
                c->request = malloc(20 * 1024);
            }
            (void)dial(c);
        }
    }
}

static void slow_bytes(void)
{
    for (unsigned i = 0; i < settings.connections; i++) {
        struct conn *c = &conns[i];

        if (c->state != SENDING) {
            continue;
        }
        if (c->number % 3 == 2) { /* asks again and again, reads nothing */
            (void)send(c->fd, c->request, c->request_bytes, MSG_NOSIGNAL | MSG_DONTWAIT);
        } else {
            size_t at = c->sent < c->request_bytes - 1 ? c->sent : c->request_bytes - 1;
            size_t bytes = c->number % 3 == 1 && c->sent == 0 ? 100 : 1; /* a whole head, then a body by bytes */

            if (send(c->fd, c->request + at, bytes, MSG_NOSIGNAL | MSG_DONTWAIT) < 0 && errno != EAGAIN) {
                hang_up(c, false);
                continue;
            }
            c->sent += bytes;
        }
    }
}

static void turn(int timeout_ms)
{
    struct epoll_event events[EVENTS];
    int count = epoll_wait(epoll_fd, events, EVENTS, timeout_ms);

    for (int i = 0; i < count; i++) {
        if (events[i].data.ptr != NULL) {
            on_event(events[i].data.ptr, events[i].events);
        } else {
            char waste[64];
            over = over || read(0, waste, sizeof waste) <= 0;
        }
    }
}

static void run_load(void)
{
    int64_t began_us = now_us();
    int64_t end_us = began_us + (int64_t)(settings.seconds * 1e6);
    double due = 0;

    while (now_us() < end_us) {
        dial_missing(settings.connections);
        turn(1);
        for (; settings.mode == OPEN && began_us + (int64_t)due <= now_us(); due += 1e6 / settings.rate) {
            struct conn *c = free_conns;

            if (c == NULL) {
                sum.skipped++;
                continue;
            }
            free_conns = c->next_free;
            begin(c, began_us + (int64_t)due);
        }
    }
    over = true;
    while (under_way > 0 && now_us() < end_us + SETTLE_S * 1000000LL) {
        turn(10);
    }
    sum.timeouts = under_way;
}

static void run_held(void)
{
    struct epoll_event ev = {.events = EPOLLIN, .data.ptr = NULL};
    int64_t bytes_us = 0;
    bool told = false;

    if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, 0, &ev) != 0) {
        die("standard input");
    }
    while (!over) {
        unsigned there = 0;

        if (settings.mode == SLOW || !told) {
            dial_missing(settings.connections);
        }
        turn(10);
        if (settings.mode == SLOW && now_us() - bytes_us > SLOW_BYTE_MS * 1000) {
            bytes_us = now_us();
            slow_bytes();
        }
        for (unsigned i = 0; !told && i < settings.connections; i++) {
            there += conns[i].state == FREE || (settings.mode == SLOW && conns[i].state == SENDING);
        }
        if (!told && there == settings.connections) {
            told = true;
            puts("ready");
            fflush(stdout);
        }
    }
    for (unsigned i = 0; i < settings.connections; i++) {
        sum.open_at_end += conns[i].state == FREE || conns[i].state == SENDING;
    }
}

/* --- results and settings ----------------------------------------------------------------------------------------- */

static int by_size(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

    return (x > y) - (x < y);
}

static void print_escaped(const char *text)
{
    for (; *text != '\0'; text++) {
        printf(*text == '"' || *text == '\\' ? "\\%c" : (unsigned char)*text < 0x20 ? " " : "%c", *text);
    }
}

static void report(void)
{
    size_t n = sum.samples_count;

    qsort(sum.samples_us, n, sizeof *sum.samples_us, by_size);
    sum.samples_us[n] = 0;
    printf("{\"offered\":%" PRIu64 ",\"acknowledged\":%" PRIu64 ",\"refused\":%" PRIu64 ",\"improper\":%" PRIu64
           ",\"status_429\":%" PRIu64 ",\"status_503\":%" PRIu64 ",\"broken\":%" PRIu64 ",\"skipped\":%" PRIu64
           ",\"timeouts\":%" PRIu64 ",\"dial_failed\":%" PRIu64 ",\"open_at_end\":%" PRIu64 ",\"seconds\":%.3f"
           ",\"acknowledged_per_s\":%.1f,\"p50_ms\":%.3f,\"p99_ms\":%.3f,\"max_ms\":%.3f,\"refused_max_ms\":%.3f"
           ",\"example\":\"",
           sum.offered, sum.acknowledged, sum.refused, sum.improper, sum.status_429, sum.status_503, sum.broken,
           sum.skipped, sum.timeouts, sum.dial_failed, sum.open_at_end, settings.seconds,
           (double)sum.acknowledged / settings.seconds, sum.samples_us[n / 2] / 1e3, sum.samples_us[n * 99 / 100] / 1e3,
           n > 0 ? sum.samples_us[n - 1] / 1e3 : 0, (double)sum.refused_max_us / 1e3);
    print_escaped(sum.example);
    printf("\"}\n");
}

static void read_endpoints(char *text)
{
    for (char *one = strtok(text, ","); one != NULL; one = strtok(NULL, ",")) {
        struct sockaddr_in *a = &settings.endpoints[settings.endpoints_count];
        char *colon = strrchr(one, ':');

        errno = EINVAL;
        if (colon == NULL || settings.endpoints_count == ENDPOINTS_MAX) {
            die("--endpoints");
        }
        *colon = '\0';
        a->sin_family = AF_INET;
        a->sin_port = htons((uint16_t)atoi(colon + 1));
        /* Nobody but this machine is to be stormed. */
        if (inet_pton(AF_INET, one, &a->sin_addr) != 1 || (ntohl(a->sin_addr.s_addr) >> 24) != 127) {
            die(one);
        }
        settings.endpoints_count++;
    }
}

static void read_settings(int argc, char **argv)
{
    static const char *const modes[] = {"closed", "open", "idle", "slow"};
    static const struct option options[] = {
        {"endpoints", 1, NULL, 'e'},   {"collection", 1, NULL, 'c'}, {"prefix", 1, NULL, 'p'},
        {"connections", 1, NULL, 'n'}, {"rate", 1, NULL, 'r'},       {"seconds", 1, NULL, 's'},
        {"dimension", 1, NULL, 'd'},   {"ids", 1, NULL, 'i'},        {NULL, 0, NULL, 0}};
    int which;

    errno = EINVAL;
    while ((which = getopt_long(argc, argv, "", options, NULL)) != -1) {
        switch (which) {
        case 'e':
            read_endpoints(optarg);
            break;
        case 'c':
            settings.collection = optarg;
            break;
        case 'p':
            settings.prefix = optarg;
            break;
        case 'n':
            settings.connections = (unsigned)atoi(optarg);
            break;
        case 'r':
            settings.rate = atof(optarg);
            break;
        case 's':
            settings.seconds = atof(optarg);
            break;
        case 'd':
            settings.dimension = (unsigned)atoi(optarg);
            break;
        case 'i':
            settings.ids = fopen(optarg, "w");
            break;
        default:
            exit(2);
        }
    }
    for (unsigned i = 0; i < 4; i++) {
        if (optind < argc && strcmp(argv[optind], modes[i]) == 0) {
            settings.mode = (enum mode)i;
        }
    }
    if (settings.endpoints_count == 0 || settings.dimension == 0 || settings.dimension > 1600 || settings.rate <= 0 ||
        settings.connections == 0 || optind + 1 != argc) {
        die("storm closed|open|idle|slow --endpoints HOST:PORT,... and so on, see the source");
    }
}

int main(int argc, char **argv)
{
    struct rlimit files;

    read_settings(argc, argv);
    if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
        files.rlim_cur = files.rlim_max;
        setrlimit(RLIMIT_NOFILE, &files);
    }
    make_vectors();
    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    conns = calloc(settings.connections, sizeof *conns);
    sum.samples_us = malloc((SAMPLES_MAX + 1) * sizeof *sum.samples_us);
    if (epoll_fd < 0 || conns == NULL || sum.samples_us == NULL) {
        die("start");
    }
    for (unsigned i = 0; i < settings.connections; i++) {
        conns[i].number = i;
    }
    if (settings.mode <= OPEN) {
        run_load();
    } else {
        run_held();
    }
    report();
    if (settings.ids != NULL && fclose(settings.ids) != 0) {
        die("--ids");
    }
    return 0;
}
