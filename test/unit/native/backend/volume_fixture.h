/* A volume on each kind of storage, opened and closed for one test, and the plain way to run one
 * operation on it. */
#ifndef VOLUME_FIXTURE_H
#define VOLUME_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <linux/loop.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/random.h>
#include <unistd.h>

#include "backend/backend.h"
#include "backend/block/file.h"
#include "backend/block/uring.h"

#define MIB ((uint64_t)1 << 20)
#define FIXTURE_SIZE (8 * MIB)
#define BUFFER_ALIGN 4096u
/* Far longer than anything here takes: a lost wake-up fails the test instead of hanging it. */
#define STUCK_MS 30000

enum fixture_kind {
    KIND_DIRECT,   /* a file on the disk that holds the build directory, O_DIRECT where it has it */
    KIND_BUFFERED, /* the same through the page cache */
    KIND_TMPFS,
    KIND_LOOP,      /* a block device with blocks of 512 bytes */
    KIND_LOOP_4096, /* and of 4096 */
    KIND_RAM,
    KIND_RAM_4096,
    KIND_NULL,
    KIND_COUNT,
};

static const char *const kind_names[KIND_COUNT] = {
    "direct file",           "buffered file", "tmpfs file",    "loop device",
    "4096-byte loop device", "ram",           "4096-byte ram", "null"};

struct fixture {
    enum fixture_kind kind;
    struct or_uring *uring;
    struct or_volume *volume;
    int epoll_fd;
    int loop_fd;
    char path[512]; /* "" when there is no file */
};

static inline bool kind_is_file(enum fixture_kind kind)
{
    return kind <= KIND_LOOP_4096;
}

/* A fresh name in the directory of the test program (on a disk), or on tmpfs. */
static inline void fixture_path(struct fixture *fx, bool tmpfs)
{
    char exe[256] = {0};
    assert_true(readlink("/proc/self/exe", exe, sizeof(exe) - 1) > 0);
    snprintf(fx->path, sizeof(fx->path), "%s/or-volume-XXXXXX", tmpfs ? "/dev/shm" : dirname(exe));
    int fd = mkstemp(fx->path);
    assert_true(fd >= 0);
    assert_int_equal(ftruncate(fd, FIXTURE_SIZE), 0);
    close(fd);
}

/* Binds fx->path to a free loop device and opens that; -1 with a reason when there is none. */
static inline int fixture_loop(struct fixture *fx, uint32_t block_size)
{
    int control = open("/dev/loop-control", O_RDWR | O_CLOEXEC);
    int number = control < 0 ? -1 : ioctl(control, LOOP_CTL_GET_FREE);
    if (number < 0) {
        print_message("no loop device: %s\n", strerror(errno));
        close(control);
        return -1;
    }
    close(control);
    char device[32];
    snprintf(device, sizeof(device), "/dev/loop%d", number);
    int backing = open(fx->path, O_RDWR | O_CLOEXEC);
    assert_true(backing >= 0);
    fx->loop_fd = open(device, O_RDWR | O_CLOEXEC);
    struct loop_config config = {
        .fd = (uint32_t)backing, .block_size = block_size, .info.lo_flags = LO_FLAGS_AUTOCLEAR};
    if (fx->loop_fd < 0 || ioctl(fx->loop_fd, LOOP_CONFIGURE, &config) != 0) {
        print_message("cannot set up %s: %s\n", device, strerror(errno));
        close(backing);
        return -1;
    }
    close(backing);
    return open(device, O_RDWR | O_CLOEXEC);
}

/* The file's volume without O_DIRECT. */
static inline struct or_volume *fixture_buffered(struct or_uring *uring, int fd)
{
    struct or_file_traits traits;
    assert_int_equal(or_file_probe(fd, false, &traits), 0);
    traits.direct = false;
    traits.align = 1;
    assert_int_equal(fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) & ~O_DIRECT), 0);
    return or_file_create(uring, fd, false, &traits);
}

