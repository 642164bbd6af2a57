/* Memory of a cache that outlives its process: two memfds that somebody else holds as well (or_cache_memory). When the
 * process is killed they hold every dirty block: whoever has them then finds the writes that were acknowledged and not
 * written out.
 *
 *     the first   header │ descriptors of blocks, as in memory (struct or_block)
 *     the second  the blocks
 *
 * A block is in order at any instruction: its bytes are there before its state says that it is dirty, and no longer
 * dirty only once the storage has them. A write that was not acknowledged may be there in part. */
#ifndef OR_CACHE_KEPT_H
#define OR_CACHE_KEPT_H

#include "cache/cache.h"

#define OR_CACHE_FDS 2u

/* Of a cache whose configuration says `kept`; they stay the cache's. */
void or_cache_memory(const struct or_cache *cache, int fds[OR_CACHE_FDS]);

/* What a dead cache left. Any thread, one at a time. */
struct or_cache_heritage;

/* Takes the descriptors over. NULL with *err, and they stay the caller's: -EPROTO (of another version, or no such
 * memory: nobody can tell what is in it), -ENOMEM, or what a system call said. Whoever used the memory must be dead.
 * Memory that holds nothing dirty is given back at once. */
struct or_cache_heritage *or_cache_heritage_open(const int fds[OR_CACHE_FDS], int *err);
void or_cache_heritage_close(struct or_cache_heritage *heritage);
/* Dirty bytes that no volume has taken. */
uint64_t or_cache_heritage_bytes(const struct or_cache_heritage *heritage);
/* Dirty blocks of this content that no volume has taken. */
uint32_t or_cache_heritage_count(const struct or_cache_heritage *heritage, uint64_t content);
/* Nobody is to have what no volume has taken, but for what a drain is writing out right now: of this content; of all
 * for 0. How many bytes that is. */
uint64_t or_cache_heritage_give_up(struct or_cache_heritage *heritage, uint64_t content);
/* Borrowed. */
void or_cache_heritage_memory(const struct or_cache_heritage *heritage, int fds[OR_CACHE_FDS]);

/* The volume, which is on a cache and has had no operation yet, takes the dirty blocks of `content` as its own: of its
 * own content; or of the layer below its own, then but for those that it has itself. False: no block is free for the
 * next; again, after or_cache_poll. A process that is killed meanwhile leaves each block in the one memory, or in both
 * with the same bytes. */
bool or_cache_inherit(struct or_volume *volume, struct or_cache_heritage *heritage, uint64_t content);

/* The same for a volume that is on no cache, and has had no operation yet: its storage gets what it is to have, block
 * by block, before anybody uses it. A block is in the memory until the storage has it. Of *config content and map
 * count. NULL: out of memory. */
struct or_cache_drain;
struct or_cache_drain *or_cache_drain_create(struct or_volume *volume, const struct or_cache_volume_config *config);
/* To be called when or_cache_drain_step() has returned 0, and for the volume's own content first. The heritage must be
 * there until the drain is destroyed. 0 or -ENOMEM. */
int or_cache_drain_add(struct or_cache_drain *drain, struct or_cache_heritage *heritage, uint64_t content);
/* 0: the storage has all that was added; -EAGAIN: again, later; -EIO or -ENOSPC: it refused some of it, which stays in
 * the heritage, as does what comes after that. */
int or_cache_drain_step(struct or_cache_drain *drain);
/* Nothing is under way: or_cache_drain_step() has returned something else than -EAGAIN. */
void or_cache_drain_destroy(struct or_cache_drain *drain);

#endif
