/* Operations are asynchronous (unless the plan says RAM): each takes effect at a random moment between
 * its submission and its end, a write with the bytes that its buffer holds at that moment, as O_DIRECT
 * does. Some take seconds, some fail after having done a part.
 *
 * When a server dies its operations become orphans: they keep a copy of the buffer, take effect all
 * the same, and the disk counts them until the last has ended; only then may another life open it. */
#include "disk.h"

#include "sim.h"

#include <string.h>

static struct volume *volume_of(struct or_volume *volume)
{
    return (struct volume *)volume; /* first member */
}

/* Applies blocks [0, count) of the operation to the disk or, for a read, to the buffer. */
static void apply(struct disk_op *op, uint32_t count)
{
    struct disk *disk = op->disk;
    uint8_t *at = disk->bytes + op->offset;
    size_t bytes = (size_t)count * disk->block_size;
    const uint8_t *data = op->io ? op->io->data : op->orphan_data;
    if (or_op_writes(op->op)) {
        model_effect(disk, op, data, count);
        if (!op->io)
            world_count(&disk->sim->w, COV_LATE_WRITES, 1);
        if (world_planted == WORLD_PLANT_LOST_WRITE && !disk->sabotaged && op->request->id > 50) {
            disk->sabotaged = true;
            return;
        }
    }
    if (op->op == OR_OP_WRITE)
        memcpy(at, data, bytes);
    else if (op->op == OR_OP_WRITE_ZEROES || (op->op == OR_OP_DISCARD && rng_chance(&disk->sim->w.rng, PPM / 2)))
        memset(at, 0, bytes);
    else if (op->op == OR_OP_READ && op->io)
        memcpy(op->io->data, at, bytes);
    if (world_planted == WORLD_PLANT_OLD_READ && op->op == OR_OP_READ && op->io && !disk->sabotaged && bytes > 0 &&
        disk->state[op->first_block].content > 50) {
        disk->sabotaged = true;
        memset(op->io->data, 0, disk->block_size);
    }
}

static void take_effect(struct disk_op *op)
{
    struct world *w = &op->disk->sim->w;
    uint32_t count = op->blocks;
    if (op->status != OR_OK) {
        count = (uint32_t)rng_below(&w->rng, op->blocks + 1);
        op->disk->failed_at = w->now;
        world_count(w, COV_IO_ERRORS, 1);
    }
    world_note(w, "disk.effect", op->disk->index, (uint64_t)op->op << 32 | op->first_block,
               op->request ? op->request->id : 0);
    apply(op, count);
    op->effective = true;
}

static void unlink_op(struct disk_op *op)
{
    if (op->prev)
        op->prev->next = op->next;
    else
        op->disk->ops = op->next;
    if (op->next)
        op->next->prev = op->prev;
}

/* Server memory that an operation occupies. */
static uint64_t buffer_bytes(const struct or_io *io)
{
    return io->op == OR_OP_READ || io->op == OR_OP_WRITE ? io->length : 0;
}

static void finish(struct disk_op *op)
{
    struct disk *disk = op->disk;
    struct iohv *iohv = &disk->sim->iohv;
    struct request *request = op->request;
    uint8_t status = op->status;
    unlink_op(op);
    if (!op->io) {
        if (--disk->orphans == 0)
            iohv_disk_free(iohv, disk);
        return;
    }
    iohv->buffers -= buffer_bytes(op->io);
    if (request && status == OR_OK)
        request->executed_ok = true;
    if (request && status != OR_OK)
        request->executed_error = true;
    if (op->op == OR_OP_FLUSH && status == OR_OK && op->began > disk->flush_began)
        disk->flush_began = op->began;
    if (world_planted == WORLD_PLANT_LYING_DISK)
        status = OR_OK;
    world_note(&disk->sim->w, "disk.done", disk->index, request ? request->id : 0, status);
    op->io->status = status;
    or_volume_complete(op->io);
    engine_poke(iohv->engine);
}

static void on_effect(void *arg)
{
    take_effect(arg);
}

