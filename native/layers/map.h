/* The map of an overlay in memory; private to this folder and its tests. It is that of the file, byte by byte, and
 * knows which of its pages have changed since they were last written there. */
#ifndef OR_LAYERS_MAP_H
#define OR_LAYERS_MAP_H

#include "layers/format.h"

/* What an overlay says of a cluster. */
enum or_layer_entry {
    OR_LAYER_BELOW = 0,  /* as in the layer below; zeroes where there is none */
    OR_LAYER_HERE = 1,   /* in this file */
    OR_LAYER_ZEROES = 2, /* zeroes; what the file has there means nothing */
    OR_LAYER_INVALID = 3,
};

struct or_layer_map {
    uint64_t size, content, continues, clusters, data_offset;
    uint8_t *bits;
    uint64_t bytes;  /* of bits: whole pages */
    uint64_t *dirty; /* a bit for each page */
    uint32_t pages, dirty_pages;
    uint64_t here, zeroes; /* how many clusters are */
};

/* An empty one for a volume of this size, or NULL: out of memory. */
struct or_layer_map *or_layer_map_new(uint64_t size, uint64_t content);
/* Counts after `bits` was filled from a file; false when there are entries that cannot be. */
bool or_layer_map_take_stock(struct or_layer_map *map);

static inline enum or_layer_entry or_layer_map_get(const struct or_layer_map *map, uint64_t cluster)
{
    return (enum or_layer_entry)(map->bits[cluster / 4] >> cluster % 4 * 2 & 3);
}
/* How many clusters from `first` on, at most `most`, have the same entry as that. */
uint64_t or_layer_map_run(const struct or_layer_map *map, uint64_t first, uint64_t most);
void or_layer_map_set(struct or_layer_map *map, uint64_t first, uint64_t count, enum or_layer_entry entry);

/* The first dirty page from `page` on; `pages` when there is none. */
uint32_t or_layer_map_next_dirty(const struct or_layer_map *map, uint32_t page);
bool or_layer_map_is_dirty(const struct or_layer_map *map, uint32_t page);
void or_layer_map_mark(struct or_layer_map *map, uint32_t page, bool dirty);

#endif
