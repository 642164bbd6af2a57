/* Merges of two sealed layers, and what volumes see of them: nothing. A world has an upper layer and a lower one, an
 * overlay over a bottom or raw; a merge goes on in parts, whose operations end one by one; and again and again what a
 * crash at that instant could leave of the lower layer is opened below the upper one, as the next engine would.
 * OR_SEEDS in the environment: how many worlds. */
#include "layers/merge.h"

#include <errno.h>
#include <stdio.h>

#include "layers_fixture.h"

#define PLACES 3u
#define PLACE_CLUSTERS 80u /* more than a merge takes at once */
#define PLACE_BYTES (PLACE_CLUSTERS * CLUSTER)

struct world {
    uint64_t rng, size, places[PLACES]; /* bytes */
    uint32_t block_size;
    bool raw; /* the lower layer */
    struct or_layer upper, lower, bottom;
    uint8_t truth[PLACES][PLACE_BYTES];
};

static uint64_t draw(struct world *w, uint64_t below)
{
    w->rng ^= w->rng << 13;
    w->rng ^= w->rng >> 7;
    w->rng ^= w->rng << 17;
    return (w->rng * UINT64_C(0x2545f4914f6cdd1d) >> 20) % below;
}

/* --- worlds ----------------------------------------------------------------------------------------------- */

/* What the volume has of the cluster, when it ends within. */
static uint64_t inside(const struct world *w, uint64_t offset)
{
    return w->size - offset < CLUSTER ? w->size - offset : CLUSTER;
}

static void write_map(struct image *image, struct or_layer_map *map)
{
    for (uint32_t page = 0; page < map->pages; page++)
        if (or_layer_map_is_dirty(map, page))
            image_write(image, OR_OVERLAY_MAP_OFFSET + (uint64_t)page * PAGE, PAGE, map->bits + (uint64_t)page * PAGE);
    or_layer_map_free(map);
}

/* Gives a cluster to some layer; runs of them have the same. */
static void fill_cluster(struct world *w, struct image *image, struct or_layer_map *map, uint8_t *truth,
                         uint64_t offset, uint64_t what)
{
    uint8_t bytes[CLUSTER];
    if (map && what == OR_LAYER_BELOW)
        return;
    memset(truth, 0, CLUSTER);
    if (!map || what == OR_LAYER_HERE) {
        for (uint32_t i = 0; i < CLUSTER; i++)
            bytes[i] = (uint8_t)draw(w, 256);
        memcpy(truth, bytes, inside(w, offset));
        image_write(image, offset + (map ? map->data_offset : 0), map ? CLUSTER : inside(w, offset), bytes);
    }
    if (map)
        or_layer_map_set(map, offset / CLUSTER, 1, (enum or_layer_entry)what);
}

static void fill_layer(struct world *w, struct image *image, struct or_layer_map *map)
{
    for (uint32_t p = 0; p < PLACES; p++) {
        uint64_t what = draw(w, 3);
        for (uint32_t c = 0; c < PLACE_CLUSTERS; c++) {
            uint64_t offset = w->places[p] + c * CLUSTER;
            if (offset >= w->size)
                break;
            if (draw(w, 6) == 0)
                what = draw(w, 3);
            fill_cluster(w, image, map, &w->truth[p][c * CLUSTER], offset, what);
        }
    }
    if (map)
        write_map(image, map);
}

static void open_world(struct world *w, uint64_t seed)
{
    *w = (struct world){.rng = seed * UINT64_C(0x9e3779b97f4a7c15) + 1};
    static const uint64_t sizes[] = {4 * MIB, 256 * MIB, 20 * GIB};
    w->size = sizes[draw(w, 3)] + (draw(w, 2) ? 0 : 3 * SECTOR);
    w->block_size = w->size % 4096 == 0 && draw(w, 2) ? 4096 : 512;
    for (uint32_t p = 0; p < PLACES; p++)
        w->places[p] = w->size / CLUSTER / PLACES * p * CLUSTER;
    w->places[PLACES - 1] = (w->size / CLUSTER + 1 - PLACE_CLUSTERS) * CLUSTER; /* to the end */
    w->raw = draw(w, 2);
    struct image *bottom = calloc(1, sizeof *bottom), *lower = bottom, *upper = overlay_image(w->size, 31);
    fill_layer(w, bottom, NULL);
    if (!w->raw) {
        lower = overlay_image(w->size, 32);
        fill_layer(w, lower, or_layer_map_new(w->size, 32));
        w->bottom = raw_open(bottom, w->size, 512, 33);
    }
    fill_layer(w, upper, or_layer_map_new(w->size, 31));
    w->upper = overlay_open(upper, w->block_size);
    w->lower = w->raw ? raw_open(lower, w->size, w->block_size, 32) : overlay_open(lower, w->block_size);
}

