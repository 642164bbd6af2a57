/* The handshake against somebody on the segment who hears everything and sends what they like, but has no
 * key: over an in-process pair of ports and a virtual clock. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "transport/client.h"
#include "transport/server.h"

#define MS 1000000ull
#define HEARD_MAX 64
#define FRAME_BYTES 256
#define HELLO_BYTES (OR_ETH_HEADER + sizeof(struct or_frame_header) + sizeof(struct or_hello))

struct frame {
    uint8_t bytes[FRAME_BYTES];
    uint32_t length;
};

/* Small frames of a type that went one way. */
struct heard {
    struct frame frames[HEARD_MAX];
    uint32_t count;
};

struct world {
    struct or_port *client_port, *server_port;
    struct or_client *client;
    struct or_server *server;
    uint64_t now;
    uint32_t seed;
    bool deaf;               /* the server's frames are lost */
    const uint8_t *repeater; /* each HELLO is repeated from this address */
    int ups, downs;
    struct heard hellos, answers; /* answers: everything from the server but DATA */
    uint8_t last_to[6];           /* where the server sent its last DATA frame */
    uint32_t last_session;        /* to which the client sent its last */
};

static void seeded_random(void *arg, void *out, size_t length)
{
    struct world *w = arg;
    for (size_t i = 0; i < length; i++) {
        w->seed = w->seed * 1664525u + 1013904223u;
        ((uint8_t *)out)[i] = (uint8_t)(w->seed >> 24);
    }
}

static void on_link(void *arg, bool up, const char *why)
{
    struct world *w = arg;
    (void)why;
    up ? w->ups++ : w->downs++;
}

static uint8_t type_of(const uint8_t *frame)
{
    return ((const struct or_frame_header *)(frame + OR_ETH_HEADER))->type;
}

static void hear(struct heard *heard, const uint8_t *frame, uint32_t length)
{
    if (heard->count == HEARD_MAX || length > FRAME_BYTES)
        return;
    struct frame *f = &heard->frames[heard->count++];
    memcpy(f->bytes, frame, length);
    f->length = length;
}

static void to_client(void *arg, const uint8_t *frame, uint32_t length)
{
    struct world *w = arg;
    if (type_of(frame) == OR_FRAME_DATA)
        memcpy(w->last_to, frame, 6);
    else
        hear(&w->answers, frame, length);
    if (!w->deaf)
        or_client_rx(w->client, frame, length, w->now);
}

static void to_server(void *arg, const uint8_t *frame, uint32_t length)
{
    struct world *w = arg;
    if (type_of(frame) == OR_FRAME_HELLO)
        hear(&w->hellos, frame, length);
    else
        w->last_session = ((const struct or_frame_header *)(frame + OR_ETH_HEADER))->session;
    or_server_rx(w->server, 0, frame, length, w->now);
    if (type_of(frame) == OR_FRAME_HELLO && w->repeater) {
        struct frame copy = {.length = length};
        memcpy(copy.bytes, frame, length);
        memcpy(copy.bytes + 6, w->repeater, 6);
        or_server_rx(w->server, 0, copy.bytes, copy.length, w->now);
    }
}

static void serve(struct world *w)
{
    or_port_rx_burst(w->server_port, 64, to_server, w);
    if (w->now >= or_server_deadline(w->server))
        or_server_tick(w->server, w->now);
    or_server_flush(w->server, w->now);
    or_port_tx_flush(w->server_port);
}

static void run(struct world *w, uint64_t ms)
{
    for (uint64_t end = w->now + ms * MS; w->now < end; w->now += MS / 10) {
        or_port_rx_burst(w->client_port, 64, to_client, w);
        if (w->now >= or_client_deadline(w->client))
            or_client_tick(w->client, w->now);
        or_client_flush(w->client, w->now);
        or_port_tx_flush(w->client_port);
        serve(w);
    }
}

static struct or_client *new_client(struct world *w)
{
    struct or_client_config config = {
        .ports = {w->client_port}, .env = {seeded_random, w}, .name = "vmhost1", .link = on_link, .arg = w};
    int err;
    memcpy(config.server_macs[0], w->server_port->mac, 6);
    memset(config.psk, 1, sizeof config.psk);
    return or_client_create(&config, &err);
}

static void add_host(struct world *w)
{
    uint8_t psk[32];
    memset(psk, 1, sizeof psk);
    assert_int_equal(or_server_add_host(w->server, "vmhost1", psk), 0);
}

