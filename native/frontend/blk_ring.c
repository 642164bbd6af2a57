/* Requests of a virtio-blk queue.
 *
 * Everything is allocated when the ring starts: one struct request for each descriptor that can head a
 * chain, because a head that is in flight cannot be made available again (a guest that does so is at
 * fault). The pieces of memory that a chain covers are kept in it; the session's pull and push walk them
 * with a cursor, so that data is copied exactly once, between guest memory and frame.
 *
 * What the session takes is at most OR_REQ_BYTES_MAX long and one range, so a request is executed in
 * parts: pieces of a large read or write, or the segments of a discard. A few parts are under way at a
 * time; when one ends the request queues itself for the next poll, which submits more (not from done(),
 * which does not know the time). The first status that is not OR_OK counts, and no more parts follow it.
 *
 * Abandoned requests. When QEMU takes the ring back, or goes, requests may still be in the session,
 * which cannot forget them. A read just has its bytes dropped. A write may yet be sent, and the guest may
 * have been reset since and have put other things in those pages: so its data is copied, as it was, when
 * it is abandoned. There is a limit to such copies; beyond it the write keeps the guest's memory mapped
 * and takes what it finds there. */
#include "blk_ring.h"

#include <assert.h>
#include <linux/virtio_blk.h>
#include <stdlib.h>
#include <string.h>

#include "mem/list.h"

#define PARTS 4u
#define POLL_MAX 64u /* chains taken from a ring in one poll */
/* Requests of a disk under way; more stay in its rings. A session has no more slots, and each new request is compared
 * with those before it (transport/overlap.c): a guest with many queues could hold up the worker with that. */
#define UNDER_WAY_MAX 256u
/* Header, data, status; and a few more for buffers that cross memory regions. */
#define PIECES_MAX (OR_BLK_SEG_MAX + 2u + 8u)
#define ABANDONED_BYTES_MAX (64u << 20)
#define SECTOR 512u

struct request;

struct part {
    struct or_req req;
    struct request *owner;
    uint64_t start;        /* of its data within the request's, bytes */
    uint64_t cursor_start; /* the first byte of piece `cursor`, counted from piece `first` */
    uint16_t cursor;
    bool busy;
    uint8_t *copy; /* of an abandoned write's data */
};

struct request {
    struct or_blk_ring *ring;
    struct or_guest_mem *mem; /* reference, while the pieces are needed */
    struct or_list more;      /* in ring->more: parts wait to be submitted */
    uint64_t offset;          /* on the disk, bytes */
    uint64_t length;          /* of the data, bytes */
    uint64_t issued;          /* of them given to parts */
    uint16_t head;
    uint16_t first, count; /* the data is in pieces[first .. count), */
    uint16_t skip;         /* after so many bytes */
    bool busy, submitting;
    uint8_t op, status;
    uint8_t parts_busy;
    uint8_t ranges, ranges_issued;
    uint8_t *status_byte;
    struct part parts[PARTS];
    struct virtio_blk_discard_write_zeroes range[OR_BLK_RANGES_MAX];
    struct iovec pieces[PIECES_MAX];
};

struct or_blk_ring {
    struct or_blk_disk *disk;
    struct or_vring *vring; /* NULL: abandoned */
    uint32_t requests_busy;
    uint16_t again_next, again_count; /* heads to take again */
    uint16_t size;
    struct or_list more;
    uint16_t again[OR_VQ_SIZE_MAX];
    struct request requests[];
};

/* Data. */

/* The contiguous memory from byte `at` of the request's data on. */
static struct iovec piece_at(struct part *p, uint64_t at)
{
    const struct request *r = p->owner;
    at += r->skip;
    if (at < p->cursor_start) {
        p->cursor = r->first;
        p->cursor_start = 0;
    }
    while (at - p->cursor_start >= r->pieces[p->cursor].iov_len) {
        p->cursor_start += r->pieces[p->cursor++].iov_len;
        assert(p->cursor < r->count);
    }
    uint64_t within = at - p->cursor_start;
    return (struct iovec){.iov_base = (uint8_t *)r->pieces[p->cursor].iov_base + within,
                          .iov_len = r->pieces[p->cursor].iov_len - within};
}

