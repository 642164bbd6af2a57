/* Write-back: when blocks are written out, what flushes wait for, what becomes of errors, and closing. */
#include "cache_fixture.h"

static uint8_t data[2 * MIB];

static void fill(uint8_t value, uint32_t length)
{
    memset(data, value, length);
}

static void write_back_ends_in_memory_and_a_flush_makes_it_durable(void **state)
{
    (void)state;
    struct lower *l = lower_open(512);
    struct or_cache *cache = cache_open(4 * MIB, OR_CACHE_ARC);
    struct or_volume *v = cache_volume(cache, l, (struct or_cache_volume_config){.mode = OR_CACHE_WRITE_BACK});
    fill(1, 16 * BLOCK);
    for (uint32_t i = 0; i < 16; i++)
        assert_int_equal(run(v, OR_OP_WRITE, 0, i * BLOCK, BLOCK, data), OR_OK);
    assert_int_equal(l->writes, 0);
    assert_int_equal(stats_of(v).dirty, 16);
    l->manual = true;
    struct op flush;
    submit(v, &flush, OR_OP_FLUSH, 0, 0, 0, NULL);
    assert_int_equal(l->writes, 2); /* neighbours go together, as far as a buffer holds */
    assert_int_equal(l->flushes, 0);
    lower_end(l);
    assert_int_equal(l->flushes, 0); /* not before all is there */
    lower_end(l);
    assert_int_equal(l->flushes, 1);
    assert_false(flush.done);
    lower_end(l);
    assert_true(flush.done && flush.io.status == OR_OK);
    assert_memory_equal(l->memory, data, 16 * BLOCK);
    assert_int_equal(stats_of(v).dirty, 0);
    l->manual = false;
    close_volume(cache, v);
    or_cache_destroy(cache);
    lower_free(l);
}

static void a_write_during_a_write_out_waits_for_the_next(void **state)
{
    (void)state;
    struct lower *l = lower_open(512);
    struct or_cache *cache = cache_open(2 * MIB, OR_CACHE_ARC);
    struct or_volume *v = cache_volume(cache, l, (struct or_cache_volume_config){.mode = OR_CACHE_WRITE_BACK});
    struct op first, second, write;
    fill(1, BLOCK);
    assert_int_equal(run(v, OR_OP_WRITE, 0, 0, BLOCK, data), OR_OK);
    l->manual = true;
    submit(v, &first, OR_OP_FLUSH, 0, 0, 0, NULL);
    fill(2, BLOCK);
    submit(v, &write, OR_OP_WRITE, 0, 0, BLOCK, data);
    assert_true(write.done); /* without waiting for the disk */
    submit(v, &second, OR_OP_FLUSH, 0, 0, 0, NULL);
    assert_int_equal(l->writes, 1);
    lower_end_all(l);
    assert_true(first.done && second.done && second.io.status == OR_OK);
    assert_memory_equal(l->memory, data, BLOCK);
    l->manual = false;
    close_volume(cache, v);
    or_cache_destroy(cache);
    lower_free(l);
}

static void old_dirty_blocks_are_written_out_unasked(void **state)
{
    (void)state;
    struct lower *l = lower_open(512);
    struct or_cache *cache = cache_open(2 * MIB, OR_CACHE_ARC);
    struct or_volume *v =
        cache_volume(cache, l, (struct or_cache_volume_config){.mode = OR_CACHE_WRITE_BACK, .dirty_age_ns = 100 * MS});
    fill(3, BLOCK);
    assert_int_equal(run(v, OR_OP_WRITE, 0, 0, BLOCK, data), OR_OK);
    assert_int_equal(or_cache_poll(cache, 1050 * MS), 1100 * MS);
    assert_int_equal(l->writes, 0);
    or_cache_poll(cache, 1100 * MS);
    assert_int_equal(l->writes, 1);
    assert_int_equal(stats_of(v).dirty, 0);
    close_volume(cache, v);
    assert_int_equal(l->flushes, 1); /* closing makes it durable */
    assert_true(l->closed);
    or_cache_destroy(cache);
    lower_free(l);
}

