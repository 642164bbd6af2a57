/* The measuring loop.
 *
 * A phase hands out operations (next_*), pump() keeps `qd` of them in flight until the phase has no
 * more and all have ended. A plain run is one phase: until the clock says stop. With --verify, a phase
 * before it fills the area (--fill does that too) and one after it reads everything back.
 *
 * The window is measured from one snapshot (time, CPU clocks) to another; both are taken between two
 * operations, and the operations that ended between them count. CPU time comes from the clocks of
 * whole processes, ours and those of --server-pid, which cover all their threads to the nanosecond;
 * time that the kernel spends on softirqs is in whichever process it interrupted. */
#include "histogram.h"
#include "loadgen.h"
#include "stamp.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct snapshot {
    uint64_t time_ns, client_ns, agent_ns, server_ns;
    uint64_t waited_ns; /* the loop was ready to run, but another program had the CPU */
};

/* Of other processes. */
struct clocks {
    clockid_t ids[PROCESSES_MAX];
    uint32_t count;
};

struct load {
    const struct options *options;
    struct engine *engine;
    uint64_t depth;            /* operations in flight */
    struct slot *slots, *idle; /* idle: those not in flight, last in first out */
    uint32_t in_flight;
    uint64_t last_end_ns;

    bool random_offsets;
    uint32_t write_percent;
    uint64_t blocks, sequential; /* of bs bytes in the area; the next one */
    uint64_t random;
    struct stamps *stamps; /* NULL without --verify */

    uint64_t measure_from_ns, measure_until_ns;
    bool measuring;
    struct snapshot begin, end;
    struct clocks servers, agents;
    struct histogram latency;
    uint64_t errors, mismatches;
};

