/* Held blocks. The index finds the newest slot of a block; from there they are linked to older epochs. */
#include <string.h>
#include <xxhash.h>

#include "intercept/internal.h"

/* --- the index -------------------------------------------------------------------------------------- */

static uint32_t *bucket_of(const struct or_hold *hold, uint64_t volume, uint64_t block)
{
    uint64_t name[2] = {volume, block};
    return &hold->buckets[XXH3_64bits_withSeed(name, sizeof name, hold->seed) & hold->buckets_mask];
}

static bool is_block(const struct or_hold *hold, uint32_t i, uint64_t volume, uint64_t block)
{
    return hold->slots[i].object == volume && hold->slots[i].block == block;
}

/* What points to the block's newest slot; or to nothing, at the end of its bucket. */
static uint32_t *newest_of(const struct or_hold *hold, uint64_t volume, uint64_t block)
{
    uint32_t *at = bucket_of(hold, volume, block);
    while (*at != OR_HOLD_NOTHING && !is_block(hold, *at, volume, block))
        at = &hold->links[*at].chain;
    return at;
}

uint32_t or_index_find(const struct or_hold *hold, uint64_t volume, uint64_t block)
{
    return *newest_of(hold, volume, block);
}

bool or_index_insert(struct or_hold *hold, uint32_t i)
{
    const struct or_hold_slot *slot = &hold->slots[i];
    struct or_slot_links *links = &hold->links[i];
    uint32_t *at = newest_of(hold, slot->object, slot->block);
    uint32_t newest = *at;
    if (newest == OR_HOLD_NOTHING || hold->slots[newest].epoch < slot->epoch) {
        links->older = newest;
        links->chain = newest == OR_HOLD_NOTHING ? OR_HOLD_NOTHING : hold->links[newest].chain;
        *at = i;
        return true;
    }
    while (hold->links[newest].older != OR_HOLD_NOTHING && hold->slots[hold->links[newest].older].epoch >= slot->epoch)
        newest = hold->links[newest].older;
    links->older = hold->links[newest].older;
    hold->links[newest].older = i;
    return hold->slots[newest].epoch != slot->epoch;
}

void or_index_remove(struct or_hold *hold, uint32_t i)
{
    const struct or_hold_slot *slot = &hold->slots[i];
    struct or_slot_links *links = &hold->links[i];
    uint32_t *at = newest_of(hold, slot->object, slot->block);
    if (*at == i) {
        *at = links->older;
        if (links->older == OR_HOLD_NOTHING)
            *at = links->chain;
        else
            hold->links[links->older].chain = links->chain;
        return;
    }
    uint32_t newer = *at;
    while (hold->links[newer].older != i)
        newer = hold->links[newer].older;
    hold->links[newer].older = links->older;
}

void or_epoch_append(struct or_hold *hold, struct or_epoch_slots *slots, uint32_t i)
{
    hold->links[i].next = OR_HOLD_NOTHING;
    if (slots->count++)
        hold->links[slots->last].next = i;
    else
        slots->first = i;
    slots->last = i;
}

/* --- writing ---------------------------------------------------------------------------------------- */

static void copy(uint8_t *page, uint8_t mask, const uint8_t *data)
{
    uint32_t at = (uint32_t)__builtin_ctz(mask) * OR_HOLD_SECTOR;
    uint32_t bytes = (uint32_t)__builtin_popcount(mask) * OR_HOLD_SECTOR, half = bytes / 2;
    if (!data) {
        memset(page + at, 0, bytes);
        return;
    }
    memcpy(page + at, data, half);
    OR_INTERCEPT_KILL_POINT();
    memcpy(page + at + half, data + half, bytes - half);
}

/* Changes what the open epoch holds of a block, by bytes of a write that has not ended. */
static void overwrite(struct or_hold *hold, uint32_t i, uint8_t mask, const uint8_t *data)
{
    struct or_hold_slot *slot = &hold->slots[i];
    uint8_t *page = or_hold_page(hold, i);
    OR_HOLD_STORE(slot->state, OR_SLOT_BUSY);
    __atomic_signal_fence(__ATOMIC_SEQ_CST); /* nor may anything below pass it */
    if (!data && mask == OR_HOLD_MASK_ALL) {
        OR_HOLD_STORE(slot->kind, OR_HELD_ZEROES); /* first: the page may hold what is not in the mask */
        OR_HOLD_STORE(slot->mask, mask);
    } else {
        if (slot->kind == OR_HELD_ZEROES) {
            memset(page, 0, OR_HOLD_PAGE);
            OR_HOLD_STORE(slot->kind, OR_HELD_WRITE);
        }
        if (OR_INTERCEPT_PLANTED(OR_INTERCEPT_PLANT_MASK_FIRST))
            OR_HOLD_STORE(slot->mask, slot->mask | mask);
        copy(page, mask, data);
        OR_HOLD_STORE(slot->mask, slot->mask | mask);
        slot->checksum = or_page_checksum(page, slot->object, slot->block, slot->epoch);
    }
    OR_HOLD_STORE(slot->state, OR_SLOT_HELD);
}

