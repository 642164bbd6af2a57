/* Fixed bitmaps of OR_FRAGMENTS_MAX bits with a count of the bits set: which fragments of a request
 * are to be sent, acknowledged or received. */
#ifndef OR_BITMAP_H
#define OR_BITMAP_H

#include <string.h>

#include "wire/wire.h"

struct or_bitmap {
    uint64_t words[OR_FRAGMENTS_MAX / 64];
    uint32_t count;
};

static inline bool or_bitmap_test(const struct or_bitmap *b, uint32_t i)
{
    return b->words[i / 64] >> i % 64 & 1;
}

/* Returns false when it was set already. */
static inline bool or_bitmap_set(struct or_bitmap *b, uint32_t i)
{
    if (or_bitmap_test(b, i))
        return false;
    b->words[i / 64] |= 1ull << i % 64;
    b->count++;
    return true;
}

static inline void or_bitmap_clear(struct or_bitmap *b, uint32_t i)
{
    if (or_bitmap_test(b, i)) {
        b->words[i / 64] &= ~(1ull << i % 64);
        b->count--;
    }
}

/* Clears all, of a bitmap of which only the first n bits were in use. */
static inline void or_bitmap_reset(struct or_bitmap *b, uint32_t n)
{
    memset(b->words, 0, (n + 63) / 64 * 8);
    b->count = 0;
}

/* Sets exactly the first n bits. */
static inline void or_bitmap_fill(struct or_bitmap *b, uint32_t n)
{
    memset(b->words, 0xff, n / 64 * 8);
    if (n % 64)
        b->words[n / 64] = (1ull << n % 64) - 1;
    b->count = n;
}

/* The lowest bit set; only when count > 0. */
static inline uint32_t or_bitmap_first(const struct or_bitmap *b)
{
    uint32_t w = 0;
    while (!b->words[w])
        w++;
    return w * 64 + (uint32_t)__builtin_ctzll(b->words[w]);
}

#endif
