#include "vhost_driver.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/virtio_config.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include "../vhost_message.h"

#define RING_BYTES 0x4000u /* of guest memory for one ring */
#define AVAIL_AT 0x1000u
#define USED_AT 0x2000u
#define USER_BASE 0x7f0000000000ull
#define ANSWER_TIMEOUT_S 10

static_assert(RING_BYTES * DRIVER_RINGS_MAX <= DRIVER_DATA_AT, "the rings lie before the data");

void driver_must(bool ok, const char *what)
{
    if (ok)
        return;
    perror(what);
    exit(2);
}

static void create_ring(struct driver *d, uint32_t index)
{
    struct driver_ring *ring = &d->ring[index];
    uint8_t *at = d->memory + (size_t)index * RING_BYTES;
    ring->desc = (struct vring_desc *)at;
    ring->avail = (struct vring_avail *)(at + AVAIL_AT);
    ring->used = (struct vring_used *)(at + USED_AT);
    ring->kick = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    ring->call = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    driver_must(ring->kick >= 0 && ring->call >= 0, "eventfd");
}

void driver_create(struct driver *d, const char *socket_path)
{
    errno = ENAMETOOLONG;
    driver_must(strlen(socket_path) < sizeof(d->address.sun_path), "socket path");
    d->address.sun_family = AF_UNIX;
    strcpy(d->address.sun_path, socket_path);
    d->sock = d->inflight_fd = -1;
    d->memfd = memfd_create("guest-memory", MFD_CLOEXEC);
    driver_must(d->memfd >= 0 && ftruncate(d->memfd, (off_t)d->memory_bytes) == 0, "guest memory");
    d->memory = mmap(NULL, d->memory_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, d->memfd, 0);
    driver_must(d->memory != MAP_FAILED, "guest memory");
    d->memory[DRIVER_DATA_AT] =
        0x55; /* firmware was here: an engine takes blank memory for memory that is not shared */
    for (uint32_t i = 0; i < d->ring_count; i++)
        create_ring(d, i);
}

/* --- the socket ---------------------------------------------------------------------------------- */

bool driver_ask(struct driver *d, uint32_t request, void *payload, uint32_t size, uint32_t room, int *fd)
{
    return vhost_message_send(d->sock, request, 0, payload, size, NULL, 0) &&
           vhost_message_receive(d->sock, 0, request, payload, room, fd) >= 0;
}

static bool get(struct driver *d, uint32_t request, uint64_t *value)
{
    return driver_ask(d, request, value, 0, sizeof(*value), NULL);
}

/* Sends what has no answer of its own and waits for the acknowledgement. */
static bool set(struct driver *d, uint32_t request, const void *payload, uint32_t size, int fd)
{
    uint64_t refused = 1;
    return vhost_message_send(d->sock, request, OR_VU_NEED_REPLY, payload, size, &fd, fd >= 0) &&
           vhost_message_receive(d->sock, 0, request, &refused, sizeof(refused), NULL) == sizeof(refused) &&
           refused == 0;
}

static bool negotiate(struct driver *d)
{
    uint64_t wanted = d->features | OR_VU_F_PROTOCOL_FEATURES, protocol_wanted = d->protocol | OR_VU_PROTOCOL_REPLY_ACK;
    uint64_t features, protocol, queues;
    if (!get(d, OR_VU_GET_FEATURES, &features) || !get(d, OR_VU_GET_PROTOCOL_FEATURES, &protocol))
        return false;
    features &= wanted;
    protocol &= protocol_wanted;
    return features == wanted && protocol == protocol_wanted &&
           vhost_message_send(d->sock, OR_VU_SET_PROTOCOL_FEATURES, 0, &protocol, sizeof(protocol), NULL, 0) &&
           get(d, OR_VU_GET_QUEUE_NUM, &queues) && set(d, OR_VU_SET_OWNER, NULL, 0, -1) &&
           set(d, OR_VU_SET_FEATURES, &features, sizeof(features), -1);
}

static bool share_inflight(struct driver *d)
{
    if (!(d->protocol & OR_VU_PROTOCOL_INFLIGHT_SHMFD))
        return true;
    if (d->inflight_fd < 0) {
        d->inflight = (struct or_vu_inflight){.queues = (uint16_t)d->ring_count, .queue_size = DRIVER_RING_SIZE};
        if (!driver_ask(d, OR_VU_GET_INFLIGHT_FD, &d->inflight, sizeof(d->inflight), sizeof(d->inflight),
                        &d->inflight_fd))
            return false;
    }
    return set(d, OR_VU_SET_INFLIGHT_FD, &d->inflight, sizeof(d->inflight), d->inflight_fd);
}

