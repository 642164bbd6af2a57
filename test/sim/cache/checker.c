/* One seed: draws a world, lets operations, troubles and crashes happen in it, and ends it in good order. */
#include "world.h"

#include <stdlib.h>

#define MIB (UINT64_C(1) << 20)
#define HEALTHY_NS (60 * SEC) /* in a world without troubles nothing takes so long */

const char *const did_names[DID_MAX] = {
    [DID_READ] = "reads",
    [DID_WRITE] = "writes",
    [DID_FUA] = "writes with FUA",
    [DID_FLUSH] = "flushes",
    [DID_ZERO] = "write-zeroes",
    [DID_DISCARD] = "discards",
    [DID_PEEK] = "reads answered out of a block",
    [DID_BAD_SECTOR] = "sectors gone bad",
    [DID_READ_ERROR] = "reads of the disk that failed",
    [DID_WRITE_ERROR] = "writes of the disk that failed",
    [DID_FLUSH_ERROR] = "flushes of the disk that failed",
    [DID_ERROR_REPORTED] = "failed write-outs told by a flush",
    [DID_CRASH] = "crashes",
    [DID_KILL] = "engines killed",
    [DID_KILL_KEPT] = "volumes that a kill without kept memory must not harm",
    [DID_DIE_MIDWAY] = "deaths between two steps",
    [DID_DIE_AGAIN] = "deaths before the next life",
    [DID_FOUND] = "engines that found kept memory",
    [DID_FOUND_SEVERAL] = "of them that of several engines",
    [DID_TAKE] = "blocks taken up",
    [DID_TAKE_BELOW] = "of them from the layer below",
    [DID_TAKE_LATER] = "volumes that had to wait for room",
    [DID_TAKE_DIED] = "of them overtaken by a death",
    [DID_DRAIN] = "volumes written out before they were on the cache",
    [DID_DRAIN_FAILED] = "refused by the disk",
    [DID_DRAIN_DIED] = "overtaken by a death",
    [DID_TEAR] = "writes torn by a crash",
    [DID_TEAR_MAP] = "maps torn by a crash",
    [DID_RESIZE] = "changes of the budget",
    [DID_DROP] = "caches dropped",
    [DID_MODE] = "changes of the mode",
    [DID_REOPEN] = "volumes opened",
    [DID_REOPEN_LATER] = "volumes opened while they were being forgotten",
    [DID_DETACH] = "volumes detached",
    [DID_SYNCHRONOUS] = "operations of a synchronous disk",
    [DID_SHARED_HIT] = "hits in what another volume read",
    [DID_EVICT] = "evictions",
    [DID_AHEAD] = "blocks read ahead",
    [DID_WRITE_OUT] = "blocks written out",
    [DID_COALESCE] = "of them together with others",
    [DID_THROTTLE] = "writes past a cache full of dirty blocks",
    [DID_BYPASS] = "operations past the cache",
    [DID_CUT] = "snapshots of a layered volume",
    [DID_CUT_RAW] = "snapshots of a raw volume",
    [DID_CUT_HELD] = "operations held by them",
    [DID_CUT_FAILED] = "snapshots that failed",
    [DID_CUT_CRASHED] = "snapshots overtaken by a crash",
    [DID_CLONE] = "clones",
    [DID_CLONE_LARGER] = "of them larger than what they are of",
    [DID_ROLLBACK] = "rollbacks",
    [DID_REMOVE_SNAPSHOT] = "snapshots removed",
    [DID_REMOVE_VOLUME] = "volumes removed",
    [DID_REMOVE_LAYER] = "layers deleted",
    [DID_DEEP] = "chains of four layers and more",
    [DID_MERGE] = "layers merged",
    [DID_MERGE_RAW] = "of them into raw ones",
    [DID_MERGE_FAILED] = "merges that failed",
    [DID_MERGE_CRASHED] = "merges overtaken by a crash",
    [DID_REBASE] = "volumes put on merged layers",
};

static void step_upper(struct upper *u);

