/* Packet ports that send and take envelopes, over a real link; and what the rest of the receiving machine notices of
 * them: nothing. Needs root, and skips without. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>
#include <errno.h>
#include <poll.h>

#include <arpa/inet.h>
#include <linux/filter.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <sys/socket.h>

#include "segment.h"
#include "transport/envelope.h"
#include "wire/wire.h"

#define WAIT_MS_MAX 20000
#define ALL_TYPES ((1u << OR_FRAME_MAX) - 2)
#define SESSION 7u

static struct segment open_with_envelopes(uint32_t mtu)
{
    segment_super_frames = OR_SUPER_FRAMES_AUTO;
    struct segment s = open_segment(mtu);
    assert_int_equal(s.port[LEFT]->envelopes, OR_ENVELOPES_READY);
    assert_int_equal(s.port[RIGHT]->envelopes, OR_ENVELOPES_READY);
    return s;
}

/* A data frame of `bytes` after its Ethernet header, from the left to the right. */
static void queue(const struct segment *s, uint32_t session, uint64_t counter, uint32_t bytes, enum or_tx_form form)
{
    uint8_t *frame = or_port_tx_begin(s->port[LEFT], s->port[RIGHT]->mac);
    memset(frame + OR_ETH_HEADER, (int)counter, bytes);
    *(struct or_frame_header *)(frame + OR_ETH_HEADER) = (struct or_frame_header){.version = OR_WIRE_VERSION,
                                                                                  .type = OR_FRAME_DATA,
                                                                                  .session = session,
                                                                                  .counter = counter,
                                                                                  .length = (uint16_t)bytes};
    or_port_tx_commit_as(s->port[LEFT], OR_ETH_HEADER + bytes, form);
}

struct taken {
    uint32_t frames;
    uint64_t last;
    uint32_t lengths[64];
};

static void take(void *arg, const uint8_t *frame, uint32_t length)
{
    struct taken *t = arg;
    const struct or_frame_header *h = (const void *)(frame + OR_ETH_HEADER);
    assert_true(length >= OR_ETH_HEADER + sizeof *h);
    assert_int_equal(h->counter, t->last + 1); /* all, in order */
    t->last = h->counter;
    for (uint32_t i = sizeof *h; i < h->length; i++)
        assert_int_equal(frame[OR_ETH_HEADER + i], (uint8_t)h->counter);
    t->lengths[t->frames++ % 64] = length - OR_ETH_HEADER;
}

static struct taken take_frames(const struct segment *s, uint32_t count)
{
    struct taken t = {0};
    while (t.frames < count) {
        struct pollfd p = {.fd = s->port[RIGHT]->fd, .events = POLLIN};
        assert_int_equal(poll(&p, 1, WAIT_MS_MAX), 1);
        or_port_rx_burst(s->port[RIGHT], 3, take, &t); /* so that envelopes are taken in several bursts */
    }
    assert_int_equal(t.frames, count);
    return t;
}

static void flush(const struct segment *s)
{
    or_port_tx_flush(s->port[LEFT]);
}

/* ---- merging ---- */

static void each_envelope_leaves_with_one_call(void **state)
{
    (void)state;
    struct segment s = open_with_envelopes(9000);
    uint64_t calls = s.port[LEFT]->stats.syscalls;
    assert_int_equal(s.port[LEFT]->mtu, 8960);
    for (uint32_t i = 1; i <= 14; i++)
        queue(&s, SESSION, i, 8960, OR_TX_MERGE);
    flush(&s);
    take_frames(&s, 14);
    assert_int_equal(s.port[LEFT]->stats.syscalls, calls + 2); /* the first when it was full */
    assert_int_equal(s.port[LEFT]->stats.tx_envelopes, 2);
    assert_int_equal(s.port[RIGHT]->stats.rx_envelopes, 2);
    assert_int_equal(s.port[RIGHT]->stats.rx_malformed, 0);
    close_segment(&s);
}

