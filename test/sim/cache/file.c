/* Files, on a disk with a volatile cache of its own: operations take effect at some moment before they end, in any
 * order; a flush makes stable what took effect. A crash tears: of what is not stable, every sector is there or not; of
 * a page of a map, every byte up to some place.
 *
 * Of the volume's sectors a file keeps the stamps. An overlay's header and map are kept as they are, in a memfd, so
 * that what loads an overlay finds them. */
#include "world.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* What an operation is on (slow_op.space), and what its place is told in. */
enum space {
    SPACE_SECTORS, /* the volume's sectors */
    SPACE_MAP,     /* the header and the map: bytes */
};

/* One opening of a file. */
struct opening {
    struct or_volume volume; /* first */
    struct file *file;
    bool open, merge;
};

static struct file *files_now; /* of this world */

static struct file *file_of(const struct slow_op *op)
{
    return OR_CONTAINER(op->among, struct file, ops);
}

/* --- what a sector is ------------------------------------------------------------------------------- */

static void write_sector(struct file *f, const struct slow_op *op, uint32_t n)
{
    struct checker *c = f->c;
    uint32_t sector = op->first + n;
    if (op->op == OR_OP_WRITE)
        f->current[sector] = stamp_get(c, op->io->data + n * SECTOR);
    else if (op->op == OR_OP_WRITE_ZEROES || rng_chance(&c->w.rng, PPM / 2))
        f->current[sector] = 0;
    f->bad[sector] = false;
}

static void effect_on_sectors(struct slow_op *op)
{
    struct file *f = file_of(op);
    struct checker *c = f->c;
    for (uint32_t n = 0; n < op->count; n++) {
        uint32_t sector = op->first + n;
        if (op->op == OR_OP_READ && f->bad[sector] && !c->inspecting)
            op->status = OR_EIO;
        if (op->op == OR_OP_READ)
            stamp_put(op->io->data + n * SECTOR, f->current[sector]);
        if (!or_op_writes(op->op) || (op->status != OR_OK && rng_chance(&c->w.rng, PPM / 2)))
            continue; /* a write that fails leaves some of it */
        write_sector(f, op, n);
        if (op->io->flags & OR_REQ_FUA)
            f->stable[sector] = f->current[sector];
    }
    if (op->op == OR_OP_READ && op->status != OR_OK)
        c->did[DID_READ_ERROR]++;
}

static void effect_on_meta(struct slow_op *op)
{
    struct file *f = file_of(op);
    if (op->op != OR_OP_WRITE)
        world_fail(&f->c->w, "map misused", "file %llu: operation %u", (unsigned long long)f->content, op->op);
    uint32_t part = op->status == OR_OK ? op->count : (uint32_t)rng_below(&f->c->w.rng, op->count + 1);
    memcpy(f->meta + op->first, op->io->data, part);
}

/* --- making stable ---------------------------------------------------------------------------------- */

void file_sync(struct file *f)
{
    memcpy(f->stable, f->current, sizeof f->stable);
    if (f->meta)
        memcpy(f->stable_meta, f->meta, META_BYTES);
}

/* What or_layer_load calls; but nobody who only looks makes anything stable. */
int __wrap_fsync(int fd);
int __wrap_fsync(int fd)
{
    for (struct file *f = files_now; f < files_now + FILES; f++)
        if (f->used && f->fd == fd && f->meta && !f->c->inspecting)
            file_sync(f);
    return 0;
}

static void take_effect(struct slow_op *op)
{
    struct file *f = file_of(op);
    if (op->op == OR_OP_FLUSH && op->status == OR_OK) {
        file_sync(f);
    } else if (op->space == SPACE_MAP) {
        effect_on_meta(op);
    } else {
        effect_on_sectors(op);
    }
}

/* --- operations ------------------------------------------------------------------------------------- */

static void end(struct slow_op *op)
{
    struct file *f = file_of(op);
    world_note(&f->c->w, "file.done", f->content, op->first, op->status);
    struct or_io *io = op->io;
    struct or_volume *volume = io->volume;
    io->status = op->status;
    if (op->status != OR_OK && op->op == OR_OP_FLUSH)
        volume->flush_failed = true;
    if (op->status != OR_OK && volume->failed && !f->c->dead)
        volume->failed(volume, io, -EIO);
    or_volume_complete(io);
}

/* Of two overlapping operations of which both write, the order would be the disk's. */
static void check_overlap(struct file *f, const struct slow_op *op)
{
    const struct slow_op *o = slow_op_overlapping(&f->ops, op);
    if (o)
        world_fail(&f->c->w, "overlapping writes", "file %llu, %s: %u +%u and %u +%u", (unsigned long long)f->content,
                   op->space == SPACE_MAP ? "map" : "sectors", op->first, op->count, o->first, o->count);
}

