/* Crashes, cuts, generation bumps and moves. They are tied to the progress of the workload, not to
 * time, because a workload of a thousand requests may last ten milliseconds or a minute: each event
 * has a threshold, the number of requests after which it strikes. Some strike again soon after, so
 * that the second comes while the first is being mended. */
#include "sim.h"

#include <stdlib.h>
#include <string.h>

enum kind { CUT, SERVER_CRASH, HOST_CRASH, BUMP, MOVE, LINK_CUT, PORT_DEATH, MTU_CHANGE, SERVER_STOP, SHIFT, KINDS };

struct strike {
    struct sim *sim;
    enum kind kind;
    uint32_t place; /* PORT_DEATH: which comes back */
};

static void server_restarts(void *arg)
{
    struct sim *sim = arg;
    sim->chaos_pending--;
    iohv_start(&sim->iohv);
}

static void host_restarts(void *arg)
{
    struct host *host = arg;
    host->sim->chaos_pending--;
    host_start(host);
}

static uint32_t random_machine(struct sim *sim)
{
    struct rng *rng = &sim->w.rng;
    return rng_chance(rng, PPM / 3) ? NIC_SERVER : (uint32_t)rng_below(rng, sim->plan.hosts);
}

static uint32_t nics_of(const struct sim *sim, uint32_t machine)
{
    return machine == NIC_SERVER ? sim->plan.server_nics : sim->plan.host_nics;
}

static void cut(struct sim *sim)
{
    struct rng *rng = &sim->w.rng;
    uint32_t machine = random_machine(sim);
    uint64_t ways = rng_below(rng, 4), length = rng_scale(rng, 1 * MS, 30 * SEC);
    for (uint32_t i = 0; i < nics_of(sim, machine); i++)
        net_cut(&sim->net, machine + i * MACHINES_MAX, length, ways != 0, ways != 1);
}

/* Always the same one of two links, so another one always lives. */
static void cut_link(struct sim *sim)
{
    struct rng *rng = &sim->w.rng;
    uint32_t place = random_machine(sim) + sim->plan.cut_link * MACHINES_MAX;
    uint64_t ways = rng_below(rng, 4);
    world_count(&sim->w, COV_LINK_CUTS, 1);
    net_cut(&sim->net, place, rng_scale(rng, 1 * MS, 10 * SEC), ways != 0, ways != 1);
}

static void port_returns(void *arg)
{
    struct strike *strike = arg;
    struct sim *sim = strike->sim;
    bool another = rng_chance(&sim->w.rng, PPM / 2);
    sim->chaos_pending--;
    world_count(&sim->w, COV_PORTS_REPLACED, another);
    net_port(&sim->net, strike->place, false, another);
}

static void kill_port(struct sim *sim, struct strike *strike)
{
    struct rng *rng = &sim->w.rng;
    uint32_t machine = random_machine(sim);
    uint32_t place = machine + (uint32_t)rng_below(rng, nics_of(sim, machine)) * MACHINES_MAX;
    if (sim->net.places[place].down)
        return;
    world_count(&sim->w, COV_PORTS_DEAD, 1);
    net_port(&sim->net, place, true, false);
    struct strike *back = world_alloc(&sim->w, sizeof *back);
    *back = *strike;
    back->place = place;
    sim->chaos_pending++;
    world_at(&sim->w, sim->w.now + rng_scale(rng, 1 * MS, 10 * SEC), port_returns, back);
}

static void change_mtu(struct sim *sim)
{
    static const uint32_t mtus[] = {1500, 1500, 2000, 4000, 9000, 16370};
    struct rng *rng = &sim->w.rng;
    uint32_t machine = random_machine(sim);
    uint32_t place = machine + (uint32_t)rng_below(rng, nics_of(sim, machine)) * MACHINES_MAX;
    world_count(&sim->w, COV_MTU_CHANGES, 1);
    net_mtu(&sim->net, place, mtus[rng_below(rng, sizeof mtus / sizeof mtus[0])]);
}

static void stop_server(struct sim *sim)
{
    if (!sim->iohv.server)
        return;
    iohv_stop(&sim->iohv);
    sim->chaos_pending++;
    world_at(&sim->w, sim->w.now + rng_scale(&sim->w.rng, 100 * US, 500 * MS), server_restarts, sim);
}

static void crash_server(struct sim *sim)
{
    if (!sim->iohv.server)
        return;
    world_count(&sim->w, COV_SERVER_CRASHES, 1);
    iohv_crash(&sim->iohv);
    sim->chaos_pending++;
    world_at(&sim->w, sim->w.now + rng_scale(&sim->w.rng, 100 * US, 2 * SEC), server_restarts, sim);
}

static void shift_again(void *arg)
{
    struct disk *disk = arg;
    struct sim *sim = disk->sim;
    iohv_shift(&sim->iohv, disk);
    if (sim->phase == PHASE_TURMOIL && rng_chance(&sim->w.rng, PPM / 4 * 3))
        world_at(&sim->w, sim->w.now + rng_scale(&sim->w.rng, 100 * US, 300 * MS), shift_again, disk);
}

