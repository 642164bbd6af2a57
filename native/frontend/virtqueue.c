/* The split virtqueue.
 *
 * Memory order. The guest fills descriptors, then the ring entry, then the available index; loading the
 * index with acquire makes the rest visible. The used ring the other way round: entries, then the index
 * with release (or_guest_write does that for aligned 2 byte values). Two places need a full barrier,
 * because each side writes its own word and then reads the other's: between publishing the used index
 * and reading whether the guest wants an interrupt, and between asking for kicks and looking at the
 * available index again. */
#include "virtqueue.h"

#include <assert.h>
#include <endian.h>
#include <linux/virtio_ring.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

static_assert(sizeof(struct vring_desc) == 16, "virtio 1.2, 2.7.5");
static_assert(__BYTE_ORDER == __LITTLE_ENDIAN, "the rings are used as they are");

/* The event indices stand right behind the rings (virtio 1.2, 2.7.6 and 2.7.8). */
static uint16_t *used_event(const struct or_virtqueue *vq)
{
    return &vq->avail->ring[vq->size];
}

static uint16_t *avail_event(const struct or_virtqueue *vq)
{
    return (uint16_t *)(void *)&vq->used->ring[vq->size];
}

static uint16_t load(const uint16_t *p)
{
    return __atomic_load_n(p, __ATOMIC_ACQUIRE);
}

static bool misaligned(const void *p, uintptr_t alignment)
{
    return (uintptr_t)p % alignment != 0;
}

const char *or_virtqueue_map(struct or_virtqueue *vq, struct or_guest_mem *mem, const struct or_virtqueue_addr *addr,
                             uint16_t size)
{
    if (size == 0 || size > OR_VQ_SIZE_MAX || (size & (size - 1)) != 0)
        return "the queue size is not a power of two up to 1024";
    void *desc = or_guest_user(mem, addr->desc, sizeof(struct vring_desc) * size);
    void *avail = or_guest_user(mem, addr->avail, sizeof(uint16_t) * (3u + size));
    void *used = or_guest_user(mem, addr->used, sizeof(struct vring_used_elem) * size + 3 * sizeof(uint16_t));
    if (desc == NULL || avail == NULL || used == NULL)
        return "a ring lies outside the guest's memory";
    if (misaligned(desc, VRING_DESC_ALIGN_SIZE) || misaligned(avail, VRING_AVAIL_ALIGN_SIZE) ||
        misaligned(used, VRING_USED_ALIGN_SIZE))
        return "a ring's address is not aligned";
    if (vq->table == NULL)
        vq->table = calloc(OR_VQ_SIZE_MAX, sizeof(*vq->table));
    if (vq->table == NULL)
        return "out of memory";
    or_guest_mem_ref(mem);
    or_guest_mem_unref(vq->mem);
    vq->mem = mem;
    vq->desc = desc;
    vq->avail = avail;
    vq->used = used;
    vq->size = size;
    return NULL;
}

uint16_t or_virtqueue_used(const struct or_virtqueue *vq)
{
    return load(&vq->used->idx);
}

const char *or_virtqueue_start(struct or_virtqueue *vq, uint16_t base, struct or_inflight_queue *inflight,
                               uint16_t inflight_size, uint16_t *heads, uint16_t *count)
{
    vq->used_idx = load(&vq->used->idx);
    vq->used_next = vq->used_idx;
    vq->last_avail = base;
    vq->signalled = false;
    vq->kicks_wanted = false;
    vq->inflight = inflight;
    *count = 0;
    if (inflight == NULL)
        return NULL;
    int found = or_inflight_recover(inflight, inflight_size, vq->size, vq->used_idx, heads, &vq->inflight_counter);
    if (found < 0)
        return "the inflight region contradicts the ring";
    *count = (uint16_t)found;
    /* After our death QEMU can only guess the base: it takes the used index. What was taken and not
     * given back is exactly what the record holds. A fresh record (a VM that moved here) knows nothing,
     * and the base is right. */
    if (found > 0)
        vq->last_avail = vq->used_idx + (uint16_t)found;
    return NULL;
}

void or_virtqueue_stop(struct or_virtqueue *vq)
{
    or_guest_mem_unref(vq->mem);
    free(vq->table);
    memset(vq, 0, sizeof(*vq));
}

int or_virtqueue_waiting(const struct or_virtqueue *vq, const char **reason)
{
    uint16_t waiting = load(&vq->avail->idx) - vq->last_avail;
    if (waiting > vq->size) {
        *reason = "the available index jumped by more than the queue size";
        return -1;
    }
    return waiting;
}

const char *or_virtqueue_take(struct or_virtqueue *vq, uint16_t *head)
{
    uint16_t value = load(&vq->avail->ring[vq->last_avail & (vq->size - 1)]);
    if (value >= vq->size)
        return "the available ring names a descriptor out of range";
    vq->last_avail++;
    if (vq->inflight)
        or_inflight_take(vq->inflight, value, vq->inflight_counter++);
    *head = value;
    return NULL;
}

void or_virtqueue_untake(struct or_virtqueue *vq, uint16_t count)
{
    assert(vq->inflight == NULL);
    vq->last_avail -= count;
}

