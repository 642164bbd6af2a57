/* One world of the cache's model checker: simulated disks below, an or_cache, operations above, and a model of what
 * must be true. README.md explains it. Clock, events, random numbers: ../world.h. */
#ifndef CACHE_SIM_WORLD_H
#define CACHE_SIM_WORLD_H

#include "../world.h"
#include "backend/backend.h"
#include "cache/cache.h"
#include "cache/plant.h"

#define SECTOR 512u
#define VOLUMES 3u
#define BLOCKS 256u /* of a volume, at most */
#define SECTORS (BLOCKS * 8u)
#define UPPER 8u     /* operations at the same time on a volume */
#define WRITES 6000u /* in a world */
#define PINS 4u      /* held on a volume */
#define FLUSHES UPPER

#define BASE_STAMP (UINT64_C(1) << 40) /* + sector: the content of the base */
#define NEVER INT64_C(-1)

enum trouble {
    DID_READ,
    DID_WRITE,
    DID_FUA,
    DID_FLUSH,
    DID_ZERO,
    DID_DISCARD,
    DID_PEEK,
    DID_BAD_SECTOR,
    DID_READ_ERROR,
    DID_WRITE_ERROR,
    DID_FLUSH_ERROR,
    DID_ERROR_REPORTED,
    DID_CRASH,
    DID_TEAR,
    DID_RESIZE,
    DID_DROP,
    DID_MODE,
    DID_REOPEN,
    DID_REOPEN_LATER,
    DID_DETACH,
    DID_SYNCHRONOUS,
    DID_SHARED_HIT,
    DID_EVICT,
    DID_AHEAD,
    DID_WRITE_OUT,
    DID_COALESCE,
    DID_THROTTLE,
    DID_BYPASS,
    DID_MAX
};
extern const char *const did_names[DID_MAX];

struct checker;

/* A disk: what reads return, and what a crash leaves for certain. */
struct disk {
    struct or_volume volume;
    struct checker *c;
    uint32_t index;
    bool clone;
    uint64_t content;
    uint64_t current[SECTORS], stable[SECTORS];
    bool own[BLOCKS]; /* a clone's: written, no longer the base's */
    bool bad[SECTORS];
    struct disk_op *ops;
    bool open;
    uint8_t error; /* that the next flush must report: or_cache_volume_config */
};

/* What may be read of a sector. Numbers are those of writes: later ones are higher. */
struct sector {
    int64_t acked;  /* the last that ended well: a read returns this, or a later one of unknown outcome */
    int64_t latest; /* the last that began */
    int64_t floor;  /* the last that a flush or FUA made durable */
    int64_t zeroed; /* the last that wrote zeroes; 0: it was zero at first */
    int64_t loose;  /* the last discard */
    int64_t seen;   /* what the last read returned, when nothing has been written since; else NEVER */
};

struct write {
    uint8_t volume;
    uint32_t first, count;
};

struct upper {
    struct or_io io;
    struct checker *c;
    uint8_t *memory, *data;
    int64_t id;             /* of a write */
    int64_t *acked;         /* of a flush: what it must make durable */
    uint64_t errors_before; /* of a flush: write errors not reported when it began */
    bool busy;
    uint32_t volume;
};

struct pin {
    const uint8_t *memory;
    uint32_t sector, count;
    uint64_t stamps[8];
    struct checker *c;
    uint32_t volume;
};

struct side {
    struct or_volume *volume;  /* the cached one; NULL: closed */
    struct or_volume *leaving; /* while it is closed or detached */
    struct sector sectors[SECTORS];
    struct upper upper[UPPER];
    struct pin pins[PINS];
    uint64_t unreported; /* write errors below that nobody above has heard of */
    enum or_cache_mode mode;
    bool closing;
    uint32_t sequential; /* where a sequential reader is */
    uint64_t lost;
};

struct checker {
    struct world w;
    struct or_cache *cache;
    struct disk disks[VOLUMES];
    struct side sides[VOLUMES];
    struct write writes[WRITES];
    int64_t next_write;
    uint64_t *did; /* DID_MAX counters */
    uint32_t block_size;
    uint32_t ops_left, open_ops;
    uint32_t error_ppm, flush_error_ppm;
    uint32_t crashes, size_blocks;
    enum or_cache_policy policy;
    uint64_t io_ns_max;
    bool synchronous, calm; /* calm: the end; no more trouble */
    bool dead;              /* between a crash and the next life */
    bool errors;            /* a write or flush error was injected in this life */
    uint32_t life;
    uint64_t poll_at;
};

/* disk.c */
void disk_init(struct disk *d, struct checker *c, uint32_t index);
struct or_volume *disk_open(struct disk *d);
void disk_crash(struct disk *d);
void disk_map(void *arg, uint64_t number, uint64_t *content, uint64_t *content_number);

/* model.c */
void model_init(struct checker *c, uint32_t volume, bool clone);
int64_t model_begin(struct checker *c, uint32_t volume, uint8_t op, uint32_t first, uint32_t count);
void model_acked(struct checker *c, uint32_t volume, int64_t id);
void model_durable(struct checker *c, uint32_t volume, uint32_t first, uint32_t count, const int64_t *acked);
/* Fails the world unless the sector may read like this. */
void model_check(struct checker *c, uint32_t volume, uint32_t sector, uint64_t stamp, const char *who);
void model_crashed(struct checker *c, uint32_t volume, uint32_t sector, uint64_t stamp);
void model_closed(struct checker *c, uint32_t volume, uint32_t sector, uint64_t stamp);

/* Stamps in memory: at both ends of each sector. */
void stamp_put(uint8_t *sector, uint64_t stamp);
uint64_t stamp_get(struct checker *c, const uint8_t *sector);

/* checker.c; see struct subject. */
uint64_t checker_run(uint64_t seed, uint64_t *did, bool trace, world_failed *failed);

#endif
