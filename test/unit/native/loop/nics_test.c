/* NICs at the I/O hypervisor, with real taps and the kernel's own network stacks as guests and as the world:
 *
 *     namespace "guest"                                              namespace "world"
 *     TCP ── tap "guest" ── this test ── NIC (nics.c) ── tap or hub ── ...
 *
 * What the guest's kernel sends is read from its tap, with all offloads undone, and given to the NIC; what the
 * NIC sends is written to the tap, after a look whether the guest has agreed to take it so. The engine is real
 * but for its worker and ports; the session is this test. Needs root, and skips without. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <arpa/inet.h>
#include <cmocka.h>
#include <errno.h>
#include <netinet/udp.h>
#include <sys/socket.h>
#include <time.h>

#include "../net/frames.h"
#include "../net/netlab.h"
#include "backend/net/uplink.h"
#include "bare_engine.h"
#include "loop/nics.h"

#ifndef UDP_SEGMENT
#define UDP_SEGMENT 103
#endif
#define WAIT_NS 60000000000ull
#define GUESTS 2
#define STREAM_BYTES (4u << 20)

struct guest {
    int ns;
    struct or_uplink *tap; /* the other end of its network stack */
    struct or_nic *nic;    /* what the engine gave us for it; NULL: removed */
    uint64_t features;
    uint32_t id, received, largest;
};

struct world {
    struct or_engine *engine;
    struct or_iohv_nics *nics;
    struct guest guest[GUESTS];
    enum or_nic_sent verdict;
    uint32_t only; /* every so manieth packet finds room; 0: all do */
    uint32_t sends;
    uint64_t now;
};

static int root_ns;

/* --- the session --------------------------------------------------------------------------------- */

static int add(void *arg, uint32_t id, uint32_t generation, const char *host, struct or_nic *nic)
{
    struct world *w = arg;
    assert_int_equal(generation, 7);
    assert_string_equal(host, "h");
    w->guest[id - 1].nic = nic;
    w->guest[id - 1].id = id;
    return 0;
}

static void removed(void *arg, uint32_t id)
{
    ((struct world *)arg)->guest[id - 1].nic = NULL;
}

static enum or_nic_sent deliver(void *arg, uint32_t id, const uint8_t *packet, uint32_t length, uint64_t now)
{
    struct world *w = arg;
    struct guest *g = &w->guest[id - 1];
    struct or_offload o;
    (void)now;
    if (w->verdict != OR_NIC_SENT)
        return w->verdict;
    if (w->only && ++w->sends % w->only != 0)
        return OR_NIC_LATER;
    assert_true(or_offload_check(packet, length, &o));
    assert_true(or_offload_fits(&o, g->features));
    g->received++;
    if (length > g->largest)
        g->largest = length;
    if (g->tap)
        g->tap->ops->send(g->tap, &o, 0);
    return OR_NIC_SENT;
}

/* --- the engine ---------------------------------------------------------------------------------- */

static struct or_command *command(struct world *w, struct or_command *c, int error)
{
    struct or_command *done;
    struct or_event *event;
    assert_true(or_iohv_nics_command(w->nics, c));
    assert_true(or_engine_reap(w->engine, &done, &event));
    assert_ptr_equal(done, c);
    assert_int_equal(c->error, error);
    return c;
}

static struct or_command *nic_command(uint32_t id, const char *tap, const char *hub)
{
    char why[OR_WHY_MAX];
    struct or_command *c = or_command_new(OR_CMD_NIC_OPEN);
    c->id = id;
    c->generation = 7;
    strcpy(c->host, "h");
    snprintf(c->name, sizeof c->name, "nic%u", id);
    c->nic = (struct or_nic_config){.kind = tap ? OR_NIC_TAP : OR_NIC_HUB, .mtu = 1500, .link_up = true};
    c->nic.guard = (struct or_guard){.spoof_check = true, .mac = {0x52, 0x54, 0, 0, 0, (uint8_t)(9 + id)}};
    if (tap)
        c->fd = or_tap_open(tap, false, 0, why);
    else
        strcpy(c->path, hub);
    return c;
}

static void open_nic(struct world *w, uint32_t id, const char *tap, const char *hub)
{
    or_command_free(command(w, nic_command(id, tap, hub), 0));
}

