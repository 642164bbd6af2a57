#include "port_xdp_socket.h"

#include <assert.h>
#include <errno.h>
#include <linux/if_xdp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "wire/wire.h"

/* Linux 6.6 brought these; Debian's headers are older. */
#ifndef XDP_USE_SG
#define XDP_USE_SG (1 << 4)
#endif
#ifndef XDP_PKT_CONTD
#define XDP_PKT_CONTD (1 << 0)
#endif

#define CACHE_LINE 64u
#define CHUNK 4096u
#define KERNELS_HEADROOM 256u                 /* XDP_PACKET_HEADROOM */
#define HEADROOM (CACHE_LINE - OR_ETH_HEADER) /* so that what follows the Ethernet header starts on a cache line */
#define RX_PIECE_MAX (CHUNK - KERNELS_HEADROOM - HEADROOM)
static_assert(OR_XDP_SMALL_MTU_MAX == RX_PIECE_MAX - OR_ETH_HEADER, "what the header says");
#define TX_BATCH 16u /* frames; so that the peer works on the first while we build the next */
#define TX_SOCKET_BYTES (16 << 20)
#define TX_CALLS_MAX 64u /* in one flush: the kernel takes 32 pieces in one call */

static uint32_t power_of_two(uint32_t n)
{
    uint32_t power = 1;
    while (power < n)
        power *= 2;
    return power;
}

static uint32_t pieces_of(uint32_t bytes, uint32_t piece_max)
{
    return (bytes + piece_max - 1) / piece_max;
}

/* ---- rings ---- */

static uint32_t load(const uint32_t *shared)
{
    return __atomic_load_n(shared, __ATOMIC_ACQUIRE);
}

static void store(uint32_t *shared, uint32_t value)
{
    __atomic_store_n(shared, value, __ATOMIC_RELEASE);
}

static bool needs_wakeup(const struct or_xdp_ring *ring)
{
    return __atomic_load_n(ring->flags, __ATOMIC_RELAXED) & XDP_RING_NEED_WAKEUP;
}

static struct xdp_desc *descriptor(const struct or_xdp_ring *ring, uint32_t at)
{
    return (struct xdp_desc *)ring->entries + (at & ring->mask);
}

static uint64_t *address(const struct or_xdp_ring *ring, uint32_t at)
{
    return (uint64_t *)ring->entries + (at & ring->mask);
}

/* ---- receiving ---- */

static void give_back(struct or_xdp_socket *s, uint64_t chunk)
{
    *address(&s->fill, s->fill.next++) = chunk & ~(uint64_t)(CHUNK - 1);
}

/* The whole frame that begins at the ring's next entry, with its pieces; NULL when it is larger than any of ours
 * may be. */
static const uint8_t *join(struct or_xdp_socket *s, uint32_t pieces, uint32_t *length)
{
    const struct xdp_desc *d = descriptor(&s->rx, s->rx.next);
    *length = d->len;
    if (pieces == 1)
        return d->len <= s->frame_max ? s->memory + d->addr : NULL;
    *length = 0;
    for (uint32_t i = 0; i < pieces; i++) {
        d = descriptor(&s->rx, s->rx.next + i);
        if (*length + d->len > s->frame_max)
            return NULL;
        memcpy(s->joined + *length, s->memory + d->addr, d->len);
        *length += d->len;
    }
    return s->joined;
}

/* How many pieces the next frame has; 0 when it is not there, or not all of it. */
static uint32_t next_frame(const struct or_xdp_socket *s, uint32_t producer)
{
    for (uint32_t at = s->rx.next; at != producer; at++)
        if (!(descriptor(&s->rx, at)->options & XDP_PKT_CONTD))
            return at + 1 - s->rx.next;
    return 0;
}

static void take(struct or_xdp_socket *s, uint32_t pieces, or_rx_fn *fn, void *arg)
{
    uint32_t length;
    const uint8_t *frame = join(s, pieces, &length);
    if (frame) {
        fn(arg, frame, length);
    } else {
        s->stats.rx_dropped++;
    }
    for (uint32_t i = 0; i < pieces; i++)
        give_back(s, descriptor(&s->rx, s->rx.next + i)->addr);
    s->rx.next += pieces;
    store(s->rx.consumer, s->rx.next);
    store(s->fill.producer, s->fill.next);
}

