/* The null back-end: answers at once, reads zeroes, keeps nothing. What is measured against it is the
 * cost of everything but storage. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "backend/block/block.h"

static void null_submit(struct or_volume *volume, struct or_io *io)
{
    (void)volume;
    if (io->op == OR_OP_READ) {
        memset(io->data, 0, io->length);
    }
    or_block_end(io, OR_OK);
}

static const uint8_t *null_peek(struct or_volume *volume, uint64_t offset, uint32_t length)
{
    (void)volume;
    (void)offset;
    return length <= OR_BLOCK_ZEROES_BYTES ? or_block_zeroes() : NULL;
}

static void null_close(struct or_volume *volume)
{
    assert(volume->in_flight == 0);
    free(volume);
}

static const struct or_backend_ops null_ops = {
    .name = "null", .submit = null_submit, .peek = null_peek, .close = null_close};

struct or_volume *or_volume_null(uint64_t size, uint32_t block_size, int *err)
{
    if (!or_block_geometry_valid(size, block_size)) {
        *err = -EINVAL;
        return NULL;
    }
    struct or_volume *volume = malloc(sizeof(*volume));
    if (!volume) {
        *err = -ENOMEM;
        return NULL;
    }
    *volume = (struct or_volume){.ops = &null_ops,
                                 .size = size,
                                 .block_size = block_size,
                                 .physical_block_size = OR_BLOCK_PHYSICAL,
                                 .align = 1,
                                 .discard_granularity = block_size,
                                 .write_zeroes = true,
                                 .synchronous = true,
                                 .fd = -1};
    return volume;
}
