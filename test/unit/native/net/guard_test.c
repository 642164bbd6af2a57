/* What a guest may say about itself, and what it is to hear. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "frames.h"
#include "net/guard.h"

static const uint8_t OWN6[16] = {0x20, 0x01, 0x0d, 0xb8, [15] = 5};
static const uint8_t LOCAL6[16] = {0xfe, 0x80, [15] = 5};
static const uint8_t NONE6[16];
static const uint8_t OTHER6[16] = {0x20, 0x01, 0x0d, 0xb8, [15] = 6};

static const struct or_guard by_mac = {.spoof_check = true, .mac = {0x52, 0x54, 0, 0, 0, 0x0a}};
/* 10.0.0.5, 10.1.0.0/17 and 2001:db8::5 */
static const struct or_guard by_address = {
    .spoof_check = true,
    .mac = {0x52, 0x54, 0, 0, 0, 0x0a},
    .count = 3,
    .addresses = {{4, 32, {10, 0, 0, 5}}, {4, 17, {10, 1, 0, 0}}, {6, 128, {0x20, 0x01, 0x0d, 0xb8, [15] = 5}}},
};
static const struct or_guard unchecked = {.mac = {0x52, 0x54, 0, 0, 0, 0x0a}};

static bool may(const struct or_guard *g, const struct frame *f)
{
    return or_guard_tx(g, f->bytes, f->length);
}

static struct frame arp(const uint8_t *mac, const char *sender)
{
    struct frame f;
    begin_ethernet(&f, MAC_ALL, MAC_A, OR_ETHERTYPE_ARP);
    put(&f, "\0\1\10\0\6\4\0\1", 8);
    put(&f, mac, 6);
    put(&f, sender, 4);
    put(&f, NULL, 10);
    return f;
}

static struct frame udp4(const char *from, uint16_t source, uint16_t destination)
{
    struct frame f;
    begin_ethernet(&f, MAC_B, MAC_A, OR_ETHERTYPE_IPV4);
    put_ipv4(&f, from, OR_IP_UDP, 8);
    uint8_t *udp = put(&f, NULL, 8);
    or_put_be16(udp, source);
    or_put_be16(udp + 2, destination);
    return f;
}

static struct frame udp6(const uint8_t *from)
{
    struct frame f;
    begin_ethernet(&f, MAC_B, MAC_A, OR_ETHERTYPE_IPV6);
    put_ipv6(&f, from, OR_IP_UDP, 8);
    put(&f, NULL, 8);
    return f;
}

/* Solicitation (135) or advertisement (136), with a link-layer address if mac is given. */
static struct frame neighbour(uint8_t type, const uint8_t *from, const uint8_t *target, const uint8_t *mac)
{
    struct frame f;
    begin_ethernet(&f, MAC_B, MAC_A, OR_ETHERTYPE_IPV6);
    put_ipv6(&f, from, OR_IP_ICMPV6, 24 + (mac ? 8 : 0));
    put(&f, NULL, 8)[0] = type;
    put(&f, target, 16);
    if (mac) {
        put(&f, type == 135 ? "\1\1" : "\2\1", 2);
        put(&f, mac, 6);
    }
    return f;
}

static void a_source_address_of_another_is_refused(void **state)
{
    (void)state;
    struct frame f = udp4("\12\0\0\5", 1, 2);
    assert_true(may(&by_mac, &f));
    memcpy(f.bytes + 6, MAC_B, 6);
    assert_false(may(&by_mac, &f));
    assert_true(may(&unchecked, &f));
    f = udp4("\12\0\0\5", 1, 2);
    memcpy(f.bytes, "\x01\x80\xc2\0\0\0", 6); /* spanning tree */
    assert_false(may(&by_mac, &f));
    f.length = 13;
    assert_false(may(&unchecked, &f));
}