/* --- the cache's time ------------------------------------------------------------------------------- */

static void poll(void *arg);

static void poll_again(struct checker *c)
{
    uint64_t due = or_cache_poll(c->cache, c->w.now);
    uint64_t at = due == UINT64_MAX ? c->w.now + 500 * MS : due <= c->w.now ? c->w.now + 10 * US : due;
    c->poll_at = at;
    world_at(&c->w, at, poll, c);
}

static void poll(void *arg)
{
    struct checker *c = arg;
    if (c->dead || c->poll_at != c->w.now)
        return; /* superseded */
    bool idle = c->calm && c->open_ops == 0 && or_cache_volumes(c->cache) == 0;
    if (!idle)
        poll_again(c);
}

/* --- what is under way ------------------------------------------------------------------------------ */

static bool apart(uint32_t a, uint32_t a_count, uint32_t b, uint32_t b_count)
{
    return a + a_count <= b || b + b_count <= a;
}

/* Whether an operation may begin beside those under way: as the session's rule of overlaps has it. */
static bool may_begin(const struct checker *c, uint32_t volume, uint8_t op, uint32_t first, uint32_t count)
{
    const struct side *side = &c->sides[volume];
    for (uint32_t n = 0; n < UPPER; n++) {
        const struct upper *u = &side->upper[n];
        if (u->busy && u->io.op != OR_OP_FLUSH && (or_op_writes(op) || or_op_writes(u->io.op)) &&
            !apart(first, count, (uint32_t)(u->io.offset / SECTOR), u->io.length / SECTOR))
            return false;
    }
    for (uint32_t n = 0; n < PINS; n++)
        if (side->pins[n].memory && or_op_writes(op) && !apart(first, count, side->pins[n].sector, side->pins[n].count))
            return false;
    return true;
}

static void draw_range(struct checker *c, uint32_t volume, uint32_t *first, uint32_t *count)
{
    struct rng *r = &c->w.rng;
    struct side *side = &c->sides[volume];
    uint32_t unit = side->volume->block_size / SECTOR, all = side->image.size;
    uint32_t most = chance(c, 4) ? 800 : chance(c, 20) ? 128 : 16;
    *count = (uint32_t)rng_scale(r, 1, most);
    *count = (*count + unit - 1) / unit * unit;
    uint32_t where = chance(c, 60) ? all / 8 : all;
    if (*count > where)
        where = all;
    *first = (uint32_t)rng_below(r, where - *count + 1) / unit * unit;
    if (chance(c, 25) && side->sequential + *count <= all)
        *first = side->sequential;
    if (chance(c, 30)) {
        *first -= *first % 8;
        *count = (*count + 7) / 8 * 8;
    }
    if (*first + *count > all)
        *count = all - *first;
    side->sequential = *first + *count < all ? *first + *count : 0;
}

/* --- ends ------------------------------------------------------------------------------------------- */

static void check_read(struct checker *c, struct upper *u)
{
    struct side *side = &c->sides[u->volume];
    uint32_t first = (uint32_t)(u->io.offset / SECTOR), count = u->io.length / SECTOR;
    for (uint32_t s = 0; s < count && u->io.status == OR_OK; s++)
        model_check(c, &side->image, first + s, stamp_get(c, u->data + s * SECTOR), "read");
    if (u->io.status != OR_OK && !file_chain_bad(side->head, first, count))
        world_fail(&c->w, "read failed without cause", "volume %u, sectors %u +%u", u->volume, first, count);
}

static void check_flush(struct checker *c, struct upper *u)
{
    struct side *side = &c->sides[u->volume];
    if (u->io.status != OR_OK) {
        c->did[DID_ERROR_REPORTED] += side->unreported > 0;
        side->unreported = 0;
        if (!c->errors)
            world_fail(&c->w, "flush failed without cause", "volume %u", u->volume);
        return;
    }
    if (u->errors_before && side->unreported)
        world_fail(&c->w, "error swallowed", "volume %u: a flush ends well after a write-out failed", u->volume);
    model_durable(&side->image, 0, side->image.size, u->acked);
}

