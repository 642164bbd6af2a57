/* An AF_XDP socket: memory that is shared with the kernel, and the rings through which its pieces go back and
 * forth.
 *
 *     us  ── fill ring ──>        kernel     chunks that it may write frames into
 *     us  <── receive ring ──     kernel     frames, in one chunk or several
 *     us  ── send ring ──>        kernel     frames
 *     us  <── completion ring ──  kernel     chunks that have been sent
 *
 * The memory is cut into chunks of 4 KiB. A frame that is larger spans several. To send, that costs nothing: the
 * chunks of one buffer lie behind one another. In received ones the kernel keeps a part of every chunk to itself,
 * so a frame of several pieces is copied together.
 *
 * Where the driver can, it writes and reads these chunks itself (zero-copy); else the kernel copies.
 *
 * Belongs to the port's thread. */
#ifndef OR_PORT_XDP_SOCKET_H
#define OR_PORT_XDP_SOCKET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "port.h"

#define OR_XDP_SEND_FRAMES 64u

struct or_xdp_ring {
    uint32_t *producer, *consumer, *flags; /* shared with the kernel */
    void *entries;
    uint32_t mask;
    uint32_t next; /* ours: of the entry that we take or fill next */
    void *memory;
    size_t bytes;
};

struct or_xdp_socket {
    int fd; /* -1: closed */
    bool zero_copy;
    uint32_t frame_max;  /* bytes of the largest frame */
    uint32_t rx_chunks;  /* they come first in the memory */
    uint32_t tx_pieces;  /* chunks of a send buffer */
    uint32_t tx_buffers; /* 0: it only receives */
    uint8_t *memory;
    size_t bytes;
    struct or_xdp_ring fill, rx, tx, completion;
    uint8_t *joined; /* a received frame that came in pieces */

    uint32_t free_count;
    uint8_t free[OR_XDP_SEND_FRAMES];   /* send buffers, the one to take last */
    uint8_t pieces[OR_XDP_SEND_FRAMES]; /* under way, of each send buffer */
    bool taken;                         /* send buffer `open` is being filled */
    uint8_t open;
    uint32_t unsent;            /* of the send ring: from here on the kernel may not have taken what is there */
    uint32_t batch;             /* frames since the last flush */
    uint8_t *spare;             /* a send buffer that goes nowhere, for when there is no other */
    struct or_port_stats stats; /* without what only the kernel knows */
};

struct or_xdp_socket_config {
    uint32_t ifindex, queue;
    uint32_t frame_max; /* bytes of the largest frame */
    uint32_t rx_frames; /* so many of these the receive memory holds at least */
    bool send;          /* frames can be sent too */
    bool copy;          /* no zero-copy, whatever the driver can */
};

/* Binds to the queue; frames arrive only through a program (port_xdp_program.h). 0; -EBUSY when another socket has the
 * queue; -ENOBUFS when the process may not lock so much memory; -EOPNOTSUPP when this kernel cannot take frames of
 * several chunks; or another -errno. On failure *socket is closed. */
int or_xdp_socket_open(struct or_xdp_socket *socket, const struct or_xdp_socket_config *config);
/* Whether a frame of so many bytes comes in several chunks. */
bool or_xdp_socket_is_large(uint32_t frame_bytes);
/* Safe on a socket that is closed. */
void or_xdp_socket_close(struct or_xdp_socket *socket);

/* As in port.h. */
uint32_t or_xdp_socket_receive(struct or_xdp_socket *socket, uint32_t max, or_rx_fn *fn, void *arg);

/* As in port.h; never NULL: a frame for which there is no buffer is dropped and counted. */
uint8_t *or_xdp_socket_tx_alloc(struct or_xdp_socket *socket);
void or_xdp_socket_tx_commit(struct or_xdp_socket *socket, uint32_t length);
void or_xdp_socket_tx_flush(struct or_xdp_socket *socket);

/* Since the socket was opened; rx_dropped: frames that found no room, or were too large. Received ones are the port's
 * to count. */
struct or_port_stats or_xdp_socket_stats(const struct or_xdp_socket *socket);

#endif
