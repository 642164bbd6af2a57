/* A client and a server over an in-process pair of ports and a virtual clock: what a session does when
 * nothing goes wrong, and how it refuses. What goes wrong on networks is the simulator's (test/sim). */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "session_pair.h"

static uint8_t run_request(struct world *w, uint8_t op, uint64_t offset, uint32_t length, uint8_t *data)
{
    struct request r = {.data = data};
    r.req = (struct or_req){.ops = &ops, .offset = offset, .length = length, .device = 5, .generation = 3, .op = op};
    or_client_submit(w->client, &r.req, w->now);
    for (int i = 0; i < 1000 && !r.done; i++)
        run(w, 1);
    assert_int_equal(r.done, 1);
    return r.req.status;
}

static void test_reads_what_was_written(uint32_t mtu, uint8_t integrity)
{
    struct world *w = new_world(mtu, integrity);
    uint32_t sizes[] = {512, 4096, 8896, 9000 / 512 * 512, 65536, 1u << 20};
    uint8_t *out = malloc(1 << 20), *in = malloc(1 << 20);
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        uint32_t n = sizes[i] / 512 * 512;
        seeded_random(w, out, n);
        memset(in, 0, n);
        assert_int_equal(run_request(w, OR_OP_WRITE, 512 * i, n, out), OR_OK);
        assert_int_equal(run_request(w, OR_OP_READ, 512 * i, n, in), OR_OK);
        assert_memory_equal(in, out, n);
    }
    assert_int_equal(run_request(w, OR_OP_FLUSH, 0, 0, NULL), OR_OK);
    assert_int_equal(run_request(w, OR_OP_WRITE_ZEROES, 0, 8192, NULL), OR_OK);
    assert_int_equal(run_request(w, OR_OP_READ, 0, 8192, in), OR_OK);
    for (int i = 0; i < 8192; i++)
        assert_int_equal(in[i], 0);
    struct or_client_stats stats;
    or_client_stats(w->client, &stats);
    struct or_server_stats server_stats;
    or_server_stats(w->server, &server_stats);
    assert_int_equal(stats.retransmits, 0);
    assert_int_equal(stats.rekeys > 0, phase_frames > 0);
    assert_int_equal(server_stats.rekeys > 0, phase_frames > 0);
    assert_int_equal(w->ups, 1);
    assert_int_equal(w->downs, 0);
    free(out);
    free(in);
    end_world(w);
}

static void reads_what_was_written_mac_9000(void **state)
{
    (void)state;
    test_reads_what_was_written(9000, OR_INTEGRITY_MAC);
}

static void reads_what_was_written_crc_9000(void **state)
{
    (void)state;
    test_reads_what_was_written(9000, OR_INTEGRITY_CRC);
}

static void reads_what_was_written_mac_65535(void **state)
{
    (void)state;
    test_reads_what_was_written(65535, OR_INTEGRITY_MAC);
}

static void reads_what_was_written_mac_1500(void **state)
{
    (void)state;
    test_reads_what_was_written(1500, OR_INTEGRITY_MAC);
}

static void reads_what_was_written_encrypted_9000(void **state)
{
    (void)state;
    test_reads_what_was_written(9000, OR_INTEGRITY_ENCRYPT);
}

static void reads_what_was_written_encrypted_65535(void **state)
{
    (void)state;
    test_reads_what_was_written(65535, OR_INTEGRITY_ENCRYPT);
}

static void keys_change_under_way(void **state)
{
    (void)state;
    phase_frames = 20;
    for (uint8_t integrity = OR_INTEGRITY_CRC; integrity <= OR_INTEGRITY_ENCRYPT; integrity++)
        test_reads_what_was_written(9000, integrity);
    phase_frames = 0;
}

static void a_client_gets_no_less_than_its_least_integrity(void **state)
{
    (void)state;
    for (uint8_t offered = OR_INTEGRITY_CRC; offered <= OR_INTEGRITY_ENCRYPT; offered++)
        for (integrity_min = OR_INTEGRITY_CRC; integrity_min <= OR_INTEGRITY_ENCRYPT; integrity_min++) {
            struct world *w = new_world(9000, offered);
            struct or_server_stats stats;
            run(w, 1000);
            or_server_stats(w->server, &stats);
            assert_int_equal(or_client_up(w->client), offered >= integrity_min);
            assert_int_equal(stats.refused[OR_REFUSE_HANDSHAKE] > 0, offered < integrity_min);
            end_world(w);
        }
    integrity_min = 0;
}

