/* The ports over real links, AF_PACKET and AF_XDP:
 *
 *     network namespace A                    network namespace B
 *     port A ── veth "left" ══════════════ veth "right" ── port B
 *
 * The namespaces have no names: only descriptors of this process hold them, so they and the links in
 * them vanish with it, however it ends. Needs root, and skips without. Nothing here depends on how
 * fast frames arrive; waits end with what is waited for, or fail after WAIT_MS_MAX. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "loop/fd_source.h"
#include "segment.h"
#include "transport/envelope.h"
#include "wire/wire.h"

#define WAIT_MS_MAX 20000
#define FRAME_MAX (14 + 65535)

static const uint32_t mtus[] = {1500, 9000, 65535};
#define MTUS (sizeof(mtus) / sizeof(mtus[0]))

/* What a port has of a link's MTU. */
static uint32_t port_mtu(uint32_t link_mtu)
{
    uint32_t most = or_envelope_segment_max(link_mtu);
    bool envelopes = segment_super_frames != OR_SUPER_FRAMES_OFF && most >= OR_MTU_MIN;
    return envelopes ? most : link_mtu;
}

/* ---- frames of which every byte follows from a number ---- */

/* Those that are long enough are data frames, which may share an envelope. */
#define NUMBER_AT 16
#define SHORTEST_DATA (OR_ETH_HEADER + (uint32_t)sizeof(struct or_frame_header))

static uint32_t frame_length(const struct or_port *port, uint32_t number)
{
    const uint32_t lengths[] = {18, 54, 60, 61, 128, 14 + 1500, 14 + port->mtu / 2, 13 + port->mtu, 14 + port->mtu};
    uint32_t kinds = sizeof(lengths) / sizeof(lengths[0]);
    if (number % 16 < kinds)
        return lengths[number % 16];
    return 18 + (number * 2654435761u >> 8) % (port->mtu - 3);
}

static uint32_t write_frame(uint8_t *frame, const struct or_port *from, const uint8_t to[6], uint32_t number)
{
    uint32_t length = frame_length(from, number);
    memcpy(frame, to, 6);
    memcpy(frame + 6, from->mac, 6);
    frame[12] = (uint8_t)(from->ethertype >> 8);
    frame[13] = (uint8_t)from->ethertype;
    frame[14] = OR_WIRE_VERSION;
    frame[15] = OR_FRAME_DATA;
    assert_true(number <= UINT16_MAX);
    memcpy(frame + NUMBER_AT, &number, 2);
    for (uint32_t i = 18; i < length; i++)
        frame[i] = (uint8_t)(number * 31 + i + (i >> 8));
    if (length >= SHORTEST_DATA) {
        struct or_frame_header *h = (void *)(frame + OR_ETH_HEADER);
        h->session = 1;
        h->length = (uint16_t)(length - OR_ETH_HEADER);
    }
    return length;
}

static void queue_frame(struct or_port *from, const struct or_port *to, uint32_t number)
{
    uint32_t length = write_frame(or_port_tx_alloc(from), from, to->mac, number);
    or_port_tx_commit_as(from, length, length >= SHORTEST_DATA ? OR_TX_MERGE : OR_TX_PLAIN);
}

static void send_frame(struct or_port *from, const struct or_port *to, uint32_t number)
{
    queue_frame(from, to, number);
    or_port_tx_flush(from);
}

/* Receives at `to`, and checks each frame against the one that `from` made. Numbers may be missing but
 * never go back. */
struct receiver {
    struct or_port *from, *to;
    uint32_t frames, next_number;
};

static void check_frame(void *arg, const uint8_t *frame, uint32_t length)
{
    static uint8_t expected[FRAME_MAX];
    struct receiver *receiver = arg;
    uint16_t number;
    assert_true(length >= 18);
    assert_int_equal((uintptr_t)(frame + 14) % 64, 0);
    memcpy(&number, frame + NUMBER_AT, 2);
    assert_true(number >= receiver->next_number);
    assert_int_equal(length, write_frame(expected, receiver->from, receiver->to->mac, number));
    assert_memory_equal(frame, expected, length);
    receiver->next_number = number + 1u;
    receiver->frames++;
}

