/* A host's dispatcher and two workers of an I/O hypervisor on one segment, over an in-process pair of ports and a
 * virtual clock. What steers frames to a worker is the kernel's filter elsewhere (port_filter_test.c), and here the
 * test. One volume, which is at one worker at a time. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "mem/list.h"
#include "transport/dispatch.h"
#include "transport/server.h"

#define MS 1000000ull
#define DEVICE 5u
#define GENERATION 3u
#define BLOCK 512u
#define BLOCKS 64u
#define WORKERS 2u
#define REQUESTS 48u

struct world {
    struct or_port *host_port, *iohv_port;
    struct or_dispatch *dispatch;
    struct or_route route;
    struct or_server *servers[WORKERS];
    struct or_volume volume;
    uint8_t bytes[BLOCKS * BLOCK];
    struct or_list executing; /* what the volume has */
    uint32_t executed_by[WORKERS], at, placement;
    bool deaf[WORKERS], lossy;
    int ups[WORKERS], left;
    char document[64];
    uint64_t now;
    uint32_t seed;
};

struct request {
    struct or_req req;
    struct world *world;
    uint8_t data[4 * BLOCK];
    int done;
};

static uint32_t any(struct world *w, uint32_t below)
{
    w->seed = w->seed * 1664525u + 1013904223u;
    return (w->seed >> 8) % below;
}

static void seeded_random(void *arg, void *out, size_t length)
{
    for (size_t i = 0; i < length; i++)
        ((uint8_t *)out)[i] = (uint8_t)any(arg, 256);
}

/* --- a volume that takes its time ---------------------------------------------------------------- */

static void volume_submit(struct or_volume *v, struct or_io *io)
{
    struct world *w = v->owner;
    or_list_append(&w->executing, &io->link);
}

static const struct or_backend_ops slow = {.name = "slow", .submit = volume_submit};

static void end_io(struct world *w, struct or_io *io)
{
    or_list_remove(&io->link);
    w->executed_by[w->at]++;
    if (io->op == OR_OP_WRITE)
        memcpy(w->bytes + io->offset, io->data, io->length);
    else if (io->op == OR_OP_READ)
        memcpy(io->data, w->bytes + io->offset, io->length);
    io->status = OR_OK;
    or_volume_complete(io);
}

/* In any order. */
static void execute_some(struct world *w)
{
    struct or_list *next;
    for (struct or_list *l = w->executing.next; l != &w->executing; l = next) {
        next = l->next;
        if (any(w, 3) == 0)
            end_io(w, OR_CONTAINER(l, struct or_io, link));
    }
}

/* --- the world ----------------------------------------------------------------------------------- */

static void pull(struct or_req *r, uint32_t offset, uint8_t *dst, uint32_t length)
{
    memcpy(dst, ((struct request *)r)->data + offset, length);
}

static void push(struct or_req *r, uint32_t offset, const uint8_t *src, uint32_t length)
{
    memcpy(((struct request *)r)->data + offset, src, length);
}

static void done(struct or_req *r)
{
    ((struct request *)r)->done++;
}

static const struct or_req_ops ops = {pull, push, done};

static void on_link(void *arg, uint8_t worker, bool up, const char *why)
{
    struct world *w = arg;
    assert_true(up == (why[0] == 0));
    w->ups[worker] += up;
}

static void on_document(void *arg, const uint8_t *document, uint32_t length)
{
    struct world *w = arg;
    assert_in_range(length, 1, sizeof w->document - 1);
    memcpy(w->document, document, length);
    w->document[length] = 0;
}

static void host_rx(void *arg, const uint8_t *frame, uint32_t length)
{
    struct world *w = arg;
    if (!w->lossy || any(w, 20))
        or_dispatch_rx(w->dispatch, frame, length, w->now);
}

