/* Packets are sent in bursts, at random moments; in some seeds there are always more than there is room for. They
 * may be lost without a reason being asked for, but in a seed without trouble and without a full queue none is. */
#include "packets.h"

#include <string.h>

#include "sim.h"

#define BURST_MAX 64u
#define PROBE_PACKETS 4u
#define UP 0
#define DOWN 1

/* --- contents ----------------------------------------------------------------------------------- */

static uint64_t word_of(uint32_t number, uint32_t length, uint32_t index)
{
    return index ? (number * UINT64_C(0x9e3779b97f4a7c15)) + index * UINT64_C(0xd1342543de82ef95)
                 : (uint64_t)length << 32 | number;
}

static void fill(uint8_t *bytes, uint32_t number, uint32_t length)
{
    for (uint32_t at = 0; at < length; at += 8) {
        uint64_t word = word_of(number, length, at / 8);
        memcpy(bytes + at, &word, length - at < 8 ? length - at : 8);
    }
}

static bool is_whole(const uint8_t *bytes, uint32_t number, uint32_t length)
{
    uint64_t wrong = 0;
    for (uint32_t at = 0; at < length; at += 8) {
        uint64_t word = word_of(number, length, at / 8), found = word;
        memcpy(&found, bytes + at, length - at < 8 ? length - at : 8);
        wrong |= word ^ found;
    }
    return wrong == 0;
}

static uint32_t draw_length(struct rng *rng)
{
    uint64_t dice = rng_below(rng, 100);
    if (dice < 50)
        return (uint32_t)rng_between(rng, OR_PACKET_MIN, 256);
    if (dice < 80)
        return (uint32_t)rng_between(rng, OR_PACKET_MIN, 1526);
    if (dice < 90)
        return dice < 85 ? 9026 : 30000; /* many of the same length, as of a transfer */
    return (uint32_t)rng_between(rng, OR_PACKET_MIN, dice < 95 ? 9026 : OR_PACKET_MAX);
}

/* The next packet, in up to three pieces; the same one until it is sent. */
static struct or_packet draw(struct sim *sim, struct iovec iov[3])
{
    struct packets *packets = &sim->packets;
    struct rng *rng = &sim->w.rng;
    if (packets->drawn != packets->count + 1) {
        packets->drawn = packets->count + 1;
        packets->drawn_length = draw_length(rng);
        fill(packets->drawn_bytes, packets->drawn, packets->drawn_length);
    }
    uint32_t length = packets->drawn_length;
    uint32_t a = (uint32_t)rng_below(rng, length), b = a + (uint32_t)rng_below(rng, length - a);
    iov[0] = (struct iovec){packets->drawn_bytes, a};
    iov[1] = (struct iovec){packets->drawn_bytes + a, b - a};
    iov[2] = (struct iovec){packets->drawn_bytes + b, length - b};
    return (struct or_packet){iov, 3, length};
}

static bool has_budget(const struct sim *sim)
{
    const struct plan *plan = &sim->plan;
    if (!plan->nics || sim->packets.count + 1 >= PACKETS_MAX)
        return false;
    return sim->phase == PHASE_PROBE || sim->packets.bytes < plan->packet_bytes;
}

static void sent(struct sim *sim, struct packet_record record)
{
    struct packets *packets = &sim->packets;
    record.sent = sim->w.now;
    packets->records[++packets->count] = record;
    packets->bytes += record.length;
    world_count(&sim->w, COV_PACKETS, 1);
    world_note(&sim->w, record.down ? "packet.down" : "packet.up", packets->count, record.vnic, record.length);
}

/* --- arriving ----------------------------------------------------------------------------------- */

static struct packet_record *identify(struct sim *sim, const uint8_t *bytes, uint32_t length)
{
    uint32_t number;
    memcpy(&number, bytes, sizeof number);
    if (number == 0 || number > sim->packets.count || sim->packets.records[number].length != length ||
        !is_whole(bytes, number, length))
        world_fail(&sim->w, "garbage packet", "%u bytes that begin with number %u", length, number);
    return &sim->packets.records[number];
}

