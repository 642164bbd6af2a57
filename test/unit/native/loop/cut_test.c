/* A volume in a file that is cut, again and again, while a host writes and reads, and that moves between two workers:
 * real engines over a real link. Each cut leaves a snapshot, which must be of one moment. Run under ThreadSanitizer
 * too. Needs root, for the link. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <sys/mount.h>
#include <sys/stat.h>

#include "layers/map.h"
#include "loop_fixture.h"

#define BLOCK 512u /* an eighth of a cluster: most writes copy */
#define BLOCKS 96u
#define SIZE (BLOCK * BLOCKS)
#define REQUESTS 16u
#define CUTS 20u
#define NUMBERS 400000u
#define RAW_CONTENT 100u /* of overlay n: that and n */

/* A write: which writes had ended when it was submitted, by the block. */
struct past {
    uint32_t ended[BLOCKS];
};

struct world {
    struct site site;
    struct served volume;
    struct request requests[REQUESTS];
    struct past *pasts; /* by the number of the write */
    uint32_t submitted[BLOCKS], ended[BLOCKS];
    uint32_t number;
    bool fails;     /* an operation may */
    uint8_t status; /* of the last that ended */
    int cache;      /* enum or_cache_mode; -1: the workers have none */
    char folder[256];
    const char *raw_in; /* where in it the raw file is */
    uint32_t overlays;
};

/* --- the host ------------------------------------------------------------------------------------ */

static void ended(struct site *s, struct request *r)
{
    struct world *w = (struct world *)s;
    w->status = r->req.status;
    assert_true(r->req.status == OR_OK || w->fails);
    uint32_t number;
    memcpy(&number, r->data, sizeof number);
    if (r->req.op == OR_OP_WRITE)
        w->ended[r->req.offset / BLOCK] = number;
}

static void submit(struct world *w, struct request *r, uint8_t op, uint32_t block)
{
    begin_request(&w->site, r, &w->volume, op, block * BLOCK, BLOCK);
}

static void load(struct site *s)
{
    struct world *w = (struct world *)s;
    for (uint32_t i = 0; i < REQUESTS; i++) {
        struct request *r = &w->requests[i];
        uint32_t block = any(s, BLOCKS), what = any(s, 16);
        if (r->busy || w->number + 1 == NUMBERS)
            continue;
        if (what < 11) {
            memset(r->data, 0, BLOCK);
            w->submitted[block] = ++w->number;
            memcpy(r->data, &w->number, sizeof w->number);
            memcpy(w->pasts[w->number].ended, w->ended, sizeof w->ended);
        }
        submit(w, r, what < 11 ? OR_OP_WRITE : what < 15 ? OR_OP_READ : OR_OP_FLUSH, block);
    }
}

/* --- commands ------------------------------------------------------------------------------------ */

static void refused(struct world *w, struct or_command *c, int error, const char *why)
{
    c = try_command(&w->site, w->volume.at, c);
    assert_int_equal(c->error, error);
    assert_string_equal(c->why, why);
    or_command_free(c);
}

/* Overlay n, from 1 on; 0: the raw file. */
static const char *path_of(const struct world *w, uint32_t n)
{
    static char path[300];
    snprintf(path, sizeof path, "%s%s/%u", w->folder, n == 0 && w->raw_in ? w->raw_in : "", n);
    return path;
}

static void open_raw(struct world *w)
{
    struct or_command *c = named(OR_CMD_VOLUME_OPEN, &w->volume);
    char why[OR_WHY_MAX];
    int fd = open(path_of(w, 0), O_CREAT | O_RDWR | O_CLOEXEC, 0600);
    assert_int_equal(ftruncate(fd, SIZE), 0);
    close(fd);
    c->kind = OR_VOLUME_FILE;
    c->content = RAW_CONTENT;
    c->cache.has_mode = w->cache >= 0;
    c->cache.mode = w->cache >= 0 ? (enum or_cache_mode)w->cache : OR_CACHE_NONE;
    c->fd = or_volume_file_lock(path_of(w, 0), false, WAIT_MS_MAX, why);
    assert_true(c->fd >= 0);
    do_command(&w->site, w->volume.at, c);
}

static void add_layer(struct or_command *c, const char *path, uint64_t content, bool raw, enum or_layer_use use)
{
    char why[OR_WHY_MAX];
    struct or_layer_place place = {.path = path, .content = content, .raw = raw, .use = use};
    if (!c->layers)
        c->layers = calloc(OR_LAYERS_MAX, sizeof *c->layers);
    int err = or_layer_file_open(&place, WAIT_MS_MAX, &c->layers[c->layer_count], why);
    if (err)
        fail_msg("%s", why);
    c->layer_count++;
}

