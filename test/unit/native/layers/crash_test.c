/* Crashes. A layered volume works under random operations, whose parts end in random order; again and again what a
 * crash at that instant could have left is made, opened, and compared with what must be: of every byte, what the last
 * flush that covered it promised, or something that was written since.
 *
 * A crash leaves of what was not synced yet any subset, and each of these writes whole, or torn at a sector or at a
 * byte. OR_SEEDS in the environment: how many worlds. */
#include "layers_fixture.h"

#include <stdio.h>

#define GROUPS 4u         /* places of the volume where something happens */
#define GROUP_CLUSTERS 8u /* the first and the last of them are never written */
#define GROUP_SECTORS (GROUP_CLUSTERS * 8u)
#define OPS 6u
#define VERSIONS 48u
#define STEPS 500u
#define CRASH_EVERY 25u

#define ZEROES UINT64_C(0)
#define DISCARDED UINT64_C(1) /* zeroes, or what was before */
#define FIRST_WRITE UINT64_C(1000)

/* What a sector may show: versions[0] is durable, the others were written since; the last while `writing` is under way.
 */
struct sector {
    uint64_t versions[VERSIONS];
    uint64_t base; /* number of versions that were dropped */
    uint32_t count;
    bool busy, writing;
};

struct under_way {
    struct op op;
    bool used;
    uint32_t group, first, count;            /* sectors */
    uint64_t covered[GROUPS][GROUP_SECTORS]; /* FLUSH: what had ended when it began */
    uint8_t *data;
};

struct world {
    uint64_t rng;
    uint64_t size;
    uint32_t block_size; /* of the head's file */
    struct or_layer layers[3];
    uint32_t count;
    struct or_volume *volume;
    uint64_t places[GROUPS]; /* sector of the volume */
    struct sector sectors[GROUPS][GROUP_SECTORS];
    struct under_way ops[OPS];
    uint64_t next_version;
    uint32_t crashes;
};

static uint64_t draw(struct world *w, uint64_t below)
{
    w->rng ^= w->rng << 13;
    w->rng ^= w->rng >> 7;
    w->rng ^= w->rng << 17;
    return (w->rng * UINT64_C(0x2545f4914f6cdd1d) >> 20) % below;
}

/* What version v has at a byte of the volume. */
static uint8_t byte_of(uint64_t version, uint64_t offset)
{
    if (version <= DISCARDED)
        return 0;
    uint64_t h = (version * UINT64_C(0x9e3779b97f4a7c15)) ^ (offset * UINT64_C(0xc2b2ae3d27d4eb4f));
    return (uint8_t)((h ^ h >> 29) * UINT64_C(0xff51afd7ed558ccd) >> 48);
}

static void fill(uint8_t *to, uint64_t version, uint64_t offset, uint64_t length)
{
    for (uint64_t i = 0; i < length; i++)
        to[i] = byte_of(version, offset + i);
}

/* --- the model ------------------------------------------------------------------------------------------ */

static void drop_before(struct sector *s, uint64_t number)
{
    uint32_t n = (uint32_t)(number - s->base);
    while (n > 0 && s->versions[n] == DISCARDED)
        n--; /* what was before may still be there */
    memmove(s->versions, s->versions + n, (s->count - n) * sizeof s->versions[0]);
    s->base += n;
    s->count -= n;
}

/* Of the versions from `first` on, each byte is of one. */
static void check(struct world *w, const char *who, uint64_t sector, const struct sector *s, uint32_t first,
                  const uint8_t *bytes, bool whole)
{
    bool all = false;
    for (uint32_t v = first; v < s->count && !all; v++) {
        all = true;
        for (uint32_t i = 0; i < SECTOR && all; i++)
            all = bytes[i] == byte_of(s->versions[v], sector * SECTOR + i);
    }
    for (uint32_t i = 0; i < SECTOR && !all && !whole; i++) {
        bool found = s->versions[first] == DISCARDED && bytes[i] == 0;
        for (uint32_t v = first; v < s->count && !found; v++)
            found = bytes[i] == byte_of(s->versions[v], sector * SECTOR + i);
        if (!found)
            fail_msg("%s: byte %u of sector %llu is of none of %u versions from %llu on (crash %u)", who, i,
                     (unsigned long long)sector, s->count - first, (unsigned long long)s->versions[first], w->crashes);
    }
    if (!all && whole)
        fail_msg("%s: sector %llu is none of %u versions from %llu on", who, (unsigned long long)sector,
                 s->count - first, (unsigned long long)s->versions[first]);
}

