/* A cached volume as its owner sees it: reads and writes in memory, block by block.
 *
 * An operation runs until it has ended or waits: for a fetch, for a transfer, or for one that is in its way. What
 * it waits for runs it again from where it was (or_io.progress), and it looks at everything anew: blocks may have
 * come and gone meanwhile. */
#include <string.h>

#include "cache/internal.h"

/* Pins are kept by replies on the wire, for as long as the network likes: they may not take all memory. */
#define PINNED_PART 4u
#define PINS_MAX (UINT16_MAX - 1u) /* of one block; one more is for make_own */

uint32_t or_cache_lookup(struct or_cache_volume *v, uint64_t number)
{
    uint32_t i = or_block_find(v->cache, v->content, number);
    if (i != OR_CACHE_NOTHING || !v->config.map)
        return i;
    uint64_t content, content_number;
    v->config.map(v->config.map_arg, number, &content, &content_number);
    return content == v->content ? i : or_block_find(v->cache, content, content_number);
}

static bool has_content(const struct or_cache *cache, uint32_t i)
{
    return i != OR_CACHE_NOTHING && cache->blocks[i].state != OR_BLOCK_FILLING;
}

/* --- counting --------------------------------------------------------------------------------------- */

/* An operation uses the volume's block `number`, which is in memory as i or is not. Only reads count as hits and
 * misses: a write needs nothing from below. */
static void count_use(struct or_cache_volume *v, uint64_t number, uint32_t i, bool reads)
{
    struct or_cache *cache = v->cache;
    bool hit = has_content(cache, i);
    v->stats.hits += reads && hit;
    v->stats.misses += reads && !hit;
    v->stats.shared_hits += reads && hit && cache->blocks[i].owner != v->slot;
    if (i == OR_CACHE_NOTHING)
        return;
    if (cache->blocks[i].ahead) {
        cache->blocks[i].ahead = false; /* what it was brought in for, so not a second use */
        v->stats.ahead_used++;
    } else if (number != v->last_block) {
        or_policy_use(cache, i);
    }
    v->last_block = number;
}

/* Once for each operation, before it begins. */
static void count(struct or_cache_volume *v, struct or_io *io)
{
    if (io->stage & OR_STAGE_COUNTED)
        return;
    io->stage |= OR_STAGE_COUNTED;
    uint64_t first = io->offset / OR_CACHE_BLOCK, end = (or_io_end(io) + OR_CACHE_BLOCK - 1) / OR_CACHE_BLOCK;
    for (uint64_t number = first; number < end; number++)
        count_use(v, number, or_cache_lookup(v, number), io->op == OR_OP_READ);
}

/* --- running ---------------------------------------------------------------------------------------- */

static void wait_for_fetch(struct or_cache_volume *v, struct or_io *io, uint32_t i)
{
    or_list_append(&v->cache->transfers[v->cache->blocks[i].transfer].waiters, &io->link);
}

/* Fetches the missing block `number` and what the operation needs behind it, and waits for it. */
static void fetch_and_wait(struct or_cache_volume *v, struct or_io *io, uint64_t number, uint64_t end)
{
    switch (or_fetch(v, number, end)) {
    case OR_FETCH_STARTED:
        wait_for_fetch(v, io, or_cache_lookup(v, number));
        break;
    case OR_FETCH_STARVED:
        or_cache_starve(v->cache, io);
        break;
    case OR_FETCH_BLOCKED:
        or_list_append(&v->blocked, &io->link);
        break;
    case OR_FETCH_NO_MEMORY:
        io->stage |= OR_STAGE_PIECE;
        or_cache_run(io);
        break;
    }
}

/* The part of the operation that lies in the block at its progress. */
struct span {
    uint64_t number;
    uint32_t at, bytes;
};

static struct span next_span(const struct or_io *io)
{
    uint64_t from = io->offset + io->progress;
    uint32_t at = (uint32_t)(from % OR_CACHE_BLOCK), left = io->length - io->progress;
    return (struct span){from / OR_CACHE_BLOCK, at, left < OR_CACHE_BLOCK - at ? left : OR_CACHE_BLOCK - at};
}

static bool any_dirty(struct or_cache_volume *v, const struct or_io *io)
{
    if (!v->dirty_blocks || OR_CACHE_PLANTED(OR_CACHE_PLANT_BLIND_BYPASS))
        return false;
    for (uint64_t number = io->offset / OR_CACHE_BLOCK; number * OR_CACHE_BLOCK < or_io_end(io); number++) {
        uint32_t i = or_block_find(v->cache, v->content, number);
        if (has_content(v->cache, i) && v->cache->blocks[i].state != OR_BLOCK_CLEAN)
            return true;
    }
    return false;
}

