/* The instance: its budget, its transfers, what time brings, and the volumes on it.
 *
 * A transfer that ends is put on a list and seen to when nobody of the cache is up the stack any more: so a lower
 * volume that ends operations inside submit does not make operations nest. */
#include "cache/cache.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "cache/internal.h"

#define MS ((uint64_t)1000000)
#define BUFFER_BYTES (OR_CACHE_RUN_MAX * OR_CACHE_BLOCK)
#define BUFFER_BYTES_SMALL (32u << 10)
#define BUFFERS_PART 128u /* of the budget */
#define BUFFERS_MIN 4u
#define BUFFERS_MAX 64u
#define LARGE_BUDGET (32ull << 20)
#define GHOST_SET 8u
#define GHOST_BYTES ((uint64_t)sizeof(uint32_t) * OR_POLICY_QUEUES)
#define SWEEP_STEP 1024u
#define DIRTY_AGE_NS (5000 * MS)
#define SHRINK_RETRY_NS (10 * MS)

static const struct or_cache_policy_ops *const policies[OR_CACHE_POLICIES] = {
    [OR_CACHE_ARC] = &or_cache_arc, [OR_CACHE_LRU] = &or_cache_lru, [OR_CACHE_S3FIFO] = &or_cache_s3fifo};

const char *or_cache_policy_name(enum or_cache_policy policy)
{
    static const char *const names[OR_CACHE_POLICIES] = {
        [OR_CACHE_ARC] = "arc", [OR_CACHE_LRU] = "lru", [OR_CACHE_S3FIFO] = "s3fifo"};
    return (unsigned)policy < OR_CACHE_POLICIES ? names[policy] : NULL;
}

const char *or_cache_mode_name(enum or_cache_mode mode)
{
    static const char *const names[OR_CACHE_MODES] = {
        [OR_CACHE_NONE] = "none", [OR_CACHE_WRITE_THROUGH] = "write-through", [OR_CACHE_WRITE_BACK] = "write-back"};
    return (unsigned)mode < OR_CACHE_MODES ? names[mode] : NULL;
}

/* --- transfers -------------------------------------------------------------------------------------- */

static struct or_transfer *begin(struct or_cache_volume *v, struct or_transfer *t, enum or_transfer_kind kind)
{
    t->volume = v;
    t->kind = (uint8_t)kind;
    t->upper = NULL;
    t->told = false;
    t->blocks_count = 0;
    v->transfers++;
    return t;
}

struct or_transfer *or_transfer_take(struct or_cache_volume *v, enum or_transfer_kind kind, bool buffered)
{
    struct or_list *list = buffered ? &v->cache->buffered : &v->cache->plain;
    if (or_list_empty(list))
        return NULL;
    struct or_transfer *t = OR_CONTAINER(list->next, struct or_transfer, link);
    or_list_remove(&t->link);
    return begin(v, t, kind);
}

struct or_transfer *or_transfer_take_own(struct or_cache_volume *v, enum or_transfer_kind kind)
{
    return v->own.volume ? NULL : begin(v, &v->own, kind);
}

void or_transfer_release(struct or_transfer *t)
{
    struct or_cache_volume *v = t->volume;
    struct or_cache *cache = v->cache;
    assert(or_list_empty(&t->waiters) && or_list_empty(&t->sibling));
    v->transfers--;
    t->volume = NULL;
    if (t == &v->own)
        return;
    or_list_prepend(t->buffer ? &cache->buffered : &cache->plain, &t->link);
    cache->released = true;
}

static void transfer_ended(struct or_io *io)
{
    struct or_transfer *t = OR_CONTAINER(io, struct or_transfer, io);
    struct or_cache *cache = t->volume->cache;
    bool entered = or_cache_enter(cache);
    or_list_append(&cache->ended, &t->link);
    or_cache_leave(cache, entered);
}