static struct or_command *new_cut(struct world *w, uint32_t n, uint64_t size)
{
    char why[OR_WHY_MAX];
    struct or_command *c = named(OR_CMD_VOLUME_CUT, &w->volume);
    if (or_layer_file_create(path_of(w, n), size, RAW_CONTENT + n, RAW_CONTENT + n - 1, why))
        fail_msg("%s", why);
    add_layer(c, path_of(w, n), RAW_CONTENT + n, false, OR_LAYER_HEAD);
    return c;
}

/* --- the world ----------------------------------------------------------------------------------- */

static struct world *begin_world(int cache)
{
    struct world *w = calloc(1, sizeof *w);
    char exe[128] = {0};
    w->site = (struct site){.segment = lay_link(9000), .load = load, .ended = ended, .seed = 1};
    w->site.cache_bytes = cache >= 0 ? OR_CACHE_BYTES_MIN : 0;
    w->volume = (struct served){.name = "v", .id = 1};
    w->pasts = calloc(NUMBERS, sizeof *w->pasts);
    w->cache = cache;
    assert_true(readlink("/proc/self/exe", exe, sizeof exe - 1) > 0);
    snprintf(w->folder, sizeof w->folder, "%s/or-cut-XXXXXX", dirname(exe));
    assert_non_null(mkdtemp(w->folder));
    begin_workers(&w->site);
    return w;
}

static void end_world(struct world *w)
{
    end_site(&w->site);
    for (uint32_t n = 0; n <= w->overlays + 1; n++)
        unlink(path_of(w, n));
    rmdir(w->folder);
    free(w->pasts);
    free(w);
}

/* --- snapshots ----------------------------------------------------------------------------------- */

/* What the chain from overlay `top` down to the raw file holds, read without any volume. */
static void read_chain(const struct world *w, uint32_t top, uint32_t values[BLOCKS])
{
    bool found[BLOCKS] = {false};
    for (uint32_t n = top + 1; n-- > 0;) {
        int err, fd = open(path_of(w, n), O_RDONLY | O_CLOEXEC);
        const char *why;
        struct or_layer_map *map = n ? or_layer_load(fd, &err, &why) : NULL;
        if (n && !map)
            fail_msg("%s %s", path_of(w, n), why);
        for (uint32_t block = 0; block < BLOCKS; block++) {
            uint64_t at = block * BLOCK;
            if (found[block] || (map && or_layer_map_get(map, at / OR_LAYER_CLUSTER) != OR_LAYER_HERE))
                continue;
            found[block] = true;
            assert_int_equal(pread(fd, &values[block], 4, (off_t)(at + (map ? map->data_offset : 0))), 4);
        }
        or_layer_map_free(map);
        close(fd);
    }
}

/* Every write that had ended is there, none that had not begun; and none without all that had ended before it began. */
static void check_snapshot(const struct world *w, uint32_t top, const uint32_t least[BLOCKS],
                           const uint32_t most[BLOCKS])
{
    uint32_t values[BLOCKS];
    read_chain(w, top, values);
    for (uint32_t block = 0; block < BLOCKS; block++) {
        if (values[block] < least[block] || values[block] > most[block])
            fail_msg("snapshot %u, block %u: write %u, not from %u to %u", top, block, values[block], least[block],
                     most[block]);
        const struct past *past = &w->pasts[values[block]];
        for (uint32_t other = 0; values[block] && other < BLOCKS; other++)
            if (values[other] < past->ended[other])
                fail_msg("snapshot %u has write %u of block %u, but not write %u of block %u that came before", top,
                         values[block], block, past->ended[other], other);
    }
}

static void cut(struct world *w)
{
    uint32_t least[BLOCKS], most[BLOCKS], sealed = w->overlays;
    struct or_command *c = new_cut(w, ++w->overlays, SIZE);
    memcpy(least, w->ended, sizeof least);
    do_command(&w->site, w->volume.at, c);
    memcpy(most, w->submitted, sizeof most);
    check_snapshot(w, sealed, least, most);
    /* whoever clones it may read the layer that was the head */
    char why[OR_WHY_MAX];
    int fd = or_volume_file_lock(path_of(w, sealed), true, 0, why);
    assert_true(fd >= 0);
    close(fd);
    assert_int_equal(or_volume_file_lock(path_of(w, w->overlays), true, 0, why), -EWOULDBLOCK);
}