static uint32_t receive(struct receiver *receiver, uint32_t max)
{
    return or_port_rx_burst(receiver->to, max, check_frame, receiver);
}

static void receive_up_to(struct receiver *receiver, uint32_t next_number)
{
    while (receiver->next_number < next_number) {
        struct pollfd p = {.fd = receiver->to->fd, .events = POLLIN};
        assert_int_equal(poll(&p, 1, WAIT_MS_MAX), 1);
        receive(receiver, 16);
    }
}

/* ---- tests ---- */

static void frames_arrive_whole_and_in_order_both_ways(void **state)
{
    (void)state;
    for (size_t m = 0; m < MTUS; m++) {
        struct segment s = open_segment(mtus[m]);
        assert_int_equal(s.port[LEFT]->mtu, port_mtu(mtus[m]));
        assert_true(s.port[LEFT]->rx_frames >= (mtus[m] == 65535 ? 32 : 128));
        for (enum side from = LEFT; from <= RIGHT; from++) {
            struct receiver receiver = {.from = s.port[from], .to = s.port[1 - from]};
            uint32_t sent = 0;
            uint64_t bytes = 0;
            /* Batches of every size up to more than one system call takes; several times round the ring. */
            for (uint32_t batch = 1; sent < 1000; batch = batch % 40 + 1) {
                for (uint32_t i = 0; i < batch; i++) {
                    bytes += frame_length(receiver.from, sent);
                    queue_frame(receiver.from, receiver.to, sent++);
                }
                or_port_tx_flush(receiver.from);
                receive_up_to(&receiver, sent);
            }
            assert_int_equal(receiver.frames, sent);
            assert_int_equal(or_port_stats(receiver.from).tx_frames, sent);
            assert_int_equal(or_port_stats(receiver.from).tx_bytes, bytes);
            assert_int_equal(or_port_stats(receiver.from).tx_dropped, 0);
            assert_int_equal(or_port_stats(receiver.to).rx_frames, sent);
            assert_int_equal(or_port_stats(receiver.to).rx_bytes, bytes);
            assert_int_equal(or_port_stats(receiver.to).rx_dropped, 0);
        }
        close_segment(&s);
    }
}

static void a_batch_may_exceed_what_one_flush_takes(void **state)
{
    (void)state;
    struct segment s = open_segment(9000);
    struct receiver receiver = {.from = s.port[LEFT], .to = s.port[RIGHT]};
    for (uint32_t i = 0; i < 100; i++)
        queue_frame(s.port[LEFT], s.port[RIGHT], i);
    or_port_tx_flush(s.port[LEFT]);
    receive_up_to(&receiver, 100);
    assert_int_equal(receiver.frames, 100);
    bool envelopes = s.port[LEFT]->envelopes == OR_ENVELOPES_READY;
    uint32_t opening = envelopes ? 2 : 1, batch = is_xdp() ? 16 : 65536 / 9000;
    uint32_t calls = opening + (100 + batch - 1) / batch;
    /* With AF_XDP the kernel takes 32 pieces of frames in a call. */
    assert_in_range(or_port_stats(s.port[LEFT]).syscalls, calls, is_xdp() ? 2 * calls : calls);
    assert_int_equal(or_port_stats(s.port[RIGHT]).syscalls, opening); /* receiving costs none */
    close_segment(&s);
}

static void a_buffer_not_committed_is_handed_out_again(void **state)
{
    (void)state;
    struct segment s = open_segment(1500);
    assert_ptr_equal(or_port_tx_alloc(s.port[LEFT]), or_port_tx_alloc(s.port[LEFT]));
    close_segment(&s);
}

