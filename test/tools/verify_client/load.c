#include "load.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../journal.h"
#include "blocks.h"

#define SLOT_BLOCKS (LOAD_DATA_MAX / JOURNAL_BLOCK)
#define HOT_BLOCKS 64u /* half of the requests lie here, over each other */
#define SETTLE_REQUESTS 32u
#define FLUSH_ONE_IN 32u
#define REPORTS_MAX 20u /* errors and mismatches printed in full; all are counted */

struct slot {
    bool busy;
    enum vhost_disk_op op;
    uint32_t first, count, id; /* blocks; id: of a write */
    uint64_t number;           /* of the request */
    uint32_t floor[SLOT_BLOCKS];
};

struct counts {
    uint64_t completed, errors, mismatches;
};

struct load {
    struct vhost_disk *disk;
    struct load_config config;
    struct blocks *blocks;
    FILE *journal;
    uint64_t random;
    struct slot slot[LOAD_SLOTS];
    uint32_t busy;
    uint64_t requests; /* submitted so far */
    uint64_t due_ns, last_end_ns;
    struct counts total, window;
    uint64_t gap_ns, gap_begin_ns, window_connections;
    uint64_t settle_from, settle_left; /* left: ends of requests from this number on; 0: nobody waits */
    bool stopping;
    uint32_t final_next; /* block that the final reading reads next */
};

/* SplitMix64. */
static uint64_t random_below(struct load *l, uint64_t limit)
{
    uint64_t x = l->random += 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return (x ^ (x >> 31)) % limit;
}

struct load *load_create(struct vhost_disk *disk, const struct load_config *config)
{
    struct load *l = calloc(1, sizeof(*l));
    FILE *journal = fopen(config->journal, "wbe");
    if (l == NULL || journal == NULL) {
        perror(config->journal);
        exit(2);
    }
    *l = (struct load){.disk = disk,
                       .config = *config,
                       .blocks = blocks_create(config->blocks),
                       .journal = journal,
                       .random = config->seed,
                       .window_connections = vhost_disk_stats(disk).connections,
                       .last_end_ns = journal_now_ns()};
    return l;
}

static void note(struct load *l, const struct slot *s, enum journal_kind kind, uint8_t status)
{
    struct journal_client record = {.time_ns = journal_now_ns(),
                                    .offset = (uint64_t)s->first * JOURNAL_BLOCK,
                                    .length = s->count * JOURNAL_BLOCK,
                                    .id = s->id,
                                    .kind = kind,
                                    .status = status};
    fwrite(&record, sizeof(record), 1, l->journal);
}

/* --- submitting ---------------------------------------------------------------------------------- */

static void choose(struct load *l, struct slot *s)
{
    static const uint32_t sizes[] = {1, 1, 1, 1, 2, 4, 16, SLOT_BLOCKS};
    s->op = VHOST_DISK_FLUSH;
    s->first = s->count = 0;
    if (random_below(l, FLUSH_ONE_IN) == 0)
        return;
    s->op = random_below(l, 2) == 0 ? VHOST_DISK_WRITE : VHOST_DISK_READ;
    s->count = sizes[random_below(l, sizeof(sizes) / sizeof(sizes[0]))];
    s->first = (uint32_t)random_below(l, (random_below(l, 2) == 0 ? HOT_BLOCKS : l->config.blocks) - s->count + 1);
}

static void submit(struct load *l, uint32_t index)
{
    struct slot *s = &l->slot[index];
    uint8_t *data = vhost_disk_data(l->disk, index);
    s->busy = true;
    s->number = l->requests++;
    l->busy++;
    if (s->op == VHOST_DISK_WRITE) {
        s->id = blocks_write(l->blocks, s->first, s->count, data);
        note(l, s, JOURNAL_SUBMIT, 0);
    } else if (s->op == VHOST_DISK_READ) {
        blocks_read(l->blocks, s->first, s->count, s->floor);
        memset(data, 0x5a, (size_t)s->count * JOURNAL_BLOCK); /* what an earlier request left must not pass */
    }
    vhost_disk_submit(l->disk, index, s->op, (uint64_t)s->first * JOURNAL_BLOCK, s->count * JOURNAL_BLOCK);
    vhost_disk_kick(l->disk);
}

static struct slot *free_slot(struct load *l)
{
    for (uint32_t i = 0; i < LOAD_SLOTS; i++)
        if (!l->slot[i].busy)
            return &l->slot[i];
    return NULL;
}

static void submit_final(struct load *l)
{
    for (struct slot *s; l->final_next < l->config.blocks && (s = free_slot(l)) != NULL;) {
        uint32_t left = l->config.blocks - l->final_next;
        s->op = VHOST_DISK_READ;
        s->first = l->final_next;
        s->count = left < SLOT_BLOCKS ? left : SLOT_BLOCKS;
        l->final_next += s->count;
        submit(l, (uint32_t)(s - l->slot));
    }
}

/* --- ending -------------------------------------------------------------------------------------- */

