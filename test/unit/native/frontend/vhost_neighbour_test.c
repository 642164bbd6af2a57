/* What a hostile guest or QEMU does to others: the worker is never held up, and the disks beside go on. */
#include "vhost_fixture.h"

/* QEMU holds the same open file: it may make it blocking, and its counter full. */
static void fill_and_block(int fd)
{
    assert_int_equal(fcntl(fd, F_SETFL, 0), 0);
    eventfd_t count = 0;
    struct pollfd p = {.fd = fd, .events = POLLIN};
    if (poll(&p, 1, 0) == 1)
        assert_int_equal(eventfd_read(fd, &count), 0);
    assert_int_equal(eventfd_write(fd, UINT64_MAX - 1), 0);
}

static void test_event_descriptors_that_block(void **state)
{
    (void)state;
    driver_start(&d, ALL_FEATURES & ~F(VIRTIO_RING_F_EVENT_IDX), 1);
    alarm(30); /* ends a worker that hangs */
    for (int i = 0; i < 100; i++) {
        fill_and_block(d.q[0].call);
        assert_int_equal(io(&d, VIRTIO_BLK_T_IN, 1, DATA, 512), VIRTIO_BLK_S_OK);
    }
    assert_true(stats_of(&d).calls >= 100);
    fill_and_block(d.q[0].err);
    make_available(&d, 0, 999);
    expect_broken("out of range");
    alarm(0);
}

/* A second disk of the same worker. */
static struct driver other;

static void start_both(void)
{
    driver_start(&d, ALL_FEATURES, 1);
    driver_init(&other);
    close(other.epoll_fd);
    other.epoll_fd = other.config.epoll_fd = d.epoll_fd;
    driver_start(&other, ALL_FEATURES, 1);
}

static void end_other(void)
{
    or_vhost_blk_destroy(other.dev, on_gone, &other.gone);
    assert_true(other.gone);
    other.dev = NULL;
    other.epoll_fd = dup(d.epoll_fd); /* the driver closes its own */
    driver_end(&other);
}

/* One iteration of their worker's loop, which takes few descriptors a time (RARE_BATCH of loop/engine.c). */
static void step_both(void)
{
    struct epoll_event e;
    for (int i = 0; i < 4 && epoll_wait(d.epoll_fd, &e, 1, 0) == 1; i++)
        ((struct or_fd_source *)e.data.ptr)->ready(e.data.ptr, e.events);
    struct driver *both[] = {&d, &other};
    for (int i = 0; i < 2; i++)
        or_vhost_blk_poll(both[i]->dev, ++both[i]->now);
    for (int i = 0; i < 2; i++)
        session_run(both[i]);
    for (int i = 0; i < 2; i++)
        or_vhost_blk_flush(both[i]->dev);
}

static void neighbour_works(void)
{
    uint16_t head = submit_io(&other, 0, VIRTIO_BLK_T_IN, 3, DATA, 4096);
    step_both();
    assert_int_equal(take_used(&other, 0), head);
    assert_true(guest_holds(&other, DATA, other.disk + 3 * 512, 4096));
}

static void test_a_broken_disk_harms_no_other(void **state)
{
    (void)state;
    start_both();
    neighbour_works();
    struct vring_desc loop = {HEADERS, 16, VRING_DESC_F_NEXT, 0};
    *desc_of(&d, 0, 0) = loop;
    make_available(&d, 0, 0);
    step_both();
    assert_int_equal(d.state, OR_VHOST_BROKEN);
    assert_non_null(strstr(d.reason, "loops"));
    neighbour_works();
    assert_int_equal(ftruncate(d.memfd, 0), 0);
    neighbour_works();
    assert_int_equal(other.state, OR_VHOST_RUNNING);
    end_other();
}

static void test_floods_do_not_starve_a_neighbour(void **state)
{
    (void)state;
    start_both();
    const struct or_vu_header message = {OR_VU_SET_OWNER, OR_VU_VERSION, 0};
    for (int i = 0; i < 2000; i++) {
        eventfd_write(d.q[0].kick, 1000000);
        for (int n = 0; n < 50; n++)
            (void)!send(d.sock, &message, sizeof(message), MSG_DONTWAIT | MSG_NOSIGNAL);
        neighbour_works(); /* within one iteration */
    }
    assert_int_equal(other.state, OR_VHOST_RUNNING);
    end_other();
}

static uint32_t take_all_used(uint32_t ring)
{
    uint32_t n = 0;
    while (take_used(&d, ring) >= 0)
        n++;
    return n;
}

/* What a guest has under way costs every new request of its time. */
static void test_requests_under_way_are_bounded(void **state)
{
    enum { PER_RING = 200, MOST = 256 };
    (void)state;
    device_create(&d);
    driver_connect(&d);
    driver_negotiate(&d, ALL_FEATURES, ALL_FEATURES);
    assert_int_equal(set_memory(&d), 0);
    for (uint32_t i = 0; i < QUEUES; i++) {
        d.q[i].size = 1024;
        ring_configure(&d, i, 0);
    }
    d.hold = true;
    for (uint32_t i = 0; i < QUEUES; i++)
        for (uint32_t n = 0; n < PER_RING; n++)
            submit_io(&d, i, VIRTIO_BLK_T_IN, n, DATA, 512);
    steps(&d, 20);
    assert_int_equal(session_pending(&d), MOST);
    assert_false(or_vhost_blk_arm(d.dev)); /* there is nothing to do until one of them ends */
    session_run(&d);
    or_vhost_blk_flush(d.dev);
    uint32_t ended[QUEUES];
    for (uint32_t i = 0; i < QUEUES; i++) {
        ended[i] = take_all_used(i);
        assert_int_equal(ended[i], MOST / QUEUES);
    }
    assert_true(or_vhost_blk_arm(d.dev));
    d.hold = false;
    steps(&d, 20);
    for (uint32_t i = 0; i < QUEUES; i++)
        assert_int_equal(ended[i] + take_all_used(i), PER_RING);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_event_descriptors_that_block),
        TEST(test_a_broken_disk_harms_no_other),
        TEST(test_floods_do_not_starve_a_neighbour),
        TEST(test_requests_under_way_are_bounded),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
