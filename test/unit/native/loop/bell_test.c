/* A worker that falls asleep hears of a command, whenever it comes. Needs root, for a link of its own. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <errno.h>
#include <semaphore.h>
#include <time.h>

#include "../transport/segment.h"
#include "loop/engine_internal.h"

#define COMMANDS 20000
#define SPIN_US 20
#define WAIT_S_MAX 20
/* Between two commands, at most: around the moment at which the worker falls asleep. */
#define PAUSE_NS_MAX 60000

static sem_t woken;

static void wake(void *arg)
{
    (void)arg;
    sem_post(&woken);
}

static void pause_ns(uint64_t ns)
{
    for (uint64_t until = or_clock_ns() + ns; or_clock_ns() < until;)
        ;
}

/* The end of the one command that is under way. */
static void reap(struct or_engine *engine, int number)
{
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += WAIT_S_MAX;
    struct or_command *c = NULL;
    struct or_event *event = NULL;
    while (!c) {
        while (or_engine_reap(engine, &c, &event) && event)
            or_event_free(event);
        if (!c && sem_timedwait(&woken, &until) != 0 && errno != EINTR)
            fail_msg("command %d did not end", number);
    }
    or_command_free(c);
}

static void no_command_is_slept_over(void **state)
{
    (void)state;
    struct segment segment = lay_link(1500);
    enter(&segment, LEFT);
    sem_init(&woken, 0, 0);
    struct or_engine_config config = {.role = OR_ROLE_IOHV,
                                      .interfaces = {"left"},
                                      .ethertype = ETHERTYPE,
                                      .cpu = -1,
                                      .spin_us = SPIN_US,
                                      .integrity = 1,
                                      .slots = 64,
                                      .buffer_bytes = 1 << 20,
                                      .wake = wake};
    char why[OR_WHY_MAX] = "";
    struct or_engine *engine = or_engine_open(&config, why);
    assert_non_null(engine);
    assert_int_equal(or_engine_begin(engine, why), 0);
    uint64_t random = 1;
    for (int i = 0; i < COMMANDS; i++) {
        assert_int_equal(or_engine_submit(engine, or_command_new(OR_CMD_NICS)), 0);
        reap(engine, i);
        random = random * 6364136223846793005u + 1442695040888963407u;
        pause_ns((random >> 33) % PAUSE_NS_MAX);
    }
    or_engine_halt(engine);
    or_engine_close(engine);
}

int main(void)
{
    if (unshare(CLONE_NEWNET) != 0) {
        printf("skipped: making network namespaces needs root (unshare: %s)\n", strerror(errno));
        return 0;
    }
    const struct CMUnitTest tests[] = {cmocka_unit_test(no_command_is_slept_over)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
