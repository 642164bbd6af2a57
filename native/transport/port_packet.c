/* Frames over any Ethernet interface, through AF_PACKET sockets: one to receive, one to send.
 *
 * Receiving: the kernel copies each frame of our EtherType into a ring of slots that we share with it
 * (PACKET_RX_RING, TPACKET_V2), so taking a frame costs no system call. A slot belongs to the kernel
 * or to us, as its status word says, and goes back to the kernel in order, after the handler has
 * returned. When the kernel finds no free slot it drops the frame and marks every later one with
 * TP_STATUS_LOSING until it is asked how many: so we ask then, and only then. (Version 3 of the ring
 * hands over blocks of frames, which delays a lone one by a millisecond.)
 *
 * Sending: frames are written into buffers of our own and leave with one sendmmsg() per flush, past
 * the queueing discipline. The kernel copies them meanwhile, so the buffers are free again at once.
 * That is faster than a TX ring, which copies just as much. Frames of tens of kilobytes would each
 * need as much contiguous kernel memory; with a virtio-net header in front, which says where the
 * headers end, only the beginning is contiguous. A socket bound without a protocol receives nothing.
 *
 * Links go away and come back. Sending fails while one is down: such frames are dropped and counted.
 * The receiving socket keeps the failure as a pending error, for which epoll reports it again and again
 * until somebody takes it: every IDLE_BURSTS_PER_CHECK-th burst that finds nothing does. The kernel
 * attaches the socket again when the link comes up; an interface that was deleted needs a new port. */
#include "port.h"

#include <arpa/inet.h>
#include <assert.h>
#include <errno.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/virtio_net.h>
#include <net/if.h>
#include <net/if_arp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "wire/wire.h"

#define CACHE_LINE 64u
#define TX_BATCH 16u               /* so that the peer works on the first while we build the next */
#define TX_SOCKET_BYTES (16 << 20) /* more than a batch of the largest frames */
#define VNET_HEADER_MTU_MIN 32768u
#define IDLE_BURSTS_PER_CHECK 1024u

/* In a slot the bytes after the Ethernet header start on a cache line, 128 bytes after the slot. The
 * kernel puts them at the first expression (tpacket_rcv), moved on by PACKET_RESERVE. */
#define RX_RESERVE 48u
#define RX_PAYLOAD_OFFSET 128u
static_assert(TPACKET_ALIGN(TPACKET2_HDRLEN + 16) + RX_RESERVE == RX_PAYLOAD_OFFSET, "payload on a cache line");

/* The ring is allocated in blocks, and no slot crosses a block. These sizes waste little for the usual
 * MTUs; the kernel wants a block contiguous but also manages without. */
#define RX_SLOTS_MIN 128u
#define RX_BLOCK_BYTES (128u << 10)
#define RX_LARGE_MTU 16384u /* above: */
#define RX_LARGE_SLOTS_MIN 60u
#define RX_LARGE_BLOCK_BYTES (1u << 20)

struct packet_port {
    struct or_port port; /* its fd is the receiving socket */
    int tx_fd;

    struct tpacket2_hdr **rx_slots; /* port.rx_frames of them, in ring order */
    uint32_t rx_head;               /* index of the slot that is filled next */
    uint32_t idle_bursts;
    uint8_t *rx_ring;
    size_t rx_ring_bytes;

    uint8_t *tx_buffers;
    size_t tx_buffers_bytes;
    uint32_t tx_queued;            /* committed, in the first buffers */
    struct virtio_net_hdr tx_vnet; /* of every frame */
    struct iovec tx_iov[TX_BATCH][2];
    struct mmsghdr tx_messages[TX_BATCH];
};

/* ---- receiving ---- */

static void take_pending_error(struct packet_port *p)
{
    int error;
    socklen_t size = sizeof(error);
    getsockopt(p->port.fd, SOL_SOCKET, SO_ERROR, &error, &size);
    p->port.stats.syscalls++;
}

static void count_lost_frames(struct packet_port *p)
{
    struct tpacket_stats since_last_time;
    socklen_t size = sizeof(since_last_time);
    if (getsockopt(p->port.fd, SOL_PACKET, PACKET_STATISTICS, &since_last_time, &size) == 0)
        p->port.stats.rx_dropped += since_last_time.tp_drops;
    p->port.stats.syscalls++;
}

static bool is_for_us(const struct packet_port *p, const uint8_t *frame)
{
    static const uint8_t broadcast[ETH_ALEN] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff};
    return memcmp(frame, p->port.mac, ETH_ALEN) == 0 || memcmp(frame, broadcast, ETH_ALEN) == 0;
}

