/* Operations on a volume of a domain, for one generation.
 *
 *   WRITE, WRITE_ZEROES  into slots of the open epoch, block by block; wait where there is no room
 *   READ                 out of slots when all of it is held; else from below, and what is held laid over
 *   FLUSH, DISCARD       end at once: nothing that the outside can see depends on them yet
 *
 * While a read is under way below, what it will lay over may be applied: then what it brings may be older than that,
 * so slots are freed only when all reads that began before have ended (or_retire_step). */
#include <errno.h>
#include <stdlib.h>

#include "intercept/internal.h"

static struct or_door *door_of(const struct or_volume *volume)
{
    return (struct or_door *)volume;
}

static struct or_domain *domain_of(const struct or_io *io)
{
    return door_of(io->volume)->volume->domain;
}

static bool stale(const struct or_io *io)
{
    return door_of(io->volume)->generation != domain_of(io)->generation;
}

static void refuse(struct or_io *io)
{
    struct or_domain *d = domain_of(io);
    bool fenced = stale(io);
    d->info.writes_fenced += fenced;
    or_block_end(io, fenced ? OR_EFENCED : OR_EIO);
}

/* --- reads ------------------------------------------------------------------------------------------ */

static void read_done(struct or_io *lower)
{
    struct or_held_read *read = OR_CONTAINER(lower, struct or_held_read, io);
    struct or_domain *d = read->domain;
    struct or_io *io = read->upper;
    uint8_t status = lower->status;
    if (status == OR_OK)
        or_held_overlay(d->hold, door_of(io->volume)->volume->id, io->offset, io->length, io->data);
    or_list_remove(&read->link);
    or_list_append(&d->reads_free, &read->link);
    or_block_end(io, status);
    or_domain_pump(d); /* a fence or a slot may have waited for it */
}

static bool run_read(struct or_domain *d, struct or_io *io)
{
    struct or_held_volume *v = door_of(io->volume)->volume;
    if (or_held_covers(d->hold, v->id, io->offset, io->length) == 2) {
        or_held_overlay(d->hold, v->id, io->offset, io->length, io->data);
        or_block_end(io, OR_OK);
        return true;
    }
    if (or_list_empty(&d->reads_free))
        return false;
    struct or_held_read *read = OR_CONTAINER(d->reads_free.next, struct or_held_read, link);
    or_list_remove(&read->link);
    or_list_append(&d->reads_open, &read->link);
    read->upper = io;
    read->number = ++d->reads_begun;
    read->io = (struct or_io){
        .op = OR_OP_READ, .offset = io->offset, .length = io->length, .data = io->data, .done = read_done};
    or_list_init(&read->io.link);
    or_volume_submit(v->lower, &read->io);
    return true;
}

/* --- writes ----------------------------------------------------------------------------------------- */

static bool run_write(struct or_domain *d, struct or_io *io)
{
    uint64_t volume = door_of(io->volume)->volume->id;
    while (io->progress < io->length) {
        uint64_t at = io->offset + io->progress, block = at / OR_HOLD_PAGE;
        uint8_t mask = or_held_mask(block, at, io->length - io->progress);
        const uint8_t *data = io->op == OR_OP_WRITE ? io->data + io->progress : NULL;
        if (!or_held_write(d, volume, block, mask, data))
            return false;
        io->progress += (uint32_t)__builtin_popcount(mask) * OR_HOLD_SECTOR;
    }
    or_block_end(io, OR_OK);
    return true;
}

/* --- waiting ---------------------------------------------------------------------------------------- */

static void wait_in(struct or_list *list, struct or_io *io)
{
    struct or_domain *d = domain_of(io);
    or_list_append(list, &io->link);
    d->info.waiting++;
}

static void refuse_waiting(struct or_domain *d, struct or_list *list)
{
    for (struct or_list *at = list->next, *next; at != list; at = next) {
        next = at->next;
        struct or_io *io = OR_CONTAINER(at, struct or_io, link);
        if (!stale(io) && or_domain_runs(d))
            continue;
        or_list_remove(&io->link);
        d->info.waiting--;
        refuse(io);
        next = list->next; /* the owner may have changed the list */
    }
}

static void run_waiting(struct or_domain *d, struct or_list *list, bool (*run)(struct or_domain *d, struct or_io *io))
{
    while (!or_list_empty(list) && !or_domain_fencing(d)) {
        struct or_list *first = list->next;
        or_list_remove(first); /* run may end it, and its owner use it again */
        d->info.waiting--;
        if (!run(d, OR_CONTAINER(first, struct or_io, link))) {
            or_list_prepend(list, first);
            d->info.waiting++;
            return;
        }
    }
}

void or_doors_step(struct or_domain *d)
{
    if (!OR_INTERCEPT_PLANTED(OR_INTERCEPT_PLANT_FENCE_QUEUE))
        refuse_waiting(d, &d->writes_waiting);
    refuse_waiting(d, &d->reads_waiting);
    if (!or_domain_runs(d))
        return;
    run_waiting(d, &d->writes_waiting, run_write);
    run_waiting(d, &d->reads_waiting, run_read);
}

