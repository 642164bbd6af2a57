/* An operation on a simulated disk that takes its time: it takes effect at some moment before it ends, in any order
 * with others, at the latest as it ends. When the engine that asked for it dies it does neither by itself any more:
 * what the kernel makes of it is for the disk to say. */
#ifndef SIM_SLOW_OP_H
#define SIM_SLOW_OP_H

#include "backend/backend.h"
#include "world.h"

struct slow_op {
    struct slow_op *next;
    struct slow_ops *among;
    struct or_io *io;
    uint32_t first, count; /* where, in whatever the disk counts in */
    uint32_t life;
    uint8_t space; /* operations in different ones do not overlap */
    uint8_t op, status;
    bool effective;
};

/* Those of a disk that are under way. */
struct slow_ops {
    struct slow_op *newest;
    struct world *w;
    const uint32_t *life; /* which life of the engine it is */
    void (*take_effect)(struct slow_op *op);
    void (*end)(struct slow_op *op); /* it is not among them any more */
};

/* Adds it to those under way. */
static inline void slow_op_add(struct slow_ops *ops, struct slow_op *op)
{
    op->among = ops;
    op->life = *ops->life;
    op->next = ops->newest;
    ops->newest = op;
}

static inline void slow_op_take_effect(struct slow_op *op)
{
    op->effective = true;
    op->among->take_effect(op);
}

static inline void slow_op_end(struct slow_op *op)
{
    struct slow_op **at = &op->among->newest;
    while (*at != op)
        at = &(*at)->next;
    *at = op->next;
    op->among->end(op);
}

static inline void slow_op_on_effect(void *arg)
{
    struct slow_op *op = arg;
    if (op->life == *op->among->life)
        slow_op_take_effect(op);
}

static inline void slow_op_on_end(void *arg)
{
    struct slow_op *op = arg;
    if (op->life != *op->among->life)
        return;
    if (!op->effective)
        slow_op_take_effect(op);
    slow_op_end(op);
}

/* It ends in at most so long; draws when. */
static inline void slow_op_begin(struct slow_op *op, uint64_t ns_max)
{
    struct world *w = op->among->w;
    uint64_t takes = rng_scale(&w->rng, 1 * US, ns_max);
    world_at(w, w->now + rng_below(&w->rng, takes), slow_op_on_effect, op);
    world_at(w, w->now + takes, slow_op_on_end, op);
}

/* One under way that writes where `op` does: their order would be the disk's. NULL: there is none. */
static inline const struct slow_op *slow_op_overlapping(const struct slow_ops *ops, const struct slow_op *op)
{
    for (const struct slow_op *o = ops->newest; o; o = o->next)
        if (or_op_writes(op->op) && or_op_writes(o->op) && o->space == op->space && o->first < op->first + op->count &&
            op->first < o->first + o->count)
            return o;
    return NULL;
}

#endif
