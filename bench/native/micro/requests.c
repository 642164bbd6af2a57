/* What the client does per request beside its frames: the overlap rule, with other requests of the device under way;
 * and what the bench itself adds: a latency into its histogram. */
#include "../histogram.h"
#include "micro.h"
#include "transport/overlap.h"
#include <stdlib.h>

struct table {
    struct or_overlap overlap;
    struct or_req *others;
    struct or_req request;
};

/* So many `others` under way, 4 KiB each, apart from each other. */
static struct table *table_create(uint64_t others)
{
    struct table *t = micro_memory(sizeof *t);
    or_overlap_init(&t->overlap);
    t->others = micro_memory((others + 1) * sizeof *t->others);
    for (uint64_t i = 0; i < others; i++) {
        t->others[i] = (struct or_req){.op = OR_OP_WRITE, .offset = (i + 1) * 65536, .length = 4096, .device = 1};
        micro_must(or_overlap_admit(&t->overlap, &t->others[i]), "requests overlap");
    }
    t->request = (struct or_req){.op = OR_OP_WRITE, .length = 4096, .device = 1};
    return t;
}

static void *table_of_1(uint64_t bytes)
{
    (void)bytes;
    return table_create(0);
}

static void *table_of_32(uint64_t bytes)
{
    (void)bytes;
    return table_create(31);
}

static void *table_of_256(uint64_t bytes)
{
    (void)bytes;
    return table_create(255);
}

static void table_free(void *state)
{
    struct table *t = state;
    free(t->others);
    free(t);
}

static void go(void *arg, struct or_req *request)
{
    (void)arg;
    (void)request;
    micro_must(0, "a request waited");
}

static void admit_and_release(void *state, uint64_t count)
{
    struct table *t = state;
    for (uint64_t i = 0; i < count; i++) {
        micro_must(or_overlap_admit(&t->overlap, &t->request), "the request waits");
        or_overlap_release(&t->overlap, &t->request, go, NULL);
    }
}

static void *histogram_create(uint64_t bytes)
{
    (void)bytes;
    return micro_memory(sizeof(struct histogram));
}

static void histogram_fill(void *state, uint64_t count)
{
    for (uint64_t i = 0; i < count; i++)
        histogram_add(state, 5000 + i % 4096);
}

static const struct micro_case cases[] = {
    {"overlap", "admit and release a write, alone", 0, table_of_1, admit_and_release, table_free},
    {"overlap", "admit and release a write beside 31", 0, table_of_32, admit_and_release, table_free},
    {"overlap", "admit and release a write beside 255", 0, table_of_256, admit_and_release, table_free},
    {"histogram", "add a latency", 0, histogram_create, histogram_fill, free},
};

const struct micro_group micro_requests = {cases, sizeof cases / sizeof *cases};
