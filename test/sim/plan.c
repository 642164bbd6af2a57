/* A tenth of the seeds has no trouble at all, four tenths have one kind, the rest a random mixture up
 * to everything at once. Sizes are drawn for all of them. */
#include "plan.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "packets.h"
#include "wire/wire.h"

enum world_plant world_planted;
const char *const world_plant_names[WORLD_PLANT_MAX] = {
    [WORLD_PLANT_NONE] = "none",
    [WORLD_PLANT_NO_FLOCK] = "world: no flock",
    [WORLD_PLANT_LOST_WRITE] = "world: lost write",
    [WORLD_PLANT_OLD_READ] = "world: old read",
    [WORLD_PLANT_SILENT_DISK] = "world: silent disk",
    [WORLD_PLANT_LYING_DISK] = "world: lying disk",
};

enum trouble {
    LOSS,
    DUPLICATION,
    CORRUPTION,
    JITTER,
    HOLD,
    SMALL_RINGS,
    TX_STALLS,
    PROCESS_STALLS,
    ATTACKER,
    SLOW_DISK,
    IO_ERRORS,
    CUTS,
    SERVER_CRASHES,
    HOST_CRASHES,
    BUMPS,
    MOVES,
    SCRIBBLE,
    BAD_REQUESTS,
    SECOND_LOSS,
    LINK_CUTS,
    PORT_DEATHS,
    MTU_CHANGES,
    SERVER_STOPS,
    TIMEOUTS,
    SHIFTS,
    TROUBLES,
};
static const char *const trouble_names[TROUBLES] = {
    "loss",           "duplication",  "corruption", "jitter",       "hold",        "small-rings",    "tx-stalls",
    "process-stalls", "attacker",     "slow-disk",  "io-errors",    "cuts",        "server-crashes", "host-crashes",
    "bumps",          "moves",        "scribble",   "bad-requests", "second-loss", "link-cuts",      "port-deaths",
    "mtu-changes",    "server-stops", "timeouts",   "shifts",
};

static void draw_trouble(struct plan *p, enum trouble trouble, struct rng *r)
{
    size_t used = strlen(p->troubles);
    snprintf(p->troubles + used, sizeof p->troubles - used, "%s%s", used ? " " : "", trouble_names[trouble]);
    switch (trouble) {
    case LOSS:
        p->loss_ppm = (uint32_t)rng_scale(r, 1000, 180000);
        break;
    case DUPLICATION:
        p->duplicate_ppm = (uint32_t)rng_scale(r, 5000, 200000);
        break;
    case CORRUPTION:
        p->corrupt_ppm = (uint32_t)rng_scale(r, 1000, 80000);
        break;
    case JITTER:
        p->jitter_ns = rng_scale(r, 1 * US, 10 * MS);
        break;
    case HOLD:
        p->hold_ppm = (uint32_t)rng_scale(r, 500, 20000);
        break;
    case SMALL_RINGS:
        p->ring_frames = (uint32_t)rng_between(r, 16, 32);
        p->switch_frames = (uint32_t)rng_between(r, 8, 24);
        p->host_frames = (uint32_t)rng_between(r, 8, 24);
        break;
    case TX_STALLS:
        p->tx_stall_ppm = (uint32_t)rng_scale(r, 5000, 300000);
        break;
    case PROCESS_STALLS:
        p->stall_ppm = (uint32_t)rng_scale(r, 500, 10000);
        break;
    case ATTACKER:
        p->attacker = true;
        p->impostor = rng_chance(r, PPM / 2);
        break;
    case SLOW_DISK:
        p->synchronous = false;
        p->io_ns_max = rng_scale(r, 1 * MS, 50 * MS);
        p->slow_ppm = (uint32_t)rng_scale(r, 1000, 20000);
        break;
    case IO_ERRORS:
        p->error_ppm = (uint32_t)rng_scale(r, 1000, 30000);
        break;
    case CUTS:
        p->cuts = (uint32_t)rng_between(r, 1, 5);
        break;
    case SERVER_CRASHES:
        p->server_crashes = (uint32_t)rng_between(r, 1, 4);
        break;
    case HOST_CRASHES:
        p->host_crashes = (uint32_t)rng_between(r, 1, 6);
        break;
    case BUMPS:
        p->generation_bumps = (uint32_t)rng_between(r, 1, 8);
        break;
    case MOVES:
        p->moves = (uint32_t)rng_between(r, 1, 4);
        break;
    case SCRIBBLE:
        p->scribble = true;
        break;
    case BAD_REQUESTS:
        p->bad_ppm = (uint32_t)rng_scale(r, 5000, 100000);
        break;
    case SECOND_LOSS:
        p->second_loss_ppm = (uint32_t)rng_scale(r, 10000, 900000);
        break;
    case LINK_CUTS:
        p->host_nics = p->server_nics = 2;
        p->cut_link = (uint32_t)rng_below(r, 2);
        p->link_cuts = (uint32_t)rng_between(r, 1, 6);
        break;
    case PORT_DEATHS:
        p->port_deaths = (uint32_t)rng_between(r, 1, 5);
        break;
    case MTU_CHANGES:
        p->mtu_changes = (uint32_t)rng_between(r, 1, 5);
        break;
    case SERVER_STOPS:
        p->server_stops = (uint32_t)rng_between(r, 1, 4);
        break;
    case TIMEOUTS:
        p->timeout_ns = rng_scale(r, 100 * US, 3 * SEC);
        break;
    case SHIFTS:
        p->workers = (uint32_t)rng_between(r, 2, WORKERS_MAX);
        p->shifts = (uint32_t)rng_between(r, 1, 20);
        break;
    case TROUBLES:
        break;
    }
}

