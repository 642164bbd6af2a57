/* A volume over a chain of layers: what it reads, what it writes where, and what it refuses. */
#include "layers_fixture.h"

#include <errno.h>

#define SIZE (4 * MIB)

/* Of 1 or 2 overlays over a raw volume whose sectors know where they are. */
struct chain {
    struct or_layer layers[3];
    uint32_t count;
    struct or_volume *volume;
};

static uint8_t buffer[MIB] __attribute__((aligned(PAGE)));
static uint8_t other[MIB] __attribute__((aligned(PAGE)));

static struct image *raw_image(uint64_t bytes)
{
    struct image *image = calloc(1, sizeof *image);
    for (uint64_t at = 0; at < bytes; at += SECTOR) {
        uint64_t sector[SECTOR / 8];
        for (uint32_t i = 0; i < SECTOR / 8; i++)
            sector[i] = at + i;
        image_write(image, at, SECTOR, (const uint8_t *)sector);
    }
    return image;
}

static struct chain open_chain(uint32_t overlays, uint64_t raw_bytes, uint32_t block_size)
{
    struct chain c = {.count = 0};
    for (uint32_t n = 0; n < overlays; n++)
        c.layers[c.count++] = overlay_open(overlay_image(SIZE, 100 + n), n ? 512 : block_size);
    if (raw_bytes)
        c.layers[c.count++] = raw_open(raw_image(raw_bytes), raw_bytes, 512, 200);
    c.volume = stack(c.layers, c.count);
    return c;
}

static void close_chain(struct chain *c)
{
    unstack(c->volume, c->layers, c->count);
}

static struct tape *head_of(struct chain *c)
{
    return tape_of(&c->layers[0]);
}

/* The raw volume's bytes of [offset, offset + length), zeroes beyond its end. */
static void expect_raw(const uint8_t *bytes, uint64_t offset, uint32_t length, uint64_t raw_bytes)
{
    for (uint32_t i = 0; i < length; i += 8) {
        uint64_t word, at = offset + i;
        memcpy(&word, bytes + i, 8);
        assert_int_equal(word, at < raw_bytes ? at / SECTOR * SECTOR + at % SECTOR / 8 : 0);
    }
}

static void expect_fill(const uint8_t *bytes, uint8_t value, uint32_t length)
{
    for (uint32_t i = 0; i < length; i++)
        assert_int_equal(bytes[i], value);
}

static void what_was_never_written_is_read_from_below(void **state)
{
    (void)state;
    struct chain c = open_chain(2, SIZE, 512);
    assert_int_equal(run(c.volume, OR_OP_READ, 0, 3 * SECTOR, 512 * 1024, buffer), OR_OK);
    expect_raw(buffer, 3 * SECTOR, 512 * 1024, SIZE);
    assert_int_equal(tape_of(&c.layers[2])->reads, 1);
    assert_int_equal(head_of(&c)->reads, 0);
    close_chain(&c);
}

static void beyond_the_end_of_a_smaller_layer_are_zeroes(void **state)
{
    (void)state;
    uint64_t raw_bytes = MIB + 3 * SECTOR;
    struct chain c = open_chain(1, raw_bytes, 512);
    assert_int_equal(run(c.volume, OR_OP_READ, 0, MIB - 64 * KIB, 128 * KIB, buffer), OR_OK);
    expect_raw(buffer, MIB - 64 * KIB, 128 * KIB, raw_bytes);
    /* also when the cluster in which it ends is copied */
    memset(other, 7, SECTOR);
    assert_int_equal(run(c.volume, OR_OP_WRITE, 0, MIB + 5 * SECTOR, SECTOR, other), OR_OK);
    assert_int_equal(run(c.volume, OR_OP_READ, 0, MIB, CLUSTER, buffer), OR_OK);
    expect_raw(buffer, MIB, 5 * SECTOR, raw_bytes);
    expect_fill(buffer + 5 * SECTOR, 7, SECTOR);
    expect_fill(buffer + 6 * SECTOR, 0, 2 * SECTOR);
    close_chain(&c);
}

