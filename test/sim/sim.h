/* One seed: the world and everything in it. */
#ifndef SIM_SIM_H
#define SIM_SIM_H

#include "disk.h"
#include "engine.h"
#include "model.h"
#include "network.h"
#include "packets.h"
#include "plan.h"
#include "transport/dispatch.h"
#include "transport/plant.h"
#include "transport/server.h"

#define DISKS_MAX (HOSTS_MAX * DISKS_PER_HOST_MAX)
#define REQUESTS_MAX 8192u

/* An attachment as a host knows it. */
struct view {
    uint32_t disk, id, generation;
};

/* The way of a device's requests. Of one life of a host. */
struct route {
    struct or_route or ; /* first */
    struct route *next;
};

struct host {
    struct sim *sim;
    uint32_t index;
    char name[16];
    uint8_t psk[32];
    struct engine *engine;
    struct or_dispatch *dispatch; /* NULL: the host is down */
    struct route *routes;
    uint32_t life;
    bool going;                  /* the client is being destroyed: done() is no answer */
    bool survives;               /* the front-end outlives the client: requests are submitted again */
    bool up;                     /* with worker 0 */
    bool confirmed[WORKERS_MAX]; /* the server has the session too */
    bool filling;
    struct view views[DISKS_MAX];
    uint32_t view_count;
    uint32_t document_version; /* last received by this life */
    uint32_t outstanding;
    uint32_t reports; /* sent, all lives */
    uint32_t probes;  /* requests still to be made after the turmoil */

    /* Packets. */
    struct view nic_views[HOSTS_MAX * NICS_PER_HOST_MAX]; /* view.disk: the index of the vnic */
    uint32_t nic_view_count;
    uint32_t packets_waiting;                /* in the guests' rings */
    uint64_t packets_sent, packets_received; /* in this life */
    uint32_t packet_life[2];                 /* newest life of a sender, by direction */
    uint64_t links_changed[2]; /* when the sender's links changed: packets may have taken another way then */
};

struct iohv {
    struct sim *sim;
    struct engine *engine;
    struct iohv_worker {
        struct iohv *iohv;
        uint32_t index;
        struct or_server *server;
    } workers[WORKERS_MAX];
    struct or_server *server; /* worker 0's; NULL: down */
    bool dying;
    bool known[HOSTS_MAX];                    /* the living server was told of the host */
    uint32_t session[WORKERS_MAX][HOSTS_MAX]; /* the host's current session, numbered through the world */
    uint32_t sessions;
    uint32_t document_version[HOSTS_MAX];
    uint32_t report_seen[HOSTS_MAX];
    uint64_t packets_sent, packets_received; /* by the living server */
    uint64_t buffers;                        /* bytes of the operations that the storage has for the living server */
};

enum phase {
    PHASE_TURMOIL,
    PHASE_HEALTHY, /* no more trouble: what is outstanding must end */
    PHASE_PROBE,   /* every host makes some more requests */
};

struct sim {
    struct world w;
    struct plan plan;
    struct net net;
    struct host hosts[HOSTS_MAX];
    struct disk disks[DISKS_MAX];
    uint32_t disk_count;
    struct vnic vnics[HOSTS_MAX * NICS_PER_HOST_MAX];
    uint32_t vnic_count;
    struct packets packets;
    struct iohv iohv;
    struct request *requests[REQUESTS_MAX]; /* by id; 0 is not used */
    uint32_t request_count;
    uint64_t bytes; /* of all requests so far */
    uint32_t open;  /* requests without an answer */
    enum phase phase;
    uint64_t phase_began, last_answer;
    uint32_t chaos_left;    /* events that have not been carried out */
    uint32_t chaos_pending; /* restarts and the like under way */
    uint32_t *chaos_at;     /* thresholds (number of requests), ascending */
    uint8_t *chaos_kind;
    uint32_t chaos_count, chaos_next;
    struct engine *impostor_engine;
    struct or_dispatch *impostor;
    struct or_route impostor_route;
};

/* See struct subject. */
uint64_t sim_run(uint64_t seed, uint64_t *coverage, bool trace, world_failed *failed);

/* host.c: the VM hosts and their workload. */
void host_start(struct host *host);
/* muted: nothing more gets out; survives: requests go on in the next life. */
void host_stop(struct host *host, bool muted, bool survives);
/* Submits as much as the queue depth allows. */
void host_fill(struct host *host);
void host_report(struct host *host);
/* To this device; made when there is none yet. */
struct or_route *host_route(struct host *host, uint32_t id);
/* Has a session with every worker that it ever needed. */
bool host_up(const struct host *host);
void host_check_end(struct host *host);
void impostor_start(struct sim *sim);
void impostor_stop(struct sim *sim);

/* workload.c: draws the next request of a host, NULL when it has no disk. */
struct request *workload_next(struct host *host);

/* iohv.c: the I/O hypervisor. */
void iohv_start(struct iohv *iohv);
/* Also the way to free it at the end of a seed. */
void iohv_crash(struct iohv *iohv);
/* In order: with a goodbye to the hosts. */
void iohv_stop(struct iohv *iohv);
/* A disk's last operation of a dead server has ended. */
void iohv_disk_free(struct iohv *iohv, struct disk *disk);
void iohv_bump(struct iohv *iohv, struct disk *disk);
void iohv_move(struct iohv *iohv, struct disk *disk, uint32_t to);
/* To another worker of the server. */
void iohv_shift(struct iohv *iohv, struct disk *disk);
/* A NIC. */
void iohv_bump_nic(struct iohv *iohv);
void iohv_move_nic(struct iohv *iohv, uint32_t to);
void iohv_check_end(struct iohv *iohv);

/* chaos.c: crashes, cuts, bumps and moves. */
void chaos_init(struct sim *sim);
/* Another request was submitted. */
void chaos_progress(struct sim *sim);

#endif
