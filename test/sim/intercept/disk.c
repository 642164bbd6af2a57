/* A disk with a volatile cache: operations take effect at some moment before they end, in any order, a flush makes
 * stable what took effect. A flush that fails is as Linux has it: some of what it should have written is never
 * written, reads show it all the same, and the next flush ends well. */
#include "world.h"

#include <string.h>

static struct disk *disk_of(const struct slow_op *op)
{
    return OR_CONTAINER(op->among, struct disk, ops);
}

static void put(struct disk *d, const struct slow_op *op, uint32_t s)
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

static void take_effect(struct slow_op *op)
{
    struct disk *d = disk_of(op);
    if (op->op == OR_OP_FLUSH)
        flush(d, op->status != OR_OK);
    if (op->op == OR_OP_READ)
        memcpy(op->io->data, d->current + op->first * SECTOR, op->count * SECTOR);
    for (uint32_t s = 0; or_op_writes(op->op) && s < op->count; s++)
        if (op->status == OR_OK || chance(d->c, 50)) /* one that fails leaves some of it */
            put(d, op, s);
}

static void end(struct slow_op *op)
{
    world_note(&disk_of(op)->c->w, "disk.done", op->op, op->first, op->status);
    op->io->status = op->status;
    or_volume_complete(op->io);
}

static uint8_t fate(struct disk *d, uint8_t op)
{
    struct checker *c = d->c;
    bool fails = d->fails && !c->calm && op != OR_OP_READ &&
                 rng_chance(&c->w.rng, op == OR_OP_FLUSH ? c->flush_error_ppm : c->error_ppm);
    return fails ? OR_EIO : OR_OK;
}

static void check_overlap(struct disk *d, const struct slow_op *op)
{
    const struct slow_op *o = slow_op_overlapping(&d->ops, op);
    if (o)
        world_fail(&d->c->w, "overlapping writes", "sectors %u +%u and %u +%u", op->first, op->count, o->first,
                   o->count);
}

static void disk_submit(struct or_volume *volume, struct or_io *io)
{
    struct disk *d = (struct disk *)volume;
    struct checker *c = d->c;
    struct slow_op *op = world_alloc(&c->w, sizeof *op);
    bool flush = io->op == OR_OP_FLUSH;
    *op = (struct slow_op){.io = io,
                           .first = flush ? 0 : (uint32_t)(io->offset / SECTOR),
                           .count = flush ? 0 : io->length / SECTOR,
                           .op = io->op};
    check_overlap(d, op);
    op->status = fate(d, io->op);
    slow_op_add(&d->ops, op);
    world_note(&c->w, "disk.submit", io->op, op->first, op->count);
    if (c->synchronous) {
        c->did[DID_SYNCHRONOUS]++;
        slow_op_take_effect(op);
        slow_op_end(op);
        return;
    }
    slow_op_begin(op, c->io_ns_max);
}

static void disk_close(struct or_volume *volume)
{
    (void)volume;
}

void disk_init(struct disk *d, struct checker *c, uint64_t bytes, bool fails)
{
    static const struct or_backend_ops ops = {.name = "sim", .submit = disk_submit, .close = disk_close};
    d->c = c;
    d->ops = (struct slow_ops){.w = &c->w, .life = &c->life, .take_effect = take_effect, .end = end};
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
    for (struct slow_op *op = d->ops.newest; op; op = op->next) {
        bool whole = chance(d->c, 40), part = chance(d->c, 50);
        for (uint32_t s = 0; !op->effective && or_op_writes(op->op) && s < op->count; s++)
            if (whole || (part && chance(d->c, 50)))
                put(d, op, s);
    }
    d->ops.newest = NULL;
    d->volume.in_flight = 0;
    d->volume.held = false;
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