void or_transfer_start(struct or_transfer *t, uint8_t op, uint8_t flags, uint64_t offset, uint32_t length,
                       uint8_t *data)
{
    t->io = (struct or_io){
        .op = op, .flags = flags, .offset = offset, .length = length, .data = data, .done = transfer_ended};
    or_list_init(&t->io.link);
    or_volume_submit(t->volume->lower, &t->io);
}

/* or_volume.failed of the lower volume. */
static void lower_failed(struct or_volume *lower, const struct or_io *io, int error)
{
    struct or_cache_volume *v = lower->owner;
    OR_CONTAINER(io, struct or_transfer, io)->told = true;
    v->base.flush_failed |= lower->flush_failed;
    if (v->base.failed)
        v->base.failed(&v->base, io, error);
}

void or_cache_starve(struct or_cache *cache, struct or_io *io)
{
    or_list_append(&cache->starving, &io->link);
}

/* --- seeing to what has ended ----------------------------------------------------------------------- */

static void see_to(struct or_transfer *t)
{
    switch (t->kind) {
    case OR_TRANSFER_FETCH:
        or_fetch_ended(t);
        break;
    case OR_TRANSFER_PIECE:
        or_fetch_piece_ended(t);
        break;
    case OR_TRANSFER_DIRECT:
        or_direct_ended(t);
        break;
    case OR_TRANSFER_WRITE_OUT:
        or_write_out_ended(t);
        break;
    default:
        or_flush_ended(t);
        break;
    }
}

/* They take turns: who began to write out goes behind the others, who get the next transfers that come free. */
static void pump_active(struct or_cache *cache)
{
    for (struct or_list *l = cache->active.next, *next; l != &cache->active; l = next) {
        next = l->next;
        struct or_cache_volume *v = OR_CONTAINER(l, struct or_cache_volume, active);
        bool idle = !v->dirty_blocks && !v->closing && or_list_empty(&v->flushes);
        bool began = !idle && or_writeback_pump(v);
        if (idle || began)
            or_list_remove(&v->active);
        if (began)
            or_writeback_activate(v);
    }
}

static void settle(struct or_cache *cache)
{
    bool again;
    do {
        while (!or_list_empty(&cache->ended)) {
            struct or_list *l = cache->ended.next;
            or_list_remove(l);
            see_to(OR_CONTAINER(l, struct or_transfer, link));
        }
        pump_active(cache); /* first: writes that starve would leave it no buffers */
        again = cache->released;
        cache->released = false;
        if (again)
            or_cache_run_list(&cache->starving);
    } while (again || !or_list_empty(&cache->ended));
}

bool or_cache_enter(struct or_cache *cache)
{
    bool entered = !cache->working;
    cache->working = true;
    return entered;
}

void or_cache_leave(struct or_cache *cache, bool entered)
{
    if (!entered)
        return;
    settle(cache);
    cache->working = false;
}

/* --- forgetting ------------------------------------------------------------------------------------- */

void or_cache_sweep(struct or_cache_volume *v)
{
    if (v->cache->sweeps.next == &v->sweep)
        v->cache->sweep_at = 0;
    or_list_remove(&v->sweep);
    or_list_append(&v->cache->sweeps, &v->sweep);
}

/* A block of the volume's own pool goes to all others. */
static void share(struct or_cache *cache, uint32_t i)
{
    struct or_block *b = &cache->blocks[i];
    if (!b->own_pool || b->state == OR_BLOCK_DOOMED || b->state == OR_BLOCK_DETACHED)
        return;
    or_policy_remove(cache, i);
    b->own_pool = false;
    or_policy_enqueue(cache, &cache->shared, i, b->queue);
}

/* The volume is gone; a block that others share stays. */
static void disown(struct or_cache_volume *v, uint32_t i)
{
    share(v->cache, i);
    v->cache->blocks[i].owner = 0;
    v->stats.blocks--;
}

