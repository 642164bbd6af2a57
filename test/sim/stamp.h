/* The content of blocks. Every block that a request writes names the request and the block, in every
 * 8-byte word, so that whoever reads it knows which write made it, whether it lies where it belongs,
 * and whether it is whole. Zeroes are the content of request 0. */
#ifndef SIM_STAMP_H
#define SIM_STAMP_H

#include <stdbool.h>
#include <stdint.h>

#define STAMP_GARBAGE UINT32_MAX

/* Writes bytes [offset, offset + length) of what request `id` writes from block `first` on. `variant`
 * changes all words but a block's first: the guest rewrote the buffer. */
void stamp_fill(uint8_t *dst, uint32_t offset, uint32_t length, uint32_t id, uint32_t first, uint32_t block_size,
                uint64_t variant);
/* Which request made this block; STAMP_GARBAGE: none. torn: only its first word must be right. */
uint32_t stamp_read(const uint8_t *bytes, uint32_t block, uint32_t block_size, bool torn);

#endif