static inline void fixture_open_file(struct fixture *fx)
{
    int err = 0;
    int fd;
    fixture_path(fx, fx->kind == KIND_TMPFS);
    if (fx->kind == KIND_LOOP || fx->kind == KIND_LOOP_4096) {
        fd = fixture_loop(fx, fx->kind == KIND_LOOP ? 512 : 4096);
        if (fd < 0) {
            return;
        }
    } else {
        fd = open(fx->path, O_RDWR | O_CLOEXEC);
    }
    assert_true(fd >= 0);
    fx->volume =
        fx->kind == KIND_BUFFERED ? fixture_buffered(fx->uring, fd) : or_volume_file(fx->uring, fd, false, &err);
    assert_int_equal(err, 0);
}

static inline void fixture_close(struct fixture *fx)
{
    if (fx->volume) {
        fx->volume->ops->close(fx->volume);
    }
    or_uring_destroy(fx->uring);
    close(fx->epoll_fd);
    if (fx->loop_fd >= 0) {
        close(fx->loop_fd);
    }
    if (fx->path[0]) {
        unlink(fx->path);
    }
    free(fx);
}

/* A volume of FIXTURE_SIZE on a ring of `entries`. Where the machine cannot, skips the test after it
 * said why. */
static inline struct fixture *fixture_open(enum fixture_kind kind, uint32_t entries)
{
    struct fixture *fx = calloc(1, sizeof(*fx));
    int err = 0;
    fx->kind = kind;
    fx->loop_fd = -1;
    fx->uring = or_uring_create(entries, &err);
    assert_non_null(fx->uring);
    fx->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event event = {.events = EPOLLIN};
    assert_int_equal(epoll_ctl(fx->epoll_fd, EPOLL_CTL_ADD, or_uring_fd(fx->uring), &event), 0);
    switch (kind) {
    case KIND_RAM:
    case KIND_RAM_4096:
        fx->volume = or_volume_ram(FIXTURE_SIZE, kind == KIND_RAM ? 512 : 4096, &err);
        break;
    case KIND_NULL:
        fx->volume = or_volume_null(FIXTURE_SIZE, 512, &err);
        break;
    default:
        fixture_open_file(fx);
        break;
    }
    if (!fx->volume) {
        fixture_close(fx);
        skip();
        abort(); /* which the compiler does not know to be out of reach */
    }
    return fx;
}

static inline uint8_t *buffer_new(size_t bytes)
{
    void *buffer = NULL;
    assert_int_equal(posix_memalign(&buffer, BUFFER_ALIGN, bytes), 0);
    return buffer;
}

/* An operation that a test waits for. */
struct task {
    struct or_io io;
    uint32_t done;
};

static inline void count_done(struct or_io *io)
{
    ((struct task *)io)->done++;
}

static inline void task_start(struct fixture *fx, struct task *task, uint8_t op, uint8_t flags, uint64_t offset,
                              uint32_t length, uint8_t *data)
{
    *task = (struct task){
        .io = {.op = op, .flags = flags, .offset = offset, .length = length, .data = data, .done = count_done}};
    /* What no back-end may take for an outcome. */
    task->io.status = OR_STATUS_MAX;
    or_volume_submit(fx->volume, &task->io);
}

/* Runs the ring until task has ended, asleep in epoll_wait whenever a worker would be. */
static inline uint8_t task_wait(struct fixture *fx, struct task *task)
{
    while (!task->done) {
        if (or_uring_poll(fx->uring) != 0) {
            continue;
        }
        struct epoll_event event;
        int ready = or_uring_arm(fx->uring) ? 1 : epoll_wait(fx->epoll_fd, &event, 1, STUCK_MS);
        assert_true(ready == 1 || (ready < 0 && errno == EINTR));
        or_uring_disarm(fx->uring);
    }
    assert_int_equal(task->done, 1);
    return task->io.status;
}

static inline uint8_t run(struct fixture *fx, uint8_t op, uint8_t flags, uint64_t offset, uint32_t length,
                          uint8_t *data)
{
    struct task task;
    task_start(fx, &task, op, flags, offset, length, data);
    return task_wait(fx, &task);
}

static inline void assert_all_zero(const uint8_t *bytes, size_t length)
{
    assert_true(length == 0 || (bytes[0] == 0 && memcmp(bytes, bytes + 1, length - 1) == 0));
}

static inline void fill_random(uint8_t *bytes, size_t length)
{
    for (size_t got = 0; got < length;) {
        ssize_t more = getrandom(bytes + got, length - got, 0);
        assert_true(more > 0);
        got += (size_t)more;
    }
}

#endif
