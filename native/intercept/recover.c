/* Opening a domain: what the journal and the region have of it.
 *
 *   SUPERS ──> CHOOSE ──nothing but zeroes──> format ──> RUNNING
 *                │
 *                └──> the superblock once more, SUPER_SYNC ──> BEGIN
 *                       ├─the region has it: its slots are taken up, and the entries only checked ──> RUNNING
 *                       └─it has not, or damaged: entries are loaded into slots, and applied ──> REWIND
 *
 *   for each entry:  HEADER ──> TABLE ──> ROOM ──> PAGES ──> ENTRY ──> HEADER ...;  the first that does not count:
 * FINISH
 *
 * An entry counts when its position, its epoch, its generation and all its checksums are right. That does not mean that
 * it is durable: the engine may have died before its sync, or the sync may have failed, after which the kernel shows
 * what it never wrote and the next sync ends well. So nothing is believed before it was written again, as it is and
 * where it is, and synced: the superblock here, entries by the commit that they go through. Only entries that the
 * region knows to be synced need not. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "intercept/internal.h"
#include "intercept/recovery.h"

static struct or_entry *entry_of(const struct or_domain *d)
{
    return (struct or_entry *)d->journal.staging;
}

static void end(struct or_domain *d, enum or_domain_state state, int err)
{
    d->state = state;
    d->again = true;
    if (d->config.opened)
        d->config.opened(d->config.arg, err);
}

static void fail(struct or_domain *d, int err)
{
    end(d, OR_DOMAIN_UNUSABLE, err);
}

/* --- reading ---------------------------------------------------------------------------------------- */

static void io_done(struct or_io *io)
{
    struct or_domain *d = io->volume->owner;
    if (io->status == OR_OK)
        d->recovery->step = d->recovery->then;
    else
        fail(d, -EIO);
    or_domain_pump(d);
}

static void start(struct or_domain *d, uint8_t op, uint64_t offset, uint32_t length, enum or_recovery_step then)
{
    struct or_recovery *r = d->recovery;
    r->step = OR_RECOVERY_BUSY;
    r->then = then;
    r->io = (struct or_io){.op = op, .offset = offset, .length = length, .data = d->journal.staging, .done = io_done};
    or_list_init(&r->io.link);
    or_volume_submit(d->journal.volume, &r->io);
}

static void batch_ended(struct or_batch *batch)
{
    struct or_domain *d = batch->domain;
    if (batch->status == OR_OK)
        d->recovery->step = d->recovery->then;
    else
        fail(d, -EIO);
    or_domain_pump(d);
}

static void start_batch(struct or_domain *d,
                        struct or_volume *(*next)(struct or_batch *batch, uint32_t index, struct or_io *io),
                        void (*each)(struct or_batch *batch, uint32_t index), enum or_recovery_step then)
{
    struct or_recovery *r = d->recovery;
    r->step = OR_RECOVERY_BUSY;
    r->then = then;
    r->batch.domain = d;
    r->batch.next = next;
    r->batch.each = each;
    r->batch.ended = batch_ended;
    or_batch_start(&r->batch);
}

/* --- superblocks ------------------------------------------------------------------------------------ */

static bool all_zero(const uint8_t *bytes, uint64_t length)
{
    return bytes[0] == 0 && memcmp(bytes, bytes + 1, length - 1) == 0;
}

/* What no domain has come to is damage, whatever its checksum says. */
static bool is_possible(const struct or_super *s)
{
    return s->applied < OR_EPOCH_MAX && s->tail < OR_EPOCH_MAX && s->generation;
}

/* The superblock that counts; NULL: there is none. */
static const struct or_super *newest(const struct or_domain *d)
{
    const struct or_super *found = NULL;
    for (uint32_t n = 0; n < OR_JOURNAL_SUPERS; n++) {
        const struct or_super *s = (const struct or_super *)(d->journal.staging + n * OR_HOLD_PAGE);
        if (s->checksum == or_super_checksum(s) && is_possible(s) && (!found || s->sequence > found->sequence))
            found = s;
    }
    return found;
}

static void formatted(struct or_domain *d, bool ok)
{
    if (!ok) {
        fail(d, -EIO);
        return;
    }
    d->generation = d->journal.super.generation;
    d->record->journal_id = d->journal.super.journal_id;
    d->record->committed = d->record->durable = 0;
    d->record->open = d->open = 1;
    OR_HOLD_STORE(d->record->state, OR_RECORD_RUNNING);
    end(d, OR_DOMAIN_RUNNING, 0);
}

static void format(struct or_domain *d)
{
    d->recovery->step = OR_RECOVERY_BUSY;
    d->journal.super.journal_id = d->config.journal_id;
    d->journal.next = (struct or_super){.generation = 1};
    or_journal_mark(d, formatted);
}

