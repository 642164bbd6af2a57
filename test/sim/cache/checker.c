/* One seed: draws a world, lets operations, troubles and crashes happen in it, and ends it in good order. */
#include "world.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

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
    [DID_TEAR] = "writes torn by a crash",
    [DID_RESIZE] = "changes of the budget",
    [DID_DROP] = "caches dropped",
    [DID_MODE] = "changes of the mode",
    [DID_REOPEN] = "volumes closed and opened again",
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
};

static void step_upper(struct upper *u);
static void open_volume(struct checker *c, uint32_t volume);

static bool chance(struct checker *c, uint32_t percent)
{
    return rng_below(&c->w.rng, 100) < percent;
}

static uint32_t sectors_of(const struct checker *c)
{
    return (uint32_t)(c->disks[0].volume.size / SECTOR);
}

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
    uint32_t unit = c->block_size / SECTOR, all = sectors_of(c);
    uint32_t most = chance(c, 4) ? 800 : chance(c, 20) ? 128 : 16;
    *count = (uint32_t)rng_scale(r, 1, most);
    *count = (*count + unit - 1) / unit * unit;
    uint32_t where = chance(c, 60) ? all / 8 : all;
    if (*count > where)
        where = all;
    *first = (uint32_t)rng_below(r, where - *count + 1) / unit * unit;
    struct side *side = &c->sides[volume];
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
    uint32_t first = (uint32_t)(u->io.offset / SECTOR), count = u->io.length / SECTOR;
    bool bad = false;
    for (uint32_t s = 0; s < count; s++) {
        bad |= c->disks[u->volume].bad[first + s];
        if (u->io.status == OR_OK)
            model_check(c, u->volume, first + s, stamp_get(c, u->data + s * SECTOR), "read");
    }
    if (u->io.status != OR_OK && !bad)
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
    model_durable(c, u->volume, 0, SECTORS, u->acked);
}

static void check_write(struct checker *c, struct upper *u)
{
    struct side *side = &c->sides[u->volume];
    const struct write *w = &c->writes[u->id];
    bool durable = u->io.flags & OR_REQ_FUA;
    if (u->io.status == OR_OK) {
        model_acked(c, u->volume, u->id);
        int64_t acked[SECTORS];
        for (uint32_t s = 0; s < w->count; s++)
            acked[s] = u->id;
        if (durable && u->io.op == OR_OP_WRITE)
            model_durable(c, u->volume, w->first, w->count, acked);
        return;
    }
    if (!c->errors)
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
    or_volume_submit(c->sides[u->volume].volume, &u->io);
}

static void begin_flush(struct checker *c, struct upper *u)
{
    struct side *side = &c->sides[u->volume];
    for (uint32_t s = 0; s < SECTORS; s++)
        u->acked[s] = side->sectors[s].acked;
    u->errors_before = side->unreported;
    c->did[DID_FLUSH]++;
    submit(c, u, OR_OP_FLUSH, 0, 0, 0);
}