static bool share_memory(struct driver *d)
{
    struct or_vu_memory table = {.count = 1, .regions = {{.size = d->memory_bytes, .user = USER_BASE}}};
    uint32_t size = offsetof(struct or_vu_memory, regions) + sizeof(table.regions[0]);
    return set(d, OR_VU_SET_MEM_TABLE, &table, size, d->memfd);
}

static bool set_state(struct driver *d, uint32_t request, uint32_t index, uint32_t value)
{
    struct or_vu_vring_state state = {.index = index, .num = value};
    return set(d, request, &state, sizeof(state), -1);
}

static bool start_ring(struct driver *d, uint32_t i)
{
    struct driver_ring *ring = &d->ring[i];
    uint64_t user = USER_BASE + (uint64_t)i * RING_BYTES, index = i;
    struct or_vu_vring_addr address = {.index = i, .desc = user, .avail = user + AVAIL_AT, .used = user + USED_AT};
    uint16_t base = __atomic_load_n(&ring->used->idx, __ATOMIC_ACQUIRE);
    return set_state(d, OR_VU_SET_VRING_NUM, i, DRIVER_RING_SIZE) && set_state(d, OR_VU_SET_VRING_BASE, i, base) &&
           set(d, OR_VU_SET_VRING_ADDR, &address, sizeof(address), -1) &&
           set(d, OR_VU_SET_VRING_KICK, &index, sizeof(index), ring->kick) &&
           set(d, OR_VU_SET_VRING_CALL, &index, sizeof(index), ring->call) &&
           set_state(d, OR_VU_SET_VRING_ENABLE, i, 1);
}

static bool start_rings(struct driver *d)
{
    for (uint32_t i = 0; i < d->ring_count; i++)
        if (!start_ring(d, i))
            return false;
    return true;
}

void driver_disconnect(struct driver *d)
{
    close(d->sock);
    d->sock = -1;
}

bool driver_connect(struct driver *d)
{
    struct timeval timeout = {.tv_sec = ANSWER_TIMEOUT_S};
    d->sock = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    driver_must(d->sock >= 0 && setsockopt(d->sock, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof(timeout)) == 0, "socket");
    if (connect(d->sock, (struct sockaddr *)&d->address, sizeof(d->address)) == 0 && negotiate(d) &&
        (!d->configure || d->configure(d)) && share_inflight(d) && share_memory(d) && start_rings(d)) {
        d->connections++;
        return true;
    }
    driver_disconnect(d);
    return false;
}

bool driver_connected(const struct driver *d)
{
    return d->sock >= 0;
}

void driver_check(struct driver *d)
{
    char byte;
    ssize_t n = recv(d->sock, &byte, 1, MSG_DONTWAIT);
    if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR))
        driver_disconnect(d);
}

/* --- the rings ----------------------------------------------------------------------------------- */

void driver_offer(struct driver_ring *ring, uint16_t head)
{
    ring->avail->ring[ring->avail_idx % DRIVER_RING_SIZE] = head;
    __atomic_store_n(&ring->avail->idx, ++ring->avail_idx, __ATOMIC_RELEASE);
}

void driver_kick(struct driver_ring *ring)
{
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    if ((__atomic_load_n(&ring->used->flags, __ATOMIC_RELAXED) & VRING_USED_F_NO_NOTIFY) == 0)
        eventfd_write(ring->kick, 1);
}

int driver_used(struct driver_ring *ring, uint32_t *length)
{
    if (__atomic_load_n(&ring->used->idx, __ATOMIC_ACQUIRE) == ring->used_seen)
        return -1;
    const struct vring_used_elem *element = &ring->used->ring[ring->used_seen++ % DRIVER_RING_SIZE];
    if (length)
        *length = element->len;
    return (int)element->id;
}

void driver_want_calls(struct driver_ring *ring, bool wanted)
{
    __atomic_store_n(&ring->avail->flags, wanted ? 0 : VRING_AVAIL_F_NO_INTERRUPT, __ATOMIC_RELEASE);
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
}
