/* One world of the interceptor's model checker: simulated disks, a hold with domains, guests that write, read and send,
 * checkpointing that cuts and commits, takeovers, deaths of the engine and of the machine, and a model of what must be
 * true. README.md explains it. Clock, events, random numbers: ../world.h. */
#ifndef INTERCEPT_SIM_WORLD_H
#define INTERCEPT_SIM_WORLD_H

#include <setjmp.h>

#include "../slow_op.h"
#include "../world.h"
#include "backend/backend.h"
#include "intercept/intercept.h"
#include "intercept/plant.h"
#include "mem/list.h"

#define SECTOR 512u
#define GUESTS 2u
#define VOLUMES 2u
#define BLOCKS 40u
#define SECTORS (BLOCKS * 8u)
#define UPPER 6u /* operations of a guest at the same time */
#define COMMITS 4u
#define IMAGES (OR_DOMAIN_EPOCHS + OR_DOMAIN_EMPTY + 2u)
#define PACKETS 4096u /* of a guest, in a world */
#define REGION_SLOTS_MAX 200u

#define NONE UINT64_MAX
#define TORN (NONE - 1) /* a sector of which a write that never ended is there in part */

enum trouble {
    DID_READ,
    DID_WRITE,
    DID_ZERO,
    DID_FLUSH,
    DID_PEEK,
    DID_PACKET,
    DID_RELEASED,
    DID_REPEATED,
    DID_BLOCKED,
    DID_WAIT,
    DID_OVERFLOW,
    DID_CUT,
    DID_EXPOSE,
    DID_EXPOSED,
    DID_COMMIT,
    DID_COMMIT_SEVERAL,
    DID_COMMIT_FAILED,
    DID_COMMIT_FENCED,
    DID_CONDEMNED,
    DID_APPLY_FAILED,
    DID_FENCE,
    DID_ABORT,
    DID_ZOMBIE,
    DID_HALT,
    DID_PAUSE,
    DID_SNAPSHOT,
    DID_KILL,
    DID_KILL_INSIDE,
    DID_POWER,
    DID_TEAR,
    DID_STUCK,
    DID_LOADED,
    DID_NOTHING_LOST,
    DID_SYNCHRONOUS,
    DID_MAX
};
extern const char *const did_names[DID_MAX];

struct checker;

/* Bytes that reads return, and those that are there after a power failure. */
struct disk {
    struct or_volume volume;
    struct checker *c;
    uint8_t *current, *stable;
    bool *unsynced; /* sectors that a flush will make stable; others may differ all the same, see disk.c */
    uint32_t sectors;
    bool fails; /* writes and flushes of it may fail */
    struct slow_ops ops;
};

/* What a volume shows: `now`, or, where it is not NONE, perhaps `maybe`: a write that has not ended, or never will. */
struct image {
    uint64_t now[VOLUMES][SECTORS], maybe[VOLUMES][SECTORS];
};

struct upper {
    struct or_io io;
    struct guest *g;
    uint8_t *data;
    uint64_t id; /* of a write: what it writes */
    uint64_t generation;
    uint32_t volume;
    bool busy;
};

struct packet {
    uint64_t epoch;
    uint32_t length;
    bool perhaps; /* the engine died while it was taken */
};

struct commit {
    struct or_commit commit;
    struct guest *g;
    bool busy;
};

enum phase {
    PHASE_DOWN,    /* no engine, or the domain is opening */
    PHASE_RUN,     /* the guest runs */
    PHASE_FENCING, /* a takeover */
    PHASE_REWIND,  /* the region was lost; the journal is applied */
};

