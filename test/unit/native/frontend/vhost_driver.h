/* A vhost-user driver for tests: it plays QEMU (the socket, shared memory) and the guest (split rings)
 * against one or_vhost_blk, with a disk in memory in the place of the session; net_driver.h makes it one of
 * a NIC. One thread: step() runs one iteration of the worker's loop.
 *
 * Guest memory is 8 MiB in two regions that touch at 4 MiB of guest physical memory and lie apart in
 * QEMU's address space and in the file, so a buffer across 4 MiB has two pieces. Queue i has its rings
 * from 64 KiB * (i + 1) on; headers and status bytes are at 640 KiB; tests put data from 1 MiB on. */
#ifndef VHOST_DRIVER_H
#define VHOST_DRIVER_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <linux/virtio_blk.h>
#include <linux/virtio_ring.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "../../../tools/vhost_message.h"
#include "frontend/inflight.h"
#include "frontend/vhost_blk.h"
#include "frontend/vhost_proto.h"
#include "loop/fd_source.h"
#include "mem/list.h"

#define MIB (1u << 20)
#define REGION (4u * MIB)
#define USER_A 0x7f0000000000ull
#define USER_B 0x7f1000000000ull
#define FILE_B (5u * MIB) /* where region B begins in the file */
#define FILE_SIZE (9u * MIB)
#define DISK_SIZE (16u * MIB)
#define QUEUES 2u    /* of the disk */
#define RINGS_MAX 4u /* of any device */
#define RING(i) (65536ull * ((i) + 1))
#define AVAIL_AT 0x8000u
#define USED_AT 0xc000u
#define HEADERS 0xa0000ull
#define DATA 0x100000ull
#define F(bit) (1ull << (bit))
#define ALL_FEATURES ~0ull
#define STEPS_MAX 10000

struct queue {
    uint16_t size, avail_idx, used_seen, next_desc;
    int kick, call, err; /* the driver's own ends */
};

struct driver {
    struct or_vhost_blk_config config;
    struct or_vhost_blk *dev;
    void (*work)(struct driver *d); /* of the worker, in the place of the disk's */
    uint32_t queues_num;            /* that the device answers; 0: as configured for the disk */
    enum or_vhost_state state;
    char reason[256];
    bool gone;
    struct sockaddr_un address;
    socklen_t address_length;
    int epoll_fd, sock, memfd;
    uint8_t *file; /* the driver's mapping of it */
    uint64_t features, protocol;
    struct queue q[RINGS_MAX];
    int inflight_fd;
    struct or_vu_inflight inflight;
    uint32_t used_len; /* of the chain that ended last */

    /* The session. */
    uint8_t *disk;
    struct or_list pending;
    bool hold;      /* requests stay pending */
    bool backwards; /* the latest request ends first */
    uint8_t refuse; /* enum or_status: requests end with it inside submit */
    uint32_t submitted, flushes, fuas, largest;
    uint64_t now;
};

struct buffer {
    uint64_t phys;
    uint32_t length;
    bool writable;
};

/* --- the session --------------------------------------------------------------------------------- */

static inline void session_submit(void *client, struct or_req *req, uint64_t now)
{
    struct driver *d = client;
    (void)now;
    d->submitted++;
    d->flushes += req->op == OR_OP_FLUSH;
    d->fuas += (req->flags & OR_REQ_FUA) != 0;
    d->largest = req->length > d->largest ? req->length : d->largest;
    if (d->refuse) {
        req->status = d->refuse;
        req->ops->done(req);
        return;
    }
    or_list_append(&d->pending, &req->link);
}

/* Copies in pieces of odd sizes and, for reads, from the end: fragments come in any order. */
static inline void session_execute(struct driver *d, struct or_req *req)
{
    const uint32_t piece = 3001;
    uint8_t *at = d->disk + req->offset;
    assert_true(req->offset + req->length <= DISK_SIZE);
    assert_int_equal(req->device, 7);
    assert_int_equal(req->generation, 3);
    uint32_t pieces = (req->length + piece - 1) / piece;
    for (uint32_t i = 0; i < pieces; i++) {
        uint32_t n = req->op == OR_OP_READ ? pieces - 1 - i : i;
        uint32_t offset = n * piece, length = req->length - offset < piece ? req->length - offset : piece;
        if (req->op == OR_OP_READ)
            req->ops->push(req, offset, at + offset, length);
        else if (req->op == OR_OP_WRITE)
            req->ops->pull(req, offset, at + offset, length);
    }
    if (req->op == OR_OP_DISCARD || req->op == OR_OP_WRITE_ZEROES)
        memset(at, req->op == OR_OP_DISCARD ? 0xdd : 0, req->length);
    req->ops->done(req);
}

