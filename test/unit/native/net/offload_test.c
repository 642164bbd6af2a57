/* Offloads that the frame contradicts, and those done in software. The same against real TCP stacks is in
 * loop/nics_test.c. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

#include "frames.h"

#define ALL OR_NET_F_OFFLOADS

/* A packet: its header first. */
struct packet {
    struct virtio_net_hdr_v1 header;
    struct frame frame;
    uint32_t l4, payload;
    uint8_t bytes[OR_PACKET_MAX];
};

/* TCP (or UDP) in IPv4 (or IPv6) with `length` bytes of payload, to be cut into pieces of `gso_size`. */
static struct packet *gso_packet(int version, uint8_t protocol, uint32_t length, uint16_t gso_size)
{
    static const uint8_t from6[16] = {0x20, 1, [15] = 1};
    struct packet *p = calloc(1, sizeof *p);
    struct frame *f = &p->frame;
    uint32_t l4_bytes = protocol == OR_IP_TCP ? 32 : 8;
    begin_ethernet(f, MAC_B, MAC_A, version == 4 ? OR_ETHERTYPE_IPV4 : OR_ETHERTYPE_IPV6);
    uint8_t *ip = version == 4 ? put_ipv4(f, "\12\0\0\1", protocol, l4_bytes + length)
                               : put_ipv6(f, from6, protocol, l4_bytes + length);
    if (version == 4)
        or_put_be16(ip + 4, 0xfffe); /* its identification goes over the end */
    p->l4 = f->length;
    uint8_t *l4 = put(f, NULL, l4_bytes);
    if (protocol == OR_IP_TCP) {
        or_put_be32(l4 + 4, 0xffffff00);
        l4[12] = 8 << 4;
        l4[13] = 0x80 | 0x10 | 0x08 | 0x01; /* CWR ACK PSH FIN */
    } else {
        or_put_be16(l4 + 4, (uint16_t)(l4_bytes + length));
    }
    p->payload = f->length;
    uint8_t *data = put(f, NULL, length);
    for (uint32_t i = 0; i < length; i++)
        data[i] = (uint8_t)(i * 7 + (i >> 8));
    p->header = (struct virtio_net_hdr_v1){
        .flags = VIRTIO_NET_HDR_F_NEEDS_CSUM,
        .gso_type = protocol == OR_IP_UDP ? OR_GSO_UDP_L4
                    : version == 4        ? VIRTIO_NET_HDR_GSO_TCPV4
                                          : VIRTIO_NET_HDR_GSO_TCPV6,
        .hdr_len = 9999, /* a hint, and no good one */
        .gso_size = gso_size,
        .csum_start = (uint16_t)p->l4,
        .csum_offset = protocol == OR_IP_TCP ? 16 : 6,
        .num_buffers = 77,
    };
    return p;
}

static bool check(struct packet *p, struct or_offload *o)
{
    memcpy(p->bytes, &p->header, sizeof p->header);
    memcpy(p->bytes + OR_VNET_HEADER, p->frame.bytes, p->frame.length);
    return or_offload_check(p->bytes, OR_VNET_HEADER + p->frame.length, o);
}

/* With its checksum in place, TCP or UDP sums up to 0xffff together with its pseudo header. */
static uint16_t l4_sum(const uint8_t *frame, uint32_t length, uint32_t l4, int version, uint8_t protocol)
{
    const uint8_t *ip = frame + 14;
    uint32_t sum = slow_sum(protocol + length - l4, version == 4 ? ip + 12 : ip + 8, version == 4 ? 8 : 32);
    return slow_sum(sum, frame + l4, length - l4);
}

