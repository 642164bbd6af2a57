/* The region: where things are in it, and which slots are free. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "intercept/internal.h"

#define MAGIC UINT64_C(0x646c6f48724f0001)
#define VERSION 1u

static uint64_t table_pages(uint64_t slots)
{
    return (slots * sizeof(struct or_hold_slot) + OR_HOLD_PAGE - 1) / OR_HOLD_PAGE;
}

uint64_t or_hold_bytes(uint32_t slots)
{
    return (OR_HOLD_RECORDS_PAGES + table_pages(slots) + slots) * OR_HOLD_PAGE;
}

/* The most slots that fit. */
static uint32_t slots_in(uint64_t bytes)
{
    uint64_t slots = bytes / (OR_HOLD_PAGE + sizeof(struct or_hold_slot));
    if (slots > OR_HOLD_SLOTS_MAX)
        slots = OR_HOLD_SLOTS_MAX;
    while (slots && or_hold_bytes((uint32_t)slots) > bytes)
        slots--;
    return (uint32_t)slots;
}

/* --- free slots ------------------------------------------------------------------------------------- */

uint32_t or_hold_take(struct or_hold *hold)
{
    if (!hold->free_count)
        return OR_HOLD_NOTHING;
    uint32_t i = hold->free[hold->free_first];
    hold->free_first = (hold->free_first + 1) % hold->slots_count;
    hold->free_count--;
    return i;
}

static void put_free(struct or_hold *hold, uint32_t i)
{
    hold->free[((uint64_t)hold->free_first + hold->free_count) % hold->slots_count] = i;
    hold->free_count++;
}

void or_hold_give(struct or_hold *hold, uint32_t i)
{
    OR_HOLD_STORE(hold->slots[i].state, OR_SLOT_FREE);
    put_free(hold, i);
}

/* --- taking up and making --------------------------------------------------------------------------- */

static void make(struct or_hold *hold, uint64_t bytes)
{
    hold->header->magic = 0; /* until all is there */
    OR_HOLD_STORE(hold->header->version, VERSION);
    memset(hold->records, 0, OR_HOLD_DOMAINS * sizeof *hold->records);
    memset(hold->slots, 0, hold->slots_count * sizeof *hold->slots);
    hold->header->slots = hold->slots_count;
    hold->header->bytes = bytes;
    OR_HOLD_STORE(hold->header->magic, MAGIC);
}

static bool is_ours(const struct or_hold *hold, uint64_t bytes)
{
    const struct or_hold_header *h = hold->header;
    return h->magic == MAGIC && h->version == VERSION && h->slots == hold->slots_count && h->bytes == bytes;
}

/* Slots of domains that are not open yet are not free, and in no list. */
static void take_up(struct or_hold *hold)
{
    for (uint32_t i = 0; i < hold->slots_count; i++) {
        struct or_hold_slot *slot = &hold->slots[i];
        bool lost = slot->state > OR_SLOT_BUSY || slot->domain >= OR_HOLD_DOMAINS || !hold->records[slot->domain].id;
        if (slot->state != OR_SLOT_FREE && lost)
            slot->state = OR_SLOT_FREE;
        if (slot->state == OR_SLOT_FREE)
            put_free(hold, i);
    }
}

struct or_hold *or_hold_create(void *memory, uint64_t bytes, uint64_t seed, int *err)
{
    uint32_t slots = slots_in(bytes), buckets = 1;
    *err = -EINVAL;
    if (!slots || (uintptr_t)memory % OR_HOLD_PAGE)
        return NULL;
    while (buckets < slots)
        buckets *= 2;
    struct or_hold *hold = calloc(1, sizeof *hold);
    *err = -ENOMEM;
    if (!hold)
        return NULL;
    uint8_t *at = memory;
    hold->header = memory;
    hold->records = (struct or_hold_record *)(hold->header + 1);
    hold->slots = (struct or_hold_slot *)(at + OR_HOLD_RECORDS_PAGES * OR_HOLD_PAGE);
    hold->pages = at + (OR_HOLD_RECORDS_PAGES + table_pages(slots)) * OR_HOLD_PAGE;
    hold->slots_count = slots;
    hold->buckets_mask = buckets - 1;
    hold->seed = seed;
    or_list_init(&hold->domains);
    hold->links = calloc(slots, sizeof *hold->links);
    hold->buckets = malloc(buckets * sizeof *hold->buckets);
    hold->free = malloc(slots * sizeof *hold->free);
    if (!hold->links || !hold->buckets || !hold->free) {
        or_hold_destroy(hold);
        return NULL;
    }
    memset(hold->buckets, 0xff, buckets * sizeof *hold->buckets); /* OR_HOLD_NOTHING */
    hold->kept = is_ours(hold, bytes);
    if (!hold->kept)
        make(hold, bytes);
    take_up(hold);
    *err = 0;
    return hold;
}

void or_hold_destroy(struct or_hold *hold)
{
    while (!or_list_empty(&hold->domains))
        or_domain_discard(OR_CONTAINER(hold->domains.next, struct or_domain, link));
    free(hold->links);
    free(hold->buckets);
    free(hold->free);
    free(hold);
}

/* --- the rest --------------------------------------------------------------------------------------- */

uint64_t or_hold_poll(struct or_hold *hold, uint64_t now_ns)
{
    uint64_t due = UINT64_MAX;
    for (struct or_list *at = hold->domains.next; at != &hold->domains; at = at->next) {
        struct or_domain *d = OR_CONTAINER(at, struct or_domain, link);
        d->now_ns = now_ns;
        or_domain_pump(d);
        uint64_t retry = d->release_blocked ? now_ns + 1000000 : UINT64_MAX;
        if (d->apply.retry_ns > now_ns && d->apply.retry_ns < retry)
            retry = d->apply.retry_ns;
        due = retry < due ? retry : due;
    }
    return due;
}

void or_hold_read_info(const struct or_hold *hold, struct or_hold_info *info)
{
    *info = (struct or_hold_info){.bytes = (uint64_t)hold->slots_count * OR_HOLD_PAGE,
                                  .bytes_free = (uint64_t)hold->free_count * OR_HOLD_PAGE,
                                  .kept = hold->kept};
}
