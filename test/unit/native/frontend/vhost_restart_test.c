/* Rings that stop and start again, connections that end, back-ends that die: what is in flight is
 * executed again, in order, and nothing is written into memory that QEMU has taken back. */
#include "vhost_fixture.h"

/* The base that GET_VRING_BASE answers. */
static uint32_t stop_ring(uint32_t i)
{
    struct or_vu_vring_state s = {.index = i};
    assert_true(vu_send(&d, OR_VU_GET_VRING_BASE, 0, &s, sizeof(s), NULL, 0));
    assert_int_equal(vu_reply(&d, OR_VU_GET_VRING_BASE, &s, sizeof(s), NULL), sizeof(s));
    assert_int_equal(s.index, i);
    return s.num;
}

static void reconnect(void)
{
    driver_connect(&d);
    driver_negotiate(&d, ALL_FEATURES, ALL_FEATURES);
    assert_int_equal(set_memory(&d), 0);
    assert_int_equal(set_inflight(&d), 0);
}

/* A back-end that is killed: nothing of it runs any more. Its requests stay in a list that nobody
 * executes; they are ended at the very end of the test, to free them. */
static void kill_backend(struct or_list *left_over)
{
    or_list_init(left_over);
    while (!or_list_empty(&d.pending)) {
        struct or_list *l = d.pending.next;
        or_list_remove(l);
        or_list_append(left_over, l);
    }
    device_destroy(&d);
    if (d.sock >= 0)
        close(d.sock);
    d.sock = -1;
}

static void end_left_over(struct or_list *left_over)
{
    while (!or_list_empty(left_over)) {
        struct or_req *req = OR_CONTAINER(left_over->next, struct or_req, link);
        or_list_remove(&req->link);
        req->ops->done(req);
    }
}

static void test_an_idle_ring_stops_at_once_and_goes_on(void **state)
{
    (void)state;
    driver_start(&d, ALL_FEATURES, 1);
    for (int i = 0; i < 3; i++)
        io(&d, VIRTIO_BLK_T_IN, 0, DATA, 512);
    assert_int_equal(stop_ring(0), 3);
    assert_int_equal(d.state, OR_VHOST_CONNECTED);
    uint16_t head = submit_io(&d, 0, VIRTIO_BLK_T_IN, 9, DATA, 512);
    steps(&d, 3);
    assert_int_equal(take_used(&d, 0), -1);
    ring_configure(&d, 0, 3);
    assert_int_equal(finish(&d, 0, head), VIRTIO_BLK_S_OK);
}

static void test_a_stop_waits_for_requests_that_end_soon(void **state)
{
    (void)state;
    driver_start(&d, ALL_FEATURES, 1);
    d.hold = true;
    uint16_t head = submit_io(&d, 0, VIRTIO_BLK_T_IN, 9, DATA, 512);
    step(&d);
    struct or_vu_vring_state s = {.index = 0};
    assert_true(vu_send(&d, OR_VU_GET_VRING_BASE, 0, &s, sizeof(s), NULL, 0));
    steps(&d, 3);
    /* Nothing new is taken meanwhile, and no answer is there yet. */
    submit_io(&d, 0, VIRTIO_BLK_T_IN, 9, DATA, 512);
    steps(&d, 3);
    assert_int_equal(session_pending(&d), 1);
    struct pollfd p = {.fd = d.sock, .events = POLLIN};
    assert_int_equal(poll(&p, 1, 0), 0);
    d.hold = false;
    assert_int_equal(vu_reply(&d, OR_VU_GET_VRING_BASE, &s, sizeof(s), NULL), sizeof(s));
    assert_int_equal(s.num, 1);
    assert_int_equal(take_used(&d, 0), head);
    assert_int_equal(stats_of(&d).dropped, 0);
}

