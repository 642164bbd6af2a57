/* usage: nicflood frames|garbage SOCKET MAC SECONDS
 *
 * A guest that means harm to its neighbours, through its NIC (a vhost-user-net device, one queue pair):
 *
 *   frames     transmits the smallest frames as fast as the device takes them, and never sleeps
 *   garbage    transmits chains of random descriptors, and connects anew when the device has been given up
 *
 * Prints what it sent as one JSON line: frames that were taken, chains of garbage, and connections. */
#include <linux/if_ether.h>
#include <linux/virtio_config.h>
#include <linux/virtio_net.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "../../../test/tools/driver/vhost_driver.h"

#define RX 0u
#define TX 1u
#define HEADER ((uint32_t)sizeof(struct virtio_net_hdr_v1))
#define FRAME ((uint32_t)ETH_ZLEN)
#define STRIDE 128u
#define RETRY_US 1000
#define ROUNDS 64
#define FEATURES (1ull << VIRTIO_F_VERSION_1 | 1ull << VIRTIO_NET_F_MRG_RXBUF)

struct flood {
    struct driver driver;
    uint8_t mac[ETH_ALEN];
    uint64_t random, taken, garbage;
    uint16_t free[DRIVER_RING_SIZE];
    uint32_t free_count;
};

static double now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* SplitMix64. */
static uint64_t random_next(struct flood *f)
{
    uint64_t x = f->random += 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

/* From our own address to ones that nobody has. */
static void make_frame(struct flood *f, uint16_t head)
{
    uint8_t *at = f->driver.memory + DRIVER_DATA_AT + (size_t)head * STRIDE;
    memset(at, 0, HEADER + FRAME);
    uint64_t to = random_next(f);
    struct ethhdr *ethernet = (struct ethhdr *)(at + HEADER);
    memcpy(ethernet->h_dest, &to, ETH_ALEN);
    ethernet->h_dest[0] = 0x02;
    memcpy(ethernet->h_source, f->mac, ETH_ALEN);
    ethernet->h_proto = 0xb688; /* 0x88b6, local experimental 2 */
    f->driver.ring[TX].desc[head] =
        (struct vring_desc){.addr = (uint64_t)(at - f->driver.memory), .len = HEADER + FRAME};
}

static void send_frames(struct flood *f)
{
    struct driver_ring *ring = &f->driver.ring[TX];
    for (int head; (head = driver_used(ring, NULL)) >= 0; f->taken++)
        f->free[f->free_count++] = (uint16_t)head;
    for (; f->free_count > 0; f->free_count--) {
        make_frame(f, f->free[f->free_count - 1]);
        driver_offer(ring, f->free[f->free_count - 1]);
    }
    driver_kick(ring);
}

static void send_garbage(struct flood *f)
{
    struct driver_ring *ring = &f->driver.ring[TX];
    for (uint32_t i = 0; i < DRIVER_RING_SIZE; i++) {
        uint64_t a = random_next(f), b = random_next(f);
        ring->desc[i] = (struct vring_desc){
            .addr = a % (2 * f->driver.memory_bytes), .len = (uint32_t)b, .flags = b >> 32 & 7, .next = b >> 40 & 0xff};
    }
    for (uint32_t i = 0; i < DRIVER_RING_SIZE; i++, f->garbage++)
        driver_offer(ring, (uint16_t)(random_next(f) % (2 * DRIVER_RING_SIZE)));
    driver_kick(ring);
    while (driver_used(ring, NULL) >= 0)
        continue;
}

static bool parse(struct flood *f, int argc, char **argv, bool *garbage, double *seconds)
{
    if (argc != 5)
        return false;
    *garbage = strcmp(argv[1], "garbage") == 0;
    *seconds = atof(argv[4]);
    return (*garbage || strcmp(argv[1], "frames") == 0) && *seconds > 0 &&
           sscanf(argv[3], "%hhx:%hhx:%hhx:%hhx:%hhx:%hhx", &f->mac[0], &f->mac[1], &f->mac[2], &f->mac[3], &f->mac[4],
                  &f->mac[5]) == ETH_ALEN;
}

int main(int argc, char **argv)
{
    static struct flood f;
    bool garbage;
    double seconds;
    if (!parse(&f, argc, argv, &garbage, &seconds)) {
        fprintf(stderr, "usage: nicflood frames|garbage SOCKET MAC SECONDS\n");
        return 2;
    }
    f.driver = (struct driver){
        .ring_count = 2,
        .features = FEATURES,
        .protocol = OR_VU_PROTOCOL_MQ,
        .memory_bytes = DRIVER_DATA_AT + DRIVER_RING_SIZE * STRIDE,
    };
    driver_create(&f.driver, argv[2]);
    for (uint16_t i = 0; i < DRIVER_RING_SIZE; i++)
        f.free[f.free_count++] = i;
    for (double end = now_s() + seconds; now_s() < end;) {
        if (!driver_connected(&f.driver) && !driver_connect(&f.driver)) {
            usleep(RETRY_US);
            continue;
        }
        for (int i = 0; i < ROUNDS; i++)
            (garbage ? send_garbage : send_frames)(&f);
        driver_check(&f.driver);
        if (garbage && driver_connected(&f.driver))
            driver_disconnect(&f.driver); /* the device reads no more of this one */
    }
    printf("{\"frames\":%lu,\"garbage\":%lu,\"connections\":%lu}\n", f.taken, f.garbage, f.driver.connections);
    return 0;
}
