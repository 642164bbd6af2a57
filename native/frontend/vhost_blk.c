/* vhost-user-blk: the disk.
 *
 *   QEMU ── socket ──> vhost_socket ── messages ──> vhost_message ──> vhost_user   (features, memory, rings)
 *   guest ── virtqueue ──> virtqueue ── chains ──> blk_ring ── requests ──> session
 *
 * This file ties the two together: what the disk offers, its configuration space, and the calls of the
 * worker's loop. The writeable field of the configuration space, the write cache mode, is kept in the
 * word that vhost_user stores in the inflight region, because QEMU tells it only when it changes, and a
 * guest that was promised write-through must keep it when this process is replaced. */
#include "vhost_blk.h"

#include <assert.h>
#include <errno.h>
#include <linux/virtio_blk.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ring.h>
#include <stdlib.h>
#include <string.h>

#include "blk_ring.h"
#include "mem/list.h"

#define SECTOR 512u
#define BIT(n) (1ull << (n))
/* Abandoned rings, per virtqueue, before no more may be: each holds a few hundred bytes to 3 KiB for
 * every descriptor of its queue. */
#define ABANDONED_PER_QUEUE_MAX 4u

struct or_vhost_blk {
    struct or_vhost_user vu;
    struct or_blk_disk disk;
    uint32_t turn;           /* the ring that is polled first */
    void (*gone)(void *arg); /* set: destroyed, waiting for the last request */
    void *gone_arg;
};

static struct or_vhost_blk *blk_of(struct or_vhost_user *vu)
{
    return OR_CONTAINER(vu, struct or_vhost_blk, vu);
}

static uint64_t features_of(const struct or_vhost_blk_config *c)
{
    uint64_t features = BIT(VIRTIO_F_VERSION_1) | BIT(VIRTIO_RING_F_INDIRECT_DESC) | BIT(VIRTIO_RING_F_EVENT_IDX) |
                        BIT(VIRTIO_BLK_F_SEG_MAX) | BIT(VIRTIO_BLK_F_BLK_SIZE) | BIT(VIRTIO_BLK_F_TOPOLOGY) |
                        BIT(VIRTIO_BLK_F_FLUSH) | BIT(VIRTIO_BLK_F_CONFIG_WCE);
    if (c->queues_max > 1)
        features |= BIT(VIRTIO_BLK_F_MQ);
    if (c->read_only)
        return features | BIT(VIRTIO_BLK_F_RO);
    if (c->discard)
        features |= BIT(VIRTIO_BLK_F_DISCARD);
    if (c->write_zeroes)
        features |= BIT(VIRTIO_BLK_F_WRITE_ZEROES);
    return features;
}

struct identity {
    uint64_t size;
    uint32_t device, generation, block_size, physical_block_size, queues;
    uint8_t read_only, discard, write_zeroes;
    char serial[21];
};
static_assert(sizeof(struct identity) <= OR_VHOST_IDENTITY_BYTES, "room for all that QEMU may have been told");

static void identify(uint8_t to[OR_VHOST_IDENTITY_BYTES], const struct or_vhost_blk_config *c)
{
    struct identity identity;
    memset(&identity, 0, sizeof(identity)); /* padding too: it is compared as bytes */
    identity.size = c->size;
    identity.device = c->device;
    identity.generation = c->generation;
    identity.block_size = c->block_size;
    identity.physical_block_size = c->physical_block_size;
    identity.queues = c->queues_max;
    identity.read_only = c->read_only;
    identity.discard = c->discard;
    identity.write_zeroes = c->write_zeroes;
    memcpy(identity.serial, c->serial, strnlen(c->serial, sizeof(identity.serial)));
    memset(to, 0, OR_VHOST_IDENTITY_BYTES);
    memcpy(to, &identity, sizeof(identity));
}

static const char *ring_start(struct or_vring *ring, const uint16_t *heads, uint16_t count)
{
    ring->device = or_blk_ring_create(&blk_of(ring->vu)->disk, ring, heads, count);
    return ring->device ? NULL : "out of memory";
}

static void ring_stop(struct or_vring *ring)
{
    or_blk_ring_abandon(ring->device);
    ring->device = NULL;
}

