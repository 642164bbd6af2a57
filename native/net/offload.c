/* Checks and software fall-backs of checksum and segmentation offload. */
#include "offload.h"

#include <assert.h>

#define TCP_HEADER 20u
#define TCP_CHECKSUM 16u
#define UDP_HEADER 8u
#define UDP_CHECKSUM 6u
#define IPV4_CHECKSUM 10u

#define TCP_FIN 0x01u
#define TCP_PSH 0x08u
#define TCP_CWR 0x80u

/* --- checksums ---------------------------------------------------------------------------------- */

uint32_t or_csum_add(uint32_t sum, const uint8_t *bytes, uint32_t length)
{
    /* In the machine's byte order, and swapped at the end: RFC 1071, 2 (B). */
    uint64_t wide = 0;
    uint32_t i = 0;
    for (; i + 8 <= length; i += 8) {
        uint32_t word[2];
        memcpy(word, bytes + i, 8);
        wide += (uint64_t)word[0] + word[1];
    }
    for (; i + 2 <= length; i += 2) {
        uint16_t half;
        memcpy(&half, bytes + i, 2);
        wide += half;
    }
    if (i < length) {
        uint8_t last[2] = {bytes[i], 0};
        uint16_t half;
        memcpy(&half, last, 2);
        wide += half;
    }
    while (wide >> 16)
        wide = (wide & 0xffff) + (wide >> 16);
    uint64_t total = (uint64_t)sum + __builtin_bswap16((uint16_t)wide);
    return (uint32_t)((total & 0xffffffff) + (total >> 32));
}

uint16_t or_csum_finish(uint32_t sum)
{
    while (sum >> 16)
        sum = (sum & 0xffff) + (sum >> 16);
    return (uint16_t)~sum;
}

/* --- checks ------------------------------------------------------------------------------------- */

static bool check_checksum(struct or_offload *o)
{
    const struct virtio_net_hdr_v1 *h = &o->header;
    uint32_t field = (uint32_t)h->csum_start + h->csum_offset;
    return h->csum_start >= OR_ETHER_HEADER && field + 2 <= o->length;
}

/* The kind of segmentation: what its frame must be, and what its receiver needs. */
struct gso_kind {
    uint8_t gso_type, version, protocol;
    uint8_t checksum;
    uint32_t segments_max;
    uint64_t needs;
};

static const struct gso_kind *gso_kind(uint8_t gso_type, uint8_t version)
{
    static const struct gso_kind kinds[] = {
        {VIRTIO_NET_HDR_GSO_TCPV4, 4, OR_IP_TCP, TCP_CHECKSUM, OR_SEGMENTS_MAX, OR_NET_F_GUEST_TSO4},
        {VIRTIO_NET_HDR_GSO_TCPV6, 6, OR_IP_TCP, TCP_CHECKSUM, OR_SEGMENTS_MAX, OR_NET_F_GUEST_TSO6},
        {OR_GSO_UDP_L4, 4, OR_IP_UDP, UDP_CHECKSUM, OR_DATAGRAMS_MAX, OR_NET_F_GUEST_USO4},
        {OR_GSO_UDP_L4, 6, OR_IP_UDP, UDP_CHECKSUM, OR_DATAGRAMS_MAX, OR_NET_F_GUEST_USO6},
    };
    for (uint32_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++)
        if (kinds[i].gso_type == gso_type && kinds[i].version == version)
            return &kinds[i];
    return NULL;
}

/* Where the payload of TCP or UDP begins; 0: its header is cut off. */
static uint32_t find_payload(const struct or_offload *o, uint8_t protocol)
{
    uint32_t l4 = o->headers.l4, bytes = UDP_HEADER;
    if (protocol == OR_IP_TCP) {
        if (o->length - l4 < TCP_HEADER)
            return 0;
        bytes = (uint32_t)(o->frame[l4 + 12] >> 4) * 4;
        if (bytes < TCP_HEADER)
            return 0;
    }
    return o->length - l4 < bytes ? 0 : l4 + bytes;
}

static bool check_segmentation(struct or_offload *o)
{
    struct virtio_net_hdr_v1 *h = &o->header;
    bool ecn = h->gso_type & VIRTIO_NET_HDR_GSO_ECN;
    if (!or_headers_find(o->frame, o->length, &o->headers) || o->headers.fragment)
        return false;
    const struct gso_kind *kind = gso_kind(h->gso_type & (uint8_t)~VIRTIO_NET_HDR_GSO_ECN, o->headers.version);
    if (!kind || kind->protocol != o->headers.protocol || (ecn && kind->protocol != OR_IP_TCP))
        return false;
    o->payload = find_payload(o, kind->protocol);
    if (!o->payload || !(h->flags & VIRTIO_NET_HDR_F_NEEDS_CSUM) || h->csum_start != o->headers.l4 ||
        h->csum_offset != kind->checksum || h->gso_size == 0)
        return false;
    uint32_t bytes = o->length - o->payload;
    o->segments = bytes > 0 ? (bytes + h->gso_size - 1) / h->gso_size : 1;
    o->frame_longest = o->payload + (bytes < h->gso_size ? bytes : h->gso_size);
    o->needs |= kind->needs | (ecn ? OR_NET_F_GUEST_ECN : 0);
    h->hdr_len = (uint16_t)o->payload;
    /* What IP's length fields can say. */
    return o->segments <= kind->segments_max && o->frame_longest <= o->headers.l3 + 65535;
}