static void test_stuck_requests_are_abandoned_and_executed_again(void **state)
{
    (void)state;
    driver_start(&d, ALL_FEATURES, 2);
    io(&d, VIRTIO_BLK_T_IN, 0, DATA, 512);
    d.hold = true;
    uint16_t heads[4];
    for (uint32_t i = 0; i < 3; i++)
        heads[i] = submit_io(&d, 0, VIRTIO_BLK_T_IN, 10 + i, DATA + i * 4096, 512);
    guest_fill(&d, DATA + 3 * 4096, 512, 9);
    heads[3] = submit_io(&d, 0, VIRTIO_BLK_T_OUT, 20, DATA + 3 * 4096, 512);
    submit_io(&d, 1, VIRTIO_BLK_T_IN, 0, 0x200000, 512);
    step(&d);
    assert_int_equal(session_pending(&d), 5);
    assert_int_equal(stop_ring(0), 5);
    assert_int_equal(stop_ring(1), 1);
    /* The session gets round to them only now: no byte of that may reach the guest. */
    memset(guest(&d, DATA), 0xaa, 3 * 4096);
    *status_of(&d, 0, heads[0]) = 0xaa;
    session_run(&d);
    for (uint32_t i = 0; i < 3 * 4096; i++)
        assert_int_equal(*(uint8_t *)guest(&d, DATA + i), 0xaa);
    assert_int_equal(*status_of(&d, 0, heads[0]), 0xaa);
    assert_int_equal(used_of(&d, 0)->idx, 1);
    assert_int_equal(stats_of(&d).dropped, 5);
    d.submitted = 0;
    assert_int_equal(set_inflight(&d), 0);
    ring_configure(&d, 0, 5);
    step(&d);
    assert_int_equal(d.submitted, 4);
    for (uint32_t i = 0; i < 4; i++) {
        assert_int_equal(OR_CONTAINER(d.pending.next, struct or_req, link)->offset, i < 3 ? (10 + i) * 512 : 10240);
        d.hold = false;
        struct or_list *l = d.pending.next;
        or_list_remove(l);
        session_execute(&d, OR_CONTAINER(l, struct or_req, link));
    }
    for (uint32_t i = 0; i < 4; i++)
        assert_int_equal(finish(&d, 0, heads[i]), VIRTIO_BLK_S_OK);
    assert_true(guest_holds(&d, DATA + 4096, d.disk + 11 * 512, 512));
    assert_int_equal(io(&d, VIRTIO_BLK_T_IN, 0, DATA, 512), VIRTIO_BLK_S_OK);
}

static void test_an_abandoned_write_carries_the_data_it_was_given(void **state)
{
    (void)state;
    driver_start(&d, ALL_FEATURES, 1);
    d.hold = true;
    guest_fill(&d, DATA, 2 * MIB + 512, 10);
    uint8_t *expected = malloc(2 * MIB + 512);
    memcpy(expected, guest(&d, DATA), 2 * MIB + 512);
    submit_io(&d, 0, VIRTIO_BLK_T_OUT, 100, DATA, 2 * MIB + 512);
    step(&d);
    assert_int_equal(stop_ring(0), 1);
    /* The guest is reset and the page holds something else: that must not get on the disk. */
    memset(guest(&d, DATA), 0x77, 2 * MIB + 512);
    session_run(&d);
    assert_memory_equal(d.disk + 51200, expected, 2 * MIB + 512);
    free(expected);
}

static void test_without_inflight_region_the_answer_waits(void **state)
{
    (void)state;
    device_create(&d);
    driver_connect(&d);
    driver_negotiate(&d, ALL_FEATURES, ~OR_VU_PROTOCOL_INFLIGHT_SHMFD);
    assert_int_equal(set_memory(&d), 0);
    ring_configure(&d, 0, 0);
    d.hold = true;
    uint16_t head = submit_io(&d, 0, VIRTIO_BLK_T_IN, 9, DATA, 512);
    step(&d);
    struct or_vu_vring_state s = {.index = 0};
    assert_true(vu_send(&d, OR_VU_GET_VRING_BASE, 0, &s, sizeof(s), NULL, 0));
    /* Longer than a ring with a region would wait. */
    for (int i = 0; i < 8; i++)
        step_wait(&d, 100);
    struct pollfd p = {.fd = d.sock, .events = POLLIN};
    assert_int_equal(poll(&p, 1, 0), 0);
    d.hold = false;
    assert_int_equal(vu_reply(&d, OR_VU_GET_VRING_BASE, &s, sizeof(s), NULL), sizeof(s));
    assert_int_equal(s.num, 1);
    assert_int_equal(take_used(&d, 0), head);
}