static inline uint32_t session_run(struct driver *d)
{
    uint32_t ended = 0;
    while (!or_list_empty(&d->pending)) {
        struct or_list *l = d->backwards ? d->pending.prev : d->pending.next;
        or_list_remove(l);
        session_execute(d, OR_CONTAINER(l, struct or_req, link));
        ended++;
    }
    return ended;
}

static inline uint32_t session_pending(const struct driver *d)
{
    uint32_t n = 0;
    for (const struct or_list *l = d->pending.next; l != &d->pending; l = l->next)
        n++;
    return n;
}

/* --- the worker ---------------------------------------------------------------------------------- */

static inline void step_wait(struct driver *d, int wait_ms)
{
    struct epoll_event e;
    for (int i = 0; i < 64 && epoll_wait(d->epoll_fd, &e, 1, i == 0 ? wait_ms : 0) == 1; i++) {
        struct or_fd_source *source = e.data.ptr;
        source->ready(source, e.events);
    }
    if (d->work)
        d->work(d);
    if (d->dev == NULL)
        return;
    or_vhost_blk_poll(d->dev, ++d->now);
    if (!d->hold)
        session_run(d);
    or_vhost_blk_flush(d->dev);
}

static inline void step(struct driver *d)
{
    step_wait(d, 0);
}

static inline void steps(struct driver *d, int count)
{
    while (count-- > 0)
        step(d);
}

static inline void on_state(void *arg, enum or_vhost_state state, const char *reason)
{
    struct driver *d = arg;
    d->state = state;
    snprintf(d->reason, sizeof(d->reason), "%s", reason);
}

static inline void on_gone(void *arg)
{
    *(bool *)arg = true;
}

/* --- memory -------------------------------------------------------------------------------------- */

static inline void *guest(struct driver *d, uint64_t phys)
{
    return d->file + (phys < REGION ? phys : phys - REGION + FILE_B);
}

static inline void guest_fill(struct driver *d, uint64_t phys, uint32_t length, uint32_t seed)
{
    for (uint32_t i = 0; i < length; i++)
        *(uint8_t *)guest(d, phys + i) = (uint8_t)((i * 31u + i / 251u + seed) ^ (seed >> 3));
}

static inline bool guest_holds(struct driver *d, uint64_t phys, const uint8_t *expected, uint32_t length)
{
    for (uint32_t i = 0; i < length; i++)
        if (*(uint8_t *)guest(d, phys + i) != expected[i])
            return false;
    return true;
}

/* --- the socket ---------------------------------------------------------------------------------- */

static inline bool vu_send(struct driver *d, uint32_t request, uint32_t flags, const void *payload, uint32_t size,
                           const int *fds, uint32_t fd_count)
{
    return vhost_message_send(d->sock, request, flags, payload, size, fds, fd_count);
}

/* The next reply's payload, or -1 when the connection was closed; *fd receives a descriptor. */
static inline int vu_reply(struct driver *d, uint32_t request, void *payload, uint32_t room, int *fd)
{
    struct pollfd p = {.fd = d->sock, .events = POLLIN};
    for (int i = 0; i < STEPS_MAX && poll(&p, 1, 0) == 0; i++)
        step_wait(d, 1);
    int size = vhost_message_receive(d->sock, MSG_DONTWAIT, request, payload, room, fd);
    assert_int_not_equal(size, VHOST_MESSAGE_ALIEN);
    return size;
}

/* Sends and returns what the acknowledgement says; -1: the connection was closed. */
static inline int vu_set(struct driver *d, uint32_t request, const void *payload, uint32_t size, const int *fds,
                         uint32_t fd_count)
{
    uint64_t ack = ~0ull;
    assert_true(vu_send(d, request, OR_VU_NEED_REPLY, payload, size, fds, fd_count));
    if (vu_reply(d, request, &ack, sizeof(ack), NULL) < 0)
        return -1;
    return (int)ack;
}

static inline int vu_set_u64(struct driver *d, uint32_t request, uint64_t value)
{
    return vu_set(d, request, &value, sizeof(value), NULL, 0);
}

static inline uint64_t vu_get(struct driver *d, uint32_t request)
{
    uint64_t value = 0;
    assert_true(vu_send(d, request, 0, NULL, 0, NULL, 0));
    assert_int_equal(vu_reply(d, request, &value, sizeof(value), NULL), sizeof(value));
    return value;
}

static inline int vu_set_state(struct driver *d, uint32_t request, uint32_t index, uint32_t num)
{
    struct or_vu_vring_state state = {.index = index, .num = num};
    return vu_set(d, request, &state, sizeof(state), NULL, 0);
}

