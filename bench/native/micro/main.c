/* The harness: which cases, how often, and the lines of the result, each a JSON object. */
#include "micro.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define ROUNDS 9u
#define ROUND_NS 10000000u

void micro_must(int ok, const char *what)
{
    if (ok)
        return;
    fprintf(stderr, "micro: %s\n", what);
    exit(1);
}

void *micro_memory(size_t bytes)
{
    void *memory = aligned_alloc(64, (bytes + 63) / 64 * 64);
    micro_must(memory != NULL, "out of memory");
    return memset(memory, 0, (bytes + 63) / 64 * 64);
}

static uint64_t clock_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static uint64_t time_ns(const struct micro_case *c, void *state, uint64_t count)
{
    uint64_t start = clock_ns();
    c->run(state, count);
    return clock_ns() - start;
}

/* How many operations fill a round; warms up on the way. */
static uint64_t find_count(const struct micro_case *c, void *state)
{
    uint64_t count = 1;
    for (;;) {
        uint64_t took = time_ns(c, state, count);
        if (took >= ROUND_NS)
            return count;
        count = took < ROUND_NS / 64 ? count * 8 : count * ROUND_NS / took + 1;
    }
}

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void measure(const struct micro_case *c)
{
    void *state = c->setup ? c->setup(c->bytes) : NULL;
    uint64_t count = find_count(c, state);
    double ns[ROUNDS];
    for (uint32_t i = 0; i < ROUNDS; i++)
        ns[i] = (double)time_ns(c, state, count) / (double)count;
    qsort(ns, ROUNDS, sizeof *ns, ascending);
    printf("{\"group\":\"%s\",\"name\":\"%s\",\"bytes\":%lu,\"ns\":%.3f,\"ns_min\":%.3f,\"ns_max\":%.3f}\n", c->group,
           c->name, c->bytes, ns[ROUNDS / 2], ns[0], ns[ROUNDS - 1]);
    fflush(stdout);
    if (c->teardown)
        c->teardown(state);
}

/* usage: micro [TEXT]: only the cases of whose "group: name" TEXT is a part */
int main(int argc, char **argv)
{
    static const struct micro_group *const groups[] = {&micro_seal, &micro_wire, &micro_rings, &micro_requests};
    const char *only = argc > 1 ? argv[1] : "";
    for (size_t g = 0; g < sizeof groups / sizeof *groups; g++) {
        for (size_t i = 0; i < groups[g]->count; i++) {
            const struct micro_case *c = &groups[g]->cases[i];
            char title[128];
            snprintf(title, sizeof title, "%s: %s", c->group, c->name);
            if (strstr(title, only))
                measure(c);
        }
    }
    return 0;
}
