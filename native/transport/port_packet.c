/* Frames over any Ethernet interface, through AF_PACKET sockets: one to receive, one to send, and with a
 * filter (port_filter.c) one more that receives handshakes.
 *
 * Receiving: the kernel copies each frame of our EtherType into a ring of slots that we share with it
 * (PACKET_RX_RING, TPACKET_V2), so taking a frame costs no system call. A slot belongs to the kernel
 * or to us, as its status word says, and goes back to the kernel in order, after the handler has
 * returned. When the kernel finds no free slot it drops the frame and marks every later one with
 * TP_STATUS_LOSING until it is asked how many: so we ask then, and only then. (Version 3 of the ring
 * hands over blocks of frames, which delays a lone one by a millisecond.)
 *
 * Handshakes are the only frames that a stranger gets past the filter at will. They have a small ring of
 * their own, so a flood of them pushes no data out; and a burst that has data looks at one of them only,
 * so a flood takes no more of a busy worker's time than it has bursts.
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
 * attaches the socket again when the link comes up. For an interface that was deleted and made again,
 * and for frames larger than the ring's slots, refresh opens new sockets and buffers and puts them in the
 * old ones' place. */
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

#include "port_filter.h"
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

#define HANDSHAKE_MTU 512u /* what is longer is none */
#define HANDSHAKE_SLOTS_MIN 128u
#define HANDSHAKES_PER_BURST 8u
#define HANDSHAKES_PER_BUSY_BURST 1u

/* A receiving socket and the ring that it shares with the kernel. */
struct rx_ring {
    int fd;                      /* -1: closed */
    struct tpacket2_hdr **slots; /* in ring order */
    uint32_t slot_count, head;   /* head: index of the slot that is filled next */
    uint8_t *memory;
    size_t bytes;
};

struct packet_port {
    struct or_port port;
    int tx_fd;
    char ifname[IFNAMSIZ];
    int ifindex;
    uint32_t mtu_wanted;            /* 0: the link's */
    uint32_t mtu_room;              /* for which slots and buffers were made */
    struct rx_ring data, handshake; /* without a filter `data` gets everything */
    struct or_port_filter filter;
    uint64_t handshakes_lost; /* their ring was full */
    uint32_t idle_bursts;

    uint8_t *tx_buffers;
    size_t tx_buffers_bytes;
    uint32_t tx_queued;            /* committed, in the first buffers */
    struct virtio_net_hdr tx_vnet; /* of every frame */
    struct iovec tx_iov[TX_BATCH][2];
    struct mmsghdr tx_messages[TX_BATCH];
};

/* ---- receiving ---- */

static void take_pending_error(struct packet_port *p, const struct rx_ring *ring)
{
    int error;
    socklen_t size = sizeof(error);
    getsockopt(ring->fd, SOL_SOCKET, SO_ERROR, &error, &size);
    p->port.stats.syscalls++;
}