static void set(struct world *w, uint32_t id, struct or_nic_change change)
{
    struct or_command *c = or_command_new(OR_CMD_NIC_SET);
    c->id = id;
    c->nic_change = change;
    or_command_free(command(w, c, 0));
}

static void agree(struct world *w, uint32_t id, uint64_t features)
{
    w->guest[id - 1].features = features;
    set(w, id, (struct or_nic_change){.has_features = true, .features = features});
}

static struct or_nic_info info_of(struct world *w, uint32_t id)
{
    return take_nic_info(command(w, or_command_new(OR_CMD_NICS), 0), id);
}

/* One step: what the guests send, what they are sent. */
static uint32_t step(struct world *w)
{
    w->now = or_clock_ns();
    or_iohv_nics_begin(w->nics, w->now);
    uint32_t work = 0;
    for (int i = 0; i < GUESTS; i++) {
        struct guest *g = &w->guest[i];
        uint8_t *packet;
        uint32_t length = 0;
        for (int n = 0; n < 64 && g->tap && (length = g->tap->ops->next(g->tap, &packet)) > 0; n++, work++) {
            if (g->nic)
                or_iohv_nics_received(g->nic, packet, length);
            g->tap->ops->taken(g->tap);
        }
    }
    struct timespec pause = {0, 20000};
    work += or_iohv_nics_poll(w->nics);
    if (!work)
        nanosleep(&pause, NULL);
    return work;
}

/* A guest's network stack: 10.0.0.ID and fd00::ID. */
static void boot(struct world *w, uint32_t id)
{
    char why[OR_WHY_MAX];
    int err;
    struct guest *g = &w->guest[id - 1];
    g->ns = netlab_new();
    int fd = or_tap_open("guest", false, 0, why);
    assert_true(fd >= 0);
    g->tap = or_uplink_tap(fd, &err);
    assert_non_null(g->tap);
    g->tap->ops->offload(g->tap, OR_NET_F_OFFLOADS);
    run("ip link set guest address 52:54:00:00:00:%02x up", 9 + id);
    run("ip addr add 10.0.0.%u/24 dev guest && ip -6 addr add fd00::%u/64 dev guest nodad", id, id);
    netlab_enter(root_ns);
}

static int begin(void **state)
{
    int err;
    struct world *w = calloc(1, sizeof *w);
    struct or_nic_wire wire = {.add = add, .remove = removed, .send = deliver, .arg = w};
    w->engine = bare_engine_new();
    root_ns = netlab_new();
    w->nics = or_iohv_nics_create(w->engine, &wire, &err);
    assert_int_equal(err, 0);
    *state = w;
    return 0;
}

static int end(void **state)
{
    struct world *w = *state;
    or_iohv_nics_destroy(w->nics);
    for (int i = 0; i < GUESTS; i++) {
        assert_null(w->guest[i].nic);
        if (w->guest[i].tap)
            w->guest[i].tap->ops->close(w->guest[i].tap);
        if (w->guest[i].ns > 0)
            close(w->guest[i].ns);
    }
    close(root_ns);
    bare_engine_free(w->engine);
    free(w);
    return 0;
}

static void need_lab(void)
{
    if (root_ns < 0)
        skip();
}

/* --- traffic ------------------------------------------------------------------------------------- */

static int socket_in(int ns, int family, int type)
{
    netlab_enter(ns);
    int s = socket(family, type | SOCK_NONBLOCK, 0);
    netlab_enter(root_ns);
    assert_true(s >= 0);
    return s;
}

union address {
    struct sockaddr any;
    struct sockaddr_in v4;
    struct sockaddr_in6 v6;
};

static socklen_t address_of(union address *a, int family, uint32_t id)
{
    static uint16_t port = 4000; /* one that no earlier connection lingers on */
    char text[32];
    memset(a, 0, sizeof *a);
    a->any.sa_family = (sa_family_t)family;
    snprintf(text, sizeof text, family == AF_INET ? "10.0.0.%u" : "fd00::%u", id);
    inet_pton(family, text, family == AF_INET ? (void *)&a->v4.sin_addr : (void *)&a->v6.sin6_addr);
    a->v4.sin_port = htons(port++); /* the same place in both */
    return family == AF_INET ? sizeof a->v4 : sizeof a->v6;
}