static void cut_by_the_kernel_every_piece_is_an_envelope(void **state)
{
    (void)state;
    struct segment s = open_with_envelopes(9000);
    run(&s, LEFT, "ethtool -K left tx-udp-segmentation off");
    for (uint32_t i = 1; i <= 14; i++)
        queue(&s, SESSION, i, i == 14 ? 500 : 8960 - 8 * i, OR_TX_MERGE);
    flush(&s);
    struct taken t = take_frames(&s, 14);
    for (uint32_t i = 1; i <= 14; i++)
        assert_int_equal(t.lengths[i - 1], i == 14 ? 500 : 8960 - 8 * i);
    assert_int_equal(s.port[LEFT]->stats.tx_envelopes, 2);
    assert_int_equal(s.port[LEFT]->stats.tx_dropped, 0);
    assert_int_equal(s.port[RIGHT]->stats.rx_envelopes, 14);
    close_segment(&s);
}

/* Pieces of a cut envelope take a slot each: as many as a peer may have in flight find room. */
static void as_many_cut_frames_fit_as_the_port_promises(void **state)
{
    (void)state;
    struct segment s = open_with_envelopes(9000);
    run(&s, LEFT, "ethtool -K left tx-udp-segmentation off");
    uint32_t frames = s.port[RIGHT]->rx_frames;
    for (uint32_t i = 1; i <= frames; i++)
        queue(&s, SESSION, i, 8960, OR_TX_MERGE);
    flush(&s);
    take_frames(&s, frames);
    assert_int_equal(s.port[RIGHT]->stats.rx_dropped, 0);
    close_segment(&s);
}

static void a_lone_frame_travels_plain(void **state)
{
    (void)state;
    struct segment s = open_with_envelopes(9000);
    for (uint32_t i = 1; i <= 3; i++) {
        queue(&s, SESSION, i, 4200, OR_TX_MERGE);
        flush(&s);
    }
    take_frames(&s, 3);
    assert_int_equal(s.port[LEFT]->stats.tx_envelopes, 0);
    close_segment(&s);
}

static void a_probe_travels_in_an_envelope_though_alone(void **state)
{
    (void)state;
    struct segment s = open_with_envelopes(9000);
    queue(&s, SESSION, 1, 200, OR_TX_PROBE);
    flush(&s);
    take_frames(&s, 1);
    assert_int_equal(s.port[RIGHT]->stats.rx_envelopes, 1);
    close_segment(&s);
}

/* Plain frames between envelopes do not overtake them, nor the reverse. */
static void all_forms_stay_in_order(void **state)
{
    (void)state;
    struct segment s = open_with_envelopes(9000);
    uint32_t counter = 0;
    for (uint32_t round = 0; round < 20; round++) {
        for (uint32_t i = 0; i < round % 4; i++)
            queue(&s, SESSION, ++counter, 8960, OR_TX_MERGE);
        queue(&s, SESSION, ++counter, 100 + round, round % 3 ? OR_TX_PLAIN : OR_TX_MERGE);
        if (round % 5 == 4)
            flush(&s);
    }
    flush(&s);
    take_frames(&s, counter);
    assert_true(s.port[RIGHT]->stats.rx_envelopes > 0);
    assert_true(s.port[RIGHT]->stats.rx_frames > s.port[RIGHT]->stats.rx_envelopes);
    close_segment(&s);
}

/* The filter looks at the first segment's session, so another's frames are not behind it. */
static void sessions_do_not_share_an_envelope(void **state)
{
    (void)state;
    struct segment s = open_with_envelopes(9000);
    for (uint32_t i = 1; i <= 12; i++)
        queue(&s, i <= 6 ? SESSION : SESSION + 1, i, 1000, OR_TX_MERGE);
    flush(&s);
    take_frames(&s, 12);
    assert_int_equal(s.port[RIGHT]->stats.rx_envelopes, 2);
    close_segment(&s);
}

/* One long frame among short ones would be carried several times. */
static void little_of_an_envelope_is_padding(void **state)
{
    (void)state;
    struct segment s = open_with_envelopes(9000);
    for (uint32_t i = 1; i <= 4; i++)
        queue(&s, SESSION, i, i == 4 ? 8960 : 100, OR_TX_MERGE);
    for (uint32_t i = 5; i <= 8; i++) /* but a short one may be the last */
        queue(&s, SESSION, i, i == 8 ? 100 : 8800, OR_TX_MERGE);
    flush(&s);
    take_frames(&s, 8);
    assert_int_equal(s.port[RIGHT]->stats.rx_envelopes, 2); /* 1 to 3, and 4 to 8 */
    close_segment(&s);
}

/* ---- what strangers send ---- */