/* What must be true wherever it arrives. */
static void arrived(struct sim *sim, struct packet_record *p, struct host *host)
{
    struct world *w = &sim->w;
    uint32_t number = (uint32_t)(p - sim->packets.records);
    struct vnic *nic = &sim->vnics[p->vnic];
    world_count(w, COV_PACKETS_ARRIVED, 1);
    world_note(w, "packet.arrives", number, p->vnic, 0);
    if (p->delivered)
        world_fail(w, "packet twice", "packet %u", number);
    if (p->foreign || p->host != host->index)
        world_fail(w, "foreign packet", "packet %u of host%u is delivered for %s", number, p->host, host->name);
    if (p->life < host->packet_life[p->down])
        world_fail(w, "packet of a dead life", "packet %u of life %u after one of %u", number, p->life,
                   host->packet_life[p->down]);
    /* Of an older generation: to a host that no longer has the NIC, another way. */
    bool present = p->generation == nic->generation;
    if (sim->plan.in_order && present && p->sent > host->links_changed[p->down] && number < nic->latest[p->down])
        world_fail(w, "packet overtaken", "packet %u of nic %u after %u", number, p->vnic, nic->latest[p->down]);
    host->packet_life[p->down] = p->life;
    if (present)
        nic->latest[p->down] = number;
    nic->since_probe[p->down]++;
    p->delivered = true;
}

void packets_at_host(void *arg, uint32_t device, uint32_t generation, const uint8_t *bytes, uint32_t length)
{
    struct host *host = arg;
    struct packet_record *p = identify(host->sim, bytes, length);
    host->packets_received++;
    if (!p->down || p->id != device || p->generation != generation)
        world_fail(&host->sim->w, "wrong device", "a packet for %u, generation %u arrives as one for %u, %u", p->id,
                   p->generation, device, generation);
    arrived(host->sim, p, host);
}

/* A packet of the network's for this NIC; false: no room, or nobody there. */
static bool send_down(struct iohv *iohv, struct vnic *nic)
{
    struct sim *sim = iohv->sim;
    struct iovec iov[3];
    struct or_packet packet = draw(sim, iov);
    enum or_packet_verdict verdict = or_server_packet(iohv->server, nic->id, &packet, engine_now(iohv->engine));
    if (verdict == OR_PACKET_LATER)
        world_count(&sim->w, COV_PACKETS_LATER, 1);
    if (verdict != OR_PACKET_SENT)
        return false;
    iohv->packets_sent++;
    sent(sim, (struct packet_record){.length = packet.length,
                                     .id = nic->id,
                                     .generation = nic->generation,
                                     .life = iohv->engine->nics[0]->instance,
                                     .vnic = (uint8_t)nic->index,
                                     .host = (uint8_t)nic->owner,
                                     .down = DOWN});
    return true;
}

static void at_server(void *arg, const uint8_t *bytes, uint32_t length)
{
    struct vnic *nic = arg;
    struct sim *sim = nic->sim;
    struct packet_record *p = identify(sim, bytes, length);
    sim->iohv.packets_received++;
    if (p->down || p->vnic != nic->index || !nic->attached)
        world_fail(&sim->w, "wrong device", "a packet of nic %u arrives as one of %u", p->vnic, nic->index);
    if (p->generation != nic->generation || p->id != nic->id)
        world_fail(&sim->w, "stale packet", "a packet of generation %u of nic %u, which has %u", p->generation,
                   nic->index, nic->generation);
    arrived(sim, p, &sim->hosts[nic->owner]);
    /* As a switch between NICs does, from inside the call. */
    struct vnic *other = &sim->vnics[rng_below(&sim->w.rng, sim->vnic_count)];
    if (other->attached && has_budget(sim) && rng_chance(&sim->w.rng, PPM / 8) && send_down(&sim->iohv, other))
        world_count(&sim->w, COV_PACKETS_FORWARDED, 1);
}

/* --- sending ------------------------------------------------------------------------------------ */

/* Mostly one of its own; now and then one of another host's, with everything right but the host. */
static struct packet_record addressed(struct host *host)
{
    struct sim *sim = host->sim;
    struct rng *rng = &sim->w.rng;
    const struct vnic *other = &sim->vnics[rng_below(rng, sim->vnic_count)];
    if (other->owner != host->index && rng_chance(rng, PPM / 64))
        return (struct packet_record){
            .id = other->id, .generation = other->generation, .vnic = (uint8_t)other->index, .foreign = true};
    const struct view *view = &host->nic_views[rng_below(rng, host->nic_view_count)];
    return (struct packet_record){.id = view->id, .generation = view->generation, .vnic = (uint8_t)view->disk};
}