/* The versions that a read may show now: the last that has ended, and what that leaves open. */
static uint32_t readable(const struct sector *s)
{
    uint32_t n = s->count - 1;
    while (n > 0 && s->versions[n] == DISCARDED)
        n--;
    return n;
}

/* --- crashes -------------------------------------------------------------------------------------------- */

/* What is left of one write. */
static void leave(struct world *w, struct image *image, const struct taped *t)
{
    uint64_t length = t->length;
    switch (draw(w, 4)) {
    case 0:
        return;
    case 1: /* each sector, or not */
        for (uint64_t at = 0; at < t->length; at += SECTOR)
            if (draw(w, 2))
                image_write(image, t->offset + at, SECTOR, t->data ? t->data + at : NULL);
        return;
    case 2: /* up to some byte, or from it on */
        length = draw(w, t->length);
        if (draw(w, 2)) {
            image_write(image, t->offset + length, t->length - length, t->data ? t->data + length : NULL);
            return;
        }
        break;
    default:
        break;
    }
    image_write(image, t->offset, length, t->data);
}

static struct image *crashed(struct world *w, const struct tape *t)
{
    struct image *image = image_copy(t->durable);
    for (const struct taped *at = t->writes; at; at = at->next)
        leave(w, image, at);
    return image;
}

/* Opens what a crash now would leave, and looks at all of it. */
static void crash(struct world *w)
{
    struct or_layer layers[3];
    w->crashes++;
    layers[0] = overlay_open(crashed(w, tape_of(&w->layers[0])), w->block_size);
    for (uint32_t i = 1; i < w->count; i++) {
        struct image *image = image_copy(tape_of(&w->layers[i])->current);
        layers[i] = w->layers[i].map ? overlay_open(image, 512)
                                     : raw_open(image, w->layers[i].volume->size, 512, w->layers[i].content);
    }
    struct or_volume *volume = stack(layers, w->count);
    static uint8_t bytes[GROUP_SECTORS * SECTOR] __attribute__((aligned(PAGE)));
    for (uint32_t g = 0; g < GROUPS; g++) {
        assert_int_equal(run(volume, OR_OP_READ, 0, w->places[g] * SECTOR, sizeof bytes, bytes), OR_OK);
        for (uint32_t s = 0; s < GROUP_SECTORS; s++)
            check(w, "after a crash", w->places[g] + s, &w->sectors[g][s], 0, bytes + s * SECTOR, false);
    }
    unstack(volume, layers, w->count);
}

/* --- operations ------------------------------------------------------------------------------------------- */

static void flush_begins(struct world *w, struct under_way *u)
{
    for (uint32_t g = 0; g < GROUPS; g++)
        for (uint32_t s = 0; s < GROUP_SECTORS; s++) {
            const struct sector *at = &w->sectors[g][s];
            u->covered[g][s] = at->base + at->count - 1 - at->writing;
        }
}

static void flush_ended(struct world *w, struct under_way *u)
{
    for (uint32_t g = 0; g < GROUPS; g++)
        for (uint32_t s = 0; s < GROUP_SECTORS; s++)
            if (u->covered[g][s] > w->sectors[g][s].base)
                drop_before(&w->sectors[g][s], u->covered[g][s]);
}

static void ended(struct world *w, struct under_way *u)
{
    const struct or_io *io = &u->op.io;
    assert_int_equal(io->status, OR_OK);
    u->used = false;
    if (io->op == OR_OP_FLUSH)
        flush_ended(w, u);
    for (uint32_t n = 0; n < u->count; n++) {
        struct sector *s = &w->sectors[u->group][u->first + n];
        s->busy = s->writing = false;
        if (io->op == OR_OP_READ)
            check(w, "read", w->places[u->group] + u->first + n, s, readable(s), u->data + n * SECTOR, false);
        else if (io->flags & OR_REQ_FUA)
            drop_before(s, s->base + s->count - 1);
    }
}

