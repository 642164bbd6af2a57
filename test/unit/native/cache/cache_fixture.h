/* A cache, and below it volumes that the test ends operation by operation, over plain memory. */
#ifndef CACHE_FIXTURE_H
#define CACHE_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "../backend/op.h"
#include "cache/cache.h"
#include "mem/list.h"

#define MIB ((uint64_t)1 << 20)
#define BLOCK OR_CACHE_BLOCK
#define LOWER_BYTES (8 * MIB)
#define MS ((uint64_t)1000000)

struct lower {
    struct or_volume volume;
    uint8_t *memory;
    struct or_list waiting; /* operations, oldest first */
    bool manual;            /* operations wait for lower_end(); else they end at once */
    uint8_t status;         /* of what ends next, and later */
    uint32_t reads, writes, flushes, others;
    uint64_t bytes_read, bytes_written;
    bool closed;
};

static inline void lower_execute(struct lower *l, struct or_io *io)
{
    io->status = l->status;
    uint8_t *at = l->memory + io->offset;
    if (l->status == OR_OK && io->op == OR_OP_READ)
        memcpy(io->data, at, io->length);
    if (l->status == OR_OK && io->op == OR_OP_WRITE)
        memcpy(at, io->data, io->length);
    if (l->status == OR_OK && (io->op == OR_OP_WRITE_ZEROES || io->op == OR_OP_DISCARD))
        memset(at, 0, io->length);
    or_volume_complete(io);
}

static inline void lower_submit(struct or_volume *volume, struct or_io *io)
{
    struct lower *l = (struct lower *)volume;
    l->reads += io->op == OR_OP_READ;
    l->writes += io->op == OR_OP_WRITE;
    l->flushes += io->op == OR_OP_FLUSH;
    l->others += io->op == OR_OP_WRITE_ZEROES || io->op == OR_OP_DISCARD;
    l->bytes_read += io->op == OR_OP_READ ? io->length : 0;
    l->bytes_written += io->op == OR_OP_WRITE ? io->length : 0;
    if (l->manual)
        or_list_append(&l->waiting, &io->link);
    else
        lower_execute(l, io);
}

static inline void lower_close(struct or_volume *volume)
{
    ((struct lower *)volume)->closed = true;
}

/* Ends the oldest operation. */
static inline void lower_end(struct lower *l)
{
    assert_false(or_list_empty(&l->waiting));
    struct or_io *io = OR_CONTAINER(l->waiting.next, struct or_io, link);
    or_list_remove(&io->link);
    lower_execute(l, io);
}

static inline void lower_end_all(struct lower *l)
{
    while (!or_list_empty(&l->waiting))
        lower_end(l);
}

static inline struct lower *lower_open(uint32_t block_size)
{
    static const struct or_backend_ops ops = {.name = "test", .submit = lower_submit, .close = lower_close};
    struct lower *l = calloc(1, sizeof *l);
    l->memory = malloc(LOWER_BYTES);
    for (uint64_t i = 0; i < LOWER_BYTES; i += 8)
        memcpy(l->memory + i, &i, 8);
    or_list_init(&l->waiting);
    l->volume = (struct or_volume){.ops = &ops,
                                   .size = LOWER_BYTES,
                                   .block_size = block_size,
                                   .physical_block_size = 4096,
                                   .align = 1,
                                   .discard_granularity = block_size,
                                   .write_zeroes = true,
                                   .fd = -1};
    return l;
}

static inline void lower_free(struct lower *l)
{
    free(l->memory);
    free(l);
}

/* --- the cache -------------------------------------------------------------------------------------- */

static inline struct or_cache *cache_open(uint64_t bytes, enum or_cache_policy policy)
{
    struct or_cache_config config = {.bytes = bytes, .bytes_max = 16 * MIB, .policy = policy, .seed = 7};
    int err;
    struct or_cache *cache = or_cache_create(&config, &err);
    assert_non_null(cache);
    or_cache_poll(cache, 1000 * MS);
    return cache;
}

static inline struct or_volume *cache_volume(struct or_cache *cache, struct lower *l,
                                             struct or_cache_volume_config config)
{
    int err;
    struct or_volume *volume = or_cache_volume(cache, &l->volume, &config, &err);
    assert_non_null(volume);
    return volume;
}

/* Closes the volume and waits until the cache is done with it. */
static inline void close_volume(struct or_cache *cache, struct or_volume *v)
{
    uint32_t volumes = or_cache_volumes(cache);
    uint64_t now = 1000000 * MS;
    v->ops->close(v);
    while (or_cache_volumes(cache) == volumes) {
        or_cache_poll(cache, now += 10000 * MS);
        assert_true(now < 2000000 * MS);
    }
}

static inline struct or_cache_stats stats_of(const struct or_volume *v)
{
    struct or_cache_stats s;
    or_cache_read_stats(v, &s);
    return s;
}

#endif