/* --- set-up -------------------------------------------------------------------------------------- */

static inline void driver_init(struct driver *d)
{
    memset(d, 0, sizeof(*d));
    or_list_init(&d->pending);
    d->sock = d->inflight_fd = -1;
    d->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    d->disk = malloc(DISK_SIZE);
    for (uint32_t i = 0; i < DISK_SIZE; i++)
        d->disk[i] = (uint8_t)(i * 7u + i / 509u);
    d->memfd = memfd_create("guest", MFD_CLOEXEC);
    assert_int_equal(ftruncate(d->memfd, FILE_SIZE), 0);
    d->file = mmap(NULL, FILE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, d->memfd, 0);
    assert_ptr_not_equal(d->file, MAP_FAILED);
    d->file[0] = 0x55; /* firmware was here */
    d->config = (struct or_vhost_blk_config){.submit = session_submit,
                                             .client = d,
                                             .epoll_fd = d->epoll_fd,
                                             .device = 7,
                                             .generation = 3,
                                             .size = DISK_SIZE,
                                             .block_size = 512,
                                             .physical_block_size = 4096,
                                             .queues_max = QUEUES,
                                             .discard = true,
                                             .write_zeroes = true,
                                             .serial = "serial-0123456789abc",
                                             .state = on_state,
                                             .arg = d};
    for (uint32_t i = 0; i < RINGS_MAX; i++)
        d->q[i] = (struct queue){.size = 128,
                                 .kick = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC),
                                 .call = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC),
                                 .err = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)};
}

/* Where the driver will connect. */
static inline int listen_anywhere(struct driver *d)
{
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    d->address = (struct sockaddr_un){.sun_family = AF_UNIX};
    /* No name: the kernel gives an abstract one. */
    assert_int_equal(bind(fd, (void *)&d->address, sizeof(sa_family_t)), 0);
    d->address_length = sizeof(d->address);
    assert_int_equal(getsockname(fd, (void *)&d->address, &d->address_length), 0);
    assert_int_equal(listen(fd, 4), 0);
    return fd;
}

static inline void device_create(struct driver *d)
{
    int err = 0;
    d->config.listen_fd = listen_anywhere(d);
    d->dev = or_vhost_blk_create(&d->config, &err);
    assert_non_null(d->dev);
    d->gone = false;
}

static inline int open_socket(struct driver *d)
{
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(connect(fd, (void *)&d->address, d->address_length), 0);
    return fd;
}

static inline void driver_connect(struct driver *d)
{
    d->sock = open_socket(d);
    steps(d, 2);
    assert_int_equal(d->state, OR_VHOST_CONNECTED);
}

static inline void driver_disconnect(struct driver *d)
{
    close(d->sock);
    d->sock = -1;
    steps(d, 2);
}

/* As QEMU does: features and protocol features, of which REPLY_ACK makes every answer visible. */
static inline void driver_negotiate(struct driver *d, uint64_t features, uint64_t protocol)
{
    d->features = vu_get(d, OR_VU_GET_FEATURES) & features;
    assert_true(d->features & OR_VU_F_PROTOCOL_FEATURES);
    d->protocol = vu_get(d, OR_VU_GET_PROTOCOL_FEATURES) & protocol;
    assert_true(vu_send(d, OR_VU_SET_PROTOCOL_FEATURES, 0, &d->protocol, 8, NULL, 0));
    assert_int_equal(vu_get(d, OR_VU_GET_QUEUE_NUM), d->queues_num ? d->queues_num : d->config.queues_max);
    assert_int_equal(vu_set(d, OR_VU_SET_OWNER, NULL, 0, NULL, 0), 0);
    assert_int_equal(vu_set_u64(d, OR_VU_SET_FEATURES, d->features), 0);
}

static inline struct or_vu_memory memory_table(void)
{
    return (struct or_vu_memory){.count = 2,
                                 .regions = {{.phys = 0, .size = REGION, .user = USER_A, .fd_offset = 0},
                                             {.phys = REGION, .size = REGION, .user = USER_B, .fd_offset = FILE_B}}};
}

static inline int set_memory(struct driver *d)
{
    struct or_vu_memory table = memory_table();
    int fds[2] = {d->memfd, d->memfd};
    return vu_set(d, OR_VU_SET_MEM_TABLE, &table, 8 + 2 * sizeof(table.regions[0]), fds, 2);
}

