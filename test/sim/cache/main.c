/* The command line of the cache's model checker, and its runner: seeds in forked workers, so that one that aborts
 * or hangs is a failed seed and not the end of the run. README.md explains how to use it. */
#include "world.h"

#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define HANG_SECONDS 60u
#define TWICE_EVERY 32u      /* seeds: run again, to see that nothing but the seed decides */
#define COVERAGE_SEEDS 1000u /* from so many on, every trouble must have occurred */
#define PLANT_SEEDS 20000u   /* a planted bug must be found within so many */
#define FAILURES_MAX 20u
#define EXIT_FAILED 3

enum or_cache_plant or_cache_planted;

static const char *const plant_names[OR_CACHE_PLANT_MAX] = {
    [OR_CACHE_PLANT_NONE] = "none",
    [OR_CACHE_PLANT_HASTY_FLUSH] = "hasty flush",
    [OR_CACHE_PLANT_STALE_FILL] = "stale fill",
    [OR_CACHE_PLANT_LOST_REDIRTY] = "lost redirty",
    [OR_CACHE_PLANT_ERROR_LOST] = "error lost",
    [OR_CACHE_PLANT_ERROR_SILENT] = "error silent",
    [OR_CACHE_PLANT_ZEROES_KEEP] = "zeroes keep blocks",
    [OR_CACHE_PLANT_PIN_IGNORED] = "pin ignored",
    [OR_CACHE_PLANT_FAILED_KEPT] = "failed write kept",
    [OR_CACHE_PLANT_NO_COPY] = "no copy on write",
    [OR_CACHE_PLANT_NO_EXCLUSION] = "no exclusion",
    [OR_CACHE_PLANT_DIRTY_EVICTED] = "dirty block evicted",
    [OR_CACHE_PLANT_BLIND_BYPASS] = "blind bypass",
};

/* Shared with the workers. */
struct worker {
    pid_t pid;
    uint64_t seed, passed;
    uint64_t did[DID_MAX];
    char check[64], text[400];
};

struct options {
    uint64_t first, count;
    uint32_t jobs;
    bool one, trace, plants, quiet;
};

static struct worker *self;

static void failed_in_worker(struct world *w, const char *check, const char *text)
{
    (void)w;
    snprintf(self->check, sizeof self->check, "%s", check);
    snprintf(self->text, sizeof self->text, "%s", text);
    _exit(EXIT_FAILED);
}

static void failed_here(struct world *w, const char *check, const char *text)
{
    printf("FAILED seed %" PRIu64 ": %s\n    %s\n", w->seed, check, text);
    fflush(stdout);
    _exit(1);
}

static void work(const struct options *o, uint64_t from)
{
    static uint64_t scratch[DID_MAX];
    if (o->quiet && !freopen("/dev/null", "w", stderr))
        _exit(2);
    for (uint64_t seed = from; seed < o->first + o->count; seed += o->jobs) {
        self->seed = seed;
        alarm(HANG_SECONDS);
        uint64_t hash = checker_run(seed, self->did, false, failed_in_worker);
        if (seed % TWICE_EVERY == 0 && checker_run(seed, scratch, false, failed_in_worker) != hash) {
            snprintf(self->check, sizeof self->check, "not deterministic");
            _exit(EXIT_FAILED);
        }
        self->passed++;
    }
    exit(0); /* not _exit: the leak checker has its say */
}

static void start(struct worker *worker, const struct options *o, uint64_t from)
{
    fflush(NULL);
    worker->seed = from;
    worker->check[0] = worker->text[0] = 0;
    pid_t pid = fork();
    if (pid < 0) {
        perror("sim: fork");
        exit(2);
    }
    if (pid == 0) {
        self = worker;
        work(o, from);
    }
    worker->pid = pid;
}

/* Runs all seeds; returns how many failed. first: of the failures. */
static uint64_t run(const struct options *o, uint32_t failures_max, struct worker *first, struct worker *workers)
{
    uint64_t failed = 0;
    memset(workers, 0, o->jobs * sizeof *workers);
    for (uint32_t j = 0; j < o->jobs && j < o->count; j++)
        start(&workers[j], o, o->first + j);
    for (;;) {
        int status;
        pid_t pid = wait(&status);
        if (pid < 0)
            return failed;
        struct worker *w = workers;
        while (w->pid != pid)
            w++;
        w->pid = 0;
        if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
            continue;
        if (WIFSIGNALED(status))
            snprintf(w->check, sizeof w->check, "%s", WTERMSIG(status) == SIGALRM ? "hangs" : "aborts");
        if (!w->check[0])
            snprintf(w->check, sizeof w->check, "exits with %d (a sanitizer or the leak checker)", WEXITSTATUS(status));
        if (failed++ == 0)
            *first = *w;
        if (!o->quiet)
            printf("FAILED seed %" PRIu64 ": %s\n    %s\n    reproduce: cache_sim --seed %" PRIu64 " --trace\n",
                   w->seed, w->check, w->text, w->seed);
        if (failed < failures_max && w->seed + o->jobs < o->first + o->count)
            start(w, o, w->seed + o->jobs);
        for (uint32_t j = 0; failed >= failures_max && j < o->jobs; j++)
            if (workers[j].pid)
                kill(workers[j].pid, SIGKILL);
    }
}

