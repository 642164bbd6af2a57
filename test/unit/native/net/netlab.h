/* A network for tests of the back-ends: namespaces without names, that vanish with this process; `ip` in them.
 * Needs root. */
#ifndef TEST_NETLAB_H
#define TEST_NETLAB_H

#include <fcntl.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mount.h>
#include <unistd.h>

/* Enters a new network namespace, with a /sys of its own, and returns a descriptor of it; -1: no rights. */
static inline int netlab_new(void)
{
    if (unshare(CLONE_NEWNET | CLONE_NEWNS) != 0)
        return -1;
    mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL);
    if (mount("sysfs", "/sys", "sysfs", 0, NULL) != 0)
        return -1;
    return open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
}

static inline void netlab_enter(int ns)
{
    assert_int_equal(setns(ns, CLONE_NEWNET), 0);
}

/* Runs a command of the shell, which must succeed. */
static inline void run(const char *format, ...) __attribute__((format(printf, 1, 2)));
static inline void run(const char *format, ...)
{
    char command[512];
    va_list args;
    va_start(args, format);
    vsnprintf(command, sizeof command, format, args);
    va_end(args);
    if (system(command) != 0)
        fail_msg("%s", command);
}

#endif