static void iohv_rx(void *arg, const uint8_t *frame, uint32_t length)
{
    struct world *w = arg;
    uint8_t channel = frame[OR_ETH_HEADER + offsetof(struct or_frame_header, channel)];
    if (channel < WORKERS && !w->deaf[channel] && (!w->lossy || any(w, 20)))
        or_server_rx(w->servers[channel], 0, frame, length, w->now);
}

static void run_step(struct world *w)
{
    or_port_rx_burst(w->host_port, 64, host_rx, w);
    if (w->now >= or_dispatch_deadline(w->dispatch))
        or_dispatch_tick(w->dispatch, w->now);
    or_dispatch_flush(w->dispatch, w->now);
    or_port_tx_flush(w->host_port);
    or_port_rx_burst(w->iohv_port, 64, iohv_rx, w);
    execute_some(w);
    for (uint32_t i = 0; i < WORKERS; i++) {
        if (w->now >= or_server_deadline(w->servers[i]))
            or_server_tick(w->servers[i], w->now);
        or_server_flush(w->servers[i], w->now);
    }
    or_port_tx_flush(w->iohv_port);
    w->now += MS / 40;
}

static void run(struct world *w, uint64_t ms)
{
    for (uint64_t end = w->now + ms * MS; w->now < end;)
        run_step(w);
}

static struct or_export export_of(struct world *w)
{
    return (struct or_export){
        .id = DEVICE, .generation = GENERATION, .placement = w->placement, .host = "vmhost1", .volume = &w->volume};
}

/* What the document says. */
static struct or_placement place(const struct world *w)
{
    return (struct or_placement){(uint8_t)w->at, w->placement};
}

static void left(void *arg)
{
    ((struct world *)arg)->left++;
}

static struct or_server *new_server(struct world *w, uint8_t channel)
{
    struct or_server_config config = {
        .ports = {w->iohv_port},
        .env = {seeded_random, w},
        .channel = channel,
        .integrity = OR_INTEGRITY_CRC,
        .hosts_max = 4,
        .exports_max = 8,
        .slots = 64,
        .buffer_bytes = 16u << 20,
        .arg = w,
    };
    int err;
    uint8_t psk[32];
    struct or_server *server = or_server_create(&config, &err);
    memset(psk, 7, sizeof psk);
    assert_non_null(server);
    assert_int_equal(or_server_add_host(server, "vmhost1", psk), 0);
    return server;
}

/* The volume is at worker 0, and the host thinks that it is at `worker`. */
static struct world *new_world(uint8_t worker)
{
    struct world *w = calloc(1, sizeof *w);
    int err;
    w->seed = 1;
    w->now = 1000 * MS;
    w->volume = (struct or_volume){.ops = &slow, .size = sizeof w->bytes, .block_size = BLOCK, .owner = w};
    or_list_init(&w->executing);
    assert_int_equal(or_port_pair_open(9000, OR_ETHERTYPE_DEFAULT, &w->host_port, &w->iohv_port), 0);
    struct or_export x = export_of(w);
    for (uint8_t i = 0; i < WORKERS; i++) {
        w->servers[i] = new_server(w, i);
        assert_int_equal(
            i == 0 ? or_server_add_export(w->servers[i], &x) : or_server_elsewhere(w->servers[i], &x, left, w), 0);
    }
    assert_int_equal(w->left, 1);
    w->left = 0;
    struct or_dispatch_config config = {
        .client = {.ports = {w->host_port}, .env = {seeded_random, w}, .document = on_document, .name = "vmhost1"},
        .link = on_link,
        .arg = w,
    };
    memcpy(config.client.server_macs[0], w->iohv_port->mac, 6);
    memset(config.client.psk, 7, sizeof config.client.psk);
    w->dispatch = or_dispatch_create(&config, &err);
    assert_non_null(w->dispatch);
    assert_int_equal(or_route_open(w->dispatch, &w->route, DEVICE, (struct or_placement){worker, 0}), 0);
    return w;
}

