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

static const struct sector untouched = {.loose = NEVER, .seen = NEVER, .inherited = NEVER};

void model_init(struct checker *c, struct image *image, uint32_t size, uint32_t based)
{
    image->lineage = ++c->next_lineage;
    image->size = size;
    image->based = based;
    for (uint32_t s = 0; s < size; s++) {
        image->sectors[s] = untouched;
        image->sectors[s].zeroed = s < based ? NEVER : 0;
    }
}

int32_t model_begin(struct checker *c, struct image *image, uint8_t op, uint32_t first, uint32_t count)
{
    int32_t id = c->next_write++;
    c->writes[id] = (struct write){image->lineage, first, count};
    for (uint32_t s = first; s < first + count; s++) {
        struct sector *sector = &image->sectors[s];
        sector->latest = id;
        sector->seen = NEVER;
        if (op == OR_OP_WRITE_ZEROES)
            sector->zeroed = id;
        if (op == OR_OP_DISCARD)
            sector->loose = id;
    }
    return id;
}

void model_acked(struct checker *c, struct image *image, int32_t id)
{
    const struct write *w = &c->writes[id];
    for (uint32_t s = w->first; s < w->first + w->count; s++)
        image->sectors[s].acked = id;
}

void model_durable(struct image *image, uint32_t first, uint32_t count, const int32_t *acked)
{
    for (uint32_t s = first; s < first + count; s++) {
        struct sector *sector = &image->sectors[s];
        if (acked[s - first] > sector->floor)
            sector->floor = acked[s - first];
    }
}

/* Which write a sector shows; NEVER: none that it could. */
static int32_t order_of(const struct checker *c, const struct image *image, uint32_t sector, uint64_t stamp)
{
    if (stamp == 0)
        return image->sectors[sector].zeroed;
    if (stamp == BASE_STAMP + sector)
        return sector < image->based ? 0 : NEVER;
    if (stamp >= (uint64_t)c->next_write)
        return NEVER;
    const struct write *w = &c->writes[stamp];
    bool its = w->lineage == image->lineage || (int32_t)stamp == image->sectors[sector].inherited;
    return its && sector >= w->first && sector < w->first + w->count ? (int32_t)stamp : NEVER;
}

static void require(struct checker *c, const struct image *image, uint32_t sector, uint64_t stamp, int32_t least,
                    const char *check, const char *who)
{
    const struct sector *s = &image->sectors[sector];
    int32_t order = order_of(c, image, sector, stamp);
    if (s->loose >= least || (order != NEVER && order >= least && order <= s->latest))
        return;
    world_fail(&c->w, check, "%s, lineage %u, sector %u: %llx (write %d), expected %d .. %d, zeroed by %d", who,
               image->lineage, sector, (unsigned long long)stamp, order, least, s->latest, s->zeroed);
}

void model_check(struct checker *c, struct image *image, uint32_t sector, uint64_t stamp, const char *who)
{
    struct sector *s = &image->sectors[sector];
    require(c, image, sector, stamp, s->acked, "wrong data read", who);
    if (s->loose >= s->acked)
        return;
    /* A write that failed may have happened or not, but once that was seen it stays so. */
    int32_t order = order_of(c, image, sector, stamp);
    if (s->seen != NEVER && s->seen != order)
        world_fail(&c->w, "content changed", "%s, lineage %u, sector %u: write %d, before %d", who, image->lineage,
                   sector, order, s->seen);
    s->seen = order;
}

/* Now it is known what the sector shows, for certain; but for what a discard has left open. */
static void settle(struct checker *c, struct image *image, uint32_t sector, uint64_t stamp)
{
    struct sector *s = &image->sectors[sector];
    int32_t order = order_of(c, image, sector, stamp);
    bool open = s->loose >= s->floor && order < s->loose;
    s->acked = s->latest = s->floor = open ? s->loose : order;
    s->loose = open ? s->loose : NEVER;
    s->seen = NEVER;
}

void model_crashed(struct checker *c, struct image *image, const uint64_t *stamps)
{
    for (uint32_t s = 0; s < image->size; s++) {
        require(c, image, s, stamps[s], image->sectors[s].floor, "flushed write lost", "crash");
        settle(c, image, s, stamps[s]);
    }
}

void model_closed(struct checker *c, struct image *image, const uint64_t *stamps)
{
    for (uint32_t s = 0; s < image->size; s++)
        require(c, image, s, stamps[s], image->sectors[s].acked, "not written out", "close");
}

/* What it shows is at least as new as `least` says, but may not be stable. */
static void surface(struct checker *c, struct image *image, uint32_t n, uint64_t stamp, int32_t least,
                    const char *check, const char *who)
{
    struct sector *s = &image->sectors[n];
    int32_t order = order_of(c, image, n, stamp);
    require(c, image, n, stamp, least, check, who);
    s->acked = order > least ? order : least;
    s->seen = NEVER;
}

void model_lost(struct checker *c, struct image *image, const uint64_t *stamps)
{
    for (uint32_t s = 0; s < image->size; s++)
        surface(c, image, s, stamps[s], image->sectors[s].floor, "flushed write lost", "close with losses");
}

void model_killed(struct checker *c, struct image *image, const uint64_t *stamps, bool kept)
{
    for (uint32_t s = 0; s < image->size; s++)
        surface(c, image, s, stamps[s], kept ? image->sectors[s].acked : image->sectors[s].floor,
                kept ? "acknowledged write lost" : "flushed write lost", "kill");
}

void model_kept(struct image *image, bool layered, bool condemned)
{
    for (uint32_t s = 0; layered && s < image->size; s++) {
        image->sectors[s].seen = NEVER;
        if (condemned)
            image->sectors[s].acked = image->sectors[s].floor;
    }
}

void model_cut(struct checker *c, struct image *image, const uint64_t *stamps)
{
    for (uint32_t s = 0; s < image->size; s++) {
        require(c, image, s, stamps[s], image->sectors[s].acked, "not in the snapshot", "cut");
        settle(c, image, s, stamps[s]);
    }
}

void model_clone(struct checker *c, struct image *image, const struct image *from, uint32_t size)
{
    model_init(c, image, size, from->based);
    for (uint32_t s = 0; s < size && s < from->size; s++) {
        image->sectors[s] = from->sectors[s];
        image->sectors[s].inherited = from->sectors[s].acked;
    }
}
