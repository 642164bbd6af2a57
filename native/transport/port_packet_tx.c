/* Theory of operation: port_packet_tx.h. */
#include "port_packet_tx.h"

#include <assert.h>
#include <linux/if_packet.h>
#include <linux/virtio_net.h>
#include <net/if.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "envelope.h"

#ifndef VIRTIO_NET_HDR_GSO_UDP_L4
#define VIRTIO_NET_HDR_GSO_UDP_L4 5 /* missing in the headers of Debian 12 */
#endif

#define CACHE_LINE 64u
#define BATCH_BYTES 65536u /* so that the peer works on one batch while we build the next */
#define BATCH_PLAIN 16u    /* frames that travel by themselves */
#define BATCH_MAX 64u
#define SOCKET_BYTES (16 << 20) /* more than a batch of the largest frames */
#define VNET_HEADER_MTU_MIN 32768u
#define PADDING_SHARE 8u /* of an envelope's bytes at most one in so many is padding */

struct frame {
    uint8_t *bytes; /* what follows its Ethernet header starts on a cache line */
    uint32_t length;
    enum or_tx_form form;
};

/* What is in front of a message of the envelope socket: of a plain frame only vnet. */
struct head {
    struct virtio_net_hdr vnet;
    uint8_t envelope[OR_ENVELOPE_HEAD];
} __attribute__((packed));

/* What one message carries. */
struct load {
    uint32_t frames, bytes;
};

struct or_packet_tx {
    int plain_fd, envelope_fd; /* envelope_fd -1: none */
    uint32_t mtu, batch, queued, mergeable;
    uint16_t ethertype;
    bool plain_vnet;
    struct virtio_net_hdr vnet; /* of every frame that the plain socket wants one of */
    uint8_t *memory;
    size_t memory_bytes;
    struct frame frames[BATCH_MAX];
    /* Of the batch that is being sent. */
    struct mmsghdr messages[BATCH_MAX];
    struct load loads[BATCH_MAX];
    struct head heads[BATCH_MAX];
    struct iovec iov[2 * BATCH_MAX]; /* a head and a frame for each message, or a head and its segments */
};

static uint32_t round_up(uint32_t n, uint32_t unit)
{
    return (n + unit - 1) / unit * unit;
}

/* ---- sending ---- */

static void set_message(struct or_packet_tx *tx, uint32_t m, struct iovec *iov, uint32_t iov_count, uint32_t frames,
                        uint32_t bytes)
{
    tx->messages[m].msg_hdr = (struct msghdr){.msg_iov = iov, .msg_iovlen = iov_count};
    tx->loads[m] = (struct load){frames, bytes};
}

/* One message for each frame. */
static uint32_t plan_plain(struct or_packet_tx *tx)
{
    for (uint32_t i = 0; i < tx->queued; i++) {
        struct iovec *iov = &tx->iov[2 * i];
        iov[0] = (struct iovec){&tx->vnet, sizeof tx->vnet};
        iov[1] = (struct iovec){tx->frames[i].bytes, tx->frames[i].length};
        set_message(tx, i, iov + !tx->plain_vnet, 1 + tx->plain_vnet, 1, tx->frames[i].length);
    }
    return tx->queued;
}

/* The same addresses, and the same session, which is what the receiver's filter lets in. */
static bool same_session(const struct frame *a, const struct frame *b)
{
    const uint32_t session = OR_ETH_HEADER + offsetof(struct or_frame_header, session);
    return memcmp(a->bytes, b->bytes, 12) == 0 && memcmp(a->bytes + session, b->bytes + session, 4) == 0;
}

/* How many frames from `first` on share an envelope, and the size of its segments. 1: that frame needs none. */
static uint32_t gather(const struct or_packet_tx *tx, uint32_t first, uint32_t *segment)
{
    const struct frame *lead = &tx->frames[first];
    uint32_t bytes = lead->length - OR_ETH_HEADER, count = 1;
    bool probe = lead->form == OR_TX_PROBE;
    *segment = round_up(bytes, OR_ENVELOPE_ALIGN);
    if (lead->form == OR_TX_PLAIN)
        return 1;
    while (first + count < tx->queued && count < OR_ENVELOPE_SEGMENTS_MAX) {
        const struct frame *next = &tx->frames[first + count];
        uint32_t length = next->length - OR_ETH_HEADER, wider = round_up(length, OR_ENVELOPE_ALIGN);
        if (wider < *segment)
            wider = *segment;
        uint32_t total = count * wider + length;
        if ((next->form == OR_TX_PROBE) != probe || next->form == OR_TX_PLAIN || !same_session(lead, next) ||
            total > OR_ENVELOPE_PAYLOAD_MAX)
            break;
        bytes += length;
        if (!probe && total - bytes > total / PADDING_SHARE)
            break;
        *segment = wider;
        count++;
    }
    return count;
}

