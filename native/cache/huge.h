/* Huge pages for kept memory (kept.h). The kernel makes a memfd of small pages unless shmem_enabled says otherwise, and
 * then each hit pays for a walk through page tables. MADV_COLLAPSE (Linux 6.1) makes huge ones of what is there,
 * whatever shmem_enabled says.
 *
 *     worker ── or_huge_reach: 2 MiB more are in use ──> thread ── madvise(MADV_COLLAPSE), a piece at a time
 *            ── or_huge_cut: these are about to go ──>         (0.3 to 5 ms each)
 *
 * A piece of 2 MiB is made huge once all of it is in use, so it takes no more memory than before. What cannot be made
 * huge stays as it is: an older kernel, fragmented memory, a page that a transfer holds for too long. */
#ifndef OR_CACHE_HUGE_H
#define OR_CACHE_HUGE_H

#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#define OR_CACHE_HUGE_PAGE ((uint64_t)2 << 20)

enum or_huge_memory { OR_HUGE_BLOCKS, OR_HUGE_INDEX, OR_HUGE_MEMORIES };

/* Private to huge.c. The worker writes, the thread reads, unless it says otherwise; in pieces of OR_CACHE_HUGE_PAGE. */
struct or_huge_range {
    uint8_t *start; /* on a huge page's boundary */
    uint32_t max;
    _Atomic uint32_t end;
    _Atomic uint32_t low;  /* the least that `end` was since the thread took note; the thread sets it back */
    _Atomic uint32_t busy; /* the thread's: the piece that it works on, and 1; 0: none */
    _Atomic uint32_t huge; /* the thread's: pieces that are */
    uint8_t *pieces;       /* the thread's alone: tries of each */
    uint32_t settled;      /* the thread's alone: all pieces before need nothing more */
};

struct or_huge {
    struct or_huge_range ranges[OR_HUGE_MEMORIES];
    sem_t bell;
    pthread_t thread;
    bool opened, started, failed;
    _Atomic bool ends;
};

/* Of these the first and all of the second that follow belong to the worker. start[m], aligned to OR_CACHE_HUGE_PAGE,
 * and bytes_max[m]: the memories, as large as they may become; 0 bytes: nothing to be done there. 0 or -ENOMEM. The
 * thread starts with the first piece. */
int or_huge_open(struct or_huge *huge, uint8_t *const start[OR_HUGE_MEMORIES],
                 const uint64_t bytes_max[OR_HUGE_MEMORIES]);
/* Waits for the piece that is being worked on. Also of what was never opened. */
void or_huge_close(struct or_huge *huge);
/* All of the memory before `bytes` is in use. To be called once for each 2 MiB, as it may make a system call. */
void or_huge_reach(struct or_huge *huge, enum or_huge_memory memory, uint64_t bytes);
/* The memory from `bytes` on, a multiple of OR_CACHE_HUGE_PAGE, is about to be unmapped. False: some of it is being
 * worked on; again, later. Once it was true the thread leaves it alone until or_huge_reach. */
bool or_huge_cut(struct or_huge *huge, enum or_huge_memory memory, uint64_t bytes);
/* Of a memory, what has been made huge so far. */
uint64_t or_huge_bytes(const struct or_huge *huge, enum or_huge_memory memory);

#endif
