/* Guests and front-ends that mean harm, or have gone mad: the device is broken with a reason, the process
 * and everything else in it live on, and a reset or a new connection mends the device. */
#include "vhost_fixture.h"

/* What a reset of the guest makes QEMU do. */
static void reset_and_use(void)
{
    struct or_vu_vring_state s = {.index = 0};
    assert_true(vu_send(&d, OR_VU_GET_VRING_BASE, 0, &s, sizeof(s), NULL, 0));
    assert_int_equal(vu_reply(&d, OR_VU_GET_VRING_BASE, &s, sizeof(s), NULL), sizeof(s));
    assert_int_equal(d.state, OR_VHOST_CONNECTED);
    assert_string_equal(d.reason, "");
    memset(guest(&d, RING(0)), 0, 65536);
    d.q[0].avail_idx = d.q[0].used_seen = d.q[0].next_desc = 0;
    close(d.inflight_fd);
    get_inflight(&d);
    assert_int_equal(set_inflight(&d), 0);
    ring_configure(&d, 0, 0);
    assert_int_equal(d.state, OR_VHOST_RUNNING);
    assert_int_equal(io(&d, VIRTIO_BLK_T_IN, 1, DATA, 512), VIRTIO_BLK_S_OK);
}

/* A chain of one's own making: descriptors as given, the first one the head. */
static void submit_descs(const struct vring_desc *descs, uint16_t count)
{
    memcpy(desc_of(&d, 0, 0), descs, count * sizeof(descs[0]));
    make_available(&d, 0, 0);
}

struct hostile {
    const char *why;
    uint16_t count;
    struct vring_desc descs[3];
};

#define NEXT VRING_DESC_F_NEXT
#define WRITE VRING_DESC_F_WRITE
#define INDIRECT VRING_DESC_F_INDIRECT

static const struct hostile hostile_chains[] = {
    {"loops", 2, {{HEADERS, 16, NEXT, 1}, {DATA, 0, NEXT, 0}}},
    {"loops", 1, {{HEADERS, 0, NEXT, 0}}},
    {"next index is out of range", 1, {{HEADERS, 16, NEXT, 128}}},
    {"next index is out of range", 1, {{HEADERS, 16, NEXT, 65535}}},
    {"outside the guest's memory", 1, {{2 * REGION, 16, 0, 0}}},
    {"outside the guest's memory", 1, {{2 * REGION - 8, 16, 0, 0}}},
    {"outside the guest's memory", 1, {{HEADERS, 0xffffffff, 0, 0}}},
    {"wrap", 1, {{~0ull - 7, 16, 0, 0}}},
    {"outside the guest's memory", 1, {{~0ull - 31, 16, 0, 0}}},
    {"readable buffer after a writable", 2, {{HEADERS, 16, NEXT | WRITE, 1}, {DATA, 16, 0, 0}}},
    {"no header", 1, {{HEADERS, 1, WRITE, 0}}},
    {"no header", 2, {{HEADERS, 15, NEXT, 1}, {DATA, 1, WRITE, 0}}},
    {"no room for its status", 1, {{HEADERS, 16, 0, 0}}},
    {"no room for its status", 2, {{HEADERS, 16, NEXT, 1}, {DATA, 0, WRITE, 0}}},
    {"multiple of 16", 1, {{HEADERS, 0, INDIRECT, 0}}},
    {"multiple of 16", 1, {{HEADERS, 17, INDIRECT, 0}}},
    {"too large", 1, {{0, 1025 * 16, INDIRECT, 0}}},
    {"too large", 1, {{0, 0xfffffff0, INDIRECT, 0}}},
    {"also has a next", 2, {{HEADERS, 32, INDIRECT | NEXT, 1}, {DATA, 1, WRITE, 0}}},
    {"table lies outside", 1, {{2 * REGION - 16, 32, INDIRECT, 0}}},
    {"wrap", 1, {{~0ull - 15, 32, INDIRECT, 0}}},
    /* At RING(0) stands the descriptor table itself: a table within which the first entry is indirect. */
    {"inside an indirect table", 1, {{RING(0), 16, INDIRECT, 0}}},
    {"inside an indirect table", 3, {{HEADERS, 16, NEXT, 1}, {RING(0) + 16, 32, INDIRECT, 0}}},
};

