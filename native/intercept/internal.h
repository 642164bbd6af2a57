/* The interceptor's structures; private to this folder.
 *
 *   hold.c      the region: its layout, free slots, polling
 *   slots.c     held blocks: the index, writing into them, laying them over what was read
 *   volume.c    operations on a volume of a domain
 *   packets.c   held packets, and their release
 *   batch.c     many operations on volumes below as one
 *   journal.c   entries and superblocks
 *   domain.c    epochs: cut, commit, fence, abort
 *   apply.c     committed epochs into the volumes below, and freed
 *   recover.c   taking up what the region and the journal have
 *
 * Everything that has to wait is level-triggered: or_domain_pump() calls one step function after the other, each of
 * which looks at the state and does what can be done; whoever changes the state pumps.
 *
 * The region: a header and the records of domains (two pages), the table of slots, the pages. Slot i describes page
 * i. All that is in it is stored so that a crash between any two instructions leaves it right:
 *
 *   FREE ──bytes, then all fields, then──> HELD ──────> FREE
 *                                          HELD ──> BUSY ──bytes, then mask, then checksum──> HELD
 *
 * A BUSY slot, of the open epoch, keeps what it held: the bytes that change are those of a write that has not ended.
 * What links slots to each other is not in the region but made anew when it is taken up. */
#ifndef OR_INTERCEPT_INTERNAL_H
#define OR_INTERCEPT_INTERNAL_H

#include "backend/block/block.h"
#include "intercept/intercept.h"
#include "intercept/plant.h"
#include "mem/list.h"

#define OR_HOLD_NOTHING UINT32_MAX
#define OR_HOLD_SECTOR 512u
#define OR_HOLD_MASK_ALL 0xffu
#define OR_HOLD_RECORDS_PAGES 2u
#define OR_BATCH_IOS 16u
#define OR_BATCH_RUN_MAX 32u             /* pages of one operation: 128 KiB */
#define OR_DOMAIN_READS 128u             /* of a domain, at the volumes below */
#define OR_JOURNAL_SUPERS 2u             /* pages in front of the ring */
#define OR_EPOCH_MAX (UINT64_C(1) << 62) /* that is believed; likewise positions in a journal */
#define OR_EPOCH_UNCUT UINT64_MAX        /* one that is not cut yet */

/* --- the region ------------------------------------------------------------------------------------- */

enum or_hold_slot_state { OR_SLOT_FREE, OR_SLOT_HELD, OR_SLOT_BUSY };

/* Also in the journal, but for PACKETS. */
enum or_hold_kind {
    OR_HELD_WRITE = 1,   /* the sectors of the mask are in the page */
    OR_HELD_ZEROES = 2,  /* they are zero; the page means nothing */
    OR_HELD_PACKETS = 3, /* a page of the epoch's log of packets */
};

struct or_hold_slot {
    uint64_t object; /* id of the volume */
    uint64_t block;  /* of 4 KiB, in the volume; PACKETS: of the epoch's log */
    uint64_t epoch;
    uint64_t checksum; /* WRITE: of the page, see or_page_checksum */
    uint64_t bytes;    /* PACKETS, block 0: length of the log; what is behind it was not taken */
    uint64_t released; /* likewise: how much of it has gone out */
    uint32_t domain;   /* index of its record */
    uint8_t kind, mask, state, spare[1];
    uint64_t spare2;
};
static_assert(sizeof(struct or_hold_slot) == 64, "layout of the region");

enum or_hold_record_state {
    OR_RECORD_NEW = 0, /* nothing in the region is of it */
    OR_RECORD_RUNNING = 1,
    OR_RECORD_ABORTING = 2, /* what is not committed is being freed */
    OR_RECORD_REWIND = 3,
};

/* A domain. id 0: none. */
struct or_hold_record {
    uint64_t id, journal_id;
    uint64_t open;      /* the open epoch */
    uint64_t committed; /* the last that is known to be */
    uint64_t state;     /* enum or_hold_record_state */
    uint64_t durable;   /* the last that is known to have an entry in the journal, and that synced */
    uint64_t exposed;   /* more is out than the last checkpoint knows of, until this epoch is committed */
    uint64_t spare[9];
};
static_assert(sizeof(struct or_hold_record) == 128, "layout of the region");

struct or_hold_header {
    uint64_t magic;
    uint32_t version, slots;
    uint64_t bytes;
    uint64_t spare[13];
};
static_assert(sizeof(struct or_hold_header) == 128, "layout of the region");

struct or_slot_links {
    uint32_t next;  /* of the epoch */
    uint32_t chain; /* of the bucket: newest slots of other blocks */
    uint32_t older; /* the same block in an older epoch */
};

