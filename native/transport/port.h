/* A port: how whole Ethernet frames enter and leave. Implementations: port_packet.c (AF_PACKET, any
 * NIC or veth), port_xdp.c (AF_XDP, past the kernel's stack), port_pair.c (two ends in one process, for tests), the
 * simulator's network.
 *
 * One port belongs to one thread. Sending: take a buffer with tx_alloc, write a frame, tx_commit it,
 * and once per loop iteration tx_flush (one system call for the batch). A frame may stay open for more: whoever
 * fills it sets `finish`, and is asked to commit it before another one takes a buffer, and before a flush. A frame that
 * the kernel does not take is dropped and counted: the session above retransmits. Receiving: rx_burst hands each frame
 * to the handler; the bytes are valid only during that call. */
#ifndef OR_PORT_H
#define OR_PORT_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

struct or_port;

/* frame: a whole Ethernet frame from the destination address on, without FCS; length in bytes. The
 * bytes come from the wire: hostile until a session has verified them. */
typedef void or_rx_fn(void *arg, const uint8_t *frame, uint32_t length);

struct or_port_stats {
    uint64_t rx_frames, rx_bytes, tx_frames, tx_bytes;
    uint64_t rx_dropped;                 /* the kernel's ring was full */
    uint64_t rx_filtered;                /* the filter did not let the frame into a ring */
    uint64_t tx_dropped;                 /* the kernel did not take the frame */
    uint64_t tx_envelopes, rx_envelopes; /* in which some of the frames travelled; cut ones arrive as several */
    uint64_t rx_malformed;               /* envelopes that contradict themselves */
    uint64_t syscalls;
};

static inline void or_port_stats_add(struct or_port_stats *sum, const struct or_port_stats *s)
{
    sum->rx_frames += s->rx_frames;
    sum->rx_bytes += s->rx_bytes;
    sum->tx_frames += s->tx_frames;
    sum->tx_bytes += s->tx_bytes;
    sum->rx_dropped += s->rx_dropped;
    sum->rx_filtered += s->rx_filtered;
    sum->tx_dropped += s->tx_dropped;
    sum->tx_envelopes += s->tx_envelopes;
    sum->rx_envelopes += s->rx_envelopes;
    sum->rx_malformed += s->rx_malformed;
    sum->syscalls += s->syscalls;
}

/* How a frame may travel. */
enum or_tx_form {
    OR_TX_PLAIN, /* by itself */
    OR_TX_MERGE, /* in an envelope with others of its session that wait with it; a data frame */
    OR_TX_PROBE, /* in an envelope, with other probes or alone; a data frame, and bytes that its header does not count
                  */
};

/* Whether a port sends envelopes (envelope.h), or why not. One that may receives them too. */
enum or_port_envelopes {
    OR_ENVELOPES_NONE,    /* a port of this kind has none */
    OR_ENVELOPES_OFF,     /* configured so */
    OR_ENVELOPES_LARGE,   /* the link takes large frames, and `auto` is configured */
    OR_ENVELOPES_SMALL,   /* the link's MTU leaves no room for their headers */
    OR_ENVELOPES_REFUSED, /* the kernel lacks something, and `auto` is configured */
    OR_ENVELOPES_READY,
};

/* When a port is to have envelopes. */
enum or_super_frames {
    OR_SUPER_FRAMES_AUTO, /* on links of less than 32 KB, where the kernel can */
    OR_SUPER_FRAMES_ON,   /* or it is an error; but for links of an MTU below 1564 */
    OR_SUPER_FRAMES_OFF,
};

/* How the frames of an AF_XDP port travel, from best to worst. */
enum or_xdp_form {
    OR_XDP_NONE,          /* the port is of another kind */
    OR_XDP_ZERO_COPY,     /* the NIC works in our memory */
    OR_XDP_COPIED,        /* the driver cannot */
    OR_XDP_COPIED_PIECES, /* the driver cannot, or not with an MTU above OR_XDP_SMALL_MTU_MAX */
    OR_XDP_GENERIC,       /* copied too; the driver has no XDP, the program is above it */
    OR_XDP_BUSY,          /* through AF_PACKET: another process has the interface's program, or one of its queues */
    OR_XDP_REFUSED,       /* through AF_PACKET: the kernel refuses something for now */
    OR_XDP_FORMS
};

