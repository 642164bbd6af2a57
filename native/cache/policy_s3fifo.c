/* S3-FIFO: Yang et al., "FIFO queues are all you need for cache eviction", SOSP 2023; with a small queue that adapts.
 *
 * The small queue takes what is new; what was used there again moves on to the main queue when it reaches the end, the
 * rest leaves and is remembered for a while: who comes back then enters the main queue. A hit only counts in the
 * block; nothing moves.
 *
 * In the paper the small queue has a tenth of the cache. Here that is the least, and it grows and shrinks as ARC has it
 * (or_policy_insert), by which queue's evicted blocks come back: a load that lives from recency needs a long one. */
#include "cache/internal.h"

#define TRIES 128u
#define USES_MAX 3u
#define SMALL_LEAST 10u /* the small queue may always have a tenth */

enum { SMALL = OR_QUEUE_NEW, MAIN = OR_QUEUE_PROVEN };

static void hit(struct or_cache *cache, struct or_cache_pool *pool, uint32_t i)
{
    (void)pool;
    if (cache->blocks[i].uses < USES_MAX)
        cache->blocks[i].uses++;
}

static uint32_t victim(struct or_cache *cache, struct or_cache_pool *pool)
{
    for (uint32_t tries = 0; tries < TRIES; tries++) {
        uint32_t least = pool->blocks / SMALL_LEAST, small = pool->target > least ? pool->target : least;
        uint8_t queue = pool->queues[SMALL].count > small || !pool->queues[MAIN].count ? SMALL : MAIN;
        if (!pool->queues[queue].count)
            break;
        uint32_t i = pool->queues[queue].last;
        struct or_block *b = &cache->blocks[i];
        if (queue == SMALL && b->uses) {
            b->uses = 0;
            or_policy_move(cache, pool, i, MAIN);
        } else if (b->uses) {
            b->uses--;
            or_policy_move(cache, pool, i, MAIN);
        } else if (!or_block_evictable(cache, i)) {
            or_policy_move(cache, pool, i, queue);
        } else {
            or_ghost_add(cache, queue, or_block_hash(cache, b->content, b->number));
            or_policy_remove(cache, i);
            return i;
        }
    }
    return OR_CACHE_NOTHING;
}

const struct or_cache_policy_ops or_cache_s3fifo = {.insert = or_policy_insert, .hit = hit, .victim = victim};
