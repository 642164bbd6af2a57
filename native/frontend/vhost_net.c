/* vhost-user-net: the NIC.
 *
 *   QEMU ── socket ──> vhost_socket ── messages ──> vhost_message ──> vhost_user   (features, memory, rings)
 *   guest ── virtqueue ──> virtqueue ── chains ──> net_ring ── packets ──> session
 *
 * This file ties them together: what the NIC offers, its rings in turn, and its link. */
#include "vhost_net.h"

#include <assert.h>
#include <errno.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ring.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "mem/list.h"
#include "net_header.h"
#include "net_ring.h"
#include "vhost_handover.h"

#define BIT(n) (1ull << (n))

/* Of one NIC in one step: about what a batch of frames carries, so that NICs and disks take turns. */
#define STEP_PACKETS 64
#define STEP_BYTES (256 << 10)
#define STEP_DESCRIPTORS 2048

static_assert(2 * OR_VHOST_NET_PAIRS_MAX <= OR_VHOST_QUEUES_MAX, "two rings for each pair");

struct or_vhost_net {
    struct or_vhost_user vu;
    struct or_net_nic nic;
    bool up;       /* the link: vu is open */
    uint32_t turn; /* the pair whose packets are looked at first */
};

static struct or_vhost_net *net_of(struct or_vhost_user *vu)
{
    return OR_CONTAINER(vu, struct or_vhost_net, vu);
}

/* QEMU itself adds the control queue and the link state. */
static uint64_t features_of(const struct or_vhost_net_config *c)
{
    uint64_t features = BIT(VIRTIO_F_VERSION_1) | BIT(VIRTIO_RING_F_INDIRECT_DESC) | BIT(VIRTIO_RING_F_EVENT_IDX) |
                        BIT(VIRTIO_NET_F_MRG_RXBUF) | BIT(VIRTIO_NET_F_MTU) | BIT(VIRTIO_NET_F_GUEST_ANNOUNCE) |
                        BIT(VIRTIO_NET_F_CSUM) | BIT(VIRTIO_NET_F_HOST_TSO4) | BIT(VIRTIO_NET_F_HOST_TSO6) |
                        BIT(VIRTIO_NET_F_HOST_ECN) | OR_NET_F_HOST_USO | OR_NET_F_OFFLOADS;
    return c->pairs > 1 ? features | BIT(VIRTIO_NET_F_MQ) : features;
}

struct identity {
    uint64_t features;
    uint32_t kind, device, generation, pairs, mtu, padding;
};
static_assert(sizeof(struct identity) <= OR_VHOST_IDENTITY_BYTES, "room for all that QEMU may have been told");
#define IDENTITY_NET 0x54454eu /* "NET": a disk has other bytes here */

static void identify(uint8_t to[OR_VHOST_IDENTITY_BYTES], const struct or_vhost_net_config *c)
{
    struct identity identity = {.features = features_of(c),
                                .kind = IDENTITY_NET,
                                .device = c->device,
                                .generation = c->generation,
                                .pairs = c->pairs,
                                .mtu = c->mtu};
    memset(to, 0, OR_VHOST_IDENTITY_BYTES);
    memcpy(to, &identity, sizeof(identity));
}

static const char *ring_start(struct or_vring *ring, const uint16_t *heads, uint16_t count)
{
    (void)heads;
    assert(count == 0);
    /* Nobody waits for receive buffers, so a guest that can be told so without the event index is. */
    or_virtqueue_want_kicks(&ring->vq, true);
    or_virtqueue_want_kicks(&ring->vq, false);
    return NULL;
}

static void ring_stop(struct or_vring *ring)
{
    (void)ring;
}

static bool overloaded(struct or_vhost_user *vu)
{
    (void)vu;
    return false;
}

static bool set_mtu(struct or_vhost_user *vu, uint64_t mtu)
{
    uint32_t most = net_of(vu)->nic.config.mtu;
    if (mtu <= most)
        return true;
    snprintf(vu->reason, sizeof(vu->reason), "QEMU's host_mtu of %llu is more than the NIC's MTU of %u",
             (unsigned long long)mtu, most);
    return false;
}

static void report_state(struct or_vhost_user *vu, enum or_vhost_state state, const char *reason)
{
    const struct or_vhost_net_config *c = &net_of(vu)->nic.config;
    if (c->state)
        c->state(c->arg, state, reason, or_vhost_net_features(net_of(vu)));
}

