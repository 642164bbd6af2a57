/* Operations, piece by piece. An operation runs until all its pieces are under way or it waits, for a slot or for a
 * cluster that is being copied; what it waits for runs it again from where it was (or_io.progress). */
#include <string.h>

#include "layers/internal.h"

/* Clusters of one piece that zeroes: their bytes fit or_io.length. */
#define ZERO_CLUSTERS_MAX ((1u << 30) / OR_LAYER_CLUSTER)

static void run(struct or_layered *l, struct or_io *io);

/* --- slots ---------------------------------------------------------------------------------------- */

/* NULL: there is none, and io waits. */
static struct or_slot *slot_take(struct or_layered *l, struct or_io *io, bool buffered)
{
    struct or_list *from = buffered ? &l->buffered : &l->plain;
    if (or_list_empty(from)) {
        or_list_append(buffered ? &l->buffered_waiting : &l->plain_waiting, &io->link);
        return NULL;
    }
    struct or_slot *slot = OR_CONTAINER(from->next, struct or_slot, link);
    or_list_remove(&slot->link);
    slot->upper = io;
    slot->count = 0;
    slot->hint = false;
    return slot;
}

/* Who waited for the slot's cluster, and for a slot, goes on. */
static void slot_release(struct or_slot *slot)
{
    struct or_layered *l = slot->layered;
    struct or_list waiters;
    or_list_init(&waiters);
    for (struct or_io *io; (io = or_io_pop(&slot->waiters)) != NULL;)
        or_list_append(&waiters, &io->link);
    or_list_remove(&slot->link);
    or_list_append(slot->buffer ? &l->buffered : &l->plain, &slot->link);
    for (struct or_io *io; (io = or_io_pop(&waiters)) != NULL;)
        run(l, io);
    struct or_list *free = slot->buffer ? &l->buffered : &l->plain;
    struct or_list *waiting = slot->buffer ? &l->buffered_waiting : &l->plain_waiting;
    while (!or_list_empty(free) && !or_list_empty(waiting))
        run(l, or_io_pop(waiting));
}

/* An operation on the layer's file: `offset` is of the volume. */
static void slot_start(struct or_slot *slot, const struct or_layer *layer, uint8_t op, uint8_t flags, uint64_t offset,
                       uint32_t length, uint8_t *data)
{
    slot->upper->stage++;
    slot->io = (struct or_io){.op = op,
                              .flags = flags,
                              .offset = or_layer_offset(layer, offset),
                              .length = length,
                              .data = data,
                              .done = or_slot_done};
    or_list_init(&slot->io.link);
    if (slot->count && OR_LAYERS_PLANTED(OR_LAYERS_PLANT_HASTY_ENTRY))
        or_layer_map_set(or_layers_head(slot->layered)->map, slot->first, slot->count, slot->entry);
    or_volume_submit(layer->volume, &slot->io);
}

/* --- the end of pieces and operations --------------------------------------------------------------- */

/* Whether the file's map says of these clusters what that in memory does, for good. */
static bool map_is_durable(const struct or_layered *l, uint64_t first, uint64_t count)
{
    const struct or_layer_map *map = l->layers[0].map;
    uint64_t last = (first + count - 1) / OR_OVERLAY_PAGE_CLUSTERS;
    if (!l->map_synced)
        return false;
    for (uint64_t page = first / OR_OVERLAY_PAGE_CLUSTERS; page <= last; page++)
        if (or_layer_map_is_dirty(map, (uint32_t)page))
            return false;
    return true;
}

/* What is acknowledged must be found by the next engine when this one is killed: the data is with the kernel, but where
 * to look for it is known by the map. A volume that has lost its promise has not got this one either. */
static bool needs_map(const struct or_layered *l, const struct or_io *io)
{
    uint64_t first = io->offset / OR_LAYER_CLUSTER, end = (or_io_end(io) + OR_LAYER_CLUSTER - 1) / OR_LAYER_CLUSTER;
    return io->length && !l->base.flush_failed && !map_is_durable(l, first, end - first) &&
           !OR_LAYERS_PLANTED(OR_LAYERS_PLANT_MAP_IN_MEMORY);
}

static void finish(struct or_layered *l, struct or_io *io)
{
    or_list_remove(&io->link); /* one that failed may be waiting */
    bool stable = io->stage & OR_STAGE_STABLE, writes = or_op_writes(io->op);
    if (io->status == OR_OK && writes && !stable && (io->flags & OR_REQ_FUA || needs_map(l, io)))
        or_layers_flush(l, io);
    else
        or_block_end(io, io->status);
}

/* A piece, or the run itself, is over. */
static void put(struct or_layered *l, struct or_io *io)
{
    assert(io->stage & OR_STAGE_PIECES);
    io->stage--;
    if (!(io->stage & OR_STAGE_PIECES) && (io->progress == io->length || io->status != OR_OK))
        finish(l, io);
}

