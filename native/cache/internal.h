/* The cache's structures; private to this folder.
 *
 *   cache.c      the instance: transfers, time, shrinking and forgetting, statistics
 *   blocks.c     memory, the table of blocks, allocation and eviction
 *   policy*.c    who gives way
 *   volume.c     operations on a cached volume: reads and writes in memory
 *   fetch.c      reads of the lower volume, and reading ahead
 *   direct.c     operations that the lower volume executes as they are
 *   writeback.c  dirty blocks, flushes, closing
 *   kept.c       memory that outlives the process
 *   huge.c       huge pages for it
 *
 * States of a block, and what each may become. One transition function for each lives in blocks.c or writeback.c.
 *
 *   FREE         on the free list, or never used               > FILLING, CLEAN, DIRTY, RETIRED
 *   RETIRED      above the budget asked for                    > FREE (it grows again)
 *   FILLING      a fetch will bring its content                > CLEAN (it did), FREE (failed), DETACHED
 *   DETACHED     as FILLING, but overtaken by a write: the
 *                fetch ends without a trace                    > FREE
 *   CLEAN        as on the lower volume                        > DIRTY, FREE, DOOMED
 *   DIRTY        newer than on the lower volume                > WRITING, FREE or DOOMED (zeroed, discarded)
 *   WRITING      being written out, unchanged since            > CLEAN, DIRTY (failed), REDIRTIED
 *   REDIRTIED    being written out, and changed since          > DIRTY
 *   DOOMED       forgotten, but a reply points into it         > FREE (at the last unpin)
 *   UNCOMMITTED  kept for an interceptor: dirty, but of an epoch (block.sequence) that is not committed yet, so
 *                neither written out nor evicted               > DIRTY (committed), FREE (rolled back)
 *
 * Only CLEAN blocks without pins are evicted. FILLING to REDIRTIED are in the table and on a list of the policy;
 * DIRTY and REDIRTIED are on their volume's dirty list, oldest first.
 *
 * Who excludes whom on the lower volume, for one volume and overlapping blocks:
 *   a fetch waits for direct writes; a direct write detaches what is being fetched, and waits for write-outs;
 *   a write-out waits for direct writes, and is never of a block being fetched, as that has no content yet.
 * So when a direct write has ended, the lower volume holds its bytes, and the blocks are made to agree. */
#ifndef OR_CACHE_INTERNAL_H
#define OR_CACHE_INTERNAL_H

#include <stdatomic.h>
#include <string.h>

#include "backend/block/block.h"
#include "cache/cache.h"
#include "cache/huge.h"
#include "cache/kept.h"
#include "cache/plant.h"
#include "mem/list.h"

#define OR_CACHE_NOTHING UINT32_MAX
#define OR_CACHE_RUN_MAX 32u       /* blocks of one transfer: 128 KiB */
#define OR_CACHE_VOLUMES_MAX 1024u /* open or being forgotten */
#define OR_CACHE_PLAIN_TRANSFERS 256u
#define OR_CACHE_STREAMS 8u /* sequential readers that a volume can tell apart */

enum or_block_state {
    OR_BLOCK_FREE,
    OR_BLOCK_RETIRED,
    OR_BLOCK_FILLING,
    OR_BLOCK_DETACHED,
    OR_BLOCK_CLEAN,
    OR_BLOCK_DIRTY,
    OR_BLOCK_WRITING,
    OR_BLOCK_REDIRTIED,
    OR_BLOCK_DOOMED,
    OR_BLOCK_UNCOMMITTED,
};

/* Lists of blocks link by index: half the size of pointers. */
enum or_block_links {
    OR_LINKS_POLICY, /* a list of the policy; the free list */
    OR_LINKS_DIRTY,  /* the volume's dirty list */
    OR_LINKS_KINDS
};

struct or_block_list {
    uint32_t first, last, count;
};

