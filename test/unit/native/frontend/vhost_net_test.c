/* A NIC as QEMU and the guest see it: what is offered, packets both ways, what happens when there is no room. */
#include "net_driver.h"

static struct nic_driver n;
static uint8_t packet[OR_PACKET_MAX], frame[OR_PACKET_MAX];

static int setup(void **state)
{
    (void)state;
    nic_init(&n, 1);
    return 0;
}

static int setup_pairs(void **state)
{
    (void)state;
    nic_init(&n, 2);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    nic_end(&n);
    return 0;
}

/* Sends a frame of the pattern in the guest's memory and expects it in the session. */
static void expect_sent(uint32_t ring, uint16_t head, uint64_t phys, uint32_t length)
{
    uint32_t skip = or_net_header_bytes(n.d.features);
    step(&n.d);
    assert_int_equal(take_used(&n.d, ring), head);
    assert_int_equal(n.d.used_len, 0);
    assert_int_equal(n.length, OR_VNET_HEADER + length);
    assert_true(guest_holds(&n.d, phys + skip, n.packet + OR_VNET_HEADER, length));
}

static void receive(const struct virtio_net_hdr_v1 *header, uint32_t length, uint32_t seed)
{
    or_vhost_net_receive(n.dev, packet, make_packet(packet, header, length, seed));
    step(&n.d);
}

static void expect_received(uint32_t ring, uint32_t length, uint16_t buffers)
{
    struct virtio_net_hdr_v1 header;
    assert_int_equal(take_packet(&n, ring, &header, frame), length);
    assert_memory_equal(frame, packet + OR_VNET_HEADER, length);
    if (or_net_header_bytes(n.d.features) == OR_VNET_HEADER)
        assert_int_equal(header.num_buffers, buffers);
}

/* --- what is offered ------------------------------------------------------------------------------ */

static void a_nic_offers_offloads_and_no_inflight_region(void **state)
{
    (void)state;
    nic_create(&n);
    driver_connect(&n.d);
    driver_negotiate(&n.d, ALL_FEATURES, ALL_FEATURES);
    const uint64_t wanted = F(VIRTIO_F_VERSION_1) | F(VIRTIO_NET_F_MRG_RXBUF) | F(VIRTIO_NET_F_CSUM) |
                            F(VIRTIO_NET_F_GUEST_CSUM) | F(VIRTIO_NET_F_HOST_TSO4) | F(VIRTIO_NET_F_HOST_TSO6) |
                            F(VIRTIO_NET_F_GUEST_TSO4) | F(VIRTIO_NET_F_GUEST_TSO6) | F(VIRTIO_NET_F_MTU) |
                            OR_NET_F_HOST_USO | OR_NET_F_GUEST_USO4 | OR_NET_F_GUEST_USO6;
    const uint64_t not_ours = F(VIRTIO_NET_F_HOST_UFO) | F(VIRTIO_NET_F_GUEST_UFO) | F(VIRTIO_NET_F_CTRL_VQ) |
                              F(VIRTIO_NET_F_STATUS) | F(VIRTIO_NET_F_MQ);
    assert_int_equal(n.d.features & (wanted | not_ours), wanted);
    assert_int_equal(n.d.protocol, OR_VU_PROTOCOL_MQ | OR_VU_PROTOCOL_REPLY_ACK | OR_VU_PROTOCOL_NET_MTU |
                                       OR_VU_PROTOCOL_CONFIGURE_MEM_SLOTS);
}

static void queues_are_counted_in_pairs(void **state)
{
    (void)state;
    nic_start(&n, ALL_FEATURES); /* asserts what the device answers */
    assert_true(n.d.features & F(VIRTIO_NET_F_MQ));
    assert_int_equal(vu_set_state(&n.d, OR_VU_SET_VRING_ENABLE, 3, 1), 0);
    assert_int_equal(vu_set_state(&n.d, OR_VU_SET_VRING_ENABLE, 4, 1), 1);
}