uint32_t or_xdp_socket_receive(struct or_xdp_socket *s, uint32_t max, or_rx_fn *fn, void *arg)
{
    uint32_t producer = load(s->rx.producer), taken = 0, pieces;
    while (taken < max && (pieces = next_frame(s, producer)) > 0) {
        take(s, pieces, fn, arg);
        taken++;
    }
    if (s->zero_copy && needs_wakeup(&s->fill)) {
        recvfrom(s->fd, NULL, 0, MSG_DONTWAIT, NULL, NULL); /* the driver had no chunks left, and rests */
        s->stats.syscalls++;
    }
    return taken;
}

struct or_port_stats or_xdp_socket_stats(const struct or_xdp_socket *s)
{
    struct or_port_stats stats = s->stats;
    struct xdp_statistics counts = {0};
    socklen_t size = sizeof counts;
    if (s->fd >= 0 && getsockopt(s->fd, SOL_XDP, XDP_STATISTICS, &counts, &size) == 0)
        stats.rx_dropped += counts.rx_dropped + counts.rx_ring_full;
    return stats;
}

/* ---- sending ---- */

/* A buffer's bytes in the shared memory; the frame begins HEADROOM later. */
static uint64_t buffer_address(const struct or_xdp_socket *s, uint32_t buffer)
{
    return (uint64_t)s->rx_chunks * CHUNK + (uint64_t)buffer * s->tx_pieces * CHUNK;
}

static uint32_t buffer_of(const struct or_xdp_socket *s, uint64_t chunk)
{
    return (uint32_t)((chunk / CHUNK - s->rx_chunks) / s->tx_pieces);
}

static void piece_done(struct or_xdp_socket *s, uint32_t buffer)
{
    if (buffer < s->tx_buffers && s->pieces[buffer] > 0 && --s->pieces[buffer] == 0)
        s->free[s->free_count++] = (uint8_t)buffer;
}

static void reap(struct or_xdp_socket *s)
{
    uint32_t producer = load(s->completion.producer);
    if (s->completion.next == producer)
        return;
    while (s->completion.next != producer)
        piece_done(s, buffer_of(s, *address(&s->completion, s->completion.next++)));
    store(s->completion.consumer, s->completion.next);
}

/* The link is switched off, or gone: what is in the ring shall not leave when it returns. The kernel looks at the
 * ring only when we call it (not so with zero-copy), and must not have done so since `unsent` was published. */
static void take_back(struct or_xdp_socket *s)
{
    for (uint32_t at = s->unsent; at != s->tx.next; at++) {
        const struct xdp_desc *d = descriptor(&s->tx, at);
        s->stats.tx_bytes -= d->len;
        if (!(d->options & XDP_PKT_CONTD)) {
            s->stats.tx_frames--;
            s->stats.tx_dropped++;
        }
        piece_done(s, buffer_of(s, d->addr));
    }
    s->tx.next = s->unsent;
    store(s->tx.producer, s->tx.next);
}

/* Calls the kernel until it has taken what is in the ring. With zero-copy it takes that in its own time. What stays
 * there keeps its buffers, and is tried again by the next flush. */
static void push(struct or_xdp_socket *s, bool untouched)
{
    for (uint32_t calls = 0; calls < TX_CALLS_MAX; calls++) {
        int error = sendto(s->fd, NULL, 0, MSG_DONTWAIT, NULL, 0) < 0 ? errno : 0;
        s->stats.syscalls++;
        reap(s);
        if (!error || s->zero_copy) {
            s->unsent = s->tx.next;
            return;
        }
        if (error == EBUSY) { /* one frame was taken and is lost: there is no carrier, or the driver had no room */
            s->stats.tx_frames--;
            s->stats.tx_dropped++;
        } else if (error != EAGAIN && error != ENOBUFS) {
            if (untouched) /* it says so before it looks */
                take_back(s);
            return;
        }
        untouched = false;
    }
}

void or_xdp_socket_tx_flush(struct or_xdp_socket *s)
{
    uint32_t taken = s->zero_copy ? load(s->tx.consumer) : s->unsent;
    if (taken == s->tx.next)
        return;
    bool untouched = s->unsent == *s->tx.producer;
    s->batch = 0;
    store(s->tx.producer, s->tx.next);
    if (needs_wakeup(&s->tx))
        push(s, untouched);
}