struct or_block {
    uint64_t content, number;
    uint64_t dirtied_ns; /* since when it is dirty */
    struct {
        uint32_t previous, next;
    } links[OR_LINKS_KINDS];
    uint32_t chain;    /* next of the bucket */
    uint32_t sequence; /* DIRTY..REDIRTIED: in the order of becoming so */
    uint32_t transfer; /* FILLING: by which */
    uint16_t owner;    /* slot of the volume that brought it in; 0: forgotten */
    uint16_t pins;
    uint8_t state; /* enum or_block_state */
    uint8_t queue; /* the policy's: which of its lists */
    uint8_t uses;  /* the policy's */
    bool own_pool; /* counted in its owner's pool, not in the shared one */
    bool ahead;    /* read ahead and not used yet */
};
static_assert(sizeof(struct or_block) == 64, "1.6 % of what it describes");

/* A block's state as whoever finds the memory of a dead process sees it (kept.h): after all that was stored before. */
static inline void or_block_publish(struct or_block *b, enum or_block_state state)
{
    atomic_signal_fence(memory_order_seq_cst);
    *(volatile uint8_t *)&b->state = (uint8_t)state;
    atomic_signal_fence(memory_order_seq_cst);
    or_cache_step();
}

/* Changes the bytes of a block that is dirty or is to be; a process may die between any two of them. */
static inline void or_block_put(uint8_t *to, const uint8_t *from, uint32_t bytes)
{
#ifdef OR_PLANTS
    for (uint32_t sector = 512; bytes > sector; to += sector, from += sector, bytes -= sector) {
        memcpy(to, from, sector);
        or_cache_step();
    }
#endif
    memcpy(to, from, bytes);
    or_cache_step();
}

/* At the beginning of kept memory. */
struct or_kept_header {
    uint64_t magic;
    uint32_t version, block_bytes, descriptor_bytes, blocks_max;
    uint32_t end; /* no block from here on was ever used */
};
#define OR_KEPT_HEADER 4096u

/* --- policies ------------------------------------------------------------------------------------- */

#define OR_POLICY_QUEUES 2u

/* The queues of a policy that learns, and the list of ghosts of what left each. */
enum or_policy_queue {
    OR_QUEUE_NEW,    /* blocks that have not proven themselves yet */
    OR_QUEUE_PROVEN, /* used again */
};

/* Blocks among which a policy chooses: the shared ones, or those of a volume with a quota. */
struct or_cache_pool {
    struct or_block_list queues[OR_POLICY_QUEUES];
    uint32_t blocks;
    uint32_t blocks_max; /* 0: as many as there are */
    uint32_t target;     /* learnt: how long the queue of new blocks may be */
    uint32_t barren;     /* looked at since one was found that may go */
};

/* Names of evicted blocks, as 32-bit prints in sets of eight: the oldest of a set gives way. */
struct or_cache_ghosts {
    uint32_t *prints;
    uint32_t sets, count;
};

struct or_cache_policy_ops {
    /* A block comes in; hash: of its name. */
    void (*insert)(struct or_cache *cache, struct or_cache_pool *pool, uint32_t i, uint64_t hash);
    /* It is used again. */
    void (*hit)(struct or_cache *cache, struct or_cache_pool *pool, uint32_t i);
    /* Chooses a block that may be evicted and takes it off its lists; OR_CACHE_NOTHING after some tries. */
    uint32_t (*victim)(struct or_cache *cache, struct or_cache_pool *pool);
};
extern const struct or_cache_policy_ops or_cache_lru, or_cache_s3fifo, or_cache_arc;

/* --- transfers: operations on lower volumes --------------------------------------------------------- */

enum or_transfer_kind {
    OR_TRANSFER_FETCH,     /* into blocks; `waiters` go on when it has ended */
    OR_TRANSFER_PIECE,     /* a read for `upper` alone, without blocks */
    OR_TRANSFER_DIRECT,    /* `upper`, or a piece of it, as it is */
    OR_TRANSFER_WRITE_OUT, /* dirty blocks */
    OR_TRANSFER_FLUSH,     /* for all `waiters`; without any: before closing */
};

