/* A trace on a cache over volumes that keep nothing: only what the cache does counts. */
#include "cachebench.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend/backend.h"

#define MIB ((uint64_t)1 << 20)
#define BLOCK OR_CACHE_BLOCK
#define PIECE OR_REQ_BYTES_MAX /* as large as requests come */

struct clone {
    uint64_t content;
    uint8_t *own; /* a bit for each block that it has written */
};

static void map_clone(void *arg, uint64_t number, uint64_t *content, uint64_t *content_number)
{
    const struct clone *c = arg;
    *content = c->own[number / 8] >> number % 8 & 1 ? c->content : 1;
    *content_number = number;
}

static void write_clone(struct clone *c, const struct access *a)
{
    for (uint64_t b = a->offset / BLOCK; b * BLOCK < a->offset + a->length; b++)
        c->own[b / 8] |= (uint8_t)(1u << b % 8);
}

struct bench {
    struct or_cache *cache;
    struct or_volume *volumes[TRACE_VOLUMES_MAX];
    struct clone clones[TRACE_VOLUMES_MAX];
    uint32_t count;
    uint8_t *buffer;
};

static uint64_t size_of(const struct trace *t)
{
    uint64_t size = MIB;
    for (size_t i = 0; i < t->count; i++)
        if (t->accesses[i].offset + t->accesses[i].length > size)
            size = t->accesses[i].offset + t->accesses[i].length;
    return (size + BLOCK - 1) / BLOCK * BLOCK;
}

static void open_bench(struct bench *b, const struct trace *t, enum or_cache_policy policy, uint64_t bytes)
{
    struct or_cache_config config = {.bytes = bytes, .bytes_max = bytes, .policy = policy, .seed = 1};
    uint64_t size = size_of(t);
    int err;
    b->cache = or_cache_create(&config, &err);
    b->count = t->volumes;
    b->buffer = aligned_alloc(BLOCK, PIECE);
    must(b->cache && b->buffer, "out of memory");
    memset(b->buffer, 1, PIECE);
    for (uint32_t i = 0; i < b->count; i++) {
        b->clones[i] = (struct clone){2 + i, t->clones ? calloc(1, size / BLOCK / 8 + 1) : NULL};
        struct or_cache_volume_config volume = {.mode = OR_CACHE_WRITE_THROUGH,
                                                .content = b->clones[i].content,
                                                .map = t->clones ? map_clone : NULL,
                                                .map_arg = &b->clones[i]};
        struct or_volume *lower = or_volume_null(size, 512, &err);
        must(lower != NULL, "out of memory");
        b->volumes[i] = or_cache_volume(b->cache, lower, &volume, &err);
        must(b->volumes[i] != NULL, "out of memory");
    }
}

static void close_bench(struct bench *b)
{
    or_cache_destroy(b->cache);
    for (uint32_t i = 0; i < b->count; i++)
        free(b->clones[i].own);
    free(b->buffer);
}

static void done(struct or_io *io)
{
    must(io->status == OR_OK, "an operation failed");
}

/* As the server does: a read that one block can answer is not copied. */
static void play(struct bench *b, const struct access *a)
{
    struct or_volume *v = b->volumes[a->volume];
    const uint8_t *memory = a->op == OR_OP_READ ? v->ops->peek(v, a->offset, a->length) : NULL;
    if (memory) {
        v->ops->unpeek(v, memory);
        return;
    }
    for (uint32_t at = 0; at < a->length || at == 0; at += PIECE) {
        uint32_t length = a->length - at < PIECE ? a->length - at : PIECE;
        struct or_io io = {.op = a->op, .offset = a->offset + at, .length = length, .data = b->buffer, .done = done};
        or_volume_submit(v, &io);
    }
    if (or_op_writes(a->op) && b->clones[a->volume].own)
        write_clone(&b->clones[a->volume], a);
}