/* Sends frames to foreign addresses, then one that is for the receiver: it alone arrives. */
static void frames_for_others_are_not_delivered(void **state)
{
    (void)state;
    struct segment s = open_segment(1500);
    struct receiver receiver = {.from = s.port[LEFT], .to = s.port[RIGHT]};
    uint8_t other[6], multicast[6] = {0x01, 0x00, 0x5e, 0, 0, 1};
    memcpy(other, s.port[RIGHT]->mac, 6);
    other[5] ^= 1;
    run(&s, RIGHT, "ip link set right promisc on");
    or_port_tx_commit(s.port[LEFT], write_frame(or_port_tx_alloc(s.port[LEFT]), s.port[LEFT], other, 0));
    or_port_tx_commit(s.port[LEFT], write_frame(or_port_tx_alloc(s.port[LEFT]), s.port[LEFT], multicast, 1));
    send_frame(s.port[LEFT], s.port[RIGHT], 2);
    receive_up_to(&receiver, 3);
    assert_int_equal(receiver.frames, 1);
    assert_int_equal(or_port_stats(s.port[RIGHT]).rx_frames, 1);
    assert_int_equal(receive(&receiver, 16), 0); /* nor does the sender see its own */
    assert_int_equal(or_port_rx_burst(s.port[LEFT], 16, check_frame, &receiver), 0);
    close_segment(&s);
}

static void note_destination(void *arg, const uint8_t *frame, uint32_t length)
{
    assert_true(length >= 14);
    memcpy(arg, frame, 6);
}

static void broadcasts_are_delivered(void **state)
{
    (void)state;
    struct segment s = open_segment(1500);
    const uint8_t broadcast[6] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff};
    uint8_t destination[6] = {0};
    or_port_tx_commit(s.port[LEFT], write_frame(or_port_tx_alloc(s.port[LEFT]), s.port[LEFT], broadcast, 0));
    or_port_tx_flush(s.port[LEFT]);
    struct pollfd p = {.fd = s.port[RIGHT]->fd, .events = POLLIN};
    assert_int_equal(poll(&p, 1, WAIT_MS_MAX), 1);
    assert_int_equal(or_port_rx_burst(s.port[RIGHT], 16, note_destination, destination), 1);
    assert_memory_equal(destination, broadcast, 6);
    close_segment(&s);
}

static void ports_of_different_ethertypes_share_a_link(void **state)
{
    (void)state;
    struct segment s = open_segment(1500);
    struct or_port *other[2] = {open_port(&s, LEFT, 0x88B6, 0), open_port(&s, RIGHT, 0x88B6, 0)};
    struct receiver receiver = {.from = s.port[LEFT], .to = s.port[RIGHT]};
    struct receiver other_receiver = {.from = other[LEFT], .to = other[RIGHT]};
    for (uint32_t i = 0; i < 20; i++)
        send_frame(i % 2 ? s.port[LEFT] : other[LEFT], s.port[RIGHT], i);
    receive_up_to(&other_receiver, 19);
    receive_up_to(&receiver, 20);
    assert_int_equal(receiver.frames, 10);
    assert_int_equal(other_receiver.frames, 10);
    or_port_close(other[LEFT]);
    or_port_close(other[RIGHT]);
    close_segment(&s);
}

/* At the receiver, and with AF_XDP in the link itself, which has a ring of its own then. */
static uint64_t lost(const struct receiver *receiver)
{
    return or_port_stats(receiver->to).rx_dropped + or_port_stats(receiver->from).tx_dropped;
}

/* What follows a loss tells of it: sends single frames until all that were sent are accounted for. */
static void settle(struct receiver *receiver, uint32_t *sent)
{
    for (int tries = 0; receiver->frames + lost(receiver) != *sent; tries++) {
        struct pollfd p = {.fd = receiver->to->fd, .events = POLLIN};
        assert_true(tries < 100);
        send_frame(receiver->from, receiver->to, (*sent)++);
        poll(&p, 1, WAIT_MS_MAX / 100);
        while (receive(receiver, 16) > 0)
            ;
    }
}

