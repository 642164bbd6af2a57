#include "cache_fixture.h"

static uint8_t data[2 * MIB], more[2 * MIB];

static void fill(uint8_t value, uint32_t length)
{
    memset(data, value, length);
}

static void a_second_read_costs_the_lower_volume_nothing(void **state)
{
    (void)state;
    struct lower *l = lower_open(512);
    struct or_cache *cache = cache_open(2 * MIB, OR_CACHE_ARC);
    struct or_volume *v = cache_volume(cache, l, (struct or_cache_volume_config){.mode = OR_CACHE_WRITE_THROUGH});
    for (int round = 0; round < 3; round++) {
        memset(data, 0, 20000);
        assert_int_equal(run(v, OR_OP_READ, 0, 512 * 3, 512 * 21, data), OR_OK);
        assert_memory_equal(data, l->memory + 512 * 3, 512 * 21);
        assert_int_equal(l->reads, 1);
    }
    struct or_cache_stats s = stats_of(v);
    assert_int_equal(s.misses, 3);
    assert_int_equal(s.hits, 6);
    close_volume(cache, v);
    or_cache_destroy(cache);
    lower_free(l);
}

static void a_hit_is_answered_out_of_the_block_which_stays_until_it_is_unpinned(void **state)
{
    (void)state;
    struct lower *l = lower_open(512);
    struct or_cache *cache = cache_open(1 * MIB, OR_CACHE_LRU);
    struct or_volume *v = cache_volume(cache, l, (struct or_cache_volume_config){.mode = OR_CACHE_WRITE_THROUGH});
    assert_null(v->ops->peek(v, 0, 4096));
    assert_int_equal(run(v, OR_OP_READ, 0, 0, 8192, data), OR_OK);
    const uint8_t *memory = v->ops->peek(v, 1024, 512);
    assert_non_null(memory);
    assert_memory_equal(memory, l->memory + 1024, 512);
    assert_null(v->ops->peek(v, 3584, 1024)); /* two blocks */
    assert_int_equal(stats_of(v).pinned, 1);
    for (uint64_t at = 0; at < 4 * MIB; at += BLOCK) /* four times the cache */
        assert_int_equal(run(v, OR_OP_READ, 0, at, BLOCK, data), OR_OK);
    assert_memory_equal(memory, l->memory + 1024, 512);
    assert_int_equal(run(v, OR_OP_DISCARD, 0, 0, BLOCK, NULL), OR_OK); /* forgotten, but not reused */
    for (uint64_t at = 0; at < 4 * MIB; at += BLOCK)
        assert_int_equal(run(v, OR_OP_READ, 0, at, BLOCK, data), OR_OK);
    uint64_t word;
    memcpy(&word, memory, 8);
    assert_int_equal(word, 1024);
    v->ops->unpeek(v, memory);
    assert_int_equal(stats_of(v).pinned, 0);
    close_volume(cache, v);
    or_cache_destroy(cache);
    lower_free(l);
}

static void pins_leave_most_of_the_cache_to_others(void **state)
{
    (void)state;
    struct lower *l = lower_open(4096);
    struct or_cache *cache = cache_open(1 * MIB, OR_CACHE_ARC);
    struct or_volume *v = cache_volume(cache, l, (struct or_cache_volume_config){.mode = OR_CACHE_WRITE_THROUGH});
    const uint8_t *memory[2048];
    uint32_t n = 0;
    for (uint64_t at = 0; at < 8 * MIB; at += BLOCK) {
        assert_int_equal(run(v, OR_OP_READ, 0, at, BLOCK, data), OR_OK);
        memory[n] = v->ops->peek(v, at, BLOCK);
        n += memory[n] != NULL;
    }
    struct or_cache_info info;
    or_cache_read_info(cache, &info);
    assert_true(n > 10 && n <= info.blocks_max / 4);
    while (n)
        v->ops->unpeek(v, memory[--n]);
    close_volume(cache, v);
    or_cache_destroy(cache);
    lower_free(l);
}