/* --- the volume ------------------------------------------------------------------------------------- */

static void submit(struct or_volume *volume, struct or_io *io)
{
    struct or_domain *d = door_of(volume)->volume->domain;
    or_list_init(&io->link);
    io->progress = 0;
    if (stale(io) || !or_domain_runs(d)) {
        refuse(io);
        return;
    }
    d->fenced = false;
    bool read = io->op == OR_OP_READ;
    struct or_list *waiting = read ? &d->reads_waiting : &d->writes_waiting;
    if (io->op == OR_OP_FLUSH || io->op == OR_OP_DISCARD)
        or_block_end(io, OR_OK);
    else if (or_domain_fencing(d) || !or_list_empty(waiting) || !(read ? run_read(d, io) : run_write(d, io)))
        wait_in(waiting, io);
}

static const uint8_t *peek(struct or_volume *volume, uint64_t offset, uint32_t length)
{
    const struct or_door *door = door_of(volume);
    struct or_domain *d = door->volume->domain;
    struct or_volume *lower = door->volume->lower;
    if (!lower->ops->peek || or_domain_fencing(d) || d->state != OR_DOMAIN_RUNNING ||
        door->generation != d->generation || or_held_covers(d->hold, door->volume->id, offset, length) != 0)
        return NULL;
    const uint8_t *memory = lower->ops->peek(lower, offset, length);
    d->fenced = d->fenced && !memory;
    return memory;
}

static void close_door(struct or_volume *volume)
{
    struct or_door *door = door_of(volume);
    assert(!volume->in_flight);
    or_list_remove(&door->link);
    free(door);
}

static const struct or_backend_ops ops = {.name = "intercept", .submit = submit, .peek = peek, .close = close_door};

struct or_held_volume *or_domain_volume(struct or_domain *d, uint64_t id)
{
    for (struct or_list *at = d->volumes.next; at != &d->volumes; at = at->next) {
        struct or_held_volume *v = OR_CONTAINER(at, struct or_held_volume, link);
        if (v->id == id)
            return v;
    }
    return NULL;
}

int or_domain_add_volume(struct or_domain *d, uint64_t id, struct or_volume *lower)
{
    assert(id);
    if (or_domain_volume(d, id))
        return -EEXIST;
    struct or_held_volume *v = calloc(1, sizeof *v);
    if (!v)
        return -ENOMEM;
    *v = (struct or_held_volume){.domain = d, .id = id, .lower = lower};
    or_list_init(&v->doors);
    or_list_append(&d->volumes, &v->link);
    d->apply.retry_ns = 0; /* what is committed may have waited for it, until the next poll */
    return 0;
}

/* What it peeks is the lower volume's, and given back to that. */
static void lead_to(struct or_door *door, struct or_volume *lower)
{
    door->base.peeked = or_volume_peeked(lower);
}

int or_domain_replace_volume(struct or_domain *d, uint64_t id, struct or_volume *lower)
{
    struct or_held_volume *v = or_domain_volume(d, id);
    if (!v)
        return -ENOENT;
    v->lower = lower;
    for (struct or_list *at = v->doors.next; at != &v->doors; at = at->next)
        lead_to(OR_CONTAINER(at, struct or_door, link), lower);
    return 0;
}

bool or_domain_may_take(struct or_domain *d, uint64_t id)
{
    const struct or_held_volume *v = or_domain_volume(d, id);
    return v && !v->lower->in_flight && (!v->unflushed || d->halted);
}

void or_domain_take_volume(struct or_domain *d, uint64_t id)
{
    struct or_held_volume *v = or_domain_volume(d, id);
    assert(or_domain_may_take(d, id) && or_list_empty(&v->doors));
    or_list_remove(&v->link);
    free(v);
}

struct or_volume *or_domain_attach(struct or_domain *d, uint64_t id, uint64_t generation, int *err)
{
    struct or_held_volume *v = or_domain_volume(d, id);
    struct or_door *door = NULL;
    if (d->state == OR_DOMAIN_OPENING)
        *err = -EAGAIN;
    else if (!v)
        *err = -ENOENT;
    else if (generation > d->generation)
        *err = -ESTALE;
    else if (!(door = calloc(1, sizeof *door)))
        *err = -ENOMEM;
    if (!door)
        return NULL;
    const struct or_volume *lower = v->lower;
    *door =
        (struct or_door){.base = {.ops = &ops, /* that a flush below failed is not its own: the journal has it all */
                                  .size = lower->size,
                                  .block_size = lower->block_size,
                                  .physical_block_size = lower->physical_block_size,
                                  .read_only = lower->read_only,
                                  .direct = lower->direct,
                                  .align = lower->align,
                                  .discard_granularity = lower->discard_granularity,
                                  .write_zeroes = true,
                                  .fd = -1},
                         .volume = v,
                         .generation = generation};
    if (OR_INTERCEPT_PLANTED(OR_INTERCEPT_PLANT_ATTACHED_HELD) && lower->held)
        or_volume_hold(&door->base);
    lead_to(door, v->lower);
    or_list_append(&v->doors, &door->link);
    return &door->base;
}
