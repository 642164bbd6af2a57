/* Packets of NICs beside requests, over an in-process pair of ports and a virtual clock. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "session_pair.h"

#define NIC 9u
#define GENERATION 4u

/* What has arrived at either end; each packet bears its number and a pattern of that. */
struct arrivals {
    uint32_t count, last;
    uint64_t bytes;
    uint32_t last_length;
};

struct nic_test {
    struct arrivals at_client, at_server;
    uint32_t sent, later;
    uint32_t flood; /* bytes of the packets of which there are always more; 0: none */
    struct request *requests;
    uint8_t op;
    uint32_t request_count;
};

static uint8_t bytes[OR_PACKET_MAX];

static const uint8_t *packet_of(uint32_t number, uint32_t length)
{
    memcpy(bytes, &number, sizeof number);
    for (uint32_t i = sizeof number; i < length; i++)
        bytes[i] = (uint8_t)(number + i * 7 + (i >> 8));
    return bytes;
}

static void arrived(struct arrivals *a, const uint8_t *packet, uint32_t length)
{
    uint32_t number;
    memcpy(&number, packet, sizeof number);
    assert_true(number > a->last); /* in order, none twice */
    assert_memory_equal(packet, packet_of(number, length), length);
    a->last = number;
    a->last_length = length;
    a->count++;
    a->bytes += length;
}

static void at_client(struct world *w, uint32_t device, uint32_t generation, const uint8_t *packet, uint32_t length)
{
    struct nic_test *t = w->test;
    assert_int_equal(device, NIC);
    assert_int_equal(generation, GENERATION);
    arrived(&t->at_client, packet, length);
}

static void at_server(void *arg, const uint8_t *packet, uint32_t length)
{
    struct nic_test *t = arg;
    arrived(&t->at_server, packet, length);
}

static struct or_nic_export nic_export(struct nic_test *t)
{
    return (struct or_nic_export){
        .id = NIC, .generation = GENERATION, .host = "vmhost1", .packet = at_server, .arg = t};
}

/* A session that is up, with a NIC. */
static struct world *new_nic_world(struct nic_test *t, uint32_t mtu, uint8_t integrity)
{
    *t = (struct nic_test){0};
    struct world *w = new_world(mtu, integrity);
    w->test = t;
    w->packet = at_client;
    struct or_nic_export nic = nic_export(t);
    assert_int_equal(or_server_add_nic(w->server, &nic), 0);
    run(w, 5);
    assert_true(or_client_up(w->client));
    return w;
}

static enum or_packet_verdict from_client(struct world *w, uint32_t number, uint32_t length)
{
    struct iovec iov = {(void *)packet_of(number, length), length};
    return or_client_packet(w->client, NIC, GENERATION, &(struct or_packet){&iov, 1, length}, w->now);
}

static enum or_packet_verdict from_server(struct world *w, uint32_t number, uint32_t length)
{
    struct iovec iov = {(void *)packet_of(number, length), length};
    return or_server_packet(w->server, NIC, &(struct or_packet){&iov, 1, length}, w->now);
}

static void packets_cross_whole(uint32_t mtu, uint8_t integrity)
{
    struct nic_test t;
    struct world *w = new_nic_world(&t, mtu, integrity);
    uint32_t fragment = or_wire_fragment_bytes(mtu);
    uint32_t sizes[] = {OR_PACKET_MIN, 27,           1526,  fragment - 1, fragment,
                        fragment + 1,  2 * fragment, 65536, OR_PACKET_MAX};
    uint32_t number = 0;
    uint64_t sum = 0;
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        if (sizes[i] > OR_PACKET_MAX)
            continue;
        number++;
        sum += sizes[i];
        assert_int_equal(from_client(w, number, sizes[i]), OR_PACKET_SENT);
        assert_int_equal(from_server(w, number, sizes[i]), OR_PACKET_SENT);
        run(w, 2);
        assert_int_equal(t.at_client.count, number);
        assert_int_equal(t.at_server.count, number);
        assert_int_equal(t.at_client.last_length, sizes[i]);
    }
    struct or_client_stats client;
    struct or_server_stats server;
    or_client_stats(w->client, &client);
    or_server_stats(w->server, &server);
    assert_int_equal(client.packets.sent, number);
    assert_int_equal(client.packets.received, number);
    assert_int_equal(client.packets.bytes_sent, sum);
    assert_int_equal(server.packets.bytes_received, sum);
    assert_int_equal(server.packets.lost + client.packets.lost + server.packets.incomplete + client.packets.incomplete,
                     0);
    end_world(w);
}

static void packets_cross_whole_mac_1500(void **state)
{
    (void)state;
    packets_cross_whole(1500, OR_INTEGRITY_MAC);
}

static void packets_cross_whole_crc_9000(void **state)
{
    (void)state;
    packets_cross_whole(9000, OR_INTEGRITY_CRC);
}

static void packets_cross_whole_encrypted_65535(void **state)
{
    (void)state;
    packets_cross_whole(65535, OR_INTEGRITY_ENCRYPT);
}

static void packets_are_gathered_from_pieces(void **state)
{
    (void)state;
    struct nic_test t;
    struct world *w = new_nic_world(&t, 1500, OR_INTEGRITY_MAC);
    uint8_t *p = (uint8_t *)packet_of(1, 20000);
    struct iovec iov[] = {{p, 12}, {p + 12, 0}, {NULL, 0}, {p + 12, 1}, {p + 13, 14000}, {p + 14013, 20000 - 14013}};
    struct or_packet packet = {iov, sizeof iov / sizeof iov[0], 20000};
    assert_int_equal(or_client_packet(w->client, NIC, GENERATION, &packet, w->now), OR_PACKET_SENT);
    memset(bytes, 0, sizeof bytes); /* it was copied */
    run(w, 2);
    assert_int_equal(t.at_server.count, 1);
    end_world(w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(packets_cross_whole_mac_1500),
        cmocka_unit_test(packets_cross_whole_crc_9000),
        cmocka_unit_test(packets_cross_whole_encrypted_65535),
        cmocka_unit_test(packets_are_gathered_from_pieces),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
