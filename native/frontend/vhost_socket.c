/* Reading is incremental: the header is asked for first, then exactly its payload, so that bytes and
 * descriptors of the next message stay in the socket. Descriptors come with any part of a message. */
#include "vhost_socket.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define HEADER ((uint32_t)sizeof(struct or_vu_header))

void or_vhost_socket_init(struct or_vhost_socket *s, int fd)
{
    s->fd = fd;
    s->have = 0;
    s->fd_count = 0;
}

static void close_fds(struct or_vhost_socket *s)
{
    for (uint32_t i = 0; i < s->fd_count; i++)
        if (s->fds[i] >= 0)
            close(s->fds[i]);
    s->fd_count = 0;
}

void or_vhost_socket_leave(struct or_vhost_socket *s)
{
    close_fds(s);
    close(s->fd);
    s->fd = -1;
}

void or_vhost_socket_close(struct or_vhost_socket *s)
{
    shutdown(s->fd, SHUT_RDWR);
    or_vhost_socket_leave(s);
}

/* Keeps the descriptors of one control message, closing those for which there is no room. */
static bool keep_fds(struct or_vhost_socket *s, const struct cmsghdr *c)
{
    if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
        return true;
    size_t count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    bool all = true;
    for (size_t i = 0; i < count; i++) {
        int fd;
        memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof(fd));
        if (s->fd_count < OR_VU_FDS_MAX) {
            s->fds[s->fd_count++] = fd;
        } else {
            close(fd);
            all = false;
        }
    }
    return all;
}

static int read_some(struct or_vhost_socket *s, void *to, uint32_t length)
{
    union {
        char bytes[CMSG_SPACE(sizeof(int) * OR_VU_FDS_MAX)];
        struct cmsghdr align;
    } control;
    struct iovec iov = {.iov_base = to, .iov_len = length};
    struct msghdr m = {
        .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control.bytes, .msg_controllen = sizeof(control)};
    ssize_t n = recvmsg(s->fd, &m, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    if (n < 0)
        return errno == EINTR ? -EAGAIN : -errno;
    bool all = !(m.msg_flags & MSG_CTRUNC);
    for (struct cmsghdr *c = CMSG_FIRSTHDR(&m); c; c = CMSG_NXTHDR(&m, c))
        all = keep_fds(s, c) && all;
    if (n == 0)
        return -ECONNRESET;
    return all ? (int)n : -EPROTO;
}

static bool header_valid(const struct or_vu_header *h)
{
    return (h->flags & OR_VU_VERSION_MASK) == OR_VU_VERSION && !(h->flags & OR_VU_REPLY) &&
           h->size <= sizeof(((struct or_vu_message *)0)->payload);
}

int or_vhost_socket_read(struct or_vhost_socket *s)
{
    struct or_vu_header *h = &s->message.header;
    while (s->have < HEADER || s->have < HEADER + h->size) {
        bool in_header = s->have < HEADER;
        uint8_t *to = in_header ? (uint8_t *)h + s->have : (uint8_t *)&s->message.payload + (s->have - HEADER);
        int n = read_some(s, to, (in_header ? HEADER : HEADER + h->size) - s->have);
        if (n < 0)
            return n == -EAGAIN ? 0 : n;
        s->have += (uint32_t)n;
        if (s->have == HEADER && !header_valid(h))
            return -EPROTO;
    }
    return 1;
}

void or_vhost_socket_next(struct or_vhost_socket *s)
{
    close_fds(s);
    s->have = 0;
}

int or_vhost_socket_take_fd(struct or_vhost_socket *s, uint32_t index)
{
    if (index >= s->fd_count)
        return -1;
    int fd = s->fds[index];
    s->fds[index] = -1;
    return fd;
}

int or_vhost_socket_reply(struct or_vhost_socket *s, uint32_t request, const void *payload, uint32_t size, int fd)
{
    struct or_vu_header header = {.request = request, .flags = OR_VU_VERSION | OR_VU_REPLY, .size = size};
    union {
        char bytes[CMSG_SPACE(sizeof(int))];
        struct cmsghdr align;
    } control;
    struct iovec iov[2] = {{.iov_base = &header, .iov_len = sizeof(header)},
                           {.iov_base = (void *)(uintptr_t)payload, .iov_len = size}};
    struct msghdr m = {.msg_iov = iov, .msg_iovlen = 2};
    if (fd >= 0) {
        m.msg_control = control.bytes;
        m.msg_controllen = sizeof(control.bytes);
        struct cmsghdr *c = CMSG_FIRSTHDR(&m);
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN(sizeof(int));
        memcpy(CMSG_DATA(c), &fd, sizeof(fd));
    }
    ssize_t n = sendmsg(s->fd, &m, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (n < 0)
        return -errno;
    return (size_t)n == sizeof(header) + size ? 0 : -EAGAIN;
}