static void gather(struct part *p, uint64_t at, uint8_t *to, uint32_t length)
{
    while (length > 0) {
        struct iovec piece = piece_at(p, at);
        uint32_t n = length < piece.iov_len ? length : (uint32_t)piece.iov_len;
        memcpy(to, piece.iov_base, n);
        to += n;
        at += n;
        length -= n;
    }
}

static void scatter(struct part *p, uint64_t at, const uint8_t *from, uint32_t length)
{
    while (length > 0) {
        struct iovec piece = piece_at(p, at);
        uint32_t n = length < piece.iov_len ? length : (uint32_t)piece.iov_len;
        or_guest_write(p->owner->mem, piece.iov_base, from, n);
        from += n;
        at += n;
        length -= n;
    }
}

static struct part *part_of(struct or_req *req)
{
    return OR_CONTAINER(req, struct part, req);
}

static void pull(struct or_req *req, uint32_t offset, uint8_t *dst, uint32_t length)
{
    struct part *p = part_of(req);
    assert((uint64_t)offset + length <= req->length);
    if (p->copy)
        memcpy(dst, p->copy + offset, length);
    else
        gather(p, p->start + offset, dst, length);
}

static void push(struct or_req *req, uint32_t offset, const uint8_t *src, uint32_t length)
{
    struct part *p = part_of(req);
    assert((uint64_t)offset + length <= req->length);
    if (p->owner->ring->vring)
        scatter(p, p->start + offset, src, length);
}

/* Ends. */

static void count_end(struct or_vhost_blk_stats *stats, const struct request *r)
{
    if (r->status != OR_OK) {
        stats->errors++;
        return;
    }
    switch (r->op) {
    case OR_OP_READ:
        stats->reads++;
        stats->bytes_read += r->length;
        break;
    case OR_OP_WRITE:
        stats->writes++;
        stats->bytes_written += r->length;
        break;
    case OR_OP_FLUSH:
        stats->flushes++;
        break;
    case OR_OP_DISCARD:
        stats->discards++;
        break;
    case OR_OP_WRITE_ZEROES:
        stats->write_zeroes++;
        break;
    default:
        stats->get_ids++;
        break;
    }
}

/* Gives the chain back; `written` bytes of data went to the guest's memory. */
static void complete(struct request *r, uint32_t written)
{
    struct or_blk_ring *ring = r->ring;
    uint8_t status = r->status == OR_OK        ? VIRTIO_BLK_S_OK
                     : r->status == OR_EUNSUPP ? VIRTIO_BLK_S_UNSUPP
                                               : VIRTIO_BLK_S_IOERR;
    or_guest_write(r->mem, r->status_byte, &status, sizeof(status));
    or_virtqueue_put(&ring->vring->vq, r->head, written + 1);
    ring->vring->in_flight--;
    count_end(&ring->disk->stats, r);
    or_guest_mem_unref(r->mem);
    r->mem = NULL;
    r->busy = false;
    ring->requests_busy--;
}

static void finish(struct request *r, enum or_status status)
{
    r->status = status;
    complete(r, 0);
}

static bool parts_left(const struct request *r)
{
    if (r->status != OR_OK)
        return false;
    return r->ranges > 0 ? r->ranges_issued < r->ranges : r->issued < r->length;
}

static void part_ended(struct request *r)
{
    if (r->submitting)
        return;
    or_list_remove(&r->more);
    if (parts_left(r)) {
        or_list_append(&r->ring->more, &r->more);
    } else if (r->parts_busy == 0) {
        complete(r, r->op == OR_OP_READ && r->status == OR_OK ? (uint32_t)r->length : 0);
    }
}

static void free_ring(struct or_blk_ring *ring)
{
    struct or_blk_disk *disk = ring->disk;
    free(ring);
    if (--disk->abandoned == 0)
        disk->quiet(disk);
}

