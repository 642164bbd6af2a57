/* What a client and a server have in common as a process: a nic, a clock of its own, and the loop
 * that hands frames in, ticks when due and flushes. */
#ifndef SIM_ENGINE_H
#define SIM_ENGINE_H

#include "network.h"

struct engine_ops {
    void (*rx)(void *protocol, uint32_t port, const uint8_t *frame, uint32_t length, uint64_t now);
    void (*tick)(void *protocol, uint64_t now);
    void (*flush)(void *protocol, uint64_t now);
    uint64_t (*deadline)(const void *protocol);
    void (*port_changed)(void *protocol, const struct or_port *port, uint64_t now);
    /* All frames and messages refused so far. */
    uint64_t (*refused)(const void *protocol);
};

/* One life of one process. Allocated with world_alloc and never reused, so that a stale event finds
 * a dead engine and not another one. */
struct engine {
    struct world *w;
    const struct plan *plan;
    const struct engine_ops *ops;
    void *protocol;
    void (*work)(void *arg); /* in each loop, between receiving and flushing */
    void *work_arg;
    struct nic *nics[OR_LINKS_MAX];
    uint32_t nic_count, receiving; /* the nic whose frames are handed over */
    uint64_t skew;                 /* its clock shows the world's plus this */
    uint64_t wakes_at;             /* of the event that waits; UINT64_MAX: none */
    uint64_t stalled_until;
    uint32_t idle_loops; /* runs at one instant */
    uint64_t last_run;
    bool dead;
};

struct engine *engine_create(struct net *net, uint32_t place, uint32_t nics);
/* After the protocol object exists. */
void engine_start(struct engine *engine, const struct engine_ops *ops, void *protocol);
void engine_kill(struct engine *engine);
static inline uint64_t engine_now(const struct engine *engine)
{
    return engine->w->now + engine->skew;
}
/* Runs the loop soon: something was submitted or completed from outside. */
void engine_poke(struct engine *engine);

#endif
