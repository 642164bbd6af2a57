/* Who gets the server when several want it: shares by weight, a quiet one beside a loud one, and volumes that do not
 * answer. Time is virtual; a disk is a queue of which the test ends so much in a step. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "session_pair.h"
#include "transport/schedule.h"

#define KIB 1024u
#define DEPTH 32u
#define MOST (1u << 20)

struct disk {
    struct or_volume volume;
    struct or_list queue;
    uint64_t bytes, bytes_max; /* in the queue; the most there were */
    uint32_t requests, requests_max;
};

/* A VM: it keeps `depth` requests in flight. */
struct guest {
    uint32_t device, depth, length, ended;
    uint8_t op;
    struct request requests[DEPTH];
};

struct test {
    struct world *w;
    struct disk disks[2];
    struct or_volume *ram;
    struct guest guests[3];
    uint32_t guest_count, step_bytes;
};

static uint8_t memory[MOST];

static void disk_submit(struct or_volume *volume, struct or_io *io)
{
    struct disk *d = (struct disk *)volume;
    or_list_append(&d->queue, &io->link);
    d->bytes += io->length;
    d->requests++;
    d->bytes_max = d->bytes > d->bytes_max ? d->bytes : d->bytes_max;
    d->requests_max = d->requests > d->requests_max ? d->requests : d->requests_max;
}

static void disk_close(struct or_volume *volume)
{
    (void)volume;
}

static const struct or_backend_ops disk_ops = {.name = "test", .submit = disk_submit, .close = disk_close};

/* Ends the oldest, about so many bytes of them. */
static void disk_work(struct disk *d, uint64_t bytes)
{
    for (uint64_t ended = 0; ended < bytes && !or_list_empty(&d->queue);) {
        struct or_io *io = OR_CONTAINER(d->queue.next, struct or_io, link);
        or_list_remove(&io->link);
        d->bytes -= io->length;
        d->requests--;
        ended += io->length ? io->length : 512;
        or_volume_complete(io);
    }
}

static void work(struct world *w)
{
    struct test *t = w->test;
    disk_work(&t->disks[0], t->step_bytes);
}

static void add_export(struct test *t, uint32_t id, struct or_volume *volume, uint32_t weight)
{
    struct or_export x = {.id = id, .generation = 3, .host = "vmhost1", .volume = volume, .weight = weight};
    assert_int_equal(or_server_add_export(t->w->server, &x), 0);
}

static void open_test(struct test *t)
{
    *t = (struct test){.step_bytes = 64 * KIB};
    slots = OR_SLOTS_MAX;
    buffer_bytes = 64u << 20;
    t->w = new_world(9000, OR_INTEGRITY_CRC);
    t->w->test = t;
    t->w->before_server_flush = work;
    int err;
    t->ram = or_volume_ram(VOLUME_BYTES, 512, &err);
    for (int i = 0; i < 2; i++) {
        t->disks[i].volume =
            (struct or_volume){.ops = &disk_ops, .size = 1u << 30, .block_size = 512, .write_zeroes = true};
        or_list_init(&t->disks[i].queue);
    }
    run(t->w, 10);
}

static void close_test(struct test *t)
{
    int n = 0;
    t->w->before_server_flush = NULL;
    for (uint32_t id = 6; id < 10; id++)
        or_server_remove_export(t->w->server, id, drained, &n);
    for (int i = 0; i < 2; i++)
        disk_work(&t->disks[i], UINT64_MAX);
    end_world(t->w);
    t->ram->ops->close(t->ram);
    slots = 64;
    buffer_bytes = 16u << 20;
}

static void ask(struct test *t, struct guest *g, struct request *r)
{
    *r = (struct request){.data = memory};
    r->req = (struct or_req){.ops = &ops, .length = g->length, .device = g->device, .generation = 3, .op = g->op};
    r->req.offset = (uint64_t)(r - g->requests) * g->length % VOLUME_BYTES;
    or_client_submit(t->w->client, &r->req, t->w->now);
}

