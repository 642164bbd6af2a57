/* The disk as an honest QEMU and guest see it: negotiation, configuration space, every operation, and
 * the economy of kicks and interrupts. */
#include "vhost_fixture.h"

static void expect_disk(uint64_t sector, uint64_t phys, uint32_t length)
{
    assert_true(guest_holds(&d, phys, d.disk + sector * 512, length));
}

static struct virtio_blk_config read_config(void)
{
    struct or_vu_config request = {.size = sizeof(struct virtio_blk_config)}, answer;
    struct virtio_blk_config config;
    uint32_t size = offsetof(struct or_vu_config, data) + sizeof(config);
    assert_true(vu_send(&d, OR_VU_GET_CONFIG, 0, &request, size, NULL, 0));
    assert_int_equal(vu_reply(&d, OR_VU_GET_CONFIG, &answer, sizeof(answer), NULL), size);
    memcpy(&config, answer.data, sizeof(config));
    return config;
}

static int write_config(uint32_t offset, uint8_t value)
{
    struct or_vu_config c = {.offset = offset, .size = 1, .data = {value}};
    return vu_set(&d, OR_VU_SET_CONFIG, &c, offsetof(struct or_vu_config, data) + 1, NULL, 0);
}

static void test_offers_what_the_volume_has(void **state)
{
    (void)state;
    device_create(&d);
    driver_connect(&d);
    uint64_t f = vu_get(&d, OR_VU_GET_FEATURES);
    uint64_t all = F(VIRTIO_BLK_F_SEG_MAX) | F(VIRTIO_BLK_F_BLK_SIZE) | F(VIRTIO_BLK_F_TOPOLOGY) |
                   F(VIRTIO_BLK_F_FLUSH) | F(VIRTIO_BLK_F_CONFIG_WCE) | F(VIRTIO_BLK_F_MQ) | F(VIRTIO_BLK_F_DISCARD) |
                   F(VIRTIO_BLK_F_WRITE_ZEROES) | F(28) | F(29) | F(30) | F(32);
    assert_int_equal(f, all);
    struct virtio_blk_config c = read_config();
    assert_int_equal(c.capacity, DISK_SIZE / 512);
    assert_int_equal(c.blk_size, 512);
    assert_int_equal(c.physical_block_exp, 3);
    assert_int_equal(c.min_io_size, 8);
    assert_int_equal(c.seg_max, 126);
    assert_int_equal(c.num_queues, QUEUES);
    assert_int_equal(c.wce, 1);
    assert_int_equal(c.max_discard_seg, 16);
    assert_int_equal(c.max_write_zeroes_seg, 16);
    assert_int_equal(vu_get(&d, OR_VU_GET_MAX_MEM_SLOTS), 32);
}

static void test_a_read_only_volume_offers_no_writing(void **state)
{
    (void)state;
    d.config.read_only = true;
    d.config.queues_max = 1;
    device_create(&d);
    driver_connect(&d);
    uint64_t f = vu_get(&d, OR_VU_GET_FEATURES);
    assert_true(f & F(VIRTIO_BLK_F_RO));
    assert_false(f & (F(VIRTIO_BLK_F_DISCARD) | F(VIRTIO_BLK_F_WRITE_ZEROES) | F(VIRTIO_BLK_F_MQ)));
}

static void test_reads_and_writes(void **state)
{
    (void)state;
    driver_start(&d, ALL_FEATURES, 1);
    assert_int_equal(io(&d, VIRTIO_BLK_T_IN, 5, DATA, 4096), VIRTIO_BLK_S_OK);
    assert_int_equal(d.used_len, 4097);
    expect_disk(5, DATA, 4096);
    guest_fill(&d, DATA, 8192, 1);
    assert_int_equal(io(&d, VIRTIO_BLK_T_OUT, 99, DATA, 8192), VIRTIO_BLK_S_OK);
    assert_int_equal(d.used_len, 1);
    expect_disk(99, DATA, 8192);
    assert_int_equal(io(&d, VIRTIO_BLK_T_IN, DISK_SIZE / 512 - 1, DATA, 512), VIRTIO_BLK_S_OK);
    struct or_vhost_blk_stats s = stats_of(&d);
    assert_int_equal(s.reads, 2);
    assert_int_equal(s.writes, 1);
    assert_int_equal(s.bytes_read, 4608);
    assert_int_equal(s.bytes_written, 8192);
    assert_int_equal(s.errors, 0);
}

