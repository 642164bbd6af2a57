/* What every block back-end promises, checked on each of them: a file with and without O_DIRECT, a file
 * on tmpfs, block devices with both block sizes, ram and null. */
#include "volume_fixture.h"

#define DEPTH 64u
#define RANDOM_OPS 400u
#define SPAN_MAX 256u /* blocks of a random operation */

static enum fixture_kind kind_of(void **state)
{
    return *(const enum fixture_kind *)*state;
}

/* A generator whose seed is printed when a test fails. */
static uint64_t seed;

static uint32_t random_below(uint32_t limit)
{
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)((seed >> 33) % limit);
}

static void reads_back_what_was_written(void **state)
{
    static const uint32_t sizes[] = {4096, 12288, 65536, MIB, 4 * MIB + 4096};
    struct fixture *fx = fixture_open(kind_of(state), 64);
    uint8_t *out = buffer_new(8 * MIB);
    uint8_t *in = buffer_new(8 * MIB);
    uint8_t *original = buffer_new(8 * MIB);
    fill_random(out, 8 * MIB);
    memcpy(original, out, 8 * MIB);
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        uint64_t offset = FIXTURE_SIZE - sizes[i];
        memset(in, 0x55, sizes[i]);
        assert_int_equal(run(fx, OR_OP_WRITE, i % 2 ? OR_REQ_FUA : 0, offset, sizes[i], out + 4096), OR_OK);
        assert_memory_equal(out, original, 8 * MIB);
        assert_int_equal(run(fx, OR_OP_READ, 0, offset, sizes[i], in), OR_OK);
        if (fx->kind == KIND_NULL) {
            assert_all_zero(in, sizes[i]);
        } else {
            assert_memory_equal(in, out + 4096, sizes[i]);
        }
    }
    free(original);
    free(in);
    free(out);
    fixture_close(fx);
}

static void the_smallest_block_changes_nothing_beside_it(void **state)
{
    struct fixture *fx = fixture_open(kind_of(state), 64);
    uint32_t block = fx->volume->block_size;
    uint8_t *out = buffer_new(3 * BUFFER_ALIGN);
    uint8_t *in = buffer_new(3 * BUFFER_ALIGN);
    memset(out, 0xAA, 3 * block);
    assert_int_equal(run(fx, OR_OP_WRITE, 0, 0, 3 * block, out), OR_OK);
    memset(out + block, 0xBB, block);
    uint8_t *one = buffer_new(block);
    memset(one, 0xBB, block);
    assert_int_equal(run(fx, OR_OP_WRITE, 0, block, block, one), OR_OK);
    assert_int_equal(run(fx, OR_OP_READ, 0, 0, 3 * block, in), OR_OK);
    if (fx->kind == KIND_NULL) {
        memset(out, 0, 3 * block);
    }
    assert_memory_equal(in, out, 3 * block);
    free(one);
    free(in);
    free(out);
    fixture_close(fx);
}

/* Checks that [from, to) of what was 0xEE is zero now and that all around it is untouched. */
static void check_zeroed(struct fixture *fx, uint8_t *in, uint64_t from, uint64_t to)
{
    assert_int_equal(run(fx, OR_OP_READ, 0, 0, FIXTURE_SIZE, in), OR_OK);
    assert_all_zero(in + from, to - from);
    if (fx->kind != KIND_NULL) {
        for (uint64_t i = 0; i < FIXTURE_SIZE; i++) {
            if ((i < from || i >= to) && in[i] != 0xEE) {
                fail_msg("byte %lu beside the zeroed range changed", (unsigned long)i);
            }
        }
    }
}

