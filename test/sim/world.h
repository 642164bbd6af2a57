/* One simulated world: a virtual clock, the events that wait for it, the random numbers, the memory,
 * and the record of what happened. Everything that the simulator does is a function of the seed: no
 * wall clock, no addresses, no iteration over anything ordered by them. So a seed that fails once
 * fails the same way every time, and `world.hash` is the proof. */
#ifndef SIM_WORLD_H
#define SIM_WORLD_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define US UINT64_C(1000)
#define MS UINT64_C(1000000)
#define SEC UINT64_C(1000000000)
#define PPM 1000000u

/* What must have happened in a long enough run, and how often it did. */
enum coverage {
    COV_FRAMES,
    COV_LOST,
    COV_DUPLICATED,
    COV_CORRUPTED,
    COV_HELD,
    COV_REORDERED,
    COV_CUT,
    COV_CUT_FRAMES,
    COV_LINK_CUTS,
    COV_LINKS_DOWN,
    COV_LINKS_UP,
    COV_PORTS_DEAD,
    COV_PORTS_REPLACED,
    COV_MTU_CHANGES,
    COV_BYES,
    COV_TIMEOUTS,
    COV_QUEUE_DROPS,
    COV_RING_DROPS,
    COV_TX_STALLS,
    COV_MERGED,
    COV_SWALLOWED,
    COV_PROCESS_STALLS,
    COV_REPLAYED,
    COV_INJECTED,
    COV_FORGED_UNKNOWN,
    COV_STOLEN,
    COV_MUTATED,
    COV_PHASES_FLIPPED,
    COV_IMPOSTORS,
    COV_DUPLICATE_REFUSED,
    COV_CORRUPT_REFUSED,
    COV_REQUESTS,
    COV_REQUESTS_OVERLAPPING,
    COV_REQUESTS_BAD,
    COV_REQUESTS_UNKNOWN,
    COV_REQUESTS_RESUBMITTED,
    COV_REQUESTS_FENCED,
    COV_IO_ERRORS,
    COV_IO_SLOW,
    COV_PEEKS,
    COV_SCRIBBLED,
    COV_SERVER_CRASHES,
    COV_LATE_WRITES,
    COV_FLOCK_WAITS,
    COV_HOST_CRASHES,
    COV_GENERATION_BUMPS,
    COV_MOVES,
    COV_SHIFTS,
    COV_REQUESTS_MOVED,
    COV_DOCUMENTS,
    COV_REPORTS,
    COV_SESSIONS,
    COV_REKEYS,
    COV_QUEUED,
    COV_STALLED,
    COV_EXECUTED_AGAIN,
    COV_RETRANSMITS,
    COV_OVERLAP_WAITS,
    COV_CREDIT_WAITS,
    COV_DUPLICATE_REQUESTS,
    COV_PACKETS,
    COV_PACKETS_ARRIVED,
    COV_PACKETS_LATER,
    COV_PACKETS_FORWARDED,
    COV_PACKETS_LOST,
    COV_PACKETS_INCOMPLETE,
    COV_PACKETS_UNKNOWN,
    COV_PACKETS_FENCED,
    COV_PACKET_FLOODS,
    COV_CLEAN_SEEDS,
    COV_VIRTUAL_SECONDS,
    COV_MAX
};

struct rng {
    uint64_t s[4];
};

struct event {
    uint64_t at, order;
    void (*fn)(void *arg);
    void *arg;
};

/* A check found a violation in this seed; does not return. */
typedef void world_failed(uint64_t seed, const char *check, const char *text);

struct world {
    uint64_t seed;
    uint64_t now;  /* ns */
    uint64_t hash; /* of everything noted */
    uint64_t events_run;
    struct rng rng;      /* the world's own decisions */
    struct rng protocol; /* what the protocol code draws */
    struct event *heap;
    uint32_t heap_count, heap_size;
    uint64_t order;
    void *blocks;       /* list of world_alloc */
    uint64_t *coverage; /* COV_MAX counters */
    bool trace;         /* print what is noted */
    world_failed *failed;
};

void world_init(struct world *w, uint64_t seed, uint64_t *coverage);
void world_free(struct world *w);

/* Zeroed memory that lives until world_free. */
void *world_alloc(struct world *w, size_t size);

/* Calls fn(arg) at the absolute time `at` (or now, if that is past). */
void world_at(struct world *w, uint64_t at, void (*fn)(void *arg), void *arg);
/* Runs the next event; false when none waits. */
bool world_step(struct world *w);

/* Records a fact: always in the hash, on a trace also as a line. */
void world_note(struct world *w, const char *what, uint64_t a, uint64_t b, uint64_t c);
/* A check found a violation: ends this world. */
_Noreturn void world_fail(struct world *w, const char *check, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

static inline void world_count(struct world *w, enum coverage counter, uint64_t add)
{
    w->coverage[counter] += add;
}

uint64_t rng_next(struct rng *r);
/* 0 .. n-1; n > 0 */
uint64_t rng_below(struct rng *r, uint64_t n);
/* low .. high */
uint64_t rng_between(struct rng *r, uint64_t low, uint64_t high);
/* low .. high with every power of two as likely as the next; low > 0 */
uint64_t rng_scale(struct rng *r, uint64_t low, uint64_t high);
/* true with a chance of ppm in a million */
bool rng_chance(struct rng *r, uint32_t ppm);
void rng_fill(struct rng *r, void *out, size_t length);
void rng_seed(struct rng *r, uint64_t seed);
uint64_t mix64(uint64_t x);

extern const char *const coverage_names[COV_MAX];

#endif
