/* What a volume stands on while it is open: files, a layered volume when there are several, a tap that sees what the
 * cache asks for, the cache. */
#include "world.h"

#include <errno.h>
#include <string.h>

#define MIB (UINT64_C(1) << 20)

/* Passes operations on; counts the writes that fail; and when the machine dies, no end of them gets out. */
struct tap {
    struct or_volume volume; /* first */
    struct or_volume *lower;
    struct side *side;
    struct checker *c;
};

struct tap_op {
    struct or_io io; /* first */
    struct or_io *upper;
    struct tap *tap;
};

struct taker {
    struct checker *c;
    struct side *side;
    uint32_t life;
};

/* --- the tap ---------------------------------------------------------------------------------------- */

static void tap_done(struct or_io *io)
{
    struct tap_op *op = (struct tap_op *)(void *)io;
    struct tap *t = op->tap;
    if (t->c->dead)
        return;
    t->side->unreported += or_op_writes(io->op) && io->status != OR_OK;
    t->side->condemned |= t->lower->flush_failed;
    if (io->op == OR_OP_FLUSH)
        t->side->flush_failed = io->status != OR_OK;
    op->upper->status = io->status;
    or_volume_complete(op->upper);
}

static void tap_submit(struct or_volume *volume, struct or_io *io)
{
    struct tap *t = (struct tap *)volume;
    struct tap_op *op = world_alloc(&t->c->w, sizeof *op);
    *op = (struct tap_op){.io = {.op = io->op,
                                 .flags = io->flags,
                                 .offset = io->offset,
                                 .length = io->length,
                                 .data = io->data,
                                 .done = tap_done},
                          .upper = io,
                          .tap = t};
    or_list_init(&op->io.link);
    or_volume_submit(t->lower, &op->io);
}

static void tap_failed(struct or_volume *lower, const struct or_io *io, int error)
{
    struct tap *t = lower->owner;
    t->volume.flush_failed |= lower->flush_failed;
    if (t->volume.failed)
        t->volume.failed(&t->volume, ((const struct tap_op *)(const void *)io)->upper, error);
}

static void tap_close(struct or_volume *volume)
{
    struct tap *t = (struct tap *)volume;
    if (t->lower)
        t->lower->ops->close(t->lower);
    t->lower = NULL;
}

static const struct or_backend_ops tap_ops = {.name = "tap", .submit = tap_submit, .close = tap_close};

static struct tap *new_tap(struct checker *c, struct side *side, struct or_volume *lower)
{
    struct tap *t = world_alloc(&c->w, sizeof *t);
    t->volume = (struct or_volume){.ops = &tap_ops,
                                   .size = lower->size,
                                   .block_size = lower->block_size,
                                   .physical_block_size = lower->physical_block_size,
                                   .direct = lower->direct,
                                   .align = lower->align,
                                   .discard_granularity = lower->discard_granularity,
                                   .write_zeroes = lower->write_zeroes,
                                   .fd = -1};
    t->side = side;
    t->c = c;
    t->lower = lower;
    lower->owner = t;
    lower->failed = tap_failed;
    return t;
}

/* --- layers ----------------------------------------------------------------------------------------- */

struct or_layer stack_layer(struct file *f, bool merge)
{
    struct or_layer layer = {.volume = merge ? file_open_merge(f) : file_open(f), .content = f->content};
    const char *why = NULL;
    int err = 0;
    if (!f->raw)
        layer.map = or_layer_load(f->fd, &err, &why);
    if (f->raw && !f->c->inspecting)
        file_sync(f); /* as whoever opens a layer does; with an overlay it is or_layer_load */
    if (!f->raw && !layer.map)
        world_fail(&f->c->w, "layer unreadable", "file %llu %s: error %d", (unsigned long long)f->content, why, err);
    for (struct snapshot *s = f->c->snapshots; s < f->c->snapshots + SNAPSHOTS && !f->c->inspecting; s++)
        s->unsynced &= s->layer != f;
    if (layer.map)
        or_layer_map_rename(layer.map, f->content); /* another one's may have been merged into it */
    return layer;
}

static struct or_layer layer_of(struct file *f)
{
    return stack_layer(f, false);
}

/* A volume of this file and all below. */
static struct or_volume *open_chain(struct checker *c, struct file *head)
{
    if (head->raw)
        return file_open(head);
    struct or_layer layers[OR_LAYERS_MAX];
    uint32_t count = 0;
    for (struct file *f = head; f; f = f->below)
        layers[count++] = layer_of(f);
    int err;
    struct or_volume *layered = or_layers_volume(layers, count, &err);
    if (!layered)
        world_fail(&c->w, "no layered volume", "error %d", err);
    return layered;
}

static void inspected(struct or_io *io)
{
    (void)io;
}

