/* Memory that outlives the process: how it is made, and what is made of it. */
#include "cache/kept.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/memfd.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cache/internal.h"

#define MAGIC UINT64_C(0x6b6370746f757472)
#define VERSION 1u      /* of the header and of struct or_block */
#define DRAIN_DEPTH 32u /* blocks that are written out at the same time */

/* --- made ------------------------------------------------------------------------------------------- */

static int make(const char *name, unsigned flags, uint64_t bytes)
{
    int fd = memfd_create(name, MFD_CLOEXEC | flags);
    if (fd < 0)
        return -errno;
    if (ftruncate(fd, (off_t)bytes) == 0)
        return fd;
    int err = -errno;
    close(fd);
    return err;
}

/* The pool of huge pages, if it can promise `first` bytes now; else ordinary memory. */
static int make_memory(uint64_t first, uint64_t bytes)
{
    int fd = make("outrigger-cache", MFD_HUGETLB | MFD_HUGE_2MB, bytes);
    void *at = fd < 0 ? MAP_FAILED : mmap(NULL, first, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (at != MAP_FAILED) {
        munmap(at, first); /* which keeps the pages promised to the file */
        return fd;
    }
    if (fd >= 0)
        close(fd);
    return make("outrigger-cache", 0, bytes);
}

uint64_t or_kept_index_bytes(const struct or_cache *cache)
{
    return OR_KEPT_HEADER + (uint64_t)cache->limit_max * sizeof *cache->blocks;
}

int or_kept_open(struct or_cache *cache, uint64_t memory_first, uint64_t memory_max)
{
    uint64_t bytes = or_kept_index_bytes(cache);
    cache->kept_fds[0] = make("outrigger-cache-index", 0, bytes);
    cache->kept_fds[1] =
        make_memory(memory_first, (memory_max + OR_CACHE_HUGE_PAGE - 1) / OR_CACHE_HUGE_PAGE * OR_CACHE_HUGE_PAGE);
    for (uint32_t n = 0; n < OR_CACHE_FDS; n++)
        if (cache->kept_fds[n] < 0)
            return cache->kept_fds[n];
    struct stat s;
    cache->kept_huge = fstat(cache->kept_fds[1], &s) == 0 && s.st_blksize >= (blksize_t)OR_CACHE_HUGE_PAGE;
    void *place = or_blocks_reserve(bytes, PROT_NONE); /* aligned, so that it can have huge pages */
    if (!place)
        return -ENOMEM;
    void *at =
        mmap(place, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE | MAP_FIXED, cache->kept_fds[0], 0);
    if (at == MAP_FAILED) {
        or_blocks_unreserve(place, bytes);
        return -ENOMEM;
    }
    cache->header = at;
    cache->blocks = (struct or_block *)((uint8_t *)at + OR_KEPT_HEADER);
    *cache->header = (struct or_kept_header){.magic = MAGIC,
                                             .version = VERSION,
                                             .block_bytes = OR_CACHE_BLOCK,
                                             .descriptor_bytes = sizeof *cache->blocks,
                                             .blocks_max = cache->limit_max};
    return 0;
}

/* In good order nothing is left in the memory, so it is not kept by whoever holds it. */
static void empty(const struct or_cache *cache)
{
    cache->header->end = 0;
    int failed = ftruncate(cache->kept_fds[1], 0);
    assert(!failed);
}

void or_kept_close(struct or_cache *cache)
{
    if (cache->header && !cache->dirty)
        empty(cache);
    or_blocks_unreserve(cache->header, or_kept_index_bytes(cache));
    for (uint32_t n = 0; n < OR_CACHE_FDS; n++)
        if (cache->kept_fds[n] >= 0)
            close(cache->kept_fds[n]);
}

void or_cache_memory(const struct or_cache *cache, int fds[OR_CACHE_FDS])
{
    memcpy(fds, cache->kept_fds, sizeof cache->kept_fds);
}

/* --- found ------------------------------------------------------------------------------------------ */

struct entry {
    uint64_t content, number;
    uint32_t block;
    bool taken, writing; /* by a drain */
};

struct or_cache_heritage {
    int fds[OR_CACHE_FDS];
    uint8_t *index, *memory; /* mapped */
    uint64_t index_bytes, memory_bytes;
    struct or_block *blocks;
    uint32_t end; /* blocks that were ever used */
    struct entry *entries;
    uint32_t count, left;
};

static bool is_dirty(uint8_t state)
{
    return state == OR_BLOCK_DIRTY || (state == OR_BLOCK_WRITING && !OR_CACHE_PLANTED(OR_CACHE_PLANT_WRITING_LEFT)) ||
           (state == OR_BLOCK_REDIRTIED && !OR_CACHE_PLANTED(OR_CACHE_PLANT_REDIRTY_LEFT));
}

static int by_name(const void *a, const void *b)
{
    const struct entry *x = a, *y = b;
    if (x->content != y->content)
        return x->content < y->content ? -1 : 1;
    return x->number < y->number ? -1 : x->number > y->number;
}

static int map_index(struct or_cache_heritage *h)
{
    struct stat s;
    if (fstat(h->fds[0], &s) != 0)
        return -errno;
    if (s.st_size < (off_t)OR_KEPT_HEADER)
        return -EPROTO;
    h->index_bytes = (uint64_t)s.st_size;
    void *at = mmap(NULL, h->index_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, h->fds[0], 0);
    if (at == MAP_FAILED)
        return -errno;
    h->index = at;
    const struct or_kept_header *header = at;
    if (header->magic != MAGIC || header->version != VERSION || header->block_bytes != OR_CACHE_BLOCK ||
        header->descriptor_bytes != sizeof(struct or_block) || header->end > header->blocks_max ||
        h->index_bytes < OR_KEPT_HEADER + (uint64_t)header->end * sizeof(struct or_block))
        return -EPROTO;
    h->end = header->end;
    h->blocks = (struct or_block *)(h->index + OR_KEPT_HEADER);
    return 0;
}

static int map_memory(struct or_cache_heritage *h)
{
    struct stat s;
    if (fstat(h->fds[1], &s) != 0)
        return -errno;
    h->memory_bytes = (uint64_t)s.st_size;
    if (h->memory_bytes / OR_CACHE_BLOCK < h->end)
        return -EPROTO;
    if (!h->memory_bytes)
        return 0;
    void *at = mmap(NULL, h->memory_bytes, PROT_READ, MAP_SHARED | MAP_NORESERVE, h->fds[1], 0);
    if (at == MAP_FAILED)
        return -errno;
    h->memory = at;
    return 0;
}

static int collect(struct or_cache_heritage *h)
{
    for (uint32_t i = 0; i < h->end; i++)
        h->count += is_dirty(h->blocks[i].state);
    h->entries = calloc(h->count ? h->count : 1, sizeof *h->entries);
    if (!h->entries)
        return -ENOMEM;
    for (uint32_t i = 0; i < h->end; i++)
        if (is_dirty(h->blocks[i].state))
            h->entries[h->left++] = (struct entry){h->blocks[i].content, h->blocks[i].number, i, false, false};
    qsort(h->entries, h->count, sizeof *h->entries, by_name);
    return 0;
}

/* Pages without a dirty block hold nothing that anybody wants. */
static void give_back(struct or_cache_heritage *h)
{
    for (uint32_t i = 0, from = 0; i <= h->end; i++) {
        if (i < h->end && !is_dirty(h->blocks[i].state))
            continue;
        if (i > from) /* only to save memory; of huge pages it frees whole ones */
            (void)fallocate(h->fds[1], FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)from * OR_CACHE_BLOCK,
                            (off_t)(i - from) * OR_CACHE_BLOCK);
        from = i + 1;
    }
}

