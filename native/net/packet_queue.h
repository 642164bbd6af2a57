/* A bounded queue of packets: in order, each in one piece, in a ring of memory. One thread. */
#ifndef OR_PACKET_QUEUE_H
#define OR_PACKET_QUEUE_H

#include <stdbool.h>
#include <stdint.h>

struct or_packet_queue {
    uint8_t *memory; /* of the queue's own; pages that were never used cost nothing */
    uint32_t size, head, tail, used;
};

/* size: bytes, a multiple of 8; a packet takes its length and at most 15 more. 0 or -ENOMEM. */
int or_packet_queue_open(struct or_packet_queue *queue, uint32_t size);
void or_packet_queue_close(struct or_packet_queue *queue);

static inline bool or_packet_queue_empty(const struct or_packet_queue *queue)
{
    return queue->used == 0;
}

/* A place at the end for a packet of this many bytes, which the caller fills in; NULL: there is no room. */
uint8_t *or_packet_queue_push(struct or_packet_queue *queue, uint32_t length);
/* The oldest packet: its length, and where it lies until it is popped; 0: there is none. */
uint32_t or_packet_queue_front(struct or_packet_queue *queue, uint8_t **packet);
/* Removes the oldest packet: there is one. */
void or_packet_queue_pop(struct or_packet_queue *queue);

#endif