static uint8_t pattern(uint32_t i)
{
    return (uint8_t)(i * 13 + (i >> 8) * 7 + (i >> 16));
}

static void send_some(int s, uint32_t *sent)
{
    static uint8_t buffer[65536];
    uint32_t n = STREAM_BYTES - *sent < sizeof buffer ? STREAM_BYTES - *sent : (uint32_t)sizeof buffer;
    for (uint32_t i = 0; i < n; i++)
        buffer[i] = pattern(*sent + i);
    ssize_t done = n ? send(s, buffer, n, MSG_NOSIGNAL) : 0;
    *sent += done > 0 ? (uint32_t)done : 0;
}

static void receive_some(int s, uint32_t *received)
{
    static uint8_t buffer[65536];
    ssize_t n = recv(s, buffer, sizeof buffer, 0);
    for (ssize_t i = 0; i < n; i++)
        assert_int_equal(buffer[i], pattern(*received + (uint32_t)i));
    *received += n > 0 ? (uint32_t)n : 0;
}

/* A TCP stream from one namespace to another, whose address ends with `to`. */
static void stream(struct world *w, int from_ns, int to_ns, int family, uint32_t to)
{
    union address address;
    socklen_t length = address_of(&address, family, to);
    int listener = socket_in(to_ns, family, SOCK_STREAM), sender = socket_in(from_ns, family, SOCK_STREAM);
    int receiver = -1;
    uint32_t sent = 0, received = 0;
    uint64_t until = or_clock_ns() + WAIT_NS;
    assert_int_equal(bind(listener, &address.any, length), 0);
    assert_int_equal(listen(listener, 1), 0);
    assert_int_equal(connect(sender, &address.any, length), -1);
    assert_int_equal(errno, EINPROGRESS);
    while (received < STREAM_BYTES) {
        assert_true(or_clock_ns() < until);
        send_some(sender, &sent);
        step(w);
        if (receiver < 0)
            receiver = accept4(listener, NULL, NULL, SOCK_NONBLOCK);
        else
            receive_some(receiver, &received);
    }
    close(listener);
    close(sender);
    close(receiver);
}

/* What is cut in software is checked by the receiving kernel. */
static void tcp_between_guests_of_a_hub(void **state)
{
    struct world *w = *state;
    need_lab();
    boot(w, 1);
    boot(w, 2);
    open_nic(w, 1, NULL, "hub");
    open_nic(w, 2, NULL, "hub");
    for (int i = 0; i < 4; i++) {
        uint64_t features = i < 2 ? OR_NET_F_OFFLOADS : 0;
        agree(w, 1, OR_NET_F_OFFLOADS);
        agree(w, 2, features);
        w->guest[1].largest = 0;
        stream(w, w->guest[0].ns, w->guest[1].ns, i % 2 ? AF_INET6 : AF_INET, 2);
        if (features)
            assert_true(w->guest[1].largest > 10000); /* whole */
        else
            assert_in_range(w->guest[1].largest, 1400, 1526);
    }
    struct or_nic_info info = info_of(w, 2);
    assert_true(info.stats.segmented > 0);
    assert_int_equal(info.stats.rx.errors, 0);
    assert_int_equal(info.stats.rx.dropped[OR_NIC_DROP_BAD_HEADER], 0);
    assert_int_equal(info_of(w, 1).stats.tx.dropped[OR_NIC_DROP_SPOOFED], 0);
}

static void tcp_through_a_tap_whatever_the_guest_takes(void **state)
{
    static const uint64_t features[] = {0, OR_NET_F_GUEST_CSUM, OR_NET_F_OFFLOADS};
    struct world *w = *state;
    need_lab();
    boot(w, 1);
    open_nic(w, 1, "uplink", NULL);
    run("ip link set uplink up && ip addr add 10.0.0.9/24 dev uplink && ip -6 addr add fd00::9/64 dev uplink nodad");
    for (int i = 0; i < 6; i++) {
        int family = i % 2 ? AF_INET6 : AF_INET;
        agree(w, 1, features[i / 2]);
        w->guest[0].largest = 0;
        stream(w, root_ns, w->guest[0].ns, family, 1);
        assert_int_equal(w->guest[0].largest > 10000, i / 2 == 2);
        stream(w, w->guest[0].ns, root_ns, family, 9);
    }
    assert_int_equal(info_of(w, 1).stats.tx.errors, 0);
}

