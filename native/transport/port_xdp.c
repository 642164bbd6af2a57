/* Frames through AF_XDP sockets, with a packet port beside them.
 *
 *                            ┌─ data of our sessions ──> AF_XDP socket of the queue ──┐
 *     NIC ──> XDP program ───┤                                                        ├──> rx_burst
 *                            └─ everything else ──> kernel ──> packet port ───────────┘
 *
 * The packet port (port_packet.c) is a whole one, with its filter. It takes what the program passes on: handshakes,
 * which a stranger can send at will, in the small ring that they have there; the sample of data frames without a
 * session; broadcasts; frames of a queue that has no socket. Until everything is in place it takes everything, and
 * sends: so the port works from the moment it is opened until it is closed, with AF_XDP as soon as that can be had.
 *
 * That is not at once when an engine follows another one, which may still have the program and the queues, or whose
 * end the kernel is still cleaning up (it does so in the background). refresh then goes on where the last try ended,
 * less and less often. The program comes first, because whether it can be had is quickly known; and it stays while a
 * queue cannot be had yet: frames that find no socket go on to the kernel, and many a driver resets its NIC when a
 * program comes or goes.
 *
 * A socket is bound to one queue. NICs put frames that are not IP into one queue as a rule, but which one is up to
 * them: so every queue has a socket, up to QUEUES_MAX. Sending uses that of the first. */
#include "port.h"

#include <assert.h>
#include <errno.h>
#include <linux/ethtool.h>
#include <linux/if_ether.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

#include "bpf.h"
#include "port_why.h"
#include "port_xdp_program.h"
#include "port_xdp_socket.h"
#include "wire/wire.h"

#define QUEUES_MAX 16u
#define RETRY_NS_MIN 500000000ull
#define RETRY_NS_MAX 60000000000ull

struct xdp_port {
    struct or_port port;    /* fd: an epoll descriptor over all the others */
    struct or_port *packet; /* takes what the program passes on, or everything */
    int packet_fd;          /* that is watched */
    char ifname[IFNAMSIZ];
    int sessions_fd; /* map for the program; -1: unfiltered */
    uint8_t channel; /* of the frames that it takes when filtered */
    uint64_t retry_at, retry_ns;

    /* While there is a program, else 0: */
    uint32_t ifindex;
    uint8_t mac[ETH_ALEN]; /* that the program looks for */
    struct or_xdp_program program;
    uint32_t queue_count, queues_wanted, next_queue; /* next: to look at first */
    struct or_xdp_socket queues[QUEUES_MAX];
    bool attached; /* all of them get frames */

    struct or_port_stats received, closed; /* closed: of sockets that are no more */
};

static uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000ull + (uint64_t)t.tv_nsec;
}

/* ---- receiving and sending ---- */

struct delivery {
    struct xdp_port *p;
    or_rx_fn *fn;
    void *arg;
    uint32_t count;
};

static void deliver(void *arg, const uint8_t *frame, uint32_t length)
{
    struct delivery *d = arg;
    d->p->received.rx_frames++;
    d->p->received.rx_bytes += length;
    d->count++;
    d->fn(d->arg, frame, length);
}

static uint32_t xdp_rx_burst(struct or_port *port, uint32_t max, or_rx_fn *fn, void *arg)
{
    struct xdp_port *p = (struct xdp_port *)port;
    if (!p->attached)
        return or_port_rx_burst(p->packet, max, fn, arg);
    struct delivery d = {p, fn, arg, 0};
    uint32_t taken = 0, queue = p->next_queue;
    for (uint32_t i = 0; i < p->queue_count && taken < max; i++) {
        taken += or_xdp_socket_receive(&p->queues[queue], max - taken, deliver, &d);
        queue = queue + 1 < p->queue_count ? queue + 1 : 0;
    }
    p->next_queue = queue;
    /* A burst that has data takes one handshake, as in a packet port. */
    return d.count + or_port_rx_burst(p->packet, taken ? 1 : max, fn, arg);
}

