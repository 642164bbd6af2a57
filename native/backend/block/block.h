/* Shared by the block back-ends, private to them. Nothing here depends on liburing. */
#ifndef OR_BLOCK_H
#define OR_BLOCK_H

#include "backend/backend.h"
#include "mem/list.h"

/* Size of the "physical" block that a volume without a device of its own reports: a page. */
#define OR_BLOCK_PHYSICAL 4096u

/* The strictest alignment of data and offsets that a direct volume may ask for. */
#define OR_BLOCK_ALIGN_MAX 4096u

#define OR_BLOCK_ZEROES_BYTES OR_REQ_BYTES_MAX

/* OR_BLOCK_ZEROES_BYTES zero bytes, aligned to OR_BLOCK_ALIGN_MAX, for ever. Any thread. */
const uint8_t *or_block_zeroes(void);

/* Whether a volume of this geometry can be. */
static inline bool or_block_geometry_valid(uint64_t size, uint32_t block_size)
{
    return (block_size == 512 || block_size == 4096) && size != 0 && size % block_size == 0;
}

static inline void or_block_end(struct or_io *io, enum or_status status)
{
    io->status = (uint8_t)status;
    or_volume_complete(io);
}

/* Takes the first operation off a list that is linked through or_io.link; NULL when it is empty. */
static inline struct or_io *or_io_pop(struct or_list *list)
{
    if (or_list_empty(list)) {
        return NULL;
    }
    struct or_io *io = OR_CONTAINER(list->next, struct or_io, link);
    or_list_remove(&io->link);
    return io;
}

#endif
