/* How frames travel. A frame is committed to a nic, leaves it at a flush, may meet with loss,
 * corruption, duplication or the attacker, waits for its turn on the sender's link and in a queue of
 * the switch (which drops at its tail), and arrives after the delay of the path plus jitter, unless
 * the receiver's link is cut, its ring is full or nobody lives there. The receiving engine is woken.
 *
 * A frame is one object with references: both copies of a duplicate and the attacker's memory point
 * to the same one, which is how the checker knows that an engine accepted the same frame twice
 * (engine.c). A corrupted frame is a new object marked must_refuse. */
#include "network.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

static const uint32_t class_bytes[5] = {256, 2048, 9216, 20480, OR_ETH_HEADER + OR_MTU_MAX};

struct delivery {
    struct net *net;
    struct frame *frame;
    uint32_t to;
    struct delivery *next;
};

struct frame *net_frame(struct net *net, uint32_t size)
{
    uint32_t class = 0;
    while (class_bytes[class] < size)
        class ++;
    struct frame *frame = net->free_frames[class];
    if (frame)
        net->free_frames[class] = frame->next;
    else
        frame = world_alloc(net->w, sizeof *frame + class_bytes[class]);
    *frame = (struct frame){.refs = 1, .length = size, .size_class = class};
    return frame;
}

void net_frame_unref(struct net *net, struct frame *frame)
{
    assert(frame->refs > 0);
    if (--frame->refs > 0)
        return;
    frame->next = net->free_frames[frame->size_class];
    net->free_frames[frame->size_class] = frame;
}

/* The first bytes hold the header with counter and digest: enough to tell frames apart. */
static uint64_t frame_print(const struct frame *frame)
{
    uint64_t words[7] = {0};
    memcpy(words, frame->bytes, frame->length < sizeof words ? frame->length : sizeof words);
    uint64_t h = frame->length;
    for (int i = 0; i < 7; i++)
        h = mix64(h ^ words[i]);
    return h;
}

static uint32_t place_of(const struct net *net, const uint8_t *mac)
{
    for (uint32_t i = 0; i < NICS_MAX; i++)
        if (memcmp(net->places[i].mac, mac, 6) == 0)
            return i;
    return NICS_MAX;
}

static void arrive(void *arg)
{
    struct delivery *delivery = arg;
    struct net *net = delivery->net;
    struct frame *frame = delivery->frame;
    struct place *place = &net->places[delivery->to];
    struct nic *nic = place->nic;
    uint32_t to = delivery->to;
    if (frame->sequence < net->places[frame->from].linger_before && !frame->lingered) {
        frame->lingered = true;
        uint64_t extra = rng_scale(&net->w->rng, 100 * US, 4 * SEC);
        world_count(net->w, COV_HELD, 1);
        world_note(net->w, "net.lingers", frame->from, frame->length, extra);
        world_at(net->w, net->w->now + extra, arrive, delivery);
        return;
    }
    delivery->next = net->free_deliveries;
    net->free_deliveries = delivery;

    if (place->cut_in_until > net->w->now || place->down || frame->length > OR_ETH_HEADER + place->mtu) {
        world_count(net->w, COV_CUT_FRAMES, 1);
        world_note(net->w, "net.cut-in", frame->from, to, frame->length);
    } else if (!nic || nic->muted) {
        world_note(net->w, "net.nobody", frame->from, to, frame->length);
    } else if (nic->ring_count == nic->port.rx_frames) {
        nic->port.stats.rx_dropped++;
        world_count(net->w, COV_RING_DROPS, 1);
        world_note(net->w, "net.ring-full", frame->from, to, frame->length);
    } else {
        if (frame->sequence < place->seen_sequence[frame->from])
            world_count(net->w, COV_REORDERED, 1);
        else
            place->seen_sequence[frame->from] = frame->sequence;
        nic->ring[(nic->ring_head + nic->ring_count++) % nic->port.rx_frames] = frame;
        world_note(net->w, "net.arrive", frame->from, to, frame_print(frame));
        nic->wake(nic->wake_arg);
        return;
    }
    net_frame_unref(net, frame);
}

/* The time at which a frame leaves the queue, or 0 when the queue is full. */
static uint64_t queue_pass(struct queue *queue, uint64_t now, uint64_t transmit_ns)
{
    while (queue->count > 0 && queue->leaves[queue->head] <= now) {
        queue->head = (queue->head + 1) % QUEUE_FRAMES_MAX;
        queue->count--;
    }
    if (queue->count >= queue->limit)
        return 0;
    uint64_t leaves = (queue->free_at > now ? queue->free_at : now) + transmit_ns;
    queue->free_at = leaves;
    queue->leaves[(queue->head + queue->count++) % QUEUE_FRAMES_MAX] = leaves;
    return leaves;
}