static void abandoned_part_ended(struct part *p)
{
    struct request *r = p->owner;
    struct or_blk_ring *ring = r->ring;
    ring->disk->stats.dropped++;
    if (p->copy) {
        ring->disk->abandoned_bytes -= p->req.length;
        free(p->copy);
        p->copy = NULL;
    }
    if (r->parts_busy > 0)
        return;
    or_guest_mem_unref(r->mem);
    r->mem = NULL;
    r->busy = false;
    if (--ring->requests_busy == 0)
        free_ring(ring);
}

static void done(struct or_req *req)
{
    struct part *p = part_of(req);
    struct request *r = p->owner;
    assert(p->busy);
    p->busy = false;
    r->parts_busy--;
    if (r->status == OR_OK)
        r->status = req->status;
    if (r->ring->vring)
        part_ended(r);
    else
        abandoned_part_ended(p);
}

static const struct or_req_ops request_ops = {.pull = pull, .push = push, .done = done};

/* Submission. */

static struct part *free_part(struct request *r)
{
    for (uint32_t i = 0; i < PARTS; i++)
        if (!r->parts[i].busy)
            return &r->parts[i];
    return NULL;
}

/* Makes the next part of r. */
static void next_part(struct request *r, struct part *p)
{
    p->start = r->issued;
    p->cursor = r->first;
    p->cursor_start = 0;
    if (r->ranges > 0) {
        const struct virtio_blk_discard_write_zeroes *range = &r->range[r->ranges_issued++];
        p->req.offset = range->sector * SECTOR;
        p->req.length = range->num_sectors * SECTOR;
        p->req.flags = range->flags & VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP ? OR_REQ_UNMAP : 0;
    } else {
        uint64_t left = r->length - r->issued;
        p->req.offset = r->offset + r->issued;
        p->req.length = left < OR_REQ_BYTES_MAX ? (uint32_t)left : OR_REQ_BYTES_MAX;
        p->req.flags = 0;
        r->issued += p->req.length;
    }
}

/* Without a volatile cache, as the guest sees it, a write is on stable storage when it completes. */
static bool write_through(const struct or_vring *vring)
{
    bool volatile_cache = vring->vu->features & (1ull << VIRTIO_BLK_F_FLUSH);
    return !volatile_cache || !vring->vu->word;
}

static void submit_part(struct request *r, struct part *p, uint64_t now)
{
    const struct or_vhost_blk_config *config = &r->ring->disk->config;
    p->req.ops = &request_ops;
    p->req.device = config->device;
    p->req.generation = config->generation;
    p->req.op = r->op;
    p->req.timeout_ns = config->timeout_ns;
    p->req.status = OR_OK;
    if ((r->op == OR_OP_WRITE || r->op == OR_OP_WRITE_ZEROES) && write_through(r->ring->vring))
        p->req.flags |= OR_REQ_FUA;
    p->busy = true;
    r->parts_busy++;
    config->submit(config->client, &p->req, now);
}

static void submit_parts(struct request *r, uint64_t now)
{
    struct part *p;
    r->submitting = true;
    while (parts_left(r) && (p = free_part(r)) != NULL) {
        next_part(r, p);
        submit_part(r, p, now);
    }
    r->submitting = false;
    /* Whatever ended inside submit is looked at now. */
    if (r->parts_busy == 0)
        part_ended(r);
}

static void submit_flush(struct request *r, uint64_t now)
{
    struct part *p = &r->parts[0];
    p->req.offset = 0;
    p->req.length = 0;
    p->req.flags = 0;
    r->length = r->issued = 0;
    submit_part(r, p, now);
}

/* What the guest asks for. Everything is checked here, before anything is sent. */

static bool in_disk(const struct or_blk_disk *disk, uint64_t sector, uint64_t bytes)
{
    uint64_t size = disk->config.size;
    return sector <= size / SECTOR && bytes <= size - sector * SECTOR &&
           sector * SECTOR % disk->config.block_size == 0 && bytes % disk->config.block_size == 0;
}

