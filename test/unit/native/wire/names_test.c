/* Every number that is logged or counted has a name of its own, and a number from a hostile peer does
 * not read beyond the tables. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "wire/wire.h"

static const char *op_name(uint32_t number)
{
    return or_op_name((uint8_t)number);
}

static const char *status_name(uint32_t number)
{
    return or_status_name((uint8_t)number);
}

static const char *refuse_name(uint32_t number)
{
    return or_refuse_name((enum or_refuse)number);
}

static void check_names(const char *(*name)(uint32_t number), uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        assert_string_not_equal(name(i), "unknown");
        for (uint32_t other = 0; other < i; other++) {
            assert_string_not_equal(name(i), name(other));
        }
    }
    for (uint32_t i = count; i < 256; i++) {
        assert_string_equal(name(i), "unknown");
    }
}

static void every_operation_has_its_own_name(void **state)
{
    (void)state;
    check_names(op_name, OR_OP_MAX);
    assert_string_equal(or_op_name(OR_OP_WRITE_ZEROES), "write-zeroes");
}

static void every_status_has_its_own_name(void **state)
{
    (void)state;
    check_names(status_name, OR_STATUS_MAX);
    assert_string_equal(or_status_name(OR_EFENCED), "fenced");
}

static void every_reason_for_refusal_has_its_own_name(void **state)
{
    (void)state;
    check_names(refuse_name, OR_REFUSE_MAX);
    assert_string_equal(or_refuse_name(OR_REFUSE_REPLAY), "replay");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_operation_has_its_own_name),
        cmocka_unit_test(every_status_has_its_own_name),
        cmocka_unit_test(every_reason_for_refusal_has_its_own_name),
    };
    return cmocka_run_group_tests_name("names", tests, NULL, NULL);
}