static struct world *new_world(void)
{
    struct world *w = calloc(1, sizeof *w);
    int err;
    w->seed = 1;
    w->now = 1000 * MS;
    assert_int_equal(or_port_pair_open(1500, OR_ETHERTYPE_DEFAULT, &w->client_port, &w->server_port), 0);
    struct or_server_config config = {.ports = {w->server_port},
                                      .env = {seeded_random, w},
                                      .integrity = OR_INTEGRITY_MAC,
                                      .hosts_max = 4,
                                      .exports_max = 4,
                                      .slots = 64,
                                      .buffer_bytes = 4u << 20};
    w->server = or_server_create(&config, &err);
    assert_non_null(w->server);
    add_host(w);
    w->client = new_client(w);
    assert_non_null(w->client);
    return w;
}

static void free_world(struct world *w)
{
    or_client_destroy(w->client);
    or_server_destroy(w->server);
    or_port_close(w->client_port);
    or_port_close(w->server_port);
    free(w);
}

static struct or_server_stats server_stats(const struct world *w)
{
    struct or_server_stats stats;
    or_server_stats(w->server, &stats);
    return stats;
}

static uint64_t refused_by_client(const struct world *w, enum or_refuse reason)
{
    struct or_client_stats stats;
    or_client_stats(w->client, &stats);
    return stats.refused[reason];
}

static uint32_t heard_of(const struct heard *heard, uint8_t type)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < heard->count; i++)
        n += type_of(heard->frames[i].bytes) == type;
    return n;
}

/* ---- tests ---- */

static void a_first_hello_is_answered_with_a_cookie(void **state)
{
    (void)state;
    struct world *w = new_world();
    run(w, 5);
    assert_true(or_client_up(w->client));
    assert_int_equal(w->hellos.count, 2);
    assert_int_equal(w->answers.count, 2);
    assert_int_equal(type_of(w->answers.frames[0].bytes), OR_FRAME_RETRY);
    assert_int_equal(type_of(w->answers.frames[1].bytes), OR_FRAME_WELCOME);
    assert_int_equal(server_stats(w).handshakes, 1);
    assert_int_equal(server_stats(w).refused[OR_REFUSE_COOKIE], 1);
    free_world(w);
}

static void a_client_that_comes_back_has_its_cookie(void **state)
{
    (void)state;
    struct world *w = new_world();
    run(w, 5);
    w->deaf = true;
    run(w, 3000);
    assert_false(or_client_up(w->client));
    w->deaf = false;
    run(w, 1000);
    assert_true(or_client_up(w->client));
    assert_int_equal(server_stats(w).refused[OR_REFUSE_COOKIE], 1); /* the very first */
    free_world(w);
}

static void a_replayed_hello_costs_its_host_nothing(void **state)
{
    (void)state;
    struct world *w = new_world();
    run(w, 5);
    or_client_destroy(w->client);
    w->client = new_client(w); /* so that there are HELLOs of a session that is over, too */
    run(w, 5);
    assert_true(or_client_up(w->client));
    struct or_server_stats before = server_stats(w);
    uint32_t hellos = w->hellos.count, answers = w->answers.count;
    assert_int_equal(hellos, 4);
    for (int i = 0; i < 4000; i++) {
        w->now += MS / 100;
        or_server_rx(w->server, 0, w->hellos.frames[i % hellos].bytes, w->hellos.frames[0].length, w->now);
        or_port_tx_flush(w->server_port);
        or_port_rx_burst(w->client_port, 64, to_client, w);
    }
    assert_int_equal(server_stats(w).handshakes, before.handshakes);
    assert_int_equal(w->downs, 0);
    /* 40 ms: each of the three that are not the present session's was answered at most 11 times. */
    assert_in_range(w->answers.count - answers, 3, 33);
    assert_int_equal(server_stats(w).refused[OR_REFUSE_COOKIE] - before.refused[OR_REFUSE_COOKIE], 3000);
    assert_int_equal(server_stats(w).refused[OR_REFUSE_RATE], 0);
    /* Nor do the answers that it called forth mean anything to the host. */
    assert_true(or_client_up(w->client));
    assert_int_equal(refused_by_client(w, OR_REFUSE_SESSION), w->answers.count - answers);
    free_world(w);
}

