/* What the files about volumes of a worker share; private to them. */
#ifndef OR_VOLUMES_INTERNAL_H
#define OR_VOLUMES_INTERNAL_H

#include "mem/list.h"
#include "volume_errors.h"
#include "volumes.h"

struct or_cache_drain;
struct or_keep_link;
struct or_iohv_nics;
struct domain;
struct door;

/* By OR_CMD_VOLUME_OPEN, until OR_CMD_VOLUME_CLOSE or OR_CMD_VOLUME_GIVE. */
struct volume {
    struct or_iohv_volumes *volumes;
    char name[OR_NAME_MAX + 1];
    struct or_volume *volume; /* that requests go to: the cached one, once it is on the cache */
    bool cacheable, cached;
    struct or_cache_volume_config cache; /* with which it is on it, or would be */
    struct or_cache_drain *drain;        /* while it is opened: of what dead engines had of it; NULL: none is needed */
    uint32_t inheriting;                 /* the layer whose content that is */
    bool busy;                /* it is being opened, closed or given away: nothing else can be done with it */
    struct or_command *doing; /* that; NULL: nobody asked, the engine ends */
    uint32_t jobs;            /* of or_iohv_volumes.jobs: it may not be closed or given away */
    uint32_t exports;
    struct domain *domain;  /* NULL: of none */
    uint64_t domain_volume; /* its id there */
    struct or_list doors;   /* to it through its domain, one for each generation in use */
    bool protecting;        /* it comes to a domain, or leaves it */
    struct or_volume_errors errors;
    struct or_list link;
};

struct export
{
    struct or_engine *engine;
    uint32_t id;
    struct volume *volume; /* NULL: not open yet, or elsewhere */
    struct door *door;     /* that its requests go to; NULL: to the volume itself */
    bool removing;
    struct or_command *removal; /* to be answered when drained; NULL: nobody asked */
    struct or_command *leaving; /* to be answered when it has left; NULL: it does not */
    struct or_list link;
};

struct or_iohv_volumes {
    struct or_engine *engine;
    struct or_server *server;
    struct or_uring *uring;
    struct or_cache *cache; /* NULL: there is none */
    struct {
        struct or_keep_link *link;  /* NULL: to no store */
        struct or_command *command; /* to be answered when the store has our memory */
    } keep;
    uint64_t cache_due; /* when it wants to be polled */
    struct or_list volumes, exports;
    uint32_t waiting;      /* volumes that cannot be put on the cache yet, or have not all that they inherit */
    struct or_list jobs;   /* volume_layers.c: cuts, flushes and changes of what is below a head, under way */
    struct or_list merges; /* layer_merge.c */
    struct or_list domains, protects; /* protects: volumes that come to a domain or leave it (volume_domain.c) */
    struct or_iohv_nics *nics;        /* NULL: none are told of packets that go out */
    uint64_t domains_due;
    uint32_t domains_work; /* of the last poll */
    bool sockets_open;
    struct or_fd_source sockets; /* an epoll descriptor: all connections with domains' sockets */
    uint64_t sockets_look;
    uint64_t errors_at; /* when the next errors of volumes are to be told; UINT64_MAX: there are none */
};

/* NULL: there is none of this name. */
struct volume *or_iohv_volume_named(const struct or_iohv_volumes *volumes, const char *name);
/* The same for a command, which is ended with an error when there is none, or one that is busy. */
struct volume *or_iohv_volume_for(struct or_iohv_volumes *volumes, struct or_command *command);
/* It is not exported, and nothing of it is under way: written out, closed and freed. */
void or_iohv_volume_close(struct volume *v);
/* The volume has been opened, as far as v->doing goes, or cannot be: -errno, and in which words. */
void or_iohv_volume_opened(struct volume *v, int err, const char *why);
/* The volume, which is on no cache any more, leaves for another worker. */
void or_iohv_volume_given(struct volume *v);
/* or_volume.failed of v->volume, whose owner is v. */
void or_iohv_volume_failed(struct or_volume *volume, const struct or_io *io, int error);

/* The volume goes: tells what is not told yet of its errors, though it is not time. */
void or_iohv_volume_tell_rest(struct volume *v);

/* --- volume_cache.c: the worker's cache, and how volumes come to it and leave it -------------------- */