static void on_finish(void *arg)
{
    struct disk_op *op = arg;
    if (!op->effective)
        take_effect(op);
    finish(op);
}

/* What asynchronous disks have at once is bounded, but for those that are silent for long. The operation that exceeds a
 * bound begins while it is not reached. */
static void check_out(const struct sim *sim, const struct or_io *io)
{
    uint32_t count = 0;
    if (sim->plan.workers > 1 || sim->plan.synchronous || sim->plan.slow_ppm || sim->plan.io_ns_max >= 50 * MS)
        return;
    for (uint32_t i = 0; i < sim->disk_count; i++)
        for (const struct disk_op *op = sim->disks[i].ops; op; op = op->next)
            count += op->io != NULL;
    if (count >= sim->plan.out_requests || sim->iohv.buffers - buffer_bytes(io) >= sim->plan.out_bytes)
        world_fail((struct world *)&sim->w, "too much out", "%u operations of %u, %llu bytes of %llu before this one",
                   count, sim->plan.out_requests, (unsigned long long)(sim->iohv.buffers - buffer_bytes(io)),
                   (unsigned long long)sim->plan.out_bytes);
}

/* Bounds on what a server may ask for at once, and the buffer's contract. */
static void check_bounds(struct disk *disk, const struct or_io *io)
{
    struct sim *sim = disk->sim;
    struct iohv *iohv = &sim->iohv;
    iohv->buffers += buffer_bytes(io);
    if (iohv->buffers > sim->plan.buffer_bytes * sim->plan.workers)
        world_fail(&sim->w, "buffers exceeded", "%llu bytes at the storage, %llu configured",
                   (unsigned long long)iohv->buffers, (unsigned long long)sim->plan.buffer_bytes);
    uint32_t session = iohv->session[disk->worker][disk->owner], count = 1;
    for (uint32_t i = 0; i < sim->disk_count; i++)
        for (const struct disk_op *op = sim->disks[i].ops; op; op = op->next)
            count += op->io && op->session == session;
    if (count > sim->plan.slots)
        world_fail(&sim->w, "slots exceeded", "%u operations of one session, %u slots", count, sim->plan.slots);
    check_out(sim, io);
    const struct or_volume *volume = &disk->volume->or ;
    if (volume->direct && buffer_bytes(io) > 0 && (uintptr_t)io->data % volume->align != 0)
        world_fail(&sim->w, "unaligned buffer", "disk %u: not aligned to %u", disk->index, volume->align);
}

static void volume_submit(struct or_volume *or_volume, struct or_io *io)
{
    struct volume *volume = volume_of(or_volume);
    struct disk *disk = volume->disk;
    struct sim *sim = disk->sim;
    struct rng *rng = &sim->w.rng;
    if (volume->dead) {
        io->status = OR_EIO;
        or_volume_complete(io);
        return;
    }
    struct disk_op *op = world_alloc(&sim->w, sizeof *op);
    bool flush = io->op == OR_OP_FLUSH;
    *op = (struct disk_op){
        .disk = disk,
        .io = io,
        .offset = io->offset,
        .length = flush ? 0 : io->length,
        .first_block = (uint32_t)(io->offset / disk->block_size),
        .blocks = flush ? 0 : io->length / disk->block_size,
        .op = io->op,
        .session = sim->iohv.session[disk->worker][disk->owner],
        .generation = disk->generation,
        .began = sim->w.now,
    };
    check_bounds(disk, io);
    model_execute(disk, op);
    op->next = disk->ops;
    if (op->next)
        op->next->prev = op;
    disk->ops = op;
    world_note(&sim->w, "disk.submit", disk->index, (uint64_t)io->op << 32 | op->first_block,
               op->request ? op->request->id : 0);

    if (!disk->sim->net.healthy && rng_chance(rng, sim->plan.error_ppm))
        op->status = OR_EIO;
    if (sim->plan.synchronous) {
        on_finish(op);
        return;
    }
    if (world_planted == WORLD_PLANT_SILENT_DISK && !disk->sabotaged && sim->request_count > 50) {
        disk->sabotaged = true;
        return;
    }
    uint64_t takes = rng_scale(rng, 1 * US, sim->plan.io_ns_max);
    if (rng_chance(rng, sim->plan.slow_ppm)) {
        takes = rng_scale(rng, 100 * MS, 3 * SEC);
        world_count(&sim->w, COV_IO_SLOW, 1);
    }
    uint64_t effect = rng_below(rng, takes);
    world_at(&sim->w, sim->w.now + effect, on_effect, op);
    world_at(&sim->w, sim->w.now + takes, on_finish, op);
}