/* Fills the segments but the last to their full size, with zeroes, and puts the head in front. Returns the number
 * of iovecs. */
static uint32_t wrap(struct or_packet_tx *tx, struct head *head, struct iovec *iov, uint32_t first, uint32_t count,
                     uint32_t segment)
{
    uint32_t payload = 0;
    for (uint32_t i = 0; i < count; i++) {
        struct frame *f = &tx->frames[first + i];
        uint32_t bytes = f->length - OR_ETH_HEADER;
        if (i + 1 < count) {
            memset(f->bytes + f->length, 0, segment - bytes);
            bytes = segment;
        }
        iov[1 + i] = (struct iovec){f->bytes + OR_ETH_HEADER, bytes};
        payload += bytes;
    }
    head->vnet = (struct virtio_net_hdr){
        .flags = VIRTIO_NET_HDR_F_NEEDS_CSUM,
        .gso_type = count > 1 ? VIRTIO_NET_HDR_GSO_UDP_L4 : VIRTIO_NET_HDR_GSO_NONE,
        .hdr_len = OR_ENVELOPE_HEAD,
        .gso_size = count > 1 ? (uint16_t)segment : 0,
        .csum_start = OR_ENVELOPE_UDP,
        .csum_offset = OR_ENVELOPE_CHECKSUM,
    };
    or_envelope_write(head->envelope, tx->frames[first].bytes, tx->ethertype, payload, segment);
    iov[0] = (struct iovec){head, sizeof *head};
    return 1 + count;
}

/* Envelopes for those that may share one, in order. Returns the number of messages. */
static uint32_t plan_envelopes(struct or_packet_tx *tx, struct or_port_stats *stats)
{
    uint32_t messages = 0, iovs = 0;
    for (uint32_t i = 0, count; i < tx->queued; i += count, messages++) {
        struct head *head = &tx->heads[messages];
        struct iovec *iov = &tx->iov[iovs];
        uint32_t segment, bytes = 0, used = 2;
        count = gather(tx, i, &segment);
        for (uint32_t k = 0; k < count; k++)
            bytes += tx->frames[i + k].length;
        if (count > 1 || tx->frames[i].form == OR_TX_PROBE) {
            used = wrap(tx, head, iov, i, count, segment);
            stats->tx_envelopes++;
        } else {
            head->vnet = (struct virtio_net_hdr){.hdr_len = (uint16_t)bytes}; /* small enough to be contiguous */
            iov[0] = (struct iovec){&head->vnet, sizeof head->vnet};
            iov[1] = (struct iovec){tx->frames[i].bytes, bytes};
        }
        set_message(tx, messages, iov, used, count, bytes);
        iovs += used;
    }
    return messages;
}

/* Sends messages from the first-th on. Returns how many the kernel took, or -errno. */
static int send_from(struct or_packet_tx *tx, int fd, uint32_t first, uint32_t count, struct or_port_stats *stats)
{
    stats->syscalls++;
    if (count - first == 1)
        return sendmsg(fd, &tx->messages[first].msg_hdr, MSG_DONTWAIT) >= 0 ? 1 : -errno;
    int sent = sendmmsg(fd, &tx->messages[first], count - first, MSG_DONTWAIT);
    return sent >= 0 ? sent : -errno;
}

void or_packet_tx_flush(struct or_packet_tx *tx, struct or_port_stats *stats)
{
    bool envelopes = tx->mergeable > 1;
    uint32_t count = envelopes ? plan_envelopes(tx, stats) : plan_plain(tx), done = 0;
    while (done < count) {
        int sent = send_from(tx, envelopes ? tx->envelope_fd : tx->plain_fd, done, count, stats);
        if (sent > 0) {
            for (uint32_t end = done + (uint32_t)sent; done < end; done++) {
                stats->tx_frames += tx->loads[done].frames;
                stats->tx_bytes += tx->loads[done].bytes;
            }
        } else if (sent == -EMSGSIZE || sent == -EINVAL) {
            /* The link's MTU was lowered under us, or this kernel has no such offload: others still pass. */
            stats->tx_dropped += tx->loads[done++].frames;
        } else {
            /* The link is down, or its queue is full: a message that ended a call early has had its second chance
             * as the first of this one. */
            for (; done < count; done++)
                stats->tx_dropped += tx->loads[done].frames;
        }
    }
    tx->queued = tx->mergeable = 0;
}

uint8_t *or_packet_tx_alloc(struct or_packet_tx *tx, struct or_port_stats *stats)
{
    if (tx->queued == tx->batch)
        or_packet_tx_flush(tx, stats);
    return tx->frames[tx->queued].bytes;
}