static void begin_client(struct world *w)
{
    export_everywhere(&w->site, &w->volume);
    admit_host(&w->site);
    begin_host(&w->site);
    open_route(&w->site, &w->volume);
}

static void begin_load(struct world *w)
{
    begin_client(w);
    while (w->site.done < 500)
        host_step(&w->site);
}

static void reopen(struct world *w)
{
    struct or_command *c = named(OR_CMD_VOLUME_OPEN, &w->volume);
    c->kind = OR_VOLUME_FILE;
    for (uint32_t n = w->overlays + 1; n-- > 0;)
        add_layer(c, path_of(w, n), RAW_CONTENT + n, n == 0, n == w->overlays ? OR_LAYER_HEAD : OR_LAYER_READ);
    do_command(&w->site, w->volume.at, c);
}

/* Each block holds what was written to it last. */
static void verify(struct world *w)
{
    for (uint32_t block = 0; block < BLOCKS; block++) {
        submit(w, &w->requests[0], OR_OP_READ, block);
        quiesce(&w->site);
        assert_memory_equal(w->requests[0].data, &w->submitted[block], 4);
    }
}

static void cut_under_load(int cache)
{
    struct world *w = begin_world(cache);
    open_raw(w);
    begin_load(w);
    for (uint32_t i = 0; i < CUTS; i++) {
        uint64_t more = w->site.done + 100;
        cut(w);
        if (i % 3 == 0)
            move(&w->site, &w->volume);
        if (i % 4 == 0)
            do_command(&w->site, w->volume.at, named(OR_CMD_VOLUME_FLUSH, &w->volume));
        while (w->site.done < more)
            host_step(&w->site);
    }
    quiesce(&w->site);
    verify(w);

    struct or_command *c = try_command(&w->site, w->volume.at, named(OR_CMD_VOLUME_LAYERS, &w->volume));
    assert_int_equal(c->count, CUTS + 1);
    assert_int_equal(c->layer_infos[0].content, RAW_CONTENT + CUTS);
    assert_true(c->layer_infos[CUTS].raw);
    assert_true(c->layer_infos[1].clusters > 0);
    or_command_free(c);
    end_world(w);
}

static void a_snapshot_under_load_is_of_one_moment(void **state)
{
    (void)state;
    cut_under_load(-1);
}

static void a_snapshot_under_write_through_is_of_one_moment(void **state)
{
    (void)state;
    cut_under_load(OR_CACHE_WRITE_THROUGH);
}

static void a_snapshot_under_write_back_is_of_one_moment(void **state)
{
    (void)state;
    cut_under_load(OR_CACHE_WRITE_BACK);
}

/* Overlay n, into the raw file, which has everything below it already. */
static void merge(struct world *w, uint32_t n)
{
    uint64_t next = 0;
    bool complete = false;
    while (!complete) {
        struct or_command *c = or_command_new(OR_CMD_LAYER_MERGE);
        add_layer(c, path_of(w, n), RAW_CONTENT + n, false, OR_LAYER_READ);
        add_layer(c, path_of(w, 0), RAW_CONTENT + n - 1, true, OR_LAYER_MERGE);
        c->merge.next = next;
        c->size = 64 << 10;
        c = try_command(&w->site, 0, c);
        if (c->error)
            fail_msg("%s", c->why);
        assert_true(c->merge.complete || c->merge.next > next);
        next = c->merge.next;
        complete = c->merge.complete;
        or_command_free(c);
    }
}

/* Overlay n has become the raw file. */
static void rebase(struct world *w, uint32_t n)
{
    struct or_command *c = named(OR_CMD_VOLUME_REBASE, &w->volume);
    for (uint32_t above = w->overlays - 1; above > n; above--)
        add_layer(c, path_of(w, above), RAW_CONTENT + above, false, OR_LAYER_READ);
    add_layer(c, path_of(w, 0), RAW_CONTENT + n, true, OR_LAYER_READ);
    do_command(&w->site, w->volume.at, c);
    c = try_command(&w->site, w->volume.at, named(OR_CMD_VOLUME_LAYERS, &w->volume));
    assert_int_equal(c->count, w->overlays - n + 1);
    assert_true(c->layer_infos[c->count - 1].raw);
    assert_int_equal(c->layer_infos[c->count - 1].content, RAW_CONTENT + n);
    or_command_free(c);
}