static void a_part_of_a_cluster_is_merged_with_the_rest(void **state)
{
    (void)state;
    for (uint32_t block_size = 512; block_size <= 4096; block_size *= 8) {
        struct chain c = open_chain(2, SIZE, block_size);
        memset(other, 9, MIB);
        assert_int_equal(run(c.volume, OR_OP_WRITE, 0, 8 * CLUSTER - SECTOR, 3 * CLUSTER, other), OR_OK);
        assert_int_equal(run(c.volume, OR_OP_READ, 0, 7 * CLUSTER, 5 * CLUSTER, buffer), OR_OK);
        expect_raw(buffer, 7 * CLUSTER, CLUSTER - SECTOR, SIZE);
        expect_fill(buffer + CLUSTER - SECTOR, 9, 3 * CLUSTER);
        expect_raw(buffer + 4 * CLUSTER - SECTOR, 11 * CLUSTER - SECTOR, CLUSTER + SECTOR, SIZE);
        assert_int_equal(or_layers_info(c.volume, 0).clusters, 4);
        assert_int_equal(tape_of(&c.layers[2])->writes_count, 0);
        close_chain(&c);
    }
}

static void a_large_write_is_one_operation_on_the_head(void **state)
{
    (void)state;
    struct chain c = open_chain(2, SIZE, 512);
    memset(other, 1, SECTOR);
    assert_int_equal(run(c.volume, OR_OP_WRITE, 0, MIB + 5 * CLUSTER, SECTOR, other), OR_OK); /* some is here */
    uint32_t before = head_of(&c)->writes_count;
    memset(other, 2, MIB);
    assert_int_equal(run(c.volume, OR_OP_WRITE, 0, MIB, MIB, other), OR_OK);
    assert_int_equal(head_of(&c)->writes_count, before + 2); /* and a page of the map */
    assert_int_equal(run(c.volume, OR_OP_READ, 0, MIB, MIB, buffer), OR_OK);
    expect_fill(buffer, 2, MIB);
    close_chain(&c);
}

static void parts_of_one_cluster_that_are_written_at_once_are_all_there(void **state)
{
    (void)state;
    struct chain c = open_chain(1, SIZE, 512);
    struct op ops[8];
    head_of(&c)->manual = tape_of(&c.layers[1])->manual = true;
    for (uint32_t n = 0; n < 8; n++) {
        memset(other + n * SECTOR, 10 + (int)n, SECTOR);
        submit(c.volume, &ops[n], OR_OP_WRITE, 0, 40 * CLUSTER + n * SECTOR, SECTOR, other + n * SECTOR);
    }
    assert_int_equal(tape_waiting(tape_of(&c.layers[1])), 1);
    while (c.volume->in_flight) {
        tape_end_all(tape_of(&c.layers[1]));
        tape_end_all(head_of(&c));
    }
    head_of(&c)->manual = false;
    assert_int_equal(run(c.volume, OR_OP_READ, 0, 40 * CLUSTER, CLUSTER, buffer), OR_OK);
    assert_memory_equal(buffer, other, CLUSTER);
    close_chain(&c);
}

static void zeroes_and_discards_hide_what_is_below(void **state)
{
    (void)state;
    static const uint8_t codes[] = {OR_OP_DISCARD, OR_OP_WRITE_ZEROES, OR_OP_WRITE_ZEROES};
    static const uint8_t flags[] = {0, 0, OR_REQ_UNMAP};
    for (uint32_t n = 0; n < 3; n++) {
        struct chain c = open_chain(2, SIZE, 512);
        memset(other, 3, MIB);
        assert_int_equal(run(c.volume, OR_OP_WRITE, 0, 16 * CLUSTER, 4 * CLUSTER, other), OR_OK);
        assert_int_equal(run(c.volume, codes[n], flags[n], 12 * CLUSTER, 8 * CLUSTER, NULL), OR_OK);
        assert_int_equal(run(c.volume, OR_OP_READ, 0, 12 * CLUSTER, 9 * CLUSTER, buffer), OR_OK);
        expect_fill(buffer, 0, 8 * CLUSTER);
        expect_raw(buffer + 8 * CLUSTER, 20 * CLUSTER, CLUSTER, SIZE);
        assert_int_equal(or_layers_info(c.volume, 0).clusters, n == 1 ? 4 : 0);
        close_chain(&c);
    }
}

