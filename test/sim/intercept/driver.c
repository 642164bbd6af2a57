/* What drives checkpoints and takeovers, and lets the engine and the machine die. */
#include "world.h"

#include <errno.h>
#include <string.h>

static struct or_domain_info info_of(const struct guest *g)
{
    struct or_domain_info info;
    or_domain_read_info(g->domain, &info);
    return info;
}

/* --- callbacks of the domain ------------------------------------------------------------------------ */

static bool on_packet(void *arg, uint32_t nic, const uint8_t *bytes, uint32_t length)
{
    struct guest *g = arg;
    (void)nic;
    if (g->c->halted)
        world_fail(&g->c->w, "released after the halt", "guest %u", g->index);
    if (!g->c->calm && chance(g->c, 5)) {
        g->c->did[DID_BLOCKED]++;
        return false;
    }
    packet_out(g, bytes, length);
    return true;
}

static void on_overflow(void *arg)
{
    struct guest *g = arg;
    g->c->did[DID_OVERFLOW]++;
}

static void on_trouble(void *arg, enum or_domain_trouble what)
{
    struct guest *g = arg;
    struct checker *c = g->c;
    static const enum trouble did[] = {DID_COMMIT_FAILED, DID_CONDEMNED, DID_APPLY_FAILED};
    c->did[did[what]]++;
    c->condemned |= what == OR_TROUBLE_CONDEMNED;
    if (!c->error_ppm && !c->flush_error_ppm)
        world_fail(&c->w, "trouble without cause", "guest %u: %d", g->index, what);
}

/* --- commits ---------------------------------------------------------------------------------------- */

static void on_committed(struct or_commit *commit, int err)
{
    struct commit *mine = (struct commit *)(void *)commit; /* its first member */
    struct guest *g = mine->g;
    struct checker *c = g->c;
    mine->busy = false;
    world_note(&c->w, "committed", g->index, commit->epoch, (uint64_t)-err);
    if (err == 0)
        g->told = commit->epoch > g->told ? commit->epoch : g->told;
    else if (err == -EINVAL || (err == -EIO && !c->halted && !c->error_ppm && !c->flush_error_ppm) ||
             (err == -ESTALE && commit->generation == g->generation))
        world_fail(&c->w, "commit refused", "guest %u, epoch %llu: %d", g->index, (unsigned long long)commit->epoch,
                   err);
}

static void commit(struct guest *g, uint64_t epoch)
{
    struct commit *free = g->commits;
    while (free < g->commits + COMMITS && free->busy)
        free++;
    if (free == g->commits + COMMITS || epoch == 0)
        return;
    g->c->did[DID_COMMIT]++;
    g->c->did[DID_COMMIT_SEVERAL] += epoch > g->asked + 1;
    g->asked = epoch > g->asked ? epoch : g->asked;
    free->g = g;
    free->busy = true;
    free->commit = (struct or_commit){.epoch = epoch, .generation = g->generation, .done = on_committed};
    or_domain_commit(g->domain, &free->commit);
}

static void cover(struct guest *g, uint64_t epoch)
{
    or_domain_cover(g->domain, epoch);
    if (g->exposed > epoch)
        g->exposed = epoch;
}

/* For a checkpoint; or without one, when protection is dropped. */
static void cut(struct guest *g, bool covers)
{
    uint64_t epoch;
    model_cut(g, g->open); /* first: the engine may die in it */
    g->cutting = true;
    g->covering = covers;
    int err = or_domain_cut(g->domain, g->generation, &epoch);
    if (!err && covers)
        cover(g, epoch);
    g->cutting = g->covering = false;
    if (err == -EAGAIN)
        return;
    if (err || epoch != g->open)
        world_fail(&g->c->w, "cut refused", "guest %u: %d, epoch %llu", g->index, err, (unsigned long long)epoch);
    g->open++;
    g->c->did[covers ? DID_CUT : DID_EXPOSE]++;
}

static void expose(struct guest *g)
{
    cut(g, false);
    g->exposing = true;
    or_domain_expose(g->domain);
    g->exposing = false;
    g->exposed = NONE;
}