static uint64_t cpu_clock_ns(clockid_t clock)
{
    struct timespec t;
    if (clock_gettime(clock, &t) != 0)
        die("a process of --server-pid or --agent-pid has gone");
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static uint64_t clocks_sum_ns(const struct clocks *clocks)
{
    uint64_t sum = 0;
    for (uint32_t i = 0; i < clocks->count; i++)
        sum += cpu_clock_ns(clocks->ids[i]);
    return sum;
}

/* The scheduler's statistics of this thread: nanoseconds on the CPU, nanoseconds waiting for it. */
static uint64_t cpu_wait_ns(void)
{
    FILE *file = fopen("/proc/thread-self/schedstat", "re");
    uint64_t waited = 0;
    if (file && fscanf(file, "%*u %lu", &waited) != 1)
        waited = 0;
    if (file)
        fclose(file);
    return waited;
}

static struct snapshot snapshot_take(const struct load *load)
{
    return (struct snapshot){.time_ns = clock_ns(),
                             .client_ns = cpu_clock_ns(CLOCK_PROCESS_CPUTIME_ID),
                             .agent_ns = clocks_sum_ns(&load->agents),
                             .server_ns = clocks_sum_ns(&load->servers),
                             .waited_ns = cpu_wait_ns()};
}

void load_done(struct slot *slot, uint8_t status)
{
    struct load *load = slot->load;
    uint64_t now = clock_ns();
    load->last_end_ns = now;
    if (status != OR_OK)
        load->errors++;
    else if (load->measuring)
        histogram_add(&load->latency, now - slot->started_ns);
    if (load->stamps && !stamps_end(load->stamps, slot, status))
        load->mismatches++;
    slot->next = load->idle;
    load->idle = slot;
    load->in_flight--;
}

/* The operation of a timed run; false when the time is over. */
static bool next_timed(struct load *load, struct slot *slot)
{
    uint64_t now = clock_ns();
    if (!load->measuring && now >= load->measure_from_ns) {
        load->measuring = true;
        load->begin = snapshot_take(load);
    }
    if (now >= load->measure_until_ns) {
        load->measuring = false;
        load->end = snapshot_take(load);
        return false;
    }
    uint64_t block;
    if (load->random_offsets)
        block = (uint64_t)(((unsigned __int128)random_next(&load->random) * load->blocks) >> 64);
    else
        block = load->sequential++ % load->blocks;
    if (load->stamps)
        block = stamps_free_block(load->stamps, block);
    slot->offset = block * load->options->bs;
    slot->op = OR_OP_READ;
    if (load->write_percent && random_next(&load->random) % 100 < load->write_percent)
        slot->op = OR_OP_WRITE;
    return true;
}

/* Writes, or reads, each block of the area once. */
static bool next_pass(struct load *load, struct slot *slot, uint8_t op)
{
    if (load->sequential == load->blocks)
        return false;
    slot->offset = load->sequential++ * load->options->bs;
    slot->op = op;
    return true;
}

static bool next_fill(struct load *load, struct slot *slot)
{
    return next_pass(load, slot, OR_OP_WRITE);
}

static bool next_check(struct load *load, struct slot *slot)
{
    return next_pass(load, slot, OR_OP_READ);
}

static void submit(struct load *load, struct slot *slot)
{
    if (load->stamps)
        stamps_begin(load->stamps, slot);
    load->in_flight++;
    slot->started_ns = clock_ns();
    load->engine->ops->submit(load->engine, slot);
}

static void pump(struct load *load, bool (*next)(struct load *, struct slot *))
{
    uint64_t stall_ns = (uint64_t)(load->options->stall_seconds * 1e9);
    bool more = true;
    load->last_end_ns = clock_ns();
    load->sequential = 0;
    while (more || load->in_flight) {
        while (more && load->idle) {
            struct slot *slot = load->idle;
            if (!(more = next(load, slot)))
                break;
            load->idle = slot->next;
            submit(load, slot);
        }
        if (!load->in_flight)
            continue;
        load->engine->ops->progress(load->engine);
        if (load->in_flight == load->depth && clock_ns() - load->last_end_ns > stall_ns)
            die("no operation ended for %.0f s", load->options->stall_seconds);
    }
}

static void choose_operations(struct load *load)
{
    static const struct {
        const char *name;
        bool random;
        uint32_t write_percent;
    } table[] = {{"randread", true, 0},
                 {"randwrite", true, 100},
                 {"randrw", true, 50},
                 {"read", false, 0},
                 {"write", false, 100}};
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        if (strcmp(table[i].name, load->options->op) != 0)
            continue;
        load->random_offsets = table[i].random;
        load->write_percent = table[i].write_percent;
        return;
    }
    die("--op: '%s' is not randread, randwrite, randrw, read or write", load->options->op);
}

static void make_slots(struct load *load)
{
    const struct options *o = load->options;
    size_t stride = (o->bs + PAGE_BYTES - 1) / PAGE_BYTES * PAGE_BYTES;
    uint8_t *memory = memory_map(load->depth * stride);
    load->slots = memory_new(load->depth * sizeof *load->slots);
    for (uint64_t i = 0; i < load->depth; i++) {
        struct slot *slot = &load->slots[i];
        slot->load = load;
        slot->index = (uint16_t)i;
        slot->data = memory + i * stride;
        slot->length = (uint32_t)o->bs;
        slot->next = load->idle;
        load->idle = slot;
        for (uint64_t at = 0; at + 8 <= o->bs; at += 8) {
            uint64_t word = random_next(&load->random);
            memcpy(slot->data + at, &word, 8);
        }
    }
}

static void find_clocks(const char *option, const struct processes *processes, struct clocks *clocks)
{
    clocks->count = processes->count;
    for (uint32_t i = 0; i < processes->count; i++)
        if (clock_getcpuclockid(processes->pids[i], &clocks->ids[i]) != 0)
            die("--%s: there is no process %d", option, processes->pids[i]);
}

/* [[most nanoseconds of a bucket, operations in it], ...], without the empty ones. */
static void report_histogram(const struct histogram *h)
{
    printf(",\"latency_ns\":[");
    const char *comma = "";
    for (uint32_t i = 0; i < HISTOGRAM_BUCKETS; i++) {
        if (h->buckets[i] == 0)
            continue;
        printf("%s[%lu,%lu]", comma, min_u64(histogram_highest(i), h->max), h->buckets[i]);
        comma = ",";
    }
    printf("]");
}