static void test_a_buffer_across_two_regions(void **state)
{
    (void)state;
    driver_start(&d, ALL_FEATURES, 1);
    guest_fill(&d, REGION - 1000, 4096, 2);
    assert_int_equal(io(&d, VIRTIO_BLK_T_OUT, 0, REGION - 1000, 4096), VIRTIO_BLK_S_OK);
    expect_disk(0, REGION - 1000, 4096);
    assert_int_equal(io(&d, VIRTIO_BLK_T_IN, 64, REGION - 4095, 4096), VIRTIO_BLK_S_OK);
    expect_disk(64, REGION - 4095, 4096);
}

static void test_an_odd_layout_with_header_and_status_in_pieces(void **state)
{
    (void)state;
    driver_start(&d, ALL_FEATURES, 1);
    struct virtio_blk_outhdr h = {.type = VIRTIO_BLK_T_OUT, .sector = 3};
    memcpy(guest(&d, DATA + 1), &h, sizeof(h));
    guest_fill(&d, DATA + 17, 512, 3);
    struct buffer out[] = {{DATA + 1, 7, false},
                           {DATA + 8, 300, false},
                           {DATA + 308, 221, false},
                           {HEADERS, 9, true},
                           {HEADERS + 9, 0, true}};
    uint16_t head = write_chain(&d, 0, out, 5, 0);
    *(uint8_t *)guest(&d, HEADERS + 8) = 0xee;
    make_available(&d, 0, head);
    steps(&d, 2);
    assert_int_equal(take_used(&d, 0), head);
    assert_int_equal(*(uint8_t *)guest(&d, HEADERS + 8), VIRTIO_BLK_S_OK);
    expect_disk(3, DATA + 17, 512);
    /* And a read whose status shares a buffer with the data. */
    h = (struct virtio_blk_outhdr){.type = VIRTIO_BLK_T_IN, .sector = 8};
    memcpy(guest(&d, DATA), &h, sizeof(h));
    struct buffer in[] = {{DATA, 16, false}, {DATA + 100, 500, true}, {DATA + 700, 13, true}};
    head = write_chain(&d, 0, in, 3, 0);
    make_available(&d, 0, head);
    steps(&d, 2);
    assert_int_equal(take_used(&d, 0), head);
    expect_disk(8, DATA + 100, 500);
    assert_true(guest_holds(&d, DATA + 700, d.disk + 8 * 512 + 500, 12));
    assert_int_equal(*(uint8_t *)guest(&d, DATA + 712), VIRTIO_BLK_S_OK);
}

static void large(uint64_t table)
{
    struct buffer data[126];
    uint32_t total = 0;
    uint64_t at = DATA;
    for (uint32_t i = 0; i < 126; i++) {
        uint32_t length = 20480 + (i % 2 ? 1 : -1) * (int)(i / 2) * 4;
        data[i] = (struct buffer){.phys = at, .length = length};
        at += length + 3;
        total += length;
    }
    data[125].length += 512 - total % 512;
    total += 512 - total % 512;
    guest_fill(&d, DATA, (uint32_t)(at - DATA) + 512, 4);
    d.submitted = 0;
    uint16_t head = submit_buffers(&d, 0, VIRTIO_BLK_T_OUT, 11, data, 126, table);
    assert_int_equal(finish(&d, 0, head), VIRTIO_BLK_S_OK);
    assert_int_equal(d.submitted, (total + MIB - 1) / MIB);
    uint64_t disk_at = 11 * 512;
    for (uint32_t i = 0; i < 126; disk_at += data[i++].length)
        assert_true(guest_holds(&d, data[i].phys, d.disk + disk_at, data[i].length));
    for (uint32_t i = 0; i < 126; i++) {
        data[i].writable = true;
        memset(guest(&d, data[i].phys), 0, 1);
    }
    d.disk[11 * 512 + MIB] ^= 0xff;
    head = submit_buffers(&d, 0, VIRTIO_BLK_T_IN, 11, data, 126, table);
    assert_int_equal(finish(&d, 0, head), VIRTIO_BLK_S_OK);
    assert_int_equal(d.used_len, total + 1);
    disk_at = 11 * 512;
    for (uint32_t i = 0; i < 126; disk_at += data[i++].length)
        assert_true(guest_holds(&d, data[i].phys, d.disk + disk_at, data[i].length));
}