static void run_read(struct or_cache_volume *v, struct or_io *io)
{
    struct or_cache *cache = v->cache;
    bool passes = v->config.mode == OR_CACHE_NONE || or_cache_is_large(cache, io->length);
    if (passes && !io->progress && !any_dirty(v, io)) {
        v->stats.bypassed += !(io->stage & OR_STAGE_COUNTED);
        io->stage |= OR_STAGE_COUNTED;
        or_direct(v, io, io->length, false);
        return;
    }
    uint64_t end = (or_io_end(io) + OR_CACHE_BLOCK - 1) / OR_CACHE_BLOCK;
    bool fresh = !(io->stage & OR_STAGE_COUNTED);
    count(v, io);
    while (io->progress < io->length) {
        struct span s = next_span(io);
        uint32_t i = or_cache_lookup(v, s.number);
        if (!has_content(cache, i)) {
            if (i != OR_CACHE_NOTHING)
                wait_for_fetch(v, io, i);
            else if (io->stage & OR_STAGE_PIECE)
                or_fetch_piece(v, io);
            else
                fetch_and_wait(v, io, s.number, end);
            break;
        }
        memcpy(io->data + io->progress, or_block_memory(cache, i) + s.at, s.bytes);
        io->progress += s.bytes;
        io->stage &= ~(uint32_t)OR_STAGE_PIECE;
    }
    bool ends = io->progress == io->length;
    if (fresh)
        or_fetch_ahead(v, io->offset / OR_CACHE_BLOCK, end);
    if (ends)
        or_block_end(io, OR_OK);
}

/* Writes past the cache, from a buffer: to where its blocks are not dirty. */
static void write_around(struct or_cache_volume *v, struct or_io *io)
{
    struct span s = next_span(io);
    uint32_t length = s.bytes;
    while (io->progress + length < io->length && length + OR_CACHE_BLOCK <= v->cache->buffer_bytes) {
        uint32_t i = or_block_find(v->cache, v->content, ++s.number);
        if (i != OR_CACHE_NOTHING && v->cache->blocks[i].state != OR_BLOCK_CLEAN)
            break;
        length += OR_CACHE_BLOCK;
    }
    if (length > io->length - io->progress)
        length = io->length - io->progress;
    v->stats.throttled++;
    or_direct(v, io, length, true);
}

/* A block of the volume's own for what it has in common with others, or has not in memory at all. */
static uint32_t make_own(struct or_cache_volume *v, const struct span *s, uint32_t shared)
{
    struct or_cache *cache = v->cache;
    if (shared == OR_CACHE_NOTHING)
        return or_block_allocate(v, v->content, s->number, OR_BLOCK_CLEAN);
    bool first = cache->blocks[shared].pins++ == 0; /* it must not be evicted for its copy */
    cache->pinned += first;
    uint32_t i = or_block_allocate(v, v->content, s->number, OR_BLOCK_CLEAN);
    if (i != OR_CACHE_NOTHING)
        memcpy(or_block_memory(cache, i), or_block_memory(cache, shared), OR_CACHE_BLOCK);
    or_block_unpin(cache, shared);
    return i;
}

/* Writes one span; false when the operation waits now. */
static bool write_span(struct or_cache_volume *v, struct or_io *io)
{
    struct or_cache *cache = v->cache;
    struct span s = next_span(io);
    uint32_t own = or_block_find(cache, v->content, s.number);
    uint32_t i = own != OR_CACHE_NOTHING ? own : or_cache_lookup(v, s.number);
    bool whole = s.bytes == or_cache_block_bytes(v, s.number);
    bool dirty = has_content(cache, own) && cache->blocks[own].state != OR_BLOCK_CLEAN;
    if (i != OR_CACHE_NOTHING && !has_content(cache, i)) {
        wait_for_fetch(v, io, i);
        return false;
    }
    if (!dirty && ((io->stage & OR_STAGE_PIECE) || !or_dirty_room(v))) {
        write_around(v, io);
        return false;
    }
    if (i == OR_CACHE_NOTHING && !whole) {
        fetch_and_wait(v, io, s.number, s.number + 1);
        return false;
    }
    if (own == OR_CACHE_NOTHING)
        own = OR_CACHE_PLANTED(OR_CACHE_PLANT_NO_COPY) && i != OR_CACHE_NOTHING
                  ? i
                  : make_own(v, &s, whole ? OR_CACHE_NOTHING : i);
    if (own == OR_CACHE_NOTHING) {
        write_around(v, io);
        return false;
    }
    if (whole)
        memset(or_block_memory(cache, own) + s.bytes, 0, OR_CACHE_BLOCK - s.bytes);
    if (OR_CACHE_PLANTED(OR_CACHE_PLANT_DIRTY_FIRST))
        or_dirty_mark(v, own);
    or_block_put(or_block_memory(cache, own) + s.at, io->data + io->progress, s.bytes);
    or_dirty_mark(v, own);
    io->progress += s.bytes;
    return true;
}