static void close_world(struct world *w)
{
    struct or_layer *const layers[] = {&w->upper, &w->lower, &w->bottom};
    for (uint32_t i = 0; i < 3; i++) {
        if (!layers[i]->volume)
            continue;
        tape_free(tape_of(layers[i]));
        or_layer_map_free(layers[i]->map);
    }
}

/* --- what is seen ----------------------------------------------------------------------------------------- */

static void check_volume(struct world *w, struct or_volume *volume, const char *when)
{
    static uint8_t bytes[PLACE_BYTES] __attribute__((aligned(PAGE)));
    for (uint32_t p = 0; p < PLACES; p++) {
        uint64_t length = w->size - w->places[p] < PLACE_BYTES ? w->size - w->places[p] : PLACE_BYTES;
        assert_int_equal(run(volume, OR_OP_READ, 0, w->places[p], (uint32_t)length, bytes), OR_OK);
        for (uint64_t i = 0; i < length; i++)
            if (bytes[i] != w->truth[p][i])
                fail_msg("%s: byte %llu is %u, not %u", when, (unsigned long long)(w->places[p] + i), bytes[i],
                         w->truth[p][i]);
    }
}

/* Opens copies of what there is: with the lower layer as this image. */
static void check(struct world *w, struct image *lower, bool with_upper, const char *when)
{
    struct or_layer layers[4] = {overlay_open(overlay_image(w->size, 30), 512)};
    uint32_t n = 1;
    if (with_upper)
        layers[n++] = overlay_open(image_copy(tape_of(&w->upper)->current), 512);
    layers[n++] = w->raw ? raw_open(lower, w->size, 512, 32) : overlay_open(lower, 512);
    if (!w->raw)
        layers[n++] = raw_open(image_copy(tape_of(&w->bottom)->current), w->size, 512, 33);
    struct or_volume *volume = stack(layers, n);
    check_volume(w, volume, when);
    unstack(volume, layers, n);
}

/* What is left of one write. */
static void leave(struct world *w, struct image *image, const struct taped *t)
{
    uint64_t from = draw(w, 2) ? 0 : draw(w, t->length), to = from + draw(w, t->length - from + 1);
    if (draw(w, 3))
        image_write(image, t->offset + from, to - from, t->data ? t->data + from : NULL);
}

static void crash(struct world *w)
{
    const struct tape *t = tape_of(&w->lower);
    struct image *image = image_copy(t->durable);
    for (const struct taped *at = t->writes; at; at = at->next)
        leave(w, image, at);
    check(w, image, true, "after a crash");
}

/* --- tests ------------------------------------------------------------------------------------------------ */

static void merge_done(struct or_layer_merge *m)
{
    *(bool *)m->from.volume->owner = true;
}

/* One part, its operations ended one by one. */
static void merge_part(struct world *w, struct or_layer_merge *m, uint64_t next)
{
    bool done = false;
    w->upper.volume->owner = &done;
    *m = (struct or_layer_merge){.from = w->upper, .into = w->lower, .next = next, .done = merge_done};
    m->left = draw(w, 4) ? draw(w, 1 * MIB) + 1 : 1 * GIB;
    assert_int_equal(or_layer_merge(m), 0);
    while (!done) {
        if (draw(w, 16) == 0)
            crash(w);
        if (draw(w, 100) == 0)
            m->left = 0;
        struct tape *t = tape_waiting(tape_of(&w->upper)) ? tape_of(&w->upper) : tape_of(&w->lower);
        tape_end(t, 0);
    }
    assert_int_equal(m->status, OR_OK);
}

