/* Frames over any Ethernet interface, through AF_PACKET sockets, each with a ring of its own (port_packet_ring.h):
 *
 *   data        frames of our EtherType
 *   envelope    envelopes (envelope.h), which hold several frames each, where there are to be any
 *   handshake   frames of other types than DATA, with a filter (port_filter.c)
 *
 * Sending is in port_packet_tx.h.
 *
 * Of data and envelopes the frame that came first is taken first: the kernel notes the time in the slot. Out of order
 * they would look lost to the session. While an envelope is taken frame by frame, its slot is ours to write in.
 *
 * Handshakes are the only frames that a stranger gets past the filter at will. They have a small ring of
 * their own, so a flood of them pushes no data out; and a burst that has data looks at one of them only,
 * so a flood takes no more of a busy worker's time than it has bursts.
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
#include <linux/if_ether.h>
#include <net/if.h>
#include <net/if_arp.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "envelope.h"
#include "port_filter.h"
#include "port_packet_ring.h"
#include "port_packet_tx.h"

#define IDLE_BURSTS_PER_CHECK 1024u
#define PLAIN_MTU_MIN 32768u /* from here on frames are large enough by themselves */

/* These sizes waste little for the usual MTUs; the kernel wants a block contiguous but also manages without. */
#define RX_SLOTS_MIN 128u
#define RX_BLOCK_BYTES (128u << 10)
#define RX_LARGE_MTU 16384u /* above: */
#define RX_LARGE_SLOTS_MIN 60u
#define RX_LARGE_BLOCK_BYTES (1u << 20)

#define HANDSHAKE_MTU 512u /* what is longer is none */
#define HANDSHAKE_SLOTS_MIN 128u
#define HANDSHAKES_PER_BURST 8u
#define HANDSHAKES_PER_BUSY_BURST 1u

struct packet_port {
    struct or_port port;
    char ifname[IFNAMSIZ];
    int ifindex;
    enum or_super_frames super_frames;
    uint32_t mtu_wanted;                             /* 0: the link's */
    uint32_t mtu_room;                               /* for which slots and buffers were made */
    struct or_packet_ring data, envelope, handshake; /* without a filter `data` gets everything */
    int poll_fd;                                     /* with envelopes: of both rings */
    struct or_envelope open;                         /* at the head of its ring, of which the payload is taken up to */
    uint32_t open_at;
    bool is_open;
    struct or_port_filter filter;
    uint64_t handshakes_lost; /* their ring was full */
    uint32_t idle_bursts;
    struct or_packet_tx *tx;
};

/* ---- receiving ---- */

static void take_pending_error(struct packet_port *p, const struct or_packet_ring *ring)
{
    or_packet_ring_take_error(ring);
    p->port.stats.syscalls++;
}

static uint32_t lost_frames(struct packet_port *p, const struct or_packet_ring *ring)
{
    p->port.stats.syscalls++;
    return or_packet_ring_lost(ring);
}

static bool is_for_us(const struct packet_port *p, const uint8_t *frame)
{
    static const uint8_t broadcast[ETH_ALEN] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff};
    return memcmp(frame, p->port.mac, ETH_ALEN) == 0 || memcmp(frame, broadcast, ETH_ALEN) == 0;
}

static void hand_on(struct packet_port *p, const uint8_t *frame, uint32_t length, or_rx_fn *fn, void *arg)
{
    p->port.stats.rx_frames++;
    p->port.stats.rx_bytes += length;
    fn(arg, frame, length);
}

/* Whether all of a frame for us lies in the slot. */
static bool is_good(struct packet_port *p, const struct tpacket2_hdr *slot)
{
    if (slot->tp_snaplen < slot->tp_len) {
        p->port.stats.rx_dropped++; /* larger than the MTU we agreed on, and cut */
        return false;
    }
    return slot->tp_snaplen >= OR_ETH_HEADER && is_for_us(p, (const uint8_t *)slot + slot->tp_mac);
}

struct burst {
    uint32_t seen, delivered; /* frames in the ring, of which the handler got */
    bool losing;              /* the kernel has lost frames since it was asked */
};