static void refuses_what_is_not_allowed(void **state)
{
    (void)state;
    struct world *w = new_world(9000, OR_INTEGRITY_MAC);
    uint8_t data[4096] = {0};
    assert_int_equal(run_request(w, OR_OP_READ, VOLUME_BYTES, 512, data), OR_ERANGE);
    assert_int_equal(run_request(w, OR_OP_WRITE, VOLUME_BYTES - 512, 1024, data), OR_ERANGE);
    assert_int_equal(run_request(w, OR_OP_READ, UINT64_MAX - 511, 512, data), OR_ERANGE);
    assert_int_equal(run_request(w, OR_OP_READ, 100, 512, data), OR_EALIGN);
    assert_int_equal(run_request(w, OR_OP_WRITE, 0, 100, data), OR_EALIGN);
    struct or_export x = {.id = 5, .generation = 4, .host = "vmhost1", .volume = w->volume, .read_only = true};
    assert_int_equal(or_server_add_export(w->server, &x), 0);
    assert_int_equal(run_request(w, OR_OP_READ, 0, 512, data), OR_EFENCED);
    assert_int_equal(or_server_add_export(w->server, &x), -EEXIST);
    int n = 0;
    assert_int_equal(or_server_remove_export(w->server, 5, drained, &n), 0);
    assert_int_equal(n, 1);
    assert_int_equal(run_request(w, OR_OP_READ, 0, 512, data), OR_ENODEV);
    end_world(w);
}

static void enforces_read_only(void **state)
{
    (void)state;
    struct world *w = new_world(9000, OR_INTEGRITY_MAC);
    struct or_export x = {.id = 6, .generation = 3, .host = "vmhost1", .volume = w->volume, .read_only = true};
    assert_int_equal(or_server_add_export(w->server, &x), 0);
    uint8_t data[512] = {0};
    struct request r = {.data = data};
    for (uint8_t op = OR_OP_READ; op <= OR_OP_WRITE_ZEROES; op++) {
        r.req = (struct or_req){.ops = &ops, .length = 512, .device = 6, .generation = 3, .op = op};
        or_client_submit(w->client, &r.req, w->now);
        run(w, 50);
        assert_int_equal(r.req.status, or_op_writes(op) ? OR_EREADONLY : OR_OK);
    }
    int n = 0;
    assert_int_equal(or_server_remove_export(w->server, 6, drained, &n), 0);
    end_world(w);
}

static void a_wrong_key_or_name_makes_no_session(void **state)
{
    (void)state;
    struct world *w = new_world(9000, OR_INTEGRITY_MAC);
    or_client_destroy(w->client);
    w->client = new_client(w, "vmhost1", 8);
    run(w, 1000);
    assert_false(or_client_up(w->client));
    struct or_server_stats stats;
    or_server_stats(w->server, &stats);
    assert_true(stats.refused[OR_REFUSE_HANDSHAKE] > 0);
    assert_int_equal(stats.sessions, 0);
    or_client_destroy(w->client);
    w->client = new_client(w, "vmhost2", 7);
    run(w, 1000);
    or_server_stats(w->server, &stats);
    assert_true(stats.refused[OR_REFUSE_HOST] > 0);
    assert_false(or_client_up(w->client));
    end_world(w);
}

static void a_host_is_admitted_only_when_its_exports_are_in_place(void **state)
{
    (void)state;
    struct world *w = new_world(9000, OR_INTEGRITY_MAC);
    assert_int_equal(or_server_admit_host(w->server, "vmhost1", false), 0);
    run(w, 500);
    assert_false(or_client_up(w->client));
    assert_int_equal(or_server_admit_host(w->server, "vmhost1", true), 0);
    run(w, 500);
    assert_true(or_client_up(w->client));
    end_world(w);
}

