/* A split virtqueue, device side (virtio 1.2, 2.7). It knows nothing of devices: it takes descriptor
 * chains out of the available ring as lists of host memory pieces, and puts them into the used ring.
 *
 * The rings lie in guest memory, and the guest is hostile: every index and descriptor is copied once,
 * then checked, then used. Functions that find the guest at fault return a reason, a constant sentence;
 * the queue must then be stopped. */
#ifndef OR_VIRTQUEUE_H
#define OR_VIRTQUEUE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "inflight.h"
#include "mem/guest_mem.h"

#define OR_VQ_SIZE_MAX 1024u

struct vring_desc;
struct vring_avail;
struct vring_used;

/* Where QEMU says that the rings are: "user" addresses. */
struct or_virtqueue_addr {
    uint64_t desc, avail, used;
};

struct or_virtqueue {
    struct or_guest_mem *mem; /* reference; NULL while not mapped */
    struct vring_desc *desc;
    struct vring_avail *avail;
    struct vring_used *used;
    uint16_t size;
    uint16_t last_avail; /* next entry of the available ring to take */
    uint16_t used_next;  /* next entry of the used ring to write */
    uint16_t used_idx;   /* what the guest sees: entries before it are published */
    bool event_idx;
    bool indirect;
    bool signalled; /* an interrupt was considered since the start */
    bool kicks_wanted;
    struct or_inflight_queue *inflight; /* NULL when not negotiated */
    uint64_t inflight_counter;
    uint16_t batch[OR_VQ_SIZE_MAX]; /* heads in [used_idx, used_next) */
    struct vring_desc *table;       /* copy of the indirect table that is being walked */
};

/* A chain as pieces of host memory. A buffer that crosses guest memory regions gives several. */
struct or_chain {
    struct iovec *iov; /* the caller's array of iov_max */
    uint16_t iov_max;
    uint16_t readable; /* pieces that the device reads; those that it writes follow */
    uint16_t count;    /* all pieces */
    uint16_t walked;   /* descriptors: what it cost */
    uint64_t readable_bytes, writable_bytes;
};

/* Finds the rings of `size` descriptors in `mem` and takes a reference. Also used while the queue runs,
 * when the memory map changes. On failure nothing changes and the reason comes back. */
const char *or_virtqueue_map(struct or_virtqueue *vq, struct or_guest_mem *mem, const struct or_virtqueue_addr *addr,
                             uint16_t size);
/* The used index of a mapped queue, as the guest sees it. */
uint16_t or_virtqueue_used(const struct or_virtqueue *vq);
/* Starts a mapped queue at `base` of the available ring. With an inflight record (of inflight_size
 * descriptors; else NULL) the record decides, and the descriptors to take again come back in heads[size],
 * *count of them. */
const char *or_virtqueue_start(struct or_virtqueue *vq, uint16_t base, struct or_inflight_queue *inflight,
                               uint16_t inflight_size, uint16_t *heads, uint16_t *count);
/* Forgets the rings; touches no guest memory. */
void or_virtqueue_stop(struct or_virtqueue *vq);

/* Chains that wait, or -1 with *reason. Costs one load when the ring is empty. */
int or_virtqueue_waiting(const struct or_virtqueue *vq, const char **reason);
/* Takes the next chain's head; the caller knows that one waits. */
const char *or_virtqueue_take(struct or_virtqueue *vq, uint16_t *head);
/* Puts the `count` chains that were taken last back where they were; not with an inflight record. */
void or_virtqueue_untake(struct or_virtqueue *vq, uint16_t count);
/* Walks the chain of `head`. */
const char *or_virtqueue_chain(struct or_virtqueue *vq, uint16_t head, struct or_chain *chain);

/* Gives `head` back with `length` bytes written; the guest sees it after or_virtqueue_publish. */
void or_virtqueue_put(struct or_virtqueue *vq, uint16_t head, uint32_t length);
static inline bool or_virtqueue_unpublished(const struct or_virtqueue *vq)
{
    return vq->used_next != vq->used_idx;
}
/* Returns true when the guest wants an interrupt for what was published now. */
bool or_virtqueue_publish(struct or_virtqueue *vq);

/* Asks the guest for kicks, or to leave them out. After asking for them the ring must be looked at once
 * more: or_virtqueue_waiting then sees everything that came without a kick. */
void or_virtqueue_want_kicks(struct or_virtqueue *vq, bool wanted);

#endif