static void zeroes_of_a_part_of_a_cluster_keep_the_rest(void **state)
{
    (void)state;
    for (uint32_t block_size = 512; block_size <= 4096; block_size *= 8) {
        struct chain c = open_chain(1, SIZE, block_size);
        for (uint32_t again = 0; again < 2; again++) { /* from below, and here */
            uint64_t at = 5 * CLUSTER + again * 2 * SECTOR;
            assert_int_equal(run(c.volume, OR_OP_WRITE_ZEROES, OR_REQ_UNMAP, at, SECTOR, NULL), OR_OK);
        }
        assert_int_equal(run(c.volume, OR_OP_READ, 0, 5 * CLUSTER, CLUSTER, buffer), OR_OK);
        expect_fill(buffer, 0, SECTOR);
        expect_raw(buffer + SECTOR, 5 * CLUSTER + SECTOR, SECTOR, SIZE);
        expect_fill(buffer + 2 * SECTOR, 0, SECTOR);
        expect_raw(buffer + 3 * SECTOR, 5 * CLUSTER + 3 * SECTOR, CLUSTER - 3 * SECTOR, SIZE);
        close_chain(&c);
    }
}

static void a_storage_that_cannot_discard_still_shows_zeroes(void **state)
{
    (void)state;
    struct chain c = open_chain(1, SIZE, 512);
    memset(other, 3, CLUSTER);
    assert_int_equal(run(c.volume, OR_OP_WRITE, 0, CLUSTER, CLUSTER, other), OR_OK);
    head_of(&c)->status = OR_EUNSUPP;
    head_of(&c)->fails_op = OR_OP_DISCARD;
    assert_int_equal(run(c.volume, OR_OP_DISCARD, 0, CLUSTER, CLUSTER, NULL), OR_OK);
    assert_int_equal(run(c.volume, OR_OP_READ, 0, CLUSTER, CLUSTER, buffer), OR_OK);
    expect_fill(buffer, 0, CLUSTER);
    /* and a part that is written then does not bring back the rest */
    assert_int_equal(run(c.volume, OR_OP_WRITE, 0, CLUSTER, SECTOR, other), OR_OK);
    assert_int_equal(run(c.volume, OR_OP_READ, 0, CLUSTER, CLUSTER, buffer), OR_OK);
    expect_fill(buffer + SECTOR, 0, CLUSTER - SECTOR);
    close_chain(&c);
}

/* --- durability ------------------------------------------------------------------------------------- */

static void a_flush_without_news_is_one_sync(void **state)
{
    (void)state;
    struct chain c = open_chain(1, SIZE, 512);
    assert_int_equal(flush(c.volume), OR_OK);
    assert_int_equal(head_of(&c)->syncs, 1);
    assert_int_equal(run(c.volume, OR_OP_WRITE, 0, 0, CLUSTER, other), OR_OK); /* brings its own news to the file */
    assert_int_equal(head_of(&c)->syncs, 3);
    assert_int_equal(flush(c.volume), OR_OK);
    assert_int_equal(head_of(&c)->syncs, 4);
    assert_int_equal(run(c.volume, OR_OP_WRITE, 0, 0, CLUSTER, other), OR_OK); /* in place */
    assert_int_equal(head_of(&c)->syncs, 4);
    assert_int_equal(flush(c.volume), OR_OK);
    assert_int_equal(head_of(&c)->syncs, 5);
    close_chain(&c);
}

