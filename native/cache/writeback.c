/* Dirty blocks: how they get to the lower volume, and how flushes keep their promise.
 *
 * A volume's dirty blocks are listed in the order of becoming dirty and numbered in that order; one that changes
 * while it is written out becomes dirty anew, at the end. A flush notes the number that comes next. When no block
 * below it is dirty or being written out, the lower volume is flushed, and when that has ended the flush ends. A
 * write with OR_REQ_FUA is a write and a flush.
 *
 * Writing out takes the oldest block and its dirty neighbours on the volume, on both sides, and copies them into a
 * buffer, so that guests may go on writing to them. Nothing orders write-outs among each other: between two flushes
 * a disk may lose what it likes.
 *
 * An error never loses data that is still in memory: the blocks stay dirty and are tried again, later and later.
 * It is told at once (or_volume.failed), and every flush that needed them fails; when there is none, the next. */
#include <errno.h>
#include <string.h>

#include "cache/internal.h"

#define MS ((uint64_t)1000000)
#define RETRY_MIN_NS (100 * MS)
#define RETRY_MAX_NS (5000 * MS)
#define LEFT_TIMES 3u     /* take_to_write_out */
#define CLOSE_FAILURES 3u /* then a volume that is closed gives up */

static bool is_dirty(const struct or_cache *cache, uint32_t i)
{
    return cache->blocks[i].state == OR_BLOCK_DIRTY;
}

bool or_dirty_room(const struct or_cache_volume *v)
{
    return v->dirty_blocks < v->dirty_blocks_max && v->cache->dirty < v->cache->limit / 2;
}

void or_writeback_activate(struct or_cache_volume *v)
{
    if (or_list_empty(&v->active))
        or_list_append(&v->cache->active, &v->active);
}

static void count_dirty(struct or_cache_volume *v, int32_t change)
{
    v->dirty_blocks += (uint32_t)change;
    v->cache->dirty += (uint32_t)change;
    or_writeback_activate(v);
}

void or_dirty_mark(struct or_cache_volume *v, uint32_t i)
{
    struct or_block *b = &v->cache->blocks[i];
    if (b->state == OR_BLOCK_DIRTY || b->state == OR_BLOCK_REDIRTIED)
        return;
    assert(b->state == OR_BLOCK_CLEAN || b->state == OR_BLOCK_WRITING);
    if (b->state == OR_BLOCK_CLEAN)
        count_dirty(v, 1);
    or_block_publish(b, b->state == OR_BLOCK_CLEAN ? OR_BLOCK_DIRTY : OR_BLOCK_REDIRTIED);
    b->sequence = v->sequence++;
    b->dirtied_ns = v->cache->now_ns;
    or_blocks_append(v->cache, &v->dirty, i, OR_LINKS_DIRTY);
}

void or_dirty_forget(struct or_cache_volume *v, uint32_t i)
{
    assert(is_dirty(v->cache, i));
    or_blocks_remove(v->cache, &v->dirty, i, OR_LINKS_DIRTY);
    or_block_publish(&v->cache->blocks[i], OR_BLOCK_CLEAN);
    count_dirty(v, -1);
}

/* --- writing out ------------------------------------------------------------------------------------ */

static bool may_write_out(struct or_cache_volume *v, uint64_t number)
{
    uint32_t i = or_block_find(v->cache, v->content, number);
    return i != OR_CACHE_NOTHING && is_dirty(v->cache, i) &&
           (OR_CACHE_PLANTED(OR_CACHE_PLANT_NO_EXCLUSION) || !or_direct_overlaps(v, number, number + 1));
}

static void take_out(struct or_cache_volume *v, struct or_transfer *t, uint32_t n)
{
    struct or_cache *cache = v->cache;
    uint32_t i = or_block_find(cache, v->content, t->first + n);
    struct or_block *b = &cache->blocks[i];
    memcpy(t->buffer + n * OR_CACHE_BLOCK, or_block_memory(cache, i), OR_CACHE_BLOCK);
    or_blocks_remove(cache, &v->dirty, i, OR_LINKS_DIRTY);
    or_block_publish(b, OR_BLOCK_WRITING);
    if (n == 0 || (int32_t)(b->sequence - t->sequence) < 0)
        t->sequence = b->sequence;
    t->blocks[n] = i;
}

