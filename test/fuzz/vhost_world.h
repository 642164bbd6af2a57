/* What the vhost-user fuzzers share: one disk (nic_fuzz.c: one NIC) on a socket of its own, a session in memory in the
 * place of the client, and the hostile QEMU that holds guest memory and event descriptors. One thread; world_step() is
 * one iteration of the worker's loop.
 *
 * Guest memory is two regions of 128 KiB that touch in guest physical memory. Queue i has its rings from
 * RING(i) on; headers, data and indirect tables have places of their own so that small numbers in the input
 * mean something. All of it is made anew for every input, so a finding needs its input alone. */
#ifndef FUZZ_VHOST_WORLD_H
#define FUZZ_VHOST_WORLD_H

#include <fcntl.h>
#include <linux/vhost.h>
#include <linux/virtio_blk.h>
#include <linux/virtio_ring.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "frontend/inflight.h"
#include "frontend/vhost_blk.h"
#include "frontend/vhost_proto.h"
#include "input.h"
#include "loop/fd_source.h"
#include "mem/list.h"

#define REGION (128u << 10)
#define MEMORY (2u * REGION)
#define USER_A 0x7f0000000000ull
#define USER_B 0x7f1000000000ull
#define DISK_SIZE (2u << 20)
#define DEVICE 7u
#define GENERATION 3u
#define QUEUES 2u
#define QUEUE_SIZE 16u
#define RING(i) (0x1000u + 0x2000u * (i))
#define AVAIL_AT 0x400u
#define USED_AT 0x800u
#define HEADERS 0x6000u
#define TABLES 0x8000u
#define DATA 0x10000u

#define MUST(condition)                                                                                                \
    do {                                                                                                               \
        if (!(condition)) {                                                                                            \
            fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition);                                    \
            abort();                                                                                                   \
        }                                                                                                              \
    } while (0)

struct world {
    struct or_vhost_blk *dev;
    void (*work)(void); /* set: of the worker, for another device than a disk */
    struct sockaddr_un address;
    socklen_t address_length;
    int epoll_fd, sock, memfd, kick[QUEUES], call[QUEUES], inflight_fd;
    int lowest_free; /* descriptor, before anything was opened: a leak takes it */
    uint32_t memory; /* bytes that the memfd has now */
    uint16_t avail_idx[QUEUES];
    enum or_vhost_state state;
    char reason[256];
    struct or_list pending;
    bool hold, backwards, gone;
    uint8_t refuse;
    uint64_t now;
    uint8_t disk[DISK_SIZE];
};

/* Descriptors that have no state worth making anew. */
static struct world world = {.epoll_fd = -1, .sock = -1, .memfd = -1};

/* --- the session ---------------------------------------------------------------------------------- */

static inline void session_submit(void *client, struct or_req *req, uint64_t now)
{
    struct world *w = client;
    (void)now;
    MUST(req->op >= OR_OP_READ && req->op <= OR_OP_WRITE_ZEROES);
    MUST(req->device == DEVICE && req->generation == GENERATION);
    MUST(req->offset <= DISK_SIZE && req->length <= DISK_SIZE - req->offset);
    MUST(req->offset % 512 == 0 && req->length % 512 == 0);
    MUST(req->length <= OR_REQ_BYTES_MAX || (req->op != OR_OP_READ && req->op != OR_OP_WRITE));
    if (w->refuse) {
        req->status = w->refuse;
        req->ops->done(req);
        return;
    }
    or_list_append(&w->pending, &req->link);
}

/* In pieces of an odd size, as fragments come. */
static inline void session_execute(struct world *w, struct or_req *req)
{
    const uint32_t piece = 8896;
    uint8_t *at = w->disk + req->offset;
    for (uint32_t offset = 0; offset < req->length; offset += piece) {
        uint32_t length = req->length - offset < piece ? req->length - offset : piece;
        if (req->op == OR_OP_READ)
            req->ops->push(req, offset, at + offset, length);
        else if (req->op == OR_OP_WRITE)
            req->ops->pull(req, offset, at + offset, length);
    }
    req->ops->done(req);
}

static inline void session_run(struct world *w, uint32_t count)
{
    while (count-- > 0 && !or_list_empty(&w->pending)) {
        struct or_list *l = w->backwards ? w->pending.prev : w->pending.next;
        or_list_remove(l);
        session_execute(w, OR_CONTAINER(l, struct or_req, link));
    }
}

