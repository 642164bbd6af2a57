/* The vhost-user connection and the life of its rings.
 *
 * A ring starts when QEMU has given memory, addresses and a kick descriptor, and is worked on while it
 * is enabled too. It stops with GET_VRING_BASE: no chain is taken any more, and the answer goes out when
 * what was taken has ended. QEMU is blocked until then, so the wait has an end: after STOP_WAIT_MS the
 * requests still under way are abandoned (the device drops what they bring) and the answer goes out; the
 * rings that QEMU stops after that one are not waited for again. The inflight region names them, and they are executed
 * again when the ring restarts. Without an inflight region nobody would remember them, so then the answer waits for as
 * long as it takes.
 *
 * The same abandoning happens when the connection ends. Abandoned requests hold memory, so the device
 * limits them (ops->overloaded): beyond it no connection is accepted and no ring stops early.
 *
 * Memory maps change while rings run (memory hot-plug, and QEMU re-sends its table when the guest remaps
 * PCI bars). A request keeps a reference on the map it was translated with, and so does a ring that the
 * new map does not contain: with ADD/REM_MEM_REG a region may be missing for the moment between two
 * messages. The pages are the same, whichever mapping they are reached through. */
#include "vhost_user.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/virtio_ring.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <sys/uio.h>
#include <unistd.h>

#include "doorbell.h"
#include "mem/list.h"

#define STOP_WAIT_MS 500
#define ACCEPT_RETRY_MS 100
#define MESSAGES_PER_EVENT 16

void or_vhost_user_set_state(struct or_vhost_user *vu, enum or_vhost_state state)
{
    if (state == vu->state)
        return;
    vu->state = state;
    if (state != OR_VHOST_BROKEN)
        vu->reason[0] = '\0';
    vu->ops->state(vu, state, vu->reason);
}

static bool works(const struct or_vring *ring)
{
    const struct or_vhost_user *vu = ring->vu;
    return ring->started && vu->stopping != ring && vu->state != OR_VHOST_BROKEN &&
           (ring->enabled || !(vu->features & OR_VU_F_PROTOCOL_FEATURES));
}

void or_vhost_user_update_state(struct or_vhost_user *vu)
{
    if (vu->state == OR_VHOST_BROKEN)
        return;
    enum or_vhost_state state = OR_VHOST_CONNECTED;
    for (uint32_t i = 0; i < vu->queues; i++)
        if (works(&vu->rings[i]))
            state = OR_VHOST_RUNNING;
    or_vhost_user_set_state(vu, state);
}

void or_vhost_user_break(struct or_vhost_user *vu, struct or_vring *ring, const char *reason)
{
    if (vu->state == OR_VHOST_BROKEN)
        return;
    or_vhost_user_touch(vu);
    if (ring)
        snprintf(vu->reason, sizeof(vu->reason), "virtqueue %u: %s", ring->index, reason);
    else
        snprintf(vu->reason, sizeof(vu->reason), "%s", reason);
    if (ring && ring->err_fd >= 0)
        or_doorbell_ring(ring->err_fd);
    or_vhost_user_set_state(vu, OR_VHOST_BROKEN);
}

#define SHRUNK "the file behind memory that QEMU shares became shorter than the memory"

void or_vhost_user_check(struct or_vhost_user *vu)
{
    if (vu->mem && or_guest_mem_vanished(vu->mem))
        or_vhost_user_break(vu, NULL, SHRUNK);
    if (vu->inflight && or_guest_mapping_vanished(vu->inflight))
        or_vhost_user_break(vu, NULL, SHRUNK);
}

void or_vhost_user_set_word(struct or_vhost_user *vu, uint32_t word)
{
    vu->word = word;
    if (vu->inflight)
        or_inflight_set_word(or_guest_mapping_data(vu->inflight), vu->inflight_queues, vu->inflight_size, word);
}

/* Rings. */