static struct guest *add_guest(struct test *t, uint32_t device, uint8_t op, uint32_t depth, uint32_t length)
{
    struct guest *g = &t->guests[t->guest_count++];
    *g = (struct guest){.device = device, .depth = depth, .length = length, .op = op};
    for (uint32_t i = 0; i < depth; i++)
        ask(t, g, &g->requests[i]);
    return g;
}

/* Each guest has a new request for one that has ended. */
static void go_on(struct test *t)
{
    for (uint32_t i = 0; i < t->guest_count; i++)
        for (uint32_t k = 0; k < t->guests[i].depth; k++)
            if (t->guests[i].requests[k].done) {
                assert_int_equal(t->guests[i].requests[k].req.status, OR_OK);
                t->guests[i].ended++;
                ask(t, &t->guests[i], &t->guests[i].requests[k]);
            }
}

static void steps(struct test *t, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        run_step(t->w);
        t->w->now += MS / 20;
        go_on(t);
    }
}

/* Their requests are at the server, and in order. */
static void settle(struct test *t)
{
    steps(t, 400);
    for (uint32_t i = 0; i < t->guest_count; i++)
        t->guests[i].ended = 0;
}

static void finish(struct test *t)
{
    for (uint32_t i = 0; i < 40000 && or_client_in_flight(t->w->client); i++) {
        run_step(t->w);
        t->w->now += MS / 20;
    }
    assert_int_equal(or_client_in_flight(t->w->client), 0);
    for (uint32_t i = 0; i < t->guest_count; i++)
        for (uint32_t k = 0; k < t->guests[i].depth; k++)
            assert_int_equal(t->guests[i].requests[k].done, 1); /* none lost, none twice */
}

static uint64_t bytes_of(const struct guest *g)
{
    return (uint64_t)g->ended * g->length;
}

/* --- shares ------------------------------------------------------------------------------------- */

/* bytes of the second are three times those of the first, within a tenth */
static void assert_one_to_three(const struct guest *one, const struct guest *three)
{
    assert_true(one->ended > 20);
    assert_in_range(bytes_of(three), bytes_of(one) * 27 / 10, bytes_of(one) * 33 / 10);
}

static void a_disk_is_shared_by_weight(void **state)
{
    (void)state;
    for (uint8_t op = OR_OP_READ; op <= OR_OP_WRITE; op++) {
        struct test t;
        open_test(&t);
        add_export(&t, 6, &t.disks[0].volume, 50);
        add_export(&t, 7, &t.disks[0].volume, 150);
        struct guest *one = add_guest(&t, 6, op, DEPTH, 256 * KIB), *three = add_guest(&t, 7, op, DEPTH, 256 * KIB);
        settle(&t);
        steps(&t, 4000);
        assert_one_to_three(one, three);
        finish(&t);
        close_test(&t);
    }
}

static void requests_of_different_size_are_shared_by_bytes(void **state)
{
    (void)state;
    struct test t;
    open_test(&t);
    add_export(&t, 6, &t.disks[0].volume, 0);
    add_export(&t, 7, &t.disks[0].volume, 300);
    struct guest *one = add_guest(&t, 6, OR_OP_READ, 16, 512 * KIB),
                 *three = add_guest(&t, 7, OR_OP_READ, DEPTH, 192 * KIB);
    settle(&t);
    steps(&t, 4000);
    assert_one_to_three(one, three);
    finish(&t);
    close_test(&t);
}

static void memory_is_shared_by_weight(void **state)
{
    (void)state;
    struct test t;
    open_test(&t);
    add_export(&t, 6, t.ram, 100);
    add_export(&t, 7, t.ram, 300);
    struct guest *one = add_guest(&t, 6, OR_OP_READ, DEPTH, 64 * KIB),
                 *three = add_guest(&t, 7, OR_OP_READ, DEPTH, 64 * KIB);
    settle(&t);
    steps(&t, 1000);
    assert_one_to_three(one, three);
    finish(&t);
    close_test(&t);
}

