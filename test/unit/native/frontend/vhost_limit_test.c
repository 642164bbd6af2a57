/* A disk's rate limit: what it holds back waits in the guest's ring. */
#include "vhost_fixture.h"

#define MS 1000000ull

static uint16_t taken(uint32_t i)
{
    return used_of(&d, i)->idx;
}

static void operations_wait_in_the_ring_until_they_may_go(void **state)
{
    (void)state;
    d.config.limit = (struct or_limit){.ops_per_s = 1000, .ops_burst = 2};
    driver_start(&d, ALL_FEATURES & ~F(VIRTIO_RING_F_EVENT_IDX), 1);
    for (uint32_t i = 0; i < 10; i++)
        submit_io(&d, 0, i % 2 ? VIRTIO_BLK_T_OUT : VIRTIO_BLK_T_IN, i, DATA + i * 4096, 512);
    steps(&d, 5);
    assert_int_equal(taken(0), 3); /* the last in debt */
    assert_int_equal(or_vhost_blk_in_flight(d.dev), 0);
    assert_true(stats_of(&d).throttled > 0);
    /* The worker may sleep, until the time has come; no kick need wake it. */
    assert_false(or_vhost_blk_arm(d.dev));
    for (uint32_t i = 4; i <= 10; i++) {
        uint64_t when = or_vhost_blk_deadline(d.dev);
        assert_in_range(when, d.now, d.now + 2 * MS);
        d.now = when;
        steps(&d, 3);
        assert_int_equal(taken(0), i);
    }
    assert_int_equal(or_vhost_blk_deadline(d.dev), UINT64_MAX);
}

static void bytes_are_limited_whatever_the_size_of_requests(void **state)
{
    (void)state;
    d.config.limit = (struct or_limit){.bytes_per_s = 1000000, .bytes_burst = 4096};
    driver_start(&d, ALL_FEATURES, 1);
    /* 1 MB/s: 64 KiB take 65 ms, in one piece or in sixteen. */
    assert_int_equal(io(&d, VIRTIO_BLK_T_OUT, 0, DATA, 65536), VIRTIO_BLK_S_OK);
    for (uint32_t i = 0; i < 16; i++)
        submit_io(&d, 0, VIRTIO_BLK_T_IN, i * 8, DATA + i * 4096, 4096);
    steps(&d, 3);
    assert_int_equal(taken(0), 1);
    uint64_t start = d.now;
    while (taken(0) < 17) {
        d.now = or_vhost_blk_deadline(d.dev);
        steps(&d, 3);
    }
    assert_in_range(d.now - start, 115 * MS, 131 * MS);
}

static void a_flush_costs_no_bytes(void **state)
{
    (void)state;
    d.config.limit = (struct or_limit){.bytes_per_s = 1000, .bytes_burst = 1000};
    driver_start(&d, ALL_FEATURES, 1);
    for (int i = 0; i < 50; i++)
        assert_int_equal(io(&d, VIRTIO_BLK_T_FLUSH, 0, DATA, 0), VIRTIO_BLK_S_OK);
    assert_int_equal(io(&d, VIRTIO_BLK_T_OUT, 0, DATA, 65536), VIRTIO_BLK_S_OK);
    submit_io(&d, 0, VIRTIO_BLK_T_OUT, 0, DATA, 512);
    uint16_t before = taken(0);
    steps(&d, 5);
    assert_int_equal(taken(0), before);
    assert_in_range(or_vhost_blk_deadline(d.dev), 64000 * MS, 66000 * MS);
}

static void a_limit_is_set_live(void **state)
{
    (void)state;
    struct or_limit one = {.ops_per_s = 1, .ops_burst = 1}, none = {0};
    driver_start(&d, ALL_FEATURES, 1);
    for (uint32_t i = 0; i < 5; i++)
        assert_int_equal(io(&d, VIRTIO_BLK_T_IN, i, DATA, 512), VIRTIO_BLK_S_OK);
    or_vhost_blk_set_limit(d.dev, &one);
    for (uint32_t i = 0; i < 5; i++)
        submit_io(&d, 0, VIRTIO_BLK_T_IN, i, DATA + i * 4096, 512);
    steps(&d, 5);
    assert_in_range(taken(0), 6, 7);
    or_vhost_blk_set_limit(d.dev, &none);
    steps(&d, 2);
    assert_int_equal(taken(0), 10);
    assert_int_equal(or_vhost_blk_deadline(d.dev), UINT64_MAX);
}

static void rings_share_what_the_limit_lets_go(void **state)
{
    (void)state;
    d.config.limit = (struct or_limit){.ops_per_s = 1000, .ops_burst = 1};
    driver_start(&d, ALL_FEATURES, 2);
    for (uint32_t i = 0; i < 60; i++)
        submit_io(&d, i % 2, VIRTIO_BLK_T_IN, i, DATA + i * 4096, 512);
    for (int i = 0; i < 20; i++) {
        d.now += MS;
        step(&d);
    }
    assert_in_range(taken(0), 8, 13);
    assert_in_range(taken(1), 8, 13);
}

static void a_ring_that_stops_does_not_wait_for_the_limit(void **state)
{
    (void)state;
    d.config.limit = (struct or_limit){.ops_per_s = 1, .ops_burst = 1};
    driver_start(&d, ALL_FEATURES, 1);
    for (uint32_t i = 0; i < 5; i++)
        submit_io(&d, 0, VIRTIO_BLK_T_IN, i, DATA + i * 4096, 512);
    steps(&d, 3);
    uint16_t done = taken(0);
    assert_true(done < 5);
    struct or_vu_vring_state s = {.index = 0};
    assert_true(vu_send(&d, OR_VU_GET_VRING_BASE, 0, &s, sizeof(s), NULL, 0));
    assert_int_equal(vu_reply(&d, OR_VU_GET_VRING_BASE, &s, sizeof(s), NULL), sizeof(s));
    assert_int_equal(s.num, done);
}

#define TEST(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(operations_wait_in_the_ring_until_they_may_go),
        TEST(bytes_are_limited_whatever_the_size_of_requests),
        TEST(a_flush_costs_no_bytes),
        TEST(a_limit_is_set_live),
        TEST(rings_share_what_the_limit_lets_go),
        TEST(a_ring_that_stops_does_not_wait_for_the_limit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
