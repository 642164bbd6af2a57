/* Volumes in files and block devices; private to that back-end and its tests. */
#ifndef OR_FILE_H
#define OR_FILE_H

#include "backend/backend.h"

/* Which system call an operation is at (or_io.stage). */
enum or_file_step {
    OR_FILE_TRANSFER,   /* read or write of the caller's data */
    OR_FILE_PUNCH,      /* deallocation, reads as zeroes afterwards */
    OR_FILE_ZERO_RANGE, /* zeroes without deallocation */
    OR_FILE_ZERO_WRITE, /* the same by writing zeroes */
    OR_FILE_SYNC,       /* fdatasync */
};

/* What a descriptor can do. */
struct or_file_traits {
    uint64_t size; /* bytes, a multiple of block_size */
    uint32_t block_size;
    uint32_t physical_block_size;
    bool direct;
    uint32_t align;               /* of data, bytes; 1 unless direct */
    uint32_t discard_granularity; /* bytes, 0: discard unsupported */
};

/* Finds out, without changing a byte of the file, and sets or clears O_DIRECT on fd accordingly. 0 or
 * -errno; see or_volume_file. May block; any thread. */
int or_file_probe(int fd, bool read_only, struct or_file_traits *traits);

/* or_volume_file with traits already known. NULL when memory is short. */
struct or_volume *or_file_create(struct or_uring *uring, int fd, bool read_only, const struct or_file_traits *traits);

#endif