bool or_vring_runs(const struct or_vring *ring)
{
    return works(ring) && !ring->vu->draining;
}

bool or_vring_recovers(const struct or_vring *ring)
{
    const struct or_vhost_user *vu = ring->vu;
    return or_vring_runs(ring) || (vu->stopping == ring && vu->state != OR_VHOST_BROKEN && !vu->draining);
}

void or_vring_publish(struct or_vring *ring)
{
    if (!or_virtqueue_unpublished(&ring->vq))
        return;
    if (!or_virtqueue_publish(&ring->vq) || ring->call_fd < 0) {
        ring->vu->calls_suppressed++;
        return;
    }
    or_doorbell_ring(ring->call_fd);
    ring->vu->calls++;
}

static void kick_ready(struct or_fd_source *source, uint32_t events)
{
    struct or_vring *ring = OR_CONTAINER(source, struct or_vring, kick);
    uint64_t count;
    struct iovec iov = {.iov_base = &count, .iov_len = sizeof(count)};
    (void)events;
    /* Not read(): QEMU holds the same open file and can make it blocking at any time. */
    if (preadv2(source->fd, &iov, 1, -1, RWF_NOWAIT) == (ssize_t)sizeof(count))
        ring->vu->kicks++;
}

bool or_vring_set_kick(struct or_vring *ring, int fd)
{
    int epoll_fd = ring->vu->epoll_fd;
    if (ring->kick.fd >= 0) {
        or_fd_source_remove(epoll_fd, &ring->kick);
        close(ring->kick.fd);
    }
    ring->kick = (struct or_fd_source){.ready = kick_ready, .fd = fd};
    if (fd < 0 || or_fd_source_add(epoll_fd, &ring->kick, EPOLLIN) == 0)
        return true;
    close(fd);
    ring->kick.fd = -1;
    return false;
}

static struct or_inflight_queue *inflight_of(const struct or_vring *ring)
{
    const struct or_vhost_user *vu = ring->vu;
    if (vu->inflight == NULL || ring->index >= vu->inflight_queues)
        return NULL;
    return or_inflight_queue(or_guest_mapping_data(vu->inflight), vu->inflight_size, (uint16_t)ring->index);
}

/* resumed: another process has worked on the ring, and left no base. What it had taken and not given back
 * is in the inflight record; the rest is told by the used index. */
static const char *start(struct or_vring *ring, bool resumed)
{
    struct or_vhost_user *vu = ring->vu;
    uint16_t heads[OR_VQ_SIZE_MAX], count;
    if (or_guest_mem_vanished(vu->mem))
        return SHRUNK;
    /* QEMU also passes descriptors of memory that it mapped privately. */
    if (or_guest_mem_blank(vu->mem))
        return OR_NOT_SHARED;
    const char *reason = or_virtqueue_map(&ring->vq, vu->mem, &ring->addr, ring->size);
    if (reason == NULL) {
        ring->vq.event_idx = vu->features & (1ull << VIRTIO_RING_F_EVENT_IDX);
        ring->vq.indirect = vu->features & (1ull << VIRTIO_RING_F_INDIRECT_DESC);
        uint16_t base = resumed ? or_virtqueue_used(&ring->vq) : ring->base;
        reason = or_virtqueue_start(&ring->vq, base, inflight_of(ring), vu->inflight_size, heads, &count);
    }
    ring->in_flight = 0;
    if (reason == NULL)
        reason = vu->ops->start(ring, heads, count);
    if (reason)
        or_virtqueue_stop(&ring->vq);
    return reason;
}

void or_vring_try_start(struct or_vring *ring)
{
    struct or_vhost_user *vu = ring->vu;
    if (ring->started || !ring->addressed || !ring->kick_set || vu->mem == NULL || vu->state == OR_VHOST_BROKEN)
        return;
    const char *reason = start(ring, false);
    if (reason)
        or_vhost_user_break(vu, ring, reason);
    else
        ring->started = true;
    vu->waited = false;
    or_vhost_user_update_state(vu);
}

