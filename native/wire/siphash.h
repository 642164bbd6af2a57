/* SipHash-2-4 with a tag of 128 bits (Aumasson and Bernstein, 2012): a keyed hash that is quick for a
 * few hundred bytes and needs no set-up. For what strangers may make us check as often as they like. */
#ifndef OR_SIPHASH_H
#define OR_SIPHASH_H

#include <stddef.h>
#include <stdint.h>

struct or_siphash {
    uint64_t v[4];
    uint64_t length;
};

void or_siphash_begin(struct or_siphash *hash, const uint8_t key[16]);
/* bytes: a multiple of 8; data need not be aligned. May be called again for more. */
void or_siphash_add(struct or_siphash *hash, const void *data, size_t bytes);
void or_siphash_end(struct or_siphash *hash, uint8_t tag[16]);

#endif