/* The frames that fitted are intact and in order, the others are counted, and traffic goes on. */
static void a_burst_beyond_the_ring_is_dropped_and_counted(void **state)
{
    (void)state;
    for (size_t m = 0; m < MTUS; m++) {
        struct segment s = open_segment(mtus[m]);
        struct receiver receiver = {.from = s.port[LEFT], .to = s.port[RIGHT]};
        uint32_t sent = 0, ring = s.port[RIGHT]->rx_frames;
        for (uint32_t round = 1; round <= 3; round++) {
            uint64_t dropped = or_port_stats(s.port[RIGHT]).rx_dropped;
            /* With AF_XDP small frames take less room than large ones: more of them are needed. */
            for (uint32_t i = 0;
                 i < 2 * ring + 7 || (is_xdp() && i < 100 * ring && or_port_stats(s.port[RIGHT]).rx_dropped == dropped);
                 i++)
                queue_frame(s.port[LEFT], s.port[RIGHT], sent++);
            or_port_tx_flush(s.port[LEFT]);
            settle(&receiver, &sent);
            assert_true(receiver.frames >= round * ring);
            assert_true(or_port_stats(s.port[RIGHT]).rx_dropped > dropped);
        }
        assert_true(is_xdp() || or_port_stats(s.port[LEFT]).tx_dropped == 0);
        close_segment(&s);
    }
}

/* While it looks at a frame, its sender overruns the ring. */
static void look_while_ring_overflows(void *arg, const uint8_t *frame, uint32_t length)
{
    struct receiver *receiver = arg;
    check_frame(receiver, frame, length);
    for (uint32_t i = 0; i < 2 * receiver->to->rx_frames; i++)
        queue_frame(receiver->from, receiver->to, 1000 + i);
    or_port_tx_flush(receiver->from);
    receiver->next_number = 0;
    check_frame(receiver, frame, length);
}

static void a_frame_is_stable_while_its_handler_runs(void **state)
{
    (void)state;
    struct segment s = open_segment(9000);
    struct receiver receiver = {.from = s.port[LEFT], .to = s.port[RIGHT]};
    send_frame(s.port[LEFT], s.port[RIGHT], 1);
    struct pollfd p = {.fd = s.port[RIGHT]->fd, .events = POLLIN};
    assert_int_equal(poll(&p, 1, WAIT_MS_MAX), 1);
    assert_int_equal(or_port_rx_burst(s.port[RIGHT], 1, look_while_ring_overflows, &receiver), 1);
    assert_int_equal(receiver.frames, 2);
    close_segment(&s);
}

static void count_ready(struct or_fd_source *source, uint32_t events)
{
    (void)source;
    (void)events;
}

/* Bursts until the descriptor is quiet; one that never gets there would keep a sleeping loop awake. */
static void assert_goes_to_sleep(struct or_port *port)
{
    struct or_fd_source source = {.ready = count_ready, .fd = port->fd};
    struct receiver none = {.to = port};
    struct epoll_event event;
    int epoll_fd = epoll_create1(EPOLL_CLOEXEC), wakeups = 0;
    assert_int_equal(or_fd_source_add(epoll_fd, &source, EPOLLIN), 0);
    assert_int_equal(or_fd_source_add(epoll_fd, &source, EPOLLIN), -EEXIST);
    while (epoll_wait(epoll_fd, &event, 1, 0) == 1) {
        assert_ptr_equal(event.data.ptr, &source);
        assert_int_equal(receive(&none, 16), 0);
        assert_true(++wakeups <= 2000);
    }
    or_fd_source_remove(epoll_fd, &source);
    close(epoll_fd);
}

static void assert_frames_pass(struct segment *s, uint32_t first_number)
{
    for (enum side from = LEFT; from <= RIGHT; from++) {
        struct receiver receiver = {.from = s->port[from], .to = s->port[1 - from], .next_number = first_number};
        for (uint32_t i = 0; i < 20; i++)
            queue_frame(receiver.from, receiver.to, first_number + i);
        or_port_tx_flush(receiver.from);
        receive_up_to(&receiver, first_number + 20);
        assert_int_equal(receiver.frames, 20);
    }
}

