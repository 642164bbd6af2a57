/* What NICs of a protection domain send, through a real domain with its journal and a hub, without a session, a link or
 * a thread: the test gives NICs packets, as the session does, and counts what comes out of the hub.
 *
 *     NIC 1, NIC 2 ── held by the domain ── hub ── NIC 3, whose guest is this test */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <errno.h>
#include <sys/mman.h>
#include <unistd.h>

#include "../net/frames.h"
#include "backend/net/uplink.h"
#include "bare_engine.h"
#include "loop/domains.h"
#include "loop/nics.h"

#define NICS 3u
#define RECEIVER 3u
#define OUT_MAX 8192u
#define WAIT_NS 60000000000ull
#define ETHERTYPE_TEST 0x88b6
#define HEADERS (OR_VNET_HEADER + 14u)
#define PACKET_MIN (HEADERS + 46u) /* of this test: its number is in it */
#define JOURNAL (4u << 20)

struct world {
    struct or_engine *engine;
    struct or_uring *uring;
    struct or_iohv_volumes *volumes;
    struct or_iohv_nics *nics;
    struct or_nic *nic[NICS + 1];
    uint32_t out[OUT_MAX], lengths[OUT_MAX]; /* numbers of the packets that came out, and how long they were */
    uint32_t outs, sent;
};

static uint32_t domain = 100; /* of each world another one: the region stays in the process */

/* --- the session --------------------------------------------------------------------------------- */

static int add(void *arg, uint32_t id, uint32_t generation, const char *host, struct or_nic *nic)
{
    (void)generation;
    (void)host;
    ((struct world *)arg)->nic[id] = nic;
    return 0;
}

static void removed(void *arg, uint32_t id)
{
    ((struct world *)arg)->nic[id] = NULL;
}

static uint8_t filler(uint32_t number, uint32_t i)
{
    return (uint8_t)(number * 31 + i * 7 + (i >> 8));
}

static enum or_nic_sent deliver(void *arg, uint32_t id, const uint8_t *packet, uint32_t length, uint64_t now)
{
    struct world *w = arg;
    (void)now;
    if (id != RECEIVER)
        return OR_NIC_SENT; /* flooded */
    uint32_t number;
    assert_true(w->outs < OUT_MAX && length >= PACKET_MIN);
    memcpy(&number, packet + HEADERS, sizeof number);
    for (uint32_t i = HEADERS + sizeof number; i < length; i++)
        assert_int_equal(packet[i], filler(number, i));
    w->lengths[w->outs] = length;
    w->out[w->outs++] = number;
    return OR_NIC_SENT;
}

/* The next packet of a NIC, `length` bytes with its header. Returns its number. */
static uint32_t send_packet(struct world *w, uint32_t id, uint32_t length)
{
    static uint8_t packet[OR_PACKET_MAX + 1];
    uint32_t number = w->sent++;
    memset(packet, 0, OR_VNET_HEADER);
    memcpy(packet + OR_VNET_HEADER, MAC_ALL, 6);
    memcpy(packet + OR_VNET_HEADER + 6, MAC_A, 6);
    or_put_be16(packet + OR_VNET_HEADER + 12, ETHERTYPE_TEST);
    memcpy(packet + HEADERS, &number, sizeof number);
    for (uint32_t i = HEADERS + sizeof number; i < length; i++)
        packet[i] = filler(number, i);
    or_iohv_nics_received(w->nic[id], packet, length);
    return number;
}

/* --- the worker ---------------------------------------------------------------------------------- */

static void step(struct world *w)
{
    uint64_t now = or_clock_ns();
    or_iohv_nics_begin(w->nics, now);
    or_iohv_domains_poll(w->volumes, now);
    or_uring_poll(w->uring);
    or_iohv_nics_poll(w->nics);
    or_uring_poll(w->uring);
}

/* One that its NIC passes on at once: a step passes on a few. */
static uint32_t give(struct world *w, uint32_t id, uint32_t length)
{
    uint32_t number = send_packet(w, id, length);
    step(w);
    return number;
}

/* A command that has ended; NULL: none. Events are passed over. */
static struct or_command *reap(struct world *w)
{
    struct or_command *done = NULL;
    struct or_event *event;
    while (!done && or_engine_reap(w->engine, &done, &event))
        if (event)
            or_event_free(event);
    return done;
}

