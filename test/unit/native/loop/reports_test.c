/* Reports that come faster than anybody can read. The owner's end of the engine is real; its worker and ports
 * are not there. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "loop/reports.h"

#define MS 1000000ull

struct world {
    struct or_engine engine;
    struct or_reports reports;
    uint32_t wakes;
};

static void wake(void *arg)
{
    ((struct world *)arg)->wakes++;
}

static struct world *new_world(void)
{
    struct world *w = aligned_alloc(64, (sizeof *w + 63) & ~63ul);
    assert_non_null(w);
    memset(w, 0, sizeof *w);
    w->engine.config.wake = wake;
    w->engine.config.arg = w;
    or_reports_open(&w->reports);
    return w;
}

static void free_world(struct world *w)
{
    or_reports_close(&w->reports);
    free(w);
}

static void report(struct world *w, const char *host, uint32_t number, uint64_t now)
{
    char document[16];
    int length = snprintf(document, sizeof document, "%u", number);
    or_reports_take(&w->reports, &w->engine, host, (const uint8_t *)document, (uint32_t)length, now);
}

/* The owner takes the next event: which must be this host's with this number, or none. */
static void expect(struct world *w, const char *host, int number)
{
    struct or_command *command;
    struct or_event *event;
    bool any = or_engine_reap(&w->engine, &command, &event);
    assert_int_equal(any, host != NULL);
    if (!any)
        return;
    char document[16] = "";
    assert_int_equal(event->type, OR_EVENT_HOST_REPORT);
    assert_string_equal(event->name, host);
    memcpy(document, event->bytes, event->length);
    assert_int_equal(atoi(document), number);
    or_event_free(event);
}

static void of_a_flood_the_first_and_the_latest_are_told(void **state)
{
    (void)state;
    struct world *w = new_world();
    for (uint32_t i = 0; i < 100000; i++)
        report(w, "a", i, MS);
    report(w, "b", 7, MS);
    expect(w, "a", 0);
    expect(w, "b", 7); /* one host does not keep another back */
    expect(w, NULL, 0);
    assert_int_equal(w->engine.stats.events_dropped, 0);
    uint64_t due = w->reports.due;
    assert_in_range(due, 2 * MS, 1000 * MS);
    or_reports_tell(&w->reports, &w->engine, due - 1);
    expect(w, NULL, 0);
    or_reports_tell(&w->reports, &w->engine, due);
    expect(w, "a", 99999);
    expect(w, NULL, 0);
    assert_true(w->reports.due == UINT64_MAX);
    free_world(w);
}

static void a_report_now_and_then_is_told_at_once(void **state)
{
    (void)state;
    struct world *w = new_world();
    for (uint32_t i = 0; i < 10; i++) {
        report(w, "a", i, (1 + i) * 1000 * MS);
        expect(w, "a", (int)i);
    }
    assert_true(w->reports.due == UINT64_MAX);
    free_world(w);
}

static void what_waits_of_a_host_that_is_gone_is_not_told(void **state)
{
    (void)state;
    struct world *w = new_world();
    report(w, "a", 1, MS);
    report(w, "a", 2, MS);
    expect(w, "a", 1);
    or_reports_forget(&w->reports, "a");
    or_reports_tell(&w->reports, &w->engine, 1000 * MS);
    expect(w, NULL, 0);
    report(w, "a", 3, MS); /* another of that name is heard at once */
    expect(w, "a", 3);
    report(w, "a", 4, MS); /* and what waits at the end is freed */
    free_world(w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(of_a_flood_the_first_and_the_latest_are_told),
        cmocka_unit_test(a_report_now_and_then_is_told_at_once),
        cmocka_unit_test(what_waits_of_a_host_that_is_gone_is_not_told),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
