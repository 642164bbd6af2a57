/* Packets through the NICs of an I/O hypervisor: the two ways come first, then the turns in which NICs are served.
 *
 * Taps are watched by an epoll descriptor of their own, edge-triggered: one system call tells which of them have
 * something, and those that must wait wake nobody. A NIC with something for its guest is in the list `active`
 * until its uplink's queue is empty.
 *
 * A frame of the session may bear a hundred small packets, and to pass one on may be a system call: a guest that
 * floods would hold up the requests behind them for milliseconds. So a step passes on a bounded number at once.
 * The others wait in a queue of their NIC, which is in the list `busy` meanwhile; what comes when it is full is
 * dropped.
 *
 * What a NIC of a protection domain sends is held there, after all checks, and goes out when its epoch is committed.
 * While the domain has no room it waits in that queue, and the NIC in the list `blocked`. */
#include <assert.h>
#include <errno.h>
#include <string.h>
#include <sys/epoll.h>

#include "domains.h"
#include "nic_internal.h"

#define TURN_PACKETS 64u /* of one NIC in one step */
#define TURN_BYTES (256u << 10)
#define STEP_PACKETS 256u /* of all, roughly */
#define TURN_PACKETS_MIN 4u
#define SENT_PACKETS 8u /* of guests, that a step passes on as they come, */
#define SENT_BYTES (128u << 10)
#define RELEASE_PACKETS 64u /* that domains let go in one step */
#define SENT_TURN 4u        /* and out of a queue, one turn */
#define LOOK_EVERY_NS 5000u /* at the taps, while the worker polls */
#define RETRY_NS 1000000u   /* when the session was full; mostly a frame from there comes first */
#define EVENTS 64

/* --- from the guest ----------------------------------------------------------------------------- */

static bool too_long(const struct or_nic *n, const struct or_offload *o)
{
    return o->frame_longest > n->config.mtu + OR_ETHER_HEADER + OR_VLAN_TAGS_MAX * OR_VLAN_TAG;
}

/* May the guest send it? */
static bool tx_check(struct or_nic *n, const uint8_t *packet, uint32_t length, struct or_offload *o)
{
    uint64_t *dropped = n->info.stats.tx.dropped;
    if (!n->config.link_up)
        dropped[OR_NIC_DROP_LINK_DOWN]++;
    else if (!or_offload_check(packet, length, o))
        dropped[OR_NIC_DROP_BAD_HEADER]++;
    else if (!or_guard_tx(&n->config.guard, o->frame, o->length))
        dropped[OR_NIC_DROP_SPOOFED]++;
    else if (too_long(n, o))
        dropped[OR_NIC_DROP_TOO_LONG]++;
    else
        return true;
    return false;
}

static void count_sent(struct or_nic_counts *counts, enum or_uplink_sent sent, uint32_t bytes)
{
    switch (sent) {
    case OR_UPLINK_SENT:
        counts->packets++;
        counts->bytes += bytes;
        break;
    case OR_UPLINK_NO_ROOM:
        counts->dropped[OR_NIC_DROP_NO_ROOM]++;
        break;
    case OR_UPLINK_DOWN:
        counts->dropped[OR_NIC_DROP_LINK_DOWN]++;
        break;
    case OR_UPLINK_ERROR:
        counts->errors++;
    }
}

/* The uplink cannot take it undone. */
static void tx_segments(struct or_nic *n, const struct or_offload *o)
{
    struct or_iohv_nics *nics = n->nics;
    for (uint32_t i = 0; i < o->segments; i++) {
        struct or_offload part;
        uint32_t length = or_offload_segment(o, i, nics->scratch);
        bool valid = or_offload_check(nics->scratch, length, &part);
        assert(valid); /* we made it */
        count_sent(&n->info.stats.tx, n->uplink->ops->send(n->uplink, &part, nics->now), part.length);
    }
    n->info.stats.segmented++;
}

static void send_out(struct or_nic *n, struct or_offload *o)
{
    o->header.flags &= (uint8_t)~VIRTIO_NET_HDR_F_DATA_VALID; /* a guest's word is not enough */
    if (or_offload_fits(o, n->uplink->accepts))
        count_sent(&n->info.stats.tx, n->uplink->ops->send(n->uplink, o, n->nics->now), o->length);
    else
        tx_segments(n, o);
}

/* False: its domain has no room. */
static bool hold(struct or_nic *n, const uint8_t *packet, uint32_t length)
{
    struct domain *d = n->protect.domain;
    int err = d ? or_domain_packet(d->domain, n->protect.generation, n->info.id, packet, length) : -EIO;
    n->fenced += err && err != -EAGAIN;
    return err != -EAGAIN;
}

/* False: it has to wait for room in its domain. */
static bool pass_on(struct or_nic *n, const uint8_t *packet, uint32_t length)
{
    struct or_iohv_nics *nics = n->nics;
    struct or_offload o;
    nics->packets_left -= nics->packets_left > 0;
    nics->bytes_left -= length < nics->bytes_left ? length : nics->bytes_left;
    if (!tx_check(n, packet, length, &o))
        return true;
    if (n->protect.id)
        return hold(n, packet, length);
    send_out(n, &o);
    return true;
}

