/* The requests of one virtqueue of a disk: chains in, requests to the session, completions out.
 *
 * A ring belongs to its virtqueue until it is abandoned (or_vhost_user_ops.stop); from then on it only
 * waits for the requests that the session still holds, drops what they bring, and frees itself. */
#ifndef OR_BLK_RING_H
#define OR_BLK_RING_H

#include "vhost_blk.h"
#include "vhost_user.h"

#define OR_BLK_SEG_MAX 126u                 /* data buffers of a request: a queue of 128, less header and status */
#define OR_BLK_RANGES_MAX 16u               /* segments of a discard or write-zeroes */
#define OR_BLK_DISCARD_MAX (1u << 30)       /* bytes of a segment */
#define OR_BLK_WRITE_ZEROES_MAX (16u << 20) /* bytes of a segment: the storage may have to write them */

struct or_blk_ring;

/* What the rings of a disk share. */
struct or_blk_disk {
    struct or_vhost_blk_config config;
    struct or_vhost_blk_stats stats;
    struct or_bucket bucket;
    uint64_t not_before;      /* no chain is taken, as the bucket says; 0: they are */
    uint32_t abandoned;       /* rings that wait for their last request */
    uint64_t abandoned_bytes; /* copies of data that they hold */
    /* The last abandoned ring is gone. May free the disk. */
    void (*quiet)(struct or_blk_disk *disk);
};

/* NULL: out of memory. `heads` were in flight before. */
struct or_blk_ring *or_blk_ring_create(struct or_blk_disk *disk, struct or_vring *vring, const uint16_t *heads,
                                       uint16_t count);
void or_blk_ring_abandon(struct or_blk_ring *ring);
/* Takes at most a bounded number of chains, and none while too many requests of the disk are under way; returns how
 * many it took. */
uint32_t or_blk_ring_poll(struct or_blk_ring *ring, uint64_t now);
/* True when or_blk_ring_poll has something to do that no kick will announce. */
bool or_blk_ring_pending(const struct or_blk_ring *ring);

#endif