/* The next engine knows it, unless the region is lost. One that died in between may have got as far as to say so. */
static void check_exposed(struct guest *g)
{
    struct or_domain_info info = info_of(g);
    bool same = info.exposed == (g->exposed > info.committed) && info.uncovered == (g->exposed == NONE);
    if (!same && !g->exposing && !g->cutting)
        world_fail(&g->c->w, "exposure forgotten", "guest %u: until %llu, committed %llu, exposed %d, uncovered %d",
                   g->index, (unsigned long long)g->exposed, (unsigned long long)info.committed, info.exposed,
                   info.uncovered);
    if (!same)
        g->exposed = info.uncovered ? NONE : info.open - 1;
    if (g->covering && info.open == g->open + 1)
        cover(g, g->open); /* again: nobody saw whether the engine got as far as that */
    g->covering = g->exposing = false;
    g->c->did[DID_EXPOSED] += info.exposed;
}

/* --- takeovers -------------------------------------------------------------------------------------- */

static void take_over(struct guest *g);

static void on_fenced(struct or_fence *fence, int err, uint64_t committed)
{
    struct guest *g = OR_CONTAINER(fence, struct guest, fence);
    struct checker *c = g->c;
    world_note(&c->w, "fenced", g->index, (uint64_t)-err, committed);
    if (err && !c->error_ppm && !c->flush_error_ppm)
        world_fail(&c->w, "fence failed", "guest %u: %d", g->index, err);
    if (err)
        return; /* the driver tries again */
    for (uint32_t n = 0; n < UPPER; n++)
        if (g->upper[n].busy && !g->lost)
            world_fail(&c->w, "under way after the fence", "guest %u, operation %u", g->index, g->upper[n].io.op);
    if (committed != info_of(g).committed || committed < g->told || committed < g->outside || committed > g->asked)
        world_fail(&c->w, "wrong epoch to resume", "guest %u: %llu, told %llu, outside %llu, asked %llu", g->index,
                   (unsigned long long)committed, (unsigned long long)g->told, (unsigned long long)g->outside,
                   (unsigned long long)g->asked);
    g->asked = committed;
    if (g->lost || g->aborting || chance(c, 50)) {
        g->aborting = true;
        err = or_domain_abort(g->domain);
        g->aborting = false;
        if (err)
            world_fail(&c->w, "abort refused", "guest %u: %d", g->index, err);
        c->did[DID_ABORT]++;
        model_rewind(g, committed);
    }
    g->lost = false;
    g->phase = PHASE_RUN;
    guest_attach(g);
}

static void on_refused(struct or_commit *commit, int err)
{
    *(int *)commit->owner = err;
}

/* Nor may one be taken while the fence is under way: the abort would drop what is at the journal. */
static void commit_fenced(struct guest *g, uint64_t generation, int refusal)
{
    int err = 0;
    struct or_commit commit = {.epoch = g->open - 1, .generation = generation, .done = on_refused, .owner = &err};
    or_domain_commit(g->domain, &commit);
    if (err != refusal && !(err == -EIO && g->c->condemned))
        world_fail(&g->c->w, "commit let in", "guest %u, generation %llu: %d", g->index, (unsigned long long)generation,
                   err);
    g->c->did[DID_COMMIT_FENCED]++;
}

static void take_over(struct guest *g)
{
    struct checker *c = g->c;
    struct or_domain_info info = info_of(g);
    bool again = g->phase == PHASE_FENCING;
    g->phase = g->lost ? PHASE_REWIND : PHASE_FENCING;
    c->did[DID_FENCE] += !again;
    if (!again && !g->lost) {
        memcpy(g->zombies, g->doors, sizeof g->zombies);
        g->zombie = g->generation;
    }
    g->generation = info.generation + 1;
    g->fence = (struct or_fence){.generation = g->generation, .done = on_fenced};
    int err = g->lost ? or_domain_reset(g->domain, &g->fence) : or_domain_fence(g->domain, &g->fence);
    if (err && err != -EBUSY)
        world_fail(&c->w, "fence refused", "guest %u: %d", g->index, err);
    if (err)
        g->generation = info.generation;
    if (g->phase == PHASE_FENCING) {
        commit_fenced(g, g->generation - 1, -ESTALE);
        commit_fenced(g, g->generation, -EAGAIN);
    }
}

/* --- life and death --------------------------------------------------------------------------------- */

