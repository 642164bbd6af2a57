/* Runs many seeds of a simulator in forked workers, so that a seed that aborts or hangs is a failed seed and not the
 * end of the run. */
#ifndef SIM_RUNNER_H
#define SIM_RUNNER_H

#include "world.h"

#define COVERAGE_MAX 96u /* of all subjects */

/* What is simulated. Each program has one, `subject`, in its subject.c. */
struct subject {
    const char *name;        /* of the program */
    uint32_t hang_seconds;   /* of real time: a seed that takes longer will never end */
    uint64_t coverage_seeds; /* from so many seeds on, every trouble must have occurred */
    uint64_t plant_seeds;    /* a planted bug must be found within so many */
    /* Runs a seed to its end and returns the hash of everything that happened. A violated check ends in failed(). */
    uint64_t (*run)(uint64_t seed, uint64_t *coverage, bool trace, world_failed *failed);
    const char *const *coverage_names;
    uint32_t coverage_count;
    /* Bugs to be found: numbers below plant_count; 0 is none. */
    uint32_t plant_count;
    const char *(*plant_name)(uint32_t plant);
    void (*plant_set)(uint32_t plant);
};
extern const struct subject subject;

struct run {
    uint64_t first, count;
    uint32_t jobs;
    uint32_t failures_max; /* stop after so many */
    bool progress, report_failures;
    uint32_t plant;
};

struct failure {
    uint64_t seed;
    char check[64], text[400];
};

struct outcome {
    uint64_t passed, failed;
    uint64_t coverage[COVERAGE_MAX];
    struct failure first;
};

void run_seeds(const struct run *run, struct outcome *outcome);
/* In this process, for --seed: prints the failure and ends the process with 1, or returns the hash. */
uint64_t run_one(uint64_t seed, uint32_t plant, bool trace);

#endif
