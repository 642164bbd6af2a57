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

int or_volume_file_lock(const char *path, bool read_only, uint32_t timeout_ms, char *why)
{
    int fd = open(path, (read_only ? O_RDONLY : O_RDWR) | O_CLOEXEC);
    if (fd < 0) {
        int err = -errno;
        snprintf(why, OR_WHY_MAX, "cannot open %s: %s", path, strerror(-err));
        return err;
    }
    uint64_t end = or_clock_ns() + (uint64_t)timeout_ms * 1000000;
    while (flock(fd, (read_only ? LOCK_SH : LOCK_EX) | LOCK_NB) != 0) {
        int err = -errno;
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
