/* What a hostile guest, or QEMU, does with a NIC's rings: it is refused or counted, and costs a bounded time. */
#include "net_driver.h"

static struct nic_driver n;
static uint8_t packet[OR_PACKET_MAX], frame[OR_PACKET_MAX];

static int setup(void **state)
{
    (void)state;
    nic_init(&n, 1);
    nic_start(&n, ALL_FEATURES);
    return 0;
}

/* cmocka takes SIGBUS for itself between a set-up and its test. */
static int setup_idle(void **state)
{
    (void)state;
    nic_init(&n, 1);
    return 0;
}

static int setup_no_merging(void **state)
{
    (void)state;
    nic_init(&n, 1);
    nic_start(&n, ~F(VIRTIO_NET_F_MRG_RXBUF));
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    nic_end(&n);
    return 0;
}

static void receive(uint32_t length)
{
    const struct virtio_net_hdr_v1 header = {0};
    or_vhost_net_receive(n.dev, packet, make_packet(packet, &header, length, 1));
    step(&n.d);
}

static void expect_broken(const char *why)
{
    steps(&n.d, 2);
    assert_int_equal(n.d.state, OR_VHOST_BROKEN);
    if (strstr(n.d.reason, why) == NULL)
        fail_msg("the reason is \"%s\"", n.d.reason);
    /* Nothing is taken from it or given to it any more; the NIC's counters go on. */
    uint32_t calls = n.calls;
    receive(100);
    assert_int_equal(n.calls, calls);
    assert_true(nic_stats(&n).rx_not_running > 0);
    assert_int_equal(or_vhost_net_poll(n.dev, ++n.d.now), 0);
    assert_false(or_vhost_net_arm(n.dev));
}

static void a_packet_to_be_written_to(void **state)
{
    (void)state;
    struct buffer b[2] = {{.phys = DATA, .length = 100}, {.phys = DATA + 4096, .length = 10, .writable = true}};
    make_available(&n.d, TX(0), write_chain(&n.d, TX(0), b, 2, 0));
    expect_broken("virtqueue 1: a packet to be sent has a buffer to be written to");
    assert_int_equal(n.calls, 0);
}

static void a_receive_buffer_to_be_read(void **state)
{
    (void)state;
    struct buffer b[2] = {{.phys = DATA, .length = 100}, {.phys = DATA + 4096, .length = 4096, .writable = true}};
    make_available(&n.d, RX(0), write_chain(&n.d, RX(0), b, 2, 0));
    receive(100);
    expect_broken("virtqueue 0: a receive buffer is to be read");
}

static void receive_buffers_without_room(void **state)
{
    (void)state;
    post_buffers(&n, RX(0), 1, OR_VNET_HEADER);
    receive(100);
    expect_broken("no room for data");
}

static void receive_buffers_of_nothing(void **state)
{
    (void)state;
    struct buffer b = {.phys = DATA, .length = 0, .writable = true};
    post_buffers(&n, RX(0), 1, 100);
    make_available(&n.d, RX(0), write_chain(&n.d, RX(0), &b, 1, 0));
    receive(1000);
    expect_broken("no room for data");
}

static void receive_buffers_of_a_byte(void **state)
{
    (void)state;
    post_buffers(&n, RX(0), 1, OR_VNET_HEADER + 1);
    post_buffers(&n, RX(0), 100, 1);
    receive(1000);
    expect_broken("too many pieces");
}

static void chains_outside_of_memory(void **state)
{
    (void)state;
    struct buffer b = {.phys = 64ull * REGION, .length = 100};
    make_available(&n.d, TX(0), write_chain(&n.d, TX(0), &b, 1, 0));
    expect_broken("outside the guest's memory");
}

static void receive_buffers_outside_of_memory(void **state)
{
    (void)state;
    struct buffer b = {.phys = 2 * REGION - 50, .length = 100, .writable = true};
    make_available(&n.d, RX(0), write_chain(&n.d, RX(0), &b, 1, 0));
    receive(60);
    expect_broken("outside the guest's memory");
}

static void a_chain_that_loops(void **state)
{
    (void)state;
    struct vring_desc *d = desc_of(&n.d, TX(0), 0);
    d[0] = (struct vring_desc){.addr = DATA, .len = 1, .flags = VRING_DESC_F_NEXT, .next = 1};
    d[1] = (struct vring_desc){.addr = DATA, .len = 1, .flags = VRING_DESC_F_NEXT, .next = 0};
    make_available(&n.d, TX(0), 0);
    expect_broken("loops");
}

static void an_index_that_jumps(void **state)
{
    (void)state;
    avail_of(&n.d, RX(0))->idx = 40000;
    receive(100);
    expect_broken("jumped");
}

static void a_chain_of_gigabytes(void **state)
{
    (void)state;
    /* Each descriptor covers the whole of a region: 100 of them are 400 MiB. */
    struct buffer b[100];
    for (uint32_t i = 0; i < 100; i++)
        b[i] = (struct buffer){.phys = 0, .length = REGION};
    make_available(&n.d, TX(0), write_chain(&n.d, TX(0), b, 100, 0));
    step(&n.d);
    assert_int_equal(nic_stats(&n).tx_too_long, 1);
    assert_int_equal(n.d.state, OR_VHOST_RUNNING);
}

