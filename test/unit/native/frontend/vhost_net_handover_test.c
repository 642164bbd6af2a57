/* A NIC that another engine goes on with, while QEMU and the guest notice nothing. The first engine is a process of
 * its own, so that its death is a real one; the store is a socket, which holds what was sent into it. */
#include "net_driver.h"

#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include "frontend/vhost_handover.h"

static struct nic_driver n;
static struct or_keep_snapshot snapshot;
static char path[108];
static int store[2]; /* the engine's end, ours */
static pid_t engine;
static uint8_t packet[OR_PACKET_MAX], frame[OR_PACKET_MAX];

/* Works, keeps the store up to date, and tells of what it sent by a byte. */
static void run_engine(int news)
{
    int err;
    uint32_t told = 0;
    static struct nic_driver mine;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    mine.d.epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    mine.d.work = nic_work;
    mine.config = n.config;
    mine.config.epoll_fd = mine.d.epoll_fd;
    mine.config.client = mine.config.arg = &mine;
    mine.config.listen_fd = or_vhost_listen(path, 0600);
    mine.dev = or_vhost_net_create(&mine.config, &err);
    for (;;) {
        step_wait(&mine.d, 1);
        if (or_vhost_net_changed(mine.dev) && or_vhost_net_save(mine.dev, &snapshot) &&
            or_keep_send(store[0], OR_KEEP_SNAPSHOT, NIC_DEVICE, &snapshot) == 0)
            or_vhost_net_saved(mine.dev);
        for (; told < mine.count; told++)
            if (write(news, "", 1) != 1)
                _exit(1);
    }
}

static int news[2];

static int setup(void **state)
{
    (void)state;
    nic_init(&n, 2);
    n.d.work = NULL; /* it works elsewhere */
    snprintf(path, sizeof(path), "/tmp/outrigger-handover-%d.sock", getpid());
    memcpy(n.config.path, path, sizeof(path));
    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, store), 0);
    assert_int_equal(pipe2(news, O_CLOEXEC), 0);
    engine = fork();
    if (engine == 0)
        run_engine(news[1]);
    n.d.address = (struct sockaddr_un){.sun_family = AF_UNIX};
    strcpy(n.d.address.sun_path, path);
    n.d.address_length = sizeof(n.d.address);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    kill(engine, SIGKILL);
    waitpid(engine, NULL, 0);
    nic_end(&n);
    for (int i = 0; i < 2; i++) {
        close(store[i]);
        close(news[i]);
    }
    unlink(path);
    return 0;
}

/* As driver_connect, with a device elsewhere. */
static void connect_nic(void)
{
    n.d.sock = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    int rc = -1;
    for (int i = 0; i < 10000 && rc < 0; i++) {
        rc = connect(n.d.sock, (void *)&n.d.address, n.d.address_length);
        if (rc < 0)
            usleep(1000);
    }
    assert_int_equal(rc, 0);
    driver_negotiate(&n.d, ALL_FEATURES, ALL_FEATURES);
    assert_int_equal(set_memory(&n.d), 0);
    for (uint32_t i = 0; i < 4; i++)
        ring_configure(&n.d, i, 0);
}

static void expect_news(int count)
{
    char byte;
    while (count-- > 0) {
        struct pollfd p = {.fd = news[0], .events = POLLIN};
        assert_int_equal(poll(&p, 1, 20000), 1);
        assert_int_equal(read(news[0], &byte, 1), 1);
    }
}

static void kick(uint32_t ring)
{
    assert_int_equal(eventfd_write(n.d.q[ring].kick, 1), 0);
}

/* Until the store has heard of all that was said before: the engine tells of a frame after it told the store. */
static void send_and_await(void)
{
    send_frame(&n, TX(0), 200);
    kick(TX(0));
    expect_news(1);
}

/* The store's latest. Older ones are closed. */
static void take_snapshot(void)
{
    static struct or_keep_snapshot next;
    bool have = false;
    assert_int_equal(fcntl(store[1], F_SETFL, O_NONBLOCK), 0);
    while (or_keep_receive(store[1], &next) == OR_KEEP_SNAPSHOT) {
        if (have)
            or_keep_close_fds(&snapshot);
        snapshot = next;
        have = true;
    }
    assert_true(have);
}