void net_carry(struct net *net, struct frame *frame, uint64_t extra_ns)
{
    struct world *w = net->w;
    uint32_t to = frame->length >= OR_ETH_HEADER ? place_of(net, frame->bytes) : NICS_MAX;
    bool ours = to < NICS_MAX && frame->bytes[12] == OR_ETHERTYPE_DEFAULT >> 8 &&
                frame->bytes[13] == (OR_ETHERTYPE_DEFAULT & 0xff);
    if (!ours) {
        world_note(w, "net.astray", frame->from, frame->length, 0);
        net_frame_unref(net, frame);
        return;
    }
    uint64_t transmit = frame->length * US / net->plan->bytes_per_us + 1;
    struct place *from = &net->places[frame->from];
    from->out_free_at = (from->out_free_at > w->now ? from->out_free_at : w->now) + transmit;
    uint64_t leaves = queue_pass(&net->places[to].queue, from->out_free_at, transmit);
    if (leaves == 0) {
        world_count(w, COV_QUEUE_DROPS, 1);
        world_note(w, "net.queue-full", frame->from, to, frame->length);
        net_frame_unref(net, frame);
        return;
    }
    struct delivery *delivery = net->free_deliveries;
    if (delivery)
        net->free_deliveries = delivery->next;
    else
        delivery = world_alloc(w, sizeof *delivery);
    *delivery = (struct delivery){.net = net, .frame = frame, .to = to};
    uint64_t jitter = net->plan->jitter_ns && !net->healthy ? rng_below(&w->rng, net->plan->jitter_ns) : 0;
    world_at(w, leaves + net->plan->delay_ns + jitter + extra_ns, arrive, delivery);
}

void net_mark(struct frame *copy, struct frame *original)
{
    uint32_t covered = OR_ETH_HEADER + frame_header(original)->length;
    bool touched = copy->length < covered ||
                   memcmp(copy->bytes + OR_ETH_HEADER, original->bytes + OR_ETH_HEADER, covered - OR_ETH_HEADER) != 0;
    copy->must_refuse = touched && copy->length >= OR_ETH_HEADER + sizeof(struct or_frame_header) &&
                        frame_header(copy)->type == OR_FRAME_DATA;
}

/* Flips bits anywhere, or cuts the end off. Whether the receiver has to notice depends on where. */
static struct frame *corrupt(struct net *net, struct frame *frame)
{
    struct rng *rng = &net->w->rng;
    struct frame *copy = net_frame(net, frame->length);
    memcpy(copy->bytes, frame->bytes, frame->length);
    copy->from = frame->from;
    copy->sequence = frame->sequence;
    if (rng_chance(rng, PPM / 8)) {
        copy->length = (uint32_t)rng_between(rng, 1, frame->length - 1);
    } else {
        /* Half of the hits go to the headers: they are small, and where the decisions are. */
        uint32_t span = rng_chance(rng, PPM / 2) && frame->length > 96 ? 96 : frame->length;
        for (uint64_t flips = rng_scale(rng, 1, 16); flips > 0; flips--)
            copy->bytes[rng_below(rng, span)] ^= (uint8_t)(1u << rng_below(rng, 8));
    }
    net_mark(copy, frame);
    net_frame_unref(net, frame);
    return copy;
}