static void dirty_blocks_are_bounded_and_writes_go_on_at_the_disks_speed(void **state)
{
    (void)state;
    struct lower *l = lower_open(512);
    struct or_cache *cache = cache_open(2 * MIB, OR_CACHE_ARC);
    struct or_volume *v =
        cache_volume(cache, l, (struct or_cache_volume_config){.mode = OR_CACHE_WRITE_BACK, .dirty_max = 8 * BLOCK});
    l->manual = true;
    struct op ops[64];
    fill(4, BLOCK);
    for (uint32_t i = 0; i < 64; i++)
        submit(v, &ops[i], OR_OP_WRITE, 0, i * 2 * BLOCK, BLOCK, data);
    assert_int_equal(stats_of(v).dirty, 8);
    while (!or_list_empty(&l->waiting)) {
        lower_end(l);
        assert_true(stats_of(v).dirty <= 8);
    }
    for (uint32_t i = 0; i < 64; i++)
        assert_true(ops[i].done && ops[i].io.status == OR_OK);
    assert_true(stats_of(v).throttled > 0);
    l->manual = false;
    close_volume(cache, v);
    for (uint32_t i = 0; i < 64; i++)
        assert_memory_equal(l->memory + i * 2 * BLOCK, data, BLOCK);
    or_cache_destroy(cache);
    lower_free(l);
}

/* A guest that keeps `depth` writes under way, at random places of the first half of a volume of its own. */
struct writer {
    struct or_volume *v;
    struct op ops[32];
    uint32_t depth;
    uint64_t random;
};

static void write_more(struct writer *w)
{
    for (uint32_t n = 0; n < w->depth; n++)
        for (uint32_t most = 0; most < 64 && (!w->ops[n].io.done || w->ops[n].done); most++) {
            w->random = w->random * 6364136223846793005u + 1442695040888963407u;
            uint64_t number = (w->random >> 33) % (LOWER_BYTES / 2 / BLOCK / w->depth) * w->depth + n;
            submit(w->v, &w->ops[n], OR_OP_WRITE, 0, number * BLOCK, BLOCK, data);
        }
}

/* The writer goes on, and its disk ends one operation at a time, which takes 0.1 ms. */
static void write_on(struct or_cache *cache, struct writer *w, struct lower *l, uint64_t *now)
{
    write_more(w);
    if (!or_list_empty(&l->waiting))
        lower_end(l);
    or_cache_poll(cache, *now += MS / 10);
}

/* How many operations of the disks a flush of v takes beside the writer, who has long had all that it is given. */
static uint32_t flush_beside(struct or_cache *cache, struct writer *w, struct lower *l, struct or_volume *v,
                             struct lower *below)
{
    uint64_t now = 2000 * MS;
    l->manual = true;
    for (uint32_t n = 0; n < 2000; n++)
        write_on(cache, w, l, &now);
    below->manual = true;
    struct op one, flush;
    submit(v, &one, OR_OP_WRITE, 0, LOWER_BYTES - BLOCK, BLOCK, data);
    submit(v, &flush, OR_OP_FLUSH, 0, 0, 0, NULL);
    uint32_t ended = 0;
    for (; ended < 10000 && !flush.done; ended++) {
        write_on(cache, w, l, &now);
        if (below != l && !or_list_empty(&below->waiting))
            lower_end(below);
    }
    l->manual = below->manual = false;
    lower_end_all(l);
    lower_end_all(below);
    return ended;
}

static void a_flush_ends_beside_another_volume_that_writes_a_lot(void **state)
{
    (void)state;
    struct lower *l[2] = {lower_open(4096), lower_open(4096)};
    struct or_cache *cache = cache_open(4 * MIB, OR_CACHE_S3FIFO);
    struct or_cache_volume_config config = {.mode = OR_CACHE_WRITE_BACK, .dirty_max = 64 * BLOCK};
    struct writer w = {.v = cache_volume(cache, l[0], config), .depth = 1};
    struct or_volume *v = cache_volume(cache, l[1], config);
    assert_true(flush_beside(cache, &w, l[0], v, l[1]) < 16);
    close_volume(cache, w.v);
    close_volume(cache, v);
    or_cache_destroy(cache);
    lower_free(l[0]);
    lower_free(l[1]);
}