static void an_mtu_beyond_the_nics_is_refused(void **state)
{
    (void)state;
    nic_create(&n);
    nic_connect(&n, ALL_FEATURES);
    assert_int_equal(vu_set_u64(&n.d, OR_VU_NET_SET_MTU, 9000), 0);
    assert_int_equal(vu_set_u64(&n.d, OR_VU_NET_SET_MTU, 9001), 1);
    assert_int_equal(n.d.state, OR_VHOST_BROKEN);
    assert_string_equal(n.d.reason, "QEMU's host_mtu of 9001 is more than the NIC's MTU of 9000");
}

static void refused(uint32_t request, uint32_t size)
{
    uint8_t payload[64] = {0};
    driver_connect(&n.d);
    driver_negotiate(&n.d, ALL_FEATURES, ALL_FEATURES);
    assert_true(vu_send(&n.d, request, 0, payload, size, NULL, 0));
    steps(&n.d, 3);
    assert_int_equal(n.d.state, OR_VHOST_BROKEN);
    assert_non_null(strstr(n.d.reason, "did not offer"));
    close(n.d.sock);
}

static void messages_of_a_disk_are_refused(void **state)
{
    (void)state;
    nic_create(&n);
    refused(OR_VU_GET_CONFIG, 20);
    refused(OR_VU_SET_CONFIG, 20);
    refused(OR_VU_GET_INFLIGHT_FD, 20);
    refused(OR_VU_SET_INFLIGHT_FD, 20);
}

static void memory_may_be_added_and_removed_once_for_each_pair(void **state)
{
    (void)state;
    nic_start(&n, ALL_FEATURES);
    struct or_vu_memory_region r = {
        .region = {.phys = 4 * REGION, .size = MIB, .user = 0x7f3000000000ull, .fd_offset = 0}};
    for (int i = 0; i < 2; i++)
        assert_int_equal(vu_set(&n.d, OR_VU_ADD_MEM_REG, &r, sizeof(r), &n.d.memfd, 1), 0);
    for (int i = 0; i < 2; i++)
        assert_int_equal(vu_set(&n.d, OR_VU_REM_MEM_REG, &r, sizeof(r), NULL, 0), 0);
    assert_int_equal(n.d.state, OR_VHOST_RUNNING);
}

static void features_are_told_while_it_runs(void **state)
{
    (void)state;
    nic_start(&n, ~F(VIRTIO_NET_F_GUEST_TSO4));
    assert_true(n.features & F(VIRTIO_NET_F_GUEST_TSO6));
    assert_false(n.features & F(VIRTIO_NET_F_GUEST_TSO4));
    driver_disconnect(&n.d);
    assert_int_equal(n.d.state, OR_VHOST_LISTENING);
    assert_int_equal(n.features, 0);
}

/* --- sending -------------------------------------------------------------------------------------- */

static void frames_are_sent_whole_from_any_pieces(void **state)
{
    (void)state;
    struct virtio_net_hdr_v1 header = {.num_buffers = 77};
    const uint32_t pieces[] = {1526, 12, 13, 5, 1, 700};
    nic_start(&n, ALL_FEATURES);
    for (uint32_t i = 0; i < sizeof(pieces) / sizeof(pieces[0]); i++) {
        uint32_t length = pieces[i] == 1 ? 60 : pieces[i] < 20 ? 300 : 1514;
        guest_fill(&n.d, DATA, 2000, i);
        uint16_t head = send_pieces(&n, TX(0), DATA, &header, length, pieces[i]);
        expect_sent(TX(0), head, DATA, length);
        for (uint32_t j = 0; j < OR_VNET_HEADER; j++)
            assert_int_equal(n.packet[j], 0); /* num_buffers too */
    }
    struct or_vhost_net_stats s = nic_stats(&n);
    assert_int_equal(s.tx_packets, 6);
    assert_int_equal(s.tx_bytes, 3 * 300 + 60 + 2 * 1514);
}