static void free_heritage(struct or_cache_heritage *h)
{
    if (h->index)
        munmap(h->index, h->index_bytes);
    if (h->memory)
        munmap(h->memory, h->memory_bytes);
    free(h->entries);
    free(h);
}

struct or_cache_heritage *or_cache_heritage_open(const int fds[OR_CACHE_FDS], int *err)
{
    struct or_cache_heritage *h = calloc(1, sizeof *h);
    *err = -ENOMEM;
    if (!h)
        return NULL;
    memcpy(h->fds, fds, sizeof h->fds);
    *err = map_index(h);
    if (!*err)
        *err = map_memory(h);
    if (!*err)
        *err = collect(h);
    if (*err) {
        free_heritage(h);
        return NULL;
    }
    give_back(h);
    return h;
}

void or_cache_heritage_close(struct or_cache_heritage *h)
{
    for (uint32_t n = 0; n < OR_CACHE_FDS; n++)
        close(h->fds[n]);
    free_heritage(h);
}

uint64_t or_cache_heritage_bytes(const struct or_cache_heritage *h)
{
    return (uint64_t)h->left * OR_CACHE_BLOCK;
}

void or_cache_heritage_memory(const struct or_cache_heritage *h, int fds[OR_CACHE_FDS])
{
    memcpy(fds, h->fds, sizeof h->fds);
}

