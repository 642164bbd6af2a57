/* A domain with two volumes and a journal over plain memory, whose operations the test may hold back. The region, the
 * volumes and the journal outlive the engine: engine_open() after engine_kill() is a new one. */
#ifndef INTERCEPT_FIXTURE_H
#define INTERCEPT_FIXTURE_H

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "../backend/op.h"
#include "intercept/intercept.h"
#include "mem/list.h"

#define PAGE OR_HOLD_PAGE
#define LOWER_BYTES ((uint64_t)1 << 20)
#define JOURNAL_BYTES ((uint64_t)1 << 20)
#define MS ((uint64_t)1000000)
#define SLOTS 128u
#define OUT_MAX 64u

struct lower {
    struct or_volume volume;
    uint8_t *memory;
    struct or_list waiting; /* operations, oldest first */
    bool manual;            /* operations wait for lower_end(); else they end at once */
    uint8_t write_status, flush_status;
    uint32_t reads, writes, flushes;
};

static inline void lower_execute(struct lower *l, struct or_io *io)
{
    uint8_t *at = l->memory + io->offset;
    io->status = io->op == OR_OP_FLUSH ? l->flush_status : io->op == OR_OP_READ ? OR_OK : l->write_status;
    if (io->status == OR_OK && io->op == OR_OP_READ)
        memcpy(io->data, at, io->length);
    if (io->status == OR_OK && io->op == OR_OP_WRITE)
        memcpy(at, io->data, io->length);
    if (io->status == OR_OK && io->op == OR_OP_WRITE_ZEROES)
        memset(at, 0, io->length);
    or_volume_complete(io);
}

static inline void lower_submit(struct or_volume *volume, struct or_io *io)
{
    struct lower *l = (struct lower *)volume;
    l->reads += io->op == OR_OP_READ;
    l->writes += io->op == OR_OP_WRITE || io->op == OR_OP_WRITE_ZEROES;
    l->flushes += io->op == OR_OP_FLUSH;
    if (l->manual)
        or_list_append(&l->waiting, &io->link);
    else
        lower_execute(l, io);
}

static inline void lower_close(struct or_volume *volume)
{
    or_list_init(&((struct lower *)volume)->waiting);
}

static inline void lower_init(struct lower *l, uint64_t bytes)
{
    static const struct or_backend_ops ops = {.name = "test", .submit = lower_submit, .close = lower_close};
    *l = (struct lower){.memory = calloc(1, bytes)};
    or_list_init(&l->waiting);
    l->volume = (struct or_volume){.ops = &ops,
                                   .size = bytes,
                                   .block_size = 512,
                                   .physical_block_size = PAGE,
                                   .align = 1,
                                   .write_zeroes = true,
                                   .fd = -1};
}

/* Ends the oldest operation that waits; false: there is none. */
static inline bool lower_end(struct lower *l)
{
    if (or_list_empty(&l->waiting))
        return false;
    struct or_io *io = OR_CONTAINER(l->waiting.next, struct or_io, link);
    or_list_remove(&io->link);
    lower_execute(l, io);
    return true;
}

static inline void lower_end_all(struct lower *l)
{
    while (lower_end(l))
        ;
}

/* --- the engine ------------------------------------------------------------------------------------- */

struct out {
    uint32_t nic, length;
    uint8_t first;
};

struct lab {
    uint8_t *region;
    uint64_t region_bytes;
    struct lower lowers[2], journal;
    struct or_hold *hold;
    struct or_domain *domain;
    struct or_volume *volumes[2];
    uint64_t bytes_max, now;
    int opened;
    bool out_full;
    struct out out[OUT_MAX]; /* packets that went out */
    uint32_t outs, overflows, troubles[3];
};

static inline void on_opened(void *arg, int err)
{
    ((struct lab *)arg)->opened = err;
}

static inline bool on_packet(void *arg, uint32_t nic, const uint8_t *bytes, uint32_t length)
{
    struct lab *lab = arg;
    if (lab->out_full)
        return false;
    assert_true(lab->outs < OUT_MAX);
    lab->out[lab->outs++] = (struct out){nic, length, bytes[0]};
    for (uint32_t i = 0; i < length; i++)
        assert_int_equal(bytes[i], bytes[0]);
    return true;
}

static inline void on_overflow(void *arg)
{
    ((struct lab *)arg)->overflows++;
}

static inline void on_trouble(void *arg, enum or_domain_trouble what)
{
    ((struct lab *)arg)->troubles[what]++;
}

static inline void poll_later(struct lab *lab)
{
    or_hold_poll(lab->hold, lab->now += 2000 * MS);
}

static inline void attach(struct lab *lab, uint64_t generation)
{
    for (uint32_t n = 0; n < 2; n++) {
        int err;
        lab->volumes[n] = or_domain_attach(lab->domain, n + 1, generation, &err);
        assert_non_null(lab->volumes[n]);
    }
}

static inline struct or_domain_info info_of(const struct lab *lab)
{
    struct or_domain_info info;
    or_domain_read_info(lab->domain, &info);
    return info;
}