static void a_link_that_goes_down_and_up_is_survived(void **state)
{
    (void)state;
    for (size_t m = 0; m < MTUS; m++) {
        struct segment s = open_segment(mtus[m]);
        assert_frames_pass(&s, 0);
        for (enum side down = LEFT; down <= RIGHT; down++) {
            uint64_t dropped = or_port_stats(s.port[LEFT]).tx_dropped;
            run(&s, down, "ip link set %s down", link_name[down]);
            for (uint32_t i = 0; i < 100; i++)
                queue_frame(s.port[LEFT], s.port[RIGHT], i);
            or_port_tx_flush(s.port[LEFT]);
            assert_int_equal(or_port_stats(s.port[LEFT]).tx_dropped, dropped + 100);
            assert_goes_to_sleep(s.port[LEFT]);
            assert_goes_to_sleep(s.port[RIGHT]);
            run(&s, down, "ip link set %s up", link_name[down]);
            assert_frames_pass(&s, 100);
        }
        close_segment(&s);
    }
}

static void a_link_that_was_down_at_opening_works_once_it_is_up(void **state)
{
    (void)state;
    struct segment s = lay_link(9000);
    run(&s, LEFT, "ip link set left down");
    s.port[LEFT] = open_port(&s, LEFT, ETHERTYPE, 9000);
    s.port[RIGHT] = open_port(&s, RIGHT, ETHERTYPE, 9000);
    assert_goes_to_sleep(s.port[LEFT]);
    run(&s, LEFT, "ip link set left up");
    assert_frames_pass(&s, 0);
    close_segment(&s);
}

static void a_link_that_disappears_only_costs_the_frames(void **state)
{
    (void)state;
    struct segment s = open_segment(9000);
    assert_frames_pass(&s, 0);
    run(&s, LEFT, "ip link del left");
    for (enum side side = LEFT; side <= RIGHT; side++) {
        for (uint32_t i = 0; i < 10; i++)
            queue_frame(s.port[side], s.port[1 - side], i);
        or_port_tx_flush(s.port[side]);
        assert_int_equal(or_port_stats(s.port[side]).tx_dropped, 10);
        assert_goes_to_sleep(s.port[side]);
    }
    close_segment(&s);
}

static void an_mtu_lowered_under_the_port_costs_only_the_larger_frames(void **state)
{
    (void)state;
    struct segment s = open_segment(9000);
    struct receiver receiver = {.from = s.port[LEFT], .to = s.port[RIGHT]};
    uint32_t larger = 0;
    run(&s, LEFT, "ip link set left mtu 2000");
    for (uint32_t i = 0; i < 64; i++) {
        larger += frame_length(s.port[LEFT], i) > 14 + 2000;
        queue_frame(s.port[LEFT], s.port[RIGHT], i);
    }
    send_frame(s.port[LEFT], s.port[RIGHT], 64);
    receive_up_to(&receiver, 65);
    uint64_t dropped = or_port_stats(s.port[LEFT]).tx_dropped;
    assert_true(larger > 0);
    if (is_xdp()) /* the kernel lets them through; who refreshes the port learns of the new MTU */
        assert_true(dropped == 0);
    else if (segment_super_frames == OR_SUPER_FRAMES_OFF)
        assert_true(dropped == larger);
    else /* of envelopes nobody asks how large their segments are */
        assert_true(dropped > 0 && dropped < larger);
    assert_int_equal(receiver.frames, 65 - dropped);
    close_segment(&s);
}

/* ---- following the interface ---- */

static bool refresh(struct segment *s, enum side side)
{
    enter(s, side);
    return or_port_refresh(s->port[side]);
}

/* The kernel takes its time to call a link running, or not. */
static void becomes(struct segment *s, enum side side, bool down)
{
    refresh(s, side);
    for (int ms = 0; s->port[side]->down != down; ms++) {
        assert_true(ms < WAIT_MS_MAX);
        usleep(1000);
        refresh(s, side);
    }
}

static struct segment open_running_segment(uint32_t mtu)
{
    struct segment s = open_segment(mtu);
    becomes(&s, LEFT, false);
    becomes(&s, RIGHT, false);
    return s;
}