static void test_hostile_chains(void **state)
{
    (void)state;
    driver_start(&d, ALL_FEATURES, 1);
    for (size_t i = 0; i < sizeof(hostile_chains) / sizeof(hostile_chains[0]); i++) {
        signals(d.q[0].err);
        submit_descs(hostile_chains[i].descs, hostile_chains[i].count);
        expect_broken(hostile_chains[i].why);
        assert_int_equal(signals(d.q[0].err), 1);
        /* The ring stands still. */
        submit_io(&d, 0, VIRTIO_BLK_T_IN, 1, DATA, 512);
        steps(&d, 2);
        assert_int_equal(take_used(&d, 0), -1);
        assert_false(or_vhost_blk_arm(d.dev));
        reset_and_use();
    }
}

static void test_indirect_descriptors_need_to_be_negotiated(void **state)
{
    (void)state;
    driver_start(&d, ~F(28), 1);
    struct buffer data = {.phys = DATA, .length = 512, .writable = true};
    submit_buffers(&d, 0, VIRTIO_BLK_T_IN, 1, &data, 1, 0x90000);
    expect_broken("not negotiated");
}

static void test_more_buffers_than_a_request_may_have(void **state)
{
    (void)state;
    driver_start(&d, ALL_FEATURES, 1);
    struct vring_desc *table = guest(&d, 0x90000);
    for (uint16_t i = 0; i < 1024; i++)
        table[i] = (struct vring_desc){.addr = DATA, .len = 1, .flags = NEXT, .next = (uint16_t)(i + 1)};
    const struct vring_desc head = {.addr = 0x90000, .len = 1024 * 16, .flags = INDIRECT};
    submit_descs(&head, 1);
    expect_broken("more buffers than");
    /* A loop inside a table ends, too. */
    reset_and_use();
    for (uint16_t i = 0; i < 2; i++)
        table[i] = (struct vring_desc){.addr = DATA, .len = 0, .flags = NEXT, .next = (uint16_t)(1 - i)};
    submit_descs(&head, 1);
    expect_broken("loops");
}

static void test_available_ring_indices(void **state)
{
    (void)state;
    driver_start(&d, ALL_FEATURES, 1);
    avail_of(&d, 0)->idx = 129;
    expect_broken("jumped");
    reset_and_use();
    avail_of(&d, 0)->idx--;
    expect_broken("jumped");
    reset_and_use();
    make_available(&d, 0, 128);
    expect_broken("descriptor out of range");
    reset_and_use();
}

static void test_a_head_made_available_twice(void **state)
{
    (void)state;
    driver_start(&d, ALL_FEATURES, 1);
    d.hold = true;
    uint16_t head = submit_io(&d, 0, VIRTIO_BLK_T_IN, 1, DATA, 512);
    make_available(&d, 0, head);
    expect_broken("while it is in flight");
    /* What was taken before ends as usual. */
    d.hold = false;
    steps(&d, 2);
    assert_int_equal(take_used(&d, 0), head);
    reset_and_use();
}

/* Chains that end while they are taken, on top of results that the guest has not been shown yet. */
static void test_more_chains_than_the_queue_has_descriptors(void **state)
{
    (void)state;
    d.q[0].size = 4;
    driver_start(&d, ALL_FEATURES, 1);
    d.hold = true;
    uint16_t head = submit_io(&d, 0, VIRTIO_BLK_T_IN, 1, DATA, 512);
    steps(&d, 2);
    assert_int_equal(session_run(&d), 1);
    struct virtio_blk_outhdr *header = guest(&d, header_at(0, head));
    header->type = VIRTIO_BLK_T_GET_ID;
    for (uint16_t i = 0; i < d.q[0].size; i++)
        make_available(&d, 0, head);
    expect_broken("more chains are available than the queue has descriptors");
    d.q[0].size = 128;
    d.hold = false;
    reset_and_use();
}

static void try_ring(uint32_t size, uint64_t desc, uint64_t avail, uint64_t used, const char *why)
{
    struct or_vu_vring_addr a = {.index = 0, .desc = desc, .avail = avail, .used = used};
    assert_int_equal(vu_set_state(&d, OR_VU_SET_VRING_NUM, 0, size), 0);
    assert_int_equal(vu_set(&d, OR_VU_SET_VRING_ADDR, &a, sizeof(a), NULL, 0), 0);
    assert_int_equal(set_eventfd(&d, OR_VU_SET_VRING_KICK, 0, d.q[0].kick), 0);
    expect_broken(why);
    struct or_vu_vring_state s = {.index = 0};
    assert_true(vu_send(&d, OR_VU_GET_VRING_BASE, 0, &s, sizeof(s), NULL, 0));
    assert_int_equal(vu_reply(&d, OR_VU_GET_VRING_BASE, &s, sizeof(s), NULL), sizeof(s));
    assert_int_equal(d.state, OR_VHOST_CONNECTED);
}