/* --- the worker ----------------------------------------------------------------------------------- */

static inline void world_step(struct world *w)
{
    struct epoll_event e;
    for (int i = 0; i < 64 && epoll_wait(w->epoll_fd, &e, 1, 0) == 1; i++) {
        struct or_fd_source *source = e.data.ptr;
        source->ready(source, e.events);
    }
    if (w->work) {
        w->work();
        return;
    }
    or_vhost_blk_poll(w->dev, ++w->now);
    if (!w->hold)
        session_run(w, UINT32_MAX);
    or_vhost_blk_flush(w->dev);
}

static inline void on_state(void *arg, enum or_vhost_state state, const char *reason)
{
    struct world *w = arg;
    w->state = state;
    MUST((state == OR_VHOST_BROKEN) == (reason[0] != '\0'));
    snprintf(w->reason, sizeof w->reason, "%s", reason);
}

static inline void on_gone(void *arg)
{
    *(bool *)arg = true;
}

/* --- the socket ----------------------------------------------------------------------------------- */

static inline void world_connect(struct world *w)
{
    w->sock = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    MUST(connect(w->sock, (void *)&w->address, w->address_length) == 0);
    world_step(w);
}

static inline void world_disconnect(struct world *w)
{
    if (w->sock >= 0)
        close(w->sock);
    w->sock = -1;
    world_step(w);
}

/* Reads what the device answered, and keeps the descriptor of an inflight region. */
static inline void drain_replies(struct world *w)
{
    char bytes[512], control[CMSG_SPACE(sizeof(int))] __attribute__((aligned(8)));
    struct iovec iov = {bytes, sizeof bytes};
    for (;;) {
        struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
        if (recvmsg(w->sock, &m, MSG_DONTWAIT | MSG_CMSG_CLOEXEC) <= 0)
            return;
        struct cmsghdr *c = CMSG_FIRSTHDR(&m);
        if (c == NULL || c->cmsg_type != SCM_RIGHTS)
            continue;
        if (w->inflight_fd >= 0)
            close(w->inflight_fd);
        memcpy(&w->inflight_fd, CMSG_DATA(c), sizeof(int));
    }
}

static inline void send_bytes(struct world *w, const struct iovec *iov, size_t pieces, const int *fds, uint32_t count)
{
    char control[CMSG_SPACE(sizeof(int) * 64)] __attribute__((aligned(8)));
    struct msghdr m = {.msg_iov = (struct iovec *)(uintptr_t)iov, .msg_iovlen = pieces};
    if (count > 0) {
        m.msg_control = control;
        m.msg_controllen = CMSG_SPACE(sizeof(int) * count);
        struct cmsghdr *c = CMSG_FIRSTHDR(&m);
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN(sizeof(int) * count);
        memcpy(CMSG_DATA(c), fds, sizeof(int) * count);
    }
    if (w->sock >= 0)
        (void)!sendmsg(w->sock, &m, MSG_NOSIGNAL | MSG_DONTWAIT);
}

/* Sends a message, lets the worker act on it and reads the answer. */
static inline void vu(struct world *w, uint32_t request, uint32_t flags, const void *payload, uint32_t size,
                      const int *fds, uint32_t count)
{
    struct or_vu_header header = {.request = request, .flags = flags, .size = size};
    struct iovec iov[2] = {{&header, sizeof header}, {(void *)(uintptr_t)payload, size}};
    send_bytes(w, iov, 2, fds, count);
    world_step(w);
    drain_replies(w);
}

static inline void vu_u64(struct world *w, uint32_t request, uint64_t value, int fd)
{
    vu(w, request, OR_VU_VERSION, &value, sizeof value, &fd, fd >= 0);
}

static inline void vu_state(struct world *w, uint32_t request, uint32_t index, uint32_t num)
{
    struct or_vu_vring_state s = {.index = index, .num = num};
    vu(w, request, OR_VU_VERSION, &s, sizeof s, NULL, 0);
}

/* --- what QEMU does at the start ------------------------------------------------------------------- */

static inline struct or_vu_region region_of(uint32_t i)
{
    return (struct or_vu_region){
        .phys = i * REGION, .size = REGION, .user = i ? USER_B : USER_A, .fd_offset = i * REGION};
}

