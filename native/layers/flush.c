/* The order in which things become durable.
 *
 * A flush goes in rounds:
 *
 *   1. copies pages of the map that have changed into the staging memory: what they say has ended already
 *   2. syncs the head's file: so what they say is there is there for certain
 *   3. writes the copies
 *
 * and again for what did not fit, and once more at the end, when there is nothing to copy, so that the sync makes the
 * pages durable. Where no page has changed the flush is one sync. So a map that a crash leaves, torn or not, never
 * says of a cluster that it is here before it is.
 *
 * One flush at a time; those that come meanwhile share the next, which begins after all of them came. */
#include <string.h>

#include "layers/internal.h"

static void begin(struct or_layered *l);
static void begin_round(struct or_layered *l);

static void end_flush(struct or_layered *l, uint8_t status)
{
    struct or_layers_flush *f = &l->flush;
    struct or_list ended;
    or_list_init(&ended);
    for (struct or_io *io; (io = or_io_pop(&f->current)) != NULL;)
        or_list_append(&ended, &io->link);
    l->map_synced = status == OR_OK;
    f->running = false;
    if (!or_list_empty(&f->waiting))
        begin(l);
    for (struct or_io *io; (io = or_io_pop(&ended)) != NULL;)
        or_block_end(io, status);
}

/* --- pages ---------------------------------------------------------------------------------------- */

static void stage(struct or_layered *l)
{
    struct or_layers_flush *f = &l->flush;
    struct or_layer_map *map = or_layers_head(l)->map;
    f->count = 0;
    while (f->count < f->staged_max) {
        f->page = or_layer_map_next_dirty(map, f->page);
        if (f->page == map->pages)
            break;
        memcpy(f->staging + (size_t)f->count * OR_OVERLAY_PAGE, map->bits + (uint64_t)f->page * OR_OVERLAY_PAGE,
               OR_OVERLAY_PAGE);
        or_layer_map_mark(map, f->page, false);
        f->pages[f->count++] = f->page++;
    }
    if (f->count)
        l->map_synced = false;
}

/* They are not written, so they are still to be. */
static void unstage(struct or_layered *l)
{
    for (uint32_t n = 0; n < l->flush.count; n++)
        or_layer_map_mark(or_layers_head(l)->map, l->flush.pages[n], true);
}

static void pages_written(struct or_layered *l)
{
    struct or_layers_flush *f = &l->flush;
    if (--f->outstanding > 0)
        return;
    if (f->status == OR_OK && !OR_LAYERS_PLANTED(OR_LAYERS_PLANT_MAP_UNSYNCED)) {
        begin_round(l);
        return;
    }
    unstage(l);
    end_flush(l, f->status);
}

static void page_write_done(struct or_io *io)
{
    struct or_layered *l = io->volume->owner;
    if (io->status != OR_OK)
        l->flush.status = io->status;
    pages_written(l);
}

/* One write for pages that follow each other. */
static void write_pages(struct or_layered *l)
{
    struct or_layers_flush *f = &l->flush;
    f->outstanding = 1; /* until all have been started */
    for (uint32_t n = 0; n < f->count;) {
        uint32_t run = 1;
        while (n + run < f->count && f->pages[n + run] == f->pages[n] + run)
            run++;
        struct or_io *io = &f->writes[n];
        *io = (struct or_io){.op = OR_OP_WRITE,
                             .offset = OR_OVERLAY_MAP_OFFSET + (uint64_t)f->pages[n] * OR_OVERLAY_PAGE,
                             .length = run * OR_OVERLAY_PAGE,
                             .data = f->staging + (size_t)n * OR_OVERLAY_PAGE,
                             .done = page_write_done};
        or_list_init(&io->link);
        f->outstanding++;
        n += run;
        or_volume_submit(or_layers_head(l)->volume, io);
    }
    pages_written(l);
}

/* --- rounds --------------------------------------------------------------------------------------- */

static void sync_done(struct or_io *io)
{
    struct or_layered *l = io->volume->owner;
    if (io->status != OR_OK) {
        unstage(l);
        end_flush(l, io->status);
    } else if (l->flush.count == 0 || OR_LAYERS_PLANTED(OR_LAYERS_PLANT_MAP_FORGOTTEN)) {
        end_flush(l, OR_OK);
    } else {
        write_pages(l);
    }
}

static void begin_round(struct or_layered *l)
{
    struct or_layers_flush *f = &l->flush;
    struct or_volume *head = or_layers_head(l)->volume;
    stage(l);
    if (f->count && OR_LAYERS_PLANTED(OR_LAYERS_PLANT_MAP_FIRST)) {
        write_pages(l);
        return;
    }
    f->sync = (struct or_io){.op = OR_OP_FLUSH, .done = sync_done};
    or_list_init(&f->sync.link);
    head->flush_failed |= l->base.flush_failed;
    or_volume_submit(head, &f->sync);
}

static void begin(struct or_layered *l)
{
    struct or_layers_flush *f = &l->flush;
    f->running = true;
    f->status = OR_OK;
    f->page = 0;
    for (struct or_io *io; (io = or_io_pop(&f->waiting)) != NULL;)
        or_list_append(&f->current, &io->link);
    begin_round(l);
}

void or_layers_flush(struct or_layered *l, struct or_io *io)
{
    or_list_append(&l->flush.waiting, &io->link);
    if (!l->flush.running)
        begin(l);
}
