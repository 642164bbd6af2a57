/* Committed epochs go into the volumes below, oldest first, and are freed, part by part: who waits for room waits for
 * one part, however large an epoch is.
 *
 *   IDLE ──committed──> WRITE a part ──> FLUSH of all volumes written ──> FLUSHED ──no read of before──> freed ──┐
 *    ^                    │ failed         │ failed                                                              │
 *    ├────── later ───────┴────────────────┘                                                                     │
 *    ├────── no epoch ends in it ────────────────────────────────────────────────────────────────────────────────┤
 *    └────── MARK <── WHOLE <── one does ────────────────────────────────────────────────────────────────────────┘
 *              └─failed─^ later
 *
 * MARK makes the superblock durable that moves the journal's tail behind the last epoch that is whole below: until then
 * a crash of the machine finds all of them in the journal, and one of the engine what is not freed in the region. Older
 * slots are freed before newer ones, so that what the region has left can be written over what is below. After a failed
 * flush everything since the last good one is written again, for a flush that failed may have lost any of it. Not after
 * a failed MARK: its superblock may be there all the same, and then nobody would write the later epochs over the older
 * ones again. */
#include <string.h>

#include "intercept/internal.h"

#define RETRY_NS_MIN UINT64_C(10000000)
#define RETRY_NS_MAX UINT64_C(1000000000)
#define ZEROES_RUN (OR_BLOCK_ZEROES_BYTES / OR_HOLD_PAGE)
#define PARTS 16u            /* of what a domain may hold, */
#define PART_SLOTS_MAX 1024u /* but no more than this */

/* Goes on from `phase` later. Without its volume it is not a trouble: the volume will be added. */
static void failed(struct or_domain *d, enum or_apply_phase phase, uint8_t status)
{
    uint64_t wait = RETRY_NS_MIN << (d->apply.failures < 7 ? d->apply.failures : 7);
    d->apply.failures++;
    d->apply.retry_ns = d->now_ns + (wait < RETRY_NS_MAX ? wait : RETRY_NS_MAX);
    d->apply.phase = phase;
    if (status != OR_ENODEV && !d->halted)
        or_domain_trouble(d, OR_TROUBLE_APPLY);
    or_domain_pump(d);
}

/* --- writing ---------------------------------------------------------------------------------------- */

/* The next sectors of the slot at hand that follow each other; they are taken off its mask. */
static uint8_t next_sectors(uint8_t *mask)
{
    uint32_t first = (uint32_t)__builtin_ctz(*mask), run = *mask >> first;
    uint32_t count = (uint32_t)__builtin_ctz(~run);
    uint8_t sectors = (uint8_t)(((1u << count) - 1) << first);
    *mask &= (uint8_t)~sectors;
    return sectors;
}

static void move_on(struct or_domain *d)
{
    d->apply.slot = d->hold->links[d->apply.slot].next;
    d->apply.mask = d->apply.slot == OR_HOLD_NOTHING ? 0 : d->hold->slots[d->apply.slot].mask;
    d->apply.left--;
}

/* Whether the slot behind this one goes on where it ends, in memory and in the volume. */
static bool goes_on(const struct or_domain *d, uint32_t i)
{
    const struct or_hold_slot *slot = &d->hold->slots[i];
    if (d->hold->links[i].next != i + 1)
        return false;
    return slot[1].object == slot->object && slot[1].block == slot->block + 1 && slot[1].kind == slot->kind &&
           slot[1].mask == OR_HOLD_MASK_ALL;
}