static void draw_troubles(struct plan *p, struct world *w)
{
    struct rng *r = &w->rng;
    uint64_t dice = rng_below(r, 100);
    if (dice < 10) {
        world_count(w, COV_CLEAN_SEEDS, 1);
        return;
    }
    if (dice < 50) {
        draw_trouble(p, (enum trouble)rng_below(r, TROUBLES), r);
        return;
    }
    uint32_t chance = (uint32_t)rng_between(r, PPM / 8, PPM);
    for (uint32_t trouble = 0; trouble < TROUBLES; trouble++)
        if (rng_chance(r, chance))
            draw_trouble(p, (enum trouble)trouble, r);
}

/* Few hosts with large writes, so that packets and requests want more than there is. */
static void draw_flood(struct plan *p, struct world *w)
{
    p->hosts = 1;
    p->buffer_bytes = 8u << 20;
    p->queue_depth = (uint32_t)rng_between(&w->rng, 4, 16);
    p->big_ppm = PPM / 4;
    p->bytes = 4u << 20;
    p->packet_bytes = 6u << 20;
    p->packet_flood = true;
    world_count(w, COV_PACKET_FLOODS, 1);
}

void plan_draw(struct plan *p, struct world *w)
{
    struct rng *r = &w->rng;
    static const uint32_t mtus[] = {1500, 1500, 4000, 9000, 9000, 9000, 16370, 65535};
    memset(p, 0, sizeof *p);
    p->hosts = rng_chance(r, PPM / 8) ? HOSTS_MAX : (uint32_t)rng_scale(r, 1, HOSTS_MAX);
    p->disks_per_host = (uint32_t)rng_between(r, 1, DISKS_PER_HOST_MAX);
    p->host_nics = rng_chance(r, PPM / 2) ? 2 : 1;
    p->server_nics = rng_chance(r, PPM / 4) ? 3 - p->host_nics : p->host_nics;
    p->mtu = mtus[rng_below(r, sizeof mtus / sizeof mtus[0])];
    p->integrity = (uint8_t)rng_between(r, OR_INTEGRITY_CRC, OR_INTEGRITY_ENCRYPT);
    p->phase_frames = (uint32_t)rng_scale(r, 4, 1024);
    p->slots = (uint32_t)rng_scale(r, 4, OR_SLOTS_MAX);
    p->buffer_bytes = (uint64_t)p->hosts * rng_between(r, 1, 4) << 20;
    p->out_requests = (uint32_t)rng_scale(r, 1, 128);
    p->out_bytes = rng_scale(r, 512, 4u << 20);

    p->requests = (uint32_t)rng_scale(r, 150, 1200);
    p->bytes = rng_scale(r, 2u << 20, 8u << 20);
    p->queue_depth = (uint32_t)rng_scale(r, 1, 64);
    p->block_size = rng_chance(r, PPM / 2) ? 512 : 4096;
    p->length_blocks_max = (uint32_t)rng_scale(r, 1, 65536 / p->block_size);
    p->big_ppm = rng_chance(r, PPM / 4) ? (uint32_t)rng_scale(r, 1000, 50000) : 0;
    p->hot_blocks = (uint32_t)rng_scale(r, 4, 128);
    p->hot_ppm = (uint32_t)rng_between(r, 0, PPM);
    p->deferred_ppm = (uint32_t)rng_between(r, 0, PPM);

    p->delay_ns = rng_scale(r, 1 * US, 200 * US);
    p->bytes_per_us = rng_scale(r, 125, 12500); /* 1 to 100 Gb/s */
    p->switch_frames = (uint32_t)rng_scale(r, 32, 256);
    p->host_frames = (uint32_t)rng_scale(r, 32, 256);
    p->ring_frames = (uint32_t)rng_scale(r, 64, 256);

    p->synchronous = rng_chance(r, PPM / 4);
    p->peek = p->synchronous || rng_chance(r, PPM / 8);
    p->discard = !rng_chance(r, PPM / 8);
    p->write_zeroes = !rng_chance(r, PPM / 8);
    p->read_only_disk = rng_chance(r, PPM / 16) && p->hosts * p->disks_per_host > 1;
    p->io_ns_max = rng_scale(r, 2 * US, 1 * MS);
    p->nics = rng_chance(r, PPM / 4) ? 0 : (uint32_t)rng_between(r, 1, NICS_PER_HOST_MAX);
    p->packet_bytes = rng_scale(r, 32u << 10, 1u << 20);
    p->packets_late = rng_chance(r, PPM / 8);
    p->workers = (uint32_t)rng_between(r, 1, WORKERS_MAX);
    if (p->nics && rng_chance(r, PPM / 24))
        draw_flood(p, w);
    p->envelopes = rng_chance(r, PPM / 2);
    p->swallow_ns = rng_chance(r, PPM / 2) ? rng_scale(r, 1 * MS, 1000 * SEC) : 0;
    draw_troubles(p, w);
    if (w->seed % 64 == 63) { /* the whole of it, now and then: 16 hosts, all troubles */
        p->hosts = HOSTS_MAX;
        p->buffer_bytes = (uint64_t)p->hosts << 20;
        p->troubles[0] = 0;
        for (uint32_t trouble = 0; trouble < TROUBLES; trouble++)
            draw_trouble(p, (enum trouble)trouble, r);
    }
    /* A cut of one link of two is no cause either. */
    bool quiet = p->loss_ppm + p->corrupt_ppm + p->hold_ppm + p->tx_stall_ppm + p->stall_ppm == 0 &&
                 p->jitter_ns < MS && p->cuts + p->server_crashes + p->host_crashes + p->port_deaths == 0;
    p->calm = quiet && p->second_loss_ppm + p->mtu_changes + p->server_stops == 0;
    p->in_order = quiet && !p->attacker && p->jitter_ns + p->second_loss_ppm + p->link_cuts == 0;
    /* A goodbye in an envelope may be swallowed. */
    p->orderly = quiet && !p->attacker && p->second_loss_ppm + p->link_cuts == 0 && !(p->envelopes && p->swallow_ns);
}

