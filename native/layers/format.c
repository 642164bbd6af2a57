/* Overlay files: made, and read when they are opened. All of it blocks. */
#include "layers/format.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include "layers/map.h"
#include "layers/plant.h"

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the header is read and written as it is");

static const uint8_t magic[8] = {'O', 'R', 'O', 'V', 'E', 'R', 'L', 'Y'};

static uint64_t round_up(uint64_t value, uint64_t multiple)
{
    return (value + multiple - 1) / multiple * multiple;
}

uint64_t or_overlay_map_bytes(uint64_t size)
{
    return round_up((or_overlay_clusters(size) + 3) / 4, OR_OVERLAY_PAGE);
}

uint64_t or_overlay_data_offset(uint64_t size)
{
    return round_up(OR_OVERLAY_MAP_OFFSET + or_overlay_map_bytes(size), OR_OVERLAY_DATA_ALIGN);
}

uint64_t or_overlay_file_bytes(uint64_t size)
{
    return or_overlay_data_offset(size) + or_overlay_clusters(size) * OR_LAYER_CLUSTER;
}

bool or_overlay_size_valid(uint64_t size)
{
    return size != 0 && size % 512 == 0 && size <= OR_LAYER_SIZE_MAX;
}

static uint64_t check_of(const struct or_overlay_header *header)
{
    return XXH3_64bits(header, offsetof(struct or_overlay_header, check));
}

void or_overlay_encode(struct or_overlay_header *header, uint64_t size, uint64_t content, uint64_t continues)
{
    memset(header, 0, sizeof *header);
    memcpy(header->magic, magic, sizeof magic);
    header->version = OR_OVERLAY_VERSION;
    header->cluster_bytes = OR_LAYER_CLUSTER;
    header->size = size;
    header->data_offset = or_overlay_data_offset(size);
    header->content = content;
    header->continues = continues;
    header->check = check_of(header);
}

const char *or_overlay_check(const struct or_overlay_header *header)
{
    if (memcmp(header->magic, magic, sizeof magic) != 0)
        return "is not a layer";
    if (header->check != check_of(header))
        return "is a layer with a damaged header";
    if (header->version != OR_OVERLAY_VERSION)
        return "is a layer in the format of another version";
    if (header->cluster_bytes != OR_LAYER_CLUSTER || !or_overlay_size_valid(header->size) || !header->content ||
        header->data_offset != or_overlay_data_offset(header->size))
        return "is a layer with a header that cannot be";
    return NULL;
}

/* --- making ------------------------------------------------------------------------------------- */

static int write_header(int fd, uint64_t size, uint64_t content, uint64_t continues)
{
    struct or_overlay_header *header = aligned_alloc(OR_OVERLAY_PAGE, sizeof *header);
    if (!header)
        return -ENOMEM;
    or_overlay_encode(header, size, content, continues);
    ssize_t written = pwrite(fd, header, sizeof *header, 0);
    int err = written == (ssize_t)sizeof *header ? 0 : written < 0 ? -errno : -EIO;
    free(header);
    return err;
}

int or_layer_format(int fd, uint64_t size, uint64_t content, uint64_t continues)
{
    struct stat info;
    if (!or_overlay_size_valid(size) || !content)
        return -EINVAL;
    if (fstat(fd, &info) != 0)
        return -errno;
    if (info.st_size != 0)
        return -EEXIST;
    if (ftruncate(fd, (off_t)or_overlay_file_bytes(size)) != 0)
        return -errno;
    /* A full disk may stop a write of the guest's, but not a flush of what it has written. Not every file system has
     * it, and one that copies on write promises nothing by it. */
    if (fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, (off_t)(OR_OVERLAY_MAP_OFFSET + or_overlay_map_bytes(size))) != 0 &&
        errno != EOPNOTSUPP)
        return -errno;
    int err = write_header(fd, size, content, continues);
    if (err)
        return err;
    return fsync(fd) == 0 ? 0 : -errno;
}

/* 0 when there is such an overlay; -ENOENT: there is nothing. */
static int find_same(const char *path, uint64_t size, uint64_t content, uint64_t continues)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC), err = 0;
    if (fd < 0)
        return -errno;
    struct or_overlay_header header;
    struct stat info;
    if (fstat(fd, &info) != 0 || pread(fd, &header, sizeof header, 0) != (ssize_t)sizeof header ||
        or_overlay_check(&header) || header.size != size || header.content != content ||
        header.continues != continues || (uint64_t)info.st_size < or_overlay_file_bytes(size))
        err = -EEXIST;
    close(fd);
    return err;
}