/* Also for a domain that the region has, but was interrupted in the state REWIND: it is loaded anew. */
static void begin(struct or_domain *d)
{
    struct or_journal *j = &d->journal;
    struct or_recovery *r = d->recovery;
    const struct or_super *super = &d->journal.super;
    d->generation = super->generation;
    d->open = d->committed = d->freed = d->released = d->journal.written = super->applied;
    d->apply.begun = d->apply.whole = d->settled = super->applied;
    j->last = j->durable = super->applied;
    bool kept = d->record->state == OR_RECORD_RUNNING || d->record->state == OR_RECORD_ABORTING;
    r->load = !kept || !or_take_up(d);
    if (r->load || OR_INTERCEPT_PLANTED(OR_INTERCEPT_PLANT_EXPOSURE_LOST))
        d->record->exposed = 0; /* of a domain in REWIND only its checkpoints can tell: docs/intercept.md */
    if (r->load) {
        or_take_up_drop(d);
        d->record->journal_id = super->journal_id;
        OR_HOLD_STORE(d->record->state, OR_RECORD_REWIND);
    }
    r->committed = super->applied;
    r->position = j->head = j->committed_head = super->tail;
    r->step = OR_RECOVERY_HEADER;
    d->again = true;
}

static void choose(struct or_domain *d)
{
    const struct or_super *super = newest(d);
    bool known = d->record->state != OR_RECORD_NEW;
    if (!super && !known && all_zero(d->journal.staging, OR_JOURNAL_SUPERS * OR_HOLD_PAGE)) {
        format(d);
    } else if (!super || super->domain != d->config.id || (known && super->journal_id != d->record->journal_id)) {
        fail(d, -EBADMSG);
    } else {
        d->journal.super = *super;
        uint32_t page = (uint32_t)(super->sequence % OR_JOURNAL_SUPERS);
        memmove(d->journal.staging, d->journal.staging + page * OR_HOLD_PAGE, OR_HOLD_PAGE);
        start(d, OR_OP_WRITE, page * OR_HOLD_PAGE, OR_HOLD_PAGE, OR_RECOVERY_SUPER_SYNC);
    }
}

/* --- an entry --------------------------------------------------------------------------------------- */

/* What is in the first 64 bytes can be believed so far as that it was written by us, in one piece. */
static bool header_counts(const struct or_domain *d)
{
    const struct or_super *super = &d->journal.super;
    const struct or_recovery *r = d->recovery;
    const struct or_entry *e = entry_of(d);
    bool generation = e->epoch <= super->fenced || e->generation == super->generation ||
                      OR_INTERCEPT_PLANTED(OR_INTERCEPT_PLANT_STALE_ENTRY);
    bool next = e->empty <= OR_DOMAIN_EMPTY && e->epoch > r->committed && e->epoch <= r->committed + 1 + e->empty;
    return e->journal_id == super->journal_id && next && e->position == r->position && generation &&
           e->pages <= e->count && or_entry_header_pages(e->count) + e->pages <= d->journal.ring;
}

static struct or_volume *next_table(struct or_batch *batch, uint32_t index, struct or_io *io)
{
    (void)index;
    struct or_domain *d = batch->domain;
    struct or_recovery *r = d->recovery;
    uint64_t left = or_entry_header_pages(entry_of(d)->count) - r->at;
    if (!left)
        return NULL;
    uint64_t pages =
        or_journal_run(&d->journal, r->position + r->at, left < OR_BATCH_RUN_MAX ? left : OR_BATCH_RUN_MAX);
    io->op = OR_OP_READ;
    io->offset = or_journal_offset(&d->journal, r->position + r->at);
    io->length = (uint32_t)(pages * OR_HOLD_PAGE);
    io->data = d->journal.staging + r->at * OR_HOLD_PAGE;
    r->at += pages;
    return d->journal.volume;
}

static void read_table(struct or_domain *d)
{
    struct or_recovery *r = d->recovery;
    if (!header_counts(d)) {
        r->step = OR_RECOVERY_FINISH;
        d->again = true;
    } else if (or_entry_header_pages(entry_of(d)->count) > d->journal.staging_pages) {
        fail(d, -EFBIG);
    } else {
        r->at = 1; /* the first page is here */
        start_batch(d, next_table, NULL, OR_RECOVERY_ROOM);
    }
}

