/* Theory of operation: envelope.h. */
#include "envelope.h"

#include <arpa/inet.h>
#include <linux/if_ether.h>
#include <linux/ip.h>
#include <linux/udp.h>
#include <string.h>

#define DONT_FRAGMENT 0x4000
#define UDP 17

struct head {
    struct ethhdr ethernet;
    struct iphdr ip;
    struct udphdr udp;
} __attribute__((packed));
static_assert(sizeof(struct head) == OR_ENVELOPE_HEAD, "no options");
static_assert(offsetof(struct head, udp) == OR_ENVELOPE_UDP, "no options");
static_assert(offsetof(struct udphdr, check) == OR_ENVELOPE_CHECKSUM, "where the kernel is told to put it");

/* Of 16-bit words, in the order of the network (RFC 1071). */
static uint32_t sum(uint32_t start, const void *words, uint32_t bytes)
{
    const uint8_t *p = words;
    for (uint32_t i = 0; i < bytes; i += 2)
        start += (uint32_t)p[i] << 8 | p[i + 1];
    return start;
}

static uint16_t fold(uint32_t s)
{
    while (s >> 16)
        s = (s & 0xffff) + (s >> 16);
    return (uint16_t)s;
}

void or_envelope_write(uint8_t bytes[OR_ENVELOPE_HEAD], const uint8_t addresses[12], uint16_t ethertype,
                       uint32_t payload_bytes, uint32_t segment_bytes)
{
    uint16_t udp_bytes = (uint16_t)(payload_bytes + sizeof(struct udphdr));
    struct head h = {
        .ethernet = {.h_proto = htons(ETH_P_IP)},
        .ip = {.version = 4,
               .ihl = 5,
               .tot_len = htons((uint16_t)(payload_bytes + OR_ENVELOPE_IP)),
               .frag_off = htons(DONT_FRAGMENT),
               .ttl = 1,
               .protocol = UDP,
               .daddr = htonl(OR_ENVELOPE_GROUP)},
        .udp = {.source = htons((uint16_t)segment_bytes), .dest = htons(ethertype), .len = htons(udp_bytes)},
    };
    memcpy(&h.ethernet, addresses, 12);
    h.ip.check = htons((uint16_t)~fold(sum(0, &h.ip, sizeof h.ip)));
    /* The pseudo-header's part: both addresses, which lie next to each other, protocol, length. */
    h.udp.check = htons(fold(sum(UDP + udp_bytes, (const uint8_t *)&h.ip + offsetof(struct iphdr, saddr), 8)));
    memcpy(bytes, &h, sizeof h);
}

bool or_envelope_read(struct or_envelope *envelope, const uint8_t *frame, uint32_t length, uint16_t ethertype)
{
    struct head h;
    if (length < sizeof h + sizeof(struct or_frame_header))
        return false;
    memcpy(&h, frame, sizeof h);
    uint32_t udp_bytes = ntohs(h.udp.len), segment = ntohs(h.udp.source);
    if (h.ethernet.h_proto != htons(ETH_P_IP) || h.ip.version != 4 || h.ip.ihl != 5 || h.ip.protocol != UDP ||
        h.ip.daddr != htonl(OR_ENVELOPE_GROUP) || h.ip.frag_off != htons(DONT_FRAGMENT) ||
        h.udp.dest != htons(ethertype))
        return false;
    if (ntohs(h.ip.tot_len) != sizeof h.ip + udp_bytes || OR_ETH_HEADER + sizeof h.ip + udp_bytes > length ||
        udp_bytes < sizeof h.udp + sizeof(struct or_frame_header))
        return false;
    *envelope = (struct or_envelope){.payload_bytes = udp_bytes - sizeof h.udp, .segment_bytes = segment};
    return segment >= OR_ENVELOPE_SEGMENT_MIN && segment % OR_ENVELOPE_ALIGN == 0 &&
           envelope->payload_bytes <= segment * OR_ENVELOPE_SEGMENTS_MAX;
}

const uint8_t *or_envelope_segment(const struct or_envelope *envelope, uint8_t *frame, uint16_t ethertype, uint32_t *at,
                                   uint32_t *length)
{
    uint32_t left = envelope->payload_bytes - *at;
    uint32_t bytes = left < envelope->segment_bytes ? left : envelope->segment_bytes;
    uint8_t *segment = frame + OR_ENVELOPE_HEAD + *at, *ethernet = segment - OR_ETH_HEADER;
    *at += bytes;
    if (bytes < sizeof(struct or_frame_header))
        return NULL;
    uint16_t told = ((const struct or_frame_header *)segment)->length;
    if (told >= sizeof(struct or_frame_header) && told < bytes)
        bytes = told;
    memcpy(ethernet, frame, 12);
    ethernet[12] = (uint8_t)(ethertype >> 8);
    ethernet[13] = (uint8_t)ethertype;
    *length = OR_ETH_HEADER + bytes;
    return ethernet;
}