static void test_qemu_goes_while_a_ring_stops(void **state)
{
    (void)state;
    driver_start(&d, ALL_FEATURES, 1);
    d.hold = true;
    submit_io(&d, 0, VIRTIO_BLK_T_IN, 9, DATA, 512);
    step(&d);
    struct or_vu_vring_state s = {.index = 0};
    assert_true(vu_send(&d, OR_VU_GET_VRING_BASE, 0, &s, sizeof(s), NULL, 0));
    step(&d);
    driver_disconnect(&d);
    assert_int_equal(d.state, OR_VHOST_LISTENING);
    driver_connect(&d);
}

static void test_another_back_end_takes_over_in_order(void **state)
{
    (void)state;
    struct or_list left_over;
    driver_start(&d, ALL_FEATURES, 1);
    io(&d, VIRTIO_BLK_T_IN, 0, DATA, 512);
    d.hold = true;
    uint16_t heads[6];
    for (uint32_t i = 0; i < 6; i++)
        heads[i] = submit_io(&d, 0, VIRTIO_BLK_T_IN, 10 + i, DATA + i * 4096, 512);
    step(&d);
    /* Two of them end, out of order. */
    for (int i = 0; i < 2; i++) {
        struct or_list *l = d.pending.next->next;
        or_list_remove(l);
        session_execute(&d, OR_CONTAINER(l, struct or_req, link));
    }
    step(&d);
    assert_int_equal(take_used(&d, 0), heads[1]);
    assert_int_equal(take_used(&d, 0), heads[2]);
    kill_backend(&left_over);
    d.submitted = 0;
    device_create(&d);
    reconnect();
    /* QEMU can only give the used index as the base. */
    ring_configure(&d, 0, used_of(&d, 0)->idx);
    step(&d);
    assert_int_equal(session_pending(&d), 4);
    const uint32_t order[] = {0, 3, 4, 5};
    const struct or_list *l = d.pending.next;
    for (uint32_t i = 0; i < 4; i++, l = l->next)
        assert_int_equal(OR_CONTAINER(l, struct or_req, link)->offset, (10 + order[i]) * 512);
    d.hold = false;
    for (uint32_t i = 0; i < 4; i++) {
        assert_int_equal(finish(&d, 0, heads[order[i]]), VIRTIO_BLK_S_OK);
        assert_true(guest_holds(&d, DATA + order[i] * 4096, d.disk + (10 + order[i]) * 512, 512));
    }
    assert_int_equal(io(&d, VIRTIO_BLK_T_IN, 0, DATA, 512), VIRTIO_BLK_S_OK);
    end_left_over(&left_over);
}

static void test_death_between_publishing_and_striking_off(void **state)
{
    (void)state;
    struct or_list left_over;
    driver_start(&d, ALL_FEATURES, 1);
    d.hold = true;
    uint16_t heads[3];
    for (uint32_t i = 0; i < 3; i++)
        heads[i] = submit_io(&d, 0, VIRTIO_BLK_T_IN, 10 + i, DATA + i * 4096, 512);
    step(&d);
    void *region = mmap(NULL, d.inflight.bytes, PROT_READ | PROT_WRITE, MAP_SHARED, d.inflight_fd, 0);
    assert_ptr_not_equal(region, MAP_FAILED);
    struct or_inflight_queue *q = or_inflight_queue(region, 128, 0);
    struct or_list *l = d.pending.next;
    for (int i = 0; i < 2; i++) {
        l = d.pending.next;
        or_list_remove(l);
        session_execute(&d, OR_CONTAINER(l, struct or_req, link));
    }
    step(&d);
    assert_int_equal(q->used_idx, 2);
    /* The region as it was just before the batch was struck off. */
    q->used_idx = 0;
    q->desc[heads[0]].inflight = q->desc[heads[1]].inflight = 1;
    kill_backend(&left_over);
    device_create(&d);
    reconnect();
    ring_configure(&d, 0, 2);
    step(&d);
    assert_int_equal(session_pending(&d), 1);
    assert_int_equal(q->used_idx, 2);
    assert_int_equal(q->desc[heads[0]].inflight, 0);
    d.hold = false;
    take_used(&d, 0);
    take_used(&d, 0);
    assert_int_equal(finish(&d, 0, heads[2]), VIRTIO_BLK_S_OK);
    munmap(region, d.inflight.bytes);
    end_left_over(&left_over);
}

