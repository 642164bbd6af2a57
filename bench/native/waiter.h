/* How every end of the bench waits: it spins for a while after the last work, then sleeps in poll().
 * The product's worker does the same, and facts about waking a sleeping thread apply to all systems
 * alike, so no client is slower than another only because it sleeps. */
#ifndef BENCH_WAITER_H
#define BENCH_WAITER_H

#include <poll.h>
#include <stdint.h>
#include <time.h>

#define WAIT_MS_MAX 100u

struct waiter {
    uint64_t spin_ns;
    uint64_t idle_since_ns; /* 0: there was work just now */
};

static inline void waiter_init(struct waiter *waiter, double spin_us)
{
    waiter->spin_ns = (uint64_t)(spin_us * 1000);
    waiter->idle_since_ns = 0;
}

static inline void waiter_worked(struct waiter *waiter)
{
    waiter->idle_since_ns = 0;
}

/* Nothing to do at `now`: true when the caller should sleep, false when it should look again. */
static inline bool waiter_spun(struct waiter *waiter, uint64_t now)
{
    if (!waiter->idle_since_ns)
        waiter->idle_since_ns = now;
    if (now - waiter->idle_since_ns < waiter->spin_ns) {
        __builtin_ia32_pause();
        return false;
    }
    waiter->idle_since_ns = 0; /* after a wake-up, spin again */
    return true;
}

/* Sleeps until one of the descriptors is ready, `deadline_ns` has come, or WAIT_MS_MAX has passed. */
static inline void waiter_sleep(struct pollfd *fds, nfds_t count, uint64_t now, uint64_t deadline_ns)
{
    uint64_t left = deadline_ns > now ? deadline_ns - now : 0;
    if (left > WAIT_MS_MAX * 1000000u)
        left = WAIT_MS_MAX * 1000000u;
    struct timespec timeout = {.tv_sec = (time_t)(left / 1000000000u), .tv_nsec = (long)(left % 1000000000u)};
    ppoll(fds, count, &timeout, NULL);
}

/* Spins or sleeps, as is due. */
static inline void waiter_idle(struct waiter *waiter, struct pollfd *fds, nfds_t count, uint64_t now,
                               uint64_t deadline_ns)
{
    if (deadline_ns > now && waiter_spun(waiter, now))
        waiter_sleep(fds, count, now, deadline_ns);
}

#endif
