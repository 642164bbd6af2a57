/* Theory of operation: packets.h. */
#include "packets.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "plant.h"

/* A packet's fragments follow each other closely. What comes later than this is of another packet, when the numbers
 * begin anew. */
#define STALE_NS 1000000000ull

int or_packets_open(struct or_packets *p)
{
    *p = (struct or_packets){.memory = malloc((OR_LINKS_MAX + OR_PACKETS_PARTIAL) * OR_PACKET_MAX)};
    if (!p->memory)
        return -ENOMEM;
    uint8_t *at = p->memory;
    for (uint32_t i = 0; i < OR_LINKS_MAX; i++, at += OR_PACKET_MAX)
        p->rest[i].data = at;
    for (uint32_t i = 0; i < OR_PACKETS_PARTIAL; i++, at += OR_PACKET_MAX)
        p->partial[i].data = at;
    return 0;
}

void or_packets_close(struct or_packets *p)
{
    free(p->memory);
    *p = (struct or_packets){0};
}

void or_packets_begin(struct or_packets *p, struct or_links *links, uint32_t fragment_bytes,
                      bool (*requests)(void *arg, uint64_t now), void *arg)
{
    p->links = links;
    p->fragment_bytes = fragment_bytes;
    p->requests = requests;
    p->arg = arg;
}

static void give_up_rest(struct or_packets *p, struct or_packet_rest *rest)
{
    if (rest->id.total)
        p->stats.lost++;
    rest->id.total = 0;
}

static void give_up_partial(struct or_packets *p, struct or_packet_partial *partial)
{
    if (partial->id.total)
        p->stats.incomplete++;
    partial->id.total = 0;
}

void or_packets_end(struct or_packets *p)
{
    p->links = NULL;
    for (uint32_t i = 0; i < OR_LINKS_MAX; i++)
        give_up_rest(p, &p->rest[i]);
    for (uint32_t i = 0; i < OR_PACKETS_PARTIAL; i++)
        give_up_partial(p, &p->partial[i]);
}

void or_packet_stats_add(struct or_packet_stats *sum, const struct or_packet_stats *stats)
{
    sum->sent += stats->sent;
    sum->bytes_sent += stats->bytes_sent;
    sum->received += stats->received;
    sum->bytes_received += stats->bytes_received;
    sum->incomplete += stats->incomplete;
    sum->refused += stats->refused;
    sum->lost += stats->lost;
}

/* --- sending ------------------------------------------------------------------------------------ */

/* Where in a packet's pieces the next bytes are. */
struct cursor {
    const struct iovec *iov;
    size_t offset;
};

static void gather(struct cursor *c, uint8_t *to, uint32_t bytes)
{
    while (bytes) {
        size_t left = c->iov->iov_len - c->offset, n = left < bytes ? left : bytes;
        if (n)
            memcpy(to, (const uint8_t *)c->iov->iov_base + c->offset, n);
        to += n;
        bytes -= (uint32_t)n;
        c->offset += n;
        if (c->offset == c->iov->iov_len) {
            c->iov++;
            c->offset = 0;
        }
    }
}

static uint32_t fragment_length(const struct or_packets *p, const struct or_packet_id *id, uint32_t at)
{
    uint32_t rest = id->total - at;
    return rest < p->fragment_bytes ? rest : p->fragment_bytes;
}

/* Room for the packet's fragment at `at`, with its head written. NULL: not now. */
static uint8_t *begin_fragment(struct or_packets *p, uint32_t link, const struct or_packet_id *id, uint32_t at,
                               uint64_t now)
{
    uint32_t bytes = (uint32_t)sizeof(struct or_message_packet) + fragment_length(p, id, at);
    struct or_item item = {.slot = OR_ITEM_PACKET, .sequence = id->number};
    struct or_message_packet *m = or_links_packet(p->links, link, bytes, item, now);
    if (!m)
        return NULL;
    *m = (struct or_message_packet){
        .type = OR_MSG_PACKET,
        .length = (uint16_t)bytes,
        .device = id->device,
        .generation = id->generation,
        .number = id->number,
        .total = id->total,
        .fragment = at,
    };
    return m->data;
}

/* One more fragment of the packet that is on its way on this link. False: there is none, or no room. */
static bool send_rest(struct or_packets *p, uint32_t link, uint64_t now)
{
    struct or_packet_rest *rest = &p->rest[link];
    if (!rest->id.total)
        return false;
    if (!p->links->link[link].up) {
        give_up_rest(p, rest); /* its beginning was in flight there */
        return false;
    }
    uint8_t *to = begin_fragment(p, link, &rest->id, rest->sent, now);
    if (!to)
        return false;
    uint32_t bytes = fragment_length(p, &rest->id, rest->sent);
    memcpy(to, rest->data + rest->sent, bytes);
    rest->sent += bytes;
    if (rest->sent == rest->id.total)
        rest->id.total = 0;
    return true;
}