static struct or_volume *next_write(struct or_batch *batch, uint32_t index, struct or_io *io)
{
    (void)index;
    struct or_domain *d = batch->domain;
    if (d->apply.slot == OR_HOLD_NOTHING || !d->apply.left)
        return NULL;
    if (d->halted) {
        batch->status = OR_EIO;
        return NULL;
    }
    uint32_t i = d->apply.slot;
    const struct or_hold_slot *slot = &d->hold->slots[i];
    struct or_held_volume *v = or_domain_volume(d, slot->object);
    if (!v) {
        batch->status = OR_ENODEV; /* until it is added */
        return NULL;
    }
    uint8_t sectors = next_sectors(&d->apply.mask);
    uint32_t at = (uint32_t)__builtin_ctz(sectors) * OR_HOLD_SECTOR;
    io->op = OR_OP_WRITE;
    io->offset = slot->block * OR_HOLD_PAGE + at;
    io->length = (uint32_t)__builtin_popcount(sectors) * OR_HOLD_SECTOR;
    io->data = or_hold_page(d->hold, i) + at;
    while (sectors == OR_HOLD_MASK_ALL && io->length < OR_BATCH_RUN_MAX * OR_HOLD_PAGE && d->apply.left > 1 &&
           goes_on(d, d->apply.slot)) {
        io->length += OR_HOLD_PAGE;
        move_on(d);
        d->apply.mask = 0;
    }
    if (!d->apply.mask)
        move_on(d);
    if (slot->kind == OR_HELD_ZEROES) {
        io->op = v->lower->write_zeroes ? OR_OP_WRITE_ZEROES : OR_OP_WRITE;
        io->data = v->lower->write_zeroes ? NULL : (uint8_t *)(uintptr_t)or_block_zeroes(); /* only read */
    }
    if (slot->block > v->lower->size / OR_HOLD_PAGE || io->offset + io->length > v->lower->size) {
        batch->status = OR_ERANGE; /* another volume than it was, or a block that none has */
        return NULL;
    }
    v->unflushed = true;
    return v->lower;
}

static_assert(OR_BATCH_RUN_MAX <= ZEROES_RUN, "a run of zeroes is written from one piece");

static void write_epoch(struct or_domain *d);

static void epoch_written(struct or_batch *batch)
{
    struct or_domain *d = batch->domain;
    if (batch->status != OR_OK) {
        failed(d, OR_APPLY_IDLE, batch->status);
        return;
    }
    if (d->apply.slot == OR_HOLD_NOTHING)
        d->apply.whole = d->apply.epoch;
    if (d->apply.pauses && d->apply.whole == d->apply.begun)
        d->apply.to = d->apply.whole;
    if (d->apply.left && d->apply.epoch < d->apply.to) {
        d->apply.epoch++;
        write_epoch(d);
    } else {
        d->apply.reads = d->reads_begun;
        d->apply.phase = OR_APPLY_FLUSH;
        or_domain_pump(d);
    }
}

static void write_epoch(struct or_domain *d)
{
    const struct or_epoch *e = or_domain_epoch(d, d->apply.epoch);
    if (d->apply.epoch > d->apply.begun)
        d->apply.begun = d->apply.epoch;
    d->apply.whole = d->apply.epoch - 1; /* what is written once more goes back behind what is there */
    d->apply.slot = e->blocks.count ? e->blocks.first : OR_HOLD_NOTHING;
    d->apply.mask = e->blocks.count ? d->hold->slots[e->blocks.first].mask : 0;
    d->apply.batch.domain = d;
    d->apply.batch.next = next_write;
    d->apply.batch.ended = epoch_written;
    or_batch_start(&d->apply.batch);
}

static void write_part(struct or_domain *d, uint64_t to)
{
    uint32_t part = d->slots_max / PARTS;
    d->apply.phase = OR_APPLY_WRITE;
    d->apply.left = part < PART_SLOTS_MAX ? part : PART_SLOTS_MAX;
    d->apply.epoch = d->settled + 1;
    d->apply.to = d->apply.failures ? d->apply.epoch : to; /* in small steps where much fails */
    write_epoch(d);
}

/* --- freeing ---------------------------------------------------------------------------------------- */

static bool read_before(const struct or_domain *d, uint64_t number)
{
    if (or_list_empty(&d->reads_open) || OR_INTERCEPT_PLANTED(OR_INTERCEPT_PLANT_NO_GRACE))
        return false;
    return OR_CONTAINER(d->reads_open.next, struct or_held_read, link)->number <= number;
}

/* What the part has of an epoch. */
static void free_written(struct or_domain *d, uint64_t epoch)
{
    bool all = epoch < d->apply.epoch || OR_INTERCEPT_PLANTED(OR_INTERCEPT_PLANT_FREE_EPOCH);
    or_domain_free(d, &or_domain_epoch(d, epoch)->blocks, all ? OR_HOLD_NOTHING : d->apply.slot);
}