/* A stream goes through though the session has room only now and then, also within a packet that is cut. */
static void a_full_session_loses_nothing_of_a_tap(void **state)
{
    struct world *w = *state;
    need_lab();
    boot(w, 1);
    open_nic(w, 1, "uplink", NULL);
    run("ip link set uplink up && ip addr add 10.0.0.9/24 dev uplink");
    agree(w, 1, 0);
    w->only = 3;
    stream(w, root_ns, w->guest[0].ns, AF_INET, 1);
    struct or_nic_info info = info_of(w, 1);
    assert_true(info.stats.rx_waits > 0);
    assert_int_equal(info.stats.rx.packets, w->guest[0].received);
}

/* A UDP datagram of several segments (UDP_SEGMENT), where kernel and guests know it. */
static void udp_segments_between_guests_of_a_hub(void **state)
{
    struct world *w = *state;
    need_lab();
    boot(w, 1);
    boot(w, 2);
    open_nic(w, 1, NULL, "hub");
    open_nic(w, 2, NULL, "hub");
    agree(w, 1, OR_NET_F_OFFLOADS);
    agree(w, 2, 0);
    union address address;
    socklen_t length = address_of(&address, AF_INET, 2);
    int sender = socket_in(w->guest[0].ns, AF_INET, SOCK_DGRAM),
        receiver = socket_in(w->guest[1].ns, AF_INET, SOCK_DGRAM);
    int size = 1000, bytes = 0, count = 0;
    uint8_t data[10500], part[2000];
    uint64_t until = or_clock_ns() + WAIT_NS;
    for (uint32_t i = 0; i < sizeof data; i++)
        data[i] = pattern(i);
    assert_int_equal(bind(receiver, &address.any, length), 0);
    assert_int_equal(setsockopt(sender, IPPROTO_UDP, UDP_SEGMENT, &size, sizeof size), 0);
    w->only = 3; /* the session has room now and then: each goes on where it stopped */
    assert_int_equal(sendto(sender, data, sizeof data, 0, &address.any, length), sizeof data);
    while (bytes < (int)sizeof data) {
        assert_true(or_clock_ns() < until);
        step(w);
        ssize_t n = recv(receiver, part, sizeof part, 0);
        if (n <= 0)
            continue;
        assert_memory_equal(part, data + bytes, (size_t)n);
        bytes += (int)n;
        count++;
    }
    assert_int_equal(count, 11);
    close(sender);
    close(receiver);
}

/* --- single packets ------------------------------------------------------------------------------ */

static void put_frame(uint8_t *packet, const uint8_t *to, const uint8_t *from)
{
    memset(packet, 0, OR_VNET_HEADER + 100);
    memcpy(packet + OR_VNET_HEADER, to, 6);
    memcpy(packet + OR_VNET_HEADER + 6, from, 6);
    or_put_be16(packet + OR_VNET_HEADER + 12, 0x88b6);
}

/* `count` packets of 100 bytes from a guest, in one step. */
static void flood(struct world *w, uint32_t id, const uint8_t *to, const uint8_t *from, uint32_t count)
{
    uint8_t packet[OR_VNET_HEADER + 100];
    put_frame(packet, to, from);
    or_iohv_nics_begin(w->nics, w->now);
    for (uint32_t i = 0; i < count; i++)
        or_iohv_nics_received(w->guest[id - 1].nic, packet, sizeof packet);
}

/* Likewise from guest 1, each in a step of its own. */
static void burst(struct world *w, const uint8_t *to, const uint8_t *from, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++)
        flood(w, 1, to, from, 1);
}

static uint32_t poll_at(struct world *w, uint64_t now)
{
    uint32_t work = 0, n;
    w->now = now;
    or_iohv_nics_begin(w->nics, now);
    while ((n = or_iohv_nics_poll(w->nics)) > 0)
        work += n;
    return work;
}

