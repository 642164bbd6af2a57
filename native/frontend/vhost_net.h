/* vhost-user-net: serves one NIC to an unmodified QEMU over a unix socket: what the guest sends goes to the
 * session as packets (net/packet.h), and packets from the session into the guest's receive buffers. QEMU keeps
 * the control queue and the link state bit.
 *
 *   ring 2 * n      the guest receives  <── or_vhost_net_receive
 *   ring 2 * n + 1  the guest sends     ──> config.packet
 *
 * A packet is no request: nothing is in flight. A chain is taken when the session has room for its packet, and
 * given back at once. So the guest's own ring is the queue that fills when the session is slow, and a NIC is
 * taken up by another process without an inflight region. What is lost is counted.
 *
 * Everything runs on the worker's thread; guest, QEMU and memory are hostile (vhost_user.h).
 *
 * Source: QEMU docs/interop/vhost-user.rst; virtio 1.2, 5.1 (network). */
#ifndef OR_VHOST_NET_H
#define OR_VHOST_NET_H

#include <stdbool.h>

#include "mem/bucket.h"
#include "transport/packets.h"
#include "vhost_state.h"

#define OR_VHOST_NET_PAIRS_MAX 8u

struct or_keep_snapshot;
struct or_vhost_net;

struct or_vhost_net_config {
    /* Takes a packet of the guest's, or not: or_client_packet. */
    enum or_packet_verdict (*packet)(void *client, uint32_t device, uint32_t generation, const struct or_packet *packet,
                                     uint64_t now);
    void *client;   /* borrowed */
    int listen_fd;  /* a listening unix stream socket; owned from here on unless create fails; -1: the link is down */
    int epoll_fd;   /* the worker's; see or_fd_source in loop/fd_source.h */
    char path[108]; /* where the link listens when it comes up again; with this mode */
    uint32_t mode;
    uint32_t device; /* attachment id */
    uint32_t generation;
    uint32_t pairs;        /* of queues offered, 1..OR_VHOST_NET_PAIRS_MAX */
    uint32_t mtu;          /* the largest that QEMU may tell the guest */
    struct or_limit limit; /* of what the guest sends */
    /* The state changed, or the reason; called on the worker's thread; reason is "" unless broken, and only
     * borrowed. features: what the guest negotiated, as virtio feature bits; 0 unless running. May not call
     * back into the device. */
    void (*state)(void *arg, enum or_vhost_state state, const char *reason, uint64_t features);
    void *arg;
};

/* tx: from the guest; rx: to the guest. Bytes are those of Ethernet frames. */
struct or_vhost_net_stats {
    uint64_t tx_packets, tx_bytes, rx_packets, rx_bytes;
    uint64_t tx_dropped_down; /* there was no session */
    uint64_t tx_bad_header;   /* makes no sense, or says more than was negotiated */
    uint64_t tx_too_long;
    uint64_t tx_throttled;   /* times that the guest had to wait for its limit, */
    uint64_t tx_waits;       /* and for room in the session */
    uint64_t rx_no_buffers;  /* the guest had not made enough available */
    uint64_t rx_not_running; /* no guest with a driver is there */
    uint64_t rx_too_long;    /* for a buffer, of a guest that does not merge them */
    uint64_t rx_unsuited;    /* needs an offload that the guest did not negotiate */
    uint64_t kicks, calls, calls_suppressed;
    uint64_t accept_failures; /* connections that had to wait: descriptors or memory are short */
};

/* NULL with *err = -errno. */
struct or_vhost_net *or_vhost_net_create(const struct or_vhost_net_config *config, int *err);
/* Hangs up on QEMU and closes the sockets. */
void or_vhost_net_destroy(struct or_vhost_net *dev);
/* Closes our descriptors, but QEMU is left to a successor, who has the latest snapshot. */
void or_vhost_net_leave(struct or_vhost_net *dev);

/* Of what the guest sends from now on. */
void or_vhost_net_set_limit(struct or_vhost_net *dev, const struct or_limit *limit);
/* Down: hangs up on QEMU and listens no more, which takes the guest's link down; the snapshot that was kept is of no
 * use then, and there is none until it is up. Up: listens again, and QEMU connects if it is told to reconnect. 0, or
 * -errno: cannot listen. */
int or_vhost_net_set_link(struct or_vhost_net *dev, bool up);
bool or_vhost_net_link(const struct or_vhost_net *dev);

/* Hand-over, as in vhost_blk.h. */
bool or_vhost_net_changed(const struct or_vhost_net *dev);
bool or_vhost_net_save(struct or_vhost_net *dev, struct or_keep_snapshot *snapshot);
void or_vhost_net_saved(struct or_vhost_net *dev);
const char *or_vhost_net_resume(struct or_vhost_net *dev, struct or_keep_snapshot *snapshot);
/* Takes nothing more from the guest, and gives it nothing more, for good. */
void or_vhost_net_drain(struct or_vhost_net *dev);

/* A packet from the session: whole, OR_VNET_HEADER + OR_ETHER_HEADER to OR_PACKET_MAX bytes, borrowed. The guest
 * sees it after or_vhost_net_flush. */
void or_vhost_net_receive(struct or_vhost_net *dev, const uint8_t *packet, uint32_t length);

/* Sends what the started rings hold, at most a bounded batch; returns packets taken. Called every loop
 * iteration while the worker spins; costs a few loads when the rings are empty. */
uint32_t or_vhost_net_poll(struct or_vhost_net *dev, uint64_t now);
/* Publishes used descriptors and interrupts (calls) the guest where its event index asks for it. Once per loop
 * iteration. */
void or_vhost_net_flush(struct or_vhost_net *dev);
/* Before the worker sleeps: ask the guest for kicks. Returns true when a ring turned out not to be empty: do
 * not sleep. After waking: stop asking for kicks. */
bool or_vhost_net_arm(struct or_vhost_net *dev);
void or_vhost_net_disarm(struct or_vhost_net *dev);
/* Absolute time at which packets that wait are looked at again; UINT64_MAX: none waits. */
uint64_t or_vhost_net_deadline(const struct or_vhost_net *dev);

enum or_vhost_state or_vhost_net_state(const struct or_vhost_net *dev);
/* What the guest negotiated; 0 unless running. */
uint64_t or_vhost_net_features(const struct or_vhost_net *dev);
void or_vhost_net_stats(const struct or_vhost_net *dev, struct or_vhost_net_stats *out);

#endif
