/* What only an AF_XDP port does: who gets which frames of an interface, and what becomes of the XDP program when
 * ports follow one another. The tests of every port are port_test.c and port_filter_test.c. Needs root, and skips
 * without. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>
#include <errno.h>
#include <linux/capability.h>
#include <net/if.h>
#include <poll.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "segment.h"
#include "transport/port_xdp_socket.h"
#include "wire/wire.h"

#define WAIT_MS_MAX 20000
#define SESSION 7

static const struct or_port_door door = {.types = (1u << OR_FRAME_MAX) - 2, .sessions_max = 4, .channel = 0};

/* ---- frames ---- */

static void send_data(const struct segment *s, uint32_t session, uint32_t length)
{
    struct or_port *from = s->port[LEFT];
    uint8_t *frame = or_port_tx_begin(from, s->port[RIGHT]->mac);
    struct or_frame_header *h = (void *)(frame + OR_ETH_HEADER);
    memset(h, 0, length - OR_ETH_HEADER);
    h->version = OR_WIRE_VERSION;
    h->type = OR_FRAME_DATA;
    h->session = session;
    or_port_tx_commit(from, length);
    or_port_tx_flush(from);
}

static void count_frame(void *arg, const uint8_t *frame, uint32_t length)
{
    (void)frame;
    (void)length;
    ++*(uint32_t *)arg;
}

/* Waits for `count` frames. */
static void receive(struct or_port *port, uint32_t count)
{
    uint32_t frames = 0;
    while (frames < count) {
        struct pollfd p = {.fd = port->fd, .events = POLLIN};
        assert_int_equal(poll(&p, 1, WAIT_MS_MAX), 1);
        or_port_rx_burst(port, 64, count_frame, &frames);
    }
    assert_int_equal(frames, count);
}

/* On an interface of the namespace that we are in. */
static struct or_port *open_packet_port(const char *ifname)
{
    int err;
    char why[512] = "";
    struct or_port *port = or_port_packet_open(ifname, ETHERTYPE, 0, OR_SUPER_FRAMES_OFF, &err, why, sizeof why);
    if (!port)
        fail_msg("%s", why);
    return port;
}

static struct segment open_filtered(uint32_t mtu)
{
    struct segment s = open_segment(mtu);
    char why[512];
    assert_int_equal(or_port_set_filter(s.port[RIGHT], &door, why, sizeof why), 0);
    assert_int_equal(or_port_allow(s.port[RIGHT], SESSION), 0);
    return s;
}

static void until_attached(const struct segment *s, enum side side)
{
    enter(s, side);
    for (int ms = 0; !s->port[side]->xdp.queues; ms += 10) {
        assert_true(ms < WAIT_MS_MAX);
        usleep(10000);
        or_port_refresh(s->port[side]);
    }
    assert_false(or_port_xdp_waits(&s->port[side]->xdp));
}

/* ---- tests ---- */

static void only_frames_of_its_sessions_are_taken_from_the_kernel(void **state)
{
    (void)state;
    struct segment s = open_filtered(1500);
    struct or_port *beside = open_port(&s, RIGHT, ETHERTYPE, 0); /* receives what the program passes on */
    assert_int_equal(beside->xdp.queues, 0);
    for (int i = 0; i < 10; i++) {
        send_data(&s, SESSION, 100);
        send_data(&s, SESSION + 1, 100);
    }
    receive(beside, 10);
    receive(s.port[RIGHT], 10 + 1); /* one as a sample of those without a session */
    assert_int_equal(or_port_stats(s.port[RIGHT]).rx_filtered, 9);
    or_port_close(beside);
    close_segment(&s);
}

