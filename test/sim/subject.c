/* The session simulator, for the runner: its plants and its figures. */
#include "runner.h"
#include "sim.h"

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

/* Those of the session come first, then those of the world. */
static const char *plant_name(uint32_t plant)
{
    return plant < OR_PLANT_MAX ? plant_names[plant] : world_plant_names[plant - OR_PLANT_MAX + 1];
}

static void plant_set(uint32_t plant)
{
    bool session = plant < OR_PLANT_MAX;
    or_planted = session ? (enum or_plant)plant : OR_PLANT_NONE;
    world_planted = session ? WORLD_PLANT_NONE : (enum world_plant)(plant - OR_PLANT_MAX + 1);
}

const struct subject subject = {
    .name = "sim",
    .hang_seconds = 120,
    .coverage_seeds = 500,
    .plant_seeds = 2000,
    .run = sim_run,
    .coverage_names = coverage_names,
    .coverage_count = COV_MAX,
    .plant_count = OR_PLANT_MAX + WORLD_PLANT_MAX - 1,
    .plant_name = plant_name,
    .plant_set = plant_set,
};