/* Of tapes that are not manual. One part looks at no more than so much of a map. */
static uint8_t merge_all(struct or_layer_merge *m, const struct or_layer *from, const struct or_layer *into)
{
    const struct or_layer upper = *from, lower = *into; /* they may be the merge's own */
    uint64_t next = 0;
    do {
        bool done = false;
        upper.volume->owner = &done;
        *m =
            (struct or_layer_merge){.from = upper, .into = lower, .next = next, .left = UINT64_MAX, .done = merge_done};
        assert_int_equal(or_layer_merge(m), 0);
        assert_true(done);
        next = m->next;
    } while (m->status == OR_OK && !m->complete);
    return m->status;
}

static void replace_lower(struct world *w, struct image *image)
{
    struct or_layer before = w->lower;
    w->lower = w->raw ? raw_open(image, w->size, w->block_size, 32) : overlay_open(image, w->block_size);
    tape_free(tape_of(&before));
    or_layer_map_free(before.map);
}

/* A merge that begins anew has what the file says, not what was in memory. */
static void reopen_lower(struct world *w)
{
    replace_lower(w, image_copy(tape_of(&w->lower)->durable));
    tape_of(&w->lower)->manual = true;
}

/* After a sync that failed Linux takes for written what it could not write: it shows that, and syncs it never again. */
static void reopen_unsynced_lower(struct world *w)
{
    struct image *durable = image_copy(tape_of(&w->lower)->durable);
    replace_lower(w, image_copy(tape_of(&w->lower)->current));
    struct tape *t = tape_of(&w->lower);
    image_free(t->durable);
    t->durable = durable;
}

static void nobody_sees_a_merge_and_no_crash_harms_it(void **state)
{
    (void)state;
    const char *wanted = getenv("OR_SEEDS");
    uint64_t seeds = wanted ? strtoull(wanted, NULL, 10) : 60;
    static struct world w;
    for (uint64_t seed = 1; seed <= seeds; seed++) {
        open_world(&w, seed);
        tape_of(&w.upper)->manual = tape_of(&w.lower)->manual = true;
        struct or_layer_merge m = {0};
        do {
            uint64_t next = m.next;
            merge_part(&w, &m, next);
            crash(&w);
            if (!m.complete && draw(&w, 4) == 0)
                m.next = 0; /* nobody has noted how far it was */
            if (!m.complete)
                reopen_lower(&w);
        } while (!m.complete);
        check(&w, image_copy(tape_of(&w.lower)->durable), false, "without the upper layer");
        close_world(&w);
    }
}

static void an_open_volume_goes_on_with_the_merged_layer(void **state)
{
    (void)state;
    static struct world w;
    for (uint64_t seed = 1000; seed < 1020; seed++) {
        open_world(&w, seed);
        struct or_layer layers[4] = {overlay_open(overlay_image(w.size, 30), 512), w.upper, w.lower, w.bottom};
        struct or_volume *volume = stack(layers, w.raw ? 3 : 4);
        check_volume(&w, volume, "before");
        struct or_layer_merge m = {0};
        m.from = overlay_open(image_copy(tape_of(&w.upper)->current), 512);
        m.into = w.raw ? raw_open(image_copy(tape_of(&w.lower)->current), w.size, w.block_size, 31)
                       : overlay_open(image_copy(tape_of(&w.lower)->current), 512);
        assert_int_equal(merge_all(&m, &m.from, &m.into), OR_OK);
        tape_free(tape_of(&m.from));
        or_layer_map_free(m.from.map);
        if (m.into.map) {
            or_layer_map_rename(m.into.map, 31); /* the upper layer's place */
            m.into.content = 31;
        }
        struct or_layer below[2] = {m.into};
        if (!w.raw)
            below[1] = raw_open(image_copy(tape_of(&w.bottom)->current), w.size, 512, 33);
        assert_int_equal(or_layers_rebase(volume, below, w.raw ? 1 : 2), 0);
        assert_int_equal(or_layers_count(volume), w.raw ? 2 : 3);
        assert_true(tape_of(&layers[1])->closed && tape_of(&layers[2])->closed && !tape_of(&layers[0])->closed);
        check_volume(&w, volume, "after");
        volume->ops->close(volume);
        tape_free(tape_of(&layers[0]));
        for (uint32_t i = 1; i < (w.raw ? 3 : 4); i++)
            tape_free(tape_of(&layers[i]));
        for (uint32_t i = 0; i < (w.raw ? 1 : 2); i++)
            tape_free(tape_of(&below[i]));
    }
}

