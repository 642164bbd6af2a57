/* Memory of a cache that outlives its process: a child writes to a write-back volume and is killed at any moment; its
 * successor finds every write that was acknowledged. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <errno.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "backend/block/block.h"
#include "cache/kept.h"

#define SECTOR 512u
#define SECTORS 8192u /* four times the cache: blocks are used again for others all the time */
#define MIB (1ull << 20)
#define MS 1000000ull
#define CONTENT 77u
#define ROUNDS 400u
#define CONTENT_OTHER 76u
#define CONTENT_HEAD 78u

/* What the child and its parent share: the storage, and what is known of each sector. */
struct shared {
    uint8_t storage[SECTORS * SECTOR];
    volatile uint64_t issued[SECTORS], acked[SECTORS];
};

/* A disk that takes its time. */
struct disk {
    struct or_volume volume;
    struct shared *shared;
    struct or_list waiting;
    uint64_t refused; /* a write here fails; 0: none does */
};

static void disk_submit(struct or_volume *volume, struct or_io *io)
{
    or_list_append(&((struct disk *)volume)->waiting, &io->link);
}

static void disk_work(struct disk *d)
{
    struct or_io *io = or_io_pop(&d->waiting);
    if (!io)
        return;
    uint8_t *at = d->shared->storage + io->offset;
    if (d->refused && io->offset == d->refused) {
        or_block_end(io, OR_ENOSPACE);
        return;
    }
    if (io->op == OR_OP_READ)
        memcpy(io->data, at, io->length);
    else if (io->op == OR_OP_WRITE)
        memcpy(at, io->data, io->length);
    or_block_end(io, OR_OK);
}

static void disk_close(struct or_volume *volume)
{
    (void)volume;
}

static const struct or_backend_ops disk_ops = {.name = "disk", .submit = disk_submit, .close = disk_close};

static void disk_open(struct disk *d, struct shared *shared)
{
    *d = (struct disk){.shared = shared,
                       .volume = {.ops = &disk_ops,
                                  .size = SECTORS * SECTOR,
                                  .block_size = SECTOR,
                                  .physical_block_size = 4096,
                                  .align = 1,
                                  .fd = -1}};
    or_list_init(&d->waiting);
}

static struct or_cache *new_cache(bool kept)
{
    struct or_cache_config config = {.bytes = MIB, .bytes_max = 8 * MIB, .seed = 5, .kept = kept};
    int err;
    struct or_cache *cache = or_cache_create(&config, &err);
    assert_non_null(cache);
    return cache;
}

static struct or_volume *new_volume(struct or_cache *cache, struct disk *d)
{
    struct or_cache_volume_config config = {
        .mode = OR_CACHE_WRITE_BACK, .content = CONTENT, .dirty_max = 256 << 10, .dirty_age_ns = 20 * MS};
    int err;
    struct or_volume *v = or_cache_volume(cache, &d->volume, &config, &err);
    assert_non_null(v);
    return v;
}

/* --- the child ------------------------------------------------------------------------------------ */

struct op {
    struct or_io io;
    struct shared *shared;
    uint64_t stamp;
    bool busy;
    uint8_t data[16 * SECTOR];
};

static void written(struct or_io *io)
{
    struct op *op = OR_CONTAINER(io, struct op, io);
    for (uint32_t s = 0; s < io->length / SECTOR; s++)
        op->shared->acked[io->offset / SECTOR + s] = op->stamp;
    op->busy = false;
}

/* Each sector bears the number of its write at its beginning and at its end. */
static void fill(struct op *op, uint32_t first, uint32_t count)
{
    for (uint32_t s = 0; s < count; s++) {
        memset(op->data + s * SECTOR, (int)op->stamp, SECTOR);
        memcpy(op->data + s * SECTOR, &op->stamp, sizeof op->stamp);
        memcpy(op->data + (s + 1) * SECTOR - sizeof op->stamp, &op->stamp, sizeof op->stamp);
        op->shared->issued[first + s] = op->stamp;
    }
}