static void test_ring_sizes_and_addresses(void **state)
{
    (void)state;
    driver_start(&d, ALL_FEATURES, 0);
    const uint64_t desc = USER_A + RING(0), avail = desc + AVAIL_AT, used = desc + USED_AT;
    const uint32_t sizes[] = {0, 3, 100, 129, 2048, 65536 + 128, 0xffffffff};
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++)
        try_ring(sizes[i], desc, avail, used, "power of two");
    const uint64_t outside[] = {
        0, ~0ull, ~0ull - 15, USER_A - 16, USER_A + REGION, USER_A + REGION - 16, USER_B + REGION};
    for (size_t i = 0; i < sizeof(outside) / sizeof(outside[0]); i++) {
        try_ring(128, outside[i], avail, used, "outside");
        try_ring(128, desc, outside[i], used, "outside");
        try_ring(128, desc, avail, outside[i], "outside");
    }
    try_ring(128, desc + 8, avail, used, "aligned");
    try_ring(128, desc, avail + 1, used, "aligned");
    try_ring(128, desc, avail, used + 2, "aligned");
    ring_configure(&d, 0, 0);
    assert_int_equal(io(&d, VIRTIO_BLK_T_IN, 1, DATA, 512), VIRTIO_BLK_S_OK);
}

static void test_an_inflight_region_full_of_lies(void **state)
{
    (void)state;
    driver_start(&d, ALL_FEATURES, 1);
    struct or_inflight_queue *q =
        or_inflight_queue(mmap(NULL, d.inflight.bytes, PROT_READ | PROT_WRITE, MAP_SHARED, d.inflight_fd, 0), 128, 0);
    for (int round = 0; round < 5; round++) {
        struct or_vu_vring_state s = {.index = 0};
        assert_true(vu_send(&d, OR_VU_GET_VRING_BASE, 0, &s, sizeof(s), NULL, 0));
        assert_int_equal(vu_reply(&d, OR_VU_GET_VRING_BASE, &s, sizeof(s), NULL), sizeof(s));
        *q = (struct or_inflight_queue){.version = 1, .desc_num = 128, .used_idx = used_of(&d, 0)->idx};
        memset(q->desc, 0, 128 * sizeof(q->desc[0]));
        const char *why = "contradicts";
        if (round == 0)
            q->version = 9;
        if (round == 1)
            q->desc_num = 64;
        if (round == 2)
            q->used_idx -= 200;
        if (round == 3) {
            q->used_idx -= 2;
            q->last_batch_head = 500;
        }
        if (round == 4) {
            /* Descriptors that never were in flight, some with a chain that makes no sense. */
            for (int i = 0; i < 128; i++)
                q->desc[i] = (struct or_inflight_desc){.inflight = 0xff, .counter = ~0ull - (uint64_t)i % 3};
            memset(desc_of(&d, 0, 0), 0xff, 128 * 16);
            why = "virtqueue 0";
        }
        assert_int_equal(set_eventfd(&d, OR_VU_SET_VRING_KICK, 0, d.q[0].kick), 0);
        expect_broken(why);
    }
    munmap(q, d.inflight.bytes);
    reset_and_use();
}

/* Messages. */

static void refused(int ack, const char *why)
{
    char byte;
    assert_int_equal(ack, 1);
    expect_broken(why);
    assert_int_equal(recv(d.sock, &byte, 1, MSG_DONTWAIT), 0);
    close(d.sock);
    driver_connect(&d);
    driver_negotiate(&d, ALL_FEATURES, ALL_FEATURES);
}

static int raw(uint32_t request, uint32_t size, uint32_t fd_count)
{
    static const uint8_t zeroes[2048];
    int fds[40];
    for (uint32_t i = 0; i < fd_count; i++)
        fds[i] = d.memfd;
    return vu_set(&d, request, zeroes, size, fds, fd_count);
}

