/* The sending side of a packet port: buffers of our own, in which frames are written, and the sockets that they
 * leave through, with one sendmmsg() per flush. The kernel copies the frames meanwhile, so the buffers are free again
 * at once. That is faster than a TX ring, which copies just as much.
 *
 *   plain socket      past the queueing discipline. Frames of tens of kilobytes would each need as much contiguous
 *                     kernel memory; with a virtio-net header in front, which says where the headers end, only the
 *                     beginning is contiguous
 *   envelope socket   for a batch in which frames travel in envelopes (envelope.h), with whatever else is in that
 *                     batch, so that the order stays. Not past the queueing discipline: there the kernel takes no
 *                     frame that it would have to cut itself
 *
 * A lone frame leaves through the plain socket, as if there were no envelopes. */
#ifndef OR_PORT_PACKET_TX_H
#define OR_PORT_PACKET_TX_H

#include "port.h"
#include "port_why.h"

struct or_packet_tx;

struct or_packet_tx_config {
    const char *ifname;
    uint32_t mtu;       /* of the largest frame */
    uint16_t ethertype; /* of envelopes */
    bool envelopes;
};

/* NULL: *err is -errno, with a sentence. */
struct or_packet_tx *or_packet_tx_open(const struct or_packet_tx_config *config, int *err, struct or_port_why why);
void or_packet_tx_close(struct or_packet_tx *tx);

/* As in or_port_ops. Counts into stats. */
uint8_t *or_packet_tx_alloc(struct or_packet_tx *tx, struct or_port_stats *stats);
void or_packet_tx_commit(struct or_packet_tx *tx, uint32_t length, enum or_tx_form form);
void or_packet_tx_flush(struct or_packet_tx *tx, struct or_port_stats *stats);

#endif