static void write_for_ever(struct or_cache *cache, struct shared *shared, uint32_t seed)
{
    static struct disk disk;
    static struct op op;
    disk_open(&disk, shared);
    struct or_volume *v = new_volume(cache, &disk);
    op.shared = shared;
    srandom(seed);
    for (uint64_t now = 1;; now += MS / 20) {
        if (!op.busy) {
            uint32_t first = (uint32_t)random() % (SECTORS - 16), count = 1 + (uint32_t)random() % 16;
            if (random() % 4) { /* a whole block */
                first = first / 8 * 8;
                count = 8;
            }
            op.stamp++;
            fill(&op, first, count);
            op.busy = true;
            op.io = (struct or_io){.op = OR_OP_WRITE,
                                   .flags = random() % 50 ? 0 : OR_REQ_FUA,
                                   .offset = first * SECTOR,
                                   .length = count * SECTOR,
                                   .data = op.data,
                                   .done = written};
            or_list_init(&op.io.link);
            or_volume_submit(v, &op.io);
        }
        if (op.busy || random() % 2)
            disk_work(&disk);
        or_cache_poll(cache, now);
    }
}

/* --- the parent ----------------------------------------------------------------------------------- */

static void note(struct or_io *io)
{
    assert_int_equal(io->status, OR_OK);
    io->stage = UINT32_MAX;
}

static void run(struct or_cache *cache, struct disk *d, struct or_volume *v, struct or_io *io)
{
    io->done = note;
    or_list_init(&io->link);
    or_volume_submit(v, io);
    for (uint64_t now = 1; io->stage != UINT32_MAX; now += MS) {
        disk_work(d);
        or_cache_poll(cache, now);
    }
}

static void check_sector(const struct shared *shared, uint32_t s, const uint8_t *data)
{
    uint64_t stamps[2];
    memcpy(&stamps[0], data, sizeof stamps[0]);
    memcpy(&stamps[1], data + SECTOR - sizeof stamps[1], sizeof stamps[1]);
    for (uint32_t n = 0; n < 2; n++)
        if (stamps[n] < shared->acked[s] || stamps[n] > shared->issued[s])
            fail_msg("sector %u has write %llu; %llu was acknowledged, %llu the last to begin", s,
                     (unsigned long long)stamps[n], (unsigned long long)shared->acked[s],
                     (unsigned long long)shared->issued[s]);
}

static void check_all(struct or_cache *cache, struct disk *d, struct or_volume *v, const struct shared *shared)
{
    static uint8_t data[64 << 10];
    for (uint32_t s = 0; s < SECTORS; s += sizeof data / SECTOR) {
        struct or_io io = {.op = OR_OP_READ, .offset = s * SECTOR, .length = sizeof data, .data = data};
        run(cache, d, v, &io);
        for (uint32_t n = 0; n < sizeof data / SECTOR; n++)
            check_sector(shared, s + n, data + n * SECTOR);
    }
}

static struct or_cache_heritage *open_heritage(const struct or_cache *cache)
{
    int fds[OR_CACHE_FDS], err;
    or_cache_memory(cache, fds);
    for (uint32_t n = 0; n < OR_CACHE_FDS; n++)
        fds[n] = dup(fds[n]);
    struct or_cache_heritage *h = or_cache_heritage_open(fds, &err);
    assert_non_null(h);
    return h;
}