/* Returns whether the handler got the frame. */
static bool deliver(struct packet_port *p, const struct tpacket2_hdr *slot, or_rx_fn *fn, void *arg)
{
    const uint8_t *frame = (const uint8_t *)slot + slot->tp_mac;
    if (slot->tp_snaplen < slot->tp_len) {
        p->port.stats.rx_dropped++; /* larger than the MTU we agreed on, and cut */
        return false;
    }
    if (slot->tp_snaplen < OR_ETH_HEADER || !is_for_us(p, frame))
        return false;
    p->port.stats.rx_frames++;
    p->port.stats.rx_bytes += slot->tp_snaplen;
    fn(arg, frame, slot->tp_snaplen);
    return true;
}

static uint32_t packet_rx_burst(struct or_port *port, uint32_t max, or_rx_fn *fn, void *arg)
{
    struct packet_port *p = (struct packet_port *)port;
    uint32_t delivered = 0, seen;
    bool losing = false;
    for (seen = 0; seen < max; seen++) {
        struct tpacket2_hdr *slot = p->rx_slots[p->rx_head];
        uint32_t status = __atomic_load_n(&slot->tp_status, __ATOMIC_ACQUIRE);
        if (!(status & TP_STATUS_USER))
            break;
        losing |= (status & TP_STATUS_LOSING) != 0;
        delivered += deliver(p, slot, fn, arg);
        __atomic_store_n(&slot->tp_status, TP_STATUS_KERNEL, __ATOMIC_RELEASE);
        p->rx_head = p->rx_head + 1 < port->rx_frames ? p->rx_head + 1 : 0;
    }
    if (losing)
        count_lost_frames(p);
    if (seen == 0 && ++p->idle_bursts % IDLE_BURSTS_PER_CHECK == 0)
        take_pending_error(p);
    return delivered;
}

/* ---- sending ---- */

/* Sends queued frames from the first-th on. Returns how many the kernel took, or -errno. */
static int send_from(struct packet_port *p, uint32_t first)
{
    uint32_t left = p->tx_queued - first;
    p->port.stats.syscalls++;
    if (left == 1)
        return sendmsg(p->tx_fd, &p->tx_messages[first].msg_hdr, MSG_DONTWAIT) >= 0 ? 1 : -errno;
    int sent = sendmmsg(p->tx_fd, &p->tx_messages[first], left, MSG_DONTWAIT);
    return sent >= 0 ? sent : -errno;
}

static void packet_tx_flush(struct or_port *port)
{
    struct packet_port *p = (struct packet_port *)port;
    uint32_t done = 0;
    while (done < p->tx_queued) {
        int sent = send_from(p, done);
        if (sent > 0) {
            for (uint32_t end = done + (uint32_t)sent; done < end; done++) {
                port->stats.tx_frames++;
                port->stats.tx_bytes += p->tx_iov[done][1].iov_len;
            }
        } else if (sent == -EMSGSIZE) {
            /* The link's MTU was lowered under us: smaller frames still pass. */
            port->stats.tx_dropped++;
            done++;
        } else {
            /* The link is down, or its queue is full: a frame that ended a call early has had its
             * second chance as the first of this one. */
            port->stats.tx_dropped += p->tx_queued - done;
            break;
        }
    }
    p->tx_queued = 0;
}

static uint8_t *packet_tx_alloc(struct or_port *port)
{
    struct packet_port *p = (struct packet_port *)port;
    if (p->tx_queued == TX_BATCH)
        packet_tx_flush(port);
    return p->tx_iov[p->tx_queued][1].iov_base;
}

static void packet_tx_commit(struct or_port *port, uint32_t length)
{
    struct packet_port *p = (struct packet_port *)port;
    assert(p->tx_queued < TX_BATCH && length >= OR_ETH_HEADER && length <= OR_ETH_HEADER + port->mtu);
    p->tx_iov[p->tx_queued++][1].iov_len = length;
}

/* ---- opening and closing ---- */

struct sentence {
    char *text;
    uint32_t size;
};

/* Says what is wrong, and returns -error. */
__attribute__((format(printf, 3, 4))) static int refuse(struct sentence why, int error, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(why.text, why.size, format, args);
    va_end(args);
    return -error;
}

static int refuse_call(struct sentence why, const char *ifname, const char *call)
{
    int error = errno;
    return refuse(why, error, "cannot open a packet port on %s: %s: %s", ifname, call, strerror(error));
}

static int refuse_missing(struct sentence why, const char *ifname)
{
    char names[256] = "";
    size_t used = 0;
    struct if_nameindex *all = if_nameindex();
    for (struct if_nameindex *i = all; i && i->if_index && used < sizeof(names); i++)
        used += (size_t)snprintf(names + used, sizeof(names) - used, "%s%s", used ? ", " : "", i->if_name);
    if (all)
        if_freenameindex(all);
    return refuse(why, ENODEV, "there is no network interface %s in this network namespace, which has: %s", ifname,
                  names);
}