static bool table_counts(const struct or_domain *d)
{
    struct or_entry *e = entry_of(d);
    if (e->checksum != or_entry_checksum(e))
        return false;
    uint32_t pages = 0;
    for (uint32_t n = 0; n < e->count; n++) {
        const struct or_entry_block *b = &or_entry_table(e)[n];
        if ((b->kind != OR_HELD_WRITE && b->kind != OR_HELD_ZEROES) || !b->mask)
            return false;
        pages += b->kind == OR_HELD_WRITE;
    }
    return pages == e->pages;
}

/* --- its pages -------------------------------------------------------------------------------------- */

static struct or_volume *next_page(struct or_batch *batch, uint32_t index, struct or_io *io)
{
    struct or_domain *d = batch->domain;
    struct or_recovery *r = d->recovery;
    const struct or_entry *e = entry_of(d);
    const struct or_entry_block *table = or_entry_table(entry_of(d));
    while (r->block < e->count && table[r->block].kind != OR_HELD_WRITE) {
        r->block++;
        r->slot = r->load ? d->hold->links[r->slot].next : 0;
    }
    if (r->block == e->count || r->torn)
        return NULL;
    io->op = OR_OP_READ;
    io->offset = or_journal_offset(&d->journal, r->position + r->at++);
    io->length = OR_HOLD_PAGE;
    io->data = r->load ? or_hold_page(d->hold, r->slot) : r->scratch + index * OR_HOLD_PAGE;
    r->blocks[index] = r->block++;
    r->slot = r->load ? d->hold->links[r->slot].next : 0;
    return d->journal.volume;
}

static void page_read(struct or_batch *batch, uint32_t index)
{
    struct or_domain *d = batch->domain;
    struct or_recovery *r = d->recovery;
    const struct or_entry_block *b = &or_entry_table(entry_of(d))[r->blocks[index]];
    uint64_t is = or_page_checksum(batch->ios[index].io.data, b->volume, b->block, entry_of(d)->epoch);
    if (is != b->checksum && !OR_INTERCEPT_PLANTED(OR_INTERCEPT_PLANT_TORN_ENTRY))
        r->torn = true;
}

static void read_pages(struct or_domain *d)
{
    struct or_recovery *r = d->recovery;
    struct or_hold *hold = d->hold;
    uint32_t count = entry_of(d)->count;
    if (!table_counts(d)) {
        r->step = OR_RECOVERY_FINISH;
        d->again = true;
        return;
    }
    if (r->load && count > hold->slots_count) {
        fail(d, -EFBIG);
        return;
    }
    if (r->load && (hold->free_count < count || entry_of(d)->epoch - d->freed >= OR_DOMAIN_EPOCHS))
        return; /* until something is applied and freed */
    for (uint32_t n = 0; r->load && n < count; n++) {
        or_epoch_append(hold, &r->slots, or_hold_take(hold));
        d->slots++;
    }
    r->at = or_entry_header_pages(count);
    r->block = 0;
    r->torn = false;
    r->slot = r->slots.first;
    start_batch(d, next_page, page_read, OR_RECOVERY_ENTRY);
}

/* --- the end of an entry ------------------------------------------------------------------------------ */

/* False: it has a block twice. */
static bool publish(struct or_domain *d, struct or_epoch *epoch)
{
    struct or_recovery *r = d->recovery;
    struct or_hold *hold = d->hold;
    const struct or_entry *e = entry_of(d);
    bool once = true;
    for (uint32_t n = 0, i = r->slots.first, next; n < e->count; n++, i = next) {
        const struct or_entry_block *b = &or_entry_table(entry_of(d))[n];
        next = hold->links[i].next;
        hold->slots[i] = (struct or_hold_slot){.object = b->volume,
                                               .block = b->block,
                                               .epoch = e->epoch,
                                               .checksum = b->checksum,
                                               .domain = d->index,
                                               .kind = b->kind,
                                               .mask = b->mask};
        OR_HOLD_STORE(hold->slots[i].state, OR_SLOT_HELD);
        once &= or_index_insert(hold, i);
        or_epoch_append(hold, &epoch->blocks, i);
    }
    d->goal = once ? e->epoch : d->goal;
    d->open = e->epoch + 1;
    return once;
}

static void give_back(struct or_domain *d)
{
    struct or_hold *hold = d->hold;
    struct or_epoch_slots *slots = &d->recovery->slots;
    for (uint32_t n = slots->count, i = slots->first, next; n > 0; n--, i = next) {
        next = hold->links[i].next;
        or_hold_give(hold, i);
        d->slots--;
    }
}

/* Epochs that the region has, up to this one, and that have no entry: the journal is where it was before them. */
static void pass_empty(struct or_domain *d, uint64_t to)
{
    struct or_recovery *r = d->recovery;
    for (uint64_t e = r->committed > d->freed ? r->committed + 1 : d->freed + 1; !r->load && e <= to; e++)
        or_domain_epoch(d, e)->journal_end = r->position;
}