/* Whoever speaks our protocol on an interface on top of ours may have sessions of the same numbers. */
static void frames_to_another_address_of_the_interface_are_not_touched(void **state)
{
    (void)state;
    struct segment s = open_filtered(9000);
    struct or_port *ours = s.port[RIGHT];
    run(&s, RIGHT, "ip link add link right name above mtu 9000 type macvlan && ip link set above up");
    struct or_port *above = open_packet_port("above");
    char why[512];
    assert_int_equal(or_port_set_filter(above, &door, why, sizeof why), 0);
    assert_int_equal(or_port_allow(above, SESSION), 0);
    s.port[RIGHT] = above;
    for (int i = 0; i < 10; i++)
        send_data(&s, SESSION, 9014);
    receive(above, 10);
    assert_int_equal(or_port_rx_burst(ours, 64, count_frame, &(uint32_t){0}), 0);
    s.port[RIGHT] = ours;
    or_port_close(above);
    close_segment(&s);
}

static void it_follows_another_address_of_the_interface(void **state)
{
    (void)state;
    struct segment s = open_filtered(1500);
    run(&s, RIGHT, "ip link set right address 02:00:00:00:00:77");
    enter(&s, RIGHT);
    assert_true(or_port_refresh(s.port[RIGHT]));
    struct or_port *beside = open_packet_port("right"); /* gets what the program does not take */
    for (int i = 0; i < 10; i++)
        send_data(&s, SESSION, 100);
    receive(s.port[RIGHT], 10);
    assert_int_equal(or_port_rx_burst(beside, 64, count_frame, &(uint32_t){0}), 0);
    or_port_close(beside);
    close_segment(&s);
}

static void other_traffic_of_the_interface_is_not_touched(void **state)
{
    (void)state;
    struct segment s = open_filtered(9000);
    run(&s, LEFT, "ip address add 10.9.9.1/24 dev left");
    run(&s, RIGHT, "ip address add 10.9.9.2/24 dev right");
    run(&s, LEFT, "ping -q -c 3 -i 0.01 -s 8000 -w 20 10.9.9.2 >/dev/null");
    run(&s, RIGHT, "ping -q -c 3 -i 0.01 -w 20 10.9.9.1 >/dev/null");
    close_segment(&s);
}

static void a_second_port_works_without_the_program_until_the_first_is_closed(void **state)
{
    (void)state;
    struct segment s = open_filtered(9000);
    struct or_port *first = s.port[RIGHT];
    s.port[RIGHT] = open_port(&s, RIGHT, ETHERTYPE, 0);
    char why[512];
    assert_int_equal(or_port_set_filter(s.port[RIGHT], &door, why, sizeof why), 0);
    assert_int_equal(or_port_allow(s.port[RIGHT], SESSION + 1), 0);
    assert_int_equal(s.port[RIGHT]->xdp.queues, 0);
    assert_true(or_port_xdp_waits(&s.port[RIGHT]->xdp));
    for (int i = 0; i < 10; i++)
        send_data(&s, SESSION + 1, 9014); /* of a session that only the second one has */
    receive(s.port[RIGHT], 10);

    or_port_close(first);
    until_attached(&s, RIGHT);
    uint64_t before = or_port_stats(s.port[RIGHT]).rx_frames;
    for (int i = 0; i < 10; i++)
        send_data(&s, SESSION + 1, 9014);
    receive(s.port[RIGHT], 10);
    assert_int_equal(or_port_stats(s.port[RIGHT]).rx_frames, before + 10);
    close_segment(&s);
}

/* The sockets of a predecessor outlive its program for a while. */
static void it_goes_on_when_a_queue_becomes_free(void **state)
{
    (void)state;
    struct segment s = lay_link(9000);
    struct or_xdp_socket other;
    enter(&s, RIGHT);
    struct or_xdp_socket_config config = {
        .ifindex = if_nametoindex("right"), .frame_max = 1514, .rx_frames = 64, .copy = true};
    assert_int_equal(or_xdp_socket_open(&other, &config), 0);
    s.port[RIGHT] = open_port(&s, RIGHT, ETHERTYPE, 0);
    s.port[LEFT] = open_port(&s, LEFT, ETHERTYPE, 0);
    assert_int_equal(s.port[RIGHT]->xdp.form, OR_XDP_BUSY);
    assert_int_equal(s.port[RIGHT]->xdp.queues, 0);
    for (int i = 0; i < 10; i++)
        send_data(&s, SESSION, 9014);
    receive(s.port[RIGHT], 10);
    or_xdp_socket_close(&other);
    until_attached(&s, RIGHT);
    for (int i = 0; i < 10; i++)
        send_data(&s, SESSION, 9014);
    receive(s.port[RIGHT], 10);
    close_segment(&s);
}