/* Half of the buffers may write out, and of these a volume has at most three times as many as it leaves to the others:
 * its storage may hang. When there is none for it, it has its own. */
static struct or_transfer *take_to_write_out(struct or_cache_volume *v)
{
    struct or_cache *cache = v->cache;
    uint32_t left = cache->buffers_count / 2 - cache->writing_out;
    bool may = v->writing_out < LEFT_TIMES * left;
    struct or_transfer *t = may ? or_transfer_take(v, OR_TRANSFER_WRITE_OUT, true) : NULL;
    if (t) {
        v->writing_out++;
        cache->writing_out++;
    } else if (or_list_empty(&v->write_outs)) {
        t = or_transfer_take_own(v, OR_TRANSFER_WRITE_OUT);
    }
    return t;
}

/* Writes out the run of dirty blocks around `number`; false without a buffer. */
static bool write_out(struct or_cache_volume *v, uint64_t number)
{
    struct or_cache *cache = v->cache;
    struct or_transfer *t = take_to_write_out(v);
    if (!t)
        return false;
    uint32_t most = t == &v->own ? 1 : cache->buffer_bytes / OR_CACHE_BLOCK, count = 1;
    while (count < most && number > 0 && may_write_out(v, number - 1)) {
        number--;
        count++;
    }
    while (count < most && may_write_out(v, number + count))
        count++;
    t->first = number;
    t->blocks_count = count;
    for (uint32_t n = 0; n < count; n++)
        take_out(v, t, n);
    v->stats.write_outs++;
    or_list_append(&v->write_outs, &t->sibling);
    uint32_t bytes = (count - 1) * OR_CACHE_BLOCK + or_cache_block_bytes(v, number + count - 1);
    or_transfer_start(t, OR_OP_WRITE, 0, number * OR_CACHE_BLOCK, bytes, t->buffer);
    return true;
}

/* The block is on the lower volume, as it was; or it is not. */
static void came_out(struct or_cache_volume *v, uint32_t i, bool ok)
{
    struct or_cache *cache = v->cache;
    struct or_block *b = &cache->blocks[i];
    if (b->state == OR_BLOCK_REDIRTIED) {
        or_block_publish(b, OR_BLOCK_DIRTY); /* on the list already */
        if (ok && OR_CACHE_PLANTED(OR_CACHE_PLANT_LOST_REDIRTY))
            or_dirty_forget(v, i);
        return;
    }
    assert(b->state == OR_BLOCK_WRITING);
    if (ok) {
        or_block_publish(b, OR_BLOCK_CLEAN);
        count_dirty(v, -1);
    } else {
        or_block_publish(b, OR_BLOCK_DIRTY);
        uint32_t before = v->dirty.count ? v->dirty.first : OR_CACHE_NOTHING;
        while (before != OR_CACHE_NOTHING && (int32_t)(cache->blocks[before].sequence - b->sequence) < 0)
            before = cache->blocks[before].links[OR_LINKS_DIRTY].next;
        or_blocks_insert(cache, &v->dirty, i, before, OR_LINKS_DIRTY);
    }
}

/* Fails the flushes that needed what has sequence numbers from `sequence` on; all wait behind the oldest. */
static bool fail_flushes(struct or_cache_volume *v, uint32_t sequence, uint8_t status)
{
    struct or_list failed;
    or_list_init(&failed);
    for (struct or_list *l = v->flushes.next, *next; l != &v->flushes; l = next) {
        next = l->next;
        struct or_io *io = OR_CONTAINER(l, struct or_io, link);
        if ((int32_t)(io->progress - sequence) <= 0)
            continue;
        or_list_remove(l);
        or_list_append(&failed, l);
    }
    bool any = !or_list_empty(&failed);
    for (struct or_io *io; (io = or_io_pop(&failed)) != NULL;)
        or_block_end(io, status);
    return any;
}

/* What fails before the next try is due belongs to the last one. */
static void count_failure(struct or_cache_volume *v)
{
    if (v->cache->now_ns < v->retry_ns)
        return;
    uint64_t wait = RETRY_MIN_NS << (v->failures < 6 ? v->failures : 6);
    v->retry_ns = v->cache->now_ns + (wait < RETRY_MAX_NS ? wait : RETRY_MAX_NS);
    v->failures += v->failures < UINT8_MAX;
}

