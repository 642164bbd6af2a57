/* The interceptor's model checker, for the runner: its plants and its figures. */
#include "../runner.h"
#include "world.h"

enum or_intercept_plant or_intercept_planted;

static const char *const plant_names[OR_INTERCEPT_PLANT_MAX] = {
    [OR_INTERCEPT_PLANT_NONE] = "none",
    [OR_INTERCEPT_PLANT_RELEASE_EARLY] = "release before durable",
    [OR_INTERCEPT_PLANT_APPLY_EARLY] = "apply before durable",
    [OR_INTERCEPT_PLANT_READ_MISSES] = "read misses a held sector",
    [OR_INTERCEPT_PLANT_NO_GRACE] = "slot freed under a read",
    [OR_INTERCEPT_PLANT_FENCE_QUEUE] = "fence lets a queued write in",
    [OR_INTERCEPT_PLANT_FENCE_COMMIT] = "fence lets a commit in",
    [OR_INTERCEPT_PLANT_COMMIT_ORDER] = "commit out of order",
    [OR_INTERCEPT_PLANT_RECOVERY_FORGETS] = "recovery forgets",
    [OR_INTERCEPT_PLANT_TORN_ENTRY] = "torn entry counts",
    [OR_INTERCEPT_PLANT_TAIL_EARLY] = "tail moves early",
    [OR_INTERCEPT_PLANT_STALE_ENTRY] = "stale entry counts",
    [OR_INTERCEPT_PLANT_CACHE_BELIEVED] = "what was never synced is believed",
    [OR_INTERCEPT_PLANT_ERROR_TAKEN] = "error of a sync told to one of two",
    [OR_INTERCEPT_PLANT_PACKETS_NOTHING] = "packets need no entry",
    [OR_INTERCEPT_PLANT_MASK_FIRST] = "mask before the bytes",
    [OR_INTERCEPT_PLANT_HALT_RELEASES] = "halted engine releases",
    [OR_INTERCEPT_PLANT_HALT_DROPS] = "halted engine drops packets",
    [OR_INTERCEPT_PLANT_PAUSE_IGNORED] = "pause not waited for",
    [OR_INTERCEPT_PLANT_FREE_EARLY] = "slot freed before the flush",
    [OR_INTERCEPT_PLANT_FREE_NEWEST] = "newer slot freed before an older one",
    [OR_INTERCEPT_PLANT_FREE_EPOCH] = "epoch freed with its first part",
    [OR_INTERCEPT_PLANT_EXPOSURE_LOST] = "next engine forgets what was let out",
    [OR_INTERCEPT_PLANT_COVERED_EARLY] = "cut without commit covers what was let out",
    [OR_INTERCEPT_PLANT_ATTACHED_HELD] = "attachment held with its volume",
};

static const char *plant_name(uint32_t plant)
{
    return plant_names[plant];
}

static void plant_set(uint32_t plant)
{
    or_intercept_planted = (enum or_intercept_plant)plant;
}

static_assert(DID_MAX <= COVERAGE_MAX, "room for the counters");

const struct subject subject = {
    .name = "intercept_sim",
    .hang_seconds = 20,
    .coverage_seeds = 1000,
    .plant_seeds = 20000,
    .run = checker_run,
    .coverage_names = did_names,
    .coverage_count = DID_MAX,
    .plant_count = OR_INTERCEPT_PLANT_MAX,
    .plant_name = plant_name,
    .plant_set = plant_set,
};