/* An engine that is killed leaves what has reached the file, synced or not. */
static void what_was_acknowledged_is_in_the_file(void **state)
{
    (void)state;
    static const struct {
        uint8_t op;
        uint64_t offset;
        uint32_t length;
    } changes[] = {{OR_OP_WRITE, 0, CLUSTER},
                   {OR_OP_WRITE, 9 * CLUSTER + SECTOR, SECTOR},
                   {OR_OP_WRITE_ZEROES, 20 * CLUSTER, 3 * CLUSTER},
                   {OR_OP_DISCARD, 40 * CLUSTER, CLUSTER}};
    struct chain c = open_chain(1, SIZE, 512);
    memset(other, 6, CLUSTER);
    for (uint32_t n = 0; n < sizeof changes / sizeof *changes; n++) {
        uint8_t *data = changes[n].op == OR_OP_WRITE ? other : NULL;
        assert_int_equal(run(c.volume, changes[n].op, 0, changes[n].offset, changes[n].length, data), OR_OK);
        struct or_layer again = overlay_open(image_copy(head_of(&c)->current), 512);
        struct or_volume *found = stack(&again, 1);
        assert_int_equal(run(found, OR_OP_READ, 0, changes[n].offset, changes[n].length, buffer), OR_OK);
        expect_fill(buffer, data ? 6 : 0, changes[n].length);
        assert_int_equal(or_layers_info(found, 0).clusters, or_layers_info(c.volume, 0).clusters);
        assert_int_equal(or_layers_info(found, 0).zeroes, or_layers_info(c.volume, 0).zeroes);
        unstack(found, &again, 1);
    }
    close_chain(&c);
}

static void a_forced_write_in_place_needs_no_sync(void **state)
{
    (void)state;
    struct chain c = open_chain(1, SIZE, 512);
    assert_int_equal(run(c.volume, OR_OP_WRITE, OR_REQ_FUA, 0, CLUSTER, other), OR_OK);
    assert_int_equal(head_of(&c)->syncs, 2);
    assert_int_equal(run(c.volume, OR_OP_WRITE, OR_REQ_FUA, SECTOR, SECTOR, other), OR_OK);
    assert_int_equal(head_of(&c)->syncs, 2);
    assert_int_equal(run(c.volume, OR_OP_WRITE, 0, CLUSTER, CLUSTER, other), OR_OK);
    assert_int_equal(run(c.volume, OR_OP_WRITE, OR_REQ_FUA, 0, SECTOR, other), OR_OK); /* its page has changed */
    assert_int_equal(head_of(&c)->syncs, 4);
    close_chain(&c);
}

static void flushes_that_come_together_share(void **state)
{
    (void)state;
    struct chain c = open_chain(1, SIZE, 512);
    struct op flushes[5];
    head_of(&c)->manual = true;
    for (uint32_t n = 0; n < 5; n++)
        submit(c.volume, &flushes[n], OR_OP_FLUSH, 0, 0, 0, NULL);
    tape_end(head_of(&c), 0);
    assert_true(flushes[0].done);
    assert_false(flushes[1].done);
    tape_end(head_of(&c), 0);
    for (uint32_t n = 1; n < 5; n++)
        assert_true(flushes[n].done);
    assert_int_equal(head_of(&c)->syncs, 2);
    close_chain(&c);
}