enum or_nic_released or_iohv_nics_release(struct or_iohv_nics *nics, uint32_t id, const uint8_t *packet,
                                          uint32_t length)
{
    struct or_nic *n = or_nic_of(nics, id);
    struct or_offload o;
    if (!n)
        return OR_NIC_UNKNOWN;
    if (!nics->release_left)
        return OR_NIC_NOT_NOW;
    nics->release_left--;
    if (or_offload_check(packet, length, &o)) /* as it was when it was taken */
        send_out(n, &o);
    else
        n->info.stats.tx.dropped[OR_NIC_DROP_BAD_HEADER]++;
    return OR_NIC_RELEASED;
}

static bool has_allowance(const struct or_iohv_nics *nics)
{
    return nics->packets_left > 0 && nics->bytes_left > 0;
}

void or_iohv_nics_received(struct or_nic *n, const uint8_t *packet, uint32_t length)
{
    bool was_empty = or_packet_queue_empty(&n->sent);
    if (was_empty && has_allowance(n->nics) && pass_on(n, packet, length))
        return;
    uint8_t *place = or_packet_queue_push(&n->sent, length);
    if (!place) {
        n->info.stats.tx.dropped[OR_NIC_DROP_QUEUE_FULL]++;
        return;
    }
    memcpy(place, packet, length);
    if (was_empty)
        or_list_append(&n->nics->busy, &n->busy);
}

/* --- to the guest ------------------------------------------------------------------------------- */

/* Is it for the guest? Else it has been counted. */
static bool rx_check(struct or_nic *n, const uint8_t *packet, uint32_t length, struct or_offload *o)
{
    uint64_t *dropped = n->info.stats.rx.dropped;
    if (!n->config.link_up)
        dropped[OR_NIC_DROP_LINK_DOWN]++;
    else if (!or_offload_check(packet, length, o))
        dropped[OR_NIC_DROP_BAD_HEADER]++;
    else if (!or_guard_rx(n->config.guard.mac, n->filter, o->frame, o->length))
        dropped[OR_NIC_DROP_FILTERED]++;
    else if (too_long(n, o))
        dropped[OR_NIC_DROP_TOO_LONG]++;
    else
        return true;
    return false;
}

/* The limit: true when the packet may go now. */
static bool rx_pay(struct or_nic *n, uint32_t bytes)
{
    if (n->paid)
        return true;
    n->wait_until = or_bucket_take(&n->bucket, n->nics->now, 1, bytes);
    n->paid = n->wait_until == 0;
    n->info.stats.rx_throttled += !n->paid;
    return n->paid;
}

/* Sends one packet that the guest can take, and counts it. */
static enum or_nic_sent rx_send(struct or_nic *n, const uint8_t *packet, uint32_t length)
{
    const struct or_nic_wire *wire = &n->nics->wire;
    enum or_nic_sent sent = wire->send(wire->arg, n->info.id, packet, length, n->nics->now);
    struct or_nic_stats *stats = &n->info.stats;
    if (sent == OR_NIC_SENT) {
        stats->rx.packets++;
        stats->rx.bytes += length - OR_VNET_HEADER;
    } else if (sent == OR_NIC_DOWN) {
        stats->rx.dropped[OR_NIC_DROP_DOWN]++;
    } else {
        stats->rx_waits += !n->waits;
    }
    n->waits = sent == OR_NIC_LATER;
    return sent;
}

static enum or_nic_sent rx_whole(struct or_nic *n, const struct or_offload *o, uint8_t *packet)
{
    struct virtio_net_hdr_v1 header = o->header;
    if (!(n->features & OR_NET_F_GUEST_CSUM))
        header.flags = 0;
    memcpy(packet, &header, sizeof header);
    return rx_send(n, packet, OR_VNET_HEADER + o->length);
}

/* Goes on where the session had no more room. */
static enum or_nic_sent rx_segments(struct or_nic *n, const struct or_offload *o)
{
    uint8_t *scratch = n->nics->scratch;
    for (; n->segment < o->segments; n->segment++) {
        enum or_nic_sent sent = rx_send(n, scratch, or_offload_segment(o, n->segment, scratch));
        if (sent != OR_NIC_SENT)
            return sent;
    }
    n->info.stats.segmented++;
    return OR_NIC_SENT;
}

/* Hands on, or drops, the packet at the head of the queue. False: it has to wait. */
static bool rx_packet(struct or_nic *n, uint8_t *packet, uint32_t length)
{
    struct or_offload o;
    if (rx_check(n, packet, length, &o)) {
        if (!rx_pay(n, o.length))
            return false;
        /* What has been begun in pieces goes on so, whatever the guest has said since. */
        bool whole = n->segment == 0 && or_offload_fits(&o, n->features);
        if ((whole ? rx_whole(n, &o, packet) : rx_segments(n, &o)) == OR_NIC_LATER)
            return false;
    }
    n->uplink->ops->taken(n->uplink);
    n->paid = n->waits = false;
    n->segment = 0;
    return true;
}