static uint8_t *xdp_tx_alloc(struct or_port *port)
{
    struct xdp_port *p = (struct xdp_port *)port;
    return p->attached ? or_xdp_socket_tx_alloc(&p->queues[0]) : or_port_tx_alloc(p->packet);
}

static void xdp_tx_commit(struct or_port *port, uint32_t length)
{
    struct xdp_port *p = (struct xdp_port *)port;
    if (p->attached)
        or_xdp_socket_tx_commit(&p->queues[0], length);
    else
        or_port_tx_commit(p->packet, length);
}

static void xdp_tx_flush(struct or_port *port)
{
    struct xdp_port *p = (struct xdp_port *)port;
    if (p->attached)
        or_xdp_socket_tx_flush(&p->queues[0]);
    else
        or_port_tx_flush(p->packet);
}

static void xdp_count(struct or_port *port)
{
    struct xdp_port *p = (struct xdp_port *)port;
    struct or_port_stats sum = or_port_stats(p->packet);
    or_port_stats_add(&sum, &p->received);
    or_port_stats_add(&sum, &p->closed);
    for (uint32_t i = 0; i < p->queue_count; i++) {
        struct or_port_stats s = or_xdp_socket_stats(&p->queues[i]);
        or_port_stats_add(&sum, &s);
    }
    port->stats = sum;
}

/* ---- attaching ---- */

static void detach(struct xdp_port *p)
{
    or_xdp_program_close(&p->program); /* first: no frame meets a closed socket */
    for (uint32_t i = 0; i < p->queue_count; i++) {
        struct or_port_stats s = or_xdp_socket_stats(&p->queues[i]);
        or_port_stats_add(&p->closed, &s);
        or_xdp_socket_close(&p->queues[i]);
    }
    p->port.xdp.queues = p->port.xdp.zero_copy_queues = 0;
    p->ifindex = p->queue_count = p->next_queue = 0;
    p->attached = false;
}

static uint32_t count_queues(const struct xdp_port *p)
{
    struct ethtool_channels channels = {.cmd = ETHTOOL_GCHANNELS};
    struct ifreq request = {.ifr_data = (void *)&channels};
    strcpy(request.ifr_name, p->ifname);
    uint32_t count = ioctl(p->packet->fd, SIOCETHTOOL, &request) == 0 ? channels.combined_count + channels.rx_count : 1;
    if (count > QUEUES_MAX)
        return QUEUES_MAX;
    return count ? count : 1;
}

static uint32_t interface_index(const struct xdp_port *p)
{
    struct ifreq request = {0};
    strcpy(request.ifr_name, p->ifname);
    return ioctl(p->packet->fd, SIOCGIFINDEX, &request) == 0 ? (uint32_t)request.ifr_ifindex : 0;
}

static int watch(const struct xdp_port *p, int fd)
{
    struct epoll_event event = {.events = EPOLLIN};
    return epoll_ctl(p->port.fd, EPOLL_CTL_ADD, fd, &event) != 0 ? -errno : 0;
}

static struct or_xdp_filter filter_of(const struct xdp_port *p)
{
    struct or_xdp_filter filter = {
        .ethertype = p->port.ethertype, .sessions_fd = p->sessions_fd, .channel = p->channel};
    memcpy(filter.mac, p->port.mac, sizeof filter.mac);
    return filter;
}

static int add_program(struct xdp_port *p)
{
    uint32_t ifindex = interface_index(p), count = count_queues(p);
    struct or_xdp_filter filter = filter_of(p);
    int err = or_xdp_program_open(&p->program, ifindex, count, &filter);
    if (err)
        return err;
    p->ifindex = ifindex;
    p->queues_wanted = count;
    memcpy(p->mac, filter.mac, sizeof p->mac);
    return 0;
}

