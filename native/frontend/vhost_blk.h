/* vhost-user-blk: serves one disk to an unmodified QEMU over a unix socket and turns its virtqueues
 * into requests on the session.
 *
 * Everything runs on the worker's thread. The guest, QEMU and guest memory are hostile: descriptors
 * are copied, then checked, then used; what is wrong marks this device broken, with a reason, and
 * harms nothing else. Guest memory is written through one function (guest_mem.c).
 *
 * Source: QEMU docs/interop/vhost-user.rst; virtio 1.2, 2.7 (split virtqueues) and 5.2 (block). */
#ifndef OR_VHOST_BLK_H
#define OR_VHOST_BLK_H

#include "mem/bucket.h"
#include "or_types.h"
#include "vhost_state.h"

struct or_keep_snapshot;
struct or_vhost_blk;

struct or_vhost_blk_config {
    /* Takes a request until its done(), which may be called before it returns: or_client_submit. */
    void (*submit)(void *client, struct or_req *req, uint64_t now);
    void *client;    /* borrowed */
    int listen_fd;   /* a listening unix stream socket; owned from here on unless create fails */
    int epoll_fd;    /* the worker's; see or_fd_source in loop/fd_source.h */
    uint32_t device; /* attachment id */
    uint32_t generation;
    uint64_t size;       /* bytes */
    uint32_t block_size; /* 512 or 4096 */
    uint32_t physical_block_size;
    uint32_t queues_max; /* virtqueues offered, 1..16 */
    uint64_t timeout_ns; /* of requests, from when the guest's is taken; 0: none */
    struct or_limit limit;
    bool read_only;
    bool discard;
    bool write_zeroes;
    char serial[21]; /* VIRTIO_BLK_T_GET_ID: at most 20 bytes */
    /* The state changed, or the reason; called on the worker's thread; reason is "" unless broken, and
     * only borrowed. May not call back into the device. */
    void (*state)(void *arg, enum or_vhost_state state, const char *reason);
    void *arg;
};

struct or_vhost_blk_stats {
    uint64_t reads, writes, flushes, discards, write_zeroes, get_ids, bytes_read, bytes_written, errors;
    uint64_t kicks, calls, calls_suppressed;
    uint64_t accept_failures; /* connections that had to wait: descriptors or memory are short */
    uint64_t dropped;         /* results that came after QEMU had taken the ring back or had gone */
    uint64_t throttled;       /* times that chains had to wait for the limit */
};

/* NULL with *err = -errno. */
struct or_vhost_blk *or_vhost_blk_create(const struct or_vhost_blk_config *config, int *err);
/* Hangs up on QEMU and closes the sockets; calls gone(arg) when the last request has ended and memory is
 * unmapped, possibly before returning. */
void or_vhost_blk_destroy(struct or_vhost_blk *dev, void (*gone)(void *arg), void *arg);
/* Likewise, but QEMU is left to a successor, who has the latest snapshot. */
void or_vhost_blk_leave(struct or_vhost_blk *dev, void (*gone)(void *arg), void *arg);

/* Of requests taken from now on. */
void or_vhost_blk_set_timeout(struct or_vhost_blk *dev, uint64_t timeout_ns);
/* Of what is taken from the guest from now on; what was taken before is not asked. */
void or_vhost_blk_set_limit(struct or_vhost_blk *dev, const struct or_limit *limit);

/* Hand-over (vhost_handover.c). True when the device has changed since the last snapshot that was saved. */
bool or_vhost_blk_changed(const struct or_vhost_blk *dev);
/* Makes a snapshot, whose descriptors are borrowed until the device is called again. False: not now. */
bool or_vhost_blk_save(struct or_vhost_blk *dev, struct or_keep_snapshot *snapshot);
/* It has been sent. */
void or_vhost_blk_saved(struct or_vhost_blk *dev);
/* Continues, right after create, with the connection in a predecessor's snapshot. NULL; or, in a constant
 * sentence, why it cannot be: QEMU has been hung up on then, and connects again if it is told to. */
const char *or_vhost_blk_resume(struct or_vhost_blk *dev, struct or_keep_snapshot *snapshot);
/* No more requests are taken from the guest, for good. Those under way end as ever. */
void or_vhost_blk_drain(struct or_vhost_blk *dev);
/* Requests of the guest that have not been given back. */
uint32_t or_vhost_blk_in_flight(const struct or_vhost_blk *dev);

/* Takes what the started rings hold, at most a bounded batch; returns requests taken. Called every
 * loop iteration while the worker spins; costs a few loads when the rings are empty. */
uint32_t or_vhost_blk_poll(struct or_vhost_blk *dev, uint64_t now);
/* Publishes used descriptors and interrupts (calls) the guest where its event index asks for it. Once
 * per loop iteration, after completions. */
void or_vhost_blk_flush(struct or_vhost_blk *dev);
/* Before the worker sleeps: ask the guest for kicks. Returns true when a ring turned out not to be
 * empty: do not sleep. After waking: stop asking for kicks. */
bool or_vhost_blk_arm(struct or_vhost_blk *dev);
void or_vhost_blk_disarm(struct or_vhost_blk *dev);
/* Absolute time at which the limit lets more go; UINT64_MAX: nothing waits for it. */
uint64_t or_vhost_blk_deadline(const struct or_vhost_blk *dev);

enum or_vhost_state or_vhost_blk_state(const struct or_vhost_blk *dev);
void or_vhost_blk_stats(const struct or_vhost_blk *dev, struct or_vhost_blk_stats *out);

#endif
