/* ARC: Megiddo and Modha, "ARC: a self-tuning, low overhead replacement cache", FAST 2003.
 *
 * Two LRU queues: blocks used once, and blocks used more often. Which of them gives way is decided by `target`,
 * the length that the first may have, and that is learnt: a block that comes back soon after it was evicted from
 * a queue says that this queue should have been longer. So a scan, which is used once, flows through the first
 * queue, while a load that lives from recency makes that queue long.
 *
 * Evicted blocks are remembered by their prints in hashed sets instead of two more LRU lists: 8 bytes per block of
 * the cache instead of some 60, at the price that the oldest of a set goes instead of the oldest of all. */
#include "cache/internal.h"

#define TRIES 64u

enum { ONCE = OR_QUEUE_NEW, OFTEN = OR_QUEUE_PROVEN };

static void hit(struct or_cache *cache, struct or_cache_pool *pool, uint32_t i)
{
    or_policy_move(cache, pool, i, OFTEN);
}

static uint32_t victim(struct or_cache *cache, struct or_cache_pool *pool)
{
    for (uint32_t tries = 0; tries < TRIES && tries < pool->blocks; tries++) {
        uint32_t once = pool->queues[ONCE].count;
        uint8_t queue = once > pool->target || !pool->queues[OFTEN].count ? ONCE : OFTEN;
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

const struct or_cache_policy_ops or_cache_arc = {.insert = or_policy_insert, .hit = hit, .victim = victim};