/* The socket of the next queue. In its memory the kernel's copy of a frame and the driver's must not mix: where the
 * program is above the driver, there is no zero-copy. */
static int add_queue(struct xdp_port *p)
{
    struct or_xdp_socket *s = &p->queues[p->queue_count];
    struct or_xdp_socket_config config = {.ifindex = p->ifindex,
                                          .queue = p->queue_count,
                                          .frame_max = OR_ETH_HEADER + p->port.mtu,
                                          .rx_frames = p->port.rx_frames,
                                          .send = p->queue_count == 0,
                                          .copy = p->program.generic};
    int err = or_xdp_socket_open(s, &config);
    if (err)
        return err;
    p->queue_count++;
    return watch(p, s->fd);
}

/* Every queue has a socket: from here on they get the frames. */
static int begin(struct xdp_port *p)
{
    struct or_port_xdp xdp = {.queues = p->queue_count};
    for (uint32_t i = 0; i < p->queue_count; i++) {
        int err = or_xdp_program_steer(&p->program, i, p->queues[i].fd);
        if (err)
            return err;
        xdp.zero_copy_queues += p->queues[i].zero_copy;
    }
    if (xdp.zero_copy_queues == xdp.queues)
        xdp.form = OR_XDP_ZERO_COPY;
    else if (p->program.generic)
        xdp.form = OR_XDP_GENERIC;
    else
        xdp.form = or_xdp_socket_is_large(p->queues[0].frame_max) ? OR_XDP_COPIED_PIECES : OR_XDP_COPIED;
    p->port.xdp = xdp;
    p->attached = true;
    p->retry_ns = RETRY_NS_MIN;
    return 0;
}

/* What stood in the way. */
enum step { STEP_PROGRAM, STEP_SOCKET };

/* Goes on with what is there. 0, or -errno and where it went wrong. */
static int attach(struct xdp_port *p, enum step *step)
{
    int err = 0;
    *step = STEP_PROGRAM;
    if (!p->ifindex)
        err = add_program(p);
    if (!err)
        *step = STEP_SOCKET;
    while (!err && p->queue_count < p->queues_wanted)
        err = add_queue(p);
    return err ? err : begin(p);
}

/* Time may help: another process has what we need, or a driver wants its link up. */
static bool is_temporary(int err)
{
    return err == -EBUSY || err == -ENETDOWN;
}

static void try_again_at(struct xdp_port *p, uint64_t at, enum or_xdp_form form)
{
    p->port.xdp.form = form;
    p->retry_at = at;
}

static void wait_for_another_try(struct xdp_port *p, int err)
{
    try_again_at(p, now_ns() + p->retry_ns, err == -EBUSY ? OR_XDP_BUSY : OR_XDP_REFUSED);
    p->retry_ns = p->retry_ns * 2 < RETRY_NS_MAX ? p->retry_ns * 2 : RETRY_NS_MAX;
}

/* ---- the filter ---- */

/* What the program is told has changed. Where it cannot have it, it is no use: the interface is gone, as a rule. */
static void update_program(struct xdp_port *p)
{
    struct or_xdp_filter filter = filter_of(p);
    if (!p->ifindex)
        return;
    if (or_xdp_program_filter(&p->program, &filter) == 0) {
        memcpy(p->mac, filter.mac, sizeof p->mac);
    } else {
        detach(p);
        try_again_at(p, 0, OR_XDP_REFUSED);
    }
}

static int xdp_set_filter(struct or_port *port, const struct or_port_door *door, char *why, uint32_t why_size)
{
    struct xdp_port *p = (struct xdp_port *)port;
    int err = or_port_set_filter(p->packet, door, why, why_size);
    if (err)
        return err;
    p->sessions_fd = or_bpf_map(BPF_MAP_TYPE_HASH, 1, door->sessions_max, 0);
    if (p->sessions_fd < 0)
        return or_port_refuse((struct or_port_why){why, why_size}, -p->sessions_fd,
                              "cannot filter the frames on %s: %s", p->ifname, strerror(-p->sessions_fd));
    p->channel = door->channel;
    port->filter = p->packet->filter;
    port->handshake_fd = p->packet->handshake_fd;
    update_program(p);
    return 0;
}

