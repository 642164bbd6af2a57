/* The command line of cachebench. */
#include "cachebench.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

uint64_t clock_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t); /* what others take meanwhile does not count */
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

void must(bool ok, const char *what)
{
    if (ok)
        return;
    fprintf(stderr, "cachebench: %s\n", what);
    exit(1);
}

/* All policies, with caches of `times` so many parts of what the trace touches. */
static void replay_all(struct trace *t, double times)
{
    static const double parts[] = {0.03125, 0.0625, 0.125, 0.25, 0.5};
    uint64_t bytes = trace_footprint(t) * OR_CACHE_BLOCK;
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        uint64_t budget = (uint64_t)((double)bytes * parts[i] * times);
        for (int policy = 0; budget >= OR_CACHE_BYTES_MIN && policy < OR_CACHE_POLICIES; policy++)
            replay(t, (enum or_cache_policy)policy, budget, parts[i]);
    }
    trace_free(t);
}

/* usage: cachebench costs | workloads [NAME [TIMES]] | trace FILE [TIMES] */
int main(int argc, char **argv)
{
    const char *what = argc > 1 ? argv[1] : "", *arg = argc > 2 ? argv[2] : "";
    double times = argc > 3 ? atof(argv[3]) : 1;
    if (argc > 3 && times <= 0) {
        fprintf(stderr, "cachebench: %s: no factor above 0\n", argv[3]);
        return 2;
    }
    if (strcmp(what, "costs") == 0) {
        measure_costs();
    } else if (strcmp(what, "workloads") == 0) {
        for (uint32_t i = 0;; i++) {
            struct trace *t = trace_make(i);
            if (!t)
                break;
            if (*arg && strcmp(arg, t->name) != 0)
                trace_free(t);
            else
                replay_all(t, times);
        }
    } else if (strcmp(what, "trace") == 0 && *arg) {
        replay_all(trace_read(arg), times);
    } else {
        fputs("usage: cachebench costs | workloads [NAME [TIMES]] | trace FILE [TIMES]\n", stderr);
        return 2;
    }
    return 0;
}