static void a_flush_ends_beside_writes_of_its_own_volume(void **state)
{
    (void)state;
    struct lower *l = lower_open(4096);
    struct or_cache *cache = cache_open(4 * MIB, OR_CACHE_S3FIFO);
    struct or_cache_volume_config config = {.mode = OR_CACHE_WRITE_BACK, .dirty_max = 64 * BLOCK};
    struct writer w = {.v = cache_volume(cache, l, config), .depth = 16};
    assert_true(flush_beside(cache, &w, l, w.v, l) < 200);
    close_volume(cache, w.v);
    or_cache_destroy(cache);
    lower_free(l);
}

/* Writes blocks far apart to a volume whose disk hangs, and waits until they are to be written out. */
static void hang(struct or_cache *cache, struct or_volume *v, struct lower *l, uint64_t blocks, uint64_t now)
{
    l->manual = true;
    for (uint64_t n = 0; n < blocks; n++)
        assert_int_equal(run(v, OR_OP_WRITE, 0, n * 64 * BLOCK, BLOCK, data), OR_OK);
    or_cache_poll(cache, now);
}

static void a_volume_whose_disk_hangs_leaves_the_others_large_write_outs(void **state)
{
    (void)state;
    struct lower *l[2] = {lower_open(4096), lower_open(4096)};
    struct or_cache_config budget = {.bytes = 256 * MIB, .bytes_max = 256 * MIB};
    int err;
    struct or_cache *cache = or_cache_create(&budget, &err);
    struct or_cache_volume_config config = {.mode = OR_CACHE_WRITE_BACK, .dirty_age_ns = 1 * MS};
    struct or_volume *hung = cache_volume(cache, l[0], config), *v = cache_volume(cache, l[1], config);
    hang(cache, hung, l[0], 16, 10 * MS);
    assert_int_equal(l[0]->writes, 6); /* of 8 */
    assert_int_equal(run(v, OR_OP_WRITE, 0, 0, 32 * BLOCK, data), OR_OK);
    assert_int_equal(run(v, OR_OP_FLUSH, 0, 0, 0, NULL), OR_OK);
    assert_int_equal(l[1]->writes, 1);
    l[0]->manual = false;
    lower_end_all(l[0]);
    close_volume(cache, hung);
    close_volume(cache, v);
    or_cache_destroy(cache);
    lower_free(l[0]);
    lower_free(l[1]);
}

static void a_flush_ends_when_other_volumes_whose_disks_hang_have_all_transfers(void **state)
{
    (void)state;
    enum { HUNG = 4, OPS = 256 };
    static struct op ops[HUNG][OPS];
    struct lower *l[HUNG], *healthy = lower_open(4096);
    struct or_volume *hung[HUNG];
    struct or_cache *cache = cache_open(4 * MIB, OR_CACHE_S3FIFO);
    struct or_cache_volume_config config = {.mode = OR_CACHE_WRITE_BACK, .dirty_age_ns = 1 * MS, .dirty_max = BLOCK};
    for (uint32_t i = 0; i < HUNG; i++) {
        l[i] = lower_open(4096);
        hung[i] = cache_volume(cache, l[i], config);
        hang(cache, hung[i], l[i], 1, (2000 + 10 * i) * MS);
        for (uint64_t n = 0; n < OPS; n++) /* buffers, and the rest */
            submit(hung[i], &ops[i][n], n % 2 ? OR_OP_WRITE : OR_OP_READ, 0, (n + 1) * BLOCK, BLOCK, data + n * BLOCK);
    }
    struct or_volume *v = cache_volume(cache, healthy, (struct or_cache_volume_config){.mode = OR_CACHE_WRITE_BACK});
    healthy->manual = true;
    struct op flushes[2];
    for (uint32_t n = 0; n < 2; n++) {
        assert_int_equal(run(v, OR_OP_WRITE, 0, n * BLOCK, BLOCK, data), OR_OK);
        submit(v, &flushes[n], OR_OP_FLUSH, 0, 0, 0, NULL);
    }
    for (uint32_t n = 0; n < 2; n++) { /* block by block, and none before the flush that waits */
        lower_end(healthy);
        assert_int_equal(healthy->writes, n + 1);
        lower_end(healthy);
        assert_true(flushes[n].done && flushes[n].io.status == OR_OK);
    }
    healthy->manual = false;
    for (uint32_t i = 0; i < HUNG; i++) {
        l[i]->manual = false;
        lower_end_all(l[i]);
    }
    for (uint32_t i = 0; i < HUNG; i++) {
        for (uint32_t n = 0; n < OPS; n++)
            assert_true(ops[i][n].done);
        close_volume(cache, hung[i]);
        lower_free(l[i]);
    }
    close_volume(cache, v);
    or_cache_destroy(cache);
    lower_free(healthy);
}