static uint64_t one_life(uint32_t round)
{
    struct shared *shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    struct or_cache *dead = new_cache(true);
    pid_t child = fork();
    if (child == 0)
        write_for_ever(dead, shared, round);
    usleep(200 + round * 7919 % 4000);
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);

    struct or_cache_heritage *h = open_heritage(dead);
    uint64_t found = or_cache_heritage_bytes(h);
    struct disk disk;
    disk_open(&disk, shared);
    struct or_cache *cache = new_cache(false);
    struct or_volume *v = new_volume(cache, &disk);
    for (uint64_t now = 1; !or_cache_inherit(v, h, CONTENT); now += MS) {
        disk_work(&disk);
        or_cache_poll(cache, now);
    }
    assert_int_equal(or_cache_heritage_bytes(h), 0);
    or_cache_heritage_close(h);
    check_all(cache, &disk, v, shared);
    struct or_io flush = {.op = OR_OP_FLUSH};
    run(cache, &disk, v, &flush);
    for (uint32_t s = 0; s < SECTORS; s++)
        check_sector(shared, s, shared->storage + s * SECTOR);
    or_cache_destroy(cache);
    or_cache_destroy(dead);
    munmap(shared, sizeof *shared);
    return found;
}

static void acknowledged_writes_survive_a_kill_at_any_moment(void **state)
{
    (void)state;
    uint64_t found = 0;
    for (uint32_t round = 0; round < ROUNDS; round++)
        found += one_life(round);
    assert_true(found > ROUNDS * 4096); /* else it has tested nothing */
}

/* --- what else may be found ----------------------------------------------------------------------- */

static void make_dirty(struct or_cache *cache, struct shared *shared, uint32_t blocks)
{
    static struct disk disk;
    static uint8_t data[4096];
    disk_open(&disk, shared);
    struct or_volume *v = new_volume(cache, &disk);
    for (uint32_t n = 0; n < blocks; n++) {
        memset(data, (int)n + 1, sizeof data);
        struct or_io io = {.op = OR_OP_WRITE, .offset = n * 4096, .length = 4096, .data = data, .done = note};
        or_list_init(&io.link);
        or_volume_submit(v, &io);
        assert_int_equal(io.stage, UINT32_MAX);
    }
}

static void what_nobody_takes_stays_and_is_counted(void **state)
{
    (void)state;
    struct shared *shared = calloc(1, sizeof *shared);
    struct or_cache *dead = new_cache(true), *cache = new_cache(true);
    make_dirty(dead, shared, 5);
    struct or_cache_heritage *h = open_heritage(dead), *again;
    assert_int_equal(or_cache_heritage_bytes(h), 5 * 4096);
    struct disk disk;
    disk_open(&disk, shared);
    disk.volume.size = 3 * 4096; /* it has become smaller: what lies beyond is nobody's */
    struct or_volume *v = new_volume(cache, &disk);
    assert_true(or_cache_inherit(v, h, CONTENT_OTHER));
    assert_int_equal(or_cache_heritage_bytes(h), 5 * 4096);
    assert_true(or_cache_inherit(v, h, CONTENT));
    struct or_cache_stats stats;
    or_cache_read_stats(v, &stats);
    assert_int_equal(stats.dirty, 3);
    again = open_heritage(dead); /* what was taken is not there a second time, it is in the other one */
    assert_int_equal(or_cache_heritage_bytes(again), 0);
    or_cache_heritage_close(again);
    again = open_heritage(cache);
    assert_int_equal(or_cache_heritage_bytes(again), 3 * 4096);
    or_cache_heritage_close(again);
    or_cache_heritage_close(h);
    or_cache_destroy(cache);
    or_cache_destroy(dead);
    free(shared);
}

/* The head has some blocks of its own; the others are those of the layer below, which was the head. */
static void map_odd(void *arg, uint64_t number, uint64_t *content, uint64_t *content_number)
{
    (void)arg;
    *content = number % 2 ? CONTENT_HEAD : CONTENT;
    *content_number = number;
}

