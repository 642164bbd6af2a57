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

static void a_block_with_all_the_pins_that_it_may_have_can_still_be_copied(void **state)
{
    (void)state;
    static bool own[LOWER_BYTES / BLOCK];
    struct lower *l = lower_open(512);
    struct or_cache *cache = cache_open(1 * MIB, OR_CACHE_S3FIFO);
    struct or_volume *v = cache_volume(
        cache, l,
        (struct or_cache_volume_config){
            .mode = OR_CACHE_WRITE_BACK, .content = (uint64_t)(uintptr_t)own, .map = map_to_base, .map_arg = own});
    assert_int_equal(run(v, OR_OP_READ, 0, 0, BLOCK, data), OR_OK);
    uint32_t pins = 0;
    const uint8_t *memory = v->ops->peek(v, 0, 512), *again = memory;
    for (; again; again = v->ops->peek(v, 0, 512))
        pins++;
    assert_true(pins > 60000);
    assert_int_equal(run(v, OR_OP_WRITE, 0, 512, 512, data), OR_OK);
    own[0] = true;
    while (pins--)
        v->ops->unpeek(v, memory);
    close_volume(cache, v);
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

static void read_blocks(struct or_volume *v, uint64_t first, uint64_t count)
{
    for (uint64_t n = first; n < first + count; n++)
        assert_int_equal(run(v, OR_OP_READ, 0, n * BLOCK, BLOCK, data), OR_OK);
}

static uint64_t blocks_left(const struct or_cache *cache)
{
    struct or_cache_info info;
    or_cache_read_info(cache, &info);
    return info.blocks_max - info.blocks;
}

static void a_quota_holds_while_all_that_others_have_is_used_often(void **state)
{
    (void)state;
    struct lower *l[2] = {lower_open(4096), lower_open(4096)};
    struct or_cache *cache = cache_open(4 * MIB, OR_CACHE_S3FIFO);
    struct or_volume *small =
        cache_volume(cache, l[0], (struct or_cache_volume_config){.mode = OR_CACHE_WRITE_THROUGH, .quota = 64 * BLOCK});
    struct or_volume *rest = cache_volume(cache, l[1], (struct or_cache_volume_config){.mode = OR_CACHE_WRITE_THROUGH});
    read_blocks(small, 0, 64);
    uint64_t left = blocks_left(cache);
    for (uint32_t round = 0; round < 5; round++)
        read_blocks(rest, 0, left);
    read_blocks(rest, left, 64);
    assert_int_equal(stats_of(small).blocks, 64);
    assert_int_equal(stats_of(rest).evictions, 64);
    close_volume(cache, small);
    close_volume(cache, rest);
    or_cache_destroy(cache);
    lower_free(l[0]);
    lower_free(l[1]);
}

/* Another one, whose disk hangs, has `dirty` blocks, and `clean` more; then it reads what is not in memory. Returns how
 * many blocks it took from one that had all of its quota. */
static uint64_t taken_from_quota(enum or_cache_policy policy, uint64_t dirty, uint64_t clean)
{
    struct lower *l[2] = {lower_open(4096), lower_open(4096)};
    struct or_cache *cache = cache_open(4 * MIB, policy);
    uint64_t quota = blocks_left(cache) - dirty - clean;
    struct or_volume *own = cache_volume(
        cache, l[0], (struct or_cache_volume_config){.mode = OR_CACHE_WRITE_THROUGH, .quota = quota * BLOCK});
    struct or_volume *rest =
        cache_volume(cache, l[1], (struct or_cache_volume_config){.mode = OR_CACHE_WRITE_BACK, .dirty_max = 16 * MIB});
    read_blocks(own, 0, quota);
    read_blocks(rest, 0, clean);
    l[1]->manual = true;
    for (uint64_t n = 0; n < dirty; n++)
        assert_int_equal(run(rest, OR_OP_WRITE, 0, (clean + n) * BLOCK, BLOCK, data), OR_OK);
    assert_int_equal(blocks_left(cache), 0);
    l[1]->manual = false; /* but for what hangs */
    read_blocks(rest, clean + dirty, 200);
    uint64_t taken = quota - stats_of(own).blocks;
    assert_int_equal(stats_of(rest).dirty, dirty);
    lower_end_all(l[1]);
    close_volume(cache, own);
    close_volume(cache, rest);
    or_cache_destroy(cache);
    lower_free(l[0]);
    lower_free(l[1]);
    return taken;
}

static void others_take_from_a_quota_only_when_they_have_nothing_that_can_go(void **state)
{
    (void)state;
    for (enum or_cache_policy policy = 0; policy < OR_CACHE_POLICIES; policy++) {
        assert_int_equal(taken_from_quota(policy, 400, 200), 0);
        assert_int_equal(taken_from_quota(policy, 400, 1), 0);
        uint64_t taken = taken_from_quota(policy, 400, 0);
        assert_true(taken > 0 && taken < 50);
    }
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
        cmocka_unit_test(a_block_with_all_the_pins_that_it_may_have_can_still_be_copied),
        cmocka_unit_test(an_error_hits_only_who_reads_the_bad_place),
        cmocka_unit_test(a_budget_shrinks_by_eviction_and_grows_again),
        cmocka_unit_test(a_scan_does_not_flush_what_is_used_often),
        cmocka_unit_test(a_request_larger_than_a_part_of_the_cache_passes_by),
        cmocka_unit_test(a_sequential_reader_finds_its_blocks_read_ahead),
        cmocka_unit_test(a_quota_is_a_part_of_its_own),
        cmocka_unit_test(a_quota_holds_while_all_that_others_have_is_used_often),
        cmocka_unit_test(others_take_from_a_quota_only_when_they_have_nothing_that_can_go),
        cmocka_unit_test(what_describes_256_mib_takes_less_than_3_percent),
        cmocka_unit_test(nonsense_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
