/* One piece after the other: read from the upper layer, written into the lower one. At the end the pages of the lower
 * one's map that speak of them, and a sync. Their order does not matter, for nobody looks at what they say before the
 * upper layer is gone, and it goes after done(). */
#include "layers/merge.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "backend/block/block.h"
#include "layers/map.h"
#include "layers/plant.h"

/* Clusters of one operation that zeroes: where the storage cannot, it writes them. */
#define ZERO_CLUSTERS_MAX ((16u << 20) / OR_LAYER_CLUSTER)
#define BUFFER_CLUSTERS (OR_LAYER_MERGE_BUFFER / OR_LAYER_CLUSTER)
/* Of a map, at once: about a millisecond. */
#define LOOK_MAX (4u << 20)

enum stage {
    STAGE_LOOK,
    STAGE_WRITE, /* the piece is in the buffer */
    STAGE_NEXT,  /* the piece is in the lower layer */
    STAGE_MAP,
    STAGE_ENDED, /* when what is under way has ended */
};

static void run(struct or_layer_merge *m);

static void piece_done(struct or_io *io)
{
    struct or_layer_merge *m = OR_CONTAINER(io, struct or_layer_merge, io);
    bool hint = io->op == OR_OP_DISCARD && io->status == OR_EUNSUPP;
    if (io->status != OR_OK && !hint) {
        m->status = io->status;
        m->stage = STAGE_ENDED;
    }
    run(m);
}

static void submit(struct or_layer_merge *m, const struct or_layer *layer, uint8_t op, uint64_t offset, uint64_t length,
                   uint8_t *data, enum stage then)
{
    m->stage = then;
    m->io = (struct or_io){.op = op,
                           .flags = op == OR_OP_WRITE_ZEROES ? OR_REQ_UNMAP : 0,
                           .offset = offset,
                           .length = (uint32_t)length,
                           .data = data,
                           .done = piece_done};
    or_list_init(&m->io.link);
    or_volume_submit(layer->volume, &m->io);
}

/* Where the volume's clusters are in the layer's file, and how many bytes of them it has. */
static uint64_t offset_in(const struct or_layer *layer, uint64_t cluster)
{
    return (layer->map ? layer->map->data_offset : 0) + cluster * OR_LAYER_CLUSTER;
}

static uint64_t bytes_in(const struct or_layer *layer, uint64_t cluster, uint64_t count)
{
    uint64_t start = cluster * OR_LAYER_CLUSTER, bytes = count * OR_LAYER_CLUSTER;
    bool cut = !layer->map && layer->volume->size - start < bytes;
    return cut ? layer->volume->size - start : bytes;
}

/* --- pieces --------------------------------------------------------------------------------------- */

static void spend(struct or_layer_merge *m, uint64_t bytes)
{
    m->left -= bytes < m->left ? bytes : m->left;
}

/* The page is written also when it says so already: it may have been loaded from memory, after a sync that failed, and
 * not be on the disk. */
static void note(struct or_layer_merge *m, enum or_layer_entry entry)
{
    struct or_layer_map *map = m->into.map;
    or_layer_map_set(map, m->next, m->count, entry);
    uint64_t last = (m->next + m->count - 1) / OR_OVERLAY_PAGE_CLUSTERS;
    for (uint64_t page = m->next / OR_OVERLAY_PAGE_CLUSTERS; page <= last; page++)
        or_layer_map_mark(map, (uint32_t)page, true);
}

static void zero(struct or_layer_merge *m)
{
    const struct or_layer *into = &m->into;
    uint8_t op = OR_OP_WRITE_ZEROES;
    bool here = true;
    if (into->map) {
        here = or_layer_map_get(into->map, m->next) == OR_LAYER_HERE;
        m->count = or_layer_map_run(into->map, m->next, m->count);
        note(m, OR_LAYER_ZEROES);
        op = OR_OP_DISCARD; /* for the space alone */
    }
    if (!here || OR_LAYERS_PLANTED(OR_LAYERS_PLANT_MERGE_NO_ZEROES)) {
        m->stage = STAGE_NEXT;
        m->again = true;
        return;
    }
    uint64_t bytes = bytes_in(into, m->next, m->count);
    spend(m, bytes);
    submit(m, into, op, offset_in(into, m->next), bytes, NULL, STAGE_NEXT);
}