static void take_frame(struct packet_port *p, struct or_packet_ring *ring, struct burst *burst, or_rx_fn *fn, void *arg)
{
    struct tpacket2_hdr *slot = ring->slots[ring->head];
    burst->seen++;
    burst->losing |= (slot->tp_status & TP_STATUS_LOSING) != 0;
    if (is_good(p, slot)) {
        hand_on(p, (const uint8_t *)slot + slot->tp_mac, slot->tp_snaplen, fn, arg);
        burst->delivered++;
    }
    or_packet_ring_pop(ring);
}

/* One frame of the envelope at the head, which is given back after its last. */
static void take_segment(struct packet_port *p, struct burst *burst, or_rx_fn *fn, void *arg)
{
    struct tpacket2_hdr *slot = p->envelope.slots[p->envelope.head];
    uint8_t *frame = (uint8_t *)slot + slot->tp_mac;
    burst->seen++;
    if (!p->is_open) {
        burst->losing |= (slot->tp_status & TP_STATUS_LOSING) != 0;
        p->open_at = 0;
        p->is_open = is_good(p, slot);
        if (p->is_open && !or_envelope_read(&p->open, frame, slot->tp_snaplen, p->port.ethertype)) {
            p->port.stats.rx_malformed++;
            p->is_open = false;
        }
        p->port.stats.rx_envelopes += p->is_open;
    }
    uint32_t length;
    const uint8_t *segment =
        p->is_open ? or_envelope_segment(&p->open, frame, p->port.ethertype, &p->open_at, &length) : NULL;
    if (segment) {
        hand_on(p, segment, length, fn, arg);
        burst->delivered++;
    }
    if (!p->is_open || p->open_at == p->open.payload_bytes) {
        p->is_open = false;
        or_packet_ring_pop(&p->envelope);
    }
}

static bool came_before(const struct tpacket2_hdr *a, const struct tpacket2_hdr *b)
{
    return a->tp_sec != b->tp_sec ? a->tp_sec < b->tp_sec : a->tp_nsec < b->tp_nsec;
}

/* The ring whose head came first; NULL: both are empty. */
static struct or_packet_ring *next_ring(struct packet_port *p)
{
    const struct tpacket2_hdr *data = or_packet_ring_peek(&p->data), *envelope;
    if (p->envelope.fd < 0)
        return data ? &p->data : NULL;
    envelope = or_packet_ring_peek(&p->envelope);
    if (!envelope)
        return data ? &p->data : NULL;
    if (!data)
        data = or_packet_ring_peek(&p->data); /* it may have come meanwhile, and before the envelope */
    return data && !p->is_open && came_before(data, envelope) ? &p->data : &p->envelope;
}