static void end_piece(struct or_slot *slot, uint8_t status)
{
    struct or_layered *l = slot->layered;
    struct or_io *io = slot->upper;
    if (status == OR_EUNSUPP && slot->hint)
        status = OR_OK;
    if (status == OR_OK && slot->count)
        or_layer_map_set(or_layers_head(l)->map, slot->first, slot->count, slot->entry);
    if (status != OR_OK && io->status == OR_OK)
        io->status = status;
    slot_release(slot);
    put(l, io);
}

/* The rest of the cluster is in the buffer. */
static void copy_out(struct or_slot *slot)
{
    if (slot->data)
        memcpy(slot->buffer + slot->at, slot->data, slot->bytes);
    else
        memset(slot->buffer + slot->at, 0, slot->bytes);
    slot->kind = OR_SLOT_COPY_WRITE;
    slot_start(slot, or_layers_head(slot->layered), OR_OP_WRITE, 0, slot->first * OR_LAYER_CLUSTER, OR_LAYER_CLUSTER,
               slot->buffer);
}

void or_slot_done(struct or_io *io)
{
    struct or_slot *slot = OR_CONTAINER(io, struct or_slot, io);
    struct or_io *upper = slot->upper;
    if (slot->kind == OR_SLOT_COPY_READ && io->status == OR_OK) {
        memset(slot->buffer + io->length, 0, OR_LAYER_CLUSTER - io->length); /* beyond the layer's end */
        copy_out(slot);
        put(slot->layered, upper); /* the slot may be somebody else's by now */
        return;
    }
    if (slot->kind == OR_SLOT_BOUNCE && io->status == OR_OK)
        memcpy(slot->data, slot->buffer + slot->at, slot->bytes);
    end_piece(slot, io->status);
}

/* --- reads ---------------------------------------------------------------------------------------- */

static bool aligned(const struct or_volume *volume, uint64_t from, uint64_t to, const uint8_t *data)
{
    return from % volume->block_size == 0 && to % volume->block_size == 0 && (uintptr_t)data % volume->align == 0;
}

/* How much of a cluster the layer's file has. */
static uint32_t cluster_bytes(const struct or_layer *layer, uint64_t cluster)
{
    uint64_t start = cluster * OR_LAYER_CLUSTER;
    bool cut = !layer->map && layer->volume->size - start < OR_LAYER_CLUSTER;
    return cut ? (uint32_t)(layer->volume->size - start) : OR_LAYER_CLUSTER;
}

static bool read_bounced(struct or_layered *l, struct or_io *io, const struct or_layer *layer, uint64_t from,
                         uint64_t to)
{
    struct or_slot *slot = slot_take(l, io, true);
    if (!slot)
        return false;
    uint64_t cluster = from / OR_LAYER_CLUSTER;
    slot->kind = OR_SLOT_BOUNCE;
    slot->at = (uint32_t)(from % OR_LAYER_CLUSTER);
    slot->bytes = (uint32_t)(to - from);
    slot->data = io->data + io->progress;
    io->progress += slot->bytes;
    slot_start(slot, layer, OR_OP_READ, 0, cluster * OR_LAYER_CLUSTER, cluster_bytes(layer, cluster), slot->buffer);
    return true;
}

static bool read_piece(struct or_layered *l, struct or_io *io)
{
    uint64_t from = io->offset + io->progress, end = or_io_end(io), cluster = from / OR_LAYER_CLUSTER;
    uint64_t clusters = or_overlay_clusters(end) - cluster;
    bool zero;
    const struct or_layer *layer = &l->layers[or_layers_find(l, cluster, &clusters, &zero)];
    uint64_t to = (cluster + clusters) * OR_LAYER_CLUSTER;
    to = to < end ? to : end;
    uint8_t *data = io->data + io->progress;
    if (!zero && !layer->map && to > layer->volume->size) { /* a plain volume may end within a cluster */
        zero = from >= layer->volume->size;
        to = zero ? to : layer->volume->size;
    }
    if (zero) {
        memset(data, 0, to - from);
        io->progress += (uint32_t)(to - from);
        return true;
    }
    if (!aligned(layer->volume, from, to, data)) {
        uint64_t next = (cluster + 1) * OR_LAYER_CLUSTER;
        return read_bounced(l, io, layer, from, to < next ? to : next);
    }
    struct or_slot *slot = slot_take(l, io, false);
    if (!slot)
        return false;
    slot->kind = OR_SLOT_DIRECT;
    io->progress += (uint32_t)(to - from);
    slot_start(slot, layer, OR_OP_READ, 0, from, (uint32_t)(to - from), data);
    return true;
}

/* --- writes --------------------------------------------------------------------------------------- */

