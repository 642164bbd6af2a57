#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "mem/bucket.h"

#define SECOND 1000000000ull
#define START (5 * SECOND)

static struct or_bucket bucket_of(uint64_t bytes_per_s, uint64_t bytes_burst, uint64_t ops_per_s, uint64_t ops_burst)
{
    struct or_bucket bucket = {0};
    struct or_limit limit = {bytes_per_s, bytes_burst, ops_per_s, ops_burst};
    or_bucket_set(&bucket, &limit);
    return bucket;
}

/* Sends operations of `bytes` as soon as the bucket lets them, until `end`; returns how many went. */
static uint64_t greedy(struct or_bucket *bucket, uint64_t now, uint64_t end, uint32_t bytes)
{
    uint64_t count = 0;
    while (now < end) {
        uint64_t when = or_bucket_take(bucket, now, 1, bytes);
        if (when == 0)
            count++;
        else
            assert_true(when > now);
        now = when ? when : now;
    }
    return count;
}

static void no_limit_lets_everything_go(void **state)
{
    (void)state;
    struct or_bucket bucket = {0};
    assert_false(or_bucket_limits(&bucket));
    for (int i = 0; i < 1000; i++)
        assert_int_equal(or_bucket_take(&bucket, START, 1, UINT32_MAX), 0);
}

static void rate_and_burst_bound_what_passes(void **state)
{
    (void)state;
    struct or_bucket bytes = bucket_of(1000000, 50000, 0, 0);
    assert_true(or_bucket_limits(&bytes));
    /* 10 s at 1 MB/s and 50 kB at once, in pieces of 1 kB; the last may be one in debt. */
    uint64_t n = greedy(&bytes, START, START + 10 * SECOND, 1000);
    assert_in_range(n, 10049, 10051);
    struct or_bucket ops = bucket_of(0, 0, 300, 7);
    n = greedy(&ops, START, START + 10 * SECOND, 1000);
    assert_in_range(n, 3006, 3008);
}

static void burst_is_a_tenth_of_a_second_unless_given(void **state)
{
    (void)state;
    struct or_bucket bucket = bucket_of(0, 0, 1000, 0);
    int n = 0;
    while (or_bucket_take(&bucket, START, 1, 0) == 0)
        n++;
    assert_int_equal(n, 100);
}

static void both_kinds_bind_at_once(void **state)
{
    (void)state;
    struct or_bucket small = bucket_of(1000000, 0, 1000, 0), large = small;
    assert_in_range(greedy(&small, START, START + SECOND, 10), 1099, 1101);
    assert_in_range(greedy(&large, START, START + SECOND, 10000), 109, 111);
}

static void what_is_larger_than_the_burst_goes_and_is_paid_for(void **state)
{
    (void)state;
    struct or_bucket bucket = bucket_of(1000, 10, 0, 0);
    assert_int_equal(or_bucket_take(&bucket, START, 1, 65536), 0);
    uint64_t when = or_bucket_when(&bucket, START);
    assert_in_range(when, START + 65 * SECOND, START + 66 * SECOND);
    assert_int_equal(or_bucket_when(&bucket, when), 0);
    assert_int_not_equal(or_bucket_when(&bucket, when - 1), 0);
}

static void fractions_of_nanoseconds_are_not_lost(void **state)
{
    (void)state;
    /* 3 GB/s: a byte is a third of a nanosecond. */
    struct or_bucket bucket = bucket_of(3000000000ull, 1, 0, 0);
    for (int i = 0; i < 3000; i++)
        or_bucket_charge(&bucket, START, 1, 1);
    assert_int_equal(bucket.bytes.full, START + 1000);
}

static void idleness_saves_no_more_than_the_burst(void **state)
{
    (void)state;
    struct or_bucket bucket = bucket_of(0, 0, 1000, 5);
    greedy(&bucket, START, START + SECOND, 0);
    int n = 0;
    while (or_bucket_take(&bucket, START + 3600 * SECOND, 1, 0) == 0)
        n++;
    assert_int_equal(n, 5);
}

static void a_change_is_live_and_the_same_limit_is_none(void **state)
{
    (void)state;
    struct or_bucket bucket = bucket_of(0, 0, 10, 1);
    struct or_limit same = bucket.limit, more = {.ops_per_s = 1000}, none = {0};
    assert_int_equal(or_bucket_take(&bucket, START, 1, 0), 0);
    or_bucket_set(&bucket, &same);
    assert_int_not_equal(or_bucket_when(&bucket, START), 0);
    or_bucket_set(&bucket, &more);
    assert_int_equal(or_bucket_when(&bucket, START), 0);
    or_bucket_set(&bucket, &none);
    assert_false(or_bucket_limits(&bucket));
}

static void extremes_do_not_wrap(void **state)
{
    (void)state;
    struct or_bucket bucket = bucket_of(1, UINT64_MAX, 1, UINT64_MAX);
    for (int i = 0; i < 1000; i++)
        assert_int_equal(or_bucket_take(&bucket, START, 1000, 1000), 0);
    bucket = bucket_of(UINT64_MAX, UINT64_MAX, 0, 0);
    for (int i = 0; i < 1000; i++)
        assert_int_equal(or_bucket_take(&bucket, START, 1, UINT32_MAX), 0);
    assert_in_range(bucket.bytes.full, START, START + SECOND);
    bucket = bucket_of(1, 1, 0, 0);
    assert_int_equal(or_bucket_take(&bucket, START, 1, UINT32_MAX), 0);
    assert_true(or_bucket_when(&bucket, START) >= OR_BUCKET_BURST_NS_MAX);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(no_limit_lets_everything_go),
        cmocka_unit_test(rate_and_burst_bound_what_passes),
        cmocka_unit_test(burst_is_a_tenth_of_a_second_unless_given),
        cmocka_unit_test(both_kinds_bind_at_once),
        cmocka_unit_test(what_is_larger_than_the_burst_goes_and_is_paid_for),
        cmocka_unit_test(fractions_of_nanoseconds_are_not_lost),
        cmocka_unit_test(idleness_saves_no_more_than_the_burst),
        cmocka_unit_test(a_change_is_live_and_the_same_limit_is_none),
        cmocka_unit_test(extremes_do_not_wrap),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
