/* The in-process switch. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

#include "../net/frames.h"
#include "backend/net/uplink.h"

#define SECOND 1000000000ull
#define PORTS 3u

struct world {
    struct or_hub *hub;
    struct or_uplink *port[PORTS];
    uint32_t ready[PORTS];
};

static const uint8_t macs[PORTS][6] = {{0x52, 0x54, 0, 0, 0, 1}, {0x52, 0x54, 0, 0, 0, 2}, {0x52, 0x54, 0, 0, 0, 3}};
static const uint8_t behind[6] = {0x52, 0x54, 0, 0, 1, 1}; /* no port's own */

static void on_ready(void *arg)
{
    ++*(uint32_t *)arg;
}

static int begin(void **state)
{
    struct world *w = calloc(1, sizeof *w);
    w->hub = or_hub_create();
    for (uint32_t i = 0; i < PORTS; i++) {
        w->port[i] = or_hub_join(w->hub, macs[i]);
        w->port[i]->ready = on_ready;
        w->port[i]->arg = &w->ready[i];
    }
    *state = w;
    return 0;
}

static int end(void **state)
{
    struct world *w = *state;
    for (uint32_t i = 0; i < PORTS; i++)
        if (w->port[i])
            w->port[i]->ops->close(w->port[i]);
    or_hub_destroy(w->hub);
    free(w);
    return 0;
}

/* A frame of `length` bytes, all but its addresses `number`. */
static void transmit(struct world *w, uint32_t port, const uint8_t *to, const uint8_t *from, uint32_t length,
                     uint8_t number, uint64_t now)
{
    static uint8_t packet[OR_PACKET_MAX];
    struct or_offload o;
    memset(packet, 0, OR_VNET_HEADER);
    memset(packet + OR_VNET_HEADER, number, length);
    memcpy(packet + OR_VNET_HEADER, to, 6);
    memcpy(packet + OR_VNET_HEADER + 6, from, 6);
    assert_true(or_offload_check(packet, OR_VNET_HEADER + length, &o));
    assert_int_equal(w->port[port]->ops->send(w->port[port], &o, now), OR_UPLINK_SENT);
}

/* The number of the next packet at a port; -1: there is none. */
static int receive(struct world *w, uint32_t port)
{
    struct or_uplink *u = w->port[port];
    uint8_t *packet;
    uint32_t length = u->ops->next(u, &packet);
    if (length == 0)
        return -1;
    uint8_t number = packet[length - 1];
    for (uint32_t i = OR_VNET_HEADER + 12; i < length; i++)
        assert_int_equal(packet[i], number);
    u->ops->taken(u);
    return number;
}

static void expect(struct world *w, int a, int b, int c)
{
    assert_int_equal(receive(w, 0), a);
    assert_int_equal(receive(w, 1), b);
    assert_int_equal(receive(w, 2), c);
}

static void frames_go_where_their_address_was_seen(void **state)
{
    struct world *w = *state;
    transmit(w, 0, macs[1], macs[0], 60, 1, SECOND); /* a port's own address is known from the start */
    expect(w, -1, 1, -1);
    transmit(w, 0, MAC_ALL, macs[0], 60, 2, SECOND);
    expect(w, -1, 2, 2);
    transmit(w, 0, behind, macs[0], 60, 3, SECOND); /* unknown */
    expect(w, -1, 3, 3);
    transmit(w, 2, macs[0], behind, 60, 4, SECOND);
    expect(w, 4, -1, -1);
    transmit(w, 0, behind, macs[0], 60, 5, SECOND);
    expect(w, -1, -1, 5);
    transmit(w, 1, macs[0], behind, 60, 6, SECOND); /* it has moved */
    expect(w, 6, -1, -1);
    transmit(w, 0, behind, macs[0], 60, 7, SECOND);
    expect(w, -1, 7, -1);
    transmit(w, 1, behind, macs[1], 60, 8, SECOND); /* behind the sender itself */
    expect(w, -1, -1, -1);
}

static void an_address_is_forgotten_after_a_silence(void **state)
{
    struct world *w = *state;
    transmit(w, 2, macs[0], behind, 60, 1, SECOND);
    expect(w, 1, -1, -1);
    transmit(w, 0, behind, macs[0], 60, 2, SECOND + OR_HUB_AGE_NS - 1);
    expect(w, -1, -1, 2);
    transmit(w, 0, behind, macs[0], 60, 3, SECOND + OR_HUB_AGE_NS);
    expect(w, -1, 3, 3);
    transmit(w, 0, macs[1], macs[0], 60, 4, 100 * SECOND + OR_HUB_AGE_NS); /* own ones stay */
    expect(w, -1, 4, -1);
}