struct or_transfer {
    struct or_io io;
    struct or_cache_volume *volume;
    struct or_list link;    /* free list, or list of what has ended */
    struct or_list sibling; /* among the volume's of this kind: fetches, directs, write_outs */
    struct or_list waiters; /* operations, by or_io.link */
    struct or_io *upper;
    uint8_t *buffer; /* page-aligned, of cache->buffer_bytes; a volume's own of one block. NULL: a plain transfer */
    uint8_t kind;
    bool told; /* the lower volume has called `failed` for it */
    uint32_t blocks_count;
    uint64_t first;    /* number of the first block, in the volume */
    uint32_t sequence; /* WRITE_OUT: the least of its blocks */
    uint32_t blocks[OR_CACHE_RUN_MAX];
};

/* --- volumes ---------------------------------------------------------------------------------------- */

/* or_io.stage of an operation: what is to be remembered of it between two runs. or_io.progress is how many of
 * its bytes are done; of a flush, the sequence that it waits for. */
enum or_stage {
    OR_STAGE_BACK = 1,    /* a write that goes to memory */
    OR_STAGE_PIECE = 2,   /* the next block is to be had without the cache */
    OR_STAGE_COUNTED = 4, /* in hits and misses */
};

struct or_cache_stream {
    uint64_t next;   /* the block that it would read next */
    uint64_t ahead;  /* read ahead up to here */
    uint64_t used;   /* when, by the volume's count of reads */
    uint32_t window; /* blocks to keep ahead; 0: not known to be sequential */
};

struct or_cache_volume {
    struct or_volume base;
    struct or_volume *lower;
    struct or_cache *cache;
    struct or_cache_volume_config config;
    uint64_t content;
    struct or_list link;                         /* all volumes of the cache */
    struct or_list active;                       /* those with something dirty, flushing or closing, next first */
    struct or_list sweep;                        /* those of whom blocks are to be forgotten */
    struct or_list fetches, directs, write_outs; /* transfers under way */
    struct or_list blocked;                      /* operations that wait for one of these */
    struct or_list flushes;                      /* operations that wait for write-outs, oldest first */
    struct or_block_list dirty;
    struct or_transfer own; /* to write out or flush with when it has no other, whatever the other volumes do */
    uint32_t writing_out;   /* as or_cache.writing_out */
    uint32_t transfers;     /* under way, of any kind */
    uint32_t dirty_blocks;  /* dirty, or being written out */
    uint32_t dirty_blocks_max;
    uint32_t sequence; /* of the next block to become dirty */
    uint16_t slot;
    uint8_t error;    /* enum or_status: a write-out failed, and no flush has heard of it */
    uint8_t failures; /* tries to write out that failed in a row; of a volume that closes, since it does */
    uint64_t retry_ns;
    bool unflushed; /* something that the lower volume got has ended since its last flush began */
    bool closing, closed;
    bool drops;                                                          /* the sweep forgets its clean blocks */
    void (*detached)(void *arg, struct or_volume *lower, uint8_t error); /* it closes, but its lower volume does not */
    void *detached_arg;
    struct or_cache_pool pool; /* with a quota */
    uint64_t last_block;       /* that was used: uses that follow at once are one */
    uint64_t reads;
    struct or_cache_stream streams[OR_CACHE_STREAMS];
    struct or_cache_stats stats;
};