static void the_head_takes_what_the_layer_below_was_to_have(void **state)
{
    (void)state;
    struct shared *shared = calloc(1, sizeof *shared);
    struct or_cache *dead = new_cache(true), *cache = new_cache(false);
    make_dirty(dead, shared, 4);
    struct or_cache_heritage *h = open_heritage(dead);
    struct disk disk;
    disk_open(&disk, shared);
    struct or_cache_volume_config config = {
        .mode = OR_CACHE_WRITE_BACK, .content = CONTENT_HEAD, .map = map_odd, .map_arg = NULL};
    int err;
    struct or_volume *v = or_cache_volume(cache, &disk.volume, &config, &err);
    assert_true(or_cache_inherit(v, h, CONTENT));
    uint8_t data[4096];
    struct or_io io = {.op = OR_OP_READ, .offset = 2 * 4096, .length = sizeof data, .data = data};
    run(cache, &disk, v, &io);
    assert_int_equal(data[7], 3);
    struct or_cache_stats stats;
    or_cache_read_stats(v, &stats);
    assert_int_equal(stats.dirty, 2); /* 0 and 2: it has 1 and 3 itself */
    assert_int_equal(or_cache_heritage_bytes(h), 0);
    or_cache_heritage_close(h);
    or_cache_destroy(cache);
    or_cache_destroy(dead);
    free(shared);
}

static bool inherits_at_once(struct or_cache *cache, struct disk *d, struct or_cache_heritage *h, uint64_t quota)
{
    struct or_cache_volume_config config = {.mode = OR_CACHE_WRITE_BACK, .content = CONTENT, .quota = quota};
    int err;
    struct or_volume *v = or_cache_volume(cache, &d->volume, &config, &err);
    assert_non_null(v);
    return or_cache_inherit(v, h, CONTENT);
}

static void what_there_is_room_for_is_taken_at_once(void **state)
{
    (void)state;
    struct shared *shared = calloc(1, sizeof *shared);
    struct or_cache *dead = new_cache(true), *small = new_cache(false), *cache = new_cache(false);
    struct disk disks[2];
    struct or_cache_info info;
    or_cache_read_info(dead, &info);
    assert_int_equal(or_cache_room(dead, 0), info.blocks_max);
    make_dirty(dead, shared, 5);
    assert_int_equal(or_cache_room(dead, 0), info.blocks_max - 5);
    assert_int_equal(or_cache_room(dead, 8 * MIB), info.blocks_max - 5);
    assert_int_equal(or_cache_resize(dead, 2 * MIB), 0);
    assert_true(or_cache_room(dead, 0) > info.blocks_max - 5);
    assert_int_equal(or_cache_resize(dead, MIB), 0);
    assert_true(or_cache_room(dead, 0) <= info.blocks_max - 5);

    struct or_cache_heritage *h = open_heritage(dead);
    assert_int_equal(or_cache_heritage_count(h, CONTENT), 5);
    assert_int_equal(or_cache_heritage_count(h, CONTENT_OTHER), 0);
    disk_open(&disks[0], shared);
    disk_open(&disks[1], shared);
    assert_int_equal(or_cache_room(small, 4 * 4096 - 1), 4);
    assert_false(inherits_at_once(small, &disks[0], h, 4 * 4096 - 1));
    assert_int_equal(or_cache_heritage_count(h, CONTENT), 1);
    assert_int_equal(or_cache_room(cache, 1), 1);
    assert_true(inherits_at_once(cache, &disks[1], h, 1));
    or_cache_heritage_close(h);
    or_cache_destroy(cache);
    or_cache_destroy(small);
    or_cache_destroy(dead);
    free(shared);
}

/* --- without a cache ------------------------------------------------------------------------------ */

static int drain(struct or_volume *volume, struct disk *d, struct or_cache_heritage *h, uint64_t content,
                 const struct or_cache_volume_config *config)
{
    struct or_cache_drain *drain = or_cache_drain_create(volume, config);
    assert_non_null(drain);
    assert_int_equal(or_cache_drain_add(drain, h, content), 0);
    int err;
    while ((err = or_cache_drain_step(drain)) == -EAGAIN)
        disk_work(d);
    or_cache_drain_destroy(drain);
    return err;
}