struct guest {
    struct checker *c;
    uint32_t index;
    struct disk disks[VOLUMES], journal;
    struct or_domain *domain;
    struct or_volume *doors[VOLUMES], *zombies[VOLUMES];
    enum phase phase;
    uint64_t generation, zombie;
    bool opened; /* once: its journal is no longer blank */
    bool lost;   /* the region: until a reset is done */
    struct image image;
    struct image *boundaries; /* of epoch n, at n % IMAGES */
    bool pending[VOLUMES][SECTORS];
    struct upper upper[UPPER];
    struct or_io zombie_io;
    bool zombie_busy;
    uint8_t *zombie_data;
    uint64_t open;
    uint64_t told;    /* the last epoch of which a commit ended well */
    uint64_t asked;   /* the last of which one was asked for */
    uint64_t outside; /* the last of which a packet went out */
    bool cutting, aborting, exposing;
    bool covering;    /* the cut is for a checkpoint */
    uint64_t exposed; /* more is out than a checkpoint has, until this epoch is committed; NONE: it is not cut yet */
    bool paused;      /* applying; the driver looks at the disks when it may */
    bool held, whole; /* the disks, when applying has paused; no epoch is there in part */
    struct commit commits[COMMITS];
    struct or_fence fence;
    struct packet packets[PACKETS];
    uint32_t packets_count, packets_out; /* sent; gone out, or never will */
    uint32_t repeat;                     /* a packet that may come again: the engine died while it went out; + 1 */
    bool sending;
};

struct checker {
    struct world w;
    struct guest guests[GUESTS];
    uint32_t guests_count;
    uint8_t *region;
    uint64_t region_bytes;
    struct or_hold *hold;
    uint64_t *did;
    uint64_t next_id;
    uint32_t ops_left;
    uint32_t kills, powers, halts; /* still to come */
    bool halted;                   /* the engine ends in good order */
    uint32_t kill_in;              /* the engine dies at the so manyth point from now; 0: no */
    jmp_buf killed;
    uint32_t life;
    uint32_t block_size;
    uint64_t io_ns_max, bytes_max;
    uint32_t error_ppm, flush_error_ppm;
    uint32_t cut_ns_max;
    bool synchronous, calm;
    bool inside;    /* the library runs */
    bool condemned; /* a journal, in this life */
};

static inline bool chance(struct checker *c, uint32_t percent)
{
    return rng_below(&c->w.rng, 100) < percent;
}

static inline uint64_t volume_id(const struct guest *g, uint32_t volume)
{
    return g->index * VOLUMES + volume + 1;
}

/* disk.c */
void disk_init(struct disk *d, struct checker *c, uint64_t bytes, bool fails);
/* The engine died: what was under way happens or not, or in part. */
void disk_killed(struct disk *d);
/* And the machine. */
void disk_power(struct disk *d);

/* model.c */
uint64_t stamp_of(uint64_t id, uint32_t volume, uint32_t sector);
void stamp_put(uint8_t *sector, uint64_t stamp);
uint64_t stamp_get(const uint8_t *sector);
bool model_may(const struct guest *g, uint32_t volume, uint8_t op, uint32_t first, uint32_t count);
void model_begin(struct guest *g, const struct upper *u);
void model_end(struct guest *g, const struct upper *u, bool happened);
void model_read(struct guest *g, const struct upper *u);
/* The least epoch at which a domain may be that has lost its region: below those that it said are committed there may
 * be some that held nothing. */
uint64_t model_least(const struct guest *g);
void model_cut(struct guest *g, uint64_t epoch);
/* The guest is taken back to this epoch. */
void model_rewind(struct guest *g, uint64_t epoch);
/* The disks are at the boundary of this epoch. */
void model_on_disk(struct guest *g, uint64_t epoch, const char *when);
/* They are at that of one of these. */
bool model_at_boundary(const struct guest *g, uint64_t from, uint64_t to);
uint32_t packet_fill(struct guest *g, uint8_t *bytes, uint32_t length);
void packet_out(struct guest *g, const uint8_t *bytes, uint32_t length);

/* guest.c */
void guest_init(struct guest *g);
void guest_think(void *arg);
/* What was under way when the engine died is submitted again. */
void guest_resume(struct guest *g);
void guest_attach(struct guest *g);
void zombie_act(struct guest *g);

/* driver.c */
void driver_act(void *arg);
void engine_up(void *arg);
void engine_down(struct checker *c, bool power);
bool driver_finish(struct checker *c);
_Noreturn void driver_stuck(struct checker *c, const char *check);

/* checker.c */
uint64_t checker_run(uint64_t seed, uint64_t *did, bool trace, world_failed *failed);

#endif