/* A socket of the left side, through which anything may be sent to the right. */
static int open_stranger(const struct segment *s)
{
    enter(s, LEFT);
    struct sockaddr_ll address = {.sll_family = AF_PACKET, .sll_ifindex = (int)if_nametoindex("left")};
    int fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof address), 0);
    return fd;
}

#define STRANGE_PAYLOAD 1064u /* a segment of 1024 bytes, and one of 40 */
#define STRANGE_BYTES (OR_ENVELOPE_HEAD + STRANGE_PAYLOAD)

static void make_strange(const struct segment *s, uint8_t frame[STRANGE_BYTES], uint32_t session)
{
    uint8_t addresses[12];
    memcpy(addresses, s->port[RIGHT]->mac, 6);
    memcpy(addresses + 6, s->port[LEFT]->mac, 6);
    memset(frame, 0, STRANGE_BYTES);
    or_envelope_write(frame, addresses, ETHERTYPE, STRANGE_PAYLOAD, 1024);
    for (uint32_t i = 0; i < 2; i++) {
        struct or_frame_header h = {.version = OR_WIRE_VERSION,
                                    .type = OR_FRAME_DATA,
                                    .session = session,
                                    .counter = 1 + i,
                                    .length = i ? 40 : 1024};
        memcpy(frame + OR_ENVELOPE_HEAD + 1024 * (size_t)i, &h, sizeof h);
    }
}

static void send_bytes(int fd, const uint8_t *frame, uint32_t length)
{
    assert_int_equal(send(fd, frame, length, 0), length);
}

static void count_frame(void *arg, const uint8_t *frame, uint32_t length)
{
    (void)frame;
    (void)length;
    ++*(uint32_t *)arg;
}

/* Frames that came in until the one that is sent last does. */
static uint32_t settle(const struct segment *s)
{
    uint32_t frames = 0, last = 0;
    struct or_port *end = open_port(s, RIGHT, ETHERTYPE + 1, 0), *from = open_port(s, LEFT, ETHERTYPE + 1, 0);
    uint8_t *frame = or_port_tx_begin(from, end->mac);
    memset(frame + OR_ETH_HEADER, 0, 60);
    or_port_tx_commit(from, OR_ETH_HEADER + 60);
    or_port_tx_flush(from);
    struct pollfd p = {.fd = end->fd, .events = POLLIN};
    assert_int_equal(poll(&p, 1, WAIT_MS_MAX), 1);
    assert_int_equal(or_port_rx_burst(end, 8, count_frame, &last), 1);
    or_port_close(from);
    or_port_close(end);
    while (or_port_rx_burst(s->port[RIGHT], 64, count_frame, &frames))
        ;
    return frames;
}

static void set_filter(const struct segment *s)
{
    char why[512];
    assert_int_equal(
        or_port_set_filter(s->port[RIGHT], &(struct or_port_door){ALL_TYPES, 4, OR_ANY_CHANNEL}, why, sizeof why), 0);
    assert_int_equal(s->port[RIGHT]->filter, OR_FILTER_SESSION);
    assert_int_equal(or_port_allow(s->port[RIGHT], SESSION), 0);
}

static void envelopes_of_unknown_sessions_take_no_room(void **state)
{
    (void)state;
    struct segment s = open_with_envelopes(9000);
    int fd = open_stranger(&s);
    uint8_t frame[STRANGE_BYTES];
    set_filter(&s);
    make_strange(&s, frame, SESSION);
    send_bytes(fd, frame, sizeof frame);
    assert_int_equal(settle(&s), 2);
    make_strange(&s, frame, SESSION + 1);
    for (uint32_t i = 0; i < 5000; i++)
        send_bytes(fd, frame, sizeof frame);
    uint32_t samples = settle(&s) / 2; /* 100 in a second */
    assert_in_range(samples, 1, 2500);
    assert_int_equal(or_port_stats(s.port[RIGHT]).rx_filtered, 5000 - samples);
    assert_int_equal(s.port[RIGHT]->stats.rx_dropped, 0);
    close(fd);
    close_segment(&s);
}

