/* The loop of an engine: receive what waits, tick when due, flush. It runs a moment after something
 * happened (polling is not infinitely fast), and in some seeds the whole process stands still for a
 * while, as a descheduled one does.
 *
 * The loop also checks what only it can see: whether a frame that must be refused was. A corrupt data
 * frame, or one that the same engine has accepted before, has to raise a counter of refusals. A first
 * copy that was itself refused (say, because the session was not there yet) is no duplicate. */
#include "engine.h"

#include <string.h>

#define LOOPS_PER_INSTANT_MAX 10000u

static void engine_at(struct engine *engine, uint64_t at);

static void receive(void *arg, const uint8_t *bytes, uint32_t length)
{
    struct engine *engine = arg;
    const struct nic *nic = engine->nics[engine->receiving];
    struct frame *frame = nic->receiving;
    bool data = length >= OR_ETH_HEADER + sizeof(struct or_frame_header) && frame_header(frame)->type == OR_FRAME_DATA;
    uint64_t before = data ? engine->ops->refused(engine->protocol) : 0;
    engine->ops->rx(engine->protocol, engine->receiving, bytes, length, engine_now(engine));
    if (!data || engine->dead)
        return;
    bool accepted = engine->ops->refused(engine->protocol) == before;
    bool again = frame->accepted_by == nic->instance;
    if (accepted && frame->must_refuse)
        world_fail(engine->w, "corrupt frame accepted", "place %u took a data frame of %u bytes that nobody sent",
                   nic->index, length);
    if (accepted && again)
        world_fail(engine->w, "replayed frame accepted", "place %u took the same data frame twice (counter %llu)",
                   nic->index, (unsigned long long)frame_header(frame)->counter);
    if (accepted)
        frame->accepted_by = nic->instance;
    else if (frame->must_refuse)
        world_count(engine->w, COV_CORRUPT_REFUSED, 1);
    else if (again)
        world_count(engine->w, COV_DUPLICATE_REFUSED, 1);
}

static void loop(struct engine *engine)
{
    struct world *w = engine->w;
    if (engine->last_run != w->now)
        engine->idle_loops = 0;
    engine->last_run = w->now;
    if (++engine->idle_loops > LOOPS_PER_INSTANT_MAX)
        world_fail(w, "timer stands still", "place %u asks to be called again at once, for ever",
                   engine->nics[0]->index);

    for (engine->receiving = 0; engine->receiving < engine->nic_count; engine->receiving++) {
        or_port_rx_burst(&engine->nics[engine->receiving]->port, 64, receive, engine);
        if (engine->dead)
            return;
    }
    if (engine->ops->deadline(engine->protocol) <= engine_now(engine))
        engine->ops->tick(engine->protocol, engine_now(engine));
    if (engine->dead)
        return;
    for (uint32_t i = 0; i < engine->nic_count; i++)
        engine->nics[i]->refused_tx = false;
    if (engine->work && !engine->plan->packets_late)
        engine->work(engine->work_arg);
    engine->ops->flush(engine->protocol, engine_now(engine));
    if (engine->work && engine->plan->packets_late)
        engine->work(engine->work_arg);
    for (uint32_t i = 0; i < engine->nic_count; i++) {
        struct nic *nic = engine->nics[i];
        or_port_tx_flush(&nic->port);
        if (nic->ring_count > 0 || nic->refused_tx)
            engine_at(engine, w->now + 2 * US);
    }
    uint64_t deadline = engine->ops->deadline(engine->protocol);
    if (deadline != UINT64_MAX)
        engine_at(engine, deadline > engine->skew ? deadline - engine->skew : 0);
}

static void wake(void *arg)
{
    struct engine *engine = arg;
    struct world *w = engine->w;
    if (engine->dead || engine->wakes_at != w->now)
        return; /* an earlier event has taken this one's place */
    engine->wakes_at = UINT64_MAX;
    if (engine->stalled_until <= w->now && !engine->nics[0]->net->healthy &&
        rng_chance(&w->rng, engine->plan->stall_ppm)) {
        engine->stalled_until = w->now + rng_scale(&w->rng, 1 * MS, 300 * MS);
        world_count(w, COV_PROCESS_STALLS, 1);
        world_note(w, "engine.stall", engine->nics[0]->index, engine->stalled_until - w->now, 0);
    }
    if (engine->stalled_until > w->now)
        engine_at(engine, engine->stalled_until);
    else
        loop(engine);
}

static void engine_at(struct engine *engine, uint64_t at)
{
    if (at < engine->w->now)
        at = engine->w->now;
    if (engine->dead || at >= engine->wakes_at)
        return;
    engine->wakes_at = at;
    world_at(engine->w, at, wake, engine);
}

void engine_poke(struct engine *engine)
{
    engine_at(engine, engine->w->now + rng_between(&engine->w->rng, 200, 3000));
}

static void frames_wait(void *arg)
{
    engine_poke(arg);
}

static void port_changed(void *arg, struct or_port *port)
{
    struct engine *engine = arg;
    if (engine->dead || !engine->protocol)
        return;
    engine->ops->port_changed(engine->protocol, port, engine_now(engine));
    engine_poke(engine);
}

struct engine *engine_create(struct net *net, uint32_t place, uint32_t nics)
{
    struct engine *engine = world_alloc(net->w, sizeof *engine);
    *engine = (struct engine){.w = net->w, .plan = net->plan, .wakes_at = UINT64_MAX};
    engine->skew = rng_below(&net->w->rng, 1000 * SEC);
    engine->nic_count = nics;
    for (uint32_t i = 0; i < nics; i++)
        engine->nics[i] = net_nic(net, place + i * MACHINES_MAX, frames_wait, port_changed, engine);
    return engine;
}

void engine_start(struct engine *engine, const struct engine_ops *ops, void *protocol)
{
    engine->ops = ops;
    engine->protocol = protocol;
    engine_poke(engine);
}

void engine_kill(struct engine *engine)
{
    engine->dead = true;
    for (uint32_t i = 0; i < engine->nic_count; i++)
        net_nic_kill(engine->nics[i]);
}