/* In this process. Returns why it could not go on. */
static const char *take_over(void)
{
    int err;
    n.d.work = nic_work;
    n.config.listen_fd = or_vhost_snapshot_listener(&snapshot, path);
    if (n.config.listen_fd < 0)
        n.config.listen_fd = or_vhost_listen(path, 0600);
    n.dev = or_vhost_net_create(&n.config, &err);
    assert_non_null(n.dev);
    const char *why = or_vhost_net_resume(n.dev, &snapshot);
    or_keep_close_fds(&snapshot);
    return why;
}

static void kill_engine(void)
{
    kill(engine, SIGKILL);
    assert_int_equal(waitpid(engine, NULL, 0), engine);
}

static void expect_both_ways(uint32_t pair)
{
    const struct virtio_net_hdr_v1 header = {0};
    uint32_t before = n.count;
    send_frame(&n, TX(pair), 1000);
    step(&n.d);
    assert_int_equal(n.count, before + 1);
    post_buffers(&n, RX(pair), 2, BUFFER_BYTES);
    or_vhost_net_receive(n.dev, packet, make_packet(packet, &header, 3000, pair));
    step(&n.d);
}

static void a_killed_engines_nic_goes_on_with_all_its_queues(void **state)
{
    (void)state;
    connect_nic();
    for (uint32_t pair = 0; pair < 2; pair++) {
        for (int i = 0; i < 5; i++)
            send_frame(&n, TX(pair), 200);
        kick(TX(pair));
    }
    expect_news(10);
    kill_engine();
    for (uint32_t pair = 0; pair < 2; pair++)
        for (int i = 0; i < 3; i++)
            send_frame(&n, TX(pair), 300 + (uint32_t)i); /* while nobody is there */
    take_snapshot();
    assert_null(take_over());
    assert_int_equal(n.d.state, OR_VHOST_RUNNING);
    assert_true(n.features & F(VIRTIO_NET_F_MRG_RXBUF));
    steps(&n.d, 3);
    /* Nothing that was given back is sent again, and nothing is missing. */
    assert_int_equal(n.count, 6);
    assert_int_equal(used_of(&n.d, TX(0))->idx, 8);
    assert_int_equal(used_of(&n.d, TX(1))->idx, 8);
    for (uint32_t pair = 0; pair < 2; pair++)
        expect_both_ways(pair);
    struct virtio_net_hdr_v1 header;
    assert_int_equal(take_packet(&n, RX(0), &header, frame), 3000);
    /* QEMU's connection lives, and messages are answered. */
    struct or_vu_vring_state s = {.index = TX(0)};
    assert_true(vu_send(&n.d, OR_VU_GET_VRING_BASE, 0, &s, sizeof(s), NULL, 0));
    assert_int_equal(vu_reply(&n.d, OR_VU_GET_VRING_BASE, &s, sizeof(s), NULL), sizeof(s));
    assert_int_equal(s.num, 9);
}

static void a_nic_with_another_mtu_hangs_up(void **state)
{
    (void)state;
    connect_nic();
    send_and_await();
    kill_engine();
    take_snapshot();
    n.config.mtu = 1500;
    assert_non_null(strstr(take_over(), "other properties"));
    struct pollfd p = {.fd = n.d.sock, .events = POLLRDHUP};
    assert_int_equal(poll(&p, 1, 1000), 1);
}

static void a_nic_that_is_down_takes_nothing_over(void **state)
{
    (void)state;
    connect_nic();
    send_and_await();
    kill_engine();
    take_snapshot();
    int err;
    n.config.listen_fd = -1;
    n.dev = or_vhost_net_create(&n.config, &err);
    assert_string_equal(or_vhost_net_resume(n.dev, &snapshot), "the link is down");
    or_keep_close_fds(&snapshot);
    struct pollfd p = {.fd = n.d.sock, .events = POLLRDHUP};
    assert_int_equal(poll(&p, 1, 1000), 1);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(connect(fd, (void *)&n.d.address, n.d.address_length), -1);
    close(fd);
}

#define TEST(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_killed_engines_nic_goes_on_with_all_its_queues),
        TEST(a_nic_with_another_mtu_hangs_up),
        TEST(a_nic_that_is_down_takes_nothing_over),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
