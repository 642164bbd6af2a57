/* A worker's io_uring.
 *
 * Starting a step only writes a submission entry. or_uring_poll() hands the whole batch to the kernel
 * with one system call and then takes what has ended from the completion ring, which is shared memory;
 * so a worker that serves many requests pays for one system call per loop iteration, and one that has
 * nothing under way pays for none.
 *
 * What does not fit waits in a list through the operations themselves: its length is bounded by the
 * callers' slots, and nothing is allocated. No more is in flight than the completion ring holds, so it
 * cannot overflow.
 *
 * How the ring is set up. COOP_TASKRUN keeps the kernel from interrupting the thread for each
 * completion; TASKRUN_FLAG makes it say, in the shared memory, that completions wait for the thread to
 * enter the kernel: or_uring_poll() enters then and only then (inside io_uring_peek_batch_cqe).
 * DEFER_TASKRUN is left out on purpose: with it the ring's descriptor does not wake an epoll that
 * sleeps (seen on Linux 6.18), and an eventfd in its place needs draining and arming before each sleep.
 * Its gain on 4 KiB random reads, at depths from 1 to 64, was within the noise of the disk. Without it
 * SINGLE_ISSUER buys nothing but the duty to create the ring on the worker's thread, so it is left out
 * too: the ring belongs to one thread at a time, and may be created by another than the one that polls. */
#include "backend/block/uring.h"

#include <errno.h>
#include <stdlib.h>

#include "backend/block/block.h"

#define REAP_BATCH 64u
#define PIECES_MAX 16384u /* the kernel's table of buffers has no more */

struct or_uring {
    struct io_uring ring;
    uint32_t in_flight; /* steps that have an entry: not yet submitted, or with the kernel */
    uint32_t in_flight_max;
    struct or_list waiting; /* started, without an entry */
    const uint8_t *lent;    /* piece i of it is registered buffer i once pinned[i] */
    uint32_t pieces;
    bool *pinned;
    struct or_uring_stats stats;
    or_uring_fault_fn *fault;
    void *fault_arg;
};

struct or_uring *or_uring_create(uint32_t entries, int *err)
{
    /* The second is for kernels before 5.19. */
    static const uint32_t flags[] = {IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG, 0};
    struct or_uring *uring = calloc(1, sizeof(*uring));
    if (!uring) {
        *err = -ENOMEM;
        return NULL;
    }
    for (size_t i = 0; i < sizeof(flags) / sizeof(flags[0]); i++) {
        struct io_uring_params params = {.flags = flags[i]};
        *err = io_uring_queue_init_params(entries, &uring->ring, &params);
        if (*err == 0) {
            uring->in_flight_max = params.cq_entries;
            or_list_init(&uring->waiting);
            return uring;
        }
        if (*err != -EINVAL) {
            break;
        }
    }
    free(uring);
    return NULL;
}

void or_uring_destroy(struct or_uring *uring)
{
    assert(!or_uring_busy(uring));
    io_uring_queue_exit(&uring->ring);
    free(uring->pinned);
    free(uring);
}

struct or_uring_stats or_uring_stats(const struct or_uring *uring)
{
    return uring->stats;
}

/* --- lent memory -------------------------------------------------------------------------------- */

void or_uring_lend(struct or_uring *uring, const void *memory, uint64_t bytes)
{
    uint64_t pieces = bytes / OR_URING_PIECE;
    assert(!uring->pieces && (uintptr_t)memory % OR_URING_PIECE == 0);
    uring->pieces = pieces < PIECES_MAX ? (uint32_t)pieces : PIECES_MAX;
    uring->lent = memory;
    uring->pinned = calloc(uring->pieces ? uring->pieces : 1, sizeof *uring->pinned);
    int err = uring->pinned ? io_uring_register_buffers_sparse(&uring->ring, uring->pieces) : -ENOMEM;
    if (err != 0) {
        uring->stats.pin_error = err;
        uring->pieces = 0;
    }
}

/* Makes piece i a registered buffer. What the kernel refuses once is not asked for again, of no piece. */
static bool pin(struct or_uring *uring, uint32_t i)
{
    struct iovec piece = {(void *)(uring->lent + (uint64_t)i * OR_URING_PIECE), OR_URING_PIECE};
    __u64 tag = 0;
    if (uring->stats.pin_error != 0) {
        return false;
    }
    int count = io_uring_register_buffers_update_tag(&uring->ring, i, &piece, &tag, 1);
    if (count != 1) {
        uring->stats.pin_error = count < 0 ? count : -ENOMEM;
        return false;
    }
    uring->pinned[i] = true;
    uring->stats.pinned_bytes += OR_URING_PIECE;
    return true;
}