void or_packet_tx_commit(struct or_packet_tx *tx, uint32_t length, enum or_tx_form form)
{
    assert(tx->queued < tx->batch && length >= OR_ETH_HEADER && length <= OR_ETH_HEADER + tx->mtu);
    if (tx->envelope_fd < 0)
        form = OR_TX_PLAIN;
    struct frame *f = &tx->frames[tx->queued++];
    f->length = length;
    f->form = form;
    tx->mergeable += form == OR_TX_MERGE ? 1 : form == OR_TX_PROBE ? 2 : 0;
}

/* ---- opening and closing ---- */

/* A socket that is bound to no protocol receives nothing. */
static int open_socket(const struct or_packet_tx_config *c, int option, struct or_port_why why)
{
    int on = 1, bytes = SOCKET_BYTES;
    struct sockaddr_ll address = {.sll_family = AF_PACKET, .sll_ifindex = (int)if_nametoindex(c->ifname)};
    int fd = socket(AF_PACKET, SOCK_RAW | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return or_port_refuse_call(why, c->ifname, "socket");
    const char *failed = NULL;
    if (setsockopt(fd, SOL_PACKET, option, &on, sizeof on) != 0)
        failed = option == PACKET_VNET_HDR ? "PACKET_VNET_HDR" : "PACKET_QDISC_BYPASS";
    else if (bind(fd, (struct sockaddr *)&address, sizeof address) != 0)
        failed = "bind";
    if (failed) {
        int err = or_port_refuse_call(why, c->ifname, failed);
        close(fd);
        return err;
    }
    /* Without CAP_NET_ADMIN the system's limit holds: a full batch may then lose its end. */
    if (setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &bytes, sizeof(bytes)) != 0)
        setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof(bytes));
    return fd;
}

static int open_sockets(struct or_packet_tx *tx, const struct or_packet_tx_config *c, struct or_port_why why)
{
    int on = 1;
    tx->plain_fd = open_socket(c, PACKET_QDISC_BYPASS, why);
    if (tx->plain_fd < 0)
        return tx->plain_fd;
    tx->plain_vnet = c->mtu >= VNET_HEADER_MTU_MIN;
    tx->vnet = (struct virtio_net_hdr){.gso_type = VIRTIO_NET_HDR_GSO_NONE, .hdr_len = OR_ETH_HEADER};
    if (tx->plain_vnet && setsockopt(tx->plain_fd, SOL_PACKET, PACKET_VNET_HDR, &on, sizeof on) != 0)
        return or_port_refuse_call(why, c->ifname, "PACKET_VNET_HDR");
    if (c->envelopes)
        tx->envelope_fd = open_socket(c, PACKET_VNET_HDR, why);
    return c->envelopes && tx->envelope_fd < 0 ? tx->envelope_fd : 0;
}

static int open_buffers(struct or_packet_tx *tx, const struct or_packet_tx_config *c, struct or_port_why why)
{
    uint32_t stride = CACHE_LINE + round_up(c->mtu, CACHE_LINE);
    tx->memory_bytes = (size_t)stride * tx->batch;
    tx->memory =
        mmap(NULL, tx->memory_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    if (tx->memory == MAP_FAILED)
        return or_port_refuse_call(why, c->ifname, "mmap of the send buffers");
    for (uint32_t i = 0; i < tx->batch; i++)
        tx->frames[i].bytes = tx->memory + (size_t)i * stride + CACHE_LINE - OR_ETH_HEADER;
    return 0;
}

/* With envelopes a whole one, and at least the two frames of a probe. */
static uint32_t batch_frames(const struct or_packet_tx_config *c)
{
    uint32_t least = c->envelopes ? 2 : 1, most = c->envelopes ? BATCH_MAX : BATCH_PLAIN;
    uint32_t frames = (c->envelopes ? OR_ENVELOPE_PAYLOAD_MAX : BATCH_BYTES) / c->mtu;
    return frames < least ? least : frames > most ? most : frames;
}

struct or_packet_tx *or_packet_tx_open(const struct or_packet_tx_config *c, int *err, struct or_port_why why)
{
    struct or_packet_tx *tx = calloc(1, sizeof *tx);
    if (!tx) {
        *err = or_port_refuse_call(why, c->ifname, "calloc");
        return NULL;
    }
    tx->plain_fd = tx->envelope_fd = -1;
    tx->memory = MAP_FAILED;
    tx->mtu = c->mtu;
    tx->ethertype = c->ethertype;
    tx->batch = batch_frames(c);
    *err = open_sockets(tx, c, why);
    if (*err == 0)
        *err = open_buffers(tx, c, why);
    if (*err == 0)
        return tx;
    or_packet_tx_close(tx);
    return NULL;
}

void or_packet_tx_close(struct or_packet_tx *tx)
{
    if (tx->memory != MAP_FAILED)
        munmap(tx->memory, tx->memory_bytes);
    if (tx->plain_fd >= 0)
        close(tx->plain_fd);
    if (tx->envelope_fd >= 0)
        close(tx->envelope_fd);
    free(tx);
}
