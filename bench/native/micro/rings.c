/* The rings: a request's way through a virtqueue on the device's side (the guest's part, two stores, is in it), and
 * a pointer's through the ring between two threads, here by one. */
#include "frontend/virtqueue.h"
#include "mem/spsc.h"
#include "micro.h"
#include <linux/virtio_ring.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define SIZE 128u
#define AVAIL_AT 4096u
#define USED_AT 8192u
#define DATA_AT 16384u
#define MEMORY_BYTES (1u << 20)
#define BATCH 32u

struct queue {
    struct or_guest_mem *mem;
    struct or_virtqueue vq;
    uint8_t *memory; /* as the guest sees it, from 0 */
    struct vring_avail *avail;
    uint16_t avail_idx;
};

/* Each head has a chain of header, data and status, as a disk's request: in the table, or an indirect one. */
static void write_chain(struct queue *q, uint16_t head, bool indirect)
{
    struct vring_desc *table = (struct vring_desc *)q->memory, *chain = &table[head];
    uint64_t data = DATA_AT + SIZE * 64u;
    uint16_t next = (uint16_t)(head + 1);
    if (indirect) {
        uint64_t at = DATA_AT + head * 64u;
        *chain = (struct vring_desc){.addr = at, .len = 48, .flags = VRING_DESC_F_INDIRECT};
        chain = (struct vring_desc *)(q->memory + at);
        next = 1;
    }
    chain[0] = (struct vring_desc){.addr = data, .len = 16, .flags = VRING_DESC_F_NEXT, .next = next};
    chain[1] = (struct vring_desc){.addr = data + 4096,
                                   .len = 4096,
                                   .flags = VRING_DESC_F_NEXT | VRING_DESC_F_WRITE,
                                   .next = (uint16_t)(next + 1)};
    chain[2] = (struct vring_desc){.addr = data + 16, .len = 1, .flags = VRING_DESC_F_WRITE};
}

static struct queue *queue_create(bool indirect)
{
    static const struct or_virtqueue_addr addr = {.desc = 0, .avail = AVAIL_AT, .used = USED_AT};
    uint16_t heads[SIZE], count;
    struct queue *q = micro_memory(sizeof *q);
    int fd = memfd_create("micro", MFD_CLOEXEC);
    micro_must(fd >= 0 && ftruncate(fd, MEMORY_BYTES) == 0, "no memfd");
    q->memory = mmap(NULL, MEMORY_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    q->mem = or_guest_mem_create(NULL);
    micro_must(q->memory != MAP_FAILED && q->mem && or_guest_mem_add(q->mem, 0, 0, MEMORY_BYTES, fd, 0) == 0,
               "no guest memory");
    close(fd);
    q->avail = (struct vring_avail *)(q->memory + AVAIL_AT);
    q->vq.indirect = indirect;
    micro_must(or_virtqueue_map(&q->vq, q->mem, &addr, SIZE) == NULL &&
                   or_virtqueue_start(&q->vq, 0, NULL, 0, heads, &count) == NULL,
               "no virtqueue");
    /* Three descriptors each, one behind the other. */
    for (uint16_t i = 0; i < BATCH; i++)
        write_chain(q, (uint16_t)(i * 3), indirect);
    return q;
}

static void *direct_queue(uint64_t bytes)
{
    (void)bytes;
    return queue_create(false);
}

static void *indirect_queue(uint64_t bytes)
{
    (void)bytes;
    return queue_create(true);
}

static void queue_free(void *state)
{
    struct queue *q = state;
    or_virtqueue_stop(&q->vq);
    free(q->vq.table);
    or_guest_mem_unref(q->mem);
    munmap(q->memory, MEMORY_BYTES);
    free(q);
}

/* The guest's part. */
static void offer(struct queue *q, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++)
        q->avail->ring[q->avail_idx++ % SIZE] = (uint16_t)(i * 3);
    __atomic_store_n(&q->avail->idx, q->avail_idx, __ATOMIC_RELEASE);
}

static void serve(struct queue *q, uint32_t count)
{
    struct iovec iov[8];
    const char *reason = NULL;
    micro_must(or_virtqueue_waiting(&q->vq, &reason) == (int)count, "chains are missing");
    for (uint32_t i = 0; i < count; i++) {
        struct or_chain chain = {.iov = iov, .iov_max = 8};
        uint16_t head;
        micro_must(or_virtqueue_take(&q->vq, &head) == NULL && or_virtqueue_chain(&q->vq, head, &chain) == NULL,
                   "the chain is refused");
        or_virtqueue_put(&q->vq, head, 4097);
    }
    micro_use(or_virtqueue_publish(&q->vq));
}

static void one_by_one(void *state, uint64_t count)
{
    for (uint64_t i = 0; i < count; i++) {
        offer(state, 1);
        serve(state, 1);
    }
}

static void in_batches(void *state, uint64_t count)
{
    for (uint64_t left = count; left > 0;) {
        uint32_t now = left < BATCH ? (uint32_t)left : BATCH;
        offer(state, now);
        serve(state, now);
        left -= now;
    }
}

static void *spsc_create(uint64_t bytes)
{
    (void)bytes;
    return micro_memory(sizeof(struct or_spsc));
}

static void push_and_pop(void *state, uint64_t count)
{
    for (uint64_t i = 0; i < count; i++) {
        or_spsc_push(state, state);
        micro_use((uintptr_t)or_spsc_pop(state));
    }
}

static const struct micro_case cases[] = {
    {"virtqueue", "take and give back a request, one by one", 0, direct_queue, one_by_one, queue_free},
    {"virtqueue", "take and give back a request, 32 at a time", 0, direct_queue, in_batches, queue_free},
    {"virtqueue", "the same with indirect descriptors, one by one", 0, indirect_queue, one_by_one, queue_free},
    {"virtqueue", "the same with indirect descriptors, 32 at a time", 0, indirect_queue, in_batches, queue_free},
    {"command ring", "push and pop", 0, spsc_create, push_and_pop, free},
};

const struct micro_group micro_rings = {cases, sizeof cases / sizeof *cases};
