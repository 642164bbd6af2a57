/* The lock that keeps a volume to one engine. A process that is killed may leave O_DIRECT writes
 * behind that land seconds later; its open file description, and the flock with it, lives until they
 * have. So whoever gets the lock knows that no write of a predecessor is still to come. */
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <time.h>
#include <unistd.h>

#include "engine_internal.h"

#define RETRY_NS 5000000

static _Atomic bool cancelled;

void or_volume_file_lock_cancel(void)
{
    cancelled = true;
}

static int open_file(const char *path, int flags, char *why)
{
    int fd = open(path, flags | O_CLOEXEC);
    if (fd >= 0)
        return fd;
    int err = -errno;
    snprintf(why, OR_WHY_MAX, "cannot open %s: %s", path, strerror(-err));
    return err;
}

/* 0 or -errno: -EWOULDBLOCK somebody has it. */
typedef int (*try_lock)(int fd);

static int lock_shared(int fd)
{
    return flock(fd, LOCK_SH | LOCK_NB) == 0 ? 0 : -errno;
}

static int lock_exclusive(int fd)
{
    return flock(fd, LOCK_EX | LOCK_NB) == 0 ? 0 : -errno;
}

/* It ends with the open file description, as a flock does, so with the last write. */
static int lock_merge(int fd)
{
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    if (fcntl(fd, F_OFD_SETLK, &lock) == 0)
        return 0;
    return errno == EACCES || errno == EAGAIN ? -EWOULDBLOCK : -errno;
}

/* fd, or, closed, -errno. */
static int wait_for(int fd, try_lock lock, const char *path, uint32_t timeout_ms, char *why)
{
    uint64_t end = or_clock_ns() + (uint64_t)timeout_ms * 1000000;
    for (int err = lock(fd); err != 0; err = lock(fd)) {
        if (err == -EINTR)
            continue;
        if (cancelled)
            err = -ECANCELED;
        if (err != -EWOULDBLOCK || or_clock_ns() >= end) {
            close(fd);
            snprintf(why, OR_WHY_MAX,
                     err == -EWOULDBLOCK ? "%s is locked by another process, or one that died still writes to it: %s"
                                         : "cannot lock %s: %s",
                     path, strerror(-err));
            return err;
        }
        struct timespec pause = {0, RETRY_NS};
        nanosleep(&pause, NULL);
    }
    return fd;
}

int or_volume_file_lock(const char *path, bool read_only, uint32_t timeout_ms, char *why)
{
    int fd = open_file(path, read_only ? O_RDONLY : O_RDWR, why);
    return fd < 0 ? fd : wait_for(fd, read_only ? lock_shared : lock_exclusive, path, timeout_ms, why);
}

int or_volume_file_lock_merge(const char *path, uint32_t timeout_ms, char *why)
{
    int fd = open_file(path, O_RDWR, why);
    fd = fd < 0 ? fd : wait_for(fd, lock_shared, path, timeout_ms, why);
    return fd < 0 ? fd : wait_for(fd, lock_merge, path, timeout_ms, why);
}
