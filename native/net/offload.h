/* The offloads of a packet: checked against its frame, and done in software where a receiver cannot.
 *
 * | header of the packet      | feature bits that its receiver needs | without them |
 * |---------------------------|--------------------------------------|--------------|
 * | NEEDS_CSUM                | GUEST_CSUM                           | the checksum is completed |
 * | GSO_TCPV4, GSO_TCPV6      | GUEST_TSO4, GUEST_TSO6, GUEST_CSUM   | cut into TCP segments with checksums |
 * | with GSO_ECN              | GUEST_ECN too                        | the same; CWR only in the first |
 * | GSO_UDP_L4 (USO)          | GUEST_USO4 or GUEST_USO6, GUEST_CSUM | cut into UDP datagrams with checksums |
 *
 * GSO_UDP (fragmentation) is refused: nobody is offered it. No state, no I/O; packets are hostile. */
#ifndef OR_NET_OFFLOAD_H
#define OR_NET_OFFLOAD_H

#include "packet.h"

#define OR_SEGMENTS_MAX 2048u /* of a TCP packet: a size of segments that no real stack uses is below */
#define OR_DATAGRAMS_MAX 128u /* of a UDP packet: what Linux sends and takes */

/* A packet that has passed the check. It points into the packet. */
struct or_offload {
    const uint8_t *frame;
    uint32_t length;                 /* bytes of the frame */
    struct virtio_net_hdr_v1 header; /* corrected: lengths from the frame itself, no flags but the known ones */
    uint64_t needs;                  /* feature bits (OR_NET_F_OFFLOADS) */
    uint32_t segments;               /* frames on the medium; 1 without segmentation */
    uint32_t frame_longest;          /* of these, bytes */
    struct or_headers headers;       /* only with segmentation */
    uint32_t payload;                /* likewise: where it begins in the frame */
};

/* False: a header that its frame contradicts, or a packet that is too short or too long. */
bool or_offload_check(const uint8_t *packet, uint32_t length, struct or_offload *out);

/* Can a receiver with these features take it as it is? */
static inline bool or_offload_fits(const struct or_offload *o, uint64_t features)
{
    return (o->needs & ~features) == 0;
}

/* Writes segment 0 .. segments - 1 as a packet that needs nothing of its receiver (the whole frame with its
 * checksum completed, when there is but one) to `to`, OR_PACKET_MAX bytes. Returns the packet's length. */
uint32_t or_offload_segment(const struct or_offload *o, uint32_t index, uint8_t *to);

/* The Internet checksum's sum over bytes, to be continued with `sum` of an even number of bytes before. */
uint32_t or_csum_add(uint32_t sum, const uint8_t *bytes, uint32_t length);
/* Its complement: what stands in a header. */
uint16_t or_csum_finish(uint32_t sum);

#endif
