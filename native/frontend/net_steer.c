#include "net_steer.h"

#include "net/packet.h"

static_assert((OR_NET_FLOWS & (OR_NET_FLOWS - 1)) == 0, "a power of two");

/* The sum of both ends' words is the same, whoever is the sender. */
static uint64_t addresses(const uint8_t *frame, const struct or_headers *h)
{
    const uint8_t *ip = frame + h->l3;
    uint64_t sum = 0;
    for (uint32_t i = 0; h->version == 4 && i < 2; i++)
        sum += or_be32(ip + 12 + 4 * i);
    for (uint32_t i = 0; h->version == 6 && i < 8; i++)
        sum += (uint64_t)or_be32(ip + 8 + 4 * i) << (i % 2 * 16);
    return sum;
}

uint32_t or_net_flow(const uint8_t *frame, uint32_t length)
{
    struct or_headers h;
    if (!or_headers_find(frame, length, &h) || h.version == 0)
        return 0;
    uint64_t key = addresses(frame, &h) + ((uint64_t)h.protocol << 40);
    bool ports = (h.protocol == OR_IP_TCP || h.protocol == OR_IP_UDP) && !h.fragment && length - h.l4 >= 4;
    if (ports)
        key += ((uint64_t)or_be16(frame + h.l4) + or_be16(frame + h.l4 + 2)) << 20;
    return (uint32_t)(key * 0x9e3779b97f4a7c15ull >> 54) & (OR_NET_FLOWS - 1);
}
