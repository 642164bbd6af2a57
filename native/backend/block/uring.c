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
 * How the ring is set up. DEFER_TASKRUN: what ends an operation (task work) runs only when the thread enters the kernel
 * for it, many at once, and never interrupts it. TASKRUN_FLAG makes the kernel say in the shared memory that some
 * waits: or_uring_poll() enters then and only then, or when it submits anyway. It needs SINGLE_ISSUER: the ring belongs
 * to the thread that enables it, which is the first that polls.
 *
 * With it a sleeping epoll on the ring's own descriptor is never woken: that becomes readable by an entry in the
 * completion ring, and the entry comes only once the thread enters. An eventfd registered with the ring is signalled
 * earlier, when the first task work is queued. or_uring_arm() switches that on before the thread sleeps, and looks
 * once more, in this order; while the thread polls nothing is signalled.
 *
 * Kernels before 6.1 know none of this. COOP_TASKRUN (5.19) at least does not interrupt the thread for each completion;
 * then, as without any flag, the ring's own descriptor does wake.
 *
 * Files are not registered. It would save two atomic operations of some microseconds' work, which could not be
 * measured; but the table's reference outlives a killed process until its ring is taken apart, 23 ms later, and so
 * does the flock that its successor waits for (loop/volume_lock.c). */
#include "backend/block/uring.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "backend/block/block.h"

#define REAP_BATCH 64u
#define PIECES_MAX 16384u /* the kernel's table of buffers has no more */

struct or_uring {
    struct io_uring ring;
    bool deferred;      /* DEFER_TASKRUN */
    bool enabled;       /* by the thread that it belongs to */
    int event_fd;       /* deferred: says that task work waits; else -1 */
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

/* The best that the kernel knows. 0 or -errno. */
static int set_up(struct or_uring *uring, uint32_t entries)
{
    static const uint32_t flags[] = {IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN |
                                         IORING_SETUP_TASKRUN_FLAG | IORING_SETUP_R_DISABLED,
                                     IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG, 0};
    int err = -EINVAL;
    for (size_t i = 0; err == -EINVAL && i < sizeof(flags) / sizeof(flags[0]); i++) {
        struct io_uring_params params = {.flags = flags[i]};
        err = io_uring_queue_init_params(entries, &uring->ring, &params);
        uring->in_flight_max = params.cq_entries;
        uring->deferred = flags[i] & IORING_SETUP_DEFER_TASKRUN;
    }
    uring->enabled = !uring->deferred;
    return err;
}

static int open_event(struct or_uring *uring)
{
    uring->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (uring->event_fd < 0) {
        return -errno;
    }
    int err = io_uring_register_eventfd(&uring->ring, uring->event_fd);
    return err ? err : io_uring_cq_eventfd_toggle(&uring->ring, false);
}

struct or_uring *or_uring_create(uint32_t entries, int *err)
{
    struct or_uring *uring = calloc(1, sizeof(*uring));
    if (!uring) {
        *err = -ENOMEM;
        return NULL;
    }
    uring->event_fd = -1;
    or_list_init(&uring->waiting);
    *err = set_up(uring, entries);
    if (*err != 0) {
        free(uring);
        return NULL;
    }
    *err = uring->deferred ? open_event(uring) : 0;
    if (*err != 0) {
        or_uring_destroy(uring);
        return NULL;
    }
    return uring;
}

void or_uring_destroy(struct or_uring *uring)
{
    assert(!or_uring_busy(uring));
    io_uring_queue_exit(&uring->ring);
    if (uring->event_fd >= 0) {
        close(uring->event_fd);
    }
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

/* --- sleeping ----------------------------------------------------------------------------------- */

int or_uring_fd(struct or_uring *uring)
{
    return uring->deferred ? uring->event_fd : uring->ring.ring_fd;
}

/* Operations have ended, or would if the thread entered the kernel. */
static bool has_ended(const struct or_uring *uring)
{
    unsigned flags = __atomic_load_n(uring->ring.sq.kflags, __ATOMIC_ACQUIRE);
    return io_uring_cq_ready(&uring->ring) != 0 || (flags & (IORING_SQ_TASKRUN | IORING_SQ_CQ_OVERFLOW));
}

bool or_uring_arm(struct or_uring *uring)
{
    if (uring->deferred) {
        io_uring_cq_eventfd_toggle(&uring->ring, true);
        /* What ends from here on is signalled; what ended before is seen below. */
        __atomic_thread_fence(__ATOMIC_SEQ_CST);
    }
    return has_ended(uring);
}

void or_uring_disarm(struct or_uring *uring)
{
    if (uring->deferred) {
        eventfd_t count;
        io_uring_cq_eventfd_toggle(&uring->ring, false);
        eventfd_read(uring->event_fd, &count); /* or EAGAIN: it was somebody else who woke us */
    }
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

/* The ring belongs to this thread from now on. */
static void enable(struct or_uring *uring)
{
    /* io_uring_enable_rings() is declared by liburing 2.3, but not exported. */
    long err = syscall(SYS_io_uring_register, uring->ring.ring_fd, IORING_REGISTER_ENABLE_RINGS, NULL, 0);
    assert(err == 0);
    uring->enabled = true;
}

/* Submits all there is room for. False when the kernel, short of memory, did not take it: it stays
 * queued for the next call. */
static bool submit_queued(struct or_uring *uring)
{
    while (enter_waiting(uring) || io_uring_sq_ready(&uring->ring) != 0) {
        if (!uring->enabled) {
            enable(uring);
        }
        uring->stats.syscalls++;
        int submitted = uring->deferred ? io_uring_submit_and_get_events(&uring->ring) : io_uring_submit(&uring->ring);
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
    while (uring->in_flight != 0 && has_ended(uring)) {
        uring->stats.syscalls += io_uring_cq_ready(&uring->ring) == 0;
        if ((count = io_uring_peek_batch_cqe(&uring->ring, cqes, REAP_BATCH)) == 0) {
            break;
        }
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
