/* The driver (vhost_driver.h) of a NIC: QEMU and a guest with virtio-net, and a session that notes what it is
 * given. Frames to be sent lie at DATA, receive buffers from BUFFERS on. */
#ifndef NET_DRIVER_H
#define NET_DRIVER_H

#include "vhost_driver.h"

#include <linux/virtio_config.h>

#include "frontend/net_header.h"
#include "frontend/vhost_net.h"
#include "keep/snapshot.h"

#define BUFFERS 0x500000ull /* in the second region */
#define BUFFER_BYTES 2048u
#define PACKETS_MAX 1024u
#define NIC_DEVICE 9u
#define NIC_GENERATION 4u
#define RX(pair) (2u * (pair))
#define TX(pair) (2u * (pair) + 1u)

struct nic_driver {
    struct driver d;
    struct or_vhost_net_config config;
    struct or_vhost_net *dev;
    uint64_t features; /* as reported */

    /* The session. */
    enum or_packet_verdict verdict;
    uint32_t room; /* with OR_PACKET_LATER: packets that are taken before */
    uint32_t calls, count;
    uint32_t length; /* of the last packet, */
    uint8_t packet[OR_PACKET_MAX];
};

static inline struct nic_driver *nic_of(struct driver *d)
{
    return OR_CONTAINER(d, struct nic_driver, d);
}

static inline enum or_packet_verdict session_packet(void *client, uint32_t device, uint32_t generation,
                                                    const struct or_packet *p, uint64_t now)
{
    struct nic_driver *n = client;
    uint32_t length = 0;
    (void)now;
    n->calls++;
    assert_int_equal(device, NIC_DEVICE);
    assert_int_equal(generation, NIC_GENERATION);
    assert_in_range(p->length, OR_PACKET_MIN, OR_PACKET_MAX);
    for (uint32_t i = 0; i < p->count; i++) {
        assert_true(p->iov[i].iov_len <= OR_PACKET_MAX - length);
        memcpy(n->packet + length, p->iov[i].iov_base, p->iov[i].iov_len);
        length += (uint32_t)p->iov[i].iov_len;
    }
    assert_int_equal(length, p->length);
    if (n->verdict == OR_PACKET_LATER && n->room > 0) {
        n->room--;
    } else if (n->verdict != OR_PACKET_SENT) {
        return n->verdict;
    }
    n->length = length;
    n->count++;
    return OR_PACKET_SENT;
}

static inline void on_nic_state(void *arg, enum or_vhost_state state, const char *reason, uint64_t features)
{
    struct nic_driver *n = arg;
    on_state(&n->d, state, reason);
    n->features = features;
}

static inline void nic_work(struct driver *d)
{
    struct nic_driver *n = nic_of(d);
    if (n->dev == NULL)
        return;
    or_vhost_net_poll(n->dev, ++d->now);
    or_vhost_net_flush(n->dev);
}

static inline void nic_init(struct nic_driver *n, uint32_t pairs)
{
    memset(n, 0, sizeof(*n));
    driver_init(&n->d);
    n->d.work = nic_work;
    n->d.queues_num = pairs;
    n->config = (struct or_vhost_net_config){.packet = session_packet,
                                             .client = n,
                                             .listen_fd = -1,
                                             .epoll_fd = n->d.epoll_fd,
                                             .mode = 0600,
                                             .device = NIC_DEVICE,
                                             .generation = NIC_GENERATION,
                                             .pairs = pairs,
                                             .mtu = 9000,
                                             .state = on_nic_state,
                                             .arg = n};
}

static inline void nic_create(struct nic_driver *n)
{
    int err;
    n->config.listen_fd = listen_anywhere(&n->d);
    n->dev = or_vhost_net_create(&n->config, &err);
    assert_non_null(n->dev);
}

/* Connection, features and memory, on a device that listens. */
static inline void nic_connect(struct nic_driver *n, uint64_t features)
{
    driver_connect(&n->d);
    driver_negotiate(&n->d, features, ALL_FEATURES);
    assert_int_equal(set_memory(&n->d), 0);
}