static void test_126_buffers_in_a_direct_chain(void **state)
{
    (void)state;
    driver_start(&d, ALL_FEATURES, 1);
    large(0);
    assert_true(d.largest <= OR_REQ_BYTES_MAX);
}

static void test_126_buffers_in_an_indirect_table_across_regions(void **state)
{
    (void)state;
    driver_start(&d, ALL_FEATURES, 1);
    large(0x90000);
    /* The table itself may cross from one region to the other; write_table cannot, so copy it there. */
    struct buffer data = {.phys = DATA, .length = 512, .writable = true};
    uint16_t head = submit_buffers(&d, 0, VIRTIO_BLK_T_IN, 1, &data, 1, 0x90000);
    for (uint32_t i = 0; i < 48; i++)
        *(uint8_t *)guest(&d, REGION - 24 + i) = *(uint8_t *)guest(&d, 0x90000 + i);
    desc_of(&d, 0, head)->addr = REGION - 24;
    assert_int_equal(finish(&d, 0, head), VIRTIO_BLK_S_OK);
    expect_disk(1, DATA, 512);
}

static void split(uint32_t type)
{
    /* The same 3 MiB five times over: more parts than are under way at once. */
    struct buffer data[5];
    for (uint32_t i = 0; i < 5; i++)
        data[i] = (struct buffer){.phys = DATA, .length = 2 * MIB + 512, .writable = type == VIRTIO_BLK_T_IN};
    guest_fill(&d, DATA, 2 * MIB + 512, 5);
    d.submitted = d.largest = 0;
    d.hold = true;
    uint16_t head = submit_buffers(&d, 0, type, 16, data, 5, 0);
    step(&d);
    assert_int_equal(d.submitted, 4);
    d.hold = false;
    assert_int_equal(finish(&d, 0, head), VIRTIO_BLK_S_OK);
    assert_int_equal(d.submitted, 11);
    assert_int_equal(d.largest, OR_REQ_BYTES_MAX);
    assert_int_equal(d.used_len, type == VIRTIO_BLK_T_IN ? 5 * (2 * MIB + 512) + 1 : 1);
}

static void test_a_large_request_is_executed_in_parts(void **state)
{
    (void)state;
    driver_start(&d, ALL_FEATURES, 1);
    split(VIRTIO_BLK_T_OUT);
    for (uint32_t i = 0; i < 5; i++)
        expect_disk(16 + i * (2 * MIB / 512 + 1), DATA, 2 * MIB + 512);
    d.backwards = true;
    split(VIRTIO_BLK_T_IN);
    split(VIRTIO_BLK_T_OUT);
    for (uint32_t i = 0; i < 5; i++)
        expect_disk(16 + i * (2 * MIB / 512 + 1), DATA, 2 * MIB + 512);
}

static void test_no_part_follows_one_that_failed(void **state)
{
    (void)state;
    driver_start(&d, ALL_FEATURES, 1);
    struct buffer data[5];
    for (uint32_t i = 0; i < 5; i++)
        data[i] = (struct buffer){.phys = DATA, .length = 2 * MIB};
    d.refuse = OR_ENOSPACE;
    uint16_t head = submit_buffers(&d, 0, VIRTIO_BLK_T_OUT, 0, data, 5, 0);
    assert_int_equal(finish(&d, 0, head), VIRTIO_BLK_S_IOERR);
    assert_int_equal(d.submitted, 1);
    /* And when it fails while others are under way and the request already waits to submit more. */
    d.refuse = OR_OK;
    d.hold = true;
    head = submit_buffers(&d, 0, VIRTIO_BLK_T_OUT, 0, data, 5, 0);
    step(&d);
    assert_int_equal(session_pending(&d), 4);
    for (int i = 0; i < 4; i++) {
        struct or_req *req = OR_CONTAINER(d.pending.next, struct or_req, link);
        or_list_remove(&req->link);
        req->status = i == 0 ? OR_OK : OR_EIO;
        req->ops->done(req);
    }
    assert_int_equal(finish(&d, 0, head), VIRTIO_BLK_S_IOERR);
    assert_int_equal(session_pending(&d), 0);
    d.hold = false;
    assert_int_equal(io(&d, VIRTIO_BLK_T_IN, 0, DATA, 512), VIRTIO_BLK_S_OK);
}