static void begin_write(struct checker *c, struct upper *u, uint8_t op, uint32_t first, uint32_t count)
{
    uint8_t flags = chance(c, 5) ? OR_REQ_FUA : 0;
    u->id = model_begin(c, u->volume, op, first, count);
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
    if (!memory)
        return;
    c->did[DID_PEEK]++;
    *p = (struct pin){.memory = memory, .sector = first, .count = count, .c = c, .volume = volume};
    for (uint32_t s = 0; s < count; s++) {
        p->stamps[s] = stamp_get(c, memory + s * SECTOR);
        model_check(c, volume, first + s, p->stamps[s], "peek");
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
    } else if (c->next_write < (int64_t)WRITES - 1 && may_begin(c, u->volume, op, first, count)) {
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
        world_at(&u->c->w, u->c->w.now + rng_scale(&u->c->w.rng, 1 * US, 3 * MS), on_think, u);
}

static void on_think(void *arg)
{
    step_upper(arg);
    think(arg);
}

/* --- troubles --------------------------------------------------------------------------------------- */

static void gather(struct checker *c, const struct side *side)
{
    struct or_cache_stats s;
    or_cache_read_stats(side->volume, &s);
    c->did[DID_SHARED_HIT] += s.shared_hits;
    c->did[DID_EVICT] += s.evictions;
    c->did[DID_AHEAD] += s.ahead;
    c->did[DID_WRITE_OUT] += s.written_out;
    c->did[DID_COALESCE] += s.written_out > s.write_outs ? s.written_out - s.write_outs : 0;
    c->did[DID_THROTTLE] += s.throttled;
    c->did[DID_BYPASS] += s.bypassed;
}

static void on_closed(void *arg, uint64_t lost)
{
    struct disk *d = arg;
    struct checker *c = d->c;
    struct side *side = &c->sides[d->index];
    side->closing = false;
    side->unreported = 0;
    if (lost && !c->errors)
        world_fail(&c->w, "lost at close", "volume %u: %llu bytes", d->index, (unsigned long long)lost);
    side->lost += lost;
    world_note(&c->w, "closed", d->index, lost, 0);
    for (uint32_t s = 0; s < sectors_of(c) && !lost; s++)
        model_closed(c, d->index, s, d->current[s]);
}

/* or_cache_detach: the storage has everything, or the volume stays. */
static void on_detached(void *arg, struct or_volume *lower, uint8_t error)
{
    struct disk *d = arg;
    struct checker *c = d->c;
    struct side *side = &c->sides[d->index];
    c->did[DID_DETACH]++;
    if (!lower) {
        if (!c->errors)
            world_fail(&c->w, "not detached", "volume %u", d->index);
        side->volume = side->leaving;
        side->closing = false;
        return;
    }
    if (side->unreported && !error)
        world_fail(&c->w, "error swallowed", "volume %u: detached", d->index);
    uint64_t unreported = side->unreported;
    on_closed(d, 0);
    side->unreported = unreported;
    d->error = error;
    lower->ops->close(lower);
}

/* With nothing under way it may be closed, or detached from the cache. */
static bool close_volume(struct checker *c, uint32_t volume, bool detach)
{
    struct side *side = &c->sides[volume];
    for (uint32_t n = 0; n < UPPER; n++)
        if (side->upper[n].busy)
            return false;
    for (uint32_t n = 0; n < PINS; n++)
        if (side->pins[n].memory)
            unpeek(&side->pins[n]);
    gather(c, side);
    struct or_volume *v = side->volume;
    side->volume = NULL;
    side->leaving = v;
    side->closing = true;
    if (detach)
        or_cache_detach(v, on_detached, &c->disks[volume]);
    else
        v->ops->close(v);
    return true;
}

static void crash(struct checker *c)
{
    world_note(&c->w, "crash", c->life, 0, 0);
    c->did[DID_CRASH]++;
    c->dead = true;
    c->life++;
    for (uint32_t i = 0; i < VOLUMES; i++)
        disk_crash(&c->disks[i]);
    or_cache_destroy(c->cache);
    for (uint32_t i = 0; i < VOLUMES; i++) {
        struct side *side = &c->sides[i];
        side->volume = NULL;
        side->closing = false;
        side->unreported = 0;
        for (uint32_t n = 0; n < UPPER; n++) {
            c->open_ops -= side->upper[n].busy;
            side->upper[n].busy = false;
        }
        memset(side->pins, 0, sizeof side->pins);
        for (uint32_t s = 0; s < sectors_of(c); s++)
            model_crashed(c, i, s, c->disks[i].current[s]);
    }
}

static void open_cache(struct checker *c)
{
    struct or_cache_config config = {.bytes = MIB + rng_below(&c->w.rng, MIB),
                                     .bytes_max = 4 * MIB,
                                     .policy = c->policy,
                                     .seed = rng_next(&c->w.rng)};
    int err;
    c->cache = or_cache_create(&config, &err);
    if (!c->cache)
        world_fail(&c->w, "no cache", "error %d", err);
    c->errors = c->dead = false;
    poll_again(c);
}

static struct or_cache_volume_config draw_config(struct checker *c, const struct side *side)
{
    return (struct or_cache_volume_config){
        .mode = side->mode,
        .quota = chance(c, 20) ? rng_scale(&c->w.rng, 4, 64) * OR_CACHE_BLOCK : 0,
        .dirty_max = rng_scale(&c->w.rng, 1, 64) * OR_CACHE_BLOCK,
        .dirty_age_ns = rng_scale(&c->w.rng, 1 * MS, 1 * SEC),
        .read_ahead_max = chance(c, 70) ? rng_scale(&c->w.rng, 8, 64) * OR_CACHE_BLOCK : 0,
    };
}

/* Under a content of its own, or sometimes the one that it had: then what it has in memory must be forgotten first. */
static void open_volume(struct checker *c, uint32_t volume)
{
    struct disk *d = &c->disks[volume];
    struct side *side = &c->sides[volume];
    static uint64_t contents = 2;
    if (!d->content || chance(c, 50))
        d->content = ++contents;
    struct or_cache_volume_config config = draw_config(c, side);
    config.content = d->content;
    config.error = d->error;
    config.map = d->clone ? disk_map : NULL;
    config.map_arg = d;
    config.closed = on_closed;
    config.closed_arg = d;
    int err;
    side->volume = or_cache_volume(c->cache, disk_open(d), &config, &err);
    c->did[side->volume ? DID_REOPEN : DID_REOPEN_LATER]++;
    if (side->volume) {
        d->error = 0;
        return;
    }
    d->open = false;
    if (err != -EAGAIN)
        world_fail(&c->w, "no volume", "error %d", err);
}

static void spoil(struct checker *c, uint32_t volume)
{
    uint32_t unit = c->block_size / SECTOR;
    uint32_t at = (uint32_t)rng_below(&c->w.rng, sectors_of(c) / unit) * unit;
    for (uint32_t s = at; s < at + unit; s++)
        c->disks[volume].bad[s] = true;
    c->did[DID_BAD_SECTOR]++;
}

static void trouble(void *arg)
{
    struct checker *c = arg;
    struct rng *r = &c->w.rng;
    if (c->calm)
        return;
    uint32_t volume = (uint32_t)rng_below(r, VOLUMES), dice = (uint32_t)rng_below(r, 100);
    struct side *side = &c->sides[volume];
    if (c->dead) {
        open_cache(c);
        for (uint32_t i = 0; i < VOLUMES; i++)
            open_volume(c, i);
    } else if (!side->volume) {
        if (!side->closing)
            open_volume(c, volume);
    } else if (dice < 4 && c->crashes) {
        c->crashes--;
        crash(c);
    } else if (dice < 30) {
        or_cache_resize(c->cache, rng_between(r, MIB, 4 * MIB));
        c->did[DID_RESIZE]++;
    } else if (dice < 40) {
        or_cache_drop(side->volume);
        c->did[DID_DROP]++;
    } else if (dice < 50) {
        side->mode = (enum or_cache_mode)rng_below(r, OR_CACHE_MODES);
        struct or_cache_volume_config config = draw_config(c, side);
        or_cache_configure(side->volume, &config);
        c->did[DID_MODE]++;
    } else if (dice < 60) {
        close_volume(c, volume, chance(c, 40));
    } else if (dice < 75) {
        spoil(c, volume);
    }
    world_at(&c->w, c->w.now + rng_scale(r, 100 * US, 10 * MS), trouble, c);
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
    c->policy = (enum or_cache_policy)rng_below(r, OR_CACHE_POLICIES);
    c->next_write = 1;
}

static void populate(struct checker *c)
{
    for (uint32_t i = 0; i < VOLUMES; i++) {
        struct side *side = &c->sides[i];
        c->disks[i].clone = i < 2;
        disk_init(&c->disks[i], c, i);
        model_init(c, i, i < 2);
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

/* All volumes closed, all written out: the end of every seed. */
static void end(struct checker *c)
{
    uint64_t limit = c->w.now + HEALTHY_NS;
    bool done = false;
    while (!done) {
        done = c->open_ops == 0;
        for (uint32_t i = 0; i < VOLUMES; i++) {
            if (c->sides[i].volume)
                close_volume(c, i, false);
            done = done && !c->sides[i].volume && !c->sides[i].closing;
        }
        if (!done && (c->w.now > limit || !world_step(&c->w)))
            world_fail(&c->w, "never ends", "%u operations are open", c->open_ops);
    }
    while (or_cache_volumes(c->cache))
        if (c->w.now > limit || !world_step(&c->w))
            world_fail(&c->w, "never forgotten", "%u volumes left", or_cache_volumes(c->cache));
    struct or_cache_info info;
    or_cache_read_info(c->cache, &info);
    or_cache_destroy(c->cache);
}

uint64_t checker_run(uint64_t seed, uint64_t *did, bool trace, world_failed *failed)
{
    static uint64_t coverage[COV_MAX];
    struct checker *c = calloc(1, sizeof *c);
    world_init(&c->w, seed, coverage);
    c->w.trace = trace;
    c->w.failed = failed;
    c->did = did;
    draw(c);
    populate(c);
    open_cache(c);
    for (uint32_t i = 0; i < VOLUMES; i++)
        open_volume(c, i);
    for (uint32_t i = 0; i < VOLUMES * UPPER; i++)
        think(&c->sides[i / UPPER].upper[i % UPPER]);
    world_at(&c->w, c->w.now + 1 * MS, trouble, c);
    while ((c->ops_left || c->dead) && world_step(&c->w))
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
