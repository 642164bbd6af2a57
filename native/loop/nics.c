/* NICs at the I/O hypervisor. The packets' two ways come first, then the turns in which NICs are served, then
 * the commands.
 *
 * Taps are watched by an epoll descriptor of their own, edge-triggered: one system call tells which of them have
 * something, and those that must wait wake nobody. A NIC with something for its guest is in the list `active`
 * until its uplink's queue is empty. */
#include "nics.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "backend/net/uplink.h"

#define TURN_PACKETS 64u /* of one NIC in one step */
#define TURN_BYTES (256u << 10)
#define STEP_PACKETS 256u /* of all, roughly */
#define TURN_PACKETS_MIN 4u
#define LOOK_EVERY_NS 5000u /* at the taps, while the worker polls */
#define RETRY_NS 1000000u   /* when the session was full; mostly a frame from there comes first */
#define EVENTS 64

struct hub {
    char name[OR_NAME_MAX + 1];
    struct or_hub *hub;
    uint32_t ports;
    struct or_list link;
};

struct or_nic {
    struct or_iohv_nics *nics;
    struct or_uplink *uplink;
    struct hub *hub; /* NULL: not at one */
    struct or_nic_config config;
    struct or_rx_filter *filter; /* NULL: none known */
    uint64_t features;           /* what the guest's driver can take */
    struct or_bucket bucket;
    /* Of the packet at the head of the uplink's queue. */
    bool paid;           /* the bucket let it go */
    bool waits;          /* the session had no room */
    uint32_t segment;    /* the next to be sent */
    uint64_t wait_until; /* the bucket's word; 0: none */

    struct or_nic_info info;
    struct or_list link, active;
};

struct or_iohv_nics {
    struct or_engine *engine;
    struct or_nic_wire wire;
    struct or_list list, active, hubs;
    uint32_t active_count, count;
    uint64_t now, look_at;
    struct or_fd_source taps; /* an epoll descriptor */
    uint8_t scratch[OR_PACKET_MAX];
};

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

