/* Which frames the kernel lets through to a packet port, decided where the sender's frame arrives:
 * what is refused here costs the receiving thread nothing and takes no place in its ring.
 *
 *   data socket        data frames of the sessions that exist; of other sessions a sample
 *   envelope socket    envelopes (envelope.h) of which the first segment is such a data frame. It is bound to IPv4, so
 *                      whatever else comes in IPv4 ends here too
 *   handshake socket   the frames of the other types
 *
 * The set of sessions is a hash map shared with the kernel, in which an eBPF program looks the frame's
 * session up. Where bpf(2) is not to be had (CAP_BPF is missing, or the kernel lacks it) a classic
 * filter does what can be done without a set: it separates the types.
 *
 * Belongs to the port's thread. */
#ifndef OR_PORT_FILTER_H
#define OR_PORT_FILTER_H

#include <stdint.h>

#include "port.h"

struct or_port_filter {
    int sessions_fd, state_fd; /* maps; -1: none, the filter is a classic one */
    struct or_filter_state *state;
    struct or_port_door door; /* types: without data frames, what the handshake socket gets */
};

/* AF_PACKET sockets. envelope_fd -1: there is none. */
struct or_port_filter_sockets {
    int data_fd, envelope_fd, handshake_fd;
    uint16_t ethertype; /* of the envelopes */
};

/* Attaches the filters to the sockets; the handshake socket gets frames of the door's types but DATA. 0 with an eBPF or
 * else a classic filter in place (filter->sessions_fd tells which); -errno when not even that is possible. */
int or_port_filter_open(struct or_port_filter *filter, const struct or_port_filter_sockets *sockets,
                        const struct or_port_door *door);
/* Attaches an open filter to other sockets as well: the set of sessions is the same. 0 or -errno. */
int or_port_filter_attach(const struct or_port_filter *filter, const struct or_port_filter_sockets *sockets);
/* The sockets stay as they are; safe on a filter that was not opened but is zeroed with descriptors -1. */
void or_port_filter_close(struct or_port_filter *filter);

/* For an envelope socket that has no filter yet, to be called before it is bound: envelopes of data frames of this
 * channel and any session, and nothing else. 0 or -errno. */
int or_port_filter_envelopes(int envelope_fd, uint16_t ethertype, uint8_t channel);

/* 0, -E2BIG when sessions_max are in the set, or another -errno of bpf(2). Always 0 with a classic filter. */
int or_port_filter_allow(struct or_port_filter *filter, uint32_t session);
void or_port_filter_disallow(struct or_port_filter *filter, uint32_t session);

/* Frames of our EtherType, and envelopes, to our address that no socket took. 0 with a classic filter. */
uint64_t or_port_filter_dropped(const struct or_port_filter *filter);

#endif
