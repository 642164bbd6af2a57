/* The cache on real storage: files with and without O_DIRECT, tmpfs, block devices, memory. What is read is always
 * what was written last, and when the volume is closed the storage has all of it. */
#include "../backend/volume_fixture.h"

#include "cache/cache.h"

#define OPS 600u
#define SPAN_BYTES (256u << 10)

struct stack {
    enum fixture_kind kind;
    enum or_cache_mode mode;
};

static uint64_t seed;

static uint32_t below(uint32_t limit)
{
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)((seed >> 33) % limit);
}

static void random_operation(struct fixture *fx, uint8_t *shadow, uint8_t *buffer)
{
    uint32_t unit = fx->volume->block_size;
    uint32_t length = (1 + below(below(4) ? 24 : SPAN_BYTES / unit)) * unit;
    uint64_t offset = below(below(2) ? MIB / unit : (FIXTURE_SIZE - SPAN_BYTES) / unit) * (uint64_t)unit;
    uint32_t dice = below(100);
    if (dice < 50) {
        assert_int_equal(run(fx, OR_OP_READ, 0, offset, length, buffer), OR_OK);
        assert_memory_equal(buffer, shadow + offset, length);
    } else if (dice < 90) {
        fill_random(buffer, length);
        memcpy(shadow + offset, buffer, length);
        assert_int_equal(run(fx, OR_OP_WRITE, dice < 53 ? OR_REQ_FUA : 0, offset, length, buffer), OR_OK);
    } else if (dice < 95) {
        memset(shadow + offset, 0, length);
        assert_int_equal(run(fx, OR_OP_WRITE_ZEROES, 0, offset, length, NULL), OR_OK);
    } else {
        assert_int_equal(run(fx, OR_OP_FLUSH, 0, 0, 0, NULL), OR_OK);
    }
}

/* Closes the cached volume; the lower one closes itself when all is written out. */
static void close_stack(struct fixture *fx, struct or_cache *cache)
{
    fx->volume->ops->close(fx->volume);
    fx->volume = NULL;
    for (uint64_t now = 1; or_cache_volumes(cache); now++) {
        or_cache_poll(cache, now);
        or_uring_poll(fx->uring);
    }
    or_cache_destroy(cache);
}

static void reads_what_was_written_and_leaves_it_on_the_storage(void **state)
{
    const struct stack *s = *state;
    struct fixture *fx = fixture_open(s->kind, 64);
    uint8_t *shadow = calloc(1, FIXTURE_SIZE), *buffer = buffer_new(SPAN_BYTES), *found = buffer_new(FIXTURE_SIZE);
    int err, fd = fx->path[0] ? open(fx->path, O_RDONLY | O_CLOEXEC) : -1;
    struct or_cache *cache = or_cache_create(
        &(struct or_cache_config){.bytes = 2 * MIB, .bytes_max = 2 * MIB, .policy = OR_CACHE_S3FIFO}, &err);
    assert_non_null(cache);
    fx->volume = or_cache_volume(cache, fx->volume,
                                 &(struct or_cache_volume_config){.mode = s->mode, .read_ahead_max = 128 << 10}, &err);
    assert_non_null(fx->volume);
    seed = s->kind * 7 + s->mode;
    for (uint32_t i = 0; i < OPS; i++) {
        random_operation(fx, shadow, buffer);
        or_cache_poll(cache, 1);
    }
    close_stack(fx, cache);
    if (fd >= 0) {
        assert_int_equal(pread(fd, found, FIXTURE_SIZE, 0), FIXTURE_SIZE);
        assert_memory_equal(found, shadow, FIXTURE_SIZE);
        close(fd);
    }
    free(found);
    free(buffer);
    free(shadow);
    or_uring_destroy(fx->uring);
    close(fx->epoll_fd);
    if (fx->loop_fd >= 0)
        close(fx->loop_fd);
    if (fx->path[0])
        unlink(fx->path);
    free(fx);
}

int main(void)
{
    static struct stack stacks[KIND_NULL * OR_CACHE_MODES];
    static char names[KIND_NULL * OR_CACHE_MODES][96];
    struct CMUnitTest tests[KIND_NULL * OR_CACHE_MODES];
    for (uint32_t n = 0; n < KIND_NULL * OR_CACHE_MODES; n++) {
        stacks[n] = (struct stack){(enum fixture_kind)(n / OR_CACHE_MODES), (enum or_cache_mode)(n % OR_CACHE_MODES)};
        snprintf(names[n], sizeof names[n], "reads what was written and leaves it on the storage: %s, %s",
                 kind_names[stacks[n].kind], or_cache_mode_name(stacks[n].mode));
        tests[n] = (struct CMUnitTest){.name = names[n],
                                       .test_func = reads_what_was_written_and_leaves_it_on_the_storage,
                                       .initial_state = &stacks[n]};
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