static bool is_here(struct or_layered *l, uint64_t cluster)
{
    return or_layer_map_get(or_layers_head(l)->map, cluster) == OR_LAYER_HERE;
}

/* [from, to) has all that the volume has of the cluster. */
static bool covers(const struct or_layered *l, uint64_t cluster, uint64_t from, uint64_t to)
{
    uint64_t end = (cluster + 1) * OR_LAYER_CLUSTER;
    return from <= cluster * OR_LAYER_CLUSTER && to >= (end < l->base.size ? end : l->base.size);
}

/* The part of the cluster in [from, to) may be written as it is. */
static bool writes_directly(struct or_layered *l, uint64_t cluster, uint64_t from, uint64_t to)
{
    if (!l->in_place)
        return from <= cluster * OR_LAYER_CLUSTER && to >= (cluster + 1) * OR_LAYER_CLUSTER;
    return covers(l, cluster, from, to) || is_here(l, cluster);
}

/* Changes the part [from, to) of one cluster of the head by way of a buffer. data: NULL for zeroes. */
static bool copy_piece(struct or_layered *l, struct or_io *io, uint64_t from, uint64_t to, uint8_t *data)
{
    uint64_t cluster = from / OR_LAYER_CLUSTER, run = 1;
    for (struct or_list *at = l->copies.next; at != &l->copies; at = at->next) {
        struct or_slot *other = OR_CONTAINER(at, struct or_slot, link);
        if (other->first == cluster && !OR_LAYERS_PLANTED(OR_LAYERS_PLANT_NO_WAITING)) {
            or_list_append(&other->waiters, &io->link);
            return false;
        }
    }
    bool zero;
    const struct or_layer *source = &l->layers[or_layers_find(l, cluster, &run, &zero)];
    if (zero && !data) { /* it has them already */
        io->progress += (uint32_t)(to - from);
        return true;
    }
    struct or_slot *slot = slot_take(l, io, true);
    if (!slot)
        return false;
    or_list_append(&l->copies, &slot->link);
    slot->data = data;
    slot->at = (uint32_t)(from % OR_LAYER_CLUSTER);
    slot->bytes = (uint32_t)(to - from);
    slot->first = cluster;
    slot->count = 1;
    slot->entry = OR_LAYER_HERE;
    io->progress += slot->bytes;
    if (zero || covers(l, cluster, from, to) || OR_LAYERS_PLANTED(OR_LAYERS_PLANT_REST_LOST)) {
        memset(slot->buffer, 0, OR_LAYER_CLUSTER);
        copy_out(slot);
    } else {
        slot->kind = OR_SLOT_COPY_READ;
        slot_start(slot, source, OR_OP_READ, 0, cluster * OR_LAYER_CLUSTER, cluster_bytes(source, cluster),
                   slot->buffer);
    }
    return true;
}

static bool write_piece(struct or_layered *l, struct or_io *io)
{
    uint64_t from = io->offset + io->progress, to = or_io_end(io), cluster = from / OR_LAYER_CLUSTER;
    uint64_t last = (to - 1) / OR_LAYER_CLUSTER, next = (cluster + 1) * OR_LAYER_CLUSTER;
    uint8_t *data = io->data + io->progress;
    const struct or_layer *head = or_layers_head(l);
    if (!writes_directly(l, cluster, from, to) || (uintptr_t)data % head->volume->align != 0)
        return copy_piece(l, io, from, to < next ? to : next, data);
    if (last != cluster && !writes_directly(l, last, from, to))
        to = last * OR_LAYER_CLUSTER;
    struct or_slot *slot = slot_take(l, io, false);
    if (!slot)
        return false;
    slot->kind = OR_SLOT_DIRECT;
    slot->first = cluster;
    slot->count = (to - 1) / OR_LAYER_CLUSTER - cluster + 1;
    slot->entry = OR_LAYER_HERE;
    io->progress += (uint32_t)(to - from);
    slot_start(slot, head, OR_OP_WRITE, io->stage & OR_STAGE_STABLE ? OR_REQ_FUA : 0, from, (uint32_t)(to - from),
               data);
    return true;
}

/* --- zeroes and discards ---------------------------------------------------------------------------- */

static bool deallocates(const struct or_io *io)
{
    return io->op == OR_OP_DISCARD || (io->flags & OR_REQ_UNMAP);
}

/* A part of a cluster. */
static bool zero_part(struct or_layered *l, struct or_io *io, uint64_t from, uint64_t to)
{
    if (io->op == OR_OP_DISCARD) { /* a hint */
        io->progress += (uint32_t)(to - from);
        return true;
    }
    if (!l->in_place || !is_here(l, from / OR_LAYER_CLUSTER))
        return copy_piece(l, io, from, to, NULL);
    struct or_slot *slot = slot_take(l, io, false);
    if (!slot)
        return false;
    slot->kind = OR_SLOT_DIRECT;
    io->progress += (uint32_t)(to - from);
    slot_start(slot, or_layers_head(l), OR_OP_WRITE_ZEROES, 0, from, (uint32_t)(to - from), NULL);
    return true;
}