/* Finds the next piece, and begins with it. */
static void look(struct or_layer_merge *m)
{
    const struct or_layer_map *map = m->from.map;
    m->again = true;
    if (m->next == map->clusters || m->left == 0 || m->looked >= LOOK_MAX) {
        m->complete = m->next == map->clusters;
        m->stage = STAGE_MAP;
        return;
    }
    enum or_layer_entry entry = or_layer_map_get(map, m->next);
    uint64_t most = entry == OR_LAYER_HERE ? BUFFER_CLUSTERS : entry == OR_LAYER_BELOW ? LOOK_MAX : ZERO_CLUSTERS_MAX;
    most = most < map->clusters - m->next ? most : map->clusters - m->next;
    m->count = or_layer_map_run(map, m->next, most);
    m->looked += m->count;
    if (entry == OR_LAYER_BELOW) {
        m->next += m->count;
        return;
    }
    m->again = false;
    if (entry == OR_LAYER_ZEROES)
        zero(m);
    else
        submit(m, &m->from, OR_OP_READ, offset_in(&m->from, m->next), m->count * OR_LAYER_CLUSTER, m->buffer,
               STAGE_WRITE);
}

static void write_piece(struct or_layer_merge *m)
{
    uint64_t bytes = bytes_in(&m->into, m->next, m->count);
    m->copied += bytes;
    spend(m, bytes);
    if (m->into.map)
        note(m, OR_LAYER_HERE);
    submit(m, &m->into, OR_OP_WRITE, offset_in(&m->into, m->next), bytes, m->buffer, STAGE_NEXT);
}

/* --- the end -------------------------------------------------------------------------------------- */

/* Pages that follow each other are so in memory, too, and nobody changes them meanwhile. */
static void write_map(struct or_layer_merge *m)
{
    struct or_layer_map *map = m->into.map;
    uint32_t page = map ? or_layer_map_next_dirty(map, m->page) : 0, end = page;
    while (map && end < map->pages && end - page < BUFFER_CLUSTERS && or_layer_map_is_dirty(map, end))
        or_layer_map_mark(map, end++, false);
    if (end == page || OR_LAYERS_PLANTED(OR_LAYERS_PLANT_MERGE_NO_MAP)) {
        uint8_t op = OR_LAYERS_PLANTED(OR_LAYERS_PLANT_MERGE_UNSYNCED) ? OR_OP_DISCARD : OR_OP_FLUSH;
        submit(m, &m->into, op, 0, 0, NULL, STAGE_ENDED);
        return;
    }
    m->page = end;
    submit(m, &m->into, OR_OP_WRITE, OR_OVERLAY_MAP_OFFSET + (uint64_t)page * OR_OVERLAY_PAGE,
           (uint64_t)(end - page) * OR_OVERLAY_PAGE, map->bits + (uint64_t)page * OR_OVERLAY_PAGE, STAGE_MAP);
}

static void step(struct or_layer_merge *m)
{
    switch ((enum stage)m->stage) {
    case STAGE_LOOK:
        look(m);
        break;
    case STAGE_WRITE:
        write_piece(m);
        break;
    case STAGE_NEXT:
        m->next += m->count;
        m->stage = STAGE_LOOK;
        m->again = true;
        break;
    case STAGE_MAP:
        write_map(m);
        break;
    case STAGE_ENDED:
        break;
    }
}

/* Operations that end at once do not make the stack deeper. */
static void run(struct or_layer_merge *m)
{
    m->again = true;
    if (m->running)
        return;
    m->running = true;
    while (m->again && m->stage != STAGE_ENDED) {
        m->again = false;
        step(m);
    }
    m->running = false;
    if (!m->again)
        return; /* something is under way */
    free(m->buffer);
    m->complete &= m->status == OR_OK;
    m->done(m);
}

static bool fits(const struct or_layer *from, const struct or_layer *into)
{
    uint64_t size = into->map ? into->map->size : into->volume->size;
    return from->map && from->map->size == size && from->map != into->map && !into->volume->read_only &&
           from->volume->size >= offset_in(from, from->map->clusters) &&
           (!into->map || into->volume->size >= offset_in(into, into->map->clusters));
}

int or_layer_merge(struct or_layer_merge *m)
{
    if (!fits(&m->from, &m->into) || m->next > m->from.map->clusters)
        return -EINVAL;
    m->buffer = aligned_alloc(OR_BLOCK_ALIGN_MAX, OR_LAYER_MERGE_BUFFER);
    if (!m->buffer)
        return -ENOMEM;
    m->copied = m->looked = 0;
    m->page = 0;
    m->status = OR_OK;
    m->complete = m->running = false;
    m->stage = STAGE_LOOK;
    run(m);
    return 0;
}
