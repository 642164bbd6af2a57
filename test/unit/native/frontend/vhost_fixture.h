/* For tests of one disk: a driver of its own for each of them. */
#ifndef VHOST_FIXTURE_H
#define VHOST_FIXTURE_H

#include "vhost_driver.h"

static struct driver d;

static int setup(void **state)
{
    (void)state;
    driver_init(&d);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    driver_end(&d);
    return 0;
}

static inline void expect_broken(const char *why)
{
    steps(&d, 3);
    assert_int_equal(d.state, OR_VHOST_BROKEN);
    if (strstr(d.reason, why) == NULL)
        fail_msg("the reason is \"%s\"", d.reason);
}

#endif