static void end_world(struct world *w)
{
    if (w->dispatch)
        or_dispatch_destroy(w->dispatch);
    for (uint32_t i = 0; i < WORKERS; i++) {
        or_server_remove_export(w->servers[i], DEVICE, left, w);
        while (!or_list_empty(&w->executing))
            execute_some(w);
        or_server_destroy(w->servers[i]);
    }
    or_port_close(w->host_port);
    or_port_close(w->iohv_port);
    free(w);
}

/* The volume's worker becomes the other one, as the supervisor does it, but for telling the host. */
static void move(struct world *w)
{
    uint32_t from = w->at;
    struct or_export x = export_of(w);
    w->left = 0;
    assert_int_equal(or_server_elsewhere(w->servers[from], &x, left, w), 0);
    assert_int_equal(or_server_elsewhere(w->servers[from], &x, left, w), w->left ? 0 : -EBUSY);
    while (!w->left)
        run_step(w);
    assert_true(or_list_empty(&w->executing));
    w->at = 1 - from;
    x.placement = ++w->placement;
    assert_int_equal(or_server_add_export(w->servers[w->at], &x), 0);
}

static void submit(struct world *w, struct request *r, uint8_t op, uint32_t block, uint32_t blocks)
{
    r->world = w;
    r->done = 0;
    r->req = (struct or_req){
        .ops = &ops,
        .op = op,
        .offset = block * BLOCK,
        .length = op == OR_OP_FLUSH ? 0 : blocks * BLOCK,
        .device = DEVICE,
        .generation = GENERATION,
    };
    or_route_submit(&w->route, &r->req, w->now);
}

static void wait_for(struct world *w, const struct request *r)
{
    for (int i = 0; i < 4000000 && !r->done; i++)
        run_step(w);
    assert_int_equal(r->done, 1);
    assert_int_equal(r->req.status, OR_OK);
}

/* --- tests --------------------------------------------------------------------------------------- */

static void requests_go_to_the_worker_of_their_route(void **state)
{
    (void)state;
    struct world *w = new_world(0);
    struct request r;
    submit(w, &r, OR_OP_WRITE, 3, 1);
    wait_for(w, &r);
    assert_int_equal(w->executed_by[0], 1);
    assert_int_equal(w->ups[1], 0); /* nobody needs it */
    move(w);
    assert_int_equal(or_route_move(&w->route, place(w)), 0);
    submit(w, &r, OR_OP_READ, 3, 1);
    wait_for(w, &r);
    assert_int_equal(w->executed_by[1], 1);
    assert_int_equal(w->ups[1], 1);
    struct or_dispatch_stats stats;
    or_dispatch_stats(w->dispatch, &stats);
    assert_int_equal(stats.moved, 0);
    assert_int_equal(stats.held, 0);
    assert_int_equal(stats.clients.requests, 2);
    assert_true(stats.workers[0].up && stats.workers[1].up && !stats.workers[2].made);
    end_world(w);
}

static void the_document_comes_by_worker_0(void **state)
{
    (void)state;
    struct world *w = new_world(1);
    assert_int_equal(or_server_set_document(w->servers[1], "vmhost1", "other", 5), 0);
    run(w, 100);
    assert_int_equal(w->ups[1], 1);
    assert_string_equal(w->document, "");
    assert_int_equal(or_server_set_document(w->servers[0], "vmhost1", "devices", 7), 0);
    run(w, 100);
    assert_string_equal(w->document, "devices");
    end_world(w);
}

