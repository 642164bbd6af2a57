/* Runs many seeds in forked workers, so that a seed that aborts or hangs is a failed seed and not the
 * end of the run. */
#ifndef SIM_RUNNER_H
#define SIM_RUNNER_H

#include "sim.h"

struct plant {
    enum or_plant code;     /* a bug in the session, or */
    enum world_plant world; /* one in the world */
};

struct run {
    uint64_t first, count;
    uint32_t jobs;
    uint32_t failures_max; /* stop after so many */
    bool progress, report_failures;
    struct plant plant;
};

struct failure {
    uint64_t seed;
    char check[64], text[400];
};

struct outcome {
    uint64_t passed, failed;
    uint64_t coverage[COV_MAX];
    struct failure first;
};

void run_seeds(const struct run *run, struct outcome *outcome);
/* In this process, for --seed: prints the failure and ends the process with 1, or returns the hash. */
uint64_t run_one(uint64_t seed, struct plant plant, bool trace);
void plant_set(struct plant plant);
const char *plant_name(struct plant plant);

#endif
