/* Bugs that can be planted in the interceptor, one at a time, to prove that its model checker (test/sim/intercept)
 * finds them; and the points at which the checker may kill the engine. Only builds with OR_PLANTS contain them. */
#ifndef OR_INTERCEPT_PLANT_H
#define OR_INTERCEPT_PLANT_H

enum or_intercept_plant {
    OR_INTERCEPT_PLANT_NONE = 0,
    OR_INTERCEPT_PLANT_RELEASE_EARLY,    /* packets go out when the journal was written, before its sync */
    OR_INTERCEPT_PLANT_APPLY_EARLY,      /* an epoch is applied when the journal was written, before its sync */
    OR_INTERCEPT_PLANT_READ_MISSES,      /* a read sees only the newest held version of a block */
    OR_INTERCEPT_PLANT_NO_GRACE,         /* slots are freed under reads that began before */
    OR_INTERCEPT_PLANT_FENCE_QUEUE,      /* a fence forgets the writes that wait */
    OR_INTERCEPT_PLANT_FENCE_COMMIT,     /* a commit is taken while a fence is under way */
    OR_INTERCEPT_PLANT_COMMIT_ORDER,     /* commits of several epochs journal the last one first */
    OR_INTERCEPT_PLANT_RECOVERY_FORGETS, /* recovery drops what is committed and not applied */
    OR_INTERCEPT_PLANT_TORN_ENTRY,       /* a journal entry is believed without looking at its pages */
    OR_INTERCEPT_PLANT_TAIL_EARLY,       /* the journal's tail moves before the volumes below are flushed */
    OR_INTERCEPT_PLANT_STALE_ENTRY,      /* an entry of before the fence counts */
    OR_INTERCEPT_PLANT_CACHE_BELIEVED,   /* recovery believes what was never synced */
    OR_INTERCEPT_PLANT_ERROR_TAKEN,      /* of two that wait for a sync that fails only one hears of it */
    OR_INTERCEPT_PLANT_PACKETS_NOTHING,  /* an epoch with packets only needs no entry */
    OR_INTERCEPT_PLANT_MASK_FIRST,       /* a slot says that sectors are there before they are */
    OR_INTERCEPT_PLANT_HALT_RELEASES,    /* an engine that halts goes on releasing packets */
    OR_INTERCEPT_PLANT_HALT_DROPS,       /* an engine that halts drops the packets that it holds */
    OR_INTERCEPT_PLANT_PAUSE_IGNORED,    /* a pause says at once that volumes are at the boundary of an epoch */
    OR_INTERCEPT_PLANT_FREE_EARLY,       /* slots are freed before the volumes below are flushed */
    OR_INTERCEPT_PLANT_FREE_NEWEST,      /* slots of a newer epoch are freed before those of an older one */
    OR_INTERCEPT_PLANT_FREE_EPOCH,       /* all slots of an epoch are freed when a part of it is below */
    OR_INTERCEPT_PLANT_EXPOSURE_LOST,    /* that something was let out without a checkpoint dies with the engine */
    OR_INTERCEPT_PLANT_COVERED_EARLY,    /* a checkpoint knows of it when its epoch is cut */
    OR_INTERCEPT_PLANT_ATTACHED_HELD,    /* what is attached while the volume is held stays so */
    OR_INTERCEPT_PLANT_MAX
};

#ifdef OR_PLANTS
extern enum or_intercept_plant or_intercept_planted;
#define OR_INTERCEPT_PLANTED(plant) (or_intercept_planted == (plant))
/* May not return: the engine is dead, and the region as it is. */
void or_intercept_kill_point(void);
#define OR_INTERCEPT_KILL_POINT() or_intercept_kill_point()
#else
#define OR_INTERCEPT_PLANTED(plant) 0
#define OR_INTERCEPT_KILL_POINT() ((void)0)
#endif

#endif