/* How many frames the kernel had no slot for since the last time. */
static uint32_t lost_frames(struct packet_port *p, const struct rx_ring *ring)
{
    struct tpacket_stats since_last_time = {0};
    socklen_t size = sizeof(since_last_time);
    getsockopt(ring->fd, SOL_PACKET, PACKET_STATISTICS, &since_last_time, &size);
    p->port.stats.syscalls++;
    return since_last_time.tp_drops;
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

struct burst {
    uint32_t seen, delivered; /* frames in the ring, of which the handler got */
    bool losing;              /* the kernel has lost frames since it was asked */
};

static struct burst take(struct packet_port *p, struct rx_ring *ring, uint32_t max, or_rx_fn *fn, void *arg)
{
    struct burst burst = {0};
    while (burst.seen < max) {
        struct tpacket2_hdr *slot = ring->slots[ring->head];
        uint32_t status = __atomic_load_n(&slot->tp_status, __ATOMIC_ACQUIRE);
        if (!(status & TP_STATUS_USER))
            break;
        burst.seen++;
        burst.losing |= (status & TP_STATUS_LOSING) != 0;
        burst.delivered += deliver(p, slot, fn, arg);
        __atomic_store_n(&slot->tp_status, TP_STATUS_KERNEL, __ATOMIC_RELEASE);
        ring->head = ring->head + 1 < ring->slot_count ? ring->head + 1 : 0;
    }
    return burst;
}

static uint32_t packet_rx_burst(struct or_port *port, uint32_t max, or_rx_fn *fn, void *arg)
{
    struct packet_port *p = (struct packet_port *)port;
    struct burst data = take(p, &p->data, max, fn, arg), handshake = {0};
    if (data.losing)
        port->stats.rx_dropped += lost_frames(p, &p->data);
    if (p->handshake.fd >= 0) {
        uint32_t budget = data.seen ? HANDSHAKES_PER_BUSY_BURST : HANDSHAKES_PER_BURST;
        handshake = take(p, &p->handshake, budget < max ? budget : max, fn, arg);
        if (handshake.losing)
            p->handshakes_lost += lost_frames(p, &p->handshake);
    }
    if (data.seen + handshake.seen == 0 && ++p->idle_bursts % IDLE_BURSTS_PER_CHECK == 0) {
        take_pending_error(p, &p->data);
        if (p->handshake.fd >= 0)
            take_pending_error(p, &p->handshake);
    }
    return data.delivered + handshake.delivered;
}

static int packet_allow(struct or_port *port, uint32_t session)
{
    return or_port_filter_allow(&((struct packet_port *)port)->filter, session);
}

static void packet_disallow(struct or_port *port, uint32_t session)
{
    or_port_filter_disallow(&((struct packet_port *)port)->filter, session);
}

static void packet_count(struct or_port *port)
{
    struct packet_port *p = (struct packet_port *)port;
    port->stats.rx_filtered = or_port_filter_dropped(&p->filter) + p->handshakes_lost;
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
    assert(p->tx_queued < TX_BATCH && length >= OR_ETH_HEADER && length <= OR_ETH_HEADER + p->mtu_room);
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

static int packet_socket(void)
{
    return socket(AF_PACKET, SOCK_RAW | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
}

static int open_sockets(struct packet_port *p, const char *ifname, struct sentence why)
{
    p->data.fd = packet_socket();
    if (p->data.fd >= 0)
        p->tx_fd = packet_socket();
    if (p->tx_fd >= 0)
        return 0;
    if (errno == EPERM)
        return refuse(why, EPERM,
                      "opening a packet port on %s needs CAP_NET_RAW: run as root, or give the systemd unit "
                      "AmbientCapabilities=CAP_NET_RAW",
                      ifname);
    return refuse_call(why, ifname, "socket");
}

/* Switched on, and with carrier where there is such a thing. */
static bool is_running(int flags)
{
    return (flags & IFF_UP) && (flags & IFF_RUNNING);
}

/* Fills the port's mac, mtu and down. */
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
    p->port.mtu = p->mtu_room = mtu < OR_MTU_MAX ? mtu : OR_MTU_MAX;
    if (ioctl(p->tx_fd, SIOCGIFFLAGS, &request) != 0)
        return refuse_call(why, ifname, "SIOCGIFFLAGS");
    p->port.down = !is_running(request.ifr_flags);
    return 0;
}

static uint32_t round_up(uint32_t n, uint32_t unit)
{
    return (n + unit - 1) / unit * unit;
}

/* At least slots_min slots for frames of up to 14 + mtu bytes. */
static int open_ring(struct rx_ring *r, uint32_t mtu, uint32_t slots_min, uint32_t block_bytes, const char *ifname,
                     struct sentence why)
{
    struct tpacket_req ring = {
        .tp_block_size = block_bytes,
        .tp_frame_size = round_up(RX_PAYLOAD_OFFSET + mtu, CACHE_LINE),
    };
    uint32_t slots_per_block = ring.tp_block_size / ring.tp_frame_size;
    ring.tp_frame_nr = r->slot_count = round_up(slots_min, slots_per_block);
    ring.tp_block_nr = r->slot_count / slots_per_block;

    int version = TPACKET_V2, reserve = RX_RESERVE;
    if (setsockopt(r->fd, SOL_PACKET, PACKET_VERSION, &version, sizeof(version)) != 0)
        return refuse_call(why, ifname, "PACKET_VERSION");
    if (setsockopt(r->fd, SOL_PACKET, PACKET_RESERVE, &reserve, sizeof(reserve)) != 0)
        return refuse_call(why, ifname, "PACKET_RESERVE");
    if (setsockopt(r->fd, SOL_PACKET, PACKET_RX_RING, &ring, sizeof(ring)) != 0)
        return refuse_call(why, ifname, "PACKET_RX_RING");

    r->bytes = (size_t)ring.tp_block_size * ring.tp_block_nr;
    r->memory = mmap(NULL, r->bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, r->fd, 0);
    if (r->memory == MAP_FAILED)
        return refuse_call(why, ifname, "mmap of the receive ring");
    r->slots = calloc(r->slot_count, sizeof(*r->slots));
    if (!r->slots)
        return refuse_call(why, ifname, "calloc");
    for (uint32_t i = 0; i < r->slot_count; i++) {
        size_t offset = (size_t)(i / slots_per_block) * ring.tp_block_size + i % slots_per_block * ring.tp_frame_size;
        r->slots[i] = (struct tpacket2_hdr *)(r->memory + offset);
    }
    return 0;
}

static int open_data_ring(struct packet_port *p, const char *ifname, struct sentence why)
{
    bool large = p->port.mtu > RX_LARGE_MTU;
    int err = open_ring(&p->data, p->port.mtu, large ? RX_LARGE_SLOTS_MIN : RX_SLOTS_MIN,
                        large ? RX_LARGE_BLOCK_BYTES : RX_BLOCK_BYTES, ifname, why);
    p->port.rx_frames = p->data.slot_count;
    return err;
}

static void close_ring(struct rx_ring *r)
{
    if (r->memory != MAP_FAILED)
        munmap(r->memory, r->bytes);
    free(r->slots);
    if (r->fd >= 0)
        close(r->fd);
    *r = (struct rx_ring){.fd = -1, .memory = MAP_FAILED};
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
    p->ifindex = (int)if_nametoindex(ifname);
    struct sockaddr_ll address = {.sll_family = AF_PACKET, .sll_ifindex = p->ifindex};
    if (bind(p->tx_fd, (struct sockaddr *)&address, sizeof(address)) != 0)
        return refuse_call(why, ifname, "bind");
    address.sll_protocol = htons(p->port.ethertype);
    if (bind(p->data.fd, (struct sockaddr *)&address, sizeof(address)) != 0)
        return refuse_call(why, ifname, "bind");
    take_pending_error(p, &p->data);
    p->port.fd = p->data.fd;
    return 0;
}

static void release(struct packet_port *p)
{
    close_ring(&p->data);
    close_ring(&p->handshake);
    or_port_filter_close(&p->filter);
    if (p->tx_buffers != MAP_FAILED)
        munmap(p->tx_buffers, p->tx_buffers_bytes);
    if (p->tx_fd >= 0)
        close(p->tx_fd);
}

static void packet_close(struct or_port *port)
{
    struct packet_port *p = (struct packet_port *)port;
    release(p);
    free(p);
}

static bool packet_refresh(struct or_port *port);

static const struct or_port_ops packet_ops = {
    .tx_alloc = packet_tx_alloc,
    .tx_commit = packet_tx_commit,
    .tx_flush = packet_tx_flush,
    .rx_burst = packet_rx_burst,
    .allow = packet_allow,
    .disallow = packet_disallow,
    .count = packet_count,
    .refresh = packet_refresh,
    .close = packet_close,
};

/* Fills *p; release follows either way. */
static int open_all(struct packet_port *p, const char *ifname, uint16_t ethertype, uint32_t mtu, struct sentence why)
{
    *p = (struct packet_port){
        .port = {.ops = &packet_ops, .ethertype = ethertype, .fd = -1, .handshake_fd = -1},
        .tx_fd = -1,
        .data = {.fd = -1, .memory = MAP_FAILED},
        .handshake = {.fd = -1, .memory = MAP_FAILED},
        .filter = {-1, -1, NULL, 0},
        .tx_buffers = MAP_FAILED,
    };
    p->mtu_wanted = mtu;
    int err = open_sockets(p, ifname, why);
    if (err == 0)
        err = examine_link(p, ifname, mtu, why);
    if (err == 0)
        err = open_data_ring(p, ifname, why);
    if (err == 0)
        err = open_batch(p, ifname, why);
    if (err == 0)
        err = bind_sockets(p, ifname, why);
    if (err == 0)
        strcpy(p->ifname, ifname); /* examine_link has seen that it fits */
    return err;
}

struct or_port *or_port_packet_open(const char *ifname, uint16_t ethertype, uint32_t mtu, int *err, char *why,
                                    uint32_t why_size)
{
    struct sentence sentence = {why, why_size};
    struct packet_port *p = calloc(1, sizeof(*p));
    if (!p) {
        *err = refuse_call(sentence, ifname, "calloc");
        return NULL;
    }
    *err = open_all(p, ifname, ethertype, mtu, sentence);
    if (*err == 0)
        return &p->port;
    packet_close(&p->port);
    return NULL;
}

/* The socket and ring of frames of other types than DATA, and the filter that tells types and sessions apart:
 * a new one, or the one that `before` has. */
static int open_handshakes(struct packet_port *p, uint32_t types, uint32_t sessions_max, struct packet_port *before,
                           struct sentence why)
{
    const char *ifname = p->ifname;
    struct sockaddr_ll address = {
        .sll_family = AF_PACKET, .sll_ifindex = p->ifindex, .sll_protocol = htons(p->port.ethertype)};
    p->handshake.fd = packet_socket();
    if (p->handshake.fd < 0)
        return refuse_call(why, ifname, "socket");
    int err = open_ring(&p->handshake, HANDSHAKE_MTU, HANDSHAKE_SLOTS_MIN, RX_BLOCK_BYTES, ifname, why);
    if (err)
        return err;
    if (before)
        err = or_port_filter_attach(&before->filter, p->data.fd, p->handshake.fd);
    else
        err = or_port_filter_open(&p->filter, p->data.fd, p->handshake.fd, types, sessions_max);
    if (err)
        return refuse(why, -err, "cannot filter the frames on %s: %s", ifname, strerror(-err));
    if (bind(p->handshake.fd, (struct sockaddr *)&address, sizeof(address)) != 0)
        return refuse_call(why, ifname, "bind");
    take_pending_error(p, &p->handshake);
    p->port.handshake_fd = p->handshake.fd;
    if (before) {
        p->filter = before->filter;
        before->filter = (struct or_port_filter){-1, -1, NULL, 0};
    }
    p->port.filter = p->filter.state ? OR_FILTER_SESSION : OR_FILTER_CLASSIC;
    return 0;
}

int or_port_packet_filter(struct or_port *port, uint32_t types, uint32_t sessions_max, char *why, uint32_t why_size)
{
    struct packet_port *p = (struct packet_port *)port;
    int err = open_handshakes(p, types, sessions_max, NULL, (struct sentence){why, why_size});
    if (err)
        close_ring(&p->handshake);
    return err;
}

/* ---- following the interface ---- */

/* New sockets and buffers in the place of the old ones. When they cannot be had, the old ones stay. */
static bool open_again(struct packet_port *p, uint32_t mtu)
{
    char text[256];
    struct sentence why = {text, sizeof(text)};
    struct packet_port fresh;
    int err = open_all(&fresh, p->ifname, p->port.ethertype, mtu, why);
    if (!err && p->handshake.fd >= 0)
        err = open_handshakes(&fresh, 0, 0, p, why);
    if (err) {
        release(&fresh);
        return false;
    }
    for (uint32_t i = 0; i < TX_BATCH; i++) { /* these point into themselves */
        bool vnet = fresh.tx_messages[i].msg_hdr.msg_iovlen == 2;
        fresh.tx_messages[i].msg_hdr.msg_iov = p->tx_iov[i] + !vnet;
        fresh.tx_iov[i][0].iov_base = &p->tx_vnet;
    }
    fresh.port.stats = p->port.stats;
    fresh.mtu_wanted = p->mtu_wanted;
    fresh.handshakes_lost = p->handshakes_lost;
    release(p);
    *p = fresh;
    return true;
}

static bool packet_refresh(struct or_port *port)
{
    struct packet_port *p = (struct packet_port *)port;
    struct or_port before = *port;
    struct ifreq request = {0};
    strcpy(request.ifr_name, p->ifname);
    packet_tx_flush(port); /* what is queued would be lost */
    int index = ioctl(p->tx_fd, SIOCGIFINDEX, &request) == 0 ? request.ifr_ifindex : 0;
    if (!index || ioctl(p->tx_fd, SIOCGIFMTU, &request) != 0) {
        port->down = true;
        return !before.down;
    }
    uint32_t mtu = request.ifr_mtu < (int)OR_MTU_MAX ? (uint32_t)request.ifr_mtu : OR_MTU_MAX;
    if (p->mtu_wanted && p->mtu_wanted < mtu)
        mtu = p->mtu_wanted;
    if (mtu < OR_MTU_MIN) {
        port->down = true; /* no frame of ours is sure to pass */
        return !before.down;
    }
    if (index != p->ifindex || mtu > p->mtu_room) {
        if (!open_again(p, mtu) && index != p->ifindex) {
            port->down = true;
            return !before.down;
        }
    } else {
        port->mtu = mtu;
        port->down = ioctl(p->tx_fd, SIOCGIFFLAGS, &request) != 0 || !is_running(request.ifr_flags);
        if (ioctl(p->tx_fd, SIOCGIFHWADDR, &request) == 0)
            memcpy(port->mac, request.ifr_hwaddr.sa_data, ETH_ALEN);
    }
    return port->down != before.down || port->mtu != before.mtu || port->fd != before.fd ||
           memcmp(port->mac, before.mac, ETH_ALEN) != 0;
}
