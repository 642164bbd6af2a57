/* The inflight region: which descriptors a back-end has taken and not yet given back, in memory that
 * QEMU holds for us, so that a back-end that reconnects (or another one in its place) submits them
 * again in their order. The layout per queue is that of the vhost-user specification ("Inflight I/O
 * tracking", split virtqueues); QEMU itself never looks inside.
 *
 * Behind the queues the region ends with a word of the device's own (struct or_inflight_tail): for
 * virtio-blk the write cache mode, which QEMU does not tell a back-end again after a reconnect.
 *
 * QEMU may write anything here at any time: every value is checked before it is used. */
#ifndef OR_INFLIGHT_H
#define OR_INFLIGHT_H

#include <assert.h>
#include <stdbool.h>
#include <stdint.h>

struct or_inflight_desc {
    uint8_t inflight;
    uint8_t padding[5];
    uint16_t next;    /* of the batch of used descriptors published last */
    uint64_t counter; /* the order in which descriptors were taken */
};

struct or_inflight_queue {
    uint64_t features;
    uint16_t version; /* 0: never used */
    uint16_t desc_num;
    uint16_t last_batch_head;
    uint16_t used_idx;
    struct or_inflight_desc desc[];
};

struct or_inflight_tail {
    uint32_t magic;
    uint32_t word;
};

static_assert(sizeof(struct or_inflight_desc) == 16, "vhost-user specification");
static_assert(sizeof(struct or_inflight_queue) == 16, "vhost-user specification");

/* Size of a region, bytes. */
uint64_t or_inflight_bytes(uint16_t queues, uint16_t queue_size);
/* A fresh region in a memfd. The descriptor, or -errno. */
int or_inflight_create(uint16_t queues, uint16_t queue_size, uint32_t word);

struct or_inflight_queue *or_inflight_queue(void *region, uint16_t queue_size, uint16_t index);
/* False when the region is not one of ours. */
bool or_inflight_word(void *region, uint16_t queues, uint16_t queue_size, uint32_t *word);
void or_inflight_set_word(void *region, uint16_t queues, uint16_t queue_size, uint32_t word);

/* When a ring of ring_size descriptors starts (the guest may have made it smaller than the record's
 * queue_size): makes the record agree with the ring's used index (a death between publishing a batch and
 * noting it) and lists the descriptors in flight, oldest first, in heads[ring_size]. Returns their
 * number, or -1 when the record contradicts the ring. *counter: the next one to give. A region never
 * used is initialised. */
int or_inflight_recover(struct or_inflight_queue *q, uint16_t queue_size, uint16_t ring_size, uint16_t used_idx,
                        uint16_t *heads, uint64_t *counter);

/* Descriptor `head` was taken from the available ring. */
void or_inflight_take(struct or_inflight_queue *q, uint16_t head, uint64_t counter);
/* `head` joins the batch that the next or_inflight_commit ends. */
void or_inflight_batch(struct or_inflight_queue *q, uint16_t head);
/* The batch of `count` heads was published, which moved the used index to used_idx. */
void or_inflight_commit(struct or_inflight_queue *q, const uint16_t *heads, uint16_t count, uint16_t used_idx);

#endif