static void the_program_ends_with_a_process_that_is_killed(void **state)
{
    (void)state;
    struct segment s = lay_link(9000);
    int ready[2];
    char byte;
    assert_int_equal(pipe(ready), 0);
    pid_t child = fork();
    if (child == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL); /* should this test fail */
        struct or_port *port = open_port(&s, RIGHT, ETHERTYPE, 0);
        byte = (char)port->xdp.queues;
        if (write(ready[1], &byte, 1) == 1)
            pause();
        _exit(1);
    }
    assert_int_equal(read(ready[0], &byte, 1), 1);
    assert_int_equal(byte, 1);
    s.port[RIGHT] = open_port(&s, RIGHT, ETHERTYPE, 0);
    assert_int_equal(s.port[RIGHT]->xdp.form, OR_XDP_BUSY);
    kill(child, SIGKILL);
    assert_int_equal(waitpid(child, NULL, 0), child);
    /* Without our doing. */
    run(&s, RIGHT, "for i in $(seq 200); do ip -d link show right | grep -q xdp || exit 0; sleep 0.1; done; exit 1");
    until_attached(&s, RIGHT);
    s.port[LEFT] = open_port(&s, LEFT, ETHERTYPE, 0);
    send_data(&s, SESSION, 9014);
    receive(s.port[RIGHT], 1);
    or_port_close(s.port[RIGHT]);
    s.port[RIGHT] = NULL;
    run(&s, RIGHT, "! ip -d link show right | grep -q xdp");
    close(ready[0]);
    close(ready[1]);
    close_segment(&s);
}

static void it_comes_back_with_an_interface_that_is_made_again(void **state)
{
    (void)state;
    struct segment s = open_filtered(9000);
    run(&s, LEFT, "ip link del left");
    enter(&s, RIGHT);
    assert_true(or_port_refresh(s.port[RIGHT]));
    assert_true(s.port[RIGHT]->down);
    assert_int_equal(s.port[RIGHT]->xdp.queues, 0);
    or_port_close(s.port[LEFT]);
    run(&s, LEFT, "ip link add left mtu 9000 type veth peer name right mtu 9000 netns /proc/%d/fd/%d", getpid(),
        s.namespace_fd[RIGHT]);
    run(&s, RIGHT, "ip link set right up");
    run(&s, LEFT, "ip link set left up");
    s.port[LEFT] = open_port(&s, LEFT, ETHERTYPE, 0);
    until_attached(&s, RIGHT);
    for (int i = 0; i < 10; i++)
        send_data(&s, SESSION, 9014);
    receive(s.port[RIGHT], 10);
    assert_int_equal(or_port_stats(s.port[RIGHT]).rx_filtered, 0);
    close_segment(&s);
}

/* Its memory was made for smaller frames. */
static void it_follows_an_mtu_that_grows(void **state)
{
    (void)state;
    struct segment s = lay_link(1500);
    for (enum side side = LEFT; side <= RIGHT; side++)
        s.port[side] = open_port(&s, side, ETHERTYPE, 0);
    for (enum side side = LEFT; side <= RIGHT; side++)
        run(&s, side, "ip link set %s mtu 9000", link_name[side]);
    for (enum side side = LEFT; side <= RIGHT; side++) {
        enter(&s, side);
        assert_true(or_port_refresh(s.port[side]));
        until_attached(&s, side);
    }
    send_data(&s, SESSION, 9014);
    receive(s.port[RIGHT], 1);
    close_segment(&s);
}