static void report(const struct load *load)
{
    static const char json[] =
        "{\"engine\":\"%s\",\"op\":\"%s\",\"bs\":%lu,\"qd\":%lu,\"ops\":%lu,\"seconds\":%.6f,\"iops\":%.1f,"
        "\"p50_us\":%.2f,\"p99_us\":%.2f,\"p999_us\":%.2f,\"max_us\":%.2f,\"mbps\":%.2f,"
        "\"client_cpu_us_per_io\":%.3f,\"agent_cpu_us_per_io\":%.3f,\"server_cpu_us_per_io\":%.3f,"
        "\"cpu_wait_percent\":%.2f,\"errors\":%lu,\"mismatches\":%lu";
    static const char text[] =
        "%s %s bs %lu qd %lu: %lu operations in %.2f s, %.0f IOPS, p50 %.1f us, p99 %.1f us, p99.9 %.1f us, "
        "max %.1f us, %.1f MB/s, CPU per operation %.2f us here, %.2f us at the agent, %.2f us at the server, waited "
        "for the CPU %.1f %% of the time, %lu errors, %lu mismatches";
    const struct options *o = load->options;
    const struct histogram *h = &load->latency;
    const struct snapshot *from = &load->begin, *to = &load->end;
    double window_ns = (double)(to->time_ns - from->time_ns);
    double iops = (double)h->count * 1e9 / window_ns;
    double per_io_us = h->count ? 1e3 * (double)h->count : 1e3;
    printf(o->json ? json : text, o->engine, o->op, o->bs, o->qd, h->count, window_ns / 1e9, iops,
           (double)histogram_percentile(h, 0.5) / 1e3, (double)histogram_percentile(h, 0.99) / 1e3,
           (double)histogram_percentile(h, 0.999) / 1e3, (double)h->max / 1e3, iops * (double)o->bs / 1e6,
           (double)(to->client_ns - from->client_ns) / per_io_us, (double)(to->agent_ns - from->agent_ns) / per_io_us,
           (double)(to->server_ns - from->server_ns) / per_io_us,
           (double)(to->waited_ns - from->waited_ns) * 100 / window_ns, load->errors, load->mismatches);
    if (o->json && o->histogram)
        report_histogram(h);
    puts(o->json ? "}" : "");
}

static void run_phases(struct load *load)
{
    if (load->options->fill || (load->stamps && load->write_percent < 100))
        pump(load, next_fill);
    if (load->options->seconds == 0)
        return;
    uint64_t start = clock_ns();
    load->measure_from_ns = start + (uint64_t)(load->options->warmup_seconds * 1e9);
    load->measure_until_ns = load->measure_from_ns + (uint64_t)(load->options->seconds * 1e9);
    pump(load, next_timed);
    if (load->stamps)
        pump(load, next_check);
}

int load_run(const struct options *options, const struct engine_ops *ops)
{
    struct load *load = memory_new(sizeof *load);
    load->options = options;
    load->random = options->seed;
    load->depth = options->qd * (ops->disks ? ops->disks(options) : 1);
    choose_operations(load);
    find_clocks("server-pid", &options->servers, &load->servers);
    find_clocks("agent-pid", &options->agents, &load->agents);
    make_slots(load);
    load->engine = ops->open(options, load->slots);

    uint64_t size = load->engine->size_bytes;
    load->blocks = (options->area_bytes ? min_u64(options->area_bytes, size) : size) / options->bs;
    if (load->blocks <= load->depth)
        die("the storage (or --area) must hold more than %lu blocks of %lu bytes", load->depth, options->bs);
    if ((options->verify || options->fill) && load->depth != options->qd)
        die("--verify and --fill go with one disk only");
    if (options->verify)
        load->stamps = stamps_create(load->blocks, (uint32_t)options->bs, options->seed);

    run_phases(load);
    if (options->seconds > 0)
        report(load);
    int code = load->errors || load->mismatches ? 1 : 0;
    load->engine->ops->close(load->engine);
    stamps_destroy(load->stamps);
    free(load->slots);
    free(load);
    return code;
}
