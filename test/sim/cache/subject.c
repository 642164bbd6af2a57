/* The cache's model checker, for the runner: its plants and its figures. */
#include "../runner.h"
#include "world.h"

enum or_cache_plant or_cache_planted;
enum or_layers_plant or_layers_planted;
enum checker_plant checker_planted;

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
    [OR_CACHE_PLANT_CONTENT_KEPT] = "content kept after a cut",
    [OR_CACHE_PLANT_DIRTY_FIRST] = "dirty before the bytes",
    [OR_CACHE_PLANT_END_LATE] = "newest block not counted",
    [OR_CACHE_PLANT_WRITING_LEFT] = "writing forgotten",
    [OR_CACHE_PLANT_REDIRTY_LEFT] = "redirtied forgotten",
    [OR_CACHE_PLANT_TAKEN_FIRST] = "taken before it is",
    [OR_CACHE_PLANT_TAKEN_STAYS] = "taken twice",
    [OR_CACHE_PLANT_TAKEN_CLEAN] = "taken as clean",
    [OR_CACHE_PLANT_DRAINED_FIRST] = "written out before it is",
    [OR_CACHE_PLANT_DRAIN_LOST] = "refused and forgotten",
    [OR_CACHE_PLANT_FLUSH_OWN] = "flush of own writes alone",
};

static const char *const layers_plant_names[OR_LAYERS_PLANT_MAX] = {
    [OR_LAYERS_PLANT_MAP_FIRST] = "map before data",
    [OR_LAYERS_PLANT_MAP_FORGOTTEN] = "staged pages forgotten",
    [OR_LAYERS_PLANT_MAP_UNSYNCED] = "map not synced",
    [OR_LAYERS_PLANT_HASTY_ENTRY] = "hasty entry",
    [OR_LAYERS_PLANT_REST_LOST] = "rest of a cluster lost",
    [OR_LAYERS_PLANT_NO_WAITING] = "copies of a cluster at once",
    [OR_LAYERS_PLANT_BASE_SHOWS] = "base shows again",
    [OR_LAYERS_PLANT_HASTY_FUA] = "hasty FUA",
    [OR_LAYERS_PLANT_MAP_IN_MEMORY] = "map in memory alone",
    [OR_LAYERS_PLANT_LOAD_UNSYNCED] = "loaded without a sync",
    [OR_LAYERS_PLANT_MERGE_UNSYNCED] = "merge not synced",
    [OR_LAYERS_PLANT_MERGE_NO_MAP] = "merge without the map",
    [OR_LAYERS_PLANT_MERGE_NO_ZEROES] = "merge without zeroes",
};

static const char *const checker_plant_names[CHECKER_PLANT_MAX] = {
    [CHECKER_PLANT_CUT_NO_DRAIN] = "cut without drain",       [CHECKER_PLANT_CUT_NO_FLUSH] = "cut without flush",
    [CHECKER_PLANT_CUT_KEEPS_HEAD] = "cut keeps the head",    [CHECKER_PLANT_MERGE_EARLY] = "merge recorded early",
    [CHECKER_PLANT_MERGE_SHARED] = "merge of a shared layer", [CHECKER_PLANT_MERGE_NAMED] = "merge of a snapshot",
    [CHECKER_PLANT_KEEP_NEWEST] = "older memory forgotten",   [CHECKER_PLANT_KEEP_HASTY] = "used before it is taken up",
    [CHECKER_PLANT_KEEP_FOR_ALL] = "taken up by a clone",     [CHECKER_PLANT_KEEP_HEAD_ONLY] = "head alone taken up",
};

/* Plants of one kind: names[0] is none. */
struct kind {
    const char *const *names;
    uint32_t count;
};

static const struct kind kinds[] = {
    {plant_names, OR_CACHE_PLANT_MAX},
    {layers_plant_names, OR_LAYERS_PLANT_MAX},
    {checker_plant_names, CHECKER_PLANT_MAX},
};

/* Of a plant among all: its number in this kind; 0: it is of another. */
static uint32_t number_in(uint32_t kind, uint32_t plant)
{
    for (uint32_t k = 0; k < kind; k++)
        plant -= plant < kinds[k].count ? plant : kinds[k].count - 1;
    return plant < kinds[kind].count ? plant : 0;
}

static const char *plant_name(uint32_t plant)
{
    for (uint32_t k = 0; k < sizeof kinds / sizeof *kinds; k++)
        if (number_in(k, plant))
            return kinds[k].names[number_in(k, plant)];
    return "none";
}

static void plant_set(uint32_t plant)
{
    or_cache_planted = (enum or_cache_plant)number_in(0, plant);
    or_layers_planted = (enum or_layers_plant)number_in(1, plant);
    checker_planted = (enum checker_plant)number_in(2, plant);
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
    .plant_count = OR_CACHE_PLANT_MAX + OR_LAYERS_PLANT_MAX - 1 + CHECKER_PLANT_MAX - 1,
    .plant_name = plant_name,
    .plant_set = plant_set,
};