static void refresh_tells_whether_anything_has_changed(void **state)
{
    (void)state;
    struct segment s = open_running_segment(9000);
    assert_false(refresh(&s, LEFT));
    run(&s, RIGHT, "ip link set right down");
    becomes(&s, LEFT, true); /* no carrier */
    becomes(&s, RIGHT, true);
    assert_false(refresh(&s, LEFT));
    run(&s, RIGHT, "ip link set right up");
    becomes(&s, LEFT, false);
    becomes(&s, RIGHT, false);
    run(&s, LEFT, "ip link set left address 02:00:00:00:00:77");
    assert_true(refresh(&s, LEFT));
    assert_int_equal(s.port[LEFT]->mac[5], 0x77);
    assert_frames_pass(&s, 0);
    close_segment(&s);
}

/* With the filter, whose set of sessions must outlive the sockets. */
static void a_port_is_opened_anew_on_another_interface_of_the_same_name(void **state)
{
    (void)state;
    struct segment s = open_running_segment(9000);
    char why[512];
    assert_int_equal(or_port_set_filter(s.port[LEFT], &(struct or_port_door){1u << OR_FRAME_WELCOME, 4, OR_ANY_CHANNEL},
                                        why, sizeof why),
                     0);
    assert_int_equal(or_port_allow(s.port[LEFT], 77), 0);
    enum or_port_filter_kind filter = s.port[LEFT]->filter;
    run(&s, LEFT, "ip link del left");
    assert_true(refresh(&s, LEFT));
    assert_true(s.port[LEFT]->down);
    assert_false(refresh(&s, LEFT));
    run(&s, LEFT, "ip link add left mtu 9000 type veth peer name right mtu 9000 netns /proc/%d/fd/%d", getpid(),
        s.namespace_fd[RIGHT]);
    run(&s, RIGHT, "ip link set right up");
    run(&s, LEFT, "ip link set left up");
    becomes(&s, LEFT, false);
    becomes(&s, RIGHT, false);
    assert_int_equal(s.port[LEFT]->filter, filter);
    assert_true(s.port[LEFT]->handshake_fd >= 0);
    if (filter == OR_FILTER_SESSION) { /* of two frames only the one of the known session gets in */
        uint64_t before = or_port_stats(s.port[LEFT]).rx_frames;
        for (uint32_t session = 78; session >= 77; session--)
            for (int i = 0; i < 10; i++) {
                uint8_t *frame = or_port_tx_begin(s.port[RIGHT], s.port[LEFT]->mac);
                struct or_frame_header *h = (void *)(frame + OR_ETH_HEADER);
                *h = (struct or_frame_header){
                    .version = OR_WIRE_VERSION, .type = OR_FRAME_DATA, .session = session, .length = sizeof *h};
                or_port_tx_commit(s.port[RIGHT], OR_ETH_HEADER + h->length);
                or_port_tx_flush(s.port[RIGHT]);
            }
        uint8_t destination[6];
        while (or_port_stats(s.port[LEFT]).rx_frames < before + 10)
            or_port_rx_burst(s.port[LEFT], 64, note_destination, destination);
        assert_true(or_port_stats(s.port[LEFT]).rx_filtered >= 9); /* one is let through as a sample */
    }
    close_segment(&s);
}

static void a_port_follows_the_links_mtu(void **state)
{
    (void)state;
    struct segment s = lay_link(1500);
    for (enum side side = LEFT; side <= RIGHT; side++) {
        s.port[side] = open_port(&s, side, ETHERTYPE, 0);
        becomes(&s, side, false);
    }
    const uint32_t steps[] = {9000, 1500, 4000, 65535, 9000};
    uint32_t number = 0;
    for (size_t i = 0; i < sizeof steps / sizeof steps[0]; i++) {
        for (enum side side = LEFT; side <= RIGHT; side++)
            run(&s, side, "ip link set %s mtu %u", link_name[side], steps[i]);
        for (enum side side = LEFT; side <= RIGHT; side++) {
            assert_true(refresh(&s, side));
            assert_int_equal(s.port[side]->mtu, port_mtu(steps[i]));
        }
        assert_frames_pass(&s, number);
        number += 20;
    }
    close_segment(&s);
}