static const struct or_vhost_user_ops net_ops = {
    .protocol_features =
        OR_VU_PROTOCOL_MQ | OR_VU_PROTOCOL_REPLY_ACK | OR_VU_PROTOCOL_NET_MTU | OR_VU_PROTOCOL_CONFIGURE_MEM_SLOTS,
    .immediate = true,
    .repeated = true,
    .start = ring_start,
    .stop = ring_stop,
    .overloaded = overloaded,
    .set_mtu = set_mtu,
    .state = report_state,
};

static int open_link(struct or_vhost_net *dev, int listen_fd)
{
    const struct or_vhost_net_config *c = &dev->nic.config;
    memset(&dev->vu, 0, sizeof(dev->vu));
    dev->vu.ops = &net_ops;
    dev->vu.epoll_fd = c->epoll_fd;
    dev->vu.features_offered = features_of(c);
    dev->vu.queues = 2 * c->pairs;
    dev->vu.queues_num = c->pairs;
    identify(dev->vu.identity, c);
    int err = or_vhost_user_open(&dev->vu, listen_fd);
    dev->up = err == 0;
    return err;
}

struct or_vhost_net *or_vhost_net_create(const struct or_vhost_net_config *config, int *err)
{
    bool valid = config->pairs >= 1 && config->pairs <= OR_VHOST_NET_PAIRS_MAX && config->packet != NULL;
    struct or_vhost_net *dev = valid ? calloc(1, sizeof(*dev)) : NULL;
    *err = valid ? -ENOMEM : -EINVAL;
    if (dev == NULL)
        return NULL;
    dev->nic.config = *config;
    or_bucket_set(&dev->nic.bucket, &config->limit);
    *err = config->listen_fd >= 0 ? open_link(dev, config->listen_fd) : 0;
    if (*err == 0)
        return dev;
    free(dev);
    return NULL;
}

void or_vhost_net_destroy(struct or_vhost_net *dev)
{
    dev->nic.config.state = NULL;
    if (dev->up)
        or_vhost_user_close(&dev->vu);
    free(dev);
}

void or_vhost_net_leave(struct or_vhost_net *dev)
{
    dev->nic.config.state = NULL;
    if (dev->up)
        or_vhost_user_leave(&dev->vu);
    free(dev);
}

void or_vhost_net_set_limit(struct or_vhost_net *dev, const struct or_limit *limit)
{
    or_bucket_set(&dev->nic.bucket, limit);
    dev->nic.not_before = 0;
}

static void link_down(struct or_vhost_net *dev)
{
    struct or_vhost_net_stats *s = &dev->nic.stats;
    enum or_vhost_state before = dev->vu.state;
    or_vhost_user_close(&dev->vu);
    dev->up = false;
    dev->nic.not_before = 0;
    s->kicks += dev->vu.kicks;
    s->calls += dev->vu.calls;
    s->calls_suppressed += dev->vu.calls_suppressed;
    s->accept_failures += dev->vu.accept_failures;
    dev->vu.state = OR_VHOST_LISTENING;
    if (before != OR_VHOST_LISTENING)
        report_state(&dev->vu, OR_VHOST_LISTENING, "");
}

int or_vhost_net_set_link(struct or_vhost_net *dev, bool up)
{
    if (up == dev->up)
        return 0;
    if (!up) {
        link_down(dev);
        return 0;
    }
    bool draining = dev->vu.draining;
    int fd = or_vhost_listen(dev->nic.config.path, dev->nic.config.mode);
    int err = fd < 0 ? fd : open_link(dev, fd);
    if (err && fd >= 0)
        close(fd);
    dev->vu.draining = draining;
    return err;
}

bool or_vhost_net_link(const struct or_vhost_net *dev)
{
    return dev->up;
}

bool or_vhost_net_changed(const struct or_vhost_net *dev)
{
    return dev->up && dev->vu.changed;
}

bool or_vhost_net_save(struct or_vhost_net *dev, struct or_keep_snapshot *snapshot)
{
    snapshot->id = dev->nic.config.device;
    return dev->up && or_vhost_user_save(&dev->vu, snapshot);
}

void or_vhost_net_saved(struct or_vhost_net *dev)
{
    or_vhost_user_saved(&dev->vu);
}

const char *or_vhost_net_resume(struct or_vhost_net *dev, struct or_keep_snapshot *snapshot)
{
    if (dev->up)
        return or_vhost_user_resume(&dev->vu, snapshot);
    or_vhost_snapshot_end(snapshot);
    return "the link is down";
}

void or_vhost_net_drain(struct or_vhost_net *dev)
{
    dev->vu.draining = true;
}