static void sweep_block(struct or_cache_volume *v, uint32_t i)
{
    struct or_cache *cache = v->cache;
    const struct or_block *b = &cache->blocks[i];
    if (b->state == OR_BLOCK_FREE || b->state == OR_BLOCK_RETIRED)
        return;
    if ((v->drops || v->closed) && b->content == v->content && b->state == OR_BLOCK_CLEAN)
        or_block_drop(cache, i);
    else if (v->closed && b->owner == v->slot)
        disown(v, i);
    else if (!v->pool.blocks_max && b->owner == v->slot)
        share(cache, i);
}

static void volume_free(struct or_cache_volume *v)
{
    or_list_remove(&v->link);
    or_list_remove(&v->active);
    or_list_remove(&v->sweep);
    v->cache->slots[v->slot] = NULL;
    v->cache->volumes_count--;
    free(v->own.buffer);
    free(v);
}

static void sweep(struct or_cache *cache)
{
    if (or_list_empty(&cache->sweeps))
        return;
    struct or_cache_volume *v = OR_CONTAINER(cache->sweeps.next, struct or_cache_volume, sweep);
    for (uint32_t step = 0; step < SWEEP_STEP && cache->sweep_at < cache->fresh; step++)
        sweep_block(v, cache->sweep_at++);
    if (cache->sweep_at < cache->fresh)
        return;
    cache->sweep_at = 0;
    or_list_remove(&v->sweep);
    v->drops = false;
    if (v->closed)
        volume_free(v);
}

uint64_t or_cache_poll(struct or_cache *cache, uint64_t now_ns)
{
    bool entered = or_cache_enter(cache);
    cache->now_ns = now_ns;
    bool shrinks = or_blocks_shrink(cache);
    sweep(cache);
    or_cache_leave(cache, entered);
    if (shrinks || !or_list_empty(&cache->sweeps))
        return now_ns;
    uint64_t due = or_blocks_shrinks(cache) ? now_ns + SHRINK_RETRY_NS : UINT64_MAX;
    for (const struct or_list *l = cache->active.next; l != &cache->active; l = l->next) {
        uint64_t one = or_writeback_due(OR_CONTAINER(l, struct or_cache_volume, active));
        due = one < due ? one : due;
    }
    return due;
}

/* --- the instance ----------------------------------------------------------------------------------- */

static uint64_t fixed_bytes(const struct or_cache *cache)
{
    return (uint64_t)cache->buffers_count * cache->buffer_bytes + cache->transfers_count * sizeof(struct or_transfer) +
           sizeof *cache;
}

static uint64_t bytes_per_block(void)
{
    return OR_CACHE_BLOCK + sizeof(struct or_block) + sizeof(uint32_t) + GHOST_BYTES;
}

static uint32_t blocks_in(const struct or_cache *cache, uint64_t bytes)
{
    uint64_t blocks = (bytes - fixed_bytes(cache)) / bytes_per_block();
    return blocks < UINT32_MAX / 2 ? (uint32_t)blocks : UINT32_MAX / 2;
}

static void init_transfer(struct or_transfer *t, uint8_t *buffer)
{
    or_list_init(&t->sibling);
    or_list_init(&t->waiters);
    t->buffer = buffer;
}

static int open_transfers(struct or_cache *cache)
{
    cache->transfers = calloc(cache->transfers_count, sizeof *cache->transfers);
    cache->buffers = aligned_alloc(OR_BLOCK_ALIGN_MAX, (size_t)cache->buffers_count * cache->buffer_bytes);
    if (!cache->transfers || !cache->buffers)
        return -ENOMEM;
    for (uint32_t n = 0; n < cache->transfers_count; n++) {
        struct or_transfer *t = &cache->transfers[n];
        init_transfer(t, n < cache->buffers_count ? cache->buffers + (size_t)n * cache->buffer_bytes : NULL);
        or_list_append(t->buffer ? &cache->buffered : &cache->plain, &t->link);
    }
    return 0;
}

