/* What may be read of each sector, now and after a crash. Writes are numbered in the order in which they begin; of
 * two that overlap only one is under way, so for a sector the numbers are also the order of time. */
#include "world.h"

#include <string.h>

void stamp_put(uint8_t *sector, uint64_t stamp)
{
    memcpy(sector, &stamp, sizeof stamp);
    memcpy(sector + SECTOR - sizeof stamp, &stamp, sizeof stamp);
}

uint64_t stamp_get(struct checker *c, const uint8_t *sector)
{
    uint64_t head, tail;
    memcpy(&head, sector, sizeof head);
    memcpy(&tail, sector + SECTOR - sizeof tail, sizeof tail);
    if (head != tail)
        world_fail(&c->w, "torn sector", "begins with %llx and ends with %llx", (unsigned long long)head,
                   (unsigned long long)tail);
    return head;
}

void model_init(struct checker *c, uint32_t volume, bool clone)
{
    for (uint32_t s = 0; s < SECTORS; s++)
        c->sides[volume].sectors[s] = (struct sector){.zeroed = clone ? NEVER : 0, .loose = NEVER, .seen = NEVER};
}

int64_t model_begin(struct checker *c, uint32_t volume, uint8_t op, uint32_t first, uint32_t count)
{
    int64_t id = c->next_write++;
    c->writes[id] = (struct write){(uint8_t)volume, first, count};
    for (uint32_t s = first; s < first + count; s++) {
        struct sector *sector = &c->sides[volume].sectors[s];
        sector->latest = id;
        sector->seen = NEVER;
        if (op == OR_OP_WRITE_ZEROES)
            sector->zeroed = id;
        if (op == OR_OP_DISCARD)
            sector->loose = id;
    }
    return id;
}

void model_acked(struct checker *c, uint32_t volume, int64_t id)
{
    const struct write *w = &c->writes[id];
    for (uint32_t s = w->first; s < w->first + w->count; s++)
        c->sides[volume].sectors[s].acked = id;
}

void model_durable(struct checker *c, uint32_t volume, uint32_t first, uint32_t count, const int64_t *acked)
{
    for (uint32_t s = first; s < first + count; s++) {
        struct sector *sector = &c->sides[volume].sectors[s];
        if (acked[s - first] > sector->floor)
            sector->floor = acked[s - first];
    }
}

/* Which write a sector shows; NEVER: none that it could. */
static int64_t order_of(const struct checker *c, uint32_t volume, uint32_t sector, uint64_t stamp)
{
    if (stamp == 0)
        return c->sides[volume].sectors[sector].zeroed;
    if (stamp == BASE_STAMP + sector)
        return c->disks[volume].clone ? 0 : NEVER;
    if (stamp >= (uint64_t)c->next_write)
        return NEVER;
    const struct write *w = &c->writes[stamp];
    return w->volume == volume && sector >= w->first && sector < w->first + w->count ? (int64_t)stamp : NEVER;
}

static void require(struct checker *c, uint32_t volume, uint32_t sector, uint64_t stamp, int64_t least,
                    const char *check, const char *who)
{
    const struct sector *s = &c->sides[volume].sectors[sector];
    int64_t order = order_of(c, volume, sector, stamp);
    if (s->loose >= least || (order != NEVER && order >= least && order <= s->latest))
        return;
    world_fail(&c->w, check, "%s, volume %u, sector %u: %llx (write %lld), expected %lld .. %lld, zeroed by %lld", who,
               volume, sector, (unsigned long long)stamp, (long long)order, (long long)least, (long long)s->latest,
               (long long)s->zeroed);
}

void model_check(struct checker *c, uint32_t volume, uint32_t sector, uint64_t stamp, const char *who)
{
    struct sector *s = &c->sides[volume].sectors[sector];
    require(c, volume, sector, stamp, s->acked, "wrong data read", who);
    if (s->loose >= s->acked)
        return;
    /* A write that failed may have happened or not, but once that was seen it stays so. */
    int64_t order = order_of(c, volume, sector, stamp);
    if (s->seen != NEVER && s->seen != order)
        world_fail(&c->w, "content changed", "%s, volume %u, sector %u: write %lld, before %lld", who, volume, sector,
                   (long long)order, (long long)s->seen);
    s->seen = order;
}

void model_crashed(struct checker *c, uint32_t volume, uint32_t sector, uint64_t stamp)
{
    struct sector *s = &c->sides[volume].sectors[sector];
    require(c, volume, sector, stamp, s->floor, "flushed write lost", "crash");
    int64_t order = order_of(c, volume, sector, stamp);
    bool undefined = order == NEVER || order < s->floor || order > s->latest; /* a discard allows it */
    s->acked = s->latest = s->floor = undefined ? s->loose : order;
    s->loose = undefined ? s->loose : NEVER;
    s->seen = NEVER;
}

void model_closed(struct checker *c, uint32_t volume, uint32_t sector, uint64_t stamp)
{
    require(c, volume, sector, stamp, c->sides[volume].sectors[sector].acked, "not written out", "close");
}
