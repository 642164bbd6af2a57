#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

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

/* Bytes of the arena that the system has given memory for. */
static uint64_t resident(const struct or_buddy *b)
{
    static unsigned char pages[8 << 20 >> 12];
    uint64_t n = 0;
    assert_int_equal(mincore(b->arena, b->units * OR_BUDDY_MIN, pages), 0);
    for (uint64_t i = 0; i < b->units; i++)
        n += pages[i] & 1;
    return n * OR_BUDDY_MIN;
}

static void an_idle_arena_costs_no_memory(void **state)
{
    (void)state;
    struct or_buddy b;
    assert_int_equal(or_buddy_open(&b, 8u << 20), 0);
    assert_int_equal((uintptr_t)b.arena % (2u << 20), 0);
    void *block = or_buddy_alloc(&b, 4096);
    assert_int_equal(resident(&b), 0);
    memset(block, 1, 4096);
    assert_in_range(resident(&b), 4096, 2u << 20); /* one page, of whatever size */
    or_buddy_free(&b, block);
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
        cmocka_unit_test(an_idle_arena_costs_no_memory),
        cmocka_unit_test(a_small_arena_holds_at_least_the_largest_block),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