static void zeroed_ranges_read_as_zeroes(void **state)
{
    struct fixture *fx = fixture_open(kind_of(state), 64);
    static const uint8_t flags[] = {0, OR_REQ_UNMAP, OR_REQ_FUA, OR_REQ_UNMAP | OR_REQ_FUA};
    const uint64_t block = fx->volume->block_size;
    const uint64_t ranges[][2] = {
        {block, 2 * block}, {3 * block, 5 * MIB + block}, {2 * MIB, 6 * MIB}, {0, FIXTURE_SIZE}};
    uint8_t *buffer = buffer_new(FIXTURE_SIZE);
    assert_true(fx->volume->write_zeroes);
    for (size_t f = 0; f < sizeof(flags); f++) {
        for (size_t r = 0; r < sizeof(ranges) / sizeof(ranges[0]); r++) {
            memset(buffer, 0xEE, FIXTURE_SIZE);
            assert_int_equal(run(fx, OR_OP_WRITE, 0, 0, FIXTURE_SIZE, buffer), OR_OK);
            uint32_t length = (uint32_t)(ranges[r][1] - ranges[r][0]);
            assert_int_equal(run(fx, OR_OP_WRITE_ZEROES, flags[f], ranges[r][0], length, NULL), OR_OK);
            check_zeroed(fx, buffer, ranges[r][0], ranges[r][1]);
        }
    }
    free(buffer);
    fixture_close(fx);
}

/* One random operation, on the volume and on the model. */
static void random_step(struct fixture *fx, uint8_t *model, uint8_t *buffer)
{
    uint32_t block = fx->volume->block_size;
    uint32_t blocks = (uint32_t)(FIXTURE_SIZE / block);
    uint32_t span = 1 + random_below(SPAN_MAX);
    uint64_t offset = (uint64_t)random_below(blocks - span) * block;
    uint32_t length = span * block;
    uint8_t op = (uint8_t)(OR_OP_READ + random_below(OR_OP_WRITE_ZEROES));
    uint8_t flags = (uint8_t)random_below(OR_REQ_FUA | OR_REQ_UNMAP | 1);
    memset(buffer, (int)random_below(256), length);
    assert_int_equal(run(fx, op, flags, offset, length, buffer), OR_OK);
    switch (op) {
    case OR_OP_READ:
        assert_memory_equal(buffer, model + offset, length);
        break;
    case OR_OP_WRITE:
        memcpy(model + offset, buffer, length);
        break;
    case OR_OP_WRITE_ZEROES:
        memset(model + offset, 0, length);
        break;
    case OR_OP_DISCARD: /* undefined, but from now on always the same */
        assert_int_equal(run(fx, OR_OP_READ, 0, offset, length, model + offset), OR_OK);
        break;
    default:
        break;
    }
}

static void random_operations_match_a_model(void **state)
{
    struct fixture *fx = fixture_open(kind_of(state), 64);
    /* The model is aligned like the volume, so that reads may go straight into it. */
    uint8_t *model = buffer_new(FIXTURE_SIZE);
    uint8_t *buffer = buffer_new(FIXTURE_SIZE);
    memset(model, 0, FIXTURE_SIZE);
    fill_random((uint8_t *)&seed, sizeof(seed));
    print_message("seed %lu\n", (unsigned long)seed);
    for (uint32_t i = 0; i < RANDOM_OPS; i++) {
        if (fx->kind == KIND_NULL) {
            memset(model, 0, FIXTURE_SIZE);
        }
        random_step(fx, model, buffer);
    }
    assert_int_equal(run(fx, OR_OP_READ, 0, 0, FIXTURE_SIZE, buffer), OR_OK);
    assert_memory_equal(buffer, fx->kind == KIND_NULL ? memset(model, 0, FIXTURE_SIZE) : model, FIXTURE_SIZE);
    free(buffer);
    free(model);
    fixture_close(fx);
}

/* DEPTH operations at once, each on its own piece of the volume, several rounds; the ring has room for
 * a fraction of them. */
