/* The messages follow what QEMU 7.2 sends (hw/virtio/vhost.c, hw/block/vhost-user-blk.c), at the first
 * connection and at a later one: the inflight region is asked for once and given again, and the ring's base
 * is its used index, so what the record does not name is taken from the available ring. */
#include "frontend.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/virtio_blk.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ring.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include "../vhost_message.h"

#define RING_SIZE 128u
#define CHAIN 3u /* descriptors of a request: header, data, status */
#define AVAIL_AT 0x1000u
#define USED_AT 0x2000u
#define HEADERS_AT 0x3000u
#define HEADER_STRIDE 64u
#define STATUS_AT 32u /* within a header's stride */
#define DATA_AT 0x10000u
#define MEMORY_BYTES (DATA_AT + FRONTEND_SLOTS * FRONTEND_DATA_MAX)
#define USER_BASE 0x7f0000000000ull
#define ANSWER_TIMEOUT_S 10
#define FEATURES                                                                                                       \
    (1ull << VIRTIO_F_VERSION_1 | 1ull << VIRTIO_BLK_F_FLUSH | 1ull << VIRTIO_BLK_F_SEG_MAX | OR_VU_F_PROTOCOL_FEATURES)
#define PROTOCOL (OR_VU_PROTOCOL_MQ | OR_VU_PROTOCOL_REPLY_ACK | OR_VU_PROTOCOL_CONFIG | OR_VU_PROTOCOL_INFLIGHT_SHMFD)

struct frontend {
    struct sockaddr_un address;
    int sock, memfd, kick, call;
    uint8_t *memory;
    struct vring_desc *desc;
    struct vring_avail *avail;
    struct vring_used *used;
    uint16_t avail_idx, used_seen;
    int inflight_fd;
    struct or_vu_inflight inflight;
    struct frontend_stats stats;
};

static void must(bool ok, const char *what)
{
    if (ok)
        return;
    perror(what);
    exit(2);
}

struct frontend *frontend_create(const char *socket_path)
{
    struct frontend *f = calloc(1, sizeof(*f));
    must(f != NULL && strlen(socket_path) < sizeof(f->address.sun_path), "socket path");
    f->address.sun_family = AF_UNIX;
    strcpy(f->address.sun_path, socket_path);
    f->sock = f->inflight_fd = -1;
    f->memfd = memfd_create("verify-client", MFD_CLOEXEC);
    must(f->memfd >= 0 && ftruncate(f->memfd, MEMORY_BYTES) == 0, "guest memory");
    f->memory = mmap(NULL, MEMORY_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, f->memfd, 0);
    must(f->memory != MAP_FAILED, "guest memory");
    f->desc = (struct vring_desc *)f->memory;
    f->avail = (struct vring_avail *)(f->memory + AVAIL_AT);
    f->used = (struct vring_used *)(f->memory + USED_AT);
    f->memory[DATA_AT] = 0x55; /* firmware was here: an engine takes blank memory for memory that is not shared */
    f->kick = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    f->call = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    must(f->kick >= 0 && f->call >= 0, "eventfd");
    return f;
}

/* --- the socket ---------------------------------------------------------------------------------- */

static bool ask(struct frontend *f, uint32_t request, void *payload, uint32_t size, uint32_t room, int *fd)
{
    return vhost_message_send(f->sock, request, 0, payload, size, NULL, 0) &&
           vhost_message_receive(f->sock, 0, request, payload, room, fd) >= 0;
}

static bool get(struct frontend *f, uint32_t request, uint64_t *value)
{
    return ask(f, request, value, 0, sizeof(*value), NULL);
}

/* Sends what has no answer of its own and waits for the acknowledgement. */
static bool set(struct frontend *f, uint32_t request, const void *payload, uint32_t size, int fd)
{
    uint64_t refused = 1;
    return vhost_message_send(f->sock, request, OR_VU_NEED_REPLY, payload, size, &fd, fd >= 0) &&
           vhost_message_receive(f->sock, 0, request, &refused, sizeof(refused), NULL) == sizeof(refused) &&
           refused == 0;
}

