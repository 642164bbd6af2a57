/* Block back-ends: where a volume's bytes live. The server (transport/server.h) checks range,
 * alignment, read-only and generation before an operation reaches a back-end; the back-end executes
 * it and tells the truth about the outcome.
 *
 * A volume belongs to one thread at a time: it may be opened on one and handed to the worker before its
 * first operation, and to another worker while nothing is under way (or_volume_enter). All volumes on an or_uring
 * belong to the thread that polls it. */
#ifndef OR_BACKEND_H
#define OR_BACKEND_H

#include "or_types.h"

struct or_volume;
struct or_uring;

/* One operation under way. Embedded in its owner, which keeps it until done(). */
struct or_io {
    uint64_t offset; /* bytes */
    uint32_t length; /* bytes; for READ and WRITE a multiple of the volume's block size */
    uint8_t op;      /* READ .. WRITE_ZEROES of enum or_op */
    uint8_t flags;   /* enum or_req_flags */
    uint8_t status;  /* enum or_status, valid in done() */
    uint8_t *data;   /* READ, WRITE: `length` bytes. A WRITE's are never modified. Alignment: see or_volume.direct */
    void (*done)(struct or_io *io);
    struct or_volume *volume;
    /* Private to the back-end. */
    uint32_t progress;
    uint32_t stage;
    struct or_list link;
};

struct or_backend_ops {
    const char *name;
    /* Starts io. May call io->done() before it returns (ram, null) or from a later poll. Never
     * refuses: what does not fit the kernel's queue now waits inside. */
    void (*submit)(struct or_volume *volume, struct or_io *io);
    /* Optional. Memory that holds [offset, offset + length) and stays valid until the volume is
     * closed, or NULL. Lets a read be answered without a copy into a buffer. */
    const uint8_t *(*peek)(struct or_volume *volume, uint64_t offset, uint32_t length);
    /* Optional; a hint. Reads that begin at these places, inside the volume, are about to be peeked, in this order: so
     * that what the look-ups need comes nearer for all at once. Changes nothing. */
    void (*expect)(struct or_volume *volume, const uint64_t *offsets, uint32_t count);
    /* Optional. What peek returned is no longer needed; called once for each that was not NULL. Where it is set,
     * the memory stays valid until then, and until then the volume may not be closed. */
    void (*unpeek)(struct or_volume *volume, const uint8_t *memory);
    /* See or_volume_enter. NULL: it is on no ring. */
    void (*enter)(struct or_volume *volume, struct or_uring *uring);
    /* Ends the volume; the caller has drained it. Closes the descriptor (and with it the flock). */
    void (*close)(struct or_volume *volume);
};

struct or_volume {
    const struct or_backend_ops *ops;
    uint64_t size;       /* bytes, a multiple of block_size */
    uint32_t block_size; /* logical block, bytes: 512 or 4096 */
    uint32_t physical_block_size;
    bool read_only;
    bool direct;                  /* data must be aligned to `align` (O_DIRECT) */
    uint32_t align;               /* bytes */
    uint32_t discard_granularity; /* bytes; 0: discard unsupported */
    bool write_zeroes;
    bool synchronous; /* submit always completes before it returns: data may lie in a received frame */
    int fd;
    uint64_t in_flight; /* operations submitted and not done; kept by or_volume_submit. Without those that are held */
    bool held;          /* see or_volume_hold */
    struct or_volume *peeked; /* whose memory peek returns, to which it is given back (unpeek); NULL: its own */
    struct or_list waiting;   /* while it is held: what was submitted meanwhile */
    /* Acknowledged data may be lost: from now on nothing is promised, FLUSH and writes with OR_REQ_FUA fail.
     * Its owner may set it before the first operation, when it knows that from an earlier opening. */
    bool flush_failed;
    /* Optional, the owner's: the storage failed at io, with -errno. Called before io->done(), once for a sync
     * that several operations waited for; may not submit. */
    void (*failed)(struct or_volume *volume, const struct or_io *io, int error);
    void *owner;
};

/* Whom what this volume peeks is given back to. */
static inline struct or_volume *or_volume_peeked(struct or_volume *volume)
{
    return volume->peeked ? volume->peeked : volume;
}

/* Counts io in, so that a drain can be awaited, and submits it. On a read-only volume what would write
 * ends with OR_EREADONLY. */