/* Whole clusters that the head has. Until the map that says zeroes is durable, a crash may show what the file has
 * there, so that is zeroed or given back before; it is given back whatever the map is to say, so the order does not
 * matter. */
static bool zero_here(struct or_layered *l, struct or_io *io, uint64_t cluster, uint64_t count)
{
    const struct or_layer *head = or_layers_head(l);
    struct or_slot *slot = slot_take(l, io, false);
    if (!slot)
        return false;
    slot->kind = OR_SLOT_DIRECT;
    if (deallocates(io)) {
        slot->first = cluster;
        slot->count = count;
        slot->entry = OR_LAYERS_PLANTED(OR_LAYERS_PLANT_BASE_SHOWS) ? OR_LAYER_BELOW : OR_LAYER_ZEROES;
        slot->hint = true;
    }
    slot_start(slot, head, deallocates(io) ? OR_OP_DISCARD : OR_OP_WRITE_ZEROES, 0, cluster * OR_LAYER_CLUSTER,
               (uint32_t)(count * OR_LAYER_CLUSTER), NULL);
    return true;
}

static bool zero_piece(struct or_layered *l, struct or_io *io)
{
    uint64_t from = io->offset + io->progress, end = or_io_end(io), cluster = from / OR_LAYER_CLUSTER;
    uint64_t next = (cluster + 1) * OR_LAYER_CLUSTER;
    if (!covers(l, cluster, from, end))
        return zero_part(l, io, from, end < next ? end : next);
    uint64_t clusters = or_overlay_clusters(end) - cluster;
    clusters -= !covers(l, cluster + clusters - 1, from, end);
    clusters = clusters < ZERO_CLUSTERS_MAX ? clusters : ZERO_CLUSTERS_MAX;
    struct or_layer_map *map = or_layers_head(l)->map;
    enum or_layer_entry entry = or_layer_map_get(map, cluster);
    clusters = or_layer_map_run(map, cluster, clusters);
    uint64_t to = (cluster + clusters) * OR_LAYER_CLUSTER;
    to = to < end ? to : end;
    if (entry == OR_LAYER_HERE && !zero_here(l, io, cluster, clusters))
        return false;
    if (entry == OR_LAYER_BELOW && l->count > 1 && !OR_LAYERS_PLANTED(OR_LAYERS_PLANT_BASE_SHOWS))
        or_layer_map_set(map, cluster, clusters, OR_LAYER_ZEROES);
    io->progress += (uint32_t)(to - from);
    return true;
}

/* --- operations ----------------------------------------------------------------------------------- */

static void run(struct or_layered *l, struct or_io *io)
{
    bool goes_on = true;
    io->stage++; /* so that it does not end while it is here */
    while (goes_on && io->progress < io->length && io->status == OR_OK)
        goes_on = io->op == OR_OP_READ    ? read_piece(l, io)
                  : io->op == OR_OP_WRITE ? write_piece(l, io)
                                          : zero_piece(l, io);
    put(l, io);
}

/* A write with OR_REQ_FUA to what is in the head, and known durably to be there, needs no flush: the head's file can
 * promise it alone. */
static bool is_stable(struct or_layered *l, const struct or_io *io)
{
    const struct or_layer_map *map = or_layers_head(l)->map;
    uint64_t first = io->offset / OR_LAYER_CLUSTER, count = or_overlay_clusters(or_io_end(io)) - first;
    if (io->op == OR_OP_WRITE && (io->flags & OR_REQ_FUA) && OR_LAYERS_PLANTED(OR_LAYERS_PLANT_HASTY_FUA))
        return true;
    if (io->op != OR_OP_WRITE || !(io->flags & OR_REQ_FUA) || !l->in_place || !is_here(l, first) ||
        or_layer_map_run(map, first, count) != count)
        return false;
    return map_is_durable(l, first, count);
}

void or_layers_submit(struct or_volume *volume, struct or_io *io)
{
    struct or_layered *l = or_layered_of(volume);
    io->progress = 0;
    io->stage = 0;
    or_list_init(&io->link);
    if (volume->flush_failed && (io->op == OR_OP_FLUSH || (or_op_writes(io->op) && (io->flags & OR_REQ_FUA)))) {
        or_block_end(io, OR_EIO);
    } else if (io->op == OR_OP_FLUSH) {
        or_layers_flush(l, io);
    } else {
        if (is_stable(l, io))
            io->stage = OR_STAGE_STABLE;
        run(l, io);
    }
}
