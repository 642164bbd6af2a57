/* The memory of the cache and the table of what is in it.
 *
 * Address space for the largest budget is reserved at the start; backed is what the budget in force needs. The
 * table is a hash table with chains that grows and shrinks a bucket at a time (linear hashing: Litwin, "Linear
 * hashing: a new tool for file and table addressing", VLDB 1980): it always has as many buckets as there are
 * blocks, and changing the budget never stops the world to hash anew.
 *
 * Shrinking empties the memory from its end: a block there is evicted as soon as it is clean and not pinned,
 * whatever the policy thinks of it; what is left is given back to the system at the end. */
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/mman.h>
#include <string.h>
#include <sys/mman.h>

#include "cache/internal.h"

#define SHRINK_STEP 512u
#define EVICT_TRIES 4u

static uint64_t round_up(uint64_t value, uint64_t multiple)
{
    return (value + multiple - 1) / multiple * multiple;
}

/* --- lists ------------------------------------------------------------------------------------------ */

void or_blocks_append(struct or_cache *cache, struct or_block_list *list, uint32_t i, enum or_block_links kind)
{
    bool empty = list->count++ == 0;
    cache->blocks[i].links[kind].previous = empty ? OR_CACHE_NOTHING : list->last;
    cache->blocks[i].links[kind].next = OR_CACHE_NOTHING;
    if (empty)
        list->first = i;
    else
        cache->blocks[list->last].links[kind].next = i;
    list->last = i;
}

void or_blocks_prepend(struct or_cache *cache, struct or_block_list *list, uint32_t i, enum or_block_links kind)
{
    bool empty = list->count++ == 0;
    cache->blocks[i].links[kind].previous = OR_CACHE_NOTHING;
    cache->blocks[i].links[kind].next = empty ? OR_CACHE_NOTHING : list->first;
    if (empty)
        list->last = i;
    else
        cache->blocks[list->first].links[kind].previous = i;
    list->first = i;
}

void or_blocks_insert(struct or_cache *cache, struct or_block_list *list, uint32_t i, uint32_t before,
                      enum or_block_links kind)
{
    if (before == OR_CACHE_NOTHING) {
        or_blocks_append(cache, list, i, kind);
        return;
    }
    uint32_t previous = cache->blocks[before].links[kind].previous;
    if (previous == OR_CACHE_NOTHING) {
        or_blocks_prepend(cache, list, i, kind);
        return;
    }
    list->count++;
    cache->blocks[i].links[kind].previous = previous;
    cache->blocks[i].links[kind].next = before;
    cache->blocks[previous].links[kind].next = cache->blocks[before].links[kind].previous = i;
}

void or_blocks_remove(struct or_cache *cache, struct or_block_list *list, uint32_t i, enum or_block_links kind)
{
    uint32_t previous = cache->blocks[i].links[kind].previous, next = cache->blocks[i].links[kind].next;
    assert(list->count > 0);
    list->count--;
    if (previous == OR_CACHE_NOTHING)
        list->first = next;
    else
        cache->blocks[previous].links[kind].next = next;
    if (next == OR_CACHE_NOTHING)
        list->last = previous;
    else
        cache->blocks[next].links[kind].previous = previous;
}

/* --- the table -------------------------------------------------------------------------------------- */

uint64_t or_block_hash(const struct or_cache *cache, uint64_t content, uint64_t number)
{
    uint64_t x = (content ^ cache->seed) * 0x9e3779b97f4a7c15u + number;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27) ^ cache->seed) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

/* The bits that tell `buckets` buckets apart, and perhaps up to twice as many. */
static uint32_t mask_of(uint32_t buckets)
{
    return buckets <= 1 ? 0 : UINT32_MAX >> __builtin_clz(buckets - 1);
}

static uint32_t bucket_of(uint64_t hash, uint32_t buckets)
{
    uint32_t mask = mask_of(buckets);
    uint32_t bucket = (uint32_t)hash & mask;
    return bucket < buckets ? bucket : bucket & mask >> 1;
}