static void check_segment(const struct packet *p, const struct or_offload *o, uint32_t i, const uint8_t *frame,
                          uint32_t length, int version, uint8_t protocol)
{
    const uint8_t *ip = frame + 14, *l4 = frame + p->l4;
    uint32_t at = i * p->header.gso_size;
    bool last = i + 1 == o->segments;
    assert_int_equal(l4_sum(frame, length, p->l4, version, protocol), 0xffff);
    if (version == 4) {
        assert_int_equal(slow_sum(0, ip, 20), 0xffff);
        assert_int_equal(or_be16(ip + 2), length - 14);
        assert_int_equal(or_be16(ip + 4), (uint16_t)(0xfffe + i));
    } else {
        assert_int_equal(or_be16(ip + 4), length - 54);
    }
    if (protocol == OR_IP_TCP) {
        assert_int_equal(or_be32(l4 + 4), (uint32_t)(0xffffff00 + at));
        assert_int_equal(l4[13], 0x10 | (i == 0 ? 0x80 : 0) | (last ? 0x09 : 0));
    } else {
        assert_int_equal(or_be16(l4 + 4), length - p->l4);
    }
    assert_memory_equal(frame + p->payload, p->frame.bytes + p->payload + at, length - p->payload);
    assert_true(length - p->payload == p->header.gso_size || last);
}

static void what_is_cut_in_software_is_what_was_meant(void **state)
{
    (void)state;
    static const uint32_t lengths[] = {1, 1399, 1400, 1401, 14000, 64000};
    uint8_t *to = malloc(OR_PACKET_MAX);
    for (uint32_t i = 0; i < 24; i++) {
        int version = i % 2 ? 6 : 4;
        uint8_t protocol = i / 2 % 2 ? OR_IP_UDP : OR_IP_TCP;
        struct packet *p = gso_packet(version, protocol, lengths[i / 4], 1400);
        struct or_offload o, plain;
        uint32_t sum = 0;
        assert_true(check(p, &o));
        assert_int_equal(o.segments, (lengths[i / 4] + 1399) / 1400);
        assert_int_equal(o.header.hdr_len, p->payload);
        assert_int_equal(o.header.num_buffers, 0);
        for (uint32_t s = 0; s < o.segments; s++) {
            uint32_t length = or_offload_segment(&o, s, to);
            assert_true(or_offload_check(to, length, &plain));
            assert_true(or_offload_fits(&plain, 0));
            check_segment(p, &o, s, to + OR_VNET_HEADER, length - OR_VNET_HEADER, version, protocol);
            sum += length - OR_VNET_HEADER - p->payload;
        }
        assert_int_equal(sum, lengths[i / 4]);
        free(p);
    }
    free(to);
}

static void a_checksum_is_completed_in_software(void **state)
{
    (void)state;
    for (int udp = 0; udp < 2; udp++) {
        uint8_t protocol = udp ? OR_IP_UDP : OR_IP_TCP, *to = malloc(OR_PACKET_MAX);
        struct packet *p = gso_packet(4, protocol, 333, 1400);
        uint8_t *l4 = p->frame.bytes + p->l4, *ip = p->frame.bytes + 14;
        uint32_t l4_bytes = p->frame.length - p->l4;
        struct or_offload o;
        p->header.gso_type = VIRTIO_NET_HDR_GSO_NONE;
        or_put_be16(l4 + p->header.csum_offset, slow_sum(protocol + l4_bytes, ip + 12, 8));
        assert_true(check(p, &o));
        assert_false(or_offload_fits(&o, 0));
        assert_true(or_offload_fits(&o, OR_NET_F_GUEST_CSUM));
        uint32_t length = or_offload_segment(&o, 0, to);
        assert_int_equal(length, OR_VNET_HEADER + p->frame.length);
        assert_int_equal(to[0], 0);
        assert_int_equal(l4_sum(to + OR_VNET_HEADER, length - OR_VNET_HEADER, p->l4, 4, protocol), 0xffff);
        free(to);
        free(p);
    }
}

static void a_packet_needs_the_features_of_its_kind(void **state)
{
    (void)state;
    static const struct {
        int version;
        uint8_t protocol;
        uint64_t feature;
    } kinds[] = {
        {4, OR_IP_TCP, OR_NET_F_GUEST_TSO4},
        {6, OR_IP_TCP, OR_NET_F_GUEST_TSO6},
        {4, OR_IP_UDP, OR_NET_F_GUEST_USO4},
        {6, OR_IP_UDP, OR_NET_F_GUEST_USO6},
    };
    for (uint32_t i = 0; i < 4; i++) {
        struct packet *p = gso_packet(kinds[i].version, kinds[i].protocol, 5000, 1400);
        struct or_offload o;
        assert_true(check(p, &o));
        assert_true(or_offload_fits(&o, kinds[i].feature | OR_NET_F_GUEST_CSUM));
        assert_false(or_offload_fits(&o, ALL & ~kinds[i].feature));
        assert_false(or_offload_fits(&o, ALL & ~OR_NET_F_GUEST_CSUM));
        p->header.gso_type |= VIRTIO_NET_HDR_GSO_ECN;
        assert_int_equal(check(p, &o), kinds[i].protocol == OR_IP_TCP);
        if (kinds[i].protocol == OR_IP_TCP)
            assert_false(or_offload_fits(&o, ALL & ~OR_NET_F_GUEST_ECN));
        free(p);
    }
}

