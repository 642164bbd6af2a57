/* A packet: a struct virtio_net_hdr_v1 (little-endian, num_buffers 0), then one Ethernet frame without its
 * FCS. So a frame crosses with its offloads undone: a checksum to be completed, a TCP or UDP payload to be
 * cut. This is what both back-ends and front-ends pass on; who looks into it uses guard.h and offload.h. */
#ifndef OR_NET_PACKET_H
#define OR_NET_PACKET_H

#include <assert.h>
#include <linux/virtio_net.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#define OR_VNET_HEADER 12u
#define OR_ETHER_HEADER 14u
#define OR_VLAN_TAG 4u
#define OR_VLAN_TAGS_MAX 2u

/* The longest: a header, and 64 KiB of IP in a tagged frame, rounded up. */
#define OR_PACKET_MAX 65568u
#define OR_FRAME_LENGTH_MAX (OR_ETHER_HEADER + OR_VLAN_TAG + 65535u)
static_assert(sizeof(struct virtio_net_hdr_v1) == OR_VNET_HEADER, "the header of a packet");
static_assert(OR_VNET_HEADER + OR_FRAME_LENGTH_MAX <= OR_PACKET_MAX, "room for the longest frame");

/* Missing in the headers of Linux 6.1. */
#define OR_GSO_UDP_L4 5u                 /* of a header's gso_type */
#define OR_NET_F_GUEST_USO4 (1ull << 54) /* virtio feature bits */
#define OR_NET_F_GUEST_USO6 (1ull << 55)

/* Feature bits that say which packets a receiver can take. */
#define OR_NET_F_GUEST_CSUM (1ull << VIRTIO_NET_F_GUEST_CSUM)
#define OR_NET_F_GUEST_TSO4 (1ull << VIRTIO_NET_F_GUEST_TSO4)
#define OR_NET_F_GUEST_TSO6 (1ull << VIRTIO_NET_F_GUEST_TSO6)
#define OR_NET_F_GUEST_ECN (1ull << VIRTIO_NET_F_GUEST_ECN)
#define OR_NET_F_OFFLOADS                                                                                              \
    (OR_NET_F_GUEST_CSUM | OR_NET_F_GUEST_TSO4 | OR_NET_F_GUEST_TSO6 | OR_NET_F_GUEST_ECN | OR_NET_F_GUEST_USO4 |      \
     OR_NET_F_GUEST_USO6)

enum or_ethertype {
    OR_ETHERTYPE_IPV4 = 0x0800,
    OR_ETHERTYPE_ARP = 0x0806,
    OR_ETHERTYPE_RARP = 0x8035,
    OR_ETHERTYPE_VLAN = 0x8100,
    OR_ETHERTYPE_IPV6 = 0x86dd,
    OR_ETHERTYPE_QINQ = 0x88a8,
};

enum or_ip_protocol {
    OR_IP_IGMP = 2,
    OR_IP_TCP = 6,
    OR_IP_UDP = 17,
    OR_IP_ICMPV6 = 58,
};

/* Where the headers of a frame are; offsets from its first byte. */
struct or_headers {
    uint16_t ethertype; /* behind the VLAN tags */
    uint8_t version;    /* 4, 6; 0: not IP */
    uint8_t protocol;   /* of what begins at l4 */
    bool fragment;      /* of an IP packet that was cut */
    bool first;         /* its beginning, or not a fragment: there is an l4 header */
    uint32_t l3, l4;
};

/* Finds them, behind at most OR_VLAN_TAGS_MAX tags. False: headers that are cut off, more tags, or no sense.
 * The l4 header itself is not looked at: it may be cut off. */
bool or_headers_find(const uint8_t *frame, uint32_t length, struct or_headers *headers);

static inline uint16_t or_be16(const uint8_t *p)
{
    return (uint16_t)(p[0] << 8 | p[1]);
}

static inline void or_put_be16(uint8_t *p, uint16_t v)
{
    p[0] = (uint8_t)(v >> 8);
    p[1] = (uint8_t)v;
}

static inline uint32_t or_be32(const uint8_t *p)
{
    return (uint32_t)or_be16(p) << 16 | or_be16(p + 2);
}

static inline void or_put_be32(uint8_t *p, uint32_t v)
{
    or_put_be16(p, (uint16_t)(v >> 16));
    or_put_be16(p + 2, (uint16_t)v);
}

/* Broadcast is one of them. */
static inline bool or_mac_is_multicast(const uint8_t mac[6])
{
    return mac[0] & 1;
}

static inline bool or_mac_is_broadcast(const uint8_t mac[6])
{
    static const uint8_t all[6] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff};
    return memcmp(mac, all, 6) == 0;
}

#endif
