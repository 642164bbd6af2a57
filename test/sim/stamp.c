/* Word 0 of a block is its number and the request's; word i is a linear function of word 0 and i, so
 * that a whole block is made or checked with one addition per word. */
#include "stamp.h"

#include <string.h>

#define FACTOR 0x9e3779b97f4a7c15u
#define STEP 0xd1342543de82ef95u

static uint64_t first_word(uint32_t id, uint32_t block)
{
    return (uint64_t)block << 32 | id;
}

/* Most calls cover whole words, and take the inner loop; the rest is for a block's first word and for
 * fragments that begin or end within a word. */
void stamp_fill(uint8_t *dst, uint32_t offset, uint32_t length, uint32_t id, uint32_t first, uint32_t block_size,
                uint64_t variant)
{
    uint32_t end = offset + length;
    while (offset < end) {
        uint64_t word0 = first_word(id, first + offset / block_size);
        uint64_t base = word0 * FACTOR + variant;
        uint32_t block_end = (offset / block_size + 1) * block_size;
        uint32_t stop = block_end < end ? block_end : end;
        while (offset < stop) {
            if (offset % 8 == 0 && offset % block_size != 0 && stop - offset >= 8) {
                uint32_t words = (stop - offset) / 8;
                uint64_t word = base + offset % block_size / 8 * STEP;
                for (uint32_t i = 0; i < words; i++, word += STEP)
                    memcpy(dst + 8 * (size_t)i, &word, 8);
                dst += 8 * (size_t)words;
                offset += 8 * words;
                continue;
            }
            uint32_t index = offset % block_size / 8, skip = offset % 8;
            uint64_t word = index == 0 ? word0 : base + index * STEP;
            uint32_t part = 8 - skip < stop - offset ? 8 - skip : stop - offset;
            memcpy(dst, (uint8_t *)&word + skip, part);
            dst += part;
            offset += part;
        }
    }
}

uint32_t stamp_read(const uint8_t *bytes, uint32_t block, uint32_t block_size, bool torn)
{
    uint64_t word0;
    memcpy(&word0, bytes, 8);
    uint32_t id = (uint32_t)word0;
    if (word0 == 0)
        return memcmp(bytes, bytes + 8, block_size - 8) == 0 ? 0 : STAMP_GARBAGE;
    if (word0 >> 32 != block || id == 0)
        return STAMP_GARBAGE;
    if (torn)
        return id;
    uint64_t wrong = 0, expected = word0 * FACTOR;
    for (uint32_t i = 1; i < block_size / 8; i++) {
        uint64_t word;
        memcpy(&word, bytes + 8 * (uint64_t)i, 8);
        expected += STEP;
        wrong |= word ^ expected;
    }
    return wrong == 0 ? id : STAMP_GARBAGE;
}
