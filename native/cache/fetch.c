/* Reads of the lower volume.
 *
 * A fetch brings a run of missing blocks with one operation: straight into the block when it is one, by way of a
 * buffer when they are several, for blocks that follow each other on the volume do not in memory. Whoever else
 * wants one of them meanwhile, also on another volume that shares it, waits for the same fetch. When it fails, each
 * who waited reads exactly what it asked for, past the cache: so an error hits only who touches the bad place.
 *
 * Reading ahead. A volume remembers the last few places where reads ended; a read that begins where one of them
 * ended makes that a stream. A stream is kept a window ahead, which doubles up to the configured maximum each time
 * it is used up, and is halved when something read ahead was evicted before it was asked for. */
#include <string.h>

#include "cache/internal.h"

#define WINDOW_MIN 8u /* blocks */

/* The blocks from `number` on, at most `most`, that a fetch may bring. */
static uint32_t missing_run(struct or_cache_volume *v, uint64_t number, uint64_t end, uint32_t most)
{
    uint32_t n = 0;
    while (n < most && number + n < end && or_cache_lookup(v, number + n) == OR_CACHE_NOTHING)
        n++;
    return n;
}

/* Where the volume's block is on the lower volume's contents. */
static void name_of(struct or_cache_volume *v, uint64_t number, uint64_t *content, uint64_t *content_number)
{
    *content = v->content;
    *content_number = number;
    if (v->config.map)
        v->config.map(v->config.map_arg, number, content, content_number);
}

static uint32_t take_blocks(struct or_cache_volume *v, struct or_transfer *t, uint64_t number, uint32_t count)
{
    uint32_t n = 0;
    for (; n < count; n++) {
        uint64_t content, content_number;
        name_of(v, number + n, &content, &content_number);
        /* Two blocks of a volume may have one name. */
        if (or_block_find(v->cache, content, content_number) != OR_CACHE_NOTHING)
            break;
        uint32_t i = or_block_allocate(v, content, content_number, OR_BLOCK_FILLING);
        if (i == OR_CACHE_NOTHING)
            break;
        v->cache->blocks[i].transfer = (uint32_t)(t - v->cache->transfers);
        t->blocks[n] = i;
    }
    return n;
}

/* One transfer; *count: in, blocks that may be fetched; out, that are. */
static enum or_fetch_result fetch_run(struct or_cache_volume *v, uint64_t number, uint32_t *count, bool ahead)
{
    struct or_cache *cache = v->cache;
    if (!OR_CACHE_PLANTED(OR_CACHE_PLANT_STALE_FILL) && or_direct_overlaps(v, number, number + *count))
        return OR_FETCH_BLOCKED;
    struct or_transfer *t = *count > 1 ? or_transfer_take(v, OR_TRANSFER_FETCH, true) : NULL;
    if (!t) {
        *count = 1;
        t = or_transfer_take(v, OR_TRANSFER_FETCH, false);
        if (!t)
            return OR_FETCH_STARVED;
    }
    *count = t->blocks_count = take_blocks(v, t, number, *count);
    if (!*count) {
        or_transfer_release(t);
        return OR_FETCH_NO_MEMORY;
    }
    t->first = number;
    or_list_append(&v->fetches, &t->sibling);
    v->stats.fetches++;
    v->stats.fetched += *count;
    uint32_t bytes = (*count - 1) * OR_CACHE_BLOCK + or_cache_block_bytes(v, number + *count - 1);
    if (ahead) {
        v->stats.ahead += *count;
        for (uint32_t n = 0; n < *count; n++)
            cache->blocks[t->blocks[n]].ahead = true;
    }
    uint8_t *data = t->buffer ? t->buffer : or_block_memory(cache, t->blocks[0]);
    or_transfer_start(t, OR_OP_READ, 0, number * OR_CACHE_BLOCK, bytes, data);
    return OR_FETCH_STARTED;
}

static uint32_t run_max(const struct or_cache *cache)
{
    return cache->buffer_bytes / OR_CACHE_BLOCK;
}

enum or_fetch_result or_fetch(struct or_cache_volume *v, uint64_t number, uint64_t end)
{
    enum or_fetch_result first = OR_FETCH_STARTED;
    for (uint64_t at = number; at < end;) {
        uint32_t count = missing_run(v, at, end, run_max(v->cache));
        if (!count) {
            at++;
            continue;
        }
        enum or_fetch_result result = fetch_run(v, at, &count, false);
        if (at == number)
            first = result;
        if (result != OR_FETCH_STARTED)
            break;
        at += count;
    }
    return first;
}

/* The content is there; what lies beyond the end of the volume is zero. */
static void fill(struct or_cache *cache, const struct or_transfer *t, uint32_t n)
{
    uint8_t *memory = or_block_memory(cache, t->blocks[n]);
    uint32_t bytes = or_cache_block_bytes(t->volume, t->first + n);
    if (t->buffer)
        memcpy(memory, t->buffer + n * OR_CACHE_BLOCK, bytes);
    memset(memory + bytes, 0, OR_CACHE_BLOCK - bytes);
    cache->blocks[t->blocks[n]].state = OR_BLOCK_CLEAN;
}

