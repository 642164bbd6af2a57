/* The vhost-user messages: one function each, and the table that says how long each is and how many
 * descriptors may come with it. What does not fit is refused: the function writes the reason and returns
 * false, and the connection ends.
 *
 * Sizes of virtqueues and where they lie come from the guest through QEMU, so they are only noted here
 * and judged when the ring starts: an unreasonable one is then the guest's fault, not QEMU's. */
#include "vhost_user.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/vhost.h>
#include <linux/virtio_config.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* Features that would change what the rings look like or what is written: never accepted unoffered.
 * Others may be set without having been offered: QEMU acknowledges some on its own behalf. */
#define FEATURES_STRICT                                                                                                \
    ((1ull << VHOST_F_LOG_ALL) | (1ull << VIRTIO_F_ACCESS_PLATFORM) | (1ull << VIRTIO_F_RING_PACKED))

#define INFLIGHT_ALIGN 64u

__attribute__((format(printf, 2, 3))) static bool fail(struct or_vhost_user *vu, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(vu->reason, sizeof(vu->reason), format, args);
    va_end(args);
    return false;
}

static bool reply(struct or_vhost_user *vu, const void *payload, uint32_t size, int fd)
{
    if (or_vhost_socket_reply(&vu->socket, vu->socket.message.header.request, payload, size, fd) == 0)
        return true;
    return fail(vu, "QEMU does not read the replies to its messages");
}

static bool reply_u64(struct or_vhost_user *vu, uint64_t value)
{
    return reply(vu, &value, sizeof(value), -1);
}

static struct or_vring *ring_of(struct or_vhost_user *vu, uint64_t index)
{
    if (index < vu->queues)
        return &vu->rings[index];
    fail(vu, "QEMU names virtqueue %u of %u", (unsigned)index, vu->queues);
    return NULL;
}

static struct or_vring *stopped_ring_of(struct or_vhost_user *vu, uint64_t index)
{
    struct or_vring *ring = ring_of(vu, index);
    if (ring == NULL || !ring->started)
        return ring;
    fail(vu, "QEMU changes virtqueue %u while it runs", (unsigned)index);
    return NULL;
}

/* Features. */

static bool get_features(struct or_vhost_user *vu, const struct or_vu_message *m)
{
    (void)m;
    return reply_u64(vu, vu->features_offered | OR_VU_F_PROTOCOL_FEATURES);
}

static bool set_features(struct or_vhost_user *vu, const struct or_vu_message *m)
{
    uint64_t foreign = m->payload.u64 & ~vu->features_offered & FEATURES_STRICT;
    if (foreign)
        return fail(vu, "QEMU sets features that were not offered: %#llx", (unsigned long long)foreign);
    vu->features = m->payload.u64 & (vu->features_offered | OR_VU_F_PROTOCOL_FEATURES);
    or_vhost_user_update_state(vu);
    return true;
}

static bool get_protocol_features(struct or_vhost_user *vu, const struct or_vu_message *m)
{
    (void)m;
    return reply_u64(vu, vu->ops->protocol_features);
}

static bool set_protocol_features(struct or_vhost_user *vu, const struct or_vu_message *m)
{
    uint64_t foreign = m->payload.u64 & ~vu->ops->protocol_features;
    if (foreign)
        return fail(vu, "QEMU sets protocol features that were not offered: %#llx", (unsigned long long)foreign);
    vu->protocol_features = m->payload.u64;
    return true;
}

static bool get_queue_num(struct or_vhost_user *vu, const struct or_vu_message *m)
{
    (void)m;
    return reply_u64(vu, vu->queues_num);
}

static bool set_owner(struct or_vhost_user *vu, const struct or_vu_message *m)
{
    (void)vu, (void)m;
    return true;
}

static bool reset_owner(struct or_vhost_user *vu, const struct or_vu_message *m)
{
    (void)m;
    for (uint32_t i = 0; i < vu->queues; i++)
        vu->rings[i].enabled = false;
    or_vhost_user_update_state(vu);
    return true;
}

/* Memory. */

