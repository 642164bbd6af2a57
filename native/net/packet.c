/* Finding the headers of a frame. Frames come from guests: each length is checked before what it covers is
 * read. */
#include "packet.h"

#define IPV6_HEADER 40u
#define EXTENSIONS_MAX 8u

enum extension {
    HOP_BY_HOP = 0,
    ROUTING = 43,
    FRAGMENT = 44,
    AUTHENTICATION = 51,
    DESTINATION = 60,
};

static bool find_ipv4(const uint8_t *frame, uint32_t length, struct or_headers *h)
{
    const uint8_t *ip = frame + h->l3;
    if (length - h->l3 < 20 || ip[0] >> 4 != 4)
        return false;
    uint32_t bytes = (ip[0] & 15u) * 4u;
    if (bytes < 20 || bytes > length - h->l3)
        return false;
    uint16_t cut = or_be16(ip + 6) & 0x3fff; /* more fragments, offset */
    h->version = 4;
    h->protocol = ip[9];
    h->fragment = cut != 0;
    h->first = (cut & 0x1fff) == 0;
    h->l4 = h->l3 + bytes;
    return true;
}

static uint32_t extension_bytes(uint8_t type, const uint8_t *extension)
{
    if (type == FRAGMENT)
        return 8;
    return type == AUTHENTICATION ? (extension[1] + 2u) * 4u : (extension[1] + 1u) * 8u;
}

static bool find_ipv6(const uint8_t *frame, uint32_t length, struct or_headers *h)
{
    if (length - h->l3 < IPV6_HEADER || frame[h->l3] >> 4 != 6)
        return false;
    uint8_t type = frame[h->l3 + 6];
    uint32_t at = h->l3 + IPV6_HEADER;
    h->version = 6;
    for (uint32_t i = 0; i < EXTENSIONS_MAX; i++) {
        bool extension =
            type == HOP_BY_HOP || type == ROUTING || type == FRAGMENT || type == AUTHENTICATION || type == DESTINATION;
        if (!extension || !h->first) {
            h->protocol = type;
            h->l4 = at;
            return true;
        }
        if (length - at < 8 || extension_bytes(type, frame + at) > length - at)
            return false;
        if (type == FRAGMENT) {
            uint16_t cut = or_be16(frame + at + 2);
            h->fragment = (cut & 0xfff9) != 0; /* 0: an atomic fragment, which is whole */
            h->first = cut >> 3 == 0;
        }
        uint32_t bytes = extension_bytes(type, frame + at);
        type = frame[at];
        at += bytes;
    }
    return false;
}

bool or_headers_find(const uint8_t *frame, uint32_t length, struct or_headers *h)
{
    if (length < OR_ETHER_HEADER)
        return false;
    *h = (struct or_headers){.l3 = OR_ETHER_HEADER, .first = true, .ethertype = or_be16(frame + 12)};
    for (uint32_t tags = 0; h->ethertype == OR_ETHERTYPE_VLAN || h->ethertype == OR_ETHERTYPE_QINQ; tags++) {
        if (tags == OR_VLAN_TAGS_MAX || length - h->l3 < OR_VLAN_TAG)
            return false;
        h->ethertype = or_be16(frame + h->l3 + 2);
        h->l3 += OR_VLAN_TAG;
    }
    h->l4 = h->l3;
    if (h->ethertype == OR_ETHERTYPE_IPV4)
        return find_ipv4(frame, length, h);
    if (h->ethertype == OR_ETHERTYPE_IPV6)
        return find_ipv6(frame, length, h);
    return true;
}