static void documents_and_reports_arrive(void **state)
{
    (void)state;
    struct world *w = new_world(9000, OR_INTEGRITY_MAC);
    assert_int_equal(or_client_report(w->client, "early", 5), 0);
    run(w, 200);
    assert_string_equal(w->report, "early");
    assert_string_equal(w->document, "");
    assert_int_equal(or_server_set_document(w->server, "vmhost1", "one", 3), 0);
    run(w, 50);
    assert_string_equal(w->document, "one");
    assert_int_equal(or_server_set_document(w->server, "vmhost1", "two", 3), 0);
    assert_int_equal(or_server_set_document(w->server, "vmhost1", "three", 5), 0);
    assert_int_equal(or_client_report(w->client, "late", 4), 0);
    assert_int_equal(or_client_report(w->client, "latest", 6), 0);
    run(w, 50);
    assert_string_equal(w->document, "three");
    assert_string_equal(w->report, "latest");
    assert_int_equal(or_server_set_document(w->server, "nobody", "x", 1), -ENOENT);
    end_world(w);
}

static void a_restarted_server_is_found_again_and_requests_end(void **state)
{
    (void)state;
    struct world *w = new_world(9000, OR_INTEGRITY_MAC);
    uint8_t data[4096];
    memset(data, 0x5a, sizeof data);
    assert_int_equal(run_request(w, OR_OP_WRITE, 0, sizeof data, data), OR_OK);
    int n = 0, err;
    or_server_remove_export(w->server, 5, drained, &n);
    or_server_destroy(w->server);
    struct or_server_config config = {
        .ports = {w->server_port},
        .env = {seeded_random, w},
        .phase_frames = phase_frames,
        .integrity = OR_INTEGRITY_MAC,
        .hosts_max = 4,
        .exports_max = 8,
        .slots = 64,
        .buffer_bytes = 16u << 20,
    };
    w->server = or_server_create(&config, &err);
    struct request r = {.data = data};
    memset(data, 0, sizeof data);
    r.req = (struct or_req){.ops = &ops, .length = sizeof data, .device = 5, .generation = 3, .op = OR_OP_READ};
    or_client_submit(w->client, &r.req, w->now);
    run(w, 300);
    assert_int_equal(r.done, 0); /* the host is not known yet: the request waits */
    uint8_t psk[32];
    memset(psk, 7, sizeof psk);
    assert_int_equal(or_server_add_host(w->server, "vmhost1", psk), 0);
    struct or_export x = {.id = 5, .generation = 3, .host = "vmhost1", .volume = w->volume};
    assert_int_equal(or_server_add_export(w->server, &x), 0);
    run(w, 600);
    assert_int_equal(r.done, 1);
    assert_int_equal(r.req.status, OR_OK);
    assert_int_equal(data[4095], 0x5a);
    assert_int_equal(w->ups, 2);
    assert_int_equal(w->downs, 1);
    end_world(w);
}

static void requests_wait_for_a_volume_that_comes_late(void **state)
{
    (void)state;
    struct world *w = new_world(9000, OR_INTEGRITY_MAC);
    struct or_export x = {.id = 6, .generation = 3, .host = "vmhost1"};
    assert_int_equal(or_server_add_export(w->server, &x), 0);
    uint8_t out[20480], in[20480] = {0};
    memset(out, 0x3c, sizeof out);
    struct request write = {.data = out}, flush = {0}, outside = {.data = in}, read = {.data = in};
    write.req = (struct or_req){.ops = &ops, .length = sizeof out, .device = 6, .generation = 3, .op = OR_OP_WRITE};
    flush.req = (struct or_req){.ops = &ops, .device = 6, .generation = 3, .op = OR_OP_FLUSH};
    outside.req = (struct or_req){
        .ops = &ops, .offset = VOLUME_BYTES, .length = 512, .device = 6, .generation = 3, .op = OR_OP_READ};
    read.req = (struct or_req){.ops = &ops, .length = sizeof in, .device = 6, .generation = 3, .op = OR_OP_READ};
    or_client_submit(w->client, &write.req, w->now);
    or_client_submit(w->client, &flush.req, w->now);
    or_client_submit(w->client, &outside.req, w->now);
    run(w, 3000);
    assert_int_equal(write.done + flush.done + outside.done, 0);
    assert_true(or_client_up(w->client));
    x.volume = w->volume;
    assert_int_equal(or_server_add_export(w->server, &x), 0);
    or_client_submit(w->client, &read.req, w->now);
    run(w, 100);
    assert_int_equal(write.done + flush.done + outside.done + read.done, 4);
    assert_int_equal(write.req.status, OR_OK);
    assert_int_equal(flush.req.status, OR_OK);
    assert_int_equal(outside.req.status, OR_ERANGE);
    assert_int_equal(read.req.status, OR_OK);
    assert_memory_equal(in, out, sizeof in);
    int n = 0;
    assert_int_equal(or_server_remove_export(w->server, 6, drained, &n), 0);
    /* And one whose volume never comes can be removed. */
    x = (struct or_export){.id = 7, .generation = 3, .host = "vmhost1"};
    assert_int_equal(or_server_add_export(w->server, &x), 0);
    read.req.device = 7;
    or_client_submit(w->client, &read.req, w->now);
    run(w, 100);
    assert_int_equal(or_server_remove_export(w->server, 7, drained, &n), 0);
    run(w, 100);
    assert_int_equal(read.done, 2);
    assert_int_equal(read.req.status, OR_ENODEV);
    assert_int_equal(n, 2);
    end_world(w);
}