static void test_messages_that_make_no_sense(void **state)
{
    (void)state;
    device_create(&d);
    driver_connect(&d);
    driver_negotiate(&d, ALL_FEATURES, ALL_FEATURES);
    int before = open_fds();
    const uint32_t unknown[] = {0, 6, 7, 19, 21, 22, 26, 28, 33, 34, 35, 39, 40, 41, 77, 0xffffffff};
    for (size_t i = 0; i < sizeof(unknown) / sizeof(unknown[0]); i++)
        refused(raw(unknown[i], 8, 1), "unknown");
    refused(raw(OR_VU_NET_SET_MTU, 8, 1), "did not offer");
    refused(raw(OR_VU_SET_FEATURES, 7, 0), "payload of 7");
    refused(raw(OR_VU_SET_OWNER, 8, 0), "payload of 8");
    refused(raw(OR_VU_SET_VRING_ADDR, 39, 0), "payload of 39");
    refused(raw(OR_VU_SET_INFLIGHT_FD, 25, 1), "payload of 25");
    refused(raw(OR_VU_SET_FEATURES, 8, 1), "1 descriptors");
    refused(raw(OR_VU_ADD_MEM_REG, 40, 2), "2 descriptors");
    refused(vu_set_u64(&d, OR_VU_SET_FEATURES, F(34)), "not offered");
    refused(vu_set_u64(&d, OR_VU_SET_PROTOCOL_FEATURES, 2), "not offered");
    refused(vu_set_state(&d, OR_VU_SET_VRING_NUM, QUEUES, 128), "virtqueue 2 of 2");
    refused(vu_set_state(&d, OR_VU_SET_VRING_BASE, ~0u, 0), "virtqueue");
    refused(vu_set_state(&d, OR_VU_SET_VRING_BASE, 0, 65536), "base");
    refused(vu_set_state(&d, OR_VU_SET_VRING_ENABLE, 0, 2), "enables");
    refused(vu_set_u64(&d, OR_VU_SET_VRING_KICK, 0), "no event descriptor");
    refused(vu_set_u64(&d, OR_VU_SET_VRING_CALL, 200), "virtqueue 200");
    refused(set_eventfd(&d, OR_VU_SET_VRING_KICK, 0, d.memfd), "no event descriptor");
    refused(set_eventfd(&d, OR_VU_SET_VRING_CALL, 0, d.epoll_fd), "no event descriptor");
    struct or_vu_inflight i = {.bytes = 4096, .queues = QUEUES + 1, .queue_size = 128};
    refused(vu_set(&d, OR_VU_SET_INFLIGHT_FD, &i, 24, &d.memfd, 1), "not one of ours");
    i = (struct or_vu_inflight){.bytes = 64, .queues = 1, .queue_size = 128};
    refused(vu_set(&d, OR_VU_SET_INFLIGHT_FD, &i, 24, &d.memfd, 1), "not one of ours");
    i = (struct or_vu_inflight){.bytes = 1ull << 40, .queues = 1, .queue_size = 128};
    refused(vu_set(&d, OR_VU_SET_INFLIGHT_FD, &i, 24, &d.memfd, 1), "not one of ours");
    i = (struct or_vu_inflight){.bytes = 4096, .fd_offset = 1, .queues = 1, .queue_size = 128};
    refused(vu_set(&d, OR_VU_SET_INFLIGHT_FD, &i, 24, &d.memfd, 1), "not one of ours");
    assert_int_equal(open_fds(), before);
}

static void test_replies_refuse_too(void **state)
{
    (void)state;
    device_create(&d);
    driver_connect(&d);
    driver_negotiate(&d, ALL_FEATURES, ALL_FEATURES);
    struct or_vu_config c = {.offset = 250, .size = 7};
    assert_true(vu_send(&d, OR_VU_GET_CONFIG, 0, &c, 12 + 7, NULL, 0));
    assert_int_equal(vu_reply(&d, OR_VU_GET_CONFIG, &c, sizeof(c), NULL), -1);
    expect_broken("configuration space");
    close(d.sock);
    driver_connect(&d);
    struct or_vu_inflight i = {.queues = 1, .queue_size = 1025};
    assert_true(vu_send(&d, OR_VU_GET_INFLIGHT_FD, 0, &i, sizeof(i), NULL, 0));
    assert_int_equal(vu_reply(&d, OR_VU_GET_INFLIGHT_FD, &i, sizeof(i), NULL), -1);
    expect_broken("inflight region");
}

static void bad_memory(struct or_vu_memory table, int fd, uint32_t fd_count, const char *why)
{
    int fds[2] = {fd, fd};
    uint32_t count = table.count > 2 ? 2 : table.count;
    refused(vu_set(&d, OR_VU_SET_MEM_TABLE, &table, 8 + count * 32, fds, fd_count), why);
}