static void read_or_write(struct request *r, uint64_t sector, uint64_t now)
{
    const struct or_blk_disk *disk = r->ring->disk;
    /* The used ring counts the bytes written, status included, in 32 bits. */
    if (r->length == 0 || r->length >= UINT32_MAX || !in_disk(disk, sector, r->length) ||
        (r->op == OR_OP_WRITE && disk->config.read_only)) {
        finish(r, OR_EINVAL);
        return;
    }
    r->offset = sector * SECTOR;
    submit_parts(r, now);
}

static enum or_status check_ranges(const struct request *r)
{
    const struct or_blk_disk *disk = r->ring->disk;
    bool zeroes = r->op == OR_OP_WRITE_ZEROES;
    uint32_t flags = zeroes ? VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP : 0;
    uint64_t bytes_max = zeroes ? OR_BLK_WRITE_ZEROES_MAX : OR_BLK_DISCARD_MAX;
    for (uint32_t i = 0; i < r->ranges; i++) {
        uint64_t bytes = (uint64_t)r->range[i].num_sectors * SECTOR;
        if (r->range[i].flags & ~flags)
            return OR_EUNSUPP;
        if (bytes == 0 || bytes > bytes_max || !in_disk(disk, r->range[i].sector, bytes))
            return OR_EINVAL;
    }
    return OR_OK;
}

static void discard_or_zero(struct request *r, uint64_t now)
{
    const struct or_vhost_blk_config *config = &r->ring->disk->config;
    if (!(r->op == OR_OP_DISCARD ? config->discard : config->write_zeroes)) {
        finish(r, OR_EUNSUPP);
        return;
    }
    if (config->read_only || r->length == 0 || r->length % sizeof(r->range[0]) != 0 || r->length > sizeof(r->range)) {
        finish(r, OR_EINVAL);
        return;
    }
    gather(&r->parts[0], 0, (uint8_t *)r->range, (uint32_t)r->length);
    r->ranges = (uint8_t)(r->length / sizeof(r->range[0]));
    enum or_status status = check_ranges(r);
    if (status != OR_OK)
        finish(r, status);
    else
        submit_parts(r, now);
}

static void get_id(struct request *r)
{
    uint8_t id[VIRTIO_BLK_ID_BYTES] = {0};
    uint32_t length = r->length < sizeof(id) ? (uint32_t)r->length : sizeof(id);
    memcpy(id, r->ring->disk->config.serial, strnlen(r->ring->disk->config.serial, sizeof(id)));
    scatter(&r->parts[0], 0, id, length);
    complete(r, length);
}

/* Prepares r for data that the device reads (`out`) or writes. Header and status are not data. */
static void set_data(struct request *r, const struct or_chain *chain, bool out)
{
    r->first = out ? 0 : chain->readable;
    r->count = out ? chain->readable : chain->count;
    r->skip = out ? sizeof(struct virtio_blk_outhdr) : 0;
    r->length = out ? chain->readable_bytes - sizeof(struct virtio_blk_outhdr) : chain->writable_bytes - 1;
    r->parts[0].cursor = r->first;
    r->parts[0].cursor_start = 0;
}

static void execute(struct request *r, const struct virtio_blk_outhdr *header, const struct or_chain *chain,
                    uint64_t now)
{
    switch (header->type) {
    case VIRTIO_BLK_T_IN:
        r->op = OR_OP_READ;
        set_data(r, chain, false);
        read_or_write(r, header->sector, now);
        break;
    case VIRTIO_BLK_T_OUT:
        r->op = OR_OP_WRITE;
        set_data(r, chain, true);
        read_or_write(r, header->sector, now);
        break;
    case VIRTIO_BLK_T_FLUSH:
        r->op = OR_OP_FLUSH;
        submit_flush(r, now);
        break;
    case VIRTIO_BLK_T_DISCARD:
    case VIRTIO_BLK_T_WRITE_ZEROES:
        r->op = header->type == VIRTIO_BLK_T_DISCARD ? OR_OP_DISCARD : OR_OP_WRITE_ZEROES;
        set_data(r, chain, true);
        discard_or_zero(r, now);
        break;
    case VIRTIO_BLK_T_GET_ID:
        set_data(r, chain, false);
        get_id(r);
        break;
    default:
        finish(r, OR_EUNSUPP);
        break;
    }
}

