/* What protocol code may know of the world: the random bytes it draws and how it reports. Time comes
 * in as an argument (nanoseconds of a monotonic clock), frames leave through a port: so the same code
 * runs on a real network and, reproducibly, in the simulator. */
#ifndef OR_ENV_H
#define OR_ENV_H

#include <stddef.h>
#include <stdint.h>

struct or_env {
    /* Fills out with `length` random bytes: getrandom() in an engine, a seeded generator in tests. */
    void (*random)(void *arg, void *out, size_t length);
    void *arg;
};

/* getrandom(2). */
extern const struct or_env or_env_system;

#endif