struct or_cache {
    uint64_t bytes, bytes_target, bytes_max;
    uint64_t seed, now_ns;
    /* blocks.c */
    uint8_t *memory; /* of block i: at i * OR_CACHE_BLOCK */
    uint64_t mapped; /* bytes of it that are backed */
    struct or_block *blocks;
    uint32_t *buckets;
    uint32_t limit;  /* blocks there are */
    uint32_t target; /* blocks there shall be; less than limit while shrinking */
    uint32_t limit_max;
    uint32_t fresh; /* blocks from here on were never used */
    uint32_t used;
    uint32_t pinned;
    uint32_t dirty; /* as or_cache_volume.dirty_blocks */
    struct or_block_list free;
    bool huge_pages;
    /* kept.c; header NULL: the memory is this process's alone */
    struct or_kept_header *header;
    int kept_fds[OR_CACHE_FDS];
    bool kept_huge; /* from the hugetlb pool */
    struct or_huge huge;
    /* policy.c */
    const struct or_cache_policy_ops *policy;
    struct or_cache_pool shared;
    struct or_cache_ghosts ghosts[OR_POLICY_QUEUES];
    /* cache.c */
    struct or_transfer *transfers;
    uint8_t *buffers;
    uint32_t transfers_count, buffers_count, buffer_bytes;
    uint32_t writing_out;           /* transfers with a buffer that write out, but volumes' own */
    struct or_list plain, buffered; /* transfers that are free */
    struct or_list starving;        /* operations that wait for one */
    bool released;                  /* one came free since they were looked at */
    struct or_list ended;           /* transfers that have ended and are to be seen to */
    bool working;                   /* somebody up the stack sees to them */
    struct or_list volumes, active, sweeps;
    uint32_t sweep_at, volumes_count;
    uint64_t next_content;
    struct or_cache_volume *slots[OR_CACHE_VOLUMES_MAX];
};

/* --- cache.c ---------------------------------------------------------------------------------------- */

/* A free transfer of v, or NULL. */
struct or_transfer *or_transfer_take(struct or_cache_volume *v, enum or_transfer_kind kind, bool buffered);
/* v's own, or NULL when that is in use; to write out or to flush with. */
struct or_transfer *or_transfer_take_own(struct or_cache_volume *v, enum or_transfer_kind kind);
/* Submits it; it ends in or_cache_settle at the earliest. */
void or_transfer_start(struct or_transfer *t, uint8_t op, uint8_t flags, uint64_t offset, uint32_t length,
                       uint8_t *data);
void or_transfer_release(struct or_transfer *t);
/* io waits for a transfer to come free. */
void or_cache_starve(struct or_cache *cache, struct or_io *io);
/* Brackets whatever is called from outside and may start transfers; returns whether to leave. */
bool or_cache_enter(struct or_cache *cache);
void or_cache_leave(struct or_cache *cache, bool entered);
/* Goes through the blocks step by step: forgets v's clean own ones, if it drops; moves what a quota of v held to the
 * shared ones, if it has none any more; when v is closed, forgets all, and then v itself. */
void or_cache_sweep(struct or_cache_volume *v);

/* --- blocks.c --------------------------------------------------------------------------------------- */

/* Address space on a huge page's boundary, without a promise of memory; NULL: there is none. unreserve(): what of it is
 * mapped goes too; not of NULL. */
void *or_blocks_reserve(uint64_t bytes, int protection);
void or_blocks_unreserve(void *at, uint64_t bytes);
int or_blocks_open(struct or_cache *cache, uint32_t blocks, uint32_t blocks_max, bool kept);
void or_blocks_close(struct or_cache *cache);
/* 0 or -ENOMEM. */
int or_blocks_resize(struct or_cache *cache, uint32_t blocks);
/* Goes on shrinking, a bounded step; false when there is nothing to do or no way to go on now. */
bool or_blocks_shrink(struct or_cache *cache);
/* It has not come to an end with that. */
bool or_blocks_shrinks(const struct or_cache *cache);

static inline uint8_t *or_block_memory(const struct or_cache *cache, uint32_t i)
{
    return cache->memory + (uint64_t)i * OR_CACHE_BLOCK;
}