static struct or_req timed(uint8_t op, uint64_t timeout_ms)
{
    return (struct or_req){
        .ops = &ops, .length = 20480, .device = 6, .generation = 3, .op = op, .timeout_ns = timeout_ms * MS};
}

static void what_waits_for_a_session_times_out_and_is_forgotten(void **state)
{
    (void)state;
    struct world *w = new_world(9000, OR_INTEGRITY_MAC);
    uint8_t out[20480] = {1};
    struct request write = {.data = out, .req = timed(OR_OP_WRITE, 100)}, blocked = write;
    or_server_admit_host(w->server, "vmhost1", false);
    or_client_submit(w->client, &write.req, w->now);
    or_client_submit(w->client, &blocked.req, w->now); /* behind the other one, which it overlaps */
    run(w, 99);
    assert_int_equal(write.done + blocked.done, 0);
    run(w, 2);
    assert_int_equal(write.done + blocked.done, 2);
    assert_int_equal(write.req.status, OR_ETIMEOUT);
    assert_int_equal(blocked.req.status, OR_ETIMEOUT);
    assert_int_equal(or_client_in_flight(w->client), 0);
    or_server_admit_host(w->server, "vmhost1", true);
    uint8_t in[512] = {2};
    assert_int_equal(run_request(w, OR_OP_READ, 0, sizeof in, in), OR_OK);
    assert_int_equal(in[0], 0);
    end_world(w);
}

/* The volume hangs; what timed out is executed late, and then what overlaps it. */
static void what_the_server_has_times_out_but_is_not_overtaken(void **state)
{
    (void)state;
    struct world *w = new_world(9000, OR_INTEGRITY_MAC);
    struct or_export x = {.id = 6, .generation = 3, .host = "vmhost1"};
    assert_int_equal(or_server_add_export(w->server, &x), 0);
    uint8_t first[20480], second[20480], in[20480];
    memset(first, 1, sizeof first);
    memset(second, 2, sizeof second);
    struct request a = {.data = first, .req = timed(OR_OP_WRITE, 100)};
    struct request b = {.data = second, .req = timed(OR_OP_WRITE, 0)};
    struct request r = {.data = in, .req = timed(OR_OP_READ, 50)};
    run(w, 10);
    or_client_submit(w->client, &a.req, w->now);
    run(w, 150);
    assert_int_equal(a.done, 1);
    assert_int_equal(a.req.status, OR_ETIMEOUT);
    memset(first, 9, sizeof first); /* the owner's again */
    or_client_submit(w->client, &b.req, w->now);
    or_client_submit(w->client, &r.req, w->now);
    run(w, 1000);
    assert_int_equal(b.done, 0);
    assert_int_equal(r.req.status, OR_ETIMEOUT);
    x.volume = w->volume;
    assert_int_equal(or_server_add_export(w->server, &x), 0);
    run(w, 10);
    assert_int_equal(b.done, 1);
    assert_int_equal(b.req.status, OR_OK);
    assert_int_equal(a.done + r.done, 2);
    r.req = timed(OR_OP_READ, 100);
    or_client_submit(w->client, &r.req, w->now);
    run(w, 10);
    assert_int_equal(r.req.status, OR_OK);
    assert_memory_equal(in, second, sizeof in);
    struct or_client_stats stats;
    or_client_stats(w->client, &stats);
    assert_int_equal(stats.timeouts, 2);
    int n = 0;
    assert_int_equal(or_server_remove_export(w->server, 6, drained, &n), 0);
    end_world(w);
}

