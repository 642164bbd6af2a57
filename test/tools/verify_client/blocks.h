/* What every block of the volume may hold. Each write has an id, rising in the order of submission, and
 * stamps it into every block (test/sim/stamp.h). A read may find the newest write that was acknowledged
 * when the read was submitted, or any newer one; never an older one, never anything else. */
#ifndef VERIFY_BLOCKS_H
#define VERIFY_BLOCKS_H

#include <stdint.h>

struct blocks;

/* All blocks are zero, which is the content of id 0. Ends the process without memory. */
struct blocks *blocks_create(uint32_t count);

/* A write of `count` blocks from `first` on is submitted; fills `data` and returns its id. */
uint32_t blocks_write(struct blocks *b, uint32_t first, uint32_t count, uint8_t *data);
void blocks_acknowledge(struct blocks *b, uint32_t first, uint32_t count, uint32_t id);

/* A read is submitted: notes in floor[count] what it must find at least. */
void blocks_read(const struct blocks *b, uint32_t first, uint32_t count, uint32_t *floor);

struct blocks_mismatch {
    uint32_t block, found, floor, newest; /* found: STAMP_GARBAGE when it is no whole block of ours */
};
/* How many of the blocks that were read hold what they must not; the first of them in *mismatch. */
uint32_t blocks_check(const struct blocks *b, uint32_t first, uint32_t count, const uint32_t *floor,
                      const uint8_t *data, struct blocks_mismatch *mismatch);

#endif