static uint32_t packet_rx_burst(struct or_port *port, uint32_t max, or_rx_fn *fn, void *arg)
{
    struct packet_port *p = (struct packet_port *)port;
    struct burst data = {0}, envelope = {0}, handshake = {0};
    struct or_packet_ring *ring;
    while (data.seen + envelope.seen < max && (ring = next_ring(p))) {
        if (ring == &p->data)
            take_frame(p, ring, &data, fn, arg);
        else
            take_segment(p, &envelope, fn, arg);
    }
    uint32_t seen = data.seen + envelope.seen;
    if (data.losing)
        port->stats.rx_dropped += lost_frames(p, &p->data);
    if (envelope.losing)
        port->stats.rx_dropped += lost_frames(p, &p->envelope);
    if (p->handshake.fd >= 0) {
        uint32_t budget = seen ? HANDSHAKES_PER_BUSY_BURST : HANDSHAKES_PER_BURST;
        while (handshake.seen < budget && handshake.seen < max && or_packet_ring_peek(&p->handshake))
            take_frame(p, &p->handshake, &handshake, fn, arg);
        if (handshake.losing)
            p->handshakes_lost += lost_frames(p, &p->handshake);
    }
    if (seen + handshake.seen == 0 && ++p->idle_bursts % IDLE_BURSTS_PER_CHECK == 0) {
        take_pending_error(p, &p->data);
        if (p->envelope.fd >= 0)
            take_pending_error(p, &p->envelope);
        if (p->handshake.fd >= 0)
            take_pending_error(p, &p->handshake);
    }
    return data.delivered + envelope.delivered + handshake.delivered;
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

static void packet_tx_flush(struct or_port *port)
{
    or_packet_tx_flush(((struct packet_port *)port)->tx, &port->stats);
}

static uint8_t *packet_tx_alloc(struct or_port *port)
{
    return or_packet_tx_alloc(((struct packet_port *)port)->tx, &port->stats);
}

static void packet_tx_commit(struct or_port *port, uint32_t length)
{
    enum or_tx_form form = port->envelopes == OR_ENVELOPES_READY ? port->tx_form : OR_TX_PLAIN;
    or_packet_tx_commit(((struct packet_port *)port)->tx, length, form);
}

/* ---- opening and closing ---- */

static int refuse_missing(struct or_port_why why, const char *ifname)
{
    char names[256] = "";
    size_t used = 0;
    struct if_nameindex *all = if_nameindex();
    for (struct if_nameindex *i = all; i && i->if_index && used < sizeof(names); i++)
        used += (size_t)snprintf(names + used, sizeof(names) - used, "%s%s", used ? ", " : "", i->if_name);
    if (all)
        if_freenameindex(all);
    return or_port_refuse(why, ENODEV, "there is no network interface %s in this network namespace, which has: %s",
                          ifname, names);
}

static int packet_socket(void)
{
    return socket(AF_PACKET, SOCK_RAW | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
}

static int open_data_socket(struct packet_port *p, const char *ifname, struct or_port_why why)
{
    p->data.fd = packet_socket();
    if (p->data.fd >= 0)
        return 0;
    if (errno == EPERM)
        return or_port_refuse(why, EPERM,
                              "opening a packet port on %s needs CAP_NET_RAW: run as root, or give the systemd unit "
                              "AmbientCapabilities=CAP_NET_RAW",
                              ifname);
    return or_port_refuse_call(why, ifname, "socket");
}

/* Switched on, and with carrier where there is such a thing. */
static bool is_running(int flags)
{
    return (flags & IFF_UP) && (flags & IFF_RUNNING);
}

/* What the port does about envelopes where its own frames may have *mtu bytes, which is lowered to what their headers
 * leave. */
static enum or_port_envelopes decide(enum or_super_frames super_frames, uint32_t link_mtu, uint32_t *mtu)
{
    uint32_t most = or_envelope_segment_max(link_mtu);
    if (super_frames == OR_SUPER_FRAMES_OFF)
        return OR_ENVELOPES_OFF;
    if (super_frames == OR_SUPER_FRAMES_AUTO && *mtu >= PLAIN_MTU_MIN)
        return OR_ENVELOPES_LARGE;
    if (most < OR_MTU_MIN)
        return OR_ENVELOPES_SMALL;
    if (*mtu > most)
        *mtu = most;
    return OR_ENVELOPES_READY;
}

/* Fills the port's mac, mtu, envelopes and down. */
static int examine_link(struct packet_port *p, const char *ifname, uint32_t mtu, struct or_port_why why)
{
    struct ifreq request = {0};
    if (strlen(ifname) >= sizeof(request.ifr_name))
        return refuse_missing(why, ifname);
    strcpy(request.ifr_name, ifname);

    if (ioctl(p->data.fd, SIOCGIFHWADDR, &request) != 0)
        return errno == ENODEV ? refuse_missing(why, ifname) : or_port_refuse_call(why, ifname, "SIOCGIFHWADDR");
    if (request.ifr_hwaddr.sa_family != ARPHRD_ETHER)
        return or_port_refuse(why, ENOTSUP, "%s is not an Ethernet interface: choose one that is", ifname);
    memcpy(p->port.mac, request.ifr_hwaddr.sa_data, ETH_ALEN);

    if (ioctl(p->data.fd, SIOCGIFMTU, &request) != 0)
        return or_port_refuse_call(why, ifname, "SIOCGIFMTU");
    uint32_t link_mtu = (uint32_t)request.ifr_mtu;
    if (mtu > link_mtu)
        return or_port_refuse(
            why, EMSGSIZE,
            "MTU %u is above the %u of link %s: lower it, or run `ip link set dev %s mtu %u` (and the same on "
            "every link and switch of the segment)",
            mtu, link_mtu, ifname, ifname, mtu);
    if (mtu == 0)
        mtu = link_mtu;
    if (mtu > OR_MTU_MAX)
        mtu = OR_MTU_MAX;
    p->port.envelopes = decide(p->super_frames, link_mtu, &mtu);
    p->port.mtu = p->mtu_room = mtu;
    if (ioctl(p->data.fd, SIOCGIFFLAGS, &request) != 0)
        return or_port_refuse_call(why, ifname, "SIOCGIFFLAGS");
    p->port.down = !is_running(request.ifr_flags);
    return 0;
}

static int open_data_ring(struct packet_port *p, const char *ifname, struct or_port_why why)
{
    bool large = p->port.mtu > RX_LARGE_MTU;
    struct or_packet_ring_size size = {.frame_bytes = OR_ETH_HEADER + p->port.mtu,
                                       .aligned = OR_ETH_HEADER,
                                       .slots_min = large ? RX_LARGE_SLOTS_MIN : RX_SLOTS_MIN,
                                       .block_bytes = large ? RX_LARGE_BLOCK_BYTES : RX_BLOCK_BYTES};
    int err = or_packet_ring_open(&p->data, &size, ifname, why);
    p->port.rx_frames = p->data.slot_count;
    return err;
}

/* Where envelopes arrive that were cut, each piece takes a slot: so there are as many as peers may send frames. */
static int open_envelopes(struct packet_port *p, const char *ifname, struct or_port_why why)
{
    struct or_packet_ring_size size = {.frame_bytes = OR_ENVELOPE_HEAD + OR_ENVELOPE_PAYLOAD_MAX,
                                       .aligned = OR_ENVELOPE_HEAD,
                                       .slots_min = p->port.rx_frames,
                                       .block_bytes = RX_LARGE_BLOCK_BYTES};
    p->envelope.fd = packet_socket();
    if (p->envelope.fd < 0)
        return or_port_refuse_call(why, ifname, "socket");
    int err = or_packet_ring_open(&p->envelope, &size, ifname, why);
    if (!err && (err = or_port_filter_envelopes(p->envelope.fd, p->port.ethertype, OR_ANY_CHANNEL)))
        err = or_port_refuse(why, -err, "cannot filter the envelopes on %s: %s", ifname, strerror(-err));
    return err;
}

static int open_tx(struct packet_port *p, const char *ifname, struct or_port_why why)
{
    struct or_packet_tx_config config = {.ifname = ifname,
                                         .mtu = p->port.mtu,
                                         .ethertype = p->port.ethertype,
                                         .envelopes = p->port.envelopes == OR_ENVELOPES_READY};
    int err;
    p->tx = or_packet_tx_open(&config, &err, why);
    return err;
}

static int bind_socket(struct packet_port *p, const struct or_packet_ring *ring, uint16_t protocol, const char *ifname,
                       struct or_port_why why)
{
    struct sockaddr_ll address = {.sll_family = AF_PACKET, .sll_ifindex = p->ifindex, .sll_protocol = htons(protocol)};
    if (bind(ring->fd, (struct sockaddr *)&address, sizeof(address)) != 0)
        return or_port_refuse_call(why, ifname, "bind");
    take_pending_error(p, ring);
    return 0;
}

/* One descriptor for both rings. */
static int open_poll(struct packet_port *p, const char *ifname, struct or_port_why why)
{
    struct epoll_event event = {.events = EPOLLIN};
    p->poll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (p->poll_fd < 0 || epoll_ctl(p->poll_fd, EPOLL_CTL_ADD, p->data.fd, &event) != 0 ||
        epoll_ctl(p->poll_fd, EPOLL_CTL_ADD, p->envelope.fd, &event) != 0)
        return or_port_refuse_call(why, ifname, "epoll");
    return 0;
}

/* From here on frames arrive. A link that is down is no obstacle: it leaves an error pending. */
static int bind_sockets(struct packet_port *p, const char *ifname, struct or_port_why why)
{
    p->ifindex = (int)if_nametoindex(ifname);
    int err = bind_socket(p, &p->data, p->port.ethertype, ifname, why);
    p->port.fd = p->data.fd;
    if (err || p->port.envelopes != OR_ENVELOPES_READY)
        return err;
    err = bind_socket(p, &p->envelope, ETH_P_IP, ifname, why);
    if (!err)
        err = open_poll(p, ifname, why);
    p->port.fd = p->poll_fd;
    return err;
}

static void release(struct packet_port *p)
{
    or_packet_ring_close(&p->data);
    or_packet_ring_close(&p->envelope);
    or_packet_ring_close(&p->handshake);
    or_port_filter_close(&p->filter);
    if (p->poll_fd >= 0)
        close(p->poll_fd);
    if (p->tx)
        or_packet_tx_close(p->tx);
}

static void packet_close(struct or_port *port)
{
    struct packet_port *p = (struct packet_port *)port;
    release(p);
    free(p);
}

static int packet_filter(struct or_port *port, const struct or_port_door *door, char *why, uint32_t why_size);
static bool packet_refresh(struct or_port *port);

static const struct or_port_ops packet_ops = {
    .tx_alloc = packet_tx_alloc,
    .tx_commit = packet_tx_commit,
    .tx_flush = packet_tx_flush,
    .rx_burst = packet_rx_burst,
    .set_filter = packet_filter,
    .allow = packet_allow,
    .disallow = packet_disallow,
    .count = packet_count,
    .refresh = packet_refresh,
    .close = packet_close,
};

/* What was asked for when a port was opened. */
struct wish {
    const char *ifname;
    uint16_t ethertype;
    uint32_t mtu;
    enum or_super_frames super_frames;
};

/* Fills *p; release follows either way. */
static int open_all(struct packet_port *p, const struct wish *wish, struct or_port_why why)
{
    const char *ifname = wish->ifname;
    *p = (struct packet_port){
        .port = {.ops = &packet_ops, .ethertype = wish->ethertype, .fd = -1, .handshake_fd = -1},
        .super_frames = wish->super_frames,
        .mtu_wanted = wish->mtu,
        .data = OR_PACKET_RING_CLOSED,
        .envelope = OR_PACKET_RING_CLOSED,
        .handshake = OR_PACKET_RING_CLOSED,
        .filter = {-1, -1, NULL, {0}},
        .poll_fd = -1,
    };
    int err = open_data_socket(p, ifname, why);
    if (err == 0)
        err = examine_link(p, ifname, wish->mtu, why);
    if (err == 0)
        err = open_data_ring(p, ifname, why);
    if (err == 0 && p->port.envelopes == OR_ENVELOPES_READY)
        err = open_envelopes(p, ifname, why);
    if (err == 0)
        err = open_tx(p, ifname, why);
    if (err == 0)
        err = bind_sockets(p, ifname, why);
    if (err == 0)
        strcpy(p->ifname, ifname); /* examine_link has seen that it fits */
    return err;
}

/* open_all, and without envelopes where these do not work and need not. */
static int open_best(struct packet_port *p, const struct wish *wish, struct or_port_why why)
{
    int err = open_all(p, wish, why);
    if (!err || p->port.envelopes != OR_ENVELOPES_READY || wish->super_frames != OR_SUPER_FRAMES_AUTO)
        return err;
    struct wish less = *wish;
    less.super_frames = OR_SUPER_FRAMES_OFF;
    release(p);
    err = open_all(p, &less, why);
    p->super_frames = OR_SUPER_FRAMES_AUTO;
    p->port.envelopes = OR_ENVELOPES_REFUSED;
    return err;
}

struct or_port *or_port_packet_open(const char *ifname, uint16_t ethertype, uint32_t mtu,
                                    enum or_super_frames super_frames, int *err, char *why, uint32_t why_size)
{
    struct or_port_why sentence = {why, why_size};
    struct wish wish = {ifname, ethertype, mtu, super_frames};
    struct packet_port *p = calloc(1, sizeof(*p));
    if (!p) {
        *err = or_port_refuse_call(sentence, ifname, "calloc");
        return NULL;
    }
    *err = open_best(p, &wish, sentence);
    if (*err == 0)
        return &p->port;
    packet_close(&p->port);
    return NULL;
}

/* The socket and ring of frames of other types than DATA, and the filter that tells types and sessions apart:
 * a new one, or the one that `before` has. */
static int open_handshakes(struct packet_port *p, const struct or_port_door *door, struct packet_port *before,
                           struct or_port_why why)
{
    const char *ifname = p->ifname;
    struct or_packet_ring_size size = {.frame_bytes = OR_ETH_HEADER + HANDSHAKE_MTU,
                                       .aligned = OR_ETH_HEADER,
                                       .slots_min = HANDSHAKE_SLOTS_MIN,
                                       .block_bytes = RX_BLOCK_BYTES};
    p->handshake.fd = packet_socket();
    if (p->handshake.fd < 0)
        return or_port_refuse_call(why, ifname, "socket");
    int err = or_packet_ring_open(&p->handshake, &size, ifname, why);
    if (err)
        return err;
    struct or_port_filter_sockets sockets = {p->data.fd, p->envelope.fd, p->handshake.fd, p->port.ethertype};
    if (before)
        err = or_port_filter_attach(&before->filter, &sockets);
    else
        err = or_port_filter_open(&p->filter, &sockets, door);
    if (err)
        return or_port_refuse(why, -err, "cannot filter the frames on %s: %s", ifname, strerror(-err));
    err = bind_socket(p, &p->handshake, p->port.ethertype, ifname, why);
    if (err)
        return err;
    p->port.handshake_fd = p->handshake.fd;
    if (before) {
        p->filter = before->filter;
        before->filter = (struct or_port_filter){-1, -1, NULL, {0}};
    }
    p->port.filter = p->filter.state ? OR_FILTER_SESSION : OR_FILTER_CLASSIC;
    return 0;
}

static int packet_filter(struct or_port *port, const struct or_port_door *door, char *why, uint32_t why_size)
{
    struct packet_port *p = (struct packet_port *)port;
    int err = open_handshakes(p, door, NULL, (struct or_port_why){why, why_size});
    if (err)
        or_packet_ring_close(&p->handshake);
    return err;
}

/* ---- following the interface ---- */

/* New sockets and buffers in the place of the old ones. When they cannot be had, the old ones stay. */
static bool open_again(struct packet_port *p, uint32_t mtu)
{
    char text[256];
    struct or_port_why why = {text, sizeof(text)};
    struct wish wish = {p->ifname, p->port.ethertype, mtu, p->super_frames};
    struct packet_port fresh;
    int err = open_best(&fresh, &wish, why);
    if (!err && p->handshake.fd >= 0)
        err = open_handshakes(&fresh, NULL, p, why);
    if (err) {
        release(&fresh);
        return false;
    }
    fresh.port.stats = p->port.stats;
    fresh.mtu_wanted = p->mtu_wanted;
    fresh.handshakes_lost = p->handshakes_lost;
    release(p);
    *p = fresh;
    return true;
}

/* The interface is the same, and what we have is large enough. */
static void adapt(struct packet_port *p, uint32_t mtu, enum or_port_envelopes envelopes, struct ifreq *request)
{
    struct or_port *port = &p->port;
    port->mtu = mtu;
    port->envelopes = envelopes;
    port->down = ioctl(p->data.fd, SIOCGIFFLAGS, request) != 0 || !is_running(request->ifr_flags);
    if (ioctl(p->data.fd, SIOCGIFHWADDR, request) == 0)
        memcpy(port->mac, request->ifr_hwaddr.sa_data, ETH_ALEN);
}

static bool packet_refresh(struct or_port *port)
{
    struct packet_port *p = (struct packet_port *)port;
    struct or_port before = *port;
    struct ifreq request = {0};
    strcpy(request.ifr_name, p->ifname);
    packet_tx_flush(port); /* what is queued would be lost */
    int index = ioctl(p->data.fd, SIOCGIFINDEX, &request) == 0 ? request.ifr_ifindex : 0;
    if (!index || ioctl(p->data.fd, SIOCGIFMTU, &request) != 0) {
        port->down = true;
        return !before.down;
    }
    uint32_t link_mtu = request.ifr_mtu < (int)OR_MTU_MAX ? (uint32_t)request.ifr_mtu : OR_MTU_MAX;
    uint32_t mtu = p->mtu_wanted && p->mtu_wanted < link_mtu ? p->mtu_wanted : link_mtu;
    if (mtu < OR_MTU_MIN) {
        port->down = true; /* no frame of ours is sure to pass */
        return !before.down;
    }
    uint32_t fit = mtu;
    enum or_port_envelopes envelopes = decide(p->super_frames, link_mtu, &fit);
    bool lacking = envelopes == OR_ENVELOPES_READY && p->envelope.fd < 0;
    if (lacking && port->envelopes == OR_ENVELOPES_REFUSED) {
        lacking = false;
        envelopes = OR_ENVELOPES_REFUSED;
        fit = mtu;
    }
    if (index == p->ifindex && fit <= p->mtu_room && !lacking)
        adapt(p, fit, envelopes, &request);
    else if (!open_again(p, mtu) && index != p->ifindex) {
        port->down = true;
        return !before.down;
    }
    return port->down != before.down || port->mtu != before.mtu || port->fd != before.fd ||
           memcmp(port->mac, before.mac, ETH_ALEN) != 0;
}
