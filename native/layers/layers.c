#include "layers/internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* --- where things are ----------------------------------------------------------------------------- */

uint32_t or_layers_find(const struct or_layered *l, uint64_t cluster, uint64_t *run, bool *zero)
{
    uint64_t most = *run;
    uint32_t i = 0;
    enum or_layer_entry entry = OR_LAYER_BELOW;
    for (;; i++) {
        const struct or_layer *layer = &l->layers[i];
        uint64_t clusters = layer->map ? layer->map->clusters : or_overlay_clusters(layer->volume->size);
        if (cluster >= clusters) { /* it ends before: when it was the head, so did the volume */
            entry = OR_LAYER_ZEROES;
            break;
        }
        most = most < clusters - cluster ? most : clusters - cluster;
        entry = OR_LAYER_HERE;
        if (layer->map) {
            entry = or_layer_map_get(layer->map, cluster);
            most = most > 1 ? or_layer_map_run(layer->map, cluster, most) : most;
        }
        if (entry != OR_LAYER_BELOW || i + 1 == l->count)
            break;
    }
    *run = most;
    *zero = entry != OR_LAYER_HERE;
    return i;
}

void or_layers_map(void *layered, uint64_t number, uint64_t *content, uint64_t *content_number)
{
    const struct or_layered *l = layered;
    uint64_t run = 1;
    bool zero;
    *content = l->layers[or_layers_find(l, number, &run, &zero)].content;
    *content_number = number;
}

/* --- layers --------------------------------------------------------------------------------------- */

/* or_volume.failed of every layer. Told on as the failure of what the owner has submitted. */
static void layer_failed(struct or_volume *volume, const struct or_io *io, int error)
{
    struct or_layered *l = volume->owner;
    const struct or_io *upper = io->done == or_slot_done ? OR_CONTAINER(io, struct or_slot, io)->upper
                                                         : OR_CONTAINER(l->flush.current.next, struct or_io, link);
    l->base.flush_failed |= volume->flush_failed;
    if (l->base.failed)
        l->base.failed(&l->base, upper, error);
}

static bool layer_valid(const struct or_layer *layer, bool head, bool last)
{
    if (!layer->map)
        return !head && last && layer->content;
    return layer->content == layer->map->content &&
           layer->volume->size >= layer->map->data_offset + layer->map->clusters * OR_LAYER_CLUSTER;
}

/* What the volume says of itself, by its layers. */
static void describe(struct or_layered *l)
{
    const struct or_volume *head = l->layers[0].volume;
    l->base.direct = false;
    l->base.align = 1;
    for (uint32_t i = 0; i < l->count; i++) {
        struct or_volume *volume = l->layers[i].volume;
        volume->owner = l;
        volume->failed = layer_failed;
        l->base.direct |= volume->direct;
        l->base.align = volume->align > l->base.align ? volume->align : l->base.align;
        l->base.flush_failed |= volume->flush_failed;
    }
    l->base.read_only = head->read_only;
    l->base.fd = head->fd;
    l->base.discard_granularity = head->read_only ? 0 : OR_LAYER_CLUSTER;
    l->base.write_zeroes = !head->read_only;
    l->in_place = head->block_size <= l->base.block_size && head->align <= l->base.block_size;
}

/* --- or_backend_ops ------------------------------------------------------------------------------- */

static void layers_enter(struct or_volume *volume, struct or_uring *uring)
{
    struct or_layered *l = or_layered_of(volume);
    for (uint32_t i = 0; i < l->count; i++)
        or_volume_enter(l->layers[i].volume, uring);
}

static void free_layered(struct or_layered *l)
{
    free(l->flush.staging);
    free(l->buffers);
    free(l);
}

static void layers_close(struct or_volume *volume)
{
    struct or_layered *l = or_layered_of(volume);
    assert(volume->in_flight == 0 && !l->flush.running);
    for (uint32_t i = 0; i < l->count; i++) {
        l->layers[i].volume->ops->close(l->layers[i].volume);
        or_layer_map_free(l->layers[i].map);
    }
    free_layered(l);
}

static const struct or_backend_ops layers_ops = {
    .name = "layers", .submit = or_layers_submit, .enter = layers_enter, .close = layers_close};

bool or_layers_is(const struct or_volume *volume)
{
    return volume->ops == &layers_ops;
}

/* --- making --------------------------------------------------------------------------------------- */

static bool chain_valid(const struct or_layer *layers, uint32_t count, uint32_t block_size)
{
    for (uint32_t i = 0; i < count; i++)
        if (!layer_valid(&layers[i], i == 0, i + 1 == count))
            return false;
    return layers[0].map->size % block_size == 0;
}