static void a_client_with_ghosts_can_be_destroyed_and_reconnects(void **state)
{
    (void)state;
    struct world *w = new_world(9000, OR_INTEGRITY_MAC);
    struct or_export x = {.id = 6, .generation = 3, .host = "vmhost1"};
    assert_int_equal(or_server_add_export(w->server, &x), 0);
    uint8_t data[20480] = {1};
    run(w, 10);
    for (int life = 0; life < 2; life++) {
        struct request a = {.data = data, .req = timed(OR_OP_WRITE, 100)};
        or_client_submit(w->client, &a.req, w->now);
        run(w, 150);
        assert_int_equal(a.req.status, OR_ETIMEOUT);
        if (life == 0) { /* the session ends with the ghost in it */
            or_server_admit_host(w->server, "vmhost1", false);
            w->now += 10000 * MS;
            run(w, 2000);
            or_server_admit_host(w->server, "vmhost1", true);
            run(w, 500);
            assert_true(or_client_up(w->client));
        }
    }
    int n = 0;
    assert_int_equal(or_server_remove_export(w->server, 6, drained, &n), 0);
    end_world(w);
}

static void a_volume_that_hangs_leaves_slots_and_buffers_to_the_others(void **state)
{
    (void)state;
    struct world *w = new_world(9000, OR_INTEGRITY_MAC);
    struct or_export x = {.id = 6, .generation = 3, .host = "vmhost1"};
    assert_int_equal(or_server_add_export(w->server, &x), 0);
    static uint8_t buffer[1 << 20];
    static struct request hung[300];
    run(w, 10);
    for (int i = 0; i < 300; i++) {
        hung[i] = (struct request){.data = buffer, .req = timed(OR_OP_READ, 0)};
        hung[i].req.length = i % 2 ? sizeof buffer : 4096;
        or_client_submit(w->client, &hung[i].req, w->now);
    }
    run(w, 100);
    uint8_t data[65536];
    for (int i = 0; i < 10; i++)
        assert_int_equal(run_request(w, OR_OP_WRITE, 0, sizeof data, data), OR_OK);
    int n = 0;
    assert_int_equal(or_server_remove_export(w->server, 6, drained, &n), 0);
    run(w, 500);
    for (int i = 0; i < 300; i++)
        assert_int_equal(hung[i].req.status, OR_ENODEV);
    end_world(w);
}

static void a_goodbye_is_heard_at_once(void **state)
{
    (void)state;
    struct world *w = new_world(9000, OR_INTEGRITY_MAC);
    run(w, 10);
    assert_true(or_client_up(w->client));
    or_server_bye(w->server, w->now);
    run(w, 1);
    assert_false(or_client_up(w->client));
    run(w, 1000);
    assert_false(or_client_up(w->client)); /* this one lets nobody in any more */
    or_server_admit_host(w->server, "vmhost1", true);
    run(w, 60);
    assert_true(or_client_up(w->client));
    end_world(w);
}