static int open_sockets(struct packet_port *p, const char *ifname, struct sentence why)
{
    p->port.fd = socket(AF_PACKET, SOCK_RAW | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (p->port.fd >= 0)
        p->tx_fd = socket(AF_PACKET, SOCK_RAW | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (p->tx_fd >= 0)
        return 0;
    if (errno == EPERM)
        return refuse(why, EPERM,
                      "opening a packet port on %s needs CAP_NET_RAW: run as root, or give the systemd unit "
                      "AmbientCapabilities=CAP_NET_RAW",
                      ifname);
    return refuse_call(why, ifname, "socket");
}

/* Fills the port's mac and mtu. */
static int examine_link(struct packet_port *p, const char *ifname, uint32_t mtu, struct sentence why)
{
    struct ifreq request = {0};
    if (strlen(ifname) >= sizeof(request.ifr_name))
        return refuse_missing(why, ifname);
    strcpy(request.ifr_name, ifname);

    if (ioctl(p->tx_fd, SIOCGIFHWADDR, &request) != 0)
        return errno == ENODEV ? refuse_missing(why, ifname) : refuse_call(why, ifname, "SIOCGIFHWADDR");
    if (request.ifr_hwaddr.sa_family != ARPHRD_ETHER)
        return refuse(why, ENOTSUP, "%s is not an Ethernet interface: choose one that is", ifname);
    memcpy(p->port.mac, request.ifr_hwaddr.sa_data, ETH_ALEN);

    if (ioctl(p->tx_fd, SIOCGIFMTU, &request) != 0)
        return refuse_call(why, ifname, "SIOCGIFMTU");
    uint32_t link_mtu = (uint32_t)request.ifr_mtu;
    if (mtu > link_mtu)
        return refuse(
            why, EMSGSIZE,
            "MTU %u is above the %u of link %s: lower it, or run `ip link set dev %s mtu %u` (and the same on "
            "every link and switch of the segment)",
            mtu, link_mtu, ifname, ifname, mtu);
    if (mtu == 0)
        mtu = link_mtu;
    p->port.mtu = mtu < OR_MTU_MAX ? mtu : OR_MTU_MAX;
    return 0;
}

static uint32_t round_up(uint32_t n, uint32_t unit)
{
    return (n + unit - 1) / unit * unit;
}

static int open_ring(struct packet_port *p, const char *ifname, struct sentence why)
{
    bool large = p->port.mtu > RX_LARGE_MTU;
    struct tpacket_req ring = {
        .tp_block_size = large ? RX_LARGE_BLOCK_BYTES : RX_BLOCK_BYTES,
        .tp_frame_size = round_up(RX_PAYLOAD_OFFSET + p->port.mtu, CACHE_LINE),
    };
    uint32_t slots_per_block = ring.tp_block_size / ring.tp_frame_size;
    p->port.rx_frames = round_up(large ? RX_LARGE_SLOTS_MIN : RX_SLOTS_MIN, slots_per_block);
    ring.tp_frame_nr = p->port.rx_frames;
    ring.tp_block_nr = p->port.rx_frames / slots_per_block;

    int version = TPACKET_V2, reserve = RX_RESERVE;
    if (setsockopt(p->port.fd, SOL_PACKET, PACKET_VERSION, &version, sizeof(version)) != 0)
        return refuse_call(why, ifname, "PACKET_VERSION");
    if (setsockopt(p->port.fd, SOL_PACKET, PACKET_RESERVE, &reserve, sizeof(reserve)) != 0)
        return refuse_call(why, ifname, "PACKET_RESERVE");
    if (setsockopt(p->port.fd, SOL_PACKET, PACKET_RX_RING, &ring, sizeof(ring)) != 0)
        return refuse_call(why, ifname, "PACKET_RX_RING");

    p->rx_ring_bytes = (size_t)ring.tp_block_size * ring.tp_block_nr;
    p->rx_ring = mmap(NULL, p->rx_ring_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, p->port.fd, 0);
    if (p->rx_ring == MAP_FAILED)
        return refuse_call(why, ifname, "mmap of the receive ring");
    p->rx_slots = calloc(p->port.rx_frames, sizeof(*p->rx_slots));
    if (!p->rx_slots)
        return refuse_call(why, ifname, "calloc");
    for (uint32_t i = 0; i < p->port.rx_frames; i++) {
        size_t offset = (size_t)(i / slots_per_block) * ring.tp_block_size + i % slots_per_block * ring.tp_frame_size;
        p->rx_slots[i] = (struct tpacket2_hdr *)(p->rx_ring + offset);
    }
    return 0;
}

static int open_batch(struct packet_port *p, const char *ifname, struct sentence why)
{
    int on = 1, bytes = TX_SOCKET_BYTES;
    if (setsockopt(p->tx_fd, SOL_PACKET, PACKET_QDISC_BYPASS, &on, sizeof(on)) != 0)
        return refuse_call(why, ifname, "PACKET_QDISC_BYPASS");
    /* Without CAP_NET_ADMIN the system's limit holds: a full batch may then lose its end. */
    if (setsockopt(p->tx_fd, SOL_SOCKET, SO_SNDBUFFORCE, &bytes, sizeof(bytes)) != 0)
        setsockopt(p->tx_fd, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof(bytes));
    bool vnet = p->port.mtu >= VNET_HEADER_MTU_MIN;
    if (vnet && setsockopt(p->tx_fd, SOL_PACKET, PACKET_VNET_HDR, &on, sizeof(on)) != 0)
        return refuse_call(why, ifname, "PACKET_VNET_HDR");
    p->tx_vnet = (struct virtio_net_hdr){.gso_type = VIRTIO_NET_HDR_GSO_NONE, .hdr_len = OR_ETH_HEADER};

    /* As in the ring, what follows the Ethernet header starts on a cache line. */
    uint32_t stride = CACHE_LINE + round_up(p->port.mtu, CACHE_LINE);
    p->tx_buffers_bytes = (size_t)stride * TX_BATCH;
    p->tx_buffers =
        mmap(NULL, p->tx_buffers_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    if (p->tx_buffers == MAP_FAILED)
        return refuse_call(why, ifname, "mmap of the send buffers");
    for (uint32_t i = 0; i < TX_BATCH; i++) {
        struct iovec *iov = p->tx_iov[i];
        iov[0] = (struct iovec){&p->tx_vnet, sizeof(p->tx_vnet)};
        iov[1] = (struct iovec){p->tx_buffers + (size_t)i * stride + CACHE_LINE - OR_ETH_HEADER, 0};
        p->tx_messages[i].msg_hdr = (struct msghdr){.msg_iov = vnet ? iov : iov + 1, .msg_iovlen = vnet ? 2 : 1};
    }
    return 0;
}

/* From here on frames arrive. A link that is down is no obstacle: it leaves an error pending. */
static int bind_sockets(struct packet_port *p, const char *ifname, struct sentence why)
{
    struct sockaddr_ll address = {.sll_family = AF_PACKET, .sll_ifindex = (int)if_nametoindex(ifname)};
    if (bind(p->tx_fd, (struct sockaddr *)&address, sizeof(address)) != 0)
        return refuse_call(why, ifname, "bind");
    address.sll_protocol = htons(p->port.ethertype);
    if (bind(p->port.fd, (struct sockaddr *)&address, sizeof(address)) != 0)
        return refuse_call(why, ifname, "bind");
    take_pending_error(p);
    return 0;
}

static void packet_close(struct or_port *port)
{
    struct packet_port *p = (struct packet_port *)port;
    if (p->rx_ring != MAP_FAILED)
        munmap(p->rx_ring, p->rx_ring_bytes);
    if (p->tx_buffers != MAP_FAILED)
        munmap(p->tx_buffers, p->tx_buffers_bytes);
    free(p->rx_slots);
    if (p->port.fd >= 0)
        close(p->port.fd);
    if (p->tx_fd >= 0)
        close(p->tx_fd);
    free(p);
}

static const struct or_port_ops packet_ops = {
    .tx_alloc = packet_tx_alloc,
    .tx_commit = packet_tx_commit,
    .tx_flush = packet_tx_flush,
    .rx_burst = packet_rx_burst,
    .close = packet_close,
};

struct or_port *or_port_packet_open(const char *ifname, uint16_t ethertype, uint32_t mtu, int *err, char *why,
                                    uint32_t why_size)
{
    struct sentence sentence = {why, why_size};
    struct packet_port *p = calloc(1, sizeof(*p));
    if (!p) {
        *err = refuse_call(sentence, ifname, "calloc");
        return NULL;
    }
    p->port.ops = &packet_ops;
    p->port.ethertype = ethertype;
    p->port.fd = p->tx_fd = -1;
    p->rx_ring = p->tx_buffers = MAP_FAILED;

    *err = open_sockets(p, ifname, sentence);
    if (*err == 0)
        *err = examine_link(p, ifname, mtu, sentence);
    if (*err == 0)
        *err = open_ring(p, ifname, sentence);
    if (*err == 0)
        *err = open_batch(p, ifname, sentence);
    if (*err == 0)
        *err = bind_sockets(p, ifname, sentence);
    if (*err == 0)
        return &p->port;
    packet_close(&p->port);
    return NULL;
}
