/* simulate [--seeds N|A-B] [--hours H] [--jobs N] [--seconds N] [--verbose] [--keep-going] [--twice] [--counts]
 *          [--complete]
 *
 * Runs each seed, in several processes when told to; prints totals, and of the first failing seed the reason, the last
 * lines of its trace and the command that replays it. Exit 0: all passed; 1: one failed, or --complete and something
 * never happened; 2: usage. */
#include "tests/simulation/sim.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { MAIN_JOBS_MAX = 64, MAIN_FAULT_SECONDS = 12, MAIN_HANG_SECONDS = 30, MAIN_POLL_MS = 100, MAIN_TOLD_S = 60 };

struct options {
    uint64_t first, last, seconds, jobs;
    double hours;
    bool verbose, keep_going, twice, counts, complete;
};

/* Shared by all jobs; each writes its own place. */
struct board {
    uint64_t first_failed; /* the lowest seed that failed so far; UINT64_MAX: none */
    struct job {
        uint64_t seed; /* being run; 0: none */
        struct sim_counts counts;
    } jobs[MAIN_JOBS_MAX];
};

static struct board *board;
static struct sim *running;
static bool quiet;

/* An assert in core or journal is a failure like any other: which seed was it? */
static void on_abort(int signal_number)
{
    if (running != NULL && !quiet) {
        (void)snprintf(running->failure, sizeof running->failure, "%s",
                       signal_number == SIGVTALRM ? "I7: hangs" : "assert: see above");
        sim_report(running);
    }
    _exit(3);
}

