/* The virtual clock and everything that must come from the seed.
 *
 * Events sit in a binary heap ordered by (time, order of scheduling): two events of the same instant
 * run in the order in which they were asked for. Time jumps from event to event, so a ten second cut
 * of a link costs no more than a microsecond. */
#include "world.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char *const coverage_names[COV_MAX] = {
    [COV_FRAMES] = "frames sent",
    [COV_LOST] = "frames lost",
    [COV_DUPLICATED] = "frames duplicated",
    [COV_CORRUPTED] = "frames corrupted",
    [COV_HELD] = "frames held back for long",
    [COV_REORDERED] = "frames overtaken",
    [COV_CUT] = "links cut",
    [COV_CUT_FRAMES] = "frames lost in a cut",
    [COV_LINK_CUTS] = "one of two links cut",
    [COV_LINKS_DOWN] = "links given up while another lived",
    [COV_LINKS_UP] = "links that came up beside another",
    [COV_PORTS_DEAD] = "ports that died",
    [COV_PORTS_REPLACED] = "ports that came back as another one",
    [COV_MTU_CHANGES] = "changes of a port's MTU",
    [COV_TIMEOUTS] = "requests that timed out",
    [COV_BYES] = "I/O hypervisors stopped in order",
    [COV_QUEUE_DROPS] = "frames dropped by a switch queue",
    [COV_RING_DROPS] = "frames dropped by a receive ring",
    [COV_TX_STALLS] = "send buffers refused",
    [COV_MERGED] = "frames in envelopes",
    [COV_SWALLOWED] = "frames in envelopes swallowed",
    [COV_PROCESS_STALLS] = "engines stalled",
    [COV_REPLAYED] = "frames replayed by the attacker",
    [COV_INJECTED] = "frames made up by the attacker",
    [COV_FORGED_UNKNOWN] = "UNKNOWN frames forged",
    [COV_STOLEN] = "frames stolen by the attacker",
    [COV_MUTATED] = "frames mutated by the attacker",
    [COV_PHASES_FLIPPED] = "key phases flipped by the attacker",
    [COV_IMPOSTORS] = "impostors (wrong key)",
    [COV_DUPLICATE_REFUSED] = "second copies refused",
    [COV_CORRUPT_REFUSED] = "corrupt frames refused",
    [COV_REQUESTS] = "requests",
    [COV_REQUESTS_OVERLAPPING] = "requests that overlap one under way",
    [COV_REQUESTS_BAD] = "requests meant to be refused",
    [COV_REQUESTS_UNKNOWN] = "requests with unknown outcome",
    [COV_REQUESTS_RESUBMITTED] = "requests submitted again by the next client",
    [COV_REQUESTS_FENCED] = "requests fenced or without a device",
    [COV_IO_ERRORS] = "I/O errors injected",
    [COV_IO_SLOW] = "back-end operations over 100 ms",
    [COV_PEEKS] = "reads answered by peek",
    [COV_SCRIBBLED] = "writes scribbled on while in flight",
    [COV_SERVER_CRASHES] = "I/O hypervisor crashes",
    [COV_LATE_WRITES] = "writes of a dead life that landed late",
    [COV_FLOCK_WAITS] = "volumes whose flock a dead life still held",
    [COV_HOST_CRASHES] = "host crashes",
    [COV_GENERATION_BUMPS] = "generation bumps",
    [COV_MOVES] = "volumes moved to another host",
    [COV_SHIFTS] = "volumes moved to another worker",
    [COV_REQUESTS_MOVED] = "requests sent to another worker",
    [COV_DOCUMENTS] = "device documents received",
    [COV_REPORTS] = "host reports received",
    [COV_SESSIONS] = "sessions",
    [COV_REKEYS] = "keys changed",
    [COV_QUEUED] = "requests that waited for their turn",
    [COV_STALLED] = "disks that were too silent to wait for",
    [COV_EXECUTED_AGAIN] = "requests executed again in a later session",
    [COV_RETRANSMITS] = "retransmits",
    [COV_OVERLAP_WAITS] = "overlap waits",
    [COV_CREDIT_WAITS] = "credit waits",
    [COV_DUPLICATE_REQUESTS] = "duplicate requests or fragments suppressed",
    [COV_PACKETS] = "packets sent",
    [COV_PACKETS_ARRIVED] = "packets that arrived",
    [COV_PACKETS_LATER] = "packets that found no room",
    [COV_PACKETS_FORWARDED] = "packets forwarded to another NIC",
    [COV_PACKETS_LOST] = "packets in frames that seem lost",
    [COV_PACKETS_INCOMPLETE] = "packets of which a fragment was lost",
    [COV_PACKETS_UNKNOWN] = "packets of no NIC of their host",
    [COV_PACKETS_FENCED] = "packets of an old generation",
    [COV_PACKET_FLOODS] = "seeds with a flood of packets",
    [COV_CLEAN_SEEDS] = "seeds without any trouble",
    [COV_VIRTUAL_SECONDS] = "virtual seconds",
};