static void check_write(struct checker *c, struct upper *u)
{
    struct side *side = &c->sides[u->volume];
    const struct write *w = &c->writes[u->id];
    bool durable = u->io.flags & OR_REQ_FUA;
    if (u->io.status == OR_OK) {
        model_acked(c, &side->image, u->id);
        cut_acked(side, u->id);
        int32_t acked[SECTORS];
        for (uint32_t s = 0; s < w->count; s++)
            acked[s] = u->id;
        if (durable && u->io.op == OR_OP_WRITE)
            model_durable(&side->image, w->first, w->count, acked);
        return;
    }
    bool unreadable = side->layered && file_chain_bad(side->head, w->first, w->count); /* the rest of a cluster */
    if (!c->errors && !unreadable)
        world_fail(&c->w, "write failed without cause", "volume %u, sectors %u +%u", u->volume, w->first, w->count);
    if (durable)
        side->unreported = 0;
    else if (side->unreported)
        side->unreported--;
}

static void on_done(struct or_io *io)
{
    struct upper *u = (struct upper *)(void *)io; /* its first member */
    struct checker *c = u->c;
    world_note(&c->w, "upper.done", u->volume, (uint64_t)io->op << 32 | io->offset / SECTOR, io->status);
    if (!u->busy)
        world_fail(&c->w, "ended twice", "volume %u", u->volume);
    if (c->dying)
        return;
    if (c->dead)
        world_fail(&c->w, "ended after a crash", "volume %u", u->volume);
    if (io->op == OR_OP_READ)
        check_read(c, u);
    else if (io->op == OR_OP_FLUSH)
        check_flush(c, u);
    else
        check_write(c, u);
    u->busy = false;
    c->open_ops--;
    if (chance(c, 30))
        step_upper(u); /* from inside done() */
}

/* --- begins ----------------------------------------------------------------------------------------- */

static void submit(struct checker *c, struct upper *u, uint8_t op, uint8_t flags, uint32_t first, uint32_t count)
{
    u->busy = true;
    c->open_ops++;
    u->io = (struct or_io){.op = op,
                           .flags = flags,
                           .offset = (uint64_t)first * SECTOR,
                           .length = count * SECTOR,
                           .data = u->data,
                           .done = on_done};
    world_note(&c->w, "upper.submit", u->volume, (uint64_t)op << 32 | first, count);
    struct or_volume *volume = c->sides[u->volume].volume;
    or_list_init(&u->io.link);
    c->did[DID_CUT_HELD] += volume->held;
    or_volume_submit(volume, &u->io);
}

static void begin_flush(struct checker *c, struct upper *u)
{
    struct side *side = &c->sides[u->volume];
    for (uint32_t s = 0; s < side->image.size; s++)
        u->acked[s] = side->image.sectors[s].acked;
    u->errors_before = side->unreported;
    c->did[DID_FLUSH]++;
    submit(c, u, OR_OP_FLUSH, 0, 0, 0);
}

static void begin_write(struct checker *c, struct upper *u, uint8_t op, uint32_t first, uint32_t count)
{
    uint8_t flags = chance(c, 5) ? OR_REQ_FUA : 0;
    u->id = model_begin(c, &c->sides[u->volume].image, op, first, count);
    for (uint32_t s = 0; op == OR_OP_WRITE && s < count; s++)
        stamp_put(u->data + s * SECTOR, (uint64_t)u->id);
    c->did[op == OR_OP_WRITE ? DID_WRITE : op == OR_OP_DISCARD ? DID_DISCARD : DID_ZERO]++;
    c->did[DID_FUA] += flags != 0;
    submit(c, u, op, flags, first, count);
}