static inline void engine_open(struct lab *lab)
{
    int err;
    lab->opened = 1;
    lab->hold = or_hold_create(lab->region, lab->region_bytes, 7, &err);
    assert_non_null(lab->hold);
    struct or_domain_config config = {.id = 11,
                                      .bytes_max = lab->bytes_max,
                                      .journal = &lab->journal.volume,
                                      .journal_id = 99,
                                      .arg = lab,
                                      .opened = on_opened,
                                      .packet = on_packet,
                                      .overflow = on_overflow,
                                      .trouble = on_trouble};
    lab->domain = or_domain_open(lab->hold, &config, &err);
    assert_non_null(lab->domain);
    for (uint32_t n = 0; n < 2; n++)
        assert_int_equal(or_domain_add_volume(lab->domain, n + 1, &lab->lowers[n].volume), 0);
    poll_later(lab);
}

/* The engine dies; what it had asked for and has not ended is lost. */
static inline void engine_kill(struct lab *lab)
{
    or_domain_destroy(lab->domain);
    or_hold_destroy(lab->hold);
    lab->lowers[0].volume.in_flight = lab->lowers[1].volume.in_flight = lab->journal.volume.in_flight = 0;
}

static inline void region_lose(struct lab *lab)
{
    memset(lab->region, 0x5a, lab->region_bytes);
}

static inline struct lab *lab_open(void)
{
    struct lab *lab = calloc(1, sizeof *lab);
    lab->bytes_max = 96 * PAGE;
    lab->region_bytes = or_hold_bytes(SLOTS);
    lab->region = aligned_alloc(PAGE, lab->region_bytes);
    memset(lab->region, 0, lab->region_bytes);
    lower_init(&lab->lowers[0], LOWER_BYTES);
    lower_init(&lab->lowers[1], LOWER_BYTES);
    lower_init(&lab->journal, JOURNAL_BYTES);
    engine_open(lab);
    assert_int_equal(lab->opened, 0);
    attach(lab, 1);
    return lab;
}

static inline void lab_close(struct lab *lab)
{
    engine_kill(lab);
    free(lab->lowers[0].memory);
    free(lab->lowers[1].memory);
    free(lab->journal.memory);
    free(lab->region);
    free(lab);
}

/* --- operations ------------------------------------------------------------------------------------- */

static inline void put(struct or_volume *v, uint64_t offset, uint32_t length, uint8_t value)
{
    static uint8_t data[LOWER_BYTES];
    memset(data, value, length);
    assert_int_equal(run(v, OR_OP_WRITE, 0, offset, length, data), OR_OK);
}

static inline void assert_filled(const uint8_t *data, uint64_t length, uint8_t value)
{
    for (uint64_t i = 0; i < length; i++)
        assert_int_equal(data[i], value);
}

static inline void assert_reads(struct or_volume *v, uint64_t offset, uint32_t length, uint8_t value)
{
    static uint8_t data[LOWER_BYTES];
    assert_int_equal(run(v, OR_OP_READ, 0, offset, length, data), OR_OK);
    assert_filled(data, length, value);
}

static inline int send(struct lab *lab, uint64_t generation, uint32_t length, uint8_t value)
{
    static uint8_t data[OR_DOMAIN_PACKET_MAX + 1];
    memset(data, value, length);
    return or_domain_packet(lab->domain, generation, 3, data, length);
}

struct wait {
    struct or_commit commit;
    struct or_fence fence;
    int err;
    uint64_t committed;
};

#define UNDER_WAY 1

static inline void commit_done(struct or_commit *commit, int err)
{
    ((struct wait *)commit->owner)->err = err;
}

static inline void commit(struct lab *lab, struct wait *w, uint64_t generation, uint64_t epoch)
{
    *w = (struct wait){.commit = {.epoch = epoch, .generation = generation, .done = commit_done}, .err = UNDER_WAY};
    w->commit.owner = w;
    or_domain_commit(lab->domain, &w->commit);
}

static inline uint64_t cut(struct lab *lab, uint64_t generation)
{
    uint64_t epoch;
    assert_int_equal(or_domain_cut(lab->domain, generation, &epoch), 0);
    return epoch;
}

/* Cuts and commits, where that ends at once. */
static inline void checkpoint(struct lab *lab)
{
    struct wait w;
    uint64_t generation = info_of(lab).generation;
    commit(lab, &w, generation, cut(lab, generation));
    assert_int_equal(w.err, 0);
}

static inline void fence_done(struct or_fence *fence, int err, uint64_t committed)
{
    struct wait *w = fence->owner;
    w->err = err;
    w->committed = committed;
}

static inline int fence(struct lab *lab, struct wait *w, uint64_t generation)
{
    *w = (struct wait){.fence = {.generation = generation, .done = fence_done}, .err = UNDER_WAY};
    w->fence.owner = w;
    return or_domain_fence(lab->domain, &w->fence);
}

#endif
