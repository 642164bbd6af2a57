/* vhost-user messages as a front-end sends and receives them, with descriptors. */
#ifndef VHOST_MESSAGE_H
#define VHOST_MESSAGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include "frontend/vhost_proto.h"

#define VHOST_MESSAGE_FDS_MAX 64

static inline bool vhost_message_send(int sock, uint32_t request, uint32_t flags, const void *payload, uint32_t size,
                                      const int *fds, uint32_t fd_count)
{
    struct or_vu_header header = {.request = request, .flags = OR_VU_VERSION | flags, .size = size};
    struct iovec iov[2] = {{&header, sizeof(header)}, {(void *)(uintptr_t)payload, size}};
    char control[CMSG_SPACE(sizeof(int) * VHOST_MESSAGE_FDS_MAX)] __attribute__((aligned(8)));
    struct msghdr m = {.msg_iov = iov, .msg_iovlen = 2};
    if (fd_count) {
        m.msg_control = control;
        m.msg_controllen = CMSG_SPACE(sizeof(int) * fd_count);
        struct cmsghdr *c = CMSG_FIRSTHDR(&m);
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN(sizeof(int) * fd_count);
        memcpy(CMSG_DATA(c), fds, sizeof(int) * fd_count);
    }
    return sendmsg(sock, &m, MSG_NOSIGNAL) == (ssize_t)(sizeof(header) + size);
}

#define VHOST_MESSAGE_CLOSED (-1)
#define VHOST_MESSAGE_ALIEN (-2)

/* The answer to `request`: its payload's size; VHOST_MESSAGE_CLOSED when the connection was, or the socket's
 * time-out has passed (with MSG_DONTWAIT in `flags`: nothing is there); VHOST_MESSAGE_ALIEN when something else
 * came. *fd receives a descriptor, -1 without one; NULL: none is expected. QEMU sends the header and the payload of
 * an answer one after the other, so the second may not be there with the first. */
static inline int vhost_message_receive(int sock, int flags, uint32_t request, void *payload, uint32_t room, int *fd)
{
    struct or_vu_header header;
    char control[CMSG_SPACE(sizeof(int))] __attribute__((aligned(8)));
    struct iovec iov[2] = {{&header, sizeof(header)}, {payload, room}};
    struct msghdr m = {.msg_iov = iov, .msg_iovlen = 2, .msg_control = control, .msg_controllen = sizeof(control)};
    ssize_t n = recvmsg(sock, &m, MSG_CMSG_CLOEXEC | flags);
    if (n <= 0)
        return VHOST_MESSAGE_CLOSED;
    if (n == (ssize_t)sizeof(header) && header.size > 0 && header.size <= room) {
        ssize_t rest = recv(sock, payload, header.size, MSG_WAITALL | flags);
        n += rest > 0 ? rest : 0;
    }
    if (n < (ssize_t)sizeof(header) || n != (ssize_t)(sizeof(header) + header.size) || header.request != request ||
        header.flags != (OR_VU_VERSION | OR_VU_REPLY))
        return VHOST_MESSAGE_ALIEN;
    struct cmsghdr *c = CMSG_FIRSTHDR(&m);
    if (fd)
        *fd = -1;
    if (c && fd)
        memcpy(fd, CMSG_DATA(c), sizeof(int));
    return (int)header.size;
}

#endif
