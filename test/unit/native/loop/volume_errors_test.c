/* What the owner of an engine hears of a volume's errors: not all of them, but at once that data is lost. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <errno.h>
#include <string.h>

#include "loop/volume_errors.h"

#define SECOND 1000000000ull

static struct or_volume_errors errors;
static struct or_volume_error told;

static int setup(void **state)
{
    (void)state;
    memset(&errors, 0, sizeof errors);
    return 0;
}

static void note(uint64_t offset, bool flush_failed)
{
    or_volume_errors_note(&errors, OR_OP_WRITE, -EIO, offset, flush_failed);
}

static void errors_are_told_once_a_second_with_their_number(void **state)
{
    (void)state;
    assert_false(or_volume_errors_take(&errors, 5 * SECOND, &told));
    note(1, false);
    assert_true(or_volume_errors_take(&errors, 5 * SECOND, &told));
    assert_int_equal(told.count, 1);
    note(2, false);
    note(3, false);
    assert_false(or_volume_errors_take(&errors, 6 * SECOND - 1, &told));
    assert_int_equal(or_volume_errors_due(&errors), 6 * SECOND);
    assert_true(or_volume_errors_take(&errors, 6 * SECOND, &told));
    assert_int_equal(told.count, 2);
    assert_int_equal(told.offset, 3);
    assert_int_equal(or_volume_errors_due(&errors), UINT64_MAX);
}

static void lost_data_is_told_at_once(void **state)
{
    (void)state;
    note(1, false);
    assert_true(or_volume_errors_take(&errors, 5 * SECOND, &told));
    note(2, true);
    note(3, true);
    assert_true(or_volume_errors_take(&errors, 5 * SECOND + 1, &told));
    assert_true(told.flush_failed);
    assert_int_equal(told.offset, 2);
    /* Once; what follows is no news. */
    note(4, true);
    assert_false(or_volume_errors_take(&errors, 5 * SECOND + 2, &told));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(errors_are_told_once_a_second_with_their_number, setup),
        cmocka_unit_test_setup(lost_data_is_told_at_once, setup),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