static void get_config(struct or_vhost_user *vu, uint8_t config[OR_VU_CONFIG_MAX])
{
    const struct or_vhost_blk_config *c = &blk_of(vu)->disk.config;
    uint32_t blocks_per_physical = c->physical_block_size / c->block_size;
    uint32_t alignment = c->block_size / SECTOR;
    struct virtio_blk_config layout = {
        .capacity = c->size / SECTOR,
        .seg_max = OR_BLK_SEG_MAX,
        .blk_size = c->block_size,
        .physical_block_exp = (uint8_t)__builtin_ctz(blocks_per_physical),
        .min_io_size = (uint16_t)blocks_per_physical,
        .wce = (uint8_t)vu->word,
        .num_queues = (uint16_t)c->queues_max,
        .max_discard_sectors = OR_BLK_DISCARD_MAX / SECTOR,
        .max_discard_seg = OR_BLK_RANGES_MAX,
        .discard_sector_alignment = alignment,
        .max_write_zeroes_sectors = OR_BLK_WRITE_ZEROES_MAX / SECTOR,
        .max_write_zeroes_seg = OR_BLK_RANGES_MAX,
        .write_zeroes_may_unmap = 1,
    };
    memset(config, 0, OR_VU_CONFIG_MAX);
    memcpy(config, &layout, sizeof(layout));
}

static bool set_config(struct or_vhost_user *vu, uint32_t offset, const uint8_t *data, uint32_t size)
{
    if (offset != offsetof(struct virtio_blk_config, wce) || size != 1)
        return false;
    or_vhost_user_set_word(vu, data[0] != 0);
    return true;
}

static bool overloaded(struct or_vhost_user *vu)
{
    return blk_of(vu)->disk.abandoned >= ABANDONED_PER_QUEUE_MAX * vu->queues;
}

static void report_state(struct or_vhost_user *vu, enum or_vhost_state state, const char *reason)
{
    const struct or_vhost_blk_config *c = &blk_of(vu)->disk.config;
    if (c->state)
        c->state(c->arg, state, reason);
}

static const struct or_vhost_user_ops blk_ops = {
    .protocol_features = OR_VU_PROTOCOL_MQ | OR_VU_PROTOCOL_REPLY_ACK | OR_VU_PROTOCOL_CONFIG |
                         OR_VU_PROTOCOL_INFLIGHT_SHMFD | OR_VU_PROTOCOL_CONFIGURE_MEM_SLOTS,
    .start = ring_start,
    .stop = ring_stop,
    .get_config = get_config,
    .set_config = set_config,
    .overloaded = overloaded,
    .state = report_state,
};

static void free_if_gone(struct or_vhost_blk *dev)
{
    if (dev->gone == NULL || dev->disk.abandoned > 0)
        return;
    void (*gone)(void *arg) = dev->gone;
    void *arg = dev->gone_arg;
    free(dev);
    gone(arg);
}

static void quiet(struct or_blk_disk *disk)
{
    free_if_gone(OR_CONTAINER(disk, struct or_vhost_blk, disk));
}

static bool config_valid(const struct or_vhost_blk_config *c)
{
    uint32_t physical = c->physical_block_size;
    return (c->block_size == 512 || c->block_size == 4096) && physical >= c->block_size &&
           (physical & (physical - 1)) == 0 && physical / c->block_size <= UINT16_MAX && c->queues_max >= 1 &&
           c->queues_max <= OR_VHOST_QUEUES_MAX && c->submit != NULL;
}

struct or_vhost_blk *or_vhost_blk_create(const struct or_vhost_blk_config *config, int *err)
{
    struct or_vhost_blk *dev = config_valid(config) ? calloc(1, sizeof(*dev)) : NULL;
    if (dev == NULL) {
        *err = config_valid(config) ? -ENOMEM : -EINVAL;
        return NULL;
    }
    dev->disk.config = *config;
    dev->disk.quiet = quiet;
    or_bucket_set(&dev->disk.bucket, &config->limit);
    dev->vu.ops = &blk_ops;
    dev->vu.epoll_fd = config->epoll_fd;
    dev->vu.features_offered = features_of(config);
    dev->vu.queues = dev->vu.queues_num = config->queues_max;
    identify(dev->vu.identity, config);
    dev->vu.word = 1;
    *err = or_vhost_user_open(&dev->vu, config->listen_fd);
    if (*err) {
        free(dev);
        return NULL;
    }
    return dev;
}

static void end(struct or_vhost_blk *dev, void (*close)(struct or_vhost_user *), void (*gone)(void *arg), void *arg)
{
    assert(gone && !dev->gone);
    dev->disk.config.state = NULL;
    close(&dev->vu);
    dev->gone = gone;
    dev->gone_arg = arg;
    free_if_gone(dev);
}