/* The ring of a flow's pair, or the next one that runs. NULL: none does. */
static struct or_vring *receive_ring(struct or_vhost_net *dev, const uint8_t *packet, uint32_t length)
{
    uint32_t pairs = dev->nic.config.pairs, pair = 0;
    uint32_t frame = length - OR_VNET_HEADER;
    if (pairs > 1) {
        uint32_t looked_at = frame < OR_NET_FLOW_BYTES ? frame : OR_NET_FLOW_BYTES;
        pair = dev->nic.steer.pair[or_net_flow(packet + OR_VNET_HEADER, looked_at)];
    }
    for (uint32_t i = 0; i < pairs; i++) {
        struct or_vring *ring = &dev->vu.rings[2 * ((pair + i) % pairs)];
        if (or_vring_runs(ring))
            return ring;
    }
    return NULL;
}

void or_vhost_net_receive(struct or_vhost_net *dev, const uint8_t *packet, uint32_t length)
{
    assert(length >= OR_PACKET_MIN && length <= OR_PACKET_MAX);
    struct or_vring *ring = dev->up ? receive_ring(dev, packet, length) : NULL;
    if (ring)
        or_net_ring_receive(&dev->nic, ring, packet, length);
    else
        dev->nic.stats.rx_not_running++;
}

uint32_t or_vhost_net_poll(struct or_vhost_net *dev, uint64_t now)
{
    struct or_net_nic *nic = &dev->nic;
    bool waited = nic->not_before != 0;
    if (!dev->up)
        return 0;
    or_vhost_user_check(&dev->vu);
    if (waited && nic->throttled && now < nic->not_before)
        return 0;
    nic->not_before = 0;
    uint32_t taken = 0, pairs = nic->config.pairs;
    struct or_net_budget budget = {STEP_PACKETS, STEP_BYTES, STEP_DESCRIPTORS};
    dev->turn = (dev->turn + 1) % pairs;
    for (uint32_t i = 0; i < pairs && nic->not_before == 0; i++)
        taken += or_net_ring_send(nic, &dev->vu.rings[2 * ((dev->turn + i) % pairs) + 1], &budget, now);
    if (nic->not_before && !waited) {
        nic->stats.tx_throttled += nic->throttled;
        nic->stats.tx_waits += !nic->throttled;
    }
    return taken;
}

void or_vhost_net_flush(struct or_vhost_net *dev)
{
    for (uint32_t i = 0; dev->up && i < dev->vu.queues; i++)
        if (dev->vu.rings[i].started)
            or_vring_publish(&dev->vu.rings[i]);
}

void or_vhost_net_disarm(struct or_vhost_net *dev)
{
    for (uint32_t i = 1; dev->up && i < dev->vu.queues; i += 2)
        if (or_vring_runs(&dev->vu.rings[i]))
            or_virtqueue_want_kicks(&dev->vu.rings[i].vq, false);
}

/* What waits for the limit, or for room in the session, does so without kicks: there is a deadline. */
bool or_vhost_net_arm(struct or_vhost_net *dev)
{
    bool pending = false;
    const char *reason;
    for (uint32_t i = 1; dev->up && dev->nic.not_before == 0 && i < dev->vu.queues; i += 2) {
        struct or_vring *ring = &dev->vu.rings[i];
        if (!or_vring_runs(ring))
            continue;
        or_virtqueue_want_kicks(&ring->vq, true);
        /* A ring without a kick descriptor has to be polled. */
        if (or_virtqueue_waiting(&ring->vq, &reason) != 0 || ring->kick.fd < 0)
            pending = true;
    }
    if (pending)
        or_vhost_net_disarm(dev);
    return pending;
}

uint64_t or_vhost_net_deadline(const struct or_vhost_net *dev)
{
    return dev->nic.not_before ? dev->nic.not_before : UINT64_MAX;
}

enum or_vhost_state or_vhost_net_state(const struct or_vhost_net *dev)
{
    return dev->vu.state;
}

uint64_t or_vhost_net_features(const struct or_vhost_net *dev)
{
    const struct or_vhost_user *vu = &dev->vu;
    return vu->state == OR_VHOST_RUNNING ? vu->features & vu->features_offered : 0;
}

void or_vhost_net_stats(const struct or_vhost_net *dev, struct or_vhost_net_stats *out)
{
    *out = dev->nic.stats;
    if (!dev->up)
        return;
    out->kicks += dev->vu.kicks;
    out->calls += dev->vu.calls;
    out->calls_suppressed += dev->vu.calls_suppressed;
    out->accept_failures += dev->vu.accept_failures;
}