void or_iohv_nics_received(struct or_nic *n, const uint8_t *packet, uint32_t length)
{
    struct or_offload o;
    if (!tx_check(n, packet, length, &o))
        return;
    o.header.flags &= (uint8_t)~VIRTIO_NET_HDR_F_DATA_VALID; /* a guest's word is not enough */
    if (or_offload_fits(&o, n->uplink->accepts))
        count_sent(&n->info.stats.tx, n->uplink->ops->send(n->uplink, &o, n->nics->now), o.length);
    else
        tx_segments(n, &o);
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

static void activate(void *arg)
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

static void look_at_taps(struct or_iohv_nics *nics)
{
    if (nics->now < nics->look_at)
        return;
    struct epoll_event events[EVENTS];
    int count = epoll_wait(nics->taps.fd, events, EVENTS, 0);
    for (int i = 0; i < count; i++)
        activate(events[i].data.ptr);
    nics->look_at = nics->now + LOOK_EVERY_NS;
}

static void taps_ready(struct or_fd_source *source, uint32_t events)
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

uint32_t or_iohv_nics_poll(struct or_iohv_nics *nics)
{
    uint32_t work = 0, turns;
    if (nics->count == 0)
        return 0;
    look_at_taps(nics);
    turns = nics->active_count;
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

uint64_t or_iohv_nics_deadline(const struct or_iohv_nics *nics)
{
    uint64_t deadline = UINT64_MAX;
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
}

/* --- opening and closing ------------------------------------------------------------------------ */

static struct or_nic *nic_of(const struct or_iohv_nics *nics, uint32_t id)
{
    for (struct or_list *l = nics->list.next; l != &nics->list; l = l->next) {
        struct or_nic *n = OR_CONTAINER(l, struct or_nic, link);
        if (n->info.id == id)
            return n;
    }
    return NULL;
}

/* The hub of this name, made when there is none. NULL: out of memory. */
static struct hub *hub_named(struct or_iohv_nics *nics, const char *name)
{
    for (struct or_list *l = nics->hubs.next; l != &nics->hubs; l = l->next) {
        struct hub *h = OR_CONTAINER(l, struct hub, link);
        if (strcmp(h->name, name) == 0)
            return h;
    }
    struct hub *h = calloc(1, sizeof *h);
    if (h)
        h->hub = or_hub_create();
    if (!h || !h->hub) {
        free(h);
        return NULL;
    }
    memcpy(h->name, name, strlen(name) + 1);
    or_list_append(&nics->hubs, &h->link);
    return h;
}

static void leave_hub(struct hub *h)
{
    if (h->ports > 0)
        return;
    or_hub_destroy(h->hub);
    or_list_remove(&h->link);
    free(h);
}

static int plug_into_hub(struct or_nic *n, const char *name)
{
    struct hub *h = strlen(name) <= OR_NAME_MAX ? hub_named(n->nics, name) : NULL;
    if (!h)
        return -ENOMEM;
    n->uplink = or_hub_join(h->hub, n->config.guard.mac);
    if (!n->uplink) {
        leave_hub(h);
        return -ENOMEM;
    }
    n->hub = h;
    h->ports++;
    n->uplink->ready = activate;
    n->uplink->arg = n;
    return 0;
}

static int plug_into_tap(struct or_nic *n, int *fd)
{
    int err;
    struct epoll_event event = {.events = EPOLLIN | EPOLLET, .data.ptr = n};
    n->uplink = or_uplink_tap(*fd, &err);
    if (!n->uplink)
        return err;
    *fd = -1; /* the uplink's from here on */
    return epoll_ctl(n->nics->taps.fd, EPOLL_CTL_ADD, n->uplink->fd, &event) == 0 ? 0 : -errno;
}

/* Frees a NIC that is in no list and unknown to the sessions. */
static void free_nic(struct or_nic *n)
{
    deactivate(n);
    if (n->uplink && n->uplink->fd >= 0)
        epoll_ctl(n->nics->taps.fd, EPOLL_CTL_DEL, n->uplink->fd, NULL);
    if (n->uplink)
        n->uplink->ops->close(n->uplink);
    if (n->hub) {
        n->hub->ports--;
        leave_hub(n->hub);
    }
    free(n->filter);
    free(n);
}

static void close_nic(struct or_nic *n)
{
    n->nics->wire.remove(n->nics->wire.arg, n->info.id);
    or_list_remove(&n->link);
    n->nics->count--;
    free_nic(n);
}

static int open_nic(struct or_iohv_nics *nics, struct or_command *c)
{
    struct or_nic *n = calloc(1, sizeof *n);
    if (!n)
        return -ENOMEM;
    n->nics = nics;
    n->config = c->nic;
    n->info = (struct or_nic_info){.id = c->id, .generation = c->generation, .kind = c->nic.kind};
    memcpy(n->info.name, c->name, sizeof n->info.name);
    memcpy(n->info.host, c->host, sizeof n->info.host);
    or_list_init(&n->link);
    or_list_init(&n->active);
    or_bucket_set(&n->bucket, &c->nic.limit);
    int err = c->nic.kind == OR_NIC_HUB ? plug_into_hub(n, c->path) : plug_into_tap(n, &c->fd);
    if (!err)
        err = nics->wire.add(nics->wire.arg, c->id, c->generation, c->host, n);
    if (err) {
        free_nic(n);
        return err;
    }
    if (n->uplink->ops->link)
        n->uplink->ops->link(n->uplink, n->config.link_up);
    or_list_append(&nics->list, &n->link);
    nics->count++;
    return 0;
}

/* --- commands ----------------------------------------------------------------------------------- */

static void nic_open(struct or_iohv_nics *nics, struct or_command *c)
{
    if (nic_of(nics, c->id)) {
        or_engine_finish(nics->engine, c, -EEXIST, "NIC %s is open already as attachment %u", c->name, c->id);
        return;
    }
    int err = open_nic(nics, c);
    or_engine_finish(nics->engine, c, err, "cannot open NIC %s for host %s as attachment %u: %s", c->name, c->host,
                     c->id, strerror(-err));
}

static void change(struct or_nic *n, struct or_nic_change *to)
{
    const struct or_uplink_ops *ops = n->uplink->ops;
    if (to->has_limit) {
        or_bucket_set(&n->bucket, &to->limit);
        n->wait_until = 0;
    }
    if (to->has_guard) {
        memcpy(to->guard.mac, n->config.guard.mac, sizeof to->guard.mac);
        n->config.guard = to->guard;
    }
    if (to->has_features) {
        n->features = to->features;
        if (ops->offload)
            ops->offload(n->uplink, to->features);
    }
    if (to->has_filter) {
        free(n->filter);
        n->filter = to->filter;
        to->filter = NULL;
    }
    if (to->has_link && to->link_up != n->config.link_up) {
        n->config.link_up = to->link_up;
        if (ops->link)
            ops->link(n->uplink, to->link_up);
    }
}

static void nic_set(struct or_iohv_nics *nics, struct or_command *c)
{
    struct or_nic *n = nic_of(nics, c->id);
    if (n)
        change(n, &c->nic_change);
    or_engine_finish(nics->engine, c, n ? 0 : -ENOENT, "no NIC is open as attachment %u", c->id);
}

static void nic_close(struct or_iohv_nics *nics, struct or_command *c)
{
    struct or_nic *n = nic_of(nics, c->id);
    if (n)
        close_nic(n);
    or_engine_finish(nics->engine, c, n ? 0 : -ENOENT, "no NIC is open as attachment %u", c->id);
}

static void tell(const struct or_nic *n, struct or_nic_info *info)
{
    const struct or_nic_wire *wire = &n->nics->wire;
    *info = n->info;
    info->link_up = n->config.link_up;
    info->gone = n->uplink->ops->gone && n->uplink->ops->gone(n->uplink);
    info->stats.rx.dropped[OR_NIC_DROP_QUEUE_FULL] = n->uplink->queue_full;
    if (wire->fenced)
        info->stats.tx.dropped[OR_NIC_DROP_FENCED] = wire->fenced(wire->arg, n->info.id);
}

static void list_nics(struct or_iohv_nics *nics, struct or_command *c)
{
    c->nics = calloc(nics->count ? nics->count : 1, sizeof *c->nics);
    if (!c->nics) {
        or_engine_finish(nics->engine, c, -ENOMEM, "out of memory");
        return;
    }
    for (struct or_list *l = nics->list.next; l != &nics->list; l = l->next)
        tell(OR_CONTAINER(l, struct or_nic, link), &c->nics[c->count++]);
    or_engine_succeed(nics->engine, c);
}

bool or_iohv_nics_command(struct or_iohv_nics *nics, struct or_command *c)
{
    switch (c->type) {
    case OR_CMD_NIC_OPEN:
        nic_open(nics, c);
        return true;
    case OR_CMD_NIC_SET:
        nic_set(nics, c);
        return true;
    case OR_CMD_NIC_CLOSE:
        nic_close(nics, c);
        return true;
    case OR_CMD_NICS:
        list_nics(nics, c);
        return true;
    default:
        return false;
    }
}

/* --- life --------------------------------------------------------------------------------------- */

struct or_iohv_nics *or_iohv_nics_create(struct or_engine *engine, const struct or_nic_wire *wire, int *err)
{
    struct or_iohv_nics *nics = calloc(1, sizeof *nics);
    *err = -ENOMEM;
    if (!nics)
        return NULL;
    nics->engine = engine;
    nics->wire = *wire;
    or_list_init(&nics->list);
    or_list_init(&nics->active);
    or_list_init(&nics->hubs);
    nics->taps = (struct or_fd_source){.ready = taps_ready, .fd = epoll_create1(EPOLL_CLOEXEC)};
    *err = nics->taps.fd < 0 ? -errno : or_fd_source_add(engine->epoll_fd, &nics->taps, EPOLLIN);
    if (*err == 0)
        return nics;
    if (nics->taps.fd >= 0)
        close(nics->taps.fd);
    free(nics);
    return NULL;
}

void or_iohv_nics_destroy(struct or_iohv_nics *nics)
{
    while (!or_list_empty(&nics->list))
        close_nic(OR_CONTAINER(nics->list.next, struct or_nic, link));
    or_fd_source_remove(nics->engine->epoll_fd, &nics->taps);
    close(nics->taps.fd);
    free(nics);
}
