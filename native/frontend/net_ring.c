/* Packets of a virtio-net queue.
 *
 * Sending. The header is copied out of the guest's memory, checked and corrected; the frame stays where it is
 * and is copied once, by the session, which takes the packet at once or not at all. A chain whose packet was
 * not taken goes back to where it was in the ring: later steps find it again.
 *
 * Receiving. Chains are taken until they have room for the packet, the bytes are copied on the way, and the
 * header, which says how many there are, is written last. When the buffers run out all of them go back. What
 * was written to them the guest does not look at: they are not in the used ring.
 *
 * A guest may make available what has not been given back yet, so there is no bound to the entries of the used
 * ring but the ring's own: when it is full it is published. */
#include "net_ring.h"

#include <linux/virtio_config.h>

#include "net_header.h"

#define ROOM_RETRY_NS 500000ull      /* acknowledgements bring room much sooner */
#define HEADER_PIECES OR_VNET_HEADER /* each has a byte at least */
/* Of a received packet. What guests make available is 1.5 KB and more, of one or two descriptors; or one chain
 * of some twenty. */
#define MERGED_MAX 64u
#define WALKED_MAX 512u

/* The chain of the next head. Before its pieces there is room for one more. */
static const char *next_chain(struct or_net_nic *nic, struct or_virtqueue *vq, uint16_t *head, struct or_chain *chain)
{
    *chain = (struct or_chain){.iov = nic->pieces + 1, .iov_max = OR_NET_PIECES_MAX};
    const char *reason = or_virtqueue_take(vq, head);
    return reason ? reason : or_virtqueue_chain(vq, *head, chain);
}

static void give_back(struct or_vring *ring, uint16_t head, uint32_t length)
{
    if ((uint16_t)(ring->vq.used_next - ring->vq.used_idx) == ring->vq.size)
        or_vring_publish(ring);
    or_virtqueue_put(&ring->vq, head, length);
}

/* Sending. */

/* Copies the first bytes of a chain; returns how many there were. */
static uint32_t peek(const struct iovec *iov, uint32_t count, uint8_t *to, uint32_t length)
{
    uint32_t copied = 0;
    for (uint32_t i = 0; i < count && copied < length; i++) {
        uint32_t n = iov[i].iov_len < length - copied ? (uint32_t)iov[i].iov_len : length - copied;
        memcpy(to + copied, iov[i].iov_base, n);
        copied += n;
    }
    return copied;
}

/* Lets the pieces begin with byte `skip` of a chain that has more. Returns the first that is left. */
static uint32_t cut_front(struct iovec *iov, uint32_t skip)
{
    uint32_t i = 0;
    for (; skip >= iov[i].iov_len; i++)
        skip -= (uint32_t)iov[i].iov_len;
    iov[i].iov_base = (uint8_t *)iov[i].iov_base + skip;
    iov[i].iov_len -= skip;
    return i;
}

/* Later packets of the flow that the guest sends on this ring come to its pair. */
static void learn(struct or_net_nic *nic, const struct or_vring *ring, const struct iovec *frame, uint32_t count)
{
    uint8_t start[OR_NET_FLOW_BYTES];
    if (nic->config.pairs == 1)
        return;
    uint32_t flow = or_net_flow(start, peek(frame, count, start, sizeof(start)));
    nic->steer.pair[flow] = (uint8_t)(ring->index / 2);
}

/* Hands the packet of a chain to the session. */
static enum or_packet_verdict hand_on(struct or_net_nic *nic, struct or_vring *ring, struct virtio_net_hdr_v1 *header,
                                      const struct or_chain *chain, uint32_t length, uint64_t now)
{
    const struct or_vhost_net_config *c = &nic->config;
    uint32_t first = cut_front(chain->iov, or_net_header_bytes(ring->vu->features));
    uint32_t count = chain->readable - first;
    struct iovec *frame = chain->iov + first;
    frame[-1] = (struct iovec){.iov_base = header, .iov_len = sizeof(*header)};
    struct or_packet packet = {.iov = frame - 1, .count = count + 1, .length = OR_VNET_HEADER + length};
    enum or_packet_verdict verdict = c->packet(c->client, c->device, c->generation, &packet, now);
    if (verdict == OR_PACKET_SENT) {
        nic->stats.tx_packets++;
        nic->stats.tx_bytes += length;
        learn(nic, ring, frame, count);
    } else if (verdict == OR_PACKET_DOWN) {
        nic->stats.tx_dropped_down++;
    }
    return verdict;
}

