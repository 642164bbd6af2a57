/* Which of a guest's receive rings a packet goes to: the one of the pair on which the guest last sent a packet
 * of the same flow (virtio 1.2, 5.1.6.5.6, automatic receive steering), so that a flow stays on one of the
 * guest's CPUs and in order. The guest tells flows apart: collisions cost it, and nobody else, some locality. */
#ifndef OR_NET_STEER_H
#define OR_NET_STEER_H

#include <stdint.h>

#define OR_NET_FLOWS 1024u
#define OR_NET_FLOW_BYTES 128u /* of a frame; enough for its headers */

struct or_net_steer {
    uint8_t pair[OR_NET_FLOWS];
};

/* A flow's place in the table, the same in both directions; of a frame's first `length` bytes. */
uint32_t or_net_flow(const uint8_t *frame, uint32_t length);

#endif
