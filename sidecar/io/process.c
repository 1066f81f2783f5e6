#include "sidecar/io/process.h"

#include "sidecar/io/clock.h"
#include "sidecar/io/log.h"

#include <dirent.h>
#include <stdio.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

static uint64_t resident_bytes(void)
{
    FILE *f = fopen("/proc/self/statm", "re");
    unsigned long long size;
    unsigned long long resident = 0;

    if (f == NULL) {
        return 0;
    }
    if (fscanf(f, "%llu %llu", &size, &resident) != 2) {
        resident = 0;
    }
    fclose(f);
    return resident * (uint64_t)sysconf(_SC_PAGESIZE);
}

static uint64_t descriptors(void)
{
    struct stat st;
    uint64_t count = 0;
    DIR *dir;

    if (stat("/proc/self/fd", &st) == 0 && st.st_size > 0) {
        return (uint64_t)st.st_size; /* Linux 6.2 and later */
    }
    dir = opendir("/proc/self/fd");
    if (dir == NULL) {
        return 0;
    }
    for (const struct dirent *e = readdir(dir); e != NULL; e = readdir(dir)) {
        count += e->d_name[0] != '.';
    }
    closedir(dir);
    return count > 0 ? count - 1 : 0; /* the directory itself */
}

/* Field 22 of /proc/self/stat, in ticks since boot. The program's name before may hold anything but ends with ')'. */
static uint64_t started_wall_ms(void)
{
    FILE *f = fopen("/proc/self/stat", "re");
    unsigned long long ticks = 0;
    uint64_t age_ms;

    if (f == NULL) {
        return 0;
    }
    if (fscanf(f, "%*d (%*[^\n)]) %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d %*d %*d %llu",
               &ticks) != 1) {
        ticks = 0;
    }
    fclose(f);
    age_ms = clock_now_ms() - ticks * 1000 / (uint64_t)sysconf(_SC_CLK_TCK);
    return ticks != 0 ? clock_wall_ms() - age_ms : 0;
}

static uint64_t milliseconds(const struct timeval *t)
{
    return (uint64_t)t->tv_sec * 1000 + (uint64_t)t->tv_usec / 1000;
}

void process_metrics_read(struct process_metrics *m)
{
    static uint64_t started_ms; /* once, so that a clock that is set does not move it */
    struct rusage usage;
    struct rlimit limit;

    *m = (struct process_metrics){0};
    if (getrusage(RUSAGE_SELF, &usage) == 0) {
        m->cpu_seconds_total = milliseconds(&usage.ru_utime) + milliseconds(&usage.ru_stime);
    }
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
        m->max_fds = limit.rlim_cur;
    }
    started_ms = started_ms != 0 ? started_ms : started_wall_ms();
    m->start_time_seconds = started_ms;
    m->resident_memory_bytes = resident_bytes();
    m->open_fds = descriptors();
}

void process_metrics_print(const struct metrics_out *out)
{
    static const struct metrics_family families[] = METRICS_FAMILIES(process_metrics, PROCESS_METRICS);
    static const struct metrics_family lost_family = {"log_lines_dropped_total", METRICS_COUNTER,
                                                      "Lines of the log left out because standard error took none", 0};
    uint64_t lost = log_dropped();
    struct process_metrics values;
    struct metrics_object object = {.values = &values};

    process_metrics_read(&values);
    metrics_print(out, "process_", families, sizeof families / sizeof families[0], &object, 1);
    object.values = &lost;
    metrics_print(out, "outrigger_", &lost_family, 1, &object, 1);
}
