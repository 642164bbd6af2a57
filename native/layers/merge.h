/* Merging of two sealed layers, so that a chain becomes shorter and the space of what nobody needs any more is free.
 *
 * What the upper one has is written into the lower one, which then holds what both did and takes the upper one's
 * place; the upper one's file can go. It can be done while volumes read both, as long as nobody comes to the lower
 * layer but through the upper one: a cluster of the lower one is written to only where the upper one hides it, so what
 * anybody reads stays the same at every instant, with the maps that he has loaded, whenever he loaded them. For the
 * same reason a merge that was cut short, by whatever, has done no harm, and begins anew.
 *
 * Each merge belongs to the thread of its volumes. docs/layers.md tells who decides, and in which order. */
#ifndef OR_LAYERS_MERGE_H
#define OR_LAYERS_MERGE_H

#include "layers/layers.h"

#define OR_LAYER_MERGE_BUFFER (256u << 10)

struct or_layer_merge {
    struct or_layer from, into; /* openings of their own: the upper one, an overlay, and the one below it */
    uint64_t next;              /* cluster that comes next; those before are in `into`, durably when it ended well */
    uint64_t left;              /* bytes that may still be copied. To stop early, set it to 0 */
    uint64_t copied;            /* bytes, so far */
    bool complete;              /* when it has ended: there is nothing after `next` */
    uint8_t status;             /* likewise: enum or_status */
    void (*done)(struct or_layer_merge *merge);

    /* Private. */
    struct or_io io;
    uint8_t *buffer;
    uint64_t count, looked; /* clusters: of the piece under way; looked at so far */
    uint32_t page;          /* of the map of `into`: the next to be written */
    uint8_t stage;
    bool running, again;
};

/* Merges from cluster `next` on, about `left` bytes of it, one piece after the other, makes that durable, and calls
 * done(), from within or later; the caller closes both volumes then. The fields from `from` to `left`, and done, are
 * his to fill in; `from` and `into` are of the same size, and `into` may be written to. 0; -EINVAL they are not;
 * -ENOMEM. */
int or_layer_merge(struct or_layer_merge *merge);

#endif