static void handshakes_do_not_come_in_envelopes(void **state)
{
    (void)state;
    struct segment s = open_with_envelopes(9000);
    int fd = open_stranger(&s);
    uint8_t frame[STRANGE_BYTES];
    set_filter(&s);
    make_strange(&s, frame, 0);
    for (uint8_t type = 0; type < OR_FRAME_MAX + 2; type++) {
        frame[OR_ENVELOPE_HEAD + 1] = type;
        if (type != OR_FRAME_DATA)
            send_bytes(fd, frame, sizeof frame);
    }
    assert_int_equal(settle(&s), 0);
    assert_int_equal(or_port_stats(s.port[RIGHT]).rx_filtered, OR_FRAME_MAX + 1);
    close(fd);
    close_segment(&s);
}

struct change {
    uint32_t at;
    uint8_t value;
};

/* Each in a copy of an envelope of a known session. */
static uint32_t send_changed(const struct segment *s, int fd, const struct change *changes, uint32_t count)
{
    uint8_t frame[STRANGE_BYTES];
    for (uint32_t i = 0; i < count; i++) {
        make_strange(s, frame, SESSION);
        frame[changes[i].at] = changes[i].value;
        send_bytes(fd, frame, sizeof frame);
    }
    return settle(s);
}

/* With the filter of sessions, and with the one that a port has without. */
static void other_ip_traffic_neither_gets_in_nor_counts(void **state)
{
    (void)state;
    static const struct change others[] = {{14, 0x46}, {14, 0x65}, {23, 6}, {30, 10}, {33, 1}, {36, 1}, {37, 1}};
    for (int filtered = 0; filtered < 2; filtered++) {
        struct segment s = open_with_envelopes(9000);
        int fd = open_stranger(&s);
        if (filtered)
            set_filter(&s);
        assert_int_equal(send_changed(&s, fd, others, 7), 0);
        const struct change fragment = {20, 0x60};
        assert_int_equal(send_changed(&s, fd, &fragment, 1), 0);
        uint8_t frame[STRANGE_BYTES];
        make_strange(&s, frame, SESSION);
        assert_int_equal(s.port[RIGHT]->stats.rx_malformed, 0);
        send_bytes(fd, frame, OR_ENVELOPE_HEAD + 7); /* without its session */
        assert_int_equal(settle(&s), 0);
        assert_int_equal(or_port_stats(s.port[RIGHT]).rx_filtered, filtered ? 1 : 0); /* the fragment */
        assert_int_equal(s.port[RIGHT]->stats.rx_malformed, filtered ? 0 : 1);
        close(fd);
        close_segment(&s);
    }
}

static void envelopes_that_contradict_themselves_are_counted(void **state)
{
    (void)state;
    struct segment s = open_with_envelopes(9000);
    int fd = open_stranger(&s);
    static const struct change lies[] = {{16, 0xff}, {17, 0}, {38, 0xff}, {39, 0}, {34, 0}, {35, 1}};
    assert_int_equal(send_changed(&s, fd, lies, 6), 0);
    assert_int_equal(s.port[RIGHT]->stats.rx_malformed, 6);
    assert_int_equal(s.port[RIGHT]->stats.rx_envelopes, 0);
    close(fd);
    close_segment(&s);
}

/* ---- what the receiving machine's IP stack makes of envelopes ---- */

/* Everything that leaves the right side's machine, on whatever interface. */
static int open_capture(const struct segment *s)
{
    enter(s, RIGHT);
    int fd = socket(AF_PACKET, SOCK_RAW | SOCK_NONBLOCK | SOCK_CLOEXEC, htons(ETH_P_ALL));
    assert_true(fd >= 0);
    /* Nothing else, or what comes in would fill its buffer. */
    struct sock_filter program[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, (uint32_t)(SKF_AD_OFF + SKF_AD_PKTTYPE)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, PACKET_OUTGOING, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, 2048),
        BPF_STMT(BPF_RET | BPF_K, 0),
    };
    struct sock_fprog all = {.len = sizeof program / sizeof program[0], .filter = program};
    assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &all, sizeof all), 0);
    return fd;
}

/* But for reports of membership (IGMP), which the machine repeats when it likes. */
static uint32_t packets_out(int fd)
{
    uint8_t bytes[2048];
    uint32_t count = 0;
    struct sockaddr_ll from;
    socklen_t size = sizeof from;
    memset(bytes, 0, sizeof bytes);
    while (recvfrom(fd, bytes, sizeof bytes, MSG_TRUNC, (struct sockaddr *)&from, &size) >= 0) {
        bool igmp = from.sll_protocol == htons(ETH_P_IP) && bytes[23] == IPPROTO_IGMP;
        count += from.sll_pkttype == PACKET_OUTGOING && !igmp;
        size = sizeof from;
    }
    assert_int_equal(errno, EAGAIN);
    return count;
}