static void a_large_map_is_written_in_rounds(void **state)
{
    (void)state;
    uint64_t size = 20 * GIB, step = 64 * MIB;
    struct or_layer layer = overlay_open(overlay_image(size, 5), 512);
    struct or_volume *volume = stack(&layer, 1);
    struct op writes[320];
    uint32_t count = 0;
    memset(other, 8, CLUSTER);
    tape_of(&layer)->manual = true;
    for (uint64_t at = 0; at < size; at += step)
        submit(volume, &writes[count++], OR_OP_WRITE, 0, at, CLUSTER, other);
    /* The first that ends has a flush of its own, for one page; the next is for 319, of which 128 go in a round. */
    while (volume->in_flight)
        tape_end_all(tape_of(&layer));
    tape_of(&layer)->manual = false;
    for (uint32_t n = 0; n < count; n++)
        assert_int_equal(writes[n].io.status, OR_OK);
    assert_int_equal(tape_of(&layer)->syncs, 2 + 4);
    struct or_layer again = overlay_open(image_copy(tape_of(&layer)->durable), 512);
    struct or_volume *found = stack(&again, 1);
    assert_int_equal(or_layers_info(found, 0).clusters, size / step);
    assert_int_equal(run(found, OR_OP_READ, 0, size - step, CLUSTER, buffer), OR_OK);
    expect_fill(buffer, 8, CLUSTER);
    unstack(found, &again, 1);
    unstack(volume, &layer, 1);
}

static uint32_t failures;

static void count_failure(struct or_volume *volume, const struct or_io *io, int error)
{
    (void)volume;
    assert_true(io->done == op_done); /* told of what the owner has submitted */
    assert_int_equal(error, -5);
    failures++;
}

static void a_failed_sync_is_never_forgotten(void **state)
{
    (void)state;
    struct chain c = open_chain(1, SIZE, 512);
    failures = 0;
    c.volume->failed = count_failure;
    assert_int_equal(run(c.volume, OR_OP_WRITE, 0, 0, CLUSTER, other), OR_OK);
    head_of(&c)->status = OR_EIO;
    head_of(&c)->fails_op = OR_OP_FLUSH;
    assert_int_equal(flush(c.volume), OR_EIO);
    assert_int_equal(failures, 1);
    assert_true(c.volume->flush_failed);
    head_of(&c)->status = OR_OK;
    assert_int_equal(flush(c.volume), OR_EIO);
    assert_int_equal(run(c.volume, OR_OP_WRITE, OR_REQ_FUA, 0, CLUSTER, other), OR_EIO);
    close_chain(&c);
}

/* A write of a new cluster whose data arrives; the page of the map that says so does not. */
static void write_without_map(struct chain *c)
{
    struct op write;
    struct tape *head = head_of(c);
    head->manual = true;
    submit(c->volume, &write, OR_OP_WRITE, 0, 0, CLUSTER, other);
    tape_end(head, 0);
    tape_end(head, 0); /* the sync */
    head->status = OR_ENOSPACE;
    head->fails_op = OR_OP_WRITE;
    tape_end(head, 0);
    assert_true(write.done);
    assert_int_equal(write.io.status, OR_ENOSPACE);
    head->status = OR_OK;
    head->manual = false;
}

static void a_map_that_cannot_be_written_is_written_by_the_next_flush(void **state)
{
    (void)state;
    struct chain c = open_chain(1, SIZE, 512);
    memset(other, 4, CLUSTER);
    write_without_map(&c);
    /* a forced write in place would promise too much */
    assert_int_equal(run(c.volume, OR_OP_WRITE, OR_REQ_FUA, 0, CLUSTER, other), OR_OK);
    struct or_layer again = overlay_open(image_copy(tape_of(&c.layers[0])->durable), 512);
    struct or_volume *found = stack(&again, 1);
    assert_int_equal(or_layers_info(found, 0).clusters, 1);
    unstack(found, &again, 1);
    close_chain(&c);
}

static void an_error_of_a_copy_changes_nothing(void **state)
{
    (void)state;
    struct chain c = open_chain(1, SIZE, 512);
    failures = 0;
    c.volume->failed = count_failure;
    tape_of(&c.layers[1])->status = OR_EIO;
    assert_int_equal(run(c.volume, OR_OP_WRITE, 0, SECTOR, SECTOR, other), OR_EIO);
    assert_int_equal(failures, 1);
    tape_of(&c.layers[1])->status = OR_OK;
    assert_int_equal(or_layers_info(c.volume, 0).clusters, 0);
    assert_int_equal(run(c.volume, OR_OP_READ, 0, 0, CLUSTER, buffer), OR_OK);
    expect_raw(buffer, 0, CLUSTER, SIZE);
    close_chain(&c);
}

