#include "net_header.h"

#define BIT(n) (1ull << (n))

/* Of a kind of segmentation: the features of which the sender, or the receiver, must have one. 0: no such
 * kind. */
static uint64_t features_for(uint8_t gso_type, bool receiver)
{
    switch (gso_type) {
    case VIRTIO_NET_HDR_GSO_TCPV4:
        return receiver ? BIT(VIRTIO_NET_F_GUEST_TSO4) : BIT(VIRTIO_NET_F_HOST_TSO4);
    case VIRTIO_NET_HDR_GSO_TCPV6:
        return receiver ? BIT(VIRTIO_NET_F_GUEST_TSO6) : BIT(VIRTIO_NET_F_HOST_TSO6);
    case OR_GSO_UDP_L4:
        return receiver ? OR_NET_F_GUEST_USO4 | OR_NET_F_GUEST_USO6 : OR_NET_F_HOST_USO;
    default:
        return 0;
    }
}

static bool segmentation_valid(const struct virtio_net_hdr_v1 *h, uint32_t length, uint64_t features)
{
    uint8_t type = h->gso_type & (uint8_t)~VIRTIO_NET_HDR_GSO_ECN;
    bool ecn = h->gso_type & VIRTIO_NET_HDR_GSO_ECN;
    if (!(features_for(type, false) & features) || !(h->flags & VIRTIO_NET_HDR_F_NEEDS_CSUM))
        return false;
    if (ecn && (type == OR_GSO_UDP_L4 || !(features & BIT(VIRTIO_NET_F_HOST_ECN))))
        return false;
    return h->gso_size > 0 && h->hdr_len <= length;
}

bool or_net_header_correct(struct virtio_net_hdr_v1 *h, uint32_t length, uint64_t features)
{
    h->num_buffers = 0;
    h->flags &= VIRTIO_NET_HDR_F_NEEDS_CSUM;
    if (h->flags == 0) {
        h->csum_start = h->csum_offset = 0;
    } else if (!(features & BIT(VIRTIO_NET_F_CSUM)) || h->csum_start < OR_ETHER_HEADER ||
               (uint32_t)h->csum_start + h->csum_offset + sizeof(uint16_t) > length) {
        return false;
    }
    if (h->gso_type != VIRTIO_NET_HDR_GSO_NONE)
        return segmentation_valid(h, length, features);
    h->gso_size = h->hdr_len = 0;
    return true;
}

bool or_net_header_suits(const struct virtio_net_hdr_v1 *h, uint64_t features)
{
    uint8_t type = h->gso_type & (uint8_t)~VIRTIO_NET_HDR_GSO_ECN;
    bool ecn = h->gso_type & VIRTIO_NET_HDR_GSO_ECN;
    if ((h->flags & VIRTIO_NET_HDR_F_NEEDS_CSUM) && !(features & BIT(VIRTIO_NET_F_GUEST_CSUM)))
        return false;
    if (ecn && !(features & BIT(VIRTIO_NET_F_GUEST_ECN)))
        return false;
    return type == VIRTIO_NET_HDR_GSO_NONE || (features_for(type, true) & features);
}
