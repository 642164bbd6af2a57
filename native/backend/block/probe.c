/* What a volume's descriptor can do, found out before the first request and without changing a byte:
 * by asking where the kernel has an answer, by a read or by deallocating beyond the end of the file
 * where it has none. Runs on whatever thread opens the volume; all calls here may block. */
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "backend/block/block.h"
#include "backend/block/file.h"

static int set_direct(int fd, bool direct)
{
    int flags = fcntl(fd, F_GETFL);
    if (flags < 0) {
        return -errno;
    }
    return fcntl(fd, F_SETFL, direct ? flags | O_DIRECT : flags & ~O_DIRECT) == 0 ? 0 : -errno;
}

/* Whether a direct read of one block of this size works as far as alignment goes. */
static bool direct_read_works(int fd, uint32_t block_size)
{
    void *buffer;
    if (posix_memalign(&buffer, block_size, block_size) != 0) {
        return false;
    }
    ssize_t got = pread(fd, buffer, block_size, 0);
    /* A bad sector is for the guest to meet, not a reason against direct I/O. */
    bool works = got >= 0 || (errno != EINVAL && errno != EOPNOTSUPP);
    free(buffer);
    return works;
}

/* The smallest block for which direct I/O works, at least block_size; 0 when it does not. align: what
 * data then needs. */
static uint32_t direct_block_size(int fd, uint32_t block_size, uint32_t *align)
{
    struct statx info;
    if (statx(fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &info) == 0 && (info.stx_mask & STATX_DIOALIGN)) {
        *align = info.stx_dio_mem_align;
        if (info.stx_dio_offset_align == 0 || info.stx_dio_offset_align > OR_BLOCK_ALIGN_MAX ||
            *align > OR_BLOCK_ALIGN_MAX) {
            return 0;
        }
        return info.stx_dio_offset_align > block_size ? OR_BLOCK_ALIGN_MAX : block_size;
    }
    /* A kernel before 6.1, or a file system that does not say. */
    for (uint32_t size = block_size; size <= OR_BLOCK_ALIGN_MAX; size *= 8) {
        if (direct_read_works(fd, size)) {
            *align = size;
            return size;
        }
    }
    return 0;
}

static int probe_direct(int fd, struct or_file_traits *traits)
{
    traits->align = 1;
    if (set_direct(fd, true) == 0) {
        uint32_t block_size = direct_block_size(fd, traits->block_size, &traits->align);
        if (block_size != 0) {
            traits->direct = true;
            traits->block_size = block_size;
            return 0;
        }
    }
    traits->direct = false;
    traits->align = 1;
    return set_direct(fd, false);
}

/* A number from the queue of the disk that the device is, or is a partition of; 0 when unknown. */
static unsigned long long queue_limit(dev_t device, const char *name)
{
    static const char *const formats[] = {"/sys/dev/block/%u:%u/queue/%s", "/sys/dev/block/%u:%u/../queue/%s"};
    unsigned long long value = 0;
    for (size_t i = 0; i < sizeof(formats) / sizeof(formats[0]); i++) {
        char path[128];
        snprintf(path, sizeof(path), formats[i], major(device), minor(device), name);
        FILE *file = fopen(path, "re");
        if (file) {
            if (fscanf(file, "%llu", &value) != 1) {
                value = 0;
            }
            fclose(file);
            break;
        }
    }
    return value;
}

static int probe_device(int fd, bool read_only, dev_t device, struct or_file_traits *traits)
{
    uint64_t size;
    int logical;
    unsigned int physical;
    int write_protected;
    if (ioctl(fd, BLKGETSIZE64, &size) != 0 || ioctl(fd, BLKSSZGET, &logical) != 0 ||
        ioctl(fd, BLKPBSZGET, &physical) != 0 || ioctl(fd, BLKROGET, &write_protected) != 0) {
        return -errno;
    }
    if (write_protected && !read_only) {
        return -EROFS;
    }
    if (logical != 512 && logical != 4096) {
        return -EOPNOTSUPP;
    }
    traits->size = size;
    traits->block_size = (uint32_t)logical;
    traits->physical_block_size = physical;
    /* PUNCH_HOLE on a device is a write-zeroes command that may deallocate. */
    if (!read_only && queue_limit(device, "discard_max_bytes") != 0 &&
        queue_limit(device, "write_zeroes_max_bytes") != 0) {
        traits->discard_granularity = (uint32_t)queue_limit(device, "discard_granularity");
    }
    return 0;
}

static void probe_regular(int fd, bool read_only, const struct stat *info, struct or_file_traits *traits)
{
    traits->size = (uint64_t)info->st_size;
    traits->block_size = 512;
    traits->physical_block_size = OR_BLOCK_PHYSICAL;
    /* Beyond the end there is nothing to lose. */
    off_t beyond = (info->st_size / OR_BLOCK_PHYSICAL + 1) * OR_BLOCK_PHYSICAL;
    if (!read_only && fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, beyond, OR_BLOCK_PHYSICAL) == 0) {
        traits->discard_granularity = (uint32_t)info->st_blksize;
    }
}

int or_file_probe(int fd, bool read_only, struct or_file_traits *traits)
{
    struct stat info;
    int flags = fcntl(fd, F_GETFL);
    if (flags < 0 || fstat(fd, &info) != 0) {
        return -errno;
    }
    if (!read_only && (flags & O_ACCMODE) != O_RDWR) {
        return -EROFS;
    }
    *traits = (struct or_file_traits){0};
    int err = 0;
    if (S_ISBLK(info.st_mode)) {
        err = probe_device(fd, read_only, info.st_rdev, traits);
    } else if (S_ISREG(info.st_mode)) {
        probe_regular(fd, read_only, &info, traits);
    } else {
        err = -ENOTBLK;
    }
    if (err == 0) {
        err = probe_direct(fd, traits);
    }
    if (err != 0) {
        return err;
    }
    traits->size -= traits->size % traits->block_size;
    return traits->size != 0 ? 0 : -EINVAL;
}