uint8_t *or_xdp_socket_tx_alloc(struct or_xdp_socket *s)
{
    if (s->batch == TX_BATCH)
        or_xdp_socket_tx_flush(s);
    if (!s->taken) {
        if (!s->free_count)
            reap(s);
        if (!s->free_count)
            return s->spare + HEADROOM;
        s->open = s->free[--s->free_count];
        s->taken = true;
    }
    return s->memory + buffer_address(s, s->open) + HEADROOM;
}

void or_xdp_socket_tx_commit(struct or_xdp_socket *s, uint32_t length)
{
    assert(length >= OR_ETH_HEADER && length <= s->frame_max);
    if (!s->taken) { /* it was the spare one */
        s->stats.tx_dropped++;
        return;
    }
    s->taken = false;
    uint64_t at = buffer_address(s, s->open) + HEADROOM, end = at + length;
    while (at < end) {
        uint64_t chunk_end = (at / CHUNK + 1) * CHUNK, piece_end = end < chunk_end ? end : chunk_end;
        *descriptor(&s->tx, s->tx.next++) = (struct xdp_desc){
            .addr = at, .len = (uint32_t)(piece_end - at), .options = piece_end < end ? XDP_PKT_CONTD : 0};
        s->pieces[s->open]++;
        at = piece_end;
    }
    s->batch++;
    s->stats.tx_frames++;
    s->stats.tx_bytes += length;
}

/* ---- opening and closing ---- */

static int set_ring(int fd, int option, uint32_t entries)
{
    return setsockopt(fd, SOL_XDP, option, &entries, sizeof entries) != 0 ? -errno : 0;
}

static int map_ring(struct or_xdp_ring *r, int fd, const struct xdp_ring_offset *offset, uint32_t entries,
                    uint32_t entry_bytes, off_t page_offset)
{
    r->bytes = offset->desc + (size_t)entries * entry_bytes;
    r->memory = mmap(NULL, r->bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, page_offset);
    if (r->memory == MAP_FAILED)
        return -errno;
    uint8_t *base = r->memory;
    r->producer = (uint32_t *)(base + offset->producer);
    r->consumer = (uint32_t *)(base + offset->consumer);
    r->flags = (uint32_t *)(base + offset->flags);
    r->entries = base + offset->desc;
    r->mask = entries - 1;
    r->next = 0;
    return 0;
}

static int open_rings(struct or_xdp_socket *s)
{
    uint32_t tx_entries = power_of_two(s->tx_buffers ? s->tx_buffers * s->tx_pieces : 1);
    struct xdp_mmap_offsets offsets;
    socklen_t size = sizeof offsets;
    int err = set_ring(s->fd, XDP_UMEM_FILL_RING, s->rx_chunks);
    if (!err)
        err = set_ring(s->fd, XDP_UMEM_COMPLETION_RING, tx_entries);
    if (!err)
        err = set_ring(s->fd, XDP_RX_RING, s->rx_chunks);
    if (!err && s->tx_buffers)
        err = set_ring(s->fd, XDP_TX_RING, tx_entries);
    if (!err && getsockopt(s->fd, SOL_XDP, XDP_MMAP_OFFSETS, &offsets, &size) != 0)
        err = -errno;
    if (!err)
        err = map_ring(&s->fill, s->fd, &offsets.fr, s->rx_chunks, sizeof(uint64_t), XDP_UMEM_PGOFF_FILL_RING);
    if (!err)
        err =
            map_ring(&s->completion, s->fd, &offsets.cr, tx_entries, sizeof(uint64_t), XDP_UMEM_PGOFF_COMPLETION_RING);
    if (!err)
        err = map_ring(&s->rx, s->fd, &offsets.rx, s->rx_chunks, sizeof(struct xdp_desc), XDP_PGOFF_RX_RING);
    if (!err && s->tx_buffers)
        err = map_ring(&s->tx, s->fd, &offsets.tx, tx_entries, sizeof(struct xdp_desc), XDP_PGOFF_TX_RING);
    return err;
}