static void merge_under_load(int cache)
{
    struct world *w = begin_world(cache);
    open_raw(w);
    begin_load(w);
    for (uint32_t i = 0; i < 4; i++) {
        cut(w);
        uint64_t more = w->site.done + 100;
        while (w->site.done < more)
            host_step(&w->site);
    }
    for (uint32_t n = 1; n < w->overlays; n++) {
        merge(w, n);
        rebase(w, n);
        move(&w->site, &w->volume);
        if (unlink(path_of(w, n)) != 0)
            fail_msg("%s", path_of(w, n));
        uint64_t more = w->site.done + 100;
        while (w->site.done < more)
            host_step(&w->site);
    }
    quiesce(&w->site);
    verify(w);
    end_world(w);
}

static void layers_are_merged_under_load(void **state)
{
    (void)state;
    merge_under_load(-1);
    merge_under_load(OR_CACHE_WRITE_THROUGH);
    merge_under_load(OR_CACHE_WRITE_BACK);
}

static void open_again(int cache)
{
    struct world *w = begin_world(cache);
    open_raw(w);
    begin_load(w);
    cut(w);
    cut(w);
    while (w->site.done < 1500)
        host_step(&w->site);
    quiesce(&w->site);
    for (uint32_t i = 0; i < WORKERS; i++) {
        struct or_command *c = or_command_new(OR_CMD_EXPORT_REMOVE);
        c->id = 1;
        do_command(&w->site, i, c);
    }
    do_command(&w->site, w->volume.at, named(OR_CMD_VOLUME_CLOSE, &w->volume));
    reopen(w);
    export_everywhere(&w->site, &w->volume);
    verify(w);
    end_world(w);
}

static void a_chain_is_opened_again_as_it_was(void **state)
{
    (void)state;
    open_again(-1);
    open_again(OR_CACHE_WRITE_BACK);
}

static void a_cut_that_cannot_be_changes_nothing(void **state)
{
    (void)state;
    struct world *w = begin_world(OR_CACHE_WRITE_BACK);
    refused(w, new_cut(w, 1, SIZE), -ENOENT, "volume v is not open");
    unlink(path_of(w, 1));
    open_raw(w);
    begin_load(w);
    refused(w, new_cut(w, 1, 2 * SIZE), -EINVAL, "cannot cut volume v: the new layer is of another size");
    unlink(path_of(w, 1));
    struct or_command *c = try_command(&w->site, w->volume.at, named(OR_CMD_VOLUME_LAYERS, &w->volume));
    assert_int_equal(c->count, 1);
    assert_true(c->layer_infos[0].raw);
    assert_int_equal(c->layer_infos[0].content, RAW_CONTENT);
    or_command_free(c);
    quiesce(&w->site);
    verify(w);
    end_world(w);
}

static uint8_t one(struct world *w, uint8_t op, uint32_t block)
{
    submit(w, &w->requests[0], op, block);
    quiesce(&w->site);
    return w->status;
}

/* The raw file is on a disk that is full, and a host uses it. full, filler: that disk's folder, and the file in it that
 * makes it so. */
