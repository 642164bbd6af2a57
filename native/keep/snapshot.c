/* Messages between an engine and its supervisor's store. */
#include "snapshot.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define MAGIC 0x5045454bu /* "KEEP" */

union control {
    char bytes[CMSG_SPACE(sizeof(int) * OR_KEEP_FDS_MAX)];
    struct cmsghdr align;
};

bool or_keep_put_fd(struct or_keep_snapshot *s, int fd)
{
    if (s->fd_count == OR_KEEP_FDS_MAX)
        return false;
    s->fds[s->fd_count++] = fd;
    return true;
}

void or_keep_close_fds(struct or_keep_snapshot *s)
{
    for (uint32_t i = 0; i < s->fd_count; i++)
        if (s->fds[i] >= 0)
            close(s->fds[i]);
    s->fd_count = 0;
}

int or_keep_send(int sock, enum or_keep_type type, uint32_t id, const struct or_keep_snapshot *s)
{
    struct or_keep_header header = {.magic = MAGIC, .type = type, .id = id};
    union control control;
    struct iovec iov[2] = {{.iov_base = &header, .iov_len = sizeof(header)}};
    struct msghdr m = {.msg_iov = iov, .msg_iovlen = 1};
    if (s) {
        iov[1] = (struct iovec){.iov_base = (void *)(uintptr_t)s->bytes, .iov_len = s->length};
        m.msg_iovlen = 2;
    }
    if (s && s->fd_count > 0) {
        m.msg_control = control.bytes;
        m.msg_controllen = CMSG_SPACE(sizeof(int) * s->fd_count);
        memset(&control, 0, sizeof(control));
        struct cmsghdr *c = CMSG_FIRSTHDR(&m);
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN(sizeof(int) * s->fd_count);
        memcpy(CMSG_DATA(c), s->fds, sizeof(int) * s->fd_count);
    }
    if (sendmsg(sock, &m, MSG_DONTWAIT | MSG_NOSIGNAL) >= 0)
        return 0;
    return errno == EINTR ? -EAGAIN : -errno;
}

static void take_fds(struct or_keep_snapshot *s, struct msghdr *m)
{
    for (struct cmsghdr *c = CMSG_FIRSTHDR(m); c; c = CMSG_NXTHDR(m, c)) {
        if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
            continue;
        /* There is room: the control buffer holds no more than the snapshot. */
        size_t bytes = c->cmsg_len - CMSG_LEN(0);
        memcpy(&s->fds[s->fd_count], CMSG_DATA(c), bytes);
        s->fd_count += (uint32_t)(bytes / sizeof(int));
    }
}

static bool makes_sense(const struct or_keep_header *h, size_t received, const struct msghdr *m, uint32_t fd_count)
{
    if (received < sizeof(*h) || h->magic != MAGIC || (m->msg_flags & (MSG_TRUNC | MSG_CTRUNC)))
        return false;
    if (h->type == OR_KEEP_SNAPSHOT)
        return true;
    return (h->type == OR_KEEP_FORGET || h->type == OR_KEEP_END) && received == sizeof(*h) && fd_count == 0;
}

int or_keep_receive(int sock, struct or_keep_snapshot *s)
{
    struct or_keep_header header = {0};
    union control control;
    struct iovec iov[2] = {{.iov_base = &header, .iov_len = sizeof(header)},
                           {.iov_base = s->bytes, .iov_len = sizeof(s->bytes)}};
    struct msghdr m = {
        .msg_iov = iov, .msg_iovlen = 2, .msg_control = control.bytes, .msg_controllen = sizeof(control.bytes)};
    ssize_t n = recvmsg(sock, &m, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    /* A peer that died with messages of ours unread leaves this error once; what it sent is behind it. */
    if (n < 0 && errno == ECONNRESET) {
        m.msg_controllen = sizeof(control.bytes);
        n = recvmsg(sock, &m, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    }
    if (n < 0)
        return errno == EAGAIN || errno == EINTR ? 0 : -errno;
    s->fd_count = 0;
    take_fds(s, &m);
    /* A message of no bytes is the end: ours have a header. */
    if (n == 0 && s->fd_count == 0)
        return -ECONNRESET;
    if (!makes_sense(&header, (size_t)n, &m, s->fd_count)) {
        or_keep_close_fds(s);
        return -EPROTO;
    }
    s->id = header.id;
    s->length = (uint32_t)n - (uint32_t)sizeof(header);
    return (int)header.type;
}