static void reset_request(struct request *r)
{
    r->offset = r->length = r->issued = 0;
    r->first = r->count = r->skip = 0;
    r->op = 0;
    r->status = OR_OK;
    r->ranges = r->ranges_issued = 0;
}

/* Executes the chain of `head`. A reason comes back when the guest is at fault. */
static const char *take(struct or_blk_ring *ring, uint16_t head, uint64_t now)
{
    struct request *r = &ring->requests[head];
    struct or_virtqueue *vq = &ring->vring->vq;
    if (r->busy)
        return "a descriptor chain is made available while it is in flight";
    struct or_chain chain = {.iov = r->pieces, .iov_max = PIECES_MAX};
    const char *reason = or_virtqueue_chain(vq, head, &chain);
    if (reason)
        return reason;
    if (chain.readable_bytes < sizeof(struct virtio_blk_outhdr))
        return "a request has no header";
    if (chain.writable_bytes < 1)
        return "a request has no room for its status";
    reset_request(r);
    r->busy = true;
    r->mem = or_guest_mem_ref(vq->mem);
    const struct iovec *last = &chain.iov[chain.count - 1];
    r->status_byte = (uint8_t *)last->iov_base + last->iov_len - 1;
    ring->requests_busy++;
    ring->vring->in_flight++;

    struct virtio_blk_outhdr header;
    set_data(r, &chain, true);
    r->skip = 0;
    gather(&r->parts[0], 0, (uint8_t *)&header, sizeof(header));
    execute(r, &header, &chain, now);
    /* What has ended already is still as it was. */
    bool moves_data = r->op == OR_OP_READ || r->op == OR_OP_WRITE;
    or_bucket_charge(&ring->disk->bucket, now, 1, moves_data && r->length < UINT32_MAX ? (uint32_t)r->length : 0);
    return NULL;
}

/* The ring. */

struct or_blk_ring *or_blk_ring_create(struct or_blk_disk *disk, struct or_vring *vring, const uint16_t *heads,
                                       uint16_t count)
{
    uint16_t size = vring->vq.size;
    struct or_blk_ring *ring = calloc(1, sizeof(*ring) + size * sizeof(ring->requests[0]));
    if (ring == NULL)
        return NULL;
    ring->disk = disk;
    ring->vring = vring;
    ring->size = size;
    or_list_init(&ring->more);
    memcpy(ring->again, heads, count * sizeof(heads[0]));
    ring->again_count = count;
    for (uint16_t i = 0; i < size; i++) {
        struct request *r = &ring->requests[i];
        r->ring = ring;
        r->head = i;
        or_list_init(&r->more);
        for (uint32_t j = 0; j < PARTS; j++)
            r->parts[j].owner = r;
    }
    return ring;
}

/* Copies what a write in the session has not necessarily sent yet. False: no room. */
static bool keep_data(struct part *p)
{
    struct or_blk_disk *disk = p->owner->ring->disk;
    if (disk->abandoned_bytes + p->req.length > ABANDONED_BYTES_MAX)
        return false;
    uint8_t *copy = malloc(p->req.length);
    if (copy == NULL)
        return false;
    gather(p, p->start, copy, p->req.length);
    p->copy = copy;
    disk->abandoned_bytes += p->req.length;
    return true;
}

static void abandon_request(struct request *r)
{
    bool memory_needed = false;
    or_list_remove(&r->more);
    if (r->parts_busy == 0) {
        r->busy = false;
        r->ring->requests_busy--;
    }
    for (uint32_t i = 0; r->op == OR_OP_WRITE && i < PARTS; i++)
        if (r->parts[i].busy && !keep_data(&r->parts[i]))
            memory_needed = true;
    if (!memory_needed) {
        or_guest_mem_unref(r->mem);
        r->mem = NULL;
    }
}