static void test_a_reset_guest_starts_from_nothing(void **state)
{
    (void)state;
    driver_start(&d, ALL_FEATURES, 1);
    d.hold = true;
    submit_io(&d, 0, VIRTIO_BLK_T_OUT, 9, DATA, 512);
    step(&d);
    assert_int_equal(stop_ring(0), 1);
    /* QEMU drops the inflight region at a reset and asks for another. */
    close(d.inflight_fd);
    get_inflight(&d);
    assert_int_equal(set_inflight(&d), 0);
    memset(guest(&d, RING(0)), 0, 65536);
    d.q[0].avail_idx = d.q[0].used_seen = d.q[0].next_desc = 0;
    d.submitted = 0;
    ring_configure(&d, 0, 0);
    step(&d);
    assert_int_equal(d.submitted, 0);
    d.hold = false;
    assert_int_equal(io(&d, VIRTIO_BLK_T_IN, 30, DATA, 512), VIRTIO_BLK_S_OK);
}

static void test_a_smaller_ring_than_the_inflight_region(void **state)
{
    (void)state;
    d.q[0].size = 64;
    driver_start(&d, ALL_FEATURES, 1);
    assert_int_equal(io(&d, VIRTIO_BLK_T_IN, 30, DATA, 512), VIRTIO_BLK_S_OK);
}

static void test_memory_changes_under_running_requests(void **state)
{
    (void)state;
    driver_start(&d, ALL_FEATURES, 1);
    d.hold = true;
    uint16_t in_a = submit_io(&d, 0, VIRTIO_BLK_T_IN, 9, DATA, 4096);
    uint16_t in_b = submit_io(&d, 0, VIRTIO_BLK_T_IN, 19, REGION + DATA, 4096);
    step(&d);
    /* Region B goes and comes back, as when QEMU replaces a region. */
    struct or_vu_memory table = memory_table();
    struct or_vu_memory_region b = {.region = table.regions[1]};
    assert_int_equal(vu_set(&d, OR_VU_REM_MEM_REG, &b, sizeof(b), NULL, 0), 0);
    assert_int_equal(vu_set(&d, OR_VU_ADD_MEM_REG, &b, sizeof(b), &d.memfd, 1), 0);
    /* The region of the rings, too; and the whole table. */
    struct or_vu_memory_region a = {.region = table.regions[0]};
    assert_int_equal(vu_set(&d, OR_VU_REM_MEM_REG, &a, sizeof(a), NULL, 0), 0);
    steps(&d, 2);
    assert_int_equal(d.state, OR_VHOST_RUNNING);
    assert_int_equal(vu_set(&d, OR_VU_ADD_MEM_REG, &a, sizeof(a), &d.memfd, 1), 0);
    assert_int_equal(set_memory(&d), 0);
    d.hold = false;
    assert_int_equal(finish(&d, 0, in_a), VIRTIO_BLK_S_OK);
    assert_int_equal(finish(&d, 0, in_b), VIRTIO_BLK_S_OK);
    assert_true(guest_holds(&d, DATA, d.disk + 9 * 512, 4096));
    assert_true(guest_holds(&d, REGION + DATA, d.disk + 19 * 512, 4096));
    assert_int_equal(io(&d, VIRTIO_BLK_T_IN, 1, REGION + DATA, 4096), VIRTIO_BLK_S_OK);
}

static void test_memory_that_was_removed_is_out_of_reach(void **state)
{
    (void)state;
    driver_start(&d, ALL_FEATURES, 1);
    struct or_vu_memory table = memory_table();
    struct or_vu_memory_region b = {.region = table.regions[1]};
    /* A descriptor with REM_MEM_REG is tolerated and closed. */
    assert_int_equal(vu_set(&d, OR_VU_REM_MEM_REG, &b, sizeof(b), &d.memfd, 1), 0);
    submit_io(&d, 0, VIRTIO_BLK_T_IN, 1, REGION + DATA, 512);
    steps(&d, 2);
    assert_int_equal(d.state, OR_VHOST_BROKEN);
}

