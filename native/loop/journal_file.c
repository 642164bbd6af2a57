/* The file of a domain's journal, made on a thread that may wait. */
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine_internal.h"

#define PIECE (1u << 20)

/* Real zeroes: where nothing was ever written the file system would have to note each first write, which makes the sync
 * behind it slower. */
static int write_zeroes(int fd, uint64_t size)
{
    static const uint8_t zeroes[PIECE];
    int err = posix_fallocate(fd, 0, (off_t)size);
    for (uint64_t at = 0; !err && at < size;) {
        ssize_t n = pwrite(fd, zeroes, size - at < PIECE ? size - at : PIECE, (off_t)at);
        if (n < 0 && errno != EINTR)
            err = errno;
        at += n > 0 ? (uint64_t)n : 0;
    }
    if (!err && fsync(fd) != 0)
        err = errno;
    return -err;
}

static int sync_folder(const char *path)
{
    char folder[4096];
    snprintf(folder, sizeof folder, "%s", path);
    int fd = open(dirname(folder), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int err = fd < 0 || fsync(fd) != 0 ? -errno : 0;
    if (fd >= 0)
        close(fd);
    return err;
}

/* Under a hidden name first, so that a journal that is there is whole. */
static int make(const char *path, uint64_t size)
{
    char folder[4096], base[4096], hidden[4096 + 16];
    snprintf(folder, sizeof folder, "%s", path);
    snprintf(base, sizeof base, "%s", path);
    if (snprintf(hidden, sizeof hidden, "%s/.%s.new", dirname(folder), basename(base)) >= (int)sizeof hidden)
        return -ENAMETOOLONG;
    int fd = open(hidden, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0)
        return -errno;
    int err = write_zeroes(fd, size);
    close(fd);
    if (!err && rename(hidden, path) != 0)
        err = -errno;
    if (err)
        unlink(hidden);
    return err ? err : sync_folder(path);
}

int or_journal_file_create(const char *path, uint64_t size, char *why)
{
    struct stat st;
    bool there = stat(path, &st) == 0;
    int err = there ? 0 : make(path, size);
    if (there && (!S_ISREG(st.st_mode) || (uint64_t)st.st_size != size)) {
        snprintf(why, OR_WHY_MAX, "%s is there already, and is not a journal of %llu bytes", path,
                 (unsigned long long)size);
        return -EEXIST;
    }
    if (err)
        snprintf(why, OR_WHY_MAX, "cannot make the journal %s: %s", path, strerror(-err));
    return err;
}