static void replays_do_not_keep_a_host_out(void **state)
{
    (void)state;
    struct world *w = new_world();
    run(w, 5);
    or_client_destroy(w->client);
    w->client = new_client(w);
    w->ups = 0;
    for (int ms = 0; ms < 100; ms++) {
        for (int i = 0; i < 100; i++) {
            struct frame f = w->hellos.frames[i % 2];
            or_server_rx(w->server, 0, f.bytes, f.length, w->now);
        }
        run(w, 1);
    }
    assert_true(or_client_up(w->client));
    assert_int_equal(w->ups, 1);
    free_world(w);
}

static void a_hello_that_was_changed_is_refused_and_not_answered(void **state)
{
    (void)state;
    struct world *w = new_world();
    run(w, 5);
    uint32_t answers = w->answers.count;
    struct frame f = w->hellos.frames[0];
    assert_int_equal(f.length, HELLO_BYTES);
    for (uint32_t i = OR_ETH_HEADER + sizeof(struct or_frame_header) - OR_DIGEST_BYTES; i < HELLO_BYTES; i++) {
        f.bytes[i] ^= 0x10;
        or_server_rx(w->server, 0, f.bytes, f.length, w->now);
        f.bytes[i] ^= 0x10;
        run(w, 10);
    }
    struct or_server_stats stats = server_stats(w);
    assert_int_equal(w->answers.count, answers);
    assert_int_equal(stats.handshakes, 1);
    assert_int_equal(stats.refused[OR_REFUSE_HANDSHAKE] + stats.refused[OR_REFUSE_HOST],
                     OR_DIGEST_BYTES + sizeof(struct or_hello));
    free_world(w);
}

static void set_session(struct frame *f, uint32_t session)
{
    memcpy(f->bytes + OR_ETH_HEADER + offsetof(struct or_frame_header, session), &session, sizeof session);
}

/* The client's number of its present handshake: anybody can read it. */
static uint32_t hello_session(const struct world *w)
{
    const uint8_t *hello = w->hellos.frames[w->hellos.count - 1].bytes + OR_ETH_HEADER + sizeof(struct or_frame_header);
    uint32_t session;
    memcpy(&session, hello + offsetof(struct or_hello, session), sizeof session);
    return session;
}

/* A frame to the client's present handshake, as far as a stranger can make one. */
static struct frame forged(const struct world *w, uint8_t type, uint32_t body_bytes)
{
    struct frame f = {.length = OR_ETH_HEADER + (uint32_t)sizeof(struct or_frame_header) + body_bytes};
    const struct or_frame_header h = {.version = OR_WIRE_VERSION,
                                      .type = type,
                                      .session = hello_session(w),
                                      .length = (uint16_t)(f.length - OR_ETH_HEADER)};
    memset(f.bytes, 0x5a, sizeof f.bytes);
    memcpy(f.bytes + OR_ETH_HEADER, &h, sizeof h);
    return f;
}

static void forged_answers_change_nothing(void **state)
{
    (void)state;
    struct world *w = new_world();
    w->deaf = true;
    run(w, 100);
    uint32_t hellos = w->hellos.count;
    assert_true(hellos > 1);
    struct frame forgeries[] = {forged(w, OR_FRAME_RETRY, sizeof(struct or_retry)),
                                forged(w, OR_FRAME_WELCOME, sizeof(struct or_welcome))};
    for (int i = 0; i < 2000; i++)
        or_client_rx(w->client, forgeries[i % 2].bytes, forgeries[i % 2].length, w->now);
    assert_int_equal(refused_by_client(w, OR_REFUSE_HANDSHAKE), 2000);
    run(w, 400);
    assert_true(w->hellos.count > hellos); /* the same as before */
    assert_memory_equal(w->hellos.frames[hellos].bytes, w->hellos.frames[0].bytes, HELLO_BYTES);
    w->deaf = false;
    run(w, 500);
    assert_true(or_client_up(w->client));
    free_world(w);
}

static void an_answer_to_another_hello_is_refused(void **state)
{
    (void)state;
    struct world *w = new_world();
    run(w, 5);
    struct frame old[2] = {w->answers.frames[0], w->answers.frames[1]};
    or_client_destroy(w->client);
    w->client = new_client(w);
    w->deaf = true;
    run(w, 100);
    for (int i = 0; i < 2; i++) { /* aimed at the new handshake's number */
        set_session(&old[i], hello_session(w));
        or_client_rx(w->client, old[i].bytes, old[i].length, w->now);
    }
    assert_int_equal(refused_by_client(w, OR_REFUSE_HANDSHAKE), 2);
    free_world(w);
}

