/* Stamped blocks (--verify): what is written says where it belongs and which version it is, so what is
 * read can be checked byte for byte. A map holds the version that each block should have. */
#ifndef BENCH_STAMP_H
#define BENCH_STAMP_H

#include "loadgen.h"

struct stamps;

struct stamps *stamps_create(uint64_t blocks, uint32_t block_bytes, uint64_t seed);
/* NULL is fine. */
void stamps_destroy(struct stamps *stamps);

/* `block`, or the next one that no operation is using: two operations on one block at the same time
 * have no order, so nothing could be said about its content. There are more blocks than slots. */
uint64_t stamps_free_block(const struct stamps *stamps, uint64_t block);

/* Before submission: claims the block and, for a write, fills slot->data with the next version. */
void stamps_begin(struct stamps *stamps, struct slot *slot);
/* After the end: releases the block. False when a read returned something else than was written. A
 * write that failed leaves the content unknown until the next one; blocks never written are unknown. */
bool stamps_end(struct stamps *stamps, const struct slot *slot, uint8_t status);

#endif
