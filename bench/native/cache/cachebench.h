/* cachebench: the block cache under block traces, made or given, and what a hit and a miss cost. Each result is a
 * JSON object on a line; bench/cache.ts makes tables of them. */
#ifndef CACHEBENCH_H
#define CACHEBENCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "cache/cache.h"

#define TRACE_VOLUMES_MAX 64u

/* An operation of a trace. */
struct access {
    uint64_t time_us, offset; /* bytes */
    uint32_t length;          /* bytes */
    uint8_t op;               /* enum or_op */
    uint8_t volume;
};

struct trace {
    const char *name, *about;
    struct access *accesses;
    size_t count, room;
    uint32_t volumes;
    bool clones; /* the volumes are clones of one base */
};

/* The workloads that are made; NULL after the last. Free with trace_free. */
struct trace *trace_make(uint32_t index);
/* Lines of "timestamp_us op offset length [volume]"; ends the program when there is something else in it. */
struct trace *trace_read(const char *path);
void trace_free(struct trace *trace);
/* Distinct blocks of 4 KiB; with clones, of the base. */
uint64_t trace_footprint(const struct trace *trace);

/* Plays the trace on a fresh cache and prints the result. */
void replay(const struct trace *trace, enum or_cache_policy policy, uint64_t bytes, double part);
void measure_costs(void);

uint64_t clock_ns(void);
/* Ends the program unless ok. */
void must(bool ok, const char *what);

#endif