static void a_hello_repeated_from_elsewhere_does_not_divert_the_session(void **state)
{
    (void)state;
    struct world *w = new_world();
    const uint8_t stranger[6] = {2, 0, 0, 0, 0, 0x66};
    w->repeater = stranger;
    run(w, 20);
    assert_true(or_client_up(w->client));
    assert_memory_equal(w->last_to, w->client_port->mac, 6);
    free_world(w);
}

static void strangers_get_few_unknowns(void **state)
{
    (void)state;
    struct world *w = new_world();
    run(w, 5);
    uint32_t answers = w->answers.count;
    struct frame f = forged(w, OR_FRAME_DATA, sizeof(struct or_message));
    for (int i = 0; i < 10000; i++) {
        set_session(&f, (uint32_t)i << 10 | 3);
        f.bytes[11] = (uint8_t)(i % 2);
        or_server_rx(w->server, 0, f.bytes, f.length, w->now);
    }
    run(w, 1);
    assert_int_equal(w->answers.count - answers, 2); /* one for each address */
    assert_int_equal(heard_of(&w->answers, OR_FRAME_UNKNOWN), 2);
    free_world(w);
}

/* To the client, about the session that it has: a stranger reads its number from any frame. */
static void tell_unknown(struct world *w)
{
    struct frame f = forged(w, OR_FRAME_UNKNOWN, 0);
    set_session(&f, w->last_session);
    or_client_rx(w->client, f.bytes, f.length, w->now);
}

static void an_unknown_alone_ends_no_session(void **state)
{
    (void)state;
    struct world *w = new_world();
    run(w, 1100); /* it has pinged */
    w->deaf = true;
    for (int ms = 0; ms < 1200; ms++) {
        run(w, 1);
        tell_unknown(w);
    }
    assert_int_equal(w->downs, 0);
    w->deaf = false;
    for (int ms = 0; ms < 1000; ms++) {
        run(w, 1);
        tell_unknown(w);
    }
    assert_int_equal(w->downs, 0);
    assert_int_equal(w->ups, 1);
    assert_int_equal(server_stats(w).sessions, 1);
    free_world(w);
}

static void a_server_that_does_not_know_the_session_makes_another(void **state)
{
    (void)state;
    struct world *w = new_world();
    run(w, 5);
    assert_int_equal(or_server_remove_host(w->server, "vmhost1"), 0);
    add_host(w);
    run(w, 1100); /* the next ping finds it out */
    assert_int_equal(w->ups, 2);
    assert_true(or_client_up(w->client));
    assert_int_equal(server_stats(w).sessions, 2);
    free_world(w);
}

/* A figure to look at, not a promise. */
static void print_cost(struct world *w, const char *what, const struct frame *f)
{
    struct timespec a, b;
    enum { TIMES = 20000 };
    clock_gettime(CLOCK_MONOTONIC, &a);
    for (int i = 0; i < TIMES; i++)
        or_server_rx(w->server, 0, f->bytes, f->length, w->now);
    clock_gettime(CLOCK_MONOTONIC, &b);
    double ns = (double)(b.tv_sec - a.tv_sec) * 1e9 + (double)(b.tv_nsec - a.tv_nsec);
    print_message("measured: %s costs %.2f us\n", what, ns / TIMES / 1000);
}

static void refusals_are_cheap(void **state)
{
    (void)state;
    struct world *w = new_world();
    run(w, 5);
    struct frame f = w->hellos.frames[0];
    print_cost(w, "refusing a replayed HELLO", &f);
    f.bytes[HELLO_BYTES - 1] ^= 1;
    print_cost(w, "refusing a forged HELLO", &f);
    assert_int_equal(server_stats(w).handshakes, 1);
    free_world(w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_first_hello_is_answered_with_a_cookie),
        cmocka_unit_test(a_client_that_comes_back_has_its_cookie),
        cmocka_unit_test(a_replayed_hello_costs_its_host_nothing),
        cmocka_unit_test(replays_do_not_keep_a_host_out),
        cmocka_unit_test(a_hello_that_was_changed_is_refused_and_not_answered),
        cmocka_unit_test(forged_answers_change_nothing),
        cmocka_unit_test(an_answer_to_another_hello_is_refused),
        cmocka_unit_test(a_hello_repeated_from_elsewhere_does_not_divert_the_session),
        cmocka_unit_test(strangers_get_few_unknowns),
        cmocka_unit_test(an_unknown_alone_ends_no_session),
        cmocka_unit_test(a_server_that_does_not_know_the_session_makes_another),
        cmocka_unit_test(refusals_are_cheap),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