static inline void nic_start(struct nic_driver *n, uint64_t features)
{
    nic_create(n);
    nic_connect(n, features);
    for (uint32_t i = 0; i < 2 * n->config.pairs; i++)
        ring_configure(&n->d, i, 0);
    assert_int_equal(n->d.state, OR_VHOST_RUNNING);
}

static inline void nic_end(struct nic_driver *n)
{
    if (n->dev)
        or_vhost_net_destroy(n->dev);
    driver_close(&n->d);
}

static inline struct or_vhost_net_stats nic_stats(struct nic_driver *n)
{
    struct or_vhost_net_stats stats;
    or_vhost_net_stats(n->dev, &stats);
    return stats;
}

/* --- sending -------------------------------------------------------------------------------------- */

/* Puts header and `length` bytes of a frame to `phys` and makes them available in pieces of `piece` bytes; returns the
 * head. */
static inline uint16_t send_pieces(struct nic_driver *n, uint32_t ring, uint64_t phys,
                                   const struct virtio_net_hdr_v1 *header, uint32_t length, uint32_t piece)
{
    struct buffer b[128];
    uint32_t count = 0, total = or_net_header_bytes(n->d.features) + length;
    memcpy(guest(&n->d, phys), header, or_net_header_bytes(n->d.features));
    for (uint32_t at = 0; at < total; at += piece)
        b[count++] = (struct buffer){.phys = phys + at, .length = total - at < piece ? total - at : piece};
    uint16_t head = write_chain(&n->d, ring, b, count, 0);
    make_available(&n->d, ring, head);
    return head;
}

static inline uint16_t send_frame(struct nic_driver *n, uint32_t ring, uint32_t length)
{
    struct virtio_net_hdr_v1 header = {0};
    return send_pieces(n, ring, DATA, &header, length, UINT32_MAX / 2);
}

/* --- receiving ------------------------------------------------------------------------------------ */

static inline uint64_t buffer_at(uint32_t ring, uint16_t head)
{
    return BUFFERS + (ring * 128ull + head) * BUFFER_BYTES;
}

/* Makes `count` receive buffers of `length` bytes available. */
static inline void post_buffers(struct nic_driver *n, uint32_t ring, uint32_t count, uint32_t length)
{
    while (count-- > 0) {
        uint16_t head = n->d.q[ring].next_desc & (n->d.q[ring].size - 1);
        struct buffer b = {.phys = buffer_at(ring, head), .length = length, .writable = true};
        memset(guest(&n->d, b.phys), 0xee, length);
        make_available(&n->d, ring, write_chain(&n->d, ring, &b, 1, 0));
    }
}

/* A packet of a frame of `length` bytes of a pattern. */
static inline uint32_t make_packet(uint8_t *packet, const struct virtio_net_hdr_v1 *header, uint32_t length,
                                   uint32_t seed)
{
    memcpy(packet, header, sizeof(*header));
    for (uint32_t i = 0; i < length; i++)
        packet[OR_VNET_HEADER + i] = (uint8_t)(i * 13u + i / 253u + seed);
    return OR_VNET_HEADER + length;
}

/* Takes what one packet used of the ring: its header and its frame. Returns the length of the frame; -1: there is
 * none. */
static inline int take_packet(struct nic_driver *n, uint32_t ring, struct virtio_net_hdr_v1 *header, uint8_t *frame)
{
    uint32_t skip = or_net_header_bytes(n->d.features), length = 0;
    uint16_t buffers = 1;
    memset(header, 0, sizeof(*header));
    for (uint16_t i = 0; i < buffers; i++) {
        int head = take_used(&n->d, ring);
        if (i == 0 && head < 0)
            return -1;
        assert_true(head >= 0);
        uint64_t phys = desc_of(&n->d, ring, (uint16_t)head)->addr;
        if (i == 0)
            memcpy(header, guest(&n->d, phys), skip);
        if (i == 0 && skip == OR_VNET_HEADER)
            buffers = header->num_buffers;
        memcpy(frame + length, guest(&n->d, phys + skip), n->d.used_len - skip);
        length += n->d.used_len - skip;
        skip = 0;
    }
    return (int)length;
}

#endif