void stack_inspect(struct checker *c, struct file *head, uint32_t size, uint64_t *stamps)
{
    static uint8_t memory[SECTORS * SECTOR] __attribute__((aligned(4096)));
    bool dead = c->dead;
    c->inspecting = true;
    c->dead = false;
    struct or_volume *volume = open_chain(c, head);
    struct or_io io = {.op = OR_OP_READ, .length = size * SECTOR, .data = memory, .status = 255, .done = inspected};
    or_list_init(&io.link);
    or_volume_submit(volume, &io);
    if (io.status != OR_OK || volume->in_flight)
        world_fail(&c->w, "not readable", "file %llu: status %u", (unsigned long long)head->content, io.status);
    volume->ops->close(volume);
    c->inspecting = false;
    c->dead = dead;
    for (uint32_t s = 0; s < size; s++)
        stamps[s] = stamp_get(c, memory + s * SECTOR);
}

/* --- opening and closing ---------------------------------------------------------------------------- */

static void on_closed(void *arg, uint64_t lost)
{
    struct side *side = arg;
    struct checker *c = side->tap->c;
    if (c->dead)
        return;
    side->closing = false;
    side->unreported = 0;
    if (lost && !c->errors)
        world_fail(&c->w, "lost at close", "lineage %u: %llu bytes", side->image.lineage, (unsigned long long)lost);
    world_note(&c->w, "closed", side->image.lineage, lost, 0);
    uint64_t stamps[SECTORS];
    stack_inspect(c, side->head, side->image.size, stamps);
    if (lost || side->condemned || (side->layered && side->flush_failed))
        model_lost(c, &side->image, stamps);
    else
        model_closed(c, &side->image, stamps);
}

void stack_open_cache(struct checker *c)
{
    struct or_cache_config config = {.bytes = MIB + rng_below(&c->w.rng, MIB),
                                     .bytes_max = 4 * MIB,
                                     .policy = c->policy,
                                     .seed = rng_next(&c->w.rng),
                                     .kept = true};
    int err;
    c->cache = or_cache_create(&config, &err);
    if (!c->cache)
        world_fail(&c->w, "no cache", "error %d", err);
}

struct or_cache_volume_config stack_draw_config(struct checker *c, const struct side *side)
{
    return (struct or_cache_volume_config){
        .mode = side->mode,
        .quota = chance(c, 20) ? rng_scale(&c->w.rng, 4, 64) * OR_CACHE_BLOCK : 0,
        .dirty_max = rng_scale(&c->w.rng, 1, 64) * OR_CACHE_BLOCK,
        .dirty_age_ns = rng_scale(&c->w.rng, 1 * MS, 1 * SEC),
        .read_ahead_max = chance(c, 70) ? rng_scale(&c->w.rng, 8, 64) * OR_CACHE_BLOCK : 0,
    };
}

/* Nobody uses it before it has taken up all. */
static void take_up(void *arg)
{
    struct taker *t = arg;
    struct checker *c = t->c;
    if (t->life != c->life)
        return;
    if (!keep_take(c, t->side, t->side->taking)) {
        world_at(&c->w, c->w.now + rng_scale(&c->w.rng, 1 * US, 1 * MS), take_up, t);
        return;
    }
    t->side->volume = t->side->taking;
    t->side->taking = NULL;
    t->side->owed = false;
}

static struct or_cache_volume_config config_of(struct checker *c, struct side *side)
{
    struct or_cache_volume_config config = stack_draw_config(c, side);
    config.content = side->content;
    config.error = side->error;
    config.map = side->layered ? or_layers_map : NULL;
    config.map_arg = side->layered;
    config.closed = on_closed;
    config.closed_arg = side;
    return config;
}

static void put_on_cache(struct taker *t)
{
    struct checker *c = t->c;
    struct side *side = t->side;
    struct or_cache_volume_config config = config_of(c, side);
    int err;
    side->taking = or_cache_volume(c->cache, &side->tap->volume, &config, &err);
    c->did[side->taking ? DID_REOPEN : DID_REOPEN_LATER]++;
    if (side->taking) {
        side->error = 0;
        take_up(t);
        return;
    }
    tap_close(&side->tap->volume);
    if (err != -EAGAIN)
        world_fail(&c->w, "no volume", "error %d", err);
}

/* As an engine without a cache does. What the disk refuses stays where it is, and the volume closed. */
static void drain(void *arg)
{
    struct taker *t = arg;
    struct checker *c = t->c;
    struct side *side = t->side;
    if (t->life != c->life)
        return;
    int err = keep_drain(c, side);
    if (err == -EAGAIN) {
        world_at(&c->w, c->w.now + rng_scale(&c->w.rng, 1 * US, 1 * MS), drain, t);
        return;
    }
    or_cache_drain_destroy(side->drain);
    side->drain = NULL;
    c->did[err ? DID_DRAIN_FAILED : DID_DRAIN]++;
    if (!err) {
        put_on_cache(t);
        return;
    }
    if (!c->errors)
        world_fail(&c->w, "not written out", "lineage %u: error %d", side->image.lineage, err);
    side->unreported = 0;
    tap_close(&side->tap->volume);
}