static void what_is_dropped_is_counted_by_its_reason(void **state)
{
    struct world *w = *state;
    need_lab();
    open_nic(w, 1, NULL, "hub");
    open_nic(w, 2, NULL, "hub");
    uint8_t packet[OR_VNET_HEADER + 2000] = {0};
    burst(w, MAC_B, MAC_B, 1); /* its neighbour's address */
    put_frame(packet, MAC_B, MAC_A);
    or_iohv_nics_received(w->guest[0].nic, packet, OR_VNET_HEADER + 1523);
    packet[1] = 99; /* gso_type */
    or_iohv_nics_received(w->guest[0].nic, packet, OR_VNET_HEADER + 100);
    burst(w, (const uint8_t[]){0x52, 0x54, 0, 0, 0, 0x77}, MAC_A, 1); /* flooded, and not for guest 2 */
    assert_int_equal(poll_at(w, 1), 1);
    w->verdict = OR_NIC_DOWN;
    burst(w, MAC_B, MAC_A, 2);
    assert_int_equal(poll_at(w, 2), 2);
    w->verdict = OR_NIC_LATER;
    burst(w, MAC_B, MAC_A, 10000);
    assert_int_equal(poll_at(w, 3), 0);
    assert_in_range(or_iohv_nics_deadline(w->nics), 4, 10000000);
    set(w, 1, (struct or_nic_change){.has_link = true});
    burst(w, MAC_B, MAC_A, 1);
    w->verdict = OR_NIC_SENT;
    uint32_t left = poll_at(w, 4);
    assert_true(or_iohv_nics_deadline(w->nics) == UINT64_MAX);
    struct or_nic_stats tx = info_of(w, 1).stats, rx = info_of(w, 2).stats;
    assert_int_equal(tx.tx.dropped[OR_NIC_DROP_SPOOFED], 1);
    assert_int_equal(tx.tx.dropped[OR_NIC_DROP_TOO_LONG], 1);
    assert_int_equal(tx.tx.dropped[OR_NIC_DROP_BAD_HEADER], 1);
    assert_int_equal(tx.tx.dropped[OR_NIC_DROP_LINK_DOWN], 1);
    assert_int_equal(tx.tx.packets, 10003);
    assert_int_equal(tx.tx.bytes, 10003 * 100);
    assert_int_equal(rx.rx.dropped[OR_NIC_DROP_FILTERED], 1);
    assert_int_equal(rx.rx.dropped[OR_NIC_DROP_DOWN], 2);
    assert_int_equal(rx.rx.packets, left);
    assert_int_equal(rx.rx.dropped[OR_NIC_DROP_QUEUE_FULL], 10000 - left);
    assert_true(left > 1000 && left < 10000);
}

static void the_limit_lets_so_much_go_to_the_guest(void **state)
{
    struct world *w = *state;
    const uint64_t second = 1000000000;
    need_lab();
    open_nic(w, 1, NULL, "hub");
    open_nic(w, 2, NULL, "hub");
    set(w, 2, (struct or_nic_change){.has_limit = true, .limit = {.ops_per_s = 100, .ops_burst = 10}});
    w->now = second;
    burst(w, MAC_B, MAC_A, 200);
    uint32_t first = poll_at(w, second);
    assert_in_range(first, 9, 11);
    uint64_t when = or_iohv_nics_deadline(w->nics);
    assert_in_range(when, second + 1, second + 20000000);
    assert_int_equal(poll_at(w, when - 1), 0);
    assert_in_range(poll_at(w, when), 1, 2);
    uint32_t later = 0;
    for (uint64_t now = when; now < 2 * second; now += 1000000)
        later += poll_at(w, now);
    assert_in_range(later, 95, 100);
    set(w, 2, (struct or_nic_change){.has_limit = true}); /* lifted */
    poll_at(w, 2 * second + 1);
    assert_int_equal(w->guest[1].received, 200);
    assert_in_range(info_of(w, 2).stats.rx_throttled, 1, 250); /* once for each wait, not for each look */
}