static void test_a_second_qemu_is_sent_away(void **state)
{
    (void)state;
    driver_start(&d, ALL_FEATURES, 1);
    int other = open_socket(&d);
    steps(&d, 2);
    char byte;
    assert_int_equal(recv(other, &byte, 1, MSG_DONTWAIT), 0);
    close(other);
    assert_int_equal(io(&d, VIRTIO_BLK_T_IN, 1, DATA, 512), VIRTIO_BLK_S_OK);
    /* But one that comes when the first has just gone is not. */
    close(d.sock);
    d.sock = open_socket(&d);
    steps(&d, 4);
    assert_int_equal(d.state, OR_VHOST_CONNECTED);
    assert_true(vu_get(&d, OR_VU_GET_FEATURES) != 0);
}

static void test_abandoned_requests_are_limited(void **state)
{
    (void)state;
    driver_start(&d, ALL_FEATURES, 1);
    d.hold = true;
    for (uint32_t i = 0; i < 4 * QUEUES; i++) {
        submit_io(&d, 0, VIRTIO_BLK_T_IN, 1, DATA, 512);
        step(&d);
        driver_disconnect(&d);
        if (i + 1 < 4 * QUEUES) {
            reconnect();
            ring_configure(&d, 0, 0);
        }
    }
    int other = open_socket(&d);
    steps(&d, 2);
    char byte;
    assert_int_equal(recv(other, &byte, 1, MSG_DONTWAIT), 0);
    close(other);
    d.hold = false;
    step(&d);
    driver_connect(&d);
}

static void test_destroy_waits_for_the_session(void **state)
{
    (void)state;
    driver_start(&d, ALL_FEATURES, 1);
    d.hold = true;
    submit_io(&d, 0, VIRTIO_BLK_T_IN, 1, DATA, 512);
    submit_io(&d, 0, VIRTIO_BLK_T_OUT, 1, DATA, 512);
    step(&d);
    device_destroy(&d);
    assert_false(d.gone);
    session_run(&d);
    assert_true(d.gone);
}

static void test_destroy_of_an_unused_device(void **state)
{
    (void)state;
    device_create(&d);
    device_destroy(&d);
    assert_true(d.gone);
}

static void test_no_descriptor_leaks(void **state)
{
    (void)state;
    device_create(&d);
    int before = open_fds();
    for (int i = 0; i < 3; i++) {
        driver_connect(&d);
        driver_negotiate(&d, ALL_FEATURES, ALL_FEATURES);
        assert_int_equal(set_memory(&d), 0);
        get_inflight(&d);
        assert_int_equal(set_inflight(&d), 0);
        ring_configure(&d, 0, 0);
        memset(guest(&d, RING(0)), 0, 65536);
        d.q[0].avail_idx = d.q[0].used_seen = d.q[0].next_desc = 0;
        io(&d, VIRTIO_BLK_T_IN, 1, DATA, 512);
        ring_configure(&d, 1, 0);
        close(d.inflight_fd);
        d.inflight_fd = -1;
        driver_disconnect(&d);
        assert_int_equal(open_fds(), before);
        memset(guest(&d, RING(0)), 0, 65536);
        d.q[0].avail_idx = d.q[0].used_seen = d.q[0].next_desc = 0;
    }
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_an_idle_ring_stops_at_once_and_goes_on),
        TEST(test_a_stop_waits_for_requests_that_end_soon),
        TEST(test_stuck_requests_are_abandoned_and_executed_again),
        TEST(test_an_abandoned_write_carries_the_data_it_was_given),
        TEST(test_without_inflight_region_the_answer_waits),
        TEST(test_qemu_goes_while_a_ring_stops),
        TEST(test_another_back_end_takes_over_in_order),
        TEST(test_death_between_publishing_and_striking_off),
        TEST(test_a_reset_guest_starts_from_nothing),
        TEST(test_a_smaller_ring_than_the_inflight_region),
        TEST(test_memory_changes_under_running_requests),
        TEST(test_memory_that_was_removed_is_out_of_reach),
        TEST(test_a_second_qemu_is_sent_away),
        TEST(test_abandoned_requests_are_limited),
        TEST(test_destroy_waits_for_the_session),
        TEST(test_destroy_of_an_unused_device),
        TEST(test_no_descriptor_leaks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