void plan_print(const struct plan *p)
{
    static const char *const integrities[] = {
        [OR_INTEGRITY_CRC] = "crc", [OR_INTEGRITY_MAC] = "mac", [OR_INTEGRITY_ENCRYPT] = "encrypt"};
    printf("plan: %u hosts, %u disks each, mtu %u, %s, new keys after %u frames, %u slots, %" PRIu64 " MiB buffers\n",
           p->hosts, p->disks_per_host, p->mtu, integrities[p->integrity], p->phase_frames, p->slots,
           p->buffer_bytes >> 20);
    printf("      %u nics per host, %u of the server; link %u: %u cuts; second loss %u ppm; %u port deaths, %u MTU "
           "changes, "
           "%u stops\n",
           p->host_nics, p->server_nics, p->cut_link, p->link_cuts, p->second_loss_ppm, p->port_deaths, p->mtu_changes,
           p->server_stops);
    if (p->timeout_ns)
        printf("      requests time out after %" PRIu64 " us\n", p->timeout_ns / US);
    printf("      %u requests, depth %u, up to %u blocks of %u, %u ppm large; hot area %u blocks, %u ppm\n",
           p->requests, p->queue_depth, p->length_blocks_max, p->block_size, p->big_ppm, p->hot_blocks, p->hot_ppm);
    if (p->nics)
        printf("      %u NICs per host, %" PRIu64 " KiB of packets%s%s%s\n", p->nics, p->packet_bytes >> 10,
               p->packet_flood ? ", a flood" : "", p->packets_late ? ", after the flush" : "",
               p->in_order ? ", in order" : "");
    printf("      delay %" PRIu64 " us, jitter %" PRIu64 " us, %" PRIu64
           " bytes/us; queues %u to the server, %u to a host, "
           "rings %u\n",
           p->delay_ns / US, p->jitter_ns / US, p->bytes_per_us, p->switch_frames, p->host_frames, p->ring_frames);
    printf("      loss %u, duplication %u, corruption %u, hold %u, tx stalls %u, stalls %u ppm%s%s\n", p->loss_ppm,
           p->duplicate_ppm, p->corrupt_ppm, p->hold_ppm, p->tx_stall_ppm, p->stall_ppm,
           p->attacker ? ", attacker" : "", p->impostor ? ", impostor" : "");
    if (p->envelopes)
        printf("      envelopes, swallowed every second %" PRIu64 " us\n", p->swallow_ns / US);
    printf("      the disks have up to %u operations and %" PRIu64 " KiB at once\n", p->out_requests,
           p->out_bytes >> 10);
    printf("      disk %s%s, up to %" PRIu64 " us, slow %u, errors %u ppm%s%s%s\n",
           p->synchronous ? "synchronous" : "asynchronous", p->peek ? " with peek" : "", p->io_ns_max / US, p->slow_ppm,
           p->error_ppm, p->discard ? "" : ", no discard", p->write_zeroes ? "" : ", no write-zeroes",
           p->read_only_disk ? ", disk 0 read-only" : "");
    printf(
        "      %u workers, %u shifts; %u cuts, %u server crashes, %u host crashes, %u bumps, %u moves; troubles: %s\n",
        p->workers, p->shifts, p->cuts, p->server_crashes, p->host_crashes, p->generation_bumps, p->moves,
        p->troubles[0] ? p->troubles : "none");
}