static bool add_region(struct or_vhost_user *vu, struct or_guest_mem *mem, const struct or_vu_region *r, int fd)
{
    int rc = fd < 0 ? -EBADF : or_guest_mem_add(mem, r->phys, r->user, r->size, fd, r->fd_offset);
    switch (rc) {
    case 0:
        return true;
    case -EBADF:
        return fail(vu, OR_NOT_SHARED);
    case -ERANGE:
        return fail(vu, "a memory region of QEMU reaches beyond the end of the file behind it");
    case -EEXIST:
        return fail(vu, "QEMU's memory regions overlap");
    case -E2BIG:
        return fail(vu, "QEMU has more than %u memory regions", OR_GUEST_REGIONS_MAX);
    default:
        return fail(vu, "cannot map QEMU's memory (%s). %s", strerror(-rc), OR_NOT_SHARED);
    }
}

/* Makes mem, whose reference passes, the map if it turned out well. */
static bool use_mem(struct or_vhost_user *vu, struct or_guest_mem *mem, bool ok)
{
    if (ok)
        or_vhost_user_set_mem(vu, mem);
    else
        or_guest_mem_unref(mem);
    return ok;
}

static bool set_mem_table(struct or_vhost_user *vu, const struct or_vu_message *m)
{
    const struct or_vu_memory *table = &m->payload.memory;
    if (table->count > OR_VU_FDS_MAX ||
        m->header.size < offsetof(struct or_vu_memory, regions) + table->count * sizeof(table->regions[0]))
        return fail(vu, "QEMU's memory table is malformed");
    if (vu->socket.fd_count == 0)
        return fail(vu, OR_NOT_SHARED);
    if (vu->socket.fd_count != table->count)
        return fail(vu, "QEMU's memory table has %u regions but %u descriptors", table->count, vu->socket.fd_count);
    struct or_guest_mem *mem = or_guest_mem_create(NULL);
    if (mem == NULL)
        return fail(vu, "out of memory");
    bool ok = true;
    for (uint32_t i = 0; ok && i < table->count; i++)
        ok = add_region(vu, mem, &table->regions[i], vu->socket.fds[i]);
    return use_mem(vu, mem, ok);
}

static bool get_max_mem_slots(struct or_vhost_user *vu, const struct or_vu_message *m)
{
    (void)m;
    return reply_u64(vu, OR_GUEST_REGIONS_MAX);
}

/* QEMU before 9.1 adds and removes each region once for each pair of a NIC's rings. */
static bool said_before(const struct or_vhost_user *vu, const struct or_vu_region *r, bool there)
{
    return vu->ops->repeated && vu->mem && or_guest_mem_has(vu->mem, r->phys, r->user, r->size) == there;
}

static bool add_mem_reg(struct or_vhost_user *vu, const struct or_vu_message *m)
{
    if (said_before(vu, &m->payload.region.region, true))
        return true;
    struct or_guest_mem *mem = or_guest_mem_create(vu->mem);
    if (mem == NULL)
        return fail(vu, "out of memory");
    int fd = vu->socket.fd_count > 0 ? vu->socket.fds[0] : -1;
    return use_mem(vu, mem, add_region(vu, mem, &m->payload.region.region, fd));
}

static bool rem_mem_reg(struct or_vhost_user *vu, const struct or_vu_message *m)
{
    const struct or_vu_region *r = &m->payload.region.region;
    if (said_before(vu, r, false))
        return true;
    struct or_guest_mem *mem = or_guest_mem_create(vu->mem);
    if (mem == NULL)
        return fail(vu, "out of memory");
    bool ok = or_guest_mem_remove(mem, r->phys, r->user, r->size) == 0 ||
              fail(vu, "QEMU removes a memory region that it never added");
    return use_mem(vu, mem, ok);
}

/* Rings. */

static bool set_vring_num(struct or_vhost_user *vu, const struct or_vu_message *m)
{
    struct or_vring *ring = stopped_ring_of(vu, m->payload.state.index);
    if (ring == NULL)
        return false;
    ring->size = m->payload.state.num <= OR_VQ_SIZE_MAX ? (uint16_t)m->payload.state.num : 0;
    return true;
}

static bool set_vring_addr(struct or_vhost_user *vu, const struct or_vu_message *m)
{
    const struct or_vu_vring_addr *a = &m->payload.addr;
    struct or_vring *ring = stopped_ring_of(vu, a->index);
    if (ring == NULL)
        return false;
    ring->addr = (struct or_virtqueue_addr){.desc = a->desc, .avail = a->avail, .used = a->used};
    ring->addressed = true;
    or_vring_try_start(ring);
    return true;
}