/* The bytes of the new owner must not leave in a reply that was under way to the old one. */
static void a_fenced_host_reads_nothing_more(void **state)
{
    (void)state;
    struct world *w = new_world(9000, OR_INTEGRITY_MAC);
    uint8_t psk[32] = {9}, *data = calloc(1, OR_REQ_BYTES_MAX);
    assert_int_equal(or_server_add_host(w->server, "vmhost2", psk), 0);
    run(w, 200);
    struct request r = {.data = data};
    r.req = (struct or_req){.ops = &ops, .length = OR_REQ_BYTES_MAX, .device = 5, .generation = 3, .op = OR_OP_READ};
    or_client_submit(w->client, &r.req, w->now);
    or_client_flush(w->client, w->now);
    or_port_tx_flush(w->client_port);
    or_port_rx_burst(w->server_port, 64, server_rx, w); /* executed; the reply is not sent yet */
    struct or_export x = {.id = 5, .generation = 4, .host = "vmhost2", .volume = w->volume};
    assert_int_equal(or_server_add_export(w->server, &x), 0);
    uint8_t *secret = (uint8_t *)w->volume->ops->peek(w->volume, 0, VOLUME_BYTES);
    memset(secret, 0x77, VOLUME_BYTES);
    run(w, 500);
    assert_int_equal(r.done, 1);
    assert_int_equal(r.req.status, OR_EFENCED);
    for (uint32_t i = 0; i < OR_REQ_BYTES_MAX; i++)
        assert_int_equal(data[i], 0);
    free(data);
    end_world(w);
}

static struct {
    uint64_t offsets[8];
    uint32_t count;
} expected;

static void expect(struct or_volume *volume, const uint64_t *offsets, uint32_t count)
{
    (void)volume;
    assert_in_range(count, 2, 8);
    memcpy(expected.offsets, offsets, count * sizeof *offsets);
    expected.count = count;
}

/* A hint for the whole frame; not of what the volume has not, and not of another device. */
static void reads_that_come_together_are_told_to_their_volume_first(void **state)
{
    (void)state;
    struct world *w = new_world(9000, OR_INTEGRITY_MAC);
    struct or_backend_ops hinted = *w->volume->ops;
    hinted.expect = expect;
    w->volume->ops = &hinted;
    run(w, 200);
    static const uint64_t offsets[] = {8192, VOLUME_BYTES, 0, 4096, 40960};
    struct request r[5];
    uint8_t data[5][512];
    for (int i = 0; i < 5; i++) {
        r[i] = (struct request){.data = data[i]};
        r[i].req = (struct or_req){.ops = &ops, .length = 512, .device = 5, .generation = 3, .op = OR_OP_READ};
        r[i].req.offset = offsets[i];
        r[i].req.device = i == 3 ? 9 : 5;
        or_client_submit(w->client, &r[i].req, w->now);
    }
    run(w, 50);
    assert_int_equal(expected.count, 3);
    assert_int_equal(expected.offsets[0], 8192);
    assert_int_equal(expected.offsets[1], 0);
    assert_int_equal(expected.offsets[2], 40960);
    for (int i = 0; i < 5; i++)
        assert_int_equal(r[i].req.status, i == 1 ? OR_ERANGE : i == 3 ? OR_ENODEV : OR_OK);
    end_world(w);
}

static void forged_hellos_do_not_keep_a_host_out(void **state)
{
    (void)state;
    struct world *w = new_world(9000, OR_INTEGRITY_MAC);
    uint8_t frame[OR_ETH_HEADER + sizeof(struct or_frame_header) + sizeof(struct or_hello)] = {0};
    struct or_frame_header *header = (void *)(frame + OR_ETH_HEADER);
    struct or_hello *hello = (void *)(header + 1);
    *header = (struct or_frame_header){
        .version = OR_WIRE_VERSION, .type = OR_FRAME_HELLO, .length = sizeof *header + sizeof *hello};
    strcpy(hello->name, "vmhost1"); /* the name without the key */
    hello->name_length = 7;
    hello->session = 1;
    for (int i = 0; i < 100; i++) {
        for (int k = 0; k < 20; k++) {
            seeded_random(w, hello->message, sizeof hello->message);
            or_server_rx(w->server, 0, frame, sizeof frame, w->now);
        }
        if (i > 20) /* it comes when they have been at it for a while */
            run(w, 1);
    }
    assert_true(or_client_up(w->client));
    end_world(w);
}

