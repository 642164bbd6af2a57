/* One vhost-user device: the connection with QEMU, what was negotiated, the memory map and the rings.
 * What the rings carry is the device's business (struct or_vhost_user_ops): vhost_blk.c, vhost_net.c.
 *
 * Everything runs on the worker's thread, from the ready() calls of the file descriptors and from the
 * device. Nothing here blocks: QEMU is as little trusted as the guest.
 *
 * Two kinds of fault:
 *  - the guest's (a descriptor that makes no sense): the rings stop, the connection stays, the state is
 *    OR_VHOST_BROKEN until QEMU has stopped all rings, as a reset of the guest makes it do;
 *  - QEMU's (a message that makes no sense): refused with a negative acknowledgement where one was
 *    asked for, the connection is closed, the state is OR_VHOST_BROKEN until QEMU connects again.
 *
 * One QEMU at a time: a second connection is accepted and closed at once.
 *
 * The device may be continued by another process (vhost_handover.c). */
#ifndef OR_VHOST_USER_H
#define OR_VHOST_USER_H

#include "keep/snapshot.h"
#include "loop/fd_source.h"
#include "vhost_socket.h"
#include "vhost_state.h"
#include "virtqueue.h"

#define OR_VHOST_QUEUES_MAX 16u

#define OR_NOT_SHARED                                                                                                  \
    "QEMU's guest memory is not shared: start it with -object memory-backend-memfd,id=mem,size=SIZE,share=on and "     \
    "-machine memory-backend=mem"

#define OR_VHOST_IDENTITY_BYTES 64u

struct or_vhost_user;
struct or_vhost_page;

struct or_vring {
    struct or_vhost_user *vu;
    uint32_t index;
    uint16_t size; /* as QEMU says, 0 when it says too much; checked when the ring starts */
    uint16_t base; /* where the available ring is taken up, or was left */
    struct or_virtqueue_addr addr;
    bool addressed, kick_set, enabled, started;
    struct or_fd_source kick; /* fd -1: QEMU wants polling */
    int call_fd, err_fd;      /* -1: none */
    struct or_virtqueue vq;   /* mapped while started */

    uint32_t in_flight; /* requests taken and not given back; kept by the device */
    void *device;       /* the device's own, while started */
};

struct or_vhost_user_ops {
    uint64_t protocol_features; /* offered */
    /* Chains are given back as soon as they are taken: nothing is ever in flight, so a ring can be taken up at
     * its used index without an inflight record, and QEMU is not offered a region. */
    bool immediate;
    /* QEMU has a connection's worth of state for each pair of rings, and says some things once for each. */
    bool repeated;
    /* The ring was started; `heads` were in flight before and are to be executed again, in this order.
     * NULL, or why it cannot be. */
    const char *(*start)(struct or_vring *ring, const uint16_t *heads, uint16_t count);
    /* The ring's memory is QEMU's again when this returns. Requests still under way are abandoned:
     * whatever they bring later must not be written. */
    void (*stop)(struct or_vring *ring);
    /* NULL without OR_VU_PROTOCOL_CONFIG. */
    void (*get_config)(struct or_vhost_user *vu, uint8_t config[OR_VU_CONFIG_MAX]);
    /* false: no such writeable field. */
    bool (*set_config)(struct or_vhost_user *vu, uint32_t offset, const uint8_t *data, uint32_t size);
    /* True while so many abandoned requests are under way that there must not be more. */
    bool (*overloaded)(struct or_vhost_user *vu);
    /* The MTU that QEMU tells the guest. False, with vu->reason: it will not do. NULL without
     * OR_VU_PROTOCOL_NET_MTU. */
    bool (*set_mtu)(struct or_vhost_user *vu, uint64_t mtu);
    void (*state)(struct or_vhost_user *vu, enum or_vhost_state state, const char *reason);
};

struct or_vhost_user {
    const struct or_vhost_user_ops *ops;
    int epoll_fd;
    uint64_t features_offered;
    uint32_t queues;                           /* rings */
    uint32_t queues_num;                       /* what QEMU is told when it asks for their number */
    uint8_t identity[OR_VHOST_IDENTITY_BYTES]; /* of what QEMU was told that it is connected to */

    struct or_fd_source listener, connection, timer;
    bool deaf; /* accept() failed: the listener is not watched until the timer fires */
    bool connected;
    struct or_vhost_socket socket;
    struct or_vring *stopping; /* GET_VRING_BASE waits for its requests; no message is read meanwhile */
    bool waited;               /* in vain, since a ring was last started: do not wait for the next one */
    uint64_t features, protocol_features;
    struct or_guest_mem *mem; /* the latest map; a ring may still hold an older one */
    struct or_guest_mapping *inflight;
    uint16_t inflight_queues, inflight_size;
    uint32_t word; /* the device's, kept in the inflight region */
    enum or_vhost_state state;
    char reason[256];
    bool draining; /* no ring takes anything new, for good */
    struct or_vhost_page *page;
    int page_fd;
    bool changed; /* since the last snapshot */
    uint64_t kicks, calls, calls_suppressed, accept_failures;
    struct or_vring rings[OR_VHOST_QUEUES_MAX];
};

