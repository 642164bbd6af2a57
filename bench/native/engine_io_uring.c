/* A local file or block device through io_uring: what the storage of this machine gives without any
 * network. O_DIRECT where the file system has it. */
#include "loadgen.h"
#include "waiter.h"
#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct io_uring_engine {
    struct engine base;
    struct io_uring ring;
    int fd;
};

static struct engine *local_open(const struct options *options, struct slot *slots)
{
    (void)slots;
    if (!options->file)
        die("--file is needed");
    struct io_uring_engine *e = memory_new(sizeof *e);
    e->base.ops = &engine_io_uring;
    e->fd = open(options->file, O_RDWR | O_DIRECT | O_CLOEXEC);
    if (e->fd < 0 && errno == EINVAL)
        e->fd = open(options->file, O_RDWR | O_CLOEXEC);
    if (e->fd < 0)
        die("%s: %s", options->file, strerror(errno));
    off_t size = lseek(e->fd, 0, SEEK_END);
    if (size < 0)
        die("%s: %s", options->file, strerror(errno));
    e->base.size_bytes = (uint64_t)size;
    int rc = io_uring_queue_init((unsigned)options->qd, &e->ring, 0);
    if (rc < 0)
        die("io_uring: %s", strerror(-rc));
    return &e->base;
}

static void local_submit(struct engine *engine, struct slot *slot)
{
    struct io_uring_engine *e = (struct io_uring_engine *)engine;
    struct io_uring_sqe *sqe = io_uring_get_sqe(&e->ring);
    assert(sqe); /* the ring has an entry for each slot */
    if (slot->op == OR_OP_READ)
        io_uring_prep_read(sqe, e->fd, slot->data, slot->length, slot->offset);
    else
        io_uring_prep_write(sqe, e->fd, slot->data, slot->length, slot->offset);
    io_uring_sqe_set_data(sqe, slot);
}

static void local_progress(struct engine *engine)
{
    struct io_uring_engine *e = (struct io_uring_engine *)engine;
    struct __kernel_timespec timeout = {.tv_nsec = WAIT_MS_MAX * 1000000};
    struct io_uring_cqe *cqe;
    int rc = io_uring_submit_and_wait_timeout(&e->ring, &cqe, 1, &timeout, NULL);
    if (rc < 0 && rc != -ETIME && rc != -EINTR)
        die("io_uring: %s", strerror(-rc));
    while (io_uring_peek_cqe(&e->ring, &cqe) == 0) {
        struct slot *slot = io_uring_cqe_get_data(cqe);
        bool good = cqe->res == (int)slot->length;
        io_uring_cqe_seen(&e->ring, cqe);
        load_done(slot, good ? OR_OK : OR_EIO);
    }
}

static void local_close(struct engine *engine)
{
    struct io_uring_engine *e = (struct io_uring_engine *)engine;
    io_uring_queue_exit(&e->ring);
    close(e->fd);
    free(e);
}

const struct engine_ops engine_io_uring = {
    .name = "io_uring",
    .open = local_open,
    .submit = local_submit,
    .progress = local_progress,
    .close = local_close,
};
