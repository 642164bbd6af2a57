/* One seed from its beginning to its end.
 *
 *   TURMOIL  the workload runs, the plan's troubles happen
 *   HEALTHY  no more trouble (but the switch's queue is still shallow): everything must end
 *   PROBE    every host that has a disk makes some more requests: nothing may be stuck
 *
 * A supervisor event looks at the state of things now and then. Its watchdog is in virtual time, so it
 * means "never", not "slow". */
#include "sim.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TURMOIL_MAX (300 * SEC)
#define SILENCE_MAX (60 * SEC) /* without an answer while healthy: far beyond every time-out and disk */
#define EVENTS_MAX 20000000u
#define PROBES 40u

static void enter(struct sim *sim, enum phase phase)
{
    sim->phase = phase;
    sim->phase_began = sim->w.now;
    world_note(&sim->w, "phase", phase, sim->request_count, sim->open);
}

static void heal(struct sim *sim)
{
    net_heal(&sim->net);
    impostor_stop(sim);
    enter(sim, PHASE_HEALTHY);
}

static void probe(struct sim *sim)
{
    enter(sim, PHASE_PROBE);
    packets_probe(sim);
    for (uint32_t i = 0; i < sim->plan.hosts; i++) {
        struct host *host = &sim->hosts[i];
        host_report(host);
        for (uint32_t d = 0; d < sim->disk_count; d++)
            if (sim->disks[d].owner == i)
                host->probes = PROBES;
        host_fill(host);
    }
}

/* The workload is used up, or nobody who could go on with it has a disk. */
static bool turmoil_over(const struct sim *sim)
{
    bool used_up = sim->request_count >= sim->plan.requests || sim->bytes >= sim->plan.bytes;
    return sim->chaos_pending == 0 &&
           ((used_up && sim->chaos_left == 0) || sim->w.now - sim->phase_began > TURMOIL_MAX);
}

/* Every host is up and knows what it should know, and nothing is open. Asked after every event at the end, so what
 * costs nothing comes first. */
static bool settled(const struct sim *sim)
{
    if (sim->open > 0 || (sim->phase == PHASE_PROBE && !packets_settled(sim)))
        return false;
    for (uint32_t i = 0; i < sim->disk_count; i++)
        if (sim->disks[i].ops || !sim->disks[i].attached || sim->disks[i].draining || sim->disks[i].shifting)
            return false;
    for (uint32_t i = 0; i < sim->plan.hosts; i++) {
        const struct host *host = &sim->hosts[i];
        if (!host->dispatch || host->outstanding > 0 || host->probes > 0 || !sim->iohv.known[i] ||
            host->document_version != sim->iohv.document_version[i] || sim->iohv.report_seen[i] != host->reports ||
            !host_up(host))
            return false;
    }
    return true;
}

static void watch(struct sim *sim)
{
    uint64_t quiet_since = sim->last_answer > sim->phase_began ? sim->last_answer : sim->phase_began;
    if (sim->w.now - quiet_since < SILENCE_MAX)
        return;
    struct request *request = NULL;
    for (uint32_t id = 1; id <= sim->request_count && !request; id++)
        if (sim->requests[id]->state == REQUEST_OPEN)
            request = sim->requests[id];
    if (request)
        world_fail(&sim->w, "never ends",
                   "%u requests open, the oldest is %u (%s) of %s on disk %u, submitted at %.6f s", sim->open,
                   request->id, or_op_name(request->req.op), request->host->name, request->disk->index,
                   (double)request->submitted / 1e9);
    for (uint32_t i = 0; i < sim->plan.hosts; i++)
        if (!sim->hosts[i].dispatch || !host_up(&sim->hosts[i]))
            world_fail(&sim->w, "never connects", "%s", sim->hosts[i].name);
    if (sim->phase == PHASE_PROBE && !packets_settled(sim))
        world_fail(&sim->w, "no packets", "of some NIC arrive any more");
    world_fail(&sim->w, "never settles", "documents, reports or attachments do not reach their end");
}

