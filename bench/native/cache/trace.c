/* Block traces: four that are made, the same ones each time, and what a file has.
 *
 *   zipf        independent reads, some blocks far more often than others
 *   scan        a hot set, and every now and then somebody reads a whole disk
 *   boot-storm  eight clones of one base boot one after the other, a little apart
 *   oltp        index, table and log of a database: a hot top, a skewed bottom, and what was just touched again */
#include "cachebench.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "or_types.h"

#define BLOCK OR_CACHE_BLOCK
#define ACCESSES 600000u

static uint64_t random_state;

static uint64_t next_random(void)
{
    random_state += 0x9e3779b97f4a7c15u;
    uint64_t x = random_state;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

static uint32_t below(uint32_t n)
{
    return (uint32_t)(((next_random() >> 32) * n) >> 32);
}

/* --- skewed choice ---------------------------------------------------------------------------------- */

struct zipf {
    uint32_t n;
    double *sums;    /* of the probabilities up to each rank */
    uint32_t *items; /* which item has the rank: neighbours in rank are not neighbours on the disk */
};

static struct zipf zipf_open(uint32_t n, double skew)
{
    struct zipf z = {n, malloc(n * sizeof(double)), malloc(n * sizeof(uint32_t))};
    must(z.sums && z.items, "out of memory");
    double sum = 0;
    for (uint32_t i = 0; i < n; i++) {
        z.sums[i] = sum += 1.0 / pow(i + 1, skew);
        uint32_t j = below(i + 1);
        z.items[i] = z.items[j];
        z.items[j] = i;
    }
    return z;
}

static void zipf_close(struct zipf *z)
{
    free(z->sums);
    free(z->items);
}

static uint32_t zipf_draw(const struct zipf *z)
{
    double at = (double)(next_random() >> 11) / 9007199254740992.0 * z->sums[z->n - 1];
    uint32_t low = 0, high = z->n - 1;
    while (low < high) {
        uint32_t middle = (low + high) / 2;
        if (z->sums[middle] < at)
            low = middle + 1;
        else
            high = middle;
    }
    return z->items[low];
}

/* --- making ----------------------------------------------------------------------------------------- */

static void add(struct trace *t, struct access access)
{
    if (t->count == t->room) {
        t->room = t->room ? 2 * t->room : 65536;
        t->accesses = realloc(t->accesses, t->room * sizeof *t->accesses);
        must(t->accesses != NULL, "out of memory");
    }
    if (access.volume >= t->volumes)
        t->volumes = access.volume + 1u;
    t->accesses[t->count++] = access;
}

static void add_blocks(struct trace *t, uint8_t op, uint8_t volume, uint64_t block, uint32_t blocks)
{
    add(t,
        (struct access){
            .time_us = t->count * 20, .op = op, .volume = volume, .offset = block * BLOCK, .length = blocks * BLOCK});
}

static void make_zipf(struct trace *t)
{
    struct zipf z = zipf_open(32768, 0.9);
    while (t->count < ACCESSES)
        add_blocks(t, OR_OP_READ, 0, zipf_draw(&z), 1);
    zipf_close(&z);
}

static void make_scan(struct trace *t)
{
    enum { HOT = 4096, DISK = 32768, BETWEEN = 40000, SCAN_BLOCKS = 16 };
    struct zipf z = zipf_open(HOT, 0.6);
    while (t->count < ACCESSES) {
        for (uint32_t i = 0; i < BETWEEN; i++)
            add_blocks(t, OR_OP_READ, 0, zipf_draw(&z), 1);
        for (uint32_t at = 0; at < DISK; at += SCAN_BLOCKS) {
            add_blocks(t, OR_OP_READ, 0, HOT + at, SCAN_BLOCKS);
            for (uint32_t i = 0; i < 4; i++)
                add_blocks(t, OR_OP_READ, 0, zipf_draw(&z), 1);
        }
    }
    zipf_close(&z);
}

static void make_boot_storm(struct trace *t)
{
    enum { CLONES = 8, STEPS = 6000, BASE = 24576, APART = 400, RUN_MAX = 8 };
    static uint32_t at[STEPS];
    static uint8_t blocks[STEPS], op[STEPS];
    for (uint32_t i = 0; i < STEPS; i++) {
        bool again = i > 50 && below(100) < 15; /* libraries, directories */
        uint32_t from = again ? i - 1 - below(i < 1000 ? i - 1 : 1000) : i;
        at[i] = again ? at[from] : i % 6 ? at[i - 1] + blocks[i - 1] : below(BASE - 8 * RUN_MAX);
        blocks[i] = again ? blocks[from] : (uint8_t)(1 + below(RUN_MAX));
        op[i] = below(100) < 5 ? OR_OP_WRITE : OR_OP_READ;
    }
    t->clones = true;
    for (uint32_t step = 0; step < STEPS + (CLONES - 1) * APART; step++)
        for (uint32_t c = 0; c < CLONES; c++) {
            uint32_t i = step - c * APART;
            if (step >= c * APART && i < STEPS)
                add_blocks(t, op[i], (uint8_t)c, at[i], blocks[i]);
        }
}

/* How long ago: 1 .. 16384, and every power of two as likely as the next. */
static uint32_t distance(void)
{
    uint32_t octave = 1u << below(14);
    return octave + below(octave) + 1;
}

static void make_oltp(struct trace *t)
{
    enum { INDEX = 1024, TABLE = 49152, LOG = 8192, RECENT = 16384 };
    static uint32_t recent[RECENT]; /* rows, the last at (seen - 1) % RECENT */
    struct zipf index = zipf_open(INDEX, 1.1), table = zipf_open(TABLE, 0.7);
    uint32_t log = 0, seen = 0;
    while (t->count < ACCESSES) {
        uint32_t dice = below(100);
        if (dice < 10) {
            add_blocks(t, OR_OP_WRITE, 0, INDEX + TABLE + log++ % LOG, 1);
        } else if (dice < 35) {
            add_blocks(t, OR_OP_READ, 0, zipf_draw(&index), 1);
        } else {
            uint32_t row = dice < 65 && seen > RECENT ? recent[(seen - distance()) % RECENT] : zipf_draw(&table);
            recent[seen++ % RECENT] = row;
            add_blocks(t, dice % 4 ? OR_OP_READ : OR_OP_WRITE, 0, INDEX + row, 1);
        }
    }
    zipf_close(&index);
    zipf_close(&table);
}

struct trace *trace_make(uint32_t index)
{
    static const struct {
        const char *name, *about;
        void (*make)(struct trace *t);
    } kinds[] = {
        {"zipf", "independent reads of 128 MiB, Zipf 0.9", make_zipf},
        {"scan", "a hot set of 16 MiB; at times 128 MiB are read in order", make_scan},
        {"boot-storm", "8 clones of one base of 96 MiB boot, 400 requests apart", make_boot_storm},
        {"oltp", "index, table (192 MiB) and log of a database", make_oltp},
    };
    if (index >= sizeof kinds / sizeof *kinds)
        return NULL;
    struct trace *t = calloc(1, sizeof *t);
    must(t != NULL, "out of memory");
    random_state = 1;
    t->name = kinds[index].name;
    t->about = kinds[index].about;
    kinds[index].make(t);
    return t;
}

/* --- files ------------------------------------------------------------------------------------------ */

static uint8_t op_of(const char *word)
{
    static const struct {
        const char *word;
        uint8_t op;
    } words[] = {{"read", OR_OP_READ},       {"r", OR_OP_READ},      {"write", OR_OP_WRITE},
                 {"w", OR_OP_WRITE},         {"flush", OR_OP_FLUSH}, {"f", OR_OP_FLUSH},
                 {"discard", OR_OP_DISCARD}, {"d", OR_OP_DISCARD},   {"zero", OR_OP_WRITE_ZEROES},
                 {"z", OR_OP_WRITE_ZEROES}};
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        if (strcasecmp(word, words[i].word) == 0)
            return words[i].op;
    return 0;
}

static void read_line(struct trace *t, const char *path, uint32_t number, const char *line)
{
    char word[16], what[200];
    uint64_t time, offset, length, volume = 0;
    int n = sscanf(line, "%" SCNu64 " %15s %" SCNu64 " %" SCNu64 " %" SCNu64, &time, word, &offset, &length, &volume);
    uint8_t op = n >= 4 ? op_of(word) : 0;
    bool valid = op && offset % 512 == 0 && length % 512 == 0 && length <= UINT32_MAX && offset < (UINT64_C(1) << 50) &&
                 volume < TRACE_VOLUMES_MAX;
    snprintf(what, sizeof what, "%s, line %u: expected \"timestamp_us op offset length [volume]\"", path, number);
    must(valid, what);
    add(t, (struct access){time, offset, (uint32_t)length, op, (uint8_t)volume});
}

struct trace *trace_read(const char *path)
{
    FILE *file = fopen(path, "r");
    must(file != NULL, path);
    struct trace *t = calloc(1, sizeof *t);
    must(t != NULL, "out of memory");
    t->name = path;
    t->about = "from a file";
    char line[256];
    for (uint32_t number = 1; fgets(line, sizeof line, file); number++)
        if (line[0] != '#' && line[0] != '\n')
            read_line(t, path, number, line);
    fclose(file);
    must(t->count > 0, "the trace is empty");
    return t;
}

void trace_free(struct trace *t)
{
    free(t->accesses);
    free(t);
}

static int ascending(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

uint64_t trace_footprint(const struct trace *t)
{
    size_t n = 0, distinct = 0;
    for (size_t i = 0; i < t->count; i++)
        n += t->accesses[i].length / BLOCK + 2;
    uint64_t *blocks = malloc(n * sizeof *blocks);
    must(blocks != NULL, "out of memory");
    n = 0;
    for (size_t i = 0; i < t->count; i++) {
        const struct access *a = &t->accesses[i];
        uint64_t volume = t->clones ? 0 : (uint64_t)a->volume << 56;
        for (uint64_t b = a->offset / BLOCK; b * BLOCK < a->offset + a->length; b++)
            blocks[n++] = volume | b;
    }
    qsort(blocks, n, sizeof *blocks, ascending);
    for (size_t i = 0; i < n; i++)
        distinct += i == 0 || blocks[i] != blocks[i - 1];
    free(blocks);
    return distinct;
}
