/* The block cache: memory in front of volumes, shared by all that are put on it.
 *
 * A cached volume is a volume (backend/backend.h) stacked on another one, the lower volume, which it owns. What
 * is read stays in blocks of 4 KiB of one memory budget; a hit costs no system call, and a read within one block
 * is answered out of the block itself (peek). docs/cache.md draws the states of a block and tells what the modes
 * promise.
 *
 * Keys. A block is named by (content, number): the content is the identity of what it belongs to, a volume of
 * its own or a base layer that several volumes share, so that one finds what another has read. Where a volume's
 * blocks come from says `map`; without one they are all its own.
 *
 * One thread. An instance and its volumes belong to the thread that polls it. Nothing is global, so there may be
 * several in a process. Nothing is allocated after or_cache_create() but for each volume.
 *
 * As with every back-end, of two operations that overlap and of which one writes, only one may be under way;
 * they may share a block of 4 KiB as long as they do not share a byte. */
#ifndef OR_CACHE_H
#define OR_CACHE_H

#include "backend/backend.h"

#define OR_CACHE_BLOCK 4096u
#define OR_CACHE_BYTES_MIN (1ull << 20)

enum or_cache_policy {
    OR_CACHE_S3FIFO, /* the default: nothing moves on a hit, scans pass, and it adapts */
    OR_CACHE_ARC,    /* two LRU queues that adapt */
    OR_CACHE_LRU,    /* the yardstick */
    OR_CACHE_POLICIES
};

enum or_cache_mode {
    OR_CACHE_NONE,          /* passes by, coherently; keeps nothing new */
    OR_CACHE_WRITE_THROUGH, /* a write ends when the lower volume has it */
    OR_CACHE_WRITE_BACK,    /* a write ends in memory; a flush makes it durable */
    OR_CACHE_MODES
};

/* Their names in configuration and output; NULL for another number. */
const char *or_cache_policy_name(enum or_cache_policy policy);
const char *or_cache_mode_name(enum or_cache_mode mode);

struct or_cache_config {
    uint64_t bytes;     /* the budget of everything: blocks, what describes them, buffers */
    uint64_t bytes_max; /* what the budget may grow to later: costs address space, not memory; at least `bytes` */
    enum or_cache_policy policy;
    uint64_t seed; /* secret, so that no guest can choose blocks that collide */
    bool kept;     /* its memory can outlive the process: kept.h */
};

struct or_cache_volume_config {
    enum or_cache_mode mode;
    /* Identity of the volume's own content, at one open volume at a time; 0: the instance takes one that nobody else
     * has. */
    uint64_t content;
    uint64_t quota;          /* bytes: a part of its own, no more and, while others have any, no less; 0: shares */
    uint64_t dirty_max;      /* write-back: bytes not yet written out; 0: a quarter of the budget */
    uint64_t dirty_age_ns;   /* write-back: how long a block may wait to be written out; 0: 5 s */
    uint64_t read_ahead_max; /* bytes ahead of a sequential stream; 0: none */
    /* enum or_status: not OR_OK when a write-out failed and no flush has heard of it (or_cache_detach): the first does.
     */
    uint8_t error;
    /* Optional. Which block of which content the volume's block `number` is now. Its own content must be named
     * for a block from, at the latest, the end of the first write to it on, and then with the same number. */
    void (*map)(void *arg, uint64_t number, uint64_t *content, uint64_t *content_number);
    void *map_arg;
    /* Optional. The volume, closed, has written out what it could and closed the lower one; `lost`: acknowledged
     * bytes that could not be written. */
    void (*closed)(void *arg, uint64_t lost);
    void *closed_arg;
};

/* Since the volume was made, but for those that say "now". Blocks are counted per operation: reading 8 KiB is
 * two hits or misses. */
struct or_cache_stats {
    uint64_t hits, misses;
    uint64_t shared_hits;                     /* hits in what another volume had read: storage reads saved by sharing */
    uint64_t evictions;                       /* blocks that gave way to others */
    uint64_t bypassed;                        /* operations too large to be cached */
    uint64_t fetches, fetched;                /* reads of the lower volume, and blocks they brought */
    uint64_t ahead, ahead_used, ahead_wasted; /* blocks read ahead; used later; evicted unused */
    uint64_t written_out, write_outs;         /* dirty blocks written out, and in how many operations */
    uint64_t write_errors;                    /* operations of these that failed; they are tried again */
    uint64_t throttled;                       /* writes that went past the cache, which had no room for dirty blocks */
    uint64_t blocks, dirty, pinned;           /* now */
};

struct or_cache_info {
    uint64_t bytes, bytes_target; /* the budget in force, and that asked for: it shrinks as blocks come free */
    uint64_t blocks, blocks_max;  /* in use now; that the budget in force holds */
    uint64_t metadata_bytes;      /* of the budget: all that is not content of blocks */
    uint32_t volumes;
    uint64_t huge_bytes; /* of the blocks' memory: in huge pages, of the hugetlb pool or made so (huge.h) */
};