static void a_segment_of_64_kib_is_one_packet(void **state)
{
    (void)state;
    const uint32_t length = 14 + 65535;
    struct virtio_net_hdr_v1 header = {.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM,
                                       .gso_type = VIRTIO_NET_HDR_GSO_TCPV4 | VIRTIO_NET_HDR_GSO_ECN,
                                       .hdr_len = 54,
                                       .gso_size = 1448,
                                       .csum_start = 34,
                                       .csum_offset = 16};
    nic_start(&n, ALL_FEATURES);
    guest_fill(&n.d, DATA, length + 12, 3);
    uint16_t head = send_pieces(&n, TX(0), DATA, &header, length, 4096);
    expect_sent(TX(0), head, DATA, length);
    assert_memory_equal(n.packet, &header, sizeof(header));
}

static void old_guests_have_a_shorter_header(void **state)
{
    (void)state;
    nic_start(&n, ~(F(VIRTIO_F_VERSION_1) | F(VIRTIO_NET_F_MRG_RXBUF)));
    guest_fill(&n.d, DATA, 200, 1);
    uint16_t head = send_frame(&n, TX(0), 100);
    expect_sent(TX(0), head, DATA, 100);
    post_buffers(&n, RX(0), 1, 2048);
    struct virtio_net_hdr_v1 header = {0};
    receive(&header, 1000, 5);
    expect_received(RX(0), 1000, 1);
}

static void headers_that_make_no_sense_are_dropped(void **state)
{
    (void)state;
    const uint8_t csum = VIRTIO_NET_HDR_F_NEEDS_CSUM;
    const struct virtio_net_hdr_v1 bad[] = {
        {.flags = csum, .csum_start = 99, .csum_offset = 0},
        {.flags = csum, .csum_start = 34, .csum_offset = 65535},
        {.flags = csum, .csum_start = 65535, .csum_offset = 65535},
        {.flags = csum, .csum_start = 13, .csum_offset = 6},
        {.gso_type = VIRTIO_NET_HDR_GSO_TCPV4, .gso_size = 1000, .hdr_len = 54}, /* no checksum to complete */
        {.flags = csum, .csum_start = 34, .csum_offset = 16, .gso_type = VIRTIO_NET_HDR_GSO_TCPV4, .hdr_len = 54},
        {.flags = csum, .csum_start = 34, .csum_offset = 6, .gso_type = VIRTIO_NET_HDR_GSO_UDP, .gso_size = 100},
        {.flags = csum, .csum_start = 34, .csum_offset = 16, .gso_type = 1, .gso_size = 1000, .hdr_len = 101},
        {.flags = csum, .csum_start = 34, .csum_offset = 6, .gso_type = 0x85, .gso_size = 100},
        {.flags = csum, .csum_start = 34, .csum_offset = 6, .gso_type = 2, .gso_size = 100},
        {.flags = csum, .csum_start = 34, .csum_offset = 6, .gso_type = 0x80, .gso_size = 100},
        {.flags = csum, .csum_start = 34, .csum_offset = 6, .gso_type = 0x7f, .gso_size = 100},
    };
    const uint32_t count = sizeof(bad) / sizeof(bad[0]);
    nic_start(&n, ALL_FEATURES);
    for (uint32_t i = 0; i < count; i++) {
        uint16_t head = send_pieces(&n, TX(0), DATA, &bad[i], 100, 50);
        step(&n.d);
        assert_int_equal(take_used(&n.d, TX(0)), head);
        if (nic_stats(&n).tx_bad_header != i + 1)
            fail_msg("header %u was sent", i);
    }
    assert_int_equal(n.calls, 0);
    assert_int_equal(n.d.state, OR_VHOST_RUNNING);
}