static void test_memory_tables_that_make_no_sense(void **state)
{
    (void)state;
    device_create(&d);
    driver_connect(&d);
    driver_negotiate(&d, ALL_FEATURES, ALL_FEATURES);
    int before = open_fds();
    struct or_vu_memory t = memory_table();
    bad_memory(t, d.memfd, 0, "guest memory is not shared: start it with -object memory-backend-memfd");
    bad_memory(t, d.memfd, 1, "2 regions but 1 descriptors");
    t.count = 3;
    bad_memory(t, d.memfd, 2, "malformed");
    t.count = ~0u;
    bad_memory(t, d.memfd, 2, "malformed");
    t = memory_table();
    t.regions[1].phys = REGION - 1;
    bad_memory(t, d.memfd, 2, "overlap");
    t = memory_table();
    t.regions[1].user = USER_A + 4096;
    bad_memory(t, d.memfd, 2, "overlap");
    t = memory_table();
    t.regions[1].size = 0;
    bad_memory(t, d.memfd, 2, "cannot map");
    t.regions[1].size = ~0ull;
    bad_memory(t, d.memfd, 2, "cannot map");
    t = memory_table();
    t.regions[1].fd_offset = ~0ull - 4096;
    bad_memory(t, d.memfd, 2, "cannot map");
    t.regions[1].fd_offset = FILE_B + 1;
    bad_memory(t, d.memfd, 2, "beyond the end of the file");
    t = memory_table();
    bad_memory(t, d.epoll_fd, 2, "cannot map");
    struct or_vu_memory_region r = {.region = t.regions[0]};
    refused(vu_set(&d, OR_VU_REM_MEM_REG, &r, sizeof(r), NULL, 0), "never added");
    refused(vu_set(&d, OR_VU_ADD_MEM_REG, &r, sizeof(r), NULL, 0), "not shared");
    assert_int_equal(open_fds(), before);
    assert_int_equal(set_memory(&d), 0);
}

static void test_memory_that_no_guest_lives_in(void **state)
{
    (void)state;
    d.file[0] = 0; /* as when QEMU mapped the file privately */
    device_create(&d);
    driver_connect(&d);
    driver_negotiate(&d, ALL_FEATURES, ALL_FEATURES);
    assert_int_equal(set_memory(&d), 0);
    memset(guest(&d, RING(0)), 0, 65536);
    ring_configure(&d, 0, 0);
    expect_broken("not shared");
}

static void test_a_ring_in_memory_that_was_all_taken_away(void **state)
{
    (void)state;
    device_create(&d);
    driver_connect(&d);
    driver_negotiate(&d, ALL_FEATURES, ALL_FEATURES);
    assert_int_equal(set_memory(&d), 0);
    struct or_vu_memory table = memory_table();
    for (uint32_t i = 0; i < table.count; i++) {
        struct or_vu_memory_region r = {.region = table.regions[i]};
        assert_int_equal(vu_set(&d, OR_VU_REM_MEM_REG, &r, sizeof(r), NULL, 0), 0);
    }
    ring_configure(&d, 0, 0);
    expect_broken("not shared");
}

static void test_a_running_ring_is_not_changed(void **state)
{
    (void)state;
    driver_start(&d, ALL_FEATURES, 1);
    refused(vu_set_state(&d, OR_VU_SET_VRING_NUM, 0, 64), "while it runs");
}

static void send_with_fds(const void *bytes, size_t length, const int *fds, uint32_t fd_count)
{
    char control[CMSG_SPACE(sizeof(int) * 64)] __attribute__((aligned(8)));
    struct iovec iov = {.iov_base = (void *)(uintptr_t)bytes, .iov_len = length};
    struct msghdr m = {
        .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control, .msg_controllen = CMSG_SPACE(sizeof(int) * fd_count)};
    struct cmsghdr *c = CMSG_FIRSTHDR(&m);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(sizeof(int) * fd_count);
    memcpy(CMSG_DATA(c), fds, sizeof(int) * fd_count);
    assert_int_equal(sendmsg(d.sock, &m, MSG_NOSIGNAL), length);
}