/* One whose guest's session is full does not keep another from its packets. */
static void nics_take_turns(void **state)
{
    struct world *w = *state;
    need_lab();
    open_nic(w, 1, NULL, "hub");
    open_nic(w, 2, NULL, "hub");
    burst(w, MAC_ALL, MAC_A, 1000);
    w->now = 1;
    or_iohv_nics_begin(w->nics, 1);
    uint32_t work = or_iohv_nics_poll(w->nics);
    assert_in_range(work, 1, 64); /* a step is bounded */
    assert_int_equal(w->guest[1].received, work);
}

/* It holds up neither the step nor its neighbours. */
static void a_flood_waits_in_a_queue_of_its_own(void **state)
{
    struct world *w = *state;
    const uint32_t at_once = 8, turn = 4, count = 20000;
    need_lab();
    open_nic(w, 1, NULL, "hub");
    open_nic(w, 2, NULL, "hub");
    flood(w, 1, MAC_B, MAC_A, count);
    assert_int_equal(info_of(w, 1).stats.tx.packets, at_once);
    uint32_t dropped = (uint32_t)info_of(w, 1).stats.tx.dropped[OR_NIC_DROP_QUEUE_FULL];
    assert_in_range(dropped, count / 2, count - 1000);
    or_iohv_nics_poll(w->nics);
    assert_int_equal(info_of(w, 1).stats.tx.packets, at_once + turn);
    flood(w, 1, MAC_B, MAC_A, 1); /* a new step; in order behind the others */
    assert_int_equal(info_of(w, 1).stats.tx.packets, at_once + turn);
    flood(w, 2, MAC_A, MAC_B, 1);
    assert_int_equal(info_of(w, 2).stats.tx.packets, 1);
    poll_at(w, 2);
    assert_int_equal(info_of(w, 1).stats.tx.packets, count - dropped + 1);

    flood(w, 1, MAC_B, MAC_A, at_once + 2 * turn);
    flood(w, 2, MAC_A, MAC_B, at_once + turn);
    or_iohv_nics_begin(w->nics, w->now);
    or_iohv_nics_poll(w->nics); /* one turn of each */
    assert_int_equal(info_of(w, 1).stats.tx.packets, count - dropped + 1 + at_once + turn);
    assert_int_equal(info_of(w, 2).stats.tx.packets, 1 + at_once + turn);
    flood(w, 1, MAC_B, MAC_A, count); /* it goes with its NIC */
}

static void commands_that_cannot_be_done_say_so(void **state)
{
    struct world *w = *state;
    need_lab();
    open_nic(w, 1, NULL, "hub");
    or_command_free(command(w, nic_command(1, NULL, "hub"), -EEXIST));
    struct or_command *c = or_command_new(OR_CMD_NIC_CLOSE);
    c->id = 2;
    or_command_free(command(w, c, -ENOENT));
    c = or_command_new(OR_CMD_NIC_SET);
    c->id = 2;
    c->nic_change.has_filter = true;
    c->nic_change.filter = calloc(1, sizeof *c->nic_change.filter); /* freed with the command */
    or_command_free(command(w, c, -ENOENT));
    c = nic_command(2, "uplink", NULL);
    close(c->fd);
    c->fd = open("/dev/null", O_RDWR);
    or_command_free(command(w, c, -ENOTTY));
    c = or_command_new(OR_CMD_NIC_CLOSE);
    c->id = 1;
    or_command_free(command(w, c, 0));
    assert_null(w->guest[0].nic);
    c = or_command_new(OR_CMD_STATS);
    assert_false(or_iohv_nics_command(w->nics, c));
    or_command_free(c);
    run("ip link del uplink");
}

#define NICS_TEST(name) cmocka_unit_test_setup_teardown(name, begin, end)

int main(void)
{
    const struct CMUnitTest tests[] = {
        NICS_TEST(tcp_between_guests_of_a_hub),
        NICS_TEST(tcp_through_a_tap_whatever_the_guest_takes),
        NICS_TEST(a_full_session_loses_nothing_of_a_tap),
        NICS_TEST(udp_segments_between_guests_of_a_hub),
        NICS_TEST(what_is_dropped_is_counted_by_its_reason),
        NICS_TEST(the_limit_lets_so_much_go_to_the_guest),
        NICS_TEST(nics_take_turns),
        NICS_TEST(a_flood_waits_in_a_queue_of_its_own),
        NICS_TEST(commands_that_cannot_be_done_say_so),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