static void garbage_is_refused_by_reason(void **state)
{
    (void)state;
    struct world *w = new_world(9000, OR_INTEGRITY_MAC);
    run(w, 200);
    struct or_server_stats before, after;
    or_server_stats(w->server, &before);
    uint8_t frame[256];
    for (int i = 0; i < 20000; i++) {
        seeded_random(w, frame, sizeof frame);
        if (i % 2) { /* a plausible header */
            frame[14] = OR_WIRE_VERSION;
            frame[15] = (uint8_t)(1 + i / 2 % 4);
            frame[16] = frame[17] = 0;
            frame[30] = (uint8_t)(200 + i % 40);
            frame[31] = 0;
        }
        or_server_rx(w->server, 0, frame, i % (sizeof frame + 1), w->now);
        or_client_rx(w->client, frame, i % (sizeof frame + 1), w->now);
    }
    or_server_stats(w->server, &after);
    uint64_t refused = 0;
    for (int i = 1; i < OR_REFUSE_MAX; i++)
        refused += after.refused[i] - before.refused[i];
    assert_int_equal(refused, 20000);
    uint8_t data[512] = {0};
    assert_int_equal(run_request(w, OR_OP_READ, 0, 512, data), OR_OK);
    end_world(w);
}

static bool all_done(const struct request *requests, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++)
        if (requests[i].done != 1)
            return false;
    return true;
}

static bool lose_once(struct world *w)
{
    w->loses = NULL;
    return true;
}

/* What was sent is remembered for a while after it was lost. Packed frames carry much to be remembered. */
static void many_small_requests_go_on_after_a_lost_frame(void **state)
{
    enum { REQUESTS = 126, ROUNDS = 1000 };
    (void)state;
    slots = REQUESTS + OR_SLOT_DATA;
    struct world *w = new_world(9000, OR_INTEGRITY_MAC);
    static struct request requests[REQUESTS];
    uint8_t data[512];
    run(w, 200);
    w->loses = lose_once;
    for (int round = 0; round < ROUNDS; round++) {
        for (uint32_t i = 0; i < REQUESTS; i++) {
            requests[i] = (struct request){.data = data};
            requests[i].req = (struct or_req){
                .ops = &ops, .offset = 512 * i, .length = 512, .device = 5, .generation = 3, .op = OR_OP_READ};
            or_client_submit(w->client, &requests[i].req, w->now);
        }
        for (int i = 0; i < 1000 && !all_done(requests, REQUESTS); i++)
            run_a_little(w);
        if (!all_done(requests, REQUESTS))
            fail_msg("requests of round %d have no answer", round);
    }
    assert_int_equal(w->downs, 0);
    slots = 64;
    end_world(w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_what_was_written_mac_9000),
        cmocka_unit_test(reads_what_was_written_crc_9000),
        cmocka_unit_test(reads_what_was_written_mac_65535),
        cmocka_unit_test(reads_what_was_written_mac_1500),
        cmocka_unit_test(reads_what_was_written_encrypted_9000),
        cmocka_unit_test(reads_what_was_written_encrypted_65535),
        cmocka_unit_test(keys_change_under_way),
        cmocka_unit_test(a_client_gets_no_less_than_its_least_integrity),
        cmocka_unit_test(refuses_what_is_not_allowed),
        cmocka_unit_test(enforces_read_only),
        cmocka_unit_test(a_wrong_key_or_name_makes_no_session),
        cmocka_unit_test(a_host_is_admitted_only_when_its_exports_are_in_place),
        cmocka_unit_test(documents_and_reports_arrive),
        cmocka_unit_test(a_restarted_server_is_found_again_and_requests_end),
        cmocka_unit_test(requests_wait_for_a_volume_that_comes_late),
        cmocka_unit_test(what_waits_for_a_session_times_out_and_is_forgotten),
        cmocka_unit_test(what_the_server_has_times_out_but_is_not_overtaken),
        cmocka_unit_test(a_client_with_ghosts_can_be_destroyed_and_reconnects),
        cmocka_unit_test(a_volume_that_hangs_leaves_slots_and_buffers_to_the_others),
        cmocka_unit_test(a_goodbye_is_heard_at_once),
        cmocka_unit_test(a_fenced_host_reads_nothing_more),
        cmocka_unit_test(reads_that_come_together_are_told_to_their_volume_first),
        cmocka_unit_test(forged_hellos_do_not_keep_a_host_out),
        cmocka_unit_test(garbage_is_refused_by_reason),
        cmocka_unit_test(many_small_requests_go_on_after_a_lost_frame),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