void packets_from_host(void *arg)
{
    struct host *host = arg;
    struct sim *sim = host->sim;
    if (sim->plan.packet_flood && has_budget(sim))
        host->packets_waiting = BURST_MAX;
    while (host->packets_waiting && host->nic_view_count && has_budget(sim)) {
        struct iovec iov[3];
        struct or_packet packet = draw(sim, iov);
        struct packet_record record = addressed(host);
        enum or_packet_verdict verdict =
            or_route_packet(host_route(host, record.id), record.generation, &packet, engine_now(host->engine));
        if (verdict == OR_PACKET_LATER) {
            world_count(&sim->w, COV_PACKETS_LATER, 1);
            break;
        }
        if (verdict == OR_PACKET_DOWN) {
            if (host->up)
                world_fail(&sim->w, "session without packets", "%s", host->name);
            host->packets_waiting = 0;
            break;
        }
        host->packets_waiting--;
        host->packets_sent++;
        record.length = packet.length;
        record.host = (uint8_t)host->index;
        record.life = host->life;
        record.down = UP;
        sent(sim, record);
    }
}

void packets_from_server(void *arg)
{
    struct iohv *iohv = arg;
    struct sim *sim = iohv->sim;
    for (uint32_t i = 0; i < sim->vnic_count && iohv->server; i++) {
        struct vnic *nic = &sim->vnics[i];
        if (sim->plan.packet_flood)
            nic->waiting = BURST_MAX;
        while (nic->waiting && nic->attached && has_budget(sim) && send_down(iohv, nic))
            nic->waiting--;
        if (!nic->attached)
            nic->waiting = 0;
    }
}

/* Guests and networks have something to send, again and again. */
static void burst(void *arg)
{
    struct sim *sim = arg;
    struct rng *rng = &sim->w.rng;
    uint64_t next = 10 * MS;
    if (has_budget(sim)) {
        struct host *host = &sim->hosts[rng_below(rng, sim->plan.hosts)];
        struct vnic *nic = &sim->vnics[rng_below(rng, sim->vnic_count)];
        host->packets_waiting = (uint32_t)rng_scale(rng, 1, BURST_MAX);
        nic->waiting = (uint32_t)rng_scale(rng, 1, BURST_MAX);
        if (host->dispatch)
            engine_poke(host->engine);
        if (sim->iohv.server)
            engine_poke(sim->iohv.engine);
        next = rng_scale(rng, 5 * US, 2 * MS);
    }
    world_at(&sim->w, sim->w.now + next, burst, sim);
}

/* --- attachments -------------------------------------------------------------------------------- */

static void must(struct iohv *iohv, int result, const char *what)
{
    if (result != 0)
        world_fail(&iohv->sim->w, "api", "%s: %d", what, result);
}

static void attach(struct iohv *iohv, struct vnic *nic)
{
    struct or_nic_export export = {.id = nic->id, .generation = nic->generation, .packet = at_server, .arg = nic};
    strcpy(export.host, iohv->sim->hosts[nic->owner].name);
    must(iohv, or_server_add_nic(iohv->server, &export), "or_server_add_nic");
    nic->attached = true;
    world_note(&iohv->sim->w, "nic.attach", nic->index, nic->owner, nic->generation);
}

void packets_attach(struct iohv *iohv, uint32_t host)
{
    for (uint32_t i = 0; i < iohv->sim->vnic_count; i++)
        if (iohv->sim->vnics[i].owner == host)
            attach(iohv, &iohv->sim->vnics[i]);
}

void packets_bump(struct iohv *iohv, struct vnic *nic)
{
    nic->generation++;
    if (nic->attached)
        attach(iohv, nic);
}

/* Under the old attachment id or a new one, with removal or by a higher generation. */
void packets_move(struct iohv *iohv, struct vnic *nic, uint32_t to)
{
    struct sim *sim = iohv->sim;
    bool other_id = rng_chance(&sim->w.rng, PPM / 2), known = iohv->server && iohv->known[to];
    if (nic->attached && (other_id || !known || rng_chance(&sim->w.rng, PPM / 2))) {
        must(iohv, or_server_remove_nic(iohv->server, nic->id), "or_server_remove_nic");
        nic->attached = false;
    }
    nic->generation++;
    nic->owner = to;
    nic->latest[UP] = nic->latest[DOWN] = 0;
    if (other_id)
        nic->id += 1000;
    if (known)
        attach(iohv, nic);
}