static void misses_of_one_block_at_the_same_time_read_it_once(void **state)
{
    (void)state;
    struct lower *l = lower_open(512);
    struct or_cache *cache = cache_open(2 * MIB, OR_CACHE_ARC);
    struct or_volume *v = cache_volume(cache, l, (struct or_cache_volume_config){.mode = OR_CACHE_WRITE_THROUGH});
    struct op ops[8];
    l->manual = true;
    for (uint32_t i = 0; i < 8; i++)
        submit(v, &ops[i], OR_OP_READ, 0, i * 512, 512, data + i * 512);
    assert_int_equal(l->reads, 1);
    lower_end(l);
    for (uint32_t i = 0; i < 8; i++)
        assert_true(ops[i].done && ops[i].io.status == OR_OK);
    assert_memory_equal(data, l->memory, 4096);
    l->manual = false;
    close_volume(cache, v);
    or_cache_destroy(cache);
    lower_free(l);
}

static void map_to_base(void *arg, uint64_t number, uint64_t *content, uint64_t *content_number)
{
    const bool *own = arg;
    *content_number = number;
    *content = own[number] ? (uint64_t)(uintptr_t)arg : 1;
}

static void clones_of_one_base_read_each_block_once(void **state)
{
    (void)state;
    enum { CLONES = 8 };
    static bool own[CLONES][LOWER_BYTES / BLOCK];
    struct or_cache *cache = cache_open(4 * MIB, OR_CACHE_ARC);
    struct lower *l[CLONES];
    struct or_volume *v[CLONES];
    uint64_t bytes = 0, shared = 0;
    for (uint32_t i = 0; i < CLONES; i++) {
        l[i] = lower_open(4096);
        v[i] = cache_volume(cache, l[i],
                            (struct or_cache_volume_config){.mode = OR_CACHE_WRITE_BACK,
                                                            .content = (uint64_t)(uintptr_t)own[i],
                                                            .map = map_to_base,
                                                            .map_arg = own[i]});
    }
    for (uint64_t at = 0; at < MIB; at += 16 * BLOCK)
        for (uint32_t i = 0; i < CLONES; i++) {
            assert_int_equal(run(v[i], OR_OP_READ, 0, at, 16 * BLOCK, data), OR_OK);
            assert_memory_equal(data, l[i]->memory + at, 16 * BLOCK);
        }
    /* One writes: the others do not see it. */
    fill(9, BLOCK);
    own[2][5] = true;
    assert_int_equal(run(v[2], OR_OP_WRITE, 0, 5 * BLOCK, BLOCK, data), OR_OK);
    assert_int_equal(run(v[2], OR_OP_READ, 0, 5 * BLOCK, BLOCK, more), OR_OK);
    assert_memory_equal(more, data, BLOCK);
    assert_int_equal(run(v[3], OR_OP_READ, 0, 5 * BLOCK, BLOCK, more), OR_OK);
    assert_memory_equal(more, l[3]->memory + 5 * BLOCK, BLOCK);
    for (uint32_t i = 0; i < CLONES; i++) {
        bytes += l[i]->bytes_read;
        shared += stats_of(v[i]).shared_hits;
        close_volume(cache, v[i]);
        lower_free(l[i]);
    }
    assert_int_equal(bytes, MIB);
    assert_int_equal(shared, (CLONES - 1) * MIB / BLOCK + 1);
    or_cache_destroy(cache);
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

static void an_error_hits_only_who_reads_the_bad_place(void **state)
{
    (void)state;
    struct lower *l = lower_open(512);
    struct or_cache *cache = cache_open(2 * MIB, OR_CACHE_ARC);
    struct or_volume *v = cache_volume(cache, l, (struct or_cache_volume_config){.mode = OR_CACHE_WRITE_THROUGH});
    struct op op;
    l->manual = true;
    submit(v, &op, OR_OP_READ, 0, 512, 512, data);
    l->status = OR_EIO; /* of the whole block */
    lower_end(l);
    assert_false(op.done);
    l->status = OR_OK; /* of the sector */
    assert_int_equal(l->bytes_read, BLOCK + 512);
    lower_end(l);
    assert_true(op.done && op.io.status == OR_OK);
    assert_memory_equal(data, l->memory + 512, 512);
    l->manual = false;
    close_volume(cache, v);
    or_cache_destroy(cache);
    lower_free(l);
}

static void a_budget_shrinks_by_eviction_and_grows_again(void **state)
{
    (void)state;
    struct lower *l = lower_open(4096);
    struct or_cache *cache = cache_open(8 * MIB, OR_CACHE_ARC);
    struct or_volume *v = cache_volume(cache, l, (struct or_cache_volume_config){.mode = OR_CACHE_WRITE_BACK});
    struct or_cache_info info;
    fill(7, BLOCK);
    for (uint64_t at = 0; at < 6 * MIB; at += BLOCK)
        assert_int_equal(
            run(v, at % (4 * BLOCK) ? OR_OP_READ : OR_OP_WRITE, 0, at, BLOCK, at % (4 * BLOCK) ? more : data), OR_OK);
    assert_int_equal(or_cache_resize(cache, 2 * MIB), 0);
    for (int i = 0; i < 100; i++)
        or_cache_poll(cache, (uint64_t)(2000 + i * 20) * MS);
    or_cache_read_info(cache, &info);
    assert_int_equal(info.bytes, info.bytes_target);
    assert_true(info.bytes <= 2 * MIB && info.blocks <= info.blocks_max);
    assert_int_equal(or_cache_resize(cache, 16 * MIB), 0);
    for (uint64_t at = 0; at < 8 * MIB; at += BLOCK) {
        assert_int_equal(run(v, OR_OP_READ, 0, at, BLOCK, more), OR_OK);
        if (at < 6 * MIB && at % (4 * BLOCK) == 0)
            assert_memory_equal(more, data, BLOCK);
        else
            assert_memory_equal(more, l->memory + at, BLOCK);
    }
    uint32_t reads = l->reads;
    for (uint64_t at = 0; at < 8 * MIB; at += BLOCK)
        assert_int_equal(run(v, OR_OP_READ, 0, at, BLOCK, more), OR_OK);
    assert_int_equal(l->reads, reads);
    close_volume(cache, v);
    or_cache_destroy(cache);
    lower_free(l);
}

static void a_scan_does_not_flush_what_is_used_often(void **state)
{
    static const enum or_cache_policy resistant[] = {OR_CACHE_ARC, OR_CACHE_S3FIFO};
    (void)state;
    for (uint32_t p = 0; p < 2; p++) {
        struct lower *l = lower_open(4096);
        struct or_cache *cache = cache_open(2 * MIB, resistant[p]);
        struct or_volume *v = cache_volume(cache, l, (struct or_cache_volume_config){.mode = OR_CACHE_WRITE_THROUGH});
        for (int round = 0; round < 4; round++)
            for (uint64_t at = 0; at < MIB; at += BLOCK)
                assert_int_equal(run(v, OR_OP_READ, 0, at, BLOCK, data), OR_OK);
        for (uint64_t at = MIB; at < 8 * MIB; at += BLOCK)
            assert_int_equal(run(v, OR_OP_READ, 0, at, BLOCK, data), OR_OK);
        uint32_t reads = l->reads;
        for (uint64_t at = 0; at < MIB; at += BLOCK)
            assert_int_equal(run(v, OR_OP_READ, 0, at, BLOCK, data), OR_OK);
        assert_true(l->reads - reads < 26); /* a tenth */
        close_volume(cache, v);
        or_cache_destroy(cache);
        lower_free(l);
    }
}

static void a_request_larger_than_a_part_of_the_cache_passes_by(void **state)
{
    (void)state;
    struct lower *l = lower_open(4096);
    struct or_cache *cache = cache_open(1 * MIB, OR_CACHE_LRU);
    struct or_volume *v = cache_volume(cache, l, (struct or_cache_volume_config){.mode = OR_CACHE_WRITE_THROUGH});
    assert_int_equal(run(v, OR_OP_READ, 0, 0, BLOCK, data), OR_OK);
    assert_int_equal(run(v, OR_OP_READ, 0, MIB, 1 * MIB, data), OR_OK);
    assert_memory_equal(data, l->memory + MIB, MIB);
    struct or_cache_stats s = stats_of(v);
    assert_int_equal(s.bypassed, 1);
    assert_int_equal(s.blocks, 1);
    close_volume(cache, v);
    or_cache_destroy(cache);
    lower_free(l);
}

static void a_sequential_reader_finds_its_blocks_read_ahead(void **state)
{
    (void)state;
    struct lower *l = lower_open(4096);
    struct or_cache *cache = cache_open(4 * MIB, OR_CACHE_ARC);
    struct or_volume *v = cache_volume(
        cache, l, (struct or_cache_volume_config){.mode = OR_CACHE_WRITE_THROUGH, .read_ahead_max = 32 * BLOCK});
    for (uint64_t at = 0; at < 2 * MIB; at += BLOCK)
        assert_int_equal(run(v, OR_OP_READ, 0, at, BLOCK, data), OR_OK);
    struct or_cache_stats s = stats_of(v);
    assert_true(s.misses < 8);
    assert_true(s.ahead_used + 40 > s.ahead && s.ahead_used > 450);
    assert_true(l->reads < 100);
    /* Random readers do not cause any. */
    uint64_t ahead = s.ahead;
    for (uint64_t i = 0; i < 100; i++)
        assert_int_equal(run(v, OR_OP_READ, 0, (i * 37 % 997 + 600) * BLOCK, BLOCK, data), OR_OK);
    assert_int_equal(stats_of(v).ahead, ahead);
    close_volume(cache, v);
    or_cache_destroy(cache);
    lower_free(l);
}

static void a_quota_is_a_part_of_its_own(void **state)
{
    (void)state;
    struct lower *l[2] = {lower_open(4096), lower_open(4096)};
    struct or_cache *cache = cache_open(4 * MIB, OR_CACHE_ARC);
    struct or_volume *small =
        cache_volume(cache, l[0], (struct or_cache_volume_config){.mode = OR_CACHE_WRITE_THROUGH, .quota = 64 * BLOCK});
    struct or_volume *rest = cache_volume(cache, l[1], (struct or_cache_volume_config){.mode = OR_CACHE_WRITE_THROUGH});
    for (uint64_t at = 0; at < 8 * MIB; at += BLOCK)
        assert_int_equal(run(small, OR_OP_READ, 0, at, BLOCK, data), OR_OK);
    assert_int_equal(stats_of(small).blocks, 64);
    for (uint64_t at = 0; at < 8 * MIB; at += BLOCK)
        assert_int_equal(run(rest, OR_OP_READ, 0, at, BLOCK, data), OR_OK);
    assert_int_equal(stats_of(small).blocks, 64);
    close_volume(cache, small);
    close_volume(cache, rest);
    or_cache_destroy(cache);
    lower_free(l[0]);
    lower_free(l[1]);
}

static void what_describes_256_mib_takes_less_than_3_percent(void **state)
{
    (void)state;
    struct or_cache_config config = {.bytes = 256 * MIB, .bytes_max = 256 * MIB};
    int err;
    struct or_cache *cache = or_cache_create(&config, &err);
    assert_non_null(cache);
    struct or_cache_info info;
    or_cache_read_info(cache, &info);
    assert_true(info.bytes <= 256 * MIB && info.bytes > 255 * MIB);
    assert_true(info.metadata_bytes * 100 < (uint64_t)info.blocks_max * BLOCK * 3);
    or_cache_destroy(cache);
}

static void nonsense_is_refused(void **state)
{
    (void)state;
    int err;
    struct or_cache_config config = {.bytes = MIB - 1, .bytes_max = MIB};
    assert_null(or_cache_create(&config, &err));
    assert_int_equal(err, -22);
    config = (struct or_cache_config){.bytes = 2 * MIB, .bytes_max = MIB};
    assert_null(or_cache_create(&config, &err));
    config = (struct or_cache_config){.bytes = MIB, .bytes_max = MIB, .policy = OR_CACHE_POLICIES};
    assert_null(or_cache_create(&config, &err));
    assert_null(or_cache_policy_name(OR_CACHE_POLICIES));
    assert_string_equal(or_cache_mode_name(OR_CACHE_WRITE_BACK), "write-back");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_second_read_costs_the_lower_volume_nothing),
        cmocka_unit_test(a_hit_is_answered_out_of_the_block_which_stays_until_it_is_unpinned),
        cmocka_unit_test(pins_leave_most_of_the_cache_to_others),
        cmocka_unit_test(misses_of_one_block_at_the_same_time_read_it_once),
        cmocka_unit_test(clones_of_one_base_read_each_block_once),
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
        cmocka_unit_test(an_error_hits_only_who_reads_the_bad_place),
        cmocka_unit_test(a_budget_shrinks_by_eviction_and_grows_again),
        cmocka_unit_test(a_scan_does_not_flush_what_is_used_often),
        cmocka_unit_test(a_request_larger_than_a_part_of_the_cache_passes_by),
        cmocka_unit_test(a_sequential_reader_finds_its_blocks_read_ahead),
        cmocka_unit_test(a_quota_is_a_part_of_its_own),
        cmocka_unit_test(what_describes_256_mib_takes_less_than_3_percent),
        cmocka_unit_test(nonsense_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
