/* How the worker's answers and events reach the owner: in order, and answers always. No worker runs here. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "loop/engine_internal.h"

static uint32_t wakes;

static void wake(void *arg)
{
    (void)arg;
    wakes++;
}

static struct or_engine *new_engine(void)
{
    struct or_engine *e = aligned_alloc(64, sizeof *e);
    memset(e, 0, sizeof *e);
    e->config.wake = wake;
    wakes = 0;
    return e;
}

static void answer(struct or_engine *e)
{
    struct or_command *c = or_command_new(OR_CMD_STATS);
    e->outstanding++; /* as or_engine_submit does */
    or_engine_succeed(e, c);
}

static void emit(struct or_engine *e)
{
    or_engine_emit(e, or_engine_event(e, OR_EVENT_SESSION_UP, NULL, 0));
}

/* 'a' for an answer, 'e' for an event, 0 when there is nothing. */
static char reap(struct or_engine *e)
{
    struct or_command *c;
    struct or_event *event;
    if (!or_engine_reap(e, &c, &event))
        return 0;
    assert_true(!c != !event);
    if (c)
        or_command_free(c);
    else
        or_event_free(event);
    return c ? 'a' : 'e';
}

static void results_are_reaped_in_the_order_in_which_they_happened(void **state)
{
    (void)state;
    const char order[] = "eaaeeeaeaaaaeea";
    struct or_engine *e = new_engine();
    for (int round = 0; round < 200; round++) {
        for (const char *p = order; *p; p++)
            *p == 'a' ? answer(e) : emit(e);
        for (const char *p = order; *p; p++)
            assert_int_equal(reap(e), *p);
        assert_int_equal(reap(e), 0);
        assert_int_equal(e->outstanding, 0);
    }
    assert_int_equal(wakes, 200 * strlen(order));
    free(e);
}

static void events_that_nobody_reaps_leave_room_for_answers(void **state)
{
    (void)state;
    struct or_engine *e = new_engine();
    const uint32_t kept = OR_SPSC_SIZE - OR_ENGINE_COMMANDS_MAX, dropped = 10;
    for (uint32_t i = 0; i < kept + dropped; i++)
        emit(e);
    assert_int_equal(e->stats.events_dropped, dropped);
    for (uint32_t i = 0; i < OR_ENGINE_COMMANDS_MAX; i++)
        answer(e);
    for (uint32_t i = 0; i < kept; i++)
        assert_int_equal(reap(e), 'e');
    for (uint32_t i = 0; i < OR_ENGINE_COMMANDS_MAX; i++)
        assert_int_equal(reap(e), 'a');
    assert_int_equal(reap(e), 0);
    free(e);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(results_are_reaped_in_the_order_in_which_they_happened),
        cmocka_unit_test(events_that_nobody_reaps_leave_room_for_answers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
