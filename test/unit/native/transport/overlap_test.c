#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

#include "mem/list.h"
#include "transport/overlap.h"

static struct or_req *released[64];
static int released_count;

static void collect(void *arg, struct or_req *r)
{
    (void)arg;
    released[released_count++] = r;
}

static struct or_req req(uint8_t op, uint64_t offset, uint32_t length)
{
    return (struct or_req){.op = op, .offset = offset, .length = length, .device = 1};
}

static void only_overlap_with_a_write_waits(void **state)
{
    (void)state;
    struct or_overlap o;
    or_overlap_init(&o);
    struct or_req read = req(OR_OP_READ, 0, 4096), again = req(OR_OP_READ, 2048, 4096);
    struct or_req beside = req(OR_OP_WRITE, 8192, 512), over = req(OR_OP_WRITE, 4096, 512);
    struct or_req other = req(OR_OP_WRITE, 0, 4096), flush = req(OR_OP_FLUSH, 0, 0);
    other.device = 2;
    assert_true(or_overlap_admit(&o, &read));
    assert_true(or_overlap_admit(&o, &again));
    assert_true(or_overlap_admit(&o, &beside));
    assert_true(or_overlap_admit(&o, &other));
    assert_true(or_overlap_admit(&o, &flush));
    assert_false(or_overlap_admit(&o, &over));
    released_count = 0;
    or_overlap_release(&o, &read, collect, NULL);
    assert_int_equal(released_count, 0);
    or_overlap_release(&o, &again, collect, NULL);
    assert_int_equal(released_count, 1);
    assert_ptr_equal(released[0], &over);
    assert_int_equal(o.waits, 1);
}

static void those_that_wait_keep_their_order(void **state)
{
    (void)state;
    struct or_overlap o;
    or_overlap_init(&o);
    struct or_req a = req(OR_OP_WRITE, 0, 4096), b = req(OR_OP_WRITE, 0, 8192), c = req(OR_OP_READ, 4096, 4096);
    struct or_req d = req(OR_OP_DISCARD, 65536, 512);
    assert_true(or_overlap_admit(&o, &a));
    assert_false(or_overlap_admit(&o, &b));
    assert_false(or_overlap_admit(&o, &c)); /* not with a, but with b, which is older */
    assert_true(or_overlap_admit(&o, &d));
    released_count = 0;
    or_overlap_release(&o, &a, collect, NULL);
    assert_int_equal(released_count, 1);
    assert_ptr_equal(released[0], &b);
    or_overlap_release(&o, &b, collect, NULL);
    assert_int_equal(released_count, 2);
    assert_ptr_equal(released[1], &c);
}

static void assert_empty(const struct or_overlap *o)
{
    for (uint32_t i = 0; i < OR_OVERLAP_CELLS; i++)
        assert_true(o->cells[i].reads == 0 && o->cells[i].writes == 0);
    for (uint32_t i = 0; i < OR_OVERLAP_BUCKETS; i++)
        assert_int_equal(o->buckets[i].large, 0);
}

/* Against the definition: at no time are two admitted requests in conflict, and none waits in vain. */
static void random_requests_of(uint32_t block)
{
    struct or_overlap o;
    or_overlap_init(&o);
    struct or_req pool[64];
    int admitted[64] = {0}, used[64] = {0};
    srand(7);
    for (int i = 0; i < 30000; i++) {
        int k = rand() % 64;
        if (!used[k]) {
            pool[k] =
                req((uint8_t)(1 + rand() % 5), (uint64_t)(rand() % 64) * block, (uint32_t)(1 + rand() % 8) * block);
            used[k] = 1;
            admitted[k] = or_overlap_admit(&o, &pool[k]);
        } else if (admitted[k]) {
            released_count = 0;
            struct or_req *out[64];
            int n = 0;
            used[k] = 0;
            or_overlap_release(&o, &pool[k], collect, NULL);
            for (; n < released_count; n++)
                out[n] = released[n];
            while (n--)
                admitted[out[n] - pool] = 1;
        }
        for (int a = 0; a < 64; a++)
            for (int b = a + 1; b < 64 && used[a] && admitted[a]; b++)
                if (used[b] && admitted[b] && (or_op_writes(pool[a].op) || or_op_writes(pool[b].op)) &&
                    pool[a].op != OR_OP_FLUSH && pool[b].op != OR_OP_FLUSH)
                    assert_true(pool[a].offset + pool[a].length <= pool[b].offset ||
                                pool[b].offset + pool[b].length <= pool[a].offset);
    }
    for (int round = 0; round < 64; round++)
        for (int k = 0; k < 64; k++)
            if (used[k] && admitted[k]) {
                released_count = 0;
                used[k] = 0;
                or_overlap_release(&o, &pool[k], collect, NULL);
                for (int n = 0; n < released_count; n++)
                    admitted[released[n] - pool] = 1;
            }
    for (int k = 0; k < 64; k++)
        assert_false(used[k]);
    assert_null(or_overlap_pop_blocked(&o, 0));
    assert_empty(&o);
}

static void random_requests_never_conflict(void **state)
{
    (void)state;
    random_requests_of(512);                  /* several in a unit */
    random_requests_of(2 * OR_OVERLAP_UNIT);  /* several units each */
    random_requests_of(16 * OR_OVERLAP_UNIT); /* large ones among them */
}

/* So that no cell is left in doubt for ever, whoever stands in for whom. */
static void a_stand_in_leaves_nothing_behind(void **state)
{
    (void)state;
    struct or_overlap o;
    or_overlap_init(&o);
    struct or_req write = req(OR_OP_WRITE, 8192, 65536), ghost = write, later = req(OR_OP_READ, 12288, 512);
    or_list_init(&ghost.active);
    assert_true(or_overlap_admit(&o, &write));
    or_overlap_replace(&write, &ghost);
    assert_false(or_overlap_admit(&o, &later));
    released_count = 0;
    or_overlap_release(&o, &ghost, collect, NULL);
    assert_int_equal(released_count, 1);
    or_overlap_release(&o, &later, collect, NULL);
    assert_empty(&o);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(only_overlap_with_a_write_waits),
        cmocka_unit_test(those_that_wait_keep_their_order),
        cmocka_unit_test(random_requests_never_conflict),
        cmocka_unit_test(a_stand_in_leaves_nothing_behind),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
