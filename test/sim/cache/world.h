/* One world of the block cache's model checker: simulated files below, layered volumes on them, an or_cache,
 * operations above, and a model of what must be true. README.md explains it. Clock, events, random numbers:
 * ../world.h. */
#ifndef CACHE_SIM_WORLD_H
#define CACHE_SIM_WORLD_H

#include "../slow_op.h"
#include "../world.h"
#include "backend/backend.h"
#include "cache/cache.h"
#include "cache/kept.h"
#include "cache/plant.h"
#include "layers/layers.h"
#include "layers/plant.h"
#include "mem/list.h"

#define SECTOR 512u
#define BLOCKS 256u /* of a volume, at most */
#define SECTORS (BLOCKS * 8u)
#define SIDES 4u
#define FILES 24u
#define SNAPSHOTS 6u
#define DEPTH 8u         /* layers of a volume, at most */
#define UPPER 8u         /* operations at the same time on a volume */
#define WRITES 6000u     /* in a world */
#define PINS 4u          /* held on a volume */
#define META_BYTES 8192u /* an overlay's header and map */

#define BASE_STAMP (UINT64_C(1) << 40) /* + sector: the content of the base */
#define NEVER INT32_C(-1)

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
    DID_KILL,
    DID_KILL_KEPT,
    DID_DIE_MIDWAY,
    DID_DIE_AGAIN,
    DID_FOUND,
    DID_FOUND_SEVERAL,
    DID_TAKE,
    DID_TAKE_BELOW,
    DID_TAKE_LATER,
    DID_TAKE_DIED,
    DID_DRAIN,
    DID_DRAIN_FAILED,
    DID_DRAIN_DIED,
    DID_TEAR,
    DID_TEAR_MAP,
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
    DID_CUT,
    DID_CUT_RAW,
    DID_CUT_HELD,
    DID_CUT_FAILED,
    DID_CUT_CRASHED,
    DID_CLONE,
    DID_CLONE_LARGER,
    DID_ROLLBACK,
    DID_REMOVE_SNAPSHOT,
    DID_REMOVE_VOLUME,
    DID_REMOVE_LAYER,
    DID_DEEP,
    DID_MERGE,
    DID_MERGE_RAW,
    DID_MERGE_FAILED,
    DID_MERGE_CRASHED,
    DID_REBASE,
    DID_MAX
};
extern const char *const did_names[DID_MAX];

/* Bugs of the world itself, to be found like those of the code. */
enum checker_plant {
    CHECKER_PLANT_NONE,
    CHECKER_PLANT_CUT_NO_DRAIN,   /* a cut does not wait for what is under way */
    CHECKER_PLANT_CUT_NO_FLUSH,   /* nor flush */
    CHECKER_PLANT_CUT_KEEPS_HEAD, /* the sealed layer is written on */
    CHECKER_PLANT_MERGE_EARLY,    /* what is merged in part takes the place of both */
    CHECKER_PLANT_MERGE_SHARED,   /* a layer on which several stand is merged with one of them */
    CHECKER_PLANT_MERGE_NAMED,    /* or one that a snapshot names */
    CHECKER_PLANT_KEEP_NEWEST,    /* of several dead engines' memories only one is found */
    CHECKER_PLANT_KEEP_HASTY,     /* a volume is used before all of its blocks are taken up */
    CHECKER_PLANT_KEEP_FOR_ALL,   /* whoever stands on a layer takes up what is left of it */
    CHECKER_PLANT_KEEP_HEAD_ONLY, /* what was the head when the engine died is not taken up by the one after it */
    CHECKER_PLANT_MAX
};
extern enum checker_plant checker_planted;

struct checker;
struct cut;
struct merge;

/* Who dies, between any two events or steps. */
enum death {
    DEATH_MACHINE,
    DEATH_ENGINE,     /* its cache's memory is there for the next one */
    DEATH_UNATTENDED, /* nobody has kept its memory */
};

/* Of the cache of an engine that is dead. */
struct memory {
    struct memory *next;
    int fds[OR_CACHE_FDS];              /* while nobody has found it */
    struct or_cache_heritage *heritage; /* then */
};

/* A file with a layer: what reads return, and what a crash leaves for certain. */
struct file {
    struct checker *c;
    struct file *below; /* NULL: it is the last of its chain */
    uint64_t content;
    bool used, sealed;
    uint32_t openings;
    bool raw;         /* the volume's bytes as they are; else an overlay */
    uint32_t size;    /* sectors of the volume */
    uint64_t data_at; /* bytes: where the volume's first sector is */
    int fd;           /* an overlay's header and map */
    uint8_t *meta;    /* the same, in memory */
    uint8_t stable_meta[META_BYTES];
    uint64_t current[SECTORS], stable[SECTORS];
    bool bad[SECTORS];
    struct slow_ops ops; /* under way */
};

