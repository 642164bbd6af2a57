#include "frontend.h"

#include <linux/virtio_blk.h>
#include <linux/virtio_config.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>

#include "../driver/vhost_driver.h"
#include "mem/list.h"

#define CHAIN 3u /* descriptors of a request: header, data, status */
#define HEADERS_AT DRIVER_DATA_AT
#define HEADER_STRIDE 64u
#define STATUS_AT 32u /* within a header's stride */
#define DATA_AT (HEADERS_AT + 0x1000u)
#define MEMORY_BYTES (DATA_AT + FRONTEND_SLOTS * FRONTEND_DATA_MAX)

static_assert(FRONTEND_SLOTS * CHAIN <= DRIVER_RING_SIZE, "each slot has descriptors of its own");

struct frontend {
    struct driver driver;
    uint64_t capacity;
};

static bool read_capacity(struct driver *driver)
{
    struct or_vu_config config = {.offset = 0, .size = sizeof(struct virtio_blk_config)};
    uint32_t size = offsetof(struct or_vu_config, data) + config.size;
    if (!driver_ask(driver, OR_VU_GET_CONFIG, &config, size, sizeof(config), NULL))
        return false;
    uint64_t sectors;
    memcpy(&sectors, config.data, sizeof(sectors));
    OR_CONTAINER(driver, struct frontend, driver)->capacity = sectors * 512;
    return true;
}

struct frontend *frontend_create(const char *socket_path)
{
    struct frontend *f = calloc(1, sizeof(*f));
    driver_must(f != NULL, "memory");
    f->driver = (struct driver){
        .ring_count = 1,
        .features = 1ull << VIRTIO_F_VERSION_1 | 1ull << VIRTIO_BLK_F_FLUSH | 1ull << VIRTIO_BLK_F_SEG_MAX,
        .protocol = OR_VU_PROTOCOL_MQ | OR_VU_PROTOCOL_CONFIG | OR_VU_PROTOCOL_INFLIGHT_SHMFD,
        .memory_bytes = MEMORY_BYTES,
        .configure = read_capacity,
    };
    driver_create(&f->driver, socket_path);
    return f;
}

bool frontend_connect(struct frontend *f)
{
    return driver_connect(&f->driver);
}

bool frontend_connected(const struct frontend *f)
{
    return driver_connected(&f->driver);
}

void frontend_check(struct frontend *f)
{
    driver_check(&f->driver);
}

int frontend_socket(const struct frontend *f)
{
    return f->driver.sock;
}

int frontend_call_fd(const struct frontend *f)
{
    return f->driver.ring[0].call;
}

uint8_t *frontend_data(struct frontend *f, uint32_t slot)
{
    return f->driver.memory + DATA_AT + (size_t)slot * FRONTEND_DATA_MAX;
}

static uint8_t *header_of(struct frontend *f, uint32_t slot)
{
    return f->driver.memory + HEADERS_AT + (size_t)slot * HEADER_STRIDE;
}

/* Guest physical memory begins at 0. */
static uint64_t physical(const struct frontend *f, const uint8_t *at)
{
    return (uint64_t)(at - f->driver.memory);
}

void frontend_submit(struct frontend *f, uint32_t slot, enum frontend_op op, uint64_t offset, uint32_t length)
{
    static const uint32_t types[] = {
        [FRONTEND_READ] = VIRTIO_BLK_T_IN, [FRONTEND_WRITE] = VIRTIO_BLK_T_OUT, [FRONTEND_FLUSH] = VIRTIO_BLK_T_FLUSH};
    struct virtio_blk_outhdr *header = (struct virtio_blk_outhdr *)header_of(f, slot);
    *header = (struct virtio_blk_outhdr){.type = types[op], .sector = offset / 512};
    header_of(f, slot)[STATUS_AT] = 0xff;
    struct vring_desc *desc = f->driver.ring[0].desc;
    uint16_t head = (uint16_t)(slot * CHAIN), last = head;
    desc[head] = (struct vring_desc){.addr = physical(f, header_of(f, slot)), .len = sizeof(*header)};
    if (length > 0) {
        last++;
        desc[last] = (struct vring_desc){.addr = physical(f, frontend_data(f, slot)),
                                         .len = length,
                                         .flags = op == FRONTEND_READ ? VRING_DESC_F_WRITE : 0};
    }
    last++;
    desc[last] =
        (struct vring_desc){.addr = physical(f, header_of(f, slot) + STATUS_AT), .len = 1, .flags = VRING_DESC_F_WRITE};
    for (uint16_t i = head; i < last; i++) {
        desc[i].flags |= VRING_DESC_F_NEXT;
        desc[i].next = i + 1;
    }
    driver_offer(&f->driver.ring[0], head);
    driver_kick(&f->driver.ring[0]);
}

int frontend_completed(struct frontend *f, uint8_t *status)
{
    eventfd_t calls;
    int used = driver_used(&f->driver.ring[0], NULL);
    if (used < 0) {
        /* Look once more after the event is taken back: one that came in between stays. */
        eventfd_read(f->driver.ring[0].call, &calls);
        used = driver_used(&f->driver.ring[0], NULL);
        if (used < 0)
            return -1;
    }
    uint32_t head = (uint32_t)used;
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
    return (struct frontend_stats){.connections = f->driver.connections, .capacity = f->capacity};
}
