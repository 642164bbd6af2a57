/* The in-process pair keeps the contract of a port: frames arrive in order and whole, a full ring drops
 * and counts, and a reader that sleeps on the descriptor is woken. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <poll.h>
#include <pthread.h>

#include "transport/port.h"

#define MTU 1500u

struct ends {
    struct or_port *a, *b;
};

static struct ends open_pair(void)
{
    struct ends ends;
    assert_int_equal(or_port_pair_open(MTU, 0x88B5, &ends.a, &ends.b), 0);
    return ends;
}

static void close_pair(struct ends ends)
{
    or_port_close(ends.a);
    or_port_close(ends.b);
}

/* Frame number `number`: its length and every byte follow from the number. */
static uint32_t frame_length(uint32_t number)
{
    return 14 + (number * 2654435761u >> 8) % (MTU + 1);
}

static void commit_numbered(struct or_port *port, uint32_t number)
{
    uint8_t *frame = or_port_tx_alloc(port);
    uint32_t length = frame_length(number);
    for (uint32_t i = 0; i < length; i++)
        frame[i] = (uint8_t)(number + i);
    or_port_tx_commit(port, length);
}

struct reader {
    uint32_t next, wrong;
};

/* Counts instead of asserting: it also runs on a thread of its own. */
static void expect_next(void *arg, const uint8_t *frame, uint32_t length)
{
    struct reader *reader = arg;
    uint32_t number = reader->next++;
    bool right = length == frame_length(number);
    for (uint32_t i = 0; right && i < length; i++)
        right = frame[i] == (uint8_t)(number + i);
    if (!right)
        reader->wrong++;
}

static bool readable(const struct or_port *port)
{
    struct pollfd p = {.fd = port->fd, .events = POLLIN};
    return poll(&p, 1, 0) == 1;
}

static void frames_arrive_in_order_and_whole_in_both_directions(void **state)
{
    (void)state;
    struct ends ends = open_pair();
    struct reader at_a = {0}, at_b = {0};
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < 10 * ends.a->rx_frames; i++) {
        commit_numbered(ends.a, i);
        commit_numbered(ends.b, i);
        bytes += frame_length(i);
        if (i % 7 == 0) {
            or_port_tx_flush(ends.a);
            or_port_tx_flush(ends.b);
            while (or_port_rx_burst(ends.a, 3, expect_next, &at_a) > 0)
                ;
            while (or_port_rx_burst(ends.b, 3, expect_next, &at_b) > 0)
                ;
            assert_int_equal(at_a.next, i + 1);
            assert_int_equal(at_b.next, i + 1);
        }
    }
    or_port_tx_flush(ends.a);
    assert_true(or_port_rx_burst(ends.b, 1000, expect_next, &at_b) > 0);
    assert_int_equal(at_a.wrong, 0);
    assert_int_equal(at_b.wrong, 0);
    assert_int_equal(ends.a->stats.tx_frames, at_b.next);
    assert_int_equal(ends.a->stats.tx_bytes, bytes);
    assert_int_equal(ends.b->stats.rx_frames, at_b.next);
    assert_int_equal(ends.b->stats.rx_bytes, bytes);
    assert_int_equal(ends.a->stats.tx_dropped, 0);
    close_pair(ends);
}

static void committed_frames_wait_for_the_flush(void **state)
{
    (void)state;
    struct ends ends = open_pair();
    struct reader reader = {0};
    commit_numbered(ends.a, 0);
    assert_int_equal(or_port_rx_burst(ends.b, 10, expect_next, &reader), 0);
    assert_false(readable(ends.b));
    or_port_tx_flush(ends.a);
    assert_true(readable(ends.b));
    assert_int_equal(or_port_rx_burst(ends.b, 10, expect_next, &reader), 1);
    assert_int_equal(reader.wrong, 0);
    close_pair(ends);
}

static void a_full_ring_drops_and_counts(void **state)
{
    (void)state;
    struct ends ends = open_pair();
    struct reader reader = {0};
    uint32_t room = ends.b->rx_frames;
    for (uint32_t i = 0; i < room + 5; i++)
        commit_numbered(ends.a, i);
    or_port_tx_flush(ends.a);
    assert_int_equal(ends.a->stats.tx_frames, room);
    assert_int_equal(ends.a->stats.tx_dropped, 5);

    assert_int_equal(or_port_rx_burst(ends.b, room + 5, expect_next, &reader), room);
    assert_int_equal(reader.wrong, 0);
    commit_numbered(ends.a, room);
    or_port_tx_flush(ends.a);
    assert_int_equal(or_port_rx_burst(ends.b, 10, expect_next, &reader), 1);
    assert_int_equal(reader.wrong, 0);
    close_pair(ends);
}

static void a_buffer_not_committed_is_handed_out_again(void **state)
{
    (void)state;
    struct ends ends = open_pair();
    struct reader reader = {0};
    assert_ptr_equal(or_port_tx_alloc(ends.a), or_port_tx_alloc(ends.a));
    for (uint32_t i = 0; i < ends.b->rx_frames; i++)
        commit_numbered(ends.a, i);
    or_port_tx_flush(ends.a);

    /* Also when room has come up meanwhile. */
    uint8_t *buffer = or_port_tx_alloc(ends.a);
    or_port_rx_burst(ends.b, 1, expect_next, &reader);
    assert_ptr_equal(or_port_tx_alloc(ends.a), buffer);
    close_pair(ends);
}