static void test_more_descriptors_than_allowed(void **state)
{
    (void)state;
    device_create(&d);
    driver_connect(&d);
    int before = open_fds();
    int fds[40];
    for (int i = 0; i < 40; i++)
        fds[i] = d.memfd;
    struct or_vu_memory t = memory_table();
    assert_true(vu_send(&d, OR_VU_SET_MEM_TABLE, 0, &t, 8 + 64, fds, 40));
    expect_broken("not vhost-user");
    assert_int_equal(open_fds(), before - 1);
    close(d.sock);
    /* Nor in two helpings, with the header and with the payload. */
    driver_connect(&d);
    const struct or_vu_header header = {OR_VU_SET_MEM_TABLE, OR_VU_VERSION, 8 + 64};
    send_with_fds(&header, sizeof(header), fds, 20);
    step(&d);
    assert_int_equal(open_fds(), before + 20);
    send_with_fds(&t, 8 + 64, fds, 20);
    expect_broken("not vhost-user");
    assert_int_equal(open_fds(), before - 1);
}

static void test_rubbish_on_the_socket(void **state)
{
    (void)state;
    device_create(&d);
    static const struct or_vu_header rubbish[] = {
        {OR_VU_GET_FEATURES, 0, 0},          {OR_VU_GET_FEATURES, 2, 0},       {OR_VU_GET_FEATURES, 1 | 4, 0},
        {OR_VU_SET_FEATURES, 1, 0xffffffff}, {OR_VU_SET_FEATURES, 1, 1 << 20}, {0x20544547, 0x54482f20, 0x312e5054},
    };
    for (size_t i = 0; i < sizeof(rubbish) / sizeof(rubbish[0]); i++) {
        driver_connect(&d);
        assert_int_equal(send(d.sock, &rubbish[i], sizeof(rubbish[i]), 0), sizeof(rubbish[i]));
        expect_broken("not vhost-user");
        close(d.sock);
    }
    d.sock = -1;
}

static void test_a_message_byte_by_byte(void **state)
{
    (void)state;
    device_create(&d);
    driver_connect(&d);
    struct {
        struct or_vu_header header;
        uint64_t features;
    } __attribute__((packed)) m = {{OR_VU_SET_FEATURES, OR_VU_VERSION, 8}, F(32)};
    for (size_t i = 0; i < sizeof(m); i++) {
        assert_int_equal(send(d.sock, (char *)&m + i, 1, 0), 1);
        step(&d);
    }
    assert_true(vu_get(&d, OR_VU_GET_FEATURES) != 0);
    assert_int_equal(d.state, OR_VHOST_CONNECTED);
}

static void test_a_front_end_that_does_not_read(void **state)
{
    (void)state;
    device_create(&d);
    driver_connect(&d);
    struct or_vu_header m = {OR_VU_GET_FEATURES, OR_VU_VERSION, 0};
    int i;
    for (i = 0; i < 1000000 && d.state == OR_VHOST_CONNECTED; i++) {
        if (send(d.sock, &m, sizeof(m), MSG_DONTWAIT | MSG_NOSIGNAL) < 0)
            assert_true(errno == EAGAIN || errno == EPIPE);
        step(&d);
    }
    expect_broken("does not read");
}

static void test_kicks_and_messages_without_end_do_not_hold_the_loop(void **state)
{
    (void)state;
    driver_start(&d, ALL_FEATURES, 1);
    eventfd_write(d.q[0].kick, 1000000);
    step(&d);
    assert_int_equal(stats_of(&d).kicks, 1);
    struct or_vu_header m = {OR_VU_SET_OWNER, OR_VU_VERSION, 0};
    for (int i = 0; i < 100; i++)
        assert_int_equal(send(d.sock, &m, sizeof(m), 0), sizeof(m));
    struct epoll_event e;
    int events = 0;
    while (epoll_wait(d.epoll_fd, &e, 1, 0) == 1) {
        ((struct or_fd_source *)e.data.ptr)->ready(e.data.ptr, e.events);
        events++;
    }
    assert_true(events >= 100 / 16);
}

static void test_memory_that_is_taken_away_during_io(void **state)
{
    (void)state;
    driver_start(&d, ALL_FEATURES, 1);
    d.hold = true;
    guest_fill(&d, REGION + 0x1000, 4096, 5);
    submit_io(&d, 0, VIRTIO_BLK_T_OUT, 8, REGION + 0x1000, 4096);
    submit_io(&d, 0, VIRTIO_BLK_T_IN, 64, REGION + 0x8000, 4096);
    step(&d);
    assert_int_equal(session_pending(&d), 2);
    struct or_vu_memory_region r = {.region = memory_table().regions[1]};
    assert_int_equal(vu_set(&d, OR_VU_REM_MEM_REG, &r, sizeof(r), NULL, 0), 0);
    /* Requests under way keep what they were given; the file is QEMU's own and there. */
    d.hold = false;
    step(&d);
    assert_true(guest_holds(&d, REGION + 0x1000, d.disk + 8 * 512, 4096));
    /* What comes now finds no memory there. */
    submit_io(&d, 0, VIRTIO_BLK_T_IN, 64, REGION + 0x8000, 4096);
    step(&d);
    expect_broken("outside the guest's memory");
}