/* False: the chain has to wait. *length: of the frame, if there is one. */
static bool send_chain(struct or_net_nic *nic, struct or_vring *ring, const struct or_chain *chain, uint32_t *length,
                       uint64_t now)
{
    struct virtio_net_hdr_v1 header = {0};
    uint64_t features = ring->vu->features;
    uint32_t header_bytes = or_net_header_bytes(features);
    *length = 0;
    if (chain->readable_bytes < header_bytes + OR_ETHER_HEADER) {
        nic->stats.tx_bad_header++;
        return true;
    }
    if (chain->readable_bytes - header_bytes > OR_PACKET_MAX - OR_VNET_HEADER) {
        nic->stats.tx_too_long++;
        return true;
    }
    *length = (uint32_t)chain->readable_bytes - header_bytes;
    peek(chain->iov, chain->readable, (uint8_t *)&header, header_bytes);
    if (!or_net_header_correct(&header, *length, features)) {
        nic->stats.tx_bad_header++;
        return true;
    }
    return hand_on(nic, ring, &header, chain, *length, now) != OR_PACKET_LATER;
}

/* What the limit holds back stays in the guest's ring. */
static bool limit_lets(struct or_net_nic *nic, uint64_t now)
{
    nic->not_before = or_bucket_when(&nic->bucket, now);
    nic->throttled = nic->not_before != 0;
    return !nic->throttled;
}

static bool left(const struct or_net_budget *budget)
{
    return budget->packets > 0 && budget->bytes > 0 && budget->descriptors > 0;
}

static void wait_for_room(struct or_net_nic *nic, struct or_vring *ring, uint64_t now)
{
    or_virtqueue_untake(&ring->vq, 1);
    nic->not_before = now + ROOM_RETRY_NS;
    nic->throttled = false;
}

uint32_t or_net_ring_send(struct or_net_nic *nic, struct or_vring *ring, struct or_net_budget *budget, uint64_t now)
{
    const char *reason = NULL;
    uint32_t taken = 0;
    int waiting = or_vring_runs(ring) ? or_virtqueue_waiting(&ring->vq, &reason) : 0;
    for (; waiting > 0 && left(budget) && limit_lets(nic, now); waiting--, taken++) {
        struct or_chain chain;
        uint32_t length;
        uint16_t head;
        reason = next_chain(nic, &ring->vq, &head, &chain);
        if (reason == NULL && chain.writable_bytes > 0)
            reason = "a packet to be sent has a buffer to be written to";
        if (reason)
            break;
        if (!send_chain(nic, ring, &chain, &length, now)) {
            wait_for_room(nic, ring, now);
            break;
        }
        give_back(ring, head, 0);
        or_bucket_charge(&nic->bucket, now, 1, length);
        budget->packets--;
        budget->bytes -= (int32_t)length;
        budget->descriptors -= chain.walked;
    }
    if (reason)
        or_vhost_user_break(ring->vu, ring, reason);
    return taken;
}

/* Receiving. */

/* Where the header of a packet goes: the first pieces of its first chain. */
struct header_room {
    struct iovec pieces[HEADER_PIECES];
    uint32_t count;
};

struct buffers {
    uint16_t count;
    uint32_t walked;
    struct {
        uint16_t head;
        uint32_t length;
    } used[MERGED_MAX];
};