uint64_t mix64(uint64_t x)
{
    x += 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

void rng_seed(struct rng *r, uint64_t seed)
{
    for (int i = 0; i < 4; i++)
        r->s[i] = mix64(seed + (uint64_t)i * 0x632be59bd9b4e019u);
}

static uint64_t rotl(uint64_t x, int k)
{
    return (x << k) | (x >> (64 - k));
}

/* xoshiro256** */
uint64_t rng_next(struct rng *r)
{
    uint64_t *s = r->s;
    uint64_t result = rotl(s[1] * 5, 7) * 9;
    uint64_t t = s[1] << 17;
    s[2] ^= s[0];
    s[3] ^= s[1];
    s[1] ^= s[2];
    s[0] ^= s[3];
    s[2] ^= t;
    s[3] = rotl(s[3], 45);
    return result;
}

uint64_t rng_below(struct rng *r, uint64_t n)
{
    assert(n > 0);
    return (uint64_t)(((unsigned __int128)rng_next(r) * n) >> 64);
}

uint64_t rng_between(struct rng *r, uint64_t low, uint64_t high)
{
    assert(low <= high);
    return low + rng_below(r, high - low + 1);
}

uint64_t rng_scale(struct rng *r, uint64_t low, uint64_t high)
{
    assert(low > 0 && low <= high);
    uint32_t octaves = 63 - (uint32_t)__builtin_clzll(high / low);
    uint64_t from = low << rng_below(r, octaves + 1);
    uint64_t to = from * 2 < high ? from * 2 : high;
    return rng_between(r, from, to);
}

bool rng_chance(struct rng *r, uint32_t ppm)
{
    return ppm > 0 && rng_below(r, PPM) < ppm;
}

void rng_fill(struct rng *r, void *out, size_t length)
{
    uint8_t *p = out;
    while (length > 0) {
        uint64_t word = rng_next(r);
        size_t part = length < sizeof word ? length : sizeof word;
        memcpy(p, &word, part);
        p += part;
        length -= part;
    }
}

void world_init(struct world *w, uint64_t seed, uint64_t *coverage)
{
    memset(w, 0, sizeof *w);
    w->seed = seed;
    w->coverage = coverage;
    w->now = 10 * SEC;
    rng_seed(&w->rng, seed);
    rng_seed(&w->protocol, ~seed);
}

struct block {
    struct block *next;
    uint64_t padding; /* keeps what follows aligned to 16 */
};

void *world_alloc(struct world *w, size_t size)
{
    struct block *block = calloc(1, sizeof *block + size);
    if (!block) {
        fprintf(stderr, "sim: out of memory\n");
        exit(2);
    }
    block->next = w->blocks;
    w->blocks = block;
    return block + 1;
}

void world_free(struct world *w)
{
    struct block *block = w->blocks;
    while (block) {
        struct block *next = block->next;
        free(block);
        block = next;
    }
    free(w->heap);
    w->blocks = NULL;
    w->heap = NULL;
}

static bool before(const struct event *a, const struct event *b)
{
    return a->at != b->at ? a->at < b->at : a->order < b->order;
}

void world_at(struct world *w, uint64_t at, void (*fn)(void *arg), void *arg)
{
    if (w->heap_count == w->heap_size) {
        w->heap_size = w->heap_size ? 2 * w->heap_size : 1024;
        w->heap = realloc(w->heap, w->heap_size * sizeof *w->heap);
        if (!w->heap) {
            fprintf(stderr, "sim: out of memory\n");
            exit(2);
        }
    }
    struct event event = {.at = at > w->now ? at : w->now, .order = w->order++, .fn = fn, .arg = arg};
    uint32_t i = w->heap_count++;
    while (i > 0 && before(&event, &w->heap[(i - 1) / 2])) {
        w->heap[i] = w->heap[(i - 1) / 2];
        i = (i - 1) / 2;
    }
    w->heap[i] = event;
}

static struct event heap_pop(struct world *w)
{
    struct event top = w->heap[0], last = w->heap[--w->heap_count];
    uint32_t i = 0;
    for (;;) {
        uint32_t child = 2 * i + 1;
        if (child >= w->heap_count)
            break;
        if (child + 1 < w->heap_count && before(&w->heap[child + 1], &w->heap[child]))
            child++;
        if (!before(&w->heap[child], &last))
            break;
        w->heap[i] = w->heap[child];
        i = child;
    }
    w->heap[i] = last;
    return top;
}

bool world_step(struct world *w)
{
    if (w->heap_count == 0)
        return false;
    struct event event = heap_pop(w);
    w->now = event.at;
    w->events_run++;
    event.fn(event.arg);
    return true;
}

void world_note(struct world *w, const char *what, uint64_t a, uint64_t b, uint64_t c)
{
    uint64_t h = w->hash ^ w->now;
    for (const char *p = what; *p; p++)
        h = (h ^ (uint8_t)*p) * 0x100000001b3u;
    h = (h ^ a) * 0x9e3779b97f4a7c15u;
    h = (rotl(h, 29) ^ b) * 0xbf58476d1ce4e5b9u;
    w->hash = (rotl(h, 31) ^ c) * 0x94d049bb133111ebu;
    if (w->trace)
        printf("%13.3f us  %-22s %" PRIu64 " %" PRIu64 " %" PRIu64 "\n", (double)w->now / 1e3, what, a, b, c);
}

void world_fail(struct world *w, const char *check, const char *format, ...)
{
    char text[400];
    va_list args;
    va_start(args, format);
    int n = snprintf(text, sizeof text, "at %.6f s: ", (double)w->now / 1e9);
    vsnprintf(text + n, sizeof text - (size_t)n, format, args);
    va_end(args);
    w->failed(w->seed, check, text);
    abort();
}
