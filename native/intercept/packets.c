/* Held packets: each epoch has a log of its own, of pages that are in order. A packet is {header, bytes}, packed
 * without regard to pages. The first page's slot says how much of the log counts and how much has gone out: one word
 * each, so that a packet is there wholly or not at all whenever the engine dies. */
#include <errno.h>
#include <string.h>
#include <xxhash.h>

#include "intercept/internal.h"

struct header {
    uint32_t nic, length;
    uint64_t checksum; /* of the bytes, seeded with nic and length */
};

static uint64_t checksum_of(const struct header *h, const uint8_t *bytes)
{
    return XXH3_64bits_withSeed(bytes, h->length, (uint64_t)h->nic << 32 | h->length);
}

/* --- bytes of a log --------------------------------------------------------------------------------- */

/* A place in a log: which page, and where in it. */
struct cursor {
    uint32_t slot, at;
};

static struct cursor seek(const struct or_hold *hold, const struct or_epoch *epoch, uint64_t position)
{
    struct cursor c = {epoch->packets.first, (uint32_t)(position % OR_HOLD_PAGE)};
    for (uint64_t n = position / OR_HOLD_PAGE; n > 0; n--)
        c.slot = hold->links[c.slot].next;
    return c;
}

static void transfer(const struct or_hold *hold, struct cursor *c, uint8_t *bytes, uint32_t length, bool into)
{
    while (length) {
        if (c->at == OR_HOLD_PAGE)
            *c = (struct cursor){hold->links[c->slot].next, 0};
        uint32_t part = OR_HOLD_PAGE - c->at < length ? OR_HOLD_PAGE - c->at : length;
        uint8_t *page = or_hold_page(hold, c->slot) + c->at;
        memcpy(into ? page : bytes, into ? bytes : page, part);
        c->at += part;
        bytes += part;
        length -= part;
    }
}

/* The packet at the cursor, which moves behind it: its bytes, in the page or in d->bounce. NULL: it is not what its
 * checksum says, or longer than `left`, what there is of the log. */
static const uint8_t *get(struct or_domain *d, struct cursor *c, uint64_t left, struct header *h)
{
    if (left < sizeof *h)
        return NULL;
    transfer(d->hold, c, (uint8_t *)h, sizeof *h, false);
    if (!h->length || h->length > OR_DOMAIN_PACKET_MAX || h->length > left - sizeof *h)
        return NULL;
    if (c->at == OR_HOLD_PAGE)
        *c = (struct cursor){d->hold->links[c->slot].next, 0};
    const uint8_t *bytes = d->bounce;
    if (c->at + h->length <= OR_HOLD_PAGE) {
        bytes = or_hold_page(d->hold, c->slot) + c->at;
        c->at += h->length;
    } else {
        transfer(d->hold, c, d->bounce, h->length, false);
    }
    return checksum_of(h, bytes) == h->checksum ? bytes : NULL;
}

bool or_packets_valid(struct or_domain *d, const struct or_epoch *epoch)
{
    const struct or_hold_slot *log = &d->hold->slots[epoch->packets.first];
    if (log->released > log->bytes || log->bytes > (uint64_t)epoch->packets.count * OR_HOLD_PAGE)
        return false;
    if (log->released == log->bytes)
        return true;
    struct cursor c = seek(d->hold, epoch, log->released);
    struct header h;
    for (uint64_t at = log->released; at < log->bytes; at += sizeof h + h.length)
        if (!get(d, &c, log->bytes - at, &h))
            return false;
    return true;
}

/* --- taking ----------------------------------------------------------------------------------------- */

static bool add_pages(struct or_domain *d, struct or_epoch *epoch, uint64_t pages)
{
    while (epoch->packets.count < pages) {
        uint32_t i = or_domain_take(d);
        if (i == OR_HOLD_NOTHING)
            return false; /* what was added waits for the next packet */
        d->hold->slots[i] = (struct or_hold_slot){.block = epoch->packets.count,
                                                  .epoch = d->open,
                                                  .domain = d->index,
                                                  .kind = OR_HELD_PACKETS,
                                                  .state = OR_SLOT_FREE};
        OR_HOLD_STORE(d->hold->slots[i].state, OR_SLOT_HELD);
        or_epoch_append(d->hold, &epoch->packets, i);
    }
    return true;
}

int or_domain_packet(struct or_domain *d, uint64_t generation, uint32_t nic, const void *bytes, uint32_t length)
{
    if (generation != d->generation) {
        d->info.packets_fenced++;
        return -ESTALE;
    }
    if (!length || length > OR_DOMAIN_PACKET_MAX)
        return -EINVAL;
    if (!or_domain_runs(d))
        return -EIO;
    if (or_domain_fencing(d))
        return -EAGAIN;
    d->fenced = false;
    struct or_epoch *epoch = or_domain_epoch(d, d->open);
    uint64_t at = epoch->packets.count ? d->hold->slots[epoch->packets.first].bytes : 0;
    struct header h = {.nic = nic, .length = length};
    uint64_t end = at + sizeof h + length;
    if (!add_pages(d, epoch, (end + OR_HOLD_PAGE - 1) / OR_HOLD_PAGE))
        return -EAGAIN;
    h.checksum = checksum_of(&h, bytes);
    if (!at)
        epoch->log_end = epoch->packets.first;
    struct cursor c = {epoch->log_end, (uint32_t)(at - d->hold->slots[epoch->log_end].block * OR_HOLD_PAGE)};
    transfer(d->hold, &c, (uint8_t *)&h, sizeof h, true);
    transfer(d->hold, &c, (uint8_t *)(uintptr_t)bytes, length, true); /* only read */
    OR_HOLD_STORE(d->hold->slots[epoch->packets.first].bytes, end);
    epoch->log_end = c.slot;
    d->info.packets++;
    return 0;
}

/* --- release ---------------------------------------------------------------------------------------- */

/* False: no room for more outside. */
static bool release(struct or_domain *d, struct or_epoch *epoch)
{
    if (!epoch->packets.count)
        return true;
    struct or_hold_slot *log = &d->hold->slots[epoch->packets.first];
    if (log->released == log->bytes)
        return true;
    struct cursor c = seek(d->hold, epoch, log->released);
    while (log->released < log->bytes) {
        struct header h;
        const uint8_t *bytes = get(d, &c, log->bytes - log->released, &h);
        assert(bytes); /* ours, or verified when it was taken up */
        if (!d->config.packet(d->config.arg, h.nic, bytes, h.length))
            return false;
        OR_HOLD_STORE(log->released, log->released + sizeof h + h.length);
    }
    return true;
}

void or_release_step(struct or_domain *d)
{
    uint64_t to = d->committed;
    if (OR_INTERCEPT_PLANTED(OR_INTERCEPT_PLANT_RELEASE_EARLY) && d->journal.written > to)
        to = d->journal.written;
    d->release_blocked = false;
    while (d->released < to) {
        if (!release(d, or_domain_epoch(d, d->released + 1))) {
            d->release_blocked = true;
            return;
        }
        d->released++;
    }
}
