/* How a NIC's packets (net/packet.h) are handed to the session. */
#ifndef OR_FRONTEND_PACKET_H
#define OR_FRONTEND_PACKET_H

#include <stdint.h>
#include <sys/uio.h>

enum or_packet_verdict {
    OR_PACKET_SENT,
    OR_PACKET_LATER, /* no room now: try again in a later step */
    OR_PACKET_DOWN,  /* no session */
};

/* Pieces of borrowed memory, which are copied before the call that takes them returns. */
struct or_packet {
    const struct iovec *iov;
    uint32_t count;
    uint32_t length; /* of all, bytes */
};

#endif