static void a_request_at_the_wrong_worker_waits_for_the_word_and_is_executed_once(void **state)
{
    (void)state;
    struct world *w = new_world(1);
    struct request r, after;
    submit(w, &r, OR_OP_WRITE, 3, 1);
    submit(w, &after, OR_OP_WRITE, 3, 1); /* waits for the former in the client */
    run(w, 100);
    assert_int_equal(r.done + after.done, 0);
    struct or_dispatch_stats stats;
    or_dispatch_stats(w->dispatch, &stats);
    assert_true(stats.moved > 3); /* it is tried again */
    assert_true(stats.moved < 200);
    assert_int_equal(or_route_move(&w->route, place(w)), 0);
    wait_for(w, &after);
    assert_int_equal(r.done, 1);
    assert_int_equal(w->executed_by[0], 2);
    assert_int_equal(w->executed_by[1], 0);
    end_world(w);
}

static void a_request_of_an_older_placement_is_not_executed(void **state)
{
    (void)state;
    struct world *w = new_world(0);
    struct request r;
    run(w, 100);
    move(w);
    move(w); /* back again: worker 1 may have executed something meanwhile */
    submit(w, &r, OR_OP_WRITE, 3, 1);
    run(w, 50);
    assert_int_equal(r.done, 0);
    assert_int_equal(or_route_move(&w->route, place(w)), 0);
    wait_for(w, &r);
    end_world(w);
}

static void what_a_dead_worker_had_goes_to_the_other(void **state)
{
    (void)state;
    struct world *w = new_world(0);
    struct request r[3];
    run(w, 100);
    w->deaf[0] = true;
    for (uint32_t i = 0; i < 3; i++)
        submit(w, &r[i], OR_OP_WRITE, 3, 1);
    run(w, 100);
    struct or_export x = export_of(w); /* the new life of the I/O hypervisor has it at worker 1 */
    or_server_elsewhere(w->servers[0], &x, left, w);
    w->at = 1;
    assert_int_equal(or_server_add_export(w->servers[1], &x), 0);
    assert_int_equal(or_route_move(&w->route, place(w)), 0);
    wait_for(w, &r[2]); /* once the session is given up */
    assert_int_equal(r[0].done + r[1].done, 2);
    assert_int_equal(w->executed_by[1], 3);
    end_world(w);
}

/* Random writes and reads, of which many overlap; moves that the host hears of late, or never because it went back;
 * frames are lost. What a block holds in the end is the last write that was submitted to it. */
static void moves_under_load(void **state)
{
    (void)state;
    static struct request requests[REQUESTS];
    struct world *w = new_world(0);
    uint32_t last[BLOCKS] = {0}, number = 0, moves = 0;
    w->lossy = true;
    memset(requests, 0, sizeof requests);
    for (uint32_t i = 0; i < REQUESTS; i++)
        requests[i].done = 1;
    for (uint32_t round = 0; round < 6000; round++) {
        struct request *r = &requests[any(w, REQUESTS)];
        if (r->done) {
            uint32_t blocks = 1 + any(w, 4), block = any(w, BLOCKS - blocks), op = any(w, 4);
            assert_int_equal(r->req.status, OR_OK);
            assert_int_equal(r->done, 1);
            if (op != 0) {
                number++;
                for (uint32_t i = 0; i < blocks; i++) {
                    memcpy(r->data + i * BLOCK, &number, sizeof number);
                    last[block + i] = number;
                }
            }
            submit(w, r, op == 0 ? OR_OP_READ : OR_OP_WRITE, block, blocks);
        }
        if (any(w, 40) == 0) {
            move(w);
            moves++;
        }
        if (any(w, 20) == 0)
            assert_int_equal(or_route_move(&w->route, place(w)), 0);
        run_step(w);
    }
    assert_int_equal(or_route_move(&w->route, place(w)), 0);
    for (uint32_t i = 0; i < REQUESTS; i++)
        wait_for(w, &requests[i]);
    for (uint32_t i = 0; i < BLOCKS; i++)
        assert_memory_equal(w->bytes + i * BLOCK, &last[i], sizeof last[i]);
    assert_true(moves > 50);
    assert_true(w->executed_by[0] > 500 && w->executed_by[1] > 500);
    end_world(w);
}