static uint32_t told;
static void note(struct or_volume *volume, const struct or_io *io, int error)
{
    (void)volume;
    (void)io;
    (void)error;
    told++;
}

static void a_failed_write_out_is_told_and_kept_and_the_next_flush_fails(void **state)
{
    (void)state;
    struct lower *l = lower_open(512);
    struct or_cache *cache = cache_open(2 * MIB, OR_CACHE_ARC);
    struct or_volume *v =
        cache_volume(cache, l, (struct or_cache_volume_config){.mode = OR_CACHE_WRITE_BACK, .dirty_age_ns = 1 * MS});
    v->failed = note;
    told = 0;
    fill(5, BLOCK);
    assert_int_equal(run(v, OR_OP_WRITE, 0, 0, BLOCK, data), OR_OK);
    l->status = OR_ENOSPACE;
    or_cache_poll(cache, 2000 * MS);
    assert_int_equal(told, 1);
    assert_int_equal(stats_of(v).dirty, 1);
    l->status = OR_OK;
    or_cache_poll(cache, 2050 * MS); /* not so soon */
    assert_int_equal(l->writes, 1);
    or_cache_poll(cache, 2100 * MS);
    assert_int_equal(l->writes, 2);
    assert_memory_equal(l->memory, data, BLOCK);
    assert_int_equal(run(v, OR_OP_FLUSH, 0, 0, 0, NULL), OR_ENOSPACE);
    assert_int_equal(run(v, OR_OP_FLUSH, 0, 0, 0, NULL), OR_OK);
    close_volume(cache, v);
    or_cache_destroy(cache);
    lower_free(l);
}

static uint64_t lost_bytes;
static void note_lost(void *arg, uint64_t lost)
{
    (void)arg;
    lost_bytes = lost;
}

static void closing_over_a_dead_disk_ends_and_tells_what_is_lost(void **state)
{
    (void)state;
    struct lower *l = lower_open(512);
    struct or_cache *cache = cache_open(2 * MIB, OR_CACHE_ARC);
    struct or_volume *v =
        cache_volume(cache, l, (struct or_cache_volume_config){.mode = OR_CACHE_WRITE_BACK, .closed = note_lost});
    fill(6, BLOCK);
    assert_int_equal(run(v, OR_OP_WRITE, 0, 0, BLOCK, data), OR_OK);
    l->status = OR_EIO;
    lost_bytes = 0;
    close_volume(cache, v);
    assert_int_equal(lost_bytes, BLOCK);
    assert_true(l->closed);
    or_cache_destroy(cache);
    lower_free(l);
}

/* A volume with one dirty block that a full storage has refused three times; *now: then. */
static struct or_volume *refused_volume(struct or_cache *cache, struct lower *l, uint64_t *now)
{
    struct or_volume *v = cache_volume(
        cache, l,
        (struct or_cache_volume_config){.mode = OR_CACHE_WRITE_BACK, .dirty_age_ns = 1 * MS, .closed = note_lost});
    fill(6, BLOCK);
    assert_int_equal(run(v, OR_OP_WRITE, 0, 0, BLOCK, data), OR_OK);
    l->status = OR_ENOSPACE;
    for (*now = 2000 * MS; stats_of(v).write_errors < 3; *now += 100 * MS)
        or_cache_poll(cache, *now);
    lost_bytes = UINT64_MAX;
    return v;
}