static void test_flush_and_id(void **state)
{
    (void)state;
    driver_start(&d, ALL_FEATURES, 1);
    assert_int_equal(io(&d, VIRTIO_BLK_T_FLUSH, 0, 0, 0), VIRTIO_BLK_S_OK);
    assert_int_equal(d.flushes, 1);
    assert_int_equal(io(&d, VIRTIO_BLK_T_GET_ID, 0, DATA, 20), VIRTIO_BLK_S_OK);
    assert_int_equal(d.used_len, 21);
    assert_true(guest_holds(&d, DATA, (const uint8_t *)"serial-0123456789abc", 20));
    assert_int_equal(io(&d, VIRTIO_BLK_T_GET_ID, 0, DATA + 64, 4), VIRTIO_BLK_S_OK);
    assert_true(guest_holds(&d, DATA + 64, (const uint8_t *)"seri\0", 5));
    assert_int_equal(d.submitted, 1);
}

static uint8_t ranges(uint32_t type, const struct virtio_blk_discard_write_zeroes *r, uint32_t bytes)
{
    memcpy(guest(&d, DATA), r, bytes);
    return io(&d, type, 0, DATA, bytes);
}

static void test_discard_and_write_zeroes(void **state)
{
    (void)state;
    driver_start(&d, ALL_FEATURES, 1);
    struct virtio_blk_discard_write_zeroes r[17];
    for (uint32_t i = 0; i < 17; i++)
        r[i] = (struct virtio_blk_discard_write_zeroes){.sector = i * 100, .num_sectors = 1 + i};
    assert_int_equal(ranges(VIRTIO_BLK_T_DISCARD, r, 16 * sizeof(r[0])), VIRTIO_BLK_S_OK);
    assert_int_equal(d.submitted, 16);
    for (uint32_t i = 0; i < 16; i++) {
        assert_int_equal(d.disk[i * 51200], 0xdd);
        assert_int_equal(d.disk[i * 51200 + (1 + i) * 512 - 1], 0xdd);
    }
    r[0].flags = VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP;
    assert_int_equal(ranges(VIRTIO_BLK_T_WRITE_ZEROES, r, 2 * sizeof(r[0])), VIRTIO_BLK_S_OK);
    assert_int_equal(d.disk[51200], 0);
    d.submitted = 0;
    assert_int_equal(ranges(VIRTIO_BLK_T_DISCARD, r, sizeof(r[0])), VIRTIO_BLK_S_UNSUPP);
    r[0].flags = 2;
    assert_int_equal(ranges(VIRTIO_BLK_T_WRITE_ZEROES, r, sizeof(r[0])), VIRTIO_BLK_S_UNSUPP);
    r[0].flags = 0;
    assert_int_equal(ranges(VIRTIO_BLK_T_DISCARD, r, 17 * sizeof(r[0])), VIRTIO_BLK_S_IOERR);
    assert_int_equal(ranges(VIRTIO_BLK_T_DISCARD, r, 15), VIRTIO_BLK_S_IOERR);
    r[1] = (struct virtio_blk_discard_write_zeroes){.sector = DISK_SIZE / 512 - 1, .num_sectors = 2};
    assert_int_equal(ranges(VIRTIO_BLK_T_DISCARD, r, 2 * sizeof(r[0])), VIRTIO_BLK_S_IOERR);
    r[1] = (struct virtio_blk_discard_write_zeroes){.sector = ~0ull, .num_sectors = 1};
    assert_int_equal(ranges(VIRTIO_BLK_T_DISCARD, r, 2 * sizeof(r[0])), VIRTIO_BLK_S_IOERR);
    r[1] = (struct virtio_blk_discard_write_zeroes){.sector = 0, .num_sectors = ~0u};
    assert_int_equal(ranges(VIRTIO_BLK_T_WRITE_ZEROES, r, 2 * sizeof(r[0])), VIRTIO_BLK_S_IOERR);
    assert_int_equal(d.submitted, 0);
}

