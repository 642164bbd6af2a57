/* What is known of a block lies outside of the arena: so an idle arena costs no memory beside 18 bytes per 4 KiB, of
 * which only those of blocks that were ever used are touched. */
#include "buddy.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "list.h"

#define LARGEST ((uint64_t)OR_BUDDY_MIN << (OR_BUDDY_ORDERS - 1))
#define HUGE_PAGE (2u << 20)

static uint64_t unit_of(const struct or_buddy *b, const void *block)
{
    return (uint64_t)((const uint8_t *)block - b->arena) / OR_BUDDY_MIN;
}

static void put(struct or_buddy *b, uint64_t unit, uint32_t order)
{
    b->order[unit] = (uint8_t)order;
    b->is_free[unit] = 1;
    or_list_prepend(&b->free[order], &b->nodes[unit]);
}

static void take(struct or_buddy *b, uint64_t unit)
{
    b->is_free[unit] = 0;
    or_list_remove(&b->nodes[unit]);
}

int or_buddy_open(struct or_buddy *b, uint64_t bytes)
{
    uint64_t size = bytes < LARGEST ? LARGEST : bytes / LARGEST * LARGEST;
    *b = (struct or_buddy){.units = size / OR_BUDDY_MIN};
    /* More than asked for, to align the arena. */
    uint8_t *map =
        mmap(NULL, size + HUGE_PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    b->order = calloc(b->units, 1);
    b->is_free = calloc(b->units, 1);
    b->nodes = calloc(b->units, sizeof *b->nodes);
    if (map == MAP_FAILED || !b->order || !b->is_free || !b->nodes) {
        if (map != MAP_FAILED)
            munmap(map, size + HUGE_PAGE);
        free(b->order);
        free(b->is_free);
        free(b->nodes);
        return -ENOMEM;
    }
    uint64_t skip = (HUGE_PAGE - (uintptr_t)map % HUGE_PAGE) % HUGE_PAGE;
    if (skip)
        munmap(map, skip);
    b->arena = map + skip;
    munmap(b->arena + size, HUGE_PAGE - skip);
    madvise(b->arena, size, MADV_HUGEPAGE); /* where the system has them; else it is as good as before */
    for (uint32_t i = 0; i < OR_BUDDY_ORDERS; i++)
        or_list_init(&b->free[i]);
    for (uint64_t u = b->units; u; u -= LARGEST / OR_BUDDY_MIN)
        put(b, u - LARGEST / OR_BUDDY_MIN, OR_BUDDY_ORDERS - 1);
    return 0;
}

void or_buddy_close(struct or_buddy *b)
{
    if (b->arena)
        munmap(b->arena, b->units * OR_BUDDY_MIN);
    free(b->order);
    free(b->is_free);
    free(b->nodes);
    *b = (struct or_buddy){0};
}

void *or_buddy_alloc(struct or_buddy *b, uint32_t bytes)
{
    assert(bytes && bytes <= LARGEST);
    uint32_t want = 0, order;
    while ((OR_BUDDY_MIN << want) < bytes)
        want++;
    for (order = want; order < OR_BUDDY_ORDERS && or_list_empty(&b->free[order]); order++)
        ;
    if (order == OR_BUDDY_ORDERS)
        return NULL;
    uint64_t unit = (uint64_t)(b->free[order].next - b->nodes);
    take(b, unit);
    while (order > want) { /* give back the upper halves */
        order--;
        put(b, unit + (1ull << order), order);
    }
    b->order[unit] = (uint8_t)want;
    b->used_bytes += OR_BUDDY_MIN << want;
    return b->arena + unit * OR_BUDDY_MIN;
}

void or_buddy_free(struct or_buddy *b, void *block)
{
    uint64_t unit = unit_of(b, block);
    uint32_t order = b->order[unit];
    assert(unit < b->units && !b->is_free[unit]);
    b->used_bytes -= OR_BUDDY_MIN << order;
    while (order < OR_BUDDY_ORDERS - 1) {
        uint64_t buddy = unit ^ 1ull << order;
        if (!b->is_free[buddy] || b->order[buddy] != order)
            break;
        take(b, buddy);
        unit &= ~(1ull << order);
        order++;
    }
    put(b, unit, order);
}
