/* The vhost-user socket: whole messages out of a stream that may stop anywhere, and replies. Never
 * blocks. */
#ifndef OR_VHOST_SOCKET_H
#define OR_VHOST_SOCKET_H

#include <stdbool.h>

#include "vhost_proto.h"

struct or_vhost_socket {
    int fd;        /* owned */
    uint32_t have; /* bytes of the message under way: header first, then payload */
    uint32_t fd_count;
    int fds[OR_VU_FDS_MAX]; /* passed with it; those not taken are closed by or_vhost_socket_next */
    struct or_vu_message message;
};

/* Takes ownership of a connected, non-blocking socket. */
void or_vhost_socket_init(struct or_vhost_socket *s, int fd);
/* Ends the connection, whoever else holds a duplicate of it. */
void or_vhost_socket_close(struct or_vhost_socket *s);
/* Closes our descriptor only: the connection lives on in its duplicates. */
void or_vhost_socket_leave(struct or_vhost_socket *s);

/* Reads on. 1: s->message and s->fds are complete; 0: no more for now; -ECONNRESET: the peer closed;
 * -EPROTO: what came is no vhost-user message, or more descriptors than allowed; other -errno. */
int or_vhost_socket_read(struct or_vhost_socket *s);
/* Ends the message, so that the next can be read. */
void or_vhost_socket_next(struct or_vhost_socket *s);
/* The index-th descriptor passes to the caller; -1 when there is none. */
int or_vhost_socket_take_fd(struct or_vhost_socket *s, uint32_t index);

/* Sends a reply to `request`; fd -1: none is passed (it stays the caller's). 0 or -errno; a peer that
 * does not read its replies gets -EAGAIN. */
int or_vhost_socket_reply(struct or_vhost_socket *s, uint32_t request, const void *payload, uint32_t size, int fd);

#endif
