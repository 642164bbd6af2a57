/* Bugs that can be planted in the cache, one at a time, to prove that its model checker (test/sim/cache) finds
 * them; and the steps between which it can end the engine. Only builds with OR_PLANTS contain them. */
#ifndef OR_CACHE_PLANT_H
#define OR_CACHE_PLANT_H

enum or_cache_plant {
    OR_CACHE_PLANT_NONE = 0,
    OR_CACHE_PLANT_HASTY_FLUSH,   /* a flush does not wait for write-outs under way */
    OR_CACHE_PLANT_STALE_FILL,    /* a fetch overtaken by a write keeps its blocks */
    OR_CACHE_PLANT_LOST_REDIRTY,  /* a block changed while it was written out becomes clean */
    OR_CACHE_PLANT_ERROR_LOST,    /* a write-out that failed counts as done */
    OR_CACHE_PLANT_ERROR_SILENT,  /* is tried again, but no flush hears of it */
    OR_CACHE_PLANT_ZEROES_KEEP,   /* write-zeroes leaves cached blocks alone */
    OR_CACHE_PLANT_PIN_IGNORED,   /* a pinned block is evicted */
    OR_CACHE_PLANT_FAILED_KEPT,   /* a failed write leaves the cached block clean */
    OR_CACHE_PLANT_NO_COPY,       /* a write to a shared block changes it for all */
    OR_CACHE_PLANT_NO_EXCLUSION,  /* a direct write does not wait for a write-out of the same block */
    OR_CACHE_PLANT_DIRTY_EVICTED, /* a dirty block is evicted */
    OR_CACHE_PLANT_BLIND_BYPASS,  /* a large read does not look for dirty blocks */
    OR_CACHE_PLANT_CONTENT_KEPT,  /* a volume that was cut goes on under its old content */
    OR_CACHE_PLANT_DIRTY_FIRST,   /* kept memory calls a block dirty before its bytes are there */
    OR_CACHE_PLANT_END_LATE,      /* the newest block lies beyond what kept memory says is used */
    OR_CACHE_PLANT_WRITING_LEFT,  /* what was being written out when the engine died is not taken up */
    OR_CACHE_PLANT_REDIRTY_LEFT,  /* nor what had changed meanwhile */
    OR_CACHE_PLANT_TAKEN_FIRST,   /* a block counts as taken before it is */
    OR_CACHE_PLANT_TAKEN_STAYS,   /* a block that was taken is there to be taken again */
    OR_CACHE_PLANT_TAKEN_CLEAN,   /* what is taken up is not written out */
    OR_CACHE_PLANT_DRAINED_FIRST, /* nor does the storage have what counts as written out without a cache */
    OR_CACHE_PLANT_DRAIN_LOST,    /* or what it refused */
    OR_CACHE_PLANT_FLUSH_OWN,     /* a flush covers only what this engine has written */
    OR_CACHE_PLANT_MAX
};

#ifdef OR_PLANTS
extern enum or_cache_plant or_cache_planted;
#define OR_CACHE_PLANTED(plant) (or_cache_planted == (plant))
/* Kept memory (kept.h) has changed: the checker's, who may take what it holds now for what the engine leaves. */
void or_cache_step(void);
#else
#define OR_CACHE_PLANTED(plant) 0
#define or_cache_step() ((void)0)
#endif

#endif
