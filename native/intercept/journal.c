/* The journal's writer. An entry is the epoch's table and then its pages, written from where they are held; it is
 * complete when all its checksums agree, so one sync behind all its writes, in whatever order they land, is enough.
 *
 *   | super | super |  ring: ... | header, table | page | page | ... | header, table | ...
 *                                 ^ tail: epoch applied + 1             ^ head
 *
 * What is behind the tail is overwritten only when the superblock that moved the tail is durable. */
#include <string.h>
#include <xxhash.h>

#include "intercept/internal.h"

#define SUPER_MAGIC UINT64_C(0x7375706572724f01)
#define ENTRY_MAGIC UINT64_C(0x7972746e65724f01)

uint64_t or_page_checksum(const uint8_t *page, uint64_t volume, uint64_t block, uint64_t epoch)
{
    uint64_t name[3] = {volume, block, epoch};
    return XXH3_64bits_withSeed(page, OR_HOLD_PAGE, XXH3_64bits(name, sizeof name));
}

uint64_t or_super_checksum(const struct or_super *super)
{
    return super->magic == SUPER_MAGIC ? XXH3_64bits(super, offsetof(struct or_super, checksum)) : ~super->checksum;
}

uint64_t or_entry_checksum(const struct or_entry *entry)
{
    if (entry->magic != ENTRY_MAGIC)
        return ~entry->checksum;
    uint64_t header = XXH3_64bits(entry, offsetof(struct or_entry, checksum));
    return XXH3_64bits_withSeed(entry + 1, entry->count * sizeof(struct or_entry_block), header);
}

/* --- entries ---------------------------------------------------------------------------------------- */

static uint32_t pages_of(const struct or_domain *d, const struct or_epoch *epoch)
{
    uint32_t pages = 0;
    for (uint32_t n = 0, i = epoch->blocks.first; n < epoch->blocks.count; n++, i = d->hold->links[i].next)
        pages += d->hold->slots[i].kind == OR_HELD_WRITE;
    return pages;
}

static void fill_header(struct or_domain *d, uint64_t number, uint32_t pages)
{
    struct or_journal *j = &d->journal;
    const struct or_epoch *epoch = or_domain_epoch(d, number);
    struct or_entry *entry = (struct or_entry *)j->staging;
    struct or_entry_block *table = or_entry_table(entry);
    *entry = (struct or_entry){.magic = ENTRY_MAGIC,
                               .journal_id = j->super.journal_id,
                               .epoch = number,
                               .generation = d->generation,
                               .position = j->head,
                               .empty = number > j->last ? number - 1 - j->last : 0,
                               .count = epoch->blocks.count,
                               .pages = pages};
    for (uint32_t n = 0, i = epoch->blocks.first; n < epoch->blocks.count; n++, i = d->hold->links[i].next) {
        const struct or_hold_slot *slot = &d->hold->slots[i];
        table[n] = (struct or_entry_block){.volume = slot->object,
                                           .block = slot->block,
                                           .checksum = slot->kind == OR_HELD_WRITE ? slot->checksum : 0,
                                           .kind = slot->kind,
                                           .mask = slot->mask};
    }
    uint8_t *end = (uint8_t *)(table + entry->count), *last = j->staging + j->entry.header_pages * OR_HOLD_PAGE;
    memset(end, 0, (size_t)(last - end));
    entry->checksum = or_entry_checksum(entry);
}

/* The next run of the entry's pages: slots that lie behind each other and have content. */
static uint32_t next_run(struct or_domain *d, uint32_t *first)
{
    struct or_journal *j = &d->journal;
    const struct or_hold *hold = d->hold;
    uint32_t i = j->entry.slot;
    while (i != OR_HOLD_NOTHING && hold->slots[i].kind != OR_HELD_WRITE)
        i = hold->links[i].next;
    *first = i;
    if (i == OR_HOLD_NOTHING)
        return 0;
    uint64_t most = or_journal_run(j, j->entry.position, OR_BATCH_RUN_MAX);
    uint32_t run = 1;
    while (run < most && hold->links[i].next == i + 1 && hold->slots[i + 1].kind == OR_HELD_WRITE) {
        i++;
        run++;
    }
    j->entry.slot = hold->links[i].next;
    return run;
}

static struct or_volume *next_write(struct or_batch *batch, uint32_t index, struct or_io *io)
{
    (void)index;
    struct or_domain *d = batch->domain;
    struct or_journal *j = &d->journal;
    uint64_t header_left = j->entry.header_pages - j->entry.header_at, pages;
    uint32_t first;
    if (header_left) {
        pages = or_journal_run(j, j->entry.position, header_left < OR_BATCH_RUN_MAX ? header_left : OR_BATCH_RUN_MAX);
        io->data = j->staging + j->entry.header_at * OR_HOLD_PAGE;
        j->entry.header_at += pages;
    } else {
        pages = next_run(d, &first);
        if (!pages)
            return NULL;
        io->data = or_hold_page(d->hold, first);
    }
    io->op = OR_OP_WRITE;
    io->offset = or_journal_offset(j, j->entry.position);
    io->length = (uint32_t)(pages * OR_HOLD_PAGE);
    j->entry.position += pages;
    return j->volume;
}

