/* What each sector may show now and at the boundary of each epoch, and which packets may go out. */
#include "world.h"

#include <string.h>

/* --- sectors ---------------------------------------------------------------------------------------- */

uint64_t stamp_of(uint64_t id, uint32_t volume, uint32_t sector)
{
    return id ? id << 16 | (uint64_t)volume << 12 | sector : 0;
}

void stamp_put(uint8_t *sector, uint64_t stamp)
{
    memset(sector, 0, SECTOR);
    memcpy(sector, &stamp, sizeof stamp);
    memcpy(sector + SECTOR - sizeof stamp, &stamp, sizeof stamp);
}

uint64_t stamp_get(const uint8_t *sector)
{
    uint64_t head, tail;
    memcpy(&head, sector, sizeof head);
    memcpy(&tail, sector + SECTOR - sizeof tail, sizeof tail);
    return head == tail ? head : TORN;
}

/* Two operations of which one writes may not be under way on a sector; nor is one written of which it is not known
 * what it shows. */
bool model_may(const struct guest *g, uint32_t volume, uint8_t op, uint32_t first, uint32_t count)
{
    bool writes = or_op_writes(op);
    for (uint32_t s = first; s < first + count; s++)
        if (g->pending[volume][s] || (writes && g->image.maybe[volume][s] != NONE))
            return false;
    for (uint32_t n = 0; n < UPPER && writes; n++) {
        const struct upper *u = &g->upper[n];
        uint32_t at = (uint32_t)(u->io.offset / SECTOR), length = u->io.length / SECTOR;
        if (u->busy && u->volume == volume && u->io.op == OR_OP_READ && at < first + count && first < at + length)
            return false;
    }
    return true;
}

static bool changes(const struct upper *u)
{
    return u->io.op == OR_OP_WRITE || u->io.op == OR_OP_WRITE_ZEROES;
}

void model_begin(struct guest *g, const struct upper *u)
{
    uint32_t first = (uint32_t)(u->io.offset / SECTOR), count = u->io.length / SECTOR;
    for (uint32_t s = first; changes(u) && s < first + count; s++) {
        g->pending[u->volume][s] = true;
        g->image.maybe[u->volume][s] = stamp_of(u->id, u->volume, s);
    }
}

void model_end(struct guest *g, const struct upper *u, bool happened)
{
    uint32_t first = (uint32_t)(u->io.offset / SECTOR), count = u->io.length / SECTOR;
    for (uint32_t s = first; changes(u) && s < first + count; s++) {
        g->pending[u->volume][s] = false;
        if (!happened)
            continue;
        g->image.now[u->volume][s] = g->image.maybe[u->volume][s];
        g->image.maybe[u->volume][s] = NONE;
    }
}

static bool shows(const struct image *image, uint32_t volume, uint32_t s, uint64_t stamp)
{
    uint64_t now = image->now[volume][s], maybe = image->maybe[volume][s];
    return stamp == now || (maybe != NONE && (stamp == maybe || stamp == TORN));
}

static void require(struct guest *g, const struct image *image, uint32_t volume, uint32_t s, uint64_t stamp,
                    const char *check, const char *when)
{
    if (!shows(image, volume, s, stamp))
        world_fail(&g->c->w, check, "%s: guest %u, volume %u, sector %u shows %llx, not %llx (or %llx)", when, g->index,
                   volume, s, (unsigned long long)stamp, (unsigned long long)image->now[volume][s],
                   (unsigned long long)image->maybe[volume][s]);
}

void model_read(struct guest *g, const struct upper *u)
{
    uint32_t first = (uint32_t)(u->io.offset / SECTOR), count = u->io.length / SECTOR;
    for (uint32_t s = first; s < first + count; s++) {
        uint64_t stamp = stamp_get(u->data + (s - first) * SECTOR);
        require(g, &g->image, u->volume, s, stamp, "wrong data read", "read");
        g->image.now[u->volume][s] = stamp; /* and so it stays */
        g->image.maybe[u->volume][s] = NONE;
    }
}

/* --- epochs ----------------------------------------------------------------------------------------- */

void model_cut(struct guest *g, uint64_t epoch)
{
    g->boundaries[epoch % IMAGES] = g->image;
}