static void what_was_not_negotiated_is_not_sent(void **state)
{
    (void)state;
    struct virtio_net_hdr_v1 header = {.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM, .csum_start = 34, .csum_offset = 16};
    nic_start(&n, ~(F(VIRTIO_NET_F_HOST_TSO4) | F(VIRTIO_NET_F_HOST_ECN) | OR_NET_F_HOST_USO));
    send_pieces(&n, TX(0), DATA, &header, 100, 4096);
    step(&n.d);
    assert_int_equal(n.count, 1);
    header.gso_size = 1000;
    const uint8_t types[] = {VIRTIO_NET_HDR_GSO_TCPV4, VIRTIO_NET_HDR_GSO_TCPV6 | VIRTIO_NET_HDR_GSO_ECN,
                             OR_GSO_UDP_L4};
    for (uint32_t i = 0; i < sizeof(types); i++) {
        header.gso_type = types[i];
        send_pieces(&n, TX(0), DATA, &header, 100, 4096);
    }
    step(&n.d);
    assert_int_equal(n.count, 1);
    assert_int_equal(nic_stats(&n).tx_bad_header, 3);
}

static void frames_of_impossible_lengths_are_dropped(void **state)
{
    (void)state;
    nic_start(&n, ALL_FEATURES);
    send_frame(&n, TX(0), 13);
    send_frame(&n, TX(0), OR_PACKET_MAX - OR_VNET_HEADER + 1);
    send_frame(&n, TX(0), OR_PACKET_MAX - OR_VNET_HEADER);
    send_frame(&n, TX(0), 14);
    step(&n.d);
    struct or_vhost_net_stats s = nic_stats(&n);
    assert_int_equal(s.tx_bad_header, 1);
    assert_int_equal(s.tx_too_long, 1);
    assert_int_equal(s.tx_packets, 2);
}

static void packets_wait_in_the_ring_while_the_session_has_no_room(void **state)
{
    (void)state;
    nic_start(&n, ALL_FEATURES & ~F(VIRTIO_RING_F_EVENT_IDX));
    n.verdict = OR_PACKET_LATER;
    n.room = 3;
    for (uint32_t i = 0; i < 10; i++)
        send_frame(&n, TX(0), 100 + i);
    steps(&n.d, 5);
    assert_int_equal(n.count, 3);
    assert_int_equal(used_of(&n.d, TX(0))->idx, 3);
    assert_int_equal(nic_stats(&n).tx_waits, 1);
    /* It does not keep the worker from sleeping, nor asks for kicks, but it is looked at again soon. */
    assert_false(or_vhost_net_arm(n.dev));
    assert_true(used_of(&n.d, TX(0))->flags & VRING_USED_F_NO_NOTIFY);
    assert_in_range(or_vhost_net_deadline(n.dev), n.d.now + 1, n.d.now + 1000000);
    n.verdict = OR_PACKET_SENT;
    step(&n.d);
    assert_int_equal(n.count, 10);
    assert_int_equal(n.length, OR_VNET_HEADER + 109); /* the last: in order */
    assert_int_equal(nic_stats(&n).tx_packets, 10);
    assert_int_equal(or_vhost_net_deadline(n.dev), UINT64_MAX);
    assert_false(or_vhost_net_arm(n.dev));
    assert_false(used_of(&n.d, TX(0))->flags & VRING_USED_F_NO_NOTIFY);
}

static void without_a_session_packets_are_dropped(void **state)
{
    (void)state;
    nic_start(&n, ALL_FEATURES);
    n.verdict = OR_PACKET_DOWN;
    for (uint32_t i = 0; i < 5; i++)
        send_frame(&n, TX(0), 100);
    step(&n.d);
    assert_int_equal(used_of(&n.d, TX(0))->idx, 5);
    assert_int_equal(nic_stats(&n).tx_dropped_down, 5);
    assert_int_equal(nic_stats(&n).tx_packets, 0);
}

