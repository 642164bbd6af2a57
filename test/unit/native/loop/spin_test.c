/* How long the worker polls before it sleeps. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "loop/spin.h"

#define MAX 80000u

static uint32_t sleeps_until(struct or_spin *s, uint64_t slept, uint64_t window)
{
    uint32_t n = 0;
    for (; s->window_ns != window && n < 100; n++)
        or_spin_slept(s, slept);
    return n;
}

static void long_sleeps_end_the_polling(void **state)
{
    (void)state;
    struct or_spin s = or_spin_new(MAX);
    assert_int_equal(s.window_ns, MAX);
    or_spin_slept(&s, 1000000);
    assert_int_equal(s.window_ns, MAX / 2); /* one alone proves little */
    assert_in_range(sleeps_until(&s, 1000000, 0), 1, 3);
    or_spin_slept(&s, 1000000);
    assert_int_equal(s.window_ns, 0);
}

static void short_sleeps_bring_it_back(void **state)
{
    (void)state;
    struct or_spin s = {MAX, 0};
    assert_in_range(sleeps_until(&s, 20000, MAX), 1, 3);
    or_spin_slept(&s, MAX);
    assert_int_equal(s.window_ns, MAX);
}

static void without_polling_there_is_none(void **state)
{
    (void)state;
    struct or_spin s = or_spin_new(0);
    or_spin_slept(&s, 0);
    or_spin_slept(&s, 1000);
    assert_int_equal(s.window_ns, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(long_sleeps_end_the_polling),
        cmocka_unit_test(short_sleeps_bring_it_back),
        cmocka_unit_test(without_polling_there_is_none),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