static void a_weight_changes_under_load(void **state)
{
    (void)state;
    struct test t;
    open_test(&t);
    add_export(&t, 6, &t.disks[0].volume, 300);
    add_export(&t, 7, &t.disks[0].volume, 100);
    struct guest *six = add_guest(&t, 6, OR_OP_READ, DEPTH, 256 * KIB),
                 *seven = add_guest(&t, 7, OR_OP_READ, DEPTH, 256 * KIB);
    settle(&t);
    steps(&t, 4000);
    assert_one_to_three(seven, six);
    assert_int_equal(or_server_set_weight(t.w->server, 6, 100), 0);
    assert_int_equal(or_server_set_weight(t.w->server, 7, 300), 0);
    assert_int_equal(or_server_set_weight(t.w->server, 8, 300), -ENOENT);
    settle(&t);
    steps(&t, 4000);
    assert_one_to_three(six, seven);
    finish(&t);
    close_test(&t);
}

/* --- a quiet one beside a loud one --------------------------------------------------------------- */

static void what_is_out_is_bounded(void **state)
{
    (void)state;
    struct test t;
    open_test(&t);
    t.step_bytes = 0;
    add_export(&t, 6, &t.disks[0].volume, 0);
    add_guest(&t, 6, OR_OP_READ, DEPTH, MOST);
    run(t.w, 20);
    assert_int_equal(t.disks[0].bytes_max, OR_SCHEDULE_OUT_BYTES);
    t.step_bytes = MOST;
    finish(&t);
    close_test(&t);
}

/* Bytes of a loud guest that are served after a request of a quiet one was submitted, and before it has ended. */
static uint64_t served_before(struct test *t, const struct guest *loud, uint32_t quiet, uint8_t op)
{
    struct request r = {.data = memory};
    uint64_t before = bytes_of(loud);
    r.req = (struct or_req){.ops = &ops, .length = 4096, .device = quiet, .generation = 3, .op = op};
    or_client_submit(t->w->client, &r.req, t->w->now);
    for (int i = 0; i < 10000 && !r.done; i++)
        steps(t, 1);
    assert_int_equal(r.done, 1);
    assert_int_equal(r.req.status, OR_OK);
    return bytes_of(loud) - before;
}

static void a_quiet_guest_waits_for_what_is_out_only(void **state)
{
    (void)state;
    for (uint8_t op = OR_OP_READ; op <= OR_OP_WRITE; op++) {
        struct test t;
        open_test(&t);
        add_export(&t, 6, &t.disks[0].volume, OR_WEIGHT_MAX);
        add_export(&t, 7, &t.disks[0].volume, 1);
        add_export(&t, 8, t.ram, 1);
        const struct guest *loud = add_guest(&t, 6, op, DEPTH, MOST / 2);
        settle(&t);
        for (int i = 0; i < 5; i++) {
            /* What the disk has, and replies that it has given. */
            assert_in_range(served_before(&t, loud, 7, OR_OP_READ), 0, 2 * OR_SCHEDULE_OUT_BYTES);
            assert_in_range(served_before(&t, loud, 8, op), 0, 4 * MOST);
        }
        finish(&t);
        close_test(&t);
    }
}

static void replies_of_a_loud_guest_leave_room(void **state)
{
    (void)state;
    struct test t;
    open_test(&t);
    add_export(&t, 6, t.ram, 0);
    add_export(&t, 7, t.ram, 0);
    const struct guest *loud = add_guest(&t, 6, OR_OP_READ, DEPTH, MOST);
    settle(&t);
    for (int i = 0; i < 5; i++)
        assert_in_range(served_before(&t, loud, 7, OR_OP_READ), 0, 3 * MOST);
    finish(&t);
    close_test(&t);
}