/* The entry of an epoch that is known to be committed, behind which the journal goes on. */
static void checked(struct or_domain *d, struct or_epoch *epoch)
{
    struct or_recovery *r = d->recovery;
    struct or_journal *j = &d->journal;
    j->head = r->position;
    j->last = j->durable = r->committed;
    if (r->committed > d->freed)
        epoch->journal_end = r->position;
}

static void end_entry(struct or_domain *d)
{
    struct or_recovery *r = d->recovery;
    const struct or_entry *e = entry_of(d);
    d->again = true;
    r->step = OR_RECOVERY_FINISH;
    if (r->torn) {
        give_back(d);
    } else if (!r->load && e->epoch >= d->record->open) {
        fail(d, -EBADMSG); /* committed before it was cut */
        return;
    } else {
        struct or_epoch *epoch = or_domain_epoch(d, e->epoch);
        if (r->load && !publish(d, epoch)) {
            fail(d, -EBADMSG);
            return;
        }
        pass_empty(d, e->epoch - 1);
        if (e->epoch > d->freed)
            epoch->entry = true; /* and stays where it is, whatever is left of its epoch */
        r->position += or_entry_header_pages(e->count) + e->pages;
        r->committed = e->epoch;
        if (!r->load && (e->epoch <= d->record->committed || OR_INTERCEPT_PLANTED(OR_INTERCEPT_PLANT_CACHE_BELIEVED)))
            checked(d, epoch);
        r->step = OR_RECOVERY_HEADER;
    }
    r->slots = (struct or_epoch_slots){0};
}

static void finish(struct or_domain *d)
{
    struct or_recovery *r = d->recovery;
    struct or_journal *j = &d->journal;
    if (!r->load && r->committed < d->record->durable) {
        fail(d, -EBADMSG); /* it has lost what was synced */
        return;
    }
    if (r->load) {
        d->open = d->record->open = r->committed + 1;
        d->record->durable = r->committed;
        OR_HOLD_STORE(d->record->committed, r->committed);
    } else {
        if (d->record->committed > r->committed)
            pass_empty(d, d->record->committed);
        j->committed_head = j->head;
        bool believe = OR_INTERCEPT_PLANTED(OR_INTERCEPT_PLANT_CACHE_BELIEVED);
        d->committed = j->written = believe ? r->committed : d->record->committed;
        d->goal =
            r->committed > d->committed ? r->committed : d->committed; /* what counts beyond that is committed now */
    }
    if (d->apply.begun < r->committed)
        d->apply.begun = r->committed; /* some of it may be below already, and what is there is of no one epoch */
    end(d, r->load ? OR_DOMAIN_REWIND : OR_DOMAIN_RUNNING, 0);
}

void or_recover_failed(struct or_domain *d)
{
    fail(d, -EIO);
}

void or_recover_step(struct or_domain *d)
{
    struct or_recovery *r = d->recovery;
    switch (r->step) {
    case OR_RECOVERY_SUPERS:
        start(d, OR_OP_READ, 0, OR_JOURNAL_SUPERS * OR_HOLD_PAGE, OR_RECOVERY_CHOOSE);
        break;
    case OR_RECOVERY_CHOOSE:
        choose(d);
        break;
    case OR_RECOVERY_SUPER_SYNC:
        start(d, OR_OP_FLUSH, 0, 0, OR_RECOVERY_BEGIN);
        break;
    case OR_RECOVERY_BEGIN:
        begin(d);
        break;
    case OR_RECOVERY_HEADER:
        if (!r->load || d->committed == r->committed)
            start(d, OR_OP_READ, or_journal_offset(&d->journal, r->position), OR_HOLD_PAGE, OR_RECOVERY_TABLE);
        break;
    case OR_RECOVERY_TABLE:
        read_table(d);
        break;
    case OR_RECOVERY_ROOM:
        read_pages(d);
        break;
    case OR_RECOVERY_ENTRY:
        end_entry(d);
        break;
    case OR_RECOVERY_FINISH:
        finish(d);
        break;
    case OR_RECOVERY_BUSY:
        break;
    }
}

int or_recover_start(struct or_domain *d)
{
    d->recovery = calloc(1, sizeof *d->recovery);
    if (d->recovery)
        d->recovery->scratch = aligned_alloc(OR_HOLD_PAGE, OR_BATCH_IOS * OR_HOLD_PAGE);
    return d->recovery && d->recovery->scratch ? 0 : -ENOMEM;
}

void or_recover_free(struct or_domain *d)
{
    if (d->recovery)
        free(d->recovery->scratch);
    free(d->recovery);
}
