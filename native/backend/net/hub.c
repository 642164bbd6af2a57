/* An in-process switch between NICs. A packet is copied once, into the queue of each port that it goes to;
 * offloads stay undone. Guests with a false source address do no harm beyond floods: each port has a share of
 * the table of addresses, a port's own address never moves, and a full queue drops.
 *
 * The table is a hash table with short windows: an address is in one of the WINDOW places from its hash on;
 * where all are taken, the one that was silent longest gives way. */
#include <assert.h>
#include <stdlib.h>

#include "mem/list.h"
#include "net/packet_queue.h"
#include "uplink.h"

#define TABLE_SIZE 8192u
#define WINDOW 8u
#define PORT_ADDRESSES_MAX 1024u

struct port;

struct address {
    struct port *port; /* NULL: free */
    uint64_t seen_ns;  /* UINT64_MAX: it stays */
    uint8_t mac[6];
};

struct or_hub {
    struct or_list ports;
    struct address table[TABLE_SIZE];
};

struct port {
    struct or_uplink uplink;
    struct or_hub *hub;
    struct or_list link;
    uint32_t addresses; /* in the table */
    struct or_packet_queue queue;
};

static struct port *port_of(struct or_uplink *u)
{
    return OR_CONTAINER(u, struct port, uplink);
}

/* --- queues ------------------------------------------------------------------------------------- */

static void enqueue(struct port *p, const struct or_offload *o)
{
    bool was_empty = or_packet_queue_empty(&p->queue);
    uint8_t *packet = or_packet_queue_push(&p->queue, OR_VNET_HEADER + o->length);
    if (!packet) {
        p->uplink.queue_full++;
        return;
    }
    memcpy(packet, &o->header, sizeof o->header);
    memcpy(packet + OR_VNET_HEADER, o->frame, o->length);
    if (was_empty && p->uplink.ready)
        p->uplink.ready(p->uplink.arg);
}

static uint32_t hub_next(struct or_uplink *u, uint8_t **packet)
{
    return or_packet_queue_front(&port_of(u)->queue, packet);
}

static void hub_taken(struct or_uplink *u)
{
    or_packet_queue_pop(&port_of(u)->queue);
}

/* --- addresses ---------------------------------------------------------------------------------- */

static uint32_t window_of(const uint8_t mac[6])
{
    uint64_t bits = 0;
    memcpy(&bits, mac, 6);
    return (uint32_t)(bits * 0x9e3779b97f4a7c15ull >> 40) % TABLE_SIZE;
}

static struct address *place(struct or_hub *hub, const uint8_t mac[6], uint32_t i)
{
    return &hub->table[(window_of(mac) + i) % TABLE_SIZE];
}

static bool is_fresh(const struct address *a, uint64_t now)
{
    return a->seen_ns == UINT64_MAX || now - a->seen_ns < OR_HUB_AGE_NS;
}

static struct address *find(struct or_hub *hub, const uint8_t mac[6])
{
    for (uint32_t i = 0; i < WINDOW; i++) {
        struct address *a = place(hub, mac, i);
        if (a->port && memcmp(a->mac, mac, 6) == 0)
            return a;
    }
    return NULL;
}

static void forget(struct address *a)
{
    a->port->addresses--;
    a->port = NULL;
}

/* A free place, or that of who was silent longest. NULL: all are taken for good. */
static struct address *make_room(struct or_hub *hub, const uint8_t mac[6])
{
    struct address *oldest = NULL;
    for (uint32_t i = 0; i < WINDOW; i++) {
        struct address *a = place(hub, mac, i);
        if (!a->port)
            return a;
        if (a->seen_ns != UINT64_MAX && (!oldest || a->seen_ns < oldest->seen_ns))
            oldest = a;
    }
    if (oldest)
        forget(oldest);
    return oldest;
}

static void learn(struct port *p, const uint8_t mac[6], uint64_t now)
{
    struct address *a = find(p->hub, mac);
    if (or_mac_is_multicast(mac) || (a && a->seen_ns == UINT64_MAX && now != UINT64_MAX))
        return;
    if (a && a->port != p) {
        forget(a);
        a = NULL;
    }
    if (!a) {
        if (p->addresses >= PORT_ADDRESSES_MAX && now != UINT64_MAX)
            return;
        a = make_room(p->hub, mac);
        if (!a)
            return;
        a->port = p;
        p->addresses++;
        memcpy(a->mac, mac, 6);
    }
    a->seen_ns = now;
}

/* --- the switch --------------------------------------------------------------------------------- */

static enum or_uplink_sent hub_send(struct or_uplink *u, const struct or_offload *o, uint64_t now)
{
    struct port *from = port_of(u);
    const uint8_t *to = o->frame, *source = o->frame + 6;
    learn(from, source, now);
    struct address *a = or_mac_is_multicast(to) ? NULL : find(from->hub, to);
    if (a && is_fresh(a, now)) {
        if (a->port != from)
            enqueue(a->port, o);
        return OR_UPLINK_SENT;
    }
    for (struct or_list *l = from->hub->ports.next; l != &from->hub->ports; l = l->next) {
        struct port *p = OR_CONTAINER(l, struct port, link);
        if (p != from)
            enqueue(p, o);
    }
    return OR_UPLINK_SENT;
}

static void hub_close(struct or_uplink *u)
{
    struct port *p = port_of(u);
    for (uint32_t i = 0; i < TABLE_SIZE; i++)
        if (p->hub->table[i].port == p)
            forget(&p->hub->table[i]);
    assert(p->addresses == 0);
    or_list_remove(&p->link);
    or_packet_queue_close(&p->queue);
    free(p);
}

static const struct or_uplink_ops hub_ops = {
    .name = "hub",
    .send = hub_send,
    .next = hub_next,
    .taken = hub_taken,
    .close = hub_close,
};

struct or_hub *or_hub_create(void)
{
    struct or_hub *hub = calloc(1, sizeof *hub);
    if (hub)
        or_list_init(&hub->ports);
    return hub;
}

void or_hub_destroy(struct or_hub *hub)
{
    assert(or_list_empty(&hub->ports));
    free(hub);
}

struct or_uplink *or_hub_join(struct or_hub *hub, const uint8_t mac[6])
{
    struct port *p = calloc(1, sizeof *p);
    if (!p || or_packet_queue_open(&p->queue, OR_HUB_QUEUE_BYTES) != 0) {
        free(p);
        return NULL;
    }
    p->hub = hub;
    /* What the guest cannot take is cut when it is taken from the queue. */
    p->uplink = (struct or_uplink){.ops = &hub_ops, .fd = -1, .accepts = OR_NET_F_OFFLOADS};
    or_list_append(&hub->ports, &p->link);
    learn(p, mac, UINT64_MAX);
    return &p->uplink;
}