bool or_vring_resume(struct or_vring *ring)
{
    bool known = ring->vu->ops->immediate || inflight_of(ring) != NULL;
    if (ring->vu->mem == NULL || !known || start(ring, true))
        return false;
    ring->started = true;
    /* The death may have come between showing the guest a result and interrupting it. */
    if (ring->call_fd >= 0)
        or_doorbell_ring(ring->call_fd);
    return true;
}

static void stop(struct or_vring *ring)
{
    if (ring->started) {
        or_vring_publish(ring);
        ring->base = ring->vq.last_avail;
        ring->vu->ops->stop(ring);
        or_virtqueue_stop(&ring->vq);
        ring->started = false;
        ring->in_flight = 0;
    }
    or_vring_set_kick(ring, -1);
    ring->kick_set = false;
}

/* One timer for two things: a ring that stops, and otherwise a listener that cannot accept. 0: off. */
static void set_timer(struct or_vhost_user *vu, long wait_ms)
{
    if (wait_ms == 0 && vu->deaf)
        wait_ms = ACCEPT_RETRY_MS;
    struct itimerspec when = {.it_value = {wait_ms / 1000, wait_ms % 1000 * 1000000}};
    int rc = timerfd_settime(vu->timer.fd, 0, &when, NULL);
    assert(rc == 0);
}

static void finish_stop(struct or_vring *ring)
{
    struct or_vhost_user *vu = ring->vu;
    bool all_stopped = true;
    stop(ring);
    struct or_vu_vring_state reply = {.index = ring->index, .num = ring->base};
    for (uint32_t i = 0; i < vu->queues; i++)
        all_stopped = all_stopped && !vu->rings[i].started;
    if (all_stopped && vu->state == OR_VHOST_BROKEN)
        or_vhost_user_set_state(vu, OR_VHOST_CONNECTED);
    or_vhost_user_update_state(vu);
    /* A peer that does not take its answer finds the connection closed when it sends more. */
    if (or_vhost_socket_reply(&vu->socket, OR_VU_GET_VRING_BASE, &reply, sizeof(reply), -1) < 0)
        shutdown(vu->socket.fd, SHUT_RDWR);
}

void or_vring_await_stop(struct or_vring *ring)
{
    struct or_vhost_user *vu = ring->vu;
    vu->stopping = ring;
    or_vhost_user_update_state(vu);
    if (ring->vq.inflight)
        set_timer(vu, vu->waited ? 1 : STOP_WAIT_MS);
    /* Only the end of the connection is watched for. */
    or_fd_source_change(vu->epoll_fd, &vu->connection, EPOLLRDHUP);
}

void or_vring_begin_stop(struct or_vring *ring)
{
    if (ring->started && ring->in_flight > 0)
        or_vring_await_stop(ring);
    else
        finish_stop(ring);
}

static void end_stop(struct or_vhost_user *vu)
{
    struct or_vring *ring = vu->stopping;
    or_vhost_user_touch(vu);
    vu->stopping = NULL;
    set_timer(vu, 0);
    finish_stop(ring);
    or_fd_source_change(vu->epoll_fd, &vu->connection, EPOLLIN | EPOLLRDHUP);
}

void or_vhost_user_drained(struct or_vhost_user *vu)
{
    if (vu->stopping && vu->stopping->in_flight == 0)
        end_stop(vu);
}

static void listen_again(struct or_vhost_user *vu)
{
    vu->deaf = false;
    or_fd_source_change(vu->epoll_fd, &vu->listener, EPOLLIN);
}

