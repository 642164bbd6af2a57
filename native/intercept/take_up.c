/* Slots that an earlier engine left in the region become epochs again. It may have died between any two instructions,
 * so a slot may be BUSY, an abort half done, and of the pages of a committed epoch some may be freed, which are below;
 * anything else that does not fit is damage. */
#include "intercept/internal.h"
#include "intercept/recovery.h"

static bool is_of(const struct or_domain *d, uint32_t i)
{
    const struct or_hold_slot *slot = &d->hold->slots[i];
    return slot->state != OR_SLOT_FREE && slot->domain == d->index;
}

/* What was to be freed: applied, or aborted. */
static bool is_over(const struct or_domain *d, const struct or_hold_slot *slot)
{
    const struct or_hold_record *record = d->record;
    if (record->state == OR_RECORD_ABORTING && slot->epoch > record->committed)
        return true;
    if (OR_INTERCEPT_PLANTED(OR_INTERCEPT_PLANT_RECOVERY_FORGETS) && slot->kind != OR_HELD_PACKETS &&
        slot->epoch <= record->committed)
        return true;
    return slot->kind != OR_HELD_PACKETS && slot->epoch <= d->journal.super.applied;
}

static bool is_sound(const struct or_domain *d, uint32_t i)
{
    struct or_hold_slot *slot = &d->hold->slots[i];
    if (slot->kind < OR_HELD_WRITE || slot->kind > OR_HELD_PACKETS || !slot->epoch || slot->epoch > d->record->open ||
        d->record->open - slot->epoch >= OR_DOMAIN_EPOCHS || (slot->kind != OR_HELD_PACKETS && !slot->mask))
        return false;
    if (slot->state == OR_SLOT_BUSY) { /* what it held is there, and something of a write that had not ended */
        slot->checksum = or_page_checksum(or_hold_page(d->hold, i), slot->object, slot->block, slot->epoch);
        OR_HOLD_STORE(slot->state, OR_SLOT_HELD);
        return slot->epoch == d->record->open;
    }
    return slot->kind != OR_HELD_WRITE ||
           slot->checksum == or_page_checksum(or_hold_page(d->hold, i), slot->object, slot->block, slot->epoch);
}

/* Pages of a log, which are mostly found in their order. */
static void insert_page(struct or_hold *hold, struct or_epoch_slots *log, uint32_t i)
{
    uint64_t block = hold->slots[i].block;
    if (!log->count || hold->slots[log->last].block < block) {
        or_epoch_append(hold, log, i);
        return;
    }
    uint32_t *at = &log->first;
    while (hold->slots[*at].block < block)
        at = &hold->links[*at].next;
    hold->links[i].next = *at;
    *at = i;
    log->count++;
}

/* Pages that no log leads to: its first was freed, or they were for a packet that was not taken. */
static void trim(struct or_domain *d, struct or_epoch_slots *log)
{
    struct or_hold *hold = d->hold;
    uint64_t bytes = log->count && hold->slots[log->first].block == 0 ? hold->slots[log->first].bytes : 0;
    uint64_t pages = (bytes + OR_HOLD_PAGE - 1) / OR_HOLD_PAGE;
    struct or_epoch_slots all = *log;
    *log = (struct or_epoch_slots){0};
    for (uint32_t n = all.count, i = all.first, next; n > 0; n--, i = next) {
        next = hold->links[i].next;
        if (log->count < pages && hold->slots[i].block == log->count) {
            or_epoch_append(hold, log, i);
        } else {
            or_hold_give(hold, i);
            d->slots--;
        }
    }
}

/* Of later epochs only their entries say whether they held nothing: all that they held may be freed already. */
static void settle(struct or_domain *d, uint64_t first)
{
    uint64_t applied = d->journal.super.applied, committed = d->record->committed;
    uint64_t older = first - 1 < committed ? first - 1 : committed;
    d->settled = applied > older ? applied : older;
}

static bool take_logs(struct or_domain *d)
{
    uint64_t first = d->open >= OR_DOMAIN_EPOCHS ? d->open - OR_DOMAIN_EPOCHS + 1 : 1, logs = UINT64_MAX;
    for (uint64_t e = d->open; e >= first; e--) {
        struct or_epoch *epoch = or_domain_epoch(d, e);
        trim(d, &epoch->packets);
        if (!epoch->packets.count)
            continue;
        if (!or_packets_valid(d, epoch))
            return false;
        epoch->log_end = epoch->packets.last;
        logs = e;
    }
    settle(d, first);
    d->freed = d->settled < logs ? d->settled : logs - 1; /* their packets may still have to go out */
    d->released = d->freed;
    return d->open - d->freed <= OR_DOMAIN_EPOCHS;
}

/* Its epochs are in the order in which they come to be. `durable` is stored before `committed`. */
static bool is_record_sound(const struct or_domain *d)
{
    const struct or_hold_record *r = d->record;
    return d->journal.super.applied <= r->committed && r->committed < r->open && r->durable < r->open &&
           r->open <= OR_EPOCH_MAX;
}

bool or_take_up(struct or_domain *d)
{
    struct or_hold *hold = d->hold;
    if (d->record->state == OR_RECORD_ABORTING)
        d->record->open = d->record->committed + 1;
    if (!is_record_sound(d))
        return false;
    for (uint32_t i = 0; i < hold->slots_count; i++) {
        if (is_of(d, i) && is_over(d, &hold->slots[i]))
            or_hold_give(hold, i);
        else if (is_of(d, i) && !is_sound(d, i))
            return false;
    }
    OR_HOLD_STORE(d->record->state, OR_RECORD_RUNNING);
    d->open = d->record->open;
    bool twice = false; /* an epoch has a block */
    for (uint32_t i = 0; i < hold->slots_count; i++) {
        if (!is_of(d, i))
            continue;
        struct or_epoch *epoch = or_domain_epoch(d, hold->slots[i].epoch);
        d->slots++;
        if (hold->slots[i].kind == OR_HELD_PACKETS) {
            insert_page(hold, &epoch->packets, i);
        } else {
            twice |= !or_index_insert(hold, i);
            or_epoch_append(hold, &epoch->blocks, i);
        }
    }
    return !twice && take_logs(d);
}

void or_take_up_drop(struct or_domain *d)
{
    for (uint32_t n = 0; n < OR_DOMAIN_EPOCHS; n++) {
        or_domain_free(d, &d->epochs[n].blocks, OR_HOLD_NOTHING);
        or_domain_free(d, &d->epochs[n].packets, OR_HOLD_NOTHING);
        d->epochs[n] = (struct or_epoch){0};
    }
    for (uint32_t i = 0; i < d->hold->slots_count; i++)
        if (is_of(d, i))
            or_hold_give(d->hold, i);
    d->slots = 0;
    d->open = d->freed = d->released = d->settled = d->journal.super.applied;
}