/* Each changes one thing of a good packet. */
static void not_that_kind(struct packet *p)
{
    p->header.gso_type = VIRTIO_NET_HDR_GSO_TCPV6;
}
static void no_such_kind(struct packet *p)
{
    p->header.gso_type = 2;
}
static void fragmentation(struct packet *p)
{
    p->header.gso_type = VIRTIO_NET_HDR_GSO_UDP;
}
static void nothing_per_segment(struct packet *p)
{
    p->header.gso_size = 0;
}
static void too_many_segments(struct packet *p)
{
    p->header.gso_size = 20;
}
static void no_checksum(struct packet *p)
{
    p->header.flags = 0;
}
static void checksum_elsewhere(struct packet *p)
{
    p->header.csum_offset = 6;
}
static void checksum_starts_elsewhere(struct packet *p)
{
    p->header.csum_start += 2;
}
static void tcp_header_too_short(struct packet *p)
{
    p->frame.bytes[p->l4 + 12] = 4 << 4;
}
static void tcp_header_cut_off(struct packet *p)
{
    p->frame.length = p->l4 + 31;
}
static void another_protocol(struct packet *p)
{
    p->frame.bytes[14 + 9] = 47;
}
static void a_fragment(struct packet *p)
{
    p->frame.bytes[14 + 6] = 0x20;
}
static void ip_longer_than_ip(struct packet *p)
{
    p->frame.length = OR_PACKET_MAX - OR_VNET_HEADER;
    p->header.gso_size = 65535;
}

static void a_header_that_its_frame_contradicts_is_refused(void **state)
{
    (void)state;
    static void (*const changes[])(struct packet *) = {
        not_that_kind,        no_such_kind,       fragmentation,      nothing_per_segment,
        too_many_segments,    no_checksum,        checksum_elsewhere, checksum_starts_elsewhere,
        tcp_header_too_short, tcp_header_cut_off, another_protocol,   a_fragment,
        ip_longer_than_ip,
    };
    for (uint32_t i = 0; i < sizeof changes / sizeof changes[0]; i++) {
        struct packet *p = gso_packet(4, OR_IP_TCP, 60000, 1400);
        struct or_offload o;
        assert_true(check(p, &o));
        changes[i](p);
        if (check(p, &o))
            fail_msg("change %u was accepted", i);
        free(p);
    }
}

static void a_checksum_lies_within_its_frame(void **state)
{
    (void)state;
    struct packet *p = gso_packet(4, OR_IP_TCP, 10, 1400);
    struct or_offload o;
    p->header.gso_type = VIRTIO_NET_HDR_GSO_NONE;
    p->header.csum_offset = (uint16_t)(p->frame.length - p->l4 - 2);
    assert_true(check(p, &o));
    p->header.csum_offset++;
    assert_false(check(p, &o));
    p->header.csum_start = 65535;
    p->header.csum_offset = 65535;
    assert_false(check(p, &o));
    p->header.csum_start = 13;
    p->header.csum_offset = 0;
    assert_false(check(p, &o));
    p->frame.length = 13;
    p->header.flags = 0;
    assert_false(check(p, &o));
    free(p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_cut_in_software_is_what_was_meant),
        cmocka_unit_test(a_checksum_is_completed_in_software),
        cmocka_unit_test(a_packet_needs_the_features_of_its_kind),
        cmocka_unit_test(a_header_that_its_frame_contradicts_is_refused),
        cmocka_unit_test(a_checksum_lies_within_its_frame),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