static void fill_up(struct world *w, char full[300], char filler[310])
{
    static uint8_t junk[64 << 10];
    snprintf(full, 300, "%s/full", w->folder);
    snprintf(filler, 310, "%s/filler", full);
    assert_int_equal(mkdir(full, 0700), 0);
    assert_int_equal(mount("none", full, "tmpfs", 0, "size=64k"), 0);
    w->raw_in = "/full";
    open_raw(w);
    int fd = open(filler, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
    assert_true(write(fd, junk, sizeof junk) > 0);
    close(fd);
    w->fails = w->site.quiet = true;
    begin_client(w);
}

static void remove_full(char full[300])
{
    assert_int_equal(umount2(full, MNT_DETACH), 0);
    rmdir(full);
    full[strlen(full) - 5] = 0;
    rmdir(full);
}

/* The disk below the raw file is full, which shows when the cut flushes what the cache has. */
static void a_cut_whose_flush_fails_changes_nothing(void **state)
{
    (void)state;
    struct world *w = begin_world(OR_CACHE_WRITE_BACK);
    char full[300], filler[310];
    fill_up(w, full, filler);
    assert_int_equal(one(w, OR_OP_WRITE, 7), OR_OK);
    refused(w, new_cut(w, 1, SIZE), -ENOSPC, "cannot cut volume v: No space left on device");

    struct or_command *c = try_command(&w->site, w->volume.at, named(OR_CMD_VOLUME_LAYERS, &w->volume));
    assert_int_equal(c->count, 1);
    or_command_free(c);
    unlink(filler);
    assert_int_not_equal(one(w, OR_OP_FLUSH, 0), OR_OK); /* the guest hears of it, though there is room now */
    assert_int_equal(one(w, OR_OP_FLUSH, 0), OR_OK);
    unlink(path_of(w, 1));
    do_command(&w->site, w->volume.at, new_cut(w, 1, SIZE));
    assert_int_equal(one(w, OR_OP_WRITE, 5), OR_OK);
    assert_int_equal(one(w, OR_OP_FLUSH, 0), OR_OK);
    w->overlays = 1;
    end_world(w);
    remove_full(full);
}

static void what_a_volume_did_not_write_out_is_told_with_all_errors(void **state)
{
    (void)state;
    struct world *w = begin_world(OR_CACHE_WRITE_BACK);
    char full[300], filler[310];
    fill_up(w, full, filler);
    assert_int_equal(one(w, OR_OP_WRITE, 7), OR_OK);
    for (uint32_t i = 0; i < WORKERS; i++) {
        struct or_command *c = or_command_new(OR_CMD_EXPORT_REMOVE);
        c->id = 1;
        do_command(&w->site, i, c);
    }
    do_command(&w->site, w->volume.at, named(OR_CMD_VOLUME_CLOSE, &w->volume));
    assert_int_equal(w->site.lost, 4096);
    assert_int_equal(w->site.errors, 3); /* the latter two in the second after the first one was told */
    unlink(filler);
    end_world(w);
    remove_full(full);
}

static void a_wrong_file_is_not_taken_for_a_layer(void **state)
{
    (void)state;
    char why[OR_WHY_MAX], path[] = "/tmp/or-layer-XXXXXX", expected[OR_WHY_MAX];
    struct or_layer_file file;
    int fd = mkstemp(path);
    assert_int_equal(ftruncate(fd, 1 << 20), 0);
    close(fd);
    assert_int_equal(
        or_layer_file_open(&(struct or_layer_place){.path = path, .content = 5, .use = OR_LAYER_HEAD}, 0, &file, why),
        -EBADMSG);
    snprintf(expected, sizeof expected, "%s is not a layer", path);
    assert_string_equal(why, expected);
    assert_int_equal(or_layer_file_create(path, 1 << 20, 5, 0, why), -EEXIST);
    snprintf(expected, sizeof expected, "%s is there already, and is not the layer that was to be made", path);
    assert_string_equal(why, expected);
    unlink(path);
    assert_int_equal(or_layer_file_create(path, 1 << 20, 5, 0, why), 0);
    assert_int_equal(
        or_layer_file_open(&(struct or_layer_place){.path = path, .content = 6, .use = OR_LAYER_HEAD}, 0, &file, why),
        -EBADMSG);
    snprintf(expected, sizeof expected, "%s is a layer, but not the one that was asked for", path);
    assert_string_equal(why, expected);
    assert_int_equal(
        or_layer_file_open(&(struct or_layer_place){.path = path, .content = 5, .use = OR_LAYER_HEAD}, 0, &file, why),
        0);
    or_layer_file_close(&file);
    unlink(path);
}

int main(void)
{
    /* Mounts of its own too, which end with it. */
    if (unshare(CLONE_NEWNET | CLONE_NEWNS) != 0 || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0) {
        printf("skipped: making namespaces needs root (unshare: %s)\n", strerror(errno));
        return 0;
    }
    const struct CMUnitTest tests[] = {cmocka_unit_test(a_snapshot_under_load_is_of_one_moment),
                                       cmocka_unit_test(a_snapshot_under_write_through_is_of_one_moment),
                                       cmocka_unit_test(a_snapshot_under_write_back_is_of_one_moment),
                                       cmocka_unit_test(a_chain_is_opened_again_as_it_was),
                                       cmocka_unit_test(a_cut_that_cannot_be_changes_nothing),
                                       cmocka_unit_test(a_cut_whose_flush_fails_changes_nothing),
                                       cmocka_unit_test(what_a_volume_did_not_write_out_is_told_with_all_errors),
                                       cmocka_unit_test(layers_are_merged_under_load),
                                       cmocka_unit_test(a_wrong_file_is_not_taken_for_a_layer)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