static inline void set_memory(struct world *w)
{
    struct or_vu_memory table = {.count = 2, .regions = {region_of(0), region_of(1)}};
    int fds[2] = {w->memfd, w->memfd};
    vu(w, OR_VU_SET_MEM_TABLE, OR_VU_VERSION, &table, 8 + 2 * sizeof table.regions[0], fds, 2);
}

static inline void change_region(struct world *w, uint32_t request, uint32_t i)
{
    struct or_vu_memory_region m = {.region = region_of(i)};
    vu(w, request, OR_VU_VERSION, &m, sizeof m, &w->memfd, request == OR_VU_ADD_MEM_REG);
}

static inline void get_inflight(struct world *w)
{
    struct or_vu_inflight i = {.queues = QUEUES, .queue_size = QUEUE_SIZE};
    vu(w, OR_VU_GET_INFLIGHT_FD, OR_VU_VERSION, &i, sizeof i, NULL, 0);
}

static inline void set_inflight(struct world *w)
{
    struct or_vu_inflight i = {
        .bytes = or_inflight_bytes(QUEUES, QUEUE_SIZE), .queues = QUEUES, .queue_size = QUEUE_SIZE};
    vu(w, OR_VU_SET_INFLIGHT_FD, OR_VU_VERSION, &i, sizeof i, &w->inflight_fd, w->inflight_fd >= 0);
}

static inline void start_ring(struct world *w, uint32_t i, uint32_t size, uint32_t base)
{
    struct or_vu_vring_addr a = {
        .index = i, .desc = USER_A + RING(i), .avail = USER_A + RING(i) + AVAIL_AT, .used = USER_A + RING(i) + USED_AT};
    vu_state(w, OR_VU_SET_VRING_NUM, i, size);
    vu_state(w, OR_VU_SET_VRING_BASE, i, base);
    vu(w, OR_VU_SET_VRING_ADDR, OR_VU_VERSION, &a, sizeof a, NULL, 0);
    vu_u64(w, OR_VU_SET_VRING_CALL, i, w->call[i]);
    vu_u64(w, OR_VU_SET_VRING_KICK, i, w->kick[i]);
    vu_state(w, OR_VU_SET_VRING_ENABLE, i, 1);
}

/* features: virtio's, of which those offered count. */
static inline void negotiate(struct world *w, uint64_t features)
{
    vu_u64(w, OR_VU_SET_PROTOCOL_FEATURES,
           OR_VU_PROTOCOL_MQ | OR_VU_PROTOCOL_REPLY_ACK | OR_VU_PROTOCOL_CONFIG | OR_VU_PROTOCOL_INFLIGHT_SHMFD |
               OR_VU_PROTOCOL_CONFIGURE_MEM_SLOTS,
           -1);
    vu_u64(w, OR_VU_SET_FEATURES, features | OR_VU_F_PROTOCOL_FEATURES | 1ull << 32, -1);
}

/* --- guest memory ---------------------------------------------------------------------------------- */

/* A guest physical address that is likely to mean something. */
static inline uint64_t input_address(struct input *in)
{
    uint8_t kind = input_u8(in);
    switch (kind >> 5) {
    case 0:
        return DATA + (kind & 31u) * 512u;
    case 1:
        return HEADERS + (kind & 31u) * 16u;
    case 2:
        return TABLES + (kind & 31u) * 256u;
    case 3:
        return REGION - 16u + (kind & 31u);
    case 4:
        return MEMORY - 16u + (kind & 31u);
    case 5:
        return input_u32(in);
    default:
        return kind & 1 ? ~0ull - (kind & 31u) : RING(0) + 16u * (kind & 31u);
    }
}

/* Through the file, so that the fuzzer itself never touches a page that it has taken away. */
static inline void poke(struct world *w, uint64_t phys, const void *bytes, uint32_t length)
{
    if (phys <= w->memory && length <= w->memory - phys)
        (void)!pwrite(w->memfd, bytes, length, (off_t)phys);
}

static inline void resize_memory(struct world *w, uint32_t bytes)
{
    w->memory = bytes < MEMORY ? bytes : MEMORY;
    MUST(ftruncate(w->memfd, w->memory) == 0);
}