static void report(struct load *l, const struct slot *s, const char *what, const char *detail)
{
    static const char *const ops[] = {"read", "write", "flush"};
    if (l->total.errors + l->total.mismatches <= REPORTS_MAX)
        printf("{\"event\":\"bad\",\"what\":\"%s\",\"op\":\"%s\",\"block\":%u,\"blocks\":%u,\"id\":%u,\"detail\":\"%"
               "s\"}\n",
               what, ops[s->op], s->first, s->count, s->op == VHOST_DISK_WRITE ? s->id : 0, detail);
}

static void count_error(struct load *l, const struct slot *s, uint8_t status)
{
    char detail[32];
    l->total.errors++;
    l->window.errors++;
    snprintf(detail, sizeof(detail), "status %u", status);
    report(l, s, "error", detail);
}

static void check(struct load *l, const struct slot *s, const uint8_t *data)
{
    struct blocks_mismatch m;
    if (blocks_check(l->blocks, s->first, s->count, s->floor, data, &m) == 0)
        return;
    char detail[128];
    l->total.mismatches++;
    l->window.mismatches++;
    snprintf(detail, sizeof(detail), "block %u holds write %" PRId32 "; %u is acknowledged, %u is the newest", m.block,
             (int32_t)m.found, m.floor, m.newest);
    report(l, s, "mismatch", detail);
}

static void measure_gap(struct load *l, uint64_t now_ns)
{
    uint64_t gap_ns = now_ns - l->last_end_ns;
    if (gap_ns > l->gap_ns) {
        l->gap_ns = gap_ns;
        l->gap_begin_ns = l->last_end_ns;
    }
    l->last_end_ns = now_ns;
}

static void settle_step(struct load *l, const struct slot *s)
{
    if (l->settle_left > 0 && s->number >= l->settle_from && --l->settle_left == 0)
        puts("{\"event\":\"settled\"}");
}

static void complete(struct load *l, uint32_t index, uint8_t status)
{
    struct slot *s = &l->slot[index];
    if (!s->busy) {
        l->total.errors++;
        l->window.errors++;
        report(l, s, "error", "a request ended twice");
        return;
    }
    measure_gap(l, journal_now_ns());
    s->busy = false;
    l->busy--;
    l->total.completed++;
    l->window.completed++;
    if (s->op == VHOST_DISK_WRITE)
        note(l, s, JOURNAL_ACK, status);
    if (status != 0)
        count_error(l, s, status);
    else if (s->op == VHOST_DISK_WRITE)
        blocks_acknowledge(l->blocks, s->first, s->count, s->id);
    else if (s->op == VHOST_DISK_READ)
        check(l, s, vhost_disk_data(l->disk, index));
    settle_step(l, s);
}

/* --- from outside -------------------------------------------------------------------------------- */

uint64_t load_step(struct load *l, uint64_t now_ns)
{
    uint8_t status;
    vhost_disk_clear_call(l->disk);
    for (int index; (index = vhost_disk_completed(l->disk, &status)) >= 0;)
        complete(l, (uint32_t)index, status);
    if (l->stopping) {
        /* The reading begins on a volume at rest: each block must then hold its newest write. */
        if (l->busy == 0 || l->final_next > 0)
            submit_final(l);
        return UINT64_MAX;
    }
    struct slot *s = free_slot(l);
    if (s == NULL)
        return UINT64_MAX;
    if (now_ns >= l->due_ns) {
        choose(l, s);
        submit(l, (uint32_t)(s - l->slot));
        l->due_ns = now_ns + l->config.interval_ns;
    }
    return l->due_ns;
}

static void print_window(const char *event, const char *name, const struct load *l, const struct counts *c,
                         uint64_t reconnects)
{
    printf("{\"event\":\"%s\",\"name\":\"%s\",\"completed\":%" PRIu64 ",\"errors\":%" PRIu64 ",\"mismatches\":%" PRIu64
           ",\"reconnects\":%" PRIu64 ",\"gap_ns\":%" PRIu64 ",\"gap_begin_ns\":%" PRIu64 "}\n",
           event, name, c->completed, c->errors, c->mismatches, reconnects, l->gap_ns, l->gap_begin_ns);
}

void load_window(struct load *l, const char *name)
{
    uint64_t connections = vhost_disk_stats(l->disk).connections;
    print_window("window", name, l, &l->window, connections - l->window_connections);
    memset(&l->window, 0, sizeof(l->window));
    l->gap_ns = l->gap_begin_ns = 0;
    l->window_connections = connections;
}

void load_settle(struct load *l)
{
    l->settle_from = l->requests;
    l->settle_left = SETTLE_REQUESTS;
}

void load_stop(struct load *l)
{
    l->stopping = true;
}

bool load_ended(const struct load *l)
{
    return l->stopping && l->busy == 0 && l->final_next == l->config.blocks;
}

bool load_finish(struct load *l)
{
    if (fclose(l->journal) != 0) {
        perror("journal");
        exit(2);
    }
    print_window("end", "", l, &l->total, vhost_disk_stats(l->disk).connections - 1);
    return l->total.errors == 0 && l->total.mismatches == 0;
}