/* --- taken ------------------------------------------------------------------------------------------ */

static void let_go(struct or_cache_heritage *h, struct entry *e)
{
    if (e->taken)
        return;
    if (!OR_CACHE_PLANTED(OR_CACHE_PLANT_TAKEN_STAYS))
        or_block_publish(&h->blocks[e->block], OR_BLOCK_CLEAN);
    e->taken = true;
    h->left--;
}

/* Whether the volume wants this block: it may have a newer one itself, or have become smaller. */
static bool wants(const struct or_volume *volume, const struct or_cache_volume_config *config, const struct entry *e)
{
    if (e->number * OR_CACHE_BLOCK >= volume->size)
        return false;
    uint64_t content = config->content, number = e->number;
    if (e->content != config->content && config->map)
        config->map(config->map_arg, e->number, &content, &number);
    return e->content == config->content || content != config->content;
}

/* False: no block is free. */
static bool take(struct or_cache_volume *v, struct or_cache_heritage *h, const struct entry *e)
{
    struct or_cache *cache = v->cache;
    uint32_t i = or_block_find(cache, v->content, e->number);
    if (i != OR_CACHE_NOTHING && cache->blocks[i].state != OR_BLOCK_CLEAN)
        return true; /* taken already, from another memory */
    if (i == OR_CACHE_NOTHING)
        i = or_block_allocate(v, v->content, e->number, OR_BLOCK_CLEAN);
    if (i == OR_CACHE_NOTHING)
        return false;
    or_block_put(or_block_memory(cache, i), h->memory + (uint64_t)e->block * OR_CACHE_BLOCK, OR_CACHE_BLOCK);
    if (!OR_CACHE_PLANTED(OR_CACHE_PLANT_TAKEN_CLEAN))
        or_dirty_mark(v, i);
    return true;
}

static uint32_t first_of(const struct or_cache_heritage *h, uint64_t content)
{
    uint32_t from = 0, to = h->count;
    while (from < to) {
        uint32_t middle = from + (to - from) / 2;
        if (h->entries[middle].content < content)
            from = middle + 1;
        else
            to = middle;
    }
    return from;
}

uint32_t or_cache_heritage_count(const struct or_cache_heritage *h, uint64_t content)
{
    uint32_t count = 0;
    for (uint32_t n = first_of(h, content); n < h->count && h->entries[n].content == content; n++)
        count += !h->entries[n].taken;
    return count;
}

uint64_t or_cache_heritage_give_up(struct or_cache_heritage *h, uint64_t content)
{
    uint32_t before = h->left;
    for (uint32_t n = first_of(h, content); n < h->count && (!content || h->entries[n].content == content); n++)
        if (!h->entries[n].writing)
            let_go(h, &h->entries[n]);
    return (uint64_t)(before - h->left) * OR_CACHE_BLOCK;
}

bool or_cache_inherit(struct or_volume *volume, struct or_cache_heritage *h, uint64_t content)
{
    struct or_cache_volume *v = or_cache_volume_of(volume);
    bool entered = or_cache_enter(v->cache), all = true;
    for (uint32_t n = first_of(h, content); n < h->count && h->entries[n].content == content && all; n++) {
        struct entry *e = &h->entries[n];
        if (e->taken)
            continue;
        if (OR_CACHE_PLANTED(OR_CACHE_PLANT_TAKEN_FIRST))
            or_block_publish(&h->blocks[e->block], OR_BLOCK_CLEAN);
        all = !wants(volume, &v->config, e) || take(v, h, e);
        if (all)
            let_go(h, e);
    }
    or_cache_leave(v->cache, entered);
    return all;
}

/* --- written out ------------------------------------------------------------------------------------ */

struct piece {
    struct or_cache_heritage *heritage;
    struct entry *entry;
};

struct write_out {
    struct or_io io; /* first */
    struct or_cache_drain *drain;
    struct piece piece;
};