static int allocate(struct or_layered *l)
{
    uint32_t pages = l->layers[0].map->pages;
    l->flush.staged_max = pages < OR_LAYERS_STAGED_MAX ? pages : OR_LAYERS_STAGED_MAX;
    l->flush.staging = aligned_alloc(OR_OVERLAY_PAGE, (size_t)l->flush.staged_max * OR_OVERLAY_PAGE);
    l->buffers = aligned_alloc(OR_BLOCK_ALIGN_MAX, (size_t)OR_LAYERS_BUFFERED_SLOTS * OR_LAYER_CLUSTER);
    return l->flush.staging && l->buffers ? 0 : -ENOMEM;
}

static void prepare(struct or_layered *l)
{
    struct or_list *const lists[] = {&l->plain,  &l->buffered,      &l->plain_waiting, &l->buffered_waiting,
                                     &l->copies, &l->flush.waiting, &l->flush.current};
    for (size_t n = 0; n < sizeof lists / sizeof *lists; n++)
        or_list_init(lists[n]);
    for (uint32_t n = 0; n < OR_LAYERS_SLOTS; n++) {
        struct or_slot *slot = &l->slots[n];
        slot->layered = l;
        slot->buffer = n < OR_LAYERS_BUFFERED_SLOTS ? l->buffers + (size_t)n * OR_LAYER_CLUSTER : NULL;
        or_list_init(&slot->waiters);
        or_list_append(slot->buffer ? &l->buffered : &l->plain, &slot->link);
    }
    l->map_synced = true;
}

struct or_volume *or_layers_volume(const struct or_layer *layers, uint32_t count, int *err)
{
    *err = -EINVAL;
    if (count == 0 || count > OR_LAYERS_MAX)
        return NULL;
    const struct or_layer *last = &layers[count - 1];
    uint32_t block_size = last->map ? 512 : last->volume->block_size;
    if (!chain_valid(layers, count, block_size))
        return NULL;
    *err = -ENOMEM;
    struct or_layered *l = calloc(1, sizeof *l);
    if (!l)
        return NULL;
    memcpy(l->layers, layers, count * sizeof *layers);
    l->count = count;
    if (allocate(l) != 0) {
        free_layered(l);
        return NULL;
    }
    l->base = (struct or_volume){.ops = &layers_ops,
                                 .size = layers[0].map->size,
                                 .block_size = block_size,
                                 .physical_block_size = OR_LAYER_CLUSTER};
    describe(l);
    prepare(l);
    *err = 0;
    return &l->base;
}

int or_layers_push(struct or_volume *layered, const struct or_layer *head)
{
    struct or_layered *l = or_layered_of(layered);
    const struct or_layer_map *map = l->layers[0].map;
    assert(layered->in_flight == 0);
    if (map->dirty_pages || !l->map_synced || layered->flush_failed)
        return -EBUSY;
    if (l->count == OR_LAYERS_MAX)
        return -EMLINK;
    if (!layer_valid(head, true, false) || head->map->size != layered->size || head->map->here || head->map->zeroes)
        return -EINVAL;
    memmove(&l->layers[1], &l->layers[0], l->count * sizeof l->layers[0]);
    l->layers[0] = *head;
    l->count++;
    describe(l);
    return 0;
}

int or_layers_rebase(struct or_volume *layered, const struct or_layer *below, uint32_t count)
{
    struct or_layered *l = or_layered_of(layered);
    struct or_layer layers[OR_LAYERS_MAX] = {l->layers[0]};
    assert(layered->in_flight == 0);
    if (count >= OR_LAYERS_MAX)
        return -EINVAL;
    memcpy(&layers[1], below, count * sizeof *below);
    const struct or_layer *last = &layers[count];
    if (!chain_valid(layers, count + 1, layered->block_size) ||
        (last->map ? 512 : last->volume->block_size) != layered->block_size)
        return -EINVAL;
    for (uint32_t i = 1; i < l->count; i++) {
        l->layers[i].volume->ops->close(l->layers[i].volume);
        or_layer_map_free(l->layers[i].map);
    }
    memcpy(l->layers, layers, (count + 1) * sizeof *layers);
    l->count = count + 1;
    describe(l);
    return 0;
}

uint32_t or_layers_count(const struct or_volume *layered)
{
    return or_layered_of(layered)->count;
}

uint64_t or_layers_continued(const struct or_volume *layered, uint32_t index)
{
    const struct or_layered *l = or_layered_of(layered);
    bool continued = index < l->count && l->layers[index - 1].map->continues == l->layers[index].content;
    return continued ? l->layers[index].content : 0;
}

struct or_layer_info or_layers_info(const struct or_volume *layered, uint32_t index)
{
    const struct or_layered *l = or_layered_of(layered);
    const struct or_layer *layer = &l->layers[index];
    assert(index < l->count);
    return (struct or_layer_info){.content = layer->content,
                                  .raw = !layer->map,
                                  .clusters = layer->map ? layer->map->here : 0,
                                  .zeroes = layer->map ? layer->map->zeroes : 0};
}
