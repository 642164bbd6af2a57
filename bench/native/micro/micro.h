/* micro: nanoseconds of the small operations that the data path consists of, one at a time and warm.
 *
 * A case is a function that does its operation `count` times. The harness finds the count that takes a few
 * milliseconds, runs it several times, and prints the median, the fastest and the slowest. */
#ifndef BENCH_MICRO_H
#define BENCH_MICRO_H

#include <stddef.h>
#include <stdint.h>

struct micro_case {
    const char *group, *name;
    uint64_t bytes; /* of an operation, for its rate; 0: none */
    /* NULL: nothing to prepare. Ends the program when the machine refuses. */
    void *(*setup)(uint64_t bytes);
    void (*run)(void *state, uint64_t count);
    /* May be NULL. */
    void (*teardown)(void *state);
};

struct micro_group {
    const struct micro_case *cases;
    size_t count;
};

extern const struct micro_group micro_seal, micro_wire, micro_rings, micro_requests;

/* The compiler must assume that the value is used, and that memory has changed. */
static inline void micro_use(uint64_t value)
{
    __asm__ volatile("" : : "r"(value) : "memory");
}

/* Ends the program unless ok. */
void micro_must(int ok, const char *what);
/* Zeroed, aligned to 64. Never NULL; free() it. */
void *micro_memory(size_t bytes);

#endif