/* --- bounds ----------------------------------------------------------------------------------------- */

static void more_operations_than_slots_wait_for_their_turn(void **state)
{
    (void)state;
    enum { N = 600 };
    struct chain c = open_chain(1, SIZE, 512);
    static struct op ops[N];
    head_of(&c)->manual = tape_of(&c.layers[1])->manual = true;
    for (uint32_t n = 0; n < N; n++) {
        memset(other + n * SECTOR, (int)n, SECTOR);
        /* whole clusters and parts of them by turns */
        submit(c.volume, &ops[n], OR_OP_WRITE, 0, n * CLUSTER, n % 3 ? SECTOR : CLUSTER, other + n * SECTOR);
    }
    assert_int_equal(tape_waiting(head_of(&c)) + tape_waiting(tape_of(&c.layers[1])), 160);
    while (c.volume->in_flight) {
        tape_end_all(tape_of(&c.layers[1]));
        tape_end_all(head_of(&c));
    }
    for (uint32_t n = 0; n < N; n++)
        assert_int_equal(ops[n].io.status, OR_OK);
    head_of(&c)->manual = tape_of(&c.layers[1])->manual = false;
    for (uint32_t n = 0; n < N; n++) {
        assert_int_equal(run(c.volume, OR_OP_READ, 0, n * CLUSTER, CLUSTER, buffer), OR_OK);
        assert_memory_equal(buffer, other + n * SECTOR, SECTOR);
        if (n % 3)
            expect_raw(buffer + SECTOR, n * CLUSTER + SECTOR, CLUSTER - SECTOR, SIZE);
    }
    close_chain(&c);
}

static void chains_that_cannot_be_are_refused(void **state)
{
    (void)state;
    int err;
    struct or_layer a = overlay_open(overlay_image(SIZE, 1), 512), b = overlay_open(overlay_image(SIZE, 2), 512);
    struct or_layer raw = raw_open(raw_image(MIB), MIB, 512, 3);
    struct or_layer lying = {.volume = b.volume, .map = b.map, .content = 4};
    struct or_layer no_head[] = {raw}, raw_between[] = {a, raw, b}, wrong[] = {a, lying};
    struct or_layer block_4096 = raw;
    block_4096.volume->block_size = 4096;
    struct or_layer odd = overlay_open(overlay_image(SIZE + SECTOR, 6), 512), unfit[] = {odd, block_4096};
    assert_null(or_layers_volume(no_head, 1, &err));
    assert_int_equal(err, -EINVAL);
    assert_null(or_layers_volume(raw_between, 3, &err));
    assert_null(or_layers_volume(wrong, 2, &err));
    assert_null(or_layers_volume(unfit, 2, &err));
    assert_null(or_layers_volume(&a, 0, &err));
    struct or_layer *all[] = {&a, &b, &odd};
    for (uint32_t n = 0; n < 3; n++) {
        or_layer_map_free(all[n]->map);
        tape_free(tape_of(all[n]));
    }
    tape_free(tape_of(&raw));
}

/* --- the cut ---------------------------------------------------------------------------------------- */