/* As on a macvlan. */
static void where_the_driver_has_no_xdp_the_kernel_does_it(void **state)
{
    (void)state;
    struct segment s = lay_link(9000);
    run(&s, RIGHT,
        "ip link set right name below && ip link set below up && "
        "ip link add link below name right mtu 9000 type macvlan && ip link set right up");
    for (enum side side = LEFT; side <= RIGHT; side++)
        s.port[side] = open_port(&s, side, ETHERTYPE, 0);
    assert_int_equal(s.port[LEFT]->xdp.form, OR_XDP_COPIED_PIECES);
    assert_int_equal(s.port[RIGHT]->xdp.form, OR_XDP_GENERIC);
    struct or_port *beside = open_packet_port("right"); /* gets what the program does not take */
    for (int i = 0; i < 10; i++)
        send_data(&s, SESSION, 9014);
    receive(s.port[RIGHT], 10);
    assert_int_equal(or_port_rx_burst(beside, 64, count_frame, &(uint32_t){0}), 0);
    or_port_close(beside);
    close_segment(&s);
}

static void it_says_how_frames_travel(void **state)
{
    (void)state;
    static const struct {
        uint32_t mtu;
        enum or_xdp_form form;
    } cases[] = {
        {1500, OR_XDP_COPIED}, {OR_XDP_SMALL_MTU_MAX, OR_XDP_COPIED}, {OR_XDP_SMALL_MTU_MAX + 1, OR_XDP_COPIED_PIECES}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct segment s = open_segment(cases[i].mtu);
        assert_int_equal(s.port[LEFT]->xdp.form, cases[i].form);
        assert_int_equal(s.port[LEFT]->xdp.zero_copy_queues, 0); /* veth has no zero-copy */
        send_data(&s, SESSION, OR_ETH_HEADER + cases[i].mtu);
        receive(s.port[RIGHT], 1);
        close_segment(&s);
    }
}

/* Each processor sends into a queue of its own. */
static void every_queue_of_the_interface_is_served(void **state)
{
    (void)state;
    struct segment s = {.namespace_fd = {new_namespace(), new_namespace()}};
    run(&s, LEFT,
        "ip link add left mtu 9000 numtxqueues 20 type veth peer name right mtu 9000 numrxqueues 20 netns "
        "/proc/%d/fd/%d",
        getpid(), s.namespace_fd[RIGHT]);
    run(&s, RIGHT, "ip link set right up && ethtool -L right rx 20");
    run(&s, LEFT, "ip link set left up && ethtool -L left tx 20");
    opener = or_port_packet_open; /* chooses the queue by the processor that it runs on */
    s.port[LEFT] = open_port(&s, LEFT, ETHERTYPE, 0);
    opener = or_port_xdp_open;
    s.port[RIGHT] = open_port(&s, RIGHT, ETHERTYPE, 0);
    assert_int_equal(s.port[RIGHT]->xdp.queues, 16);
    cpu_set_t all;
    assert_int_equal(sched_getaffinity(0, sizeof all, &all), 0);
    for (int cpu = 0; cpu < CPU_SETSIZE; cpu++) {
        cpu_set_t one;
        CPU_ZERO(&one);
        CPU_SET(cpu, &one);
        if (!CPU_ISSET(cpu, &all))
            continue;
        assert_int_equal(sched_setaffinity(0, sizeof one, &one), 0);
        for (int i = 0; i < 10; i++)
            send_data(&s, SESSION, 9014);
        receive(s.port[RIGHT], 10);
    }
    assert_int_equal(sched_setaffinity(0, sizeof all, &all), 0);
    close_segment(&s);
}

/* ---- what the operator reads ---- */

