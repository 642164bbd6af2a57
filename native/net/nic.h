/* A NIC as it is configured, and what it counts. Directions are the guest's: it sends tx and receives rx. */
#ifndef OR_NET_NIC_H
#define OR_NET_NIC_H

#include "guard.h"
#include "mem/bucket.h"

enum or_nic_kind { OR_NIC_TAP, OR_NIC_MACVTAP, OR_NIC_HUB };

struct or_nic_config {
    enum or_nic_kind kind;
    struct or_guard guard; /* with the NIC's MAC address */
    uint32_t mtu;          /* bytes of IP; tags come on top */
    struct or_limit limit; /* of what goes to the guest */
    bool link_up;
};

/* What is to be changed of a NIC. */
struct or_nic_change {
    bool has_limit, has_features, has_filter, has_link, has_guard;
    struct or_limit limit;
    uint64_t features;           /* virtio feature bits that the guest's driver has acknowledged */
    struct or_rx_filter *filter; /* malloc()ed; taken over by the NIC. NULL: none is known any more */
    bool link_up;
    struct or_guard guard; /* has_guard: spoof_check and addresses; the MAC address stays */
};

enum or_nic_drop {
    OR_NIC_DROP_BAD_HEADER, /* offloads that the frame contradicts */
    OR_NIC_DROP_SPOOFED,    /* tx: not the guest's own address */
    OR_NIC_DROP_FILTERED,   /* rx: not for this guest */
    OR_NIC_DROP_TOO_LONG,   /* longer than the MTU allows */
    OR_NIC_DROP_NO_ROOM,    /* tx: the kernel's queue is full */
    OR_NIC_DROP_QUEUE_FULL, /* rx: of the hub's port */
    OR_NIC_DROP_LINK_DOWN,  /* the NIC is switched off, or the interface is */
    OR_NIC_DROP_DOWN,       /* rx: the guest's host has no session */
    OR_NIC_DROP_FENCED,     /* tx: of another generation of the attachment */
    OR_NIC_DROP_MAX
};

const char *or_nic_drop_name(enum or_nic_drop reason);

struct or_nic_counts {
    uint64_t packets, bytes; /* that were handed on; bytes of frames */
    uint64_t errors;         /* that the kernel refused */
    uint64_t dropped[OR_NIC_DROP_MAX];
};

struct or_nic_stats {
    struct or_nic_counts tx, rx;
    uint64_t rx_throttled; /* how often the limit made packets wait */
    uint64_t rx_waits;     /* how often the session had no room */
    uint64_t segmented;    /* packets that were cut, or got their checksum, in software */
};

#endif
