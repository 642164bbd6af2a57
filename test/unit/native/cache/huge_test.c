/* Kept memory in huge pages: made by a thread while the cache is in use, and given back when it shrinks. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "backend/backend.h"
#include "cache/cache.h"
#include "cache/huge.h"
#include "cache/kept.h"
#include "mem/list.h"

#define MIB (UINT64_C(1) << 20)
#define BLOCKS (16 * MIB / OR_CACHE_BLOCK)

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif

/* What this kernel can do; and whether it has a huge page now. */
static bool collapses(void)
{
    int fd = memfd_create("probe", MFD_CLOEXEC);
    assert_true(fd >= 0 && ftruncate(fd, (off_t)(2 * OR_CACHE_HUGE_PAGE)) == 0);
    uint8_t *at = mmap(NULL, 2 * OR_CACHE_HUGE_PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    assert_ptr_not_equal(at, MAP_FAILED);
    uint64_t before = OR_CACHE_HUGE_PAGE - (uintptr_t)at % OR_CACHE_HUGE_PAGE;
    /* Only where address and offset agree. */
    uint8_t *piece = mmap(at + before, OR_CACHE_HUGE_PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0);
    memset(piece, 1, OR_CACHE_HUGE_PAGE);
    bool yes = madvise(piece, OR_CACHE_HUGE_PAGE, MADV_COLLAPSE) == 0;
    munmap(at, 2 * OR_CACHE_HUGE_PAGE);
    close(fd);
    return yes;
}

struct op {
    struct or_io io;
    bool done;
};

static void done(struct or_io *io)
{
    OR_CONTAINER(io, struct op, io)->done = true;
}

/* The null volume ends each operation at once; so does the cache. */
static void submit(struct or_volume *v, uint8_t op, uint64_t block, uint8_t *data)
{
    struct op o = {.io = {.op = op, .offset = block * OR_CACHE_BLOCK, .length = OR_CACHE_BLOCK, .done = done}};
    o.io.data = data;
    or_volume_submit(v, &o.io);
    assert_true(o.done);
    assert_int_equal(o.io.status, OR_OK);
}

static void fill(uint8_t *data, uint64_t block)
{
    memset(data, (int)(block % 251), OR_CACHE_BLOCK);
    memcpy(data, &block, sizeof block);
}

static void write_all(struct or_volume *v, uint64_t blocks)
{
    uint8_t data[OR_CACHE_BLOCK];
    for (uint64_t b = 0; b < blocks; b++) {
        fill(data, b);
        submit(v, OR_OP_WRITE, b, data);
    }
}

static void verify_all(struct or_volume *v, uint64_t blocks)
{
    uint8_t data[OR_CACHE_BLOCK], expected[OR_CACHE_BLOCK];
    for (uint64_t b = 0; b < blocks; b++) {
        fill(expected, b);
        submit(v, OR_OP_READ, b, data);
        assert_memory_equal(data, expected, sizeof data);
    }
}

/* The volume keeps nothing, so what comes back was in memory. */
static struct or_volume *open_volume(struct or_cache *cache)
{
    int err;
    struct or_volume *null = or_volume_null(BLOCKS * OR_CACHE_BLOCK, 512, &err);
    struct or_cache_volume_config config = {
        .mode = OR_CACHE_WRITE_BACK, .dirty_max = BLOCKS * OR_CACHE_BLOCK, .dirty_age_ns = UINT64_MAX / 2};
    struct or_volume *v = or_cache_volume(cache, null, &config, &err);
    assert_non_null(v);
    return v;
}

static struct or_cache *open_cache(uint64_t bytes)
{
    int err;
    struct or_cache_config config = {.bytes = bytes, .bytes_max = 64 * MIB, .seed = 3, .kept = true};
    struct or_cache *cache = or_cache_create(&config, &err);
    assert_non_null(cache);
    return cache;
}

static void pause_ms(long ms)
{
    nanosleep(&(struct timespec){.tv_nsec = ms * 1000000}, NULL);
}

static uint64_t huge_bytes(const struct or_cache *cache)
{
    struct or_cache_info info;
    or_cache_read_info(cache, &info);
    return info.huge_bytes;
}

/* The last piece may be one of which a part is not in use. */
static void wait_until_huge(const struct or_cache *cache, uint64_t bytes)
{
    for (int tries = 0; tries < 3000 && huge_bytes(cache) < bytes; tries++)
        pause_ms(10);
    assert_true(huge_bytes(cache) >= bytes);
}

static uint64_t backed_bytes(const struct or_cache *cache)
{
    int fds[OR_CACHE_FDS];
    struct stat s;
    or_cache_memory(cache, fds);
    assert_int_equal(fstat(fds[1], &s), 0);
    return (uint64_t)s.st_blocks * 512;
}

static void close_all(struct or_cache *cache, struct or_volume *v)
{
    if (v)
        v->ops->close(v);
    for (uint64_t now = 1; or_cache_volumes(cache); now++)
        or_cache_poll(cache, now);
    or_cache_destroy(cache);
}

static void memory_in_use_becomes_huge_and_keeps_its_content(void **state)
{
    (void)state;
    if (!collapses())
        skip(); /* a kernel before 6.1, or no huge page is free */
    struct or_cache *cache = open_cache(48 * MIB);
    struct or_volume *v = open_volume(cache);
    write_all(v, BLOCKS);
    wait_until_huge(cache, 16 * MIB);
    verify_all(v, BLOCKS);
    assert_true(backed_bytes(cache) <= 16 * MIB);
    close_all(cache, v);
}

static void work_goes_on_while_memory_becomes_huge(void **state)
{
    (void)state;
    struct or_cache *cache = open_cache(48 * MIB);
    struct or_volume *v = open_volume(cache);
    for (int round = 0; round < 8; round++) {
        write_all(v, BLOCKS);
        verify_all(v, BLOCKS);
    }
    close_all(cache, v);
}

/* Until nothing is left to be given back. */
static void shrink(struct or_cache *cache, uint64_t bytes, uint64_t *now)
{
    assert_int_equal(or_cache_resize(cache, bytes), 0);
    for (int tries = 0; tries < 3000; tries++) {
        if (or_cache_poll(cache, *now += 1000000) == UINT64_MAX)
            return;
        if (tries > 100)
            pause_ms(10); /* the thread has a piece of it */
    }
    fail_msg("the cache does not shrink");
}

static void what_is_given_back_stays_so_and_can_become_huge_again(void **state)
{
    (void)state;
    if (!collapses())
        skip();
    struct or_cache *cache = open_cache(48 * MIB);
    uint64_t now = 1;
    for (int round = 0; round < 20; round++) {
        struct or_volume *v = open_volume(cache);
        write_all(v, BLOCKS);
        if (round % 4 == 0)
            wait_until_huge(cache, 16 * MIB);
        v->ops->close(v); /* the thread may be at work: it is not waited for */
        while (or_cache_volumes(cache))
            or_cache_poll(cache, ++now);
        shrink(cache, 6 * MIB, &now);
        assert_true(backed_bytes(cache) <= 6 * MIB);
        assert_int_equal(or_cache_resize(cache, 48 * MIB), 0);
    }
    pause_ms(200);
    assert_true(backed_bytes(cache) <= 6 * MIB);
    assert_true(huge_bytes(cache) <= 6 * MIB);
    close_all(cache, NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(memory_in_use_becomes_huge_and_keeps_its_content),
        cmocka_unit_test(work_goes_on_while_memory_becomes_huge),
        cmocka_unit_test(what_is_given_back_stays_so_and_can_become_huge_again),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