/* Opens a port in a process with these capabilities only, which may lock `memlock` bytes. */
static void assert_refused(uint64_t capabilities, rlim_t memlock, int error, const char *sentence)
{
    struct segment s = lay_link(9000);
    struct report {
        int err;
        char why[512];
    } *report = mmap(NULL, sizeof *report, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    assert_ptr_not_equal(report, MAP_FAILED);
    enter(&s, RIGHT);
    pid_t child = fork();
    if (child == 0) {
        struct rlimit limit = {memlock, memlock};
        struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
        struct __user_cap_data_struct data[2] = {
            {.effective = (uint32_t)capabilities, .permitted = (uint32_t)capabilities},
            {.effective = (uint32_t)(capabilities >> 32), .permitted = (uint32_t)(capabilities >> 32)},
        };
        _exit(setrlimit(RLIMIT_MEMLOCK, &limit) || syscall(SYS_capset, &header, data) ||
              or_port_xdp_open("right", ETHERTYPE, 0, OR_SUPER_FRAMES_AUTO, &report->err, report->why,
                               sizeof report->why));
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    assert_string_equal(report->why, sentence);
    assert_int_equal(report->err, -error);
    munmap(report, sizeof *report);
    close_segment(&s);
}

#define CAPABILITY(name) (1ull << (name))

static void missing_capabilities_are_named(void **state)
{
    (void)state;
    assert_refused(CAPABILITY(CAP_NET_RAW), 1 << 20, EPERM,
                   "an AF_XDP port on right needs CAP_NET_ADMIN, CAP_NET_RAW and CAP_BPF: run as root, or give the "
                   "systemd unit AmbientCapabilities with these; or set port.mode to packet");
}

static void memory_that_may_not_be_locked_is_named(void **state)
{
    (void)state;
    assert_refused(CAPABILITY(CAP_NET_RAW) | CAPABILITY(CAP_NET_ADMIN) | CAPABILITY(CAP_BPF), 1 << 20, ENOBUFS,
                   "the memory of an AF_XDP port on right may not be locked: give the systemd unit "
                   "LimitMEMLOCK=infinity, or set port.mode to packet");
}

static void super_frames_that_are_demanded_are_refused(void **state)
{
    (void)state;
    char why[512];
    int err;
    assert_null(or_port_xdp_open("lo", ETHERTYPE, 0, OR_SUPER_FRAMES_ON, &err, why, sizeof why));
    assert_int_equal(err, -EINVAL);
    assert_string_equal(why, "an AF_XDP port, as on lo, has no super-frames: set port.super_frames to auto or off, or "
                             "port.mode to packet");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(only_frames_of_its_sessions_are_taken_from_the_kernel),
        cmocka_unit_test(frames_to_another_address_of_the_interface_are_not_touched),
        cmocka_unit_test(it_follows_another_address_of_the_interface),
        cmocka_unit_test(other_traffic_of_the_interface_is_not_touched),
        cmocka_unit_test(a_second_port_works_without_the_program_until_the_first_is_closed),
        cmocka_unit_test(it_goes_on_when_a_queue_becomes_free),
        cmocka_unit_test(the_program_ends_with_a_process_that_is_killed),
        cmocka_unit_test(it_comes_back_with_an_interface_that_is_made_again),
        cmocka_unit_test(it_follows_an_mtu_that_grows),
        cmocka_unit_test(where_the_driver_has_no_xdp_the_kernel_does_it),
        cmocka_unit_test(it_says_how_frames_travel),
        cmocka_unit_test(every_queue_of_the_interface_is_served),
        cmocka_unit_test(missing_capabilities_are_named),
        cmocka_unit_test(memory_that_may_not_be_locked_is_named),
        cmocka_unit_test(super_frames_that_are_demanded_are_refused),
    };
    if (unshare(CLONE_NEWNET) != 0) {
        printf("skipped: making network namespaces needs root (unshare: %s)\n", strerror(errno));
        return 0;
    }
    opener = or_port_xdp_open;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
