/* The NICs of an I/O hypervisor's engine: opened, changed and closed by command, served in every step.
 *
 *   session ── or_iohv_nics_received ──> offloads checked, link, guard, MTU ──> uplink (tap, macvtap, hub)
 *   session <── wire.send ── offloads done, limit, MTU, filter, link <──── uplink's queue
 *
 * What the session has no room for stays in the uplink's queue; what a guest sends beyond what a step passes on
 * waits in a queue of its NIC. NICs take turns, each with a bounded number of packets. The session is reached through
 * struct or_nic_wire, so this runs without one in tests. */
#ifndef OR_NICS_H
#define OR_NICS_H

#include "engine_internal.h"

struct or_iohv_nics;
struct or_nic;

struct or_iohv_volumes;
struct domain;

enum or_nic_sent { OR_NIC_SENT, OR_NIC_LATER, OR_NIC_DOWN };

/* The sessions' functions: or_server_add_nic and its like. */
struct or_nic_wire {
    /* Packets of this attachment go to or_iohv_nics_received(nic, ..) from now on. 0 or -errno. */
    int (*add)(void *arg, uint32_t id, uint32_t generation, const char *host, struct or_nic *nic);
    void (*remove)(void *arg, uint32_t id);
    /* LATER: there is no room now; DOWN: the host has no session. The bytes are copied. */
    enum or_nic_sent (*send)(void *arg, uint32_t id, const uint8_t *packet, uint32_t length, uint64_t now);
    /* Packets of the guest that were dropped for their generation. */
    uint64_t (*fenced)(void *arg, uint32_t id);
    void *arg;
};

/* engine is borrowed. NULL with *err: -errno. */
struct or_iohv_nics *or_iohv_nics_create(struct or_engine *engine, const struct or_nic_wire *wire, int *err);
/* Closes all NICs. */
void or_iohv_nics_destroy(struct or_iohv_nics *nics);

/* Whose domains NICs may be of. */
void or_iohv_nics_set_volumes(struct or_iohv_nics *nics, struct or_iohv_volumes *volumes);
/* The domain ends: what its NICs send is dropped from now on, until they are of another one, or of none. */
void or_iohv_nics_leave_domain(struct or_iohv_nics *nics, const struct domain *domain);

enum or_nic_released {
    OR_NIC_RELEASED, /* it is out, or was dropped and counted */
    OR_NIC_NOT_NOW,  /* enough for this step */
    OR_NIC_UNKNOWN,  /* no such NIC is open */
};
/* A packet that a domain held goes out of the NIC's uplink. */
enum or_nic_released or_iohv_nics_release(struct or_iohv_nics *nics, uint32_t id, const uint8_t *packet,
                                          uint32_t length);

/* A step begins. */
void or_iohv_nics_begin(struct or_iohv_nics *nics, uint64_t now);
/* A packet of the guest, only borrowed: at most OR_PACKET_MAX bytes. It goes on at once, later, or is dropped. */
void or_iohv_nics_received(struct or_nic *nic, const uint8_t *packet, uint32_t length);
/* Packets that wait, in both directions. Returns how many were handed on or dropped. */
uint32_t or_iohv_nics_poll(struct or_iohv_nics *nics);
/* When something may go that a limit or a full session held back. UINT64_MAX: nothing waits. */
uint64_t or_iohv_nics_deadline(const struct or_iohv_nics *nics);

/* False: it is not a command for NICs. */
bool or_iohv_nics_command(struct or_iohv_nics *nics, struct or_command *command);

#endif
