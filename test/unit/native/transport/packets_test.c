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
    uint32_t sent;
    uint32_t flood; /* bytes of the packets of which there are always more; 0: none */
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

/* --- who may ------------------------------------------------------------------------------------ */

static void packets_of_others_are_dropped_and_counted(void **state)
{
    (void)state;
    struct nic_test t;
    struct world *w = new_nic_world(&t, 9000, OR_INTEGRITY_MAC);
    uint8_t psk[32] = {1};
    assert_int_equal(or_server_add_host(w->server, "vmhost2", psk), 0);
    struct or_nic_export foreign = nic_export(&t);
    foreign.id = 10;
    strcpy(foreign.host, "vmhost2");
    assert_int_equal(or_server_add_nic(w->server, &foreign), 0);

    struct iovec iov = {(void *)packet_of(1, 10000), 10000};
    struct or_packet packet = {&iov, 1, 10000};
    or_client_packet(w->client, NIC, GENERATION + 1, &packet, w->now);
    or_client_packet(w->client, NIC, GENERATION - 1, &packet, w->now);
    or_client_packet(w->client, 10, GENERATION, &packet, w->now); /* vmhost2's */
    or_client_packet(w->client, 11, GENERATION, &packet, w->now); /* nobody's */
    or_client_packet(w->client, 5, 3, &packet, w->now);           /* a disk's */
    run(w, 2);
    struct or_server_stats stats;
    or_server_stats(w->server, &stats);
    assert_int_equal(t.at_server.count, 0);
    assert_int_equal(stats.packets_fenced, 2 * 2); /* fragments */
    assert_int_equal(stats.packets_unknown, 3 * 2);
    assert_int_equal(or_server_nic_fenced(w->server, NIC), 2 * 2);
    assert_int_equal(or_server_packet(w->server, 10, &packet, w->now), OR_PACKET_DOWN); /* no session */
    assert_int_equal(or_server_packet(w->server, 11, &packet, w->now), OR_PACKET_DOWN);
    assert_int_equal(or_server_packet(w->server, 5, &packet, w->now), OR_PACKET_DOWN);

    /* What is under way when the NIC goes never arrives. */
    assert_int_equal(from_client(w, 1, 100), OR_PACKET_SENT);
    or_client_flush(w->client, w->now);
    or_port_tx_flush(w->client_port);
    assert_int_equal(or_server_remove_nic(w->server, NIC), 0);
    assert_int_equal(or_server_remove_nic(w->server, NIC), -ENOENT);
    run(w, 2);
    assert_int_equal(t.at_server.count, 0);
    assert_int_equal(from_server(w, 1, 100), OR_PACKET_DOWN);
    end_world(w);
}

static void a_nic_has_an_id_of_its_own_and_a_host(void **state)
{
    (void)state;
    struct nic_test t;
    struct world *w = new_nic_world(&t, 9000, OR_INTEGRITY_MAC);
    struct or_nic_export nic = nic_export(&t);
    assert_int_equal(or_server_add_nic(w->server, &nic), -EEXIST); /* the same generation */
    nic.generation--;
    assert_int_equal(or_server_add_nic(w->server, &nic), -EEXIST);
    nic.id = 5; /* the disk's */
    assert_int_equal(or_server_add_nic(w->server, &nic), -EEXIST);
    struct or_export disk = {.id = NIC, .generation = 9, .host = "vmhost1", .volume = w->volume};
    assert_int_equal(or_server_add_export(w->server, &disk), -EEXIST);
    strcpy(nic.host, "nobody");
    assert_int_equal(or_server_add_nic(w->server, &nic), -ENOENT);
    for (uint32_t id = 100; id < 107; id++) {
        nic = nic_export(&t);
        nic.id = id;
        assert_int_equal(or_server_add_nic(w->server, &nic), 0);
    }
    nic.id = 107;
    assert_int_equal(or_server_add_nic(w->server, &nic), -ENOSPC);
    assert_int_equal(or_server_remove_nic(w->server, 106), 0);
    assert_int_equal(or_server_add_nic(w->server, &nic), 0);

    uint8_t psk[32] = {1};
    assert_int_equal(or_server_add_host(w->server, "vmhost2", psk), 0);
    nic = nic_export(&t);
    nic.generation++;
    strcpy(nic.host, "vmhost2");
    assert_int_equal(or_server_add_nic(w->server, &nic), 0); /* moved */
    assert_int_equal(or_server_remove_host(w->server, "vmhost2"), -EBUSY);
    assert_int_equal(from_client(w, 1, 100), OR_PACKET_SENT);
    run(w, 2);
    assert_int_equal(t.at_server.count, 0);
    assert_int_equal(or_server_remove_nic(w->server, NIC), 0);
    assert_int_equal(or_server_remove_host(w->server, "vmhost2"), 0);
    end_world(w);
}

