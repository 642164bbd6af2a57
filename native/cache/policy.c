/* What the policies share: pools, queues, the memory of evicted blocks, learning from it; and the plain LRU. */
#include <string.h>

#include "cache/internal.h"

#define GHOST_WAYS 8u
#define LRU_TRIES 64u
#define ANY_TRIES 64u

struct or_cache_pool *or_pool_of(struct or_cache *cache, uint32_t i)
{
    const struct or_block *b = &cache->blocks[i];
    return b->own_pool ? &cache->slots[b->owner]->pool : &cache->shared;
}

void or_policy_enqueue(struct or_cache *cache, struct or_cache_pool *pool, uint32_t i, uint8_t queue)
{
    cache->blocks[i].queue = queue;
    pool->blocks++;
    or_blocks_prepend(cache, &pool->queues[queue], i, OR_LINKS_POLICY);
}

static void dequeue(struct or_cache *cache, struct or_cache_pool *pool, uint32_t i)
{
    pool->blocks--;
    or_blocks_remove(cache, &pool->queues[cache->blocks[i].queue], i, OR_LINKS_POLICY);
}

void or_policy_move(struct or_cache *cache, struct or_cache_pool *pool, uint32_t i, uint8_t queue)
{
    dequeue(cache, pool, i);
    or_policy_enqueue(cache, pool, i, queue);
}

void or_policy_remove(struct or_cache *cache, uint32_t i)
{
    dequeue(cache, or_pool_of(cache, i), i);
}

void or_policy_use(struct or_cache *cache, uint32_t i)
{
    cache->policy->hit(cache, or_pool_of(cache, i), i);
}

/* One that may go, from either queue, whatever the policy would keep. */
static uint32_t any(struct or_cache *cache, struct or_cache_pool *pool)
{
    for (uint32_t tries = 0; tries < ANY_TRIES && tries < 2 * pool->blocks; tries++) {
        uint8_t queue = tries % OR_POLICY_QUEUES;
        queue = pool->queues[queue].count ? queue : !queue;
        uint32_t i = pool->queues[queue].last;
        if (or_block_evictable(cache, i)) {
            or_ghost_add(cache, queue, or_block_hash(cache, cache->blocks[i].content, cache->blocks[i].number));
            or_policy_remove(cache, i);
            return i;
        }
        or_policy_move(cache, pool, i, queue);
    }
    return OR_CACHE_NOTHING;
}

uint32_t or_policy_victim(struct or_cache *cache, struct or_cache_pool *pool)
{
    uint32_t i = pool->blocks && !pool->barren ? cache->policy->victim(cache, pool) : OR_CACHE_NOTHING;
    i = i == OR_CACHE_NOTHING ? any(cache, pool) : i;
    if (i != OR_CACHE_NOTHING)
        pool->barren = 0;
    else if (!or_policy_barren(pool))
        pool->barren += ANY_TRIES;
    return i;
}

bool or_policy_barren(const struct or_cache_pool *pool)
{
    return pool->barren >= 2 * pool->blocks; /* one queue may have nearly all, and half of the tries */
}

/* --- ghosts ----------------------------------------------------------------------------------------- */

static uint32_t *ghost_set(const struct or_cache_ghosts *g, uint64_t hash)
{
    return g->prints + GHOST_WAYS * (uint64_t)(uint32_t)(((hash >> 32) * g->sets) >> 32);
}

/* Never 0, which is an empty place. */
static uint32_t print_of(uint64_t hash)
{
    return (uint32_t)hash | 1u;
}

void or_ghost_add(struct or_cache *cache, uint8_t list, uint64_t hash)
{
    struct or_cache_ghosts *g = &cache->ghosts[list];
    uint32_t *set = ghost_set(g, hash);
    g->count += set[GHOST_WAYS - 1] == 0;
    memmove(set + 1, set, (GHOST_WAYS - 1) * sizeof *set);
    set[0] = print_of(hash);
}

bool or_ghost_take(struct or_cache *cache, uint8_t list, uint64_t hash)
{
    struct or_cache_ghosts *g = &cache->ghosts[list];
    uint32_t *set = ghost_set(g, hash);
    for (uint32_t way = 0; way < GHOST_WAYS; way++) {
        if (set[way] != print_of(hash))
            continue;
        memmove(set + way, set + way + 1, (GHOST_WAYS - 1 - way) * sizeof *set);
        set[GHOST_WAYS - 1] = 0;
        g->count--;
        return true;
    }
    return false;
}

/* --- policies that learn ---------------------------------------------------------------------------- */

/* A block that comes back soon after it left a queue says that this queue should have been longer. */
static void adapt(struct or_cache *cache, struct or_cache_pool *pool, uint8_t queue)
{
    uint32_t mine = cache->ghosts[queue].count + 1, other = cache->ghosts[!queue].count;
    uint32_t step = other > mine ? other / mine : 1;
    if (queue == OR_QUEUE_NEW)
        pool->target = pool->target + step < pool->blocks ? pool->target + step : pool->blocks;
    else
        pool->target = pool->target > step ? pool->target - step : 0;
}

void or_policy_insert(struct or_cache *cache, struct or_cache_pool *pool, uint32_t i, uint64_t hash)
{
    uint8_t to = OR_QUEUE_NEW;
    for (uint8_t left = OR_QUEUE_NEW; left < OR_POLICY_QUEUES && to == OR_QUEUE_NEW; left++) {
        if (or_ghost_take(cache, left, hash)) {
            adapt(cache, pool, left);
            to = OR_QUEUE_PROVEN;
        }
    }
    or_policy_enqueue(cache, pool, i, to);
}

/* --- LRU -------------------------------------------------------------------------------------------- */

static void lru_insert(struct or_cache *cache, struct or_cache_pool *pool, uint32_t i, uint64_t hash)
{
    (void)hash;
    or_policy_enqueue(cache, pool, i, 0);
}

static void lru_hit(struct or_cache *cache, struct or_cache_pool *pool, uint32_t i)
{
    or_policy_move(cache, pool, i, 0);
}

/* What may not go now is passed by, and counts as used: else the same dirty blocks would be looked at each time. */
static uint32_t lru_victim(struct or_cache *cache, struct or_cache_pool *pool)
{
    for (uint32_t tries = 0; tries < LRU_TRIES && tries < pool->blocks; tries++) {
        uint32_t i = pool->queues[0].last;
        if (or_block_evictable(cache, i)) {
            dequeue(cache, pool, i);
            return i;
        }
        or_policy_move(cache, pool, i, 0);
    }
    return OR_CACHE_NOTHING;
}

const struct or_cache_policy_ops or_cache_lru = {.insert = lru_insert, .hit = lru_hit, .victim = lru_victim};