struct or_cache_drain {
    struct or_volume *volume;
    struct or_cache_volume_config config;
    struct piece *pieces;
    uint32_t count, next; /* the next to be submitted */
    struct write_out writes[DRAIN_DEPTH];
    struct or_list idle, ended;
    uint32_t under_way;
    uint8_t status; /* not OR_OK: of a write that failed */
};

struct or_cache_drain *or_cache_drain_create(struct or_volume *volume, const struct or_cache_volume_config *config)
{
    struct or_cache_drain *d = calloc(1, sizeof *d);
    if (!d)
        return NULL;
    d->volume = volume;
    d->config = *config;
    or_list_init(&d->idle);
    or_list_init(&d->ended);
    for (uint32_t n = 0; n < DRAIN_DEPTH; n++)
        or_list_append(&d->idle, &d->writes[n].io.link);
    return d;
}

void or_cache_drain_destroy(struct or_cache_drain *d)
{
    free(d->pieces);
    free(d);
}

int or_cache_drain_add(struct or_cache_drain *d, struct or_cache_heritage *h, uint64_t content)
{
    uint32_t from = first_of(h, content), to = from;
    while (to < h->count && h->entries[to].content == content)
        to++;
    if (from == to)
        return 0;
    struct piece *pieces = realloc(d->pieces, (d->count + (to - from)) * sizeof *pieces);
    if (!pieces)
        return -ENOMEM;
    d->pieces = pieces;
    for (struct entry *e = &h->entries[from]; e < &h->entries[to]; e++) {
        if (!wants(d->volume, &d->config, e))
            let_go(h, e);
        else if (!e->taken)
            d->pieces[d->count++] = (struct piece){h, e};
    }
    return 0;
}

static void written(struct or_io *io)
{
    or_list_append(&((struct write_out *)io)->drain->ended, &io->link);
}

static void begin_write(struct or_cache_drain *d, const struct piece *piece)
{
    struct entry *e = piece->entry;
    struct write_out *w = (struct write_out *)or_io_pop(&d->idle);
    uint64_t offset = e->number * OR_CACHE_BLOCK, left = d->volume->size - offset;
    w->drain = d;
    w->piece = *piece;
    w->io = (struct or_io){.op = OR_OP_WRITE,
                           .offset = offset,
                           .length = left < OR_CACHE_BLOCK ? (uint32_t)left : OR_CACHE_BLOCK,
                           .data = piece->heritage->memory + (uint64_t)e->block * OR_CACHE_BLOCK,
                           .done = written};
    or_list_init(&w->io.link);
    d->under_way++;
    e->writing = true;
    if (OR_CACHE_PLANTED(OR_CACHE_PLANT_DRAINED_FIRST))
        let_go(piece->heritage, piece->entry);
    or_volume_submit(d->volume, &w->io);
}

/* Two memories may have the same block, and no two writes of it may be under way. */
static bool is_under_way(const struct or_cache_drain *d, const struct piece *piece)
{
    for (uint32_t n = 0; n < DRAIN_DEPTH; n++)
        if (d->writes[n].piece.entry && d->writes[n].piece.entry->number == piece->entry->number)
            return true;
    return false;
}

static void end_write(struct or_cache_drain *d, struct write_out *w)
{
    if (w->io.status == OR_OK || OR_CACHE_PLANTED(OR_CACHE_PLANT_DRAIN_LOST))
        let_go(w->piece.heritage, w->piece.entry);
    else
        d->status = w->io.status;
    w->piece.entry->writing = false;
    w->piece.entry = NULL;
    or_list_append(&d->idle, &w->io.link);
    d->under_way--;
}

int or_cache_drain_step(struct or_cache_drain *d)
{
    for (struct or_io *io; (io = or_io_pop(&d->ended)) != NULL;)
        end_write(d, (struct write_out *)io);
    while (d->next < d->count && d->status == OR_OK && !or_list_empty(&d->idle) &&
           !is_under_way(d, &d->pieces[d->next])) {
        const struct piece *piece = &d->pieces[d->next++];
        if (!piece->entry->taken) /* given up since */
            begin_write(d, piece);
    }
    if (d->under_way)
        return -EAGAIN;
    return d->status == OR_OK ? 0 : d->status == OR_ENOSPACE ? -ENOSPC : -EIO;
}
