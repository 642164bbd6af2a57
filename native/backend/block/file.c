/* The file back-end: a volume in a regular file or on a block device, through io_uring.
 *
 * An operation is a walk through steps, each one system call:
 *
 *   READ          TRANSFER, again until all bytes are there
 *   WRITE         TRANSFER, likewise                                  [-> SYNC]
 *   DISCARD       PUNCH                                               [-> SYNC]
 *   WRITE_ZEROES  PUNCH (when it may) or ZERO_RANGE or ZERO_WRITE     [-> SYNC]
 *   FLUSH         SYNC
 *
 * The step in brackets is taken for OR_REQ_FUA. A write to a direct volume does without: it carries
 * RWF_DSYNC, which a disk can turn into one write with its FUA bit. Which way of zeroing the storage
 * knows is learnt by trying: EOPNOTSUPP moves on to the next, for good.
 *
 * Telling the truth. The kernel reports a failed write-back once; the pages are then clean and the next
 * fsync succeeds although the data is gone. So the first failed SYNC condemns the volume: every later
 * FLUSH and FUA fails, until someone opens it again and checks its content. At most one SYNC is under
 * way per volume: of two at once one could take the error away and the other report success. What asks
 * for one meanwhile waits and shares the next, which begins after all of them were submitted. This is
 * also why a buffered write with FUA takes the SYNC step: RWF_DSYNC would be a second, hidden fsync.
 *
 * A read that finds the end of the file, because it shrank underneath, fails, and condemns the volume too. */
#include "backend/block/file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include "backend/block/block.h"
#include "backend/block/uring.h"

struct file_volume {
    struct or_uring_volume base;
    bool can_punch;
    bool can_zero_range;
    struct or_io *sync_leader;     /* whose SYNC step is under way; NULL: none is */
    struct or_list sync_followers; /* end with it */
    struct or_list sync_waiting;   /* came after it began: need the next */
};

static struct file_volume *file_of(const struct or_io *io)
{
    return (struct file_volume *)io->volume;
}

static bool promises_stability(const struct or_io *io)
{
    return io->op == OR_OP_FLUSH || (or_op_writes(io->op) && (io->flags & OR_REQ_FUA));
}

/* A write whose TRANSFER keeps that promise itself. */
static bool is_dsync_write(const struct or_io *io)
{
    return io->op == OR_OP_WRITE && (io->flags & OR_REQ_FUA) && io->volume->direct;
}

static enum or_status status_of(int32_t error)
{
    switch (error) {
    case 0:
        return OR_OK;
    case -ENOSPC:
    case -EDQUOT:
        return OR_ENOSPACE;
    case -EROFS:
        return OR_EREADONLY;
    default:
        return OR_EIO;
    }
}

static void start(struct or_io *io, enum or_file_step step)
{
    io->stage = step;
    or_uring_start(io);
}

static enum or_file_step zeroing_step(const struct or_io *io)
{
    const struct file_volume *file = file_of(io);
    if ((io->flags & OR_REQ_UNMAP) && file->can_punch) {
        return OR_FILE_PUNCH;
    }
    return file->can_zero_range ? OR_FILE_ZERO_RANGE : OR_FILE_ZERO_WRITE;
}

static void move_all(struct or_list *to, struct or_list *from)
{
    for (struct or_io *io; (io = or_io_pop(from)) != NULL;) {
        or_list_append(to, &io->link);
    }
}

/* Begins the SYNC that all waiting operations share. */
static void sync_next(struct file_volume *file)
{
    struct or_io *leader = or_io_pop(&file->sync_waiting);
    if (!leader) {
        return;
    }
    file->sync_leader = leader;
    move_all(&file->sync_followers, &file->sync_waiting);
    start(leader, OR_FILE_SYNC);
}

static void sync_request(struct or_io *io)
{
    struct file_volume *file = file_of(io);
    or_list_append(&file->sync_waiting, &io->link);
    if (!file->sync_leader) {
        sync_next(file);
    }
}