static int sync_folder(const char *path)
{
    char copy[PATH_MAX];
    snprintf(copy, sizeof copy, "%s", path);
    int fd = open(dirname(copy), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    int err = fsync(fd) == 0 ? 0 : -errno;
    close(fd);
    return err;
}

/* Under another name, so that it has its own only when it is whole. */
static int create_beside(const char *path, uint64_t size, uint64_t content, uint64_t continues)
{
    char fresh[PATH_MAX];
    if (snprintf(fresh, sizeof fresh, "%s.new", path) >= (int)sizeof fresh)
        return -ENAMETOOLONG;
    int fd = open(fresh, O_RDWR | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (fd < 0)
        return -errno;
    int err = or_layer_format(fd, size, content, continues);
    if (!err && rename(fresh, path) != 0)
        err = -errno;
    if (err)
        unlink(fresh);
    close(fd);
    return err;
}

int or_layer_create(const char *path, uint64_t size, uint64_t content, uint64_t continues)
{
    if (!or_overlay_size_valid(size) || !content)
        return -EINVAL;
    int err = find_same(path, size, content, continues);
    if (err == -ENOENT)
        err = create_beside(path, size, content, continues);
    return err ? err : sync_folder(path);
}

/* --- reading ------------------------------------------------------------------------------------ */

static int read_all(int fd, uint8_t *to, uint64_t bytes, uint64_t offset)
{
    while (bytes) {
        ssize_t got = pread(fd, to, bytes, (off_t)offset);
        if (got == 0)
            return -EBADMSG;
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return -errno;
        to += got;
        offset += (uint64_t)got;
        bytes -= (uint64_t)got;
    }
    return 0;
}

/* Only what is not a hole: of a large map most is, and stays, no memory. */
static int read_map(int fd, struct or_layer_map *map)
{
    uint64_t end = OR_OVERLAY_MAP_OFFSET + map->bytes;
    for (uint64_t at = OR_OVERLAY_MAP_OFFSET; at < end;) {
        off_t data = lseek(fd, (off_t)at, SEEK_DATA), hole;
        if (data < 0 && errno == ENXIO)
            return 0;
        if (data < 0 || (hole = lseek(fd, data, SEEK_HOLE)) < 0) {
            data = (off_t)at; /* a file system that does not say */
            hole = (off_t)end;
        }
        if ((uint64_t)data >= end)
            return 0;
        uint64_t to = (uint64_t)hole < end ? (uint64_t)hole : end;
        int err =
            read_all(fd, map->bits + ((uint64_t)data - OR_OVERLAY_MAP_OFFSET), to - (uint64_t)data, (uint64_t)data);
        if (err)
            return err;
        at = to;
    }
    return 0;
}

static struct or_layer_map *load(int fd, const struct or_overlay_header *header, int *err, const char **why)
{
    struct stat info;
    if (fstat(fd, &info) != 0) {
        *err = -errno;
        return NULL;
    }
    *err = -EBADMSG;
    *why = or_overlay_check(header);
    if (*why)
        return NULL;
    if ((uint64_t)info.st_size < or_overlay_file_bytes(header->size)) {
        *why = "is a layer that was cut short";
        return NULL;
    }
    struct or_layer_map *map = or_layer_map_new(header->size, header->content);
    if (map)
        map->continues = header->continues;
    *err = map ? read_map(fd, map) : -ENOMEM;
    if (!*err && !or_layer_map_take_stock(map)) {
        *err = -EBADMSG;
        *why = "is a layer with a damaged map";
    }
    if (!*err)
        return map;
    or_layer_map_free(map);
    return NULL;
}

/* An engine that was killed may have written what no flush of it made durable: pages of the map, which count as durable
 * once they are loaded; and the last of what is sealed now, which no flush will reach any more. */
static int sync_file(int fd)
{
    return OR_LAYERS_PLANTED(OR_LAYERS_PLANT_LOAD_UNSYNCED) || fsync(fd) == 0 ? 0 : -errno;
}

struct or_layer_map *or_layer_load(int fd, int *err, const char **why)
{
    *why = NULL;
    struct or_overlay_header *header = aligned_alloc(OR_OVERLAY_PAGE, sizeof *header);
    *err = header ? sync_file(fd) : -ENOMEM;
    if (!*err)
        *err = read_all(fd, (uint8_t *)header, sizeof *header, 0);
    struct or_layer_map *map = NULL;
    if (*err == -EBADMSG)
        *why = "is too short for a layer";
    else if (!*err)
        map = load(fd, header, err, why);
    if (!map && !*why)
        *why = *err == -ENOMEM ? "has a map that memory does not suffice for" : "cannot be read";
    free(header);
    return map;
}