static void a_step_takes_a_bounded_number(void **state)
{
    (void)state;
    nic_start(&n, ALL_FEATURES);
    for (uint32_t i = 0; i < 100; i++)
        send_frame(&n, TX(0), 100);
    assert_int_equal(or_vhost_net_poll(n.dev, 1), 64);
    assert_int_equal(or_vhost_net_poll(n.dev, 2), 36);
    for (uint32_t i = 0; i < 10; i++)
        send_frame(&n, TX(0), 65000);
    assert_int_equal(or_vhost_net_poll(n.dev, 3), 5); /* 256 KiB and what is begun */
}

static void a_limit_holds_the_guest_back(void **state)
{
    (void)state;
    n.config.limit = (struct or_limit){.ops_per_s = 1000, .ops_burst = 2};
    nic_start(&n, ALL_FEATURES);
    for (uint32_t i = 0; i < 10; i++)
        send_frame(&n, TX(0), 100);
    steps(&n.d, 5);
    assert_int_equal(n.count, 3); /* the last in debt */
    assert_int_equal(nic_stats(&n).tx_throttled, 1);
    assert_false(or_vhost_net_arm(n.dev));
    uint64_t when = or_vhost_net_deadline(n.dev);
    assert_in_range(when, n.d.now, n.d.now + 1000000);
    n.d.now = when;
    steps(&n.d, 5);
    assert_int_equal(n.count, 4);
    struct or_limit none = {0};
    or_vhost_net_set_limit(n.dev, &none);
    step(&n.d);
    assert_int_equal(n.count, 10);
    assert_int_equal(or_vhost_net_deadline(n.dev), UINT64_MAX);
}

/* --- receiving ------------------------------------------------------------------------------------ */

static void packets_fill_as_many_buffers_as_they_need(void **state)
{
    (void)state;
    const struct virtio_net_hdr_v1 header = {.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM, .csum_start = 34, .csum_offset = 6};
    nic_start(&n, ALL_FEATURES);
    post_buffers(&n, RX(0), 60, BUFFER_BYTES);
    receive(&header, 60, 1);
    expect_received(RX(0), 60, 1);
    receive(&header, BUFFER_BYTES - OR_VNET_HEADER, 2);
    expect_received(RX(0), BUFFER_BYTES - OR_VNET_HEADER, 1);
    receive(&header, BUFFER_BYTES - OR_VNET_HEADER + 1, 3);
    expect_received(RX(0), BUFFER_BYTES - OR_VNET_HEADER + 1, 2);
    receive(&header, 65535 + 14, 4);
    expect_received(RX(0), 65535 + 14, 33);
    struct or_vhost_net_stats s = nic_stats(&n);
    assert_int_equal(s.rx_packets, 4);
    assert_true(s.calls > 0);
    assert_true(signals(n.d.q[RX(0)].call) > 0);
}

static void the_header_reaches_the_guest(void **state)
{
    (void)state;
    const struct virtio_net_hdr_v1 sent = {.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM,
                                           .gso_type = VIRTIO_NET_HDR_GSO_TCPV6,
                                           .hdr_len = 74,
                                           .gso_size = 1428,
                                           .csum_start = 54,
                                           .csum_offset = 16};
    struct virtio_net_hdr_v1 got;
    nic_start(&n, ALL_FEATURES);
    post_buffers(&n, RX(0), 4, BUFFER_BYTES);
    receive(&sent, 5000, 1);
    assert_int_equal(take_packet(&n, RX(0), &got, frame), 5000);
    assert_int_equal(got.num_buffers, 3);
    got.num_buffers = 0;
    assert_memory_equal(&got, &sent, sizeof(sent));
}

static void a_packet_without_buffers_takes_none(void **state)
{
    (void)state;
    const struct virtio_net_hdr_v1 header = {0};
    nic_start(&n, ALL_FEATURES);
    receive(&header, 100, 1);
    post_buffers(&n, RX(0), 2, BUFFER_BYTES);
    receive(&header, 4500, 2);
    assert_int_equal(nic_stats(&n).rx_no_buffers, 2);
    assert_int_equal(take_used(&n.d, RX(0)), -1);
    receive(&header, 4000, 3);
    expect_received(RX(0), 4000, 2);
    assert_int_equal(nic_stats(&n).rx_packets, 1);
}

