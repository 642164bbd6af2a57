/* One operation on a volume, and whether it has ended. Include after cmocka.h. */
#ifndef OP_H
#define OP_H

#include "backend/backend.h"

struct op {
    struct or_io io;
    bool done;
};

static inline void op_done(struct or_io *io)
{
    struct op *op = (struct op *)(void *)io;
    assert_false(op->done);
    op->done = true;
}

static inline void submit(struct or_volume *v, struct op *op, uint8_t code, uint8_t flags, uint64_t offset,
                          uint32_t length, void *data)
{
    *op = (struct op){
        .io = {.op = code, .flags = flags, .offset = offset, .length = length, .data = data, .done = op_done}};
    or_volume_submit(v, &op->io);
}

/* Runs one that ends within its submission. */
static inline uint8_t run(struct or_volume *v, uint8_t code, uint8_t flags, uint64_t offset, uint32_t length,
                          void *data)
{
    struct op op;
    submit(v, &op, code, flags, offset, length, data);
    assert_true(op.done);
    return op.io.status;
}

#endif