/* --- loss --------------------------------------------------------------------------------------- */

static uint32_t lose_every; /* nth frame */
static uint32_t frames;

static bool loses_some(struct world *w)
{
    (void)w;
    return lose_every && ++frames % lose_every == 0;
}

static void what_is_lost_stays_lost_and_is_counted(void **state)
{
    (void)state;
    struct nic_test t;
    struct world *w = new_nic_world(&t, 1500, OR_INTEGRITY_MAC);
    w->loses = loses_some;
    frames = 0;
    lose_every = 10;
    uint32_t sent = 0;
    for (uint32_t number = 1; number <= 200; number++) {
        sent += from_client(w, number, 1400 * (1 + number % 5)) == OR_PACKET_SENT;
        run(w, 1);
    }
    lose_every = 0;
    run(w, 100);
    struct or_client_stats client;
    struct or_server_stats server;
    or_client_stats(w->client, &client);
    or_server_stats(w->server, &server);
    assert_int_equal(client.packets.sent, sent);
    assert_in_range(t.at_server.count, sent / 2, sent - 20);
    assert_in_range(client.packets.lost, 20, 100);
    assert_int_equal(t.at_server.count, server.packets.received);
    assert_in_range(server.packets.incomplete, 10, sent - t.at_server.count);
    end_world(w);
}

static void a_session_that_ends_takes_its_packets_along(void **state)
{
    (void)state;
    struct nic_test t;
    struct world *w = new_nic_world(&t, 1500, OR_INTEGRITY_MAC);
    assert_int_equal(from_client(w, 1, 60000), OR_PACKET_SENT); /* more than the window */
    assert_int_equal(from_client(w, 2, 100), OR_PACKET_LATER);
    or_server_bye(w->server, w->now);
    or_port_tx_flush(w->server_port);
    or_port_rx_burst(w->client_port, 64, client_rx, w);
    assert_false(or_client_up(w->client));
    assert_int_equal(from_client(w, 2, 100), OR_PACKET_DOWN);
    struct or_client_stats stats;
    or_client_stats(w->client, &stats);
    assert_int_equal(stats.packets.lost, 1); /* the rest of the first, that waited for room */
    assert_int_equal(or_server_admit_host(w->server, "vmhost1", true), 0);
    run(w, 100);
    assert_true(or_client_up(w->client));
    assert_int_equal(from_client(w, 3, 60000), OR_PACKET_SENT);
    run(w, 10);
    assert_int_equal(t.at_server.count, 1);
    assert_int_equal(t.at_server.last, 3);
    end_world(w);
}

/* --- sharing ------------------------------------------------------------------------------------ */

static void flood(struct world *w, struct nic_test *t,
                  enum or_packet_verdict (*send)(struct world *, uint32_t, uint32_t))
{
    while (t->flood && send(w, t->sent + 1, t->flood) == OR_PACKET_SENT)
        t->sent++;
}

static void flood_from_client(struct world *w)
{
    flood(w, w->test, from_client);
}

static void flood_from_server(struct world *w)
{
    flood(w, w->test, from_server);
}

#define REQUESTS 24u
#define REQUEST_BYTES 65536u

static void submit(struct world *w, struct request *r, uint8_t op, uint32_t index)
{
    static uint8_t data[REQUEST_BYTES];
    *r = (struct request){.data = data};
    r->req = (struct or_req){
        .ops = &ops, .offset = index * REQUEST_BYTES, .length = REQUEST_BYTES, .device = 5, .generation = 3, .op = op};
    or_client_submit(w->client, &r->req, w->now);
}