static void check(struct opening *o, const struct slow_op *op)
{
    struct file *f = o->file;
    struct world *w = &f->c->w;
    if (!o->open)
        world_fail(w, "used after close", "file %llu", (unsigned long long)f->content);
    if (or_op_writes(op->op) && f->sealed && !o->merge)
        world_fail(w, "sealed layer written", "file %llu: operation %u, %s %u +%u", (unsigned long long)f->content,
                   op->op, op->space == SPACE_MAP ? "map" : "sectors", op->first, op->count);
    if (op->io->data && (uintptr_t)op->io->data % o->volume.align)
        world_fail(w, "unaligned buffer", "file %llu", (unsigned long long)f->content);
    check_overlap(f, op);
}

/* Draws whether the operation fails. */
static uint8_t fate(struct opening *o, const struct slow_op *op)
{
    struct checker *c = o->file->c;
    bool flush = op->op == OR_OP_FLUSH;
    if (c->dead)
        return OR_EIO;
    if (o->volume.flush_failed && (flush || (op->io->flags & OR_REQ_FUA)))
        return OR_EIO;
    if (c->inspecting || c->calm || op->op == OR_OP_READ ||
        !rng_chance(&c->w.rng, flush ? c->flush_error_ppm : c->error_ppm))
        return OR_OK;
    c->errors = true;
    c->did[flush ? DID_FLUSH_ERROR : DID_WRITE_ERROR]++;
    return OR_EIO;
}

static void locate(const struct file *f, struct slow_op *op)
{
    const struct or_io *io = op->io;
    if (op->op == OR_OP_FLUSH)
        return;
    op->space = io->offset < f->data_at ? SPACE_MAP : SPACE_SECTORS;
    op->first = (uint32_t)(op->space == SPACE_MAP ? io->offset : (io->offset - f->data_at) / SECTOR);
    op->count = op->space == SPACE_MAP ? io->length : io->length / SECTOR;
    if (op->first + op->count > (op->space == SPACE_MAP ? META_BYTES : SECTORS))
        world_fail(&f->c->w, "out of bounds", "file %llu: %llu +%u", (unsigned long long)f->content,
                   (unsigned long long)io->offset, io->length);
}

static void file_submit(struct or_volume *volume, struct or_io *io)
{
    struct opening *o = (struct opening *)volume;
    struct checker *c = o->file->c;
    struct slow_op *op = world_alloc(&c->w, sizeof *op);
    *op = (struct slow_op){.io = io, .op = io->op};
    locate(o->file, op);
    if (!c->inspecting)
        or_cache_step();
    check(o, op);
    op->status = fate(o, op);
    slow_op_add(&o->file->ops, op);
    world_note(&c->w, "file.submit", o->file->content, (uint64_t)io->op << 32 | op->first, op->count);
    if (c->synchronous || c->inspecting || c->dead) {
        c->did[DID_SYNCHRONOUS] += c->synchronous;
        if (!c->dead)
            slow_op_take_effect(op);
        slow_op_end(op);
        return;
    }
    slow_op_begin(op, c->io_ns_max);
}

static void file_close(struct or_volume *volume)
{
    struct opening *o = (struct opening *)volume;
    o->file->openings -= o->open;
    o->open = false;
}

static const struct or_backend_ops ops = {.name = "sim", .submit = file_submit, .close = file_close};

/* In whole clusters. */
static uint64_t volume_bytes(const struct file *f)
{
    return (f->size * (uint64_t)SECTOR + OR_LAYER_CLUSTER - 1) / OR_LAYER_CLUSTER * OR_LAYER_CLUSTER;
}

struct or_volume *file_open(struct file *f)
{
    struct checker *c = f->c;
    struct opening *o = world_alloc(&c->w, sizeof *o);
    o->file = f;
    o->open = true;
    f->openings++;
    o->volume = (struct or_volume){.ops = &ops,
                                   .size = f->raw ? f->size * (uint64_t)SECTOR : f->data_at + volume_bytes(f),
                                   .block_size = c->block_size,
                                   .physical_block_size = OR_CACHE_BLOCK,
                                   .direct = true,
                                   .align = c->block_size,
                                   .discard_granularity = c->block_size,
                                   .write_zeroes = true,
                                   .fd = -1};
    return &o->volume;
}

struct or_volume *file_open_merge(struct file *f)
{
    struct or_volume *volume = file_open(f);
    ((struct opening *)volume)->merge = true;
    return volume;
}

/* --- making and removing ---------------------------------------------------------------------------- */