void replay(const struct trace *t, enum or_cache_policy policy, uint64_t bytes, double part)
{
    struct bench b;
    open_bench(&b, t, policy, bytes);
    uint64_t start = clock_ns();
    for (size_t i = 0; i < t->count; i++) {
        play(&b, &t->accesses[i]);
        or_cache_poll(b.cache, t->accesses[i].time_us * 1000);
    }
    uint64_t took = clock_ns() - start, hits = 0, misses = 0, shared = 0, fetched = 0;
    for (uint32_t i = 0; i < b.count; i++) {
        struct or_cache_stats s;
        or_cache_read_stats(b.volumes[i], &s);
        hits += s.hits;
        misses += s.misses;
        shared += s.shared_hits;
        fetched += s.fetched;
    }
    struct or_cache_info info;
    or_cache_read_info(b.cache, &info);
    printf("{\"workload\":\"%s\",\"about\":\"%s\",\"policy\":\"%s\",\"bytes\":%lu,\"part\":%.4f,\"reads\":%lu,"
           "\"hits\":%lu,\"hit_ratio\":%.5f,\"shared_hits\":%lu,\"fetched\":%lu,\"ns_per_access\":%.1f,"
           "\"metadata_per_byte\":%.5f}\n",
           t->name, t->about, or_cache_policy_name(policy), bytes, part, hits + misses, hits,
           hits + misses ? (double)hits / (double)(hits + misses) : 0, shared, fetched, (double)took / (double)t->count,
           (double)info.metadata_bytes / ((double)info.blocks_max * BLOCK));
    fflush(stdout);
    close_bench(&b);
}

/* --- costs ------------------------------------------------------------------------------------------ */

#define COST_BYTES (256 * MIB)
#define COST_ROUNDS 5u
#define COST_COUNT 200000u

static uint64_t spread(uint64_t i, uint64_t n)
{
    return i * 0x9e3779b97f4a7c15u % n;
}

static void time_cost(struct bench *b, const char *name, const char *policy, bool peeks, uint64_t first,
                      uint64_t blocks)
{
    struct or_volume *v = b->volumes[0];
    double best = 1e18;
    static uint64_t turn;
    for (uint32_t round = 0; round < COST_ROUNDS; round++) {
        uint64_t start = clock_ns();
        for (uint32_t i = 0; i < COST_COUNT; i++) {
            uint64_t at = (first + spread(turn++, blocks)) * BLOCK;
            const uint8_t *memory = peeks ? v->ops->peek(v, at, BLOCK) : NULL;
            if (memory) {
                v->ops->unpeek(v, memory);
                continue;
            }
            struct or_io io = {.op = OR_OP_READ, .offset = at, .length = BLOCK, .data = b->buffer, .done = done};
            or_volume_submit(v, &io);
        }
        double ns = (double)(clock_ns() - start) / COST_COUNT;
        best = ns < best ? ns : best;
    }
    printf("{\"cost\":\"%s\",\"policy\":\"%s\",\"ns\":%.1f}\n", name, policy, best);
    fflush(stdout);
}

static void measure_policy(enum or_cache_policy policy)
{
    struct access last = {.offset = 64ull << 30, .length = BLOCK, .op = OR_OP_READ};
    struct trace t = {.accesses = &last, .count = 1, .volumes = 1};
    struct bench b;
    open_bench(&b, &t, policy, COST_BYTES);
    const char *name = or_cache_policy_name(policy);
    uint64_t hot = COST_BYTES / BLOCK / 2;
    for (uint64_t i = 0; i < hot; i++)
        play(&b, &(struct access){.offset = i * BLOCK, .length = BLOCK, .op = OR_OP_READ});
    time_cost(&b, "hit, out of the block", name, true, 0, hot);
    time_cost(&b, "hit, copied", name, false, 0, hot);
    time_cost(&b, "miss", name, false, hot, (64ull << 30) / BLOCK - hot);
    close_bench(&b);
}

/* The volume below alone: what of a miss is not the cache's. */
static void measure_lower(void)
{
    int err;
    uint8_t *buffer = aligned_alloc(BLOCK, BLOCK);
    struct or_volume *lower = or_volume_null(64 * MIB, BLOCK, &err);
    must(buffer && lower, "out of memory");
    uint64_t start = clock_ns();
    for (uint32_t i = 0; i < COST_COUNT; i++) {
        struct or_io io = {.op = OR_OP_READ, .offset = 0, .length = BLOCK, .data = buffer, .done = done};
        or_volume_submit(lower, &io);
    }
    printf("{\"cost\":\"of it, the volume below (none)\",\"policy\":\"-\",\"ns\":%.1f}\n",
           (double)(clock_ns() - start) / COST_COUNT);
    lower->ops->close(lower);
    free(buffer);
}

void measure_costs(void)
{
    for (int policy = 0; policy < OR_CACHE_POLICIES; policy++)
        measure_policy((enum or_cache_policy)policy);
    measure_lower();
}
