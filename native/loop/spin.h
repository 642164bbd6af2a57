/* How long the worker polls without work before it sleeps: long enough for what comes soon, not at all for what
 * comes late. Polling that is rewarded goes on; where work comes later than that it only takes the processor from
 * others, so the window shrinks, to nothing. It grows again with the first sleeps that a poll would have
 * saved: after the beginning of a busy time, within three requests or so. (KVM polls before it halts a virtual
 * processor by the same rule.) */
#ifndef OR_SPIN_H
#define OR_SPIN_H

#include <stdint.h>

struct or_spin {
    uint64_t max_ns;    /* of the configuration; 0: never polls */
    uint64_t window_ns; /* polls for so long after the last work */
};

static inline struct or_spin or_spin_new(uint64_t max_ns)
{
    return (struct or_spin){max_ns, max_ns};
}

/* The worker has polled in vain and then slept: so long after its last work there was more, or a timer was due. */
static inline void or_spin_slept(struct or_spin *s, uint64_t idle_ns)
{
    uint64_t least = s->max_ns / 4;
    if (idle_ns <= s->max_ns)
        s->window_ns = s->window_ns < least ? least : s->window_ns * 2 < s->max_ns ? s->window_ns * 2 : s->max_ns;
    else
        s->window_ns = s->window_ns / 2 < least ? 0 : s->window_ns / 2;
}

#endif