static int open_memory(struct or_xdp_socket *s)
{
    size_t chunks = s->rx_chunks + (size_t)s->tx_buffers * s->tx_pieces;
    size_t own = (size_t)pieces_of(HEADROOM + s->frame_max, CHUNK) * CHUNK;
    s->bytes = chunks * CHUNK + 2 * own; /* with the two buffers that the kernel does not know */
    s->memory = mmap(NULL, s->bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    if (s->memory == MAP_FAILED)
        return -errno;
    s->joined = s->memory + chunks * CHUNK + HEADROOM;
    s->spare = s->memory + chunks * CHUNK + own;
    struct xdp_umem_reg memory = {
        .addr = (uintptr_t)s->memory, .len = chunks * CHUNK, .chunk_size = CHUNK, .headroom = HEADROOM};
    return setsockopt(s->fd, SOL_XDP, XDP_UMEM_REG, &memory, sizeof memory) != 0 ? -errno : 0;
}

bool or_xdp_socket_is_large(uint32_t frame_bytes)
{
    return frame_bytes > RX_PIECE_MAX;
}

/* The kernel chooses zero-copy where the driver can; some can for frames of one piece only, so others are asked for
 * only where there may be any. */
static int bind_queue(struct or_xdp_socket *s, const struct or_xdp_socket_config *config)
{
    bool large = or_xdp_socket_is_large(s->frame_max);
    struct sockaddr_xdp address = {
        .sxdp_family = AF_XDP, .sxdp_ifindex = config->ifindex, .sxdp_queue_id = config->queue};
    address.sxdp_flags = XDP_USE_NEED_WAKEUP | (large ? XDP_USE_SG : 0) | (config->copy ? XDP_COPY : 0);
    if (bind(s->fd, (struct sockaddr *)&address, sizeof address) != 0)
        return large && errno == EINVAL ? -EOPNOTSUPP : -errno; /* a kernel before 6.6 does not know the flag */
    struct xdp_options options = {0};
    socklen_t size = sizeof options;
    s->zero_copy =
        getsockopt(s->fd, SOL_XDP, XDP_OPTIONS, &options, &size) == 0 && (options.flags & XDP_OPTIONS_ZEROCOPY);
    return 0;
}

static void unmap(struct or_xdp_ring *r)
{
    if (r->memory != MAP_FAILED)
        munmap(r->memory, r->bytes);
    r->memory = MAP_FAILED;
}

void or_xdp_socket_close(struct or_xdp_socket *s)
{
    if (s->fd < 0)
        return;
    unmap(&s->fill);
    unmap(&s->rx);
    unmap(&s->tx);
    unmap(&s->completion);
    close(s->fd);
    if (s->memory != MAP_FAILED)
        munmap(s->memory, s->bytes);
    s->fd = -1;
}

static int open_all(struct or_xdp_socket *s, const struct or_xdp_socket_config *config)
{
    int bytes = TX_SOCKET_BYTES;
    setsockopt(s->fd, SOL_SOCKET, SO_SNDBUFFORCE, &bytes, sizeof bytes);
    int err = open_memory(s);
    if (!err)
        err = open_rings(s);
    if (err)
        return err;
    for (uint32_t i = 0; i < s->rx_chunks; i++)
        give_back(s, (uint64_t)i * CHUNK);
    store(s->fill.producer, s->fill.next);
    for (uint32_t i = 0; i < s->tx_buffers; i++)
        s->free[s->free_count++] = (uint8_t)i;
    return bind_queue(s, config);
}

int or_xdp_socket_open(struct or_xdp_socket *s, const struct or_xdp_socket_config *config)
{
    uint32_t rx_pieces = pieces_of(config->frame_max, RX_PIECE_MAX);
    *s = (struct or_xdp_socket){
        .fd = socket(AF_XDP, SOCK_RAW | SOCK_CLOEXEC, 0),
        .frame_max = config->frame_max,
        .rx_chunks = power_of_two(config->rx_frames * rx_pieces),
        .tx_pieces = pieces_of(HEADROOM + config->frame_max, CHUNK),
        .tx_buffers = config->send ? OR_XDP_SEND_FRAMES : 0,
        .memory = MAP_FAILED,
        .fill.memory = MAP_FAILED,
        .rx.memory = MAP_FAILED,
        .tx.memory = MAP_FAILED,
        .completion.memory = MAP_FAILED,
    };
    if (s->fd < 0)
        return -errno;
    int err = open_all(s, config);
    if (err)
        or_xdp_socket_close(s);
    return err;
}
