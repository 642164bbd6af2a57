/* usage: guestnic SOCKET TAP
 *
 * A guest's NIC without a guest: a tap interface of this network namespace on one side, the driver of a
 * vhost-user-net device (one queue pair) on the other. So the kernel's TCP of the namespace plays that of the
 * guest, with its checksum and segmentation offloads, and no emulator is in the picture.
 *
 *   kernel ── TAP ── read/write ── virtqueues in shared memory ── vhost-user ── host agent
 *
 * The tap is made when it is not there; address and state are the caller's. Prints "ready" once the rings run.
 * Spins for 80 us after the last packet, then sleeps, as the agent does. Ends by a signal, or when the agent
 * does not come back. */
#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <linux/virtio_config.h>
#include <linux/virtio_net.h>
#include <net/if.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#include "../../../test/tools/driver/vhost_driver.h"

#define RX 0u /* the rings of a queue pair, virtio 1.2, 5.1.2 */
#define TX 1u
#define HEADER ((uint32_t)sizeof(struct virtio_net_hdr_v1))
#define BUFFER (68u * 1024) /* a packet of 64 KiB with its headers */
#define BATCH 64u
#define SPIN_NS 80000ull
#define RETRY_US 10000

#define FEATURES                                                                                                       \
    (1ull << VIRTIO_F_VERSION_1 | 1ull << VIRTIO_NET_F_MRG_RXBUF | 1ull << VIRTIO_NET_F_CSUM |                         \
     1ull << VIRTIO_NET_F_GUEST_CSUM | 1ull << VIRTIO_NET_F_HOST_TSO4 | 1ull << VIRTIO_NET_F_HOST_TSO6 |               \
     1ull << VIRTIO_NET_F_GUEST_TSO4 | 1ull << VIRTIO_NET_F_GUEST_TSO6)

struct guestnic {
    struct driver driver;
    int tap;
    uint16_t tx_free[DRIVER_RING_SIZE];
    uint32_t tx_free_count;
};

static uint64_t clock_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000ull + (uint64_t)t.tv_nsec;
}

static int open_tap(const char *name)
{
    struct ifreq request = {.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR};
    int header = (int)HEADER;
    int fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
    strncpy(request.ifr_name, name, IFNAMSIZ - 1);
    driver_must(fd >= 0 && ioctl(fd, TUNSETIFF, &request) == 0, name);
    driver_must(ioctl(fd, TUNSETVNETHDRSZ, &header) == 0, "TUNSETVNETHDRSZ");
    driver_must(ioctl(fd, TUNSETOFFLOAD, TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6) == 0, "TUNSETOFFLOAD");
    return fd;
}

/* Each descriptor has a buffer of its own, for good. */
static uint8_t *buffer_of(struct guestnic *g, uint32_t ring, uint16_t head)
{
    return g->driver.memory + DRIVER_DATA_AT + ((size_t)ring * DRIVER_RING_SIZE + head) * BUFFER;
}

static void describe(struct guestnic *g, uint32_t ring, uint16_t head, uint32_t length)
{
    g->driver.ring[ring].desc[head] = (struct vring_desc){
        .addr = (uint64_t)(buffer_of(g, ring, head) - g->driver.memory),
        .len = length,
        .flags = ring == RX ? VRING_DESC_F_WRITE : 0,
    };
}

/* From the tap to the agent. */
static uint32_t transmit(struct guestnic *g)
{
    struct driver_ring *ring = &g->driver.ring[TX];
    uint32_t sent = 0;
    for (int head; (head = driver_used(ring, NULL)) >= 0;)
        g->tx_free[g->tx_free_count++] = (uint16_t)head;
    while (g->tx_free_count > 0 && sent < BATCH) {
        uint16_t head = g->tx_free[g->tx_free_count - 1];
        ssize_t n = read(g->tap, buffer_of(g, TX, head), BUFFER);
        if (n <= 0)
            break;
        describe(g, TX, head, (uint32_t)n);
        g->tx_free_count--;
        driver_offer(ring, head);
        sent++;
    }
    if (sent > 0)
        driver_kick(ring);
    return sent;
}

/* From the agent to the tap. A packet that the kernel refuses is lost. */
static uint32_t receive(struct guestnic *g)
{
    struct driver_ring *ring = &g->driver.ring[RX];
    uint32_t received = 0, length;
    for (int head; received < BATCH && (head = driver_used(ring, &length)) >= 0; received++) {
        const struct virtio_net_hdr_v1 *header = (void *)buffer_of(g, RX, (uint16_t)head);
        if (header->num_buffers != 1 || length <= HEADER || length > BUFFER) {
            fprintf(stderr, "guestnic: a packet of %u bytes in %u buffers\n", length, header->num_buffers);
            exit(2);
        }
        if (write(g->tap, header, length) < 0 && errno != EAGAIN && errno != EINVAL && errno != EIO)
            driver_must(false, "tap");
        driver_offer(ring, (uint16_t)head);
    }
    if (received > 0)
        driver_kick(ring);
    return received;
}

static void wait_for_work(struct guestnic *g)
{
    eventfd_t calls;
    struct pollfd fds[] = {
        {.fd = g->tx_free_count > 0 ? g->tap : -1, .events = POLLIN},
        {.fd = g->driver.ring[RX].call, .events = POLLIN},
        {.fd = g->driver.ring[TX].call, .events = POLLIN},
        {.fd = g->driver.sock, .events = POLLIN},
    };
    for (uint32_t i = 0; i < 2; i++)
        driver_want_calls(&g->driver.ring[i], i == RX || g->tx_free_count == 0);
    if (receive(g) + transmit(g) == 0)
        driver_must(poll(fds, 4, -1) >= 0 || errno == EINTR, "poll");
    for (uint32_t i = 0; i < 2; i++) {
        driver_want_calls(&g->driver.ring[i], false);
        eventfd_read(g->driver.ring[i].call, &calls);
    }
    if (fds[3].revents)
        driver_check(&g->driver);
}

static void run(struct guestnic *g)
{
    uint64_t idle_since = 0;
    while (driver_connected(&g->driver)) {
        if (receive(g) + transmit(g) > 0) {
            idle_since = 0;
            continue;
        }
        uint64_t now = clock_ns();
        if (idle_since == 0)
            idle_since = now;
        if (now - idle_since > SPIN_NS) {
            wait_for_work(g);
            idle_since = 0;
        }
    }
}

int main(int argc, char **argv)
{
    static struct guestnic g;
    if (argc != 3) {
        fprintf(stderr, "usage: guestnic SOCKET TAP\n");
        return 2;
    }
    g.driver = (struct driver){
        .ring_count = 2,
        .features = FEATURES,
        .protocol = OR_VU_PROTOCOL_MQ,
        .memory_bytes = DRIVER_DATA_AT + 2ul * DRIVER_RING_SIZE * BUFFER,
    };
    driver_create(&g.driver, argv[1]);
    g.tap = open_tap(argv[2]);
    for (uint16_t i = 0; i < DRIVER_RING_SIZE; i++) {
        g.tx_free[g.tx_free_count++] = i;
        describe(&g, RX, i, BUFFER);
        driver_offer(&g.driver.ring[RX], i);
    }
    for (bool first = true;; first = false) {
        while (!driver_connect(&g.driver))
            usleep(RETRY_US);
        if (first) {
            puts("ready");
            fflush(stdout);
        }
        run(&g);
    }
}