static void without_merging_a_packet_has_one_chain(void **state)
{
    (void)state;
    const struct virtio_net_hdr_v1 header = {0};
    nic_start(&n, ~F(VIRTIO_NET_F_MRG_RXBUF));
    post_buffers(&n, RX(0), 3, BUFFER_BYTES);
    receive(&header, 2100, 1);
    assert_int_equal(nic_stats(&n).rx_too_long, 1);
    receive(&header, 1514, 2);
    expect_received(RX(0), 1514, 1);
}

static void packets_that_the_guest_cannot_take_are_dropped(void **state)
{
    (void)state;
    const struct virtio_net_hdr_v1 plain = {0},
                                   csum = {.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM, .csum_start = 34, .csum_offset = 6},
                                   tso = {.gso_type = VIRTIO_NET_HDR_GSO_TCPV4, .gso_size = 1000},
                                   uso = {.gso_type = OR_GSO_UDP_L4, .gso_size = 1000},
                                   odd = {.gso_type = 0x11, .gso_size = 1000};
    nic_start(&n, ~OR_NET_F_OFFLOADS);
    post_buffers(&n, RX(0), 8, BUFFER_BYTES);
    receive(&csum, 100, 1);
    receive(&tso, 100, 1);
    receive(&uso, 100, 1);
    receive(&odd, 100, 1);
    assert_int_equal(nic_stats(&n).rx_unsuited, 4);
    receive(&plain, 100, 2);
    expect_received(RX(0), 100, 1);
}

static void without_a_guest_packets_are_dropped(void **state)
{
    (void)state;
    const struct virtio_net_hdr_v1 header = {0};
    nic_create(&n);
    receive(&header, 100, 1);
    nic_connect(&n, ALL_FEATURES);
    receive(&header, 100, 1);
    assert_int_equal(nic_stats(&n).rx_not_running, 2);
}

static void the_guest_is_asked_for_no_kicks_of_receive_buffers(void **state)
{
    (void)state;
    nic_start(&n, ~F(VIRTIO_RING_F_EVENT_IDX));
    assert_true(used_of(&n.d, RX(0))->flags & VRING_USED_F_NO_NOTIFY);
    post_buffers(&n, RX(0), 2, BUFFER_BYTES);
    assert_false(or_vhost_net_arm(n.dev));
    assert_true(used_of(&n.d, RX(0))->flags & VRING_USED_F_NO_NOTIFY);
    assert_false(used_of(&n.d, TX(0))->flags & VRING_USED_F_NO_NOTIFY);
}

/* --- pairs ---------------------------------------------------------------------------------------- */

/* An IPv4 UDP frame of a flow from one end or the other. */
static void make_flow(uint8_t *to, uint8_t flow, bool back)
{
    static const uint8_t start[] = {0x52, 0x54, 0, 0, 0,  1, 0x52, 0x54, 0, 0,  0,  2, 8,
                                    0,    0x45, 0, 0, 46, 0, 0,    0,    0, 64, 17, 0, 0};
    const uint8_t ends[2][4] = {{10, 0, 0, 1}, {10, 0, 1, flow}}, ports[2][2] = {{0x12, flow}, {0x13, 0x88}};
    memcpy(to, start, sizeof(start));
    memcpy(to + 26, ends[back], 4);
    memcpy(to + 30, ends[!back], 4);
    memcpy(to + 34, ports[back], 2);
    memcpy(to + 36, ports[!back], 2);
    memset(to + 38, 0, 22);
}