/* What may be read of a sector. Numbers are those of writes: later ones are higher. */
struct sector {
    int32_t acked;     /* the last that ended well: a read returns this, or a later one of unknown outcome */
    int32_t latest;    /* the last that began */
    int32_t floor;     /* the last that a flush or FUA made durable */
    int32_t zeroed;    /* the last that wrote zeroes; 0: it was zero at first */
    int32_t loose;     /* the last discard */
    int32_t seen;      /* what the last read returned, when nothing has been written since; else NEVER */
    int32_t inherited; /* the write of another volume that it began with */
};

/* What a volume, or a snapshot, may show. */
struct image {
    uint32_t lineage; /* the volume's, from its making or rollback on */
    uint32_t size;    /* sectors */
    uint32_t based;   /* sectors that began with the content of the base */
    struct sector sectors[SECTORS];
};

struct write {
    uint32_t lineage;
    uint32_t first, count;
};

struct snapshot {
    bool used, ready;   /* ready: its cut is over */
    bool unsynced;      /* it was, when the engine died: a crash may still tear it, until somebody opens it */
    struct file *layer; /* the uppermost */
    struct image image;
    uint64_t stamps[SECTORS]; /* what it was at the cut, and is for ever */
};

struct upper {
    struct or_io io;
    struct checker *c;
    uint8_t *memory, *data;
    int32_t id;             /* of a write */
    int32_t *acked;         /* of a flush: what it must make durable */
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

/* A volume. */
struct side {
    bool exists;
    struct file *head;            /* as it is recorded */
    struct or_volume *volume;     /* the cached one; NULL: closed */
    struct or_volume *leaving;    /* while it is closed or detached */
    struct or_volume *taking;     /* while it takes up what a dead engine left */
    struct or_cache_drain *drain; /* or has it written out, before it is on the cache */
    uint32_t draining;            /* the layer of which that is */
    struct or_volume *layered;    /* below it; NULL: it is raw */
    struct tap *tap;              /* between the two */
    struct image image;
    struct upper upper[UPPER];
    struct pin pins[PINS];
    struct cut *cut;     /* under way */
    uint64_t unreported; /* write errors below that nobody above has heard of */
    uint64_t content;    /* its own, while it is open */
    enum or_cache_mode mode;
    uint8_t error; /* that a flush of its next opening must report: or_cache_volume_config */
    bool closing;
    bool owed;           /* dead engines may have left something for it */
    bool stale;          /* open with layers that have become one since */
    bool rebasing;       /* its files are held until it has the new ones */
    bool buffered;       /* may have blocks in memory that are not written out yet */
    bool condemned;      /* a flush below has failed: nothing is promised until it is opened again */
    bool flush_failed;   /* the last one below did: a layered volume's map may not be in its file */
    uint32_t sequential; /* where a sequential reader is */
};

struct checker {
    struct world w;
    struct or_cache *cache;
    struct file files[FILES];
    struct side sides[SIDES];
    struct snapshot snapshots[SNAPSHOTS];
    struct merge *merge; /* under way; NULL: none */
    struct write writes[WRITES];
    int32_t next_write;
    uint32_t next_lineage;
    uint64_t next_content;
    uint64_t *did;       /* DID_MAX counters */
    uint32_t block_size; /* of files */
    uint32_t ops_left, open_ops;
    uint32_t error_ppm, flush_error_ppm;
    uint32_t crashes, size_blocks;
    enum or_cache_policy policy;
    uint64_t io_ns_max, think_ns_max;
    uint64_t poll_at;
    uint32_t life;
    bool synchronous, calm;      /* calm: the end; no more trouble */
    bool dead;                   /* between a crash and the next life */
    bool dying;                  /* dead, but in the middle of an event */
    enum death death;            /* that it died, or dies */
    enum death death_due;        /* and is to die */
    uint64_t steps_to_death;     /* after so many steps; 0: not now */
    struct memory *left, *found; /* of dead engines; by the living one */
    bool inspecting;             /* files are read at once, and whole */
    bool lineages;               /* many snapshots, clones and rollbacks */
    bool errors;                 /* a write or flush error was injected in this life */
};

/* It is being opened. */
static inline bool is_coming(const struct side *side)
{
    return side->taking || side->drain;
}

static inline bool chance(struct checker *c, uint32_t percent)
{
    return rng_below(&c->w.rng, 100) < percent;
}

/* file.c */
struct file *file_create_raw(struct checker *c, uint32_t size, bool base);
/* An overlay; below: NULL or what it is put on, by the volume that has written to that if it `continues`. NULL: there
 * are FILES already. */
struct file *file_create_overlay(struct checker *c, uint32_t size, struct file *below, bool continues);
void file_remove(struct file *f);
/* Another opening of it. */
struct or_volume *file_open(struct file *f);
/* The same, to write to it though it is sealed. */
struct or_volume *file_open_merge(struct file *f);
void file_sync(struct file *f);
/* The machine dies: loses and tears what is not stable. Or only the engine: then what the kernel has still happens.
 * What is under way ends with OR_EIO, for nobody to hear. */
void files_crash(struct checker *c, bool machine);
/* Reads of these sectors of the volume may fail. */
bool file_chain_bad(const struct file *head, uint32_t first, uint32_t count);
uint32_t file_depth(const struct file *head);

/* stack.c: a volume's files, the layered volume, the cache. */
void stack_open_cache(struct checker *c);
/* It stays closed while the cache has not forgotten its content. */
void stack_open(struct checker *c, uint32_t volume);
struct or_cache_volume_config stack_draw_config(struct checker *c, const struct side *side);
/* Closes it, or detaches it from the cache. False: something is under way. */
bool stack_close(struct checker *c, uint32_t volume, bool detach);
/* The volume's own content is now this file, an empty overlay over what it was. 0 or -errno. */
int stack_push(struct checker *c, uint32_t volume, struct file *head);
/* A file's layer, opened; to be merged into, or read. */
struct or_layer stack_layer(struct file *f, bool merge);
/* The volume, held below the cache, gets what is on record below its head. 0 or -errno. */
int stack_rebase(struct checker *c, struct side *side);
void stack_crash(struct checker *c);
/* What the layers from this one on show, read sector by sector past everything. */
void stack_inspect(struct checker *c, struct file *head, uint32_t size, uint64_t *stamps);

/* tree.c: snapshots, clones and what becomes of them. */
void tree_init(struct checker *c);
/* Snapshots, clones, rolls back or removes; false: it cannot be done now. */
bool tree_trouble(struct checker *c, uint32_t volume);
/* The machine died, or the engine: what is on the disk must be right. It is what there is from now on, but for what the
 * engine's memory has. */
void tree_crashed(struct checker *c);
/* Snapshots are as they were. */
void tree_check(struct checker *c);
/* Layers that nobody needs and nobody has open are deleted. */
void tree_collect(struct checker *c);

/* merge.c */
/* Looks for two layers of which one can be merged into the other, and begins with it; it takes its time. */
void merge_begin(struct checker *c);

/* model.c */
void model_init(struct checker *c, struct image *image, uint32_t size, uint32_t based);
int32_t model_begin(struct checker *c, struct image *image, uint8_t op, uint32_t first, uint32_t count);
void model_acked(struct checker *c, struct image *image, int32_t id);
void model_durable(struct image *image, uint32_t first, uint32_t count, const int32_t *acked);
/* Fails the world unless the sector may read like this. */
void model_check(struct checker *c, struct image *image, uint32_t sector, uint64_t stamp, const char *who);
/* Nothing is under way: it shows this from now on. */
void model_crashed(struct checker *c, struct image *image, const uint64_t *stamps);
/* In good order; or when some of it could not be written out or flushed. */
void model_closed(struct checker *c, struct image *image, const uint64_t *stamps);
void model_lost(struct checker *c, struct image *image, const uint64_t *stamps);
/* The engine died, and its memory: that forgets nothing that was acknowledged, if it was `kept` elsewhere. */
void model_killed(struct checker *c, struct image *image, const uint64_t *stamps, bool kept);
/* The engine died, and its memory is kept: nothing is missing but, in a layered volume, what of a write that failed was
 * there. Condemned: what is not durable may be. */
void model_kept(struct image *image, bool layered, bool condemned);
void model_cut(struct checker *c, struct image *image, const uint64_t *stamps);
/* Another volume that begins with what `from` shows. */
void model_clone(struct checker *c, struct image *image, const struct image *from, uint32_t size);

/* keep.c: the memory of engines that died. */
void keep_init(struct checker *c);
/* Dies now. What it holds is copied; what is done before the event is over (`dying`) does not count. */
void keep_die(struct checker *c, enum death death);
/* Dies after some steps, at most so many. */
void keep_arm(struct checker *c, enum death death, uint64_t steps_max);
/* The next engine finds what there is. */
void keep_find(struct checker *c);
/* The volume, open but not used yet, takes up what is its own. False: there is no room now. */
bool keep_take(struct checker *c, struct side *side, struct or_volume *volume);
/* The same for one that is on no cache, by side->drain: 0, -EAGAIN or -errno. */
int keep_drain(struct checker *c, struct side *side);
/* What an engine had found it has no more; what nobody has found is lost with the machine. */
void keep_close(struct checker *c);
void keep_lose(struct checker *c);

/* cut.c */
/* Begins to make a snapshot of a volume that is open; it takes its time. Does nothing when there are FILES already. */
void cut_begin(struct checker *c, uint32_t volume, struct snapshot *snapshot);
/* What ended well happened to the snapshot, too, if it began before. */
void cut_acked(struct side *side, int32_t id);
/* The machine or the engine died: what was recorded counts. */
void cut_crashed(struct checker *c, struct side *side);

/* Stamps in memory: at both ends of each sector. */
void stamp_put(uint8_t *sector, uint64_t stamp);
uint64_t stamp_get(struct checker *c, const uint8_t *sector);

/* checker.c; see struct subject. */
uint64_t checker_run(uint64_t seed, uint64_t *did, bool trace, world_failed *failed);

#endif
