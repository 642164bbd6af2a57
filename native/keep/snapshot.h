/* What a host's engine leaves with its supervisor for each device, and how it travels between them.
 *
 * A snapshot is a record that only engines understand, and descriptors. The supervisor's store (store.h)
 * holds the latest one of each device; as long as it does, nothing ends for whoever is at the other end of
 * a descriptor, whatever becomes of the engine. The next engine (link.h) gets them all.
 *
 * On the socket (SOCK_SEQPACKET, so that a message is whole or not there): struct or_keep_header, then the
 * record; the descriptors go with it as SCM_RIGHTS. Machine byte order: both ends are on one machine. */
#ifndef OR_KEEP_SNAPSHOT_H
#define OR_KEEP_SNAPSHOT_H

#include <stdbool.h>
#include <stdint.h>

#define OR_KEEP_BYTES_MAX 6144u
#define OR_KEEP_FDS_MAX 128u /* the kernel passes at most 253 */

enum or_keep_type {
    OR_KEEP_SNAPSHOT = 1, /* both ways; replaces the one that was held */
    OR_KEEP_FORGET = 2,   /* to the store: the device is gone */
    OR_KEEP_END = 3,      /* from the store: that was all */
};

struct or_keep_header {
    uint32_t magic;
    uint32_t type;
    uint32_t id; /* of the device */
    uint32_t padding;
};

struct or_keep_snapshot {
    uint32_t id;
    uint32_t length, fd_count;
    int fds[OR_KEEP_FDS_MAX]; /* -1: taken out */
    uint8_t bytes[OR_KEEP_BYTES_MAX] __attribute__((aligned(8)));
};

/* Adds a descriptor, which stays the caller's: a snapshot that is made in order to be sent borrows them
 * all. False: there is no room. */
bool or_keep_put_fd(struct or_keep_snapshot *snapshot, int fd);
/* One that was received owns its descriptors: closes those that were not taken out. */
void or_keep_close_fds(struct or_keep_snapshot *snapshot);

/* Sends a message; `snapshot` is NULL but for OR_KEEP_SNAPSHOT. Never blocks. 0; -EAGAIN: no room now;
 * other -errno. */
int or_keep_send(int sock, enum or_keep_type type, uint32_t id, const struct or_keep_snapshot *snapshot);
/* Receives a message. Returns its type, with *snapshot filled in (its id; and all of it, with its
 * descriptors, for OR_KEEP_SNAPSHOT); 0: none is there; -EPROTO: one that makes no sense, or whose
 * descriptors did not all arrive, was dropped; -ECONNRESET: the peer is gone and nothing of it is left;
 * other -errno. */
int or_keep_receive(int sock, struct or_keep_snapshot *snapshot);

#endif