static double now_s(void)
{
    struct timespec t;

    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void watch_for_hangs(void)
{
    const struct itimerval t = {.it_value.tv_sec = MAIN_HANG_SECONDS};

    (void)setitimer(ITIMER_VIRTUAL, &t, NULL);
}

static bool run_once(uint64_t seed, const struct options *o, struct sim_counts *counts)
{
    bool passed;

    watch_for_hangs();
    running = sim_new(seed, o->verbose);
    passed = sim_run(running, o->seconds);
    *counts = running->counts;
    if (!passed && !quiet) {
        sim_report(running);
    }
    sim_free(running);
    running = NULL;
    return passed;
}

static bool run_seed(uint64_t seed, const struct options *o, struct sim_counts *sum)
{
    struct sim_counts counts, again;
    bool passed = run_once(seed, o, &counts);

    if (passed && o->twice) {
        (void)run_once(seed, o, &again);
        if (memcmp(&counts, &again, sizeof counts) != 0) {
            printf("seed %" PRIu64 " failed: it ran differently the second time\n", seed);
            passed = false;
            counts.failed = 1;
        }
    }
    counts_add(sum, &counts);
    return passed;
}

/* Every jobs-th seed from first + number on. */
static void job_run(struct job *job, uint64_t number, const struct options *o, double until_s)
{
    for (uint64_t seed = o->first + number; seed <= o->last; seed += o->jobs) {
        if ((!o->keep_going && seed > __atomic_load_n(&board->first_failed, __ATOMIC_RELAXED)) ||
            (until_s != 0 && now_s() >= until_s)) {
            break;
        }
        job->seed = seed;
        if (!run_seed(seed, o, &job->counts)) {
            uint64_t lowest = __atomic_load_n(&board->first_failed, __ATOMIC_RELAXED);

            while (seed < lowest && !__atomic_compare_exchange_n(&board->first_failed, &lowest, seed, false,
                                                                 __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
            }
            if (!o->keep_going) {
                break;
            }
        }
    }
    job->seed = 0;
}

static void sum_up(struct sim_counts *sum, const struct options *o)
{
    *sum = (struct sim_counts){0};
    for (uint64_t i = 0; i < o->jobs; i++) {
        counts_add(sum, &board->jobs[i].counts);
    }
}

static void print_totals(const struct sim_counts *c, double seconds)
{
    double s = seconds > 0 ? seconds : 1;

    printf("%" PRIu64 " seeds, %" PRIu64 " failed; %.2f hours simulated in %.1f s (%.1f seeds/s, %.0f steps/s, "
           "%.0f operations/s, %.1f faults/s)\n",
           c->seeds, c->failed, (double)c->virtual_ms / 3.6e6, seconds, (double)c->seeds / s, (double)c->steps / s,
           (double)c->operations / s, (double)c->faults / s);
    printf("  %" PRIu64 " steps, %" PRIu64 " operations, %" PRIu64 " writes acknowledged (%" PRIu64
           " of them twice), %" PRIu64 " reads, %" PRIu64 " faults, %" PRIu64 " elections, %" PRIu64
           " crashes, %" PRIu64 " seeds sent, %" PRIu64 " transactions of unknown outcome, %" PRIu64
           " shards lost; trace %016" PRIx64 "\n",
           c->steps, c->operations, c->acks, c->duplicates, c->reads, c->faults, c->elections, c->crashes,
           c->seeds_sent, c->txns_unknown, c->lost_shards, c->hash);
    fflush(stdout);
}

/* Waits for the jobs; a job that died takes its seed with it. */
static void wait_for_jobs(pid_t *pids, const struct options *o, double began_s)
{
    uint64_t alive = o->jobs;
    double told_s = began_s;

    while (alive > 0) {
        const struct timespec pause = {.tv_nsec = MAIN_POLL_MS * 1000000};

        for (uint64_t i = 0; i < o->jobs; i++) {
            struct job *job = &board->jobs[i];
            int status;

            if (pids[i] == 0 || waitpid(pids[i], &status, WNOHANG) != pids[i]) {
                continue;
            }
            pids[i] = 0;
            alive--;
            if (job->seed != 0) {
                job->counts.failed++;
                job->counts.seeds++;
                if (job->seed < board->first_failed) {
                    board->first_failed = job->seed;
                }
            }
        }
        if (alive > 0) {
            (void)nanosleep(&pause, NULL);
        }
        if (now_s() - told_s >= MAIN_TOLD_S) {
            struct sim_counts sum;

            told_s = now_s();
            sum_up(&sum, o);
            print_totals(&sum, told_s - began_s);
        }
    }
}

static void run_jobs(const struct options *o, double began_s, double until_s)
{
    pid_t pids[MAIN_JOBS_MAX] = {0};

    for (uint64_t i = 0; i < o->jobs; i++) {
        fflush(stdout);
        pids[i] = fork();
        if (pids[i] == 0) {
            quiet = true;
            (void)close(STDERR_FILENO); /* the text of a failed assertion comes with the replay */
            job_run(&board->jobs[i], i, o, until_s);
            _exit(0);
        }
        if (pids[i] < 0) {
            perror("fork");
            exit(1);
        }
    }
    wait_for_jobs(pids, o, began_s);
}

/* --- command line ------------------------------------------------------------------------------------------------- */

static bool parse_range(const char *text, uint64_t *first, uint64_t *last)
{
    char *end;

    *first = strtoull(text, &end, 10);
    *last = *first;
    if (end == text) {
        return false;
    }
    if (*end == '-') {
        const char *second = end + 1;

        *last = strtoull(second, &end, 10);
        if (end == second) {
            return false;
        }
    }
    return *end == '\0' && *first <= *last;
}

static int usage(void)
{
    fprintf(stderr, "usage: simulate [--seeds N|A-B] [--hours H] [--jobs N] [--seconds N] [--verbose] [--keep-going]\n"
                    "                [--twice] [--counts] [--complete]\n"
                    "  --seeds       which seeds to run (1-200)\n"
                    "  --hours       go on with the seeds from the first one on for so long\n"
                    "  --jobs        processes (1)\n"
                    "  --seconds     of virtual time with faults (12)\n"
                    "  --verbose     print the whole trace\n"
                    "  --keep-going  go on after a failing seed\n"
                    "  --twice       run every seed twice: both must be equal, event by event\n"
                    "  --counts      print how often each situation was reached, and each role struck by each fault\n"
                    "  --complete    fail when one was never\n"
                    "or:    simulate --self-test    the check of clients' histories against a search\n");
    return 2;
}

static bool parse(int argc, char **argv, struct options *o)
{
    uint64_t ignored;

    for (int i = 1; i < argc; i++) {
        const char *value = i + 1 < argc ? argv[i + 1] : "";

        if (strcmp(argv[i], "--verbose") == 0) {
            o->verbose = true;
        } else if (strcmp(argv[i], "--keep-going") == 0) {
            o->keep_going = true;
        } else if (strcmp(argv[i], "--twice") == 0) {
            o->twice = true;
        } else if (strcmp(argv[i], "--counts") == 0) {
            o->counts = true;
        } else if (strcmp(argv[i], "--complete") == 0) {
            o->complete = true;
        } else if (strcmp(argv[i], "--seeds") == 0 && parse_range(value, &o->first, &o->last)) {
            i++;
        } else if (strcmp(argv[i], "--seconds") == 0 && parse_range(value, &o->seconds, &ignored)) {
            i++;
        } else if (strcmp(argv[i], "--jobs") == 0 && parse_range(value, &o->jobs, &ignored)) {
            i++;
        } else if (strcmp(argv[i], "--hours") == 0 && atof(value) > 0) {
            o->hours = atof(value);
            o->last = UINT64_MAX - MAIN_JOBS_MAX;
            i++;
        } else {
            return false;
        }
    }
    return o->jobs >= 1 && o->jobs <= MAIN_JOBS_MAX && o->first >= 1;
}

int main(int argc, char **argv)
{
    struct options o = {.first = 1, .last = 200, .seconds = MAIN_FAULT_SECONDS, .jobs = 1};
    struct sim_counts sum;
    double began_s = now_s(), until_s;
    int exit_code = 0;

    if (argc == 2 && strcmp(argv[1], "--self-test") == 0) {
        return selftest() ? 0 : 1;
    }
    if (!parse(argc, argv, &o)) {
        return usage();
    }
    board = mmap(NULL, sizeof *board, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (board == MAP_FAILED) {
        perror("mmap");
        return 1;
    }
    board->first_failed = UINT64_MAX;
    (void)signal(SIGABRT, on_abort);
    (void)signal(SIGVTALRM, on_abort);
    until_s = o.hours > 0 ? began_s + o.hours * 3600 : 0;
    if (o.jobs > 1) {
        run_jobs(&o, began_s, until_s);
    } else {
        job_run(&board->jobs[0], 0, &o, until_s);
    }
    sum_up(&sum, &o);
    print_totals(&sum, now_s() - began_s);
    if (o.counts) {
        counts_print(&sum);
    }
    if (board->first_failed != UINT64_MAX) {
        exit_code = 1;
        if (o.jobs > 1) { /* once more, aloud */
            (void)run_seed(board->first_failed, &o, &sum);
        }
    } else if (o.complete && !counts_complete(&sum)) {
        exit_code = 1;
    }
    fflush(stdout);
    return exit_code;
}
