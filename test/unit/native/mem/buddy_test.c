#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "mem/buddy.h"

static void blocks_are_aligned_to_their_size_and_disjoint(void **state)
{
    (void)state;
    struct or_buddy b;
    assert_int_equal(or_buddy_open(&b, 8u << 20), 0);
    struct {
        uint8_t *at;
        uint32_t bytes;
        uint8_t mark;
    } held[512] = {{0}};
    srand(1);
    for (int i = 0; i < 20000; i++) {
        int k = rand() % 512;
        if (held[k].at) {
            for (uint32_t j = 0; j < held[k].bytes; j += 97)
                assert_int_equal(held[k].at[j], held[k].mark);
            or_buddy_free(&b, held[k].at);
            held[k].at = NULL;
            continue;
        }
        uint32_t bytes = 1u + (uint32_t)rand() % (rand() % 8 ? 20000u : 1u << 20);
        held[k].at = or_buddy_alloc(&b, bytes);
        if (!held[k].at)
            continue;
        uint32_t size = 4096;
        while (size < bytes)
            size *= 2;
        assert_int_equal((uintptr_t)held[k].at % size, 0);
        held[k].bytes = bytes;
        held[k].mark = (uint8_t)i;
        memset(held[k].at, held[k].mark, bytes);
    }
    for (int k = 0; k < 512; k++)
        if (held[k].at)
            or_buddy_free(&b, held[k].at);
    assert_int_equal(b.used_bytes, 0);
    /* All has merged again: every largest block is there. */
    void *all[8];
    for (int i = 0; i < 8; i++)
        assert_non_null(all[i] = or_buddy_alloc(&b, 1u << 20));
    assert_null(or_buddy_alloc(&b, 1));
    or_buddy_close(&b);
}

static void a_small_arena_holds_at_least_the_largest_block(void **state)
{
    (void)state;
    struct or_buddy b;
    assert_int_equal(or_buddy_open(&b, 1), 0);
    assert_non_null(or_buddy_alloc(&b, 1u << 20));
    assert_null(or_buddy_alloc(&b, 1));
    or_buddy_close(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(blocks_are_aligned_to_their_size_and_disjoint),
        cmocka_unit_test(a_small_arena_holds_at_least_the_largest_block),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
