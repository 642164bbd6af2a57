/* Each worker takes every jobs-th seed and writes what it finds to memory that it shares with the
 * parent. A failed check ends the worker, for the world is in pieces; the parent starts another one
 * behind that seed. The only use of wall-clock time is to find a worker that hangs.
 *
 * Every 32nd seed is run twice, and the two runs must be the same in everything that happened: that
 * is what makes a failing seed worth reporting. */
#include "runner.h"

#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define TWICE_EVERY 32u
#define EXIT_FAILED 3

struct worker {
    pid_t pid;     /* 0: has finished */
    uint64_t seed; /* the one under way */
    uint64_t passed;
    uint64_t coverage[COVERAGE_MAX];
    struct failure failure;
};

static struct worker *self; /* in a worker: its part of the shared memory */

static void record(struct failure *failure, uint64_t seed, const char *check, const char *text)
{
    failure->seed = seed;
    snprintf(failure->check, sizeof failure->check, "%s", check);
    snprintf(failure->text, sizeof failure->text, "%s", text);
}

static void failed_in_worker(uint64_t seed, const char *check, const char *text)
{
    record(&self->failure, seed, check, text);
    _exit(EXIT_FAILED);
}

static void work(const struct run *run, uint64_t from)
{
    static uint64_t scratch[COVERAGE_MAX];
    subject.plant_set(run->plant);
    if (!run->report_failures && !freopen("/dev/null", "w", stderr))
        _exit(2);
    for (uint64_t seed = from; seed < run->first + run->count; seed += run->jobs) {
        self->seed = seed;
        alarm(subject.hang_seconds);
        uint64_t hash = subject.run(seed, self->coverage, false, failed_in_worker);
        if (seed % TWICE_EVERY == 0 && subject.run(seed, scratch, false, failed_in_worker) != hash) {
            record(&self->failure, seed, "not deterministic", "two runs of this seed differ");
            _exit(EXIT_FAILED);
        }
        self->passed++;
    }
    exit(0); /* not _exit: the leak checker has its say */
}

static void start(struct worker *worker, const struct run *run, uint64_t from)
{
    fflush(NULL);
    worker->seed = from;
    worker->failure.check[0] = 0;
    pid_t pid = fork();
    if (pid < 0) {
        perror("fork");
        exit(2);
    }
    if (pid == 0) {
        self = worker;
        work(run, from);
    }
    worker->pid = pid; /* here and not in the child: the memory is shared */
}

static void print_failure(const struct run *run, const struct failure *failure)
{
    printf("FAILED seed %" PRIu64 ": %s\n    %s\n    reproduce: %s --seed %" PRIu64 " --trace", failure->seed,
           failure->check, failure->text, subject.name, failure->seed);
    if (run->plant)
        printf(" --plant '%s'", subject.plant_name(run->plant));
    printf("\n");
}

/* A worker has ended: well, or with a failure; then another one goes on behind it. */
static void reap(struct worker *worker, int status, const struct run *run, struct outcome *outcome)
{
    worker->pid = 0;
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
        return;
    struct failure *failure = &worker->failure;
    char text[100];
    if (WIFSIGNALED(status)) {
        snprintf(text, sizeof text, "signal %d (%s)", WTERMSIG(status), strsignal(WTERMSIG(status)));
        record(failure, worker->seed, WTERMSIG(status) == SIGALRM ? "hangs" : "aborts", text);
    } else if (!failure->check[0]) {
        snprintf(text, sizeof text, "exit status %d (a sanitizer or the leak checker)", WEXITSTATUS(status));
        record(failure, worker->seed, "exits", text);
    }
    if (outcome->failed++ == 0)
        outcome->first = *failure;
    if (run->report_failures)
        print_failure(run, failure);
    if (failure->seed + run->jobs < run->first + run->count && outcome->failed < run->failures_max)
        start(worker, run, failure->seed + run->jobs);
}

static uint32_t running(const struct worker *workers, uint32_t jobs)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < jobs; i++)
        n += workers[i].pid != 0;
    return n;
}

static uint64_t passed(const struct worker *workers, uint32_t jobs)
{
    uint64_t n = 0;
    for (uint32_t i = 0; i < jobs; i++)
        n += workers[i].passed;
    return n;
}

static void wait_a_moment(void)
{
    nanosleep(&(struct timespec){.tv_nsec = 50 * 1000 * 1000}, NULL);
}

void run_seeds(const struct run *run, struct outcome *outcome)
{
    size_t size = run->jobs * sizeof(struct worker);
    struct worker *workers = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (workers == MAP_FAILED) {
        perror("mmap");
        exit(2);
    }
    memset(outcome, 0, sizeof *outcome);
    for (uint32_t i = 0; i < run->jobs && i < run->count; i++)
        start(&workers[i], run, run->first + i);
    for (uint32_t rounds = 1; running(workers, run->jobs) > 0; rounds++) {
        for (uint32_t i = 0; i < run->jobs; i++) {
            int status;
            if (workers[i].pid && waitpid(workers[i].pid, &status, WNOHANG) > 0)
                reap(&workers[i], status, run, outcome);
        }
        if (outcome->failed >= run->failures_max)
            for (uint32_t i = 0; i < run->jobs; i++)
                if (workers[i].pid)
                    kill(workers[i].pid, SIGKILL);
        if (outcome->failed >= run->failures_max)
            for (uint32_t i = 0; i < run->jobs; i++)
                if (workers[i].pid && waitpid(workers[i].pid, NULL, 0) > 0)
                    workers[i].pid = 0;
        if (run->progress && rounds % 100 == 0) {
            printf("sim: %" PRIu64 " of %" PRIu64 " seeds, %" PRIu64 " failed\n",
                   passed(workers, run->jobs) + outcome->failed, run->count, outcome->failed);
            fflush(stdout);
        }
        if (running(workers, run->jobs) > 0)
            wait_a_moment();
    }
    outcome->passed = passed(workers, run->jobs);
    for (uint32_t i = 0; i < run->jobs; i++)
        for (uint32_t c = 0; c < subject.coverage_count; c++)
            outcome->coverage[c] += workers[i].coverage[c];
    munmap(workers, size);
}

static uint32_t one_plant;

static void failed_here(uint64_t seed, const char *check, const char *text)
{
    struct run run = {.plant = one_plant};
    struct failure failure;
    record(&failure, seed, check, text);
    print_failure(&run, &failure);
    fflush(stdout);
    _exit(1);
}

uint64_t run_one(uint64_t seed, uint32_t plant, bool trace)
{
    static uint64_t coverage[COVERAGE_MAX];
    one_plant = plant;
    subject.plant_set(plant);
    return subject.run(seed, coverage, trace, failed_here);
}