uint32_t or_block_find(const struct or_cache *cache, uint64_t content, uint64_t number);
/* What or_block_find will read first, and, then in memory, next (or NULL): to be prefetched. */
const void *or_block_bucket(const struct or_cache *cache, uint64_t content, uint64_t number);
const void *or_block_first(const struct or_cache *cache, uint64_t content, uint64_t number);
/* A block of this name, which is in no table yet, in the given state; its memory is undefined. OR_CACHE_NOTHING:
 * none can be evicted. */
uint32_t or_block_allocate(struct or_cache_volume *v, uint64_t content, uint64_t number, enum or_block_state state);
/* Takes a block out of the table and frees it, now or with its last pin. It is not on a dirty list. */
void or_block_drop(struct or_cache *cache, uint32_t i);
/* FILLING to DETACHED. */
void or_block_detach(struct or_cache *cache, uint32_t i);
/* A block that is in no table becomes free. */
void or_block_free(struct or_cache *cache, uint32_t i);
void or_block_unpin(struct or_cache *cache, uint32_t i);
static inline bool or_block_evictable(const struct or_cache *cache, uint32_t i)
{
    const struct or_block *b = &cache->blocks[i];
    bool clean =
        b->state == OR_BLOCK_CLEAN || (OR_CACHE_PLANTED(OR_CACHE_PLANT_DIRTY_EVICTED) && b->state == OR_BLOCK_DIRTY);
    return clean && (!b->pins || OR_CACHE_PLANTED(OR_CACHE_PLANT_PIN_IGNORED));
}

void or_blocks_append(struct or_cache *cache, struct or_block_list *list, uint32_t i, enum or_block_links kind);
void or_blocks_prepend(struct or_cache *cache, struct or_block_list *list, uint32_t i, enum or_block_links kind);
/* In front of block `before`; OR_CACHE_NOTHING: at the end. */
void or_blocks_insert(struct or_cache *cache, struct or_block_list *list, uint32_t i, uint32_t before,
                      enum or_block_links kind);
void or_blocks_remove(struct or_cache *cache, struct or_block_list *list, uint32_t i, enum or_block_links kind);

/* --- kept.c ----------------------------------------------------------------------------------------- */

/* Makes the memory, and maps the descriptors of blocks. memory_first: what will be backed at once, bytes. 0 or
 * -errno. */
int or_kept_open(struct or_cache *cache, uint64_t memory_first, uint64_t memory_max);
uint64_t or_kept_index_bytes(const struct or_cache *cache);
void or_kept_close(struct or_cache *cache);

/* --- policy.c --------------------------------------------------------------------------------------- */

struct or_cache_pool *or_pool_of(struct or_cache *cache, uint32_t i);
void or_policy_use(struct or_cache *cache, uint32_t i);
void or_policy_remove(struct or_cache *cache, uint32_t i);
/* A block that may be evicted, off its lists: that which the policy chooses, or else any. OR_CACHE_NOTHING after some
 * tries; the next call goes on from there, and when all of the pool was looked at it is barren. */
uint32_t or_policy_victim(struct or_cache *cache, struct or_cache_pool *pool);
bool or_policy_barren(const struct or_cache_pool *pool);
/* To the head of a queue, from whichever it is in; and from none. */
void or_policy_move(struct or_cache *cache, struct or_cache_pool *pool, uint32_t i, uint8_t queue);
void or_policy_enqueue(struct or_cache *cache, struct or_cache_pool *pool, uint32_t i, uint8_t queue);
/* An insert of struct or_cache_policy_ops: what is new comes to one queue, what left the cache a short while ago to the
 * other, and pool->target, the length that the first may have, is learnt from where that had been. */
void or_policy_insert(struct or_cache *cache, struct or_cache_pool *pool, uint32_t i, uint64_t hash);
void or_ghost_add(struct or_cache *cache, uint8_t list, uint64_t hash);
/* True when it was there; it is not any more. */
bool or_ghost_take(struct or_cache *cache, uint8_t list, uint64_t hash);
uint64_t or_block_hash(const struct or_cache *cache, uint64_t content, uint64_t number);

/* --- volume.c --------------------------------------------------------------------------------------- */