#define OR_XDP_SMALL_MTU_MAX 3776u /* frames of more come in several pieces of memory */

struct or_port_xdp {
    enum or_xdp_form form;
    uint32_t queues, zero_copy_queues; /* sockets in use, one for each queue of the NIC; how many are zero-copy */
};

/* Frames go through AF_PACKET, and refresh tries again now and then. */
static inline bool or_port_xdp_waits(const struct or_port_xdp *xdp)
{
    return xdp->form >= OR_XDP_BUSY;
}

/* Of several ports: the worst form of them. */
static inline void or_port_xdp_add(struct or_port_xdp *sum, const struct or_port_xdp *xdp)
{
    if (xdp->form > sum->form)
        sum->form = xdp->form;
    sum->queues += xdp->queues;
    sum->zero_copy_queues += xdp->zero_copy_queues;
}

/* What may come in. */
#define OR_ANY_CHANNEL 0xff
struct or_port_door {
    uint32_t types;        /* of frames: bit n for enum or_frame_type n */
    uint32_t sessions_max; /* that or_port_allow may name at once */
    uint8_t channel;       /* of the frames; others are for another port on this interface, and are not counted here */
};

struct or_port_ops {
    /* A buffer for one frame of up to 14 + mtu bytes, or NULL when the batch is full even after
     * flushing. Taking a second buffer without a commit returns the same one. */
    uint8_t *(*tx_alloc)(struct or_port *port);
    /* Queues the first `length` bytes of the buffer last taken, to travel as port->tx_form says. */
    void (*tx_commit)(struct or_port *port, uint32_t length);
    /* Sends what is queued. */
    void (*tx_flush)(struct or_port *port);
    /* Hands up to `max` waiting frames to fn; returns how many. */
    uint32_t (*rx_burst)(struct or_port *port, uint32_t max, or_rx_fn *fn, void *arg);
    /* See or_port_set_filter. NULL: the port has no filter. */
    int (*set_filter)(struct or_port *port, const struct or_port_door *door, char *why, uint32_t why_size);
    /* Data frames of this session are let in from now on, or no longer. 0 or -errno. NULL: the port lets
     * everything in. */
    int (*allow)(struct or_port *port, uint32_t session);
    void (*disallow)(struct or_port *port, uint32_t session);
    /* Brings port->stats up to date. NULL: they always are. */
    void (*count)(struct or_port *port);
    /* Looks at the interface again, after something about it may have changed: takes over its MTU and
     * address, and opens it anew when it is another one by now. Tells whether down, mtu, mac or fd are others
     * than before. NULL: they never are. Not from inside rx_burst. */
    bool (*refresh)(struct or_port *port);
    void (*close)(struct or_port *port);
};

/* What keeps frames that nobody can use from taking places in the receive ring. */
enum or_port_filter_kind {
    OR_FILTER_NONE,    /* nothing does */
    OR_FILTER_CLASSIC, /* frames of another purpose; data frames of unknown sessions get in */
    OR_FILTER_SESSION, /* those too */
};

struct or_port {
    const struct or_port_ops *ops;
    uint8_t mac[6];
    uint16_t ethertype; /* host order */
    uint32_t mtu;       /* bytes after the Ethernet header, at most 65535 */
    uint32_t rx_frames; /* slots of the receive ring: what peers may have in flight towards us */
    int fd;             /* readable when frames wait; -1 where there is none */
    int handshake_fd;   /* the same for frames of other types than DATA, where they come apart; else -1 */
    enum or_port_filter_kind filter;
    enum or_port_envelopes envelopes;
    enum or_tx_form tx_form; /* of the frame being committed; a port without envelopes does not care */
    bool down;               /* the interface is gone, switched off or without carrier */
    struct or_port_xdp xdp;
    /* Commits the frame that is open; NULL: none is. Called once, then forgotten. */
    void (*finish)(void *arg);
    void *finish_arg;
    struct or_port_stats stats;
};