/* --- turns -------------------------------------------------------------------------------------- */

void or_nic_activate(void *arg)
{
    struct or_nic *n = arg;
    if (!or_list_empty(&n->active))
        return;
    or_list_append(&n->nics->active, &n->active);
    n->nics->active_count++;
}

static void deactivate(struct or_nic *n)
{
    if (or_list_empty(&n->active))
        return;
    or_list_remove(&n->active);
    n->nics->active_count--;
}

void or_nic_quiet(struct or_nic *n)
{
    deactivate(n);
    if (!or_list_empty(&n->busy))
        or_list_remove(&n->busy);
}

static void look_at_taps(struct or_iohv_nics *nics)
{
    if (nics->now < nics->look_at)
        return;
    struct epoll_event events[EVENTS];
    int count = epoll_wait(nics->taps.fd, events, EVENTS, 0);
    for (int i = 0; i < count; i++)
        or_nic_activate(events[i].data.ptr);
    nics->look_at = nics->now + LOOK_EVERY_NS;
}

void or_nics_taps_ready(struct or_fd_source *source, uint32_t events)
{
    (void)events;
    OR_CONTAINER(source, struct or_iohv_nics, taps)->look_at = 0; /* the next step looks */
}

/* One NIC's turn. It stays active while its queue may have more. */
static uint32_t serve(struct or_nic *n, uint32_t packets)
{
    uint32_t work = 0, bytes = 0;
    if (n->wait_until > n->nics->now)
        return 0;
    while (work < packets && bytes < TURN_BYTES) {
        uint8_t *packet;
        uint32_t length = n->uplink->ops->next(n->uplink, &packet);
        if (length == 0) {
            deactivate(n);
            break;
        }
        if (!rx_packet(n, packet, length))
            break;
        bytes += length;
        work++;
    }
    return work;
}

/* The queues of what guests have sent, in turns: one at least, and as long as the step's allowance lasts. */
static uint32_t serve_sent(struct or_iohv_nics *nics)
{
    uint32_t work = 0;
    while (!or_list_empty(&nics->busy) && (work == 0 || has_allowance(nics))) {
        struct or_nic *n = OR_CONTAINER(nics->busy.next, struct or_nic, busy);
        uint8_t *packet;
        uint32_t length;
        or_list_remove(&n->busy);
        bool room = true;
        for (uint32_t i = 0; i < SENT_TURN && (length = or_packet_queue_front(&n->sent, &packet)) > 0; i++, work++) {
            room = pass_on(n, packet, length);
            if (!room)
                break;
            or_packet_queue_pop(&n->sent);
        }
        if (!or_packet_queue_empty(&n->sent))
            or_list_append(room ? &nics->busy : &nics->blocked, &n->busy);
    }
    return work;
}

static uint32_t serve_uplinks(struct or_iohv_nics *nics)
{
    uint32_t work = 0, turns = nics->active_count;
    uint32_t packets = turns ? STEP_PACKETS / turns : 0;
    packets = packets > TURN_PACKETS ? TURN_PACKETS : packets < TURN_PACKETS_MIN ? TURN_PACKETS_MIN : packets;
    for (; turns > 0; turns--) {
        struct or_nic *n = OR_CONTAINER(nics->active.next, struct or_nic, active);
        or_list_remove(&n->active);
        or_list_append(&nics->active, &n->active);
        work += serve(n, packets);
    }
    return work;
}

uint32_t or_iohv_nics_poll(struct or_iohv_nics *nics)
{
    if (nics->count == 0)
        return 0;
    look_at_taps(nics);
    while (!or_list_empty(&nics->blocked)) { /* room may have come */
        struct or_list *first = nics->blocked.next;
        or_list_remove(first);
        or_list_append(&nics->busy, first);
    }
    return serve_sent(nics) + serve_uplinks(nics);
}

uint64_t or_iohv_nics_deadline(const struct or_iohv_nics *nics)
{
    uint64_t deadline = or_list_empty(&nics->blocked) ? UINT64_MAX : nics->now + RETRY_NS;
    for (struct or_list *l = nics->active.next; l != &nics->active; l = l->next) {
        const struct or_nic *n = OR_CONTAINER(l, struct or_nic, active);
        uint64_t at = n->wait_until > nics->now ? n->wait_until : nics->now + RETRY_NS;
        if (at < deadline)
            deadline = at;
    }
    return deadline;
}

void or_iohv_nics_begin(struct or_iohv_nics *nics, uint64_t now)
{
    nics->now = now;
    nics->packets_left = SENT_PACKETS;
    nics->bytes_left = SENT_BYTES;
    nics->release_left = RELEASE_PACKETS;
}