static void test_memory_that_shrinks(void **state)
{
    (void)state;
    driver_start(&d, ALL_FEATURES, 1);
    d.hold = true;
    guest_fill(&d, 0x300000, 4096, 1);
    submit_io(&d, 0, VIRTIO_BLK_T_OUT, 8, 0x300000, 4096);
    submit_io(&d, 0, VIRTIO_BLK_T_IN, 64, 0x300000, 4096);
    step(&d);
    assert_int_equal(ftruncate(d.memfd, 2 * MIB), 0);
    d.hold = false;
    step(&d);
    assert_int_equal(d.disk[8 * 512], 0); /* vanished memory reads as zeroes */
    expect_broken("became shorter");
    /* It stays broken with this memory, and is well with other. */
    struct or_vu_vring_state s = {.index = 0};
    assert_true(vu_send(&d, OR_VU_GET_VRING_BASE, 0, &s, sizeof(s), NULL, 0));
    assert_int_equal(vu_reply(&d, OR_VU_GET_VRING_BASE, &s, sizeof(s), NULL), sizeof(s));
    assert_int_equal(set_eventfd(&d, OR_VU_SET_VRING_KICK, 0, d.q[0].kick), 0);
    expect_broken("became shorter");
    driver_disconnect(&d);
    assert_int_equal(ftruncate(d.memfd, FILE_SIZE), 0);
    memset(guest(&d, RING(0)), 0, 65536);
    d.q[0].avail_idx = d.q[0].used_seen = d.q[0].next_desc = 0;
    driver_connect(&d);
    driver_negotiate(&d, ALL_FEATURES, ALL_FEATURES);
    assert_int_equal(set_memory(&d), 0);
    ring_configure(&d, 0, 0);
    assert_int_equal(io(&d, VIRTIO_BLK_T_IN, 1, DATA, 512), VIRTIO_BLK_S_OK);
}

static void test_rings_that_shrink_away(void **state)
{
    (void)state;
    driver_start(&d, ALL_FEATURES, 1);
    assert_int_equal(ftruncate(d.memfd, 4096), 0);
    expect_broken("became shorter");
    or_vhost_blk_arm(d.dev);
    or_vhost_blk_disarm(d.dev);
}

static void test_an_inflight_region_that_shrinks(void **state)
{
    (void)state;
    driver_start(&d, ALL_FEATURES, 1);
    assert_int_equal(ftruncate(d.inflight_fd, 0), 0);
    submit_io(&d, 0, VIRTIO_BLK_T_IN, 1, DATA, 512);
    steps(&d, 2);
    expect_broken("became shorter");
}

/* Random rings and messages: whatever happens, nothing but the device breaks. ASan, UBSan and the checks
 * of session_execute() are the judges. */

static uint64_t random_state;

static uint32_t random_below(uint32_t limit)
{
    random_state = random_state * 6364136223846793005ull + 1442695040888963407ull;
    return (uint32_t)(random_state >> 33) % limit;
}

static uint64_t random_address(void)
{
    switch (random_below(8)) {
    case 0:
        return ~0ull - random_below(64);
    case 1:
        return 2 * REGION - random_below(64);
    case 2:
        return RING(0) + random_below(65536);
    default:
        return 512ull + random_below(2 * REGION);
    }
}

static void random_desc(struct vring_desc *t, uint16_t limit)
{
    *t = (struct vring_desc){.addr = random_address(),
                             .len = random_below(6) ? random_below(4) * 16 + random_below(2) * 512 : random_below(~0u),
                             .flags = (uint16_t)random_below(random_below(8) ? 4 : 16),
                             .next = (uint16_t)random_below(limit)};
}