int or_uring_buffer(struct or_uring *uring, const uint8_t *data, uint32_t length)
{
    uintptr_t from = (uintptr_t)data - (uintptr_t)uring->lent;
    uint64_t i = from / OR_URING_PIECE;
    if (i >= uring->pieces || (from + length - 1) / OR_URING_PIECE != i) {
        return -1;
    }
    return uring->pinned[i] || pin(uring, (uint32_t)i) ? (int)i : -1;
}

/* --- life --------------------------------------------------------------------------------------- */

int or_uring_fd(struct or_uring *uring)
{
    return uring->ring.ring_fd;
}

bool or_uring_busy(struct or_uring *uring)
{
    return uring->in_flight != 0 || !or_list_empty(&uring->waiting);
}

void or_uring_set_fault(struct or_uring *uring, or_uring_fault_fn *fault, void *arg)
{
    uring->fault = fault;
    uring->fault_arg = arg;
}

static struct or_uring_volume *volume_of(const struct or_io *io)
{
    return (struct or_uring_volume *)io->volume;
}

/* Gives io a submission entry; false when there is no room. */
static bool enter(struct or_uring *uring, struct or_io *io)
{
    if (uring->in_flight == uring->in_flight_max) {
        return false;
    }
    struct io_uring_sqe *sqe = io_uring_get_sqe(&uring->ring);
    if (!sqe) {
        return false;
    }
    volume_of(io)->prepare(io, sqe);
    io_uring_sqe_set_data(sqe, io);
    uring->in_flight++;
    return true;
}

void or_uring_start(struct or_io *io)
{
    struct or_uring *uring = volume_of(io)->uring;
    if (!or_list_empty(&uring->waiting) || !enter(uring, io)) {
        or_list_append(&uring->waiting, &io->link);
    }
}

/* Gives entries to what waits, in order; false when none got one. */
static bool enter_waiting(struct or_uring *uring)
{
    bool entered = false;
    for (struct or_io *io; (io = or_io_pop(&uring->waiting)) != NULL; entered = true) {
        if (!enter(uring, io)) {
            or_list_prepend(&uring->waiting, &io->link);
            break;
        }
    }
    return entered;
}

/* Submits all there is room for. False when the kernel, short of memory, did not take it: it stays
 * queued for the next call. */
static bool submit_queued(struct or_uring *uring)
{
    while (enter_waiting(uring) || io_uring_sq_ready(&uring->ring) != 0) {
        uring->stats.syscalls++;
        int submitted = io_uring_submit(&uring->ring);
        if (submitted <= 0) {
            assert(submitted == 0 || submitted == -EAGAIN || submitted == -EBUSY || submitted == -EINTR);
            return false;
        }
    }
    return true;
}

static void end_step(struct or_uring *uring, const struct io_uring_cqe *cqe)
{
    struct or_io *io = io_uring_cqe_get_data(cqe);
    int32_t result = cqe->res;
    assert(uring->in_flight > 0);
    uring->in_flight--;
    uring->stats.steps++;
    if (__builtin_expect(uring->fault != NULL, false)) {
        result = uring->fault(uring->fault_arg, io, result);
    }
    volume_of(io)->ended(io, result);
}

/* Ends the steps that the kernel has completed, at most those in flight now. Steps started meanwhile
 * are not submitted in here, so their completions cannot overrun the entries being read. */
static uint32_t reap(struct or_uring *uring)
{
    struct io_uring_cqe *cqes[REAP_BATCH];
    uint32_t total = 0;
    uint32_t count;
    while (uring->in_flight != 0 && (count = io_uring_peek_batch_cqe(&uring->ring, cqes, REAP_BATCH)) != 0) {
        for (uint32_t i = 0; i < count; i++) {
            end_step(uring, cqes[i]);
        }
        io_uring_cq_advance(&uring->ring, count);
        total += count;
    }
    return total;
}

uint32_t or_uring_poll(struct or_uring *uring)
{
    bool submitted = submit_queued(uring);
    uint32_t ended = reap(uring);
    if (ended != 0) {
        /* Continuations, what was submitted from done(), and what waited for room. */
        submitted = submit_queued(uring);
    }
    return ended != 0 || submitted ? ended : 1;
}
