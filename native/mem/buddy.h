/* Request buffers: a buddy allocator over one arena, blocks of 4 KiB to 1 MiB, each aligned to its
 * size (so fit for O_DIRECT). Nothing is allocated from the system after or_buddy_open. One thread. */
#ifndef OR_BUDDY_H
#define OR_BUDDY_H

#include "or_types.h"

#define OR_BUDDY_MIN 4096u
#define OR_BUDDY_ORDERS 9u /* 4 KiB << 8 = 1 MiB */

struct or_buddy {
    uint8_t *arena;
    uint8_t *order;        /* per 4 KiB unit: the order of the block that starts there, free or used */
    uint8_t *is_free;      /* per unit: a free block starts there */
    struct or_list *nodes; /* per unit: in the list of free blocks of its order */
    struct or_list free[OR_BUDDY_ORDERS];
    uint64_t units, used_bytes;
};

/* bytes is rounded down to whole MiB, at least one; the arena begins at a multiple of 2 MiB and is of huge pages
 * where the system grants them. 0 or -ENOMEM. */
int or_buddy_open(struct or_buddy *buddy, uint64_t bytes);
void or_buddy_close(struct or_buddy *buddy);
/* A block of at least `bytes` (1 .. 1 MiB), or NULL: none is free. Contents are undefined. */
void *or_buddy_alloc(struct or_buddy *buddy, uint32_t bytes);
void or_buddy_free(struct or_buddy *buddy, void *block);

#endif