struct or_hold {
    struct or_hold_header *header;
    struct or_hold_record *records;
    struct or_hold_slot *slots;
    uint8_t *pages;
    struct or_slot_links *links;
    uint32_t *buckets;
    uint32_t buckets_mask, slots_count;
    uint32_t *free; /* a ring, so that what is taken in turn lies in turn */
    uint32_t free_first, free_count;
    uint64_t seed;
    struct or_list domains;
    bool kept;
};

static inline uint8_t *or_hold_page(const struct or_hold *hold, uint32_t i)
{
    return hold->pages + (uint64_t)i * OR_HOLD_PAGE;
}

/* A store to the region that no earlier store may pass. */
#define OR_HOLD_STORE(field, value)                                                                                    \
    do {                                                                                                               \
        OR_INTERCEPT_KILL_POINT();                                                                                     \
        __atomic_store_n(&(field), value, __ATOMIC_RELEASE);                                                           \
        OR_INTERCEPT_KILL_POINT();                                                                                     \
    } while (0)

/* Of the caller; OR_HOLD_NOTHING: there is none. Its state stays FREE until it is published. */
uint32_t or_hold_take(struct or_hold *hold);
void or_hold_give(struct or_hold *hold, uint32_t i);

/* --- batches ---------------------------------------------------------------------------------------- */

struct or_batch;
struct or_batch_io {
    struct or_io io;
    struct or_batch *batch;
    uint32_t index;
};

struct or_batch {
    struct or_domain *domain;
    /* Fills io (op, offset, length, data) and returns the volume that it is for; NULL: there is no more, or, with
     * batch->status set, it cannot go on. */
    struct or_volume *(*next)(struct or_batch *batch, uint32_t index, struct or_io *io);
    /* Optional: one of them ended well. */
    void (*each)(struct or_batch *batch, uint32_t index);
    /* All have ended; batch->status: OR_OK or the first that was not. */
    void (*ended)(struct or_batch *batch);
    uint32_t busy; /* a bit for each */
    uint8_t status;
    bool running, going, exhausted;
    struct or_batch_io ios[OR_BATCH_IOS];
};

void or_batch_start(struct or_batch *batch);

/* --- the journal ------------------------------------------------------------------------------------ */

/* The first 128 bytes of pages 0 and 1, in turn; the one with the higher sequence counts. Positions count pages ever
 * written to the ring: page OR_JOURNAL_SUPERS + position % ring. */
struct or_super {
    uint64_t magic, journal_id, sequence;
    uint64_t domain;
    uint64_t tail;    /* position of the entry of epoch applied + 1 */
    uint64_t applied; /* all epochs up to this one are durable in the volumes */
    uint64_t generation;
    uint64_t fenced; /* entries of later epochs count only with this generation */
    uint64_t spare[7];
    uint64_t checksum; /* of what is before */
};
static_assert(sizeof(struct or_super) == 128, "layout of the journal");

struct or_entry {
    uint64_t magic, journal_id, epoch, generation, position;
    uint32_t count, pages; /* entries of the table; pages behind it */
    uint64_t empty;        /* so many epochs before this one have no entry */
    uint64_t checksum;     /* of the header before this and the table */
};
static_assert(sizeof(struct or_entry) == 64, "layout of the journal");

struct or_entry_block {
    uint64_t volume, block, checksum;
    uint8_t kind, mask, spare[6];
};
static_assert(sizeof(struct or_entry_block) == 32, "layout of the journal");

static inline uint64_t or_entry_header_pages(uint64_t count)
{
    return (sizeof(struct or_entry) + count * sizeof(struct or_entry_block) + OR_HOLD_PAGE - 1) / OR_HOLD_PAGE;
}

struct or_journal {
    struct or_volume *volume;
    uint64_t ring;               /* pages */
    struct or_super super;       /* the one that is durable */
    struct or_super next;        /* the one that is being written */
    bool marking;                /* `next` is on its way */
    bool mark_written;           /* and waits for a sync */
    bool syncing;                /* the commit wants a sync, or it is under way */
    bool sync_busy;              /* one is under way, */
    bool sync_commit, sync_mark; /* for these */
    bool condemned;
    void (*marked)(struct or_domain *domain, bool ok);
    uint64_t head;           /* position behind what is written */
    uint64_t committed_head; /* behind what is durable */
    uint64_t written;        /* the last epoch that is written */
    uint64_t last, durable;  /* the last one with an entry that is written; that is synced */
    uint64_t syncing_to;
    uint8_t *super_page;
    uint8_t *staging; /* header and table of the entry at hand */
    uint64_t staging_pages;
    struct or_io mark_io, sync_io;
    struct or_batch batch; /* writes the entry */
    struct {
        uint64_t epoch, position;
        uint64_t header_pages, header_at;
        uint32_t slot;
    } entry;
};

