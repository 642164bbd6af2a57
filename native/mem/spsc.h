/* A bounded ring of pointers between one producing and one consuming thread. */
#ifndef OR_SPSC_H
#define OR_SPSC_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#define OR_SPSC_SIZE 1024u

struct or_spsc {
    _Alignas(64) _Atomic uint32_t head; /* next to take; the consumer's */
    _Alignas(64) _Atomic uint32_t tail; /* next to fill; the producer's */
    void *entries[OR_SPSC_SIZE];
};

/* Free places, as the producer sees them. */
static inline uint32_t or_spsc_room(struct or_spsc *r)
{
    uint32_t used =
        atomic_load_explicit(&r->tail, memory_order_relaxed) - atomic_load_explicit(&r->head, memory_order_acquire);
    return OR_SPSC_SIZE - used;
}

/* False when the ring is full: the producer keeps the entry. */
static inline bool or_spsc_push(struct or_spsc *r, void *entry)
{
    if (!or_spsc_room(r))
        return false;
    uint32_t tail = atomic_load_explicit(&r->tail, memory_order_relaxed);
    r->entries[tail % OR_SPSC_SIZE] = entry;
    atomic_store_explicit(&r->tail, tail + 1, memory_order_release);
    return true;
}

/* NULL when the ring is empty. */
static inline void *or_spsc_pop(struct or_spsc *r)
{
    uint32_t head = atomic_load_explicit(&r->head, memory_order_relaxed);
    if (head == atomic_load_explicit(&r->tail, memory_order_acquire))
        return 0;
    void *entry = r->entries[head % OR_SPSC_SIZE];
    atomic_store_explicit(&r->head, head + 1, memory_order_release);
    return entry;
}

#endif