static const uint8_t *volume_peek(struct or_volume *or_volume, uint64_t offset, uint32_t length)
{
    struct volume *volume = volume_of(or_volume);
    struct disk *disk = volume->disk;
    if (!volume->dead) {
        world_count(&disk->sim->w, COV_PEEKS, 1);
        world_note(&disk->sim->w, "disk.peek", disk->index, offset, length);
    }
    return disk->bytes + offset;
}

/* Who expects more than there is would have a cache look at what is not there. */
static void volume_expect(struct or_volume *or_volume, const uint64_t *offsets, uint32_t count)
{
    for (uint32_t n = 0; n < count; n++)
        assert(offsets[n] < or_volume->size);
}

static void volume_close(struct or_volume *volume)
{
    (void)volume; /* belongs to the world; the server never closes what it borrowed */
}

static const struct or_backend_ops ops_plain = {.name = "sim", .submit = volume_submit, .close = volume_close};
static const struct or_backend_ops ops_peek = {
    .name = "sim-peek", .submit = volume_submit, .peek = volume_peek, .expect = volume_expect, .close = volume_close};

void disk_init(struct disk *disk, struct sim *sim, uint32_t index)
{
    struct world *w = &sim->w;
    *disk = (struct disk){
        .sim = sim,
        .index = index,
        .block_size = sim->plan.block_size,
        .owner = index / sim->plan.disks_per_host,
        .id = 100 + index,
        .generation = (uint32_t)rng_between(&w->rng, 1, 1000),
        .weight = (uint32_t)rng_scale(&w->rng, 1, OR_WEIGHT_MAX),
    };
    disk->size = 2u << 20;
    disk->blocks = (uint32_t)(disk->size / disk->block_size);
    disk->read_only = sim->plan.read_only_disk && index == 0;
    disk->scribble_blocks = sim->plan.scribble ? 32 : 0;
    disk->bytes = world_alloc(w, disk->size);
    disk->state = world_alloc(w, disk->blocks * sizeof *disk->state);
}

struct volume *disk_open(struct disk *disk)
{
    const struct plan *plan = &disk->sim->plan;
    struct volume *volume = world_alloc(&disk->sim->w, sizeof *volume);
    volume->disk = disk;
    volume->or = (struct or_volume){
                   .ops = plan->peek ? &ops_peek : &ops_plain,
                   .size = disk->size,
                   .block_size = disk->block_size,
                   .physical_block_size = 4096,
                   .read_only = disk->read_only,
                   .direct = !plan->synchronous,
                   .align = disk->block_size,
                   .discard_granularity = plan->discard ? disk->block_size : 0,
                   .write_zeroes = plan->write_zeroes,
                   .synchronous = plan->synchronous,
                   .fd = -1,
               };
    disk->volume = volume;
    return volume;
}

void disk_orphan(struct disk *disk)
{
    struct world *w = &disk->sim->w;
    if (disk->volume)
        disk->volume->dead = true;
    disk->volume = NULL;
    for (struct disk_op *op = disk->ops; op; op = op->next) {
        struct or_io *io = op->io;
        if (!io)
            continue;
        if (op->op == OR_OP_WRITE && !op->effective) {
            op->orphan_data = world_alloc(w, op->length);
            memcpy(op->orphan_data, io->data, op->length);
        }
        op->io = NULL;
        disk->orphans++;
        io->status = OR_EIO;
        or_volume_complete(io);
    }
}