/* Draws a range that nothing else is at; false when it did not find one. */
static bool draw_range(struct world *w, struct under_way *u, bool writes)
{
    u->group = (uint32_t)draw(w, GROUPS);
    u->first = 8 + (uint32_t)draw(w, GROUP_SECTORS - 16);
    u->count = 1 + (uint32_t)draw(w, draw(w, 2) ? 4 : GROUP_SECTORS - 8 - u->first);
    if (draw(w, 2)) { /* whole clusters */
        u->first &= ~7u;
        u->count = (u->count + 7) & ~7u;
    }
    if (u->first + u->count > GROUP_SECTORS - 8)
        u->count = GROUP_SECTORS - 8 - u->first;
    for (uint32_t n = 0; n < u->count; n++) {
        const struct sector *s = &w->sectors[u->group][u->first + n];
        if (s->busy || (writes && s->count == VERSIONS))
            return false;
    }
    return true;
}

static void begin(struct world *w, struct under_way *u)
{
    static const uint8_t codes[] = {OR_OP_READ,  OR_OP_READ,  OR_OP_WRITE,   OR_OP_WRITE,       OR_OP_WRITE,
                                    OR_OP_WRITE, OR_OP_FLUSH, OR_OP_DISCARD, OR_OP_WRITE_ZEROES};
    uint8_t op = codes[draw(w, sizeof codes)], flags = 0;
    u->count = 0;
    if (op == OR_OP_FLUSH) {
        flush_begins(w, u);
        u->used = true;
        submit(w->volume, &u->op, op, 0, 0, 0, NULL);
        return;
    }
    if (!draw_range(w, u, op != OR_OP_READ))
        return;
    uint64_t offset = (w->places[u->group] + u->first) * SECTOR;
    uint64_t version = op == OR_OP_DISCARD ? DISCARDED : op == OR_OP_WRITE ? w->next_version++ : ZEROES;
    for (uint32_t n = 0; n < u->count; n++) {
        struct sector *s = &w->sectors[u->group][u->first + n];
        s->busy = true;
        s->writing = op != OR_OP_READ;
        if (s->writing)
            s->versions[s->count++] = version;
    }
    if (op == OR_OP_WRITE)
        fill(u->data, version, offset, (uint64_t)u->count * SECTOR);
    if (op != OR_OP_READ && op != OR_OP_DISCARD && draw(w, 4) == 0)
        flags |= OR_REQ_FUA;
    if (op == OR_OP_WRITE_ZEROES && draw(w, 2))
        flags |= OR_REQ_UNMAP;
    u->used = true;
    submit(w->volume, &u->op, op, flags, offset, u->count * SECTOR,
           op == OR_OP_READ || op == OR_OP_WRITE ? u->data : NULL);
}

/* --- worlds ----------------------------------------------------------------------------------------------- */

/* The bottom has content in all places, the middle some clusters and some zeroes. */
static void make_layers(struct world *w)
{
    /* The bottom is smaller than the others, and ends within a cluster. */
    uint64_t raw_bytes = (w->places[GROUPS - 1] + GROUP_SECTORS / 2 + 3) * SECTOR;
    struct image *raw = calloc(1, sizeof *raw), *middle = overlay_image(w->size, 22);
    struct or_layer_map *map = or_layer_map_new(w->size, 22);
    uint8_t bytes[CLUSTER];
    bool has_middle = draw(w, 2), has_raw = draw(w, 4) != 0;
    for (uint32_t g = 0; g < GROUPS; g++)
        for (uint32_t c = 0; c < GROUP_CLUSTERS; c++) {
            uint64_t offset = w->places[g] * SECTOR + c * CLUSTER, what = draw(w, 3);
            uint64_t raw_end = offset < raw_bytes ? raw_bytes - offset : 0, version = has_raw ? 10 : ZEROES;
            fill(bytes, 10, offset, CLUSTER);
            image_write(raw, offset, raw_end < CLUSTER ? raw_end : CLUSTER, bytes);
            if (has_middle && what == 1) {
                version = 11;
                fill(bytes, version, offset, CLUSTER);
                image_write(middle, map->data_offset + offset, CLUSTER, bytes);
                or_layer_map_set(map, offset / CLUSTER, 1, OR_LAYER_HERE);
            } else if (has_middle && what == 2) {
                version = ZEROES;
                or_layer_map_set(map, offset / CLUSTER, 1, OR_LAYER_ZEROES);
            }
            for (uint32_t s = 0; s < 8; s++) {
                bool beyond = version == 10 && s * SECTOR >= raw_end;
                w->sectors[g][c * 8 + s] = (struct sector){.versions = {beyond ? ZEROES : version}, .count = 1};
            }
        }
    for (uint32_t page = 0; page < map->pages; page++)
        if (or_layer_map_is_dirty(map, page))
            image_write(middle, OR_OVERLAY_MAP_OFFSET + (uint64_t)page * PAGE, PAGE, map->bits + (uint64_t)page * PAGE);
    or_layer_map_free(map);
    w->layers[w->count++] = overlay_open(overlay_image(w->size, 21), w->block_size);
    if (has_middle)
        w->layers[w->count++] = overlay_open(middle, 512);
    else
        image_free(middle);
    if (has_raw)
        w->layers[w->count++] = raw_open(raw, raw_bytes, 512, 23);
    else
        image_free(raw);
}

