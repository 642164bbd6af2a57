/* What a guest may send, and what it is to receive.
 *
 * A guest speaks for itself only: the source of its frames is its NIC's MAC address, and so is the sender in
 * ARP and in IPv6 neighbour discovery. Where addresses are given, its IPv4 and IPv6 packets come from these,
 * and it claims no others; all others of both families are refused, so a guest with only an IPv4 address
 * has of IPv6 what needs no address:
 *   - 0.0.0.0 as the source of DHCP requests, of IGMP and of ARP probes
 *   - link-local IPv6 addresses
 *   - :: as the source of ICMPv6 (duplicate address detection, router solicitation, multicast listener reports)
 * Frames to the reserved group addresses 01:80:c2:00:00:0x are refused: they are a switch's talk (spanning tree).
 * Frames with VLAN tags, at most two, are looked into. */
#ifndef OR_NET_GUARD_H
#define OR_NET_GUARD_H

#include <stdbool.h>
#include <stdint.h>

#define OR_NIC_ADDRESSES_MAX 32u
#define OR_FILTER_MACS_MAX 128u

/* An address, or all of a prefix. */
struct or_address {
    uint8_t family; /* 4 or 6 */
    uint8_t prefix; /* bits that count: up to 32 or 128 */
    uint8_t bytes[16];
};

struct or_guard {
    bool spoof_check; /* else everything may pass */
    uint8_t mac[6];
    uint32_t count; /* of addresses; 0: any */
    struct or_address addresses[OR_NIC_ADDRESSES_MAX];
};

/* The filter that a guest's driver has set. */
struct or_rx_filter {
    bool promiscuous, all_multicast;
    uint32_t count;
    uint8_t macs[OR_FILTER_MACS_MAX][6]; /* unicast and multicast, beside the NIC's own */
};

/* May the guest send this frame? */
bool or_guard_tx(const struct or_guard *guard, const uint8_t *frame, uint32_t length);

/* Is the frame one that the guest wants: to its own address, to all, or by the filter? NULL: no filter is
 * known, all multicast passes. */
bool or_guard_rx(const uint8_t mac[6], const struct or_rx_filter *filter, const uint8_t *frame, uint32_t length);

#endif