/* The right side is a router with an address, a default route, multicast forwarding as far as it goes without a
 * daemon, and neighbours that are known, so that nothing has to be asked before something is sent. */
static void make_router(const struct segment *s)
{
    run(s, RIGHT,
        "echo 1 >/proc/sys/net/ipv6/conf/all/disable_ipv6; echo 1 >/proc/sys/net/ipv4/ip_forward;"
        "echo 0 >/proc/sys/net/ipv4/conf/all/rp_filter; echo 0 >/proc/sys/net/ipv4/icmp_ratelimit");
    run(s, LEFT, "echo 1 >/proc/sys/net/ipv6/conf/all/disable_ipv6; ip addr add 10.9.9.1/24 dev left");
    run(s, RIGHT,
        "ip addr add 10.9.9.2/24 dev right; ip link add out type veth peer name far; ip link set out up; ip link set "
        "far up");
    run(s, RIGHT, "ip addr add 10.8.8.2/24 dev out; ip route add default via 10.8.8.1");
    run(s, RIGHT, "ip neigh add 10.8.8.1 lladdr 02:00:00:00:00:01 dev out");
    run(s, RIGHT, "ip neigh add 10.9.9.1 lladdr 02:00:00:00:00:02 dev right");
}

static void fix_checksum(uint8_t *frame)
{
    uint32_t sum = 0;
    frame[24] = frame[25] = 0;
    for (uint32_t i = 14; i < 34; i += 2)
        sum += (uint32_t)frame[i] << 8 | frame[i + 1];
    sum = (sum & 0xffff) + (sum >> 16);
    sum = ~((sum & 0xffff) + (sum >> 16));
    frame[24] = (uint8_t)(sum >> 8);
    frame[25] = (uint8_t)sum;
    frame[40] = frame[41] = 0; /* no UDP checksum */
}

static void the_ip_stack_neither_answers_nor_forwards_envelopes(void **state)
{
    (void)state;
    struct segment s = open_with_envelopes(9000);
    make_router(&s);
    int fd = open_stranger(&s), capture = open_capture(&s);
    uint8_t frame[STRANGE_BYTES];
    const uint8_t source[4] = {10, 9, 9, 1}, addresses[][4] = {{10, 9, 9, 2}, {192, 0, 2, 9}};
    packets_out(capture);

    /* That it would show: the same datagram to the machine's own address is answered, and one to elsewhere
     * forwarded. */
    for (uint32_t i = 0; i < 2; i++) {
        make_strange(&s, frame, SESSION);
        memcpy(frame + 26, source, 4);
        memcpy(frame + 30, addresses[i], 4);
        frame[22] = 64;
        fix_checksum(frame);
        send_bytes(fd, frame, sizeof frame);
        settle(&s);
        assert_int_equal(packets_out(capture), 1);
    }

    /* Envelopes: whole, cut, alone, of a stranger with an address and hops left, with the group joined and not. */
    for (int joined = 0; joined < 2; joined++) {
        for (uint32_t i = 1; i <= 28; i++) {
            if (i == 15) {
                flush(&s);
                run(&s, LEFT, "ethtool -K left tx-udp-segmentation off");
            }
            queue(&s, SESSION, i, 8960, OR_TX_MERGE);
        }
        flush(&s);
        run(&s, LEFT, "ethtool -K left tx-udp-segmentation on");
        for (uint8_t ttl = 1; ttl < 3; ttl++) {
            make_strange(&s, frame, SESSION);
            frame[22] = (uint8_t)(ttl == 1 ? 1 : 64);
            if (ttl == 2)
                memcpy(frame + 26, source, 4);
            fix_checksum(frame);
            send_bytes(fd, frame, sizeof frame);
        }
        assert_int_equal(settle(&s), 28 + 2 * 2);
        if (!joined) {
            assert_int_equal(packets_out(capture), 0);
            run(&s, RIGHT, "ip maddr add 01:00:5e:00:00:fe dev right; ip addr add 224.0.0.254/32 dev right autojoin");
            settle(&s);
            packets_out(capture); /* the membership report */
        } else {
            assert_int_equal(packets_out(capture), 0);
        }
    }
    close(fd);
    close(capture);
    close_segment(&s);
}