extern const struct or_backend_ops or_cache_volume_ops;

static inline struct or_cache_volume *or_cache_volume_of(const struct or_volume *volume)
{
    return (struct or_cache_volume *)volume;
}

/* Goes on with an operation until it has ended or waits. */
void or_cache_run(struct or_io *io);
/* Runs all that is on the list now. */
void or_cache_run_list(struct or_list *list);
/* The block that holds the volume's block `number` now: its own, or a shared one. */
uint32_t or_cache_lookup(struct or_cache_volume *v, uint64_t number);
/* How many bytes of the volume lie in its block `number`: fewer than a block only at the end. */
static inline uint32_t or_cache_block_bytes(const struct or_cache_volume *v, uint64_t number)
{
    uint64_t left = v->base.size - number * OR_CACHE_BLOCK;
    return left < OR_CACHE_BLOCK ? (uint32_t)left : OR_CACHE_BLOCK;
}
/* Too large to be worth keeping: it would push out a good part of what is there. */
static inline bool or_cache_is_large(const struct or_cache *cache, uint32_t length)
{
    return length / OR_CACHE_BLOCK > cache->limit / 8;
}
static inline uint64_t or_io_end(const struct or_io *io)
{
    return io->offset + io->length;
}

/* --- fetch.c ---------------------------------------------------------------------------------------- */

enum or_fetch_result {
    OR_FETCH_STARTED,   /* the first block is FILLING now */
    OR_FETCH_STARVED,   /* no transfer is free */
    OR_FETCH_NO_MEMORY, /* no block is free */
    OR_FETCH_BLOCKED,   /* by a direct write */
};

/* Fetches the missing blocks of [number, end), or of its beginning. `number` is missing. */
enum or_fetch_result or_fetch(struct or_cache_volume *v, uint64_t number, uint64_t end);
void or_fetch_ended(struct or_transfer *t);
/* Reads what comes next of io, a read, past the cache: as far as blocks are missing. */
void or_fetch_piece(struct or_cache_volume *v, struct or_io *io);
void or_fetch_piece_ended(struct or_transfer *t);
/* A read of [first, end): notes it, and reads ahead where that seems of use. */
void or_fetch_ahead(struct or_cache_volume *v, uint64_t first, uint64_t end);

/* --- direct.c --------------------------------------------------------------------------------------- */

/* A direct write of v overlaps these blocks. */
bool or_direct_overlaps(const struct or_cache_volume *v, uint64_t first, uint64_t end);
/* Executes `length` bytes of io from its progress on below; `copied`: by way of a buffer, as what io points to at
 * that place may not be aligned. */
void or_direct(struct or_cache_volume *v, struct or_io *io, uint32_t length, bool copied);
void or_direct_ended(struct or_transfer *t);

/* --- writeback.c ------------------------------------------------------------------------------------ */

/* Another block may become dirty. */
bool or_dirty_room(const struct or_cache_volume *v);
/* The content of an own block, CLEAN or dirty in any way, has changed. */
void or_dirty_mark(struct or_cache_volume *v, uint32_t i);
/* A DIRTY block need not be written out any more. */
void or_dirty_forget(struct or_cache_volume *v, uint32_t i);
/* io, a flush or the end of a write with OR_REQ_FUA, ends when all that is dirty now is durable. */
void or_flush(struct or_cache_volume *v, struct or_io *io);
void or_flush_ended(struct or_transfer *t);
void or_write_out_ended(struct or_transfer *t);
/* Starts what is due: write-outs, flushes, the end. Returns whether it began to write out. */
bool or_writeback_pump(struct or_cache_volume *v);
/* When it wants to be pumped next; UINT64_MAX: it needs no time. */
uint64_t or_writeback_due(const struct or_cache_volume *v);
void or_writeback_activate(struct or_cache_volume *v);
/* The volume closes: all that is dirty is written out now. */
void or_writeback_close(struct or_cache_volume *v);

#endif