static void test_bad_requests_are_answered_without_being_sent(void **state)
{
    (void)state;
    driver_start(&d, ALL_FEATURES, 1);
    const uint64_t last = DISK_SIZE / 512;
    assert_int_equal(io(&d, VIRTIO_BLK_T_IN, 0, DATA, 0), VIRTIO_BLK_S_IOERR);
    assert_int_equal(io(&d, VIRTIO_BLK_T_OUT, 0, DATA, 0), VIRTIO_BLK_S_IOERR);
    assert_int_equal(io(&d, VIRTIO_BLK_T_OUT, 0, DATA, 511), VIRTIO_BLK_S_IOERR);
    assert_int_equal(io(&d, VIRTIO_BLK_T_IN, last, DATA, 512), VIRTIO_BLK_S_IOERR);
    assert_int_equal(io(&d, VIRTIO_BLK_T_OUT, last - 1, DATA, 1024), VIRTIO_BLK_S_IOERR);
    assert_int_equal(io(&d, VIRTIO_BLK_T_OUT, 1ull << 55, DATA, 512), VIRTIO_BLK_S_IOERR);
    assert_int_equal(io(&d, VIRTIO_BLK_T_OUT, ~0ull, DATA, 512), VIRTIO_BLK_S_IOERR);
    assert_int_equal(io(&d, VIRTIO_BLK_T_SECURE_ERASE, 0, DATA, 16), VIRTIO_BLK_S_UNSUPP);
    assert_int_equal(io(&d, 77, 0, DATA, 512), VIRTIO_BLK_S_UNSUPP);
    assert_int_equal(d.submitted, 0);
    assert_int_equal(stats_of(&d).errors, 9);
    assert_int_equal(d.state, OR_VHOST_RUNNING);
}

static void test_a_volume_of_4096_byte_blocks_refuses_smaller_ones(void **state)
{
    (void)state;
    d.config.block_size = 4096;
    driver_start(&d, ALL_FEATURES, 1);
    assert_int_equal(io(&d, VIRTIO_BLK_T_IN, 0, DATA, 512), VIRTIO_BLK_S_IOERR);
    assert_int_equal(io(&d, VIRTIO_BLK_T_IN, 1, DATA, 4096), VIRTIO_BLK_S_IOERR);
    assert_int_equal(io(&d, VIRTIO_BLK_T_IN, 8, DATA, 4096), VIRTIO_BLK_S_OK);
    expect_disk(8, DATA, 4096);
}

static void test_a_read_only_volume_is_not_written(void **state)
{
    (void)state;
    d.config.read_only = true;
    driver_start(&d, ALL_FEATURES, 1);
    struct virtio_blk_discard_write_zeroes r = {.sector = 0, .num_sectors = 1};
    assert_int_equal(io(&d, VIRTIO_BLK_T_OUT, 0, DATA, 512), VIRTIO_BLK_S_IOERR);
    assert_int_equal(ranges(VIRTIO_BLK_T_DISCARD, &r, sizeof(r)), VIRTIO_BLK_S_IOERR);
    assert_int_equal(ranges(VIRTIO_BLK_T_WRITE_ZEROES, &r, sizeof(r)), VIRTIO_BLK_S_IOERR);
    assert_int_equal(d.submitted, 0);
    assert_int_equal(io(&d, VIRTIO_BLK_T_IN, 0, DATA, 512), VIRTIO_BLK_S_OK);
}

static void test_operations_that_the_volume_lacks(void **state)
{
    (void)state;
    d.config.discard = d.config.write_zeroes = false;
    driver_start(&d, ALL_FEATURES, 1);
    struct virtio_blk_discard_write_zeroes r = {.sector = 0, .num_sectors = 1};
    assert_int_equal(ranges(VIRTIO_BLK_T_DISCARD, &r, sizeof(r)), VIRTIO_BLK_S_UNSUPP);
    assert_int_equal(ranges(VIRTIO_BLK_T_WRITE_ZEROES, &r, sizeof(r)), VIRTIO_BLK_S_UNSUPP);
}

static void test_every_outcome_has_its_status(void **state)
{
    (void)state;
    driver_start(&d, ALL_FEATURES, 1);
    for (uint8_t s = OR_EIO; s < OR_STATUS_MAX; s++) {
        d.refuse = s;
        uint8_t expected = s == OR_EUNSUPP ? VIRTIO_BLK_S_UNSUPP : VIRTIO_BLK_S_IOERR;
        assert_int_equal(io(&d, VIRTIO_BLK_T_IN, 0, DATA, 512), expected);
        assert_int_equal(d.used_len, 1);
        assert_int_equal(io(&d, VIRTIO_BLK_T_FLUSH, 0, 0, 0), expected);
    }
}