static void the_descriptor_is_readable_exactly_while_frames_wait(void **state)
{
    (void)state;
    struct ends ends = open_pair();
    struct reader reader = {0};
    for (uint32_t round = 0; round < 100; round++) {
        for (uint32_t i = 0; i < 3; i++)
            commit_numbered(ends.a, 3 * round + i);
        or_port_tx_flush(ends.a);
        assert_true(readable(ends.b));
        assert_int_equal(or_port_rx_burst(ends.b, 2, expect_next, &reader), 2);
        assert_true(readable(ends.b));
        assert_int_equal(or_port_rx_burst(ends.b, 2, expect_next, &reader), 1);
        assert_false(readable(ends.b));
    }
    assert_int_equal(reader.wrong, 0);
    close_pair(ends);
}

static void either_end_may_close_first(void **state)
{
    (void)state;
    for (int i = 0; i < 2; i++) {
        struct ends ends = open_pair();
        struct or_port *first = i ? ends.a : ends.b, *second = i ? ends.b : ends.a;
        or_port_close(first);
        for (uint32_t number = 0; number < 2 * second->rx_frames; number++)
            commit_numbered(second, number);
        or_port_tx_flush(second);
        assert_int_equal(second->stats.tx_dropped, second->rx_frames);
        or_port_close(second);
    }
}

#define THREAD_FRAMES 40000u
#define WAIT_MS_MAX 20000

struct sleeper {
    struct or_port *port;
    struct reader reader;
    uint32_t idle_wakeups; /* in a row, and the most of them */
    uint32_t idle_wakeups_max;
};

/* Checks a frame and answers with a shortest one, at once: so the next frame may come while this burst
 * is about to find the ring empty. */
static void expect_and_acknowledge(void *arg, const uint8_t *frame, uint32_t length)
{
    struct sleeper *sleeper = arg;
    expect_next(&sleeper->reader, frame, length);
    memset(or_port_tx_alloc(sleeper->port), 0, 14);
    or_port_tx_commit(sleeper->port, 14);
    or_port_tx_flush(sleeper->port);
}

static void count_frame(void *arg, const uint8_t *frame, uint32_t length)
{
    (void)frame;
    (void)length;
    ++*(uint32_t *)arg;
}

/* False: none came, which is what a lost wake-up looks like. */
static bool sleep_for_frames(const struct or_port *port)
{
    struct pollfd p = {.fd = port->fd, .events = POLLIN};
    return poll(&p, 1, WAIT_MS_MAX) == 1;
}

static void *sleeping_reader(void *arg)
{
    struct sleeper *sleeper = arg;
    while (sleeper->reader.next < THREAD_FRAMES && sleep_for_frames(sleeper->port)) {
        uint32_t frames = or_port_rx_burst(sleeper->port, 16, expect_and_acknowledge, sleeper);
        sleeper->idle_wakeups = frames ? 0 : sleeper->idle_wakeups + 1;
        if (sleeper->idle_wakeups > sleeper->idle_wakeups_max)
            sleeper->idle_wakeups_max = sleeper->idle_wakeups;
    }
    return NULL;
}

/* Spins for a moment, so as to answer while the peer is still busy with what it received, then sleeps. */
static bool wait_for_acknowledgements(struct or_port *port, uint32_t *acknowledged)
{
    for (int spins = 0; spins < 2000; spins++)
        if (or_port_rx_burst(port, 16, count_frame, acknowledged) > 0)
            return true;
    return sleep_for_frames(port);
}

/* Sends as long as at most `window` frames are not acknowledged. */
static void exchange_with_sleeping_reader(uint32_t window)
{
    struct ends ends = open_pair();
    struct sleeper sleeper = {.port = ends.b};
    uint32_t sent = 0, acknowledged = 0;
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, sleeping_reader, &sleeper), 0);
    do {
        while (sent < THREAD_FRAMES && sent - acknowledged < window) {
            commit_numbered(ends.a, sent++);
            if (sent % 5 == 0)
                or_port_tx_flush(ends.a);
        }
        or_port_tx_flush(ends.a);
    } while (wait_for_acknowledgements(ends.a, &acknowledged) && acknowledged < THREAD_FRAMES);
    pthread_join(thread, NULL);
    assert_int_equal(acknowledged, THREAD_FRAMES);
    assert_int_equal(sleeper.reader.next, THREAD_FRAMES);
    assert_int_equal(sleeper.reader.wrong, 0);
    assert_int_equal(ends.a->stats.tx_dropped + ends.b->stats.tx_dropped, 0);
    /* A frame may be taken before its signal, which then finds nothing: but never twice in a row. */
    assert_true(sleeper.idle_wakeups_max <= 1);
    close_pair(ends);
}

static void two_threads_lose_no_frame_and_no_wake_up(void **state)
{
    (void)state;
    exchange_with_sleeping_reader(1);
    exchange_with_sleeping_reader(100); /* not the whole ring: a slot is free only after its handler */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(frames_arrive_in_order_and_whole_in_both_directions),
        cmocka_unit_test(committed_frames_wait_for_the_flush),
        cmocka_unit_test(a_full_ring_drops_and_counts),
        cmocka_unit_test(a_buffer_not_committed_is_handed_out_again),
        cmocka_unit_test(the_descriptor_is_readable_exactly_while_frames_wait),
        cmocka_unit_test(either_end_may_close_first),
        cmocka_unit_test(two_threads_lose_no_frame_and_no_wake_up),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