static struct file *take(struct checker *c, uint32_t size)
{
    files_now = c->files;
    for (struct file *f = c->files; f < c->files + FILES; f++) {
        if (f->used)
            continue;
        memset(f, 0, sizeof *f);
        f->c = c;
        f->ops = (struct slow_ops){.w = &c->w, .life = &c->life, .take_effect = take_effect, .end = end};
        f->used = true;
        f->content = ++c->next_content;
        f->size = size;
        f->fd = -1;
        return f;
    }
    return NULL;
}

struct file *file_create_raw(struct checker *c, uint32_t size, bool base)
{
    struct file *f = take(c, size);
    f->raw = true;
    for (uint32_t s = 0; base && s < size; s++)
        f->current[s] = f->stable[s] = BASE_STAMP + s;
    return f;
}

struct file *file_create_overlay(struct checker *c, uint32_t size, struct file *below, bool continues)
{
    struct file *f = take(c, size);
    if (!f)
        return NULL;
    f->below = below;
    f->fd = memfd_create("layer", MFD_CLOEXEC);
    int err =
        f->fd < 0 ? -1 : or_layer_format(f->fd, size * (uint64_t)SECTOR, f->content, continues ? below->content : 0);
    if (err)
        world_fail(&c->w, "no layer", "error %d", err);
    f->meta = mmap(NULL, META_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, f->fd, 0);
    if (f->meta == MAP_FAILED)
        world_fail(&c->w, "no layer", "mmap");
    memcpy(f->stable_meta, f->meta, META_BYTES);
    f->data_at = (uint64_t)lseek(f->fd, 0, SEEK_END) - volume_bytes(f);
    return f;
}

void file_remove(struct file *f)
{
    if (f->meta)
        munmap(f->meta, META_BYTES);
    if (f->fd >= 0)
        close(f->fd);
    f->used = false;
}

bool file_chain_bad(const struct file *head, uint32_t first, uint32_t count)
{
    for (const struct file *f = head; f; f = f->below)
        for (uint32_t s = first / 8 * 8; s < first + count || s % 8; s++)
            if (s < SECTORS && f->bad[s])
                return true;
    return false;
}

uint32_t file_depth(const struct file *head)
{
    uint32_t depth = 0;
    for (; head; head = head->below)
        depth++;
    return depth;
}

/* --- crashes ---------------------------------------------------------------------------------------- */

/* What was under way may have begun to happen. */
static void tear(struct file *f)
{
    struct checker *c = f->c;
    for (struct slow_op *op = f->ops.newest; op; op = op->next) {
        if (op->effective || !or_op_writes(op->op))
            continue;
        c->did[DID_TEAR]++;
        if (op->space == SPACE_MAP)
            memcpy(f->meta + op->first, op->io->data, (size_t)rng_below(&c->w.rng, op->count + 1));
        for (uint32_t n = 0; n < op->count && op->space != SPACE_MAP; n++)
            if (rng_chance(&c->w.rng, PPM / 2))
                write_sector(f, op, n);
    }
}

/* What is not stable may be lost. */
static void lose(struct file *f)
{
    struct checker *c = f->c;
    for (uint32_t s = 0; s < SECTORS; s++) {
        if (rng_chance(&c->w.rng, PPM / 2))
            f->current[s] = f->stable[s];
        f->stable[s] = f->current[s];
    }
    if (!f->meta)
        return;
    c->did[DID_TEAR_MAP] += memcmp(f->meta, f->stable_meta, META_BYTES) != 0;
    for (uint32_t at = 0; at < META_BYTES; at += SECTOR) {
        uint32_t from = (uint32_t)rng_below(&c->w.rng, SECTOR + 1), to = (uint32_t)rng_below(&c->w.rng, SECTOR + 1);
        for (uint32_t n = from; n < to; n++)
            f->meta[at + n] = f->stable_meta[at + n];
    }
    memcpy(f->stable_meta, f->meta, META_BYTES);
}

/* The kernel goes on with what it was given. */
static void go_on(struct file *f)
{
    for (struct slow_op *op = f->ops.newest; op; op = op->next)
        if (!op->effective && or_op_writes(op->op))
            slow_op_take_effect(op);
}

void files_crash(struct checker *c, bool machine)
{
    for (struct file *f = c->files; f < c->files + FILES; f++) {
        if (f->used && machine) {
            tear(f);
            lose(f);
        } else if (f->used) {
            go_on(f);
        }
    }
    for (struct file *f = c->files; f < c->files + FILES; f++)
        while (f->used && f->ops.newest) {
            f->ops.newest->status = OR_EIO;
            slow_op_end(f->ops.newest);
        }
}