static struct or_command *command(struct world *w, struct or_command *c)
{
    struct or_command *done;
    uint64_t end = or_clock_ns() + WAIT_NS;
    assert_true(or_iohv_volumes_command(w->volumes, c) || or_iohv_nics_command(w->nics, c));
    for (; !(done = reap(w)); step(w))
        assert_true(or_clock_ns() < end);
    if (done->error)
        fail_msg("command %d: %s", done->type, done->why);
    return done;
}

static uint64_t order(struct world *w, struct or_command *c)
{
    uint64_t epoch = command(w, c)->epoch;
    or_command_free(c);
    return epoch;
}

static struct or_command *of_domain(enum or_command_type type, uint64_t generation, uint64_t epoch)
{
    struct or_command *c = or_command_new(type);
    c->id = domain;
    c->domain_generation = generation;
    c->epoch = epoch;
    return c;
}

static uint64_t cut(struct world *w, uint64_t generation)
{
    return order(w, of_domain(OR_CMD_DOMAIN_CUT, generation, 0));
}

static void commit(struct world *w, uint64_t generation, uint64_t epoch)
{
    order(w, of_domain(OR_CMD_DOMAIN_COMMIT, generation, epoch));
}

static struct or_domain_status status(struct world *w)
{
    struct or_command *c = command(w, or_command_new(OR_CMD_DOMAIN_LIST));
    assert_int_equal(c->count, 1);
    struct or_domain_status s = c->domains[0];
    or_command_free(c);
    return s;
}

static struct or_nic_info nic_info(struct world *w, uint32_t id)
{
    return take_nic_info(command(w, or_command_new(OR_CMD_NICS)), id);
}

static void open_domain(struct world *w)
{
    struct or_command *c = of_domain(OR_CMD_DOMAIN_OPEN, 0, 0);
    strcpy(c->name, "d");
    c->size = OR_DOMAIN_BYTES_MIN;
    c->journal_id = 5;
    c->fd = memfd_create("journal", MFD_CLOEXEC);
    assert_int_equal(ftruncate(c->fd, JOURNAL), 0);
    order(w, c);
}

static void open_nic(struct world *w, uint32_t id, uint64_t generation)
{
    struct or_command *c = or_command_new(OR_CMD_NIC_OPEN);
    c->id = id;
    c->generation = 1;
    strcpy(c->host, "h");
    snprintf(c->name, sizeof c->name, "nic%u", id);
    strcpy(c->path, "hub");
    c->nic = (struct or_nic_config){.kind = OR_NIC_HUB, .mtu = 65535, .link_up = true};
    c->nic.guard.mac[0] = 0x52;
    c->nic.guard.mac[5] = (uint8_t)id;
    c->domain = generation ? domain : 0;
    c->domain_generation = generation;
    order(w, c);
}

static void set_generation(struct world *w, uint32_t id, uint64_t generation)
{
    struct or_command *c = or_command_new(OR_CMD_NIC_SET);
    c->id = id;
    c->has_domain = true;
    c->domain = domain;
    c->domain_generation = generation;
    order(w, c);
}

static void close_nic(struct world *w, uint32_t id)
{
    struct or_command *c = or_command_new(OR_CMD_NIC_CLOSE);
    c->id = id;
    order(w, c);
}

/* Until `count` packets came out in all; and no more do soon. */
static void wait_out(struct world *w, uint32_t count)
{
    for (uint64_t end = or_clock_ns() + WAIT_NS; w->outs < count; step(w))
        if (or_clock_ns() > end)
            fail_msg("%u packets came out, not %u", w->outs, count);
    for (uint32_t i = 0; i < 100; i++)
        step(w);
    assert_int_equal(w->outs, count);
}

static int begin(void **state)
{
    int err;
    struct world *w = calloc(1, sizeof *w);
    struct or_nic_wire wire = {.add = add, .remove = removed, .send = deliver, .arg = w};
    w->engine = bare_engine_new();
    w->uring = or_uring_create(64, &err);
    assert_non_null(w->uring);
    w->nics = or_iohv_nics_create(w->engine, &wire, &err);
    assert_non_null(w->nics);
    w->volumes = or_iohv_volumes_create(w->engine, NULL, w->uring, &err); /* nothing is exported */
    assert_non_null(w->volumes);
    or_iohv_volumes_set_nics(w->volumes, w->nics);
    open_domain(w);
    open_nic(w, 1, 1);
    open_nic(w, 2, 1);
    open_nic(w, RECEIVER, 0);
    *state = w;
    return 0;
}

