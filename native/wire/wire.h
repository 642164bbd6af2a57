/* The wire format, version 1: frame and message layouts, limits, and the functions that check what
 * arrives. No I/O and no state. docs/wire.md says the same in prose with a drawing.
 *
 * A frame is an Ethernet header, a frame header, and for data frames one or more messages, each
 * starting on an 8-byte boundary counted from the frame header. Everything is little-endian, fixed
 * width, without implicit padding. The digest covers the header (with the digest field left out) and
 * all messages; bytes after `length` are Ethernet padding and ignored. */
#ifndef OR_WIRE_H
#define OR_WIRE_H

#include "or_types.h"

#define OR_WIRE_VERSION 1
#define OR_ETHERTYPE_DEFAULT 0x88B5 /* IEEE 802 local experimental EtherType 1 */
#define OR_ETH_HEADER 14u
#define OR_MTU_MIN 1500u
#define OR_MTU_MAX 65535u
#define OR_NAME_MAX 63u   /* bytes of a host's name */
#define OR_CHANNELS_MAX 16u
#define OR_LINKS_MAX 4u
#define OR_SLOTS_MAX 256u /* requests in flight per channel */
#define OR_DIGEST_BYTES 16u

enum or_integrity {
    OR_INTEGRITY_CRC = 1, /* unkeyed checksum (XXH3-64): a trusted segment */
    OR_INTEGRITY_MAC = 2, /* keyed digest (AES-GMAC): the default */
    OR_INTEGRITY_ENCRYPT = 3,
};

enum or_frame_type {
    OR_FRAME_HELLO = 1,   /* client -> server: handshake message 1 */
    OR_FRAME_WELCOME = 2, /* server -> client: handshake message 2 */
    OR_FRAME_DATA = 3,
    OR_FRAME_UNKNOWN = 4, /* "I know no such session": a hint, not authenticated */
};

/* Every frame starts with this, right after the Ethernet header. */
struct or_frame_header {
    uint8_t version;
    uint8_t type;    /* enum or_frame_type */
    uint8_t channel; /* the worker: which slots, credits and replay window this frame belongs to */
    uint8_t link;    /* which of several NICs it was sent on */
    uint32_t session; /* the receiver's index for the session; 0 in HELLO */
    uint64_t counter; /* number of the frame on this (session, channel, link, direction), from 1, never reused */
    uint16_t length;  /* bytes from the start of this header to the end of the last message */
    uint16_t reserved0;
    uint32_t reserved1;
    uint8_t digest[OR_DIGEST_BYTES];
};
static_assert(sizeof(struct or_frame_header) == 40, "frame header");
static_assert(offsetof(struct or_frame_header, digest) == 24, "frame header");

/* Why a frame or message was refused; index of the counters. */
enum or_refuse {
    OR_REFUSE_NONE = 0,
    OR_REFUSE_SHORT,     /* truncated: shorter than its header or its `length` */
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
    OR_REFUSE_MAX
};

const char *or_refuse_name(enum or_refuse reason);

#endif