static void send(struct net *net, struct frame *frame)
{
    struct world *w = net->w;
    const struct plan *plan = net->plan;
    struct rng *rng = &w->rng;
    world_count(w, COV_FRAMES, 1);
    world_note(w, "net.send", frame->from, frame->length, frame_print(frame));
    struct place *place = &net->places[frame->from];
    if (place->down) {
        world_count(w, COV_CUT_FRAMES, 1);
        net_frame_unref(net, frame);
        return;
    }
    if (place->cut_out_until > w->now && place->cut_keeps > 0) {
        place->cut_keeps--;
        world_count(w, COV_HELD, 1);
        world_note(w, "net.cut-kept", frame->from, frame->length, 0);
        net_carry(net, frame, place->cut_out_until - w->now + rng_scale(rng, 1 * US, 500 * MS));
        return;
    }
    if (place->cut_out_until > w->now) {
        world_count(w, COV_CUT_FRAMES, 1);
        world_note(w, "net.cut-out", frame->from, frame->length, 0);
        net_frame_unref(net, frame);
        return;
    }
    if (net->healthy) {
        net_carry(net, frame, 0);
        return;
    }
    if (plan->attacker && attacker_sees(net, frame))
        return;
    uint32_t loss_ppm = plan->loss_ppm + (frame->from >= MACHINES_MAX ? plan->second_loss_ppm : 0);
    if (rng_chance(rng, loss_ppm)) {
        world_count(w, COV_LOST, 1);
        world_note(w, "net.lost", frame->from, frame->length, 0);
        net_frame_unref(net, frame);
        return;
    }
    if (rng_chance(rng, plan->corrupt_ppm)) {
        world_count(w, COV_CORRUPTED, 1);
        world_note(w, "net.corrupt", frame->from, frame->length, 0);
        frame = corrupt(net, frame);
    }
    if (rng_chance(rng, plan->duplicate_ppm)) {
        world_count(w, COV_DUPLICATED, 1);
        frame->refs++;
        net_carry(net, frame, rng_scale(rng, 1 * US, 20 * MS));
    }
    uint64_t extra = 0;
    if (rng_chance(rng, plan->hold_ppm)) {
        extra = rng_scale(rng, 100 * US, 4 * SEC);
        world_count(w, COV_HELD, 1);
        world_note(w, "net.held", frame->from, frame->length, extra);
    }
    net_carry(net, frame, extra);
}

static struct nic *nic_of(struct or_port *port)
{
    return (struct nic *)port; /* port is the first member */
}

static void nic_flush(struct or_port *port)
{
    struct nic *nic = nic_of(port);
    for (uint32_t i = 0; i < nic->batch_count; i++) {
        struct frame *frame = nic->batch[i];
        port->stats.tx_frames++;
        port->stats.tx_bytes += frame->length;
        if (nic->muted)
            net_frame_unref(nic->net, frame);
        else
            send(nic->net, frame);
    }
    nic->batch_count = 0;
}

static uint8_t *nic_alloc(struct or_port *port)
{
    struct nic *nic = nic_of(port);
    if (nic->taken)
        return nic->taken->bytes;
    if (!nic->net->healthy && rng_chance(&nic->net->w->rng, nic->net->plan->tx_stall_ppm)) {
        world_count(nic->net->w, COV_TX_STALLS, 1);
        nic->refused_tx = true;
        return NULL;
    }
    if (nic->batch_count == TX_BATCH)
        nic_flush(port);
    nic->taken = net_frame(nic->net, OR_ETH_HEADER + port->mtu);
    return nic->taken->bytes;
}

/* There is a firewall that comes and goes; in the first period it is there. */
static bool swallows(const struct net *net)
{
    uint64_t period = net->plan->swallow_ns;
    return period && net->w->now / period % 2 == 0;
}

static void nic_commit(struct or_port *port, uint32_t length)
{
    struct nic *nic = nic_of(port);
    struct net *net = nic->net;
    if (!nic->taken || length > OR_ETH_HEADER + port->mtu || length < OR_ETH_HEADER + sizeof(struct or_frame_header))
        world_fail(net->w, "port contract", "nic %u commits %u bytes, mtu %u", nic->index, length, port->mtu);
    struct frame *frame = nic->taken;
    nic->taken = NULL;
    if (length <= class_bytes[0]) { /* most frames are short: do not let them hold large buffers */
        struct frame *small = net_frame(net, length);
        memcpy(small->bytes, frame->bytes, length);
        net_frame_unref(net, frame);
        frame = small;
    }
    frame->length = length;
    frame->from = nic->index;
    frame->sequence = net->places[nic->index].next_sequence++;
    if (port->tx_form != OR_TX_PLAIN) {
        world_count(net->w, COV_MERGED, 1);
        if (swallows(net)) {
            world_count(net->w, COV_SWALLOWED, 1);
            net_frame_unref(net, frame);
            return;
        }
    }
    nic->batch[nic->batch_count++] = frame;
}

static uint32_t nic_burst(struct or_port *port, uint32_t max, or_rx_fn *fn, void *arg)
{
    struct nic *nic = nic_of(port);
    uint32_t done = 0;
    while (done < max && nic->ring_count > 0) {
        struct frame *frame = nic->ring[nic->ring_head];
        nic->ring_head = (nic->ring_head + 1) % port->rx_frames;
        nic->ring_count--;
        port->stats.rx_frames++;
        port->stats.rx_bytes += frame->length;
        nic->receiving = frame;
        fn(arg, frame->bytes, frame->length);
        nic->receiving = NULL;
        net_frame_unref(nic->net, frame);
        done++;
    }
    return done;
}

