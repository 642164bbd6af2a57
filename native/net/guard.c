/* Anti-spoofing, and the receive filter. */
#include "guard.h"

#include "packet.h"

#define ARP_BYTES 28u
#define UDP_HEADER 8u
#define DHCP_CLIENT 68u
#define DHCP_SERVER 67u

enum nd_type {
    ND_ROUTER_SOLICITATION = 133,
    ND_SOLICITATION = 135,
    ND_ADVERTISEMENT = 136,
};

static bool matches(const struct or_address *a, const uint8_t *bytes)
{
    uint32_t whole = a->prefix / 8u, rest = a->prefix % 8u;
    if (memcmp(a->bytes, bytes, whole) != 0)
        return false;
    return rest == 0 || ((a->bytes[whole] ^ bytes[whole]) & (0xff00u >> rest) & 0xffu) == 0;
}

/* Is it one of the NIC's? */
static bool owns(const struct or_guard *g, uint8_t family, const uint8_t *address)
{
    for (uint32_t i = 0; i < g->count; i++)
        if (g->addresses[i].family == family && matches(&g->addresses[i], address))
            return true;
    return g->count == 0;
}

static bool is_zero(const uint8_t *bytes, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++)
        if (bytes[i])
            return false;
    return true;
}

static bool is_link_local(const uint8_t *address)
{
    return address[0] == 0xfe && (address[1] & 0xc0) == 0x80;
}

/* ARP and RARP, of Ethernet and IPv4. */
static bool arp_may_pass(const struct or_guard *g, const uint8_t *arp, uint32_t length)
{
    static const uint8_t kind[6] = {0, 1, 8, 0, 6, 4};
    if (length < ARP_BYTES || memcmp(arp, kind, sizeof kind) != 0)
        return false;
    const uint8_t *mac = arp + 8, *address = arp + 14;
    return memcmp(mac, g->mac, 6) == 0 && (is_zero(address, 4) || owns(g, 4, address));
}

static bool ipv4_may_pass(const struct or_guard *g, const uint8_t *frame, uint32_t length, const struct or_headers *h)
{
    const uint8_t *source = frame + h->l3 + 12, *l4 = frame + h->l4;
    if (owns(g, 4, source))
        return true;
    if (!is_zero(source, 4) || !h->first)
        return false;
    if (h->protocol == OR_IP_IGMP)
        return true;
    return h->protocol == OR_IP_UDP && !h->fragment && length - h->l4 >= UDP_HEADER && or_be16(l4) == DHCP_CLIENT &&
           or_be16(l4 + 2) == DHCP_SERVER;
}

/* The link-layer addresses among the options of a neighbour discovery message are the NIC's. */
static bool nd_options_may_pass(const struct or_guard *g, const uint8_t *option, uint32_t length)
{
    while (length >= 8) {
        uint32_t bytes = option[1] * 8u;
        if (bytes == 0 || bytes > length)
            return false;
        bool link_layer = option[0] == 1 || option[0] == 2; /* source, target */
        if (link_layer && memcmp(option + 2, g->mac, 6) != 0)
            return false;
        option += bytes;
        length -= bytes;
    }
    return length == 0;
}

/* Neighbour discovery may not come in fragments (RFC 6980). */
static bool icmpv6_may_pass(const struct or_guard *g, const uint8_t *icmp, uint32_t length, const struct or_headers *h)
{
    if (length < 8)
        return h->fragment ? false : true; /* too short for anything that is looked at */
    if (icmp[0] == ND_ROUTER_SOLICITATION)
        return !h->fragment && nd_options_may_pass(g, icmp + 8, length - 8);
    if (icmp[0] != ND_SOLICITATION && icmp[0] != ND_ADVERTISEMENT)
        return true;
    const uint8_t *target = icmp + 8;
    if (h->fragment || length < 24)
        return false;
    if (icmp[0] == ND_ADVERTISEMENT && !is_link_local(target) && !owns(g, 6, target))
        return false;
    return nd_options_may_pass(g, icmp + 24, length - 24);
}

static bool ipv6_may_pass(const struct or_guard *g, const uint8_t *frame, uint32_t length, const struct or_headers *h)
{
    const uint8_t *ip = frame + h->l3, *source = ip + 8;
    bool icmp = h->protocol == OR_IP_ICMPV6 && h->first;
    if (!owns(g, 6, source) && !is_link_local(source) && !(icmp && is_zero(source, 16)))
        return false;
    if (!icmp || h->l4 > length)
        return true;
    /* What lies behind the packet is padding, not options. */
    uint32_t end = h->l3 + 40 + or_be16(ip + 4);
    if (end > length || end < h->l4)
        return false;
    return icmpv6_may_pass(g, frame + h->l4, end - h->l4, h);
}

bool or_guard_tx(const struct or_guard *g, const uint8_t *frame, uint32_t length)
{
    static const uint8_t reserved[5] = {0x01, 0x80, 0xc2, 0, 0};
    struct or_headers h;
    if (!g->spoof_check)
        return length >= OR_ETHER_HEADER;
    if (!or_headers_find(frame, length, &h) || memcmp(frame + 6, g->mac, 6) != 0)
        return false;
    if (memcmp(frame, reserved, sizeof reserved) == 0 && frame[5] < 16)
        return false;
    if (h.ethertype == OR_ETHERTYPE_ARP || h.ethertype == OR_ETHERTYPE_RARP)
        return arp_may_pass(g, frame + h.l3, length - h.l3);
    if (h.version == 4)
        return ipv4_may_pass(g, frame, length, &h);
    if (h.version == 6)
        return ipv6_may_pass(g, frame, length, &h);
    return true;
}

bool or_guard_rx(const uint8_t mac[6], const struct or_rx_filter *filter, const uint8_t *frame, uint32_t length)
{
    if (length < OR_ETHER_HEADER)
        return false;
    if (memcmp(frame, mac, 6) == 0 || or_mac_is_broadcast(frame))
        return true;
    bool multicast = or_mac_is_multicast(frame);
    if (!filter)
        return multicast;
    if (filter->promiscuous || (multicast && filter->all_multicast))
        return true;
    for (uint32_t i = 0; i < filter->count; i++)
        if (memcmp(frame, filter->macs[i], 6) == 0)
            return true;
    return false;
}
