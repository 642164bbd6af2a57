/* The latency histogram of the bench: its buckets tile the values, and percentiles are what sorting
 * would give, to the precision it promises. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "../../../../bench/native/histogram.h"

static struct histogram histogram;

static int reset(void **state)
{
    (void)state;
    histogram_reset(&histogram);
    return 0;
}

static void buckets_tile_the_values_without_gap_or_overlap(void **state)
{
    (void)state;
    uint64_t lowest = 0;
    for (uint32_t i = 0; i < HISTOGRAM_BUCKETS; i++) {
        uint64_t highest = histogram_highest(i);
        assert_true(highest >= lowest);
        assert_int_equal(histogram_index(lowest), i);
        assert_int_equal(histogram_index(highest), i);
        lowest = highest + 1;
    }
    assert_true(lowest == 1ull << HISTOGRAM_VALUE_BITS);
}

static void a_bucket_is_at_most_one_64th_of_its_values_wide(void **state)
{
    (void)state;
    for (uint32_t i = 1; i < HISTOGRAM_BUCKETS; i++) {
        uint64_t lowest = histogram_highest(i - 1) + 1;
        uint64_t width = histogram_highest(i) - lowest + 1;
        assert_true(width == 1 || width * 64 <= lowest);
    }
}

static void an_empty_histogram_has_zero_percentiles(void **state)
{
    (void)state;
    assert_true(histogram_percentile(&histogram, 0.5) == 0);
}

static void small_values_are_exact(void **state)
{
    (void)state;
    for (uint64_t v = 1; v <= 100; v++)
        histogram_add(&histogram, v);
    assert_true(histogram_percentile(&histogram, 0) == 1);
    assert_true(histogram_percentile(&histogram, 0.5) == 51);
    assert_true(histogram_percentile(&histogram, 0.99) == 100);
    assert_true(histogram_percentile(&histogram, 1) == 100);
    assert_true(histogram.max == 100);
    assert_true(histogram.count == 100);
}

static void a_percentile_never_exceeds_the_maximum(void **state)
{
    (void)state;
    histogram_add(&histogram, 1000001);
    assert_true(histogram_percentile(&histogram, 0.5) == 1000001);
}

static void values_beyond_the_range_keep_the_maximum_exact(void **state)
{
    (void)state;
    uint64_t huge = (1ull << 50) + 12345;
    histogram_add(&histogram, 10);
    histogram_add(&histogram, huge);
    assert_true(histogram_percentile(&histogram, 0.4) == 10);
    assert_true(histogram_percentile(&histogram, 0.999) == huge);
    assert_true(histogram.max == huge);
}

static int compare(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

static void percentiles_agree_with_sorting(void **state)
{
    (void)state;
    enum { COUNT = 20000 };
    static uint64_t values[COUNT];
    uint64_t x = 88172645463325252u;
    for (int i = 0; i < COUNT; i++) {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        values[i] = (x >> 20) >> (x % 40); /* all magnitudes */
        values[i] %= 1ull << HISTOGRAM_VALUE_BITS;
        histogram_add(&histogram, values[i]);
    }
    qsort(values, COUNT, sizeof values[0], compare);
    static const double fractions[] = {0.01, 0.25, 0.5, 0.9, 0.99, 0.999};
    for (size_t i = 0; i < sizeof fractions / sizeof *fractions; i++) {
        uint64_t exact = values[(size_t)(fractions[i] * COUNT)];
        uint64_t estimate = histogram_percentile(&histogram, fractions[i]);
        assert_true(estimate >= exact);
        assert_true(estimate - exact <= exact / 64);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(buckets_tile_the_values_without_gap_or_overlap),
        cmocka_unit_test(a_bucket_is_at_most_one_64th_of_its_values_wide),
        cmocka_unit_test_setup(an_empty_histogram_has_zero_percentiles, reset),
        cmocka_unit_test_setup(small_values_are_exact, reset),
        cmocka_unit_test_setup(a_percentile_never_exceeds_the_maximum, reset),
        cmocka_unit_test_setup(values_beyond_the_range_keep_the_maximum_exact, reset),
        cmocka_unit_test_setup(percentiles_agree_with_sorting, reset),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