static int end(void **state)
{
    struct world *w = *state;
    while (!or_iohv_volumes_drained(w->volumes))
        or_uring_poll(w->uring);
    or_iohv_nics_destroy(w->nics);
    or_iohv_volumes_destroy(w->volumes);
    or_uring_destroy(w->uring);
    reap(w);
    bare_engine_free(w->engine);
    free(w);
    domain++;
    return 0;
}

/* --- tests --------------------------------------------------------------------------------------- */

static void packets_of_all_nics_go_out_in_order_when_their_epoch_is_committed(void **state)
{
    struct world *w = *state;
    for (uint32_t i = 0; i < 200; i++)
        give(w, 1 + i % 2, PACKET_MIN + i % 32);
    wait_out(w, 0);
    uint64_t first = cut(w, 1);
    for (uint32_t i = 0; i < 100; i++)
        give(w, 1 + i % 2, PACKET_MIN);
    wait_out(w, 0);
    uint64_t second = cut(w, 1);
    give(w, 1, PACKET_MIN);
    commit(w, 1, first);
    wait_out(w, 200);
    commit(w, 1, second);
    wait_out(w, 300);
    for (uint32_t i = 0; i < w->outs; i++)
        assert_int_equal(w->out[i], i);
    assert_int_equal(status(w).info.packets, 301);
}

/* Packets that end where a page of the log does, or a byte from it; the smallest, and the largest that there are. */
static void packets_of_every_size_go_out_as_they_were(void **state)
{
    static const uint32_t largest = OR_PACKET_MAX;
    const uint32_t lengths[] = {PACKET_MIN,    4096 - 16 - PACKET_MIN - 16,
                                4096 - 16,     4096 - 16 - 1,
                                4096 - 16 + 1, 4096 - 16 - 8,
                                PACKET_MIN,    4096,
                                2 * 4096 - 16, largest - 1,
                                largest,       PACKET_MIN,
                                largest};
    struct world *w = *state;
    uint32_t count = sizeof lengths / sizeof *lengths;
    for (uint32_t i = 0; i < count; i++) {
        give(w, 1 + i % 2, lengths[i]);
    }
    assert_int_equal(status(w).info.packets, count);
    commit(w, 1, cut(w, 1));
    wait_out(w, count);
    for (uint32_t i = 0; i < count; i++) {
        assert_int_equal(w->out[i], i);
        assert_int_equal(w->lengths[i], lengths[i]);
    }
    give(w, 1, largest + 1); /* which no frame is */
    assert_int_equal(nic_info(w, 1).stats.tx.dropped[OR_NIC_DROP_BAD_HEADER], 1);
    assert_int_equal(status(w).info.packets, count);
}

static void an_abort_drops_what_is_held(void **state)
{
    struct world *w = *state;
    give(w, 1, PACKET_MIN);
    uint64_t epoch = cut(w, 1);
    for (uint32_t i = 0; i < 10; i++)
        give(w, 1 + i % 2, 3000);
    cut(w, 1);
    give(w, 2, 3000);
    commit(w, 1, epoch);
    wait_out(w, 1);
    order(w, of_domain(OR_CMD_DOMAIN_FENCE, 2, 0));
    order(w, of_domain(OR_CMD_DOMAIN_ABORT, 0, 0));
    give(w, 1, PACKET_MIN); /* of the old generation still */
    set_generation(w, 1, 2);
    uint32_t number = give(w, 1, PACKET_MIN);
    commit(w, 2, cut(w, 2));
    wait_out(w, 2);
    assert_int_equal(w->out[1], number);
    assert_int_equal(status(w).info.packets_fenced, 1);
    assert_int_equal(nic_info(w, 1).stats.tx.dropped[OR_NIC_DROP_FENCED], 1);
}

