#include "vhost_disk.h"

#include <errno.h>
#include <linux/virtio_blk.h>
#include <linux/virtio_config.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>

#include "mem/list.h"
#include "vhost_driver.h"

/* What a request has beside its data: its descriptor in the ring, which bears the slot's number, names this
 * table of the chain. */
struct head {
    struct virtio_blk_outhdr header;
    uint8_t status;
    _Alignas(16) struct vring_desc chain[3]; /* header, data, status */
};

#define HEADS_BYTES (DRIVER_RING_SIZE * sizeof(struct head))
#define DATA_AT ((DRIVER_DATA_AT + HEADS_BYTES + 4095) / 4096 * 4096)

struct vhost_disk {
    struct driver driver;
    uint32_t slots, data_max;
    uint64_t capacity;
};

/* Its first field, and no more: a device answers with nothing when it is asked for more than it has, and how much
 * there is grows with the releases of QEMU and Linux. */
static bool read_capacity(struct driver *driver)
{
    uint64_t sectors;
    struct or_vu_config config = {.offset = offsetof(struct virtio_blk_config, capacity), .size = sizeof(sectors)};
    uint32_t size = offsetof(struct or_vu_config, data) + config.size;
    if (!driver_ask(driver, OR_VU_GET_CONFIG, &config, size, sizeof(config), NULL) || config.size != sizeof(sectors))
        return false;
    memcpy(&sectors, config.data, sizeof(sectors));
    OR_CONTAINER(driver, struct vhost_disk, driver)->capacity = sectors * 512;
    return true;
}

struct vhost_disk *vhost_disk_create(const struct vhost_disk_config *config)
{
    struct vhost_disk *d = calloc(1, sizeof(*d));
    driver_must(d != NULL, "memory");
    errno = EINVAL;
    driver_must(config->slots <= DRIVER_RING_SIZE && config->data_max % 4096 == 0, "slots of a disk");
    d->slots = config->slots;
    d->data_max = config->data_max;
    d->driver = (struct driver){
        .ring_count = 1,
        .features = 1ull << VIRTIO_F_VERSION_1 | 1ull << VIRTIO_BLK_F_FLUSH | 1ull << VIRTIO_BLK_F_SEG_MAX |
                    1ull << VIRTIO_RING_F_INDIRECT_DESC,
        .protocol = OR_VU_PROTOCOL_MQ | OR_VU_PROTOCOL_CONFIG,
        .memory_bytes = DATA_AT + (size_t)d->slots * d->data_max,
        .configure = read_capacity,
    };
    if (!config->without_record)
        d->driver.protocol |= OR_VU_PROTOCOL_INFLIGHT_SHMFD;
    driver_create(&d->driver, config->socket);
    return d;
}

bool vhost_disk_connect(struct vhost_disk *d)
{
    return driver_connect(&d->driver);
}

bool vhost_disk_connected(const struct vhost_disk *d)
{
    return driver_connected(&d->driver);
}

void vhost_disk_check(struct vhost_disk *d)
{
    driver_check(&d->driver);
}

int vhost_disk_socket(const struct vhost_disk *d)
{
    return d->driver.sock;
}

int vhost_disk_call_fd(const struct vhost_disk *d)
{
    return d->driver.ring[0].call;
}

void vhost_disk_want_calls(struct vhost_disk *d, bool wanted)
{
    driver_want_calls(&d->driver.ring[0], wanted);
}

uint8_t *vhost_disk_data(struct vhost_disk *d, uint32_t slot)
{
    return d->driver.memory + DATA_AT + (size_t)slot * d->data_max;
}

static struct head *head_of(struct vhost_disk *d, uint32_t slot)
{
    return (struct head *)(d->driver.memory + DRIVER_DATA_AT) + slot;
}

/* Guest physical memory begins at 0. */
static uint64_t physical(const struct vhost_disk *d, const void *at)
{
    return (uint64_t)((const uint8_t *)at - d->driver.memory);
}

void vhost_disk_submit(struct vhost_disk *d, uint32_t slot, enum vhost_disk_op op, uint64_t offset, uint32_t length)
{
    static const uint32_t types[] = {[VHOST_DISK_READ] = VIRTIO_BLK_T_IN,
                                     [VHOST_DISK_WRITE] = VIRTIO_BLK_T_OUT,
                                     [VHOST_DISK_FLUSH] = VIRTIO_BLK_T_FLUSH};
    struct head *head = head_of(d, slot);
    head->header = (struct virtio_blk_outhdr){.type = types[op], .sector = offset / 512};
    head->status = 0xff;
    uint32_t last = 0;
    head->chain[0] = (struct vring_desc){.addr = physical(d, &head->header), .len = sizeof(head->header)};
    if (length > 0)
        head->chain[++last] = (struct vring_desc){.addr = physical(d, vhost_disk_data(d, slot)),
                                                  .len = length,
                                                  .flags = op == VHOST_DISK_READ ? VRING_DESC_F_WRITE : 0};
    head->chain[++last] =
        (struct vring_desc){.addr = physical(d, &head->status), .len = 1, .flags = VRING_DESC_F_WRITE};
    for (uint32_t i = 0; i < last; i++) {
        head->chain[i].flags |= VRING_DESC_F_NEXT;
        head->chain[i].next = (uint16_t)(i + 1);
    }
    d->driver.ring[0].desc[slot] = (struct vring_desc){.addr = physical(d, head->chain),
                                                       .len = (last + 1) * (uint32_t)sizeof(struct vring_desc),
                                                       .flags = VRING_DESC_F_INDIRECT};
    driver_offer(&d->driver.ring[0], (uint16_t)slot);
}

void vhost_disk_kick(struct vhost_disk *d)
{
    driver_kick(&d->driver.ring[0]);
}

int vhost_disk_completed(struct vhost_disk *d, uint8_t *status)
{
    int slot = driver_used(&d->driver.ring[0], NULL);
    if (slot < 0)
        return -1;
    if ((uint32_t)slot >= d->slots) {
        fprintf(stderr, "vhost_disk: the used ring names descriptor %d, which heads no chain\n", slot);
        exit(2);
    }
    *status = head_of(d, (uint32_t)slot)->status;
    return slot;
}

void vhost_disk_clear_call(struct vhost_disk *d)
{
    eventfd_t calls;
    eventfd_read(d->driver.ring[0].call, &calls);
}

struct vhost_disk_stats vhost_disk_stats(const struct vhost_disk *d)
{
    return (struct vhost_disk_stats){.connections = d->driver.connections, .capacity = d->capacity};
}