static void on_opened(void *arg, int err)
{
    struct guest *g = arg;
    struct checker *c = g->c;
    struct or_domain_info info = info_of(g);
    world_note(&c->w, "opened", g->index, (uint64_t)-err, info.committed);
    if (err == -EIO && (c->error_ppm || c->flush_error_ppm)) {
        return; /* another engine will try */
    }
    if (err)
        world_fail(&c->w, "not opened", "guest %u: %d", g->index, err);
    if (g->lost && info.committed < g->told && info.committed >= model_least(g)) {
        c->did[DID_NOTHING_LOST]++;
        g->told = info.committed;
    }
    if (info.committed < g->told || info.committed < g->outside || info.committed > g->asked)
        world_fail(&c->w, info.committed < g->outside ? "released, but not durable" : "wrong epoch after a crash",
                   "guest %u: committed %llu, told %llu, outside %llu, asked %llu", g->index,
                   (unsigned long long)info.committed, (unsigned long long)g->told, (unsigned long long)g->outside,
                   (unsigned long long)g->asked);
    if (!g->opened && info.state == OR_DOMAIN_REWIND)
        g->lost = true; /* the engine died while it made the domain */
    if (g->lost && g->opened && info.state == OR_DOMAIN_RUNNING && info.generation == g->generation) {
        g->lost = false; /* it died when the reset was done, and nobody was told */
        g->phase = PHASE_FENCING;
        model_rewind(g, info.committed);
    }
    if (info.state != (g->lost ? OR_DOMAIN_REWIND : OR_DOMAIN_RUNNING))
        world_fail(&c->w, "wrong state after a crash", "guest %u: %d", g->index, info.state);
    g->opened = true;
    if (g->lost) {
        c->did[DID_LOADED] += info.committed > 0;
        g->exposed = 0;
        g->cutting = g->covering = g->exposing = false;
        g->phase = PHASE_REWIND;
        return;
    }
    check_exposed(g);
    bool cut_done = g->cutting && info.open == g->open + 1;
    if (g->aborting) { /* it happened or not; the driver does it again */
        g->open = info.open;
    } else if (info.open != g->open && !cut_done) {
        world_fail(&c->w, "wrong open epoch", "guest %u: %llu, not %llu", g->index, (unsigned long long)info.open,
                   (unsigned long long)g->open);
    }
    g->open += cut_done;
    g->cutting = false;
    bool gone = !c->calm && chance(c, 20); /* the guest's host died, too */
    if (g->phase == PHASE_FENCING || g->generation != info.generation || gone) {
        g->phase = PHASE_FENCING;
        g->generation = info.generation;
        for (uint32_t n = 0; n < UPPER; n++) { /* of the old generation */
            if (g->upper[n].busy)
                model_end(g, &g->upper[n], false);
            g->upper[n].busy = false;
        }
        return; /* the driver goes on with it */
    }
    g->phase = PHASE_RUN;
    guest_attach(g);
    guest_resume(g);
}

static void open_domain(struct guest *g)
{
    struct checker *c = g->c;
    struct or_domain_config config = {.id = g->index + 1,
                                      .bytes_max = c->bytes_max,
                                      .journal = &g->journal.volume,
                                      .journal_id = 77 + g->index,
                                      .arg = g,
                                      .opened = on_opened,
                                      .packet = on_packet,
                                      .overflow = on_overflow,
                                      .trouble = on_trouble};
    int err;
    g->domain = or_domain_open(c->hold, &config, &err);
    if (!g->domain)
        world_fail(&c->w, "no domain", "guest %u: %d", g->index, err);
    for (uint32_t v = 0; v < VOLUMES; v++)
        or_domain_add_volume(g->domain, volume_id(g, v), &g->disks[v].volume);
}

void engine_up(void *arg)
{
    struct checker *c = arg;
    int err;
    c->hold = or_hold_create(c->region, c->region_bytes, rng_next(&c->w.rng), &err);
    if (!c->hold)
        world_fail(&c->w, "no hold", "%d", err);
    for (uint32_t n = 0; n < c->guests_count; n++)
        open_domain(&c->guests[n]);
}

