/* What outlives the engine: the memory of its cache, as the supervisor's store holds it, and what the next engine does
 * with it. An engine may die at any step (or_cache_step): what its memory holds at that instant is copied aside, and
 * what it still does until it has come back from there is nobody's any more. */
#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cache/huge.h"
#include "world.h"

static struct checker *now; /* of this world */

/* --- huge pages: none, and so no thread ------------------------------------------------------------- */

int or_huge_open(struct or_huge *huge, uint8_t *const start[OR_HUGE_MEMORIES],
                 const uint64_t bytes_max[OR_HUGE_MEMORIES])
{
    (void)huge, (void)start, (void)bytes_max;
    return 0;
}

void or_huge_close(struct or_huge *huge)
{
    (void)huge;
}

void or_huge_reach(struct or_huge *huge, enum or_huge_memory memory, uint64_t bytes)
{
    (void)huge, (void)memory, (void)bytes;
}

bool or_huge_cut(struct or_huge *huge, enum or_huge_memory memory, uint64_t bytes)
{
    (void)huge, (void)memory, (void)bytes;
    return true;
}

uint64_t or_huge_bytes(const struct or_huge *huge, enum or_huge_memory memory)
{
    (void)huge, (void)memory;
    return 0;
}

/* --- dying ------------------------------------------------------------------------------------------ */

static int copy(struct checker *c, int from)
{
    struct stat s;
    int to = memfd_create("kept", MFD_CLOEXEC);
    bool ok = to >= 0 && fstat(from, &s) == 0 && ftruncate(to, s.st_size) == 0;
    for (off_t at = 0; ok && (at = lseek(from, at, SEEK_DATA)) >= 0;) {
        off_t end = lseek(from, at, SEEK_HOLE);
        lseek(to, at, SEEK_SET);
        while (ok && at < end)
            ok = sendfile(to, from, &at, (size_t)(end - at)) > 0;
    }
    if (!ok)
        world_fail(&c->w, "no copy", "error %d", errno);
    return to;
}

static void keep_copy(struct checker *c, const int fds[OR_CACHE_FDS])
{
    struct memory *m = world_alloc(&c->w, sizeof *m);
    for (uint32_t n = 0; n < OR_CACHE_FDS; n++)
        m->fds[n] = copy(c, fds[n]);
    m->next = c->left;
    c->left = m;
}

void keep_die(struct checker *c, enum death death)
{
    if (c->dead)
        return;
    c->dead = c->dying = true;
    c->death = death;
    c->life++;
    world_note(&c->w, "dies", death, 0, 0);
    if (death != DEATH_ENGINE)
        return;
    int fds[OR_CACHE_FDS];
    or_cache_memory(c->cache, fds);
    keep_copy(c, fds);
    for (struct memory *m = c->found; m; m = m->next) {
        or_cache_heritage_memory(m->heritage, fds);
        keep_copy(c, fds);
    }
}

void keep_init(struct checker *c)
{
    now = c;
}

void or_cache_step(void)
{
    struct checker *c = now;
    if (!c->steps_to_death || c->dead || --c->steps_to_death)
        return;
    c->did[DID_DIE_MIDWAY]++;
    keep_die(c, c->death_due);
}

void keep_arm(struct checker *c, enum death death, uint64_t steps_max)
{
    c->death_due = death;
    c->steps_to_death = rng_scale(&c->w.rng, 1, steps_max);
}

/* --- between two lives ------------------------------------------------------------------------------ */

void keep_close(struct checker *c)
{
    for (; c->found; c->found = c->found->next)
        or_cache_heritage_close(c->found->heritage);
}

void keep_lose(struct checker *c)
{
    for (; c->left; c->left = c->left->next)
        for (uint32_t n = 0; n < OR_CACHE_FDS; n++)
            close(c->left->fds[n]);
}

/* --- the next engine -------------------------------------------------------------------------------- */

void keep_find(struct checker *c)
{
    uint32_t found = 0;
    while (c->left) {
        struct memory *m = c->left;
        int err;
        c->left = m->next;
        m->heritage = or_cache_heritage_open(m->fds, &err);
        if (!m->heritage)
            world_fail(&c->w, "memory refused", "error %d", err);
        if (!or_cache_heritage_bytes(m->heritage) || (checker_planted == CHECKER_PLANT_KEEP_NEWEST && found)) {
            or_cache_heritage_close(m->heritage);
            continue;
        }
        struct memory **at = chance(c, 50) && c->found ? &c->found->next : &c->found; /* in any order */
        m->next = *at;
        *at = m;
        found++;
    }
    c->did[DID_FOUND] += found > 0;
    c->did[DID_FOUND_SEVERAL] += found > 1;
}

/* From all memories; how many blocks. *all: there was room. */
static uint64_t take_all(struct checker *c, struct or_volume *volume, uint64_t content, bool *all)
{
    uint64_t bytes = 0;
    for (struct memory *m = c->found; m && *all; m = m->next) {
        uint64_t before = or_cache_heritage_bytes(m->heritage);
        *all = or_cache_inherit(volume, m->heritage, content);
        bytes += before - or_cache_heritage_bytes(m->heritage);
    }
    return bytes / OR_CACHE_BLOCK;
}

static uint64_t continued(const struct side *side, uint32_t below)
{
    if (!side->layered || checker_planted == CHECKER_PLANT_KEEP_HEAD_ONLY)
        return 0;
    if (checker_planted == CHECKER_PLANT_KEEP_FOR_ALL)
        return below == 1 && side->head->below ? side->head->below->content : 0;
    return or_layers_continued(side->layered, below);
}

bool keep_take(struct checker *c, struct side *side, struct or_volume *volume)
{
    uint64_t content = side->content;
    bool all = true;
    for (uint32_t below = 1; content && all; below++) {
        uint64_t taken = take_all(c, volume, content, &all);
        c->did[DID_TAKE] += taken;
        c->did[DID_TAKE_BELOW] += below > 1 ? taken : 0;
        content = continued(side, below);
    }
    c->did[DID_TAKE_LATER] += !all;
    return all || checker_planted == CHECKER_PLANT_KEEP_HASTY;
}

int keep_drain(struct checker *c, struct side *side)
{
    int err;
    while (!(err = or_cache_drain_step(side->drain))) {
        uint64_t content = side->draining ? continued(side, side->draining) : side->content;
        side->draining++;
        if (!content)
            break;
        for (struct memory *m = c->found; m; m = m->next)
            or_cache_drain_add(side->drain, m->heritage, content);
    }
    return err;
}
