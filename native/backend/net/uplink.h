/* Network back-ends: what a NIC is plugged into. A tap or macvtap is a queue to the kernel's network, a hub's
 * port one to the other ports. An uplink passes on what it is given: the NIC's rules (loop/nics.c: addresses,
 * filter, MTU, limit) are applied before and after.
 *
 * An uplink belongs to the worker's thread. Its queue towards the guest is bounded, and drops what comes when
 * it is full: the kernel's own for tap and macvtap (counted by the interface), the port's for a hub. */
#ifndef OR_UPLINK_H
#define OR_UPLINK_H

#include "net/offload.h"

struct or_uplink;
struct or_hub;

enum or_uplink_sent {
    OR_UPLINK_SENT,
    OR_UPLINK_NO_ROOM, /* dropped: the queue is full */
    OR_UPLINK_DOWN,    /* dropped: the interface is down, or gone */
    OR_UPLINK_ERROR,   /* dropped: refused */
};

struct or_uplink_ops {
    const char *name;
    /* Takes a packet of the guest, that or_offload_fits its `accepts`. */
    enum or_uplink_sent (*send)(struct or_uplink *uplink, const struct or_offload *packet, uint64_t now);
    /* The oldest packet for the guest: its length and address, or 0 when there is none. It lies in memory of
     * the uplink's, that may be changed, and stays there until `taken`. */
    uint32_t (*next)(struct or_uplink *uplink, uint8_t **packet);
    void (*taken)(struct or_uplink *uplink);
    /* Optional. The guest's driver can take packets that need these features: whoever sends to it may. */
    void (*offload)(struct or_uplink *uplink, uint64_t features);
    /* Optional. Shows the link's state to the other side. */
    void (*link)(struct or_uplink *uplink, bool up);
    /* Optional. Was the interface deleted? */
    bool (*gone)(struct or_uplink *uplink);
    void (*close)(struct or_uplink *uplink);
};

struct or_uplink {
    const struct or_uplink_ops *ops;
    uint64_t accepts; /* OR_NET_F_OFFLOADS: what `send` can take undone */
    int fd;           /* readable (edge-triggered) when there is a packet; -1: `ready` tells */
    /* The owner's: a packet waits in a queue that was empty. Not for those with an fd. */
    void (*ready)(void *arg);
    void *arg;
    uint64_t queue_full; /* packets for the guest that were dropped */
};

/* A tap or macvtap from its descriptor (or_tap_open in outrigger.h), which is taken over; on failure the caller keeps
 * it. NULL with *err: -errno. */
struct or_uplink *or_uplink_tap(int fd, int *err);

/* An in-process switch: it learns which MAC address is behind which port, forgets it after five minutes, and
 * sends what it does not know everywhere. NULL: out of memory. */
struct or_hub *or_hub_create(void);
/* All ports have been closed. */
void or_hub_destroy(struct or_hub *hub);
/* A port; mac is always here, whoever else sends from it. NULL: out of memory. */
struct or_uplink *or_hub_join(struct or_hub *hub, const uint8_t mac[6]);

#define OR_HUB_AGE_NS (300ull * 1000000000ull) /* then an address that sent nothing is forgotten */
#define OR_HUB_QUEUE_BYTES (1u << 20)          /* of a port; what does not fit is dropped */

#endif