static void a_port_with_an_mtu_of_its_own_keeps_to_it(void **state)
{
    (void)state;
    struct segment s = open_running_segment(4000);
    bool envelopes = s.port[LEFT]->envelopes == OR_ENVELOPES_READY; /* now they find room beside it */
    run(&s, LEFT, "ip link set left mtu 9000");
    assert_int_equal(refresh(&s, LEFT), envelopes);
    assert_int_equal(s.port[LEFT]->mtu, 4000);
    run(&s, LEFT, "ip link set left mtu 1500");
    assert_true(refresh(&s, LEFT));
    assert_int_equal(s.port[LEFT]->mtu, 1500);
    run(&s, LEFT, "ip link set left mtu 1400");
    assert_true(refresh(&s, LEFT));
    assert_true(s.port[LEFT]->down); /* no session could use it */
    run(&s, LEFT, "ip link set left mtu 9000");
    assert_true(refresh(&s, LEFT));
    assert_int_equal(s.port[LEFT]->mtu, 4000);
    becomes(&s, LEFT, false);
    assert_frames_pass(&s, 0);
    close_segment(&s);
}

/* The peer's MTU is larger than ours: its frames would be cut. */
static void frames_larger_than_a_slot_are_dropped_and_counted(void **state)
{
    (void)state;
    struct segment s = lay_link(9000);
    s.port[LEFT] = open_port(&s, LEFT, ETHERTYPE, 9000);
    s.port[RIGHT] = open_port(&s, RIGHT, ETHERTYPE, 1500);
    struct receiver receiver = {.from = s.port[LEFT], .to = s.port[RIGHT]};
    send_frame(s.port[LEFT], s.port[RIGHT], 8); /* the largest */
    assert_int_equal(or_port_stats(s.port[LEFT]).tx_bytes, 14 + port_mtu(9000));
    send_frame(s.port[LEFT], s.port[RIGHT], 16);
    receive_up_to(&receiver, 17);
    assert_int_equal(receiver.frames, 1);
    assert_int_equal(or_port_stats(s.port[RIGHT]).rx_dropped, 1);
    close_segment(&s);
}

/* ---- what the operator reads ---- */

static void assert_refused(const char *ifname, uint32_t mtu, int error, const char *sentence)
{
    char why[512];
    int err = 0;
    assert_null(opener(ifname, ETHERTYPE, mtu, segment_super_frames, &err, why, sizeof(why)));
    assert_int_equal(err, -error);
    assert_string_equal(why, sentence);
}

static void an_mtu_above_the_links_is_refused_with_the_remedy(void **state)
{
    (void)state;
    struct segment s = lay_link(1500);
    enter(&s, RIGHT);
    assert_refused("right", 9000, EMSGSIZE,
                   "MTU 9000 is above the 1500 of link right: lower it, or run `ip link set dev right mtu 9000` (and "
                   "the same on every link and switch of the segment)");
    /* And the remedy is one. */
    run(&s, LEFT, "ip link set dev left mtu 9000");
    run(&s, RIGHT, "ip link set dev right mtu 9000");
    or_port_close(open_port(&s, RIGHT, ETHERTYPE, 9000));
    close_segment(&s);
}

static void an_unset_mtu_is_the_links(void **state)
{
    (void)state;
    struct segment s = lay_link(4000);
    s.port[LEFT] = open_port(&s, LEFT, ETHERTYPE, 0);
    assert_int_equal(s.port[LEFT]->mtu, port_mtu(4000));
    close_segment(&s);
}

static void a_missing_interface_is_named_with_those_that_exist(void **state)
{
    (void)state;
    struct segment s = lay_link(1500);
    enter(&s, LEFT);
    assert_refused("eth7", 0, ENODEV,
                   "there is no network interface eth7 in this network namespace, which has: lo, left");
    assert_refused("a-name-longer-than-any-interface", 0, ENODEV,
                   "there is no network interface a-name-longer-than-any-interface in this network namespace, which "
                   "has: lo, left");
    close_segment(&s);
}