static void timer_ready(struct or_fd_source *source, uint32_t events)
{
    struct or_vhost_user *vu = OR_CONTAINER(source, struct or_vhost_user, timer);
    uint64_t count;
    (void)events;
    if (read(source->fd, &count, sizeof(count)) != (ssize_t)sizeof(count))
        return;
    if (vu->deaf)
        listen_again(vu);
    if (vu->stopping == NULL || vu->stopping->vq.inflight == NULL)
        return;
    if (vu->ops->overloaded(vu)) {
        set_timer(vu, STOP_WAIT_MS);
        return;
    }
    vu->waited = true;
    end_stop(vu);
}

void or_vhost_user_set_mem(struct or_vhost_user *vu, struct or_guest_mem *mem)
{
    or_guest_mem_unref(vu->mem);
    vu->mem = mem;
    for (uint32_t i = 0; i < vu->queues; i++) {
        struct or_vring *ring = &vu->rings[i];
        if (ring->started)
            or_virtqueue_map(&ring->vq, mem, &ring->addr, ring->size);
        else
            or_vring_try_start(ring);
    }
}

/* The connection. */

static void reset_ring(struct or_vhost_user *vu, uint32_t index)
{
    vu->rings[index] = (struct or_vring){.vu = vu, .index = index, .kick = {.fd = -1}, .call_fd = -1, .err_fd = -1};
}

static void close_fd(int fd)
{
    if (fd >= 0)
        close(fd);
}

/* Back to the state before a connection, but for vu->state and vu->reason. end_connection closes our
 * descriptor of it, and with it the connection or not. */
static void disconnect(struct or_vhost_user *vu, void (*end_connection)(struct or_vhost_socket *))
{
    if (!vu->connected)
        return;
    vu->connected = false;
    if (vu->stopping) {
        vu->stopping = NULL;
        set_timer(vu, 0);
    }
    for (uint32_t i = 0; i < vu->queues; i++) {
        stop(&vu->rings[i]);
        close_fd(vu->rings[i].call_fd);
        close_fd(vu->rings[i].err_fd);
        reset_ring(vu, i);
    }
    or_fd_source_remove(vu->epoll_fd, &vu->connection);
    end_connection(&vu->socket);
    vu->connection.fd = -1;
    or_guest_mem_unref(vu->mem);
    vu->mem = NULL;
    if (vu->inflight)
        or_guest_unmap(vu->inflight);
    vu->inflight = NULL;
    vu->features = vu->protocol_features = 0;
}

void or_vhost_user_hang_up(struct or_vhost_user *vu)
{
    or_vhost_user_touch(vu);
    disconnect(vu, or_vhost_socket_close);
    or_vhost_user_set_state(vu, OR_VHOST_LISTENING);
}

/* vu->reason says why. */
static void refuse(struct or_vhost_user *vu)
{
    or_vhost_user_touch(vu);
    disconnect(vu, or_vhost_socket_close);
    if (vu->state == OR_VHOST_BROKEN)
        vu->ops->state(vu, OR_VHOST_BROKEN, vu->reason);
    else
        or_vhost_user_set_state(vu, OR_VHOST_BROKEN);
}

static void connection_ready(struct or_fd_source *source, uint32_t events)
{
    struct or_vhost_user *vu = OR_CONTAINER(source, struct or_vhost_user, connection);
    if (vu->stopping) {
        if (events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR))
            or_vhost_user_hang_up(vu);
        return;
    }
    or_vhost_user_touch(vu);
    for (int i = 0; i < MESSAGES_PER_EVENT && vu->connected && !vu->stopping; i++) {
        int rc = or_vhost_socket_read(&vu->socket);
        if (rc == 0)
            return;
        if (rc == -EPROTO) {
            snprintf(vu->reason, sizeof(vu->reason), "the socket carries something that is not vhost-user");
            refuse(vu);
        } else if (rc < 0) {
            or_vhost_user_hang_up(vu);
        } else if (!or_vhost_message(vu)) {
            refuse(vu);
        } else if (vu->connected) {
            or_vhost_socket_next(&vu->socket);
        }
    }
}