static void open_world(struct world *w, uint64_t seed)
{
    *w = (struct world){.rng = seed * UINT64_C(0x9e3779b97f4a7c15) + 1, .next_version = FIRST_WRITE};
    /* A map of one page, of a few, or of more than one round of a flush takes. */
    static const uint64_t sizes[] = {4 * MIB, 256 * MIB, 20 * GIB};
    w->size = sizes[draw(w, 3)] + (draw(w, 2) ? 0 : 3 * SECTOR);
    w->block_size = draw(w, 4) ? 512 : 4096;
    uint64_t clusters = w->size / CLUSTER, part = clusters / GROUPS;
    for (uint32_t g = 0; g < GROUPS; g++) /* across the borders of bytes and pages of the map */
        w->places[g] = (g * part + (draw(w, 2) && part > 4 ? part - 4 - GROUP_CLUSTERS : draw(w, 8))) * 8;
    make_layers(w);
    w->volume = stack(w->layers, w->count);
    for (uint32_t i = 0; i < w->count; i++)
        tape_of(&w->layers[i])->manual = draw(w, 8) != 0;
    for (uint32_t n = 0; n < OPS; n++)
        w->ops[n].data = aligned_alloc(PAGE, GROUP_SECTORS * SECTOR);
}

static void end_some(struct world *w)
{
    struct tape *t = tape_of(&w->layers[draw(w, w->count)]);
    uint32_t waiting = tape_waiting(t);
    if (waiting)
        tape_end(t, (uint32_t)draw(w, waiting));
}

static void see_to_ended(struct world *w)
{
    for (uint32_t n = 0; n < OPS; n++)
        if (w->ops[n].used && w->ops[n].op.done)
            ended(w, &w->ops[n]);
}

static void close_world(struct world *w)
{
    while (w->volume->in_flight)
        for (uint32_t i = 0; i < w->count; i++)
            tape_end_all(tape_of(&w->layers[i]));
    see_to_ended(w);
    unstack(w->volume, w->layers, w->count);
    for (uint32_t n = 0; n < OPS; n++)
        free(w->ops[n].data);
}

static void what_was_flushed_is_there_after_any_crash(void **state)
{
    (void)state;
    const char *wanted = getenv("OR_SEEDS");
    uint64_t seeds = wanted ? strtoull(wanted, NULL, 10) : 150, crashes = 0;
    static struct world w;
    for (uint64_t seed = 1; seed <= seeds; seed++) {
        open_world(&w, seed);
        for (uint32_t step = 0; step < STEPS; step++) {
            struct under_way *u = &w.ops[draw(&w, OPS)];
            if (!u->used && draw(&w, 2))
                begin(&w, u);
            else
                end_some(&w);
            see_to_ended(&w);
            if (draw(&w, CRASH_EVERY) == 0)
                crash(&w);
        }
        crashes += w.crashes;
        close_world(&w);
    }
    print_message("%llu worlds, %llu crashes\n", (unsigned long long)seeds, (unsigned long long)crashes);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(what_was_flushed_is_there_after_any_crash)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
