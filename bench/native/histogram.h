/* A log-linear histogram of latencies, as HdrHistogram has them.
 *
 * Values below 128 have a bucket each; above, every power of two is cut into 64 buckets of equal
 * width. So a percentile is at most 1.6 % above the true one, whatever its magnitude, adding a value
 * costs a few instructions, and nothing is allocated. Values are nanoseconds; those above 2^40 (18
 * minutes) are counted in the last bucket, while `max` stays exact. */
#ifndef BENCH_HISTOGRAM_H
#define BENCH_HISTOGRAM_H

#include <stdint.h>
#include <string.h>

#define HISTOGRAM_SUB_BITS 6u
#define HISTOGRAM_SUB (1u << HISTOGRAM_SUB_BITS)
#define HISTOGRAM_VALUE_BITS 40u
#define HISTOGRAM_BUCKETS ((HISTOGRAM_VALUE_BITS - HISTOGRAM_SUB_BITS + 1) * HISTOGRAM_SUB)

struct histogram {
    uint64_t count;
    uint64_t max;
    uint64_t buckets[HISTOGRAM_BUCKETS];
};

static inline void histogram_reset(struct histogram *h)
{
    memset(h, 0, sizeof *h);
}

/* The bucket of a value: the octave above 2^SUB_BITS in the upper part, the leading bits in the lower. */
static inline uint32_t histogram_index(uint64_t value)
{
    if (value >> HISTOGRAM_VALUE_BITS)
        return HISTOGRAM_BUCKETS - 1;
    if (value < HISTOGRAM_SUB)
        return (uint32_t)value;
    uint32_t shift = 63u - (uint32_t)__builtin_clzll(value) - HISTOGRAM_SUB_BITS;
    return shift * HISTOGRAM_SUB + (uint32_t)(value >> shift);
}

/* The largest value that falls into the bucket. */
static inline uint64_t histogram_highest(uint32_t index)
{
    uint32_t shift = index < 2 * HISTOGRAM_SUB ? 0 : index / HISTOGRAM_SUB - 1;
    uint64_t lead = index - shift * HISTOGRAM_SUB;
    return ((lead + 1) << shift) - 1;
}

static inline void histogram_add(struct histogram *h, uint64_t value)
{
    h->buckets[histogram_index(value)]++;
    h->count++;
    if (value > h->max)
        h->max = value;
}

/* The smallest recorded value (to the bucket's precision) that at least `fraction` of all values do
 * not exceed; 0 when nothing was recorded. */
static inline uint64_t histogram_percentile(const struct histogram *h, double fraction)
{
    uint64_t rank = (uint64_t)(fraction * (double)h->count);
    uint64_t seen = 0;
    for (uint32_t i = 0; i < HISTOGRAM_BUCKETS; i++) {
        seen += h->buckets[i];
        if (h->buckets[i] && (seen > rank || seen == h->count)) {
            uint64_t highest = histogram_highest(i);
            return highest < h->max && i != HISTOGRAM_BUCKETS - 1 ? highest : h->max;
        }
    }
    return 0;
}

#endif