struct or_cache;

/* NULL with *err: -EINVAL (a budget below OR_CACHE_BYTES_MIN, bytes_max below bytes, an unknown policy), -ENOMEM. */
struct or_cache *or_cache_create(const struct or_cache_config *config, int *err);
/* Frees all, kept memory (kept.h) too unless something is dirty. Volumes still there lose what they have not written
 * out, and their lower volumes, which must have nothing in flight, are closed. In good order comes after all volumes
 * are closed and or_cache_volumes() is 0. */
void or_cache_destroy(struct or_cache *cache);

/* Changes the budget, within OR_CACHE_BYTES_MIN .. bytes_max; more is cut. It grows at once and shrinks in
 * or_cache_poll, as blocks can be evicted: those that are pinned or dirty only later. 0 or -ENOMEM (unchanged). */
int or_cache_resize(struct or_cache *cache, uint64_t bytes);

/* Once per loop iteration: what has time to do (writes out what is old, shrinks, forgets). now_ns: a monotonic
 * clock. Returns when it wants to be called again at the latest, UINT64_MAX: nothing waits for time. */
uint64_t or_cache_poll(struct or_cache *cache, uint64_t now_ns);
/* Volumes that are open, or closed and not yet done with. */
uint32_t or_cache_volumes(const struct or_cache *cache);
void or_cache_read_info(const struct or_cache *cache, struct or_cache_info *info);
/* Blocks that a new volume with this quota (0: none) gets for certain, for none of which another one has to go. */
uint64_t or_cache_room(const struct or_cache *cache, uint64_t quota);

/* Puts a volume on the cache. `lower` belongs to it from now on, its `failed` and `owner` too; `failed` of the
 * volume returned is called for all that fails below, also for write-outs that no request waits for. It is closed
 * like any volume (ops->close, with no operation in flight): then it writes out what is dirty, and closes the lower
 * volume and calls `closed` when that is done; until then or_cache_poll must go on.
 * NULL with *err: -EINVAL (an unknown mode), -ENOMEM, -ENOSPC (too many volumes), -EEXIST (another volume has this
 * content), -EAGAIN (one that was closed or detached had it, and is not forgotten yet: its blocks may differ from what
 * the storage has become since. or_cache_poll goes on with it). */
struct or_volume *or_cache_volume(struct or_cache *cache, struct or_volume *lower,
                                  const struct or_cache_volume_config *config, int *err);

/* Of these, `volume` came from or_cache_volume().
 *
 * Takes the mode, the quota, dirty_max, dirty_age_ns and read_ahead_max of *config. The new mode is that of later
 * operations; what is dirty then is written out in its time. A smaller quota is reached as blocks come in, and without
 * one the blocks join the shared ones, step by step in or_cache_poll. */
void or_cache_configure(struct or_volume *volume, const struct or_cache_volume_config *config);
/* As closing it, but the lower volume stays open and is given back to done(), which is called, now or later, when all
 * is written out and flushed; `error` as in or_cache_volume_config. When the storage fails three times in a row, lower
 * is NULL and the volume is as it was before, so that nothing is lost. */
void or_cache_detach(struct or_volume *volume, void (*done)(void *arg, struct or_volume *lower, uint8_t error),
                     void *arg);
/* The volume is cut: from now on what is written to it is `content`, at nobody's yet (or_cache_check_content), and
 * `map` says where its blocks are until then. `lower`, which may be another one than before, is the lower volume now;
 * the one before is whoever's this one makes it. To be called on a volume that is held (or_volume_hold), after a flush
 * that ended well, when it is idle. */
void or_cache_cut(struct or_volume *volume, struct or_volume *lower, uint64_t content,
                  void (*map)(void *arg, uint64_t number, uint64_t *content, uint64_t *content_number), void *map_arg);
/* Nothing is dirty, and nothing under way, not even reading ahead, which a volume that is held does not begin. */
bool or_cache_idle(const struct or_volume *volume);
/* Whether the content may be a volume's own: 0, or -EEXIST or -EAGAIN as from or_cache_volume(). */
int or_cache_check_content(const struct or_cache *cache, uint64_t content);
struct or_volume *or_cache_lower(const struct or_volume *volume);
/* A flush that was not the guest's has failed: its next one does too, as if that had not been. */
void or_cache_owe(struct or_volume *volume, uint8_t status);
/* Forgets the clean blocks of the volume's own content, step by step in or_cache_poll. */
void or_cache_drop(struct or_volume *volume);
void or_cache_read_stats(const struct or_volume *volume, struct or_cache_stats *stats);

#endif