static void tell(const struct or_io *io, int32_t error)
{
    struct or_volume *volume = io->volume;
    if (volume->failed) {
        volume->failed(volume, io, error);
    }
}

static void sync_ended(struct file_volume *file, int32_t error)
{
    struct or_volume *volume = &file->base.base;
    if (error != 0) {
        volume->flush_failed = true;
        tell(file->sync_leader, error);
    }
    /* Off the volume before anyone is told, because done() may submit the next FLUSH. */
    struct or_list ended;
    or_list_init(&ended);
    or_list_append(&ended, &file->sync_leader->link);
    move_all(&ended, &file->sync_followers);
    file->sync_leader = NULL;
    enum or_status status = volume->flush_failed ? OR_EIO : OR_OK;
    if (volume->flush_failed) {
        move_all(&ended, &file->sync_waiting);
    } else {
        sync_next(file);
    }
    for (struct or_io *io; (io = or_io_pop(&ended)) != NULL;) {
        or_block_end(io, status);
    }
}

static void file_submit(struct or_volume *volume, struct or_io *io)
{
    io->progress = 0;
    if (volume->flush_failed && promises_stability(io)) {
        or_block_end(io, OR_EIO);
        return;
    }
    switch (io->op) {
    case OR_OP_READ:
    case OR_OP_WRITE:
        assert((uintptr_t)io->data % volume->align == 0);
        start(io, OR_FILE_TRANSFER);
        break;
    case OR_OP_DISCARD:
        if (volume->discard_granularity == 0) {
            or_block_end(io, OR_EUNSUPP);
        } else {
            start(io, OR_FILE_PUNCH);
        }
        break;
    case OR_OP_WRITE_ZEROES:
        start(io, zeroing_step(io));
        break;
    default: /* FLUSH */
        sync_request(io);
        break;
    }
}

/* Reads or writes what is left. A registered buffer saves the kernel the look-up of its pages, which only direct
 * I/O makes. */
static void prepare_transfer(struct or_io *io, struct io_uring_sqe *sqe, uint64_t offset, uint32_t length)
{
    const struct or_volume *volume = io->volume;
    uint8_t *data = io->data + io->progress;
    int buffer = volume->direct ? or_uring_buffer(file_of(io)->base.uring, data, length) : -1;
    bool fixed = buffer >= 0, read = io->op == OR_OP_READ;
    int op = read ? (fixed ? IORING_OP_READ_FIXED : IORING_OP_READ) : fixed ? IORING_OP_WRITE_FIXED : IORING_OP_WRITE;
    io_uring_prep_rw(op, sqe, volume->fd, data, length, offset);
    sqe->buf_index = fixed ? (uint16_t)buffer : 0;
    sqe->rw_flags = is_dsync_write(io) ? RWF_DSYNC : 0;
}

static void file_prepare(struct or_io *io, struct io_uring_sqe *sqe)
{
    const struct or_volume *volume = io->volume;
    uint64_t offset = io->offset + io->progress;
    uint32_t length = io->length - io->progress;
    switch ((enum or_file_step)io->stage) {
    case OR_FILE_TRANSFER:
        prepare_transfer(io, sqe, offset, length);
        break;
    case OR_FILE_PUNCH:
        io_uring_prep_fallocate(sqe, volume->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)offset, length);
        break;
    case OR_FILE_ZERO_RANGE:
        io_uring_prep_fallocate(sqe, volume->fd, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, (off_t)offset, length);
        break;
    case OR_FILE_ZERO_WRITE:
        io_uring_prep_write(sqe, volume->fd, or_block_zeroes(),
                            length < OR_BLOCK_ZEROES_BYTES ? length : OR_BLOCK_ZEROES_BYTES, offset);
        break;
    case OR_FILE_SYNC:
        io_uring_prep_fsync(sqe, volume->fd, IORING_FSYNC_DATASYNC);
        break;
    }
}

static void finish(struct or_io *io)
{
    if (!promises_stability(io) || is_dsync_write(io)) {
        or_block_end(io, OR_OK);
    } else if (io->volume->flush_failed) {
        or_block_end(io, OR_EIO);
    } else {
        sync_request(io);
    }
}