bool or_offload_check(const uint8_t *packet, uint32_t length, struct or_offload *o)
{
    if (length < OR_VNET_HEADER + OR_ETHER_HEADER || length > OR_PACKET_MAX)
        return false;
    *o = (struct or_offload){.frame = packet + OR_VNET_HEADER, .length = length - OR_VNET_HEADER, .segments = 1};
    o->frame_longest = o->length;
    struct virtio_net_hdr_v1 *h = &o->header;
    memcpy(h, packet, sizeof *h);
    h->flags &= VIRTIO_NET_HDR_F_NEEDS_CSUM | VIRTIO_NET_HDR_F_DATA_VALID;
    h->num_buffers = 0;
    if (h->flags & VIRTIO_NET_HDR_F_NEEDS_CSUM) {
        o->needs = OR_NET_F_GUEST_CSUM;
        if (!check_checksum(o))
            return false;
    } else {
        h->csum_start = h->csum_offset = 0;
    }
    if (h->gso_type != VIRTIO_NET_HDR_GSO_NONE)
        return check_segmentation(o);
    h->gso_size = h->hdr_len = 0;
    return true;
}

/* --- in software -------------------------------------------------------------------------------- */

/* A UDP checksum of 0 would say that there is none. */
static void put_checksum(uint8_t *field, uint32_t sum, bool udp)
{
    uint16_t checksum = or_csum_finish(sum);
    or_put_be16(field, udp && checksum == 0 ? 0xffff : checksum);
}

/* The driver has put the pseudo header's sum where the checksum belongs. */
static void complete_checksum(const struct or_offload *o, uint8_t *frame)
{
    uint32_t start = o->header.csum_start;
    uint8_t *field = frame + start + o->header.csum_offset;
    put_checksum(field, or_csum_add(0, frame + start, o->length - start), o->header.csum_offset == UDP_CHECKSUM);
}

static uint32_t pseudo_header(const struct or_headers *h, const uint8_t *frame, uint32_t l4_bytes)
{
    const uint8_t *ip = frame + h->l3;
    uint32_t sum = h->version == 4 ? or_csum_add(0, ip + 12, 8) : or_csum_add(0, ip + 8, 32);
    return sum + h->protocol + l4_bytes;
}

static void write_ip(const struct or_headers *h, uint8_t *frame, uint32_t length, uint32_t index)
{
    uint8_t *ip = frame + h->l3;
    if (h->version == 6) {
        or_put_be16(ip + 4, (uint16_t)(length - h->l3 - 40));
        return;
    }
    or_put_be16(ip + 2, (uint16_t)(length - h->l3));
    or_put_be16(ip + 4, (uint16_t)(or_be16(ip + 4) + index));
    or_put_be16(ip + IPV4_CHECKSUM, 0);
    or_put_be16(ip + IPV4_CHECKSUM, or_csum_finish(or_csum_add(0, ip, h->l4 - h->l3)));
}

static void write_tcp(const struct or_offload *o, uint8_t *tcp, uint32_t index)
{
    or_put_be32(tcp + 4, or_be32(tcp + 4) + index * o->header.gso_size);
    if (index > 0)
        tcp[13] &= (uint8_t)~TCP_CWR;
    if (index + 1 < o->segments)
        tcp[13] &= (uint8_t) ~(TCP_FIN | TCP_PSH);
}

/* Headers of a segment whose payload is in place; `length`: of the frame. */
static void write_headers(const struct or_offload *o, uint32_t index, uint8_t *frame, uint32_t length)
{
    const struct or_headers *h = &o->headers;
    bool udp = h->protocol == OR_IP_UDP;
    uint8_t *l4 = frame + h->l4;
    uint32_t l4_bytes = length - h->l4;
    memcpy(frame, o->frame, o->payload);
    write_ip(h, frame, length, index);
    if (udp)
        or_put_be16(l4 + 4, (uint16_t)l4_bytes);
    else
        write_tcp(o, l4, index);
    uint8_t *field = l4 + (udp ? UDP_CHECKSUM : TCP_CHECKSUM);
    or_put_be16(field, 0);
    put_checksum(field, or_csum_add(pseudo_header(h, frame, l4_bytes), l4, l4_bytes), udp);
}

uint32_t or_offload_segment(const struct or_offload *o, uint32_t index, uint8_t *to)
{
    assert(index < o->segments);
    uint8_t *frame = to + OR_VNET_HEADER;
    memset(to, 0, OR_VNET_HEADER);
    if (o->header.gso_type == VIRTIO_NET_HDR_GSO_NONE) {
        memcpy(frame, o->frame, o->length);
        if (o->header.flags & VIRTIO_NET_HDR_F_NEEDS_CSUM)
            complete_checksum(o, frame);
        return OR_VNET_HEADER + o->length;
    }
    uint32_t from = o->payload + index * o->header.gso_size;
    uint32_t bytes = o->length - from < o->header.gso_size ? o->length - from : o->header.gso_size;
    memcpy(frame + o->payload, o->frame + from, bytes);
    write_headers(o, index, frame, o->payload + bytes);
    return OR_VNET_HEADER + o->payload + bytes;
}
