/* What the two halves of NICs share: nics.c opens, changes and closes them, nic_path.c passes packets on. */
#ifndef OR_NIC_INTERNAL_H
#define OR_NIC_INTERNAL_H

#include "backend/net/uplink.h"
#include "net/packet_queue.h"
#include "nics.h"

struct hub {
    char name[OR_NAME_MAX + 1];
    struct or_hub *hub;
    uint32_t ports;
    struct or_list link;
};

struct or_nic {
    struct or_iohv_nics *nics;
    struct or_uplink *uplink;
    struct hub *hub; /* NULL: not at one */
    struct or_nic_config config;
    struct or_rx_filter *filter;       /* NULL: none known */
    uint64_t features;                 /* what the guest's driver can take */
    struct or_packet_queue sent;       /* by the guest, beyond what a step passes on */
    struct or_list link, busy, active; /* busy: `sent` has packets; active: the uplink may have */
    struct {
        uint32_t id; /* 0: none */
        uint64_t generation;
        struct domain *domain; /* NULL: it has ended */
    } protect;
    uint64_t fenced; /* packets that its domain refused */

    struct or_bucket bucket;
    /* Of the packet at the head of the uplink's queue. */
    bool paid;           /* the bucket let it go */
    bool waits;          /* the session had no room */
    uint32_t segment;    /* the next to be sent */
    uint64_t wait_until; /* the bucket's word; 0: none */

    struct or_nic_info info;
};

struct or_iohv_nics {
    struct or_engine *engine;
    struct or_nic_wire wire;
    struct or_list list, busy, blocked, active, hubs; /* blocked: busy, until their domains have room */
    struct or_iohv_volumes *volumes;                  /* whose domains NICs may be of; NULL: there are none */
    uint32_t release_left;                            /* packets of domains that may go out in this step */
    uint32_t active_count, count;
    uint32_t packets_left, bytes_left; /* what guests' packets may go on at once in this step */
    uint64_t now, look_at;
    struct or_fd_source taps; /* an epoll descriptor */
    uint8_t scratch[OR_PACKET_MAX];
};

/* The uplink may have packets for the guest. arg: struct or_nic. */
void or_nic_activate(void *arg);
/* NULL: there is none. */
struct or_nic *or_nic_of(const struct or_iohv_nics *nics, uint32_t id);
/* It is out of all turns. */
void or_nic_quiet(struct or_nic *nic);
/* Taps have something to say: struct or_iohv_nics.taps. */
void or_nics_taps_ready(struct or_fd_source *source, uint32_t events);

#endif