static void a_volume_without_a_cache_has_it_in_its_storage(void **state)
{
    (void)state;
    struct shared *shared = calloc(1, sizeof *shared);
    struct or_cache *dead = new_cache(true);
    make_dirty(dead, shared, 60);
    struct or_cache_heritage *h = open_heritage(dead);
    struct disk disk;
    disk_open(&disk, shared);
    disk.volume.size = 49 * 4096 + 512; /* smaller than it was, and it ends within a block */
    struct or_cache_volume_config config = {.content = CONTENT};
    assert_int_equal(drain(&disk.volume, &disk, h, CONTENT_OTHER, &config), 0);
    assert_int_equal(or_cache_heritage_bytes(h), 60 * 4096);
    assert_int_equal(drain(&disk.volume, &disk, h, CONTENT, &config), 0);
    assert_int_equal(or_cache_heritage_bytes(h), 0);
    for (uint32_t n = 0; n < 50; n++)
        assert_int_equal(shared->storage[n * 4096 + 511], n + 1);
    assert_int_equal(shared->storage[49 * 4096 + 512], 0);
    or_cache_heritage_close(h);
    or_cache_destroy(dead);
    free(shared);
}

static void what_the_storage_refuses_stays(void **state)
{
    (void)state;
    struct shared *shared = calloc(1, sizeof *shared);
    struct or_cache *dead = new_cache(true);
    make_dirty(dead, shared, 40);
    struct or_cache_heritage *h = open_heritage(dead), *again;
    struct disk disk;
    disk_open(&disk, shared);
    disk.refused = 3 * 4096;
    struct or_cache_volume_config config = {.content = CONTENT};
    assert_int_equal(drain(&disk.volume, &disk, h, CONTENT, &config), -ENOSPC);
    again = open_heritage(dead); /* for the next engine, too */
    assert_in_range(or_cache_heritage_bytes(again), 4096, 39 * 4096);
    or_cache_heritage_close(again);
    disk.refused = 0;
    assert_int_equal(drain(&disk.volume, &disk, h, CONTENT, &config), 0);
    assert_int_equal(shared->storage[3 * 4096], 4);
    assert_int_equal(or_cache_heritage_bytes(h), 0);
    or_cache_heritage_close(h);
    or_cache_destroy(dead);
    free(shared);
}

static void the_storage_of_the_head_gets_what_the_layer_below_was_to_have(void **state)
{
    (void)state;
    struct shared *shared = calloc(1, sizeof *shared);
    struct or_cache *dead = new_cache(true);
    make_dirty(dead, shared, 4);
    struct or_cache_heritage *h = open_heritage(dead);
    struct disk disk;
    disk_open(&disk, shared);
    struct or_cache_volume_config config = {.content = CONTENT_HEAD, .map = map_odd};
    assert_int_equal(drain(&disk.volume, &disk, h, CONTENT, &config), 0);
    assert_int_equal(shared->storage[0], 1);
    assert_int_equal(shared->storage[4096], 0);
    assert_int_equal(shared->storage[2 * 4096], 3);
    assert_int_equal(or_cache_heritage_bytes(h), 0);
    or_cache_heritage_close(h);
    or_cache_destroy(dead);
    free(shared);
}

static void what_is_given_up_is_nobodys(void **state)
{
    (void)state;
    struct shared *shared = calloc(1, sizeof *shared);
    struct or_cache *dead = new_cache(true);
    make_dirty(dead, shared, 4);
    struct or_cache_heritage *h = open_heritage(dead);
    assert_int_equal(or_cache_heritage_give_up(h, 0), 4 * 4096);
    assert_int_equal(or_cache_heritage_give_up(h, CONTENT), 0);
    assert_int_equal(or_cache_heritage_bytes(h), 0);
    or_cache_heritage_close(h);
    h = open_heritage(dead); /* nor is it the next engine's */
    assert_int_equal(or_cache_heritage_bytes(h), 0);
    or_cache_heritage_close(h);
    or_cache_destroy(dead);
    free(shared);
}

