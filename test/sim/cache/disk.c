/* A disk with a volatile cache of its own: operations take effect at some moment before they end, in any order; a
 * flush makes stable what took effect. A crash tears: of what is not stable, every sector is there or not. */
#include "world.h"

#include <string.h>

struct disk_op {
    struct disk_op *next;
    struct disk *disk;
    struct or_io *io;
    uint32_t first, count; /* sectors */
    uint8_t op, flags;
    uint8_t status;
    uint32_t life;
    bool effective;
};

static struct disk *disk_of(struct or_volume *volume)
{
    return (struct disk *)volume;
}

void disk_map(void *arg, uint64_t number, uint64_t *content, uint64_t *content_number)
{
    struct disk *d = arg;
    *content = d->own[number] ? d->content : 1;
    *content_number = number;
}

static bool writes(const struct disk_op *op)
{
    return or_op_writes(op->op);
}

static void take_effect(struct disk_op *op)
{
    struct disk *d = op->disk;
    struct checker *c = d->c;
    op->effective = true;
    if (op->op == OR_OP_FLUSH && op->status == OR_OK)
        memcpy(d->stable, d->current, sizeof d->stable);
    for (uint32_t s = 0; s < op->count; s++) {
        uint32_t sector = op->first + s;
        if (op->op == OR_OP_READ && d->bad[sector])
            op->status = OR_EIO;
        if (op->op == OR_OP_READ)
            stamp_put(op->io->data + s * SECTOR, d->current[sector]);
        if (!writes(op) || (op->status != OR_OK && rng_chance(&c->w.rng, PPM / 2)))
            continue; /* a write that fails leaves some of it */
        if (op->op == OR_OP_WRITE)
            d->current[sector] = stamp_get(c, op->io->data + s * SECTOR);
        else if (op->op == OR_OP_WRITE_ZEROES || rng_chance(&c->w.rng, PPM / 2))
            d->current[sector] = 0;
        if (op->flags & OR_REQ_FUA)
            d->stable[sector] = d->current[sector];
        d->own[sector / 8] = true;
        d->bad[sector] = false;
    }
    if (op->op == OR_OP_READ && op->status != OR_OK)
        c->did[DID_READ_ERROR]++;
}

static void finish(struct disk_op *op)
{
    struct disk *d = op->disk;
    struct disk_op **at = &d->ops;
    while (*at != op)
        at = &(*at)->next;
    *at = op->next;
    d->c->sides[d->index].unreported += writes(op) && op->status != OR_OK;
    world_note(&d->c->w, "disk.done", d->index, op->first, op->status);
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

/* Of two overlapping operations of which both write, the order would be the disk's. */
static void check_overlap(struct disk *d, const struct disk_op *op)
{
    for (const struct disk_op *o = d->ops; o; o = o->next)
        if (writes(op) && writes(o) && o->first < op->first + op->count && op->first < o->first + o->count)
            world_fail(&d->c->w, "overlapping writes", "volume %u: sectors %u +%u and %u +%u", d->index, op->first,
                       op->count, o->first, o->count);
}

/* Draws whether the operation fails. */
static uint8_t fate(struct disk *d, const struct disk_op *op)
{
    struct checker *c = d->c;
    bool flush = op->op == OR_OP_FLUSH;
    if (c->calm || op->op == OR_OP_READ || !rng_chance(&c->w.rng, flush ? c->flush_error_ppm : c->error_ppm))
        return OR_OK;
    c->errors = true;
    c->did[flush ? DID_FLUSH_ERROR : DID_WRITE_ERROR]++;
    return OR_EIO;
}

static void disk_submit(struct or_volume *volume, struct or_io *io)
{
    struct disk *d = disk_of(volume);
    struct checker *c = d->c;
    bool flush = io->op == OR_OP_FLUSH;
    struct disk_op *op = world_alloc(&c->w, sizeof *op);
    *op = (struct disk_op){.disk = d,
                           .io = io,
                           .first = flush ? 0 : (uint32_t)(io->offset / SECTOR),
                           .count = flush ? 0 : io->length / SECTOR,
                           .op = io->op,
                           .flags = io->flags,
                           .life = c->life};
    if (!d->open)
        world_fail(&c->w, "used after close", "volume %u", d->index);
    if (io->data && (uintptr_t)io->data % d->volume.align)
        world_fail(&c->w, "unaligned buffer", "volume %u", d->index);
    check_overlap(d, op);
    op->status = fate(d, op);
    op->next = d->ops;
    d->ops = op;
    world_note(&c->w, "disk.submit", d->index, (uint64_t)io->op << 32 | op->first, op->count);
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
    disk_of(volume)->open = false;
}

static const struct or_backend_ops ops = {.name = "sim", .submit = disk_submit, .close = disk_close};

void disk_init(struct disk *d, struct checker *c, uint32_t index)
{
    d->c = c;
    d->index = index;
    for (uint32_t s = 0; s < SECTORS; s++)
        d->current[s] = d->stable[s] = d->clone ? BASE_STAMP + s : 0;
}

struct or_volume *disk_open(struct disk *d)
{
    uint32_t block = d->c->block_size;
    d->open = true;
    d->volume = (struct or_volume){.ops = &ops,
                                   .size = (uint64_t)d->c->size_blocks * OR_CACHE_BLOCK - (block == SECTOR ? 1536 : 0),
                                   .block_size = block,
                                   .physical_block_size = OR_CACHE_BLOCK,
                                   .direct = true,
                                   .align = block,
                                   .discard_granularity = block,
                                   .write_zeroes = true,
                                   .fd = -1};
    return &d->volume;
}

void disk_crash(struct disk *d)
{
    struct checker *c = d->c;
    for (struct disk_op *op = d->ops; op; op = op->next) {
        if (op->effective || !writes(op))
            continue;
        c->did[DID_TEAR]++;
        for (uint32_t s = 0; s < op->count; s++)
            if (rng_chance(&c->w.rng, PPM / 2)) {
                d->own[(op->first + s) / 8] = true;
                d->current[op->first + s] = op->op == OR_OP_WRITE ? stamp_get(c, op->io->data + s * SECTOR) : 0;
            }
    }
    d->ops = NULL;
    for (uint32_t s = 0; s < SECTORS; s++) {
        if (rng_chance(&c->w.rng, PPM / 2))
            d->current[s] = d->stable[s];
        d->stable[s] = d->current[s];
    }
}
