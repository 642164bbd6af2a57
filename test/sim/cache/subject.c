/* The cache's model checker, for the runner: its plants and its figures. */
#include "../runner.h"
#include "world.h"

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

static const char *plant_name(uint32_t plant)
{
    return plant_names[plant];
}

static void plant_set(uint32_t plant)
{
    or_cache_planted = (enum or_cache_plant)plant;
}

static_assert(DID_MAX <= COVERAGE_MAX, "room for the counters");

const struct subject subject = {
    .name = "cache_sim",
    .hang_seconds = 60,
    .coverage_seeds = 1000,
    .plant_seeds = 20000,
    .run = checker_run,
    .coverage_names = did_names,
    .coverage_count = DID_MAX,
    .plant_count = OR_CACHE_PLANT_MAX,
    .plant_name = plant_name,
    .plant_set = plant_set,
};
