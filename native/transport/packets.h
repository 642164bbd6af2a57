/* The packets of NICs on a session, seen from one end: cut into fragments, put together again. The same at the
 * client and at the server; whose a packet is, and whether it may pass, they know (client.c, nics.c).
 *
 * Packets are datagrams in the sense of QUIC's (RFC 9221): they travel in the session's frames under its congestion
 * control, but what is lost stays lost. Nothing queues here but the rest of one packet per link: one that has
 * begun goes on as room comes, and until it is through the link takes no other. */
#ifndef OR_PACKETS_H
#define OR_PACKETS_H

#include <sys/uio.h>

#include "links.h"

enum or_packet_verdict {
    OR_PACKET_SENT,  /* copied into frames; it may still be lost */
    OR_PACKET_LATER, /* no room now: to be tried again in each of the next steps until it goes */
    OR_PACKET_DOWN,  /* no session, or no such NIC: to be dropped */
};

/* struct virtio_net_hdr_v1, little-endian, num_buffers 0, and an Ethernet frame without FCS, in pieces of borrowed
 * memory. They are read once, before the call returns, and may change meanwhile. */
struct or_packet {
    const struct iovec *iov;
    uint32_t count;
    uint32_t length; /* bytes of all pieces: OR_PACKET_MIN to OR_PACKET_MAX, which the caller has checked */
};

struct or_packet_stats {
    uint64_t sent, bytes_sent;
    uint64_t received, bytes_received; /* whole ones */
    uint64_t incomplete;               /* of which a fragment never came */
    uint64_t refused;                  /* fragments, malformed */
    uint64_t lost;                     /* packets, or fragments of one, in frames that seem lost */
};

#define OR_PACKETS_PARTIAL 8u
#define OR_PACKET_FRAGMENTS_MAX 64u
static_assert((OR_MTU_MIN - 80u) / 64u * 64u * OR_PACKET_FRAGMENTS_MAX >= OR_PACKET_MAX, "a mask of 64 bits");

/* Which packet. */
struct or_packet_id {
    uint32_t device, generation, number;
    uint32_t total; /* bytes; 0: none */
};

/* One of which fragments are missing. */
struct or_packet_partial {
    struct or_packet_id id;
    uint64_t since_ns;
    uint64_t missing; /* bit i: fragment i */
    uint8_t *data;    /* OR_PACKET_MAX bytes */
};

/* One of which fragments are to be sent: those from `sent` on. */
struct or_packet_rest {
    struct or_packet_id id;
    uint32_t sent; /* bytes */
    uint8_t *data; /* OR_PACKET_MAX bytes; those that were not sent are where they belong */
};

struct or_packets {
    struct or_links *links; /* NULL: no session */
    uint32_t fragment_bytes;
    uint32_t number; /* of the latest packet sent */
    /* Sends some requests or replies. False: there are none, or no room. */
    bool (*requests)(void *arg, uint64_t now);
    void *arg;
    struct or_packet_rest rest[OR_LINKS_MAX];
    struct or_packet_partial partial[OR_PACKETS_PARTIAL];
    uint8_t *memory;
    struct or_packet_stats stats;
};

/* 0 or -ENOMEM. or_packets_close may be called on zeroes. */
int or_packets_open(struct or_packets *packets);
void or_packets_close(struct or_packets *packets);

/* A session begins; `links` are borrowed until or_packets_end. */
void or_packets_begin(struct or_packets *packets, struct or_links *links, uint32_t fragment_bytes,
                      bool (*requests)(void *arg, uint64_t now), void *arg);
void or_packets_end(struct or_packets *packets);

enum or_packet_verdict or_packets_send(struct or_packets *packets, uint32_t device, uint32_t generation,
                                       const struct or_packet *packet, uint64_t now);
/* Sends what is ready of requests and packets, in turns, as far as there is room. */
void or_packets_pump(struct or_packets *packets, uint64_t now);

/* A verified message. The packet, when it is whole now: bytes that are valid until the next call, *length of them;
 * else NULL, with *refuse when something is wrong with the message. */
const uint8_t *or_packets_receive(struct or_packets *packets, const struct or_message_packet *message, uint32_t *length,
                                  enum or_refuse *refuse, uint64_t now);
void or_packet_stats_add(struct or_packet_stats *sum, const struct or_packet_stats *stats);
/* An item OR_ITEM_PACKET was lost. */
static inline void or_packets_lost(struct or_packets *packets)
{
    packets->stats.lost++;
}

#endif