static bool set_vring_base(struct or_vhost_user *vu, const struct or_vu_message *m)
{
    struct or_vring *ring = stopped_ring_of(vu, m->payload.state.index);
    if (ring == NULL)
        return false;
    if (m->payload.state.num > UINT16_MAX)
        return fail(vu, "QEMU sets a virtqueue's base to %u", m->payload.state.num);
    ring->base = (uint16_t)m->payload.state.num;
    return true;
}

static bool get_vring_base(struct or_vhost_user *vu, const struct or_vu_message *m)
{
    struct or_vring *ring = ring_of(vu, m->payload.state.index);
    if (ring == NULL)
        return false;
    or_vring_begin_stop(ring);
    return true;
}

static bool set_vring_enable(struct or_vhost_user *vu, const struct or_vu_message *m)
{
    struct or_vring *ring = ring_of(vu, m->payload.state.index);
    if (ring == NULL)
        return false;
    if (m->payload.state.num > 1)
        return fail(vu, "QEMU enables a virtqueue with %u", m->payload.state.num);
    ring->enabled = m->payload.state.num;
    or_vhost_user_update_state(vu);
    return true;
}

/* Only an event descriptor will do: another file might block us, or have side effects. */
static bool is_eventfd(int fd)
{
    static const char eventfd_name[] = "anon_inode:[eventfd]";
    char path[32], target[sizeof(eventfd_name)];
    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    ssize_t length = readlink(path, target, sizeof(target));
    return length == (ssize_t)sizeof(eventfd_name) - 1 && memcmp(target, eventfd_name, (size_t)length) == 0;
}

/* The ring and the event descriptor of SET_VRING_KICK, CALL and ERR; the descriptor (-1: none is wanted)
 * passes to the caller. */
static struct or_vring *take_eventfd(struct or_vhost_user *vu, const struct or_vu_message *m, int *fd)
{
    struct or_vring *ring = ring_of(vu, m->payload.u64 & OR_VU_VRING_INDEX);
    *fd = -1;
    if (ring == NULL || (m->payload.u64 & OR_VU_VRING_NOFD))
        return ring;
    if (vu->socket.fd_count == 0 || !is_eventfd(vu->socket.fds[0]) ||
        fcntl(vu->socket.fds[0], F_SETFL, O_NONBLOCK) < 0) {
        fail(vu, "QEMU passes no event descriptor where one is needed");
        return NULL;
    }
    *fd = or_vhost_socket_take_fd(&vu->socket, 0);
    return ring;
}

static bool set_vring_kick(struct or_vhost_user *vu, const struct or_vu_message *m)
{
    int fd;
    struct or_vring *ring = take_eventfd(vu, m, &fd);
    if (ring == NULL)
        return false;
    if (!or_vring_set_kick(ring, fd))
        return fail(vu, "a kick descriptor cannot be watched");
    ring->kick_set = true;
    or_vring_try_start(ring);
    return true;
}

static bool replace_eventfd(struct or_vhost_user *vu, const struct or_vu_message *m, size_t member)
{
    int fd;
    struct or_vring *ring = take_eventfd(vu, m, &fd);
    if (ring == NULL)
        return false;
    int *slot = (int *)(void *)((char *)ring + member);
    if (*slot >= 0)
        close(*slot);
    *slot = fd;
    return true;
}

static bool set_vring_call(struct or_vhost_user *vu, const struct or_vu_message *m)
{
    return replace_eventfd(vu, m, offsetof(struct or_vring, call_fd));
}

static bool set_vring_err(struct or_vhost_user *vu, const struct or_vu_message *m)
{
    return replace_eventfd(vu, m, offsetof(struct or_vring, err_fd));
}

/* Configuration space. */

static bool config_valid(const struct or_vu_message *m)
{
    const struct or_vu_config *c = &m->payload.config;
    return c->size >= 1 && c->size <= OR_VU_CONFIG_MAX && c->offset <= OR_VU_CONFIG_MAX - c->size &&
           m->header.size == offsetof(struct or_vu_config, data) + c->size;
}

static bool get_config(struct or_vhost_user *vu, const struct or_vu_message *m)
{
    struct or_vu_config answer = m->payload.config;
    uint8_t config[OR_VU_CONFIG_MAX];
    if (!config_valid(m))
        return fail(vu, "QEMU reads outside the configuration space");
    vu->ops->get_config(vu, config);
    memcpy(answer.data, config + answer.offset, answer.size);
    return reply(vu, &answer, m->header.size, -1);
}

