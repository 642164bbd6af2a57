/* One seed: draws a world, lets everything happen in it, and ends it in good order. */
#include "world.h"

#include <stdlib.h>
#include <string.h>

#define HEALTHY_NS (10 * SEC) /* without troubles nothing takes so long */

const char *const did_names[DID_MAX] = {
    [DID_READ] = "reads",
    [DID_WRITE] = "writes",
    [DID_ZERO] = "write-zeroes",
    [DID_FLUSH] = "flushes and discards",
    [DID_PEEK] = "peeks",
    [DID_PACKET] = "packets taken",
    [DID_RELEASED] = "packets released",
    [DID_REPEATED] = "packets repeated by the next engine",
    [DID_BLOCKED] = "packets that found no room outside",
    [DID_WAIT] = "writes that waited for room",
    [DID_OVERFLOW] = "overflows told",
    [DID_CUT] = "cuts",
    [DID_EXPOSE] = "epochs cut without a checkpoint",
    [DID_EXPOSED] = "engines that found more outside than a checkpoint has",
    [DID_COMMIT] = "commits",
    [DID_COMMIT_SEVERAL] = "commits of several epochs",
    [DID_COMMIT_FAILED] = "commits that failed",
    [DID_COMMIT_FENCED] = "commits refused during a takeover",
    [DID_CONDEMNED] = "journals condemned",
    [DID_APPLY_FAILED] = "applies that failed",
    [DID_FENCE] = "takeovers",
    [DID_ABORT] = "aborts",
    [DID_ZOMBIE] = "zombies refused",
    [DID_HALT] = "engines ended in good order",
    [DID_PAUSE] = "pauses of applying",
    [DID_SNAPSHOT] = "disks looked at in one",
    [DID_KILL] = "engines killed",
    [DID_KILL_INSIDE] = "of them between two stores",
    [DID_POWER] = "power failures",
    [DID_TEAR] = "sectors at stake in them",
    [DID_STUCK] = "sectors that a failed flush never wrote",
    [DID_LOADED] = "journals loaded",
    [DID_NOTHING_LOST] = "of them at an epoch before some that held nothing",
    [DID_SYNCHRONOUS] = "operations of a synchronous disk",
};

static struct checker *current; /* for the kill points */

void or_intercept_kill_point(void)
{
    struct checker *c = current;
    if (c && c->inside && c->kill_in && --c->kill_in == 0)
        longjmp(c->killed, 1);
}

static void poll(void *arg)
{
    struct checker *c = arg;
    world_at(&c->w, c->w.now + rng_scale(&c->w.rng, 10 * US, 1 * MS), poll, c); /* first: the engine may die below */
    if (c->hold)
        or_hold_poll(c->hold, c->w.now);
}

static bool step(struct checker *c)
{
    if (setjmp(c->killed)) {
        c->inside = false;
        c->did[DID_KILL_INSIDE]++;
        engine_down(c, false);
        return true;
    }
    c->inside = true;
    bool more = world_step(&c->w);
    c->inside = false;
    return more;
}

static void draw(struct checker *c)
{
    struct rng *r = &c->w.rng;
    c->guests_count = chance(c, 30) ? 2 : 1;
    c->block_size = chance(c, 80) ? 512 : 4096;
    c->ops_left = (uint32_t)rng_between(r, 50, 800);
    c->kills = chance(c, 60) ? (uint32_t)rng_between(r, 1, 5) : 0;
    c->halts = chance(c, 50) ? (uint32_t)rng_between(r, 1, 5) : 0;
    c->powers = chance(c, 60) ? (uint32_t)rng_between(r, 1, 3) : 0;
    c->error_ppm = chance(c, 25) ? (uint32_t)rng_scale(r, 1000, 20000) : 0;
    c->flush_error_ppm = chance(c, 20) ? (uint32_t)rng_scale(r, 2000, 100000) : 0;
    c->synchronous = chance(c, 15);
    c->io_ns_max = rng_scale(r, 20 * US, 5 * MS);
    c->cut_ns_max = (uint32_t)rng_scale(r, 200 * US, 20 * MS);
    c->bytes_max = rng_between(r, OR_DOMAIN_BYTES_MIN, 128 * OR_HOLD_PAGE) / OR_HOLD_PAGE * OR_HOLD_PAGE;
    c->region_bytes = or_hold_bytes((uint32_t)rng_between(r, 70, REGION_SLOTS_MAX));
    c->region = aligned_alloc(OR_HOLD_PAGE, c->region_bytes);
    memset(c->region, 0, c->region_bytes);
}

uint64_t checker_run(uint64_t seed, uint64_t *did, bool trace, world_failed *failed)
{
    static uint64_t coverage[COV_MAX];
    struct checker *c = calloc(1, sizeof *c);
    uint64_t before[DID_MAX];
    memcpy(before, did, sizeof before);
    uint64_t *mine = calloc(DID_MAX, sizeof *mine);
    world_init(&c->w, seed, coverage);
    c->w.trace = trace;
    c->w.failed = failed;
    c->did = mine;
    current = c;
    draw(c);
    for (uint32_t n = 0; n < c->guests_count; n++) {
        c->guests[n].c = c;
        c->guests[n].index = n;
        guest_init(&c->guests[n]);
    }
    engine_up(c);
    poll(c);
    driver_act(c);
    uint64_t limit = c->w.now + HEALTHY_NS;
    while (c->ops_left)
        if (c->w.now > limit || !step(c))
            driver_stuck(c, "nothing happens");
    c->calm = true;
    c->kill_in = 0;
    limit = c->w.now + HEALTHY_NS;
    while (!driver_finish(c))
        if (c->w.now > limit || !step(c))
            driver_stuck(c, "never ends");
    or_hold_destroy(c->hold);
    uint64_t hash = c->w.hash;
    for (uint32_t d = 0; d < DID_MAX; d++)
        did[d] = before[d] + mine[d];
    world_free(&c->w);
    free(c->region);
    free(mine);
    free(c);
    current = NULL;
    return hash;
}
