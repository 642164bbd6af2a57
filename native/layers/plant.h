/* Bugs that can be planted in layered volumes, one at a time, to prove that the model checker (test/sim/cache) finds
 * them. Only builds with OR_PLANTS contain them. */
#ifndef OR_LAYERS_PLANT_H
#define OR_LAYERS_PLANT_H

enum or_layers_plant {
    OR_LAYERS_PLANT_NONE = 0,
    OR_LAYERS_PLANT_MAP_FIRST,       /* the map is written before the data is synced */
    OR_LAYERS_PLANT_MAP_FORGOTTEN,   /* a flush does not write the pages that it staged */
    OR_LAYERS_PLANT_MAP_UNSYNCED,    /* nor sync them */
    OR_LAYERS_PLANT_HASTY_ENTRY,     /* a cluster is here before its write has ended */
    OR_LAYERS_PLANT_REST_LOST,       /* a part of a cluster is written without the rest from below */
    OR_LAYERS_PLANT_NO_WAITING,      /* two parts of a cluster are copied at the same time */
    OR_LAYERS_PLANT_BASE_SHOWS,      /* what was discarded or zeroed is as below again */
    OR_LAYERS_PLANT_HASTY_FUA,       /* a write with FUA of a new cluster does not wait for the map */
    OR_LAYERS_PLANT_MAP_IN_MEMORY,   /* a write of a new cluster ends when the engine's memory knows where it is */
    OR_LAYERS_PLANT_LOAD_UNSYNCED,   /* what a killed engine has written is loaded, and not synced */
    OR_LAYERS_PLANT_MERGE_UNSYNCED,  /* what was merged is not made durable */
    OR_LAYERS_PLANT_MERGE_NO_MAP,    /* nor written into the map */
    OR_LAYERS_PLANT_MERGE_NO_ZEROES, /* zeroes are forgotten in a merge */
    OR_LAYERS_PLANT_MAX
};

#ifdef OR_PLANTS
extern enum or_layers_plant or_layers_planted;
#define OR_LAYERS_PLANTED(plant) (or_layers_planted == (plant))
#else
#define OR_LAYERS_PLANTED(plant) 0
#endif

#endif