/* --- begin and end ------------------------------------------------------------------------------ */

static uint64_t drops(const struct world *w)
{
    return w->coverage[COV_LOST] + w->coverage[COV_QUEUE_DROPS] + w->coverage[COV_RING_DROPS] +
           w->coverage[COV_CUT_FRAMES];
}

void packets_init(struct sim *sim)
{
    const struct plan *plan = &sim->plan;
    sim->vnic_count = plan->hosts * plan->nics;
    sim->packets.drops_before = drops(&sim->w);
    for (uint32_t i = 0; i < sim->vnic_count; i++)
        sim->vnics[i] =
            (struct vnic){.sim = sim, .index = i, .id = 100000 + i, .generation = 1, .owner = i / plan->nics};
    if (plan->nics)
        world_at(&sim->w, sim->w.now, burst, sim);
}

void packets_host_stops(struct host *host)
{
    struct world *w = &host->sim->w;
    struct or_dispatch_stats of_all;
    or_dispatch_stats(host->dispatch, &of_all);
    const struct or_client_stats stats = of_all.clients;
    world_count(w, COV_PACKETS_LOST, stats.packets.lost);
    world_count(w, COV_PACKETS_INCOMPLETE, stats.packets.incomplete);
    if (stats.packets.sent != host->packets_sent || stats.packets.received != host->packets_received)
        world_fail(w, "statistics", "%s: %llu packets sent, %llu received; it counts %llu and %llu", host->name,
                   (unsigned long long)stats.packets.sent, (unsigned long long)stats.packets.received,
                   (unsigned long long)host->packets_sent, (unsigned long long)host->packets_received);
    host->packets_sent = host->packets_received = 0;
    host->packets_waiting = 0;
}

void packets_server_stops(struct iohv *iohv)
{
    struct world *w = &iohv->sim->w;
    struct or_server_stats stats;
    or_server_stats(iohv->server, &stats);
    world_count(w, COV_PACKETS_LOST, stats.packets.lost);
    world_count(w, COV_PACKETS_INCOMPLETE, stats.packets.incomplete);
    world_count(w, COV_PACKETS_UNKNOWN, stats.packets_unknown);
    world_count(w, COV_PACKETS_FENCED, stats.packets_fenced);
    if (stats.packets.sent != iohv->packets_sent || stats.packets.received != iohv->packets_received)
        world_fail(w, "statistics", "server: %llu packets sent, %llu received; it counts %llu and %llu",
                   (unsigned long long)stats.packets.sent, (unsigned long long)stats.packets.received,
                   (unsigned long long)iohv->packets_sent, (unsigned long long)iohv->packets_received);
    iohv->packets_sent = iohv->packets_received = 0;
    for (uint32_t i = 0; i < iohv->sim->vnic_count; i++)
        iohv->sim->vnics[i].attached = false;
}

void packets_probe(struct sim *sim)
{
    for (uint32_t i = 0; i < sim->vnic_count; i++)
        sim->vnics[i].since_probe[UP] = sim->vnics[i].since_probe[DOWN] = 0;
}

bool packets_settled(const struct sim *sim)
{
    for (uint32_t i = 0; sim->packets.count + 1 < PACKETS_MAX && i < sim->vnic_count; i++)
        if (sim->vnics[i].since_probe[UP] < PROBE_PACKETS || sim->vnics[i].since_probe[DOWN] < PROBE_PACKETS)
            return false;
    return true;
}

void packets_check_end(struct sim *sim)
{
    uint64_t until = sim->w.now + SEC;
    if (sim->plan.troubles[0] || (sim->plan.envelopes && sim->plan.swallow_ns))
        return;
    sim->plan.nics = 0; /* nobody sends any more */
    while (sim->w.now < until && world_step(&sim->w))
        ;
    if (drops(&sim->w) != sim->packets.drops_before)
        return;
    for (uint32_t number = 1; number <= sim->packets.count; number++)
        if (!sim->packets.records[number].delivered && !sim->packets.records[number].foreign)
            world_fail(&sim->w, "packet lost without cause", "packet %u of nic %u, %u bytes", number,
                       sim->packets.records[number].vnic, sim->packets.records[number].length);
}
