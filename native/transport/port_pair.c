/* Two ports back to back in one process, for tests and for engines that serve their own host.
 *
 * Each direction is a ring with one producer and one consumer, so the two ends may belong to two
 * threads. The producer writes frames straight into the ring's slots and publishes them at flush by
 * moving `tail`; the consumer moves `head` after the handler has returned. When the ring is full the
 * producer is given a spare buffer instead of a slot: what it writes there is dropped and counted.
 *
 * A sleeping consumer waits on an eventfd. `signalled` says that the eventfd is readable or about to
 * be: whoever turns it from false to true, and nobody else, writes the eventfd; only the consumer
 * turns it back, after it has read the eventfd and before it looks at the ring for the last time. So a
 * frame published meanwhile is either seen by that look or signalled anew, and none is slept over. */
#include "port.h"

#include <assert.h>
#include <errno.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "wire/wire.h"

#define SLOTS 128u
#define CACHE_LINE 64

static_assert((SLOTS & (SLOTS - 1)) == 0, "positions wrap around at a power of two");

/* Positions count frames from the beginning; position % SLOTS is the slot. */
struct ring {
    _Alignas(CACHE_LINE) _Atomic uint32_t tail; /* published by the producer */
    _Alignas(CACHE_LINE) _Atomic uint32_t head; /* released by the consumer */
    _Alignas(CACHE_LINE) _Atomic bool signalled;
    int event_fd;
    uint32_t stride; /* bytes from slot to slot */
    uint32_t length[SLOTS];
    uint8_t *slots; /* SLOTS of them, and the spare buffer */
};

struct pair {
    struct ring rings[2]; /* rings[i] is received by ends[i] */
    struct pair_port {
        struct or_port port;
        struct pair *pair;
        struct ring *rx, *tx;
        uint32_t tx_tail; /* of committed frames; the ring's follows at flush */
        uint8_t *taken;   /* buffer taken and not committed, or NULL */
    } ends[2];
    atomic_int open; /* ends */
};

static uint8_t *slot(const struct ring *ring, uint32_t position)
{
    return ring->slots + (size_t)(position % SLOTS) * ring->stride;
}

static uint8_t *spare(const struct ring *ring)
{
    return ring->slots + (size_t)SLOTS * ring->stride;
}

static void signal_consumer(struct or_port *port, struct ring *ring)
{
    if (atomic_exchange(&ring->signalled, true))
        return;
    int rc = eventfd_write(ring->event_fd, 1);
    assert(rc == 0);
    port->stats.syscalls++;
}

static uint8_t *pair_tx_alloc(struct or_port *port)
{
    struct pair_port *end = (struct pair_port *)port;
    if (!end->taken) {
        bool full = end->tx_tail - atomic_load_explicit(&end->tx->head, memory_order_acquire) == SLOTS;
        end->taken = full ? spare(end->tx) : slot(end->tx, end->tx_tail);
    }
    return end->taken;
}

static void pair_tx_commit(struct or_port *port, uint32_t length)
{
    struct pair_port *end = (struct pair_port *)port;
    assert(end->taken && length >= OR_ETH_HEADER && length <= OR_ETH_HEADER + port->mtu);
    if (end->taken == spare(end->tx)) {
        port->stats.tx_dropped++;
    } else {
        end->tx->length[end->tx_tail++ % SLOTS] = length;
        port->stats.tx_frames++;
        port->stats.tx_bytes += length;
    }
    end->taken = NULL;
}

static void pair_tx_flush(struct or_port *port)
{
    struct pair_port *end = (struct pair_port *)port;
    if (end->tx_tail == atomic_load_explicit(&end->tx->tail, memory_order_relaxed))
        return;
    atomic_store(&end->tx->tail, end->tx_tail);
    signal_consumer(port, end->tx);
}

/* The ring looked empty: makes the descriptor unreadable until the next frame. */
static void acknowledge(struct or_port *port, struct ring *ring)
{
    eventfd_t value;
    /* Where there is nothing to read yet, the producer is about to write: left for the next time. */
    if (!atomic_load(&ring->signalled) || eventfd_read(ring->event_fd, &value) != 0)
        return;
    port->stats.syscalls++;
    atomic_store(&ring->signalled, false);
    if (atomic_load(&ring->tail) != atomic_load_explicit(&ring->head, memory_order_relaxed))
        signal_consumer(port, ring);
}

static uint32_t pair_rx_burst(struct or_port *port, uint32_t max, or_rx_fn *fn, void *arg)
{
    struct ring *ring = ((struct pair_port *)port)->rx;
    uint32_t n = 0, head = atomic_load_explicit(&ring->head, memory_order_relaxed);
    while (n < max && head != atomic_load_explicit(&ring->tail, memory_order_acquire)) {
        uint32_t length = ring->length[head % SLOTS];
        port->stats.rx_frames++;
        port->stats.rx_bytes += length;
        fn(arg, slot(ring, head), length);
        atomic_store_explicit(&ring->head, ++head, memory_order_release);
        n++;
    }
    if (n < max)
        acknowledge(port, ring);
    return n;
}

static void free_pair(struct pair *pair)
{
    for (int i = 0; i < 2; i++) {
        if (pair->rings[i].event_fd >= 0)
            close(pair->rings[i].event_fd);
        free(pair->rings[i].slots);
    }
    free(pair);
}

/* What the other end sends from now on fills the ring and is then dropped. */
static void pair_close(struct or_port *port)
{
    struct pair *pair = ((struct pair_port *)port)->pair;
    if (atomic_fetch_sub(&pair->open, 1) == 1)
        free_pair(pair);
}

static const struct or_port_ops pair_ops = {
    .tx_alloc = pair_tx_alloc,
    .tx_commit = pair_tx_commit,
    .tx_flush = pair_tx_flush,
    .rx_burst = pair_rx_burst,
    .close = pair_close,
};

static int open_ring(struct ring *ring, uint32_t mtu)
{
    ring->stride = (OR_ETH_HEADER + mtu + CACHE_LINE - 1) / CACHE_LINE * CACHE_LINE;
    ring->slots = malloc((size_t)ring->stride * (SLOTS + 1));
    ring->event_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (!ring->slots)
        return -ENOMEM;
    return ring->event_fd < 0 ? -errno : 0;
}

int or_port_pair_open(uint32_t mtu, uint16_t ethertype, struct or_port **a, struct or_port **b)
{
    struct pair *pair = aligned_alloc(CACHE_LINE, sizeof(*pair));
    if (!pair)
        return -ENOMEM;
    memset(pair, 0, sizeof(*pair));
    int rc[2] = {open_ring(&pair->rings[0], mtu), open_ring(&pair->rings[1], mtu)};
    if (rc[0] || rc[1]) {
        free_pair(pair);
        return rc[0] ? rc[0] : rc[1];
    }
    atomic_init(&pair->open, 2);
    for (uint8_t i = 0; i < 2; i++) {
        pair->ends[i] = (struct pair_port){
            .port = {.ops = &pair_ops,
                     .mac = {0x02, 0, 0, 0, 0, i + 1}, /* locally administered */
                     .ethertype = ethertype,
                     .mtu = mtu,
                     .rx_frames = SLOTS,
                     .fd = pair->rings[i].event_fd,
                     .handshake_fd = -1},
            .pair = pair,
            .rx = &pair->rings[i],
            .tx = &pair->rings[1 - i],
        };
    }
    *a = &pair->ends[0].port;
    *b = &pair->ends[1].port;
    return 0;
}