static void a_pushed_head_takes_the_writes_from_then_on(void **state)
{
    (void)state;
    struct chain c = open_chain(1, SIZE, 512);
    memset(other, 1, MIB);
    write_without_map(&c);
    struct or_layer head = overlay_open(overlay_image(SIZE, 300), 512);
    assert_int_equal(or_layers_push(c.volume, &head), -EBUSY); /* not flushed */
    assert_int_equal(run(c.volume, OR_OP_WRITE, 0, 0, 4 * CLUSTER, other), OR_OK);
    assert_int_equal(flush(c.volume), OR_OK);
    assert_int_equal(or_layers_push(c.volume, &head), 0);
    c.layers[2] = c.layers[1];
    c.layers[1] = c.layers[0];
    c.layers[0] = head;
    c.count = 3;

    uint32_t writes = tape_of(&c.layers[1])->writes_count;
    memset(other, 2, MIB);
    assert_int_equal(run(c.volume, OR_OP_WRITE, 0, 2 * CLUSTER + SECTOR, SECTOR, other), OR_OK);
    assert_int_equal(flush(c.volume), OR_OK);
    assert_int_equal(tape_of(&c.layers[1])->writes_count, writes);
    assert_int_equal(run(c.volume, OR_OP_READ, 0, 0, 5 * CLUSTER, buffer), OR_OK);
    expect_fill(buffer, 1, 2 * CLUSTER + SECTOR);
    expect_fill(buffer + 2 * CLUSTER + SECTOR, 2, SECTOR);
    expect_fill(buffer + 2 * CLUSTER + 2 * SECTOR, 1, 2 * CLUSTER - 2 * SECTOR);
    expect_raw(buffer + 4 * CLUSTER, 4 * CLUSTER, CLUSTER, SIZE);

    /* the sealed layer alone is as it was */
    struct or_layer sealed[] = {overlay_open(image_copy(tape_of(&c.layers[1])->durable), 512),
                                raw_open(image_copy(tape_of(&c.layers[2])->current), SIZE, 512, 200)};
    struct or_volume *snapshot = stack(sealed, 2);
    assert_int_equal(run(snapshot, OR_OP_READ, 0, 0, 4 * CLUSTER, buffer), OR_OK);
    expect_fill(buffer, 1, 4 * CLUSTER);
    unstack(snapshot, sealed, 2);
    close_chain(&c);
}

/* Heads of cuts, on a head that was cloned or rolled back to, on what others wrote. */
static void a_head_continues_what_its_volume_wrote(void **state)
{
    (void)state;
    struct or_layer layers[] = {
        overlay_open(overlay_continuing(SIZE, 14, 13), 512), overlay_open(overlay_continuing(SIZE, 13, 12), 512),
        overlay_open(overlay_image(SIZE, 12), 512), overlay_open(overlay_continuing(SIZE, 11, 10), 512),
        raw_open(raw_image(SIZE), SIZE, 512, 10)};
    struct or_volume *volume = stack(layers, 5);
    static const uint64_t continued[] = {13, 12, 0, 10, 0};
    for (uint32_t index = 1; index <= 5; index++)
        assert_int_equal(or_layers_continued(volume, index), continued[index - 1]);
    unstack(volume, layers, 5);
    struct or_layer moved[] = {overlay_open(overlay_continuing(SIZE, 14, 13), 512),
                               overlay_open(overlay_image(SIZE, 12), 512)};
    volume = stack(moved, 2); /* what it continued is not there */
    assert_int_equal(or_layers_continued(volume, 1), 0);
    unstack(volume, moved, 2);
}

static void a_head_that_does_not_fit_is_not_pushed(void **state)
{
    (void)state;
    struct chain c = open_chain(1, SIZE, 512);
    struct or_layer larger = overlay_open(overlay_image(2 * SIZE, 300), 512);
    assert_int_equal(or_layers_push(c.volume, &larger), -EINVAL);
    struct or_layer used = overlay_open(overlay_image(SIZE, 301), 512);
    or_layer_map_set(used.map, 0, 1, OR_LAYER_ZEROES);
    assert_int_equal(or_layers_push(c.volume, &used), -EINVAL);
    assert_int_equal(or_layers_count(c.volume), 2);
    or_layer_map_free(larger.map);
    or_layer_map_free(used.map);
    tape_free(tape_of(&larger));
    tape_free(tape_of(&used));
    close_chain(&c);
}