static void unpeek(void *arg)
{
    struct pin *p = arg;
    struct checker *c = p->c;
    if (!p->memory || c->dead)
        return;
    for (uint32_t s = 0; s < p->count; s++)
        if (stamp_get(c, p->memory + s * SECTOR) != p->stamps[s])
            world_fail(&c->w, "pinned block changed", "volume %u, sector %u", p->volume, p->sector + s);
    const uint8_t *memory = p->memory;
    p->memory = NULL;
    struct or_volume *volume = c->sides[p->volume].volume;
    volume->ops->unpeek(volume, memory);
}

static void peek(struct checker *c, uint32_t volume, uint32_t first, uint32_t count)
{
    struct side *side = &c->sides[volume];
    struct pin *p = side->pins;
    while (p < side->pins + PINS && p->memory)
        p++;
    if (p == side->pins + PINS || count > 8 || !may_begin(c, volume, OR_OP_READ, first, count))
        return;
    const uint8_t *memory = side->volume->ops->peek(side->volume, (uint64_t)first * SECTOR, count * SECTOR);
    if (!memory || c->dead)
        return;
    c->did[DID_PEEK]++;
    *p = (struct pin){.memory = memory, .sector = first, .count = count, .c = c, .volume = volume};
    for (uint32_t s = 0; s < count; s++) {
        p->stamps[s] = stamp_get(c, memory + s * SECTOR);
        model_check(c, &side->image, first + s, p->stamps[s], "peek");
    }
    world_at(&c->w, c->w.now + rng_scale(&c->w.rng, 1 * US, 20 * MS), unpeek, p);
}

/* Begins the next operation of this strand. */
static void step_upper(struct upper *u)
{
    struct checker *c = u->c;
    struct side *side = &c->sides[u->volume];
    if (c->dead || u->busy || !c->ops_left || !side->volume || side->closing)
        return;
    c->ops_left--;
    uint32_t first, count, dice = (uint32_t)rng_below(&c->w.rng, 100);
    draw_range(c, u->volume, &first, &count);
    static const uint8_t kinds[] = {OR_OP_WRITE_ZEROES, OR_OP_DISCARD};
    uint8_t op = dice < 45 ? OR_OP_READ : dice < 92 ? OR_OP_WRITE : kinds[dice % 2];
    if (dice < 10) {
        peek(c, u->volume, first, count);
    } else if (chance(c, 6)) {
        begin_flush(c, u);
    } else if (c->next_write < (int32_t)WRITES - 1 && may_begin(c, u->volume, op, first, count)) {
        c->did[DID_READ] += op == OR_OP_READ;
        if (op == OR_OP_READ)
            submit(c, u, op, 0, first, count);
        else
            begin_write(c, u, op, first, count);
    }
}

static void on_think(void *arg);

static void think(struct upper *u)
{
    if (u->c->ops_left)
        world_at(&u->c->w, u->c->w.now + rng_scale(&u->c->w.rng, 1 * US, u->c->think_ns_max), on_think, u);
}

static void on_think(void *arg)
{
    step_upper(arg);
    think(arg);
}

/* --- troubles --------------------------------------------------------------------------------------- */

/* Replies that point to a block are let go before their volume is closed. */
static bool close_volume(struct checker *c, uint32_t volume, bool detach)
{
    struct side *side = &c->sides[volume];
    for (uint32_t n = 0; n < PINS; n++)
        if (side->pins[n].memory)
            unpeek(&side->pins[n]);
    return stack_close(c, volume, detach);
}

static enum death draw_death(struct checker *c)
{
    return chance(c, 40) ? DEATH_MACHINE : chance(c, 85) ? DEATH_ENGINE : DEATH_UNATTENDED;
}

/* What dies is dead; or if it was, its machine dies, too. */
static void bury(struct checker *c)
{
    world_note(&c->w, "crash", c->life, c->death, 0);
    c->did[c->death == DEATH_MACHINE ? DID_CRASH : DID_KILL]++;
    c->merge = NULL;
    c->steps_to_death = 0;
    stack_crash(c);
    keep_close(c);
    if (c->death != DEATH_ENGINE)
        keep_lose(c);
    tree_crashed(c);
    c->dying = false;
}