static bool set_state(struct frontend *f, uint32_t request, uint32_t value)
{
    struct or_vu_vring_state state = {.index = 0, .num = value};
    return set(f, request, &state, sizeof(state), -1);
}

static bool negotiate(struct frontend *f)
{
    uint64_t features, protocol, queues;
    if (!get(f, OR_VU_GET_FEATURES, &features) || !get(f, OR_VU_GET_PROTOCOL_FEATURES, &protocol))
        return false;
    features &= FEATURES;
    protocol &= PROTOCOL;
    return features == FEATURES && protocol == PROTOCOL &&
           vhost_message_send(f->sock, OR_VU_SET_PROTOCOL_FEATURES, 0, &protocol, sizeof(protocol), NULL, 0) &&
           get(f, OR_VU_GET_QUEUE_NUM, &queues) && set(f, OR_VU_SET_OWNER, NULL, 0, -1) &&
           set(f, OR_VU_SET_FEATURES, &features, sizeof(features), -1);
}

static bool read_capacity(struct frontend *f)
{
    struct or_vu_config config = {.offset = 0, .size = sizeof(struct virtio_blk_config)};
    uint32_t size = offsetof(struct or_vu_config, data) + config.size;
    if (!ask(f, OR_VU_GET_CONFIG, &config, size, sizeof(config), NULL))
        return false;
    uint64_t sectors;
    memcpy(&sectors, config.data, sizeof(sectors));
    f->stats.capacity = sectors * 512;
    return true;
}

static bool share_inflight(struct frontend *f)
{
    if (f->inflight_fd < 0) {
        f->inflight = (struct or_vu_inflight){.queues = 1, .queue_size = RING_SIZE};
        if (!ask(f, OR_VU_GET_INFLIGHT_FD, &f->inflight, sizeof(f->inflight), sizeof(f->inflight), &f->inflight_fd))
            return false;
    }
    return set(f, OR_VU_SET_INFLIGHT_FD, &f->inflight, sizeof(f->inflight), f->inflight_fd);
}

static bool share_memory(struct frontend *f)
{
    struct or_vu_memory table = {.count = 1, .regions = {{.size = MEMORY_BYTES, .user = USER_BASE}}};
    uint32_t size = offsetof(struct or_vu_memory, regions) + sizeof(table.regions[0]);
    return set(f, OR_VU_SET_MEM_TABLE, &table, size, f->memfd);
}

static bool start_ring(struct frontend *f)
{
    struct or_vu_vring_addr address = {.desc = USER_BASE, .avail = USER_BASE + AVAIL_AT, .used = USER_BASE + USED_AT};
    uint64_t index = 0;
    uint16_t base = __atomic_load_n(&f->used->idx, __ATOMIC_ACQUIRE);
    return set_state(f, OR_VU_SET_VRING_NUM, RING_SIZE) && set_state(f, OR_VU_SET_VRING_BASE, base) &&
           set(f, OR_VU_SET_VRING_ADDR, &address, sizeof(address), -1) &&
           set(f, OR_VU_SET_VRING_KICK, &index, sizeof(index), f->kick) &&
           set(f, OR_VU_SET_VRING_CALL, &index, sizeof(index), f->call) && set_state(f, OR_VU_SET_VRING_ENABLE, 1);
}

static void disconnect(struct frontend *f)
{
    close(f->sock);
    f->sock = -1;
}

bool frontend_connect(struct frontend *f)
{
    struct timeval timeout = {.tv_sec = ANSWER_TIMEOUT_S};
    f->sock = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    must(f->sock >= 0 && setsockopt(f->sock, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof(timeout)) == 0, "socket");
    if (connect(f->sock, (struct sockaddr *)&f->address, sizeof(f->address)) == 0 && negotiate(f) && read_capacity(f) &&
        share_inflight(f) && share_memory(f) && start_ring(f)) {
        f->stats.connections++;
        return true;
    }
    disconnect(f);
    return false;
}