static uint32_t home_of(const struct or_cache *cache, uint32_t i, uint32_t buckets)
{
    return bucket_of(or_block_hash(cache, cache->blocks[i].content, cache->blocks[i].number), buckets);
}

uint32_t or_block_find(const struct or_cache *cache, uint64_t content, uint64_t number)
{
    uint32_t i = cache->buckets[bucket_of(or_block_hash(cache, content, number), cache->limit)];
    while (i != OR_CACHE_NOTHING && (cache->blocks[i].number != number || cache->blocks[i].content != content))
        i = cache->blocks[i].chain;
    return i;
}

const void *or_block_bucket(const struct or_cache *cache, uint64_t content, uint64_t number)
{
    return &cache->buckets[bucket_of(or_block_hash(cache, content, number), cache->limit)];
}

const void *or_block_first(const struct or_cache *cache, uint64_t content, uint64_t number)
{
    uint32_t i = cache->buckets[bucket_of(or_block_hash(cache, content, number), cache->limit)];
    return i == OR_CACHE_NOTHING ? NULL : &cache->blocks[i];
}

static void table_add(struct or_cache *cache, uint32_t i)
{
    uint32_t *bucket = &cache->buckets[home_of(cache, i, cache->limit)];
    cache->blocks[i].chain = *bucket;
    *bucket = i;
}

static void table_remove(struct or_cache *cache, uint32_t i)
{
    uint32_t *at = &cache->buckets[home_of(cache, i, cache->limit)];
    while (*at != i)
        at = &cache->blocks[*at].chain;
    *at = cache->blocks[i].chain;
}

/* One bucket more: it takes its part of the chain of the one that it was split from. */
static void table_split(struct or_cache *cache)
{
    uint32_t new = cache->limit++;
    cache->buckets[new] = OR_CACHE_NOTHING;
    if (new == 0)
        return;
    uint32_t *at = &cache->buckets[new &mask_of(new + 1) >> 1];
    while (*at != OR_CACHE_NOTHING) {
        uint32_t i = *at;
        if (home_of(cache, i, cache->limit) != new) {
            at = &cache->blocks[i].chain;
            continue;
        }
        *at = cache->blocks[i].chain;
        cache->blocks[i].chain = cache->buckets[new];
        cache->buckets[new] = i;
    }
}

/* One bucket less: its chain goes back there. */
static void table_merge(struct or_cache *cache)
{
    uint32_t last = --cache->limit;
    assert(last > 0);
    uint32_t *at = &cache->buckets[last & mask_of(last + 1) >> 1];
    while (*at != OR_CACHE_NOTHING)
        at = &cache->blocks[*at].chain;
    *at = cache->buckets[last];
}

/* --- memory ----------------------------------------------------------------------------------------- */

