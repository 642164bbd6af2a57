/* The overlay's file; private to this folder and its tests. All numbers are little endian.
 *
 *   0            struct or_overlay_header, a page
 *   4096         map: 2 bits for each cluster, four in a byte, the first in its lowest bits; zeroes up to a page
 *   data_offset  clusters, each at its own place: data_offset + cluster * 4096
 *
 * The file is sparse, and as long as if it had every cluster. An entry of the map holds no place, so a page of the map
 * that was torn by a crash is a valid mix of old and new, at whatever byte. */
#ifndef OR_LAYERS_FORMAT_H
#define OR_LAYERS_FORMAT_H

#include "layers/layers.h"

#define OR_OVERLAY_PAGE 4096u
#define OR_OVERLAY_MAP_OFFSET OR_OVERLAY_PAGE
#define OR_OVERLAY_DATA_ALIGN (1u << 20)
#define OR_OVERLAY_VERSION 1u
#define OR_OVERLAY_PAGE_CLUSTERS (OR_OVERLAY_PAGE * 4u) /* whose entries one page of the map has */

struct or_overlay_header {
    uint8_t magic[8];
    uint32_t version;
    uint32_t cluster_bytes;
    uint64_t size; /* of the volume, bytes */
    uint64_t data_offset;
    uint64_t content;
    uint64_t continues;                     /* or_layer_format */
    uint8_t reserved[OR_OVERLAY_PAGE - 56]; /* zeroes */
    uint64_t check;                         /* XXH3-64 of all before */
};
static_assert(sizeof(struct or_overlay_header) == OR_OVERLAY_PAGE, "the header is a page");
static_assert(offsetof(struct or_overlay_header, check) == OR_OVERLAY_PAGE - 8, "and has no holes");

/* Where things are in the overlay of a volume of this size. */
static inline uint64_t or_overlay_clusters(uint64_t size)
{
    return (size + OR_LAYER_CLUSTER - 1) / OR_LAYER_CLUSTER;
}
uint64_t or_overlay_map_bytes(uint64_t size); /* whole pages */
uint64_t or_overlay_data_offset(uint64_t size);
uint64_t or_overlay_file_bytes(uint64_t size);

/* Whether an overlay of it can be. */
bool or_overlay_size_valid(uint64_t size);
void or_overlay_encode(struct or_overlay_header *header, uint64_t size, uint64_t content, uint64_t continues);
/* NULL: it is one; else what is wrong with it. */
const char *or_overlay_check(const struct or_overlay_header *header);

#endif