static void answers_come_on_the_pair_that_asked(void **state)
{
    (void)state;
    const struct virtio_net_hdr_v1 header = {0};
    nic_start(&n, ALL_FEATURES);
    for (uint32_t pair = 0; pair < 2; pair++)
        post_buffers(&n, RX(pair), 40, BUFFER_BYTES);
    for (uint8_t flow = 0; flow < 20; flow++) {
        uint32_t pair = flow % 2;
        make_flow(guest(&n.d, DATA + OR_VNET_HEADER), flow, false);
        send_frame(&n, TX(pair), 60);
        step(&n.d);
        make_packet(packet, &header, 60, 0);
        make_flow(packet + OR_VNET_HEADER, flow, true);
        or_vhost_net_receive(n.dev, packet, OR_VNET_HEADER + 60);
        step(&n.d);
        expect_received(RX(pair), 60, 1);
    }
}

static void a_pair_that_is_not_in_use_gets_nothing(void **state)
{
    (void)state;
    const struct virtio_net_hdr_v1 header = {0};
    nic_start(&n, ALL_FEATURES);
    make_flow(guest(&n.d, DATA + OR_VNET_HEADER), 1, false);
    send_frame(&n, TX(1), 60);
    step(&n.d);
    for (uint32_t pair = 0; pair < 2; pair++)
        post_buffers(&n, RX(pair), 4, BUFFER_BYTES);
    for (uint32_t ring = 2; ring < 4; ring++)
        assert_int_equal(vu_set_state(&n.d, OR_VU_SET_VRING_ENABLE, ring, 0), 0);
    make_packet(packet, &header, 60, 0);
    make_flow(packet + OR_VNET_HEADER, 1, true);
    or_vhost_net_receive(n.dev, packet, OR_VNET_HEADER + 60);
    step(&n.d);
    expect_received(RX(0), 60, 1);
    assert_int_equal(take_used(&n.d, RX(1)), -1);
}

static void pairs_share_what_the_session_takes(void **state)
{
    (void)state;
    uint16_t sent[2];
    nic_start(&n, ALL_FEATURES);
    n.verdict = OR_PACKET_LATER;
    for (uint32_t i = 0; i < 100; i++)
        send_frame(&n, TX(i % 2), 100);
    for (int i = 0; i < 10; i++) {
        n.room = 4;
        step(&n.d);
    }
    for (uint32_t pair = 0; pair < 2; pair++)
        sent[pair] = used_of(&n.d, TX(pair))->idx;
    assert_int_equal(sent[0], 20);
    assert_int_equal(sent[1], 20);
}

/* --- the link ------------------------------------------------------------------------------------- */

static void a_link_that_goes_down_hangs_up_and_comes_back(void **state)
{
    (void)state;
    struct or_keep_snapshot *snapshot = calloc(1, sizeof(*snapshot));
    snprintf(n.config.path, sizeof(n.config.path), "/tmp/outrigger-nic-%d.sock", getpid());
    nic_start(&n, ALL_FEATURES);
    send_frame(&n, TX(0), 100);
    step(&n.d);
    uint64_t kicks = nic_stats(&n).calls;
    assert_true(kicks > 0);
    assert_int_equal(or_vhost_net_set_link(n.dev, false), 0);
    assert_false(or_vhost_net_link(n.dev));
    assert_int_equal(n.d.state, OR_VHOST_LISTENING);
    assert_int_equal(n.features, 0);
    assert_false(or_vhost_net_save(n.dev, snapshot));
    struct pollfd p = {.fd = n.d.sock, .events = POLLRDHUP};
    assert_int_equal(poll(&p, 1, 1000), 1);
    close(n.d.sock);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(connect(fd, (void *)&n.d.address, n.d.address_length), -1);
    close(fd);
    struct virtio_net_hdr_v1 header = {0};
    receive(&header, 100, 1); /* and nothing breaks */

    assert_int_equal(or_vhost_net_set_link(n.dev, true), 0);
    assert_true(or_vhost_net_link(n.dev));
    n.d.address = (struct sockaddr_un){.sun_family = AF_UNIX};
    strcpy(n.d.address.sun_path, n.config.path);
    n.d.address_length = sizeof(n.d.address);
    nic_connect(&n, ALL_FEATURES);
    for (uint32_t i = 0; i < 2; i++)
        ring_configure(&n.d, i, used_of(&n.d, i)->idx);
    send_frame(&n, TX(0), 100);
    step(&n.d);
    assert_int_equal(n.count, 2);
    assert_true(nic_stats(&n).calls > kicks); /* counters go on */
    unlink(n.config.path);
    free(snapshot);
}