/* To and fro, while what a dead life left in the network is under way. */
static void shift_disks(struct sim *sim, const struct host *host)
{
    for (uint32_t i = 0; i < sim->disk_count && sim->plan.shifts; i++)
        if (sim->disks[i].owner == host->index)
            shift_again(&sim->disks[i]);
}

static void crash_host(struct sim *sim, struct host *host)
{
    struct rng *rng = &sim->w.rng;
    if (!host->dispatch)
        return;
    world_count(&sim->w, COV_HOST_CRASHES, 1);
    host_stop(host, rng_chance(rng, PPM / 4 * 3), rng_chance(rng, PPM / 2));
    shift_disks(sim, host);
    sim->chaos_pending++;
    world_at(&sim->w, sim->w.now + rng_scale(rng, 10 * US, 2 * SEC), host_restarts, host);
}

static void happen(void *arg)
{
    struct strike *strike = arg;
    struct sim *sim = strike->sim;
    struct rng *rng = &sim->w.rng;
    uint32_t hosts = sim->plan.hosts;
    sim->chaos_left--;
    switch (strike->kind) {
    case CUT:
        cut(sim);
        break;
    case SERVER_CRASH:
        crash_server(sim);
        break;
    case HOST_CRASH:
        crash_host(sim, &sim->hosts[rng_below(rng, hosts)]);
        break;
    case BUMP:
        iohv_bump(&sim->iohv, &sim->disks[rng_below(rng, sim->disk_count)]);
        if (sim->vnic_count)
            iohv_bump_nic(&sim->iohv);
        break;
    case MOVE:
        iohv_move(&sim->iohv, &sim->disks[rng_below(rng, sim->disk_count)], (uint32_t)rng_below(rng, hosts));
        if (sim->vnic_count)
            iohv_move_nic(&sim->iohv, (uint32_t)rng_below(rng, hosts));
        break;
    case LINK_CUT:
        cut_link(sim);
        break;
    case PORT_DEATH:
        kill_port(sim, strike);
        break;
    case MTU_CHANGE:
        change_mtu(sim);
        break;
    case SERVER_STOP:
        stop_server(sim);
        break;
    case SHIFT:
        iohv_shift(&sim->iohv, &sim->disks[rng_below(rng, sim->disk_count)]);
        break;
    case KINDS:
        break;
    }
    if (sim->phase == PHASE_TURMOIL && rng_chance(rng, PPM / 4)) {
        sim->chaos_left++;
        world_at(&sim->w, sim->w.now + rng_scale(rng, 10 * US, 1 * SEC), happen, strike);
    }
}

static int ascending(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return x < y ? -1 : x > y;
}

void chaos_init(struct sim *sim)
{
    const struct plan *plan = &sim->plan;
    const uint32_t counts[KINDS] = {
        [CUT] = plan->cuts,
        [SERVER_CRASH] = plan->server_crashes,
        [HOST_CRASH] = plan->host_crashes,
        [BUMP] = plan->generation_bumps,
        [MOVE] = plan->moves,
        [LINK_CUT] = plan->link_cuts,
        [PORT_DEATH] = plan->port_deaths,
        [MTU_CHANGE] = plan->mtu_changes,
        [SERVER_STOP] = plan->server_stops,
        [SHIFT] = plan->shifts,
    };
    struct rng *rng = &sim->w.rng;
    uint32_t total = 0;
    for (uint32_t kind = 0; kind < KINDS; kind++)
        total += counts[kind];
    sim->chaos_count = sim->chaos_left = total;
    sim->chaos_at = world_alloc(&sim->w, (total + 1) * sizeof *sim->chaos_at);
    sim->chaos_kind = world_alloc(&sim->w, total + 1);
    uint32_t n = 0;
    for (uint32_t kind = 0; kind < KINDS; kind++)
        for (uint32_t i = 0; i < counts[kind]; i++) {
            sim->chaos_at[n] = (uint32_t)rng_between(rng, 1, plan->requests);
            sim->chaos_kind[n++] = (uint8_t)kind;
        }
    qsort(sim->chaos_at, n, sizeof *sim->chaos_at, ascending);
    for (uint32_t i = 1; i < n; i++) { /* kinds in random order */
        uint32_t j = (uint32_t)rng_below(rng, i + 1);
        uint8_t kind = sim->chaos_kind[i];
        sim->chaos_kind[i] = sim->chaos_kind[j];
        sim->chaos_kind[j] = kind;
    }
}

void chaos_progress(struct sim *sim)
{
    bool used_up = sim->bytes >= sim->plan.bytes;
    while (sim->chaos_next < sim->chaos_count && (used_up || sim->request_count >= sim->chaos_at[sim->chaos_next])) {
        struct strike *strike = world_alloc(&sim->w, sizeof *strike);
        *strike = (struct strike){.sim = sim, .kind = (enum kind)sim->chaos_kind[sim->chaos_next++]};
        /* Not now: this is called from inside the client. */
        world_at(&sim->w, sim->w.now + rng_scale(&sim->w.rng, 100, 500 * US), happen, strike);
    }
}