void or_vhost_blk_destroy(struct or_vhost_blk *dev, void (*gone)(void *arg), void *arg)
{
    end(dev, or_vhost_user_close, gone, arg);
}

void or_vhost_blk_leave(struct or_vhost_blk *dev, void (*gone)(void *arg), void *arg)
{
    end(dev, or_vhost_user_leave, gone, arg);
}

bool or_vhost_blk_changed(const struct or_vhost_blk *dev)
{
    return dev->vu.changed;
}

bool or_vhost_blk_save(struct or_vhost_blk *dev, struct or_keep_snapshot *snapshot)
{
    snapshot->id = dev->disk.config.device;
    return or_vhost_user_save(&dev->vu, snapshot);
}

void or_vhost_blk_saved(struct or_vhost_blk *dev)
{
    or_vhost_user_saved(&dev->vu);
}

const char *or_vhost_blk_resume(struct or_vhost_blk *dev, struct or_keep_snapshot *snapshot)
{
    return or_vhost_user_resume(&dev->vu, snapshot);
}

void or_vhost_blk_drain(struct or_vhost_blk *dev)
{
    dev->vu.draining = true;
}

uint32_t or_vhost_blk_in_flight(const struct or_vhost_blk *dev)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < dev->vu.queues; i++)
        n += dev->vu.rings[i].in_flight;
    return n;
}

uint32_t or_vhost_blk_poll(struct or_vhost_blk *dev, uint64_t now)
{
    uint32_t taken = 0, queues = dev->vu.queues;
    or_vhost_user_check(&dev->vu);
    if (now >= dev->disk.not_before)
        dev->disk.not_before = 0;
    /* Each in turn is the first, so that the rings share what a limit lets go. */
    dev->turn = (dev->turn + 1) % queues;
    for (uint32_t i = 0; i < queues; i++) {
        struct or_vring *ring = &dev->vu.rings[(dev->turn + i) % queues];
        if (ring->started)
            taken += or_blk_ring_poll(ring->device, now);
    }
    return taken;
}

void or_vhost_blk_flush(struct or_vhost_blk *dev)
{
    for (uint32_t i = 0; i < dev->vu.queues; i++)
        if (dev->vu.rings[i].started)
            or_vring_publish(&dev->vu.rings[i]);
    or_vhost_user_drained(&dev->vu);
}

void or_vhost_blk_disarm(struct or_vhost_blk *dev)
{
    for (uint32_t i = 0; i < dev->vu.queues; i++)
        if (or_vring_runs(&dev->vu.rings[i]))
            or_virtqueue_want_kicks(&dev->vu.rings[i].vq, false);
}

bool or_vhost_blk_arm(struct or_vhost_blk *dev)
{
    bool pending = false;
    for (uint32_t i = 0; i < dev->vu.queues; i++) {
        struct or_vring *ring = &dev->vu.rings[i];
        bool takes = or_vring_runs(ring) && dev->disk.not_before == 0;
        if (takes)
            or_virtqueue_want_kicks(&ring->vq, true);
        /* A ring without a kick descriptor has to be polled. */
        if (ring->started && (or_blk_ring_pending(ring->device) || (takes && ring->kick.fd < 0)))
            pending = true;
    }
    if (pending)
        or_vhost_blk_disarm(dev);
    return pending;
}

void or_vhost_blk_set_timeout(struct or_vhost_blk *dev, uint64_t timeout_ns)
{
    dev->disk.config.timeout_ns = timeout_ns;
}

void or_vhost_blk_set_limit(struct or_vhost_blk *dev, const struct or_limit *limit)
{
    or_bucket_set(&dev->disk.bucket, limit);
    dev->disk.not_before = 0;
}

uint64_t or_vhost_blk_deadline(const struct or_vhost_blk *dev)
{
    return dev->disk.not_before ? dev->disk.not_before : UINT64_MAX;
}

enum or_vhost_state or_vhost_blk_state(const struct or_vhost_blk *dev)
{
    return dev->vu.state;
}

void or_vhost_blk_stats(const struct or_vhost_blk *dev, struct or_vhost_blk_stats *out)
{
    *out = dev->disk.stats;
    out->kicks = dev->vu.kicks;
    out->calls = dev->vu.calls;
    out->calls_suppressed = dev->vu.calls_suppressed;
    out->accept_failures = dev->vu.accept_failures;
}
