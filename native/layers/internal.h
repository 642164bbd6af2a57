/* The layered volume's structures; private to this folder.
 *
 *   format.c   overlay files
 *   map.c      their maps in memory
 *   layers.c   a volume over a chain of layers; where a cluster is
 *   run.c      operations, piece by piece
 *   flush.c    the order in which things become durable
 *   merge.c    two sealed layers become one; it uses nothing of this
 *
 * An operation on the volume goes in pieces, each an operation on a layer: a run of clusters in one layer, or a part of
 * a cluster that is to be copied first. A piece needs a slot; what finds none waits. A write goes to the head at its
 * own place whatever the map says, so it is one piece, or three with the parts of clusters at its ends. When a piece
 * has ended the map says so, in memory; flush.c makes it durable.
 *
 * A part of a cluster that is not in the head is merged with the rest, from below, in a slot's buffer, and the whole
 * cluster is written. Meanwhile other writes of parts of that cluster wait, for they would be lost; reads need not:
 * what they see is below, and stays there. */
#ifndef OR_LAYERS_INTERNAL_H
#define OR_LAYERS_INTERNAL_H

#include "backend/block/block.h"
#include "layers/map.h"
#include "layers/plant.h"
#include "mem/list.h"

#define OR_LAYERS_PLAIN_SLOTS 128u   /* as many as the server has out at storage */
#define OR_LAYERS_BUFFERED_SLOTS 32u /* with a buffer of a cluster each */
#define OR_LAYERS_SLOTS (OR_LAYERS_PLAIN_SLOTS + OR_LAYERS_BUFFERED_SLOTS)
#define OR_LAYERS_STAGED_MAX 128u /* pages of the map that one round of a flush writes */

struct or_layered;

enum or_slot_kind {
    OR_SLOT_DIRECT,     /* the operation's own memory */
    OR_SLOT_BOUNCE,     /* a read into the buffer, because the layer wants other places or memory */
    OR_SLOT_COPY_READ,  /* a cluster into the buffer, to be changed there */
    OR_SLOT_COPY_WRITE, /* and out of it into the head */
};

struct or_slot {
    struct or_io io;
    struct or_layered *layered;
    struct or_io *upper;
    struct or_list link;    /* free slots of its kind; or_layered.copies */
    struct or_list waiters; /* COPY: operations on the same cluster, by or_io.link */
    uint8_t *buffer;        /* a cluster, aligned to a page; NULL: a plain slot */
    uint8_t *data;          /* BOUNCE: where it goes; COPY: what is written, NULL: zeroes */
    uint64_t first, count;  /* clusters that have `entry` in the head when the piece has ended well; count may be 0 */
    uint32_t at, bytes;     /* BOUNCE, COPY: which part of the cluster */
    uint8_t kind, entry;
    bool hint; /* that the layer cannot do it is no error */
};

/* or_io.stage of an operation: how many pieces are under way, and */
#define OR_STAGE_PIECES 0xffffu
#define OR_STAGE_STABLE 0x10000u /* what its pieces have written is durable when they end */

struct or_layers_flush {
    struct or_list waiting; /* operations that need one that begins later */
    struct or_list current; /* that end with this one */
    bool running;
    uint8_t status;
    uint32_t page;        /* of the map: all before were looked at */
    uint32_t count;       /* pages staged in this round */
    uint32_t outstanding; /* writes of them */
    uint8_t *staging;
    uint32_t staged_max;
    struct or_io sync;
    struct or_io writes[OR_LAYERS_STAGED_MAX];
    uint32_t pages[OR_LAYERS_STAGED_MAX];
};

struct or_layered {
    struct or_volume base;
    struct or_layer layers[OR_LAYERS_MAX];
    uint32_t count;
    bool in_place;   /* the head takes any part of a cluster that the volume does */
    bool map_synced; /* what is not dirty of the head's map is durable */
    struct or_slot slots[OR_LAYERS_SLOTS];
    uint8_t *buffers;
    struct or_list plain, buffered;                 /* free slots */
    struct or_list plain_waiting, buffered_waiting; /* operations that need one */
    struct or_list copies;                          /* slots that have a cluster of the head to themselves */
    struct or_layers_flush flush;
};

static inline struct or_layered *or_layered_of(const struct or_volume *volume)
{
    return (struct or_layered *)volume;
}

static inline struct or_layer *or_layers_head(struct or_layered *l)
{
    return &l->layers[0];
}

static inline uint64_t or_io_end(const struct or_io *io)
{
    return io->offset + io->length;
}

/* --- layers.c ------------------------------------------------------------------------------------- */

/* The layer that says what is in `cluster`; *zero: that it has nothing but zeroes. *run: in, how many clusters are of
 * interest; out, for how many of them from this one on it is the same. */
uint32_t or_layers_find(const struct or_layered *l, uint64_t cluster, uint64_t *run, bool *zero);
/* Where the byte of the volume is in the file of a layer. */
static inline uint64_t or_layer_offset(const struct or_layer *layer, uint64_t offset)
{
    return layer->map ? layer->map->data_offset + offset : offset;
}

/* --- run.c ---------------------------------------------------------------------------------------- */

void or_layers_submit(struct or_volume *volume, struct or_io *io);
/* or_io.done of a slot's. */
void or_slot_done(struct or_io *io);

/* --- flush.c -------------------------------------------------------------------------------------- */

/* io, a flush or the end of a write with OR_REQ_FUA, ends when all that has ended is durable. */
void or_layers_flush(struct or_layered *l, struct or_io *io);

#endif