static void a_chain_has_at_most_64_layers(void **state)
{
    (void)state;
    struct or_layer layers[OR_LAYERS_MAX + 1];
    layers[OR_LAYERS_MAX - 1] = overlay_open(overlay_image(SIZE, 1), 512);
    struct or_volume *volume = stack(&layers[OR_LAYERS_MAX - 1], 1);
    for (uint32_t n = OR_LAYERS_MAX - 1; n > 0; n--) {
        memset(other, (int)n, CLUSTER);
        assert_int_equal(run(volume, OR_OP_WRITE, 0, n * CLUSTER, CLUSTER, other), OR_OK);
        assert_int_equal(flush(volume), OR_OK);
        layers[n - 1] = overlay_open(overlay_image(SIZE, 100 + n), 512);
        assert_int_equal(or_layers_push(volume, &layers[n - 1]), 0);
    }
    struct or_layer more = overlay_open(overlay_image(SIZE, 99), 512);
    assert_int_equal(or_layers_push(volume, &more), -EMLINK);
    or_layer_map_free(more.map);
    tape_free(tape_of(&more));
    assert_int_equal(run(volume, OR_OP_READ, 0, 0, OR_LAYERS_MAX * CLUSTER, buffer), OR_OK);
    for (uint32_t n = 0; n < OR_LAYERS_MAX; n++)
        expect_fill(buffer + n * CLUSTER, (uint8_t)n, CLUSTER);
    unstack(volume, layers, OR_LAYERS_MAX);
}

static void blocks_are_named_by_the_layer_that_has_them(void **state)
{
    (void)state;
    struct chain c = open_chain(2, MIB, 512);
    uint64_t content, number;
    or_layers_map(c.volume, 7, &content, &number);
    assert_int_equal(content, 200);
    assert_int_equal(number, 7);
    assert_int_equal(run(c.volume, OR_OP_WRITE, 0, 7 * CLUSTER, SECTOR, other), OR_OK);
    assert_int_equal(run(c.volume, OR_OP_DISCARD, 0, 9 * CLUSTER, CLUSTER, NULL), OR_OK);
    or_layers_map(c.volume, 7, &content, &number);
    assert_int_equal(content, 100);
    assert_int_equal(number, 7);
    or_layers_map(c.volume, 9, &content, &number);
    assert_int_equal(content, 100);
    or_layers_map(c.volume, 2 * MIB / CLUSTER, &content, &number); /* beyond the end of the raw one */
    assert_int_equal(content, 200);
    close_chain(&c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_was_never_written_is_read_from_below),
        cmocka_unit_test(beyond_the_end_of_a_smaller_layer_are_zeroes),
        cmocka_unit_test(a_part_of_a_cluster_is_merged_with_the_rest),
        cmocka_unit_test(a_large_write_is_one_operation_on_the_head),
        cmocka_unit_test(parts_of_one_cluster_that_are_written_at_once_are_all_there),
        cmocka_unit_test(zeroes_and_discards_hide_what_is_below),
        cmocka_unit_test(zeroes_of_a_part_of_a_cluster_keep_the_rest),
        cmocka_unit_test(a_storage_that_cannot_discard_still_shows_zeroes),
        cmocka_unit_test(a_flush_without_news_is_one_sync),
        cmocka_unit_test(what_was_acknowledged_is_in_the_file),
        cmocka_unit_test(a_forced_write_in_place_needs_no_sync),
        cmocka_unit_test(flushes_that_come_together_share),
        cmocka_unit_test(a_large_map_is_written_in_rounds),
        cmocka_unit_test(a_failed_sync_is_never_forgotten),
        cmocka_unit_test(a_map_that_cannot_be_written_is_written_by_the_next_flush),
        cmocka_unit_test(an_error_of_a_copy_changes_nothing),
        cmocka_unit_test(more_operations_than_slots_wait_for_their_turn),
        cmocka_unit_test(chains_that_cannot_be_are_refused),
        cmocka_unit_test(a_pushed_head_takes_the_writes_from_then_on),
        cmocka_unit_test(a_head_continues_what_its_volume_wrote),
        cmocka_unit_test(a_head_that_does_not_fit_is_not_pushed),
        cmocka_unit_test(a_chain_has_at_most_64_layers),
        cmocka_unit_test(blocks_are_named_by_the_layer_that_has_them),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