/* Adds one buffer, in as many pieces as regions it touches. */
static const char *add_buffer(const struct or_virtqueue *vq, const struct vring_desc *d, struct or_chain *chain)
{
    bool writable = d->flags & VRING_DESC_F_WRITE;
    uint64_t address = d->addr, left = d->len, end;
    if (!writable && chain->readable != chain->count)
        return "a descriptor chain has a readable buffer after a writable one";
    if (__builtin_add_overflow(address, left, &end))
        return "a descriptor's address and length wrap";
    while (left > 0) {
        uint64_t size = left;
        void *host = or_guest_phys(vq->mem, address, &size);
        if (host == NULL)
            return "a descriptor points outside the guest's memory";
        if (chain->count == chain->iov_max)
            return "a descriptor chain has more buffers than allowed";
        chain->iov[chain->count++] = (struct iovec){.iov_base = host, .iov_len = size};
        address += size;
        left -= size;
    }
    if (writable) {
        chain->writable_bytes += d->len;
    } else {
        chain->readable = chain->count;
        chain->readable_bytes += d->len;
    }
    return NULL;
}

/* Copies the indirect table that d points to into vq->table. */
static const char *copy_table(struct or_virtqueue *vq, const struct vring_desc *d)
{
    uint64_t address = d->addr, left = d->len, end;
    uint8_t *to = (uint8_t *)vq->table;
    if (!vq->indirect)
        return "an indirect descriptor, which was not negotiated";
    if (d->flags & VRING_DESC_F_NEXT)
        return "an indirect descriptor that also has a next one";
    if (left == 0 || left % sizeof(struct vring_desc) != 0)
        return "an indirect table's length is not a multiple of 16";
    if (left > OR_VQ_SIZE_MAX * sizeof(struct vring_desc))
        return "an indirect table is too large";
    if (__builtin_add_overflow(address, left, &end))
        return "a descriptor's address and length wrap";
    while (left > 0) {
        uint64_t size = left;
        const void *host = or_guest_phys(vq->mem, address, &size);
        if (host == NULL)
            return "an indirect table lies outside the guest's memory";
        memcpy(to, host, size);
        to += size;
        address += size;
        left -= size;
    }
    return NULL;
}

const char *or_virtqueue_chain(struct or_virtqueue *vq, uint16_t head, struct or_chain *chain)
{
    const struct vring_desc *table = vq->desc;
    uint32_t table_size = vq->size, steps = 0;
    uint16_t index = head;
    const char *reason;

    chain->readable = chain->count = chain->walked = 0;
    chain->readable_bytes = chain->writable_bytes = 0;
    for (;;) {
        struct vring_desc d;
        if (++steps > table_size)
            return "a descriptor chain loops";
        chain->walked++;
        memcpy(&d, &table[index], sizeof(d));
        atomic_signal_fence(memory_order_acquire); /* what is checked is the copy */
        if (d.flags & VRING_DESC_F_INDIRECT) {
            if (table == vq->table)
                return "an indirect descriptor inside an indirect table";
            reason = copy_table(vq, &d);
            if (reason)
                return reason;
            table = vq->table;
            table_size = d.len / sizeof(d);
            steps = 0;
            index = 0;
            continue;
        }
        reason = add_buffer(vq, &d, chain);
        if (reason)
            return reason;
        if (!(d.flags & VRING_DESC_F_NEXT))
            return NULL;
        if (d.next >= table_size)
            return "a descriptor's next index is out of range";
        index = d.next;
    }
}

void or_virtqueue_put(struct or_virtqueue *vq, uint16_t head, uint32_t length)
{
    uint16_t waiting = vq->used_next - vq->used_idx;
    struct vring_used_elem element = {.id = head, .len = length};
    assert(waiting < vq->size);
    or_guest_write(vq->mem, &vq->used->ring[vq->used_next & (vq->size - 1)], &element, sizeof(element));
    if (vq->inflight)
        or_inflight_batch(vq->inflight, head);
    vq->batch[waiting] = head;
    vq->used_next++;
}

/* Whether the guest wants to be interrupted for entries [old, vq->used_idx). */
static bool interrupt_wanted(struct or_virtqueue *vq, uint16_t old)
{
    atomic_thread_fence(memory_order_seq_cst);
    if (!vq->event_idx)
        return !(load(&vq->avail->flags) & VRING_AVAIL_F_NO_INTERRUPT);
    bool first = !vq->signalled;
    vq->signalled = true;
    return first || vring_need_event(load(used_event(vq)), vq->used_idx, old);
}

bool or_virtqueue_publish(struct or_virtqueue *vq)
{
    uint16_t old = vq->used_idx, count = vq->used_next - old;
    or_guest_write(vq->mem, &vq->used->idx, &vq->used_next, sizeof(vq->used_next));
    if (vq->inflight)
        or_inflight_commit(vq->inflight, vq->batch, count, vq->used_next);
    vq->used_idx = vq->used_next;
    return interrupt_wanted(vq, old);
}

void or_virtqueue_want_kicks(struct or_virtqueue *vq, bool wanted)
{
    /* With event indices an old avail_event is as good as a refusal: the guest kicks when it passes it,
     * once in 65536 entries. */
    uint16_t flags = wanted ? 0 : VRING_USED_F_NO_NOTIFY;
    if (vq->event_idx && wanted)
        or_guest_write(vq->mem, avail_event(vq), &vq->last_avail, sizeof(vq->last_avail));
    else if (!vq->event_idx && wanted != vq->kicks_wanted)
        or_guest_write(vq->mem, &vq->used->flags, &flags, sizeof(flags));
    vq->kicks_wanted = wanted;
    if (wanted)
        atomic_thread_fence(memory_order_seq_cst);
}