/* What finds no room waits in its NIC's queue, in order, and is dropped when that is full, too. */
static void a_full_domain_lets_packets_wait_and_then_drops_them(void **state)
{
    const uint32_t length = 4000, count = 400;
    struct world *w = *state;
    for (uint32_t i = 0; i < count; i++)
        give(w, 1, length);
    uint32_t held = (uint32_t)status(w).info.packets;
    assert_in_range(held, 1, OR_DOMAIN_BYTES_MIN / length);
    uint32_t dropped = (uint32_t)nic_info(w, 1).stats.tx.dropped[OR_NIC_DROP_QUEUE_FULL];
    assert_in_range(dropped, 1, count - held - 1);
    assert_int_equal(status(w).overflows, 1);
    wait_out(w, 0);
    commit(w, 1, cut(w, 1));
    wait_out(w, held);
    for (uint64_t end = or_clock_ns() + WAIT_NS; w->outs < count - dropped; step(w)) {
        assert_true(or_clock_ns() < end);
        commit(w, 1, cut(w, 1)); /* what has found room by now; none, while the disk has not ended the last one */
    }
    wait_out(w, count - dropped);
    for (uint32_t i = 0; i < w->outs; i++)
        assert_int_equal(w->out[i], i); /* what was dropped came last */
}

static void packets_of_a_nic_that_is_closed_are_lost_and_counted_and_others_are_not(void **state)
{
    struct world *w = *state;
    for (uint32_t i = 0; i < 20; i++)
        give(w, 1 + i % 2, PACKET_MIN);
    uint64_t epoch = cut(w, 1);
    close_nic(w, 1);
    commit(w, 1, epoch);
    wait_out(w, 10);
    for (uint32_t i = 0; i < 10; i++)
        assert_int_equal(w->out[i], 2 * i + 1);
    assert_int_equal(status(w).packets_lost, 10);
}

/* A NIC that waits for room in its domain, and is closed. */
static void a_nic_that_waits_for_room_can_be_closed(void **state)
{
    struct world *w = *state;
    for (uint32_t i = 0; i < 100; i++)
        send_packet(w, 1 + i % 2, 4000);
    step(w);
    uint32_t held = (uint32_t)status(w).info.packets;
    close_nic(w, 1);
    commit(w, 1, cut(w, 1));
    uint64_t end_at = or_clock_ns() + WAIT_NS;
    while (status(w).info.packets <= held) /* the other's find room */
        assert_true(or_clock_ns() < end_at);
    commit(w, 1, cut(w, 1));
    while (status(w).info.released < 2)
        assert_true(or_clock_ns() < end_at);
    for (uint32_t i = 0; i < w->outs; i++)
        assert_int_equal(w->out[i] % 2, 1);
}

/* A packet that waited for room belongs to the generation in which it was sent. */
static void what_waits_in_a_nic_does_not_come_into_the_next_generation(void **state)
{
    const uint32_t count = 1200;
    struct world *w = *state;
    for (uint32_t i = 0; i < count; i++)
        send_packet(w, 1, i < 100 ? 4000 : PACKET_MIN);
    order(w, of_domain(OR_CMD_DOMAIN_FENCE, 2, 0));
    set_generation(w, 1, 2); /* before all of the queue was offered again */
    order(w, of_domain(OR_CMD_DOMAIN_ABORT, 0, 0));
    uint32_t held = (uint32_t)status(w).info.packets, number = give(w, 1, PACKET_MIN);
    assert_in_range(held, 1, 99);
    commit(w, 2, cut(w, 2));
    wait_out(w, 1);
    assert_int_equal(w->out[0], number);
    assert_int_equal(nic_info(w, 1).stats.tx.dropped[OR_NIC_DROP_FENCED], count - held);
}

int main(void)
{
#define HOLD_TEST(f) cmocka_unit_test_setup_teardown(f, begin, end)
    const struct CMUnitTest tests[] = {
        HOLD_TEST(packets_of_all_nics_go_out_in_order_when_their_epoch_is_committed),
        HOLD_TEST(packets_of_every_size_go_out_as_they_were),
        HOLD_TEST(an_abort_drops_what_is_held),
        HOLD_TEST(a_full_domain_lets_packets_wait_and_then_drops_them),
        HOLD_TEST(packets_of_a_nic_that_is_closed_are_lost_and_counted_and_others_are_not),
        HOLD_TEST(a_nic_that_waits_for_room_can_be_closed),
        HOLD_TEST(what_waits_in_a_nic_does_not_come_into_the_next_generation),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