static inline void get_inflight(struct driver *d)
{
    d->inflight = (struct or_vu_inflight){.queues = QUEUES, .queue_size = 128};
    assert_true(vu_send(d, OR_VU_GET_INFLIGHT_FD, 0, &d->inflight, sizeof(d->inflight), NULL, 0));
    assert_int_equal(vu_reply(d, OR_VU_GET_INFLIGHT_FD, &d->inflight, sizeof(d->inflight), &d->inflight_fd),
                     sizeof(d->inflight));
    assert_true(d->inflight_fd >= 0);
}

static inline int set_inflight(struct driver *d)
{
    return vu_set(d, OR_VU_SET_INFLIGHT_FD, &d->inflight, sizeof(d->inflight), &d->inflight_fd, 1);
}

static inline int set_ring_address(struct driver *d, uint32_t i, uint64_t user)
{
    struct or_vu_vring_addr a = {.index = i, .desc = user, .avail = user + AVAIL_AT, .used = user + USED_AT};
    return vu_set(d, OR_VU_SET_VRING_ADDR, &a, sizeof(a), NULL, 0);
}

static inline int set_eventfd(struct driver *d, uint32_t request, uint32_t i, int fd)
{
    uint64_t value = fd < 0 ? i | OR_VU_VRING_NOFD : i;
    return vu_set(d, request, &value, sizeof(value), &fd, fd >= 0);
}

static inline void ring_configure(struct driver *d, uint32_t i, uint16_t base)
{
    assert_int_equal(vu_set_state(d, OR_VU_SET_VRING_NUM, i, d->q[i].size), 0);
    assert_int_equal(vu_set_state(d, OR_VU_SET_VRING_BASE, i, base), 0);
    assert_int_equal(set_ring_address(d, i, USER_A + RING(i)), 0);
    assert_int_equal(set_eventfd(d, OR_VU_SET_VRING_CALL, i, d->q[i].call), 0);
    assert_int_equal(set_eventfd(d, OR_VU_SET_VRING_ERR, i, d->q[i].err), 0);
    assert_int_equal(set_eventfd(d, OR_VU_SET_VRING_KICK, i, d->q[i].kick), 0);
    assert_int_equal(vu_set_state(d, OR_VU_SET_VRING_ENABLE, i, 1), 0);
}

/* Device, connection, memory, inflight region and the first `rings` rings. */
static inline void driver_start(struct driver *d, uint64_t features, uint32_t rings)
{
    device_create(d);
    driver_connect(d);
    driver_negotiate(d, features, ALL_FEATURES);
    assert_int_equal(set_memory(d), 0);
    get_inflight(d);
    assert_int_equal(set_inflight(d), 0);
    for (uint32_t i = 0; i < rings; i++)
        ring_configure(d, i, 0);
    assert_int_equal(d->state, rings > 0 ? OR_VHOST_RUNNING : OR_VHOST_CONNECTED);
}

/* Leaves the device, with its requests in the session. */
static inline void device_destroy(struct driver *d)
{
    or_vhost_blk_destroy(d->dev, on_gone, &d->gone);
    d->dev = NULL;
}

/* All but the device. */
static inline void driver_close(struct driver *d)
{
    if (d->sock >= 0)
        close(d->sock);
    if (d->inflight_fd >= 0)
        close(d->inflight_fd);
    for (uint32_t i = 0; i < RINGS_MAX; i++) {
        close(d->q[i].kick);
        close(d->q[i].call);
        close(d->q[i].err);
    }
    munmap(d->file, FILE_SIZE);
    close(d->memfd);
    close(d->epoll_fd);
    free(d->disk);
}

static inline void driver_end(struct driver *d)
{
    if (d->dev)
        device_destroy(d);
    session_run(d);
    assert_true(d->gone);
    driver_close(d);
}

/* --- rings --------------------------------------------------------------------------------------- */

static inline struct vring_desc *desc_of(struct driver *d, uint32_t i, uint16_t n)
{
    return (struct vring_desc *)guest(d, RING(i)) + n;
}

static inline struct vring_avail *avail_of(struct driver *d, uint32_t i)
{
    return guest(d, RING(i) + AVAIL_AT);
}

static inline struct vring_used *used_of(struct driver *d, uint32_t i)
{
    return guest(d, RING(i) + USED_AT);
}

static inline uint16_t *used_event_of(struct driver *d, uint32_t i)
{
    return &avail_of(d, i)->ring[d->q[i].size];
}

static inline void make_available(struct driver *d, uint32_t i, uint16_t head)
{
    struct vring_avail *a = avail_of(d, i);
    a->ring[d->q[i].avail_idx & (d->q[i].size - 1)] = head;
    d->q[i].avail_idx++;
    __atomic_store_n(&a->idx, d->q[i].avail_idx, __ATOMIC_RELEASE);
}