/* Empties the memory of evicted blocks, and makes it fit the number of blocks. */
static void reset_ghosts(struct or_cache *cache)
{
    for (uint32_t list = 0; list < OR_POLICY_QUEUES; list++) {
        struct or_cache_ghosts *g = &cache->ghosts[list];
        uint64_t bytes = (uint64_t)g->sets * GHOST_SET * sizeof *g->prints;
        if (g->sets && madvise(g->prints, bytes, MADV_DONTNEED) != 0)
            memset(g->prints, 0, bytes);
        g->sets = (cache->target + GHOST_SET - 1) / GHOST_SET;
        g->count = 0;
    }
}

static uint64_t ghosts_mapped(const struct or_cache *cache)
{
    return ((uint64_t)cache->limit_max / GHOST_SET + 1) * GHOST_SET * sizeof(uint32_t);
}

static int open_ghosts(struct or_cache *cache)
{
    for (uint32_t list = 0; list < OR_POLICY_QUEUES; list++) {
        void *prints = mmap(NULL, ghosts_mapped(cache), PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (prints == MAP_FAILED)
            return -ENOMEM;
        cache->ghosts[list].prints = prints;
    }
    reset_ghosts(cache);
    return 0;
}

static void free_all(struct or_cache *cache)
{
    for (uint32_t list = 0; list < OR_POLICY_QUEUES; list++)
        if (cache->ghosts[list].prints)
            munmap(cache->ghosts[list].prints, ghosts_mapped(cache));
    or_blocks_close(cache);
    free(cache->buffers);
    free(cache->transfers);
    free(cache);
}

static void size_buffers(struct or_cache *cache, uint64_t bytes)
{
    cache->buffer_bytes = bytes < LARGE_BUDGET ? BUFFER_BYTES_SMALL : BUFFER_BYTES;
    uint64_t count = bytes / BUFFERS_PART / cache->buffer_bytes;
    count = count > BUFFERS_MIN ? count : BUFFERS_MIN;
    cache->buffers_count = count < BUFFERS_MAX ? (uint32_t)count : BUFFERS_MAX;
    cache->transfers_count = cache->buffers_count + OR_CACHE_PLAIN_TRANSFERS;
}

struct or_cache *or_cache_create(const struct or_cache_config *config, int *err)
{
    *err = -EINVAL;
    if (config->bytes < OR_CACHE_BYTES_MIN || config->bytes_max < config->bytes ||
        (unsigned)config->policy >= OR_CACHE_POLICIES)
        return NULL;
    *err = -ENOMEM;
    struct or_cache *cache = calloc(1, sizeof *cache);
    if (!cache)
        return NULL;
    cache->bytes_max = config->bytes_max;
    cache->seed = config->seed;
    cache->policy = policies[config->policy];
    cache->next_content = or_block_hash(cache, 0, 0); /* so that no two processes take the same */
    cache->kept_fds[0] = cache->kept_fds[1] = -1;
    struct or_list *const lists[] = {&cache->plain,   &cache->buffered, &cache->starving, &cache->ended,
                                     &cache->volumes, &cache->active,   &cache->sweeps};
    for (size_t n = 0; n < sizeof lists / sizeof *lists; n++)
        or_list_init(lists[n]);
    size_buffers(cache, config->bytes);
    if (open_transfers(cache) != 0 ||
        or_blocks_open(cache, blocks_in(cache, config->bytes), blocks_in(cache, config->bytes_max), config->kept) !=
            0 ||
        open_ghosts(cache) != 0) {
        free_all(cache);
        return NULL;
    }
    *err = 0;
    return cache;
}

void or_cache_destroy(struct or_cache *cache)
{
    while (!or_list_empty(&cache->volumes)) {
        struct or_cache_volume *v = OR_CONTAINER(cache->volumes.next, struct or_cache_volume, link);
        if (v->lower)
            v->lower->ops->close(v->lower);
        volume_free(v);
    }
    free_all(cache);
}

static void size_dirty(struct or_cache_volume *v)
{
    uint64_t dirty = v->config.dirty_max ? v->config.dirty_max / OR_CACHE_BLOCK : v->cache->target / 4;
    v->dirty_blocks_max = dirty < 1 ? 1 : dirty < UINT32_MAX ? (uint32_t)dirty : UINT32_MAX;
}

int or_cache_resize(struct or_cache *cache, uint64_t bytes)
{
    bytes = bytes > OR_CACHE_BYTES_MIN ? bytes : OR_CACHE_BYTES_MIN;
    bytes = bytes < cache->bytes_max ? bytes : cache->bytes_max;
    uint64_t least = fixed_bytes(cache) + OR_CACHE_BYTES_MIN / 2;
    int err = or_blocks_resize(cache, blocks_in(cache, bytes > least ? bytes : least));
    if (err)
        return err;
    reset_ghosts(cache);
    for (struct or_list *l = cache->volumes.next; l != &cache->volumes; l = l->next)
        size_dirty(OR_CONTAINER(l, struct or_cache_volume, link));
    return 0;
}

uint32_t or_cache_volumes(const struct or_cache *cache)
{
    return cache->volumes_count;
}

void or_cache_read_info(const struct or_cache *cache, struct or_cache_info *info)
{
    *info = (struct or_cache_info){
        .bytes = fixed_bytes(cache) + cache->limit * bytes_per_block(),
        .bytes_target = fixed_bytes(cache) + cache->target * bytes_per_block(),
        .blocks = cache->used,
        .blocks_max = cache->limit,
        .metadata_bytes = fixed_bytes(cache) + cache->limit * (bytes_per_block() - OR_CACHE_BLOCK),
        .volumes = cache->volumes_count,
        .huge_bytes = cache->huge_pages ? cache->mapped : or_huge_bytes(&cache->huge, OR_HUGE_BLOCKS),
    };
}

static uint32_t blocks_of(uint64_t quota)
{
    uint64_t blocks = (quota + OR_CACHE_BLOCK - 1) / OR_CACHE_BLOCK;
    return blocks < UINT32_MAX ? (uint32_t)blocks : UINT32_MAX;
}

uint64_t or_cache_room(const struct or_cache *cache, uint64_t quota)
{
    uint32_t unused = cache->used < cache->target ? cache->target - cache->used : 0;
    return quota && blocks_of(quota) < unused ? blocks_of(quota) : unused;
}

/* --- volumes ---------------------------------------------------------------------------------------- */

static uint16_t free_slot(const struct or_cache *cache)
{
    for (uint16_t slot = 1; slot < OR_CACHE_VOLUMES_MAX; slot++)
        if (!cache->slots[slot])
            return slot;
    return 0;
}

static void set_lower(struct or_cache_volume *v, struct or_volume *lower)
{
    v->lower = lower;
    lower->owner = v;
    lower->failed = lower_failed;
}

static void stack(struct or_cache_volume *v, struct or_volume *lower)
{
    v->base = (struct or_volume){
        .ops = &or_cache_volume_ops,
        .size = lower->size,
        .block_size = lower->block_size,
        .physical_block_size = lower->physical_block_size,
        .read_only = lower->read_only,
        .direct = lower->direct,
        .align = lower->align,
        .discard_granularity = lower->discard_granularity,
        .write_zeroes = lower->write_zeroes,
        .fd = lower->fd,
        .flush_failed = lower->flush_failed,
    };
    set_lower(v, lower);
}

/* Takes over what may be changed later. */
static void take_config(struct or_cache_volume *v, const struct or_cache_volume_config *config)
{
    struct or_cache_volume_config *c = &v->config;
    c->mode = config->mode;
    c->quota = config->quota;
    c->dirty_max = config->dirty_max;
    c->dirty_age_ns = config->dirty_age_ns ? config->dirty_age_ns : DIRTY_AGE_NS;
    c->read_ahead_max = config->read_ahead_max;
    v->pool.blocks_max = blocks_of(c->quota);
    size_dirty(v);
}

int or_cache_check_content(const struct or_cache *cache, uint64_t content)
{
    for (const struct or_list *l = cache->volumes.next; l != &cache->volumes; l = l->next) {
        const struct or_cache_volume *v = OR_CONTAINER(l, const struct or_cache_volume, link);
        if (content && v->content == content)
            return v->closed ? -EAGAIN : -EEXIST;
    }
    return 0;
}

struct or_volume *or_cache_volume(struct or_cache *cache, struct or_volume *lower,
                                  const struct or_cache_volume_config *config, int *err)
{
    uint16_t slot = free_slot(cache);
    *err = (unsigned)config->mode >= OR_CACHE_MODES ? -EINVAL : slot == 0 ? -ENOSPC : 0;
    if (!*err)
        *err = or_cache_check_content(cache, config->content);
    if (*err)
        return NULL;
    struct or_cache_volume *v = calloc(1, sizeof *v);
    uint8_t *buffer = aligned_alloc(OR_BLOCK_ALIGN_MAX, OR_CACHE_BLOCK);
    if (!v || !buffer) {
        free(v);
        free(buffer);
        *err = -ENOMEM;
        return NULL;
    }
    init_transfer(&v->own, buffer);
    v->cache = cache;
    v->config = *config;
    v->slot = slot;
    v->content = config->content ? config->content : cache->next_content++;
    v->last_block = UINT64_MAX;
    v->error = config->error;
    take_config(v, config);
    stack(v, lower);
    struct or_list *const lists[] = {&v->active,     &v->sweep,   &v->fetches, &v->directs,
                                     &v->write_outs, &v->blocked, &v->flushes};
    for (size_t n = 0; n < sizeof lists / sizeof *lists; n++)
        or_list_init(lists[n]);
    or_list_append(&cache->volumes, &v->link);
    cache->slots[slot] = v;
    cache->volumes_count++;
    return &v->base;
}

void or_cache_configure(struct or_volume *volume, const struct or_cache_volume_config *config)
{
    struct or_cache_volume *v = or_cache_volume_of(volume);
    assert((unsigned)config->mode < OR_CACHE_MODES);
    bool entered = or_cache_enter(v->cache);
    bool had_quota = v->pool.blocks_max;
    take_config(v, config);
    if (had_quota && !v->pool.blocks_max)
        or_cache_sweep(v);
    or_cache_leave(v->cache, entered);
}

void or_cache_detach(struct or_volume *volume, void (*done)(void *arg, struct or_volume *lower, uint8_t error),
                     void *arg)
{
    struct or_cache_volume *v = or_cache_volume_of(volume);
    v->detached = done;
    v->detached_arg = arg;
    volume->ops->close(volume);
}

struct or_volume *or_cache_lower(const struct or_volume *volume)
{
    return or_cache_volume_of(volume)->lower;
}

bool or_cache_idle(const struct or_volume *volume)
{
    const struct or_cache_volume *v = or_cache_volume_of(volume);
    return volume->in_flight == 0 && v->transfers == 0 && v->dirty_blocks == 0;
}

void or_cache_cut(struct or_volume *volume, struct or_volume *lower, uint64_t content,
                  void (*map)(void *arg, uint64_t number, uint64_t *content, uint64_t *content_number), void *map_arg)
{
    struct or_cache_volume *v = or_cache_volume_of(volume);
    assert(volume->held && or_cache_idle(volume) && or_cache_check_content(v->cache, content) == 0);
    if (!OR_CACHE_PLANTED(OR_CACHE_PLANT_CONTENT_KEPT))
        v->content = v->config.content = content;
    v->config.map = map;
    v->config.map_arg = map_arg;
    set_lower(v, lower);
}

void or_cache_owe(struct or_volume *volume, uint8_t status)
{
    or_cache_volume_of(volume)->error = status;
}

void or_cache_drop(struct or_volume *volume)
{
    struct or_cache_volume *v = or_cache_volume_of(volume);
    v->drops = true;
    or_cache_sweep(v);
}

void or_cache_read_stats(const struct or_volume *volume, struct or_cache_stats *stats)
{
    const struct or_cache_volume *v = or_cache_volume_of(volume);
    *stats = v->stats;
    stats->dirty = v->dirty_blocks;
}
