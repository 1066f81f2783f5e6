/* Linked into every Criterion program: a run in which no test ran fails. Criterion itself calls "0 tested" a success,
 * so that a filter with a typing error would pass for ever. */
#include <criterion/criterion.h>
#include <criterion/hooks.h>

#include <stdio.h>
#include <stdlib.h>

ReportHook(POST_ALL)(struct criterion_global_stats *stats)
{
    if (stats->tests_passed + stats->tests_failed + stats->tests_crashed == 0) {
        fprintf(stderr, "no test ran: does the filter match anything?\n");
        exit(1);
    }
}