void stack_open(struct checker *c, uint32_t volume)
{
    struct side *side = &c->sides[volume];
    struct or_volume *lower = open_chain(c, side->head);
    side->tap = new_tap(c, side, lower);
    side->layered = side->head->raw ? NULL : lower;
    side->content = side->head->content;
    side->condemned = side->flush_failed = false;
    side->buffered = side->mode == OR_CACHE_WRITE_BACK || side->owed;
    struct taker *t = world_alloc(&c->w, sizeof *t);
    *t = (struct taker){.c = c, .side = side, .life = c->life};
    if (!c->found || !chance(c, 40)) {
        put_on_cache(t);
        return;
    }
    struct or_cache_volume_config config = config_of(c, side);
    side->drain = or_cache_drain_create(&side->tap->volume, &config);
    side->draining = 0;
    drain(t);
}

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

/* The storage has everything, or the volume stays. */
static void on_detached(void *arg, struct or_volume *lower, uint8_t error)
{
    struct side *side = arg;
    struct checker *c = side->tap->c;
    if (c->dead)
        return;
    c->did[DID_DETACH]++;
    if (!lower) {
        if (!c->errors)
            world_fail(&c->w, "not detached", "lineage %u", side->image.lineage);
        side->volume = side->leaving;
        side->closing = false;
        return;
    }
    if (side->unreported && !error)
        world_fail(&c->w, "error swallowed", "lineage %u: detached", side->image.lineage);
    uint64_t unreported = side->unreported;
    on_closed(side, 0);
    side->unreported = unreported;
    side->error = error;
    lower->ops->close(lower);
}

bool stack_close(struct checker *c, uint32_t volume, bool detach)
{
    struct side *side = &c->sides[volume];
    if (side->cut || side->rebasing)
        return false;
    for (uint32_t n = 0; n < UPPER; n++)
        if (side->upper[n].busy)
            return false;
    for (uint32_t n = 0; n < PINS; n++)
        if (side->pins[n].memory)
            return false;
    gather(c, side);
    struct or_volume *v = side->volume;
    side->volume = NULL;
    side->leaving = v;
    side->closing = true;
    side->stale = false;
    if (detach)
        or_cache_detach(v, on_detached, side);
    else
        v->ops->close(v);
    return true;
}

/* --- a new head ------------------------------------------------------------------------------------- */

/* Seals what the volume has so far: a layered volume gets another layer, a raw one becomes the bottom of two. */
static int seal(struct checker *c, struct side *side, const struct or_layer *head)
{
    if (side->layered)
        return or_layers_push(side->layered, head);
    int err;
    const struct or_layer layers[] = {*head, {.volume = side->tap->lower, .content = side->content}};
    struct or_volume *layered = or_layers_volume(layers, 2, &err);
    if (!layered)
        return err;
    side->layered = layered;
    side->tap = new_tap(c, side, layered);
    return 0;
}

int stack_push(struct checker *c, uint32_t volume, struct file *head)
{
    struct side *side = &c->sides[volume];
    int err = or_cache_check_content(c->cache, head->content);
    if (err)
        return err;
    struct or_layer layer = layer_of(head);
    err = seal(c, side, &layer);
    if (err) {
        or_layer_map_free(layer.map);
        return err;
    }
    side->content = head->content;
    or_cache_cut(side->volume, &side->tap->volume, head->content, or_layers_map, side->layered);
    return 0;
}

int stack_rebase(struct checker *c, struct side *side)
{
    (void)c;
    struct or_layer below[OR_LAYERS_MAX];
    uint32_t count = 0;
    for (struct file *f = side->head->below; f; f = f->below)
        below[count++] = layer_of(f);
    return or_layers_rebase(side->layered, below, count);
}

/* --- the end of the machine ------------------------------------------------------------------------- */

void stack_crash(struct checker *c)
{
    files_crash(c, c->death == DEATH_MACHINE);
    for (uint32_t i = 0; i < SIDES; i++)
        if (c->sides[i].tap)
            tap_close(&c->sides[i].tap->volume);
    if (c->cache)
        or_cache_destroy(c->cache);
    c->cache = NULL;
    for (uint32_t i = 0; i < SIDES; i++) {
        struct side *side = &c->sides[i];
        c->did[DID_TAKE_DIED] += side->taking != NULL;
        c->did[DID_DRAIN_DIED] += side->drain != NULL;
        if (side->drain)
            or_cache_drain_destroy(side->drain);
        side->drain = NULL;
        side->volume = side->taking = NULL;
        side->buffered |= side->owed;
        side->owed = c->death == DEATH_ENGINE && side->exists;
        side->tap = NULL;
        side->closing = false;
        side->unreported = 0;
        side->error = 0;
        for (uint32_t n = 0; n < UPPER; n++) {
            c->open_ops -= side->upper[n].busy;
            side->upper[n].busy = false;
        }
        memset(side->pins, 0, sizeof side->pins);
    }
}