void or_fetch_ended(struct or_transfer *t)
{
    struct or_cache *cache = t->volume->cache;
    bool failed = t->io.status != OR_OK;
    for (uint32_t n = 0; n < t->blocks_count; n++) {
        uint32_t i = t->blocks[n];
        if (cache->blocks[i].state == OR_BLOCK_DETACHED)
            or_block_free(cache, i);
        else if (failed)
            or_block_drop(cache, i);
        else
            fill(cache, t, n);
    }
    struct or_list waiters;
    or_list_init(&waiters);
    for (struct or_io *io; (io = or_io_pop(&t->waiters)) != NULL;) {
        if (failed)
            io->stage |= OR_STAGE_PIECE;
        or_list_append(&waiters, &io->link);
    }
    or_list_remove(&t->sibling);
    or_transfer_release(t);
    or_cache_run_list(&waiters);
}

/* --- past the cache --------------------------------------------------------------------------------- */

void or_fetch_piece(struct or_cache_volume *v, struct or_io *io)
{
    struct or_transfer *t = or_transfer_take(v, OR_TRANSFER_PIECE, true);
    if (!t) {
        or_cache_starve(v->cache, io);
        return;
    }
    uint64_t from = io->offset + io->progress, first = from / OR_CACHE_BLOCK;
    uint64_t end = (or_io_end(io) + OR_CACHE_BLOCK - 1) / OR_CACHE_BLOCK;
    uint32_t run = missing_run(v, first, end, run_max(v->cache));
    uint64_t to = (first + run) * OR_CACHE_BLOCK;
    to = to < or_io_end(io) ? to : or_io_end(io);
    assert(run > 0);
    t->upper = io;
    t->first = first;
    or_transfer_start(t, OR_OP_READ, 0, from, (uint32_t)(to - from), t->buffer);
}

void or_fetch_piece_ended(struct or_transfer *t)
{
    struct or_io *io = t->upper;
    uint32_t length = t->io.length;
    uint8_t status = t->io.status;
    if (status == OR_OK)
        memcpy(io->data + io->progress, t->buffer, length);
    or_transfer_release(t);
    if (status != OR_OK) {
        or_block_end(io, status);
        return;
    }
    io->progress += length;
    io->stage &= ~(uint32_t)OR_STAGE_PIECE;
    or_cache_run(io);
}

/* --- reading ahead ---------------------------------------------------------------------------------- */

static struct or_cache_stream *stream_of(struct or_cache_volume *v, uint64_t first, uint64_t end)
{
    struct or_cache_stream *oldest = &v->streams[0];
    for (uint32_t s = 0; s < OR_CACHE_STREAMS; s++) {
        struct or_cache_stream *stream = &v->streams[s];
        /* Small reads may meet in one block. */
        if (stream->used && (first == stream->next || first + 1 == stream->next) && end > stream->next)
            return stream;
        if (stream->used && first + 1 == stream->next && end == stream->next)
            return NULL; /* a further part of the stream's last block */
        if (stream->used < oldest->used)
            oldest = stream;
    }
    *oldest = (struct or_cache_stream){.next = end, .ahead = end, .used = v->reads};
    return NULL;
}

static void keep_ahead(struct or_cache_volume *v, struct or_cache_stream *stream)
{
    uint64_t blocks = (v->base.size + OR_CACHE_BLOCK - 1) / OR_CACHE_BLOCK;
    uint64_t end = stream->next + stream->window < blocks ? stream->next + stream->window : blocks;
    while (stream->ahead < end) {
        uint32_t most = end - stream->ahead < run_max(v->cache) ? (uint32_t)(end - stream->ahead) : run_max(v->cache);
        uint32_t count = missing_run(v, stream->ahead, end, most);
        if (!count) {
            stream->ahead++;
            continue;
        }
        if (fetch_run(v, stream->ahead, &count, true) != OR_FETCH_STARTED)
            return;
        stream->ahead += count;
    }
}

void or_fetch_ahead(struct or_cache_volume *v, uint64_t first, uint64_t end)
{
    uint64_t window_max = v->config.read_ahead_max / OR_CACHE_BLOCK;
    uint64_t part = v->cache->limit / 16;
    window_max = window_max < part ? window_max : part;
    v->reads++;
    struct or_cache_stream *stream = window_max && !v->closing && !v->base.held ? stream_of(v, first, end) : NULL;
    if (!stream)
        return;
    stream->next = end;
    stream->used = v->reads;
    if (stream->ahead < end)
        stream->ahead = end;
    if (stream->ahead - end > stream->window / 2)
        return;
    stream->window = stream->window ? stream->window * 2 : WINDOW_MIN;
    stream->window = stream->window < window_max ? stream->window : (uint32_t)window_max;
    keep_ahead(v, stream);
}