uint64_t or_page_checksum(const uint8_t *page, uint64_t volume, uint64_t block, uint64_t epoch);
uint64_t or_super_checksum(const struct or_super *super);
uint64_t or_entry_checksum(const struct or_entry *entry);
static inline struct or_entry_block *or_entry_table(struct or_entry *entry)
{
    return (struct or_entry_block *)(entry + 1);
}
/* The byte of the journal's volume where the page of this position is. */
static inline uint64_t or_journal_offset(const struct or_journal *j, uint64_t position)
{
    return (OR_JOURNAL_SUPERS + position % j->ring) * OR_HOLD_PAGE;
}
/* Of `pages` from position on, those up to the end of the ring. */
static inline uint64_t or_journal_run(const struct or_journal *j, uint64_t position, uint64_t pages)
{
    uint64_t left = j->ring - position % j->ring;
    return pages < left ? pages : left;
}

/* Writes the epoch behind the last one. False: no room. */
bool or_journal_write(struct or_domain *d, uint64_t epoch);
bool or_journal_can_ever(const struct or_domain *d, uint64_t epoch);
void or_journal_sync(struct or_domain *d);
/* What is written is committed, and there was nothing to sync. */
void or_journal_nothing(struct or_domain *d);
/* Makes j->next, which the caller filled, the superblock, with one sync; one at a time. */
void or_journal_mark(struct or_domain *d, void (*marked)(struct or_domain *domain, bool ok));
static inline bool or_journal_idle(const struct or_journal *j)
{
    return !j->batch.running && !j->syncing;
}

/* --- domains ---------------------------------------------------------------------------------------- */

struct or_epoch_slots {
    uint32_t first, last, count;
};

struct or_epoch {
    struct or_epoch_slots blocks;
    struct or_epoch_slots packets; /* pages of its log, in order */
    uint64_t journal_end;          /* position behind its entry */
    uint32_t log_end;              /* the page of its log where the next packet begins */
    bool entry;                    /* it is in the journal */
};

struct or_held_volume {
    struct or_domain *domain;
    uint64_t id;
    struct or_volume *lower;
    struct or_list link, doors;
    bool unflushed;
};

struct or_door {
    struct or_volume base;
    struct or_held_volume *volume;
    uint64_t generation;
    struct or_list link;
};

struct or_held_read {
    struct or_io io;
    struct or_io *upper;
    struct or_domain *domain;
    uint64_t number;
    struct or_list link; /* free, or under way, oldest first */
};

enum or_apply_phase { OR_APPLY_IDLE, OR_APPLY_WRITE, OR_APPLY_FLUSH, OR_APPLY_FLUSHED, OR_APPLY_WHOLE, OR_APPLY_MARK };

struct or_recovery;

struct or_domain {
    struct or_hold *hold;
    struct or_domain_config config;
    struct or_list link;
    struct or_hold_record *record; /* NULL: none yet */
    uint32_t index;
    enum or_domain_state state;
    uint64_t now_ns;
    bool pumping, again, halted;
    /* Epochs: freed < released, settled <= committed < open, but for released and settled, which may be either.
     * settled: what is up to there is applied, and the superblock says so; or it is nothing. */
    uint64_t open, committed, released, settled, freed;
    struct or_epoch epochs[OR_DOMAIN_EPOCHS]; /* of epoch n: n % OR_DOMAIN_EPOCHS */
    uint32_t slots, slots_max;
    bool overflow_told;
    bool release_blocked;
    struct or_journal journal;
    struct or_recovery *recovery; /* OPENING */
    /* domain.c */
    uint64_t goal; /* to be committed */
    struct or_list commits;
    uint64_t generation;
    struct or_fence *fence;
    bool fencing_mark; /* its superblock is being written */
    bool fenced;       /* see or_domain_abort */
    /* apply.c */
    struct {
        enum or_apply_phase phase;
        uint64_t epoch, to;    /* that is being written; the last that may be in the part at hand */
        uint64_t begun, whole; /* the last of which anything may be below; up to which all is, and nothing older */
        uint64_t reads;        /* the last read that began before the part was below */
        uint32_t pauses;
        uint32_t left; /* slots that the part may still have */
        uint32_t slot; /* the next of the epoch */
        uint8_t mask;  /* what of that slot is still to be written */
        uint64_t retry_ns;
        uint32_t failures;
        struct or_batch batch;
    } apply;
    /* volume.c */
    struct or_list volumes;
    struct or_list writes_waiting, reads_waiting; /* operations */
    struct or_held_read reads[OR_DOMAIN_READS];
    struct or_list reads_free, reads_open;
    uint64_t reads_begun;
    struct or_domain_info info; /* its counters */
    uint8_t *bounce;            /* a packet that lies in several pages */
};

