/* The wire format, version 1: frame and message layouts, limits, and the functions that check what
 * arrives. No I/O and no state. docs/wire.md says the same in prose with a drawing.
 *
 * A frame is an Ethernet header, a frame header, and for data frames one or more messages, each
 * starting on an 8-byte boundary counted from the frame header. Everything is little-endian, fixed
 * width, without implicit padding. The digest covers the header (with the digest field left out) and
 * all messages, which `encrypt` encrypts as a whole; bytes after `length` are Ethernet padding and ignored. */
#ifndef OR_WIRE_H
#define OR_WIRE_H

#include "or_types.h"

#define OR_WIRE_VERSION 1
#define OR_ETHERTYPE_DEFAULT 0x88B5 /* IEEE 802 local experimental EtherType 1 */
#define OR_ETH_HEADER 14u
#define OR_MTU_MIN 1500u
#define OR_MTU_MAX 65535u
#define OR_NAME_MAX 63u /* bytes of a host's name */
#define OR_CHANNELS_MAX 16u
#define OR_LINKS_MAX 2u   /* of a session: pairs of NICs */
#define OR_SLOTS_MAX 256u /* requests in flight per channel */
#define OR_DIGEST_BYTES 16u
#define OR_COOKIE_BYTES 16u
#define OR_RANGE_BYTES_MAX (1u << 30) /* of one DISCARD or WRITE_ZEROES */
/* A NIC's packet: struct virtio_net_hdr_v1 and one Ethernet frame with a VLAN tag, without FCS. */
#define OR_PACKET_HEADER 12u
#define OR_PACKET_MIN (OR_PACKET_HEADER + 14u)
#define OR_PACKET_MAX 65568u /* header, Ethernet header, tag and 65535 bytes, rounded up to 8 */
static_assert(OR_PACKET_MAX >= OR_PACKET_HEADER + 14u + 4u + 65535u, "the largest packet of TSO fits");

enum or_integrity {
    OR_INTEGRITY_CRC = 1,     /* checksum (XXH3-64): a trusted segment */
    OR_INTEGRITY_MAC = 2,     /* keyed digest (AES-GMAC): the default */
    OR_INTEGRITY_ENCRYPT = 3, /* encrypted and authenticated (AES-GCM) */
};

enum or_frame_type {
    OR_FRAME_HELLO = 1,   /* client -> server: handshake message 1 */
    OR_FRAME_WELCOME = 2, /* server -> client: handshake message 2 */
    OR_FRAME_DATA = 3,
    OR_FRAME_UNKNOWN = 4, /* "I know no such session": a hint, not authenticated */
    OR_FRAME_RETRY = 5,   /* server -> client: say HELLO again, with this cookie */
    OR_FRAME_MAX
};

#define OR_FRAME_PHASE 1u /* of or_frame_header.flags: the frame's key phase is odd (transport/keys.h) */

/* Every frame starts with this, right after the Ethernet header. */
struct or_frame_header {
    uint8_t version;
    uint8_t type;     /* enum or_frame_type */
    uint8_t channel;  /* the worker: which slots, credits and replay window this frame belongs to */
    uint8_t link;     /* which of several NICs it was sent on */
    uint32_t session; /* the receiver's index for the session; 0 in HELLO */
    uint64_t counter; /* number of the frame on this (session, channel, link, direction), from 1, never reused */
    uint16_t length;  /* bytes from the start of this header to the end of the last message */
    uint8_t flags;    /* OR_FRAME_PHASE */
    uint8_t reserved0;
    uint32_t reserved1;
    uint8_t digest[OR_DIGEST_BYTES];
} __attribute__((packed));
static_assert(sizeof(struct or_frame_header) == 40, "frame header");
static_assert(offsetof(struct or_frame_header, digest) == 24, "frame header");

/* HELLO and WELCOME: the two messages of a Noise_NNpsk0_25519_ChaChaPoly_SHA256 handshake. The prologue is
 * or_hello up to `message`. */
struct or_hello {
    uint32_t session; /* the client's index: what the server puts into its frames */
    uint8_t name_length;
    uint8_t reserved[3];
    char name[64];                   /* zero-padded */
    uint8_t cookie[OR_COOKIE_BYTES]; /* the last that the server gave; zeroes: none yet */
    uint8_t message[32 + 24 + 16];   /* e, encrypted or_hello_payload, tag */
} __attribute__((packed));
static_assert(sizeof(struct or_hello) == 160, "hello");

struct or_hello_payload {
    uint64_t instance;  /* random number of this client's life */
    uint32_t mtu;       /* of the client's port */
    uint32_t rx_frames; /* frames that the client's port can take in at once */
    uint8_t channels;
    uint8_t links;
    uint8_t integrity_min;
    uint8_t reserved;
    uint32_t known; /* the session that the client has, by the server's index: is it there? 0: none */
} __attribute__((packed));
static_assert(sizeof(struct or_hello_payload) == 24, "hello payload");