static inline void write_table(struct vring_desc *table, const struct buffer *b, uint32_t count, uint16_t first,
                               uint16_t mask)
{
    for (uint32_t n = 0; n < count; n++) {
        bool last = n + 1 == count;
        table[(first + n) & mask] = (struct vring_desc){
            .addr = b[n].phys,
            .len = b[n].length,
            .flags = (uint16_t)((b[n].writable ? VRING_DESC_F_WRITE : 0) | (last ? 0 : VRING_DESC_F_NEXT)),
            .next = (uint16_t)((first + n + 1) & mask)};
    }
}

/* Writes a chain, direct or with an indirect table at `table` (not 0), and returns its head. */
static inline uint16_t write_chain(struct driver *d, uint32_t i, const struct buffer *b, uint32_t count, uint64_t table)
{
    struct queue *q = &d->q[i];
    uint16_t head = q->next_desc & (q->size - 1);
    if (table) {
        write_table(guest(d, table), b, count, 0, UINT16_MAX);
        *desc_of(d, i, head) = (struct vring_desc){.addr = table, .len = count * 16, .flags = VRING_DESC_F_INDIRECT};
        q->next_desc++;
    } else {
        write_table(desc_of(d, i, 0), b, count, head, q->size - 1);
        q->next_desc += (uint16_t)count;
    }
    return head;
}

static inline uint64_t header_at(uint32_t i, uint16_t head)
{
    return HEADERS + i * 65536ull + head * 64ull;
}

static inline uint8_t *status_of(struct driver *d, uint32_t i, uint16_t head)
{
    return guest(d, header_at(i, head) + 32);
}

/* Header, data buffers and status as one chain, made available; returns its head. */
static inline uint16_t submit_buffers(struct driver *d, uint32_t i, uint32_t type, uint64_t sector,
                                      const struct buffer *data, uint32_t count, uint64_t table)
{
    struct buffer b[140];
    uint16_t head = d->q[i].next_desc & (d->q[i].size - 1);
    struct virtio_blk_outhdr header = {.type = type, .sector = sector};
    memcpy(guest(d, header_at(i, head)), &header, sizeof(header));
    *status_of(d, i, head) = 0xee;
    b[0] = (struct buffer){.phys = header_at(i, head), .length = sizeof(header)};
    memcpy(&b[1], data, count * sizeof(*data));
    b[count + 1] = (struct buffer){.phys = header_at(i, head) + 32, .length = 1, .writable = true};
    assert_int_equal(write_chain(d, i, b, count + 2, table), head);
    make_available(d, i, head);
    return head;
}

static inline uint16_t submit_io(struct driver *d, uint32_t i, uint32_t type, uint64_t sector, uint64_t phys,
                                 uint32_t length)
{
    bool writable = type == VIRTIO_BLK_T_IN || type == VIRTIO_BLK_T_GET_ID;
    struct buffer data = {.phys = phys, .length = length, .writable = writable};
    return submit_buffers(d, i, type, sector, &data, length > 0, 0);
}

/* The next used chain, or -1. */
static inline int take_used(struct driver *d, uint32_t i)
{
    struct vring_used *u = used_of(d, i);
    if (__atomic_load_n(&u->idx, __ATOMIC_ACQUIRE) == d->q[i].used_seen)
        return -1;
    struct vring_used_elem *e = &u->ring[d->q[i].used_seen++ & (d->q[i].size - 1)];
    d->used_len = e->len;
    return (int)e->id;
}

/* Runs until the chain has ended and returns its status. */
static inline uint8_t finish(struct driver *d, uint32_t i, uint16_t head)
{
    int used = -1;
    for (int n = 0; n < STEPS_MAX && (used = take_used(d, i)) < 0; n++)
        step(d);
    assert_int_equal(used, head);
    return *status_of(d, i, head);
}

static inline uint8_t io(struct driver *d, uint32_t type, uint64_t sector, uint64_t phys, uint32_t length)
{
    return finish(d, 0, submit_io(d, 0, type, sector, phys, length));
}

static inline uint64_t signals(int fd)
{
    eventfd_t value = 0;
    return eventfd_read(fd, &value) == 0 ? value : 0;
}

static inline struct or_vhost_blk_stats stats_of(struct driver *d)
{
    struct or_vhost_blk_stats stats;
    or_vhost_blk_stats(d->dev, &stats);
    return stats;
}

/* Descriptors open in this process: none may leak. */
static inline int open_fds(void)
{
    int count = 0;
    for (int fd = 0; fd < 1024; fd++)
        count += fcntl(fd, F_GETFD) >= 0;
    return count;
}

#endif