static void a_link_may_be_down_from_the_start(void **state)
{
    (void)state;
    int err;
    snprintf(n.config.path, sizeof(n.config.path), "/nowhere/nic.sock");
    n.dev = or_vhost_net_create(&n.config, &err);
    assert_non_null(n.dev);
    steps(&n.d, 3);
    assert_false(or_vhost_net_arm(n.dev));
    assert_int_equal(or_vhost_net_set_link(n.dev, false), 0);
    assert_int_equal(or_vhost_net_set_link(n.dev, true), -ENOENT);
    assert_false(or_vhost_net_link(n.dev));
}

static void a_stopped_ring_has_nothing_in_flight(void **state)
{
    (void)state;
    nic_start(&n, ALL_FEATURES);
    n.verdict = OR_PACKET_LATER;
    n.room = 3;
    for (uint32_t i = 0; i < 5; i++)
        send_frame(&n, TX(0), 100);
    step(&n.d);
    struct or_vu_vring_state s = {.index = TX(0)};
    assert_true(vu_send(&n.d, OR_VU_GET_VRING_BASE, 0, &s, sizeof(s), NULL, 0));
    assert_int_equal(vu_reply(&n.d, OR_VU_GET_VRING_BASE, &s, sizeof(s), NULL), sizeof(s));
    assert_int_equal(s.num, 3);
    assert_int_equal(used_of(&n.d, TX(0))->idx, 3);
}

#define PLAIN(test) cmocka_unit_test_setup_teardown(test, setup, teardown)
#define PAIRS(test) cmocka_unit_test_setup_teardown(test, setup_pairs, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        PLAIN(a_nic_offers_offloads_and_no_inflight_region),
        PAIRS(queues_are_counted_in_pairs),
        PLAIN(an_mtu_beyond_the_nics_is_refused),
        PLAIN(messages_of_a_disk_are_refused),
        PAIRS(memory_may_be_added_and_removed_once_for_each_pair),
        PLAIN(features_are_told_while_it_runs),
        PLAIN(frames_are_sent_whole_from_any_pieces),
        PLAIN(a_segment_of_64_kib_is_one_packet),
        PLAIN(old_guests_have_a_shorter_header),
        PLAIN(headers_that_make_no_sense_are_dropped),
        PLAIN(what_was_not_negotiated_is_not_sent),
        PLAIN(frames_of_impossible_lengths_are_dropped),
        PLAIN(packets_wait_in_the_ring_while_the_session_has_no_room),
        PLAIN(without_a_session_packets_are_dropped),
        PLAIN(a_step_takes_a_bounded_number),
        PLAIN(a_limit_holds_the_guest_back),
        PLAIN(packets_fill_as_many_buffers_as_they_need),
        PLAIN(the_header_reaches_the_guest),
        PLAIN(a_packet_without_buffers_takes_none),
        PLAIN(without_merging_a_packet_has_one_chain),
        PLAIN(packets_that_the_guest_cannot_take_are_dropped),
        PLAIN(without_a_guest_packets_are_dropped),
        PLAIN(the_guest_is_asked_for_no_kicks_of_receive_buffers),
        PAIRS(answers_come_on_the_pair_that_asked),
        PAIRS(a_pair_that_is_not_in_use_gets_nothing),
        PAIRS(pairs_share_what_the_session_takes),
        PLAIN(a_link_that_goes_down_hangs_up_and_comes_back),
        PLAIN(a_link_may_be_down_from_the_start),
        PLAIN(a_stopped_ring_has_nothing_in_flight),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