void engine_down(struct checker *c, bool power)
{
    world_note(&c->w, power ? "power" : "kill", c->life, 0, 0);
    c->did[power ? DID_POWER : c->halted ? DID_HALT : DID_KILL]++;
    c->life++;
    c->kill_in = 0;
    c->condemned = c->halted = false;
    for (uint32_t n = 0; n < c->guests_count; n++) {
        struct guest *g = &c->guests[n];
        struct disk *disks[] = {&g->disks[0], &g->disks[1], &g->journal};
        for (uint32_t i = 0; i < VOLUMES + 1; i++) {
            disk_killed(disks[i]);
            if (power)
                disk_power(disks[i]);
        }
        if (g->sending)
            g->packets[g->packets_count++].perhaps = true;
        g->sending = g->paused = g->held = false;
        g->repeat = g->packets_out;
        g->phase = g->phase == PHASE_FENCING ? PHASE_FENCING : PHASE_DOWN;
        g->domain = NULL;
        memset(g->doors, 0, sizeof g->doors);
        memset(g->zombies, 0, sizeof g->zombies);
        for (uint32_t i = 0; i < COMMITS; i++)
            g->commits[i].busy = false;
        if (power && g->opened) {
            g->lost = true;
            for (uint32_t i = g->packets_out; i < g->packets_count; i++)
                g->packets[i].perhaps = true; /* its epoch, if it was not committed, is another one's then */
            g->packets_out = g->packets_count;
            g->repeat = 0;
        }
    }
    or_hold_destroy(c->hold);
    c->hold = NULL;
    if (power)
        memset(c->region, (int)rng_below(&c->w.rng, 256), c->region_bytes);
    world_at(&c->w, c->w.now + 1 * MS, engine_up, c);
}

/* --- what happens next -------------------------------------------------------------------------------- */

/* A domain that was loaded is at the boundary that it says, on the disk itself. */
static void check_loaded(struct guest *g)
{
    struct or_domain_info info = info_of(g);
    if (info.state == OR_DOMAIN_REWIND && info.applied == info.committed) {
        model_on_disk(g, info.committed, "after a power failure");
        take_over(g);
    }
}

static void hold_disks(struct guest *g, bool held)
{
    g->held = held;
    for (uint32_t n = 0; n < VOLUMES; n++) {
        struct or_volume *volume = &g->disks[n].volume;
        if (held)
            or_volume_hold(volume);
        else
            or_volume_release(volume, volume);
    }
}

static bool disks_idle(const struct guest *g)
{
    uint64_t in_flight = 0;
    for (uint32_t n = 0; n < VOLUMES; n++)
        in_flight += g->disks[n].volume.in_flight;
    return in_flight == 0;
}

/* What a snapshot does: while applying pauses, the disks are held, and show one moment: the boundary of an epoch. */
static void look_paused(struct guest *g)
{
    if (!g->paused) {
        g->paused = true;
        g->c->did[DID_PAUSE]++;
        or_domain_pause(g->domain);
    }
    int paused = g->held ? 0 : or_domain_paused(g->domain);
    if (paused) {
        hold_disks(g, true);
        g->whole = paused > 0;
    }
    if (paused || !g->held || !disks_idle(g))
        return;
    g->paused = false;
    if (g->whole && model_at_boundary(g, info_of(g).applied, info_of(g).committed))
        g->c->did[DID_SNAPSHOT]++;
    else if (g->whole)
        world_fail(&g->c->w, "snapshot between epochs", "guest %u", g->index);
    hold_disks(g, false);
    or_domain_resume(g->domain);
}

static void drive(struct guest *g)
{
    struct checker *c = g->c;
    uint32_t dice = (uint32_t)rng_below(&c->w.rng, 100);
    if (g->phase == PHASE_REWIND)
        check_loaded(g);
    else if (g->phase == PHASE_FENCING && info_of(g).state == OR_DOMAIN_RUNNING)
        take_over(g);
    if (g->phase != PHASE_RUN) {
        if (g->held) /* a fence may wait for a read that waits there */
            look_paused(g);
        return;
    }
    if (dice < 43)
        cut(g, true);
    else if (dice < 45)
        expose(g);
    else if (dice < 90)
        commit(g, g->told + rng_below(&c->w.rng, g->open - g->told));
    else if (dice < 93)
        take_over(g);
    else if (dice < 96 || g->paused)
        look_paused(g);
    else
        zombie_act(g);
}

/* --- an end in good order ------------------------------------------------------------------------------ */

