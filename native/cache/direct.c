/* Operations that the lower volume executes as they are: writes through, zeroes, discards, and what passes the cache
 * by. While one that writes is under way, nothing of its blocks is fetched or written out (internal.h), so when it
 * has ended it is known what the lower volume holds, and the blocks in memory are made to agree. */
#include <string.h>

#include "cache/internal.h"

/* Zeroes and discards go in pieces, so that the walk over their blocks stays short. */
#define PIECE_BYTES (16u << 20)

static bool overlaps(const struct or_list *transfers, uint64_t first, uint64_t end)
{
    for (const struct or_list *l = transfers->next; l != transfers; l = l->next) {
        const struct or_transfer *t = OR_CONTAINER(l, struct or_transfer, sibling);
        if (t->first < end && first < t->first + t->blocks_count)
            return true;
    }
    return false;
}

bool or_direct_overlaps(const struct or_cache_volume *v, uint64_t first, uint64_t end)
{
    return overlaps(&v->directs, first, end);
}

/* What is being fetched of these blocks may be the content of before or of after. */
static void detach_fetches(struct or_cache_volume *v, uint64_t first, uint64_t end)
{
    if (OR_CACHE_PLANTED(OR_CACHE_PLANT_STALE_FILL))
        return;
    for (struct or_list *l = v->fetches.next; l != &v->fetches; l = l->next) {
        const struct or_transfer *t = OR_CONTAINER(l, struct or_transfer, sibling);
        for (uint32_t n = 0; n < t->blocks_count; n++)
            if (t->first + n >= first && t->first + n < end && v->cache->blocks[t->blocks[n]].state == OR_BLOCK_FILLING)
                or_block_detach(v->cache, t->blocks[n]);
    }
}

void or_direct(struct or_cache_volume *v, struct or_io *io, uint32_t length, bool copied)
{
    uint64_t from = io->offset + io->progress;
    if (or_op_writes(io->op) && io->op != OR_OP_WRITE && length > PIECE_BYTES)
        length = PIECE_BYTES - (uint32_t)(from % OR_CACHE_BLOCK);
    uint64_t first = from / OR_CACHE_BLOCK, end = (from + length + OR_CACHE_BLOCK - 1) / OR_CACHE_BLOCK;
    bool writes = or_op_writes(io->op);
    if (writes && !OR_CACHE_PLANTED(OR_CACHE_PLANT_NO_EXCLUSION) && overlaps(&v->write_outs, first, end)) {
        or_list_append(&v->blocked, &io->link);
        return;
    }
    struct or_transfer *t = or_transfer_take(v, OR_TRANSFER_DIRECT, copied);
    if (!t) {
        or_cache_starve(v->cache, io);
        return;
    }
    t->upper = io;
    t->first = first;
    t->blocks_count = (uint32_t)(end - first);
    uint8_t *data = io->data ? io->data + io->progress : NULL;
    if (copied) {
        memcpy(t->buffer, data, length);
        data = t->buffer;
    }
    if (writes) {
        detach_fetches(v, first, end);
        or_list_append(&v->directs, &t->sibling);
    }
    or_transfer_start(t, io->op, io->flags, from, length, data);
}

/* A part of a block as the lower volume has it now: written or zeroed. */
static void apply(struct or_cache_volume *v, uint32_t i, const struct or_io *io, uint32_t at, uint32_t bytes,
                  const uint8_t *data)
{
    struct or_cache *cache = v->cache;
    uint32_t whole = or_cache_block_bytes(v, cache->blocks[i].number);
    bool dirty = cache->blocks[i].state == OR_BLOCK_DIRTY;
    if (io->op == OR_OP_WRITE) {
        or_block_put(or_block_memory(cache, i) + at, data, bytes);
        if (dirty && bytes == whole)
            or_dirty_forget(v, i);
        return;
    }
    if (OR_CACHE_PLANTED(OR_CACHE_PLANT_ZEROES_KEEP))
        return;
    if (bytes == whole) {
        if (dirty)
            or_dirty_forget(v, i);
        or_block_drop(cache, i);
    } else if (io->op == OR_OP_WRITE_ZEROES) {
        memset(or_block_memory(cache, i) + at, 0, bytes);
    } else if (!dirty) {
        or_block_drop(cache, i); /* what a discarded part reads as is the lower volume's affair */
    }
}

/* A block that the write has filled as a whole is worth keeping. */
static void keep(struct or_cache_volume *v, uint64_t number, const uint8_t *data, uint32_t bytes)
{
    uint32_t i = or_block_allocate(v, v->content, number, OR_BLOCK_CLEAN);
    if (i == OR_CACHE_NOTHING)
        return;
    memcpy(or_block_memory(v->cache, i), data, bytes);
    memset(or_block_memory(v->cache, i) + bytes, 0, OR_CACHE_BLOCK - bytes);
}

static void agree(struct or_cache_volume *v, const struct or_transfer *t, uint64_t number, bool keeps)
{
    struct or_cache *cache = v->cache;
    const struct or_io *io = &t->io;
    uint64_t start = number * OR_CACHE_BLOCK;
    uint64_t from = io->offset > start ? io->offset : start;
    uint64_t to = start + or_cache_block_bytes(v, number);
    to = or_io_end(io) < to ? or_io_end(io) : to;
    uint32_t bytes = (uint32_t)(to - from);
    const uint8_t *data = io->data ? io->data + (from - io->offset) : NULL;
    uint32_t i = or_block_find(cache, v->content, number);
    if (i == OR_CACHE_NOTHING) {
        if (keeps && bytes == or_cache_block_bytes(v, number))
            keep(v, number, data, bytes);
        return;
    }
    uint8_t state = cache->blocks[i].state;
    assert(state == OR_BLOCK_CLEAN || state == OR_BLOCK_DIRTY || OR_CACHE_PLANTED(OR_CACHE_PLANT_STALE_FILL) ||
           OR_CACHE_PLANTED(OR_CACHE_PLANT_NO_EXCLUSION));
    if (io->status == OR_OK && state != OR_BLOCK_FILLING)
        apply(v, i, io, (uint32_t)(from - start), bytes, data);
    else if (state == OR_BLOCK_CLEAN && !OR_CACHE_PLANTED(OR_CACHE_PLANT_FAILED_KEPT))
        or_block_drop(cache, i); /* nobody knows what the lower volume has */
}

void or_direct_ended(struct or_transfer *t)
{
    struct or_cache_volume *v = t->volume;
    struct or_io *io = t->upper;
    uint8_t status = t->io.status;
    bool writes = or_op_writes(t->io.op);
    v->unflushed |= writes;
    bool keeps = t->io.op == OR_OP_WRITE && status == OR_OK && v->config.mode == OR_CACHE_WRITE_THROUGH &&
                 !or_cache_is_large(v->cache, io->length);
    if (writes && (keeps || v->stats.blocks))
        for (uint32_t n = 0; n < t->blocks_count; n++)
            agree(v, t, t->first + n, keeps);
    or_list_remove(&t->sibling);
    io->progress += t->io.length;
    or_transfer_release(t);
    if (status != OR_OK) {
        or_block_end(io, status);
    } else {
        io->stage &= ~(uint32_t)OR_STAGE_PIECE;
        or_cache_run(io);
    }
    if (writes)
        or_cache_run_list(&v->blocked);
}
