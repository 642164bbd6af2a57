/* What one seed is about: how large the world is and which troubles it has. Drawn from the seed
 * alone, before anything runs. */
#ifndef SIM_PLAN_H
#define SIM_PLAN_H

#include "world.h"

#define HOSTS_MAX 16u
#define DISKS_PER_HOST_MAX 2u
#define WORKERS_MAX 3u

struct plan {
    char troubles[240]; /* their names, for people */

    uint32_t hosts, disks_per_host;
    uint32_t host_nics, server_nics; /* of every host; a session has as many links as the larger of the two */
    uint32_t mtu;
    uint8_t integrity;     /* enum or_integrity */
    uint32_t phase_frames; /* frames until a key changes */
    uint32_t slots;        /* server: requests in flight per session */
    uint64_t buffer_bytes; /* of each worker */
    uint32_t workers;      /* of the server */
    uint32_t out_requests; /* worker: operations that asynchronous disks have at once */
    uint64_t out_bytes;

    /* The workload. */
    uint32_t requests; /* of all hosts together */
    uint64_t bytes;    /* likewise: the workload ends when either is used up */
    uint32_t queue_depth;
    uint32_t length_blocks_max;
    uint32_t big_ppm;             /* requests of up to 1 MiB */
    uint32_t hot_blocks, hot_ppm; /* where requests overlap */
    uint32_t bad_ppm;             /* requests that must be refused */
    uint64_t timeout_ns;          /* of every request; 0: none */
    uint32_t deferred_ppm;        /* completions whose successor is submitted later, not inside done() */
    bool scribble;                /* guests rewrite buffers under I/O */

    /* Packets. */
    uint32_t nics;         /* of each host; 0: there are no packets */
    uint64_t packet_bytes; /* of all NICs, both ways, until the turmoil ends */
    bool packet_flood;     /* there are always more */
    bool packets_late;     /* engines send them after their flush */
    bool in_order;         /* nothing makes packets of a NIC overtake each other */

    /* The network. */
    uint64_t delay_ns, jitter_ns;
    uint64_t bytes_per_us;  /* of every link */
    uint32_t switch_frames; /* the shared queue towards the server */
    uint32_t host_frames;   /* the queue towards each host */
    uint32_t ring_frames;   /* receive ring of every port */
    uint32_t loss_ppm, duplicate_ppm, corrupt_ppm, hold_ppm;
    uint32_t second_loss_ppm; /* more loss, on the second nics */
    uint32_t tx_stall_ppm;    /* no send buffer */
    uint32_t stall_ppm;       /* an engine does not run for a while */
    bool attacker, impostor;
    bool envelopes;      /* ports have them, */
    uint64_t swallow_ns; /* and the network swallows them in every second period of so long; 0: never */

    /* The disks. */
    uint32_t block_size;
    bool synchronous; /* like RAM: operations end inside submit */
    bool peek;
    bool discard, write_zeroes;
    bool read_only_disk; /* one of them */
    uint64_t io_ns_max;
    uint32_t slow_ppm, error_ppm;

    /* Nothing that could cost a session: whatever an attacker sends, none may be lost. */
    bool calm;

    /* Sessions end only with a goodbye. */
    bool orderly;

    uint32_t cut_link; /* which of the two links link_cuts hit */

    /* What goes wrong as a whole. Numbers of events. */
    uint32_t link_cuts, port_deaths, mtu_changes, server_stops;
    uint32_t cuts, server_crashes, host_crashes, generation_bumps, moves, shifts;
};

/* Bugs of the world itself, planted to prove that the checker sees what such a bug would do. */
enum world_plant {
    WORLD_PLANT_NONE = 0,
    WORLD_PLANT_NO_FLOCK,    /* a new server uses volumes at once */
    WORLD_PLANT_LOST_WRITE,  /* the storage acknowledges a write and forgets it */
    WORLD_PLANT_OLD_READ,    /* the storage returns a block's previous content */
    WORLD_PLANT_SILENT_DISK, /* the storage never answers one operation */
    WORLD_PLANT_LYING_DISK,  /* the storage fails an operation and says OK */
    WORLD_PLANT_MAX
};
extern enum world_plant world_planted;
extern const char *const world_plant_names[WORLD_PLANT_MAX];

void plan_draw(struct plan *plan, struct world *w);
void plan_print(const struct plan *plan);

#endif