static bool set_config(struct or_vhost_user *vu, const struct or_vu_message *m)
{
    const struct or_vu_config *c = &m->payload.config;
    if (!config_valid(m) || !vu->ops->set_config(vu, c->offset, c->data, c->size))
        return fail(vu, "QEMU writes to a configuration field that is read-only");
    return true;
}

static bool net_set_mtu(struct or_vhost_user *vu, const struct or_vu_message *m)
{
    return vu->ops->set_mtu(vu, m->payload.u64);
}

/* Inflight region. */

static bool inflight_valid(const struct or_vhost_user *vu, const struct or_vu_inflight *i)
{
    return i->queues >= 1 && i->queues <= vu->queues && i->queue_size >= 1 && i->queue_size <= OR_VQ_SIZE_MAX;
}

static bool get_inflight_fd(struct or_vhost_user *vu, const struct or_vu_message *m)
{
    struct or_vu_inflight answer = {0};
    memcpy(&answer, &m->payload.inflight, OR_VU_INFLIGHT_BYTES);
    if (!inflight_valid(vu, &answer))
        return fail(vu, "QEMU wants an inflight region for %u virtqueues of %u", answer.queues, answer.queue_size);
    int fd = or_inflight_create(answer.queues, answer.queue_size, vu->word);
    if (fd < 0)
        return fail(vu, "no memory for an inflight region: %s", strerror(-fd));
    answer.bytes = or_inflight_bytes(answer.queues, answer.queue_size);
    answer.fd_offset = 0;
    bool ok = reply(vu, &answer, m->header.size, fd);
    close(fd);
    return ok;
}

static bool set_inflight_fd(struct or_vhost_user *vu, const struct or_vu_message *m)
{
    const struct or_vu_inflight *i = &m->payload.inflight;
    for (uint32_t r = 0; r < vu->queues; r++)
        if (stopped_ring_of(vu, r) == NULL)
            return false;
    int err = -EINVAL;
    struct or_guest_mapping *mapping = NULL;
    if (vu->socket.fd_count > 0 && inflight_valid(vu, i) && i->fd_offset % INFLIGHT_ALIGN == 0 &&
        i->bytes >= or_inflight_bytes(i->queues, i->queue_size))
        mapping = or_guest_map(vu->socket.fds[0], i->fd_offset, i->bytes, &err);
    if (mapping == NULL)
        return fail(vu, "QEMU's inflight region is not one of ours: %s", strerror(-err));
    if (vu->inflight)
        or_guest_unmap(vu->inflight);
    vu->inflight = mapping;
    vu->inflight_queues = i->queues;
    vu->inflight_size = i->queue_size;
    uint32_t word;
    if (or_inflight_word(or_guest_mapping_data(mapping), i->queues, i->queue_size, &word))
        vu->word = word;
    return true;
}

/* size_min, size_max: of the payload, bytes. replies: the message has an answer of its own. */
#define CONFIG_SIZE_MIN offsetof(struct or_vu_config, data)
#define CONFIG_SIZE_MAX sizeof(struct or_vu_config)