void or_blk_ring_abandon(struct or_blk_ring *ring)
{
    for (uint16_t i = 0; i < ring->size; i++)
        if (ring->requests[i].busy)
            abandon_request(&ring->requests[i]);
    ring->vring = NULL;
    if (ring->requests_busy > 0)
        ring->disk->abandoned++;
    else
        free(ring);
}

static void submit_more(struct or_blk_ring *ring, uint64_t now)
{
    struct or_list waiting = ring->more;
    if (or_list_empty(&ring->more))
        return;
    /* Those that queue themselves again wait for the next poll. */
    waiting.next->prev = waiting.prev->next = &waiting;
    or_list_init(&ring->more);
    while (!or_list_empty(&waiting)) {
        struct request *r = OR_CONTAINER(waiting.next, struct request, more);
        or_list_remove(&r->more);
        submit_parts(r, now);
    }
}

/* Chains that wait, or -1 with *reason. A guest cannot have more of them out than its queue has descriptors: those
 * that wait, those under way, and those that are done and not shown to it yet. */
static int waiting_chains(const struct or_vring *vring, const char **reason)
{
    const struct or_virtqueue *vq = &vring->vq;
    int waiting = or_virtqueue_waiting(vq, reason);
    uint16_t unpublished = vq->used_next - vq->used_idx;
    if (waiting <= 0 || (uint32_t)waiting + vring->in_flight + unpublished <= vq->size)
        return waiting;
    *reason = "more chains are available than the queue has descriptors";
    return -1;
}

/* Chains that may be taken now. */
static uint32_t room(const struct or_blk_ring *ring)
{
    const struct or_vhost_user *vu = ring->vring->vu;
    uint32_t under_way = 0;
    for (uint32_t i = 0; i < vu->queues; i++)
        under_way += vu->rings[i].in_flight;
    return under_way < UNDER_WAY_MAX ? UNDER_WAY_MAX - under_way : 0;
}

/* What the limit holds back stays in the guest's ring, which is where a guest expects to wait. */
static bool may_take(struct or_blk_disk *disk, uint64_t now)
{
    if (disk->not_before)
        return false;
    disk->not_before = or_bucket_when(&disk->bucket, now);
    if (disk->not_before)
        disk->stats.throttled++;
    return disk->not_before == 0;
}

uint32_t or_blk_ring_poll(struct or_blk_ring *ring, uint64_t now)
{
    struct or_vring *vring = ring->vring;
    const char *reason = NULL;
    uint32_t taken = 0;
    submit_more(ring, now);
    if (!or_vring_recovers(vring))
        return 0;
    uint32_t most = room(ring) < POLL_MAX ? room(ring) : POLL_MAX;
    for (; reason == NULL && ring->again_next < ring->again_count && taken < most; taken++)
        reason = take(ring, ring->again[ring->again_next++], now);
    int waiting = reason || !or_vring_runs(vring) ? 0 : waiting_chains(vring, &reason);
    for (; reason == NULL && waiting > 0 && taken < most && may_take(ring->disk, now); waiting--, taken++) {
        uint16_t head;
        reason = or_virtqueue_take(&vring->vq, &head);
        if (reason == NULL)
            reason = take(ring, head, now);
    }
    if (reason)
        or_vhost_user_break(vring->vu, vring, reason);
    return taken;
}

bool or_blk_ring_pending(const struct or_blk_ring *ring)
{
    const char *reason;
    if (!or_list_empty(&ring->more))
        return true;
    if (room(ring) == 0)
        return false;
    if (ring->again_next < ring->again_count && or_vring_recovers(ring->vring))
        return true;
    return ring->disk->not_before == 0 && or_vring_runs(ring->vring) &&
           or_virtqueue_waiting(&ring->vring->vq, &reason) != 0;
}
