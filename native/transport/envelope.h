/* Envelopes: several frames of a session behind one Ethernet, IPv4 and UDP header, as one UDP datagram that the kernel
 * or the NIC may cut into segments (UDP segmentation offload). So one system call and one pass through the stack move
 * about 62 KB over a link whose MTU is 9000.
 *
 *     Ethernet │ IPv4 │ UDP │ segment         │ segment         │ ...   │ last segment
 *      14        20     8     segment_bytes     segment_bytes             at most segment_bytes
 *
 * A segment is a frame of ours without its Ethernet header. Where the datagram is cut, each piece has the three
 * headers again: a smaller envelope. So a receiver takes both alike, and the loss of a piece costs no other.
 *
 *   IPv4   to 224.0.0.254, TTL 1, DF, from 0.0.0.0. The group is one for experiments (RFC 4727, section 2.3) in the
 *          block that no router forwards (RFC 5771, section 4), and nobody joins it: so the IP stack of the receiving
 *          machine drops the datagram, and for a multicast address it never answers (RFC 1122, section 3.2.2). The
 *          Ethernet address is the peer's own: switches carry an envelope to it alone, like any other frame.
 *   UDP    to a port of the number of our EtherType, so that segments of several EtherTypes stay apart; from a port
 *          whose number is segment_bytes, which tells pieces from a whole in every kernel.
 *
 * The UDP checksum is left to the NIC, or to nobody, and not looked at: each segment bears a digest. Pure functions.
 * UDP segmentation: Documentation/networking/segmentation-offloads.rst, and SKB_GSO_UDP_L4 in linux/skbuff.h. */
#ifndef OR_ENVELOPE_H
#define OR_ENVELOPE_H

#include <stdbool.h>
#include <stdint.h>

#include "wire/wire.h"

#define OR_ENVELOPE_IP 28u /* IPv4 and UDP header */
#define OR_ENVELOPE_HEAD (OR_ETH_HEADER + OR_ENVELOPE_IP)
#define OR_ENVELOPE_UDP 34u           /* where the UDP header begins, */
#define OR_ENVELOPE_CHECKSUM 6u       /* and in it the checksum */
#define OR_ENVELOPE_GROUP 0xe00000feu /* 224.0.0.254 */
#define OR_ENVELOPE_ALIGN 64u         /* segments of a whole begin on cache lines of the receiver */
#define OR_ENVELOPE_SEGMENTS_MAX 64u  /* of one envelope: what every kernel with this offload takes */
#define OR_ENVELOPE_SEGMENT_MIN 64u
#define OR_ENVELOPE_PAYLOAD_MAX 65472u /* whole segments, and the Ethernet frame is below 65536 bytes */
static_assert(OR_ENVELOPE_PAYLOAD_MAX % OR_ENVELOPE_ALIGN == 0 && OR_ENVELOPE_HEAD + OR_ENVELOPE_PAYLOAD_MAX < 65536,
              "the kernel does not count such a frame as too large to leave whole");

/* The most a segment may have on a link of this MTU. */
static inline uint32_t or_envelope_segment_max(uint32_t link_mtu)
{
    uint32_t room = link_mtu < OR_ENVELOPE_IP ? 0 : link_mtu - OR_ENVELOPE_IP;
    room = room / OR_ENVELOPE_ALIGN * OR_ENVELOPE_ALIGN;
    return room < OR_ENVELOPE_PAYLOAD_MAX ? room : OR_ENVELOPE_PAYLOAD_MAX;
}

/* Writes the headers. `addresses`: destination and source of the Ethernet header. The checksum field holds what the
 * kernel wants there when it is to compute the rest (CHECKSUM_PARTIAL). */
void or_envelope_write(uint8_t head[OR_ENVELOPE_HEAD], const uint8_t addresses[12], uint16_t ethertype,
                       uint32_t payload_bytes, uint32_t segment_bytes);

struct or_envelope {
    uint32_t payload_bytes; /* after the headers */
    uint32_t segment_bytes; /* of each segment but the last */
};

/* What lies in an Ethernet frame of `length` bytes from the wire; false: it is no envelope of ours, or one that
 * contradicts itself. The segments themselves are not looked at. */
bool or_envelope_read(struct or_envelope *envelope, const uint8_t *frame, uint32_t length, uint16_t ethertype);

/* The segment that begins at byte `at` of the payload, made a frame with an Ethernet header of its own: that lies
 * over what comes before it, so segments are to be taken in order, and each before the next. Padding is taken off.
 * *length: of the frame. at: moved on to the next segment, or to payload_bytes after the last. NULL: what is there
 * is too short for a frame. */
const uint8_t *or_envelope_segment(const struct or_envelope *envelope, uint8_t *frame, uint16_t ethertype, uint32_t *at,
                                   uint32_t *length);

#endif
