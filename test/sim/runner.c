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

#define HANG_SECONDS 120u
#define TWICE_EVERY 32u
#define EXIT_FAILED 3

enum or_plant or_planted;

static const char *const plant_names[OR_PLANT_MAX] = {
    [OR_PLANT_NONE] = "none",
    [OR_PLANT_NO_DUPLICATE_SUPPRESSION] = "no duplicate suppression",
    [OR_PLANT_LATE_REPLY_ACCEPTED] = "late reply accepted",
    [OR_PLANT_CREDIT_LEAK] = "credit leak",
    [OR_PLANT_FRAGMENT_OVERLAP] = "fragment overlap",
    [OR_PLANT_STALE_SESSION] = "stale session accepted",
    [OR_PLANT_OVERLAP_IN_FLIGHT] = "overlapping requests in flight",
    [OR_PLANT_NO_DRAIN] = "no drain",
    [OR_PLANT_STALE_GENERATION] = "stale generation accepted",
    [OR_PLANT_WAITED_UNCHECKED] = "waiting requests not checked again",
    [OR_PLANT_NO_REPLAY_WINDOW] = "no replay window",
    [OR_PLANT_UNVERIFIED_PHASE] = "unverified phase",
    [OR_PLANT_HASTY_PHASE] = "hasty phase",
    [OR_PLANT_LINK_DEATH_LOSES] = "link death loses",
    [OR_PLANT_TWICE_ACROSS_LINKS] = "twice across links",
    [OR_PLANT_BYE_IGNORED] = "goodbye ignored",
    [OR_PLANT_TIMEOUT_FORGETS] = "timeout forgets",
    [OR_PLANT_PACKETS_MIXED] = "packets mixed",
    [OR_PLANT_PACKET_GENERATION] = "stale packet accepted",
    [OR_PLANT_PACKET_HOST] = "foreign packet accepted",
    [OR_PLANT_MOVE_NO_DRAIN] = "no drain before a shift",
    [OR_PLANT_MOVE_FORGETS_ORDER] = "shift forgets the order",
    [OR_PLANT_PACKET_REST_LOST] = "rest of a packet lost",
    [OR_PLANT_PACKET_ANY_LINK] = "packets on any link",
};

struct worker {
    pid_t pid;     /* 0: has finished */
    uint64_t seed; /* the one under way */
    uint64_t passed;
    uint64_t coverage[COV_MAX];
    struct failure failure;
};

static struct worker *self; /* in a worker: its part of the shared memory */

const char *plant_name(struct plant plant)
{
    return plant.world ? world_plant_names[plant.world] : plant_names[plant.code];
}

void plant_set(struct plant plant)
{
    or_planted = plant.code;
    world_planted = plant.world;
}

static void record(struct failure *failure, uint64_t seed, const char *check, const char *text)
{
    failure->seed = seed;
    snprintf(failure->check, sizeof failure->check, "%s", check);
    snprintf(failure->text, sizeof failure->text, "%s", text);
}

static void failed_in_worker(struct world *w, const char *check, const char *text)
{
    record(&self->failure, w->seed, check, text);
    _exit(EXIT_FAILED);
}

static void work(const struct run *run, uint64_t from)
{
    static uint64_t scratch[COV_MAX];
    plant_set(run->plant);
    if (!run->report_failures && !freopen("/dev/null", "w", stderr))
        _exit(2);
    for (uint64_t seed = from; seed < run->first + run->count; seed += run->jobs) {
        self->seed = seed;
        alarm(HANG_SECONDS);
        uint64_t hash = sim_run(seed, self->coverage, false, failed_in_worker);
        if (seed % TWICE_EVERY == 0 && sim_run(seed, scratch, false, failed_in_worker) != hash) {
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
        perror("sim: fork");
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
    printf("FAILED seed %" PRIu64 ": %s\n    %s\n    reproduce: sim --seed %" PRIu64 " --trace", failure->seed,
           failure->check, failure->text, failure->seed);
    if (run->plant.code || run->plant.world)
        printf(" --plant '%s'", plant_name(run->plant));
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
        perror("sim: mmap");
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
        for (int c = 0; c < COV_MAX; c++)
            outcome->coverage[c] += workers[i].coverage[c];
    munmap(workers, size);
}

static struct plant one_plant;

static void failed_here(struct world *w, const char *check, const char *text)
{
    struct run run = {.plant = one_plant};
    struct failure failure;
    record(&failure, w->seed, check, text);
    print_failure(&run, &failure);
    fflush(stdout);
    _exit(1);
}

uint64_t run_one(uint64_t seed, struct plant plant, bool trace)
{
    static uint64_t coverage[COV_MAX];
    one_plant = plant;
    plant_set(plant);
    return sim_run(seed, coverage, trace, failed_here);
}
