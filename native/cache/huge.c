/* The thread that makes huge pages. It has the priority of the process, not the worker's; not a low one either: while
 * it copies a piece, who touches it waits, and if it had no turn meanwhile the worker would wait for all the others.
 *
 * What it does is never needed for correctness: the kernel copies the pages, and refuses while a transfer holds one.
 * Only one thing must not happen: that a piece which has been given back to the system is populated again. So before it
 * is given back `end` is lowered, and then `busy` is looked at; the thread sets `busy`, and then looks at `end`. */
#include "cache/huge.h"

#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif

#define HUGE UINT8_MAX /* of or_huge_range.pieces */
#define TRIES 8u
#define RETRY_NS 100000000l

/* --- the thread ------------------------------------------------------------------------------------- */

/* Not on the worker's CPU, nor with its priority. */
static void place(void)
{
    cpu_set_t set;
    if (sched_getaffinity(getpid(), sizeof set, &set) == 0)
        pthread_setaffinity_np(pthread_self(), sizeof set, &set);
    setpriority(PRIO_PROCESS, (id_t)gettid(), getpriority(PRIO_PROCESS, (id_t)getpid()));
    pthread_setname_np(pthread_self(), "or-huge");
}

/* What was cut is no longer huge, even if it has come back meanwhile. */
static void note_cuts(struct or_huge_range *r)
{
    uint32_t low = atomic_exchange(&r->low, UINT32_MAX);
    for (uint32_t p = low; p < r->settled; p++) {
        if (r->pieces[p] == HUGE)
            atomic_fetch_sub(&r->huge, 1);
        r->pieces[p] = 0;
    }
    r->settled = low < r->settled ? low : r->settled;
}

/* One try at piece p; true: no other is needed. */
static bool collapse(struct or_huge_range *r, uint32_t p)
{
    atomic_store(&r->busy, p + 1);
    bool there = p < atomic_load(&r->end);
    int err = there && madvise(r->start + p * OR_CACHE_HUGE_PAGE, OR_CACHE_HUGE_PAGE, MADV_COLLAPSE) != 0 ? errno : 0;
    atomic_store(&r->busy, 0);
    if (!there)
        return false;
    if (err) /* EAGAIN, EBUSY: a page of it is held; EINVAL: not with this kernel */
        return ++r->pieces[p] >= TRIES || (err != EAGAIN && err != EBUSY);
    r->pieces[p] = HUGE;
    atomic_fetch_add(&r->huge, 1);
    return true;
}

/* Up to the first that must be tried again; false: there is one. */
static bool work(struct or_huge *h, struct or_huge_range *r)
{
    note_cuts(r);
    while (r->settled < atomic_load(&r->end) && !atomic_load(&h->ends)) {
        if (!collapse(r, r->settled))
            return r->settled >= atomic_load(&r->end);
        r->settled++;
    }
    return true;
}

static void wait_for(sem_t *bell, bool all_done)
{
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_nsec += RETRY_NS;
    until.tv_sec += until.tv_nsec / 1000000000l;
    until.tv_nsec %= 1000000000l;
    if (all_done)
        sem_wait(bell);
    else
        sem_clockwait(bell, CLOCK_MONOTONIC, &until);
}

static void *run(void *arg)
{
    struct or_huge *h = arg;
    place();
    while (!atomic_load(&h->ends)) {
        bool all_done = true;
        for (uint32_t m = 0; m < OR_HUGE_MEMORIES; m++)
            all_done &= work(h, &h->ranges[m]);
        wait_for(&h->bell, all_done);
    }
    return NULL;
}

/* --- the worker ------------------------------------------------------------------------------------- */

int or_huge_open(struct or_huge *h, uint8_t *const start[OR_HUGE_MEMORIES], const uint64_t bytes_max[OR_HUGE_MEMORIES])
{
    for (uint32_t m = 0; m < OR_HUGE_MEMORIES; m++) {
        struct or_huge_range *r = &h->ranges[m];
        r->start = start[m];
        r->max = (uint32_t)(bytes_max[m] / OR_CACHE_HUGE_PAGE);
        r->pieces = calloc(r->max + 1, 1);
        atomic_init(&r->low, UINT32_MAX);
        if (!r->pieces)
            return -ENOMEM;
    }
    sem_init(&h->bell, 0, 0);
    h->opened = true;
    return 0;
}

void or_huge_close(struct or_huge *h)
{
    if (h->started) {
        atomic_store(&h->ends, true);
        sem_post(&h->bell);
        pthread_join(h->thread, NULL);
    }
    if (h->opened)
        sem_destroy(&h->bell);
    for (uint32_t m = 0; m < OR_HUGE_MEMORIES; m++)
        free(h->ranges[m].pieces);
}

void or_huge_reach(struct or_huge *h, enum or_huge_memory memory, uint64_t bytes)
{
    struct or_huge_range *r = &h->ranges[memory];
    uint32_t end = bytes / OR_CACHE_HUGE_PAGE < r->max ? (uint32_t)(bytes / OR_CACHE_HUGE_PAGE) : r->max;
    if (!h->opened || h->failed || end <= atomic_load(&r->end))
        return;
    atomic_store(&r->end, end);
    if (h->started)
        sem_post(&h->bell);
    else
        h->started = pthread_create(&h->thread, NULL, run, h) == 0;
    h->failed = !h->started;
}

bool or_huge_cut(struct or_huge *h, enum or_huge_memory memory, uint64_t bytes)
{
    struct or_huge_range *r = &h->ranges[memory];
    uint32_t end = (uint32_t)(bytes / OR_CACHE_HUGE_PAGE), low = atomic_load(&r->low);
    if (end >= atomic_load(&r->end))
        return atomic_load(&r->busy) <= end;
    atomic_store(&r->end, end);
    while (!atomic_compare_exchange_weak(&r->low, &low, low < end ? low : end))
        ;
    if (h->started)
        sem_post(&h->bell); /* so that what is told is right soon */
    return atomic_load(&r->busy) <= end;
}

uint64_t or_huge_bytes(const struct or_huge *h, enum or_huge_memory memory)
{
    return atomic_load(&h->ranges[memory].huge) * OR_CACHE_HUGE_PAGE;
}