static void the_end_ends_what_is_held(void **state)
{
    (void)state;
    struct world *w = new_world(1);
    struct request r[2];
    run(w, 100);
    submit(w, &r[0], OR_OP_WRITE, 3, 1);
    run(w, 3);
    submit(w, &r[1], OR_OP_WRITE, 9, 1);
    struct or_dispatch_stats stats;
    or_dispatch_stats(w->dispatch, &stats);
    assert_int_equal(stats.held, 2);
    or_dispatch_destroy(w->dispatch);
    w->dispatch = NULL;
    for (uint32_t i = 0; i < 2; i++) {
        assert_int_equal(r[i].done, 1);
        assert_int_equal(r[i].req.status, OR_EIO);
    }
    end_world(w);
}

static void an_attachment_that_leaves_answers_what_waits_and_can_be_removed(void **state)
{
    (void)state;
    struct world *w = new_world(0);
    struct request r;
    run(w, 100);
    submit(w, &r, OR_OP_WRITE, 3, 1);
    while (or_list_empty(&w->executing)) {
        or_dispatch_flush(w->dispatch, w->now);
        or_port_tx_flush(w->host_port);
        or_port_rx_burst(w->iohv_port, 64, iohv_rx, w);
    }
    struct or_export x = export_of(w);
    assert_int_equal(or_server_elsewhere(w->servers[0], &x, left, w), 0);
    assert_int_equal(or_server_add_export(w->servers[0], &x), -EBUSY);
    assert_int_equal(or_server_remove_export(w->servers[0], DEVICE, left, w), 0);
    assert_int_equal(w->left, 0);
    end_io(w, OR_CONTAINER(w->executing.next, struct or_io, link));
    assert_int_equal(w->left, 2);
    wait_for(w, &r); /* it was executed */
    end_world(w);
}

static void numbers_out_of_range_are_refused(void **state)
{
    (void)state;
    struct world *w = new_world(0);
    struct or_route other;
    assert_int_equal(or_route_open(w->dispatch, &other, 9, (struct or_placement){OR_CHANNELS_MAX, 0}), -EINVAL);
    assert_int_equal(or_route_move(&w->route, (struct or_placement){OR_CHANNELS_MAX, 0}), -EINVAL);
    uint8_t frame[64] = {0};
    struct or_frame_header h = {.version = OR_WIRE_VERSION, .type = OR_FRAME_DATA, .length = sizeof h + 8};
    memcpy(frame, w->host_port->mac, 6);
    frame[12] = OR_ETHERTYPE_DEFAULT >> 8;
    frame[13] = OR_ETHERTYPE_DEFAULT & 0xff;
    for (uint32_t channel = 1; channel < 256; channel++) {
        h.channel = (uint8_t)channel;
        memcpy(frame + OR_ETH_HEADER, &h, sizeof h);
        or_dispatch_rx(w->dispatch, frame, sizeof frame, w->now);
    }
    or_dispatch_rx(w->dispatch, frame, 3, w->now);
    uint64_t counts[OR_REFUSE_MAX];
    uint8_t source[6];
    or_dispatch_refused(w->dispatch, counts, source);
    assert_int_equal(counts[OR_REFUSE_CHANNEL], 255);
    assert_int_equal(counts[OR_REFUSE_SHORT], 1);
    end_world(w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(requests_go_to_the_worker_of_their_route),
        cmocka_unit_test(the_document_comes_by_worker_0),
        cmocka_unit_test(a_request_at_the_wrong_worker_waits_for_the_word_and_is_executed_once),
        cmocka_unit_test(a_request_of_an_older_placement_is_not_executed),
        cmocka_unit_test(what_a_dead_worker_had_goes_to_the_other),
        cmocka_unit_test(moves_under_load),
        cmocka_unit_test(the_end_ends_what_is_held),
        cmocka_unit_test(an_attachment_that_leaves_answers_what_waits_and_can_be_removed),
        cmocka_unit_test(numbers_out_of_range_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