static void die_again(struct checker *c)
{
    c->did[DID_DIE_AGAIN]++;
    c->death = DEATH_MACHINE;
    bury(c);
}

static bool step(struct checker *c)
{
    bool any = world_step(&c->w);
    if (c->dying)
        bury(c);
    return any;
}

static void live(struct checker *c)
{
    c->errors = c->dead = false;
    stack_open_cache(c);
    keep_find(c);
    if (c->found && c->crashes && chance(c, 40)) {
        c->crashes--;
        keep_arm(c, chance(c, 80) ? DEATH_ENGINE : DEATH_MACHINE, 400);
    }
    poll_again(c);
    for (uint32_t i = 0; i < SIDES && !c->dead; i++)
        if (c->sides[i].exists && chance(c, 80))
            stack_open(c, i);
}

static void spoil(struct checker *c, uint32_t volume)
{
    struct file *f = c->sides[volume].head;
    while (f->below && chance(c, 50))
        f = f->below;
    uint32_t unit = c->block_size / SECTOR;
    uint32_t at = (uint32_t)rng_below(&c->w.rng, f->size / unit) * unit;
    for (uint32_t s = at; s < at + unit; s++)
        f->bad[s] = true;
    c->did[DID_BAD_SECTOR]++;
}

/* To a volume that is open. */
static void trouble_open(struct checker *c, uint32_t volume)
{
    struct rng *r = &c->w.rng;
    struct side *side = &c->sides[volume];
    uint32_t dice = (uint32_t)rng_below(r, 100);
    if (c->crashes && dice < (side->cut || side->stale ? 40 : c->merge ? 15 : 6)) {
        c->crashes--;
        if (chance(c, 50))
            keep_die(c, draw_death(c));
        else
            keep_arm(c, draw_death(c), 3000);
    } else if (dice < 25) {
        or_cache_resize(c->cache, rng_between(r, MIB, 4 * MIB));
        c->did[DID_RESIZE]++;
    } else if (dice < 35) {
        or_cache_drop(side->volume);
        c->did[DID_DROP]++;
    } else if (dice < 45) {
        side->mode = (enum or_cache_mode)rng_below(r, OR_CACHE_MODES);
        struct or_cache_volume_config config = stack_draw_config(c, side);
        side->buffered |= side->mode == OR_CACHE_WRITE_BACK;
        or_cache_configure(side->volume, &config);
        c->did[DID_MODE]++;
    } else if (dice < 55) {
        close_volume(c, volume, chance(c, 40));
    } else if (dice < 65) {
        spoil(c, volume);
    } else if (dice < (c->lineages ? 100 : 75)) {
        tree_trouble(c, volume);
    }
}

static void trouble(void *arg)
{
    struct checker *c = arg;
    if (c->calm)
        return;
    uint32_t volume = (uint32_t)rng_below(&c->w.rng, SIDES);
    struct side *side = &c->sides[volume];
    if (!c->dead && chance(c, 30))
        merge_begin(c);
    if (c->dying) {
        /* in the middle of that */
    } else if (c->dead && c->death != DEATH_MACHINE && chance(c, 15)) {
        die_again(c);
    } else if (c->dead) {
        live(c);
    } else if (side->volume) {
        trouble_open(c, volume);
    } else if (!side->closing && !is_coming(side) && !(chance(c, c->lineages ? 80 : 30) && tree_trouble(c, volume)) &&
               side->exists) {
        stack_open(c, volume);
    }
    world_at(&c->w, c->w.now + rng_scale(&c->w.rng, 100 * US, 10 * MS), trouble, c);
}

/* --- a seed ----------------------------------------------------------------------------------------- */

