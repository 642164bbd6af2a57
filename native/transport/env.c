/* The world of an engine: the kernel's random number generator. */
#include "env.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/random.h>

static void system_random(void *arg, void *out, size_t length)
{
    (void)arg;
    uint8_t *next = out;
    while (length > 0) {
        ssize_t n = getrandom(next, length, 0);
        if (n < 0 && errno == EINTR)
            continue;
        /* getrandom() has no other failure for a valid buffer, and keys must not be drawn without it. */
        if (n < 0)
            abort();
        next += n;
        length -= (size_t)n;
    }
}

const struct or_env or_env_system = {.random = system_random};