static inline struct or_epoch *or_domain_epoch(struct or_domain *d, uint64_t epoch)
{
    return &d->epochs[epoch % OR_DOMAIN_EPOCHS];
}

/* Such an epoch needs no entry in the journal. */
static inline bool or_epoch_empty(const struct or_epoch *epoch)
{
    bool packets = epoch->packets.count && !OR_INTERCEPT_PLANTED(OR_INTERCEPT_PLANT_PACKETS_NOTHING);
    return !epoch->blocks.count && !packets && !epoch->entry;
}

/* --- domain.c --------------------------------------------------------------------------------------- */

/* Only then anything new may begin. */
static inline bool or_domain_runs(const struct or_domain *d)
{
    return d->state == OR_DOMAIN_RUNNING && !d->halted;
}

/* A fence is under way, or failed: what has the new generation waits. */
static inline bool or_domain_fencing(const struct or_domain *d)
{
    return d->fence || d->generation != d->journal.super.generation;
}

void or_domain_pump(struct or_domain *d);
/* Frees all of it, and touches neither the region nor the index. */
void or_domain_discard(struct or_domain *d);
/* A slot for it, within its bounds; else OR_HOLD_NOTHING, and overflow is told. */
uint32_t or_domain_take(struct or_domain *d);
/* Frees what the list has before this slot; OR_HOLD_NOTHING: all. */
void or_domain_free(struct or_domain *d, struct or_epoch_slots *slots, uint32_t end);
void or_domain_trouble(struct or_domain *d, enum or_domain_trouble what);
/* The journal wrote an entry, or synced. */
void or_domain_journaled(struct or_domain *d, bool ok);

/* --- slots.c ---------------------------------------------------------------------------------------- */

void or_epoch_append(struct or_hold *hold, struct or_epoch_slots *slots, uint32_t i);
/* False: the index has a slot of the same block and epoch, too. */
bool or_index_insert(struct or_hold *hold, uint32_t i);
void or_index_remove(struct or_hold *hold, uint32_t i);
uint32_t or_index_find(const struct or_hold *hold, uint64_t volume, uint64_t block);
/* Holds sectors of a block in the open epoch: those of the mask, which are neighbours, from `data`; NULL: zeroes.
 * False: no room. */
bool or_held_write(struct or_domain *d, uint64_t volume, uint64_t block, uint8_t mask, const uint8_t *data);
/* How much of [offset, offset + length) is held: 0 nothing, 1 some, 2 all. */
int or_held_covers(const struct or_hold *hold, uint64_t volume, uint64_t offset, uint32_t length);
/* Lays what is held over it. */
void or_held_overlay(const struct or_hold *hold, uint64_t volume, uint64_t offset, uint32_t length, uint8_t *data);
/* The sectors of block `block` that [offset, offset + length) has. */
static inline uint8_t or_held_mask(uint64_t block, uint64_t offset, uint64_t length)
{
    uint64_t begin = block * OR_HOLD_PAGE, end = begin + OR_HOLD_PAGE;
    uint64_t from = offset > begin ? offset - begin : 0;
    uint64_t to = (offset + length < end ? offset + length : end) - begin;
    return (uint8_t)((1u << to / OR_HOLD_SECTOR) - (1u << from / OR_HOLD_SECTOR));
}

/* --- volume.c, packets.c, apply.c, recover.c ---------------------------------------------------------- */

struct or_held_volume *or_domain_volume(struct or_domain *d, uint64_t id);
/* Operations that wait go on, or are refused. */
void or_doors_step(struct or_domain *d);
void or_release_step(struct or_domain *d);
/* The log of an epoch is what its checksums say. */
bool or_packets_valid(struct or_domain *d, const struct or_epoch *epoch);
void or_apply_step(struct or_domain *d);
/* Epochs that are applied and released are over. */
void or_retire_step(struct or_domain *d);
/* 0 or -ENOMEM. */
int or_recover_start(struct or_domain *d);
void or_recover_step(struct or_domain *d);
/* The journal failed meanwhile. */
void or_recover_failed(struct or_domain *d);
void or_recover_free(struct or_domain *d);

#endif
