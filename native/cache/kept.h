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

/* Takes the descriptors over, also when it fails: NULL with *err: -EPROTO (of another version, or no such memory; then
 * nobody can tell what is lost), -ENOMEM, or what a system call said. Whoever used the memory must be dead. Memory that
 * holds nothing dirty is given back at once. */
struct or_cache_heritage *or_cache_heritage_open(const int fds[OR_CACHE_FDS], int *err);
void or_cache_heritage_close(struct or_cache_heritage *heritage);
/* Dirty bytes that no volume has taken. */
uint64_t or_cache_heritage_bytes(const struct or_cache_heritage *heritage);
/* Borrowed. */
void or_cache_heritage_memory(const struct or_cache_heritage *heritage, int fds[OR_CACHE_FDS]);

/* The volume, which is on a cache and has had no operation yet, takes the dirty blocks of `content` as its own: of its
 * own content; or of the layer below its own, then but for those that it has itself. False: no block is free for the
 * next; again, after or_cache_poll. A process that is killed meanwhile leaves each block in the one memory, or in both
 * with the same bytes. */
bool or_cache_inherit(struct or_volume *volume, struct or_cache_heritage *heritage, uint64_t content);

#endif