bool frontend_connected(const struct frontend *f)
{
    return f->sock >= 0;
}

void frontend_check(struct frontend *f)
{
    char byte;
    ssize_t n = recv(f->sock, &byte, 1, MSG_DONTWAIT);
    if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR))
        disconnect(f);
}

int frontend_socket(const struct frontend *f)
{
    return f->sock;
}

int frontend_call_fd(const struct frontend *f)
{
    return f->call;
}

/* --- the ring ------------------------------------------------------------------------------------ */

uint8_t *frontend_data(struct frontend *f, uint32_t slot)
{
    return f->memory + DATA_AT + (size_t)slot * FRONTEND_DATA_MAX;
}

static uint8_t *header_of(struct frontend *f, uint32_t slot)
{
    return f->memory + HEADERS_AT + (size_t)slot * HEADER_STRIDE;
}

/* Guest physical memory begins at 0. */
static uint64_t physical(const struct frontend *f, const uint8_t *at)
{
    return (uint64_t)(at - f->memory);
}

static void make_available(struct frontend *f, uint16_t head)
{
    f->avail->ring[f->avail_idx % RING_SIZE] = head;
    __atomic_store_n(&f->avail->idx, ++f->avail_idx, __ATOMIC_RELEASE);
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    if ((__atomic_load_n(&f->used->flags, __ATOMIC_RELAXED) & VRING_USED_F_NO_NOTIFY) == 0)
        eventfd_write(f->kick, 1);
}

void frontend_submit(struct frontend *f, uint32_t slot, enum frontend_op op, uint64_t offset, uint32_t length)
{
    static const uint32_t types[] = {
        [FRONTEND_READ] = VIRTIO_BLK_T_IN, [FRONTEND_WRITE] = VIRTIO_BLK_T_OUT, [FRONTEND_FLUSH] = VIRTIO_BLK_T_FLUSH};
    struct virtio_blk_outhdr *header = (struct virtio_blk_outhdr *)header_of(f, slot);
    *header = (struct virtio_blk_outhdr){.type = types[op], .sector = offset / 512};
    header_of(f, slot)[STATUS_AT] = 0xff;
    uint16_t head = (uint16_t)(slot * CHAIN), last = head;
    f->desc[head] = (struct vring_desc){.addr = physical(f, header_of(f, slot)), .len = sizeof(*header)};
    if (length > 0) {
        last++;
        f->desc[last] = (struct vring_desc){.addr = physical(f, frontend_data(f, slot)),
                                            .len = length,
                                            .flags = op == FRONTEND_READ ? VRING_DESC_F_WRITE : 0};
    }
    last++;
    f->desc[last] =
        (struct vring_desc){.addr = physical(f, header_of(f, slot) + STATUS_AT), .len = 1, .flags = VRING_DESC_F_WRITE};
    for (uint16_t i = head; i < last; i++) {
        f->desc[i].flags |= VRING_DESC_F_NEXT;
        f->desc[i].next = i + 1;
    }
    make_available(f, head);
}

int frontend_completed(struct frontend *f, uint8_t *status)
{
    eventfd_t calls;
    if (__atomic_load_n(&f->used->idx, __ATOMIC_ACQUIRE) == f->used_seen) {
        /* Look once more after the event is taken back: one that came in between stays. */
        eventfd_read(f->call, &calls);
        if (__atomic_load_n(&f->used->idx, __ATOMIC_ACQUIRE) == f->used_seen)
            return -1;
    }
    uint32_t head = f->used->ring[f->used_seen++ % RING_SIZE].id;
    uint32_t slot = head / CHAIN;
    if (head % CHAIN != 0 || slot >= FRONTEND_SLOTS) {
        fprintf(stderr, "verify_client: the used ring names descriptor %u, which heads no chain\n", head);
        exit(2);
    }
    *status = header_of(f, slot)[STATUS_AT];
    return (int)slot;
}

struct frontend_stats frontend_stats(const struct frontend *f)
{
    return f->stats;
}