/* The program never knows a session that the packet port does not know. */
static int xdp_allow(struct or_port *port, uint32_t session)
{
    struct xdp_port *p = (struct xdp_port *)port;
    uint8_t present = 1;
    int err = or_port_allow(p->packet, session);
    if (!err && p->sessions_fd >= 0)
        err = or_bpf_map_set(p->sessions_fd, session, &present);
    return err;
}

static void xdp_disallow(struct or_port *port, uint32_t session)
{
    struct xdp_port *p = (struct xdp_port *)port;
    if (p->sessions_fd >= 0)
        or_bpf_map_delete(p->sessions_fd, session);
    or_port_disallow(p->packet, session);
}

/* ---- following the interface ---- */

/* A descriptor over all the others. A new one is what tells the owner that there are others: `handshake_fd` too. */
static int open_epoll(struct xdp_port *p)
{
    int before = p->port.fd;
    p->port.fd = epoll_create1(EPOLL_CLOEXEC);
    int err = p->port.fd < 0 ? -errno : watch(p, p->packet->fd);
    for (uint32_t i = 0; i < p->queue_count && !err; i++)
        err = watch(p, p->queues[i].fd);
    int unused = err ? p->port.fd : before;
    if (unused >= 0)
        close(unused);
    if (err)
        p->port.fd = before;
    else
        p->packet_fd = p->packet->fd;
    return err;
}

static void copy_from_packet(struct xdp_port *p)
{
    const struct or_port *packet = p->packet;
    memcpy(p->port.mac, packet->mac, sizeof p->port.mac);
    p->port.mtu = packet->mtu;
    p->port.rx_frames = packet->rx_frames;
    p->port.handshake_fd = packet->handshake_fd;
    p->port.filter = packet->filter;
    p->port.down = packet->down;
}

/* What we have is for another interface, or for smaller frames. */
static bool is_outdated(const struct xdp_port *p, uint32_t ifindex)
{
    return ifindex != p->ifindex || (p->queue_count && OR_ETH_HEADER + p->port.mtu > p->queues[0].frame_max);
}

static void follow(struct xdp_port *p, bool changed)
{
    uint32_t ifindex = interface_index(p);
    enum step step;
    if (p->ifindex && is_outdated(p, ifindex)) {
        detach(p);
        try_again_at(p, 0, OR_XDP_REFUSED);
    } else if (memcmp(p->mac, p->port.mac, sizeof p->mac) != 0) {
        update_program(p);
    }
    if (!or_port_xdp_waits(&p->port.xdp) || !ifindex || p->port.mtu < OR_MTU_MIN ||
        (!changed && now_ns() < p->retry_at))
        return;
    int err = attach(p, &step);
    if (err)
        wait_for_another_try(p, err);
}

static bool xdp_refresh(struct or_port *port)
{
    struct xdp_port *p = (struct xdp_port *)port;
    struct or_port before = *port;
    xdp_tx_flush(port);
    bool changed = or_port_refresh(p->packet);
    copy_from_packet(p);
    if (p->packet->fd != p->packet_fd)
        open_epoll(p); /* where that fails, the next refresh tries again */
    follow(p, changed);
    return port->down != before.down || port->mtu != before.mtu || port->fd != before.fd ||
           memcmp(port->mac, before.mac, sizeof before.mac) != 0;
}

/* ---- opening and closing ---- */

static void xdp_close(struct or_port *port)
{
    struct xdp_port *p = (struct xdp_port *)port;
    detach(p);
    if (p->sessions_fd >= 0)
        close(p->sessions_fd);
    if (port->fd >= 0)
        close(port->fd);
    if (p->packet)
        or_port_close(p->packet);
    free(p);
}

