/* Frames and packets for the tests of what inspects them: small, readable, with checksums done the slow way. */
#ifndef TEST_FRAMES_H
#define TEST_FRAMES_H

#include <stdint.h>
#include <string.h>

#include "net/offload.h"

static const uint8_t MAC_A[6] = {0x52, 0x54, 0, 0, 0, 0x0a};
static const uint8_t MAC_B[6] = {0x52, 0x54, 0, 0, 0, 0x0b};
static const uint8_t MAC_ALL[6] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff};

/* A frame under construction. */
struct frame {
    uint8_t bytes[OR_PACKET_MAX];
    uint32_t length;
};

static inline uint8_t *put(struct frame *f, const void *bytes, uint32_t length)
{
    uint8_t *at = f->bytes + f->length;
    if (bytes)
        memcpy(at, bytes, length);
    else
        memset(at, 0, length);
    f->length += length;
    return at;
}

static inline void begin_ethernet(struct frame *f, const uint8_t *to, const uint8_t *from, uint16_t ethertype)
{
    f->length = 0;
    put(f, to, 6);
    put(f, from, 6);
    or_put_be16(put(f, NULL, 2), ethertype);
}

/* Puts a tag behind the addresses of a frame. */
static inline void tag(struct frame *f, uint16_t kind, uint16_t vlan)
{
    memmove(f->bytes + 16, f->bytes + 12, f->length - 12);
    or_put_be16(f->bytes + 12, kind);
    or_put_be16(f->bytes + 14, vlan);
    f->length += 4;
}

/* `bytes` of payload follow the header. */
static inline uint8_t *put_ipv4(struct frame *f, const char from[4], uint8_t protocol, uint32_t bytes)
{
    uint8_t *ip = put(f, NULL, 20);
    ip[0] = 0x45;
    or_put_be16(ip + 2, (uint16_t)(20 + bytes));
    ip[8] = 64;
    ip[9] = protocol;
    memcpy(ip + 12, from, 4);
    memcpy(ip + 16, "\x0a\x00\x00\x63", 4);
    return ip;
}

static inline uint8_t *put_ipv6(struct frame *f, const uint8_t from[16], uint8_t next, uint32_t bytes)
{
    uint8_t *ip = put(f, NULL, 40);
    ip[0] = 0x60;
    or_put_be16(ip + 4, (uint16_t)bytes);
    ip[6] = next;
    ip[7] = 255;
    memcpy(ip + 8, from, 16);
    ip[24] = 0xff;
    ip[25] = 2;
    ip[39] = 1;
    return ip;
}

/* The one's complement sum, a byte pair at a time. */
static inline uint16_t slow_sum(uint32_t sum, const uint8_t *bytes, uint32_t length)
{
    for (uint32_t i = 0; i < length; i++)
        sum += i % 2 ? bytes[i] : (uint32_t)bytes[i] << 8;
    while (sum >> 16)
        sum = (sum & 0xffff) + (sum >> 16);
    return (uint16_t)sum;
}

#endif