static void test_write_through_makes_writes_durable(void **state)
{
    (void)state;
    driver_start(&d, ALL_FEATURES, 1);
    io(&d, VIRTIO_BLK_T_OUT, 0, DATA, 512);
    assert_int_equal(d.fuas, 0);
    assert_int_equal(write_config(offsetof(struct virtio_blk_config, wce), 0), 0);
    assert_int_equal(read_config().wce, 0);
    io(&d, VIRTIO_BLK_T_OUT, 0, DATA, 512);
    io(&d, VIRTIO_BLK_T_IN, 0, DATA, 512);
    assert_int_equal(d.fuas, 1);
    struct virtio_blk_discard_write_zeroes r = {.sector = 0, .num_sectors = 1};
    ranges(VIRTIO_BLK_T_WRITE_ZEROES, &r, sizeof(r));
    assert_int_equal(d.fuas, 2);
    assert_int_equal(write_config(offsetof(struct virtio_blk_config, wce), 1), 0);
    io(&d, VIRTIO_BLK_T_OUT, 0, DATA, 512);
    assert_int_equal(d.fuas, 2);
}

static void test_write_through_outlives_this_process(void **state)
{
    (void)state;
    driver_start(&d, ALL_FEATURES, 1);
    assert_int_equal(write_config(offsetof(struct virtio_blk_config, wce), 0), 0);
    device_destroy(&d);
    assert_true(d.gone);
    close(d.sock);
    device_create(&d);
    driver_connect(&d);
    driver_negotiate(&d, ALL_FEATURES, ALL_FEATURES);
    assert_int_equal(read_config().wce, 1);
    assert_int_equal(set_memory(&d), 0);
    assert_int_equal(set_inflight(&d), 0);
    ring_configure(&d, 0, 0);
    assert_int_equal(read_config().wce, 0);
    io(&d, VIRTIO_BLK_T_OUT, 0, DATA, 512);
    assert_int_equal(d.fuas, 1);
}

static void test_a_guest_that_cannot_flush_gets_write_through(void **state)
{
    (void)state;
    driver_start(&d, ~F(VIRTIO_BLK_F_FLUSH), 1);
    io(&d, VIRTIO_BLK_T_OUT, 0, DATA, 512);
    assert_int_equal(d.fuas, 1);
}

static void test_read_only_configuration_fields_refuse(void **state)
{
    (void)state;
    driver_start(&d, ALL_FEATURES, 1);
    assert_int_equal(write_config(0, 1), 1);
    assert_int_equal(d.state, OR_VHOST_BROKEN);
}

static void test_two_queues(void **state)
{
    (void)state;
    driver_start(&d, ALL_FEATURES, 2);
    d.hold = true;
    uint16_t a = submit_io(&d, 0, VIRTIO_BLK_T_IN, 1, DATA, 4096);
    uint16_t b = submit_io(&d, 1, VIRTIO_BLK_T_IN, 2, DATA + 8192, 4096);
    step(&d);
    assert_int_equal(session_pending(&d), 2);
    d.hold = false;
    assert_int_equal(finish(&d, 1, b), VIRTIO_BLK_S_OK);
    assert_int_equal(finish(&d, 0, a), VIRTIO_BLK_S_OK);
    expect_disk(1, DATA, 4096);
    expect_disk(2, DATA + 8192, 4096);
}

static void test_indices_wrap(void **state)
{
    (void)state;
    driver_start(&d, ALL_FEATURES, 1);
    for (uint32_t i = 0; i < 66000; i++) {
        uint16_t head = submit_io(&d, 0, VIRTIO_BLK_T_GET_ID, 0, DATA, 20);
        assert_int_equal(finish(&d, 0, head), VIRTIO_BLK_S_OK);
    }
    assert_int_equal(io(&d, VIRTIO_BLK_T_IN, 1, DATA, 512), VIRTIO_BLK_S_OK);
    expect_disk(1, DATA, 512);
}

