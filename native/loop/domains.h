/* The protection domains of a worker (intercept/intercept.h), private to the files about volumes and NICs.
 *
 *   domains.c        opened and closed, and commands about them
 *   domain_policy.c  what happens when nobody commits; what the owner is told
 *   domain_socket.c  cuts and commits by a unix socket, for whoever takes checkpoints
 *   volume_domain.c  volumes that come to a domain, and leave it
 *
 * A domain has a hold, and a region of memory, of its own; the region outlives the engine (memory_keep.c). */
#ifndef OR_DOMAINS_H
#define OR_DOMAINS_H

#include "intercept/intercept.h"
#include "volumes_internal.h"

struct domain_socket;

/* A commit, timed and counted. The caller's, until done(). */
struct domain_commit {
    struct or_commit base;
    struct domain *domain;
    uint64_t begun_ns, begun_syncs;
    void (*done)(struct domain_commit *commit, int err);
};

enum domain_phase {
    DOMAIN_KEEPING, /* the store is to have its region  > OPENING */
    DOMAIN_OPENING, /* it reads its journal             > OPEN, FAILED */
    DOMAIN_FAILED,  /*                                  > (gone) */
    DOMAIN_OPEN,    /*                                  > CLOSING */
    DOMAIN_CLOSING, /* until nothing is under way       > (gone) */
};

/* Waits until an epoch has got somewhere. */
struct domain_watch {
    uint64_t epoch, since_ns; /* epoch 0: none */
};

struct domain {
    struct or_iohv_volumes *volumes;
    uint32_t id;
    char name[OR_NAME_MAX + 1];
    enum domain_phase phase;
    int error; /* FAILED */
    bool forget;
    struct or_command *doing; /* that opens or closes it */
    void *memory;
    uint64_t bytes, bytes_max, journal_id;
    struct or_volume *journal; /* until the domain has it */
    struct or_hold *hold;
    struct or_domain *domain; /* NULL: KEEPING */
    struct or_list requests;  /* commits and fences by command */
    struct domain_socket *socket;
    /* domain_policy.c */
    enum or_domain_overflow overflow;
    uint64_t timeout_ns;  /* 0: none */
    bool full, full_told; /* it has no room; and the owner knows */
    bool late_told;       /* there was no commit for too long, */
    uint64_t waits_since; /* since then; 0: nothing waits for one */
    uint64_t committed_seen;
    bool unprotected;         /* it commits by itself, until the next cut */
    struct domain_commit own; /* its own commit, */
    bool own_busy;            /* if it is under way */
    uint64_t told_ns, told_open, told_committed;
    uint64_t timed_syncs; /* syncs up to this one are in status.sync */
    struct domain_watch releasing, applying;
    struct or_domain_status status; /* its counters */
    struct or_list link;
};

/* NULL: it is not here, or not open. */
struct domain *or_iohv_domain(const struct or_iohv_volumes *volumes, uint32_t id);
/* Protection was dropped since the last cut. */
bool or_iohv_domain_dropped(const struct domain *d);
/* As or_domain_cut for a checkpoint, for the present generation when it is 0. *dropped: protection was, before it. */
int or_iohv_domain_cut(struct domain *d, uint64_t generation, uint64_t *epoch, bool *dropped);
/* As or_domain_commit; base.epoch and base.generation (0: the present one), and done, are set. */
void or_iohv_domain_commit(struct domain *d, struct domain_commit *commit);
/* Cuts and commits what is held, without a checkpoint. False: it cannot now, or a takeover may be about to drop it. */
bool or_iohv_domain_commit_own(struct domain *d);

/* A step: polls them. */
void or_iohv_domains_poll(struct or_iohv_volumes *volumes, uint64_t now);
bool or_iohv_domains_command(struct or_iohv_volumes *volumes, struct or_command *command);
/* The engine ends: nothing is begun any more. Again without effect. */
void or_iohv_domains_halt(struct or_iohv_volumes *volumes);
/* Nothing of any is under way. */
bool or_iohv_domains_idle(const struct or_iohv_volumes *volumes);
/* Destroys all; their volumes are the worker's again. */
void or_iohv_domains_end(struct or_iohv_volumes *volumes);

/* --- domain_policy.c ----------------------------------------------------------------------------------- */

/* Of an open domain. Returns when it wants to be called again at the latest; UINT64_MAX: nothing waits for time. */
uint64_t or_domain_policy_step(struct domain *d, uint64_t now);
void or_domain_tell(struct domain *d, enum or_domain_event what);
void or_timing_add(struct or_timing *timing, uint64_t ns);

/* --- domain_socket.c ----------------------------------------------------------------------------------- */

/* Listens at `path`. 0 or -errno. */
int or_domain_socket_open(struct domain *d, const char *path);
/* Removes its name. While the journal is locked nobody else has it. */
void or_domain_socket_leave(struct domain *d);
/* With all its connections. The domain has none of their commits any more. */
void or_domain_socket_close(struct domain *d);
/* Connections have something to say. */
void or_domain_sockets_look(struct or_iohv_volumes *volumes, uint64_t now);
void or_domain_sockets_end(struct or_iohv_volumes *volumes);

/* --- volume_domain.c ----------------------------------------------------------------------------------- */

/* OR_CMD_VOLUME_PROTECT */
void or_iohv_volume_protect(struct or_iohv_volumes *volumes, struct or_command *command);
/* Goes on with volumes that come or leave; how much work there was. */
uint32_t or_iohv_protects_work(struct or_iohv_volumes *volumes);
void or_iohv_protects_halt(struct or_iohv_volumes *volumes);
/* What requests for this volume of a domain go to, for an export of this generation, which has one more then. NULL with
 * *err: -ESTALE, -ENOMEM, -EBUSY (the volume is on its way out). */
struct door *or_iohv_door(struct volume *v, uint64_t generation, int *err);
struct or_volume *or_iohv_door_volume(const struct door *door);
uint64_t or_iohv_door_generation(const struct door *door);
/* The export has another one, or none. */
void or_iohv_door_leave(struct door *door);
/* Out of its domain: nothing of either is under way, and no export is left. */
void or_iohv_volume_leave(struct volume *v);

#endif