static void free_part(struct or_domain *d)
{
    uint64_t first = d->settled + 1, last = d->apply.epoch;
    bool reverse = OR_INTERCEPT_PLANTED(OR_INTERCEPT_PLANT_FREE_NEWEST);
    for (uint64_t e = first; e <= last; e++)
        free_written(d, reverse ? last - (e - first) : e);
}

void or_retire_step(struct or_domain *d)
{
    while (d->freed < d->settled && d->freed < d->released) {
        struct or_epoch *e = or_domain_epoch(d, d->freed + 1);
        assert(!e->blocks.count);
        or_domain_free(d, &e->packets, OR_HOLD_NOTHING);
        *e = (struct or_epoch){0};
        d->freed++;
        d->again = true;
    }
}

/* --- flushing --------------------------------------------------------------------------------------- */

static struct or_volume *next_flush(struct or_batch *batch, uint32_t index, struct or_io *io)
{
    (void)index;
    struct or_domain *d = batch->domain;
    for (struct or_list *at = d->volumes.next; at != &d->volumes; at = at->next) {
        struct or_held_volume *v = OR_CONTAINER(at, struct or_held_volume, link);
        if (!v->unflushed)
            continue;
        v->unflushed = false; /* after a failure it is written again anyway */
        io->op = OR_OP_FLUSH;
        return v->lower;
    }
    return NULL;
}

static void flushed(struct or_batch *batch)
{
    struct or_domain *d = batch->domain;
    if (batch->status != OR_OK) {
        failed(d, OR_APPLY_IDLE, batch->status);
        return;
    }
    d->apply.phase = OR_APPLY_FLUSHED;
    or_domain_pump(d);
}

static void flush(struct or_domain *d)
{
    if (OR_INTERCEPT_PLANTED(OR_INTERCEPT_PLANT_FREE_EARLY))
        free_part(d);
    if (OR_INTERCEPT_PLANTED(OR_INTERCEPT_PLANT_TAIL_EARLY)) {
        d->apply.phase = OR_APPLY_FLUSHED;
        d->again = true;
        return;
    }
    d->apply.batch.domain = d;
    d->apply.batch.next = next_flush;
    d->apply.batch.ended = flushed;
    or_batch_start(&d->apply.batch);
}

/* --- marking ---------------------------------------------------------------------------------------- */

static void part_ended(struct or_domain *d)
{
    d->apply.phase = OR_APPLY_IDLE;
    d->apply.failures = 0;
    d->again = true;
}

static void marked(struct or_domain *d, bool ok)
{
    if (!ok) {
        failed(d, OR_APPLY_WHOLE, OR_EIO);
        return;
    }
    d->settled = d->apply.whole;
    part_ended(d);
}

static void mark(struct or_domain *d)
{
    struct or_journal *j = &d->journal;
    j->next = j->super;
    j->next.applied = d->apply.whole;
    j->next.tail = or_domain_epoch(d, d->apply.whole)->journal_end;
    d->apply.phase = OR_APPLY_MARK;
    or_journal_mark(d, marked);
}

void or_apply_step(struct or_domain *d)
{
    uint64_t to = d->committed;
    if (OR_INTERCEPT_PLANTED(OR_INTERCEPT_PLANT_APPLY_EARLY) && d->journal.written > to)
        to = d->journal.written;
    if (d->apply.batch.running || d->halted)
        return;
    while (d->apply.phase == OR_APPLY_IDLE && d->settled < to && or_epoch_empty(or_domain_epoch(d, d->settled + 1)))
        d->settled++;
    bool pauses = d->apply.pauses && d->apply.begun == d->apply.whole;
    if (d->apply.phase == OR_APPLY_IDLE && !pauses && d->settled < to && d->now_ns >= d->apply.retry_ns &&
        !d->journal.condemned) {
        write_part(d, to);
    } else if (d->apply.phase == OR_APPLY_FLUSH) {
        flush(d);
    } else if (d->apply.phase == OR_APPLY_FLUSHED && !read_before(d, d->apply.reads)) {
        free_part(d);
        if (d->apply.whole > d->settled)
            d->apply.phase = OR_APPLY_WHOLE;
        else
            part_ended(d);
        d->again = true;
    } else if (d->apply.phase == OR_APPLY_WHOLE && !d->journal.marking && d->committed >= d->apply.whole &&
               d->now_ns >= d->apply.retry_ns && !d->journal.condemned) {
        mark(d);
    }
}
