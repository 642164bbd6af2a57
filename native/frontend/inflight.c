/* The inflight region. Only program order matters for what a successor finds: a process that dies
 * leaves all stores before its last instruction in the shared pages. So the barriers are the
 * compiler's only. */
#include "inflight.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define QUEUE_ALIGN 64u
#define TAIL_MAGIC 0x5254554fu /* "OUTR" */
#define VERSION 1

struct entry {
    uint64_t counter;
    uint16_t head;
};

static uint64_t stride(uint16_t queue_size)
{
    uint64_t bytes = sizeof(struct or_inflight_queue) + (uint64_t)queue_size * sizeof(struct or_inflight_desc);
    return (bytes + QUEUE_ALIGN - 1) / QUEUE_ALIGN * QUEUE_ALIGN;
}

uint64_t or_inflight_bytes(uint16_t queues, uint16_t queue_size)
{
    return queues * stride(queue_size) + sizeof(struct or_inflight_tail);
}

static struct or_inflight_tail *tail_of(void *region, uint16_t queues, uint16_t queue_size)
{
    return (struct or_inflight_tail *)((uint8_t *)region + queues * stride(queue_size));
}

int or_inflight_create(uint16_t queues, uint16_t queue_size, uint32_t word)
{
    int fd = memfd_create("outrigger-inflight", MFD_CLOEXEC);
    if (fd < 0)
        return -errno;
    struct or_inflight_tail tail = {.magic = TAIL_MAGIC, .word = word};
    off_t end = (off_t)(queues * stride(queue_size));
    if (pwrite(fd, &tail, sizeof(tail), end) != (ssize_t)sizeof(tail)) {
        int err = -errno;
        close(fd);
        return err;
    }
    return fd;
}

struct or_inflight_queue *or_inflight_queue(void *region, uint16_t queue_size, uint16_t index)
{
    return (struct or_inflight_queue *)((uint8_t *)region + index * stride(queue_size));
}

bool or_inflight_word(void *region, uint16_t queues, uint16_t queue_size, uint32_t *word)
{
    struct or_inflight_tail tail;
    memcpy(&tail, tail_of(region, queues, queue_size), sizeof(tail));
    *word = tail.word;
    return tail.magic == TAIL_MAGIC;
}

void or_inflight_set_word(void *region, uint16_t queues, uint16_t queue_size, uint32_t word)
{
    tail_of(region, queues, queue_size)->word = word;
}

static int by_counter(const void *a, const void *b)
{
    uint64_t x = ((const struct entry *)a)->counter, y = ((const struct entry *)b)->counter;
    return (x > y) - (x < y);
}

/* The last batch was published, but the death came before its descriptors were struck off. */
static bool strike_last_batch(struct or_inflight_queue *q, uint16_t queue_size, uint16_t used_idx)
{
    uint16_t left = used_idx - q->used_idx;
    uint16_t head = q->last_batch_head;
    if (left > queue_size)
        return false;
    for (; left > 0; left--) {
        if (head >= queue_size)
            return false;
        q->desc[head].inflight = 0;
        head = __atomic_load_n(&q->desc[head].next, __ATOMIC_RELAXED);
    }
    q->used_idx = used_idx;
    return true;
}

int or_inflight_recover(struct or_inflight_queue *q, uint16_t queue_size, uint16_t ring_size, uint16_t used_idx,
                        uint16_t *heads, uint64_t *counter)
{
    *counter = 0;
    if (ring_size > queue_size)
        return -1;
    if (q->version == 0) {
        q->desc_num = queue_size;
        q->used_idx = used_idx;
        atomic_signal_fence(memory_order_release);
        q->version = VERSION;
        return 0;
    }
    if (q->version != VERSION || q->desc_num != queue_size || !strike_last_batch(q, queue_size, used_idx))
        return -1;
    struct entry *entries = calloc(ring_size, sizeof(*entries));
    if (entries == NULL)
        return -1;
    int count = 0;
    for (uint16_t i = 0; i < ring_size; i++)
        if (q->desc[i].inflight)
            entries[count++] = (struct entry){.counter = q->desc[i].counter, .head = i};
    qsort(entries, (size_t)count, sizeof(*entries), by_counter);
    for (int i = 0; i < count; i++)
        heads[i] = entries[i].head;
    if (count > 0)
        *counter = entries[count - 1].counter + 1;
    free(entries);
    return count;
}

void or_inflight_take(struct or_inflight_queue *q, uint16_t head, uint64_t counter)
{
    q->desc[head].counter = counter;
    atomic_signal_fence(memory_order_release);
    q->desc[head].inflight = 1;
}

void or_inflight_batch(struct or_inflight_queue *q, uint16_t head)
{
    q->desc[head].next = q->last_batch_head;
    atomic_signal_fence(memory_order_release);
    q->last_batch_head = head;
}

void or_inflight_commit(struct or_inflight_queue *q, const uint16_t *heads, uint16_t count, uint16_t used_idx)
{
    atomic_signal_fence(memory_order_release);
    for (uint16_t i = 0; i < count; i++)
        q->desc[heads[i]].inflight = 0;
    atomic_signal_fence(memory_order_release);
    q->used_idx = used_idx;
}