enum or_packet_verdict or_packets_send(struct or_packets *p, uint32_t device, uint32_t generation,
                                       const struct or_packet *packet, uint64_t now)
{
    assert(packet->length >= OR_PACKET_MIN && packet->length <= OR_PACKET_MAX);
    int link = p->links ? or_links_of_packets(p->links, device) : -1;
    if (link < 0)
        return OR_PACKET_DOWN;
    while (or_links_requests_first(p->links) && p->requests(p->arg, now))
        ;
    struct or_packet_rest *rest = &p->rest[link];
    while (send_rest(p, (uint32_t)link, now))
        ;
    if (rest->id.total)
        return OR_PACKET_LATER;

    struct cursor from = {.iov = packet->iov};
    struct or_packet_id id = {device, generation, p->number + 1, packet->length};
    uint32_t sent = 0;
    uint8_t *to;
    while (sent < id.total && (to = begin_fragment(p, (uint32_t)link, &id, sent, now))) {
        uint32_t bytes = fragment_length(p, &id, sent);
        gather(&from, to, bytes);
        sent += bytes;
    }
    if (sent == 0)
        return OR_PACKET_LATER;
    if (sent < id.total && !OR_PLANTED(OR_PLANT_PACKET_REST_LOST)) {
        rest->id = id;
        rest->sent = sent;
        gather(&from, rest->data + sent, id.total - sent);
    }
    p->number++;
    p->stats.sent++;
    p->stats.bytes_sent += id.total;
    return OR_PACKET_SENT;
}

void or_packets_pump(struct or_packets *p, uint64_t now)
{
    bool requests = true, packets = true;
    while (requests || packets) {
        if (packets && !(requests && or_links_requests_first(p->links))) {
            packets = false;
            for (uint32_t i = 0; i < p->links->count; i++)
                packets |= send_rest(p, i, now);
        } else {
            requests = p->requests(p->arg, now);
        }
    }
}

/* --- receiving ---------------------------------------------------------------------------------- */

static bool is_of(const struct or_packet_partial *partial, const struct or_message_packet *m)
{
    const struct or_packet_id *id = &partial->id;
    return id->total && id->device == m->device && id->generation == m->generation &&
           (id->number == m->number || OR_PLANTED(OR_PLANT_PACKETS_MIXED));
}

/* The entry of the packet that the fragment is of: a new one takes a free place, or the oldest's. */
static struct or_packet_partial *partial_of(struct or_packets *p, const struct or_message_packet *m, uint64_t now)
{
    struct or_packet_partial *place = &p->partial[0];
    for (uint32_t i = 0; i < OR_PACKETS_PARTIAL; i++) {
        struct or_packet_partial *partial = &p->partial[i];
        if (partial->id.total && now - partial->since_ns > STALE_NS)
            give_up_partial(p, partial);
        if (is_of(partial, m))
            return partial;
        if (place->id.total && (!partial->id.total || partial->since_ns < place->since_ns))
            place = partial;
    }
    give_up_partial(p, place);
    uint32_t fragments = (m->total + p->fragment_bytes - 1) / p->fragment_bytes;
    place->id = (struct or_packet_id){m->device, m->generation, m->number, m->total};
    place->since_ns = now;
    place->missing = fragments == 64 ? UINT64_MAX : (1ull << fragments) - 1;
    return place;
}

const uint8_t *or_packets_receive(struct or_packets *p, const struct or_message_packet *m, uint32_t *length,
                                  enum or_refuse *refuse, uint64_t now)
{
    *refuse = or_wire_check_packet(m, p->fragment_bytes);
    *length = m->total;
    const uint8_t *packet = NULL;
    if (*refuse) {
        p->stats.refused++;
    } else if (m->total <= p->fragment_bytes) {
        packet = m->data;
    } else {
        struct or_packet_partial *partial = partial_of(p, m, now);
        if (partial->id.total != m->total) {
            p->stats.refused++;
            *refuse = OR_REFUSE_FRAGMENT;
            return NULL;
        }
        memcpy(partial->data + m->fragment, m->data, m->length - sizeof *m);
        partial->missing &= ~(1ull << m->fragment / p->fragment_bytes);
        if (!partial->missing) {
            partial->id.total = 0;
            packet = partial->data;
        }
    }
    if (packet) {
        p->stats.received++;
        p->stats.bytes_received += *length;
    }
    return packet;
}