static void write_out_failed(struct or_cache_volume *v, const struct or_transfer *t)
{
    v->stats.write_errors++;
    count_failure(v);
    if (!t->told && v->base.failed)
        v->base.failed(&v->base, &t->io, -EIO);
}

static void forget_failures(struct or_cache_volume *v)
{
    v->failures = 0;
    v->retry_ns = 0;
}

void or_write_out_ended(struct or_transfer *t)
{
    struct or_cache_volume *v = t->volume;
    uint8_t status = t->io.status;
    uint32_t sequence = t->sequence;
    bool ok = status == OR_OK;
    v->unflushed = true;
    for (uint32_t n = 0; n < t->blocks_count; n++)
        came_out(v, t->blocks[n], ok || OR_CACHE_PLANTED(OR_CACHE_PLANT_ERROR_LOST));
    if (ok) {
        forget_failures(v);
        v->stats.written_out += t->blocks_count;
    } else {
        write_out_failed(v, t);
    }
    v->writing_out -= t != &v->own;
    v->cache->writing_out -= t != &v->own;
    or_list_remove(&t->sibling);
    or_transfer_release(t);
    if (!ok && !OR_CACHE_PLANTED(OR_CACHE_PLANT_ERROR_SILENT) && !fail_flushes(v, sequence, status))
        v->error = status;
    or_cache_run_list(&v->blocked);
}

/* --- flushes ---------------------------------------------------------------------------------------- */

void or_flush(struct or_cache_volume *v, struct or_io *io)
{
    if (v->error) {
        uint8_t status = v->error;
        v->error = OR_OK;
        or_block_end(io, status);
        return;
    }
    if (OR_CACHE_PLANTED(OR_CACHE_PLANT_FLUSH_OWN) && !v->unflushed && !v->dirty_blocks) {
        or_block_end(io, OR_OK);
        return;
    }
    io->progress = v->sequence;
    or_list_append(&v->flushes, &io->link);
    or_writeback_activate(v);
    or_writeback_pump(v);
}

/* Nothing that became dirty before `sequence` is still on its way. */
static bool written_before(const struct or_cache_volume *v, uint32_t sequence)
{
    if (v->dirty.count && (int32_t)(v->cache->blocks[v->dirty.first].sequence - sequence) < 0)
        return false;
    if (OR_CACHE_PLANTED(OR_CACHE_PLANT_HASTY_FLUSH))
        return true;
    for (const struct or_list *l = v->write_outs.next; l != &v->write_outs; l = l->next)
        if ((int32_t)(OR_CONTAINER(l, struct or_transfer, sibling)->sequence - sequence) < 0)
            return false;
    return true;
}

static struct or_transfer *take_to_flush(struct or_cache_volume *v)
{
    struct or_transfer *t = or_transfer_take(v, OR_TRANSFER_FLUSH, false);
    return t ? t : or_transfer_take_own(v, OR_TRANSFER_FLUSH);
}

/* Gives the lower volume one flush for all that need nothing else. */
static void flush_lower(struct or_cache_volume *v)
{
    if (or_list_empty(&v->flushes) || !written_before(v, OR_CONTAINER(v->flushes.next, struct or_io, link)->progress))
        return;
    struct or_transfer *t = take_to_flush(v);
    if (!t)
        return;
    do {
        struct or_io *io = or_io_pop(&v->flushes);
        or_list_append(&t->waiters, &io->link);
    } while (!or_list_empty(&v->flushes) &&
             written_before(v, OR_CONTAINER(v->flushes.next, struct or_io, link)->progress));
    v->unflushed = false;
    v->lower->flush_failed |= v->base.flush_failed;
    or_transfer_start(t, OR_OP_FLUSH, 0, 0, 0, NULL);
}

void or_flush_ended(struct or_transfer *t)
{
    struct or_cache_volume *v = t->volume;
    uint8_t status = t->io.status;
    v->base.flush_failed |= v->lower->flush_failed;
    struct or_list waiters;
    or_list_init(&waiters);
    for (struct or_io *io; (io = or_io_pop(&t->waiters)) != NULL;)
        or_list_append(&waiters, &io->link);
    or_transfer_release(t);
    for (struct or_io *io; (io = or_io_pop(&waiters)) != NULL;)
        or_block_end(io, status);
}

