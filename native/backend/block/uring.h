/* The io_uring of a worker, as the back-ends on it see it; private to them. The public part is in
 * backend/backend.h.
 *
 * An operation on the ring passes through one or more steps. For each, the back-end calls
 * or_uring_start(); the ring calls prepare() once it has room, and ended() with the kernel's result,
 * from inside or_uring_poll(). In between the operation belongs to the ring, which links it through
 * or_io.link while it waits. All of it on the worker's thread. */
#ifndef OR_URING_H
#define OR_URING_H

#include <liburing.h>

#include "backend/backend.h"

/* A volume whose operations run on a ring. */
struct or_uring_volume {
    struct or_volume base;
    struct or_uring *uring; /* borrowed; outlives the volume */
    /* Fills in the system call for the operation's next step; must not start another. */
    void (*prepare)(struct or_io *io, struct io_uring_sqe *sqe);
    /* The step ended with what the system call would have returned. May start and submit operations. */
    void (*ended)(struct or_io *io, int32_t result);
};

/* Runs the next step of io, whose volume is an or_uring_volume. Never fails, and makes no system call but
 * for the first that uses a piece of lent memory. */
void or_uring_start(struct or_io *io);

/* Which registered buffer holds [data, data + length), for a step that reads or writes it; -1: none. */
int or_uring_buffer(struct or_uring *uring, const uint8_t *data, uint32_t length);

/* Sees, and may change, the result of every step: how tests make storage fail. NULL, the default, for
 * none. */
typedef int32_t or_uring_fault_fn(void *arg, const struct or_io *io, int32_t result);
void or_uring_set_fault(struct or_uring *uring, or_uring_fault_fn *fault, void *arg);

#endif