static void control_does_not_wait_behind_data(void **state)
{
    (void)state;
    for (uint8_t op = OR_OP_READ; op <= OR_OP_WRITE; op++) {
        struct test t;
        open_test(&t);
        add_export(&t, 6, t.ram, 0);
        const struct guest *loud = add_guest(&t, 6, op, DEPTH, MOST);
        settle(&t);
        uint64_t before = bytes_of(loud);
        assert_int_equal(or_client_report(t.w->client, "alive", 5), 0);
        assert_int_equal(or_server_set_document(t.w->server, "vmhost1", "devices", 7), 0);
        for (int i = 0; i < 10000 && (strcmp(t.w->report, "alive") != 0 || strcmp(t.w->document, "devices") != 0); i++)
            steps(&t, 1);
        assert_string_equal(t.w->report, "alive");
        assert_string_equal(t.w->document, "devices");
        assert_in_range(bytes_of(loud) - before, 0, 3 * MOST);
        finish(&t);
        close_test(&t);
    }
}

/* --- what does not answer ------------------------------------------------------------------------ */

static void a_volume_that_hangs_gives_its_room_to_others(void **state)
{
    (void)state;
    struct test t;
    open_test(&t);
    add_export(&t, 6, &t.disks[1].volume, 0); /* nobody works there */
    add_export(&t, 7, &t.disks[0].volume, 0);
    struct guest *hung = add_guest(&t, 6, OR_OP_READ, 8, MOST);
    run(t.w, 20);
    assert_int_equal(t.disks[1].bytes, OR_SCHEDULE_OUT_BYTES);
    struct guest *other = add_guest(&t, 7, OR_OP_READ, 4, 4096);
    steps(&t, 20 * 50);
    assert_int_equal(other->ended, 0);
    steps(&t, 20 * 100);
    assert_in_range(other->ended, 100, UINT32_MAX);
    struct or_server_stats stats;
    or_server_stats(t.w->server, &stats);
    assert_int_equal(stats.stalled, 1);
    assert_int_equal(t.disks[1].bytes, OR_SCHEDULE_OUT_BYTES); /* it got nothing more */
    disk_work(&t.disks[1], 1);
    steps(&t, 100);
    while (t.disks[1].bytes || or_client_in_flight(t.w->client)) {
        disk_work(&t.disks[1], UINT64_MAX);
        run_step(t.w);
        t.w->now += MS / 20;
    }
    (void)hung;
    finish(&t);
    close_test(&t);
}

static void what_waits_is_refused_when_its_export_goes(void **state)
{
    (void)state;
    for (int fenced = 0; fenced < 2; fenced++) {
        struct test t;
        open_test(&t);
        t.step_bytes = 0;
        add_export(&t, 6, &t.disks[0].volume, 0);
        struct guest *g = add_guest(&t, 6, OR_OP_READ, DEPTH, MOST);
        run(t.w, 20);
        uint32_t out = t.disks[0].requests, gone = 0, refused = 0;
        struct or_export next = {.id = 6, .generation = 4, .host = "vmhost1", .volume = &t.disks[0].volume};
        if (fenced)
            assert_int_equal(or_server_add_export(t.w->server, &next), 0);
        else
            assert_int_equal(or_server_remove_export(t.w->server, 6, drained, (int *)&gone), 0);
        run(t.w, 500);
        for (uint32_t i = 0; i < DEPTH; i++)
            refused += g->requests[i].done && g->requests[i].req.status == (fenced ? OR_EFENCED : OR_ENODEV);
        assert_in_range(refused, 1, DEPTH - out);
        assert_int_equal(t.disks[0].requests, out);
        t.step_bytes = MOST;
        finish(&t);
        assert_int_equal(gone, !fenced);
        close_test(&t);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_disk_is_shared_by_weight),
        cmocka_unit_test(requests_of_different_size_are_shared_by_bytes),
        cmocka_unit_test(memory_is_shared_by_weight),
        cmocka_unit_test(a_weight_changes_under_load),
        cmocka_unit_test(what_is_out_is_bounded),
        cmocka_unit_test(a_quiet_guest_waits_for_what_is_out_only),
        cmocka_unit_test(replies_of_a_loud_guest_leave_room),
        cmocka_unit_test(control_does_not_wait_behind_data),
        cmocka_unit_test(a_volume_that_hangs_gives_its_room_to_others),
        cmocka_unit_test(what_waits_is_refused_when_its_export_goes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