static bool peer_gone(const struct or_vhost_user *vu)
{
    struct pollfd p = {.fd = vu->socket.fd, .events = POLLRDHUP};
    return poll(&p, 1, 0) == 1;
}

int or_vhost_user_connect(struct or_vhost_user *vu, int fd)
{
    vu->connection = (struct or_fd_source){.ready = connection_ready, .fd = fd};
    int err = or_fd_source_add(vu->epoll_fd, &vu->connection, EPOLLIN | EPOLLRDHUP);
    if (err) {
        vu->connection.fd = -1;
        return err;
    }
    or_vhost_socket_init(&vu->socket, fd);
    vu->connected = true;
    or_vhost_user_set_state(vu, OR_VHOST_CONNECTED);
    return 0;
}

/* Descriptors or memory are short. Whoever wants to connect waits, and the loop must not spin on it. */
static void turn_deaf(struct or_vhost_user *vu)
{
    vu->accept_failures++;
    vu->deaf = true;
    or_fd_source_change(vu->epoll_fd, &vu->listener, 0);
    if (vu->stopping == NULL)
        set_timer(vu, ACCEPT_RETRY_MS);
}

static void listener_ready(struct or_fd_source *source, uint32_t events)
{
    struct or_vhost_user *vu = OR_CONTAINER(source, struct or_vhost_user, listener);
    (void)events;
    int fd = accept4(source->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd < 0) {
        if (errno != EAGAIN)
            turn_deaf(vu);
        return;
    }
    if (vu->connected && peer_gone(vu))
        or_vhost_user_hang_up(vu);
    if (vu->connected || vu->ops->overloaded(vu)) {
        close(fd);
        return;
    }
    or_vhost_user_touch(vu);
    if (or_vhost_user_connect(vu, fd) < 0)
        close(fd);
}

static int open_sources(struct or_vhost_user *vu, int listen_fd)
{
    vu->listener = (struct or_fd_source){.ready = listener_ready, .fd = listen_fd};
    vu->timer =
        (struct or_fd_source){.ready = timer_ready, .fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC)};
    int err = vu->timer.fd < 0 ? -errno : 0;
    if (err == 0 && fcntl(listen_fd, F_SETFL, O_NONBLOCK) < 0)
        err = -errno;
    if (err == 0)
        err = or_fd_source_add(vu->epoll_fd, &vu->timer, EPOLLIN);
    if (err == 0) {
        err = or_fd_source_add(vu->epoll_fd, &vu->listener, EPOLLIN);
        if (err)
            or_fd_source_remove(vu->epoll_fd, &vu->timer);
    }
    if (err)
        close_fd(vu->timer.fd);
    return err;
}

int or_vhost_user_open(struct or_vhost_user *vu, int listen_fd)
{
    assert(vu->queues >= 1 && vu->queues <= OR_VHOST_QUEUES_MAX);
    vu->connection.fd = -1;
    vu->state = OR_VHOST_LISTENING;
    for (uint32_t i = 0; i < vu->queues; i++)
        reset_ring(vu, i);
    int err = or_vhost_page_create(vu);
    if (err)
        return err;
    err = open_sources(vu, listen_fd);
    if (err)
        or_vhost_page_close(vu);
    return err;
}

static void close_all(struct or_vhost_user *vu)
{
    or_fd_source_remove(vu->epoll_fd, &vu->timer);
    or_fd_source_remove(vu->epoll_fd, &vu->listener);
    close(vu->timer.fd);
    close(vu->listener.fd);
    or_vhost_page_close(vu);
}

void or_vhost_user_close(struct or_vhost_user *vu)
{
    or_vhost_page_retire(vu);
    disconnect(vu, or_vhost_socket_close);
    shutdown(vu->listener.fd, SHUT_RDWR);
    close_all(vu);
}

void or_vhost_user_leave(struct or_vhost_user *vu)
{
    disconnect(vu, or_vhost_socket_leave);
    close_all(vu);
}