static void a_ports_own_address_is_not_stolen(void **state)
{
    struct world *w = *state;
    transmit(w, 2, MAC_ALL, macs[1], 60, 1, SECOND);
    expect(w, 1, 1, -1);
    transmit(w, 0, macs[1], macs[0], 60, 2, SECOND);
    expect(w, -1, 2, -1);
}

/* A guest without spoof check that makes up addresses takes its share of the table, not that of others. */
static void one_port_does_not_fill_the_table(void **state)
{
    struct world *w = *state;
    for (uint32_t i = 0; i < 200; i++) {
        uint8_t mac[6] = {0x02, 1, 0, 0, 0, (uint8_t)i};
        transmit(w, 1, macs[0], mac, 60, 1, SECOND);
        expect(w, 1, -1, -1);
    }
    for (uint32_t i = 0; i < 100000; i++) {
        uint8_t mac[6] = {0x02, 2, 0, (uint8_t)(i >> 16), (uint8_t)(i >> 8), (uint8_t)i};
        transmit(w, 2, macs[0], mac, 60, 1, 2 * SECOND);
        assert_int_equal(receive(w, 0), 1);
    }
    uint32_t known = 0;
    for (uint32_t i = 0; i < 200; i++) {
        uint8_t mac[6] = {0x02, 1, 0, 0, 0, (uint8_t)i};
        transmit(w, 0, mac, macs[0], 60, 2, 3 * SECOND);
        assert_int_equal(receive(w, 1), 2);
        known += receive(w, 2) == -1;
    }
    assert_int_equal(known, 200);
}

static void a_full_queue_drops_and_counts_and_keeps_its_order(void **state)
{
    struct world *w = *state;
    uint32_t sent = 0, received = 0;
    for (uint32_t round = 0; round < 50; round++) {
        for (uint32_t i = 0; i < 30; i++, sent++)
            transmit(w, 0, macs[1], macs[0], i % 3 ? 65000 - 1000 * round - 3 * i : 60 + i, (uint8_t)i, SECOND);
        int number, last = -1;
        while ((number = receive(w, 1)) >= 0) {
            assert_true(number > last); /* large ones may be missing, and small ones behind them not */
            last = number;
            received++;
        }
        assert_int_equal(received + w->port[1]->queue_full, sent);
    }
    assert_in_range(w->port[1]->queue_full, 20, 500);
    assert_int_equal(w->ready[1], 50); /* told once each time it was empty */
    for (uint32_t i = 0; i < 20; i++)
        transmit(w, 0, macs[1], macs[0], 65000, (uint8_t)i, SECOND);
    assert_true(w->port[1]->queue_full > 0);
    for (uint32_t i = 0; i < 15; i++)
        assert_int_equal(receive(w, 1), (int)i); /* the oldest, in order */
}

/* A packet fits neither behind the last one nor in front of the first, though their gaps together would do. */
static void a_packet_does_not_go_round_the_queues_end(void **state)
{
    struct world *w = *state;
    transmit(w, 0, macs[1], macs[0], 20000, 99, SECOND);
    assert_int_equal(receive(w, 1), 99);
    for (uint8_t i = 0; i < 15; i++)
        transmit(w, 0, macs[1], macs[0], 65000, i, SECOND);
    transmit(w, 0, macs[1], macs[0], 60000, 15, SECOND);
    assert_int_equal(w->port[1]->queue_full, 1);
    for (int i = 0; i < 15; i++)
        assert_int_equal(receive(w, 1), i);
    assert_int_equal(receive(w, 1), -1);
}

static void a_port_that_leaves_is_forgotten(void **state)
{
    struct world *w = *state;
    transmit(w, 2, macs[0], behind, 60, 1, SECOND);
    expect(w, 1, -1, -1);
    w->port[2]->ops->close(w->port[2]);
    w->port[2] = NULL;
    transmit(w, 0, behind, macs[0], 60, 2, SECOND);
    assert_int_equal(receive(w, 1), 2);
    transmit(w, 0, macs[2], macs[0], 60, 3, SECOND);
    assert_int_equal(receive(w, 1), 3);
}

#define HUB_TEST(name) cmocka_unit_test_setup_teardown(name, begin, end)

int main(void)
{
    const struct CMUnitTest tests[] = {
        HUB_TEST(frames_go_where_their_address_was_seen),
        HUB_TEST(an_address_is_forgotten_after_a_silence),
        HUB_TEST(a_ports_own_address_is_not_stolen),
        HUB_TEST(one_port_does_not_fill_the_table),
        HUB_TEST(a_full_queue_drops_and_counts_and_keeps_its_order),
        HUB_TEST(a_packet_does_not_go_round_the_queues_end),
        HUB_TEST(a_port_that_leaves_is_forgotten),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