static void what_is_given_up_of_one_content_is_of_no_other(void **state)
{
    (void)state;
    struct shared *shared = calloc(1, sizeof *shared);
    struct or_cache *dead = new_cache(true);
    make_dirty(dead, shared, 4);
    struct or_cache_heritage *h = open_heritage(dead);
    assert_int_equal(or_cache_heritage_give_up(h, CONTENT - 1), 0);
    assert_int_equal(or_cache_heritage_give_up(h, CONTENT + 1), 0);
    assert_int_equal(or_cache_heritage_bytes(h), 4 * 4096);
    assert_int_equal(or_cache_heritage_give_up(h, CONTENT), 4 * 4096);
    assert_int_equal(or_cache_heritage_bytes(h), 0);
    or_cache_heritage_close(h);
    or_cache_destroy(dead);
    free(shared);
}

static void what_is_being_written_out_is_not_given_up(void **state)
{
    (void)state;
    struct shared *shared = calloc(1, sizeof *shared);
    struct or_cache *dead = new_cache(true);
    make_dirty(dead, shared, 40);
    struct or_cache_heritage *h = open_heritage(dead);
    struct disk disk;
    disk_open(&disk, shared);
    struct or_cache_volume_config config = {.content = CONTENT};
    struct or_cache_drain *drain = or_cache_drain_create(&disk.volume, &config);
    assert_int_equal(or_cache_drain_add(drain, h, CONTENT), 0);
    assert_int_equal(or_cache_drain_step(drain), -EAGAIN); /* some of them are under way */
    uint64_t given_up = or_cache_heritage_give_up(h, 0) / 4096, left = or_cache_heritage_bytes(h) / 4096;
    assert_in_range(left, 1, 39);
    assert_int_equal(given_up, 40 - left);
    while (or_cache_drain_step(drain) == -EAGAIN)
        disk_work(&disk);
    or_cache_drain_destroy(drain);
    assert_int_equal(or_cache_heritage_bytes(h), 0);
    for (uint32_t n = 0; n < 40; n++)
        assert_int_equal(shared->storage[n * 4096], n < left ? n + 1 : 0);
    or_cache_heritage_close(h);
    or_cache_destroy(dead);
    free(shared);
}

/* --- what nobody can read ------------------------------------------------------------------------- */

static void foreign_memory_is_refused(void **state)
{
    (void)state;
    for (uint32_t bytes = 0; bytes <= 8192; bytes += 4096) {
        int fds[OR_CACHE_FDS] = {memfd_create("a", MFD_CLOEXEC), memfd_create("b", MFD_CLOEXEC)}, err;
        assert_int_equal(ftruncate(fds[0], bytes), 0);
        assert_null(or_cache_heritage_open(fds, &err));
        assert_int_equal(err, -EPROTO);
        for (uint32_t n = 0; n < OR_CACHE_FDS; n++)
            assert_int_equal(close(fds[n]), 0); /* they are ours */
    }
    struct or_cache *cache = new_cache(true);
    int fds[OR_CACHE_FDS], err;
    or_cache_memory(cache, fds);
    uint32_t version = 99;
    assert_int_equal(pwrite(fds[0], &version, sizeof version, 8), sizeof version);
    assert_null(or_cache_heritage_open(fds, &err));
    assert_int_equal(err, -EPROTO);
    or_cache_destroy(cache);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(acknowledged_writes_survive_a_kill_at_any_moment),
        cmocka_unit_test(what_nobody_takes_stays_and_is_counted),
        cmocka_unit_test(the_head_takes_what_the_layer_below_was_to_have),
        cmocka_unit_test(what_there_is_room_for_is_taken_at_once),
        cmocka_unit_test(a_volume_without_a_cache_has_it_in_its_storage),
        cmocka_unit_test(what_the_storage_refuses_stays),
        cmocka_unit_test(the_storage_of_the_head_gets_what_the_layer_below_was_to_have),
        cmocka_unit_test(what_is_given_up_is_nobodys),
        cmocka_unit_test(what_is_given_up_of_one_content_is_of_no_other),
        cmocka_unit_test(what_is_being_written_out_is_not_given_up),
        cmocka_unit_test(foreign_memory_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
