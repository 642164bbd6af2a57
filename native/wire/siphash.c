#include "siphash.h"

#include <assert.h>
#include <string.h>

static uint64_t rotate(uint64_t x, int bits)
{
    return x << bits | x >> (64 - bits);
}

static void rounds(uint64_t v[4], int count)
{
    while (count--) {
        v[0] += v[1];
        v[2] += v[3];
        v[1] = rotate(v[1], 13) ^ v[0];
        v[3] = rotate(v[3], 16) ^ v[2];
        v[0] = rotate(v[0], 32);
        v[2] += v[1];
        v[0] += v[3];
        v[1] = rotate(v[1], 17) ^ v[2];
        v[3] = rotate(v[3], 21) ^ v[0];
        v[2] = rotate(v[2], 32);
    }
}

static void add_word(struct or_siphash *hash, uint64_t word)
{
    hash->v[3] ^= word;
    rounds(hash->v, 2);
    hash->v[0] ^= word;
}

void or_siphash_begin(struct or_siphash *hash, const uint8_t key[16])
{
    uint64_t k[2];
    memcpy(k, key, sizeof k);
    *hash = (struct or_siphash){.v = {k[0] ^ 0x736f6d6570736575, k[1] ^ 0x646f72616e646f6d ^ 0xee,
                                      k[0] ^ 0x6c7967656e657261, k[1] ^ 0x7465646279746573}};
}

void or_siphash_add(struct or_siphash *hash, const void *data, size_t bytes)
{
    assert(bytes % 8 == 0);
    for (size_t i = 0; i < bytes; i += 8) {
        uint64_t word;
        memcpy(&word, (const uint8_t *)data + i, 8);
        add_word(hash, word);
    }
    hash->length += bytes;
}

void or_siphash_end(struct or_siphash *hash, uint8_t tag[16])
{
    uint64_t half[2];
    add_word(hash, hash->length << 56);
    hash->v[2] ^= 0xee;
    rounds(hash->v, 4);
    half[0] = hash->v[0] ^ hash->v[1] ^ hash->v[2] ^ hash->v[3];
    hash->v[1] ^= 0xdd;
    rounds(hash->v, 4);
    half[1] = hash->v[0] ^ hash->v[1] ^ hash->v[2] ^ hash->v[3];
    memcpy(tag, half, sizeof half);
}
