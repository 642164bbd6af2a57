/* What all block back-ends share: counting operations in and out, and the answers that need no storage.
 *
 * The server has checked range and alignment against this volume before an operation gets here, so a
 * violation is a bug of ours and asserted. A read-only volume is different: an attachment may allow
 * writes while the volume below does not, so that is answered. */
#include "backend/backend.h"

#include "backend/block/block.h"

static void check_range(const struct or_volume *volume, const struct or_io *io)
{
    assert(io->offset <= volume->size && io->length <= volume->size - io->offset);
    if (io->op == OR_OP_READ || io->op == OR_OP_WRITE) {
        assert(io->offset % volume->block_size == 0 && io->length % volume->block_size == 0);
    }
}

void or_volume_submit(struct or_volume *volume, struct or_io *io)
{
    if (volume->held) {
        or_list_append(&volume->waiting, &io->link);
        return;
    }
    or_volume_submit_held(volume, io);
}

void or_volume_hold(struct or_volume *volume)
{
    assert(!volume->held);
    or_list_init(&volume->waiting);
    volume->held = true;
}

void or_volume_reclaim(struct or_volume *volume, struct or_list *waiting)
{
    assert(volume->held);
    for (struct or_io *io; (io = or_io_pop(&volume->waiting)) != NULL;) {
        or_list_append(waiting, &io->link);
    }
    volume->held = false;
}

void or_volume_submit_all(struct or_volume *to, struct or_list *waiting)
{
    for (struct or_io *io; (io = or_io_pop(waiting)) != NULL;) {
        or_volume_submit(to, io);
    }
}

void or_volume_release(struct or_volume *volume, struct or_volume *to)
{
    struct or_list waiting;
    or_list_init(&waiting);
    or_volume_reclaim(volume, &waiting);
    or_volume_submit_all(to, &waiting);
}

void or_volume_submit_held(struct or_volume *volume, struct or_io *io)
{
    assert(io->op >= OR_OP_READ && io->op <= OR_OP_WRITE_ZEROES);
    io->volume = volume;
    io->status = OR_OK;
    volume->in_flight++;

    if (io->op == OR_OP_FLUSH) {
        volume->ops->submit(volume, io);
        return;
    }
    check_range(volume, io);
    if (volume->read_only && or_op_writes(io->op)) {
        or_block_end(io, OR_EREADONLY);
    } else if (io->length == 0) {
        or_block_end(io, OR_OK);
    } else {
        volume->ops->submit(volume, io);
    }
}

void or_volume_complete(struct or_io *io)
{
    assert(io->volume->in_flight > 0);
    io->volume->in_flight--;
    io->done(io);
}

const uint8_t *or_block_zeroes(void)
{
    /* Never written, so that it costs address space and (at most) one page, not memory. Not const: that
     * would put a megabyte of zeroes into the binary. */
    static uint8_t zeroes[OR_BLOCK_ZEROES_BYTES] __attribute__((aligned(OR_BLOCK_ALIGN_MAX)));
    return zeroes;
}

void or_volume_enter(struct or_volume *volume, struct or_uring *uring)
{
    assert(!volume->in_flight);
    if (volume->ops->enter)
        volume->ops->enter(volume, uring);
}