static void test_a_full_ring_in_any_order(void **state)
{
    (void)state;
    driver_start(&d, ALL_FEATURES, 1);
    d.backwards = d.hold = true;
    uint16_t heads[128];
    for (uint32_t round = 0; round < 3; round++) {
        for (uint32_t i = 0; i < 128; i++) {
            struct buffer data = {.phys = DATA + i * 4096, .length = 4096, .writable = true};
            heads[i] = submit_buffers(&d, 0, VIRTIO_BLK_T_IN, i * 8, &data, 1, 0x200000 + i * 64ull);
        }
        steps(&d, 4);
        assert_int_equal(session_pending(&d), 128);
        session_run(&d);
        step(&d);
        for (uint32_t i = 128; i-- > 0;) {
            assert_int_equal(take_used(&d, 0), heads[i]);
            expect_disk(i * 8, DATA + i * 4096, 4096);
        }
        assert_int_equal(take_used(&d, 0), -1);
    }
}

static void test_one_interrupt_for_a_batch_where_the_event_index_asks(void **state)
{
    (void)state;
    driver_start(&d, ALL_FEATURES, 1);
    *used_event_of(&d, 0) = 0;
    for (int i = 0; i < 5; i++)
        submit_io(&d, 0, VIRTIO_BLK_T_IN, 0, DATA, 512);
    step(&d);
    assert_int_equal(signals(d.q[0].call), 1);
    assert_int_equal(stats_of(&d).calls, 1);
    *used_event_of(&d, 0) = 7;
    for (int i = 0; i < 2; i++) {
        submit_io(&d, 0, VIRTIO_BLK_T_IN, 0, DATA, 512);
        step(&d);
    }
    assert_int_equal(signals(d.q[0].call), 0);
    assert_int_equal(stats_of(&d).calls_suppressed, 2);
    submit_io(&d, 0, VIRTIO_BLK_T_IN, 0, DATA, 512);
    step(&d);
    assert_int_equal(signals(d.q[0].call), 1);
}

static void test_interrupts_without_event_index(void **state)
{
    (void)state;
    driver_start(&d, ~F(29), 1);
    io(&d, VIRTIO_BLK_T_IN, 0, DATA, 512);
    assert_int_equal(signals(d.q[0].call), 1);
    avail_of(&d, 0)->flags = VRING_AVAIL_F_NO_INTERRUPT;
    io(&d, VIRTIO_BLK_T_IN, 0, DATA, 512);
    assert_int_equal(signals(d.q[0].call), 0);
}

static void test_no_call_descriptor_means_no_interrupts(void **state)
{
    (void)state;
    driver_start(&d, ALL_FEATURES, 1);
    assert_int_equal(set_eventfd(&d, OR_VU_SET_VRING_CALL, 0, -1), 0);
    io(&d, VIRTIO_BLK_T_IN, 0, DATA, 512);
    assert_int_equal(signals(d.q[0].call), 0);
    assert_int_equal(stats_of(&d).calls, 0);
}

static void test_kicks_are_asked_for_before_sleeping(void **state)
{
    (void)state;
    driver_start(&d, ALL_FEATURES, 1);
    io(&d, VIRTIO_BLK_T_IN, 0, DATA, 512);
    uint16_t *avail_event = (uint16_t *)(void *)&used_of(&d, 0)->ring[128];
    assert_false(or_vhost_blk_arm(d.dev));
    assert_int_equal(*avail_event, 1);
    or_vhost_blk_disarm(d.dev);
    submit_io(&d, 0, VIRTIO_BLK_T_IN, 0, DATA, 512);
    assert_true(or_vhost_blk_arm(d.dev));
    steps(&d, 2);
    assert_false(or_vhost_blk_arm(d.dev));
    assert_int_equal(*avail_event, 2);
    /* Asleep: the kick wakes the loop. */
    submit_io(&d, 0, VIRTIO_BLK_T_IN, 0, DATA, 512);
    eventfd_write(d.q[0].kick, 1);
    struct epoll_event e;
    assert_int_equal(epoll_wait(d.epoll_fd, &e, 1, 1000), 1);
    or_vhost_blk_disarm(d.dev);
    ((struct or_fd_source *)e.data.ptr)->ready(e.data.ptr, e.events);
    assert_int_equal(epoll_wait(d.epoll_fd, &e, 1, 0), 0);
    assert_int_equal(stats_of(&d).kicks, 1);
}