/* Writes to the pieces from byte `skip` on; returns how much went there. */
static uint32_t fill(struct or_guest_mem *mem, const struct iovec *iov, uint32_t count, uint32_t skip,
                     const uint8_t *from, uint32_t length)
{
    uint32_t written = 0;
    for (uint32_t i = 0; i < count && written < length; i++) {
        if (skip >= iov[i].iov_len) {
            skip -= (uint32_t)iov[i].iov_len;
            continue;
        }
        uint64_t room = iov[i].iov_len - skip;
        uint32_t n = room < length - written ? (uint32_t)room : length - written;
        or_guest_write(mem, (uint8_t *)iov[i].iov_base + skip, from + written, n);
        written += n;
        skip = 0;
    }
    return written;
}

static void keep_header_room(struct header_room *room, const struct or_chain *chain)
{
    room->count = chain->count < HEADER_PIECES ? chain->count : HEADER_PIECES;
    memcpy(room->pieces, chain->iov, room->count * sizeof(room->pieces[0]));
}

static const char *check_buffer(const struct or_chain *chain, const struct buffers *before, uint32_t header_bytes)
{
    if (chain->readable_bytes > 0)
        return "a receive buffer is to be read";
    if (chain->writable_bytes <= header_bytes)
        return "a receive buffer has no room for data";
    if (before->count == MERGED_MAX || before->walked > WALKED_MAX)
        return "receive buffers are in too many pieces";
    return NULL;
}

/* Takes chains and fills them with the frame, as many as it needs or there are. Returns the bytes written. */
static uint32_t fill_buffers(struct or_net_nic *nic, struct or_vring *ring, const uint8_t *frame, uint32_t length,
                             struct buffers *b, struct header_room *room, const char **reason)
{
    struct or_virtqueue *vq = &ring->vq;
    bool merges = ring->vu->features & (1ull << VIRTIO_NET_F_MRG_RXBUF);
    int waiting = or_virtqueue_waiting(vq, reason);
    uint32_t done = 0, skip = or_net_header_bytes(ring->vu->features);
    b->count = 0;
    b->walked = 0;
    for (; waiting > 0 && done < length && (merges || b->count == 0); waiting--) {
        struct or_chain chain;
        uint16_t head;
        *reason = next_chain(nic, vq, &head, &chain);
        if (*reason == NULL)
            *reason = check_buffer(&chain, b, skip);
        if (*reason)
            break;
        if (b->count == 0)
            keep_header_room(room, &chain);
        uint32_t n = fill(vq->mem, chain.iov, chain.count, skip, frame + done, length - done);
        b->used[b->count].head = head;
        b->used[b->count++].length = skip + n;
        b->walked += chain.walked;
        done += n;
        skip = 0;
    }
    return done;
}

void or_net_ring_receive(struct or_net_nic *nic, struct or_vring *ring, const uint8_t *packet, uint32_t length)
{
    struct virtio_net_hdr_v1 header;
    struct header_room room;
    struct buffers b;
    const char *reason = NULL;
    uint32_t frame_length = length - OR_VNET_HEADER;
    memcpy(&header, packet, sizeof(header));
    if (!or_net_header_suits(&header, ring->vu->features)) {
        nic->stats.rx_unsuited++;
        return;
    }
    uint32_t done = fill_buffers(nic, ring, packet + OR_VNET_HEADER, frame_length, &b, &room, &reason);
    if (reason) {
        or_vhost_user_break(ring->vu, ring, reason);
        return;
    }
    if (done < frame_length) {
        bool merges = ring->vu->features & (1ull << VIRTIO_NET_F_MRG_RXBUF);
        or_virtqueue_untake(&ring->vq, b.count);
        if (b.count > 0 && !merges)
            nic->stats.rx_too_long++;
        else
            nic->stats.rx_no_buffers++;
        return;
    }
    header.num_buffers = b.count;
    fill(ring->vq.mem, room.pieces, room.count, 0, (const uint8_t *)&header, or_net_header_bytes(ring->vu->features));
    for (uint16_t i = 0; i < b.count; i++)
        give_back(ring, b.used[i].head, b.used[i].length);
    nic->stats.rx_packets++;
    nic->stats.rx_bytes += frame_length;
}