static const struct {
    bool (*execute)(struct or_vhost_user *vu, const struct or_vu_message *m);
    const char *name;
    uint16_t size_min, size_max;
    uint8_t fds_max;
    bool replies;
} messages[OR_VU_REQUEST_MAX] = {
    [OR_VU_GET_FEATURES] = {get_features, "GET_FEATURES", 0, 0, 0, true},
    [OR_VU_SET_FEATURES] = {set_features, "SET_FEATURES", 8, 8, 0, false},
    [OR_VU_SET_OWNER] = {set_owner, "SET_OWNER", 0, 0, 0, false},
    [OR_VU_RESET_OWNER] = {reset_owner, "RESET_OWNER", 0, 0, 0, false},
    [OR_VU_SET_MEM_TABLE] = {set_mem_table, "SET_MEM_TABLE", 8, sizeof(struct or_vu_memory), OR_VU_FDS_MAX, false},
    [OR_VU_SET_VRING_NUM] = {set_vring_num, "SET_VRING_NUM", 8, 8, 0, false},
    [OR_VU_SET_VRING_ADDR] = {set_vring_addr, "SET_VRING_ADDR", 40, 40, 0, false},
    [OR_VU_SET_VRING_BASE] = {set_vring_base, "SET_VRING_BASE", 8, 8, 0, false},
    [OR_VU_GET_VRING_BASE] = {get_vring_base, "GET_VRING_BASE", 8, 8, 0, true},
    [OR_VU_SET_VRING_KICK] = {set_vring_kick, "SET_VRING_KICK", 8, 8, 1, false},
    [OR_VU_SET_VRING_CALL] = {set_vring_call, "SET_VRING_CALL", 8, 8, 1, false},
    [OR_VU_SET_VRING_ERR] = {set_vring_err, "SET_VRING_ERR", 8, 8, 1, false},
    [OR_VU_GET_PROTOCOL_FEATURES] = {get_protocol_features, "GET_PROTOCOL_FEATURES", 0, 0, 0, true},
    [OR_VU_SET_PROTOCOL_FEATURES] = {set_protocol_features, "SET_PROTOCOL_FEATURES", 8, 8, 0, false},
    [OR_VU_GET_QUEUE_NUM] = {get_queue_num, "GET_QUEUE_NUM", 0, 0, 0, true},
    [OR_VU_SET_VRING_ENABLE] = {set_vring_enable, "SET_VRING_ENABLE", 8, 8, 0, false},
    [OR_VU_NET_SET_MTU] = {net_set_mtu, "NET_SET_MTU", 8, 8, 0, false},
    [OR_VU_GET_CONFIG] = {get_config, "GET_CONFIG", CONFIG_SIZE_MIN, CONFIG_SIZE_MAX, 0, true},
    [OR_VU_SET_CONFIG] = {set_config, "SET_CONFIG", CONFIG_SIZE_MIN, CONFIG_SIZE_MAX, 0, false},
    [OR_VU_GET_INFLIGHT_FD] = {get_inflight_fd, "GET_INFLIGHT_FD", OR_VU_INFLIGHT_BYTES, sizeof(struct or_vu_inflight),
                               0, true},
    [OR_VU_SET_INFLIGHT_FD] = {set_inflight_fd, "SET_INFLIGHT_FD", OR_VU_INFLIGHT_BYTES, sizeof(struct or_vu_inflight),
                               1, false},
    [OR_VU_GET_MAX_MEM_SLOTS] = {get_max_mem_slots, "GET_MAX_MEM_SLOTS", 0, 0, 0, true},
    [OR_VU_ADD_MEM_REG] = {add_mem_reg, "ADD_MEM_REG", 40, 40, 1, false},
    [OR_VU_REM_MEM_REG] = {rem_mem_reg, "REM_MEM_REG", 40, 40, 1, false},
};

/* The protocol feature that a device must have offered for this message; 0: none. */
static uint64_t feature_of(uint32_t request)
{
    switch (request) {
    case OR_VU_NET_SET_MTU:
        return OR_VU_PROTOCOL_NET_MTU;
    case OR_VU_GET_CONFIG:
    case OR_VU_SET_CONFIG:
        return OR_VU_PROTOCOL_CONFIG;
    case OR_VU_GET_INFLIGHT_FD:
    case OR_VU_SET_INFLIGHT_FD:
        return OR_VU_PROTOCOL_INFLIGHT_SHMFD;
    default:
        return 0;
    }
}

static bool execute(struct or_vhost_user *vu, const struct or_vu_message *m)
{
    uint32_t request = m->header.request, size = m->header.size;
    if (request >= OR_VU_REQUEST_MAX || messages[request].execute == NULL)
        return fail(vu, "QEMU sends message %u, which is unknown here", request);
    if (feature_of(request) & ~vu->ops->protocol_features)
        return fail(vu, "QEMU sends %s, which this device did not offer", messages[request].name);
    if (size < messages[request].size_min || size > messages[request].size_max)
        return fail(vu, "QEMU's %s has a payload of %u bytes", messages[request].name, size);
    if (vu->socket.fd_count > messages[request].fds_max)
        return fail(vu, "QEMU's %s carries %u descriptors", messages[request].name, vu->socket.fd_count);
    return messages[request].execute(vu, m);
}

bool or_vhost_message(struct or_vhost_user *vu)
{
    const struct or_vu_message *m = &vu->socket.message;
    uint32_t request = m->header.request;
    bool replies = request < OR_VU_REQUEST_MAX && messages[request].replies;
    bool wants_ack =
        !replies && (vu->protocol_features & OR_VU_PROTOCOL_REPLY_ACK) && (m->header.flags & OR_VU_NEED_REPLY);
    bool ok = execute(vu, m);
    if (!wants_ack)
        return ok;
    uint64_t refused = !ok;
    /* A refusal that cannot be delivered is one all the same. */
    return reply_u64(vu, refused) && ok;
}