static inline void push_available(struct world *w, uint32_t queue, uint16_t head)
{
    uint64_t avail = RING(queue) + AVAIL_AT;
    poke(w, avail + 4 + 2ull * (w->avail_idx[queue]++ % QUEUE_SIZE), &head, 2);
    poke(w, avail + 2, &w->avail_idx[queue], 2);
}

/* A request of ring i, so that whatever else happens meets work. */
static inline void push_request(struct world *w, uint8_t how)
{
    uint32_t i = how & 1, first = (how >> 1 & 3) * 3;
    struct virtio_blk_outhdr h = {.type = how >> 3 & 1, .sector = how >> 4};
    struct vring_desc d[3] = {
        {HEADERS, sizeof h, VRING_DESC_F_NEXT, (uint16_t)(first + 1)},
        {DATA, 4096, (uint16_t)(VRING_DESC_F_NEXT | (h.type ? 0 : VRING_DESC_F_WRITE)), (uint16_t)(first + 2)},
        {HEADERS + 64, 1, VRING_DESC_F_WRITE, 0},
    };
    poke(w, HEADERS, &h, sizeof h);
    poke(w, RING(i) + first * sizeof d[0], d, sizeof d);
    push_available(w, i, (uint16_t)first);
}

/* --- life ------------------------------------------------------------------------------------------ */

static inline int lowest_free_fd(const struct world *w)
{
    int fd = dup(w->memfd);
    close(fd);
    return fd;
}

/* overrides: what of its configuration is not always the same. */
static inline void device_open(struct world *w, const struct or_vhost_blk_config *overrides, int listener)
{
    struct or_vhost_blk_config config = *overrides;
    config.submit = session_submit;
    config.client = w;
    config.listen_fd = listener;
    config.epoll_fd = w->epoll_fd;
    config.device = DEVICE;
    config.generation = GENERATION;
    config.size = DISK_SIZE;
    config.block_size = 512;
    config.physical_block_size = 4096;
    config.queues_max = QUEUES;
    config.state = on_state;
    config.arg = w;
    strcpy(config.serial, "serial-0123456789abc");
    int err;
    w->dev = or_vhost_blk_create(&config, &err);
    MUST(w->dev != NULL);
}

/* All but the device. Returns the listening socket. */
static inline int world_prepare(struct world *w)
{
    if (w->epoll_fd < 0) {
        w->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
        w->memfd = memfd_create("guest", MFD_CLOEXEC);
    }
    w->lowest_free = lowest_free_fd(w);
    for (uint32_t i = 0; i < QUEUES; i++) {
        w->kick[i] = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
        w->call[i] = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
        w->avail_idx[i] = 0;
    }
    w->inflight_fd = -1;
    resize_memory(w, 0);
    resize_memory(w, MEMORY);
    poke(w, 0, "\x55", 1); /* firmware was here */
    or_list_init(&w->pending);
    w->hold = w->backwards = w->gone = false;
    w->refuse = OR_OK;
    w->now = 0;
    w->state = OR_VHOST_LISTENING;

    int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    w->address = (struct sockaddr_un){.sun_family = AF_UNIX};
    w->address_length = sizeof w->address;
    MUST(bind(listener, (void *)&w->address, sizeof(sa_family_t)) == 0); /* the kernel finds a name */
    MUST(getsockname(listener, (void *)&w->address, &w->address_length) == 0);
    MUST(listen(listener, 4) == 0);
    return listener;
}

static inline void world_open(struct world *w, const struct or_vhost_blk_config *overrides)
{
    device_open(w, overrides, world_prepare(w));
    world_connect(w);
}

/* When the device has gone nothing is left, no descriptor either. */
static inline void world_clear(struct world *w)
{
    for (uint32_t i = 0; i < QUEUES; i++) {
        close(w->kick[i]);
        close(w->call[i]);
    }
    if (w->sock >= 0)
        close(w->sock);
    if (w->inflight_fd >= 0)
        close(w->inflight_fd);
    w->sock = -1;
    MUST(lowest_free_fd(w) == w->lowest_free);
}

/* The device goes; then the requests that the session holds end. */
static inline void world_close(struct world *w)
{
    or_vhost_blk_destroy(w->dev, on_gone, &w->gone);
    session_run(w, UINT32_MAX);
    MUST(w->gone);
    w->dev = NULL;
    world_clear(w);
}

#endif
