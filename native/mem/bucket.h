/* Token buckets: how many operations and bytes per second may pass, with bursts.
 *
 * A bucket fills at its rate up to its burst. Whatever is next may go while there is anything in it, and may
 * leave it in debt: so nothing is too large ever to go, and over a time T at most rate * T + burst + one
 * operation pass. What may not go waits where it is: nothing is queued or dropped here.
 *
 * The content is kept as a time: when the bucket will be full again. One belongs to one thread. */
#ifndef OR_BUCKET_H
#define OR_BUCKET_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#define OR_BUCKET_SECOND 1000000000ull
/* More is as good as no limit; and a time, a burst (36 years) and a debt add up in 64 bits. */
#define OR_BUCKET_RATE_MAX (1ull << 60)
#define OR_BUCKET_BURST_NS_MAX (1ull << 60)

/* What may pass. A rate of 0: no limit of that kind; a burst of 0: a tenth of a second's worth. */
struct or_limit {
    uint64_t bytes_per_s, bytes_burst, ops_per_s, ops_burst;
};

/* Of one kind, bytes or operations. */
struct or_bucket_side {
    uint64_t rate;      /* per second; 0: no limit */
    uint64_t burst_ns;  /* the burst, as the time in which it fills */
    uint64_t full;      /* when it is full again; in the past: it is */
    uint64_t remainder; /* of the last division, so that nothing gets lost */
};

/* Zeroes: no limit. */
struct or_bucket {
    struct or_limit limit;
    struct or_bucket_side bytes, ops;
};

static inline void or_bucket_side_set(struct or_bucket_side *side, uint64_t rate, uint64_t burst)
{
    rate = rate < OR_BUCKET_RATE_MAX ? rate : OR_BUCKET_RATE_MAX;
    memset(side, 0, sizeof(*side)); /* the header is for C++ too */
    side->rate = rate;
    side->burst_ns = OR_BUCKET_SECOND / 10;
    if (rate == 0 || burst == 0)
        return;
    unsigned __int128 ns = (unsigned __int128)burst * OR_BUCKET_SECOND / rate;
    side->burst_ns = ns > OR_BUCKET_BURST_NS_MAX ? OR_BUCKET_BURST_NS_MAX : ns > 0 ? (uint64_t)ns : 1;
}

/* When something may go: not after now, if at once. */
static inline uint64_t or_bucket_side_when(const struct or_bucket_side *side)
{
    return side->rate == 0 || side->full < side->burst_ns ? 0 : side->full - side->burst_ns + 1;
}

static inline void or_bucket_side_charge(struct or_bucket_side *side, uint64_t now, uint32_t amount)
{
    if (side->rate == 0)
        return;
    uint64_t cost = amount * OR_BUCKET_SECOND + side->remainder;
    uint64_t ns = cost / side->rate;
    if (side->full < now)
        side->full = now;
    side->full += ns < OR_BUCKET_BURST_NS_MAX ? ns : OR_BUCKET_BURST_NS_MAX;
    side->remainder = cost % side->rate;
}

/* Begins with a full bucket, unless the limit is the one that it has. */
static inline void or_bucket_set(struct or_bucket *bucket, const struct or_limit *limit)
{
    if (memcmp(&bucket->limit, limit, sizeof(*limit)) == 0)
        return;
    bucket->limit = *limit;
    or_bucket_side_set(&bucket->bytes, limit->bytes_per_s, limit->bytes_burst);
    or_bucket_side_set(&bucket->ops, limit->ops_per_s, limit->ops_burst);
}

static inline bool or_bucket_limits(const struct or_bucket *bucket)
{
    return bucket->bytes.rate != 0 || bucket->ops.rate != 0;
}

/* 0: the next operation may go at `now`; else the time (ns, of the same clock) when it may. */
static inline uint64_t or_bucket_when(const struct or_bucket *bucket, uint64_t now)
{
    uint64_t bytes = or_bucket_side_when(&bucket->bytes), ops = or_bucket_side_when(&bucket->ops);
    uint64_t when = bytes > ops ? bytes : ops;
    return when > now ? when : 0;
}

/* Some has gone. */
static inline void or_bucket_charge(struct or_bucket *bucket, uint64_t now, uint32_t ops, uint32_t bytes)
{
    or_bucket_side_charge(&bucket->bytes, now, bytes);
    or_bucket_side_charge(&bucket->ops, now, ops);
}

/* Both in one: 0, and it is charged; or when it may go. */
static inline uint64_t or_bucket_take(struct or_bucket *bucket, uint64_t now, uint32_t ops, uint32_t bytes)
{
    uint64_t when = or_bucket_when(bucket, now);
    if (when == 0)
        or_bucket_charge(bucket, now, ops, bytes);
    return when;
}

#endif