static const struct or_port_ops xdp_ops = {
    .tx_alloc = xdp_tx_alloc,
    .tx_commit = xdp_tx_commit,
    .tx_flush = xdp_tx_flush,
    .rx_burst = xdp_rx_burst,
    .set_filter = xdp_set_filter,
    .allow = xdp_allow,
    .disallow = xdp_disallow,
    .count = xdp_count,
    .refresh = xdp_refresh,
    .close = xdp_close,
};

static int refuse(const struct xdp_port *p, enum step step, int err, struct or_port_why why)
{
    struct utsname system;
    uname(&system);
    if (err == -EPERM)
        return or_port_refuse(
            why, EPERM,
            "an AF_XDP port on %s needs CAP_NET_ADMIN, CAP_NET_RAW and CAP_BPF: run as root, or give the "
            "systemd unit AmbientCapabilities with these; or set port.mode to packet",
            p->ifname);
    if (step == STEP_SOCKET && err == -EOPNOTSUPP)
        return or_port_refuse(why, EOPNOTSUPP,
                              "AF_XDP takes frames of MTU %u in Linux 6.6 and newer, and this is %s: set port.mtu to "
                              "%u or less, or port.mode to packet",
                              p->port.mtu, system.release, OR_XDP_SMALL_MTU_MAX);
    if (step == STEP_SOCKET && err == -ENOBUFS)
        return or_port_refuse(why, ENOBUFS,
                              "the memory of an AF_XDP port on %s may not be locked: give the systemd unit "
                              "LimitMEMLOCK=infinity, or set port.mode to packet",
                              p->ifname);
    return or_port_refuse(why, -err, "cannot %s on %s: %s; port.mode packet does without",
                          step == STEP_PROGRAM ? "attach an XDP program" : "open an AF_XDP socket", p->ifname,
                          strerror(-err));
}

static int open_all(struct xdp_port *p, struct or_port_why why)
{
    enum step step;
    copy_from_packet(p);
    int err = open_epoll(p);
    if (err)
        return or_port_refuse(why, -err, "cannot open an AF_XDP port on %s: epoll: %s", p->ifname, strerror(-err));
    err = attach(p, &step);
    if (err && !is_temporary(err))
        return refuse(p, step, err, why);
    if (err)
        wait_for_another_try(p, err);
    return 0;
}

struct or_port *or_port_xdp_open(const char *ifname, uint16_t ethertype, uint32_t mtu,
                                 enum or_super_frames super_frames, int *err, char *why, uint32_t why_size)
{
    struct or_port_why whole = {why, why_size};
    if (super_frames == OR_SUPER_FRAMES_ON) {
        *err = or_port_refuse(whole, EINVAL,
                              "an AF_XDP port, as on %s, has no super-frames: set port.super_frames to auto or off, or "
                              "port.mode to packet",
                              ifname);
        return NULL;
    }
    struct or_port *packet = or_port_packet_open(ifname, ethertype, mtu, OR_SUPER_FRAMES_OFF, err, why, why_size);
    if (!packet)
        return NULL;
    struct xdp_port *p = calloc(1, sizeof *p);
    if (!p) {
        or_port_close(packet);
        *err = or_port_refuse(whole, ENOMEM, "out of memory");
        return NULL;
    }
    *p = (struct xdp_port){
        .port = {.ops = &xdp_ops, .ethertype = ethertype, .fd = -1, .handshake_fd = -1},
        .packet = packet,
        .packet_fd = -1,
        .sessions_fd = -1,
        .retry_ns = RETRY_NS_MIN,
        .program = OR_XDP_PROGRAM_CLOSED,
    };
    strcpy(p->ifname, ifname); /* or_port_packet_open has seen that it fits */
    *err = open_all(p, whole);
    if (*err == 0)
        return &p->port;
    xdp_close(&p->port);
    return NULL;
}
