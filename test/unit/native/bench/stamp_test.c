/* Stamped blocks: every way in which storage can return the wrong bytes is noticed. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "../../../../bench/native/stamp.c"

#define BLOCK_BYTES 1024u
#define BLOCKS 8u

static uint8_t volume[BLOCKS][BLOCK_BYTES];
static uint8_t buffer[BLOCK_BYTES];
static struct stamps *stamps;

void *memory_new(size_t bytes)
{
    void *memory = calloc(1, bytes);
    assert_non_null(memory);
    return memory;
}

static int set_up(void **state)
{
    (void)state;
    memset(volume, 0, sizeof volume);
    stamps = stamps_create(BLOCKS, BLOCK_BYTES, 1);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    stamps_destroy(stamps);
    return 0;
}

static struct slot slot_for(uint8_t op, uint64_t block)
{
    return (struct slot){.data = buffer, .offset = block * BLOCK_BYTES, .length = BLOCK_BYTES, .op = op};
}

static void write_block(uint64_t block, uint8_t status)
{
    struct slot slot = slot_for(OR_OP_WRITE, block);
    stamps_begin(stamps, &slot);
    memcpy(volume[block], buffer, BLOCK_BYTES);
    assert_true(stamps_end(stamps, &slot, status));
}

static bool read_is_right(uint64_t block)
{
    struct slot slot = slot_for(OR_OP_READ, block);
    stamps_begin(stamps, &slot);
    memcpy(buffer, volume[block], BLOCK_BYTES);
    return stamps_end(stamps, &slot, OR_OK);
}

static void what_was_written_is_right(void **state)
{
    (void)state;
    write_block(3, OR_OK);
    write_block(3, OR_OK);
    assert_true(read_is_right(3));
}

static void an_older_version_is_noticed(void **state)
{
    (void)state;
    uint8_t old[BLOCK_BYTES];
    write_block(3, OR_OK);
    memcpy(old, volume[3], sizeof old);
    write_block(3, OR_OK);
    memcpy(volume[3], old, sizeof old);
    assert_false(read_is_right(3));
}

static void another_block_is_noticed(void **state)
{
    (void)state;
    write_block(3, OR_OK);
    write_block(4, OR_OK);
    memcpy(volume[3], volume[4], BLOCK_BYTES);
    assert_false(read_is_right(3));
}

static void each_wrong_byte_is_noticed(void **state)
{
    (void)state;
    write_block(3, OR_OK);
    for (size_t at = 0; at < BLOCK_BYTES; at++) {
        volume[3][at] ^= 1;
        assert_false(read_is_right(3));
        volume[3][at] ^= 1;
    }
    assert_true(read_is_right(3));
}

static void a_read_that_fills_nothing_in_is_noticed(void **state)
{
    (void)state;
    write_block(3, OR_OK); /* leaves the right bytes in the buffer */
    struct slot slot = slot_for(OR_OP_READ, 3);
    stamps_begin(stamps, &slot);
    assert_false(stamps_end(stamps, &slot, OR_OK));
}

static void after_a_failed_write_anything_may_be_there_until_the_next(void **state)
{
    (void)state;
    write_block(3, OR_OK);
    write_block(3, OR_EIO);
    memset(volume[3], 0x55, BLOCK_BYTES);
    assert_true(read_is_right(3));
    write_block(3, OR_OK);
    assert_true(read_is_right(3));
    volume[3][0] ^= 1;
    assert_false(read_is_right(3));
}

static void a_block_in_use_is_not_handed_out(void **state)
{
    (void)state;
    struct slot last = slot_for(OR_OP_WRITE, BLOCKS - 1);
    stamps_begin(stamps, &last);
    assert_true(stamps_free_block(stamps, BLOCKS - 1) == 0);
    assert_true(stamps_end(stamps, &last, OR_OK));
    assert_true(stamps_free_block(stamps, BLOCKS - 1) == BLOCKS - 1);
}

int main(void)
{
#define TEST(function) cmocka_unit_test_setup_teardown(function, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(what_was_written_is_right),
        TEST(an_older_version_is_noticed),
        TEST(another_block_is_noticed),
        TEST(each_wrong_byte_is_noticed),
        TEST(a_read_that_fills_nothing_in_is_noticed),
        TEST(after_a_failed_write_anything_may_be_there_until_the_next),
        TEST(a_block_in_use_is_not_handed_out),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