bool or_held_write(struct or_domain *d, uint64_t volume, uint64_t block, uint8_t mask, const uint8_t *data)
{
    struct or_hold *hold = d->hold;
    uint32_t i = or_index_find(hold, volume, block);
    if (i != OR_HOLD_NOTHING && hold->slots[i].epoch == d->open) {
        overwrite(hold, i, mask, data);
        return true;
    }
    i = or_domain_take(d);
    if (i == OR_HOLD_NOTHING)
        return false;
    struct or_hold_slot *slot = &hold->slots[i];
    bool zeroes = !data && mask == OR_HOLD_MASK_ALL;
    *slot = (struct or_hold_slot){.object = volume,
                                  .block = block,
                                  .epoch = d->open,
                                  .domain = d->index,
                                  .kind = zeroes ? OR_HELD_ZEROES : OR_HELD_WRITE,
                                  .mask = mask,
                                  .state = OR_SLOT_FREE};
    if (OR_INTERCEPT_PLANTED(OR_INTERCEPT_PLANT_MASK_FIRST))
        OR_HOLD_STORE(slot->state, OR_SLOT_BUSY);
    if (!zeroes) {
        copy(or_hold_page(hold, i), mask, data);
        slot->checksum = or_page_checksum(or_hold_page(hold, i), volume, block, d->open);
    }
    OR_HOLD_STORE(slot->state, OR_SLOT_HELD);
    or_index_insert(hold, i);
    or_epoch_append(hold, &or_domain_epoch(d, d->open)->blocks, i);
    return true;
}

/* --- reading ---------------------------------------------------------------------------------------- */

/* The sectors of `need` that are held; where `page` is not NULL they are copied to it, newest first. */
static uint8_t held_of(const struct or_hold *hold, uint64_t volume, uint64_t block, uint8_t need, uint8_t *page)
{
    uint8_t found = 0;
    for (uint32_t i = or_index_find(hold, volume, block); i != OR_HOLD_NOTHING; i = hold->links[i].older) {
        const struct or_hold_slot *slot = &hold->slots[i];
        uint8_t take = slot->mask & need & (uint8_t)~found;
        found |= take;
        for (uint32_t s = 0; page && s < 8; s++) {
            uint32_t at = s * OR_HOLD_SECTOR;
            if ((take >> s & 1) && slot->kind == OR_HELD_ZEROES)
                memset(page + at, 0, OR_HOLD_SECTOR);
            else if (take >> s & 1)
                memcpy(page + at, or_hold_page(hold, i) + at, OR_HOLD_SECTOR);
        }
        if (found == need || OR_INTERCEPT_PLANTED(OR_INTERCEPT_PLANT_READ_MISSES))
            break;
    }
    return found;
}

int or_held_covers(const struct or_hold *hold, uint64_t volume, uint64_t offset, uint32_t length)
{
    bool some = false, all = true;
    for (uint64_t block = offset / OR_HOLD_PAGE; block * OR_HOLD_PAGE < offset + length; block++) {
        uint8_t need = or_held_mask(block, offset, length), held = held_of(hold, volume, block, need, NULL);
        some |= held != 0;
        all &= held == need;
    }
    return all ? 2 : some;
}

void or_held_overlay(const struct or_hold *hold, uint64_t volume, uint64_t offset, uint32_t length, uint8_t *data)
{
    for (uint64_t block = offset / OR_HOLD_PAGE; block * OR_HOLD_PAGE < offset + length; block++) {
        uint8_t need = or_held_mask(block, offset, length);
        uint8_t *page = data + (int64_t)(block * OR_HOLD_PAGE - offset); /* only its needed part is memory of data */
        held_of(hold, volume, block, need, page);
    }
}