/* Nothing is sure to have happened in this epoch. */
static bool is_nothing(const struct guest *g, uint64_t epoch)
{
    const struct image *is = &g->boundaries[epoch % IMAGES], *was = &g->boundaries[(epoch - 1) % IMAGES];
    for (uint32_t n = 0; n < g->packets_count; n++)
        if (g->packets[n].epoch == epoch && !g->packets[n].perhaps)
            return false;
    for (uint32_t v = 0; v < VOLUMES; v++)
        for (uint32_t s = 0; s < SECTORS; s++)
            if (is->now[v][s] != was->now[v][s] && is->now[v][s] != was->maybe[v][s] &&
                is->maybe[v][s] != was->now[v][s])
                return false;
    return true;
}

uint64_t model_least(const struct guest *g)
{
    uint64_t epoch = g->told;
    for (uint32_t n = 0; n < OR_DOMAIN_EMPTY && epoch > g->outside && is_nothing(g, epoch); n++)
        epoch--;
    return epoch;
}

void model_rewind(struct guest *g, uint64_t epoch)
{
    g->image = g->boundaries[epoch % IMAGES];
    memset(g->pending, 0, sizeof g->pending);
    for (uint32_t n = 0; n < UPPER; n++)
        g->upper[n].busy = false;
    g->open = epoch + 1;
    g->asked = g->told = epoch;
    while (g->packets_count > g->packets_out && g->packets[g->packets_count - 1].epoch > epoch)
        g->packets_count--;
}

void model_on_disk(struct guest *g, uint64_t epoch, const char *when)
{
    const struct image *image = &g->boundaries[epoch % IMAGES];
    for (uint32_t v = 0; v < VOLUMES; v++)
        for (uint32_t s = 0; s < SECTORS; s++)
            require(g, image, v, s, stamp_get(g->disks[v].current + s * SECTOR), "not at an epoch boundary", when);
}

static bool is_at(const struct guest *g, uint64_t epoch)
{
    for (uint32_t v = 0; v < VOLUMES; v++)
        for (uint32_t s = 0; s < SECTORS; s++)
            if (!shows(&g->boundaries[epoch % IMAGES], v, s, stamp_get(g->disks[v].current + s * SECTOR)))
                return false;
    return true;
}

bool model_at_boundary(const struct guest *g, uint64_t from, uint64_t to)
{
    while (from < to && !is_at(g, from))
        from++;
    return is_at(g, from);
}

/* --- packets ---------------------------------------------------------------------------------------- */

static uint8_t filler(uint32_t number, uint32_t i)
{
    return (uint8_t)(number * 31 + i);
}

uint32_t packet_fill(struct guest *g, uint8_t *bytes, uint32_t length)
{
    uint32_t number = g->packets_count;
    memcpy(bytes, &number, sizeof number);
    for (uint32_t i = sizeof number; i < length; i++)
        bytes[i] = filler(number, i);
    return number;
}

void packet_out(struct guest *g, const uint8_t *bytes, uint32_t length)
{
    struct world *w = &g->c->w;
    uint32_t number, next = g->packets_out;
    memcpy(&number, bytes, sizeof number);
    if (g->repeat && number == g->repeat - 1) {
        g->repeat = 0;
        g->c->did[DID_REPEATED]++;
        return;
    }
    while (next < g->packets_count && next != number && g->packets[next].perhaps)
        next++;
    if (next >= g->packets_count || next != number)
        world_fail(w, "packets out of order", "guest %u: packet %u, not %u", g->index, number, next);
    const struct packet *p = &g->packets[number];
    for (uint32_t i = sizeof number; i < length; i++)
        if (bytes[i] != filler(number, i))
            world_fail(w, "packet changed", "guest %u: packet %u, byte %u", g->index, number, i);
    if (length != p->length || p->epoch > g->asked)
        world_fail(w, "released without a commit", "guest %u: packet %u of epoch %llu, commits up to %llu", g->index,
                   number, (unsigned long long)p->epoch, (unsigned long long)g->asked);
    g->outside = p->epoch > g->outside ? p->epoch : g->outside;
    g->packets_out = number + 1;
    g->repeat = 0;
    g->c->did[DID_RELEASED]++;
}