static void halt(struct checker *c)
{
    c->halted = true; /* first: what the halt ends is sent again */
    c->kill_in = 0;
    for (uint32_t n = 0; n < c->guests_count; n++) {
        struct guest *g = &c->guests[n];
        or_domain_halt(g->domain);
        if (g->held) /* what is under way comes to an end */
            hold_disks(g, false);
    }
}

/* Nothing is under way any more, and the next engine takes all of it over. */
static void hand_over(struct checker *c)
{
    for (uint32_t n = 0; n < c->guests_count; n++)
        if (!or_domain_idle(c->guests[n].domain))
            return;
    engine_down(c, false);
}

/* Only another engine helps. */
static bool wants_engine(struct checker *c)
{
    for (uint32_t n = 0; n < c->guests_count; n++)
        if (info_of(&c->guests[n]).state == OR_DOMAIN_UNUSABLE)
            return true;
    return c->condemned && chance(c, 5);
}

void driver_act(void *arg)
{
    struct checker *c = arg;
    if (c->calm)
        return;
    world_at(&c->w, c->w.now + rng_scale(&c->w.rng, 10 * US, c->cut_ns_max), driver_act,
             c); /* first: the engine may die below */
    if (c->halted) {
        hand_over(c);
    } else if (c->hold) {
        drive(&c->guests[rng_below(&c->w.rng, c->guests_count)]);
        uint32_t dice = (uint32_t)rng_below(&c->w.rng, 1000);
        bool stuck = wants_engine(c);
        if ((dice < 8 || (c->condemned && dice < 100)) && c->powers) {
            c->powers--;
            engine_down(c, true);
        } else if ((dice < 20 && c->kills) || stuck) {
            c->kills -= c->kills > 0;
            engine_down(c, false);
        } else if (dice < 50 && c->kills && !c->kill_in) {
            c->kills--;
            c->kill_in = (uint32_t)rng_scale(&c->w.rng, 1, 400);
        } else if (dice < 70 && c->halts) {
            c->halts--;
            halt(c);
        }
    }
}

/* Towards the end of a seed: everything is committed, released and applied. */
static bool settle(struct guest *g)
{
    if (g->phase == PHASE_DOWN || !g->domain)
        return false;
    if (g->phase != PHASE_RUN) {
        drive(g);
        return false;
    }
    if (g->paused)
        look_paused(g);
    struct or_domain_info info = info_of(g);
    for (uint32_t n = 0; n < UPPER; n++)
        if (g->upper[n].busy && info.waiting == 0)
            return false;
    bool busy = false;
    for (uint32_t n = 0; n < COMMITS; n++)
        busy |= g->commits[n].busy;
    if (busy)
        return false;
    if (info.committed < info.open - 1 || info.bytes || info.waiting) {
        if (info.committed == info.open - 1)
            cut(g, true);
        if (g->phase == PHASE_RUN)
            commit(g, g->open - 1);
        return false;
    }
    if (info.applied != info.committed)
        return false;
    model_on_disk(g, info.committed, "at the end");
    uint32_t out = g->packets_out;
    while (out < g->packets_count && g->packets[out].perhaps)
        out++;
    if (out != g->packets_count)
        world_fail(&g->c->w, "packets not released", "guest %u: %u of %u", g->index, out, g->packets_count);
    return true;
}

_Noreturn void driver_stuck(struct checker *c, const char *check)
{
    const struct guest *g = &c->guests[0];
    struct or_domain_info info = {0};
    if (g->domain)
        info = info_of(g);
    world_fail(&c->w, check,
               "guest 0: phase %d, state %d, open %llu, committed %llu, applied %llu, %llu pages, %u wait", g->phase,
               info.state, (unsigned long long)info.open, (unsigned long long)info.committed,
               (unsigned long long)info.applied, (unsigned long long)info.bytes / OR_HOLD_PAGE, info.waiting);
}

bool driver_finish(struct checker *c)
{
    bool done = c->hold != NULL;
    if (c->halted) {
        hand_over(c);
        return false;
    }
    for (uint32_t n = 0; c->hold && n < c->guests_count; n++)
        done = settle(&c->guests[n]) && done;
    if (c->hold && wants_engine(c) && !done)
        engine_down(c, false);
    return done;
}
