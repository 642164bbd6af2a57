/* A disk with a volatile cache: operations take effect at some moment before they end, in any order, a flush makes
 * stable what took effect. A flush that fails is as Linux has it: some of what it should have written is never
 * written, reads show it all the same, and the next flush ends well. */
#include "world.h"

#include <string.h>

struct disk_op {
    struct disk_op *next;
    struct disk *disk;
    struct or_io *io;
    uint32_t first, count; /* sectors */
    uint8_t op, status;
    uint32_t life;
    bool effective;
};

static void put(struct disk *d, const struct disk_op *op, uint32_t s)
{
    uint32_t at = (op->first + s) * SECTOR;
    if (op->op == OR_OP_WRITE)
        memcpy(d->current + at, op->io->data + s * SECTOR, SECTOR);
    else
        memset(d->current + at, 0, SECTOR);
    d->unsynced[op->first + s] = true;
}

static void flush(struct disk *d, bool fails)
{
    struct checker *c = d->c;
    for (uint32_t s = 0; s < d->sectors; s++) {
        if (!d->unsynced[s])
            continue;
        d->unsynced[s] = false;
        if (fails && chance(c, 50))
            c->did[DID_STUCK]++;
        else
            memcpy(d->stable + s * SECTOR, d->current + s * SECTOR, SECTOR);
    }
}

static void take_effect(struct disk_op *op)
{
    struct disk *d = op->disk;
    op->effective = true;
    if (op->op == OR_OP_FLUSH)
        flush(d, op->status != OR_OK);
    if (op->op == OR_OP_READ)
        memcpy(op->io->data, d->current + op->first * SECTOR, op->count * SECTOR);
    for (uint32_t s = 0; or_op_writes(op->op) && s < op->count; s++)
        if (op->status == OR_OK || chance(d->c, 50)) /* one that fails leaves some of it */
            put(d, op, s);
}

static void finish(struct disk_op *op)
{
    struct disk_op **at = &op->disk->ops;
    while (*at != op)
        at = &(*at)->next;
    *at = op->next;
    world_note(&op->disk->c->w, "disk.done", op->op, op->first, op->status);
    op->io->status = op->status;
    or_volume_complete(op->io);
}

static void on_effect(void *arg)
{
    struct disk_op *op = arg;
    if (op->life == op->disk->c->life)
        take_effect(op);
}

static void on_finish(void *arg)
{
    struct disk_op *op = arg;
    if (op->life != op->disk->c->life)
        return;
    if (!op->effective)
        take_effect(op);
    finish(op);
}

static uint8_t fate(struct disk *d, uint8_t op)
{
    struct checker *c = d->c;
    bool fails = d->fails && !c->calm && op != OR_OP_READ &&
                 rng_chance(&c->w.rng, op == OR_OP_FLUSH ? c->flush_error_ppm : c->error_ppm);
    return fails ? OR_EIO : OR_OK;
}

static void check_overlap(struct disk *d, const struct disk_op *op)
{
    for (const struct disk_op *o = d->ops; o; o = o->next)
        if (or_op_writes(op->op) && or_op_writes(o->op) && o->first < op->first + op->count &&
            op->first < o->first + o->count)
            world_fail(&d->c->w, "overlapping writes", "sectors %u +%u and %u +%u", op->first, op->count, o->first,
                       o->count);
}

static void disk_submit(struct or_volume *volume, struct or_io *io)
{
    struct disk *d = (struct disk *)volume;
    struct checker *c = d->c;
    struct disk_op *op = world_alloc(&c->w, sizeof *op);
    bool flush = io->op == OR_OP_FLUSH;
    *op = (struct disk_op){.disk = d,
                           .io = io,
                           .first = flush ? 0 : (uint32_t)(io->offset / SECTOR),
                           .count = flush ? 0 : io->length / SECTOR,
                           .op = io->op,
                           .life = c->life};
    check_overlap(d, op);
    op->status = fate(d, io->op);
    op->next = d->ops;
    d->ops = op;
    world_note(&c->w, "disk.submit", io->op, op->first, op->count);
    if (c->synchronous) {
        c->did[DID_SYNCHRONOUS]++;
        take_effect(op);
        finish(op);
        return;
    }
    uint64_t takes = rng_scale(&c->w.rng, 1 * US, c->io_ns_max);
    world_at(&c->w, c->w.now + rng_below(&c->w.rng, takes), on_effect, op);
    world_at(&c->w, c->w.now + takes, on_finish, op);
}

static void disk_close(struct or_volume *volume)
{
    (void)volume;
}

void disk_init(struct disk *d, struct checker *c, uint64_t bytes, bool fails)
{
    static const struct or_backend_ops ops = {.name = "sim", .submit = disk_submit, .close = disk_close};
    d->c = c;
    d->fails = fails;
    d->sectors = (uint32_t)(bytes / SECTOR);
    d->current = world_alloc(&c->w, bytes);
    d->stable = world_alloc(&c->w, bytes);
    d->unsynced = world_alloc(&c->w, d->sectors * sizeof *d->unsynced);
    d->volume = (struct or_volume){.ops = &ops,
                                   .size = bytes,
                                   .block_size = c->block_size,
                                   .physical_block_size = OR_HOLD_PAGE,
                                   .direct = true,
                                   .align = c->block_size,
                                   .write_zeroes = chance(c, 70),
                                   .fd = -1};
}

void disk_killed(struct disk *d)
{
    for (struct disk_op *op = d->ops; op; op = op->next) {
        bool whole = chance(d->c, 40), part = chance(d->c, 50);
        for (uint32_t s = 0; !op->effective && or_op_writes(op->op) && s < op->count; s++)
            if (whole || (part && chance(d->c, 50)))
                put(d, op, s);
    }
    d->ops = NULL;
    d->volume.in_flight = 0;
}

void disk_power(struct disk *d)
{
    struct checker *c = d->c;
    for (uint32_t s = 0; s < d->sectors; s++) {
        uint8_t *current = d->current + s * SECTOR, *stable = d->stable + s * SECTOR;
        if (d->unsynced[s] && chance(c, 50))
            memcpy(stable, current, SECTOR);
        c->did[DID_TEAR] += d->unsynced[s];
        d->unsynced[s] = false;
    }
    memcpy(d->current, d->stable, (size_t)d->sectors * SECTOR);
}