static void many_operations_run_at_once(void **state)
{
    struct fixture *fx = fixture_open(kind_of(state), 8);
    const uint32_t piece = (uint32_t)(FIXTURE_SIZE / DEPTH);
    struct task *tasks = calloc(DEPTH, sizeof(*tasks));
    uint8_t *out = buffer_new(FIXTURE_SIZE);
    uint8_t *in = buffer_new(FIXTURE_SIZE);
    fill_random(out, FIXTURE_SIZE);
    for (uint32_t round = 0; round < 6; round++) {
        bool write = round % 2 == 0;
        uint8_t *data = write ? out : in;
        for (uint32_t i = 0; i < DEPTH; i++) {
            uint64_t offset = (uint64_t)i * piece;
            if (write && i % 8 == 7) {
                task_start(fx, &tasks[i], OR_OP_WRITE_ZEROES, round == 2 ? OR_REQ_UNMAP : 0, offset, piece, NULL);
                memset(out + offset, 0, piece);
            } else {
                task_start(fx, &tasks[i], write ? OR_OP_WRITE : OR_OP_READ, 0, offset, piece, data + offset);
            }
        }
        assert_true(fx->volume->synchronous ? fx->volume->in_flight == 0 : fx->volume->in_flight == DEPTH);
        for (uint32_t i = 0; i < DEPTH; i++) {
            assert_int_equal(task_wait(fx, &tasks[i]), OR_OK);
        }
        assert_int_equal(fx->volume->in_flight, 0);
        assert_false(or_uring_busy(fx->uring));
        if (!write) {
            assert_memory_equal(in, fx->kind == KIND_NULL ? memset(out, 0, FIXTURE_SIZE) : out, FIXTURE_SIZE);
        }
    }
    free(in);
    free(out);
    free(tasks);
    fixture_close(fx);
}

static void a_read_only_volume_refuses_what_writes(void **state)
{
    struct fixture *fx = fixture_open(kind_of(state), 64);
    uint8_t *buffer = buffer_new(BUFFER_ALIGN);
    memset(buffer, 0x77, BUFFER_ALIGN);
    fx->volume->read_only = true;
    assert_int_equal(run(fx, OR_OP_WRITE, 0, 0, 4096, buffer), OR_EREADONLY);
    assert_int_equal(run(fx, OR_OP_DISCARD, 0, 0, 4096, NULL), OR_EREADONLY);
    assert_int_equal(run(fx, OR_OP_WRITE_ZEROES, 0, 0, 4096, NULL), OR_EREADONLY);
    assert_int_equal(run(fx, OR_OP_FLUSH, 0, 0, 0, NULL), OR_OK);
    assert_int_equal(run(fx, OR_OP_READ, 0, 0, 4096, buffer), OR_OK);
    assert_all_zero(buffer, 4096);
    assert_int_equal(fx->volume->in_flight, 0);
    free(buffer);
    fixture_close(fx);
}

static void an_operation_of_no_bytes_is_done(void **state)
{
    struct fixture *fx = fixture_open(kind_of(state), 64);
    for (uint8_t op = OR_OP_READ; op <= OR_OP_WRITE_ZEROES; op++) {
        assert_int_equal(run(fx, op, 0, FIXTURE_SIZE, 0, NULL), OR_OK);
    }
    fixture_close(fx);
}

static void the_geometry_is_what_the_storage_has(void **state)
{
    struct fixture *fx = fixture_open(kind_of(state), 64);
    const struct or_volume *volume = fx->volume;
    bool large = fx->kind == KIND_LOOP_4096 || fx->kind == KIND_RAM_4096;
    assert_int_equal(volume->size, FIXTURE_SIZE);
    assert_int_equal(volume->block_size, large ? 4096 : 512);
    assert_true(volume->physical_block_size >= volume->block_size);
    assert_true(volume->align >= 1 && volume->align <= BUFFER_ALIGN);
    assert_int_equal(volume->synchronous, !kind_is_file(fx->kind));
    assert_true(volume->discard_granularity >= volume->block_size);
    if (volume->direct) {
        assert_true(fcntl(volume->fd, F_GETFL) & O_DIRECT);
    } else {
        assert_int_equal(volume->align, 1);
        assert_true(!kind_is_file(fx->kind) || !(fcntl(volume->fd, F_GETFL) & O_DIRECT));
    }
    fixture_close(fx);
}

