/* Many operations on volumes, some at a time. */
#include <string.h>

#include "intercept/internal.h"

#define ALL_BUSY ((1u << OR_BATCH_IOS) - 1)

static void go(struct or_batch *b);

static void io_done(struct or_io *io)
{
    struct or_batch_io *at = OR_CONTAINER(io, struct or_batch_io, io);
    struct or_batch *b = at->batch;
    b->busy &= ~(1u << at->index);
    if (io->status != OR_OK && b->status == OR_OK)
        b->status = io->status;
    else if (io->status == OR_OK && b->each)
        b->each(b, at->index);
    go(b);
}

static void go(struct or_batch *b)
{
    if (b->going)
        return;
    b->going = true;
    while (b->status == OR_OK && !b->exhausted && b->busy != ALL_BUSY) {
        uint32_t index = (uint32_t)__builtin_ctz(~b->busy);
        struct or_batch_io *at = &b->ios[index];
        *at = (struct or_batch_io){.io = {.done = io_done}, .batch = b, .index = index};
        or_list_init(&at->io.link);
        struct or_volume *volume = b->next(b, index, &at->io);
        if (!volume) {
            b->exhausted = true;
            break;
        }
        b->busy |= 1u << index;
        or_volume_submit(volume, &at->io);
    }
    b->going = false;
    if (!b->busy && b->running && (b->exhausted || b->status != OR_OK)) {
        b->running = false;
        b->ended(b);
    }
}

void or_batch_start(struct or_batch *b)
{
    assert(!b->running && !b->busy);
    b->running = true;
    b->exhausted = false;
    b->status = OR_OK;
    go(b);
}