void *or_blocks_reserve(uint64_t bytes, int protection)
{
    uint64_t before, size = round_up(bytes, OR_CACHE_HUGE_PAGE);
    uint8_t *at = mmap(NULL, size + OR_CACHE_HUGE_PAGE, protection, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (at == MAP_FAILED)
        return NULL;
    before = round_up((uintptr_t)at, OR_CACHE_HUGE_PAGE) - (uintptr_t)at;
    if (before)
        munmap(at, before);
    munmap(at + before + size, OR_CACHE_HUGE_PAGE - before);
    return at + before;
}

void or_blocks_unreserve(void *at, uint64_t bytes)
{
    if (at)
        munmap(at, round_up(bytes, OR_CACHE_HUGE_PAGE));
}

/* Private memory of which so much will be used: whole huge pages of it, so that it takes no more than it needs. */
static void advise(void *at, uint64_t bytes)
{
    if (bytes >= OR_CACHE_HUGE_PAGE)
        (void)madvise(at, bytes / OR_CACHE_HUGE_PAGE * OR_CACHE_HUGE_PAGE, MADV_HUGEPAGE); /* only a speed-up */
}

/* Maps [from, from + bytes) of the memory. */
static bool map(struct or_cache *cache, uint64_t from, uint64_t bytes, bool huge)
{
    int flags = MAP_FIXED | (cache->header ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS);
    if (huge && !cache->header)
        flags |= MAP_HUGETLB | MAP_HUGE_2MB;
    int fd = cache->header ? cache->kept_fds[1] : -1;
    return mmap(cache->memory + from, bytes, PROT_READ | PROT_WRITE, flags, fd, cache->header ? (off_t)from : 0) !=
           MAP_FAILED;
}

/* Backs the memory up to `bytes`: with pages of the hugetlb pool when it can promise them all now, else with
 * ordinary ones, made huge where the kernel can. Kept memory is of one kind. 0 or -ENOMEM. */
static int back(struct or_cache *cache, uint64_t bytes)
{
    bytes = round_up(bytes, OR_CACHE_HUGE_PAGE);
    if (bytes <= cache->mapped)
        return 0;
    uint64_t from = cache->mapped, more = bytes - from;
    bool huge = (!cache->header || cache->kept_huge) && map(cache, from, more, true);
    if (!huge) {
        if (cache->kept_huge || !map(cache, from, more, false))
            return -ENOMEM;
        (void)madvise(cache->memory + from, more, MADV_HUGEPAGE); /* only a speed-up */
    }
    cache->huge_pages = huge && (cache->huge_pages || cache->mapped == 0);
    cache->mapped = bytes;
    return 0;
}

/* Gives back what lies beyond the budget. */
static void unback(struct or_cache *cache)
{
    uint64_t bytes = round_up((uint64_t)cache->limit * OR_CACHE_BLOCK, OR_CACHE_HUGE_PAGE);
    if (bytes >= cache->mapped || !or_huge_cut(&cache->huge, OR_HUGE_BLOCKS, bytes))
        return;
    void *at = mmap(cache->memory + bytes, cache->mapped - bytes, PROT_NONE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
    if (at == MAP_FAILED)
        return; /* it stays, to be used when the budget grows again */
    if (cache->header)
        (void)fallocate(cache->kept_fds[1], FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)bytes,
                        (off_t)(cache->mapped - bytes)); /* never fails for a memfd that is not sealed */
    cache->mapped = bytes;
}

bool or_blocks_shrinks(const struct or_cache *cache)
{
    return cache->limit > cache->target ||
           (uint64_t)cache->limit * OR_CACHE_BLOCK + OR_CACHE_HUGE_PAGE <= cache->mapped;
}

/* Kept memory, but what is from the hugetlb pool. */
static int open_huge(struct or_cache *cache)
{
    uint8_t *const start[OR_HUGE_MEMORIES] = {cache->memory, (uint8_t *)cache->header};
    uint64_t bytes = (uint64_t)cache->limit_max * OR_CACHE_BLOCK;
    return or_huge_open(&cache->huge, start, (uint64_t[]){cache->kept_huge ? 0 : bytes, or_kept_index_bytes(cache)});
}

int or_blocks_open(struct or_cache *cache, uint32_t blocks, uint32_t blocks_max, bool kept)
{
    uint64_t bytes = (uint64_t)blocks_max * OR_CACHE_BLOCK;
    cache->limit_max = blocks_max;
    int err = kept ? or_kept_open(cache, round_up((uint64_t)blocks * OR_CACHE_BLOCK, OR_CACHE_HUGE_PAGE), bytes) : 0;
    if (!kept)
        cache->blocks = or_blocks_reserve((uint64_t)blocks_max * sizeof *cache->blocks, PROT_READ | PROT_WRITE);
    cache->buckets = or_blocks_reserve((uint64_t)blocks_max * sizeof *cache->buckets, PROT_READ | PROT_WRITE);
    cache->memory = or_blocks_reserve(bytes, PROT_NONE);
    if (!err && (!cache->memory || !cache->blocks || !cache->buckets))
        err = -ENOMEM;
    if (!err && kept)
        err = open_huge(cache);
    return err ? err : or_blocks_resize(cache, blocks);
}

void or_blocks_close(struct or_cache *cache)
{
    or_huge_close(&cache->huge);
    or_blocks_unreserve(cache->memory, (uint64_t)cache->limit_max * OR_CACHE_BLOCK);
    if (!cache->header)
        or_blocks_unreserve(cache->blocks, (uint64_t)cache->limit_max * sizeof *cache->blocks);
    or_blocks_unreserve(cache->buckets, (uint64_t)cache->limit_max * sizeof *cache->buckets);
    or_kept_close(cache);
}

int or_blocks_resize(struct or_cache *cache, uint32_t blocks)
{
    blocks = blocks < cache->limit_max ? blocks : cache->limit_max;
    if (back(cache, (uint64_t)blocks * OR_CACHE_BLOCK) != 0)
        return -ENOMEM;
    advise(cache->buckets, (uint64_t)blocks * sizeof *cache->buckets);
    if (!cache->header)
        advise(cache->blocks, (uint64_t)blocks * sizeof *cache->blocks);
    for (uint32_t i = cache->target; i < blocks && i < cache->limit; i++) {
        if (cache->blocks[i].state == OR_BLOCK_RETIRED) {
            cache->blocks[i].state = OR_BLOCK_FREE;
            or_blocks_append(cache, &cache->free, i, OR_LINKS_POLICY);
        }
    }
    while (cache->limit < blocks)
        table_split(cache);
    cache->target = blocks;
    return 0;
}

/* An evictable block is about to go. */
static void forget_planted(struct or_cache *cache, uint32_t i)
{
    if (OR_CACHE_PLANTED(OR_CACHE_PLANT_DIRTY_EVICTED) && cache->blocks[i].state == OR_BLOCK_DIRTY)
        or_dirty_forget(cache->slots[cache->blocks[i].owner], i);
}

/* True when block i, which is at the end, is in nobody's way. */
static bool vacate(struct or_cache *cache, uint32_t i)
{
    if (i >= cache->fresh || cache->blocks[i].state == OR_BLOCK_RETIRED)
        return true;
    if (cache->blocks[i].state == OR_BLOCK_FREE) {
        or_blocks_remove(cache, &cache->free, i, OR_LINKS_POLICY);
        return true;
    }
    if (!or_block_evictable(cache, i))
        return false;
    forget_planted(cache, i);
    or_block_drop(cache, i);
    return true;
}

bool or_blocks_shrink(struct or_cache *cache)
{
    if (cache->limit == cache->target) {
        unback(cache);
        return false;
    }
    for (uint32_t step = 0; step < SHRINK_STEP && cache->limit > cache->target; step++) {
        uint32_t i = cache->limit - 1;
        if (!vacate(cache, i))
            return false;
        cache->blocks[i].state = OR_BLOCK_FREE;
        if (i < cache->fresh)
            cache->fresh = i;
        table_merge(cache);
    }
    return true;
}

/* --- allocation ------------------------------------------------------------------------------------- */

void or_block_free(struct or_cache *cache, uint32_t i)
{
    struct or_block *b = &cache->blocks[i];
    struct or_cache_volume *owner = cache->slots[b->owner];
    assert(!b->pins || OR_CACHE_PLANTED(OR_CACHE_PLANT_PIN_IGNORED));
    if (owner)
        owner->stats.blocks--;
    cache->used--;
    b->owner = 0;
    if (i >= cache->target) {
        b->state = OR_BLOCK_RETIRED;
    } else {
        b->state = OR_BLOCK_FREE;
        or_blocks_append(cache, &cache->free, i, OR_LINKS_POLICY);
    }
}

static void leave_table(struct or_cache *cache, uint32_t i)
{
    struct or_block *b = &cache->blocks[i];
    if (b->ahead && cache->slots[b->owner])
        cache->slots[b->owner]->stats.ahead_wasted++;
    b->ahead = false;
    table_remove(cache, i);
}

void or_block_drop(struct or_cache *cache, uint32_t i)
{
    leave_table(cache, i);
    or_policy_remove(cache, i);
    if (cache->blocks[i].pins)
        cache->blocks[i].state = OR_BLOCK_DOOMED;
    else
        or_block_free(cache, i);
}

void or_block_detach(struct or_cache *cache, uint32_t i)
{
    assert(cache->blocks[i].state == OR_BLOCK_FILLING);
    leave_table(cache, i);
    or_policy_remove(cache, i);
    cache->blocks[i].state = OR_BLOCK_DETACHED;
}

void or_block_unpin(struct or_cache *cache, uint32_t i)
{
    struct or_block *b = &cache->blocks[i];
    assert(b->pins > 0 && cache->pinned > 0);
    if (--b->pins)
        return;
    cache->pinned--;
    if (b->state == OR_BLOCK_DOOMED)
        or_block_free(cache, i);
}

/* Evicts one block of the pool; false: none was found that may go. */
static bool evict(struct or_cache *cache, struct or_cache_pool *pool)
{
    uint32_t i = or_policy_victim(cache, pool);
    if (i == OR_CACHE_NOTHING)
        return false;
    struct or_cache_volume *owner = cache->slots[cache->blocks[i].owner];
    if (owner)
        owner->stats.evictions++;
    forget_planted(cache, i);
    leave_table(cache, i);
    or_block_free(cache, i);
    return true;
}

/* One of the shared blocks; of somebody's quota when none of these may go. */
static bool evict_any(struct or_cache *cache)
{
    if (evict(cache, &cache->shared))
        return true;
    if (!or_policy_barren(&cache->shared))
        return false;
    for (struct or_list *l = cache->volumes.next; l != &cache->volumes; l = l->next)
        if (evict(cache, &OR_CONTAINER(l, struct or_cache_volume, link)->pool))
            return true;
    return false;
}

static uint32_t take_free(struct or_cache *cache)
{
    while (cache->free.count) {
        uint32_t i = cache->free.first;
        or_blocks_remove(cache, &cache->free, i, OR_LINKS_POLICY);
        if (i < cache->target)
            return i;
        cache->blocks[i].state = OR_BLOCK_RETIRED;
    }
    if (cache->fresh >= cache->target)
        return OR_CACHE_NOTHING;
    if (cache->header && cache->header->end <= cache->fresh)
        cache->header->end = cache->fresh + !OR_CACHE_PLANTED(OR_CACHE_PLANT_END_LATE); /* before it is used */
    if ((uint64_t)++cache->fresh * OR_CACHE_BLOCK % OR_CACHE_HUGE_PAGE == 0) {
        or_huge_reach(&cache->huge, OR_HUGE_BLOCKS, (uint64_t)cache->fresh * OR_CACHE_BLOCK);
        or_huge_reach(&cache->huge, OR_HUGE_INDEX, OR_KEPT_HEADER + (uint64_t)cache->fresh * sizeof *cache->blocks);
    }
    return cache->fresh - 1;
}

/* Makes room in a volume's own pool; more than for one block when its quota has become smaller. */
static bool make_room(struct or_cache *cache, struct or_cache_pool *pool)
{
    uint32_t evicted = 0;
    while (pool->blocks >= pool->blocks_max && evicted < EVICT_TRIES && evict(cache, pool))
        evicted++;
    return evicted > 0 || pool->blocks < pool->blocks_max;
}

uint32_t or_block_allocate(struct or_cache_volume *v, uint64_t content, uint64_t number, enum or_block_state state)
{
    struct or_cache *cache = v->cache;
    bool own_pool = v->pool.blocks_max != 0;
    if (own_pool && !make_room(cache, &v->pool))
        return OR_CACHE_NOTHING;
    uint32_t i = take_free(cache);
    for (uint32_t tries = 0; i == OR_CACHE_NOTHING && tries < EVICT_TRIES && evict_any(cache); tries++)
        i = take_free(cache); /* what was evicted may have been above the budget */
    if (i == OR_CACHE_NOTHING)
        return i;
    struct or_block *b = &cache->blocks[i];
    *b = (struct or_block){
        .content = content, .number = number, .owner = v->slot, .state = (uint8_t)state, .own_pool = own_pool};
    v->stats.blocks++;
    cache->used++;
    table_add(cache, i);
    cache->policy->insert(cache, or_pool_of(cache, i), i, or_block_hash(cache, content, number));
    return i;
}