static void file_failed(struct or_io *io, int32_t error)
{
    /* With RWF_DSYNC the write and its sync fail as one. A full disk stops the first; anything else may
     * have been the second. */
    if (is_dsync_write(io) && status_of(error) != OR_ENOSPACE) {
        io->volume->flush_failed = true;
    }
    tell(io, error);
    or_block_end(io, status_of(error));
}

/* The end of the file lies inside the volume: someone cut it, and what had been written there is gone. */
static void file_truncated(struct or_io *io)
{
    io->volume->flush_failed = true;
    file_failed(io, -EIO);
}

/* A way of deallocating or zeroing that the storage does not know: remembers that, and goes on with
 * the next. */
static void file_unsupported(struct or_io *io)
{
    struct file_volume *file = file_of(io);
    if (io->stage == OR_FILE_PUNCH) {
        file->can_punch = false;
    } else {
        file->can_zero_range = false;
    }
    if (io->op == OR_OP_DISCARD) {
        io->volume->discard_granularity = 0;
        or_block_end(io, OR_EUNSUPP);
    } else {
        start(io, zeroing_step(io));
    }
}

static void file_ended(struct or_io *io, int32_t result)
{
    enum or_file_step step = io->stage;
    if (result == -EAGAIN || result == -EINTR) {
        start(io, step);
    } else if (step == OR_FILE_SYNC) {
        sync_ended(file_of(io), result);
    } else if (result == -EOPNOTSUPP && (step == OR_FILE_PUNCH || step == OR_FILE_ZERO_RANGE)) {
        file_unsupported(io);
    } else if (result < 0) {
        file_failed(io, result);
    } else if (step == OR_FILE_PUNCH || step == OR_FILE_ZERO_RANGE) {
        finish(io);
    } else if (result == 0) {
        io->op == OR_OP_READ ? file_truncated(io) : file_failed(io, -EIO);
    } else {
        assert((uint32_t)result <= io->length - io->progress);
        io->progress += (uint32_t)result;
        if (io->progress < io->length) {
            start(io, step);
        } else {
            finish(io);
        }
    }
}

static void file_close(struct or_volume *volume)
{
    assert(volume->in_flight == 0);
    close(volume->fd);
    free(volume);
}

static void file_enter(struct or_volume *volume, struct or_uring *uring)
{
    ((struct file_volume *)volume)->base.uring = uring;
}

static const struct or_backend_ops file_ops = {
    .name = "file", .submit = file_submit, .enter = file_enter, .close = file_close};

struct or_volume *or_file_create(struct or_uring *uring, int fd, bool read_only, const struct or_file_traits *traits)
{
    struct file_volume *file = calloc(1, sizeof(*file));
    if (!file) {
        return NULL;
    }
    file->base = (struct or_uring_volume){.base = {.ops = &file_ops,
                                                   .size = traits->size,
                                                   .block_size = traits->block_size,
                                                   .physical_block_size = traits->physical_block_size,
                                                   .read_only = read_only,
                                                   .direct = traits->direct,
                                                   .align = traits->align,
                                                   .discard_granularity = traits->discard_granularity,
                                                   .write_zeroes = !read_only,
                                                   .fd = fd},
                                          .uring = uring,
                                          .prepare = file_prepare,
                                          .ended = file_ended};
    file->can_punch = traits->discard_granularity != 0;
    file->can_zero_range = true;
    or_list_init(&file->sync_followers);
    or_list_init(&file->sync_waiting);
    return &file->base.base;
}

struct or_volume *or_volume_file(struct or_uring *uring, int fd, bool read_only, int *err)
{
    struct or_file_traits traits;
    *err = or_file_probe(fd, read_only, &traits);
    if (*err != 0) {
        return NULL;
    }
    struct or_volume *volume = or_file_create(uring, fd, read_only, &traits);
    if (!volume) {
        *err = -ENOMEM;
    }
    return volume;
}