/* ops, epoll_fd, features_offered, queues, queues_num, identity and word are set by the caller. listen_fd passes,
 * unless it fails. 0 or -errno. */
int or_vhost_user_open(struct or_vhost_user *vu, int listen_fd);
/* Stops the rings and ends everything: QEMU is hung up on, and no successor can go on with it. */
void or_vhost_user_close(struct or_vhost_user *vu);
/* Stops the rings and closes our descriptors: QEMU notices nothing as long as the latest snapshot is held
 * somewhere. */
void or_vhost_user_leave(struct or_vhost_user *vu);

/* Hand-over. A snapshot is everything that another process needs to go on with the device. It is wanted
 * after every change (vu->changed), and is of no use once there has been another.
 *
 * Makes a snapshot, but for its id; its descriptors are borrowed. False: now is not the moment, or the
 * device cannot be described (it will be after its next change). */
bool or_vhost_user_save(struct or_vhost_user *vu, struct or_keep_snapshot *snapshot);
/* The snapshot that was made is where a successor finds it. */
void or_vhost_user_saved(struct or_vhost_user *vu);
/* Goes on with the connection in a predecessor's snapshot: takes its descriptors out of it. To be called
 * on a fresh device. NULL; or, in a constant sentence, why not: then QEMU, if one was there, has been hung
 * up on, and the device listens. */
const char *or_vhost_user_resume(struct or_vhost_user *vu, struct or_keep_snapshot *snapshot);

/* May chains be taken from the ring? */
bool or_vring_runs(const struct or_vring *ring);
/* May those be executed again that were in flight before it started? While it stops, too: it waits for
 * them. */
bool or_vring_recovers(const struct or_vring *ring);
/* Shows the guest what was given back, and interrupts it if it wants that. */
void or_vring_publish(struct or_vring *ring);
/* After completions: answers a GET_VRING_BASE whose ring has nothing in flight any more. */
void or_vhost_user_drained(struct or_vhost_user *vu);
/* The guest is at fault: `ring` (NULL: no ring in particular) found `reason`. */
void or_vhost_user_break(struct or_vhost_user *vu, struct or_vring *ring, const char *reason);
/* Breaks the device when memory that QEMU shares has vanished. Costs a few loads. */
void or_vhost_user_check(struct or_vhost_user *vu);
void or_vhost_user_set_word(struct or_vhost_user *vu, uint32_t word);

/* Between vhost_user.c, vhost_message.c and vhost_handover.c. */

/* To be called before anything of a snapshot changes, and before anything is read that may change it. */
void or_vhost_user_touch(struct or_vhost_user *vu);
/* The version page: makes it, 0 or -errno; gives it up. */
int or_vhost_page_create(struct or_vhost_user *vu);
void or_vhost_page_close(struct or_vhost_user *vu);
/* From here on no snapshot of the device is of use. */
void or_vhost_page_retire(struct or_vhost_user *vu);
/* Serves the connection `fd`, which passes; 0 or -errno. */
int or_vhost_user_connect(struct or_vhost_user *vu, int fd);
/* Ends the connection and goes back to listening. */
void or_vhost_user_hang_up(struct or_vhost_user *vu);
/* Starts a ring that another process has left running. False: it cannot be, for one for want of an inflight
 * record where there has to be one. */
bool or_vring_resume(struct or_vring *ring);
/* Waits for what the ring has in flight before it answers GET_VRING_BASE. */
void or_vring_await_stop(struct or_vring *ring);
void or_vhost_user_set_state(struct or_vhost_user *vu, enum or_vhost_state state);
/* Executes and acknowledges vu->socket.message. False: it is refused, and vu->reason says why. */
bool or_vhost_message(struct or_vhost_user *vu);
/* Starts the ring when QEMU has said all that is needed. */
void or_vring_try_start(struct or_vring *ring);
/* Takes no more chains and answers GET_VRING_BASE, at once or when the ring is drained. */
void or_vring_begin_stop(struct or_vring *ring);
/* Replaces the descriptor that wakes us; fd -1: none. Owns fd. False: it cannot be watched. */
bool or_vring_set_kick(struct or_vring *ring, int fd);
/* Makes `mem` the map; takes the caller's reference. */
void or_vhost_user_set_mem(struct or_vhost_user *vu, struct or_guest_mem *mem);
void or_vhost_user_update_state(struct or_vhost_user *vu);

#endif