static void nic_close(struct or_port *port)
{
    net_nic_kill(nic_of(port));
}

static const struct or_port_ops nic_ops = {
    .tx_alloc = nic_alloc,
    .tx_commit = nic_commit,
    .tx_flush = nic_flush,
    .rx_burst = nic_burst,
    .close = nic_close,
};

struct nic *net_nic(struct net *net, uint32_t index, void (*wake)(void *arg),
                    void (*changed)(void *arg, struct or_port *port), void *arg)
{
    struct nic *nic = world_alloc(net->w, sizeof *nic);
    struct place *place = &net->places[index];
    *nic = (struct nic){
        .port = {.ops = &nic_ops,
                 .ethertype = OR_ETHERTYPE_DEFAULT,
                 .mtu = place->mtu,
                 .down = place->down,
                 .rx_frames = net->plan->ring_frames,
                 .envelopes = net->plan->envelopes ? OR_ENVELOPES_READY : OR_ENVELOPES_NONE,
                 .fd = -1,
                 .handshake_fd = -1},
        .net = net,
        .index = index,
        .instance = ++net->instances,
        .wake = wake,
        .changed = changed,
        .wake_arg = arg,
    };
    memcpy(nic->port.mac, place->mac, 6);
    nic->ring = world_alloc(net->w, nic->port.rx_frames * sizeof(struct frame *));
    place->nic = nic;
    return nic;
}

void net_nic_kill(struct nic *nic)
{
    struct place *place = &nic->net->places[nic->index];
    if (place->nic == nic)
        place->nic = NULL;
    nic->muted = true;
}

void net_init(struct net *net, struct world *w, const struct plan *plan)
{
    memset(net, 0, sizeof *net);
    net->w = w;
    net->plan = plan;
    for (uint32_t i = 0; i < NICS_MAX; i++) {
        struct place *place = &net->places[i];
        memcpy(place->mac, (uint8_t[]){0x02, 0x0f, 0x17, 0x51, 0x3a, (uint8_t)(i + 1)}, 6);
        place->mtu = plan->mtu;
        place->queue.limit = i % MACHINES_MAX == NIC_SERVER ? plan->switch_frames : plan->host_frames;
        assert(place->queue.limit <= QUEUE_FRAMES_MAX);
    }
}

void net_linger(struct net *net, uint32_t index)
{
    if (!net->healthy)
        net->places[index].linger_before = net->places[index].next_sequence;
}

void net_cut(struct net *net, uint32_t index, uint64_t length_ns, bool out, bool in)
{
    struct place *place = &net->places[index];
    uint64_t until = net->w->now + length_ns;
    if (out && place->cut_out_until < until)
        place->cut_out_until = until;
    if (out)
        place->cut_keeps = rng_chance(&net->w->rng, PPM / 2) ? 100 : 0;
    if (in && place->cut_in_until < until)
        place->cut_in_until = until;
    world_count(net->w, COV_CUT, 1);
    world_note(net->w, "chaos.cut", index, length_ns, (uint64_t)out << 1 | in);
}

static void tell(struct place *place)
{
    struct nic *nic = place->nic;
    if (!nic || nic->muted)
        return;
    or_port_finish(&nic->port);
    if (nic->taken)
        net_frame_unref(nic->net, nic->taken);
    nic->taken = NULL;
    nic->port.down = place->down;
    nic->port.mtu = place->mtu;
    memcpy(nic->port.mac, place->mac, 6);
    nic->changed(nic->wake_arg, &nic->port);
}

void net_port(struct net *net, uint32_t index, bool down, bool another)
{
    struct place *place = &net->places[index];
    /* A server's address is in its hosts' configuration: it stays. */
    if (another && index % MACHINES_MAX != NIC_SERVER)
        place->mac[4]++;
    place->down = down;
    world_note(net->w, "net.port", index, down, another);
    tell(place);
}

void net_mtu(struct net *net, uint32_t index, uint32_t mtu)
{
    net->places[index].mtu = mtu;
    world_note(net->w, "net.mtu", index, mtu, 0);
    tell(&net->places[index]);
}

void net_heal(struct net *net)
{
    net->healthy = true;
    for (uint32_t i = 0; i < NICS_MAX; i++) {
        net->places[i].cut_out_until = net->places[i].cut_in_until = 0;
        if (net->places[i].down)
            net_port(net, i, false, false);
    }
}