static void draw(struct checker *c)
{
    struct rng *r = &c->w.rng;
    c->block_size = chance(c, 70) ? 512 : 4096;
    c->size_blocks = (uint32_t)rng_between(r, 128, BLOCKS);
    c->ops_left = (uint32_t)rng_between(r, 50, 600);
    c->crashes = chance(c, 60) ? (uint32_t)rng_between(r, 1, 3) : 0;
    c->error_ppm = chance(c, 30) ? (uint32_t)rng_scale(r, 10000, 200000) : 0;
    c->flush_error_ppm = chance(c, 15) ? 50000 : 0;
    c->synchronous = chance(c, 15);
    c->io_ns_max = rng_scale(r, 20 * US, 5 * MS);
    c->think_ns_max = rng_scale(r, 3 * MS, 30 * MS);
    c->lineages = chance(c, 50);
    c->policy = (enum or_cache_policy)rng_below(r, OR_CACHE_POLICIES);
    c->next_write = 1;
}

static void populate(struct checker *c)
{
    tree_init(c);
    for (uint32_t i = 0; i < SIDES; i++) {
        struct side *side = &c->sides[i];
        side->mode = chance(c, 70) ? OR_CACHE_WRITE_BACK : (enum or_cache_mode)rng_below(&c->w.rng, OR_CACHE_MODES);
        for (uint32_t n = 0; n < UPPER; n++) {
            struct upper *u = &side->upper[n];
            u->c = c;
            u->volume = i;
            u->memory = world_alloc(&c->w, SECTORS * SECTOR + 2 * OR_CACHE_BLOCK);
            u->data = u->memory + OR_CACHE_BLOCK - (uintptr_t)u->memory % OR_CACHE_BLOCK;
            if (c->block_size == SECTOR)
                u->data += rng_below(&c->w.rng, 8) * SECTOR; /* aligned to what the volume asks for, no more */
            u->acked = world_alloc(&c->w, SECTORS * sizeof *u->acked);
        }
    }
}

/* So that at the end everything is where it belongs. */
static void open_owed(struct checker *c)
{
    for (uint32_t i = 0; i < SIDES; i++) {
        struct side *side = &c->sides[i];
        if (side->exists && side->owed && !side->volume && !side->closing && !is_coming(side))
            stack_open(c, i);
    }
}

/* All volumes closed, all written out: the end of every seed. */
static void end(struct checker *c)
{
    uint64_t limit = c->w.now + HEALTHY_NS;
    bool done = false;
    c->steps_to_death = 0;
    open_owed(c);
    while (!done) {
        done = c->open_ops == 0 && !c->merge;
        for (uint32_t i = 0; i < SIDES; i++) {
            if (c->sides[i].volume)
                close_volume(c, i, false);
            done = done && !c->sides[i].volume && !c->sides[i].closing && !is_coming(&c->sides[i]);
        }
        if (!done && (c->w.now > limit || !world_step(&c->w)))
            world_fail(&c->w, "never ends", "%u operations are open", c->open_ops);
    }
    while (or_cache_volumes(c->cache))
        if (c->w.now > limit || !world_step(&c->w))
            world_fail(&c->w, "never forgotten", "%u volumes left", or_cache_volumes(c->cache));
    tree_check(c);
    or_cache_destroy(c->cache);
    keep_close(c);
    keep_lose(c);
    for (uint32_t i = 0; i < FILES; i++)
        if (c->files[i].used)
            file_remove(&c->files[i]);
}

uint64_t checker_run(uint64_t seed, uint64_t *did, bool trace, world_failed *failed)
{
    static uint64_t coverage[COV_MAX];
    struct checker *c = calloc(1, sizeof *c);
    world_init(&c->w, seed, coverage);
    c->w.trace = trace;
    c->w.failed = failed;
    c->did = did;
    keep_init(c);
    draw(c);
    populate(c);
    live(c);
    for (uint32_t i = 0; i < SIDES * UPPER; i++)
        think(&c->sides[i / UPPER].upper[i % UPPER]);
    world_at(&c->w, c->w.now + 1 * MS, trouble, c);
    while ((c->ops_left || c->dead) && step(c))
        ;
    c->calm = true;
    if (c->dead)
        world_fail(&c->w, "nothing happens", "no next life");
    end(c);
    uint64_t hash = c->w.hash;
    world_free(&c->w);
    free(c);
    return hash;
}