/* ---- which links have envelopes ---- */

static void a_port_says_why_it_has_none(void **state)
{
    (void)state;
    static const struct {
        uint32_t mtu;
        enum or_super_frames wanted;
        enum or_port_envelopes envelopes;
        uint32_t port_mtu;
    } cases[] = {
        {9000, OR_SUPER_FRAMES_AUTO, OR_ENVELOPES_READY, 8960},
        {9000, OR_SUPER_FRAMES_OFF, OR_ENVELOPES_OFF, 9000},
        {1500, OR_SUPER_FRAMES_AUTO, OR_ENVELOPES_SMALL, 1500},
        {1500, OR_SUPER_FRAMES_ON, OR_ENVELOPES_SMALL, 1500},
        {65535, OR_SUPER_FRAMES_AUTO, OR_ENVELOPES_LARGE, 65535},
        {65535, OR_SUPER_FRAMES_ON, OR_ENVELOPES_READY, 65472},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        segment_super_frames = cases[i].wanted;
        struct segment s = open_segment(cases[i].mtu);
        assert_int_equal(s.port[LEFT]->envelopes, cases[i].envelopes);
        assert_int_equal(s.port[LEFT]->mtu, cases[i].port_mtu);
        close_segment(&s);
    }
}

static void another_mtu_of_the_link_changes_it(void **state)
{
    (void)state;
    static const struct {
        uint32_t mtu;
        enum or_port_envelopes envelopes;
    } steps[] = {{1500, OR_ENVELOPES_SMALL},
                 {9000, OR_ENVELOPES_READY},
                 {65535, OR_ENVELOPES_LARGE},
                 {9000, OR_ENVELOPES_READY},
                 {4000, OR_ENVELOPES_READY}};
    segment_super_frames = OR_SUPER_FRAMES_AUTO;
    struct segment s = lay_link(9000);
    s.port[LEFT] = open_port(&s, LEFT, ETHERTYPE, 0);
    s.port[RIGHT] = open_port(&s, RIGHT, ETHERTYPE, 0);
    for (size_t i = 0; i < sizeof steps / sizeof steps[0]; i++) {
        for (enum side side = LEFT; side <= RIGHT; side++)
            run(&s, side, "ip link set %s mtu %u", link_name[side], steps[i].mtu);
        for (enum side side = LEFT; side <= RIGHT; side++) {
            enter(&s, side);
            assert_true(or_port_refresh(s.port[side]));
            assert_int_equal(s.port[side]->envelopes, steps[i].envelopes);
        }
        uint64_t envelopes = s.port[RIGHT]->stats.rx_envelopes;
        for (uint32_t k = 1; k <= 5; k++)
            queue(&s, SESSION, k, s.port[LEFT]->mtu, OR_TX_MERGE);
        flush(&s);
        take_frames(&s, 5);
        assert_int_equal(s.port[RIGHT]->stats.rx_envelopes > envelopes, steps[i].envelopes == OR_ENVELOPES_READY);
    }
    close_segment(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_envelope_leaves_with_one_call),
        cmocka_unit_test(cut_by_the_kernel_every_piece_is_an_envelope),
        cmocka_unit_test(as_many_cut_frames_fit_as_the_port_promises),
        cmocka_unit_test(a_lone_frame_travels_plain),
        cmocka_unit_test(a_probe_travels_in_an_envelope_though_alone),
        cmocka_unit_test(all_forms_stay_in_order),
        cmocka_unit_test(sessions_do_not_share_an_envelope),
        cmocka_unit_test(little_of_an_envelope_is_padding),
        cmocka_unit_test(envelopes_of_unknown_sessions_take_no_room),
        cmocka_unit_test(handshakes_do_not_come_in_envelopes),
        cmocka_unit_test(other_ip_traffic_neither_gets_in_nor_counts),
        cmocka_unit_test(envelopes_that_contradict_themselves_are_counted),
        cmocka_unit_test(the_ip_stack_neither_answers_nor_forwards_envelopes),
        cmocka_unit_test(a_port_says_why_it_has_none),
        cmocka_unit_test(another_mtu_of_the_link_changes_it),
    };
    if (unshare(CLONE_NEWNET) != 0) {
        printf("skipped: making network namespaces needs root (unshare: %s)\n", strerror(errno));
        return 0;
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