static void ipv4_is_bound_to_the_addresses_given(void **state)
{
    (void)state;
    struct frame f = udp4("\12\0\0\6", 1, 2);
    assert_true(may(&by_mac, &f));
    assert_false(may(&by_address, &f));
    f = udp4("\12\0\0\5", 1, 2);
    assert_true(may(&by_address, &f));
    f = udp4("\12\1\177\377", 1, 2); /* the last of the /17 */
    assert_true(may(&by_address, &f));
    f = udp4("\12\1\200\0", 1, 2); /* the first behind it */
    assert_false(may(&by_address, &f));
    f = udp4("\12\0\0\6", 1, 2);
    tag(&f, OR_ETHERTYPE_VLAN, 7);
    assert_false(may(&by_address, &f));
    tag(&f, OR_ETHERTYPE_QINQ, 8);
    assert_false(may(&by_address, &f));
    f = udp4("\12\0\0\5", 1, 2);
    tag(&f, OR_ETHERTYPE_VLAN, 7);
    assert_true(may(&by_address, &f));
    tag(&f, OR_ETHERTYPE_QINQ, 8);
    assert_true(may(&by_address, &f));
    tag(&f, OR_ETHERTYPE_QINQ, 8); /* nobody looks behind three */
    assert_false(may(&by_address, &f));
}

static void a_guest_without_an_address_may_ask_for_one(void **state)
{
    (void)state;
    struct frame f = udp4("\0\0\0\0", 68, 67);
    assert_true(may(&by_address, &f));
    f = udp4("\0\0\0\0", 68, 53);
    assert_false(may(&by_address, &f));
    f = udp4("\0\0\0\0", 68, 67);
    or_put_be16(f.bytes + 14 + 6, 0x2000); /* the first of several fragments */
    assert_false(may(&by_address, &f));
    f = arp(MAC_A, "\0\0\0\0");
    assert_true(may(&by_address, &f));
}

static void the_sender_in_arp_is_the_guest(void **state)
{
    (void)state;
    struct frame f = arp(MAC_A, "\12\0\0\5");
    assert_true(may(&by_address, &f));
    f = arp(MAC_A, "\12\0\0\6");
    assert_false(may(&by_address, &f));
    assert_true(may(&by_mac, &f));
    f = arp(MAC_B, "\12\0\0\5");
    assert_false(may(&by_mac, &f));
    f = arp(MAC_A, "\12\0\0\5");
    f.length -= 11; /* of 28 bytes only 27 */
    assert_false(may(&by_address, &f));
    f = arp(MAC_A, "\12\0\0\6");
    tag(&f, OR_ETHERTYPE_VLAN, 1);
    assert_false(may(&by_address, &f));
}

static void ipv6_is_bound_to_the_addresses_given_and_link_local_ones(void **state)
{
    (void)state;
    struct frame f = udp6(OTHER6);
    assert_true(may(&by_mac, &f));
    assert_false(may(&by_address, &f));
    f = udp6(OWN6);
    assert_true(may(&by_address, &f));
    f = udp6(LOCAL6);
    assert_true(may(&by_address, &f));
    f = udp6(NONE6);
    assert_false(may(&by_address, &f));
}

static void the_guest_advertises_only_itself(void **state)
{
    (void)state;
    struct frame f = neighbour(136, LOCAL6, OWN6, MAC_A);
    assert_true(may(&by_address, &f));
    f = neighbour(136, LOCAL6, OTHER6, MAC_A);
    assert_false(may(&by_address, &f));
    assert_true(may(&by_mac, &f));
    f = neighbour(136, LOCAL6, OWN6, MAC_B);
    assert_false(may(&by_mac, &f));
    f = neighbour(135, NONE6, OWN6, NULL); /* is it taken? */
    assert_true(may(&by_address, &f));
    f = neighbour(135, OWN6, OTHER6, MAC_A); /* who is it? */
    assert_true(may(&by_address, &f));
    f = neighbour(135, OWN6, OTHER6, MAC_B);
    assert_false(may(&by_address, &f));
    f = neighbour(136, LOCAL6, OWN6, MAC_A);
    f.bytes[14 + 40 + 25] = 0; /* an option without a length */
    assert_false(may(&by_address, &f));
}

