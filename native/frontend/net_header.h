/* The header in front of a guest's frames (virtio 1.2, 5.1.6): what of it may leave for the session, and
 * what a guest may be given. The frame behind it is looked at by who has it in one piece (net/offload.h). */
#ifndef OR_NET_HEADER_H
#define OR_NET_HEADER_H

#include <linux/virtio_config.h>

#include "net/packet.h"

/* Missing in the headers of Linux 6.1. */
#define OR_NET_F_HOST_USO (1ull << 56)

/* Bytes of a header in the rings of a guest with these features. */
static inline uint32_t or_net_header_bytes(uint64_t features)
{
    const uint64_t with_buffers = 1ull << VIRTIO_F_VERSION_1 | 1ull << VIRTIO_NET_F_MRG_RXBUF;
    return features & with_buffers ? OR_VNET_HEADER : (uint32_t)sizeof(struct virtio_net_hdr);
}

/* Corrects a header that a guest put in front of a frame of `length` bytes: fields that mean nothing become
 * 0. False: it makes no sense, or says more than the guest negotiated. */
bool or_net_header_correct(struct virtio_net_hdr_v1 *header, uint32_t length, uint64_t features);

/* May a guest with these features be given a packet with this header? */
bool or_net_header_suits(const struct virtio_net_hdr_v1 *header, uint64_t features);

#endif
