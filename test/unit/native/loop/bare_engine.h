/* An engine without worker and ports, for tests that are its worker; and what they read of it. */
#ifndef OR_TEST_BARE_ENGINE_H
#define OR_TEST_BARE_ENGINE_H

#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "loop/engine_internal.h"

static void wake(void *arg)
{
    (void)arg;
}

static struct or_engine *bare_engine_new(void)
{
    struct or_engine *e = aligned_alloc(64, (sizeof *e + 63) & ~63ul);
    memset(e, 0, sizeof *e);
    e->config.wake = wake;
    e->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    e->bell.fd = eventfd(0, EFD_CLOEXEC);
    return e;
}

static void bare_engine_free(struct or_engine *e)
{
    close(e->epoll_fd);
    close(e->bell.fd);
    free(e);
}

/* One NIC of an OR_CMD_NICS that has ended, which is freed. */
static struct or_nic_info take_nic_info(struct or_command *nics, uint32_t id)
{
    struct or_nic_info info = {0};
    for (uint32_t i = 0; i < nics->count; i++)
        if (nics->nics[i].id == id)
            info = nics->nics[i];
    or_command_free(nics);
    assert_int_equal(info.id, id);
    return info;
}

#endif