static void closing_over_a_mended_disk_loses_nothing(void **state)
{
    (void)state;
    struct lower *l = lower_open(512);
    struct or_cache *cache = cache_open(2 * MIB, OR_CACHE_ARC);
    uint64_t now;
    struct or_volume *v = refused_volume(cache, l, &now);
    l->status = OR_OK;
    v->ops->close(v); /* tries at once */
    assert_int_equal(lost_bytes, 0);
    assert_memory_equal(l->memory, data, BLOCK);
    or_cache_destroy(cache);
    lower_free(l);
}

static struct or_volume *given_back;
static void note_detached(void *arg, struct or_volume *lower, uint8_t error)
{
    *(uint8_t *)arg = error;
    given_back = lower;
}

static void a_volume_leaves_a_mended_disk_for_another_worker(void **state)
{
    (void)state;
    struct lower *l = lower_open(512);
    struct or_cache *cache = cache_open(2 * MIB, OR_CACHE_ARC);
    uint64_t now;
    struct or_volume *v = refused_volume(cache, l, &now);
    l->status = OR_OK;
    uint8_t error = OR_OK;
    given_back = NULL;
    or_cache_detach(v, note_detached, &error);
    assert_ptr_equal(given_back, &l->volume);
    assert_int_equal(error, OR_ENOSPACE); /* no flush has heard of it */
    assert_memory_equal(l->memory, data, BLOCK);
    or_cache_destroy(cache);
    lower_free(l);
}

static void what_fails_at_once_is_one_failure_of_the_three_of_a_close(void **state)
{
    (void)state;
    struct lower *l = lower_open(512);
    struct or_cache *cache = cache_open(2 * MIB, OR_CACHE_ARC);
    struct or_volume *v =
        cache_volume(cache, l, (struct or_cache_volume_config){.mode = OR_CACHE_WRITE_BACK, .closed = note_lost});
    lost_bytes = UINT64_MAX;
    fill(6, BLOCK);
    assert_int_equal(run(v, OR_OP_WRITE, 0, 0, BLOCK, data), OR_OK);
    assert_int_equal(run(v, OR_OP_WRITE, 0, 2 * BLOCK, BLOCK, data), OR_OK);
    l->manual = true;
    l->status = OR_ENOSPACE;
    v->ops->close(v);
    for (uint64_t now = 1000 * MS; now <= 1100 * MS; now += 100 * MS) {
        or_cache_poll(cache, now);
        struct or_list *first = l->waiting.next;
        assert_true(first != &l->waiting && first->next != &l->waiting); /* both are tried */
        lower_end_all(l);
    }
    l->manual = false;
    l->status = OR_OK;
    or_cache_poll(cache, 1300 * MS);
    assert_int_equal(lost_bytes, 0);
    assert_memory_equal(l->memory, data, BLOCK);
    assert_memory_equal(l->memory + 2 * BLOCK, data, BLOCK);
    or_cache_destroy(cache);
    lower_free(l);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(write_back_ends_in_memory_and_a_flush_makes_it_durable),
        cmocka_unit_test(a_write_during_a_write_out_waits_for_the_next),
        cmocka_unit_test(old_dirty_blocks_are_written_out_unasked),
        cmocka_unit_test(dirty_blocks_are_bounded_and_writes_go_on_at_the_disks_speed),
        cmocka_unit_test(a_flush_ends_beside_another_volume_that_writes_a_lot),
        cmocka_unit_test(a_flush_ends_beside_writes_of_its_own_volume),
        cmocka_unit_test(a_volume_whose_disk_hangs_leaves_the_others_large_write_outs),
        cmocka_unit_test(a_flush_ends_when_other_volumes_whose_disks_hang_have_all_transfers),
        cmocka_unit_test(a_failed_write_out_is_told_and_kept_and_the_next_flush_fails),
        cmocka_unit_test(closing_over_a_dead_disk_ends_and_tells_what_is_lost),
        cmocka_unit_test(closing_over_a_mended_disk_loses_nothing),
        cmocka_unit_test(a_volume_leaves_a_mended_disk_for_another_worker),
        cmocka_unit_test(what_fails_at_once_is_one_failure_of_the_three_of_a_close),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