static void an_interface_that_is_not_ethernet_is_refused(void **state)
{
    (void)state;
    assert_refused("lo", 0, ENOTSUP, "lo is not an Ethernet interface: choose one that is");
}

static void a_missing_capability_is_named(void **state)
{
    (void)state;
    struct report {
        int err;
        char why[512];
    } *report = mmap(NULL, sizeof(*report), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    assert_ptr_not_equal(report, MAP_FAILED);
    pid_t child = fork();
    if (child == 0) {
        bool opened = setuid(65534) != 0 ||
                      opener("lo", ETHERTYPE, 0, segment_super_frames, &report->err, report->why, sizeof(report->why));
        _exit(opened);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    assert_int_equal(report->err, -EPERM);
    assert_string_equal(report->why,
                        "opening a packet port on lo needs CAP_NET_RAW: run as root, or give the systemd unit "
                        "AmbientCapabilities=CAP_NET_RAW");
    munmap(report, sizeof(*report));
}

static void a_sentence_is_cut_to_its_buffer(void **state)
{
    (void)state;
    char why[8] = "1234567";
    int err = 0;
    assert_null(opener("eth7", ETHERTYPE, 0, segment_super_frames, &err, why, 6));
    assert_int_equal(err, -ENODEV);
    assert_memory_equal(why,
                        "there\0"
                        "7",
                        8);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(frames_arrive_whole_and_in_order_both_ways),
        cmocka_unit_test(a_batch_may_exceed_what_one_flush_takes),
        cmocka_unit_test(a_buffer_not_committed_is_handed_out_again),
        cmocka_unit_test(frames_for_others_are_not_delivered),
        cmocka_unit_test(broadcasts_are_delivered),
        cmocka_unit_test(ports_of_different_ethertypes_share_a_link),
        cmocka_unit_test(a_burst_beyond_the_ring_is_dropped_and_counted),
        cmocka_unit_test(a_frame_is_stable_while_its_handler_runs),
        cmocka_unit_test(a_link_that_goes_down_and_up_is_survived),
        cmocka_unit_test(a_link_that_was_down_at_opening_works_once_it_is_up),
        cmocka_unit_test(a_link_that_disappears_only_costs_the_frames),
        cmocka_unit_test(refresh_tells_whether_anything_has_changed),
        cmocka_unit_test(a_port_is_opened_anew_on_another_interface_of_the_same_name),
        cmocka_unit_test(a_port_follows_the_links_mtu),
        cmocka_unit_test(a_port_with_an_mtu_of_its_own_keeps_to_it),
        cmocka_unit_test(an_mtu_lowered_under_the_port_costs_only_the_larger_frames),
        cmocka_unit_test(frames_larger_than_a_slot_are_dropped_and_counted),
        cmocka_unit_test(an_mtu_above_the_links_is_refused_with_the_remedy),
        cmocka_unit_test(an_unset_mtu_is_the_links),
        cmocka_unit_test(a_missing_interface_is_named_with_those_that_exist),
        cmocka_unit_test(an_interface_that_is_not_ethernet_is_refused),
        cmocka_unit_test(a_missing_capability_is_named),
        cmocka_unit_test(a_sentence_is_cut_to_its_buffer),
    };
    if (unshare(CLONE_NEWNET) != 0) {
        printf("skipped: making network namespaces needs root (unshare: %s)\n", strerror(errno));
        return 0;
    }
    int failed = cmocka_run_group_tests_name("AF_PACKET, plain frames", tests, NULL, NULL);
    segment_super_frames = OR_SUPER_FRAMES_ON;
    failed += cmocka_run_group_tests_name("AF_PACKET, super-frames", tests, NULL, NULL);
    segment_super_frames = OR_SUPER_FRAMES_OFF;
    opener = or_port_xdp_open;
    return failed + cmocka_run_group_tests_name("AF_XDP", tests, NULL, NULL);
}
