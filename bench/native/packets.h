/* Echo messages in Ethernet frames, both ends: several messages share a frame up to the MTU, and what
 * is larger than a frame is cut into pieces that say where they belong. No session: nothing is
 * verified, acknowledged or sent again, which makes it the limit that a session is compared with. */
#ifndef BENCH_PACKETS_H
#define BENCH_PACKETS_H

#include "echo.h"
#include "transport/port.h"

struct packer {
    struct or_port *port;
    uint8_t peer[6];
    uint8_t *frame; /* being filled, or NULL */
    uint32_t used;  /* bytes of it, from the Ethernet header on */
};

/* Opens the port that the options name, or ends the program with the reason. */
struct or_port *packets_open_port(const struct options *options);
/* The same with the filter that an engine has. */
struct or_port *packets_open_session_port(const struct options *options, uint32_t types, uint32_t sessions_max);

/* The most payload that one frame carries. */
uint32_t packets_payload_max(const struct or_port *port);

/* Sends `total` bytes at `data` as one or more messages like `m` (which gives everything but at and
 * length); data NULL: the header alone. False when the port's queue is full: the rest is lost. */
bool packets_put(struct packer *packer, struct echo_message m, const uint8_t *data);
/* Ends the frame being filled and hands all to the kernel. */
void packets_flush(struct packer *packer);

typedef void packets_message_fn(void *arg, const struct echo_message *message, const uint8_t *payload);
/* Calls fn for each whole message of a received frame. */
void packets_each(const uint8_t *frame, uint32_t length, packets_message_fn *fn, void *arg);

#endif