static void test_kicks_without_event_index(void **state)
{
    (void)state;
    driver_start(&d, ~F(29), 1);
    or_vhost_blk_arm(d.dev);
    or_vhost_blk_disarm(d.dev);
    assert_int_equal(used_of(&d, 0)->flags, VRING_USED_F_NO_NOTIFY);
    assert_false(or_vhost_blk_arm(d.dev));
    assert_int_equal(used_of(&d, 0)->flags, 0);
}

static void test_a_ring_without_kick_descriptor_is_polled(void **state)
{
    (void)state;
    driver_start(&d, ALL_FEATURES, 1);
    assert_int_equal(set_eventfd(&d, OR_VU_SET_VRING_KICK, 0, -1), 0);
    assert_true(or_vhost_blk_arm(d.dev));
    assert_int_equal(io(&d, VIRTIO_BLK_T_IN, 0, DATA, 512), VIRTIO_BLK_S_OK);
}

static void test_a_disabled_ring_is_left_alone(void **state)
{
    (void)state;
    driver_start(&d, ALL_FEATURES, 1);
    assert_int_equal(vu_set_state(&d, OR_VU_SET_VRING_ENABLE, 0, 0), 0);
    assert_int_equal(d.state, OR_VHOST_CONNECTED);
    uint16_t head = submit_io(&d, 0, VIRTIO_BLK_T_IN, 0, DATA, 512);
    steps(&d, 3);
    assert_int_equal(d.submitted, 0);
    assert_false(or_vhost_blk_arm(d.dev));
    assert_int_equal(vu_set_state(&d, OR_VU_SET_VRING_ENABLE, 0, 1), 0);
    assert_int_equal(finish(&d, 0, head), VIRTIO_BLK_S_OK);
    assert_int_equal(vu_set(&d, OR_VU_RESET_OWNER, NULL, 0, NULL, 0), 0);
    assert_int_equal(d.state, OR_VHOST_CONNECTED);
}

static void test_a_poll_takes_a_bounded_batch(void **state)
{
    (void)state;
    driver_start(&d, ALL_FEATURES, 1);
    d.hold = true;
    for (uint32_t i = 0; i < 128; i++) {
        struct buffer data = {.phys = DATA, .length = 512, .writable = true};
        submit_buffers(&d, 0, VIRTIO_BLK_T_IN, i, &data, 1, 0x200000 + i * 64ull);
    }
    assert_int_equal(or_vhost_blk_poll(d.dev, 1), 64);
    assert_int_equal(or_vhost_blk_poll(d.dev, 2), 64);
    assert_int_equal(or_vhost_blk_poll(d.dev, 3), 0);
    d.hold = false;
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_offers_what_the_volume_has),
        TEST(test_a_read_only_volume_offers_no_writing),
        TEST(test_reads_and_writes),
        TEST(test_a_buffer_across_two_regions),
        TEST(test_an_odd_layout_with_header_and_status_in_pieces),
        TEST(test_126_buffers_in_a_direct_chain),
        TEST(test_126_buffers_in_an_indirect_table_across_regions),
        TEST(test_a_large_request_is_executed_in_parts),
        TEST(test_no_part_follows_one_that_failed),
        TEST(test_flush_and_id),
        TEST(test_discard_and_write_zeroes),
        TEST(test_bad_requests_are_answered_without_being_sent),
        TEST(test_a_volume_of_4096_byte_blocks_refuses_smaller_ones),
        TEST(test_a_read_only_volume_is_not_written),
        TEST(test_operations_that_the_volume_lacks),
        TEST(test_every_outcome_has_its_status),
        TEST(test_write_through_makes_writes_durable),
        TEST(test_write_through_outlives_this_process),
        TEST(test_a_guest_that_cannot_flush_gets_write_through),
        TEST(test_read_only_configuration_fields_refuse),
        TEST(test_two_queues),
        TEST(test_indices_wrap),
        TEST(test_a_full_ring_in_any_order),
        TEST(test_one_interrupt_for_a_batch_where_the_event_index_asks),
        TEST(test_interrupts_without_event_index),
        TEST(test_no_call_descriptor_means_no_interrupts),
        TEST(test_kicks_are_asked_for_before_sleeping),
        TEST(test_kicks_without_event_index),
        TEST(test_a_ring_without_kick_descriptor_is_polled),
        TEST(test_a_disabled_ring_is_left_alone),
        TEST(test_a_poll_takes_a_bounded_batch),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