void or_volume_submit(struct or_volume *volume, struct or_io *io);
/* The gate. From or_volume_hold on, what is submitted waits, in order, and what is under way comes to an end: the owner
 * sees in_flight become 0. peek goes on. or_volume_release submits what waited to `to`: to the volume itself, or to one
 * that takes its place. or_volume_submit_held passes by: for what the owner needs done meanwhile. */
void or_volume_hold(struct or_volume *volume);
void or_volume_release(struct or_volume *volume, struct or_volume *to);
/* The same in two steps: it is no longer held, and what waited is the caller's; and that is submitted, in order. */
void or_volume_reclaim(struct or_volume *volume, struct or_list *waiting);
void or_volume_submit_all(struct or_volume *to, struct or_list *waiting);
void or_volume_submit_held(struct or_volume *volume, struct or_io *io);
/* A volume with nothing under way changes the thread that it belongs to: to be called with NULL on the old one, and
 * with that one's ring on the new one. */
void or_volume_enter(struct or_volume *volume, struct or_uring *uring);
/* Back-ends end an operation through this: counts it out and calls done. */
void or_volume_complete(struct or_io *io);

struct or_uring_stats {
    uint64_t steps;        /* system calls that operations asked for and that have ended */
    uint64_t syscalls;     /* of our own, for all of them together */
    uint64_t pinned_bytes; /* of what was lent */
    int pin_error;         /* why not more: -errno; 0: no reason */
};

/* A worker's io_uring. entries: submission queue size; what does not fit waits inside. It may be created on any
 * thread and belongs to the one that polls it first, which must outlive what it submitted. Returns NULL and sets
 * *err to -errno. */
struct or_uring *or_uring_create(uint32_t entries, int *err);
/* The data of operations will mostly lie here, so the kernel shall know it in advance (registered buffers) instead of
 * looking its pages up for each operation: whole pieces of OR_URING_PIECE, each pinned when it is first used. May stay
 * without effect (no CAP_IPC_LOCK and too small an RLIMIT_MEMLOCK, a kernel before 5.19): see or_uring_stats. Once,
 * before the first operation. The memory must stay mapped while operations use it. */
#define OR_URING_PIECE (2u << 20)
void or_uring_lend(struct or_uring *uring, const void *memory, uint64_t bytes);
struct or_uring_stats or_uring_stats(const struct or_uring *uring);
/* For the worker's epoll (EPOLLIN, level triggered): readable while completions wait and the ring is armed. A
 * completion may also end the epoll_wait with EINTR: treat that as being woken. Owned by the ring. */
int or_uring_fd(struct or_uring *uring);
/* Before sleeping: true when there is something to poll for after all. After that or_uring_disarm, slept or not. */
bool or_uring_arm(struct or_uring *uring);
void or_uring_disarm(struct or_uring *uring);
/* Submits what was queued and completes what has ended; returns the number of completions handled (1
 * too when the kernel, short of memory, must be asked again). Call once per loop iteration, and do not
 * sleep before it returned 0; costs no system call when there is nothing to do. */
uint32_t or_uring_poll(struct or_uring *uring);
/* Operations are queued or with the kernel. */
bool or_uring_busy(struct or_uring *uring);
/* All volumes on the ring are closed. Any thread. */
void or_uring_destroy(struct or_uring *uring);

/* A file or block device. `fd` is open and flock()ed by the caller, who passes its ownership; on failure
 * he keeps it. Operations under way hold the open file, and with it the flock, even when this process
 * dies. Detects O_DIRECT (already set on fd or not), sizes (rounded down to the block size) and what
 * discard and write-zeroes can do, without changing the content; may block. An fsync that failed once
 * is never reported good later: see or_volume.flush_failed.
 * NULL with *err: -ENOTBLK neither a regular file nor a block device; -EROFS not writable, but not
 * read_only; -EINVAL smaller than a block; -EOPNOTSUPP a device with blocks of neither 512 nor 4096
 * bytes; or what a system call said. */
struct or_volume *or_volume_file(struct or_uring *uring, int fd, bool read_only, int *err);
/* Zero-filled memory of `size` bytes (huge pages when available), populated as it is touched, lost at
 * close. This and the null volume: NULL with *err = -EINVAL (block_size other than 512 or 4096, size
 * zero or not a multiple of it) or -ENOMEM. */
struct or_volume *or_volume_ram(uint64_t size, uint32_t block_size, int *err);
/* Accepts writes, reads zeroes, keeps nothing: for benchmarks. */
struct or_volume *or_volume_null(uint64_t size, uint32_t block_size, int *err);

#endif