/* --- what is due ------------------------------------------------------------------------------------ */

/* The oldest dirty block is to be written out now. */
static bool wants_out(const struct or_cache_volume *v)
{
    const struct or_block *oldest = &v->cache->blocks[v->dirty.first];
    if (!or_list_empty(&v->flushes))
        return (int32_t)(oldest->sequence - OR_CONTAINER(v->flushes.prev, struct or_io, link)->progress) < 0;
    if (v->cache->now_ns < v->retry_ns)
        return false;
    return v->closing || v->config.mode != OR_CACHE_WRITE_BACK || v->cache->limit > v->cache->target ||
           v->dirty.count > v->dirty_blocks_max / 2 || v->cache->dirty > v->cache->limit / 4 ||
           oldest->dirtied_ns + v->config.dirty_age_ns <= v->cache->now_ns;
}

/* The first on the list that no direct write is in the way of. */
static uint32_t first_free(struct or_cache_volume *v)
{
    uint32_t i = v->dirty.first;
    while (i != OR_CACHE_NOTHING && (!is_dirty(v->cache, i) || !may_write_out(v, v->cache->blocks[i].number)))
        i = v->cache->blocks[i].links[OR_LINKS_DIRTY].next;
    return i;
}

/* Forgets what could not be written out; returns how much. */
static uint64_t lose(struct or_cache_volume *v)
{
    uint64_t lost = (uint64_t)v->dirty_blocks * OR_CACHE_BLOCK;
    while (v->dirty.count) {
        uint32_t i = v->dirty.first;
        or_dirty_forget(v, i);
        or_block_drop(v->cache, i);
    }
    return lost;
}

/* The volume goes on as if or_cache_detach had not been called. */
static void stay(struct or_cache_volume *v)
{
    void (*detached)(void *, struct or_volume *, uint8_t) = v->detached;
    v->detached = NULL;
    v->closing = false;
    detached(v->detached_arg, NULL, OR_OK);
}

static void leave_lower(struct or_cache_volume *v, uint64_t lost)
{
    struct or_volume *lower = v->lower;
    v->closed = true;
    v->lower = NULL;
    or_list_remove(&v->active);
    or_cache_sweep(v);
    lower->owner = NULL;
    lower->failed = NULL;
    if (v->detached) {
        lower->flush_failed |= v->base.flush_failed;
        v->detached(v->detached_arg, lower, v->error);
        return;
    }
    lower->ops->close(lower);
    if (v->config.closed)
        v->config.closed(v->config.closed_arg, lost);
}

/* Closing: all is written out that can be. */
static void close_lower(struct or_cache_volume *v)
{
    bool gives_up = v->failures >= CLOSE_FAILURES;
    if (v->transfers || (v->dirty_blocks && !gives_up) || !or_list_empty(&v->flushes))
        return;
    if (v->unflushed) {
        struct or_transfer *t = take_to_flush(v);
        if (t) {
            v->unflushed = false;
            or_transfer_start(t, OR_OP_FLUSH, 0, 0, 0, NULL);
        }
    } else if (v->detached && v->dirty_blocks) {
        stay(v);
    } else {
        leave_lower(v, lose(v));
    }
}

void or_writeback_close(struct or_cache_volume *v)
{
    v->closing = true;
    forget_failures(v); /* the storage may have been mended since */
    or_writeback_activate(v);
}

bool or_writeback_pump(struct or_cache_volume *v)
{
    bool began = false;
    flush_lower(v); /* first: write-outs would take the volume's own transfer again and again */
    while (v->dirty.count && wants_out(v)) {
        uint32_t i = first_free(v);
        if (i == OR_CACHE_NOTHING || !write_out(v, v->cache->blocks[i].number))
            break;
        began = true;
    }
    if (v->closing && !v->closed)
        close_lower(v);
    return began;
}

uint64_t or_writeback_due(const struct or_cache_volume *v)
{
    if (v->closed || !v->dirty.count)
        return UINT64_MAX;
    uint64_t due = v->closing ? 0 : v->cache->blocks[v->dirty.first].dirtied_ns + v->config.dirty_age_ns;
    return due > v->retry_ns ? due : v->retry_ns;
}
