/* NICs and their packets: guests and the I/O hypervisor's networks send as the plan says, and what arrives is
 * checked. A packet bears its number, by which the simulator knows who sent it to whom, and a pattern made of
 * that number. */
#ifndef SIM_PACKETS_H
#define SIM_PACKETS_H

#include <stdbool.h>
#include <stdint.h>

#include "wire/wire.h"

#define NICS_PER_HOST_MAX 2u
#define PACKETS_MAX (1u << 16)

struct sim;
struct host;
struct iohv;

/* A virtual NIC: its attachment as it should be. */
struct vnic {
    struct sim *sim;
    uint32_t index, id, generation;
    uint32_t owner;          /* host */
    bool attached;           /* the living server has it */
    uint32_t waiting;        /* packets that its network has for it */
    uint32_t latest[2];      /* number of the latest packet that arrived, by direction */
    uint32_t since_probe[2]; /* packets that arrived, by direction */
};

struct packet_record {
    uint32_t length, id, generation;
    uint64_t sent;
    uint32_t life; /* of the sender: the host's, or the server's instance */
    uint8_t vnic, host, down;
    bool delivered, foreign; /* foreign: must not arrive */
};

struct packets {
    struct packet_record records[PACKETS_MAX]; /* by number; 0 is not used */
    uint32_t count;
    uint64_t bytes;
    uint32_t drawn, drawn_length; /* the next one */
    uint8_t drawn_bytes[OR_PACKET_MAX];
    uint64_t drops_before; /* frames dropped before this seed */
};

void packets_init(struct sim *sim);
/* Between receiving and flushing, in the engine's loop. */
void packets_from_host(void *host);
void packets_from_server(void *iohv);
/* Calls of the session. */
void packets_at_host(void *host, uint32_t device, uint32_t generation, const uint8_t *packet, uint32_t length);

/* The host has been admitted. */
void packets_attach(struct iohv *iohv, uint32_t host);
void packets_bump(struct iohv *iohv, struct vnic *nic);
void packets_move(struct iohv *iohv, struct vnic *nic, uint32_t to);

void packets_host_stops(struct host *host);
void packets_server_stops(struct iohv *iohv);
/* From here on some have to arrive both ways; whether they have. */
void packets_probe(struct sim *sim);
bool packets_settled(const struct sim *sim);
/* Lets what is under way arrive, and looks whether something is missing. */
void packets_check_end(struct sim *sim);

#endif