static void what_can_be_peeked_is_what_is_read(void **state)
{
    struct fixture *fx = fixture_open(kind_of(state), 64);
    if (kind_is_file(fx->kind)) {
        assert_null(fx->volume->ops->peek);
        fixture_close(fx);
        return;
    }
    uint8_t *buffer = buffer_new(MIB);
    fill_random(buffer, MIB);
    assert_int_equal(run(fx, OR_OP_WRITE, 0, 3 * MIB, MIB, buffer), OR_OK);
    assert_int_equal(run(fx, OR_OP_READ, 0, 3 * MIB, MIB, buffer), OR_OK);
    const uint8_t *seen = fx->volume->ops->peek(fx->volume, 3 * MIB, MIB);
    assert_non_null(seen);
    assert_memory_equal(seen, buffer, MIB);
    free(buffer);
    fixture_close(fx);
}

static void what_is_held_waits_in_order(void **state)
{
    struct fixture *fx = fixture_open(kind_of(state), 64);
    struct task before, held[3], past;
    int err;
    uint8_t *buffer = buffer_new(4 * 4096), *found = buffer_new(4096);
    memset(buffer, 0x11, 4 * 4096);
    task_start(fx, &before, OR_OP_WRITE, 0, 0, 4096, buffer);
    or_volume_hold(fx->volume);
    for (uint32_t i = 0; i < 3; i++) {
        memset(buffer + (i + 1) * 4096, 0x22 + (int)i, 4096);
        task_start(fx, &held[i], OR_OP_WRITE, 0, i * 4096, 4096, buffer + (i + 1) * 4096);
    }
    assert_int_equal(task_wait(fx, &before), OR_OK);
    assert_int_equal(fx->volume->in_flight, 0); /* without those that wait */
    past = (struct task){.io = {.op = OR_OP_FLUSH, .done = count_done}};
    or_volume_submit_held(fx->volume, &past.io);
    assert_int_equal(task_wait(fx, &past), OR_OK);
    assert_int_equal(held[0].done + held[1].done + held[2].done, 0);

    /* to a volume that takes the place of this one */
    struct or_volume *other = or_volume_ram(FIXTURE_SIZE, fx->volume->block_size, &err);
    or_volume_release(fx->volume, other);
    for (uint32_t i = 0; i < 3; i++) {
        assert_int_equal(task_wait(fx, &held[i]), OR_OK);
        if (fx->kind != KIND_NULL)
            assert_memory_equal(other->ops->peek(other, i * 4096, 4096), buffer + (i + 1) * 4096, 4096);
    }
    assert_int_equal(run(fx, OR_OP_READ, 0, 0, 4096, found), OR_OK);
    if (fx->kind != KIND_NULL)
        assert_memory_equal(found, buffer, 4096);
    other->ops->close(other);
    free(found);
    free(buffer);
    fixture_close(fx);
}

static const struct {
    const char *name;
    CMUnitTestFunction function;
} promises[] = {
    {"reads back what was written", reads_back_what_was_written},
    {"the smallest block changes nothing beside it", the_smallest_block_changes_nothing_beside_it},
    {"zeroed ranges read as zeroes", zeroed_ranges_read_as_zeroes},
    {"random operations match a model", random_operations_match_a_model},
    {"many operations run at once", many_operations_run_at_once},
    {"a read-only volume refuses what writes", a_read_only_volume_refuses_what_writes},
    {"an operation of no bytes is done", an_operation_of_no_bytes_is_done},
    {"the geometry is what the storage has", the_geometry_is_what_the_storage_has},
    {"what can be peeked is what is read", what_can_be_peeked_is_what_is_read},
    {"what is held waits in order", what_is_held_waits_in_order},
};
#define PROMISES (sizeof(promises) / sizeof(promises[0]))

int main(void)
{
    static struct CMUnitTest tests[KIND_COUNT * PROMISES];
    static char names[KIND_COUNT * PROMISES][96];
    static enum fixture_kind kinds[KIND_COUNT];
    size_t count = 0;
    for (size_t kind = 0; kind < KIND_COUNT; kind++) {
        kinds[kind] = (enum fixture_kind)kind;
        for (size_t p = 0; p < PROMISES; p++, count++) {
            snprintf(names[count], sizeof(names[count]), "%s: %s", kind_names[kind], promises[p].name);
            tests[count] = (struct CMUnitTest){
                .name = names[count], .test_func = promises[p].function, .initial_state = &kinds[kind]};
        }
    }
    return _cmocka_run_group_tests("volumes", tests, count, NULL, NULL);
}