/* Lets packets and requests of `op` compete for some time (late: packets come after the flush); returns what percentage
 * of the bytes were packets'. */
static uint32_t compete(uint8_t op, uint32_t packet_bytes, uint32_t requests, uint32_t mtu, bool late, uint64_t *all)
{
    struct nic_test t;
    struct world *w = new_nic_world(&t, mtu, OR_INTEGRITY_CRC);
    struct request r[REQUESTS] = {0};
    uint64_t request_bytes = 0;
    t.flood = packet_bytes;
    w->late = late;
    if (op == OR_OP_WRITE)
        w->before_client_flush = flood_from_client;
    else
        w->before_server_flush = flood_from_server;
    for (uint32_t i = 0; i < requests; i++)
        submit(w, &r[i], op, i);
    for (int step = 0; step < 150; step++) {
        run_step(w);
        w->now += MS / 20;
        for (uint32_t i = 0; i < requests; i++)
            if (r[i].done) {
                request_bytes += REQUEST_BYTES;
                submit(w, &r[i], op, i);
            }
    }
    t.flood = 0;
    uint64_t packets = op == OR_OP_WRITE ? t.at_server.bytes : t.at_client.bytes;
    *all = packets + request_bytes;
    run(w, 50);
    end_world(w);
    return (uint32_t)(100 * packets / (*all ? *all : 1));
}

static void packets_and_requests_get_half_each(void **state)
{
    (void)state;
    uint32_t sizes[] = {100, 1526, 65000};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++)
        for (uint8_t op = OR_OP_READ; op <= OR_OP_WRITE; op++) {
            uint64_t both, alone;
            uint32_t mtu = i % 2 ? 1500 : 9000;
            assert_in_range(compete(op, sizes[i], REQUESTS, mtu, false, &both), 40, 60);
            assert_in_range(compete(op, sizes[i], REQUESTS, mtu, true, &both), 35, 65);
            /* What has no rival gets nearly all. */
            assert_int_equal(compete(op, sizes[i], 0, mtu, false, &alone), 100);
            assert_true(alone > both / 3 * 2);
            assert_int_equal(compete(op, 0, REQUESTS, mtu, false, &alone), 0);
            assert_true(alone > both / 3 * 2);
        }
}

static void a_flood_of_packets_leaves_room_for_a_request(void **state)
{
    (void)state;
    struct nic_test t;
    struct world *w = new_nic_world(&t, 9000, OR_INTEGRITY_MAC);
    uint8_t data[8192] = {0};
    struct request r = {.data = data};
    r.req = (struct or_req){.ops = &ops, .length = sizeof data, .device = 5, .generation = 3, .op = OR_OP_WRITE};
    t.flood = 65000;
    w->before_client_flush = flood_from_client;
    run(w, 5);
    or_port_rx_burst(w->client_port, 64, client_rx, w);
    flood_from_client(w);
    or_client_submit(w->client, &r.req, w->now);
    or_client_flush(w->client, w->now); /* without an acknowledgement in between */
    or_port_tx_flush(w->client_port);
    while (or_port_rx_burst(w->server_port, 64, server_rx, w))
        ;
    struct or_server_stats stats;
    or_server_stats(w->server, &stats);
    assert_int_equal(stats.requests, 2); /* the other one asks for the document */
    t.flood = 0;
    run(w, 50);
    assert_int_equal(r.done, 1);
    end_world(w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(packets_cross_whole_mac_1500),
        cmocka_unit_test(packets_cross_whole_crc_9000),
        cmocka_unit_test(packets_cross_whole_encrypted_65535),
        cmocka_unit_test(packets_are_gathered_from_pieces),
        cmocka_unit_test(packets_of_others_are_dropped_and_counted),
        cmocka_unit_test(a_nic_has_an_id_of_its_own_and_a_host),
        cmocka_unit_test(what_is_lost_stays_lost_and_is_counted),
        cmocka_unit_test(a_session_that_ends_takes_its_packets_along),
        cmocka_unit_test(packets_and_requests_get_half_each),
        cmocka_unit_test(a_flood_of_packets_leaves_room_for_a_request),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