/* A false advertisement behind extension headers, in a fragment, or with its end cut off. */
static void nothing_hides_an_advertisement(void **state)
{
    (void)state;
    struct frame plain = neighbour(136, LOCAL6, OTHER6, MAC_A), f = plain;
    f.length = 14 + 40;
    f.bytes[14 + 6] = 60; /* destination options: nothing but padding */
    put(&f, "\x3a\0\1\4\0\0\0\0", 8);
    put(&f, plain.bytes + 54, plain.length - 54);
    or_put_be16(f.bytes + 14 + 4, (uint16_t)(f.length - 54));
    assert_false(may(&by_address, &f));
    f = neighbour(136, LOCAL6, OWN6, MAC_A);
    plain = f;
    f.length = 14 + 40;
    f.bytes[14 + 6] = 44; /* the first of several fragments */
    put(&f, "\x3a\0\0\1\0\0\0\0", 8);
    put(&f, plain.bytes + 54, plain.length - 54);
    or_put_be16(f.bytes + 14 + 4, (uint16_t)(f.length - 54));
    assert_false(may(&by_address, &f));
    or_put_be16(f.bytes + 54 + 2, 0); /* the only one: it is whole */
    assert_true(may(&by_address, &f));
    plain.length -= 12;
    assert_false(may(&by_address, &plain));
}

static void broken_headers_are_refused(void **state)
{
    (void)state;
    struct frame f = udp4("\12\0\0\5", 1, 2);
    f.bytes[14] = 0x44; /* 16 bytes of header */
    assert_false(may(&by_mac, &f));
    f.bytes[14] = 0x4f; /* 60, which are not there */
    assert_false(may(&by_mac, &f));
    f.bytes[14] = 0x65;
    assert_false(may(&by_mac, &f));
    f = udp4("\12\0\0\5", 1, 2);
    f.length = 14 + 19;
    assert_false(may(&by_mac, &f));
    f = udp6(OWN6);
    f.bytes[14 + 6] = 0; /* hop-by-hop options that are longer than the frame */
    f.bytes[14 + 40 + 1] = 9;
    assert_false(may(&by_mac, &f));
}

static bool hears(const struct or_rx_filter *filter, const uint8_t *to)
{
    struct frame f;
    begin_ethernet(&f, to, MAC_B, 0x88b6);
    return or_guard_rx(MAC_A, filter, f.bytes, f.length);
}

static void the_receive_filter_passes_what_the_driver_wants(void **state)
{
    (void)state;
    static const uint8_t group[6] = {0x33, 0x33, 0, 0, 0, 1}, other[6] = {0x33, 0x33, 0, 0, 0, 2};
    static const uint8_t second[6] = {0x52, 0x54, 0, 0, 0, 0x0c};
    struct or_rx_filter filter = {.count = 2};
    memcpy(filter.macs[0], group, 6);
    memcpy(filter.macs[1], second, 6);
    assert_true(hears(NULL, MAC_A));
    assert_true(hears(NULL, MAC_ALL));
    assert_true(hears(NULL, group));
    assert_false(hears(NULL, MAC_B));
    assert_true(hears(&filter, MAC_A));
    assert_true(hears(&filter, MAC_ALL));
    assert_true(hears(&filter, group));
    assert_false(hears(&filter, other));
    assert_true(hears(&filter, second));
    assert_false(hears(&filter, MAC_B));
    filter.all_multicast = true;
    assert_true(hears(&filter, other));
    assert_false(hears(&filter, MAC_B));
    filter.promiscuous = true;
    assert_true(hears(&filter, MAC_B));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_source_address_of_another_is_refused),
        cmocka_unit_test(ipv4_is_bound_to_the_addresses_given),
        cmocka_unit_test(a_guest_without_an_address_may_ask_for_one),
        cmocka_unit_test(the_sender_in_arp_is_the_guest),
        cmocka_unit_test(ipv6_is_bound_to_the_addresses_given_and_link_local_ones),
        cmocka_unit_test(the_guest_advertises_only_itself),
        cmocka_unit_test(nothing_hides_an_advertisement),
        cmocka_unit_test(broken_headers_are_refused),
        cmocka_unit_test(the_receive_filter_passes_what_the_driver_wants),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