struct or_welcome {
    uint8_t message[32 + 56 + 16]; /* e, encrypted or_welcome_payload, tag */
} __attribute__((packed));
static_assert(sizeof(struct or_welcome) == 104, "welcome");

struct or_welcome_payload {
    uint64_t instance;
    uint32_t session;   /* the server's index: what the client puts into its frames */
    uint32_t mtu;       /* of frames in both directions: the lesser of the two ports' */
    uint32_t rx_frames; /* frames that this client may have in flight */
    uint32_t slots;     /* requests that it may have in flight */
    uint64_t bytes;     /* data bytes that its requests in flight may have together */
    uint8_t channels;
    uint8_t links;
    uint8_t integrity; /* enum or_integrity of the session */
    uint8_t known;     /* 1: the session that HELLO asked about is there */
    uint8_t reserved[4];
    uint8_t cookie[OR_COOKIE_BYTES]; /* for the next HELLO */
} __attribute__((packed));
static_assert(sizeof(struct or_welcome_payload) == 56, "welcome payload");

/* RETRY: the answer to a HELLO without the cookie that the server wants to see. */
struct or_retry {
    uint8_t cookie[OR_COOKIE_BYTES];
} __attribute__((packed));
static_assert(sizeof(struct or_retry) == 16, "retry");

enum or_message_type {
    OR_MSG_ACK = 1,
    OR_MSG_REQUEST = 2,
    OR_MSG_REPLY = 3,
    OR_MSG_CREDIT = 4,
    OR_MSG_PING = 5,
    OR_MSG_BYE = 6, /* server -> client: the session is over; code: enum or_bye */
    OR_MSG_PACKET = 7,
};

enum or_bye {
    OR_BYE_STOP = 1, /* the server stops; another may take its place at once */
    OR_BYE_MTU = 2,  /* a session with another MTU is to be made */
};

/* Every message starts like this; the next one follows at the next 8-byte boundary. */
struct or_message {
    uint8_t type;
    uint8_t code;    /* by type: op, status, number of words */
    uint16_t length; /* bytes of the message with this header and its data, without padding */
    uint32_t field;  /* by type */
} __attribute__((packed));
static_assert(sizeof(struct or_message) == 8, "message");

/* Which frames have arrived: bit i of word w stands for the frame `largest - (64 w + i)`. */
#define OR_ACK_WORDS_MAX 4u
struct or_message_ack {
    uint8_t type;
    uint8_t words; /* 1 .. OR_ACK_WORDS_MAX */
    uint16_t length;
    uint32_t delay_us; /* since `largest` arrived */
    uint64_t largest;
    uint64_t bits[OR_ACK_WORDS_MAX]; /* `words` of them */
} __attribute__((packed));
static_assert(sizeof(struct or_message_ack) == 48, "ack");

/* A request, or one fragment of a request that carries data: each fragment repeats the whole head, so
 * they may arrive in any order. */
struct or_message_request {
    uint8_t type;
    uint8_t op; /* enum or_op */
    uint16_t length;
    uint16_t slot;
    uint8_t flags; /* enum or_req_flags */
    uint8_t reserved0;
    uint32_t
        sequence; /* of the slot: each request has its predecessor's plus one, from 1 in a new session, modulo 2^32 */
    uint32_t device;
    uint32_t generation;
    uint32_t io_length; /* bytes of the whole request */
    uint64_t offset;    /* bytes from the start of the volume; CONTROL_GET: the document's version at the host */
    uint32_t fragment;  /* where in the request's data this fragment belongs, bytes: a multiple of the fragment size */
    uint32_t placement; /* of the device: another number each time that it comes to a worker */
    uint8_t data[];
} __attribute__((packed));
static_assert(sizeof(struct or_message_request) == 40, "request");

/* A reply, or one fragment of it. Status other than OK comes without data. */
struct or_message_reply {
    uint8_t type;
    uint8_t status; /* enum or_status */
    uint16_t length;
    uint16_t slot;
    uint16_t reserved0;
    uint32_t sequence;
    uint32_t total;    /* data bytes of the whole reply */
    uint32_t fragment; /* bytes, a multiple of the fragment size */
    uint32_t value;    /* CONTROL_GET: the document's version */
    uint8_t data[];
} __attribute__((packed));
static_assert(sizeof(struct or_message_reply) == 24, "reply");

/* A packet of a NIC, or one fragment of it: a datagram, which is never sent again. Each fragment repeats the
 * whole head, so they may arrive in any order. */