static bool report_coverage(const struct options *o, const struct worker *workers)
{
    bool complete = true;
    for (int d = 0; d < DID_MAX; d++) {
        uint64_t n = 0;
        for (uint32_t j = 0; j < o->jobs; j++)
            n += workers[j].did[d];
        if (!o->quiet)
            printf("  %-48s %14" PRIu64 "\n", did_names[d], n);
        if (n == 0 && o->count >= COVERAGE_SEEDS) {
            printf("FAILED coverage: '%s' never occurred\n", did_names[d]);
            complete = false;
        }
    }
    return complete;
}

static int run_many(const struct options *o, struct worker *workers)
{
    struct worker first;
    uint64_t passed = 0, failed = run(o, FAILURES_MAX, &first, workers);
    for (uint32_t j = 0; j < o->jobs; j++)
        passed += workers[j].passed;
    bool complete = report_coverage(o, workers);
    printf("sim: %" PRIu64 " passed, %" PRIu64 " failed\n", passed, failed);
    return failed == 0 && complete ? 0 : 1;
}

/* A plant passes when the checker fails with it. */
static int run_plants(const struct options *given, struct worker *workers)
{
    struct options o = *given;
    o.count = PLANT_SEEDS;
    o.quiet = true;
    uint32_t missed = 0;
    for (int plant = OR_CACHE_PLANT_NONE + 1; plant < OR_CACHE_PLANT_MAX; plant++) {
        struct worker first;
        or_cache_planted = (enum or_cache_plant)plant;
        bool caught = run(&o, 1, &first, workers) > 0;
        missed += !caught;
        if (caught)
            printf("%-22s caught by '%s', seed %" PRIu64 "\n    %s\n", plant_names[plant], first.check, first.seed,
                   first.text);
        else
            printf("%-22s NOT CAUGHT in %u seeds\n", plant_names[plant], PLANT_SEEDS);
        fflush(stdout);
    }
    printf("sim: %u passed, %u failed\n", OR_CACHE_PLANT_MAX - 1 - missed, missed);
    return missed == 0 ? 0 : 1;
}

static void usage(FILE *out)
{
    fputs("usage: cache_sim [--seeds N] [--start S] [--jobs J] [--quiet]   run seeds S .. S+N-1 in J processes\n"
          "       cache_sim --seed S [--trace] [--plant NAME]             run one seed, print its hash (and events)\n"
          "       cache_sim --plants [--jobs J]                           prove that every planted bug is found\n",
          out);
}

static enum or_cache_plant plant_by_name(const char *name)
{
    for (int plant = 0; plant < OR_CACHE_PLANT_MAX; plant++)
        if (strcmp(plant_names[plant], name) == 0)
            return (enum or_cache_plant)plant;
    fprintf(stderr, "cache_sim: no plant '%s'\n", name);
    exit(2);
}

static uint64_t number(const char *text)
{
    char *end;
    uint64_t value = strtoull(text, &end, 10);
    if (*end || end == text) {
        usage(stderr);
        exit(2);
    }
    return value;
}

static struct options parse(int argc, char **argv)
{
    static const struct option long_options[] = {
        {"seeds", required_argument, NULL, 'n'},
        {"start", required_argument, NULL, 's'},
        {"jobs", required_argument, NULL, 'j'},
        {"seed", required_argument, NULL, '1'},
        {"trace", no_argument, NULL, 't'},
        {"plants", no_argument, NULL, 'p'},
        {"plant", required_argument, NULL, 'P'},
        {"quiet", no_argument, NULL, 'q'},
        {0},
    };
    struct options o = {.first = 1, .count = 1000, .jobs = 1};
    int c;
    while ((c = getopt_long(argc, argv, "", long_options, NULL)) != -1) {
        if (c == 'n')
            o.count = number(optarg);
        else if (c == 's' || c == '1')
            o.first = number(optarg);
        else if (c == 'j')
            o.jobs = (uint32_t)number(optarg);
        else if (c == 'P')
            or_cache_planted = plant_by_name(optarg);
        o.one |= c == '1';
        o.trace |= c == 't';
        o.plants |= c == 'p';
        o.quiet |= c == 'q';
        if (c == '?') {
            usage(stderr);
            exit(2);
        }
    }
    if (optind != argc || o.jobs == 0 || o.jobs > 256 || o.count == 0) {
        usage(stderr);
        exit(2);
    }
    return o;
}

int main(int argc, char **argv)
{
    struct options o = parse(argc, argv);
    if (o.one) {
        static uint64_t did[DID_MAX];
        printf("seed %" PRIu64 ": hash %016" PRIx64 "\n", o.first, checker_run(o.first, did, o.trace, failed_here));
        return 0;
    }
    struct worker *workers =
        mmap(NULL, o.jobs * sizeof *workers, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (workers == MAP_FAILED) {
        perror("sim: mmap");
        return 2;
    }
    return o.plants ? run_plants(&o, workers) : run_many(&o, workers);
}