/* 0 or -errno. */
int or_iohv_cache_open(struct or_iohv_volumes *volumes);
/* No volume is on it any more. */
void or_iohv_cache_close(struct or_iohv_volumes *volumes);
/* How volumes are cached of which nothing is said. */
void or_iohv_cache_default(struct or_cache_volume_config *config);
/* What a command says of it. */
void or_iohv_cache_change(struct or_cache_volume_config *config, const struct or_cache_change *change);
/* Puts v->volume, the lower one, on the cache, if there is one for it; calls or_iohv_volume_opened then, or later. */
void or_iohv_cache_take(struct volume *v);
/* Takes it off the cache, writing out what is dirty: closes it, answers v->doing if there is one, and frees v. */
void or_iohv_cache_end(struct volume *v);
/* The same to give the lower volume away, by or_iohv_volume_given. When that fails it stays as it was. */
void or_iohv_cache_give(struct volume *v);
/* Puts volumes on the cache that had to wait. */
void or_iohv_cache_retry(struct or_iohv_volumes *volumes);
/* False: it is not a command for caches. */
bool or_iohv_cache_command(struct or_iohv_volumes *volumes, struct or_command *command);

/* --- volume_layers.c: volumes of several layers, and how they get another one --------------------- */

/* Of the files that OR_CMD_VOLUME_OPEN has brought, which it takes over. NULL with *err. */
struct or_volume *or_iohv_layers_open(struct or_iohv_volumes *volumes, struct or_command *command, int *err);
/* One of them; the file is the volume's from here on. 0 or -errno. */
int or_iohv_layer_open(struct or_iohv_volumes *volumes, struct or_layer_file *file, bool read_only,
                       struct or_layer *layer);
void or_iohv_layer_close(struct or_layer *layer);
/* False: it is not a command for layers. */
bool or_iohv_layers_command(struct or_iohv_volumes *volumes, struct or_command *command);

/* --- layer_merge.c: two layers become one ------------------------------------------------------------ */

/* OR_CMD_LAYER_MERGE */
void or_iohv_merge(struct or_iohv_volumes *volumes, struct or_command *command);
/* Answers those that have ended; how many. */
uint32_t or_iohv_merges_work(struct or_iohv_volumes *volumes);
/* The engine ends, so they do, at the next piece. True: none is left. */
bool or_iohv_merges_drained(struct or_iohv_volumes *volumes);

/* --- memory_keep.c: memory beyond this process ------------------------------------------------------ */

/* The region of a domain of this process, or of a dead one: made when there is none. A descriptor that stays there,
 * with how long it is, which is `bytes` when it is made; or -errno: -EPROTO when there is one that cannot be read. */
int or_iohv_keep_region(struct or_iohv_volumes *volumes, uint32_t domain, uint64_t *bytes);
/* The supervisor's store, if there is one, has it too. */
bool or_iohv_keep_has_region(uint32_t domain);
/* Nobody has it any more. */
void or_iohv_keep_forget_region(uint32_t domain);
/* Of volumes->cache, which is there; 0 or -ENOMEM. */
int or_iohv_keep_begin(struct or_iohv_volumes *volumes);
void or_iohv_keep_end(struct or_iohv_volumes *volumes);
/* OR_CMD_KEEP */
void or_iohv_keep(struct or_iohv_volumes *volumes, struct or_command *command);
/* What the store is to be told. */
void or_iohv_keep_step(struct or_iohv_volumes *volumes);
/* OR_CMD_KEEP_GIVE_UP */
void or_iohv_keep_give_up(struct or_iohv_volumes *volumes, struct or_command *command);
/* 0; or -errno: a dead engine's memory cannot be read, so nobody knows which volumes it is of. or_iohv_keep_reason says
 * why. */
int or_iohv_keep_look(void);
const char *or_iohv_keep_reason(int err);
/* How many dirty blocks of this content dead engines had. */
uint64_t or_iohv_keep_count(uint64_t content);
/* The volume takes what dead engines had of this content. False: not all yet; again later. */
bool or_iohv_keep_inherit(struct or_volume *volume, uint64_t content);
/* One that is on no cache, or not yet, has it written out: as a drain of cache/kept.h. NULL: out of memory. */
struct or_cache_drain *or_iohv_keep_drain(struct or_volume *volume, const struct or_cache_volume_config *config);
int or_iohv_keep_drain_add(struct or_cache_drain *drain, uint64_t content);
int or_iohv_keep_drain_step(struct or_cache_drain *drain);
void or_iohv_keep_drained(struct or_cache_drain *drain);

#endif