static void supervise(void *arg)
{
    struct sim *sim = arg;
    struct or_host_info info;
    for (uint32_t k = 0; k < sim->plan.workers && sim->iohv.server; k++)
        for (uint32_t i = 0; or_server_host(sim->iohv.workers[k].server, i, &info); i++)
            if (info.in_flight > sim->plan.slots)
                world_fail(&sim->w, "slots exceeded", "%s has %llu requests in flight, %u slots", info.name,
                           (unsigned long long)info.in_flight, sim->plan.slots);
    if (sim->w.events_run > EVENTS_MAX)
        world_fail(&sim->w, "event storm", "%u events and no end", EVENTS_MAX);
    if (sim->phase == PHASE_TURMOIL) {
        chaos_progress(sim);
        if (turmoil_over(sim))
            heal(sim);
    } else if (settled(sim)) {
        if (sim->phase == PHASE_PROBE)
            return; /* the end; sim_run sees it */
        probe(sim);
    } else {
        watch(sim);
    }
    if (sim->phase == PHASE_TURMOIL && rng_chance(&sim->w.rng, PPM / 8))
        host_report(&sim->hosts[rng_below(&sim->w.rng, sim->plan.hosts)]);
    world_at(&sim->w, sim->w.now + 10 * MS, supervise, sim);
}

static bool finished(const struct sim *sim)
{
    return sim->phase == PHASE_PROBE && sim->w.now > sim->phase_began && settled(sim);
}

static void begin(struct sim *sim)
{
    struct plan *plan = &sim->plan;
    plan_draw(plan, &sim->w);
    if (sim->w.trace)
        plan_print(plan);
    net_init(&sim->net, &sim->w, plan);
    sim->disk_count = plan->hosts * plan->disks_per_host;
    for (uint32_t i = 0; i < sim->disk_count; i++)
        disk_init(&sim->disks[i], sim, i);
    sim->iohv.sim = sim;
    chaos_init(sim);
    packets_init(sim);
    for (uint32_t i = 0; i < plan->hosts; i++) {
        struct host *host = &sim->hosts[i];
        host->sim = sim;
        host->index = i;
        snprintf(host->name, sizeof host->name, "host%u", i);
        rng_fill(&sim->w.rng, host->psk, sizeof host->psk);
    }
    iohv_start(&sim->iohv);
    for (uint32_t i = 0; i < plan->hosts; i++)
        host_start(&sim->hosts[i]);
    if (plan->attacker)
        attacker_start(&sim->net);
    if (plan->impostor)
        impostor_start(sim);
    enter(sim, PHASE_TURMOIL);
    supervise(sim);
}

static void finish(struct sim *sim)
{
    for (uint32_t i = 0; i < sim->plan.hosts; i++)
        host_check_end(&sim->hosts[i]);
    iohv_check_end(&sim->iohv);
    packets_check_end(sim);
    for (uint32_t i = 0; i < sim->plan.hosts; i++)
        host_stop(&sim->hosts[i], true, false);
    iohv_crash(&sim->iohv);
    world_count(&sim->w, COV_VIRTUAL_SECONDS, (sim->w.now + SEC / 2) / SEC - 10);
}

uint64_t sim_run(uint64_t seed, uint64_t *coverage, bool trace, world_failed *failed)
{
    struct sim *sim = calloc(1, sizeof *sim);
    if (!sim) {
        fprintf(stderr, "sim: out of memory\n");
        exit(2);
    }
    world_init(&sim->w, seed, coverage);
    sim->w.trace = trace;
    sim->w.failed = failed;
    begin(sim);
    while (!finished(sim))
        if (!world_step(&sim->w))
            world_fail(&sim->w, "nothing happens", "no event waits, and %u requests are open", sim->open);
    finish(sim);
    uint64_t hash = sim->w.hash;
    world_free(&sim->w);
    free(sim);
    return hash;
}
