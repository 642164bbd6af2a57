#include "packet_queue.h"

#include <assert.h>
#include <errno.h>
#include <stddef.h>
#include <stdlib.h>

/* In front of each packet; both begin at multiples of 8. */
struct record {
    uint32_t length; /* WRAP: the next one is at the ring's beginning */
    uint32_t reserved;
    uint8_t packet[];
};
#define WRAP UINT32_MAX

int or_packet_queue_open(struct or_packet_queue *q, uint32_t size)
{
    assert(size % 8 == 0);
    *q = (struct or_packet_queue){.memory = malloc(size), .size = size};
    return q->memory ? 0 : -ENOMEM;
}

void or_packet_queue_close(struct or_packet_queue *q)
{
    free(q->memory);
    *q = (struct or_packet_queue){0};
}

static struct record *record_at(struct or_packet_queue *q, uint32_t at)
{
    return (struct record *)(void *)(q->memory + at);
}

static uint32_t record_bytes(uint32_t length)
{
    return ((uint32_t)sizeof(struct record) + length + 7) & ~7u;
}

uint8_t *or_packet_queue_push(struct or_packet_queue *q, uint32_t length)
{
    uint32_t bytes = record_bytes(length);
    uint32_t end = q->size - q->tail; /* until the ring's end: 0 never */
    uint32_t skip = end < bytes ? end : 0;
    if (q->used + skip + bytes > q->size)
        return NULL;
    if (skip) { /* no packet is cut by the ring's end */
        record_at(q, q->tail)->length = WRAP;
        q->tail = 0;
    }
    struct record *r = record_at(q, q->tail);
    r->length = length;
    q->used += skip + bytes;
    q->tail = (q->tail + bytes) % q->size;
    return r->packet;
}

uint32_t or_packet_queue_front(struct or_packet_queue *q, uint8_t **packet)
{
    if (q->used == 0)
        return 0;
    if (record_at(q, q->head)->length == WRAP) {
        q->used -= q->size - q->head;
        q->head = 0;
    }
    struct record *r = record_at(q, q->head);
    *packet = r->packet;
    return r->length;
}

void or_packet_queue_pop(struct or_packet_queue *q)
{
    uint8_t *packet;
    uint32_t bytes = record_bytes(or_packet_queue_front(q, &packet));
    q->used -= bytes;
    q->head = (q->head + bytes) % q->size;
}
