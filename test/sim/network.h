/* The simulated Ethernet: N hosts and one server behind one switch. Every port has a link to the
 * switch; what goes to the server shares one shallow queue, what goes to a host has its own. Frames
 * can be lost, copied, corrupted, held back, overtaken and cut off; an attacker can watch, keep,
 * steal and send frames. */
#ifndef SIM_NETWORK_H
#define SIM_NETWORK_H

#include "plan.h"
#include "transport/port.h"
#include "wire/wire.h"

#define MACHINES_MAX (HOSTS_MAX + 2)           /* hosts, the server, the impostor */
#define NICS_MAX (MACHINES_MAX * OR_LINKS_MAX) /* first the first nics of all, then the second ones */
#define NIC_SERVER HOSTS_MAX
#define NIC_IMPOSTOR (HOSTS_MAX + 1)
#define QUEUE_FRAMES_MAX 512u
#define CAPTURE_MAX 48u
#define TX_BATCH 32u

/* A frame on its way; shared by the copies of a duplicate and by the attacker's memory. */
struct frame {
    uint32_t refs;
    uint32_t length;
    uint32_t sequence;    /* of the sending nic, to see what was overtaken */
    uint32_t from;        /* nic index */
    uint32_t accepted_by; /* the engine instance that took it; 0: none yet */
    bool lingered;        /* was held back by net_linger */
    bool must_refuse;     /* a data frame that is not what its sender sent */
    uint32_t size_class;
    struct frame *next; /* free list */
    uint8_t bytes[];
};

/* A queue of a switch port: its length is the number of frames that have not left yet. */
struct queue {
    uint64_t leaves[QUEUE_FRAMES_MAX]; /* ring of departure times */
    uint32_t head, count, limit;
    uint64_t free_at;
};

struct net;

/* One engine's port. A new life of an engine gets a new nic at the same place. */
struct nic {
    struct or_port port;
    struct net *net;
    uint32_t index, instance;
    bool muted; /* the engine is dead: nothing in, nothing out */
    struct frame *taken, *batch[TX_BATCH];
    uint32_t batch_count;
    struct frame **ring;
    uint32_t ring_head, ring_count;
    bool refused_tx; /* tx_alloc returned NULL since the engine last ran */
    void (*wake)(void *arg);
    void (*changed)(void *arg, struct or_port *port); /* down, mtu or mac */
    void *wake_arg;
    struct frame *receiving; /* during rx_burst: the frame that is handed over */
};

struct place {
    struct nic *nic; /* NULL: nobody there */
    uint8_t mac[6];
    uint64_t cut_out_until, cut_in_until;
    uint32_t mtu;
    bool down;              /* the nic is gone: nothing in, nothing out */
    uint32_t cut_keeps;     /* frames that a queue before the cut still takes */
    uint32_t linger_before; /* frames with a lower sequence number that are under way come much later */
    uint64_t out_free_at;
    struct queue queue;
    uint32_t next_sequence;
    uint32_t seen_sequence[NICS_MAX]; /* highest arrived, by sender */
};

struct net {
    struct world *w;
    const struct plan *plan;
    bool healthy; /* the turmoil is over */
    struct place places[NICS_MAX];
    uint32_t instances;
    struct frame *free_frames[5];
    struct delivery *free_deliveries;
    struct frame *captured[CAPTURE_MAX];
    uint32_t captured_count;
    uint32_t attacks_left;
};

void net_init(struct net *net, struct world *w, const struct plan *plan);

/* A port for an engine at `index`; wake(arg) is called when frames wait, changed when the
 * nic is not what it was. Freed with the world. */
struct nic *net_nic(struct net *net, uint32_t index, void (*wake)(void *arg),
                    void (*changed)(void *arg, struct or_port *port), void *arg);
/* The engine of this nic is gone. */
void net_nic_kill(struct nic *nic);

/* Frames below the faults: used by the network itself and by the attacker. */
struct frame *net_frame(struct net *net, uint32_t size);
void net_frame_unref(struct net *net, struct frame *frame);
/* Takes over one reference of frame; it arrives at the place its destination address names. */
void net_carry(struct net *net, struct frame *frame, uint64_t extra_ns);
/* Marks `copy`, a changed copy of `original`, as one that the receiver must refuse, if it must: a data
 * frame of which any covered byte differs. */
void net_mark(struct frame *copy, struct frame *original);
static inline struct or_frame_header *frame_header(struct frame *frame)
{
    return (struct or_frame_header *)(frame->bytes + OR_ETH_HEADER);
}

/* What is under way from this place gets stuck somewhere and comes much later: frames of a session that
 * will be history by then. */
void net_linger(struct net *net, uint32_t index);
/* The link of a place is cut until now + length, in either or both directions. What is sent meanwhile
 * is lost or, some times, comes when the cut is over. */
void net_cut(struct net *net, uint32_t index, uint64_t length_ns, bool out, bool in);
/* The nic at this place goes away, or comes back, perhaps as another one with another address. */
void net_port(struct net *net, uint32_t index, bool down, bool another);
/* The MTU of the nic at this place changes. */
void net_mtu(struct net *net, uint32_t index, uint32_t mtu);
/* No more trouble from now on. */
void net_heal(struct net *net);

/* attacker.c */
void attacker_start(struct net *net);
/* Every frame that is sent passes here; true: the attacker stole it. */
bool attacker_sees(struct net *net, struct frame *frame);

#endif