static void layers_that_do_not_fit_stay_as_they_are(void **state)
{
    (void)state;
    struct or_layer layers[2] = {overlay_open(overlay_image(MIB, 1), 512), overlay_open(overlay_image(MIB, 2), 512)};
    struct or_volume *volume = stack(layers, 2);
    struct image *image = calloc(1, sizeof *image);
    struct or_layer other = raw_open(image, MIB, 4096, 3); /* it would change the volume's block size */
    assert_int_equal(or_layers_rebase(volume, &other, 1), -EINVAL);
    assert_int_equal(or_layers_count(volume), 2);
    assert_false(tape_of(&layers[1])->closed);
    tape_free(tape_of(&other));

    struct or_layer_merge m = {.from = overlay_open(overlay_image(MIB, 4), 512),
                               .into = overlay_open(overlay_image(2 * MIB, 5), 512)};
    assert_int_equal(or_layer_merge(&m), -EINVAL); /* what is beyond the end of the upper one would show */
    tape_free(tape_of(&m.into));
    or_layer_map_free(m.into.map);
    m.into = m.from;
    assert_int_equal(or_layer_merge(&m), -EINVAL);
    tape_free(tape_of(&m.from));
    or_layer_map_free(m.from.map);
    unstack(volume, layers, 2);
}

static void a_merge_that_fails_says_so_and_can_be_repeated(void **state)
{
    (void)state;
    static const uint8_t failing[] = {OR_OP_READ, OR_OP_WRITE, OR_OP_FLUSH};
    static struct world w;
    for (uint32_t i = 0; i < sizeof failing; i++) {
        open_world(&w, 2000 + i);
        struct tape *t = tape_of(failing[i] == OR_OP_READ ? &w.upper : &w.lower);
        t->status = OR_EIO;
        t->fails_op = failing[i];
        struct or_layer_merge m;
        assert_int_equal(merge_all(&m, &w.upper, &w.lower), OR_EIO);
        assert_false(m.complete);
        crash(&w);
        t->status = OR_OK;
        t->volume.flush_failed = false;
        reopen_lower(&w);
        tape_of(&w.lower)->manual = false;
        assert_int_equal(merge_all(&m, &w.upper, &w.lower), OR_OK);
        check(&w, image_copy(tape_of(&w.lower)->durable), false, "repeated");
        close_world(&w);
    }
}

static void a_merge_whose_sync_failed_writes_everything_again(void **state)
{
    (void)state;
    static struct world w;
    for (uint64_t seed = 3000; seed < 3060; seed++) {
        open_world(&w, seed);
        tape_of(&w.lower)->status = OR_EIO;
        tape_of(&w.lower)->fails_op = OR_OP_FLUSH;
        struct or_layer_merge m;
        assert_int_equal(merge_all(&m, &w.upper, &w.lower), OR_EIO);
        reopen_unsynced_lower(&w);
        assert_int_equal(merge_all(&m, &w.upper, &w.lower), OR_OK);
        check(&w, image_copy(tape_of(&w.lower)->durable), false, "repeated after a sync that failed");
        close_world(&w);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nobody_sees_a_merge_and_no_crash_harms_it),
        cmocka_unit_test(an_open_volume_goes_on_with_the_merged_layer),
        cmocka_unit_test(layers_that_do_not_fit_stay_as_they_are),
        cmocka_unit_test(a_merge_that_fails_says_so_and_can_be_repeated),
        cmocka_unit_test(a_merge_whose_sync_failed_writes_everything_again),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
