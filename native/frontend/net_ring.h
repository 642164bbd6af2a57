/* The packets of one virtqueue of a NIC: out of the guest's chains, into its receive buffers. A ring has no
 * state but the virtqueue's own. */
#ifndef OR_NET_RING_H
#define OR_NET_RING_H

#include "net_steer.h"
#include "vhost_net.h"
#include "vhost_user.h"

/* A chain may be as long as its ring, and a buffer lies in two pieces where it crosses memory regions. */
#define OR_NET_PIECES_MAX (OR_VQ_SIZE_MAX + OR_GUEST_REGIONS_MAX)

/* What the rings of a NIC share. */
struct or_net_nic {
    struct or_vhost_net_config config;
    struct or_vhost_net_stats stats;
    struct or_net_steer steer;
    struct or_bucket bucket;
    uint64_t not_before; /* something waits to be sent, and is looked at again then; 0: nothing does */
    bool throttled;      /* it waits for the limit, else for room in the session, which any step may bring */
    /* Of the chain that is being worked on; the first is kept free. */
    struct iovec pieces[1 + OR_NET_PIECES_MAX];
};

/* How much one NIC may send in one step; no more below 1. */
struct or_net_budget {
    int32_t packets, bytes;
    int32_t descriptors; /* walked, which a guest can make expensive */
};

/* Sends what waits in `ring`, as far as budget, limit and session let it. Returns the chains taken. */
uint32_t or_net_ring_send(struct or_net_nic *nic, struct or_vring *ring, struct or_net_budget *budget, uint64_t now);
/* Copies a packet into the buffers of `ring`, which runs; or drops and counts it. */
void or_net_ring_receive(struct or_net_nic *nic, struct or_vring *ring, const uint8_t *packet, uint32_t length);

#endif