struct or_message_packet {
    uint8_t type;
    uint8_t flags; /* 0 */
    uint16_t length;
    uint32_t device; /* attachment id */
    uint32_t generation;
    uint32_t number; /* of the packet: each has its predecessor's plus one in its session and direction, modulo 2^32 */
    uint32_t total;  /* bytes of the whole packet */
    uint32_t fragment; /* bytes, a multiple of the fragment size */
    uint8_t data[];
} __attribute__((packed));
static_assert(sizeof(struct or_message_packet) == 24, "packet");

/* Server -> client: what may be in flight from now on. The highest epoch counts. */
struct or_message_credit {
    uint8_t type;
    uint8_t reserved0;
    uint16_t length;
    uint32_t epoch;
    uint32_t slots;
    uint32_t frames;
    uint64_t bytes;
} __attribute__((packed));
static_assert(sizeof(struct or_message_credit) == 24, "credit");

/* Slots that only the control operations use, so that data can never starve them. */
#define OR_SLOT_CONTROL_GET 0u
#define OR_SLOT_CONTROL_PUT 1u
#define OR_SLOT_DATA 2u

/* Why a frame or message was refused; index of the counters. */
enum or_refuse {
    OR_REFUSE_NONE = 0,
    OR_REFUSE_SHORT, /* truncated: shorter than its header or its `length` */
    OR_REFUSE_VERSION,
    OR_REFUSE_TYPE,
    OR_REFUSE_CHANNEL,   /* channel or link number out of range */
    OR_REFUSE_SESSION,   /* no such session */
    OR_REFUSE_DIGEST,    /* corrupt or forged */
    OR_REFUSE_REPLAY,    /* counter seen before, or older than the window */
    OR_REFUSE_MESSAGE,   /* a message with a bad type, length or field */
    OR_REFUSE_SLOT,      /* slot number beyond what was granted */
    OR_REFUSE_STALE,     /* sequence number older than the slot's */
    OR_REFUSE_FRAGMENT,  /* fragment out of bounds or overlapping */
    OR_REFUSE_CREDIT,    /* more than was granted */
    OR_REFUSE_HANDSHAKE, /* malformed, or the key does not prove */
    OR_REFUSE_HOST,      /* a host of no known name */
    OR_REFUSE_RATE,      /* too many handshakes */
    OR_REFUSE_COOKIE,    /* a HELLO that may be a replay: answered with RETRY */
    OR_REFUSE_MAX
};

const char *or_refuse_name(enum or_refuse reason);

/* Checks everything about a frame that can be checked without a session: Ethernet header, version,
 * type, numbers in range, `length` within what arrived. `length`: bytes from the Ethernet header on. */
enum or_refuse or_wire_check_frame(const uint8_t *frame, uint32_t length, const struct or_frame_header **header);

/* Walks the messages of a verified data frame. *offset starts at sizeof(struct or_frame_header) and is
 * moved past the message that is returned. Returns NULL at the end; *refuse tells whether the end is
 * the regular one. A message that is returned has a known type and a valid length. */
const struct or_message *or_wire_next(const struct or_frame_header *header, uint32_t *offset, enum or_refuse *refuse);

/* Data bytes of one fragment in frames of `mtu` bytes: both sides compute it from the session's MTU. */
static inline uint32_t or_wire_fragment_bytes(uint32_t mtu)
{
    return (mtu - (uint32_t)sizeof(struct or_frame_header) - (uint32_t)sizeof(struct or_message_request)) & ~63u;
}

/* The most fragments a request can have: OR_REQ_BYTES_MAX at OR_MTU_MIN, rounded up to whole words. */
#define OR_FRAGMENTS_MAX 768u
static_assert((OR_MTU_MIN - 80u) / 64u * 64u * OR_FRAGMENTS_MAX >= OR_REQ_BYTES_MAX, "fragments");

/* Full checks of one message's fields against the session's fragment size; NONE or MESSAGE/FRAGMENT. */
enum or_refuse or_wire_check_request(const struct or_message_request *request, uint32_t fragment_bytes);
enum or_refuse or_wire_check_reply(const struct or_message_reply *reply, uint32_t fragment_bytes);
enum or_refuse or_wire_check_packet(const struct or_message_packet *packet, uint32_t fragment_bytes);

/* Server memory that the data of one request occupies, bytes: what byte credits count. Buffers are powers
 * of two from 4 KiB up. */
static inline uint32_t or_wire_buffer_bytes(uint32_t length)
{
    uint32_t bytes = 4096;
    while (bytes < length)
        bytes *= 2;
    return bytes;
}

/* True for the operations whose requests carry data. */
static inline bool or_op_sends_data(uint8_t op)
{
    return op == OR_OP_WRITE || op == OR_OP_CONTROL_PUT;
}

#endif