static void run_write(struct or_cache_volume *v, struct or_io *io)
{
    count(v, io);
    if (!(io->stage & OR_STAGE_BACK)) {
        or_direct(v, io, io->length - io->progress, false);
        return;
    }
    while (io->progress < io->length)
        if (!write_span(v, io))
            return;
    or_cache_run(io);
}

void or_cache_run(struct or_io *io)
{
    struct or_cache_volume *v = or_cache_volume_of(io->volume);
    if (io->op == OR_OP_FLUSH) {
        or_flush(v, io);
    } else if (io->progress == io->length) {
        if ((io->stage & OR_STAGE_BACK) && (io->flags & OR_REQ_FUA))
            or_flush(v, io);
        else
            or_block_end(io, OR_OK);
    } else if (io->op == OR_OP_READ) {
        run_read(v, io);
    } else if (io->op == OR_OP_WRITE) {
        run_write(v, io);
    } else {
        or_direct(v, io, io->length - io->progress, false);
    }
}

void or_cache_run_list(struct or_list *list)
{
    struct or_list now;
    or_list_init(&now);
    for (struct or_io *io; (io = or_io_pop(list)) != NULL;)
        or_list_append(&now, &io->link);
    for (struct or_io *io; (io = or_io_pop(&now)) != NULL;)
        or_cache_run(io);
}

/* --- or_backend_ops --------------------------------------------------------------------------------- */

static void volume_submit(struct or_volume *volume, struct or_io *io)
{
    struct or_cache_volume *v = or_cache_volume_of(volume);
    bool entered = or_cache_enter(v->cache);
    assert(!v->closing);
    io->progress = 0;
    io->stage = io->op == OR_OP_WRITE && v->config.mode == OR_CACHE_WRITE_BACK ? OR_STAGE_BACK : 0;
    or_cache_run(io);
    or_cache_leave(v->cache, entered);
}

static const uint8_t *volume_peek(struct or_volume *volume, uint64_t offset, uint32_t length)
{
    struct or_cache_volume *v = or_cache_volume_of(volume);
    struct or_cache *cache = v->cache;
    uint64_t number = offset / OR_CACHE_BLOCK;
    uint32_t at = (uint32_t)(offset % OR_CACHE_BLOCK);
    if (!length || length > OR_CACHE_BLOCK - at || v->config.mode == OR_CACHE_NONE)
        return NULL;
    uint32_t i = or_cache_lookup(v, number);
    if (!has_content(cache, i) || cache->blocks[i].pins == PINS_MAX || cache->pinned >= cache->limit / PINNED_PART)
        return NULL;
    cache->pinned += cache->blocks[i].pins++ == 0;
    v->stats.pinned++;
    count_use(v, number, i, true);
    if (v->config.read_ahead_max) {
        bool entered = or_cache_enter(cache);
        or_fetch_ahead(v, number, number + 1);
        or_cache_leave(cache, entered);
    }
    return or_block_memory(cache, i) + at;
}

/* What a look-up of the block reads next, of the volume's own content and of the one that it stands on. */
static void prefetch(const struct or_cache_volume *v, uint64_t number,
                     const void *(*next)(const struct or_cache *cache, uint64_t content, uint64_t number))
{
    uint64_t content = v->content, at = number;
    __builtin_prefetch(next(v->cache, content, at));
    if (v->config.map)
        v->config.map(v->config.map_arg, number, &content, &at);
    if (content != v->content)
        __builtin_prefetch(next(v->cache, content, at));
}

/* Each step of a look-up waits for memory: so, step by step, for all of them at once. */
static void volume_expect(struct or_volume *volume, const uint64_t *offsets, uint32_t count)
{
    const struct or_cache_volume *v = or_cache_volume_of(volume);
    for (uint32_t n = 0; n < count; n++)
        prefetch(v, offsets[n] / OR_CACHE_BLOCK, or_block_bucket);
    for (uint32_t n = 0; n < count; n++)
        prefetch(v, offsets[n] / OR_CACHE_BLOCK, or_block_first);
}

static void volume_unpeek(struct or_volume *volume, const uint8_t *memory)
{
    struct or_cache_volume *v = or_cache_volume_of(volume);
    assert(v->stats.pinned > 0);
    v->stats.pinned--;
    or_block_unpin(v->cache, (uint32_t)((uint64_t)(memory - v->cache->memory) / OR_CACHE_BLOCK));
}

static void volume_close(struct or_volume *volume)
{
    struct or_cache_volume *v = or_cache_volume_of(volume);
    assert(volume->in_flight == 0 && v->stats.pinned == 0 && !v->closing);
    bool entered = or_cache_enter(v->cache);
    or_writeback_close(v);
    or_cache_leave(v->cache, entered);
}

const struct or_backend_ops or_cache_volume_ops = {.name = "cache",
                                                   .submit = volume_submit,
                                                   .peek = volume_peek,
                                                   .expect = volume_expect,
                                                   .unpeek = volume_unpeek,
                                                   .close = volume_close};
