/* When a session uses envelopes, over a network that swallows them or does not. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "session_pair.h"

/* The ports of the pair, with frames counted by their form; those in envelopes may get lost. */
static struct {
    bool swallows;
    uint32_t merged, probes, swallowed;
} network;

static struct or_port_ops pair_ops;

static void commit(struct or_port *port, uint32_t length)
{
    network.merged += port->tx_form == OR_TX_MERGE;
    network.probes += port->tx_form == OR_TX_PROBE;
    if (port->tx_form != OR_TX_PLAIN && network.swallows)
        network.swallowed++; /* the buffer is handed out again */
    else
        pair_ops.tx_commit(port, length);
}

static struct world *new_network(bool swallows)
{
    static struct or_port_ops with_forms;
    struct world *w = new_world(9000, OR_INTEGRITY_MAC);
    pair_ops = *w->client_port->ops;
    with_forms = pair_ops;
    with_forms.tx_commit = commit;
    w->client_port->ops = w->server_port->ops = &with_forms;
    w->client_port->envelopes = w->server_port->envelopes = OR_ENVELOPES_READY;
    memset(&network, 0, sizeof network);
    network.swallows = swallows;
    return w;
}

#define TRANSFER (256u << 10)

/* Writes and reads 256 KiB; returns how long that took, in ms. */
static uint64_t transfer(struct world *w)
{
    static uint8_t out[TRANSFER], in[TRANSFER];
    uint64_t begin = w->now;
    seeded_random(w, out, TRANSFER);
    for (int reads = 0; reads < 2; reads++) {
        struct request r = {.data = reads ? in : out};
        r.req = (struct or_req){
            .ops = &ops, .length = TRANSFER, .device = 5, .generation = 3, .op = reads ? OR_OP_READ : OR_OP_WRITE};
        or_client_submit(w->client, &r.req, w->now);
        while (!r.done && w->now < begin + 60000 * MS)
            run_a_little(w);
        assert_int_equal(r.done, 1);
        assert_int_equal(r.req.status, OR_OK);
    }
    assert_memory_equal(in, out, TRANSFER);
    return (w->now - begin) / MS;
}

static enum or_link_form client_form(struct world *w)
{
    struct or_client_stats stats;
    or_client_stats(w->client, &stats);
    return stats.links[0].form;
}

static enum or_link_form server_form(struct world *w)
{
    struct or_host_info host;
    assert_true(or_server_host(w->server, 0, &host));
    return host.links[0].form;
}

static void envelopes_are_used_once_one_was_acknowledged(void **state)
{
    (void)state;
    struct world *w = new_network(false);
    run(w, 100);
    assert_int_equal(client_form(w), OR_LINK_SUPER);
    assert_int_equal(server_form(w), OR_LINK_SUPER);
    transfer(w);
    assert_true(network.merged >= 2 * TRANSFER / 9000);
    assert_int_equal(network.probes, 4); /* two in each direction */
    struct or_client_stats stats;
    or_client_stats(w->client, &stats);
    assert_int_equal(stats.frames_lost, 0);
    end_world(w);
}

static void where_they_do_not_arrive_frames_travel_plain(void **state)
{
    (void)state;
    struct world *w = new_network(true);
    run(w, 900);
    assert_int_equal(client_form(w), OR_LINK_PLAIN_UNANSWERED);
    assert_int_equal(server_form(w), OR_LINK_PLAIN_UNANSWERED);
    assert_true(transfer(w) < 100);
    assert_int_equal(network.merged, 0);
    assert_int_equal(network.probes, 8); /* in each direction two, once more */
    assert_int_equal(w->downs, 0);
    end_world(w);
}

/* Less and less often. */
static void they_are_tried_again(void **state)
{
    (void)state;
    struct world *w = new_network(true);
    run(w, 10000);
    uint32_t probes = network.probes;
    assert_in_range(probes, 10, 32);
    run(w, 60000);
    assert_in_range(network.probes - probes, 4, 16);
    network.swallows = false;
    run(w, 61000);
    assert_int_equal(client_form(w), OR_LINK_SUPER);
    assert_int_equal(server_form(w), OR_LINK_SUPER);
    assert_int_equal(w->downs, 0);
    end_world(w);
}

static void a_network_that_begins_to_swallow_them_stops_nothing(void **state)
{
    (void)state;
    struct world *w = new_network(false);
    run(w, 100);
    transfer(w);
    network.swallows = true;
    assert_true(transfer(w) < 1000);
    assert_true(network.swallowed > 0);
    run(w, 100);
    assert_int_equal(client_form(w), OR_LINK_PLAIN_UNANSWERED);
    uint32_t merged = network.merged;
    assert_true(transfer(w) < 100);
    assert_int_equal(network.merged, merged);
    assert_int_equal(w->downs, 0);
    network.swallows = false;
    run(w, 5000);
    assert_int_equal(client_form(w), OR_LINK_SUPER);
    end_world(w);
}

static bool loses_some(struct world *w)
{
    return ++*(uint32_t *)w->test % 50 == 0;
}

static void losses_that_are_not_theirs_do_not_end_their_use(void **state)
{
    (void)state;
    struct world *w = new_network(false);
    uint32_t frames = 0;
    w->test = &frames;
    run(w, 100);
    w->loses = loses_some;
    for (int i = 0; i < 20; i++)
        transfer(w);
    w->loses = NULL;
    run(w, 1500);
    assert_int_equal(client_form(w), OR_LINK_SUPER);
    assert_true(network.probes > 4);
    assert_true(network.merged > 20 * TRANSFER / 9000);
    end_world(w);
}

static void a_port_that_cannot_is_not_asked(void **state)
{
    (void)state;
    struct world *w = new_network(false);
    w->client_port->envelopes = OR_ENVELOPES_LARGE;
    run(w, 100);
    assert_int_equal(client_form(w), OR_LINK_PLAIN_LARGE);
    assert_int_equal(server_form(w), OR_LINK_SUPER);
    assert_int_equal(network.probes, 2);
    end_world(w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(envelopes_are_used_once_one_was_acknowledged),
        cmocka_unit_test(where_they_do_not_arrive_frames_travel_plain),
        cmocka_unit_test(they_are_tried_again),
        cmocka_unit_test(a_network_that_begins_to_swallow_them_stops_nothing),
        cmocka_unit_test(losses_that_are_not_theirs_do_not_end_their_use),
        cmocka_unit_test(a_port_that_cannot_is_not_asked),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