static inline void or_port_finish(struct or_port *p)
{
    void (*finish)(void *) = p->finish;
    p->finish = NULL;
    if (finish)
        finish(p->finish_arg);
}
static inline uint8_t *or_port_tx_alloc(struct or_port *p)
{
    or_port_finish(p);
    return p->ops->tx_alloc(p);
}
/* tx_alloc, and the Ethernet header towards `to` written: the frame from its first byte, or NULL. */
static inline uint8_t *or_port_tx_begin(struct or_port *p, const uint8_t to[6])
{
    uint8_t *frame = or_port_tx_alloc(p);
    if (frame) {
        memcpy(frame, to, 6);
        memcpy(frame + 6, p->mac, 6);
        frame[12] = (uint8_t)(p->ethertype >> 8);
        frame[13] = (uint8_t)p->ethertype;
    }
    return frame;
}
static inline void or_port_tx_commit(struct or_port *p, uint32_t length)
{
    p->ops->tx_commit(p, length);
}
static inline void or_port_tx_commit_as(struct or_port *p, uint32_t length, enum or_tx_form form)
{
    p->tx_form = form;
    p->ops->tx_commit(p, length);
    p->tx_form = OR_TX_PLAIN;
}
static inline void or_port_tx_flush(struct or_port *p)
{
    or_port_finish(p);
    p->ops->tx_flush(p);
}
static inline uint32_t or_port_rx_burst(struct or_port *p, uint32_t max, or_rx_fn *fn, void *arg)
{
    return p->ops->rx_burst(p, max, fn, arg);
}
/* Makes a port one that strangers on the segment cannot fill: data frames get in
 * only for sessions that or_port_allow has named; those of the other types come through a small ring of their own, of
 * which a burst that has data takes one frame; further types, and other channels, not at all. Bytes are those
 * of native/wire from here on. Where the kernel grants no eBPF (port->filter tells) data frames of unknown
 * sessions get in as well. 0, or -errno with a sentence in `why` as at opening. */
static inline int or_port_set_filter(struct or_port *p, const struct or_port_door *door, char *why, uint32_t why_size)
{
    return p->ops->set_filter ? p->ops->set_filter(p, door, why, why_size) : 0;
}
static inline int or_port_allow(struct or_port *p, uint32_t session)
{
    return p->ops->allow ? p->ops->allow(p, session) : 0;
}
static inline void or_port_disallow(struct or_port *p, uint32_t session)
{
    if (p->ops->disallow)
        p->ops->disallow(p, session);
}
static inline struct or_port_stats or_port_stats(struct or_port *p)
{
    if (p->ops->count)
        p->ops->count(p);
    return p->stats;
}
static inline bool or_port_refresh(struct or_port *p)
{
    or_port_finish(p);
    return p->ops->refresh && p->ops->refresh(p);
}
static inline void or_port_close(struct or_port *p)
{
    p->ops->close(p);
}

typedef struct or_port *or_port_open_fn(const char *ifname, uint16_t ethertype, uint32_t mtu,
                                        enum or_super_frames super_frames, int *err, char *why, uint32_t why_size);

/* Opens `ifname` of the current network namespace through AF_PACKET. mtu 0 takes the link's; one
 * above the link's is refused (-EMSGSIZE). A port with envelopes has at most what the link's leaves beside their
 * headers. Needs CAP_NET_RAW. On failure returns NULL, sets *err to
 * -errno and writes to `why` a sentence for the operator (at most why_size bytes with its NUL). */
or_port_open_fn or_port_packet_open;

/* The same through AF_XDP: an XDP program on the interface hands our frames to sockets, one for each queue of the
 * NIC, whose memory the NIC writes and reads itself if its driver can. Everything else on the interface goes on to
 * the kernel. While the interface has another process's program, as our predecessor's when engines take over, frames
 * go through AF_PACKET. It has no envelopes: OR_SUPER_FRAMES_ON is refused (-EINVAL). Needs CAP_NET_ADMIN,
 * CAP_NET_RAW and CAP_BPF, and memory that may be locked; Linux 6.6 for an MTU above OR_XDP_SMALL_MTU_MAX. */
or_port_open_fn or_port_xdp_open;

/* Two connected ports in this process; frames committed to one and flushed wait at the other, at
 * most rx_frames of them, then they are dropped. Each end may belong to its own thread. */
int or_port_pair_open(uint32_t mtu, uint16_t ethertype, struct or_port **a, struct or_port **b);

#endif