/* A guest makes more available than the ring holds, before it has seen what was given back. */
static void the_same_buffer_again_and_again(void **state)
{
    (void)state;
    const struct virtio_net_hdr_v1 header = {0};
    uint32_t size = n.d.q[RX(0)].size;
    post_buffers(&n, RX(0), size, 200);
    for (uint32_t i = 0; i < 3 * size; i++) {
        or_vhost_net_receive(n.dev, packet, make_packet(packet, &header, 100, i));
        make_available(&n.d, RX(0), 5);
    }
    step(&n.d);
    assert_int_equal(nic_stats(&n).rx_packets, 3 * size);
    assert_int_equal(used_of(&n.d, RX(0))->idx, 3 * size);
}

static void the_same_packet_again_and_again(void **state)
{
    (void)state;
    uint16_t head = send_frame(&n, TX(0), 100);
    for (uint32_t polls = 0; polls < 20; polls++) {
        for (uint32_t i = 0; i < 60; i++)
            make_available(&n.d, TX(0), head);
        or_vhost_net_poll(n.dev, ++n.d.now); /* and nothing is published between */
    }
    assert_true(nic_stats(&n).tx_packets >= 1200);
    assert_int_equal(n.d.state, OR_VHOST_RUNNING);
}

/* Chains of the longest indirect tables, which are slow to walk: a step takes few of them. */
static void expensive_chains_are_bounded(void **state)
{
    (void)state;
    static struct buffer b[1000];
    for (uint32_t i = 0; i < 1000; i++)
        b[i] = (struct buffer){.phys = DATA, .length = i < 30 ? 1 : 0};
    write_table(guest(&n.d, 0x300000), b, 1000, 0, UINT16_MAX);
    for (uint32_t i = 0; i < 50; i++) {
        *desc_of(&n.d, TX(0), (uint16_t)i) =
            (struct vring_desc){.addr = 0x300000, .len = 1000 * 16, .flags = VRING_DESC_F_INDIRECT};
        make_available(&n.d, TX(0), (uint16_t)i);
    }
    assert_in_range(or_vhost_net_poll(n.dev, ++n.d.now), 1, 3);
    assert_int_equal(n.d.state, OR_VHOST_RUNNING);
}

static void a_header_in_pieces_of_a_byte(void **state)
{
    (void)state;
    struct virtio_net_hdr_v1 got;
    struct buffer b[20];
    for (uint32_t i = 0; i < 19; i++)
        b[i] = (struct buffer){.phys = DATA + i, .length = 1, .writable = true};
    b[19] = (struct buffer){.phys = DATA + 19, .length = 1000, .writable = true};
    make_available(&n.d, RX(0), write_chain(&n.d, RX(0), b, 20, 0));
    memset(guest(&n.d, DATA), 0xee, 1100);
    receive(500);
    assert_int_equal(take_packet(&n, RX(0), &got, frame), 500);
    assert_int_equal(got.num_buffers, 1);
    assert_memory_equal(frame, packet + OR_VNET_HEADER, 500);
    assert_int_equal(*(uint8_t *)guest(&n.d, DATA + 512), 0xee);
}

static void a_buffer_across_regions(void **state)
{
    (void)state;
    struct buffer b = {.phys = REGION - 300, .length = 1000, .writable = true};
    make_available(&n.d, RX(0), write_chain(&n.d, RX(0), &b, 1, 0));
    receive(600);
    assert_int_equal(take_used(&n.d, RX(0)), 0);
    assert_int_equal(n.d.used_len, OR_VNET_HEADER + 600);
    for (uint32_t i = 0; i < 600; i++)
        assert_int_equal(*(uint8_t *)guest(&n.d, REGION - 300 + OR_VNET_HEADER + i), packet[OR_VNET_HEADER + i]);
}

static void memory_that_vanishes(void **state)
{
    (void)state;
    nic_start(&n, ALL_FEATURES);
    post_buffers(&n, RX(0), 10, BUFFER_BYTES);
    for (int i = 0; i < 10; i++)
        send_frame(&n, TX(0), 1000);
    assert_int_equal(ftruncate(n.d.memfd, 4096), 0);
    const struct virtio_net_hdr_v1 header = {0};
    or_vhost_net_receive(n.dev, packet, make_packet(packet, &header, 1500, 1));
    steps(&n.d, 3);
    assert_int_equal(n.d.state, OR_VHOST_BROKEN);
    assert_non_null(strstr(n.d.reason, "shorter"));
    assert_int_equal(ftruncate(n.d.memfd, FILE_SIZE), 0);
}

static void without_merging_a_packet_takes_one_chain(void **state)
{
    (void)state;
    post_buffers(&n, RX(0), 60, 300);
    for (int i = 0; i < 10; i++)
        receive(1000);
    assert_int_equal(nic_stats(&n).rx_too_long, 10);
    assert_int_equal(used_of(&n.d, RX(0))->idx, 0);
}

#define TEST(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_packet_to_be_written_to),
        TEST(a_receive_buffer_to_be_read),
        TEST(receive_buffers_without_room),
        TEST(receive_buffers_of_nothing),
        TEST(receive_buffers_of_a_byte),
        TEST(chains_outside_of_memory),
        TEST(receive_buffers_outside_of_memory),
        TEST(a_chain_that_loops),
        TEST(an_index_that_jumps),
        TEST(a_chain_of_gigabytes),
        TEST(the_same_buffer_again_and_again),
        TEST(the_same_packet_again_and_again),
        TEST(expensive_chains_are_bounded),
        TEST(a_header_in_pieces_of_a_byte),
        TEST(a_buffer_across_regions),
        cmocka_unit_test_setup_teardown(memory_that_vanishes, setup_idle, teardown),
        cmocka_unit_test_setup_teardown(without_merging_a_packet_takes_one_chain, setup_no_merging, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