static void written(struct or_batch *batch)
{
    struct or_domain *d = batch->domain;
    struct or_journal *j = &d->journal;
    if (batch->status == OR_OK) {
        j->head = or_domain_epoch(d, j->entry.epoch)->journal_end = j->entry.position;
        or_domain_epoch(d, j->entry.epoch)->entry = true;
        j->last = j->entry.epoch;
        j->written = OR_INTERCEPT_PLANTED(OR_INTERCEPT_PLANT_COMMIT_ORDER) ? j->written + 1 : j->entry.epoch;
    } else {
        j->head = j->committed_head; /* what is not synced is written again */
        j->written = d->committed;
        j->last = j->durable;
    }
    or_domain_journaled(d, batch->status == OR_OK);
}

bool or_journal_can_ever(const struct or_domain *d, uint64_t epoch)
{
    const struct or_epoch *e = &d->epochs[epoch % OR_DOMAIN_EPOCHS];
    return or_entry_header_pages(e->blocks.count) + pages_of(d, e) <= d->journal.ring;
}

bool or_journal_write(struct or_domain *d, uint64_t epoch)
{
    struct or_journal *j = &d->journal;
    struct or_epoch *e = or_domain_epoch(d, epoch);
    uint32_t pages = pages_of(d, e);
    uint64_t header = or_entry_header_pages(e->blocks.count);
    if (header + pages > j->ring - (j->head - j->super.tail))
        return false;
    assert(header <= j->staging_pages);
    j->entry.epoch = epoch;
    j->entry.position = j->head;
    j->entry.header_pages = header;
    j->entry.header_at = 0;
    j->entry.slot = e->blocks.count ? e->blocks.first : OR_HOLD_NOTHING;
    fill_header(d, epoch, pages);
    j->batch.domain = d;
    j->batch.next = next_write;
    j->batch.ended = written;
    or_batch_start(&j->batch);
    return true;
}

/* --- syncs ------------------------------------------------------------------------------------------ */

static void start_sync(struct or_domain *d);

static void end_mark(struct or_domain *d, bool ok)
{
    struct or_journal *j = &d->journal;
    j->marking = false;
    if (ok)
        j->super = j->next;
    j->marked(d, ok);
}

static void end_commit(struct or_domain *d, bool ok)
{
    struct or_journal *j = &d->journal;
    j->syncing = false;
    if (ok) {
        d->info.syncs++;
        d->committed = j->syncing_to;
        j->committed_head = j->head;
        j->durable = j->last;
        OR_HOLD_STORE(d->record->durable, j->durable);
        OR_HOLD_STORE(d->record->committed, d->committed);
    }
    or_domain_journaled(d, ok);
}

static void synced(struct or_io *io)
{
    struct or_domain *d = io->volume->owner;
    struct or_journal *j = &d->journal;
    bool ok = io->status == OR_OK;
    bool commit = j->sync_commit || (!ok && j->syncing), mark = j->sync_mark || (!ok && j->mark_written);
    j->sync_busy = j->sync_commit = j->sync_mark = false;
    if (!ok) {
        j->condemned = true;
        j->mark_written = false;
        or_domain_trouble(d, OR_TROUBLE_CONDEMNED);
    }
    if (commit)
        end_commit(d, ok || (mark && OR_INTERCEPT_PLANTED(OR_INTERCEPT_PLANT_ERROR_TAKEN)));
    if (mark)
        end_mark(d, ok);
    start_sync(d);
    or_domain_pump(d);
}

/* One at a time, for all that is written: of two that are under way one may take the error of the other with it, and
 * what it was for would seem durable. */
static void start_sync(struct or_domain *d)
{
    struct or_journal *j = &d->journal;
    if (j->sync_busy || !(j->syncing || j->mark_written))
        return;
    j->sync_busy = true;
    j->sync_commit = j->syncing;
    j->sync_mark = j->mark_written;
    j->mark_written = false;
    j->sync_io = (struct or_io){.op = OR_OP_FLUSH, .done = synced};
    or_list_init(&j->sync_io.link);
    or_volume_submit(j->volume, &j->sync_io);
}

void or_journal_nothing(struct or_domain *d)
{
    d->committed = d->journal.written;
    OR_HOLD_STORE(d->record->committed, d->committed);
    d->again = true;
}

void or_journal_sync(struct or_domain *d)
{
    d->journal.syncing = true;
    d->journal.syncing_to = d->journal.written;
    start_sync(d);
}

/* --- superblocks ------------------------------------------------------------------------------------ */

static void mark_written(struct or_io *io)
{
    struct or_domain *d = io->volume->owner;
    if (io->status == OR_OK && !d->journal.condemned) {
        d->journal.mark_written = true;
        start_sync(d);
    } else {
        end_mark(d, false);
    }
    or_domain_pump(d);
}

void or_journal_mark(struct or_domain *d, void (*marked)(struct or_domain *domain, bool ok))
{
    struct or_journal *j = &d->journal;
    assert(!j->marking);
    j->marking = true;
    j->marked = marked;
    j->next.magic = SUPER_MAGIC;
    j->next.journal_id = j->super.journal_id;
    j->next.domain = d->config.id;
    j->next.sequence = j->super.sequence + 1;
    j->next.checksum = or_super_checksum(&j->next);
    memset(j->super_page, 0, OR_HOLD_PAGE);
    memcpy(j->super_page, &j->next, sizeof j->next);
    j->mark_io = (struct or_io){.op = OR_OP_WRITE,
                                .offset = j->next.sequence % OR_JOURNAL_SUPERS * OR_HOLD_PAGE,
                                .length = OR_HOLD_PAGE,
                                .data = j->super_page,
                                .done = mark_written};
    or_list_init(&j->mark_io.link);
    or_volume_submit(j->volume, &j->mark_io);
}