static void test_random_rings(void **state)
{
    (void)state;
    driver_start(&d, ALL_FEATURES, 1);
    uint32_t broken = 0, ended = 0;
    for (uint32_t seed = 0; seed < 3000; seed++) {
        random_state = seed;
        for (uint32_t n = 0; n < 128; n++)
            random_desc(desc_of(&d, 0, (uint16_t)n), 130);
        for (uint32_t n = 0; n < 20; n++) {
            struct virtio_blk_outhdr h = {.type = random_below(16), .sector = random_below(DISK_SIZE / 512)};
            struct vring_desc *t = desc_of(&d, 0, (uint16_t)(n * 4));
            t[0] = (struct vring_desc){HEADERS + n * 64, 16, NEXT, (uint16_t)(n * 4 + 1)};
            t[1].flags = (uint16_t)(NEXT | (random_below(2) ? WRITE : 0));
            t[1].addr = random_below(4) ? DATA : t[1].addr;
            t[1].next = (uint16_t)(n * 4 + 2);
            t[2] = (struct vring_desc){HEADERS + n * 64 + 32, 1, WRITE, 0};
            memcpy(guest(&d, HEADERS + n * 64), &h, sizeof(h));
            make_available(&d, 0, (uint16_t)(random_below(30) ? n * 4 : random_below(140)));
        }
        if (random_below(10) == 0)
            avail_of(&d, 0)->idx = (uint16_t)random_below(65536);
        d.refuse = random_below(4) ? OR_OK : (uint8_t)random_below(OR_STATUS_MAX);
        d.backwards = random_below(2);
        steps(&d, 3);
        d.refuse = OR_OK;
        while (take_used(&d, 0) >= 0)
            ended++;
        broken += d.state == OR_VHOST_BROKEN;
        if (d.state == OR_VHOST_BROKEN)
            reset_and_use();
        d.q[0].avail_idx = avail_of(&d, 0)->idx;
    }
    assert_true(broken > 500);
    assert_true(ended > 500);
}

static void test_random_messages(void **state)
{
    (void)state;
    device_create(&d);
    int before = open_fds(), refusals = 0;
    for (uint32_t seed = 0; seed < 600; seed++) {
        random_state = seed + 77;
        driver_connect(&d);
        driver_negotiate(&d, ALL_FEATURES, ALL_FEATURES);
        assert_int_equal(set_memory(&d), 0);
        for (int n = 0; n < 30 && d.state != OR_VHOST_BROKEN; n++) {
            struct or_vu_vring_addr a = {.index = random_below(3) ? 0 : random_below(4), .desc = USER_A + RING(0)};
            a.avail = a.desc + AVAIL_AT + random_below(2);
            a.used = a.desc + USED_AT + (random_below(9) ? 0 : random_below(~0u));
            uint32_t request = random_below(40), sizes[] = {0, 8, 20, 24, 40, 72};
            int fds[3] = {d.q[0].kick, d.memfd, d.q[0].call};
            uint32_t size = sizes[random_below(6)];
            if (!vu_send(&d, request, random_below(2) ? OR_VU_NEED_REPLY : 0, &a, size > 40 ? 40 : size,
                         fds + random_below(2), random_below(3)))
                break;
            steps(&d, 2);
        }
        refusals += d.state == OR_VHOST_BROKEN;
        close(d.sock);
        d.sock = -1;
        steps(&d, 3);
        assert_int_equal(open_fds(), before);
    }
    assert_true(refusals > 300);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_hostile_chains),
        TEST(test_indirect_descriptors_need_to_be_negotiated),
        TEST(test_more_buffers_than_a_request_may_have),
        TEST(test_available_ring_indices),
        TEST(test_a_head_made_available_twice),
        TEST(test_more_chains_than_the_queue_has_descriptors),
        TEST(test_ring_sizes_and_addresses),
        TEST(test_an_inflight_region_full_of_lies),
        TEST(test_messages_that_make_no_sense),
        TEST(test_replies_refuse_too),
        TEST(test_memory_tables_that_make_no_sense),
        TEST(test_memory_that_no_guest_lives_in),
        TEST(test_a_ring_in_memory_that_was_all_taken_away),
        TEST(test_a_running_ring_is_not_changed),
        TEST(test_more_descriptors_than_allowed),
        TEST(test_rubbish_on_the_socket),
        TEST(test_a_message_byte_by_byte),
        TEST(test_a_front_end_that_does_not_read),
        TEST(test_kicks_and_messages_without_end_do_not_hold_the_loop),
        TEST(test_memory_that_is_taken_away_during_io),
        TEST(test_memory_that_shrinks),
        TEST(test_rings_that_shrink_away),
        TEST(test_an_inflight_region_that_shrinks),
        TEST(test_random_rings),
        TEST(test_random_messages),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
